//! Sequence sets as clients write them, and resolved, normalised UID sets (RFC 9051 section 9, MOVE-5).

use std::fmt;

/// One end of a range in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A sequence number or a UID.
    Number(u32),
    /// `*`.
    Last,
}

/// The messages that a client asked for, as it wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SequenceSet {
    /// Ranges in the client's order; a single number is a range of one.
    Ranges(Vec<(End, End)>),
    /// `$`, the saved result of a search (RFC 5182).
    Saved,
}

/// A set of UIDs: never empty, only numbers, ascending, merged. It can stand in a command as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UidSet(Vec<(u32, u32)>);

impl UidSet {
    /// The set of all UIDs in these ranges, whose ends may stand in any order; `None` if there are none.
    pub(super) fn normalise(ranges: impl IntoIterator<Item = (u32, u32)>) -> Option<UidSet> {
        let mut all: Vec<_> = ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        all.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(all.len());
        for (low, high) in all {
            match merged.last_mut() {
                Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        (!merged.is_empty()).then_some(UidSet(merged))
    }

    /// The ranges, ascending, with a gap between any two.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// How many UIDs are in it.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(a, b)| u64::from(b - a) + 1).sum()
    }

    /// Whether the UID is in it.
    pub fn contains(&self, uid: u32) -> bool {
        let after = self.0.partition_point(|(low, _)| *low <= uid);
        after > 0 && uid <= self.0[after - 1].1
    }

    /// Whether any UID of `other` is in it: cheap where `other` is small.
    pub fn meets(&self, other: &UidSet) -> bool {
        other.0.iter().any(|(low, high)| {
            let from = self.0.partition_point(|(_, end)| end < low);
            self.0.get(from).is_some_and(|(start, _)| start <= high)
        })
    }

    /// Whether every UID of `other` is in it.
    pub fn contains_all(&self, other: &UidSet) -> bool {
        other.without(self).is_none()
    }

    /// What is in both.
    pub fn intersection(&self, other: &UidSet) -> Option<UidSet> {
        let (mut mine, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            if a.0.max(b.0) <= a.1.min(b.1) {
                both.push((a.0.max(b.0), a.1.min(b.1)));
            }
            if a.1 < b.1 {
                mine.next()
            } else {
                theirs.next()
            };
        }
        UidSet::normalise(both)
    }

    /// What is in it and not in `other`.
    pub fn without(&self, other: &UidSet) -> Option<UidSet> {
        let mut rest = Vec::new();
        let mut holes = other.0.iter().copied().peekable();
        for &(low, high) in &self.0 {
            let mut from = Some(low);
            while let Some(&(a, b)) = holes.peek().filter(|hole| hole.0 <= high) {
                if let Some(start) = from.filter(|start| *start < a) {
                    rest.push((start, a - 1));
                }
                from =
                    from.map(|start| start.max(b.saturating_add(1))).filter(|s| *s <= high && b < u32::MAX);
                if b > high {
                    break;
                }
                holes.next();
            }
            rest.extend(from.map(|start| (start, high)));
        }
        UidSet::normalise(rest)
    }

    /// What is in either.
    pub fn union(&self, other: &UidSet) -> UidSet {
        UidSet::normalise(self.0.iter().chain(&other.0).copied()).expect("neither is empty")
    }

    /// The set in parts whose text is at most `octets` long, ascending (MOVE-8).
    pub fn chunks(&self, octets: usize) -> Vec<UidSet> {
        let (mut chunks, mut chunk, mut length) = (Vec::new(), Vec::new(), 0);
        for &range in &self.0 {
            let own = range_text(range).len() + 1;
            if length + own > octets && !chunk.is_empty() {
                chunks.push(UidSet(std::mem::take(&mut chunk)));
                length = 0;
            }
            chunk.push(range);
            length += own;
        }
        chunks.push(UidSet(chunk));
        chunks
    }
}

impl fmt::Display for UidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{}", range_text(*range))?;
        }
        Ok(())
    }
}

