//! A model mail store that answers as an IMAP server, with the manners of Dovecot, Courier and Cyrus.
//!
//! It is one connection (the one that the gateway makes) and a store with several mailboxes, in which another session
//! may [`meddle`](Server::meddle). What really happens to the messages is written down as [`Fact`]s: the checks of the model test
//! compare them with what the client was told. Everything is drawn from one seeded generator: no clock, no threads.
#![allow(dead_code)] // each test binary uses its own part

use super::strict::{Command, Commands, Input, Token, ranges, set};
use fastrand::Rng;

pub const SEEN: u8 = 1;
pub const FLAGGED: u8 = 2;
pub const DELETED: u8 = 8;
const FLAG_NAMES: [&str; 5] = ["\\Seen", "\\Flagged", "\\Answered", "\\Deleted", "$Work"];

/// The names of a set of flags.
pub fn flag_names(flags: u8) -> Vec<&'static str> {
    FLAG_NAMES.iter().enumerate().filter(|(bit, _)| flags & (1 << bit) != 0).map(|(_, name)| *name).collect()
}

/// A set of flags from a list such as `\Seen \Flagged`; \Recent and unknown ones do not count.
pub fn flags_of(list: &str) -> u8 {
    let bit = |word: &str| {
        FLAG_NAMES.iter().position(|name| name.eq_ignore_ascii_case(word)).map_or(0, |bit| 1 << bit)
    };
    list.split([' ', '(', ')']).map(bit).fold(0, |all, flag| all | flag)
}

/// Who did something to the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// A session that does not go through the gateway.
    Other,
    /// The command with this tag, of the client or of the gateway.
    Tag(Vec<u8>),
}

/// Something that makes a NO (or less than all) a true answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A COPY was refused and copied nothing.
    CopyRefused,
    /// A COPY was refused because a message of it is gone; a repeat succeeds.
    ExpungeIssued,
    /// A file could not be read: not copied, the COPY says OK.
    Unreadable(u32),
    /// The COPY was carried out, its OK has no good COPYUID.
    NoCopyuid,
    /// A STORE or UID EXPUNGE was answered OK and ignored, or undone by another session.
    Ignored,
    /// A STORE or UID EXPUNGE was refused.
    Refused,
    /// A UID EXPUNGE did not remove this one: its file cannot be removed.
    Immovable(u32),
    /// A SELECT was refused, or did not show a mailbox that messages may leave, or not which one it is.
    Closed,
    /// A UID SEARCH was refused.
    Unsearched,
    /// The mailbox was deleted and made anew: other messages bear its UIDs.
    Remade(usize),
}

/// What really happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A message that was there at the start, or came by APPEND.
    Arrived {
        mailbox: usize,
        uid: u32,
        content: u32,
        flags: u8,
        by: Option<By>,
    },
    /// (source UID, target UID, content), in the order of copying.
    Copied {
        by: Vec<u8>,
        from: usize,
        to: usize,
        pairs: Vec<(u32, u32, u32)>,
    },
    Flagged {
        mailbox: usize,
        uid: u32,
        flags: u8,
        by: By,
    },
    Expunged {
        mailbox: usize,
        uid: u32,
        content: u32,
        by: By,
    },
    /// The gateway's session has opened a mailbox and was told of these messages.
    Selected {
        mailbox: usize,
        uids: Vec<u32>,
    },
    Deselected,
    /// EXISTS told it of these as well.
    Announced {
        uids: Vec<u32>,
    },
    /// It was told of these flags.
    ToldFlags {
        uid: u32,
        flags: u8,
    },
    Trouble {
        by: Vec<u8>,
        what: Trouble,
    },
    /// Something that must never reach a server.
    Violation(String),
}

/// Where the capability list is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListPlace {
    LoginCode,
    LoginUntagged,
    Nowhere,
}

/// Where COPYUID stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyuidPlace {
    Tagged,
    Untagged,
    Both,
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Manner {
    pub name: &'static str,
    /// Within one flight tags come in any order and untagged data first (SRV-0).
    pub out_of_order: bool,
    /// Removals descend; otherwise they ascend with shifting numbers (SRV-6).
    pub descending: bool,
    /// `+FLAGS.SILENT` is answered with FETCH all the same.
    pub loud_store: bool,
    /// A FETCH's own answer brings changed flags along in the same line.
    pub merges_fetch: bool,
    /// A COPY that names a message which is gone is refused with EXPUNGEISSUED.
    pub expunge_issued: bool,
    /// Reversed ranges copy nothing, duplicates are copied twice.
    pub naive_sets: bool,
    pub literal_plus: bool,
    /// ENABLE QRESYNC is known.
    pub qresync: bool,
    /// UID EXPUNGE's OK carries HIGHESTMODSEQ even when nobody asked.
    pub always_modseq: bool,
    pub searchres: bool,
    /// EXISTS and RECENT after each UID EXPUNGE.
    pub counts_after_expunge: bool,
    pub list: ListPlace,
    pub copyuid: CopyuidPlace,
    /// The rights that MYRIGHTS names, where the server has ACL.
    pub rights: Option<&'static str>,
    /// PERMANENTFLAGS has \Deleted.
    pub may_delete: bool,
    /// Longer lines end the connection.
    pub line_limit: usize,
    /// Has MOVE itself.
    pub native: bool,
    /// Octets of literals may follow the tagged OK at once: the greeting has the list.
    pub list_in_greeting: bool,
}

impl Manner {
    pub fn dovecot(rng: &mut Rng) -> Manner {
        Manner {
            name: "dovecot",
            out_of_order: true,
            descending: true,
            loud_store: false,
            merges_fetch: false,
            expunge_issued: true,
            naive_sets: false,
            literal_plus: true,
            qresync: true,
            always_modseq: false,
            searchres: true,
            counts_after_expunge: false,
            list: if rng.bool() { ListPlace::LoginCode } else { ListPlace::LoginUntagged },
            copyuid: CopyuidPlace::Tagged,
            rights: rng.bool().then_some("lrwstipekxa"),
            may_delete: true,
            line_limit: 65_520,
            native: false,
            list_in_greeting: rng.bool(),
        }
    }

