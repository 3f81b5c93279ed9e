//! The promise of the gateway, checked against a captured conversation.
//!
//! [`check`] goes through a [`Capture`] once, from its first octet to its last, and compares what the client was told with what
//! really happened in the store. It knows the octets of both legs and the store's facts, nothing of the gateway's state.
#![allow(dead_code)] // each test binary uses its own part

use super::capture::{Asked, Capture, Event, Expect, Way};
use super::remark::{Remark, Says};
use super::store::{By, DELETED, Fact, Trouble, flags_of};
use super::strict::{Command, Commands, Input, Kind, Response, Responses, numbers, ranges};
use super::undo::{Of, Undo};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What a run was about, apart from its octets.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The longest line that the gateway may write of its own, CRLF included.
    pub max_line: usize,
    /// The server carries out MOVE itself.
    pub native: bool,
    /// The mailboxes.
    pub names: &'static [&'static [u8]],
}

type Verdict = Result<(), String>;

/// Whether the conversation keeps the promise; otherwise what breaks it.
pub fn check(capture: &Capture, terms: Terms) -> Verdict {
    let mut judge = Judge::new(terms);
    capture.0.iter().try_for_each(|event| judge.event(event))
}

#[derive(Debug)]
struct Sent {
    tag: Vec<u8>,
    verb: String,
    raw: Vec<u8>,
    forwarded: bool,
    answered: bool,
}

/// A message as the store has it.
#[derive(Clone, Copy, Debug)]
struct Held {
    content: u32,
    flags: u8,
    /// The gateway set its \Deleted.
    flagged_by_us: bool,
    /// Somebody else set \Deleted, now or before.
    deleted_by_others: bool,
}

/// The MOVE that runs.
#[derive(Debug, Default)]
struct Running {
    tag: Vec<u8>,
    own_commands: usize,
    unanswered_copies: Vec<Vec<u8>>,
    unanswered: Vec<Vec<u8>>,
    copied: Vec<(u32, u32, u32)>,
    /// The pairs that the server's COPYUIDs named.
    proven: Vec<(u32, u32)>,
    told: Option<Vec<(u32, u32)>>,
    stored: bool,
    /// A COPY was accepted without a COPYUID.
    unproven: bool,
    copies: usize,
    refusal: Option<Vec<u8>>,
    troubles: Vec<Trouble>,
    /// The UIDVALIDITYs that the server's COPYUIDs named.
    validities: HashSet<String>,
    undo: Undo,
}

impl Running {
    fn has(&self, wanted: impl Fn(&Trouble) -> bool) -> bool {
        self.troubles.iter().any(wanted)
    }

    fn count(&self, wanted: &Trouble) -> usize {
        self.troubles.iter().filter(|trouble| *trouble == wanted).count()
    }

    /// Something that was copied may not have left the source.
    fn may_stay(&self) -> bool {
        let stays = |t: &Trouble| {
            matches!(t, Trouble::Refused | Trouble::NoCopyuid | Trouble::Immovable(_) | Trouble::Unsearched)
        };
        self.count(&Trouble::Ignored) > 1 || self.has(stays)
    }

    fn may_refuse(&self) -> bool {
        let some = |t: &Trouble| matches!(t, Trouble::CopyRefused | Trouble::Unreadable(_));
        self.may_stay() || self.unproven || self.count(&Trouble::ExpungeIssued) > 1 || self.has(some)
    }
}

struct Judge {
    terms: Terms,
    from_client: Commands,
    to_server: Commands,
    to_client: Responses,
    from_server: Responses,
    client_idles: bool,
    server_idles: bool,
    sent: Vec<Sent>,
    asked: HashMap<Vec<u8>, Asked>,
    own_tags: HashSet<Vec<u8>>,
    store: HashMap<usize, BTreeMap<u32, Held>>,
    selected: Option<usize>,
    running: Running,
    /// What the client counts, replayed from what it received.
    view: Vec<u32>,
    announced: std::collections::VecDeque<u32>,
    /// The mailbox that the server has opened, its SELECT not yet answered: what it was told of.
    opening: Option<(usize, Vec<u32>)>,
    told_flags: HashMap<u32, u8>,
    known_flags: HashMap<u32, u8>,
    /// (mailbox, UID) of every message that a MOVE copied.
    touched: HashSet<(usize, u32)>,
    /// (mailbox, UID) of every message that somebody else removed: the server may tell of it later.
    removed_by_others: HashSet<(usize, u32)>,
    /// Contents whose copy or last instance somebody else removed.
    taken_by_others: HashSet<u32>,
    /// (mailbox, UID) that a NO or BYE named as left behind.
    named: HashSet<(usize, u32)>,
    /// Targets whose COPYUID was missing: they may be refused from then on.
    distrusted: HashSet<usize>,
    client_gone: bool,
    client_eof: bool,
    server_gone: bool,
    drained: bool,
    said_bye: bool,
    /// FAULT-1: the client's mailbox is not selected any more, or not all could be undone: BYE must follow the NO.
    must_say_bye: bool,
    logged_out: bool,
    has_move: bool,
}

impl Judge {
    fn new(terms: Terms) -> Judge {
        Judge {
            terms,
            from_client: Commands::default(),
            to_server: Commands::default(),
            to_client: Responses::default(),
            from_server: Responses::default(),
            client_idles: false,
            server_idles: false,
            sent: Vec::new(),
            asked: HashMap::new(),
            own_tags: HashSet::new(),
            store: HashMap::new(),
            selected: None,
            running: Running::default(),
            view: Vec::new(),
            announced: Default::default(),
            opening: None,
            told_flags: HashMap::new(),
            known_flags: HashMap::new(),
            touched: HashSet::new(),
            removed_by_others: HashSet::new(),
            taken_by_others: HashSet::new(),
            named: HashSet::new(),
            distrusted: HashSet::new(),
            client_gone: false,
            client_eof: false,
            server_gone: false,
            drained: false,
            said_bye: false,
            must_say_bye: false,
            logged_out: false,
            has_move: false,
        }
    }

