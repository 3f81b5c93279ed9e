//! What proves that messages were copied: an accepted COPY and the COPYUID that it brought (RFC 4315, MOVE-6).

use super::grammar;
use super::packed::Packed;
use super::response::Status;
use super::sequence::{Collected, UidSet, text_length, write_ranges};
use bytes::BytesMut;

/// Messages of the selected mailbox of which there is another in another place. Made in this file alone, and STORE
/// and UID EXPUNGE can be written for nothing else.
pub trait Doubled {
    /// Their UIDs.
    fn uids(&self) -> &UidSet;
}

/// Messages that are proved to be in the target: an accepted COPY named them.
#[derive(Clone, Debug)]
pub struct Copied(UidSet);

/// Copies in the target whose messages were seen in the source (FAULT-1).
#[derive(Clone, Debug)]
pub struct Spare(UidSet);

impl Doubled for Copied {
    fn uids(&self) -> &UidSet {
        &self.0
    }
}

impl Doubled for Spare {
    fn uids(&self) -> &UidSet {
        &self.0
    }
}

impl Copied {
    /// Messages that a dead session had proved to be copied and whose copies were looked at again: those that are
    /// `alike` (FAULT-4).
    pub fn compared(pairs: &Pairs, alike: impl Fn(u32, u32) -> bool) -> Option<Copied> {
        let kept = pairs.each().filter(|(message, copy)| alike(*message, *copy));
        UidSet::normalise(kept.map(|(message, _)| (message, message))).map(Copied)
    }

    /// Those of them that are in `set`.
    pub fn only(&self, set: &UidSet) -> Option<Copied> {
        self.0.intersection(set).map(Copied)
    }
}

/// Messages that a UID SEARCH has found in the source.
#[derive(Clone, Debug)]
pub struct Found(UidSet);

impl Found {
    /// What an answered search names.
    pub fn by_search(set: UidSet) -> Found {
        Found(set)
    }

    /// Their UIDs.
    pub fn uids(&self) -> &UidSet {
        &self.0
    }
}

/// Which copy is whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// The target's UIDVALIDITY.
    pub validity: u32,
    /// The [`Run`]s of each COPYUID, in the upstream's order.
    lists: Vec<Packed<3>>,
}

/// Neighbours in both mailboxes: message `source + k` has the copy `target + k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    source: u32,
    target: u32,
    count: u32,
}

impl From<[i64; 3]> for Run {
    fn from(row: [i64; 3]) -> Run {
        // They were that short when they came.
        let [source, target, count] = row.map(|number| number as u32);
        Run { source, target, count }
    }
}

impl From<Run> for [i64; 3] {
    fn from(run: Run) -> [i64; 3] {
        [run.source, run.target, run.count].map(i64::from)
    }
}

impl Run {
    fn messages(self) -> (u32, u32) {
        (self.source, self.source + (self.count - 1))
    }

    fn copies(self) -> (u32, u32) {
        (self.target, self.target + (self.count - 1))
    }
}

/// The pairs of two lists that name as many UIDs, each range ascending.
fn zip(
    mut source: impl Iterator<Item = (u32, u32)>,
    mut target: impl Iterator<Item = (u32, u32)>,
) -> impl Iterator<Item = Run> {
    let (mut left, mut right) = (source.next(), target.next());
    std::iter::from_fn(move || {
        let ((from, from_end), (to, to_end)) = (left?, right?);
        let more = (from_end - from).min(to_end - to);
        let rest = |at: u32, end: u32| (end - at > more).then(|| (at + more + 1, end));
        left = rest(from, from_end).or_else(|| source.next());
        right = rest(to, to_end).or_else(|| target.next());
        Some(Run { source: from, target: to, count: more + 1 })
    })
}

/// Ranges in their order, neighbours as one.
fn joined(ranges: impl Iterator<Item = (u32, u32)>) -> impl Iterator<Item = (u32, u32)> {
    let mut ranges = ranges.peekable();
    std::iter::from_fn(move || {
        let (low, mut high) = ranges.next()?;
        while let Some((_, end)) = ranges.next_if(|next| high.checked_add(1) == Some(next.0)) {
            high = end;
        }
        Some((low, high))
    })
}

