//! A session that is played by hand: octets in, in pieces; octets out.
#![allow(dead_code)] // each test binary uses its own part

use fastrand::Rng;
use imapmove::imap::{Session, Settings, Side};

/// How octets are handed over.
#[derive(Clone, Debug)]
pub enum Cut {
    /// All at once.
    Whole,
    /// In pieces of this many.
    Every(usize),
    /// In random pieces of up to so many. With a bypass, `opaque` octets go past the session now and then, and others pass
    /// through it without a copy.
    Random { longest: usize, bypass: bool, seed: u64 },
}

/// A session, and all that it has said to either side.
pub struct Played {
    pub session: Session,
    pub said: [Vec<u8>; 2],
    /// Octets are handed over even when the session does not want them: so two cuts keep the same order of both sides.
    pub forced: bool,
    cut: Cut,
    rng: Rng,
    waiting: [std::collections::VecDeque<u8>; 2],
}

impl Played {
    pub fn new(settings: Settings, cut: Cut) -> Played {
        let seed = if let Cut::Random { seed, .. } = cut { seed } else { 0 };
        let session = Session::new(settings);
        Played {
            session,
            said: Default::default(),
            forced: false,
            cut,
            rng: Rng::with_seed(seed),
            waiting: Default::default(),
        }
    }

    /// Logged in and with three messages selected, on a server with these capabilities.
    pub fn selected(settings: Settings, cut: Cut, capabilities: &str) -> Played {
        let mut played = Played::logged_in(settings, cut, capabilities);
        played.send(Side::Client, b"p2 SELECT INBOX\r\n");
        played.send(
            Side::Upstream,
            b"* 3 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 7] valid\r\n* OK [UIDNEXT 4] next\r\n",
        );
        played.send(
            Side::Upstream,
            b"* FLAGS (\\Deleted \\Seen)\r\n* OK [PERMANENTFLAGS (\\Deleted \\Seen \\*)] flags\r\n",
        );
        played.send(Side::Upstream, b"p2 OK [READ-WRITE] selected\r\n");
        played.forget();
        played
    }

    pub fn logged_in(settings: Settings, cut: Cut, capabilities: &str) -> Played {
        let mut played = Played::new(settings, cut);
        played.send(Side::Upstream, b"* OK ready\r\n");
        played.send(Side::Client, b"p1 LOGIN alice wonderland\r\n");
        played.send(
            Side::Upstream,
            format!("p1 OK [CAPABILITY IMAP4rev1 UIDPLUS {capabilities}] in\r\n").as_bytes(),
        );
        played.forget();
        played
    }

    pub fn forget(&mut self) {
        self.said = Default::default();
    }

    /// Hands octets over, as fast as the session wants them.
    pub fn send(&mut self, from: Side, octets: &[u8]) {
        self.waiting[from as usize].extend(octets);
        while self.pass(Side::Client) | self.pass(Side::Upstream) {}
    }

    /// What could not be handed over, for the session does not want it.
    pub fn held(&self, from: Side) -> usize {
        self.waiting[from as usize].len()
    }

    fn pass(&mut self, from: Side) -> bool {
        let available = self.waiting[from as usize].len();
        if available == 0 || self.session.is_finished() || !(self.forced || self.session.wants(from)) {
            return false;
        }
        let length = match self.cut {
            Cut::Whole => available,
            Cut::Every(octets) => octets.min(available),
            Cut::Random { longest, .. } => self.rng.usize(1..=longest.min(available)),
        };
        let opaque = usize::try_from(self.session.opaque(from)).unwrap_or(usize::MAX);
        let bypass = matches!(self.cut, Cut::Random { bypass: true, .. }) && self.rng.bool();
        if bypass && opaque > 0 {
            let octets: Vec<u8> = self.waiting[from as usize].drain(..length.min(opaque)).collect();
            self.said[from.other() as usize].extend_from_slice(&octets);
            self.session.relayed(from, octets.len() as u64);
        } else {
            let octets: Vec<u8> = self.waiting[from as usize].drain(..length).collect();
            if bypass {
                let (to, through) = (from.other(), self.session.receive_through(from, &octets));
                self.said[to as usize].extend_from_slice(&octets[..through]);
                self.session.under_way(to, 0);
            } else {
                self.session.receive(from, &octets);
            }
        }
        self.drain();
        true
    }

    pub fn drain(&mut self) {
        for side in [Side::Client, Side::Upstream] {
            let octets = self.session.output(side).split();
            self.said[side as usize].extend_from_slice(&octets);
        }
    }

    /// Takes what was said to a side since the last time.
    pub fn take(&mut self, to: Side) -> Vec<u8> {
        std::mem::take(&mut self.said[to as usize])
    }
}
