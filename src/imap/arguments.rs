//! Whether a client's command is well-formed so far (WIRE-1).
//!
//! `{n+}` does not wait for the server, so the gateway must know before that the server takes what follows for a literal.
//! Where it does not, it carries that out as commands which nobody has checked: Dovecot skips a line that is malformed,
//! or that belongs to a command without arguments, and goes on behind it.

/// Where strings may stand in a command.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Takes {
    #[default]
    Nothing,
    /// Wherever an argument may.
    Strings,
    /// As one of two arguments (RFC 9051 section 6.2.3).
    Login,
}

impl Takes {
    fn of(verb: &[u8], before_login: bool) -> Takes {
        match (before_login, verb) {
            (true, b"LOGIN") => Takes::Login,
            // Of an ID, Dovecot skips what follows a name longer than it likes.
            (true, _) => Takes::Nothing,
            // RFC 9051 sections 6.1 to 6.4, RFC 2342.
            (_, b"CAPABILITY" | b"CHECK" | b"CLOSE" | b"EXPUNGE" | b"LOGIN" | b"LOGOUT") => Takes::Nothing,
            (_, b"NAMESPACE" | b"NOOP" | b"STARTTLS" | b"UNSELECT") => Takes::Nothing,
            _ => Takes::Strings,
        }
    }
}

/// Reads a command's lines, in pieces of any length, and knows whether a literal may stand at their end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arguments {
    takes: Takes,
    at: At,
    malformed: bool,
    /// Lists that are open.
    depth: u32,
    /// Atoms, strings and lists that have begun: the tag, the verb, then arguments.
    begun: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum At {
    /// Where an argument begins: at the beginning, behind SP or `(`.
    #[default]
    Gap,
    Atom,
    Quoted,
    Escaped,
    /// Behind `~`, where a gap was.
    Tilde,
    /// In `{n}` or `{n+}`; `binary` with `~` before it (RFC 3516).
    Literal {
        binary: bool,
    },
    BehindString,
    BehindList,
}

impl Arguments {
    /// Of a command with this verb, in capitals. The reading begins with its tag.
    pub fn of(verb: &[u8], before_login: bool) -> Arguments {
        Arguments { takes: Takes::of(verb, before_login), ..Arguments::default() }
    }

    /// The next octets of the line, without its end.
    pub fn read(&mut self, text: &[u8]) {
        for c in text {
            match self.after(*c) {
                Some(at) => self.at = at,
                None => self.malformed = true,
            }
        }
    }

    /// What comes next stands behind the octets of a literal.
    pub fn behind_literal(&mut self) {
        self.at = At::BehindString;
    }

    /// Whether every server takes what the line has at its end for a literal.
    pub fn take_literal(self) -> bool {
        let At::Literal { binary } = self.at else { return false };
        let here = match self.takes {
            Takes::Nothing => false,
            Takes::Strings => true,
            Takes::Login => !binary && self.depth == 0 && self.begun <= 4,
        };
        here && !self.malformed
    }

    /// `command = tag SP ...`, arguments apart by one SP: atoms, strings, lists (RFC 9051 section 9), and `]` behind the
    /// list of a `BODY[HEADER.FIELDS (...)]`.
    fn after(&mut self, c: u8) -> Option<At> {
        match (self.at, c) {
            (At::Quoted, b'\\') => Some(At::Escaped),
            (At::Quoted, b'"') => Some(At::BehindString),
            (At::Quoted, _) => Some(At::Quoted),
            (At::Escaped, b'"' | b'\\') => Some(At::Quoted),
            (At::Escaped, _) => None,
            (At::Literal { .. }, b'0'..=b'9' | b'+' | b'}') => Some(self.at),
            (At::Literal { .. }, _) => None,
            (At::Gap, b'"') => self.begin(At::Quoted),
            (At::Gap, b'(') => self.open(),
            (At::Gap, b'~') => self.begin(At::Tilde),
            (At::Gap, b'{') => self.begin(At::Literal { binary: false }),
            (At::Tilde, b'{') => Some(At::Literal { binary: true }),
            (At::Gap, b' ') => None,
            (_, b' ') => Some(At::Gap),
            (_, b')') => self.close(),
            (At::Gap, c) if is_in_atom(c) => self.begin(At::Atom),
            (At::Atom | At::Tilde, c) if is_in_atom(c) => Some(At::Atom),
            (At::BehindList, b']') => Some(At::Atom),
            _ => None,
        }
    }