    fn event(&mut self, event: &Event) -> Verdict {
        match event {
            Event::Wire(Way::FromClient, octets) => self.client_sent(octets),
            Event::Wire(Way::ToServer, octets) => self.server_got(octets),
            Event::Wire(Way::FromServer, octets) => self.server_sent(octets),
            Event::Wire(Way::ToClient, octets) => self.client_got(octets),
            Event::Fact(fact) => self.fact(fact),
            Event::Asked(asked) => {
                self.asked.insert(asked.tag.clone(), asked.clone());
                Ok(())
            }
            Event::ClientGone => {
                self.client_gone = true;
                Ok(())
            }
            Event::ServerGone => {
                self.server_gone = true;
                Ok(())
            }
            Event::ClientEof => {
                self.client_eof = true;
                Ok(())
            }
            Event::Drained => {
                self.drained = true;
                Ok(())
            }
            Event::Note(_) => Ok(()),
            Event::End { view } => self.end(view.as_deref()),
        }
    }

    // ---- what the client sent -------------------------------------------------------------------------------------

    fn client_sent(&mut self, octets: &[u8]) -> Verdict {
        self.from_client.push(octets);
        loop {
            if self.client_idles {
                let Some(line) = self.from_client.plain_line() else { return Ok(()) };
                self.client_idles = !line.eq_ignore_ascii_case(b"DONE");
                continue;
            }
            match self.from_client.next() {
                None => return Ok(()),
                Some(Ok(Input::Announced(_))) => self.announced(),
                Some(Ok(Input::Command(Command { tag, verb, raw, .. }))) => {
                    self.client_idles = verb == "IDLE";
                    if let Some(begun) =
                        self.sent.last_mut().filter(|last| last.tag == tag && last.raw.is_empty())
                    {
                        begun.raw = raw;
                        continue;
                    }
                    self.sent.push(Sent { tag, verb, raw, forwarded: false, answered: false });
                }
                // a malformed one is sent with a legal tag and verb: it gets its BAD
                Some(Err(malformed)) => {
                    let tag = malformed.line.split(|&b| b == b' ').next().unwrap_or_default().to_vec();
                    self.sent.push(Sent {
                        tag,
                        verb: "MALFORMED".into(),
                        raw: malformed.line,
                        forwarded: false,
                        answered: false,
                    });
                }
            }
        }
    }

    /// A command has begun whose synchronising literal may be refused.
    fn announced(&mut self) {
        let Some((tag, words)) = self.from_client.announcing() else { return };
        let verb =
            String::from_utf8_lossy(words.get(1).map_or(b"", |verb| verb.value())).to_ascii_uppercase();
        let tag = tag.to_vec();
        self.sent.push(Sent { tag, verb, raw: Vec::new(), forwarded: false, answered: false });
    }

    /// A tagged reply: if it answers a literal that was only announced, the command ends there.
    fn refused(reader: &mut Commands, tag: &[u8]) {
        if reader.awaits_literal() && reader.announcing().is_some_and(|(begun, _)| begun == tag) {
            reader.refused();
        }
    }

    /// The first command that has no tagged reply yet.
    fn current(&self) -> Option<usize> {
        self.sent.iter().position(|sent| !sent.answered)
    }

    fn running_move(&self) -> Option<&Asked> {
        let sent = &self.sent[self.current()?];
        self.asked.get(&sent.tag)
    }

    // ---- what the server received ---------------------------------------------------------------------------------

    fn server_got(&mut self, octets: &[u8]) -> Verdict {
        self.to_server.push(octets);
        loop {
            if self.server_idles {
                let Some(line) = self.to_server.plain_line() else { return Ok(()) };
                self.server_idles = !line.eq_ignore_ascii_case(b"DONE");
                continue;
            }
            match self.to_server.next() {
                None => return Ok(()),
                Some(Ok(Input::Announced(_))) => {}
                Some(Ok(Input::Command(command))) => {
                    self.server_idles = command.verb == "IDLE";
                    self.upstream_command(&command)?;
                }
                Some(Err(malformed)) => return Err(format!("malformed upstream: {malformed}")),
            }
        }
    }

    fn upstream_command(&mut self, command: &Command) -> Verdict {
        let shown = command.raw.escape_ascii().to_string();
        if matches!(command.verb.as_str(), "EXPUNGE" | "CLOSE")
            || (command.verb.ends_with("MOVE") && !self.terms.native)
        {
            return Err(format!("the server saw {shown}"));
        }
        match self.sent.iter().position(|sent| sent.tag == command.tag) {
            Some(at) => self.forwarded(at, command),
            None => self.own_command(command, &shown),
        }
    }

    fn forwarded(&mut self, at: usize, command: &Command) -> Verdict {
        if self.client_gone {
            return Err(format!(
                "FAULT-2: sent on though the client is gone: {}",
                command.raw.escape_ascii()
            ));
        }
        if self.running.undo.left || self.must_say_bye || self.said_bye {
            return Err(format!("FAULT-1: sent on after the end: {}", command.raw.escape_ascii()));
        }
        let sent = &self.sent[at];
        if sent.raw != command.raw || sent.forwarded {
            return Err(format!(
                "the client's {} went upstream as {}",
                sent.raw.escape_ascii(),
                command.raw.escape_ascii()
            ));
        }
        if let Some(skipped) = self.sent[..at].iter().find(|before| !before.forwarded && !before.answered) {
            return Err(format!("{} overtook {}", sent.raw.escape_ascii(), skipped.raw.escape_ascii()));
        }
        if self.own_tags.contains(&command.tag) {
            return Err(format!("the tag of {} was the gateway's before", command.raw.escape_ascii()));
        }
        if !self.running.unanswered.is_empty() && !self.terms.native {
            return Err(format!("{} went upstream while a MOVE ran", sent.raw.escape_ascii()));
        }
        self.sent[at].forwarded = true;
        Ok(())
    }

