//! One connection's loop: slow peers, ends of file, peers that go away, and the drain.

#[path = "support/peer.rs"]
mod peer;

use peer::{Gateway, PATIENCE, Peer, Upstream};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 UIDPLUS LITERAL+] ready\r\n";

/// A gateway in clear, with both sides greeted.
async fn greeted() -> (Gateway, Peer, Peer) {
    let upstream = Upstream::new().await;
    let gateway = Gateway::start(upstream.address(), &[]).await;
    let mut client = gateway.connect().await;
    let mut server = upstream.accept().await;
    server.send(GREETING).await;
    assert!(client.line().await.starts_with("* OK "));
    (gateway, client, server)
}

/// The same with a mailbox of three messages selected.
async fn selected() -> (Gateway, Peer, Peer) {
    let (gateway, mut client, mut server) = greeted().await;
    client.send("c1 LOGIN alice wonderland\r\n").await;
    server.expect("c1 LOGIN alice wonderland").await;
    server.send("c1 OK [CAPABILITY IMAP4rev1 UIDPLUS LITERAL+] in\r\n").await;
    assert!(client.line().await.contains(" MOVE"));
    client.send("c2 SELECT INBOX\r\n").await;
    server.expect("c2 SELECT INBOX").await;
    server.send("* 3 EXISTS\r\n* OK [UIDVALIDITY 1] valid\r\nc2 OK [READ-WRITE] selected\r\n").await;
    while !client.line().await.starts_with("c2 OK") {}
    (gateway, client, server)
}

/// Everything that `sender` sends reaches `receiver`, which at first takes nothing: whatever queues there are on the way
/// are full by then.
async fn pours(sender: Peer, receiver: Peer, whole: &[u8]) {
    let (mut sender, mut receiver) = (sender.into_stream(), receiver.into_stream());
    let mut seen = vec![0; whole.len()];
    let sending = async {
        let mut sent = 0;
        // Nothing more is taken for a while: all is full.
        while let Ok(n) = timeout(Duration::from_millis(100), sender.write(&whole[sent..])).await {
            sent += n.expect("sends");
            if sent == whole.len() {
                break;
            }
        }
        sent
    };
    let sent = sending.await;
    assert!(sent < whole.len(), "this was too little to fill the way");
    let both = async { tokio::try_join!(sender.write_all(&whole[sent..]), receiver.read_exact(&mut seen)) };
    timeout(PATIENCE, both).await.expect("all of it in time").expect("passes");
    assert!(seen == whole, "the octets changed on the way");
}

/// More than the kernel's buffers of both legs.
const MUCH: usize = 24_000_000;

#[tokio::test]
async fn wire_4_a_long_line_passes_a_client_that_is_slow() {
    let (_gateway, mut client, mut server) = greeted().await;
    client.send("a SEARCH ALL\r\n").await;
    server.expect("a SEARCH ALL").await;
    let whole = [b"* SEARCH".as_slice(), &b" 123456".repeat(MUCH / 7), b"\r\na OK done\r\n"].concat();
    pours(server, client, &whole).await;
}

#[tokio::test]
async fn wire_4_a_long_literal_passes_a_client_that_is_slow() {
    let (_gateway, mut client, mut server) = greeted().await;
    client.send("a FETCH 1 BODY[]\r\n").await;
    server.expect("a FETCH 1 BODY[]").await;
    let head = format!("* 1 FETCH (BODY[] {{{MUCH}}}\r\n");
    let message: Vec<u8> = (0..MUCH).map(|n| (n % 251) as u8).collect();
    pours(server, client, &[head.as_bytes(), &message, b")\r\na OK done\r\n"].concat()).await;
}

#[tokio::test]
async fn wire_4_a_long_literal_passes_a_server_that_is_slow() {
    let (_gateway, mut client, mut server) = selected().await;
    let head = format!("a APPEND INBOX {{{MUCH}}}");
    client.send(format!("{head}\r\n")).await;
    server.expect(&head).await;
    server.send("+ go ahead\r\n").await;
    client.expect("+ go ahead").await;
    let message: Vec<u8> = (0..MUCH).map(|n| (n % 251) as u8).collect();
    pours(client, server, &[&message, b"\r\n".as_slice()].concat()).await;
}

