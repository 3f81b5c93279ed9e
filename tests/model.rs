//! The model test: random MOVEs against a model mail store, and the promise checked after each run.
//!
//! One run is one seed: a client, the gateway's [`Session`] and a [`Server`] with the manners of a real one exchange octets in
//! random pieces, in one thread and without a clock, while another session changes the same mailboxes. Everything that
//! went over the wire, and everything that really happened in the store, is captured; [`promise::check`] reads the capture.
//!
//! A failing run prints its seed and its conversation. To replay it alone:
//!
//! ```sh
//! MODEL_SEED=1234 cargo test --test model
//! ```
//!
//! `MODEL_RUNS=100000` makes more of them (10,000 otherwise), `MODEL_SHOW=1` prints the conversation of a good run too.

#[path = "support/capture.rs"]
mod capture;
#[path = "support/promise.rs"]
mod promise;
#[path = "support/remark.rs"]
mod remark;
#[path = "support/store.rs"]
mod store;
#[path = "support/strict.rs"]
mod strict;
#[path = "support/undo.rs"]
mod undo;

use capture::{Asked, Capture, Event, Expect, Way};
use fastrand::Rng;
use imapmove::imap::{Session, Settings, Side};
use promise::Terms;
use std::collections::VecDeque;
use std::time::Duration;
use store::{Manner, Mishaps, Server};
use strict::{Kind, Responses};

/// The mailboxes of every run: the second to fifth need an atom, a quoted string, escapes and a literal.
const NAMES: [&[u8]; 5] = [b"INBOX", b"Archive", b"Old mail", b"a\\\"b(", b"M\xc3\xbcll \xff"];

/// What breaks in a run, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The client's connection is reset after so many steps.
    ClientReset(u32),
    /// The client sends an end of file and reads on.
    ClientEof(u32),
    /// The upstream connection is reset.
    ServerReset(u32),
    /// SIGTERM.
    Drain(u32),
}

/// What a run is, drawn from its seed.
struct Plan {
    manner: Manner,
    mishaps: Mishaps,
    settings: Settings,
    fault: Fault,
    commands: u32,
    /// The longest piece in which octets arrive.
    piece: usize,
}

impl Plan {
    fn draw(rng: &mut Rng) -> Plan {
        let mut mishaps = Mishaps { meddling: [0, 5, 20, 40][rng.usize(..4)], ..Mishaps::default() };
        match rng.u8(..14) {
            0 => mishaps.copy_refused = 25,
            1 => mishaps.copyuid_missing = 25,
            2 => mishaps.unreadable = 20,
            3 => mishaps.ignored = 40,
            4 => (mishaps.ignored, mishaps.stubborn) = (50, true),
            5 => mishaps.refused = 25,
            6 => mishaps.immovable = 40,
            7 => mishaps.denied = true,
            8 => (mishaps.denied, mishaps.refused) = (true, 20),
            9 => (mishaps.immovable, mishaps.unsearched) = (30, 15),
            10 => (mishaps.immovable, mishaps.closed) = (40, 40),
            11 => (mishaps.denied, mishaps.remade) = (true, 10),
            _ => {}
        }
        let latest = [400, 2_000][rng.usize(..2)];
        let step = rng.u32(..latest);
        let fault = match rng.u8(..16) {
            0 => Fault::ClientReset(step),
            1 => Fault::ServerReset(step),
            2 => Fault::Drain(step),
            3 => Fault::ClientEof(step),
            _ => Fault::None,
        };
        let settings = Settings { max_line: [160, 400, 8_000][rng.usize(..3)], ..Settings::default() };
        let manner = Manner::any(rng);
        Plan { manner, mishaps, settings, fault, commands: rng.u32(1..12), piece: 1 << rng.u32(0..11) }
    }
}

/// One step of what the client does.
#[derive(Debug)]
enum Step {
    Send(Vec<u8>),
    /// A command begins.
    Begin {
        tag: Vec<u8>,
    },
    Ask(Asked),
    /// Until the server says `+`, or answers the command: then what follows up to `Resume` is not sent.
    AwaitPlus,
    Resume,
    AwaitAll,
}

#[derive(Default)]
struct Client {
    reader: Responses,
    steps: VecDeque<Step>,
    outstanding: Vec<Vec<u8>>,
    plus: bool,
    commands: u32,
    tags: u32,
    /// How its tags look; 5 means like the gateway's own, a little ahead of them.
    style: u8,
    lure: Option<(String, u32)>,
    logged_in: bool,
    selected: bool,
    saved: bool,
    ended: bool,
}

