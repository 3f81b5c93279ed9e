//! Clients who want the same messages: one after the other, and at the same moment.

use crate::mail;
use crate::miss_in_a_scan;
use crate::on_servers;
use crate::server::{Kind, Server};

/// How often two clients race.
const ROUNDS: u32 = 8;

on_servers!(who_comes_second_makes_no_second_copy: dovecot_maildir DOVECOT, dovecot_mdbox DOVECOT_MDBOX,
    courier COURIER, cyrus CYRUS);

/// MOVE-13, FAULT-5: two sessions that move the same messages at the same moment take turns.
fn who_comes_second_makes_no_second_copy(kind: Kind) {
    let (route, mut first) = crate::selected(kind, 0);
    let (source, target) = (kind.mailbox("Source"), kind.mailbox("Target"));
    let mut second = route.gateway.login();
    let mut direct = route.server.login();
    for round in 1..=ROUNDS {
        mail::deliver(&mut direct, &source, (1..=5).map(|i| format!("message{round}-{i}")));
        for client in [&mut first, &mut second] {
            client.select(&source);
        }
        let command = format!("UID MOVE 1:1000 {target}");
        let tags = [first.start(&command), second.start(&command)];
        let replies = [first.finish(&tags[0]), second.finish(&tags[1])];
        let refused = replies.iter().filter(|reply| !reply.is_ok()).map(|reply| reply.status());
        // Another word for "not there any more" is lawful for the second.
        let refused: Vec<_> = refused.collect();
        assert!(refused.len() < 2 && refused.iter().all(|r| r.contains("EXPUNGEISSUED")), "{refused:?}");
        let all = mail::contents(&mut direct, &target);
        assert_eq!(all.len(), 5 * round as usize, "{replies:?}");
        let once = all.values().all(|copies| *copies == [mail::Flags::new()]);
        assert!(
            once,
            "round {round}: a second copy, or one that is flagged: {all:?}\n{:#?}",
            route.tap.commands()
        );
        assert_eq!(mail::contents(&mut direct, &source).len(), 0);
    }
    crate::check_no_move(&route);
}

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

on_servers!(what_is_announced_as_removed_stays: courier COURIER);

/// What no gateway can see (CHANGELOG, Known limits), and without one: while a client of Courier's removes a message that
/// it has copied, somebody opens the mailbox, and somebody changes the message's flags.
fn what_is_announced_as_removed_stays(kind: Kind) {
    let server = Server::start(kind);
    crate::seed(&server, 3);
    let (source, target) = (kind.mailbox("Source"), kind.mailbox("Target"));
    let [mut client, mut other] = [server.login(), server.login()];
    client.select(&source);
    client.ok(&format!("UID COPY 2 {target}"));
    client.ok("UID STORE 2 +FLAGS.SILENT (\\Deleted)");
    miss_in_a_scan(&server, &source, "message2");
    other.select(&source);
    other.ok("UID STORE 4 +FLAGS.SILENT (\\Flagged)");
    assert_eq!(client.ok("UID EXPUNGE 2").lines()[..2], ["* 2 EXPUNGE", "* 3 EXISTS"]);
    let (uid, subject, flags) = mail::listing(&mut client, &source).pop().expect("it has come back");
    assert_eq!((uid, &subject[..]), (4, "message2"));
    assert!(flags.contains("\\Deleted"), "{flags:?}");
}
