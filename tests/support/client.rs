//! A blocking IMAP client that knows what a literal is and keeps every octet it receives.

use socket2::SockRef;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long any one answer may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a server, or through a gateway.
pub struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    tags: u32,
    /// Every octet received so far.
    pub received: Vec<u8>,
    /// Every octet sent so far.
    pub sent: Vec<u8>,
    /// Where the messages the client counts are kept up to date, line by line.
    pub view: View,
}

/// What came for one command: whole lines, literals included, without the final CRLF.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Untagged responses and continuations, in order.
    pub untagged: Vec<Vec<u8>>,
    /// The tagged reply without its tag.
    pub tagged: Vec<u8>,
}

impl Reply {
    /// Whether the tagged reply is OK.
    pub fn is_ok(&self) -> bool {
        self.tagged.starts_with(b"OK")
    }

    /// The tagged reply as text.
    pub fn status(&self) -> String {
        String::from_utf8_lossy(&self.tagged).into_owned()
    }

    /// The untagged lines as text.
    pub fn lines(&self) -> Vec<String> {
        self.untagged.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    /// The numbers of the untagged SEARCH responses.
    pub fn search(&self) -> Vec<u32> {
        let lines = self.lines();
        let found = lines.iter().filter_map(|line| line.strip_prefix("* SEARCH"));
        // Dovecot and Cyrus add (MODSEQ n) once CONDSTORE is on.
        found
            .flat_map(|line| line.split('(').next().expect("a first part").split_whitespace())
            .map(|number| number.parse().expect("a number in a SEARCH response"))
            .collect()
    }
}

/// The client's own picture of the selected mailbox, built as RFC 9051 section 7.4.1 says: from EXISTS, EXPUNGE and
/// VANISHED alone. A message whose UID is not known yet is `None`.
#[derive(Clone, Debug, Default)]
pub struct View(pub Vec<Option<u32>>);

impl View {
    /// Takes in a line from the server.
    pub fn observe(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let words: Vec<&str> = text.split_whitespace().take(3).collect();
        match words[..] {
            ["*", number, "EXISTS"] => self.exists(number.parse().expect("a number before EXISTS"), &text),
            ["*", number, "EXPUNGE"] => self.expunge(number.parse().expect("a number before EXPUNGE"), &text),
            ["*", "VANISHED", uids] if uids != "(EARLIER)" => self.vanished(&numbers(uids)),
            _ => {}
        }
    }

    fn exists(&mut self, count: usize, line: &str) {
        assert!(count >= self.0.len(), "EXISTS may not shrink a view of {}: {line}", self.0.len());
        self.0.resize(count, None);
    }

    fn expunge(&mut self, number: usize, line: &str) {
        assert!(
            (1..=self.0.len()).contains(&number),
            "no such message in a view of {}: {line}",
            self.0.len()
        );
        self.0.remove(number - 1);
    }

    fn vanished(&mut self, uids: &[u32]) {
        self.0.retain(|uid| !uid.is_some_and(|uid| uids.contains(&uid)));
    }

    /// Whether the numbers of a `UID SEARCH ALL` fit this view: as many, and where a UID was known, the same.
    pub fn agrees(&self, uids: &[u32]) -> bool {
        self.0.len() == uids.len()
            && self.0.iter().zip(uids).all(|(known, uid)| known.is_none_or(|k| k == *uid))
    }
}

/// The numbers of a set such as `2,4:6`.
pub fn numbers(set: &str) -> Vec<u32> {
    let number = |text: &str| text.parse::<u32>().unwrap_or_else(|_| panic!("a number in the set {set}"));
    let range = |part: &str| match part.split_once(':') {
        Some((a, b)) => number(a).min(number(b))..=number(a).max(number(b)),
        None => number(part)..=number(part),
    };
    set.split(',').flat_map(range).collect()
}

impl Client {
    /// Connects and reads the greeting, which is the first line of `received`.
    pub fn connect(address: SocketAddr) -> Client {
        let mut client = Client::connect_silently(address);
        while client.read_line().starts_with(b"* OK Waiting for authentication process") {} // Dovecot, just started
        client
    }

