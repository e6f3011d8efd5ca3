//! rebalance: replicas go where placement wants them after volumes were added, removed or replaced.
//!
//! Every key is looked at once and moved by [`Store::bring_home`] if it isn't home; what one key needs is decided there,
//! under its lock. Here is what surrounds it: which keys, how many at once, how fast, and what is left in the end.

use super::Control;
use super::offline::{self, MaintenanceError, OfflineRequest, Survey};
use super::pages::Pages;
use crate::index::IndexError;
use crate::model::{Key, Record, Replica, Volume};
use crate::store::{Moved, Store, StoreError};
use actix_rt::time::sleep;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

/// Keys that are moved at the same time: enough that no volume waits for a master that waits for another, few enough
/// that their buffers are some megabytes.
const KEYS_AT_ONCE: usize = 16;

/// Keys that are remembered because something in their way goes by itself; beyond, they are left.
const MAX_AGAIN: usize = 100_000;

/// How often such keys are tried again.
const TRIES: usize = 3;

/// Between two looks at what is being settled.
const SETTLE_EVERY: Duration = Duration::from_millis(50);

/// So much longer than the grace period it is waited for something to be settled.
const SETTLE_SLACK: Duration = Duration::from_secs(5);

/// Intents that are looked at to see whether anything can still be settled.
const INTENTS_LOOKED_AT: usize = 1000;

/// Blobs that would go from one volume to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Where they are.
    pub from: Volume,
    /// Where they would go.
    pub to: Volume,
    /// How many.
    pub blobs: u64,
    /// Their sizes, added up, in bytes.
    pub bytes: u64,
}

/// What a rebalance found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebalanced {
    /// What would be moved, by [`preview`].
    pub transfers: Vec<Transfer>,
    /// Keys, of those that would be changed, of which nothing is copied.
    pub without_copies: u64,
}

/// Goes through all keys of an index that nobody else has open. What could not be done is in the control's
/// progress; it can be stopped between two keys, also by a first Ctrl-C or SIGTERM. Blocks the calling thread.
pub fn run(request: &OfflineRequest, control: &Control) -> Result<(), MaintenanceError> {
    offline::run(request, control, async |opened| {
        let _watching = opened.join().await?;
        let store = opened.parts.store();
        control.progress.begin("moving", opened.survey.away);
        // Nobody is reading, so the old copies can go at once.
        let job = Rebalance { store: &store, keep_old: Duration::ZERO, control };
        job.all_and_settle(request.store.grace).await.map_err(MaintenanceError::Index)
    })
}

/// As [`run`], in a server that goes on serving. Old copies stay for the grace period, and what has to be removed is in
/// the background.
pub(super) async fn run_online(store: &Store, grace: Duration, control: &Control) -> Result<(), IndexError> {
    control.progress.begin("reading the index", 0);
    let survey = Survey::of(store.index(), store.placer()).await?;
    control.progress.begin("moving", survey.away);
    let job = Rebalance { store, keep_old: grace, control };
    let mut again = job.all().await?;
    for _ in 0..TRIES {
        if again.is_empty() || control.is_stopped() {
            break;
        }
        control.progress.begin("waiting for what is in the way", again.len() as u64);
        job.wait(grace + SETTLE_SLACK).await;
        again = job.some(again.into_iter().map(|(key, _)| key).collect()).await?;
    }
    job.leave(again);
    if control.is_stopped() {
        control.progress.problem(None, None, "stopped before the end; run it again");
    }
    Ok(())
}

/// Finds out what [`run`] would do, and does nothing.
pub fn preview(request: &OfflineRequest, control: &Control) -> Result<Rebalanced, MaintenanceError> {
    offline::run(request, control, async |opened| {
        let store = opened.parts.store();
        control.progress.begin("looking", opened.survey.away);
        let job = Rebalance { store: &store, keep_old: Duration::ZERO, control };
        job.preview_all().await.map_err(MaintenanceError::Index)
    })
}

/// Removes what earlier writes and moves have left, on an index that nobody else uses, and says what has to wait.
pub(super) async fn settle_all(store: &Store, grace: Duration, control: &Control) -> Result<(), IndexError> {
    let job = Rebalance { store, keep_old: Duration::ZERO, control };
    control.progress.begin("removing what was moved away", 0);
    job.settle_rest(grace).await?;
    job.report_unsettled().await
}

/// A rebalance of all keys of an index, in use or not. It can be dropped at any time.
pub struct Rebalance<'a> {
    /// The store of this thread.
    pub store: &'a Store,
    /// How long old copies stay, for readers that were just redirected.
    pub keep_old: Duration,
    /// How far it is and what is left, how fast it goes, and whether it goes on.
    pub control: &'a Control,
}

