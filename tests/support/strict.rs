//! An independent, strict reader of IMAP octet streams (RFC 3501 and RFC 9051, section 9): it knows nothing of the
//! gateway's code, so that the two can be compared.
//!
//! [`Commands`] reads what a client sends, [`Responses`] what a server sends.
#![allow(dead_code)] // each test binary uses its own part

use std::fmt;

/// One command: `tag SP verb [SP arguments] CRLF`, with the literals that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub tag: Vec<u8>,
    /// In upper case; `UID COPY` and the like are one verb.
    pub verb: String,
    pub args: Vec<Token>,
    /// Every octet of it, literals and the last CRLF included.
    pub raw: Vec<u8>,
    /// The length of its longest line in octets, CRLF included, literals not.
    pub longest_line: usize,
}

/// A word of a command's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    Atom(Vec<u8>),
    Quoted(Vec<u8>),
    Literal { octets: Vec<u8>, synchronising: bool, binary: bool },
    Open,
    Close,
}

impl Token {
    /// The octets that an atom, a quoted string or a literal stands for.
    pub fn value(&self) -> &[u8] {
        match self {
            Token::Atom(octets) | Token::Quoted(octets) | Token::Literal { octets, .. } => octets,
            Token::Open | Token::Close => &[],
        }
    }
}

/// Why a stream is not IMAP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub why: &'static str,
    pub line: Vec<u8>,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.why, self.line.escape_ascii())
    }
}

/// What a client's stream holds next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Command(Command),
    /// A synchronising literal was announced: a server answers `+` or refuses. Said once for each.
    Announced(u64),
}

/// Reads a client's stream.
#[derive(Debug, Default)]
pub struct Commands {
    buffer: Vec<u8>,
    /// Where the line that is being read begins.
    line: usize,
    /// How far it was searched for its end.
    searched: usize,
    tokens: Vec<Token>,
    longest_line: usize,
    awaited: Option<Announcement>,
    said: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announcement {
    octets: u64,
    synchronising: bool,
    binary: bool,
}

impl Commands {
    pub fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// The next command or announcement, if the stream holds it whole.
    pub fn next(&mut self) -> Option<Result<Input, Malformed>> {
        loop {
            if let Some(literal) = self.awaited {
                if literal.synchronising && !self.said {
                    self.said = true;
                    return Some(Ok(Input::Announced(literal.octets)));
                }
                let end = self.line + literal.octets as usize;
                if self.buffer.len() < end {
                    return None;
                }
                let octets = self.buffer[self.line..end].to_vec();
                let Announcement { synchronising, binary, .. } = literal;
                self.tokens.push(Token::Literal { octets, synchronising, binary });
                (self.line, self.searched) = (end, end);
                (self.awaited, self.said) = (None, false);
            }
            let Some(found) = self.buffer[self.searched..].iter().position(|&b| b == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let end = self.searched + found + 1;
            let line = &self.buffer[self.line..end];
            self.longest_line = self.longest_line.max(line.len());
            let read = tokens(line);
            (self.line, self.searched) = (end, end);
            match read {
                Err(why) => {
                    let line = self.take();
                    return Some(Err(Malformed { why, line }));
                }
                Ok((read, literal)) => {
                    self.tokens.extend(read);
                    self.awaited = literal;
                }
            }
            if self.awaited.is_none() {
                return Some(self.finish());
            }
        }
    }

    /// The next line as it is, without its CRLF: inside IDLE and AUTHENTICATE lines are not commands.
    pub fn plain_line(&mut self) -> Option<Vec<u8>> {
        let end = self.line + self.buffer[self.line..].windows(2).position(|w| w == b"\r\n")?;
        (self.line, self.searched) = (end + 2, end + 2);
        let mut line = self.take();
        line.truncate(line.len() - 2);
        Some(line)
    }

    /// The announced literal was refused: the command ended there.
    pub fn refused(&mut self) -> Vec<u8> {
        self.awaited = None;
        self.said = false;
        self.take()
    }

    /// What has been read of a command that was announced, but not ended: its tag.
    pub fn announcing(&self) -> Option<(&[u8], Vec<Token>)> {
        let end = self.buffer.iter().position(|&b| b == b' ')?;
        Some((&self.buffer[..end], self.tokens.clone()))
    }

    /// A synchronising literal was announced, and none of its octets have come.
    pub fn awaits_literal(&self) -> bool {
        self.awaited.is_some_and(|literal| literal.synchronising) && self.buffer.len() == self.line
    }

    /// Nothing is left over.
    pub fn at_boundary(&self) -> bool {
        self.buffer.is_empty()
    }

    fn take(&mut self) -> Vec<u8> {
        let raw = self.buffer.drain(..self.line).collect();
        (self.line, self.searched, self.longest_line) = (0, 0, 0);
        self.tokens.clear();
        raw
    }

    fn finish(&mut self) -> Result<Input, Malformed> {
        let tokens = std::mem::take(&mut self.tokens);
        let longest_line = self.longest_line;
        let raw = self.take();
        match head(&raw, tokens) {
            Ok((tag, verb, args)) => Ok(Input::Command(Command { tag, verb, args, raw, longest_line })),
            Err(why) => Err(Malformed { why, line: raw }),
        }
    }
}

/// tag SP verb: the first two words, told apart by exactly one space.
fn head(raw: &[u8], mut tokens: Vec<Token>) -> Result<(Vec<u8>, String, Vec<Token>), &'static str> {
    let [Token::Atom(tag), Token::Atom(verb), ..] = &tokens[..] else {
        return Err("a line without tag and verb");
    };
    if !tag.iter().all(|&b| is_tag_char(b)) {
        return Err("an illegal tag");
    }
    if !raw.starts_with(tag) || raw.get(tag.len()) != Some(&b' ') || raw.get(tag.len() + 1) == Some(&b' ') {
        return Err("tag and verb are not told apart by one space");
    }
    let tag = tag.clone();
    let mut verb = String::from_utf8_lossy(verb).to_ascii_uppercase();
    let mut words = 2;
    if let (true, Some(Token::Atom(second))) = (verb == "UID", tokens.get(2)) {
        verb = format!("UID {}", String::from_utf8_lossy(second).to_ascii_uppercase());
        words = 3;
    }
    tokens.drain(..words);
    Ok((tag, verb, tokens))
}

/// tag = 1*<any ASTRING-CHAR except "+">
fn is_tag_char(octet: u8) -> bool {
    octet.is_ascii_graphic() && !b"(){%*\"\\+".contains(&octet)
}

/// The words of one line with its CRLF, and the literal that it announces.
#[allow(clippy::type_complexity)]
fn tokens(line: &[u8]) -> Result<(Vec<Token>, Option<Announcement>), &'static str> {
    let line = line.strip_suffix(b"\r\n").ok_or("a line that does not end in CRLF")?;
    if line.iter().any(|b| b"\r\0".contains(b)) {
        return Err("a bare CR or NUL");
    }
    let (mut read, mut at) = (Vec::new(), 0);
    while let Some(&octet) = line.get(at) {
        match octet {
            b' ' => at += 1,
            b'(' => {
                read.push(Token::Open);
                at += 1;
            }
            b')' => {
                read.push(Token::Close);
                at += 1;
            }
            b'"' => {
                let (text, length) = quoted(&line[at..])?;
                read.push(Token::Quoted(text));
                at += length;
            }
            _ => {
                if let Some(literal) = announcement(&line[at..]) {
                    return Ok((read, Some(literal)));
                }
                let rest = &line[at..];
                let length = rest.iter().position(|b| b" ()\"".contains(b)).unwrap_or(rest.len());
                if rest[..length].contains(&b'{') {
                    return Err("a brace inside an atom");
                }
                read.push(Token::Atom(rest[..length].to_vec()));
                at += length;
            }
        }
    }
    Ok((read, None))
}

