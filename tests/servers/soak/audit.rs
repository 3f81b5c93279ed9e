//! What is in the mailboxes when the soak is over, seen without the gateway; and what the gateway had said about it.

use super::letter::Letter;
use super::user::Attempt;
use super::{Count, Tally, USERS};
use crate::client::Client;
use crate::mail::{self, Flags, between};
use crate::server::Server;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

/// A record's time is in whole seconds.
const SECOND: Duration = Duration::from_secs(1);
/// A MOVE that was asked for last in a row may begin later than it was sent.
const LATEST: Duration = Duration::from_secs(120);

/// A line of the gateway's log: a MOVE that was cut short and is not finished.
struct Report {
    kind: Count,
    from: String,
    to: String,
    messages: usize,
    at: SystemTime,
}

impl Report {
    fn read(line: &str) -> Option<Report> {
        let field = |name: &str| line.contains(name).then(|| between(line, name, "\"").to_owned());
        (line.contains(" WARN ") && line.contains("a MOVE was cut short")).then_some(())?;
        let at = humantime::parse_rfc3339(&field("at=\"")?).expect("a time");
        let messages = between(line, "messages=", " ").parse().expect("a number");
        let kind =
            if line.contains("result=\"unproven\"") { Count::DoubledUnproven } else { Count::DoubledStale };
        Some(Report { kind, from: field("from=\"")?, to: field("to=\"")?, messages, at })
    }

    /// Whether it can be about this attempt. A set of sequence numbers may become one of more UIDs.
    fn may_be_about(&self, attempt: &Attempt) -> bool {
        let when = attempt.sent - SECOND..attempt.sent + LATEST;
        (&self.from, &self.to) == (&attempt.from, &attempt.to)
            && self.messages >= attempt.letters.len()
            && when.contains(&self.at)
    }

    /// The lower, the likelier.
    fn distance(&self, attempt: &Attempt) -> (bool, bool, Duration) {
        let later = self.at.duration_since(attempt.sent).unwrap_or_default();
        (later > 2 * SECOND, self.messages != attempt.letters.len(), later)
    }
}

/// What a server's mailboxes must hold, and what may be there twice.
pub struct Books<'a> {
    pub server: &'a Server,
    pub mailboxes: &'a [String],
    /// Whether a message must be there; if not, it may.
    pub expected: BTreeMap<Letter, bool>,
    pub attempts: Vec<Attempt>,
    /// All that the gateways have logged.
    pub log: &'a str,
    pub tally: &'a mut Tally,
    /// What is wrong.
    pub wrong: Vec<String>,
}

struct Found {
    mailbox: String,
    uid: u32,
    deleted: bool,
    as_it_was: bool,
    flags: Flags,
}

