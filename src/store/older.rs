//! A drive that was exchanged for an older copy of itself, a snapshot or a clone. It has the right id, misses what was written
//! since, and has again what was removed. Its `=master` tells: it shows an earlier mark than this volume has confirmed.
//!
//! Such a volume is readonly until the right one is back, or until the operator takes it as it is by setting its mode. It is not
//! told the present mark, so that it can be told from the right one.

use super::{Store, StoreError};
use crate::index::VolumeEntry;
use crate::model::{Identity, MasterFile, Volume, VolumeMode};
use log::{error, info};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Without `DURABLE=1` a power cut takes what nginx wrote in the last half a minute, and the mark with it; that is no
/// older copy, and no reason to have all volumes of a site readonly.
const LOST_BY_A_POWER_CUT: Duration = Duration::from_secs(60);

impl Store {
    /// Which of the volumes that show a master's file are older copies of themselves. They are readonly from now on; those
    /// that were and aren't any more are alive.
    pub(super) async fn hold_older(
        &self,
        shown: &BTreeMap<Volume, MasterFile>,
    ) -> Result<BTreeSet<Volume>, StoreError> {
        let told = self.index.told_marks().await?;
        let entries = self.index.volume_entries().await?.unwrap_or_default();
        let mut older = BTreeSet::new();
        for (volume, file) in shown {
            let entry = entries.get(volume.as_str()).copied().unwrap_or_default();
            let told_us = self.identity_of(volume).and_then(|id| told.get(&id).copied()).unwrap_or(0);
            let behind = Duration::from_micros(told_us.saturating_sub(file.mark_us));
            let is_older = behind > LOST_BY_A_POWER_CUT;
            self.volumes.health().set_older(volume, is_older);
            if is_older {
                older.insert(volume.clone());
            }
            // One that the operator has set to something else stays what it is.
            let mode = match (is_older, entry.older) {
                (true, false) if entry.mode == VolumeMode::Alive => VolumeMode::Readonly,
                (false, true) => VolumeMode::Alive,
                _ => continue,
            };
            let changed = VolumeEntry { mode, older: is_older, ..entry };
            self.index.set_volume_entries(BTreeMap::from([(volume.to_string(), changed)])).await?;
            self.placer.set_mode(volume, mode);
            match is_older {
                true => error!(
                    "{volume} is an older copy of itself: it misses the last {} s of what it has confirmed, and is {mode} now. Put the \
                     right one back, or take it as it is by `mkv volume-mode {volume} alive` and then `mkv repair --delete-orphans`",
                    behind.as_secs()
                ),
                false => info!("{volume} is no older copy of itself any more, and is {mode} again"),
            }
        }
        Ok(older)
    }

    /// Volumes have confirmed a mark. One that has no id yet isn't minded.
    pub(super) async fn keep_told(&self, volumes: &[Volume], mark_us: u64) -> Result<(), StoreError> {
        let told = self.index.told_marks().await?;
        let ids = volumes.iter().filter_map(|volume| self.identity_of(volume));
        let news: Vec<_> =
            ids.filter(|id| told.get(id) != Some(&mark_us)).map(|id| (id, Some(mark_us))).collect();
        if !news.is_empty() {
            self.index.set_told_marks(news).await?;
        }
        Ok(())
    }

    fn identity_of(&self, volume: &Volume) -> Option<Identity> {
        self.volumes.health().identity(&volume.root())
    }
}
