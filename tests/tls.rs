//! TLS on either leg, and everything that must be refused there.

#[path = "support/peer.rs"]
mod peer;

use imapmove::config::Config;
use imapmove::proxy::Proxy;
use peer::{Authority, Gateway, Identity, Peer, Trust, Upstream};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 UIDPLUS] ready\r\n";
const STARTTLS_GREETING: &str = "* OK [CAPABILITY IMAP4rev1 UIDPLUS STARTTLS] ready\r\n";

/// An authority, and the certificate that clients see.
fn certificates() -> (Authority, Identity) {
    let authority = Authority::new();
    let identity = authority.issue("gateway.test");
    (authority, identity)
}

/// The settings for a listener with that certificate.
fn server_side(identity: &Identity) -> Vec<(&'static str, &str)> {
    vec![("tls-cert", &identity.cert), ("tls-key", &identity.key)]
}

mod implicit {
    use super::*;

    #[tokio::test]
    async fn octets_pass_unchanged_through_tls_on_both_legs() {
        let (authority, identity) = certificates();
        let (ca, server) = (authority.file(), authority.issue("mail.test"));
        let upstream = Upstream::new().await;
        let mut settings = server_side(&identity);
        settings.extend([("listen-tls", "127.0.0.1:0"), ("upstream-tls", "implicit")]);
        settings.extend([("upstream-ca", ca.as_str()), ("upstream-name", "mail.test")]);
        let gateway = Gateway::start(upstream.address(), &settings).await;
        let trust = Trust::of(&authority);
        let (mut client, server) = tokio::join!(gateway.connect_tls(&trust), async {
            upstream.accept().await.into_tls_server(&server).await.expect("a handshake")
        });
        let mut server = server;
        server.send(GREETING).await;
        assert!(client.line().await.starts_with("* OK [CAPABILITY "));

        // More than any buffer on the way holds, in a literal, which nobody may touch.
        let message: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        client.send("a FETCH 1 BODY[]\r\n").await;
        server.expect("a FETCH 1 BODY[]").await;
        let (mut client, mut server) = (client.into_stream(), server.into_stream());
        let head = format!("* 1 FETCH (BODY[] {{{}}}\r\n", message.len());
        let whole = [head.as_bytes(), &message, b")\r\na OK done\r\n"].concat();
        let mut seen = vec![0; whole.len()];
        let (sent, read) = tokio::join!(
            async {
                server.write_all(&whole).await?;
                server.flush().await
            },
            tokio::time::timeout(peer::PATIENCE, client.read_exact(&mut seen))
        );
        sent.expect("sends");
        read.expect("in time").expect("reads");
        assert!(seen == whole, "the octets changed on the way");
    }

