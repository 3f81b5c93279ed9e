//! Property tests: what must hold for every stream, however it is cut.
//!
//! - What is neither MOVE nor a capability list passes byte for byte, both ways, at once (rule 5 of the promise, WIRE-1 to WIRE-5).
//! - Any cut gives the same output.
//! - The commands that the gateway takes as sent are those that an independent strict parser finds in what went upstream, and
//!   each tag gets one tagged reply, or the connection ends (WIRE-1, WIRE-5).

#[path = "support/played.rs"]
mod played;
#[path = "support/strict.rs"]
mod strict;

use fastrand::Rng;
use imapmove::imap::{Settings, Side};
use played::{Cut, Played};
use proptest::prelude::*;
use strict::{Commands, Input, Kind, Responses};

const CASES: u32 = 1_500;

// ---- conversations that nothing may touch -----------------------------------------------------------------------------

/// Octets of one side, then of the other, and so on: what a client and a server may say to each other.
#[derive(Default)]
struct Conversation {
    turns: Vec<(Side, Vec<u8>)>,
    tags: u32,
}

impl Conversation {
    fn draw(seed: u64, literal_plus: bool) -> Conversation {
        let mut rng = Rng::with_seed(seed);
        let mut conversation = Conversation::default();
        for _ in 0..rng.usize(1..8) {
            match rng.u8(..8) {
                0 => conversation.idle(&mut rng),
                1 => conversation.append(&mut rng, false),
                2 if literal_plus => conversation.append(&mut rng, true),
                3 => conversation.refused_append(&mut rng),
                4 => conversation.unsolicited(&mut rng),
                _ => conversation.batch(&mut rng),
            }
        }
        conversation
    }

    fn client(&mut self, octets: impl Into<Vec<u8>>) {
        self.turns.push((Side::Client, octets.into()));
    }

    fn server(&mut self, octets: impl Into<Vec<u8>>) {
        self.turns.push((Side::Upstream, octets.into()));
    }

    fn tag(&mut self, rng: &mut Rng) -> String {
        self.tags += 1;
        let style = ["", "a", "A.", "x-", "[", "]!", "$_", "}", "~", "'", "OK", "NO"];
        format!("{}{}", style[rng.usize(..style.len())], self.tags)
    }

    /// Several commands in one go, then their answers.
    fn batch(&mut self, rng: &mut Rng) {
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        for _ in 0..rng.usize(1..5) {
            let tag = self.tag(rng);
            asked.extend_from_slice(tag.as_bytes());
            asked.extend(command(rng));
            for _ in 0..rng.usize(..4) {
                answered.extend(untagged(rng));
            }
            answered.extend(tagged(rng, &tag));
        }
        self.client(asked);
        self.server(answered);
    }

    fn unsolicited(&mut self, rng: &mut Rng) {
        self.server(untagged(rng));
    }

    fn idle(&mut self, rng: &mut Rng) {
        let tag = self.tag(rng);
        self.client(format!("{tag} {}\r\n", ["IDLE", "idle", "Idle"][rng.usize(..3)]));
        self.server(if rng.bool() { &b"+ idling {3}\r\n"[..] } else { b"+\r\n" });
        for _ in 0..rng.usize(..3) {
            self.server(untagged(rng));
        }
        self.client(["DONE\r\n", "done\r\n", "dOnE\r\n"][rng.usize(..3)]);
        self.server(untagged(rng));
        self.server(tagged(rng, &tag));
    }

    /// One to three literals, each announced.
    fn append(&mut self, rng: &mut Rng, plus: bool) {
        let tag = self.tag(rng);
        let mut pending = format!("{tag} APPEND \"IN BOX\"").into_bytes();
        for _ in 0..rng.usize(1..4) {
            let octets = body(rng);
            let binary = if rng.u8(..3) == 0 { "~" } else { "" };
            let sign = if plus { "+" } else { "" };
            pending.extend(format!(" (\\Seen) {binary}{{{}{sign}}}\r\n", octets.len()).bytes());
            if !plus {
                self.client(std::mem::take(&mut pending));
                self.server("+ OK {12}\r\n");
            }
            pending.extend(octets);
        }
        pending.extend(b"\r\n");
        self.client(pending);
        self.server(untagged(rng));
        self.server(tagged(rng, &tag));
    }

