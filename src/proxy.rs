//! The listeners: accept, admit, one task per connection, drain.

use crate::admin;
use crate::admission::{Full, is_out_of_descriptors};
use crate::config::value::Inbound;
use crate::config::{Config, Problem};
use crate::connection::{self, Client};
use crate::imap::Tls;
use crate::journal::{self, Journal};
use crate::log;
use crate::metrics::Metrics;
use crate::origin::Origin;
use crate::shared::{Current, Phase, Shared, Signal};
use crate::systemd::{self, Sockets};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// After an accept that failed, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait to be accepted, one more has to try again; the kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: usize = 4_096;
/// A proxy's header must come within this time.
const PROXY_HEADER: Duration = Duration::from_secs(5);
/// A client whose connection is half open when the listener closes has so long to complete it.
const HALF_OPEN: Duration = Duration::from_millis(200);
/// Sessions that are cut have so long to say goodbye.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A gateway whose addresses are bound and which has not begun to serve.
pub struct Proxy {
    shared: Arc<Shared>,
    plain: Option<Open>,
    tls: Option<Open>,
    admin: Option<Open>,
}

/// A socket to which clients can connect.
struct Open {
    listener: TcpListener,
    /// systemd has it too.
    inherited: bool,
}

impl Proxy {
    /// Reads the certificates and binds the addresses: whatever a setting can be wrong about shows here.
    pub async fn bind(config: Config) -> Result<Proxy, Problem> {
        let current = Current::new(config)?;
        let config = &current.config;
        check_journal(config)?;
        let mut sockets = Sockets::inherited(config)?;
        let plain = bind(config, &mut sockets, "listen", config.listen)?;
        let tls = bind(config, &mut sockets, "listen-tls", config.listen_tls)?;
        let admin = bind(config, &mut sockets, "admin", config.admin)?;
        let metrics = Arc::default();
        let journal = open_journal(config, &metrics)?;
        let plain = open(config, "listen", plain)?;
        let tls = open(config, "listen-tls", tls)?;
        let admin = open(config, "admin", admin)?;
        Ok(Proxy { shared: Arc::new(Shared::new(current, journal, metrics)), plain, tls, admin })
    }

    /// Where clients connect in clear.
    pub fn address(&self) -> Option<SocketAddr> {
        self.plain.as_ref().and_then(|open| open.listener.local_addr().ok())
    }

    /// Where clients connect with TLS from the first octet.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls.as_ref().and_then(|open| open.listener.local_addr().ok())
    }

    /// Serves until the first [`Signal::Stop`], then drains. The second one, or the deadline, cuts the sessions that
    /// are left; how many is what it returns.
    pub async fn run(self, mut signals: mpsc::Receiver<Signal>) -> usize {
        let Proxy { shared, plain, tls, admin } = self;
        let tasks = TaskTracker::new();
        for (name, open, implicit) in [("plain", plain, false), ("tls", tls, true)] {
            if let Some(open) = open {
                let entrance = Entrance { name, implicit, shared: shared.clone(), tasks: tasks.clone() };
                tasks.spawn(entrance.accept(open));
            }
        }
        let admin = admin.map(|open| tokio::spawn(admin::serve(open.listener, shared.clone())));
        systemd::ready();
        let mut signal = signals.recv().await;
        while let Some(Signal::Reload(settings)) = signal {
            signal = tokio::select! {
                () = reload(&shared, settings) => signals.recv().await,
                // Nor does a disk that hangs keep the process from what comes next.
                next = signals.recv() => next,
            };
        }
        systemd::stopping();
        if let Some(admin) = admin.filter(|_| shared.current().config.reuse_port) {
            // Who asks at a shared port learns of the one that takes over, if it is there.
            admin.abort();
            let _ = admin.await;
        }
        shared.journal.iter().for_each(Journal::drain);
        let cut = drain(&shared, &tasks, signals).await;
        if let Some(journal) = &shared.journal {
            journal.close().await;
        }
        cut
    }
}

/// Before anything is bound: a journal that is open should not end at once.
pub fn check_journal(config: &Config) -> Result<(), Problem> {
    let checked = config.journal.as_deref().map_or(Ok(()), journal::check);
    checked.map_err(|e| config.problem("journal", format!("a folder that exists: {e}")))
}

