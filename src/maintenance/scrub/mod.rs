//! Scrub: is every replica of every key there, and is it what was stored? And is there anything on the volumes that the
//! index doesn't know? Repair: the same, and what is found is mended from a good copy at once.
//!
//! First all records are gone through and their replicas looked at, then all volumes are walked and what lies on them is
//! looked up ([`strays`]). Everything runs while clients read and write: what looks wrong is looked at again with the
//! key held, and only what is still wrong then is a finding.

mod position;
mod strays;

use super::control::STOPPED;
use super::offline::{self, MaintenanceError, OfflineRequest};
use super::pages::{count_from, next_page};
use super::settle::settle_all;
use super::state::{Clean, ScrubPosition, ScrubSummary, StateFile, Used};
use super::threads::{Effort, on_threads};
use super::{Control, Finding, Kind, Progress};
use crate::index::{IndexError, now_us};
use crate::model::{Key, Record, RecordError, Replica, Volume};
use crate::store::{Depth, Fault, Store, StoreError, StoreParts};
use actix_rt::time::sleep;
use futures_util::stream::{self, StreamExt};
use log::warn;
use position::Position;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Keys whose sizes one thread asks for at the same time.
const ASKED_AT_ONCE: usize = 32;

/// Keys that one thread reads at the same time, each from all of its volumes.
const READ_AT_ONCE: usize = 4;

/// How often a key is tried that a client is writing, and the pause between.
const TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(250);

/// What to look for, and what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubRequest {
    /// How closely replicas are looked at.
    pub depth: Depth,
    /// Mend what is found; `None` only says it.
    pub repair: Option<RepairRequest>,
    /// Who wants it.
    pub origin: Origin,
    /// How much of the machine it takes.
    pub effort: Effort,
}

/// Who wants a scrub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A person; it begins at the first key.
    Asked,
    /// The server itself; it goes on where the last one was interrupted.
    Scheduled,
}

/// How to repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairRequest {
    /// Remove what no record names.
    pub delete_orphans: bool,
    /// Do so although there are too many, or the index is younger than they are.
    pub force: bool,
    /// How long replicas stay that were moved away.
    pub keep_old: Duration,
}

/// What the threads of a scrub share.
struct Scrub {
    parts: StoreParts,
    request: ScrubRequest,
    state: Arc<StateFile>,
    control: Control,
    /// Hears what a walk over the volumes tells before it is confirmed.
    unheard: Progress,
    position: Position,
    /// Volumes about which something was found, or which could not be read.
    unclean: Mutex<BTreeSet<Volume>>,
}

/// Scrubs a cluster whose index nobody else has open. Blocks the calling thread.
pub fn run_offline(
    request: &OfflineRequest,
    scrub: ScrubRequest,
    control: &Control,
) -> Result<(), MaintenanceError> {
    offline::run(request, control, async |opened| {
        let _watching = opened.join().await?;
        run(opened.parts.clone(), scrub, Arc::clone(&opened.state), opened.survey.keys, control.clone())
            .await?;
        match scrub.repair {
            Some(_) => Ok(settle_all(&opened.parts.store(), request.store.grace, control).await?),
            None => Ok(()),
        }
    })
}

/// Scrubs a cluster of about `keys` keys, with its own threads. What is wrong is in the control's progress, and what came
/// of it in `state`. Can be stopped between two keys.
pub async fn run(
    parts: StoreParts,
    request: ScrubRequest,
    state: Arc<StateFile>,
    keys: u64,
    control: Control,
) -> Result<(), MaintenanceError> {
    let position = Position::new(request.origin, &state);
    let earlier = position.earlier().map_or_else(BTreeSet::new, |at| at.unclean.clone());
    let unclean = Mutex::new(earlier.iter().filter_map(|name| name.parse().ok()).collect());
    let unheard = Progress::told_to(|_| {});
    let scrub = Scrub { parts, request, state, control, unheard, position, unclean };
    Arc::new(scrub).run(keys).await
}

impl Scrub {
    async fn run(self: Arc<Self>, keys: u64) -> Result<(), MaintenanceError> {
        let phase = match self.request.depth {
            Depth::Sizes => "asking for every replica",
            Depth::Contents => "reading every replica",
        };
        let keys = match self.position.earlier() {
            None => keys,
            Some(_) => count_from(&self.parts.index.handle(), self.position.cursor().await.clone()).await?,
        };
        self.control.progress.begin(phase, keys);
        self.on_threads(async |scrub, store| scrub.records(store).await).await?;
        let used = match self.control.is_stopped() {
            true => BTreeMap::new(),
            false => strays::find_all(&self).await?,
        };
        match self.control.is_stopped() {
            true => {
                self.report(Finding::new(Kind::Other, None, None, STOPPED));
                Ok(())
            }
            false => self.keep_summary(used),
        }
    }

