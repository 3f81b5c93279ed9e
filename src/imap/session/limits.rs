//! How long the session waits for its peers, and how much it hears of a client that has not logged in.

use super::{LINE_BEFORE_LOGIN, Session, UNANSWERED, UNDERSTOOD, WRITE_STALL};
use crate::imap::scan::Announced;
use crate::imap::{Breach, Limit, Notice, Side};
use std::time::Duration;

/// What becomes of the octets for one leg.
#[derive(Debug, Default)]
pub struct Taking {
    /// Written for it in all.
    emitted: u64,
    /// Of these, no longer here.
    taken: u64,
    /// The last time that some were taken, or that none waited.
    at: Duration,
}

impl Taking {
    /// Octets were written for the leg.
    pub fn emit(&mut self, octets: u64) {
        self.emitted += octets;
    }

    fn look(&mut self, waiting: usize, now: Duration) {
        let taken = self.emitted - waiting as u64;
        if taken != self.taken || waiting == 0 {
            (self.taken, self.at) = (taken, now);
        }
    }
}

// Waits.
impl Session {
    /// Notes which peer has taken something.
    pub(super) fn watch_peers(&mut self) {
        for side in [Side::Client, Side::Upstream] {
            let waiting = self.unwritten(side);
            self.taking[side as usize].look(waiting, self.now);
        }
    }

    /// When a peer has had all the time that it gets.
    pub(super) fn patience_ends(&self) -> Option<Duration> {
        let stalls = [Side::Client, Side::Upstream].map(|side| self.stall_ends(side, WRITE_STALL));
        [self.login_ends(), self.idle_ends()].into_iter().chain(stalls).flatten().min()
    }

    /// Ends the session if a peer has had its time. Says whether.
    pub(super) fn end_of_patience(&mut self) -> bool {
        let is_over = |end: Option<Duration>| end.is_some_and(|at| at <= self.now);
        if is_over(self.login_ends()) {
            self.dismiss(Limit::LoginTimeout, "This took too long without a login");
        } else if is_over(self.idle_ends()) {
            self.dismiss(Limit::IdleTimeout, "Idle for too long");
        } else if is_over(self.stall_ends(Side::Client, WRITE_STALL)) {
            self.met(Limit::WriteStall);
            self.client_stalls();
        } else if is_over(self.stall_ends(Side::Upstream, WRITE_STALL)) {
            self.met(Limit::WriteStall);
            self.blame(Side::Upstream, Breach::Silence);
            self.upstream_gone("The mail server takes nothing any more");
        } else {
            return false;
        }
        true
    }

    fn login_ends(&self) -> Option<Duration> {
        (!self.authenticated).then_some(self.settings.login_timeout)
    }

    /// Whoever waits for an answer is not idle, but does not wait for ever. In IDLE both sides are idle, until one says
    /// something.
    fn idle_ends(&self) -> Option<Duration> {
        let client_is_due = self.client_closed || self.pending.iter().all(|p| self.mode.is_open(&p.tag));
        let patience = if client_is_due { self.settings.idle_timeout } else { UNANSWERED };
        (self.authenticated && self.work.is_none()).then_some(self.heard_at + patience)
    }

    /// When a peer for which octets wait, and which takes none, counts as gone.
    pub(super) fn stall_ends(&self, side: Side, patience: Duration) -> Option<Duration> {
        let gone = side == Side::Client && self.client_lost;
        let waits = self.unwritten(side) > 0 && !gone;
        waits.then_some(self.taking[side as usize].at + patience)
    }

    /// A client that takes nothing cannot be told.
    pub(super) fn client_stalls(&mut self) {
        self.blame(Side::Client, Breach::Silence);
        self.notices.push_back(Notice::Ended { reason: "The client takes nothing any more".into() });
        self.client_gone();
    }

    fn dismiss(&mut self, limit: Limit, reason: &str) {
        self.met(limit);
        self.say_bye("", reason);
        self.leave();
    }

    pub(super) fn met(&mut self, limit: Limit) {
        self.notices.push_back(Notice::LimitMet(limit));
    }
}

// Lengths.
impl Session {
    /// A command begins with these octets.
    pub(super) fn count_command(&mut self, line: &[u8], literal: Option<Announced>) {
        self.spoken = 0;
        self.count_more(line, literal);
    }

    /// It goes on with these.
    pub(super) fn count_more(&mut self, line: &[u8], literal: Option<Announced>) {
        let octets = literal.and_then(|literal| literal.octets).unwrap_or_default();
        self.spoken = self.spoken.saturating_add(line.len() as u64).saturating_add(octets);
    }

    /// Whether a command is longer than any that makes sense before a login: anybody can send it, and an old server
    /// may keep it in memory.
    pub(super) fn is_too_much_before_login(&self) -> bool {
        !self.authenticated && self.spoken > UNDERSTOOD as u64
    }