impl Pairs {
    /// The pairs of a list, of which no UID stands there twice.
    fn zip(
        validity: u32,
        source: impl Iterator<Item = (u32, u32)>,
        target: impl Iterator<Item = (u32, u32)>,
    ) -> Pairs {
        Pairs { validity, lists: vec![zip(source, target).map(<[i64; 3]>::from).collect()] }
    }

    /// Reads the line `* OK [COPYUID ...]` that the journal has kept.
    pub fn read(line: &[u8]) -> Option<Pairs> {
        use super::response::{Response, Untagged};
        match Response::parse(line) {
            Response::Untagged(Untagged::Status(status)) => {
                Copyuid::parse(status.code("COPYUID")?).map(|copyuid| copyuid.pairs)
            }
            _ => None,
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.runs().map(|run| u64::from(run.count)).sum()
    }

    /// The messages' UIDs in the source.
    pub fn messages(&self) -> UidSet {
        all_of(self.runs().map(Run::messages))
    }

    /// Whether a UID is among the messages and among the copies.
    pub fn meet(&self) -> bool {
        self.messages().meets(&self.copies())
    }

    fn runs(&self) -> impl Iterator<Item = Run> {
        self.lists.iter().flat_map(Packed::iter).map(Run::from)
    }

    fn each(&self) -> impl Iterator<Item = (u32, u32)> {
        self.runs().flat_map(|run| (0..run.count).map(move |k| (run.source + k, run.target + k)))
    }

    /// The copies' UIDs.
    pub fn copies(&self) -> UidSet {
        all_of(self.runs().map(Run::copies))
    }

    /// The copies of what was found in the source.
    pub fn spare(&self, found: &Found) -> Option<Spare> {
        partners(&found.0, self.runs().map(|run| (run.source, run.target, run.count))).map(Spare)
    }

    /// The messages whose copies these are.
    pub fn sources(&self, copies: &UidSet) -> Option<UidSet> {
        partners(copies, self.runs().map(|run| (run.target, run.source, run.count)))
    }

    /// The line `* OK [COPYUID ...]`. Several COPYs: merged, pairs in the upstream's order, never sorted apart (MOVE-9).
    pub fn line(&self) -> BytesMut {
        let sides: [fn(Run) -> (u32, u32); 2] = [Run::messages, Run::copies];
        let length: usize = sides.iter().flat_map(|side| self.side(*side)).flatten().map(text_length).sum();
        let mut line = BytesMut::with_capacity(length + ROOM);
        line.extend_from_slice(format!("* OK [COPYUID {}", self.validity).as_bytes());
        for side in sides {
            for (at, list) in self.side(side).enumerate() {
                line.extend_from_slice(if at > 0 { b"," } else { b" " });
                write_ranges(&mut line, list).expect("a buffer takes all");
            }
        }
        line.extend_from_slice(b"] Moved\r\n");
        line
    }

    /// The same for the journal, which keeps it: without room for more.
    pub fn record(&self) -> Vec<u8> {
        let mut line = Vec::from(self.line());
        line.shrink_to_fit();
        line
    }

    /// The messages or the copies, list by list, neighbours as one range.
    fn side(&self, of: fn(Run) -> (u32, u32)) -> impl Iterator<Item = impl Iterator<Item = (u32, u32)>> {
        self.lists.iter().map(move |list| joined(list.iter().map(move |row| of(row.into()))))
    }
}

/// For what stands around the lists, and for what else the client gets with them: a buffer that grows is there twice for a
/// moment.
const ROOM: usize = 72 * 1024;

fn all_of(ranges: impl Iterator<Item = (u32, u32)>) -> UidSet {
    UidSet::normalise(ranges).expect("pairs are of one message at least")
}

/// What stands across from `set`, in runs of neighbours: (there, across, how many).
fn partners(set: &UidSet, runs: impl Iterator<Item = (u32, u32, u32)>) -> Option<UidSet> {
    let of_run = |(there, across, count): (u32, u32, u32)| {
        let partner = move |uid: u32| across + (uid - there);
        set.within((there, there + (count - 1))).map(move |(a, b)| (partner(a), partner(b)))
    };
    UidSet::normalise(runs.flat_map(of_run))
}

/// A `COPYUID`: pairs stay in the upstream's order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Copyuid {
    pairs: Pairs,
    messages: UidSet,
}

