//! Finishing a MOVE that a dead session left behind: its copies are in the target, and some of the messages may still
//! be in the source (FAULT-4).
//!
//! ```text
//!   EXAMINE target ─> FETCH copies ─> SELECT source ─> FETCH messages ─> UID STORE ─> UID EXPUNGE ─> UID SEARCH
//!        └ any check that fails, or no time left: nothing more is touched ─> EXAMINE again ─> UID SEARCH ─> FETCH ─> CLOSE
//! ```
//!
//! It runs before a SELECT of the same user's, while nothing is selected, and leaves nothing selected behind. A message
//! is removed from the source only if its copy is in the target, not flagged as deleted there, and looks the same: the
//! user may have changed or removed either since. What was not found in the source is searched for once more when that is
//! opened again: Courier leaves out a message whose flags another session changes while the mailbox is opened, and gives
//! it another UID the next time. That session may be the dead one, whose STORE the server still carries out. So a message
//! behind them that is flagged as deleted and looks like a copy makes the MOVE one to be reported.

use super::Recovered;
use super::Unfinished;
use super::capability::Uidplus;
use super::grammar::{self, Description};
use super::mailbox::Mailbox;
use super::own_command::{Flight, Writer};
use super::proof::{Copied, Doubled, Pairs};
use super::response::{Status, Untagged};
use super::searched::Searched;
use super::selected::{Opened, ReadOnly};
use super::sequence::UidSet;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A MOVE of more messages than that is not finished by a later session: what they look like is kept in memory.
pub const RECOVERABLE: u64 = 100_000;

/// What follows a flight whose every command is answered.
#[derive(Debug)]
pub enum Next {
    Send(Flight, Box<Recovery>),
    Finish(Ending),
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub result: Recovered,
    /// Messages that were removed from the source.
    pub messages: u32,
    /// A mailbox may still be selected: the session must not go on.
    pub unsafe_to_go_on: bool,
}

impl Ending {
    pub fn of(result: Recovered) -> Ending {
        Ending { result, messages: 0, unsafe_to_go_on: false }
    }
}

/// What does not change while a MOVE is finished.
#[derive(Debug)]
struct Job {
    writer: Writer,
    uidplus: Uidplus,
    source: Mailbox,
    source_validity: u32,
    target: Mailbox,
    pairs: Pairs,
    missing: Option<Missing>,
}

/// What was not found in the source.
#[derive(Debug)]
struct Missing {
    uids: UidSet,
    /// What the copies hold, by which a message is known again that has another UID now.
    contents: HashSet<u64>,
}

#[derive(Debug)]
enum Step {
    /// EXAMINE of the target.
    Target(Opened),
    /// What the copies look like.
    Copies(Looks),
    /// SELECT of the source.
    Source { copies: Looks, opened: Opened },
    /// What the messages look like.
    Messages { copies: Looks, messages: Looks },
    /// `\Deleted` on what is in both mailboxes.
    Store { doubled: Copied, others: bool },
    /// UID EXPUNGE of the same.
    Expunge { doubled: Copied, others: bool },
    /// `UID SEARCH`: has it left?
    Check { doubled: Copied, others: bool, searched: Searched },
    /// EXAMINE of the mailbox that is selected, so that CLOSE removes nothing.
    Examine { opened: Opened, ending: Ending },
    /// `UID SEARCH`: is what was missing still missing? And what behind it is flagged as deleted?
    LookAgain { missing: Missing, searched: Searched, read_only: ReadOnly, ending: Ending },
    /// What that looks like: is it what was missing?
    Flagged { contents: HashSet<u64>, flagged: Looks, read_only: ReadOnly, ending: Ending },
    /// CLOSE.
    Close { closed: bool, ending: Ending },
}

/// One unfinished MOVE that is being finished.
#[derive(Debug)]
pub struct Recovery {
    job: Job,
    step: Step,
}

