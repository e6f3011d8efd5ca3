//! The index: which blob lives where, who is writing what, and what is left to clean up.
//!
//! [`IndexServer`] owns the thread in which one actor holds the engine; [`Index`] is the handle through which
//! everybody else speaks to it. Check and act are one message, a write is answered only once it is durable, and
//! no message changes more than one record. What follows from an answer (files, status codes) is decided above.

mod actor;
mod census;
mod facts;
mod grammar;
pub mod leveldb;
mod lookups;
mod measured;
mod message;
mod own_entries;
mod pages;
mod reservation;
mod slots;
pub mod table;
#[cfg(test)]
mod tests;
mod verbs;

use crate::model::{File, Intent, Key, Names, PlacedFile, Record, RecordError, Replica};
pub use actor::now_us;
use arc_swap::ArcSwap;
pub use census::KeyCounts;
pub use facts::{MasterEntry, VolumeEntry, identity_entries};
pub use grammar::fault_of;
use lookups::Lookups;
use measured::Measured;
use message::Message;
pub use message::{Forgotten, Listing, Page, PageRequest, Places, Records, Rewritten, Verb, WaitingFiles};
pub use own_entries::founding_entries;
pub use reservation::{Ending, Reservation};
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use table::{Table, TableError};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
pub use verbs::files_of_record;

/// Messages that may wait. Every connection has at most one on its way and lookups travel in batches, so a
/// longer queue would only mean a longer wait.
const MAILBOX_MESSAGES: usize = 8192;

/// Why the index did not do what it was asked.
#[derive(Debug, Error)]
pub enum IndexError {
    /// Another write to this key is in progress.
    #[error("a write to {key} is in progress; try again")]
    Busy {
        /// The key.
        key: Key,
    },
    /// The key has a live blob.
    #[error("{key} exists; use REPLACE to overwrite it")]
    Exists {
        /// The key.
        key: Key,
    },
    /// The key has no record, or none in the state that was asked for.
    #[error("there is no such key: {key}")]
    NotFound {
        /// The key.
        key: Key,
    },
    /// A live blob can't be removed: it must be unlinked first.
    #[error("{key} is protected; UNLINK it before DELETE")]
    Protected {
        /// The key.
        key: Key,
    },
    /// More removals wait for volumes than the index keeps track of.
    #[error(
        "too many removals are waiting for volumes that are away; bring them back, or forget those that are gone for good"
    )]
    TooManyIntents,
    /// A value in the index is not a record.
    #[error("the index entry of {key} can't be read")]
    Record {
        /// The key.
        key: Key,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// The actor is gone; the process is about to end.
    #[error("the index has stopped")]
    Stopped,
}

/// Owns the index thread.
pub struct IndexServer {
    sender: IndexSender,
    thread: JoinHandle<()>,
    ended: oneshot::Receiver<Result<(), TableError>>,
}

/// How to reach the index from any thread; [`IndexSender::handle`] makes the handle of a thread.
#[derive(Clone)]
pub struct IndexSender {
    sender: mpsc::Sender<Message>,
    names: Arc<ArcSwap<Names>>,
}

impl IndexServer {
    /// Starts the thread, opens the table in it with `open`, and reads what an earlier process left unfinished.
    /// Those intents become due `grace_us` µs from now: what was on its way may still arrive at a volume.
    pub fn start<T: Table>(
        open: impl FnOnce() -> Result<T, TableError> + Send + 'static,
        grace_us: u64,
    ) -> Result<IndexServer, TableError> {
        let (sender, mailbox) = mpsc::channel(MAILBOX_MESSAGES);
        let (opened_tx, opened) = std::sync::mpsc::sync_channel(1);
        let (ended_tx, ended) = oneshot::channel();
        let weak = sender.downgrade();
        let names = Arc::<ArcSwap<Names>>::default();
        let shared = Arc::clone(&names);
        let run = move || {
            let actor = open()
                .and_then(|table| actor::Actor::new(Measured::new(table), mailbox, weak, shared, grace_us));
            match actor {
                Ok(actor) => {
                    let _ = opened_tx.send(Ok(()));
                    let _ = ended_tx.send(actor.run());
                }
                Err(err) => drop(opened_tx.send(Err(err))),
            }
        };
        let thread = std::thread::Builder::new()
            .name("index".into())
            .spawn(run)
            .expect("the system has room for one more thread at start");
        opened.recv().expect("the index thread answers before it ends")?;
        Ok(IndexServer { sender: IndexSender { sender, names }, thread, ended })
    }

