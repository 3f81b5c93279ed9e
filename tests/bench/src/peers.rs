//! Those who are measured: each a process, pinned to the CPU that it has for itself.

use crate::measure::{cpu_time, private_bytes};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where a peer runs; the load, and what stands behind the peer, have the other CPU.
pub const CPU: usize = 0;
/// See [`CPU`].
pub const OTHER_CPU: usize = 1;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Gateway,
    Haproxy,
    Nginx,
    /// tokio's `copy_bidirectional`.
    Copy,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Gateway, Kind::Haproxy, Kind::Nginx, Kind::Copy];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Gateway => "imapmove",
            Kind::Haproxy => "haproxy",
            Kind::Nginx => "nginx mail",
            Kind::Copy => "tokio copy",
        }
    }
}

/// A running one. It ends when this is dropped, or with this process.
pub struct Peer {
    pub kind: Kind,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    child: Child,
}

/// What all of them need.
pub struct Setting {
    pub dir: PathBuf,
    pub upstream: SocketAddr,
    /// nginx asks it for the upstream's address.
    pub auth: SocketAddr,
}

impl Peer {
    /// Starts one and waits until it listens.
    pub fn start(kind: Kind, setting: &Setting) -> io::Result<Peer> {
        let (plain, tls) = (free_address()?, free_address()?);
        let dir = setting.dir.join(kind.name().replace(' ', "-"));
        fs::create_dir_all(&dir)?;
        let (program, arguments) = match kind {
            Kind::Gateway => gateway(setting, plain, tls),
            Kind::Haproxy => haproxy(&dir, setting, plain, tls)?,
            Kind::Nginx => nginx(&dir, setting, plain, tls)?,
            Kind::Copy => copy(setting, plain, tls)?,
        };
        let log = fs::File::create(dir.join("log"))?;
        let child = pinned(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut peer = Peer { kind, plain, tls, child };
        peer.wait(&dir)?;
        Ok(peer)
    }

    fn wait(&mut self, dir: &Path) -> io::Result<()> {
        let begun = Instant::now();
        while let Err(error) = TcpStream::connect(self.plain).and(TcpStream::connect(self.tls)) {
            if self.child.try_wait()?.is_some() || begun.elapsed() > Duration::from_secs(10) {
                let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("{} does not start: {error}\n{log}", self.kind.name())));
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Used so far, by all threads.
    pub fn cpu_time(&self) -> Duration {
        cpu_time(self.pid())
    }

    /// Octets of user space that are this process's alone.
    pub fn memory(&self) -> u64 {
        private_bytes(self.pid())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `taskset` and `setpriv` become the program, so that its process is the child.
fn pinned(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", &CPU.to_string(), program]);
    command
}

/// An address that nobody listens at, at the moment.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

type Started = (String, Vec<String>);

fn path(dir: &Path, file: &str) -> String {
    dir.join(file).display().to_string()
}

fn program(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("tests/bench/run sets {variable}"))
}

fn gateway(setting: &Setting, plain: SocketAddr, tls: SocketAddr) -> Started {
    let settings = [
        ("upstream", setting.upstream.to_string()),
        ("upstream-tls", "off".into()),
        ("listen", plain.to_string()),
        ("listen-tls", tls.to_string()),
        ("tls-cert", path(&setting.dir, "cert.pem")),
        ("tls-key", path(&setting.dir, "key.pem")),
        ("admin", "off".into()),
        ("max-connections-per-ip", "10000".into()),
        ("max-unauthenticated", "10000".into()),
        ("log-level", "warn".into()),
    ];
    (program("GATEWAY"), settings.map(|(name, value)| format!("--{name}={value}")).into())
}

fn haproxy(dir: &Path, setting: &Setting, plain: SocketAddr, tls: SocketAddr) -> io::Result<Started> {
    let pem = [fs::read(setting.dir.join("cert.pem"))?, fs::read(setting.dir.join("key.pem"))?].concat();
    fs::write(dir.join("both.pem"), pem)?;
    let config = format!(
        "global
  nbthread 1
  maxconn 9200
  maxpipes 500
defaults
  mode tcp
  option splice-request
  option splice-response
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen plain
  bind {plain}
  server upstream {upstream}
listen tls
  bind {tls} ssl crt {pem}
  server upstream {upstream}
",
        upstream = setting.upstream,
        pem = path(dir, "both.pem"),
    );
    fs::write(dir.join("haproxy.cfg"), config)?;
    Ok((program("HAPROXY"), vec!["-db".into(), "-f".into(), path(dir, "haproxy.cfg")]))
}

fn nginx(dir: &Path, setting: &Setting, plain: SocketAddr, tls: SocketAddr) -> io::Result<Started> {
    let config = format!(
        "load_module {module};
daemon off;
master_process off;
pid {pid};
error_log {log} crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 20000; }}
mail {{
  auth_http http://{auth}/;
  imap_capabilities IMAP4rev1 UIDPLUS IDLE LITERAL+;
  proxy_timeout 1h;
  timeout 1h;
  ssl_certificate {cert};
  ssl_certificate_key {key};
  ssl_protocols TLSv1.2 TLSv1.3;
  server {{ listen {plain} backlog=4096; protocol imap; }}
  server {{ listen {tls} ssl backlog=4096; protocol imap; }}
}}
",
        module = program("NGINX_MAIL"),
        pid = path(dir, "pid"),
        log = path(dir, "errors"),
        auth = setting.auth,
        cert = path(&setting.dir, "cert.pem"),
        key = path(&setting.dir, "key.pem"),
    );
    fs::write(dir.join("nginx.conf"), config)?;
    let arguments = ["-p".into(), path(dir, ""), "-c".into(), path(dir, "nginx.conf")];
    Ok((program("NGINX_PROGRAM"), arguments.into()))
}

fn copy(setting: &Setting, plain: SocketAddr, tls: SocketAddr) -> io::Result<Started> {
    let this = std::env::current_exe()?.display().to_string();
    let arguments = [
        "copy".into(),
        setting.upstream.to_string(),
        plain.to_string(),
        tls.to_string(),
        setting.dir.display().to_string(),
    ];
    Ok((this, arguments.into()))
}
