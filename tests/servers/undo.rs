//! FAULT-1: messages that were copied and then cannot leave. Their copies are removed again, and nothing else is.

use crate::client::Client;
use crate::mail::{self, Listing};
use crate::server::Kind;
use crate::tap::Words;
use crate::{Route, both, check_no_move, on_servers, seed_flagged, set_rights};

/// By these the gateway would see before the COPY that messages may not leave (MOVE-4).
const WHAT_RIGHTS_ARE_TOLD_BY: Words =
    &[(" ACL", " XCL"), ("PERMANENTFLAGS", "PERMANENTXLAGS"), ("MYRIGHTS", "MYXIGHTS")];

on_servers!(fault_1_nothing_may_be_flagged_or_expunged: dovecot DOVECOT_ACL, courier COURIER, cyrus CYRUS);
on_servers!(fault_1_nothing_may_be_expunged: dovecot DOVECOT_ACL, courier COURIER, cyrus CYRUS);
on_servers!(fault_1_nothing_may_be_flagged: dovecot DOVECOT_ACL, courier COURIER, cyrus CYRUS);
on_servers!(fault_1_removals_told_by_uid: dovecot DOVECOT_ACL, cyrus CYRUS);
on_servers!(fault_1_an_undo_that_fails_says_what_is_left: dovecot DOVECOT_ACL, courier COURIER, cyrus CYRUS);
on_servers!(fault_1_a_target_that_cannot_be_opened: courier COURIER);

/// Dovecot answers OK and does nothing, Cyrus refuses STORE and UID EXPUNGE, Courier UID EXPUNGE alone.
fn fault_1_nothing_may_be_flagged_or_expunged(kind: Kind) {
    let refused = refused_move(kind, "lrswia", &[]);
    assert_eq!(refused.after, refused.before, "message by message, flags too\n{}", refused.wire);
}

/// The messages carry `\Deleted` before UID EXPUNGE is refused.
fn fault_1_nothing_may_be_expunged(kind: Kind) {
    let refused = refused_move(kind, "lrswita", &[]);
    assert_eq!(refused.after, refused.before, "message by message, flags too\n{}", refused.wire);
}

/// What was flagged before leaves, for good: its copy in the target is the only one.
fn fault_1_nothing_may_be_flagged(kind: Kind) {
    let refused = refused_move(kind, "lrswiea", &[]);
    let (mut source, mut target) = refused.before;
    let (_, subject, flags) = source.remove(3);
    let copy = target.iter().map(|(uid, ..)| uid).max().expect("two messages") + 3;
    target.push((copy, subject, flags));
    assert_eq!(refused.after, (source, target), "message by message, flags too\n{}", refused.wire);
}

/// MOVE-16: with QRESYNC on, the copies are seen leaving by VANISHED.
fn fault_1_removals_told_by_uid(kind: Kind) {
    let refused = refused_move(kind, "lrswita", &["ENABLE QRESYNC"]);
    assert_eq!(refused.after, refused.before, "message by message, flags too\n{}", refused.wire);
    assert!(refused.wire.contains("* VANISHED "), "{}", refused.wire);
}

/// Neither the messages nor their copies may be removed.
fn fault_1_an_undo_that_fails_says_what_is_left(kind: Kind) {
    undo_fails(kind, "lrswia");
}

/// A drop box: Courier gives COPYUID there, and then refuses to open it.
fn fault_1_a_target_that_cannot_be_opened(kind: Kind) {
    undo_fails(kind, "lwstia");
}

fn undo_fails(kind: Kind, rights_in_target: &str) {
    let route = Route::start_hiding(kind, WHAT_RIGHTS_ARE_TOLD_BY);
    seed_flagged(&route.server);
    let before = both(&route.server);
    set_rights(&route.server, "Source", "lrswia");
    set_rights(&route.server, "Target", rights_in_target);
    let status = no_and_bye(&route, &[]);
    let left = "in the target and still in the source: UID 2:4";
    assert!(status.starts_with("NO [CONTACTADMIN] ") && status.contains(left), "{status}");
    set_rights(&route.server, "Target", "lrswipkxtea");
    let after = both(&route.server);
    assert_eq!(after.0, before.0, "the source is as it was");
    assert_eq!(after.1[..2], before.1, "what was in the target is as it was");
    assert_eq!(after.1.len(), 5, "the copies are still there, as the NO says: {:?}", after.1);
}

type Mailboxes = (Listing, Listing);

struct Refused {
    before: Mailboxes,
    after: Mailboxes,
    wire: String,
}

/// A MOVE of messages 2 to 4, of which the last is flagged as deleted from the beginning, out of a mailbox where alice
/// has these rights, which the gateway does not get to see. These commands come first.
fn refused_move(kind: Kind, rights: &str, first: &[&str]) -> Refused {
    let route = Route::start_hiding(kind, WHAT_RIGHTS_ARE_TOLD_BY);
    seed_flagged(&route.server);
    let before = both(&route.server);
    set_rights(&route.server, "Source", rights);
    let status = no_and_bye(&route, first);
    assert!(!status.contains("CONTACTADMIN"), "{status}");
    let stays = if rights.contains('e') { "UID 2:3" } else { "UID 2:4" };
    assert!(status.contains(stays), "it names what stays, {stays}: {status}");
    assert!(route.tap.commands().iter().any(|command| command.starts_with("UID COPY 2:4 ")));
    check_no_move(&route);
    Refused { before, after: both(&route.server), wire: route.tap.latest().transcript() }
}

/// After these commands and a MOVE the client gets a NO, which is returned, then BYE and the end of the connection. It
/// has not seen that another mailbox was selected meanwhile.
fn no_and_bye(route: &Route, first: &[&str]) -> String {
    let kind = route.server.kind;
    let mut client: Client = route.gateway.login();
    first.iter().for_each(|command| drop(client.ok(command)));
    client.select(&kind.mailbox("Source"));
    let wire = route.tap.latest();
    client.forget();
    let reply = client.command(&format!("UID MOVE 2:4 {}", kind.mailbox("Target")));
    let status = reply.status();
    assert!(status.starts_with("NO "), "{status}\n{}", wire.transcript());
    let rest = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(rest.starts_with("* BYE ") && rest.lines().count() == 1, "{status}: {rest:?}");
    wire.wait_until_over();
    let received = String::from_utf8_lossy(&client.received).into_owned();
    let source = mail::listing(&mut route.server.login(), &kind.mailbox("Source"));
    let uids: Vec<u32> = source.iter().map(|(uid, ..)| *uid).collect();
    assert!(client.view.agrees(&uids), "{uids:?} are in the source: {received}");
    let word = ["UIDVALIDITY", "FLAGS", "\\Deleted"].into_iter().find(|word| received.contains(word));
    assert_eq!(word, None, "{received}");
    status
}
