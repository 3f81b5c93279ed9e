//! Plays one conversation as the shell around the core would.

use super::transcript::{Expected, Input, Turn, What};
use imapmove::imap::{Session, Settings, Side};
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// How what is received gets cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Whole,
    Pieces(usize),
    /// Single octets, but literals are moved across unread where the core allows it.
    LiteralsUnread,
}

impl Cut {
    pub const ALL: [Cut; 5] =
        [Cut::Whole, Cut::Pieces(1), Cut::Pieces(2), Cut::Pieces(7), Cut::LiteralsUnread];

    fn piece(self) -> usize {
        match self {
            Cut::Whole => usize::MAX,
            Cut::Pieces(octets) => octets,
            Cut::LiteralsUnread => 1,
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cut::Whole => write!(f, "whole"),
            Cut::Pieces(octets) => write!(f, "in pieces of {octets}"),
            Cut::LiteralsUnread => write!(f, "literals unread"),
        }
    }
}

pub struct Player {
    session: Session,
    cut: Cut,
    now: Duration,
    client: Leg,
    upstream: Leg,
    notices: Vec<String>,
}

/// What one peer has sent that is not yet read, and what it got that is not yet accounted for.
#[derive(Default)]
struct Leg {
    unread: VecDeque<u8>,
    end_of_file: bool,
    lost: bool,
    got: Vec<u8>,
}

const SIDES: [Side; 2] = [Side::Client, Side::Upstream];

impl Player {
    pub fn new(settings: Settings, cut: Cut) -> Player {
        Player {
            session: Session::new(settings),
            cut,
            now: Duration::ZERO,
            client: Leg::default(),
            upstream: Leg::default(),
            notices: Vec::new(),
        }
    }

    pub fn play(mut self, turns: &[Turn]) -> Result<(), String> {
        self.session.tick(self.now);
        self.drain();
        for turn in turns {
            self.nothing_more().map_err(|what| format!("{}: before this: {what}", turn.place.0))?;
            self.input(&turn.input).map_err(|what| format!("{}: {what}", turn.place.0))?;
            for expected in &turn.expected {
                self.expect(expected).map_err(|what| format!("{}: {what}", expected.place.0))?;
            }
        }
        self.nothing_more().map_err(|what| format!("at the end: {what}"))
    }

    fn input(&mut self, input: &Input) -> Result<(), String> {
        match input {
            Input::Octets(from, octets) => self.leg(*from).unread.extend(octets),
            Input::Closed(side) => self.leg(*side).end_of_file = true,
            Input::Lost(side, reason) => self.lost(*side, reason),
            Input::Secured(side) => self.session.secured(*side),
            Input::Tick(now) => self.tick(*now)?,
            Input::Drain => self.session.drain(),
            Input::Persisted(written) => self.session.persisted(*written),
            Input::Owed(unfinished) => self.session.recover(unfinished.clone()),
        }
        self.drain();
        self.read_what_is_wanted();
        Ok(())
    }

    fn lost(&mut self, side: Side, reason: &str) {
        *self.leg(side) = Leg { lost: true, ..Leg::default() };
        self.session.lost(side, reason);
    }

    /// The shell sleeps until the deadline: what a tick brings must have been announced by one.
    fn tick(&mut self, now: Duration) -> Result<(), String> {
        let deadline = self.session.deadline();
        self.now = now;
        self.session.tick(now);
        self.drain();
        let silent = self.client.got.is_empty() && self.upstream.got.is_empty();
        match silent || deadline.is_some_and(|d| d <= now) {
            true => Ok(()),
            false => Err(format!("something happened at {now:?}, but the deadline was {deadline:?}")),
        }
    }

    fn read_what_is_wanted(&mut self) {
        while SIDES.into_iter().any(|side| !self.session.is_finished() && self.read_one(side)) {}
    }

    /// Reads one piece, or the end of file, if the core wants it.
    fn read_one(&mut self, from: Side) -> bool {
        // A handshake is due: what still comes in clear was sent before it, and the core must notice (WIRE-8).
        let wanted = self.session.wants(from) || self.session.upgrade() == Some(from);
        if !wanted {
            return false;
        }
        if !self.leg(from).unread.is_empty() {
            self.piece(from);
        } else if !std::mem::take(&mut self.leg(from).end_of_file) {
            return false;
        } else {
            self.session.closed(from);
        }
        self.drain();
        true
    }

