//! One connection: one task, one loop around one [`Session`]. The only place with both sockets.

mod leg;
mod pipe;
mod splice;
mod wait;

use crate::admission::{MAKE_ROOM, Place, is_out_of_descriptors};
use crate::imap::{Notice, Outcome, Session, Side, Strategy, Tls};
use crate::journal::Answer;
use crate::log;
use crate::metrics::{Metrics, outcome_name, side_name};
use crate::origin::Origin;
use crate::shared::{Phase, Shared};
use bytes::{Buf, BytesMut};
use leg::Leg;
use splice::Splice;
use std::borrow::Cow;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use wait::Wait;

/// The upstream must accept a connection within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Either side's TLS handshake must be done within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// In a drain, sessions that are idle end within this time,
const SPREAD: Duration = Duration::from_secs(3);
/// or sooner: each adds so much to it.
const EACH: Duration = Duration::from_millis(5);
/// In a drain, a client that has not logged in may still do so in this time; nor does a handshake get more.
const LAST_LOGIN: Duration = Duration::from_secs(3);
/// Octets taken by one read.
const READ_SIZE: usize = 64 * 1024;
/// The same behind a large literal: of one that follows, little is read and most is spliced.
const SMALL_READ: usize = 2 * 1024;
/// What the log says of a session that neither side broke off.
const FINISHED: &str = "finished";

thread_local! {
    /// One for all connections of a thread: what was read leaves it before the read returns.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into());
}

/// A client that has connected.
pub struct Client {
    /// Its socket, of which nothing has been read.
    pub stream: TcpStream,
    /// The name of the listener that took it.
    pub listener: &'static str,
    /// Where it comes from.
    pub origin: Origin,
    /// How the listener protects its leg.
    pub tls: Tls,
    /// What it takes up of the gateway's room.
    pub place: Place,
}

/// Serves one client to the end.
pub fn serve(shared: Arc<Shared>, client: Client) -> impl Future<Output = ()> + Send {
    let (id, address, begun) = (id(), client.origin.client, Instant::now());
    let listener = client.listener;
    // Not an argument of the future: it would keep the client's room for the connection's life.
    let opening = Box::pin(Connection::open(shared.clone(), client, id));
    async move {
        let _open = OpenConnection::new(&shared.metrics);
        let (user, ended) = match opening.await {
            Ok(mut connection) => {
                let ended = connection.run().await;
                (connection.user(), ended)
            }
            Err(reason) => (None, reason.into()),
        };
        let seconds = begun.elapsed().as_secs_f64();
        tracing::info!(conn = %Id(id), listener, user, %address, seconds, %ended, "session ended");
    }
}

/// Counts a connection as closed, also when its task panics.
struct OpenConnection<'a>(&'a Metrics);

impl OpenConnection<'_> {
    fn new(metrics: &Metrics) -> OpenConnection<'_> {
        metrics.connections_active.inc();
        OpenConnection(metrics)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.connections_active.dec();
        if std::thread::panicking() {
            self.0.panics.inc();
        }
    }
}

/// Short, random, and the same in each line that the log has about one session.
struct Id(u32);

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

fn id() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) as u32
}

/// Why the loop has stopped turning.
enum Step {
    Upgrade(Side),
    Finished,
}

struct Connection {
    shared: Arc<Shared>,
    session: Session,
    legs: [Leg; 2],
    /// By the side from which octets come.
    splices: [Splice; 2],
    place: Place,
    wait: Wait,
    /// Zero on the session's clock.
    begun: Instant,
    /// Rings no later than the session's deadline.
    alarm: Option<Pin<Box<Sleep>>>,
    /// A MOVE is counted as running.
    moving: bool,
    /// What ended it, for the log.
    ended: Cow<'static, str>,
    id: u32,
}

impl Connection {
    /// The client's handshake, if its listener begins with one, then the upstream.
    async fn open(shared: Arc<Shared>, client: Client, id: u32) -> Result<Box<Connection>, String> {
        let Client { stream, origin, tls, place, .. } = client;
        let mut leg = Leg::plain(stream);
        if tls == Tls::Implicit {
            unless_over(&shared, &place, handshake(&shared, Side::Client, &mut leg)).await?;
        }
        let attempt = async {
            let begun = Instant::now();
            let leg = connect(&shared, &place, &origin).await;
            shared.metrics.upstream_connect_duration.observe(begun.elapsed().as_secs_f64());
            shared.metrics.tried(&shared.metrics.upstream_connects, &[], &leg);
            leg
        };
        let upstream = unless_over(&shared, &place, attempt).await;
        let mut settings = shared.current().config.session(tls);
        settings.introduction = shared.current().config.forward_client_id.then(|| origin.id());
        settings.advertise_before_login &= shared.strategy() == Some(Strategy::Copy);
        let mut connection = Box::new(Connection {
            session: Session::new(settings),
            legs: [leg, Leg::gone()],
            splices: Default::default(),
            place,
            wait: Wait::new(&shared),
            begun: Instant::now(),
            alarm: None,
            moving: false,
            ended: FINISHED.into(),
            id,
            shared,
        });
        match upstream {
            Ok(leg) => connection.legs[Side::Upstream as usize] = leg,
            Err(reason) => connection.lost(Side::Upstream, reason),
        }
        Ok(connection)
    }

