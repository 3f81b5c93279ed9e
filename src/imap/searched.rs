//! What searches of the gateway's own have found.

use super::grammar;
use super::response::Status;
use super::sequence::{Collected, UidSet};

/// The answers to a flight of searches: what they found, if every one of them is there and can be read.
#[derive(Debug)]
pub struct Searched {
    awaited: usize,
    found: Collected,
    failed: bool,
}

impl Searched {
    /// So many searches are in the flight.
    pub fn of(awaited: usize) -> Searched {
        Searched { awaited, found: Collected::default(), failed: false }
    }

    /// A SEARCH response came.
    pub fn data(&mut self, numbers: &[u8]) {
        match (self.awaited.checked_sub(1), grammar::search_result(numbers)) {
            (Some(rest), Some(found)) => {
                self.awaited = rest;
                self.found.append(&found);
            }
            _ => self.failed = true,
        }
    }

    /// A tagged reply came.
    pub fn answered(&mut self, status: &Status<'_>) {
        self.failed |= !status.is_ok();
    }

    /// What they have found, if every answer is there and can be read.
    pub fn certainly(&self) -> Option<UidSet> {
        self.found.set().filter(|_| self.is_certain())
    }

    /// Whether every answer is there and can be read.
    pub fn is_certain(&self) -> bool {
        self.awaited == 0 && !self.failed
    }

    /// What of `wanted` must be taken to be there: all of it, if an answer is missing or unreadable.
    pub fn there(&self, wanted: &UidSet) -> Option<UidSet> {
        if self.is_certain() { self.found.set()?.intersection(wanted) } else { Some(wanted.clone()) }
    }
}