    /// What other threads make their handles from.
    pub fn sender(&self) -> IndexSender {
        self.sender.clone()
    }

    /// Waits until the actor has ended by itself, which it does only after an error of the table.
    pub async fn failed(&mut self) -> TableError {
        match (&mut self.ended).await {
            Ok(Err(err)) => err,
            _ => std::future::pending().await,
        }
    }

    /// Ends the actor after everything that is in its mailbox, and closes the table.
    pub async fn close(self) -> Result<(), TableError> {
        let _ = self.sender.sender.send(Message::Close).await;
        let ended = self.ended.await.unwrap_or(Ok(()));
        let _ = self.thread.join();
        ended
    }
}

impl IndexSender {
    /// A handle for the calling thread. Must be called within an actix runtime.
    pub fn handle(&self) -> Index {
        let lookups = Rc::new(Lookups::new(self.sender.clone()));
        Index { sender: self.sender.clone(), names: Arc::clone(&self.names), lookups }
    }
}

/// The handle of one thread; cheap to clone.
#[derive(Clone)]
pub struct Index {
    sender: mpsc::Sender<Message>,
    names: Arc<ArcSwap<Names>>,
    lookups: Rc<Lookups>,
}

impl Index {
    /// The record of `key`, live or unlinked.
    pub async fn locate(&self, key: &Key) -> Result<Option<Record>, IndexError> {
        let value = self.lookups.get(key.clone()).await?;
        let record = value.map(|value| Record::parse(&value)).transpose();
        let record = record.map(|found| found.map(|record| self.names.load().record(record)));
        record.map_err(|source| IndexError::Record { key: key.clone(), source })
    }

    /// Claims `key` for one writer, with a durable intent for every file that `verb` is going to write or remove.
    /// Dropping the claim leaves the record as it was, and the files to be settled in the background.
    pub async fn reserve(&self, key: &Key, verb: Verb) -> Result<Reservation, IndexError> {
        let key = key.clone();
        self.ask(|reply| Message::Reserve { key, verb, reply }).await?
    }

    /// Claims the key of an intent that is due. `None` if somebody holds the key or the intent is settled.
    pub async fn claim(&self, slot: u32) -> Result<Option<Reservation>, IndexError> {
        self.ask(|reply| Message::Claim { slot, reply }).await?
    }

    /// At most `limit` intents that are due, oldest first.
    pub async fn due(&self, limit: usize) -> Result<Vec<(u32, Intent)>, IndexError> {
        self.ask(|reply| Message::Due { all: false, limit, reply }).await
    }

    /// At most `limit` intents that wait to be settled, due or not; those that are due first come first.
    pub async fn waiting(&self, limit: usize) -> Result<Vec<(u32, Intent)>, IndexError> {
        self.ask(|reply| Message::Due { all: true, limit, reply }).await
    }

    /// Some of the files that wait to be settled, due or not: those in the slots from `from` (0 at first) on.
    pub async fn waiting_files(&self, from: u32) -> Result<WaitingFiles, IndexError> {
        self.ask(|reply| Message::WaitingFiles { from, reply }).await
    }

    /// Puts intents off until `until_us` (µs since 1970), because a volume they need is away.
    pub async fn postpone(&self, slots: Vec<u32>, until_us: u64) -> Result<(), IndexError> {
        self.send(Message::Postpone { slots, until_us }).await
    }

    /// How many intents wait to be settled, due or not, or are being settled.
    pub async fn unsettled(&self) -> Result<usize, IndexError> {
        self.ask(|reply| Message::Unsettled { reply }).await
    }

    /// Which reservations there are at this moment: the [time](Reservation::time_us) of each, or of the write that it settles.
    pub async fn held_since_us(&self) -> Result<Vec<u64>, IndexError> {
        self.ask(|reply| Message::HeldSince { reply }).await
    }

    /// How many keys there are. `None` until they are counted, which the first call begins: an index of a million takes
    /// about a second, behind everything else that is asked.
    pub async fn key_counts(&self) -> Result<Option<KeyCounts>, IndexError> {
        self.ask(|reply| Message::KeyCounts { reply }).await
    }

    /// How many messages wait for the actor.
    pub fn mailbox_depth(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }

