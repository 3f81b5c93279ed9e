//! What the client sends: commands cut out, checked and passed on; MOVE kept (WIRE-1, WIRE-3 to WIRE-7).

use super::order::Order;
use super::{BAD_IN_A_ROW, Kind, LONGEST_TAG, PIPELINED, Pending, Phase, Session, UNDERSTOOD};
use crate::imap::arguments::Arguments;
use crate::imap::command::{Form, Tag};
use crate::imap::grammar;
use crate::imap::identity::Who;
use crate::imap::scan::{Announced, Piece, announced, without_line_end};
use crate::imap::selected::Selected;
use crate::imap::{Breach, Limit, Notice, Side, Verb};

/// Where the client's stream stands.
#[derive(Debug)]
pub enum Mode {
    /// A command comes next.
    Command,
    /// A command whose beginning went upstream: the rest of it passes.
    Passing { tag: Tag, tee: Option<Vec<u8>> },
    /// The same, at a `{n}`: octets follow only after `+` (WIRE-3).
    Announced { tag: Tag, tee: Option<Vec<u8>>, octets: u64 },
    /// IDLE: lines pass from `+` on (WIRE-7).
    Idle { tag: Tag, ready: bool },
    /// AUTHENTICATE: each `+` lets one line through.
    Authenticate { tag: Tag, credit: u32 },
    /// A refused command: the rest of it is read and dropped, then comes the answer.
    Discarding { reply: Vec<u8> },
    /// A MOVE that goes on behind a literal.
    Gathering { tag: Tag, form: Form, arguments: Vec<u8> },
}

impl Mode {
    pub fn passes_octets(&self) -> bool {
        matches!(self, Mode::Passing { tee: None, .. })
    }

    /// Whether this command of the client's waits for the client (WIRE-11).
    pub fn is_open(&self, of: &Tag) -> bool {
        match self {
            Mode::Passing { tag, .. } | Mode::Announced { tag, .. } => tag == of,
            Mode::Idle { tag, .. } | Mode::Authenticate { tag, .. } => tag == of,
            _ => false,
        }
    }

    /// Whether a drain may end the session here: between commands, or in one that only waits for events.
    pub fn may_end(&self) -> bool {
        !matches!(self, Mode::Passing { .. } | Mode::Announced { .. })
    }
}

/// Whether the loop over the client's octets goes on.
#[derive(PartialEq)]
pub(super) enum Flow {
    On,
    Hold,
}

impl Session {
    pub(super) fn consume_client(&mut self, input: &[u8]) -> usize {
        let mut used = 0;
        self.held = false;
        while !self.finished && self.upgrade.is_none() {
            if self.must_hold() {
                self.held = true;
                break;
            }
            let rest = &input[used..];
            if !rest.is_empty() && matches!(self.mode, Mode::Command) && self.asks_before_first_command() {
                continue;
            }
            let before_login = !self.authenticated && matches!(self.mode, Mode::Command);
            let limit = |head: &[u8]| Session::longest_line(before_login, head);
            let Some(piece) = self.scanner[Side::Client as usize].next(rest, limit) else { break };
            let length = piece.len();
            if self.client_piece(piece) == Flow::Hold {
                self.held = true;
                break;
            }
            used += length;
        }
        if self.upgrade == Some(Side::Client) && used < input.len() {
            self.end_in_clear(Side::Client);
        }
        if self.finished { input.len() } else { used }
    }

    /// Whether the next octets must wait for the upstream.
    fn must_hold(&self) -> bool {
        match &self.mode {
            Mode::Command => {
                let alone = |p: &Pending| matches!(p.kind, Kind::Login { .. } | Kind::Logout);
                let ending = self.draining || self.client_lost;
                let busy = self.work.is_some() || self.phase != Phase::Running || ending;
                busy || self.pending.len() >= PIPELINED || self.pending.iter().any(alone)
            }
            Mode::Idle { ready, .. } => !ready,
            Mode::Authenticate { credit, .. } => *credit == 0,
            Mode::Announced { .. } => true,
            Mode::Passing { .. } | Mode::Discarding { .. } | Mode::Gathering { .. } => false,
        }
    }

    fn client_piece(&mut self, piece: Piece<'_>) -> Flow {
        match piece {
            Piece::Octets(octets) => self.client_octets(octets),
            Piece::Line(line) if matches!(self.mode, Mode::Command) => {
                return self.command_line(line, announced(line), true);
            }
            Piece::Head(head) if matches!(self.mode, Mode::Command) => {
                return self.command_line(head, None, false);
            }
            Piece::Line(line) => self.further_line(line, announced(line), true),
            Piece::Rest(line) => {
                let end = self.scanner[Side::Client as usize].take_line_end();
                self.further_line(line, announced(&end), true);
            }
            Piece::Head(part) | Piece::More(part) => self.further_line(part, None, false),
        }
        Flow::On
    }

