//! What a MOVE costs on a real Dovecot: through the gateway, as the server's own, and as a client does it that has
//! neither, by COPY, STORE and EXPUNGE.

use crate::client::Client;
use crate::measure::{forget_peak, peak_bytes};
use crate::peers::{Kind, Peer, Setting, free_address};
use crate::upstream::MANY;
use crate::wire::Relay;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Half of a round trip that takes 50 ms.
const DELAY: Duration = Duration::from_millis(25);
/// How many messages are moved at a time.
pub const SIZES: [u32; 3] = [1, 100, 10_000];

/// Where the 50 ms are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Far {
    Nobody,
    Upstream,
    Client,
}

impl Far {
    pub const ALL: [Far; 3] = [Far::Nobody, Far::Upstream, Far::Client];

    pub fn name(self) -> &'static str {
        match self {
            Far::Nobody => "no delay",
            Far::Upstream => "50 ms to the upstream",
            Far::Client => "50 ms to the client",
        }
    }
}

/// Who carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    Gateway,
    Native,
    Client,
}

impl By {
    /// What the gateway is held against comes second.
    pub const ALL: [By; 3] = [By::Gateway, By::Client, By::Native];

    pub fn name(self) -> &'static str {
        match self {
            By::Gateway => "imapmove",
            By::Client => "COPY, STORE, EXPUNGE of a client's own",
            By::Native => "native MOVE",
        }
    }
}

/// A Dovecot with its mail, near and far, and a gateway before each.
pub struct Mail {
    server: Child,
    near: Relay,
    far: Relay,
    /// Before the near server, with the client far away.
    near_gateway: Peer,
    far_gateway: Peer,
    gateway_far_from_client: Relay,
}

impl Drop for Mail {
    fn drop(&mut self) {
        let id = rustix::process::Pid::from_child(&self.server);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let _ = self.server.wait();
    }
}

