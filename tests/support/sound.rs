//! A sound server and a sound client, beside hostile ones.

use crate::peer::{PATIENCE, Peer, Upstream};
use crate::program::Program;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

pub const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 UIDPLUS LITERAL+ SASL-IR] ready\r\n";
/// The proof of a COPY of message 2.
pub const COPYUID: &str = "[COPYUID 9 2 1]";

/// A small server with three messages, which can move message 2, and what it was asked.
#[derive(Clone)]
pub struct Server {
    copyuid: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Default for Server {
    fn default() -> Server {
        Server::that_says(COPYUID)
    }
}

impl Server {
    /// With this response code in its OK to a COPY.
    pub fn that_says(copyuid: &str) -> Server {
        Server { copyuid: copyuid.into(), asked: Arc::default() }
    }

    /// The commands so far, without their tags.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("nobody panics while writing to it").clone()
    }

    /// Serves every connection there is.
    pub async fn serve_all(self, upstream: Arc<Upstream>) {
        let mut serving = JoinSet::new();
        loop {
            let (stream, _) = upstream.0.accept().await.expect("accepts");
            // A gateway that goes away is no error.
            serving.spawn(self.clone().serve(stream));
        }
    }

    async fn serve(self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        self.serve_peer(Peer::plain(stream)).await
    }

    /// Serves one connection.
    pub async fn serve_peer(self, peer: Peer) -> io::Result<()> {
        let mut stream = BufStream::new(peer.into_stream());
        stream.write_all(GREETING.as_bytes()).await?;
        stream.flush().await?;
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let (tag, command) = line.trim_end().split_once(' ').unwrap_or((&line, ""));
            self.asked.lock().expect("nobody panics while reading it").push(command.to_string());
            match command.split(' ').next().unwrap_or_default() {
                // Says the same for ever.
                "FETCH" => pour(&mut stream).await?,
                // Never answers, and reads no more.
                "APPEND" | "XHANG" => std::future::pending().await,
                _ => stream.write_all(self.answer(tag, command).as_bytes()).await?,
            }
            stream.flush().await?;
            if command == "LOGOUT" {
                break;
            }
            line.clear();
        }
        Ok(())
    }

    fn answer(&self, tag: &str, command: &str) -> String {
        let (data, code) = match command.split(' ').take(2).collect::<Vec<_>>()[..] {
            ["LOGIN", _] => ("", "[CAPABILITY IMAP4rev1 UIDPLUS LITERAL+]"),
            ["SELECT", _] => ("* 3 EXISTS\r\n* OK [UIDVALIDITY 1] valid\r\n", "[READ-WRITE]"),
            ["UID", "FETCH"] => ("* 2 FETCH (UID 2)\r\n", ""),
            ["UID", "SEARCH"] if command.ends_with("DELETED") => ("* SEARCH\r\n", ""),
            ["UID", "SEARCH"] => ("* SEARCH 2\r\n", ""),
            ["UID", "COPY"] => ("", &self.copyuid[..]),
            ["UID", "EXPUNGE"] => ("* 2 EXPUNGE\r\n", ""),
            ["LOGOUT"] => ("* BYE see you\r\n", ""),
            _ => ("", ""),
        };
        format!("{data}{tag} OK {code} done\r\n")
    }
}

async fn pour(stream: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
    stream.write_all(b"* 1 FETCH (BODY[] {4000000000}\r\n").await?;
    let octets = [b'x'; 65_536];
    loop {
        stream.write_all(&octets).await?;
    }
}

/// A sound client logs in and selects INBOX.
pub async fn selects(client: &mut Peer) {
    assert!(client.line().await.starts_with("* OK "), "a greeting");
    client.send("s1 LOGIN alice wonderland\r\n").await;
    assert!(client.until("s1 ").await.contains(" MOVE"));
    client.send("s2 SELECT INBOX\r\n").await;
    assert!(client.until("s2 ").await.starts_with("s2 OK "));
}

