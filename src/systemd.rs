//! What systemd and this process tell each other, where it has started it: sockets, and how far the process is.

use crate::config::{Config, Problem};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::io;
use tokio::net::TcpListener;

/// The settings in whose place systemd can open a socket, by its `FileDescriptorName=`.
const NAMES: [&str; 3] = ["listen", "listen-tls", "admin"];

/// The sockets that systemd has opened.
pub struct Sockets(Vec<(String, std::net::TcpListener)>);

impl Sockets {
    /// All of them, each under the name of a setting.
    pub fn inherited(config: &Config) -> Result<Sockets, Problem> {
        let mut passed = ListenFd::from_env();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let name = names.next().unwrap_or_default();
            let known = NAMES.into_iter().find(|known| *known == name);
            let socket = passed.take_tcp_listener(index).ok().flatten();
            let Some((name, socket)) = known.zip(socket) else { return Err(unusable(config, name)) };
            sockets.push((name.to_string(), socket));
        }
        if config.tls_cert.is_none() && sockets.iter().any(|(name, _)| name == "listen-tls") {
            let expected = "a PEM file, because systemd has opened the socket for listen-tls";
            return Err(config.problem("tls-cert", expected));
        }
        Ok(Sockets(sockets))
    }

    /// The one for a setting.
    pub fn take(&mut self, setting: &str) -> Option<io::Result<TcpListener>> {
        let index = self.0.iter().position(|(name, _)| name == setting)?;
        let (_, socket) = self.0.swap_remove(index);
        Some(socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket)))
    }
}

fn unusable(config: &Config, name: &str) -> Problem {
    let expected =
        "each socket of systemd's to be a TCP listener with FileDescriptorName= listen, listen-tls or admin";
    config.problem("listen", format!("{expected}, not {name:?}"))
}

/// Clients can connect.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Settings are read anew; [`ready`] follows.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Nobody listens, mostly.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told how far this process is");
    }
}
