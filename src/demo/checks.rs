//! Whether the demo's move was right: what is where now, and what each side saw.

use super::args::Args;
use super::{Mailbox, Message, Said};

/// The move that was shown, from all sides.
#[derive(Clone)]
pub struct Evidence {
    /// What the client saw when it logged in.
    pub login: Vec<String>,
    /// The client's command.
    pub command: String,
    /// What the client saw.
    pub seen: Vec<String>,
    /// What the server was asked, and answered, from that command to its tagged reply.
    pub said: Vec<Said>,
    /// Source and target before.
    pub before: [Mailbox; 2],
    /// Source and target after.
    pub after: [Mailbox; 2],
}

/// The UIDs that the demo moves.
const MOVED: [u32; 2] = [2, 4];

impl Evidence {
    /// Each thing that was checked: whether it is so, and what.
    pub fn checks(&self) -> Vec<(bool, &'static str)> {
        vec![
            (self.is_offered(), "the gateway offers MOVE, which the server does not know"),
            (self.is_moved(), "both messages left INBOX and are in Archive, once, flags kept"),
            (self.is_nothing_else_touched(), "nothing else in INBOX and Archive has changed"),
            (self.is_one_action(), "the client saw COPYUID, then the removals, then OK"),
            (self.is_translated(), "the server was asked to COPY, STORE and EXPUNGE, never to MOVE"),
        ]
    }

    fn is_offered(&self) -> bool {
        let offered = |line: &String| {
            line.contains("CAPABILITY ")
                && line.split([' ', '[', ']']).any(|word| word.eq_ignore_ascii_case("MOVE"))
        };
        self.login.iter().any(offered) && !super::session::CAPABILITIES.contains("MOVE")
    }

    fn is_moved(&self) -> bool {
        let ([source, _], [left, target]) = (&self.before, &self.after);
        let same = |a: &Message, b: &Message| a.octets == b.octets;
        source.messages.iter().filter(|message| MOVED.contains(&message.uid)).all(|message| {
            let copies: Vec<&Message> = target.messages.iter().filter(|copy| same(copy, message)).collect();
            let gone = !left.messages.iter().any(|other| same(other, message));
            gone && matches!(copies[..], [copy] if copy.flags == message.flags && copy.date == message.date)
        })
    }

    fn is_nothing_else_touched(&self) -> bool {
        let moved: Vec<&Message> =
            self.before[0].messages.iter().filter(|message| MOVED.contains(&message.uid)).collect();
        let others = |mailbox: &Mailbox| {
            let is_other = |message: &&Message| !moved.iter().any(|other| other.octets == message.octets);
            let others = mailbox.messages.iter().filter(is_other);
            others
                .map(|message| (message.uid, message.flags.clone(), message.octets.clone()))
                .collect::<Vec<_>>()
        };
        self.before.iter().map(others).eq(self.after.iter().map(others))
    }

    /// MOVE-9: these lines, in this order, and no other.
    fn is_one_action(&self) -> bool {
        let [first, removals @ .., last] = &self.seen[..] else { return false };
        self.names_the_copies(first) && self.are_the_removals(removals) && last.starts_with("d3 OK ")
    }

    fn names_the_copies(&self, line: &str) -> bool {
        let [target, grown] = [&self.before[1], &self.after[1]];
        let copies: Vec<u32> =
            grown.messages.iter().map(|message| message.uid).skip(target.messages.len()).collect();
        let code =
            line.strip_prefix("* OK [COPYUID ").and_then(|rest| rest.split(']').next()).unwrap_or_default();
        match code.split(' ').collect::<Vec<_>>()[..] {
            [validity, from, to] => {
                validity == target.uid_validity.to_string() && numbers(from) == MOVED && numbers(to) == copies
            }
            _ => false,
        }
    }

    /// The numbers shift with each removal: played on what was there, they must leave what is there.
    fn are_the_removals(&self, lines: &[String]) -> bool {
        let mut uids: Vec<u32> = self.before[0].messages.iter().map(|message| message.uid).collect();
        let all_known = lines.iter().all(|line| {
            let number = line.strip_prefix("* ").and_then(|line| line.strip_suffix(" EXPUNGE"));
            let at = number
                .and_then(|number| number.parse::<usize>().ok())
                .filter(|at| (1..=uids.len()).contains(at));
            at.map(|at| uids.remove(at - 1)).is_some()
        });
        all_known && uids.iter().eq(self.after[0].messages.iter().map(|message| &message.uid))
    }

