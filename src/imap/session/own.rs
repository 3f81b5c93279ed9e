//! What the gateway does of its own: the greeting, STARTTLS upstream, CAPABILITY after a login, a MOVE; and
//! what becomes of them when the upstream goes or hangs.

use super::flight::InFlight;
use super::recover::Recovering;
use super::{CLIENT_STALL, HIGH_WATER, KEEP_ALIVE, Phase, Session, UNPROVABLE_TARGETS};
use crate::imap::command::{MoveCommand, Tag};
use crate::imap::own_command::{Flight, OwnCommand, Purpose, Writer};
use crate::imap::proof::Pairs;
use crate::imap::response::{Condition, Response, Status, Untagged};
use crate::imap::selected::Rights;
use crate::imap::translation::{self, Claim, Milestone, Next, Translation, Verdict};
use crate::imap::{Breach, Cause, Intent, Limit, Notice, Outcome, Owner, Record, Side, Stage, Tls};
use std::time::Duration;

/// Why the gateway speaks for itself. Meanwhile the client's next commands are held (WIRE-6).
#[derive(Debug)]
pub enum Work {
    /// The upstream must offer STARTTLS, and accept it, before anything else (WIRE-8).
    DemandTls,
    /// CAPABILITY inside TLS, for the client's greeting.
    ListForGreeting,
    /// ID, which says where the client comes from; the greeting waits.
    Introduce { held: Vec<u8> },
    /// CAPABILITY for a client that was not told: the login's OK waits (CAP-5).
    ListForClient { held: Vec<u8> },
    /// A MOVE.
    Move(Box<Moving>),
    /// What an earlier session left unfinished; the client's SELECT waits (FAULT-4).
    Recover(Recovering),
}

/// A MOVE between its command and its tagged reply.
#[derive(Debug)]
pub struct Moving {
    tag: Tag,
    translation: Option<Box<Translation>>,
    target: Vec<u8>,
    began: Duration,
    /// How far it has come, and since when.
    stage: (Stage, Duration),
    keep_alive: Duration,
    /// How far the journal has been told of it.
    recorded: Recorded,
    /// The proof is on disk: a later session would finish this MOVE.
    proof_on_disk: bool,
}

/// What the journal has of a MOVE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Recorded {
    Nothing,
    Intent,
    Copied,
    Undo,
}

// The greeting, and TLS on the upstream leg.
impl Session {
    /// The first line of the upstream (WIRE-9).
    pub(super) fn greeting(&mut self, line: &[u8]) {
        let Response::Untagged(Untagged::Status(status)) = Response::parse(line) else {
            self.blame(Side::Upstream, Breach::NoGreeting);
            return self.upstream_gone("The mail server did not greet as an IMAP server does");
        };
        match status.condition {
            Condition::Bye => {
                self.emit(Side::Client, line);
                self.finish();
            }
            Condition::Preauth if self.settings.upstream_tls == Tls::StartTls => {
                self.upstream_gone("The mail server greets with PREAUTH, so STARTTLS is not possible there");
            }
            Condition::Preauth if self.login_needs_tls() => {
                self.upstream_gone("The mail server greets with PREAUTH, but a login here needs TLS");
            }
            Condition::Ok | Condition::Preauth => self.greeted(&status, line),
            Condition::No | Condition::Bad => self.upstream_gone("The mail server did not greet with OK"),
        }
    }

    fn greeted(&mut self, status: &Status<'_>, line: &[u8]) {
        if self.settings.upstream_tls == Tls::StartTls {
            self.phase = Phase::Preamble;
            status.code("CAPABILITY").into_iter().for_each(|list| self.learn_list(list));
            self.work = Some(Work::DemandTls);
            let ask = if self.capabilities.starttls { Purpose::StartTls } else { Purpose::Capability };
            return self.send_preamble(ask);
        }
        self.phase = Phase::Running;
        self.authenticated = status.condition == Condition::Preauth;
        let line = self.learn_from(status, line);
        self.greet(line);
    }

    /// The client's greeting, behind the client's introduction.
    fn greet(&mut self, line: Vec<u8>) {
        let Some(parameters) = self.settings.introduction.take() else {
            return self.emit(Side::Client, &line);
        };
        if !self.capabilities.id {
            self.notices.push_back(Notice::NotIntroduced);
            return self.emit(Side::Client, &line);
        }
        self.phase = Phase::Preamble;
        self.work = Some(Work::Introduce { held: line });
        self.send(vec![OwnCommand::new(Purpose::Introduce, format!("ID ({parameters})"))]);
    }

