//! `--try`: a message goes there and back, through a gateway in this very process, which does what every gateway does.

use super::Options;
use super::dialogue::{Answer, Command, Dialogue, Result, shown};
use super::look;
use super::report::{Quirk, Report};
use super::scratch::{self, MESSAGE_ID, Scratch};
use crate::imap::Tls;
use crate::proxy::Proxy;
use crate::shared::Signal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Of the message: what a copy must keep.
const FLAGS: &str = "\\Flagged \\Seen";
/// Long ago.
const DATE: &str = "17-Jul-1996 02:44:25 +0000";

/// What is said where a signal came.
pub const INTERRUPTED: &str = "Interrupted";

/// What was tried and what came of it.
#[derive(Debug, Default)]
pub struct Trial {
    /// In order.
    pub checks: Vec<Check>,
    /// Why a MOVE does not work, in the gateway's words.
    pub refusal: Option<String>,
    /// Mailboxes of earlier probes that were removed.
    pub old: usize,
    /// Mailboxes of this one that are left, or may be.
    pub left: Vec<String>,
    /// Why nobody knows.
    pub why_left: Option<String>,
}

/// Something that was looked at.
#[derive(Clone, Debug)]
pub struct Check {
    /// It was as it should be.
    pub right: bool,
    /// What.
    pub what: String,
}

impl Trial {
    /// For scripts.
    pub fn json(&self) -> Value {
        let checks = self.checks.iter().map(|check| json!({ "right": check.right, "what": check.what }));
        json!({
            "checks": checks.collect::<Vec<_>>(),
            "refusal": self.refusal,
            "old_removed": self.old,
            "left_behind": self.left,
            "why_left_behind": self.why_left,
        })
    }

    fn check(&mut self, right: bool, what: impl Into<String>) {
        self.checks.push(Check { right, what: what.into() });
    }

    /// All was right.
    pub fn is_right(&self) -> bool {
        self.refusal.is_none() && self.checks.iter().all(|check| check.right)
    }
}

/// Tries it, until it is done or `stop` comes, and cleans up in any case. The error is why it could not be tried, or not
/// to the end.
pub async fn run(options: &Options, report: &mut Report, stop: &mut mpsc::Receiver<Signal>) -> Result<()> {
    let (old, scratch) = tokio::select! {
        prepared = prepare(options) => prepared?,
        _ = stop.recv() => return Err(INTERRUPTED.to_string()),
    };
    let mut trial = Trial { old, ..Trial::default() };
    let gateway = Gateway::start(options, report.tls).await?;
    let (tried, interrupted) = tokio::select! {
        tried = attempt(options, &gateway, &scratch, report, &mut trial) => (tried, false),
        _ = stop.recv() => {
            eprintln!("imapmove: interrupted, cleaning up; interrupt it again to leave all as it is");
            (Err(INTERRUPTED.to_string()), true)
        }
    };
    let cleaning = async {
        // First, so that a MOVE in progress has its end.
        gateway.stop().await;
        scratch::sweep(options, &scratch, tried.is_err()).await
    };
    let cleaned = tokio::select! {
        cleaned = cleaning => cleaned,
        () = insisted(stop, interrupted) => Err(INTERRUPTED.to_string()),
    };
    match cleaned {
        Ok(left) => trial.left = left,
        Err(why) => (trial.left, trial.why_left) = (vec![scratch.source, scratch.target], Some(why)),
    }
    report.trial = Some(trial);
    tried
}

/// What earlier probes left is removed: so many mailboxes. And what ours are called.
async fn prepare(options: &Options) -> Result<(usize, Scratch)> {
    let mut dialogue = look::another(options).await?;
    let old = scratch::sweep_old(&mut dialogue).await?;
    let scratch = Scratch::new(&mut dialogue).await?;
    let _ = dialogue.ask("LOGOUT").await;
    Ok((old, scratch))
}

/// A signal; or a second one, if none has come before.
async fn insisted(stop: &mut mpsc::Receiver<Signal>, interrupted: bool) {
    if !interrupted {
        stop.recv().await;
    }
    stop.recv().await;
}

/// A gateway in this process, in front of the server.
struct Gateway {
    address: SocketAddr,
    stop: mpsc::Sender<Signal>,
    ended: JoinHandle<usize>,
}

impl Gateway {
    async fn start(options: &Options, tls: Tls) -> Result<Gateway> {
        let config = options.config(tls).map_err(|e| e.to_string())?;
        let proxy = Proxy::bind(config).await.map_err(|e| e.to_string())?;
        let address = proxy.address().ok_or("The gateway listens nowhere")?;
        let (stop, signals) = mpsc::channel(2);
        Ok(Gateway { address, stop, ended: tokio::spawn(proxy.run(signals)) })
    }

    /// Ends it gently.
    async fn stop(self) {
        let _ = self.stop.send(Signal::Stop).await;
        let _ = self.ended.await;
    }
}

/// All that is said to the gateway.
async fn attempt(
    options: &Options,
    gateway: &Gateway,
    scratch: &Scratch,
    report: &mut Report,
    trial: &mut Trial,
) -> Result<()> {
    let (user, password) = options.login.as_ref().ok_or("There is no user to log in as")?;
    let stream = TcpStream::connect(gateway.address).await.map_err(|e| format!("The gateway: {e}"))?;
    let mut client = Dialogue::in_clear(stream);
    client.greeting().await?;
    let before = report.before_login.clone().unwrap_or_default();
    let login = client.log_in(user, password, &before).await?;
    let listed = login.capabilities().is_some_and(|list| look::has(&Some(list), "MOVE"));
    trial.check(listed, "clients see MOVE after their login");
    let first = fill(&mut client, scratch).await?;
    let Scratch { source, target } = scratch;
    for (verb, from, to, way) in [("UID MOVE", source, target, "there"), ("MOVE", target, source, "back")] {
        let Some(kept) = go(&mut client, (verb, from, to, way), report, trial).await? else { return Ok(()) };
        trial.check(kept == first, "there it is, once: octets, flags and date as they were");
    }
    let _ = client.ask("LOGOUT").await;
    Ok(())
}

