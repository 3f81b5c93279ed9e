//! The first flight: list, search, COPY. COPYUID is the proof of what was copied (MOVE-6).

use super::remove::{Proved, Removing};
use super::unproven::Unproven;
use super::watch::Watch;
use super::{Claim, Job, Next, Stage, Translation, Verdict, refusal};
use crate::imap::Outcome;
use crate::imap::grammar::{self, FetchedState};
use crate::imap::own_command::{Flight, Purpose};
use crate::imap::proof::Copies;
use crate::imap::response::{Status, Untagged};
use crate::imap::searched::Searched;
use crate::imap::selected::Writable;
use crate::imap::sequence::UidSet;

/// The first flight is on its way.
#[derive(Debug)]
pub struct Copying {
    set: UidSet,
    again: bool,
    /// Messages have come while the COPY was on its way.
    arrivals: bool,
    copies: Copies,
    watch: Watch,
    listing_is_whole: bool,
    /// What was copied without being listed has been listed behind the COPY.
    listed_late: bool,
    /// Which had `\Deleted` before the gateway set it.
    searched: Searched,
}

impl Copying {
    pub fn set(&self) -> &UidSet {
        &self.set
    }

    /// What is copied must be able to leave `_source` afterwards.
    pub fn begin(job: Job, set: UidSet, _source: Writable<'_>) -> Next {
        Copying::send(job, set, false)
    }

    /// Once more, for what arrived behind a COPY that found nothing.
    pub fn again(job: Job, set: UidSet) -> Next {
        Copying::send(job, set, true)
    }

    fn send(job: Job, set: UidSet, again: bool) -> Next {
        let copies = Copies::new(job.writer.copy_chunks(&set, &job.target));
        let mut flight = job.writer.list(&set);
        let searches = job.writer.search_deleted(&set);
        let searched = Searched::of(searches.len());
        flight.extend(searches);
        flight.extend(due(&job, &copies));
        let stage = Copying {
            set,
            again,
            arrivals: false,
            copies,
            watch: Watch::default(),
            listing_is_whole: true,
            listed_late: false,
            searched,
        };
        Next::Send(flight, Box::new(Translation { job, stage: Stage::Copy(Box::new(stage)) }))
    }

    pub fn data(&mut self, data: &Untagged<'_>) -> Claim {
        match data {
            Untagged::Fetch(number, items) => match grammar::fetched_state(items) {
                Some(FetchedState { uid: Some(uid), more }) if self.set.contains(uid) => {
                    self.watch.list(*number, uid, more)
                }
                _ => Claim::Forward,
            },
            Untagged::Search(numbers) => {
                self.searched.data(numbers);
                Claim::Mine
            }
            Untagged::Status(status) if self.copies.said(status) => Claim::Mine,
            _ => {
                self.arrivals |= matches!(data, Untagged::Exists(_));
                self.watch.removal(data);
                Claim::Forward
            }
        }
    }

    pub fn answered(&mut self, purpose: Purpose, status: &Status<'_>) {
        match purpose {
            Purpose::List if !self.listed_late => self.listing_is_whole &= status.is_ok(),
            Purpose::SearchDeleted => self.searched.answered(status),
            Purpose::Copy(index) => self.copies.answered(index, status),
            _ => {}
        }
    }

    pub fn landed(mut self, job: Job, framed: bool) -> Next {
        if !framed {
            return Next::Finish(self.not_framed());
        }
        if self.copies.forget_expunge_issued() {
            let flight = due(&job, &self.copies);
            return Next::Send(flight, Box::new(Translation { job, stage: Stage::Copy(Box::new(self)) }));
        }
        if let Some(late) = self.copied_unlisted().filter(|_| !self.listed_late) {
            self.listed_late = true;
            let flight = job.writer.list(&late);
            return Next::Send(flight, Box::new(Translation { job, stage: Stage::Copy(Box::new(self)) }));
        }
        let refused = self.copies.refused();
        let unproven = self.copies.unproven(Some(&self.watch.listed).filter(|_| self.listing_is_whole));
        match (self.copies.proof(), unproven) {
            (Some(proof), unproven) => {
                let flagged_before = self.searched.is_certain().then(|| self.searched.there(&self.set));
                let proof_is_missing = !self.copies.all_accepted_are_proved();
                drop(self.copies);
                let proved = Proved { proof, unproven, proof_is_missing, refused, flagged_before };
                Removing::begin(job, proved, self.watch)
            }
            (None, Some(unproven)) => {
                let was_there = if self.listing_is_whole { self.watch.listed.set() } else { Some(self.set) };
                Unproven::begin(job, unproven, was_there, refused, !self.again && !self.arrivals)
            }
            (None, None) => Next::Finish(refusal(refused)),
        }
    }

    /// Messages that arrived behind the listing and were copied all the same: without their numbers, what the
    /// upstream says of them cannot be told from what it says of others.
    fn copied_unlisted(&self) -> Option<UidSet> {
        let copied = self.copies.copied()?;
        match self.watch.listed.set() {
            Some(listed) => copied.without(&listed),
            None => Some(copied),
        }
    }

    pub fn upstream_lost(&self) -> Verdict {
        if !self.copies.may_have_copied() {
            return refusal(self.copies.refused());
        }
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

/// The COPYs that have no answer yet.
fn due(job: &Job, copies: &Copies) -> Flight {
    copies.due().map(|(index, set)| job.writer.copy(index, set, &job.target)).collect()
}