    fn send_preamble(&mut self, purpose: Purpose) {
        let text = if purpose == Purpose::StartTls { "STARTTLS" } else { "CAPABILITY" };
        self.send(vec![OwnCommand::new(purpose, text)]);
    }

    fn tls_demanded(&mut self, asked: Purpose, accepted: bool) {
        match asked {
            Purpose::StartTls if accepted => self.upgrade = Some(Side::Upstream),
            Purpose::Capability if accepted && self.capabilities.starttls => {
                self.work = Some(Work::DemandTls);
                self.send_preamble(Purpose::StartTls);
            }
            Purpose::StartTls => self
                .upstream_gone("The mail server offers STARTTLS and refuses it: try --upstream-tls implicit"),
            _ => self.upstream_gone("The mail server does not offer STARTTLS, which --upstream-tls demands"),
        }
    }

    /// What was said in clear counts no more: ask again inside TLS, then greet the client.
    pub(super) fn upstream_secured(&mut self) {
        self.capabilities = Default::default();
        self.list_known = false;
        self.work = Some(Work::ListForGreeting);
        self.send_preamble(Purpose::Capability);
    }
}

// Lists that the client was not told of.
impl Session {
    /// After a PREAUTH greeting without a list: before the client's first command (CAP-5). Whether it waits.
    pub(super) fn asks_before_first_command(&mut self) -> bool {
        let asks = self.authenticated && !self.list_known && self.pending.is_empty();
        if asks {
            self.ask_capabilities(Vec::new());
        }
        asks
    }

    /// Asks the upstream for its list; `held` is the login's reply, which waits for it.
    pub(super) fn ask_capabilities(&mut self, held: Vec<u8>) {
        self.list_known = true;
        self.work = Some(Work::ListForClient { held });
        self.send(vec![OwnCommand::new(Purpose::Capability, "CAPABILITY")]);
    }

    fn greet_client(&mut self) {
        self.phase = Phase::Running;
        let mut line = b"* OK ".to_vec();
        if let Some(list) = self.list_in_tls.take() {
            line.extend_from_slice(b"[CAPABILITY");
            line.extend(crate::imap::capability::rewrite(&list, &self.leg()));
            line.extend_from_slice(b"] ");
        }
        line.extend_from_slice(b"imapmove ready\r\n");
        self.greet(line);
    }
}

// Flights.
impl Session {
    pub(super) fn send(&mut self, flight: Flight) {
        self.flight = Some(Box::new(InFlight::launch(flight, &mut self.tags)));
        self.progress_at = self.now;
        self.write_flight();
    }

    /// As far as no continuation is awaited, and as there is room: the rest when that is written.
    pub(super) fn write_flight(&mut self) {
        while self.unwritten(Side::Upstream) < HIGH_WATER
            && let Some(octets) = self.flight.as_mut().and_then(|flight| flight.next_octets())
        {
            self.emit(Side::Upstream, &octets);
        }
    }