impl Copyuid {
    /// Reads the code's argument; `None` if it is malformed or the two lists are not equally long.
    fn parse(argument: &[u8]) -> Option<Copyuid> {
        let (validity, source, target) = grammar::copyuid(argument)?;
        let copies = distinct(target)?.count();
        let ranges = |list| grammar::uid_ranges(list).flatten();
        let pairs = Pairs::zip(validity, ranges(source), ranges(target));
        let messages = distinct(source).filter(|messages| messages.count() == copies)?;
        Some(Copyuid { pairs, messages })
    }
}

/// The UIDs of a list, if it is well-formed. One that stands there twice was copied twice, or is the copy of two messages.
fn distinct(list: &[u8]) -> Option<UidSet> {
    let mut ranges = Vec::with_capacity(list.split(|c| *c == b',').count());
    for range in grammar::uid_ranges(list) {
        ranges.push(range?);
    }
    let named: u64 = ranges.iter().map(|(a, b)| u64::from(b - a) + 1).sum();
    UidSet::normalise(ranges).filter(|set| set.count() == named)
}

/// A COPYUID that proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

fn read(argument: &[u8]) -> Result<Copyuid, Malformed> {
    Copyuid::parse(argument).ok_or(Malformed)
}

/// Whether a code may be about these messages.
fn concerns(code: &Result<Copyuid, Malformed>, set: &UidSet) -> bool {
    code.as_ref().map_or(true, |code| code.messages.meets(set))
}

/// The COPYs of one MOVE, and what the upstream said to each.
#[derive(Debug)]
pub struct Copies {
    chunks: Vec<Chunk>,
    /// Codes that came untagged: in the order in which they came.
    untagged: Vec<Result<Copyuid, Malformed>>,
}

/// One COPY and what came of it.
#[derive(Debug)]
struct Chunk {
    set: UidSet,
    answer: Option<Answer>,
    repeated: bool,
}

#[derive(Debug)]
enum Answer {
    /// OK, with what its own code says.
    Accepted(Option<Result<Copyuid, Malformed>>),
    /// NO or BAD: the status line from the condition on, whether to try again, and whether it may have copied all the same.
    Refused { reply: Vec<u8>, expunge_issued: bool, uncertain: bool },
}

impl Answer {
    fn read(status: &Status<'_>) -> Answer {
        if status.is_ok() {
            return Answer::Accepted(status.code("COPYUID").map(read));
        }
        let expunge_issued = status.code("EXPUNGEISSUED").is_some();
        // Of its own rules it has just broken one, and that may be the one that a refused COPY copies nothing.
        let uncertain = status.code("SERVERBUG").is_some() || status.code("COPYUID").is_some();
        Answer::Refused { reply: status.whole.to_vec(), expunge_issued, uncertain }
    }
}

/// A COPY that was refused: the upstream's words, and the messages that it left untouched.
#[derive(Debug)]
pub struct Refused {
    pub reply: Vec<u8>,
    pub set: UidSet,
    /// One of the refusals leaves open whether copies were made: SERVERBUG (RFC 5530), or a COPYUID came all the same.
    pub uncertain: bool,
}

/// What the COPYs have proved.
#[derive(Debug)]
pub struct Proof {
    /// The messages that are in the target.
    pub copied: Copied,
    /// Which copy is whose, if all are in one target.
    pub pairs: Option<Pairs>,
}

impl Copies {
    /// One COPY for each of these sets, none of them sent.
    pub fn new(sets: Vec<UidSet>) -> Copies {
        let chunks = sets.into_iter().map(|set| Chunk { set, answer: None, repeated: false }).collect();
        Copies { chunks, untagged: Vec::new() }
    }

    /// Those that have no answer.
    pub fn due(&self) -> impl Iterator<Item = (usize, &UidSet)> {
        let due = self.chunks.iter().enumerate().filter(|(_, chunk)| chunk.answer.is_none());
        due.map(|(index, chunk)| (index, &chunk.set))
    }

