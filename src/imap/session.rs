use super::{Notice, Settings, Side};
use bytes::BytesMut;
use std::time::Duration;

/// One client and one server: whose turn it is, what is in flight, what is held.
///
/// The shell that owns the sockets feeds it and drains it:
///
/// 1. [`tick`](Session::tick) with the time since the session began, before every batch of events, and again
///    when [`deadline`](Session::deadline) is reached;
/// 2. read from a leg only while [`wants`](Session::wants) says so, and hand the octets to
///    [`receive`](Session::receive); while [`opaque`](Session::opaque) is not 0 and nothing waits in the other leg's
///    [`output`](Session::output), that many octets may instead be moved across unread and reported with
///    [`relayed`](Session::relayed);
/// 3. write what [`output`](Session::output) holds and drain what was written;
/// 4. when [`upgrade`](Session::upgrade) names a leg and its output is written and flushed, do the TLS handshake there
///    and call [`secured`](Session::secured);
/// 5. report an end of file with [`closed`](Session::closed), anything worse with [`lost`](Session::lost);
/// 6. when [`is_finished`](Session::is_finished): write what is left, then close both legs.
#[derive(Debug)]
pub struct Session {
    out: [BytesMut; 2],
    settings: Settings,
}

impl Session {
    /// A session whose upstream has not greeted yet.
    pub fn new(settings: Settings) -> Session {
        Session { out: Default::default(), settings }
    }

    /// Takes octets that were read from a leg and advances as far as it can.
    pub fn receive(&mut self, from: Side, bytes: &[u8]) {
        self.output(from.other()).extend_from_slice(bytes);
    }

    /// The leg's peer will send nothing more (end of file). It may still read.
    pub fn closed(&mut self, _side: Side) {}

    /// The leg is no more: reset, unreachable, failed handshake, failed write. `reason` is for the other
    /// side's eyes: whose side it is, what was expected and what to do, in one line without CR or LF.
    pub fn lost(&mut self, _side: Side, _reason: &str) {}

    /// What is to be written to a leg. The shell drains what it has written.
    pub fn output(&mut self, to: Side) -> &mut BytesMut {
        &mut self.out[to as usize]
    }

    /// Whether octets from this leg are welcome now (back-pressure; a held client).
    pub fn wants(&self, _from: Side) -> bool {
        true
    }

    /// How many octets of a literal, next to be read from this leg, may pass to the other unread.
    pub fn opaque(&self, _from: Side) -> u64 {
        0
    }

    /// The shell has moved `octets` of the [`opaque`](Session::opaque) ones across itself.
    pub fn relayed(&mut self, _from: Side, _octets: u64) {}

    /// The leg on which a TLS handshake is due, once its output is written and flushed.
    pub fn upgrade(&self) -> Option<Side> {
        None
    }

    /// The handshake that [`upgrade`](Session::upgrade) asked for is done.
    pub fn secured(&mut self, _side: Side) {}

    /// The time since the session began: for deadlines and keep-alives.
    pub fn tick(&mut self, _now: Duration) {}

    /// When, on the clock of [`tick`](Session::tick), the session must be ticked next.
    pub fn deadline(&self) -> Option<Duration> {
        None
    }

    /// The gateway is shutting down: finish what runs, then `* BYE`.
    pub fn drain(&mut self) {}

    /// Takes the next thing that happened.
    pub fn notice(&mut self) -> Option<Notice> {
        None
    }

    /// Nothing more is to be read; what is left in the outputs is still to be written, then both legs close.
    pub fn is_finished(&self) -> bool {
        let _ = &self.settings;
        false
    }
}
