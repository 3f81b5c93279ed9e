//! FAULT-2: a client that goes away, and SIGTERM, at any point of a MOVE. Once COPY was sent, the MOVE is finished.

use crate::client::Client;
use crate::mail::{self, Flags};
use crate::server::Kind;
use crate::tap::Conversation;
use crate::{Route, check_no_move, on_servers, selected};
use std::collections::BTreeMap;
use std::time::Duration;

const MESSAGES: usize = 60;
/// Longer than the gateway's own drain deadline.
const DRAIN: Duration = Duration::from_secs(60);
/// The steps of a MOVE whose answers are held while the client goes. (The last two come in one flight.)
const STEPS: [&str; 3] = [" COPY ", " STORE ", " EXPUNGE "];

on_servers!(client_resets_during_a_move: dovecot_maildir DOVECOT, dovecot_mdbox DOVECOT_MDBOX, courier COURIER,
    cyrus CYRUS);
on_servers!(client_closes_during_a_move: dovecot_maildir DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(client_goes_right_after_the_command: dovecot_maildir DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(client_ends_its_side_after_the_command: dovecot_maildir DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(sigterm_during_a_move: dovecot_maildir DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(sigterm_right_after_the_command: dovecot_maildir DOVECOT, courier COURIER, cyrus CYRUS);

fn client_resets_during_a_move(kind: Kind) {
    leaves_during_a_move(kind, Client::reset);
}

fn client_closes_during_a_move(kind: Kind) {
    leaves_during_a_move(kind, drop);
}

/// The client goes while the server's answers to a step are held.
fn leaves_during_a_move(kind: Kind, leave: fn(Client)) {
    for (step, command) in STEPS.into_iter().zip(["UID MOVE 1:*", "MOVE 1:60", "UID MOVE 1:60"]) {
        let (route, mut client) = selected(kind, MESSAGES);
        let wire = route.tap.latest();
        route.tap.hold_after(step);
        client.start(&format!("{command} {}", kind.mailbox("Target")));
        route.tap.wait_until_held();
        leave(client);
        route.tap.release();
        wire.wait_until_over();
        check_moved(&route);
    }
}

/// The gateway may see the end before it has begun: then nothing is moved at all.
fn client_goes_right_after_the_command(kind: Kind) {
    for leave in [Client::reset, drop::<Client>, Client::reset, drop] {
        let (route, mut client) = selected(kind, MESSAGES);
        let wire = route.tap.latest();
        client.start(&format!("UID MOVE 1:60 {}", kind.mailbox("Target")));
        leave(client);
        wire.wait_until_over();
        check_all_or_nothing(&route);
    }
}

/// WIRE-11: the end of the client's side is not the end of the session. It gets its reply.
fn client_ends_its_side_after_the_command(kind: Kind) {
    let (route, mut client) = selected(kind, MESSAGES);
    let wire = route.tap.latest();
    let tag = client.start(&format!("UID MOVE 1:60 {}", kind.mailbox("Target")));
    client.half_close();
    let reply = client.finish(&tag);
    assert!(reply.is_ok(), "{}", reply.status());
    assert!(client.view.0.is_empty(), "all was seen leaving: {}", client.transcript());
    client.rest();
    wire.wait_until_over();
    check_moved(&route);
}

/// The client that waits for its MOVE gets the truth, then BYE.
fn sigterm_during_a_move(kind: Kind) {
    for step in [" COPY ", " STORE "] {
        let (mut route, mut client) = selected(kind, MESSAGES);
        route.tap.hold_after(step);
        let tag = client.start(&format!("UID MOVE 1:60 {}", kind.mailbox("Target")));
        route.tap.wait_until_held();
        route.gateway.terminate();
        route.tap.release();
        let reply = client.finish(&tag);
        assert!(reply.is_ok(), "{}", reply.status());
        let rest = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(rest.starts_with("* BYE"), "{rest:?}");
        let ended = route.gateway.wait_for_end(DRAIN);
        assert_eq!(ended, "exit status: 0", "the drain was clean");
        check_moved(&route);
    }
}

fn sigterm_right_after_the_command(kind: Kind) {
    let (mut route, mut client) = selected(kind, MESSAGES);
    client.start(&format!("UID MOVE 1:60 {}", kind.mailbox("Target")));
    route.gateway.terminate();
    client.rest();
    route.gateway.wait_for_end(DRAIN);
    check_all_or_nothing(&route);
}

/// All messages are in the target, once, unflagged, and gone from the source.
fn check_moved(route: &Route) {
    assert_eq!(contents(route), (all(0), all(MESSAGES)), "{}", upstream(route));
    check_no_move(route);
}

/// Once COPY was sent, all is moved; else nothing.
fn check_all_or_nothing(route: &Route) {
    if route.tap.commands().iter().any(|command| command.starts_with("UID COPY")) {
        check_moved(route);
    } else {
        assert_eq!(contents(route), (all(MESSAGES), all(0)), "{}", upstream(route));
    }
}

type Contents = BTreeMap<String, Vec<Flags>>;

fn contents(route: &Route) -> (Contents, Contents) {
    let (mut client, kind) = (route.server.login(), route.server.kind);
    let source = mail::contents(&mut client, &kind.mailbox("Source"));
    (source, mail::contents(&mut client, &kind.mailbox("Target")))
}

fn all(count: usize) -> Contents {
    (1..=count).map(|i| (format!("message{i}"), vec![Flags::new()])).collect()
}

fn upstream(route: &Route) -> String {
    route.tap.conversations().iter().map(Conversation::transcript).collect::<Vec<_>>().join("\n\n")
}
