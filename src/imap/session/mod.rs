//! One client and one server: whose turn it is, what is in flight, what is held.

mod client;
mod ending;
mod flight;
mod gather;
mod limits;
mod order;
mod own;
mod recover;
mod upstream;

use super::arguments::Arguments;
use super::capability::{Capabilities, Leg};
use super::command::Tag;
use super::identity::Who;
use super::own_command::Flight;
use super::scan::Scanner;
use super::selected::Selected;
use super::{Breach, Notice, Owner, Settings, Side, Tls, Unfinished};
use bytes::{Buf, BytesMut};
use client::Mode;
use flight::{InFlight, OwnTags};
use limits::Taking;
use own::Work;
use recover::Debts;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::time::Duration;
use upstream::Course;

/// What of a command or a response is understood, in octets: a longer one passes, or is refused (WIRE-4).
pub const UNDERSTOOD: usize = 64 * 1024;
/// A longer line before login is refused, unless it is AUTHENTICATE's, in octets.
pub const LINE_BEFORE_LOGIN: usize = 8 * 1024;
/// The longest answer to a command of the gateway's own that is understood, in octets: a COPYUID (WIRE-4).
pub const OWN_ANSWER: usize = 2 * 1024 * 1024;
/// Unwritten octets for one leg at which the other is not read any more.
pub const HIGH_WATER: usize = 64 * 1024;
/// Octets of a held client that are read ahead, so that its end of file is seen.
pub const HELD: usize = 16 * 1024;
/// Client commands in progress at the upstream; further ones wait.
pub const PIPELINED: usize = 128;
/// The longest tag of a client, in octets.
pub const LONGEST_TAG: usize = 1024;
/// Lines in a row that are no commands; one more ends the session.
pub const BAD_IN_A_ROW: usize = 100;
/// Targets remembered as unprovable (MOVE-6); when there are more, every target is refused.
pub const UNPROVABLE_TARGETS: usize = 64;
/// How often a long MOVE tells the client that it goes on (MOVE-15).
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a client may take nothing during a MOVE before it counts as gone (FAULT-2).
pub const CLIENT_STALL: Duration = Duration::from_secs(30);
/// How long a peer for which octets wait may take nothing before it counts as gone.
pub const WRITE_STALL: Duration = Duration::from_secs(300);
/// How long both peers may be silent while the server owes an answer.
pub const UNANSWERED: Duration = Duration::from_secs(86_400);

/// A command of the client's that the upstream has not answered.
#[derive(Debug)]
struct Pending {
    tag: Tag,
    kind: Kind,
}

/// What the reply to a client's command changes.
#[derive(Debug)]
enum Kind {
    /// LOGIN or AUTHENTICATE.
    Login {
        list_seen: bool,
        who: Who,
        mechanism: &'static str,
    },
    /// SELECT or EXAMINE.
    Select(Box<Selected>),
    /// CLOSE or UNSELECT.
    Close,
    Idle,
    Logout,
    /// MOVE or UID MOVE, which the upstream carries out itself.
    NativeMove {
        began: Duration,
    },
    Other,
}

/// How far the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The upstream has not greeted.
    Greeting,
    /// The gateway demands STARTTLS of the upstream; the client has not been greeted.
    Preamble,
    Running,
}

/// The octets in hand, as far as they pass to the other leg without a gap: where in memory those are that have not.
struct Through {
    to: Side,
    next: usize,
    end: usize,
}

impl Through {
    fn new(to: Side, bytes: &[u8]) -> Through {
        let next = bytes.as_ptr().addr();
        Through { to, next, end: next + bytes.len() }
    }

    /// Whether these are the next ones. (What is the gateway's own may begin where they end.)
    fn takes(&mut self, to: Side, octets: &[u8]) -> bool {
        let takes =
            to == self.to && octets.as_ptr().addr() == self.next && octets.len() <= self.end - self.next;
        self.next += if takes { octets.len() } else { 0 };
        takes
    }
}

