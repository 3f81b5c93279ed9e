//! The listeners: accept, limit, one task per connection, drain.

use crate::admin;
use crate::config::{Config, Problem};
use crate::connection::{self, Client};
use crate::imap::Tls;
use crate::shared::{Phase, Shared};
use crate::tls::{Acceptor, Connector};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::task::TaskTracker;

/// After an accept that failed, as when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);
/// Sessions that are cut have so long to say goodbye.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// To a client above the limit.
const FULL: &[u8] = b"* BYE [UNAVAILABLE] Too many connections, try again later\r\n";

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
        let plain = bind(&config, "listen", config.listen).await?;
        let tls = bind(&config, "listen-tls", config.listen_tls).await?;
        let admin = bind(&config, "admin", config.admin).await?;
        let (metrics, qualifies) = (Arc::default(), AtomicBool::default());
        let phase = watch::Sender::new(Phase::Running);
        let shared = Arc::new(Shared { config, acceptor, connector, metrics, qualifies, phase });
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
        let places = Arc::new(Semaphore::new(shared.config.max_connections));
        let starttls = if shared.acceptor.is_some() { Tls::StartTls } else { Tls::Off };
        for (name, listener, tls) in [("plain", plain, starttls), ("tls", tls, Tls::Implicit)] {
            if let Some(listener) = listener {
                let entrance = Entrance {
                    name,
                    tls,
                    shared: shared.clone(),
                    places: places.clone(),
                    tasks: tasks.clone(),
                };
                tasks.spawn(entrance.accept(listener));
            }
        }
        if let Some(listener) = admin {
            tokio::spawn(admin::serve(listener, shared.metrics.clone()));
        }
        signals.recv().await;
        drain(&shared, &tasks, signals).await
    }
}

async fn bind(
    config: &Config,
    name: &str,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, Problem> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await.and_then(|l| l.local_addr().map(|address| (l, address)));
    let (listener, address) =
        bound.map_err(|e| config.problem(name, format!("an address that can be bound: {e}")))?;
    tracing::info!(setting = name, %address, "listening");
    Ok(Some(listener))
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
    places: Arc<Semaphore>,
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
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, address: SocketAddr) {
        self.shared.metrics.connections.with_label_values(&[self.name]).inc();
        match self.places.clone().try_acquire_owned() {
            Ok(place) => self.serve(place, Client { stream, address, tls: self.tls }),
            Err(_) => self.turn_away(&stream),
        }
    }

    /// A task of its own: its panic ends this session only (FAULT-5).
    fn serve(&self, place: OwnedSemaphorePermit, client: Client) {
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            connection::serve(shared, client).await;
            drop(place);
        });
    }

    fn turn_away(&self, stream: &TcpStream) {
        self.shared.metrics.connections_rejected.with_label_values(&["limit"]).inc();
        if self.tls != Tls::Implicit {
            let _ = stream.try_write(FULL);
        }
    }
}
