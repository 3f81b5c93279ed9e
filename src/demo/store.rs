//! Mailboxes and messages: a plain value, without sockets and without protocol.

use super::args::{Refusal, Result};
use chrono::{DateTime, FixedOffset, TimeDelta};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most mailboxes that the store holds.
pub const MAX_MAILBOXES: usize = 100;
/// The most messages that the store holds, in all mailboxes together.
pub const MAX_MESSAGES: usize = 20_000;
/// The most octets that the store holds, in all messages together.
pub const MAX_OCTETS: usize = 64 << 20;
/// The most flags that one message carries.
pub const MAX_FLAGS: usize = 32;
/// The longest name of a mailbox, in octets.
const MAX_NAME: usize = 200;

const NO_MAILBOX: Refusal = Refusal::No("[NONEXISTENT] No such mailbox");

/// System flags (`\Seen`) and keywords.
pub type Flags = BTreeSet<String>;

/// One message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its unique identifier in its mailbox.
    pub uid: u32,
    /// What is said about it.
    pub flags: Flags,
    /// When it came in (INTERNALDATE).
    pub date: DateTime<FixedOffset>,
    /// The message itself, header and text. Copies share it.
    pub octets: Arc<[u8]>,
}

impl Message {
    /// Whether `flag` is set on it.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }
}

/// One mailbox; its messages stand in ascending order of UID.
#[derive(Clone, Debug, Default)]
pub struct Mailbox {
    /// Changes when a mailbox of this name is made anew.
    pub uid_validity: u32,
    /// The UID that the next message gets.
    pub uid_next: u32,
    /// Whether LSUB names it.
    pub subscribed: bool,
    /// What is in it.
    pub messages: Vec<Message>,
}

impl Mailbox {
    /// The message with this UID.
    pub fn message(&self, uid: u32) -> Option<&Message> {
        self.messages.binary_search_by_key(&uid, |message| message.uid).ok().map(|at| &self.messages[at])
    }

    /// The message with this UID, to be changed.
    pub fn message_mut(&mut self, uid: u32) -> Option<&mut Message> {
        self.messages.binary_search_by_key(&uid, |message| message.uid).ok().map(|at| &mut self.messages[at])
    }

    /// Removes the messages that are `\Deleted` and that `which` names.
    pub fn expunge(&mut self, which: impl Fn(u32) -> bool) {
        self.messages.retain(|message| !(message.has("\\Deleted") && which(message.uid)));
    }

    fn add(&mut self, message: Message) -> u32 {
        let uid = self.uid_next;
        self.messages.push(Message { uid, ..message });
        self.uid_next += 1;
        uid
    }
}

/// All mail of the one user.
#[derive(Debug)]
pub struct Store {
    mailboxes: BTreeMap<String, Mailbox>,
    next_validity: u32,
}

impl Store {
    /// What the demo starts with, as if it had come in before `now`.
    pub fn demo(now: DateTime<FixedOffset>) -> Store {
        // A second counts as UIDVALIDITY, so that a client that kept something of an earlier demo sees that it is gone.
        let mut store = Store {
            mailboxes: BTreeMap::new(),
            next_validity: u32::try_from(now.timestamp()).unwrap_or(1).max(1),
        };
        for name in ["INBOX", "Archive", "Sent", "Trash"] {
            store.insert(name);
        }
        for (id, (mailbox, flags, hours, from, subject, text)) in (1..).zip(DEMO_MAIL) {
            let date = now - TimeDelta::hours(hours);
            let message = demo_message(id, date, from, subject, text);
            let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
            store
                .append(mailbox, flags, date, message.as_bytes())
                .expect("the demo's own mail fits into its mailboxes");
        }
        store
    }

    /// The mailbox of this name, if there is one.
    pub fn mailbox(&self, name: &str) -> Result<&Mailbox> {
        self.mailboxes.get(name).ok_or(NO_MAILBOX)
    }

    /// The mailbox of this name, to be changed.
    pub fn mailbox_mut(&mut self, name: &str) -> Result<&mut Mailbox> {
        self.mailboxes.get_mut(name).ok_or(NO_MAILBOX)
    }

    /// The names that match `pattern`, each with whether it has children.
    pub fn list(&self, pattern: &str) -> Vec<(&str, &Mailbox, bool)> {
        let matching = self.mailboxes.iter().filter(|(name, _)| matches(pattern.as_bytes(), name.as_bytes()));
        matching.map(|(name, mailbox)| (name.as_str(), mailbox, self.has_children(name))).collect()
    }

    fn has_children(&self, name: &str) -> bool {
        self.mailboxes.keys().any(|other| is_below(name, other))
    }