    fn refused_append(&mut self, rng: &mut Rng) {
        let tag = self.tag(rng);
        self.client(format!("{tag} APPEND nowhere {{310}}\r\n"));
        self.server(format!("{tag} NO [TRYCREATE] not there {{310}}\r\n"));
    }
}

/// What follows a tag: a verb with odd arguments, and a line end.
fn command(rng: &mut Rng) -> Vec<u8> {
    let lines: [&[u8]; 12] = [
        b" NOOP\r\n",
        b" noop \r\n",
        b" FETCH  1:* (FLAGS  BODY[HEADER.FIELDS (\"X{3}\")])\r\n",
        b" UID  FETCH 1 ALL\r\n",
        b" STATUS \"a\\\"b\\\\\" (MESSAGES)\r\n",
        b" LIST \"\" M\xfcll%\r\n",
        b" XUNKNOWN \x80\xff ((()\r\n",
        b" XYZZY-1.2 {3 } {x}\r\n",
        b" UID STORE 1 +FLAGS.SILENT (\\Deleted)\r\n",
        b" SEARCH TEXT \"}{\"\r\n",
        b" UID XMOVE 1 INBOX\r\n",
        b" ID (\"name\" \"MOVE\")\r\n",
    ];
    lines[rng.usize(..lines.len())].to_vec()
}

fn body(rng: &mut Rng) -> Vec<u8> {
    let pieces: [&[u8]; 9] = [
        b"\r\n",
        b"a1 OK\r\n",
        b"* 3 EXPUNGE\r\n",
        b"+ \r\n",
        b"\0\r",
        b"{10}\r\n",
        b"1 UID MOVE 1 x\r\n",
        b"\xff\n",
        b"text ",
    ];
    (0..rng.usize(..12)).flat_map(|_| pieces[rng.usize(..pieces.len())].to_vec()).collect()
}

/// Ends a line of the server, now and then with a bare LF.
fn end(rng: &mut Rng) -> &'static [u8] {
    if rng.u8(..5) == 0 { b"\n" } else { b"\r\n" }
}

/// An untagged response: no capability list, no status with one, nothing that changes what is selected or ends the session.
fn untagged(rng: &mut Rng) -> Vec<u8> {
    let lines: [&[u8]; 16] = [
        b"* 3 EXISTS",
        b"* 0 RECENT ",
        b"*  5  ODD ",
        b"* SEARCH 1 2 3",
        b"* SEARCH",
        b"* FLAGS (\\Seen \\Answered)",
        b"* LIST (\\HasNoChildren) \"/\" M\xfcll",
        b"* OK [ALERT] read this {12}",
        b"* NO disk is nearly full {3}",
        b"* BAD what? [CAPABILITY",
        b"* OK [UIDNEXT 4711] next",
        b"* XYZZY \x01\x7f\xff \"open",
        b"* 2 FETCH (FLAGS (\\Seen) UID 2)",
        b"* STATUS \"x\" (MESSAGES 1 UIDNEXT 2)",
        b"* XMOVE MOVE",
        b"* OK",
    ];
    if rng.u8(..4) == 0 {
        return fetch_with_literals(rng);
    }
    [lines[rng.usize(..lines.len())], end(rng)].concat()
}

fn fetch_with_literals(rng: &mut Rng) -> Vec<u8> {
    let mut line = b"* 1 FETCH (UID 1".to_vec();
    for _ in 0..rng.usize(1..4) {
        let octets = body(rng);
        let binary = rng.u8(..3) == 0;
        let head = if binary { " BINARY[1] ~" } else { " BODY[TEXT]<0> " };
        line.extend(format!("{head}{{{}}}", octets.len()).bytes());
        line.extend(end(rng));
        line.extend(octets);
    }
    line.extend(b" FLAGS ())");
    line.extend(end(rng));
    line
}