impl Books<'_> {
    /// Counts everything, removes what is reported to be there twice, as an operator would, and counts again.
    pub fn check(mut self) -> Vec<String> {
        for user in 0..USERS.len() {
            let found = self.look(user);
            let doubled: Vec<_> = found.iter().filter(|(_, copies)| copies.len() > 1).collect();
            if !doubled.is_empty() {
                self.judge(&doubled);
                self.remove(user, &doubled);
            }
            let found = if doubled.is_empty() { found } else { self.look(user) };
            self.compare(user, &found);
        }
        self.wrong
    }

    fn login(&self, user: usize) -> Client {
        let (name, password) = USERS[user];
        let mut client = Client::connect(self.server.address);
        client.ok(&format!("LOGIN {name} {password}"));
        client
    }

    fn look(&mut self, user: usize) -> BTreeMap<Letter, Vec<Found>> {
        let mut client = self.login(user);
        let mut found = BTreeMap::<Letter, Vec<Found>>::new();
        for mailbox in self.mailboxes {
            for message in mail::messages(&mut client, mailbox) {
                let Some(letter) = Letter::named_in(&message.octets) else {
                    self.wrong.push(format!("no letter of ours: UID {} in {mailbox}", message.uid));
                    continue;
                };
                found.entry(letter).or_default().push(Found {
                    mailbox: mailbox.clone(),
                    uid: message.uid,
                    deleted: message.flags.contains("\\Deleted"),
                    as_it_was: letter.is(&message),
                    flags: message.flags,
                });
            }
            client.forget();
        }
        found
    }

    /// For each copy too many there must be a MOVE of that message which the gateway has reported.
    fn judge(&mut self, doubled: &[(&Letter, &Vec<Found>)]) {
        let names: BTreeSet<&Letter> = doubled.iter().map(|(letter, _)| *letter).collect();
        let is_in_question = |attempt: &Attempt| attempt.letters.iter().any(|letter| names.contains(letter));
        let mut open: Vec<&Attempt> = self.attempts.iter().collect();
        let mut known = Vec::new();
        for report in self.log.lines().filter_map(Report::read) {
            let candidates = open.iter().enumerate().filter(|(_, attempt)| report.may_be_about(attempt));
            let nearest = candidates.min_by_key(|(_, attempt)| {
                let (late, other_size, later) = report.distance(attempt);
                (late, other_size, !is_in_question(attempt), later)
            });
            let place = nearest.map(|(place, _)| place);
            known.extend(place.map(|place| (open.swap_remove(place), report.kind)));
        }
        let names_copies = |attempt: &&Attempt| attempt.said.as_deref().is_some_and(names_copies);
        known.extend(open.into_iter().filter(names_copies).map(|attempt| (attempt, Count::DoubledSaid)));
        let mut reported = BTreeMap::<Letter, Vec<Count>>::new();
        for (attempt, kind) in known {
            attempt.letters.iter().for_each(|letter| reported.entry(*letter).or_default().push(kind));
        }
        for (letter, copies) in doubled {
            let surplus = copies.len() - 1;
            let kinds = reported.get(letter).map_or(&[][..], Vec::as_slice);
            kinds.iter().take(surplus).for_each(|kind| self.tally.add(*kind, 1));
            if kinds.len() < surplus {
                self.tally.add(Count::Unreported, surplus - kinds.len());
                self.wrong.push(self.history(letter, copies, kinds.len()));
            }
        }
    }

    fn history(&self, letter: &Letter, copies: &[Found], known: usize) -> String {
        let places = copies.iter().map(|f| format!("{} UID {} {:?}", f.mailbox, f.uid, f.flags));
        let attempts = self.attempts.iter().filter(|a| a.letters.contains(letter)).map(|a| {
            let time = humantime::format_rfc3339_millis(a.sent);
            format!("\n    {time} {} -> {}, {} messages: {:?}", a.from, a.to, a.letters.len(), a.said)
        });
        format!(
            "{letter} is there {} times, {known} reported: {:?}; MOVEs of it without OK:{}",
            copies.len(),
            places.collect::<Vec<_>>(),
            attempts.collect::<String>()
        )
    }

    /// One copy stays, if possible one that is not flagged as deleted.
    fn remove(&self, user: usize, doubled: &[(&Letter, &Vec<Found>)]) {
        let mut surplus = BTreeMap::<&str, Vec<String>>::new();
        for (_, copies) in doubled {
            let keep = copies.iter().position(|copy| !copy.deleted && copy.as_it_was).unwrap_or(0);
            for (_, copy) in copies.iter().enumerate().filter(|(i, _)| *i != keep) {
                surplus.entry(&copy.mailbox).or_default().push(copy.uid.to_string());
            }
        }
        let mut client = self.login(user);
        for (mailbox, uids) in surplus {
            client.select(mailbox);
            for uids in uids.chunks(100).map(|uids| uids.join(",")) {
                client.ok(&format!("UID STORE {uids} +FLAGS.SILENT (\\Deleted)"));
                client.ok(&format!("UID EXPUNGE {uids}"));
            }
        }
    }

    /// Every message once, as it was.
    fn compare(&mut self, user: usize, found: &BTreeMap<Letter, Vec<Found>>) {
        let expected = self.expected.iter().filter(|(letter, _)| letter.user == user);
        for (letter, must) in expected {
            match found.get(letter).map_or(&[][..], Vec::as_slice) {
                [] if *must => {
                    self.tally.add(Count::Lost, 1);
                    self.wrong.push(format!("{letter} is lost"));
                }
                [] => {}
                [one] if one.as_it_was => self.tally.add(Count::Once, 1),
                [one] => {
                    let Found { mailbox, uid, flags, .. } = one;
                    let was = letter.flags();
                    self.tally.add(Count::Changed, 1);
                    self.wrong.push(format!("{letter} in {mailbox} UID {uid} was {was}, is {flags:?}"));
                }
                more => self.wrong.push(format!("{letter} is still there {} times", more.len())),
            }
        }
        let unknown = found.keys().filter(|letter| !self.expected.contains_key(letter));
        self.wrong.extend(unknown.map(|letter| format!("nobody has sent {letter}")));
    }
}

/// Whether a NO says that copies may be in the target.
fn names_copies(said: &str) -> bool {
    ["copies may be in the target", "in the target and still in the source", "may be in both"]
        .iter()
        .any(|words| said.contains(words))
}
