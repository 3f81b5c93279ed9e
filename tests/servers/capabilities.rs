//! CAP-1 to CAP-7 as a client sees them, in each place where a server lists its capabilities.

use crate::client::{Client, Reply};
use crate::server::Kind;
use crate::{Route, on_servers};
use std::net::SocketAddr;

on_servers!(lists_are_rewritten_in_every_place: dovecot DOVECOT, courier COURIER, cyrus CYRUS,
    dovecot_native DOVECOT_NATIVE, cyrus_native CYRUS_NATIVE, dovecot_without_uidplus DOVECOT_WITHOUT_UIDPLUS);
on_servers!(native_move_passes_untouched: dovecot DOVECOT_NATIVE, cyrus CYRUS_NATIVE);

/// The lists of one session, by place.
struct Lists {
    greeting: Vec<List>,
    before_login: Vec<List>,
    login: Vec<List>,
    after_login: Vec<List>,
}

type List = Vec<String>;

/// CAP-1, CAP-2, CAP-3, CAP-5, CAP-6, CAP-7: greeting, untagged, OK of LOGIN and of AUTHENTICATE.
fn lists_are_rewritten_in_every_place(kind: Kind) {
    let route = Route::start(kind);
    for login in ["LOGIN alice wonderland", "AUTHENTICATE PLAIN"] {
        for ask_first in [false, true] {
            let direct = lists(route.server.address, login, ask_first);
            let through = lists(route.gateway.address, login, ask_first);
            check(&direct, &through);
        }
    }
}

fn check(direct: &Lists, through: &Lists) {
    assert!(!direct.greeting.is_empty(), "each of these servers lists capabilities in its greeting");
    same("greeting", &direct.greeting, &through.greeting);
    same("CAPABILITY before login", &direct.before_login, &through.before_login);
    same("CAPABILITY after login", &direct.after_login, &through.after_login);
    // CAP-5: where the server lists nothing at login, the gateway asks.
    let login = if direct.login.is_empty() { &direct.after_login } else { &direct.login };
    same("login", login, &through.login);
}

fn same(place: &str, direct: &[List], through: &[List]) {
    assert_eq!(direct.len(), through.len(), "{place}: {direct:?} became {through:?}");
    for (direct, through) in direct.iter().zip(through) {
        let is_move = |token: &&String| token.eq_ignore_ascii_case("MOVE");
        let moves = through.iter().filter(is_move).count();
        let expected = direct.iter().any(|token| token == "UIDPLUS" || token == "MOVE");
        assert_eq!(moves, usize::from(expected), "{place}: MOVE in {through:?}, made of {direct:?}");
        let kept: Vec<_> = direct.iter().filter(|token| !is_move(token) && !misleads(token)).collect();
        let rest: Vec<_> = through.iter().filter(|token| !is_move(token)).collect();
        assert_eq!(kept, rest, "{place}: the other tokens, in order");
    }
}

/// CAP-6, and CAP-7 for a listener in clear.
fn misleads(token: &str) -> bool {
    const WORDS: [&str; 6] = [
        "COMPRESS=DEFLATE",
        "LOGIN-REFERRALS",
        "MAILBOX-REFERRALS",
        "UNAUTHENTICATE",
        "STARTTLS",
        "LOGINDISABLED",
    ];
    const MECHANISMS: [&str; 3] = ["AUTH=GSSAPI", "AUTH=KERBEROS_V4", "AUTH=DIGEST-MD5"];
    let channel_binding = token.starts_with("AUTH=") && token.ends_with("-PLUS");
    WORDS.contains(&token) || MECHANISMS.contains(&token) || channel_binding || token.starts_with("AUTH=GS2-")
}

fn lists(address: SocketAddr, login: &str, ask_first: bool) -> Lists {
    let mut client = Client::connect(address);
    let greeting = client.received.clone();
    let before = if ask_first { in_reply(&client.ok("CAPABILITY")) } else { Vec::new() };
    let login = authenticate(&mut client, login);
    let after_login = in_reply(&client.ok("CAPABILITY"));
    let greeting = list_in(&String::from_utf8_lossy(&greeting)).into_iter().collect();
    Lists { greeting, before_login: before, login: in_reply(&login), after_login }
}

fn authenticate(client: &mut Client, login: &str) -> Reply {
    let tag = client.start(login);
    if login.starts_with("AUTHENTICATE") {
        client.until("+");
        client.send("AGFsaWNlAHdvbmRlcmxhbmQ=\r\n"); // NUL alice NUL wonderland
    }
    let reply = client.finish(&tag);
    assert!(reply.is_ok(), "{login}: {}", reply.status());
    reply
}

fn in_reply(reply: &Reply) -> Vec<List> {
    reply.lines().into_iter().chain([reply.status()]).filter_map(|line| list_in(&line)).collect()
}

fn list_in(line: &str) -> Option<List> {
    let list =
        line.strip_prefix("* CAPABILITY ").or(line.split_once("[CAPABILITY ").map(|(_, list)| list))?;
    Some(list.split([']', '\r']).next()?.split_whitespace().map(str::to_owned).collect())
}

/// CAP-3.
fn native_move_passes_untouched(kind: Kind) {
    let (route, mut client) = crate::selected(kind, 3);
    client.ok("UID MOVE 1 Target");
    client.ok("MOVE 1 Target");
    let commands = route.tap.latest().commands();
    assert!(
        commands.ends_with(&["UID MOVE 1 TARGET".to_owned(), "MOVE 1 TARGET".to_owned()]),
        "{commands:?}"
    );
}
