//! The thread that owns the files: what waits is written together, then each is answered.

use super::entry::{Entry, State, now, shown_mailboxes, shown_uids};
use super::file::{DeadFile, Failure, OwnFile};
use super::{Answer, QUEUE, Request};
use crate::imap::{Intent, Owner, Record, Recovered};
use crate::log;
use crate::metrics::Metrics;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot};

/// What all entries together may take, in octets. A MOVE above that goes on without its record.
const RECORDS: usize = 16 * 1024 * 1024;
/// MOVEs handed to a session at one time; its next SELECT gets more.
const AT_ONCE: usize = 32;
/// So often a MOVE is handed to a session; then it is given up. A server that goes away whenever one is to be finished
/// must not keep the user out.
pub const TRIES: usize = 3;
/// A file that could not be taken over is tried again no sooner.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
/// After a file could not be written, the next one is made no sooner.
const RETRY: Duration = Duration::from_secs(10);
/// So often the thread looks after the entries when nobody asks for anything.
const SWEEP: Duration = Duration::from_secs(10);

/// Keeps the journal until a [`Request::Close`], or until nobody can send one any more.
pub fn keep(keeper: Keeper, mut requests: mpsc::Receiver<Request>) {
    // Never dropped: after a bug here the file stays locked, for what this process's sessions are at is not another's
    // to finish.
    let keeper = Box::leak(Box::new(keeper));
    let clock = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let clock = clock.expect("a runtime without sockets needs nothing of the system");
    keeper.take_over();
    let closed = loop {
        let mut batch = Vec::new();
        let received = clock
            .block_on(async { tokio::time::timeout(SWEEP, requests.recv_many(&mut batch, QUEUE)).await });
        let closed = keeper.serve(batch);
        if closed.is_some() || received == Ok(0) {
            break closed;
        }
    };
    keeper.close();
    // From here on nothing can be asked.
    drop(requests);
    closed.map(|closed| closed.send(()));
}

/// One MOVE.
struct Move {
    entry: Entry,
    /// Whose it is; gone with that session.
    session: Weak<()>,
    /// Who finishes it; gone with that session.
    claim: Weak<()>,
    /// How often it was handed to a session.
    tries: u32,
}

impl Move {
    fn is_dead(&self) -> bool {
        self.session.strong_count() == 0
    }

    /// Why nobody may finish it any more, if so.
    fn given_up(&self, now: u64) -> Option<&'static str> {
        let tried = (self.tries >= TRIES as u32).then_some("stale");
        self.entry.given_up(now).or(tried)
    }

    fn is_free(&self) -> bool {
        self.is_dead() && self.claim.strong_count() == 0
    }
}

/// All MOVEs of the journal, in memory; the file holds the same.
pub struct Keeper {
    folder: PathBuf,
    upstream: String,
    metrics: Arc<Metrics>,
    ids: Arc<AtomicU64>,
    /// This process is about to end: what is free is for another one too.
    draining: Arc<AtomicBool>,
    moves: BTreeMap<u64, Move>,
    /// Octets of all entries.
    octets: usize,
    /// What the file does not know yet.
    changed: BTreeSet<u64>,
    own: Option<OwnFile>,
    /// A file that could not be written any more, and whether it is damaged. Its lock is kept until another file has
    /// its entries.
    lost: Option<(OwnFile, bool)>,
    tried: Option<Instant>,
    troubled: Option<Instant>,
    failing: Cell<bool>,
}

impl Keeper {
    /// With a file of its own, if one can be made now.
    pub fn new(
        folder: PathBuf,
        upstream: String,
        metrics: Arc<Metrics>,
        ids: Arc<AtomicU64>,
        draining: Arc<AtomicBool>,
    ) -> Keeper {
        let mut keeper = Keeper {
            folder,
            upstream,
            metrics,
            ids,
            draining,
            moves: BTreeMap::new(),
            octets: 0,
            changed: BTreeSet::new(),
            own: None,
            lost: None,
            tried: None,
            troubled: None,
            failing: Cell::new(false),
        };
        if keeper.renew() {
            keeper.tried = None;
        }
        keeper
    }

