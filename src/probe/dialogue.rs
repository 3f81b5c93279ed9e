//! A mail client that speaks as little IMAP as a probe needs.

use super::password::Password;
use crate::tls::TlsStream;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::either::Either;

/// How long any answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// The same for a greeting, as the gateway has it.
const GREETING: Duration = crate::imap::GREETING_TIMEOUT;
/// The longest answer that is read, in octets.
const LONGEST: usize = 1 << 20;
/// Of a server's words so many characters are shown.
const SHOWN: usize = 120;

/// What stands in the password's place where a server repeats it.
const HIDDEN: &str = "(the password)";

/// A step of a dialogue. The error is for people, in one line.
pub type Result<T> = std::result::Result<T, String>;

/// A connection in clear, or in TLS.
type Stream = Either<TcpStream, TlsStream>;

/// A command under way. Between two of its parts the server has to say `+`.
pub struct Command(Vec<Vec<u8>>);

impl Command {
    /// One that begins so.
    pub fn new(text: &str) -> Command {
        Command(vec![text.as_bytes().to_vec()])
    }

    /// `SP astring`, whatever is in it.
    pub fn string(self, octets: &[u8]) -> Command {
        if !octets.iter().all(|octet| (b' '..=b'~').contains(octet)) {
            return self.literal(octets);
        }
        let escaped = octets.iter().flat_map(|octet| match octet {
            b'"' | b'\\' => vec![b'\\', *octet],
            _ => vec![*octet],
        });
        let quoted: Vec<u8> = [b' ', b'"'].into_iter().chain(escaped).chain([b'"']).collect();
        self.with(&quoted)
    }

    /// `SP literal`
    pub fn literal(self, octets: &[u8]) -> Command {
        self.with(format!(" {{{}}}", octets.len()).as_bytes()).after_plus(octets)
    }

    /// What is said once the server has said `+`.
    pub fn after_plus(mut self, octets: &[u8]) -> Command {
        self.0.push(octets.to_vec());
        self
    }

    /// More of the same part.
    pub fn with(mut self, octets: &[u8]) -> Command {
        self.0.last_mut().expect("it has a first part").extend_from_slice(octets);
        self
    }
}

/// What came for one command.
#[derive(Debug)]
pub struct Answer {
    /// Untagged responses, each with its literals.
    pub untagged: Vec<String>,
    /// The tagged reply without its tag.
    pub status: String,
    /// From the command to that reply.
    pub took: Duration,
}

impl Answer {
    /// The reply is OK.
    pub fn is_ok(&self) -> bool {
        word(&self.status).eq_ignore_ascii_case("OK")
    }

    /// Itself, if it is OK; else what was refused, and how.
    pub fn ok(self, what: &str) -> Result<Answer> {
        match self.is_ok() {
            true => Ok(self),
            false => Err(format!("{what} was refused: {}", shown(&self.status))),
        }
    }

    /// The capability list in it, if there is one: untagged, or as a response code.
    pub fn capabilities(&self) -> Option<Vec<String>> {
        self.untagged.iter().chain([&self.status]).rev().find_map(|line| capabilities_in(line))
    }

    /// What an untagged response of this name says.
    pub fn data(&self, name: &str) -> impl Iterator<Item = &str> {
        let of_name = move |rest: &&str| word(rest).eq_ignore_ascii_case(name);
        let responses = self.untagged.iter().filter_map(|line| line.strip_prefix("* "));
        responses.filter(of_name).map(move |rest| rest[name.len()..].trim_start())
    }

    /// The numbers of the untagged responses `* n NAME ...`, and what they say.
    pub fn numbered(&self, name: &str) -> impl Iterator<Item = (u32, &str)> {
        self.untagged.iter().filter_map(move |line| {
            let (number, rest) = line.strip_prefix("* ")?.split_once(' ')?;
            let said = word(rest).eq_ignore_ascii_case(name).then(|| rest[name.len()..].trim_start())?;
            Some((number.parse().ok()?, said))
        })
    }

    /// The argument of a response code of this name, wherever it stands.
    pub fn code(&self, name: &str) -> Option<&str> {
        self.untagged.iter().chain([&self.status]).find_map(|line| code_in(line, name))
    }
}

