//! Lookups of one thread, handed to the actor in batches: a wake-up costs more than a lookup.

use super::IndexError;
use super::message::Message;
use crate::model::Key;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::sync::{mpsc, oneshot};

type Waiter = oneshot::Sender<Option<Vec<u8>>>;

/// Collects lookups while a batch is on its way. At most one batch of a thread is in the actor's hands.
pub(super) struct Lookups {
    sender: mpsc::Sender<Message>,
    waiting: RefCell<Vec<(Key, Waiter)>>,
    courier_runs: Cell<bool>,
}

/// How many lookups one message carries at most: a millisecond's work, so that writes are not kept waiting.
const BATCH_KEYS: usize = 128;

impl Lookups {
    pub(super) fn new(sender: mpsc::Sender<Message>) -> Lookups {
        Lookups { sender, waiting: RefCell::default(), courier_runs: Cell::new(false) }
    }

    /// The raw value of `key`.
    pub(super) async fn get(self: &Rc<Self>, key: Key) -> Result<Option<Vec<u8>>, IndexError> {
        let (waiter, answer) = oneshot::channel();
        self.waiting.borrow_mut().push((key, waiter));
        if !self.courier_runs.replace(true) {
            actix_rt::spawn(Rc::clone(self).carry());
        }
        answer.await.map_err(|_| IndexError::Stopped)
    }

    /// Carries batches until nobody waits. Other handlers of this thread run before it is first polled, and while
    /// a batch is away, and add to the next one.
    async fn carry(self: Rc<Self>) {
        loop {
            let batch = self.next_batch();
            if batch.is_empty() {
                self.courier_runs.set(false);
                return;
            }
            let (keys, waiters): (Vec<Key>, Vec<Waiter>) = batch.into_iter().unzip();
            let (reply, values) = oneshot::channel();
            // If the actor is gone the waiters are dropped, which tells them.
            if self.sender.send(Message::Locate { keys, reply }).await.is_err() {
                continue;
            }
            for (waiter, value) in waiters.into_iter().zip(values.await.unwrap_or_default()) {
                let _ = waiter.send(value);
            }
        }
    }

    fn next_batch(&self) -> Vec<(Key, Waiter)> {
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.len().min(BATCH_KEYS);
        waiting.drain(..count).collect()
    }
}