    fn own_command(&mut self, command: &Command, shown: &str) -> Verdict {
        if !self.own_tags.insert(command.tag.clone()) {
            return Err(format!("a tag of its own twice: {shown}"));
        }
        if command.longest_line > self.terms.max_line {
            return Err(format!(
                "a line of {} octets, over {}: {shown}",
                command.longest_line, self.terms.max_line
            ));
        }
        match command.verb.as_str() {
            "LOGOUT" => {
                self.logged_out = true;
                return Ok(());
            }
            "CAPABILITY" => return Ok(()),
            "FETCH" | "UID FETCH" | "UID SEARCH" | "UID COPY" | "UID STORE" | "UID EXPUNGE" | "MYRIGHTS" => {}
            "NOOP" | "SELECT" => {}
            _ => return Err(format!("a command that no MOVE needs: {shown}")),
        }
        let Some(tag) = self.running_move().map(|asked| asked.tag.clone()) else {
            return Err(format!("no MOVE runs, but the gateway sent {shown}"));
        };
        if let Some(pending) = self.sent.iter().find(|sent| sent.forwarded && !sent.answered) {
            return Err(format!("{shown} while {} is in progress", pending.raw.escape_ascii()));
        }
        let begins = self.running.tag != tag;
        if self.client_gone && (begins || (command.verb == "UID COPY" && self.running.stored)) {
            return Err(format!("FAULT-2: a MOVE begins though the client is gone: {shown}"));
        }
        if begins {
            self.running = Running { tag, ..Running::default() };
        }
        self.running.own_commands += 1;
        self.running.unanswered.push(command.tag.clone());
        self.undo_command(command)?;
        match command.verb.as_str() {
            "UID COPY" => {
                self.running.copies += 1;
                self.running.unanswered_copies.push(command.tag.clone());
                self.within(command, "asked for", |judge, uid| judge.is_allowed(uid))
            }
            "UID STORE" | "UID EXPUNGE" if !self.running.undo.begun => self.removal_command(command, shown),
            "SELECT" if !self.is_target(command) => Err(format!("FAULT-1: {shown} is not the target")),
            _ => Ok(()),
        }
    }

    fn undo_command(&mut self, command: &Command) -> Verdict {
        let Some(asked) = self.running_move().cloned() else { return Ok(()) };
        let removing = self.running.stored;
        let Judge { running, view, client_gone, .. } = self;
        let Running { proven, validities, undo, .. } = running;
        let one = validities.iter().next().filter(|_| validities.len() == 1);
        let seen_leaving = |uid: u32| !*client_gone && !view.contains(&uid);
        let of = Of {
            proven,
            validity: one.map(String::as_str),
            same_mailbox: asked.source == asked.target,
            seen_leaving: &seen_leaving,
        };
        undo.sent(command, &of, removing)
    }

    fn is_target(&self, command: &Command) -> bool {
        let name = command.args.first().map(|name| name.value());
        self.running_move().is_some_and(|asked| self.terms.names.get(asked.target).copied() == name)
    }

    fn is_allowed(&self, uid: u32) -> bool {
        let allowed = self.running_move().map(|asked| asked.allowed.clone()).unwrap_or_default();
        allowed.iter().any(|&(from, to)| from <= uid && uid <= to)
    }

    /// Every existing message that a command's set names must be one that it may name.
    fn within(&self, command: &Command, what: &str, may: impl Fn(&Judge, u32) -> bool) -> Verdict {
        let set = command
            .args
            .first()
            .map(|set| String::from_utf8_lossy(set.value()).into_owned())
            .unwrap_or_default();
        let named = ranges(&set).ok_or_else(|| format!("{}: not a fixed set", command.raw.escape_ascii()))?;
        if !named.windows(2).all(|two| two[0].1 < two[1].0)
            || named.iter().any(|&(from, to)| from > to || from == 0)
        {
            return Err(format!("{}: the set is not ascending and merged", command.raw.escape_ascii()));
        }
        let source = self.running_move().and_then(|asked| self.store.get(&asked.source));
        let uids = source.into_iter().flat_map(|messages| messages.keys());
        let within = |uid: u32| named.iter().any(|&(from, to)| from <= uid && uid <= to);
        match uids.copied().find(|&uid| within(uid) && !may(self, uid)) {
            Some(uid) => Err(format!("{}: {uid} was not {what}", command.raw.escape_ascii())),
            None => Ok(()),
        }
    }

    fn removal_command(&mut self, command: &Command, shown: &str) -> Verdict {
        if !self.running.unanswered_copies.is_empty() || self.running.copies == 0 {
            return Err(format!("{shown} before the COPY was answered"));
        }
        let is_store = command.verb == "UID STORE";
        if is_store && !command.raw.ends_with(b" +FLAGS.SILENT (\\Deleted)\r\n") {
            return Err(format!("{shown} is not the STORE of a MOVE"));
        }
        self.running.stored |= is_store;
        let set = command
            .args
            .first()
            .map(|set| String::from_utf8_lossy(set.value()).into_owned())
            .unwrap_or_default();
        let named = numbers(&set).ok_or_else(|| format!("{shown}: not a fixed set"))?;
        match named.iter().find(|uid| !self.running.proven.iter().any(|pair| pair.0 == **uid)) {
            Some(uid) => Err(format!("{shown}: no COPYUID proves that {uid} was copied")),
            None => Ok(()),
        }
    }

    // ---- what the server sent -------------------------------------------------------------------------------------

