//! The report for people, on 80 columns.

use super::report::{Report, Verdict};
use super::trial::{Trial, milliseconds};
use crate::commands::validity;
use crate::imap::{Strategy, Tls};
use crate::screen::{BOLD, DIM, GREEN, RED, Screen, YELLOW};
use std::io::{self, Write};

/// Columns.
const WIDTH: usize = 80;
/// Where the second column begins.
const INDENT: usize = 16;
/// Capabilities that matter here, and why.
const CAPABILITIES: [(&str, &str); 6] = [
    ("MOVE", "the server's own, passes through"),
    ("IMAP4rev2", "has a MOVE of its own"),
    ("UIDPLUS", "what the gateway needs"),
    ("ACL", "the first MOVE asks for rights"),
    ("CONDSTORE", "passes through"),
    ("QRESYNC", "passes through"),
];

impl<W: Write> Screen<W> {
    /// The whole report.
    pub fn report(&mut self, report: &Report) -> io::Result<()> {
        self.line(BOLD, &format!("imapmove probe {}", report.target))?;
        self.server(report)?;
        if report.before_login.is_some() {
            self.capabilities(report)?;
        }
        if !report.quirks.is_empty() {
            self.line(BOLD, "\nWorth knowing")?;
            for quirk in &report.quirks {
                self.item(YELLOW, "-", 4, &quirk.text())?;
            }
        }
        if let Some(trial) = &report.trial {
            self.trial(trial)?;
        }
        writeln!(self.out)?;
        self.verdict(&report.verdict)
    }

    fn server(&mut self, report: &Report) -> io::Result<()> {
        self.line(BOLD, "\nServer")?;
        self.row("connection", &connection(report))?;
        if let Some(handshake) = &report.handshake {
            let checked = if report.verified { "trusted" } else { "NOT CHECKED" };
            self.row("certificate", &format!("{checked}, {}", validity(handshake.not_after)))?;
            if !handshake.subject.is_empty() {
                self.row("", &format!("for {}, by {}", handshake.subject, handshake.issuer))?;
            }
        }
        if let Some(greeting) = &report.greeting {
            self.row("greeting", greeting)?;
        }
        if let Some(time) = report.round_trip {
            let cost = match report.strategy {
                Some(Strategy::Copy) => "; a UID MOVE through the gateway takes two",
                _ => "",
            };
            self.row("round trip", &format!("{}{cost}", milliseconds(time)))?;
        }
        Ok(())
    }

    fn capabilities(&mut self, report: &Report) -> io::Result<()> {
        self.line(BOLD, "\nCapabilities  before login  after login")?;
        for (name, meaning) in CAPABILITIES {
            let mut cells = String::new();
            for list in [&report.before_login, &report.after_login] {
                let (style, text) = match list {
                    Some(list) if list.iter().any(|token| token.eq_ignore_ascii_case(name)) => (GREEN, "yes"),
                    Some(_) => (DIM, "no"),
                    None => (DIM, "?"),
                };
                cells += &self.styled(style, &format!("{text:<14}"));
            }
            writeln!(self.out, "  {name:<12}{cells}{}", self.styled(DIM, meaning))?;
        }
        Ok(())
    }

    fn trial(&mut self, trial: &Trial) -> io::Result<()> {
        self.line(BOLD, "\nTried, through a gateway, with two mailboxes made for it")?;
        for check in &trial.checks {
            self.check(check.right, &check.what)?;
        }
        if trial.old > 0 {
            self.check(true, &format!("{} mailboxes of an earlier probe are removed", trial.old))?;
        }
        match (&trial.left[..], &trial.why_left) {
            ([], _) => self.check(true, "nothing is left behind"),
            (left, None) => self.check(false, &format!("left behind: {}", left.join(", "))),
            (left, Some(why)) => {
                let names = left.join(", ");
                self.check(
                    false,
                    &format!("perhaps left behind: {names} ({why}). The next --try removes them."),
                )
            }
        }
    }

    fn check(&mut self, right: bool, what: &str) -> io::Result<()> {
        let (style, mark) = if right { (GREEN, "ok") } else { (RED, "WRONG") };
        self.item(style, mark, 9, what)
    }

    fn verdict(&mut self, verdict: &Verdict) -> io::Result<()> {
        let (style, words) = match verdict {
            Verdict::Works(_) => (GREEN, "MOVE will work."),
            Verdict::Fails(_) => (RED, "MOVE will not work."),
            Verdict::Unknown(_) => (YELLOW, "Whether MOVE will work could not be found out."),
        };
        self.line(style, words)?;
        for line in wrapped(verdict.parts().1, WIDTH) {
            writeln!(self.out, "{line}")?;
        }
        Ok(())
    }

