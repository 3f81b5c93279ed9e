//! The second flight: flag and expunge what is proved to be copied, and see each message leave (MOVE-7, MOVE-11).

use super::undo::Undoing;
use super::watch::Watch;
use super::{Claim, Job, Next, Stage, Translation, Verdict, named};
use crate::imap::Outcome;
use crate::imap::grammar;
use crate::imap::own_command::{Flight, Purpose};
use crate::imap::proof::{Copied, Doubled, Pairs, Proof, Refused};
use crate::imap::response::{Status, Untagged};
use crate::imap::searched::Searched;
use crate::imap::sequence::UidSet;
use bytes::BytesMut;

/// What the first flight has shown.
#[derive(Debug)]
pub struct Proved {
    pub proof: Proof,
    /// Asked for, accepted, not proved.
    pub unproven: Option<UidSet>,
    /// A COPY was accepted and brought no COPYUID.
    pub proof_is_missing: bool,
    pub refused: Option<Refused>,
    /// Had `\Deleted` before the gateway set it: these, or none of them; `None` if the upstream did not say.
    pub flagged_before: Option<Option<UidSet>>,
}

/// Where the removal stands.
#[derive(Debug)]
enum Step {
    /// UID EXPUNGE, the first time in one flight with STORE.
    Expunge,
    /// `UID SEARCH` for these: not seen leaving, or not proved to be copied.
    Check { wanted: UidSet, searched: Searched },
    /// STORE once more, for these.
    StoreAgain(Copied),
}

/// Messages are in the target; now they leave the source.
#[derive(Debug)]
pub struct Removing {
    proved: Proved,
    watch: Watch,
    /// The client has COPYUID.
    announced: bool,
    /// A message was copied that the listing did not name: its number is not known.
    some_unlisted: bool,
    step: Step,
    /// STORE and UID EXPUNGE have been tried a second time.
    again: bool,
    highest_modseq: Option<Vec<u8>>,
    /// The first NO or BAD to STORE or UID EXPUNGE.
    refusal: Option<Vec<u8>>,
    /// A search still finds them in the source although no COPY named them.
    not_copied: Option<UidSet>,
}

impl Removing {
    pub fn begin(job: Job, proved: Proved, mut watch: Watch) -> Next {
        let mut flight = job.writer.store(&proved.proof.copied);
        flight.extend(job.writer.expunge(job.uidplus, &proved.proof.copied));
        let copied = proved.proof.copied.uids();
        // It was for this, and it may be large.
        let listed = std::mem::take(&mut watch.listed).set();
        let some_unlisted = listed.is_none_or(|listed| !listed.contains_all(copied));
        let stage = Removing {
            some_unlisted,
            proved,
            watch,
            announced: false,
            step: Step::Expunge,
            again: false,
            highest_modseq: None,
            refusal: None,
            not_copied: None,
        };
        stage.send(flight, job)
    }

    /// COPYUID for the client, once.
    fn announce(&mut self) -> Option<BytesMut> {
        let announced = std::mem::replace(&mut self.announced, true);
        self.pairs().filter(|_| !announced).map(Pairs::line)
    }

    fn send(self, flight: Flight, job: Job) -> Next {
        Next::Send(flight, Box::new(Translation { job, stage: Stage::Remove(Box::new(self)) }))
    }

    pub fn data(&mut self, data: &Untagged<'_>) -> Claim {
        match data {
            Untagged::Search(numbers) => self.search(numbers),
            // The client gets the gateway's, once.
            Untagged::Status(status) if status.code("COPYUID").is_some() => Claim::Mine,
            Untagged::Fetch(number, items) => {
                let Some(state) = grammar::fetched_state(items) else { return Claim::Forward };
                let uid = state.uid.or_else(|| self.watch.numbers.uid(*number));
                let moved = uid.is_some_and(|uid| self.proved.proof.copied.uids().contains(uid));
                if moved { Claim::Mine } else { Claim::Forward }
            }
            _ => self.removal(data),
        }
    }

    /// Takes note of a removal that is not for the client.
    pub fn see(&mut self, data: &Untagged<'_>) {
        self.watch.removal(data);
    }

