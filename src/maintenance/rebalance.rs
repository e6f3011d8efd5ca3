//! rebalance: replicas go where placement wants them after volumes were added, removed or replaced.
//!
//! Every key is looked at once and moved by [`Store::bring_home`] if it isn't home; what one key needs is decided there,
//! under its lock. Here is what surrounds it: which keys, how many at once, how fast, and what is left in the end.

use super::control::STOPPED;
use super::offline::{self, MaintenanceError, OfflineRequest, Opened, Survey};
use super::pages::{Cursor, Pages, beginning, next_page};
use super::settle::{report_unsettled, settle_for_ever, settle_rest};
use super::threads::{Effort, on_threads};
use super::{Control, Finding, Kind};
use crate::index::{Index, IndexError};
use crate::model::{Key, Record, RecordError, Replica, Volume};
use crate::store::{Left, Moved, Store, StoreError, StoreParts, Trouble};
use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex as AsyncMutex;

/// Keys that each thread moves at the same time: enough that no volume waits for a master that waits for another, few enough
/// that their buffers are some megabytes.
const KEYS_AT_ONCE: usize = 8;

/// Keys that are remembered because something in their way goes by itself; beyond, they are left.
const MAX_AGAIN: usize = 100_000;

/// So much longer than the grace period what is in the way has to go.
const CLEAR_SLACK: Duration = Duration::from_secs(5);

/// How often such keys are tried again.
const TRIES: usize = 3;

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
/// progress; it can be stopped between two keys. Blocks the calling thread.
pub fn run(request: &OfflineRequest, control: &Control) -> Result<(), MaintenanceError> {
    offline::run(request, control, async |opened| {
        let _watching = opened.join().await?;
        Ok(run_opened(&opened, control).await?)
    })
}

/// Moves every key that isn't home, and removes what was moved away or is left of earlier writes. Waits up to about twice
/// the grace period for what is in doubt.
pub(super) async fn run_opened(opened: &Opened, control: &Control) -> Result<(), IndexError> {
    let (store, grace) = (opened.parts.store(), opened.parts.options.load().grace);
    rewrite_names(store.index(), control).await?;
    control.progress.begin("moving", opened.survey.away);
    // Nobody is reading, so the old copies can go at once.
    let moves = Moves::new(Duration::ZERO, Effort::Alone, control);
    match select(pin!(moves.all(&opened.parts)), pin!(settle_for_ever(&store))).await {
        Either::Left((done, _)) => done?,
        Either::Right((failed, _)) => return Err(failed),
    }
    control.progress.begin("removing what was moved away", 0);
    settle_rest(&store, grace, control).await?;
    for _ in 0..TRIES {
        if moves.again().is_empty() || control.is_stopped() {
            break;
        }
        control.progress.begin("moving what was in the way", moves.again().len() as u64);
        moves.those_again(&store).await?;
        settle_rest(&store, grace, control).await?;
    }
    moves.end();
    report_unsettled(&store, control).await
}

/// As [`run`], in a server that goes on serving. Old copies stay for the grace period, and what has to be removed is in
/// the background.
pub(super) async fn run_online(parts: &StoreParts, control: &Control) -> Result<(), MaintenanceError> {
    let (store, grace) = (parts.store(), parts.options.load().grace);
    control.progress.begin("reading the index", 0);
    let survey = Survey::of(store.index(), store.placer()).await?;
    store.recognise_strangers(&survey.strangers).await?;
    rewrite_names(store.index(), control).await?;
    control.progress.begin("moving", survey.away);
    let moves = Moves::new(grace, Effort::BesideClients, control);
    moves.all(parts).await?;
    for _ in 0..TRIES {
        if moves.again().is_empty() || control.is_stopped() {
            break;
        }
        control.progress.begin("waiting for what is in the way", moves.again().len() as u64);
        control.wait(grace + CLEAR_SLACK).await;
        moves.those_again(&store).await?;
    }
    moves.end();
    Ok(())
}