    fn insert(&mut self, name: &str) {
        let mailbox =
            Mailbox { uid_validity: self.next_validity, uid_next: 1, subscribed: true, messages: Vec::new() };
        self.next_validity += 1;
        self.mailboxes.insert(name.to_owned(), mailbox);
    }

    /// CREATE, with the parents that are missing.
    pub fn create(&mut self, name: &str) -> Result<()> {
        let name = name.strip_suffix('/').unwrap_or(name);
        let legal =
            name.bytes().all(|octet| octet == b' ' || (octet.is_ascii_graphic() && !b"*%".contains(&octet)));
        if !legal || name.len() > MAX_NAME || name.split('/').any(str::is_empty) {
            return Err(Refusal::No("[CANNOT] That is no name for a mailbox here"));
        }
        if self.mailboxes.contains_key(name) {
            return Err(Refusal::No("[ALREADYEXISTS] There is such a mailbox"));
        }
        let paths = name.match_indices('/').map(|(at, _)| &name[..at]).chain([name]);
        let missing: Vec<&str> = paths.filter(|path| !self.mailboxes.contains_key(*path)).collect();
        if self.mailboxes.len() + missing.len() > MAX_MAILBOXES {
            return Err(Refusal::No("[LIMIT] This demo holds no more mailboxes"));
        }
        missing.into_iter().for_each(|path| self.insert(path));
        Ok(())
    }

    /// DELETE.
    pub fn delete(&mut self, name: &str) -> Result<()> {
        if name == "INBOX" {
            return Err(Refusal::No("[CANNOT] INBOX stays"));
        }
        if self.has_children(name) {
            return Err(Refusal::No("[HASCHILDREN] There are mailboxes below it"));
        }
        self.mailboxes.remove(name).map(drop).ok_or(NO_MAILBOX)
    }

    /// RENAME, with everything below.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.mailbox(from)?;
        if from == "INBOX" || is_below(from, to) {
            return Err(Refusal::No("[CANNOT] That mailbox stays where it is"));
        }
        self.create(to)?;
        let names: Vec<String> = self.mailboxes.keys().filter(|name| is_below(from, name)).cloned().collect();
        for old in names.iter().map(String::as_str).chain([from]) {
            let mailbox = self.mailboxes.remove(old).ok_or(NO_MAILBOX)?;
            self.mailboxes.insert(format!("{to}{}", &old[from.len()..]), mailbox);
        }
        Ok(())
    }

    /// APPEND: the UIDVALIDITY of the mailbox and the UID of the new message.
    pub fn append(
        &mut self,
        name: &str,
        flags: Flags,
        date: DateTime<FixedOffset>,
        octets: &[u8],
    ) -> Result<(u32, u32)> {
        self.target(name)?;
        self.check_room(1, octets.len())?;
        if flags.len() > MAX_FLAGS {
            return Err(Refusal::No("[LIMIT] Too many flags"));
        }
        let mailbox = self.mailbox_mut(name)?;
        Ok((mailbox.uid_validity, mailbox.add(Message { uid: 0, flags, date, octets: octets.into() })))
    }

    /// COPY, all or nothing: the UIDVALIDITY of the target, and each message's UID there.
    pub fn copy(&mut self, from: &str, uids: &[u32], to: &str) -> Result<(u32, Vec<u32>)> {
        self.target(to)?;
        let source = self.mailbox(from)?;
        let messages: Vec<Message> = uids.iter().filter_map(|&uid| source.message(uid)).cloned().collect();
        self.check_room(messages.len(), messages.iter().map(|message| message.octets.len()).sum())?;
        let target = self.mailbox_mut(to)?;
        Ok((target.uid_validity, messages.into_iter().map(|message| target.add(message)).collect()))
    }

    fn target(&self, name: &str) -> Result<()> {
        let known = self.mailboxes.contains_key(name);
        if known { Ok(()) } else { Err(Refusal::No("[TRYCREATE] No such mailbox")) }
    }

    fn check_room(&self, more: usize, octets: usize) -> Result<()> {
        let messages = || self.mailboxes.values().flat_map(|mailbox| &mailbox.messages);
        let used: usize = messages().map(|message| message.octets.len()).sum();
        let fits = messages().count() + more <= MAX_MESSAGES && used + octets <= MAX_OCTETS;
        if fits { Ok(()) } else { Err(Refusal::No("[OVERQUOTA] This demo holds no more mail")) }
    }
}

