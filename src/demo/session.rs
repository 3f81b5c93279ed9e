//! One session: commands in, responses out (RFC 3501 section 6). No socket here: [`server`](super::server) has it.

use super::args::{Args, Refusal, Result, Set};
use super::fetch::{self, flag_list};
use super::message::nstring;
use super::search::{self, Candidate};
use super::store::{Change, Flags, MAX_FLAGS, Mailbox, Store, View};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::Utc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The one user's name, and the password as well: this is a demo.
pub const LOGIN: &str = "demo";
/// What this server can do. It is an old one: no MOVE.
pub const CAPABILITIES: &str =
    "IMAP4rev1 LITERAL+ SASL-IR AUTH=PLAIN UIDPLUS IDLE UNSELECT NAMESPACE CHILDREN ID";
/// The largest answer to one FETCH, in octets.
const MAX_ANSWER: usize = 64 << 20;

/// The mail of all sessions.
pub type SharedStore = Arc<Mutex<Store>>;

/// The mail, for the moment. A panic in another session leaves it whole enough for a demo.
pub fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the server does after a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Reads the next command.
    Command,
    /// Says what changes until a line comes, then answers this tag.
    Idle(String),
    /// Reads one line of credentials, then answers this tag.
    Credentials(String),
    /// Closes the connection.
    Close,
}

/// How a command ended that was not refused.
enum Done {
    Ok(String),
    Idle,
    Credentials,
    Logout,
}

fn ok(text: &str) -> Result<Done> {
    Ok(Done::Ok(text.to_owned()))
}

/// The mailbox that is selected, and what the client knows about it.
struct Selected {
    name: String,
    uid_validity: u32,
    read_only: bool,
    view: View,
}

impl Selected {
    /// The mailbox, unless it was deleted, or renamed, meanwhile.
    fn mailbox<'a>(&self, store: &'a mut Store) -> Result<&'a mut Mailbox> {
        let found =
            store.mailbox_mut(&self.name).ok().filter(|mailbox| mailbox.uid_validity == self.uid_validity);
        found.ok_or(Refusal::No("[NONEXISTENT] The selected mailbox is gone"))
    }

    fn writable(&self) -> Result<()> {
        if self.read_only {
            Err(Refusal::No("[READ-ONLY] The mailbox was opened with EXAMINE"))
        } else {
            Ok(())
        }
    }

    /// The messages of a set, as message number and UID.
    fn pick(&self, set: &Set, by_uid: bool) -> Result<Vec<(u32, u32)>> {
        let last = if by_uid { self.view.last_uid() } else { self.view.count() };
        if !by_uid && set.highest() > last {
            return Err(Refusal::Bad("There is no message with such a number"));
        }
        let wanted = |&(number, uid): &(u32, u32)| set.contains(if by_uid { uid } else { number }, last);
        Ok(self.view.numbered().filter(wanted).collect())
    }
}

/// What one client has done so far.
pub struct Session {
    store: SharedStore,
    logged_in: bool,
    selected: Option<Selected>,
}

impl Session {
    /// A session before its login.
    pub fn new(store: SharedStore) -> Session {
        Session { store, logged_in: false, selected: None }
    }

    /// Whether LOGIN or AUTHENTICATE succeeded.
    pub fn is_logged_in(&self) -> bool {
        self.logged_in
    }

    /// Carries out one command, without its last CRLF, and writes all responses to it.
    pub fn execute(&mut self, command: &[u8], out: &mut Vec<u8>) -> Next {
        let mut args = Args(command);
        let verb = |args: &mut Args| args.space().and_then(|()| args.atom());
        let Ok(tag) = args.tag() else {
            out.extend(b"* BAD A tag was expected\r\n");
            return Next::Command;
        };
        let (by_uid, verb) = match verb(&mut args) {
            Ok(first) if first == "UID" => (true, verb(&mut args)),
            other => (false, other),
        };
        let result = verb.and_then(|verb| {
            let done = self.dispatch(&verb, by_uid, &mut args, out);
            // RFC 3501 section 7.4.1: a client still counts on its message numbers during these three.
            self.report(by_uid || !matches!(verb.as_str(), "FETCH" | "STORE" | "SEARCH"), out);
            done
        });
        self.finish(tag, result, out)
    }

    /// Carries out AUTHENTICATE with the line that came after `+`.
    pub fn authenticate(&mut self, tag: &str, line: &[u8], out: &mut Vec<u8>) -> Next {
        let result = self.credentials(line);
        self.finish(tag, result, out)
    }

