//! What a client receives for a MOVE through the gateway is what it receives from a server with a MOVE of its own: the
//! same lines in the same order, apart from texts, timing and UIDVALIDITY.

use crate::client::Client;
use crate::mail;
use crate::server::{Kind, Server};
use crate::{Route, on_servers};

on_servers!(plain_sessions: dovecot DOVECOT, cyrus CYRUS);
on_servers!(condstore_sessions: dovecot DOVECOT, cyrus CYRUS);
on_servers!(qresync_sessions: dovecot DOVECOT, cyrus CYRUS);

/// MOVE-9, MOVE-10, MOVE-12, MOVE-14.
fn plain_sessions(kind: Kind) {
    compare(kind, None);
}

/// MOVE-16.
fn condstore_sessions(kind: Kind) {
    let lines = compare(kind, Some("CONDSTORE"));
    assert!(lines.iter().any(|line| line.contains("EXPUNGE")), "removals by number: {lines:#?}");
}

/// MOVE-16.
fn qresync_sessions(kind: Kind) {
    let lines = compare(kind, Some("QRESYNC"));
    assert!(lines.iter().any(|line| line.contains("VANISHED")), "removals by UID: {lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("EXPUNGE")), "no removals by number: {lines:#?}");
}

fn compare(kind: Kind, enable: Option<&str>) -> Vec<String> {
    let native = Server::start(if kind == Kind::CYRUS { Kind::CYRUS_NATIVE } else { Kind::DOVECOT_NATIVE });
    let route = Route::start(kind);
    seed(&mut native.login());
    seed(&mut route.server.login());
    let expected = play(native.login(), enable, kind);
    let seen = play(route.gateway.login(), enable, kind);
    assert_eq!(seen, expected, "through the gateway (left) and native (right)");
    crate::check_no_move(&route);
    seen
}

fn seed(client: &mut Client) {
    client.ok("CREATE Source");
    client.ok("CREATE Target");
    for i in 1..=20 {
        client.append(
            "Source",
            if i % 4 == 0 { "\\Seen" } else { "" },
            &mail::message(&format!("message{i}")),
        );
    }
    client.ok("LOGOUT");
}

fn play(mut client: Client, enable: Option<&str>, kind: Kind) -> Vec<String> {
    if let Some(extension) = enable {
        client.ok(&format!("ENABLE {extension}"));
    }
    client.select("Source");
    let commands = [
        "UID MOVE 2,4,8:9 Target",
        "MOVE 1:2 Target",
        "UID MOVE 500 Target",
        "UID MOVE 5:7 Missing",
        "MOVE 1 Missing",
        "UID MOVE 12:10,14 Target",
        "MOVE 5,3 Target",
        "UID MOVE * Target",
        "MOVE *:2 \"Target\"",
        "UID MOVE 1:* Target",
        "NOOP",
        "UID SEARCH ALL",
    ];
    let mut lines = Vec::new();
    for command in commands {
        let reply = client.command(command);
        lines.push(format!("C: {command}"));
        lines.extend(reply.lines().iter().map(|line| comparable(line, kind)));
        lines.push(comparable(&format!("tag {}", reply.status()), kind));
    }
    assert!(client.view.0.is_empty(), "all was moved: {lines:#?}");
    check_highest_modseq(&mut client, enable, kind);
    lines
}

/// MOVE-9: the last HIGHESTMODSEQ that the client was told is the mailbox's. (Without QRESYNC a MOVE tells none.)
fn check_highest_modseq(client: &mut Client, enable: Option<&str>, kind: Kind) {
    let received = String::from_utf8_lossy(&client.received).into_owned();
    let told = received.rsplit_once("[HIGHESTMODSEQ ").and_then(|(_, rest)| rest.split(']').next());
    let status = client.ok("STATUS Source (HIGHESTMODSEQ)").lines();
    let is = status.iter().find_map(|line| line.split("(HIGHESTMODSEQ ").nth(1)?.strip_suffix(')'));
    assert!(is.is_some(), "{status:?}");
    if enable == Some("QRESYNC") && kind == Kind::DOVECOT {
        assert_eq!(told, is, "what the client was told is what the mailbox has");
    }
}

/// A line without human-readable text, UIDVALIDITY and the number of HIGHESTMODSEQ: STORE and EXPUNGE count as two changes
/// where a MOVE counts as one. Cyrus's own MOVE tells no HIGHESTMODSEQ at all.
fn comparable(line: &str, kind: Kind) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    if !["OK", "NO", "BAD"].contains(&words[1]) {
        return line.to_owned();
    }
    let code = line.split_once('[').map_or("", |(_, rest)| rest.split(']').next().expect("a first part"));
    let mut parts: Vec<&str> = code.split_whitespace().collect();
    match parts.first() {
        Some(&"COPYUID") => parts[1] = "uidvalidity",
        Some(&"HIGHESTMODSEQ") if kind == Kind::CYRUS => parts.clear(),
        Some(&"HIGHESTMODSEQ") => parts.truncate(1),
        _ => {}
    }
    format!("{} {} [{}]", words[0], words[1], parts.join(" "))
}
