//! Undo: a message that does not leave the source loses its copy again (FAULT-1).
//!
//! What has left the source has its only copy in the target, so a copy is removed only if its message was found in
//! the source just before, and would not go with the next EXPUNGE there. Each step is seen to have worked before the
//! next begins.

use super::remove::Removing;
use super::{Claim, Job, Next, Stage, Translation, Verdict, named};
use crate::imap::Outcome;
use crate::imap::grammar;
use crate::imap::own_command::Flight;
use crate::imap::proof::{Doubled, Found, Spare};
use crate::imap::response::{Status, Untagged};
use crate::imap::searched::Searched;
use crate::imap::selected::{Opened, Selected};
use crate::imap::sequence::UidSet;

/// To a client whose mailbox had to be left for the target.
const LEFT: &str = "A move was undone, for which your mailbox had to be closed: connect again";
/// The tagged reply, up to what is left where, if not all could be undone.
const FAILED: &str =
    "NO [CONTACTADMIN] The mail server did not remove all messages, and not all of that could be undone";

/// Where the undo stands.
#[derive(Debug)]
enum Step {
    /// `\Deleted` is taken off where the gateway set it. NOOP, so that the server knows what others have removed.
    Unflag,
    /// `UID SEARCH`: what is still there?
    There(Searched),
    /// `UID SEARCH UNDELETED`: what of it is not flagged? What was flagged before need not be.
    Undeleted { exempt: Option<UidSet>, searched: Searched },
    /// SELECT of the target.
    Open(Opened),
    /// `\Deleted` on the copies.
    Store(Spare),
    /// UID EXPUNGE of the copies.
    Expunge(Spare),
    /// `UID SEARCH`: have they left?
    Check(Spare, Searched),
    /// The flags of what stays, for the client (MOVE-10).
    TellFlags,
}

/// Some messages stay in the source; their copies leave the target.
#[derive(Debug)]
pub struct Undoing {
    removing: Removing,
    /// What did not leave the source.
    stays: UidSet,
    /// Of these the copies go.
    found: Option<Found>,
    /// Source and target are one mailbox: it stays selected.
    same_mailbox: bool,
    /// Copies are being removed for the second time.
    again: bool,
    step: Step,
}

impl Undoing {
    pub fn begin(job: Job, removing: Removing, stays: UidSet) -> Next {
        let flagged = removing.newly_flagged(&stays);
        let mut flight = flagged.map(|set| job.writer.unflag(&set)).unwrap_or_default();
        flight.extend(job.writer.noop());
        let stage =
            Undoing { removing, stays, found: None, same_mailbox: false, again: false, step: Step::Unflag };
        stage.send(flight, job)
    }

    fn send(self, flight: Flight, job: Job) -> Next {
        Next::Send(flight, Box::new(Translation { job, stage: Stage::Undo(Box::new(self)) }))
    }

    /// From here on the MOVE must not be finished by anybody.
    pub fn is_settled(&self) -> bool {
        matches!(self.step, Step::Open(_) | Step::Store(_) | Step::Expunge(_) | Step::Check(..))
    }

    /// Whether the source is not selected any more: then nothing that is said is for the client.
    pub fn has_left(&self) -> bool {
        self.is_settled() && !self.same_mailbox
    }

    pub fn data(&mut self, data: &Untagged<'_>) -> Claim {
        let has_left = self.has_left();
        match (&mut self.step, data) {
            (Step::There(searched) | Step::Undeleted { searched, .. }, Untagged::Search(numbers))
            | (Step::Check(_, searched), Untagged::Search(numbers)) => {
                searched.data(numbers);
                Claim::Mine
            }
            (_, Untagged::Status(status)) if status.code("ALERT").is_some() => Claim::Forward,
            (Step::Open(opened), data) => {
                // What leaves the source now has its only copy in the target.
                if opened.may_be_of_the_one_before(data) {
                    self.removing.see(data);
                }
                Claim::Mine
            }
            (Step::TellFlags, Untagged::Fetch(..)) => Claim::Forward,
            (step, Untagged::Fetch(_, items)) if is_of_copy(step, items) => Claim::Mine,
            _ if has_left => Claim::Mine,
            _ => self.removing.data(data),
        }
    }

