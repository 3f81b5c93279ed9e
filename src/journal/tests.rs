//! FAULT-4: the journal on disk. Another process is played by another keeper: it knows nothing of this one but the
//! folder.

use super::entry::tests::copied;
use super::entry::{EXPIRY, Entry, State, now};
use super::file::{DeadFile, OwnFile};
use super::keeper::{Keeper, TRIES};
use super::*;
use crate::imap::Intent;
use prometheus::{Histogram, HistogramOpts};
use std::fs;
use std::future::poll_fn;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

const UPSTREAM: &str = "127.0.0.1:143";

/// A folder and the keepers in it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    fn keeper(&self) -> Tested {
        self.keeper_for(UPSTREAM)
    }

    fn keeper_for(&self, upstream: &str) -> Tested {
        let metrics: Arc<Metrics> = Arc::default();
        let ids = Arc::default();
        let draining: Arc<AtomicBool> = Arc::default();
        let folder = self.0.path().into();
        let keeper = Keeper::new(folder, upstream.into(), metrics.clone(), ids, draining.clone());
        Tested { keeper, metrics, draining, next: 1000 }
    }

    /// What a process leaves that is killed with these entries.
    fn left_by_the_dead(&self, entries: &[Entry]) {
        let own = own_file(self.0.path(), entries);
        own.close();
    }

    /// The files whose names end so.
    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let items = fs::read_dir(self.0.path()).expect("reads").map(|item| item.expect("an item").path());
        items.filter(|path| path.extension().is_some_and(|e| e == ending)).collect()
    }
}

fn own_file(folder: &Path, entries: &[Entry]) -> OwnFile {
    let syncs = Histogram::with_opts(HistogramOpts::new("syncs", "syncs")).expect("a legal name");
    let entries = entries.iter().enumerate().map(|(id, entry)| (id as u64, entry.encode()));
    OwnFile::create(folder, UPSTREAM, syncs, entries).expect("a file")
}

/// A keeper without its thread.
struct Tested {
    keeper: Keeper,
    metrics: Arc<Metrics>,
    draining: Arc<AtomicBool>,
    next: u64,
}

impl Tested {
    fn serve(&mut self, request: Request) {
        assert!(self.keeper.serve(vec![request]).is_none());
    }

    /// Time passes.
    fn tick(&mut self) {
        assert!(self.keeper.serve(Vec::new()).is_none());
    }

    /// Says whether it is on disk.
    fn write(&mut self, id: u64, session: &Arc<()>, record: Record) -> bool {
        let (done, mut answer) = oneshot::channel();
        self.serve(Request::Write { id, session: session.clone(), record, done: Some(done) });
        match answer.try_recv() {
            Ok(Answer::Persisted { written }) => written,
            other => panic!("no answer: {other:?}"),
        }
    }

    /// A MOVE up to where STORE is sent. Says under which number.
    fn copy(&mut self, session: &Arc<()>) -> u64 {
        self.next += 1;
        self.write(self.next, session, Record::Intent(copied().intent));
        self.write(self.next, session, Record::Copied { copyuid: copyuid() });
        self.next
    }

    fn ask(&mut self, session: &Arc<()>, owner: Owner) -> Vec<Unfinished> {
        let (reply, mut answer) = oneshot::channel();
        self.serve(Request::Ask { owner, session: session.clone(), reply });
        match answer.try_recv() {
            Ok(Answer::Unfinished(unfinished)) => unfinished,
            other => panic!("no list: {other:?}"),
        }
    }

    fn settle(&mut self, session: &Arc<()>, id: u64, result: Recovered) {
        self.serve(Request::Recovered { id, session: session.clone(), result });
    }

    fn count(&self, result: &str) -> u64 {
        self.metrics.recoveries.with_label_values(&[result]).get()
    }

    /// As SIGKILL does: nothing is removed.
    fn kill(self) {
        drop(self.keeper);
    }

    fn close(mut self) {
        self.keeper.close();
    }
}

fn alice() -> Owner {
    copied().intent.owner
}

