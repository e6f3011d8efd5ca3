//! UNLINK and RELINK: a blob becomes a tombstone that keeps its files, and comes back.
//!
//! A sidecar says it on the volumes before the index does, so that a rebuild knows it too.

use super::sidecars::{describe_keeping, later};
use super::{Store, StoreError};
use crate::index::{Ending, IndexError, Reservation, Verb};
use crate::model::{Key, PlacedFile, Record, State};
use crate::volume::Search;
use futures_util::future::join_all;
use log::warn;

impl Store {
    /// Turns a live blob into a tombstone.
    pub async fn unlink(&self, key: &Key) -> Result<(), StoreError> {
        let reservation = self.index.reserve(key, Verb::Unlink).await?;
        let record = previous(&reservation)?;
        let size = self.size_of(&reservation, &record).await;
        self.change_state(reservation, Record { state: State::Unlinked, ..record }, size).await
    }

    /// Makes a tombstone readable again, once a replica of it was seen.
    pub async fn relink(&self, key: &Key) -> Result<(), StoreError> {
        let reservation = self.index.reserve(key, Verb::Relink).await?;
        let record = previous(&reservation)?;
        let err = match self.volumes.find(&self.candidates(key, &record)).await {
            Search::Found { size, .. } => {
                let record = Record { state: State::Live, ..record };
                return self.change_state(reservation, record, Some(size)).await;
            }
            Search::Absent => StoreError::Gone { key: key.clone() },
            Search::Unknown { error: source } => StoreError::Unavailable { key: key.clone(), source },
        };
        reservation.release(Ending::default()).await?;
        Err(err)
    }

    pub(super) async fn change_state(
        &self,
        reservation: Reservation,
        record: Record,
        size: Option<u64>,
    ) -> Result<(), StoreError> {
        let key = reservation.key().clone();
        let (noted, _) = self.read_sidecars(&key, &record.replicas).await;
        let sidecar = describe_keeping(&record, &noted, size, later(&noted, reservation.time_us()));
        let writes = record.replicas.iter().map(|place| self.write_sidecar(&reservation, place, &sidecar));
        let results = join_all(writes).await;
        let is_noted = results.iter().any(Result::is_ok);
        let (mut left, mut failures) = (Vec::new(), Vec::new());
        for (placed, result) in reservation.files().iter().zip(results) {
            if let Err(err) = result {
                warn!("noting the state of {key}: {err}");
                left.push(PlacedFile { in_doubt: err.in_doubt(), ..placed.clone() });
                failures.push(err.to_string());
            }
        }
        let left = self.waited_for(left);
        let not_before_us = self.after_grace_us();
        if is_noted {
            reservation.commit(record, Ending { left, not_before_us }).await?;
            return Ok(());
        }
        // Nothing was written for sure; what is in doubt is made to say what the record says.
        let left = left.into_iter().filter(|placed| placed.in_doubt).collect();
        reservation.release(Ending { left, not_before_us }).await?;
        Err(StoreError::NoSidecar { key, failures })
    }
}

pub(super) fn previous(reservation: &Reservation) -> Result<Record, IndexError> {
    let record = reservation.previous().cloned();
    record.ok_or_else(|| IndexError::NotFound { key: reservation.key().clone() })
}
