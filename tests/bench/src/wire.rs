//! What a proxy costs that understands nothing: tokio's `copy_bidirectional`, and the relay that delays.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The peer `tokio copy`: in clear and with TLS, until it is killed.
pub async fn copy(upstream: SocketAddr, plain: SocketAddr, tls: SocketAddr, dir: &Path) -> io::Result<()> {
    let acceptor = acceptor(dir)?;
    let (plain, tls) = (TcpListener::bind(plain).await?, TcpListener::bind(tls).await?);
    loop {
        tokio::select! {
            accepted = plain.accept() => {
                let mut client = accepted?.0;
                client.set_nodelay(true)?;
                tokio::spawn(async move {
                    let mut server = connect(upstream).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
            accepted = tls.accept() => {
                let (client, acceptor) = (accepted?.0, acceptor.clone());
                client.set_nodelay(true)?;
                tokio::spawn(async move {
                    let mut client = acceptor.accept(client).await?;
                    let mut server = connect(upstream).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        }
    }
}

fn acceptor(dir: &Path) -> io::Result<TlsAcceptor> {
    let bad = |_| io::Error::other("a certificate and a key in PEM");
    let certificate = CertificateDer::from_pem_file(dir.join("cert.pem")).map_err(bad)?;
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).map_err(bad)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    Ok(TlsAcceptor::from(Arc::new(config.map_err(io::Error::other)?)))
}

async fn connect(upstream: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A wire of some length.
pub struct Relay {
    pub address: SocketAddr,
    round_trips: Arc<AtomicUsize>,
}

impl Relay {
    /// Each octet takes `delay` in each direction.
    pub async fn start(to: SocketAddr, delay: Duration) -> io::Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let relay = Relay { address: listener.local_addr()?, round_trips: Arc::default() };
        let counter = relay.round_trips.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = connect(to).await else { continue };
                let _ = near.set_nodelay(true);
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                let answered = Arc::new(AtomicBool::new(true));
                let (counter, asked) = (counter.clone(), answered.clone());
                tokio::spawn(carry(near_read, far_write, delay, move || {
                    if asked.swap(false, Ordering::Relaxed) {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                }));
                tokio::spawn(carry(far_read, near_write, delay, move || {
                    answered.store(true, Ordering::Relaxed)
                }));
            }
        });
        Ok(relay)
    }

    /// How often something was asked after an answer, in all connections.
    pub fn round_trips(&self) -> usize {
        self.round_trips.load(Ordering::Relaxed)
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    pass: impl Fn() + Send + 'static,
) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    tokio::spawn(async move {
        while let Some((at, octets)) = receiver.recv().await {
            if !delay.is_zero() {
                sleep_until(at).await;
            }
            if to.write_all(&octets).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        pass();
        if sender.send((Instant::now() + delay, buffer[..n].to_vec())).await.is_err() {
            return;
        }
    }
}