impl Client {
    fn stop(&mut self) {
        self.ended = true;
        self.steps.clear();
    }

    fn has_ended(&self) -> bool {
        self.ended && self.steps.is_empty() && self.outstanding.is_empty()
    }
}

/// One run: who takes part, and what is on its way.
struct Run {
    rng: Rng,
    plan: Plan,
    session: Session,
    server: Server,
    client: Client,
    capture: Capture,
    to_gateway: Vec<u8>,
    to_server: Vec<u8>,
    from_server: Vec<u8>,
    now: Duration,
    steps: u32,
    server_gone: bool,
    client_gone: bool,
    /// It has sent an end of file which the session has not been told of.
    client_closed: bool,
    /// It is gone, or has sent an end of file: the session must end by itself.
    client_left: bool,
    fault_pending: bool,
    /// The gateway's last tag, its number apart.
    own_tag: Option<(String, u32)>,
}

impl Run {
    fn new(seed: u64, adjust: impl Fn(&mut Plan)) -> Run {
        let mut rng = Rng::with_seed(seed);
        let mut plan = Plan::draw(&mut rng);
        adjust(&mut plan);
        let mut server = Server::new(rng.u64(..), plan.manner.clone(), plan.mishaps.clone(), &NAMES);
        for mailbox in 0..NAMES.len() {
            let most = if mailbox == 0 { [6, 12, 40][rng.usize(..3)] } else { 4 };
            server.fill(mailbox, rng.usize(..=most));
        }
        let session = Session::new(plan.settings.clone());
        let style = rng.u8(..6);
        let fault_pending = plan.fault != Fault::None;
        Run {
            rng,
            plan,
            session,
            server,
            client: Client { style, ..Client::default() },
            capture: Capture::default(),
            to_gateway: Vec::new(),
            to_server: Vec::new(),
            from_server: Vec::new(),
            now: Duration::ZERO,
            steps: 0,
            server_gone: false,
            client_gone: false,
            client_closed: false,
            client_left: false,
            fault_pending,
            own_tag: None,
        }
    }

    /// Plays the run to its end and gives what was captured, or what stopped it.
    fn play(mut self) -> (Capture, Terms, Result<(), String>) {
        let terms =
            Terms { max_line: self.plan.settings.max_line, native: self.plan.manner.native, names: &NAMES };
        let mut idle = 0;
        let stopped = loop {
            if self.steps > 100_000 {
                break Err("no end after 100,000 steps".to_owned());
            }
            self.steps += 1;
            self.break_something();
            if self.step() {
                idle = 0;
                continue;
            }
            idle += 1;
            match self.session.deadline() {
                _ if self.is_over() => break Ok(()),
                Some(due) if idle < 50 => self.wait_until(due),
                _ => break Err(format!("stuck: unanswered {:?}", self.unanswered())),
            }
        };
        let view =
            self.server.selected.as_ref().map(|selected| selected.view.iter().map(|seen| seen.uid).collect());
        self.facts();
        self.capture.0.push(Event::End { view });
        (self.capture, terms, stopped)
    }

    fn unanswered(&self) -> Vec<String> {
        self.client.outstanding.iter().map(|tag| tag.escape_ascii().to_string()).collect()
    }

    fn is_over(&self) -> bool {
        let drained = self.to_server.is_empty() || self.server_gone;
        (self.session.is_finished() && drained) || (self.client.has_ended() && !self.client_left)
    }

    fn wait_until(&mut self, due: Duration) {
        self.now = self.now.max(due);
        self.capture.0.push(Event::Note(format!("it is {:?}", self.now)));
        self.session.tick(self.now);
        self.drain();
    }

    /// The fault of the plan, when its time has come.
    fn break_something(&mut self) {
        let due = match self.plan.fault {
            Fault::None => return,
            Fault::ClientReset(step)
            | Fault::ClientEof(step)
            | Fault::ServerReset(step)
            | Fault::Drain(step) => step,
        };
        if !self.fault_pending || self.steps < due || !self.client.logged_in {
            return;
        }
        self.fault_pending = false;
        self.capture.0.push(Event::Note(format!("{:?}", self.plan.fault)));
        self.session.tick(self.now);
        match self.plan.fault {
            Fault::None => {}
            Fault::ClientReset(_) => self.client_is_gone(),
            Fault::ClientEof(_) => {
                self.capture.0.push(Event::ClientEof);
                (self.client_closed, self.client_left) = (true, true);
                self.client.stop();
            }
            Fault::ServerReset(_) => self.server_is_gone("the server closed the connection: try again"),
            Fault::Drain(_) => {
                self.capture.0.push(Event::Drained);
                self.session.drain();
            }
        }
        self.drain();
    }

