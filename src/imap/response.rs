//! What the upstream says, one line at a time: tagged, untagged, continuation; status and response code.

use super::grammar;
use super::scan::without_line_end;
use super::sequence::UidSet;

/// The first line of a response.
#[derive(Debug)]
pub enum Response<'a> {
    /// `+ ...`
    Continuation,
    /// `tag OK|NO|BAD ...`
    Tagged(&'a [u8], Status<'a>),
    /// `* ...`
    Untagged(Untagged<'a>),
    /// Nothing that IMAP knows; it passes.
    Unknown,
}

/// How a status response says it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `OK`
    Ok,
    /// `NO`
    No,
    /// `BAD`
    Bad,
    /// `BYE`, untagged only
    Bye,
    /// `PREAUTH`, the greeting only
    Preauth,
}

/// `resp-cond-state`, `resp-cond-bye` or `greeting` (RFC 9051 section 7.1).
#[derive(Clone, Copy, Debug)]
pub struct Status<'a> {
    /// OK, NO, BAD, BYE, PREAUTH.
    pub condition: Condition,
    /// The response code's name and argument.
    pub code: Option<(&'a [u8], &'a [u8])>,
    /// From the condition to the end of the line, without the line end: what can follow another tag.
    pub whole: &'a [u8],
}

impl<'a> Status<'a> {
    fn parse(whole: &'a [u8]) -> Option<Status<'a>> {
        let (word, rest) = split_word(whole);
        let condition = match () {
            () if word.eq_ignore_ascii_case(b"OK") => Condition::Ok,
            () if word.eq_ignore_ascii_case(b"NO") => Condition::No,
            () if word.eq_ignore_ascii_case(b"BAD") => Condition::Bad,
            () if word.eq_ignore_ascii_case(b"BYE") => Condition::Bye,
            () if word.eq_ignore_ascii_case(b"PREAUTH") => Condition::Preauth,
            () => return None,
        };
        let code = grammar::response_code(rest.trim_ascii_start()).ok().map(|(_, code)| code);
        Some(Status { condition, code, whole })
    }

    /// The argument of the response code of this name, if it is the one here.
    pub fn code(&self, name: &str) -> Option<&'a [u8]> {
        self.code.filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, argument)| argument)
    }

    /// Whether it is `OK`.
    pub fn is_ok(&self) -> bool {
        self.condition == Condition::Ok
    }
}

/// An untagged response, as far as the gateway looks.
#[derive(Debug)]
pub enum Untagged<'a> {
    /// `* OK|NO|BAD|BYE|PREAUTH ...`
    Status(Status<'a>),
    /// `* CAPABILITY ...`: from behind the name.
    Capability(&'a [u8]),
    /// `* ENABLED ...` (RFC 5161): from behind the name.
    Enabled(&'a [u8]),
    /// `* n EXISTS`
    Exists(u32),
    /// `* n EXPUNGE`
    Expunge(u32),
    /// `* n FETCH (...)`: the message's sequence number and what is said of it ([`grammar::fetched_state`]).
    Fetch(u32, &'a [u8]),
    /// `* VANISHED uids`, not `(EARLIER)` (RFC 7162).
    Vanished(UidSet),
    /// `* VANISHED` and nothing that can be read.
    UnreadableVanished,
    /// `* SEARCH ...`: from behind the name.
    Search(&'a [u8]),
    /// `* MYRIGHTS ...` (RFC 4314).
    MyRights,
    /// `* FLAGS ...`, `* n RECENT`: what a SELECT tells besides.
    Opening,
    /// Anything else.
    Other,
}

impl<'a> Response<'a> {
    /// Reads the first line of a response.
    pub fn parse(line: &'a [u8]) -> Response<'a> {
        let text = without_line_end(line);
        if let Some(rest) = text.strip_prefix(b"* ") {
            return Response::Untagged(Untagged::parse(rest));
        }
        if text == b"+" || text.starts_with(b"+ ") {
            return Response::Continuation;
        }
        let (tag, rest) = split_word(text);
        match Status::parse(rest) {
            Some(status)
                if !tag.is_empty()
                    && matches!(status.condition, Condition::Ok | Condition::No | Condition::Bad) =>
            {
                Response::Tagged(tag, status)
            }
            _ => Response::Unknown,
        }
    }

    /// Whether literals may follow this line (WIRE-2).
    pub fn may_announce(&self) -> bool {
        matches!(self, Response::Unknown)
            || matches!(self, Response::Untagged(data) if !matches!(data, Untagged::Status(_)))
    }
}

impl<'a> Untagged<'a> {
    fn parse(text: &'a [u8]) -> Untagged<'a> {
        if text.first().is_some_and(u8::is_ascii_digit) {
            return Untagged::numbered(text);
        }
        let (word, _) = split_word(text);
        let rest = &text[word.len()..];
        match () {
            () if word.eq_ignore_ascii_case(b"CAPABILITY") => Untagged::Capability(rest),
            () if word.eq_ignore_ascii_case(b"SEARCH") => Untagged::Search(rest),
            () if word.eq_ignore_ascii_case(b"MYRIGHTS") => Untagged::MyRights,
            () if word.eq_ignore_ascii_case(b"FLAGS") => Untagged::Opening,
            () if word.eq_ignore_ascii_case(b"ENABLED") => Untagged::Enabled(rest),
            () if word.eq_ignore_ascii_case(b"VANISHED") => match grammar::vanished(rest) {
                Some((true, _)) => Untagged::Other,
                Some((false, uids)) => UidSet::normalise(uids).map_or(Untagged::Other, Untagged::Vanished),
                None => Untagged::UnreadableVanished,
            },
            () => Status::parse(text).map_or(Untagged::Other, Untagged::Status),
        }
    }

    fn numbered(text: &'a [u8]) -> Untagged<'a> {
        let Some((n, word, rest)) = grammar::numbered(text) else { return Untagged::Other };
        match () {
            () if word.eq_ignore_ascii_case(b"EXISTS") => Untagged::Exists(n),
            () if word.eq_ignore_ascii_case(b"RECENT") => Untagged::Opening,
            // There is no message 0: nothing was removed.
            () if n > 0 && word.eq_ignore_ascii_case(b"EXPUNGE") => Untagged::Expunge(n),
            () if word.eq_ignore_ascii_case(b"FETCH") => Untagged::Fetch(n, rest.trim_ascii()),
            () => Untagged::Other,
        }
    }
}

/// The word up to the first SP, and what follows that SP.
pub fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b' ', text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &[]),
    }
}