    pub fn courier(rng: &mut Rng) -> Manner {
        Manner {
            name: "courier",
            out_of_order: false,
            descending: false,
            expunge_issued: false,
            naive_sets: true,
            literal_plus: false,
            qresync: false,
            searchres: false,
            counts_after_expunge: true,
            list: ListPlace::Nowhere,
            rights: Some("acdilrsw"),
            line_limit: 16_375,
            list_in_greeting: true,
            ..Manner::dovecot(rng)
        }
    }

    pub fn cyrus(rng: &mut Rng) -> Manner {
        Manner {
            name: "cyrus",
            out_of_order: false,
            descending: false,
            loud_store: true,
            merges_fetch: true,
            expunge_issued: false,
            always_modseq: true,
            searchres: rng.bool(),
            list: ListPlace::LoginCode,
            rights: Some("lrswipkxtecdan"),
            line_limit: 131_060,
            ..Manner::dovecot(rng)
        }
    }

    /// One of the three, now and then with a manner of its own.
    pub fn any(rng: &mut Rng) -> Manner {
        let mut manner = match rng.u8(..3) {
            0 => Manner::dovecot(rng),
            1 => Manner::courier(rng),
            _ => Manner::cyrus(rng),
        };
        if rng.u8(..4) == 0 {
            manner.name = "mixed";
            manner.out_of_order ^= rng.u8(..3) == 0;
            manner.descending ^= rng.u8(..3) == 0;
            manner.loud_store ^= rng.u8(..3) == 0;
            manner.merges_fetch ^= rng.u8(..3) == 0;
            manner.expunge_issued ^= rng.u8(..3) == 0;
            manner.literal_plus ^= rng.u8(..3) == 0;
            manner.copyuid =
                [CopyuidPlace::Tagged, CopyuidPlace::Untagged, CopyuidPlace::Both][rng.usize(..3)];
            manner.list =
                [ListPlace::LoginCode, ListPlace::LoginUntagged, ListPlace::Nowhere][rng.usize(..3)];
            manner.rights =
                [None, Some("lrswi"), Some("lrste"), Some("lrswid"), Some("lrswit")][rng.usize(..5)];
            manner.may_delete = rng.u8(..4) != 0;
        }
        manner
    }

    /// Whether a MOVE out of a mailbox can succeed as far as rights go.
    pub fn grants_delete(&self) -> bool {
        let rights = |rights: &str| rights.contains('d') || (rights.contains('t') && rights.contains('e'));
        self.may_delete && self.rights.is_none_or(rights)
    }
}

/// How often things go wrong, in percent of the chances for it.
#[derive(Clone, Debug, Default)]
pub struct Mishaps {
    /// Another session does something between two steps.
    pub meddling: u8,
    pub copy_refused: u8,
    pub copyuid_missing: u8,
    pub unreadable: u8,
    /// A STORE or UID EXPUNGE is answered OK and ignored: at most once in each MOVE unless `stubborn`.
    pub ignored: u8,
    pub refused: u8,
    pub stubborn: bool,
    /// Messages that were there from the start and cannot be removed.
    pub immovable: u8,
    /// The first mailbox lets nothing be flagged as deleted nor be expunged, whatever it said before.
    pub denied: bool,
    /// A SELECT while another mailbox is selected goes wrong.
    pub closed: u8,
    /// A UID SEARCH is refused.
    pub unsearched: u8,
    /// The last COPY's target is made anew before the next command.
    pub remade: u8,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub uid: u32,
    pub content: u32,
    pub flags: u8,
    pub modseq: u64,
    unreadable: bool,
    immovable: bool,
}

#[derive(Clone, Debug)]
pub struct Mailbox {
    pub name: Vec<u8>,
    pub uidvalidity: u32,
    pub uidnext: u32,
    pub messages: Vec<Message>,
}

/// A message as the gateway's session was told of it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub uid: u32,
    told: u8,
}

#[derive(Clone, Debug)]
pub struct Selected {
    pub mailbox: usize,
    pub read_only: bool,
    pub view: Vec<Seen>,
    /// UIDs from here on were not announced yet.
    next: u32,
    saved: Vec<u32>,
}

/// The server at the far end of the gateway.
#[derive(Debug)]
pub struct Server {
    pub manner: Manner,
    pub mishaps: Mishaps,
    pub mailboxes: Vec<Mailbox>,
    pub selected: Option<Selected>,
    pub facts: Vec<Fact>,
    /// The connection was closed from this side.
    pub closed: bool,
    rng: Rng,
    reader: Commands,
    out: Vec<u8>,
    idling: Option<Vec<u8>>,
    qresync: bool,
    modseq: u64,
    next_content: u32,
    /// Tagged lines that are held back, and whether EXPUNGE must wait for them.
    held: Vec<(Vec<u8>, bool)>,
    /// A FETCH or STORE by sequence number is being answered: no EXPUNGE now.
    by_number: bool,
    ignored: u32,
    last_target: Option<usize>,
}

impl Server {
    pub fn new(seed: u64, manner: Manner, mishaps: Mishaps, names: &[&[u8]]) -> Server {
        let mut rng = Rng::with_seed(seed);
        let mailbox = |(at, name): (usize, &&[u8])| Mailbox {
            name: name.to_vec(),
            uidvalidity: 1_795_233_316 + at as u32 * rng.u32(..2),
            uidnext: rng.u32(1..40),
            messages: Vec::new(),
        };
        let mailboxes = names.iter().enumerate().map(mailbox).collect();
        let mut server = Server {
            manner,
            mishaps,
            mailboxes,
            selected: None,
            facts: Vec::new(),
            closed: false,
            rng,
            reader: Commands::default(),
            out: Vec::new(),
            idling: None,
            qresync: false,
            modseq: 1,
            next_content: 1,
            held: Vec::new(),
            by_number: false,
            ignored: 0,
            last_target: None,
        };
        let list = match server.manner.list_in_greeting {
            true => format!("[CAPABILITY {}] ", server.capabilities()),
            false => String::new(),
        };
        server.out = format!("* OK {list}model ready\r\n").into_bytes();
        server
    }

