//! Which volumes are up: one table for all threads. Calls report what they saw here; the probes of
//! [`super::probe`] decide what it means.
//!
//! A failed connect takes a volume out at once. Anything less only wakes its probe. Only a probe brings it back.

use super::{Addresses, ClusterId, VolumeError};
use crate::model::{Identities, Identity, MasterFile, Replica, Volume};
use arc_swap::{ArcSwap, ArcSwapOption};
use log::{error, info, warn};
use metrics::{Counter, Gauge, counter, gauge};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard, Notify};

/// How a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum VolumeState {
    /// Used.
    Up = 0,
    /// Passed over until a probe succeeds.
    Down = 1,
    /// Belongs to another cluster, or isn't the volume that it was, and is not used.
    Foreign = 2,
}

/// What is known of a volume, for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeHealth {
    /// The volume.
    pub volume: Volume,
    /// Its state.
    pub state: VolumeState,
    /// Since when, µs since 1970.
    pub since_us: u64,
    /// Why it is not up; empty if it is.
    pub reason: String,
    /// When it last gave no answer, µs since 1970; `None` if it always did.
    pub last_unreachable_us: Option<u64>,
    /// Its subvolumes that are not used, and why.
    pub distrusted: Vec<(Replica, String)>,
    /// Whether it has an id that the index knows.
    pub is_identified: bool,
    /// Whether it says that what it acknowledges survives a power cut.
    pub is_durable: bool,
    /// Whether it was found to be an older copy of itself.
    pub is_older: bool,
}

/// Which volumes are up, shared by all threads. Every volume counts as up until somebody has looked.
pub struct Health {
    addresses: Addresses,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    /// The ids of the cluster since it got another; none before.
    ids: Mutex<Vec<ClusterId>>,
    /// Which volume each name is.
    identities: ArcSwap<Identities>,
    /// Places that are not what they were, and why.
    distrusted: ArcSwap<BTreeMap<Replica, String>>,
    /// What was written to each place since it was last looked at.
    written: Mutex<HashMap<Replica, Written>>,
    /// Wakes whoever gives ids when a place without one was written to.
    new_place: Notify,
    /// Held by who finds out which volume is which: two at once would give one place two ids.
    recognising: AsyncMutex<()>,
    looking: Arc<()>,
    /// What our master tells the volumes; nothing while there is none.
    master: ArcSwapOption<MasterFile>,
    /// Whether no volume is used until it is clear that the index is the present one.
    is_held: AtomicBool,
    /// Whether volumes without an id are used only once they were [admitted](Health::admit).
    asks_for_admission: AtomicBool,
}

/// Paths of blobs and sidecars that were written to one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The paths.
    pub paths: Vec<String>,
    /// How many more there were.
    pub more: u64,
}

/// Why a volume is not used that another master works on.
const CLAIMED: &str =
    "its /=master tells of another master, or somebody has written it; remove the file if there is none";

/// Paths that are remembered for one place between two looks, a second apart: more than a volume takes in that time.
const MAX_WRITTEN: usize = 20_000;

pub(super) struct Entry {
    pub(super) volume: Volume,
    /// Wakes the volume's probe.
    pub(super) wake: Notify,
    state: AtomicU8,
    /// Whether its cluster file was right since it last came up.
    pub(super) is_of_cluster: AtomicBool,
    /// Whether somebody has looked which volume it is, so that it may be used without an id.
    is_admitted: AtomicBool,
    /// Whether it says that what it acknowledges survives a power cut.
    pub(super) is_durable: AtomicBool,
    is_older: AtomicBool,
    /// Whether it tells of another master.
    is_claimed: AtomicBool,
    /// Whether it answers, and waits for that.
    is_waiting: AtomicBool,
    /// 0: never.
    last_unreachable_us: AtomicU64,
    /// Since when and why the state is what it is.
    change: Mutex<(u64, String)>,
    errors: Counter,
    sent_bytes: Counter,
    probe_seconds: Gauge,
}

impl Health {
    /// A table of `volumes`.
    pub fn new(volumes: &[Volume]) -> Health {
        Health::found_at(volumes, Addresses::default())
    }

