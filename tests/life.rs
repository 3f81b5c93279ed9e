//! The life of the process: new settings and certificates, an end that nobody notices, and what systemd does for it.

#[path = "support/peer.rs"]
mod peer;
#[path = "support/program.rs"]
mod program;

use peer::{Authority, PATIENCE, Peer, Trust, Upstream};
use program::Program;
use rustix::process::Signal;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// An upstream that says OK to everything.
fn agreeable(upstream: Upstream) {
    tokio::spawn(async move {
        loop {
            let mut server = upstream.accept_any().await;
            tokio::spawn(async move {
                server.send("* OK [CAPABILITY IMAP4rev1 UIDPLUS] ready\r\n").await;
                while let Some(line) = server.line_or_end().await {
                    let tag = line.split(' ').next().expect("a word");
                    server.send(format!("{tag} OK [CAPABILITY IMAP4rev1 UIDPLUS] done\r\n")).await;
                }
            });
        }
    });
}

async fn log_in(client: &mut Peer) {
    client.until("* OK ").await;
    client.send("a LOGIN alice wonderland\r\n").await;
    client.until("a OK ").await;
}

async fn is_answered(client: &mut Peer) {
    client.send("b NOOP\r\n").await;
    client.until("b OK ").await;
}

/// Files that a gateway reads, and may read again.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").to_string()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).expect("writes");
    }

    /// The certificate and the key that the gateway is to show.
    fn show(&self, authority: &Authority) {
        let identity = authority.issue("gateway.test");
        self.write("cert.pem", fs::read(&identity.cert).expect("reads"));
        self.write("key.pem", fs::read(&identity.key).expect("reads"));
    }

    fn settings(&self, more: &str) {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        self.write("settings.toml", format!("tls-cert = {cert:?}\ntls-key = {key:?}\n{more}"));
    }
}

/// A reload under 200 sessions drops none; whatever cannot be used changes nothing, and shows.
#[tokio::test]
async fn a_new_certificate_without_dropping_a_session() {
    let (old, new, files) = (Authority::new(), Authority::new(), Files::new());
    files.show(&old);
    files.settings("");
    let upstream = Upstream::new().await;
    let address = upstream.address();
    agreeable(upstream);
    let file = files.path("settings.toml");
    let program = Program::start(address, &["--config", &file, "--listen-tls", "127.0.0.1:0"]);
    let mut sessions = Vec::new();
    for _ in 0..200 {
        let mut client = program.connect_tls(&Trust::of(&old)).await;
        log_in(&mut client).await;
        sessions.push(client);
    }
    let until_first = program.metric("tls_certificate_not_after_timestamp_seconds").await;
    assert!(until_first > 1_700_000_000, "{until_first}");

    files.show(&new);
    program.signal(Signal::HUP);
    program.until_logged("settings and certificates reloaded").await;
    log_in(&mut program.connect_tls(&Trust::of(&new)).await).await;
    assert!(program.refuses(&Trust::of(&old)).await, "the old certificate is not shown any more");

    files.write("cert.pem", "-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n");
    program.signal(Signal::HUP);
    program.until_metric("config_last_reload_successful", |value| value == 0).await;
    program.until_logged("tls-cert (file ").await;
    log_in(&mut program.connect_tls(&Trust::of(&new)).await).await;

    files.show(&new);
    files.settings("max-connections = 0\n");
    program.signal(Signal::HUP);
    program.until_logged("max-connections (file ").await;
    assert_eq!(program.metric("config_last_reload_successful").await, 0);

    files.settings("log-level = \"debug\"\nmax-connections = 203\nmax-line = 600\nlog-user = \"none\"\n");
    program.signal(Signal::HUP);
    program.until_metric("config_last_reload_successful", |value| value == 1).await;
    program.until_logged("need_a_restart=\"log-user\"").await;
    for client in &mut sessions {
        is_answered(client).await;
    }
    program.until_metric("connections_active", |value| value == 200).await;
    let more = [program.connect().await, program.connect().await, program.connect().await];
    for mut client in more {
        client.until("* OK ").await;
        sessions.push(client);
    }
    let mut one_more = program.connect().await;
    one_more.until("* BYE [UNAVAILABLE] Too many connections").await;
}

