//! What FAULT-1 allows the gateway to do, seen from the wire: a message that does not leave the source loses its copy
//! again, and only such a message does.
//!
//! [`Undo`] is told of the commands that the gateway sends and of what the server answers, in order, from a MOVE's first
//! command on. It knows which copies may go, and why one may have to stay.
#![allow(dead_code)] // each test binary uses its own part

use super::store::Trouble;
use super::strict::{Command, Kind, Response, numbers};
use std::collections::{HashMap, HashSet};

/// What a command of the gateway's is for, once STORE was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    SearchDeleted,
    Search,
    Unflag,
    There,
    Undeleted,
    Open,
    Store,
    Expunge,
    Check,
    Flags,
}

/// The answers to the searches of one flight.
#[derive(Debug, Default)]
struct Searched {
    sent: usize,
    lines: usize,
    refused: bool,
    found: HashSet<u32>,
}

/// What a SELECT of the gateway's own has shown.
#[derive(Debug, Default)]
struct Opened {
    validity: Option<String>,
    read_only: bool,
    no_deleted: bool,
    accepted: bool,
}

#[derive(Debug, Default)]
pub struct Undo {
    /// Its first command was sent.
    pub begun: bool,
    /// The gateway has sent a SELECT of its own.
    pub left: bool,
    /// Commands that are not answered.
    pending: HashMap<Vec<u8>, Step>,
    searched: Searched,
    /// Found by the search before the COPY's answer, if it was answered well.
    flagged_before: Option<HashSet<u32>>,
    /// Found by the last search before the undo.
    stays: Option<HashSet<u32>>,
    there: HashSet<u32>,
    undeleted: HashSet<u32>,
    opened: Opened,
    /// How often each message was to be flagged.
    stored: HashMap<u32, u32>,
    /// All own commands, and what they are for.
    steps: HashMap<Vec<u8>, Step>,
    /// The tags of each try to flag and remove the copies.
    tries: Vec<HashSet<Vec<u8>>>,
    troubled: HashSet<Vec<u8>>,
    /// Something happened on which no command of the gateway's had an influence.
    disturbed: bool,
    unsearched: bool,
}

/// What the gateway's command is about.
pub struct Of<'a> {
    /// (UID in the source, UID in the target) as the server's COPYUIDs named them.
    pub proven: &'a [(u32, u32)],
    /// Their UIDVALIDITY, if there is one for all.
    pub validity: Option<&'a str>,
    pub same_mailbox: bool,
    /// The gateway may have learned that this message has left.
    pub seen_leaving: &'a dyn Fn(u32) -> bool,
}

fn set_of(command: &Command) -> Result<Vec<u32>, String> {
    let set = command.args.first().map(|set| String::from_utf8_lossy(set.value()).into_owned());
    numbers(&set.unwrap_or_default())
        .ok_or_else(|| format!("{}: not a fixed set", command.raw.escape_ascii()))
}

impl Undo {
    /// The gateway sent a command of its own.
    pub fn sent(&mut self, command: &Command, of: &Of<'_>, removing: bool) -> Result<(), String> {
        let step = self.step(command, removing);
        let Some(step) = step else { return Ok(()) };
        let shown = command.raw.escape_ascii().to_string();
        if matches!(step, Step::Unflag) {
            self.begun = true;
        }
        if self.begun && self.pending.values().any(|other| *other != step) {
            return Err(format!("FAULT-1: {shown} before the step ahead of it was answered"));
        }
        self.allowed(step, command, of).map_err(|what| format!("FAULT-1: {shown}: {what}"))?;
        if matches!(step, Step::Store | Step::Expunge) && self.begun {
            if step == Step::Store && !self.pending.values().any(|other| *other == Step::Store) {
                self.tries.push(HashSet::new());
            }
            self.tries
                .last_mut()
                .ok_or("FAULT-1: an EXPUNGE in the target before a STORE")?
                .insert(command.tag.clone());
        }
        let is_search =
            matches!(step, Step::SearchDeleted | Step::Search | Step::There | Step::Undeleted | Step::Check);
        if is_search {
            if !self.pending.values().any(|other| *other == step) {
                self.searched = Searched::default();
            }
            self.searched.sent += 1;
        }
        self.pending.insert(command.tag.clone(), step);
        self.steps.insert(command.tag.clone(), step);
        Ok(())
    }

