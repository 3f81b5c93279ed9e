//! Real IMAP servers, started by the recipes in `tests/servers/` and stopped when they go out of scope.

use crate::client::{self, Client};
use crate::peer::Identity;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server or a gateway may take to start, installation of missing packages included.
const START: Duration = Duration::from_secs(120);
/// How long a process may take to end after SIGTERM, before it is killed.
const STOP: Duration = Duration::from_secs(10);
/// How often a condition that no event announces (a port that opens, a process that ends) is looked at.
pub const POLL: Duration = Duration::from_millis(20);

/// A server program and the shape it is started in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The recipe: `tests/servers/NAME.sh`.
    recipe: &'static str,
    /// What the recipe calls personality.
    personality: &'static str,
    /// What stands before the name of each mailbox but INBOX.
    prefix: &'static str,
}

impl Kind {
    const fn dovecot(personality: &'static str) -> Kind {
        Kind { recipe: "dovecot", personality, prefix: "" }
    }

    /// Dovecot, Maildir, MOVE hidden.
    pub const DOVECOT: Kind = Kind::dovecot("legacy");
    /// Dovecot, mdbox, MOVE hidden.
    pub const DOVECOT_MDBOX: Kind = Kind::dovecot("legacy,mdbox");
    /// Dovecot, Maildir, MOVE hidden; a copy is a file of its own and not a hard link.
    pub const DOVECOT_OWN_COPIES: Kind = Kind::dovecot("legacy,owncopies");
    /// Dovecot, Maildir, with its own MOVE.
    pub const DOVECOT_NATIVE: Kind = Kind::dovecot("native");
    /// Dovecot without MOVE and without UIDPLUS.
    pub const DOVECOT_WITHOUT_UIDPLUS: Kind = Kind::dovecot("nouidplus");
    /// Dovecot, MOVE hidden, with the mailboxes `Locked`, `NoDelete` and `ReadOnly`.
    pub const DOVECOT_ACL: Kind = Kind::dovecot("legacy,acl");
    /// Dovecot, MOVE hidden, with a quota of 200 kB or 40 messages.
    pub const DOVECOT_QUOTA: Kind = Kind::dovecot("legacy,quota");
    /// Courier, which has no MOVE.
    pub const COURIER: Kind = Kind { recipe: "courier", personality: "legacy", prefix: "INBOX." };
    /// Courier with a quota of 200 kB or 40 messages.
    pub const COURIER_QUOTA: Kind = Kind { recipe: "courier", personality: "quota", prefix: "INBOX." };
    /// Courier that says OK to STARTTLS and then, in clear, that it failed (SRV-5); in order but for that.
    pub const COURIER_BROKEN_STARTTLS: Kind =
        Kind { recipe: "courier", personality: "legacy,brokentls", prefix: "INBOX." };
    /// Dovecot that believes the gateway where its clients come from.
    pub const DOVECOT_TRUSTING: Kind =
        Kind { recipe: "dovecot", personality: "legacy,trusted,haproxy", prefix: "" };
    /// Cyrus, MOVE suppressed.
    pub const CYRUS: Kind = Kind { recipe: "cyrus", personality: "legacy", prefix: "" };
    /// Cyrus with its own MOVE.
    pub const CYRUS_NATIVE: Kind = Kind { recipe: "cyrus", personality: "native", prefix: "" };
    /// GNU imap4d, which has neither MOVE nor UIDPLUS.
    pub const IMAP4D: Kind = Kind { recipe: "imap4d", personality: "legacy", prefix: "" };

    /// The name of its recipe.
    pub fn name(self) -> &'static str {
        self.recipe
    }

    /// The name of a mailbox as this server wants it.
    pub fn mailbox(self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether the server lists ACL, so that a MOVE asks MYRIGHTS first (MOVE-4).
    pub fn has_acl(self) -> bool {
        self.recipe != "dovecot" || self.personality.contains("acl")
    }

    /// How an ACL of this server names the user whose mailbox it is.
    pub fn owner(self) -> &'static str {
        if self.recipe == "courier" { "owner" } else { "alice" }
    }
}

/// A running server. It ends when this goes out of scope.
pub struct Server {
    /// Where it listens, in clear and for STARTTLS.
    pub address: SocketAddr,
    /// Its second port: for TLS from the first octet, if it was given a certificate.
    pub tls_address: Option<SocketAddr>,
    /// What was started.
    pub kind: Kind,
    process: Process,
    folder: TempDir,
}

impl Server {
    /// Starts a server and waits until a login succeeds.
    ///
    /// # Panics
    /// If it does not start, with the tail of its log.
    pub fn start(kind: Kind) -> Server {
        Server::start_in(folder(), kind, None)
    }

    /// [`start`](Server::start) with TLS: STARTTLS and a second port.
    pub fn start_with_tls(kind: Kind, identity: &Identity) -> Server {
        let folder = folder();
        for (from, to) in [(&identity.cert, "cert.pem"), (&identity.key, "key.pem")] {
            std::fs::copy(from, folder.path().join(to)).expect("a copy of the certificate and its key");
        }
        Server::start_in(folder, kind, Some(free_address()))
    }