    fn server_sent(&mut self, octets: &[u8]) -> Verdict {
        self.from_server.push(octets);
        while let Some(response) = self.from_server.next() {
            let response = response.map_err(|malformed| format!("the model server: {malformed}"))?;
            self.running.undo.answered(&response);
            if let Some(pairs) = response.code("COPYUID").and_then(|code| copyuid(&code)) {
                let code = response.code("COPYUID").unwrap_or_default();
                self.running.validities.extend(code.split(' ').next().map(str::to_owned));
                let allowed = pairs.iter().all(|pair| self.is_allowed(pair.0));
                let fresh = pairs.into_iter().filter(|pair| !self.running.proven.contains(pair));
                if allowed {
                    let fresh: Vec<_> = fresh.collect();
                    self.running.proven.extend(fresh);
                }
            }
            if let Kind::Tagged(tag) = &response.kind {
                Judge::refused(&mut self.to_server, tag);
                let is_copy = self.running.unanswered_copies.contains(tag);
                match response.status().as_deref() {
                    Some("OK") if is_copy => self.distrust(),
                    _ if is_copy => self.running.refusal = Some(response.text.clone()),
                    _ => {}
                }
                self.running.unanswered_copies.retain(|other| other != tag);
                self.running.unanswered.retain(|other| other != tag);
            }
        }
        Ok(())
    }

    /// MOVE-6: a COPY was accepted and nothing proves what it copied. If messages remain, NO is right, and so it is from then on
    /// for that target.
    fn distrust(&mut self) {
        let Some(asked) = self.asked.get(&self.running.tag).filter(|_| self.running.proven.is_empty()) else {
            return;
        };
        self.running.unproven = true;
        self.distrusted.insert(asked.target);
    }

    // ---- what happened in the store -------------------------------------------------------------------------------

    fn is_own(&self, by: &By) -> bool {
        match by {
            By::Other => false,
            By::Tag(tag) => self.own_tags.contains(tag) || self.asked.contains_key(tag),
        }
    }

    fn fact(&mut self, fact: &Fact) -> Verdict {
        match fact {
            Fact::Violation(what) => Err(format!("the server saw {what}")),
            Fact::Arrived { mailbox, uid, content, flags, .. } => {
                self.put(*mailbox, *uid, *content, *flags);
                Ok(())
            }
            Fact::Copied { from, to, pairs, by } => self.copied(*from, *to, pairs, by),
            Fact::Flagged { mailbox, uid, flags, by } => self.flagged(*mailbox, *uid, *flags, by),
            Fact::Expunged { mailbox, uid, content, by } => self.expunged(*mailbox, *uid, *content, by),
            Fact::Selected { mailbox, uids } => {
                self.opening = Some((*mailbox, uids.clone()));
                self.told_flags.clear();
                self.announced.clear();
                Ok(())
            }
            Fact::Deselected => Ok(()),
            Fact::Announced { uids } => {
                self.announced.extend(uids);
                Ok(())
            }
            Fact::ToldFlags { uid, flags } => {
                self.told_flags.insert(*uid, *flags);
                Ok(())
            }
            Fact::Trouble { what, by } => {
                self.running.troubles.push(what.clone());
                self.running.undo.trouble(by, what);
                Ok(())
            }
        }
    }

    fn put(&mut self, mailbox: usize, uid: u32, content: u32, flags: u8) {
        let deleted_by_others = flags & DELETED != 0;
        let held = Held { content, flags, flagged_by_us: false, deleted_by_others };
        self.store.entry(mailbox).or_default().insert(uid, held);
    }

    fn copied(&mut self, from: usize, to: usize, pairs: &[(u32, u32, u32)], by: &[u8]) -> Verdict {
        if self.asked.contains_key(by) {
            self.running = Running { tag: by.to_vec(), ..Running::default() }; // native
        }
        for &(source, copy, content) in pairs {
            let flags = self.held(from, source).map_or(0, |held| held.flags);
            if !self.is_allowed(source) {
                return Err(format!("UID {source} was copied, but not asked for"));
            }
            if self.running.copied.iter().any(|pair| pair.0 == source) {
                return Err(format!("UID {source} was copied twice"));
            }
            self.put(to, copy, content, flags);
            self.touched.insert((from, source));
            self.running.copied.push((source, copy, content));
        }
        Ok(())
    }

    fn held(&self, mailbox: usize, uid: u32) -> Option<&Held> {
        self.store.get(&mailbox)?.get(&uid)
    }

    fn source(&self) -> Option<usize> {
        self.asked.get(&self.running.tag).map(|asked| asked.source)
    }

    /// What the gateway may flag or expunge: what it has copied, and in an undo the copies of what stays.
    fn is_bystander(&self, mailbox: usize, uid: u32, content: u32) -> bool {
        let Some(asked) = self.asked.get(&self.running.tag) else { return true };
        let undo = &self.running.undo;
        let own = |&(source, copy, of): &(u32, u32, u32)| {
            let message = mailbox == asked.source && source == uid;
            let spare = mailbox == asked.target && copy == uid && undo.lets_go(source);
            of == content && (message || spare)
        };
        !self.running.copied.iter().any(own)
    }

    fn flagged(&mut self, mailbox: usize, uid: u32, flags: u8, by: &By) -> Verdict {
        let own = self.is_own(by);
        let Some(held) = self.held(mailbox, uid).copied() else {
            return Err(format!("the model flagged UID {uid}, which does not exist"));
        };
        if own && self.is_bystander(mailbox, uid, held.content) {
            return Err(format!("the gateway flagged a bystander: UID {uid}"));
        }
        if own && (held.flags ^ flags) != DELETED {
            return Err(format!("the gateway changed other flags of UID {uid}"));
        }
        if !own && flags & DELETED == 0 && self.source() == Some(mailbox) {
            self.running.undo.disturbed();
        }
        let Some(held) = self.store.get_mut(&mailbox).and_then(|messages| messages.get_mut(&uid)) else {
            return Ok(());
        };
        held.flagged_by_us = if flags & DELETED == 0 { false } else { held.flagged_by_us || own };
        held.deleted_by_others |= !own && flags & DELETED != 0 && held.flags & DELETED == 0;
        held.flags = flags;
        Ok(())
    }

