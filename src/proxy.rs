//! The listeners: accept, admit, one task per connection, drain.

use crate::admin;
use crate::admission::{Admission, Full, is_out_of_descriptors};
use crate::config::{Config, Problem};
use crate::connection::{self, Client};
use crate::imap::Tls;
use crate::journal::{self, Journal};
use crate::metrics::Metrics;
use crate::shared::{Phase, Shared};
use crate::tls::{Acceptor, Connector};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// After an accept that failed, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait to be accepted, one more has to try again; the kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: usize = 4_096;
/// Sessions that are cut have so long to say goodbye.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A gateway whose addresses are bound and which has not begun to serve.
pub struct Proxy {
    shared: Arc<Shared>,
    plain: Option<TcpListener>,
    tls: Option<TcpListener>,
    admin: Option<TcpListener>,
}

impl Proxy {
    /// Reads the certificates and binds the addresses: whatever a setting can be wrong about shows here.
    pub async fn bind(config: Config) -> Result<Proxy, Problem> {
        let (acceptor, connector) = (Acceptor::new(&config)?, Connector::new(&config)?);
        check_journal(&config)?;
        let plain = bind(&config, "listen", config.listen)?;
        let tls = bind(&config, "listen-tls", config.listen_tls)?;
        let admin = bind(&config, "admin", config.admin)?;
        let (metrics, qualifies, turns) = (Arc::default(), AtomicBool::default(), Arc::default());
        let journal = open_journal(&config, &metrics)?;
        let phase = watch::Sender::new(Phase::Running);
        let shared =
            Arc::new(Shared { config, acceptor, connector, journal, turns, metrics, qualifies, phase });
        Ok(Proxy { shared, plain, tls, admin })
    }

    /// Where clients connect in clear.
    pub fn address(&self) -> Option<SocketAddr> {
        self.plain.as_ref().and_then(|l| l.local_addr().ok())
    }

    /// Where clients connect with TLS from the first octet.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls.as_ref().and_then(|l| l.local_addr().ok())
    }

    /// Serves until the first message on `signals`, then drains. The second one, or the deadline, cuts the sessions
    /// that are left; how many is what it returns.
    pub async fn run(self, mut signals: mpsc::Receiver<()>) -> usize {
        let Proxy { shared, plain, tls, admin } = self;
        let tasks = TaskTracker::new();
        let admission = Arc::new(Admission::new(&shared.config, shared.metrics.clone()));
        let starttls = if shared.acceptor.is_some() { Tls::StartTls } else { Tls::Off };
        for (name, listener, tls) in [("plain", plain, starttls), ("tls", tls, Tls::Implicit)] {
            if let Some(listener) = listener {
                let entrance = Entrance {
                    name,
                    tls,
                    shared: shared.clone(),
                    admission: admission.clone(),
                    tasks: tasks.clone(),
                };
                tasks.spawn(entrance.accept(listener));
            }
        }
        if let Some(listener) = admin {
            tokio::spawn(admin::serve(listener, shared.metrics.clone()));
        }
        signals.recv().await;
        let cut = drain(&shared, &tasks, signals).await;
        if let Some(journal) = &shared.journal {
            journal.close().await;
        }
        cut
    }
}

/// Before anything is bound: a journal that is open should not end at once.
fn check_journal(config: &Config) -> Result<(), Problem> {
    let checked = config.journal.as_deref().map_or(Ok(()), journal::check);
    checked.map_err(|e| config.problem("journal", format!("a folder that exists: {e}")))
}

fn open_journal(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Journal>, Problem> {
    let open = |folder: &PathBuf| Journal::open(folder, config.upstream.to_string(), metrics.clone());
    let opened = config.journal.as_ref().map(open).transpose();
    opened.map_err(|e| config.problem("journal", format!("a thread of the system's for it: {e}")))
}

fn bind(config: &Config, name: &str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, Problem> {
    let Some(address) = address else { return Ok(None) };
    let (listener, address) =
        listen(address).map_err(|e| config.problem(name, format!("an address that can be bound: {e}")))?;
    tracing::info!(setting = name, %address, "listening");
    Ok(Some(listener))
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart need not wait for what is left of the last run's connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG as u32)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn drain(shared: &Shared, tasks: &TaskTracker, mut signals: mpsc::Receiver<()>) -> usize {
    shared.metrics.draining.set(1);
    shared.phase.send_replace(Phase::Draining);
    tasks.close();
    tracing::info!(sessions = shared.metrics.connections_active.get(), "draining");
    tokio::select! {
        () = tasks.wait() => return 0,
        () = tokio::time::sleep(shared.config.drain_deadline) => {}
        Some(()) = signals.recv() => {}
    }
    // Not the tasks: a listener's may not have noticed the drain yet.
    let cut = usize::try_from(shared.metrics.connections_active.get()).unwrap_or_default();
    shared.phase.send_replace(Phase::Stopping);
    tracing::warn!(sessions = cut, "stopping with sessions that were not finished");
    let _ = tokio::time::timeout(LAST_WORDS, tasks.wait()).await;
    cut
}

/// One listener's side of things.
struct Entrance {
    name: &'static str,
    tls: Tls,
    shared: Arc<Shared>,
    admission: Arc<Admission>,
    tasks: TaskTracker,
}

impl Entrance {
    /// Accepts until the drain. Nothing else is awaited here: a slow client would keep the others out.
    async fn accept(self, listener: TcpListener) {
        let mut phase = self.shared.phase.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.wait_for(|phase| *phase != Phase::Running) => return,
            };
            match accepted {
                Ok((stream, address)) => self.admit(stream, address),
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "cannot accept");
                    if is_out_of_descriptors(&error) {
                        self.shared.metrics.turned_away(Full::Descriptors);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, address: SocketAddr) {
        self.shared.metrics.connections.with_label_values(&[self.name]).inc();
        match self.admission.admit(address.ip()) {
            Ok(place) => self.serve(Client { stream, address, tls: self.tls, place }),
            Err(full) if self.tls != Tls::Implicit => {
                let _ = stream.try_write(format!("* BYE [UNAVAILABLE] {full}\r\n").as_bytes());
            }
            Err(_) => {}
        }
    }

    /// A task of its own: its panic ends this session only (FAULT-5).
    fn serve(&self, client: Client) {
        self.tasks.spawn(connection::serve(self.shared.clone(), client));
    }
}