impl Recovery {
    /// The first flight, or why there is none.
    pub fn begin(unfinished: Unfinished, writer: Writer, uidplus: Uidplus) -> Next {
        let Some(pairs) = Pairs::read(&unfinished.copyuid).filter(|pairs| pairs.count() <= RECOVERABLE)
        else {
            return Next::Finish(Ending::of(Recovered::Stale));
        };
        let source = Mailbox::from_literal(unfinished.source);
        let target = Mailbox::from_literal(unfinished.target);
        if source.identity() == target.identity() && pairs.meet() {
            // In one mailbox a message is not its own copy.
            return Next::Finish(Ending::of(Recovered::Stale));
        }
        let job = Job {
            writer,
            uidplus,
            source,
            source_validity: unfinished.source_validity,
            target,
            pairs,
            missing: None,
        };
        let flight = vec![job.writer.examine(&job.target)];
        Next::Send(flight, Box::new(Recovery { job, step: Step::Target(Opened::default()) }))
    }

    /// Whether a line of data is about a mailbox that the gateway has opened, or answers it: none is for the client.
    pub fn claims(&mut self, data: &Untagged<'_>) -> bool {
        match (&mut self.step, data) {
            // A copy is gone, but which?
            (Step::Copies(looks), Untagged::Expunge(_) | Untagged::Vanished(_)) => looks.whole = false,
            (Step::Source { opened, copies }, data) => {
                let removal = matches!(data, Untagged::Expunge(_) | Untagged::Vanished(_));
                if opened.may_be_of_the_one_before(data) && removal {
                    copies.whole = false;
                }
            }
            (Step::Target(opened), data) => {
                opened.may_be_of_the_one_before(data);
            }
            (
                Step::Copies(looks)
                | Step::Messages { messages: looks, .. }
                | Step::Flagged { flagged: looks, .. },
                Untagged::Fetch(_, items),
            ) => looks.see(items),
            (Step::Check { searched, .. } | Step::LookAgain { searched, .. }, Untagged::Search(numbers)) => {
                searched.data(numbers);
            }
            _ => {}
        }
        is_about_a_mailbox(data)
    }

    /// A command of the flight got its tagged reply.
    pub fn answered(&mut self, status: &Status<'_>) {
        match &mut self.step {
            Step::Target(opened) | Step::Source { opened, .. } | Step::Examine { opened, .. } => {
                opened.answered(status);
            }
            Step::Copies(looks)
            | Step::Messages { messages: looks, .. }
            | Step::Flagged { flagged: looks, .. } => looks.whole &= status.is_ok(),
            Step::Check { searched, .. } | Step::LookAgain { searched, .. } => searched.answered(status),
            Step::Close { closed, .. } => *closed = status.is_ok(),
            // A refused STORE or EXPUNGE shows in the search behind it.
            Step::Store { .. } | Step::Expunge { .. } => {}
        }
    }

    /// Every command of the flight is answered. `late`: no new step may begin.
    pub fn landed(self, late: bool) -> Next {
        let Recovery { job, step } = self;
        match step {
            Step::Target(opened) if opened.refused() => Next::Finish(Ending::of(Recovered::Later)),
            Step::Target(_) | Step::Copies(_) if late => job.leave_target(Recovered::Later),
            Step::Target(opened) if !opened.is(job.pairs.validity) => job.leave_target(Recovered::Stale),
            Step::Target(_) => job.look_at_copies(),
            Step::Copies(looks) if !looks.whole => job.leave_target(Recovered::Later),
            Step::Copies(copies) => {
                let flight = vec![job.writer.select(&job.source)];
                job.send(flight, Step::Source { copies, opened: Opened::default() })
            }
            // Some servers still have the target then, some nothing.
            Step::Source { opened, .. } if opened.refused() => job.leave_target(Recovered::Later),
            Step::Source { copies, .. } if !copies.whole => job.leave_source(Ending::of(Recovered::Later)),
            Step::Source { .. } | Step::Messages { .. } if late => {
                job.leave_source(Ending::of(Recovered::Later))
            }
            Step::Source { opened, .. } if !opened.may_delete(job.source_validity) => {
                job.leave_source(Ending::of(Recovered::Stale))
            }
            Step::Source { copies, .. } => job.look_at_messages(copies),
            Step::Messages { messages, .. } if !messages.whole => {
                job.leave_source(Ending::of(Recovered::Later))
            }
            Step::Messages { copies, messages } => job.compare(&copies, &messages),
            Step::Store { doubled, others } => {
                let flight = job.writer.expunge(job.uidplus, &doubled);
                job.send(flight, Step::Expunge { doubled, others })
            }
            Step::Expunge { doubled, others } => {
                let flight = job.writer.search(doubled.uids());
                let searched = Searched::of(flight.len());
                job.send(flight, Step::Check { doubled, others, searched })
            }
            Step::Check { doubled, others, searched } => {
                let stay = searched.there(doubled.uids()).map_or(0, |stay| stay.count());
                let result = if stay > 0 || others { Recovered::Stale } else { Recovered::Finished };
                let messages = u32::try_from(doubled.uids().count() - stay).unwrap_or(u32::MAX);
                job.leave_source(Ending { messages, ..Ending::of(result) })
            }
            Step::Examine { opened, ending } => match opened.read_only() {
                Some(read_only) => job.look_again(read_only, ending, late),
                None => Next::Finish(Ending { unsafe_to_go_on: true, ..ending }),
            },
            Step::LookAgain { missing, searched, read_only, ending } => {
                match (searched.there(&missing.uids), searched.certainly()) {
                    (None, None) => job.close(read_only, ending),
                    (None, Some(flagged)) if !late => {
                        job.look_at_flagged(missing.contents, flagged, read_only, ending)
                    }
                    _ => job.close(read_only, Ending { result: Recovered::Later, ..ending }),
                }
            }
            Step::Flagged { contents, flagged, read_only, ending } => {
                let result = match flagged.may_hold(&contents) {
                    true => Recovered::Stale,
                    false if flagged.whole => ending.result,
                    false => Recovered::Later,
                };
                job.close(read_only, Ending { result, ..ending })
            }
            Step::Close { closed, ending } => Next::Finish(Ending { unsafe_to_go_on: !closed, ..ending }),
        }
    }
}

