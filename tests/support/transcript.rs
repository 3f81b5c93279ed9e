//! Reads one golden conversation.

use imapmove::imap::{Settings, Side, Tls, Unfinished};
use std::path::Path;
use std::time::Duration;

/// One conversation, its prelude included.
pub struct Transcript {
    pub name: String,
    /// The rules that it shows.
    pub rules: Vec<String>,
    pub settings: Settings,
    /// Why cutting its input would make no sense, if so.
    pub whole_only: Option<String>,
    pub turns: Vec<Turn>,
}

/// Something happens, and this is what the gateway must say to it.
pub struct Turn {
    pub place: Place,
    pub input: Input,
    pub expected: Vec<Expected>,
    /// An expectation of its own line follows: the next input is the next turn.
    complete: bool,
}

pub enum Input {
    Octets(Side, Vec<u8>),
    Closed(Side),
    Lost(Side, String),
    Secured(Side),
    Tick(Duration),
    Drain,
    /// The journal has its record, or cannot have it.
    Persisted(bool),
    /// What the journal has of this user's.
    Owed(Vec<Unfinished>),
}

pub struct Expected {
    pub place: Place,
    pub what: What,
}

pub enum What {
    /// Exactly these octets come next on this leg.
    Octets(Side, Vec<u8>),
    /// A line comes next on this leg that holds these parts in this order, the first one at its beginning.
    LineWith(Side, Vec<String>),
    /// Whatever comes on this leg, as long as it does not hold this text.
    AnythingWithout(Side, Option<String>),
    Upgrade(Option<Side>),
    Finished(bool),
    /// One of the notices so far begins so, in its Debug form.
    Notice(String),
    /// None so far begins so.
    NoNotice(String),
}

/// Where in a file: `name:line`.
#[derive(Clone)]
pub struct Place(pub String);

impl Transcript {
    pub fn read(file: &Path) -> Result<Transcript, String> {
        let name = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        Transcript::parse(&name, &text, file.parent().unwrap_or(Path::new(".")))
    }

    /// `folder` is where `preludes/` lies.
    pub fn parse(name: &str, text: &str, folder: &Path) -> Result<Transcript, String> {
        let mut transcript = Transcript {
            name: name.into(),
            rules: Vec::new(),
            settings: Settings::default(),
            whole_only: None,
            turns: Vec::new(),
        };
        for (index, line) in text.lines().enumerate() {
            let place = Place(format!("{name}:{}", index + 1));
            transcript.line(line, &place, folder).map_err(|what| format!("{}: {what}", place.0))?;
        }
        match transcript.rules.is_empty() {
            true => Err(format!("{name}: no rule in its first line")),
            false => Ok(transcript),
        }
    }

    fn line(&mut self, line: &str, place: &Place, folder: &Path) -> Result<(), String> {
        if line.is_empty() || line.starts_with("-- ") {
            Ok(())
        } else if let Some(setting) = line.strip_prefix("#: ") {
            self.setting(setting, folder)
        } else if let Some(header) = line.strip_prefix("# ") {
            self.header(header);
            Ok(())
        } else if let Some(event) = line.strip_prefix("!! ") {
            self.event(event, place)
        } else {
            self.speech(line, place)
        }
    }

    /// `MOVE-7, SRV-0: what it shows` is the first line; the next ones may say more.
    fn header(&mut self, header: &str) {
        if self.rules.is_empty() {
            let names = header.split(':').next().unwrap_or_default();
            self.rules = names.split(", ").map(String::from).collect();
        }
    }

    fn setting(&mut self, setting: &str, folder: &Path) -> Result<(), String> {
        let (key, value) = setting.split_once(" = ").ok_or("expected `#: key = value`")?;
        match key {
            "client-tls" => self.settings.client_tls = tls(value)?,
            "upstream-tls" => self.settings.upstream_tls = tls(value)?,
            "require-tls" => self.settings.require_tls = value == "yes",
            "advertise-before-login" => self.settings.advertise_before_login = value == "yes",
            "introduction" => self.settings.introduction = Some(value.to_string()),
            "journal" => self.settings.journal = value == "yes",
            "max-line" => self.settings.max_line = number(value)?,
            "whole" => self.whole_only = Some(value.into()),
            "prelude" => {
                let prelude = std::fs::read_to_string(folder.join(format!("preludes/{value}.imap")));
                let prelude = prelude.map_err(|e| format!("prelude {value}: {e}"))?;
                self.turns.extend(Transcript::parse(value, &prelude, folder)?.turns);
            }
            _ => return Err(format!("no such setting: {key}")),
        }
        Ok(())
    }

    fn event(&mut self, event: &str, place: &Place) -> Result<(), String> {
        let words: Vec<&str> = event.split(' ').collect();
        match words[..] {
            [who, "closes"] => self.input(Input::Closed(side(who)?), place),
            [who, "lost"] => self.input(Input::Lost(side(who)?, "connection reset".into()), place),
            [who, "lost", ..] => self.input(Input::Lost(side(who)?, words[2..].join(" ")), place),
            ["secured", who] => self.input(Input::Secured(side(who)?), place),
            ["tick", seconds] => self.input(Input::Tick(duration(seconds)?), place),
            ["drain"] => self.input(Input::Drain, place),
            ["persisted"] => self.input(Input::Persisted(true), place),
            ["not", "persisted"] => self.input(Input::Persisted(false), place),
            ["owed", "nothing"] => self.input(Input::Owed(Vec::new()), place),
            ["owed", ..] => self.input(Input::Owed(owed(&words[1..])?), place),
            ["upgrade", "none"] => self.expect(What::Upgrade(None), place)?,
            ["upgrade", who] => self.expect(What::Upgrade(Some(side(who)?)), place)?,
            ["finished"] => self.expect(What::Finished(true), place)?,
            ["running"] => self.expect(What::Finished(false), place)?,
            ["no", "notice", ..] => self.expect(What::NoNotice(words[2..].join(" ")), place)?,
            ["notice", ..] => self.expect(What::Notice(words[1..].join(" ")), place)?,
            ["anything", "to", who] => self.expect(What::AnythingWithout(side(who)?, None), place)?,
            ["anything", "to", who, "without", ..] => {
                self.expect(What::AnythingWithout(side(who)?, Some(words[4..].join(" "))), place)?
            }
            _ => return Err(format!("no such event: {event}")),
        }
        Ok(())
    }