    fn removal(&mut self, data: &Untagged<'_>) -> Claim {
        let gone = self.watch.removal(data);
        let ours = match (gone, data) {
            (Some(gone), _) => self.proved.proof.copied.uids().meets(&gone),
            // Perhaps one that arrived behind the listing and was copied all the same.
            (None, Untagged::Expunge(_)) => self.some_unlisted,
            _ => false,
        };
        match ours.then(|| self.announce()).flatten() {
            Some(line) => Claim::ForwardAfter(line),
            None => Claim::Forward,
        }
    }

    fn search(&mut self, numbers: &[u8]) -> Claim {
        let Step::Check { searched, .. } = &mut self.step else { return Claim::Forward };
        searched.data(numbers);
        Claim::Mine
    }

    pub fn answered(&mut self, purpose: Purpose, status: &Status<'_>) {
        if let (Purpose::Expunge, Some(highest)) = (purpose, status.code("HIGHESTMODSEQ")) {
            self.highest_modseq = Some(highest.to_vec());
        }
        match &mut self.step {
            Step::Check { searched, .. } => searched.answered(status),
            _ if !status.is_ok() && self.refusal.is_none() => self.refusal = Some(status.whole.to_vec()),
            _ => {}
        }
    }

    pub fn landed(mut self, job: Job) -> Next {
        match std::mem::replace(&mut self.step, Step::Expunge) {
            Step::Expunge => match self.to_check() {
                None => Next::Finish(self.finish(None, Vec::new())),
                Some(wanted) => self.check(wanted, job),
            },
            Step::Check { wanted, searched } => self.checked(searched.there(&wanted), job),
            // And now `Step::Expunge`, as at the first time.
            Step::StoreAgain(copied) => {
                let flight = job.writer.expunge(job.uidplus, &copied);
                self.send(flight, job)
            }
        }
    }

    /// Copied and not seen leaving.
    fn unseen(&self) -> Option<UidSet> {
        self.not_seen_leaving(self.copied())
    }

    fn to_check(&self) -> Option<UidSet> {
        let both = self.proved.unproven.iter().cloned().chain(self.unseen()).reduce(|a, b| a.union(&b))?;
        self.not_seen_leaving(&both)
    }

    /// In a flight of its own: in the same one Dovecot answers it first, from before the removal.
    fn check(mut self, wanted: UidSet, job: Job) -> Next {
        let flight = job.writer.search(&wanted);
        self.step = Step::Check { wanted, searched: Searched::of(flight.len()) };
        self.send(flight, job)
    }

    fn checked(mut self, there: Option<UidSet>, job: Job) -> Next {
        if let Some(unproven) = self.proved.unproven.take() {
            self.not_copied = there.as_ref().and_then(|there| there.intersection(&unproven));
        }
        let Some(stay) = there.and_then(|there| self.proved.proof.copied.only(&there)) else {
            return Next::Finish(self.finish(None, Vec::new()));
        };
        if self.again {
            let stays = stay.uids().clone();
            return Undoing::begin(job, self, stays);
        }
        self.again = true;
        let flight = job.writer.store(&stay);
        self.step = Step::StoreAgain(stay);
        self.send(flight, job)
    }

    /// The tagged reply. `stays`: what did not leave the source, and what is to be said of it.
    pub fn finish(mut self, stays: Option<&UidSet>, about_these: Vec<String>) -> Verdict {
        let stayed = stays.map_or(0, UidSet::count);
        let moved = self.copied().count() - stayed;
        let left: Vec<_> = self.not_copied_at_all().into_iter().chain(about_these).collect();
        let mut verdict = self.verdict(&left, stays.is_some(), moved);
        verdict.moved = moved;
        verdict.left_behind = stayed + self.perhaps_copied();
        verdict.unprovable_target = self.proved.proof_is_missing && self.not_copied.is_some();
        verdict.lines = self.closing_lines(moved, verdict.outcome);
        verdict
    }

    /// Refused in a way that leaves open whether copies were made.
    fn perhaps_copied(&self) -> u64 {
        let refused = self.proved.refused.as_ref().filter(|refused| refused.uncertain);
        refused.map_or(0, |refused| refused.set.count())
    }

    fn verdict(&self, left: &[String], some_stay: bool, moved: u64) -> Verdict {
        if left.is_empty() {
            let reply = match &self.highest_modseq {
                Some(n) => [b"OK [HIGHESTMODSEQ ", &n[..], b"] Move completed"].concat(),
                None => b"OK Move completed".to_vec(),
            };
            return Verdict::new(Outcome::Moved, reply);
        }
        let mut verdict = Verdict::new(Outcome::Incomplete, self.words(some_stay));
        verdict.remark = format!(" ({moved} moved; {})", left.join("; "));
        verdict
    }

