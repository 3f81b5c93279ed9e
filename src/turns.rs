//! MOVEs of one user out of one mailbox take turns. Two at once would each copy the same messages, before either has
//! removed them.

use crate::imap::Intent;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::OwnedMutexGuard;

/// Whose turn it is, for each mailbox that a MOVE leaves now. Who comes first is first.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<Mailbox, Arc<tokio::sync::Mutex<()>>>>);

/// A user, whether names are UTF-8 for that user, and a mailbox.
type Mailbox = (Vec<u8>, bool, Vec<u8>);

/// It is this MOVE's turn until this is dropped.
pub struct Turn {
    turns: Arc<Turns>,
    mailbox: Mailbox,
    /// Dropped before the mailbox is forgotten.
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Ready when it is this MOVE's turn; `None` if the mailbox that it leaves has no name.
    pub fn wait(self: &Arc<Self>, intent: &Intent) -> Option<impl Future<Output = Turn> + Send + use<>> {
        let source = intent.source_identity()?;
        let mailbox = (intent.owner.user.clone(), intent.owner.utf8, source.to_vec());
        let mut turn = Turn { turns: self.clone(), mailbox, guard: None };
        Some(async move {
            let lock = turn.turns.lock().entry(turn.mailbox.clone()).or_default().clone();
            turn.guard = Some(lock.lock_owned().await);
            turn
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Mailbox, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().expect("nobody panics while looking up a mailbox")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut open = self.turns.lock();
        // Whoever waits, or has it, has a share in it.
        if open.get(&self.mailbox).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            open.remove(&self.mailbox);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::Owner;
    use tokio_util::task::TaskTracker;

    fn intent(user: &str, source: Option<&str>) -> Intent {
        Intent {
            owner: Owner { user: user.into(), utf8: false },
            source: source.map(Into::into),
            source_validity: None,
            target: b"T".to_vec(),
            uids: "1".into(),
        }
    }

    #[tokio::test]
    async fn moves_out_of_one_mailbox_take_turns_and_others_do_not_wait() {
        let turns = Arc::new(Turns::default());
        let first = turns.wait(&intent("anna", Some("inbox"))).expect("a name").await;
        let tasks = TaskTracker::new();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in [1, 2] {
            let (sender, turn) =
                (sender.clone(), turns.wait(&intent("anna", Some("INBOX"))).expect("a name"));
            tasks.spawn(async move {
                let _turn = turn.await;
                tokio::task::yield_now().await;
                sender.send(number)
            });
            tokio::task::yield_now().await;
        }
        for (user, source) in [("anna", "U"), ("bert", "INBOX")] {
            drop(turns.wait(&intent(user, Some(source))).expect("a name").await);
        }
        assert!(turns.wait(&intent("anna", None)).is_none());
        assert!(order.try_recv().is_err());
        drop(first);
        tasks.close();
        tasks.wait().await;
        assert_eq!((order.recv().await, order.recv().await), (Some(1), Some(2)));
        assert!(turns.lock().is_empty());
    }

    #[tokio::test]
    async fn who_stops_waiting_is_forgotten() {
        let turns = Arc::new(Turns::default());
        let first = turns.wait(&intent("anna", Some("INBOX"))).expect("a name").await;
        let mut second = Box::pin(turns.wait(&intent("anna", Some("INBOX"))).expect("a name"));
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx))).await.is_pending()
        );
        drop(first);
        assert!(!turns.lock().is_empty());
        drop(second);
        assert!(turns.lock().is_empty());
    }
}
