//! The table in one process: a [`Session`] in front of the model mail store, with a clock that is set and a journal that is a
//! variable.

use crate::play::{MOVE, Play, reply};
use crate::scripted::{STOPPED, Scripted};
use crate::store::Manner;
use crate::{Case, Fault, report};
use fastrand::Rng;
use imapmove::imap::{Intent, Notice, Record, Recovered, Session, Settings, Side, Unfinished};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

const MANNERS: [fn(&mut Rng) -> Manner; 3] = [Manner::dovecot, Manner::courier, Manner::cyrus];

/// FAULT-1, FAULT-2, FAULT-3, FAULT-4: every cell, in front of servers with three manners.
#[test]
fn fault_matrix_in_the_model() {
    let cases = Fault::ALL.into_iter().flat_map(Case::of);
    let runs: Vec<_> = cases.flat_map(|case| (0..MANNERS.len()).map(move |manner| (case, manner))).collect();
    let failures = runs.iter().zip(1..).filter_map(|(&(case, manner), seed)| {
        let run = catch_unwind(AssertUnwindSafe(|| play(case, Scripted::new(case, MANNERS[manner], seed))));
        run.err().map(|_| (case, format!("seed {seed}, see its panic above")))
    });
    report(runs.len(), &failures.collect::<Vec<_>>());
}

fn play(case: Case, scripted: Scripted) {
    let play = Play::begin(case, &scripted);
    let mut run = Run::new(scripted);
    run.log_in();
    let request = run.scripted.request();
    run.say(MOVE, &request);
    match case.is_stopped() {
        true => assert!(run.heard.contains(STOPPED), "{}", run.heard),
        false => assert!(reply(&run.heard, MOVE).is_some(), "{}", run.heard),
    }
    play.reached(&run.scripted);
    run.suffer(case.fault);
    play.at_once(&run.scripted, &run.heard);

    run.begin_again();
    run.log_in();
    play.afterwards(&run.scripted);
}

/// One client, one session, one server.
struct Run {
    session: Session,
    scripted: Scripted,
    journal: Journal,
    now: Duration,
    /// What the client has got.
    heard: String,
}

impl Run {
    fn new(scripted: Scripted) -> Run {
        let (journal, heard) = (Journal::default(), String::new());
        Run { session: session(), scripted, journal, now: Duration::ZERO, heard }
    }

    /// The session is no more; what it has told the journal is. The server has another connection.
    fn begin_again(&mut self) {
        self.session = session();
        self.heard.clear();
        self.scripted.reconnect();
    }

    /// And selects the source.
    fn log_in(&mut self) {
        self.pump();
        for (tag, command) in [("l", "LOGIN alice wonderland"), ("s", "SELECT INBOX")] {
            self.say(tag, command);
            assert!(reply(&self.heard, tag).is_some_and(|reply| reply.starts_with("OK ")), "{}", self.heard);
        }
        self.heard.clear();
    }

    fn say(&mut self, tag: &str, command: &str) {
        self.session.receive(Side::Client, format!("{tag} {command}\r\n").as_bytes());
        self.pump();
    }

    /// Until nobody has anything to say.
    fn pump(&mut self) {
        loop {
            while let Some(notice) = self.session.notice() {
                self.journal.hear(notice, &mut self.session);
            }
            let to_client = self.session.output(Side::Client).split();
            self.heard.push_str(std::str::from_utf8(&to_client).expect("ASCII"));
            let to_server = self.session.output(Side::Upstream).split();
            self.scripted.receive(&to_server);
            let said = self.scripted.work();
            if said.is_empty() && to_server.is_empty() && to_client.is_empty() {
                return;
            }
            self.session.receive(Side::Upstream, &said);
        }
    }

    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Reset => self.session.lost(Side::Upstream, "The connection broke"),
            Fault::Bye => {
                self.session.receive(Side::Upstream, b"* BYE Good night\r\n");
                self.session.closed(Side::Upstream);
            }
            Fault::Hang => self.wait(),
            Fault::No | Fault::NoOnce | Fault::Bad => {}
            Fault::ClientGone => self.session.lost(Side::Client, "The client reset the connection"),
            Fault::Sigterm => self.session.drain(),
            Fault::Sigkill => return,
        }
        if fault.lets_go_on() && !self.session.is_finished() {
            let said = self.scripted.go_on();
            self.session.receive(Side::Upstream, &said);
        }
        self.pump();
        self.say("n", "NOOP");
    }

    /// The clock goes on, and nothing else.
    fn wait(&mut self) {
        while !self.session.is_finished() {
            self.now = self.session.deadline().expect("a deadline");
            self.session.tick(self.now);
        }
    }
}

fn session() -> Session {
    Session::new(Settings { journal: true, ..Settings::default() })
}

/// The one MOVE of the case, as far as the journal has been told of it.
#[derive(Default)]
struct Journal {
    intent: Option<Intent>,
    copyuid: Option<Vec<u8>>,
}

impl Journal {
    fn hear(&mut self, notice: Notice, session: &mut Session) {
        match notice {
            Notice::Journal(Record::Intent(intent)) => self.intent = Some(intent),
            Notice::Journal(Record::Copied { copyuid }) => self.copyuid = copyuid,
            Notice::Journal(Record::Undo | Record::Ended) => *self = Journal::default(),
            Notice::Owes(_) => return session.recover(self.unfinished()),
            Notice::Recovered { result: Recovered::Finished | Recovered::Stale, .. } => {
                *self = Journal::default();
            }
            Notice::Recovered { .. } => panic!("this could have been finished"),
            _ => return,
        }
        session.persisted(true);
    }

    fn unfinished(&self) -> Vec<Unfinished> {
        let whole = self.intent.as_ref().zip(self.copyuid.clone()).map(|(intent, copyuid)| Unfinished {
            id: 1,
            source: intent.source.clone().expect("it was selected"),
            source_validity: intent.source_validity.expect("it was told"),
            target: intent.target.clone(),
            copyuid,
        });
        whole.into_iter().collect()
    }
}
