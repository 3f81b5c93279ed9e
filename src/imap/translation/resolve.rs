//! The client's set becomes a fixed, normalised UID set (MOVE-5).

use super::copy::Copying;
use super::watch::Early;
use super::{Claim, Job, Next, Stage, Translation, Verdict};
use crate::imap::Outcome;
use crate::imap::capability::Capabilities;
use crate::imap::command::Form;
use crate::imap::grammar::{self, FetchedState};
use crate::imap::own_command::{Flight, OwnCommand, Purpose};
use crate::imap::response::{Status, Untagged};
use crate::imap::selected::Writable;
use crate::imap::sequence::{Collected, End, NumberSet, SequenceSet, UidSet};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};

/// MOVE-2: what can be refused by looking at the command alone. The error is the reply.
pub fn check(
    form: Form,
    set: &SequenceSet,
    exists: u32,
    upstream: &Capabilities,
) -> Result<(), &'static str> {
    let SequenceSet::Ranges(ranges) = set else {
        let known = upstream.searchres;
        return known.then_some(()).ok_or("BAD The mail server has no SEARCHRES, so $ means nothing to it");
    };
    let too_high = |end: &End| match end {
        End::Number(n) => *n > exists,
        End::Last => exists == 0,
    };
    if form == Form::Sequence && ranges.iter().any(|(a, b)| too_high(a) || too_high(b)) {
        return Err("BAD A sequence number is higher than the number of messages in the mailbox");
    }
    Ok(())
}

/// What is being asked, and what is known so far.
#[derive(Debug)]
pub struct Resolving {
    ask: Ask,
    early: Early,
    /// A removal came: what is said of a number from then on is said of another message.
    disturbed: bool,
    /// A SEARCH response came.
    searched: bool,
    /// The upstream's answer to what was asked is BAD: nothing can be resolved.
    refused: bool,
}

#[derive(Debug)]
enum Ask {
    /// Nothing: the set is known, only the rights are asked for.
    Known(UidSet),
    /// `$`.
    Saved(Collected),
    /// The ends of the client's ranges, as sequence numbers.
    Ends { ranges: Ranges, wanted: NumberSet, found: BTreeMap<u32, u32> },
    /// Whole ranges, because an end was not returned.
    Whole { ranges: Ranges, wanted: NumberSet, told: HashSet<u32>, uids: Collected, highest: u32 },
}

/// The client's set, in what it counts.
#[derive(Clone, Debug)]
enum Ranges {
    /// Sequence numbers; `*` already is a number.
    Numbers(Vec<(u32, u32)>),
    /// UIDs with `*`, which is message `last`.
    Uids { ranges: Vec<(End, End)>, last: u32 },
}

impl Ranges {
    fn new(form: Form, ranges: Vec<(End, End)>, exists: u32) -> Ranges {
        let number = |end| if let End::Number(n) = end { n } else { exists };
        match form {
            Form::Sequence => Ranges::Numbers(ranges.iter().map(|(a, b)| (number(*a), number(*b))).collect()),
            Form::Uid => Ranges::Uids { ranges, last: exists },
        }
    }

    /// The sequence numbers whose UIDs tell all.
    fn ends(&self) -> Vec<(u32, u32)> {
        match self {
            Ranges::Numbers(ranges) => ranges.iter().flat_map(|(a, b)| [(*a, *a), (*b, *b)]).collect(),
            Ranges::Uids { last, .. } => vec![(*last, *last)],
        }
    }
}

/// A UID set with `*` in place of which stands `last`; nothing reaches above it.
fn with_last(ranges: &[(End, End)], last: u32) -> Option<UidSet> {
    let uid = |end| if let End::Number(n) = end { n } else { last };
    let pairs = ranges.iter().filter_map(|&(a, b)| {
        let (low, high) = (uid(a).min(uid(b)), uid(a).max(uid(b)));
        // An end that is higher becomes `last`; a range that lies above it as a whole holds no known message.
        (low <= last).then_some((low, high.min(last)))
    });
    UidSet::normalise(pairs)
}

/// The same where message `*` is gone: no other takes its place, and ranges end at the highest that is there.
fn without_last(ranges: &[(End, End)], highest: u32) -> Option<UidSet> {
    let there = |end| if let End::Number(n) = end { n <= highest } else { false };
    let ranges: Vec<_> = ranges.iter().copied().filter(|(a, b)| there(*a) || there(*b)).collect();
    with_last(&ranges, highest)
}