/// What can be said only of a selected mailbox.
fn is_about_a_mailbox(data: &Untagged<'_>) -> bool {
    match data {
        Untagged::Exists(_) | Untagged::Opening | Untagged::Fetch(..) | Untagged::Search(_) => true,
        Untagged::Expunge(_) | Untagged::Vanished(_) | Untagged::UnreadableVanished => true,
        Untagged::Status(status) => {
            let others = ["ALERT", "CAPABILITY"].iter().any(|code| status.code(code).is_some());
            status.is_ok() && !others
        }
        _ => false,
    }
}

impl Job {
    fn send(self, flight: Flight, step: Step) -> Next {
        Next::Send(flight, Box::new(Recovery { job: self, step }))
    }

    fn look_at_copies(self) -> Next {
        let wanted = self.pairs.copies();
        let flight = self.writer.describe(&wanted);
        self.send(flight, Step::Copies(Looks::of(wanted)))
    }

    fn look_at_messages(self, copies: Looks) -> Next {
        let wanted = self.pairs.messages();
        let flight = self.writer.describe(&wanted);
        self.send(flight, Step::Messages { copies, messages: Looks::of(wanted) })
    }

    /// What is in both mailboxes, looks the same and is not about to be removed from the target, leaves the source.
    fn compare(mut self, copies: &Looks, messages: &Looks) -> Next {
        let alike = |message: u32, copy: u32| match (messages.seen.get(&message), copies.seen.get(&copy)) {
            (
                Some(Look::Steady { digest: message, .. }),
                Some(Look::Steady { digest: copy, deleted: false, .. }),
            ) => message == copy,
            _ => false,
        };
        let doubled = Copied::compared(&self.pairs, alike);
        let known = doubled.as_ref().map_or(0, |doubled| doubled.uids().count());
        let others = known < messages.seen.len() as u64;
        self.missing = messages.missing().map(|uids| Missing { uids, contents: copies.contents() });
        match doubled {
            Some(doubled) => {
                let flight = self.writer.store(&doubled);
                self.send(flight, Step::Store { doubled, others })
            }
            None if others => self.leave_source(Ending::of(Recovered::Stale)),
            None => self.leave_source(Ending::of(Recovered::Finished)),
        }
    }

    /// What was not found cannot be finished if it is there.
    fn look_again(mut self, read_only: ReadOnly, ending: Ending, late: bool) -> Next {
        match self.missing.take().filter(|_| ending.result == Recovered::Finished) {
            Some(_) if late => self.close(read_only, Ending { result: Recovered::Later, ..ending }),
            Some(missing) => {
                let mut flight = self.writer.search(&missing.uids);
                flight.extend(self.behind().map_or(Vec::new(), |behind| self.writer.search_deleted(&behind)));
                let searched = Searched::of(flight.len());
                self.send(flight, Step::LookAgain { missing, searched, read_only, ending })
            }
            None => self.close(read_only, ending),
        }
    }

