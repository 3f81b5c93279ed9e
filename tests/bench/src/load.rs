//! Throughput, latency, connections that come and go, and connections that only are there.

use crate::client::Client;
use crate::measure::{Strace, move_to};
use crate::peers::{CPU, OTHER_CPU, Peer};
use imapmove_bench::answers::fetched;
use rustix::process::{Resource, getrlimit};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

/// How long each measurement takes that is one of a rate.
const TIME: Duration = Duration::from_millis(1500);
/// Connections that are busy at one time.
const BUSY: usize = 4;
/// Octets of an answer to FETCH.
const ANSWER: usize = 10_000_000;
/// Connections that are opened, or fetch, at one time, where there are thousands.
const WORKERS: usize = 32;
const NOOPS: usize = 2_000;
/// Connections that are idle at one time. The last is what 20,000 descriptors allow, a usual limit: each takes two at the
/// peer, and two here, at the client and at the canned server.
pub const IDLE_CONNECTIONS: [usize; 3] = [1_000, 5_000, 9_000];

/// How fast octets pass, and what that costs.
pub struct Throughput {
    pub megabytes_per_second: f64,
    pub cpu_seconds_per_gigabyte: f64,
}

/// FETCH after FETCH of messages of this size.
pub async fn throughput(peer: &Peer, tls: Option<&TlsConnector>, size: usize) -> io::Result<Throughput> {
    let count = (ANSWER / size) as u32;
    let (command, octets) = (format!("FETCH 1:{count} BODY[]<0.{size}>"), fetched(count, size).len());
    let mut clients = Vec::new();
    for _ in 0..BUSY {
        clients.push(
            Client::open(address(peer, tls), tls, "INBOX")
                .await
                .map_err(|e| io::Error::other(format!("{}: {e}", peer.kind.name())))?,
        );
    }
    let (begun, cpu, passed) = (Instant::now(), peer.cpu_time(), Cell::new(0));
    let fetch = async |mut client: Client| {
        let mut scratch = vec![0; 256 * 1024];
        while begun.elapsed() < TIME {
            let tag = client.send(&command).await?;
            client.take(octets, &tag, &mut scratch).await?;
            passed.set(passed.get() + octets);
        }
        client.leave().await
    };
    let [a, b, c, d] = clients.try_into().ok().expect("so many are busy");
    tokio::try_join!(fetch(a), fetch(b), fetch(c), fetch(d))?;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), (peer.cpu_time() - cpu).as_secs_f64());
    let passed = passed.get() as f64;
    Ok(Throughput {
        megabytes_per_second: passed / 1e6 / seconds,
        cpu_seconds_per_gigabyte: cpu / (passed / 1e9),
    })
}

/// The median of a NOOP's time, in microseconds, with all who take part on one CPU.
pub async fn noop(address: SocketAddr, tls: Option<&TlsConnector>) -> io::Result<f64> {
    let mut client = Client::open(address, tls, "INBOX").await?;
    move_to(CPU);
    let times = noops(&mut client).await;
    move_to(OTHER_CPU);
    let mut times = times?;
    times.sort();
    client.leave().await?;
    Ok(times[times.len() / 2].as_secs_f64() * 1e6)
}

async fn noops(client: &mut Client) -> io::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(NOOPS);
    for _ in 0..NOOPS {
        let begun = Instant::now();
        client.run("NOOP").await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// System calls for one NOOP.
pub async fn noop_calls(peer: &Peer) -> io::Result<f64> {
    let mut client = Client::open(peer.plain, None, "INBOX").await?;
    client.run("NOOP").await?;
    let strace = Strace::attach(peer.pid());
    noops(&mut client).await?;
    let calls = strace.count() as f64 / NOOPS as f64;
    client.leave().await?;
    Ok(calls)
}

/// Connect, log in, log out: how many in a second.
pub async fn cycles(peer: &Peer, tls: Option<&TlsConnector>) -> io::Result<f64> {
    let (begun, done) = (Instant::now(), Cell::new(0));
    let cycle = async || {
        while begun.elapsed() < TIME {
            let mut client = Client::connect(address(peer, tls), tls).await?;
            client.run("LOGIN alice wonderland").await?;
            client.leave().await?;
            done.set(done.get() + 1);
        }
        Ok::<_, io::Error>(())
    };
    tokio::try_join!(cycle(), cycle(), cycle(), cycle())?;
    Ok(f64::from(done.get()) / begun.elapsed().as_secs_f64())
}

/// Octets of a peer's memory for each connection in IDLE.
pub struct Idle {
    pub connections: usize,
    pub before: f64,
    /// After a FETCH of 500 kB.
    pub after: f64,
}

/// Whether this process may open so many.
pub fn enough_descriptors() -> io::Result<()> {
    let needed = 2 * (IDLE_CONNECTIONS[2] + 2 * WORKERS) as u64 + 100;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < needed => {
            let why = "name the rows without `memory`, or raise the limit (ulimit -Hn)";
            Err(io::Error::other(format!(
                "{needed} file descriptors are needed, there may be {limit}: {why}"
            )))
        }
        _ => Ok(()),
    }
}