    fn client_is_gone(&mut self) {
        (self.client_gone, self.client_left) = (true, true);
        self.client.stop();
        self.client.outstanding.clear();
        self.to_gateway.clear();
        self.capture.0.push(Event::ClientGone);
        self.session.lost(Side::Client, "the client reset the connection");
    }

    fn server_is_gone(&mut self, reason: &str) {
        self.server_gone = true;
        self.from_server.clear();
        self.to_server.clear();
        self.capture.0.push(Event::ServerGone);
        self.session.lost(Side::Upstream, reason);
    }

    /// Does one thing out of those that can be done now; false if there is none.
    fn step(&mut self) -> bool {
        let finished = self.session.is_finished();
        let mut can: Vec<fn(&mut Run) -> bool> = Vec::new();
        let reads_client = !finished && self.session.wants(Side::Client) && !self.client_gone;
        if !self.to_gateway.is_empty() && reads_client {
            can.push(Run::client_octets);
        }
        if self.to_gateway.is_empty() && self.client_closed && reads_client {
            can.push(Run::client_end);
        }
        if !self.from_server.is_empty()
            && !finished
            && self.session.wants(Side::Upstream)
            && !self.server_gone
        {
            can.push(Run::server_octets);
        }
        if !self.to_server.is_empty() && !self.server_gone {
            can.push(Run::upstream_octets);
        }
        if !self.client_gone && !self.client_closed && !finished && self.client_can_act() {
            can.push(Run::client_acts);
        }
        if self.server.closed && !self.server_gone && self.from_server.is_empty() && !finished {
            can.push(Run::server_end);
        }
        if can.is_empty() {
            // the server may have left commands for later
            self.server_works();
            return !self.from_server.is_empty()
                && !finished
                && !self.server_gone
                && self.session.wants(Side::Upstream);
        }
        self.now += Duration::from_millis(1);
        if self.plan.mishaps.meddling > 0 && self.rng.u8(..60) == 0 {
            self.server.meddle();
            self.facts();
        }
        if self.server.is_idling() && self.rng.u8(..8) == 0 {
            self.server_works();
        }
        let chosen = can[self.rng.usize(..can.len())];
        chosen(self)
    }

    fn piece(&mut self, available: usize) -> usize {
        self.rng.usize(1..=available.min(self.plan.piece))
    }

    fn client_octets(&mut self) -> bool {
        let length = self.piece(self.to_gateway.len());
        let octets: Vec<u8> = self.to_gateway.drain(..length).collect();
        self.capture.wire(Way::FromClient, &octets);
        self.session.tick(self.now);
        self.session.receive(Side::Client, &octets);
        self.drain();
        true
    }

    fn client_end(&mut self) -> bool {
        self.client_closed = false;
        self.session.closed(Side::Client);
        self.drain();
        true
    }

    fn server_octets(&mut self) -> bool {
        let length = self.piece(self.from_server.len());
        let octets: Vec<u8> = self.from_server.drain(..length).collect();
        self.capture.wire(Way::FromServer, &octets);
        self.session.tick(self.now);
        self.session.receive(Side::Upstream, &octets);
        self.drain();
        true
    }

    fn server_end(&mut self) -> bool {
        self.server_gone = true;
        self.session.closed(Side::Upstream);
        self.drain();
        true
    }

    fn upstream_octets(&mut self) -> bool {
        let length = if self.rng.bool() { self.to_server.len() } else { self.piece(self.to_server.len()) };
        let octets: Vec<u8> = self.to_server.drain(..length).collect();
        self.server.receive(&octets);
        self.server_works();
        true
    }

    fn server_works(&mut self) {
        if self.server_gone {
            return;
        }
        self.server.work();
        self.facts();
        let said = self.server.output();
        self.from_server.extend_from_slice(&said);
    }

    fn facts(&mut self) {
        let facts = self.server.facts.drain(..).map(Event::Fact);
        self.capture.0.extend(facts);
    }

