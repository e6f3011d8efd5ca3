//! rebalance: replicas go where placement wants them after volumes were added, removed or replaced.
//!
//! Every key is looked at once and moved by [`Store::bring_home`] if it isn't home; what one key needs is decided there,
//! under its lock. Here is what surrounds it: which keys, how many at once, how fast, and what is left in the end.

use super::{Pace, Progress};
use crate::index::table::TableError;
use crate::index::{self, Index, IndexError, IndexServer, leveldb};
use crate::model::{Key, Placer, Record, Replica, Volume};
use crate::store::{Moved, Store, StoreError, StoreOptions};
use crate::volume::{self, ClusterId, Health, ProbeOutcome, Timeouts, VolumeClient};
use actix_rt::signal::unix::{SignalKind, signal};
use actix_rt::time::sleep;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Bound;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Keys that are moved at the same time: enough that no volume waits for a master that waits for another, few enough
/// that their buffers are some megabytes.
const KEYS_AT_ONCE: usize = 16;

/// Records that are read in one go.
const PAGE_RECORDS: usize = 512;

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

/// A rebalance with the server stopped.
#[derive(Debug, Clone)]
pub struct RebalanceRequest {
    /// Only say what would be moved.
    pub dry_run: bool,
    /// The directory of the index.
    pub db: PathBuf,
    /// Volumes, replicas and subvolumes.
    pub placer: Placer,
    /// As the server has them.
    pub store: StoreOptions,
    /// How long a volume may take.
    pub timeouts: Timeouts,
    /// `user:password` for the volumes.
    pub userpass: Option<String>,
    /// Take over volumes of another cluster.
    pub adopt: bool,
}

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
    /// What would be moved, with [`RebalanceRequest::dry_run`].
    pub transfers: Vec<Transfer>,
    /// Keys, of those that would be changed, of which nothing is copied.
    pub without_copies: u64,
}

/// Why a rebalance did not go through all keys.
#[derive(Debug, Error)]
pub enum RebalanceError {
    /// A server, or another job, has the index.
    #[error("{0}; stop it first, or use the method REBALANCE on single keys")]
    InUse(TableError),
    /// The index can't be opened, or has stopped.
    #[error(transparent)]
    Table(TableError),
    /// The index refused.
    #[error(transparent)]
    Index(IndexError),
    /// A volume of another cluster.
    #[error("volume {volume} belongs to cluster {}, not to {ours}; --adopt takes it over", theirs.escape_debug())]
    Foreign {
        /// The volume.
        volume: Volume,
        /// The cluster that the volume names.
        theirs: String,
        /// The cluster that the index names.
        ours: String,
    },
}

/// Goes through all keys of an index that nobody else has open. What could not be done is in `progress`; `stop` ends it
/// between two keys, and so does a first Ctrl-C or SIGTERM. Blocks the calling thread.
pub fn run(
    request: &RebalanceRequest,
    progress: &Progress,
    pace: &Pace,
    stop: &AtomicBool,
) -> Result<Rebalanced, RebalanceError> {
    let dir = request.db.clone();
    let options = leveldb::Options { copy_mark: Some(index::copy_mark()), ..leveldb::Options::default() };
    let open = move || leveldb::open(&dir, options);
    let index = IndexServer::start(open, request.store.grace_us()).map_err(|err| match err {
        TableError::Locked { .. } => RebalanceError::InUse(err),
        err => RebalanceError::Table(err),
    })?;
    actix_rt::System::new().block_on(async {
        let mut index = index;
        let work = with_index(request, index.sender().handle(), progress, pace, stop);
        let done = match until_stopped(work, stop).await {
            Err(RebalanceError::Index(IndexError::Stopped)) => {
                Err(RebalanceError::Table(index.failed().await))
            }
            done => done,
        };
        index.close().await.map_err(RebalanceError::Table)?;
        done
    })
}

/// The first signal lets what has begun come to its end.
async fn until_stopped<T>(work: impl Future<Output = T>, stop: &AtomicBool) -> T {
    let mut work = pin!(work);
    let signals = async {
        let mut signals = SIGNALS.map(|kind| signal(kind()).expect("the system delivers signals"));
        let [terminate, interrupt] = &mut signals;
        select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
    };
    match select(work.as_mut(), pin!(signals)).await {
        Either::Left((done, _)) => done,
        Either::Right(_) => {
            stop.store(true, Ordering::Relaxed);
            work.await
        }
    }
}

const SIGNALS: [fn() -> SignalKind; 2] = [SignalKind::terminate, SignalKind::interrupt];

