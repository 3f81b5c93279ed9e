//! Large literals between two legs in clear go past this process (splice(2)): the octets are the same, in the same order,
//! whatever their cuts and whoever goes away.
#![cfg(target_os = "linux")]

#[path = "support/peer.rs"]
mod peer;

use fastrand::Rng;
use imapmove::imap::Side;
use peer::{Gateway, PATIENCE, Peer, Stream, Upstream};
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{sleep, timeout};

/// Sizes about the limits: of a read behind a large literal, of what is large, of a read, of a pipe; and far above.
const SIZES: [usize; 12] =
    [0, 1, 2_047, 2_049, 32_767, 32_769, 60_000, 65_535, 65_537, 100_000, 300_000, 2_000_000];

/// The tests count this process's pipes: one at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

struct Alone {
    pipes_before: HashSet<PathBuf>,
    _guard: MutexGuard<'static, ()>,
}

impl Alone {
    async fn new() -> Alone {
        let guard = ALONE.lock().await;
        Alone { pipes_before: pipes(), _guard: guard }
    }

    /// Octets went through a pipe, which is kept for the next ones.
    fn has_spliced(&self) {
        assert!(!pipes().is_subset(&self.pipes_before), "nothing was spliced");
    }
}

struct Scene {
    gateway: Gateway,
    client: Peer,
    server: Peer,
}

impl Scene {
    /// A gateway in clear, with both sides greeted and the client logged in.
    async fn new() -> Scene {
        let upstream = Upstream::new().await;
        let gateway = Gateway::start(upstream.address(), &[]).await;
        let (mut client, mut server) = (gateway.connect().await, upstream.accept().await);
        server.send("* OK [CAPABILITY IMAP4rev1 UIDPLUS LITERAL+] ready\r\n").await;
        client.line().await;
        client.send("c1 LOGIN alice wonderland\r\n").await;
        server.expect("c1 LOGIN alice wonderland").await;
        server.send("c1 OK [CAPABILITY IMAP4rev1 UIDPLUS LITERAL+] in\r\n").await;
        client.line().await;
        Scene { gateway, client, server }
    }

    /// The same, and the client has asked for a message.
    async fn fetching() -> Scene {
        let mut scene = Scene::new().await;
        scene.client.send("c2 FETCH 1 BODY[]\r\n").await;
        scene.server.expect("c2 FETCH 1 BODY[]").await;
        scene
    }

    /// What the one peer says is what the other one hears.
    async fn passes(&mut self, from: Side, octets: &[u8], seed: u64) {
        let (from, to) = match from {
            Side::Client => (self.client.stream(), self.server.stream()),
            Side::Upstream => (self.server.stream(), self.client.stream()),
        };
        let sending = send_in_pieces(from, octets, Rng::with_seed(seed));
        let receiving = receive(to, octets.len(), Rng::with_seed(seed + 1));
        let ((), seen) = tokio::join!(sending, receiving);
        let wrong = seen.iter().zip(octets).position(|(seen, sent)| seen != sent);
        assert_eq!(wrong, None, "the first octet that changed on the way, seed {seed}");
    }
}

/// The pipes that this process has. No two ever have the same name.
fn pipes() -> HashSet<PathBuf> {
    let is_pipe = |to: &PathBuf| to.to_string_lossy().starts_with("pipe:");
    let files = fs::read_dir("/proc/self/fd").expect("Linux").flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).filter(is_pipe).collect()
}

fn body(rng: &mut Rng, size: usize) -> Vec<u8> {
    // Much of it looks like lines and literals.
    let line: &[u8] = b"a1 OK done {70000}\r\n* 3 EXPUNGE\r\n";
    let mut body: Vec<u8> = line.iter().copied().cycle().take(size).collect();
    (0..size / 50).for_each(|_| body[rng.usize(..size)] = rng.u8(..));
    body
}