    /// One page of keys, in byte order.
    pub async fn list(&self, request: PageRequest) -> Result<Page, IndexError> {
        self.ask(|reply| Message::List { request, reply }).await?
    }

    /// One page of records from `from` on, at most `limit` (> 0) of them; fewer do not mean that it is the last.
    pub async fn scan(&self, from: Bound<Vec<u8>>, limit: usize) -> Result<Records, IndexError> {
        self.ask(|reply| Message::Scan { from, limit, reply }).await
    }

    /// Whether another program wrote this index, so that its tombstones have no sidecars.
    pub async fn is_unnoted(&self) -> Result<bool, IndexError> {
        self.ask(|reply| Message::Unnoted { reply }).await
    }

    /// Remembers that all tombstones have sidecars now.
    pub async fn noted(&self) -> Result<(), IndexError> {
        self.ask(|reply| Message::Noted { reply }).await
    }

    /// The id of the cluster, made when the index was.
    pub async fn cluster_id(&self) -> Result<String, IndexError> {
        self.ask(|reply| Message::ClusterId { reply }).await
    }

    /// The id that the cluster is getting; `None` if it isn't getting another.
    pub async fn next_cluster_id(&self) -> Result<Option<String>, IndexError> {
        self.ask(|reply| Message::NextClusterId { reply }).await
    }

    /// Makes the id that the cluster is to get, unless one was made that no volume may have been told yet.
    pub async fn begin_rename(&self) -> Result<String, IndexError> {
        self.ask(|reply| Message::BeginRename { reply }).await?;
        Ok(self.next_cluster_id().await?.expect("one was made"))
    }

    /// The cluster has the id that it was to get; all its volumes have been told.
    pub async fn end_rename(&self) -> Result<(), IndexError> {
        self.ask(|reply| Message::EndRename { reply }).await
    }

    /// From now on records and intents are told under these present names.
    pub async fn set_names(&self, names: Names) -> Result<(), IndexError> {
        self.ask(|reply| Message::SetNames { names, reply }).await
    }

    /// Under which names places are told.
    pub fn names(&self) -> Arc<Names> {
        self.names.load_full()
    }

    /// Writes present names into the records from `from` on, a page of them.
    pub async fn rewrite_names(&self, from: Bound<Vec<u8>>) -> Result<Rewritten, IndexError> {
        self.ask(|reply| Message::RewriteNames { from, reply }).await
    }

    /// The time that no version is later than, µs since 1970. It is durable.
    pub async fn mark_us(&self) -> Result<u64, IndexError> {
        self.ask(|reply| Message::Mark { reply }).await
    }

    /// Lets go of what waits to be removed from `places`, in some thousand slots from `from` on.
    pub async fn forget(&self, places: &Places, from: u32) -> Result<Forgotten, IndexError> {
        let places = places.clone();
        self.ask(|reply| Message::Forget { places, from, reply }).await
    }

    async fn send(&self, message: Message) -> Result<(), IndexError> {
        self.sender.send(message).await.map_err(|_| IndexError::Stopped)
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, IndexError> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply)).await?;
        answer.await.map_err(|_| IndexError::Stopped)
    }
}

/// The entry that marks an index as copied from another program's; see [`Index::is_unnoted`].
pub fn copy_mark() -> table::Entry {
    (own_entries::UNNOTED_KEY.into(), b"1".to_vec())
}

/// Intents that an index may have when it is made anew: half of all, because writes need some too.
pub const MAX_WAITING_ENTRIES: u32 = slots::MAX_SLOTS as u32 / 2;

/// The entry of an intent that waits, for those who make an index anew; `None` from [`MAX_WAITING_ENTRIES`] on.
pub fn waiting_entry(slot: u32, intent: &Intent) -> Option<table::Change> {
    let put = || table::Change::Put { key: slots::slot_key(slot), value: intent.to_value() };
    (slot < MAX_WAITING_ENTRIES).then(put)
}

/// Each of `kinds` at each of `replicas`.
pub fn files_at(replicas: &[Replica], kinds: &[File]) -> Vec<PlacedFile> {
    let pairs = replicas.iter().flat_map(|replica| kinds.iter().map(move |file| (*file, replica.clone())));
    pairs.map(|(file, replica)| PlacedFile { file, replica, in_doubt: false }).collect()
}
