//! One MOVE, from the client's command to its one tagged reply.
//!
//! ```text
//!   start ── resolve ──> copy ──────────> remove ────────────> finish: OK
//!            numbers     list, search,    UID STORE,    │
//!            to UIDs     UID COPY         UID EXPUNGE   ├ not all seen leaving: search, once more, search
//!                          │                            └ still there: finish, NO that says what is left where
//!                          └ no proof of the copy: finish, NO; nothing was flagged
//! ```
//!
//! Each arrow is one flight of commands; the next is written when every command of it is answered. Answers
//! are attributed by what they say, never by the tag that follows them (SRV-0).

mod copy;
mod numbers;
mod remove;
mod resolve;
mod unproven;
mod watch;

use super::Outcome;
use super::capability::{Capabilities, Uidplus};
use super::command::{Form, MoveCommand};
use super::mailbox::Mailbox;
use super::own_command::{Flight, Purpose, Writer};
use super::proof::Refused;
use super::response::{Status, Untagged};
use super::sequence::UidSet;
use copy::Copying;
use remove::Removing;
use resolve::Resolving;
use unproven::Unproven;

/// What is known of the selected mailbox (RFC 9051 section 3.3).
#[derive(Clone, Debug, Default)]
pub struct Selected {
    /// Its name as the client wrote it, if the gateway could read it.
    pub(super) mailbox: Option<Mailbox>,
    /// Opened with EXAMINE, or the upstream said READ-ONLY.
    pub(super) read_only: bool,
    /// PERMANENTFLAGS came and lacked `\Deleted`.
    pub(super) deleted_is_not_permanent: bool,
    /// Its UIDVALIDITY, if the upstream has told it.
    pub(super) validity: Option<u32>,
    /// The answer to MYRIGHTS.
    pub(super) rights: Rights,
}

/// A selected mailbox that messages may leave: only from one can a MOVE start (MOVE-4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Writable<'a>(&'a Selected);

impl Selected {
    /// The error is the refusal.
    fn writable(&self) -> Result<Writable<'_>, Verdict> {
        let may = !self.deleted_is_not_permanent && self.rights != Rights::MayNotDelete;
        match () {
            () if self.read_only => Err(no_permission("it is open read-only")),
            () if !may => Err(no_permission("you may not delete messages there")),
            () => Ok(Writable(self)),
        }
    }
}

impl<'a> Writable<'a> {
    /// Its name, if MYRIGHTS is to be asked first.
    fn to_ask_rights_of(self, upstream: &Capabilities) -> Option<&'a Mailbox> {
        let asks = upstream.acl && self.0.rights == Rights::NotAsked;
        self.0.mailbox.as_ref().filter(|_| asks)
    }
}

fn no_permission(why: &str) -> Verdict {
    let reply = format!("NO [NOPERM] Nothing was moved out of the selected mailbox: {why}");
    Verdict::new(Outcome::Refused, reply)
}

/// What MYRIGHTS said of the selected mailbox (RFC 4314; MOVE-4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rights {
    #[default]
    NotAsked,
    /// The upstream would not tell: go on.
    NotTold,
    MayDelete,
    MayNotDelete,
}

impl Rights {
    /// `d` of RFC 2086, or both `t` and `e`.
    pub fn parse(rights: &[u8]) -> Rights {
        let has = |right| rights.contains(&right);
        if has(b'd') || (has(b't') && has(b'e')) { Rights::MayDelete } else { Rights::MayNotDelete }
    }
}

/// What becomes of a line of the upstream during a MOVE.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It answers the gateway and goes no further.
    Mine,
    /// It is for the client.
    Forward,
    /// It is for the client, behind this line.
    ForwardAfter(Vec<u8>),
}

/// How a MOVE ends for the client.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Untagged lines, whole, before the tagged reply.
    pub lines: Vec<Vec<u8>>,
    /// What follows the client's tag and SP, without line end.
    pub reply: Vec<u8>,
    pub outcome: Outcome,
    pub moved: u64,
    pub left_behind: u64,
    /// A COPY there proves nothing: the target is refused for the rest of the session (MOVE-6).
    pub unprovable_target: bool,
}

impl Verdict {
    /// Nothing was done.
    pub fn refused(outcome: Outcome, why: &str) -> Verdict {
        Verdict::new(outcome, why)
    }

    fn new(outcome: Outcome, reply: impl Into<Vec<u8>>) -> Verdict {
        let reply = reply.into();
        Verdict { lines: Vec::new(), reply, outcome, moved: 0, left_behind: 0, unprovable_target: false }
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
    Copy(Copying),
    Unproven(Unproven),
    Remove(Removing),
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
        Err(refusal) => return Next::Finish(refusal),
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
        }
    }

    /// A command of the flight got its tagged reply.
    pub fn answered(&mut self, purpose: Purpose, status: &Status<'_>) {
        match &mut self.stage {
            Stage::Resolve(stage) => stage.answered(purpose, status),
            Stage::Copy(stage) => stage.answered(purpose, status),
            Stage::Unproven(stage) => stage.answered(status),
            Stage::Remove(stage) => stage.answered(purpose, status),
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
                Err(refusal) => Next::Finish(refusal),
            },
            Stage::Copy(stage) => stage.landed(job, framed),
            Stage::Unproven(stage) => stage.landed(job),
            Stage::Remove(stage) if !framed => Next::Finish(stage.out_of_step()),
            Stage::Remove(stage) => stage.landed(job),
        }
    }

    /// The target, and the UIDs that it is about; none before they are known.
    pub fn intent(&self) -> (Vec<u8>, String) {
        let uids = if let Stage::Copy(stage) = &self.stage { stage.set().to_string() } else { String::new() };
        (self.job.target.octets.clone(), uids)
    }

    /// Once the copies are proved: the COPYUID line that says so, if one can.
    pub fn copied_line(&self) -> Option<Option<&[u8]>> {
        if let Stage::Remove(stage) = &self.stage { Some(stage.copyuid()) } else { None }
    }

    /// Whether UID COPY was sent: from then on the MOVE is finished even without its client (FAULT-2).
    pub fn is_committed(&self) -> bool {
        !matches!(self.stage, Stage::Resolve(_))
    }

    /// The upstream is gone: what is true then (FAULT-3).
    pub fn upstream_lost(self) -> Verdict {
        match self.stage {
            Stage::Resolve(_) => Verdict::new(
                Outcome::UpstreamLost,
                "NO [UNAVAILABLE] The mail server went away before anything was copied; nothing was moved",
            ),
            Stage::Copy(stage) => stage.upstream_lost(),
            Stage::Unproven(stage) => stage.upstream_lost(),
            Stage::Remove(stage) => stage.upstream_lost(),
        }
    }
}

/// MOVE-14: the upstream's own words under the client's tag.
fn refusal(refused: Option<Refused>) -> Verdict {
    match refused {
        Some(refused) => Verdict::new(Outcome::Refused, refused.reply),
        None => {
            Verdict::new(Outcome::Refused, "NO The mail server did not copy the messages; nothing was moved")
        }
    }
}

/// How a set is named in a text for people: its UIDs, cut where it grows long.
fn named(set: &UidSet) -> String {
    const LONGEST: usize = 400;
    let first = &set.chunks(LONGEST)[0];
    let rest = set.count() - first.count();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("UID {first}{more}")
}
