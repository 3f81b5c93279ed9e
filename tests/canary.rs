//! A password in every form of login, at every level of the log: it reaches the server, and nothing else that could keep
//! it. Not the log, the metrics, the journal, what the gateway says of its own, or a Debug output (WIRE-7).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use imapmove::imap::{Session, Settings, Side};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);
const CANARY: &str = "canary-9f2e7c";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
const LIST: &str = "[CAPABILITY IMAP4rev1 UIDPLUS LITERAL+ SASL-IR AUTH=PLAIN AUTH=LOGIN]";

/// One way to log in: what the client says, with a continuation from the server between two parts.
struct Form {
    name: &'static str,
    parts: Vec<String>,
}

fn forms() -> Vec<Form> {
    let form = |name, parts: &[String]| Form { name, parts: parts.to_vec() };
    let n = CANARY.len();
    let plain = BASE64_STANDARD.encode(format!("\0alice\0{CANARY}"));
    let (user, password) = (BASE64_STANDARD.encode("alice"), BASE64_STANDARD.encode(CANARY));
    let xoauth2 = BASE64_STANDARD.encode(format!("user=alice\x01auth=Bearer {CANARY}\x01\x01"));
    vec![
        form("atom", &[format!("a LOGIN alice {CANARY}\r\n")]),
        form("quoted", &[format!("a login \"alice\" \"{CANARY}\"\r\n")]),
        form("literal", &["a LOGIN {5}\r\n".into(), format!("alice {{{n}}}\r\n"), format!("{CANARY}\r\n")]),
        form("LITERAL+", &[format!("a LOGIN {{5+}}\r\nalice {{{n}+}}\r\n{CANARY}\r\n")]),
        form("SASL-IR", &[format!("a AUTHENTICATE PLAIN {plain}\r\n")]),
        form("continuation", &["a AUTHENTICATE PLAIN\r\n".into(), format!("{plain}\r\n")]),
        form(
            "two lines",
            &["a AUTHENTICATE LOGIN\r\n".into(), format!("{user}\r\n"), format!("{password}\r\n")],
        ),
        form("token", &[format!("a AUTHENTICATE XOAUTH2 {xoauth2}\r\n")]),
        form("the password in the place of the name", &[format!("a LOGIN {{{n}+}}\r\n{CANARY} x\r\n")]),
        form("malformed", &[format!("a LOGIN alice{{ {CANARY}\r\n")]),
    ]
}

/// The password as it stands there, and as SASL writes it: in each of its three places in a group of octets.
fn secrets() -> Vec<String> {
    let shifted = (0..3).map(|shift| {
        let text = BASE64_STANDARD.encode(format!("{}{CANARY}", "x".repeat(shift)));
        let first = (shift * 8).div_ceil(6);
        text[first..text.len() - 4].to_string()
    });
    shifted.chain([CANARY.to_string()]).collect()
}

fn betrays(text: &[u8]) -> bool {
    secrets().iter().any(|secret| memchr::memmem::find(text, secret.as_bytes()).is_some())
}

#[test]
fn wire_7_the_secrets_are_looked_for_in_each_form() {
    for form in forms() {
        assert!(betrays(form.parts.concat().as_bytes()), "{}", form.name);
    }
    assert!(!betrays(b"alice"));
}

struct Gateway {
    process: Child,
    upstream: TcpListener,
    folder: TempDir,
    listen: SocketAddr,
    admin: SocketAddr,
}

/// An address that was free just now: with the log off, the gateway does not say where it listens.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free address")
}

