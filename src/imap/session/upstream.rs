//! What the upstream says: passed on, learnt from, rewritten where it lists capabilities (CAP-1, WIRE-2, WIRE-10).

use super::{Kind, OWN_ANSWER, Pending, Phase, Session, UNDERSTOOD};
use crate::imap::capability::{self, Capabilities};
use crate::imap::grammar;
use crate::imap::identity::Who;
use crate::imap::own_command::Purpose;
use crate::imap::response::{Condition, Response, Status, Untagged, split_word};
use crate::imap::scan::{Piece, SHORT_LINE, announced};
use crate::imap::selected::{Rights, Selected};
use crate::imap::translation::Claim;
use crate::imap::{Breach, Notice, Owner, Side};

/// What becomes of the rest of a response whose first line was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// No response is in progress.
    Start,
    /// It passes.
    Forward,
    /// It answers the gateway. `rights`: its last line ends in what MYRIGHTS asked for.
    Drop { rights: bool },
    /// A tagged reply longer than the gateway reads: at its end the command is answered.
    Reply,
}

impl Course {
    /// Whether the client has got only whole responses so far.
    pub fn is_boundary(self) -> bool {
        matches!(self, Course::Start | Course::Drop { .. })
    }
}

impl Session {
    pub(super) fn consume_upstream(&mut self, input: &[u8]) -> usize {
        let mut used = 0;
        while used < input.len() {
            // Here too and not behind all of the input alone, so that nothing depends on how it was cut.
            self.settle();
            if self.finished || self.upgrade == Some(Side::Upstream) {
                break;
            }
            let asked = self.flight.is_some();
            let rest = &input[used..];
            let Some(piece) = self.scanner[Side::Upstream as usize].next(rest, |head| limit(head, asked))
            else {
                break;
            };
            used += piece.len();
            self.upstream_piece(piece);
        }
        if self.upgrade == Some(Side::Upstream) && used < input.len() {
            self.end_in_clear(Side::Upstream);
        }
        if self.finished { input.len() } else { used }
    }

    fn upstream_piece(&mut self, piece: Piece<'_>) {
        match (self.course, piece) {
            (Course::Start, Piece::Line(line)) => self.response(line),
            (Course::Start, Piece::Head(head)) => self.long_response(head),
            (Course::Start, Piece::More(part) | Piece::Octets(part)) => self.pass(part),
            (_, Piece::Line(line)) => self.response_goes_on(line, line),
            (_, Piece::Rest(line)) => {
                let end = self.scanner[Side::Upstream as usize].take_line_end();
                self.response_goes_on(line, &end);
            }
            (_, Piece::Head(part) | Piece::More(part) | Piece::Octets(part)) => self.pass(part),
        }
    }

    /// Octets of the response in progress.
    fn pass(&mut self, octets: &[u8]) {
        if !matches!(self.course, Course::Drop { .. }) {
            self.emit(Side::Client, octets);
        }
    }

    /// A line of a response behind a literal, or the rest of a long one.
    fn response_goes_on(&mut self, line: &[u8], end: &[u8]) {
        self.pass(line);
        let course = self.course;
        if course != Course::Reply && self.literal_follows(end) {
            return;
        }
        self.course = Course::Start;
        if course == (Course::Drop { rights: true }) {
            self.learn_rights(grammar::rights(line));
        }
        self.say_what_waited();
    }

    /// Whether the line announces a literal; then its octets are expected.
    fn literal_follows(&mut self, line: &[u8]) -> bool {
        match announced(line).map(|literal| literal.octets) {
            None => false,
            Some(Some(octets)) => {
                self.scanner[Side::Upstream as usize].expect(octets);
                true
            }
            Some(None) => {
                self.blame(Side::Upstream, Breach::EndlessLiteral);
                self.finish();
                true
            }
        }
    }

    /// A response too long to be understood: it passes.
    fn long_response(&mut self, head: &[u8]) {
        if self.phase == Phase::Greeting {
            // No greeting is that long.
            return self.greeting(b"");
        }
        let response = Response::parse(head);
        self.course = if response.may_announce() { Course::Forward } else { Course::Reply };
        let drops = match response {
            Response::Continuation => self.continuation(b""),
            Response::Tagged(tag, status) => {
                let reply = Status { code: None, ..status };
                self.own_reply(tag, &reply) || self.client_reply(tag, &reply, None)
            }
            // It answers the gateway and cannot be read.
            Response::Untagged(Untagged::Search(_)) => self.claim(&Untagged::Search(b"?")) == Claim::Mine,
            Response::Untagged(_) if is_word(head, b"VANISHED") => {
                // Its UIDs are not known: the client's count of messages is lost with them.
                self.lose_framing(Breach::UnreadableVanished);
                false
            }
            Response::Untagged(Untagged::Fetch(..) | Untagged::Opening | Untagged::Exists(_)) => {
                self.speaks_of_another_mailbox()
            }
            _ => false,
        };
        if drops || self.phase != Phase::Running {
            self.course = Course::Drop { rights: false };
        }
        self.pass(head);
    }