    /// Connects and reads nothing.
    pub fn connect_silently(address: SocketAddr) -> Client {
        let stream =
            TcpStream::connect(address).unwrap_or_else(|e| panic!("cannot connect to {address}: {e}"));
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        let reader = BufReader::new(stream.try_clone().expect("a second handle of the socket"));
        Client {
            reader,
            writer: stream,
            tags: 0,
            received: Vec::new(),
            sent: Vec::new(),
            view: View::default(),
        }
    }

    /// Connects and logs in as alice.
    pub fn login(address: SocketAddr) -> Client {
        let mut client = Client::connect(address);
        client.ok("LOGIN alice wonderland");
        client
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.sent.extend_from_slice(octets.as_ref());
        self.writer.write_all(octets.as_ref()).expect("the connection takes octets");
    }

    /// Sends a command; returns its tag.
    pub fn start(&mut self, command: &str) -> String {
        let tag = self.next_tag();
        self.send(format!("{tag} {command}\r\n"));
        tag
    }

    /// A tag that was not used yet.
    pub fn next_tag(&mut self) -> String {
        self.tags += 1;
        format!("c{}", self.tags)
    }

    /// Sends a command and reads to its tagged reply.
    pub fn command(&mut self, command: &str) -> Reply {
        let tag = self.start(command);
        self.finish(&tag)
    }

    /// [`command`](Client::command) that must be answered OK.
    pub fn ok(&mut self, command: &str) -> Reply {
        let reply = self.command(command);
        assert!(reply.is_ok(), "{command}: {}\n{}", reply.status(), self.transcript());
        reply
    }

    /// Reads to the tagged reply of a command that was sent.
    pub fn finish(&mut self, tag: &str) -> Reply {
        let mut untagged = Vec::new();
        let begun = Instant::now();
        loop {
            assert!(
                begun.elapsed() < PATIENCE,
                "no tagged reply to {tag} in {PATIENCE:?}\n{}",
                self.transcript()
            );
            let line = self.read_line();
            match line.strip_prefix(format!("{tag} ").as_bytes()) {
                Some(tagged) => return Reply { untagged, tagged: tagged.to_vec() },
                None => untagged.push(line),
            }
        }
    }

    /// Reads lines up to the first that begins with `start`, and returns that one.
    pub fn until(&mut self, start: &str) -> Vec<u8> {
        loop {
            let line = self.read_line();
            if line.starts_with(start.as_bytes()) {
                return line;
            }
        }
    }

    /// Reads one response, with its literals, without the final CRLF.
    pub fn read_line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        loop {
            self.read_to_line_end(&mut line);
            let Some(octets) = announced_literal(&line) else { break };
            let mut literal = vec![0; octets];
            let read = self.reader.read_exact(&mut literal);
            read.unwrap_or_else(|e| panic!("a literal of {octets} octets: {e}\n{}", self.transcript()));
            line.extend_from_slice(&literal);
        }
        self.received.extend_from_slice(&line);
        line.truncate(line.len() - 2);
        self.view.observe(&line);
        line
    }

    fn read_to_line_end(&mut self, line: &mut Vec<u8>) {
        let before = line.len();
        let read = self.reader.read_until(b'\n', line);
        read.unwrap_or_else(|e| panic!("waiting for a line: {e}\n{}", self.transcript()));
        let so_far = String::from_utf8_lossy(&line[before..]).into_owned();
        assert!(so_far.ends_with("\r\n"), "the connection ended after {so_far:?}\n{}", self.transcript());
    }

