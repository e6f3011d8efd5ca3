//! GET: which volume has the blob.

use super::{Store, StoreError};
use crate::index::IndexError;
use crate::model::{File, Key, Record, Replica, folded_path, path_of};
use crate::volume::{Candidate, Search};
use std::str::FromStr;

/// What a GET makes sure of before it redirects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// That the volume has the file: one round trip to it.
    File,
    /// That the volume was up when it was last probed; the file itself is not asked for.
    Health,
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Check, String> {
        match text {
            "file" => Ok(Check::File),
            "health" => Ok(Check::Health),
            _ => Err(format!("{text:?} is neither file nor health")),
        }
    }
}

/// Where a client finds a blob.
#[derive(Debug)]
pub struct Found {
    /// The volume.
    pub replica: Replica,
    /// The path on it.
    pub path: String,
    /// What the index knows.
    pub record: Record,
    /// Whether the record's replicas are where placement wants them.
    pub balanced: bool,
}

/// How often a GET starts over because the record changed under it; a key that is overwritten faster than that
/// is answered with a request to try again.
const TRIES: usize = 4;

impl Store {
    /// A replica of the live blob `key`. Replicas take turns, so that a blob that everybody reads is read from all
    /// of its volumes; those that are down come last.
    pub async fn get(&self, key: &Key) -> Result<Found, StoreError> {
        let mut record = self.live(key).await?;
        for _ in 0..TRIES {
            match self.search(key, &record).await? {
                Some((replica, path)) => {
                    let balanced = record.replicas == self.placer.placement(key.as_bytes());
                    return Ok(Found { replica, path, record, balanced });
                }
                None => {
                    let now = self.live(key).await?;
                    if now == record {
                        return Err(StoreError::Gone { key: key.clone() });
                    }
                    record = now;
                }
            }
        }
        Err(StoreError::Restless { key: key.clone() })
    }

    pub(super) async fn live(&self, key: &Key) -> Result<Record, StoreError> {
        let record = self.index.locate(key).await?.filter(Record::is_live);
        record.ok_or_else(|| IndexError::NotFound { key: key.clone() }.into())
    }

    /// A place that has the blob; `None` when every replica's volume said that it hasn't.
    async fn search(&self, key: &Key, record: &Record) -> Result<Option<(Replica, String)>, StoreError> {
        let mut candidates = self.candidates(key, record);
        let turn = self.turn(candidates.len());
        candidates.rotate_left(turn);
        candidates.sort_by_key(|candidate| !self.is_readable(&candidate.replica));
        // Where the Go original may have stored it elsewhere, only the volume knows.
        let is_known = candidates[0].paths.len() == 1 && self.is_readable(&candidates[0].replica);
        if self.options.load().check == Check::Health && is_known {
            let first = candidates.swap_remove(0);
            return Ok(first.paths.into_iter().next().map(|path| (first.replica, path)));
        }
        match self.volumes.find(&candidates).await {
            Search::Found { index, path, .. } => Ok(Some((candidates.swap_remove(index).replica, path))),
            Search::Absent => Ok(None),
            Search::Unknown { error: source } => Err(StoreError::Unavailable { key: key.clone(), source }),
        }
    }

    fn turn(&self, replicas: usize) -> usize {
        let turn = self.turns.get().wrapping_add(1);
        self.turns.set(turn);
        turn % replicas.max(1)
    }

    /// The replicas of a record with the paths at which each may have the blob.
    pub(super) fn candidates(&self, key: &Key, record: &Record) -> Vec<Candidate> {
        let mut paths = vec![path_of(key, File::Blob(record.generation))];
        if record.generation.is_none() {
            paths.extend(folded_path(key));
        }
        record
            .replicas
            .iter()
            .map(|replica| Candidate { replica: replica.clone(), paths: paths.clone() })
            .collect()
    }
}