    /// The tagged reply to one of them.
    pub fn answered(&mut self, index: usize, status: &Status<'_>) {
        self.chunks[index].answer = Some(Answer::read(status));
    }

    /// An untagged status response. Whether it is about them.
    pub fn said(&mut self, status: &Status<'_>) -> bool {
        let copyuid = status.code("COPYUID").map(read);
        let about_them = copyuid.is_some();
        self.untagged.extend(copyuid);
        if self.untagged.len() > 2 * self.chunks.len() {
            // More than anybody has asked for: none of them is believed, and they do not pile up.
            self.untagged = vec![Err(Malformed)];
        }
        about_them
    }

    /// `NO [EXPUNGEISSUED]` to a COPY: once more (MOVE-8). Whether one is due again.
    pub fn forget_expunge_issued(&mut self) -> bool {
        let issued = |chunk: &&mut Chunk| {
            !chunk.repeated && matches!(chunk.answer, Some(Answer::Refused { expunge_issued: true, .. }))
        };
        let again = self.chunks.iter_mut().filter(issued);
        again.map(|chunk| (chunk.answer, chunk.repeated) = (None, true)).count() > 0
    }

    /// What is proved: by at most one COPYUID for each COPY, of UIDs that were asked for, each with its own copy.
    pub fn proof(&self) -> Option<Proof> {
        let proofs = self.proofs()?;
        let copied = Copied(messages_of(&proofs)?);
        let validity = proofs.first()?.pairs.validity;
        let one_target = proofs.iter().all(|proof| proof.pairs.validity == validity);
        let lists = || proofs.iter().flat_map(|proof| proof.pairs.lists.iter().cloned()).collect();
        Some(Proof { copied, pairs: one_target.then(|| Pairs { validity, lists: lists() }) })
    }

    /// The messages that are proved to be copied.
    pub fn copied(&self) -> Option<UidSet> {
        messages_of(&self.proofs()?)
    }

    fn proofs(&self) -> Option<Vec<&Copyuid>> {
        let proofs: Vec<_> = self.chunks.iter().filter_map(|chunk| self.proof_of(chunk)).collect();
        // Of one COPYUID it is known already.
        let several = proofs.len() > 1;
        let copies =
            || UidSet::normalise(proofs.iter().flat_map(|proof| proof.pairs.runs().map(Run::copies)));
        let named: u64 = proofs.iter().map(|proof| proof.messages.count()).sum();
        let each_has_its_own = !several || copies().is_some_and(|copies| copies.count() == named);
        (!proofs.is_empty() && each_has_its_own).then_some(proofs)
    }

    fn proof_of<'a>(&'a self, chunk: &'a Chunk) -> Option<&'a Copyuid> {
        let Some(Answer::Accepted(tagged)) = &chunk.answer else { return None };
        let of_this = self.untagged.iter().filter(|code| concerns(code, &chunk.set));
        let mut said = tagged.iter().chain(of_this);
        let first = said.next()?.as_ref().ok()?;
        // It may come tagged, untagged or both; two that differ prove nothing.
        let agree = said.all(|other| other.as_ref() == Ok(first));
        (agree && chunk.set.contains_all(&first.messages)).then_some(first)
    }

    /// Whether any of them was accepted, or may have been.
    pub fn may_have_copied(&self) -> bool {
        self.chunks.iter().any(|chunk| !matches!(chunk.answer, Some(Answer::Refused { .. })))
    }

    /// The first refusal, and the messages that it and the others left untouched.
    pub fn refused(&self) -> Option<Refused> {
        let refused = self.chunks.iter().filter_map(|chunk| match &chunk.answer {
            Some(Answer::Refused { reply, uncertain, .. }) => {
                let uncertain = *uncertain || self.untagged.iter().any(|code| concerns(code, &chunk.set));
                Some(Refused { reply: reply.clone(), set: chunk.set.clone(), uncertain })
            }
            _ => None,
        });
        refused.reduce(|first, other| Refused {
            set: first.set.union(&other.set),
            uncertain: first.uncertain || other.uncertain,
            ..first
        })
    }

    /// Whether each accepted one brought a COPYUID that proves something.
    pub fn all_accepted_are_proved(&self) -> bool {
        let accepted = |chunk: &&Chunk| matches!(chunk.answer, Some(Answer::Accepted(_)));
        self.chunks.iter().filter(accepted).all(|chunk| self.proof_of(chunk).is_some())
    }

