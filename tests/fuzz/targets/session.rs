//! Operations on a session: who speaks, what, who closes, what time it is. It never panics, holds a bounded
//! amount, and its output does not depend on how the input was cut.
#![no_main]

#[allow(dead_code, unused_imports)]
#[path = "../../../src/imap/mod.rs"]
mod imap;

use imap::{Session, Settings, Side, Tls, Unfinished};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

/// One operation, from one octet and what follows it.
enum Op<'a> {
    Receive(Side, &'a [u8]),
    Closed(Side),
    Lost(Side),
    Tick(u8),
    Drain,
    Persisted,
    /// So many unfinished MOVEs.
    Owed(u8),
    Secured(Side),
}

struct Ops<'a>(&'a [u8]);

impl<'a> Ops<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Lines are given as text: octet 0xff ends what one side says.
    fn speech(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|c| *c == 0xff).unwrap_or(self.0.len());
        let speech = self.take(end);
        self.take(1);
        speech
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Op<'a>;

    fn next(&mut self) -> Option<Op<'a>> {
        let side = |code: u8| if code & 1 == 0 { Side::Client } else { Side::Upstream };
        let code = *self.take(1).first()?;
        Some(match code {
            b'c' | b'C' => Op::Receive(Side::Client, self.speech()),
            b'0'..=b'1' => Op::Closed(side(code)),
            b'2'..=b'3' => Op::Lost(side(code)),
            b'4'..=b'5' => Op::Secured(side(code)),
            b't' => Op::Tick(*self.take(1).first()?),
            b'd' => Op::Drain,
            b'p' => Op::Persisted,
            b'o' => Op::Owed(*self.take(1).first()?),
            _ => Op::Receive(Side::Upstream, self.speech()),
        })
    }
}

fn settings(code: u8) -> Settings {
    let tls = |bits: u8| [Tls::Off, Tls::StartTls, Tls::Implicit, Tls::Off][usize::from(bits & 3)];
    Settings {
        client_tls: tls(code),
        upstream_tls: tls(code >> 2),
        require_tls: code & 16 != 0,
        advertise_before_login: code & 32 != 0,
        journal: code & 128 != 0,
        max_line: if code & 64 == 0 { 8_000 } else { 100 },
        ..Settings::default()
    }
}

fn owed(id: u8) -> Unfinished {
    let copyuid = [&b"* OK [COPYUID 9 12:13 1:2] Moved\r\n"[..], b"* OK [COPYUID 7 5 6] x\r\n", b"* OK x\r\n"];
    Unfinished {
        id: id.into(),
        source: b"INBOX".to_vec(),
        source_validity: 7,
        target: [&b"T"[..], b"INBOX", b"\xc4"][usize::from(id % 3)].to_vec(),
        copyuid: copyuid[usize::from(id % 3)].to_vec(),
    }
}

/// What both peers got, and whether the session ended.
fn play(code: u8, data: &[u8], cut: usize) -> (Vec<u8>, Vec<u8>, bool) {
    let mut session = Session::new(settings(code));
    let (mut client, mut upstream, mut now) = (Vec::new(), Vec::new(), 0);
    for op in Ops(data) {
        match op {
            Op::Receive(side, octets) => octets.chunks(cut).for_each(|chunk| session.receive(side, chunk)),
            Op::Closed(side) => session.closed(side),
            Op::Lost(side) => session.lost(side, "gone"),
            Op::Secured(side) => session.secured(side),
            Op::Tick(seconds) => {
                now += u64::from(seconds);
                session.tick(Duration::from_secs(now));
            }
            Op::Drain => session.drain(),
            Op::Persisted => session.persisted(true),
            Op::Owed(count) => session.recover((0..count % 4).map(owed).collect()),
        }
        client.extend(session.output(Side::Client).split());
        upstream.extend(session.output(Side::Upstream).split());
        while session.notice().is_some() {}
    }
    (client, upstream, session.is_finished())
}

/// An end that comes between two cuts of one read comes earlier than behind the whole of it.
fn ends_early(data: &[u8]) -> bool {
    Ops(data).any(|op| matches!(op, Op::Closed(_) | Op::Drain | Op::Lost(_)))
}

fuzz_target!(|data: &[u8]| {
    let Some((code, data)) = data.split_first() else { return };
    let whole = play(*code, data, usize::MAX);
    let cut = play(*code, data, 1 + usize::from(code % 7));
    if !ends_early(data) {
        assert!(whole == cut, "{:?}\n{:?}", lossy(&whole), lossy(&cut));
    }
});

fn lossy(played: &(Vec<u8>, Vec<u8>, bool)) -> (String, String, bool) {
    (played.0.escape_ascii().to_string(), played.1.escape_ascii().to_string(), played.2)
}