fn is_below(parent: &str, name: &str) -> bool {
    name.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a LIST pattern matches: `*` is anything, `%` anything within one level.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // One row per octet of the pattern instead of recursion: `*%*%*%` must not take exponential time.
    let mut row: Vec<bool> = (0..=name.len()).map(|length| length == 0).collect();
    for &wanted in pattern {
        let mut next = vec![matches!(wanted, b'*' | b'%') && row[0]];
        for (at, octet) in name.iter().enumerate() {
            next.push(match wanted {
                b'*' => row[at + 1] || next[at],
                b'%' => row[at + 1] || (next[at] && *octet != b'/'),
                _ => row[at] && wanted == *octet,
            });
        }
        row = next;
    }
    row[name.len()]
}

/// What one session was told about its mailbox: message number n is entry n - 1.
#[derive(Debug, Default)]
pub struct View(Vec<(u32, Flags)>);

/// Something that a session was not told yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// `* n EXPUNGE`
    Expunge(u32),
    /// `* n EXISTS`
    Exists(usize),
    /// `* n FETCH (UID uid FLAGS (...))`
    Flags(u32, u32, Flags),
}

impl View {
    /// How many messages the session counts.
    pub fn count(&self) -> u32 {
        self.0.len() as u32
    }

    /// The UID of the last message, 0 if there is none.
    pub fn last_uid(&self) -> u32 {
        self.0.last().map_or(0, |(uid, _)| *uid)
    }

    /// Message numbers with their UIDs.
    pub fn numbered(&self) -> impl Iterator<Item = (u32, u32)> {
        (1..).zip(self.0.iter().map(|(uid, _)| *uid))
    }

    /// The session has been told these flags.
    pub fn told(&mut self, number: u32, flags: &Flags) {
        self.0[number as usize - 1].1.clone_from(flags);
    }

    /// What has changed in the mailbox, which from now on counts as told. Removals only where they are
    /// allowed (RFC 3501 section 7.4.1: not during FETCH, STORE and SEARCH).
    pub fn changes(&mut self, mailbox: &Mailbox, may_expunge: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        if may_expunge {
            let mut number = 0;
            self.0.retain(|(uid, _)| {
                let stays = mailbox.message(*uid).is_some();
                number += u32::from(stays);
                changes.extend((!stays).then_some(Change::Expunge(number + 1)));
                stays
            });
        }
        for (number, (uid, flags)) in (1..).zip(&mut self.0) {
            if let Some(message) = mailbox.message(*uid).filter(|message| message.flags != *flags) {
                flags.clone_from(&message.flags);
                changes.push(Change::Flags(number, *uid, flags.clone()));
            }
        }
        let last = self.last_uid();
        let new = mailbox.messages.iter().filter(|message| message.uid > last);
        let before = self.0.len();
        self.0.extend(new.map(|message| (message.uid, message.flags.clone())));
        changes.extend((self.0.len() > before).then_some(Change::Exists(self.0.len())));
        changes
    }
}

