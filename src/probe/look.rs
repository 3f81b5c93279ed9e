//! A look at the server itself: what it says and what it takes, without changing anything there.

use super::Options;
use super::dialogue::{Answer, Dialogue, Result, shown, word};
use super::report::{Quirk, Report};
use crate::imap::{Strategy, Tls};
use crate::shared::Current;
use crate::tls::Connector;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For a connection, as the gateway has it.
const CONNECT: Duration = Duration::from_secs(10);
/// For a handshake.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// So many NOOPs are timed.
const NOOPS: usize = 5;
/// The shortest line that is worth a try, in octets: less, and a setting would not take it.
const SHORTEST_LINE: usize = 512;
/// Above every UID of a mailbox by so many: nobody delivers so much meanwhile.
const BEYOND: u32 = 1_000_000;

/// Connects, up to where a login is next. What is seen goes into the report as it comes.
pub async fn enter(options: &Options, report: &mut Report) -> Result<Dialogue> {
    let begun = Instant::now();
    let at = &report.target.at;
    let connecting = timeout(CONNECT, TcpStream::connect((at.host.as_str(), at.port))).await;
    let connected = connecting.map_err(|_| format!("{at} took no connection in time"))?;
    let stream = connected.map_err(|e| format!("{at} cannot be reached: {e}"))?;
    report.connected = Some(begun.elapsed());
    let _ = stream.set_nodelay(true);
    if report.target.implicit {
        report.tls = Tls::Implicit;
        let mut dialogue = secure(options, report, stream).await?;
        greet(&mut dialogue, report).await?;
        list_before_login(&mut dialogue, report).await?;
        return Ok(dialogue);
    }
    let mut dialogue = Dialogue::in_clear(stream);
    greet(&mut dialogue, report).await?;
    list_before_login(&mut dialogue, report).await?;
    let offered = has(&report.before_login, "STARTTLS");
    let wanted = options.stated_tls == Some(Tls::StartTls);
    if wanted && !offered {
        return Err("The server does not offer STARTTLS".to_string());
    }
    if !wanted && (options.stated_tls.is_some() || !offered || report.target.at.is_loopback()) {
        return Ok(dialogue);
    }
    report.tls = Tls::StartTls;
    dialogue.ask("STARTTLS").await?.ok("STARTTLS")?;
    let mut dialogue = secure(options, report, dialogue.into_stream()?).await?;
    list_before_login(&mut dialogue, report).await?;
    Ok(dialogue)
}

async fn secure(options: &Options, report: &mut Report, stream: TcpStream) -> Result<Dialogue> {
    let current = Current::new(options.config(report.tls).map_err(|e| e.to_string())?);
    let connector = current.map_err(|e| e.to_string())?.connector.expect("a leg with TLS has one");
    let late = |_| "The server did not complete the TLS handshake in time".to_string();
    let stream = timeout(HANDSHAKE, connector.connect(stream)).await.map_err(late)??;
    report.handshake = Some(Connector::report(&stream));
    Ok(Dialogue::in_tls(stream))
}

async fn greet(dialogue: &mut Dialogue, report: &mut Report) -> Result<()> {
    let greeting = dialogue.greeting().await?;
    let words = greeting.strip_prefix("* ").map(word).unwrap_or_default().to_ascii_uppercase();
    report.greeting = Some(shown(&without_list(&greeting)));
    match words.as_str() {
        "OK" => Ok(()),
        "PREAUTH" => {
            Err("The server logs everybody in by itself (PREAUTH): there is nobody to probe as".to_string())
        }
        "BYE" => Err(format!("The server turns us away: {}", shown(&greeting))),
        _ => Err("What answers there does not speak IMAP".to_string()),
    }
}

/// A greeting's words. The capabilities in it have a place of their own.
fn without_list(greeting: &str) -> String {
    let code =
        greeting.find("[CAPABILITY ").and_then(|begin| Some((begin, begin + greeting[begin..].find(']')?)));
    let words = code.map_or(greeting.to_string(), |(begin, end)| {
        format!("{}{}", &greeting[..begin], greeting[end + 1..].trim_start())
    });
    words.strip_prefix("* ").unwrap_or(&words).to_string()
}

