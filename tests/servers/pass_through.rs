//! What is not MOVE or a capability list passes octet by octet: what the server received is what the client sent, and
//! what the client received is what the server sent.

use crate::client::Client;
use crate::mail::{self, message};
use crate::server::Kind;
use crate::tap::{Conversation, Way};
use crate::{Route, on_servers};

on_servers!(multiappend_with_synchronising_literals: dovecot DOVECOT, cyrus CYRUS);
on_servers!(multiappend_with_literal_plus: dovecot DOVECOT, cyrus CYRUS);
on_servers!(multiappend_refused_at_its_first_literal: dovecot DOVECOT, cyrus CYRUS);
on_servers!(multiappend_refused_between_its_literals: dovecot DOVECOT_QUOTA);
on_servers!(multiappend_refused_with_literal_plus: dovecot DOVECOT_QUOTA);
on_servers!(append_of_one_literal: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(idle: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(binary: dovecot DOVECOT, cyrus CYRUS);
on_servers!(unknown_commands: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(authenticate: dovecot DOVECOT, cyrus CYRUS, courier COURIER);
on_servers!(authenticate_with_initial_response: dovecot DOVECOT, cyrus CYRUS);
on_servers!(authenticate_cancelled: dovecot DOVECOT, cyrus CYRUS);

/// A client with `Source` selected, and what its connection carries from now on.
struct Session {
    client: Client,
    wire: Conversation,
    route: Route,
    mailbox: String,
}

impl Session {
    fn start(kind: Kind) -> Session {
        let (route, mut client) = crate::selected(kind, 2);
        let mut wire = route.tap.latest();
        wire.restart();
        client.forget();
        Session { client, wire, route, mailbox: kind.mailbox("Target") }
    }

    /// WIRE: both directions, octet by octet, and the session still answers.
    fn check(mut self) -> Route {
        self.client.ok("NOOP");
        same("to the server", &self.wire.octets(Way::ToServer), &self.client.sent);
        same("to the client", &self.client.received, &self.wire.octets(Way::ToGateway));
        self.route
    }
}

fn same(which: &str, got: &[u8], expected: &[u8]) {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).escape_debug().to_string();
    assert!(got == expected, "{which}\ngot      {}\nexpected {}", text(got), text(expected));
}

/// The messages of a MULTIAPPEND, whose bodies look like protocol.
fn three_messages() -> [Vec<u8>; 3] {
    ["first", "second", "third"].map(message)
}

/// WIRE-1, WIRE-3, WIRE-4, RFC 3502.
fn multiappend_with_synchronising_literals(kind: Kind) {
    let mut session = Session::start(kind);
    let tag = session.client.next_tag();
    let mut start = format!("{tag} APPEND {} (\\Seen) ", session.mailbox);
    for message in three_messages() {
        session.client.send(format!("{start}{{{}}}\r\n", message.len()));
        session.client.until("+");
        session.client.send(&message);
        start = " (\\Flagged) ".to_owned();
    }
    session.client.send("\r\n");
    assert!(session.client.finish(&tag).is_ok(), "{}", session.client.transcript());
    let route = session.check();
    assert_eq!(mail::contents(&mut route.server.login(), &kind.mailbox("Target")).len(), 3);
}

/// WIRE-1, RFC 3502, RFC 7888: in one write, with a command behind it.
fn multiappend_with_literal_plus(kind: Kind) {
    let mut session = Session::start(kind);
    let (tag, next) = (session.client.next_tag(), session.client.next_tag());
    let octets = literal_plus(&tag, &session.mailbox, &three_messages());
    session.client.send([&octets[..], format!("{next} NOOP\r\n").as_bytes()].concat());
    assert!(session.client.finish(&tag).is_ok(), "{}", session.client.transcript());
    assert!(session.client.finish(&next).is_ok(), "{}", session.client.transcript());
    let route = session.check();
    assert_eq!(mail::contents(&mut route.server.login(), &kind.mailbox("Target")).len(), 3);
}

fn literal_plus(tag: &str, mailbox: &str, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut octets = format!("{tag} APPEND {mailbox}").into_bytes();
    for message in messages {
        octets.extend(format!(" {{{}+}}\r\n", message.len()).into_bytes());
        octets.extend(message);
    }
    octets.extend(b"\r\n");
    octets
}

/// WIRE-3: the server answers the tag in place of the `+`, and what comes next is a command.
fn multiappend_refused_at_its_first_literal(kind: Kind) {
    let mut session = Session::start(kind);
    let message = message("refused");
    let tag = session.client.start(&format!("APPEND {} {{{}}}", kind.mailbox("Missing"), message.len()));
    let mut line = session.client.read_line();
    if line.starts_with(b"+") {
        session.client.send(&message);
        session.client.send("\r\n");
        line = session.client.read_line();
    }
    assert!(line.starts_with(format!("{tag} NO [TRYCREATE]").as_bytes()), "{}", session.client.transcript());
    session.check();
}

/// WIRE-3: the first literal was taken, the second one is over quota.
fn multiappend_refused_between_its_literals(kind: Kind) {
    let mut session = Session::start(kind);
    let message = message("taken");
    let tag = session.client.start(&format!("APPEND {} {{{}}}", session.mailbox, message.len()));
    session.client.until("+");
    session.client.send(&message);
    session.client.send(" {300000}\r\n");
    let line = session.client.until(&tag);
    assert!(line.starts_with(format!("{tag} NO [OVERQUOTA]").as_bytes()), "{}", session.client.transcript());
    let route = session.check();
    assert_eq!(mail::contents(&mut route.server.login(), "Target").len(), 0, "all or nothing");
}

/// WIRE-1, WIRE-4: the octets follow though the server refuses them.
fn multiappend_refused_with_literal_plus(kind: Kind) {
    let mut session = Session::start(kind);
    let (tag, mut large) = (session.client.next_tag(), message("large"));
    large.extend(b"c9 NOOP\r\n".repeat(40_000));
    session.client.send(literal_plus(&tag, &session.mailbox, &[message("taken"), large]));
    let reply = session.client.finish(&tag);
    assert!(reply.tagged.starts_with(b"NO [OVERQUOTA]"), "{}", reply.status());
    session.check();
}

/// WIRE-3, on the servers without MULTIAPPEND too.
fn append_of_one_literal(kind: Kind) {
    let mut session = Session::start(kind);
    let mailbox = session.mailbox.clone();
    session.client.append(&mailbox, "\\Seen", &message("single"));
    session.check();
}

/// WIRE-7.
fn idle(kind: Kind) {
    let mut session = Session::start(kind);
    let tag = session.client.start("IDLE");
    session.client.until("+");
    let mut other = session.route.server.login();
    mail::deliver(&mut other, &kind.mailbox("Source"), ["while-idle"]);
    if kind != Kind::COURIER {
        session.client.until("* 3 EXISTS"); // Courier looks once a minute
    }
    session.client.send("DONE\r\n");
    assert!(session.client.finish(&tag).is_ok());
    session.check();
}

/// WIRE-1: literal8 of RFC 3516 in both directions, with NUL in it.
fn binary(kind: Kind) {
    let mut session = Session::start(kind);
    let body = b"Content-Transfer-Encoding: binary\r\n\r\n\0\r\nc1 OK\r\n* 1 EXPUNGE\r\n\0";
    let tag = session.client.start(&format!("APPEND Source ~{{{}}}", body.len()));
    session.client.until("+");
    session.client.send(body);
    session.client.send("\r\n");
    let appended = session.client.finish(&tag);
    assert!(appended.is_ok(), "{}", appended.status());
    let encoded = b"Content-Transfer-Encoding: base64\r\n\r\nAA0KYzEgT0sNCiogMSBFWFBVTkdFDQoA\r\n";
    session.client.append("Source", "", encoded);
    session.client.ok("NOOP");
    let fetched = session.client.ok("FETCH 3:4 BINARY.PEEK[1]");
    assert!(fetched.lines().iter().any(|line| line.contains("~{")), "a literal8: {:?}", fetched.lines());
    session.check();
}

/// WIRE-5: unknown commands and odd spaces pass; the answers are the server's.
fn unknown_commands(kind: Kind) {
    let mut session = Session::start(kind);
    for command in ["XUNKNOWN \"one\" (two three) {3}", "xyzzy  8-bit-\u{e4}"] {
        let tag = session.client.start(command);
        let line = session.client.until(&tag);
        assert!(!line.starts_with(format!("{tag} OK").as_bytes()), "{}", session.client.transcript());
        session.client.ok("NOOP"); // Courier hangs up after a few errors in a row
    }
    session.check();
}

/// WIRE-7: PLAIN and LOGIN, line by line.
fn authenticate(kind: Kind) {
    let route = Route::start(kind);
    exchange(&route, "AUTHENTICATE PLAIN", &["AGFsaWNlAHdvbmRlcmxhbmQ="], "OK");
    if kind != Kind::COURIER {
        exchange(&route, "AUTHENTICATE LOGIN", &["YWxpY2U=", "d29uZGVybGFuZA=="], "OK");
    }
}

/// WIRE-7, RFC 4959.
fn authenticate_with_initial_response(kind: Kind) {
    let route = Route::start(kind);
    exchange(&route, "AUTHENTICATE PLAIN AGFsaWNlAHdvbmRlcmxhbmQ=", &[], "OK");
}

/// WIRE-7: cancelled with `*`; refused; then accepted on the same connection.
fn authenticate_cancelled(kind: Kind) {
    let route = Route::start(kind);
    exchange(&route, "AUTHENTICATE PLAIN", &["*"], "BAD");
    exchange(&route, "AUTHENTICATE LOGIN", &["YWxpY2U=", "*"], "BAD");
    exchange(&route, "AUTHENTICATE PLAIN", &["AGFsaWNlAHdyb25n"], "NO");
}

/// Carries out one exchange and then, if it was refused, a LOGIN. Compares what the server received.
fn exchange(route: &Route, command: &str, lines: &[&str], expected: &str) {
    let mut client = Client::connect(route.gateway.address);
    let wire = route.tap.latest();
    let tag = client.start(command);
    for line in lines {
        client.until("+");
        client.send(format!("{line}\r\n"));
    }
    let reply = client.finish(&tag);
    assert!(reply.tagged.starts_with(expected.as_bytes()), "{command}: {}", reply.status());
    if expected != "OK" {
        client.ok("LOGIN alice wonderland");
    }
    client.ok("NOOP");
    // CAP-5: Courier lists nothing after a login, so the gateway asks; that is the only line of its own.
    let sent = String::from_utf8(wire.octets(Way::ToServer)).expect("all of it is ASCII");
    let own = |line: &&str| !(route.server.kind == Kind::COURIER && line.ends_with(" CAPABILITY\r\n"));
    let received: String = sent.split_inclusive('\n').filter(own).collect();
    same(command, received.as_bytes(), &client.sent);
}