fn quoted(rest: &[u8]) -> Result<(Vec<u8>, usize), &'static str> {
    let (mut text, mut at) = (Vec::new(), 1);
    loop {
        match rest.get(at) {
            None => return Err("a quoted string without end"),
            Some(b'"') => return Ok((text, at + 1)),
            Some(b'\\') => {
                let escaped = rest.get(at + 1).filter(|b| b"\"\\".contains(b)).ok_or("an illegal escape")?;
                text.push(*escaped);
                at += 2;
            }
            Some(&octet) => {
                text.push(octet);
                at += 1;
            }
        }
    }
}

/// `{n}`, `{n+}`, `~{n}`, `~{n+}` that is all that is left of the line.
fn announcement(rest: &[u8]) -> Option<Announcement> {
    let (binary, rest) = match rest.strip_prefix(b"~") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let inner = rest.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let (synchronising, digits) = match inner.strip_suffix(b"+") {
        Some(digits) => (false, digits),
        None => (true, inner),
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let octets = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(Announcement { octets, synchronising, binary })
}

/// One response of a server, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub kind: Kind,
    /// What stands after `* `, `+ ` or the tag, literals included, without the last line end.
    pub text: Vec<u8>,
    pub raw: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Untagged,
    Continuation,
    Tagged(Vec<u8>),
}