async fn list_before_login(dialogue: &mut Dialogue, report: &mut Report) -> Result<()> {
    let answer = dialogue.ask("CAPABILITY").await?.ok("CAPABILITY")?;
    report.before_login = answer.capabilities();
    Ok(())
}

/// Whether a list has this word.
pub fn has(list: &Option<Vec<String>>, name: &str) -> bool {
    list.iter().flatten().any(|token| token.eq_ignore_ascii_case(name))
}

/// What the gateway makes of a MOVE where this is the list.
pub fn strategy(list: &[String]) -> Strategy {
    Strategy::of(list.join(" ").as_bytes())
}

/// Logs in on a connection that [`enter`] made.
pub async fn log_in(options: &Options, dialogue: &mut Dialogue, report: &Report) -> Result<Answer> {
    let (user, password) = options.login.as_ref().ok_or("There is no user to log in as")?;
    let is_private = report.tls != Tls::Off || report.target.at.is_loopback();
    if !is_private && options.stated_tls.is_none() {
        return Err("The server offers no TLS here, and a password should not cross a network in clear; if you trust \
                    yours: --upstream-tls off"
            .to_string());
    }
    let before = report.before_login.as_deref().unwrap_or_default();
    let wants_tls = report.tls == Tls::Off && has(&report.before_login, "LOGINDISABLED");
    let hint = if wants_tls { "; it wants TLS first: --upstream-tls starttls" } else { "" };
    dialogue.log_in(user, password, before).await.map_err(|refusal| refusal + hint)
}

/// Another connection, logged in.
pub async fn another(options: &Options) -> Result<Dialogue> {
    let mut report = Report::new(options.target.clone());
    let mut dialogue = enter(options, &mut report).await?;
    log_in(options, &mut dialogue, &report).await?;
    Ok(dialogue)
}

/// All that can be seen after a login.
pub async fn look_around(options: &Options, dialogue: &mut Dialogue, report: &mut Report) -> Result<()> {
    let login = log_in(options, dialogue, report).await?;
    let asked = dialogue.ask("CAPABILITY").await?.ok("CAPABILITY")?.capabilities().unwrap_or_default();
    let at_login = login.capabilities();
    // The gateway asks where it is told nothing (CAP-5).
    let by = strategy(at_login.as_ref().unwrap_or(&asked));
    report.strategy = Some(by);
    report.quirks.extend(quirks_of_lists(report, at_login.as_deref(), &asked));
    report.after_login = Some(asked);
    report.round_trip = Some(round_trip(dialogue).await?);
    let inbox = dialogue.ask("EXAMINE INBOX").await?;
    if !inbox.is_ok() {
        return Ok(());
    }
    if clamps_unknown_uids(dialogue, &inbox).await? {
        report.quirks.push(Quirk::UnknownUidClamped);
    }
    if by == Strategy::Copy {
        report.quirks.extend(line_limit(options).await);
    }
    Ok(())
}

fn quirks_of_lists(report: &Report, at_login: Option<&[String]>, asked: &[String]) -> Vec<Quirk> {
    let before = report.before_login.as_deref().map(strategy);
    let differs = at_login.is_some_and(|list| strategy(list) != strategy(asked));
    let is_late = before == Some(Strategy::Refuse) && strategy(asked) != Strategy::Refuse;
    let in_clear = report.tls == Tls::Off && !report.target.at.is_loopback();
    [
        (in_clear, Quirk::InClear),
        (is_late, Quirk::OnlyAfterLogin),
        (at_login.is_none(), Quirk::NoListAtLogin),
        (differs, Quirk::ListsDiffer),
    ]
    .into_iter()
    .filter_map(|(found, quirk)| found.then_some(quirk))
    .collect()
}

async fn round_trip(dialogue: &mut Dialogue) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..NOOPS {
        times.push(dialogue.ask("NOOP").await?.took);
    }
    times.sort_unstable();
    Ok(times[NOOPS / 2])
}

