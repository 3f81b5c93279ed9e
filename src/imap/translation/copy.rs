//! The first flight: list, search, COPY. COPYUID is the proof of what was copied (MOVE-6).

use super::numbers::Numbers;
use super::remove::Removing;
use super::{Claim, Job, Next, Stage, Translation, Verdict, named};
use crate::imap::Outcome;
use crate::imap::command::{Flight, Purpose};
use crate::imap::grammar::{self, FetchedState};
use crate::imap::response::{Status, Untagged};
use crate::imap::sequence::{Collected, UidSet};

/// Messages that are proved to be in the target: an accepted COPY named them. Made here alone, and STORE
/// and UID EXPUNGE can be written for nothing else.
#[derive(Clone, Debug)]
pub struct Copied(UidSet);

impl Copied {
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
    Accepted(Option<Result<Copyuid, ()>>),
    /// NO or BAD: the status line from the condition on, and whether to try again.
    Refused { reply: Vec<u8>, expunge_issued: bool },
}

/// The first flight is on its way.
#[derive(Debug)]
pub struct Copying {
    set: UidSet,
    chunks: Vec<Chunk>,
    watch: Watch,
    untagged: Vec<Result<Copyuid, ()>>,
    listing_is_whole: bool,
    flagged_before: Collected,
}

impl Copying {
    pub fn begin(job: Job, set: UidSet) -> Next {
        let new = |set| Chunk { set, answer: None, repeated: false };
        let chunks: Vec<_> = job.writer.copy_chunks(&set, &job.target).into_iter().map(new).collect();
        let mut flight = job.writer.list(&set);
        flight.extend(job.writer.search_deleted(&set));
        flight.extend(copies(&job, &chunks));
        let stage = Copying {
            set,
            chunks,
            watch: Watch::default(),
            untagged: Vec::new(),
            listing_is_whole: true,
            flagged_before: Collected::default(),
        };
        Next::Send(flight, Box::new(Translation { job, stage: Stage::Copy(stage) }))
    }

    pub fn data(&mut self, data: &Untagged<'_>) -> Claim {
        match data {
            Untagged::Fetch(number, items) => match grammar::fetched_state(items) {
                Some(FetchedState { uid: Some(uid), more }) if self.list(*number, uid) && !more => {
                    Claim::Mine
                }
                _ => Claim::Forward,
            },
            Untagged::Search(numbers) => {
                let known = grammar::search_numbers(numbers).filter(|uid| self.set.contains(*uid));
                known.for_each(|uid| self.flagged_before.push(uid));
                Claim::Mine
            }
            Untagged::Status(status) if status.code("COPYUID").is_some() => {
                let copyuid = status.code("COPYUID").and_then(Copyuid::parse);
                self.untagged.push(copyuid.ok_or(()));
                Claim::Mine
            }
            _ => {
                self.watch.removal(data);
                Claim::Forward
            }
        }
    }

    /// Whether the message is one of the set and was not listed yet.
    fn list(&mut self, number: u32, uid: u32) -> bool {
        let news = self.set.contains(uid) && self.watch.numbers.uid(number) != Some(uid);
        if news {
            self.watch.numbers.insert(number, uid);
            self.watch.listed.push(uid);
        }
        news
    }

    pub fn answered(&mut self, purpose: Purpose, status: &Status<'_>) {
        match purpose {
            Purpose::List => self.listing_is_whole &= status.is_ok(),
            Purpose::Copy(index) => self.chunks[index].answer = Some(Answer::read(status)),
            _ => {}
        }
    }