    fn expunged(&mut self, mailbox: usize, uid: u32, content: u32, by: &By) -> Verdict {
        let own = self.is_own(by);
        if own && self.is_bystander(mailbox, uid, content) {
            return Err(format!("the gateway expunged a bystander: UID {uid}"));
        }
        if own {
            self.is_spare(mailbox, uid)?;
        }
        self.store.entry(mailbox).or_default().remove(&uid);
        if !own {
            self.removed_by_others.insert((mailbox, uid));
        }
        let lives =
            self.store.values().flat_map(|messages| messages.values()).any(|held| held.content == content);
        let is_copy = self.running.copied.iter().any(|pair| pair.1 == uid && pair.2 == content);
        // That it is there was seen, or is being looked at: whoever removes it then removes the message.
        let stays = self.running.undo.begun && self.source() == Some(mailbox);
        if !own && (!lives || is_copy || stays) {
            self.taken_by_others.insert(content);
        }
        match lives || self.taken_by_others.contains(&content) {
            true => Ok(()),
            false => Err(format!("message {content} is lost: UID {uid} was its last")),
        }
    }

    /// FAULT-1: once an undo has begun only copies go, and only while their message is in the source as it was before.
    fn is_spare(&self, mailbox: usize, uid: u32) -> Verdict {
        let Some(asked) = self.asked.get(&self.running.tag).filter(|_| self.running.undo.begun) else {
            return Ok(());
        };
        let of = self.running.copied.iter().find(|pair| pair.1 == uid && mailbox == asked.target);
        let Some(&(source, ..)) = of else { return Err(format!("UID {uid} left the source in an undo")) };
        match self.held(asked.source, source) {
            None if self.removed_by_others.contains(&(asked.source, source)) => Ok(()),
            None => Err(format!("UID {uid} was the only copy of UID {source}")),
            Some(held) if held.flagged_by_us && !held.deleted_by_others => {
                Err(format!("UID {source} lost its copy and bears our \\Deleted"))
            }
            Some(_) => Ok(()),
        }
    }

    // ---- what the client received ---------------------------------------------------------------------------------

    fn client_got(&mut self, octets: &[u8]) -> Verdict {
        self.to_client.push(octets);
        while let Some(response) = self.to_client.next() {
            let response = response.map_err(|malformed| format!("to the client: {malformed}"))?;
            let shown = response.raw.escape_ascii().to_string();
            let told = match response.kind.clone() {
                Kind::Continuation => Ok(()),
                Kind::Tagged(tag) => self.tagged(&tag, &response),
                Kind::Untagged => self.untagged(&response),
            };
            told.map_err(|what| format!("{what} [{shown}]"))?;
        }
        Ok(())
    }

    fn untagged(&mut self, response: &Response) -> Verdict {
        if let Some(code) = response.code("COPYUID") {
            return self.copyuid_told(&code);
        }
        let words = response.words();
        if self.running.undo.left && response.status().is_none() {
            return Err("FAULT-1: what the target says came through".into());
        }
        match words[0].to_ascii_uppercase().as_str() {
            "BYE" => {
                self.said_bye = true;
                if String::from_utf8_lossy(&response.text).contains("undone") && !self.must_say_bye {
                    return Err("FAULT-1: BYE without need".into());
                }
                let numbers = numbers_in(&response.text);
                let source = self.source();
                self.named.extend(numbers.iter().flat_map(|&uid| source.map(|source| (source, uid))));
            }
            "CAPABILITY" => self.has_move = words.iter().any(|word| word == "MOVE"),
            "SEARCH" if self.translates() => return Err("the gateway's own SEARCH came through".into()),
            "VANISHED" if words[1] != "(EARLIER)" => return self.vanished(&words[1]),
            _ => {}
        }
        match response.numbered() {
            Some((count, kind)) if kind == "EXISTS" => self.exists(count),
            Some((number, kind)) if kind == "EXPUNGE" => self.expunge(number),
            Some((number, kind)) if kind == "FETCH" => self.fetched(number, response),
            _ => Ok(()),
        }
    }

    /// Whether the command that is first in progress is a MOVE for which the gateway sends commands of its own.
    fn translates(&self) -> bool {
        !self.terms.native && self.running_move().is_some_and(|asked| asked.tag == self.running.tag)
    }

    fn exists(&mut self, count: u32) -> Verdict {
        if let Some((mailbox, uids)) = self.opening.take_if(|(_, uids)| uids.len() == count as usize) {
            (self.selected, self.view) = (Some(mailbox), uids);
            self.known_flags.clear();
            return Ok(());
        }
        if (count as usize) < self.view.len() {
            return Err(format!("EXISTS {count}, but the client counts {}", self.view.len()));
        }
        while self.view.len() < count as usize {
            let uid = self.announced.pop_front().ok_or("EXISTS counts more than there are")?;
            self.view.push(uid);
        }
        Ok(())
    }

    /// RFC 9051 section 7.5.1: never while no command is in progress, nor while FETCH, STORE or SEARCH alone are.
    fn may_renumber(&self) -> Verdict {
        let by_number = |sent: &&Sent| !matches!(sent.verb.as_str(), "FETCH" | "STORE" | "SEARCH");
        match self.sent.iter().filter(|sent| !sent.answered).any(|sent| by_number(&sent)) {
            true => Ok(()),
            false => Err("a removal when the client must not see one".into()),
        }
    }

    fn expunge(&mut self, number: u32) -> Verdict {
        self.may_renumber()?;
        if number == 0 || number as usize > self.view.len() {
            return Err(format!("EXPUNGE {number}, but the client counts {}", self.view.len()));
        }
        let uid = self.view.remove(number as usize - 1);
        self.removal_told(uid)
    }

    fn vanished(&mut self, set: &str) -> Verdict {
        self.may_renumber()?;
        for uid in numbers(set).ok_or("VANISHED without a set")? {
            let at = self.view.iter().position(|&other| other == uid).ok_or("VANISHED names a stranger")?;
            self.view.remove(at);
            self.removal_told(uid)?;
        }
        Ok(())
    }

