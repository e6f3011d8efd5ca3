//! Looks at every volume about once a second (less often where there are more than twenty): does it answer, is it the one
//! that it was, and is it ours?
//!
//! Each volume keeps its own id in [`VOLUME_PATH`](crate::model::VOLUME_PATH) and that of its cluster in [`CLUSTER_PATH`]. A
//! volume without a cluster's id is adopted if it looks like a volume; one with another is never used, because two masters on
//! the same files would remove each other's blobs. Where the volume's own id is right, a cluster's id that a power cut has
//! torn is written again.

use super::health::{Entry, VolumeState};
use super::{VolumeClient, VolumeError};
use crate::model::{CLUSTER_PATH, MASTER_PATH, MasterFile, Replica, Volume, is_of_layout};
use actix_rt::time::{Instant, sleep_until, timeout};
use bytes::Bytes;
use futures_util::future::join_all;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::sync::Semaphore;

/// How long a volume is left alone when nothing seems wrong, with few volumes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// With many volumes, those that are up are asked less often: each probe wakes an idle master, for some 0.1 ms of CPU. A
/// call that fails meanwhile starts a probe at once.
const PROBES_PER_SECOND: u32 = 20;

/// The shortest time between two probes of a volume, however many calls fail in it.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// The volumes are probed in so many groups, spread over the interval: forty volumes are no burst once a second, and
/// the thread wakes a few times a second, not forty.
const PROBE_GROUPS: u32 = 4;

/// Probes under way at the same time: enough that a few hung volumes delay no others, few enough to be no burst.
const MAX_PROBES: usize = 32;

/// The longest id that is read, in bytes; a longer file is somebody else's.
const MAX_ID_BYTES: usize = 64;

/// The name of a cluster: 1 to 64 letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterId(Arc<str>);

/// A text that is no cluster id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no cluster id: 1 to {MAX_ID_BYTES} letters, digits and hyphens")]
pub struct ClusterIdError {
    text: String,
}

/// Which volumes become ours by being probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopt {
    /// None: nothing is written.
    None,
    /// Those that belong to nobody.
    Ownerless,
    /// All.
    All,
}

/// As `--adopt` has it.
impl From<bool> for Adopt {
    fn from(adopt: bool) -> Adopt {
        if adopt { Adopt::All } else { Adopt::Ownerless }
    }
}

/// What a probe found.
#[derive(Debug, Clone)]
pub enum ProbeOutcome {
    /// It answers and is ours, or asks for credentials that the probe doesn't have.
    Up,
    /// It answers and belonged to nobody, or to somebody else who was overruled; now it is ours.
    Adopted,
    /// It belongs to another cluster.
    Foreign {
        /// What its file says.
        found: String,
    },
    /// It isn't the volume that it was, or no volume at all.
    Stranger {
        /// What it is instead.
        reason: String,
    },
    /// It doesn't answer, or not sensibly.
    Down {
        /// Why.
        error: VolumeError,
    },
}

impl FromStr for ClusterId {
    type Err = ClusterIdError;

    fn from_str(text: &str) -> Result<ClusterId, ClusterIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(ClusterId(text.into()))
        } else {
            Err(ClusterIdError { text: text.to_owned() })
        }
    }
}

impl ClusterId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Probes every volume of the client's [`Health`](super::Health) about once a second, for ever. Runs in one arbiter,
/// with the server's own credentials.
pub async fn watch(client: VolumeClient, cluster: ClusterId, adopt: Adopt) {
    let health = client.health().clone();
    let slots = Semaphore::new(MAX_PROBES);
    let interval = interval(health.entries().len());
    let watches = health.entries().iter().zip(0..).map(|(entry, index)| {
        let offset = interval * (index % PROBE_GROUPS) / PROBE_GROUPS;
        watch_one(&client, entry, &cluster, adopt, &slots, (offset, interval))
    });
    join_all(watches).await;
}

/// Probes every volume once, in the order of the client's [`Health`](super::Health), and remembers what it found there.
/// Takes about two timeouts at most for every 32 volumes, and those of a write where answers begin and don't end.
pub async fn probe_all_once(
    client: &VolumeClient,
    cluster: &ClusterId,
    adopt: Adopt,
) -> Vec<(Volume, ProbeOutcome)> {
    let health = client.health().clone();
    let slots = Semaphore::new(MAX_PROBES);
    let probes = health.entries().iter().map(|entry| async {
        let outcome = probe(client, entry, cluster, adopt, &slots).await;
        (entry.volume.clone(), outcome)
    });
    join_all(probes).await
}

/// How long each of so many volumes is left alone while it is up.
fn interval(volumes: usize) -> Duration {
    let volumes = u32::try_from(volumes).unwrap_or(u32::MAX);
    PROBE_INTERVAL.max(Duration::from_secs(1).saturating_mul(volumes) / PROBES_PER_SECOND)
}

