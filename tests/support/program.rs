//! The program as a process of its own: where it serves, what it counts, what it takes up.

#![allow(dead_code, reason = "each test crate that takes this in uses a part of it")]

use crate::peer::{PATIENCE, Peer, Trust};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Duration, Instant, sleep, timeout};

/// How often a condition that no event announces is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What it is given where a test gives nothing else.
const OURS: [(&str, &str); 4] = [
    ("--listen", "127.0.0.1:0"),
    ("--admin", "127.0.0.1:0"),
    ("--log-format", "text"),
    ("--drain-grace", "0s"),
];

/// Of a client's socket, each way.
const BUFFER: u32 = 256 << 10;

/// A running `imapmove`. It ends when this goes out of scope.
pub struct Program {
    plain: SocketAddr,
    tls: Option<SocketAddr>,
    admin: SocketAddr,
    process: Child,
    log: Arc<Mutex<String>>,
}

impl Program {
    /// Starts it in front of `upstream` with further flags, and waits until it listens.
    pub fn start(upstream: SocketAddr, flags: &[&str]) -> Program {
        Program::start_under("true", upstream, flags)
    }

    /// [`start`](Program::start) behind a command of the shell's, such as `ulimit -n 40`.
    pub fn start_under(limit: &str, upstream: SocketAddr, flags: &[&str]) -> Program {
        // setpriv: ends with us, even if we are killed.
        let script = format!("{limit} && exec setpriv --pdeathsig KILL \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_imapmove"), "--upstream", &upstream.to_string()]);
        for (flag, value) in OURS.iter().filter(|(flag, _)| !flags.contains(flag)) {
            command.args([flag, value]);
        }
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::null());
        Program::run(command, flags.contains(&"--listen-tls"))
    }

    /// As systemd does it: these sockets are `listen` and `admin`, and a variable says where it wants to be told.
    pub fn start_by_systemd(upstream: SocketAddr, sockets: [OwnedFd; 2], variable: &str) -> Program {
        let [listen, admin] = sockets.map(Stdio::from);
        // They come as its stdin and stdout, and have to be 3 and 4.
        let script = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=listen:admin; \
                      exec setpriv --pdeathsig KILL env \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", variable, env!("CARGO_BIN_EXE_imapmove")]);
        command.args(["--upstream", &upstream.to_string(), "--log-format", "text", "--drain-grace", "0s"]);
        command.stdin(listen).stdout(admin);
        Program::run(command, false)
    }

    /// Another process at the same address.
    pub fn another_there(&self, upstream: SocketAddr) -> Program {
        Program::start(upstream, &["--listen", &self.plain.to_string(), "--reuse-port"])
    }

    fn run(mut command: Command, with_tls: bool) -> Program {
        let mut process = command.stderr(Stdio::piped()).spawn().expect("a shell");
        let mut log = BufReader::new(process.stderr.take().expect("piped"));
        let mut others = String::new();
        let plain = announced(&mut log, &mut others, "listen");
        let tls = with_tls.then(|| announced(&mut log, &mut others, "listen-tls"));
        let admin = announced(&mut log, &mut others, "admin");
        Program { plain, tls, admin, process, log: kept(log, others) }
    }

    /// Where clients connect in clear.
    pub fn address(&self) -> SocketAddr {
        self.plain
    }

    /// Where its admin pages are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it runs");
    }

    /// Whether a client that trusts only this authority cannot connect with TLS.
    pub async fn refuses(&self, trust: &Trust) -> bool {
        Peer::plain(self.connect_raw_tls().await).into_tls_client(trust).await.is_err()
    }

    /// A client in clear.
    pub async fn connect(&self) -> Peer {
        Peer::plain(self.connect_raw(Ipv4Addr::LOCALHOST).await)
    }

    /// The socket of a client with this address, which can be any of 127.0.0.0/8.
    pub async fn connect_raw(&self, from: Ipv4Addr) -> TcpStream {
        connect(from, self.plain).await
    }

    /// The socket of a client that should begin with TLS.
    pub async fn connect_raw_tls(&self) -> TcpStream {
        connect(Ipv4Addr::LOCALHOST, self.tls.expect("listens with TLS")).await
    }

    /// A client in TLS.
    pub async fn connect_tls(&self, trust: &Trust) -> Peer {
        Peer::plain(self.connect_raw_tls().await).into_tls_client(trust).await.expect("a handshake")
    }

    /// What a series of `/metrics` says, such as `panics_total` or `limit_hits_total{limit="pipelined"}`.
    pub async fn metric(&self, series: &str) -> u64 {
        let page = timeout(PATIENCE, self.metrics()).await.expect("the admin listener answers in time");
        let name = if series.starts_with("process_") { "" } else { "imapmove_" };
        let value = page.lines().find_map(|line| line.strip_prefix(&format!("{name}{series} ")));
        let value: f64 = value.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().expect("a number");
        value as u64
    }

    async fn metrics(&self) -> String {
        self.page("/metrics").await
    }

    /// An admin page, its head included.
    pub async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.expect("connects");
        let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut page = String::new();
        stream.read_to_string(&mut page).await.expect("reads");
        page
    }

    /// How often a limit was met.
    pub async fn limit_hits(&self, limit: &str) -> u64 {
        self.metric(&format!("limit_hits_total{{limit=\"{limit}\"}}")).await
    }

    /// Waits until a series says so.
    pub async fn until_metric(&self, series: &str, is_so: impl Fn(u64) -> bool) {
        let begun = Instant::now();
        let mut value = self.metric(series).await;
        while !is_so(value) {
            assert!(begun.elapsed() < 6 * PATIENCE, "{series} stays at {value}\n{}", self.log_tail());
            sleep(POLL).await;
            value = self.metric(series).await;
        }
    }

    /// What of its memory is in RAM, in octets.
    pub fn memory(&self) -> usize {
        self.status("VmRSS:")
    }

    /// The most that it ever was.
    pub fn peak_memory(&self) -> usize {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("it runs").count()
    }

    /// Waits until it has so many open, or fewer.
    pub async fn until_descriptors(&self, most: usize) {
        let begun = Instant::now();
        while self.descriptors() > most {
            assert!(begun.elapsed() < PATIENCE, "{} descriptors, not {most}", self.descriptors());
            sleep(POLL).await;
        }
    }

    /// It runs, and no session has ended in a panic.
    pub async fn is_unharmed(&mut self) {
        let ended = self.process.try_wait().expect("our child");
        assert!(ended.is_none(), "it ended: {ended:?}\n{}", self.log_tail());
        assert_eq!(self.metric("panics_total").await, 0, "panics:\n{}", self.log_tail());
    }

    /// Sends SIGTERM, and waits until it has noticed it.
    pub async fn terminate(&self) {
        self.signal(Signal::TERM);
        self.until_logged(" draining ").await;
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            match self.process.try_wait().expect("our child") {
                Some(status) => return status,
                None => assert!(begun.elapsed() < 12 * PATIENCE, "it goes on\n{}", self.log_tail()),
            }
            sleep(POLL).await;
        }
    }

    /// Sends SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("our child");
    }

    /// Waits for a line of the log that holds the words.
    pub async fn until_logged(&self, words: &str) {
        let begun = Instant::now();
        while !self.log.lock().expect("nobody panics while writing to it").contains(words) {
            assert!(begun.elapsed() < 6 * PATIENCE, "no {words:?} in\n{}", self.log_tail());
            sleep(POLL).await;
        }
    }

    /// What was logged so far.
    pub fn logged(&self) -> String {
        self.log.lock().expect("nobody panics while writing to it").clone()
    }

    /// What was logged so far is of no interest any more.
    pub fn forget_log(&self) {
        self.log.lock().expect("nobody panics while writing to it").clear();
    }

    fn log_tail(&self) -> String {
        let log = self.log.lock().expect("nobody panics while writing to it");
        log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Where something should be full, little is enough.
    socket.set_send_buffer_size(BUFFER).expect("a socket option");
    socket.set_recv_buffer_size(BUFFER).expect("a socket option");
    if from != Ipv4Addr::LOCALHOST {
        socket.bind((IpAddr::V4(from), 0).into()).expect("a loopback address");
    }
    let connected = timeout(PATIENCE, socket.connect(to)).await.expect("a connection in time");
    let stream = connected.expect("connects");
    stream.set_nodelay(true).expect("a socket option");
    stream
}

/// What else is logged meanwhile, by the journal's thread for one, is kept.
fn announced(log: &mut BufReader<ChildStderr>, others: &mut String, setting: &str) -> SocketAddr {
    loop {
        let mut line = String::new();
        log.read_line(&mut line).expect("reads");
        assert!(!line.is_empty(), "it ended before it listened at {setting}:\n{others}");
        // As text or as JSON.
        let words: Vec<&str> = line.trim_end().split(['"', ' ', '=', ',', '}', '{']).collect();
        if words.contains(&"listening") && words.contains(&setting) {
            return words.iter().find_map(|word| word.parse().ok()).expect("an address");
        }
        others.push_str(&line);
    }
}

/// Reads on, so that the program never waits for its log.
fn kept(mut log: BufReader<ChildStderr>, others: String) -> Arc<Mutex<String>> {
    let kept = Arc::new(Mutex::new(others));
    let lines = kept.clone();
    std::thread::spawn(move || {
        let mut line = String::new();
        while log.read_line(&mut line).is_ok_and(|octets| octets > 0) {
            lines.lock().expect("nobody panics while reading it").push_str(&line);
            line.clear();
        }
    });
    kept
}
