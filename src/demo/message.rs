//! What FETCH and SEARCH read in a message: its header, its envelope, its structure (RFC 3501 section 7.4.2).
//!
//! A message counts as one part. A multipart, which only a client's APPEND can bring, is shown as plain text:
//! clients that fetch whole messages, as nearly all do, do not notice.

use super::args::{Args, Refusal, Result};

/// Header, with the empty line that ends it, and text.
pub fn split(message: &[u8]) -> (&[u8], &[u8]) {
    let end = message.windows(4).position(|octets| octets == b"\r\n\r\n").map_or(message.len(), |at| at + 4);
    message.split_at(end)
}

/// The fields of a header as they stand there: name and whole octets, folded lines included.
fn fields(header: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
    for line in header.split_inclusive(|&octet| octet == b'\n').filter(|line| *line != b"\r\n") {
        match fields.last_mut() {
            Some((_, field)) if matches!(line[0], b' ' | b'\t') => field.extend(line),
            _ => {
                let name = line.split(|&octet| octet == b':').next().unwrap_or(line);
                fields.push((String::from_utf8_lossy(name).trim_end().to_ascii_lowercase(), line.to_vec()));
            }
        }
    }
    fields
}

/// The value of a header field, unfolded. `name` is in lower case.
pub fn field(header: &[u8], name: &str) -> Option<String> {
    let (_, field) = fields(header).into_iter().find(|(found, _)| found == name)?;
    let value = field.get(name.len() + 1..).unwrap_or_default();
    Some(String::from_utf8_lossy(value).replace("\r\n", "").trim().to_owned())
}

/// `nstring`: NIL, quoted where that is possible, else a literal.
pub fn nstring(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.extend(b"NIL"),
        Some(text) if text.bytes().all(|octet| (b' '..0x7f).contains(&octet)) => {
            out.extend(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")).bytes());
        }
        Some(text) => literal(out, text.as_bytes()),
    }
}

/// `literal`
pub fn literal(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend(format!("{{{}}}\r\n", octets.len()).bytes());
    out.extend(octets);
}

/// `envelope`
pub fn envelope(out: &mut Vec<u8>, message: &[u8]) {
    let (header, _) = split(message);
    out.push(b'(');
    for name in ["date", "subject"] {
        nstring(out, field(header, name).as_deref());
        out.push(b' ');
    }
    for name in ["from", "sender", "reply-to", "to", "cc", "bcc"] {
        let or_from = if matches!(name, "sender" | "reply-to") { field(header, "from") } else { None };
        addresses(out, &field(header, name).or(or_from).unwrap_or_default());
        out.push(b' ');
    }
    nstring(out, field(header, "in-reply-to").as_deref());
    out.push(b' ');
    nstring(out, field(header, "message-id").as_deref());
    out.push(b')');
}

/// A list of `address`, or NIL.
fn addresses(out: &mut Vec<u8>, value: &str) {
    let addresses: Vec<(Option<String>, &str)> = comma_separated(value).into_iter().map(address).collect();
    if addresses.is_empty() {
        return out.extend(b"NIL");
    }
    out.push(b'(');
    for (name, mailbox) in &addresses {
        let (local, host) = mailbox.rsplit_once('@').unwrap_or((mailbox, ""));
        out.push(b'(');
        nstring(out, name.as_deref());
        out.extend(b" NIL ");
        nstring(out, Some(local));
        out.push(b' ');
        nstring(out, Some(host));
        out.push(b')');
    }
    out.push(b')');
}