/// Who was offered STARTTLS can still have it: to do without a certificate needs a restart.
#[tokio::test]
async fn a_certificate_is_not_taken_away_by_a_reload() {
    let (authority, files) = (Authority::new(), Files::new());
    files.show(&authority);
    files.settings("");
    let upstream = Upstream::new().await;
    let address = upstream.address();
    agreeable(upstream);
    let program = Program::start(address, &["--config", &files.path("settings.toml")]);
    let mut client = program.connect().await;
    assert!(client.line().await.contains("STARTTLS"));
    files.write("settings.toml", "");
    program.signal(Signal::HUP);
    program.until_metric("config_last_reload_successful", |value| value == 0).await;
    program.until_logged("tls-cert: not given, expected a PEM file, as until now: only a restart").await;
    client.send("a STARTTLS\r\n").await;
    client.until("a OK ").await;
    is_answered(&mut client.into_tls_client(&Trust::of(&authority)).await.expect("a handshake")).await;
}

/// A reload that waits for a disk keeps neither the next one nor the end.
#[tokio::test]
async fn a_reload_that_hangs_makes_way() {
    let files = Files::new();
    let upstream = Upstream::new().await;
    files.write("settings.toml", "max-line = 600\n");
    let mut program = Program::start(upstream.address(), &["--config", &files.path("settings.toml")]);
    let pipe = files.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
    files.write("settings.toml", format!("tls-cert = {pipe:?}\ntls-key = {pipe:?}\n"));
    program.signal(Signal::HUP);
    // It can be opened once somebody reads from it.
    let open = move || File::options().write(true).open(pipe).expect("opens");
    let opened = tokio::task::spawn_blocking(open);
    let _hangs = timeout(PATIENCE, opened).await.expect("is read").expect("no panic");
    files.write("settings.toml", "log-user = \"none\"\n");
    program.signal(Signal::HUP);
    program.until_logged("settings and certificates reloaded need_a_restart=\"log-user\"").await;
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await.code(), Some(0));
}

/// Else an operator looks for what cannot be seen.
#[tokio::test]
async fn a_server_that_cannot_be_told_where_clients_come_from_is_named_once() {
    let upstream = Upstream::new().await;
    let address = upstream.address();
    agreeable(upstream);
    let program = Program::start(address, &["--forward-client-id"]);
    for _ in 0..2 {
        log_in(&mut program.connect().await).await;
    }
    program.until_logged("forward-client-id has no effect").await;
    assert_eq!(program.logged().matches("forward-client-id").count(), 1, "{}", program.logged());
}

/// In each line about a session its user is named as the operator wants it.
#[tokio::test]
async fn users_in_the_log() {
    let upstream = Upstream::new().await;
    let address = upstream.address();
    agreeable(upstream);
    for (how, format, named) in [
        ("plain", "text", " user=\"alice\" "),
        ("plain", "json", "\"user\":\"alice\""),
        ("hash", "text", " user=\""),
        ("none", "text", " listener=\"plain\" address="),
    ] {
        let program = Program::start(address, &["--log-user", how, "--log-format", format]);
        log_in(&mut program.connect().await).await;
        program.until_logged("session ended").await;
        let log = program.logged();
        assert!(log.contains(named), "{how}, {format}: {log}");
        assert_eq!(log.contains("alice"), how == "plain", "{how}, {format}: {log}");
    }
}

/// While it retires, who connects is served, and probes say that others should be asked.
#[tokio::test]
async fn the_grace_of_a_drain() {
    let upstream = Upstream::new().await;
    let address = upstream.address();
    agreeable(upstream);
    let mut program = Program::start(address, &["--drain-grace", "1h"]);
    let mut before = program.connect().await;
    log_in(&mut before).await;
    program.signal(Signal::TERM);
    program.until_metric("draining", |value| value == 1).await;
    assert!(program.page("/readyz").await.starts_with("HTTP/1.1 503 "));
    assert!(program.page("/livez").await.starts_with("HTTP/1.1 200 "));
    log_in(&mut program.connect().await).await;
    is_answered(&mut before).await;
    program.signal(Signal::HUP);
    program.until_logged("not reloaded: the gateway is draining").await;
    program.signal(Signal::TERM);
    before.until("* BYE ").await;
    assert_eq!(program.ended().await.code(), Some(1), "a session was cut");
}