    fn speech(&mut self, line: &str, place: &Place) -> Result<(), String> {
        let end = line.find(' ').unwrap_or(line.len());
        let (head, text) = (&line[..end], line.get(end + 1..).unwrap_or_default());
        let (head, times) = match head.split_once('*') {
            Some((head, times)) => (head, number(times)?),
            None => (head, 1),
        };
        let octets =
            if head.contains('|') { repeated(text, times)? } else { format!("{text}\r\n").into_bytes() };
        match head {
            "C>" | "C|" => self.octets(Side::Client, octets, place),
            "S>" | "S|" => self.octets(Side::Upstream, octets, place),
            "C>S" | "C|S" => self.through(Side::Client, octets, place),
            "S>C" | "S|C" => self.through(Side::Upstream, octets, place),
            ">C" | "|C" => self.expect(expected_octets(Side::Client, head, text, octets), place)?,
            ">S" | "|S" => self.expect(expected_octets(Side::Upstream, head, text, octets), place)?,
            _ => return Err(format!("not a line of a conversation: {line}")),
        }
        Ok(())
    }

    /// Lines of the same side in a row are one block.
    fn octets(&mut self, from: Side, octets: Vec<u8>, place: &Place) {
        if let Some(Turn { input: Input::Octets(same, block), complete: false, .. }) = self.turns.last_mut()
            && *same == from
        {
            block.extend(octets);
        } else {
            self.input(Input::Octets(from, octets), place);
        }
    }

    fn through(&mut self, from: Side, octets: Vec<u8>, place: &Place) {
        self.octets(from, octets.clone(), place);
        let expected = Expected { place: place.clone(), what: What::Octets(from.other(), octets) };
        self.turns.last_mut().expect("just begun").expected.push(expected);
    }

    fn input(&mut self, input: Input, place: &Place) {
        self.turns.push(Turn { place: place.clone(), input, expected: Vec::new(), complete: false });
    }

    fn expect(&mut self, what: What, place: &Place) -> Result<(), String> {
        let turn = self.turns.last_mut().ok_or("an expectation before anything happened")?;
        turn.expected.push(Expected { place: place.clone(), what });
        turn.complete = true;
        Ok(())
    }
}

/// `...` stands for whatever the gateway likes to say there.
fn expected_octets(to: Side, head: &str, text: &str, octets: Vec<u8>) -> What {
    match head.starts_with('>') && text.contains("...") {
        true => What::LineWith(to, text.split("...").map(String::from).collect()),
        false => What::Octets(to, octets),
    }
}

/// `text`, unescaped, so many times; `%` in it is the number of the repetition, from 1.
fn repeated(text: &str, times: usize) -> Result<Vec<u8>, String> {
    match times {
        1 => unescape(text),
        _ => unescape(&(1..=times).map(|n| text.replace('%', &n.to_string())).collect::<String>()),
    }
}

/// `source, its UIDVALIDITY, target, the three words of COPYUID`, for each; the last one is finished first.
fn owed(words: &[&str]) -> Result<Vec<Unfinished>, String> {
    let one = |(at, words): (usize, &[&str])| match words {
        [source, validity, target, target_validity, from, to] => Ok(Unfinished {
            id: at as u64 + 1,
            source: source.as_bytes().to_vec(),
            source_validity: number(validity)? as u32,
            target: target.as_bytes().to_vec(),
            copyuid: format!("* OK [COPYUID {target_validity} {from} {to}] Moved\r\n").into_bytes(),
        }),
        _ => Err(format!("not what is owed: {words:?}")),
    };
    words.chunks(6).enumerate().map(one).collect()
}

fn side(name: &str) -> Result<Side, String> {
    match name {
        "client" => Ok(Side::Client),
        "upstream" => Ok(Side::Upstream),
        _ => Err(format!("neither client nor upstream: {name}")),
    }
}

fn tls(value: &str) -> Result<Tls, String> {
    match value {
        "off" => Ok(Tls::Off),
        "starttls" => Ok(Tls::StartTls),
        "implicit" => Ok(Tls::Implicit),
        _ => Err(format!("not off, starttls or implicit: {value}")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    Ok(Duration::from_secs(number(text.trim_end_matches('s'))? as u64))
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

/// `\r`, `\n`, `\0`, `\\` and `\xHH`.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(if octet == b'\\' { escaped(&mut rest)? } else { octet });
    }
    Ok(octets)
}

fn escaped(rest: &mut std::str::Bytes<'_>) -> Result<u8, String> {
    match rest.next() {
        Some(b'r') => Ok(b'\r'),
        Some(b'n') => Ok(b'\n'),
        Some(b'0') => Ok(0),
        Some(b'\\') => Ok(b'\\'),
        Some(b'x') => {
            let digits: String = rest.take(2).map(char::from).collect();
            u8::from_str_radix(&digits, 16).map_err(|_| format!("not two hexadecimal digits: {digits}"))
        }
        other => Err(format!("no such escape: {other:?}")),
    }
}