    /// COPYUID comes before the removals of the second flight.
    fn removal_told(&mut self, uid: u32) -> Verdict {
        let moved = self.running.copied.iter().any(|pair| pair.0 == uid);
        if moved && self.translates() && self.running.stored && self.running.told.is_none() {
            return Err(format!("UID {uid} left before COPYUID was told"));
        }
        Ok(())
    }

    fn fetched(&mut self, number: u32, response: &Response) -> Verdict {
        let text = String::from_utf8_lossy(&response.text).to_ascii_uppercase();
        let Some(&uid) = self.view.get((number as usize).wrapping_sub(1)) else {
            return Err(format!("FETCH of {number}, but the client counts {}", self.view.len()));
        };
        let after = |name: &str| text.split_once(name).map(|(_, rest)| rest.to_owned());
        let named = after("UID ").and_then(|rest| rest.split([' ', ')']).next()?.parse::<u32>().ok());
        if named.is_some_and(|named| named != uid) {
            return Err(format!("the client's message {number} is UID {uid}"));
        }
        let body = text.split_once("FETCH ").map(|(_, body)| body.to_owned()).unwrap_or_default();
        if self.translates() && body == format!("(UID {uid})").as_str() {
            return Err("an answer to the gateway's own FETCH came through".into());
        }
        let copied = self.running.copied.iter().any(|pair| pair.0 == uid);
        if self.translates() && copied && self.running.stored && !self.running.may_stay() {
            return Err("an answer to the gateway's own STORE came through".into());
        }
        if let Some(flags) =
            after("FLAGS (").and_then(|rest| rest.split_once(')').map(|(flags, _)| flags_of(flags)))
        {
            self.known_flags.insert(uid, flags);
            return self.flags_told(uid, flags);
        }
        Ok(())
    }

    /// The client sees \Deleted only where somebody else has set it, or where a MOVE had to leave a message with it.
    fn flags_told(&self, uid: u32, flags: u8) -> Verdict {
        let held = self.selected.and_then(|mailbox| self.held(mailbox, uid));
        let ours = held.is_some_and(|held| held.flagged_by_us && !held.deleted_by_others);
        let named = self.selected.is_some_and(|mailbox| self.named.contains(&(mailbox, uid)));
        match flags & DELETED != 0 && ours && !named && !self.running.may_stay() {
            true => Err(format!("the client sees our \\Deleted on UID {uid}")),
            false => Ok(()),
        }
    }

    fn copyuid_told(&mut self, code: &str) -> Verdict {
        let pairs = copyuid(code).ok_or("a malformed COPYUID")?;
        if self.running.told.is_some() {
            return Err("COPYUID twice".into());
        }
        let real = |pair: &(u32, u32)| self.running.copied.iter().any(|copied| (copied.0, copied.1) == *pair);
        if let Some(wrong) = pairs.iter().find(|pair| !real(pair)) {
            return Err(format!("COPYUID pairs {} with {}, which is not so", wrong.0, wrong.1));
        }
        let unique: HashSet<_> = pairs.iter().collect();
        if unique.len() != pairs.len() || pairs.is_empty() {
            return Err("COPYUID names a pair twice, or none".into());
        }
        if self.running.troubles.is_empty() && pairs.len() != self.running.copied.len() {
            return Err("COPYUID does not name everything that was copied".into());
        }
        self.running.told = Some(pairs);
        Ok(())
    }

    fn tagged(&mut self, tag: &[u8], response: &Response) -> Verdict {
        let Some(at) = self.sent.iter().position(|sent| sent.tag == tag && !sent.answered) else {
            return Err("a tagged reply that the client did not ask for".into());
        };
        let status = response.status().ok_or("a tagged reply without a status")?;
        if let Some(list) = response.code("CAPABILITY") {
            self.has_move = list.split(' ').any(|word| word == "MOVE");
        }
        let asked = self.asked.get(tag).cloned();
        match (asked, self.sent[at].verb.as_str()) {
            (Some(asked), _) => {
                if self.sent[..at].iter().any(|sent| !sent.answered) {
                    return Err("a MOVE was answered before an earlier command".into());
                }
                if self.running.tag != tag {
                    self.running = Running { tag: tag.to_vec(), ..Running::default() };
                }
                self.move_answered(&asked, &status, response)?;
                self.running = Running::default();
            }
            (None, "SELECT" | "EXAMINE") if status != "OK" => {
                self.selected = None;
                self.view.clear();
            }
            (None, "LOGIN") if status == "OK" && !self.has_move => {
                return Err("no capability list after LOGIN says MOVE".into());
            }
            _ => {}
        }
        Judge::refused(&mut self.from_client, tag);
        self.sent[at].answered = true;
        Ok(())
    }

    fn move_answered(&mut self, asked: &Asked, status: &str, response: &Response) -> Verdict {
        let distrusted = self.distrusted.contains(&asked.target) && self.running.copies == 0;
        match status {
            "OK" => self.move_succeeded(asked)?,
            "NO" => self.move_refused(asked, response, distrusted)?,
            "BAD" if asked.expect != Expect::Bad => return Err("BAD for a MOVE that is well-formed".into()),
            "BAD" if self.running.own_commands > 0 => return Err("BAD, but the server was asked".into()),
            "BAD" => {}
            _ => return Err("neither OK, NO nor BAD".into()),
        }
        self.nothing_flagged(asked)
    }

    fn is_in_source(&self, asked: &Asked, uid: u32) -> bool {
        self.held(asked.source, uid).is_some()
    }

    /// The client still counts a message that the gateway removed.
    fn is_untold(&self, asked: &Asked, uid: u32) -> bool {
        let by_others = self.removed_by_others.contains(&(asked.source, uid));
        self.view.contains(&uid) && !by_others && !self.server_gone
    }