    pub fn answered(&mut self, status: &Status<'_>) {
        match &mut self.step {
            Step::There(searched) | Step::Undeleted { searched, .. } | Step::Check(_, searched) => {
                searched.answered(status);
            }
            Step::Open(opened) => opened.answered(status),
            // A refused STORE or EXPUNGE shows in the search behind it.
            _ => {}
        }
    }

    pub fn landed(mut self, job: Job, selected: &Selected) -> Next {
        match std::mem::replace(&mut self.step, Step::Unflag) {
            Step::Unflag => {
                let flight = job.writer.search(&self.stays);
                self.step = Step::There(Searched::of(flight.len()));
                self.send(flight, job)
            }
            Step::There(searched) => self.are_there(&searched, job, selected),
            Step::Undeleted { exempt, searched } => {
                let undeleted = searched.certainly();
                self.found =
                    exempt.into_iter().chain(undeleted).reduce(|a, b| a.union(&b)).map(Found::by_search);
                self.remove_copies(job, selected)
            }
            Step::Open(opened) => match self.removing.pairs() {
                Some(pairs) if opened.may_delete(pairs.validity) => self.store_spare(job),
                _ => self.failed(),
            },
            Step::Store(spare) => {
                let flight = job.writer.expunge(job.uidplus, &spare);
                self.step = Step::Expunge(spare);
                self.send(flight, job)
            }
            Step::Expunge(spare) => {
                let flight = job.writer.search(spare.uids());
                self.step = Step::Check(spare, Searched::of(flight.len()));
                self.send(flight, job)
            }
            Step::Check(spare, searched) => match searched.there(spare.uids()) {
                None => self.undone(job),
                Some(_) if !self.again => {
                    self.again = true;
                    self.store(spare, job)
                }
                Some(left) if searched.is_certain() => self.copies_stay(&left),
                Some(_) => Next::Finish(self.unsaid()),
            },
            Step::TellFlags => self.done(),
        }
    }

    fn are_there(mut self, searched: &Searched, job: Job, selected: &Selected) -> Next {
        let there = searched.there(&self.stays).and_then(|there| self.removing.not_seen_leaving(&there));
        let Some(there) = there else { return Next::Finish(self.removing.finish(None, Vec::new())) };
        // What was flagged before may be flagged now, if it is certain to be there.
        let exempt = self.removing.flagged_before().zip(searched.certainly());
        let exempt = exempt.and_then(|(before, there)| before.intersection(&there));
        self.stays = there;
        let asked = exempt.as_ref().map_or(Some(self.stays.clone()), |exempt| self.stays.without(exempt));
        let flight = asked.map(|set| job.writer.search_undeleted(&set)).unwrap_or_default();
        self.step = Step::Undeleted { exempt, searched: Searched::of(flight.len()) };
        if flight.is_empty() { self.landed(job, selected) } else { self.send(flight, job) }
    }

    /// Only of what was found in the source.
    fn remove_copies(mut self, job: Job, selected: &Selected) -> Next {
        if !self.still_stays() {
            return Next::Finish(self.removing.finish(None, Vec::new()));
        }
        let Some(spare) = self.spare() else { return self.failed() };
        let one_name =
            selected.mailbox.as_ref().is_some_and(|source| source.identity() == job.target.identity());
        if one_name && self.removing.copied().meets(spare.uids()) {
            // No such copy can be told from the message itself.
            return self.failed();
        }
        let validity = self.removing.pairs().map(|pairs| pairs.validity);
        self.same_mailbox = one_name && validity == selected.validity;
        if self.same_mailbox {
            return self.store(spare, job);
        }
        let flight = vec![job.writer.select(&job.target)];
        self.step = Step::Open(Opened::default());
        self.send(flight, job)
    }

    /// What left the source while the target was opened is moved after all.
    fn store_spare(mut self, job: Job) -> Next {
        if !self.still_stays() {
            let mut verdict = self.removing.finish(None, Vec::new());
            verdict.ends = Some(LEFT);
            return Next::Finish(verdict);
        }
        match self.spare() {
            Some(spare) => self.store(spare, job),
            None => self.failed(),
        }
    }

    /// Forgets what was seen leaving the source since. Whether anything is left.
    fn still_stays(&mut self) -> bool {
        let Some(stays) = self.removing.not_seen_leaving(&self.stays) else { return false };
        self.found =
            self.found.as_ref().and_then(|found| found.uids().intersection(&stays)).map(Found::by_search);
        self.stays = stays;
        true
    }

