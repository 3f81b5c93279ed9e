//! A MOVE that is stopped at one of its steps: a server, a tap that stops it there, a gateway with a journal.

use crate::check_no_move_in;
use crate::client::Client;
use crate::disk::SmallDisk;
use crate::gateway::Gateway;
use crate::in_memory;
use crate::mail::{self, Message};
use crate::server::{Kind, Server};
use crate::tap::{Point, Tap};
use tempfile::TempDir;

/// What a MOVE has come to when it is stopped. (STORE and UID EXPUNGE go out together.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The server does not get COPY.
    BeforeCopy,
    /// It has copied. The gateway does not hear it.
    CopySent,
    /// The gateway has heard it. The server does not get STORE.
    CopyOk,
    /// The messages are flagged. The gateway does not hear it, the server does not get EXPUNGE.
    StoreSent,
    /// The gateway has heard it. The server does not get EXPUNGE.
    StoreOk,
    /// The messages have left. The gateway hears of none.
    ExpungeSent,
    /// The gateway has heard of half of them.
    SomeSeen,
    /// The client has its OK.
    ExpungeOk,
}

/// What stands on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// All is in the source alone.
    Source,
    /// All is in both mailboxes.
    Both,
    /// The same, flagged as deleted in the source.
    BothFlagged,
    /// All is in the target alone.
    Target,
}

const COPY: &str = "UID COPY";
const STORE: &str = "UID STORE";
const EXPUNGE: &str = "UID EXPUNGE";

impl Boundary {
    /// Where a MOVE of so many messages is stopped.
    fn stops(self, count: usize) -> Vec<Point> {
        match self {
            Boundary::BeforeCopy => vec![Point::Command(COPY)],
            Boundary::CopySent => vec![Point::Reply(COPY)],
            Boundary::CopyOk => vec![Point::Command(STORE)],
            Boundary::StoreSent => vec![Point::Reply(STORE), Point::Command(EXPUNGE)],
            Boundary::StoreOk => vec![Point::Command(EXPUNGE)],
            Boundary::ExpungeSent => vec![Point::Removal(0)],
            Boundary::SomeSeen if count == 1 => vec![Point::Reply(EXPUNGE)],
            Boundary::SomeSeen => vec![Point::Removal(count.div_ceil(2))],
            Boundary::ExpungeOk => Vec::new(),
        }
    }

    /// What stands on the server then.
    pub fn stands(self) -> Stands {
        match self {
            Boundary::BeforeCopy => Stands::Source,
            Boundary::CopySent | Boundary::CopyOk => Stands::Both,
            Boundary::StoreSent | Boundary::StoreOk => Stands::BothFlagged,
            Boundary::ExpungeSent | Boundary::SomeSeen | Boundary::ExpungeOk => Stands::Target,
        }
    }
}

/// A server, a tap, a gateway with a journal; many MOVEs, one after the other.
pub struct Scene {
    pub gateway: Gateway,
    pub tap: Tap,
    pub server: Server,
    pub journal: TempDir,
    /// What the journal is on, if that is not the disk of everything else.
    pub disk: Option<SmallDisk>,
    /// A connection that does not go through the gateway.
    pub direct: Client,
    mailboxes: usize,
    /// How often gateways that have ended have reported a MOVE.
    reports: usize,
}

/// One MOVE of that scene, between two mailboxes of its own.
pub struct Cell {
    pub source: String,
    pub target: String,
    /// How many messages are moved, and their UIDs as a set.
    pub count: usize,
    pub set: String,
    /// What both held before, and the messages to be moved.
    pub before: Photo,
    pub moved: Vec<Message>,
}

/// What both mailboxes of a cell hold, message by message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Photo {
    pub source: Vec<Message>,
    pub target: Vec<Message>,
}

/// Where messages come from: the most that are moved, and [`BYSTANDERS`] among them.
const STOCK: u32 = 34;
/// Which of the stock are not moved. The third is flagged as deleted. The first and that one are in the target too.
const BYSTANDERS: [u32; 4] = [1, 17, STOCK - 1, STOCK];
const FLAGS: [&str; 6] =
    ["", "\\Seen", "\\Answered \\Flagged", "Work", "\\Draft \\Seen", "\\Flagged $Label1"];

impl Scene {
    pub fn start(kind: Kind) -> Scene {
        Scene::start_with(kind, None, &[])
    }

