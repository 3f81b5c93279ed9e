//! Hostile peers: each misbehaves in its own way against the program itself, over sockets. Then a sound client beside it
//! must be served, no session may have panicked, and what the hostile peer got or did must be what is written here.
//!
//! | clients | |
//! |---|---|
//! | `slowloris_*` | speaks an octet now and then and never logs in, in clear or in a handshake |
//! | `ten_thousand_connections` | opens them and says nothing |
//! | `more_connections_than_one_address_may_have`, `no_descriptors_left` | takes what there is |
//! | `an_endless_line_*`, `an_endless_literal_count` | never comes to an end |
//! | `literals_of_*`, `a_flood_of_literals` | announces what nobody can hold, or very much of very little |
//! | `nested_parentheses` | hopes for recursion |
//! | `crlf_in_a_mailbox_literal`, `injection_through_mailbox_names` | hides commands and answers in names |
//! | `deflate_after_compress`, `starttls_with_a_login_behind_it`, `another_protocol` | leaves the protocol |
//! | `tags_like_the_gateways` | uses the tags that the gateway would |
//! | `segments_of_one_octet`, `a_half_closed_socket`, `tls_without_close_notify` | plays with the transport |
//! | `memory_with_a_thousand_stalled_sessions` | all that can be held, held at once |
//!
//! | servers | |
//! |---|---|
//! | `guesses_tags_*` | answers with the gateway's own tags before and in a MOVE, also inside a message |
//! | `says_ok_to_starttls_early`, `preauth` | tries to keep the session in clear |
//! | `capability_garbage`, `copyuid_garbage` | says nonsense where the gateway listens |
//! | `injection_through_names` | hides answers in what it lists |
//! | `an_endless_line`, `literals_of_*`, `nested_parentheses` | as the clients' |
//! | `segments_of_one_octet`, `a_half_closed_socket`, `tls_without_close_notify` | as the clients', in a MOVE |

#[path = "support/peer.rs"]
mod peer;
#[path = "support/program.rs"]
mod program;
#[path = "support/sound.rs"]
mod sound;

use peer::{Authority, PATIENCE, Peer, Trust, Upstream};
use program::Program;
use sound::{COPYUID, GREETING, Scene, passes, select};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const MIB: usize = 1 << 20;

/// Sends octets for as long as the other side takes them.
async fn send_as_long_as_taken(stream: &mut (impl AsyncWriteExt + Unpin), octets: &[u8]) {
    let _ = timeout(PATIENCE, stream.write_all(octets)).await;
}

async fn in_single_octets(peer: &mut Peer, speech: &str) {
    for octet in speech.bytes() {
        peer.send([octet]).await;
        tokio::task::yield_now().await;
    }
}

/// No command of the gateway's own that changes a mailbox.
fn nothing_is_removed(asked: &str) {
    assert!(!asked.contains("STORE") && !asked.contains("EXPUNGE"), "{asked}");
}

/// The commands of the first flight of a MOVE of message 2, answered as this: the reply to COPY is what the test is about.
async fn first_flight(server: &mut Peer, copied: &str) {
    let mut tags = Vec::new();
    for expected in ["UID FETCH 2 (UID)", "UID SEARCH UID 2 DELETED", "UID COPY 2 Archive"] {
        let line = server.line().await;
        let (tag, command) = line.split_once(' ').expect("a tag and a command");
        assert_eq!(command, expected);
        tags.push(tag.to_string());
    }
    let listed = format!("* 2 FETCH (UID 2)\r\n{} OK\r\n* SEARCH\r\n{} OK\r\n", tags[0], tags[1]);
    server.send(format!("{listed}{} {copied}\r\n", tags[2])).await;
}

mod client {
    use super::*;

