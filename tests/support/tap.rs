//! A relay between the gateway and a server that keeps every octet, with its direction and in order, and can stop them
//! or break the connection.

use crate::client::PATIENCE;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// How long a slow server takes for an octet.
const OCTET: Duration = Duration::from_millis(300);

/// Which way octets went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the gateway to the server.
    ToServer,
    /// From the server to the gateway.
    ToGateway,
}

/// A line at which octets can be stopped: it, and what follows it in the same direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A command that begins so, in upper case. The server does not get it.
    Command(&'static str),
    /// The tagged reply to such a command. The gateway does not get it.
    Reply(&'static str),
    /// The removal of a message, when so many have reached the gateway.
    Removal(usize),
}

/// Pairs of words of the same length.
pub type Words = &'static [(&'static str, &'static str)];

/// A relay. Its threads end with the connections they serve.
pub struct Tap {
    /// Where the gateway finds the server.
    pub address: SocketAddr,
    state: Arc<Watched<State>>,
}

/// A value and the news that it has changed.
#[derive(Default)]
struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    connections: Vec<Record>,
    /// Once these octets went to the server, its answers are held.
    trigger: Option<Vec<u8>>,
    held: bool,
    /// What the gateway gets to see in place of what the server says.
    words: Words,
}

/// What one connection carried: pieces as they were read, in order.
#[derive(Default)]
struct Record {
    pieces: Vec<(Way, Vec<u8>)>,
    /// How many of the two directions have ended.
    ended: usize,
    /// Both sockets, until both directions have ended.
    sockets: Vec<TcpStream>,
    /// Where octets are stopped. As long as there is one, they pass line by line.
    stops: Vec<Point>,
    reached: Vec<Point>,
    /// What is stopped goes nowhere any more.
    broken: bool,
    /// The server does not hear that the gateway has gone.
    silent: bool,
    /// Its answers come octet by octet.
    slow: bool,
    /// Since something is to be stopped: commands that have reached the server, with their tags; those of them whose
    /// replies have reached the gateway; and removals that have.
    asked: Vec<(String, String)>,
    answered: Vec<String>,
    removals: usize,
}

impl Record {
    /// Where this line is to be stopped.
    fn stop(&self, way: Way, line: &str) -> Option<Point> {
        let (tag, command) = split(line);
        let is_here = |point: &&Point| match (way, **point) {
            (Way::ToServer, Point::Command(start)) => command.starts_with(start),
            (Way::ToGateway, Point::Reply(start)) => {
                self.asked.iter().any(|(of, asked)| of == tag && asked.starts_with(start))
            }
            (Way::ToGateway, Point::Removal(count)) => is_removal(line) && self.removals >= count,
            _ => false,
        };
        self.stops.iter().find(is_here).copied()
    }

    fn passed(&mut self, way: Way, line: &str) {
        let (tag, command) = split(line);
        match way {
            Way::ToServer => self.asked.push((tag.to_owned(), command.to_owned())),
            Way::ToGateway => {
                self.removals += usize::from(is_removal(line));
                let asked = self.asked.iter().find(|(of, _)| of == tag);
                self.answered.extend(asked.map(|(_, command)| command.clone()));
            }
        }
    }

    /// Lets everything pass.
    fn stop_nothing(&mut self) {
        (self.asked, self.answered, self.removals) = (Vec::new(), Vec::new(), 0);
        (self.stops, self.reached, self.silent) = (Vec::new(), Vec::new(), false);
    }
}

/// A tag and what follows it.
fn split(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or_default()
}

fn is_removal(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    matches!(words[..], ["*", number, "EXPUNGE"] if number.parse::<u32>().is_ok())
}

