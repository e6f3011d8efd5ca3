//! Settling: making the volumes say what the index says of a key, file by file.
//!
//! The record of the key decides, read under its lock: a file that it names stays, a sidecar is made to say what
//! the record says, everything else goes. Failed writes settle their own files at once; what they could not
//! reach, what a crash cut off, and overwritten versions are settled here in the background when they are due.

use super::sidecars::{describe_keeping, later, tombstone};
use super::{Access, Store, StoreError};
use crate::index::{Ending, IndexError, Reservation, now_us};
use crate::model::{File, Intent, Key, PlacedFile, Record, path_of};
use crate::volume::VolumeError;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use log::{debug, error, warn};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Intents that are looked at in one go; what is put off makes room for others.
const INTENTS_AT_ONCE: usize = 256;

/// After this time the intents of a key that was being written are looked at again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Keys that are settled at the same time: the background must not crowd out clients.
const KEYS_AT_ONCE: usize = 8;

/// Settles what is due, for ever, with the credentials that `access` gives at the time.
pub async fn run(store: Store, access: impl Fn() -> Access) {
    loop {
        match store.for_background(&access).await.settle_due().await {
            Ok(true) => {}
            Ok(false) => actix_rt::time::sleep(LOOK_EVERY).await,
            Err(StoreError::Index(IndexError::Stopped)) => return,
            Err(err) => {
                error!("settling what earlier writes left: {err}");
                actix_rt::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

impl Store {
    /// Settles some of the intents that are due; says whether there may be more.
    pub async fn settle_due(&self) -> Result<bool, StoreError> {
        let due = self.index.due(INTENTS_AT_ONCE).await?;
        let more = due.len() == INTENTS_AT_ONCE;
        let (ready, away): (Vec<_>, Vec<_>) = due.into_iter().partition(|(_, intent)| self.any_ready(intent));
        if !away.is_empty() {
            let slots = away.iter().map(|(slot, _)| *slot).collect();
            self.index.postpone(slots, self.after_grace_us()).await?;
        }
        let mut slots_of = BTreeMap::<Key, Vec<u32>>::new();
        ready.into_iter().for_each(|(slot, intent)| slots_of.entry(intent.key).or_default().push(slot));
        let settled = stream::iter(slots_of.into_values()).map(|slots| self.settle_slots(slots));
        let results: Vec<_> = settled.buffer_unordered(KEYS_AT_ONCE).collect().await;
        results.into_iter().collect::<Result<(), StoreError>>()?;
        Ok(more)
    }

    fn any_ready(&self, intent: &Intent) -> bool {
        deciding(intent).any(|placed| self.is_ready(placed))
    }

    /// Whether an intent waits for time to go by, and not for a volume.
    pub fn will_be_ready(&self, intent: &Intent) -> bool {
        deciding(intent).any(|placed| self.takes_changes(&placed.replica))
    }

    /// Whether the answer of the file's volume would be final: it is up and, where something is in doubt, has been for
    /// the grace period. What is in no doubt need not wait for that: on a busy volume some answer is always late.
    pub(super) fn is_ready(&self, placed: &PlacedFile) -> bool {
        let health = self.volumes.health();
        let quiet_us = self.options.load().grace_us();
        let since = health.last_unreachable_us(&placed.replica).map_or(0, |time_us| time_us + quiet_us);
        let answers = self.takes_changes(&placed.replica) && (!placed.in_doubt || since <= now_us());
        answers || self.placer.is_forgotten(&placed.replica)
    }

    /// Settles intents of one key, one after another. When somebody is writing it, the rest is put off: what can't be
    /// settled must not stand for ever before what can.
    async fn settle_slots(&self, mut slots: Vec<u32>) -> Result<(), StoreError> {
        while let Some(slot) = slots.last() {
            let pause = match self.index.claim(*slot).await {
                Ok(Some(reservation)) => {
                    self.settle_claimed(reservation).await?;
                    slots.pop();
                    continue;
                }
                Ok(None) => BUSY_PAUSE,
                Err(err @ IndexError::Record { .. }) => {
                    error!("what earlier writes left can't be settled: {err}");
                    self.options.load().grace
                }
                Err(err) => return Err(err.into()),
            };
            return Ok(self.index.postpone(slots, now_us() + pause.as_micros() as u64).await?);
        }
        Ok(())
    }

    async fn settle_claimed(&self, reservation: Reservation) -> Result<(), StoreError> {
        let files = reservation.files().to_vec();
        let (mut ready, left): (Vec<_>, Vec<_>) = files.into_iter().partition(|placed| self.is_ready(placed));
        // It is due and its volume has been there all the time: nothing is on its way any more.
        ready.iter_mut().for_each(|placed| placed.in_doubt = false);
        let left = self.settle_with(&reservation, ready, left).await;
        debug!("settled what an earlier write left of {}; {} files remain", reservation.key(), left.len());
        reservation.release(Ending { left, not_before_us: self.after_grace_us() }).await?;
        Ok(())
    }

    /// Makes `files` of the reserved key what the record wants them to be, and answers those that are left to be
    /// settled: their volume did not answer, or its answer is not final because something is in doubt.
    pub(super) async fn settle_files(
        &self,
        reservation: &Reservation,
        files: Vec<PlacedFile>,
    ) -> Vec<PlacedFile> {
        self.settle_with(reservation, files, Vec::new()).await
    }

    /// As [`Store::settle_files`], beside files that are left whatever comes.
    async fn settle_with(
        &self,
        reservation: &Reservation,
        files: Vec<PlacedFile>,
        mut left: Vec<PlacedFile>,
    ) -> Vec<PlacedFile> {
        let files = self.waited_for(files);
        let (blobs, sidecars): (Vec<_>, Vec<_>) = files.into_iter().partition(is_blob);
        let current = reservation.previous();
        let settled = blobs.into_iter().map(|placed| async move {
            match current.filter(|record| names(record, &placed)) {
                // It is looked at again once the names of all its places are known, or forgotten.
                None if current.is_some_and(|record| self.may_be_named(record, &placed)) => Some(placed),
                None => self.remove_file(reservation, placed).await,
                Some(_) if placed.file == File::Folded => self.settle_folded(reservation, placed).await,
                Some(_) => None,
            }
        });
        left.extend(join_all(settled).await.into_iter().flatten());
        let blobs_left = reservation.blobs_elsewhere() || left.iter().any(is_blob);
        left.extend(self.settle_sidecars(reservation, current, sidecars, blobs_left).await);
        left
    }

    async fn settle_sidecars(
        &self,
        reservation: &Reservation,
        record: Option<&Record>,
        sidecars: Vec<PlacedFile>,
        blobs_left: bool,
    ) -> Vec<PlacedFile> {
        let is_named =
            |placed: &PlacedFile| record.is_some_and(|record| record.replicas.contains(&placed.replica));
        let size = match record {
            Some(record) if sidecars.iter().any(is_named) => self.size_of(reservation, record).await,
            _ => None,
        };
        let settle = sidecars.into_iter().map(|placed| async move {
            if !is_named(&placed) && record.is_some_and(|record| self.may_be_named(record, &placed)) {
                return Some(placed);
            }
            if record.is_some_and(|_| !is_named(&placed)) || (record.is_none() && !blobs_left) {
                return self.remove_file(reservation, placed).await;
            }
            let beside = std::slice::from_ref(&placed.replica);
            let (noted, _) = self.read_sidecars(reservation.key(), beside).await;
            let time_us = later(&noted, reservation.time_us());
            let sidecar = match record {
                Some(record) => describe_keeping(record, &noted, size, time_us),
                None => tombstone(time_us),
            };
            let written = self.write_sidecar(reservation, &placed.replica, &sidecar).await;
            // A tombstone goes when the last blob has gone.
            let keep = record.is_none();
            left_of(reservation, placed, written.map(|()| keep))
        });
        join_all(settle).await.into_iter().flatten().collect()
    }

    /// Where the Go original stored a blob, it goes once the blob lies at the key's own path too.
    async fn settle_folded(&self, reservation: &Reservation, placed: PlacedFile) -> Option<PlacedFile> {
        let own_path = path_of(reservation.key(), File::Blob(None));
        match self.volumes.head(&placed.replica, &own_path).await {
            Ok(Some(_)) => self.remove_file(reservation, placed).await,
            Ok(None) => None,
            Err(err) => left_of(reservation, placed, Err(err)),
        }
    }

    async fn remove_file(&self, reservation: &Reservation, placed: PlacedFile) -> Option<PlacedFile> {
        let path = path_of(reservation.key(), placed.file);
        let removed = match self.change_only_ours(&placed.replica).await {
            Ok(()) => self.volumes.delete(&placed.replica, &path).await,
            Err(err) => Err(err),
        };
        left_of(reservation, placed, removed.map(|_| false))
    }
}

/// Sidecars alone are no reason to begin while a blob has to wait: a tombstone stays as long as the blob.
fn deciding(intent: &Intent) -> impl Iterator<Item = &PlacedFile> {
    let has_blobs = intent.files.iter().any(is_blob);
    intent.files.iter().filter(move |placed| is_blob(placed) == has_blobs)
}

fn is_blob(placed: &PlacedFile) -> bool {
    placed.file != File::Sidecar
}

/// What is left of a file after its volume was asked: nothing if it answered, unless it has to be kept in mind.
fn left_of(
    reservation: &Reservation,
    placed: PlacedFile,
    answer: Result<bool, VolumeError>,
) -> Option<PlacedFile> {
    match answer {
        Ok(keep) => (keep || placed.in_doubt).then_some(placed),
        Err(err) => {
            warn!("settling {}: {err}", reservation.key());
            Some(PlacedFile { in_doubt: placed.in_doubt || err.in_doubt(), ..placed })
        }
    }
}

/// Whether the record says that this file is the blob.
fn names(record: &Record, placed: &PlacedFile) -> bool {
    placed.file != File::Sidecar
        && is_of_version(record, placed.file)
        && record.replicas.contains(&placed.replica)
}

/// Whether a file is the record's version, or its sidecar, wherever it lies.
pub(super) fn is_of_version(record: &Record, file: File) -> bool {
    match file {
        File::Blob(generation) => generation == record.generation,
        File::Folded => record.generation.is_none(),
        File::Sidecar => true,
    }
}
