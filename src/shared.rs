//! What all connections of a gateway have in common.

use crate::admission::Admission;
use crate::config::{Config, Problem};
use crate::imap::Strategy;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::tls::{self, Acceptor, Connector};
use crate::turns::Turns;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once, PoisonError, RwLock};
use tokio::sync::watch;

/// Where the process is in its life. A session takes part in each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Phase {
    /// Connections come and go.
    Running,
    /// The same, for `drain-grace`; `/readyz` says that new ones should go elsewhere.
    Retiring,
    /// No new ones; the others finish what they do.
    Draining,
    /// Over, at once.
    Stopping,
}

/// What a signal asks for.
pub enum Signal {
    /// An end: gentle at first, at once when it comes again.
    Stop,
    /// Other settings; or why there are none.
    Reload(Result<Box<Config>, Problem>),
}

/// What a reload can change.
pub struct Current {
    /// The effective settings.
    pub config: Config,
    /// For clients' handshakes, if there is a certificate.
    pub acceptor: Option<Acceptor>,
    /// For the upstream's, if that leg has TLS.
    pub connector: Option<Connector>,
    /// Until when the clients' certificate is valid, in seconds since 1970; 0 if there is none.
    pub not_after: u64,
}

impl Current {
    /// Reads the certificates that the settings name.
    pub fn new(config: Config) -> Result<Current, Problem> {
        // First: it says of a broken certificate that it is the certificate, and not the key, that cannot be used.
        let not_after = tls::not_after(&config)?;
        let (acceptor, connector) = (Acceptor::new(&config)?, Connector::new(&config)?);
        Ok(Current { config, acceptor, connector, not_after })
    }
}

/// What all connections of a gateway have in common.
pub struct Shared {
    current: RwLock<Arc<Current>>,
    /// Who may come in.
    pub admission: Arc<Admission>,
    /// MOVEs in progress, on disk, if the operator wants that.
    pub journal: Option<Journal>,
    /// MOVEs that must not run at the same time.
    pub turns: Arc<Turns>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// What becomes of a MOVE here, as the last login has shown (CAP-2): a place in [`Strategy::ALL`], or behind them all.
    strategy: AtomicUsize,
    /// The log has it that ID tells the upstream nothing.
    not_introduced: Once,
    /// Watched by every session.
    pub phase: watch::Sender<Phase>,
}

impl Shared {
    /// At the start of a gateway.
    pub fn new(current: Current, journal: Option<Journal>, metrics: Arc<Metrics>) -> Shared {
        metrics.certificate_not_after.set(current.not_after as f64);
        Shared {
            admission: Arc::new(Admission::new(&current.config, metrics.clone())),
            current: RwLock::new(Arc::new(current)),
            journal,
            turns: Arc::default(),
            metrics,
            strategy: AtomicUsize::new(Strategy::ALL.len()),
            not_introduced: Once::new(),
            phase: watch::Sender::new(Phase::Running),
        }
    }

    /// What becomes of a MOVE, if a login has shown it.
    pub fn strategy(&self) -> Option<Strategy> {
        Strategy::ALL.get(self.strategy.load(Ordering::Relaxed)).copied()
    }

    /// A login has shown it.
    pub fn learn(&self, strategy: Strategy) {
        self.strategy.store(strategy as usize, Ordering::Relaxed);
    }

    /// The upstream could not be told by ID where a client comes from: the log says so once.
    pub fn introduction_failed(&self) {
        self.not_introduced.call_once(|| {
            tracing::warn!(
                "forward-client-id has no effect: the upstream does not list ID in its greeting; \
                 it takes the gateway for the client"
            );
        });
    }

    /// Settings and certificates, as they are now.
    pub fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Others from now on, for what begins from now on.
    pub fn replace(&self, current: Current) {
        self.admission.limit(&current.config);
        self.metrics.certificate_not_after.set(current.not_after as f64);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }
}