    /// A hostile client guesses the gateway's tags: see `Client::style`.
    fn note_own_tag(&mut self, octets: &[u8]) {
        let line = String::from_utf8_lossy(octets).into_owned();
        let (tag, rest) = line.split_once(' ').unwrap_or_default();
        let is_command = ["UID ", "FETCH ", "CAPABILITY"].iter().any(|verb| rest.starts_with(verb));
        if !is_command || tag.contains(['{', '"', '(', '\n']) {
            return;
        }
        let number = tag.trim_start_matches(|c: char| !c.is_ascii_digit());
        if let (Ok(number), false) =
            (number.parse::<u32>(), self.client.outstanding.iter().any(|own| own == tag.as_bytes()))
        {
            self.own_tag = Some((tag[..tag.len() - number.to_string().len()].to_owned(), number));
        }
    }

    /// What the gateway has to say, to either side. What it says in one go has no order between the sides.
    fn drain(&mut self) {
        let octets = self.session.output(Side::Client).split();
        self.capture.wire(Way::ToClient, &octets);
        self.client.reader.push(&octets);
        while let Some(Ok(response)) = self.client.reader.next() {
            match response.kind {
                Kind::Continuation => self.client.plus = true,
                Kind::Tagged(tag) => self.client.outstanding.retain(|other| *other != tag),
                Kind::Untagged if response.status().as_deref() == Some("BYE") => self.client.stop(),
                Kind::Untagged => {}
            }
        }
        let octets = self.session.output(Side::Upstream).split();
        self.capture.wire(Way::ToServer, &octets);
        if !self.server_gone {
            self.to_server.extend_from_slice(&octets);
        }
        self.note_own_tag(&octets);
    }
}

// ---- the client -------------------------------------------------------------------------------------------------------

impl Run {
    fn client_can_act(&self) -> bool {
        let client = &self.client;
        match client.steps.front() {
            None => !client.ended,
            Some(Step::AwaitPlus) => client.plus || client.outstanding.is_empty() || self.answered_instead(),
            Some(Step::AwaitAll) => client.outstanding.is_empty(),
            Some(_) => true,
        }
    }

    /// The command that waits for `+` has its tagged reply.
    fn answered_instead(&self) -> bool {
        let begun = self.client.steps.iter().find_map(|step| match step {
            Step::Begin { tag, .. } => Some(tag),
            _ => None,
        });
        begun.is_none() && !self.client.outstanding.iter().any(|tag| *tag == self.client_tag())
    }

    fn client_tag(&self) -> Vec<u8> {
        self.tag_number(self.client.tags)
    }

    fn tag_number(&self, number: u32) -> Vec<u8> {
        let tag = match self.client.style {
            0 => format!("c{number}"),
            1 => format!("{number}"),
            2 => format!("mv{number}"),
            3 => format!("A{number:04}"),
            4 => format!("imapmove{number}"),
            _ => match &self.client.lure {
                Some((head, from)) => format!("{head}{}", from + number),
                None => format!("c{number}"),
            },
        };
        tag.into_bytes()
    }

    fn client_acts(&mut self) -> bool {
        match self.client.steps.pop_front() {
            None => self.next_command(),
            Some(Step::Send(octets)) => self.to_gateway.extend_from_slice(&octets),
            Some(Step::Begin { tag, .. }) => {
                self.client.plus = false;
                self.client.outstanding.push(tag);
            }
            Some(Step::Ask(asked)) => self.capture.0.push(Event::Asked(asked)),
            Some(Step::AwaitPlus) if !self.client.plus => {
                while !matches!(self.client.steps.pop_front(), None | Some(Step::Resume)) {}
            }
            Some(Step::AwaitPlus) => self.client.plus = false,
            Some(Step::Resume | Step::AwaitAll) => {}
        }
        true
    }

    fn begin(&mut self, line: impl AsRef<[u8]>) -> Vec<u8> {
        self.client.tags += 1;
        let tag = self.client_tag();
        let first = [&tag[..], b" ", line.as_ref()].concat();
        self.client.steps.push_back(Step::Begin { tag: tag.clone() });
        self.client.steps.push_back(Step::Send(first));
        tag
    }

    fn simple(&mut self, line: impl AsRef<[u8]>) {
        self.begin([line.as_ref(), b"\r\n"].concat());
    }

    fn quiet(&self) -> bool {
        self.client.outstanding.is_empty()
    }