/// The argument of a line's response code.
fn code_in<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (head, rest) = line.split_once('[')?;
    let is_status = head.split(' ').all(|word| ["*", "OK", "NO", "BAD", "PREAUTH", ""].contains(&word));
    let (code, _) = rest.split_once(']').filter(|_| is_status)?;
    let argument = code.get(name.len()..).filter(|_| code[..name.len()].eq_ignore_ascii_case(name))?;
    argument.strip_prefix(' ').or(argument.is_empty().then_some(""))
}

/// The capability list of a line.
pub fn capabilities_in(line: &str) -> Option<Vec<String>> {
    const NAME: &str = "CAPABILITY";
    let untagged = || line.strip_prefix("* ").filter(|rest| word(rest).eq_ignore_ascii_case(NAME));
    let list = untagged().map(|rest| &rest[NAME.len()..]).or_else(|| code_in(line, NAME))?;
    Some(list.split_whitespace().map(str::to_string).collect())
}

/// Up to the first space.
pub fn word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// A server's words, for a terminal.
pub fn shown(text: &str) -> String {
    let escaped: String =
        text.trim_end().escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    match escaped.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &escaped[..end]),
        None => escaped,
    }
}

/// A connection to an IMAP server.
pub struct Dialogue {
    io: BufReader<Stream>,
    tags: u32,
    /// The server's last words, if it has said BYE.
    bye: Option<String>,
    /// What is not shown if the server says it.
    secrets: Vec<String>,
}

impl Dialogue {
    /// In clear, with nothing read.
    pub fn in_clear(stream: TcpStream) -> Dialogue {
        Dialogue::new(Either::Left(stream))
    }

    /// In TLS, with nothing read since the handshake.
    pub fn in_tls(stream: TlsStream) -> Dialogue {
        Dialogue::new(Either::Right(stream))
    }

    fn new(stream: Stream) -> Dialogue {
        Dialogue { io: BufReader::new(stream), tags: 0, bye: None, secrets: Vec::new() }
    }

    /// The connection for a handshake: nothing may have come before it (RFC 9051 section 11.1).
    pub fn into_stream(self) -> Result<TcpStream> {
        let is_read = self.io.buffer().is_empty();
        match self.io.into_inner() {
            Either::Left(stream) if is_read => Ok(stream),
            _ => Err("The server spoke on in clear after its OK to STARTTLS".to_string()),
        }
    }

    /// The server's first line.
    pub async fn greeting(&mut self) -> Result<String> {
        let late = "The server did not greet in time: is this port for TLS from the first octet (imaps://)?";
        timeout(GREETING, self.line()).await.map_err(|_| late.to_string())?
    }

    /// [`carry_out`](Dialogue::carry_out) a command without literals.
    pub async fn ask(&mut self, command: &str) -> Result<Answer> {
        self.carry_out(Command::new(command)).await
    }

    /// Sends a command and reads to its tagged reply.
    pub async fn carry_out(&mut self, command: Command) -> Result<Answer> {
        let late = |_| "The server did not answer in time".to_string();
        timeout(ANSWER, self.exchange(command)).await.map_err(late)?
    }

    /// Logs in.
    pub async fn log_in(
        &mut self,
        user: &str,
        password: &Password,
        capabilities: &[String],
    ) -> Result<Answer> {
        self.secrets = password.forms(user);
        let answer = self.carry_out(password.command(user, capabilities)).await?;
        match answer.is_ok() {
            true => Ok(answer),
            false => Err(format!("The login was refused: {}", shown(&self.without_secrets(&answer.status)))),
        }
    }