async fn with_index(
    request: &RebalanceRequest,
    index: Index,
    progress: &Progress,
    pace: &Pace,
    stop: &AtomicBool,
) -> Result<Rebalanced, RebalanceError> {
    progress.begin("reading the index", 0);
    let survey = Survey::of(&index, &request.placer).await.map_err(RebalanceError::Index)?;
    let mut known = request.placer.volumes().to_vec();
    known.extend(survey.strangers);
    let client = VolumeClient::new(request.timeouts, Arc::new(Health::new(&known)));
    let client = client.with_credentials(request.userpass.as_deref().map(Rc::from));
    let (placer, options) = (Arc::new(request.placer.clone()), Arc::new(request.store.clone()));
    let store = Store::new(index.clone(), client.clone(), placer, options);
    // Nobody is reading, so the old copies can go at once.
    let job = Rebalance { index: &index, store: &store, keep_old: Duration::ZERO, progress, pace, stop };
    progress.begin("moving", survey.away);
    if request.dry_run {
        return job.preview_all().await.map_err(RebalanceError::Index);
    }
    let cluster = check_volumes(request, &index, &client).await?;
    let watching = actix_rt::spawn(volume::watch(client.clone(), cluster, request.adopt));
    let done = job.all_and_settle(request.store.grace).await.map_err(RebalanceError::Index);
    watching.abort();
    done.map(|()| Rebalanced::default())
}

/// The volumes that are given must be ours; of others that records name it is enough that they are not asked.
async fn check_volumes(
    request: &RebalanceRequest,
    index: &Index,
    client: &VolumeClient,
) -> Result<ClusterId, RebalanceError> {
    let ours = index.cluster_id().await.map_err(RebalanceError::Index)?;
    let cluster: ClusterId = ours.parse().map_err(|err| {
        RebalanceError::Table(TableError::Corrupt { reason: format!("the cluster id can't be read: {err}") })
    })?;
    for (volume, outcome) in volume::probe_all_once(client, &cluster, request.adopt).await {
        match outcome {
            ProbeOutcome::Foreign { found: theirs } if request.placer.volumes().contains(&volume) => {
                return Err(RebalanceError::Foreign { volume, theirs, ours });
            }
            _ => {}
        }
    }
    Ok(cluster)
}

/// What can be known without asking a volume.
struct Survey {
    /// Keys that are to be moved.
    away: u64,
    /// Volumes that hold files of ours and were not given.
    strangers: BTreeSet<Volume>,
}

impl Survey {
    async fn of(index: &Index, placer: &Placer) -> Result<Survey, IndexError> {
        let mut survey = Survey { away: 0, strangers: BTreeSet::new() };
        let mut pages = Pages::new(index);
        while let Some(records) = pages.next().await? {
            for (key, record) in records {
                let Ok(record) = record else { continue };
                survey.away += u64::from(record.replicas != placer.placement(key.as_bytes()));
                survey.add_strangers(placer, &record.replicas);
            }
        }
        for (_, intent) in index.waiting(usize::MAX).await? {
            let places: Vec<Replica> = intent.files.into_iter().map(|placed| placed.replica).collect();
            survey.add_strangers(placer, &places);
        }
        Ok(survey)
    }

    fn add_strangers(&mut self, placer: &Placer, places: &[Replica]) {
        let volumes = places.iter().map(Replica::volume);
        self.strangers.extend(volumes.filter(|volume| !placer.volumes().contains(volume)));
    }
}

type Records = Vec<(Key, Result<Record, crate::model::RecordError>)>;

/// All records, page by page.
struct Pages<'a> {
    index: &'a Index,
    from: Option<Bound<Vec<u8>>>,
}

impl Pages<'_> {
    fn new(index: &Index) -> Pages<'_> {
        Pages { index, from: Some(Bound::Included(b"/".to_vec())) }
    }

    async fn next(&mut self) -> Result<Option<Records>, IndexError> {
        let Some(from) = self.from.take() else { return Ok(None) };
        let page = self.index.scan(from, PAGE_RECORDS).await?;
        self.from = page.next;
        Ok(Some(page.entries))
    }
}

