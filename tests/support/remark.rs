//! What a NO of the gateway says of where messages are, read back from its text: `... (5 moved; not copied and still in
//! the source: UID 7)`.
#![allow(dead_code)] // each test binary uses its own part

use super::strict::numbers;
use std::collections::BTreeSet;

/// What is said of some messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// In the source, and nothing was done with them.
    Untouched,
    /// In the source, and perhaps in the target.
    PerhapsCopied,
    /// In the target, and perhaps in the source with \Deleted.
    PerhapsMoved,
    /// In both.
    Both,
    /// In the source with \Deleted, perhaps. Said beside [`Says::Both`].
    Flagged,
    /// In the target with \Deleted, perhaps: UIDs of the target. Said beside [`Says::Both`].
    CopiesFlagged,
    /// In the source, and not in the target any more.
    Undone,
    /// In the source, and perhaps in the target, in either perhaps with \Deleted.
    Uncertain,
}

impl Says {
    const WORDS: [(&'static str, Says); 9] = [
        ("not copied and still in the source", Says::Untouched),
        ("not provably copied and still in the source", Says::Untouched),
        ("not provably copied and still in the source, copies may be in the target", Says::PerhapsCopied),
        ("in the target, and perhaps still in the source and flagged as deleted there", Says::PerhapsMoved),
        ("in the target and still in the source", Says::Both),
        ("of these perhaps flagged as deleted in the source", Says::Flagged),
        ("perhaps flagged as deleted in the target: there", Says::CopiesFlagged),
        ("not moved, the copies are removed again", Says::Undone),
        ("still in the source and perhaps in the target, perhaps flagged as deleted", Says::Uncertain),
    ];

    fn read(words: &str) -> Option<Says> {
        let words = words.trim().trim_end_matches(':');
        Says::WORDS.iter().find(|(known, _)| *known == words).map(|(_, says)| *says)
    }
}

/// The last words of a NO.
#[derive(Clone, Debug, Default)]
pub struct Remark {
    pub moved: usize,
    claims: Vec<(Says, BTreeSet<u32>)>,
}

impl Remark {
    /// None, if the text has no remark; an error, if there is one that cannot be read.
    pub fn read(text: &[u8]) -> Result<Option<Remark>, String> {
        let text = String::from_utf8_lossy(text);
        let Some((_, remark)) = text.rsplit_once(" (").filter(|(_, end)| end.contains(" moved; ")) else {
            return Ok(None);
        };
        let unreadable = || format!("unreadable: {remark}");
        let mut clauses = remark.strip_suffix(')').ok_or_else(unreadable)?.split("; ");
        let moved = clauses.next().and_then(|first| first.strip_suffix(" moved"));
        let moved = moved.and_then(|n| n.parse().ok()).ok_or_else(unreadable)?;
        let clause = |clause: &str| {
            let (words, uids) = clause.rsplit_once("UID ")?;
            Some((Says::read(words)?, numbers(uids)?.into_iter().collect()))
        };
        let claims = clauses.map(clause).collect::<Option<Vec<_>>>().ok_or_else(unreadable)?;
        Ok(Some(Remark { moved, claims }))
    }

    /// The messages of which this is said.
    pub fn of(&self, wanted: Says) -> BTreeSet<u32> {
        let some = self.claims.iter().filter(|(says, _)| *says == wanted);
        some.flat_map(|(_, uids)| uids.iter().copied()).collect()
    }

    /// Whether one of these is said of a message.
    pub fn says(&self, wanted: &[Says], uid: u32) -> bool {
        self.claims.iter().any(|(says, uids)| wanted.contains(says) && uids.contains(&uid))
    }
}