    /// The upstream's own words, as a NO: what was moved stays moved.
    fn words(&self, some_stay: bool) -> Vec<u8> {
        let copy = self.proved.refused.as_ref().map(|refused| &refused.reply);
        match copy.or(self.refusal.as_ref().filter(|_| some_stay)) {
            Some(words) => [b"NO ", crate::imap::response::split_word(words).1].concat(),
            None if some_stay => b"NO The mail server did not remove all messages".to_vec(),
            None => b"NO The mail server did not copy all messages".to_vec(),
        }
    }

    fn not_copied_at_all(&self) -> Vec<String> {
        let mut left = Vec::new();
        if let Some(refused) = &self.proved.refused {
            let copied = match refused.uncertain {
                true => "still in the source, copies may be in the target",
                false => "not copied and still in the source",
            };
            left.push(format!("{copied}: {}", named(&refused.set)));
        }
        if let Some(set) = &self.not_copied {
            let copies = if self.proved.proof_is_missing { ", copies may be in the target" } else { "" };
            left.push(format!("not provably copied and still in the source{copies}: {}", named(set)));
        }
        left
    }

    /// On which the gateway has set `\Deleted`, as far as that is known.
    pub fn newly_flagged(&self, stays: &UidSet) -> Option<UidSet> {
        let before = self.proved.flagged_before.as_ref()?;
        before.as_ref().map_or(Some(stays.clone()), |before| stays.without(before))
    }

    /// What had `\Deleted` before, as far as that is known.
    pub fn flagged_before(&self) -> Option<&UidSet> {
        self.proved.flagged_before.as_ref()?.as_ref()
    }

    /// Which copy is whose, if one UIDVALIDITY holds for all.
    pub fn pairs(&self) -> Option<&Pairs> {
        self.proved.proof.pairs.as_ref()
    }

    /// The UIDs in the source of all that was copied.
    pub fn copied(&self) -> &UidSet {
        self.proved.proof.copied.uids()
    }

    /// Of these, what nobody was seen to remove.
    pub fn not_seen_leaving(&self, set: &UidSet) -> Option<UidSet> {
        self.watch.left.set().map_or_else(|| Some(set.clone()), |left| set.without(&left))
    }

    /// MOVE-9: COPYUID if it was not said yet, and HIGHESTMODSEQ where no OK will carry it.
    fn closing_lines(&mut self, moved: u64, outcome: Outcome) -> Vec<BytesMut> {
        let mut lines = Vec::new();
        if moved > 0 {
            lines.extend(self.announce());
        }
        if let Some(n) = self.highest_modseq.as_ref().filter(|_| moved > 0 && outcome != Outcome::Moved) {
            lines.push(BytesMut::from(&[b"* OK [HIGHESTMODSEQ ", &n[..], b"] Highest\r\n"].concat()[..]));
        }
        lines
    }

    /// The upstream's answers cannot be followed any more (WIRE-1): then no line shows that a message has left.
    pub fn out_of_step(self) -> Verdict {
        let copied = self.copied().clone();
        self.uncertain(&copied, "[SERVERBUG] The mail server's answers got out of step during the move")
    }

    /// What was seen leaving is moved; of the rest nothing is known but that the target has it (FAULT-3).
    pub fn upstream_lost(mut self) -> Verdict {
        self.not_copied = self.not_copied.or(self.proved.unproven.take());
        let Some(unseen) = self.unseen() else { return self.finish(None, Vec::new()) };
        let mut verdict = self.uncertain(&unseen, "[UNAVAILABLE] The mail server went away during the move");
        verdict.outcome = Outcome::UpstreamLost;
        verdict
    }

    /// Nothing is known of `unseen` but that the target has it; nor of what was not proved.
    fn uncertain(mut self, unseen: &UidSet, why: &str) -> Verdict {
        self.not_copied = self.not_copied.or(self.proved.unproven.take());
        let perhaps = "in the target, and perhaps still in the source and flagged as deleted there";
        let mut verdict = self.finish(Some(unseen), vec![format!("{perhaps}: {}", named(unseen))]);
        verdict.reply = format!("NO {why}").into_bytes();
        verdict
    }
}