#[tokio::test]
async fn the_last_words_of_the_server_reach_a_client_that_still_talks() {
    let (_gateway, mut client, mut server) = greeted().await;
    client.send("a LOGOUT\r\n").await;
    server.expect("a LOGOUT").await;
    server.send("* BYE see you\r\na OK done\r\n").await;
    drop(server);
    // The gateway has octets of the client's that it never reads: a careless close would reset the connection and
    // destroy what is on its way to the client.
    client.send("b NOOP\r\n".repeat(1000)).await;
    assert!(client.rest().await.starts_with("* BYE see you\r\na OK done\r\n"));
}

#[tokio::test]
async fn wire_11_replies_still_reach_a_client_that_has_said_its_last() {
    let (_gateway, mut client, mut server) = greeted().await;
    client.send("a NOOP\r\n").await;
    server.expect("a NOOP").await;
    let mut client = client.into_stream();
    client.shutdown().await.expect("an end of file");
    server.send("a OK done\r\n").await;
    let mut seen = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut seen)).await.expect("an end in time").expect("reads");
    assert!(seen.starts_with(b"a OK done\r\n"), "{:?}", String::from_utf8_lossy(&seen));
    let asked = server.rest().await;
    assert!(asked.is_empty() || asked.ends_with(" LOGOUT\r\n"), "{asked}");
}

/// The server's side of a MOVE of message 2, up to the COPY, whose tag is returned.
async fn up_to_copy(server: &mut Peer) -> String {
    loop {
        let line = server.line().await;
        let (tag, command) = line.split_once(' ').expect("a tag and a command");
        match command {
            "UID FETCH 2 (UID)" => server.send(format!("* 2 FETCH (UID 2)\r\n{tag} OK done\r\n")).await,
            "UID SEARCH UID 2 DELETED" => server.send(format!("* SEARCH\r\n{tag} OK done\r\n")).await,
            "UID COPY 2 Archive" => return tag.to_string(),
            other => panic!("not part of this MOVE: {other}"),
        }
    }
}

/// The rest of it.
async fn from_copy_on(server: &mut Peer, copy: &str) {
    server.send(format!("{copy} OK [COPYUID 9 2 1] done\r\n")).await;
    for (expected, data) in
        [("UID STORE 2 +FLAGS.SILENT (\\Deleted)", ""), ("UID EXPUNGE 2", "* 2 EXPUNGE\r\n")]
    {
        let line = server.line().await;
        let (tag, command) = line.split_once(' ').expect("a tag and a command");
        assert_eq!(command, expected);
        server.send(format!("{data}{tag} OK done\r\n")).await;
    }
}

#[tokio::test]
async fn fault_2_a_move_is_finished_for_a_client_that_is_gone() {
    let (_gateway, mut client, mut server) = selected().await;
    client.send("c3 UID MOVE 2 Archive\r\n").await;
    let copy = up_to_copy(&mut server).await;
    client.reset();
    from_copy_on(&mut server, &copy).await;
    let rest = server.rest().await;
    assert!(rest.ends_with(" LOGOUT\r\n"), "{rest}");
}

#[tokio::test]
async fn an_idle_session_gets_bye_when_the_gateway_drains() {
    let (gateway, mut client, mut server) = selected().await;
    gateway.signal().await;
    let told = client.rest().await;
    assert!(told.starts_with("* BYE "), "{told}");
    drop(client);
    server.rest().await;
    drop(server);
    assert_eq!(gateway.end().await, 0, "sessions cut");
}

#[tokio::test]
async fn fault_2_a_running_move_is_finished_before_the_gateway_ends() {
    let (gateway, mut client, mut server) = selected().await;
    client.send("c3 UID MOVE 2 Archive\r\n").await;
    let copy = up_to_copy(&mut server).await;
    gateway.signal().await;
    from_copy_on(&mut server, &copy).await;
    let told = client.rest().await;
    assert!(told.contains("* OK [COPYUID 9 2 1]") && told.contains("\r\nc3 OK "), "{told}");
    assert!(told.lines().last().is_some_and(|line| line.starts_with("* BYE ")), "{told}");
    drop((client, server));
    assert_eq!(gateway.end().await, 0, "sessions cut");
}

#[tokio::test]
async fn fault_3_a_second_signal_in_a_move_tells_the_client_what_is_true() {
    let (gateway, mut client, mut server) = selected().await;
    client.send("c3 UID MOVE 2 Archive\r\n").await;
    up_to_copy(&mut server).await;
    gateway.signal().await;
    gateway.signal().await;
    let told = client.rest().await;
    assert!(told.contains("c3 NO "), "{told}");
    assert!(told.lines().last().is_some_and(|line| line.starts_with("* BYE ")), "{told}");
    drop((client, server));
    assert_eq!(gateway.end().await, 1, "sessions cut");
}