    fn next_command(&mut self) {
        if !self.client.logged_in {
            self.client.logged_in = true;
            self.simple("LOGIN alice wonderland");
            self.client.steps.push_back(Step::AwaitAll);
            if self.plan.manner.qresync && self.rng.bool() {
                self.simple("ENABLE QRESYNC");
                self.client.steps.push_back(Step::AwaitAll);
            }
            return;
        }
        if self.client.commands >= self.plan.commands {
            self.client.steps.push_back(Step::AwaitAll);
            if self.rng.bool() {
                self.simple("NOOP");
                self.client.steps.push_back(Step::AwaitAll);
            }
            self.client.ended = true;
            return;
        }
        if self.plan.manner.native && !self.quiet() {
            self.client.steps.push_back(Step::AwaitAll); // the checks follow one MOVE at a time
            return;
        }
        self.client.commands += 1;
        if self.client.lure.is_none() && self.quiet() {
            self.client.lure = self.own_tag.clone();
        }
        match self.rng.u8(..20) {
            _ if !self.client.selected && self.rng.u8(..8) != 0 => self.select(),
            0..10 => self.ask_move(),
            10 => self.simple("NOOP"),
            11 => self.simple("UID FETCH 1:* (FLAGS)"),
            12 if self.quiet() => self.by_number(),
            13 => self.store_flags(),
            14 => self.append(),
            15 => self.idle(),
            16 if self.plan.manner.searchres && self.quiet() => {
                self.simple("UID SEARCH RETURN (SAVE) ALL");
                self.client.steps.push_back(Step::AwaitAll);
                self.client.saved = true;
            }
            17 if self.quiet() && self.rng.u8(..4) == 0 => self.select(),
            _ => self.simple("UID SEARCH ALL"),
        }
        if self.rng.bool() {
            self.client.steps.push_back(Step::AwaitAll);
        }
    }

    fn select(&mut self) {
        self.client.steps.push_back(Step::AwaitAll);
        let verb = if self.rng.u8(..10) == 0 { "EXAMINE" } else { "SELECT" };
        let name = ["INBOX", "INBOX", "INBOX", "Archive", "Nowhere"][self.rng.usize(..5)];
        self.simple(format!("{verb} {name}"));
        self.client.steps.push_back(Step::AwaitAll);
        self.client.selected = name != "Nowhere";
        self.client.saved = false;
    }

    /// A command by sequence number: only with nothing in progress are its numbers what the client means.
    fn by_number(&mut self) {
        let count = self.server.selected.as_ref().map_or(0, |selected| selected.view.len());
        match (count, self.rng.bool()) {
            (0, _) => self.simple("NOOP"),
            (_, true) => self.simple(format!("FETCH 1:{count} (UID)")),
            (_, false) => self.simple(format!("STORE {count} +FLAGS (\\Seen)")),
        }
    }

    fn store_flags(&mut self) {
        let set = self.uid_set();
        let item = ["+FLAGS (\\Flagged)", "-FLAGS.SILENT (\\Seen)", "+FLAGS ($Work)"][self.rng.usize(..3)];
        self.simple(format!("UID STORE {set} {item}"));
    }

    fn append(&mut self) {
        let body = b"Subject: a1 OK\r\n\r\n* 3 EXPUNGE\r\nx UID MOVE 1 INBOX\r\n";
        let name = ["INBOX", "Archive", "Nowhere"][self.rng.usize(..3)];
        let plus = self.plan.manner.literal_plus && self.rng.bool();
        self.literal(format!("APPEND {name} ").as_bytes(), body, plus, b"");
    }

    /// A command that ends in a literal: `+` is awaited where it is synchronising.
    fn literal(&mut self, head: &[u8], octets: &[u8], plus: bool, tail: &[u8]) -> Vec<u8> {
        let sign = if plus { "+" } else { "" };
        let tag = self.begin([head, format!("{{{}{sign}}}\r\n", octets.len()).as_bytes()].concat());
        if !plus {
            self.client.steps.push_back(Step::AwaitPlus);
        }
        self.client.steps.push_back(Step::Send([octets, tail, b"\r\n"].concat()));
        self.client.steps.push_back(Step::Resume);
        tag
    }

    fn idle(&mut self) {
        self.simple("IDLE");
        self.client.steps.push_back(Step::AwaitPlus);
        self.client.steps.push_back(Step::Send(b"DONE\r\n".to_vec()));
        self.client.steps.push_back(Step::Resume);
    }

    fn uids(&self) -> Vec<u32> {
        let view = self.server.selected.as_ref().map(|selected| &selected.view[..]).unwrap_or_default();
        view.iter().map(|seen| seen.uid).collect()
    }

    fn any_of(&mut self, numbers: &[u32]) -> u32 {
        match self.rng.u8(..12) {
            0 => self.rng.u32(1..60),
            1 => numbers.last().map_or(7, |last| last + self.rng.u32(1..4)),
            _ if numbers.is_empty() => self.rng.u32(1..5),
            _ => numbers[self.rng.usize(..numbers.len())],
        }
    }

