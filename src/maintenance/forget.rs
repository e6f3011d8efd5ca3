//! Forget: a volume is gone for good, and nobody waits for it any more.
//!
//! What was to be removed from it is let go of, also in future. So that nothing of that is revived should the volume come back with what
//! it held, the cluster gets a new id first, which all other volumes are given: the forgotten one is then another cluster's,
//! and server, jobs and rebuild refuse it until it is empty.

use super::Control;
use super::control::STOPPED;
use super::offline::{self, MaintenanceError, OfflineRequest};
use super::pages::Pages;
use super::state::StateFile;
use crate::index::{Index, IndexError, Places};
use crate::model::{Volume, VolumeMode};
use crate::store::StoreParts;
use crate::volume::{ClusterId, set_cluster};
use std::collections::BTreeSet;
use std::time::Duration;

/// The wait for keys that somebody holds.
const BUSY_PAUSE: Duration = Duration::from_millis(250);

/// Forgets a volume of a cluster whose index nobody else has open; how many removals. Blocks the calling thread.
pub fn run(request: &OfflineRequest, volume: &Volume, control: &Control) -> Result<u64, MaintenanceError> {
    offline::run(request, control, async |opened| {
        let _watching = opened.join().await?;
        forget(&opened.parts, &opened.state, volume, control).await
    })
}

/// As [`run`], also in a server that goes on serving. Can be run again at any time: cut off or stopped, it has fenced off the
/// volume or not, and forgotten some removals or none.
pub(super) async fn forget(
    parts: &StoreParts,
    state: &StateFile,
    volume: &Volume,
    control: &Control,
) -> Result<u64, MaintenanceError> {
    let (placer, index) = (&parts.placer, parts.index.handle());
    if placer.volumes().contains(volume) && placer.mode_of(volume) != VolumeMode::Down {
        return Err(MaintenanceError::NotGone(volume.clone()));
    }
    let stays = |other: &&Volume| *other != volume && placer.mode_of(other) != VolumeMode::Down;
    let others: BTreeSet<Volume> = placer.volumes().iter().filter(stays).cloned().collect();
    control.progress.begin("looking for keys that are still on it", 0);
    none_is_only_elsewhere(&index, &others, control).await?;
    if let Some(away) = others.iter().find(|other| !parts.health.is_up(&other.root())) {
        return Err(MaintenanceError::Away(away.clone()));
    }
    control.progress.begin("telling the other volumes", others.len() as u64);
    rename(parts, &index, &others, control).await?;
    let mut files = 0;
    if !control.is_stopped() {
        state.forget(&index, placer, volume).await?;
        control.progress.begin("forgetting what was to be removed from it", 0);
        files = let_go(&index, &Places::Volume(volume.clone()), control).await?;
    }
    if control.is_stopped() {
        control.progress.problem(None, None, STOPPED);
    }
    Ok(files)
}

/// Replicas on volumes that aren't told are lost, so no key must have only such.
async fn none_is_only_elsewhere(
    index: &Index,
    others: &BTreeSet<Volume>,
    control: &Control,
) -> Result<(), MaintenanceError> {
    let mut pages = Pages::new(index);
    let (mut first, mut keys) = (None, 0);
    while let Some(records) = pages.next().await?.filter(|_| !control.is_stopped()) {
        control.progress.add_keys(records.len() as u64);
        for record in records.into_iter().filter_map(|(_, record)| record.ok()) {
            if !record.replicas.iter().any(|place| others.contains(&place.volume())) {
                first = first.or(record.replicas.first().map(|place| place.volume()));
                keys += 1;
            }
        }
    }
    first.map_or(Ok(()), |volume| Err(MaintenanceError::StillOn { volume, keys }))
}

/// Gives the cluster another id. Until all volumes have it, both are ours, also after a restart or a stop.
pub(super) async fn rename(
    parts: &StoreParts,
    index: &Index,
    others: &BTreeSet<Volume>,
    control: &Control,
) -> Result<(), MaintenanceError> {
    if control.is_stopped() {
        return Ok(());
    }
    let parsed = |id: String| id.parse::<ClusterId>().expect("the index makes ids that are some");
    let (next, now) = (parsed(index.begin_rename().await?), index.cluster_id().await?);
    parts.health.rename_cluster(std::iter::once(next.clone()).chain(now.parse()).collect());
    let volumes = parts.volumes();
    for other in others {
        if control.is_stopped() {
            return Ok(());
        }
        set_cluster(&volumes, other, &next).await.map_err(MaintenanceError::Untold)?;
        control.progress.step();
    }
    index.end_rename().await?;
    parts.health.rename_cluster(vec![next]);
    Ok(())
}

/// Forgets what waits to be removed from `places`; how many files that was.
pub(super) async fn let_go(index: &Index, places: &Places, control: &Control) -> Result<u64, IndexError> {
    let (mut files, mut is_held, mut from) = (0, false, Some(0));
    while !control.is_stopped() {
        let Some(slot) = from else {
            if !is_held {
                break;
            }
            control.wait(BUSY_PAUSE).await;
            (is_held, from) = (false, Some(0));
            continue;
        };
        let forgotten = index.forget(places, slot).await?;
        files += forgotten.files;
        control.progress.add_keys(forgotten.files);
        is_held |= forgotten.is_held;
        from = forgotten.next;
    }
    Ok(files)
}
