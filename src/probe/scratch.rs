//! The mailboxes that `--try` makes, and how they go again, also those of a probe that was killed.

use super::Options;
use super::dialogue::{Command, Dialogue, Result};
use super::look;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Their names begin so.
const NAME: &str = "imapmove-probe-";
/// What stands in each of their messages, and in no other.
pub const MESSAGE_ID: &str = "<scratch@imapmove-probe.invalid>";
/// Times that they are looked for to be removed, on a new connection each.
const TRIES: usize = 5;
/// Between two of them.
const PAUSE: Duration = Duration::from_secs(1);
/// For one of them.
const TIME: Duration = Duration::from_secs(20);

/// The two of one probe.
#[derive(Clone, Debug)]
pub struct Scratch {
    /// Where the message is at first.
    pub source: String,
    /// Where it goes.
    pub target: String,
}

impl Scratch {
    /// With names that no other probe has, where the user's mailboxes are.
    pub async fn new(dialogue: &mut Dialogue) -> Result<Scratch> {
        let prefix = prefix(dialogue).await?;
        let random = RandomState::new().hash_one(std::process::id()) as u32;
        let name = |number| format!("{prefix}{NAME}{random:08x}-{number}");
        Ok(Scratch { source: name(1), target: name(2) })
    }

    fn is_ours(&self, name: &str) -> bool {
        name == self.source || name == self.target
    }
}

/// What stands before the names of a user's own mailboxes (RFC 2342).
async fn prefix(dialogue: &mut Dialogue) -> Result<String> {
    let answer = dialogue.ask("NAMESPACE").await?;
    let personal = answer.data("NAMESPACE").next().and_then(|said| said.strip_prefix("((\""));
    Ok(personal
        .and_then(|said| said.split_once('"'))
        .map(|(prefix, _)| prefix.to_string())
        .unwrap_or_default())
}

/// A name that no user gives: the prefix, eight hexadecimal digits, `-1` or `-2`.
fn is_scratch(name: &str) -> bool {
    let Some((_, rest)) = name.rsplit_once(NAME) else { return false };
    let number = rest.strip_suffix("-1").or(rest.strip_suffix("-2"));
    number.is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Removes what earlier probes left; says how many mailboxes.
pub async fn sweep_old(dialogue: &mut Dialogue) -> Result<usize> {
    let found = list(dialogue).await?;
    for name in &found {
        delete(dialogue, name).await?;
    }
    Ok(found.len() - list(dialogue).await?.len().min(found.len()))
}

/// Removes the two of this probe, on a connection of its own: the one that made them may be gone. Says what is left.
pub async fn sweep(options: &Options, scratch: &Scratch, after_trouble: bool) -> Result<Vec<String>> {
    let mut result = Ok(Vec::new());
    for attempt in 0..TRIES {
        if attempt > 0 || after_trouble {
            // The server may not have noticed yet that a connection is gone, and carry out its last command.
            sleep(PAUSE).await;
        }
        let late = |_| "The server did not answer in time".to_string();
        result = timeout(TIME, sweep_once(options, scratch)).await.map_err(late).flatten();
        if result.as_ref().is_ok_and(Vec::is_empty) {
            break;
        }
    }
    result
}

async fn sweep_once(options: &Options, scratch: &Scratch) -> Result<Vec<String>> {
    let mut dialogue = look::another(options).await?;
    let ours =
        |found: Vec<String>| found.into_iter().filter(|name| scratch.is_ours(name)).collect::<Vec<_>>();
    for name in ours(list(&mut dialogue).await?) {
        delete(&mut dialogue, &name).await?;
    }
    let left = ours(list(&mut dialogue).await?);
    let _ = dialogue.ask("LOGOUT").await;
    Ok(left)
}

/// The names of all scratch mailboxes.
async fn list(dialogue: &mut Dialogue) -> Result<Vec<String>> {
    let pattern = format!("{}{NAME}%", prefix(dialogue).await?);
    let answer = dialogue.ask(&format!("LIST \"\" \"{pattern}\"")).await?.ok("LIST")?;
    let names = answer.data("LIST").map(name_in);
    Ok(names.filter(|name| is_scratch(name)).map(str::to_string).collect())
}

/// The name at the end of `(flags) delimiter name`; none of ours needs an escape.
fn name_in(listed: &str) -> &str {
    let quoted = listed.strip_suffix('"').and_then(|rest| rest.rsplit('"').next());
    quoted.or_else(|| listed.rsplit([' ', '\n']).next()).unwrap_or_default()
}

/// Deletes one, unless somebody has put mail of his own there.
async fn delete(dialogue: &mut Dialogue, name: &str) -> Result<()> {
    let opened = dialogue.carry_out(Command::new("EXAMINE").string(name.as_bytes())).await?;
    if opened.is_ok() {
        let others = format!("UID SEARCH NOT HEADER Message-ID \"{MESSAGE_ID}\"");
        let found = dialogue.ask(&others).await?.ok("SEARCH")?;
        let is_empty = found.data("SEARCH").all(|numbers| !numbers.starts_with(|c: char| c.is_ascii_digit()));
        // Some do not delete what is selected.
        dialogue.ask("EXAMINE INBOX").await?;
        if !is_empty {
            return Ok(());
        }
    }
    // Whether it is gone, the next LIST shows.
    dialogue.carry_out(Command::new("DELETE").string(name.as_bytes())).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_however_it_is_written() {
        for listed in ["() \"/\" \"My Mail/x\"", "() NIL {9}\r\nMy_Mail/x", "(\\X) \".\" My_Mail/x"] {
            assert_eq!(name_in(listed).replace(' ', "_"), "My_Mail/x");
        }
    }

    #[test]
    fn no_mailbox_of_a_users_is_taken_for_one_of_ours() {
        for ours in ["imapmove-probe-0123abcd-1", "INBOX.imapmove-probe-0123abcd-2"] {
            assert!(is_scratch(ours), "{ours}");
        }
        for other in [
            "INBOX",
            "imapmove-probe",
            "imapmove-probe-",
            "imapmove-probe-0123abcd-3",
            "imapmove-probe-0123abcd",
            "imapmove-probe-results-1",
            "imapmove-probe-0123abcd-1/mine",
        ] {
            assert!(!is_scratch(other), "{other}");
        }
    }
}
