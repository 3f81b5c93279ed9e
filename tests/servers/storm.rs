//! 2,000 messages are moved in random batches while others watch, flag, expunge and append.

use crate::client::{Client, numbers};
use crate::mail::{self, Flags};
use crate::server::Kind;
use crate::{Route, on_servers};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

const MOVABLE: usize = 2_000;
/// One message in so many is a bystander.
const BYSTANDER_EVERY: usize = 30;
/// The watcher leaves IDLE, reads and checks after so many MOVEs.
const WATCH: usize = 10;

on_servers!(storm: dovecot_maildir DOVECOT, dovecot_mdbox DOVECOT_MDBOX, courier COURIER, cyrus CYRUS);
on_servers!(storm_with_qresync: dovecot DOVECOT, cyrus CYRUS);

/// The promise, on a real server: nothing lost, doubled, touched or left flagged; the watcher's
/// sequence numbers are right; the server has never seen a MOVE (SRV-1).
fn storm(kind: Kind) {
    run(kind, "NOOP");
}

/// MOVE-16: the same, with removals told as VANISHED.
fn storm_with_qresync(kind: Kind) {
    run(kind, "ENABLE QRESYNC");
}

/// `prepare` is the first command of the one who moves and of the one who watches.
fn run(kind: Kind, prepare: &str) {
    let route = Route::start(kind);
    let (source, target) = (kind.mailbox("Source"), kind.mailbox("Target"));
    seed(&mut route.server.login(), &source, &target);
    let (mut watcher, mut mover) = (route.gateway.login(), route.gateway.login());
    watcher.ok(prepare);
    mover.ok(prepare);
    watcher.select(&source);

    let (fates, arrived) = thread::scope(|scope| {
        let mut others = Others(Vec::new());
        let (watching, meddling, delivering) = (others.add(), others.add(), others.add());
        let (route, source) = (&route, &source[..]);
        let watcher = &mut watcher;
        let watching = scope.spawn(move || watch(watcher, &watching));
        let meddling = scope.spawn(move || meddle(route.gateway.login(), source, &meddling));
        let delivering = scope.spawn(move || deliver(route.gateway.login(), source, &delivering));
        move_all(mover, source, &target, &others);
        drop(others);
        watching.join().expect("the watcher was content");
        (meddling.join().expect("the meddler was served"), delivering.join().expect("the sender was served"))
    });

    check_watcher(&mut watcher);
    check_mail(&mut route.server.login(), (&source, &target), fates, arrived);
    crate::check_no_move(&route);
}

fn seed(client: &mut Client, source: &str, target: &str) {
    client.ok(&format!("CREATE {source}"));
    client.ok(&format!("CREATE {target}"));
    for i in 0..MOVABLE {
        mail::deliver(client, source, [format!("movable{i}")]);
        if i % BYSTANDER_EVERY == 0 {
            mail::deliver(client, source, [format!("bystander{i}")]);
        }
    }
}

/// Those who act after each MOVE. They end when this does, also in a panic.
struct Others(Vec<Sender<()>>);

impl Others {
    fn add(&mut self) -> Receiver<()> {
        let (sender, receiver) = channel();
        self.0.push(sender);
        receiver
    }

    fn tick(&self) {
        self.0.iter().for_each(|other| _ = other.send(())); // one that failed has ended
    }
}

/// Moves every movable message, by UID and by sequence number in turn.
fn move_all(mut client: Client, source: &str, target: &str, others: &Others) {
    let mut random = Random::new();
    let mut movable: Vec<u32> = mail::listing(&mut client, source)
        .into_iter()
        .filter_map(|(uid, subject, _)| subject.starts_with("movable").then_some(uid))
        .collect();
    assert_eq!(movable.len(), MOVABLE, "seeded");
    while !movable.is_empty() {
        let batch = random.batch(&movable);
        move_batch(&mut client, &batch, target, &mut random);
        movable.retain(|uid| !batch.contains(uid));
        others.tick();
    }
}

fn move_batch(client: &mut Client, batch: &[u32], target: &str, random: &mut Random) {
    let command = if random.chance(50) {
        format!("UID MOVE {} {target}", random.set(batch))
    } else {
        let position = |uid: &u32| client.view.0.iter().position(|known| *known == Some(*uid));
        let sequence: Vec<u32> =
            batch.iter().map(|uid| position(uid).expect("still there") as u32 + 1).collect();
        format!("MOVE {} {target}", random.set(&sequence))
    };
    let reply = client.ok(&command);
    let proofs: Vec<String> = reply.lines().into_iter().filter(|line| line.contains("COPYUID")).collect();
    assert_eq!(proofs.len(), 1, "MOVE-9: COPYUID exactly once for {command}\n{}", client.transcript());
    let mut moved = numbers(proofs[0].split_whitespace().nth(4).expect("source UIDs"));
    moved.sort_unstable();
    assert_eq!(moved, batch, "what COPYUID says was moved by {command}");
    let left = client.view.0.iter().flatten().filter(|uid| batch.contains(uid)).count();
    assert_eq!(left, 0, "seen leaving: all of {command}\n{}", client.transcript());
}