/// Who says nothing where a handshake is due has no longer than who does not log in.
#[tokio::test]
async fn a_silent_handshake_does_not_hold_a_drain() {
    let (authority, files) = (Authority::new(), Files::new());
    files.show(&authority);
    files.settings("");
    let upstream = Upstream::new().await;
    let address = upstream.address();
    agreeable(upstream);
    let file = files.path("settings.toml");
    let mut program = Program::start(address, &["--config", &file, "--listen-tls", "127.0.0.1:0"]);
    let _implicit = program.connect_raw_tls().await;
    let mut starttls = program.connect().await;
    starttls.until("* OK ").await;
    starttls.send("a STARTTLS\r\n").await;
    starttls.until("a OK ").await;
    program.until_metric("connections_active", |value| value == 2).await;
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await.code(), Some(0), "nobody was cut");
    program.until_logged("session ended").await;
    let log = program.logged();
    assert_eq!(log.matches("The gateway is shutting down").count(), 2, "{log}");
}

/// Whoever asks at an admin port that two processes share learns of the one that stays.
#[tokio::test]
async fn the_process_that_leaves_gives_up_a_shared_admin_port() {
    let upstream = Upstream::new().await;
    let address = upstream.address();
    agreeable(upstream);
    let old = Program::start(address, &["--drain-grace", "1h", "--reuse-port"]);
    let new = Program::start(address, &["--reuse-port", "--admin", &old.admin().to_string()]);
    log_in(&mut new.connect().await).await;
    old.signal(Signal::TERM);
    old.until_logged("draining").await;
    for _ in 0..50 {
        assert_eq!(new.metric("connections_total{listener=\"plain\"}").await, 1);
        assert_eq!(new.metric("draining").await, 0);
    }
}

/// A rolling restart on one host: both listen, then the old one leaves; no login fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_process_takes_over_without_a_failed_login() {
    let upstream = Upstream::new().await;
    let address = upstream.address();
    agreeable(upstream);
    let mut old = Program::start(address, &["--drain-grace", "300ms", "--reuse-port"]);
    let new = old.another_there(address);
    let (stop, logins) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (stop, logins, at) = (stop.clone(), logins.clone(), old.address());
        clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let stream = timeout(PATIENCE, TcpStream::connect(at)).await.expect("in time");
                log_in(&mut Peer::plain(stream.expect("connects"))).await;
                logins.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let served = "connections_total{listener=\"plain\"}";
    old.until_metric(served, |value| value >= 20).await;
    new.until_metric(served, |value| value >= 20).await;
    old.signal(Signal::TERM);
    assert_eq!(old.ended().await.code(), Some(0), "a clean end");
    let alone = new.metric(served).await;
    new.until_metric(served, |value| value >= alone + 20).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("each login succeeded");
    }
    assert!(logins.load(Ordering::Relaxed) >= 60);
}

/// systemd opens the sockets, and is told how far the process is.
#[tokio::test]
async fn systemd_opens_the_sockets_and_is_told() {
    let upstream = Upstream::new().await;
    let address = upstream.address();
    agreeable(upstream);
    let folder = tempfile::tempdir().expect("a folder");
    let told = UnixDatagram::bind(folder.path().join("notify")).expect("binds");
    told.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let next = || {
        let mut message = [0; 512];
        let length = told.recv(&mut message).expect("a message in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let (listen, admin) = (socket(), socket());
    let at = listen.local_addr().expect("bound");
    let kept = [&listen, &admin].map(|socket| socket.try_clone().expect("a second handle"));
    let variable = format!("NOTIFY_SOCKET={}", folder.path().join("notify").display());
    let mut program = Program::start_by_systemd(address, [listen, admin].map(OwnedFd::from), &variable);
    assert_eq!(next(), "READY=1\n");
    assert_eq!(program.address(), at);
    log_in(&mut program.connect().await).await;
    assert_eq!(program.metric("connections_total{listener=\"plain\"}").await, 1);
    program.signal(Signal::HUP);
    let reloading = next();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(next(), "READY=1\n");
    program.signal(Signal::TERM);
    assert_eq!(next(), "STOPPING=1\n");
    assert_eq!(program.ended().await.code(), Some(0));

    // systemd has the sockets still, and gives them to the next one: who connects in between waits.
    let early = TcpStream::connect(at);
    let early = timeout(PATIENCE, early).await.expect("in time").expect("connects");
    let again = Program::start_by_systemd(address, kept.map(OwnedFd::from), &variable);
    assert_eq!(next(), "READY=1\n");
    log_in(&mut Peer::plain(early)).await;
    log_in(&mut again.connect().await).await;
}

fn socket() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("binds")
}
