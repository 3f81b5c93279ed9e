//! Octets into lines and literals: bounded memory, no grammar.
//!
//! The scanner never decides whether a literal follows a line: that depends on who speaks and on what was
//! said before (WIRE-1, WIRE-2, WIRE-3). Its owner looks at [`announced`] and says [`Scanner::expect`].

use memchr::memchr;

/// A line up to this length, in octets, is always seen whole before any of it passes.
pub const SHORT_LINE: usize = 8 * 1024;

/// How much of a line's end is kept to recognise a literal there: `(~{`, 20 digits, `+}`, CR, LF.
const LINE_END: usize = 32;

/// What comes next in one direction. Every piece is a prefix of the input that was given.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole line, with its line end.
    Line(&'a [u8]),
    /// The first octets of a line that is longer than its owner wants to see whole.
    Head(&'a [u8]),
    /// More of such a line.
    More(&'a [u8]),
    /// The rest of such a line, with its line end.
    Rest(&'a [u8]),
    /// Octets of a literal.
    Octets(&'a [u8]),
}

impl Piece<'_> {
    /// How many octets of the input the piece is.
    pub fn len(&self) -> usize {
        match self {
            Piece::Line(p) | Piece::Head(p) | Piece::More(p) | Piece::Rest(p) | Piece::Octets(p) => p.len(),
        }
    }
}

/// Cuts one direction into pieces. The same octets give the same lines, however they are cut.
#[derive(Debug, Default)]
pub struct Scanner {
    octets: u64,
    in_long_line: bool,
    searched: usize,
    line_end: Vec<u8>,
}

impl Scanner {
    /// The next piece of `input`, or `None` until more has come. Call it again with what remains.
    ///
    /// `limit` tells, from the first [`SHORT_LINE`] octets of a longer line, up to which length its owner wants it
    /// whole. The cut is made there, and never between CR and LF, so that it does not depend on how the
    /// octets arrived.
    pub fn next<'a>(&mut self, input: &'a [u8], limit: impl FnOnce(&[u8]) -> usize) -> Option<Piece<'a>> {
        if input.is_empty() {
            return None;
        }
        if self.octets > 0 {
            let n = input.len().min(usize::try_from(self.octets).unwrap_or(usize::MAX));
            self.octets -= n as u64;
            return Some(Piece::Octets(&input[..n]));
        }
        if self.in_long_line { self.go_on(input) } else { self.begin(input, limit) }
    }

    fn begin<'a>(&mut self, input: &'a [u8], limit: impl FnOnce(&[u8]) -> usize) -> Option<Piece<'a>> {
        let end = memchr(b'\n', &input[self.searched..]).map(|at| self.searched + at + 1);
        self.searched = input.len();
        let length = end.unwrap_or(input.len());
        let limit =
            if length > SHORT_LINE { limit(&input[..SHORT_LINE]).max(SHORT_LINE) } else { SHORT_LINE };
        if length > limit {
            let cut = if input[limit - 1] == b'\r' { limit - 1 } else { limit };
            self.in_long_line = true;
            self.searched = 0;
            self.keep_line_end(&input[..cut]);
            return Some(Piece::Head(&input[..cut]));
        }
        end.map(|end| {
            self.searched = 0;
            Piece::Line(&input[..end])
        })
    }

    fn go_on<'a>(&mut self, input: &'a [u8]) -> Option<Piece<'a>> {
        if let Some(at) = memchr(b'\n', input) {
            self.in_long_line = false;
            self.keep_line_end(&input[..=at]);
            return Some(Piece::Rest(&input[..=at]));
        }
        let cut = if input.ends_with(b"\r") { input.len() - 1 } else { input.len() };
        self.keep_line_end(&input[..cut]);
        (cut > 0).then(|| Piece::More(&input[..cut]))
    }

    fn keep_line_end(&mut self, piece: &[u8]) {
        self.line_end.extend_from_slice(&piece[piece.len().saturating_sub(LINE_END)..]);
        let spare = self.line_end.len().saturating_sub(LINE_END);
        self.line_end.drain(..spare);
    }

    /// The last octets of the long line whose [`Piece::Rest`] was just given: enough for [`announced`].
    pub fn take_line_end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.line_end)
    }

    /// The next `octets` are a literal's.
    pub fn expect(&mut self, octets: u64) {
        self.octets = octets;
    }

    /// How many octets of the literal are still to come.
    pub fn octets_left(&self) -> u64 {
        self.octets
    }

    /// The owner has moved that many octets of the literal itself.
    pub fn skip(&mut self, octets: u64) {
        self.octets = self.octets.saturating_sub(octets);
    }
}

/// A literal that the end of a line announces (RFC 9051 section 4.3, RFC 7888).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its length; `None` when no 64-bit number holds it.
    pub octets: Option<u64>,
    /// `{n}`: the octets follow only after a continuation. `{n+}`: at once.
    pub synchronising: bool,
}

/// The literal that a line announces, if its end looks like `{n}`, `{n+}` or `~{n}`.
pub fn announced(line: &[u8]) -> Option<Announced> {
    let text = without_line_end(line).strip_suffix(b"}")?;
    let (text, synchronising) = match text.strip_suffix(b"+") {
        Some(text) => (text, false),
        None => (text, true),
    };
    let digits = text.iter().rev().take(LINE_END).take_while(|c| c.is_ascii_digit()).count();
    let (before, number) = text.split_at(text.len() - digits);
    if digits > 20 {
        return Some(Announced { octets: None, synchronising });
    }
    before.strip_suffix(b"{")?;
    let octets = std::str::from_utf8(number).ok()?.parse().ok();
    (digits > 0).then_some(Announced { octets, synchronising })
}

/// The line without its CR LF or bare LF.
pub fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(octets: u64, synchronising: bool) -> Option<Announced> {
        Some(Announced { octets: Some(octets), synchronising })
    }

    #[test]
    fn a_literal_is_announced_at_the_end_of_a_line_only() {
        assert_eq!(announced(b"a APPEND x {12}\r\n"), literal(12, true));
        assert_eq!(announced(b"a APPEND x (~{0+}\n"), literal(0, false));
        assert_eq!(announced(b"a NOOP {12} \r\n"), None);
        assert_eq!(announced(b"a NOOP {}\r\n"), None);
        assert_eq!(announced(b"a NOOP 12}\r\n"), None);
    }

    #[test]
    fn a_length_that_no_number_holds_is_seen_as_such() {
        assert_eq!(announced(b"a X {18446744073709551616}\r\n").unwrap().octets, None);
        assert_eq!(announced(b"a X {000000000000000000000000000000000000000005}\r\n").unwrap().octets, None);
    }

    #[test]
    fn a_long_line_is_cut_at_the_limit_wherever_the_reads_fall() {
        let mut line = vec![b'x'; SHORT_LINE + 100];
        line.extend_from_slice(b" {7}\r\n");
        for step in [1, 7, 1000, line.len()] {
            let (mut scanner, mut seen, mut from, mut head) = (Scanner::default(), Vec::new(), 0, 0);
            for to in (0..=line.len()).step_by(step).chain([line.len()]) {
                while let Some(piece) = scanner.next(&line[from..to], |_| 0) {
                    if let Piece::Head(p) = piece {
                        head = p.len();
                    }
                    seen.extend_from_slice(&line[from..from + piece.len()]);
                    from += piece.len();
                }
            }
            assert_eq!((head, &seen), (SHORT_LINE, &line));
            assert_eq!(announced(&scanner.take_line_end()), literal(7, true));
        }
    }
}