    fn begin(&mut self, at: At) -> Option<At> {
        self.begun = self.begun.saturating_add(1);
        Some(at)
    }

    fn open(&mut self) -> Option<At> {
        self.depth = self.depth.saturating_add(1);
        self.begin(At::Gap)
    }

    fn close(&mut self) -> Option<At> {
        self.depth = self.depth.checked_sub(1)?;
        Some(At::BehindList)
    }
}

/// `ATOM-CHAR`, and what stands in flags, patterns and sections.
fn is_in_atom(c: u8) -> bool {
    c.is_ascii_graphic() && !b"()\"{".contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(verb: &str, before_login: bool, line: &str) -> bool {
        // However it is cut.
        let whole = |pieces: &[&[u8]]| {
            let mut arguments = Arguments::of(verb.as_bytes(), before_login);
            pieces.iter().for_each(|piece| arguments.read(piece));
            arguments.take_literal()
        };
        let line = line.as_bytes();
        let taken = whole(&[line]);
        (1..line.len()).for_each(|at| assert_eq!(whole(&[&line[..at], &line[at..]]), taken));
        taken
    }

    #[test]
    fn wire_1_a_literal_stands_where_an_argument_may() {
        for line in [
            "a SEARCH SUBJECT {5+}",
            "a SEARCH FROM ~ TO {5+}",
            "a APPEND {5+}",
            "a APPEND \"a \\\"b\\\\\" (\\Seen $x) \"1-Jan-2026 00:00:00 +0000\" {12+}",
            "a APPEND x UTF8 (~{12+}",
            "a APPEND x () ~{12+}",
            "a FETCH 1 (BODY[HEADER.FIELDS (a)] BODY.PEEK[HEADER.FIELDS ({4+}",
            "a SEARCH (OR (FROM x) TO {3+}",
            "a LIST \"\" (% * {3+}",
            "a SELECT \"M\u{fc}ll\" (X {3+}",
        ] {
            assert!(takes("SEARCH", false, line), "{line}");
        }
    }

    #[test]
    fn wire_1_and_nowhere_else() {
        for line in [
            "a SEARCH ) {5+}",
            "a SEARCH )( {5+}",
            "a SEARCH () () ( {5+}x",
            "a SEARCH x{5+}",
            "a SEARCH x( {5+}",
            "a SEARCH \"x\"y {5+}",
            "a SEARCH \"x\"] {5+}",
            "a SEARCH x  {5+}",
            "a SEARCH  {5+}",
            "a SEARCH x\t {5+}",
            "a SEARCH M\u{fc}ll {5+}",
            "a SEARCH \"\\x\" {5+}",
            "a SEARCH \" {5+}",
            "a SEARCH {3} {5+}",
            "a SEARCH ~x{5+}",
        ] {
            assert!(!takes("SEARCH", false, line), "{line}");
        }
        assert!(!takes("NOOP", false, "a NOOP {5+}"));
        assert!(!takes("LOGIN", false, "a LOGIN {5+}"));
    }

    #[test]
    fn wire_1_before_a_login_only_what_every_server_takes() {
        assert!(takes("LOGIN", true, "a LOGIN {5+}"));
        assert!(takes("LOGIN", true, "a LOGIN \"x\" {5+}"));
        for (verb, line) in [
            ("LOGIN", "a LOGIN ~{5+}"),
            ("LOGIN", "a LOGIN x y {5+}"),
            ("LOGIN", "a LOGIN ({5+}"),
            ("ID", "a ID (\"name\" {5+}"),
            ("NOOP", "a NOOP {5+}"),
            ("SELECT", "a SELECT {5+}"),
        ] {
            assert!(!takes(verb, true, line), "{line}");
        }
    }

    #[test]
    fn what_stands_behind_a_literal_goes_on_with_sp_or_ends_its_list() {
        for (next, well_formed) in [(" {5+}", true), (") {5+}", true), (")] {5+}", true), ("x {5+}", false)] {
            let mut arguments = Arguments::of(b"SEARCH", false);
            arguments.read(b"a SEARCH ({3}");
            arguments.behind_literal();
            arguments.read(next.as_bytes());
            assert_eq!(arguments.take_literal(), well_formed, "{next}");
        }
    }
}
