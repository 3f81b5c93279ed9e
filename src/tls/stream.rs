//! TLS on a socket, with no buffer of its own while nothing is under way: rustls's unbuffered interface decrypts and
//! encrypts in two that all connections of a thread share. Above its usual interface, as tokio-rustls is, each
//! connection keeps 4 KiB for life, and no more is read at once.

use bytes::{Buf, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Octets of records that are read at once, and of clear text that is encrypted for one write. The largest record has
/// a quarter of it; a handshake's message that is larger is refused.
const BATCH: usize = 64 * 1024;
/// What TLS adds to a batch, and all that it says for itself in between.
const OVERHEAD: usize = 8 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { incoming: vec![0; BATCH].into(), outgoing: vec![0; BATCH + OVERHEAD].into() });
}

/// Records on their way in and out. Nothing stays here when a call returns.
struct Scratch {
    incoming: Box<[u8]>,
    outgoing: Box<[u8]>,
}

/// A socket in TLS.
pub struct TlsStream {
    socket: TcpStream,
    connection: Connection,
    /// The beginning of a record, or of a handshake's message, whose end has not come.
    partial: Vec<u8>,
    /// In clear, for a reader whose buffer was too small.
    clear: BytesMut,
    /// Records that the socket has not taken.
    unsent: BytesMut,
    peer_closed: bool,
    said_goodbye: bool,
    /// rustls has met an error, and is not to be asked again.
    broken: bool,
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What is said as soon as TLS allows it.
#[derive(Clone, Copy)]
enum Say<'a> {
    Nothing,
    Octets(&'a [u8]),
    /// close_notify.
    Goodbye,
}

/// What comes of a turn of rustls.
enum Turn {
    Again,
    /// The peer's close_notify.
    PeerClosed,
    /// Until the peer has said more, or we have.
    Done,
}

/// Where records go that are to be sent.
struct Outgoing<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl Outgoing<'_> {
    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.len..]
    }
}

impl Connection {
    fn state(&self) -> &CommonState {
        match self {
            Connection::Client(connection) => connection,
            Connection::Server(connection) => connection,
        }
    }

    /// Takes one turn. Says how many octets of `incoming` are done with.
    fn turn(
        &mut self,
        incoming: &mut [u8],
        say: &mut Say<'_>,
        hear: &mut impl FnMut(&[u8]),
        outgoing: &mut Outgoing<'_>,
    ) -> (usize, Result<Turn, Error>) {
        match self {
            Connection::Client(c) => take(c.process_tls_records(incoming), say, hear, outgoing),
            Connection::Server(c) => take(c.process_tls_records(incoming), say, hear, outgoing),
        }
    }
}

fn take<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    say: &mut Say<'_>,
    hear: &mut impl FnMut(&[u8]),
    outgoing: &mut Outgoing<'_>,
) -> (usize, Result<Turn, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let turn = state.and_then(|state| match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                discard += record.discard;
                hear(record.payload);
            }
            Ok(Turn::Again)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            outgoing.len += data.encode(outgoing.room()).map_err(|e| too_large(&e))?;
            Ok(Turn::Again)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Turn::Again)
        }
        ConnectionState::PeerClosed => Ok(Turn::PeerClosed),
        ConnectionState::WriteTraffic(mut traffic) => {
            let said = match std::mem::replace(say, Say::Nothing) {
                Say::Nothing => Ok(0),
                Say::Octets(octets) => traffic.encrypt(octets, outgoing.room()),
                Say::Goodbye => traffic.queue_close_notify(outgoing.room()),
            };
            outgoing.len += said.map_err(|e| too_large(&e))?;
            Ok(Turn::Done)
        }
        // A handshake that waits for the peer, or both have closed. Early data is never accepted.
        _ => Ok(Turn::Done),
    });
    (discard, turn)
}

fn too_large(error: &dyn std::error::Error) -> Error {
    Error::General(error.to_string())
}

impl TlsStream {
    /// The handshake of a client's.
    pub async fn accept(config: Arc<ServerConfig>, socket: TcpStream) -> io::Result<TlsStream> {
        let connection = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        TlsStream::shake_hands(Connection::Server(connection), socket).await
    }

