//! Bad input gets a clear answer, and nothing is lost.

use crate::client::Client;
use crate::server::Kind;
use crate::{check_untouched, on_servers, selected};
use std::net::SocketAddr;

on_servers!(malformed_moves_are_bad: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(move_without_a_selected_mailbox_is_bad: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(move_from_a_read_only_mailbox_is_refused: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(an_unknown_target_is_the_servers_own_trycreate: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(missing_rights_are_found_before_the_copy: dovecot DOVECOT_ACL);
on_servers!(a_full_target_is_the_servers_own_refusal: dovecot DOVECOT_QUOTA, courier COURIER_QUOTA);

on_servers!(lines_that_are_no_commands_never_reach_the_server: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(nothing_hides_in_a_literal_that_the_server_takes_for_a_command: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(garbage_before_login_harms_nobody: dovecot DOVECOT, courier COURIER, cyrus CYRUS);

/// MOVE-2.
fn malformed_moves_are_bad(kind: Kind) {
    let (route, mut client) = selected(kind, 3);
    let target = kind.mailbox("Target");
    let sets = ["", "0", "1:", ":2", "1,,2", "1;2", "x", "1:2:3", "4294967296", "1 2", "-1"];
    let mut commands: Vec<String> = sets.iter().map(|set| format!("UID MOVE {set} {target}")).collect();
    commands.extend(
        ["MOVE", "UID MOVE", "MOVE 1", "UID MOVE 1 ", "MOVE 1 \"open", "MOVE 1 a b"].map(str::to_owned),
    );
    commands.extend([format!("MOVE 4 {target}"), format!("MOVE 1:9 {target}"), format!("MOVE 1 ({target})")]);
    for command in commands {
        all_bad(&mut client, &command);
    }
    check_untouched(&route, &mut client, 3);
}

fn all_bad(client: &mut Client, command: &str) {
    let reply = client.command(command);
    assert!(reply.tagged.starts_with(b"BAD "), "{command}: {}", reply.status());
    assert_eq!(reply.lines(), [""; 0], "{command}: nothing happened");
}

/// MOVE-2: before any SELECT, after CLOSE, and after a refused SELECT (WIRE-10).
fn move_without_a_selected_mailbox_is_bad(kind: Kind) {
    let (route, mut client) = selected(kind, 3);
    let (source, target) = (kind.mailbox("Source"), kind.mailbox("Target"));
    let mut fresh = route.gateway.login();
    all_bad(&mut fresh, &format!("UID MOVE 1 {target}"));
    client.ok("CLOSE");
    all_bad(&mut client, &format!("MOVE 1 {target}"));
    client.select(&source);
    assert!(
        !client.command(&format!("SELECT {}", kind.mailbox("Missing"))).is_ok(),
        "there is no such mailbox"
    );
    all_bad(&mut client, &format!("UID MOVE 1 {target}"));
    client.select(&source);
    check_untouched(&route, &mut client, 3);
}

/// MOVE-4: Dovecot would carry it out, or answer OK to a STORE that it ignores.
fn move_from_a_read_only_mailbox_is_refused(kind: Kind) {
    let (route, mut client) = selected(kind, 3);
    client.ok(&format!("EXAMINE {}", kind.mailbox("Source")));
    for command in ["UID MOVE 1", "MOVE 1:2"] {
        let reply = client.command(&format!("{command} {}", kind.mailbox("Target")));
        assert!(reply.tagged.starts_with(b"NO "), "{command}: {}", reply.status());
    }
    assert!(!route.tap.latest().has_command("UID COPY"), "refused before COPY");
    check_untouched(&route, &mut client, 3);
}

/// MOVE-14.
fn an_unknown_target_is_the_servers_own_trycreate(kind: Kind) {
    let (route, mut client) = selected(kind, 3);
    let missing = kind.mailbox("Missing");
    let own = client.command(&format!("UID COPY 2 {missing}")).tagged;
    assert!(own.starts_with(b"NO [TRYCREATE]"), "{}", String::from_utf8_lossy(&own));
    for command in ["UID MOVE 1", "MOVE 2:3"] {
        let reply = client.command(&format!("{command} {missing}"));
        assert_eq!(untimed(&reply.tagged), untimed(&own), "{command}");
    }
    check_untouched(&route, &mut client, 3);
}

/// Without Dovecot's `(0.001 + 0.000 secs)`.
fn untimed(status: &[u8]) -> String {
    let status = String::from_utf8_lossy(status);
    status.split(" (0.").next().expect("a first part").to_owned()
}

/// MOVE-4 for the source, MOVE-14 for the target. Dovecot would answer OK to STORE and EXPUNGE and do nothing.
fn missing_rights_are_found_before_the_copy(kind: Kind) {
    let (route, mut client) = selected(kind, 3);
    let reply = client.command("UID MOVE 1 Locked");
    assert!(reply.tagged.starts_with(b"NO [NOPERM]"), "{}", reply.status());
    client.append("NoDelete", "", &crate::mail::message("stays"));
    client.select("NoDelete");
    for command in ["UID MOVE 1 Target", "MOVE 1 Target"] {
        let reply = client.command(command);
        assert!(reply.tagged.starts_with(b"NO [NOPERM] "), "{command}: {}", reply.status());
        assert_eq!(client.view.0.len(), 1, "{command}: nothing left");
    }
    client.select("Source");
    check_untouched(&route, &mut client, 3);
}

/// MOVE-14.
fn a_full_target_is_the_servers_own_refusal(kind: Kind) {
    let (route, mut client) = selected(kind, 30);
    let (target, quota) = (kind.mailbox("Target"), "a quota of 40 messages");
    let own = client.command(&format!("UID COPY 1:30 {target}")).tagged;
    assert!(own.starts_with(b"NO "), "{quota}: {}", String::from_utf8_lossy(&own));
    let reply = client.command(&format!("UID MOVE 1:30 {target}"));
    assert_eq!(untimed(&reply.tagged), untimed(&own), "{quota}");
    check_untouched(&route, &mut client, 30);
}

/// WIRE-4, WIRE-5.
fn lines_that_are_no_commands_never_reach_the_server(kind: Kind) {
    let (route, mut client) = selected(kind, 3);
    let before = route.tap.commands().len();
    let long = format!("UID MOVE {}1 Target", "1,".repeat(50_000));
    for command in ["NOOP \0", "NO\rOP", "UID MOVE 1 Tar\0get", "UID MOVE\r1 Target", &long] {
        all_bad(&mut client, command);
    }
    for (line, answer) in [("", "* BAD "), ("* NOOP", "* BAD "), ("a(b NOOP", "* BAD "), ("tag", "tag BAD ")]
    {
        client.send(format!("{line}\r\n"));
        let got = client.read_line();
        assert!(got.starts_with(answer.as_bytes()), "{line:?}: {:?}", String::from_utf8_lossy(&got));
    }
    assert_eq!(route.tap.commands().len(), before, "nothing went to the server: {:?}", route.tap.commands());
    check_untouched(&route, &mut client, 3);
}

/// FAULT-5: HTTP, TLS and noise on the IMAP port end their own connection or get their answers; others don't notice.
fn garbage_before_login_harms_nobody(kind: Kind) {
    let (route, mut client) = selected(kind, 3);
    let http: &[u8] = b"GET / HTTP/1.1\r\nHost: mail.example.test\r\n\r\n";
    let noise: Vec<u8> = (0..20_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for garbage in [http, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", &noise, b"\r\n\r\n\r\n"] {
        let mut stranger = Client::connect(route.gateway.address);
        stranger.send(garbage);
        stranger.half_close();
        stranger.rest();
    }
    client.ok(&format!("UID MOVE 1 {}", kind.mailbox("Target")));
    assert_eq!(client.view.0.len(), 2, "the others still move mail");
    crate::check_no_move(&route);
}

/// WIRE-1: `{n+}` behind a line that the server skips. Dovecot would log the stranger in, past `require-tls`.
fn nothing_hides_in_a_literal_that_the_server_takes_for_a_command(kind: Kind) {
    let (route, mut client) = selected(kind, 3);
    let direct = said_to_hidden(route.server.address, b"NOOP ) ");
    assert_eq!(direct.contains("hidden OK"), kind != Kind::CYRUS, "without the gateway: {direct}");
    let words = [
        "NOOP",
        "LOGIN",
        "ID",
        "XYZZY",
        "alice",
        "(",
        "((",
        ")",
        "()",
        "]",
        "\"a-field-with-a-name-of-more-than-30-octets\"",
        "\"x\"",
        "\"\\x\"",
        "\t",
        "~",
        "{3}",
        "{0+}\r\n",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..100 {
        let verb = words[random.usize(..4)];
        let mut head = verb.as_bytes().to_vec();
        for _ in 0..random.usize(..4) {
            head.extend(if random.bool() { &b" "[..] } else { b"" });
            head.extend_from_slice(words[random.usize(..words.len())].as_bytes());
            head.extend(random.bool().then_some(0x80 + random.u8(..0x80)).filter(|_| round % 5 == 0));
        }
        head.extend(if random.u8(..4) > 0 { &b" "[..] } else { b"" });
        let said = said_to_hidden(route.gateway.address, &head);
        assert!(
            !said.contains("hidden "),
            "the server took the literal for a command: {} {said}",
            head.escape_ascii()
        );
    }
    check_untouched(&route, &mut client, 3);
}

/// What comes of a line that has a LOGIN in the literal at its end.
fn said_to_hidden(address: SocketAddr, head: &[u8]) -> String {
    let mut stranger = Client::connect(address);
    stranger.send([b"a ", head, b"{31+}\r\nhidden LOGIN alice wonderland\r\n\r\nb LOGOUT\r\n"].concat());
    stranger.half_close();
    String::from_utf8_lossy(&stranger.rest()).into_owned()
}
