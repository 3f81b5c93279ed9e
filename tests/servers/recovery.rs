//! FAULT-4: what happened between the end of a gateway and the user's next login.

use crate::boundary::{Boundary, Cell, Photo, Scene, Stands, in_ranges, journal_in};
use crate::client::{Client, PATIENCE};
use crate::gateway::Gateway;
use crate::mail::Flags;
use crate::server::{Kind, POLL};
use crate::tap::{Point, Tap};
use crate::{mail, miss_in_a_scan, on_servers};
use std::thread::sleep;
use std::time::Instant;

on_servers!(fault_4_what_has_changed_stays: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_4_another_mailbox_of_that_name: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_4_a_mailbox_that_is_gone: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_4_others_neither_finish_nor_look: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_4_two_gateways: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_4_the_server_does_not_hear_of_the_end: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_4_flagged_as_deleted_before: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_4_the_rest_follows: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_4_names: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_4_a_message_with_another_uid: courier COURIER);
on_servers!(fault_4_killed_again_in_the_recovery: dovecot DOVECOT, courier COURIER, cyrus CYRUS);

/// What the user does meanwhile.
type Change = fn(&mut Client, &Cell);

/// Of three messages the second one, or its copy, is not as it was.
fn fault_4_what_has_changed_stays(kind: Kind) {
    let mut scene = Scene::start(kind);
    let changes: [(&str, Change); 5] = [
        ("the copy was removed", |user, cell| {
            change(user, &cell.target, cell.copy(1), "+FLAGS (\\Deleted)");
            user.ok(&format!("UID EXPUNGE {}", cell.copy(1)));
        }),
        ("the copy is flagged as deleted", |user, cell| {
            change(user, &cell.target, cell.copy(1), "+FLAGS (\\Deleted)");
        }),
        ("the copy has another flag", |user, cell| {
            change(user, &cell.target, cell.copy(1), "+FLAGS (\\Answered)");
        }),
        ("the copy has another keyword", |user, cell| {
            change(user, &cell.target, cell.copy(1), "+FLAGS (Later)");
        }),
        ("the message has a flag less", |user, cell| {
            change(user, &cell.source, cell.moved[1].uid, "FLAGS (\\Deleted)");
        }),
    ];
    for (what, change) in changes {
        let cell = scene.killed(3, Boundary::StoreOk);
        change(&mut scene.user(), &cell);
        let mut expected = scene.photo(&cell);
        expected.source.retain(|message| ![cell.moved[0].uid, cell.moved[2].uid].contains(&message.uid));
        scene.restart();
        let reports = scene.reports();
        scene.select(&cell.source);
        assert_eq!(
            scene.photo(&cell),
            expected,
            "{what}: that one stays, the others are gone from the source"
        );
        assert_eq!((scene.reports() - reports, scene.recoveries("stale")), (1, 1.0), "{what}: reported");
    }
}

fn change(user: &mut Client, mailbox: &str, uid: u32, how: &str) {
    user.select(mailbox);
    user.ok(&format!("UID STORE {uid} {how}"));
}

/// A mailbox was deleted, or renamed, and one of that name made, which has messages of the same UIDs.
fn fault_4_another_mailbox_of_that_name(kind: Kind) {
    let mut scene = Scene::start(kind);
    for (how, is_source) in [("DELETE", true), ("RENAME", true), ("DELETE", false)] {
        let cell = scene.killed(3, Boundary::StoreOk);
        let name = if is_source { &cell.source } else { &cell.target };
        make_anew(&mut scene, how, name);
        let expected = scene.photo(&cell);
        assert!(expected.source.len() >= 7 && expected.target.len() >= 5, "UIDs that were those of others");
        scene.restart();
        let reports = scene.reports();
        let commands = scene.select(&cell.source);
        assert_eq!(scene.photo(&cell), expected, "{how} {name}: untouched");
        assert_eq!((scene.reports() - reports, scene.recoveries("stale")), (1, 1.0), "reported");
        let mut looks = cell.recovery(Stands::BothFlagged);
        let about_messages = ["UID STORE", "UID EXPUNGE", "UID SEARCH"];
        looks.retain(|command| !about_messages.iter().any(|words| command.starts_with(words)));
        match is_source {
            true => drop(looks.remove(3)),
            false => drop(looks.splice(1..5, [looks[0].clone()])),
        }
        assert_eq!(commands, looks, "{how} {name}: it is closed as soon as that shows");
    }
}

