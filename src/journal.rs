//! The journal: MOVEs in progress, on disk. If the gateway or its upstream connection dies in the middle of one, a
//! later session of the same user finishes it (FAULT-4).
//!
//! One thread owns the files (`keeper`), so that no other thread ever waits for a disk. What waits for it is written
//! in one transaction. A disk that is full, slow or broken never stops a MOVE: it goes on without its record.

mod entry;
mod file;
mod keeper;
#[cfg(test)]
mod tests;

use crate::imap::{Intent, Owner, Record, Recovered, Unfinished};
use crate::log;
use crate::metrics::Metrics;
use entry::{shown_mailboxes, shown_uids};
use keeper::Keeper;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep, timeout};

/// Requests of all sessions that wait for the disk. A MOVE above that goes on without its record.
const QUEUE: usize = 1024;
/// How long a session waits for the disk; then its MOVE goes on without the record.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a shutdown waits for the disk.
const LAST_SYNC: Duration = Duration::from_secs(5);

/// The name of the journal's thread.
pub const THREAD: &str = "journal";

/// The journal of this process, in front of one upstream.
#[derive(Clone)]
pub struct Journal(Arc<Desk>);

/// What all sessions have of it.
struct Desk {
    requests: mpsc::Sender<Request>,
    /// The next entry's number.
    ids: Arc<AtomicU64>,
    draining: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

/// What the journal's thread is asked to do. A session counts as alive as long as a request of its waits.
enum Request {
    Write {
        id: u64,
        session: Arc<()>,
        record: Record,
        done: Option<oneshot::Sender<Answer>>,
    },
    Ask {
        owner: Owner,
        session: Arc<()>,
        reply: oneshot::Sender<Answer>,
    },
    Recovered {
        id: u64,
        session: Arc<()>,
        result: Recovered,
    },
    /// Something may be free now.
    Look,
    Close(oneshot::Sender<()>),
}

impl Request {
    /// Whether what dead sessions have left matters to it.
    fn is_about_the_dead(&self) -> bool {
        matches!(self, Request::Ask { .. } | Request::Write { record: Record::Intent(_), .. })
    }
}

/// What a session waited for.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its record is on disk, or cannot be.
    Persisted {
        /// It is.
        written: bool,
    },
    /// These MOVEs of its user's are unfinished, and its to finish.
    Unfinished(Vec<Unfinished>),
}

/// Whether there is such a folder.
pub fn check(folder: &Path) -> io::Result<()> {
    if folder.metadata()?.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

impl Journal {
    /// Opens the journal in a folder, for MOVEs in front of `upstream`. If nothing can be written there, that is logged
    /// and tried again later.
    ///
    /// # Errors
    /// If the system has no thread for it.
    pub fn open(folder: &Path, upstream: String, metrics: Arc<Metrics>) -> io::Result<Journal> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let (ids, draining) = (Arc::new(AtomicU64::default()), Arc::new(AtomicBool::default()));
        let desk = Desk { requests, ids: ids.clone(), draining: draining.clone(), metrics: metrics.clone() };
        let folder = folder.to_path_buf();
        let keeper = move || keeper::keep(Keeper::new(folder, upstream, metrics, ids, draining), queue);
        std::thread::Builder::new().name(THREAD.into()).spawn(keeper)?;
        Ok(Journal(Arc::new(desk)))
    }

    /// What one session has of the journal.
    pub fn session(&self) -> Ledger {
        Ledger {
            desk: self.0.clone(),
            session: Arc::default(),
            current: None,
            intent: None,
            recorded: true,
            was_offered: false,
            waiting: None,
        }
    }

    /// The process is about to end: from now on what nobody is at is for another one too.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        // If the queue is full, the thread looks soon enough.
        let _ = self.0.requests.try_send(Request::Look);
    }

    /// Ends it. Nothing is left on disk but what is unfinished.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        let close = async {
            let _ = self.0.requests.send(Request::Close(done)).await;
            let _ = closed.await;
        };
        if timeout(LAST_SYNC, close).await.is_err() {
            tracing::warn!("the journal's disk does not answer");
        }
    }
}