    pub(super) fn asks(&self, purpose: Purpose) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.asks(purpose))
    }

    /// A tagged reply: false if it is to no command of the gateway's own.
    pub(super) fn own_reply(&mut self, tag: &[u8], status: &Status<'_>) -> bool {
        let Some(flight) = &mut self.flight else { return false };
        let Some(purpose) = flight.answered(tag, status.is_ok()) else { return false };
        self.write_flight();
        self.own_answer(purpose, status);
        true
    }

    fn own_answer(&mut self, purpose: Purpose, status: &Status<'_>) {
        if let Some(list) = status.code("CAPABILITY") {
            self.learn_list(list);
        }
        if let (Purpose::Rights, Some(selected)) = (purpose, &mut self.selected) {
            // Refused, or nothing was said: go on (MOVE-4).
            if selected.rights == Rights::NotAsked {
                selected.rights = Rights::NotTold;
            }
        }
        match &mut self.work {
            Some(Work::Move(moving)) => {
                let translation = moving.translation.as_mut().expect("a MOVE in flight has its translation");
                translation.answered(purpose, status);
            }
            Some(Work::Recover(recovering)) => recovering.answered(status),
            _ => {}
        }
    }

    /// What follows the flight, if every command of it is answered.
    pub(super) fn land(&mut self) {
        let Some((last, accepted)) = self.flight.as_ref().and_then(|flight| flight.landed()) else { return };
        self.flight = None;
        match self.work.take() {
            Some(Work::DemandTls) => self.tls_demanded(last, accepted),
            Some(Work::ListForGreeting) => self.greet_client(),
            // Whatever it says to that: its log has no other address then.
            Some(Work::Introduce { held }) => {
                self.phase = Phase::Running;
                self.emit(Side::Client, &held);
            }
            Some(Work::ListForClient { held }) => {
                self.tell_whether_it_qualifies();
                self.emit(Side::Client, &held);
            }
            Some(Work::Move(mut moving)) => {
                let translation = moving.translation.take().expect("a MOVE in flight has its translation");
                let next = match &self.selected {
                    Some(selected) => translation.landed(selected, !self.framing_lost),
                    None => Next::Finish(translation.upstream_lost()),
                };
                self.proceed(moving, next);
            }
            Some(Work::Recover(recovering)) => self.recovery_landed(recovering),
            None => {}
        }
    }

    pub(super) fn is_of_running_move(&self, tag: &[u8]) -> bool {
        matches!(&self.work, Some(Work::Move(moving)) if *moving.tag.0 == *tag)
    }

    /// What the work in progress says of a line of data.
    pub(super) fn claim(&mut self, data: &Untagged<'_>) -> Claim {
        match (&mut self.work, data) {
            (Some(Work::Move(moving)), _) => match &mut moving.translation {
                Some(translation) => translation.data(data),
                None => Claim::Forward,
            },
            (Some(Work::Recover(recovering)), _) => match recovering.claims(data) {
                true => Claim::Mine,
                false => Claim::Forward,
            },
            (Some(Work::ListForGreeting), Untagged::Capability(list)) => {
                let list = list.to_vec();
                self.learn_list(&list);
                self.list_in_tls = Some(list);
                Claim::Mine
            }
            (Some(Work::DemandTls), Untagged::Capability(list)) => {
                let list = list.to_vec();
                self.learn_list(&list);
                Claim::Mine
            }
            _ => Claim::Forward,
        }
    }
}

// A MOVE.
impl Session {
    /// Every earlier command has its reply; the MOVE was read whole. `request` is `None` if it is malformed.
    pub(super) fn start_move(&mut self, tag: Tag, request: Option<MoveCommand>) {
        self.notices.push_back(Notice::MoveStarted);
        let target = request.as_ref().map(|request| request.target.identity()).unwrap_or_default();
        let next = match self.translation_of(request, &target) {
            Ok(next) => next,
            Err((outcome, why)) => Next::Finish(Verdict::refused(outcome, why)),
        };
        let (began, keep_alive) = (self.now, self.now + KEEP_ALIVE);
        self.proceed(
            Box::new(Moving {
                tag,
                translation: None,
                target,
                began,
                stage: (Stage::Resolve, began),
                keep_alive,
                recorded: Recorded::Nothing,
                proof_on_disk: false,
            }),
            next,
        );
    }

    fn translation_of(
        &self,
        request: Option<MoveCommand>,
        target: &[u8],
    ) -> Result<Next, (Outcome, &'static str)> {
        let invalid = |why| (Outcome::Invalid, why);
        let refused = |why| (Outcome::Refused, why);
        let request = request.ok_or(invalid("BAD Expected: MOVE sequence-set mailbox"))?;
        let selected = self.selected.as_ref().ok_or(invalid("BAD No mailbox is selected"))?;
        translation::check(&request, self.exists, &self.capabilities).map_err(invalid)?;
        let proof = self.capabilities.proof_of_uidplus();
        let uidplus =
            proof.ok_or(refused("NO [CANNOT] The mail server has no UIDPLUS, so no MOVE is safe on it"))?;
        if self.framing_lost {
            return Err(refused("NO The mail server's answers got out of step; select the mailbox again"));
        }
        if self.unprovable_targets.contains(target) || self.unprovable_targets.len() >= UNPROVABLE_TARGETS {
            return Err(refused(
                "NO [CANNOT] The mail server does not say what it copies there (no COPYUID)",
            ));
        }
        let writer = Writer { max_line: self.settings.max_line, capabilities: self.capabilities };
        Ok(translation::start(request, selected, self.exists, writer, uidplus))
    }