    #[tokio::test]
    async fn clients_may_speak_tls_1_2_and_1_3_and_ask_for_imap() {
        let (authority, identity) = certificates();
        let upstream = Upstream::new().await;
        let mut settings = server_side(&identity);
        settings.push(("listen-tls", "127.0.0.1:0"));
        let gateway = Gateway::start(upstream.address(), &settings).await;
        for version in [&TLS12, &TLS13] {
            let trust =
                Trust { versions: vec![version], alpn: vec![b"imap".to_vec()], ..Trust::of(&authority) };
            let mut client = gateway.connect_tls(&trust).await;
            upstream.accept().await.send(GREETING).await;
            assert!(client.line().await.starts_with("* OK [CAPABILITY "), "{version:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_asks_for_another_protocol_is_refused() {
        let (authority, identity) = certificates();
        let upstream = Upstream::new().await;
        let mut settings = server_side(&identity);
        settings.push(("listen-tls", "127.0.0.1:0"));
        let gateway = Gateway::start(upstream.address(), &settings).await;
        let trust = Trust { alpn: vec![b"http/1.1".to_vec()], ..Trust::of(&authority) };
        let stream = tokio::net::TcpStream::connect(gateway.tls.expect("listens")).await.expect("connects");
        assert!(Peer::plain(stream).into_tls_client(&trust).await.is_err());
    }

    #[tokio::test]
    async fn a_key_of_another_certificate_is_a_bad_setting() {
        let (authority, identity) = certificates();
        let other = authority.issue("gateway.test");
        let settings = [("upstream", "127.0.0.1:9"), ("tls-cert", &identity.cert), ("tls-key", &other.key)];
        let problem = Proxy::bind(Config::with(&settings).expect("good settings")).await.err();
        let said = problem.expect("refused").to_string();
        assert!(said.starts_with("tls-key (program): given "), "{said}");
        assert!(
            said.contains(
                "expected the key of the certificate that stands first in tls-cert: this is another's"
            ),
            "{said}"
        );
    }
}

mod upstream_certificate {
    use super::*;

    /// What a client is told when the upstream shows `identity` and the gateway has these settings.
    async fn greeting(identity: &Identity, settings: &[(&'static str, &str)]) -> String {
        let upstream = Upstream::new().await;
        let settings = [&[("upstream-tls", "implicit")], settings].concat();
        let gateway = Gateway::start(upstream.address(), &settings).await;
        let mut client = gateway.connect().await;
        let server = upstream.accept().await;
        let server = async {
            let mut server = server.into_tls_server(identity).await.ok()?;
            server.send(GREETING).await;
            Some(server)
        };
        tokio::join!(client.line(), server).0
    }

    #[tokio::test]
    async fn one_that_is_in_order_is_believed() {
        let authority = Authority::new();
        let (ca, server) = (authority.file(), authority.issue("mail.test"));
        let said = greeting(&server, &[("upstream-ca", &ca), ("upstream-name", "mail.test")]).await;
        assert!(said.starts_with("* OK "), "{said}");
        // Without a name of its own, the host that was given is the name.
        let said = greeting(&authority.issue("127.0.0.1"), &[("upstream-ca", &ca)]).await;
        assert!(said.starts_with("* OK "), "{said}");
    }

    #[tokio::test]
    async fn one_from_nobody_we_trust_is_refused_with_the_setting_that_helps() {
        let (server, another) = (Authority::new().issue("mail.test"), Authority::new());
        let ca = another.file();
        let said = greeting(&server, &[("upstream-ca", &ca), ("upstream-name", "mail.test")]).await;
        assert!(said.starts_with("* BYE [UNAVAILABLE] "), "{said}");
        assert!(said.contains("no trusted authority") && said.contains("upstream-ca"), "{said}");
    }

    #[tokio::test]
    async fn one_for_another_name_is_refused_with_the_setting_that_helps() {
        let authority = Authority::new();
        let said = greeting(&authority.issue("mail.test"), &[("upstream-ca", &authority.file())]).await;
        assert!(said.starts_with("* BYE [UNAVAILABLE] "), "{said}");
        assert!(said.contains("127.0.0.1") && said.contains("upstream-name"), "{said}");
    }

    #[tokio::test]
    async fn one_that_has_expired_is_refused_and_said_to_be() {
        let authority = Authority::new();
        let server =
            authority.issue_with("mail.test", |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
        let ca = authority.file();
        let said = greeting(&server, &[("upstream-ca", &ca), ("upstream-name", "mail.test")]).await;
        assert!(said.starts_with("* BYE [UNAVAILABLE] ") && said.contains("expired"), "{said}");
    }

    #[tokio::test]
    async fn the_very_certificate_may_stand_in_upstream_ca() {
        let server = Identity::self_signed("some-old-host");
        let said = greeting(&server, &[("upstream-ca", &server.cert)]).await;
        assert!(said.starts_with("* OK "), "{said}");
    }

    #[tokio::test]
    async fn any_is_believed_if_the_operator_says_so() {
        let server = Authority::new().issue("mail.test");
        let said = greeting(&server, &[("upstream-verify", "none")]).await;
        assert!(said.starts_with("* OK "), "{said}");
    }
}

mod upstream_starttls {
    use super::*;

    /// A gateway that demands STARTTLS of its upstream.
    async fn gateway(upstream: &Upstream, ca: &str) -> Gateway {
        let settings = [("upstream-tls", "starttls"), ("upstream-ca", ca), ("upstream-name", "mail.test")];
        Gateway::start(upstream.address(), &settings).await
    }

    /// The server's side up to the gateway's STARTTLS, whose tag is returned.
    async fn asked(server: &mut Peer) -> String {
        let line = server.line().await;
        let (tag, command) = line.split_once(' ').expect("a tag and a command");
        assert_eq!(command, "STARTTLS");
        tag.to_string()
    }

    #[tokio::test]
    async fn the_session_goes_on_inside_tls() {
        let authority = Authority::new();
        let upstream = Upstream::new().await;
        let gateway = gateway(&upstream, &authority.file()).await;
        let mut client = gateway.connect().await;
        let mut server = upstream.accept().await;
        server.send(STARTTLS_GREETING).await;
        let tag = asked(&mut server).await;
        server.send(format!("{tag} OK go ahead\r\n")).await;
        let mut server = server.into_tls_server(&authority.issue("mail.test")).await.expect("a handshake");
        let served = tokio::spawn(async move {
            // The gateway may ask for the list anew before the client sees one.
            loop {
                let line = server.line().await;
                let (tag, command) = line.split_once(' ').expect("a tag and a command");
                if command == "NOOP" {
                    assert_eq!(tag, "c1");
                    return server.send("c1 OK done\r\n").await;
                }
                assert_eq!(command, "CAPABILITY");
                server.send(format!("* CAPABILITY IMAP4rev1 UIDPLUS\r\n{tag} OK done\r\n")).await;
            }
        });
        let greeting = client.line().await;
        assert!(greeting.starts_with("* OK ") && !greeting.contains("STARTTLS"), "{greeting}");
        client.send("c1 NOOP\r\n").await;
        client.expect("c1 OK done").await;
        served.await.expect("was asked for nothing else");
    }

    /// A server that greets with `greeting`, and answers CAPABILITY with the same list and STARTTLS with `answer`, where
    /// `TAG` stands for the tag. The client must be refused, and nothing of its own may go upstream. Returns what the
    /// client was told.
    async fn refused(greeting: &str, answer: &str) -> String {
        let authority = Authority::new();
        let upstream = Upstream::new().await;
        let gateway = gateway(&upstream, &authority.file()).await;
        let mut client = gateway.connect().await;
        client.send("c1 LOGIN alice wonderland\r\n").await;
        let mut server = upstream.accept().await;
        server.send(greeting).await;
        let list = if greeting.contains("STARTTLS") { "IMAP4rev1 STARTTLS" } else { "IMAP4rev1" };
        let served = async {
            loop {
                let line = server.line().await;
                match line.split_once(' ') {
                    None => return assert_eq!(line, ""),
                    Some((tag, "CAPABILITY")) => {
                        server.send(format!("* CAPABILITY {list}\r\n{tag} OK done\r\n")).await;
                    }
                    Some((tag, "STARTTLS")) => server.send(answer.replace("TAG", tag)).await,
                    Some((_, "LOGOUT")) => {}
                    Some(_) => panic!("went upstream in clear: {line}"),
                }
            }
        };
        let (told, ()) = tokio::join!(client.rest(), served);
        assert!(told.starts_with("* BYE ") && told.ends_with("\r\n"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        told
    }

    #[tokio::test]
    async fn wire_8_none_offered_is_refused() {
        let told = refused(GREETING, "TAG BAD what?\r\n").await;
        assert!(told.starts_with("* BYE [UNAVAILABLE] ") && told.contains("upstream-tls"), "{told}");
    }

    #[tokio::test]
    async fn wire_8_an_answer_of_no_is_refused() {
        let told = refused(STARTTLS_GREETING, "TAG NO not today\r\n").await;
        assert!(told.starts_with("* BYE [UNAVAILABLE] ") && told.contains("refuses"), "{told}");
    }

    #[tokio::test]
    async fn wire_8_octets_glued_to_the_ok_end_the_connection_and_are_never_used() {
        let told =
            refused(STARTTLS_GREETING, "TAG OK go\r\n* OK [CAPABILITY IMAP4rev1 INJECTED] hello\r\n").await;
        assert!(!told.contains("INJECTED"), "{told}");
    }

    #[tokio::test]
    async fn wire_8_preauth_leaves_no_room_for_starttls_and_is_refused() {
        let told = refused("* PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] welcome\r\n", "TAG OK go\r\n").await;
        assert!(told.starts_with("* BYE [UNAVAILABLE] ") && told.contains("PREAUTH"), "{told}");
    }

    #[tokio::test]
    async fn srv_5_an_ok_followed_by_clear_text_is_refused() {
        let authority = Authority::new();
        let upstream = Upstream::new().await;
        let gateway = gateway(&upstream, &authority.file()).await;
        let mut client = gateway.connect().await;
        let mut server = upstream.accept().await;
        server.send(STARTTLS_GREETING).await;
        let tag = asked(&mut server).await;
        server.send(format!("{tag} OK Begin SSL/TLS negotiation now.\r\n")).await;
        // The gateway is in its handshake once its first octet is here: 22 is a handshake record's.
        let mut stream = server.into_stream();
        assert_eq!(stream.read_u8().await.expect("a handshake begins"), 22);
        stream
            .write_all(format!("{tag} NO STARTTLS failed: no couriertls.\r\n").as_bytes())
            .await
            .expect("sends");
        let said = client.line().await;
        assert!(said.starts_with("* BYE [UNAVAILABLE] "), "{said}");
        assert!(!said.contains("couriertls"), "{said}");
    }
}

mod client_starttls {
    use super::*;

    /// A client and a server that have greeted through a gateway that offers STARTTLS.
    async fn greeted(settings: &[(&'static str, &str)], greeting: &str) -> (Gateway, Trust, Peer, Peer) {
        let (authority, identity) = certificates();
        let upstream = Upstream::new().await;
        let settings = [&server_side(&identity), settings].concat();
        let gateway = Gateway::start(upstream.address(), &settings).await;
        let trust = Trust::of(&authority);
        let client = gateway.connect().await;
        let mut server = upstream.accept().await;
        server.send(greeting).await;
        (gateway, trust, client, server)
    }

    #[tokio::test]
    async fn the_session_goes_on_inside_tls() {
        let (_gateway, trust, mut client, mut server) = greeted(&[], GREETING).await;
        let greeting = client.line().await;
        assert!(greeting.contains(" STARTTLS"), "CAP-7: what the gateway offers there: {greeting}");
        client.send("c1 STARTTLS\r\n").await;
        assert!(client.line().await.starts_with("c1 OK "));
        let mut client = client.into_tls_client(&trust).await.expect("a handshake");
        client.send("c2 CAPABILITY\r\n").await;
        server.expect("c2 CAPABILITY").await;
        server.send("* CAPABILITY IMAP4rev1 UIDPLUS STARTTLS\r\nc2 OK done\r\n").await;
        let list = client.line().await;
        assert!(list.starts_with("* CAPABILITY ") && !list.contains("STARTTLS"), "{list}");
        client.expect("c2 OK done").await;
    }

    #[tokio::test]
    async fn wire_8_octets_glued_to_the_command_end_the_connection_and_are_never_used() {
        let (_gateway, trust, mut client, mut server) = greeted(&[], GREETING).await;
        client.line().await;
        client.send("c1 STARTTLS\r\nc2 NOOP injected\r\n").await;
        // Whether the gateway says so in clear or lets the handshake fail, nothing comes of the second command.
        let answered = client.line().await;
        if answered.starts_with("c1 OK") {
            assert!(client.into_tls_client(&trust).await.is_err(), "went on after glued octets");
        } else {
            assert!(!client.rest().await.contains("c2 "), "the glued command was answered");
        }
        let asked = server.rest().await;
        assert!(!asked.contains("injected"), "{asked}");
    }

    #[tokio::test]
    async fn a_failed_handshake_ends_the_session_and_frees_the_upstream() {
        let (_gateway, _, mut client, mut server) = greeted(&[], GREETING).await;
        client.line().await;
        client.send("c1 STARTTLS\r\n").await;
        assert!(client.line().await.starts_with("c1 OK "));
        client.send("c2 NOOP\r\n").await;
        assert!(!server.rest().await.contains("NOOP"));
    }

    #[tokio::test]
    async fn where_tls_is_required_no_credential_passes_in_clear() {
        let (_gateway, _, mut client, mut server) = greeted(&[("require-tls", "true")], GREETING).await;
        let greeting = client.line().await;
        assert!(greeting.contains("LOGINDISABLED"), "CAP-7: {greeting}");
        client.send("c1 LOGIN alice wonderland\r\n").await;
        let answer = client.line().await;
        assert!(answer.starts_with("c1 NO ") || answer.starts_with("c1 BAD "), "{answer}");
        drop(client);
        let asked = server.rest().await;
        assert!(!asked.contains("alice"), "{asked}");
    }

    #[tokio::test]
    async fn where_tls_is_required_preauth_is_refused() {
        let greeting = "* PREAUTH [CAPABILITY IMAP4rev1 UIDPLUS] welcome alice\r\n";
        let (_gateway, _, mut client, _server) = greeted(&[("require-tls", "true")], greeting).await;
        let said = client.line().await;
        assert!(said.starts_with("* BYE "), "{said}");
        assert!(!said.contains("alice"), "{said}");
        assert_eq!(client.rest().await, "");
    }
}

mod unreachable {
    use super::*;

    #[tokio::test]
    async fn wire_9_a_client_is_told_why() {
        let upstream = Upstream::new().await;
        let address = upstream.address();
        drop(upstream);
        let gateway = Gateway::start(address, &[]).await;
        let mut client = gateway.connect().await;
        let said = client.line().await;
        assert!(said.starts_with("* BYE [UNAVAILABLE] "), "{said}");
        assert!(said.contains("cannot be reached"), "{said}");
        assert_eq!(client.rest().await, "");
    }

    #[tokio::test]
    async fn wire_9_a_server_without_tls_where_tls_was_expected_is_named_as_such() {
        let upstream = Upstream::new().await;
        let settings = [("upstream-tls", "implicit"), ("upstream-verify", "none")];
        let gateway = Gateway::start(upstream.address(), &settings).await;
        let mut client = gateway.connect().await;
        upstream.accept().await.send(GREETING).await;
        let said = client.line().await;
        assert!(said.starts_with("* BYE [UNAVAILABLE] "), "{said}");
        assert!(said.contains("upstream-tls"), "{said}");
    }
}
