//! What is checked in every run, whoever plays it.

use crate::remark::{Remark, Says};
use crate::scripted::{SOURCE, Scripted, TARGET};
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

/// The tagged reply to the MOVE, without the tag, if there was one.
pub type Told = Option<String>;

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

/// Tells the messages apart by what they say, and the bystanders by what they were.
pub struct Play {
    case: Case,
    contents: Vec<(u32, u32)>,
}

impl Play {
    /// Before anything has happened.
    pub fn begin(case: Case, scripted: &Scripted) -> Play {
        let messages = &scripted.store.mailboxes[SOURCE].messages;
        let is_moved = |message: &&Message| scripted.moved.contains(&message.uid);
        let contents = messages.iter().filter(is_moved).map(|message| (message.uid, message.content));
        Play { case, contents: contents.collect() }
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

    /// The fault is over, as far as anybody has noticed.
    pub fn at_once(&self, scripted: &Scripted, told: &Told) {
        let Case { at, end, .. } = self.case;
        self.stand(scripted, "at once", |removed| end.at_once(at, removed));
        self.is_true(scripted, told);
    }

    /// The user has logged in again and selected the source.
    pub fn afterwards(&self, scripted: &Scripted) {
        self.stand(scripted, "after the next SELECT", |removed| self.case.end.afterwards(removed));
        self.others_are_there(scripted);
        self.nothing_happened_to_others(scripted);
        self.nothing_was_ever_lost(scripted);
    }

    fn stand(&self, scripted: &Scripted, when: &str, required: impl Fn(bool) -> Stands) {
        for &(uid, content) in &self.contents {
            let vanished = scripted.has_vanished && uid == scripted.vanishing();
            let stands = self.stands(scripted, content);
            let required = match self.case.vanishes {
                Vanishes::BeforeCopy if vanished => None,
                Vanishes::AfterCopy if vanished => Some(Stands::Target),
                _ => Some(required(scripted.removed.contains(&uid))),
            };
            assert_eq!(stands, required, "{when}: UID {uid}, vanished: {vanished}");
        }
    }

    /// Where a message is; `None`: nowhere.
    fn stands(&self, scripted: &Scripted, content: u32) -> Option<Stands> {
        let of = |mailbox: usize| {
            let messages = &scripted.store.mailboxes[mailbox].messages;
            let mut all = messages.iter().filter(|message| message.content == content);
            let one = all.next();
            assert!(all.next().is_none(), "a message is twice in one mailbox");
            one.map(|message| message.flags)
        };
        let (here, copy) = (of(SOURCE), of(TARGET));
        assert!(copy.is_none_or(|flags| flags & DELETED == 0), "a copy is flagged as deleted");
        match (here, copy) {
            (None, None) => None,
            (None, Some(_)) => Some(Stands::Target),
            (Some(flags), None) if flags & DELETED == 0 => Some(Stands::Source),
            (Some(_), None) => panic!("in the source alone, and flagged as deleted"),
            (Some(flags), Some(_)) if flags & DELETED == 0 => Some(Stands::Both),
            (Some(flags), Some(copy)) if flags == copy | DELETED => Some(Stands::BothFlagged),
            (Some(flags), Some(copy)) => panic!("other flags: {flags} in the source, {copy} in the target"),
        }
    }

    /// What the client was told is so, and it was told what the table says.
    fn is_true(&self, scripted: &Scripted, told: &Told) {
        let Case { at, fault, end, .. } = self.case;
        let listens = !matches!(fault, Fault::ClientGone | Fault::Sigkill) || at == Boundary::ExpungeOk;
        let Some(told) = told else {
            assert!(!listens, "the client got no reply");
            return;
        };
        assert!(listens, "the client got a reply: {told}");
        let all = self.contents.iter().all(|(uid, _)| scripted.removed.contains(uid));
        let is_ok = told.starts_with("OK ");
        assert_eq!(is_ok, end.is_ok(all), "{told}");
        match is_ok {
            true => self.all_are_moved(scripted),
            false => self.text_is_true(scripted, told),
        }
    }

    fn all_are_moved(&self, scripted: &Scripted) {
        for (uid, content) in &self.contents {
            let stands = self.stands(scripted, *content);
            assert!(matches!(stands, None | Some(Stands::Target)), "OK, but UID {uid}: {stands:?}");
        }
    }

    /// Of each message the text says where it is. What another session has just removed may not have been noticed.
    fn text_is_true(&self, scripted: &Scripted, told: &str) {
        let refused_with_bad = self.case.fault == Fault::Bad && self.case.end == End::Source;
        assert!(told.starts_with("NO ") || (refused_with_bad && told.starts_with("BAD ")), "{told}");
        let Some(remark) = Remark::read(told.as_bytes()).expect("a remark that can be read") else {
            // In the server's words, or the gateway's: nothing was copied, or nobody knows.
            let perhaps_copied = told.contains("all are still in the source, copies may be in the target");
            assert!(matches!(self.case.end, End::Source | End::Both), "{told}");
            return assert!(self.case.end == End::Source || perhaps_copied, "{told}");
        };
        let mut moved = 0;
        for (uid, content) in &self.contents {
            let Some(stands) = self.stands(scripted, *content) else { continue };
            let [perhaps, undone] = [Says::PerhapsMoved, Says::Undone].map(|says| remark.says(&[says], *uid));
            let is_so = match stands {
                Stands::Source => undone && !perhaps,
                Stands::Both | Stands::BothFlagged => perhaps && !undone,
                Stands::Target => !undone,
            };
            assert!(is_so, "UID {uid}: {stands:?}, but the client was told {told}");
            moved += usize::from(!perhaps && !undone);
        }
        assert_eq!(remark.moved, moved, "{told}");
    }

    /// All are as they came, those that arrived meanwhile too.
    fn others_are_there(&self, scripted: &Scripted) {
        for fact in &scripted.store.facts {
            let Fact::Arrived { mailbox, uid, content, flags, .. } = fact else { continue };
            let is_it = |m: &Message| (m.uid, m.content, m.flags) == (*uid, *content, *flags);
            let is_moved = self.contents.iter().any(|(_, moved)| moved == content);
            let is_there = scripted.store.mailboxes[*mailbox].messages.iter().any(is_it);
            assert!(is_moved || is_there, "a bystander is not as it was: {fact:?}");
        }
    }

    /// None was ever flagged or expunged by the gateway.
    fn nothing_happened_to_others(&self, scripted: &Scripted) {
        let mut ours: HashSet<(usize, u32)> = self.contents.iter().map(|(uid, _)| (SOURCE, *uid)).collect();
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