impl Mail {
    /// Starts them, with mailboxes of messages to be moved.
    pub async fn start(setting: &Setting) -> io::Result<Mail> {
        let (dir, address) = (setting.dir.join("dovecot"), free_address()?);
        std::fs::create_dir_all(&dir)?;
        let recipe = std::env::var("DOVECOT").expect("tests/bench/run sets DOVECOT");
        let server = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", &recipe])
            .args([dir.as_path(), Path::new(&address.port().to_string()), Path::new("legacy")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let near = Relay::start(address, Duration::ZERO).await?;
        let far = Relay::start(address, DELAY).await?;
        let before = |upstream: SocketAddr, name: &str| {
            let dir = setting.dir.join(name);
            std::fs::create_dir_all(&dir)?;
            for file in ["cert.pem", "key.pem"] {
                std::fs::copy(setting.dir.join(file), dir.join(file))?;
            }
            Peer::start(Kind::Gateway, &Setting { dir, upstream, auth: setting.auth })
        };
        let (near_gateway, far_gateway) = (before(near.address, "near")?, before(far.address, "far")?);
        let gateway_far_from_client = Relay::start(near_gateway.plain, DELAY).await?;
        let mail = Mail { server, near, far, near_gateway, far_gateway, gateway_far_from_client };
        mail.fill(address, &dir.join("mail/alice")).await?;
        Ok(mail)
    }

    /// Two mailboxes for each size; the messages are in the first.
    async fn fill(&self, address: SocketAddr, maildir: &Path) -> io::Result<()> {
        let begun = Instant::now();
        while let Err(error) = TcpStream::connect(address).await {
            if begun.elapsed() > Duration::from_secs(20) {
                return Err(error);
            }
            sleep(Duration::from_millis(20)).await;
        }
        let mut client = Client::connect(address, None).await?;
        client.run("LOGIN alice wonderland").await?;
        for size in SIZES {
            client.run(&format!("CREATE A{size}")).await?;
            client.run(&format!("CREATE B{size}")).await?;
            deliver(&maildir.join(format!(".A{size}")), size)?;
        }
        client.leave().await
    }

    fn address(&self, by: By, far: Far) -> SocketAddr {
        match (by, far) {
            (By::Gateway, Far::Nobody) => self.near_gateway.plain,
            (By::Gateway, Far::Upstream) => self.far_gateway.plain,
            (By::Gateway, Far::Client) => self.gateway_far_from_client.address,
            (_, Far::Nobody) => self.near.address,
            (_, _) => self.far.address,
        }
    }

    /// How long it takes to move so many messages to the other of the two mailboxes, in milliseconds.
    pub async fn time(&self, by: By, far: Far, size: u32) -> io::Result<f64> {
        let (mut client, uids, target) = self.find(self.address(by, far), size).await?;
        let begun = Instant::now();
        match by {
            By::Gateway | By::Native => {
                client.run(&format!("UID MOVE {uids} {target}")).await?;
            }
            By::Client => {
                client.run(&format!("UID COPY {uids} {target}")).await?;
                client.run(&format!("UID STORE {uids} +FLAGS.SILENT (\\Deleted)")).await?;
                client.run(&format!("UID EXPUNGE {uids}")).await?;
            }
        }
        let took = begun.elapsed();
        client.leave().await?;
        Ok(took.as_secs_f64() * 1e3)
    }

    /// Round trips to the upstream for one MOVE through the gateway: by UID, or by sequence number.
    pub async fn round_trips(&self, uid: bool, size: u32) -> io::Result<f64> {
        let (mut client, uids, target) = self.find(self.near_gateway.plain, size).await?;
        let before = self.near.round_trips();
        let command =
            if uid { format!("UID MOVE {uids} {target}") } else { format!("MOVE 1:{size} {target}") };
        client.run(&command).await?;
        let trips = self.near.round_trips() - before;
        client.leave().await?;
        Ok(trips as f64)
    }

    /// The mailbox of the two where the messages are, open; their UIDs; and the other mailbox.
    async fn find(&self, address: SocketAddr, size: u32) -> io::Result<(Client, String, String)> {
        let mut client = Client::connect(address, None).await?;
        client.run("LOGIN alice wonderland").await?;
        for (source, target) in [("A", "B"), ("B", "A")] {
            let said = client.run(&format!("SELECT {source}{size}")).await?;
            if said.iter().any(|line| *line == format!("* {size} EXISTS")) {
                let next = said
                    .iter()
                    .find_map(|line| line.split("[UIDNEXT ").nth(1)?.split(']').next()?.parse::<u32>().ok());
                let next = next.ok_or_else(|| io::Error::other("no UIDNEXT"))?;
                return Ok((client, format!("{}:{}", next - size, next - 1), format!("{target}{size}")));
            }
        }
        Err(io::Error::other(format!("{size} messages are in neither mailbox: a MOVE before lost some")))
    }
}

/// As a delivery agent does, if faster.
fn deliver(mailbox: &PathBuf, count: u32) -> io::Result<()> {
    let dir = mailbox.join("new");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(mailbox)?);
    for n in 0..count {
        let file = dir.join(format!("1700000000.M{n}P1.bench"));
        std::fs::write(&file, format!("Subject: {n}\r\n\r\n{}\r\n", "text ".repeat(100)))?;
        std::os::unix::fs::chown(&file, Some(owner), None)?;
    }
    Ok(())
}

/// How much memory a gateway takes for a MOVE of 100,000 messages, beyond what it had: of UIDs that are so far apart.
pub async fn memory_of_many(peer: &Peer, apart: u32) -> io::Result<f64> {
    let mut client = Client::open(peer.plain, None, "INBOX").await?;
    client.run("NOOP").await?;
    forget_peak(peer.pid());
    let before = peak_bytes(peer.pid());
    let command = format!("UID MOVE 1:{} Target", apart * MANY);
    let said = timeout(Duration::from_secs(60), client.run(&command)).await??;
    let removed = said.iter().filter(|line| line.ends_with(" EXPUNGE")).count();
    if removed != MANY as usize {
        return Err(io::Error::other(format!("{removed} were removed")));
    }
    let grew = peak_bytes(peer.pid()) - before;
    client.leave().await?;
    Ok(grew as f64)
}