fn session() -> Arc<()> {
    Arc::default()
}

fn copyuid() -> Option<Vec<u8>> {
    match copied().state {
        State::Copied(copyuid) => copyuid,
        _ => None,
    }
}

/// The same MOVE, whatever its number.
fn expected(id: u64) -> Unfinished {
    copied().unfinished(id).expect("it can be finished")
}

#[test]
fn fault_4_a_killed_gateways_move_is_offered_to_its_user_alone() {
    let folder = Folder::new();
    let mut killed = folder.keeper();
    killed.copy(&session());
    killed.kill();

    let mut keeper = folder.keeper();
    let mallory = Owner { user: b"mallory".into(), utf8: false };
    let in_utf8 = Owner { utf8: true, ..alice() };
    let session = session();
    assert_eq!(keeper.ask(&session, mallory), []);
    assert_eq!(keeper.ask(&session, in_utf8), []);
    let offered = keeper.ask(&session, alice());
    assert_eq!(offered, [expected(offered[0].id)]);
    assert_eq!(folder.files("journal").len(), 1, "the dead one's file is gone, its MOVE is in the other");
}

#[test]
fn fault_4_a_living_gateways_file_is_never_taken() {
    let folder = Folder::new();
    let (mut one, mut other) = (folder.keeper(), folder.keeper());
    let lost = session();
    one.copy(&lost);
    drop(lost);
    assert_eq!(other.ask(&session(), alice()), []);
    assert_eq!(one.ask(&session(), alice()).len(), 1);
    one.kill();
    assert_eq!(other.ask(&session(), alice()).len(), 1);
}

#[test]
fn fault_4_a_draining_gateway_leaves_to_others_what_nobody_is_at() {
    let folder = Folder::new();
    let (mut draining, mut other) = (folder.keeper(), folder.keeper());
    let (lost, kept) = (session(), session());
    draining.copy(&lost);
    let kept_id = draining.copy(&kept);
    draining.draining.store(true, Ordering::Relaxed);
    draining.tick();
    assert_eq!(other.ask(&session(), alice()), [], "both sessions live");
    drop(lost);
    draining.tick();
    assert_eq!(folder.files("journal").len(), 3, "of the two, and nobody's");
    assert_eq!(other.ask(&session(), alice()).len(), 1);
    assert_eq!(folder.files("journal").len(), 2);
    drop(kept);
    assert_eq!(draining.ask(&session(), alice()), [expected(kept_id)], "its own sessions still may");
    draining.tick();
    assert_eq!(other.ask(&session(), alice()).len(), 2);
    draining.close();
}

#[test]
fn fault_4_what_the_user_moves_elsewhere_is_reported_and_not_finished() {
    let moves = |uids: &str, change: &dyn Fn(&mut Intent)| {
        let folder = Folder::new();
        let (mut killed, mut keeper) = (folder.keeper(), folder.keeper());
        killed.copy(&session());
        killed.kill();
        let mut intent = Intent { target: b"Elsewhere".into(), uids: uids.into(), ..copied().intent };
        change(&mut intent);
        let mine = session();
        keeper.write(1, &mine, Record::Intent(intent));
        (keeper.count("stale"), keeper.ask(&session(), alice()).len())
    };
    let (reported, left_alone) = ((1, 0), (0, 1));
    for uids in ["2", "4", "5", "1:9", "1,5", "3:4", "4:5"] {
        assert_eq!(moves(uids, &|_| ()), reported, "{uids} of 2,4:5");
    }
    for uids in ["1", "3", "6", "1,3,6:9"] {
        assert_eq!(moves(uids, &|_| ()), left_alone, "{uids} of 2,4:5");
    }
    assert_eq!(moves("2", &|intent| intent.source = Some(b"inbox".into())), reported, "INBOX has no case");
    assert_eq!(moves("2", &|intent| intent.source = Some(b"Other".into())), left_alone);
    assert_eq!(moves("2", &|intent| intent.source_validity = Some(8)), left_alone);
    assert_eq!(moves("2", &|intent| intent.owner.user = b"bob".into()), left_alone);
}