/// What a copy must keep of a message.
#[derive(PartialEq)]
struct Kept(Vec<String>);

/// Makes both mailboxes, and the message.
async fn fill(client: &mut Dialogue, scratch: &Scratch) -> Result<Kept> {
    for name in [&scratch.source, &scratch.target] {
        client.carry_out(Command::new("CREATE").string(name.as_bytes())).await?.ok("CREATE")?;
    }
    let message = format!(
        "From: imapmove probe <probe@imapmove-probe.invalid>\r\nSubject: imapmove probe\r\nMessage-ID: {MESSAGE_ID}\r\n\
         Date: Wed, 17 Jul 1996 02:44:25 +0000\r\n\r\nMade by `imapmove probe --try`, which deletes it again.\r\n"
    );
    let append = Command::new("APPEND")
        .string(scratch.source.as_bytes())
        .with(format!(" ({FLAGS}) \"{DATE}\"").as_bytes());
    client.carry_out(append.literal(message.as_bytes())).await?.ok("APPEND")?;
    select(client, &scratch.source).await?;
    Ok(only_message(client).await?.ok_or("The message that was made is not there")?.1)
}

async fn select(client: &mut Dialogue, name: &str) -> Result<Answer> {
    client.carry_out(Command::new("SELECT").string(name.as_bytes())).await?.ok("SELECT")
}

/// The one message of the selected mailbox: its UID and what must be kept; nothing if there is none, or another one too.
async fn only_message(client: &mut Dialogue) -> Result<Option<(u32, Kept)>> {
    let answer = client.ask("UID FETCH 1:* (UID FLAGS INTERNALDATE BODY.PEEK[])").await?.ok("FETCH")?;
    let mut found = answer.numbered("FETCH").filter(|(_, said)| said.contains("BODY[]"));
    let (Some((_, said)), None) = (found.next(), found.next()) else { return Ok(None) };
    let split = said.split_once("BODY[] {").and_then(|(head, rest)| Some((head, rest.split_once("}\r\n")?)));
    let (head, (length, rest)) =
        split.ok_or("The server sent a message in a form that a probe cannot read")?;
    let length = length.parse().ok().filter(|length| rest.is_char_boundary(*length)).unwrap_or(rest.len());
    let (octets, tail) = rest.split_at(length);
    // Attributes may stand on both sides.
    let told = format!("{head} {tail}");
    let between = |start: &str, end: &str| {
        let rest = told.split_once(start).map_or("", |(_, rest)| rest);
        rest.split_once(end).map_or(rest, |(inside, _)| inside).to_string()
    };
    let uid: String = between("UID ", " ").chars().take_while(char::is_ascii_digit).collect();
    let mut flags: Vec<String> = between("FLAGS (", ")").split(' ').map(str::to_lowercase).collect();
    flags.retain(|flag| flag != "\\recent");
    flags.sort_unstable();
    let kept = vec![octets.to_string(), flags.join(" "), between("INTERNALDATE \"", "\"")];
    Ok(Some((uid.parse().map_err(|_| "The message that was made has no UID")?, Kept(kept))))
}

/// Moves the message from one to the other. What is kept of it there; nothing, if it was refused.
async fn go(
    client: &mut Dialogue,
    (verb, from, to, way): (&str, &str, &str, &str),
    report: &mut Report,
    trial: &mut Trial,
) -> Result<Option<Kept>> {
    select(client, from).await?;
    let (uid, _) = only_message(client).await?.ok_or("The message is not where it was")?;
    let number = if verb == "MOVE" { 1 } else { uid };
    let answer = client.carry_out(Command::new(&format!("{verb} {number}")).string(to.as_bytes())).await?;
    if !answer.is_ok() {
        let refusal = shown(&answer.status);
        trial.check(false, format!("{verb} {way}: {refusal}"));
        report.quirks.extend(refusal.contains("no COPYUID").then_some(Quirk::NoCopyuid));
        trial.refusal = Some(refusal);
        return Ok(None);
    }
    let proof = if answer.code("COPYUID").is_some() { ", with COPYUID" } else { "" };
    trial.check(true, format!("{verb} {way}: OK in {}{proof}", milliseconds(answer.took)));
    let seen = answer.numbered("EXPUNGE").next().is_some() || answer.data("VANISHED").next().is_some();
    if !seen && !report.quirks.contains(&Quirk::SilentExpunge) {
        report.quirks.push(Quirk::SilentExpunge);
    }
    let rest = client.ask("UID SEARCH ALL").await?.ok("SEARCH")?;
    let is_gone = rest.data("SEARCH").all(str::is_empty);
    trial.check(is_gone, if seen { "the client saw it leave" } else { "it has left" });
    select(client, to).await?;
    let there = only_message(client).await?;
    if there.is_none() {
        trial.check(false, "there it is not, or more than once");
    }
    Ok(there.map(|(_, kept)| kept))
}

/// A time as a person reads it.
pub fn milliseconds(time: Duration) -> String {
    let number = time.as_secs_f64() * 1_000.0;
    let digits = if number < 10.0 { 2 } else { 0 };
    format!("{number:.digits$} ms")
}