/// Has records name places as they are called now, without touching a file.
pub(super) async fn rewrite_names(index: &Index, control: &Control) -> Result<(), IndexError> {
    let names = index.names();
    if names.is_empty() {
        return Ok(());
    }
    for (earlier, present) in names.iter() {
        control.progress.note(format_args!("{earlier} is called {present} now"));
    }
    control.progress.begin("writing present names into records", 0);
    let (mut cursor, mut records) = (beginning(), 0);
    while let Some(from) = cursor.take().filter(|_| !control.is_stopped()) {
        let rewritten = index.rewrite_names(from).await?;
        records += rewritten.records;
        cursor = rewritten.next;
    }
    control.progress.note(format_args!("{records} records name the present places"));
    Ok(())
}

/// Finds out what [`run`] would do, and does nothing.
pub fn preview(request: &OfflineRequest, control: &Control) -> Result<Rebalanced, MaintenanceError> {
    offline::run(request, control, async |opened| {
        let _watching = opened.look().await?;
        control.progress.begin("looking", opened.survey.away);
        Ok(preview_all(&opened.parts.store(), control).await?)
    })
}

/// The moves of a rebalance: what its threads share.
#[derive(Clone)]
struct Moves(Arc<Shared>);

struct Shared {
    /// How long old copies stay, for readers that were just redirected.
    keep_old: Duration,
    effort: Effort,
    control: Control,
    cursor: AsyncMutex<Cursor>,
    /// Keys in whose way is something that goes by itself, and what.
    again: Mutex<Vec<(Key, Vec<Finding>)>>,
}

impl Moves {
    fn new(keep_old: Duration, effort: Effort, control: &Control) -> Moves {
        let (cursor, control) = (AsyncMutex::new(beginning()), control.clone());
        Moves(Arc::new(Shared { keep_old, effort, control, cursor, again: Mutex::default() }))
    }

    /// Goes through all keys once, on all cores.
    async fn all(&self, parts: &StoreParts) -> Result<(), IndexError> {
        let moves = self.clone();
        on_threads(parts, self.0.effort, "rebalance", async move |store| moves.pages(store).await).await
    }

    /// Takes pages until there are no more.
    async fn pages(&self, store: &Store) -> Result<(), IndexError> {
        while !self.0.control.is_stopped() {
            let mut cursor = self.0.cursor.lock().await;
            let Some(records) = next_page(store.index(), &mut cursor).await? else { break };
            drop(cursor);
            let keys = stream::iter(records).map(|(key, record)| self.key(store, key, record));
            let done: Vec<_> =
                keys.buffer_unordered(self.0.effort.keys_at_once(KEYS_AT_ONCE)).collect().await;
            done.into_iter().collect::<Result<(), IndexError>>()?;
        }
        Ok(())
    }

    async fn key(
        &self,
        store: &Store,
        key: Key,
        record: Result<Record, RecordError>,
    ) -> Result<(), IndexError> {
        match record {
            Ok(record) if store.is_home(&key, &record) => self.0.control.progress.add_keys(1),
            Ok(_) => self.bring_home(store, key).await?,
            Err(err) => self.0.control.progress.problem(Some(&key), None, err),
        }
        Ok(())
    }

    /// Tries once more what had something in its way.
    async fn those_again(&self, store: &Store) -> Result<(), IndexError> {
        let keys = std::mem::take(&mut *self.again());
        let moves = stream::iter(keys).map(|(key, _)| self.bring_home(store, key));
        let done: Vec<_> = moves.buffer_unordered(self.0.effort.keys_at_once(KEYS_AT_ONCE)).collect().await;
        done.into_iter().collect()
    }