    /// Until the session is finished and both legs are closed. Says what ended it.
    async fn run(&mut self) -> Cow<'static, str> {
        let mut phase = self.shared.phase.subscribe();
        let leave = self.place.leave();
        let mut retires = self.enter(*phase.borrow_and_update());
        loop {
            let step = tokio::select! {
                biased;
                step = poll_fn(|cx| self.turn(cx)) => step,
                Ok(()) = phase.changed() => {
                    retires = self.enter(*phase.borrow_and_update());
                    continue;
                }
                () = due(&mut retires) => {
                    retires = None;
                    self.session.drain();
                    continue;
                }
                () = leave.notified() => {
                    // Who has logged in meanwhile stays.
                    if !self.session.is_authenticated() {
                        self.lost(Side::Upstream, MAKE_ROOM);
                    }
                    continue;
                }
            };
            match step {
                Step::Upgrade(side) => Box::pin(self.upgrade(side)).await,
                Step::Finished => break,
            }
        }
        // What is unfinished is another session's from here on.
        self.wait = Wait::new(&self.shared);
        Box::pin(self.farewell()).await;
        std::mem::take(&mut self.ended)
    }

    /// Takes part in what the whole process does. In a drain, says when it is this session's turn.
    fn enter(&mut self, phase: Phase) -> Option<Pin<Box<Sleep>>> {
        match phase {
            Phase::Running | Phase::Retiring => return None,
            Phase::Draining => return Some(Box::pin(sleep(self.retires_in()))),
            Phase::Stopping => self.lost(Side::Upstream, "The gateway had to stop before the session ended"),
        }
        None
    }

    /// Not all at once: they come back at once, to another gateway.
    fn retires_in(&self) -> Duration {
        if !self.session.is_authenticated() {
            return LAST_LOGIN;
        }
        let sessions = u32::try_from(self.shared.metrics.connections_active.get()).unwrap_or_default();
        let spread = SPREAD.min(EACH.saturating_mul(sessions));
        spread.mul_f64(f64::from(id()) / f64::from(u32::MAX))
    }

    /// All that can be done now.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            self.session.tick(self.begun.elapsed());
            let read = self.read(cx, Side::Upstream) | self.read(cx, Side::Client);
            // Room in one leg can make the other's octets welcome again, and nothing else would wake us for them.
            let wrote = self.write(cx, Side::Client) | self.write(cx, Side::Upstream);
            self.report();
            let told = self.hear(cx);
            if let Some(step) = self.step() {
                return Poll::Ready(step);
            }
            if !read && !wrote && !told && self.sleep(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn step(&mut self) -> Option<Step> {
        let deaf = self.legs.iter().all(|leg| leg.ended);
        if self.session.is_finished() || deaf {
            return Some(Step::Finished);
        }
        let side = self.session.upgrade()?;
        let written = self.session.output(side).is_empty() && !self.legs[side as usize].unflushed;
        written.then_some(Step::Upgrade(side))
    }

    /// One read from a leg, if its octets are welcome. Says whether there may be more to do.
    fn read(&mut self, cx: &mut Context<'_>, from: Side) -> bool {
        // What comes after the word that announces a handshake is the handshake's (WIRE-8).
        if self.legs[from as usize].ended || !self.session.wants(from) || self.session.upgrade() == Some(from)
        {
            return false;
        }
        if let Some(more) = self.splice_in(cx, from) {
            return more;
        }
        let most = if self.splices[from as usize].large { SMALL_READ } else { READ_SIZE };
        SCRATCH.with_borrow_mut(|scratch| {
            match self.legs[from as usize].poll_read(cx, &mut scratch[..most]) {
                Poll::Pending => false,
                Poll::Ready(Ok(0)) => {
                    self.closed(from);
                    true
                }
                Poll::Ready(Ok(octets)) => {
                    self.shared.metrics.bytes[from as usize].read.inc_by(octets as u64);
                    let through = self.session.receive_through(from, &scratch[..octets]);
                    self.write_through(cx, from.other(), &scratch[..through]);
                    // A read that was full has found no large literal, or it is spliced now.
                    self.splices[from as usize].large &= octets < most;
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.broken(from, &error);
                    true
                }
            }
        })
    }

    /// Writes octets as they were read, and behind them what the session adds. What is not taken waits in the output.
    fn write_through(&mut self, cx: &mut Context<'_>, to: Side, octets: &[u8]) {
        if octets.is_empty() {
            return;
        }
        self.session.under_way(to, 0);
        let output = self.session.output(to);
        let written = match self.legs[to as usize].poll_write_both(cx, octets, output) {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(error)) => return self.broken(to, &error),
            Poll::Pending => 0,
        };
        match octets.get(written..) {
            Some(rest) => {
                let behind = std::mem::replace(output, BytesMut::from(rest));
                output.unsplit(behind);
            }
            None => output.advance(written - octets.len()),
        }
        self.shared.metrics.bytes[to as usize].written.inc_by(written as u64);
    }

    /// Writes what a leg takes now, then flushes it: TLS answers Ok while records still wait. Says whether there was
    /// anything that it took.
    fn write(&mut self, cx: &mut Context<'_>, to: Side) -> bool {
        let (spliced, gone) = self.splice_out(cx, to);
        let (output, leg) = (self.session.output(to), &mut self.legs[to as usize]);
        let before = output.len();
        let all = match gone {
            Poll::Ready(Ok(())) => leg.poll_write_all(cx, output),
            waits => waits,
        };
        match all {
            Poll::Ready(Err(error)) => self.broken(to, &error),
            // An idle connection holds no buffer.
            Poll::Ready(Ok(())) => *output = BytesMut::new(),
            Poll::Pending => {}
        }
        let written = spliced + before.saturating_sub(self.session.output(to).len());
        self.shared.metrics.bytes[to as usize].written.inc_by(written as u64);
        written > 0
    }

    /// Passes on what the session has to tell.
    fn report(&mut self) {
        if self.session.is_authenticated() {
            self.place.log_in();
        }
        while let Some(notice) = self.session.notice() {
            self.shared.metrics.count(&notice);
            match notice {
                Notice::Strategy(strategy) => self.shared.learn(strategy),
                Notice::MoveStarted => self.moving = true,
                Notice::MoveEnded { outcome, moved, left_behind, took, .. } => {
                    self.moving = false;
                    // What an upstream has left is in the journal still.
                    self.wait.ended(left_behind > 0 && outcome != Outcome::UpstreamLost);
                    if outcome != Outcome::Moved {
                        let (outcome, seconds) = (outcome_name(outcome), took.as_secs_f64());
                        let (conn, user) = (Id(self.id), self.user());
                        tracing::info!(%conn, user, outcome, moved, left_behind, seconds, "MOVE not done");
                    }
                }
                Notice::Journal(record) => self.wait.record(record),
                Notice::Owes(owner) => self.wait.ask(owner),
                Notice::Recovered { id, result, messages } => {
                    let (conn, user) = (Id(self.id), self.user());
                    tracing::info!(%conn, user, ?result, removed = messages, "a MOVE that was cut short, taken up again");
                    self.wait.recovered(id, result);
                }
                Notice::NotIntroduced => self.shared.introduction_failed(),
                Notice::Ended { reason } => self.note(reason.into()),
                Notice::ProtocolError { side, breach } => {
                    tracing::debug!(conn = %Id(self.id), side = side_name(side), kind = breach.name(), "protocol error");
                }
                _ => {}
            }
        }
    }

    /// Passes on what the session has waited for. Says whether there was anything.
    fn hear(&mut self, cx: &mut Context<'_>) -> bool {
        match self.wait.poll(cx) {
            Poll::Ready(Answer::Persisted { written }) => self.session.persisted(written),
            Poll::Ready(Answer::Unfinished(moves)) => self.session.recover(moves),
            Poll::Pending => return false,
        }
        true
    }

    /// Ready when the session's deadline is reached. A deadline that moves away, as most do, leaves the alarm
    /// alone: it rings early and is set again.
    fn sleep(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.session.deadline().and_then(|d| self.begun.checked_add(d)) else {
            return Poll::Pending;
        };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if at < alarm.deadline() {
            alarm.as_mut().reset(at);
        }
        loop {
            ready!(alarm.as_mut().poll(cx));
            if at <= alarm.deadline() {
                self.alarm = None;
                return Poll::Ready(());
            }
            alarm.as_mut().reset(at);
        }
    }

    fn closed(&mut self, side: Side) {
        self.legs[side as usize].ended = true;
        self.note(format!("{} closed", side_name(side)).into());
        self.session.closed(side);
    }

    fn broken(&mut self, side: Side, error: &io::Error) {
        let whose = match side {
            Side::Client => "client",
            Side::Upstream => "upstream server",
        };
        self.lost(side, format!("The connection to the {whose} broke: {}", error.kind()));
    }

    fn lost(&mut self, side: Side, reason: impl Into<Cow<'static, str>>) {
        let reason = reason.into();
        self.legs[side as usize] = Leg::gone();
        self.session.lost(side, &reason);
        self.note(reason);
    }

    /// Who has logged in, as the log names him.
    fn user(&self) -> Option<String> {
        log::user(self.session.user()?)
    }

    /// The first cause is the one to log.
    fn note(&mut self, cause: Cow<'static, str>) {
        if self.ended == FINISHED {
            self.ended = cause;
        }
    }

    async fn upgrade(&mut self, side: Side) {
        let handshake = handshake(&self.shared, side, &mut self.legs[side as usize]);
        match unless_over(&self.shared, &self.place, handshake).await {
            Ok(()) => self.session.secured(side),
            Err(reason) => self.lost(side, reason),
        }
    }

    async fn farewell(&mut self) {
        let [to_client, to_upstream] = [Side::Client, Side::Upstream].map(|to| {
            let mut rest = BytesMut::from(&self.splices[to.other() as usize].take()[..]);
            rest.unsplit(self.session.output(to).split());
            rest
        });
        let [client, upstream] = &mut self.legs;
        tokio::join!(client.farewell(to_client), upstream.farewell(to_upstream));
    }
}