fn make_anew(scene: &mut Scene, how: &str, name: &str) {
    let stock = scene.server.kind.mailbox("Stock");
    let mut user = scene.user();
    let before = validity(&mut user, name);
    match how {
        "RENAME" => user.ok(&format!("RENAME {name} {name}Old")),
        _ => user.ok(&format!("DELETE {name}")),
    };
    let begun = Instant::now();
    loop {
        user.ok(&format!("CREATE {name}"));
        if validity(&mut user, name) != before {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "UIDVALIDITY is always {before}");
        user.ok(&format!("DELETE {name}"));
        sleep(POLL); // Courier counts seconds
    }
    user.examine(&stock);
    user.ok(&format!("COPY 1:8 {name}"));
    user.ok("CLOSE");
}

fn validity(user: &mut Client, mailbox: &str) -> String {
    let lines = user.examine(mailbox).lines();
    user.ok("CLOSE");
    let line = lines.iter().find(|line| line.contains("[UIDVALIDITY ")).expect("a UIDVALIDITY");
    mail::between(line, "[UIDVALIDITY ", "]").to_owned()
}

/// It may come back: that is tried at each login, for an hour.
fn fault_4_a_mailbox_that_is_gone(kind: Kind) {
    let mut scene = Scene::start(kind);
    for source_is_gone in [true, false] {
        let cell = scene.killed(3, Boundary::StoreOk);
        let (gone, stays) = match source_is_gone {
            true => (&cell.source, &cell.target),
            false => (&cell.target, &cell.source),
        };
        let left = scene.photo(&cell);
        let expected = mail::messages(&mut scene.user(), stays);
        scene.user().ok(&format!("RENAME {gone} {gone}Away"));
        scene.restart();
        scene.select(stays);
        assert_eq!(mail::messages(&mut scene.user(), stays), expected, "untouched");
        let counted = (scene.recoveries("later"), scene.gateway.metric("imapmove_journal_pending"));
        assert_eq!(counted, (1.0, 1.0));
        scene.user().ok(&format!("RENAME {gone}Away {gone}"));
        scene.select(stays);
        assert_eq!(
            scene.recoveries("finished") + scene.recoveries("stale"),
            1.0,
            "{}",
            scene.gateway.logged()
        );
        let (stale, stands) = (scene.recoveries("stale"), scene.photo(&cell));
        if kind == Kind::COURIER {
            // A mailbox that is renamed gets another UIDVALIDITY, and its messages other UIDs in another order.
            assert_eq!((stale, without_uids(&stands)), (1.0, without_uids(&left)));
        } else {
            assert_eq!((stale, stands.stands(&cell)), (0.0, Stands::Target));
        }
    }
}

/// What is in both mailboxes, whatever its numbers.
fn without_uids(photo: &Photo) -> [Vec<(&str, &str, &Flags)>; 2] {
    [&photo.source, &photo.target].map(|messages| {
        let mut all: Vec<_> = messages.iter().map(|m| (&m.octets[..], &m.date[..], &m.flags)).collect();
        all.sort();
        all
    })
}

fn fault_4_others_neither_finish_nor_look(kind: Kind) {
    let mut scene = Scene::start(kind);
    let cell = scene.killed(3, Boundary::StoreOk);
    let left = scene.photo(&cell);

    // The same user, through a gateway in front of another address.
    let other = Tap::start(scene.server.address);
    let gateway = Gateway::start_with(other.address, &[journal_in(&scene.journal)]);
    let mut alice = gateway.login();
    alice.ok(&format!("SELECT \"{}\"", cell.source));
    assert_eq!(other.latest().commands().last(), Some(&cell.select()));
    assert_eq!(gateway.metric("imapmove_journal_pending"), 0.0);
    assert!(other.commands().iter().all(|command| !command.starts_with("EXAMINE")));
    drop((alice, gateway));

    // Another user.
    scene.restart();
    let mut bob = Client::connect(scene.gateway.address);
    bob.ok("LOGIN bob builder");
    assert_eq!(scene.select_as(bob, "INBOX"), ["SELECT \"INBOX\""]);
    assert_eq!(scene.photo(&cell), left);
    assert_eq!(scene.gateway.metric("imapmove_journal_pending"), 1.0);

    assert_eq!(scene.select(&cell.source), cell.recovery(Stands::BothFlagged));
    assert_eq!(scene.photo(&cell).stands(&cell), Stands::Target);
    assert_eq!(scene.gateway.metric("imapmove_journal_pending"), 0.0);
}

