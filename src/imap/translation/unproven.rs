//! COPY said OK and proved nothing: no message is flagged (MOVE-6, MOVE-12).

use super::watch::Searched;
use super::{Claim, Job, Next, Stage, Translation, Verdict, named, refusal};
use crate::imap::Outcome;
use crate::imap::proof::Refused;
use crate::imap::response::{Status, Untagged};
use crate::imap::sequence::UidSet;

/// Is anything of it there at all?
#[derive(Debug)]
pub struct Unproven {
    set: UidSet,
    /// What the COPY can have found; the others arrived later.
    was_there: Option<UidSet>,
    refused: Option<Refused>,
    searched: Searched,
}

impl Unproven {
    pub fn begin(job: Job, set: UidSet, was_there: Option<UidSet>, refused: Option<Refused>) -> Next {
        let flight = job.writer.search(&set);
        let searched = Searched::of(flight.len());
        let stage = Unproven { set, was_there, refused, searched };
        Next::Send(flight, Box::new(Translation { job, stage: Stage::Unproven(stage) }))
    }

    pub fn data(&mut self, data: &Untagged<'_>) -> Claim {
        let Untagged::Search(numbers) = data else { return Claim::Forward };
        self.searched.data(numbers);
        Claim::Mine
    }

    pub fn answered(&mut self, status: &Status<'_>) {
        self.searched.answered(status);
    }

    pub fn landed(self) -> Verdict {
        match (self.searched.there(&self.set), self.refused) {
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
