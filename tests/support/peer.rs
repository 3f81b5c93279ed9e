//! The gateway between two peers that say what a test tells them, in clear or in TLS.

#![allow(dead_code, reason = "each test crate that takes this in uses a part of it")]

use imapmove::config::Config;
use imapmove::proxy::Proxy;
use imapmove::shared::Signal;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate authority made for one test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate with its key, in files that are gone with it.
pub struct Identity {
    pub cert: String,
    pub key: String,
    _folder: TempDir,
}

impl Authority {
    /// With a name that no other authority has, nor any certificate: two of the same name would pass for each other
    /// until a signature is looked at.
    pub fn new() -> Authority {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut params = CertificateParams::new(Vec::new()).expect("no names are legal");
        let name = format!("authority {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        Authority { issuer: issuer.expect("a certificate"), folder: tempfile::tempdir().expect("a folder") }
    }

    /// The authority's own certificate.
    pub fn file(&self) -> String {
        write(&self.folder, "ca.pem", &self.issuer.pem())
    }

    pub fn issue(&self, name: &str) -> Identity {
        self.issue_with(name, |_| {})
    }

    /// A certificate with something unusual in it.
    pub fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_string()]).expect("a legal name");
        change(&mut params);
        Identity::new(&params.signed_by(&key, &self.issuer).expect("a certificate").pem(), &key)
    }
}

fn write(folder: &TempDir, name: &str, content: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, content).expect("writes");
    path.to_str().expect("text").to_string()
}

impl Identity {
    fn new(cert: &str, key: &KeyPair) -> Identity {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (write(&folder, "cert.pem", cert), write(&folder, "key.pem", &key.serialize_pem()));
        Identity { cert, key, _folder: folder }
    }

    /// A certificate signed by no authority but itself, and marked as one: what `openssl req -x509` makes.
    pub fn self_signed(name: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_string()]).expect("a legal name");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Identity::new(&params.self_signed(&key).expect("a certificate").pem(), &key)
    }

    /// A TLS server with this certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        let chain = CertificateDer::pem_file_iter(&self.cert).expect("reads").collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain.expect("PEM"), key);
        TlsAcceptor::from(Arc::new(config.expect("a key of this certificate")))
    }
}

/// What a test's mail client wants of TLS.
#[derive(Clone)]
pub struct Trust {
    pub ca: CertificateDer<'static>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    pub alpn: Vec<Vec<u8>>,
}

impl Trust {
    pub fn of(authority: &Authority) -> Trust {
        Trust { ca: authority.issuer.der().clone(), versions: vec![&TLS12, &TLS13], alpn: Vec::new() }
    }

    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).expect("a certificate");
        let config = ClientConfig::builder_with_protocol_versions(&self.versions);
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = self.alpn.clone();
        TlsConnector::from(Arc::new(config))
    }
}

/// A gateway in this process. Its task ends with the test's runtime.
pub struct Gateway {
    pub plain: Option<SocketAddr>,
    pub tls: Option<SocketAddr>,
    /// Dropped, it is a signal to drain.
    signals: mpsc::Sender<Signal>,
    sessions_cut: JoinHandle<usize>,
}

