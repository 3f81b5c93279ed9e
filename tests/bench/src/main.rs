//! The bench: `tests/bench/run` starts it.
//!
//! Each row is measured for one peer after another within seconds, and all rows again in the next round: what else the
//! machine does meets all of them, and what is compared is always of one round.

mod client;
mod linear;
mod load;
mod measure;
mod moves;
mod peers;
mod profile;
mod table;
mod upstream;
mod wire;

use moves::{By, Far, Mail, SIZES};
use peers::{Kind, OTHER_CPU, Peer, Setting};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use table::{Goal, Table, Unit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

/// What can be asked for.
const GROUPS: [&str; 7] = ["throughput", "noop", "cycles", "memory", "moves", "linear", "profile"];

fn main() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["copy", upstream, plain, tls, dir] => {
            let parse = |address: &str| address.parse().map_err(io::Error::other);
            runtime.block_on(wire::copy(parse(upstream)?, parse(plain)?, parse(tls)?, Path::new(dir)))
        }
        _ => {
            let options = Options::read(arguments)?;
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, Bench::new(options).run())
        }
    }
}

struct Options {
    rounds: usize,
    peers: Vec<Kind>,
    groups: Vec<String>,
}

impl Options {
    fn read(arguments: Vec<String>) -> io::Result<Options> {
        let mut options = Options { rounds: 5, peers: Kind::ALL.to_vec(), groups: Vec::new() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--rounds" {
                let rounds = arguments.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                options.rounds = rounds.ok_or_else(|| io::Error::other("--rounds NUMBER"))?;
            } else if argument == "--pair" {
                options.peers = vec![Kind::Gateway, Kind::Haproxy];
            } else if GROUPS.contains(&argument.as_str()) {
                options.groups.push(argument);
            } else {
                return Err(io::Error::other(format!("{argument}: not one of {GROUPS:?}")));
            }
        }
        Ok(options)
    }

    fn wants(&self, group: &str) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|g| g == group)
    }
}

fn goal(must: f64, moonshot: f64) -> Option<Goal> {
    Some(Goal { must, moonshot })
}

struct Bench {
    options: Options,
    table: Table,
    tls: TlsConnector,
}

impl Bench {
    fn new(options: Options) -> Bench {
        Bench { options, table: Table::default(), tls: client::connector() }
    }

    async fn run(mut self) -> io::Result<()> {
        if self.options.wants("memory") {
            load::enough_descriptors()?;
        }
        let dir = PathBuf::from(std::env::var_os("DIR").expect("tests/bench/run sets DIR"));
        make_certificate(&dir)?;
        measure::move_to(OTHER_CPU);
        let upstream = upstream::start()?;
        let setting = Setting { dir, upstream, auth: answer_nginx(upstream).await? };
        if self.options.groups.iter().any(|group| group == "profile") {
            return profile::print(&setting, &self.tls).await;
        }
        let mail = if self.options.wants("moves") { Some(Mail::start(&setting).await?) } else { None };
        for round in 1..=self.options.rounds {
            self.round(&setting, mail.as_ref()).await?;
            eprintln!("round {round} of {}\n{}", self.options.rounds, self.table.print());
        }
        println!("{}", self.table.print());
        linear::check(&self.table)
    }

    async fn round(&mut self, setting: &Setting, mail: Option<&Mail>) -> io::Result<()> {
        let peers: Vec<Peer> =
            self.options.peers.iter().map(|kind| Peer::start(*kind, setting)).collect::<io::Result<_>>()?;
        if self.options.wants("throughput") {
            self.throughput(&peers).await?;
        }
        if self.options.wants("noop") {
            self.noop(&peers, setting.upstream).await?;
        }
        if self.options.wants("cycles") {
            self.cycles(&peers).await?;
        }
        drop(peers);
        if self.options.wants("memory") {
            self.memory(setting).await?;
        }
        if let Some(mail) = mail {
            self.moves(mail, setting).await?;
        }
        if self.options.wants("linear") {
            linear::measure(&mut self.table);
        }
        Ok(())
    }

    async fn throughput(&mut self, peers: &[Peer]) -> io::Result<()> {
        let tls = self.tls.clone();
        let rows = [
            ("plain, 100 kB messages", None, 100_000, goal(0.60, 1.0), goal(2.2, 1.2)),
            ("plain, 3 kB messages", None, 3_000, goal(0.55, 0.80), None),
            ("TLS, 100 kB messages", Some(&tls), 100_000, goal(1.4, 1.9), goal(0.7, 0.5)),
        ];
        for (name, tls, size, rate, cost) in rows {
            for peer in peers {
                let found = load::throughput(peer, tls, size).await?;
                let (column, per) = (peer.kind.name(), Unit::Ratio(" MB/s"));
                self.table.add(name, per, rate, column, found.megabytes_per_second);
                let (title, unit) = (format!("{name}, CPU for a GB"), Unit::Ratio(" s"));
                self.table.add(&title, unit, cost, column, found.cpu_seconds_per_gigabyte);
            }
        }
        Ok(())
    }

