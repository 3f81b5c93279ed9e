//! `imapmove demo`: the main job with nothing installed.
//!
//! A small legacy IMAP server in memory, honest about being a demo, that the tests use too ([`Server`]); the gateway
//! in front of it; one `UID MOVE` through both, shown from both sides and checked; and then the addresses, for the
//! user to try with a mail client of their own.
//!
//! | file | what is in it |
//! |---|---|
//! | `store.rs` | mailboxes and messages, and what a session was told about them |
//! | `message.rs` | what is read in one message |
//! | `args.rs` | the arguments of a command |
//! | `fetch.rs`, `search.rs` | the two commands that are languages of their own |
//! | `session.rs` | one session: commands in, responses out |
//! | `server.rs` | sockets, literals, IDLE, the record of what was said |
//! | `checks.rs` | whether the conversation was right |

mod args;
mod checks;
mod fetch;
mod message;
mod search;
mod server;
mod session;
mod store;

pub use server::{Said, Server};
pub use session::LOGIN;
pub use store::{Flags, Mailbox, Message};

use crate::config::Config;
use crate::proxy::Proxy;
use crate::screen::{BOLD, CYAN, DIM, GREEN, RED, Screen};
use crate::shared::Signal;
use checks::Evidence;
use std::io::{self, Error, Write};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long the demo's own client waits for each answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The move that is shown: two messages with another between them.
const UID_MOVE: &str = "UID MOVE 2,4 Archive";

/// Runs the demo: with `once` until the conversation is shown, else until a message comes on `signals`. Says whether
/// the conversation was right.
///
/// # Errors
/// When no loopback port can be had, the gateway does not answer, or nothing can be printed.
pub async fn run(once: bool, signals: mpsc::Receiver<Signal>) -> io::Result<bool> {
    let server = Server::start().await?;
    let upstream = server.address().to_string();
    let ours = [("listen", "127.0.0.1:0"), ("admin", "off"), ("drain-grace", "0s")];
    let settings = [&[("upstream", upstream.as_str())], &ours[..]].concat();
    let config = Config::with(&settings).map_err(Error::other)?;
    let proxy = Proxy::bind(config).await.map_err(Error::other)?;
    let address = proxy.address().ok_or(Error::other("the gateway listens nowhere"))?;
    let gateway = tokio::spawn(proxy.run(signals));

    let evidence = converse(address, &server).await?;
    let mut screen = Screen::stdout();
    let right = screen.conversation(&evidence)?;
    if !once {
        screen.invitation(address)?;
        gateway.await.map_err(Error::other)?;
    }
    Ok(right)
}

/// Moves two messages through the gateway, and keeps what both sides saw.
async fn converse(gateway: SocketAddr, server: &Server) -> io::Result<Evidence> {
    let mut client = Client(BufStream::new(TcpStream::connect(gateway).await?));
    client.line().await?;
    let login = client.ask(&format!("d1 LOGIN {LOGIN} {LOGIN}")).await?;
    client.ask("d2 SELECT INBOX").await?;
    let (before, said_before) = (mail(server)?, server.said().len());
    let command = format!("d3 {UID_MOVE}");
    let seen = client.ask(&command).await?;
    let (after, said) = (mail(server)?, server.said().split_off(said_before));
    client.ask("d4 LOGOUT").await?;
    Ok(Evidence { login, command, seen, said, before, after })
}

/// Source and target.
fn mail(server: &Server) -> io::Result<[Mailbox; 2]> {
    let mailbox = |name| server.mailbox(name).ok_or(Error::other("a mailbox of the demo is gone"));
    Ok([mailbox("INBOX")?, mailbox("Archive")?])
}

/// The demo's own mail client: it speaks as little IMAP as the demo needs.
struct Client(BufStream<TcpStream>);

impl Client {
    /// Sends a command and reads up to its tagged answer.
    async fn ask(&mut self, command: &str) -> io::Result<Vec<String>> {
        self.0.write_all(format!("{command}\r\n").as_bytes()).await?;
        self.0.flush().await?;
        let tag = command.split(' ').next();
        let mut lines = Vec::new();
        loop {
            lines.push(self.line().await?);
            if lines.last().and_then(|line| line.split(' ').next()) == tag {
                return Ok(lines);
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        let late = |_| Error::other("the gateway did not answer the demo's client in time");
        match timeout(PATIENCE, self.0.read_line(&mut line)).await.map_err(late)?? {
            0 => Err(Error::other("the gateway closed the demo's connection")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl<W: Write> Screen<W> {
    /// Both sides of the conversation and whether it was right, which is also what is returned.
    fn conversation(&mut self, evidence: &Evidence) -> io::Result<bool> {
        self.line(BOLD, "imapmove demo")?;
        writeln!(self.out, "A mail client moves two messages on a server that never learned MOVE.\n")?;
        self.line(BOLD, "The client asks")?;
        self.line(CYAN, &format!("    {}", evidence.command))?;
        self.line(BOLD, "\nThe gateway asks the server (>), which answers (<)")?;
        for said in &evidence.said {
            match said {
                Said::Asked(line) => self.line(CYAN, &format!("  > {line}"))?,
                Said::Answered(line) => self.line(DIM, &format!("  < {line}"))?,
            }
        }
        self.line(BOLD, "\nThe client sees")?;
        for line in &evidence.seen {
            self.line(CYAN, &format!("    {line}"))?;
        }
        self.line(BOLD, "\nChecked")?;
        let checks = evidence.checks();
        for (right, what) in &checks {
            let (style, mark) = if *right { (GREEN, "ok") } else { (RED, "WRONG") };
            self.line(style, &format!("    {mark:5}  {what}"))?;
        }
        Ok(checks.iter().all(|(right, _)| *right))
    }

    /// How to go on with a mail client of one's own.
    fn invitation(&mut self, gateway: SocketAddr) -> io::Result<()> {
        let (ip, port) = (gateway.ip(), gateway.port());
        self.line(BOLD, "\nNow with your own mail client, until Ctrl-C")?;
        writeln!(
            self.out,
            "    IMAP server {ip}, port {port}, no encryption, user {LOGIN}, password {LOGIN}"
        )?;
        let curl = format!("curl -v -u {LOGIN}:{LOGIN} imap://{gateway}/INBOX -X 'UID MOVE 1 Archive'");
        self.line(CYAN, &format!("    {curl}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(coloured: bool) -> String {
        let mut screen = Screen { out: Vec::new(), coloured };
        let evidence = checks::tests::evidence();
        assert!(screen.conversation(&evidence).expect("a vector takes all"));
        screen.invitation(([127, 0, 0, 1], 65535).into()).expect("a vector takes all");
        String::from_utf8(screen.out).expect("text")
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let (plain, mut coloured) = (shown(false), shown(true));
        assert!(!plain.contains('\x1b') && plain.lines().all(|line| line.len() <= 80), "{plain}");
        for style in [BOLD, DIM, RED, GREEN, CYAN, "0"] {
            coloured = coloured.replace(&format!("\x1b[{style}m"), "");
        }
        assert_eq!(coloured, plain);
        assert_ne!(shown(true), plain);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut evidence = checks::tests::evidence();
        evidence.seen.clear();
        let mut screen = Screen { out: Vec::new(), coloured: false };
        assert!(!screen.conversation(&evidence).expect("a vector takes all"));
        assert!(String::from_utf8(screen.out).expect("text").contains("WRONG  the client saw"));
    }
}
