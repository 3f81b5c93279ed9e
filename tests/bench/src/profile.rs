//! Where the gateway's time goes, and its system calls: with `perf` and `strace`, if `tests/bench/run profile` asks for it.

use crate::load;
use crate::measure::Strace;
use crate::peers::{Kind, Peer, Setting};
use std::io;
use std::process::{Command, Stdio};
use tokio_rustls::TlsConnector;

/// Entries of a profile that are shown.
const TOP: usize = 16;

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
            .args(["record", "-q", "-F", "1999", "-p", &peer.pid().to_string(), "-o", &data, "sleep", "1.2"])
            .stderr(Stdio::null())
            .spawn()?;
        while perf.try_wait()?.is_none() {
            run(&peer, leg, size).await?;
        }
        let report = Command::new("perf")
            .args([
                "report",
                "--stdio",
                "--no-children",
                "--percent-limit",
                "0.5",
                "-s",
                "dso,sym",
                "-i",
                &data,
            ])
            .stderr(Stdio::null())
            .output()?;
        println!("## {name}\n");
        let report = String::from_utf8_lossy(&report.stdout).into_owned();
        let entries = report.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        entries.take(TOP).for_each(|line| println!("    {}", line.trim()));
        let strace = Strace::attach(peer.pid());
        run(&peer, leg, size).await?;
        println!("\n{}", strace.summary());
    }
    Ok(())
}

async fn run(peer: &Peer, tls: Option<&TlsConnector>, size: usize) -> io::Result<()> {
    match size {
        0 => load::noop(if tls.is_some() { peer.tls } else { peer.plain }, tls).await.map(drop),
        size => load::throughput(peer, tls, size).await.map(drop),
    }
}
