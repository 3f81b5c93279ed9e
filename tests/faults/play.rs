//! What is checked in every run, whoever plays it.

use crate::remark::{Remark, Says};
use crate::scripted::{self, SOURCE, Scripted, TARGET};
use crate::store::{By, DELETED, Fact, Message};
use crate::{Boundary, Case, End, Fault, Vanishes};
use std::collections::{HashMap, HashSet};

/// What stands on the server of one message that is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// It is in the source alone.
    Source,
    /// It is in both mailboxes.
    Both,
    /// The same, flagged as deleted in the source.
    BothFlagged,
    /// It is in the target alone.
    Target,
}

/// The tag of the MOVE.
pub const MOVE: &str = "m";

/// The reply with this tag, without it, in what a client has got.
pub fn reply<'a>(heard: &'a str, tag: &str) -> Option<&'a str> {
    heard.lines().find_map(|line| line.strip_prefix(tag)?.strip_prefix(' '))
}

impl Boundary {
    /// What stands there.
    fn stands(self, removed: bool) -> Stands {
        match self {
            Boundary::Resolving | Boundary::BeforeCopy => Stands::Source,
            Boundary::CopySent | Boundary::CopyOk => Stands::Both,
            Boundary::SomeSeen if removed => Stands::Target,
            Boundary::StoreSent | Boundary::StoreOk | Boundary::SomeSeen => Stands::BothFlagged,
            Boundary::ExpungeSent | Boundary::ExpungeOk => Stands::Target,
        }
    }
}

impl End {
    /// What must stand when the fault is over. `removed`: it is of the half that has left.
    fn at_once(self, at: Boundary, removed: bool) -> Stands {
        match self {
            End::Finished => at.stands(removed),
            _ => self.afterwards(removed),
        }
    }

    /// What must stand when the user has selected the source again.
    fn afterwards(self, removed: bool) -> Stands {
        match self {
            End::Target | End::Unseen | End::Finished => Stands::Target,
            End::Both => Stands::Both,
            End::HalfUndone if removed => Stands::Target,
            End::Source | End::Undone | End::HalfUndone => Stands::Source,
            End::Never(why) => panic!("there is no such case: {why}"),
        }
    }

    /// Whether the reply to the MOVE is OK. `all`: the client has seen all of them leave.
    fn is_ok(self, all: bool) -> bool {
        self == End::Target || (all && matches!(self, End::Finished | End::HalfUndone))
    }
}

/// Knows what was to be moved.
pub struct Play {
    case: Case,
    moved: Vec<Message>,
}

impl Play {
    /// Before anything has happened.
    pub fn begin(case: Case, scripted: &Scripted) -> Play {
        let messages = &scripted.store.mailboxes[SOURCE].messages;
        let is_moved = |message: &&Message| scripted.moved.contains(&message.uid);
        Play { case, moved: messages.iter().filter(is_moved).cloned().collect() }
    }

    /// The MOVE has come so far; where the server refuses, it has gone on.
    pub fn reached(&self, scripted: &Scripted) {
        let Case { at, fault, vanishes, .. } = self.case;
        assert_eq!(scripted.refusals > 0, fault.refuses(), "the server refuses");
        if !fault.refuses() {
            self.stand(scripted, "at the boundary", |removed| at.stands(removed));
        }
        let vanishes = at > Boundary::BeforeCopy && vanishes != Vanishes::Never;
        assert!(scripted.has_vanished || !vanishes, "one has vanished");
    }

    /// The fault is over, as far as anybody has noticed. `heard`: what the client has got from the MOVE on, up to the end of
    /// its session, or to the reply to a NOOP.
    pub fn at_once(&self, scripted: &Scripted, heard: &str) {
        let Case { at, fault, end, .. } = self.case;
        self.stand(scripted, "at once", |removed| end.at_once(at, removed));
        self.is_true(scripted, reply(heard, MOVE));
        let ends_with_bye = heard.lines().last().is_some_and(|line| line.starts_with("* BYE "));
        match fault {
            Fault::ClientGone | Fault::Sigkill => {}
            _ if self.case.ends_the_session() => assert!(ends_with_bye, "no BYE at the end: {heard}"),
            _ => assert!(reply(heard, "n").is_some_and(|reply| reply.starts_with("OK ")), "{heard}"),
        }
    }

