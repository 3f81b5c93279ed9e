//! What proves that messages were copied: an accepted COPY and the COPYUID that it brought (RFC 4315, MOVE-6).

use super::grammar;
use super::response::Status;
use super::sequence::{Collected, UidSet};

/// Messages that are proved to be in the target: an accepted COPY named them. Made here alone, and STORE
/// and UID EXPUNGE can be written for nothing else.
#[derive(Clone, Debug)]
pub struct Copied(UidSet);

impl Copied {
    fn by(proofs: &[Copyuid]) -> Option<Copied> {
        UidSet::normalise(proofs.iter().flat_map(|proof| proof.source.ranges().iter().copied())).map(Copied)
    }

    /// Their UIDs in the source.
    pub fn uids(&self) -> &UidSet {
        &self.0
    }

    /// Those of them that are in `set`.
    pub fn only(&self, set: &UidSet) -> Option<Copied> {
        self.0.intersection(set).map(Copied)
    }
}

/// `COPYUID` as the upstream wrote it: pairs stay in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Copyuid {
    validity: u32,
    source: UidSet,
    source_text: Vec<u8>,
    target_text: Vec<u8>,
}

impl Copyuid {
    /// Reads the code's argument; `None` if it is malformed or the two lists are not equally long.
    fn parse(argument: &[u8]) -> Option<Copyuid> {
        let (validity, (source_text, source), (target_text, target)) = grammar::copyuid(argument)?;
        let length =
            |ranges: &[(u32, u32)]| -> u64 { ranges.iter().map(|(a, b)| u64::from(b - a) + 1).sum() };
        let asked = length(&source);
        let source = UidSet::normalise(source)?;
        // A UID that stands there twice was copied twice.
        let proves = asked == length(&target) && asked == source.count();
        proves.then(|| Copyuid {
            validity,
            source,
            source_text: source_text.to_vec(),
            target_text: target_text.to_vec(),
        })
    }
}

/// A COPYUID that proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

fn read(argument: &[u8]) -> Result<Copyuid, Malformed> {
    Copyuid::parse(argument).ok_or(Malformed)
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
    /// NO or BAD: the status line from the condition on, and whether to try again.
    Refused { reply: Vec<u8>, expunge_issued: bool },
}

impl Answer {
    fn read(status: &Status<'_>) -> Answer {
        if status.is_ok() {
            return Answer::Accepted(status.code("COPYUID").map(read));
        }
        let expunge_issued = status.code("EXPUNGEISSUED").is_some();
        Answer::Refused { reply: status.whole.to_vec(), expunge_issued }
    }
}

/// A COPY that was refused: the upstream's words, and the messages that it left untouched.
#[derive(Debug)]
pub struct Refused {
    pub reply: Vec<u8>,
    pub set: UidSet,
}

/// What the COPYs have proved.
#[derive(Debug)]
pub struct Proof {
    /// The messages that are in the target.
    pub copied: Copied,
    /// For the client, if there is one line that is true of all (MOVE-9).
    pub copyuid: Option<Vec<u8>>,
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

    /// What is proved: by at most one COPYUID for each COPY, of UIDs that were asked for.
    pub fn proof(&self) -> Option<Proof> {
        let proofs: Vec<_> = self.chunks.iter().filter_map(|chunk| self.proof_of(chunk)).collect();
        Copied::by(&proofs).map(|copied| Proof { copied, copyuid: copyuid_line(&proofs) })
    }

    fn proof_of(&self, chunk: &Chunk) -> Option<Copyuid> {
        let Some(Answer::Accepted(tagged)) = &chunk.answer else { return None };
        let of_this = |c: &&Result<Copyuid, Malformed>| {
            c.as_ref().map_or(true, |c| c.source.intersection(&chunk.set).is_some())
        };
        let mut said = tagged.iter().chain(self.untagged.iter().filter(of_this));
        let first = said.next()?.as_ref().ok()?;
        // It may come tagged, untagged or both; two that differ prove nothing.
        let agree = said.all(|other| other.as_ref() == Ok(first));
        (agree && chunk.set.contains_all(&first.source)).then(|| first.clone())
    }

    /// Whether any of them was accepted, or may have been.
    pub fn may_have_copied(&self) -> bool {
        self.chunks.iter().any(|chunk| !matches!(chunk.answer, Some(Answer::Refused { .. })))
    }

    /// The first refusal, and the messages that it and the others left untouched.
    pub fn refused(&self) -> Option<Refused> {
        let refused = self.chunks.iter().filter_map(|chunk| match &chunk.answer {
            Some(Answer::Refused { reply, .. }) => Some((reply, &chunk.set)),
            _ => None,
        });
        let one = |(reply, set): (&Vec<u8>, &UidSet)| Refused { reply: reply.clone(), set: set.clone() };
        refused.map(one).reduce(|first, other| Refused { set: first.set.union(&other.set), ..first })
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
        let Some(proof) = self.proof() else { return Some(asked) };
        let rest = asked.without(proof.copied.uids())?;
        match listing.filter(|_| self.all_accepted_are_proved()) {
            Some(listing) => listing.set()?.intersection(&rest),
            None => Some(rest),
        }
    }
}

/// Several COPYs: merged, pairs in the upstream's order, never sorted apart; different UIDVALIDITY: none
/// (MOVE-9).
fn copyuid_line(proofs: &[Copyuid]) -> Option<Vec<u8>> {
    let first = proofs.first()?;
    let same = proofs.iter().all(|proof| proof.validity == first.validity);
    let join = |text: fn(&Copyuid) -> &[u8]| proofs.iter().map(text).collect::<Vec<_>>().join(&b","[..]);
    let mut line = format!("* OK [COPYUID {} ", first.validity).into_bytes();
    line.extend(join(|proof| &proof.source_text));
    line.push(b' ');
    line.extend(join(|proof| &proof.target_text));
    line.extend_from_slice(b"] Moved\r\n");
    same.then_some(line)
}
