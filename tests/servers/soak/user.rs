//! One client of a user: it moves its own messages here and there, and does what clients do, until the soak is over. It
//! logs in again whenever its connection breaks, and sometimes leaves without a word.

use super::letter::Letter;
use super::line::Line;
use super::{Count, Life, Site, Tally, USERS};
use crate::client::{PATIENCE, Reply, numbers};
use crate::mail;
use crate::server::POLL;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// A SELECT that took longer may have been let through before all recoveries were done (the gateway gives them 5 s): then a
/// careful client logs in again, rather than move what is in two mailboxes.
const SLOW: Duration = Duration::from_secs(4);

/// What Courier gives instead of a message that another client has just moved.
const GONE: &[u8] = b"Subject: message unavailable";

/// A MOVE that was sent.
pub struct Attempt {
    pub letters: Vec<Letter>,
    pub uids: BTreeSet<u32>,
    pub from: String,
    pub to: String,
    pub sent: SystemTime,
    /// The gateway's OK, with COPYUID, or its NO.
    pub said: Option<String>,
}

impl Attempt {
    pub fn is_done(&self) -> bool {
        self.said.as_deref().is_some_and(|said| said.starts_with("OK"))
    }
}

/// What one client has done.
#[derive(Default)]
pub struct Story {
    pub attempts: Vec<Attempt>,
    /// Where a client has found messages at a SELECT, and when first.
    pub seen: BTreeMap<(Letter, String, u32), SystemTime>,
    /// What it has appended, and whether it was told OK.
    pub posted: BTreeMap<Letter, bool>,
    pub tally: Tally,
}

/// One client.
pub struct User<'a> {
    pub site: &'a Site,
    pub user: usize,
    pub owner: usize,
    /// Numbers of messages that it may append.
    pub posts: std::ops::Range<usize>,
    pub random: fastrand::Rng,
    pub story: Story,
    /// The gateway that may have left a MOVE of this client's unfinished.
    pub debtor: Option<Arc<Life>>,
}

/// A session with a mailbox selected.
struct Desk {
    line: Line,
    mailbox: String,
    /// What is known to be in it.
    letters: BTreeMap<u32, Letter>,
    /// A MOVE was sent and its reply has not come.
    unanswered: bool,
}

/// What one MOVE is about: ascending UIDs, and a target.
struct Batch {
    uids: Vec<u32>,
    to: String,
}

