//! The scripted upstream: the model mail store, which stops, or refuses, at one step of a MOVE.

use crate::store::{DELETED, FLAGGED, Fact, Manner, Mishaps, SEEN, Server};
use crate::strict::{numbers, set};
use crate::{Boundary, Case, Fault, Vanishes};
use fastrand::Rng;
use std::collections::VecDeque;

/// The two mailboxes.
pub const SOURCE: usize = 0;
pub const TARGET: usize = 1;
pub const NAMES: [&[u8]; 2] = [b"INBOX", b"Archive"];

/// What the server says where it stops: a client that reads this knows what the gateway has heard.
pub const STOPPED: &str = "* OK Here it comes\r\n";

/// What it says where it refuses something, behind NO or BAD.
pub const REFUSED: &str = "I cannot do that";

/// How far the command has come at which a MOVE is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Nothing,
    Half,
    /// All, but what came of it is not said.
    Unheard,
}

impl Boundary {
    /// The command at which a MOVE is stopped.
    fn step(self) -> Option<(&'static str, Done)> {
        match self {
            Boundary::Resolving => Some(("FETCH", Done::Nothing)),
            Boundary::BeforeCopy => Some(("UID COPY", Done::Nothing)),
            Boundary::CopySent => Some(("UID COPY", Done::Unheard)),
            Boundary::CopyOk => Some(("UID STORE", Done::Nothing)),
            Boundary::StoreSent => Some(("UID STORE", Done::Unheard)),
            Boundary::StoreOk => Some(("UID EXPUNGE", Done::Nothing)),
            Boundary::ExpungeSent => Some(("UID EXPUNGE", Done::Unheard)),
            Boundary::SomeSeen => Some(("UID EXPUNGE", Done::Half)),
            Boundary::ExpungeOk => None,
        }
    }
}

/// One command of the gateway's or the client's. No literal is ever sent here.
#[derive(Clone, Debug)]
struct Command(String);

impl Command {
    fn tag(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    fn is(&self, verb: &str) -> bool {
        let takes_a_flag_off = self.0.contains(" -FLAGS");
        self.0[self.tag().len()..].trim_start().starts_with(verb) && !takes_a_flag_off
    }

    /// The same for the first half of its UIDs, and which these are.
    fn first_half(&self) -> (Command, Vec<u32>) {
        let (head, uids) = self.0.trim_end().rsplit_once(' ').expect("UID EXPUNGE has a set");
        let mut half = numbers(uids).expect("a fixed set");
        half.truncate(half.len().div_ceil(2));
        (Command(format!("{head} {}\r\n", set(&half))), half)
    }
}

/// A mail server for one case: its first connection breaks as the case says, all others are served well.
pub struct Scripted {
    pub store: Server,
    case: Case,
    /// UIDs of the messages that are moved.
    pub moved: Vec<u32>,
    /// The UIDs that the half of an UID EXPUNGE has removed.
    pub removed: Vec<u32>,
    /// One was expunged by another session.
    pub has_vanished: bool,
    input: Vec<u8>,
    queue: VecDeque<Command>,
    /// Nothing more is read.
    pub stopped: bool,
    /// What was done and not said.
    unheard: Vec<u8>,
    /// How often it has refused the command.
    pub refusals: usize,
    /// The first connection is over.
    healed: bool,
}

impl Scripted {
    pub fn new(case: Case, manner: fn(&mut Rng) -> Manner, seed: u64) -> Scripted {
        let manner = Manner { list_in_greeting: false, ..manner(&mut Rng::with_seed(seed)) };
        let mut store = Server::new(seed, manner, Mishaps::default(), &NAMES);
        let moved = fill(&mut store, case.count);
        Scripted {
            store,
            case,
            moved,
            removed: Vec::new(),
            has_vanished: false,
            input: Vec::new(),
            queue: VecDeque::new(),
            stopped: false,
            unheard: Vec::new(),
            refusals: 0,
            healed: false,
        }
    }

    /// What the client sends for it: by number, where these must be resolved first.
    pub fn request(&self) -> String {
        let by_number = |uid: &u32| {
            let messages = &self.store.mailboxes[SOURCE].messages;
            messages.iter().position(|message| message.uid == *uid).map_or(0, |at| at as u32 + 1)
        };
        match self.case.at {
            Boundary::Resolving => {
                format!("MOVE {} Archive", set(&self.moved.iter().map(by_number).collect::<Vec<_>>()))
            }
            _ => format!("UID MOVE {} Archive", set(&self.moved)),
        }
    }

    /// The one that vanishes, if one does.
    pub fn vanishing(&self) -> u32 {
        self.moved[self.moved.len() / 2]
    }

    pub fn receive(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        while let Some(end) = self.input.iter().position(|octet| *octet == b'\n') {
            let line = self.input.drain(..=end).collect();
            self.queue.push_back(Command(String::from_utf8(line).expect("ASCII")));
        }
    }

    /// Carries out what came, up to where it is stopped, and says what came of it.
    pub fn work(&mut self) -> Vec<u8> {
        let mut said = self.store.output();
        while !self.stopped
            && let Some(command) = self.queue.pop_front()
        {
            said.extend(self.command(command));
        }
        said
    }