    fn uid_set(&mut self) -> String {
        let uids = self.uids();
        self.set_of(&uids, false)
    }

    /// Holes, reversed ranges, duplicates, and `*` where it may be.
    fn set_of(&mut self, numbers: &[u32], star: bool) -> String {
        let parts = [1, 1, 2, 3, 12][self.rng.usize(..5)];
        let mut set = Vec::new();
        for _ in 0..parts {
            let (from, to) = (self.any_of(numbers), self.any_of(numbers));
            set.push(match self.rng.u8(..8) {
                0..4 => format!("{from}"),
                4..6 => format!("{from}:{to}"),
                6 if star => ["*".to_owned(), format!("{from}:*"), format!("*:{from}"), "*:*".to_owned()]
                    [self.rng.usize(..4)]
                .clone(),
                6 => format!("{from}:4294967295"),
                _ => format!("{from},{from}"),
            });
        }
        set.join(",")
    }

    fn ask_move(&mut self) {
        let quiet = self.quiet();
        if self.rng.u8(..12) == 0 && !self.plan.manner.native {
            return self.ask_malformed();
        }
        let by_number = quiet && self.rng.u8(..3) == 0;
        let count = self.server.selected.as_ref().map_or(0, |selected| selected.view.len() as u32);
        let set = if quiet && self.client.saved && self.rng.u8(..4) == 0 {
            "$".to_owned()
        } else if by_number {
            let all: Vec<u32> = (1..=count).collect();
            self.set_of(&all, true)
        } else {
            let uids = self.uids();
            self.set_of(&uids, quiet)
        };
        let asked = self.what_is_asked(&set, by_number && set != "$", count);
        let verb = match (by_number && set != "$", self.rng.bool()) {
            (true, true) => "MOVE",
            (true, false) => "mOvE",
            (false, true) => "UID MOVE",
            (false, false) => "uid Move",
        };
        self.send_move(&format!("{verb} {set} "), asked);
    }

    /// What may come of it, as the store is now.
    fn what_is_asked(&mut self, set: &str, by_number: bool, count: u32) -> Asked {
        let meant = self.server.meant(set, by_number);
        let required: Vec<u32> = meant.iter().copied().filter(|&uid| self.server.exists(uid)).collect();
        let fixed = !by_number && !set.contains(['*', '$']);
        let each = |uids: &[u32]| uids.iter().map(|&uid| (uid, uid)).collect();
        let order = |(from, to): (u32, u32)| (from.min(to), from.max(to));
        let allowed = match strict::ranges(set) {
            Some(ranges) if fixed => ranges.into_iter().map(order).collect(),
            _ => each(&meant),
        };
        let ends = set.split([',', ':']).filter_map(|end| end.parse::<u32>().ok());
        let too_big = by_number && (count == 0 || ends.clone().any(|end| end > count));
        let selected = self.server.selected.as_ref();
        let read_only = selected.is_some_and(|selected| selected.read_only);
        let may_delete = self.plan.manner.grants_delete() && !read_only;
        let expect = match (selected.is_none() || too_big, may_delete) {
            (true, _) => Expect::Bad,
            (false, true) => Expect::Ok,
            (false, false) => Expect::No,
        };
        let source = selected.map_or(usize::MAX, |selected| selected.mailbox);
        Asked { tag: Vec::new(), source, target: usize::MAX, required, allowed, expect }
    }

    fn send_move(&mut self, head: &str, mut asked: Asked) {
        let target = self.rng.usize(..NAMES.len() + 1);
        let name: &[u8] = NAMES.get(target).copied().unwrap_or(b"Nowhere");
        if name == b"Nowhere" && asked.expect == Expect::Ok {
            asked.expect = Expect::No;
        }
        let atom = name.iter().all(|b| b.is_ascii_alphanumeric());
        let ascii = name.is_ascii();
        asked.target = target;
        asked.tag = self.tag_number(self.client.tags + 1);
        self.client.steps.push_back(Step::Ask(asked));
        let plus = self.plan.manner.literal_plus && self.rng.bool();
        match self.rng.u8(..3) {
            0 if atom => self.simple([head.as_bytes(), name].concat()),
            0 | 1 if ascii => {
                let quoted =
                    name.iter().flat_map(|b| if b"\\\"".contains(b) { vec![b'\\', *b] } else { vec![*b] });
                let quoted: Vec<u8> = quoted.collect();
                self.simple([head.as_bytes(), b"\"", &quoted, b"\""].concat());
            }
            _ => {
                self.literal(head.as_bytes(), name, plus, b"");
            }
        }
    }

