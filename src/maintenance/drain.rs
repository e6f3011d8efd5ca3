//! Drain: a volume takes no new blobs, and those that it has go where placement wants them without it. Undrain, and the
//! other modes of a volume.

use super::Control;
use super::offline::{self, MaintenanceError, OfflineRequest};
use super::pages::Pages;
use super::rebalance;
use super::state::StateFile;
use crate::index::{Index, IndexError};
use crate::model::{Replica, Volume, VolumeMode};
use crate::store::StoreParts;
use std::collections::BTreeSet;
use std::time::Duration;

/// Before it is looked for keys that were written meanwhile.
const PAUSE: Duration = Duration::from_secs(1);

/// Empties a volume of a cluster whose index nobody else has open. Blocks the calling thread.
pub fn run(request: &OfflineRequest, volume: &Volume, control: &Control) -> Result<(), MaintenanceError> {
    offline::run(request, control, async |opened| {
        let handle = opened.parts.index.handle();
        opened.state.set_mode(&handle, &opened.parts.placer, volume, VolumeMode::Drain).await?;
        let _watching = opened.join().await?;
        rebalance::run_opened(&opened, control).await?;
        let left = left_on(&opened.parts.index.handle(), volume, control).await?;
        report_left(left, volume, control);
        Ok(())
    })
}

/// Sets the mode of a volume of a cluster whose index nobody else has open. Blocks the calling thread.
pub fn set_mode(request: &OfflineRequest, volume: &Volume, mode: VolumeMode) -> Result<(), MaintenanceError> {
    offline::run_on_state(request, async |index, state| {
        state.set_mode(index, &request.placer, volume, mode).await
    })
}

/// As [`run`], in a server that goes on serving.
pub(super) async fn run_online(
    parts: &StoreParts,
    state: &StateFile,
    volume: &Volume,
    control: &Control,
) -> Result<(), MaintenanceError> {
    let index = parts.index.handle();
    state.set_mode(&index, &parts.placer, volume, VolumeMode::Drain).await?;
    rebalance::run_online(parts, control).await?;
    // Some may have been on their way to it when its mode was set, and are in no record yet.
    wait_for_writes(&index, control).await?;
    let mut left = left_on(&index, volume, control).await?;
    while left > 0 && !control.is_stopped() {
        // What came of such writes. What doesn't get less is something else.
        control.wait(PAUSE).await;
        control.progress.forget_findings();
        rebalance::run_online(parts, control).await?;
        let before = std::mem::replace(&mut left, left_on(&index, volume, control).await?);
        if left >= before {
            break;
        }
    }
    report_left(left, volume, control);
    Ok(())
}

/// Waits until every write and move that is under way now has ended. Those that begin later know the volume's mode.
async fn wait_for_writes(index: &Index, control: &Control) -> Result<(), IndexError> {
    let mut begun_before = BTreeSet::from_iter(index.held_since_us().await?);
    control.progress.begin("waiting for writes that began before", begun_before.len() as u64);
    while !begun_before.is_empty() && !control.is_stopped() {
        control.wait(PAUSE).await;
        let held = BTreeSet::from_iter(index.held_since_us().await?);
        begun_before.retain(|time_us| {
            held.contains(time_us) || {
                control.progress.step();
                false
            }
        });
    }
    Ok(())
}

/// A volume that a record still names isn't empty.
fn report_left(left: u64, volume: &Volume, control: &Control) {
    match left {
        0 => control.progress.note(format_args!("{volume} is in no record any more")),
        left => {
            control.progress.problem(None, Some(&volume.root()), format_args!("{left} keys are still on it"))
        }
    }
}

/// How many keys have a replica on `volume`.
async fn left_on(index: &Index, volume: &Volume, control: &Control) -> Result<u64, IndexError> {
    control.progress.begin("looking whether it is empty", 0);
    let mut pages = Pages::new(index);
    let mut left = 0;
    while let Some(records) = pages.next().await? {
        let is_on_it = |replica: &Replica| replica.volume() == *volume;
        let records = records.into_iter().filter_map(|(_, record)| record.ok());
        left += records.filter(|record| record.replicas.iter().any(is_on_it)).count() as u64;
    }
    Ok(left)
}