    fn row(&mut self, name: &str, text: &str) -> io::Result<()> {
        self.item(DIM, name, INDENT, text)
    }

    /// A mark, and behind it a text in a column of its own.
    fn item(&mut self, style: &str, mark: &str, indent: usize, text: &str) -> io::Result<()> {
        let mut mark = self.styled(style, &format!("{mark:<0$}", indent - 2));
        for line in wrapped(text, WIDTH - indent) {
            writeln!(self.out, "  {mark}{line}")?;
            mark = " ".repeat(indent - 2);
        }
        Ok(())
    }
}

fn connection(report: &Report) -> String {
    let at = &report.target.at;
    let Some(time) = report.connected else { return format!("{at}: none") };
    let version = report.handshake.as_ref().map_or("no TLS", |handshake| handshake.version);
    let how = match report.tls {
        Tls::Off => "in clear".to_string(),
        Tls::StartTls => format!("STARTTLS, {version}"),
        Tls::Implicit => format!("{version} from the first octet"),
    };
    format!("{at}, {how}, made in {}", milliseconds(time))
}

/// Lines of at most so many characters, broken at spaces where there are any.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last_mut().expect("there is always one");
            let used = line.chars().count();
            let space = usize::from(used > 0);
            if used + space + word.len() <= width {
                line.extend([" "].iter().take(space).copied());
                line.extend(word);
                break;
            }
            if used == 0 {
                line.extend(word.drain(..width));
            }
            lines.push(String::new());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::report::Quirk;
    use crate::probe::target::Target;
    use crate::probe::trial::Check;
    use crate::tls::Handshake;
    use std::time::Duration;

    fn everything() -> Report {
        let list = |words: &str| Some(words.split(' ').map(str::to_string).collect());
        Report {
            tls: Tls::StartTls,
            handshake: Some(Handshake {
                version: "TLS 1.3",
                subject: format!("CN={}", "mail.".repeat(30)),
                issuer: "CN=x".into(),
                not_after: 0,
            }),
            verified: false,
            connected: Some(Duration::from_millis(1)),
            greeting: Some("x".repeat(123)),
            round_trip: Some(Duration::from_micros(312)),
            before_login: list("IMAP4rev1"),
            after_login: list("IMAP4rev1 UIDPLUS ACL"),
            strategy: Some(Strategy::Copy),
            quirks: vec![
                Quirk::OnlyAfterLogin,
                Quirk::NoListAtLogin,
                Quirk::ListsDiffer,
                Quirk::InClear,
                Quirk::UnknownUidClamped,
                Quirk::LineLimit(8_000, Some(4_000)),
                Quirk::LineLimit(8_000, None),
                Quirk::NoCopyuid,
                Quirk::SilentExpunge,
            ],
            trial: Some(Trial {
                checks: vec![Check { right: false, what: "word ".repeat(40) }],
                refusal: None,
                old: 2,
                left: vec!["imapmove-probe-00000000-1".into(), "imapmove-probe-00000000-2".into()],
                why_left: Some("The server did not answer in time".into()),
            }),
            verdict: Verdict::Works("word ".repeat(40)),
            ..Report::new(Target::parse("imaps://alice@mail.example.org").expect("a URL"))
        }
    }

    fn shown(coloured: bool) -> String {
        let mut screen = Screen { out: Vec::new(), coloured };
        screen.report(&everything()).expect("a vector takes all");
        String::from_utf8(screen.out).expect("text")
    }

    #[test]
    fn whatever_it_says_fits_80_columns_and_colours_change_nothing_but_colours() {
        let (plain, mut coloured) = (shown(false), shown(true));
        assert!(
            !plain.contains('\x1b') && plain.lines().all(|line| line.chars().count() <= WIDTH),
            "{plain}"
        );
        assert!(plain.lines().all(|line| line.trim_end() == line), "{plain:?}");
        for style in [BOLD, DIM, RED, GREEN, YELLOW, "0"] {
            coloured = coloured.replace(&format!("\x1b[{style}m"), "");
        }
        assert_eq!(coloured, plain);
        assert_ne!(shown(true), plain);
    }

    #[test]
    fn a_word_that_is_too_long_is_cut() {
        assert_eq!(wrapped("ab cd efghi j", 4), ["ab", "cd", "efgh", "i j"]);
        assert_eq!(wrapped("", 4), [""]);
    }
}
