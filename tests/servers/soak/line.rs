//! A client's connection that may break at any moment, and says so instead of failing the test. A server or gateway that
//! says what it must not, or nothing at all, does fail it.

use crate::client::{PATIENCE, Reply, View, announced_literal};
use socket2::SockRef;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How much of a conversation a failure shows.
const SHOWN: usize = 6_000;
const LONGEST_SHOWN: usize = 400;

/// One connection.
pub struct Line {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    tags: usize,
    /// Commands in progress whose replies nobody waits for, by their tags.
    open: BTreeSet<String>,
    conversation: String,
    /// SELECT is in progress: what comes may still be about the mailbox before.
    selecting: bool,
    /// The mailbox, as the client knows it.
    pub view: View,
}

impl Line {
    /// Connects, and logs in.
    pub fn log_in(address: SocketAddr, (name, password): (&str, &str)) -> Result<Line> {
        let writer = TcpStream::connect(address)?;
        writer.set_nodelay(true)?;
        writer.set_read_timeout(Some(PATIENCE))?;
        writer.set_write_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(writer.try_clone()?);
        let (conversation, view) = (String::new(), View::default());
        let (tags, open) = (0, BTreeSet::new());
        let mut line = Line { reader, writer, tags, open, conversation, selecting: false, view };
        while line.read()?.starts_with(b"* OK Waiting for authentication process") {} // Dovecot, just started
        line.ok(&format!("LOGIN {name} {password}"))?;
        Ok(line)
    }

    /// This end's address.
    pub fn address(&self) -> Result<SocketAddr> {
        self.writer.local_addr()
    }

    /// A tag for one command more.
    pub fn tag(&mut self) -> String {
        self.tags += 1;
        format!("c{}", self.tags)
    }

    /// The tag of one command more, for whose reply only [`catch_up`](Line::catch_up) waits.
    pub fn tag_of_another(&mut self) -> String {
        let tag = self.tag();
        self.open.insert(tag.clone());
        tag
    }

    /// Reads until every command has its reply. Then the view is what the server thinks it is.
    pub fn catch_up(&mut self) -> Result<()> {
        while !self.open.is_empty() {
            self.read()?;
        }
        Ok(())
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: &[u8]) -> Result<()> {
        self.note("C", octets);
        self.writer.write_all(octets)
    }

    /// Sends a command and reads to its tagged reply.
    pub fn command(&mut self, command: &str) -> Result<Reply> {
        let tag = self.tag();
        self.send(format!("{tag} {command}\r\n").as_bytes())?;
        self.finish(&tag)
    }

    /// [`command`](Line::command), and the session cannot go on without its OK.
    pub fn ok(&mut self, command: &str) -> Result<Reply> {
        let reply = self.command(command)?;
        if reply.is_ok() { Ok(reply) } else { Err(Error::other(reply.status())) }
    }

    /// Selects a mailbox.
    pub fn select(&mut self, mailbox: &str) -> Result<Reply> {
        self.selecting = true;
        let reply = self.ok(&format!("SELECT \"{mailbox}\""));
        self.selecting = false;
        reply
    }

    /// Reads to a tagged reply. A client that never sends a bad command never gets BAD.
    pub fn finish(&mut self, tag: &str) -> Result<Reply> {
        let mut untagged = Vec::new();
        loop {
            let line = self.read()?;
            match line.strip_prefix(format!("{tag} ").as_bytes()) {
                Some(tagged) => {
                    assert!(!tagged.starts_with(b"BAD"), "BAD");
                    return Ok(Reply { untagged, tagged: tagged.to_vec() });
                }
                None => untagged.push(line),
            }
        }
    }

    /// Reads to the `+` that a command waits for.
    pub fn go_ahead(&mut self, tag: &str) -> Result<()> {
        loop {
            let line = self.read()?;
            if line.starts_with(b"+") {
                return Ok(());
            }
            if line.starts_with(format!("{tag} ").as_bytes()) {
                return Err(Error::other(String::from_utf8_lossy(&line)));
            }
        }
    }

    /// Reads one response, with its literals, without the final CRLF.
    pub fn read(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            self.waited(|reader| reader.read_until(b'\n', &mut line).map(drop))?;
            if !line.ends_with(b"\r\n") {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let Some(octets) = announced_literal(&line) else { break };
            let start = line.len();
            line.resize(start + octets, 0);
            self.waited(|reader| reader.read_exact(&mut line[start..]))?;
        }
        self.note("S", &line);
        line.truncate(line.len() - 2);
        self.observe(&line);
        let tag = line.split(|octet| *octet == b' ').next().unwrap_or_default();
        self.open.remove(std::str::from_utf8(tag).unwrap_or_default());
        Ok(line)
    }

    fn waited(&mut self, read: impl FnOnce(&mut BufReader<TcpStream>) -> Result<()>) -> Result<()> {
        let result = read(&mut self.reader);
        let silent = |e: &Error| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        let ends = (self.writer.local_addr(), self.writer.peer_addr());
        assert!(!result.as_ref().is_err_and(silent), "silence for {PATIENCE:?} between {ends:?}");
        result
    }

    fn observe(&mut self, line: &[u8]) {
        if self.selecting && !line.ends_with(b" EXISTS") {
            return;
        }
        if self.selecting {
            self.view = View::default();
        }
        self.view.observe(line);
        self.learn(line);
    }

    /// The UIDs of the view. A message has one, and keeps it.
    fn learn(&mut self, line: &[u8]) {
        let Some((number, uid)) = fetched(line) else { return };
        let known = self.view.0.get_mut(number - 1);
        let known = known.unwrap_or_else(|| panic!("there is no message {number}"));
        assert!(known.is_none_or(|known| known == uid), "message {number} is {known:?}");
        *known = Some(uid);
    }

    fn note(&mut self, who: &str, octets: &[u8]) {
        let shown = octets[..octets.len().min(LONGEST_SHOWN)].escape_ascii();
        self.conversation += &format!("{who}: {shown}\n");
        if self.conversation.len() > 2 * SHOWN {
            self.conversation.drain(..self.conversation.len() - SHOWN); // all of it is ASCII
        }
    }

    /// When it is dropped, it ends with a RST.
    pub fn end_with_reset(&self) {
        let _ = SockRef::from(&self.writer).set_linger(Some(Duration::ZERO));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("The end of the conversation:\n{}", self.conversation);
        }
    }
}

/// The sequence number and the UID of a FETCH response that begins with its UID.
fn fetched(line: &[u8]) -> Option<(usize, u32)> {
    let head = line.split(|octet| *octet == b'\r').next()?;
    let head = std::str::from_utf8(head).ok()?;
    let (number, rest) = head.strip_prefix("* ")?.split_once(" FETCH (UID ")?;
    let uid = rest.split([' ', ')']).next()?;
    Some((number.parse().ok()?, uid.parse().ok()?))
}
