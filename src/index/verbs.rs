//! What a verb needs: when it is refused, and which files it is going to touch. Pure.

use super::message::Verb;
use super::{IndexError, files_at};
use crate::model::{File, Generation, Key, PlacedFile, Record, Replica, State, folded_path};

/// Whether `verb` may not be done, given the record of the key.
pub(super) fn refusal(
    key: &Key,
    verb: &Verb,
    record: Option<&Record>,
    leftovers: bool,
) -> Option<IndexError> {
    let key = key.clone();
    match (verb, record.map(|record| record.state)) {
        (Verb::Put(_), Some(State::Live)) => Some(IndexError::Exists { key }),
        (Verb::Put(_), _) | (Verb::Replace(_), _) | (Verb::Hold, _) => None,
        (Verb::Unlink, Some(State::Live)) | (Verb::Relink | Verb::Note, Some(State::Unlinked)) => None,
        (Verb::Remove { .. }, None) if leftovers => None,
        (Verb::Unlink | Verb::Relink | Verb::Note | Verb::Move(_) | Verb::Remove { .. }, None) => {
            Some(IndexError::NotFound { key })
        }
        (Verb::Move(_), Some(_)) => None,
        (Verb::Unlink, Some(State::Unlinked)) | (Verb::Relink | Verb::Note, Some(State::Live)) => {
            Some(IndexError::NotFound { key })
        }
        (Verb::Remove { protect: true }, Some(State::Live)) => Some(IndexError::Protected { key }),
        (Verb::Remove { .. }, Some(_)) => None,
    }
}

/// Every file that the verb is going to write or remove.
pub(super) fn files_of(
    key: &Key,
    verb: &Verb,
    record: Option<&Record>,
    generation_us: Option<u64>,
) -> Vec<PlacedFile> {
    let replicas = record.map_or(&[][..], |record| &record.replicas);
    match verb {
        Verb::Put(places) | Verb::Replace(places) => {
            files_at(places, &File::of_version(generation_us.map(Generation::new)))
        }
        Verb::Unlink | Verb::Relink | Verb::Note => files_at(replicas, &[File::Sidecar]),
        Verb::Move(places) => {
            let fresh: Vec<Replica> =
                places.iter().filter(|place| !replicas.contains(place)).cloned().collect();
            let version = record.and_then(|record| record.generation);
            files_at(&fresh, &[File::Blob(version), File::Sidecar])
        }
        Verb::Hold => Vec::new(),
        Verb::Remove { .. } => record.map_or_else(Vec::new, |record| files_of_record(key, record)),
    }
}

/// Every file that a record's version has or may have on its volumes.
pub fn files_of_record(key: &Key, record: &Record) -> Vec<PlacedFile> {
    let mut kinds = vec![File::Blob(record.generation)];
    kinds.extend((record.generation.is_none() && folded_path(key).is_some()).then_some(File::Folded));
    kinds.push(File::Sidecar);
    files_at(&record.replicas, &kinds)
}