impl User<'_> {
    /// Until the soak is over.
    pub fn live(mut self) -> Story {
        while !self.site.is_over() {
            self.session();
        }
        self.story
    }

    /// From one login to the end of the connection.
    fn session(&mut self) {
        let life = self.site.life();
        // While a gateway drains, nobody else can read its journal, nor finish what one of its sessions has left there.
        let elsewhere = self.debtor.take_if(|debtor| !Arc::ptr_eq(debtor, &life));
        elsewhere.into_iter().for_each(|debtor| debtor.wait_until_over());
        let before = life.logged();
        let Ok(mut desk) = self.enter(life.address) else {
            return sleep(Duration::from_millis(self.random.u64(20..300)));
        };
        self.story.tally.add(Count::Logins, 1);
        self.debtor = None;
        let Ok(address) = desk.line.address() else { return };
        let ended = self.work(&mut desk);
        let left = ended.is_err() || self.leave(&mut desk).is_err();
        let unanswered = desk.unanswered;
        drop(desk);
        if left && unanswered && !self.site.compete {
            // The gateway finishes that MOVE without its client: to move the same messages now would be a second session.
            life.wait_until_ended(address, before);
            self.debtor = Some(life);
        }
    }

    fn enter(&mut self, address: SocketAddr) -> Result<Desk> {
        // Nobody else of this user's finishes what is left of this client's MOVEs while it looks.
        let _gate = (!self.site.compete).then(|| self.site.gate(self.user));
        let begun = Instant::now();
        let line = Line::log_in(address, USERS[self.user])?;
        let mailbox = self.mailbox();
        let mut desk = Desk { line, mailbox, letters: BTreeMap::new(), unanswered: false };
        self.select(&mut desk)?;
        if begun.elapsed() > SLOW && !self.site.compete {
            desk.line.command("LOGOUT")?;
            return Err(Error::other("it took too long"));
        }
        Ok(desk)
    }

    fn select(&mut self, desk: &mut Desk) -> Result<()> {
        desk.select()?;
        let now = SystemTime::now();
        let mine = desk.letters.iter().filter(|(_, letter)| letter.owner == self.owner);
        for (uid, letter) in mine {
            self.story.seen.entry((*letter, desk.mailbox.clone(), *uid)).or_insert(now);
        }
        Ok(())
    }

    /// LOGOUT, or not a word.
    fn leave(&mut self, desk: &mut Desk) -> Result<()> {
        if self.random.u8(..4) == 0 {
            return self.vanish(desk);
        }
        desk.line.command("LOGOUT").map(drop)
    }

    fn work(&mut self, desk: &mut Desk) -> Result<()> {
        for _ in 0..self.random.usize(3..60) {
            if self.site.is_over() {
                return Ok(());
            }
            match self.random.u8(..100) {
                0..45 => self.move_one_batch(desk)?,
                45..60 => self.move_in_a_row(desk)?,
                60..68 => self.post(desk)?,
                68..76 => self.read(desk)?,
                76..84 => self.flag(desk)?,
                84..88 => self.idle(desk)?,
                88..94 => {
                    desk.mailbox = self.mailbox();
                    self.select(desk)?;
                }
                _ => drop(desk.line.command("NOOP")?),
            }
            sleep(Duration::from_millis(self.random.u64(..self.site.pause)));
        }
        Ok(())
    }

    fn mailbox(&mut self) -> String {
        let choice = self.random.usize(..self.site.mailboxes.len());
        self.site.mailboxes[choice].clone()
    }

    fn is_mine(&self, letter: &Letter) -> bool {
        self.site.compete || letter.owner == self.owner
    }

    /// Up to 40 messages, near each other and with holes, that are not in `taken`.
    fn batch(&mut self, desk: &Desk, taken: &mut BTreeSet<u32>) -> Option<Batch> {
        let known = desk.line.view.0.iter().flatten().filter(|uid| !taken.contains(uid));
        let mine = known.filter(|uid| desk.letters.get(uid).is_some_and(|letter| self.is_mine(letter)));
        let mine: Vec<u32> = mine.copied().collect();
        let start = self.random.usize(..mine.len().max(1));
        let size = self.random.usize(1..40);
        let mut uids: Vec<u32> = mine.iter().skip(start).take(size).copied().collect();
        uids.retain(|_| self.random.u8(..4) > 0);
        taken.extend(&uids);
        let to = std::iter::repeat_with(|| self.mailbox()).find(|mailbox| *mailbox != desk.mailbox)?;
        (!uids.is_empty()).then_some(Batch { uids, to })
    }

    /// By UID, or by sequence number.
    fn move_one_batch(&mut self, desk: &mut Desk) -> Result<()> {
        let Some(batch) = self.batch(desk, &mut BTreeSet::new()) else { return Ok(()) };
        let tag = desk.line.tag();
        let view = &desk.line.view.0;
        let command = if self.random.bool() {
            format!("{tag} UID MOVE {} \"{}\"\r\n", self.set(&batch.uids), batch.to)
        } else {
            let position = |uid: &u32| view.iter().position(|known| *known == Some(*uid));
            let positions = batch.uids.iter().map(|uid| position(uid).expect("it is in the view") as u32 + 1);
            let positions: Vec<u32> = positions.collect();
            format!("{tag} MOVE {} \"{}\"\r\n", self.set(&positions), batch.to)
        };
        self.moves(desk, vec![(tag, batch)], command)
    }

    /// Several, and other commands, in one write.
    fn move_in_a_row(&mut self, desk: &mut Desk) -> Result<()> {
        let (batches, text) = self.row(desk);
        self.moves(desk, batches, text)?;
        desk.line.catch_up()
    }

    fn row(&mut self, desk: &mut Desk) -> (Vec<(String, Batch)>, String) {
        let (mut batches, mut text, mut taken) = (Vec::new(), String::new(), BTreeSet::new());
        for _ in 0..self.random.usize(1..5) {
            let Some(batch) = self.batch(desk, &mut taken) else { break };
            let tag = desk.line.tag();
            text += &format!("{tag} UID MOVE {} \"{}\"\r\n", self.set(&batch.uids), batch.to);
            batches.push((tag, batch));
            if self.random.bool() {
                let other = self.random.choice(["NOOP", "FETCH 1 (FLAGS)", "UID SEARCH 1:5", "CHECK"]);
                text += &format!("{} {}\r\n", desk.line.tag_of_another(), other.unwrap_or("NOOP"));
            }
        }
        (batches, text)
    }

    fn moves(&mut self, desk: &mut Desk, batches: Vec<(String, Batch)>, text: String) -> Result<()> {
        let (sent, mut open) = (SystemTime::now(), VecDeque::from(batches));
        let mut result = desk.line.send(text.as_bytes());
        while let (Ok(()), Some((tag, batch))) = (&result, open.front()) {
            result = desk.line.finish(tag).map(|reply| self.answered(desk, batch, sent, &reply));
            if result.is_ok() {
                open.pop_front();
            }
        }
        self.story.tally.add(Count::Unanswered, open.len());
        self.unanswered(desk, open, sent);
        result
    }

    fn answered(&mut self, desk: &mut Desk, batch: &Batch, sent: SystemTime, reply: &Reply) {
        if reply.is_ok() {
            return self.moved(desk, batch, sent, reply);
        }
        self.story.tally.add(Count::Refused, 1);
        self.story.attempts.push(desk.attempt(batch, sent, Some(reply.status())));
    }

    fn unanswered(&mut self, desk: &mut Desk, open: impl Into<Vec<(String, Batch)>>, sent: SystemTime) {
        let open = open.into();
        desk.unanswered = !open.is_empty();
        self.story.attempts.extend(open.iter().map(|(_, batch)| desk.attempt(batch, sent, None)));
    }

    /// OK means moved: what was asked for, nothing else, and seen leaving.
    fn moved(&mut self, desk: &mut Desk, batch: &Batch, sent: SystemTime, reply: &Reply) {
        let lines = reply.lines();
        let proofs: Vec<&String> = lines.iter().filter(|line| line.contains("[COPYUID ")).collect();
        assert!(proofs.len() <= 1, "MOVE-9: COPYUID twice");
        let proof = proofs.first().map(|line| mail::between(line, "[COPYUID ", "]").to_owned());
        self.story.attempts.push(desk.attempt(batch, sent, Some(format!("OK {proof:?}"))));
        let moved = proof.map_or_else(Vec::new, |p| numbers(p.split(' ').nth(1).expect("source UIDs")));
        for uid in &moved {
            assert!(batch.uids.contains(uid), "UID {uid} was not to be moved");
            assert!(!desk.line.view.0.contains(&Some(*uid)), "UID {uid} was not seen leaving");
            desk.letters.remove(uid);
        }
        self.story.tally.add(Count::Moves, 1);
        self.story.tally.add(Count::Moved, moved.len());
    }

    /// Leaves with a RST or a FIN, most often just after a MOVE was sent.
    fn vanish(&mut self, desk: &mut Desk) -> Result<()> {
        let (batches, text) = self.row(desk);
        let sent = SystemTime::now();
        let result = desk.line.send(text.as_bytes());
        self.story.tally.add(Count::Vanished, 1);
        self.unanswered(desk, batches, sent);
        sleep(Duration::from_millis(self.random.u64(..30)));
        if self.random.bool() {
            desk.line.end_with_reset();
        }
        result.and(Err(Error::other("left without a word")))
    }

    fn post(&mut self, desk: &mut Desk) -> Result<()> {
        let Some(number) = self.posts.next() else { return Ok(()) };
        let letter = Letter { user: self.user, owner: self.owner, number };
        let (octets, tag, mailbox) = (letter.octets(), desk.line.tag(), self.mailbox());
        let command = format!("{tag} APPEND \"{mailbox}\" ({}) {{{}}}\r\n", letter.flags(), octets.len());
        desk.line.send(command.as_bytes())?;
        desk.line.go_ahead(&tag)?;
        self.story.posted.insert(letter, false);
        desk.line.send(&[&octets[..], b"\r\n"].concat())?;
        let told = desk.line.finish(&tag)?.is_ok();
        self.story.posted.insert(letter, told);
        self.story.tally.add(Count::Posted, usize::from(told));
        Ok(())
    }

    /// Some message's octets, which are as they were.
    fn read(&mut self, desk: &mut Desk) -> Result<()> {
        let Some((uid, letter)) = self.random.choice(desk.letters.clone()) else { return Ok(()) };
        let reply = desk.line.command(&format!("UID FETCH {uid} (UID BODY.PEEK[])"))?;
        for line in reply.lines().iter().filter(|line| line.contains("BODY[] {")) {
            let (_, octets) = line.split_once("}\r\n").expect("a literal");
            let octets = octets.strip_suffix(')').expect("nothing else was asked for").as_bytes();
            let gone = octets.windows(GONE.len()).any(|window| window == GONE);
            assert!(gone || octets == letter.octets(), "{letter} has changed");
        }
        Ok(())
    }

    /// A flag of some message's, whoever moves that, comes or goes.
    fn flag(&mut self, desk: &mut Desk) -> Result<()> {
        let uids: Vec<u32> = desk.line.view.0.iter().flatten().copied().collect();
        let chosen = self.random.choose_multiple(uids, 3);
        if chosen.is_empty() {
            return Ok(());
        }
        let (set, sign) = (self.set(&chosen), if self.random.bool() { '+' } else { '-' });
        desk.line.command(&format!("UID STORE {set} {sign}FLAGS.SILENT (\\Flagged)")).map(drop)
    }

    fn idle(&mut self, desk: &mut Desk) -> Result<()> {
        let tag = desk.line.tag();
        desk.line.send(format!("{tag} IDLE\r\n").as_bytes())?;
        desk.line.go_ahead(&tag)?;
        sleep(Duration::from_millis(self.random.u64(..300)));
        desk.line.send(b"DONE\r\n")?;
        desk.line.finish(&tag).map(drop)
    }

    /// Numbers as a set: ranges where they follow each other, some of them reversed, some twice, in any order.
    fn set(&mut self, numbers: &[u32]) -> String {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *number => *last = *number,
                _ => ranges.push((*number, *number)),
            }
        }
        if self.random.u8(..3) == 0 {
            ranges.push(ranges[0]);
        }
        self.random.shuffle(&mut ranges);
        let write = |(first, last): &(u32, u32)| match (first == last, self.random.u8(..3) == 0) {
            (true, _) => first.to_string(),
            (false, true) => format!("{last}:{first}"),
            (false, false) => format!("{first}:{last}"),
        };
        ranges.iter().map(write).collect::<Vec<_>>().join(",")
    }
}

