//! What was found out, as data and as JSON.

use super::target::Target;
use super::trial::Trial;
use crate::imap::{Strategy, Tls};
use crate::tls::Handshake;
use serde_json::{Value, json};
use std::time::Duration;

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A MOVE will work, and how.
    Works(String),
    /// It will not, and why.
    Fails(String),
    /// That could not be found out, and why.
    Unknown(String),
}

/// All that is known of a server.
#[derive(Debug)]
pub struct Report {
    /// Which server.
    pub target: Target,
    /// How the connection was protected.
    pub tls: Tls,
    /// What its handshake has shown.
    pub handshake: Option<Handshake>,
    /// The certificate was checked (else: `upstream-verify` is `none`).
    pub verified: bool,
    /// How long the connection took.
    pub connected: Option<Duration>,
    /// The server's first line, for a terminal.
    pub greeting: Option<String>,
    /// The middle one of a few answers to NOOP.
    pub round_trip: Option<Duration>,
    /// The list before the login, inside TLS if there is TLS.
    pub before_login: Option<Vec<String>>,
    /// The list after it.
    pub after_login: Option<Vec<String>>,
    /// What the gateway makes of a MOVE, by the list that it goes by.
    pub strategy: Option<Strategy>,
    /// What an operator should know.
    pub quirks: Vec<Quirk>,
    /// What came of `--try`.
    pub trial: Option<Trial>,
    /// What it comes to.
    pub verdict: Verdict,
}

/// A way in which a server differs from what one expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// What makes MOVE work is listed only after the login.
    OnlyAfterLogin,
    /// It ends a login without a list.
    NoListAtLogin,
    /// The list of the login's answer and that of CAPABILITY come to something else.
    ListsDiffer,
    /// It takes logins in clear over a network.
    InClear,
    /// It answers about another message than the one it was asked about.
    UnknownUidClamped,
    /// It refuses a line of so many octets, or hangs up; the longest that it took.
    LineLimit(usize, Option<usize>),
    /// Asked to copy, it does not say what it copied.
    NoCopyuid,
    /// Messages leave without a word of it.
    SilentExpunge,
}

impl Quirk {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Quirk::OnlyAfterLogin => "only_after_login",
            Quirk::NoListAtLogin => "no_list_at_login",
            Quirk::ListsDiffer => "lists_differ",
            Quirk::InClear => "in_clear",
            Quirk::UnknownUidClamped => "unknown_uid_clamped",
            Quirk::LineLimit(..) => "line_limit",
            Quirk::NoCopyuid => "no_copyuid",
            Quirk::SilentExpunge => "silent_expunge",
        }
    }

    /// What it is and what comes of it.
    pub fn text(self) -> String {
        match self {
            Quirk::OnlyAfterLogin => "What MOVE needs is listed only after the login. Clients that look for MOVE \
                before it need --advertise-before-login."
                .into(),
            Quirk::NoListAtLogin => "It ends a login without a list of capabilities. The gateway asks for one, which \
                costs each login one round trip."
                .into(),
            Quirk::ListsDiffer => "The capabilities in its answer to the login and to CAPABILITY differ in what MOVE \
                needs. The gateway goes by the latest, so a client may see MOVE or not."
                .into(),
            Quirk::InClear => "Passwords go to it in clear over the network.".into(),
            Quirk::UnknownUidClamped => "Asked about a UID that no message has, it answers with another message. The \
                gateway takes no answer for a message that it has not asked about."
                .into(),
            Quirk::LineLimit(refused, Some(taken)) => format!(
                "It refuses a command line of {refused} octets and takes one of {taken}: give the gateway --max-line \
                 {taken}."
            ),
            Quirk::LineLimit(refused, None) => {
                format!("It refuses a command line of {refused} octets, and shorter ones: long MOVEs will fail.")
            }
            Quirk::NoCopyuid => {
                "It does not say what it copied (no COPYUID), so nothing proves the copies, and nothing is removed."
                    .into()
            }
            Quirk::SilentExpunge => "It removes messages without saying so. The gateway searches for each, which costs \
                a round trip, and clients see them go only at their next look."
                .into(),
        }
    }
}

impl Verdict {
    /// Its name in JSON, and its reason.
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Verdict::Works(why) => ("works", why),
            Verdict::Fails(why) => ("fails", why),
            Verdict::Unknown(why) => ("unknown", why),
        }
    }
}

/// A protection's name, as a setting has it.
pub fn tls_name(tls: Tls) -> &'static str {
    match tls {
        Tls::Off => "off",
        Tls::StartTls => "starttls",
        Tls::Implicit => "implicit",
    }
}

impl Report {
    /// At the beginning.
    pub fn new(target: Target) -> Report {
        Report {
            target,
            tls: Tls::Off,
            handshake: None,
            verified: true,
            connected: None,
            greeting: None,
            round_trip: None,
            before_login: None,
            after_login: None,
            strategy: None,
            quirks: Vec::new(),
            trial: None,
            verdict: Verdict::Unknown(String::new()),
        }
    }

    /// For scripts. Times are in seconds, and in seconds since 1970.
    pub fn json(&self) -> Value {
        let (verdict, reason) = self.verdict.parts();
        json!({
            "verdict": verdict,
            "reason": reason,
            "strategy": self.strategy.map(Strategy::name),
            "host": self.target.at.host,
            "port": self.target.at.port,
            "user": self.target.user,
            "tls": {
                "mode": tls_name(self.tls),
                "version": self.handshake.as_ref().map(|handshake| handshake.version),
                "subject": self.handshake.as_ref().map(|handshake| &handshake.subject),
                "issuer": self.handshake.as_ref().map(|handshake| &handshake.issuer),
                "not_after": self.handshake.as_ref().map(|handshake| handshake.not_after),
                "verified": self.handshake.as_ref().map(|_| self.verified),
            },
            "greeting": self.greeting,
            "connect_seconds": self.connected.map(|time| time.as_secs_f64()),
            "round_trip_seconds": self.round_trip.map(|time| time.as_secs_f64()),
            "capabilities": { "before_login": self.before_login, "after_login": self.after_login },
            "quirks": self.quirks.iter().map(|quirk| json!({ "name": quirk.name(), "text": quirk.text() })).collect::<Vec<_>>(),
            "try": self.trial.as_ref().map(Trial::json),
        })
    }
}
