//! How a session ends, where it is not the upstream that ends it (WIRE-8, WIRE-11, FAULT-2).

use super::client::Mode;
use super::{Phase, Session};
use crate::imap::{Breach, Notice, Side};

/// To clients whose session a drain ends.
const SHUTTING_DOWN: &str = "imapmove is shutting down, connect again";

impl Session {
    /// WIRE-11 and the drain: between commands, or where only an open command of the client's remains.
    pub(super) fn end_where_due(&mut self) {
        if self.finished || self.work.is_some() || !(self.client_closed || self.draining) {
            return;
        }
        let unheard = self.held && !self.inbox[Side::Client as usize].is_empty();
        if self.phase != Phase::Running {
            return match self.draining {
                true => self.end_with("[UNAVAILABLE] ", SHUTTING_DOWN),
                false if !unheard => self.finish(),
                // What was said before the greeting is answered behind it.
                false => {}
            };
        }
        let only_open = self.pending.iter().all(|p| self.mode.is_open(&p.tag));
        if only_open && self.client_closed && (self.draining || !unheard) {
            self.leave();
        } else if only_open && self.draining && self.may_end() && self.course.is_boundary() {
            self.say(format!("* BYE {SHUTTING_DOWN}\r\n").as_bytes());
            self.leave();
        }
    }

    /// Without a login there is nothing to lose: who leaves a command unfinished does not hold a drain.
    fn may_end(&self) -> bool {
        self.mode.may_end() || !self.authenticated
    }

    /// LOGOUT, if the upstream is between commands, and the end.
    pub(super) fn leave(&mut self) {
        let idle = self.pending.is_empty() && self.flight.is_none();
        let between = idle && self.phase == Phase::Running && !self.bye_seen;
        if between && !matches!(self.mode, Mode::Passing { .. } | Mode::Announced { .. }) {
            let logout = self.tags.logout();
            self.emit(Side::Upstream, logout.as_bytes());
        }
        self.finish();
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
        self.upgrade = None;
        self.inbox = Default::default();
    }

    /// The session cannot go on: BYE with the reason, and both legs close.
    pub(super) fn end_with(&mut self, code: &str, reason: &str) {
        self.say_bye(code, reason);
        self.finish();
    }

    /// The reason, for the client where one can be said, and for the log.
    pub(super) fn say_bye(&mut self, code: &str, reason: &str) {
        if self.course.is_boundary() && !self.bye_seen {
            self.say(format!("* BYE {code}{reason}\r\n").as_bytes());
        }
        self.notices.push_back(Notice::Ended { reason: reason.to_owned() });
    }

    /// WIRE-8: octets came in clear where only a handshake may follow.
    pub(super) fn end_in_clear(&mut self, side: Side) {
        self.blame(side, Breach::ClearOctets);
        self.upgrade = None;
        let code = if side == Side::Upstream { "[UNAVAILABLE] " } else { "" };
        self.end_with(code, "Octets came in clear behind STARTTLS; they are not used, connect again");
    }

    pub(super) fn client_gone(&mut self) {
        self.client_lost = true;
        self.client_closed = true;
        self.out[Side::Client as usize].clear();
        self.inbox[Side::Client as usize].clear();
        if !self.outlives_client() {
            self.forget_unsent();
            self.leave();
        }
    }
}
