//! The soak: everything breaks, for minutes, and nothing is lost.
//!
//! On Dovecot, Courier and Cyrus at once, clients of two users move messages through the gateway while it is killed, told
//! to end, cut off from the server, stalled, and while the server is restarted. Then everybody logs in once more, so that
//! what was cut short is finished, and every message is looked for without the gateway.
//!
//! Killed or cut off between COPY and its reply, the gateway has no proof and may not remove anything: it reports that MOVE
//! in its log. The soak follows these reports as an operator would, and removes the second copy of the messages that they
//! name, and of no other. Then every message must be there once, as it was. The table says how much the gateway has
//! finished, how many copies were removed by hand, and how many of them it had not reported, which must be none.
//!
//! `SOAK_SECONDS` says how long it takes (120), `SOAK_SEED` replays its choices, if not their moments. With `SOAK_COMPETE=1`
//! the clients of a user move the same messages, rather than each its own.

mod audit;
mod chaos;
mod letter;
mod line;
mod relay;
mod user;

use crate::client::{Client, PATIENCE};
use crate::gateway::Gateway;
use crate::server::{Kind, Server};
use audit::Books;
use chaos::Plant;
use letter::Letter;
use line::Line;
use relay::Relay;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};
use user::{Story, User};

const KINDS: [Kind; 3] = [Kind::DOVECOT, Kind::COURIER, Kind::CYRUS];
const USERS: [(&str, &str); 2] = [("alice", "wonderland"), ("bob", "builder")];
/// Clients of each user.
const CLIENTS: usize = 3;
const MAILBOXES: [&str; 5] = ["INBOX", "Work", "Old mail", "Lists", "Archive"];
/// Messages in all mailboxes of all servers: 20,400 in half an hour. Clients append up to a tenth more.
const MESSAGES_A_MINUTE: usize = 680;
const FEWEST_MESSAGES: usize = 1_200;
/// How long a client waits between two commands at most, in milliseconds.
const PAUSE: u64 = 40;

/// How long, from which seed, and whether clients move the same messages.
#[derive(Clone, Copy)]
struct Plan {
    length: Duration,
    seed: u64,
    compete: bool,
}

impl Plan {
    fn read() -> Plan {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
        let seconds = number("SOAK_SECONDS").unwrap_or(120);
        let seed = number("SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
        let compete = number("SOAK_COMPETE").is_some_and(|yes| yes > 0);
        println!("SOAK_SECONDS={seconds} SOAK_SEED={seed} SOAK_COMPETE={}", u8::from(compete));
        Plan { length: Duration::from_secs(seconds), seed, compete }
    }

    /// Messages of one client.
    fn share(self) -> usize {
        let messages = MESSAGES_A_MINUTE * self.length.as_secs() as usize / 60;
        messages.max(FEWEST_MESSAGES).div_ceil(KINDS.len() * USERS.len() * CLIENTS)
    }
}

/// What is counted, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Count {
    Logins,
    Moves,
    Moved,
    Posted,
    Refused,
    Unanswered,
    Vanished,
    Kills,
    Terms,
    Cuts,
    Stalls,
    Restarts,
    Finished,
    Removed,
    Later,
    Stale,
    Unproven,
    Undone,
    Unrecorded,
    Left,
    Once,
    ByUnproven,
    ByStale,
    ByUnrecorded,
    ByLeft,
    Unreported,
    Changed,
    Lost,
}

const NAMES: [(Count, &str); 28] = [
    (Count::Logins, "logins"),
    (Count::Moves, "MOVEs answered with OK"),
    (Count::Moved, "  messages in them"),
    (Count::Posted, "messages appended"),
    (Count::Refused, "MOVEs answered with NO"),
    (Count::Unanswered, "MOVEs never answered"),
    (Count::Vanished, "clients gone without a word"),
    (Count::Kills, "gateway killed"),
    (Count::Terms, "gateway told to end"),
    (Count::Cuts, "connections cut"),
    (Count::Stalls, "connections stalled"),
    (Count::Restarts, "server restarted"),
    (Count::Finished, "MOVEs finished by the gateway"),
    (Count::Removed, "  messages in them"),
    (Count::Later, "  put off"),
    (Count::Stale, "  reported: changed since"),
    (Count::Unproven, "  reported: no proof"),
    (Count::Undone, "  reported: undo cut short"),
    (Count::Unrecorded, "  reported: without a record"),
    (Count::Left, "  reported: a NO"),
    (Count::Once, "messages there once, as they were"),
    (Count::ByUnproven, "copies removed by hand: no proof"),
    (Count::ByStale, "  changed since, or undo"),
    (Count::ByUnrecorded, "  without a record"),
    (Count::ByLeft, "  a NO"),
    (Count::Unreported, "copies that nobody reported"),
    (Count::Changed, "messages changed"),
    (Count::Lost, "messages lost"),
];

#[derive(Default)]
struct Tally(BTreeMap<Count, usize>);