#[test]
fn fault_4_a_living_sessions_move_is_never_offered() {
    let (folder, mine) = (Folder::new(), session());
    let mut keeper = folder.keeper();
    let id = keeper.copy(&mine);
    assert_eq!(keeper.ask(&session(), alice()), []);
    drop(mine);
    assert_eq!(keeper.ask(&session(), alice()), [expected(id)]);
}

#[test]
fn fault_4_a_request_that_waits_keeps_its_session_alive() {
    let (folder, mine) = (Folder::new(), session());
    let mut keeper = folder.keeper();
    let id = keeper.copy(&mine);
    let ended = Request::Write { id, session: mine, record: Record::Ended, done: None };
    keeper.tick();
    assert_eq!(keeper.ask(&session(), alice()), []);
    keeper.serve(ended);
    assert_eq!(keeper.ask(&session(), alice()), []);
    assert_eq!(keeper.metrics.journal_pending.get(), 0);
}

#[test]
fn fault_4_one_session_finishes_a_move_and_no_other_does_meanwhile() {
    let folder = Folder::new();
    let mut keeper = folder.keeper();
    let id = keeper.copy(&session());
    let (first, second) = (session(), session());
    assert_eq!(keeper.ask(&first, alice()), [expected(id)]);
    assert_eq!(keeper.ask(&second, alice()), []);

    // Not by one that was not given it.
    keeper.settle(&second, id, Recovered::Finished);
    assert_eq!(keeper.count("finished"), 0);
    // Put off, or given up without a word, it is another one's.
    keeper.settle(&first, id, Recovered::Later);
    assert_eq!(keeper.ask(&second, alice()), [expected(id)]);
    drop(second);
    assert_eq!(keeper.ask(&first, alice()), [expected(id)]);
    assert_eq!((keeper.count("later"), keeper.metrics.journal_pending.get()), (1, 1));
    keeper.settle(&first, id, Recovered::Finished);
    assert_eq!(keeper.ask(&session(), alice()), []);
    assert_eq!((keeper.count("finished"), keeper.metrics.journal_pending.get()), (1, 0));
    keeper.close();
    assert_eq!(folder.files("journal"), [""; 0].map(PathBuf::from));
}

#[test]
fn fault_4_a_session_that_no_longer_waits_for_the_answer_claims_nothing() {
    let folder = Folder::new();
    let mut keeper = folder.keeper();
    let (id, gone) = (keeper.copy(&session()), session());
    let (reply, answer) = oneshot::channel();
    drop(answer);
    keeper.serve(Request::Ask { owner: alice(), session: gone.clone(), reply });
    assert_eq!(keeper.ask(&session(), alice()), [expected(id)]);
}

#[test]
fn fault_4_what_is_stale_is_not_tried_again() {
    let folder = Folder::new();
    let mut keeper = folder.keeper();
    let (id, mine) = (keeper.copy(&session()), session());
    assert_eq!(keeper.ask(&mine, alice()), [expected(id)]);
    keeper.settle(&mine, id, Recovered::Stale);
    assert_eq!(keeper.count("stale"), 1);
    keeper.kill();
    assert_eq!(folder.keeper().ask(&session(), alice()), []);
}

#[test]
fn fault_4_what_cannot_be_finished_is_reported_and_never_offered() {
    let folder = Folder::new();
    folder.left_by_the_dead(&[
        Entry { state: State::Intent, ..copied() },
        Entry { state: State::Copied(None), ..copied() },
        Entry { intent: Intent { source: None, ..copied().intent }, ..copied() },
        Entry { intent: Intent { source_validity: None, ..copied().intent }, ..copied() },
        Entry { state: State::Undo, ..copied() },
        Entry { at: now() - EXPIRY.as_secs() - 2, ..copied() },
        Entry { at: now() + EXPIRY.as_secs() + 60, ..copied() },
    ]);
    let mut keeper = folder.keeper();
    assert_eq!(keeper.ask(&session(), alice()), []);
    let counts = ["unproven", "undo", "expired", "damaged"].map(|result| keeper.count(result));
    assert_eq!(counts, [4, 1, 2, 0]);
    keeper.close();
    assert!(folder.files("journal").is_empty());
}