impl<T> Watched<T> {
    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().expect("no thread panics while it holds this")
    }

    /// Waits until the value is as it should be.
    fn wait(&self, what: &str, mut ready: impl FnMut(&T) -> bool) -> MutexGuard<'_, T> {
        let waited = self.changed.wait_timeout_while(self.lock(), PATIENCE, |value| !ready(value));
        let (value, timeout) = waited.expect("no thread panics while it holds this");
        if timeout.timed_out() {
            drop(value);
            panic!("waited {PATIENCE:?} for {what}");
        }
        value
    }

    fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }
}

impl Tap {
    /// Starts a relay to `server`.
    pub fn start(server: SocketAddr) -> Tap {
        Tap::start_hiding(server, &[])
    }

    /// [`start`](Tap::start), and where the server says the first word of a pair the gateway gets the second. That is
    /// also what is kept.
    pub fn start_hiding(server: SocketAddr, words: Words) -> Tap {
        assert!(
            words.iter().all(|(word, other)| word.len() == other.len()),
            "or literals change their length"
        );
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the kernel's choice");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::<Watched<State>>::default();
        state.change(|state| state.words = words);
        let theirs = Arc::clone(&state);
        thread::spawn(move || accept(&listener, server, &theirs));
        Tap { address, state }
    }

    /// The connection that was opened last.
    pub fn latest(&self) -> Conversation {
        let index = self.state.lock().connections.len().checked_sub(1).expect("a connection");
        Conversation { state: Arc::clone(&self.state), index, from: 0 }
    }

    /// All connections, each from its beginning.
    pub fn conversations(&self) -> Vec<Conversation> {
        let conversation = |index| Conversation { state: Arc::clone(&self.state), index, from: 0 };
        (0..self.state.lock().connections.len()).map(conversation).collect()
    }

    /// The commands of all connections: see [`Conversation::commands`].
    pub fn commands(&self) -> Vec<String> {
        self.conversations().iter().flat_map(Conversation::commands).collect()
    }

    /// From the moment these octets go to the server, in one piece, its answers are held.
    pub fn hold_after(&self, octets: &str) {
        self.state.change(|state| state.trigger = Some(octets.as_bytes().to_vec()));
    }

    /// Waits until answers are held.
    pub fn wait_until_held(&self) {
        drop(self.state.wait("the octets after which to hold", |state| state.held));
    }

    /// Lets everything pass.
    pub fn release(&self) {
        self.state.change(|state| {
            (state.held, state.trigger) = (false, None);
            state.connections.iter_mut().for_each(Record::stop_nothing);
        });
    }

    /// What was stopped is lost.
    pub fn drop_stopped(&self) {
        self.state.change(|state| state.connections.iter_mut().for_each(|record| record.broken = true));
    }

    /// Ends all connections with a RST, on both sides; what was stopped is lost.
    pub fn reset(&self) {
        self.state.change(|state| {
            for record in &mut state.connections {
                record.broken = true;
                for socket in std::mem::take(&mut record.sockets) {
                    // Its last handle will end it so, and that is one of a thread's, which wakes up by this.
                    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket option");
                    let _ = socket.shutdown(Shutdown::Read);
                }
            }
        });
    }
}

/// What one connection carried, from some moment on.
pub struct Conversation {
    state: Arc<Watched<State>>,
    index: usize,
    from: usize,
}

impl Conversation {
    /// Forgets what came so far.
    pub fn restart(&mut self) {
        self.from = self.state.lock().connections[self.index].pieces.len();
    }

    /// The octets that went one way.
    pub fn octets(&self, way: Way) -> Vec<u8> {
        self.pieces().into_iter().filter(|(w, _)| *w == way).flat_map(|(_, piece)| piece).collect()
    }

    /// How often the server was asked and then answered: round trips, counted on the wire.
    pub fn round_trips(&self) -> usize {
        let ways: Vec<Way> = self.pieces().iter().map(|(way, _)| *way).collect();
        let turned = |i: usize| i == 0 || ways[i - 1] == Way::ToGateway;
        (0..ways.len()).filter(|i| ways[*i] == Way::ToServer && turned(*i)).count()
    }