async fn watch_one(
    client: &VolumeClient,
    entry: &Entry,
    cluster: &ClusterId,
    adopt: Adopt,
    slots: &Semaphore,
    (offset, interval): (Duration, Duration),
) {
    let _ = timeout(offset, entry.wake.notified()).await;
    loop {
        let begun = Instant::now();
        let pause = match probe(client, entry, cluster, adopt, slots).await {
            ProbeOutcome::Up => interval,
            ProbeOutcome::Adopted
            | ProbeOutcome::Foreign { .. }
            | ProbeOutcome::Stranger { .. }
            | ProbeOutcome::Down { .. } => PROBE_INTERVAL,
        };
        if timeout(pause, entry.wake.notified()).await.is_ok() {
            sleep_until(begun + PROBE_PAUSE).await;
        }
    }
}

/// One probe, and its consequence for the volume's state.
async fn probe(
    client: &VolumeClient,
    entry: &Entry,
    cluster: &ClusterId,
    adopt: Adopt,
    slots: &Semaphore,
) -> ProbeOutcome {
    let _slot = slots.acquire().await.expect("the semaphore is never closed");
    let root = entry.volume.root();
    let begun = Instant::now();
    let outcome = look(&client.of_anybody(), entry, &root, cluster, adopt).await;
    entry.probed(begun.elapsed());
    match &outcome {
        ProbeOutcome::Up | ProbeOutcome::Adopted => client.health().set_well(entry),
        ProbeOutcome::Down { error } => entry.set(VolumeState::Down, &reason_of(error)),
        ProbeOutcome::Foreign { found } => {
            let reason = format!("it belongs to cluster {found:?}, this is {cluster}");
            entry.set(VolumeState::Foreign, &reason);
        }
        ProbeOutcome::Stranger { reason } => entry.set(VolumeState::Foreign, reason),
    }
    outcome
}

async fn look(
    client: &VolumeClient,
    entry: &Entry,
    root: &Replica,
    cluster: &ClusterId,
    adopt: Adopt,
) -> ProbeOutcome {
    let known = client.health().identities();
    let Some(id) = known.of(root) else { return look_at_cluster(client, root, cluster, adopt, false).await };
    match client.shown(root).await {
        Ok(shown) => {
            if let Some(reason) = shown.fault(id, &known) {
                return ProbeOutcome::Stranger { reason };
            }
            client.health().trust(root);
            if entry.is_of_cluster.load(Ordering::Relaxed) {
                return ProbeOutcome::Up;
            }
            if let Ok(greeting) = client.greet(root).await {
                entry.is_durable.store(greeting.durable, Ordering::Relaxed);
            }
            let outcome = look_at_cluster(client, root, cluster, adopt, true).await;
            let is_ours = matches!(outcome, ProbeOutcome::Up | ProbeOutcome::Adopted);
            if is_ours && let Some(ours) = client.health().master() {
                // It was away: another master may have worked on it meanwhile.
                match client.get(root, MASTER_PATH, MasterFile::MAX_BYTES).await {
                    Ok(content) => {
                        let shown = content.and_then(|content| MasterFile::parse(&content));
                        let is_others = shown.is_some_and(|shown| shown.is_of_another(&ours));
                        client.health().claim(&entry.volume, is_others);
                    }
                    Err(VolumeError::TooLarge { .. }) => {}
                    Err(error) => return ProbeOutcome::Down { error },
                }
            }
            entry.is_of_cluster.store(is_ours, Ordering::Relaxed);
            outcome
        }
        Err(VolumeError::Refused { status: 401, .. }) => ProbeOutcome::Up,
        Err(error) => ProbeOutcome::Down { error },
    }
}

/// Whose a volume is, by its cluster's id. Where the volume's own id is right, what is no cluster's id is written again.
async fn look_at_cluster(
    client: &VolumeClient,
    root: &Replica,
    cluster: &ClusterId,
    adopt: Adopt,
    is_identified: bool,
) -> ProbeOutcome {
    let ours = client.health().ids(cluster);
    let is_ours = |content: &[u8]| ours.iter().any(|id| content.trim_ascii() == id.as_str().as_bytes());
    let is_torn = |content: &[u8]| {
        let text = std::str::from_utf8(content.trim_ascii()).unwrap_or_default();
        text.parse::<ClusterId>().is_err()
            || (text.len() < cluster.as_str().len() && cluster.as_str().starts_with(text))
    };
    let cluster = ours.first().unwrap_or(cluster);
    match client.get(root, CLUSTER_PATH, MAX_ID_BYTES * 2).await {
        Ok(Some(content)) if is_ours(&content) => ProbeOutcome::Up,
        Ok(Some(_)) if adopt == Adopt::All => make_ours(client, root, cluster).await,
        Ok(Some(content)) if is_identified && adopt != Adopt::None && is_torn(&content) => {
            make_ours(client, root, cluster).await
        }
        Ok(Some(content)) => ProbeOutcome::Foreign { found: String::from_utf8_lossy(&content).into_owned() },
        Ok(None) if adopt == Adopt::None => ProbeOutcome::Up,
        Ok(None) if is_identified => make_ours(client, root, cluster).await,
        Ok(None) => match what_is_no_volume(client, root).await {
            Ok(None) => make_ours(client, root, cluster).await,
            Ok(Some(reason)) => ProbeOutcome::Stranger { reason },
            Err(error) => ProbeOutcome::Down { error },
        },
        Err(VolumeError::TooLarge { .. }) if adopt == Adopt::All => make_ours(client, root, cluster).await,
        Err(VolumeError::TooLarge { .. }) => ProbeOutcome::Foreign { found: "a longer file".into() },
        Err(VolumeError::Refused { status: 401, .. }) => ProbeOutcome::Up,
        Err(error) => ProbeOutcome::Down { error },
    }
}