    /// OK means moved: in the target once, gone from the source, and the client knows.
    fn move_succeeded(&mut self, asked: &Asked) -> Verdict {
        if asked.expect == Expect::Bad {
            return Err("OK for a malformed MOVE".into());
        }
        if let Some(uid) = asked.required.iter().find(|&&uid| self.is_in_source(asked, uid)) {
            return Err(format!("OK, but UID {uid} is still in the source"));
        }
        let copied = &self.running.copied;
        if let Some((uid, ..)) = copied.iter().find(|pair| self.is_in_source(asked, pair.0)) {
            return Err(format!("OK, but UID {uid} is in both"));
        }
        if let Some((uid, ..)) = copied.iter().find(|pair| self.is_untold(asked, pair.0)) {
            return Err(format!("OK, but the client was not told that UID {uid} left"));
        }
        match (copied.is_empty(), &self.running.told) {
            (true, Some(_)) => Err("COPYUID though nothing moved".into()),
            (false, None) if !self.running.unproven => Err("OK without COPYUID".into()),
            (false, Some(pairs)) if pairs.len() != copied.len() => {
                Err("COPYUID does not name all that moved".into())
            }
            _ => Ok(()),
        }
    }

    /// NO means: still in the source and not in the target, or the text says what is left where.
    fn move_refused(&mut self, asked: &Asked, response: &Response, distrusted: bool) -> Verdict {
        if asked.expect == Expect::Bad {
            return Err("NO for a malformed MOVE".into());
        }
        let remains = asked.required.iter().any(|&uid| self.is_in_source(asked, uid));
        if asked.expect == Expect::Ok
            && remains
            && !self.running.may_refuse()
            && !distrusted
            && !self.server_gone
        {
            return Err("NO without a reason".into());
        }
        if asked.expect == Expect::No && !self.running.copied.is_empty() {
            return Err("something was copied that could not be moved".into());
        }
        let (moved, stays): (Vec<_>, Vec<_>) = self
            .running
            .copied
            .iter()
            .partition::<Vec<(u32, u32, u32)>, _>(|pair| !self.is_in_source(asked, pair.0));
        let remark = Remark::read(&response.text)?;
        self.remark_is_true(asked, &remark.clone().unwrap_or_default())?;
        self.staying_is_named(asked, &stays, response, remark)?;
        if let Some(pair) = moved.iter().find(|pair| self.is_untold(asked, pair.0)) {
            return Err(format!("the client was not told that UID {} left", pair.0));
        }
        let ours = |pair: &(u32, u32, u32)| {
            let by_others = self.removed_by_others.contains(&(asked.source, pair.0));
            self.running.stored && self.running.proven.contains(&(pair.0, pair.1)) && !by_others
        };
        match (&self.running.told, moved.iter().any(ours)) {
            (None, true) if !self.server_gone => Err("some were moved, but COPYUID was not told".into()),
            (Some(_), _) if moved.is_empty() => Err("COPYUID though nothing moved".into()),
            _ => self.refusal_is_the_servers(response),
        }
    }

    fn copy_is_there(&self, asked: &Asked, pair: &(u32, u32, u32)) -> bool {
        self.held(asked.target, pair.1).is_some_and(|held| held.content == pair.2)
    }

    /// Where the text says of a message that it is somewhere, or is not, there it is, or is not, unless another session
    /// has removed it meanwhile.
    fn remark_is_true(&self, asked: &Asked, remark: &Remark) -> Verdict {
        let mut in_source = remark.of(Says::Untouched);
        for says in [Says::PerhapsCopied, Says::Both, Says::Undone, Says::Uncertain] {
            in_source.extend(remark.of(says));
        }
        let gone = |uid: &&u32| {
            !self.is_in_source(asked, **uid) && !self.removed_by_others.contains(&(asked.source, **uid))
        };
        if let Some(uid) = in_source.iter().find(gone) {
            return Err(format!("UID {uid} is not in the source any more"));
        }
        let no_copy = |pair: &&(u32, u32, u32)| {
            let said = remark.says(&[Says::Both, Says::PerhapsMoved], pair.0);
            said && !self.copy_is_there(asked, pair) && !self.taken_by_others.contains(&pair.2)
        };
        if let Some(pair) = self.running.copied.iter().find(no_copy) {
            return Err(format!("UID {} is not in the target any more", pair.0));
        }
        let copy =
            |pair: &&(u32, u32, u32)| remark.says(&[Says::Undone], pair.0) && self.copy_is_there(asked, pair);
        match self.running.copied.iter().find(copy) {
            Some(pair) => Err(format!("the copy of UID {} is not removed", pair.0)),
            None => Ok(()),
        }
    }

    /// FAULT-1: what was copied and stays has lost its copy again, or something was in the way of that; the text says so.
    fn staying_is_named(
        &mut self,
        asked: &Asked,
        stays: &[(u32, u32, u32)],
        response: &Response,
        remark: Option<Remark>,
    ) -> Verdict {
        let unproven = self.running.has(|trouble| *trouble == Trouble::NoCopyuid);
        if remark.is_none() && self.server_gone && String::from_utf8_lossy(&response.text).contains("target")
        {
            self.named.extend(stays.iter().map(|pair| (asked.source, pair.0)));
            return Ok(()); // FAULT-3: the answer to COPY never came
        }
        let remark = remark.unwrap_or_default();
        let both: Vec<_> = stays.iter().filter(|pair| self.copy_is_there(asked, pair)).collect();
        if let Some(pair) = both.iter().find(|pair| !self.may_double(asked, pair) && !self.server_gone) {
            return Err(format!("NO, but UID {} is in both", pair.0));
        }
        let in_both = [Says::Both, Says::PerhapsMoved, Says::PerhapsCopied, Says::Uncertain];
        if let Some(pair) = both.iter().find(|pair| !unproven && !remark.says(&in_both, pair.0)) {
            return Err(format!("NO, UID {} is in both, and the text does not say so", pair.0));
        }
        let somewhere = |uid| remark.says(&in_both, uid) || remark.says(&[Says::Undone], uid);
        if let Some(pair) = stays.iter().find(|pair| !unproven && !somewhere(pair.0)) {
            return Err(format!("NO, UID {} stays, and the text does not say so", pair.0));
        }
        let flagged = [Says::PerhapsMoved, Says::Flagged, Says::Uncertain].map(|says| remark.of(says));
        self.named.extend(flagged.into_iter().flatten().map(|uid| (asked.source, uid)));
        self.named.extend(remark.of(Says::CopiesFlagged).into_iter().map(|uid| (asked.target, uid)));
        let uncertain = stays.iter().filter(|pair| remark.says(&[Says::Uncertain], pair.0));
        self.named.extend(uncertain.map(|pair| (asked.target, pair.1)));
        let failed = response.text.starts_with(b"NO [CONTACTADMIN] ");
        self.must_say_bye |= self.running.undo.left || failed;
        let uncertain = !remark.of(Says::Uncertain).is_empty() && !self.server_gone;
        match failed == (uncertain || !remark.of(Says::Both).is_empty()) {
            true => Ok(()),
            false => Err("CONTACTADMIN is said where an undo has failed, and only there".into()),
        }
    }

