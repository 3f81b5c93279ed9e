//! Which sequence number each listed message has now, while removals shift them.

use crate::imap::packed::Packed;

/// Neighbours in both countings: message `number + k` has UID `uid + k`.
#[derive(Clone, Copy, Debug)]
struct Run {
    number: i64,
    uid: i64,
    count: i64,
}

impl From<[i64; 3]> for Run {
    fn from([number, uid, count]: [i64; 3]) -> Run {
        Run { number, uid, count }
    }
}

impl From<Run> for [i64; 3] {
    fn from(run: Run) -> [i64; 3] {
        [run.number, run.uid, run.count]
    }
}

impl Run {
    /// The first `n` of it, if any.
    fn head(self, n: i64) -> Option<Run> {
        (n > 0).then_some(Run { count: n.min(self.count), ..self })
    }

    /// It without the first `n`, if anything is left.
    fn tail(self, n: i64) -> Option<Run> {
        (n < self.count).then(|| Run { number: self.number + n, uid: self.uid + n, count: self.count - n })
    }
}

/// More runs than any real mailbox needs; what a listing names beyond them is verified by a search instead.
const MAX_RUNS: usize = 1 << 20;

/// The listed messages that are still there. Removals come in ascending or descending order, so the runs
/// are kept in two halves around the last place touched, and the numbers of the upper half are corrected
/// by one common shift: a removal costs no more than the way from the one before.
#[derive(Debug, Default)]
pub struct Numbers {
    lower: Packed<3>,
    /// Descending, each `shift` too high.
    upper: Packed<3>,
    shift: i64,
}

impl Numbers {
    fn settle(&mut self, run: Run) {
        self.lower.push(run.into());
    }

    fn lift(&mut self, run: Run) {
        self.upper.push([run.number + self.shift, run.uid, run.count]);
    }

    /// The highest run of the lower half.
    fn below(&self) -> Option<Run> {
        self.lower.last().map(Run::from)
    }

    /// The lowest run of the upper half, with its true number.
    fn above(&self) -> Option<Run> {
        self.upper.last().map(|[number, uid, count]| Run { number: number - self.shift, uid, count })
    }

    fn take(&mut self) -> Option<Run> {
        let run = self.above();
        self.upper.pop();
        run
    }

    fn seek(&mut self, before: impl Fn(&Run) -> bool) {
        while let Some(run) = self.above().filter(&before) {
            self.upper.pop();
            self.settle(run);
        }
        while let Some(run) = self.below().filter(|run| !before(run)) {
            self.lower.pop();
            self.lift(run);
        }
    }

    fn seek_number(&mut self, number: i64) {
        self.seek(|run| run.number + run.count <= number);
    }

    /// A listing says that this message has this number. What does not ascend in both countings is not
    /// believed, and later verified by a search. Whether it was taken up.
    pub fn insert(&mut self, number: u32, uid: u32) -> bool {
        let (number, uid) = (i64::from(number), i64::from(uid));
        self.seek_number(number);
        if self.above().is_some_and(|run| run.number <= number || run.uid <= uid) {
            return false;
        }
        let full = self.lower.len() + self.upper.len() >= MAX_RUNS;
        match self.below() {
            Some(run) if run.uid + run.count > uid => return false,
            Some(run) if run.number + run.count == number && run.uid + run.count == uid => {
                self.lower.pop();
                self.settle(Run { count: run.count + 1, ..run });
            }
            _ if full => return false,
            _ => self.settle(Run { number, uid, count: 1 }),
        }
        true
    }

    /// The UID of the message with this number, if it was listed.
    pub fn uid(&mut self, number: u32) -> Option<u32> {
        let number = i64::from(number);
        self.seek_number(number);
        let run = self.above()?;
        (run.number <= number).then(|| as_uid(run.uid + number - run.number))
    }

    /// `* number EXPUNGE`: the UID of that message, if it was listed; those above move down.
    pub fn expunge(&mut self, number: u32) -> Option<u32> {
        let uid = self.uid(number);
        if let Some(run) = uid.and_then(|_| self.take()) {
            let at = i64::from(number) - run.number;
            run.head(at).into_iter().for_each(|run| self.settle(run));
            run.tail(at + 1).into_iter().for_each(|run| self.lift(run));
        }
        self.shift += 1;
        uid
    }

    /// `* VANISHED low:high`: those above move down by the whole range, listed or not.
    pub fn vanish(&mut self, (low, high): (u32, u32)) {
        let (low, high) = (i64::from(low), i64::from(high));
        self.seek(|run| run.uid + run.count <= low);
        while let Some(run) = self.above().filter(|run| run.uid <= high) {
            self.upper.pop();
            run.head(low - run.uid).into_iter().for_each(|run| self.settle(run));
            if let Some(rest) = run.tail(high + 1 - run.uid) {
                self.lift(rest);
                break;
            }
        }
        self.shift += high - low + 1;
    }
}

fn as_uid(uid: i64) -> u32 {
    u32::try_from(uid).expect("a run holds UIDs that were 32 bits long when they came")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn move_6_neighbours_are_one_run() {
        let mut numbers = Numbers::default();
        for k in 1..=1000 {
            assert!(numbers.insert(k, 10 + k));
        }
        assert_eq!((numbers.lower.len(), numbers.upper.len()), (1, 0));
    }

    #[test]
    fn wire_4_more_runs_than_memory_is_given_are_not_taken_up() {
        let mut numbers = Numbers::default();
        let most = MAX_RUNS as u32;
        for k in 1..=most {
            assert!(numbers.insert(3 * k, 3 * k));
        }
        let (end, middle) = (3 * most, 3 * (most / 2));
        assert!(!numbers.insert(end + 2, end + 2), "one more");
        assert!(!numbers.insert(middle + 2, middle + 2), "one more, between the halves");
        assert!(numbers.insert(end + 1, end + 1), "a neighbour needs no new run");
    }

    proptest! {
        #[test]
        fn removals_agree_with_a_naive_twin(
            present in prop::collection::btree_set(1u32..80, 1..40),
            listed in prop::collection::vec(any::<bool>(), 80),
            removals in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 0usize..4), 0..30),
        ) {
            let mut twin: Vec<u32> = present.into_iter().collect();
            let mut numbers = Numbers::default();
            for (at, uid) in twin.iter().enumerate().filter(|(_, uid)| listed[**uid as usize]) {
                numbers.insert(at as u32 + 1, *uid);
            }
            for (by_uid, index, more) in removals {
                if twin.is_empty() { break; }
                let at = index.index(twin.len());
                let uid = twin[at];
                if by_uid {
                    let end = (at..twin.len()).take(more + 1).take_while(|i| twin[*i] - uid == (*i - at) as u32).last().unwrap();
                    numbers.vanish((uid, uid + (end - at) as u32));
                    twin.drain(at..=end);
                } else {
                    let expected = listed[uid as usize].then_some(uid);
                    prop_assert_eq!(numbers.expunge(at as u32 + 1), expected);
                    twin.remove(at);
                }
                for (at, uid) in twin.iter().enumerate() {
                    prop_assert_eq!(numbers.uid(at as u32 + 1), listed[*uid as usize].then_some(*uid));
                }
            }
        }
    }
}