    /// The UIDs behind those of the messages.
    fn behind(&self) -> Option<UidSet> {
        let (_, last) = *self.pairs.messages().ranges().last()?;
        UidSet::normalise([(last.checked_add(1)?, u32::MAX)])
    }

    fn look_at_flagged(
        self,
        contents: HashSet<u64>,
        flagged: UidSet,
        read_only: ReadOnly,
        ending: Ending,
    ) -> Next {
        if flagged.count() > RECOVERABLE {
            return self.close(read_only, Ending { result: Recovered::Stale, ..ending });
        }
        let flight = self.writer.describe(&flagged);
        self.send(flight, Step::Flagged { contents, flagged: Looks::of(flagged), read_only, ending })
    }

    fn close(self, read_only: ReadOnly, ending: Ending) -> Next {
        let flight = vec![self.writer.close(read_only)];
        self.send(flight, Step::Close { closed: false, ending })
    }

    fn leave_target(self, result: Recovered) -> Next {
        let flight = vec![self.writer.examine(&self.target)];
        self.send(flight, Step::Examine { opened: Opened::default(), ending: Ending::of(result) })
    }

    fn leave_source(self, ending: Ending) -> Next {
        let flight = vec![self.writer.examine(&self.source)];
        self.send(flight, Step::Examine { opened: Opened::default(), ending })
    }
}

/// What one message looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Steady {
        deleted: bool,
        /// Of its size, its date and its flags, `\Deleted` and `\Recent` apart.
        digest: u64,
        /// Of its size and its date.
        content: u64,
    },
    /// It has changed while it was looked at.
    Unsteady,
}

/// What messages look like.
#[derive(Debug)]
struct Looks {
    wanted: UidSet,
    seen: HashMap<u32, Look>,
    /// Every FETCH was answered with OK, and nothing was removed meanwhile.
    whole: bool,
}

impl Looks {
    fn of(wanted: UidSet) -> Looks {
        Looks { wanted, seen: HashMap::new(), whole: true }
    }

    /// Of what was asked for, what was not told.
    fn missing(&self) -> Option<UidSet> {
        match UidSet::normalise(self.seen.keys().map(|uid| (*uid, *uid))) {
            Some(seen) => self.wanted.without(&seen),
            None => Some(self.wanted.clone()),
        }
    }

    fn contents(&self) -> HashSet<u64> {
        let content = |look: &Look| match look {
            Look::Steady { content, .. } => Some(*content),
            Look::Unsteady => None,
        };
        self.seen.values().filter_map(content).collect()
    }

    /// Whether one of them has such a content, or has changed while it was looked at.
    fn may_hold(&self, contents: &HashSet<u64>) -> bool {
        self.seen.values().any(|look| match look {
            Look::Steady { content, .. } => contents.contains(content),
            Look::Unsteady => true,
        })
    }

    fn see(&mut self, items: &[u8]) {
        match grammar::description(items) {
            Some(description) if self.wanted.contains(description.uid) => {
                let new = look(&description);
                let known = *self.seen.entry(description.uid).or_insert(new);
                if known != new {
                    self.seen.insert(description.uid, Look::Unsteady);
                }
            }
            Some(_) => {}
            // Another session's change.
            None => {
                let uid = grammar::fetched_state(items).and_then(|state| state.uid);
                if let Some(uid) = uid.filter(|uid| self.wanted.contains(*uid)) {
                    self.seen.insert(uid, Look::Unsteady);
                }
            }
        }
    }
}

fn look(description: &Description<'_>) -> Look {
    let mut flags: Vec<_> = description.flags.iter().map(|flag| flag.to_ascii_lowercase()).collect();
    let deleted = flags.iter().any(|flag| flag == b"\\deleted");
    flags.retain(|flag| flag != b"\\deleted" && flag != b"\\recent");
    flags.sort_unstable();
    let content = digest((description.size, description.date));
    Look::Steady { deleted, digest: digest((content, flags)), content }
}

fn digest(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
