//! The fault matrix: a MOVE is stopped at each of its steps, and there something breaks (FAULT-1 to FAULT-4).
//!
//! [`TABLE`] says what must be so in the end. It is played twice: in one process, by an [`imap::Session`] in front of the
//! model mail store ([`in_model`]), and by the program itself, with its journal, in front of that store behind a socket
//! ([`with_program`]). Each cell is played with 1, 3 and 100 messages, and with 3 and 100 of which another session expunges
//! one just before, or just after, they are copied. Another session's mail arrives in both mailboxes meanwhile.
//!
//! In each of these runs, whatever its cell says ([`play`]):
//!
//! - at no time is a message in neither mailbox, and in the end there is one of it in each at most;
//! - no other message is ever flagged or expunged, and all are as they were in the end;
//! - OK is said only if each message is in the target and gone from the source, and the text of a NO says of each message
//!   where it is;
//! - then the user logs in and selects the source, and all of that is true again.
//!
//! [`imap::Session`]: imapmove::imap::Session

#[path = "../support/in_memory.rs"]
mod in_memory;
mod in_model;
#[path = "../support/peer.rs"]
mod peer;
mod play;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/remark.rs"]
mod remark;
mod scripted;
#[path = "../support/store.rs"]
mod store;
#[path = "../support/strict.rs"]
mod strict;
mod with_program;

use std::fmt;

/// How far the MOVE has come when the fault comes. (STORE and UID EXPUNGE go out together.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Boundary {
    /// COPY is not sent: the server was asked which messages the numbers of a `MOVE` mean.
    Resolving,
    /// COPY is sent. The server does not get it.
    BeforeCopy,
    /// It has copied. The gateway does not hear it.
    CopySent,
    /// The gateway has heard it. The server does not get STORE.
    CopyOk,
    /// The messages are flagged. The gateway does not hear it, the server does not get EXPUNGE.
    StoreSent,
    /// The gateway has heard it. The server does not get EXPUNGE.
    StoreOk,
    /// The messages have left. The gateway hears of none.
    ExpungeSent,
    /// Half of them have left, the larger one. The gateway has heard of these.
    SomeSeen,
    /// The client has its OK.
    ExpungeOk,
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server's connection is reset.
    Reset,
    /// The server says BYE and closes the connection.
    Bye,
    /// The server says nothing any more.
    Hang,
    /// The server does not stop: it answers NO to the command at which it would have, each time that this command comes.
    No,
    /// The same, the first time.
    NoOnce,
    /// BAD instead of NO, each time.
    Bad,
    /// The client's connection is reset; the server goes on.
    ClientGone,
    /// The gateway is told to end; the server goes on.
    Sigterm,
    /// The gateway is killed; another one is started.
    Sigkill,
}

/// What must be so then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// OK. All are in the target alone.
    Target,
    /// NO, or the server's own BAD. All are in the source alone.
    Source,
    /// NO. All are in both: nothing proves the copies, so nobody may take anything away.
    Both,
    /// NO, but to a client that has seen all removals: OK. The rest is in both mailboxes, perhaps flagged as deleted in the
    /// source. **Before the user's next SELECT this MOVE is finished**: all are in the target alone.
    Finished,
    /// NO. All are in the target alone, but the client has seen none of them leave.
    Unseen,
    /// NO. All are in the source alone, without a flag of ours: the copies are removed again.
    Undone,
    /// The same for the half that did not leave; the other one is in the target alone. OK, if there is no such half.
    HalfUndone,
    /// There is no such case.
    Never(&'static str),
}

/// The required ends. Nobody is told anything where the client is gone or the gateway is killed.
#[rustfmt::skip]
const TABLE: [(Boundary, [End; 9]); 9] = {
    use {Boundary::*, End::*};
    const OVER: End = Never("every command of the MOVE has its answer");
    const VOID: End = Never("a COPY that is refused has copied nothing (RFC 9051 section 6.4.7)");
    [
        //             Reset     Bye       Hang      No          NoOnce  Bad         ClientGone Sigterm  Sigkill
        (Resolving,   [Source,   Source,   Source,   Source,     Target, Source,     Source,    Target,  Source  ]),
        (BeforeCopy,  [Source,   Source,   Source,   Source,     Source, Source,     Target,    Target,  Source  ]),
        (CopySent,    [Both,     Both,     Both,     VOID,       VOID,   VOID,       Target,    Target,  Both    ]),
        (CopyOk,      [Finished, Finished, Finished, Undone,     Target, Undone,     Target,    Target,  Finished]),
        (StoreSent,   [Finished, Finished, Finished, Target,     Target, Target,     Target,    Target,  Finished]),
        (StoreOk,     [Finished, Finished, Finished, Undone,     Target, Undone,     Target,    Target,  Finished]),
        (ExpungeSent, [Unseen,   Unseen,   Unseen,   Target,     Target, Target,     Target,    Target,  Target  ]),
        (SomeSeen,    [Finished, Finished, Finished, HalfUndone, Target, HalfUndone, Target,    Target,  Finished]),
        (ExpungeOk,   [Target,   Target,   OVER,     OVER,       OVER,   OVER,       Target,    Target,  Target  ]),
    ]
};

