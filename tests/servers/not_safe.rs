//! Where MOVE is not safe it is refused, with the reason, and nothing is harmed: servers without UIDPLUS, and targets
//! where a COPY proves nothing.

use crate::client::{Client, Reply};
use crate::mail::Flags;
use crate::server::Kind;
use crate::{Route, both, check_no_move, on_servers, seed_flagged, set_rights};

on_servers!(cap_4_without_uidplus_a_move_is_refused: imap4d IMAP4D, dovecot DOVECOT_WITHOUT_UIDPLUS);
on_servers!(move_6_without_copyuid_nothing_is_removed: dovecot DOVECOT_ACL, cyrus CYRUS);
on_servers!(move_6_a_target_that_cannot_be_read_but_gives_copyuid: courier COURIER);

/// CAP-4, SRV-3: imap4d would take UID 77 for its last message.
fn cap_4_without_uidplus_a_move_is_refused(kind: Kind) {
    let route = Route::start(kind);
    seed_flagged(&route.server);
    let before = both(&route.server);
    let mut client = Client::connect(route.gateway.address);
    client.ok("CAPABILITY");
    client.ok("LOGIN alice wonderland");
    client.ok("CAPABILITY");
    let told = String::from_utf8_lossy(&client.received).to_uppercase();
    assert!(
        told.contains("* CAPABILITY IMAP4REV1 ") && !told.contains("MOVE"),
        "MOVE is not offered: {told}"
    );
    client.select("Source");
    for (set, target) in
        [("1", "Target"), ("1:*", "Target"), ("5", "Target"), ("2", "Missing"), ("1", "Source")]
    {
        refused(&mut client, &format!("MOVE {set} {target}"), "UIDPLUS");
        refused(&mut client, &format!("UID MOVE {set} {target}"), "UIDPLUS");
    }
    refused(&mut client, "UID MOVE 77 Target", "UIDPLUS");
    assert_eq!(client.ok("UID SEARCH ALL").search().len(), 5, "the session goes on, and all is there");
    check_reached(&route, &[]);
    client.ok("LOGOUT");
    assert_eq!(both(&route.server), before, "message by message, flags too");
}

/// MOVE-6: a drop box, into which alice may put mail that she then may not see.
fn move_6_without_copyuid_nothing_is_removed(kind: Kind) {
    let route = Route::start(kind);
    seed_flagged(&route.server);
    let (source, target) = both(&route.server);
    set_rights(&route.server, "Target", "lwstia");
    let mut client = route.gateway.login();
    client.select("Source");
    refused(&mut client, "UID MOVE 2:4 Target", "UID 2:4 stay in the source, copies may be in the target");
    // From then on that target is refused before COPY.
    refused(&mut client, "UID MOVE 1 Target", "no COPYUID");
    refused(&mut client, "MOVE 1:5 \"Target\"", "no COPYUID");
    let uids = client.ok("UID SEARCH ALL").search();
    assert!(client.view.agrees(&uids) && uids.len() == 5, "{:?} {uids:?}", client.view);
    check_reached(&route, &["UID COPY 2:4 TARGET"]);

    set_rights(&route.server, "Target", "lrswipkxtea");
    let (source_now, mut target_now) = both(&route.server);
    assert_eq!(source_now, source, "message by message, flags too");
    let copies = target_now.split_off(target.len());
    assert_eq!(target_now, target, "what was in the target is as it was");
    assert_eq!(nameless(&copies), nameless(&source[1..4]), "the copies of which the NO has spoken");
}

/// MOVE-6: Courier says what it copied even there, so there MOVE is safe.
fn move_6_a_target_that_cannot_be_read_but_gives_copyuid(kind: Kind) {
    let route = Route::start(kind);
    seed_flagged(&route.server);
    let (source, target) = both(&route.server);
    set_rights(&route.server, "Target", "lwstia");
    let mut client = route.gateway.login();
    client.select("INBOX.Source");
    client.ok("UID MOVE 2:4 INBOX.Target");
    check_no_move(&route);

    set_rights(&route.server, "Target", "lrswipkxtea");
    let (source_now, target_now) = both(&route.server);
    assert_eq!(nameless(&source_now), nameless(&[&source[..1], &source[4..]].concat()), "the others stay");
    assert_eq!(nameless(&target_now), nameless(&[&target[..], &source[1..4]].concat()), "these have moved");
}

/// Subjects and flags: what a copy keeps.
fn nameless(listing: &[(u32, String, Flags)]) -> Vec<(&String, &Flags)> {
    listing.iter().map(|(_, subject, flags)| (subject, flags)).collect()
}

/// NO with the reason, and nothing else was said.
fn refused(client: &mut Client, command: &str, reason: &str) -> Reply {
    let reply = client.command(command);
    let status = reply.status();
    assert!(status.starts_with("NO [CANNOT] ") && status.contains(reason), "{command}: {status}");
    assert_eq!(reply.lines(), [""; 0], "{command}: nothing happened");
    reply
}

/// Of all commands that copy, flag or remove, only these reached the server.
fn check_reached(route: &Route, expected: &[&str]) {
    let words = ["COPY", "MOVE", "STORE", "EXPUNGE", "CLOSE"];
    let mut commands = route.tap.commands();
    commands.retain(|command| command.split(' ').take(2).any(|word| words.contains(&word)));
    assert_eq!(commands, expected);
}