#[test]
fn fault_4_undo_in_a_session_that_dies_is_never_rolled_forward() {
    let folder = Folder::new();
    let (mut keeper, mine) = (folder.keeper(), session());
    let id = keeper.copy(&mine);
    keeper.write(id, &mine, Record::Undo);
    drop(mine);
    assert_eq!(keeper.ask(&session(), alice()), []);
    assert_eq!(keeper.count("undo"), 1);
}

#[test]
fn fault_4_a_move_whose_sessions_all_die_is_given_up() {
    let folder = Folder::new();
    let (mut keeper, mine) = (folder.keeper(), session());
    let id = keeper.copy(&mine);
    drop(mine);
    for _ in 1..TRIES {
        assert_eq!(keeper.ask(&session(), alice()).len(), 1);
    }
    // What had no time is not counted.
    let idle = session();
    assert_eq!(keeper.ask(&idle, alice()).len(), 1);
    keeper.settle(&idle, id, Recovered::NotTried);
    assert_eq!(keeper.ask(&session(), alice()).len(), 1);
    assert_eq!(keeper.ask(&session(), alice()), []);
    assert_eq!(keeper.count("stale"), 1);
}

#[test]
fn fault_4_another_upstreams_file_is_left_alone() {
    let folder = Folder::new();
    let mut killed = folder.keeper_for("127.0.0.1:1433");
    killed.copy(&session());
    killed.kill();
    assert_eq!(folder.keeper().ask(&session(), alice()), []);
    assert_eq!(folder.files("journal").len(), 2, "the dead one's and ours");
    assert_eq!(folder.keeper_for("127.0.0.1:1433").ask(&session(), alice()).len(), 1);
}

#[test]
fn fault_4_another_upstreams_entry_is_doubtful_in_our_file() {
    let folder = Folder::new();
    folder.left_by_the_dead(&[Entry { upstream: "127.0.0.2:143".into(), ..copied() }, copied()]);
    let mut keeper = folder.keeper();
    assert_eq!(keeper.ask(&session(), alice()).len(), 1);
    assert_eq!((keeper.count("damaged"), folder.files("damaged").len()), (1, 1));
}

#[test]
fn fault_4_what_waits_together_is_written_with_one_fdatasync() {
    let folder = Folder::new();
    let mut keeper = folder.keeper();
    let before = keeper.metrics.journal_syncs.get_sample_count();
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for id in 0..100 {
        let (done, answer) = oneshot::channel();
        let record = Record::Intent(copied().intent);
        requests.push(Request::Write { id, session: session(), record, done: Some(done) });
        answers.push(answer);
    }
    // One more, for which nobody waits.
    requests.push(Request::Write { id: 7, session: session(), record: Record::Ended, done: None });
    keeper.keeper.serve(requests);
    assert_eq!(keeper.metrics.journal_syncs.get_sample_count() - before, 1);
    assert!(answers.iter_mut().all(|answer| answer.try_recv() == Ok(Answer::Persisted { written: true })));
}

/// Reads, without touching it, what would be found in the file now.
fn on_disk(path: &Path) -> Vec<Option<Entry>> {
    let other = Folder::new();
    let copy = other.0.path().join("copy.journal");
    fs::copy(path, &copy).expect("a copy");
    DeadFile::lock(copy).expect("opens").expect("nobody has it").entries().expect("sound")
}

#[test]
fn fault_4_each_step_is_on_disk_when_the_session_is_told() {
    let folder = Folder::new();
    let (mut keeper, mine) = (folder.keeper(), session());
    let path = folder.files("journal").remove(0);
    let states = || on_disk(&path).into_iter().map(|entry| entry.expect("sound").state).collect::<Vec<_>>();
    keeper.write(1, &mine, Record::Intent(copied().intent));
    assert_eq!(states(), [State::Intent]);
    keeper.write(1, &mine, Record::Copied { copyuid: copyuid() });
    assert_eq!(states(), [copied().state]);
    keeper.write(1, &mine, Record::Undo);
    assert_eq!(states(), [State::Undo]);
    keeper.write(1, &mine, Record::Ended);
    assert_eq!(states(), []);
}

