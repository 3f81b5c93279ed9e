//! FAULT-2, FAULT-3, FAULT-4: the gateway is killed, told to end, or loses its connection to the server, at each step of a
//! MOVE; then the user logs in and selects a mailbox.

use crate::boundary::{Boundary, Cell, Scene, Stands, in_ranges};
use crate::client::Client;
use crate::on_servers;
use crate::server::Kind;
use crate::tap::Point;
use std::time::Duration;

on_servers!(fault_4_sigkill: dovecot DOVECOT, dovecot_mdbox DOVECOT_MDBOX, courier COURIER, cyrus CYRUS);
on_servers!(fault_2_sigterm: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_2_sigterm_twice: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_3_reset: dovecot DOVECOT, courier COURIER, cyrus CYRUS);

on_servers!(fault_3_sigterm_and_the_server_hangs: dovecot DOVECOT, courier COURIER, cyrus CYRUS);
on_servers!(fault_2_the_drain_deadline: dovecot DOVECOT);

/// What happens at a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The gateway is killed; another one is started.
    Sigkill,
    /// The gateway is told to end; then the traffic goes on.
    Sigterm,
    /// It is told so twice, and the traffic does not go on; another one is started.
    SigtermTwice,
    /// The connection to the server is reset on both sides; the same gateway goes on.
    Reset,
}

/// What must be so in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Each message once: in the target.
    Moved,
    /// Each once: in the source, and reported, because nobody can know that it was not copied.
    Stayed,
    /// Each in both mailboxes, and reported: nothing proves the copies.
    InBoth,
    /// There is no such case.
    None(&'static str),
}

impl End {
    fn stands(self) -> Stands {
        match self {
            End::Moved => Stands::Target,
            End::Stayed => Stands::Source,
            End::InBoth => Stands::Both,
            End::None(why) => panic!("there is no such case: {why}"),
        }
    }
}

/// The required ends. In no case is any other message touched, in flags, date or content.
const TABLE: [(Boundary, [(Fault, End); 4]); 8] = {
    use Boundary::*;
    use End::*;
    use Fault::*;
    const fn row(sigkill: End, sigterm: End, twice: End, reset: End) -> [(Fault, End); 4] {
        [(Sigkill, sigkill), (Sigterm, sigterm), (SigtermTwice, twice), (Reset, reset)]
    }
    [
        (BeforeCopy, row(Stayed, Moved, Stayed, Stayed)),
        (CopySent, row(InBoth, Moved, InBoth, InBoth)),
        (CopyOk, row(Moved, Moved, Moved, Moved)),
        (StoreSent, row(Moved, Moved, Moved, Moved)),
        (StoreOk, row(Moved, Moved, Moved, Moved)),
        (ExpungeSent, row(Moved, Moved, Moved, Moved)),
        (SomeSeen, row(Moved, Moved, Moved, Moved)),
        (ExpungeOk, row(Moved, Moved, None("the MOVE is over"), Moved)),
    ]
};

const COUNTS: [usize; 3] = [1, 3, 30];
/// Longer than the gateway's own drain deadline.
const DRAIN: Duration = Duration::from_secs(60);

fn fault_4_sigkill(kind: Kind) {
    each_boundary(kind, Fault::Sigkill);
}

fn fault_2_sigterm(kind: Kind) {
    each_boundary(kind, Fault::Sigterm);
}

fn fault_2_sigterm_twice(kind: Kind) {
    each_boundary(kind, Fault::SigtermTwice);
}

fn fault_3_reset(kind: Kind) {
    each_boundary(kind, Fault::Reset);
}

fn each_boundary(kind: Kind, fault: Fault) {
    let mut scene = Scene::start(kind);
    println!("{kind:?}, {fault:?}, with {COUNTS:?} messages:");
    for (at, ends) in TABLE {
        let (_, end) = ends.into_iter().find(|(of, _)| *of == fault).expect("a column for each fault");
        if !matches!(end, End::None(_)) {
            COUNTS.iter().for_each(|count| Case { at, fault, end, count: *count }.play(&mut scene));
        }
        println!("  {at:?}: {end:?}");
    }
}

/// The MOVE is given up, not the drain: all sessions have ended, so that is a clean end. The next gateway finishes it.
fn fault_3_sigterm_and_the_server_hangs(kind: Kind) {
    let mut scene = Scene::start_with(kind, None, &[("--move-timeout", "5s")]);
    let cell = scene.cell(3);
    let (client, tag) = scene.stopped(&cell, Boundary::StoreOk);
    scene.begin_drain();
    said_the_truth(client, &tag, &cell, Boundary::StoreOk);
    finished_by_the_next(&mut scene, &cell, "exit status: 0");
}

/// A server that answers too slowly, but does not hang.
fn fault_2_the_drain_deadline(kind: Kind) {
    let settings = [("--move-timeout", "5s"), ("--drain-deadline", "6s")];
    let mut scene = Scene::start_with(kind, None, &settings);
    let cell = scene.cell(3);
    let (client, tag) = scene.stopped(&cell, Boundary::StoreSent);
    let wire = scene.tap.latest();
    wire.slow_down();
    scene.begin_drain();
    wire.stop_at(&[Point::Command("UID EXPUNGE")]);
    said_the_truth(client, &tag, &cell, Boundary::StoreSent);
    finished_by_the_next(&mut scene, &cell, "exit status: 1");
}