    /// Something was in the way of removing this copy again.
    fn may_double(&self, asked: &Asked, pair: &(u32, u32, u32)) -> bool {
        let undo = &self.running.undo;
        let held = self.held(asked.source, pair.0);
        let is_flagged = held.is_some_and(|held| held.flags & DELETED != 0);
        let by_others = held.is_some_and(|held| held.deleted_by_others);
        let unproven = self.running.has(|trouble| *trouble == Trouble::NoCopyuid);
        unproven || undo.may_fail() || undo.may_skip(pair.0, is_flagged, by_others)
    }

    /// MOVE-14: one COPY, refused: the server's own words.
    fn refusal_is_the_servers(&self, response: &Response) -> Verdict {
        let Some(refusal) = &self.running.refusal else { return Ok(()) };
        match self.running.copies == 1 && !self.server_gone && response.text != *refusal {
            true => Err(format!("the server refused with {}", refusal.escape_ascii())),
            false => Ok(()),
        }
    }

    /// No message of a mailbox bears a \Deleted of ours, those apart that were named.
    fn nothing_flagged(&self, asked: &Asked) -> Verdict {
        [asked.source, asked.target].into_iter().try_for_each(|mailbox| {
            let messages = self.store.get(&mailbox).into_iter().flatten();
            let ours = messages.filter(|(_, held)| held.flagged_by_us && !held.deleted_by_others);
            let mut ours = ours.filter(|(uid, _)| !self.named.contains(&(mailbox, **uid)));
            ours.next().map_or(Ok(()), |(uid, _)| Err(format!("UID {uid} was left with our \\Deleted")))
        })
    }

    // ---- the end --------------------------------------------------------------------------------------------------

    fn end(&mut self, view: Option<&[u32]>) -> Verdict {
        let broken = self.client_gone || self.server_gone || self.said_bye;
        // WIRE-11: at its end of file only IDLE and an unfinished literal may stay unanswered
        let open = |sent: &Sent| sent.verb == "IDLE" || sent.raw.is_empty();
        if let Some(sent) =
            self.sent.iter().find(|sent| !(sent.answered || broken || self.client_eof && open(sent)))
        {
            return Err(format!("{} was never answered", sent.raw.escape_ascii()));
        }
        // in the middle of a response no BYE can be said
        if self.server_gone && !self.client_gone && !self.said_bye && self.to_client.at_boundary() {
            return Err("the server went away, and the client got no BYE".into());
        }
        if !self.from_server.at_boundary() && !broken && !self.client_eof {
            return Err("the model server: half a response".into());
        }
        if !self.to_client.at_boundary() && !self.client_gone && !self.server_gone {
            return Err("half a response to the client".into());
        }
        if self.must_say_bye && !self.said_bye && !self.client_gone {
            return Err("FAULT-1: no BYE behind the NO".into());
        }
        self.nothing_in_both(broken)?;
        match view {
            Some(view) if !broken && !self.client_eof => self.view_is_right(view),
            _ => Ok(()),
        }
    }

    /// FAULT-2: once COPY was sent the MOVE is finished or undone upstream, whether the client is there or not.
    fn nothing_in_both(&self, broken: bool) -> Verdict {
        let Some(asked) = self.asked.get(&self.running.tag).filter(|_| broken && !self.server_gone) else {
            return Ok(());
        };
        let both = |pair: &&(u32, u32, u32)| {
            let is_there = self.is_in_source(asked, pair.0) && self.copy_is_there(asked, pair);
            is_there && !self.may_double(asked, pair)
        };
        match self.running.copied.iter().find(both) {
            Some(pair) => Err(format!("UID {} was copied, and neither moved nor undone", pair.0)),
            None => Ok(()),
        }
    }

    fn view_is_right(&self, view: &[u32]) -> Verdict {
        if view != self.view {
            return Err(format!("the client counts {:?}, the server {view:?}", self.view));
        }
        let Some(mailbox) = self.selected else { return Ok(()) };
        let untouched = view.iter().filter(|&&uid| !self.touched.contains(&(mailbox, uid)));
        for uid in untouched {
            let (told, known) = (self.told_flags.get(uid), self.known_flags.get(uid));
            if told.is_some() && known != told {
                return Err(format!("UID {uid}: the server told flags {told:?}, the client knows {known:?}"));
            }
        }
        Ok(())
    }
}

/// The pairs of `uidvalidity sources targets`.
fn copyuid(code: &str) -> Option<Vec<(u32, u32)>> {
    let mut words = code.split(' ').skip(1);
    let (sources, copies) = (numbers(words.next()?)?, numbers(words.next()?)?);
    (sources.len() == copies.len()).then(|| sources.into_iter().zip(copies).collect())
}

/// Every number in a text, ranges filled.
fn numbers_in(text: &[u8]) -> HashSet<u32> {
    let text = String::from_utf8_lossy(text).into_owned();
    let words = text.split(|c: char| !(c.is_ascii_digit() || c == ':' || c == ','));
    words.filter_map(|word| numbers(word.trim_matches([',', ':']))).flatten().collect()
}
