//! One MOVE, from the client's command to its one tagged reply.
//!
//! ```text
//!   start ── resolve ──> copy ──────────> remove ────────────> finish: OK
//!            numbers     list, search,    UID STORE,    │
//!            to UIDs     UID COPY         UID EXPUNGE   ├ not all seen leaving: search, once more, search
//!                          │                            └ still there ──> undo: un-flag, search, SELECT the target,
//!                          │                                  remove the copies; finish: NO, BYE
//!                          └ no proof of the copy: finish, NO; nothing was flagged
//! ```
//!
//! Each arrow is one flight of commands; the next is written when every command of it is answered. Answers
//! are attributed by what they say, never by the tag that follows them (SRV-0).

mod copy;
mod numbers;
mod remove;
mod resolve;
mod undo;
mod unproven;
mod watch;

use super::Outcome;
use super::capability::{Capabilities, Uidplus};
use super::command::{Form, MoveCommand};
use super::mailbox::Mailbox;
use super::own_command::{Flight, Purpose, Writer};
use super::proof::{Pairs, Refused};
use super::response::{Status, Untagged};
use super::selected::Selected;
use super::sequence::UidSet;
use bytes::BytesMut;
use copy::Copying;
use remove::Removing;
use resolve::Resolving;
use undo::Undoing;
use unproven::Unproven;

/// What becomes of a line of the upstream during a MOVE.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It answers the gateway and goes no further.
    Mine,
    /// It is for the client.
    Forward,
    /// It is for the client, behind this line.
    ForwardAfter(BytesMut),
}

/// How a MOVE ends for the client.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Untagged lines, whole, before the tagged reply.
    pub lines: Vec<BytesMut>,
    /// What follows the client's tag and SP, without line end and the remark.
    pub reply: Vec<u8>,
    /// Behind it: what is left where.
    pub remark: String,
    pub outcome: Outcome,
    pub moved: u64,
    pub left_behind: u64,
    /// A COPY there proves nothing: the target is refused for the rest of the session (MOVE-6).
    pub unprovable_target: bool,
    /// Copies were to be removed again: whether all of them were (FAULT-1).
    pub undone: Option<bool>,
    /// The session cannot go on: the text of the BYE behind the reply.
    pub ends: Option<&'static str>,
}

impl Verdict {
    /// Nothing was done.
    pub fn refused(outcome: Outcome, why: &str) -> Verdict {
        Verdict::new(outcome, why)
    }

    fn new(outcome: Outcome, reply: impl Into<Vec<u8>>) -> Verdict {
        let reply = reply.into();
        Verdict {
            lines: Vec::new(),
            reply,
            remark: String::new(),
            outcome,
            moved: 0,
            left_behind: 0,
            unprovable_target: false,
            undone: None,
            ends: None,
        }
    }
}

/// What follows a flight whose every command is answered.
#[derive(Debug)]
pub(super) enum Next {
    Send(Flight, Box<Translation>),
    Finish(Verdict),
}

/// What every stage needs to know.
#[derive(Clone, Debug)]
struct Job {
    form: Form,
    target: Mailbox,
    writer: Writer,
    uidplus: Uidplus,
}

#[derive(Debug)]
enum Stage {
    Resolve(Resolving),
    Copy(Box<Copying>),
    Unproven(Unproven),
    Remove(Box<Removing>),
    Undo(Box<Undoing>),
}

/// How far a MOVE has come, for the journal.
#[derive(Debug)]
pub(super) enum Milestone<'a> {
    Resolving,
    Copying,
    /// The copies are proved: these, if they are in one target.
    Copied(Option<&'a Pairs>),
    /// It will never be finished.
    Undoing,
}

/// One MOVE in progress.
#[derive(Debug)]
pub(super) struct Translation {
    job: Job,
    stage: Stage,
}

/// The longest name of a target, in octets: it stands in each of several COPYs.
const LONGEST_TARGET: usize = 1024;

/// MOVE-2: what can be refused by looking at the command alone; `exists` is how many messages the client counts
/// (WIRE-10). The error is the reply.
pub(super) fn check(request: &MoveCommand, exists: u32, upstream: &Capabilities) -> Result<(), &'static str> {
    if request.target.octets.len() > LONGEST_TARGET {
        return Err("BAD The mailbox name is too long");
    }
    resolve::check(request.form, &request.set, exists, upstream)
}

/// The first flight of a MOVE that has passed [`check`], or why it cannot end well (MOVE-4).
pub(super) fn start(
    request: MoveCommand,
    selected: &Selected,
    exists: u32,
    writer: Writer,
    uidplus: Uidplus,
) -> Next {
    let MoveCommand { form, set, target } = request;
    let source = match selected.writable() {
        Ok(source) => source,
        Err(why) => return Next::Finish(no_permission(why)),
    };
    Resolving::begin(Job { form, target, writer, uidplus }, set, exists, source)
}

impl Translation {
    /// A line of data came. What the translation does not claim passes.
    pub fn data(&mut self, data: &Untagged<'_>) -> Claim {
        match &mut self.stage {
            Stage::Resolve(stage) => stage.data(data),
            Stage::Copy(stage) => stage.data(data),
            Stage::Unproven(stage) => stage.data(data),
            Stage::Remove(stage) => stage.data(data),
            Stage::Undo(stage) => stage.data(data),
        }
    }