    /// Ends IDLE with the line that came.
    pub fn idle_ended(&mut self, tag: &str, line: &[u8], out: &mut Vec<u8>) -> Next {
        self.report(true, out);
        let done = line.eq_ignore_ascii_case(b"DONE");
        self.finish(
            tag,
            if done { ok("IDLE completed") } else { Err(Refusal::Bad("DONE was expected")) },
            out,
        )
    }

    fn finish(&mut self, tag: &str, result: Result<Done>, out: &mut Vec<u8>) -> Next {
        let (status, text, next) = match result {
            Ok(Done::Ok(text)) => ("OK", text, Next::Command),
            Ok(Done::Logout) => ("OK", "LOGOUT completed".to_owned(), Next::Close),
            Ok(Done::Idle) => {
                out.extend(b"+ idling\r\n");
                return Next::Idle(tag.to_owned());
            }
            Ok(Done::Credentials) => {
                out.extend(b"+ \r\n");
                return Next::Credentials(tag.to_owned());
            }
            Err(Refusal::No(text)) => ("NO", text.to_owned(), Next::Command),
            Err(Refusal::Bad(text)) => ("BAD", text.to_owned(), Next::Command),
        };
        out.extend(format!("{tag} {status} {text}\r\n").bytes());
        next
    }

    /// Says what has changed in the selected mailbox since the client was last told.
    pub fn report(&mut self, may_expunge: bool, out: &mut Vec<u8>) {
        let Some(selected) = &mut self.selected else { return };
        let mut store = lock(&self.store);
        // Without its mailbox the view stays as it is; the next command about it is refused.
        let Ok(mailbox) = selected.mailbox(&mut store) else { return };
        for change in selected.view.changes(mailbox, may_expunge) {
            let line = match change {
                Change::Expunge(number) => format!("* {number} EXPUNGE\r\n"),
                Change::Exists(count) => format!("* {count} EXISTS\r\n"),
                Change::Flags(number, uid, flags) => {
                    format!("* {number} FETCH (UID {uid} FLAGS ({}))\r\n", flag_list(&flags))
                }
            };
            out.extend(line.bytes());
        }
    }

    fn dispatch(&mut self, verb: &str, by_uid: bool, args: &mut Args, out: &mut Vec<u8>) -> Result<Done> {
        if by_uid && !matches!(verb, "FETCH" | "STORE" | "SEARCH" | "COPY" | "EXPUNGE") {
            return Err(Refusal::Bad("No such UID command"));
        }
        match verb {
            "CAPABILITY" => {
                self.plain(args, out, &format!("* CAPABILITY {CAPABILITIES}\r\n"), "CAPABILITY completed")
            }
            "NOOP" | "CHECK" => self.plain(args, out, "", "NOOP completed"),
            "ID" => {
                self.plain(&Args(b""), out, "* ID (\"name\" \"imapmove demo server\")\r\n", "ID completed")
            }
            "LOGOUT" => {
                args.end()?;
                out.extend(b"* BYE See you\r\n");
                Ok(Done::Logout)
            }
            _ if !self.logged_in => self.before_login(verb, args),
            "LOGIN" | "AUTHENTICATE" => Err(Refusal::Bad("You are logged in")),
            "FETCH" | "STORE" | "SEARCH" | "COPY" | "EXPUNGE" | "CLOSE" | "UNSELECT" => {
                self.on_messages(verb, by_uid, args, out)
            }
            _ => self.on_mailboxes(verb, args, out),
        }
    }

    fn plain(&self, args: &Args, out: &mut Vec<u8>, line: &str, text: &str) -> Result<Done> {
        args.end()?;
        out.extend(line.bytes());
        ok(text)
    }

    fn before_login(&mut self, verb: &str, args: &mut Args) -> Result<Done> {
        match verb {
            "LOGIN" => {
                args.space()?;
                let user = args.text()?;
                args.space()?;
                let password = args.text()?;
                args.end()?;
                self.login(user == LOGIN && password == LOGIN)
            }
            "AUTHENTICATE" => {
                args.space()?;
                match args.atom()?.as_str() {
                    "PLAIN" if args.0.is_empty() => Ok(Done::Credentials),
                    "PLAIN" => args.space().and_then(|()| self.credentials(args.0)),
                    _ => Err(Refusal::No("[CANNOT] Only PLAIN is known here")),
                }
            }
            _ => Err(Refusal::Bad("No such command before the login")),
        }
    }

