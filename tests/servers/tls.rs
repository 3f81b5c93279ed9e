//! TLS on both legs, between real servers and a real client.

use crate::client::Client;
use crate::gateway::Gateway;
use crate::peer::Authority;
use crate::server::{Kind, Server, free_address};
use crate::tap::{Tap, Way};
use crate::{clients, on_servers, seed};
use std::net::SocketAddr;

/// Whom the certificates are for.
const HERE: &str = "127.0.0.1";

on_servers!(starttls_on_both_legs: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(implicit_on_both_legs: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(starttls_then_implicit: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(implicit_then_starttls: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(a_server_that_cannot_be_verified_is_refused: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(srv_5_a_starttls_that_fails_in_clear_ends_the_session: courier COURIER_BROKEN_STARTTLS);

fn starttls_on_both_legs(kind: Kind) {
    moves(kind, "starttls", "starttls");
}

fn implicit_on_both_legs(kind: Kind) {
    moves(kind, "implicit", "implicit");
}

fn starttls_then_implicit(kind: Kind) {
    moves(kind, "starttls", "implicit");
}

fn implicit_then_starttls(kind: Kind) {
    moves(kind, "implicit", "starttls");
}

/// MOVE as in clear, with imaplib and the gateway each believing in one authority and no other.
fn moves(kind: Kind, upstream_tls: &str, client_tls: &str) {
    let (upstreams, gateways) = (Authority::new(), Authority::new());
    let server = Server::start_with_tls(kind, &upstreams.issue(HERE));
    seed(&server, 6);
    let (identity, tls) = (gateways.issue(HERE), free_address());
    let gateway = Gateway::start_with(
        port(&server, upstream_tls),
        &[
            ("--upstream-tls", upstream_tls),
            ("--upstream-ca", &upstreams.file()),
            ("--listen-tls", &tls.to_string()),
            ("--tls-cert", &identity.cert),
            ("--tls-key", &identity.key),
        ],
    );
    let address = if client_tls == "implicit" { tls } else { gateway.address };
    clients::move_with_imaplib(address, kind, &[client_tls, &gateways.file()]);
    clients::check_moved(&server);
    check_heard(&server);
}

/// SRV-1: no MOVE reached the server. Inside TLS no tap sees it, so Dovecot and Cyrus write down what they heard.
/// Courier cannot, but it has no MOVE: what it moved, it was not asked to move in one word.
fn check_heard(server: &Server) {
    let heard = server.heard().to_uppercase();
    assert!(!heard.contains(" MOVE "), "SRV-1: {heard}");
    let all = heard.contains(" UID COPY ") && heard.contains(" UID EXPUNGE ");
    assert!(all || server.kind == Kind::COURIER, "the server has written down what it heard: {heard}");
}

/// WIRE-9: each says which setting helps, and ends the session before anything of the client's could go anywhere.
fn a_server_that_cannot_be_verified_is_refused(kind: Kind) {
    let (right, wrong) = (Authority::new(), Authority::new());
    let server = Server::start_with_tls(kind, &right.issue(HERE));
    for tls in ["starttls", "implicit"] {
        let settings = [("--upstream-tls", tls), ("--upstream-ca", &wrong.file())];
        let bye = refusal(&Gateway::start_in_vain(port(&server, tls), &settings));
        assert!(bye.contains("no trusted authority") && bye.contains("upstream-ca"), "{tls}: {bye}");

        let name = ("--upstream-name", "other.example");
        let settings = [("--upstream-tls", tls), ("--upstream-ca", &right.file()), name];
        let bye = refusal(&Gateway::start_in_vain(port(&server, tls), &settings));
        assert!(bye.contains("is not for other.example") && bye.contains("upstream-name"), "{tls}: {bye}");
    }
}

/// SRV-5, WIRE-8: the server is told STARTTLS, and after its lie nothing but what begins a handshake.
fn srv_5_a_starttls_that_fails_in_clear_ends_the_session(kind: Kind) {
    let authority = Authority::new();
    let server = Server::start_with_tls(kind, &authority.issue(HERE));
    let tap = Tap::start(server.address);
    let settings = [("--upstream-tls", "starttls"), ("--upstream-ca", &authority.file())];
    let gateway = Gateway::start_in_vain(tap.address, &settings);
    let bye = refusal(&gateway);
    assert!(bye.contains("did not answer with TLS"), "{bye}");
    let wire = tap.latest();
    wire.wait_until_over();
    let answers = String::from_utf8_lossy(&wire.octets(Way::ToGateway)).into_owned();
    assert!(answers.contains("STARTTLS failed"), "Courier fails as it was made to: {answers}");
    let asked = wire.octets(Way::ToServer);
    let hello = asked.windows(2).position(|two| two == b"\r\n").map(|end| &asked[end + 2..]);
    let hello = hello.expect("a command, and what begins a handshake");
    assert!(hello.starts_with(&[22, 3]), "a TLS record of a handshake, not {hello:?}");
}

/// The BYE that a client gets instead of a greeting, after which the connection ends.
fn refusal(gateway: &Gateway) -> String {
    let mut client = Client::connect_silently(gateway.address);
    let bye = String::from_utf8(client.read_line()).expect("text");
    assert!(bye.starts_with("* BYE [UNAVAILABLE] "), "{bye}");
    assert_eq!(client.rest(), b"", "the connection ends with the BYE");
    bye
}

fn port(server: &Server, tls: &str) -> SocketAddr {
    match tls {
        "implicit" => server.tls_address.expect("a server that was given a certificate"),
        _ => server.address,
    }
}