    fn step(&self, command: &Command, removing: bool) -> Option<Step> {
        let ends = |end: &str| command.raw.ends_with(format!("{end}\r\n").as_bytes());
        let searching = self.tries.is_empty();
        Some(match command.verb.as_str() {
            "UID SEARCH" if ends(" UNDELETED") => Step::Undeleted,
            "UID SEARCH" if ends(" DELETED") => Step::SearchDeleted,
            "UID SEARCH" if self.begun && searching => Step::There,
            "UID SEARCH" if self.begun => Step::Check,
            "UID SEARCH" => Step::Search,
            "UID STORE" if ends(" -FLAGS.SILENT (\\Deleted)") => Step::Unflag,
            "NOOP" if removing => Step::Unflag,
            "SELECT" => Step::Open,
            "UID STORE" => Step::Store,
            "UID EXPUNGE" => Step::Expunge,
            "UID FETCH" if self.begun => Step::Flags,
            _ => return None,
        })
    }

    fn allowed(&mut self, step: Step, command: &Command, of: &Of<'_>) -> Result<(), String> {
        match step {
            Step::Unflag if command.verb == "NOOP" => Ok(()),
            Step::Unflag => self.may_unflag(&set_of(command)?, of),
            Step::Open => self.may_open(of),
            Step::Store | Step::Expunge if self.begun => self.may_remove_copies(&set_of(command)?, of),
            Step::Store => {
                set_of(command)?.into_iter().for_each(|uid| *self.stored.entry(uid).or_default() += 1);
                Ok(())
            }
            Step::Undeleted if !self.begun => Err("no undo runs".into()),
            _ => Ok(()),
        }
    }

    /// The flag of a message that would not leave, where the gateway has set it.
    fn may_unflag(&self, uids: &[u32], of: &Of<'_>) -> Result<(), String> {
        let before = self.flagged_before.as_ref().ok_or("nobody knows what was flagged before")?;
        let wrong = |uid: &u32| match () {
            () if !of.proven.iter().any(|pair| pair.0 == *uid) => Some("was not copied"),
            () if before.contains(uid) => Some("was flagged before"),
            // Where the last search was not answered, nobody knows what has left and what needs a second try.
            () if self.stays.as_ref().is_some_and(|stays| !stays.contains(uid)) => Some("has left"),
            () if self.stays.is_some() && self.stored.get(uid).is_none_or(|tries| *tries < 2) => {
                Some("was not tried twice")
            }
            () => None,
        };
        uids.iter().try_for_each(|uid| wrong(uid).map_or(Ok(()), |what| Err(format!("{uid} {what}"))))
    }

    fn may_open(&mut self, of: &Of<'_>) -> Result<(), String> {
        if !of.proven.iter().any(|pair| self.may_go(pair.0, of)) {
            return Err("no copy may go".into());
        }
        (self.left, self.opened) = (true, Opened::default());
        Ok(())
    }

    /// Its own message was found in the source, and would not go with the next EXPUNGE there.
    fn may_go(&self, source: u32, of: &Of<'_>) -> bool {
        let exempt = self.flagged_before.as_ref().is_some_and(|before| before.contains(&source));
        let stays = self.undeleted.contains(&source) || (exempt && self.there.contains(&source));
        let committed = self.left || !self.tries.is_empty();
        stays && (committed || !(of.seen_leaving)(source))
    }

    fn may_remove_copies(&self, uids: &[u32], of: &Of<'_>) -> Result<(), String> {
        let Opened { validity, read_only, no_deleted, accepted } = &self.opened;
        match () {
            () if !self.left && of.same_mailbox => {}
            () if !self.left => return Err("the target is not selected".into()),
            () if !accepted => return Err("the target was not opened".into()),
            () if *read_only || *no_deleted => return Err("nothing may be deleted there".into()),
            () if validity.is_none() || of.validity != validity.as_deref() => {
                return Err(format!("UIDVALIDITY {validity:?} is not the COPYUID's {:?}", of.validity));
            }
            () => {}
        }
        let copy = |uid: &u32| of.proven.iter().any(|pair| pair.1 == *uid && self.may_go(pair.0, of));
        match uids.iter().find(|uid| !copy(uid)) {
            Some(uid) => Err(format!("{uid} is not the copy of a message that was found to stay")),
            None => Ok(()),
        }
    }