    fn response(&mut self, line: &[u8]) {
        if self.phase == Phase::Greeting {
            return self.greeting(line);
        }
        let response = Response::parse(line);
        let drops = match &response {
            Response::Continuation => self.continuation(line),
            Response::Tagged(tag, status) => {
                self.own_reply(tag, status) || self.client_reply(tag, status, Some(line))
            }
            Response::Untagged(data) => self.untagged(data, line),
            Response::Unknown => self.forward(line),
        };
        if self.finished || !response.may_announce() || !self.literal_follows(line) {
            return;
        }
        let rights = drops && matches!(response, Response::Untagged(Untagged::MyRights));
        // Nothing that came before TLS may reach the client (WIRE-8).
        let passes = !drops && self.phase == Phase::Running;
        self.course = if passes { Course::Forward } else { Course::Drop { rights } };
    }

    /// Passes a line on; it is not the gateway's to keep.
    fn forward(&mut self, line: &[u8]) -> bool {
        if self.phase == Phase::Running {
            self.emit(Side::Client, line);
        }
        false
    }

    fn continuation(&mut self, line: &[u8]) -> bool {
        if self.flight.as_mut().is_some_and(|flight| flight.continued()) {
            self.write_flight();
            return true;
        }
        self.client_may_go_on();
        self.forward(line)
    }

    /// A tagged reply to a command of the client's, or to nobody's. `line` is `None` if it passes in parts.
    fn client_reply(&mut self, tag: &[u8], status: &Status<'_>, line: Option<&[u8]>) -> bool {
        let Some(at) = self.pending.iter().position(|p| *p.tag.0 == *tag) else {
            self.lose_framing(Breach::UnaskedReply);
            if self.is_of_running_move(tag) {
                // The client gets one reply to its MOVE, and it is the gateway's.
                return true;
            }
            let line = line.map(|line| self.learn_from(status, line)).unwrap_or_default();
            return self.forward(&line);
        };
        let Pending { tag, kind } = self.pending.remove(at);
        self.client_is_answered(&tag);
        let login = matches!(kind, Kind::Login { .. });
        // A list in this very OK is one for a client that is logged in.
        self.authenticated |= login && status.is_ok();
        let line = line.map(|line| self.learn_from(status, line)).unwrap_or_default();
        match kind {
            Kind::Login { list_seen, who, mechanism } => {
                if let (Who::Known(user), true) = (who, status.is_ok()) {
                    self.owner = Some(Owner { user, utf8: false });
                }
                let told = list_seen || status.code("CAPABILITY").is_some();
                self.notices.push_back(Notice::Login { accepted: status.is_ok(), mechanism });
                if status.is_ok() && !told {
                    self.ask_capabilities(line);
                    return false;
                }
                self.tell_whether_it_qualifies();
            }
            Kind::Select(selected) => self.select_answered(*selected, status),
            Kind::Close if status.is_ok() => {
                self.selected = None;
                self.closed_mailbox();
            }
            Kind::NativeMove { began } => {
                let took = self.now.saturating_sub(began);
                self.notices.push_back(Notice::NativeMove { accepted: status.is_ok(), took });
            }
            Kind::Close | Kind::Idle | Kind::Logout | Kind::Other => {}
        }
        self.emit(Side::Client, &line);
        false
    }

    pub(super) fn tell_whether_it_qualifies(&mut self) {
        if self.authenticated {
            self.notices.push_back(Notice::Strategy(self.capabilities.strategy()));
        }
    }

    fn select_answered(&mut self, mut selected: Selected, status: &Status<'_>) {
        let opening = std::mem::take(&mut self.opening);
        if !status.is_ok() {
            // Some servers have nothing selected then, some the mailbox before (SRV-7).
            self.selected = None;
            return;
        }
        selected.deleted_is_not_permanent = opening.deleted_is_not_permanent;
        selected.validity = opening.validity;
        selected.read_only |= opening.read_only || status.code("READ-ONLY").is_some();
        self.exists = self.opening_exists;
        self.opening_exists = 0;
        self.selected = Some(selected);
        self.framing_lost = false;
    }

    fn lose_framing(&mut self, breach: Breach) {
        self.blame(Side::Upstream, breach);
        self.framing_lost = true;
    }

