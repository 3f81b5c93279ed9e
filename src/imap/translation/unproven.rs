//! COPY said OK and proved nothing: no message is flagged (MOVE-6, MOVE-12).

use super::copy::Copying;
use super::{Claim, Job, Next, Stage, Translation, Verdict, named, refusal};
use crate::imap::Outcome;
use crate::imap::own_command::Flight;
use crate::imap::proof::Refused;
use crate::imap::response::{Status, Untagged};
use crate::imap::searched::Searched;
use crate::imap::sequence::UidSet;

/// Is anything of it there at all?
#[derive(Debug)]
pub struct Unproven {
    set: UidSet,
    /// What the COPY can have found; the others arrived later.
    was_there: Option<UidSet>,
    refused: Option<Refused>,
    /// The first flight was made once, and no message came meanwhile.
    may_repeat: bool,
    /// Not before NOOP is answered: until then Courier lists and finds what another session has removed.
    searched: Option<Searched>,
}

impl Unproven {
    pub fn begin(
        job: Job,
        set: UidSet,
        was_there: Option<UidSet>,
        refused: Option<Refused>,
        may_repeat: bool,
    ) -> Next {
        let stage = Unproven { set, was_there, refused, may_repeat, searched: None };
        match stage.was_there {
            Some(_) => stage.send(job.writer.noop(), job),
            None => stage.search(job),
        }
    }

    fn search(mut self, job: Job) -> Next {
        let flight = job.writer.search(&self.set);
        self.searched = Some(Searched::of(flight.len()));
        self.send(flight, job)
    }

    fn send(self, flight: Flight, job: Job) -> Next {
        Next::Send(flight, Box::new(Translation { job, stage: Stage::Unproven(self) }))
    }

    pub fn data(&mut self, data: &Untagged<'_>) -> Claim {
        match (data, &mut self.searched) {
            (Untagged::Search(numbers), Some(searched)) => {
                searched.data(numbers);
                Claim::Mine
            }
            _ => Claim::Forward,
        }
    }

    pub fn answered(&mut self, status: &Status<'_>) {
        if let Some(searched) = &mut self.searched {
            searched.answered(status);
        }
    }

    pub fn landed(self, job: Job) -> Next {
        match &self.searched {
            None => self.search(job),
            Some(searched) => match (searched.there(&self.set), &self.was_there) {
                // All of it arrived behind the COPY, which cannot have found it.
                (Some(set), None) if self.refused.is_none() && self.may_repeat => Copying::again(job, set),
                (there, _) => Next::Finish(self.verdict(there)),
            },
        }
    }

    fn verdict(self, there: Option<UidSet>) -> Verdict {
        match (there, self.refused) {
            (Some(set), _) => {
                let mut verdict = cannot(&set);
                verdict.unprovable_target =
                    self.was_there.is_some_and(|was| was.intersection(&set).is_some());
                verdict
            }
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
    verdict
}
