//! One message that cannot be copied, or cannot leave, among others that move: it stays where it is, and the NO names it.

use crate::client::Client;
use crate::mail::{self, Flags};
use crate::server::Kind;
use crate::tap::Point;
use crate::{Route, check_no_move, on_servers, selected};
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

on_servers!(move_6_a_file_that_cannot_be_read: courier COURIER);
on_servers!(fault_1_a_file_that_cannot_be_removed: dovecot DOVECOT_OWN_COPIES, courier COURIER);
on_servers!(fault_1_a_file_that_cannot_be_removed_from_the_target_either: dovecot_hard_links DOVECOT);
on_servers!(fault_1_in_one_mailbox_the_session_goes_on: dovecot DOVECOT_OWN_COPIES, courier COURIER);

/// MOVE-6, SRV-3: Courier skips a file that it cannot read and answers OK.
fn move_6_a_file_that_cannot_be_read(kind: Kind) {
    for command in ["UID MOVE 1:4", "MOVE 4,1:3"] {
        let (route, mut client) = selected(kind, 5);
        let (source, target) = (kind.mailbox("Source"), kind.mailbox("Target"));
        let before = mail::listing(&mut route.server.login(), &source);
        let file = route.server.file("Source", "message2");
        set_permissions(&file, Permissions::from_mode(0o000)).expect("the mode of a test's file");
        let reply = client.command(&format!("{command} {target}"));
        let status = reply.status();
        assert!(status.starts_with("NO ") && status.ends_with("still in the source: UID 2)"), "{status}");
        assert!(client.view.agrees(&[2, 5]), "{:?}", client.view);
        let commands = route.tap.commands();
        assert!(commands.iter().any(|command| command.starts_with("UID STORE 1,3:4 ")), "{commands:?}");

        set_permissions(&file, Permissions::from_mode(0o600)).expect("the mode of a test's file");
        let mut direct = route.server.login();
        let stay = [before[1].clone(), before[4].clone()];
        assert_eq!(mail::listing(&mut direct, &source), stay, "flags too");
        let moved = mail::contents(&mut direct, &target);
        assert_eq!(Vec::from_iter(moved.keys()), ["message1", "message3", "message4"]);
        assert!(moved.values().all(|copies| *copies == [Flags::new()]), "once, and unflagged: {moved:?}");
        // Nothing is wrong with the session or the target.
        client.ok(&format!("UID MOVE 2 {target}"));
        check_no_move(&route);
    }
}

/// Until the gateway gets this it has not asked for a removal.
const COPIED: Point = Point::Reply("UID COPY");

/// The others stay moved: their only copy is in the target.
fn fault_1_a_file_that_cannot_be_removed(kind: Kind) {
    for command in ["UID MOVE 1:4", "MOVE 1:4"] {
        let (route, status, received) = stuck(kind, command, "Target");
        assert!(status.contains("UID 2") && !status.contains("CONTACTADMIN"), "{status}");
        assert!(received.contains("\r\n* BYE "), "{received}");
        let mut direct = route.server.login();
        assert_eq!(subjects(&mut direct, &kind.mailbox("Source")), ["message2", "message5"]);
        assert_eq!(subjects(&mut direct, &kind.mailbox("Target")), ["message1", "message3", "message4"]);
        // It can be moved once its file can.
        let mut again = route.gateway.login();
        again.select(&kind.mailbox("Source"));
        again.ok(&format!("UID MOVE 2 {}", kind.mailbox("Target")));
        check_no_move(&route);
    }
}

/// Dovecot's copy is a hard link to the same file: what cannot be removed from the source cannot be from the target.
fn fault_1_a_file_that_cannot_be_removed_from_the_target_either(kind: Kind) {
    let (route, status, received) = stuck(kind, "UID MOVE 1:4", "Target");
    assert!(status.starts_with("NO [CONTACTADMIN] ") && status.contains("UID 2"), "{status}");
    assert!(received.contains("\r\n* BYE "), "{received}");
    let mut direct = route.server.login();
    assert_eq!(subjects(&mut direct, "Source"), ["message2", "message5"]);
    let target = mail::contents(&mut direct, "Target");
    assert_eq!(Vec::from_iter(target.keys()), ["message1", "message2", "message3", "message4"]);
    assert!(target.values().all(|copies| copies.len() == 1), "once: {target:?}");
}

/// The copies of the others are in the source, as new messages; that of the one that stays is gone.
fn fault_1_in_one_mailbox_the_session_goes_on(kind: Kind) {
    let (route, status, received) = stuck(kind, "UID MOVE 1:4", "Source");
    assert!(status.contains("UID 2") && !status.contains("CONTACTADMIN"), "{status}");
    assert!(!received.contains("* BYE "), "{received}");
    let expected = ["message2", "message5", "message1", "message3", "message4"];
    assert_eq!(subjects(&mut route.server.login(), &kind.mailbox("Source")), expected);
}

/// A MOVE of messages 1 to 4; when they have been copied, message 2 can neither be renamed nor removed, until the reply
/// has come, which is a NO. What else was received behind the command, up to its end or to that of a NOOP.
fn stuck(kind: Kind, command: &str, target: &str) -> (Route, String, String) {
    let (route, mut client) = selected(kind, 5);
    let wire = route.tap.latest();
    client.forget();
    let file = route.server.file("Source", "message2");
    wire.stop_at(&[COPIED]);
    let tag = client.start(&format!("{command} {}", kind.mailbox(target)));
    wire.wait_until_stopped(&[COPIED]);
    let immutable = Immutable::new(file);
    route.tap.release();
    let reply = client.finish(&tag);
    match target {
        "Source" => drop(client.ok("NOOP")),
        _ => drop(client.rest()),
    }
    drop(immutable);
    let received = String::from_utf8_lossy(&client.received).into_owned();
    println!("{}", wire.transcript());
    assert!(reply.tagged.starts_with(b"NO "), "{}", reply.status());
    assert!(!received.contains("\\Deleted"), "the client sees no \\Deleted: {received}");
    assert!(received.contains("[COPYUID "), "it learns what was moved: {received}");
    (route, reply.status(), received)
}

/// The subjects of all messages, none of which may carry a flag.
fn subjects(client: &mut Client, mailbox: &str) -> Vec<String> {
    let listing = mail::listing(client, mailbox);
    assert!(listing.iter().all(|(_, _, flags)| flags.is_empty()), "{mailbox}: {listing:?}");
    listing.into_iter().map(|(_, subject, _)| subject).collect()
}

/// A file that nobody can rename or remove while this is in scope.
struct Immutable(PathBuf);

impl Immutable {
    /// # Panics
    /// If it cannot be made so: nothing is tested then, so it is not passed over.
    fn new(file: PathBuf) -> Immutable {
        let output =
            Command::new("chattr").arg("+i").arg(&file).output().expect("chattr, of the package e2fsprogs");
        let error = String::from_utf8_lossy(&output.stderr);
        let needed = "this test needs root, and a file system that knows immutable files (ext4, xfs, btrfs)";
        assert!(output.status.success(), "{needed}: set TMPDIR to a folder on such a one. {error}");
        Immutable(file)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status(); // else its folder stays, and tests/run says so
    }
}