    #[tokio::test]
    async fn slowloris_before_login() {
        let mut scene = Scene::start(&["--login-timeout", "8s"]).await;
        let (client, _server) = scene.greeted().await;
        let (mut reading, mut writing) = tokio::io::split(client.into_stream());
        let dripping = tokio::spawn(async move {
            writing.write_all(b"a LOGIN ").await.expect("sends");
            while writing.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        scene.a_sound_client_is_served().await;
        let mut told = String::new();
        timeout(2 * PATIENCE, reading.read_to_string(&mut told))
            .await
            .expect("an end in time")
            .expect("reads");
        assert!(told.starts_with("* BYE ") && told.lines().count() == 1, "{told}");
        assert_eq!(scene.program.limit_hits("login_timeout").await, 1);
        dripping.abort();
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn slowloris_in_a_handshake() {
        let identity = Authority::new().issue("gateway.test");
        let tls = ["--tls-cert", &identity.cert, "--tls-key", &identity.key, "--listen-tls", "127.0.0.1:0"];
        let mut scene = Scene::start(&[&tls[..], &["--max-unauthenticated", "2"]].concat()).await;
        scene.serve_soundly();
        // Who has logged in takes none of these places.
        let mut sound = Vec::new();
        for _ in 0..3 {
            sound.push(scene.program.connect().await);
            sound::selects(sound.last_mut().expect("just pushed")).await;
        }
        // The beginning of a handshake record, and no more: two of them fill the gateway.
        let mut stalled = Vec::new();
        for _ in 0..2 {
            let mut stream = scene.program.connect_raw_tls().await;
            stream.write_all(&[22, 3, 1, 0]).await.expect("sends");
            stalled.push(stream);
        }
        scene.program.until_metric("connections_active", |n| n == 5).await;
        // Another address, and the crowd's first has to make room.
        scene.another_client_is_served(Ipv4Addr::new(127, 0, 0, 2)).await;
        let ended = timeout(PATIENCE, stalled[0].read_u8()).await.expect("an end in time");
        assert!(ended.is_err(), "{ended:?}");
        assert_eq!(scene.program.limit_hits("max_unauthenticated").await, 1);
    }

    /// Two descriptors each, here and in the gateway.
    pub fn raise_descriptor_limit(needed: u64) {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
        assert!(limit.maximum.is_none_or(|most| most >= needed), "this test needs {needed} file descriptors");
    }

    #[tokio::test]
    async fn ten_thousand_connections() {
        raise_descriptor_limit(14_000);
        let mut scene = Scene::start(&[]).await;
        scene.serve_soundly();
        let mut before = scene.program.connect().await;
        sound::selects(&mut before).await;
        let mut crowd = Vec::new();
        for _ in 0..10_000 {
            crowd.push(scene.program.connect_raw(Ipv4Addr::LOCALHOST).await);
        }
        scene.program.until_metric("connections_total{listener=\"plain\"}", |n| n >= 10_001).await;
        // From another address a client gets in, while the crowd is still there.
        scene.another_client_is_served(Ipv4Addr::new(127, 0, 0, 2)).await;
        before.send("b NOOP\r\n").await;
        assert!(before.line().await.starts_with("b OK "));
        let met = scene.program.limit_hits("max_unauthenticated").await;
        assert!(met >= 8_000, "{met} of 10,000 made no room or found none");
        let descriptors = scene.program.metric("process_open_fds").await;
        println!("10,000 connections: {met} without room, {descriptors} descriptors");
        // Some of those that made room may still be on their way out.
        assert!(descriptors < 8_000, "{descriptors} descriptors for 2,000 clients");
        drop(crowd);
        scene.program.until_metric("connections_active", |n| n == 1).await;
        scene.another_client_is_served(Ipv4Addr::LOCALHOST).await;
    }

    #[tokio::test]
    async fn more_connections_than_one_address_may_have() {
        let mut scene = Scene::start(&["--max-connections-per-ip", "2"]).await;
        let _crowd = [scene.greeted().await, scene.greeted().await];
        let told = scene.program.connect().await.rest().await;
        assert_eq!(told, "* BYE [UNAVAILABLE] Too many connections from your address, try again later\r\n");
        assert_eq!(scene.program.limit_hits("max_connections_per_ip").await, 1);
        scene.serve_soundly();
        scene.another_client_is_served(Ipv4Addr::new(127, 0, 0, 2)).await;
    }

    /// Clients that take all descriptors of a gateway that has so many; what those got who got no greeting.
    async fn takes_all_descriptors(descriptors: u32) -> Vec<String> {
        let upstream = Arc::new(Upstream::new().await);
        let limit = format!("ulimit -n {descriptors}");
        let program = Program::start_under(&limit, upstream.address(), &[]);
        let mut scene = Scene { program, upstream };
        scene.serve_soundly();
        let (mut crowd, mut told) = (Vec::new(), Vec::new());
        for _ in 0..descriptors {
            let mut client = scene.program.connect().await;
            let line = tokio::select! {
                line = client.line() => line,
                // Then this one hears nothing for now.
                () = scene.program.until_logged("cannot accept") => break,
            };
            match line.starts_with("* OK ") {
                true => crowd.push(client),
                false => told.push(line),
            }
            if told.len() == 2 {
                break;
            }
        }
        assert!(crowd.len() > 5, "{} sessions with {descriptors} descriptors", crowd.len());
        drop(crowd);
        scene.program.until_metric("connections_active", |n| n == 0).await;
        assert!(scene.program.limit_hits("descriptors").await > 0);
        scene.another_client_is_served(Ipv4Addr::LOCALHOST).await;
        told
    }

    #[tokio::test]
    async fn no_descriptors_left() {
        // A session takes two. Whether it is the second that is missing, so that the client can be told, is chance.
        let told = [takes_all_descriptors(40).await, takes_all_descriptors(41).await].concat();
        for line in told {
            assert!(line.starts_with("* BYE [UNAVAILABLE] The gateway is out of file descriptors"), "{line}");
        }
    }

    #[tokio::test]
    async fn an_endless_line_before_login() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.greeted().await;
        let before = scene.program.memory();
        client.send("a NOOP ").await;
        for _ in 0..64 {
            client.send(vec![b'x'; MIB]).await;
        }
        let grown = scene.program.peak_memory().saturating_sub(before);
        assert!(grown < 8 * MIB, "64 MiB of a line made the gateway grow by {grown} octets");
        scene.a_sound_client_is_served().await;
        client.send("\r\nb NOOP\r\n").await;
        assert!(client.line().await.starts_with("a BAD "));
        server.expect("b NOOP").await;
        assert_eq!(scene.program.limit_hits("line_before_login").await, 1);
    }

    #[tokio::test]
    async fn an_endless_line_after_login() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        let before = scene.program.memory();
        let line = [b"a SEARCH ".as_slice(), &b"UNSEEN ".repeat(32 * MIB / 7)].concat();
        let arrived = passes(&mut client, &mut server, &line, line.len()).await;
        assert!(arrived == line, "what reached the server is not what the client said");
        let grown = scene.program.peak_memory().saturating_sub(before);
        assert!(grown < 8 * MIB, "32 MiB of a line made the gateway grow by {grown} octets");
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn an_endless_literal_count() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected(" LITERAL+").await;
        client.send(format!("a APPEND INBOX {{{}}}\r\n", "9".repeat(60_000))).await;
        assert!(client.line().await.starts_with("a BAD "));
        client.send(format!("b UID MOVE 2 {{{}}}\r\n", "0".repeat(60_000))).await;
        assert!(client.line().await.starts_with("b BAD "));
        // Without an end of the number there is no end of the command either.
        client.send(format!("c APPEND INBOX {{{}+}}\r\n", "9".repeat(60_000))).await;
        assert!(client.rest().await.starts_with("* BYE "));
        assert_eq!(server.rest().await.replace("mv1 LOGOUT\r\n", ""), "");
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn literals_of_2_to_the_32nd_and_2_to_the_64th() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected(" LITERAL+").await;
        for (tag, octets) in [("a", "4294967296"), ("b", "18446744073709551615")] {
            client.send(format!("{tag} APPEND INBOX {{{octets}}}\r\n")).await;
            server.expect(&format!("{tag} APPEND INBOX {{{octets}}}")).await;
            server.send(format!("{tag} NO too much\r\n")).await;
            client.expect(&format!("{tag} NO too much")).await;
        }
        client.send("c APPEND INBOX {18446744073709551616}\r\nd UID MOVE 2 {4294967296}\r\n").await;
        assert!(client.line().await.starts_with("c BAD "));
        assert!(client.line().await.starts_with("d BAD "));
        // These octets are on their way, and whatever they look like, they are no commands.
        let octets = "f UID MOVE 2 Archive\r\ng LOGOUT\r\n";
        client.send(format!("e APPEND INBOX {{4294967296+}}\r\n{octets}")).await;
        server.expect("e APPEND INBOX {4294967296+}").await;
        scene.a_sound_client_is_served().await;
        drop(client);
        assert_eq!(server.rest().await, octets);
    }

    #[tokio::test]
    async fn literal_plus_of_2_to_the_64th() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected(" LITERAL+").await;
        client.send("a APPEND INBOX {18446744073709551616+}\r\n").await;
        assert!(client.rest().await.starts_with("* BYE "));
        assert_eq!(server.rest().await.replace("mv1 LOGOUT\r\n", ""), "");
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn a_flood_of_literals() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected(" LITERAL+").await;
        let before = scene.program.memory();
        let flood = [b"a SEARCH {1+}\r\n".as_slice(), &b"x {1+}\r\n".repeat(500_000), b"x\r\n"].concat();
        let arrived = passes(&mut client, &mut server, &flood, flood.len()).await;
        assert!(arrived == flood, "what reached the server is not what the client said");
        let grown = scene.program.peak_memory().saturating_sub(before);
        assert!(grown < 8 * MIB, "500,000 literals made the gateway grow by {grown} octets");
        // In a MOVE, which must be understood, and where the server takes none of them.
        let mut moved = b"b UID MOVE 2 ".to_vec();
        moved.extend(b"{1+}\r\nx ".repeat(20_000));
        server.send("a OK done\r\n").await;
        client.expect("a OK done").await;
        client.send([&moved[..], b"\r\n"].concat()).await;
        assert!(client.line().await.starts_with("b BAD "));
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn a_flood_of_literals_that_the_server_does_not_take() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        let mut stream = client.stream();
        send_as_long_as_taken(&mut stream, &b"a SEARCH {1+}\r\nx\r\n".repeat(200)).await;
        let told = client.rest().await;
        let told: Vec<&str> = told.lines().collect();
        let (end, answers) = told.split_last().expect("an answer to each, and an end");
        assert!(answers.iter().all(|line| line.starts_with("a BAD ")) && answers.len() == 100, "{told:?}");
        assert!(end.starts_with("* BYE "), "{end}");
        assert_eq!(server.rest().await.replace("mv1 LOGOUT\r\n", ""), "");
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn nested_parentheses() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        let line = format!("a SEARCH {}\r\n", "(".repeat(MIB));
        passes(&mut client, &mut server, line.as_bytes(), line.len()).await;
        server.send("a BAD no\r\n").await;
        client.expect("a BAD no").await;
        for arguments in ["(".repeat(60_000), format!("2 {}", "(".repeat(60_000))] {
            client.send(format!("b UID MOVE {arguments}\r\n")).await;
            assert!(client.line().await.starts_with("b BAD "));
        }
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn crlf_in_a_mailbox_literal() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected(" LITERAL+").await;
        for name in ["Archive\r\nx UID EXPUNGE 1:*", "\r\n", "a\nb", "a\rb", "a\0b"] {
            client.send(format!("b UID MOVE 2 {{{}+}}\r\n{name}\r\n", name.len())).await;
            assert!(client.line().await.starts_with("b BAD "), "{name:?}");
        }
        client.send("c NOOP\r\n").await;
        server.expect("c NOOP").await;
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn injection_through_mailbox_names() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected(" LITERAL+").await;
        // As they come and as they must reach the server: each is one name.
        for name in [
            "\"a {3}\"",
            "\"a {3+}\"",
            "\"x\\\" y\"",
            "\"\\\\\"",
            "\"* OK [COPYUID 9 2 1]\"",
            "\"mv9 OK (\"",
            "a]b",
        ] {
            client.send(format!("b UID MOVE 2 {name}\r\n")).await;
            let mut tags = Vec::new();
            for expected in
                ["UID FETCH 2 (UID)".into(), "UID SEARCH UID 2 DELETED".into(), format!("UID COPY 2 {name}")]
            {
                let line = server.line().await;
                let (tag, command) = line.split_once(' ').expect("a tag and a command");
                assert_eq!(command, expected);
                tags.push(tag.to_string());
            }
            let refusal = "NO [TRYCREATE] no such mailbox";
            let listed = format!("* 2 FETCH (UID 2)\r\n{} OK\r\n* SEARCH\r\n{} OK\r\n", tags[0], tags[1]);
            server.send(format!("{listed}{} {refusal}\r\n", tags[2])).await;
            client.expect(&format!("b {refusal}")).await;
        }
        // What could be read as something else by somebody is no name.
        for name in ["{3}x", "a\"b", "\"a", "a)b", "%", "*", "\"a\\x\"", "a b", ""] {
            client.send(format!("b UID MOVE 2 {name}\r\n")).await;
            assert!(client.line().await.starts_with("b BAD "), "{name:?}");
        }
        client.send("c NOOP\r\n").await;
        server.expect("c NOOP").await;
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn deflate_after_compress() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected(" COMPRESS=DEFLATE").await;
        client.send("a CAPABILITY\r\n").await;
        server.expect("a CAPABILITY").await;
        server.send("* CAPABILITY IMAP4rev1 UIDPLUS COMPRESS=DEFLATE\r\na OK done\r\n").await;
        client.expect("* CAPABILITY IMAP4rev1 UIDPLUS MOVE").await;
        client.expect("a OK done").await;
        // "b NOOP" as raw deflate would send it, with no wait for the answer.
        client
            .send(b"b COMPRESS DEFLATE\r\n\x4a\x52\xf0\xf3\xf7\x0f\xe0\xe5\x02\x00\x00\x00\xff\xff\n")
            .await;
        assert!(client.line().await.starts_with("b NO [CANNOT] "));
        assert!(client.line().await.starts_with("* BAD "));
        client.send("c NOOP\r\n").await;
        server.expect("c NOOP").await;
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn starttls_with_a_login_behind_it() {
        let identity = Authority::new().issue("gateway.test");
        let mut scene = Scene::start(&["--tls-cert", &identity.cert, "--tls-key", &identity.key]).await;
        let (mut client, mut server) = scene.greeted().await;
        client.send("a STARTTLS\r\nb LOGIN mallory secret\r\n").await;
        let told = client.rest().await;
        assert!(told.starts_with("a OK ") && told.ends_with("connect again\r\n"), "{told}");
        assert!(!server.rest().await.contains("LOGIN"));
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn another_protocol() {
        let mut scene = Scene::start(&[]).await;
        let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\x00\n";
        for speech in [&hello[..], &b"\0".repeat(MIB), &b"\n".repeat(200)] {
            let (client, mut server) = scene.greeted().await;
            let (mut reading, mut writing) = tokio::io::split(client.into_stream());
            send_as_long_as_taken(&mut writing, speech).await;
            let _ = writing.shutdown().await;
            let mut told = Vec::new();
            let read = timeout(PATIENCE, reading.read_to_end(&mut told)).await.expect("an end in time");
            let told = String::from_utf8_lossy(&told);
            let known = |line: &str| line.contains(" BAD ") || line.starts_with("* BYE ");
            assert!(read.is_ok() && told.lines().all(known), "{told}");
            assert_eq!(server.rest().await.replace("mv1 LOGOUT\r\n", ""), "");
        }
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn tags_like_the_gateways() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        for tag in ["mv1", "mv2", "MV3", "mw1"] {
            client.send(format!("{tag} NOOP\r\n")).await;
            server.expect(&format!("{tag} NOOP")).await;
            server.send(format!("{tag} OK done\r\n")).await;
            client.expect(&format!("{tag} OK done")).await;
        }
        client.send("mv1 UID MOVE 2 Archive\r\nmv2 NOOP\r\n").await;
        first_flight(&mut server, &format!("OK {COPYUID}")).await;
        for data in ["", "* 2 EXPUNGE\r\n"] {
            let line = server.line().await;
            let tag = line.split(' ').next().expect("a tag");
            assert!(!tag.starts_with("mv") && !tag.starts_with("mw"), "{line}");
            server.send(format!("{data}{tag} OK done\r\n")).await;
        }
        assert!(client.line().await.starts_with("* OK [COPYUID 9 2 1] "));
        client.expect("* 2 EXPUNGE").await;
        assert!(client.line().await.starts_with("mv1 OK "));
        server.expect("mv2 NOOP").await;
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn segments_of_one_octet() {
        let scene = Scene::start(&[]).await;
        let (server, _) = scene.serve_soundly();
        let mut client = scene.program.connect().await;
        assert!(client.line().await.starts_with("* OK "));
        let speech =
            "a LOGIN alice wonderland\r\nb SELECT INBOX\r\nc UID MOVE 2 {7+}\r\nArchive\r\nd LOGOUT\r\n";
        in_single_octets(&mut client, speech).await;
        let told = client.rest().await;
        assert!(told.contains("* OK [COPYUID 9 2 1] ") && told.contains("\r\nc OK "), "{told}");
        assert!(server.asked().contains(&"UID COPY 2 \"Archive\"".to_string()), "{:?}", server.asked());
        assert_eq!(scene.program.metric("panics_total").await, 0);
    }

    #[tokio::test]
    async fn a_half_closed_socket() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        client.send("a UID MOVE 2 Archive\r\n").await;
        client.stream().shutdown().await.expect("an end of file");
        first_flight(&mut server, &format!("OK {COPYUID}")).await;
        for data in ["", "* 2 EXPUNGE\r\n"] {
            let line = server.line().await;
            server.send(format!("{data}{} OK done\r\n", line.split(' ').next().expect("a tag"))).await;
        }
        // It gets what it asked for, and the server is left in order.
        let told = client.rest().await;
        assert!(told.contains("* 2 EXPUNGE\r\na OK "), "{told}");
        assert!(server.rest().await.ends_with(" LOGOUT\r\n"));
        // Nothing is held for those that stay half closed: before the greeting, and in a literal.
        let (mut early, _server) = scene.connected().await;
        early.stream().shutdown().await.expect("an end of file");
        let (mut late, mut server) = scene.selected("").await;
        late.send("b APPEND INBOX {10}\r\n").await;
        server.expect("b APPEND INBOX {10}").await;
        server.send("+ go\r\n").await;
        late.expect("+ go").await;
        late.send("half").await;
        late.stream().shutdown().await.expect("an end of file");
        assert_eq!(server.rest().await, "half");
        scene.program.until_metric("connections_active", |n| n == 0).await;
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn tls_without_close_notify() {
        let authority = Authority::new();
        let identity = authority.issue("gateway.test");
        let tls = ["--tls-cert", &identity.cert, "--tls-key", &identity.key, "--listen-tls", "127.0.0.1:0"];
        let mut scene = Scene::start(&tls).await;
        let mut client = scene.program.connect_tls(&Trust::of(&authority)).await;
        let mut server = scene.upstream.accept().await;
        server.send(GREETING).await;
        assert!(client.line().await.starts_with("* OK "));
        client.send("a LOGIN alice {10+}\r\nwonder").await;
        server.expect("a LOGIN alice {10+}").await;
        // Cut off: nothing is added to what was said, so that no half of anything is taken for a whole.
        drop(client);
        assert_eq!(server.rest().await, "wonder");
        scene.a_sound_client_is_served().await;
    }
}

mod memory {
    use super::*;
    use peer::Stream;
    use tokio::task::JoinSet;

    const SESSIONS: usize = 1_000;
    /// So many begin at once.
    const AT_A_TIME: usize = 500;
    /// What the README says that one session takes at most, on average over what can be held, in octets.
    const AT_MOST: usize = 200 << 10;

    /// Sends the same over and over until nothing more is taken.
    async fn fill(client: &mut Peer, octets: &[u8]) {
        let stream = client.stream();
        while timeout(Duration::from_millis(500), stream.write_all(octets))
            .await
            .is_ok_and(|sent| sent.is_ok())
        {}
    }

    async fn logged_in(scene: &Scene) -> Peer {
        let mut client = scene.program.connect().await;
        sound::selects(&mut client).await;
        client
    }

    /// A client that has come as far as it can, and holds as much as it can. No two in a row do the same.
    async fn stalled(scene: Arc<Scene>, trust: Trust, number: usize) -> Box<dyn Stream> {
        let filler = [b'x'; 65_536];
        match number % 9 {
            0 => {
                let mut client = scene.program.connect().await;
                client.send([b"a NOOP ", &filler[..8_000]].concat()).await;
                return client.into_stream();
            }
            1 => {
                let mut client = scene.program.connect().await;
                client.send([b"a AUTHENTICATE PLAIN ", &filler[..65_000]].concat()).await;
                return client.into_stream();
            }
            // The beginning of a handshake that is as long as one may be.
            2 => {
                let mut stream = scene.program.connect_raw_tls().await;
                let head = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03";
                stream.write_all(&[head, &filler[..16_000]].concat()).await.expect("sends");
                return Box::new(stream);
            }
            3 => {
                let mut client = scene.program.connect_tls(&trust).await;
                sound::selects(&mut client).await;
                client.send("a FETCH 1 BODY[]\r\n").await;
                return client.into_stream();
            }
            _ => {}
        }
        let mut client = logged_in(&scene).await;
        match number % 9 {
            4 => client.send([b"a UID MOVE 2 {65000+}\r\n", &filler[..64_999]].concat()).await,
            5 => client.send("a FETCH 1 BODY[]\r\n").await,
            6 => {
                client.send("a APPEND INBOX {4000000000+}\r\n").await;
                fill(&mut client, &filler).await;
            }
            7 => {
                client.send("a FETCH 1 BODY[]\r\nb APPEND INBOX {4000000000+}\r\n").await;
                fill(&mut client, &filler).await;
            }
            _ => {
                let commands = (0..128).map(|n| format!("{n:x>1000} XHANG\r\n")).collect::<String>();
                client.send(commands + "m UID MOVE 2 Archive\r\n").await;
                fill(&mut client, &b"n NOOP\r\n".repeat(8_192)).await;
            }
        }
        client.into_stream()
    }

    async fn idle(scene: Arc<Scene>, _: Trust, _: usize) -> Box<dyn Stream> {
        logged_in(&scene).await.into_stream()
    }

    /// A thousand of them: how much memory each takes, more than `before`.
    async fn of_each<F>(
        scene: &mut Arc<Scene>,
        trust: &Trust,
        before: usize,
        what: &str,
        session: impl Fn(Arc<Scene>, Trust, usize) -> F,
    ) -> usize
    where
        F: Future<Output = Box<dyn Stream>> + Send + 'static,
    {
        let (_, serving) = scene.serve_soundly();
        let mut sessions = Vec::new();
        for some in 0..SESSIONS / AT_A_TIME {
            let mut starting = JoinSet::new();
            for number in 0..AT_A_TIME {
                starting.spawn(session(scene.clone(), trust.clone(), AT_A_TIME * some + number));
            }
            sessions.extend(starting.join_all().await);
        }
        let with = settled_memory(&scene.program).await;
        let each = with.saturating_sub(before) / SESSIONS;
        println!(
            "{SESSIONS} {what} sessions: {} MiB before, {} MiB with them, {} KiB each",
            before / MIB,
            with / MIB,
            each >> 10
        );
        let alone = Arc::get_mut(scene).expect("all have started");
        alone.another_client_is_served(Ipv4Addr::new(127, 0, 0, 2)).await;
        drop(sessions);
        serving.abort();
        scene.program.until_metric("connections_active", |n| n == 0).await;
        each
    }

    /// When it grows no more.
    async fn settled_memory(program: &Program) -> usize {
        let (mut last, mut quiet) = (program.memory(), 0);
        while quiet < 4 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let now = program.memory();
            quiet = if now > last + last / 100 { 0 } else { quiet + 1 };
            last = now;
        }
        last
    }

    #[tokio::test]
    async fn memory_with_a_thousand_stalled_sessions() {
        client::raise_descriptor_limit(4_000);
        let authority = Authority::new();
        let (identity, trust) = (authority.issue("gateway.test"), Trust::of(&authority));
        let tls = ["--tls-cert", &identity.cert, "--tls-key", &identity.key, "--listen-tls", "127.0.0.1:0"];
        let mut scene = Arc::new(Scene::start(&tls).await);
        let before = scene.program.memory();
        of_each(&mut scene, &trust, before, "idle", idle).await;
        for _ in 0..3 {
            // Also the third time: what they took was given back.
            let each = of_each(&mut scene, &trust, before, "stalled", stalled).await;
            assert!(each < AT_MOST, "{} KiB for each stalled session", each >> 10);
        }
    }
}

mod server {
    use super::*;

    /// Nothing of a MOVE is removed, and the client hears NO: what the server asked for is what `client` and `server` say.
    async fn is_refused(client: &mut Peer, server: &mut Peer) {
        let told = client.until("m ").await;
        assert!(told.starts_with("m NO "), "{told}");
        client.send("n NOOP\r\n").await;
        server.expect("n NOOP").await;
        server.send("n OK done\r\n").await;
        client.expect("n OK done").await;
    }

    #[tokio::test]
    async fn guesses_tags_before_a_move() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        for n in 1..=5 {
            server.send(format!("mv{n} OK {COPYUID} done\r\n")).await;
            client.expect(&format!("mv{n} OK {COPYUID} done")).await;
        }
        // Answers are out of step now: nothing is asked for until the next SELECT.
        client.send("m UID MOVE 2 Archive\r\n").await;
        is_refused(&mut client, &mut server).await;
        select(&mut client, &mut server, "s").await;
        client.send("m UID MOVE 2 Archive\r\n").await;
        first_flight(&mut server, "NO [TRYCREATE] no such mailbox").await;
        client.expect("m NO [TRYCREATE] no such mailbox").await;
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn guesses_tags_in_a_move() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        client.send("m UID MOVE 2 Archive\r\n").await;
        // What the second flight will ask is answered in the first.
        server.send("mv4 OK done\r\nmv5 OK done\r\n").await;
        first_flight(&mut server, &format!("OK {COPYUID} done")).await;
        is_refused(&mut client, &mut server).await;
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn guesses_tags_inside_a_message_and_in_texts() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        client.send("m UID MOVE 2 Archive\r\n").await;
        let fake = format!("mv3 OK {COPYUID} done\r\n* 2 EXPUNGE\r\nmv4 OK\r\nmv5 OK\r\nm OK done\r\n");
        let hidden = format!("* 1 FETCH (BODY[] {{{}}}\r\n{fake})\r\n* OK mv3 OK {COPYUID}\r\n", fake.len());
        server.send(&hidden).await;
        for line in hidden.lines() {
            client.expect(line).await;
        }
        first_flight(&mut server, "NO [OVERQUOTA] full").await;
        client.expect("m NO [OVERQUOTA] full").await;
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn segments_of_one_octet() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        client.send("m UID MOVE 2 Archive\r\n").await;
        while !server.line().await.contains(" UID COPY ") {}
        let copied =
            format!("* 2 FETCH (UID 2)\r\nmv1 OK\r\n* SEARCH\r\nmv2 OK\r\nmv3 OK {COPYUID} done\r\n");
        in_single_octets(&mut server, &copied).await;
        server.expect("mv4 UID STORE 2 +FLAGS.SILENT (\\Deleted)").await;
        server.expect("mv5 UID EXPUNGE 2").await;
        in_single_octets(&mut server, "mv4 OK\r\n* 2 EXPUNGE\r\nmv5 OK\r\n").await;
        assert!(client.line().await.starts_with("* OK [COPYUID 9 2 1] "));
        client.expect("* 2 EXPUNGE").await;
        assert!(client.line().await.starts_with("m OK "));
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn says_ok_to_starttls_early() {
        let authority = Authority::new();
        let (ca, identity) = (authority.file(), authority.issue("127.0.0.1"));
        let mut scene = Scene::start(&["--upstream-tls", "starttls", "--upstream-ca", &ca]).await;
        let greeting = "* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\nmv1 OK begin\r\n";
        // In clear behind it: a list that would let the client log in. Nothing of it is used, even if a handshake follows.
        let (mut client, mut server) = scene.connected().await;
        server.send(format!("{greeting}* CAPABILITY IMAP4rev1 UIDPLUS AUTH=PLAIN\r\nmv2 OK done\r\n")).await;
        let handshake = async {
            server.line().await;
            server.into_tls_server(&identity).await
        };
        let (told, handshake) = tokio::join!(client.rest(), handshake);
        assert!(told.starts_with("* BYE [UNAVAILABLE] ") && handshake.is_err(), "{told}");
        // The real answer follows the guessed one, where the handshake is.
        let (client, mut server) = scene.connected().await;
        server.send(greeting).await;
        server.expect("mv1 STARTTLS").await;
        server.send("mv1 OK begin\r\n").await;
        stays_out_of(client, server).await;
        // In order it works.
        let (mut client, mut server) = scene.connected().await;
        server.send("* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n").await;
        server.expect("mv1 STARTTLS").await;
        server.send("mv1 OK begin\r\n").await;
        let mut server = server.into_tls_server(&identity).await.expect("a handshake");
        server.expect("mv2 CAPABILITY").await;
        server.send("* CAPABILITY IMAP4rev1 UIDPLUS\r\nmv2 OK done\r\n").await;
        client.expect("* OK [CAPABILITY IMAP4rev1 UIDPLUS MOVE] imapmove ready").await;
        scene.program.is_unharmed().await;
    }

    /// The client is told to go, and nothing of what it says reaches this server.
    async fn stays_out_of(mut client: Peer, server: Peer) {
        let mut stream = client.stream();
        send_as_long_as_taken(&mut stream, b"a LOGIN alice wonderland\r\n").await;
        let told = client.rest().await;
        assert!(told.starts_with("* BYE [UNAVAILABLE] ") && told.lines().count() == 1, "{told}");
        let mut seen = Vec::new();
        let _ = timeout(PATIENCE, server.into_stream().read_to_end(&mut seen)).await.expect("an end in time");
        assert!(!seen.windows(5).any(|octets| octets == b"LOGIN"), "{}", seen.escape_ascii());
    }

    #[tokio::test]
    async fn preauth() {
        let identity = Authority::new().issue("gateway.test");
        let demands = ["--tls-cert", &identity.cert, "--tls-key", &identity.key, "--require-tls"];
        for flags in [&["--upstream-tls", "starttls"][..], &demands] {
            let mut scene = Scene::start(flags).await;
            let (client, mut server) = scene.connected().await;
            server.send("* PREAUTH [CAPABILITY IMAP4rev1 UIDPLUS STARTTLS] welcome alice\r\n").await;
            stays_out_of(client, server).await;
            scene.program.is_unharmed().await;
        }
    }

    #[tokio::test]
    async fn capability_garbage() {
        let mut scene = Scene::start(&[]).await;
        let many = "X ".repeat(20_000);
        // A list, and whether a MOVE is promised in its place.
        for (list, moves) in [
            ("", false),
            (" ", false),
            ("  IMAP4rev1  UIDPLUS ", true),
            (" XUIDPLUS UIDPLUSX UID PLUS", false),
            (" \"UIDPLUS\" (UIDPLUS) UIDPLUS=1", false),
            (" UIDPLUS MOVE MOVE", false),
            (" UIDPLUS UIDPLUS UIDPLUS", true),
            (" UIDPLUS IMAP4rev2", false),
            (" \u{0}\u{1}\u{7f} \u{fffd} UIDPLUS", true),
            (&format!(" {many}UIDPLUS"), true),
            (" {5} UIDPLUS", true),
        ] {
            let (mut client, mut server) = scene.greeted().await;
            client.send("a CAPABILITY\r\n").await;
            server.expect("a CAPABILITY").await;
            server.send(format!("* CAPABILITY{list}\r\na OK done\r\n")).await;
            let told = client.line().await;
            let promised = told.split(' ').filter(|word| *word == "MOVE").count();
            let said = list.split(' ').filter(|word| *word == "MOVE").count();
            assert_eq!(promised, said + usize::from(moves), "{list:?}: {told:?}");
            client.expect("a OK done").await;
        }
        for greeting in [
            "* OK [CAPABILITY UIDPLUS",
            "* OK [CAPABILITY] {3}",
            "* OK CAPABILITY UIDPLUS",
            "* ok [capability",
        ] {
            let (mut client, mut server) = scene.connected().await;
            server.send(format!("{greeting}\r\n")).await;
            client.expect(greeting).await;
        }
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn copyuid_garbage() {
        let garbage = [
            "[COPYUID]",
            "[COPYUID 9]",
            "[COPYUID 9 2]",
            "[COPYUID 9 2 ]",
            "[COPYUID 9  2 1]",
            "[COPYUID 0 2 1]",
            "[COPYUID 9 0 1]",
            "[COPYUID 9 2 0]",
            "[COPYUID 9 3 1]",
            "[COPYUID 9 1:3 1:3]",
            "[COPYUID 9 2:3 1:2]",
            "[COPYUID 9 2 1:2]",
            "[COPYUID 9 2,2 1,1]",
            "[COPYUID 9 2:2,2 1:2]",
            "[COPYUID 9 * 1]",
            "[COPYUID 9 2:* 1]",
            "[COPYUID 9 $ 1]",
            "[COPYUID 9 -2 1]",
            "[COPYUID 9 2 1 1]",
            "[COPYUID 9 2 1",
            "[COPYUID 9 (2) 1]",
            "[COPYUID 9 \"2\" 1]",
            "[COPYUID 9 {1} 1]",
            "[COPYUID 4294967296 2 1]",
            "[COPYUID 9 4294967298 1]",
            "[COPYUID 9 2 4294967296]",
            "[COPYUID 9 2 18446744073709551617]",
            "[COPYUID 9 1:4294967295 1:4294967295]",
            "[COPYUID 9 2 \u{0}1]",
            "[COPYUIDX 9 2 1]",
            "[XCOPYUID 9 2 1]",
            "COPYUID 9 2 1",
            "",
        ];
        let mut scene = Scene::start(&[]).await;
        for copyuid in garbage {
            let (mut client, server) = scene.connected().await;
            let asked = sound::Server::that_says(copyuid);
            let serving = tokio::spawn(asked.clone().serve_peer(server));
            sound::selects(&mut client).await;
            client.send("m UID MOVE 2 Archive\r\nn LOGOUT\r\n").await;
            let told = client.rest().await;
            assert!(told.starts_with("m NO [CANNOT] "), "{copyuid}: {told}");
            nothing_is_removed(&asked.asked().join("\n"));
            serving.await.expect("no panic").expect("an end in order");
        }
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn injection_through_names() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        client.send("a LIST \"\" *\r\n").await;
        server.expect("a LIST \"\" *").await;
        let name = "x\r\n* BYE\r\na OK done\r\nmv1 OK\r\n* CAPABILITY IMAP4rev1\r\n* 0 EXISTS\r\n* OK [READ-ONLY]\r\n* 3 EXPUNGE";
        let listed = format!(
            "* LIST () \"/\" {{{}}}\r\n{name}\r\n* LIST () \"/\" \"a OK {{3}} * BYE\"\r\n* OK see * 3 EXPUNGE {{10}}\r\n",
            name.len()
        );
        let arrived = passes(&mut server, &mut client, listed.as_bytes(), listed.len()).await;
        assert_eq!(String::from_utf8_lossy(&arrived), listed);
        server.send("a OK done\r\n").await;
        client.expect("a OK done").await;
        // Nothing of it was believed: the mailbox is writable, has three messages, and the server has UIDPLUS.
        client.send("m MOVE 3 Archive\r\n").await;
        assert!(server.line().await.ends_with(" FETCH 3 (UID)"));
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn an_endless_line() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        let before = scene.program.memory();
        let line = [b"* SEARCH".as_slice(), &b" 1234567".repeat(4 * MIB)].concat();
        assert!(
            passes(&mut server, &mut client, &line, line.len()).await == line,
            "the octets changed on the way"
        );
        let grown = scene.program.peak_memory().saturating_sub(before);
        assert!(grown < 8 * MIB, "32 MiB of a line made the gateway grow by {grown} octets");
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn an_endless_line_in_a_move() {
        let mut scene = Scene::start(&[]).await;
        for line in [
            "* SEARCH",
            "mv3 OK [COPYUID 9 2,",
            "* OK [COPYUID 9 2,",
            "* VANISHED 2,",
            "* 2 FETCH (UID 2 X ",
            "x",
        ] {
            let (mut client, mut server) = scene.selected("").await;
            let before = scene.program.memory();
            client.send("m UID MOVE 2 Archive\r\n").await;
            let (mut reading, writing) = tokio::io::split(client.into_stream());
            let listens =
                tokio::spawn(async move { tokio::io::copy(&mut reading, &mut tokio::io::sink()).await });
            server.send(line).await;
            for _ in 0..32 {
                server.send(b"2,".repeat(MIB / 2)).await;
            }
            let grown = scene.program.peak_memory().saturating_sub(before);
            assert!(grown < 24 * MIB, "{line}: 32 MiB made the gateway grow by {grown} octets");
            // The line has no end, and so nothing was proved.
            drop(writing);
            listens.abort();
            drop(listens);
            server.stream().shutdown().await.expect("an end of file");
            nothing_is_removed(&server.rest().await);
        }
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn literals_of_2_to_the_32nd_and_2_to_the_64th() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        // A literal as long as it says: what stands in it is no protocol.
        let message = "* 1 FETCH (BODY[] {4294967296}\r\na OK done\r\n* BYE\r\n";
        client.send("a FETCH 1 BODY[]\r\n").await;
        server.expect("a FETCH 1 BODY[]").await;
        passes(&mut server, &mut client, message.as_bytes(), message.len()).await;
        scene.a_sound_client_is_served().await;
        drop((client, server));
        for (octets, what) in [("18446744073709551616", "one"), (&"9".repeat(5_000)[..], "many")] {
            let (mut client, mut server) = scene.selected("").await;
            server.send(format!("* 1 FETCH (BODY[] {{{octets}}}\r\na OK\r\n")).await;
            let told = client.rest().await;
            assert!(!told.contains("a OK"), "{what}: {told}");
        }
        let endless = "protocol_errors_total{kind=\"endless_literal\",side=\"upstream\"}";
        assert_eq!(scene.program.metric(endless).await, 2);
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn nested_parentheses() {
        let mut scene = Scene::start(&[]).await;
        let (mut client, mut server) = scene.selected("").await;
        let nested = "(".repeat(MIB);
        let line = format!("* 1 FETCH (BODYSTRUCTURE {nested}\r\n");
        let arrived = passes(&mut server, &mut client, line.as_bytes(), line.len()).await;
        assert!(arrived == line.as_bytes(), "the octets changed on the way");
        // Also where the gateway listens: it is not the listing, and passes.
        client.send("m UID MOVE 2 Archive\r\n").await;
        let line = format!("* 2 FETCH (UID 2 X {}\r\n", "(".repeat(30_000));
        server.send(&line).await;
        client.expect(line.trim_end()).await;
        first_flight(&mut server, "NO [OVERQUOTA] full").await;
        client.expect("m NO [OVERQUOTA] full").await;
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn a_half_closed_socket() {
        let mut scene = Scene::start(&[]).await;
        // Before the greeting, between commands, and in a MOVE whose COPY was sent.
        let (mut client, mut server) = scene.connected().await;
        server.stream().shutdown().await.expect("an end of file");
        assert!(client.rest().await.starts_with("* BYE [UNAVAILABLE] "));
        let (mut client, mut server) = scene.selected("").await;
        server.stream().shutdown().await.expect("an end of file");
        assert!(client.rest().await.starts_with("* BYE [UNAVAILABLE] "));
        let (mut client, mut server) = scene.selected("").await;
        client.send("m UID MOVE 2 Archive\r\n").await;
        while !server.line().await.contains(" UID COPY ") {}
        server.stream().shutdown().await.expect("an end of file");
        let told = client.rest().await;
        assert!(
            told.starts_with("m NO [UNAVAILABLE] ") && told.contains("\r\n* BYE [UNAVAILABLE] "),
            "{told}"
        );
        nothing_is_removed(&server.rest().await);
        scene.program.until_metric("connections_active", |n| n == 0).await;
        scene.a_sound_client_is_served().await;
    }

    #[tokio::test]
    async fn tls_without_close_notify() {
        let authority = Authority::new();
        let (ca, identity) = (authority.file(), authority.issue("127.0.0.1"));
        let mut scene = Scene::start(&["--upstream-tls", "implicit", "--upstream-ca", &ca]).await;
        for cut_off in ["mv3 OK [COPYUID 9 2 1] do", "mv3 OK [COPYUID 9 2 1] done\r\n"] {
            let mut client = scene.program.connect().await;
            let server = scene.upstream.accept().await;
            let mut server = server.into_tls_server(&identity).await.expect("a handshake");
            server.send("* PREAUTH [CAPABILITY IMAP4rev1 UIDPLUS] hi\r\n").await;
            assert!(client.line().await.starts_with("* PREAUTH "));
            select(&mut client, &mut server, "s").await;
            client.send("m UID MOVE 2 Archive\r\n").await;
            while !server.line().await.contains(" UID COPY ") {}
            server.send(format!("* 2 FETCH (UID 2)\r\nmv1 OK\r\n* SEARCH\r\nmv2 OK\r\n{cut_off}")).await;
            drop(server);
            // Half a line is none, and without the removal seen nothing is OK.
            let told = client.rest().await;
            let last: Vec<&str> = told.lines().filter(|line| !line.starts_with("* OK ")).collect();
            assert!(last[0].starts_with("m NO ") && last[1].starts_with("* BYE [UNAVAILABLE] "), "{told}");
        }
        scene.program.is_unharmed().await;
    }
}
