//! One socket, in clear or in TLS.

use crate::tls::TlsStream;
use bytes::{Buf, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// After so much silence the kernel asks whether the peer is still there, and again at this interval
/// (Linux: nine times).
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(300);
/// See [`TCP_KEEP_ALIVE`].
const TCP_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// The kernel takes no more octets for a peer while so many have not been sent (Linux). Else it takes megabytes, and a
/// slow peer takes nothing, as far as can be seen from here, until a good part of them is gone.
const UNSENT: usize = 128 * 1024;
/// A peer must take so many of the last octets,
const LAST_PIECE: usize = 16 * 1024;
/// and the next ones, each within this time.
const LAST_WRITE: Duration = Duration::from_secs(10);
/// After our end of the stream, the peer's is awaited so long and no longer.
const LINGER: Duration = Duration::from_secs(2);
/// Of what the peer still sends in that time, so many octets are read and thrown away.
const LINGER_OCTETS: usize = 1024 * 1024;

/// One leg of a connection.
pub(super) struct Leg {
    stream: Stream,
    /// Nothing more will be read: end of file, or no stream at all.
    pub(super) ended: bool,
    /// There may be octets that were taken for writing and are not on their way yet.
    pub(super) unflushed: bool,
}

enum Stream {
    Gone,
    Plain(TcpStream),
    /// Boxed: its size is not kept by the legs in clear.
    Tls(Box<TlsStream>),
}

impl Leg {
    /// A socket in clear.
    pub(super) fn plain(stream: TcpStream) -> Leg {
        // Without it, a short command after another waits for the peer's delayed acknowledgement, 40 ms.
        let _ = stream.set_nodelay(true);
        // A peer that vanished without a word does not hold its session for ever.
        let keep_alive = TcpKeepalive::new().with_time(TCP_KEEP_ALIVE).with_interval(TCP_KEEP_ALIVE_INTERVAL);
        let socket = SockRef::from(&stream);
        let _ = socket.set_tcp_keepalive(&keep_alive);
        #[cfg(any(target_os = "android", target_os = "linux"))]
        let _ = socket.set_tcp_notsent_lowat(UNSENT as u32);
        Leg { stream: Stream::Plain(stream), ended: false, unflushed: false }
    }

    /// A socket after its handshake. The handshake's last records may still wait.
    pub(super) fn tls(stream: TlsStream) -> Leg {
        Leg { stream: Stream::Tls(Box::new(stream)), ended: false, unflushed: true }
    }

    /// No socket (any more).
    pub(super) fn gone() -> Leg {
        Leg { stream: Stream::Gone, ended: true, unflushed: false }
    }

    /// Takes the socket out of a leg in clear and leaves it gone.
    pub(super) fn take_plain(&mut self) -> Option<TcpStream> {
        match std::mem::replace(self, Leg::gone()).stream {
            Stream::Plain(stream) => Some(stream),
            _ => None,
        }
    }

    /// The socket of a leg in clear.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        match &self.stream {
            Stream::Plain(stream) => Some(stream),
            _ => None,
        }
    }

    /// Octets read into the buffer; 0 is the end of file, with or without TLS's close_notify.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let read = match &mut self.stream {
            Stream::Gone => return Poll::Ready(Ok(0)),
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Stream::Tls(stream) => {
                // Reading can call for an answer, as a key update does.
                self.unflushed = true;
                Pin::new(stream).poll_read(cx, &mut buffer)
            }
        };
        match ready!(read) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(buffer.filled().len())),
        }
    }

    /// As many of the octets as are taken now, of `first` and then of `second`. What is written to no socket is gone.
    pub(super) fn poll_write_both(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        second: &[u8],
    ) -> Poll<io::Result<usize>> {
        let both = [IoSlice::new(first), IoSlice::new(second)];
        let octets = if second.is_empty() { &both[..1] } else { &both[..] };
        let written = match &mut self.stream {
            Stream::Gone => return Poll::Ready(Ok(first.len() + second.len())),
            Stream::Plain(stream) => ready!(Pin::new(stream).poll_write_vectored(cx, octets))?,
            Stream::Tls(stream) => {
                self.unflushed = true;
                ready!(Pin::new(stream).poll_write_vectored(cx, octets))?
            }
        };
        match written {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(Ok(written)),
        }
    }

    /// Ready when the output is empty and on its way.
    pub(super) fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        output: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        while !output.is_empty() {
            let written = ready!(self.poll_write_both(cx, output, &[]))?;
            output.advance(written);
        }
        if let (true, Stream::Tls(stream)) = (self.unflushed, &mut self.stream) {
            ready!(Pin::new(stream).poll_flush(cx))?;
        }
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Writes the rest, says that it was the last, and waits for the peer to say the same: a socket closed with
    /// octets unread is reset, and a reset destroys what the peer has not read yet.
    pub(super) async fn farewell(&mut self, rest: BytesMut) {
        match &mut self.stream {
            Stream::Gone => {}
            Stream::Plain(stream) => farewell(stream, &rest, self.ended).await,
            Stream::Tls(stream) => farewell(stream, &rest, self.ended).await,
        }
        *self = Leg::gone();
    }
}

/// Whatever fails here, the connection is over.
async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, rest: &[u8], ended: bool) {
    for piece in rest.chunks(LAST_PIECE) {
        let taken = async {
            stream.write_all(piece).await?;
            stream.flush().await
        };
        let Ok(Ok(())) = timeout(LAST_WRITE, taken).await else { return };
    }
    let Ok(Ok(())) = timeout(LAST_WRITE, stream.shutdown()).await else { return };
    if !ended {
        let mut ignored = tokio::io::sink();
        let mut rest = stream.take(LINGER_OCTETS as u64);
        let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut ignored)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    const REST: usize = 100_000;

    /// How many of the last octets a peer gets that takes so many every second.
    async fn taken(each_second: usize) -> usize {
        let (mut near, mut far) = tokio::io::duplex(each_second);
        let peer = async {
            let (mut taken, mut buffer) = (0, vec![0; each_second]);
            while let Ok(octets @ 1..) = far.read(&mut buffer).await {
                taken += octets;
                sleep(Duration::from_secs(1)).await;
            }
            taken
        };
        let ours = async {
            farewell(&mut near, &vec![b'x'; REST], true).await;
            drop(near);
        };
        tokio::join!(ours, peer).1
    }

    #[tokio::test(start_paused = true)]
    async fn wire_11_a_slow_peer_gets_the_last_octets_too() {
        assert_eq!(taken(2_000).await, REST, "it takes 50 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_next_to_nothing_is_not_waited_for() {
        assert!(taken(100).await < 2 * LAST_PIECE);
    }
}
