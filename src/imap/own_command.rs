//! The commands that the gateway writes of its own. STORE and UID EXPUNGE can be written for nothing that is not
//! proved to be copied.

use super::capability::{Capabilities, Uidplus};
use super::mailbox::{Mailbox, Wire};
use super::proof::Doubled;
use super::selected::ReadOnly;
use super::sequence::{NumberSet, UidSet};

/// What a command of the gateway's own is for: its reply is known by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Capability,
    StartTls,
    Introduce,
    Rights,
    ResolveNumbers,
    ResolveSaved,
    List,
    SearchDeleted,
    /// The COPY of the chunk with this index.
    Copy(usize),
    Store,
    Expunge,
    Noop,
    SearchLeft,
    FetchFlags,
    Unflag,
    /// SELECT or EXAMINE.
    Open,
    Describe,
    Close,
}

/// A command of the gateway's own, without its tag and without the CR LF at its end.
#[derive(Debug)]
pub(super) struct OwnCommand {
    pub purpose: Purpose,
    before_set: &'static str,
    /// A flight holds sets and not their texts: together those are as long as what the client asked for, several times.
    set: Option<UidSet>,
    behind_set: Vec<u8>,
    /// What follows on a continuation.
    pub literal: Option<Vec<u8>>,
}

impl OwnCommand {
    pub fn new(purpose: Purpose, text: impl Into<Vec<u8>>) -> OwnCommand {
        OwnCommand { purpose, before_set: "", set: None, behind_set: text.into(), literal: None }
    }

    fn of_set(purpose: Purpose, before_set: &'static str, set: UidSet, behind_set: &str) -> OwnCommand {
        OwnCommand { set: Some(set), before_set, ..OwnCommand::new(purpose, behind_set) }
    }

    /// The mailbox stands at its end.
    fn with_mailbox(mut self, mailbox: &Mailbox, capabilities: &Capabilities) -> OwnCommand {
        let octets = &mailbox.octets;
        match &mailbox.wire {
            Wire::AsSent(raw) => self.behind_set.extend_from_slice(raw),
            Wire::Literal if capabilities.allows_non_synchronising(octets.len() as u64) => {
                self.behind_set.extend_from_slice(format!("{{{}+}}\r\n", octets.len()).as_bytes());
                self.behind_set.extend_from_slice(octets);
            }
            Wire::Literal => {
                self.behind_set.extend_from_slice(format!("{{{}}}", octets.len()).as_bytes());
                self.literal = Some(octets.clone());
            }
        }
        self
    }

    /// Up to its end, or up to where it waits for a continuation.
    pub fn text(&self) -> Vec<u8> {
        let set = self.set.as_ref().map(UidSet::to_string).unwrap_or_default();
        [self.before_set.as_bytes(), set.as_bytes(), &self.behind_set].concat()
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

    fn each(&self, set: &UidSet, purpose: Purpose, before: &'static str, behind: &str) -> Flight {
        let command = |chunk| OwnCommand::of_set(purpose, before, chunk, behind);
        set.chunks(self.room(0)).into_iter().map(command).collect()
    }

    /// `FETCH numbers (UID)`: the one command that may name sequence numbers, and the first of a MOVE.
    pub fn resolve(&self, numbers: &NumberSet) -> Flight {
        let fetch = |n| OwnCommand::new(Purpose::ResolveNumbers, format!("FETCH {n} (UID)"));
        numbers.chunks(self.room(0)).iter().map(fetch).collect()
    }

    /// `MYRIGHTS mailbox` (RFC 4314).
    pub fn rights(&self, mailbox: &Mailbox) -> OwnCommand {
        OwnCommand::new(Purpose::Rights, "MYRIGHTS ").with_mailbox(mailbox, &self.capabilities)
    }

    /// `UID FETCH set (UID)`: which messages there are, at which sequence numbers.
    pub fn list(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::List, "UID FETCH ", " (UID)")
    }

    /// `UID SEARCH UID set DELETED`: which had the flag before the gateway set it.
    pub fn search_deleted(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::SearchDeleted, "UID SEARCH UID ", " DELETED")
    }

    /// The parts of the set that are copied one by one.
    pub fn copy_chunks(&self, set: &UidSet, target: &Mailbox) -> Vec<UidSet> {
        set.chunks(self.room(target.octets.len() * 2))
    }

    /// `UID COPY chunk target`.
    pub fn copy(&self, index: usize, chunk: &UidSet, target: &Mailbox) -> OwnCommand {
        let copy = OwnCommand::of_set(Purpose::Copy(index), "UID COPY ", chunk.clone(), " ");
        copy.with_mailbox(target, &self.capabilities)
    }

    /// `UID STORE doubled +FLAGS.SILENT (\Deleted)`: only what is in another place too.
    pub fn store(&self, doubled: &impl Doubled) -> Flight {
        self.each(doubled.uids(), Purpose::Store, "UID STORE ", " +FLAGS.SILENT (\\Deleted)")
    }

    /// `UID EXPUNGE doubled`: never a bare EXPUNGE, and only what is in another place too.
    pub fn expunge(&self, _has: Uidplus, doubled: &impl Doubled) -> Flight {
        self.each(doubled.uids(), Purpose::Expunge, "UID EXPUNGE ", "")
    }

    /// `NOOP`: so that the upstream tells, and knows, what others have removed.
    pub fn noop(&self) -> Flight {
        vec![OwnCommand::new(Purpose::Noop, "NOOP")]
    }

    /// `UID SEARCH UID set`: which are still there.
    pub fn search(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::SearchLeft, "UID SEARCH UID ", "")
    }

    /// `UID STORE set -FLAGS.SILENT (\Deleted)`: takes the flag off again.
    pub fn unflag(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::Unflag, "UID STORE ", " -FLAGS.SILENT (\\Deleted)")
    }

    /// `UID SEARCH UID set UNDELETED`: which are there and not flagged.
    pub fn search_undeleted(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::SearchLeft, "UID SEARCH UID ", " UNDELETED")
    }

    /// `SELECT mailbox`.
    pub fn select(&self, mailbox: &Mailbox) -> OwnCommand {
        OwnCommand::new(Purpose::Open, "SELECT ").with_mailbox(mailbox, &self.capabilities)
    }

    /// `EXAMINE mailbox`.
    pub fn examine(&self, mailbox: &Mailbox) -> OwnCommand {
        OwnCommand::new(Purpose::Open, "EXAMINE ").with_mailbox(mailbox, &self.capabilities)
    }

    /// `CLOSE`: it removes nothing from a mailbox that is read-only.
    pub fn close(&self, _so: ReadOnly) -> OwnCommand {
        OwnCommand::new(Purpose::Close, "CLOSE")
    }

    /// `UID FETCH set (UID FLAGS INTERNALDATE RFC822.SIZE)`: what a message and its copy have in common.
    pub fn describe(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::Describe, "UID FETCH ", " (UID FLAGS INTERNALDATE RFC822.SIZE)")
    }

    /// `UID FETCH set (UID FLAGS)`: for the client, of messages that stay (MOVE-10).
    pub fn fetch_flags(&self, set: &UidSet) -> Flight {
        self.each(set, Purpose::FetchFlags, "UID FETCH ", " (UID FLAGS)")
    }
}
