//! The gateway in front of real servers: Dovecot, Courier, Cyrus and imap4d, started on loopback by the recipes beside this
//! file. A server that does not start fails its test. `tests/run` installs what they need and runs these tests.

#[path = "../support/client.rs"]
mod client;
#[path = "../support/dashboard.rs"]
mod dashboard;
#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/gateway.rs"]
mod gateway;
#[path = "../support/in_memory.rs"]
mod in_memory;
#[path = "../support/mail.rs"]
mod mail;
#[path = "../support/peer.rs"]
mod peer;
#[path = "../support/server.rs"]
mod server;
#[path = "../support/tap.rs"]
mod tap;

mod bad_input;
mod boundary;
mod capabilities;
mod clients;
mod interruption;
mod journal;
mod killed;
mod like_native;
mod not_safe;
mod one_stays;
mod origin;
mod pass_through;
mod probe;
mod prometheus;
mod races;
mod recovery;
mod round_trips;
mod soak;
mod storm;
mod tls;
mod tutorial;
mod undo;

use client::Client;
use gateway::Gateway;
use mail::Listing;
use server::{Kind, Server};
use std::path::Path;
use tap::{Tap, Words};

/// A server, a tap that sees what reaches it, and the gateway in front of both.
struct Route {
    gateway: Gateway,
    tap: Tap,
    server: Server,
}

impl Route {
    fn start(kind: Kind) -> Route {
        Route::start_hiding(kind, &[])
    }

    /// The gateway does not get to see these words of the server: see [`Tap::start_hiding`].
    fn start_hiding(kind: Kind, words: Words) -> Route {
        let server = Server::start(kind);
        let tap = Tap::start_hiding(server.address, words);
        let gateway = Gateway::start(tap.address);
        Route { gateway, tap, server }
    }
}

/// Somebody opens a mailbox of Courier's, and while the folder is read the file of this message is not there: so it is
/// when the file is renamed just then, because the message's flags change. Courier forgets its UID, and gives it another
/// one when it is found again.
fn miss_in_a_scan(server: &Server, mailbox: &str, subject: &str) {
    let name = mailbox.strip_prefix(&server.kind.mailbox("")).expect("a mailbox of this server's");
    let file = server.file(name, subject);
    let aside = file.parent().and_then(Path::parent).expect("a Maildir").join("aside");
    std::fs::rename(&file, &aside).expect("one folder");
    server.login().select(mailbox);
    std::fs::rename(&aside, &file).expect("one folder");
}

/// A route whose mailbox `Source` holds `message1` to `message{count}` and is selected through the gateway; `Target` is
/// empty. The client's connection is the tap's latest.
fn selected(kind: Kind, count: usize) -> (Route, Client) {
    let route = Route::start(kind);
    seed(&route.server, count);
    let mut client = route.gateway.login();
    client.select(&kind.mailbox("Source"));
    (route, client)
}

fn seed(server: &Server, count: usize) {
    let mut client = server.login();
    for mailbox in ["Source", "Target"] {
        client.ok(&format!("CREATE {}", server.kind.mailbox(mailbox)));
    }
    mail::deliver(&mut client, &server.kind.mailbox("Source"), (1..=count).map(|i| format!("message{i}")));
    client.ok("LOGOUT");
}

/// `Source` with five messages and `Target` with two, of all sorts of flags: `Source1` to `Source5`, and so on.
fn seed_flagged(server: &Server) {
    const SOURCE: [&str; 5] = ["", "\\Seen", "\\Flagged \\Answered", "\\Deleted", "\\Seen \\Deleted"];
    let mut client = server.login();
    for (mailbox, flags) in [("Source", &SOURCE[..]), ("Target", &["", "\\Deleted"])] {
        let name = server.kind.mailbox(mailbox);
        client.ok(&format!("CREATE {name}"));
        mail::deliver(&mut client, &name, (1..=flags.len()).map(|i| format!("{mailbox}{i}")));
        client.select(&name);
        for (i, flags) in flags.iter().enumerate() {
            client.ok(&format!("STORE {} FLAGS ({flags})", i + 1)); // imap4d's APPEND takes no flags
        }
    }
    client.ok("LOGOUT");
}

/// What `Source` and `Target` hold.
fn both(server: &Server) -> (Listing, Listing) {
    let mut client = server.login();
    let source = mail::listing(&mut client, &server.kind.mailbox("Source"));
    (source, mail::listing(&mut client, &server.kind.mailbox("Target")))
}

/// What alice may do in her mailbox (RFC 4314), on a server with ACL.
fn set_rights(server: &Server, mailbox: &str, rights: &str) {
    server.login().ok(&format!("SETACL {} {} {rights}", server.kind.mailbox(mailbox), server.kind.owner()));
}

/// Nothing was moved, flagged or expunged; the client's view is whole; the server has seen no MOVE.
fn check_untouched(route: &Route, client: &mut Client, count: usize) {
    let uids = client.ok("UID SEARCH ALL").search();
    assert!(client.view.agrees(&uids) && uids.len() == count, "{:?} {uids:?}", client.view);
    let mut direct = route.server.login();
    let kind = route.server.kind;
    let all = (1..=count).map(|i| (format!("message{i}"), vec![mail::Flags::new()])).collect();
    assert_eq!(mail::contents(&mut direct, &kind.mailbox("Source")), all, "all is still in the source");
    assert_eq!(mail::contents(&mut direct, &kind.mailbox("Target")).len(), 0, "nothing is in the target");
    check_no_move(route);
}

/// SRV-1: servers carry out a MOVE that they do not list, so the octets that reached them are what counts.
fn check_no_move(route: &Route) {
    check_no_move_in(&route.tap.commands());
}

fn check_no_move_in(commands: &[String]) {
    for command in commands {
        assert!(!command.starts_with("MOVE") && !command.starts_with("UID MOVE"), "SRV-1: {command}");
    }
}

/// Makes one test of a function for each server named: `on_servers!(check: dovecot DOVECOT, courier COURIER)`.
macro_rules! on_servers {
    ($check:ident: $($name:ident $kind:ident),+) => {
        mod $check {
            $(#[test]
            fn $name() {
                super::$check(crate::server::Kind::$kind);
            })+
        }
    };
}
use on_servers;