#[test]
fn fault_4_only_the_owner_of_a_file_may_read_it() {
    let folder = Folder::new();
    let _keeper = folder.keeper();
    folder.left_by_the_dead(&[copied()]);
    for path in folder.files("journal") {
        let mode = path.metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path:?}");
    }
}

#[test]
fn fault_4_a_clean_end_leaves_what_is_unfinished_and_nothing_else() {
    let folder = Folder::new();
    let (mut keeper, mine) = (folder.keeper(), session());
    let id = keeper.copy(&mine);
    keeper.close();
    assert_eq!(folder.files("journal").len(), 1);

    let mut keeper = folder.keeper();
    let offered = keeper.ask(&mine, alice());
    assert_eq!(offered.len(), 1, "number {id} of the one before");
    keeper.settle(&mine, offered[0].id, Recovered::Finished);
    keeper.close();
    assert_eq!(fs::read_dir(folder.0.path()).expect("reads").count(), 0);
}

#[test]
fn fault_4_without_a_disk_sessions_go_on_and_with_one_again_all_is_written() {
    let folder = Folder::new();
    let (mut keeper, first, second) = (folder.keeper(), session(), session());
    let one = keeper.copy(&first);
    fs::remove_dir_all(folder.0.path()).expect("removes");
    keeper.copy(&second);
    assert_eq!(keeper.metrics.journal_errors.get(), 2, "an intent and a proof");
    drop(first);
    assert_eq!(keeper.ask(&session(), alice()), [expected(one)], "in this process nothing is forgotten");

    fs::create_dir(folder.0.path()).expect("a folder");
    keeper.keeper.try_again();
    keeper.tick();
    let path = folder.files("journal").remove(0);
    assert_eq!(on_disk(&path).len(), 2);
    let elsewhere = Intent { source: Some(b"Elsewhere".into()), ..copied().intent };
    keeper.write(7, &session(), Record::Intent(elsewhere));
    assert_eq!((on_disk(&path).len(), keeper.metrics.journal_errors.get()), (3, 2));
}

#[test]
fn fault_4_more_than_the_limit_goes_on_without_records() {
    let folder = Folder::new();
    let (mut keeper, mine) = (folder.keeper(), session());
    let large = Intent { target: vec![b'x'; 2 << 20], ..copied().intent };
    // Several times over: the file holds two states of each while one replaces the other.
    for _ in 0..3 {
        let written = (0..9).filter(|id| keeper.write(*id, &mine, Record::Intent(large.clone())));
        assert_eq!(written.count(), 7, "the sessions are told");
        keeper.tick();
        assert_eq!(on_disk(&folder.files("journal")[0]).len(), 7);
    }
    assert_eq!(keeper.metrics.journal_errors.get(), 6, "two each time");
    for id in 0..9 {
        keeper.write(id, &mine, Record::Ended);
    }
    keeper.copy(&mine);
    assert_eq!(on_disk(&folder.files("journal")[0]).len(), 1);
}

/// What damage may do to the octets of a file.
fn damage(octets: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let place = random.usize(..octets.len());
    let used: Vec<usize> = (0..octets.len()).filter(|at| octets[*at] != 0).collect();
    match random.usize(..5) {
        0 => octets.truncate(place),
        1 => octets[used[random.usize(..used.len())]] ^= 1 << random.u8(..8),
        2 => octets[random.usize(..600)] = random.u8(..),
        3 => octets[place..].fill(0),
        _ => {
            let end = octets.len().min(place + random.usize(1..9000));
            random.fill(&mut octets[place..end]);
        }
    }
}