    async fn noop(&mut self, peers: &[Peer], upstream: SocketAddr) -> io::Result<()> {
        let tls = self.tls.clone();
        let rows =
            [("NOOP, added to its median, plain", None), ("NOOP, added to its median, TLS", Some(&tls))];
        for (name, tls) in rows {
            for peer in peers {
                let direct = load::noop(upstream, None).await?;
                let through = load::noop(if tls.is_some() { peer.tls } else { peer.plain }, tls).await?;
                self.table.add(name, Unit::Ratio(" us"), goal(1.0, 0.7), peer.kind.name(), through - direct);
            }
        }
        for peer in peers {
            let calls = load::noop_calls(peer).await?;
            self.table.add(
                "system calls for a NOOP",
                Unit::Value(""),
                goal(8.0, 6.0),
                peer.kind.name(),
                calls,
            );
        }
        Ok(())
    }

    async fn cycles(&mut self, peers: &[Peer]) -> io::Result<()> {
        let tls = self.tls.clone();
        let rows = [
            ("connect, login, logout, plain", None, goal(0.8, 1.0)),
            ("connect, login, logout, TLS", Some(&tls), goal(1.3, 1.8)),
        ];
        for (name, tls, goal) in rows {
            for peer in peers {
                let rate = load::cycles(peer, tls).await?;
                self.table.add(name, Unit::Ratio("/s"), goal, peer.kind.name(), rate);
            }
        }
        Ok(())
    }

    async fn memory(&mut self, setting: &Setting) -> io::Result<()> {
        let tls = self.tls.clone();
        let rows = [("plain", None, goal(3_300.0, 1_600.0)), ("TLS", Some(&tls), goal(9_000.0, 6_000.0))];
        let mib = |octets: u64| octets as f64 / 1048576.0;
        for kind in self.options.peers.clone() {
            let fresh = Peer::start(kind, setting)?;
            let resident = mib(measure::resident_bytes(fresh.pid()));
            let title = "resident memory with no connection";
            self.table.add(title, Unit::Value(" MiB"), goal(8.0, 4.0), kind.name(), resident);
        }
        for (leg, tls, limit) in rows {
            for kind in self.options.peers.clone() {
                let peer = Peer::start(kind, setting)?;
                let few = matches!(kind, Kind::Nginx | Kind::Copy);
                let sizes = if few { &load::IDLE_CONNECTIONS[..1] } else { &load::IDLE_CONNECTIONS };
                for idle in load::idle(&peer, tls, sizes).await? {
                    let (name, octets) = (kind.name(), Unit::Value(" B"));
                    let title = format!("memory of an idle connection, {leg}, of {}", idle.connections);
                    self.table.add(&title, octets, limit, name, idle.before);
                    self.table.add(
                        &format!("{title}, after a FETCH of 500 kB"),
                        octets,
                        limit,
                        name,
                        idle.after,
                    );
                    let growth = (idle.after / idle.before - 1.0) * 100.0;
                    self.table.add(
                        &format!("{title}, growth"),
                        Unit::Value(" %"),
                        goal(5.0, 0.0),
                        name,
                        growth,
                    );
                }
            }
        }
        Ok(())
    }

    async fn moves(&mut self, mail: &Mail, setting: &Setting) -> io::Result<()> {
        for (name, uid, goal) in [("UID MOVE", true, goal(2.0, 2.0)), ("MOVE", false, goal(3.0, 2.0))] {
            let trips = mail.round_trips(uid, 100).await?;
            self.table.add(&format!("{name}, round trips"), Unit::Value(""), goal, "imapmove", trips);
        }
        for far in Far::ALL {
            let goal = match far {
                Far::Nobody => None,
                Far::Upstream => goal(0.70, 0.67),
                Far::Client => goal(0.40, 0.35),
            };
            for size in SIZES {
                let title = format!("UID MOVE of {size}, {}", far.name());
                for by in By::ALL {
                    let took = mail.time(by, far, size).await?;
                    // The ratio is that to the second column.
                    self.table.add(&title, Unit::Ratio(" ms"), goal, by.name(), took);
                }
            }
        }
        for (name, apart) in [("one range", 1), ("no two make a range", 2)] {
            let peer = Peer::start(Kind::Gateway, setting)?;
            let grew = moves::memory_of_many(&peer, apart).await? / 1048576.0;
            let title = format!("UID MOVE of 100,000, memory, {name}");
            self.table.add(&title, Unit::Value(" MiB"), goal(4.0, 4.0), "imapmove", grew);
        }
        Ok(())
    }
}

/// nginx asks for each login where to go (its `auth_http`).
async fn answer_nginx(upstream: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let answer = format!(
        "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {}\r\nAuth-Port: {}\r\n\r\n",
        upstream.ip(),
        upstream.port()
    );
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::task::spawn_local(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    Ok(address)
}

fn make_certificate(dir: &Path) -> io::Result<()> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).map_err(io::Error::other)?;
    std::fs::write(dir.join("cert.pem"), made.cert.pem())?;
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem())
}