impl Drop for Connection {
    /// A task that panics, or is cut, in the middle of a MOVE.
    fn drop(&mut self) {
        if self.moving {
            self.shared.metrics.moves_in_flight.dec();
        }
    }
}

/// Ready when a time has come, if one is set.
async fn due(time: &mut Option<Pin<Box<Sleep>>>) {
    match time {
        Some(time) => time.await,
        None => std::future::pending().await,
    }
}

/// What is awaited outside the loop: its result, or why it was abandoned. In a drain it has no longer than a login.
async fn unless_over<T>(
    shared: &Shared,
    place: &Place,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let mut phase = shared.phase.subscribe();
    let over = async {
        let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
        let _ = timeout(LAST_LOGIN, phase.wait_for(|phase| *phase >= Phase::Stopping)).await;
    };
    tokio::select! {
        done = place.unless_it_must_leave(work) => done,
        () = over => Err("The gateway is shutting down".to_string()),
    }
}

/// The upstream leg, ready for the session.
async fn connect(shared: &Shared, place: &Place, origin: &Origin) -> Result<Leg, String> {
    let current = shared.current();
    let upstream = &current.config.upstream;
    let mut stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((upstream.host.as_str(), upstream.port)))
        .await
        .map_err(|_| {
            format!("The upstream server took no connection within {} s", CONNECT_TIMEOUT.as_secs())
        })?
        .map_err(|error| match is_out_of_descriptors(&error) {
            true => place.without_descriptors(),
            false => format!("The upstream server cannot be reached: {error}"),
        })?;
    let header = origin.header(current.config.upstream_proxy_protocol);
    let announced = stream.write_all(&header).await;
    announced.map_err(|error| format!("The upstream server closed the connection at once: {error}"))?;
    let mut leg = Leg::plain(stream);
    if current.config.upstream_tls() == Tls::Implicit {
        handshake(shared, Side::Upstream, &mut leg).await?;
    }
    Ok(leg)
}