/// Sent in pieces, with pauses in which all that came before passes.
async fn send_in_pieces(peer: &mut dyn Stream, octets: &[u8], mut rng: Rng) {
    let mut left = octets;
    while !left.is_empty() {
        let longest = [100, 5_000, 70_000, 500_000][rng.usize(..4)];
        let (piece, rest) = left.split_at(rng.usize(1..=longest).min(left.len()));
        peer.write_all(piece).await.expect("the gateway takes it");
        left = rest;
        if rng.u8(..4) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The octets that come, in reads of random sizes.
async fn receive(peer: &mut dyn Stream, length: usize, mut rng: Rng) -> Vec<u8> {
    let mut seen = vec![0; length];
    let mut at = 0;
    while at < length {
        let to = (at + rng.usize(1..300_000)).min(length);
        let read = timeout(PATIENCE, peer.read(&mut seen[at..to])).await.expect("octets in time");
        match read.expect("reads") {
            0 => panic!("the end after {at} of {length}"),
            n => at += n,
        }
    }
    seen
}

#[tokio::test]
async fn wire_4_messages_of_any_size_pass_to_the_client() {
    let alone = Alone::new().await;
    for seed in 0..20 {
        let mut rng = Rng::with_seed(seed);
        let mut octets = Vec::new();
        for n in 1..rng.usize(3..12) {
            let size = if n == 1 { 90_000 } else { SIZES[rng.usize(..SIZES.len())] };
            octets.extend_from_slice(format!("* {n} FETCH (BODY[] {{{size}}}\r\n").as_bytes());
            octets.extend(body(&mut rng, size));
            octets.extend_from_slice(b")\r\n* 7 EXISTS\r\n");
        }
        octets.extend_from_slice(b"c2 OK done\r\n");
        Scene::fetching().await.passes(Side::Upstream, &octets, seed).await;
    }
    alone.has_spliced();
}

#[tokio::test]
async fn wire_4_messages_of_any_size_pass_to_the_server() {
    let alone = Alone::new().await;
    for seed in 0..20 {
        let mut rng = Rng::with_seed(seed);
        let mut octets = Vec::new();
        for n in 1..rng.usize(3..12) {
            let size = if n == 1 { 90_000 } else { SIZES[rng.usize(..SIZES.len())] };
            octets.extend_from_slice(format!("d{n} APPEND x {{{size}+}}\r\n").as_bytes());
            octets.extend(body(&mut rng, size));
            octets.extend_from_slice(b"\r\n");
        }
        Scene::new().await.passes(Side::Client, &octets, seed).await;
    }
    alone.has_spliced();
}

/// More than the kernel's buffers of both legs, so that some is under way when something happens.
const MUCH: usize = 24_000_000;

/// The server sends the beginning of a large message until nothing more is taken. Where the client then stands.
async fn filled(scene: &mut Scene) -> (Vec<u8>, usize) {
    let mut octets = format!("* 1 FETCH (BODY[] {{{MUCH}}}\r\n").into_bytes();
    octets.extend(body(&mut Rng::with_seed(1), MUCH));
    octets.extend_from_slice(b")\r\nc2 OK done\r\n");
    let (stream, mut sent) = (scene.server.stream(), 0);
    while let Ok(n) = timeout(Duration::from_millis(100), stream.write(&octets[sent..])).await {
        sent += n.expect("sends");
        assert!(sent < octets.len(), "this was too little to fill the way");
    }
    (octets, sent)
}

#[tokio::test]
async fn wire_11_a_client_that_has_said_its_last_gets_all_of_a_large_message() {
    let (alone, mut scene) = (Alone::new().await, Scene::fetching().await);
    scene.client.stream().shutdown().await.expect("an end of file");
    let (octets, sent) = filled(&mut scene).await;
    alone.has_spliced();
    let Scene { client, mut server, .. } = scene;
    let (mut client, mut seen) = (client.into_stream(), Vec::new());
    let rest = async { server.stream().write_all(&octets[sent..]).await };
    let (rest, read) = tokio::join!(rest, timeout(PATIENCE, client.read_to_end(&mut seen)));
    rest.expect("sends");
    read.expect("an end in time").expect("reads");
    assert!(seen == octets, "{} of {} octets", seen.len(), octets.len());
}

#[tokio::test]
async fn fault_3_what_a_server_said_before_it_left_in_a_large_literal_reaches_the_client() {
    let (alone, mut scene) = (Alone::new().await, Scene::fetching().await);
    let (octets, sent) = filled(&mut scene).await;
    alone.has_spliced();
    let Scene { client, mut server, .. } = scene;
    server.stream().shutdown().await.expect("an end of file");
    let (mut client, mut seen) = (client.into_stream(), Vec::new());
    timeout(PATIENCE, client.read_to_end(&mut seen)).await.expect("an end in time").expect("reads");
    assert!(seen == octets[..sent], "{} of {sent} octets", seen.len());
}

#[tokio::test]
async fn fault_2_a_client_that_is_gone_in_a_large_literal_ends_the_session() {
    let (alone, mut scene) = (Alone::new().await, Scene::fetching().await);
    filled(&mut scene).await;
    alone.has_spliced();
    scene.client.reset();
    let mut server = scene.server.into_stream();
    let mut seen = Vec::new();
    // The rest of the message was not read: it may be told by a reset.
    let _ = timeout(PATIENCE, server.read_to_end(&mut seen)).await.expect("an end in time");
}

#[tokio::test]
async fn fault_3_a_server_that_is_gone_in_a_large_literal_ends_the_session() {
    let (alone, mut scene) = (Alone::new().await, Scene::fetching().await);
    filled(&mut scene).await;
    alone.has_spliced();
    scene.server.reset();
    let (mut client, mut seen) = (scene.client.into_stream(), Vec::new());
    timeout(PATIENCE, client.read_to_end(&mut seen)).await.expect("an end in time").expect("reads");
    assert!(seen.len() < MUCH);
}

#[tokio::test]
async fn fault_2_a_drain_lets_a_large_message_pass() {
    let (alone, mut scene) = (Alone::new().await, Scene::fetching().await);
    let (octets, sent) = filled(&mut scene).await;
    alone.has_spliced();
    scene.gateway.signal().await;
    let Scene { gateway, client, mut server, .. } = scene;
    let (mut client, mut seen) = (client.into_stream(), Vec::new());
    let rest = async {
        server.stream().write_all(&octets[sent..]).await.expect("sends");
        server.rest().await
    };
    let (logout, read) = tokio::join!(rest, timeout(PATIENCE, client.read_to_end(&mut seen)));
    read.expect("an end in time").expect("reads");
    assert!(seen.starts_with(&octets), "{} of {} octets", seen.len(), octets.len());
    assert!(seen[octets.len()..].starts_with(b"* BYE "), "{}", seen[octets.len()..].escape_ascii());
    assert!(logout.ends_with(" LOGOUT\r\n"), "{logout}");
    drop((client, server));
    assert_eq!(gateway.end().await, 0, "sessions cut");
}