    fn ask_malformed(&mut self) {
        let lines = [
            "MOVE",
            "UID MOVE",
            "UID MOVE 1",
            "UID MOVE 0 Archive",
            "UID MOVE 1,,2 Archive",
            "UID MOVE 1: Archive",
            "UID MOVE a Archive",
            "UID MOVE 4294967296 Archive",
            "UID MOVE 1 Archive more",
            "UID MOVE 1 Arch*ive",
            "UID MOVE 1 (Archive)",
            "MOVE 4294967295 Archive",
            "MOVE 0:* Archive",
        ];
        let line = lines[self.rng.usize(..lines.len())];
        let tag = self.tag_number(self.client.tags + 1);
        let source = self.server.selected.as_ref().map_or(usize::MAX, |selected| selected.mailbox);
        let asked =
            Asked { tag, source, target: usize::MAX, required: vec![], allowed: vec![], expect: Expect::Bad };
        self.client.steps.push_back(Step::Ask(asked));
        self.simple(line);
    }
}

// ---- the tests --------------------------------------------------------------------------------------------------------

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

/// Plays one seed; what broke, with the conversation.
fn run(seed: u64, adjust: impl Fn(&mut Plan)) -> Result<Capture, String> {
    let run = Run::new(seed, adjust);
    let head = format!(
        "{}, {:?}, {:?}, line {}",
        run.plan.manner.name, run.plan.mishaps, run.plan.fault, run.plan.settings.max_line
    );
    let (capture, terms, stopped) = run.play();
    let verdict = promise::check(&capture, terms).and(stopped);
    let replay = format!("MODEL_SEED={seed} cargo test --test model");
    verdict
        .map_err(|what| format!("{capture}\n{head}\nseed {seed}: {what}\nreplay: {replay}\n"))
        .map(|()| capture)
}

/// 10,000 random conversations, each checked against its capture (rules 1 to 5 of the promise; MOVE-1 to MOVE-14, MOVE-16,
/// SRV-0, SRV-6, FAULT-1, FAULT-2, FAULT-3, WIRE-6, WIRE-10).
#[test]
fn ten_thousand_random_conversations_keep_the_promise() {
    if let Some(seed) = number("MODEL_SEED") {
        match run(seed, |_| {}) {
            Ok(capture) if number("MODEL_SHOW").is_some() => print!("{capture}"),
            Ok(_) => {}
            Err(failure) => panic!("\n{failure}"),
        }
        return;
    }
    let runs = number("MODEL_RUNS").unwrap_or(10_000);
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let share = |worker: u64| -> Vec<Result<Tally, String>> {
        let seeds = (worker..runs).step_by(workers as usize);
        seeds.map(|seed| run(seed, |_| {}).map(|capture| Tally::of(&capture))).collect()
    };
    let (mut all, mut failures) = (Tally::default(), Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|worker| scope.spawn(move || share(worker))).collect();
        for outcome in workers.into_iter().flat_map(|worker| worker.join().expect("a run does not panic")) {
            match outcome {
                Ok(tally) => all.add(&tally),
                Err(failure) => failures.push(failure),
            }
        }
    });
    assert!(failures.is_empty(), "\n{}", summary(&failures));
    println!("{runs} runs: {all:?}");
    assert!(all.copied > 2 * runs, "{all:?} in {runs} runs: they show nothing");
    let Tally { copied: _, undone, undone_in_part, not_undone, cut_short, behind_the_clients_back } = all;
    let undos = [undone, undone_in_part, not_undone, cut_short, behind_the_clients_back];
    assert!(undos.iter().all(|&times| times >= runs / 2_000), "{all:?} in {runs} runs: undos are too rare");
}

/// What happened in the runs.
#[derive(Debug, Default)]
struct Tally {
    /// Messages.
    copied: u64,
    /// MOVEs of which nothing was left in both mailboxes.
    undone: u64,
    undone_in_part: u64,
    not_undone: u64,
    /// The server went away in an undo.
    cut_short: u64,
    /// The client went away before or in an undo.
    behind_the_clients_back: u64,
}

