//! Memory stays bounded, whatever passes (WIRE-4): measured with an allocator that counts. One test alone, so that nothing else
//! allocates meanwhile.

#[path = "support/played.rs"]
mod played;

use imapmove::imap::{Notice, Settings, Side};
use peak_alloc::PeakAlloc;
use played::{Cut, Played};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;
/// What the shell reads at a time.
const PIECE: usize = 64 << 10;

/// A session's memory while something passes.
struct Measured {
    played: Played,
    before: usize,
    passed: u64,
}

impl Measured {
    fn start(capabilities: &str) -> Measured {
        let played = Played::selected(Settings::default(), Cut::Whole, capabilities);
        ALLOCATED.reset_peak_usage();
        Measured { played, before: ALLOCATED.current_usage(), passed: 0 }
    }

    /// Hands octets over and takes what comes out, as a shell does whose other leg is fast.
    fn pass(&mut self, from: Side, octets: &[u8]) {
        assert!(self.played.session.wants(from), "{from:?} is held with nothing in the other leg's output");
        self.played.session.receive(from, octets);
        let out = std::mem::take(self.played.session.output(from.other()));
        self.passed += out.len() as u64;
    }

    fn pass_many(&mut self, from: Side, total: u64, piece: &[u8]) {
        let mut left = total;
        while left > 0 {
            let length = left.min(piece.len() as u64) as usize;
            self.pass(from, &piece[..length]);
            left -= length as u64;
        }
    }

    /// Hands over what a server says, piece by piece as it says it.
    fn say(&mut self, words: impl Iterator<Item = String>) {
        let mut piece = Vec::with_capacity(2 * PIECE);
        for word in words {
            piece.extend_from_slice(word.as_bytes());
            if piece.len() >= PIECE {
                self.pass(Side::Upstream, &piece[..PIECE]);
                piece.drain(..PIECE);
            }
        }
        self.pass(Side::Upstream, &piece);
    }

    /// The commands that the server has got: tag, and the word behind UID.
    fn asked(&mut self) -> Vec<(String, String)> {
        let commands = std::mem::take(self.played.session.output(Side::Upstream));
        let commands = std::str::from_utf8(&commands).expect("text");
        let head = |line: &str| {
            let mut words = line.split(' ').map(String::from);
            (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default())
        };
        commands.lines().map(head).collect()
    }

    /// All has passed, in less than 1 MiB.
    fn finish(self, what: &str, expected: u64) {
        assert_eq!(self.passed, expected, "{what}: octets");
        self.below_a_mebibyte(what);
    }

    fn below_a_mebibyte(&self, what: &str) {
        self.below(MIB, what);
    }

    fn below(&self, limit: usize, what: &str) {
        let growth = ALLOCATED.peak_usage().saturating_sub(self.before);
        assert!(growth < limit, "{what}: memory grew by {growth} octets");
        println!("{what}: {growth} octets");
    }
}

#[test]
fn wire_4_memory_stays_below_a_mebibyte() {
    let piece: Vec<u8> = b"a1 OK\r\n* 3 EXPUNGE\r\n".iter().copied().cycle().take(PIECE).collect();
    a_literal_from_the_client(&piece);
    a_literal_from_the_server(&piece);
    a_search_line();
    a_peer_that_takes_nothing(&piece, Side::Client);
    a_peer_that_takes_nothing(&piece, Side::Upstream);
    a_move_of_scattered_uids("removed from the last one on", |n| SCATTERED + 1 - n);
    a_move_of_scattered_uids("removed from the first one on", |_| 1);
    hostile_answers_to_a_move();
    hostile_clients_before_login();
}

fn a_literal_from_the_client(piece: &[u8]) {
    let mut measured = Measured::start("LITERAL+");
    let (head, total) = (b"c1 APPEND INBOX {1073741824+}\r\n", 1 << 30);
    measured.pass(Side::Client, head);
    measured.pass_many(Side::Client, total, piece);
    measured.pass(Side::Client, b"\r\n");
    measured.finish("1 GiB from the client", head.len() as u64 + total + 2);
}

fn a_literal_from_the_server(piece: &[u8]) {
    let mut measured = Measured::start("");
    measured.pass(Side::Client, b"c1 UID FETCH 1 BODY[]\r\n");
    measured.passed = 0;
    let (head, total) = (b"* 1 FETCH (UID 1 BODY[] {1073741824}\r\n", 1 << 30);
    measured.pass(Side::Upstream, head);
    measured.pass_many(Side::Upstream, total, piece);
    measured.pass(Side::Upstream, b")\r\nc1 OK done\r\n");
    measured.finish("1 GiB from the server", head.len() as u64 + total + 15);
}

fn a_search_line() {
    let mut measured = Measured::start("");
    measured.pass(Side::Client, b"c1 UID SEARCH ALL\r\n");
    measured.passed = 0;
    let numbers: Vec<u8> = b" 1234567890".iter().copied().cycle().take(11 * 4096).collect();
    let total = 50 << 20;
    measured.pass(Side::Upstream, b"* SEARCH");
    measured.pass_many(Side::Upstream, total, &numbers);
    measured.pass(Side::Upstream, b" 7\r\nc1 OK done\r\n");
    measured.finish("a SEARCH line of 50 MB", 8 + total + 16);
}

