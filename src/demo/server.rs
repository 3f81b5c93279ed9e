//! The sockets of the demo's server: lines, literals, IDLE, and what was said.

use super::session::{CAPABILITIES, Next, Session, SharedStore, lock};
use super::store::{Mailbox, Store};
use bytes::{Buf, BytesMut};
use chrono::Utc;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// The most clients at the same time; the next one gets BYE.
const MAX_SESSIONS: usize = 64;
/// The longest line, in octets.
const MAX_LINE: usize = 64 << 10;
/// The longest command with its literals, in octets: before and after login.
const MAX_COMMAND: [usize; 2] = [8 << 10, 16 << 20];
/// How many octets of the conversation are remembered; the oldest lines go first.
const MAX_RECORD: usize = 4 << 20;
/// How long a client may be silent. RFC 3501 section 5.4 wants 30 minutes at least.
const SILENCE: Duration = Duration::from_secs(31 * 60);
/// How long a client may take to read what it is sent.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// One line of what was said to and by the server. Literals stand in a command as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// By a client: one whole command; before the login tag and verb only.
    Asked(String),
    /// By the server: one line.
    Answered(String),
}

/// A running server. It stops when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What all sessions have in common.
#[derive(Debug)]
struct Shared {
    store: SharedStore,
    /// Wakes the sessions in IDLE.
    changed: watch::Sender<()>,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    lines: VecDeque<Said>,
    octets: usize,
}