    /// The command lines that reached the server, without literals, tags and CRLF, in upper case.
    pub fn commands(&self) -> Vec<String> {
        let octets = self.octets(Way::ToServer);
        let mut rest = &octets[..];
        let mut commands = Vec::new();
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let line = String::from_utf8_lossy(&rest[..end]).to_uppercase();
            rest = &rest[end + 2..];
            rest = &rest[literal(&line).min(rest.len())..];
            commands.extend(line.split_once(' ').map(|(_tag, command)| command.to_owned()));
        }
        commands
    }

    /// Whether a command that begins with this (in upper case) reached the server.
    pub fn has_command(&self, start: &str) -> bool {
        self.commands().iter().any(|command| command.starts_with(start))
    }

    /// Waits until both directions have ended.
    pub fn wait_until_over(&self) {
        let over = |state: &State| state.connections[self.index].ended == 2;
        drop(self.state.wait("the end of the connection to the server", over));
    }

    /// From now on what reaches one of these points is stopped there.
    pub fn stop_at(&self, points: &[Point]) {
        self.state.change(|state| {
            let record = &mut state.connections[self.index];
            record.stop_nothing();
            record.stops = points.to_vec();
        });
    }

    /// From now on the server does not hear that the gateway has gone, until [`Tap::release`].
    pub fn keep_silent(&self) {
        self.state.change(|state| state.connections[self.index].silent = true);
    }

    /// From now on the server's answers come octet by octet, a few in a second.
    pub fn slow_down(&self) {
        self.state.change(|state| state.connections[self.index].slow = true);
    }

    /// Waits until octets have been stopped at all of these points.
    pub fn wait_until_stopped(&self, points: &[Point]) {
        let reached = |state: &State| {
            let record = &state.connections[self.index];
            points.iter().all(|point| record.reached.contains(point))
        };
        drop(self.state.wait(&format!("{points:?}"), reached));
    }

    /// Waits until the tagged reply to a command that begins so has reached the gateway.
    pub fn wait_for_reply(&self, start: &str) {
        let has_it = |state: &State| {
            let record = &state.connections[self.index];
            record.answered.iter().any(|command| command.starts_with(start))
        };
        drop(self.state.wait(&format!("the reply to {start}"), has_it));
    }

    /// Both directions as text, for a failure.
    pub fn transcript(&self) -> String {
        let text = |piece: &[u8]| String::from_utf8_lossy(piece).escape_debug().to_string();
        let lines = self.pieces().into_iter().map(|(way, piece)| format!("{way:?}: {}", text(&piece)));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn pieces(&self) -> Vec<(Way, Vec<u8>)> {
        self.state.lock().connections[self.index].pieces[self.from..].to_vec()
    }
}

/// How many octets of literal follow a command line.
fn literal(line: &str) -> usize {
    let Some(inner) = line.strip_suffix('}') else { return 0 };
    let Some((_, digits)) = inner.rsplit_once('{') else { return 0 };
    digits.trim_end_matches('+').parse().unwrap_or(0)
}

fn accept(listener: &TcpListener, server: SocketAddr, state: &Arc<Watched<State>>) {
    for gateway in listener.incoming().flatten() {
        let Ok(server) = TcpStream::connect(server) else { continue };
        let sockets = vec![second(&gateway), second(&server)];
        let index = state.change(|state| {
            state.connections.push(Record { sockets, ..Record::default() });
            state.connections.len() - 1
        });
        relay(&gateway, &server, Way::ToServer, index, state);
        relay(&server, &gateway, Way::ToGateway, index, state);
    }
}

fn second(socket: &TcpStream) -> TcpStream {
    socket.try_clone().expect("a second handle of a socket")
}

