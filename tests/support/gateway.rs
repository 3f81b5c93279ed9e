//! The program itself, in front of a server.

use crate::client::{self, Client};
use crate::server::{POLL, Process, tail};
use std::io::{Read, Write};
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
    /// Where it says how it is.
    pub admin: SocketAddr,
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
        Gateway::start_inside(&[], upstream, settings)
    }

    /// [`start_with`](Gateway::start_with) by a command that runs the one behind it.
    pub fn start_inside(command: &[String], upstream: SocketAddr, settings: &[(&str, &str)]) -> Gateway {
        let mut gateway = Gateway::launch(command, upstream, settings);
        gateway.wait("logs in", |gateway| client::accepts_login(gateway.address).then_some(()));
        gateway
    }

    /// Starts the gateway and waits until it takes connections: for an upstream with which no login can succeed.
    pub fn start_in_vain(upstream: SocketAddr, settings: &[(&str, &str)]) -> Gateway {
        Gateway::launch(&[], upstream, settings)
    }

    fn launch(inside: &[String], upstream: SocketAddr, settings: &[(&str, &str)]) -> Gateway {
        let mut gateway = Gateway::spawn(inside, upstream, settings);
        // Its admin listener opens last.
        gateway.admin = gateway.wait("listens", |gateway| gateway.announced("admin"));
        gateway.address = gateway.announced("listen").unwrap_or(gateway.address);
        gateway
    }

    /// Where it listens, as its log says.
    fn announced(&self, setting: &str) -> Option<SocketAddr> {
        let log = self.logged();
        let words = format!("listening setting=\"{setting}\" address=");
        let line = log.lines().find_map(|line| line.split_once(&words));
        line.map(|(_, address)| address.parse().expect("an address"))
    }

    fn spawn(inside: &[String], upstream: SocketAddr, settings: &[(&str, &str)]) -> Gateway {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let folder = tempfile::Builder::new().prefix("imapmove-").tempdir().expect("a temporary folder");
        // It ends with us, even if we are killed.
        let alone = ["setpriv", "--pdeathsig", "KILL", env!("CARGO_BIN_EXE_imapmove")];
        let words: Vec<&str> = inside.iter().map(String::as_str).chain(alone).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.arg("--upstream").arg(upstream.to_string()).arg("--listen").arg(any.to_string());
        command.arg("--admin").arg(any.to_string());
        command.args(["--log-format", "text", "--drain-grace", "0s"]);
        command.args(settings.iter().flat_map(|(name, value)| [name, value]));
        let process = Process::start(command, &folder.path().join("gateway.log"));
        Gateway { address: any, admin: any, process, folder }
    }

    /// A connection through the gateway that is logged in as alice.
    pub fn login(&self) -> Client {
        Client::login(self.address)
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.process.terminate();
    }

    /// Sends SIGKILL and waits for the end of the process.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits until it has noticed that it is to end.
    pub fn wait_until_draining(&mut self) {
        let begun = Instant::now();
        while self.metric("imapmove_draining") == 0.0 {
            assert!(begun.elapsed() < START, "no drain:\n{}", tail(&self.log()));
            sleep(POLL);
        }
    }

    /// What a metric says, by its name with its labels.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.metrics();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{page}"))
    }

    /// All that it counts, as a scraper gets it.
    pub fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("the admin listener is open");
        stream.set_read_timeout(Some(START)).expect("a socket option");
        let request = "GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("the connection takes octets");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("a page of text");
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }

    /// All that it has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).expect("a log")
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        self.process.ended()
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// If it has not ended after `limit`, with the tail of its log.
    pub fn wait_for_end(&mut self, limit: Duration) -> String {
        let ended = self.process.wait(limit);
        ended.unwrap_or_else(|| panic!("the gateway still runs after {limit:?}:\n{}", tail(&self.log())))
    }

    fn wait<T>(&mut self, what: &str, find: impl Fn(&Gateway) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let ended = self.process.ended();
            if let Some(found) = find(self) {
                return found;
            }
            if ended.is_some() || begun.elapsed() > START {
                let log = tail(&self.log());
                panic!("no gateway that {what} ({ended:?}); the tail of its log:\n{log}");
            }
            sleep(POLL);
        }
    }

    /// The file that it logs to.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("gateway.log")
    }
}
