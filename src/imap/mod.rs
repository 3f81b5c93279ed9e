//! The IMAP core: bytes in, bytes out.
//!
//! It may import `std`, `bytes`, `nom` and `memchr`, and nothing else: no socket, no clock, no logging.
//! Time, finished TLS handshakes and lost connections come in as events of [`Session`].

mod arguments;
mod capability;
mod command;
mod grammar;
mod identity;
mod mailbox;
mod own_command;
mod packed;
mod proof;
mod recovery;
mod response;
pub(crate) mod scan;
mod searched;
mod selected;
mod sequence;
mod session;
mod translation;
mod verb;

pub use identity::SASL;
pub use session::Session;
pub use verb::Verb;

use std::fmt;
use std::time::Duration;

/// One of the two legs of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The downstream mail client, "C".
    Client,
    /// The upstream IMAP server, "U".
    Upstream,
}

impl Side {
    /// The leg at the other end of the gateway.
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        }
    }
}

/// How one leg is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// In clear, for the whole session.
    Off,
    /// In clear at first, then STARTTLS (RFC 9051 section 6.2.1). On the client's leg it is offered, on the
    /// upstream leg it is demanded before anything else.
    StartTls,
    /// TLS from the first octet: done before the session begins.
    Implicit,
}

/// What one session is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The client's leg.
    pub client_tls: Tls,
    /// The upstream leg.
    pub upstream_tls: Tls,
    /// LOGIN, AUTHENTICATE and PREAUTH only inside TLS on the client's leg (CAP-7).
    pub require_tls: bool,
    /// Lists before login get `MOVE` too: the operator wants it and a login has shown that this upstream
    /// qualifies (CAP-2, [`Notice::Qualifies`]).
    pub advertise_before_login: bool,
    /// A MOVE of a user who is known waits before it copies: for its turn, and for the journal where one is kept; so
    /// does a SELECT (FAULT-4).
    pub journal: bool,
    /// The parameters of an ID (RFC 2971) that tells the upstream where the client comes from, before it is greeted, if
    /// the upstream lists ID. No client may say it otherwise then.
    pub introduction: Option<String>,
    /// The longest command line that the gateway writes of its own, in octets (MOVE-8).
    pub max_line: usize,
    /// How long a MOVE may stand without progress before the upstream counts as gone (FAULT-3).
    pub move_timeout: Duration,
    /// How long the upstream may take for its greeting and STARTTLS (WIRE-9).
    pub greeting_timeout: Duration,
    /// How long the client may take to log in, from the beginning of the session.
    pub login_timeout: Duration,
    /// How long both peers may be silent after the login while the client waits for no answer (RFC 9051 section 5.4:
    /// 30 minutes at least).
    pub idle_timeout: Duration,
}

/// The upstream must have greeted, and be in TLS where that is demanded, within this time (WIRE-9).
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(20);

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            client_tls: Tls::Off,
            upstream_tls: Tls::Off,
            require_tls: false,
            advertise_before_login: false,
            journal: false,
            introduction: None,
            max_line: 8_000,
            move_timeout: Duration::from_secs(30),
            greeting_timeout: GREETING_TIMEOUT,
            login_timeout: Duration::from_secs(3 * 60),
            idle_timeout: Duration::from_secs(60 * 60),
        }
    }
}

/// What happened, for logs, metrics and the journal. Never holds a credential or a message, and outside
/// [`Notice::Journal`] no mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// A LOGIN or AUTHENTICATE was answered.
    Login {
        /// The upstream said OK.
        accepted: bool,
        /// `login`, or the name of the SASL mechanism in [`SASL`].
        mechanism: &'static str,
    },
    /// The upstream does not list ID before the login, so it was not told [`Settings::introduction`].
    NotIntroduced,
    /// After a login the upstream's list showed what becomes of a MOVE.
    Strategy(Strategy),
    /// A command of the client's was passed on, carried out or refused.
    Command(Verb),
    /// The upstream answered a MOVE of its own (CAP-3).
    NativeMove {
        /// With OK.
        accepted: bool,
        /// From the command to its tagged reply.
        took: Duration,
    },
    /// A MOVE has left a stage behind.
    Stage {
        /// Which.
        stage: Stage,
        /// How long it was there.
        took: Duration,
    },
    /// What must be on disk before the MOVE goes on, or, at its end, may be forgotten (FAULT-4). Only with
    /// [`Settings::journal`]; the session waits for [`Session::persisted`] where the record says so.
    Journal(Record),
    /// Before a SELECT: which MOVEs of this user's are unfinished? The session waits for [`Session::recover`].
    /// Only with [`Settings::journal`].
    Owes(Owner),
    /// A MOVE that [`Session::recover`] was given has been dealt with.
    Recovered {
        /// Its [`Unfinished::id`].
        id: u64,
        /// What came of it.
        result: Recovered,
        /// Messages that were removed from the source.
        messages: u32,
    },
    /// A MOVE has begun.
    MoveStarted,
    /// A MOVE has its tagged reply.
    MoveEnded {
        /// How it ended.
        outcome: Outcome,
        /// Messages that are now in the target and gone from the source.
        moved: u32,
        /// Messages that are in both, or that may be.
        left_behind: u32,
        /// From the command to its tagged reply.
        took: Duration,
        /// How far it had come.
        stage: Stage,
        /// Why messages are left behind, if any are.
        cause: Cause,
    },
    /// Copies were to be removed again, of messages that did not leave the source (FAULT-1).
    Undo {
        /// All of them are.
        whole: bool,
    },
    /// The session ended for a reason of the gateway's own, which the client got in a BYE where one could be said.
    Ended {
        /// In one line, without octets of either peer.
        reason: String,
    },
    /// One side broke the protocol; the session went on, or ended.
    ProtocolError {
        /// Whose fault it was.
        side: Side,
        /// What was wrong.
        breach: Breach,
    },
    /// A limit was met; what came of it is in the limit's description.
    LimitMet(Limit),
}