    /// The copies that are to go.
    fn spare(&self) -> Option<Spare> {
        self.removing.pairs()?.spare(self.found.as_ref()?)
    }

    fn store(mut self, spare: Spare, job: Job) -> Next {
        let flight = job.writer.store(&spare);
        self.step = Step::Store(spare);
        self.send(flight, job)
    }

    /// The copies have left.
    fn undone(mut self, job: Job) -> Next {
        if !self.same_mailbox {
            return self.done();
        }
        let flight = job.writer.fetch_flags(&self.stays);
        self.step = Step::TellFlags;
        self.send(flight, job)
    }

    /// The copies of all that was found have left.
    fn done(self) -> Next {
        let undone = self.found.as_ref().map(|found| found.uids().clone());
        self.conclude(undone.as_ref(), None)
    }

    /// Nothing was removed from the target.
    pub fn failed(self) -> Next {
        self.conclude(None, None)
    }

    /// These are still in the target.
    fn copies_stay(self, copies: &UidSet) -> Next {
        let of_copies = self.removing.pairs().and_then(|pairs| pairs.sources(copies));
        let found = self.found.as_ref().map(Found::uids);
        let undone = found.zip(of_copies).and_then(|(found, kept)| found.without(&kept));
        self.conclude(undone.as_ref(), Some(copies))
    }

    /// `undone`: what has no copy any more; the rest is in both mailboxes. `copies`: those that would not leave.
    fn conclude(self, undone: Option<&UidSet>, copies: Option<&UidSet>) -> Next {
        let rest = |of: &UidSet, less: Option<&UidSet>| less.map_or(Some(of.clone()), |set| of.without(set));
        let stuck = rest(&self.stays, undone);
        let flagged = stuck.as_ref().and_then(|stuck| rest(stuck, self.found.as_ref().map(Found::uids)));
        let said = [
            ("in the target and still in the source: ", stuck.as_ref()),
            ("of these perhaps flagged as deleted in the source: ", flagged.as_ref()),
            ("perhaps flagged as deleted in the target: there ", copies),
            ("not moved, the copies are removed again: ", undone),
        ];
        let left = said.iter().filter_map(|(words, set)| Some(format!("{words}{}", named((*set)?))));
        let mut verdict = self.removing.finish(Some(&self.stays), left.collect());
        verdict.left_behind = stuck.as_ref().map_or(0, UidSet::count);
        verdict.ends = (!self.same_mailbox || stuck.is_some()).then_some(LEFT);
        verdict.undone = Some(stuck.is_none());
        if stuck.is_some() {
            verdict.reply = FAILED.into();
        } else if verdict.outcome == Outcome::Incomplete {
            verdict.outcome = Outcome::Undone;
        }
        Next::Finish(verdict)
    }

    /// Whether the copies have left cannot be known.
    fn unsaid(self) -> Verdict {
        let mut verdict = self.interrupted("NO [CONTACTADMIN] The mail server did not say what it removed");
        verdict.ends = Some(LEFT);
        verdict
    }

    /// The upstream's answers cannot be followed any more (WIRE-1).
    pub fn out_of_step(self) -> Verdict {
        let mut verdict = self.interrupted("NO [SERVERBUG] The mail server's answers got out of step");
        verdict.ends = Some(LEFT);
        verdict
    }

    /// The upstream is gone (FAULT-3).
    pub fn upstream_lost(self) -> Verdict {
        let mut verdict = self.interrupted("NO [UNAVAILABLE] The mail server went away");
        verdict.outcome = Outcome::UpstreamLost;
        verdict
    }

    fn interrupted(self, words: &str) -> Verdict {
        let said = "still in the source and perhaps in the target, perhaps flagged as deleted";
        let left = vec![format!("{said}: {}", named(&self.stays))];
        let mut verdict = self.removing.finish(Some(&self.stays), left);
        verdict.reply = format!("{words} while a move was undone").into_bytes();
        verdict.undone = Some(false);
        verdict
    }
}

/// In one mailbox: a line about a copy that is being removed.
fn is_of_copy(step: &Step, items: &[u8]) -> bool {
    let (Step::Store(spare) | Step::Expunge(spare) | Step::Check(spare, _)) = step else { return false };
    let state = grammar::fetched_state(items);
    state.and_then(|state| state.uid).is_some_and(|uid| spare.uids().contains(uid))
}