    /// PLAIN: authorisation identity (none, or the user's own), user, password (RFC 4616).
    fn credentials(&mut self, line: &[u8]) -> Result<Done> {
        if line == b"*" {
            return Err(Refusal::Bad("AUTHENTICATE cancelled"));
        }
        let plain = BASE64_STANDARD.decode(line).map_err(|_| Refusal::Bad("That is not base64"))?;
        let parts: Vec<&[u8]> = plain.split(|&octet| octet == 0).collect();
        let demo = LOGIN.as_bytes();
        self.login(matches!(parts[..], [identity, user, password]
            if (identity.is_empty() || identity == demo) && user == demo && password == demo))
    }

    fn login(&mut self, right: bool) -> Result<Done> {
        if !right {
            return Err(Refusal::No("[AUTHENTICATIONFAILED] The login is demo, password demo"));
        }
        self.logged_in = true;
        ok(&format!("[CAPABILITY {CAPABILITIES}] Logged in"))
    }

    fn on_mailboxes(&mut self, verb: &str, args: &mut Args, out: &mut Vec<u8>) -> Result<Done> {
        match verb {
            "IDLE" => {
                args.end()?;
                Ok(Done::Idle)
            }
            "NAMESPACE" => {
                self.plain(args, out, "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n", "NAMESPACE completed")
            }
            "LIST" | "LSUB" => self.list(verb, args, out),
            "SELECT" | "EXAMINE" => self.select(verb == "EXAMINE", args, out),
            "STATUS" => self.status(args, out),
            "APPEND" => self.append(args),
            "CREATE" | "DELETE" | "SUBSCRIBE" | "UNSUBSCRIBE" | "RENAME" => self.change_mailbox(verb, args),
            _ => Err(Refusal::Bad("No such command")),
        }
    }

    fn change_mailbox(&mut self, verb: &str, args: &mut Args) -> Result<Done> {
        args.space()?;
        let name = args.mailbox()?;
        let new_name =
            if verb == "RENAME" { args.space().and_then(|()| args.mailbox())? } else { String::new() };
        args.end()?;
        let mut store = lock(&self.store);
        match verb {
            "CREATE" => store.create(&name)?,
            "DELETE" => store.delete(&name)?,
            "RENAME" => store.rename(&name, &new_name)?,
            _ => store.mailbox_mut(&name)?.subscribed = verb == "SUBSCRIBE",
        }
        ok(&format!("{verb} completed"))
    }

    fn list(&mut self, verb: &str, args: &mut Args, out: &mut Vec<u8>) -> Result<Done> {
        args.space()?;
        let reference = args.mailbox()?;
        args.space()?;
        let pattern = args.pattern()?;
        args.end()?;
        if pattern.is_empty() {
            return self.plain(args, out, &format!("* {verb} (\\Noselect) \"/\" \"\"\r\n"), "LIST completed");
        }
        let pattern = if pattern.eq_ignore_ascii_case("INBOX") { "INBOX".to_owned() } else { pattern };
        for (name, mailbox, children) in lock(&self.store).list(&(reference + &pattern)) {
            if verb == "LIST" || mailbox.subscribed {
                let children = if children { "\\HasChildren" } else { "\\HasNoChildren" };
                out.extend(format!("* {verb} ({children}) \"/\" ").bytes());
                nstring(out, Some(name));
                out.extend(b"\r\n");
            }
        }
        ok(&format!("{verb} completed"))
    }

    fn select(&mut self, read_only: bool, args: &mut Args, out: &mut Vec<u8>) -> Result<Done> {
        // RFC 3501 section 6.3.1: also when it fails, nothing is selected any more.
        self.selected = None;
        args.space()?;
        let name = args.mailbox()?;
        args.end()?;
        let store = lock(&self.store);
        let mailbox = store.mailbox(&name)?;
        let mut view = View::default();
        view.changes(mailbox, false);
        write_selected(out, mailbox, read_only);
        self.selected = Some(Selected { name, uid_validity: mailbox.uid_validity, read_only, view });
        ok(if read_only { "[READ-ONLY] EXAMINE completed" } else { "[READ-WRITE] SELECT completed" })
    }

    fn status(&mut self, args: &mut Args, out: &mut Vec<u8>) -> Result<Done> {
        args.space()?;
        let name = args.mailbox()?;
        args.space()?;
        let items = args.list(Args::atom)?;
        args.end()?;
        let store = lock(&self.store);
        let mailbox = store.mailbox(&name)?;
        let value = |item: &String| match item.as_str() {
            "MESSAGES" => Ok(mailbox.messages.len()),
            "RECENT" => Ok(0),
            "UIDNEXT" => Ok(mailbox.uid_next as usize),
            "UIDVALIDITY" => Ok(mailbox.uid_validity as usize),
            "UNSEEN" => Ok(mailbox.messages.iter().filter(|message| !message.has("\\Seen")).count()),
            _ => Err(Refusal::Bad("No such STATUS item")),
        };
        let values =
            items.iter().map(|item| Ok(format!("{item} {}", value(item)?))).collect::<Result<Vec<_>>>()?;
        out.extend(b"* STATUS ");
        nstring(out, Some(&name));
        out.extend(format!(" ({})\r\n", values.join(" ")).bytes());
        ok("STATUS completed")
    }