impl Fault {
    /// In the order of the table's columns.
    const ALL: [Fault; 9] = {
        use Fault::*;
        [Reset, Bye, Hang, No, NoOnce, Bad, ClientGone, Sigterm, Sigkill]
    };

    /// The server refuses something; it is not stopped.
    fn refuses(self) -> bool {
        matches!(self, Fault::No | Fault::NoOnce | Fault::Bad)
    }

    /// The server goes on where it was stopped.
    fn lets_go_on(self) -> bool {
        matches!(self, Fault::ClientGone | Fault::Sigterm)
    }
}

/// How many messages are moved.
const COUNTS: [usize; 3] = [1, 3, 100];

/// When another session expunges one of those that are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vanishes {
    /// Nobody does.
    Never,
    /// The server copies the others.
    BeforeCopy,
    /// Its only copy is in the target, and stays there.
    AfterCopy,
}

/// One cell, played once.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    at: Boundary,
    fault: Fault,
    end: End,
    count: usize,
    vanishes: Vanishes,
}

impl Case {
    /// All that are played in a column.
    fn of(fault: Fault) -> Vec<Case> {
        let column = Fault::ALL.iter().position(|other| *other == fault).expect("a column for each fault");
        let cells = TABLE.iter().map(|(at, ends)| (*at, ends[column]));
        let possible = cells.filter(|(_, end)| !matches!(end, End::Never(_)));
        let played = |(at, end)| {
            Case::variants().map(move |(count, vanishes)| Case { at, fault, end, count, vanishes })
        };
        possible.flat_map(played).collect()
    }

    /// The server stops in the middle of the MOVE.
    fn is_stopped(self) -> bool {
        !self.fault.refuses() && self.at != Boundary::ExpungeOk
    }

    /// The client can go on where the server does, unless its mailbox had to be left for an undo.
    fn ends_the_session(self) -> bool {
        let half = self.end == End::HalfUndone && self.count > 1;
        !self.fault.refuses() || self.end == End::Undone || half
    }

    /// One that vanishes is one of several.
    fn variants() -> impl Iterator<Item = (usize, Vanishes)> {
        let all = [Vanishes::Never, Vanishes::BeforeCopy, Vanishes::AfterCopy];
        let pairs = COUNTS.into_iter().flat_map(move |count| all.map(|vanishes| (count, vanishes)));
        pairs.filter(|(count, vanishes)| *count > 1 || *vanishes == Vanishes::Never)
    }
}

/// The table as it is printed: what was required, and how many runs of it have failed.
struct Outcome<'a>(&'a [(Case, String)]);

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut never = Vec::new();
        write!(f, "{:11}", "")?;
        Fault::ALL.iter().try_for_each(|fault| write!(f, " {:10}", format!("{fault:?}")))?;
        for (at, ends) in TABLE {
            write!(f, "\n{:11}", format!("{at:?}"))?;
            for (fault, end) in Fault::ALL.into_iter().zip(ends) {
                let failed = self.0.iter().filter(|(case, _)| case.at == at && case.fault == fault).count();
                let cell = match end {
                    End::Never(why) => format!("-{}", footnote(&mut never, why)),
                    end if failed > 0 => format!("{end:?} {failed}!"),
                    end => format!("{end:?}"),
                };
                write!(f, " {cell:10}")?;
            }
        }
        never.iter().zip(1..).try_for_each(|(why, n)| write!(f, "\n-{n} never: {why}"))?;
        self.0.iter().try_for_each(|(case, what)| write!(f, "\n{case:?}: {what}"))
    }
}

fn footnote(all: &mut Vec<&'static str>, why: &'static str) -> usize {
    all.iter().position(|other| *other == why).unwrap_or_else(|| {
        all.push(why);
        all.len() - 1
    }) + 1
}

/// Prints the table, and fails if a run has.
fn report(runs: usize, failures: &[(Case, String)]) {
    println!("{}\n{runs} runs, {} failed", Outcome(failures), failures.len());
    assert!(failures.is_empty(), "{} of {runs} runs failed, see above", failures.len());
}