    /// A line of data. Whether it answers the gateway and goes no further.
    fn untagged(&mut self, data: &Untagged<'_>, line: &[u8]) -> bool {
        if let Untagged::Status(Status { condition: Condition::Bye, .. }) = data {
            return self.bye(line);
        }
        self.count(data);
        if matches!(data, Untagged::UnreadableVanished) {
            // The client's count of messages is lost with it.
            self.lose_framing(Breach::UnreadableVanished);
        }
        let claim = match data {
            Untagged::MyRights if self.asks(Purpose::Rights) => {
                if announced(line).is_none() {
                    self.learn_rights(grammar::rights(crate::imap::scan::without_line_end(line)));
                }
                Claim::Mine
            }
            _ => self.claim(data),
        };
        match claim {
            Claim::Mine => return true,
            Claim::Forward => {}
            Claim::ForwardAfter(first) => self.emit_whole(Side::Client, first),
        }
        let line = match data {
            Untagged::Status(status) => self.learn_from(status, line),
            Untagged::Capability(list) => self.relist(list, line),
            Untagged::Enabled(list) => {
                self.learn_enabled(list);
                return self.forward(line);
            }
            _ => return self.forward(line),
        };
        self.forward(&line)
    }

    /// WIRE-10: how many messages the client counts.
    fn count(&mut self, data: &Untagged<'_>) {
        let opening = self.pending.iter().any(|p| matches!(p.kind, Kind::Select(_)));
        let count = if opening { &mut self.opening_exists } else { &mut self.exists };
        match data {
            Untagged::Exists(n) => *count = *n,
            Untagged::Expunge(_) => *count = count.saturating_sub(1),
            Untagged::Vanished(uids) => {
                *count = count.saturating_sub(u32::try_from(uids.count()).unwrap_or(u32::MAX))
            }
            _ => {}
        }
    }

    /// CAP-8: what is on is what the upstream says is on.
    fn learn_enabled(&mut self, list: &[u8]) {
        let accepts = |word: &[u8]| word.eq_ignore_ascii_case(b"UTF8=ACCEPT");
        if let Some(owner) = &mut self.owner {
            owner.utf8 |= list.split(|c| *c == b' ').any(accepts);
        }
    }

    fn learn_rights(&mut self, rights: &[u8]) {
        if let Some(selected) = &mut self.selected {
            selected.rights = Rights::parse(rights);
        }
    }

    fn bye(&mut self, line: &[u8]) -> bool {
        if self.work.is_some() {
            // The client first gets what is true of its command.
            self.upstream_gone("The mail server said BYE");
            return true;
        }
        self.bye_seen = true;
        self.forward(line)
    }

    /// A capability list came, as data or in a code: what it says counts from now on.
    pub(super) fn learn_list(&mut self, list: &[u8]) {
        self.capabilities = Capabilities::parse(list);
        self.list_known = true;
        for pending in &mut self.pending {
            if let Kind::Login { list_seen, .. } = &mut pending.kind {
                *list_seen = true;
            }
        }
    }

    /// The line with its list as it is for the client (CAP-1).
    pub(super) fn relist(&mut self, list: &[u8], line: &[u8]) -> Vec<u8> {
        self.learn_list(list);
        if list.is_empty() {
            return line.to_vec();
        }
        let at = list.as_ptr() as usize - line.as_ptr() as usize;
        [&line[..at], &capability::rewrite(list, &self.leg()), &line[at + list.len()..]].concat()
    }

    /// A status line: what its code tells, and the line for the client.
    pub(super) fn learn_from(&mut self, status: &Status<'_>, line: &[u8]) -> Vec<u8> {
        if let Some(list) = status.code("CAPABILITY") {
            return self.relist(list, line);
        }
        let opening = self.pending.iter().any(|p| matches!(p.kind, Kind::Select(_)));
        if opening && status.code("CLOSED").is_some() {
            // What came so far was said of the mailbox before.
            self.opening = Selected::default();
            self.opening_exists = 0;
        }
        let view = if opening { Some(&mut self.opening) } else { self.selected.as_mut() };
        if let Some(view) = view {
            view.learn(status);
        }
        line.to_vec()
    }
}

fn is_word(line: &[u8], word: &[u8]) -> bool {
    line.get(2..2 + word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word))
}

/// Up to which length a line is wanted whole, from its first octets.
fn limit(head: &[u8], asked: bool) -> usize {
    let answer = if asked { OWN_ANSWER } else { UNDERSTOOD };
    let Some(text) = head.strip_prefix(b"* ") else { return answer };
    let (word, rest) = split_word(text);
    let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
    match () {
        () if is(b"VANISHED") => OWN_ANSWER,
        () if is(b"SEARCH") => {
            if asked {
                OWN_ANSWER
            } else {
                SHORT_LINE
            }
        }
        () if is(b"CAPABILITY") || is(b"OK") || is(b"NO") || is(b"BAD") || is(b"BYE") => answer,
        () if asked && split_word(rest).0.eq_ignore_ascii_case(b"FETCH") => UNDERSTOOD,
        () => SHORT_LINE,
    }
}