fn tagged(rng: &mut Rng, tag: &str) -> Vec<u8> {
    let texts =
        ["OK done", "NO [CANNOT] no {5}", "BAD what {0}", "OK", "OK  [READ-ONLY]  odd", "ok lower case"];
    [format!("{tag} {}", texts[rng.usize(..texts.len())]).as_bytes(), end(rng)].concat()
}

fn cut() -> impl Strategy<Value = Cut> {
    let random = |(longest, bypass, seed)| Cut::Random { longest, bypass, seed };
    prop_oneof![
        Just(Cut::Whole),
        Just(Cut::Every(1)),
        Just(Cut::Every(2)),
        Just(Cut::Every(7)),
        (1usize..40, any::<bool>(), any::<u64>()).prop_map(random),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each turn comes out on the other side as it went in, before the next one begins.
    #[test]
    fn what_is_not_move_passes_byte_for_byte(seed: u64, plus: bool, cut in cut()) {
        let capabilities = if plus { "LITERAL+ BINARY" } else { "BINARY" };
        let mut played = Played::selected(Settings::default(), cut, capabilities);
        for (from, octets) in Conversation::draw(seed, plus).turns {
            played.send(from, &octets);
            let (out, back) = (played.take(from.other()), played.take(from));
            prop_assert_eq!(out.escape_ascii().to_string(), octets.escape_ascii().to_string());
            prop_assert_eq!(back.escape_ascii().to_string(), "");
            prop_assert_eq!(played.held(from), 0);
        }
    }

    /// The same octets, cut otherwise, come out the same: garbage, MOVE and capability lists included.
    #[test]
    fn any_cut_gives_the_same_output(seed: u64, plus: bool, cut in cut()) {
        let turns = wild_turns(seed);
        let capabilities = if plus { "LITERAL+" } else { "" };
        let play = |cut: Cut| {
            let mut played = Played::logged_in(Settings::default(), cut, capabilities);
            played.forced = true;
            turns.iter().for_each(|(from, octets)| played.send(*from, octets));
            (played.said.map(|said| said.escape_ascii().to_string()), played.session.is_finished())
        };
        prop_assert_eq!(play(Cut::Whole), play(cut));
    }

    /// See [`Fuzzed`].
    #[test]
    fn gateway_and_server_agree_about_every_command(seed: u64, cut in cut()) {
        let mut fuzzed = Fuzzed::new(seed, cut);
        if let Err(what) = fuzzed.play() {
            prop_assert!(false, "seed {}: {}\n{}", seed, what, fuzzed.shown);
        }
    }
}

/// Turns without much sense: octets of the client, cut off anywhere, and whole responses of the server, one at a time (what the
/// gateway itself says goes between two of them, so within a longer turn its place would depend on the cut).
fn wild_turns(seed: u64) -> Vec<(Side, Vec<u8>)> {
    let mut rng = Rng::with_seed(seed);
    let mut turn = |_| match rng.bool() {
        true => (Side::Client, (0..rng.usize(..12)).flat_map(|_| wild_piece(&mut rng).to_vec()).collect()),
        false => (Side::Upstream, wild_response(&mut rng)),
    };
    (0..16).map(&mut turn).collect()
}

fn wild_piece(rng: &mut Rng) -> &'static [u8] {
    let pieces: [&[u8]; 34] = [
        b"a1 ",
        b"a2 ",
        b"a3 ",
        b"* ",
        b"+ ",
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"  ",
        b"\"",
        b"\\",
        b"(",
        b")",
        b"{3}\r\n",
        b"{3+}\r\n",
        b"~{2}\r\n",
        b"{0}\r\n",
        b"abc",
        b"UID ",
        b"MOVE 1 ",
        b"INBOX",
        b"NOOP",
        b"FETCH ",
        b"IDLE",
        b"DONE\r\n",
        b"CAPABILITY",
        b"SELECT INBOX",
        b"LOGOUT",
        b"AUTHENTICATE PLAIN",
        b"\xff",
    ];
    pieces[rng.usize(..pieces.len())]
}