    pub fn landed(mut self, job: Job, framed: bool) -> Next {
        if framed && self.forget_expunge_issued() {
            let flight = copies(&job, &self.chunks);
            return Next::Send(flight, Box::new(Translation { job, stage: Stage::Copy(self) }));
        }
        if !framed {
            return Next::Finish(self.not_framed());
        }
        let proofs = self.proofs();
        let refused = self.refused();
        let unproven = self.unproven(&proofs);
        match UidSet::normalise(proofs.iter().flat_map(|p| p.source.ranges().iter().copied())) {
            Some(uids) => {
                let copyuid = copyuid_line(&proofs);
                let flagged_before = self.flagged_before.set();
                let proved = Proved { copied: Copied(uids), copyuid, unproven, refused, flagged_before };
                Removing::begin(job, proved, self.watch)
            }
            None => match unproven {
                Some(set) => Unproven::begin(job, set, refused),
                None => Next::Finish(refusal(refused)),
            },
        }
    }

    /// `NO [EXPUNGEISSUED]` to a COPY: once more (MOVE-8). Whether there is one to repeat.
    fn forget_expunge_issued(&mut self) -> bool {
        let mut any = false;
        for chunk in self.chunks.iter_mut().filter(|chunk| !chunk.repeated) {
            if matches!(chunk.answer, Some(Answer::Refused { expunge_issued: true, .. })) {
                chunk.answer = None;
                chunk.repeated = true;
                any = true;
            }
        }
        any
    }

    /// What is proved, in the order of the COPYs: at most one COPYUID for each, of UIDs that were asked for.
    fn proofs(&self) -> Vec<Copyuid> {
        self.chunks.iter().filter_map(|chunk| self.proof(chunk)).collect()
    }

    fn proof(&self, chunk: &Chunk) -> Option<Copyuid> {
        let Some(Answer::Accepted(tagged)) = &chunk.answer else { return None };
        let of_this = |c: &&Result<Copyuid, ()>| {
            c.as_ref().map_or(true, |c| c.source.intersection(&chunk.set).is_some())
        };
        let mut said = tagged.iter().chain(self.untagged.iter().filter(of_this));
        let first = said.next()?.as_ref().ok()?;
        // It may come tagged, untagged or both; two that differ prove nothing.
        let agree = said.all(|other| other.as_ref() == Ok(first));
        (agree && chunk.set.contains_all(&first.source)).then(|| first.clone())
    }

    /// The first refusal, and the messages that it and the others left untouched.
    fn refused(&self) -> Option<Refused> {
        let mut found: Option<Refused> = None;
        for chunk in &self.chunks {
            if let Some(Answer::Refused { reply, .. }) = &chunk.answer {
                match &mut found {
                    Some(refused) => refused.set = refused.set.union(&chunk.set),
                    None => found = Some(Refused { reply: reply.clone(), set: chunk.set.clone() }),
                }
            }
        }
        found
    }

    /// What an accepted COPY was asked for and did not prove: not copied, or not provably.
    fn unproven(&self, proofs: &[Copyuid]) -> Option<UidSet> {
        let accepted = self.chunks.iter().filter(|chunk| matches!(chunk.answer, Some(Answer::Accepted(_))));
        let asked = UidSet::normalise(accepted.flat_map(|chunk| chunk.set.ranges().iter().copied()))?;
        let proved = UidSet::normalise(proofs.iter().flat_map(|p| p.source.ranges().iter().copied()));
        let Some(proved) = proved else { return Some(asked) };
        let rest = asked.without(&proved)?;
        // What the listing did not name is not there; where a proof is missing as a whole, ask all the same.
        let whole = self.listing_is_whole && proofs.len() == self.chunks.len();
        if whole { self.watch.listed.set().and_then(|listed| listed.intersection(&rest)) } else { Some(rest) }
    }

    pub fn upstream_lost(&self) -> Verdict {
        self.all_stay(
            Outcome::UpstreamLost,
            "NO [UNAVAILABLE] The mail server went away before it said that the messages were copied; all are still in \
             the source, copies may be in the target",
        )
    }

    fn not_framed(&self) -> Verdict {
        self.all_stay(
            Outcome::Incomplete,
            "NO [SERVERBUG] The mail server answered commands that nobody sent, so nothing was removed; all messages are \
             still in the source, copies may be in the target",
        )
    }

    fn all_stay(&self, outcome: Outcome, reply: &str) -> Verdict {
        let mut verdict = Verdict::new(outcome, reply);
        verdict.left_behind = self.watch.listed.set().map_or(0, |set| set.count());
        verdict
    }
}