    fn append(&mut self, args: &mut Args) -> Result<Done> {
        args.space()?;
        let name = args.mailbox()?;
        args.space()?;
        let flags = if args.peek() == Some(b'(') { args.flags()? } else { Vec::new() };
        args.skip(" ");
        let now = Utc::now().fixed_offset();
        let date = if args.peek() == Some(b'"') { args.date_time()? } else { now };
        args.skip(" ");
        let octets = args.string()?;
        args.end()?;
        if octets.is_empty() || octets.contains(&0) {
            return Err(Refusal::No("A message is not empty and holds no NUL"));
        }
        let (validity, uid) = lock(&self.store).append(&name, Flags::from_iter(flags), date, &octets)?;
        ok(&format!("[APPENDUID {validity} {uid}] APPEND completed"))
    }

    fn on_messages(&mut self, verb: &str, by_uid: bool, args: &mut Args, out: &mut Vec<u8>) -> Result<Done> {
        let Some(selected) = &mut self.selected else { return Err(Refusal::Bad("Select a mailbox first")) };
        let mut store = lock(&self.store);
        match verb {
            "FETCH" => selected.fetch(by_uid, args, &mut store, out),
            "STORE" => selected.store(by_uid, args, &mut store, out),
            "SEARCH" => selected.search(by_uid, args, &mut store, out),
            "COPY" => selected.copy(by_uid, args, &mut store),
            "EXPUNGE" => selected.expunge(by_uid, args, &mut store),
            _ => {
                args.end()?;
                if verb == "CLOSE" && !selected.read_only {
                    selected.mailbox(&mut store)?.expunge(|_| true);
                }
                self.selected = None;
                ok(&format!("{verb} completed"))
            }
        }
    }
}

fn write_selected(out: &mut Vec<u8>, mailbox: &Mailbox, read_only: bool) {
    const SYSTEM: &str = "\\Answered \\Flagged \\Deleted \\Seen \\Draft";
    let keywords =
        mailbox.messages.iter().flat_map(|message| &message.flags).filter(|flag| !flag.starts_with('\\'));
    let keywords: Flags = keywords.cloned().collect();
    let known = [SYSTEM.to_owned(), flag_list(&keywords)].join(" ");
    let unseen = mailbox.messages.iter().position(|message| !message.has("\\Seen"));
    out.extend(format!("* FLAGS ({})\r\n", known.trim_end()).bytes());
    out.extend(format!("* {} EXISTS\r\n* 0 RECENT\r\n", mailbox.messages.len()).bytes());
    if let Some(at) = unseen {
        out.extend(format!("* OK [UNSEEN {}] First unseen\r\n", at + 1).bytes());
    }
    let permanent = if read_only { String::new() } else { format!("{SYSTEM} \\*") };
    out.extend(format!("* OK [PERMANENTFLAGS ({permanent})] What can be changed\r\n").bytes());
    out.extend(format!("* OK [UIDVALIDITY {}] UIDs are valid\r\n", mailbox.uid_validity).bytes());
    out.extend(format!("* OK [UIDNEXT {}] Next UID\r\n", mailbox.uid_next).bytes());
}

impl Selected {
    fn fetch(&mut self, by_uid: bool, args: &mut Args, store: &mut Store, out: &mut Vec<u8>) -> Result<Done> {
        args.space()?;
        let picked = self.pick(&args.set()?, by_uid)?;
        args.space()?;
        let mut items = fetch::items(args)?;
        args.end()?;
        if by_uid && !items.iter().any(|item| matches!(item, fetch::Item::Uid)) {
            items.insert(0, fetch::Item::Uid);
        }
        let sets_seen = fetch::sets_seen(&items) && !self.read_only;
        let mailbox = self.mailbox(store)?;
        for (number, uid) in picked {
            // Gone, and the client may not be told now.
            let Some(message) = mailbox.message_mut(uid) else { continue };
            if out.len() + fetch::weight(message, &items) > MAX_ANSWER {
                return Err(Refusal::No("[LIMIT] That is too much for one FETCH here"));
            }
            fetch::answer(out, number, message, &items);
            // The change of flags is reported after all answers, before the tagged one.
            if sets_seen && !message.has("\\Seen") {
                message.flags.insert("\\Seen".to_owned());
            }
        }
        ok("FETCH completed")
    }