    /// Whether this message's copy may be flagged and removed by the gateway.
    pub fn lets_go(&self, source: u32) -> bool {
        let exempt = self.flagged_before.as_ref().is_some_and(|before| before.contains(&source));
        let stays = self.undeleted.contains(&source) || (exempt && self.there.contains(&source));
        !self.tries.is_empty() && stays
    }

    /// The server said something.
    pub fn answered(&mut self, response: &Response) {
        if let Kind::Tagged(tag) = &response.kind {
            if let Some(step) = self.pending.remove(tag) {
                self.step_answered(step, response);
            }
            return;
        }
        let words = response.words();
        if words[0].eq_ignore_ascii_case("SEARCH") {
            self.searched.lines += 1;
            self.searched.found.extend(words[1..].iter().filter_map(|word| word.parse::<u32>().ok()));
        }
        if self.pending.values().any(|step| *step == Step::Open) {
            self.opening(response);
        }
    }

    fn opening(&mut self, response: &Response) {
        if let Some(validity) = response.code("UIDVALIDITY") {
            self.opened.validity = Some(validity);
        }
        self.opened.read_only |= response.code("READ-ONLY").is_some();
        if let Some(flags) = response.code("PERMANENTFLAGS") {
            self.opened.no_deleted = !flags.contains("\\Deleted");
        }
    }

    fn step_answered(&mut self, step: Step, response: &Response) {
        let accepted = response.status().as_deref() == Some("OK");
        if step == Step::Open {
            self.opening(response);
            self.opened.accepted = accepted;
            return;
        }
        self.searched.refused |= !accepted;
        if self.pending.values().any(|other| *other == step) {
            return;
        }
        let Searched { sent, lines, refused, found } = &self.searched;
        let certain = sent == lines && !refused;
        let found = found.clone();
        match step {
            Step::SearchDeleted => self.flagged_before = certain.then_some(found),
            Step::Search => self.stays = certain.then_some(found),
            Step::There if certain => self.there = found,
            Step::Undeleted if certain => self.undeleted = found,
            _ => {}
        }
    }

    /// Another session has changed what the undo is about.
    pub fn disturbed(&mut self) {
        self.disturbed |= self.begun;
    }

    /// Something went wrong in the server, on purpose.
    pub fn trouble(&mut self, by: &[u8], what: &Trouble) {
        self.troubled.extend(self.begun.then(|| by.to_vec()));
        self.disturbed |= matches!(what, Trouble::Remade(_)) || (self.begun && by.is_empty());
        self.unsearched |= matches!(what, Trouble::Unsearched) && self.steps.contains_key(by);
    }

    /// Whether something was in the way of undoing anything.
    pub fn may_fail(&self) -> bool {
        let troubled = |tags: &&HashSet<Vec<u8>>| tags.iter().any(|tag| self.troubled.contains(tag));
        let closed = self.troubled.iter().any(|tag| self.steps.get(tag) == Some(&Step::Open));
        let twice = self.tries.iter().filter(troubled).count() > 1;
        self.begun && (closed || twice || self.disturbed || self.unsearched)
    }

    /// Whether, though undoing worked, this message may have to keep its copy: it bears a \Deleted now, which is not the
    /// gateway's, or which the gateway could not take off.
    pub fn may_skip(&self, source: u32, is_flagged: bool, by_others: bool) -> bool {
        let kept = self.troubled.iter().any(|tag| self.steps.get(tag) == Some(&Step::Unflag));
        let before = self.flagged_before.as_ref().map(|before| before.contains(&source));
        self.begun && is_flagged && (before.is_none() || (before == Some(false) && (kept || by_others)))
    }
}
