//! Sidecars: written beside replicas whenever there is something that a rebuild could not know otherwise.

use super::Store;
use crate::index::Reservation;
use crate::model::{File, Key, Record, Replica, Sidecar, SidecarState, State, path_of};
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
        self.change_only_ours(replica).await?;
        let path = path_of(reservation.key(), File::Sidecar);
        self.volumes.put(replica, &path, Bytes::from(sidecar.to_json()), sidecar.state_time).await
    }

    /// The sidecars beside `replicas`, newest first, and whether everybody has answered. One that can't be read is none.
    pub(super) async fn read_sidecars(&self, key: &Key, replicas: &[Replica]) -> (Vec<Sidecar>, bool) {
        let path = path_of(key, File::Sidecar);
        let reads = replicas.iter().map(async |replica| {
            self.ask_only_if(self.is_readable(replica), replica)?;
            self.volumes.get(replica, &path, Sidecar::MAX_BYTES).await
        });
        let answers = join_all(reads).await;
        let is_whole = answers.iter().all(Result::is_ok);
        let found = answers.into_iter().filter_map(|answer| Sidecar::parse(&answer.ok()??));
        let mut sidecars: Vec<Sidecar> = found.collect();
        sidecars.sort_by_key(|sidecar| std::cmp::Reverse(sidecar.state_time));
        (sidecars, is_whole)
    }

    /// Those of `places` where the sidecar of a record tells nothing, and why; a volume that doesn't answer is none of them.
    pub async fn mute_sidecars(
        &self,
        key: &Key,
        record: &Record,
        places: Vec<Replica>,
    ) -> Vec<(Replica, &'static str)> {
        let path = path_of(key, File::Sidecar);
        let unreadable = Some("its sidecar can't be read");
        let reads = places.into_iter().map(async |place| {
            let what = match self.volumes.get(&place, &path, Sidecar::MAX_BYTES).await {
                Ok(Some(content)) => unreadable.filter(|_| Sidecar::parse(&content).is_none()),
                Ok(None) => Some("its sidecar is not there").filter(|_| needs_sidecars(record)),
                Err(VolumeError::TooLarge { .. }) => unreadable,
                Err(_) => None,
            };
            Some((place, what?))
        });
        join_all(reads).await.into_iter().flatten().collect()
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

/// Whether a rebuild would not know what a record says if no sidecar told it.
pub fn needs_sidecars(record: &Record) -> bool {
    record.generation.is_some() || !record.is_live()
}

/// What stands beside a copy of a replica, given what stands beside the others, newest first: the same, so that a
/// rebuild believes what it would have believed before. `None` where nothing needs to be told.
pub(super) fn beside_copy(
    record: &Record,
    noted: &[Sidecar],
    size: Option<u64>,
    time_us: u64,
) -> Option<Sidecar> {
    match noted.first() {
        None if !needs_sidecars(record) => None,
        Some(newest) if agrees(newest, record) => Some(newest.clone()),
        _ => Some(describe_keeping(record, noted, size, time_us)),
    }
}

/// A time for a sidecar that is to be believed instead of those that are there, newest first: theirs are later when a
/// clock was set back.
pub(super) fn later(noted: &[Sidecar], time_us: u64) -> u64 {
    noted.first().map_or(time_us, |newest| time_us.max(newest.state_time.saturating_add(1)))
}

/// As [`describe`], with what earlier sidecars of the same version tell and the index doesn't know.
pub(super) fn describe_keeping(
    record: &Record,
    noted: &[Sidecar],
    size: Option<u64>,
    time_us: u64,
) -> Sidecar {
    let mut sidecar = describe(record, size, time_us);
    if let Some(earlier) = noted.iter().find(|noted| is_of_version(noted, record)) {
        sidecar.content_type = earlier.content_type.clone();
        sidecar.metadata = earlier.metadata.clone();
    }
    sidecar
}

/// Whether a sidecar says what the record says.
pub(super) fn agrees(sidecar: &Sidecar, record: &Record) -> bool {
    is_of_version(sidecar, record) && sidecar.state == state_of(record)
}

fn is_of_version(sidecar: &Sidecar, record: &Record) -> bool {
    let same_content = match (&sidecar.md5, record.md5) {
        (Some(noted), Some(md5)) => *noted == md5.to_string(),
        _ => true,
    };
    let generation = record.generation.map(|generation| generation.to_string());
    same_content && sidecar.generation == generation && sidecar.state != SidecarState::Deleted
}

fn state_of(record: &Record) -> SidecarState {
    match record.state {
        State::Live => SidecarState::Live,
        State::Unlinked => SidecarState::Unlinked,
    }
}

/// The sidecar of a record, for a change at `time_us`.
pub(super) fn describe(record: &Record, size: Option<u64>, time_us: u64) -> Sidecar {
    Sidecar {
        md5: record.md5.map(|md5| md5.to_string()),
        generation: record.generation.map(|generation| generation.to_string()),
        ..bare(state_of(record), size, time_us)
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