impl Resolving {
    fn new(ask: Ask) -> Resolving {
        Resolving { ask, early: Early::default(), disturbed: false, searched: false, refused: false }
    }

    /// The first flight of the MOVE, or none where the set is plain UIDs and the rights are known.
    pub fn begin(job: Job, set: SequenceSet, exists: u32, source: Writable<'_>) -> Next {
        let Some(ask) = Ask::of(job.form, set, exists) else {
            return Next::Finish(nothing(job.form));
        };
        let mut flight = ask.flight(&job);
        // MYRIGHTS rides behind: before the FETCH it could carry an EXPUNGE and shift what the client meant.
        let rights_of = source.to_ask_rights_of(&job.writer.capabilities);
        flight.extend(rights_of.map(|mailbox| job.writer.rights(mailbox)));
        let stage = Resolving::new(ask);
        if flight.is_empty() { stage.landed(job, source) } else { send(flight, job, stage) }
    }

    pub fn data(&mut self, data: &Untagged<'_>) -> Claim {
        match (&mut self.ask, data) {
            (Ask::Saved(uids), Untagged::Search(numbers)) => {
                let again = std::mem::replace(&mut self.searched, true);
                match grammar::search_result(numbers) {
                    Some(found) if !again => uids.append(&found),
                    _ => self.refused = true,
                }
                Claim::Mine
            }
            (ask, Untagged::Fetch(number, items)) if !self.disturbed => match grammar::fetched_state(items) {
                Some(FetchedState { uid: Some(uid), more }) => match ask.learn(*number, uid) {
                    Some(news) => self.early.claim(uid, news, more),
                    None => Claim::Forward,
                },
                _ => Claim::Forward,
            },
            (_, Untagged::Expunge(_) | Untagged::Vanished(_)) => {
                self.disturbed = true;
                Claim::Forward
            }
            _ => Claim::Forward,
        }
    }

    pub fn answered(&mut self, purpose: Purpose, status: &Status<'_>) {
        // NO is common where messages have vanished, and the lines that came are still true.
        let fatal = match purpose {
            Purpose::ResolveNumbers => status.condition == crate::imap::response::Condition::Bad,
            Purpose::ResolveSaved => !status.is_ok(),
            _ => false,
        };
        self.refused |= fatal;
    }

    pub fn landed(self, job: Job, source: Writable<'_>) -> Next {
        let unsaid = matches!(self.ask, Ask::Saved(_)) && !self.searched;
        if self.refused || unsaid {
            let reply = "NO The mail server would not say which messages these are; nothing was moved";
            return Next::Finish(Verdict::new(Outcome::Refused, reply));
        }
        match self.ask.resolve(self.disturbed) {
            Resolved::Set(set) => Copying::begin(job, set, source),
            Resolved::SavedNothing => Next::Finish(nothing(Form::Uid)),
            Resolved::Nothing => Next::Finish(nothing(job.form)),
            Resolved::Disturbed => Next::Finish(Verdict::new(
                Outcome::Refused,
                "NO [EXPUNGEISSUED] Messages were removed meanwhile; nothing was moved, try again",
            )),
            Resolved::Ask(ask) => send(ask.flight(&job), job, Resolving::new(ask)),
        }
    }
}

enum Resolved {
    Set(UidSet),
    /// `$` holds nothing, which matches nothing in either form (RFC 5182 section 2.1).
    SavedNothing,
    Nothing,
    Disturbed,
    Ask(Ask),
}

impl Resolved {
    fn from(set: Option<UidSet>) -> Resolved {
        set.map_or(Resolved::Nothing, Resolved::Set)
    }
}

impl Ask {
    fn of(form: Form, set: SequenceSet, exists: u32) -> Option<Ask> {
        let SequenceSet::Ranges(ranges) = set else { return Some(Ask::Saved(Collected::default())) };
        let has_last = ranges.iter().any(|(a, b)| *a == End::Last || *b == End::Last);
        if form == Form::Uid && !has_last {
            return with_last(&ranges, u32::MAX).map(Ask::Known);
        }
        let ranges = Ranges::new(form, ranges, exists);
        let wanted = NumberSet::normalise(ranges.ends()).filter(|_| exists > 0)?;
        Some(Ask::Ends { ranges, wanted, found: BTreeMap::new() })
    }

    fn flight(&self, job: &Job) -> Flight {
        match self {
            Ask::Known(_) => Vec::new(),
            Ask::Saved(_) => vec![OwnCommand::new(Purpose::ResolveSaved, "UID SEARCH $")],
            Ask::Ends { wanted, .. } | Ask::Whole { wanted, .. } => job.writer.resolve(wanted),
        }
    }