    /// The handshake with a server of that name.
    pub async fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        socket: TcpStream,
    ) -> io::Result<TlsStream> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        TlsStream::shake_hands(Connection::Client(connection), socket).await
    }

    async fn shake_hands(connection: Connection, socket: TcpStream) -> io::Result<TlsStream> {
        let mut stream = TlsStream {
            socket,
            connection,
            partial: Vec::new(),
            clear: BytesMut::new(),
            unsent: BytesMut::new(),
            peer_closed: false,
            said_goodbye: false,
            broken: false,
        };
        // A client speaks first.
        poll_fn(|cx| stream.poll_say(cx, &[Say::Nothing])).await?;
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        Ok(stream)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_unsent(cx))?;
            if !self.state().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_hear(cx, &mut []))?;
            if self.peer_closed {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// What rustls knows of the connection.
    pub fn state(&self) -> &CommonState {
        self.connection.state()
    }

    /// Reads once and decrypts. Says how many octets came into the buffer.
    fn poll_hear(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let held = self.partial.len();
            let mut read = ReadBuf::new(&mut scratch.incoming[held..]);
            if read.remaining() == 0 {
                return Poll::Ready(Err(invalid(Error::General("a message of TLS is too large".into()))));
            }
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
            let end = held + read.filled().len();
            if end == held {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            scratch.incoming[..held].copy_from_slice(&self.partial);
            self.partial = Vec::new();
            let (mut filled, clear) = (0, &mut self.clear);
            let mut hear = |octets: &[u8]| {
                let (now, later) = octets.split_at(octets.len().min(buffer.len() - filled));
                buffer[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                clear.extend_from_slice(later);
            };
            let mut outgoing = Outgoing { buffer: &mut scratch.outgoing, len: 0 };
            let incoming = &mut scratch.incoming[..end];
            let (connection, mut say) = (&mut self.connection, Say::Nothing);
            let taken = turns(connection, incoming, &mut say, &mut hear, &mut outgoing);
            let (done, closed) = taken.map_err(|error| {
                self.broken = true;
                // The alert, which tells the peer why.
                if self.unsent.is_empty() {
                    let _ = self.socket.try_write(&outgoing.buffer[..outgoing.len]);
                }
                invalid(error)
            })?;
            self.peer_closed |= closed;
            self.partial = scratch.incoming[done..end].to_vec();
            self.unsent.extend_from_slice(&outgoing.buffer[..outgoing.len]);
            Poll::Ready(Ok(filled))
        })
    }

    /// Encrypts and writes once. What the socket does not take waits in `unsent`, which was empty.
    fn poll_say(&mut self, cx: &mut Context<'_>, what: &[Say<'_>]) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut outgoing = Outgoing { buffer: &mut scratch.outgoing, len: 0 };
            for say in what {
                let (mut say, clear) = (*say, &mut self.clear);
                let mut hear = |octets: &[u8]| clear.extend_from_slice(octets);
                let (done, closed) =
                    turns(&mut self.connection, &mut self.partial, &mut say, &mut hear, &mut outgoing)
                        .inspect_err(|_| self.broken = true)
                        .map_err(invalid)?;
                if let Say::Octets(_) = say {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                self.partial.drain(..done);
                self.peer_closed |= closed;
            }
            let records = &outgoing.buffer[..outgoing.len];
            let written = match records {
                [] => 0,
                _ => match Pin::new(&mut self.socket).poll_write(cx, records) {
                    Poll::Ready(written) => written?,
                    Poll::Pending => 0,
                },
            };
            self.unsent.extend_from_slice(&records[written..]);
            Poll::Ready(Ok(()))
        })
    }

    /// Ready when the socket has taken all records.
    fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.unsent.advance(written),
            }
        }
        self.unsent = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

