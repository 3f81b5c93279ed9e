//! Conversations of a session with a canned client and upstream: octets in, octets out. What the two say is made
//! beforehand, because making it costs more than what is measured.

use crate::answers::{fetched, moved};
use crate::imap::scan::{Piece, SHORT_LINE, Scanner, announced};
use crate::imap::{Session, Settings, Side};
use std::collections::HashMap;
use std::time::Duration;

/// What one read brings.
const READ: usize = 64 * 1024;

/// What is said, from a session's state on.
pub trait Conversation {
    /// Logged in, with a mailbox selected.
    fn session(&self) -> Talk;

    /// Says all of it, and makes sure that the session did what it is there for.
    fn play(&self, talk: &mut Talk);
}

/// A session, and what its connection would do with it.
pub struct Talk(Session);

impl Talk {
    fn new(messages: u32) -> Talk {
        let mut talk = Talk(Session::new(Settings::default()));
        let list = "[CAPABILITY IMAP4rev1 UIDPLUS LITERAL+]";
        talk.hear(Side::Upstream, format!("* OK {list} ready\r\n").as_bytes());
        talk.hear(Side::Client, b"a LOGIN alice wonderland\r\n");
        talk.hear(Side::Upstream, format!("a OK {list} in\r\n").as_bytes());
        talk.hear(Side::Client, b"b SELECT INBOX\r\n");
        let opened = format!("* {messages} EXISTS\r\n* OK [UIDVALIDITY 1] valid\r\nb OK [READ-WRITE] in\r\n");
        talk.hear(Side::Upstream, opened.as_bytes());
        talk.take(Side::Upstream);
        talk
    }

    /// In reads, and what it says to the client is taken. How many octets were written to the other leg, apart from what
    /// is there for [`take`](Talk::take).
    fn hear(&mut self, from: Side, octets: &[u8]) -> usize {
        let mut written = 0;
        for read in octets.chunks(READ) {
            self.0.tick(Duration::ZERO);
            written += self.0.receive_through(from, read);
            self.0.under_way(from.other(), 0);
            let to_client = self.0.output(Side::Client);
            written += if from == Side::Upstream { to_client.len() } else { 0 };
            to_client.clear();
            while self.0.notice().is_some() {}
        }
        written
    }

    fn take(&mut self, to: Side) -> Vec<u8> {
        self.0.output(to).split().to_vec()
    }
}

/// A command and its answer, which pass as they came.
pub struct Exchange {
    command: &'static [u8],
    answer: Vec<u8>,
}

impl Exchange {
    /// FETCH of so many messages of this size, in octets.
    pub fn fetch(count: u32, size: usize) -> Exchange {
        let answer = [&fetched(count, size)[..], b"c OK done\r\n"].concat();
        Exchange { command: b"c FETCH 1:* BODY[]\r\n", answer }
    }

    /// SEARCH with so many results.
    pub fn search(results: u32) -> Exchange {
        let found: String = (1..=results).map(|n| format!(" {n}")).collect();
        let answer = format!("* SEARCH{found}\r\nc OK done\r\n").into_bytes();
        Exchange { command: b"c UID SEARCH ALL\r\n", answer }
    }

    /// The answer alone.
    pub fn answer(&self) -> &[u8] {
        &self.answer
    }
}

impl Conversation for Exchange {
    fn session(&self) -> Talk {
        Talk::new(1)
    }

    fn play(&self, talk: &mut Talk) {
        let asked = talk.hear(Side::Client, self.command) + talk.take(Side::Upstream).len();
        let answered = talk.hear(Side::Upstream, &self.answer);
        assert_eq!((asked, answered), (self.command.len(), self.answer.len()));
    }
}

/// Commands that the client says in one go; the upstream answers as many as it has got.
pub struct Pipeline {
    said: String,
    answers: String,
    commands: usize,
}

impl Pipeline {
    /// Of so many commands.
    pub fn new(commands: usize) -> Pipeline {
        // Each as long as the next.
        let said = (0..commands).map(|n| format!("c{n:07} NOOP\r\n")).collect();
        let answers = (0..commands).map(|n| format!("c{n:07} OK done\r\n")).collect();
        Pipeline { said, answers, commands }
    }

    /// What the client says.
    pub fn said(&self) -> &[u8] {
        self.said.as_bytes()
    }

    /// The answers to so many octets of what is said.
    fn answers_to(&self, octets: usize) -> usize {
        octets / (self.said.len() / self.commands) * (self.answers.len() / self.commands)
    }
}

impl Conversation for Pipeline {
    fn session(&self) -> Talk {
        Talk::new(1)
    }

    fn play(&self, talk: &mut Talk) {
        let (mut said, mut answers) = (self.said(), self.answers.as_bytes());
        while !answers.is_empty() {
            let mut asked = 0;
            while talk.0.wants(Side::Client) && !said.is_empty() {
                let (read, later) = said.split_at(said.len().min(READ));
                asked += talk.hear(Side::Client, read);
                said = later;
            }
            asked += talk.take(Side::Upstream).len();
            assert!(asked > 0, "it goes on");
            let (now, later) = answers.split_at(self.answers_to(asked));
            talk.hear(Side::Upstream, now);
            answers = later;
        }
    }
}

/// A UID MOVE that the gateway carries out.
pub struct Move {
    messages: u32,
    command: String,
    /// To each step: data, and a response code.
    answers: HashMap<&'static str, (Vec<u8>, String)>,
}

impl Move {
    /// Of so many messages, whose UIDs are so far apart: by 1 they make one range, by 2 none.
    pub fn new(messages: u32, apart: u32) -> Move {
        let steps = ["FETCH", "SEARCH", "COPY", "STORE", "EXPUNGE"];
        Move {
            messages,
            command: format!("c UID MOVE 1:{} Target\r\n", apart * messages),
            answers: steps.map(|step| (step, moved(step, messages, apart))).into(),
        }
    }
}

impl Conversation for Move {
    fn session(&self) -> Talk {
        Talk::new(self.messages)
    }

    fn play(&self, talk: &mut Talk) {
        let mut is_there = true;
        talk.hear(Side::Client, self.command.as_bytes());
        loop {
            let asked = String::from_utf8(talk.take(Side::Upstream)).expect("text");
            if asked.is_empty() {
                break;
            }
            for line in asked.lines() {
                let mut words = line.split(' ');
                let (tag, step) = (words.next().unwrap_or_default(), words.nth(1).unwrap_or_default());
                // The first EXPUNGE removes all of them, if there are several.
                let answers = step != "EXPUNGE" || std::mem::take(&mut is_there);
                let nothing = (Vec::new(), String::new());
                let (data, code) = self.answers.get(step).filter(|_| answers).unwrap_or(&nothing);
                talk.hear(Side::Upstream, data);
                talk.hear(Side::Upstream, format!("{tag} OK {code}done\r\n").as_bytes());
            }
        }
        assert!(!is_there, "the MOVE was carried out");
    }
}

/// Cuts octets into lines and literals, as they come in reads: how many lines.
pub fn scan(octets: &[u8]) -> usize {
    let (mut scanner, mut from, mut lines) = (Scanner::default(), 0, 0);
    for to in (READ..octets.len()).step_by(READ).chain([octets.len()]) {
        while let Some(piece) = scanner.next(&octets[from..to], |_| SHORT_LINE) {
            from += piece.len();
            if let Piece::Line(line) = piece {
                lines += 1;
                if let Some(octets) = announced(line).and_then(|literal| literal.octets) {
                    scanner.expect(octets);
                }
            }
        }
    }
    lines
}
