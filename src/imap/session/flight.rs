//! Commands of the gateway's own that are on their way: their tags, their continuations, their replies.

use crate::imap::command::Tag;
use crate::imap::own_command::{Flight, OwnCommand, Purpose};
use std::collections::VecDeque;

/// Hands out the gateway's tags: `m`, a letter that no tag of the client's has had behind an `m`, and a number. So
/// they are never the client's (WIRE-6).
#[derive(Debug, Default)]
pub struct OwnTags {
    last: u64,
    /// A bit for each letter.
    used_by_client: u32,
}

impl OwnTags {
    /// The client has used this tag.
    pub fn avoid(&mut self, tag: &Tag) {
        if let [b'm' | b'M', letter, ..] = *tag.0
            && letter.is_ascii_alphabetic()
        {
            self.used_by_client |= 1 << (letter.to_ascii_lowercase() - b'a');
        }
    }

    fn next(&mut self) -> OwnTag {
        self.last += 1;
        let free = |letter: &u8| self.used_by_client & (1 << (letter - b'a')) == 0;
        // A client that has used up the alphabet has no command in progress that begins like this.
        let letter =
            (b'v'..=b'z').chain(b'a'..=b'u').find(free).map_or("--".into(), |c| char::from(c).to_string());
        OwnTag(format!("m{letter}{}", self.last))
    }
}

impl OwnTags {
    /// A whole LOGOUT command, for the end of a session whose client is gone.
    pub fn logout(&mut self) -> String {
        format!("{} LOGOUT\r\n", self.next().0)
    }
}

/// A tag of the gateway's own. There is no way from a [`Tag`] to it.
#[derive(Debug, PartialEq, Eq)]
struct OwnTag(String);

#[derive(Debug)]
struct Sent {
    tag: OwnTag,
    purpose: Purpose,
    answered: bool,
}

/// A flight that is not answered as a whole.
#[derive(Debug)]
pub struct InFlight {
    sent: Vec<Sent>,
    /// The last ones of `sent`.
    unwritten: VecDeque<OwnCommand>,
    /// The command whose literal waits for `+`.
    waiting: Option<(usize, Vec<u8>)>,
    /// The literal whose `+` has come, until there is room for it.
    literal: Option<Vec<u8>>,
    unanswered: usize,
    oldest_unanswered: usize,
    /// The purpose of the command that was answered last of all, and whether with OK.
    last: Option<(Purpose, bool)>,
}

impl InFlight {
    /// Gives each command its tag. None is written yet.
    pub fn launch(flight: Flight, tags: &mut OwnTags) -> InFlight {
        let sent = |own: &OwnCommand| Sent { tag: tags.next(), purpose: own.purpose, answered: false };
        InFlight {
            unanswered: flight.len(),
            sent: flight.iter().map(sent).collect(),
            unwritten: flight.into(),
            waiting: None,
            literal: None,
            oldest_unanswered: 0,
            last: None,
        }
    }

    /// The next octets to be written, if no continuation is awaited.
    pub fn next_octets(&mut self) -> Option<Vec<u8>> {
        if let Some(literal) = self.literal.take() {
            return Some([&literal[..], b"\r\n"].concat());
        }
        if self.waiting.is_some() {
            return None;
        }
        let at = self.written();
        let own = self.unwritten.pop_front()?;
        let tag = &self.sent[at].tag.0;
        let octets = [tag.as_bytes(), b" ", &own.text(), b"\r\n"].concat();
        self.waiting = own.literal.map(|literal| (at, literal));
        Some(octets)
    }

    /// How many commands are written, or have been begun.
    fn written(&self) -> usize {
        self.sent.len() - self.unwritten.len()
    }

    /// `+` came. False if no command waited for it.
    pub fn continued(&mut self) -> bool {
        let Some((_, literal)) = self.waiting.take() else { return false };
        self.literal = Some(literal);
        true
    }

    /// A tagged reply came: the purpose of the command, if it is one of these.
    pub fn answered(&mut self, tag: &[u8], accepted: bool) -> Option<Purpose> {
        let (from, written) = (self.oldest_unanswered, self.written());
        let at =
            from + self.sent[from..written].iter().position(|s| !s.answered && s.tag.0.as_bytes() == tag)?;
        self.sent[at].answered = true;
        self.unanswered -= 1;
        while self.sent.get(self.oldest_unanswered).is_some_and(|s| s.answered) {
            self.oldest_unanswered += 1;
        }
        // Refused instead of continued: the rest of that command is never written.
        self.waiting.take_if(|(command, _)| *command == at);
        let purpose = self.sent[at].purpose;
        self.last = (self.unanswered == 0).then_some((purpose, accepted));
        Some(purpose)
    }

    /// If every command is answered: the purpose of the one that was the last, and whether with OK.
    pub fn landed(&self) -> Option<(Purpose, bool)> {
        self.last
    }

    /// Whether a command of this purpose is in it.
    pub fn asks(&self, purpose: Purpose) -> bool {
        self.sent.iter().any(|sent| sent.purpose == purpose)
    }
}
