//! Drain: a volume takes no new blobs, and those that it has go where placement wants them without it. Undrain, and the
//! other modes of a volume.

use super::Control;
use super::offline::{self, MaintenanceError, OfflineRequest};
use super::pages::Pages;
use super::rebalance;
use super::state::StateFile;
use crate::index::{Index, IndexError, Listing, PageRequest};
use crate::model::{Replica, Volume, VolumeMode};
use crate::store::StoreParts;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Duration;

/// Before it is looked for keys that were written meanwhile.
const PAUSE: Duration = Duration::from_secs(1);

/// Empties a volume of a cluster whose index nobody else has open. Blocks the calling thread.
pub fn run(request: &OfflineRequest, volume: &Volume, control: &Control) -> Result<(), MaintenanceError> {
    offline::run(request, control, async |opened| {
        opened.state.set_mode(&opened.parts.placer, volume, VolumeMode::Drain)?;
        let _watching = opened.join().await?;
        rebalance::run_opened(&opened, control).await?;
        Ok(report_left(&opened.parts.index.handle(), volume, control).await?)
    })
}

/// Sets the mode of a volume of a cluster whose index nobody else has open. Blocks the calling thread.
pub fn set_mode(request: &OfflineRequest, volume: &Volume, mode: VolumeMode) -> Result<(), MaintenanceError> {
    offline::run_on_state(request, |state| state.set_mode(&request.placer, volume, mode))
}

/// As [`run`], in a server that goes on serving.
pub(super) async fn run_online(
    parts: &StoreParts,
    state: &StateFile,
    volume: &Volume,
    control: &Control,
) -> Result<(), MaintenanceError> {
    let index = parts.index.handle();
    state.set_mode(&parts.placer, volume, VolumeMode::Drain)?;
    rebalance::run_online(parts, control).await?;
    // Some may have been on their way to it when its mode was set, and are in no record yet.
    wait_for_writes(&index, control).await?;
    let mut left = left_on(&index, volume).await?;
    while left > 0 && !control.is_stopped() {
        // What came of such writes. What doesn't get less is something else.
        control.wait(PAUSE).await;
        control.progress.forget_findings();
        rebalance::run_online(parts, control).await?;
        let before = std::mem::replace(&mut left, left_on(&index, volume).await?);
        if left >= before {
            break;
        }
    }
    Ok(report_left(&index, volume, control).await?)
}

/// Waits until every write and move that is under way now has ended.
async fn wait_for_writes(index: &Index, control: &Control) -> Result<(), IndexError> {
    let mut begun_before = held_keys(index).await?;
    control.progress.begin("waiting for writes that began before", begun_before.len() as u64);
    while !begun_before.is_empty() && !control.is_stopped() {
        control.wait(PAUSE).await;
        let held = held_keys(index).await?;
        begun_before.retain(|key| {
            held.contains(key) || {
                control.progress.step();
                false
            }
        });
    }
    Ok(())
}

async fn held_keys(index: &Index) -> Result<BTreeSet<Vec<u8>>, IndexError> {
    let all = PageRequest {
        prefix: b"/".to_vec(),
        from: Bound::Unbounded,
        limit: usize::MAX,
        listing: Listing::Held,
    };
    Ok(index.list(all).await?.keys.into_iter().collect())
}

/// A volume that a record still names isn't empty.
async fn report_left(index: &Index, volume: &Volume, control: &Control) -> Result<(), IndexError> {
    control.progress.begin("looking whether it is empty", 0);
    match left_on(index, volume).await? {
        0 => control.progress.note(format_args!("{volume} is in no record any more")),
        left => control.progress.problem(None, None, format_args!("{volume}: {left} keys are still on it")),
    }
    Ok(())
}

/// How many keys have a replica on `volume`.
async fn left_on(index: &Index, volume: &Volume) -> Result<u64, IndexError> {
    let mut pages = Pages::new(index);
    let mut left = 0;
    while let Some(records) = pages.next().await? {
        let is_on_it = |replica: &Replica| replica.volume() == *volume;
        let records = records.into_iter().filter_map(|(_, record)| record.ok());
        left += records.filter(|record| record.replicas.iter().any(is_on_it)).count() as u64;
    }
    Ok(left)
}