fn wild_response(rng: &mut Rng) -> Vec<u8> {
    let head = ["* ", "* ", "+ ", "a1 ", "a2 ", "a3 ", ""][rng.usize(..7)];
    let texts = [
        "OK",
        "NO {3}",
        "OK [CAPABILITY IMAP4rev1 COMPRESS=DEFLATE UIDPLUS AUTH=GSSAPI AUTH=PLAIN] x",
        "CAPABILITY UIDPLUS IDLE LITERAL+",
        "CAPABILITY MOVE  UIDPLUS STARTTLS ",
        "3 EXISTS",
        "1 EXPUNGE",
        "VANISHED 1:3",
        "ENABLED QRESYNC",
        "OK [READ-WRITE] a",
        "FLAGS ()",
        "",
        "\u{ff}",
    ];
    if rng.u8(..10) == 0 {
        return fetch_with_literals(rng);
    }
    [head.as_bytes(), texts[rng.usize(..texts.len())].as_bytes(), end(rng)].concat()
}

// ---- who sees which commands ------------------------------------------------------------------------------------------

/// What the client's line must come to.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    /// It goes upstream as these octets and gets the server's tagged reply.
    Forwarded(Vec<u8>),
    /// The gateway answers it itself: `tag BAD`.
    Bad,
    /// The gateway answers it itself: `* BAD`.
    Untagged,
    /// `tag BAD`, or the connection ends, for something of it is upstream already.
    BadOrBye,
}

/// A hostile client on one side, a strict server on the other. The server answers each command that the strict parser finds; every
/// one that the client sent must get its reply, and in the end a MOVE must still be carried out: it waits for every reply that the
/// gateway thinks is owed (so nothing was lost), and is refused if a reply came that nobody asked for (so nothing was smuggled).
struct Fuzzed {
    played: Played,
    rng: Rng,
    literal_plus: Option<u64>,
    server: Commands,
    client: Responses,
    tags: u32,
    expected: Vec<Vec<u8>>,
    seen: Vec<Vec<u8>>,
    owed: Vec<String>,
    untagged_owed: usize,
    replies: Vec<String>,
    untagged_bad: usize,
    continued: usize,
    may_end: bool,
    bye: bool,
    shown: String,
}

impl Fuzzed {
    fn new(seed: u64, cut: Cut) -> Fuzzed {
        let mut rng = Rng::with_seed(seed);
        let (capability, literal_plus) =
            [("", None), ("LITERAL+", Some(u64::MAX)), ("LITERAL-", Some(4096))][rng.usize(..3)];
        Fuzzed {
            played: Played::selected(Settings::default(), cut, capability),
            rng,
            literal_plus,
            server: Commands::default(),
            client: Responses::default(),
            tags: 0,
            expected: Vec::new(),
            seen: Vec::new(),
            owed: Vec::new(),
            untagged_owed: 0,
            replies: Vec::new(),
            untagged_bad: 0,
            continued: 0,
            may_end: false,
            bye: false,
            shown: String::new(),
        }
    }

    fn play(&mut self) -> Result<(), String> {
        for _ in 0..self.rng.usize(1..9) {
            self.line();
            if self.rng.bool() {
                self.serve()?;
            }
        }
        self.serve()?;
        if self.ended()? {
            return Ok(());
        }
        self.check()?;
        self.probe()
    }

    fn send(&mut self, octets: &[u8]) {
        self.shown += &format!("C> {}\n", octets.escape_ascii());
        self.played.send(Side::Client, octets);
    }

    fn tag(&mut self) -> String {
        self.tags += 1;
        format!("{}{}", ["f", "F.", "["][self.rng.usize(..3)], self.tags)
    }