    fn client_octets(&mut self, octets: &[u8]) {
        match &mut self.mode {
            Mode::Passing { tee, .. } => {
                extend_within_limit(tee, octets);
                self.emit(Side::Upstream, octets);
            }
            Mode::Gathering { arguments, .. } => arguments.extend_from_slice(octets),
            _ => {}
        }
    }

    /// A line, or the first octets of a very long one, where a command must begin.
    fn command_line(&mut self, line: &[u8], literal: Option<Announced>, whole: bool) -> Flow {
        let text = if whole { without_line_end(line) } else { line };
        if literal.is_some() || !whole {
            self.arguments = self.arguments_of(text);
        }
        self.count_command(text, literal);
        let order = match self.check_line(text, literal) {
            Err(why) => Order::Refuse(why),
            Ok(()) if self.is_too_much_before_login() => Order::TooLong,
            Ok(()) => self.order(text, whole),
        };
        if !self.comes_again(&order) {
            self.notices.push_back(Notice::Command(Verb::of(text)));
        }
        let tag = || Tag(grammar::command_head(text).map_or(&b""[..], |(tag, _, _)| tag).into());
        match order {
            // The scanner gives the same line again when the client goes on.
            Order::Wait => return Flow::Hold,
            Order::Recover => {
                self.tags.avoid(&tag());
                self.recover_first();
                let waits = self.work.is_some() || self.may_owe() || self.finished;
                return if waits { Flow::Hold } else { self.command_line(line, literal, whole) };
            }
            Order::Refuse(why) => self.refuse(text, &why, literal, whole),
            Order::TooLong => {
                self.met(if self.authenticated { Limit::Understood } else { Limit::LineBeforeLogin });
                self.refuse(text, "BAD The command is too long", literal, whole);
            }
            Order::Pass(kind) => self.pass_command(tag(), kind, text, literal, whole),
            Order::Move(form, at) => return self.begin_move(tag(), form, &text[at..], literal),
            Order::StartTls => self.start_client_tls(&tag()),
        }
        Flow::On
    }

    /// Whether the scanner gives the same line again.
    fn comes_again(&self, order: &Order) -> bool {
        match order {
            Order::Wait | Order::Recover => true,
            Order::Move(..) => !self.pending.is_empty(),
            _ => false,
        }
    }

    fn arguments_of(&self, text: &[u8]) -> Arguments {
        let verb = grammar::command_head(text).map(|(_, verb, _)| verb.to_ascii_uppercase());
        let mut arguments = Arguments::of(&verb.unwrap_or_default(), !self.authenticated);
        arguments.read(text);
        arguments
    }

    /// `{n+}` needs an upstream that allows it, and must read as a literal to everybody.
    pub(super) fn literal_allowed(&self, literal: &Announced) -> bool {
        let allowed = literal.octets.is_some_and(|n| self.capabilities.allows_non_synchronising(n));
        literal.synchronising || (allowed && self.arguments.take_literal())
    }

    /// The client's next octets are a literal's.
    pub(super) fn expect_literal(&mut self, octets: u64) {
        self.scanner[Side::Client as usize].expect(octets);
        self.arguments.behind_literal();
    }

    /// `tag BAD` if the tag is legal, else `* BAD`; behind the rest of the command, which is dropped.
    pub(super) fn refuse(&mut self, text: &[u8], why: &str, literal: Option<Announced>, whole: bool) {
        let mut reply = legal_tag(text).unwrap_or(b"*").to_vec();
        reply.extend_from_slice(format!(" {why}\r\n").as_bytes());
        if why.starts_with("BAD") {
            self.blame(Side::Client, Breach::BadCommand);
            self.bad_in_a_row += 1;
        }
        if self.bad_in_a_row > BAD_IN_A_ROW {
            self.met(Limit::BadInARow);
            return self.end_with("", "Too many lines in a row that are no commands");
        }
        self.mode = Mode::Discarding { reply };
        if whole {
            self.discarded_line(literal);
        }
    }