impl Answer {
    fn read(status: &Status<'_>) -> Answer {
        if status.is_ok() {
            let copyuid = status.code("COPYUID").map(|argument| Copyuid::parse(argument).ok_or(()));
            return Answer::Accepted(copyuid);
        }
        let expunge_issued = status.code("EXPUNGEISSUED").is_some();
        Answer::Refused { reply: status.whole.to_vec(), expunge_issued }
    }
}

/// The COPYs that have no answer yet.
fn copies(job: &Job, chunks: &[Chunk]) -> Flight {
    let due = chunks.iter().enumerate().filter(|(_, chunk)| chunk.answer.is_none());
    due.map(|(index, chunk)| job.writer.copy(index, &chunk.set, &job.target)).collect()
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

/// MOVE-14: the upstream's own words under the client's tag.
fn refusal(refused: Option<Refused>) -> Verdict {
    match refused {
        Some(refused) => Verdict::new(Outcome::Refused, refused.reply),
        None => {
            Verdict::new(Outcome::Refused, "NO The mail server did not copy the messages; nothing was moved")
        }
    }
}

/// A COPY that was refused: the upstream's words, and the messages that it left untouched.
#[derive(Debug)]
pub struct Refused {
    pub reply: Vec<u8>,
    pub set: UidSet,
}

/// What the first flight has shown.
#[derive(Debug)]
pub struct Proved {
    pub copied: Copied,
    /// For the client, if it can be told.
    pub copyuid: Option<Vec<u8>>,
    /// Asked for, accepted, not proved.
    pub unproven: Option<UidSet>,
    pub refused: Option<Refused>,
    /// Had `\\Deleted` before the gateway set it.
    pub flagged_before: Option<UidSet>,
}

/// COPY said OK and proved nothing: is anything there at all?
#[derive(Debug)]
pub struct Unproven {
    set: UidSet,
    refused: Option<Refused>,
    found: Collected,
    /// A SEARCH response came, and every search was answered OK.
    searched: bool,
    failed: bool,
}

impl Unproven {
    fn begin(job: Job, set: UidSet, refused: Option<Refused>) -> Next {
        let flight = job.writer.search(&set);
        let stage = Unproven { set, refused, found: Collected::default(), searched: false, failed: false };
        Next::Send(flight, Box::new(Translation { job, stage: Stage::Unproven(stage) }))
    }

    pub fn data(&mut self, data: &Untagged<'_>) -> Claim {
        let Untagged::Search(numbers) = data else { return Claim::Forward };
        self.searched = true;
        let found = grammar::search_numbers(numbers).filter(|uid| self.set.contains(*uid));
        found.for_each(|uid| self.found.push(uid));
        Claim::Mine
    }

    pub fn answered(&mut self, status: &Status<'_>) {
        self.failed |= !status.is_ok();
    }

    fn there(&self) -> Option<UidSet> {
        if self.failed || !self.searched { Some(self.set.clone()) } else { self.found.set() }
    }

    pub fn landed(self) -> Verdict {
        match (self.there(), self.refused) {
            (Some(set), _) => cannot(&set),
            (None, Some(refused)) => refusal(Some(refused)),
            (None, None) => Verdict::new(Outcome::Moved, "OK No messages to move"),
        }
    }

    pub fn upstream_lost(self) -> Verdict {
        let mut verdict = cannot(&self.set);
        verdict.outcome = Outcome::UpstreamLost;
        verdict
    }
}

/// MOVE-6: no COPYUID, nothing flagged.
fn cannot(set: &UidSet) -> Verdict {
    let reply = format!(
        "NO [CANNOT] The mail server does not say what it copied (no COPYUID), so nothing was removed: {} stay in the \
         source, copies may be in the target",
        named(set)
    );
    let mut verdict = Verdict::new(Outcome::Incomplete, reply);
    verdict.left_behind = set.count();
    verdict.unprovable_target = true;
    verdict
}
