//! A replica that was written to something else than the volume that it was meant for is made anew on another.

use crate::index::{Ending, IndexError, Reservation, Verb, files_at};
use crate::model::{File, Key, PlacedFile, Record, Replica, path_of};
use crate::store::inspect::at_once;
use crate::store::sidecars::beside_copy;
use crate::store::{Store, StoreError};
use crate::volume::{Content, CopyError};
use actix_rt::time::sleep;
use log::warn;
use std::time::Duration;

/// How often a key is tried that a client is writing, and the pause between: a write of a gigabyte takes longer, and is
/// left to a repair.
const TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(250);

impl Store {
    /// Has the record of `key` name a verified copy on another volume instead of the replica at `lost`. `false` if it doesn't
    /// name that. What lies at `lost` is left to be settled once the right volume is there again, and so are the `strays`, which
    /// were written to another place instead.
    pub(super) async fn make_anew(
        &self,
        key: &Key,
        lost: &Replica,
        strays: Vec<PlacedFile>,
    ) -> Result<bool, StoreError> {
        // The write may not be in the index yet: it still holds its key then.
        let held = self.hold_patiently(key, Verb::Hold).await?;
        let record = held.previous().filter(|record| record.replicas.contains(lost)).cloned();
        let left = self.waited_for(strays);
        held.release(Ending { left, not_before_us: self.after_grace_us() }).await?;
        let Some(record) = record else { return Ok(false) };
        let mut spares = self.placer.ranked(key.as_bytes());
        spares.retain(|place| !record.replicas.contains(place) && self.takes_blobs(place));
        let Some(target) = spares.into_iter().next() else {
            let (up, needed) = (record.replicas.len() - 1, record.replicas.len());
            return Err(StoreError::NotEnoughVolumes { up, needed, key: key.clone() });
        };
        let reservation = self.hold_patiently(key, Verb::Move(vec![target.clone()])).await?;
        let record = match reservation.previous() {
            Some(record) if record.replicas.contains(lost) => record.clone(),
            _ => {
                reservation.release(Ending::default()).await?;
                return Ok(false);
            }
        };
        let kinds = [File::Blob(record.generation), File::Sidecar];
        let places = |place: &Replica, in_doubt| {
            let mut files = files_at(std::slice::from_ref(place), &kinds);
            files.iter_mut().for_each(|placed| placed.in_doubt = in_doubt);
            files
        };
        let not_before_us = self.after_grace_us();
        if let Err(err) = self.copy_beside(&reservation, &record, lost, &target).await {
            let left = places(&target, true);
            reservation.release(Ending { left, not_before_us }).await?;
            return Err(err);
        }
        let mut replicas = record.replicas.clone();
        replicas.retain(|place| place != lost);
        replicas.push(target);
        let replicas = self.placer.in_record_order(key.as_bytes(), replicas);
        let left = self.waited_for(places(lost, true));
        reservation.commit(Record { replicas, ..record }, Ending { left, not_before_us }).await?;
        Ok(true)
    }

    async fn hold_patiently(&self, key: &Key, verb: Verb) -> Result<Reservation, IndexError> {
        for _ in 1..TRIES {
            match self.index.reserve(key, verb.clone()).await {
                Err(IndexError::Busy { .. }) => sleep(BUSY_PAUSE).await,
                done => return done,
            }
        }
        self.index.reserve(key, verb).await
    }

    /// Copies a replica of the held key that isn't the one at `lost`, and writes its sidecar beside it.
    async fn copy_beside(
        &self,
        reservation: &Reservation,
        record: &Record,
        lost: &Replica,
        target: &Replica,
    ) -> Result<(), StoreError> {
        let key = reservation.key();
        let path = path_of(key, File::Blob(record.generation));
        let others: Vec<Replica> = record.replicas.iter().filter(|place| *place != lost).cloned().collect();
        let mut failures = Vec::new();
        for source in others.iter().filter(|place| self.is_readable(place)) {
            let size = match self.copy_one(source, &path, target, record).await {
                Ok(size) => size,
                Err(err) => {
                    warn!("copying {key} to {target}: {err}");
                    failures.push(err.to_string());
                    continue;
                }
            };
            let (noted, _) = self.read_sidecars(key, &others).await;
            if let Some(sidecar) = beside_copy(record, &noted, Some(size), reservation.time_us())
                && let Err(err) = self.write_sidecar(reservation, target, &sidecar).await
            {
                failures.push(err.to_string());
                continue;
            }
            return Ok(());
        }
        Err(StoreError::NotReplicated { key: key.clone(), failures })
    }

    /// The size of what was copied. Without an MD5 in the record, what is read the first time decides.
    async fn copy_one(
        &self,
        source: &Replica,
        path: &str,
        target: &Replica,
        record: &Record,
    ) -> Result<u64, CopyError> {
        let missing = || CopyError::Missing { replica: source.clone(), path: path.to_owned() };
        let download =
            self.volumes.open(source, path).await.map_err(CopyError::Source)?.ok_or_else(missing)?;
        let read = match (record.md5, download.size()) {
            (Some(md5), Some(size)) => Content { size, md5: Some(md5) },
            _ => download.digest(&at_once).await.map_err(CopyError::Source)?,
        };
        let time_us = record.generation.map_or_else(crate::index::now_us, |version| version.time_us());
        self.volumes.copy(source, path, target, path, &read, time_us).await?;
        Ok(read.size)
    }
}