/// The file of a process with twenty entries, among others that have ended: closed, or as a kill leaves it.
fn sample(killed: bool) -> (Vec<Entry>, Vec<u8>) {
    let folder = Folder::new();
    let name = |n: usize| Intent { target: format!("Archive {n}").into(), ..copied().intent };
    let entries: Vec<Entry> = (0..21).map(|n| Entry { intent: name(n), ..copied() }).collect();
    let own = own_file(folder.0.path(), &[]);
    let (ended, unfinished) = entries.split_last().expect("there are some");
    for (id, entry) in (0..).zip(unfinished) {
        let both = [(id, Some(ended.encode())), (id + 100, Some(entry.encode()))];
        own.commit(both.into_iter()).expect("writes");
        own.commit([(id, None)].into_iter()).expect("writes");
    }
    let path = folder.files("journal").remove(0);
    let octets = fs::read(&path);
    own.close();
    let octets = if killed { octets } else { fs::read(&path) };
    (entries, octets.expect("reads"))
}

#[test]
fn fault_4_damage_anywhere_never_ends_the_gateway_and_makes_up_nothing() {
    let mut random = fastrand::Rng::with_seed(4);
    let (samples, mut sound) = ([sample(true), sample(false)], 0);
    for round in 0..60 {
        let (entries, mut octets) = samples[round % 2].clone();
        damage(&mut octets, &mut random);
        let folder = Folder::new();
        fs::write(folder.0.path().join(format!("{UPSTREAM}.0.journal")), &octets).expect("writes");
        let mut keeper = folder.keeper();
        let offered = keeper.ask(&session(), alice());
        for offer in &offered {
            let same = |entry: &Entry| entry.unfinished(offer.id).as_ref() == Some(offer);
            assert!(entries.iter().any(same), "round {round}: {offer:?} was never written");
        }
        let kept: Vec<_> =
            folder.files("damaged").iter().map(|path| fs::read(path).expect("reads")).collect();
        match keeper.count("damaged") {
            // As after a kill, redb may fall back to the commit before the last one.
            0 => assert!(offered.len() >= 20 && kept.is_empty(), "round {round}: {}", offered.len()),
            _ => assert_eq!(kept, [octets], "round {round}: kept as it was found"),
        }
        sound += usize::from(kept.is_empty());
        keeper.copy(&session());
        assert_eq!(keeper.metrics.journal_errors.get(), 0, "round {round}: the gateway's own file works");
    }
    assert!((1..60).contains(&sound), "{sound} files of 60 were sound");
}

/// Reads a damaged file: what is found in it was written so, and where nothing is said to be damaged, nothing is missing.
/// Says whether it could be opened.
fn read_damaged(what: &str, octets: &[u8], entries: &[Entry]) -> bool {
    let folder = Folder::new();
    let path = folder.0.path().join("damaged.journal");
    fs::write(&path, octets).expect("writes");
    let read = DeadFile::lock(path).expect("opens").expect("nobody has it").entries();
    let (opens, read) = (read.is_ok(), read.unwrap_or(vec![None]));
    for entry in read.iter().flatten() {
        assert!(entries.contains(entry), "{what}: {entry:?} was never written");
    }
    let missing = entries[..20].iter().filter(|entry| !read.contains(&Some(Entry::clone(entry))));
    assert!(read.contains(&None) || missing.count() == 0, "{what}");
    opens
}

#[test]
fn fault_4_no_damaged_octet_is_ever_read_as_an_entry() {
    let mut random = fastrand::Rng::with_seed(5);
    for killed in [true, false] {
        let (entries, octets) = sample(killed);
        let mut opened = 0;
        for round in 0..500 {
            let mut octets = octets.clone();
            damage(&mut octets, &mut random);
            opened += usize::from(read_damaged(&format!("round {round}"), &octets, &entries));
        }
        assert!((50..450).contains(&opened), "of both kinds: {opened} of 500 could be opened");
    }
}