/// What became of one key.
enum Tried {
    Done,
    /// Something is in the way that goes by itself.
    Again(Key, String),
    /// The job can't go on.
    Fatal(IndexError),
}

impl Rebalance<'_> {
    /// Moves every key that isn't home, and removes what was moved away or is left of earlier writes: for an index that
    /// nobody else uses. Waits up to about twice `grace` for what is in doubt.
    pub(super) async fn all_and_settle(&self, grace: Duration) -> Result<(), IndexError> {
        let mut again = match select(pin!(self.all()), pin!(self.settle_for_ever())).await {
            Either::Left((done, _)) => done?,
            Either::Right((failed, _)) => return Err(failed),
        };
        self.control.progress.begin("removing what was moved away", 0);
        self.settle_rest(grace).await?;
        for _ in 0..TRIES {
            if again.is_empty() || self.control.is_stopped() {
                break;
            }
            self.control.progress.begin("moving what was in the way", again.len() as u64);
            again = self.some(again.into_iter().map(|(key, _)| key).collect()).await?;
            self.settle_rest(grace).await?;
        }
        self.leave(again);
        self.report_unsettled().await?;
        if self.control.is_stopped() {
            self.control.progress.problem(None, None, "stopped before the end; run it again");
        }
        Ok(())
    }

    /// Goes through all keys once. Answers those that are worth another try, and what was in their way.
    pub async fn all(&self) -> Result<Vec<(Key, String)>, IndexError> {
        let mut moves = FuturesUnordered::new();
        let mut again = Vec::new();
        let mut pages = Pages::new(self.store.index());
        while !self.control.is_stopped() {
            let Some(records) = self.meanwhile(&mut moves, &mut again, pages.next()).await?? else { break };
            for (key, record) in records {
                match record {
                    Ok(record) if self.store.is_home(&key, &record) => self.control.progress.add_keys(1),
                    Ok(_) => {
                        while moves.len() >= KEYS_AT_ONCE {
                            self.take(moves.next().await, &mut again)?;
                        }
                        moves.push(self.one(key));
                    }
                    Err(err) => self.control.progress.problem(Some(&key), None, err),
                }
            }
        }
        while let Some(tried) = moves.next().await {
            self.take(Some(tried), &mut again)?;
        }
        Ok(again)
    }

    /// Goes through some keys.
    async fn some(&self, keys: Vec<Key>) -> Result<Vec<(Key, String)>, IndexError> {
        let mut again = Vec::new();
        let mut moves =
            futures_util::stream::iter(keys).map(|key| self.one(key)).buffer_unordered(KEYS_AT_ONCE);
        while let Some(tried) = moves.next().await {
            self.take(Some(tried), &mut again)?;
        }
        Ok(again)
    }

    /// Waits for `work` while the moves go on.
    async fn meanwhile<T>(
        &self,
        moves: &mut FuturesUnordered<impl Future<Output = Tried>>,
        again: &mut Vec<(Key, String)>,
        work: impl Future<Output = T>,
    ) -> Result<T, IndexError> {
        let mut work = pin!(work);
        while !moves.is_empty() {
            match select(work.as_mut(), moves.next()).await {
                Either::Left((done, _)) => return Ok(done),
                Either::Right((tried, _)) => self.take(tried, again)?,
            }
        }
        Ok(work.await)
    }

    fn take(&self, tried: Option<Tried>, again: &mut Vec<(Key, String)>) -> Result<(), IndexError> {
        match tried {
            Some(Tried::Again(key, reason)) if again.len() < MAX_AGAIN => again.push((key, reason)),
            Some(Tried::Again(key, reason)) => self.control.progress.problem(Some(&key), None, reason),
            Some(Tried::Fatal(err)) => return Err(err),
            Some(Tried::Done) | None => {}
        }
        Ok(())
    }

    async fn one(&self, key: Key) -> Tried {
        self.control.pace.wait().await;
        if self.control.is_stopped() {
            return Tried::Done;
        }
        let moved = match self.store.bring_home(&key, self.keep_old).await {
            Ok(moved) => moved,
            // It was removed meanwhile.
            Err(StoreError::Index(IndexError::NotFound { .. })) => Moved::default(),
            Err(StoreError::Index(err @ IndexError::Busy { .. })) => {
                return Tried::Again(key, err.to_string());
            }
            Err(StoreError::Index(err @ (IndexError::Stopped | IndexError::TooManyIntents))) => {
                return Tried::Fatal(err);
            }
            Err(err) => {
                self.control.progress.problem(Some(&key), None, err);
                Moved::default()
            }
        };
        self.control.pace.charge(moved.copies, moved.bytes);
        self.control.progress.add_bytes(moved.bytes);
        if moved.waits {
            let reasons: Vec<String> = moved.left.iter().map(ToString::to_string).collect();
            return Tried::Again(key, reasons.join("; "));
        }
        for left in moved.left {
            self.control.progress.problem(Some(&key), left.place.as_ref(), left.reason);
        }
        self.control.progress.add_keys(1);
        self.control.progress.step();
        Tried::Done
    }

    /// Waits, but not when it is to stop.
    async fn wait(&self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time && !self.control.is_stopped() {
            sleep(SETTLE_EVERY).await;
        }
    }

    fn leave(&self, again: Vec<(Key, String)>) {
        for (key, reason) in again {
            self.control.progress.problem(Some(&key), None, reason);
        }
    }

    async fn settle_for_ever(&self) -> IndexError {
        loop {
            match self.store.settle_due().await {
                Ok(true) => {}
                Err(StoreError::Index(IndexError::Stopped)) => return IndexError::Stopped,
                Ok(false) | Err(_) => sleep(SETTLE_EVERY).await,
            }
        }
    }

    /// Settles until nothing is left but what waits for volumes that are away.
    async fn settle_rest(&self, grace: Duration) -> Result<(), IndexError> {
        let patience = 2 * grace + SETTLE_SLACK;
        let (mut least, mut since) = (usize::MAX, Instant::now());
        while !self.control.is_stopped() {
            match self.store.settle_due().await {
                Ok(_) => {}
                Err(StoreError::Index(IndexError::Stopped)) => return Err(IndexError::Stopped),
                Err(err) => log::warn!("settling what earlier writes left: {err}"),
            }
            let waiting = self.store.index().waiting(INTENTS_LOOKED_AT).await?;
            let can_go = |replica: &Replica| self.store.volumes().health().is_up(replica);
            if !waiting.iter().any(|(_, intent)| intent.files.iter().any(|placed| can_go(&placed.replica))) {
                return Ok(());
            }
            let count = self.store.index().unsettled().await?;
            if count < least {
                (least, since) = (count, Instant::now());
            } else if since.elapsed() > patience {
                return Ok(());
            }
            sleep(SETTLE_EVERY).await;
        }
        Ok(())
    }

    /// What could not be removed from volumes that are given is left to be done; others are nobody's concern any more.
    async fn report_unsettled(&self) -> Result<(), IndexError> {
        let mut counts = BTreeMap::<Volume, u64>::new();
        for (_, intent) in self.store.index().waiting(usize::MAX).await? {
            for placed in intent.files {
                *counts.entry(placed.replica.volume()).or_default() += 1;
            }
        }
        for (volume, count) in counts {
            let what = format!("{volume}: {count} files are to be removed as soon as it answers");
            match self.store.placer().volumes().contains(&volume) {
                true => self.control.progress.problem(None, None, what),
                false => self.control.progress.note(what),
            }
        }
        Ok(())
    }

    /// Finds out what [`Rebalance::all`] would do, and does nothing.
    async fn preview_all(&self) -> Result<Rebalanced, IndexError> {
        let mut sums = BTreeMap::<(Volume, Volume), (u64, u64)>::new();
        let mut rebalanced = Rebalanced::default();
        let mut pages = Pages::new(self.store.index());
        while let Some(records) = pages.next().await?.filter(|_| !self.control.is_stopped()) {
            let previews = futures_util::stream::iter(records).map(|(key, record)| self.preview(key, record));
            let mut previews = previews.buffer_unordered(KEYS_AT_ONCE);
            while let Some(preview) = previews.next().await {
                let Some((copies, size)) = preview else { continue };
                rebalanced.without_copies += u64::from(copies.is_empty());
                for (from, to) in copies {
                    let (blobs, bytes) = sums.entry((from.volume(), to.volume())).or_default();
                    *blobs += 1;
                    *bytes += size;
                }
            }
        }
        let transfer = |((from, to), (blobs, bytes))| Transfer { from, to, blobs, bytes };
        rebalanced.transfers = sums.into_iter().map(transfer).collect();
        Ok(rebalanced)
    }

    async fn preview(
        &self,
        key: Key,
        record: Result<Record, crate::model::RecordError>,
    ) -> Option<(Vec<(Replica, Replica)>, u64)> {
        self.control.progress.add_keys(1);
        let record = record.map_err(|err| self.control.progress.problem(Some(&key), None, err)).ok()?;
        if self.store.is_home(&key, &record) {
            return None;
        }
        self.control.progress.step();
        let preview = self.store.preview(&key, &record).await;
        let preview = preview.map_err(|err| self.control.progress.problem(Some(&key), None, err)).ok()?;
        let is_changed =
            !preview.copies.is_empty() || record.replicas != self.store.placer().placement(key.as_bytes());
        is_changed.then_some((preview.copies, preview.size))
    }
}
