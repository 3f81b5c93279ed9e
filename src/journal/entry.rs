//! What is kept of one MOVE, and how it is written down.

use crate::imap::{Intent, Owner, Unfinished};
use nom::bytes::complete::tag;
use nom::combinator::{all_consuming, cond, flat_map, map_opt};
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u32, be_u64};
use nom::{IResult, Parser};
use std::time::{Duration, SystemTime};

/// A MOVE that nobody has finished after this time is given up: too much may have changed.
pub const EXPIRY: Duration = Duration::from_secs(60 * 60);
/// Of a mailbox's name, or of what is wrong with a file, in the log.
pub const SHOWN: usize = 200;
/// Of a MOVE's UIDs in the log, in octets.
pub const SHOWN_UIDS: usize = 1000;
/// The first octet of what is written. Another one is another program's.
const FORMAT: u8 = 1;

/// One MOVE in the journal: the user, two mailboxes and UIDs; never a credential or a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The server, as the setting names it.
    pub upstream: String,
    /// Whose it is, and what was asked for.
    pub intent: Intent,
    /// How far it had come.
    pub state: State,
    /// When that was, in seconds since 1970.
    pub at: u64,
}

/// How far a MOVE had come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// COPY may have been sent.
    Intent,
    /// The copies are there, STORE may have been sent. With the COPYUID line, if one line proves them all.
    Copied(Option<Vec<u8>>),
    /// The copies may have been removed again.
    Undo,
}

/// The first and the last of each range of its UIDs, which ascend.
fn ranges(intent: &Intent) -> impl Iterator<Item = (u64, u64)> {
    intent.uids.split(',').filter_map(|part| {
        let (first, last) = part.split_once(':').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    })
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Entry {
    /// Why nobody may finish this MOVE any more, by its name in metrics.
    pub fn given_up(&self, now: u64) -> Option<&'static str> {
        match self.state {
            State::Undo => Some("undo"),
            _ if self.unfinished(0).is_none() => Some("unproven"),
            // In both directions: a clock that was set does not make a record eternal.
            _ => (self.at.abs_diff(now) > EXPIRY.as_secs()).then_some("expired"),
        }
    }

    /// What a later session needs to finish it, if all of that is known.
    pub fn unfinished(&self, id: u64) -> Option<Unfinished> {
        let State::Copied(Some(copyuid)) = &self.state else { return None };
        Some(Unfinished {
            id,
            source: self.intent.source.clone()?,
            source_validity: self.intent.source_validity?,
            target: self.intent.target.clone(),
            copyuid: copyuid.clone(),
        })
    }

    /// How many messages it was about.
    pub fn messages(&self) -> u64 {
        ranges(&self.intent).map(|(first, last)| first.abs_diff(last) + 1).sum()
    }

    /// Whether that MOVE is about one of its messages, in the same mailbox of the same user.
    pub fn shares_messages(&self, with: &Intent) -> bool {
        fn place(of: &Intent) -> (&Owner, Option<&[u8]>, Option<u32>) {
            (&of.owner, of.source_identity(), of.source_validity)
        }
        if place(&self.intent) != place(with) {
            return false;
        }
        let (mut ours, mut theirs) = (ranges(&self.intent).peekable(), ranges(with).peekable());
        while let (Some((first, last)), Some((from, to))) = (ours.peek(), theirs.peek()) {
            match (last < from, to < first) {
                (true, _) => drop(ours.next()),
                (_, true) => drop(theirs.next()),
                _ => return true,
            }
        }
        false
    }

    /// How large it is, about.
    pub fn octets(&self) -> usize {
        // Lengths, times and the checksum.
        const NUMBERS: usize = 64;
        let copyuid = if let State::Copied(Some(copyuid)) = &self.state { copyuid.len() } else { 0 };
        let Intent { owner, source, target, uids, .. } = &self.intent;
        let names = owner.user.len() + source.as_ref().map_or(0, Vec::len) + target.len();
        self.upstream.len() + names + uids.len() + copyuid + NUMBERS
    }

    /// As it is written: its octets, with a checksum behind them.
    pub fn encode(&self) -> Vec<u8> {
        let (state, copyuid) = match &self.state {
            State::Intent => (0, None),
            State::Copied(copyuid) => (1, copyuid.as_deref()),
            State::Undo => (2, None),
        };
        let Intent { owner, source, source_validity, target, uids } = &self.intent;
        let mut octets = vec![FORMAT, state, owner.utf8.into()];
        octets.extend(self.at.to_be_bytes());
        for text in [self.upstream.as_bytes(), &owner.user, target, uids.as_bytes()] {
            put(&mut octets, text);
        }
        let validity = source_validity.map(u32::to_be_bytes);
        for maybe in [source.as_deref(), copyuid, validity.as_ref().map(<[u8; 4]>::as_slice)] {
            octets.push(maybe.is_some().into());
            maybe.into_iter().for_each(|text| put(&mut octets, text));
        }
        octets.extend(crc32fast::hash(&octets).to_be_bytes());
        octets
    }

    /// The entry that was written so; none, if a single octet is not as it was.
    pub fn decode(octets: &[u8]) -> Option<Entry> {
        let (octets, sum) = octets.split_last_chunk()?;
        (crc32fast::hash(octets) == u32::from_be_bytes(*sum)).then_some(())?;
        all_consuming(entry).parse(octets).ok().map(|(_, entry)| entry)
    }
}