    fn line(&mut self) {
        let tag = self.tag();
        let t = tag.as_bytes();
        let (octets, fate): (Vec<u8>, Fate) = match self.rng.u8(..22) {
            0 => ([t, b" NOOP\r\n"].concat(), Fate::Forwarded([t, b" NOOP\r\n"].concat())),
            1 => ([t, b" NOOP\n"].concat(), Fate::Forwarded([t, b" NOOP\r\n"].concat())),
            2 => (
                [t, b" XFOO \"a\\\"b{3}\" ((\xff\n"].concat(),
                Fate::Forwarded([t, b" XFOO \"a\\\"b{3}\" ((\xff\r\n"].concat()),
            ),
            3 => ([t, b" NO\rOP\r\n"].concat(), Fate::Bad),
            4 => ([t, b" NOOP x\0y\r\n"].concat(), Fate::Bad),
            5 => ([t, b" NOOP\r\r\n"].concat(), Fate::Bad),
            6 => (b"\r\n".to_vec(), Fate::Untagged),
            7 => (b"\n".to_vec(), Fate::Untagged),
            8 => (b"* NOOP\r\n".to_vec(), Fate::Untagged),
            9 => (b"a(b NOOP\r\n".to_vec(), Fate::Untagged),
            10 => (b"+ NOOP\r\n".to_vec(), Fate::Untagged),
            11 => ([t, b"\r\n"].concat(), Fate::Bad),
            12 => ([t, b" \r\n"].concat(), Fate::Bad),
            13 => ([t, b"  NOOP\r\n"].concat(), Fate::Bad),
            14 => (b" NOOP\r\n".to_vec(), Fate::Untagged),
            15 => return self.duplicate(&tag),
            16 | 17 => return self.non_synchronising(&tag),
            18 => return self.synchronising(&tag),
            19 => return self.broken_continuation(&tag),
            20 => ([t, b" / HTTP/1.1\r\n"].concat(), Fate::Forwarded([t, b" / HTTP/1.1\r\n"].concat())),
            _ => ([t, b" UID MOVE 1,, x\r\n"].concat(), Fate::Bad),
        };
        self.expect(&tag, fate);
        self.send(&octets);
    }

    fn expect(&mut self, tag: &str, fate: Fate) {
        match fate {
            Fate::Forwarded(octets) => {
                self.expected.push(octets);
                self.owed.push(tag.to_owned());
            }
            Fate::Bad => self.owed.push(format!("{tag} BAD")),
            Fate::Untagged => self.untagged_owed += 1,
            Fate::BadOrBye => {
                self.may_end = true;
                self.owed.push(format!("{tag} BAD"));
            }
        }
    }

    /// The same tag again while the first is in progress.
    fn duplicate(&mut self, tag: &str) {
        let first = format!("{tag} NOOP\r\n").into_bytes();
        self.expect(tag, Fate::Forwarded(first.clone()));
        self.expect(tag, Fate::Bad);
        let second = format!("{tag} CHECK\r\n").into_bytes();
        self.send(&[first, second].concat());
    }

    fn non_synchronising(&mut self, tag: &str) {
        let length = [0, 5, 4096, 4097][self.rng.usize(..4)];
        let body: Vec<u8> = b"x NOOP\r\n* BAD\r\n".iter().copied().cycle().take(length).collect();
        let all = [format!("{tag} APPEND x {{{length}+}}\r\n").as_bytes(), &body, b"\r\n"].concat();
        let allowed = self.literal_plus.is_some_and(|most| length as u64 <= most);
        self.expect(tag, if allowed { Fate::Forwarded(all.clone()) } else { Fate::Bad });
        self.send(&all);
    }

    fn synchronising(&mut self, tag: &str) {
        let all = format!("{tag} APPEND x {{8}}\r\ny NOOP\r\n\r\n").into_bytes();
        self.literal_line(tag, &all[..all.len() - 10], &all[all.len() - 10..], Fate::Forwarded(all.clone()));
    }

    /// A bare CR or NUL behind a literal: something of the command is upstream already.
    fn broken_continuation(&mut self, tag: &str) {
        let rest = [&b"12345678 a\rb\r\n"[..], b"12345678 \0\r\n", b"12345678\n"][self.rng.usize(..3)];
        let head = format!("{tag} APPEND x {{8}}\r\n").into_bytes();
        let fate = match rest.ends_with(b"78\n") {
            true => Fate::Forwarded([&head[..], b"12345678\r\n"].concat()),
            false => Fate::BadOrBye,
        };
        self.literal_line(tag, &head, rest, fate);
    }

    fn literal_line(&mut self, tag: &str, head: &[u8], rest: &[u8], fate: Fate) {
        self.expect(tag, fate);
        let continued = self.continued;
        self.send(head);
        if self.serve().is_ok() && self.continued > continued {
            self.send(rest);
        }
    }

