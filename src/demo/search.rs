//! SEARCH: the keys that ordinary clients use (RFC 3501 section 6.4.4).

use super::args::{Args, Refusal, Result};
use super::message::{field, split};
use super::store::Message;
use chrono::{DateTime, NaiveDate};

/// How deep keys may be nested.
const MAX_DEPTH: usize = 20;

/// A message that is asked about, and where it stands.
pub struct Candidate<'a> {
    /// Its message number.
    pub number: u32,
    /// The message.
    pub message: &'a Message,
    /// What `*` means: the highest message number and the highest UID.
    pub last: (u32, u32),
}

/// A `search-key`: whether it names a message.
pub type Key = Box<dyn Fn(&Candidate) -> bool>;

/// Reads `["CHARSET" SP astring SP] search-key *(SP search-key)`.
pub fn keys(args: &mut Args) -> Result<Key> {
    if args.skip("CHARSET ") {
        let charset = args.text()?.to_ascii_uppercase();
        if !matches!(charset.as_str(), "UTF-8" | "US-ASCII") {
            return Err(Refusal::No("[BADCHARSET (US-ASCII UTF-8)] No such charset"));
        }
        args.space()?;
    }
    let mut keys = vec![key(args, 0)?];
    while args.skip(" ") {
        keys.push(key(args, 0)?);
    }
    Ok(all(keys))
}

fn all(keys: Vec<Key>) -> Key {
    Box::new(move |candidate| keys.iter().all(|key| key(candidate)))
}

fn key(args: &mut Args, depth: usize) -> Result<Key> {
    if depth > MAX_DEPTH {
        return Err(Refusal::Bad("These keys are nested too deeply"));
    }
    match args.peek() {
        Some(b'(') => return Ok(all(args.list(|args| key(args, depth + 1))?)),
        Some(b'0'..=b'9' | b'*') => {
            let set = args.set()?;
            return Ok(Box::new(move |it| set.contains(it.number, it.last.0)));
        }
        _ => {}
    }
    let name = args.atom()?;
    if let Some(key) = flag_key(&name) {
        return Ok(key);
    }
    args.space()?;
    match name.as_str() {
        "NOT" => key(args, depth + 1).map(|key| -> Key { Box::new(move |it| !key(it)) }),
        "OR" => {
            let one = key(args, depth + 1)?;
            args.space()?;
            let other = key(args, depth + 1)?;
            Ok(Box::new(move |it| one(it) || other(it)))
        }
        "UID" => args.set().map(|set| -> Key { Box::new(move |it| set.contains(it.message.uid, it.last.1)) }),
        "LARGER" => {
            args.number().map(|size| -> Key { Box::new(move |it| it.message.octets.len() > size as usize) })
        }
        "SMALLER" => {
            args.number().map(|size| -> Key { Box::new(move |it| it.message.octets.len() < (size as usize)) })
        }
        _ => text_key(&name, args).unwrap_or_else(|| date_key(&name, args)),
    }
}

/// Keys without an argument. Nothing is ever `\Recent` here.
fn flag_key(name: &str) -> Option<Key> {
    let flag = |flag: &'static str, set: bool| -> Option<Key> {
        Some(Box::new(move |it| it.message.has(flag) == set))
    };
    match name {
        "ALL" | "OLD" => Some(Box::new(|_| true)),
        "NEW" | "RECENT" => Some(Box::new(|_| false)),
        "ANSWERED" => flag("\\Answered", true),
        "DELETED" => flag("\\Deleted", true),
        "DRAFT" => flag("\\Draft", true),
        "FLAGGED" => flag("\\Flagged", true),
        "SEEN" => flag("\\Seen", true),
        "UNANSWERED" => flag("\\Answered", false),
        "UNDELETED" => flag("\\Deleted", false),
        "UNDRAFT" => flag("\\Draft", false),
        "UNFLAGGED" => flag("\\Flagged", false),
        "UNSEEN" => flag("\\Seen", false),
        _ => None,
    }
}

/// Keys that look for a text, in any case, and for keywords.
fn text_key(name: &str, args: &mut Args) -> Option<Result<Key>> {
    let read = |args: &mut Args| args.text().map(|text| text.to_lowercase());
    let result = match name {
        "SUBJECT" | "FROM" | "TO" | "CC" | "BCC" => {
            read(args).map(|text| in_field(name.to_lowercase(), text))
        }
        "HEADER" => read(args).and_then(|name| {
            args.space()?;
            Ok(in_field(name, read(args)?))
        }),
        "BODY" => {
            read(args).map(|text| -> Key { Box::new(move |it| holds(split(&it.message.octets).1, &text)) })
        }
        "TEXT" => read(args).map(|text| -> Key { Box::new(move |it| holds(&it.message.octets, &text)) }),
        "KEYWORD" => args.flag().map(|flag| -> Key { Box::new(move |it| it.message.has(&flag)) }),
        "UNKEYWORD" => args.flag().map(|flag| -> Key { Box::new(move |it| !it.message.has(&flag)) }),
        _ => return None,
    };
    Some(result)
}

fn in_field(name: String, text: String) -> Key {
    Box::new(move |it| {
        let value = field(split(&it.message.octets).0, &name);
        value.is_some_and(|value| value.to_lowercase().contains(&text))
    })
}

fn holds(octets: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(octets).to_lowercase().contains(text)
}

/// Keys that compare days: as the server took the message in, or with SENT as its Date field says.
fn date_key(name: &str, args: &mut Args) -> Result<Key> {
    let compare: fn(&NaiveDate, &NaiveDate) -> bool = match name.strip_prefix("SENT").unwrap_or(name) {
        "BEFORE" => NaiveDate::lt,
        "ON" => NaiveDate::eq,
        "SINCE" => NaiveDate::ge,
        _ => return Err(Refusal::Bad("No such SEARCH key")),
    };
    let (wanted, sent) = (args.date()?, name.starts_with("SENT"));
    Ok(Box::new(move |it| {
        let date = if sent { sent_on(it.message) } else { Some(it.message.date.date_naive()) };
        date.is_some_and(|date| compare(&date, &wanted))
    }))
}

fn sent_on(message: &Message) -> Option<NaiveDate> {
    let date = field(split(&message.octets).0, "date")?;
    DateTime::parse_from_rfc2822(&date).ok().map(|date| date.date_naive())
}