/// One session's side of the journal. When it is dropped, a MOVE without [`Record::Ended`] is for a later session of the
/// same user to finish, and so is what this session was given and has not finished.
pub struct Ledger {
    desk: Arc<Desk>,
    /// The thread sees that the session is gone when this is.
    session: Arc<()>,
    /// The MOVE in progress.
    current: Option<u64>,
    /// The last MOVE, for the log.
    intent: Option<Intent>,
    /// All that it was to have on disk is there.
    recorded: bool,
    /// It was given MOVEs of dead sessions to finish.
    was_offered: bool,
    waiting: Option<Waiting>,
}

struct Waiting {
    answer: oneshot::Receiver<Answer>,
    patience: Pin<Box<Sleep>>,
    /// What the session hears if the journal has no answer.
    otherwise: Answer,
}

impl Ledger {
    /// Has a record written. [`poll`](Ledger::poll) says when, but for [`Record::Ended`], for which nobody waits.
    pub fn write(&mut self, record: Record) {
        if let Record::Intent(intent) = &record {
            self.current = Some(self.desk.ids.fetch_add(1, Ordering::Relaxed));
            (self.intent, self.recorded) = (Some(intent.clone()), true);
        }
        let ended = record == Record::Ended;
        let done = (!ended).then(|| self.wait(Answer::Persisted { written: false }));
        let Some(id) = (if ended { self.current.take() } else { self.current }) else { return };
        self.send(Request::Write { id, session: self.session.clone(), record, done });
    }

    /// Asks which MOVEs of a user's are unfinished; [`poll`](Ledger::poll) answers.
    pub fn ask(&mut self, owner: Owner) {
        let reply = self.wait(Answer::Unfinished(Vec::new()));
        self.send(Request::Ask { owner, session: self.session.clone(), reply });
    }

    /// Says what came of a MOVE that [`poll`](Ledger::poll) named.
    pub fn recovered(&mut self, id: u64, result: Recovered) {
        self.send(Request::Recovered { id, session: self.session.clone(), result });
    }

    fn wait(&mut self, otherwise: Answer) -> oneshot::Sender<Answer> {
        let (sender, answer) = oneshot::channel();
        self.waiting = Some(Waiting { answer, patience: Box::pin(sleep(PATIENCE)), otherwise });
        sender
    }

    /// Whoever waits for a request that cannot be queued has its answer at once.
    fn send(&self, request: Request) {
        if self.desk.requests.try_send(request).is_err() {
            self.desk.metrics.journal_errors.inc();
        }
    }

    /// Ready when the answer to the last question is there, or is no longer waited for.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        let answer = match Pin::new(&mut waiting.answer).poll(cx) {
            Poll::Ready(answer) => answer.ok(),
            Poll::Pending => {
                ready!(waiting.patience.as_mut().poll(cx));
                self.desk.metrics.journal_errors.inc();
                None
            }
        };
        let waiting = self.waiting.take();
        let answer = answer.or(waiting.map(|w| w.otherwise)).unwrap_or(Answer::Persisted { written: false });
        self.was_offered |= matches!(&answer, Answer::Unfinished(moves) if !moves.is_empty());
        if answer == (Answer::Persisted { written: false }) && std::mem::take(&mut self.recorded) {
            self.report("a MOVE goes on without its record: if it is cut short, nobody finishes it");
        }
        Poll::Ready(answer)
    }

    /// The last MOVE has ended for good, and messages are in both mailboxes, or may be. Its client may not have heard it.
    pub fn left_behind(&self) {
        self.report("a MOVE has left messages that may be in both mailboxes: compare the two");
    }

    fn report(&self, what: &str) {
        let Some(intent) = &self.intent else { return };
        let (from, to) = shown_mailboxes(intent);
        let user = log::user(&intent.owner.user);
        tracing::warn!(user, from, to, uids = shown_uids(&intent.uids), "{what}");
    }
}

/// What it leaves is for others from now on.
impl Drop for Ledger {
    fn drop(&mut self) {
        if self.current.is_some() || self.was_offered {
            self.session = Arc::default();
            let _ = self.desk.requests.try_send(Request::Look);
        }
    }
}
