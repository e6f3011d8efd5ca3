//! Sidecars: written beside replicas whenever there is something that a rebuild could not know otherwise.

use super::Store;
use crate::index::Reservation;
use crate::model::{File, Record, Replica, Sidecar, SidecarState, State, path_of};
use crate::volume::VolumeError;
use bytes::Bytes;
use futures_util::future::join_all;
use std::collections::BTreeMap;

impl Store {
    /// Writes what `record` says of the reserved key beside each of its replicas; the results in their order.
    pub(super) async fn write_sidecars(
        &self,
        reservation: &Reservation,
        record: &Record,
        size: Option<u64>,
    ) -> Vec<Result<(), VolumeError>> {
        let sidecar = describe(record, size, reservation.time_us());
        let writes = record.replicas.iter().map(|replica| self.write_sidecar(reservation, replica, &sidecar));
        join_all(writes).await
    }

    /// Writes one sidecar of the reserved key.
    pub(super) async fn write_sidecar(
        &self,
        reservation: &Reservation,
        replica: &Replica,
        sidecar: &Sidecar,
    ) -> Result<(), VolumeError> {
        let path = path_of(reservation.key(), File::Sidecar);
        self.volumes.put(replica, &path, Bytes::from(sidecar.to_json()), sidecar.state_time).await
    }

    /// The size of the blob that `record` names, in bytes, if any replica tells.
    pub(super) async fn size_of(&self, reservation: &Reservation, record: &Record) -> Option<u64> {
        let candidates = self.candidates(reservation.key(), record);
        match self.volumes.find(&candidates).await {
            crate::volume::Search::Found { size, .. } => Some(size),
            _ => None,
        }
    }
}

/// The sidecar of a record, for a change at `time_us`.
pub(super) fn describe(record: &Record, size: Option<u64>, time_us: u64) -> Sidecar {
    let state = match record.state {
        State::Live => SidecarState::Live,
        State::Unlinked => SidecarState::Unlinked,
    };
    Sidecar {
        md5: record.md5.map(|md5| md5.to_string()),
        generation: record.generation.map(|generation| generation.to_string()),
        ..bare(state, size, time_us)
    }
}

/// The sidecar of a key that is removed while a volume is away.
pub(super) fn tombstone(time_us: u64) -> Sidecar {
    bare(SidecarState::Deleted, None, time_us)
}

fn bare(state: SidecarState, size: Option<u64>, state_time: u64) -> Sidecar {
    Sidecar {
        state,
        state_time,
        md5: None,
        size,
        generation: None,
        content_type: None,
        metadata: BTreeMap::new(),
    }
}
