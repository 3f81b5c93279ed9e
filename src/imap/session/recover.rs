//! Before a SELECT: what did a dead session of this user's leave unfinished? (FAULT-4)

use super::own::Work;
use super::{Kind, Session};
use crate::imap::own_command::Writer;
use crate::imap::recovery::{Ending, Next, Recovery};
use crate::imap::response::{Status, Untagged};
use crate::imap::{Notice, Owner, Recovered, Unfinished};
use std::time::Duration;

/// How long a SELECT waits for recoveries; after that no new step of one begins.
pub const RECOVERY: Duration = Duration::from_secs(5);

/// Whether a mailbox is selected, and what must be done before one is.
#[derive(Debug, Default)]
pub struct Debts {
    /// The client has selected a mailbox, or has tried to and some servers still have the one before.
    selected: bool,
    known: Known,
    /// For whom the journal was asked.
    asked_for: Option<Owner>,
}

/// What is known of unfinished MOVEs.
#[derive(Debug, Default)]
enum Known {
    #[default]
    NotAsked,
    /// The journal has been asked.
    Asked,
    /// These are to be finished, if the user is still in the same state.
    Due(Vec<Unfinished>),
    /// The SELECT may go out.
    Settled,
}

impl Debts {
    /// The journal's answer. One that nobody waits for says nothing.
    pub fn learn(&mut self, unfinished: Vec<Unfinished>) {
        if matches!(self.known, Known::Asked) {
            self.known = if unfinished.is_empty() { Known::Settled } else { Known::Due(unfinished) };
        }
    }
}

/// Unfinished MOVEs, one after the other.
#[derive(Debug)]
pub struct Recovering {
    id: u64,
    recovery: Box<Recovery>,
    rest: Vec<Unfinished>,
    /// No new step begins after this time.
    until: Duration,
}

impl Recovering {
    pub fn answered(&mut self, status: &Status<'_>) {
        self.recovery.answered(status);
    }

    pub fn claims(&mut self, data: &Untagged<'_>) -> bool {
        self.recovery.claims(data)
    }
}

impl Session {
    /// Whether a SELECT has to wait for the journal's answer, or for what that brings.
    pub(super) fn may_owe(&self) -> bool {
        let asks = self.settings.journal && self.owner.is_some() && !self.debts.selected;
        asks && !matches!(self.debts.known, Known::Settled)
    }

    /// The client's SELECT goes upstream.
    pub(super) fn selects(&mut self) {
        self.debts = Debts { selected: true, ..Debts::default() };
    }

    /// CLOSE or UNSELECT was answered with OK.
    pub(super) fn closed_mailbox(&mut self) {
        self.debts.selected = self.pending.iter().any(|p| matches!(p.kind, Kind::Select(_)));
    }

    /// A SELECT waits: asks the journal, or begins what it has answered once the client's earlier commands are done.
    pub(super) fn recover_first(&mut self) {
        match std::mem::take(&mut self.debts.known) {
            Known::NotAsked => {
                self.debts.asked_for.clone_from(&self.owner);
                self.notices.extend(self.owner.clone().map(Notice::Owes));
                self.debts.known = Known::Asked;
            }
            Known::Due(due) if !self.pending.is_empty() => self.debts.known = Known::Due(due),
            // ENABLE has changed what names mean.
            Known::Due(due) if self.debts.asked_for != self.owner => {
                self.not_tried(due);
                self.recover_first();
            }
            Known::Due(due) => self.recover_next(due, self.now + RECOVERY),
            known => self.debts.known = known,
        }
    }

    /// The next one, if there is time left; else the SELECT may go out.
    fn recover_next(&mut self, mut due: Vec<Unfinished>, until: Duration) {
        let uidplus = self.capabilities.proof_of_uidplus().filter(|_| !self.framing_lost && self.now < until);
        let writer = Writer { max_line: self.settings.max_line, capabilities: self.capabilities };
        while let Some(uidplus) = uidplus
            && let Some(unfinished) = due.pop()
        {
            let id = unfinished.id;
            match Recovery::begin(unfinished, writer, uidplus) {
                Next::Send(flight, recovery) => {
                    self.work = Some(Work::Recover(Recovering { id, recovery, rest: due, until }));
                    return self.send(flight);
                }
                Next::Finish(ending) => self.recovered(id, ending),
            }
        }
        self.not_tried(due);
        self.debts.known = Known::Settled;
    }

    fn not_tried(&mut self, due: Vec<Unfinished>) {
        for left in due {
            self.recovered(left.id, Ending::of(Recovered::NotTried));
        }
    }

    pub(super) fn recovery_landed(&mut self, recovering: Recovering) {
        if self.framing_lost {
            return self
                .end_with("[UNAVAILABLE] ", "The mail server's answers got out of step, connect again");
        }
        let Recovering { id, recovery, rest, until } = recovering;
        match recovery.landed(self.now >= until) {
            Next::Send(flight, recovery) => {
                self.work = Some(Work::Recover(Recovering { id, recovery, rest, until }));
                self.send(flight);
            }
            Next::Finish(ending) => {
                self.recovered(id, ending);
                match ending.unsafe_to_go_on {
                    true => self.end_with(
                        "",
                        "A move was finished for you, but a mailbox is still open: connect again",
                    ),
                    false => self.recover_next(rest, until),
                }
            }
        }
    }

    fn recovered(&mut self, id: u64, ending: Ending) {
        let Ending { result, messages, .. } = ending;
        self.notices.push_back(Notice::Recovered { id, result, messages });
    }
}
