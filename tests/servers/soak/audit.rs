//! What is in the mailboxes when the soak is over, seen without the gateway; and what the gateway had said about it.

use super::letter::Letter;
use super::user::Attempt;
use super::{Count, Tally, USERS};
use crate::client::Client;
use crate::mail::{self, Flags, between};
use crate::server::Server;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// A record's time is in whole seconds.
const SECOND: Duration = Duration::from_secs(1);
/// A MOVE that was asked for last in a row may begin later than it was sent.
const LATEST: Duration = Duration::from_secs(120);
/// What of the log a failure shows, from when a MOVE was sent.
const AROUND: Duration = Duration::from_secs(20);

/// A line of the gateway's log: a MOVE that may have left messages in both mailboxes, or has no record.
struct Report {
    kind: Count,
    from: String,
    to: String,
    /// The first and the last of each range.
    uids: Vec<(u32, u32)>,
    at: SystemTime,
}

impl Report {
    fn read(line: &str) -> Option<Report> {
        let kinds = [
            (Count::ByUnrecorded, "a MOVE goes on without its record"),
            (Count::ByLeft, "a MOVE has left messages that may be in both mailboxes"),
            (Count::ByUnproven, "a MOVE was cut short and is not finished"),
        ];
        let (kind, _) = kinds.into_iter().find(|(_, words)| line.contains(words))?;
        let unproven = line.contains("result=\"unproven\"");
        let kind = if kind == Count::ByUnproven && !unproven { Count::ByStale } else { kind };
        let field = |name: &str| between(line, name, "\"");
        let at = if line.contains(" at=\"") { field(" at=\"") } else { line.split(' ').next()? };
        let range = |range: &str| {
            let (first, last) = range.split_once(':').unwrap_or((range, range));
            (first.parse().expect("a UID"), last.parse().expect("a UID"))
        };
        Some(Report {
            kind,
            from: field("from=\"").to_owned(),
            to: field("to=\"").to_owned(),
            uids: field("uids=\"").split(',').map(range).collect(),
            at: humantime::parse_rfc3339(at).expect("a time"),
        })
    }

    /// Whether it is about this attempt. What a client named by sequence numbers may have become ranges with holes.
    fn is_about(&self, attempt: &Attempt) -> bool {
        let named = |uid: &u32| self.uids.iter().any(|(first, last)| (first..=last).contains(&uid));
        let asked_for =
            |(first, last): &(u32, u32)| [first, last].iter().all(|uid| attempt.uids.contains(uid));
        let when = attempt.sent - SECOND..attempt.sent + LATEST;
        let mailboxes = (&self.from, &self.to) == (&attempt.from, &attempt.to);
        mailboxes
            && when.contains(&self.at)
            && attempt.uids.iter().all(named)
            && self.uids.iter().all(asked_for)
    }
}

