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

/// UID, subject and flags of each message in a mailbox, which is then selected.
pub fn listing(client: &mut Client, mailbox: &str) -> Vec<(u32, String, Flags)> {
    let uids = match client.select(mailbox) {
        _ if client.view.0.is_empty() => return Vec::new(),
        _ => client.ok("UID FETCH 1:* (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])"),
    };
    parse(&uids)
}

fn parse(reply: &Reply) -> Vec<(u32, String, Flags)> {
    let lines = reply.lines();
    let messages = lines.iter().filter(|line| line.contains("Subject: "));
    messages.map(|line| (uid(line), between(line, "Subject: ", "\r\n").to_owned(), flags(line))).collect()
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
