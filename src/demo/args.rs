//! The arguments of a command, read one after the other (RFC 3501 section 9).

use chrono::{DateTime, FixedOffset, NaiveDate};

/// Why a command is not carried out, with the text for the client. A response code may lead it.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The command was not understood, or has no business in this state.
    Bad(&'static str),
    /// The command was understood, and it cannot be done.
    No(&'static str),
}

/// The common shape of everything that may be refused.
pub type Result<T> = std::result::Result<T, Refusal>;

/// What is left of a command. Literals stand in it as `{n}` CRLF octets, as they came.
pub struct Args<'a>(pub &'a [u8]);

impl<'a> Args<'a> {
    /// The next octet.
    pub fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Steps over `text`, in any case, if it is next.
    pub fn skip(&mut self, text: &str) -> bool {
        let next = self.0.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text.as_bytes()));
        if next {
            self.0 = &self.0[text.len()..];
        }
        next
    }

    /// Demands exactly one space.
    pub fn space(&mut self) -> Result<()> {
        if self.skip(" ") { Ok(()) } else { Err(Refusal::Bad("A space was expected")) }
    }

    /// Demands that nothing is left.
    pub fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::Bad("Too many arguments")) }
    }

    /// The longest run of octets that belong.
    fn run(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let length = self.0.iter().position(|&octet| !belongs(octet)).unwrap_or(self.0.len());
        let (run, rest) = self.0.split_at(length);
        self.0 = rest;
        run
    }

    fn word(&mut self, belongs: impl Fn(u8) -> bool) -> Result<&'a str> {
        let word = self.run(belongs);
        std::str::from_utf8(word)
            .ok()
            .filter(|word| !word.is_empty())
            .ok_or(Refusal::Bad("A word was expected"))
    }

    /// `tag = 1*<any ASTRING-CHAR except "+">`
    pub fn tag(&mut self) -> Result<&'a str> {
        self.word(|octet| is_astring(octet) && octet != b'+')
    }

    /// `atom = 1*ATOM-CHAR`, in upper case.
    pub fn atom(&mut self) -> Result<String> {
        self.word(is_atom).map(str::to_ascii_uppercase)
    }

    /// `flag = "\" atom / atom`; the system flags in their usual spelling.
    pub fn flag(&mut self) -> Result<String> {
        const SYSTEM: [&str; 5] = ["\\Answered", "\\Deleted", "\\Draft", "\\Flagged", "\\Seen"];
        if !self.skip("\\") {
            return self.word(is_atom).map(str::to_owned);
        }
        let name = format!("\\{}", self.word(is_atom)?);
        let known = SYSTEM.into_iter().find(|flag| flag.eq_ignore_ascii_case(&name));
        known.map(str::to_owned).ok_or(Refusal::Bad("No such system flag"))
    }

    /// `number = 1*DIGIT`, as far as 32 bits go.
    pub fn number(&mut self) -> Result<u32> {
        let digits = self.word(|octet| octet.is_ascii_digit())?;
        digits.parse().map_err(|_| Refusal::Bad("That number is too large"))
    }

    /// `string = quoted / literal`
    pub fn string(&mut self) -> Result<Vec<u8>> {
        if self.skip("\"") {
            return self.quoted();
        }
        if !self.skip("{") {
            return Err(Refusal::Bad("A string was expected"));
        }
        let length = self.number()? as usize;
        self.skip("+");
        if !self.skip("}\r\n") || self.0.len() < length {
            return Err(Refusal::Bad("That is no literal"));
        }
        let (octets, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(octets.to_vec())
    }

    fn quoted(&mut self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            text.extend(self.run(|octet| !matches!(octet, b'"' | b'\\' | b'\r' | b'\n')));
            if self.skip("\"") {
                return Ok(text);
            }
            let [b'\\', escaped @ (b'"' | b'\\'), rest @ ..] = self.0 else {
                return Err(Refusal::Bad("A quoted string has no end"));
            };
            text.push(*escaped);
            self.0 = rest;
        }
    }

    /// `astring = 1*ASTRING-CHAR / string`, as text.
    pub fn text(&mut self) -> Result<String> {
        self.text_of(is_astring)
    }

    /// `list-mailbox`: an astring that may hold wildcards.
    pub fn pattern(&mut self) -> Result<String> {
        self.text_of(|octet| is_astring(octet) || matches!(octet, b'*' | b'%'))
    }

    fn text_of(&mut self, belongs: fn(u8) -> bool) -> Result<String> {
        match self.peek() {
            Some(b'"' | b'{') => {
                String::from_utf8(self.string()?).map_err(|_| Refusal::Bad("That is not UTF-8"))
            }
            _ => self.word(belongs).map(str::to_owned),
        }
    }

    /// `mailbox = "INBOX" / astring`; INBOX in any case is INBOX.
    pub fn mailbox(&mut self) -> Result<String> {
        let name = self.text()?;
        Ok(if name.eq_ignore_ascii_case("INBOX") { "INBOX".to_owned() } else { name })
    }

    /// `"(" [item *(SP item)] ")"`
    pub fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        if !self.skip("(") {
            return Err(Refusal::Bad("A list in parentheses was expected"));
        }
        let mut items = Vec::new();
        while !self.skip(")") {
            if !items.is_empty() {
                self.space()?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Flags as APPEND and STORE write them.
    pub fn flags(&mut self) -> Result<Vec<String>> {
        self.list(Args::flag)
    }

    /// `sequence-set`
    pub fn set(&mut self) -> Result<Set> {
        let mut ranges = Vec::new();
        loop {
            let first = self.set_number()?;
            ranges.push((first, if self.skip(":") { self.set_number()? } else { first }));
            if !self.skip(",") {
                return Ok(Set(ranges));
            }
        }
    }

    fn set_number(&mut self) -> Result<u32> {
        if self.skip("*") {
            return Ok(Set::LAST);
        }
        self.number()
            .and_then(|number| if number == 0 { Err(Refusal::Bad("0 names nothing")) } else { Ok(number) })
    }

    /// `date = DQUOTE date-text DQUOTE / date-text`
    pub fn date(&mut self) -> Result<NaiveDate> {
        let text = self.text()?;
        NaiveDate::parse_from_str(&text, "%e-%b-%Y")
            .map_err(|_| Refusal::Bad("A date like 1-Jul-2003 was expected"))
    }

    /// `date-time`
    pub fn date_time(&mut self) -> Result<DateTime<FixedOffset>> {
        let text = String::from_utf8_lossy(&self.string()?).into_owned();
        DateTime::parse_from_str(text.trim_start(), "%e-%b-%Y %H:%M:%S %z")
            .map_err(|_| Refusal::Bad("A date and time was expected"))
    }
}

fn is_atom(octet: u8) -> bool {
    octet.is_ascii_graphic() && !b"(){%*\"\\]".contains(&octet)
}

fn is_astring(octet: u8) -> bool {
    is_atom(octet) || octet == b']'
}

/// `sequence-set`: message numbers or UIDs, as they were sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Set(Vec<(u32, u32)>);

impl Set {
    /// `*`: 0, which no set may name.
    const LAST: u32 = 0;

    /// Whether `number` is in it, where `*` is `last`.
    pub fn contains(&self, number: u32, last: u32) -> bool {
        let value = |end: u32| if end == Set::LAST { last } else { end };
        self.0
            .iter()
            .map(|&(a, b)| (value(a), value(b)))
            .any(|(a, b)| (a.min(b)..=a.max(b)).contains(&number))
    }

    /// The highest number in a range without `*`.
    pub fn highest(&self) -> u32 {
        let fixed = self.0.iter().filter(|&&(a, b)| a != Set::LAST && b != Set::LAST);
        fixed.map(|&(a, b)| a.max(b)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_as_atoms_quoted_and_literals() {
        for (sent, text) in
            [("a]b", "a]b"), (r#""a \"b\\""#, r#"a "b\"#), ("{3}\r\na\rb", "a\rb"), ("{0+}\r\n", "")]
        {
            let mut args = Args(sent.as_bytes());
            assert_eq!(args.text(), Ok(text.to_owned()), "{sent}");
            assert_eq!(args.end(), Ok(()), "{sent}");
        }
        for wrong in ["", " a", "\"a", "\"a\\", "\"\\n\"", "{4}\r\nabc", "{1}a", "(", "{99999999999}\r\n"] {
            assert!(Args(wrong.as_bytes()).text().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sets_are_read_as_sent() {
        let set = Args(b"7,4:2,9:*").set().expect("a set");
        let among = |last| (1..=12).filter(|&number| set.contains(number, last)).collect::<Vec<_>>();
        assert_eq!(among(10), [2, 3, 4, 7, 9, 10]);
        assert_eq!(among(8), [2, 3, 4, 7, 8, 9]);
        assert_eq!(set.highest(), 7);
        for wrong in ["0", "1:", ",1", "a", ""] {
            assert!(Args(wrong.as_bytes()).set().is_err(), "{wrong}");
        }
    }
}