    /// What the accepted ones were asked for and did not prove. With a `listing` of all that was there, what it
    /// does not name needs no proof, unless a proof is missing as a whole.
    pub fn unproven(&self, listing: Option<&Collected>) -> Option<UidSet> {
        let accepted =
            || self.chunks.iter().filter(|chunk| matches!(chunk.answer, Some(Answer::Accepted(_))));
        let asked = UidSet::normalise(accepted().flat_map(|chunk| chunk.set.ranges().iter().copied()))?;
        let Some(copied) = self.copied() else { return Some(asked) };
        match listing.filter(|_| self.all_accepted_are_proved()) {
            Some(listing) => listing.set()?.without(&copied)?.intersection(&asked),
            None => asked.without(&copied),
        }
    }
}

/// Each COPY was of other messages.
fn messages_of(proofs: &[&Copyuid]) -> Option<UidSet> {
    match proofs {
        [proof] => Some(proof.messages.clone()),
        _ => UidSet::normalise(proofs.iter().flat_map(|proof| proof.messages.ranges().iter().copied())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A list as an upstream might write it: ranges that do not meet, in any order.
    fn list() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let ranges = prop::collection::vec((1u32..5, 0u32..4), 1..8);
        let spread = ranges.prop_map(|ranges| {
            let mut at = 0;
            let place = |(gap, more): (u32, u32)| {
                let low = at + gap;
                at = low + more;
                (low, at)
            };
            ranges.into_iter().map(place).collect::<Vec<_>>()
        });
        spread.prop_shuffle()
    }

    proptest! {
        #[test]
        fn fault_1_the_copy_of_each_message_agrees_with_a_naive_twin(
            source in list(), target in list(), found in prop::collection::btree_set(1u32..40, 1..20),
        ) {
            let members = |ranges: &[(u32, u32)]| ranges.iter().flat_map(|(a, b)| *a..=*b).collect::<Vec<_>>();
            let cut = members(&source).len().min(members(&target).len());
            let one_by_one = |list: &[(u32, u32)]| members(list)[..cut].iter().map(|n| (*n, *n)).collect::<Vec<_>>();
            // One side in ranges as long as they may be, the other one by one.
            let pairs = if members(&source).len() == cut {
                Pairs::zip(1, source.iter().copied(), one_by_one(&target).into_iter())
            } else {
                Pairs::zip(1, one_by_one(&source).into_iter(), target.iter().copied())
            };
            let twin: Vec<(u32, u32)> = members(&source).into_iter().zip(members(&target)).collect();
            prop_assert_eq!(pairs.count(), cut as u64);
            let told = Pairs::read(&pairs.line()).unwrap();
            prop_assert_eq!(told.each().collect::<Vec<_>>(), twin.clone());
            let set = UidSet::normalise(found.iter().map(|n| (*n, *n))).unwrap();
            let expected = twin.iter().filter(|(s, _)| found.contains(s)).map(|(_, t)| (*t, *t));
            let spare = pairs.spare(&Found::by_search(set.clone())).map(|spare| spare.uids().clone());
            prop_assert_eq!(&spare, &UidSet::normalise(expected));
            let back = spare.and_then(|spare| pairs.sources(&spare));
            prop_assert_eq!(back, UidSet::normalise(twin.iter().map(|(s, _)| (*s, *s))).unwrap().intersection(&set));
        }
    }

    #[test]
    fn fault_1_pairs_are_read_from_the_line_that_was_written() {
        let pairs = Pairs::read(b"* OK [COPYUID 7 2,4:5 9:10,3] Moved\r\n").unwrap();
        assert_eq!((pairs.validity, pairs.count(), pairs.copies().to_string()), (7, 3, "3,9:10".into()));
        for bad in
            [&b"* OK Moved\r\n"[..], b"* OK [COPYUID 7 2 3:4] x\r\n", b"* OK [COPYUID 7 2:3 4,4] x\r\n", b""]
        {
            assert_eq!(Pairs::read(bad), None, "{}", bad.escape_ascii());
        }
    }
}