    fn piece(&mut self, from: Side) {
        let opaque = if self.cut == Cut::LiteralsUnread { self.session.opaque(from) as usize } else { 0 };
        let most = if opaque > 0 { opaque } else { self.cut.piece() };
        let leg = self.leg(from);
        let octets: Vec<u8> = leg.unread.drain(..most.min(leg.unread.len())).collect();
        self.session.tick(self.now);
        if opaque > 0 {
            self.drain();
            self.leg(from.other()).got.extend_from_slice(&octets);
            self.session.relayed(from, octets.len() as u64);
        } else {
            self.session.receive(from, &octets);
        }
    }

    /// Takes what the core wrote; a lost leg takes nothing.
    fn drain(&mut self) {
        for side in SIDES {
            let octets = self.session.output(side).split();
            if !self.leg(side).lost {
                self.leg(side).got.extend_from_slice(&octets);
            }
        }
        self.notices.extend(std::iter::from_fn(|| self.session.notice()).map(|notice| format!("{notice:?}")));
    }

    fn expect(&mut self, expected: &Expected) -> Result<(), String> {
        match &expected.what {
            What::Octets(side, octets) => self.expect_octets(*side, octets),
            What::LineWith(side, parts) => self.expect_line(*side, parts),
            What::AnythingWithout(side, text) => self.expect_anything(*side, text.as_deref()),
            What::Upgrade(side) => same("the handshake that is due", *side, self.session.upgrade()),
            What::Finished(finished) => same("finished", *finished, self.session.is_finished()),
            What::Notice(beginning) => self.expect_notice(beginning),
            What::NoNotice(beginning) => match self.notices.iter().any(|n| n.starts_with(beginning)) {
                true => Err(format!("expected no notice {beginning}")),
                false => Ok(()),
            },
        }
    }

    fn expect_octets(&mut self, side: Side, octets: &[u8]) -> Result<(), String> {
        let got = &mut self.leg(side).got;
        if !got.starts_with(octets) {
            return Err(format!(
                "expected to the {}\n      {}\n  got {}",
                name(side),
                shown(octets),
                shown(got)
            ));
        }
        got.drain(..octets.len());
        Ok(())
    }

    fn expect_line(&mut self, side: Side, parts: &[String]) -> Result<(), String> {
        let got = &mut self.leg(side).got;
        let end = memchr::memmem::find(got, b"\r\n");
        match end {
            Some(end) if holds_in_order(&got[..end], parts) => {
                got.drain(..end + 2);
                Ok(())
            }
            _ => Err(format!(
                "expected to the {}\n      {}\n  got {}",
                name(side),
                parts.join("..."),
                shown(got)
            )),
        }
    }

    fn expect_anything(&mut self, side: Side, without: Option<&str>) -> Result<(), String> {
        let got = std::mem::take(&mut self.leg(side).got);
        match without {
            Some(text) if memchr::memmem::find(&got, text.as_bytes()).is_some() => Err(format!(
                "expected to the {} anything without {text:?}\n  got {}",
                name(side),
                shown(&got)
            )),
            _ => Ok(()),
        }
    }

    fn expect_notice(&mut self, beginning: &str) -> Result<(), String> {
        match self.notices.iter().any(|notice| notice.starts_with(beginning)) {
            true => Ok(()),
            false => Err(format!("expected a notice {beginning}\n  got {:?}", self.notices)),
        }
    }

    fn nothing_more(&mut self) -> Result<(), String> {
        for side in SIDES {
            let got = &self.leg(side).got;
            if !got.is_empty() {
                return Err(format!("expected nothing more to the {}\n  got {}", name(side), shown(got)));
            }
        }
        Ok(())
    }

    fn leg(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }
}

/// Whether a line begins with the first part and holds the others behind it, in this order.
fn holds_in_order(line: &[u8], parts: &[String]) -> bool {
    let mut rest = line;
    line.starts_with(parts[0].as_bytes())
        && parts.iter().all(|part| match memchr::memmem::find(rest, part.as_bytes()) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
}

fn same<T: PartialEq + fmt::Debug>(what: &str, expected: T, got: T) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("{what}: expected {expected:?}, got {got:?}")) }
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Upstream => "upstream",
    }
}

/// Octets for people, cut where they are many.
fn shown(octets: &[u8]) -> String {
    const MOST: usize = 600;
    let cut = if octets.len() > MOST { " (cut)" } else { "" };
    format!("\"{}\"{cut}", octets[..octets.len().min(MOST)].escape_ascii())
}