/// The other leg takes nothing: the session must stop wanting before a mebibyte has gathered.
fn a_peer_that_takes_nothing(piece: &[u8], from: Side) {
    let mut measured = Measured::start("LITERAL+");
    match from {
        Side::Client => measured.pass(from, b"c1 APPEND INBOX {1073741824+}\r\n"),
        Side::Upstream => {
            measured.pass(Side::Client, b"c1 UID FETCH 1 BODY[]\r\n");
            measured.pass(from, b"* 1 FETCH (BODY[] {1073741824}\r\n");
        }
    }
    let mut pieces = 0;
    while measured.played.session.wants(from) {
        measured.played.session.receive(from, piece);
        pieces += 1;
        assert!(pieces < 64, "{from:?}: 4 MiB were taken though the other leg takes nothing");
    }
    measured.below_a_mebibyte("a peer that takes nothing");
}

/// How many messages are moved of which no two UIDs make a range.
const SCATTERED: u32 = 100_000;

/// The proof alone is a line of 1.4 MB, and so are the commands that follow it. The `removed` n-th is the message with that
/// number.
fn a_move_of_scattered_uids(what: &str, removed: fn(u32) -> u32) {
    let mut measured = Measured::start("");
    measured.played.session.receive(Side::Client, b"b UID MOVE 1:200000 T\r\n");
    let (mut is_there, mut moved) = (true, 0);
    while let asked @ [_, ..] = &measured.asked()[..] {
        for (tag, command) in asked {
            let uids = || (1..=SCATTERED).map(|n| format!("{}{}", if n > 1 { "," } else { " " }, 2 * n - 1));
            match command.as_str() {
                "FETCH" => {
                    measured.say((1..=SCATTERED).map(|n| format!("* {n} FETCH (UID {})\r\n", 2 * n - 1)));
                }
                "SEARCH" => measured.pass(Side::Upstream, b"* SEARCH\r\n"),
                "EXPUNGE" if std::mem::take(&mut is_there) => {
                    measured.say((1..=SCATTERED).map(|n| format!("* {} EXPUNGE\r\n", removed(n))));
                }
                _ => {}
            }
            if command == "COPY" {
                let code = uids().chain(uids());
                let head = std::iter::once(format!("{tag} OK [COPYUID 7"));
                measured.say(head.chain(code).chain(std::iter::once("] done\r\n".into())));
            } else {
                measured.pass(Side::Upstream, format!("{tag} OK done\r\n").as_bytes());
            }
        }
        while let Some(notice) = measured.played.session.notice() {
            if let Notice::MoveEnded { moved: messages, .. } = notice {
                moved = messages;
            }
        }
    }
    assert_eq!(moved, SCATTERED, "{what}");
    measured.below(4 * MIB, &format!("a MOVE of scattered UIDs, {what}"));
}

/// The upstream says the same over and over during a MOVE of these UIDs.
fn over_and_over(set: &str, what: &str, lines: &[&[u8]], times: usize) {
    let mut measured = Measured::start("");
    measured.pass(Side::Client, format!("b UID MOVE {set} T\r\n").as_bytes());
    for _ in 0..times {
        lines.iter().for_each(|line| measured.pass(Side::Upstream, line));
        while measured.played.session.notice().is_some() {}
    }
    // An answer that is understood takes up to 2 MiB while it is read.
    let kept = ALLOCATED.current_usage().saturating_sub(measured.before);
    assert!(kept < 4 * MIB, "{what}: {kept} octets are kept");
    println!("{what}: {kept} octets");
}

fn hostile_answers_to_a_move() {
    let uids: Vec<String> = (0..40_000).map(|n| (2 * n + 1).to_string()).collect();
    let copyuid = format!("* OK [COPYUID 7 {0} {0}] x\r\n", uids.join(","));
    over_and_over("12", "untagged COPYUIDs", &[copyuid.as_bytes()], 50);
    let search = format!("* SEARCH{}\r\n", " 1 3 5 7".repeat(40_000));
    over_and_over("12", "SEARCH responses", &[search.as_bytes()], 50);
    over_and_over("2:3", "listings", &[b"* 1 FETCH (UID 2)\r\n", b"* 1 FETCH (UID 3)\r\n"], 200_000);
    over_and_over("2:3", "removals", &[b"* VANISHED 1\r\n", b"* VANISHED 3\r\n"], 200_000);
}

/// What one client can make the gateway hold or write before it has logged in.
fn hostile_clients_before_login() {
    let greeting = b"* OK [CAPABILITY IMAP4rev1] hi\r\n";
    let before = ALLOCATED.current_usage();
    let mut tags = Played::new(Settings::default(), Cut::Whole);
    tags.send(Side::Upstream, greeting);
    for n in 0..90 {
        tags.send(Side::Client, format!("{n:x<65000} NOOP\r\n").as_bytes());
        tags.forget();
    }
    let mut garbage = Played::new(Settings::default(), Cut::Whole);
    garbage.send(Side::Upstream, greeting);
    garbage.send(Side::Client, &b"\n".repeat(PIECE));
    let grew = ALLOCATED.current_usage().saturating_sub(before);
    assert!(grew < MIB, "{grew} octets for two sessions that have not logged in");

    let mut long = Played::selected(Settings::default(), Cut::Whole, "");
    let set: Vec<String> = (0..5400).map(|n| (10_001 + 2 * n).to_string()).collect();
    long.send(Side::Client, format!("b UID MOVE {} {}\r\n", set.join(","), "T".repeat(1000)).as_bytes());
    let written = long.session.output(Side::Upstream).len();
    assert!(written < MIB, "one command became {written} octets");
}