impl Tally {
    fn of(capture: &Capture) -> Tally {
        let pairs = |event: &Event| match event {
            Event::Fact(store::Fact::Copied { pairs, .. }) => pairs.len() as u64,
            _ => 0,
        };
        let [to_client, to_server] = said(capture);
        let client_is_gone = capture.0.iter().any(|event| matches!(event, Event::ClientGone));
        let began = to_server.contains("-FLAGS.SILENT (\\\\Deleted)");
        let told = |part: &str| to_client.contains(part);
        let (undone, failed) = (told("the copies are removed again"), told("[CONTACTADMIN]"));
        Tally {
            copied: capture.0.iter().map(pairs).sum(),
            undone: (undone && !failed).into(),
            undone_in_part: (undone && failed).into(),
            not_undone: (failed && !undone).into(),
            cut_short: told("[UNAVAILABLE] The mail server went away while a move was undone").into(),
            behind_the_clients_back: (client_is_gone && began && !undone && !failed).into(),
        }
    }

    fn add(&mut self, other: &Tally) {
        self.copied += other.copied;
        self.undone += other.undone;
        self.undone_in_part += other.undone_in_part;
        self.not_undone += other.not_undone;
        self.cut_short += other.cut_short;
        self.behind_the_clients_back += other.behind_the_clients_back;
    }
}

/// The shortest conversation of each kind of failure, and how many there are.
fn summary(failures: &[String]) -> String {
    let mut kinds: std::collections::BTreeMap<String, (usize, &String)> = Default::default();
    for failure in failures {
        let what = failure.lines().find(|line| line.starts_with("seed ")).unwrap_or_default();
        let kind =
            what.split(['[', '/']).next().unwrap_or_default().replace(|c: char| !c.is_ascii_lowercase(), " ");
        let kind = kind.split_whitespace().skip(1).take(9).collect::<Vec<_>>().join(" ");
        let entry = kinds.entry(kind).or_insert((0, failure));
        entry.0 += 1;
        if failure.len() < entry.1.len() {
            entry.1 = failure;
        }
    }
    let shown: String =
        kinds.values().map(|(count, failure)| format!("{failure}({count} like this)\n\n")).collect();
    let counts: String = kinds.iter().map(|(kind, (count, _))| format!("{count:6} {kind}\n")).collect();
    format!("{shown}{counts}")
}

/// A server that has MOVE itself: everything passes (CAP-3), and the model, its client and the checks agree about it.
#[test]
fn a_native_server_keeps_the_promise_by_itself() {
    for seed in 0..3000 {
        let native = |plan: &mut Plan| {
            (plan.manner.native, plan.manner.naive_sets, plan.fault) = (true, false, Fault::None);
            (plan.manner.rights, plan.manner.may_delete) = (None, true);
            plan.manner.list = store::ListPlace::LoginUntagged;
            (plan.mishaps.unreadable, plan.mishaps.ignored) = (0, 0);
        };
        if let Err(failure) = run(seed, native) {
            panic!("\n{failure}");
        }
    }
}

/// The same octets in pieces of one and of seven come out the same on both sides, MOVEs included.
#[test]
fn any_cut_of_a_conversation_gives_the_same_output() {
    for seed in 0..600 {
        let mut settings = Settings::default();
        let capture = match run(seed, |plan| plan.fault = Fault::None) {
            Ok(capture) => capture,
            Err(_) => continue, // the test above says so
        };
        settings.max_line = Run::new(seed, |_| {}).plan.settings.max_line;
        let said = said(&capture);
        for piece in [1, 7] {
            let again = replay(&capture, settings.clone(), piece);
            assert_eq!(again, said, "seed {seed} in pieces of {piece}:\n{capture}");
        }
    }
}

/// What the session said, to the client and to the server.
fn said(capture: &Capture) -> [String; 2] {
    let to = |wanted: Way| -> String {
        let octets = capture.0.iter().filter_map(|event| match event {
            Event::Wire(way, octets) if *way == wanted => Some(octets.escape_ascii().to_string()),
            _ => None,
        });
        octets.collect()
    };
    [to(Way::ToClient), to(Way::ToServer)]
}

/// What a session says to the octets of a capture, handed over in pieces.
fn replay(capture: &Capture, settings: Settings, piece: usize) -> [String; 2] {
    let mut session = Session::new(settings);
    let mut said = [Vec::new(), Vec::new()];
    for event in &capture.0 {
        let (side, octets) = match event {
            Event::Wire(Way::FromClient, octets) => (Side::Client, octets),
            Event::Wire(Way::FromServer, octets) => (Side::Upstream, octets),
            _ => continue,
        };
        for part in octets.chunks(piece) {
            session.receive(side, part);
            for (said, to) in said.iter_mut().zip([Side::Client, Side::Upstream]) {
                said.extend_from_slice(&session.output(to).split());
            }
        }
    }
    said.map(|octets| octets.escape_ascii().to_string())
}