    fn discarded_line(&mut self, literal: Option<Announced>) {
        match literal {
            Some(Announced { synchronising: false, octets: Some(octets), .. }) => {
                self.scanner[Side::Client as usize].expect(octets);
            }
            Some(Announced { synchronising: false, octets: None, .. }) => {
                self.end_with("", "No literal can be that long, so the end of the command cannot be found");
            }
            _ => {
                if let Mode::Discarding { reply } = std::mem::replace(&mut self.mode, Mode::Command) {
                    self.say(&reply);
                }
            }
        }
    }

    fn pass_command(&mut self, tag: Tag, kind: Kind, text: &[u8], literal: Option<Announced>, whole: bool) {
        let literal_tells = match &kind {
            Kind::Select(opening) => opening.mailbox.is_none(),
            // Whose name may come as a literal; what follows it is the password.
            Kind::Login { who, .. } => *who == Who::Unknown && !is_authenticate(text),
            _ => false,
        };
        let mut tee = literal_tells.then(|| text.to_vec());
        extend_within_limit(&mut tee, b"\r\n");
        self.mode = match kind {
            Kind::Idle => Mode::Idle { tag: tag.clone(), ready: false },
            Kind::Login { .. } if is_authenticate(text) => Mode::Authenticate { tag: tag.clone(), credit: 0 },
            _ if whole && literal.is_none() => Mode::Command,
            _ => Mode::Passing { tag: tag.clone(), tee },
        };
        if matches!(kind, Kind::Select(_)) && !self.pending.iter().any(|p| matches!(p.kind, Kind::Select(_)))
        {
            self.opening = Selected::default();
            self.opening_exists = 0;
        }
        if matches!(kind, Kind::Select(_)) {
            self.selects();
        }
        self.bad_in_a_row = 0;
        self.tags.avoid(&tag);
        if self.pending.is_empty() {
            // Most clients have one at a time, and one that idles has it for long.
            self.pending = Vec::with_capacity(1);
        }
        self.pending.push(Pending { tag, kind });
        if self.pending.len() == PIPELINED {
            self.met(Limit::Pipelined);
        }
        self.emit(Side::Upstream, text);
        if whole {
            self.emit(Side::Upstream, b"\r\n");
            self.await_literal(literal);
        }
    }

    /// The line that was passed on may announce a literal.
    fn await_literal(&mut self, literal: Option<Announced>) {
        let Some(Announced { octets: Some(octets), synchronising, .. }) = literal else { return };
        match std::mem::replace(&mut self.mode, Mode::Command) {
            // Once the command has its answer, no `+` comes any more: what follows is a command.
            Mode::Passing { tag, .. } if synchronising && !self.pending.iter().any(|p| p.tag == tag) => {}
            Mode::Passing { tag, tee } if synchronising => self.mode = Mode::Announced { tag, tee, octets },
            mode => {
                self.mode = mode;
                self.expect_literal(octets);
            }
        }
    }

    /// A line, or a part of a long one, that does not begin a command.
    fn further_line(&mut self, line: &[u8], literal: Option<Announced>, end: bool) {
        match &self.mode {
            Mode::Passing { .. } => self.passing_line(line, literal, end),
            Mode::Idle { .. } | Mode::Authenticate { .. } => self.exchanged_line(line, end),
            Mode::Gathering { .. } => self.gathered_line(line, literal, end),
            _ if end => self.discarded_line(literal),
            _ => {}
        }
    }

    fn passing_line(&mut self, line: &[u8], literal: Option<Announced>, end: bool) {
        let text = if end { without_line_end(line) } else { line };
        if let Some(at) = text.iter().position(|c| b"\r\0".contains(c)) {
            self.emit(Side::Upstream, &text[..at]);
            return self.end_client_error("A command line must not hold NUL or a bare CR");
        }
        self.learn_user();
        self.arguments.read(text);
        self.count_more(text, literal);
        if self.is_too_much_before_login() {
            self.met(Limit::LineBeforeLogin);
            return self.end_client_error("This command is too long");
        }
        let bad = literal.filter(|l| l.octets.is_none() || !self.literal_allowed(l));
        if bad.is_some() {
            return self.end_client_error("The mail server takes no such literal");
        }
        self.emit(Side::Upstream, text);
        if let Mode::Passing { tee, .. } = &mut self.mode {
            extend_within_limit(tee, text);
        }
        if !end {
            return;
        }
        self.emit(Side::Upstream, b"\r\n");
        if literal.is_some() {
            if let Mode::Passing { tee, .. } = &mut self.mode {
                extend_within_limit(tee, b"\r\n");
            }
            return self.await_literal(literal);
        }
        if let Mode::Passing { tag, tee: Some(text) } = std::mem::replace(&mut self.mode, Mode::Command) {
            self.learn_mailbox(&tag, &text);
        }
    }