    /// The user has logged in again and selected the source.
    pub fn afterwards(&self, scripted: &Scripted) {
        self.stand(scripted, "after the next SELECT", |removed| self.case.end.afterwards(removed));
        self.others_are_there(scripted);
        self.nothing_happened_to_others(scripted);
        self.nothing_was_ever_lost(scripted);
    }

    fn stand(&self, scripted: &Scripted, when: &str, required: impl Fn(bool) -> Stands) {
        for message in &self.moved {
            let uid = message.uid;
            let vanished = self.is_vanished(scripted, uid);
            let stands = self.stands(scripted, message);
            let required = match self.case.vanishes {
                Vanishes::BeforeCopy if vanished => None,
                Vanishes::AfterCopy if vanished => Some(Stands::Target),
                _ => Some(required(scripted.removed.contains(&uid))),
            };
            assert_eq!(stands, required, "{when}: UID {uid}, vanished: {vanished}");
        }
    }

    fn is_vanished(&self, scripted: &Scripted, uid: u32) -> bool {
        scripted.has_vanished && uid == scripted.vanishing()
    }

    /// Where a message is, with the flags that it had; `None`: nowhere.
    fn stands(&self, scripted: &Scripted, message: &Message) -> Option<Stands> {
        let of = |mailbox: usize| {
            let messages = &scripted.store.mailboxes[mailbox].messages;
            let mut all = messages.iter().filter(|other| other.content == message.content);
            let one = all.next();
            assert!(all.next().is_none(), "a message is twice in one mailbox");
            one.map(|message| message.flags)
        };
        let (as_before, deleted) = (message.flags, message.flags | DELETED);
        match (of(SOURCE), of(TARGET)) {
            (None, None) => None,
            (Some(flags), None) if flags == as_before => Some(Stands::Source),
            (Some(flags), Some(copy)) if (flags, copy) == (as_before, as_before) => Some(Stands::Both),
            (Some(flags), Some(copy)) if (flags, copy) == (deleted, as_before) => Some(Stands::BothFlagged),
            (None, Some(copy)) if copy == as_before => Some(Stands::Target),
            (flags, copy) => {
                panic!("had the flags {as_before}, has {flags:?} in the source, {copy:?} in the target")
            }
        }
    }

    /// What the client was told is so, and it was told what the table says.
    fn is_true(&self, scripted: &Scripted, told: Option<&str>) {
        let Case { at, fault, end, .. } = self.case;
        let listens = !matches!(fault, Fault::ClientGone | Fault::Sigkill) || at == Boundary::ExpungeOk;
        let Some(told) = told else {
            assert!(!listens, "the client got no reply");
            return;
        };
        assert!(listens, "the client got a reply: {told}");
        let all = self.moved.iter().all(|message| scripted.removed.contains(&message.uid));
        let is_ok = told.starts_with("OK ");
        assert_eq!(is_ok, end.is_ok(all), "{told}");
        match is_ok {
            true => self.all_are_moved(scripted),
            false => self.text_is_true(scripted, told),
        }
    }

    fn all_are_moved(&self, scripted: &Scripted) {
        for message in &self.moved {
            let stands = self.stands(scripted, message);
            assert!(matches!(stands, None | Some(Stands::Target)), "OK, but {message:?}: {stands:?}");
        }
    }

