//! MOVE-7: how often the server is asked for one MOVE, counted on the wire.

use crate::client::Client;
use crate::on_servers;
use crate::server::Kind;
use crate::tap::Conversation;

on_servers!(uid_move_is_two_round_trips: dovecot_maildir DOVECOT, dovecot_mdbox DOVECOT_MDBOX, courier COURIER,
    cyrus CYRUS, dovecot_acl DOVECOT_ACL);
on_servers!(sequence_move_is_three_round_trips: dovecot_maildir DOVECOT, dovecot_mdbox DOVECOT_MDBOX,
    courier COURIER, cyrus CYRUS, dovecot_acl DOVECOT_ACL);

/// MOVE-7. The first one after SELECT on a server with ACL asks MYRIGHTS too (MOVE-4).
fn uid_move_is_two_round_trips(kind: Kind) {
    let (route, mut client) = crate::selected(kind, 12);
    let (mut wire, target) = (route.tap.latest(), kind.mailbox("Target"));
    let first = if kind.has_acl() { 3 } else { 2 };
    assert_eq!(round_trips(&mut client, &mut wire, &format!("UID MOVE 1,3:5 {target}")), first);
    assert_eq!(round_trips(&mut client, &mut wire, &format!("UID MOVE 2 {target}")), 2);
    assert_eq!(round_trips(&mut client, &mut wire, &format!("UID MOVE 9:6,11 {target}")), 2);
}

/// MOVE-7. MYRIGHTS rides behind the FETCH.
fn sequence_move_is_three_round_trips(kind: Kind) {
    let (route, mut client) = crate::selected(kind, 12);
    let (mut wire, target) = (route.tap.latest(), kind.mailbox("Target"));
    assert_eq!(round_trips(&mut client, &mut wire, &format!("MOVE 1,3:5 {target}")), 3);
    assert_eq!(round_trips(&mut client, &mut wire, &format!("MOVE 2 {target}")), 3);
    assert_eq!(round_trips(&mut client, &mut wire, &format!("UID MOVE 12 {target}")), 2);
}

fn round_trips(client: &mut Client, wire: &mut Conversation, command: &str) -> usize {
    wire.restart();
    let before = client.view.0.len();
    let reply = client.ok(command);
    assert!(client.view.0.len() < before, "{command} moved something: {:?}", reply.lines());
    println!("{command}\n{}", wire.transcript());
    wire.round_trips()
}
