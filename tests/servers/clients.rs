//! Real clients move mail through the gateway: Python's imaplib and mbsync.

use crate::mail;
use crate::server::{Kind, Server};
use crate::tap::Tap;
use crate::{Route, check_no_move, on_servers, seed};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

on_servers!(imaplib: dovecot DOVECOT, dovecot_mdbox DOVECOT_MDBOX, courier COURIER, cyrus CYRUS);
on_servers!(mbsync: dovecot DOVECOT, dovecot_mdbox DOVECOT_MDBOX, courier COURIER, cyrus CYRUS);

/// Python's imaplib has no MOVE of its own: `uid("MOVE", ...)`.
fn imaplib(kind: Kind) {
    let route = Route::start(kind);
    seed(&route.server, 6);
    move_with_imaplib(route.gateway.address, kind, &[]);
    check_moved(&route.server);
    check_no_move(&route);
}

/// Moves `message2` to `message4`, with what the script wants to know about TLS.
pub fn move_with_imaplib(gateway: SocketAddr, kind: Kind, tls: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/imaplib_move.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(gateway.port().to_string());
    run(python.arg(kind.mailbox("Source")).arg(kind.mailbox("Target")).args(tls));
}

/// Of six messages, those that [`move_with_imaplib`] moves are in `Target`, once, and the others in `Source`.
pub fn check_moved(server: &Server) {
    check(server, &[1, 5, 6], &[2, 3, 4]);
}

/// mbsync moves what was deleted on the near side to the far side's trash: with UID MOVE where the server lists it,
/// else with UID COPY.
fn mbsync(kind: Kind) {
    let route = Route::start(kind);
    seed(&route.server, 6);
    let home = tempfile::tempdir().expect("a temporary folder");
    let configuration = home.path().join("mbsyncrc");
    let front = Tap::start(route.gateway.address);
    std::fs::write(&configuration, mbsyncrc(&front, kind, home.path())).expect("a configuration");
    let sync =
        || run(Command::new("mbsync").arg("-c").arg(&configuration).arg("-a").env("HOME", home.path()));
    sync();
    let deleted = delete_locally(&home.path().join("mail"), &["message2", "message5"]);
    assert_eq!(deleted, 2, "mbsync has fetched both");
    sync();
    check(&route.server, &[1, 3, 4, 6], &[2, 5]);
    check_no_move(&route);
    let commands = front.commands();
    let moves = commands.iter().filter(|command| command.starts_with("UID MOVE "));
    assert_eq!(moves.count(), 2, "mbsync believes in the MOVE that the gateway lists");
}

fn mbsyncrc(front: &Tap, kind: Kind, home: &Path) -> String {
    let path = kind.mailbox("");
    let path = if path.is_empty() { path } else { format!("Path {path}\n") };
    format!(
        "IMAPStore far\nHost 127.0.0.1\nPort {port}\nUser alice\nPass wonderland\nSSLType None\nAuthMechs LOGIN\n\
         {path}Trash Target\n\n\
         MaildirStore near\nPath {home}/\nInbox {home}/inbox\n\n\
         Channel mail\nFar :far:Source\nNear :near:mail\nCreate Near\nSync All\nExpunge Both\nSyncState {home}/state\n",
        port = front.address.port(),
        home = home.display(),
    )
}

/// Marks messages as deleted, in the way of a Maildir reader: `T` among the flags of the file's name. How many.
fn delete_locally(maildir: &Path, subjects: &[&str]) -> usize {
    let files =
        ["cur", "new"].map(|folder| std::fs::read_dir(maildir.join(folder)).expect("a Maildir folder"));
    let mut deleted = 0;
    for file in files.into_iter().flatten().map(|entry| entry.expect("a file").path()) {
        let text = std::fs::read_to_string(&file).expect("a message");
        let wanted = |line: &str| line.strip_prefix("Subject: ").is_some_and(|it| subjects.contains(&it));
        if text.lines().any(wanted) {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            let (unique, flags) = name.split_once(":2,").unwrap_or((&name, ""));
            std::fs::rename(&file, maildir.join(format!("cur/{unique}:2,{flags}T"))).expect("a new name");
            deleted += 1;
        }
    }
    deleted
}

fn run(command: &mut Command) {
    // "timeout" bounds the client's life; its output is shown when it fails.
    let mut bounded = Command::new("timeout");
    bounded.arg("60").arg(command.get_program()).args(command.get_args());
    bounded.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = bounded.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    assert!(output.status.success(), "{command:?}\n{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn check(server: &Server, source: &[u32], target: &[u32]) {
    let (mut client, kind) = (server.login(), server.kind);
    for (mailbox, expected) in [("Source", source), ("Target", target)] {
        let found = mail::contents(&mut client, &kind.mailbox(mailbox));
        let found: BTreeMap<String, usize> =
            found.into_iter().map(|(subject, all)| (subject, all.len())).collect();
        let expected = expected.iter().map(|i| (format!("message{i}"), 1)).collect();
        assert_eq!(found, expected, "{mailbox}");
    }
}
