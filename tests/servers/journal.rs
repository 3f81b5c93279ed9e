//! FAULT-4: a journal whose disk is full, or whose file is not as it was written. Nothing is lost, the gateway starts, and
//! what cannot be finished is reported.

use crate::boundary::{Boundary, Scene, Stands};
use crate::client::PATIENCE;
use crate::disk::SmallDisk;
use crate::on_servers;
use crate::server::Kind;
use crate::tap::Point;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

on_servers!(fault_4_no_room_from_the_beginning: dovecot DOVECOT);
on_servers!(fault_4_no_room_for_the_proof: dovecot DOVECOT);
on_servers!(fault_4_no_room_for_the_next_gateway: dovecot DOVECOT);
on_servers!(fault_4_a_damaged_file: dovecot DOVECOT);

const NO_ROOM: &str = "the journal cannot be written";
/// KiB, enough for a journal.
const ROOM: u32 = 8 * 1024;

/// MOVEs go on without their records.
fn fault_4_no_room_from_the_beginning(kind: Kind) {
    let mut scene = Scene::start_with(kind, Some(4), &[]);
    let cell = scene.cell(3);
    let _client = scene.stopped(&cell, Boundary::ExpungeOk);
    assert_eq!(scene.errors(), 2.0, "the intent and the proof");
    assert_eq!(scene.gateway.logged().matches(NO_ROOM).count(), 1, "reported");

    let cell = scene.killed(3, Boundary::StoreOk);
    scene.restart();
    assert_eq!(scene.select(&cell.source), [cell.select()]);
    assert_eq!(scene.gateway.logged().matches(NO_ROOM).count(), 1, "reported");
    assert_eq!(scene.photo(&cell).stands(&cell), Stands::BothFlagged);
}

/// The disk is full when the proof is to be written. What was written before is reported, when there is room again.
fn fault_4_no_room_for_the_proof(kind: Kind) {
    let mut scene = Scene::start_with(kind, Some(ROOM), &[]);
    let cell = scene.cell(3);
    let _client = scene.stopped(&cell, Boundary::CopySent);
    assert_eq!(scene.errors(), 0.0);
    scene.disk().fill();
    let wire = scene.tap.latest();
    wire.stop_at(&[Point::Command("UID EXPUNGE")]);
    wire.wait_until_stopped(&[Point::Command("UID EXPUNGE")]);
    assert_eq!((scene.errors(), scene.gateway.logged().matches(NO_ROOM).count()), (1.0, 1), "reported");
    scene.kill();
    scene.restart();
    assert_eq!(scene.select(&cell.source), [cell.select()]);
    assert_eq!((scene.reports(), scene.photo(&cell).stands(&cell)), (0, Stands::BothFlagged));
    scene.kill();
    scene.disk().empty();
    scene.restart();
    assert_eq!(scene.select(&cell.source), [cell.select()]);
    assert_eq!((scene.reports(), scene.recoveries("unproven")), (1, 1.0), "reported");
    assert_eq!(scene.photo(&cell).stands(&cell), Stands::BothFlagged);
}

/// A gateway that cannot write down whose MOVEs it has taken over leaves them where they are.
fn fault_4_no_room_for_the_next_gateway(kind: Kind) {
    let mut scene = Scene::start_with(kind, Some(ROOM), &[]);
    let cell = scene.killed(3, Boundary::StoreOk);
    scene.disk().fill();
    scene.restart();
    assert_eq!(scene.select(&cell.source), [cell.select()]);
    assert_eq!(scene.gateway.logged().matches(NO_ROOM).count(), 1, "reported");
    assert_eq!(scene.photo(&cell).stands(&cell), Stands::BothFlagged);
    scene.disk().empty();
    // It tries to write every few seconds.
    let begun = Instant::now();
    let commands = loop {
        let commands = scene.select(&cell.source);
        if commands.len() > 1 || begun.elapsed() > PATIENCE {
            break commands;
        }
        sleep(Duration::from_millis(500));
    };
    assert_eq!(commands, cell.recovery(Stands::BothFlagged));
    assert_eq!(scene.photo(&cell).stands(&cell), Stands::Target);
}

/// How the file is changed.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// What comes from here on is cut off.
    Cut(Place),
    /// So many octets from here on are others.
    Overwritten(Place, usize),
}

/// A place in the file.
#[derive(Clone, Copy, Debug)]
enum Place {
    At(usize),
    BeforeEnd(usize),
    /// So many sixteenths of the file are before it.
    Part(usize),
    /// So many octets in front of the proof of the copies.
    BeforeProof(usize),
}

