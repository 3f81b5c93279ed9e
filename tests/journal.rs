//! FAULT-4 with the program itself: killed in the middle of a MOVE, what does it leave, and who finds it? The server is
//! scripted, so that the kill comes at a known step.

use imapmove::imap::{Owner, Unfinished};
use imapmove::journal::{Answer, Journal};
use imapmove::metrics::Metrics;
use std::fs;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);
const PASSWORD: &str = "canary-of-a-password";
const SUBJECT: &str = "canary-of-a-subject";
/// The shell's part where nothing is to be changed.
const PLAIN: &str = "exec \"$@\"";
/// The same, with a server that counts as hung soon.
const IMPATIENT: &str = "exec \"$@\" --move-timeout 1s";
const COPYUID: &str = "[COPYUID 9 2,4 7:8]";

/// A peer of the gateway's.
struct Peer(TcpStream);

impl Peer {
    fn new(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Peer(stream)
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("writes");
    }

    fn line(&mut self) -> String {
        let (mut line, mut octet) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") && self.0.read(&mut octet).expect("reads in time") == 1 {
            line.push(octet[0]);
        }
        let line = String::from_utf8(line).expect("text");
        line.strip_suffix("\r\n").unwrap_or_else(|| panic!("the end came after {line:?}")).to_string()
    }

    /// Reads up to a line that begins so.
    fn until(&mut self, start: &str) -> String {
        loop {
            let line = self.line();
            if line.starts_with(start) {
                return line;
            }
        }
    }

    /// The next command, without its tag, which is returned.
    fn command(&mut self, expected: &str) -> String {
        let line = self.line();
        let (tag, command) = line.split_once(' ').expect("a tag and a command");
        assert_eq!(command, expected);
        tag.to_string()
    }
}

/// The program, with a journal.
struct Gateway {
    process: Child,
    upstream: TcpListener,
    folder: TempDir,
    log: TempDir,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    fn start() -> Gateway {
        let (folder, upstream) = (tempfile::tempdir(), TcpListener::bind("127.0.0.1:0"));
        Gateway::start_with(folder.expect("a folder"), upstream.expect("binds"), PLAIN)
    }

