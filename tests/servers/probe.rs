//! `imapmove probe`: what it concludes is what the gateway then does, and `--try` leaves nothing behind.

use crate::client::Client;
use crate::gateway::Gateway;
use crate::mail;
use crate::peer::Authority;
use crate::server::{Kind, Server};
use crate::tap::Tap;
use crate::{check_no_move_in, on_servers};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use tempfile::NamedTempFile;

on_servers!(its_verdict_is_what_the_gateway_does: dovecot DOVECOT, dovecot_mdbox DOVECOT_MDBOX, dovecot_acl DOVECOT_ACL,
    dovecot_native DOVECOT_NATIVE, dovecot_without_uidplus DOVECOT_WITHOUT_UIDPLUS, courier COURIER, cyrus CYRUS,
    cyrus_native CYRUS_NATIVE, imap4d IMAP4D);
on_servers!(sigint_leaves_nothing_behind: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(sigterm_leaves_nothing_behind: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(a_cut_connection_leaves_nothing_behind: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(what_a_killed_probe_leaves_the_next_one_removes: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(mail_of_a_users_is_not_removed: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(an_unknown_uid_that_is_another_message_is_found: imap4d IMAP4D);
on_servers!(a_limit_of_lines_is_found: courier COURIER);
on_servers!(without_copyuid_neither_works: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(it_connects_as_the_gateway_does: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(the_readme_shows_what_it_says: dovecot DOVECOT);

/// Steps of `--try`, as they go to the server.
const STEPS: [&str; 4] = ["CREATE", "APPEND", " COPY ", " STORE "];

/// A running probe, as alice.
struct Probe {
    process: Child,
    _password: NamedTempFile,
}

impl Probe {
    fn start(url_of: &str, address: SocketAddr, flags: &[&str]) -> Probe {
        let password = NamedTempFile::new().expect("a file");
        std::fs::write(password.path(), "wonderland\n").expect("writes");
        // It ends with us, even if we are killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_imapmove"), "probe"]);
        command.arg(format!("{url_of}://alice@{address}")).arg("--password-file").arg(password.path());
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Probe { process: command.spawn().expect("it runs"), _password: password }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("it runs");
    }

    /// Waits until it says on stderr that it has noticed a signal.
    fn until_noticed(&mut self) {
        let mut line = String::new();
        let stderr = self.process.stderr.as_mut().expect("piped");
        BufReader::new(stderr).read_line(&mut line).expect("reads");
        assert!(line.contains("interrupted, cleaning up"), "{line}");
    }

    /// Its exit code and what it says.
    fn ended(mut self) -> (i32, String) {
        let mut said = String::new();
        self.process.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
        (self.process.wait().expect("our child").code().unwrap_or(-1), said)
    }
}

fn probe(address: SocketAddr, flags: &[&str]) -> (i32, String) {
    Probe::start("imap", address, flags).ended()
}

fn mailboxes(server: &Server) -> Vec<String> {
    let mut client = server.login();
    // imap4d makes an INBOX for whoever first opens it.
    client.ok("EXAMINE INBOX");
    let mut names = client.ok("LIST \"\" *").lines();
    names.sort();
    names
}

fn has_quirk(said: &str, name: &str) -> bool {
    let report: serde_json::Value = serde_json::from_str(said).unwrap_or_else(|e| panic!("{e}: {said}"));
    report["quirks"].as_array().expect("a list").iter().any(|quirk| quirk["name"] == name)
}

/// Whether a MOVE through the gateway works: it is listed, is answered OK, and the message is there.
fn gateway_moves(upstream: SocketAddr, server: &Server) -> bool {
    let gateway = Gateway::start(upstream);
    crate::seed(server, 1);
    let mut client = gateway.login();
    let listed =
        client.ok("CAPABILITY").lines().iter().any(|line| line.split(' ').any(|word| word == "MOVE"));
    client.select(&server.kind.mailbox("Source"));
    let moved = client.command(&format!("UID MOVE 1 {}", server.kind.mailbox("Target"))).is_ok();
    let there = mail::contents(&mut server.login(), &server.kind.mailbox("Target")).contains_key("message1");
    assert!(listed || !moved, "a MOVE that is not listed works");
    assert_eq!(moved, there);
    moved
}

fn its_verdict_is_what_the_gateway_does(kind: Kind) {
    let server = Server::start(kind);
    let tap = Tap::start(server.address);
    let before = mailboxes(&server);
    let (code, said) = probe(tap.address, &[]);
    let (code_of_try, said_of_try) = probe(tap.address, &["--try"]);
    assert_eq!(mailboxes(&server), before, "{said_of_try}");
    if kind != Kind::DOVECOT_NATIVE && kind != Kind::CYRUS_NATIVE {
        check_no_move_in(&tap.commands());
    }
    assert!(said_of_try.lines().chain(said.lines()).all(|line| line.chars().count() <= 80), "{said_of_try}");
    let works = gateway_moves(server.address, &server);
    let expected = (i32::from(!works), if works { "MOVE will work." } else { "MOVE will not work." });
    for (code, said) in [(code, said), (code_of_try, said_of_try)] {
        assert!(
            code == expected.0 && said.lines().any(|line| line == expected.1),
            "{code}, {expected:?}: {said}"
        );
    }
    let tried = tap.commands().iter().any(|command| command.starts_with("CREATE"));
    assert_eq!(tried, works, "nothing is made where nothing can be tried");
}

fn sigint_leaves_nothing_behind(kind: Kind) {
    interrupted(kind, Signal::INT);
}

fn sigterm_leaves_nothing_behind(kind: Kind) {
    interrupted(kind, Signal::TERM);
}

fn interrupted(kind: Kind, signal: Signal) {
    let server = Server::start(kind);
    let before = mailboxes(&server);
    for step in STEPS {
        let (tap, mut probe) = held_at(&server, step);
        probe.signal(signal);
        probe.until_noticed();
        tap.release();
        let (code, said) = probe.ended();
        assert!(code == 2 && said.contains("Interrupted"), "{step}: {said}");
        assert!(said.contains("nothing is left behind"), "{step}: {said}");
        assert_eq!(mailboxes(&server), before, "{step}: {said}");
    }
}

/// A probe whose step has reached the server, which it does not hear of.
fn held_at(server: &Server, step: &str) -> (Tap, Probe) {
    let tap = Tap::start(server.address);
    tap.hold_after(step);
    let probe = Probe::start("imap", tap.address, &["--try"]);
    tap.wait_until_held();
    (tap, probe)
}

fn a_cut_connection_leaves_nothing_behind(kind: Kind) {
    let server = Server::start(kind);
    let before = mailboxes(&server);
    for step in STEPS {
        let (tap, probe) = held_at(&server, step);
        tap.reset();
        tap.release();
        let (code, said) = probe.ended();
        assert!(code == 2 || said.contains("MOVE will not work."), "{step}: {said}");
        assert!(said.contains("nothing is left behind"), "{step}: {said}");
        assert_eq!(mailboxes(&server), before, "{step}: {said}");
    }
}

fn what_a_killed_probe_leaves_the_next_one_removes(kind: Kind) {
    let server = Server::start(kind);
    let before = mailboxes(&server);
    let (tap, probe) = held_at(&server, " STORE ");
    let wire = tap.latest();
    probe.signal(Signal::KILL);
    probe.ended();
    tap.release();
    wire.wait_until_over();
    assert_eq!(mailboxes(&server).len(), before.len() + 2, "it has left something");
    let (code, said) = self::probe(server.address, &["--try"]);
    assert!(code == 0 && said.contains("2 mailboxes of an earlier probe are removed"), "{said}");
    assert_eq!(mailboxes(&server), before, "{said}");
}

/// Whatever a mailbox is called.
fn mail_of_a_users_is_not_removed(kind: Kind) {
    let server = Server::start(kind);
    let name = kind.mailbox("imapmove-probe-0123abcd-1");
    let mut client = server.login();
    client.ok(&format!("CREATE {name}"));
    mail::deliver(&mut client, &name, ["mine"]);
    let (code, said) = probe(server.address, &["--try"]);
    assert_eq!(code, 0, "{said}");
    assert!(mail::contents(&mut client, &name).contains_key("mine"), "{said}");
}

/// SRV-3
fn an_unknown_uid_that_is_another_message_is_found(kind: Kind) {
    let server = Server::start(kind);
    let mut client = server.login();
    client.ok("EXAMINE INBOX"); // which makes it
    mail::deliver(&mut client, "INBOX", ["one", "two"]);
    let (code, said) = probe(server.address, &["--json"]);
    assert!(code == 1 && has_quirk(&said, "unknown_uid_clamped"), "{said}");
}

/// MOVE-8: Courier hangs up above 16 kB.
fn a_limit_of_lines_is_found(kind: Kind) {
    let server = Server::start(kind);
    let (_, said) = probe(server.address, &["--json"]);
    assert!(!has_quirk(&said, "line_limit"), "{said}");
    let (_, said) = probe(server.address, &["--json", "--max-line", "65536"]);
    assert!(has_quirk(&said, "line_limit") && said.contains("--max-line 16384"), "{said}");
}

/// MOVE-6
fn without_copyuid_neither_works(kind: Kind) {
    let server = Server::start(kind);
    let before = mailboxes(&server);
    let tap = Tap::start_hiding(server.address, &[("COPYUID", "COPYUIX")]);
    let (code, said) = probe(tap.address, &["--json", "--try"]);
    assert!(code == 1 && has_quirk(&said, "no_copyuid"), "{said}");
    assert_eq!(mailboxes(&server), before);
    let gateway = Gateway::start(tap.address);
    crate::seed(&server, 1);
    let mut client: Client = gateway.login();
    client.select(&kind.mailbox("Source"));
    let reply = client.command(&format!("UID MOVE 1 {}", kind.mailbox("Target")));
    assert!(!reply.is_ok(), "{}", reply.status());
}

/// STARTTLS and implicit, with the same advice where a certificate is not believed.
fn it_connects_as_the_gateway_does(kind: Kind) {
    let (right, wrong) = (Authority::new(), Authority::new());
    let server = Server::start_with_tls(kind, &right.issue("127.0.0.1"));
    let implicit = server.tls_address.expect("a server that was given a certificate");
    let starttls = &["--upstream-tls", "starttls"][..];
    for (scheme, address, flags) in [("imap", server.address, starttls), ("imaps", implicit, &[])] {
        let tried = |ca: &str| {
            let flags = [flags, &["--try", "--upstream-ca", ca]].concat();
            Probe::start(scheme, address, &flags).ended()
        };
        let (code, said) = tried(&right.file());
        assert!(code == 0 && said.contains("TLS 1.") && said.contains("trusted, valid until"), "{said}");
        let (code, said) = tried(&wrong.file());
        assert!(code == 2 && said.contains("comes from no trusted authority"), "{said}");
    }
}

/// Times, ports and what comes with the packages' versions apart.
fn the_readme_shows_what_it_says(kind: Kind) {
    let server = Server::start(kind);
    let (_, said) = probe(server.address, &["--try"]);
    let readme = include_str!("../../README.md");
    let quoted = readme.split("\n```text\nimapmove probe ").nth(1).expect("the README shows a probe");
    let quoted = quoted.split("\n```").next().expect("a first piece");
    let known = |line: &str| {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        line.split(' ').map(|word| word.trim_matches(is_number)).collect::<Vec<_>>().join(" ")
    };
    let mut lines = said.lines().map(known);
    let fixed =
        quoted.lines().skip(1).filter(|line| !line.contains("connection ") && !line.trim().is_empty());
    for line in fixed {
        assert!(lines.any(|said| said == known(line)), "not said, in this order: {line}\n{said}");
    }
}