/// What a server's mailboxes must hold, and what may be there twice.
pub struct Books<'a> {
    pub server: &'a Server,
    pub mailboxes: &'a [String],
    /// Whether a message must be there; if not, it may.
    pub expected: BTreeMap<Letter, bool>,
    pub attempts: Vec<Attempt>,
    /// Where messages have been, and since when.
    pub seen: BTreeMap<(Letter, String, u32), SystemTime>,
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
        let reported = self.reported();
        for user in 0..USERS.len() {
            let found = self.look(user);
            let surplus = self.follow(&reported, &found);
            let found = if surplus.is_empty() { found } else { self.remove(user, &surplus) };
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

    /// The messages that the gateway's reports are about, each with one entry for each report.
    fn reported(&self) -> BTreeMap<Letter, Vec<Count>> {
        let mut open: Vec<&Attempt> = self.attempts.iter().filter(|attempt| !attempt.is_done()).collect();
        let mut reported = BTreeMap::<Letter, Vec<Count>>::new();
        let mut report = |attempt: &Attempt, kind| {
            attempt.letters.iter().for_each(|letter| reported.entry(*letter).or_default().push(kind));
        };
        for line in self.log.lines().filter_map(Report::read) {
            // Of two users' the likelier. One that is reported twice, by a gateway that is killed meanwhile, is one.
            let candidates = open.iter().enumerate().filter(|(_, attempt)| line.is_about(attempt));
            let later = |attempt: &Attempt| line.at.duration_since(attempt.sent).unwrap_or_default();
            let nearest = candidates.min_by_key(|(_, attempt)| later(attempt)).map(|(place, _)| place);
            nearest.into_iter().for_each(|place| report(open.swap_remove(place), line.kind));
        }
        reported
    }

    /// Which copies the operator removes: as many of each message as were reported, and not the last one.
    fn follow<'f>(
        &mut self,
        reported: &BTreeMap<Letter, Vec<Count>>,
        found: &'f BTreeMap<Letter, Vec<Found>>,
    ) -> Vec<&'f Found> {
        let mut surplus = Vec::new();
        for (letter, copies) in found {
            let kinds = reported.get(letter).map_or(&[][..], Vec::as_slice);
            // If possible one stays that is not flagged as deleted.
            let keep = copies.iter().position(|copy| !copy.deleted && copy.as_it_was).unwrap_or(0);
            let others = copies.iter().enumerate().filter(|(i, _)| *i != keep).map(|(_, copy)| copy);
            for (copy, kind) in others.zip(kinds) {
                self.tally.add(*kind, 1);
                surplus.push(copy);
            }
            let unreported = (copies.len() - 1).saturating_sub(kinds.len());
            if unreported > 0 {
                self.tally.add(Count::Unreported, unreported);
                self.wrong.push(self.history(letter, copies, kinds.len()));
            }
        }
        surplus
    }

    /// All that is known of a message.
    fn history(&self, letter: &Letter, copies: &[Found], known: usize) -> String {
        let of_it = self.attempts.iter().filter(|attempt| attempt.letters.contains(letter));
        let moves = of_it.map(|a| {
            let (count, log) =
                (a.letters.len(), if a.is_done() { String::new() } else { self.around(a.sent) });
            (a.sent, format!("{} -> {}, {count} messages {:?}: {:?}{log}", a.from, a.to, a.uids, a.said))
        });
        let seen = self.seen.iter().filter(|((seen, ..), _)| seen == letter);
        let seen = seen.map(|((_, mailbox, uid), at)| (*at, format!("seen in {mailbox} UID {uid}")));
        let mut events: Vec<_> = moves.chain(seen).collect();
        events.sort();
        let places = copies.iter().map(|f| format!("{} UID {} {:?}", f.mailbox, f.uid, f.flags));
        format!(
            "{letter} is there {} times, {known} reported: {:?}{}",
            copies.len(),
            places.collect::<Vec<_>>(),
            events.iter().map(|(at, event)| format!("\n    {} {event}", stamp(*at))).collect::<String>()
        )
    }

    /// What the gateways have logged then.
    fn around(&self, time: SystemTime) -> String {
        let (first, last) = (stamp(time - SECOND), stamp(time + AROUND));
        let lines = self.log.lines().filter(|line| (&first[..]..&last[..]).contains(line));
        let mut lines: Vec<_> = lines.map(|line| format!("\n        {line}")).collect();
        lines.sort_unstable();
        lines.concat()
    }

    /// What is there without these copies.
    fn remove(&mut self, user: usize, surplus: &[&Found]) -> BTreeMap<Letter, Vec<Found>> {
        let mut uids = BTreeMap::<&str, Vec<String>>::new();
        for copy in surplus {
            uids.entry(&copy.mailbox).or_default().push(copy.uid.to_string());
        }
        let mut client = self.login(user);
        for (mailbox, uids) in uids {
            client.select(mailbox);
            for uids in uids.chunks(100).map(|uids| uids.join(",")) {
                client.ok(&format!("UID STORE {uids} +FLAGS.SILENT (\\Deleted)"));
                client.ok(&format!("UID EXPUNGE {uids}"));
            }
        }
        self.look(user)
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

fn stamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
