//! What a session waits for beside its peers: a MOVE for its turn and for the journal, a SELECT for the journal.

use crate::imap::{Owner, Record, Recovered};
use crate::journal::{Answer, Ledger};
use crate::shared::Shared;
use crate::turns::{Turn, Turns};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The record of a MOVE whose turn it is not yet.
struct Queued {
    turn: Pin<Box<dyn Future<Output = Turn> + Send>>,
    record: Record,
}

/// What a session waits for beside its peers. What most sessions do not have is boxed.
pub(super) struct Wait {
    turns: Arc<Turns>,
    queued: Option<Box<Queued>>,
    turn: Option<Box<Turn>>,
    ledger: Option<Box<Ledger>>,
    /// Where there is no journal.
    answer: Option<Answer>,
}

impl Wait {
    /// Of one session.
    pub fn new(shared: &Shared) -> Wait {
        let ledger = shared.journal.as_ref().map(|journal| Box::new(journal.session()));
        Wait { turns: shared.turns.clone(), queued: None, turn: None, ledger, answer: None }
    }

    /// A record is due: at once, or when it is this MOVE's turn. [`poll`](Wait::poll) says when it is written.
    pub fn record(&mut self, record: Record) {
        let turn = match &record {
            Record::Intent(intent) => self.turns.wait(intent),
            _ => None,
        };
        match turn {
            Some(turn) => self.queued = Some(Box::new(Queued { turn: Box::pin(turn), record })),
            None => self.write(record),
        }
    }

    fn write(&mut self, record: Record) {
        match &mut self.ledger {
            Some(ledger) => ledger.write(record),
            None => self.answer = (record != Record::Ended).then_some(Answer::Persisted { written: false }),
        }
    }

    /// A SELECT is due. [`poll`](Wait::poll) says what is to be finished before.
    pub fn ask(&mut self, owner: Owner) {
        match &mut self.ledger {
            Some(ledger) => ledger.ask(owner),
            None => self.answer = Some(Answer::Unfinished(Vec::new())),
        }
    }

    /// What came of an unfinished MOVE.
    pub fn recovered(&mut self, id: u64, result: Recovered) {
        if let Some(ledger) = &mut self.ledger {
            ledger.recovered(id, result);
        }
    }

    /// The MOVE has its reply: it is another one's turn. `left_behind`: nobody comes back to messages that may be in
    /// both mailboxes.
    pub fn ended(&mut self, left_behind: bool) {
        (self.queued, self.turn) = (None, None);
        if left_behind {
            self.ledger.iter().for_each(|ledger| ledger.left_behind());
        }
    }

    /// Ready when what was waited for is there.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        if let Some(queued) = &mut self.queued {
            self.turn = Some(Box::new(ready!(queued.turn.as_mut().poll(cx))));
            if let Some(queued) = self.queued.take() {
                self.write(queued.record);
            }
        }
        match (self.answer.take(), &mut self.ledger) {
            (Some(answer), _) => Poll::Ready(answer),
            (None, Some(ledger)) => ledger.poll(cx),
            (None, None) => Poll::Pending,
        }
    }
}