impl Tally {
    fn add(&mut self, count: Count, number: usize) {
        *self.0.entry(count).or_default() += number;
    }

    fn of(&self, count: Count) -> usize {
        self.0.get(&count).copied().unwrap_or(0)
    }

    fn merge(&mut self, other: &Tally) {
        other.0.iter().for_each(|(count, number)| self.add(*count, *number));
    }
}

/// One gateway process.
struct Life {
    address: SocketAddr,
    log: PathBuf,
    over: AtomicBool,
}

impl Life {
    fn of(gateway: &Gateway) -> Life {
        Life { address: gateway.address, log: gateway.log(), over: AtomicBool::new(false) }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// One server and what is in front of it, as all threads see it.
struct Site {
    kind: Kind,
    relay: Relay,
    mailboxes: Vec<String>,
    compete: bool,
    pause: u64,
    gates: [Mutex<()>; USERS.len()],
    life: Mutex<Arc<Life>>,
    until: Instant,
    failed: AtomicBool,
}

impl Site {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until || self.failed.load(Ordering::SeqCst)
    }

    /// The gateway to go to now.
    fn life(&self) -> Arc<Life> {
        Arc::clone(&self.life.lock().expect("nobody panics with it"))
    }

    /// A new one; returns the one before.
    fn begin(&self, life: Life) -> Arc<Life> {
        std::mem::replace(&mut *self.life.lock().expect("nobody panics with it"), Arc::new(life))
    }

    /// Only one client of a user's logs in at a time.
    fn gate(&self, user: usize) -> MutexGuard<'_, ()> {
        self.gates[user].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// If its thread panics, all others end.
struct EndAll<'a>(&'a Site);

impl Drop for EndAll<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::SeqCst);
        }
    }
}

#[test]
fn fault_4_everything_breaks_and_every_message_is_there_once() {
    let plan = Plan::read();
    let results: Vec<(Kind, Tally, Vec<String>)> = thread::scope(|scope| {
        let soaks = KINDS.map(|kind| scope.spawn(move || soak(kind, plan)));
        let joined = soaks.into_iter().zip(KINDS).map(|(soak, kind)| (kind, soak.join()));
        joined.map(|(kind, soak)| unwind(soak.map(|(tally, wrong)| (kind, tally, wrong)))).collect()
    });
    print(&results);
    let wrong: Vec<&String> = results.iter().flat_map(|(_, _, wrong)| wrong).collect();
    wrong.iter().for_each(|wrong| println!("{wrong}"));
    assert!(wrong.is_empty(), "{} things are wrong", wrong.len());
    let messages: usize = results.iter().map(|(_, tally, _)| tally.of(Count::Once)).sum();
    assert!(messages >= plan.share() * KINDS.len() * USERS.len() * CLIENTS, "only {messages} messages");
    for (kind, tally, _) in &results {
        for count in [Count::Moves, Count::Kills, Count::Terms, Count::Cuts, Count::Restarts] {
            let happened = plan.length < Duration::from_secs(60) || tally.of(count) > 0;
            assert!(happened, "{kind:?}: none of {count:?} in {:?}", plan.length);
        }
    }
}

fn unwind<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn print(results: &[(Kind, Tally, Vec<String>)]) {
    let columns = KINDS.map(|kind| format!("{:>10}", kind.name())).concat();
    println!("{:36}{columns}{:>10}", "", "all");
    for (count, name) in NAMES {
        let numbers: Vec<usize> = results.iter().map(|(_, tally, _)| tally.of(count)).collect();
        let columns: String = numbers.iter().map(|number| format!("{number:>10}")).collect();
        println!("{name:36}{columns}{:>10}", numbers.iter().sum::<usize>());
    }
}

/// One server. What was counted, and what is wrong.
fn soak(kind: Kind, plan: Plan) -> (Tally, Vec<String>) {
    let mut random = fastrand::Rng::with_seed(plan.seed ^ kind.name().len() as u64);
    let server = Server::start(kind);
    let relay = Relay::start(server.address);
    let mailboxes: Vec<String> = MAILBOXES.iter().map(|name| mailbox(kind, name)).collect();
    let mut expected = stock(&server, &mailboxes, plan);
    let mut plant = Plant::start(server, &relay, random.fork());
    let site = Site {
        kind,
        relay,
        mailboxes,
        compete: plan.compete,
        pause: PAUSE,
        gates: Default::default(),
        life: Mutex::new(Arc::new(Life::of(&plant.gateway))),
        until: Instant::now() + plan.length,
        failed: AtomicBool::new(false),
    };
    let stories = live(&site, &mut plant, plan, &mut random);
    log_in_once_more(&site, &mut plant);
    let mut tally = std::mem::take(&mut plant.tally);
    let (mut attempts, mut seen) = (Vec::new(), BTreeMap::new());
    for story in stories {
        tally.merge(&story.tally);
        expected.extend(story.posted);
        attempts.extend(story.attempts);
        seen.extend(story.seen);
    }
    let wrong = read_log(&plant.log, &site, &mut tally);
    let (server, mailboxes, log) = (&plant.server, &site.mailboxes[..], &plant.log[..]);
    let books = Books { server, mailboxes, expected, attempts, seen, log, tally: &mut tally, wrong };
    let wrong = books.check();
    if !wrong.is_empty() {
        show(kind, log);
    }
    (tally, wrong)
}