fn open_journal(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Journal>, Problem> {
    let open = |folder: &PathBuf| Journal::open(folder, config.upstream.to_string(), metrics.clone());
    let opened = config.journal.as_ref().map(open).transpose();
    opened.map_err(|e| config.problem("journal", format!("a thread of the system's for it: {e}")))
}

/// A socket that has its address.
enum Bound {
    /// By systemd, which keeps it open: who connects while nobody accepts waits there.
    BySystemd(TcpListener),
    /// By us. Nobody can connect yet.
    ByUs(TcpSocket),
}

/// systemd's socket for this setting, or one of our own.
fn bind(
    config: &Config,
    sockets: &mut Sockets,
    name: &str,
    address: Option<SocketAddr>,
) -> Result<Option<Bound>, Problem> {
    if let Some(socket) = sockets.take(name) {
        let socket = socket.map_err(|e| config.problem(name, format!("a usable socket: {e}")))?;
        return Ok(Some(Bound::BySystemd(socket)));
    }
    let own = address.map(|address| bind_own(config, name, address)).transpose()?;
    Ok(own.map(Bound::ByUs))
}

/// Binds the address of a setting.
pub fn bind_own(config: &Config, name: &str, address: SocketAddr) -> Result<TcpSocket, Problem> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart need not wait for what is left of the last run's connections.
        socket.set_reuseaddr(true)?;
        // Nor, if the operator wants that, for the last run's end: both listen until that one has drained.
        socket.set_reuseport(config.reuse_port)?;
        socket.bind(address)?;
        Ok::<_, io::Error>(socket)
    };
    bound().map_err(|e| unbound(config, name, &e))
}

/// What to do where an address cannot be bound.
fn unbound(config: &Config, name: &str, error: &io::Error) -> Problem {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there",
        io::ErrorKind::AddrNotAvailable => "this machine has another",
        io::ErrorKind::PermissionDenied => "below port 1024 this program needs the right to it",
        _ => return config.problem(name, format!("an address that can be bound: {error}")),
    };
    config.problem(name, format!("an address that can be bound: {why}"))
}

/// From here on clients can connect: not before all else has succeeded, for closing a listener resets them.
fn open(config: &Config, name: &str, bound: Option<Bound>) -> Result<Option<Open>, Problem> {
    let (listener, inherited) = match bound {
        None => return Ok(None),
        Some(Bound::BySystemd(listener)) => (listener, true),
        Some(Bound::ByUs(socket)) => {
            let opened = socket.listen(BACKLOG as u32);
            (opened.map_err(|e| unbound(config, name, &e))?, false)
        }
    };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(setting = name, %address, "listening");
    }
    Ok(Some(Open { listener, inherited }))
}

/// New settings, if they can be used: a bad file changes nothing.
async fn reload(shared: &Arc<Shared>, settings: Result<Box<Config>, Problem>) {
    systemd::reloading();
    let old = shared.current();
    let read = move || {
        let (config, others) = old.config.reloaded(&*settings?)?;
        Ok::<_, Problem>((Current::new(config)?, others))
    };
    // Certificates are read from a disk.
    let read = tokio::task::spawn_blocking(read).await.expect("nothing panics there");
    shared.metrics.config_last_reload_successful.set(read.is_ok().into());
    match read {
        Ok((current, others)) => {
            log::set_level(current.config.log_level);
            shared.replace(current);
            tracing::info!(need_a_restart = others.join(", "), "settings and certificates reloaded");
        }
        Err(problem) => {
            tracing::error!(%problem, "not reloaded: settings and certificates stay as they were")
        }
    }
    systemd::ready();
}

async fn drain(shared: &Shared, tasks: &TaskTracker, mut signals: mpsc::Receiver<Signal>) -> usize {
    shared.metrics.draining.set(1);
    shared.phase.send_replace(Phase::Retiring);
    tracing::info!(sessions = shared.metrics.connections_active.get(), "draining");
    let (grace, deadline) = {
        let config = &shared.current().config;
        (config.drain_grace, config.drain_deadline)
    };
    let gentle = async {
        sleep(grace).await;
        shared.phase.send_replace(Phase::Draining);
        tasks.close();
        timeout(deadline, tasks.wait()).await.is_ok()
    };
    tokio::select! {
        drained = gentle => {
            if drained {
                return 0;
            }
        }
        () = stopped(&mut signals) => {}
    }
    // Not the tasks: a listener's may not have noticed the drain yet.
    let cut = usize::try_from(shared.metrics.connections_active.get()).unwrap_or_default();
    shared.phase.send_replace(Phase::Stopping);
    tasks.close();
    tracing::warn!(sessions = cut, "stopping with sessions that were not finished");
    let _ = timeout(LAST_WORDS, tasks.wait()).await;
    cut
}