/// Cuts at the commas that stand outside of quotes.
fn comma_separated(value: &str) -> Vec<&str> {
    let mut quoted = false;
    let parts = value.split(|character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// `Name <local@host>` or `local@host`.
fn address(text: &str) -> (Option<String>, &str) {
    let Some((name, rest)) = text.rsplit_once('<') else { return (None, text) };
    let name = name.trim().trim_matches('"').replace("\\\"", "\"");
    (Some(name).filter(|name| !name.is_empty()), rest.trim_end_matches('>'))
}

/// `body`: with `extended` as BODYSTRUCTURE has it.
pub fn structure(out: &mut Vec<u8>, message: &[u8], extended: bool) {
    let (header, text) = split(message);
    let content = field(header, "content-type").unwrap_or_default();
    let simple = |content: &&str| {
        content.contains('/') && !content.starts_with("multipart") && !content.starts_with("message")
    };
    let lower = content.to_ascii_lowercase();
    let mut parts = lower.split(';').map(str::trim);
    let (kind, subtype) =
        parts.next().filter(simple).and_then(|kind| kind.split_once('/')).unwrap_or(("text", "plain"));
    let charset =
        parts.find_map(|part| part.strip_prefix("charset=")).unwrap_or("us-ascii").trim_matches('"');
    let encoding = field(header, "content-transfer-encoding").unwrap_or_else(|| "8bit".to_owned());
    out.push(b'(');
    for item in [kind, subtype] {
        nstring(out, Some(item));
        out.push(b' ');
    }
    out.extend(b"(\"charset\" ");
    nstring(out, Some(charset));
    out.extend(b") NIL NIL ");
    nstring(out, Some(&encoding));
    out.extend(format!(" {}", text.len()).bytes());
    if kind == "text" {
        out.extend(format!(" {}", text.iter().filter(|&&octet| octet == b'\n').count()).bytes());
    }
    out.extend(if extended { &b" NIL NIL NIL NIL)"[..] } else { b")" });
}

/// What stands between the brackets of `BODY[...]`.
#[derive(Debug)]
pub enum Section {
    /// The whole message.
    Whole,
    /// HEADER
    Header,
    /// TEXT, which is also part 1.
    Text,
    /// 1.MIME: the fields of the header that describe its one part.
    Mime,
    /// HEADER.FIELDS, or with `true` HEADER.FIELDS.NOT; names in lower case.
    Fields(bool, Vec<String>),
}

impl Section {
    /// Reads `section-spec "]"`.
    pub fn read(args: &mut Args) -> Result<Section> {
        for (name, not) in [("HEADER.FIELDS.NOT ", true), ("HEADER.FIELDS ", false)] {
            if args.skip(name) {
                let names = args.list(|args| Ok(args.text()?.to_ascii_lowercase()))?;
                let section = Section::Fields(not, names);
                return if args.skip("]") { Ok(section) } else { Err(Refusal::Bad("A ] was expected")) };
            }
        }
        let simple = [("]", Section::Whole), ("HEADER]", Section::Header), ("TEXT]", Section::Text)];
        let part = [("1]", Section::Text), ("1.MIME]", Section::Mime)];
        let found =
            simple.into_iter().chain(part).find_map(|(name, section)| args.skip(name).then_some(section));
        found.ok_or(Refusal::Bad("No such section: messages have one part here"))
    }

    /// The octets of it.
    pub fn of(&self, message: &[u8]) -> Vec<u8> {
        let (header, text) = split(message);
        let chosen = |wanted: &dyn Fn(&str) -> bool| {
            let chosen = fields(header).into_iter().filter(|(name, _)| wanted(name));
            chosen.flat_map(|(_, field)| field).chain(*b"\r\n").collect()
        };
        match self {
            Section::Whole => message.to_vec(),
            Section::Header => header.to_vec(),
            Section::Text => text.to_vec(),
            Section::Mime => chosen(&|name| name.starts_with("content-")),
            Section::Fields(not, names) => chosen(&|name| names.iter().any(|wanted| wanted == name) != *not),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"From: \"Moreau, Jean\" <jean@example.net>\r\nTo: a@b.c,\r\n  B <b@b.c>\r\nSubject: \"Hi\" \xc3\xa9\r\n\
        Content-Type: text/html; charset=\"UTF-8\"\r\n\r\none\r\ntwo\r\n";

    fn written(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn an_envelope_has_ten_fields() {
        let jean = r#"(("Moreau, Jean" NIL "jean" "example.net"))"#;
        let to = r#"((NIL NIL "a" "b.c")("B" NIL "b" "b.c"))"#;
        let expected = format!("(NIL {{7}}\r\n\"Hi\" \u{e9} {jean} {jean} {jean} {to} NIL NIL NIL NIL)");
        assert_eq!(written(|out| envelope(out, MESSAGE)), expected);
        let empty = "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)";
        assert_eq!(written(|out| envelope(out, b"no header")), empty);
    }

    #[test]
    fn a_structure_says_type_and_size() {
        let html = r#"("text" "html" ("charset" "utf-8") NIL NIL "8bit" 10 2"#;
        assert_eq!(written(|out| structure(out, MESSAGE, false)), format!("{html})"));
        assert_eq!(written(|out| structure(out, MESSAGE, true)), format!("{html} NIL NIL NIL NIL)"));
    }

    #[test]
    fn sections_are_cut_out_as_they_stand() {
        let cut = |spec: &str| {
            let section = Section::read(&mut Args(spec.as_bytes())).expect("a section");
            String::from_utf8(section.of(MESSAGE)).expect("text")
        };
        assert_eq!(cut("TEXT]"), "one\r\ntwo\r\n");
        assert_eq!(cut("]").as_bytes(), MESSAGE);
        assert_eq!(cut("HEADER]").as_bytes(), &MESSAGE[..MESSAGE.len() - 10]);
        assert_eq!(cut("HEADER.FIELDS (to \"X\")]"), "To: a@b.c,\r\n  B <b@b.c>\r\n\r\n");
        assert_eq!(cut("HEADER.FIELDS.NOT (From To Subject)]"), cut("1.MIME]"));
        for wrong in ["2]", "HEADER.FIELDS]", "HEADER", "HEADER.FIELDS (a)"] {
            assert!(Section::read(&mut Args(wrong.as_bytes())).is_err(), "{wrong}");
        }
    }
}