/// Every octet of the old page is sound in itself.
#[test]
fn fault_4_a_page_that_the_disk_never_wrote_is_noticed() {
    let folder = Folder::new();
    let own = own_file(folder.0.path(), &[]);
    let path = folder.files("journal").remove(0);
    let entries = |at: u64| -> Vec<Entry> { (0..20).map(|n| Entry { at: at + n, ..copied() }).collect() };
    let mut states = Vec::new();
    for at in 0..8 {
        let changes = (0..).zip(entries(1000 * at)).map(|(id, entry)| (id, Some(entry.encode())));
        own.commit(changes).expect("writes");
        states.push(fs::read(&path).expect("reads"));
    }
    own.close();
    let last = fs::read(&path).expect("reads");
    let mut noticed = 0;
    for (old, page) in
        states.iter().flat_map(|old| (0..last.len()).step_by(4096).map(move |page| (old, page)))
    {
        let page = page..page + 4096;
        let Some(before) = old.get(page.clone()).filter(|before| *before != &last[page.clone()]) else {
            continue;
        };
        let mut octets = last.clone();
        octets[page.clone()].copy_from_slice(before);
        noticed += usize::from(!read_damaged(&format!("{page:?}"), &octets, &entries(7000)));
    }
    assert!(noticed > 0);
}

#[test]
fn fault_4_a_living_gateways_file_that_is_overwritten_stops_no_move() {
    let mut random = fastrand::Rng::with_seed(6);
    for round in 0..20 {
        let folder = Folder::new();
        let (mut keeper, mine) = (folder.keeper(), session());
        keeper.copy(&mine);
        let path = folder.files("journal").remove(0);
        let mut octets = fs::read(&path).expect("reads");
        damage(&mut octets, &mut random);
        fs::write(&path, octets).expect("writes");
        for _ in 0..3 {
            keeper.copy(&mine);
        }
        keeper.kill();
        // Whatever is left there, it does not harm the next one.
        let mut next = folder.keeper();
        for offer in next.ask(&session(), alice()) {
            assert_eq!(offer, expected(offer.id), "round {round}");
        }
    }
}

#[test]
fn a_file_that_was_never_finished_is_removed_when_it_is_old() {
    let folder = Folder::new();
    let path = |name: &str| folder.0.path().join(format!("{UPSTREAM}.{name}.new"));
    for name in ["old", "fresh"] {
        fs::write(path(name), "half").expect("writes");
    }
    let long_ago = std::time::SystemTime::now() - EXPIRY - Duration::from_secs(5);
    let old = fs::File::options().write(true).open(path("old")).expect("opens");
    old.set_modified(long_ago).expect("a time");
    folder.keeper().ask(&session(), alice());
    assert_eq!(folder.files("new"), [path("fresh")]);
}

/// The journal with its thread.
fn journal(folder: &Folder) -> (Journal, Arc<Metrics>) {
    let metrics: Arc<Metrics> = Arc::default();
    (Journal::open(folder.0.path(), UPSTREAM.into(), metrics.clone()).expect("a folder"), metrics)
}

async fn answer(ledger: &mut Ledger) -> Answer {
    poll_fn(|cx| ledger.poll(cx)).await
}

async fn copy(ledger: &mut Ledger) {
    for record in [Record::Intent(copied().intent), Record::Copied { copyuid: copyuid() }] {
        ledger.write(record);
        assert_eq!(answer(ledger).await, Answer::Persisted { written: true });
    }
}

#[tokio::test]
async fn fault_4_a_dropped_ledgers_move_is_the_next_sessions() {
    let folder = Folder::new();
    let (journal, metrics) = journal(&folder);
    let mut first = journal.session();
    copy(&mut first).await;
    first.write(Record::Ended);
    copy(&mut first).await;
    drop(first);

    let mut second = journal.session();
    second.ask(alice());
    let Answer::Unfinished(offered) = answer(&mut second).await else { panic!("no list") };
    assert_eq!(offered, [expected(offered[0].id)], "the second MOVE, not the first, which has ended");
    second.recovered(offered[0].id, Recovered::Finished);
    second.ask(alice());
    assert_eq!(answer(&mut second).await, Answer::Unfinished(Vec::new()));
    journal.close().await;
    assert_eq!(fs::read_dir(folder.0.path()).expect("reads").count(), 0);
    assert_eq!(metrics.journal_errors.get(), 0);

    // Behind the end everything is answered still.
    second.write(Record::Intent(copied().intent));
    assert_eq!(answer(&mut second).await, Answer::Persisted { written: false });
    second.ask(alice());
    assert_eq!(answer(&mut second).await, Answer::Unfinished(Vec::new()));
    assert_eq!(metrics.journal_errors.get(), 2);
}