/// One client and one server: whose turn it is, what is in flight, what is held.
///
/// The shell that owns the sockets feeds it and drains it:
///
/// 1. [`tick`](Session::tick) with the time since the session began, before every batch of events, and again
///    when [`deadline`](Session::deadline) is reached;
/// 2. read from a leg only while [`wants`](Session::wants) says so, and hand the octets to
///    [`receive`](Session::receive), or with fewer copies to [`receive_through`](Session::receive_through); while
///    [`opaque`](Session::opaque) is not 0 and nothing waits in the other leg's
///    [`output`](Session::output), that many octets may instead be moved across unread and reported with
///    [`relayed`](Session::relayed), before they arrive if they go before all other output and it is said with
///    [`under_way`](Session::under_way) how many have not;
/// 3. write what [`output`](Session::output) holds, drain what was written, and tick: there may be room for more;
/// 4. when [`upgrade`](Session::upgrade) names a leg and its output is written and flushed, do the TLS handshake there
///    and call [`secured`](Session::secured);
/// 5. report an end of file with [`closed`](Session::closed), anything worse with [`lost`](Session::lost);
/// 6. take the [`notice`](Session::notice)s; with a journal, write its records and call [`persisted`](Session::persisted), and
///    answer what is asked of it with [`recover`](Session::recover);
/// 7. when [`is_finished`](Session::is_finished): write what is left, then close both legs.
pub struct Session {
    settings: Settings,
    now: Duration,
    phase: Phase,
    finished: bool,
    draining: bool,
    upgrade: Option<Side>,
    out: [BytesMut; 2],
    /// Octets that come before those in `out`, outside.
    under_way: [usize; 2],
    /// While octets are received: those that pass as they came are not copied.
    through: Option<Through>,
    inbox: [BytesMut; 2],
    scanner: [Scanner; 2],
    notices: VecDeque<Notice>,

    mode: Mode,
    /// How the client's command stands so far.
    arguments: Arguments,
    bad_in_a_row: usize,
    /// Octets of the client's command in progress, its literals as announced.
    spoken: u64,
    /// The client's next octets wait for the upstream, not for the client.
    held: bool,
    client_secured: bool,
    client_closed: bool,
    client_lost: bool,
    /// What the gateway says of its own, until the upstream's response in progress is over.
    unsaid: Vec<u8>,
    /// Octets that the gateway said of its own since the client last had taken everything.
    said: usize,
    /// Who takes what is written (FAULT-2).
    taking: [Taking; 2],
    /// When one of the peers last said something.
    heard_at: Duration,

    /// The upstream is told where the client comes from.
    introduces: bool,
    course: Course,
    bye_seen: bool,
    pending: Vec<Pending>,
    capabilities: Capabilities,
    list_known: bool,
    /// The list that came inside upstream TLS, for the client's greeting.
    list_in_tls: Option<Vec<u8>>,
    authenticated: bool,
    /// Who is logged in, where that can be told: for the journal.
    owner: Option<Owner>,
    /// What an earlier session of this user's left unfinished.
    debts: Debts,
    exists: u32,
    selected: Option<Selected>,
    /// What the responses to a SELECT in progress have said so far.
    opening: Selected,
    opening_exists: u32,
    framing_lost: bool,
    unprovable_targets: HashSet<Vec<u8>>,

    tags: OwnTags,
    /// Boxed: most sessions have none.
    flight: Option<Box<InFlight>>,
    /// A flight that waits for the journal.
    unsent: Option<Flight>,
    work: Option<Work>,
    /// When the upstream last said something that a wait of the gateway's own depends on.
    progress_at: Duration,
}