    /// Of each message the text says where it is. What another session has just removed may not have been noticed.
    fn text_is_true(&self, scripted: &Scripted, told: &str) {
        let refused_with_bad = self.case.fault == Fault::Bad && self.case.end == End::Source;
        assert!(told.starts_with("NO ") || (refused_with_bad && told.starts_with("BAD ")), "{told}");
        let Some(remark) = Remark::read(told.as_bytes()).expect("a remark that can be read") else {
            return assert!(told.ends_with(self.text_for_all()), "{told}");
        };
        let mut moved = 0;
        for message in &self.moved {
            let Some(stands) = self.stands(scripted, message) else { continue };
            let uid = message.uid;
            let [perhaps, undone] = [Says::PerhapsMoved, Says::Undone].map(|says| remark.says(&[says], uid));
            let is_so = match stands {
                Stands::Source => undone && !perhaps,
                Stands::Both | Stands::BothFlagged => perhaps && !undone,
                // Another session's removal may have been noticed or not.
                Stands::Target if self.is_vanished(scripted, uid) => !undone,
                Stands::Target => perhaps != scripted.removed.contains(&uid) && !undone,
            };
            assert!(is_so, "UID {uid}: {stands:?}, but the client was told {told}");
            moved += usize::from(!perhaps && !undone);
        }
        assert_eq!(remark.moved, moved, "{told}");
    }

    /// Where one thing is true of all.
    fn text_for_all(&self) -> &'static str {
        match (self.case.end, self.case.at) {
            (End::Source, Boundary::Resolving) => "nothing was moved",
            (End::Source, _) if self.case.fault.refuses() => scripted::REFUSED,
            (End::Source | End::Both, _) => "all are still in the source, copies may be in the target",
            (end, _) => panic!("{end:?}, but the client was not told where which message is"),
        }
    }

    /// All are as they came, those that arrived meanwhile too.
    fn others_are_there(&self, scripted: &Scripted) {
        for fact in &scripted.store.facts {
            let Fact::Arrived { mailbox, uid, content, flags, .. } = fact else { continue };
            let is_it = |m: &Message| (m.uid, m.content, m.flags) == (*uid, *content, *flags);
            let is_moved = self.moved.iter().any(|message| message.content == *content);
            let is_there = scripted.store.mailboxes[*mailbox].messages.iter().any(is_it);
            assert!(is_moved || is_there, "a bystander is not as it was: {fact:?}");
        }
    }

    /// None was ever flagged or expunged by the gateway.
    fn nothing_happened_to_others(&self, scripted: &Scripted) {
        let mut ours: HashSet<(usize, u32)> =
            self.moved.iter().map(|message| (SOURCE, message.uid)).collect();
        for fact in &scripted.store.facts {
            match fact {
                Fact::Copied { from, to, pairs, .. } => {
                    assert_eq!((*from, *to), (SOURCE, TARGET));
                    assert!(pairs.iter().all(|pair| ours.contains(&(SOURCE, pair.0))), "copied: {pairs:?}");
                    ours.extend(pairs.iter().map(|pair| (TARGET, pair.1)));
                }
                Fact::Flagged { mailbox, uid, by: By::Tag(_), .. }
                | Fact::Expunged { mailbox, uid, by: By::Tag(_), .. } => {
                    assert!(ours.contains(&(*mailbox, *uid)), "a bystander: {fact:?}");
                }
                Fact::Violation(what) => panic!("the server saw {what}"),
                _ => {}
            }
        }
    }

    /// At no time was a message nowhere, those apart that another session expunged.
    fn nothing_was_ever_lost(&self, scripted: &Scripted) {
        let mut instances: HashMap<u32, i32> = HashMap::new();
        for fact in &scripted.store.facts {
            match fact {
                Fact::Arrived { content, .. } => *instances.entry(*content).or_default() += 1,
                Fact::Copied { pairs, .. } => {
                    pairs.iter().for_each(|pair| *instances.entry(pair.2).or_default() += 1);
                }
                Fact::Expunged { content, by, .. } => {
                    let left = instances.entry(*content).or_default();
                    *left -= 1;
                    assert!(*left > 0 || *by == By::Other, "a message is lost: {fact:?}");
                }
                _ => {}
            }
        }
    }
}
