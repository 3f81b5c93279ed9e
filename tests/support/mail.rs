//! Messages: made, delivered and counted by their subject.

use crate::client::{Client, Reply};
use std::collections::{BTreeMap, BTreeSet};

/// The flags of a message, `\Recent` apart.
pub type Flags = BTreeSet<String>;

/// A message that is found again by its subject. Its body looks like protocol, which nobody may take it for.
pub fn message(subject: &str) -> Vec<u8> {
    let headers = format!(
        "From: sender@example.test\r\nTo: alice@example.test\r\nSubject: {subject}\r\n\
         Date: Sat, 21 Nov 2026 09:30:00 +0000\r\nMessage-ID: <{subject}@example.test>\r\n\r\n"
    );
    (headers + "* 1 EXPUNGE\r\nc1 OK done\r\nc2 UID EXPUNGE 1\r\n").into_bytes()
}

/// Appends a message for each subject, in order.
pub fn deliver<S: AsRef<str>>(client: &mut Client, mailbox: &str, subjects: impl IntoIterator<Item = S>) {
    for subject in subjects {
        client.append(mailbox, "", &message(subject.as_ref()));
    }
}

/// What a mailbox holds: for each subject the flags of each message that has it.
pub fn contents(client: &mut Client, mailbox: &str) -> BTreeMap<String, Vec<Flags>> {
    let mut contents = BTreeMap::<String, Vec<Flags>>::new();
    for (_, subject, flags) in listing(client, mailbox) {
        contents.entry(subject).or_default().push(flags);
    }
    contents
}

/// UID, subject and flags of each message.
pub type Listing = Vec<(u32, String, Flags)>;

/// What a mailbox holds, message by message. It is then selected.
pub fn listing(client: &mut Client, mailbox: &str) -> Listing {
    let uids = match client.select(mailbox) {
        _ if client.view.0.is_empty() => return Vec::new(),
        _ => client.ok("UID FETCH 1:* (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])"),
    };
    parse(&uids)
}

/// All that a copy keeps of a message, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub uid: u32,
    pub flags: Flags,
    pub date: String,
    pub octets: String,
}

impl Message {
    /// Whether they differ in the UID alone.
    pub fn is_like(&self, other: &Message) -> bool {
        let Message { flags, date, octets, .. } = self;
        (flags, date, octets) == (&other.flags, &other.date, &other.octets)
    }
}

/// What a mailbox holds, each message whole. Nothing is selected then.
pub fn messages(client: &mut Client, mailbox: &str) -> Vec<Message> {
    client.examine(mailbox);
    let found = client.ok("UID FETCH 1:* (UID FLAGS INTERNALDATE BODY.PEEK[])").lines();
    client.ok("CLOSE");
    found.iter().filter(|line| line.contains("BODY[]")).map(|line| message_of(line)).collect()
}

fn message_of(line: &str) -> Message {
    let (head, rest) = line.split_once("BODY[] {").expect("a literal");
    let (length, rest) = rest.split_once("}\r\n").expect("the length of a literal");
    let (octets, tail) = rest.split_at(length.parse().expect("a number"));
    let told = format!("{head}{tail}");
    let date = between(&told, "INTERNALDATE \"", "\"").to_owned();
    Message { uid: uid(&told), flags: flags(&told), date, octets: octets.to_owned() }
}

fn parse(reply: &Reply) -> Listing {
    // imap4d writes the name of a header as it was asked for.
    let lines = reply.lines().into_iter().map(|line| line.replace("SUBJECT: ", "Subject: "));
    let messages = lines.filter(|line| line.contains("Subject: "));
    messages.map(|line| (uid(&line), between(&line, "Subject: ", "\r\n").to_owned(), flags(&line))).collect()
}

/// The flags in a FETCH response, `\Recent` apart.
pub fn flags(line: &str) -> Flags {
    let flags = between(line, "FLAGS (", ")").split_whitespace().map(str::to_owned);
    flags.filter(|flag| flag != "\\Recent").collect()
}

fn uid(line: &str) -> u32 {
    let digits = line.split("UID ").nth(1).unwrap_or_else(|| panic!("a UID in {line}"));
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("a UID in {line}"))
}

/// What stands between two texts.
pub fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("{start:?} in {text:?}"));
    rest.split_once(end).map_or(rest, |(inside, _)| inside)
}