/// Whose mail it is: a record is for the same user alone, in the same state (FAULT-4).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The authorisation identity, in the octets of the login.
    pub user: Vec<u8>,
    /// `UTF8=ACCEPT` was enabled: mailbox names mean something else then (RFC 6855).
    pub utf8: bool,
}

/// A name is nobody's business.
impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner")
    }
}

/// What the journal keeps of a MOVE, so that a later session can finish it (FAULT-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// COPY is about to be sent. The session waits.
    Intent(Intent),
    /// STORE is about to be sent. The session waits.
    Copied {
        /// The line `* OK [COPYUID ...]` (RFC 4315) that proves the copies; `None` if no one line can.
        copyuid: Option<Vec<u8>>,
    },
    /// The copies of what did not leave the source are about to be removed: this MOVE is never finished. The
    /// session waits.
    Undo,
    /// The MOVE has its end: nothing of it is left to do.
    Ended,
}

/// A MOVE that is about to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Whose it is.
    pub owner: Owner,
    /// The selected mailbox, if its name is known.
    pub source: Option<Vec<u8>>,
    /// The source's UIDVALIDITY, if the upstream has told it.
    pub source_validity: Option<u32>,
    /// The target mailbox.
    pub target: Vec<u8>,
    /// The UIDs to be moved, as a set (RFC 9051 section 9).
    pub uids: String,
}

impl Intent {
    /// The source, by the name by which two spellings of it are known to be one.
    pub fn source_identity(&self) -> Option<&[u8]> {
        self.source.as_deref().map(mailbox::identity)
    }
}

/// A MOVE whose session died between the proof of its copies and its end: one that can be finished (FAULT-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// By which [`Notice::Recovered`] names it.
    pub id: u64,
    /// The mailbox that the messages were to leave.
    pub source: Vec<u8>,
    /// Its UIDVALIDITY.
    pub source_validity: u32,
    /// The mailbox that has the copies.
    pub target: Vec<u8>,
    /// The line `* OK [COPYUID ...]` that proves them.
    pub copyuid: Vec<u8>,
}

/// What came of an [`Unfinished`] MOVE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovered {
    /// No message of it is in both mailboxes any more.
    Finished,
    /// Something was not as it was: of what differs nothing was touched, and it is not tried again.
    Stale,
    /// It could not be brought to its end: a later session may.
    Later,
    /// There was no time for it: a later session may.
    NotTried,
}

/// What becomes of a MOVE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The gateway carries it out: the upstream has UIDPLUS and no MOVE (CAP-2).
    Copy,
    /// The upstream carries it out (CAP-3).
    Native,
    /// It is refused: the upstream has no UIDPLUS (CAP-4).
    Refuse,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 3] = [Strategy::Copy, Strategy::Native, Strategy::Refuse];

    /// Its name in metrics and elsewhere.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Copy => "copy",
            Strategy::Native => "native",
            Strategy::Refuse => "none",
        }
    }
}

/// How far a MOVE has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Which UIDs (MOVE-5); the wait for its turn and the journal is part of it.
    Resolve,
    /// UID COPY (MOVE-6), and the search for what it did where it proved nothing.
    Copy,
    /// UID STORE and UID EXPUNGE, until each message is seen leaving (MOVE-7, MOVE-11).
    Remove,
    /// The copies of what stays (FAULT-1).
    Undo,
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 4] = [Stage::Resolve, Stage::Copy, Stage::Remove, Stage::Undo];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Resolve => "resolve",
            Stage::Copy => "copy",
            Stage::Remove => "remove",
            Stage::Undo => "undo",
        }
    }
}

