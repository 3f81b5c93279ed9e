//! The messages while they are copied and removed: which are listed, at which numbers, and which have left.

use super::numbers::Numbers;
use crate::imap::response::Untagged;
use crate::imap::sequence::{Collected, UidSet};

/// What is known of the messages while they are copied and removed.
#[derive(Debug, Default)]
pub struct Watch {
    pub numbers: Numbers,
    pub listed: Collected,
    /// Seen leaving, by EXPUNGE or VANISHED, whoever removed them.
    pub left: Collected,
}

impl Watch {
    /// Takes note of a removal: the UIDs of listed messages that are gone now.
    pub fn removal(&mut self, data: &Untagged<'_>) -> Option<UidSet> {
        let mut gone = Collected::default();
        match data {
            Untagged::Expunge(number) => {
                self.numbers.expunge(*number).into_iter().for_each(|uid| gone.push(uid))
            }
            Untagged::Vanished(uids) => {
                for range in uids.ranges() {
                    self.numbers.vanish(*range);
                    gone.push_range(*range);
                }
            }
            _ => {}
        }
        let gone = gone.set()?;
        gone.ranges().iter().for_each(|range| self.left.push_range(*range));
        Some(gone)
    }
}
