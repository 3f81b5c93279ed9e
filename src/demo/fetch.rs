//! FETCH: what is asked about a message, and the answer (RFC 3501 sections 6.4.5 and 7.4.2).

use super::args::{Args, Refusal, Result};
use super::message::{Section, envelope, literal, split, structure};
use super::store::{Flags, Message};

/// The most items that one FETCH asks for.
const MAX_ITEMS: usize = 64;

/// One `fetch-att`.
#[derive(Debug)]
pub enum Item {
    /// FLAGS
    Flags,
    /// UID
    Uid,
    /// INTERNALDATE
    InternalDate,
    /// RFC822.SIZE
    Size,
    /// ENVELOPE
    Envelope,
    /// BODY, or with `true` BODYSTRUCTURE.
    Structure(bool),
    /// BODY[...] and its older spellings.
    Content {
        /// How the answer names it.
        label: String,
        /// Which octets.
        section: Section,
        /// `<first.length>`
        partial: Option<(usize, usize)>,
        /// Whether reading it sets `\Seen`.
        sets_seen: bool,
    },
}

/// Reads `("ALL" / "FULL" / "FAST" / fetch-att / "(" fetch-att *(SP fetch-att) ")")`.
pub fn items(args: &mut Args) -> Result<Vec<Item>> {
    let fast = || vec![Item::Flags, Item::InternalDate, Item::Size];
    for (name, more) in [
        ("FAST", vec![]),
        ("ALL", vec![Item::Envelope]),
        ("FULL", vec![Item::Envelope, Item::Structure(false)]),
    ] {
        if args.skip(name) {
            return Ok(fast().into_iter().chain(more).collect());
        }
    }
    let items = if args.peek() == Some(b'(') { args.list(item)? } else { vec![item(args)?] };
    let legal = (1..=MAX_ITEMS).contains(&items.len());
    if legal { Ok(items) } else { Err(Refusal::Bad("Between 1 and 64 items can be fetched")) }
}

fn item(args: &mut Args) -> Result<Item> {
    for (name, sets_seen) in [("BODY.PEEK[", false), ("BODY[", true)] {
        if args.skip(name) {
            return content(args, sets_seen);
        }
    }
    let older = |label: &str, section, sets_seen| {
        Ok(Item::Content { label: label.to_owned(), section, partial: None, sets_seen })
    };
    match args.atom()?.as_str() {
        "FLAGS" => Ok(Item::Flags),
        "UID" => Ok(Item::Uid),
        "INTERNALDATE" => Ok(Item::InternalDate),
        "RFC822.SIZE" => Ok(Item::Size),
        "ENVELOPE" => Ok(Item::Envelope),
        "BODY" => Ok(Item::Structure(false)),
        "BODYSTRUCTURE" => Ok(Item::Structure(true)),
        "RFC822" => older("RFC822", Section::Whole, true),
        "RFC822.HEADER" => older("RFC822.HEADER", Section::Header, false),
        "RFC822.TEXT" => older("RFC822.TEXT", Section::Text, true),
        _ => Err(Refusal::Bad("No such FETCH item")),
    }
}

/// Reads what follows `BODY[`: `section "]" ["<" number "." nz-number ">"]`.
fn content(args: &mut Args, sets_seen: bool) -> Result<Item> {
    let spec = args.0;
    let section = Section::read(args)?;
    let spec = String::from_utf8_lossy(&spec[..spec.len() - args.0.len()]);
    let mut label = format!("BODY[{spec}");
    if !args.skip("<") {
        return Ok(Item::Content { label, section, partial: None, sets_seen });
    }
    let first = args.number()?;
    let length = if args.skip(".") { args.number()? } else { 0 };
    if length == 0 || !args.skip(">") {
        return Err(Refusal::Bad("A partial is <first.length>"));
    }
    label.push_str(&format!("<{first}>"));
    Ok(Item::Content { label, section, partial: Some((first as usize, length as usize)), sets_seen })
}

/// Whether answering sets `\Seen`.
pub fn sets_seen(items: &[Item]) -> bool {
    items.iter().any(|item| matches!(item, Item::Content { sets_seen: true, .. }))
}

/// Writes `* n FETCH (...)`.
pub fn answer(out: &mut Vec<u8>, number: u32, message: &Message, items: &[Item]) {
    out.extend(format!("* {number} FETCH (").bytes());
    for (at, item) in items.iter().enumerate() {
        out.extend((at > 0).then_some(b' '));
        value(out, message, item);
    }
    out.extend(b")\r\n");
}

fn value(out: &mut Vec<u8>, message: &Message, item: &Item) {
    let octets = &message.octets;
    match item {
        Item::Flags => out.extend(format!("FLAGS ({})", flag_list(&message.flags)).bytes()),
        Item::Uid => out.extend(format!("UID {}", message.uid).bytes()),
        Item::InternalDate => {
            out.extend(message.date.format("INTERNALDATE \"%e-%b-%Y %H:%M:%S %z\"").to_string().bytes());
        }
        Item::Size => out.extend(format!("RFC822.SIZE {}", octets.len()).bytes()),
        Item::Envelope => {
            out.extend(b"ENVELOPE ");
            envelope(out, octets);
        }
        Item::Structure(extended) => {
            out.extend(if *extended { &b"BODYSTRUCTURE "[..] } else { b"BODY " });
            structure(out, octets, *extended);
        }
        Item::Content { label, section, partial, .. } => {
            out.extend(format!("{label} ").bytes());
            let content = section.of(octets);
            let (first, length) = partial.unwrap_or((0, content.len()));
            let from = first.min(content.len());
            literal(out, &content[from..from.saturating_add(length).min(content.len())]);
        }
    }
}

/// Flags with spaces between.
pub fn flag_list(flags: &Flags) -> String {
    flags.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// How large the answer about this message becomes at most, leaving small items apart.
pub fn weight(message: &Message, items: &[Item]) -> usize {
    let header = split(&message.octets).0.len();
    let each = items.iter().map(|item| match item {
        Item::Content { .. } => message.octets.len(),
        Item::Envelope => 4 * header,
        _ => 0,
    });
    each.sum()
}