    /// The server reads what came, as the strict parser finds it, and answers; then the client reads.
    fn serve(&mut self) -> Result<(), String> {
        loop {
            let octets = self.played.take(Side::Upstream);
            if octets.is_empty() {
                break;
            }
            self.shown += &format!(">S {}\n", octets.escape_ascii());
            self.server.push(&octets);
            while let Some(input) = self.server.next() {
                let answer = match input.map_err(|malformed| format!("malformed upstream: {malformed}"))? {
                    Input::Announced(_) => b"+ go\r\n".to_vec(),
                    Input::Command(command) => {
                        self.seen.push(command.raw.clone());
                        answer(&command)
                    }
                };
                self.shown += &format!("S> {}\n", answer.escape_ascii());
                self.played.send(Side::Upstream, &answer);
            }
        }
        self.client_reads()
    }

    fn client_reads(&mut self) -> Result<(), String> {
        let octets = self.played.take(Side::Client);
        self.shown += &format!(">C {}\n", octets.escape_ascii());
        self.client.push(&octets);
        while let Some(response) = self.client.next() {
            let response = response.map_err(|malformed| format!("to the client: {malformed}"))?;
            let status = response.status().unwrap_or_default();
            match response.kind {
                Kind::Continuation => self.continued += 1,
                Kind::Tagged(tag) if status == "OK" => {
                    self.replies.push(String::from_utf8_lossy(&tag).into_owned())
                }
                Kind::Tagged(tag) => self.replies.push(format!("{} {status}", String::from_utf8_lossy(&tag))),
                Kind::Untagged if status == "BAD" => self.untagged_bad += 1,
                Kind::Untagged => self.bye |= status == "BYE",
            }
        }
        Ok(())
    }

    /// Whether the connection ended, as it may.
    fn ended(&self) -> Result<bool, String> {
        match (self.bye || self.played.session.is_finished(), self.may_end) {
            (false, _) => Ok(false),
            (true, true) if self.bye => Ok(true),
            (true, true) => Err("the session ended without BYE".into()),
            (true, false) => Err("the session ended for a line that deserves BAD".into()),
        }
    }

    fn check(&mut self) -> Result<(), String> {
        let show = |all: &[Vec<u8>]| all.iter().map(|one| one.escape_ascii().to_string()).collect::<Vec<_>>();
        if self.may_end {
            return Err("something was upstream already, yet the connection goes on".into());
        }
        if self.seen != self.expected {
            return Err(format!("upstream: {:?}\nexpected: {:?}", show(&self.seen), show(&self.expected)));
        }
        self.owed.sort();
        self.replies.sort();
        if self.owed != self.replies {
            return Err(format!("replies: {:?}\nexpected: {:?}", self.replies, self.owed));
        }
        match self.untagged_bad == self.untagged_owed {
            true => Ok(()),
            false => Err(format!("{} times * BAD, expected {}", self.untagged_bad, self.untagged_owed)),
        }
    }

    /// A MOVE is still carried out.
    fn probe(&mut self) -> Result<(), String> {
        self.replies.clear();
        self.seen.clear();
        self.send(b"probe UID MOVE 1 Archive\r\n");
        self.serve()?;
        let copied = self.seen.iter().any(|command| command.windows(9).any(|words| words == b" UID COPY"));
        match copied && self.replies == ["probe NO"] {
            true => Ok(()),
            false => Err(format!("a MOVE afterwards was not carried out: {:?}", self.replies)),
        }
    }
}

/// The strict server's answer: OK to everything, apart from COPY.
fn answer(command: &strict::Command) -> Vec<u8> {
    let tag = &command.tag[..];
    match command.verb.as_str() {
        "UID COPY" => [tag, b" NO [TRYCREATE] no such mailbox\r\n"].concat(),
        "UID FETCH" => [b"* 1 FETCH (UID 1)\r\n", tag, b" OK done\r\n"].concat(),
        "UID SEARCH" => [b"* SEARCH\r\n", tag, b" OK done\r\n"].concat(),
        _ => [tag, b" OK done\r\n"].concat(),
    }
}