/// Turns until there is no more to do. Says how many octets of `incoming` are done with, and whether the peer has closed.
/// Behind an error, what is to be said of it is in `outgoing`.
fn turns(
    connection: &mut Connection,
    incoming: &mut [u8],
    say: &mut Say<'_>,
    hear: &mut impl FnMut(&[u8]),
    outgoing: &mut Outgoing<'_>,
) -> Result<(usize, bool), Error> {
    let (mut done, mut closed) = (0, false);
    loop {
        let (discard, turn) = connection.turn(&mut incoming[done..], say, hear, outgoing);
        done += discard;
        match turn {
            Ok(Turn::Again) => {}
            Ok(Turn::PeerClosed) => closed = true,
            Ok(Turn::Done) => return Ok((done, closed)),
            Err(error) => {
                // No turn more: rustls may panic where it reads on behind an error.
                while connection.state().wants_write()
                    && let (discard, Ok(Turn::Again)) =
                        connection.turn(&mut incoming[done..], say, hear, outgoing)
                {
                    done += discard;
                }
                return Err(error);
            }
        }
    }
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for TlsStream {
    /// At the end of the stream without a close_notify, [`io::ErrorKind::UnexpectedEof`].
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        while stream.clear.is_empty() && !stream.peer_closed {
            let heard = ready!(stream.poll_hear(cx, buffer.initialize_unfilled()))?;
            buffer.advance(heard);
            if heard > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let now = stream.clear.len().min(buffer.remaining());
        buffer.put_slice(&stream.clear.split_to(now));
        if stream.clear.is_empty() {
            stream.clear = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(octets)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        ready!(stream.poll_unsent(cx))?;
        let (first, second) = (octets.first().map_or(&[][..], |o| o), octets.get(1).map_or(&[][..], |o| o));
        let first = &first[..first.len().min(BATCH)];
        let second = &second[..second.len().min(BATCH - first.len())];
        let both = [Say::Octets(first), Say::Octets(second)];
        ready!(stream.poll_say(cx, if second.is_empty() { &both[..1] } else { &both }))?;
        Poll::Ready(Ok(first.len() + second.len()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_unsent(cx)
    }

    /// close_notify, then the end of the stream.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(stream.poll_unsent(cx))?;
        if !std::mem::replace(&mut stream.said_goodbye, true) {
            ready!(stream.poll_say(cx, &[Say::Goodbye]))?;
            ready!(stream.poll_unsent(cx))?;
        }
        Pin::new(&mut stream.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::RootCertStore;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::version::{TLS12, TLS13};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream as Peer;

    type Version = &'static rustls::SupportedProtocolVersion;

    const SIZE: usize = 400_000;

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let near = TcpStream::connect(address).await.expect("connects");
        // Somebody else's, who came to an old port, is not taken.
        loop {
            let (far, from) = listener.accept().await.expect("accepts");
            if Ok(from) == near.local_addr().map_err(|_| ()) {
                return (near, far);
            }
        }
    }

    fn configs(version: Version) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let made = generate_simple_self_signed(["server".to_string()]);
        let CertifiedKey { cert, signing_key } = made.expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a certificate");
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .and_then(|c| c.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key));
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let client = client.expect("a version").with_root_certificates(roots).with_no_client_auth();
        (Arc::new(server.expect("a key")), Arc::new(client))
    }

    fn name() -> ServerName<'static> {
        ServerName::try_from("server").expect("a name")
    }

    /// The gateway's end, and another implementation's.
    async fn streams(version: Version) -> (TlsStream, Peer<TcpStream>) {
        let ((near, far), (server, client)) = (sockets().await, configs(version));
        let (ours, peer) =
            tokio::join!(TlsStream::accept(server, near), TlsConnector::from(client).connect(name(), far));
        (ours.expect("a handshake"), peer.expect("a handshake"))
    }

    fn octets() -> Vec<u8> {
        (0..SIZE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    /// Everything comes, with reads and writes of that size.
    async fn both_ways(version: Version, piece: usize) {
        let (mut ours, mut peer) = streams(version).await;
        let size = SIZE.min(1_000 * piece);
        let (there, back) = (&octets()[..size], &octets()[..size]);
        let ours = async {
            let (mut got, mut buffer) = (Vec::new(), vec![0; piece]);
            while got.len() < size {
                let read = ours.read(&mut buffer).await.expect("reads");
                got.extend_from_slice(&buffer[..read]);
            }
            for piece in back.chunks(piece) {
                ours.write_all(piece).await.expect("writes");
            }
            ours.flush().await.expect("flushes");
            assert!(got == there);
            ours
        };
        let peer = async {
            peer.write_all(there).await.expect("writes");
            // It asks for an answer in kind, which goes out in front of what comes next.
            if version == &TLS13 {
                peer.get_mut().1.refresh_traffic_keys().expect("a key update");
            }
            peer.flush().await.expect("flushes");
            let mut got = vec![0; size];
            peer.read_exact(&mut got).await.expect("reads");
            assert!(got == back);
            peer
        };
        let (ours, _peer) = tokio::join!(ours, peer);
        assert_eq!((ours.partial.capacity(), ours.clear.capacity(), ours.unsent.capacity()), (0, 0, 0));
    }

    #[tokio::test]
    async fn octets_pass_both_ways_in_pieces_of_any_size_and_nothing_is_kept() {
        for version in [&TLS12, &TLS13] {
            for piece in [7, 5_000, 16_384, 65_536, 200_000] {
                both_ways(version, piece).await;
            }
        }
    }

    #[tokio::test]
    async fn records_may_come_octet_by_octet() {
        for version in [&TLS12, &TLS13] {
            let ((near, relay), (far, mut other), (server, client)) =
                (sockets().await, sockets().await, configs(version));
            near.set_nodelay(true).expect("a socket");
            other.set_nodelay(true).expect("a socket");
            let (mut from_server, mut to_server) = relay.into_split();
            let (mut from_client, mut to_client) = other.split();
            let slowly = async {
                while let Ok(octet) = from_client.read_u8().await {
                    to_server.write_u8(octet).await.expect("writes");
                    tokio::task::yield_now().await;
                }
                to_server.shutdown().await.expect("shuts down");
            };
            let quickly = async { copy(&mut from_server, &mut to_client).await.expect("copies") };
            let ours = async {
                let mut ours = TlsStream::accept(server, near).await.expect("a handshake");
                let mut got = Vec::new();
                ours.read_to_end(&mut got).await.expect("reads to the close_notify");
                ours.write_all(&got).await.expect("writes");
                ours.shutdown().await.expect("shuts down");
            };
            let peer = async {
                let mut peer = TlsStream::connect(client, name(), far).await.expect("a handshake");
                peer.write_all(&octets()[..20_000]).await.expect("writes");
                peer.shutdown().await.expect("shuts down");
                let mut got = Vec::new();
                peer.read_to_end(&mut got).await.expect("reads");
                assert!(got == octets()[..20_000]);
            };
            tokio::join!(slowly, quickly, ours, peer);
        }
    }

    #[tokio::test]
    async fn an_end_without_close_notify_is_told_from_one_with_it() {
        let (mut ours, mut peer) = streams(&TLS13).await;
        peer.write_all(b"last").await.expect("writes");
        peer.shutdown().await.expect("shuts down");
        let mut got = Vec::new();
        assert_eq!(ours.read_to_end(&mut got).await.expect("reads"), 4);
        // We may speak on.
        ours.write_all(b"more").await.expect("writes");
        ours.shutdown().await.expect("shuts down");
        assert_eq!(peer.read_to_end(&mut got).await.expect("reads"), 4);

        let (mut ours, peer) = streams(&TLS13).await;
        peer.into_inner().0.shutdown().await.expect("shuts down");
        assert_eq!(ours.read_u8().await.expect_err("no octet").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn who_breaks_the_protocol_is_told_why() {
        let (mut ours, peer) = streams(&TLS13).await;
        let (mut socket, mut session) = peer.into_inner();
        socket.write_all(&[23, 3, 3, 0, 32]).await.expect("writes");
        socket.write_all(&[0; 32]).await.expect("writes");
        assert_eq!(ours.read_u8().await.expect_err("no octet").kind(), io::ErrorKind::InvalidData);
        let mut alert = [0; 512];
        let octets = socket.read(&mut alert).await.expect("reads");
        session.read_tls(&mut &alert[..octets]).expect("reads");
        let told = session.process_new_packets().expect_err("an alert");
        assert_eq!(told, Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
    }

    /// Passes on what comes, but for one octet.
    async fn corrupt(
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        place: usize,
        mask: u8,
    ) {
        let (mut buffer, mut seen) = (vec![0; 4096], 0);
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if let Some(octet) = place.checked_sub(seen).and_then(|at| buffer[..read].get_mut(at)) {
                *octet ^= mask;
            }
            seen += read;
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    }

    /// All that one of two says to the other, until that one has an error or the end.
    async fn converse(stream: io::Result<TlsStream>) {
        let Ok(mut stream) = stream else { return };
        let _ = stream.write_all(b"a line\r\n").await;
        let _ = stream.flush().await;
        let _ = stream.read(&mut [0; 100]).await;
        let _ = stream.write_all(b"more").await;
        // To read on behind that is an error in a debug build of rustls.
        let _ = stream.shutdown().await;
    }

    #[tokio::test]
    async fn fault_5_a_corrupted_octet_anywhere_is_an_error_and_no_panic() {
        for version in [&TLS12, &TLS13] {
            let (server, client) = configs(version);
            for place in (0..1_500).step_by(3) {
                let (near, far) = (sockets().await, sockets().await);
                let mask = 1 << (place % 8);
                let ((near, one), (far, other)) = (near, far);
                let ((one_reads, one_writes), (other_reads, other_writes)) =
                    (one.into_split(), other.into_split());
                let from_server = place % 2 == 0;
                let [at_server, at_client] =
                    [from_server, !from_server].map(|this| if this { place / 2 } else { usize::MAX });
                let all = async {
                    tokio::join!(
                        async { converse(TlsStream::accept(server.clone(), near).await).await },
                        async { converse(TlsStream::connect(client.clone(), name(), far).await).await },
                        corrupt(one_reads, other_writes, at_server, mask),
                        corrupt(other_reads, one_writes, at_client, mask),
                    );
                };
                // Where a length was made longer, each waits for the other.
                let _ = timeout(Duration::from_millis(100), all).await;
            }
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_owed_no_more_than_a_batch() {
        let (mut ours, mut peer) = streams(&TLS13).await;
        let octets = octets();
        let mut written = 0;
        let full = poll_fn(|cx| {
            while let Poll::Ready(more) = Pin::new(&mut ours).poll_write(cx, &octets) {
                written += more.expect("writes");
            }
            Poll::Ready(ours.unsent.len())
        });
        let unsent = full.await;
        assert!(unsent > 0 && unsent <= BATCH + OVERHEAD, "{unsent}");
        let rest = async { ours.flush().await.expect("flushes") };
        let mut got = vec![0; written];
        let read = async { peer.read_exact(&mut got).await.expect("reads") };
        tokio::join!(rest, read);
        assert!(got.chunks(BATCH).all(|batch| batch == &octets[..batch.len()]));
    }
}
