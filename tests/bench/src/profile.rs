//! Where the gateway's time goes, and its system calls: with `perf` and `strace`, if `tests/bench/run profile` asks for it.

use crate::load;
use crate::measure::Strace;
use crate::peers::{Kind, Peer, Setting};
use std::io;
use std::process::{Command, Stdio};
use tokio_rustls::TlsConnector;

/// Entries that are shown of the kernel's, and as many of user space.
const TOP: usize = 10;
/// How long each kind of load is watched, in seconds.
const TIME: &str = "5";

/// Prints a profile of each kind of load.
pub async fn print(setting: &Setting, tls: &TlsConnector) -> io::Result<()> {
    let peer = Peer::start(Kind::Gateway, setting)?;
    let data = setting.dir.join("perf.data").display().to_string();
    for (name, leg, size) in [
        ("plain, 100 kB messages", None, 100_000),
        ("plain, 3 kB messages", None, 3_000),
        ("TLS, 100 kB messages", Some(tls), 100_000),
        ("NOOP, plain", None, 0),
        ("NOOP, TLS", Some(tls), 0),
    ] {
        let mut perf = Command::new("perf")
            .args(["record", "-q", "-F", "1999", "-p", &peer.pid().to_string(), "-o", &data, "sleep", TIME])
            .stderr(Stdio::null())
            .spawn()?;
        while perf.try_wait()?.is_none() {
            run(&peer, leg, size).await?;
        }
        println!("## {name}\n");
        print_entries(&report(&data)?);
        let strace = Strace::attach(peer.pid());
        run(&peer, leg, size).await?;
        println!("{}", strace.summary());
    }
    Ok(())
}

async fn run(peer: &Peer, tls: Option<&TlsConnector>, size: usize) -> io::Result<()> {
    match size {
        0 => load::noop(if tls.is_some() { peer.tls } else { peer.plain }, tls).await.map(drop),
        size => load::throughput(peer, tls, size).await.map(drop),
    }
}

fn report(data: &str) -> io::Result<String> {
    let report = Command::new("perf")
        .args(["report", "--stdio", "--no-children", "-t", "\t", "-s", "dso,sym", "-i", data])
        .stderr(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&report.stdout).into_owned())
}

/// A function, and its share of all the time in percent.
struct Entry<'a> {
    share: f64,
    in_kernel: bool,
    file: &'a str,
    function: &'a str,
}

impl<'a> Entry<'a> {
    fn read(line: &'a str) -> Option<Entry<'a>> {
        let mut columns = line.split('\t').map(str::trim);
        let share = columns.next()?.trim_end_matches('%').parse().ok()?;
        let (file, symbol) = (columns.next()?, columns.next()?);
        let (space, function) = symbol.split_once(' ')?;
        Some(Entry { share, in_kernel: space == "[k]", file, function })
    }

    /// Whose code it is: of what is compiled in, that of the crate where the name begins.
    fn owner(&self) -> &'a str {
        let name = self.function.trim_start_matches(['<', '&', '*', '(']).trim_start_matches("mut ");
        let root = name.split([':', '<', ' ']).next().unwrap_or_default();
        match root {
            _ if self.file.starts_with("lib") => self.file.split('.').next().unwrap_or_default(),
            _ if self.in_kernel => "kernel",
            _ if self.file == "[vdso]" => "vdso",
            "imapmove" => "ours",
            "core" | "alloc" | "std" => "Rust's std",
            _ if root.starts_with("ring_core") => "ring",
            _ if !name.contains("::") => "compiler",
            root => root,
        }
    }
}

fn print_entries(report: &str) {
    let entries: Vec<Entry> = report.lines().filter_map(Entry::read).collect();
    let all: f64 = entries.iter().map(|entry| entry.share).sum();
    for (name, in_kernel) in [("kernel", true), ("user space", false)] {
        let of_it = || entries.iter().filter(|entry| entry.in_kernel == in_kernel);
        let share: f64 = of_it().map(|entry| entry.share).sum();
        println!("{name}: {:.1} %", share / all * 100.0);
        for entry in of_it().take(TOP) {
            println!("{:>7.2} %  {:10}  {}", entry.share, entry.owner(), entry.function);
        }
        println!();
    }
}