type DemoMail = (&'static str, &'static [&'static str], i64, &'static str, &'static str, &'static str);

/// Mailbox, flags, age in hours, sender, subject, text.
const DEMO_MAIL: [DemoMail; 6] = [
    (
        "INBOX",
        &["\\Seen"],
        75,
        "Ada Kowalski <ada@example.org>",
        "Minutes of Monday's meeting",
        "Hello all,\n\nthe minutes are in the wiki. Two open points: the backup of the\nold server, and who brings cake.\n\nAda\n",
    ),
    (
        "INBOX",
        &["\\Seen"],
        51,
        "Railway <tickets@example.com>",
        "Your ticket to Vienna",
        "Dear passenger,\n\n  Fri 08:12  platform 7   coach 21, seat 64 (window)\n\nHave a good journey!\n",
    ),
    (
        "INBOX",
        &["\\Seen", "\\Flagged"],
        26,
        "\"Moreau, Jean\" <jean@example.net>",
        "Invoice 2041",
        "Hello,\n\nplease find the invoice for the repair of the roof in the letter\nthat I posted today.\n\nBest regards\nJean Moreau\n",
    ),
    (
        "INBOX",
        &[],
        2,
        "Grace Lindqvist <grace@example.org>",
        "Lunch tomorrow?",
        "Noon, the usual place?\n\nI have news about the garden.\nGrace\n",
    ),
    (
        "Archive",
        &["\\Seen"],
        900,
        "Ada Kowalski <ada@example.org>",
        "Welcome",
        "Welcome to the team! Your desk is the one by the window.\n\nAda\n",
    ),
    (
        "Sent",
        &["\\Seen"],
        1,
        "Demo <demo@example.org>",
        "Re: Lunch tomorrow?",
        "Noon it is. See you there!\n\n> Noon, the usual place?\n",
    ),
];

fn demo_message(id: u32, date: DateTime<FixedOffset>, from: &str, subject: &str, text: &str) -> String {
    let date = date.to_rfc2822();
    let message = format!(
        "From: {from}\nTo: Demo <demo@example.org>\nSubject: {subject}\nDate: {date}\n\
         Message-ID: <{id}.demo@example.org>\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n{text}"
    );
    message.replace('\n', "\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        Store::demo(DateTime::parse_from_rfc3339("2026-03-01T12:00:00+01:00").expect("a date"))
    }

    fn names(store: &Store, pattern: &str) -> Vec<String> {
        store.list(pattern).into_iter().map(|(name, ..)| name.to_owned()).collect()
    }

    fn uids(store: &Store, name: &str) -> Vec<u32> {
        store.mailbox(name).expect("a mailbox").messages.iter().map(|message| message.uid).collect()
    }

    #[test]
    fn patterns_know_levels() {
        let mut store = store();
        store.create("Lists/rust/core").expect("created");
        assert_eq!(names(&store, "%"), ["Archive", "INBOX", "Lists", "Sent", "Trash"]);
        assert_eq!(names(&store, "Lists/%"), ["Lists/rust"]);
        assert_eq!(names(&store, "L*"), ["Lists", "Lists/rust", "Lists/rust/core"]);
        assert_eq!(names(&store, "%/%/%"), ["Lists/rust/core"]);
        assert!(matches("*%".repeat(1000).as_bytes(), &[b'a'; MAX_NAME]));
        assert!(!matches(("*%".repeat(1000) + "b").as_bytes(), &[b'a'; MAX_NAME]));
    }

    #[test]
    fn renaming_takes_children_along_and_a_new_mailbox_has_a_new_validity() {
        let mut store = store();
        let before = store.mailbox("Trash").expect("Trash").uid_validity;
        store.create("Trash/old").expect("created");
        assert_eq!(store.delete("Trash"), Err(Refusal::No("[HASCHILDREN] There are mailboxes below it")));
        store.rename("Trash", "Bin").expect("renamed");
        assert_eq!(names(&store, "B*"), ["Bin", "Bin/old"]);
        assert!(store.rename("Bin", "Bin/deeper").is_err() && store.rename("INBOX", "x").is_err());
        store.create("Trash").expect("created");
        assert_ne!(store.mailbox("Trash").expect("Trash").uid_validity, before);
    }

    #[test]
    fn a_copy_is_all_or_nothing_and_names_its_uids() {
        let mut store = store();
        let (validity, copies) = store.copy("INBOX", &[2, 3, 99], "Archive").expect("copied");
        assert_eq!((validity, copies), (store.mailbox("Archive").expect("Archive").uid_validity, vec![2, 3]));
        assert!(
            matches!(store.copy("INBOX", &[2], "Nowhere"), Err(Refusal::No(text)) if text.contains("TRYCREATE"))
        );
        let large = vec![b'x'; MAX_OCTETS / 2];
        let date = store.mailbox("INBOX").expect("INBOX").messages[0].date;
        store.append("Trash", Flags::new(), date, &large).expect("room for one");
        assert!(
            matches!(store.copy("Trash", &[1], "Sent"), Err(Refusal::No(text)) if text.contains("OVERQUOTA"))
        );
        assert_eq!(uids(&store, "Sent"), [1]);
    }

    #[test]
    fn only_deleted_messages_that_were_named_go() {
        let mut store = store();
        let inbox = store.mailbox_mut("INBOX").expect("INBOX");
        for uid in [2, 3] {
            inbox.message_mut(uid).expect("a message").flags.insert("\\Deleted".to_owned());
        }
        inbox.expunge(|uid| uid != 3);
        assert_eq!(uids(&store, "INBOX"), [1, 3, 4]);
    }

    #[test]
    fn a_view_is_told_each_change_once_and_removals_only_where_allowed() {
        let mut store = store();
        let mut view = View::default();
        assert_eq!(view.changes(store.mailbox("INBOX").expect("INBOX"), true), [Change::Exists(4)]);
        store.copy("INBOX", &[1], "INBOX").expect("copied");
        let inbox = store.mailbox_mut("INBOX").expect("INBOX");
        inbox.messages.retain(|message| ![1, 3].contains(&message.uid));
        inbox.message_mut(4).expect("a message").flags.insert("\\Seen".to_owned());
        let seen = Flags::from(["\\Seen".to_owned()]);
        assert_eq!(view.changes(inbox, false), [Change::Flags(4, 4, seen), Change::Exists(5)]);
        assert_eq!(view.changes(inbox, true), [Change::Expunge(1), Change::Expunge(2)]);
        assert_eq!(view.changes(inbox, true), []);
        assert_eq!(view.numbered().collect::<Vec<_>>(), [(1, 2), (2, 4), (3, 5)]);
    }
}