    /// Fills a mailbox; UIDs have holes.
    pub fn fill(&mut self, mailbox: usize, messages: usize) {
        for _ in 0..messages {
            self.mailboxes[mailbox].uidnext += if self.rng.u8(..3) == 0 { self.rng.u32(0..5) } else { 0 };
            let flags = self.rng.u8(..32) & self.rng.u8(..32);
            let unreadable = self.rng.u8(..100) < self.mishaps.unreadable;
            let immovable = self.rng.u8(..100) < self.mishaps.immovable;
            self.arrive(mailbox, flags, None, None);
            if let Some(message) = self.mailboxes[mailbox].messages.last_mut() {
                (message.unreadable, message.immovable) = (unreadable, immovable);
            }
        }
    }

    /// Another session brings a message.
    pub fn deliver(&mut self, mailbox: usize, flags: u8) -> u32 {
        self.arrive(mailbox, flags, Some(By::Other), None)
    }

    /// Another session expunges one.
    pub fn expunge_elsewhere(&mut self, mailbox: usize, uid: u32) {
        self.remove(mailbox, uid, By::Other);
    }

    /// The connection is over, another one begins: the mailboxes are as they were.
    pub fn reconnect(&mut self) {
        (self.selected, self.idling, self.closed, self.qresync) = (None, None, false, false);
        (self.reader, self.held) = (Commands::default(), Vec::new());
        self.out = b"* OK model ready\r\n".to_vec();
    }

    pub fn receive(&mut self, octets: &[u8]) {
        self.reader.push(octets);
    }

    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Answers what is complete: all of it, or, where answers come in order, now and then only the first command.
    pub fn work(&mut self) {
        loop {
            if self.closed {
                return;
            }
            if self.idling.is_some() && !self.idle() {
                break;
            }
            match self.reader.next() {
                None => break,
                Some(Ok(Input::Command(command))) => self.command(command),
                Some(Ok(Input::Announced(_))) => self.announced(),
                Some(Err(malformed)) => {
                    self.facts.push(Fact::Violation(malformed.to_string()));
                    self.line("* BAD malformed");
                }
            }
            if !self.manner.out_of_order && self.rng.u8(..3) == 0 {
                break;
            }
        }
        while !self.held.is_empty() {
            self.release_one();
        }
    }

    fn line(&mut self, line: impl AsRef<[u8]>) {
        self.out.extend_from_slice(line.as_ref());
        self.out.extend_from_slice(b"\r\n");
    }

    fn release_one(&mut self) {
        let (line, _) = self.held.swap_remove(self.rng.usize(..self.held.len()));
        self.line(line);
    }

    fn release_all(&mut self) {
        while !self.held.is_empty() {
            self.release_one();
        }
    }

    /// An untagged line; a held tag may go out behind it.
    fn data(&mut self, line: impl AsRef<[u8]>) {
        self.line(line);
        if !self.held.is_empty() && self.rng.u8(..4) == 0 {
            self.release_one();
        }
    }

    fn capabilities(&self) -> String {
        let mut list = String::from("IMAP4rev1 UIDPLUS CHILDREN IDLE ENABLE");
        let manner = &self.manner;
        let extras = [
            (manner.literal_plus, " LITERAL+"),
            (manner.qresync, " CONDSTORE QRESYNC"),
            (manner.searchres, " ESEARCH SEARCHRES"),
            (manner.rights.is_some(), " ACL"),
            (manner.native, " MOVE"),
        ];
        extras.iter().filter(|(has, _)| *has).for_each(|(_, extra)| list.push_str(extra));
        list
    }

    /// A synchronising literal is announced: `+`, or a refusal where the command cannot succeed.
    fn announced(&mut self) {
        self.release_all();
        let (tag, tokens) =
            self.reader.announcing().map(|(tag, tokens)| (tag.to_vec(), tokens)).unwrap_or_default();
        let is_append = tokens.get(1).is_some_and(|verb| verb.value().eq_ignore_ascii_case(b"APPEND"));
        if is_append && tokens.len() > 2 && self.find(tokens[2].value()).is_none() {
            self.reader.refused();
            self.line([&tag[..], b" NO [TRYCREATE] No such mailbox {5}"].concat());
        } else {
            self.line("+ go ahead {3}");
        }
    }

    fn command(&mut self, command: Command) {
        if command.longest_line > self.manner.line_limit {
            self.line("* BYE [ALERT] Fatal error: max atom size too small");
            self.closed = true;
            return;
        }
        let plus = |token: &Token| matches!(token, Token::Literal { synchronising: false, .. });
        if !self.manner.literal_plus && command.args.iter().any(plus) {
            self.violation("a non-synchronising literal", &command);
        }
        self.chance();
        self.chance_to_remake();
        if self.batchable(&command) { self.in_batch(&command) } else { self.alone(&command) }
    }

    fn batchable(&self, command: &Command) -> bool {
        let verb = command.verb.as_str();
        matches!(verb, "FETCH" | "STORE" | "NOOP" | "CHECK" | "MYRIGHTS") || verb.starts_with("UID ")
    }

    fn in_batch(&mut self, command: &Command) {
        self.by_number = matches!(command.verb.as_str(), "FETCH" | "STORE");
        let by_number = self.by_number;
        let answer = match command.verb.as_str() {
            "NOOP" | "CHECK" => {
                self.sync(true);
                "OK done".to_owned()
            }
            "MYRIGHTS" => self.myrights(command),
            _ if self.selected.is_none() => "BAD No mailbox selected".to_owned(),
            "FETCH" | "UID FETCH" => self.fetch(command),
            "STORE" | "UID STORE" => self.store(command),
            "UID SEARCH" => self.search(command),
            "UID COPY" => self.copy(command),
            "UID EXPUNGE" => self.expunge(command),
            "UID MOVE" if self.manner.native => self.native_move(command),
            _ => {
                self.violation("unexpected", command);
                "BAD Unknown command".to_owned()
            }
        };
        self.by_number = false;
        let line = [&command.tag[..], b" ", answer.as_bytes()].concat();
        if self.manner.out_of_order && self.rng.u8(..4) != 0 {
            self.held.push((line, by_number));
        } else {
            self.line(line);
        }
    }

