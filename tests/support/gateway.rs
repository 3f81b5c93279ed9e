//! The program itself, in front of a server.

use crate::client::{self, Client};
use crate::server::{POLL, Process, free_address, tail};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the gateway may take until it accepts connections and the first login through it succeeds.
const START: Duration = Duration::from_secs(20);

/// A running `imapmove`. It ends when this goes out of scope.
pub struct Gateway {
    /// Where clients connect.
    pub address: SocketAddr,
    admin: SocketAddr,
    process: Process,
    folder: TempDir,
}

impl Gateway {
    /// Starts the gateway in front of `upstream` and waits until a login through it succeeds.
    ///
    /// # Panics
    /// If it does not start, with the tail of its log.
    pub fn start(upstream: SocketAddr) -> Gateway {
        Gateway::start_with(upstream, &[])
    }

    /// [`start`](Gateway::start) with further settings, such as `("--upstream-tls", "starttls")`.
    pub fn start_with(upstream: SocketAddr, settings: &[(&str, &str)]) -> Gateway {
        let mut gateway = Gateway::launch(upstream, settings);
        let address = gateway.address;
        gateway.wait("logs in", || client::accepts_login(address));
        gateway
    }

    /// Starts the gateway and waits until it takes connections: for an upstream with which no login can succeed.
    pub fn start_in_vain(upstream: SocketAddr, settings: &[(&str, &str)]) -> Gateway {
        let mut gateway = Gateway::launch(upstream, settings);
        // Its admin listener opens last, and a connection to it reaches no upstream.
        let admin = gateway.admin;
        gateway.wait("listens", || TcpStream::connect(admin).is_ok());
        gateway
    }

    fn launch(upstream: SocketAddr, settings: &[(&str, &str)]) -> Gateway {
        let (address, admin) = (free_address(), free_address());
        let folder = tempfile::Builder::new().prefix("imapmove-").tempdir().expect("a temporary folder");
        let mut command = Command::new("setpriv"); // ends with us, even if we are killed
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_imapmove")]);
        command.arg("--upstream").arg(upstream.to_string()).arg("--listen").arg(address.to_string());
        command.arg("--admin").arg(admin.to_string());
        command.args(settings.iter().flat_map(|(name, value)| [name, value]));
        let process = Process::start(command, &folder.path().join("gateway.log"));
        Gateway { address, admin, process, folder }
    }

    /// A connection through the gateway that is logged in as alice.
    pub fn login(&self) -> Client {
        Client::login(self.address)
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.process.terminate();
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// If it has not ended after `limit`, with the tail of its log.
    pub fn wait_for_end(&mut self, limit: Duration) -> String {
        let ended = self.process.wait(limit);
        ended.unwrap_or_else(|| panic!("the gateway still runs after {limit:?}:\n{}", tail(&self.log())))
    }

    fn wait(&mut self, what: &str, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            let ended = self.process.ended();
            if ended.is_some() || begun.elapsed() > START {
                let log = tail(&self.log());
                panic!("no gateway that {what} ({ended:?}); the tail of its log:\n{log}");
            }
            sleep(POLL);
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("gateway.log")
    }
}