/// On one journal folder: while one lives, the other does not take its MOVE.
fn fault_4_two_gateways(kind: Kind) {
    let mut scene = Scene::start(kind);

    let cell = scene.cell(3);
    let (mut client, tag) = scene.stopped(&cell, Boundary::StoreOk);
    let living = scene.another();
    assert_eq!(scene.select(&cell.source), [cell.select()], "the other one lives");
    scene.tap.release();
    let reply = client.finish(&tag);
    assert!(reply.is_ok(), "{}", reply.status());
    assert_eq!(scene.photo(&cell).stands(&cell), Stands::Target);
    drop((client, living));

    let cell = scene.cell(3);
    let (_client, _) = scene.stopped(&cell, Boundary::StoreOk);
    let mut living = scene.another();
    assert_eq!(scene.select(&cell.source), [cell.select()], "the other one lives");
    assert_eq!(scene.photo(&cell).stands(&cell), Stands::BothFlagged);
    living.kill();
    scene.tap.drop_stopped();
    let begun = Instant::now();
    // The folder is searched once a second.
    let commands = loop {
        let commands = scene.select(&cell.source);
        if commands.len() > 1 || begun.elapsed() > PATIENCE {
            break commands;
        }
        sleep(POLL);
    };
    assert_eq!(commands, cell.recovery(Stands::BothFlagged));
    assert_eq!(scene.photo(&cell).stands(&cell), Stands::Target);
}

/// The machine is gone, or the network: the session on the server lives on, and what the gateway sent before may come
/// late.
fn fault_4_the_server_does_not_hear_of_the_end(kind: Kind) {
    let mut scene = Scene::start(kind);
    for at in [Boundary::BeforeCopy, Boundary::CopyOk, Boundary::StoreOk, Boundary::SomeSeen] {
        let cell = scene.cell(3);
        let (_client, _) = scene.stopped(&cell, at);
        let (wire, reports) = (scene.tap.latest(), scene.reports());
        wire.keep_silent();
        scene.gateway.kill();
        scene.restart();
        scene.select(&cell.source);
        let is_reported = at == Boundary::BeforeCopy;
        assert_eq!(scene.reports() - reports, usize::from(is_reported));
        let now = scene.photo(&cell).stands(&cell);
        assert_eq!(now, if is_reported { Stands::Source } else { Stands::Target }, "{at:?}");
        scene.tap.release();
        wire.wait_until_over();
        let last = scene.photo(&cell).stands(&cell);
        // A COPY that comes late is carried out. (Dovecot may answer NO [EXPUNGEISSUED].)
        let copied = is_reported && last == Stands::Both;
        assert!(last == now || copied, "{at:?}: {last:?} when the rest has come\n{}", wire.transcript());
    }
}

/// A message that was flagged as deleted before the MOVE has a copy that is too: perhaps the user has done that since.
fn fault_4_flagged_as_deleted_before(kind: Kind) {
    let mut scene = Scene::start(kind);
    let mut cell = scene.cell(3);
    change(&mut scene.user(), &cell.source, cell.moved[1].uid, "+FLAGS (\\Deleted)");
    cell.before = scene.photo(&cell);
    cell.moved[1].flags.extend(["\\Deleted".to_owned()]);
    let _client = scene.stopped(&cell, Boundary::StoreOk);
    scene.kill();
    let mut expected = scene.photo(&cell);
    expected.source.retain(|message| ![cell.moved[0].uid, cell.moved[2].uid].contains(&message.uid));
    scene.restart();
    scene.select(&cell.source);
    assert_eq!(scene.photo(&cell), expected, "that one stays in both");
    assert_eq!((scene.reports(), scene.recoveries("stale")), (1, 1.0), "reported");
}