    fn store(&mut self, by_uid: bool, args: &mut Args, store: &mut Store, out: &mut Vec<u8>) -> Result<Done> {
        self.writable()?;
        args.space()?;
        let picked = self.pick(&args.set()?, by_uid)?;
        args.space()?;
        let sign = args.peek().filter(|sign| args.skip(if *sign == b'+' { "+" } else { "-" }));
        let silent = match args.atom()?.as_str() {
            "FLAGS" => false,
            "FLAGS.SILENT" => true,
            _ => return Err(Refusal::Bad("FLAGS or FLAGS.SILENT was expected")),
        };
        args.space()?;
        let flags = Flags::from_iter(flags(args)?);
        args.end()?;
        let mailbox = self.mailbox(store)?;
        for (number, uid) in picked {
            let Some(message) = mailbox.message_mut(uid) else { continue };
            let changed = changed(sign, &message.flags, &flags)?;
            message.flags.clone_from(&changed);
            self.view.told(number, &changed);
            if !silent {
                let uid = if by_uid { format!("UID {uid} ") } else { String::new() };
                out.extend(format!("* {number} FETCH ({uid}FLAGS ({}))\r\n", flag_list(&changed)).bytes());
            }
        }
        ok("STORE completed")
    }

    fn search(
        &mut self,
        by_uid: bool,
        args: &mut Args,
        store: &mut Store,
        out: &mut Vec<u8>,
    ) -> Result<Done> {
        args.space()?;
        let key = search::keys(args)?;
        args.end()?;
        let last = (self.view.count(), self.view.last_uid());
        let mailbox = self.mailbox(store)?;
        out.extend(b"* SEARCH");
        for (number, uid) in self.view.numbered() {
            let found = mailbox.message(uid).filter(|message| key(&Candidate { number, message, last }));
            if found.is_some() {
                out.extend(format!(" {}", if by_uid { uid } else { number }).bytes());
            }
        }
        out.extend(b"\r\n");
        ok("SEARCH completed")
    }

    fn copy(&mut self, by_uid: bool, args: &mut Args, store: &mut Store) -> Result<Done> {
        args.space()?;
        let picked = self.pick(&args.set()?, by_uid)?;
        args.space()?;
        let target = args.mailbox()?;
        args.end()?;
        let mailbox = self.mailbox(store)?;
        let there = picked.into_iter().map(|(_, uid)| uid).filter(|&uid| mailbox.message(uid).is_some());
        let uids: Vec<u32> = there.collect();
        let (validity, copies) = store.copy(&self.name, &uids, &target)?;
        if uids.is_empty() {
            return ok("COPY found no messages");
        }
        ok(&format!("[COPYUID {validity} {} {}] COPY completed", uid_set(&uids), uid_set(&copies)))
    }

    fn expunge(&mut self, by_uid: bool, args: &mut Args, store: &mut Store) -> Result<Done> {
        self.writable()?;
        let set = if by_uid { args.space().and_then(|()| args.set()).map(Some)? } else { None };
        args.end()?;
        let last = self.view.last_uid();
        // What came in since the client was last told is not meant, even by `*`.
        let meant = |uid| uid <= last && set.as_ref().is_none_or(|set| set.contains(uid, last));
        self.mailbox(store)?.expunge(meant);
        ok("EXPUNGE completed")
    }
}

/// `flag-list / (flag *(SP flag))`
fn flags(args: &mut Args) -> Result<Vec<String>> {
    if args.peek() == Some(b'(') {
        return args.flags();
    }
    let mut flags = vec![args.flag()?];
    while args.skip(" ") {
        flags.push(args.flag()?);
    }
    Ok(flags)
}

fn changed(sign: Option<u8>, before: &Flags, flags: &Flags) -> Result<Flags> {
    let after: Flags = match sign {
        Some(b'+') => before | flags,
        Some(_) => before - flags,
        None => flags.clone(),
    };
    if after.len() > MAX_FLAGS { Err(Refusal::No("[LIMIT] Too many flags")) } else { Ok(after) }
}

/// `uid-set` of ascending UIDs (RFC 4315 section 4).
fn uid_set(uids: &[u32]) -> String {
    let ranges = uids.chunk_by(|a, b| a + 1 == *b);
    let texts = ranges.map(|range| match range {
        [one] => one.to_string(),
        _ => format!("{}:{}", range[0], range[range.len() - 1]),
    });
    texts.collect::<Vec<_>>().join(",")
}