impl Server {
    /// Starts a server with the demo's mail on a free port of 127.0.0.1.
    pub async fn start() -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let store = Arc::new(Mutex::new(Store::demo(Utc::now().fixed_offset())));
        let shared = Arc::new(Shared { store, changed: watch::Sender::new(()), record: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Server { address, shared, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was said so far, oldest first. Sessions are not told apart.
    pub fn said(&self) -> Vec<Said> {
        self.shared.record().lines.iter().cloned().collect()
    }

    /// What is in a mailbox now.
    pub fn mailbox(&self, name: &str) -> Option<Mailbox> {
        lock(&self.shared.store).mailbox(name).ok().cloned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self, command: &[u8], logged_in: bool) {
        let text = String::from_utf8_lossy(command);
        // Whatever stands behind the verb before the login may be a password.
        let public = if logged_in { None } else { text.match_indices(' ').nth(1) };
        let text = public.map_or(text.to_string(), |(end, _)| format!("{} ...", &text[..end]));
        self.record().push(Said::Asked(text));
    }

    fn answered(&self, octets: &[u8]) {
        let text = String::from_utf8_lossy(octets);
        let mut record = self.record();
        text.split_terminator("\r\n").for_each(|line| record.push(Said::Answered(line.to_owned())));
    }
}

impl Record {
    fn push(&mut self, said: Said) {
        let length = |said: &Said| match said {
            Said::Asked(line) | Said::Answered(line) => line.len() + size_of::<Said>(),
        };
        self.octets += length(&said);
        self.lines.push_back(said);
        while self.octets > MAX_RECORD {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.octets -= length(&oldest);
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let free = Arc::new(Semaphore::new(MAX_SESSIONS));
    let mut sessions = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = sessions.join_next() => continue,
        };
        // Nothing to accept from, out of descriptors for example: that passes, and must not spin.
        let Ok((mut stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = free.clone().try_acquire_owned() else {
            let _ = stream.try_write(b"* BYE Too many clients for a demo\r\n");
            continue;
        };
        let shared = shared.clone();
        sessions.spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let session = Session::new(shared.store.clone());
            // A client that goes away is no error of this server.
            let _ = Connection { stream: &mut stream, read: BytesMut::new(), session, shared }.serve().await;
        });
    }
}

/// A client's socket and its session.
struct Connection<'a> {
    stream: &'a mut TcpStream,
    read: BytesMut,
    session: Session,
    shared: Arc<Shared>,
}

impl Connection<'_> {
    async fn serve(mut self) -> io::Result<()> {
        self.write(format!("* OK [CAPABILITY {CAPABILITIES}] An old server, for the demo\r\n").as_bytes())
            .await?;
        while let Some(command) = self.command().await? {
            self.shared.asked(&command, self.session.is_logged_in());
            let mut next = self.answer(|session, out| session.execute(&command, out)).await?;
            loop {
                next = match next {
                    Next::Command => break,
                    Next::Close => return Ok(()),
                    Next::Idle(tag) => self.idle(&tag).await?,
                    Next::Credentials(tag) => {
                        let line = self.line().await?;
                        self.answer(|session, out| session.authenticate(&tag, &line, out)).await?
                    }
                };
            }
        }
        Ok(())
    }

    async fn answer(&mut self, act: impl FnOnce(&mut Session, &mut Vec<u8>) -> Next) -> io::Result<Next> {
        let mut out = Vec::new();
        let next = act(&mut self.session, &mut out);
        self.write(&out).await?;
        Ok(next)
    }

    async fn idle(&mut self, tag: &str) -> io::Result<Next> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            // What changed between this session's last report and the subscription is in the first report.
            self.answer(|session, out| {
                session.report(true, out);
                Next::Command
            })
            .await?;
            tokio::select! {
                line = self.line() => {
                    let line = line?;
                    return self.answer(|session, out| session.idle_ended(tag, &line, out)).await;
                }
                Ok(()) = changed.changed() => {}
            }
        }
    }

    /// Writes, and tells the sessions in IDLE that something may have changed.
    async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        if octets.is_empty() {
            return Ok(());
        }
        self.shared.answered(octets);
        self.shared.changed.send_replace(());
        timeout(WRITE_STALL, self.stream.write_all(octets)).await?
    }

    /// The next command with its literals, without its last CRLF. None at the end.
    async fn command(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut command = Vec::new();
        loop {
            match self.line().await {
                Ok(line) => command.extend(line),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            }
            let Some((length, waits)) = announced(&command) else { return Ok(Some(command)) };
            let limit = MAX_COMMAND[usize::from(self.session.is_logged_in())];
            if length > limit - command.len().min(limit) {
                if !waits {
                    return self.refuse("That literal is too large").await;
                }
                let tag = command.split(|&octet| octet == b' ').next().unwrap_or_default();
                let refusal = [tag, b" NO [LIMIT] That literal is too large\r\n"].concat();
                self.write(&refusal).await?;
                command.clear();
                continue;
            }
            if waits {
                self.write(b"+ Go on\r\n").await?;
            }
            command.extend(b"\r\n");
            while self.read.len() < length {
                self.read_more().await?;
            }
            command.extend_from_slice(&self.read.split_to(length));
        }
    }

    /// The next line, without its line end. Nothing is lost when this future is dropped half-way.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.read) {
                let line = self.read.split_to(end);
                self.read.advance(1);
                return Ok(line.strip_suffix(b"\r").unwrap_or(&line).to_vec());
            }
            if self.read.len() > MAX_LINE {
                return self.refuse("That line is too long").await;
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> io::Result<()> {
        match timeout(SILENCE, self.stream.read_buf(&mut self.read)).await?? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn refuse<T>(&mut self, reason: &str) -> io::Result<T> {
        self.write(format!("* BYE {reason}\r\n").as_bytes()).await?;
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    }
}

/// The literal that a line announces: its length, and whether the client waits for `+`.
fn announced(line: &[u8]) -> Option<(usize, bool)> {
    let inner = line.strip_suffix(b"}")?;
    let digits = &inner[memchr::memrchr(b'{', inner)? + 1..];
    let (digits, waits) = digits.strip_suffix(b"+").map_or((digits, true), |digits| (digits, false));
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Digits that do not fit are a literal that is too large.
    Some((std::str::from_utf8(digits).ok()?.parse().unwrap_or(usize::MAX), waits))
}
