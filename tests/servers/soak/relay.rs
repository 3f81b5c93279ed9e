//! A relay between the gateway and a server that breaks connections, at once or at a chosen place in what they carry.

use crate::client::PATIENCE;
use crate::server::POLL;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// How a connection ends, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// RST to both.
    Reset,
    /// FIN to both.
    Close,
    /// Nothing passes for so long.
    Stall(Duration),
}

/// Where in a line a trap holds the octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Before,
    Within,
    Behind,
}

/// A relay. Its threads end with the connections they serve, the one that listens with the test.
pub struct Relay {
    /// Where the gateway finds the server.
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    server: SocketAddr,
    links: Mutex<Vec<Weak<Link>>>,
    trap: Mutex<Trap>,
    changed: Condvar,
    /// SRV-1: MOVEs that reached the server.
    moves: AtomicUsize,
}

enum Trap {
    None,
    /// The next line with these octets is held.
    Set(&'static str, Place),
    /// This connection is held.
    Sprung(Arc<Link>),
}

struct Link {
    gateway: TcpStream,
    server: TcpStream,
    stalled: Mutex<Option<Instant>>,
    cut: AtomicBool,
}

impl Relay {
    pub fn start(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the kernel's choice");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (links, trap, changed) = (Mutex::default(), Mutex::new(Trap::None), Condvar::new());
        let state = Arc::new(State { server, links, trap, changed, moves: AtomicUsize::new(0) });
        let theirs = Arc::clone(&state);
        thread::spawn(move || listener.incoming().flatten().for_each(|gateway| theirs.serve(gateway)));
        Relay { address, state }
    }

    /// Cuts each open connection that `chosen` says. How many they were.
    pub fn cut(&self, cut: Cut, mut chosen: impl FnMut() -> bool) -> usize {
        let links: Vec<_> = self.state.links().iter().filter_map(Weak::upgrade).collect();
        links.iter().filter(|_| chosen()).map(|link| link.cut(cut)).count()
    }

    /// Waits, not for long, until a line with these octets passes, and holds it and its connection. Then does `act`, cuts
    /// the connection if it says so, and lets go. Whether there was such a line.
    pub fn trap(&self, octets: &'static str, place: Place, act: impl FnOnce() -> Option<Cut>) -> bool {
        const LONG: Duration = Duration::from_secs(2);
        *self.state.trap() = Trap::Set(octets, place);
        let set = |trap: &mut Trap| matches!(trap, Trap::Set(..));
        let (trap, _) = self.state.changed.wait_timeout_while(self.state.trap(), LONG, set).expect("sound");
        let link = if let Trap::Sprung(link) = &*trap { Some(Arc::clone(link)) } else { None };
        drop(trap);
        if let Some(link) = &link {
            act().into_iter().for_each(|cut| link.cut(cut));
        }
        *self.state.trap() = Trap::None;
        self.state.changed.notify_all();
        link.is_some()
    }

    /// Waits until no connection is left.
    pub fn wait_until_quiet(&self) {
        let begun = Instant::now();
        while self.state.links().iter().any(|link| link.strong_count() > 0) {
            assert!(begun.elapsed() < PATIENCE, "connections to the server are open after {PATIENCE:?}");
            sleep(POLL);
        }
    }

    /// SRV-1: how many MOVEs reached the server.
    pub fn moves(&self) -> usize {
        self.state.moves.load(Ordering::Relaxed)
    }
}

impl State {
    fn links(&self) -> MutexGuard<'_, Vec<Weak<Link>>> {
        self.links.lock().expect("nobody panics with the list of connections")
    }