/// The next [`Signal::Stop`]. What else comes is too late.
async fn stopped(signals: &mut mpsc::Receiver<Signal>) {
    while let Some(signal) = signals.recv().await {
        match signal {
            Signal::Stop => return,
            Signal::Reload(_) => tracing::warn!("not reloaded: the gateway is draining"),
        }
    }
    std::future::pending().await
}

/// One listener's side of things.
#[derive(Clone)]
struct Entrance {
    name: &'static str,
    /// TLS from the first octet.
    implicit: bool,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Entrance {
    /// Accepts until the drain. Nothing else is awaited here: a slow client would keep the others out.
    async fn accept(self, open: Open) {
        let Open { listener, inherited } = open;
        let mut phase = self.shared.phase.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.wait_for(|phase| *phase >= Phase::Draining) => break,
            };
            match accepted {
                Ok((stream, address)) => self.admit(stream, address),
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "cannot accept");
                    if is_out_of_descriptors(&error) {
                        self.shared.metrics.turned_away(Full::Descriptors);
                    }
                    sleep(PAUSE).await;
                }
            }
        }
        // Who connects to systemd's socket from now on waits there for the next process.
        if !inherited {
            self.accept_the_last(listener).await;
        }
    }

    /// Whoever has begun to connect is served: closing the listener would reset the connection.
    async fn accept_the_last(&self, listener: TcpListener) {
        refuse_to_answer(&listener);
        let last = async {
            while let Ok((stream, address)) = listener.accept().await {
                self.admit(stream, address);
            }
        };
        let _ = timeout(HALF_OPEN, last).await;
    }

    fn admit(&self, stream: TcpStream, address: SocketAddr) {
        self.shared.metrics.connections.with_label_values(&[self.name]).inc();
        let origin = Origin::of(&stream, address);
        let config = &self.shared.current().config;
        match config.proxy_protocol {
            Inbound::Off => self.admit_from(stream, origin),
            Inbound::Required if config.trusted_proxies.iter().any(|n| n.contains(&origin.client.ip())) => {
                let (entrance, mut stream) = (self.clone(), stream);
                self.tasks.spawn(async move {
                    match timeout(PROXY_HEADER, origin.read(&mut stream)).await {
                        Ok(Ok(origin)) => entrance.admit_from(stream, origin),
                        _ => entrance.shared.metrics.turned_away(Full::Origin),
                    }
                });
            }
            Inbound::Required => self.shared.metrics.turned_away(Full::Origin),
        }
    }

    fn admit_from(&self, stream: TcpStream, origin: Origin) {
        let tls = self.tls();
        match self.shared.admission.admit(origin.client.ip()) {
            Ok(place) => self.serve(Client { stream, listener: self.name, origin, tls, place }),
            Err(full) if tls != Tls::Implicit => {
                let _ = stream.try_write(format!("* BYE [UNAVAILABLE] {full}\r\n").as_bytes());
            }
            Err(_) => {}
        }
    }

    fn tls(&self) -> Tls {
        match (self.implicit, &self.shared.current().acceptor) {
            (true, _) => Tls::Implicit,
            (false, Some(_)) => Tls::StartTls,
            (false, None) => Tls::Off,
        }
    }

    /// A task of its own: its panic ends this session only (FAULT-5).
    fn serve(&self, client: Client) {
        self.tasks.spawn(connection::serve(self.shared.clone(), client));
    }
}

/// Drops each SYN that comes from now on. The client's kernel sends it again, a second later, and then it reaches who
/// listens there in our place: with SO_REUSEPORT, the gateway that takes over. Linux; elsewhere one can be reset.
fn refuse_to_answer(listener: &TcpListener) {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    {
        use socket2::{SockFilter, SockRef};
        // Classic BPF on the TCP header: of the flags in octet 13, SYN without ACK.
        let drop_syn = [
            SockFilter::new(0x30, 0, 0, 13),
            SockFilter::new(0x54, 0, 0, 0x12),
            SockFilter::new(0x15, 0, 1, 0x02),
            SockFilter::new(0x06, 0, 0, 0),
            SockFilter::new(0x06, 0, 0, u32::MAX),
        ];
        let _ = SockRef::from(listener).attach_filter(&drop_syn);
    }
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    let _ = listener;
}