/// Of a peer that has just begun, at these numbers of connections.
pub async fn idle(peer: &Peer, tls: Option<&TlsConnector>, sizes: &[usize]) -> io::Result<Vec<Idle>> {
    // What is there once, or for each one that is busy at the same time, is not to be counted.
    let mut clients = open(peer, tls, WORKERS).await?;
    clients = fetch_each(clients).await?;
    let base = settled(peer).await;
    let mut found = Vec::new();
    for &connections in sizes {
        let first = clients.len();
        let more = open(peer, tls, connections + WORKERS - first).await?;
        clients.extend(more);
        let each = |memory: u64| (memory as f64 - base as f64) / connections as f64;
        let before = each(settled(peer).await);
        clients = fetch_each(clients).await?;
        found.push(Idle { connections, before, after: each(settled(peer).await) });
    }
    Ok(found)
}

async fn open(peer: &Peer, tls: Option<&TlsConnector>, count: usize) -> io::Result<Vec<Client>> {
    let address = address(peer, tls);
    each((0..count).collect(), async |_| {
        let mut client = Client::open(address, tls, "INBOX").await?;
        client.idle().await?;
        Ok(client)
    })
    .await
}

async fn fetch_each(clients: Vec<Client>) -> io::Result<Vec<Client>> {
    let octets = fetched(1, 500_000).len();
    each(clients, async |mut client| {
        client.done().await?;
        let tag = client.send("FETCH 1:1 BODY[]<0.500000>").await?;
        client.take(octets, &tag, &mut vec![0; 64 * 1024]).await?;
        client.idle().await?;
        Ok(client)
    })
    .await
}

/// Does something with each, with a few at a time.
async fn each<T, U>(all: Vec<T>, work: impl AsyncFn(T) -> io::Result<U>) -> io::Result<Vec<U>> {
    let (left, done) = (RefCell::new(all), RefCell::new(Vec::new()));
    let worker = async || {
        loop {
            let Some(next) = left.borrow_mut().pop() else { return Ok::<_, io::Error>(()) };
            let result = work(next).await?;
            done.borrow_mut().push(result);
        }
    };
    let workers = std::iter::repeat_with(|| Box::pin(worker())).take(WORKERS);
    all_of(workers.collect()).await?;
    Ok(done.into_inner())
}

/// Ready when all are, or when one fails.
async fn all_of<F: Future<Output = io::Result<()>> + Unpin>(mut running: Vec<F>) -> io::Result<()> {
    std::future::poll_fn(|cx| {
        let mut failed = Ok(());
        running.retain_mut(|one| match Pin::new(one).poll(cx) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                if result.is_err() {
                    failed = result;
                }
                false
            }
        });
        match failed {
            Ok(()) if !running.is_empty() => Poll::Pending,
            done => Poll::Ready(done),
        }
    })
    .await
}

/// A peer's memory when it does not change any more.
async fn settled(peer: &Peer) -> u64 {
    let mut last = peer.memory();
    loop {
        sleep(Duration::from_millis(200)).await;
        let now = peer.memory();
        if now.abs_diff(last) <= last / 500 {
            return now;
        }
        last = now;
    }
}

fn address(peer: &Peer, tls: Option<&TlsConnector>) -> SocketAddr {
    if tls.is_some() { peer.tls } else { peer.plain }
}
