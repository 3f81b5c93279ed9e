//! A captured conversation: everything that went over both legs, and what really happened in the store, in order.
#![allow(dead_code)] // each test binary uses its own part

use super::store::Fact;
use std::fmt;

/// Which way octets went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The client sent them, the gateway read them.
    FromClient,
    ToClient,
    FromServer,
    ToServer,
}

impl Way {
    fn sign(self) -> &'static str {
        match self {
            Way::FromClient => "C>",
            Way::ToClient => ">C",
            Way::FromServer => "S>",
            Way::ToServer => ">S",
        }
    }
}

/// A MOVE that the client sent, and what it may come to.
#[derive(Clone, Debug)]
pub struct Asked {
    pub tag: Vec<u8>,
    /// The mailbox that is selected.
    pub source: usize,
    pub target: usize,
    /// UIDs that existed and that the client knew of when it asked: after OK they are gone.
    pub required: Vec<u32>,
    /// UIDs that may be touched at all.
    pub allowed: Vec<(u32, u32)>,
    pub expect: Expect,
}

/// What may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// OK, unless something goes wrong on the way.
    Ok,
    /// NO, unless there is nothing to move.
    No,
    /// BAD, and nothing goes upstream.
    Bad,
}

#[derive(Clone, Debug)]
pub enum Event {
    Wire(Way, Vec<u8>),
    Fact(Fact),
    Asked(Asked),
    /// What the gateway is told, or tells: a lost leg, a drain, its end.
    Note(String),
    /// The client has gone.
    ClientGone,
    /// The client sends nothing more, but still reads.
    ClientEof,
    /// The upstream connection has gone.
    ServerGone,
    /// The gateway was told to shut down.
    Drained,
    /// The run is over: what the upstream session's view holds, if it still has a mailbox selected.
    End {
        view: Option<Vec<u32>>,
    },
}

#[derive(Clone, Debug, Default)]
pub struct Capture(pub Vec<Event>);

impl Capture {
    /// Adds octets; those that continue the last event's are joined to them (order within one way is all that matters then).
    pub fn wire(&mut self, way: Way, octets: &[u8]) {
        match self.0.last_mut() {
            _ if octets.is_empty() => {}
            Some(Event::Wire(last, before)) if *last == way => before.extend_from_slice(octets),
            _ => self.0.push(Event::Wire(way, octets.to_vec())),
        }
    }
}

impl fmt::Display for Capture {
    /// A line is shown where its last octet passed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut begun: [Vec<u8>; 4] = Default::default();
        for event in &self.0 {
            match event {
                Event::Wire(way, octets) => {
                    for part in octets.split_inclusive(|&b| b == b'\n') {
                        let line = &mut begun[*way as usize];
                        line.extend_from_slice(part);
                        if line.ends_with(b"\n") {
                            writeln!(f, "{} {}", way.sign(), line.escape_ascii())?;
                            line.clear();
                        }
                    }
                }
                Event::Fact(fact) => writeln!(f, "   # {fact:?}")?,
                other => writeln!(f, "   # {other:?}")?,
            }
        }
        for way in [Way::FromClient, Way::ToClient, Way::FromServer, Way::ToServer] {
            let rest = &begun[way as usize];
            if !rest.is_empty() {
                writeln!(f, "{} {} (no line end)", way.sign(), rest.escape_ascii())?;
            }
        }
        Ok(())
    }
}
