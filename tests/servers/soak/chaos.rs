//! What breaks: the gateway is killed or told to end, its connections to the server are cut, the server is restarted.

use super::relay::{Cut, Place, Relay};
use super::{Count, Life, Site, Tally};
use crate::gateway::Gateway;
use crate::server::Server;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// How the gateway is set: shorter waits than the defaults, so that many fit into a soak.
const SETTINGS: [(&str, &str); 2] = [("--move-timeout", "8s"), ("--drain-deadline", "10s")];
/// Longer than that deadline.
const DRAIN: Duration = Duration::from_secs(60);
/// How long most stalls last at most, in milliseconds; and the long ones, at which the gateway gives the server up.
const STALL: u64 = 3_000;
const LONG_STALL: Duration = Duration::from_secs(9);

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    KillAtALine,
    Terminate,
    Cut,
    CutAtALine,
    Stall,
    LongStall,
    Restart,
}

/// How often each happens, of so many. They come in any order.
const DECK: [(Fault, usize); 8] = [
    (Fault::Kill, 4),
    (Fault::KillAtALine, 5),
    (Fault::Terminate, 3),
    (Fault::Cut, 2),
    (Fault::CutAtALine, 5),
    (Fault::Stall, 2),
    (Fault::LongStall, 1),
    (Fault::Restart, 2),
];

/// What a MOVE consists of on the wire, where a fault hurts most.
const LINES: [&str; 6] =
    [" UID COPY ", " UID STORE ", " UID EXPUNGE ", "COPYUID", " EXPUNGE\r\n", " EXAMINE "];

/// The machines that can break.
pub struct Plant {
    pub server: Server,
    pub gateway: Gateway,
    pub journal: TempDir,
    /// What gateways that have ended have logged.
    pub log: String,
    pub tally: Tally,
    random: fastrand::Rng,
}

impl Plant {
    /// A gateway in front of the relay.
    pub fn start(server: Server, relay: &Relay, random: fastrand::Rng) -> Plant {
        let journal = tempfile::Builder::new().prefix("imapmove-").tempdir().expect("a temporary folder");
        let gateway = new_gateway(relay, &journal);
        Plant { server, gateway, journal, log: String::new(), tally: Tally::default(), random }
    }

    /// One fault after the other until the soak is over.
    pub fn rage(&mut self, site: &Site) {
        let mut deck = Vec::new();
        while !site.is_over() {
            if deck.is_empty() {
                deck = DECK.iter().flat_map(|(fault, count)| std::iter::repeat_n(*fault, *count)).collect();
                self.random.shuffle(&mut deck);
            }
            sleep(Duration::from_millis(self.random.u64(200..3_000)));
            deck.pop().into_iter().for_each(|fault| self.suffer(fault, site));
        }
    }

    fn suffer(&mut self, fault: Fault, site: &Site) {
        let ended = self.gateway.ended();
        assert!(ended.is_none(), "the gateway has ended by itself ({ended:?}):\n{}", self.gateway.logged());
        self.log += &format!("{} soak: {fault:?}\n", humantime::format_rfc3339_micros(SystemTime::now()));
        match fault {
            Fault::Kill => self.kill(site),
            Fault::KillAtALine => {
                let (line, place) = self.line();
                let act = || {
                    self.kill(site);
                    None
                };
                site.relay.trap(line, place, act);
            }
            Fault::Terminate => self.terminate(site),
            Fault::Cut => {
                let (cut, share) = (self.cut(), self.random.u8(1..4));
                let cuts = site.relay.cut(cut, || self.random.u8(..4) < share);
                self.tally.add(Count::Cuts, cuts);
            }
            Fault::CutAtALine => {
                let ((line, place), cut) = (self.line(), self.cut());
                let was_there = site.relay.trap(line, place, || Some(cut));
                self.tally.add(Count::Cuts, usize::from(was_there));
            }
            Fault::Stall => {
                let time = Duration::from_millis(self.random.u64(50..STALL));
                let stalls = site.relay.cut(Cut::Stall(time), || self.random.u8(..3) == 0);
                self.tally.add(Count::Stalls, stalls);
            }
            Fault::LongStall => {
                let (line, place) = self.line();
                let was_there = site.relay.trap(line, place, || Some(Cut::Stall(LONG_STALL)));
                self.tally.add(Count::Stalls, usize::from(was_there));
            }
            Fault::Restart => {
                self.server.restart();
                self.tally.add(Count::Restarts, 1);
            }
        }
    }

    fn line(&mut self) -> (&'static str, Place) {
        let place = self.random.choice([Place::Before, Place::Within, Place::Behind]);
        (LINES[self.random.usize(..LINES.len())], place.expect("there are three"))
    }

    fn cut(&mut self) -> Cut {
        if self.random.bool() { Cut::Reset } else { Cut::Close }
    }

    fn kill(&mut self, site: &Site) {
        self.gateway.kill();
        self.tally.add(Count::Kills, 1);
        self.replace(site, |_| {});
    }

    /// Before it has ended, or after that, another one takes its place.
    fn terminate(&mut self, site: &Site) {
        self.gateway.terminate();
        self.tally.add(Count::Terms, 1);
        if self.random.bool() {
            self.gateway.wait_for_end(DRAIN);
        }
        self.replace(site, |old| drop(old.wait_for_end(DRAIN)));
    }

    fn replace(&mut self, site: &Site, end: impl FnOnce(&mut Gateway)) {
        let mut old = std::mem::replace(&mut self.gateway, new_gateway(&site.relay, &self.journal));
        let life = site.begin(Life::of(&self.gateway));
        end(&mut old);
        self.log += &old.logged();
        life.over.store(true, Ordering::SeqCst);
    }

    /// The last gateway ends, and what it leaves.
    pub fn end(&mut self, site: &Site) {
        self.gateway.terminate();
        self.gateway.wait_for_end(DRAIN);
        self.log += &self.gateway.logged();
        site.life().over.store(true, Ordering::SeqCst);
    }

    /// A gateway for those who come once more.
    pub fn begin_again(&mut self, site: &Site) {
        self.gateway = new_gateway(&site.relay, &self.journal);
        site.begin(Life::of(&self.gateway));
    }

    /// Files in the journal's folder: what nobody has finished.
    pub fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.journal.path()).expect("the journal's folder");
        files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect()
    }
}

fn new_gateway(relay: &Relay, journal: &TempDir) -> Gateway {
    let folder = journal.path().to_str().expect("a path of ASCII");
    Gateway::start_in_vain(relay.address, &[&SETTINGS[..], &[("--journal", folder)]].concat())
}
