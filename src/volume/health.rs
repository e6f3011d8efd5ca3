//! Which volumes are up: one table for all threads. Calls report what they saw here; the probes of
//! [`super::probe`] decide what it means.
//!
//! A failed connect takes a volume out at once. Anything less only wakes its probe. Only a probe brings it back.

use super::{ClusterId, VolumeError};
use crate::model::{Replica, Volume};
use log::{error, info, warn};
use metrics::{Counter, Gauge, counter, gauge};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// How a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum VolumeState {
    /// Used.
    Up = 0,
    /// Passed over until a probe succeeds.
    Down = 1,
    /// Belongs to another cluster and is not used.
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
}

/// Which volumes are up, shared by all threads. Every volume counts as up until somebody has looked.
pub struct Health {
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    /// The ids of the cluster since it got another; none before.
    ids: Mutex<Vec<ClusterId>>,
}

pub(super) struct Entry {
    pub(super) volume: Volume,
    /// Wakes the volume's probe.
    pub(super) wake: Notify,
    state: AtomicU8,
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
        let now_us = now_us();
        let entries: Vec<Entry> = volumes.iter().map(|volume| Entry::new(volume, now_us)).collect();
        let name = |(index, volume): (usize, &Volume)| (volume.to_string(), index);
        let by_name = volumes.iter().enumerate().map(name).collect();
        Health { entries, by_name, ids: Mutex::default() }
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

    /// Whether the volume of `replica` can be used. A volume that is not in the table counts as up.
    pub fn is_up(&self, replica: &Replica) -> bool {
        self.entry(replica).is_none_or(|entry| entry.state() == VolumeState::Up)
    }

    /// Whether the volume of `replica` is in the table, and so is probed.
    pub fn is_known(&self, replica: &Replica) -> bool {
        self.entry(replica).is_some()
    }

    /// Whether the volume of `replica` belongs to another cluster.
    pub(super) fn is_foreign(&self, replica: &Replica) -> bool {
        self.entry(replica).is_some_and(|entry| entry.state() == VolumeState::Foreign)
    }

    /// When the volume of `replica` last gave no answer, in µs of the wall clock since 1970; `None` if it
    /// always did or is not in the table.
    pub fn last_unreachable_us(&self, replica: &Replica) -> Option<u64> {
        self.entry(replica)?.last_unreachable_us()
    }

    /// Every volume, in the order given to [`Health::new`].
    pub fn snapshot(&self) -> Vec<VolumeHealth> {
        self.entries.iter().map(Entry::health).collect()
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
            VolumeError::Refused { .. }
            | VolumeError::Aborted { .. }
            | VolumeError::TooLarge { .. }
            | VolumeError::NoListing { .. }
            | VolumeError::Foreign { .. }
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
        match state {
            VolumeState::Up => info!("volume {} is up", self.volume),
            VolumeState::Down => warn!("volume {} is down: {reason}", self.volume),
            VolumeState::Foreign => error!("volume {} is not used: {reason}", self.volume),
        }
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
