//! Octets of a large literal, from one socket in clear to the other without a way through this process (Linux).

use super::Connection;
use super::pipe::Pipe;
use crate::imap::Side;
use std::io;
use std::task::{Context, Poll};

/// A literal of which so many octets are still to come is worth the calls that this takes.
const LARGE_LITERAL: u64 = 32 * 1024;

/// The large literals of one direction.
#[derive(Default)]
pub(super) struct Splice {
    /// One is in progress, or was the last thing that came: often another one follows.
    pub(super) large: bool,
    /// Only while something is in it.
    pipe: Option<Pipe>,
}

impl Splice {
    /// Whether octets have left one socket and are not in the other.
    pub(super) fn is_busy(&self) -> bool {
        self.pipe.is_some()
    }

    /// These octets.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.pipe.take().map(Pipe::into_octets).unwrap_or_default()
    }
}

impl Connection {
    /// Takes octets of a large literal from a socket, if they come next. Says whether there may be more to do; `None`: they
    /// are to be read.
    pub(super) fn splice_in(&mut self, cx: &mut Context<'_>, from: Side) -> Option<bool> {
        let (to, left) = (from.other(), self.session.opaque(from));
        let splice = &mut self.splices[from as usize];
        if left < if splice.large { 1 } else { LARGE_LITERAL } {
            return None;
        }
        let source = self.legs[from as usize].socket()?;
        self.legs[to as usize].socket()?;
        splice.large = true;
        if splice.is_busy() || !self.session.output(to).is_empty() {
            // What came first goes first.
            return Some(false);
        }
        let mut pipe = Pipe::new()?;
        let filled = pipe.poll_fill(cx, source, left);
        match filled {
            Poll::Ready(Ok(1..)) => splice.pipe = Some(pipe),
            _ => pipe.keep(),
        }
        match filled {
            Poll::Pending => return Some(false),
            Poll::Ready(Ok(0)) => self.closed(from),
            Poll::Ready(Ok(octets)) => {
                self.shared.metrics.bytes[from as usize].read.inc_by(octets as u64);
                self.session.relayed(from, octets as u64);
                self.session.under_way(to, octets);
            }
            Poll::Ready(Err(error)) => self.broken(from, &error),
        }
        Some(true)
    }

    /// Gives the octets that are under way to their socket: how many it took. Ready when none is left.
    pub(super) fn splice_out(&mut self, cx: &mut Context<'_>, to: Side) -> (usize, Poll<io::Result<()>>) {
        let splice = &mut self.splices[to.other() as usize];
        let Some(mut pipe) = splice.pipe.take() else { return (0, Poll::Ready(Ok(()))) };
        let before = pipe.held();
        let emptied = match self.legs[to as usize].socket() {
            Some(socket) => pipe.poll_empty(cx, socket),
            // What is written to no socket is gone.
            None => Poll::Ready(Ok(())),
        };
        let taken = before - pipe.held();
        if emptied.is_pending() {
            self.session.under_way(to, pipe.held());
            splice.pipe = Some(pipe);
        } else {
            self.session.under_way(to, 0);
            pipe.keep();
        }
        (taken, emptied)
    }
}
