//! A real load balancer in front, a real server behind: the server's log names the client's address.

use crate::client::PATIENCE;
use crate::gateway::Gateway;
use crate::server::{Kind, POLL, Process, Server, free_address};
use socket2::{Domain, Socket, Type};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::Instant;
use tempfile::TempDir;

/// What haproxy sends, and by what the gateway tells the server.
const WAYS: [(&str, &[(&str, &str)]); 3] = [
    ("send-proxy", &[("--upstream-proxy-protocol", "v1")]),
    ("send-proxy-v2", &[("--upstream-proxy-protocol", "v2")]),
    ("send-proxy-v2", &[("--forward-client-id", "--log-level=info")]),
];

#[test]
fn the_server_behind_logs_the_client_in_front_of_haproxy() {
    let server = Server::start_with_proxied_port(Kind::DOVECOT_TRUSTING);
    for (host, (header, told)) in (11u8..).zip(WAYS) {
        let by_header = told[0].0 == "--upstream-proxy-protocol";
        let upstream = if by_header { server.tls_address.expect("a second port") } else { server.address };
        let required = [("--proxy-protocol", "required"), ("--trusted-proxies", "127.0.0.1/32")];
        let gateway = Gateway::start_in_vain(upstream, &[&required, told].concat());
        let (_haproxy, _folder, front) = haproxy(header, gateway.address);
        let client = SocketAddr::from(([127, 0, 0, host], 0));
        log_in(client, front);
        let named = format!("rip={},", client.ip());
        let begun = Instant::now();
        while !server.logged().lines().any(|line| line.contains("user=<alice>") && line.contains(&named)) {
            assert!(begun.elapsed() < PATIENCE, "no {named} of alice's in\n{}", server.logged());
            sleep(POLL);
        }
    }
}

fn haproxy(header: &str, gateway: SocketAddr) -> (Process, TempDir, SocketAddr) {
    let (folder, address) = (tempfile::tempdir().expect("a folder"), free_address());
    let mut command = Command::new("bash");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/haproxy.sh")).arg(folder.path());
    command.arg(address.port().to_string()).arg(format!("{header},{}", gateway.port()));
    (Process::start(command, &folder.path().join("server.log")), folder, address)
}

/// From an address of one's own, in whose ID the gateway's word is contradicted.
fn log_in(from: SocketAddr, to: SocketAddr) {
    let mut stream = connect(from, to);
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    let mut until = |start: &str| {
        let line =
            lines.by_ref().map(|line| line.expect("a line in time")).find(|line| line.starts_with(start));
        assert!(line.is_some(), "the stream ended before {start:?}");
    };
    until("* OK ");
    stream.write_all(b"a ID (\"x-originating-ip\" \"203.0.113.9\")\r\n").expect("writes");
    until("a ");
    stream.write_all(b"b LOGIN alice wonderland\r\n").expect("writes");
    until("b OK ");
}

fn connect(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let begun = Instant::now();
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&from.into()).expect("a loopback address");
        match socket.connect(&to.into()) {
            Ok(()) => {
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                return socket.into();
            }
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        sleep(POLL);
    }
}