    fn is_translated(&self) -> bool {
        let asked = self.said.iter().filter_map(|said| match said {
            Said::Asked(line) => Some(line.to_ascii_uppercase()),
            Said::Answered(_) => None,
        });
        let verb = |line: String| {
            let mut words = line.split(' ').skip(1).skip_while(|word| *word == "UID");
            words.next().unwrap_or_default().to_owned()
        };
        let verbs: Vec<String> = asked.map(verb).collect();
        let steps =
            verbs.iter().map(String::as_str).filter(|verb| matches!(*verb, "COPY" | "STORE" | "EXPUNGE"));
        steps.eq(["COPY", "STORE", "EXPUNGE"]) && !verbs.iter().any(|verb| verb == "MOVE")
    }
}

/// The UIDs of a set, ascending.
fn numbers(set: &str) -> Vec<u32> {
    let set = Args(set.as_bytes()).set();
    set.map(|set| (1..1000).filter(|&number| set.contains(number, 0)).collect()).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::store::{Flags, Store};
    use super::*;

    const RIGHT: [bool; 5] = [true; 5];

    /// What a right conversation brings.
    pub fn evidence() -> Evidence {
        let mut store =
            Store::demo(chrono::DateTime::parse_from_rfc3339("2026-03-01T12:00:00Z").expect("a date"));
        let mail =
            |store: &Store| ["INBOX", "Archive"].map(|name| store.mailbox(name).expect("a mailbox").clone());
        let before = mail(&store);
        let (validity, _) = store.copy("INBOX", &MOVED, "Archive").expect("copied");
        store.mailbox_mut("INBOX").expect("INBOX").messages.retain(|message| !MOVED.contains(&message.uid));
        let lines = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
        let asked =
            ["m UID SEARCH UID 2,4 DELETED", "m UID COPY 2,4 x", "m UID STORE 2,4 x", "m UID EXPUNGE 2,4"];
        Evidence {
            login: lines(&["d1 OK [CAPABILITY IMAP4rev1 MOVE] Logged in"]),
            command: "d3 UID MOVE 2,4 Archive".to_owned(),
            seen: lines(&[
                &format!("* OK [COPYUID {validity} 2,4 2:3] x"),
                "* 4 EXPUNGE",
                "* 2 EXPUNGE",
                "d3 OK x",
            ]),
            said: asked.map(|line| Said::Asked(line.to_owned())).to_vec(),
            before,
            after: mail(&store),
        }
    }

    fn verdicts(spoil: impl FnOnce(&mut Evidence)) -> [bool; 5] {
        let mut evidence = evidence();
        spoil(&mut evidence);
        let verdicts: Vec<bool> = evidence.checks().into_iter().map(|(right, _)| right).collect();
        verdicts.try_into().expect("five checks")
    }

    fn wrong(number: usize) -> [bool; 5] {
        std::array::from_fn(|at| at != number)
    }

    #[test]
    fn a_right_conversation_is_right() {
        assert_eq!(verdicts(|_| {}), RIGHT);
        let ascending =
            verdicts(|it| it.seen[1..3].clone_from_slice(&["* 2 EXPUNGE".into(), "* 3 EXPUNGE".into()]));
        assert_eq!(ascending, RIGHT);
    }

    #[test]
    fn each_check_can_fail() {
        assert_eq!(verdicts(|it| it.login[0] = "d1 OK [CAPABILITY IMAP4rev1 XMOVE] x".into()), wrong(0));
        assert_eq!(
            verdicts(|it| it.after[1].messages[2].flags = Flags::from(["\\Deleted".into()])),
            wrong(1)
        );
        assert_eq!(verdicts(|it| it.after[0].messages[0].flags.clear()), wrong(2));
        assert_eq!(verdicts(|it| it.seen.swap(0, 1)), wrong(3));
        assert_eq!(verdicts(|it| it.seen[1] = "* 3 EXPUNGE".into()), wrong(3));
        assert_eq!(verdicts(|it| it.seen[3] = "d3 NO x".into()), wrong(3));
        assert_eq!(verdicts(|it| it.seen.insert(3, "* 1 FETCH (FLAGS ())".into())), wrong(3));
        assert_eq!(verdicts(|it| it.seen[0] = it.seen[0].replace("2:3", "2:4")), wrong(3));
        assert_eq!(verdicts(|it| it.said.push(Said::Asked("m UID MOVE 2,4 x".into()))), wrong(4));
        assert_eq!(verdicts(|it| it.said.swap(1, 2)), wrong(4));
    }

    #[test]
    fn a_lost_and_a_doubled_message_are_seen() {
        let lost = verdicts(|it| drop(it.after[1].messages.pop()));
        assert!(!lost[1] && !lost[3]);
        let doubled = verdicts(|it| it.after[0] = it.before[0].clone());
        assert!(!doubled[1] && !doubled[3]);
    }
}