    fn alone(&mut self, command: &Command) {
        self.release_all();
        let tag = String::from_utf8_lossy(&command.tag).into_owned();
        match command.verb.as_str() {
            "CAPABILITY" => {
                let list = self.capabilities();
                self.line(format!("* CAPABILITY {list}"));
                self.line(format!("{tag} OK done"));
            }
            "LOGIN" => self.login(&tag),
            "ENABLE" => {
                self.qresync = self.manner.qresync;
                self.line(if self.qresync { "* ENABLED CONDSTORE QRESYNC" } else { "* ENABLED" });
                self.line(format!("{tag} OK Enabled"));
            }
            "SELECT" | "EXAMINE" => self.select(command, &tag),
            "CLOSE" => self.close(command, &tag),
            "MOVE" if self.manner.native => {
                let answer =
                    if self.selected.is_some() { self.native_move(command) } else { "BAD No mailbox".into() };
                self.line(format!("{tag} {answer}"));
            }
            "APPEND" => self.append(command, &tag),
            "IDLE" => {
                self.line("+ idling");
                self.idling = Some(command.tag.clone());
            }
            "LOGOUT" => {
                self.line("* BYE Logging out");
                self.line(format!("{tag} OK Logout completed"));
                self.closed = true;
            }
            _ => {
                self.violation("unexpected", command);
                self.line(format!("{tag} BAD Unknown command"));
            }
        }
    }

    fn violation(&mut self, what: &str, command: &Command) {
        self.facts.push(Fact::Violation(format!("{what}: {}", command.raw.escape_ascii())));
    }

    fn trouble(&mut self, command: &Command, what: Trouble) {
        self.facts.push(Fact::Trouble { by: command.tag.clone(), what });
    }

    fn login(&mut self, tag: &str) {
        let list = self.capabilities();
        match self.manner.list {
            ListPlace::LoginCode => self.line(format!("{tag} OK [CAPABILITY {list}] Logged in")),
            ListPlace::LoginUntagged => {
                self.line(format!("* CAPABILITY {list}"));
                self.line(format!("{tag} OK Logged in"));
            }
            ListPlace::Nowhere => self.line(format!("{tag} OK LOGIN Ok.")),
        }
    }

    /// One line inside IDLE; whether IDLE is over.
    fn idle(&mut self) -> bool {
        self.chance();
        if self.rng.bool() {
            self.sync(true);
        }
        let Some(line) = self.reader.plain_line() else { return false };
        if !line.eq_ignore_ascii_case(b"DONE") {
            self.facts.push(Fact::Violation(format!("in IDLE: {}", line.escape_ascii())));
        }
        self.sync(true);
        let tag = self.idling.take().unwrap_or_default();
        self.line([&tag[..], b" OK Idle completed"].concat());
        true
    }

    pub fn is_idling(&self) -> bool {
        self.idling.is_some()
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        self.mailboxes.iter().position(|mailbox| mailbox.name == name)
    }

    fn select(&mut self, command: &Command, tag: &str) {
        let had_one = self.selected.take().is_some();
        if had_one {
            self.facts.push(Fact::Deselected);
        }
        let goes_wrong = (had_one && self.rng.u8(..100) < self.mishaps.closed).then(|| self.rng.u8(..4));
        if goes_wrong.is_some() {
            self.trouble(command, Trouble::Closed);
        }
        let found = command.args.first().and_then(|name| self.find(name.value()));
        let Some(mailbox) = found.filter(|_| goes_wrong != Some(0)) else {
            return self.line(format!("{tag} NO [NONEXISTENT] No such mailbox"));
        };
        let read_only = command.verb == "EXAMINE" || goes_wrong == Some(1);
        let chosen = &self.mailboxes[mailbox];
        let seen = |message: &Message| Seen { uid: message.uid, told: message.flags };
        let view: Vec<Seen> = chosen.messages.iter().map(seen).collect();
        let (count, next, uidvalidity) = (view.len(), chosen.uidnext, chosen.uidvalidity);
        let uids: Vec<u32> = view.iter().map(|seen| seen.uid).collect();
        self.line(format!("* FLAGS ({})", FLAG_NAMES.join(" ")));
        let permanent =
            if read_only || !self.manner.may_delete { "\\Seen" } else { "\\Seen \\Flagged \\Deleted \\*" };
        self.line(format!("* OK [PERMANENTFLAGS ({permanent})] Flags"));
        self.line(format!("* {count} EXISTS"));
        self.line("* 0 RECENT");
        if goes_wrong != Some(2) {
            self.line(format!("* OK [UIDVALIDITY {uidvalidity}] valid"));
        }
        self.line(format!("* OK [UIDNEXT {next}] next"));
        if self.qresync {
            self.line(format!("* OK [HIGHESTMODSEQ {}] mod", self.modseq));
            self.vanished_earlier(&uids, next);
        }
        let access = if read_only { "READ-ONLY" } else { "READ-WRITE" };
        self.facts.push(Fact::Selected { mailbox, uids });
        if goes_wrong == Some(3) {
            return self.line(format!("{tag} NO [UNAVAILABLE] Not now"));
        }
        self.selected = Some(Selected { mailbox, read_only, view, next, saved: Vec::new() });
        self.line(format!("{tag} OK [{access}] Selected {{7}}"));
    }

    /// It would expunge what is flagged as deleted, the user's own mail too, but where nothing can be changed.
    fn close(&mut self, command: &Command, tag: &str) {
        if self.selected.take().is_some_and(|closed| !closed.read_only) {
            self.violation("CLOSE of a mailbox that is not read-only", command);
        }
        self.facts.push(Fact::Deselected);
        self.line(format!("{tag} OK Close completed"));
    }

    /// What left before this session began: it is not in the count.
    fn vanished_earlier(&mut self, uids: &[u32], next: u32) {
        let gone: Vec<u32> = (1..next).filter(|uid| !uids.contains(uid)).collect();
        if !gone.is_empty() {
            self.line(format!("* VANISHED (EARLIER) {}", set(&gone)));
        }
    }

    fn append(&mut self, command: &Command, tag: &str) {
        let Some(mailbox) = command.args.first().and_then(|name| self.find(name.value())) else {
            return self.line(format!("{tag} NO [TRYCREATE] No such mailbox"));
        };
        self.arrive(mailbox, 0, Some(By::Tag(command.tag.clone())), None);
        if self.rng.bool() {
            self.sync(true);
        }
        self.line(format!("{tag} OK Append completed"));
    }