fn finished_by_the_next(scene: &mut Scene, cell: &Cell, ended: &str) {
    assert_eq!(scene.gateway.wait_for_end(DRAIN), ended, "{}", scene.gateway.logged());
    assert_eq!(scene.files().len(), 1, "the record stays: {:?}", scene.files());
    scene.tap.drop_stopped();
    scene.restart();
    assert_eq!(scene.select(&cell.source), cell.recovery(Stands::BothFlagged));
    assert_eq!(scene.photo(cell).stands(cell), Stands::Target);
}

/// One cell of the table, with so many messages.
#[derive(Clone, Copy, Debug)]
struct Case {
    at: Boundary,
    fault: Fault,
    end: End,
    count: usize,
}

impl Case {
    fn play(self, scene: &mut Scene) {
        let cell = scene.cell(self.count);
        let (client, tag) = scene.stopped(&cell, self.at);
        let mut before = Counts::of(scene);
        match self.fault {
            Fault::Sigkill => scene.kill(),
            Fault::Sigterm => self.terminate(scene, client, &tag),
            Fault::SigtermTwice => self.cut(scene, client, &tag, &cell),
            Fault::Reset => {
                scene.tap.reset();
                said_the_truth(client, &tag, &cell, self.at);
            }
        }
        if self.fault != Fault::Reset {
            scene.restart();
            before = Counts { reports: before.reports, ..Counts::default() };
        }
        let commands = scene.select(&cell.source);
        assert_eq!(scene.photo(&cell).stands(&cell), self.end.stands(), "{self:?}: {commands:#?}");
        self.check_counts(scene, before, commands.len() > 1);
        self.check_commands(commands, &cell);
    }

    /// The client gets its OK, and BYE.
    fn terminate(self, scene: &mut Scene, mut client: Client, tag: &str) {
        scene.begin_drain();
        scene.tap.release();
        if self.at != Boundary::ExpungeOk {
            let reply = client.finish(tag);
            assert!(reply.is_ok(), "{self:?}: {}", reply.status());
        }
        let rest = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(rest.starts_with("* BYE"), "{self:?}: {rest:?}");
        drop(client);
        assert_eq!(
            scene.gateway.wait_for_end(DRAIN),
            "exit status: 0",
            "{self:?}: {}",
            scene.gateway.logged()
        );
        assert_eq!(scene.files(), [""; 0], "{self:?}: the journal is empty");
    }

    /// The MOVE cannot be finished: the client gets the truth.
    fn cut(self, scene: &mut Scene, client: Client, tag: &str, cell: &Cell) {
        scene.begin_drain();
        scene.gateway.terminate();
        said_the_truth(client, tag, cell, self.at);
        assert_eq!(
            scene.gateway.wait_for_end(DRAIN),
            "exit status: 1",
            "{self:?}: {}",
            scene.gateway.logged()
        );
        scene.tap.drop_stopped();
    }

    fn check_counts(self, scene: &Scene, mut expected: Counts, looked: bool) {
        if self.end != End::Moved {
            expected.reports += 1;
            // A gateway that ends in order reports that itself, just before.
            expected.unproven += f64::from(u8::from(self.fault != Fault::SigtermTwice));
        }
        expected.finished += f64::from(u8::from(looked));
        assert_eq!(Counts::of(scene), expected, "{self:?}\n{}", scene.gateway.logged());
        assert_eq!(scene.gateway.metric("imapmove_journal_pending"), 0.0, "{self:?}");
    }

    fn check_commands(self, commands: Vec<String>, cell: &Cell) {
        let all_seen = self.at == Boundary::SomeSeen && self.count == 1;
        let nothing_owed = match self.fault {
            Fault::Sigterm => true,
            // Nobody waits until the journal has the end of a MOVE.
            Fault::Sigkill => self.at == Boundary::ExpungeOk && commands.len() == 1,
            Fault::SigtermTwice | Fault::Reset => self.at == Boundary::ExpungeOk || all_seen,
        };
        let looks = self.end == End::Moved && !nothing_owed;
        let expected = if looks { cell.recovery(self.at.stands()) } else { vec![cell.select()] };
        assert_eq!(commands, expected, "{self:?}");
    }
}

/// What was reported and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    reports: usize,
    unproven: f64,
    finished: f64,
}

impl Counts {
    fn of(scene: &Scene) -> Counts {
        let (unproven, finished) = (scene.recoveries("unproven"), scene.recoveries("finished"));
        Counts { reports: scene.reports(), unproven, finished }
    }
}

/// What the client is told is so, and then comes BYE.
fn said_the_truth(mut client: Client, tag: &str, cell: &Cell, at: Boundary) {
    if at != Boundary::ExpungeOk {
        let status = client.finish(tag).status();
        let known: Vec<u32> = client.view.0.iter().map(|uid| uid.expect("a UID")).collect();
        let is_moved = |uid: &u32| cell.moved.iter().any(|message| message.uid == *uid);
        let unseen: Vec<u32> = known.into_iter().filter(is_moved).collect();
        let seen = cell.count - unseen.len();
        let expected = match at {
            Boundary::BeforeCopy | Boundary::CopySent => {
                "all are still in the source, copies may be in the target".to_owned()
            }
            _ if unseen.is_empty() => "OK Move completed".to_owned(),
            _ => format!(
                "({seen} moved; in the target, and perhaps still in the source and flagged as deleted there: UID {})",
                in_ranges(unseen)
            ),
        };
        assert!(status.ends_with(&expected), "{at:?}: {status}, expected {expected}");
        assert!(status.starts_with("NO [UNAVAILABLE] ") || status == expected, "{status}");
    }
    let rest = String::from_utf8_lossy(&client.rest()).into_owned();
    assert!(rest.starts_with("* BYE [UNAVAILABLE] ") && rest.lines().count() == 1, "{at:?}: {rest:?}");
}