    /// [`start`](Scene::start) with further settings for the first gateway, and the journal on a small disk of so many KiB.
    pub fn start_with(kind: Kind, disk: Option<u32>, settings: &[(&str, &str)]) -> Scene {
        let server = Server::start(kind);
        let tap = Tap::start(server.address);
        let journal = in_memory::folder();
        let disk = disk.map(|size| SmallDisk::mount(journal.path(), size));
        let gateway = gateway(&tap, &journal, disk.as_ref(), settings);
        let mut direct = server.login();
        stock(&mut direct, &kind.mailbox("Stock"));
        Scene { gateway, tap, server, journal, disk, direct, mailboxes: 0, reports: 0 }
    }

    /// Two mailboxes, of which one holds so many messages to be moved, and both hold others.
    pub fn cell(&mut self, count: usize) -> Cell {
        self.mailboxes += 1;
        let name = |name: &str| self.server.kind.mailbox(&format!("{name}{}", self.mailboxes));
        let (source, target) = (name("Source"), name("Target"));
        self.direct.ok(&format!("CREATE \"{source}\""));
        self.cell_between(source, target, count)
    }

    /// [`cell`](Scene::cell), with these mailboxes, of which there is only the first, and nothing in it.
    pub fn cell_between(&mut self, source: String, target: String, count: usize) -> Cell {
        let others = |n: &u32| BYSTANDERS.contains(n);
        let moved: Vec<u32> = (1..=STOCK).filter(|n| !others(n)).take(count).collect();
        let all = in_ranges(moved.iter().copied().chain(BYSTANDERS).collect());
        self.direct.ok(&format!("CREATE \"{target}\""));
        self.direct.examine(&self.server.kind.mailbox("Stock"));
        self.direct.ok(&format!("COPY {all} \"{source}\""));
        self.direct.ok(&format!("COPY {},{} \"{target}\"", BYSTANDERS[0], BYSTANDERS[2]));
        let before = self.photo_of(&source, &target);
        let is_moved = |m: &&Message| moved.iter().any(|n| m.octets.contains(&format!("{}\r", subject(*n))));
        let moved: Vec<Message> = before.source.iter().filter(is_moved).cloned().collect();
        assert_eq!((moved.len(), before.source.len(), before.target.len()), (count, count + 4, 2));
        assert!(before.target[1].flags.contains("\\Deleted"), "one that nobody but the user may expunge");
        let set = in_ranges(moved.iter().map(|message| message.uid).collect());
        Cell { source, target, count, set, before, moved }
    }

    /// What stands on the server, seen by a connection that does not go through the gateway.
    pub fn photo(&mut self, cell: &Cell) -> Photo {
        self.photo_of(&cell.source, &cell.target)
    }

    /// Another connection that does not go through the gateway.
    pub fn user(&self) -> Client {
        self.server.login()
    }

    fn photo_of(&mut self, source: &str, target: &str) -> Photo {
        let source = mail::messages(&mut self.direct, source);
        Photo { source, target: mail::messages(&mut self.direct, target) }
    }

    /// A client whose MOVE has come so far, and the tag of that. The client has had no reply yet, but in the last case.
    pub fn stopped(&mut self, cell: &Cell, at: Boundary) -> (Client, String) {
        self.stopped_as(cell, at, |client| {
            client.start(&format!("UID MOVE {} \"{}\"", cell.set, cell.target))
        })
    }

    /// [`stopped`](Scene::stopped), where the MOVE is sent in this way.
    pub fn stopped_as(
        &mut self,
        cell: &Cell,
        at: Boundary,
        send: impl FnOnce(&mut Client) -> String,
    ) -> (Client, String) {
        let mut client = self.gateway.login();
        client.select(&cell.source);
        let (wire, stops) = (self.tap.latest(), at.stops(cell.count));
        wire.stop_at(&stops);
        let tag = send(&mut client);
        wire.wait_until_stopped(&stops);
        match at {
            Boundary::StoreOk => wire.wait_for_reply(STORE),
            Boundary::ExpungeOk => {
                let reply = client.finish(&tag);
                assert!(reply.is_ok(), "{}", reply.status());
            }
            _ => {}
        }
        let photo = self.photo(cell);
        assert_eq!(photo.stands(cell), at.stands(), "{at:?}: what stands on the server\n{photo:#?}");
        (client, tag)
    }