    async fn bring_home(&self, store: &Store, key: Key) -> Result<(), IndexError> {
        let Shared { control, keep_old, .. } = &*self.0;
        if !control.turn().await {
            return Ok(());
        }
        let moved = match store.bring_home(&key, *keep_old).await {
            Ok(moved) => moved,
            // It was removed meanwhile.
            Err(StoreError::Index(IndexError::NotFound { .. })) => Moved::default(),
            Err(StoreError::Index(err @ IndexError::Busy { .. })) => {
                let reason = finding_of(&key, &err.into());
                self.try_again(key, vec![reason]);
                return Ok(());
            }
            Err(StoreError::Index(err @ (IndexError::Stopped | IndexError::TooManyIntents))) => {
                return Err(err);
            }
            Err(err) => {
                control.progress.report(finding_of(&key, &err));
                Moved::default()
            }
        };
        control.add_bytes(moved.bytes);
        let left: Vec<Finding> = moved.left.iter().map(|left| finding_of_left(&key, left)).collect();
        if moved.waits {
            self.try_again(key, left);
            return Ok(());
        }
        left.into_iter().for_each(|left| control.progress.report(left));
        control.progress.add_keys(1);
        control.progress.step();
        Ok(())
    }

    fn try_again(&self, key: Key, reasons: Vec<Finding>) {
        let mut again = self.again();
        match again.len() < MAX_AGAIN {
            true => again.push((key, reasons)),
            false => reasons.into_iter().for_each(|reason| self.0.control.progress.report(reason)),
        }
    }

    fn again(&self) -> MutexGuard<'_, Vec<(Key, Vec<Finding>)>> {
        self.0.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is left.
    fn end(&self) {
        let progress = &self.0.control.progress;
        let left = std::mem::take(&mut *self.again());
        left.into_iter().flat_map(|(_, reasons)| reasons).for_each(|reason| progress.report(reason));
        if self.0.control.is_stopped() {
            progress.problem(None, None, STOPPED);
        }
    }
}

/// Finds out what [`run`] would do, and does nothing.
async fn preview_all(store: &Store, control: &Control) -> Result<Rebalanced, IndexError> {
    let mut sums = BTreeMap::<(Volume, Volume), (u64, u64)>::new();
    let mut rebalanced = Rebalanced::default();
    let mut pages = Pages::new(store.index());
    while let Some(records) = pages.next().await?.filter(|_| !control.is_stopped()) {
        let previews = stream::iter(records).map(|(key, record)| preview_one(store, control, key, record));
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
    if control.is_stopped() {
        control.progress.problem(None, None, STOPPED);
    }
    let transfer = |((from, to), (blobs, bytes))| Transfer { from, to, blobs, bytes };
    rebalanced.transfers = sums.into_iter().map(transfer).collect();
    Ok(rebalanced)
}

async fn preview_one(
    store: &Store,
    control: &Control,
    key: Key,
    record: Result<Record, RecordError>,
) -> Option<(Vec<(Replica, Replica)>, u64)> {
    control.progress.add_keys(1);
    let record = record.map_err(|err| control.progress.problem(Some(&key), None, err)).ok()?;
    if store.is_home(&key, &record) || !control.turn().await {
        return None;
    }
    control.progress.step();
    let preview = store.preview(&key, &record).await;
    let preview = preview.map_err(|err| control.progress.report(finding_of(&key, &err))).ok()?;
    let is_changed =
        !preview.copies.is_empty() || record.replicas != store.placer().placement(key.as_bytes());
    is_changed.then_some((preview.copies, preview.size))
}

/// Why a key was not moved.
fn finding_of(key: &Key, err: &StoreError) -> Finding {
    let (kind, place) = match err {
        StoreError::Gone { .. } => (Kind::Missing, None),
        StoreError::Unavailable { source, .. } => (Kind::Unreachable, Some(source.replica())),
        // A move says so only of replicas that differ.
        StoreError::NotBalanced { .. } => (Kind::Undecided, None),
        _ => (Kind::Other, None),
    };
    Finding::new(kind, Some(key), place, err)
}

fn finding_of_left(key: &Key, left: &Left) -> Finding {
    let kind = match left.trouble {
        Trouble::Misplaced => Kind::Misplaced,
        Trouble::Damaged => Kind::Corrupt,
        Trouble::Silent => Kind::Unreachable,
    };
    Finding::new(kind, Some(key), left.place.as_ref(), &left.reason)
}