    /// Whether it is news, if this message was asked for.
    fn learn(&mut self, number: u32, uid: u32) -> Option<bool> {
        match self {
            Ask::Ends { wanted, found, .. } if wanted.contains(number) => match found.entry(number) {
                Entry::Vacant(new) => {
                    new.insert(uid);
                    Some(true)
                }
                Entry::Occupied(old) => (*old.get() == uid).then_some(false),
            },
            Ask::Whole { wanted, told, uids, highest, .. } if wanted.contains(number) => {
                let news = told.insert(number);
                if news {
                    uids.push(uid);
                    *highest = uid.max(*highest);
                }
                Some(news)
            }
            _ => None,
        }
    }

    fn resolve(self, disturbed: bool) -> Resolved {
        match self {
            Ask::Known(set) => Resolved::Set(set),
            Ask::Saved(uids) => uids.set().map_or(Resolved::SavedNothing, Resolved::Set),
            Ask::Ends { ranges, found, .. } => match NumberSet::normalise(missing_ranges(&ranges, &found)) {
                None => Resolved::from(from_ends(&ranges, &found)),
                Some(_) if disturbed => Resolved::Disturbed,
                Some(wanted) => Resolved::Ask(Ask::whole(ranges, &found, wanted)),
            },
            Ask::Whole { .. } if disturbed => Resolved::Disturbed,
            Ask::Whole { ranges: Ranges::Uids { ranges, .. }, highest, .. } => {
                Resolved::from(without_last(&ranges, highest))
            }
            Ask::Whole { uids, .. } => Resolved::from(uids.set()),
        }
    }

    /// The ranges that have both ends keep them; of the others every message is asked for.
    fn whole(ranges: Ranges, found: &BTreeMap<u32, u32>, wanted: NumberSet) -> Ask {
        let mut uids = Collected::default();
        if let Ranges::Numbers(pairs) = &ranges {
            for (a, b) in pairs {
                if let (Some(a), Some(b)) = (found.get(a), found.get(b)) {
                    uids.push_range((*a.min(b), *a.max(b)));
                }
            }
        }
        Ask::Whole { ranges, wanted, told: HashSet::new(), uids, highest: 0 }
    }
}

fn missing_ranges(ranges: &Ranges, found: &BTreeMap<u32, u32>) -> Vec<(u32, u32)> {
    match ranges {
        Ranges::Numbers(pairs) => {
            let known = |(a, b): &&(u32, u32)| found.contains_key(a) && found.contains_key(b);
            pairs.iter().filter(|pair| !known(pair)).copied().collect()
        }
        Ranges::Uids { last, .. } if found.contains_key(last) => Vec::new(),
        // Up to where a range ends in `*`: the highest message that is still there.
        Ranges::Uids { last, .. } => vec![(1, *last)],
    }
}

fn from_ends(ranges: &Ranges, found: &BTreeMap<u32, u32>) -> Option<UidSet> {
    match ranges {
        Ranges::Numbers(pairs) => UidSet::normalise(pairs.iter().map(|(a, b)| (found[a], found[b]))),
        Ranges::Uids { ranges, last } => with_last(ranges, found[last]),
    }
}

/// MOVE-12: no such message. Numbers that were there a moment ago are another matter.
fn nothing(form: Form) -> Verdict {
    match form {
        Form::Uid => Verdict::new(Outcome::Moved, "OK No messages to move"),
        Form::Sequence => Verdict::new(
            Outcome::Refused,
            "NO [EXPUNGEISSUED] These messages were removed meanwhile; nothing was moved",
        ),
    }
}

fn send(flight: Flight, job: Job, stage: Resolving) -> Next {
    Next::Send(flight, Box::new(Translation { job, stage: Stage::Resolve(stage) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use End::{Last, Number};

    #[test]
    fn move_5_no_set_with_a_star_reaches_above_its_message() {
        let text = |ranges: &[(End, End)], last| with_last(ranges, last).map(|set| set.to_string());
        assert_eq!(text(&[(Number(3), Last)], 10).as_deref(), Some("3:10"));
        assert_eq!(text(&[(Last, Number(500))], 10).as_deref(), Some("10"));
        assert_eq!(
            text(&[(Last, Last), (Number(2), Number(4)), (Number(8), Number(90))], 10).as_deref(),
            Some("2:4,8:10")
        );
        assert_eq!(text(&[(Number(50), Number(60)), (Last, Last)], 10).as_deref(), Some("10"));
    }
}