    /// Does what is asked, all of it in one transaction. Says whether it was the last.
    pub fn serve(&mut self, requests: Vec<Request>) -> Option<oneshot::Sender<()>> {
        let (mut recorded, mut asked, mut closed) = (Vec::new(), Vec::new(), None);
        if requests.iter().any(Request::is_about_the_dead) {
            self.take_over();
        }
        for request in requests {
            match request {
                Request::Write { id, session, record, done } => {
                    let noted = self.note(id, &session, record);
                    recorded.extend(done.map(|done| (done, noted)));
                }
                Request::Ask { owner, session, reply } => asked.push((owner, session, reply)),
                Request::Recovered { id, session, result } => self.settle(id, &session, result),
                Request::Look => {}
                Request::Close(done) => closed = Some(done),
            }
        }
        self.sweep();
        let written = self.flush();
        if !written {
            self.metrics.journal_errors.inc_by(recorded.len() as u64);
        }
        for (done, noted) in recorded {
            let _ = done.send(Answer::Persisted { written: written && noted });
        }
        asked.into_iter().for_each(|(owner, session, reply)| self.offer(&owner, &session, reply));
        if self.draining.load(Ordering::Relaxed) {
            self.hand_over();
        }
        closed
    }

    /// Says whether the MOVE has this record now.
    fn note(&mut self, id: u64, session: &Arc<()>, record: Record) -> bool {
        let known = self.take(id);
        if let Record::Intent(intent) = &record {
            self.overtaken(intent);
        }
        let (intent, state) = match (record, known) {
            (Record::Intent(intent), _) => (intent, State::Intent),
            (Record::Copied { copyuid }, Some(known)) => (known.entry.intent, State::Copied(copyuid)),
            (Record::Undo, Some(known)) => (known.entry.intent, State::Undo),
            (Record::Ended, _) | (_, None) => return false,
        };
        let entry = Entry { upstream: self.upstream.clone(), intent, state, at: now() };
        self.put(id, Move { entry, session: Arc::downgrade(session), claim: Weak::new(), tries: 0 })
    }