/// Why a MOVE leaves messages in both mailboxes, or perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The upstream went away or hung (FAULT-3).
    UpstreamLost,
    /// The upstream's answers got out of step (WIRE-1).
    OutOfStep,
    /// Nothing proves the copies (MOVE-6).
    NotProved,
    /// The upstream did not remove what it had to remove (FAULT-1).
    NotRemoved,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 4] = [Cause::UpstreamLost, Cause::OutOfStep, Cause::NotProved, Cause::NotRemoved];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Cause::UpstreamLost => "upstream_lost",
            Cause::OutOfStep => "out_of_step",
            Cause::NotProved => "not_proved",
            Cause::NotRemoved => "not_removed",
        }
    }
}

/// How a MOVE ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// OK: everything asked for is in the target once and gone from the source, or nothing matched.
    Moved,
    /// BAD: malformed, no mailbox selected, or a number that the client cannot have meant (MOVE-2).
    Invalid,
    /// NO before anything was changed: by the upstream, or by the gateway's own checks (MOVE-4, MOVE-14).
    Refused,
    /// NO: some messages are where the text says (FAULT-1, MOVE-6).
    Incomplete,
    /// NO: what could not leave the source has no copy in the target any more (FAULT-1).
    Undone,
    /// The upstream went away or hung (FAULT-3).
    UpstreamLost,
}

/// What a side did that the protocol does not allow, or did not do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Breach {
    /// The client: a command line that cannot go upstream, and was refused (WIRE-1, WIRE-5).
    BadCommand,
    /// The client: a command that went upstream in part and cannot go on; the session ended (WIRE-1, WIRE-5).
    BrokenCommand,
    /// Either: octets in clear behind STARTTLS; the session ended (WIRE-8).
    ClearOctets,
    /// The upstream: a first line that is no greeting (WIRE-9).
    NoGreeting,
    /// Either: silence for longer than the limit. The upstream's greeting or answer, or a peer that takes nothing
    /// (WIRE-9, FAULT-2, FAULT-3).
    Silence,
    /// The upstream: a tagged reply that nobody asked for (WIRE-1).
    UnaskedReply,
    /// The upstream: a VANISHED that is too long to be understood, or malformed (WIRE-4, WIRE-10).
    UnreadableVanished,
    /// The upstream: a literal whose length no number holds; the session ended (WIRE-1).
    EndlessLiteral,
}

impl Breach {
    /// All of them.
    pub const ALL: [Breach; 8] = [
        Breach::BadCommand,
        Breach::BrokenCommand,
        Breach::ClearOctets,
        Breach::NoGreeting,
        Breach::Silence,
        Breach::UnaskedReply,
        Breach::UnreadableVanished,
        Breach::EndlessLiteral,
    ];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Breach::BadCommand => "bad_command",
            Breach::BrokenCommand => "broken_command",
            Breach::ClearOctets => "clear_octets",
            Breach::NoGreeting => "no_greeting",
            Breach::Silence => "silence",
            Breach::UnaskedReply => "unasked_reply",
            Breach::UnreadableVanished => "unreadable_vanished",
            Breach::EndlessLiteral => "endless_literal",
        }
    }
}

/// A limit of a session, where it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// No login within [`Settings::login_timeout`]; the session ended.
    LoginTimeout,
    /// Both peers were silent for [`Settings::idle_timeout`], or for a day in a command; the session ended.
    IdleTimeout,
    /// A longer line before login, which was refused.
    LineBeforeLogin,
    /// A command, or an answer to SASL, that has to be understood and is too long; it was refused, or the session
    /// ended (WIRE-4).
    Understood,
    /// So many commands in progress; the next ones wait.
    Pipelined,
    /// So many lines in a row that are no commands; the session ended.
    BadInARow,
    /// The client took nothing for so long during a MOVE; it counts as gone (FAULT-2).
    ClientStall,
    /// A peer took nothing for so long; the session ended.
    WriteStall,
}

impl Limit {
    /// All of them.
    pub const ALL: [Limit; 8] = [
        Limit::LoginTimeout,
        Limit::IdleTimeout,
        Limit::LineBeforeLogin,
        Limit::Understood,
        Limit::Pipelined,
        Limit::BadInARow,
        Limit::ClientStall,
        Limit::WriteStall,
    ];

    /// Its name in metrics: that of the setting or of the constant.
    pub fn name(self) -> &'static str {
        match self {
            Limit::LoginTimeout => "login_timeout",
            Limit::IdleTimeout => "idle_timeout",
            Limit::LineBeforeLogin => "line_before_login",
            Limit::Understood => "understood",
            Limit::Pipelined => "pipelined",
            Limit::BadInARow => "bad_in_a_row",
            Limit::ClientStall => "client_stall",
            Limit::WriteStall => "write_stall",
        }
    }
}