#[tokio::test]
async fn fault_4_a_draining_gateway_hands_over_when_the_session_ends() {
    let folder = Folder::new();
    let (journal, _) = journal(&folder);
    let mut ledger = journal.session();
    copy(&mut ledger).await;
    journal.drain();
    drop(ledger);
    // Before the next sweep, which nobody waits for.
    let (mut other, begun, mut found) = (folder.keeper(), std::time::Instant::now(), Vec::new());
    while found.is_empty() && begun.elapsed() < PATIENCE {
        found = other.ask(&session(), alice());
    }
    assert_eq!(found.len(), 1);
    journal.close().await;
}

/// A journal whose thread never answers.
fn stuck() -> (Journal, mpsc::Receiver<Request>) {
    let (requests, queue) = mpsc::channel(QUEUE);
    let desk = Desk { requests, ids: Arc::default(), draining: Arc::default(), metrics: Arc::default() };
    (Journal(Arc::new(desk)), queue)
}

#[tokio::test]
async fn fault_4_a_session_that_ends_with_moves_to_finish_has_the_journal_look() {
    let looks = async |offered: Vec<Unfinished>| {
        let (journal, mut queue) = stuck();
        let mut ledger = journal.session();
        ledger.ask(alice());
        let Some(Request::Ask { reply, .. }) = queue.recv().await else { panic!("no question") };
        reply.send(Answer::Unfinished(offered)).expect("it waits");
        answer(&mut ledger).await;
        drop(ledger);
        matches!(queue.try_recv(), Ok(Request::Look))
    };
    assert!(looks(vec![expected(1)]).await);
    assert!(!looks(Vec::new()).await);
}

#[tokio::test(start_paused = true)]
async fn fault_4_a_disk_that_hangs_holds_no_move_up() {
    let (journal, _queue) = stuck();
    let begun = tokio::time::Instant::now();
    let mut ledger = journal.session();
    ledger.write(Record::Intent(copied().intent));
    assert_eq!(answer(&mut ledger).await, Answer::Persisted { written: false });
    ledger.ask(alice());
    assert_eq!(answer(&mut ledger).await, Answer::Unfinished(Vec::new()));
    assert!(begun.elapsed() >= 2 * PATIENCE);
    assert_eq!(journal.0.metrics.journal_errors.get(), 2);
    journal.close().await;
}

#[tokio::test(start_paused = true)]
async fn fault_4_the_queue_is_bounded_and_a_full_one_holds_no_move_up() {
    let (journal, queue) = stuck();
    let mut sessions: Vec<Ledger> = (0..QUEUE).map(|_| journal.session()).collect();
    sessions.iter_mut().for_each(|session| session.write(Record::Intent(copied().intent)));
    assert_eq!((queue.len(), journal.0.metrics.journal_errors.get()), (QUEUE, 0));

    let begun = tokio::time::Instant::now();
    let mut one_more = journal.session();
    one_more.write(Record::Intent(copied().intent));
    assert_eq!(answer(&mut one_more).await, Answer::Persisted { written: false });
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!((queue.len(), journal.0.metrics.journal_errors.get()), (QUEUE, 1));
}

#[test]
fn only_a_folder_holds_a_journal() {
    let folder = Folder::new();
    let file = folder.0.path().join("file");
    fs::write(&file, "").expect("writes");
    assert!(check(folder.0.path()).is_ok());
    assert_eq!(check(&file).expect_err("a file").kind(), io::ErrorKind::NotADirectory);
    assert_eq!(check(&folder.0.path().join("none")).expect_err("nothing").kind(), io::ErrorKind::NotFound);
}