    fn without_secrets(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_string(), |text, secret| text.replace(secret, HIDDEN))
    }

    async fn exchange(&mut self, command: Command) -> Result<Answer> {
        self.tags += 1;
        let (tag, begun) = (format!("p{}", self.tags), Instant::now());
        let (mut untagged, mut prefix) = (Vec::new(), format!("{tag} "));
        for part in command.0 {
            let line = [prefix.as_bytes(), &part, b"\r\n"].concat();
            self.say(&line).await?;
            prefix.clear();
            // A `+` to the last part would be for nobody, and none comes.
            if let Some(status) = self.hear(&tag, &mut untagged).await? {
                return Ok(Answer { untagged, status, took: begun.elapsed() });
            }
        }
        Err("The server asked for more than there is to say".to_string())
    }

    async fn say(&mut self, octets: &[u8]) -> Result<()> {
        let written = async {
            self.io.write_all(octets).await?;
            self.io.flush().await
        };
        written.await.map_err(|e| self.lost(&e))
    }

    /// Reads to the tagged reply, which it returns, or to a `+`.
    async fn hear(&mut self, tag: &str, untagged: &mut Vec<String>) -> Result<Option<String>> {
        let mut octets = 0;
        loop {
            let line = self.line().await?;
            octets += line.len();
            if octets > LONGEST {
                return Err("The server's answer has no end".to_string());
            }
            if let Some(status) = line.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' ')) {
                return Ok(Some(status.to_string()));
            }
            if line.starts_with('+') {
                return Ok(None);
            }
            if let Some(words) = line.strip_prefix("* BYE") {
                self.bye = Some(shown(&self.without_secrets(words.trim_start())));
            }
            untagged.push(line);
        }
    }

    /// A response with its literals, without the last line end.
    async fn line(&mut self) -> Result<String> {
        let mut octets = Vec::new();
        loop {
            let room = (LONGEST as u64).saturating_sub(octets.len() as u64);
            let read = (&mut self.io).take(room).read_until(b'\n', &mut octets).await;
            read.map_err(|e| self.lost(&e))?;
            if octets.last() != Some(&b'\n') {
                return Err(self.lost(&io::ErrorKind::UnexpectedEof.into()));
            }
            let Some(literal) = announced(&octets).filter(|literal| *literal <= LONGEST) else { break };
            let begin = octets.len();
            octets.resize(begin + literal, 0);
            self.io.read_exact(&mut octets[begin..]).await.map_err(|e| self.lost(&e))?;
        }
        let line = octets.strip_suffix(b"\n").unwrap_or(&octets);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    fn lost(&self, error: &io::Error) -> String {
        match (&self.bye, error.kind()) {
            (Some(bye), _) => format!("The server closed the connection: {bye}"),
            (None, io::ErrorKind::UnexpectedEof) => "The server closed the connection".to_string(),
            (None, kind) => format!("The connection to the server broke: {kind}"),
        }
    }
}

/// The length of the literal that follows a line. Human-readable text announces none.
fn announced(line: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(line).ok()?.trim_end();
    let is_text = ["OK", "NO", "BAD", "BYE", "PREAUTH"].contains(&text.split(' ').nth(1)?);
    let (_, length) = text.strip_suffix('}').filter(|_| !is_text)?.rsplit_once('{')?;
    length.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_code_is_found_where_it_stands_and_nowhere_else() {
        assert_eq!(code_in("OK [COPYUID 1 2 3] Done", "copyuid"), Some("1 2 3"));
        assert_eq!(code_in("* OK [UIDNEXT 7] Next", "UIDNEXT"), Some("7"));
        assert_eq!(code_in("* OK [READ-ONLY] Opened", "READ-ONLY"), Some(""));
        assert_eq!(code_in("* OK [UIDNEXTER 7]", "UIDNEXT"), None);
        assert_eq!(code_in("* 1 FETCH (BODY[] \"[UIDNEXT 7]\")", "UIDNEXT"), None);
        let list = |line| capabilities_in(line).unwrap_or_default().join(" ");
        assert_eq!(list("* CAPABILITY IMAP4rev1 UIDPLUS "), "IMAP4rev1 UIDPLUS");
        assert_eq!(list("* OK [CAPABILITY A B] Hello"), "A B");
        assert_eq!(list("* CAPABILITYX A"), "");
    }

    #[test]
    fn only_data_announces_a_literal() {
        assert_eq!(announced(b"* 1 FETCH (BODY[] {12}\r\n"), Some(12));
        assert_eq!(announced(b"* OK it ends in {12}\r\n"), None);
    }

    #[test]
    fn a_string_is_quoted_where_it_can_be() {
        let parts = |octets: &[u8]| Command::new("LOGIN").string(octets).0;
        assert_eq!(parts(b"a \"\\"), [b"LOGIN \"a \\\"\\\\\"".to_vec()]);
        assert_eq!(parts(b"\xe9"), [b"LOGIN {1}".to_vec(), b"\xe9".to_vec()]);
    }

    #[test]
    fn a_servers_words_do_not_reach_the_terminal_as_they_are() {
        assert_eq!(shown("OK \x1b[2J\"hi\"\r\n"), "OK \\u{1b}[2J\"hi\"");
        assert_eq!(shown(&"x".repeat(500)).len(), SHOWN + 3);
    }
}