    fn proceed(&mut self, mut moving: Box<Moving>, next: Next) {
        match next {
            Next::Send(flight, translation) => {
                let record = self.due_record(&mut moving, &translation);
                self.reach(&mut moving, translation.reached());
                moving.translation = Some(translation);
                self.work = Some(Work::Move(moving));
                match record {
                    Some(record) => {
                        self.notices.push_back(Notice::Journal(record));
                        self.unsent = Some(flight);
                    }
                    None => self.send(flight),
                }
            }
            Next::Finish(verdict) => self.end_move(*moving, verdict),
        }
    }

    fn reach(&mut self, moving: &mut Moving, stage: Stage) {
        let (before, since) = moving.stage;
        if stage != before {
            self.notices.push_back(Notice::Stage { stage: before, took: self.now.saturating_sub(since) });
            moving.stage = (stage, self.now);
        }
    }

    /// What must be on disk before the next flight of this MOVE: the intent before COPY, the proof before STORE.
    fn due_record(&self, moving: &mut Moving, next: &Translation) -> Option<Record> {
        let owner = self.owner.as_ref().filter(|_| self.settings.journal)?;
        let (reaches, record) = match next.milestone() {
            Milestone::Resolving => return None,
            Milestone::Copying => (Recorded::Intent, Record::Intent(self.intent(owner.clone(), next))),
            Milestone::Copied(pairs) => {
                (Recorded::Copied, Record::Copied { copyuid: pairs.map(Pairs::record) })
            }
            Milestone::Undoing => (Recorded::Undo, Record::Undo),
        };
        (moving.recorded < reaches).then(|| {
            moving.recorded = reaches;
            record
        })
    }

    /// The journal has, or cannot have, what the next flight waits for.
    pub(super) fn recorded(&mut self, flight: Flight, written: bool) {
        if let Some(Work::Move(moving)) = &mut self.work {
            moving.proof_on_disk |= written && moving.recorded == Recorded::Copied;
            if moving.recorded == Recorded::Undo && moving.proof_on_disk && !written {
                return self.leave_copies();
            }
        }
        self.send(flight);
    }

    /// The journal still says that this MOVE is to be finished: then its copies must stay (FAULT-1).
    fn leave_copies(&mut self) {
        if let Some(Work::Move(mut moving)) = self.work.take()
            && let Some(translation) = moving.translation.take()
        {
            let next = translation.without_undo();
            self.proceed(moving, next);
        }
    }

    fn intent(&self, owner: Owner, next: &Translation) -> Intent {
        let source = self.selected.as_ref();
        let (target, uids) = next.intent();
        Intent {
            owner,
            source: source
                .and_then(|selected| selected.mailbox.as_ref())
                .map(|mailbox| mailbox.octets.clone()),
            source_validity: source.and_then(|selected| selected.validity),
            target,
            uids,
        }
    }

    /// Nothing of it went upstream but what it asked: its record is done with.
    fn end_unsent(&mut self, moving: Moving, verdict: Verdict) {
        self.notices.push_back(Notice::Journal(Record::Ended));
        self.end_move(moving, verdict);
    }

    /// Whether what is said of a selected mailbox is about one that the gateway has opened for itself.
    pub(super) fn speaks_of_another_mailbox(&self) -> bool {
        match &self.work {
            Some(Work::Recover(_)) => true,
            Some(Work::Move(moving)) => moving.translation.as_ref().is_some_and(|t| t.has_left()),
            _ => false,
        }
    }