fn put(octets: &mut Vec<u8>, text: &[u8]) {
    octets.extend(u32::try_from(text.len()).expect("no text of a MOVE has 4 GiB").to_be_bytes());
    octets.extend(text);
}

fn entry(input: &[u8]) -> IResult<&[u8], Entry> {
    let bytes = || length_data(be_u32).map(<[u8]>::to_vec);
    let text = || map_opt(bytes(), |text| String::from_utf8(text).ok());
    let maybe = || flat_map(be_u8, move |there| cond(there == 1, bytes()));
    let validity = map_opt(maybe(), |validity| match validity {
        Some(octets) => Some(Some(u32::from_be_bytes(octets.try_into().ok()?))),
        None => Some(None),
    });
    let (input, (_, state, utf8, at)) = (tag(&[FORMAT][..]), be_u8, be_u8, be_u64).parse(input)?;
    let (input, (upstream, user, target, uids)) = (text(), bytes(), bytes(), text()).parse(input)?;
    let (input, (source, copyuid, source_validity)) = (maybe(), maybe(), validity).parse(input)?;
    let state = match state {
        0 => State::Intent,
        1 => State::Copied(copyuid),
        _ => State::Undo,
    };
    let owner = Owner { user, utf8: utf8 == 1 };
    let intent = Intent { owner, source, source_validity, target, uids };
    Ok((input, Entry { upstream, intent, state, at }))
}

/// A mailbox's name for the log: escaped, and cut.
pub fn shown(mailbox: &[u8]) -> String {
    let cut = if mailbox.len() > SHOWN { "..." } else { "" };
    format!("{}{cut}", mailbox[..mailbox.len().min(SHOWN)].escape_ascii())
}

/// A set of UIDs for the log: cut behind a range.
pub fn shown_uids(uids: &str) -> String {
    match uids.get(..SHOWN_UIDS).and_then(|cut| cut.rfind(',')).filter(|_| uids.len() > SHOWN_UIDS) {
        Some(end) => format!("{},...", &uids[..end]),
        None => uids.to_owned(),
    }
}

/// How the log names the mailboxes of a MOVE, from and to.
pub fn shown_mailboxes(intent: &Intent) -> (String, String) {
    let source = intent.source.as_deref().map_or("(unknown)".to_owned(), shown);
    (source, shown(&intent.target))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A MOVE of alice's, copied just now.
    pub fn copied() -> Entry {
        let intent = Intent {
            owner: Owner { user: b"alice".into(), utf8: false },
            source: Some(b"INBOX".into()),
            source_validity: Some(7),
            target: b"Archive".into(),
            uids: "2,4:5".into(),
        };
        let state = State::Copied(Some(b"* OK [COPYUID 9 2,4:5 1:3] Moved\r\n".into()));
        Entry { upstream: "127.0.0.1:143".into(), intent, state, at: now() }
    }

    #[test]
    fn fault_4_what_was_written_is_read_again() {
        let whole = copied();
        let mut little = Entry { state: State::Intent, ..copied() };
        (little.intent.source, little.intent.source_validity) = (None, None);
        little.intent.owner.utf8 = true;
        let undo = Entry { state: State::Undo, ..copied() };
        let unproven = Entry { state: State::Copied(None), ..copied() };
        for entry in [whole, little, undo, unproven] {
            assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        }
    }

    #[test]
    fn fault_4_no_changed_octet_is_believed() {
        let octets = copied().encode();
        for place in 0..octets.len() {
            for mask in [1, 0x80, 0xff] {
                let mut changed = octets.clone();
                changed[place] ^= mask;
                assert_eq!(Entry::decode(&changed), None, "octet {place} with {mask:#x}");
            }
            assert_eq!(Entry::decode(&octets[..place]), None, "the first {place} octets");
        }
    }

    #[test]
    fn fault_4_only_what_is_proved_and_fresh_can_be_finished() {
        let now = now();
        let hour = EXPIRY.as_secs();
        let with = |change: &dyn Fn(&mut Entry)| {
            let mut entry = copied();
            change(&mut entry);
            entry.given_up(now)
        };
        assert_eq!(with(&|_| ()), None);
        assert_eq!(with(&|e| e.at = now - hour), None);
        assert_eq!(with(&|e| e.at = now - hour - 1), Some("expired"));
        assert_eq!(with(&|e| e.at = now + hour + 1), Some("expired"));
        assert_eq!(with(&|e| e.state = State::Intent), Some("unproven"));
        assert_eq!(with(&|e| e.state = State::Copied(None)), Some("unproven"));
        assert_eq!(with(&|e| e.intent.source = None), Some("unproven"));
        assert_eq!(with(&|e| e.intent.source_validity = None), Some("unproven"));
        assert_eq!(with(&|e| e.state = State::Undo), Some("undo"));
    }

    #[test]
    fn messages_are_counted_and_names_are_cut() {
        assert_eq!(copied().messages(), 3);
        assert_eq!(shown(b"a\x1b[2Jb"), "a\\x1b[2Jb");
        assert_eq!(shown(&[b'x'; 201]), format!("{}...", "x".repeat(200)));
        assert_eq!(shown_uids("2,4:5"), "2,4:5");
        let many = |count| vec!["1234:5678"; count].join(",");
        assert_eq!(shown_uids(&many(100)), many(100), "999 octets");
        assert_eq!(shown_uids(&many(101)), format!("{},...", many(100)));
    }
}
