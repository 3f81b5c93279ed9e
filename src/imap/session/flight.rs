//! Commands of the gateway's own that are on their way: their tags, their continuations, their replies.

use crate::imap::command::Tag;
use crate::imap::own_command::{Flight, Purpose};
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

/// Octets of one command, up to the next continuation or to its end.
#[derive(Debug)]
struct Part {
    command: usize,
    octets: Vec<u8>,
    waits: bool,
}

/// A flight that is not answered as a whole.
#[derive(Debug)]
pub struct InFlight {
    sent: Vec<Sent>,
    unwritten: VecDeque<Part>,
    /// The command whose next part waits for `+`.
    waiting: Option<usize>,
    unanswered: usize,
    oldest_unanswered: usize,
}

impl InFlight {
    /// Gives each command its tag and writes as far as no continuation is awaited.
    pub fn launch(flight: Flight, tags: &mut OwnTags, out: &mut Vec<u8>) -> InFlight {
        let mut launched = InFlight {
            unanswered: flight.len(),
            sent: Vec::new(),
            unwritten: VecDeque::new(),
            waiting: None,
            oldest_unanswered: 0,
        };
        for (command, own) in flight.into_iter().enumerate() {
            let tag = tags.next();
            let mut octets = format!("{} ", tag.0).into_bytes();
            let parts = own.parts.len();
            for (at, part) in own.parts.into_iter().enumerate() {
                octets.extend(part);
                octets.extend_from_slice(b"\r\n");
                let waits = at + 1 < parts;
                launched.unwritten.push_back(Part { command, octets: std::mem::take(&mut octets), waits });
            }
            launched.sent.push(Sent { tag, purpose: own.purpose, answered: false });
        }
        launched.write(out);
        launched
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        while self.waiting.is_none() {
            let Some(part) = self.unwritten.pop_front() else { return };
            out.extend(part.octets);
            self.waiting = part.waits.then_some(part.command);
        }
    }

    /// `+` came. False if no part waited for it.
    pub fn continued(&mut self, out: &mut Vec<u8>) -> bool {
        let awaited = self.waiting.take().is_some();
        self.write(out);
        awaited
    }

    /// A tagged reply came: the purpose of the command, if it is one of these.
    pub fn answered(&mut self, tag: &[u8], out: &mut Vec<u8>) -> Option<Purpose> {
        let from = self.oldest_unanswered;
        let written = self.unwritten.front().map_or(self.sent.len(), |part| part.command + 1);
        let at =
            from + self.sent[from..written].iter().position(|s| !s.answered && s.tag.0.as_bytes() == tag)?;
        self.sent[at].answered = true;
        self.unanswered -= 1;
        while self.sent.get(self.oldest_unanswered).is_some_and(|s| s.answered) {
            self.oldest_unanswered += 1;
        }
        if self.waiting == Some(at) {
            // Refused instead of continued: the rest of that command is never written.
            self.unwritten.retain(|part| part.command != at);
            self.waiting = None;
            self.write(out);
        }
        Some(self.sent[at].purpose)
    }

    /// Whether every command is answered.
    pub fn has_landed(&self) -> bool {
        self.unanswered == 0
    }

    /// Whether a command of this purpose is in it.
    pub fn asks(&self, purpose: Purpose) -> bool {
        self.sent.iter().any(|sent| sent.purpose == purpose)
    }
}
