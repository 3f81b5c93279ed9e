//! Two clients who want the same message, one after the other: the second finds nothing to move, and goes on.

use crate::mail;
use crate::on_servers;
use crate::server::Kind;

on_servers!(what_another_has_moved_is_nothing_to_move: dovecot_maildir DOVECOT, dovecot_mdbox DOVECOT_MDBOX,
    courier COURIER, cyrus CYRUS);

/// MOVE-6, MOVE-12, SRV-3: Courier still lists and finds what another session has removed, until a NOOP.
fn what_another_has_moved_is_nothing_to_move(kind: Kind) {
    let (route, mut first) = crate::selected(kind, 3);
    let (source, target) = (kind.mailbox("Source"), kind.mailbox("Target"));
    let mut second = route.gateway.login();
    second.select(&source);
    first.ok(&format!("UID MOVE 1 {target}"));
    second.ok(&format!("UID MOVE 1 {target}"));
    // The target is still one that can be trusted.
    second.ok(&format!("UID MOVE 2 {target}"));
    let mut direct = route.server.login();
    let subjects = |all: std::collections::BTreeMap<String, Vec<mail::Flags>>| {
        all.into_iter().map(|(subject, copies)| (subject, copies.len())).collect::<Vec<_>>()
    };
    let once = |names: &[&str]| names.iter().map(|name| (name.to_string(), 1)).collect::<Vec<_>>();
    assert_eq!(subjects(mail::contents(&mut direct, &target)), once(&["message1", "message2"]));
    assert_eq!(subjects(mail::contents(&mut direct, &source)), once(&["message3"]));
    crate::check_no_move(&route);
}