    /// Started by a line of shell.
    fn start_with(folder: TempDir, upstream: TcpListener, shell: &str) -> Gateway {
        let log = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", shell, "sh", env!("CARGO_BIN_EXE_imapmove"), "--log-level", "trace"]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--log-format", "text", "--drain-grace", "0s"]);
        command.arg("--upstream").arg(upstream.local_addr().expect("bound").to_string());
        command.arg("--journal").arg(folder.path());
        let stderr = fs::File::create(log.path().join("log")).expect("a log");
        let process = command.stdin(Stdio::null()).stderr(stderr).spawn().expect("starts");
        let unknown = SocketAddr::from(([0; 4], 0));
        let mut gateway = Gateway { process, upstream, folder, log, listen: unknown, admin: unknown };
        gateway.admin = gateway.announced("admin");
        gateway.listen = gateway.announced("listen");
        gateway
    }

    fn announced(&self, setting: &str) -> SocketAddr {
        let line = self.wait_for(&format!("listening setting=\"{setting}\""));
        line.rsplit_once("address=").expect("an address").1.parse().expect("an address")
    }

    /// The first line of the log that holds these words.
    fn wait_for(&self, words: &str) -> String {
        let mut found = None;
        wait(words, || {
            found = self.log().lines().find(|line| line.contains(words)).map(str::to_string);
            found.is_some()
        });
        found.expect("it was waited for")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log.path().join("log")).expect("a log")
    }

    fn metric(&self, name: &str) -> String {
        let mut peer = Peer::new(TcpStream::connect(self.admin).expect("connects"));
        peer.send("GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n");
        let mut page = String::new();
        peer.0.read_to_string(&mut page).expect("reads");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).to_string()
    }

    /// Client and server, behind a login.
    fn logged_in(&self) -> (Peer, Peer) {
        let mut client = Peer::new(TcpStream::connect(self.listen).expect("connects"));
        let mut server = Peer::new(self.upstream.accept().expect("the gateway connects").0);
        server.send("* OK [CAPABILITY IMAP4rev1 UIDPLUS LITERAL+] ready\r\n");
        client.send(&format!("a LOGIN alice {PASSWORD}\r\n"));
        server.command(&format!("LOGIN alice {PASSWORD}"));
        server.send("a OK [CAPABILITY IMAP4rev1 UIDPLUS LITERAL+] in\r\n");
        client.until("a OK");
        (client, server)
    }

    /// Client and server, with a mailbox selected.
    fn selected(&self) -> (Peer, Peer) {
        let (mut client, mut server) = self.logged_in();
        client.send("b SELECT INBOX\r\n");
        server.command("SELECT INBOX");
        server.send("* 4 EXISTS\r\n* OK [UIDVALIDITY 1] valid\r\nb OK [READ-WRITE] selected\r\n");
        client.until("b OK");
        (client, server)
    }

    fn files(&self, ending: &str) -> Vec<PathBuf> {
        files(self.folder.path(), ending)
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.process.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// SIGKILL. Its folder stays.
    fn kill(mut self) -> (TempDir, SocketAddr) {
        self.process.kill().expect("kills");
        self.process.wait().expect("ends");
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        (folder, self.upstream.local_addr().expect("bound"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(Duration::from_millis(20));
    }
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let items = fs::read_dir(folder).expect("reads").map(|item| item.expect("an item").path());
    items.filter(|path| path.extension().is_some_and(|e| e == ending)).collect()
}

/// The server's side of a MOVE of 2 and 4 up to the COPY, whose tag is returned.
fn up_to_copy(client: &mut Peer, server: &mut Peer) -> String {
    client.send("c UID MOVE 2,4 Archive\r\n");
    let tag = server.command("UID FETCH 2,4 (UID)");
    server.send(&format!("* 2 FETCH (UID 2)\r\n* 4 FETCH (UID 4)\r\n{tag} OK done\r\n"));
    let tag = server.command("UID SEARCH UID 2,4 DELETED");
    server.send(&format!("* SEARCH\r\n{tag} OK done\r\n"));
    server.command("UID COPY 2,4 Archive")
}

/// The same up to the UID EXPUNGE.
fn up_to_expunge(client: &mut Peer, server: &mut Peer) -> String {
    let copy = up_to_copy(client, server);
    server.send(&format!("{copy} OK {COPYUID} done\r\n"));
    let tag = server.command("UID STORE 2,4 +FLAGS.SILENT (\\Deleted)");
    server.send(&format!("{tag} OK done\r\n"));
    server.command("UID EXPUNGE 2,4")
}

fn to_the_end(client: &mut Peer, server: &mut Peer) {
    let tag = up_to_expunge(client, server);
    server.send(&format!("* 4 EXPUNGE\r\n* 2 EXPUNGE\r\n{tag} OK done\r\n"));
    client.until("c OK");
}

/// What a journal in this process offers alice.
async fn offered(journal: &Journal) -> Vec<Unfinished> {
    let mut ledger = journal.session();
    ledger.ask(Owner { user: b"alice".into(), utf8: false });
    match poll_fn(|cx| ledger.poll(cx)).await {
        Answer::Unfinished(offered) => offered,
        answer => panic!("no list: {answer:?}"),
    }
}

fn journal(folder: &Path, upstream: SocketAddr) -> (Journal, Arc<Metrics>) {
    let metrics: Arc<Metrics> = Arc::default();
    (Journal::open(folder, upstream.to_string(), metrics.clone()).expect("a folder"), metrics)
}

fn proved(offered: &[Unfinished]) {
    let [only] = offered else { panic!("one MOVE: {offered:?}") };
    assert_eq!(
        (&only.source[..], only.source_validity, &only.target[..]),
        (&b"INBOX"[..], 1, &b"Archive"[..])
    );
    let copyuid = String::from_utf8(only.copyuid.clone()).expect("text");
    assert!(copyuid.contains(COPYUID), "{copyuid}");
}

#[tokio::test]
async fn fault_4_killed_when_store_was_sent_it_leaves_the_proof_for_the_next_gateway() {
    let gateway = Gateway::start();
    let (mut client, mut server) = gateway.selected();
    up_to_expunge(&mut client, &mut server);
    let (folder, upstream) = gateway.kill();
    let (journal, _) = journal(folder.path(), upstream);
    proved(&offered(&journal).await);
    journal.close().await;
}

#[tokio::test]
async fn fault_4_a_gateway_that_runs_already_finds_it_too_but_not_before_the_kill() {
    let gateway = Gateway::start();
    let upstream = gateway.upstream.local_addr().expect("bound");
    let (other, _) = journal(gateway.folder.path(), upstream);
    let (mut client, mut server) = gateway.selected();
    up_to_expunge(&mut client, &mut server);
    assert_eq!(offered(&other).await, []);
    let (_folder, _) = gateway.kill();
    proved(&offered(&other).await);
    other.close().await;
}

#[test]
fn fault_4_who_was_told_no_finds_the_move_finished_while_the_session_that_said_so_lives() {
    let (folder, upstream) = (tempfile::tempdir(), TcpListener::bind("127.0.0.1:0"));
    let gateway = Gateway::start_with(folder.expect("a folder"), upstream.expect("binds"), IMPATIENT);
    let (mut client, mut hung) = gateway.selected();
    up_to_expunge(&mut client, &mut hung);
    client.until("c NO [UNAVAILABLE]");
    let (mut again, mut server) = gateway.logged_in();
    again.send("b SELECT INBOX\r\n");
    server.command("EXAMINE \"Archive\"");
    drop((client, hung));
}

#[tokio::test]
async fn fault_4_a_draining_gateway_leaves_the_move_to_another_one_before_it_has_ended() {
    let mut gateway = Gateway::start();
    let (other, _) = journal(gateway.folder.path(), gateway.upstream.local_addr().expect("bound"));
    let (mut client, mut server) = gateway.selected();
    let (mut waiting, mut busy) = gateway.logged_in();
    waiting.send("b LIST \"\" *\r\n");
    busy.command("LIST \"\" *");
    up_to_expunge(&mut client, &mut server);
    gateway.signal("TERM");
    gateway.wait_for("draining");
    assert_eq!(offered(&other).await, []);
    drop(server);
    client.until("c NO [UNAVAILABLE]");
    gateway.wait_for("left unfinished MOVEs to another gateway");
    proved(&offered(&other).await);
    assert!(gateway.process.try_wait().expect("a process").is_none(), "somebody still waits for a LIST");
    busy.send("b OK done\r\n");
    waiting.until("b OK");
    other.close().await;
}

#[tokio::test]
async fn fault_4_killed_when_copy_was_sent_it_leaves_a_report_and_nothing_to_act_on() {
    let gateway = Gateway::start();
    let (mut client, mut server) = gateway.selected();
    up_to_copy(&mut client, &mut server);
    let (folder, upstream) = gateway.kill();
    let (journal, metrics) = journal(folder.path(), upstream);
    assert_eq!(offered(&journal).await, []);
    assert_eq!(metrics.recoveries.with_label_values(&["unproven"]).get(), 1);
    journal.close().await;
    assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 0);
}

#[test]
fn fault_4_the_report_names_the_mailboxes_and_never_the_user() {
    let gateway = Gateway::start();
    let (mut client, mut server) = gateway.selected();
    up_to_copy(&mut client, &mut server);
    // The upstream is the same address again.
    let upstream = gateway.upstream.try_clone().expect("a handle");
    let (folder, _) = gateway.kill();
    let next = Gateway::start_with(folder, upstream, PLAIN);
    let line = next.wait_for("cut short");
    let mailboxes = ["from=\"INBOX\"", "to=\"Archive\"", "uids=\"2,4\""];
    for part in [" WARN ", "result=\"unproven\"", "messages=2", "at=\"20"].into_iter().chain(mailboxes) {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert!(!next.log().contains("alice"));
    assert_eq!(next.metric("imapmove_recoveries_total{result=\"unproven\"}"), "1");
}

#[test]
fn fault_4_no_password_and_nothing_of_a_message_is_ever_in_the_file() {
    let gateway = Gateway::start();
    let (mut client, mut server) = gateway.selected();
    for _ in 0..3 {
        client.send("f FETCH 2 BODY[]\r\n");
        server.command("FETCH 2 BODY[]");
        let message = format!("Subject: {SUBJECT}\r\n\r\nHello\r\n");
        server.send(&format!("* 2 FETCH (BODY[] {{{}}}\r\n{message})\r\nf OK done\r\n", message.len()));
        client.until("f OK");
        to_the_end(&mut client, &mut server);
        server_counts_four_again(&mut client, &mut server);
    }
    up_to_expunge(&mut client, &mut server);
    let (folder, _) = gateway.kill();
    let octets = fs::read(&files(folder.path(), "journal")[0]).expect("reads");
    let holds = |text: &str| octets.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("alice") && holds("Archive") && holds(COPYUID), "what it is for");
    assert!(!holds(PASSWORD) && !holds(SUBJECT) && !holds("Hello"));
}

fn server_counts_four_again(client: &mut Peer, server: &mut Peer) {
    client.send("n NOOP\r\n");
    server.command("NOOP");
    server.send("* 4 EXISTS\r\nn OK done\r\n");
    client.until("n OK");
}

#[test]
fn fault_4_a_clean_end_leaves_no_file() {
    let mut gateway = Gateway::start();
    let (mut client, mut server) = gateway.selected();
    to_the_end(&mut client, &mut server);
    assert_eq!(gateway.files("journal").len(), 1);
    gateway.signal("TERM");
    assert!(client.until("* BYE").starts_with("* BYE"));
    drop((client, server));
    assert_eq!(gateway.process.wait().expect("ends").code(), Some(0), "{}", gateway.log());
    assert_eq!(fs::read_dir(gateway.folder.path()).expect("reads").count(), 0);
}

#[test]
fn fault_4_a_disk_that_is_full_stops_no_move() {
    // No file may become larger than 64 KiB: less than a journal needs to begin with.
    let full = "trap '' XFSZ; ulimit -f 128; exec \"$@\"";
    let (folder, upstream) = (tempfile::tempdir(), TcpListener::bind("127.0.0.1:0"));
    let gateway = Gateway::start_with(folder.expect("a folder"), upstream.expect("binds"), full);
    gateway.wait_for("the journal cannot be written");
    let (mut client, mut server) = gateway.selected();
    for _ in 0..3 {
        to_the_end(&mut client, &mut server);
        server_counts_four_again(&mut client, &mut server);
    }
    assert_eq!(gateway.metric("imapmove_journal_errors_total"), "6");
    assert_eq!(gateway.metric("imapmove_move_messages_total"), "6");
    assert_eq!(gateway.log().matches("the journal cannot be written").count(), 1);
    let log = gateway.log();
    let one = "WARN imapmove::journal: a MOVE goes on without its record: if it is cut short, nobody finishes it user=\"";
    let of = "\" from=\"INBOX\" to=\"Archive\" uids=\"2,4\"";
    let told = log.lines().filter(|line| line.contains(one) && line.ends_with(of));
    assert_eq!(told.count(), 3, "one for each MOVE:\n{log}");
}

/// The client, who was told, may be gone.
#[test]
fn fault_1_the_log_names_what_may_be_in_both_mailboxes() {
    let gateway = Gateway::start();
    let (mut client, mut server) = gateway.selected();
    let copy = up_to_copy(&mut client, &mut server);
    server.send(&format!("{copy} OK done\r\n"));
    let tag = server.command("NOOP");
    server.send(&format!("{tag} OK done\r\n"));
    let tag = server.command("UID SEARCH UID 2,4");
    server.send(&format!("* SEARCH 2 4\r\n{tag} OK done\r\n"));
    client.until("c NO [CANNOT]");
    let line = gateway.wait_for("may be in both mailboxes");
    for part in [" WARN ", "from=\"INBOX\"", "to=\"Archive\"", "uids=\"2,4\""] {
        assert!(line.contains(part), "no {part} in {line}");
    }
}

#[test]
fn fault_4_a_gateway_starts_beside_a_damaged_file_and_keeps_it() {
    let upstream = TcpListener::bind("127.0.0.1:0").expect("binds");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(format!("{}.0.journal", upstream.local_addr().expect("bound")));
    fs::write(&path, "no journal").expect("writes");
    let gateway = Gateway::start_with(folder, upstream, PLAIN);
    gateway.wait_for("a file of the journal is damaged");
    wait("a new name", || !path.exists());
    let kept = gateway.files("damaged").into_iter().map(|path| fs::read(path).expect("reads"));
    assert_eq!(kept.collect::<Vec<_>>(), [b"no journal"]);
    assert_eq!(gateway.metric("imapmove_recoveries_total{result=\"damaged\"}"), "1");
    let (mut client, mut server) = gateway.selected();
    to_the_end(&mut client, &mut server);
    assert_eq!(gateway.metric("imapmove_journal_errors_total"), "0");
}