/// Its buffers can hold a password, so of what the peers said only tags in progress are shown.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = |side: Side| (self.inbox[side as usize].len(), self.out[side as usize].len());
        f.debug_struct("Session")
            .field("phase", &self.phase)
            .field("pending", &self.pending)
            .field("client_octets", &held(Side::Client))
            .field("upstream_octets", &held(Side::Upstream))
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session whose upstream has not greeted yet.
    pub fn new(settings: Settings) -> Session {
        Session {
            client_secured: settings.client_tls == Tls::Implicit,
            introduces: settings.introduction.is_some(),
            settings,
            now: Duration::ZERO,
            phase: Phase::Greeting,
            finished: false,
            draining: false,
            upgrade: None,
            out: Default::default(),
            under_way: [0; 2],
            through: None,
            inbox: Default::default(),
            scanner: Default::default(),
            notices: VecDeque::new(),
            mode: Mode::Command,
            arguments: Arguments::default(),
            bad_in_a_row: 0,
            spoken: 0,
            held: true,
            client_closed: false,
            client_lost: false,
            unsaid: Vec::new(),
            said: 0,
            taking: Default::default(),
            heard_at: Duration::ZERO,
            course: Course::Start,
            bye_seen: false,
            pending: Vec::new(),
            capabilities: Capabilities::default(),
            list_known: false,
            list_in_tls: None,
            authenticated: false,
            owner: None,
            debts: Debts::default(),
            exists: 0,
            selected: None,
            opening: Selected::default(),
            opening_exists: 0,
            framing_lost: false,
            unprovable_targets: HashSet::new(),
            tags: OwnTags::default(),
            flight: None,
            unsent: None,
            work: None,
            progress_at: Duration::ZERO,
        }
    }

    /// Takes octets that were read from a leg and advances as far as it can.
    pub fn receive(&mut self, from: Side, bytes: &[u8]) {
        if self.finished {
            return;
        }
        if self.upgrade == Some(from) {
            return self.end_in_clear(from);
        }
        self.hear(from);
        if self.inbox[from as usize].is_empty() {
            let used = self.consume(from, bytes);
            self.inbox[from as usize].extend_from_slice(&bytes[used..]);
        } else {
            self.inbox[from as usize].extend_from_slice(bytes);
            self.pump(from);
        }
        self.settle();
    }

    /// As [`receive`](Session::receive), but octets at the beginning that pass to the other leg as they came are not copied
    /// into its output: how many. The shell writes them before that output, or puts what cannot be written in front of
    /// it, and then says [`under_way`](Session::under_way) of the other leg that none is.
    pub fn receive_through(&mut self, from: Side, bytes: &[u8]) -> usize {
        let to = from.other();
        let first = self.unwritten(to) == 0;
        self.through = first.then(|| Through::new(to, bytes));
        self.receive(from, bytes);
        self.through = None;
        if first { self.under_way[to as usize] } else { 0 }
    }

    /// The leg's peer will send nothing more (end of file). It may still read.
    pub fn closed(&mut self, side: Side) {
        match side {
            Side::Client => self.client_closed = true,
            Side::Upstream => self.upstream_gone("The mail server closed the connection"),
        }
        self.settle();
    }

    /// The leg is no more: reset, unreachable, failed handshake, failed write. `reason` is for the other
    /// side's eyes: whose side it is, what was expected and what to do, in one line without CR or LF.
    pub fn lost(&mut self, side: Side, reason: &str) {
        match side {
            Side::Client => self.client_gone(),
            Side::Upstream => self.upstream_gone(reason),
        }
        self.settle();
    }

    /// What is to be written to a leg. The shell drains what it has written.
    pub fn output(&mut self, to: Side) -> &mut BytesMut {
        &mut self.out[to as usize]
    }

    /// Whether octets from this leg are welcome now (back-pressure; a held client).
    pub fn wants(&self, from: Side) -> bool {
        let room = self.unwritten(from.other()) < HIGH_WATER;
        let open = !self.finished && self.upgrade.is_none();
        open && match from {
            Side::Upstream => room || self.client_lost,
            Side::Client => {
                let ahead = !self.held || self.inbox[from as usize].len() < HELD;
                room && ahead && !self.client_closed && !self.client_lost && self.own_words() < HIGH_WATER
            }
        }
    }

    /// How many octets of a literal, next to be read from this leg, may pass to the other unread.
    pub fn opaque(&self, from: Side) -> u64 {
        let passes = match from {
            Side::Client => self.mode.passes_octets(),
            Side::Upstream => self.course == Course::Forward && !self.client_lost,
        };
        let whole = self.inbox[from as usize].is_empty() && !self.finished;
        if passes && whole { self.scanner[from as usize].octets_left() } else { 0 }
    }

    /// The shell has moved `octets` of the [`opaque`](Session::opaque) ones across itself.
    pub fn relayed(&mut self, from: Side, octets: u64) {
        self.scanner[from as usize].skip(octets);
        self.taking[from.other() as usize].emit(octets);
        self.hear(from);
    }

    /// So many of the [`relayed`](Session::relayed) octets have not reached the leg to which they go.
    pub fn under_way(&mut self, to: Side, octets: usize) {
        self.under_way[to as usize] = octets;
    }

    fn unwritten(&self, to: Side) -> usize {
        self.under_way[to as usize] + self.out[to as usize].len()
    }

    fn hear(&mut self, from: Side) {
        self.heard_at = self.now;
        if from == Side::Upstream {
            self.progress_at = self.now;
        }
    }

    /// The authorisation identity of who is logged in, in the octets of the login, where that could be told.
    pub fn user(&self) -> Option<&[u8]> {
        self.owner.as_ref().map(|owner| &owner.user[..])
    }

    /// The leg on which a TLS handshake is due, once its output is written and flushed.
    pub fn upgrade(&self) -> Option<Side> {
        self.upgrade.filter(|_| !self.finished)
    }

    /// The handshake that [`upgrade`](Session::upgrade) asked for is done.
    pub fn secured(&mut self, side: Side) {
        if self.upgrade != Some(side) {
            return;
        }
        self.upgrade = None;
        match side {
            Side::Client => self.client_secured = true,
            Side::Upstream => self.upstream_secured(),
        }
        self.settle();
    }

    /// The last [`Notice::Journal`] that the session waits for is on disk, or (`written` is false) cannot be: a MOVE goes
    /// on without its record.
    pub fn persisted(&mut self, written: bool) {
        if let Some(flight) = self.unsent.take() {
            self.recorded(flight, written);
        }
        self.settle();
    }

    /// The answer to [`Notice::Owes`]: MOVEs to be finished before the client's SELECT goes out (FAULT-4).
    pub fn recover(&mut self, unfinished: Vec<Unfinished>) {
        self.debts.learn(unfinished);
        self.settle();
    }

    /// The time since the session began: for deadlines and keep-alives.
    pub fn tick(&mut self, now: Duration) {
        self.now = now;
        self.write_flight();
        self.watch_peers();
        if self.deadline().is_some_and(|at| at <= now) {
            if !self.end_of_patience() {
                self.on_deadline();
            }
            self.settle();
        }
    }

    /// When, on the clock of [`tick`](Session::tick), the session must be ticked next.
    pub fn deadline(&self) -> Option<Duration> {
        if self.finished {
            return None;
        }
        self.own_deadline().into_iter().chain(self.patience_ends()).min()
    }

    /// The gateway is shutting down: finish what runs, then `* BYE`.
    pub fn drain(&mut self) {
        self.draining = true;
        self.settle();
    }

    /// Takes the next thing that happened.
    pub fn notice(&mut self) -> Option<Notice> {
        let notice = self.notices.pop_front();
        if self.notices.is_empty() {
            // An idle session holds no more than it needs.
            self.notices = VecDeque::new();
        }
        notice
    }

    /// Whether the client has logged in.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// Nothing more is to be read; what is left in the outputs is still to be written, then both legs close.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    fn consume(&mut self, from: Side, input: &[u8]) -> usize {
        match from {
            Side::Client => self.consume_client(input),
            Side::Upstream => self.consume_upstream(input),
        }
    }

    fn pump(&mut self, from: Side) {
        let mut input = std::mem::take(&mut self.inbox[from as usize]);
        let used = self.consume(from, &input);
        input.advance(used);
        if !input.is_empty() {
            self.inbox[from as usize] = input;
        }
    }

    /// What follows from a response: behind it, when its octets, which may be many, are no more. Octets of the other leg
    /// may have freed the client; and some ends can come only now.
    fn settle(&mut self) {
        if self.finished {
            return;
        }
        self.land();
        self.write_flight();
        if self.held && !self.inbox[Side::Client as usize].is_empty() && self.upgrade.is_none() {
            self.pump(Side::Client);
        }
        self.end_where_due();
    }

    fn emit(&mut self, to: Side, octets: &[u8]) {
        if to == Side::Client && self.client_lost {
            return;
        }
        self.taking[to as usize].emit(octets.len() as u64);
        let first = self.out[to as usize].is_empty();
        if first && self.through.as_mut().is_some_and(|through| through.takes(to, octets)) {
            self.under_way[to as usize] += octets.len();
        } else {
            self.out[to as usize].extend_from_slice(octets);
        }
    }

    /// The same without a copy, for what is long.
    fn emit_whole(&mut self, to: Side, octets: BytesMut) {
        if to == Side::Client && self.client_lost {
            return;
        }
        self.taking[to as usize].emit(octets.len() as u64);
        self.out[to as usize].unsplit(octets);
    }

    /// Lines of the gateway's own for the client, behind the response that is being passed on.
    fn say(&mut self, lines: &[u8]) {
        if self.unwritten(Side::Client) == 0 {
            self.said = 0;
        }
        if self.course.is_boundary() {
            self.said += lines.len();
            self.emit(Side::Client, lines);
        } else {
            self.unsaid.extend_from_slice(lines);
        }
    }

    fn say_what_waited(&mut self) {
        if !self.unsaid.is_empty() {
            let unsaid = std::mem::take(&mut self.unsaid);
            self.say(&unsaid);
        }
    }

    /// Octets of the gateway's own that the client has not taken: it is not read while they pile up.
    fn own_words(&self) -> usize {
        self.unsaid.len() + if self.unwritten(Side::Client) == 0 { 0 } else { self.said }
    }

    fn blame(&mut self, side: Side, breach: Breach) {
        self.notices.push_back(Notice::ProtocolError { side, breach });
    }

    /// The client's own leg, for capability lists (CAP-7).
    fn leg(&self) -> Leg {
        let secured = self.client_secured;
        let before_login = !self.authenticated;
        Leg {
            starttls: before_login && !secured && self.settings.client_tls == Tls::StartTls,
            login_disabled: before_login && self.login_needs_tls(),
            terminates_tls: secured || self.settings.upstream_tls != Tls::Off,
            always_move: before_login && self.settings.advertise_before_login,
        }
    }

    fn login_needs_tls(&self) -> bool {
        self.settings.require_tls && !self.client_secured
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::{Intent, Record};

    #[test]
    fn wire_5_what_lies_behind_the_octets_in_hand_is_not_of_them() {
        let memory = *b"* 1 EXISTS\r\nand other things";
        let (line, behind) = memory.split_at(12);
        let mut through = Through::new(Side::Client, line);
        assert!(!through.takes(Side::Upstream, &line[..4]) && !through.takes(Side::Client, &memory));
        assert!(through.takes(Side::Client, &line[..4]) && through.takes(Side::Client, &line[4..]));
        assert!(!through.takes(Side::Client, behind));
    }

    fn moving() -> Session {
        moving_with(Settings::default())
    }

    fn moving_with(settings: Settings) -> Session {
        let mut session = Session::new(settings);
        session.receive(Side::Upstream, b"* OK [CAPABILITY IMAP4rev1 UIDPLUS] hi\r\n");
        session.receive(Side::Client, b"l LOGIN {4}\r\n");
        session.receive(Side::Upstream, b"+ go\r\n");
        session.receive(Side::Client, b"anna secret\r\n");
        session.receive(Side::Upstream, b"l OK [CAPABILITY IMAP4rev1 UIDPLUS] in\r\n");
        session.receive(Side::Client, b"a SELECT INBOX\r\n");
        session.recover(Vec::new());
        session.receive(Side::Upstream, b"* 3 EXISTS\r\n* OK [UIDVALIDITY 9] x\r\na OK [READ-WRITE] in\r\n");
        session.receive(Side::Client, b"b UID MOVE 2 T\r\n");
        session.output(Side::Client).clear();
        session.output(Side::Upstream).clear();
        session.tick(Duration::ZERO);
        session
    }

    #[test]
    fn fault_4_a_move_waits_for_its_journal() {
        let settings = Settings { journal: true, ..Settings::default() };
        let mut session = moving_with(settings);
        let text = |session: &mut Session| {
            String::from_utf8(session.output(Side::Upstream).split().to_vec()).unwrap()
        };
        let record = |session: &mut Session| {
            std::iter::from_fn(|| session.notice()).find_map(|notice| match notice {
                Notice::Journal(record) => Some(record),
                _ => None,
            })
        };
        let intent = Record::Intent(Intent {
            owner: Owner { user: b"anna".to_vec(), utf8: false },
            source: Some(b"INBOX".to_vec()),
            source_validity: Some(9),
            target: b"T".to_vec(),
            uids: "2".into(),
        });
        assert_eq!((text(&mut session), record(&mut session)), (String::new(), Some(intent)));
        session.persisted(true);
        assert!(text(&mut session).contains("UID COPY 2 T"));
        session.receive(Side::Upstream, b"* 2 FETCH (UID 2)\r\nmv1 OK\r\n* SEARCH\r\nmv2 OK\r\n");
        session.receive(Side::Upstream, b"mv3 OK [COPYUID 7 2 1] copied\r\n");
        let copied = Record::Copied { copyuid: Some(b"* OK [COPYUID 7 2 1] Moved\r\n".to_vec()) };
        let kept = record(&mut session);
        assert_eq!((text(&mut session), kept.as_ref()), (String::new(), Some(&copied)));
        let Some(Record::Copied { copyuid: Some(line) }) = kept else { panic!("no line") };
        assert!(line.capacity() < 100, "the journal keeps {} octets for {}", line.capacity(), line.len());
        session.persisted(true);
        assert!(text(&mut session).contains("UID STORE 2 "));
        session.receive(Side::Upstream, b"* 2 EXPUNGE\r\nmv4 OK\r\nmv5 OK\r\n");
        assert_eq!(record(&mut session), Some(Record::Ended));
    }

    #[test]
    fn wire_7_debug_shows_no_password() {
        let mut session = Session::new(Settings::default());
        session.receive(Side::Upstream, b"* OK [CAPABILITY IMAP4rev1 LITERAL+] hi\r\n");
        let speech = b"a LOGIN user {6+}\r\ncanary\r\nb AUTHENTICATE PLAIN canary\r\nc LOGIN x canary";
        for octet in speech {
            session.receive(Side::Client, &[*octet]);
            assert!(!format!("{session:?}").contains("canary"), "{session:?}");
        }
    }

    #[test]
    fn fault_2_a_client_that_takes_nothing_during_a_move_counts_as_gone() {
        let mut session = moving();
        session.receive(Side::Upstream, b"* 4 EXISTS\r\n");
        session.tick(CLIENT_STALL - Duration::from_millis(1));
        assert!(!session.client_lost);
        session.receive(Side::Upstream, b"* 5 EXISTS\r\n");
        session.tick(CLIENT_STALL);
        assert!(session.client_lost && !session.is_finished());
        session.receive(Side::Upstream, b"* 2 FETCH (UID 2)\r\nmv1 OK\r\n* SEARCH\r\nmv2 OK\r\n");
        session.receive(Side::Upstream, b"mv3 OK [COPYUID 7 2 1] copied\r\n");
        let upstream = String::from_utf8(session.output(Side::Upstream).to_vec()).unwrap();
        assert!(
            upstream.contains("UID STORE 2 +FLAGS.SILENT") && upstream.contains("UID EXPUNGE 2"),
            "{upstream}"
        );
        assert!(session.output(Side::Client).is_empty());
    }

    #[test]
    fn fault_2_a_client_that_takes_a_little_is_there() {
        let mut session = moving();
        session.receive(Side::Upstream, b"* 4 EXISTS\r\n");
        for seconds in (9..=90).step_by(9) {
            session.output(Side::Client).advance(1);
            session.receive(Side::Upstream, b"* 5 EXISTS\r\n");
            session.tick(Duration::from_secs(seconds));
            assert!(!session.client_lost, "after {seconds} s");
        }
    }
}
