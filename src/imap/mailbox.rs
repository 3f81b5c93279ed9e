//! Mailbox names: the octets, and the encoding that they go upstream in (MOVE-1).

use std::fmt;

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

    /// See [`identity`].
    pub(super) fn identity(&self) -> Vec<u8> {
        identity(&self.octets).to_vec()
    }
}

/// The name by which two spellings of a mailbox are known to be one: INBOX has no case.
pub(super) fn identity(name: &[u8]) -> &[u8] {
    if name.eq_ignore_ascii_case(b"INBOX") { b"INBOX" } else { name }
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
