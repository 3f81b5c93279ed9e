//! Messages that are made from their names alone, so that nobody has to remember them.

use crate::mail::{Flags, Message, between};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The name of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Letter {
    /// Whose mailboxes it is in.
    pub user: usize,
    /// Which of that user's clients moves it.
    pub owner: usize,
    pub number: usize,
}

const FLAGS: [&str; 5] = ["", "\\Seen", "\\Answered \\Seen", "\\Draft", "\\Seen \\Draft"];
const LINES: [&str; 4] = ["* 3 EXPUNGE", "c1 OK done", "c2 UID EXPUNGE 1:*", "Text, and {12} of it."];
/// One in so many is large.
const LARGE_EVERY: u8 = 50;

impl Letter {
    /// Its octets.
    pub fn octets(self) -> Vec<u8> {
        let mut random = self.random();
        let lines = if random.u8(..LARGE_EVERY) == 0 { 800 } else { random.usize(3..40) };
        let body = (0..lines).map(|_| match random.choice(LINES) {
            Some(line) if random.u8(..4) == 0 => line.to_owned(),
            _ => (0..random.usize(1..70)).map(|_| random.alphanumeric()).collect(),
        });
        let body: String = body.map(|line| line + "\r\n").collect();
        let headers = "From: sender@example.test\r\nTo: user@example.test\r\nSubject: soak\r\n\
                       Date: Sat, 21 Nov 2026 09:30:00 +0000\r\n";
        format!("{headers}Message-ID: <{self}@soak.test>\r\n\r\n{body}").into_bytes()
    }

    /// Its flags, as a client writes them. `\Flagged` comes and goes.
    pub fn flags(self) -> &'static str {
        FLAGS[self.number % FLAGS.len()]
    }

    /// Whether this is it: octet for octet, with the flags that nobody has changed.
    pub fn is(self, message: &Message) -> bool {
        let flags: Flags = self.flags().split_whitespace().map(str::to_owned).collect();
        message.octets.as_bytes() == self.octets() && unchanging(message) == flags
    }

    /// The name in a header, or in a message.
    pub fn named_in(text: &str) -> Option<Letter> {
        let name = text.contains("Message-ID: <").then(|| between(text, "Message-ID: <", "@soak.test>"))?;
        let mut numbers = name.split('-').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Letter { user: next()?, owner: next()?, number: next()? })
    }

    fn random(self) -> fastrand::Rng {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        fastrand::Rng::with_seed(hasher.finish())
    }
}

impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.user, self.owner, self.number)
    }
}

fn unchanging(message: &Message) -> Flags {
    message.flags.iter().filter(|flag| *flag != "\\Flagged").cloned().collect()
}