    /// A command of the flight got its tagged reply.
    pub fn answered(&mut self, purpose: Purpose, status: &Status<'_>) {
        match &mut self.stage {
            Stage::Resolve(stage) => stage.answered(purpose, status),
            Stage::Copy(stage) => stage.answered(purpose, status),
            Stage::Unproven(stage) => stage.answered(status),
            Stage::Remove(stage) => stage.answered(purpose, status),
            Stage::Undo(stage) => stage.answered(status),
        }
    }

    /// Every command of the flight is answered. `framed` is false when a tagged answer came that nobody
    /// had asked for (WIRE-1): then no answer proves anything.
    pub fn landed(self: Box<Self>, selected: &Selected, framed: bool) -> Next {
        let Translation { job, stage } = *self;
        match stage {
            Stage::Resolve(_) if !framed => Next::Finish(Verdict::new(
                Outcome::Refused,
                "NO [SERVERBUG] The mail server answered commands that nobody sent; nothing was moved",
            )),
            Stage::Resolve(stage) => match selected.writable() {
                Ok(source) => stage.landed(job, source),
                Err(why) => Next::Finish(no_permission(why)),
            },
            Stage::Copy(stage) => stage.landed(job, framed),
            Stage::Unproven(stage) => stage.landed(job),
            Stage::Remove(stage) if !framed => Next::Finish(stage.out_of_step()),
            Stage::Remove(stage) => stage.landed(job),
            Stage::Undo(stage) if !framed => Next::Finish(stage.out_of_step()),
            Stage::Undo(stage) => stage.landed(job, selected),
        }
    }

    /// The target, and the UIDs that it is about; none before they are known.
    pub fn intent(&self) -> (Vec<u8>, String) {
        let uids = if let Stage::Copy(stage) = &self.stage { stage.set().to_string() } else { String::new() };
        (self.job.target.octets.clone(), uids)
    }

    /// How far it has come, for the counters.
    pub fn reached(&self) -> super::Stage {
        match &self.stage {
            Stage::Resolve(_) => super::Stage::Resolve,
            Stage::Copy(_) | Stage::Unproven(_) => super::Stage::Copy,
            Stage::Remove(_) => super::Stage::Remove,
            Stage::Undo(_) => super::Stage::Undo,
        }
    }

    /// What the journal must know before this stage's flight goes out (FAULT-4).
    pub fn milestone(&self) -> Milestone<'_> {
        match &self.stage {
            Stage::Resolve(_) => Milestone::Resolving,
            Stage::Copy(_) | Stage::Unproven(_) => Milestone::Copying,
            Stage::Remove(stage) => Milestone::Copied(stage.pairs()),
            Stage::Undo(stage) if stage.is_settled() => Milestone::Undoing,
            Stage::Undo(_) => Milestone::Copied(None),
        }
    }

    /// Whether UID COPY was sent: from then on the MOVE is finished even without its client (FAULT-2).
    pub fn is_committed(&self) -> bool {
        !matches!(self.stage, Stage::Resolve(_))
    }

    /// No copy may be removed.
    pub fn without_undo(self: Box<Self>) -> Next {
        match self.stage {
            Stage::Undo(stage) => stage.failed(),
            _ => Next::Finish(self.upstream_lost()),
        }
    }

    /// The upstream is gone, and COPY was not sent.
    pub fn not_begun() -> Verdict {
        Verdict::new(
            Outcome::UpstreamLost,
            "NO [UNAVAILABLE] The mail server went away before anything was copied; nothing was moved",
        )
    }

    /// Whether the source is not selected any more: then what is said of a mailbox is not for the client.
    pub fn has_left(&self) -> bool {
        matches!(&self.stage, Stage::Undo(stage) if stage.has_left())
    }

    /// The upstream is gone: what is true then (FAULT-3).
    pub fn upstream_lost(self) -> Verdict {
        match self.stage {
            Stage::Resolve(_) => Translation::not_begun(),
            Stage::Copy(stage) => stage.upstream_lost(),
            Stage::Unproven(stage) => stage.upstream_lost(),
            Stage::Remove(stage) => stage.upstream_lost(),
            Stage::Undo(stage) => stage.upstream_lost(),
        }
    }
}

/// MOVE-14: the upstream's own words under the client's tag.
fn refusal(refused: Option<Refused>) -> Verdict {
    match refused {
        Some(refused) if refused.uncertain => {
            let mut verdict = Verdict::new(Outcome::Incomplete, refused.reply);
            verdict.remark =
                format!(" (still in the source, copies may be in the target: {})", named(&refused.set));
            verdict.left_behind = refused.set.count();
            verdict
        }
        Some(refused) => Verdict::new(Outcome::Refused, refused.reply),
        None => {
            Verdict::new(Outcome::Refused, "NO The mail server did not copy the messages; nothing was moved")
        }
    }
}

fn no_permission(why: &str) -> Verdict {
    let reply = format!("NO [NOPERM] Nothing was moved out of the selected mailbox: {why}");
    Verdict::new(Outcome::Refused, reply)
}

/// How a set is named in a text for people: its UIDs, cut where it grows long.
fn named(set: &UidSet) -> String {
    const LONGEST: usize = 400;
    let first = &set.chunks(LONGEST)[0];
    let rest = set.count() - first.count();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("UID {first}{more}")
}