    /// LOGIN named its user by a literal, which is whole now: before a password follows.
    fn learn_user(&mut self) {
        let Mode::Passing { tag, tee } = &mut self.mode else { return };
        let of = self.pending.iter_mut().find(|p| p.tag == *tag);
        let Some(Pending { kind: Kind::Login { who, .. }, .. }) = of else { return };
        if let Some(text) = tee.take()
            && let Some((_, _, arguments)) = grammar::command_head(&text)
        {
            *who = Who::of_login(arguments);
        }
    }

    /// SELECT named its mailbox by a literal, and now all of it is there.
    fn learn_mailbox(&mut self, tag: &Tag, text: &[u8]) {
        let mailbox = grammar::command_head(text).and_then(|(_, _, rest)| grammar::select_mailbox(rest));
        let of = self.pending.iter_mut().find(|p| p.tag == *tag);
        if let Some(Pending { kind: Kind::Select(opening), .. }) = of {
            opening.mailbox = mailbox;
        }
    }

    /// A line of an AUTHENTICATE exchange or within IDLE.
    fn exchanged_line(&mut self, line: &[u8], end: bool) {
        let text = without_line_end(line);
        if !end {
            self.met(Limit::Understood);
            return self.end_client_error("This line is too long");
        }
        if !is_clean(text) {
            return self.end_client_error("This line holds NUL or a bare CR");
        }
        self.emit(Side::Upstream, text);
        self.emit(Side::Upstream, b"\r\n");
        match &mut self.mode {
            Mode::Authenticate { tag, credit } => {
                *credit -= 1;
                let of = self.pending.iter_mut().find(|p| p.tag == *tag);
                if let Some(Pending { kind: Kind::Login { who, .. }, .. }) = of {
                    who.read(text);
                }
            }
            _ if text.trim_ascii_end().eq_ignore_ascii_case(b"DONE") => self.mode = Mode::Command,
            _ => {}
        }
    }

    /// Of this command something went upstream already: there is no way to refuse it alone.
    fn end_client_error(&mut self, why: &str) {
        self.blame(Side::Client, Breach::BrokenCommand);
        self.end_with("", why);
    }

    fn start_client_tls(&mut self, tag: &Tag) {
        self.say(&[&tag.0[..], b" OK Begin TLS negotiation now\r\n"].concat());
        self.upgrade = Some(Side::Client);
    }

    /// `+` came from the upstream: whom it lets go on.
    pub(super) fn client_may_go_on(&mut self) {
        match std::mem::replace(&mut self.mode, Mode::Command) {
            Mode::Announced { tag, tee, octets } => {
                self.expect_literal(octets);
                self.mode = Mode::Passing { tag, tee };
            }
            Mode::Idle { tag, .. } => self.mode = Mode::Idle { tag, ready: true },
            Mode::Authenticate { tag, credit } => {
                self.mode = Mode::Authenticate { tag, credit: credit.saturating_add(1) };
            }
            mode => self.mode = mode,
        }
    }

    /// The upstream answered this tag: what was held for its continuation is a command now.
    pub(super) fn client_is_answered(&mut self, tag: &Tag) {
        let waits =
            matches!(self.mode, Mode::Announced { .. } | Mode::Idle { .. } | Mode::Authenticate { .. });
        if waits && self.mode.is_open(tag) {
            self.mode = Mode::Command;
        }
    }
}

/// What is kept of a SELECT whose mailbox comes as a literal; nothing, if that is too long to be understood.
fn extend_within_limit(tee: &mut Option<Vec<u8>>, octets: &[u8]) {
    tee.take_if(|kept| kept.len() + octets.len() > UNDERSTOOD);
    if let Some(kept) = tee {
        kept.extend_from_slice(octets);
    }
}

pub(super) fn is_clean(text: &[u8]) -> bool {
    memchr::memchr2(b'\r', 0, text).is_none()
}

pub(super) fn is_authenticate(text: &[u8]) -> bool {
    grammar::command_head(text).is_some_and(|(_, verb, _)| verb.eq_ignore_ascii_case(b"AUTHENTICATE"))
}

fn legal_tag(text: &[u8]) -> Option<&[u8]> {
    let (rest, tag) = grammar::command_tag(text).ok()?;
    let legal = matches!(rest.first(), None | Some(b' ')) && tag.len() <= LONGEST_TAG;
    legal.then_some(tag)
}