    /// Has all cores do `work`.
    async fn on_threads<W>(self: &Arc<Self>, work: W) -> Result<(), IndexError>
    where
        W: AsyncFn(&Scrub, &Store) -> Result<(), IndexError> + Clone + Send + 'static,
    {
        let scrub = Arc::clone(self);
        on_threads(&self.parts, self.request.effort, "scrub", async move |store| work(&scrub, store).await)
            .await
    }

    /// Takes pages of records until none is left.
    async fn records(&self, store: &Store) -> Result<(), IndexError> {
        let at_once = match self.request.depth {
            Depth::Sizes => ASKED_AT_ONCE,
            Depth::Contents => READ_AT_ONCE,
        };
        while !self.control.is_stopped() {
            let mut cursor = self.position.cursor().await;
            let Some(records) = next_page(store.index(), &mut cursor).await? else { break };
            let page = self.position.begin(&records);
            drop(cursor);
            let keys = stream::iter(records).map(|(key, record)| self.one(store, key, record));
            let results: Vec<_> =
                keys.buffer_unordered(self.request.effort.keys_at_once(at_once)).collect().await;
            results.into_iter().collect::<Result<(), IndexError>>()?;
            if !self.control.is_stopped() {
                self.position.end(page, &self.state, || self.found());
            }
        }
        Ok(())
    }

    async fn one(
        &self,
        store: &Store,
        key: Key,
        record: Result<Record, RecordError>,
    ) -> Result<(), IndexError> {
        if !self.control.turn().await {
            return Ok(());
        }
        match record {
            Ok(record) => self.look_at(store, &key, &record).await?,
            Err(err) => self.report(Finding::new(Kind::Other, Some(&key), None, err)),
        }
        self.control.progress.add_keys(1);
        self.control.progress.step();
        Ok(())
    }

    async fn look_at(&self, store: &Store, key: &Key, record: &Record) -> Result<(), IndexError> {
        let meter = async |bytes| self.control.pay_for(bytes).await;
        let inspection = store.inspect(key, record, self.request.depth, &meter).await;
        if let Some(md5) = inspection.new_md5
            && let Err(err) = fatal_or_not(store.fill_in_md5(key, record, md5).await)?
        {
            warn!("noting the MD5 of {key}: {err}");
        }
        if inspection.faults.is_empty() {
            return Ok(());
        }
        let faults = self.confirm(store, key, record, self.request.depth).await?;
        match self.request.repair {
            Some(repair) if !faults.is_empty() => self.mend(store, key, record, faults, repair).await,
            _ => {
                faults.into_iter().for_each(|fault| self.report_of(record, finding(key, fault)));
                Ok(())
            }
        }
    }

    /// What is wrong with a key while nobody writes it.
    async fn confirm(
        &self,
        store: &Store,
        key: &Key,
        record: &Record,
        depth: Depth,
    ) -> Result<Vec<Fault>, IndexError> {
        // It is paid for afterwards: a client may be waiting for the key.
        let meter = async |bytes| self.control.add_bytes(bytes);
        let held = patiently(async || store.inspect_held(key, depth, &meter).await).await;
        match fatal_or_not(held)? {
            Ok(inspection) => Ok(inspection.faults),
            Err(err) => {
                self.report_of(record, Finding::new(Kind::Other, Some(key), None, err));
                Ok(Vec::new())
            }
        }
    }

    async fn mend(
        &self,
        store: &Store,
        key: &Key,
        record: &Record,
        faults: Vec<Fault>,
        repair: RepairRequest,
    ) -> Result<(), IndexError> {
        let moved = match faults[..] {
            [Fault::Misplaced] => patiently(async || store.bring_home(key, repair.keep_old).await).await,
            _ => patiently(async || store.repair(key, repair.keep_old).await).await,
        };
        let left = match fatal_or_not(moved)? {
            Ok(moved) => {
                self.control.add_bytes(moved.bytes);
                moved.left.iter().for_each(|left| warn!("repairing {key}: {left}"));
                self.confirm(store, key, record, Depth::Sizes).await?
            }
            Err(err) => {
                warn!("repairing {key}: {err}");
                faults.clone()
            }
        };
        // A replica that was given up is not mended.
        let is_given_up = left.contains(&Fault::TooFew);
        let left: Vec<Finding> = left.into_iter().map(|fault| finding(key, fault)).collect();
        // In other words it is the same: it was looked at in another way.
        let is_left = |found: &Finding| {
            left.iter().any(|left| (left.kind, &left.volume) == (found.kind, &found.volume))
        };
        let found = faults.into_iter().map(|fault| finding(key, fault));
        for found in found.filter(|found| !is_given_up && !is_left(found)) {
            self.report(Finding { mended: true, ..found });
        }
        left.into_iter().for_each(|left| self.report_of(record, left));
        Ok(())
    }