    /// A new message; a copy keeps its content's number.
    fn arrive(&mut self, mailbox: usize, flags: u8, by: Option<By>, copied: Option<u32>) -> u32 {
        self.modseq += 1;
        let content = copied.unwrap_or(self.next_content);
        self.next_content += u32::from(copied.is_none());
        let target = &mut self.mailboxes[mailbox];
        let uid = target.uidnext;
        target.uidnext += 1;
        let modseq = self.modseq;
        target.messages.push(Message { uid, content, flags, modseq, unreadable: false, immovable: false });
        if copied.is_none() {
            self.facts.push(Fact::Arrived { mailbox, uid, content, flags, by });
        }
        uid
    }

    fn myrights(&mut self, command: &Command) -> String {
        let name = command.args.first().map(|name| name.value().to_vec()).unwrap_or_default();
        match (self.manner.rights, self.find(&name)) {
            (Some(rights), Some(_)) => {
                let head = format!("* MYRIGHTS {{{}}}\r\n", name.len());
                self.data([head.as_bytes(), &name, b" ", rights.as_bytes()].concat());
                "OK Myrights completed".to_owned()
            }
            (Some(_), None) => "NO No such mailbox".to_owned(),
            (None, _) => {
                self.violation("MYRIGHTS without ACL", command);
                "BAD Unknown command".to_owned()
            }
        }
    }

    /// The UIDs in view that a set names: ascending, or as named where sets are taken naively.
    fn named(&self, set: &str, by_number: bool) -> Vec<u32> {
        let Some(selected) = &self.selected else { return Vec::new() };
        if set == "$" {
            return selected.saved.clone();
        }
        let view = &selected.view;
        let last = if by_number { view.len() as u32 } else { view.last().map_or(0, |seen| seen.uid) };
        let number = |text: &str| if text == "*" { last } else { text.parse().unwrap_or(0) };
        let mut all = Vec::new();
        for part in set.split(',') {
            let (from, to) = part.split_once(':').unwrap_or((part, part));
            let (mut from, mut to) = (number(from), number(to));
            if from > to && !self.manner.naive_sets {
                (from, to) = (to, from);
            }
            let within = |key: u32| from <= key && key <= to;
            let keyed = view
                .iter()
                .enumerate()
                .map(|(at, seen)| (if by_number { at as u32 + 1 } else { seen.uid }, seen.uid));
            all.extend(keyed.filter(|&(key, _)| within(key)).map(|(_, uid)| uid));
        }
        if !self.manner.naive_sets {
            all.sort_unstable();
            all.dedup();
        }
        all
    }

    fn message(&self, uid: u32) -> Option<&Message> {
        let mailbox = self.selected.as_ref()?.mailbox;
        self.mailboxes[mailbox].messages.iter().find(|message| message.uid == uid)
    }

    fn number(&self, uid: u32) -> usize {
        let view = self.selected.as_ref().map(|selected| &selected.view[..]).unwrap_or_default();
        view.iter().position(|seen| seen.uid == uid).map_or(0, |at| at + 1)
    }

    fn told(&mut self, uid: u32, flags: u8) {
        self.knows(uid, flags);
        self.facts.push(Fact::ToldFlags { uid, flags });
    }

    /// This session knows of the flags, without a line that says so.
    fn knows(&mut self, uid: u32, flags: u8) {
        let view = self.selected.iter_mut().flat_map(|selected| selected.view.iter_mut());
        view.filter(|seen| seen.uid == uid).for_each(|seen| seen.told = flags);
    }

    fn is_told(&self, uid: u32, flags: u8) -> bool {
        let view = self.selected.as_ref().map(|selected| &selected.view[..]).unwrap_or_default();
        view.iter().any(|seen| seen.uid == uid && seen.told == flags)
    }

    fn set_arg(command: &Command) -> String {
        command.args.first().map(|set| String::from_utf8_lossy(set.value()).into_owned()).unwrap_or_default()
    }

    fn fetch(&mut self, command: &Command) -> String {
        let by_number = command.verb == "FETCH";
        if self.rng.bool() {
            self.sync(true);
        }
        let named = self.named(&Self::set_arg(command), by_number);
        let wants = |item: &[u8]| command.args.iter().any(|word| word.value().eq_ignore_ascii_case(item));
        let (wants_flags, describes) = (wants(b"FLAGS"), wants(b"RFC822.SIZE"));
        let mut omitted = false;
        for uid in named {
            if self.number(uid) == 0 {
                continue; // announced as gone while this was answered
            }
            match self.message(uid).map(|message| message.flags) {
                Some(_) if describes => self.description(uid),
                None if wants_flags || self.rng.bool() => omitted = true,
                flags => self.fetch_line(uid, flags.unwrap_or_default(), flags.is_some(), wants_flags),
            }
            self.chance();
            if !by_number && self.rng.u8(..12) == 0 {
                self.sync(true);
            }
        }
        if self.rng.bool() {
            self.sync(true);
        }
        if omitted && self.rng.bool() {
            "OK Some messages are gone".to_owned()
        } else {
            "OK Fetch completed".to_owned()
        }
    }

    /// What a message and its copy have in common.
    fn description(&mut self, uid: u32) {
        let Some((content, flags)) = self.message(uid).map(|message| (message.content, message.flags)) else {
            return;
        };
        let (number, names) = (self.number(uid), flag_names(flags).join(" "));
        let date = format!("{:2}-Mar-2019 12:34:56 +0200", content % 28 + 1);
        let size = 1_000 + content;
        self.told(uid, flags);
        self.data(format!(
            "* {number} FETCH (UID {uid} FLAGS ({names}) INTERNALDATE \"{date}\" RFC822.SIZE {size})"
        ));
    }

    fn fetch_line(&mut self, uid: u32, flags: u8, exists: bool, wants_flags: bool) {
        let number = self.number(uid);
        let merge = self.manner.merges_fetch && exists && !self.is_told(uid, flags);
        let names = flag_names(flags).join(" ");
        let line = match wants_flags || merge {
            true if self.rng.bool() => format!("* {number} FETCH (UID {uid} FLAGS ({names}))"),
            true => format!("* {number} FETCH (FLAGS ({names}) UID {uid})"),
            false => format!("* {number} FETCH (UID {uid})"),
        };
        if (wants_flags || merge) && exists {
            self.told(uid, flags);
        }
        self.data(line);
    }