/// Sits in IDLE and keeps its view up to date from what it is told.
fn watch(client: &mut Client, ticks: &Receiver<()>) {
    let mut open = true;
    while open {
        let tag = client.start("IDLE");
        client.until("+");
        open = (0..WATCH).all(|_| ticks.recv().is_ok());
        client.send("DONE\r\n");
        assert!(client.finish(&tag).is_ok(), "IDLE ends with OK");
    }
}

/// What became of each bystander: its flags, or nothing when it was expunged.
type Fates = BTreeMap<String, Option<Flags>>;

/// After each MOVE: flags one bystander, marks the next one deleted, expunges the third.
fn meddle(mut client: Client, source: &str, ticks: &Receiver<()>) -> Fates {
    let listing = mail::listing(&mut client, source).into_iter();
    let bystanders: Vec<(u32, String)> = listing
        .filter_map(|(uid, subject, _)| subject.starts_with("bystander").then_some((uid, subject)))
        .collect();
    let mut fates: Fates =
        bystanders.iter().map(|(_, subject)| (subject.clone(), Some(Flags::new()))).collect();
    for ((i, (uid, subject)), ()) in bystanders.into_iter().enumerate().zip(ticks) {
        let flag = if i % 3 == 0 { "\\Flagged" } else { "\\Deleted" };
        client.ok(&format!("UID STORE {uid} +FLAGS ({flag})"));
        let mut fate = Some(Flags::from([flag.to_owned()]));
        if i % 3 == 2 {
            client.ok(&format!("UID EXPUNGE {uid}"));
            fate = None;
        }
        fates.insert(subject, fate);
    }
    fates
}

/// After each MOVE: appends a message. How many it were.
fn deliver(mut client: Client, source: &str, ticks: &Receiver<()>) -> usize {
    let mut arrived = 0;
    while ticks.recv().is_ok() {
        mail::deliver(&mut client, source, [format!("arrival{arrived}")]);
        arrived += 1;
    }
    arrived
}

fn check_watcher(watcher: &mut Client) {
    watcher.ok("NOOP");
    let uids = watcher.ok("UID SEARCH ALL").search();
    assert!(watcher.view.agrees(&uids), "the watcher counts {:?}, the server {uids:?}", watcher.view);
}

fn check_mail(client: &mut Client, (source, target): (&str, &str), fates: Fates, arrived: usize) {
    let moved: BTreeMap<String, Vec<Flags>> =
        (0..MOVABLE).map(|i| (format!("movable{i}"), vec![Flags::new()])).collect();
    assert_eq!(mail::contents(client, target), moved, "each moved message once, unflagged, in the target");
    let alive = fates.into_iter().filter_map(|(subject, flags)| Some((subject, vec![flags?])));
    let arrivals = (0..arrived).map(|i| (format!("arrival{i}"), vec![Flags::new()]));
    let stayed: BTreeMap<String, Vec<Flags>> = alive.chain(arrivals).collect();
    assert_eq!(mail::contents(client, source), stayed, "bystanders and arrivals, untouched, in the source");
}

/// Random batches. The seed is printed, so that a failure's batches can be had again.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let seed = std::env::var("IMAPMOVE_TEST_SEED").map_or(now, |seed| seed.parse().expect("a number"));
        println!("IMAPMOVE_TEST_SEED={seed}");
        Random(seed | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Up to 50 of the numbers, near each other and with holes.
    fn batch(&mut self, numbers: &[u32]) -> Vec<u32> {
        let (start, size) = (self.below(numbers.len()), 1 + self.below(50));
        let mut batch: Vec<u32> = numbers[start..].iter().take(size).copied().collect();
        batch.retain(|_| self.chance(75));
        if batch.is_empty() { vec![numbers[start]] } else { batch }
    }

    /// Writes numbers as a set: ranges, some of them reversed, some of them twice, in any order.
    fn set(&mut self, numbers: &[u32]) -> String {
        let mut parts: Vec<(u32, u32)> = Vec::new();
        for number in numbers {
            match parts.last_mut() {
                Some((_, last)) if *last + 1 == *number => *last = *number,
                _ => parts.push((*number, *number)),
            }
        }
        if self.chance(30) {
            parts.push(parts[0]);
        }
        for i in (1..parts.len()).rev() {
            parts.swap(i, self.below(i + 1));
        }
        let write = |(first, last): &(u32, u32)| match (first == last, self.chance(30)) {
            (true, _) => first.to_string(),
            (false, true) => format!("{last}:{first}"),
            (false, false) => format!("{first}:{last}"),
        };
        parts.iter().map(write).collect::<Vec<_>>().join(",")
    }
}