impl Gateway {
    fn start(level: &str) -> Gateway {
        let folder = tempfile::tempdir().expect("a folder");
        let upstream = TcpListener::bind("127.0.0.1:0").expect("binds");
        let (listen, admin) = (free_address(), free_address());
        let stderr = fs::File::create(folder.path().join("log")).expect("a log");
        fs::create_dir(folder.path().join("journal")).expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_imapmove"));
        command.args(["--log-level", level, "--listen", &listen.to_string(), "--admin", &admin.to_string()]);
        command.args(["--upstream", &upstream.local_addr().expect("bound").to_string(), "--journal"]);
        command.arg(folder.path().join("journal"));
        let process = command.stdin(Stdio::null()).stdout(stderr.try_clone().expect("a copy")).stderr(stderr);
        let process = process.spawn().expect("starts");
        Gateway { process, upstream, folder, listen, admin }
    }

    fn connect(&self, to: SocketAddr) -> TcpStream {
        let begun = Instant::now();
        loop {
            match TcpStream::connect(to) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                    stream.set_nodelay(true).expect("an option");
                    return stream;
                }
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
        }
    }

    /// Client and server, greeted.
    fn session(&self) -> (TcpStream, TcpStream) {
        let mut client = self.connect(self.listen);
        let mut server = self.upstream.accept().expect("the gateway connects").0;
        server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        server.write_all(format!("* OK {LIST} ready\r\n").as_bytes()).expect("writes");
        until(&mut client, "* OK");
        (client, server)
    }

    fn metrics(&self) -> Vec<u8> {
        let mut page = self.connect(self.admin);
        page.write_all(b"GET /metrics HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n").expect("writes");
        let mut text = Vec::new();
        page.read_to_end(&mut text).expect("reads");
        text
    }

    fn log(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("log")).expect("a log")
    }

    /// All octets in the journal's folder, and the names there.
    fn journal(&self) -> Vec<u8> {
        let begun = Instant::now();
        loop {
            match self.read_journal() {
                Ok(octets) => return octets,
                // A file that is being made gets its name when it is whole.
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
        }
    }

    fn read_journal(&self) -> std::io::Result<Vec<u8>> {
        let mut octets = Vec::new();
        for file in fs::read_dir(self.folder.path().join("journal"))? {
            let path = file?.path();
            octets.extend(path.as_os_str().as_encoded_bytes());
            octets.extend(fs::read(&path)?);
        }
        Ok(octets)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads lines up to one that begins so.
fn until(stream: &mut TcpStream, start: &str) -> Vec<u8> {
    let (mut all, mut line) = (Vec::new(), Vec::new());
    loop {
        let mut octet = [0];
        stream.read_exact(&mut octet).unwrap_or_else(|e| panic!("{start}: {e} after {}", all.escape_ascii()));
        line.push(octet[0]);
        all.push(octet[0]);
        if line.ends_with(b"\r\n") && std::mem::take(&mut line).starts_with(start.as_bytes()) {
            return all;
        }
    }
}

/// One login through the gateway. The server's refusal quotes the password, as some do.
fn log_in(gateway: &Gateway, form: &Form, piece: usize, accepted: bool) -> (TcpStream, TcpStream) {
    let (mut client, mut server) = gateway.session();
    for (at, part) in form.parts.iter().enumerate() {
        part.as_bytes().chunks(piece).for_each(|piece| client.write_all(piece).expect("writes"));
        let mut got = vec![0; part.len()];
        server.read_exact(&mut got).unwrap_or_else(|e| panic!("{}: {e}", form.name));
        assert_eq!(got, part.as_bytes(), "{}", form.name);
        if at + 1 < form.parts.len() {
            server.write_all(b"+ \r\n").expect("writes");
            until(&mut client, "+");
        }
    }
    let answer = match accepted {
        true => format!("a OK {LIST} in\r\n"),
        false => format!("a NO [AUTHENTICATIONFAILED] {CANARY} is wrong\r\n"),
    };
    server.write_all(answer.as_bytes()).expect("writes");
    until(&mut client, "a ");
    (client, server)
}

#[test]
fn wire_7_a_password_reaches_the_server_and_nothing_else() {
    for level in LEVELS {
        let gateway = Gateway::start(level);
        for form in forms() {
            for (piece, accepted) in [(usize::MAX, true), (1, true), (usize::MAX, false), (1, false)] {
                let (mut client, mut server) = log_in(&gateway, &form, piece, accepted);
                // Something that the gateway complains of, and an end.
                client.write_all(format!("{CANARY}\r\nb {CANARY}\0\r\n").as_bytes()).expect("writes");
                until(&mut client, "b BAD");
                drop(client);
                until_end(&mut server);
            }
        }
        let counted = String::from_utf8(gateway.metrics()).expect("text");
        let accepted = |line: &&str| line.starts_with("imapmove_logins_total") && line.contains("\"ok\"");
        let logins = counted
            .lines()
            .filter(accepted)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        assert_eq!(logins.sum::<usize>(), 2 * forms().len(), "{counted}");
        assert!(!betrays(counted.as_bytes()), "metrics at {level}");
        assert!(!betrays(&gateway.log()), "log at {level}: {}", gateway.log().escape_ascii());
        assert_eq!(gateway.log().is_empty(), ["off", "error", "warn"].contains(&level), "{level}");
    }
}

fn until_end(stream: &mut TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

/// What a MOVE that is cut short leaves in the journal, in the log and for the client.
#[test]
fn wire_7_fault_4_the_journal_holds_no_password() {
    // A server that takes the password for the name has it as the name of a user, and so has the journal.
    for form in forms().iter().filter(|form| form.name != "the password in the place of the name") {
        let gateway = Gateway::start("trace");
        let (mut client, mut server) = log_in(&gateway, form, usize::MAX, true);
        client.write_all(b"s SELECT INBOX\r\n").expect("writes");
        until(&mut server, "s SELECT");
        let opened = "* 2 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\ns OK [READ-WRITE] in\r\n";
        server.write_all(opened.as_bytes()).expect("writes");
        until(&mut client, "s OK");
        client.write_all(b"m UID MOVE 2 Target\r\n").expect("writes");
        until(&mut server, "mv3 UID COPY");
        let copied = "* 2 FETCH (UID 2)\r\nmv1 OK\r\n* SEARCH\r\nmv2 OK\r\nmv3 OK [COPYUID 9 2 1] x\r\n";
        server.write_all(copied.as_bytes()).expect("writes");
        until(&mut server, "mv5 UID EXPUNGE");
        let journal = gateway.journal();
        let recorded = memchr::memmem::find(&journal, b"COPYUID 9 2 1").is_some();
        assert_eq!(recorded, form.name != "malformed", "{}: in the journal if the user is known", form.name);
        assert!(!betrays(&journal), "{}", form.name);
        drop(server);
        let said = until(&mut client, "* BYE");
        assert!(!betrays(&said), "{}: {}", form.name, said.escape_ascii());
        assert!(!betrays(&gateway.log()), "{}", form.name);
    }
}

/// After each octet of each form: what the session and its notices show of themselves.
#[test]
fn wire_7_debug_output_shows_no_password() {
    for form in forms() {
        for answer in ["a OK in\r\n", "a NO canary\r\n", "", "* BYE\r\n"] {
            let mut session = Session::new(Settings { journal: true, ..Settings::default() });
            session.receive(Side::Upstream, format!("* OK {LIST} ready\r\n").as_bytes());
            for part in &form.parts {
                for octet in part.as_bytes() {
                    session.receive(Side::Client, &[*octet]);
                    assert!(!betrays(format!("{session:?}").as_bytes()), "{}: {session:?}", form.name);
                }
                session.receive(Side::Upstream, b"+ \r\n");
            }
            session.receive(Side::Upstream, answer.as_bytes());
            session.receive(Side::Client, b"b SELECT INBOX\r\n");
            let notices: Vec<_> = std::iter::from_fn(|| session.notice()).collect();
            assert!(!betrays(format!("{session:?} {notices:?}").as_bytes()), "{}: {notices:?}", form.name);
        }
    }
}