    /// A table of `volumes`, some of which are not found under their names.
    pub fn found_at(volumes: &[Volume], addresses: Addresses) -> Health {
        let now_us = now_us();
        let entries: Vec<Entry> = volumes.iter().map(|volume| Entry::new(volume, now_us)).collect();
        let name = |(index, volume): (usize, &Volume)| (volume.to_string(), index);
        let by_name = volumes.iter().enumerate().map(name).collect();
        Health {
            addresses,
            entries,
            by_name,
            ids: Mutex::default(),
            identities: ArcSwap::default(),
            distrusted: ArcSwap::default(),
            written: Mutex::default(),
            new_place: Notify::new(),
            recognising: AsyncMutex::new(()),
            looking: Arc::default(),
            master: ArcSwapOption::empty(),
            is_held: AtomicBool::new(false),
            asks_for_admission: AtomicBool::new(false),
        }
    }

    /// From now on volumes with one of `ids` are ours, and those that become ours get the first.
    pub fn rename_cluster(&self, ids: Vec<ClusterId>) {
        *self.ids.lock().unwrap_or_else(PoisonError::into_inner) = ids;
    }

    /// The ids whose volumes are ours, where the cluster was `cluster` when the process began.
    pub(super) fn ids(&self, cluster: &ClusterId) -> Vec<ClusterId> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.is_empty() { vec![cluster.clone()] } else { ids.clone() }
    }

    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Which volume each name is.
    pub fn identities(&self) -> Arc<Identities> {
        self.identities.load_full()
    }

    /// From now on volumes are known by these ids.
    pub fn set_identities(&self, identities: Identities) {
        self.identities.store(Arc::new(identities));
    }

    /// The id of a place, if it has one.
    pub fn identity(&self, place: &Replica) -> Option<Identity> {
        self.identities.load().of(place)
    }

    /// A place isn't what it was: it is not used until a look finds it right.
    pub fn distrust(&self, place: &Replica, reason: &str) {
        let before = self.distrusted.rcu(|places| {
            let mut places = BTreeMap::clone(places);
            places.insert(place.clone(), reason.to_owned());
            places
        });
        if let Some(index) = self.by_name.get(place.as_str()) {
            self.entries[*index].set(VolumeState::Foreign, reason);
        } else if before.get(place).is_none_or(|earlier| earlier != reason) {
            error!("{place} is not used: {reason}");
        }
    }

    /// A place is what it was. A whole volume is used again once a probe has found everything right.
    pub fn trust(&self, place: &Replica) {
        if self.why_distrusted(place).is_none() {
            return;
        }
        self.distrusted.rcu(|places| {
            let mut places = BTreeMap::clone(places);
            places.remove(place);
            places
        });
        match self.by_name.get(place.as_str()) {
            Some(index) => self.entries[*index].wake.notify_one(),
            None => info!("{place} is used again"),
        }
    }

    /// Subvolumes that are not used, and why.
    pub fn distrusted(&self) -> Arc<BTreeMap<Replica, String>> {
        self.distrusted.load_full()
    }

    /// The volume of `place` has confirmed a file.
    pub(super) fn wrote(&self, place: &Replica, path: &str) {
        if !self.is_known(place) {
            return;
        }
        if self.identity(place).is_none() {
            self.new_place.notify_one();
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let here = match written.get_mut(place) {
            Some(here) => here,
            None => written.entry(place.clone()).or_default(),
        };
        match here.paths.len() < MAX_WRITTEN {
            true => here.paths.push(path.to_owned()),
            false => here.more += 1,
        }
    }

    /// Waits until nobody else finds out which volume is which, in any thread.
    pub async fn recognise_alone(&self) -> MutexGuard<'_, ()> {
        self.recognising.lock().await
    }

    /// To be held while what was written is looked at, and made anew where it went to a wrong place.
    pub fn looking(&self) -> Arc<()> {
        Arc::clone(&self.looking)
    }

    /// Whether anybody does.
    pub fn is_looking(&self) -> bool {
        Arc::strong_count(&self.looking) > 1
    }

    /// Waits until a place that has no id is written to.
    pub async fn new_place(&self) {
        self.new_place.notified().await;
    }

    /// What was written to a place that could not be looked at is to be looked at again.
    pub fn keep_written(&self, place: Replica, earlier: Written) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let here = written.entry(place).or_default();
        let room = MAX_WRITTEN.saturating_sub(here.paths.len());
        here.more += earlier.more + earlier.paths.len().saturating_sub(room) as u64;
        here.paths.extend(earlier.paths.into_iter().take(room));
    }

    /// From now on a volume that has no id is used only once somebody has looked which one it is.
    pub fn ask_for_admission(&self, volumes: &[Volume]) {
        for entry in self.entries.iter().filter(|entry| !volumes.contains(&entry.volume)) {
            entry.is_admitted.store(true, Ordering::Relaxed);
        }
        self.asks_for_admission.store(true, Ordering::Relaxed);
    }

    /// Somebody has looked which one it is.
    pub fn admit(&self, volume: &Volume) {
        if let Some(entry) = self.entry(&volume.root()) {
            entry.is_admitted.store(true, Ordering::Relaxed);
            if self.is_held.load(Ordering::Relaxed) {
                return;
            }
            if entry.is_waiting.swap(false, Ordering::Relaxed)
                && self.why_distrusted(&volume.root()).is_none()
            {
                entry.admit();
            }
        }
    }

    /// Volumes that answer, and wait for somebody to look which one they are.
    pub fn awaited(&self) -> Vec<Volume> {
        let waiting = self.entries.iter().filter(|entry| entry.is_waiting.load(Ordering::Relaxed));
        waiting.map(|entry| entry.volume.clone()).collect()
    }

    /// A probe has found a volume well: it is used, or waits until somebody has looked which one it is.
    pub(super) fn set_well(&self, entry: &Entry) {
        let root = entry.volume.root();
        if let Some(reason) = self.why_distrusted(&root) {
            return entry.set(VolumeState::Foreign, &reason);
        }
        if entry.is_claimed.load(Ordering::Relaxed) {
            return entry.set(VolumeState::Foreign, CLAIMED);
        }
        let is_known = !self.asks_for_admission.load(Ordering::Relaxed)
            || entry.is_admitted.load(Ordering::Relaxed)
            || self.identity(&root).is_some();
        let may_be_used = is_known && !self.is_held.load(Ordering::Relaxed);
        entry.is_waiting.store(!may_be_used, Ordering::Relaxed);
        match may_be_used {
            true => entry.set(VolumeState::Up, ""),
            false => entry.wait_for_admission(),
        }
    }

    /// A volume tells of another master than ours, or doesn't any more.
    pub fn claim(&self, volume: &Volume, is_claimed: bool) {
        if let Some(entry) = self.entry(&volume.root())
            && entry.is_claimed.swap(is_claimed, Ordering::Relaxed) != is_claimed
        {
            if is_claimed {
                entry.set(VolumeState::Foreign, CLAIMED);
            }
            entry.wake.notify_one();
        }
    }

    /// A volume is an older copy of itself, or isn't.
    pub fn set_older(&self, volume: &Volume, is_older: bool) {
        if let Some(entry) = self.entry(&volume.root()) {
            entry.is_older.store(is_older, Ordering::Relaxed);
        }
    }

    /// From now on volumes are told this of our master.
    pub fn set_master(&self, file: MasterFile) {
        self.master.store(Some(Arc::new(file)));
    }

    /// What volumes are told of our master.
    pub(super) fn master(&self) -> Option<Arc<MasterFile>> {
        self.master.load_full()
    }

    /// No volume is used until [`Health::let_go`].
    pub fn hold(&self) {
        self.is_held.store(true, Ordering::Relaxed);
    }

    /// Volumes are used again as soon as a probe has found them well.
    pub fn let_go(&self) {
        self.is_held.store(false, Ordering::Relaxed);
        self.entries.iter().for_each(|entry| entry.wake.notify_one());
    }

    /// Whether a volume answers and is ours, whether it is used or waits.
    pub fn is_heard(&self, volume: &Volume) -> bool {
        self.entry(&volume.root()).is_some_and(|entry| {
            entry.state() == VolumeState::Up
                || entry.is_waiting.load(Ordering::Relaxed)
                || entry.is_claimed.load(Ordering::Relaxed)
        })
    }

    fn why_distrusted(&self, place: &Replica) -> Option<String> {
        self.distrusted.load().get(place).cloned()
    }

    /// What was written to each place since this was last asked.
    pub fn take_written(&self) -> HashMap<Replica, Written> {
        std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the place `replica` can be used. One on a volume that is not in the table counts as up.
    pub fn is_up(&self, replica: &Replica) -> bool {
        self.is_volume_up(replica) && !self.distrusted.load().contains_key(replica)
    }

    /// Whether the volume of `replica` can be used, whatever its subvolumes are.
    pub fn is_volume_up(&self, replica: &Replica) -> bool {
        self.entry(replica).is_none_or(|entry| entry.state() == VolumeState::Up)
    }

    /// Whether the volume of `replica` is in the table, and so is probed.
    pub fn is_known(&self, replica: &Replica) -> bool {
        self.entry(replica).is_some()
    }

    /// Why nothing counts that is said at `replica`: it is another cluster's, or not what it was. `None` where it counts.
    pub(super) fn why_foreign(&self, replica: &Replica) -> Option<String> {
        if let Some(reason) = self.why_distrusted(replica) {
            return Some(reason);
        }
        let entry = self.entry(replica)?;
        (entry.state() == VolumeState::Foreign).then(|| entry.reason())
    }

    /// When the volume of `replica` last gave no answer, in µs of the wall clock since 1970; `None` if it
    /// always did or is not in the table.
    pub fn last_unreachable_us(&self, replica: &Replica) -> Option<u64> {
        self.entry(replica)?.last_unreachable_us()
    }

    /// Every volume, in the order given to [`Health::new`].
    pub fn snapshot(&self) -> Vec<VolumeHealth> {
        let (distrusted, known) = (self.distrusted(), self.identities());
        let health = |entry: &Entry| {
            let root = entry.volume.root();
            let mine =
                distrusted.iter().filter(|(place, _)| place.volume() == entry.volume && **place != root);
            VolumeHealth {
                distrusted: mine.map(|(place, reason)| (place.clone(), reason.clone())).collect(),
                is_identified: known.of(&entry.volume.root()).is_some(),
                ..entry.health()
            }
        };
        self.entries.iter().map(health).collect()
    }

    /// Has the volume of `replica` probed at once, because it was slow.
    pub(super) fn suspect(&self, replica: &Replica) {
        if let Some(entry) = self.entry(replica) {
            entry.wake.notify_one();
        }
    }

    /// Draws the consequence of a failed call.
    pub(super) fn note(&self, err: &VolumeError) {
        let Some(entry) = self.entry(err.replica()) else { return };
        if is_the_volumes(err) {
            entry.errors.increment(1);
        }
        match err {
            VolumeError::Unreachable { reason, .. } => {
                entry.touch_unreachable();
                entry.set(VolumeState::Down, reason);
            }
            VolumeError::NoAnswer { .. } => {
                entry.touch_unreachable();
                entry.wake.notify_one();
            }
            // nginx says 500 when a disk is full, so a refused PUT alone says little.
            VolumeError::Refused { method: "PUT", status: 500 | 507, .. } => {}
            VolumeError::Refused { status: 500.., .. } => entry.wake.notify_one(),
            // Which of its places it was is known already; if it was the server, a probe finds out.
            VolumeError::Foreign { .. } => entry.wake.notify_one(),
            VolumeError::Refused { .. }
            | VolumeError::Aborted { .. }
            | VolumeError::TooLarge { .. }
            | VolumeError::NoListing { .. }
            | VolumeError::Unreadable { .. }
            | VolumeError::Directory { .. } => {}
        }
    }

    /// Where the bytes of bodies are counted that are sent to the volume of `replica`.
    pub(super) fn sent_bytes(&self, replica: &Replica) -> Counter {
        self.entry(replica).map_or_else(Counter::noop, |entry| entry.sent_bytes.clone())
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of the replica's volume, found without an allocation.
    fn entry(&self, replica: &Replica) -> Option<&Entry> {
        let name = replica.as_str();
        let index = match self.by_name.get(name) {
            Some(index) => index,
            None => self.by_name.get(name.rsplit_once("/sv")?.0)?,
        };
        self.entries.get(*index)
    }
}

impl Entry {
    fn new(volume: &Volume, now_us: u64) -> Entry {
        Entry {
            volume: volume.clone(),
            wake: Notify::new(),
            state: AtomicU8::new(VolumeState::Up as u8),
            is_of_cluster: AtomicBool::new(false),
            is_admitted: AtomicBool::new(false),
            is_waiting: AtomicBool::new(false),
            is_claimed: AtomicBool::new(false),
            is_durable: AtomicBool::new(false),
            is_older: AtomicBool::new(false),
            last_unreachable_us: AtomicU64::new(0),
            change: Mutex::new((now_us, String::new())),
            errors: counter!("mkv_volume_errors_total", "volume" => volume.to_string()),
            sent_bytes: counter!("mkv_volume_sent_bytes_total", "volume" => volume.to_string()),
            probe_seconds: gauge!("mkv_volume_probe_duration_seconds", "volume" => volume.to_string()),
        }
    }

    fn state(&self) -> VolumeState {
        VolumeState::of(self.state.load(Ordering::Relaxed))
    }

    /// Moves to `state`, and logs the move if it is one.
    pub(super) fn set(&self, state: VolumeState, reason: &str) {
        let mut change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        if VolumeState::of(self.state.swap(state as u8, Ordering::Relaxed)) == state {
            return;
        }
        *change = (now_us(), reason.to_owned());
        self.is_of_cluster.store(false, Ordering::Relaxed);
        if state != VolumeState::Up {
            self.is_waiting.store(false, Ordering::Relaxed);
        }
        match state {
            VolumeState::Up => info!("volume {} is up", self.volume),
            VolumeState::Down => warn!("volume {} is down: {reason}", self.volume),
            VolumeState::Foreign => error!("volume {} is not used: {reason}", self.volume),
        }
    }

    /// It is looked at before it is used. Nothing is wrong with it, so nothing is logged.
    fn wait_for_admission(&self) {
        let mut change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.store(VolumeState::Down as u8, Ordering::Relaxed);
        *change = (now_us(), "it answers, and is looked at before it is used".to_owned());
    }

    fn admit(&self) {
        let mut change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.store(VolumeState::Up as u8, Ordering::Relaxed);
        *change = (now_us(), String::new());
    }

    fn reason(&self) -> String {
        self.change.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// A probe has ended, well or not.
    pub(super) fn probed(&self, took: Duration) {
        self.probe_seconds.set(took);
    }

    fn touch_unreachable(&self) {
        self.last_unreachable_us.fetch_max(now_us(), Ordering::Relaxed);
    }

    fn last_unreachable_us(&self) -> Option<u64> {
        Some(self.last_unreachable_us.load(Ordering::Relaxed)).filter(|time| *time > 0)
    }

    fn health(&self) -> VolumeHealth {
        let change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        VolumeHealth {
            volume: self.volume.clone(),
            state: self.state(),
            since_us: change.0,
            reason: change.1.clone(),
            last_unreachable_us: self.last_unreachable_us(),
            distrusted: Vec::new(),
            is_identified: false,
            is_durable: self.is_durable.load(Ordering::Relaxed),
            is_older: self.is_older.load(Ordering::Relaxed),
        }
    }
}

impl VolumeState {
    fn of(number: u8) -> VolumeState {
        match number {
            0 => VolumeState::Up,
            2 => VolumeState::Foreign,
            _ => VolumeState::Down,
        }
    }
}

/// Whether a volume has failed, and not this side or a client.
fn is_the_volumes(err: &VolumeError) -> bool {
    match err {
        VolumeError::Unreachable { .. }
        | VolumeError::NoAnswer { .. }
        | VolumeError::Refused { .. }
        | VolumeError::NoListing { .. } => true,
        VolumeError::Aborted { .. }
        | VolumeError::TooLarge { .. }
        | VolumeError::Foreign { .. }
        | VolumeError::Unreadable { .. }
        | VolumeError::Directory { .. } => false,
    }
}

/// The wall clock, in µs since 1970.
fn now_us() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(&["a:1".parse().unwrap(), "a:1/sv00".parse().unwrap(), "b:1".parse().unwrap()])
    }

    fn replica(name: &str) -> Replica {
        name.parse().unwrap()
    }

    fn unreachable(name: &str) -> VolumeError {
        VolumeError::Unreachable { replica: replica(name), reason: "refused".into() }
    }

    #[test]
    fn a_failed_connect_takes_the_whole_volume_out() {
        let health = health();
        assert!(health.is_up(&replica("b:1/sv03")));
        health.note(&unreachable("b:1/sv07"));
        assert!(!health.is_up(&replica("b:1/sv03")) && !health.is_up(&replica("b:1")));
        assert!(health.is_up(&replica("a:1")) && health.is_up(&replica("unknown:9")));
        assert!(health.last_unreachable_us(&replica("b:1")).is_some());
        assert_eq!(health.last_unreachable_us(&replica("a:1")), None);
        let snapshot = health.snapshot();
        assert_eq!((snapshot[2].state, snapshot[2].reason.as_str()), (VolumeState::Down, "refused"));
    }

    #[test]
    fn a_volume_that_is_named_like_a_subvolume_is_itself() {
        let health = health();
        health.note(&unreachable("a:1/sv00"));
        assert!(!health.is_up(&replica("a:1/sv00")) && !health.is_up(&replica("a:1/sv00/sv02")));
        assert!(health.is_up(&replica("a:1/sv01")));
    }

    #[test]
    fn an_answer_takes_no_volume_out() {
        let health = health();
        for status in [404, 500, 503, 507] {
            let err =
                VolumeError::Refused { replica: replica("b:1"), method: "PUT", path: "/x".into(), status };
            health.note(&err);
        }
        assert!(health.is_up(&replica("b:1")));
        assert_eq!(health.last_unreachable_us(&replica("b:1")), None);
    }
}