/// A sound client is served from its greeting to its farewell, a MOVE included.
pub async fn is_served(mut client: Peer) {
    selects(&mut client).await;
    client.send("s3 UID MOVE 2 Archive\r\ns4 LOGOUT\r\n").await;
    let told = client.rest().await;
    let told: Vec<&str> = told.lines().collect();
    assert!(told[0].starts_with("* OK [COPYUID 9 2 1] "), "{told:?}");
    assert_eq!(told[1], "* 2 EXPUNGE", "{told:?}");
    assert!(told[2].starts_with("s3 OK "), "{told:?}");
    assert_eq!(told[3], "* BYE see you", "{told:?}");
}

/// The program between a scripted upstream and its clients.
pub struct Scene {
    pub program: Program,
    pub upstream: Arc<Upstream>,
}

impl Scene {
    pub async fn start(flags: &[&str]) -> Scene {
        let upstream = Arc::new(Upstream::new().await);
        let program = Program::start(upstream.address(), flags);
        Scene { program, upstream }
    }

    /// A client, and the upstream that the program has reached for it; nobody has said anything.
    pub async fn connected(&self) -> (Peer, Peer) {
        let client = self.program.connect().await;
        (client, self.upstream.accept().await)
    }

    /// Both sides are greeted.
    pub async fn greeted(&self) -> (Peer, Peer) {
        let (mut client, mut server) = self.connected().await;
        server.send(GREETING).await;
        assert!(client.line().await.starts_with("* OK "));
        (client, server)
    }

    /// A mailbox of three messages is selected; `capabilities` came with the login.
    pub async fn selected(&self, capabilities: &str) -> (Peer, Peer) {
        let (mut client, mut server) = self.greeted().await;
        client.send("c1 LOGIN alice wonderland\r\n").await;
        server.expect("c1 LOGIN alice wonderland").await;
        server.send(format!("c1 OK [CAPABILITY IMAP4rev1 UIDPLUS{capabilities}] in\r\n")).await;
        assert!(client.line().await.contains(" MOVE"));
        select(&mut client, &mut server, "c2").await;
        (client, server)
    }

    /// Every connection from now on meets a sound server, until that is aborted.
    pub fn serve_soundly(&self) -> (Server, AbortHandle) {
        let server = Server::default();
        let serving = tokio::spawn(server.clone().serve_all(self.upstream.clone()));
        (server, serving.abort_handle())
    }

    /// While the hostile peers are still there: a sound client is served, and no session has panicked.
    pub async fn a_sound_client_is_served(&mut self) {
        let client = self.program.connect().await;
        let (stream, _) =
            timeout(PATIENCE, self.upstream.0.accept()).await.expect("in time").expect("accepts");
        let (server, ()) = tokio::join!(Server::default().serve(stream), is_served(client));
        server.expect("the gateway ends its session in order");
        self.program.is_unharmed().await;
    }

    /// The same where the upstream is a [sound](Scene::serve_soundly) one already.
    pub async fn another_client_is_served(&mut self, from: Ipv4Addr) {
        is_served(Peer::plain(self.program.connect_raw(from).await)).await;
        self.program.is_unharmed().await;
    }
}

/// Selects INBOX.
pub async fn select(client: &mut Peer, server: &mut Peer, tag: &str) {
    client.send(format!("{tag} SELECT INBOX\r\n")).await;
    server.expect(&format!("{tag} SELECT INBOX")).await;
    let data = "* 3 EXISTS\r\n* OK [UIDVALIDITY 1] valid\r\n";
    server.send(format!("{data}{tag} OK [READ-WRITE] selected\r\n")).await;
    assert!(client.until(&format!("{tag} ")).await.starts_with(&format!("{tag} OK ")));
}

/// Sends all of it while the other side reads as much; what arrived.
pub async fn passes(from: &mut Peer, to: &mut Peer, octets: &[u8], arrive: usize) -> Vec<u8> {
    let mut arrived = vec![0; arrive];
    let (from, to) = (from.stream(), to.stream());
    let sending = async {
        from.write_all(octets).await?;
        from.flush().await
    };
    let receiving = async { to.read_exact(&mut arrived).await.map(|_| ()) };
    let both = async { tokio::try_join!(sending, receiving) };
    timeout(6 * PATIENCE, both).await.expect("all of it in time").expect("passes");
    arrived
}
