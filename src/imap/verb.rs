//! The names of commands, for counting them: a closed list, and `other`.

use super::grammar;
use std::fmt;

/// Which command it was, as far as the list goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verb(usize);

/// Its name in metrics.
impl fmt::Debug for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Verb {
    /// All names. A `uid_` one is behind UID.
    pub const NAMES: [&'static str; 42] = [
        "append",
        "authenticate",
        "capability",
        "check",
        "close",
        "copy",
        "create",
        "delete",
        "enable",
        "examine",
        "expunge",
        "fetch",
        "getacl",
        "getquota",
        "getquotaroot",
        "id",
        "idle",
        "list",
        "login",
        "logout",
        "lsub",
        "move",
        "myrights",
        "namespace",
        "noop",
        "rename",
        "search",
        "select",
        "sort",
        "starttls",
        "status",
        "store",
        "subscribe",
        "thread",
        "uid_copy",
        "uid_expunge",
        "uid_fetch",
        "uid_move",
        "uid_search",
        "uid_store",
        "unselect",
        "unsubscribe",
    ];
    /// The name of every other one.
    pub const OTHER: &'static str = "other";

    /// The command that begins with this line.
    pub(super) fn of(line: &[u8]) -> Verb {
        let (verb, rest) =
            grammar::command_head(line).map_or((&b""[..], &b""[..]), |(_, verb, rest)| (verb, rest));
        let argument = rest.trim_ascii_start().split(|c| *c == b' ').next().unwrap_or_default();
        let is_named = |name: &&str| match (name.strip_prefix("uid_"), verb.eq_ignore_ascii_case(b"UID")) {
            (Some(name), true) => argument.eq_ignore_ascii_case(name.as_bytes()),
            (None, false) => verb.eq_ignore_ascii_case(name.as_bytes()),
            _ => false,
        };
        Verb(Verb::NAMES.iter().position(is_named).unwrap_or(Verb::NAMES.len()))
    }

    /// Its place in [`NAMES`](Verb::NAMES); behind them all, if it is not there.
    pub fn index(self) -> usize {
        self.0
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        Verb::NAMES.get(self.0).copied().unwrap_or(Verb::OTHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_counted_under_its_name() {
        for (line, name) in [
            (&b"a noop"[..], "noop"),
            (b"a UID FETCH 1 (FLAGS)", "uid_fetch"),
            (b"a uid  move 1 x", "uid_move"),
            (b"a UID", "other"),
            (b"a UID NOOP", "other"),
            (b"a uid_move 1 x", "other"),
            (b"a XLIST", "other"),
            (b"* NOOP", "other"),
        ] {
            assert_eq!(Verb::of(line).name(), name, "{}", line.escape_ascii());
        }
    }
}