    /// What a dead session has copied the user moves elsewhere: nobody can tell then who removes it from its mailbox.
    fn overtaken(&mut self, by: &Intent) {
        let dead = self.moves.iter().filter(|(_, m)| m.is_dead() && m.entry.shares_messages(by));
        let ids: Vec<u64> = dead.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.give_up(id, "stale"));
    }

    /// Says whether there is room for it.
    fn put(&mut self, id: u64, new: Move) -> bool {
        let octets = new.entry.octets();
        if self.octets + octets > RECORDS {
            self.metrics.journal_errors.inc();
            return false;
        }
        self.octets += octets;
        self.moves.insert(id, new);
        self.changed.insert(id);
        true
    }

    fn take(&mut self, id: u64) -> Option<Move> {
        let taken = self.moves.remove(&id)?;
        self.octets -= taken.entry.octets();
        self.changed.insert(id);
        Some(taken)
    }

    /// Tells a session which MOVEs of its user's it may finish, and keeps other sessions off these.
    fn offer(&mut self, owner: &Owner, session: &Arc<()>, reply: oneshot::Sender<Answer>) {
        let theirs = self.moves.iter_mut().filter(|(_, m)| m.is_free() && m.entry.intent.owner == *owner);
        let offered = theirs.take(AT_ONCE).filter_map(|(id, m)| {
            m.claim = Arc::downgrade(session);
            m.tries += 1;
            m.entry.unfinished(*id)
        });
        let offered = offered.collect();
        if let Err(Answer::Unfinished(missed)) = reply.send(Answer::Unfinished(offered)) {
            missed.iter().for_each(|missed| self.release(missed.id));
        }
    }

    /// It was not tried.
    fn release(&mut self, id: u64) {
        if let Some(claimed) = self.moves.get_mut(&id) {
            claimed.claim = Weak::new();
            claimed.tries -= 1;
        }
    }

    /// What a session made of a MOVE that it was given.
    fn settle(&mut self, id: u64, session: &Arc<()>, result: Recovered) {
        let claimed = |m: &&Move| m.claim.ptr_eq(&Arc::downgrade(session));
        if self.moves.get(&id).filter(claimed).is_none() {
            return;
        }
        match result {
            Recovered::Finished => {
                self.count("finished");
                self.take(id);
            }
            Recovered::Stale => self.give_up(id, "stale"),
            Recovered::Later => {
                self.count("later");
                if let Some(claimed) = self.moves.get_mut(&id) {
                    claimed.claim = Weak::new();
                }
            }
            Recovered::NotTried => self.release(id),
        }
    }

    fn count(&self, result: &str) {
        self.metrics.recoveries.with_label_values(&[result]).inc();
    }

    /// Reports what nobody may finish, and forgets it.
    fn give_up(&mut self, id: u64, result: &str) {
        let Some(Move { entry, .. }) = self.take(id) else { return };
        self.count(result);
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(entry.at));
        let (from, to) = shown_mailboxes(&entry.intent);
        tracing::warn!(
            result,
            messages = entry.messages(),
            user = log::user(&entry.intent.owner.user),
            from,
            to,
            uids = shown_uids(&entry.intent.uids),
            at = time.map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string()),
            "a MOVE was cut short and is not finished: these messages may be in both mailboxes, the ones in the \
             first perhaps flagged as deleted; compare the two",
        );
    }

    /// What nobody may finish any more goes.
    fn sweep(&mut self) {
        let now = now();
        let free = self.moves.iter().filter(|(_, m)| m.is_free());
        let over: Vec<_> = free.filter_map(|(id, m)| Some((*id, m.given_up(now)?))).collect();
        over.into_iter().for_each(|(id, result)| self.give_up(id, result));
        let dead = self.moves.values().filter(|m| m.is_dead()).count();
        self.metrics.journal_pending.set(i64::try_from(dead).unwrap_or(i64::MAX));
    }

    /// Brings the file up to date. Says whether all that is noted is on disk.
    fn flush(&mut self) -> bool {
        if let Some(own) = self.own.take_if(|own| own.is_gone()) {
            self.fail(own, Failure { damaged: false, reason: "the file was removed".to_string() });
        }
        if let Some(own) = self.own.take() {
            match self.write(&own) {
                Ok(()) => self.own = Some(own),
                Err(failure) => self.fail(own, failure),
            }
        }
        self.changed.clear();
        self.own.is_some() || self.renew()
    }

    fn write(&self, own: &OwnFile) -> Result<(), Failure> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let entry = |id| self.moves.get(id).map(|m: &Move| m.entry.encode());
        own.commit(self.changed.iter().map(|id| (*id, entry(id))))
    }

    fn fail(&mut self, own: OwnFile, failure: Failure) {
        self.complain(&failure);
        self.lost = Some((own, failure.damaged));
    }

    fn complain(&self, failure: &Failure) {
        if !self.failing.replace(true) {
            let (folder, reason) = (&self.folder, &failure.reason);
            tracing::error!(?folder, reason, "the journal cannot be written: MOVEs go on without it");
        }
    }

    /// Makes a new file with everything in it. Says whether there is one.
    fn renew(&mut self) -> bool {
        if self.tried.is_some_and(|at| at.elapsed() < RETRY) {
            return false;
        }
        self.tried = Some(Instant::now());
        let entries = self.moves.iter().map(|(id, m)| (*id, m.entry.encode()));
        let syncs = self.metrics.journal_syncs.clone();
        let created = OwnFile::create(&self.folder, &self.upstream, syncs, entries);
        self.own = created.inspect_err(|failure| self.complain(failure)).ok();
        if self.own.is_some() {
            self.works_again();
        }
        self.own.is_some()
    }

    fn works_again(&mut self) {
        if self.failing.take() {
            tracing::info!(folder = ?self.folder, "the journal is written again, in a new file");
        }
        match self.lost.take() {
            Some((lost, true)) => {
                self.count("damaged");
                lost.set_aside();
            }
            Some((lost, false)) => lost.remove(),
            None => {}
        }
    }

    /// Takes over what dead processes left in the folder.
    pub fn take_over(&mut self) {
        let lately = self.troubled.is_some_and(|at| at.elapsed() < TROUBLE_PAUSE);
        // What cannot be written down here stays there.
        if lately || self.own.is_none() {
            return;
        }
        let taken = match DeadFile::candidates(&self.folder, &self.upstream) {
            Ok(paths) => paths.into_iter().filter(|path| !self.take_over_file(path)).count() == 0,
            Err(error) => self.unreadable(&error),
        };
        self.troubled = (!taken).then(Instant::now);
    }

    /// Says whether nothing that is there to be taken over is left.
    fn take_over_file(&mut self, path: &Path) -> bool {
        match DeadFile::lock(path.to_path_buf()) {
            Ok(Some(dead)) => self.inherit(dead),
            Ok(None) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => self.unreadable(&error),
        }
    }

    fn unreadable(&self, error: &io::Error) -> bool {
        tracing::warn!(folder = ?self.folder, %error, "a file of the journal cannot be opened; it is left alone");
        false
    }

    /// A dead process's entries become this one's; its file goes when they are on disk here. Says whether they are.
    fn inherit(&mut self, dead: DeadFile) -> bool {
        let entries = dead.entries().unwrap_or_else(|failure| {
            tracing::error!(folder = ?self.folder, failure.reason, "a file of the journal is damaged");
            vec![None]
        });
        let whole = entries.len();
        let ours = |entry: &Entry| entry.upstream == self.upstream;
        let entries: Vec<Entry> = entries.into_iter().flatten().filter(ours).collect();
        let damaged = entries.len() < whole;
        if self.octets + entries.iter().map(Entry::octets).sum::<usize>() > RECORDS {
            return false;
        }
        let ids: Vec<u64> = entries.into_iter().map(|entry| self.adopt(entry)).collect();
        if !self.flush() {
            ids.into_iter().for_each(|id| drop(self.take(id)));
            self.changed.clear();
            return false;
        }
        tracing::info!(moves = ids.len(), damaged, "took over the journal of a gateway that is gone");
        match damaged {
            true => {
                self.count("damaged");
                dead.set_aside();
            }
            false => dead.remove(),
        }
        self.sweep();
        self.flush()
    }

    fn adopt(&mut self, entry: Entry) -> u64 {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.put(id, Move { entry, session: Weak::new(), claim: Weak::new(), tries: 0 });
        id
    }

    /// What is free goes to a file that is nobody's, so that another process finds it while this one still drains. If
    /// that cannot be written, it stays where it is until the end.
    fn hand_over(&mut self) {
        let free = self.moves.iter().filter(|(_, m)| m.is_free());
        let free: Vec<_> = free.map(|(id, m)| (*id, m.entry.encode())).collect();
        let ids: Vec<u64> = free.iter().map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return;
        }
        let syncs = self.metrics.journal_syncs.clone();
        if let Ok(file) = OwnFile::create(&self.folder, &self.upstream, syncs, free.into_iter()) {
            ids.iter().for_each(|id| drop(self.take(*id)));
            self.flush();
            file.close();
            tracing::info!(moves = ids.len(), "left unfinished MOVEs to another gateway");
        }
    }

    /// Pauses are over.
    #[cfg(test)]
    pub fn try_again(&mut self) {
        (self.troubled, self.tried) = (None, None);
    }

    /// Leaves nothing behind but what is unfinished.
    pub fn close(&mut self) {
        let files = self.own.take().into_iter().chain(self.lost.take().map(|(lost, _)| lost));
        match self.moves.is_empty() {
            true => files.for_each(OwnFile::remove),
            false => files.for_each(OwnFile::close),
        }
    }
}