/// Puts TLS on a leg of which nothing has been read since the handshake was announced.
async fn handshake(shared: &Shared, side: Side, leg: &mut Leg) -> Result<(), String> {
    let stream = leg.take_plain().ok_or("a handshake was due on a leg that is not in clear")?;
    let current = shared.current();
    let attempt = async {
        match (side, &current.acceptor, &current.connector) {
            (Side::Client, Some(acceptor), _) => acceptor.accept(stream).await,
            (Side::Upstream, _, Some(connector)) => connector.connect(stream).await,
            _ => Err(format!("no TLS is set up for the {} side", side_name(side))),
        }
    };
    let late = || format!("TLS handshake on the {} side took over {HANDSHAKE_TIMEOUT:?}", side_name(side));
    let done = timeout(HANDSHAKE_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(late()));
    shared.metrics.tried(&shared.metrics.tls_handshakes, &[side_name(side)], &done);
    *leg = Leg::tls(done?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fault_5_a_panic_ends_its_own_session_and_is_counted() {
        let metrics: Arc<Metrics> = Arc::default();
        let session = |fails: bool| {
            let metrics = metrics.clone();
            tokio::spawn(async move {
                let _open = OpenConnection::new(&metrics);
                tokio::task::yield_now().await;
                assert!(!fails, "a bug in one session");
            })
        };
        let (failing, sound) = (session(true), session(false));
        assert!(failing.await.is_err_and(|error| error.is_panic()));
        assert!(sound.await.is_ok());
        assert_eq!((metrics.connections_active.get(), metrics.panics.get()), (0, 1));
    }
}