/// Why nothing is to be written to what answers there: a volume lists its root as JSON, and has nothing in it but blobs.
async fn what_is_no_volume(client: &VolumeClient, root: &Replica) -> Result<Option<String>, VolumeError> {
    let refused = |what: &str| Ok(Some(format!("it is no volume: {what}; is it the right address?")));
    let listing = match client.list(root, "").await {
        Ok(listing) => listing,
        Err(VolumeError::Refused { status: 401, .. }) => return Ok(None),
        Err(VolumeError::Refused { status, .. }) if status < 500 => {
            return refused(&format!("it answered {status} when its root was to be listed"));
        }
        Err(err) => return Err(err),
    };
    let Some(mut listing) = listing else {
        return match is_below_a_volume(client, root).await? {
            true => Ok(None),
            false => refused("it has no root that can be listed"),
        };
    };
    for _ in 0..MAX_ROOT_ENTRIES {
        match listing.next().await {
            Ok(None) => return Ok(None),
            Ok(Some(entry)) if is_of_layout(&entry.name) => {}
            Ok(Some(entry)) => {
                return refused(&format!("its root has {:?}", entry.name.escape_ascii().to_string()));
            }
            Err(VolumeError::NoListing { .. }) => return refused("its root is not listed as JSON"),
            Err(err) => return Err(err),
        }
    }
    refused("its root has too many files")
}

/// Whether a volume with a path, whose folder isn't there yet, lies below what is listed as JSON.
async fn is_below_a_volume(client: &VolumeClient, root: &Replica) -> Result<bool, VolumeError> {
    let server: Replica = match root.authority().parse() {
        Ok(server) if server != *root => server,
        _ => return Ok(false),
    };
    let Some(mut listing) = client.list(&server, "").await? else { return Ok(false) };
    match listing.next().await {
        Ok(_) => Ok(true),
        Err(VolumeError::NoListing { .. }) => Ok(false),
        Err(err) => Err(err),
    }
}

/// More entries than a volume's root can have: 256 folders of blobs, 256 subvolumes, and a few files.
const MAX_ROOT_ENTRIES: usize = 1000;

/// Writes our id. A volume that can be read but refuses this one write is still up: its disk may be full.
async fn make_ours(client: &VolumeClient, root: &Replica, cluster: &ClusterId) -> ProbeOutcome {
    match write_id(client, root, cluster).await {
        Ok(()) => ProbeOutcome::Adopted,
        Err(VolumeError::Refused { status: 401 | 500 | 507, .. }) => ProbeOutcome::Up,
        Err(error) => ProbeOutcome::Down { error },
    }
}

/// Has a volume belong to `cluster`, whatever it belonged to.
pub async fn set_cluster(
    client: &VolumeClient,
    volume: &Volume,
    cluster: &ClusterId,
) -> Result<(), VolumeError> {
    write_id(&client.of_anybody(), &volume.root(), cluster).await
}

async fn write_id(client: &VolumeClient, root: &Replica, cluster: &ClusterId) -> Result<(), VolumeError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    let content = Bytes::copy_from_slice(cluster.as_str().as_bytes());
    client.put(root, CLUSTER_PATH, content, now_us).await
}

/// The failure without the volume's name, which stands before it in the log.
fn reason_of(error: &VolumeError) -> String {
    match error {
        VolumeError::Unreachable { reason, .. } => reason.clone(),
        VolumeError::NoAnswer { method, path, reason, .. } => {
            format!("no answer to {method} {path}, {reason}")
        }
        VolumeError::Refused { method, path, status, .. } => {
            format!("it answered {status} to {method} {path}")
        }
        VolumeError::Aborted { .. }
        | VolumeError::TooLarge { .. }
        | VolumeError::NoListing { .. }
        | VolumeError::Foreign { .. }
        | VolumeError::Unreadable { .. }
        | VolumeError::Directory { .. } => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_words() {
        assert!("a-1".parse::<ClusterId>().is_ok());
        for text in ["", "a b", "a\n", &"x".repeat(65)] {
            assert!(text.parse::<ClusterId>().is_err(), "{text:?}");
        }
        let one: ClusterId = "00112233445566778899aabbccddeeff".parse().expect("as an index makes them");
        assert_eq!(one.as_str().parse(), Ok(one.clone()));
    }
}