/// A rebalance of all keys of an index, in use or not. It can be dropped at any time.
pub struct Rebalance<'a> {
    /// The index.
    pub index: &'a Index,
    /// The store of this thread.
    pub store: &'a Store,
    /// How long old copies stay, for readers that were just redirected.
    pub keep_old: Duration,
    /// Where it says how far it is and what is left.
    pub progress: &'a Progress,
    /// How fast it goes.
    pub pace: &'a Pace,
    /// Ends it between two keys.
    pub stop: &'a AtomicBool,
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
    async fn all_and_settle(&self, grace: Duration) -> Result<(), IndexError> {
        let mut again = match select(pin!(self.all()), pin!(self.settle_for_ever())).await {
            Either::Left((done, _)) => done?,
            Either::Right((failed, _)) => return Err(failed),
        };
        self.progress.begin("removing what was moved away", 0);
        self.settle_rest(grace).await?;
        for _ in 0..TRIES {
            if again.is_empty() || self.is_stopped() {
                break;
            }
            self.progress.begin("moving what was in the way", again.len() as u64);
            again = self.some(again.into_iter().map(|(key, _)| key).collect()).await?;
            self.settle_rest(grace).await?;
        }
        self.leave(again);
        self.report_unsettled().await?;
        if self.is_stopped() {
            self.progress.problem(None, None, "stopped before the end; run it again");
        }
        Ok(())
    }

    /// Goes through all keys once. Answers those that are worth another try, and what was in their way.
    pub async fn all(&self) -> Result<Vec<(Key, String)>, IndexError> {
        let mut moves = FuturesUnordered::new();
        let mut again = Vec::new();
        let mut pages = Pages::new(self.index);
        while !self.is_stopped() {
            let Some(records) = self.meanwhile(&mut moves, &mut again, pages.next()).await?? else { break };
            for (key, record) in records {
                match record {
                    Ok(record) if self.store.is_home(&key, &record) => self.progress.add_keys(1),
                    Ok(_) => {
                        while moves.len() >= KEYS_AT_ONCE {
                            self.take(moves.next().await, &mut again)?;
                        }
                        moves.push(self.one(key));
                    }
                    Err(err) => self.progress.problem(Some(&key), None, err),
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
            Some(Tried::Again(key, reason)) => self.progress.problem(Some(&key), None, reason),
            Some(Tried::Fatal(err)) => return Err(err),
            Some(Tried::Done) | None => {}
        }
        Ok(())
    }

    async fn one(&self, key: Key) -> Tried {
        self.pace.wait().await;
        if self.is_stopped() {
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
                self.progress.problem(Some(&key), None, err);
                Moved::default()
            }
        };
        self.pace.charge(moved.copies, moved.bytes);
        self.progress.add_bytes(moved.bytes);
        if moved.waits {
            let reasons: Vec<String> = moved.left.iter().map(ToString::to_string).collect();
            return Tried::Again(key, reasons.join("; "));
        }
        for left in moved.left {
            self.progress.problem(Some(&key), left.place.as_ref(), left.reason);
        }
        self.progress.add_keys(1);
        self.progress.step();
        Tried::Done
    }

    fn leave(&self, again: Vec<(Key, String)>) {
        for (key, reason) in again {
            self.progress.problem(Some(&key), None, reason);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
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
        while !self.is_stopped() {
            match self.store.settle_due().await {
                Ok(_) => {}
                Err(StoreError::Index(IndexError::Stopped)) => return Err(IndexError::Stopped),
                Err(err) => log::warn!("settling what earlier writes left: {err}"),
            }
            let waiting = self.index.waiting(INTENTS_LOOKED_AT).await?;
            let can_go = |replica: &Replica| self.store.volumes().health().is_up(replica);
            if !waiting.iter().any(|(_, intent)| intent.files.iter().any(|placed| can_go(&placed.replica))) {
                return Ok(());
            }
            let count = self.index.unsettled().await?;
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
        for (_, intent) in self.index.waiting(usize::MAX).await? {
            for placed in intent.files {
                *counts.entry(placed.replica.volume()).or_default() += 1;
            }
        }
        for (volume, count) in counts {
            let what = format!("{volume}: {count} files are to be removed as soon as it answers");
            match self.store.placer().volumes().contains(&volume) {
                true => self.progress.problem(None, None, what),
                false => self.progress.note(what),
            }
        }
        Ok(())
    }

    /// Finds out what [`Rebalance::all`] would do, and does nothing.
    async fn preview_all(&self) -> Result<Rebalanced, IndexError> {
        let mut sums = BTreeMap::<(Volume, Volume), (u64, u64)>::new();
        let mut rebalanced = Rebalanced::default();
        let mut pages = Pages::new(self.index);
        while let Some(records) = pages.next().await?.filter(|_| !self.is_stopped()) {
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
        self.progress.add_keys(1);
        let record = record.map_err(|err| self.progress.problem(Some(&key), None, err)).ok()?;
        if self.store.is_home(&key, &record) {
            return None;
        }
        self.progress.step();
        let preview = self.store.preview(&key, &record).await;
        let preview = preview.map_err(|err| self.progress.problem(Some(&key), None, err)).ok()?;
        let is_changed =
            !preview.copies.is_empty() || record.replicas != self.store.placer().placement(key.as_bytes());
        is_changed.then_some((preview.copies, preview.size))
    }
}
