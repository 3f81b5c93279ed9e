//! Whether what can be large costs as it grows, and no more: twice as much, twice the time.

use crate::imap::{Session, Settings, Side};
use crate::table::{Goal, Table, Unit};
use crate::upstream::moved;
use std::time::{Duration, Instant};

/// What one read brings.
const READ: usize = 64 * 1024;
/// Of so many runs the fastest one counts: what else the machine does only makes them slower.
const RUNS: usize = 5;

/// Adds a row for each thing that can be large.
pub fn measure(table: &mut Table) {
    let rows: [(&str, u32, fn(u32)); 3] = [
        ("a MOVE of 50,000 UIDs without ranges", 50_000, move_many),
        ("500,000 results of a SEARCH", 500_000, search),
        ("5,000 commands in one go", 5_000, pipeline),
    ];
    for (name, size, work) in rows {
        let (once, twice) = (fastest(|| work(size)), fastest(|| work(2 * size)));
        let title = format!("{name}, and twice as many");
        let goal = Some(Goal { must: 2.5, moonshot: 2.0 });
        // The ratio is that to the second column.
        table.add(&title, Unit::Ratio(" ms"), goal, "twice", twice);
        table.add(&title, Unit::Ratio(" ms"), goal, "once", once);
    }
}

fn fastest(work: impl Fn()) -> f64 {
    let time = || {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    (0..RUNS).map(|_| time()).min().unwrap_or_default().as_secs_f64() * 1e3
}

/// Logged in, with a mailbox selected.
fn session(messages: u32) -> Session {
    let mut session = Session::new(Settings::default());
    let list = "[CAPABILITY IMAP4rev1 UIDPLUS LITERAL+]";
    hear(&mut session, Side::Upstream, format!("* OK {list} ready\r\n").as_bytes());
    hear(&mut session, Side::Client, b"a LOGIN alice wonderland\r\n");
    hear(&mut session, Side::Upstream, format!("a OK {list} in\r\n").as_bytes());
    hear(&mut session, Side::Client, b"b SELECT INBOX\r\n");
    let opened = format!("* {messages} EXISTS\r\n* OK [UIDVALIDITY 1] valid\r\nb OK [READ-WRITE] in\r\n");
    hear(&mut session, Side::Upstream, opened.as_bytes());
    take(&mut session, Side::Upstream);
    session
}

/// In reads, and what it says to the client is taken.
fn hear(session: &mut Session, from: Side, octets: &[u8]) {
    for read in octets.chunks(READ) {
        session.receive(from, read);
        take(session, Side::Client);
        while session.notice().is_some() {}
    }
}

fn take(session: &mut Session, to: Side) -> Vec<u8> {
    session.tick(Duration::ZERO);
    session.output(to).split().to_vec()
}

fn move_many(messages: u32) {
    let mut session = session(messages);
    let (mut is_there, mut answered) = (true, 0);
    hear(&mut session, Side::Client, format!("c UID MOVE 1:{} Target\r\n", 2 * messages).as_bytes());
    loop {
        let asked = String::from_utf8(take(&mut session, Side::Upstream)).expect("text");
        if asked.is_empty() {
            break;
        }
        for line in asked.lines() {
            let mut words = line.split(' ');
            let (tag, step) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
            let answers = step != "EXPUNGE" || std::mem::take(&mut is_there);
            let (data, code) = if answers { moved(step, messages, 2) } else { Default::default() };
            hear(&mut session, Side::Upstream, &data);
            hear(&mut session, Side::Upstream, format!("{tag} OK {code}done\r\n").as_bytes());
            answered += 1;
        }
    }
    assert!(answered > 5 && !is_there, "the MOVE was carried out");
}

fn search(results: u32) {
    let mut session = session(1);
    hear(&mut session, Side::Client, b"c UID SEARCH ALL\r\n");
    let found: String = (1..=results).map(|n| format!(" {n}")).collect();
    hear(&mut session, Side::Upstream, format!("* SEARCH{found}\r\nc OK done\r\n").as_bytes());
}

/// The client says them all at once, and the upstream answers as many as it has got.
fn pipeline(commands: u32) {
    let mut session = session(1);
    let said: String = (0..commands).map(|n| format!("c{n} NOOP\r\n")).collect();
    let (mut left, mut answered) = (said.as_bytes(), 0);
    while answered < commands {
        while session.wants(Side::Client) && !left.is_empty() {
            let (read, rest) = left.split_at(left.len().min(READ));
            hear(&mut session, Side::Client, read);
            left = rest;
        }
        let asked = String::from_utf8(take(&mut session, Side::Upstream)).expect("text");
        let answers: String = asked.lines().map(|line| line.replace("NOOP", "OK done") + "\r\n").collect();
        answered += asked.lines().count() as u32;
        assert!(!asked.is_empty(), "it goes on");
        hear(&mut session, Side::Upstream, answers.as_bytes());
    }
}