    fn command(&mut self, command: Command) -> Vec<u8> {
        let in_source = self.store.selected.as_ref().is_some_and(|selected| selected.mailbox == SOURCE);
        let step = self.case.at.step().filter(|(verb, _)| command.is(verb) && in_source && !self.healed);
        match step {
            Some((_, done)) if self.case.fault.refuses() => self.refuse(command, done),
            Some((_, done)) => self.stop(command, done),
            None => {
                let mut said = std::mem::take(&mut self.unheard);
                said.extend(self.carry_out(&command).whole());
                said
            }
        }
    }

    /// Once: from here on it goes on as it should, or not at all.
    fn stop(&mut self, command: Command, done: Done) -> Vec<u8> {
        (self.stopped, self.healed) = (true, true);
        let said = match done {
            Done::Nothing => Vec::new(),
            Done::Half => self.carry_out_half(&command),
            Done::Unheard => {
                let answer = self.carry_out(&command);
                if !answer.accepts() {
                    (self.stopped, self.healed) = (false, false); // EXPUNGEISSUED: it comes again
                    return answer.whole();
                }
                self.unheard = answer.whole();
                return STOPPED.into();
            }
        };
        self.queue.push_front(command);
        [&said, STOPPED.as_bytes()].concat()
    }

    fn refuse(&mut self, command: Command, done: Done) -> Vec<u8> {
        let first = self.refusals == 0;
        self.refusals += 1;
        self.healed = self.case.fault == Fault::NoOnce;
        let mut said = match done {
            Done::Half if first => self.carry_out_half(&command),
            Done::Half | Done::Nothing => Vec::new(),
            Done::Unheard => {
                self.unheard = self.carry_out(&command).data;
                Vec::new()
            }
        };
        // Not SERVERBUG: then a COPY may have copied (MOVE-14).
        let word = if self.case.fault == Fault::Bad { "BAD" } else { "NO [INUSE]" };
        said.extend(format!("{} {word} {REFUSED}\r\n", command.tag()).into_bytes());
        said
    }

    fn carry_out_half(&mut self, command: &Command) -> Vec<u8> {
        let (half, uids) = command.first_half();
        self.removed = uids;
        self.carry_out(&half).data
    }

    fn carry_out(&mut self, command: &Command) -> Answer {
        let is_copy = command.is("UID COPY");
        if is_copy {
            self.meanwhile(Vanishes::BeforeCopy);
        }
        self.store.receive(command.0.as_bytes());
        self.store.work();
        if is_copy {
            self.meanwhile(Vanishes::AfterCopy);
        }
        Answer::of(self.store.output())
    }

    /// What another session does just before and after the COPY.
    fn meanwhile(&mut self, now: Vanishes) {
        for mailbox in [SOURCE, TARGET] {
            self.store.deliver(mailbox, SEEN);
        }
        let copied = self.store.facts.iter().any(|fact| matches!(fact, Fact::Copied { .. }));
        let due = now == Vanishes::BeforeCopy || copied;
        if self.case.vanishes == now && due && !std::mem::replace(&mut self.has_vanished, true) {
            self.store.expunge_elsewhere(SOURCE, self.vanishing());
        }
    }

    /// The traffic goes on.
    pub fn go_on(&mut self) -> Vec<u8> {
        self.stopped = false;
        let mut said = std::mem::take(&mut self.unheard);
        said.extend(self.work());
        said
    }

    /// The connection is over; what came and was not carried out never will be. Another one begins.
    pub fn reconnect(&mut self) {
        self.queue.clear();
        self.input.clear();
        self.unheard.clear();
        (self.stopped, self.healed) = (false, true);
        self.store.reconnect();
    }
}

/// What the store says to one command.
struct Answer {
    data: Vec<u8>,
    tagged: Vec<u8>,
}

impl Answer {
    fn of(mut said: Vec<u8>) -> Answer {
        let end = said.len().saturating_sub(2);
        let last = said[..end].iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
        let tagged = said.split_off(last);
        Answer { data: said, tagged }
    }

    fn accepts(&self) -> bool {
        self.tagged.split(|octet| *octet == b' ').nth(1) == Some(b"OK")
    }

    fn whole(self) -> Vec<u8> {
        [self.data, self.tagged].concat()
    }
}

/// Bystanders before, between and behind what is moved, one of them flagged as deleted, and two in the target. Returns the
/// UIDs of what is moved.
fn fill(store: &mut Server, count: usize) -> Vec<u32> {
    store.deliver(TARGET, SEEN);
    store.deliver(TARGET, DELETED | FLAGGED);
    store.deliver(SOURCE, SEEN);
    let first = store.deliver(SOURCE, FLAGGED);
    store.deliver(SOURCE, DELETED);
    let flags = |n: usize| [0, SEEN, FLAGGED, SEEN | FLAGGED][n % 4];
    let others: Vec<u32> = (1..count).map(|n| store.deliver(SOURCE, flags(n))).collect();
    store.deliver(SOURCE, FLAGGED);
    [vec![first], others].concat()
}
