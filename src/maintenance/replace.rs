//! Replace: another drive lies in the place of one that is gone, and it is the right one from now on.
//!
//! What waited to be removed from the old one is given up. So that nothing of that is revived should the old drive come back, its
//! id is never taken again and the cluster gets a new id first, which all volumes are given. What lay on it is made anew by
//! a repair.

use super::Control;
use super::control::STOPPED;
use super::forget::{let_go, rename};
use super::offline::{self, MaintenanceError, OfflineRequest};
use super::pages::Pages;
use crate::index::{Index, IndexError, Places};
use crate::model::{Replica, Volume};
use crate::store::StoreParts;
use std::collections::BTreeSet;

/// Which place, and what may lie there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplaceRequest {
    /// A volume, or one of its subvolumes.
    pub place: Replica,
    /// Take a tree that has blobs, as a clone has them.
    pub with_blobs: bool,
}

/// Takes the drive that lies at a place of a cluster whose index nobody else has open. Blocks the calling thread.
pub fn run(
    request: &OfflineRequest,
    replace: &ReplaceRequest,
    control: &Control,
) -> Result<(), MaintenanceError> {
    offline::run(request, control, async |opened| {
        let _watching = opened.join_beside(&replace.place).await?;
        take(&opened.parts, replace, control).await
    })
}

/// As [`run`], also in a server that goes on serving. Can be run again at any time: cut off or stopped, it has taken the drive
/// or not.
pub(super) async fn take(
    parts: &StoreParts,
    request: &ReplaceRequest,
    control: &Control,
) -> Result<(), MaintenanceError> {
    let (store, index) = (parts.store(), parts.index.handle());
    let (place, volume) = (&request.place, parts.placer.volume_of(&request.place));
    if !parts.placer.volumes().contains(&volume) {
        return Err(MaintenanceError::NoSuchVolume(volume));
    }
    if let Some(present) = store.present_name_of(place).await? {
        return Err(MaintenanceError::IsAnothers { place: place.clone(), present });
    }
    control.progress.begin("looking what lies there", 0);
    if store.has_blobs(place).await.map_err(MaintenanceError::Untold)? && !request.with_blobs {
        return Err(MaintenanceError::HasBlobs(place.clone()));
    }
    let lost = records_at(&index, place, control).await?;
    if !request.with_blobs {
        give_up_removals(parts, &index, place, &volume, control).await?;
    }
    if control.is_stopped() {
        control.progress.problem(None, None, STOPPED);
        return Ok(());
    }
    store.take_as_new(place).await?;
    let what = match request.with_blobs {
        true => format!("{place} is a volume of its own from now on; {lost} keys have a replica there"),
        false => format!("{place} is the new drive from now on; `mkv repair` makes its {lost} replicas anew"),
    };
    control.progress.note(what);
    Ok(())
}

/// How many keys have a replica at `place`.
async fn records_at(index: &Index, place: &Replica, control: &Control) -> Result<u64, IndexError> {
    let volume = place.volume();
    let is_root = volume.root() == *place;
    let is_there = |replica: &Replica| *replica == *place || (is_root && replica.volume() == volume);
    let (mut pages, mut count) = (Pages::new(index), 0);
    while let Some(records) = pages.next().await?.filter(|_| !control.is_stopped()) {
        control.progress.add_keys(records.len() as u64);
        let records = records.into_iter().filter_map(|(_, record)| record.ok());
        count += records.filter(|record| record.replicas.iter().any(is_there)).count() as u64;
    }
    Ok(count)
}

async fn give_up_removals(
    parts: &StoreParts,
    index: &Index,
    place: &Replica,
    volume: &Volume,
    control: &Control,
) -> Result<(), MaintenanceError> {
    let volumes: BTreeSet<Volume> = parts.placer.volumes().iter().cloned().collect();
    let is_away = |other: &&Volume| *other != volume && !parts.health.is_up(&other.root());
    if let Some(away) = volumes.iter().find(is_away) {
        return Err(MaintenanceError::Away(away.clone()));
    }
    control.progress.begin("telling the volumes", volumes.len() as u64);
    rename(parts, index, &volumes, control).await?;
    control.progress.begin("giving up what was to be removed from it", 0);
    let places = match volume.root() == *place {
        true => Places::Volume(volume.clone()),
        false => Places::Only(place.clone()),
    };
    let_go(index, &places, control).await?;
    Ok(())
}
