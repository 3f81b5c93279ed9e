//! Client commands, as far as the gateway looks.

use super::grammar;
use super::mailbox::Mailbox;
use super::sequence::SequenceSet;
use std::fmt;

/// A client's tag: its octets. It is moved into the one tagged reply that it gets.
#[derive(Clone, PartialEq, Eq)]
pub struct Tag(pub(super) Box<[u8]>);

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
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