    /// A cell whose MOVE has come so far when the gateway was killed.
    pub fn killed(&mut self, count: usize, at: Boundary) -> Cell {
        let cell = self.cell(count);
        let _client = self.stopped(&cell, at);
        self.kill();
        cell
    }

    /// SIGKILL. The server hears the end of the connection, and nothing of what was stopped.
    pub fn kill(&mut self) {
        self.gateway.kill();
        self.tap.drop_stopped();
    }

    /// SIGTERM, and the gateway has noticed it.
    pub fn begin_drain(&mut self) {
        self.gateway.terminate();
        self.gateway.wait_until_draining();
    }

    /// Another gateway, with the journal of the one before.
    pub fn restart(&mut self) {
        self.reports = self.reports();
        self.gateway = gateway(&self.tap, &self.journal, self.disk.as_ref(), &[]);
    }

    /// A second gateway, with the same journal, becomes the one of the scene; the first one is returned.
    pub fn another(&mut self) -> Gateway {
        let second = gateway(&self.tap, &self.journal, self.disk.as_ref(), &[]);
        std::mem::replace(&mut self.gateway, second)
    }

    /// The user logs in through the gateway and selects the mailbox. What reached the server for that, the login apart.
    pub fn select(&mut self, mailbox: &str) -> Vec<String> {
        let client = self.gateway.login();
        self.select_as(client, mailbox)
    }

    /// [`select`](Scene::select), by a client that is logged in.
    pub fn select_as(&mut self, mut client: Client, mailbox: &str) -> Vec<String> {
        let wire = self.tap.latest();
        let reply = client.ok(&format!("SELECT \"{mailbox}\""));
        let exists = mail::messages(&mut self.direct, mailbox).len();
        assert_eq!(client.view.0.len(), exists, "EXISTS: {:?}", reply.lines());
        let words = ["EXISTS", "FETCH", "EXPUNGE", "SEARCH", "VANISHED"];
        let counted = reply.lines().into_iter().filter(|line| words.iter().any(|word| line.contains(word)));
        assert_eq!(counted.count(), 1, "EXISTS and no other data: {:?}", reply.lines());
        let mut commands = wire.commands();
        check_no_move_in(&commands);
        commands.retain(|command| !["LOGIN", "CAPAB"].contains(&&command[..5]));
        client.ok("LOGOUT");
        self.settle();
        commands
    }

    /// The journal does one thing after the other: when it has answered somebody, what came before is counted.
    fn settle(&self) {
        let mut bob = Client::connect(self.gateway.address);
        bob.ok("LOGIN bob builder");
        bob.ok("SELECT INBOX");
        bob.ok("LOGOUT");
    }

    /// How often all gateways together have reported a MOVE that nobody finishes.
    pub fn reports(&self) -> usize {
        self.reports + self.gateway.logged().matches("a MOVE was cut short and is not finished").count()
    }

    /// The names of the journal's files.
    pub fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.journal.path()).expect("a folder");
        files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect()
    }

    /// MOVEs that a gateway found unfinished, by what came of them.
    pub fn recoveries(&self, result: &str) -> f64 {
        self.gateway.metric(&format!("imapmove_recoveries_total{{result=\"{result}\"}}"))
    }
}

fn gateway(tap: &Tap, journal: &TempDir, disk: Option<&SmallDisk>, settings: &[(&str, &str)]) -> Gateway {
    let inside = disk.map_or(Vec::new(), SmallDisk::enter);
    Gateway::start_inside(&inside, tap.address, &[settings, &[journal_in(journal)]].concat())
}

/// A failing test shows what its gateway has logged last.
impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("The gateway's log:\n{}", self.gateway.logged());
        }
    }
}

/// The setting of a journal in this folder.
pub fn journal_in(folder: &TempDir) -> (&str, &str) {
    ("--journal", folder.path().to_str().expect("a name of plain letters"))
}

impl Cell {
    /// The UID that the copy of a message gets, counted from 0.
    pub fn copy(&self, index: u32) -> u32 {
        self.before.target.iter().map(|message| message.uid).max().expect("others are there") + 1 + index
    }

