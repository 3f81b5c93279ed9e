//! What all connections of a gateway have in common.

use crate::config::Config;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::tls::{Acceptor, Connector};
use crate::turns::Turns;
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
    /// MOVEs in progress, on disk, if the operator wants that.
    pub journal: Option<Journal>,
    /// MOVEs that must not run at the same time.
    pub turns: Arc<Turns>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// A login has shown that the upstream can carry out a MOVE (CAP-2).
    pub qualifies: AtomicBool,
    /// Watched by every session.
    pub phase: watch::Sender<Phase>,
}
