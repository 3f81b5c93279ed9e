//! COPY said OK and proved nothing: no message is flagged (MOVE-6, MOVE-12).

use super::{Claim, Job, Next, Stage, Translation, Verdict, named, refusal};
use crate::imap::Outcome;
use crate::imap::grammar;
use crate::imap::proof::Refused;
use crate::imap::response::{Status, Untagged};
use crate::imap::sequence::{Collected, UidSet};

/// Is anything of it there at all?
#[derive(Debug)]
pub struct Unproven {
    set: UidSet,
    /// What the COPY can have found; the others arrived later.
    was_there: Option<UidSet>,
    refused: Option<Refused>,
    found: Collected,
    /// A SEARCH response came, and every search was answered OK.
    searched: bool,
    failed: bool,
}

impl Unproven {
    pub fn begin(job: Job, set: UidSet, was_there: Option<UidSet>, refused: Option<Refused>) -> Next {
        let flight = job.writer.search(&set);
        let found = Collected::default();
        let stage = Unproven { set, was_there, refused, found, searched: false, failed: false };
        Next::Send(flight, Box::new(Translation { job, stage: Stage::Unproven(stage) }))
    }

    pub fn data(&mut self, data: &Untagged<'_>) -> Claim {
        let Untagged::Search(numbers) = data else { return Claim::Forward };
        self.searched = true;
        match grammar::search_result(numbers) {
            Some(found) => self.found.append(&found),
            None => self.failed = true,
        }
        Claim::Mine
    }

    pub fn answered(&mut self, status: &Status<'_>) {
        self.failed |= !status.is_ok();
    }

    fn there(&self) -> Option<UidSet> {
        let known = self.searched && !self.failed;
        if known { self.found.set()?.intersection(&self.set) } else { Some(self.set.clone()) }
    }

    pub fn landed(self) -> Verdict {
        match (self.there(), self.refused) {
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