/// Whether it answers about another message than the one it was asked about (SRV-3): some map an unknown UID to the
/// last one. Shows only where there is a message.
async fn clamps_unknown_uids(dialogue: &mut Dialogue, selected: &Answer) -> Result<bool> {
    let next = selected.code("UIDNEXT").and_then(|next| next.parse::<u32>().ok());
    let nobodys = next.unwrap_or(u32::MAX / 2).saturating_add(BEYOND);
    let answer = dialogue.ask(&format!("UID FETCH {nobodys} (UID)")).await?;
    let asked = format!("UID {nobodys}");
    Ok(answer.numbered("FETCH").any(|(_, said)| said.contains("UID ") && !said.contains(&asked)))
}

/// Whether it takes the longest line that the gateway would write, and if not, a shorter one.
async fn line_limit(options: &Options) -> Option<Quirk> {
    let longest = options.max_line;
    if takes_line(options, longest).await? {
        return None;
    }
    let mut shorter = longest / 2;
    while shorter >= SHORTEST_LINE && !takes_line(options, shorter).await? {
        shorter /= 2;
    }
    Some(Quirk::LineLimit(longest, (shorter >= SHORTEST_LINE).then_some(shorter)))
}

/// On a connection of its own: some hang up. Nothing, if there is none to be had.
async fn takes_line(options: &Options, octets: usize) -> Option<bool> {
    let mut dialogue = another(options).await.ok()?;
    let opened = dialogue.ask("EXAMINE INBOX").await.ok()?;
    let answered = dialogue.ask(&line_of(octets)).await;
    let _ = dialogue.ask("LOGOUT").await;
    opened.is_ok().then(|| answered.is_ok_and(|answer| answer.is_ok()))
}

/// A command about messages that nobody has, as long as it may be: with its tag and its CRLF, `octets`.
fn line_of(octets: usize) -> String {
    const FIRST: usize = 1_000_000_001;
    let (head, tail) = ("UID FETCH ", " (UID)");
    // The tag, its space and the CRLF; and of each UID its ten digits and a comma.
    let room = octets.saturating_sub(head.len() + tail.len() + "p99 \r\n".len());
    let uids: Vec<String> = (0..room.div_ceil(11).max(1)).map(|n| (FIRST + 2 * n).to_string()).collect();
    let mut set = uids.join(",");
    set.truncate(room.max(10));
    format!("{head}{}{tail}", set.trim_end_matches(','))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::target::Target;

    #[test]
    fn a_servers_lists_are_compared() {
        let words = |list: &str| list.split(' ').map(str::to_string).collect::<Vec<_>>();
        let found = |url: &str, before: &str, at_login: Option<&str>, asked: &str| {
            let mut report = Report::new(Target::parse(url).expect("a URL"));
            report.before_login = Some(words(before));
            quirks_of_lists(&report, at_login.map(words).as_deref(), &words(asked))
        };
        let here = "imap://127.0.0.1";
        assert_eq!(found(here, "UIDPLUS", Some("UIDPLUS"), "UIDPLUS"), []);
        assert_eq!(found(here, "X", Some("UIDPLUS"), "UIDPLUS"), [Quirk::OnlyAfterLogin]);
        assert_eq!(found(here, "X", Some("X"), "X"), []);
        assert_eq!(found(here, "UIDPLUS", None, "UIDPLUS"), [Quirk::NoListAtLogin]);
        assert_eq!(found(here, "UIDPLUS", Some("X"), "UIDPLUS"), [Quirk::ListsDiffer]);
        assert_eq!(found("imap://192.0.2.1", "UIDPLUS", Some("MOVE"), "MOVE"), [Quirk::InClear]);
    }

    #[test]
    fn a_greetings_words_are_shown_without_its_list() {
        assert_eq!(without_list("* OK [CAPABILITY IMAP4rev1 X] Hello [2]"), "OK Hello [2]");
        assert_eq!(without_list("* OK Hello"), "OK Hello");
        assert_eq!(without_list("HTTP/1.1 400"), "HTTP/1.1 400");
    }

    #[test]
    fn a_long_line_is_as_long_as_it_should_be() {
        for octets in [512, 4_000, 8_000, 65_536] {
            let line = format!("p9 {}\r\n", line_of(octets));
            assert!(line.len() <= octets && line.len() + 3 >= octets, "{octets}: {}", line.len());
            let set = line.split(' ').nth(3).expect("a set");
            assert!(set.split(',').all(|uid| uid.parse::<u32>().is_ok_and(|uid| uid > 0)), "{set}");
        }
    }
}