/// Copies one direction on a thread of its own.
fn relay(from: &TcpStream, to: &TcpStream, way: Way, index: usize, state: &Arc<Watched<State>>) {
    let (mut from, mut to) = (second(from), second(to));
    let _ = to.set_nodelay(true);
    let state = Arc::clone(state);
    thread::spawn(move || {
        copy(&mut from, &mut to, way, index, &state);
        if way == Way::ToServer {
            drop(state.wait("the server to be told of the end", |state| !state.connections[index].silent));
        }
        state.change(|state| {
            let record = &mut state.connections[index];
            record.ended += 1;
            if !record.sockets.is_empty() {
                // Else there will be a RST, when the other direction has ended too.
                let _ = to.shutdown(Shutdown::Write);
            }
            if record.ended == 2 {
                record.sockets.clear();
            }
        });
    });
}

fn copy(from: &mut TcpStream, to: &mut TcpStream, way: Way, index: usize, state: &Watched<State>) {
    let mut piece = vec![0; 1 << 16];
    let mut waiting = Vec::new();
    while let Ok(octets @ 1..) = from.read(&mut piece) {
        waiting.extend_from_slice(&piece[..octets]);
        loop {
            let part = match take(&mut waiting, way, index, state) {
                Some(part) if part.is_empty() => break,
                Some(part) => part,
                None => return,
            };
            let slow = way == Way::ToGateway && state.lock().connections[index].slow;
            for part in part.chunks(if slow { 1 } else { part.len() }) {
                thread::sleep(if slow { OCTET } else { Duration::ZERO });
                pass(part, way, index, state);
                if to.write_all(part).is_err() {
                    return;
                }
            }
        }
    }
}

/// Takes what may go on, up to the next line that is to be stopped; with that one it waits. None if it is lost.
fn take(waiting: &mut Vec<u8>, way: Way, index: usize, state: &Watched<State>) -> Option<Vec<u8>> {
    let mut now = state.lock();
    let mut end = 0;
    while !now.connections[index].stops.is_empty()
        && let Some(length) = waiting[end..].iter().position(|octet| *octet == b'\n')
    {
        let line = String::from_utf8_lossy(&waiting[end..end + length]).to_uppercase();
        match now.connections[index].stop(way, &line) {
            Some(_) if end > 0 => break,
            Some(point) => {
                now.connections[index].reached.push(point);
                state.changed.notify_all();
                drop(now);
                now = state.wait("a line that was stopped to be let go", |state| {
                    !state.connections[index].stops.contains(&point) || state.connections[index].broken
                });
                if now.connections[index].broken {
                    break;
                }
            }
            None => {
                now.connections[index].passed(way, &line);
                end += length + 1;
            }
        }
    }
    let words: Words = if way == Way::ToGateway { now.words } else { &[] };
    let record = &now.connections[index];
    if record.stops.is_empty() {
        // A line that has not ended could still come to hold a word.
        let last = waiting.iter().rposition(|octet| *octet == b'\n' || words.is_empty());
        end = last.map_or(0, |last| last + 1);
    }
    (!record.broken).then(|| hide(waiting.drain(..end).collect(), words))
}

fn hide(mut octets: Vec<u8>, words: Words) -> Vec<u8> {
    for (word, other) in words {
        while let Some(at) = octets.windows(word.len()).position(|window| window == word.as_bytes()) {
            octets[at..at + word.len()].copy_from_slice(other.as_bytes());
        }
    }
    octets
}

/// Notes a piece before it is passed on, so that no answer is noted before its question, and holds what is to be held.
fn pass(piece: &[u8], way: Way, index: usize, state: &Watched<State>) {
    if way == Way::ToGateway {
        drop(state.wait("a held answer to be released", |state| !state.held));
    }
    state.change(|state| {
        let trigger = state.trigger.as_deref().filter(|_| way == Way::ToServer);
        state.held |=
            trigger.is_some_and(|octets| piece.windows(octets.len()).any(|window| window == octets));
        state.connections[index].pieces.push((way, piece.to_vec()));
    });
}