    fn store(&mut self, command: &Command) -> String {
        let by_number = command.verb == "STORE";
        let named = self.named(&Self::set_arg(command), by_number);
        if self.rng.bool() {
            self.sync(true);
        }
        let item = command
            .args
            .get(1)
            .map(|item| String::from_utf8_lossy(item.value()).to_ascii_uppercase())
            .unwrap_or_default();
        let words: Vec<_> = command
            .args
            .iter()
            .skip(2)
            .map(|word| String::from_utf8_lossy(word.value()).into_owned())
            .collect();
        let flags = flags_of(&words.join(" "));
        if let Some(answer) = self.mishap_of(command, flags) {
            return answer;
        }
        if self.selected.as_ref().is_some_and(|selected| selected.read_only) {
            return "NO Read-only".to_owned();
        }
        let silent = item.ends_with(".SILENT");
        for uid in named {
            self.store_one(command, uid, flags, item.starts_with('-'), silent);
        }
        self.chance();
        if self.rng.bool() {
            self.sync(true);
        }
        "OK Store completed".to_owned()
    }

    fn store_one(&mut self, command: &Command, uid: u32, flags: u8, take: bool, silent: bool) {
        let Some(old) = self.message(uid).map(|message| message.flags) else { return };
        let new = if take { old & !flags } else { old | flags };
        let by = By::Tag(command.tag.clone());
        let was_told = self.is_told(uid, old);
        if let Some(mailbox) = self.selected.as_ref().map(|selected| selected.mailbox) {
            self.flag(mailbox, uid, new, by);
        }
        let (number, modseq, names) = (self.number(uid), self.modseq, flag_names(new).join(" "));
        if number == 0 {
            return;
        }
        if !silent || (self.manner.loud_store && new != old) {
            let modseq = if self.qresync { format!(" MODSEQ ({modseq})") } else { String::new() };
            let names = if self.rng.bool() { format!("\\Recent {names}") } else { names };
            self.data(format!("* {number} FETCH (FLAGS ({}) UID {uid}{modseq})", names.trim()));
        } else if self.qresync && new != old {
            self.data(format!("* {number} FETCH (UID {uid} MODSEQ ({modseq}))"));
        }
        if !silent || (self.manner.loud_store && new != old) {
            self.told(uid, new);
        } else if was_told {
            self.knows(uid, new);
        }
    }

    fn flag(&mut self, mailbox: usize, uid: u32, flags: u8, by: By) {
        self.modseq += 1;
        let modseq = self.modseq;
        let messages = &mut self.mailboxes[mailbox].messages;
        if let Some(message) =
            messages.iter_mut().find(|message| message.uid == uid && message.flags != flags)
        {
            (message.flags, message.modseq) = (flags, modseq);
            self.facts.push(Fact::Flagged { mailbox, uid, flags, by });
        }
    }

    fn search(&mut self, command: &Command) -> String {
        if self.rng.u8(..100) < self.mishaps.unsearched {
            self.trouble(command, Trouble::Unsearched);
            return "NO [SERVERBUG] Not now".to_owned();
        }
        if self.rng.bool() {
            self.sync(true);
        }
        let words: Vec<String> = command
            .args
            .iter()
            .map(|word| String::from_utf8_lossy(word.value()).to_ascii_uppercase())
            .collect();
        let mut found: Vec<u32> = self.named("1:*", false);
        if self.rng.bool() || !self.manner.expunge_issued {
            found.retain(|&uid| self.message(uid).is_some());
        }
        let (mut save, mut at) = (false, 0);
        while let Some(word) = words.get(at) {
            let flags = |uid: u32| self.message(uid).map_or(0, |message| message.flags);
            match word.as_str() {
                "RETURN" | "" | "ALL" => {}
                "SAVE" => save = true,
                "DELETED" => found.retain(|&uid| flags(uid) & DELETED != 0),
                "UNDELETED" => found.retain(|&uid| flags(uid) & DELETED == 0),
                "FLAGGED" => found.retain(|&uid| flags(uid) & FLAGGED != 0),
                "UID" => {
                    at += 1;
                    let named = self.named(words.get(at).map(String::as_str).unwrap_or_default(), false);
                    found.retain(|uid| named.contains(uid));
                }
                "$" => found.retain(|uid| {
                    self.selected.as_ref().is_some_and(|selected| selected.saved.contains(uid))
                }),
                _ => {
                    self.violation("an unknown search key", command);
                    return "BAD Unknown key".to_owned();
                }
            }
            at += 1;
        }
        if save {
            if let Some(selected) = &mut self.selected {
                selected.saved = found;
            }
        } else {
            let list: String = found.iter().map(|uid| format!(" {uid}")).collect();
            self.data(format!("* SEARCH{list}"));
        }
        if self.rng.bool() {
            self.sync(true);
        }
        "OK Search completed".to_owned()
    }

    fn copy(&mut self, command: &Command) -> String {
        if self.rng.u8(..3) == 0 {
            self.sync(true);
        }
        let target = command.args.get(1).and_then(|name| self.find(name.value()));
        let Some(to) = target else { return "NO [TRYCREATE] Mailbox doesn't exist".to_owned() };
        if self.rng.u8(..100) < self.mishaps.copy_refused {
            self.trouble(command, Trouble::CopyRefused);
            return "NO [OVERQUOTA] Quota exceeded (mailbox for user is full) {12}".to_owned();
        }
        self.ignored = 0;
        self.last_target = Some(to);
        let named = self.named(&Self::set_arg(command), false);
        if self.manner.expunge_issued && named.iter().any(|&uid| self.message(uid).is_none()) {
            self.trouble(command, Trouble::ExpungeIssued);
            self.sync(true);
            return "NO [EXPUNGEISSUED] Some of the requested messages no longer exist.".to_owned();
        }
        let pairs = self.copy_messages(command, &named, to);
        self.chance();
        if self.rng.bool() {
            self.sync(true);
        }
        self.copied(command, to, &pairs)
    }

    fn copy_messages(&mut self, command: &Command, named: &[u32], to: usize) -> Vec<(u32, u32, u32)> {
        let mut pairs = Vec::new();
        for &uid in named {
            let Some(message) = self.message(uid).cloned() else { continue };
            if message.unreadable {
                self.trouble(command, Trouble::Unreadable(uid));
                continue;
            }
            let copy = self.arrive(to, message.flags, None, Some(message.content));
            pairs.push((uid, copy, message.content));
        }
        let from = self.selected.as_ref().map_or(0, |selected| selected.mailbox);
        if !pairs.is_empty() {
            self.facts.push(Fact::Copied { by: command.tag.clone(), from, to, pairs: pairs.clone() });
        }
        pairs
    }