    /// Selects a mailbox and learns its UIDs, so that [`view`](Client::view) is complete.
    pub fn select(&mut self, mailbox: &str) -> Reply {
        self.view = View::default();
        let reply = self.ok(&format!("SELECT \"{mailbox}\""));
        let found = self.ok("UID SEARCH ALL");
        self.view = View(found.search().into_iter().map(Some).collect());
        // What is told behind the result is not in it.
        let comes_before = |line: &&Vec<u8>| !line.starts_with(b"* SEARCH");
        found.untagged.iter().skip_while(comes_before).for_each(|line| self.view.observe(line));
        reply
    }

    /// Opens a mailbox read-only. Only how many messages there are is known then.
    pub fn examine(&mut self, mailbox: &str) -> Reply {
        self.view = View::default();
        self.ok(&format!("EXAMINE \"{mailbox}\""))
    }

    /// Appends one message as a synchronising literal.
    pub fn append(&mut self, mailbox: &str, flags: &str, message: &[u8]) {
        self.append_as(mailbox, &format!("({flags})"), message);
    }

    /// [`append`](Client::append) with flags in parentheses and a date in quotes.
    pub fn append_as(&mut self, mailbox: &str, attributes: &str, message: &[u8]) {
        let tag = self.start(&format!("APPEND \"{mailbox}\" {attributes} {{{}}}", message.len()));
        self.until("+");
        self.send(message);
        self.send("\r\n");
        let reply = self.finish(&tag);
        assert!(reply.is_ok(), "APPEND: {}\n{}", reply.status(), self.transcript());
    }

    /// Forgets what was sent and received.
    pub fn forget(&mut self) {
        self.sent.clear();
        self.received.clear();
    }

    /// Sends no more, in the way of a FIN.
    pub fn half_close(&self) {
        self.writer.shutdown(Shutdown::Write).expect("the connection was open");
    }

    /// Ends the connection with a RST.
    pub fn reset(self) {
        SockRef::from(&self.writer).set_linger(Some(Duration::ZERO)).expect("a socket option");
    }

    /// Reads to the end of the connection; what came.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset ends the connection too.
        if let Err(e) = self.reader.read_to_end(&mut rest) {
            let reset = e.kind() == std::io::ErrorKind::ConnectionReset;
            assert!(reset, "waiting for the end of the connection: {e}\n{}", self.transcript());
        }
        self.received.extend_from_slice(&rest);
        rest
    }

    /// The end of what was received, for a failure's text.
    pub fn transcript(&self) -> String {
        let start = self.received.len().saturating_sub(2_000);
        format!("The last octets received:\n{}", String::from_utf8_lossy(&self.received[start..]))
    }
}

/// The size of the literal that a line announces at its end. Human-readable text announces nothing (WIRE-2).
pub fn announced_literal(line: &[u8]) -> Option<usize> {
    let line = line.strip_suffix(b"\r\n")?;
    let mut words = line.split(|octet| *octet == b' ');
    let (first, second) = (words.next()?, words.next().unwrap_or_default());
    let status: [&[u8]; 5] = [b"OK", b"NO", b"BAD", b"BYE", b"PREAUTH"];
    if first == b"+" || status.contains(&second) {
        return None;
    }
    let digits = line.strip_suffix(b"}")?;
    let brace = digits.iter().rposition(|octet| *octet == b'{')?;
    std::str::from_utf8(&digits[brace + 1..]).ok()?.parse().ok()
}

/// Whether alice can log in. Never panics: for waiting until a server is ready.
pub fn accepts_login(address: SocketAddr) -> bool {
    let attempt = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut ask = |tag: &str, command: &str| -> std::io::Result<bool> {
            stream.write_all(format!("{tag} {command}\r\n").as_bytes())?;
            line.clear();
            while !line.starts_with(tag) {
                line.clear();
                if reader.read_line(&mut line)? == 0 {
                    break;
                }
            }
            Ok(line.starts_with(&format!("{tag} OK")))
        };
        Ok(ask("r1", "LOGIN alice wonderland")? && ask("r2", "LOGOUT")?)
    };
    attempt().unwrap_or(false)
}