impl Gateway {
    pub async fn start(upstream: SocketAddr, settings: &[(&'static str, &str)]) -> Gateway {
        let upstream = upstream.to_string();
        let ours = [("listen", "127.0.0.1:0"), ("admin", "off"), ("drain-grace", "0s")];
        let ours = [&[("upstream", upstream.as_str())], &ours[..]].concat();
        let config = Config::with(&[&ours, settings].concat()).expect("good settings");
        let proxy = Proxy::bind(config).await.expect("binds");
        let (plain, tls) = (proxy.address(), proxy.tls_address());
        let (signals, receiver) = mpsc::channel(2);
        Gateway { plain, tls, signals, sessions_cut: tokio::spawn(proxy.run(receiver)) }
    }

    /// What SIGTERM does.
    pub async fn signal(&self) {
        self.signals.send(Signal::Stop).await.expect("the gateway runs");
    }

    /// Waits for the end of a gateway that drains. Says how many sessions were cut.
    pub async fn end(self) -> usize {
        timeout(PATIENCE, self.sessions_cut).await.expect("an end in time").expect("no panic")
    }

    pub async fn connect(&self) -> Peer {
        Peer::plain(TcpStream::connect(self.plain.expect("listens")).await.expect("connects"))
    }

    /// A connection that begins with TLS.
    pub async fn connect_tls(&self, trust: &Trust) -> Peer {
        let stream = TcpStream::connect(self.tls.expect("listens with TLS")).await.expect("connects");
        Peer::plain(stream).into_tls_client(trust).await.expect("a handshake")
    }
}

/// Where the gateway finds its upstream.
pub struct Upstream(pub TcpListener);

impl Upstream {
    pub async fn new() -> Upstream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
        Upstream(socket.listen(4_096).expect("listens"))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("bound")
    }

    /// Whoever connects next, at whatever time.
    pub async fn accept_any(&self) -> Peer {
        Peer::plain(self.0.accept().await.expect("accepts").0)
    }

    /// The gateway's connection.
    pub async fn accept(&self) -> Peer {
        let accepted = timeout(PATIENCE, self.0.accept()).await.expect("the gateway connects in time");
        Peer::plain(accepted.expect("accepts").0)
    }
}

/// The test's end of a connection with the gateway, which reads one octet at a time: nothing is read ahead of a
/// handshake.
pub struct Peer {
    socket: Socket,
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<dyn Stream>),
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Peer {
    pub fn plain(stream: TcpStream) -> Peer {
        Peer { socket: Socket::Plain(stream) }
    }

    pub fn stream(&mut self) -> &mut dyn Stream {
        match &mut self.socket {
            Socket::Plain(stream) => stream,
            Socket::Tls(stream) => stream,
        }
    }

    pub async fn send(&mut self, octets: impl AsRef<[u8]>) {
        let stream = self.stream();
        let sent = async {
            stream.write_all(octets.as_ref()).await?;
            stream.flush().await
        };
        timeout(PATIENCE, sent).await.expect("the gateway reads in time").expect("sends");
    }

    /// One line without its CRLF; what there was before the end, if the gateway closes.
    pub async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            match timeout(PATIENCE, self.stream().read_u8()).await.expect("an answer in time") {
                Ok(octet) => line.push(octet),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => panic!("the connection broke: {error}"),
            }
        }
        String::from_utf8(line).expect("text").trim_end().to_string()
    }

    /// One line without its CRLF, at whatever time; nothing at the end of the stream, or if it breaks.
    pub async fn line_or_end(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(self.stream().read_u8().await.ok()?);
        }
        Some(String::from_utf8(line).expect("text").trim_end().to_string())
    }

    pub async fn expect(&mut self, line: &str) {
        assert_eq!(self.line().await, line);
    }

    /// The first line that begins so; what comes before it is of no interest.
    pub async fn until(&mut self, start: &str) -> String {
        loop {
            let line = self.line().await;
            assert!(!line.is_empty(), "the stream ended before {start:?}");
            if line.starts_with(start) {
                return line;
            }
        }
    }

    /// All that still comes, up to the end of the stream.
    pub async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, self.stream().read_to_end(&mut rest)).await.expect("an end in time");
        // A TLS stream may end without a farewell where the other side refuses to go on.
        assert!(
            read.is_ok_and(|_| true) || matches!(self.socket, Socket::Tls(_)),
            "the connection was reset"
        );
        String::from_utf8(rest).expect("text")
    }

    /// Goes away so that the gateway's next write to this peer fails.
    pub fn reset(self) {
        let Socket::Plain(stream) = self.socket else { panic!("only in clear") };
        stream.set_zero_linger().expect("a socket option");
    }

    pub async fn into_tls_server(self, identity: &Identity) -> io::Result<Peer> {
        let Socket::Plain(stream) = self.socket else { panic!("TLS inside TLS") };
        let accepted =
            timeout(PATIENCE, identity.acceptor().accept(stream)).await.expect("a handshake in time");
        accepted.map(|stream| Peer { socket: Socket::Tls(Box::new(stream)) })
    }

    pub async fn into_tls_client(self, trust: &Trust) -> io::Result<Peer> {
        let Socket::Plain(stream) = self.socket else { panic!("TLS inside TLS") };
        let name = ServerName::try_from("gateway.test").expect("a name");
        let connected = trust.connector().connect(name, stream);
        let connected = timeout(PATIENCE, connected).await.expect("a handshake in time");
        connected.map(|stream| Peer { socket: Socket::Tls(Box::new(stream)) })
    }

    /// Both halves, for octets that go both ways at once.
    pub fn into_stream(self) -> Box<dyn Stream> {
        match self.socket {
            Socket::Plain(stream) => Box::new(stream),
            Socket::Tls(stream) => stream,
        }
    }
}