/// Sequence numbers: for the one FETCH that asks for their UIDs. No [`UidSet`] can be made of it.
#[derive(Clone, Debug)]
pub struct NumberSet(UidSet);

impl NumberSet {
    /// The set of all numbers in these ranges; `None` if there are none.
    pub(super) fn normalise(ranges: impl IntoIterator<Item = (u32, u32)>) -> Option<NumberSet> {
        UidSet::normalise(ranges).map(NumberSet)
    }

    /// Whether the number is in it.
    pub fn contains(&self, number: u32) -> bool {
        self.0.contains(number)
    }

    /// The set in parts whose text is at most `octets` long (MOVE-8).
    pub fn chunks(&self, octets: usize) -> Vec<String> {
        self.0.chunks(octets).iter().map(UidSet::to_string).collect()
    }
}

fn range_text((low, high): (u32, u32)) -> String {
    if low == high { low.to_string() } else { format!("{low}:{high}") }
}

/// Collects numbers one by one in ranges, cheaply when they come ascending or descending.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    ranges: Vec<(u32, u32)>,
    /// At so many ranges they are merged, so that what comes again and again does not pile up.
    merge_at: usize,
}

/// Below so many ranges, merging is not worth its while.
const FEW: usize = 4096;

impl Collected {
    /// Adds a number.
    pub fn push(&mut self, number: u32) {
        self.push_range((number, number));
    }

    /// Adds a range whose ends stand in order.
    pub fn push_range(&mut self, (low, high): (u32, u32)) {
        match self.ranges.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(low) => last.1 = high,
            Some(last) if high.checked_add(1) == Some(last.0) => last.0 = low,
            _ => self.ranges.push((low, high)),
        }
        if self.ranges.len() > self.merge_at.max(FEW) {
            self.ranges = self.set().map(|set| set.0).unwrap_or_default();
            self.merge_at = 2 * self.ranges.len();
        }
    }

    /// Adds what another has collected.
    pub fn append(&mut self, other: &Collected) {
        other.ranges.iter().for_each(|range| self.push_range(*range));
    }

    /// All of them.
    pub fn set(&self) -> Option<UidSet> {
        UidSet::normalise(self.ranges.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn members(set: Option<UidSet>) -> BTreeSet<u32> {
        set.iter().flat_map(|s| s.ranges()).flat_map(|(a, b)| *a..=*b).collect()
    }

    #[test]
    fn a_set_is_written_ascending_and_merged() {
        let set = UidSet::normalise([(9, 7), (2, 2), (3, 4), (2, 2), (u32::MAX, u32::MAX)]).unwrap();
        assert_eq!(set.to_string(), "2:4,7:9,4294967295");
        assert_eq!(set.count(), 7);
        assert_eq!(set.without(&set), None);
    }

    #[test]
    fn chunks_are_short_and_lose_nothing() {
        let set = UidSet::normalise((1..200).map(|n| (n * 3, n * 3))).unwrap();
        let chunks = set.chunks(50);
        assert!(chunks.iter().all(|c| c.to_string().len() <= 50));
        assert_eq!(UidSet::normalise(chunks.iter().flat_map(|c| c.0.clone())), Some(set));
    }

    proptest! {
        #[test]
        fn set_algebra_agrees_with_a_naive_twin(
            a in prop::collection::vec((1u32..60, 1u32..60), 1..8),
            b in prop::collection::vec((1u32..60, 1u32..60), 1..8),
        ) {
            let (a, b) = (UidSet::normalise(a).unwrap(), UidSet::normalise(b).unwrap());
            let (x, y) = (members(Some(a.clone())), members(Some(b.clone())));
            prop_assert_eq!(members(a.without(&b)), &x - &y);
            prop_assert_eq!(members(a.intersection(&b)), &x & &y);
            prop_assert_eq!(members(Some(a.union(&b))), &x | &y);
            prop_assert_eq!(a.contains_all(&b), y.is_subset(&x));
            prop_assert_eq!(a.meets(&b), !x.is_disjoint(&y));
            prop_assert!((1..60).all(|n| a.contains(n) == x.contains(&n)));
        }
    }
}