/// At the ends, where redb keeps its own data, where the MOVE itself stands, and all over the file.
const DAMAGES: [Damage; 28] = {
    use Damage::{Cut, Overwritten};
    use Place::{At, BeforeEnd, BeforeProof, Part};
    const ALL: usize = usize::MAX;
    [
        Cut(At(0)),
        Cut(At(1)),
        Cut(At(320)),
        Cut(At(4096)),
        Cut(Part(8)),
        Cut(BeforeProof(1)),
        Cut(BeforeEnd(4096)),
        Cut(BeforeEnd(1)),
        Overwritten(At(0), 16),
        Overwritten(At(9), 1),
        Overwritten(At(64), 16),
        Overwritten(At(128), 16),
        Overwritten(At(192), 16),
        Overwritten(At(256), 16),
        Overwritten(At(4096), 16),
        Overwritten(BeforeProof(200), 200),
        Overwritten(BeforeProof(64), 1),
        Overwritten(BeforeProof(0), 16),
        Overwritten(BeforeProof(0), 4096),
        Overwritten(Part(1), 4096),
        Overwritten(Part(3), 4096),
        Overwritten(Part(5), 4096),
        Overwritten(Part(7), 4096),
        Overwritten(Part(9), 4096),
        Overwritten(Part(12), 4096),
        Overwritten(Part(8), ALL),
        Overwritten(BeforeEnd(16), 16),
        Overwritten(At(0), ALL),
    ]
};

/// Whatever is not as it was written is not acted on. The MOVE is finished, or reported.
fn fault_4_a_damaged_file(kind: Kind) {
    let mut scene = Scene::start(kind);
    let mut finished = 0;
    for damage in DAMAGES {
        let cell = scene.killed(1, Boundary::StoreOk);
        let path = scene.only_file();
        fs::write(&path, damage.done_to(fs::read(&path).expect("reads"))).expect("writes");
        scene.restart();
        let (commands, stands) = (scene.select(&cell.source), scene.photo(&cell).stands(&cell));
        if stands == Stands::Target {
            finished += 1;
            assert_eq!(commands, cell.recovery(Stands::BothFlagged), "{damage:?}");
        } else {
            assert_eq!((stands, commands), (Stands::BothFlagged, vec![cell.select()]), "{damage:?}");
            scene.check_reported(&path);
        }
        println!("{damage:?}: {stands:?}");
    }
    assert!((1..DAMAGES.len()).contains(&finished), "some files can be used, some cannot: {finished}");
}

impl Damage {
    fn done_to(self, mut octets: Vec<u8>) -> Vec<u8> {
        match self {
            Damage::Cut(place) => octets.truncate(place.of(&octets)),
            Damage::Overwritten(place, count) => {
                let start = place.of(&octets);
                let end = start.saturating_add(count).min(octets.len());
                octets[start..end].iter_mut().for_each(|octet| *octet = !*octet);
            }
        }
        octets
    }
}

impl Place {
    fn of(self, octets: &[u8]) -> usize {
        let proof = || octets.windows(7).position(|window| window == b"COPYUID").expect("the proof");
        match self {
            Place::At(place) => place,
            Place::BeforeEnd(count) => octets.len() - count,
            Place::Part(sixteenths) => octets.len() / 16 * sixteenths,
            Place::BeforeProof(count) => proof() - count,
        }
    }
}

impl Scene {
    fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("a disk of its own")
    }

    /// A MOVE is, or the whole file, which is kept then.
    fn check_reported(&self, file: &Path) {
        let logged = self.gateway.logged();
        if self.recoveries("damaged") == 1.0 {
            assert!(logged.contains("a file of the journal is damaged"), "{logged}");
            assert!(file.with_extension("damaged").exists(), "it is kept: {:?}", self.files());
        } else {
            // redb went back to the transaction before, as if the power had failed in the middle of the last one.
            assert!(self.recoveries("unproven") == 1.0 && logged.contains("and is not finished"), "{logged}");
        }
    }

    /// What the journal could not write.
    fn errors(&self) -> f64 {
        self.gateway.metric("imapmove_journal_errors_total")
    }

    fn only_file(&self) -> PathBuf {
        let files: Vec<String> = self.files().into_iter().filter(|name| name.ends_with(".journal")).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        self.journal.path().join(&files[0])
    }
}
