//! A relay between the gateway and a server that keeps every octet, with its direction and in order.

use crate::client::PATIENCE;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// Which way octets went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the gateway to the server.
    ToServer,
    /// From the server to the gateway.
    ToGateway,
}

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
}

/// What one connection carried: pieces as they were read, in order.
#[derive(Default)]
struct Record {
    pieces: Vec<(Way, Vec<u8>)>,
    /// How many of the two directions have ended.
    ended: usize,
}

impl<T> Watched<T> {
    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().expect("no thread panics while it holds this")
    }

    /// Waits until the value is as it should be.
    fn wait(&self, what: &str, mut ready: impl FnMut(&T) -> bool) -> MutexGuard<'_, T> {
        let waited = self.changed.wait_timeout_while(self.lock(), PATIENCE, |value| !ready(value));
        let (value, timeout) = waited.expect("no thread panics while it holds this");
        assert!(!timeout.timed_out(), "waited {PATIENCE:?} for {what}");
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
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the kernel's choice");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Arc::<Watched<State>>::default();
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

    /// Lets held answers pass.
    pub fn release(&self) {
        self.state.change(|state| (state.held, state.trigger) = (false, None));
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
        let index = state.change(|state| {
            state.connections.push(Record::default());
            state.connections.len() - 1
        });
        relay(&gateway, &server, Way::ToServer, index, state);
        relay(&server, &gateway, Way::ToGateway, index, state);
    }
}

/// Copies one direction on a thread of its own.
fn relay(from: &TcpStream, to: &TcpStream, way: Way, index: usize, state: &Arc<Watched<State>>) {
    let mut from = from.try_clone().expect("a second handle of a socket");
    let mut to = to.try_clone().expect("a second handle of a socket");
    let _ = to.set_nodelay(true);
    let state = Arc::clone(state);
    thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        while let Ok(octets @ 1..) = from.read(&mut piece) {
            pass(&piece[..octets], way, index, &state);
            if to.write_all(&piece[..octets]).is_err() {
                break;
            }
        }
        state.change(|state| state.connections[index].ended += 1);
        let _ = to.shutdown(Shutdown::Write);
    });
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
