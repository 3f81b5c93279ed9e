//! Client commands as far as the gateway looks, and the commands that it writes of its own.

use super::capability::{Capabilities, Uidplus};
use super::grammar;
use super::sequence::{NumberSet, SequenceSet, UidSet};
use super::translation::Copied;
use std::fmt;

/// A client's tag: its octets. It is moved into the one tagged reply that it gets.
#[derive(Clone, PartialEq, Eq)]
pub struct Tag(pub(super) Box<[u8]>);

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// A mailbox name, and how it goes upstream: the same octets in a legal encoding (MOVE-1).
#[derive(Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// The name itself.
    pub(super) octets: Vec<u8>,
    pub(super) wire: Wire,
}

/// The encoding of a mailbox name.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Wire {
    /// An atom or a quoted string, as the client wrote it.
    AsSent(Vec<u8>),
    /// Only a literal can carry it.
    Literal,
}

impl Mailbox {
    /// What came as a literal goes as a quoted string if that can carry it, else as a literal.
    pub(super) fn from_literal(octets: Vec<u8>) -> Mailbox {
        let quotable = octets.iter().all(|c| (b' '..0x7f).contains(c));
        let wire = if quotable { Wire::AsSent(quote(&octets)) } else { Wire::Literal };
        Mailbox { octets, wire }
    }

    /// The name by which two spellings of a mailbox are known to be one: INBOX has no case.
    pub(super) fn identity(&self) -> Vec<u8> {
        if self.octets.eq_ignore_ascii_case(b"INBOX") { b"INBOX".to_vec() } else { self.octets.clone() }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}

fn quote(octets: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for c in octets {
        if b"\"\\".contains(c) {
            quoted.push(b'\\');
        }
        quoted.push(*c);
    }
    quoted.push(b'"');
    quoted
}

/// `MOVE` counts messages, `UID MOVE` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Sequence numbers.
    Sequence,
    /// UIDs.
    Uid,
}

/// A MOVE that a client asked for (RFC 6851 section 3).
#[derive(Clone, Debug)]
pub struct MoveCommand {
    pub(super) form: Form,
    pub(super) set: SequenceSet,
    pub(super) target: Mailbox,
}

impl MoveCommand {
    /// Reads the command from behind `MOVE`; `None` if it is malformed.
    pub(super) fn parse(form: Form, arguments: &[u8]) -> Option<MoveCommand> {
        grammar::move_arguments(arguments).map(|(set, target)| MoveCommand { form, set, target })
    }
}

/// What a command of the gateway's own is for: its reply is known by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Capability,
    StartTls,
    Rights,
    ResolveNumbers,
    ResolveSaved,
    List,
    SearchDeleted,
    /// The COPY of the chunk with this index.
    Copy(usize),
    Store,
    Expunge,
    SearchLeft,
    FetchFlags,
}

/// A command of the gateway's own, without its tag and without the CR LF at its end. Between two parts it
/// waits for a continuation.
#[derive(Debug)]
pub(super) struct OwnCommand {
    pub purpose: Purpose,
    pub parts: Vec<Vec<u8>>,
}

impl OwnCommand {
    pub fn new(purpose: Purpose, text: impl Into<Vec<u8>>) -> OwnCommand {
        OwnCommand { purpose, parts: vec![text.into()] }
    }

    fn with_mailbox(
        purpose: Purpose,
        text: &str,
        mailbox: &Mailbox,
        capabilities: &Capabilities,
    ) -> OwnCommand {
        let mut head = text.as_bytes().to_vec();
        let octets = &mailbox.octets;
        match &mailbox.wire {
            Wire::AsSent(raw) => head.extend_from_slice(raw),
            Wire::Literal if capabilities.allows_non_synchronising(octets.len() as u64) => {
                head.extend_from_slice(format!("{{{}+}}\r\n", octets.len()).as_bytes());
                head.extend_from_slice(octets);
            }
            Wire::Literal => {
                head.extend_from_slice(format!("{{{}}}", octets.len()).as_bytes());
                return OwnCommand { purpose, parts: vec![head, octets.clone()] };
            }
        }
        OwnCommand::new(purpose, head)
    }
}

/// Commands that are written together; the next flight waits for the replies to all of them.
pub(super) type Flight = Vec<OwnCommand>;

/// Room for a tag, SP, the longest command words and CR LF.
const OVERHEAD: usize = 60;
/// However long the mailbox name is, this much of a line is left to the set.
const LEAST_SET: usize = 100;

/// Writes the gateway's own commands, none longer than the limit (MOVE-8).
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub max_line: usize,
    pub capabilities: Capabilities,
}

impl Writer {
    fn room(&self, also: usize) -> usize {
        self.max_line.saturating_sub(OVERHEAD + also).max(LEAST_SET)
    }

    fn each(&self, set: &UidSet, purpose: Purpose, text: impl Fn(&UidSet) -> String) -> Flight {
        set.chunks(self.room(0)).iter().map(|chunk| OwnCommand::new(purpose, text(chunk))).collect()
    }

    /// `FETCH numbers (UID)`: the one command that may name sequence numbers, and the first of a MOVE.
    pub fn resolve(&self, numbers: &NumberSet) -> Flight {
        let fetch = |n| OwnCommand::new(Purpose::ResolveNumbers, format!("FETCH {n} (UID)"));
        numbers.chunks(self.room(0)).iter().map(fetch).collect()
    }

    /// `MYRIGHTS mailbox` (RFC 4314).
    pub fn rights(&self, mailbox: &Mailbox) -> OwnCommand {
        OwnCommand::with_mailbox(Purpose::Rights, "MYRIGHTS ", mailbox, &self.capabilities)
    }

    /// `UID FETCH set (UID)`: which messages there are, at which sequence numbers.
    pub fn list(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::List, |s| format!("UID FETCH {s} (UID)"))
    }

    /// `UID SEARCH UID set DELETED`: which had the flag before the gateway set it.
    pub fn search_deleted(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::SearchDeleted, |s| format!("UID SEARCH UID {s} DELETED"))
    }

    /// The parts of the set that are copied one by one.
    pub fn copy_chunks(&self, set: &UidSet, target: &Mailbox) -> Vec<UidSet> {
        set.chunks(self.room(target.octets.len() * 2))
    }

    /// `UID COPY chunk target`.
    pub fn copy(&self, index: usize, chunk: &UidSet, target: &Mailbox) -> OwnCommand {
        OwnCommand::with_mailbox(
            Purpose::Copy(index),
            &format!("UID COPY {chunk} "),
            target,
            &self.capabilities,
        )
    }

    /// `UID STORE copied +FLAGS.SILENT (\Deleted)`: only what an accepted COPY has named.
    pub fn store(&self, copied: &Copied) -> Flight {
        self.each(copied.uids(), Purpose::Store, |s| format!("UID STORE {s} +FLAGS.SILENT (\\Deleted)"))
    }

    /// `UID EXPUNGE copied`: never a bare EXPUNGE, and only what an accepted COPY has named.
    pub fn expunge(&self, _has: Uidplus, copied: &Copied) -> Flight {
        self.each(copied.uids(), Purpose::Expunge, |s| format!("UID EXPUNGE {s}"))
    }

    /// `UID SEARCH UID set`: which are still there.
    pub fn search(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::SearchLeft, |s| format!("UID SEARCH UID {s}"))
    }

    /// `UID FETCH set (UID FLAGS)`: for the client, of messages that stay (MOVE-10).
    pub fn fetch_flags(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::FetchFlags, |s| format!("UID FETCH {s} (UID FLAGS)"))
    }
}