fn mailbox(kind: Kind, name: &str) -> String {
    if name == "INBOX" { name.to_owned() } else { kind.mailbox(name) }
}

/// Fills the mailboxes, without the gateway. What is in them then.
fn stock(server: &Server, mailboxes: &[String], plan: Plan) -> BTreeMap<Letter, bool> {
    let mut expected = BTreeMap::new();
    for (user, (name, password)) in USERS.iter().enumerate() {
        let mut client = Client::connect(server.address);
        client.ok(&format!("LOGIN {name} {password}"));
        mailboxes.iter().skip(1).for_each(|mailbox| _ = client.ok(&format!("CREATE \"{mailbox}\"")));
        for number in 0..plan.share() * CLIENTS {
            let letter = Letter { user, owner: number % CLIENTS, number };
            client.append(&mailboxes[number % mailboxes.len()], letter.flags(), &letter.octets());
            client.forget();
            expected.insert(letter, true);
        }
    }
    expected
}

/// The soak itself.
fn live(site: &Site, plant: &mut Plant, plan: Plan, random: &mut fastrand::Rng) -> Vec<Story> {
    thread::scope(|scope| {
        let mut stories = Vec::new();
        for (user, owner) in (0..USERS.len()).flat_map(|user| (0..CLIENTS).map(move |owner| (user, owner))) {
            let first = plan.share() * CLIENTS;
            let posts = first..first + plan.share() / 10;
            let (random, story) = (random.fork(), Story::default());
            let user = User { site, user, owner, posts, random, story, debtor: None };
            stories.push(scope.spawn(move || {
                let _end_all = EndAll(site);
                user.live()
            }));
        }
        let end_all = EndAll(site);
        plant.rage(site);
        if site.failed.load(Ordering::SeqCst) {
            show(site.kind, &(plant.log.clone() + &plant.gateway.logged()));
        }
        drop(end_all);
        stories.into_iter().map(|story| unwind(story.join())).collect()
    })
}

/// Everybody logs in and selects each mailbox, until nothing is left to be finished; then the gateway ends.
fn log_in_once_more(site: &Site, plant: &mut Plant) {
    let begun = Instant::now();
    loop {
        for (user, mailbox) in USERS.iter().flat_map(|user| site.mailboxes.iter().map(move |m| (user, m))) {
            let visit = || {
                let mut line = Line::log_in(site.life().address, *user)?;
                line.select(mailbox)?;
                line.command("LOGOUT")
            };
            visit().unwrap_or_else(|error| {
                show(site.kind, &(plant.log.clone() + &plant.gateway.logged()));
                panic!("{user:?} cannot select {mailbox} in the end: {error}")
            });
        }
        plant.end(site);
        site.relay.wait_until_quiet();
        let files = plant.files();
        if files.is_empty() {
            return;
        }
        if begun.elapsed() > PATIENCE {
            show(site.kind, &plant.log);
            panic!("the journal still has {files:?}");
        }
        plant.begin_again(site);
    }
}

/// What happened, in order.
fn show(kind: Kind, log: &str) {
    let mut lines: Vec<&str> = log.lines().filter(|line| !line.contains("session ended")).collect();
    lines.sort_unstable();
    println!("{}:\n{}", kind.name(), lines.join("\n"));
}

/// What the gateways have logged: what came of MOVEs that were cut short, and what they should not log.
fn read_log(log: &str, site: &Site, tally: &mut Tally) -> Vec<String> {
    let lines = [
        (Count::Finished, "result=Finished"),
        (Count::Later, "result=Later"),
        (Count::Stale, "result=\"stale\""),
        (Count::Unproven, "result=\"unproven\""),
        (Count::Undone, "result=\"undo\""),
        (Count::Unrecorded, "a MOVE goes on without its record"),
        (Count::Left, "a MOVE has left messages"),
    ];
    for (count, words) in lines {
        tally.add(count, log.lines().filter(|line| line.contains(words)).count());
    }
    let removed = log.lines().filter_map(|line| line.split_once("removed=")?.1.trim().parse::<usize>().ok());
    tally.add(Count::Removed, removed.sum());
    let never = [" ERROR ", "panicked", "result=\"expired\"", "result=\"damaged\""];
    let wrong = log.lines().filter(|line| never.iter().any(|words| line.contains(words)));
    let moves = (site.relay.moves() > 0).then(|| "SRV-1: a MOVE has reached the server".to_owned());
    wrong.map(str::to_owned).chain(moves).collect()
}