    /// [`start`](Server::start) with a second port, for connections that begin with a PROXY header.
    pub fn start_with_proxied_port(kind: Kind) -> Server {
        Server::start_in(folder(), kind, Some(free_address()))
    }

    /// What it has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).expect("a log")
    }

    fn start_in(folder: TempDir, kind: Kind, tls_address: Option<SocketAddr>) -> Server {
        let address = free_address();
        let process = run_recipe(kind, folder.path(), address, tls_address);
        let mut server = Server { address, tls_address, kind, process, folder };
        server.wait();
        server
    }

    /// Ends it and starts it again, at the same address and with all that it keeps.
    pub fn restart(&mut self) {
        self.process.stop();
        self.process = run_recipe(self.kind, self.folder.path(), self.address, self.tls_address);
        self.wait();
    }

    /// A connection that is logged in as alice.
    pub fn login(&self) -> Client {
        Client::login(self.address)
    }

    /// What it wrote of what it heard inside TLS: nothing, if it cannot.
    pub fn heard(&self) -> String {
        let files = std::fs::read_dir(self.folder.path().join("heard")).expect("the folder of every recipe");
        let read = |file: std::io::Result<std::fs::DirEntry>| std::fs::read(file.expect("a file").path());
        let texts = files.map(|file| String::from_utf8_lossy(&read(file).expect("a log")).into_owned());
        texts.collect()
    }

    /// The file of alice's message with this subject. Dovecot and Courier keep mail in Maildir.
    pub fn file(&self, mailbox: &str, subject: &str) -> PathBuf {
        let home = if self.kind.recipe == "courier" { "home/alice/Maildir" } else { "mail/alice" };
        let maildir = self.folder.path().join(home).join(format!(".{mailbox}"));
        let folders =
            ["cur", "new"].map(|folder| std::fs::read_dir(maildir.join(folder)).expect("a Maildir"));
        let mut files = folders.into_iter().flatten().map(|file| file.expect("a file").path());
        let header = format!("Subject: {subject}");
        let read = |file: &PathBuf| String::from_utf8_lossy(&std::fs::read(file).expect("mail")).into_owned();
        let has = |file: &PathBuf| read(file).lines().any(|line| line == header);
        files.find(has).unwrap_or_else(|| panic!("no message {subject} in {}", maildir.display()))
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        loop {
            let ready = client::accepts_login(self.address);
            // Looked at afterwards: were the port another's, ours would have ended.
            let ended = self.process.ended();
            if ended.is_some() || begun.elapsed() > START {
                let log = tail(&self.folder.path().join("server.log"));
                panic!("{:?} did not start ({ended:?}); the tail of its log:\n{log}", self.kind);
            }
            if ready {
                return;
            }
            sleep(POLL);
        }
    }
}

fn run_recipe(kind: Kind, folder: &Path, address: SocketAddr, tls_address: Option<SocketAddr>) -> Process {
    let recipe = format!("{}/tests/servers/{}.sh", env!("CARGO_MANIFEST_DIR"), kind.recipe);
    let mut command = Command::new("bash");
    command.arg(recipe).arg(folder).arg(address.port().to_string()).arg(kind.personality);
    command.args(tls_address.map(|address| address.port().to_string()));
    Process::start(command, &folder.join("server.log"))
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("imapmove-").tempdir().expect("a temporary folder")
}

/// A child process in a process group of its own, which ends when this goes out of scope.
pub struct Process(Child);

impl Process {
    /// Starts a command whose output goes to `log`.
    pub fn start(mut command: Command, log: &Path) -> Process {
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        let errors = log.try_clone().expect("a second handle of the log file");
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        Process(command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}")))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        self.0.try_wait().expect("the process is our child").map(|status| status.to_string())
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let _ = kill_process(self.pid(), Signal::TERM); // it may have ended already
    }

    /// Sends SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        let _ = kill_process(self.pid(), Signal::KILL); // it may have ended already
        let _ = self.0.wait();
    }

    /// Waits for its end, at most for `limit`; what it ended with.
    pub fn wait(&mut self, limit: Duration) -> Option<String> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            sleep(POLL);
        }
        None
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Process {
    /// SIGTERM, and if that does not end it, SIGKILL.
    fn stop(&mut self) {
        if self.ended().is_none() {
            self.terminate();
        }
        if self.wait(STOP).is_none() {
            let _ = kill_process_group(self.pid(), Signal::KILL); // it may end this very moment
            let _ = self.0.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A loopback address whose port nobody listens on. Below the kernel's own range, so that no outgoing connection
/// takes the port before the server does.
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 10_240;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (u32::from(start) + u32::from(step)).rem_euclid(u32::from(COUNT)) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|text| String::from_utf8_lossy(&text).into_owned());
    let text = text.unwrap_or_else(|e| format!("(no log: {e})"));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// It is never skipped.
#[test]
#[should_panic(expected = "did not start")]
fn a_server_that_does_not_start_fails_its_test() {
    Server::start(Kind { recipe: "none", personality: "legacy", prefix: "" });
}
