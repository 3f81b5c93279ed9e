//! Sequence sets as clients write them, and resolved, normalised UID sets (RFC 9051 section 9, MOVE-5).

use super::packed::Packed;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

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

/// A set of UIDs: never empty, only numbers, ascending, merged. It can stand in a command as it is. A clone, or a part of
/// it, costs nothing.
#[derive(Clone, Debug)]
pub struct UidSet {
    shared: Arc<Vec<(u32, u32)>>,
    /// Of those ranges, the ones in this set.
    part: Range<usize>,
}

impl PartialEq for UidSet {
    fn eq(&self, other: &UidSet) -> bool {
        self.ranges() == other.ranges()
    }
}

impl Eq for UidSet {}

impl UidSet {
    /// The set of all UIDs in these ranges, whose ends may stand in any order; `None` if there are none.
    pub(super) fn normalise(ranges: impl IntoIterator<Item = (u32, u32)>) -> Option<UidSet> {
        let mut all: Vec<_> = ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        all.sort_unstable();
        all.dedup_by(|next, last| {
            let joins = next.0 <= last.1.saturating_add(1);
            if joins {
                last.1 = last.1.max(next.1);
            }
            joins
        });
        all.shrink_to_fit();
        (!all.is_empty()).then(|| UidSet { part: 0..all.len(), shared: Arc::new(all) })
    }

    /// The ranges, ascending, with a gap between any two.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.shared[self.part.clone()]
    }

    /// How many UIDs are in it.
    pub fn count(&self) -> u64 {
        self.ranges().iter().map(|(a, b)| u64::from(b - a) + 1).sum()
    }

    /// Whether the UID is in it.
    pub fn contains(&self, uid: u32) -> bool {
        let from = self.ranges().partition_point(|(_, high)| *high < uid);
        self.ranges().get(from).is_some_and(|(low, _)| *low <= uid)
    }

    /// What of a range is in it: cheap however large the set is.
    pub fn within(&self, (low, high): (u32, u32)) -> impl Iterator<Item = (u32, u32)> {
        let from = self.ranges().partition_point(|(_, end)| *end < low);
        let there = self.ranges()[from..].iter().take_while(move |(start, _)| *start <= high);
        there.map(move |(start, end)| (low.max(*start), high.min(*end)))
    }

    /// Whether any UID of `other` is in it: cheap where `other` is small.
    pub fn meets(&self, other: &UidSet) -> bool {
        other.ranges().iter().any(|range| self.within(*range).next().is_some())
    }

    /// Whether every UID of `other` is in it.
    pub fn contains_all(&self, other: &UidSet) -> bool {
        other.without(self).is_none()
    }

    /// What is in both.
    pub fn intersection(&self, other: &UidSet) -> Option<UidSet> {
        let (mut mine, mut theirs) = (self.ranges().iter().peekable(), other.ranges().iter().peekable());
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
        let mut holes = other.ranges().iter().copied().peekable();
        for &(low, high) in self.ranges() {
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
        UidSet::normalise(self.ranges().iter().chain(other.ranges()).copied()).expect("neither is empty")
    }

    /// The set in parts whose text is at most `octets` long, ascending (MOVE-8).
    pub fn chunks(&self, octets: usize) -> Vec<UidSet> {
        let (mut chunks, mut from, mut length) = (Vec::new(), self.part.start, 0);
        let part = |part| UidSet { shared: self.shared.clone(), part };
        for (at, &range) in self.part.clone().zip(self.ranges()) {
            let own = text_length(range);
            if length + own > octets && at > from {
                chunks.push(part(from..at));
                (from, length) = (at, 0);
            }
            length += own;
        }
        chunks.push(part(from..self.part.end));
        chunks
    }
}

impl fmt::Display for UidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_ranges(f, self.ranges().iter().copied())
    }
}

/// Writes ranges as a set, in their order; `f` is a text.
pub(super) fn write_ranges(f: &mut impl fmt::Write, ranges: impl Iterator<Item = (u32, u32)>) -> fmt::Result {
    for (at, (low, high)) in ranges.enumerate() {
        let comma = if at > 0 { "," } else { "" };
        write!(f, "{comma}{low}")?;
        if low < high {
            write!(f, ":{high}")?;
        }
    }
    Ok(())
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

/// How long a range is in a set, with a comma.
pub(super) fn text_length((low, high): (u32, u32)) -> usize {
    let digits = |n: u32| n.checked_ilog10().unwrap_or(0) as usize + 1;
    digits(low) + 1 + if low == high { 0 } else { digits(high) + 1 }
}

/// Collects numbers one by one in ranges, cheaply when they come ascending or descending.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    ranges: Packed<2>,
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
    pub fn push_range(&mut self, range: (u32, u32)) {
        let (low, high) = (i64::from(range.0), i64::from(range.1));
        let joined = match self.ranges.last() {
            Some([from, to]) if to + 1 == low => Some([from, high]),
            Some([from, to]) if high + 1 == from => Some([low, to]),
            _ => None,
        };
        if joined.is_some() {
            self.ranges.pop();
        }
        self.ranges.push(joined.unwrap_or([low, high]));
        if self.ranges.len() > self.merge_at.max(FEW) {
            let merged = self.set();
            let merged = merged.iter().flat_map(UidSet::ranges);
            self.ranges = merged.map(|(low, high)| [i64::from(*low), i64::from(*high)]).collect();
            self.merge_at = 2 * self.ranges.len();
        }
    }

    /// Adds what another has collected.
    pub fn append(&mut self, other: &Collected) {
        other.each().for_each(|range| self.push_range(range));
    }

    /// All of them.
    pub fn set(&self) -> Option<UidSet> {
        UidSet::normalise(self.each())
    }

    fn each(&self) -> impl Iterator<Item = (u32, u32)> {
        // They were that short when they came.
        self.ranges.iter().map(|[low, high]| (low as u32, high as u32))
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
        assert_eq!(UidSet::normalise(chunks.iter().flat_map(|c| c.ranges().to_vec())), Some(set));
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
            let within = b.ranges().iter().flat_map(|range| a.within(*range));
            prop_assert_eq!(members(UidSet::normalise(within)), &x & &y);
            prop_assert!((1..60).all(|n| a.contains(n) == x.contains(&n)));
        }
    }
}
