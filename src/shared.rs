//! What all connections of a gateway have in common.

use crate::config::Config;
use crate::metrics::Metrics;
use crate::tls::{Acceptor, Connector};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;

/// Where the process is in its life. A session takes part in each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connections come and go.
    Running,
    /// No new ones; the others finish what they do.
    Draining,
    /// Over, at once.
    Stopping,
}

/// What all connections of a gateway have in common.
pub struct Shared {
    /// The effective settings.
    pub config: Config,
    /// For clients' handshakes, if there is a certificate.
    pub acceptor: Option<Acceptor>,
    /// For the upstream's, if that leg has TLS.
    pub connector: Option<Connector>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// A login has shown that the upstream can carry out a MOVE (CAP-2).
    pub qualifies: AtomicBool,
    /// Watched by every session.
    pub phase: watch::Sender<Phase>,
}