impl Desk {
    fn attempt(&self, batch: &Batch, sent: SystemTime, said: Option<String>) -> Attempt {
        let letters = batch.uids.iter().map(|uid| self.letters[uid]).collect();
        let uids = batch.uids.iter().copied().collect();
        Attempt { letters, uids, from: self.mailbox.clone(), to: batch.to.clone(), sent, said }
    }

    /// Selects the mailbox and looks which messages are in it.
    fn select(&mut self) -> Result<()> {
        self.letters.clear();
        self.line.select(&self.mailbox)?;
        if self.line.view.0.is_empty() {
            return Ok(());
        }
        let reply = self.line.ok("UID FETCH 1:* (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")?;
        let named = |line: &String| {
            let uid = mail::between(line, "(UID ", " ").parse().expect("a UID");
            Some((uid, Letter::named_in(line)?))
        };
        let lines = reply.lines();
        self.letters = lines.iter().filter(|line| line.contains(" FETCH (UID ")).filter_map(named).collect();
        Ok(())
    }
}

impl Life {
    /// How long its log is.
    fn logged(&self) -> usize {
        std::fs::metadata(&self.log).map_or(0, |log| log.len() as usize)
    }

    /// Waits until the session of the client with this address is over. `before` is how long the log was before it began.
    fn wait_until_ended(&self, client: SocketAddr, before: usize) {
        let begun = Instant::now();
        let of = format!("address={client} ");
        let ended = |line: &str| line.contains("session ended") && line.contains(&of);
        while !self.is_over() {
            let log = std::fs::read(&self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(log.get(before..).unwrap_or_default()).into_owned();
            if log.lines().any(ended) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the session of {client} goes on without it:\n{log}");
            sleep(POLL);
        }
    }

    fn wait_until_over(&self) {
        let begun = Instant::now();
        while !self.is_over() {
            assert!(begun.elapsed() < PATIENCE, "the gateway at {} does not end", self.address);
            sleep(POLL);
        }
    }
}
