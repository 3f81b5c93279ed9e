//! A client that does as little as it can.

use bytes::BytesMut;
use rustix::net::{RecvFlags, recv};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Where octets can be thrown away unread.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Stream for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Stream for TlsStream<TcpStream> {}

/// One connection.
pub struct Client {
    stream: Box<dyn Stream>,
    /// Read and not taken, from the beginning.
    buffer: BytesMut,
    commands: u32,
}

impl Client {
    /// Connects and is greeted.
    pub async fn connect(address: SocketAddr, tls: Option<&TlsConnector>) -> io::Result<Client> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connect(ServerName::from(address.ip()), stream).await?),
        };
        let mut client = Client { stream, buffer: BytesMut::new(), commands: 0 };
        let greeting = client.line().await?;
        if greeting.starts_with("* OK") { Ok(client) } else { Err(io::Error::other(greeting)) }
    }

    /// Connects, logs in and opens a mailbox.
    pub async fn open(address: SocketAddr, tls: Option<&TlsConnector>, mailbox: &str) -> io::Result<Client> {
        let mut client = Client::connect(address, tls).await?;
        client.run("LOGIN alice wonderland").await?;
        client.run(&format!("SELECT {mailbox}")).await?;
        Ok(client)
    }

    /// Sends a command; its tag.
    pub async fn send(&mut self, command: &str) -> io::Result<String> {
        self.commands += 1;
        let tag = format!("c{}", self.commands);
        self.write(format!("{tag} {command}\r\n").as_bytes()).await?;
        Ok(tag)
    }

    pub async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets).await?;
        self.stream.flush().await
    }

    /// A command and its answer, which must be OK: the lines of data.
    pub async fn run(&mut self, command: &str) -> io::Result<Vec<String>> {
        let tag = self.send(command).await?;
        let mut data = Vec::new();
        loop {
            let line = self.line().await?;
            match line.strip_prefix(&tag).map(|rest| rest.starts_with(" OK")) {
                Some(true) => return Ok(data),
                Some(false) => return Err(io::Error::other(format!("{command}: {line}"))),
                None => data.push(line),
            }
        }
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|c| *c == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_string());
            }
            self.buffer.reserve(4096);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Takes that many octets, whatever they are, and then the OK.
    pub async fn take(&mut self, octets: usize, tag: &str, scratch: &mut [u8]) -> io::Result<()> {
        let taken = self.buffer.split_to(octets.min(self.buffer.len()));
        let mut left = octets - taken.len();
        while left > 0 {
            let most = left.min(scratch.len());
            let taken = match self.stream.socket() {
                // Without a copy: the less the load costs, the more of what is measured is the peer.
                Some(socket) => discard(socket, &mut scratch[..most]).await?,
                None => self.stream.read(&mut scratch[..most]).await?,
            };
            match taken {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => left -= n,
            }
        }
        let line = self.line().await?;
        if line.starts_with(&format!("{tag} OK")) { Ok(()) } else { Err(io::Error::other(line)) }
    }

    /// Begins to idle.
    pub async fn idle(&mut self) -> io::Result<()> {
        self.send("IDLE").await?;
        self.line().await.map(drop)
    }

    /// Ends to idle.
    pub async fn done(&mut self) -> io::Result<()> {
        self.write(b"DONE\r\n").await?;
        self.line().await.map(drop)
    }

    /// Logs out and waits for the end.
    pub async fn leave(mut self) -> io::Result<()> {
        self.run("LOGOUT").await?;
        let _ = self.stream.read(&mut [0; 64]).await;
        Ok(())
    }
}

async fn discard(socket: &TcpStream, scratch: &mut [u8]) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || Ok(recv(socket, &mut *scratch, RecvFlags::TRUNC)?.0)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            taken => return taken,
        }
    }
}

/// TLS 1.3 with AES-128-GCM, each time from the beginning, and believing everything: all get the same work, and little
/// of it is the client's.
pub fn connector() -> TlsConnector {
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believes(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct Believes(Arc<CryptoProvider>);

impl ServerCertVerifier for Believes {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
