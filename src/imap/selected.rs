//! The selected mailbox: what the upstream has said of it, and whether messages may leave it (MOVE-4).

use super::capability::Capabilities;
use super::grammar;
use super::mailbox::Mailbox;
use super::response::{Status, Untagged};

/// What is known of the selected mailbox (RFC 9051 section 3.3).
#[derive(Clone, Debug, Default)]
pub struct Selected {
    /// Its name as the client wrote it, if the gateway could read it.
    pub mailbox: Option<Mailbox>,
    /// Opened with EXAMINE, or the upstream said READ-ONLY.
    pub read_only: bool,
    /// PERMANENTFLAGS came and lacked `\Deleted`.
    pub deleted_is_not_permanent: bool,
    /// Its UIDVALIDITY, if the upstream has told it.
    pub validity: Option<u32>,
    /// The answer to MYRIGHTS.
    pub rights: Rights,
}

/// A selected mailbox that messages may leave: only from one can a MOVE start (MOVE-4).
#[derive(Clone, Copy, Debug)]
pub struct Writable<'a>(&'a Selected);

impl Selected {
    /// Takes note of what a status response says of the mailbox.
    pub fn learn(&mut self, status: &Status<'_>) {
        let Some((name, argument)) = status.code else { return };
        match () {
            () if name.eq_ignore_ascii_case(b"READ-ONLY") => self.read_only = true,
            () if name.eq_ignore_ascii_case(b"UIDVALIDITY") => {
                self.validity = grammar::number(argument).ok().map(|(_, n)| n);
            }
            () if name.eq_ignore_ascii_case(b"PERMANENTFLAGS") => {
                self.deleted_is_not_permanent = !names_deleted(argument);
            }
            () => {}
        }
    }

    /// The error says why not.
    pub fn writable(&self) -> Result<Writable<'_>, &'static str> {
        let may = !self.deleted_is_not_permanent && self.rights != Rights::MayNotDelete;
        match () {
            () if self.read_only => Err("it is open read-only"),
            () if !may => Err("you may not delete messages there"),
            () => Ok(Writable(self)),
        }
    }
}

impl<'a> Writable<'a> {
    /// Its name, if MYRIGHTS is to be asked first.
    pub fn to_ask_rights_of(self, upstream: &Capabilities) -> Option<&'a Mailbox> {
        let asks = upstream.acl && self.0.rights == Rights::NotAsked;
        self.0.mailbox.as_ref().filter(|_| asks)
    }
}

fn names_deleted(flags: &[u8]) -> bool {
    let mut flags = flags.split(|c| b" ()".contains(c));
    flags.any(|flag| flag.eq_ignore_ascii_case(b"\\Deleted"))
}

/// What MYRIGHTS said of the selected mailbox (RFC 4314; MOVE-4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rights {
    #[default]
    NotAsked,
    /// The upstream would not tell: go on.
    NotTold,
    MayDelete,
    MayNotDelete,
}

impl Rights {
    /// `d` of RFC 2086, or both `t` and `e`.
    pub fn parse(rights: &[u8]) -> Rights {
        let has = |right| rights.contains(&right);
        if has(b'd') || (has(b't') && has(b'e')) { Rights::MayDelete } else { Rights::MayNotDelete }
    }
}

/// What a SELECT or EXAMINE of the gateway's own has shown.
#[derive(Debug, Default)]
pub struct Opened {
    view: Selected,
    accepted: bool,
    begun: bool,
}

impl Opened {
    /// A line of data came before its tagged reply. Whether it may still be about the mailbox before: up to CLOSED
    /// (RFC 7162 section 3.2.11), or the first line that only the new one can have brought.
    pub fn may_be_of_the_one_before(&mut self, data: &Untagged<'_>) -> bool {
        match data {
            Untagged::Status(status) => {
                self.begun |= status.code("CLOSED").is_some();
                self.view.learn(status);
            }
            Untagged::Exists(_) => self.begun = true,
            _ => {}
        }
        !self.begun
    }

    /// Its tagged reply came.
    pub fn answered(&mut self, status: &Status<'_>) {
        self.accepted = status.is_ok();
        self.view.learn(status);
    }

    /// Whether it is the mailbox of this UIDVALIDITY.
    pub fn is(&self, validity: u32) -> bool {
        self.accepted && self.view.validity == Some(validity)
    }

    /// Whether, besides, messages may leave it.
    pub fn may_delete(&self, validity: u32) -> bool {
        self.is(validity) && self.view.writable().is_ok()
    }
}

/// An upstream that has said of the selected mailbox that it is read-only: there CLOSE removes nothing.
#[derive(Clone, Copy, Debug)]
pub struct ReadOnly(());

impl Opened {
    /// Whether it was refused.
    pub fn refused(&self) -> bool {
        !self.accepted
    }

    /// Whether it says that it is read-only.
    pub fn read_only(&self) -> Option<ReadOnly> {
        (self.accepted && self.view.read_only).then_some(ReadOnly(()))
    }
}
