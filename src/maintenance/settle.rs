//! Settling what writes and moves have left, on an index that nobody else uses: in a server the background does it.

use super::Control;
use super::pages::each_waiting;
use crate::index::IndexError;
use crate::model::Volume;
use crate::store::{Store, StoreError};
use actix_rt::time::sleep;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two looks at what is being settled.
const SETTLE_EVERY: Duration = Duration::from_millis(50);

/// So much longer than the grace period it is waited for something to be settled.
const SETTLE_SLACK: Duration = Duration::from_secs(5);

/// Intents that are looked at to see whether anything can still be settled.
const INTENTS_LOOKED_AT: usize = 1000;

/// Removes everything that can be removed, and says what has to wait.
pub(super) async fn settle_all(store: &Store, grace: Duration, control: &Control) -> Result<(), IndexError> {
    control.progress.begin("removing what was moved away", 0);
    settle_rest(store, grace, control).await?;
    report_unsettled(store, control).await
}

/// Settles what is due until the index stops.
pub(super) async fn settle_for_ever(store: &Store) -> IndexError {
    loop {
        match store.settle_due().await {
            Ok(true) => {}
            Err(StoreError::Index(IndexError::Stopped)) => return IndexError::Stopped,
            Ok(false) | Err(_) => sleep(SETTLE_EVERY).await,
        }
    }
}

/// Settles until nothing is left but what waits for volumes that are away.
pub(super) async fn settle_rest(store: &Store, grace: Duration, control: &Control) -> Result<(), IndexError> {
    let patience = 2 * grace + SETTLE_SLACK;
    let (mut least, mut since) = (usize::MAX, Instant::now());
    while !control.is_stopped() {
        match store.settle_due().await {
            Ok(_) => {}
            Err(StoreError::Index(IndexError::Stopped)) => return Err(IndexError::Stopped),
            Err(err) => log::warn!("settling what earlier writes left: {err}"),
        }
        let waiting = store.index().waiting(INTENTS_LOOKED_AT).await?;
        if !waiting.iter().any(|(_, intent)| store.will_be_ready(intent)) {
            return Ok(());
        }
        let count = store.index().unsettled().await?;
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
pub(super) async fn report_unsettled(store: &Store, control: &Control) -> Result<(), IndexError> {
    let mut counts = BTreeMap::<Volume, u64>::new();
    each_waiting(store.index(), |placed| *counts.entry(placed.replica.volume()).or_default() += 1).await?;
    for (volume, count) in counts {
        let what = format!("{count} files are to be removed as soon as it answers");
        match store.placer().volumes().contains(&volume) {
            true => control.progress.problem(None, Some(&volume.root()), what),
            false => control.progress.note(format_args!("{volume}: {what}")),
        }
    }
    Ok(())
}