    /// As [`Scrub::report`], of a key whose record is `record`: what is wrong with its content and with none of its replicas in
    /// particular may be any one's fault. That there are too few, or in the wrong places, is no volume's.
    fn report_of(&self, record: &Record, finding: Finding) {
        if finding.volume.is_none() && !matches!(finding.kind, Kind::UnderReplicated | Kind::Misplaced) {
            self.unclean().extend(record.replicas.iter().map(Replica::volume));
        }
        self.report(finding);
    }

    fn report(&self, finding: Finding) {
        if let Some(place) = finding.volume.as_ref().and_then(|name| name.parse::<Replica>().ok()) {
            self.unclean().insert(place.volume());
        }
        self.control.progress.report(finding);
    }

    fn unclean(&self) -> MutexGuard<'_, BTreeSet<Volume>> {
        self.unclean.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found so far, also before a restart.
    fn found(&self) -> ScrubPosition {
        let status = self.control.progress.status();
        let mut found = self.position.earlier().cloned().unwrap_or_default();
        for (kind, count) in status.kinds {
            *found.findings.entry(kind).or_default() += count;
        }
        found.left += status.problems;
        found.unclean = self.unclean().iter().map(Volume::to_string).collect();
        found
    }

    /// Remembers what came of it, and how many bytes lie on the volumes that could be walked.
    fn keep_summary(&self, used: BTreeMap<Volume, u64>) -> Result<(), MaintenanceError> {
        let (status, begun_us) = (self.control.progress.status(), self.position.begun_us());
        let found = self.found();
        let contents = self.request.depth == Depth::Contents;
        let summary = ScrubSummary {
            begun_us,
            ended_us: now_us(),
            contents,
            keys: status.keys,
            bytes: status.bytes,
            findings: found.findings,
            left: found.left,
        };
        let unclean = self.unclean();
        let clean = self.parts.placer.volumes().iter().filter(|volume| !unclean.contains(volume));
        Ok(self.state.change(|now| {
            if contents {
                // One that only asks for sizes takes nothing from one that reads and isn't done.
                now.scrub_at = None;
                now.read_us = begun_us;
            } else {
                now.read_us = now.last_read_us();
            }
            now.last_scrub = Some(summary);
            for (volume, bytes) in used {
                now.used.insert(volume.to_string(), Used { bytes, at_us: now_us() });
            }
            for volume in clean {
                let known: &mut Clean = now.clean.entry(volume.to_string()).or_default();
                known.sizes_us = begun_us;
                known.contents_us = if contents { begun_us } else { known.contents_us };
            }
        })?)
    }
}

fn finding(key: &Key, fault: Fault) -> Finding {
    let (kind, place, what) = match fault {
        Fault::Missing => (Kind::Missing, None, "no replica is left that is right".to_owned()),
        Fault::Absent(place) => (Kind::UnderReplicated, Some(place), "its replica is not there".to_owned()),
        Fault::Damaged(place, what) => (Kind::Corrupt, Some(place), what),
        Fault::Silent(place, what) => (Kind::Unreachable, Some(place), what),
        Fault::Undecided => {
            (Kind::Undecided, None, "its replicas differ and nothing tells which is right".to_owned())
        }
        Fault::TooFew => {
            (Kind::UnderReplicated, None, "its record names fewer replicas than there should be".to_owned())
        }
        Fault::Misplaced => {
            (Kind::Misplaced, None, "its replicas are not where placement wants them".to_owned())
        }
    };
    Finding::new(kind, Some(key), place.as_ref(), what)
}

/// Tries again while a client is writing the key.
async fn patiently<T>(work: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for _ in 1..TRIES {
        match work().await {
            Err(StoreError::Index(IndexError::Busy { .. })) => sleep(BUSY_PAUSE).await,
            done => return done,
        }
    }
    work().await
}

/// Tells what ends the job from what is one key's fault.
fn fatal_or_not<T>(result: Result<T, StoreError>) -> Result<Result<T, StoreError>, IndexError> {
    match result {
        Err(StoreError::Index(err @ (IndexError::Stopped | IndexError::TooManyIntents))) => Err(err),
        other => Ok(other),
    }
}