impl Response {
    /// The words of the text, split at spaces (good for the lines without strings that matter here).
    pub fn words(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.text).split(' ').map(str::to_owned).collect()
    }

    /// `n WORD`: EXISTS, EXPUNGE, RECENT, FETCH.
    pub fn numbered(&self) -> Option<(u32, String)> {
        let words = self.words();
        let number = words.first()?.parse().ok().filter(|_| self.kind == Kind::Untagged)?;
        Some((number, words.get(1)?.to_ascii_uppercase()))
    }

    /// What stands behind `NAME ` in the brackets of a status response: `[NAME arguments]`.
    pub fn code(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.text).into_owned();
        let (_, rest) = text.split_once(' ')?;
        let (code, _) = rest.strip_prefix('[')?.split_once(']')?;
        let (found, arguments) = code.split_once(' ').unwrap_or((code, ""));
        found.eq_ignore_ascii_case(name).then(|| arguments.to_owned())
    }

    /// OK, NO, BAD, BYE or PREAUTH at the start of the text.
    pub fn status(&self) -> Option<String> {
        let word = self.words().first()?.to_ascii_uppercase();
        ["OK", "NO", "BAD", "BYE", "PREAUTH"].contains(&word.as_str()).then_some(word)
    }
}

/// Reads a server's stream. Unlike a client's, its lines may end in a bare LF where `bare_lf` says so.
#[derive(Debug, Default)]
pub struct Responses {
    buffer: Vec<u8>,
    searched: usize,
    line: usize,
    pub bare_lf: bool,
}

impl Responses {
    pub fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// The next response, if the stream holds it whole.
    pub fn next(&mut self) -> Option<Result<Response, Malformed>> {
        loop {
            if self.searched > self.buffer.len() {
                return None; // inside a literal
            }
            let Some(found) = self.buffer[self.searched..].iter().position(|&b| b == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let end = self.searched + found + 1;
            let line = &self.buffer[self.line..end];
            let bare = line.strip_suffix(b"\n").unwrap_or(line);
            let text = bare.strip_suffix(b"\r").unwrap_or(bare);
            if !self.bare_lf && (text.len() == bare.len() || text.iter().any(|b| b"\r\0".contains(b))) {
                let line = line.to_vec();
                self.drop_to(end);
                return Some(Err(Malformed { why: "a bare LF, CR or NUL", line }));
            }
            if let Some(octets) = response_literal(&self.buffer[..end], text) {
                let next = end + octets as usize;
                (self.line, self.searched) = (next, next);
                continue;
            }
            let raw = self.buffer[..end].to_vec();
            self.drop_to(end);
            return Some(response(raw));
        }
    }

    pub fn at_boundary(&self) -> bool {
        self.buffer.is_empty()
    }

    fn drop_to(&mut self, end: usize) {
        self.buffer.drain(..end);
        (self.line, self.searched) = (0, 0);
    }
}

/// `{n}` or `~{n}` at the end of a line that is not human-readable text.
fn response_literal(all: &[u8], line: &[u8]) -> Option<u64> {
    let is_first = all.len() <= line.len() + 2;
    if is_first && is_human_text(line) {
        return None;
    }
    let open = line.strip_suffix(b"}")?.iter().rposition(|&b| b == b'{')?;
    let digits = &line[open + 1..line.len() - 1];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_human_text(line: &[u8]) -> bool {
    if line.starts_with(b"+") {
        return true;
    }
    let mut words = line.split(|&b| b == b' ');
    let (_, second) = (words.next(), words.next().unwrap_or_default());
    [&b"OK"[..], b"NO", b"BAD", b"BYE", b"PREAUTH"].iter().any(|w| second.eq_ignore_ascii_case(w))
}

fn response(raw: Vec<u8>) -> Result<Response, Malformed> {
    let line = raw.strip_suffix(b"\n").map(|l| l.strip_suffix(b"\r").unwrap_or(l)).unwrap_or(&raw);
    let (first, rest) = match line.iter().position(|&b| b == b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &b""[..]),
    };
    let kind = match first {
        b"*" => Kind::Untagged,
        b"+" => Kind::Continuation,
        tag if !tag.is_empty() && tag.iter().all(|&b| is_tag_char(b)) => Kind::Tagged(tag.to_vec()),
        _ => return Err(Malformed { why: "neither *, + nor a tag", line: raw }),
    };
    let text = rest.to_vec();
    Ok(Response { kind, text, raw })
}

/// The ranges of a sequence set without `*`, as it names them.
pub fn ranges(set: &str) -> Option<Vec<(u32, u32)>> {
    let range = |part: &str| {
        let (from, to) = part.split_once(':').unwrap_or((part, part));
        Some((from.parse().ok()?, to.parse().ok()?))
    };
    set.split(',').map(range).collect()
}

/// The numbers of a sequence set without `*`, in the order in which it names them, ranges either way up; none if it
/// names more than a million.
pub fn numbers(set: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for (from, to) in ranges(set)? {
        if from.abs_diff(to) > 1_000_000 {
            return None;
        }
        if from <= to { all.extend(from..=to) } else { all.extend((to..=from).rev()) }
    }
    Some(all)
}

/// Numbers as a set: `1:3,5`.
pub fn set(numbers: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let text = |&(from, to): &(u32, u32)| if from == to { from.to_string() } else { format!("{from}:{to}") };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}
