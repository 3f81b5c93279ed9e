//! A pipe of the kernel's, through which octets go from socket to socket.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Pipes that a thread keeps for the next literal.
const PIPES: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Octets go in only when it is empty: so whatever makes one of its calls wait is the socket.
pub(super) struct Pipe {
    reader: File,
    writer: File,
    held: usize,
}

impl Pipe {
    /// An empty one; `None` where there is none to be had.
    pub(super) fn new() -> Option<Pipe> {
        POOL.with_borrow_mut(Vec::pop).or_else(|| {
            let (reader, writer) = open().ok()?;
            Some(Pipe { reader, writer, held: 0 })
        })
    }

    /// Back to the pool, if it is empty.
    pub(super) fn keep(self) {
        POOL.with_borrow_mut(|pool| {
            if self.held == 0 && pool.len() < PIPES {
                pool.push(self);
            }
        });
    }

    /// Octets that are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `most` octets from a socket, 0 at its end of file.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: u64,
    ) -> Poll<io::Result<usize>> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || splice(from, &self.writer, most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => {
                    self.held += *moved.as_ref().unwrap_or(&0);
                    return Poll::Ready(moved);
                }
            }
        }
    }

    /// Ready when all of it is in the other socket.
    pub(super) fn poll_empty(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || splice(&self.reader, to, self.held)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                moved => self.held = self.held.saturating_sub(moved?),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What is in it, for a memory that can keep it.
    pub(super) fn into_octets(mut self) -> Vec<u8> {
        let mut octets = vec![0; self.held];
        match self.reader.read_exact(&mut octets) {
            Ok(()) => octets,
            Err(_) => Vec::new(),
        }
    }
}

#[cfg(any(target_os = "android", target_os = "linux"))]
fn open() -> io::Result<(File, File)> {
    use rustix::pipe::{PipeFlags, pipe_with};
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((reader.into(), writer.into()))
}

#[cfg(any(target_os = "android", target_os = "linux"))]
fn splice(from: &impl std::os::fd::AsFd, to: &impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    use rustix::pipe::SpliceFlags;
    Ok(rustix::pipe::splice(from, None, to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}

#[cfg(not(any(target_os = "android", target_os = "linux")))]
fn open() -> io::Result<(File, File)> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(any(target_os = "android", target_os = "linux")))]
fn splice<F, T>(_: &F, _: &T, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}