    fn copied(&mut self, command: &Command, to: usize, pairs: &[(u32, u32, u32)]) -> String {
        if pairs.is_empty() {
            return "OK No messages found".to_owned();
        }
        let mut code = self.copyuid(to, pairs);
        if self.rng.u8(..100) < self.mishaps.copyuid_missing {
            self.trouble(command, Trouble::NoCopyuid);
            code =
                ["", "[COPYUID 1  ]", "[COPYUID 9 1:2 5]", "[COPYUID 9 0 1]"][self.rng.usize(..4)].to_owned();
        } else if self.manner.copyuid != CopyuidPlace::Tagged {
            self.data(format!("* OK {code} Copied"));
            if self.manner.copyuid == CopyuidPlace::Untagged {
                code.clear();
            }
        }
        format!("OK {code} Copy completed").replace("OK  ", "OK ")
    }

    fn copyuid(&self, to: usize, pairs: &[(u32, u32, u32)]) -> String {
        let from: Vec<u32> = pairs.iter().map(|pair| pair.0).collect();
        let copies: Vec<u32> = pairs.iter().map(|pair| pair.1).collect();
        format!("[COPYUID {} {} {}]", self.mailboxes[to].uidvalidity, set(&from), set(&copies))
    }

    fn mishap_of(&mut self, command: &Command, flags: u8) -> Option<String> {
        if flags & DELETED == 0 { None } else { self.mishap(command) }
    }

    /// OK without doing it, or a refusal.
    fn mishap(&mut self, command: &Command) -> Option<String> {
        if self.mishaps.denied && self.selected.as_ref().is_some_and(|selected| selected.mailbox == 0) {
            self.trouble(command, Trouble::Refused);
            return Some("NO [NOPERM] Permission denied".to_owned());
        }
        if self.rng.u8(..100) < self.mishaps.refused {
            self.trouble(command, Trouble::Refused);
            return Some("NO [SERVERBUG] Internal error".to_owned());
        }
        let may = self.mishaps.stubborn || self.ignored == 0;
        if may && self.rng.u8(..100) < self.mishaps.ignored {
            self.ignored += 1;
            self.trouble(command, Trouble::Ignored);
            return Some("OK Ignored".to_owned());
        }
        None
    }

    fn expunge(&mut self, command: &Command) -> String {
        if let Some(answer) = self.mishap(command) {
            return answer;
        }
        let named = self.named(&Self::set_arg(command), false);
        for uid in named {
            match self.message(uid).filter(|message| message.flags & DELETED != 0) {
                Some(message) if message.immovable => self.trouble(command, Trouble::Immovable(uid)),
                Some(_) => self.remove_seen(uid, By::Tag(command.tag.clone())),
                None => {}
            }
        }
        self.sync(true);
        if self.manner.counts_after_expunge {
            let count = self.selected.as_ref().map_or(0, |selected| selected.view.len());
            self.data(format!("* {count} EXISTS"));
            self.data("* 0 RECENT");
        }
        match self.manner.always_modseq || self.qresync {
            true => format!("OK [HIGHESTMODSEQ {}] Expunge completed", self.modseq),
            false => "OK Expunge completed".to_owned(),
        }
    }

    fn remove_seen(&mut self, uid: u32, by: By) {
        if let Some(mailbox) = self.selected.as_ref().map(|selected| selected.mailbox) {
            self.remove(mailbox, uid, by);
        }
    }

    fn remove(&mut self, mailbox: usize, uid: u32, by: By) {
        self.modseq += 1;
        let messages = &mut self.mailboxes[mailbox].messages;
        if let Some(at) = messages.iter().position(|message| message.uid == uid) {
            let content = messages.remove(at).content;
            self.facts.push(Fact::Expunged { mailbox, uid, content, by });
        }
    }

    fn native_move(&mut self, command: &Command) -> String {
        let by_number = command.verb == "MOVE";
        let set = Self::set_arg(command);
        let count = self.selected.as_ref().map_or(0, |selected| selected.view.len() as u32);
        let too_big = |&n: &u32| n == 0 || (by_number && n > count);
        let ends = set.split([',', ':']).filter(|end| *end != "*").map(|end| end.parse().unwrap_or(0));
        if set != "$" && (ends.clone().any(|n: u32| too_big(&n)) || (by_number && count == 0)) {
            return "BAD Invalid messageset".to_owned();
        }
        let Some(to) = command.args.get(1).and_then(|name| self.find(name.value())) else {
            return "NO [TRYCREATE] Mailbox doesn't exist".to_owned();
        };
        if self.selected.as_ref().is_some_and(|selected| selected.read_only) {
            return "NO Read-only".to_owned();
        }
        let mut named = self.named(&set, by_number);
        named.sort_unstable();
        named.dedup();
        let pairs = self.copy_messages(command, &named, to);
        if !pairs.is_empty() {
            let code = self.copyuid(to, &pairs);
            self.line(format!("* OK {code} Moved"));
        }
        for (uid, _, _) in &pairs {
            self.remove_seen(*uid, By::Tag(command.tag.clone()));
        }
        self.sync(true);
        "OK Move completed".to_owned()
    }

    /// Tells this session what others have done, as far as it may be told.
    fn sync(&mut self, expunge: bool) {
        let Some(selected) = &self.selected else { return };
        let mailbox = &self.mailboxes[selected.mailbox];
        let may = expunge && !self.by_number && !self.held.iter().any(|(_, by_number)| *by_number);
        let gone = |seen: &&Seen| !mailbox.messages.iter().any(|message| message.uid == seen.uid);
        let gone: Vec<u32> = selected.view.iter().filter(gone).map(|seen| seen.uid).collect();
        if may && !gone.is_empty() {
            self.announce_gone(gone);
        }
        self.announce_new();
        self.announce_flags();
    }