/// Two of three messages were flagged, and another client has expunged them since.
fn fault_4_the_rest_follows(kind: Kind) {
    let mut scene = Scene::start(kind);
    let cell = scene.killed(3, Boundary::StoreOk);
    let gone = in_ranges(vec![cell.moved[0].uid, cell.moved[1].uid]);
    let mut user = scene.user();
    user.select(&cell.source);
    user.ok(&format!("UID EXPUNGE {gone}"));
    drop(user);
    scene.restart();
    let commands = scene.select(&cell.source);
    assert_eq!(commands[4], format!("UID STORE {} +FLAGS.SILENT (\\DELETED)", cell.moved[2].uid));
    assert_eq!(scene.photo(&cell).stands(&cell), Stands::Target);
    assert_eq!((scene.reports(), scene.recoveries("finished")), (0, 1.0));
}

/// Courier has given one of three messages another UID meanwhile: it is still in both mailboxes, and that is said.
fn fault_4_a_message_with_another_uid(kind: Kind) {
    let mut scene = Scene::start(kind);
    let cell = scene.killed(3, Boundary::StoreOk);
    let lost = &cell.moved[1];
    miss_in_a_scan(&scene.server, &cell.source, mail::between(&lost.octets, "Subject: ", "\r"));
    let mut expected = scene.photo(&cell);
    let found = expected.source.last().expect("it is found again, behind all others").clone();
    assert!(found.uid > lost.uid && found.octets == lost.octets && found.flags.contains("\\Deleted"));
    expected.source.retain(|message| ![cell.moved[0].uid, cell.moved[2].uid].contains(&message.uid));
    scene.restart();
    let reports = scene.reports();
    scene.select(&cell.source);
    assert_eq!(scene.photo(&cell), expected, "that one stays, the others are gone from the source");
    assert_eq!((scene.reports() - reports, scene.recoveries("stale")), (1, 1.0), "reported");
}

/// Names with spaces, in modified UTF-7, and in a literal.
fn fault_4_names(kind: Kind) {
    let mut scene = Scene::start(kind);
    for (source, target) in [("INBOX", "Old mail"), ("Old &- mail", "Entw&APw-rfe 2026")] {
        let source = if source == "INBOX" { source.to_owned() } else { kind.mailbox(source) };
        if source != "INBOX" {
            scene.user().ok(&format!("CREATE \"{source}\""));
        }
        let cell = scene.cell_between(source, kind.mailbox(target), 3);
        let _client = scene.stopped_as(&cell, Boundary::StoreOk, |client| {
            let tag = client.start(&format!("UID MOVE {} {{{}}}", cell.set, cell.target.len()));
            client.until("+");
            client.send(format!("{}\r\n", cell.target));
            tag
        });
        scene.kill();
        scene.restart();
        assert_eq!(scene.select(&cell.source), cell.recovery(Stands::BothFlagged));
        assert_eq!(scene.photo(&cell).stands(&cell), Stands::Target);
    }
}

/// And once more: what is half recovered is recovered by the next one.
fn fault_4_killed_again_in_the_recovery(kind: Kind) {
    let steps = [
        Point::Command("EXAMINE"),
        Point::Command("UID FETCH"),
        Point::Command("SELECT \""),
        Point::Command("UID STORE"),
        Point::Reply("UID STORE"),
        Point::Command("UID EXPUNGE"),
        Point::Removal(1),
        Point::Command("UID SEARCH"),
        Point::Reply("UID SEARCH"),
        Point::Command("CLOSE"),
    ];
    let mut scene = Scene::start(kind);
    for step in steps {
        for reset in [false, true] {
            let cell = scene.killed(3, Boundary::CopyOk);
            scene.restart();
            let mut client = scene.gateway.login();
            let wire = scene.tap.latest();
            wire.stop_at(&[step]);
            client.start(&format!("SELECT \"{}\"", cell.source));
            wire.wait_until_stopped(&[step]);
            if reset {
                scene.tap.reset();
                let rest = String::from_utf8_lossy(&client.rest()).into_owned();
                assert!(rest.starts_with("* BYE [UNAVAILABLE] "), "{step:?}: {rest:?}");
            } else {
                scene.kill();
                scene.restart();
            }
            let commands = scene.select(&cell.source);
            let photo = scene.photo(&cell);
            assert_eq!(photo.stands(&cell), Stands::Target, "{step:?}, {reset}: {commands:#?}");
            assert_eq!(scene.recoveries("finished"), 1.0, "{step:?}, {reset}: {commands:#?}");
        }
    }
}
