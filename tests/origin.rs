//! Where clients come from: what a proxy in front says, and what the server behind is told.

#[path = "support/peer.rs"]
mod peer;
#[path = "support/program.rs"]
mod program;

use peer::{Peer, Upstream};
use program::Program;
use tokio::io::AsyncReadExt;

const REQUIRED: [&str; 4] = ["--proxy-protocol", "required", "--trusted-proxies", "127.0.0.1/32"];
const REJECTED: &str = "connections_rejected_total{reason=\"proxy_protocol\"}";

/// Version 2: PROXY, TCP over IPv4, 192.0.2.7:1111 to 198.51.100.1:143, and a field that is of no interest.
fn v2(command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 12 + 5, 192, 0, 2, 7, 198, 51, 100, 1]);
    header.extend([1111u16.to_be_bytes(), 143u16.to_be_bytes()].concat());
    header.extend([0xE0, 0, 2, b'x', b'y']);
    header
}

#[tokio::test]
async fn a_proxy_says_where_the_client_comes_from() {
    let upstream = Upstream::new().await;
    let program = Program::start(upstream.address(), &REQUIRED);
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 1111 143\r\n".to_vec();
    let v6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 1111 143\r\n".to_vec();
    for (header, address, one_by_one) in [
        (v1.clone(), "192.0.2.7:1111", false),
        (v1, "192.0.2.7:1111", true),
        (v6, "[2001:db8::7]:1111", false),
        (v2(1), "192.0.2.7:1111", false),
        (v2(1), "192.0.2.7:1111", true),
        (v2(0), "127.0.0.1:", false),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1:", false),
    ] {
        let mut client = program.connect().await;
        let (at_once, rest) = header.split_at(if one_by_one { 0 } else { header.len() });
        // With what belongs to the session behind it.
        client.send(if one_by_one { Vec::new() } else { [at_once, b"a NOOP\r\n"].concat() }).await;
        for octet in rest {
            client.send([*octet]).await;
        }
        if one_by_one {
            client.send("a NOOP\r\n").await;
        }
        let mut server = upstream.accept().await;
        server.send("* OK [CAPABILITY IMAP4rev1 UIDPLUS] ready\r\n").await;
        server.expect("a NOOP").await;
        drop((client, server));
        program.until_logged(&format!("address={address}")).await;
        program.forget_log();
    }
    assert_eq!(program.metric(REJECTED).await, 0);
}

#[tokio::test]
async fn whoever_says_nothing_of_the_kind_is_turned_away() {
    let upstream = Upstream::new().await;
    let program = Program::start(upstream.address(), &REQUIRED);
    let mut too_long = v2(1);
    too_long[14..16].copy_from_slice(&[0xFF, 0xFF]);
    let endless = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
    let cases: [&[u8]; 5] = [
        b"a LOGIN alice wonderland\r\n",
        b"PROXY TCP4 here there 1 2\r\n",
        &endless,
        &too_long,
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\x00",
    ];
    for (count, case) in cases.iter().enumerate() {
        let mut client = program.connect().await;
        client.send(case).await;
        let mut said = Vec::new();
        // Closed or reset: there may be octets that nobody read.
        let _ = client.stream().read_to_end(&mut said).await;
        assert!(said.is_empty(), "{}", said.escape_ascii());
        program.until_metric(REJECTED, |value| value == count as u64 + 1).await;
    }

    let others = Program::start(
        upstream.address(),
        &["--proxy-protocol", "required", "--trusted-proxies", "192.0.2.0/24,::1/128"],
    );
    let mut client = others.connect().await;
    let _ = client.stream().read_to_end(&mut Vec::new()).await;
    others.until_metric(REJECTED, |value| value == 1).await;
}

/// The limit of one address counts clients, not their proxy.
#[tokio::test]
async fn the_client_is_counted_and_not_its_proxy() {
    let upstream = Upstream::new().await;
    let flags = [&REQUIRED[..], &["--max-connections-per-ip", "1"]].concat();
    let program = Program::start(upstream.address(), &flags);
    let mut kept = Vec::new();
    for (last, welcome) in [(1, true), (2, true), (1, false)] {
        let mut client = program.connect().await;
        client.send(format!("PROXY TCP4 192.0.2.{last} 198.51.100.1 1111 143\r\n")).await;
        if welcome {
            let mut server = upstream.accept().await;
            server.send("* OK [CAPABILITY IMAP4rev1 UIDPLUS] ready\r\n").await;
            client.until("* OK ").await;
            kept.push((client, server));
        } else {
            client.until("* BYE [UNAVAILABLE] Too many connections from your address").await;
        }
    }
}

#[tokio::test]
async fn the_upstream_is_told() {
    let upstream = Upstream::new().await;
    for (version, expected) in [
        ("v1", b"PROXY TCP4 192.0.2.7 198.51.100.1 1111 143\r\n".to_vec()),
        ("v2", [&v2(1)[..15], &[12], &v2(1)[16..28]].concat()),
    ] {
        let flags = [&REQUIRED[..], &["--upstream-proxy-protocol", version, "--forward-client-id"]].concat();
        let program = Program::start(upstream.address(), &flags);
        let mut client = program.connect().await;
        client.send(v2(1)).await;
        let mut server = upstream.accept().await;
        let mut header = vec![0; expected.len()];
        server.stream().read_exact(&mut header).await.expect("a header");
        assert_eq!(header, expected, "{version}: {}", header.escape_ascii());
        server.send("* OK [CAPABILITY IMAP4rev1 ID UIDPLUS] ready\r\n").await;
        let told = "ID (\"x-originating-ip\" \"192.0.2.7\" \"x-originating-port\" \"1111\" \
                    \"x-connected-ip\" \"198.51.100.1\" \"x-connected-port\" \"143\")";
        assert_eq!(server.line().await, format!("mv1 {told}"));
        server.send("* ID NIL\r\nmv1 OK done\r\n").await;
        assert!(client.line().await.starts_with("* OK [CAPABILITY IMAP4rev1 ID UIDPLUS MOVE] "));
        is_answered(&mut client, &mut server).await;
    }
}

async fn is_answered(client: &mut Peer, server: &mut Peer) {
    client.send("b NOOP\r\n").await;
    server.expect("b NOOP").await;
    server.send("b OK done\r\n").await;
    client.expect("b OK done").await;
}