    fn trap(&self) -> MutexGuard<'_, Trap> {
        self.trap.lock().expect("nobody panics with the trap")
    }

    fn serve(self: &Arc<State>, gateway: TcpStream) {
        let Ok(server) = TcpStream::connect(self.server) else { return };
        let link = Arc::new(Link { gateway, server, stalled: Mutex::default(), cut: AtomicBool::new(false) });
        let mut links = self.links();
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&link));
        for to_server in [true, false] {
            let (state, link) = (Arc::clone(self), Arc::clone(&link));
            thread::spawn(move || state.copy(&link, to_server));
        }
    }

    fn copy(&self, link: &Arc<Link>, to_server: bool) {
        let (mut from, to) = if to_server { link.ends() } else { link.reversed() };
        let _ = (to.set_nodelay(true), to.set_write_timeout(Some(PATIENCE)));
        let mut piece = vec![0; 1 << 16];
        while let Ok(octets @ 1..) = from.read(&mut piece)
            && self.pass(link, &piece[..octets], to, to_server)
        {}
        if !link.cut.load(Ordering::SeqCst) {
            let _ = to.shutdown(Shutdown::Write);
        } // else its last handle ends it, in the way that was chosen
    }

    /// Writes a piece, unless the connection is cut meanwhile.
    fn pass(&self, link: &Arc<Link>, piece: &[u8], mut to: &TcpStream, to_server: bool) -> bool {
        let held = self.is_held(link, piece);
        let first = held.unwrap_or(piece.len());
        self.look(piece, to_server);
        let mut write = |part: &[u8]| link.may_pass() && to.write_all(part).is_ok();
        if !write(&piece[..first]) {
            return false;
        }
        if held.is_some() {
            self.hold();
        }
        write(&piece[first..])
    }

    fn look(&self, piece: &[u8], to_server: bool) {
        // No message has these words.
        if to_server && find(piece, b" MOVE ").is_some() {
            self.moves.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// If the trap is for this piece, it is sprung: how many octets still pass.
    fn is_held(&self, link: &Arc<Link>, piece: &[u8]) -> Option<usize> {
        let mut trap = self.trap();
        let Trap::Set(octets, place) = &*trap else { return None };
        let at = find(piece, octets.as_bytes())?;
        let start = piece[..at].iter().rposition(|octet| *octet == b'\n').map_or(0, |before| before + 1);
        let rest = piece[at..].iter().position(|octet| *octet == b'\n');
        let end = rest.map_or(piece.len(), |rest| at + rest + 1);
        let passes = match place {
            Place::Before => start,
            Place::Within => start.midpoint(end),
            Place::Behind => end,
        };
        *trap = Trap::Sprung(Arc::clone(link));
        Some(passes)
    }

    /// What is to be held waits until whoever set the trap lets go.
    fn hold(&self) {
        self.changed.notify_all();
        let sprung = |trap: &mut Trap| matches!(trap, Trap::Sprung(_));
        drop(self.changed.wait_timeout_while(self.trap(), PATIENCE, sprung).expect("sound"));
    }
}

impl Link {
    fn ends(&self) -> (&TcpStream, &TcpStream) {
        (&self.gateway, &self.server)
    }

    fn reversed(&self) -> (&TcpStream, &TcpStream) {
        (&self.server, &self.gateway)
    }

    fn cut(&self, cut: Cut) {
        if let Cut::Stall(time) = cut {
            *self.stalled.lock().expect("sound") = Some(Instant::now() + time);
            return;
        }
        self.cut.store(true, Ordering::SeqCst);
        for socket in [&self.gateway, &self.server] {
            if cut == Cut::Reset {
                let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
                let _ = socket.shutdown(Shutdown::Read); // wakes its thread
            } else {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }

    /// Waits while it is stalled. False if it is cut.
    fn may_pass(&self) -> bool {
        let stalled = || self.stalled.lock().expect("sound").is_some_and(|until| Instant::now() < until);
        while stalled() && !self.cut.load(Ordering::SeqCst) {
            sleep(POLL);
        }
        !self.cut.load(Ordering::SeqCst)
    }
}

fn find(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    octets.windows(wanted.len()).position(|window| window == wanted)
}