    /// What reaches the server when this MOVE is finished before the same user's SELECT of the source.
    pub fn recovery(&self, stands: Stands) -> Vec<String> {
        let Cell { source, target, set, .. } = self;
        let copies = in_ranges((0..self.count as u32).map(|n| self.copy(n)).collect());
        let removal = [
            format!("UID STORE {set} +FLAGS.SILENT (\\DELETED)"),
            format!("UID EXPUNGE {set}"),
            format!("UID SEARCH UID {set}"),
        ];
        let mut commands = vec![
            format!("EXAMINE \"{target}\""),
            format!("UID FETCH {copies} (UID FLAGS INTERNALDATE RFC822.SIZE)"),
            format!("SELECT \"{source}\""),
            format!("UID FETCH {set} (UID FLAGS INTERNALDATE RFC822.SIZE)"),
        ];
        commands.extend(removal.into_iter().filter(|_| stands != Stands::Target));
        commands.push(format!("EXAMINE \"{source}\""));
        commands.extend(self.look_again().into_iter().filter(|_| stands == Stands::Target));
        commands.extend(["CLOSE".into(), self.select()]);
        commands.iter().map(|command| command.to_uppercase()).collect()
    }

    /// What was not found is searched for once more; one of the others is flagged as deleted, and looked at.
    fn look_again(&self) -> Vec<String> {
        let last = self.moved.iter().map(|message| message.uid).max().expect("one is moved");
        let flagged = |m: &&Message| m.uid > last && m.flags.contains("\\Deleted");
        let flagged = self.before.source.iter().filter(flagged).map(|message| message.uid).collect();
        vec![
            format!("UID SEARCH UID {}", self.set),
            format!("UID SEARCH UID {}:{} DELETED", last + 1, u32::MAX),
            format!("UID FETCH {} (UID FLAGS INTERNALDATE RFC822.SIZE)", in_ranges(flagged)),
        ]
    }

    /// What reaches the server for the SELECT itself.
    pub fn select(&self) -> String {
        format!("SELECT \"{}\"", self.source).to_uppercase()
    }
}

impl Photo {
    /// Where the messages to be moved are. All others must be as they were.
    pub fn stands(&self, cell: &Cell) -> Stands {
        let Cell { before, moved, .. } = cell;
        let is_moved = |m: &Message| moved.iter().any(|moved| moved.uid == m.uid);
        let (here, others): (Vec<_>, Vec<_>) = self.source.iter().cloned().partition(is_moved);
        let others_before: Vec<_> = before.source.iter().filter(|m| !is_moved(m)).cloned().collect();
        assert_eq!(others, others_before, "what is not moved is as it was in the source");
        assert!(self.target.starts_with(&before.target), "and in the target: {:#?}", self.target);
        let copies = &self.target[before.target.len()..];
        let mut flagged = moved.clone();
        flagged.iter_mut().for_each(|message| message.flags.extend(["\\Deleted".to_owned()]));
        let all_copied = copies.len() == moved.len() && copies.iter().zip(moved).all(|(a, b)| a.is_like(b));
        match (&here, copies.len()) {
            _ if here == *moved && copies.is_empty() => Stands::Source,
            _ if here == *moved && all_copied => Stands::Both,
            _ if here == flagged && all_copied => Stands::BothFlagged,
            _ if here.is_empty() && all_copied => Stands::Target,
            _ => panic!("in the source {here:#?}\nin the target {copies:#?}\nto be moved {moved:#?}"),
        }
    }
}

/// Messages with dates and flags of all sorts.
fn stock(client: &mut Client, mailbox: &str) {
    client.ok(&format!("CREATE \"{mailbox}\""));
    for n in 1..=STOCK {
        let day = n % 28 + 1;
        let flags = if n == BYSTANDERS[2] { "\\Deleted" } else { FLAGS[n as usize % FLAGS.len()] };
        let attributes = format!("({flags}) \"{day:02}-Mar-2019 12:34:{n:02} +0200\"");
        client.append_as(mailbox, &attributes, &mail::message(&subject(n)));
    }
}

fn subject(n: u32) -> String {
    format!("stock{n}.")
}

/// As the gateway writes a set: ascending, in ranges.
pub fn in_ranges(mut numbers: Vec<u32>) -> String {
    numbers.sort_unstable();
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => one.to_string(),
        _ => format!("{}:{}", run[0], run[run.len() - 1]),
    });
    runs.collect::<Vec<_>>().join(",")
}
