//! The messages while they are copied and removed: which are listed, at which numbers, and which have left.

use super::Claim;
use super::numbers::Numbers;
use crate::imap::response::Untagged;
use crate::imap::sequence::{Collected, UidSet};
use std::collections::HashSet;

/// What is known of the messages while they are copied and removed.
#[derive(Debug, Default)]
pub struct Watch {
    pub numbers: Numbers,
    pub listed: Collected,
    /// Seen leaving, by EXPUNGE or VANISHED, whoever removed them.
    pub left: Collected,
    early: Early,
}

/// Messages of which another session's change told the UID before the answer to the gateway's own FETCH did.
#[derive(Debug, Default)]
pub struct Early(HashSet<u32>);

impl Early {
    /// A line told this UID: is it the gateway's? It is if it says nothing else, and once (MOVE-10). `news`: the
    /// UID was not known before.
    pub fn claim(&mut self, uid: u32, news: bool, says_more: bool) -> Claim {
        match (news, says_more) {
            (true, true) => {
                self.0.insert(uid);
                Claim::Forward
            }
            (true, false) => Claim::Mine,
            (false, false) if self.0.remove(&uid) => Claim::Mine,
            (false, _) => Claim::Forward,
        }
    }
}

impl Watch {
    /// A line of the listing, or one that tells as much.
    pub fn list(&mut self, number: u32, uid: u32, says_more: bool) -> Claim {
        let known = self.numbers.uid(number);
        let news = known.is_none() && self.numbers.insert(number, uid);
        if news {
            self.listed.push(uid);
        }
        if news || known == Some(uid) { self.early.claim(uid, news, says_more) } else { Claim::Forward }
    }

    /// Takes note of a removal: the UIDs of listed messages that are gone now.
    pub fn removal(&mut self, data: &Untagged<'_>) -> Option<UidSet> {
        let gone = match data {
            Untagged::Expunge(number) => {
                let uid = self.numbers.expunge(*number)?;
                UidSet::normalise([(uid, uid)])?
            }
            Untagged::Vanished(uids) => {
                uids.ranges().iter().for_each(|range| self.numbers.vanish(*range));
                uids.clone()
            }
            _ => return None,
        };
        gone.ranges().iter().for_each(|range| self.left.push_range(*range));
        Some(gone)
    }
}