    fn announce_gone(&mut self, mut gone: Vec<u32>) {
        if self.qresync {
            let split = self.rng.usize(..=gone.len());
            for part in [&gone[..split], &gone[split..]] {
                self.forget(part);
                if !part.is_empty() {
                    self.data(format!("* VANISHED {}", set(part)));
                }
            }
            return;
        }
        if self.manner.descending {
            gone.reverse();
        }
        for uid in gone {
            let number = self.number(uid);
            self.forget(&[uid]);
            self.data(format!("* {number} EXPUNGE"));
        }
    }

    fn forget(&mut self, uids: &[u32]) {
        if let Some(selected) = &mut self.selected {
            selected.view.retain(|seen| !uids.contains(&seen.uid));
            selected.saved.retain(|uid| !uids.contains(uid));
        }
    }

    fn announce_new(&mut self) {
        let Some(selected) = &mut self.selected else { return };
        let mailbox = &self.mailboxes[selected.mailbox];
        let new = mailbox.messages.iter().filter(|message| message.uid >= selected.next);
        let new: Vec<Seen> = new.map(|message| Seen { uid: message.uid, told: message.flags }).collect();
        selected.next = mailbox.uidnext;
        if new.is_empty() {
            return;
        }
        let uids = new.iter().map(|seen| seen.uid).collect();
        selected.view.extend(new);
        let count = selected.view.len();
        self.facts.push(Fact::Announced { uids });
        self.data(format!("* {count} EXISTS"));
        if self.rng.bool() {
            self.data("* 1 RECENT");
        }
    }

    fn announce_flags(&mut self) {
        let Some(selected) = &self.selected else { return };
        let view: Vec<u32> = selected.view.iter().map(|seen| seen.uid).collect();
        for uid in view {
            let Some((flags, modseq)) = self.message(uid).map(|message| (message.flags, message.modseq))
            else {
                continue;
            };
            if self.is_told(uid, flags) {
                continue;
            }
            let (number, names) = (self.number(uid), flag_names(flags).join(" "));
            self.told(uid, flags);
            match self.qresync {
                true => self.data(format!("* {number} FETCH (UID {uid} FLAGS ({names}) MODSEQ ({modseq}))")),
                false => self.data(format!("* {number} FETCH (FLAGS ({names}))")),
            }
        }
    }

    /// Now and then another session does something here.
    fn chance(&mut self) {
        if self.rng.u8(..100) < self.mishaps.meddling {
            self.meddle();
        }
    }

    /// Now and then another session deletes the mailbox that was copied to, and makes it anew with other mail.
    fn chance_to_remake(&mut self) {
        let selected = self.selected.as_ref().map(|selected| selected.mailbox);
        let Some(mailbox) = self.last_target.filter(|target| selected != Some(*target)) else { return };
        if self.rng.u8(..100) >= self.mishaps.remade {
            return;
        }
        self.last_target = None;
        for uid in self.mailboxes[mailbox].messages.iter().map(|message| message.uid).collect::<Vec<_>>() {
            self.remove(mailbox, uid, By::Other);
        }
        self.facts.push(Fact::Trouble { by: Vec::new(), what: Trouble::Remade(mailbox) });
        let uidnext = std::mem::replace(&mut self.mailboxes[mailbox].uidnext, 1);
        self.mailboxes[mailbox].uidvalidity += 1;
        for _ in 1..uidnext {
            self.arrive(mailbox, 0, Some(By::Other), None);
        }
    }

    /// Another session flags, unflags, marks, expunges or appends something.
    pub fn meddle(&mut self) {
        let mailbox = self.rng.usize(..self.mailboxes.len());
        let messages = &self.mailboxes[mailbox].messages;
        let picked = (!messages.is_empty()).then(|| messages[self.rng.usize(..messages.len())].clone());
        match (self.rng.u8(..16), picked) {
            (0..4, _) | (_, None) => {
                let flags = if self.rng.u8(..4) == 0 { FLAGGED } else { 0 };
                self.arrive(mailbox, flags, Some(By::Other), None);
            }
            (4..10, Some(message)) => {
                let bit = [SEEN, FLAGGED, 4, 16][self.rng.usize(..4)];
                self.flag(mailbox, message.uid, message.flags ^ bit, By::Other);
            }
            (10, Some(message)) => self.flag(mailbox, message.uid, message.flags | DELETED, By::Other),
            (11, Some(_)) => self.bare_expunge(mailbox),
            (12, Some(_)) => self.undelete(mailbox),
            (_, Some(message)) => self.remove(mailbox, message.uid, By::Other),
        }
    }

    fn bare_expunge(&mut self, mailbox: usize) {
        let marked = self.mailboxes[mailbox].messages.iter().filter(|message| message.flags & DELETED != 0);
        for uid in marked.map(|message| message.uid).collect::<Vec<_>>() {
            self.remove(mailbox, uid, By::Other);
        }
    }

    /// Takes \Deleted off one message: the gateway finds that it did not leave.
    fn undelete(&mut self, mailbox: usize) {
        let marked = self.mailboxes[mailbox].messages.iter().find(|message| message.flags & DELETED != 0);
        if let Some((uid, flags)) = marked.map(|message| (message.uid, message.flags)) {
            if self.selected.as_ref().is_some_and(|selected| selected.mailbox == mailbox) {
                self.facts.push(Fact::Trouble { by: Vec::new(), what: Trouble::Ignored });
            }
            self.flag(mailbox, uid, flags & !DELETED, By::Other);
        }
    }

    /// The UIDs in this session's view that a client's set means now, whether they still exist or not.
    pub fn meant(&self, set: &str, by_number: bool) -> Vec<u32> {
        let Some(selected) = &self.selected else { return Vec::new() };
        if set == "$" {
            return selected.saved.clone();
        }
        let view = &selected.view;
        let last = if by_number { view.len() as u32 } else { view.last().map_or(0, |seen| seen.uid) };
        let named = ranges(&set.replace('*', &last.to_string())).unwrap_or_default();
        let within = |key: u32| named.iter().any(|&(from, to)| from.min(to) <= key && key <= from.max(to));
        let key = |at: usize, seen: &Seen| if by_number { at as u32 + 1 } else { seen.uid };
        let keyed = view.iter().enumerate().map(|(at, seen)| (key(at, seen), seen.uid));
        keyed.filter(|&(key, _)| within(key)).map(|(_, uid)| uid).collect()
    }

    /// Whether a message of the selected mailbox still exists.
    pub fn exists(&self, uid: u32) -> bool {
        self.message(uid).is_some()
    }
}