    fn end_move(&mut self, moving: Moving, verdict: Verdict) {
        // The record of a MOVE that lost its upstream is for a later session (FAULT-4).
        if moving.recorded > Recorded::Nothing && verdict.outcome != Outcome::UpstreamLost {
            self.notices.push_back(Notice::Journal(Record::Ended));
        }
        verdict.lines.iter().for_each(|line| self.say(line));
        self.say(&[&moving.tag.0[..], b" ", &verdict.reply, verdict.remark.as_bytes(), b"\r\n"].concat());
        self.notices.extend(verdict.undone.map(|whole| Notice::Undo { whole }));
        if verdict.unprovable_target {
            self.unprovable_targets.insert(moving.target);
        }
        let (stage, since) = moving.stage;
        self.notices.push_back(Notice::Stage { stage, took: self.now.saturating_sub(since) });
        let cause = match (verdict.outcome, stage) {
            (Outcome::UpstreamLost, _) => Cause::UpstreamLost,
            _ if self.framing_lost => Cause::OutOfStep,
            (_, Stage::Resolve | Stage::Copy) => Cause::NotProved,
            (_, Stage::Remove | Stage::Undo) => Cause::NotRemoved,
        };
        let count = |n| u32::try_from(n).unwrap_or(u32::MAX);
        self.notices.push_back(Notice::MoveEnded {
            outcome: verdict.outcome,
            moved: count(verdict.moved),
            left_behind: count(verdict.left_behind),
            took: self.now.saturating_sub(moving.began),
            stage,
            cause,
        });
        if let Some(reason) = verdict.ends {
            self.end_with("", reason);
        }
    }
}

// Ends and waits.
impl Session {
    /// FAULT-2: once COPY is sent the MOVE is finished even without its client.
    pub(super) fn outlives_client(&self) -> bool {
        match &self.work {
            Some(Work::Move(moving)) => {
                let copy_waits = self.unsent.is_some() && moving.recorded == Recorded::Intent;
                moving.translation.as_ref().is_some_and(|t| t.is_committed()) && !copy_waits
            }
            _ => false,
        }
    }

    /// The client is gone, and so is its MOVE that waits for its turn or the journal.
    pub(super) fn forget_unsent(&mut self) {
        if self.unsent.take().is_some() {
            self.notices.push_back(Notice::Journal(Record::Ended));
        }
    }

    /// The upstream is no more: the client gets what is true, then BYE (FAULT-3, WIRE-9).
    pub(super) fn upstream_gone(&mut self, reason: &str) {
        if self.finished {
            return;
        }
        self.flight = None;
        let unsent = self.unsent.take().is_some();
        let rest = std::mem::take(&mut self.inbox[Side::Upstream as usize]);
        if self.phase == Phase::Running && !rest.is_empty() && self.work.is_none() {
            self.emit(Side::Client, &rest);
            return self.finish();
        }
        if let Some(Work::Move(mut moving)) = self.work.take()
            && let Some(translation) = moving.translation.take()
        {
            match unsent && moving.recorded == Recorded::Intent {
                true => self.end_unsent(*moving, Translation::not_begun()),
                false => self.end_move(*moving, translation.upstream_lost()),
            }
        }
        self.end_with("[UNAVAILABLE] ", reason);
    }

    pub(super) fn own_deadline(&self) -> Option<Duration> {
        match (&self.work, self.phase) {
            (_, Phase::Greeting | Phase::Preamble) => Some(self.settings.greeting_timeout),
            (None, Phase::Running) => None,
            (Some(Work::Move(moving)), Phase::Running) => {
                let stall_ends = self.stall_ends(Side::Client, CLIENT_STALL);
                stall_ends.into_iter().chain([self.silence_ends(), moving.keep_alive]).min()
            }
            (Some(_), Phase::Running) => Some(self.silence_ends()),
        }
    }

    /// When the upstream counts as hung. While its octets are not read, or nothing was asked of it because the journal
    /// is waited for, it cannot be blamed.
    fn silence_ends(&self) -> Duration {
        if self.wants(Side::Upstream) && self.unsent.is_none() {
            self.progress_at + self.settings.move_timeout
        } else {
            Duration::MAX
        }
    }

    pub(super) fn on_deadline(&mut self) {
        if self.phase != Phase::Running {
            self.blame(Side::Upstream, Breach::Silence);
            return self.upstream_gone("The mail server did not greet in time");
        }
        if self.silence_ends() <= self.now {
            self.blame(Side::Upstream, Breach::Silence);
            return self.upstream_gone("The mail server does not answer");
        }
        if self.stall_ends(Side::Client, CLIENT_STALL).is_some_and(|at| at <= self.now) {
            self.met(Limit::ClientStall);
            return self.client_stalls();
        }
        if let Some(Work::Move(moving)) = &mut self.work {
            moving.keep_alive = self.now + KEEP_ALIVE;
            self.say(b"* OK [INPROGRESS] Still moving\r\n");
        }
    }
}