    /// Up to which length a line of the client's is wanted whole.
    pub(super) fn longest_line(before_login: bool, head: &[u8]) -> usize {
        // A SASL token can be long, and with SASL-IR it stands in the command.
        let short = before_login && !super::client::is_authenticate(head);
        if short { LINE_BEFORE_LOGIN } else { UNDERSTOOD }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::Settings;
    use bytes::Buf;

    /// Alice has logged in.
    fn session() -> Session {
        let mut session = Session::new(Settings::default());
        session.receive(Side::Upstream, b"* OK [CAPABILITY IMAP4rev1] hi\r\n");
        session.receive(Side::Client, b"a LOGIN alice wonderland\r\n");
        session.receive(Side::Upstream, b"a OK [CAPABILITY IMAP4rev1 LITERAL+] in\r\n");
        take_all(&mut session);
        session
    }

    fn take_all(session: &mut Session) {
        [Side::Client, Side::Upstream].into_iter().for_each(|side| session.output(side).clear());
        session.tick(session.now);
    }

    fn met(session: &mut Session) -> Vec<Limit> {
        let notices = std::iter::from_fn(|| session.notice());
        notices.filter_map(|n| if let Notice::LimitMet(limit) = n { Some(limit) } else { None }).collect()
    }

    #[test]
    fn a_client_that_takes_nothing_counts_as_gone() {
        let mut session = session();
        session.receive(Side::Client, b"b FETCH 1 BODY[]\r\n");
        take_all(&mut session);
        session.receive(Side::Upstream, b"* 1 FETCH (BODY[] {100}\r\n");
        assert_eq!(session.deadline(), Some(WRITE_STALL));
        session.tick(WRITE_STALL - Duration::from_millis(1));
        session.receive(Side::Upstream, b"some of it");
        assert!(!session.is_finished());
        session.tick(WRITE_STALL);
        assert!(session.is_finished() && session.output(Side::Client).is_empty());
        assert_eq!(met(&mut session), [Limit::WriteStall]);
    }

    #[test]
    fn a_client_that_takes_nothing_of_what_is_under_way_counts_as_gone() {
        let mut session = session();
        session.receive(Side::Client, b"b FETCH 1 BODY[]\r\n");
        take_all(&mut session);
        session.receive(Side::Upstream, b"* 1 FETCH (BODY[] {100000}\r\n");
        take_all(&mut session);
        session.relayed(Side::Upstream, 90_000);
        session.under_way(Side::Client, 90_000);
        assert!(!session.wants(Side::Upstream));
        session.tick(WRITE_STALL - Duration::from_millis(1));
        session.under_way(Side::Client, 80_000);
        session.tick(WRITE_STALL);
        assert!(!session.is_finished());
        session.tick(2 * WRITE_STALL);
        assert_eq!((session.is_finished(), met(&mut session)), (true, vec![Limit::WriteStall]));
    }

    #[test]
    fn a_client_that_takes_an_octet_now_and_then_is_there() {
        let mut session = session();
        session.receive(Side::Client, b"b FETCH 1 BODY[]\r\n");
        take_all(&mut session);
        session.receive(Side::Upstream, b"* 1 FETCH (BODY[] {100}\r\n");
        for minutes in (4..=80).step_by(4) {
            session.output(Side::Client).advance(1);
            session.tick(Duration::from_secs(60 * minutes));
            assert!(!session.is_finished(), "after {minutes} minutes");
        }
    }

    #[test]
    fn a_server_that_takes_nothing_counts_as_gone_and_the_client_hears_so() {
        let mut session = session();
        session.receive(Side::Client, b"b APPEND x {100+}\r\nsome of it");
        session.tick(WRITE_STALL);
        let told = String::from_utf8(session.output(Side::Client).to_vec()).unwrap();
        assert!(told.starts_with("* BYE [UNAVAILABLE] ") && session.is_finished(), "{told}");
        assert_eq!(met(&mut session), [Limit::WriteStall]);
    }

    #[test]
    fn who_moves_a_literal_across_unread_is_not_idle() {
        let mut session = session();
        session.receive(Side::Client, b"b APPEND x {1000000+}\r\n");
        take_all(&mut session);
        for minutes in (50..=500).step_by(50) {
            session.tick(Duration::from_secs(60 * minutes));
            assert_ne!(session.opaque(Side::Client), 0, "after {minutes} minutes");
            session.relayed(Side::Client, 1);
        }
    }

    #[test]
    fn commands_in_progress_are_counted_where_they_are_too_many() {
        let mut session = session();
        for n in 0..200 {
            session.receive(Side::Client, format!("b{n} NOOP\r\n").as_bytes());
        }
        let asked = session.output(Side::Upstream).iter().filter(|octet| **octet == b'\n').count();
        assert_eq!((asked, met(&mut session)), (crate::imap::session::PIPELINED, vec![Limit::Pipelined]));
    }
}
