//! What lies at the places of a key, and whether it is what was stored: as far as sizes tell, or by reading everything.
//! Which content is right is for [`super::verdict`] to say.

use super::plan::may_be_folded;
use super::sidecars::{describe_keeping, later, needs_sidecars};
use super::verdict::{Finding, Known, Seen, Verdict, judge};
use super::{Store, StoreError};
use crate::index::{Ending, Reservation, Verb};
use crate::model::{File, Key, Md5, PlacedFile, Record, Replica, path_of};
use crate::volume::{Content, VolumeError};
use futures_util::future::join_all;

/// How closely replicas are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Volumes are asked for sizes.
    Sizes,
    /// Everything is read.
    Contents,
}

/// What is wrong with a key or one of its replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No replica is left that is right.
    Missing,
    /// A place that the record names has no file.
    Absent(Replica),
    /// A file is not what was stored; why.
    Damaged(Replica, String),
    /// A volume did not answer; why.
    Silent(Replica, String),
    /// The replicas differ, and nothing tells which is right.
    Undecided,
    /// The record names fewer replicas than there should be.
    TooFew,
    /// The replicas are not where placement wants them.
    Misplaced,
}

/// What was found of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// What is wrong; empty if nothing is.
    pub faults: Vec<Fault>,
    /// The MD5 that all replicas have and that the record doesn't tell.
    pub new_md5: Option<Md5>,
}

impl Store {
    /// Looks at every replica of `key`, whose record is `record`. Takes no lock: what is found while somebody writes the
    /// key may not be so any more. `meter` is told how many bytes were read, and waited for before more are.
    pub async fn inspect(
        &self,
        key: &Key,
        record: &Record,
        depth: Depth,
        meter: &impl AsyncFn(u64),
    ) -> Inspection {
        let mut seen = self.look(key, record, &record.replicas, depth, meter).await;
        let mut verdict = judge(&mut seen, Known { size: None, md5: record.md5 });
        if verdict == Verdict::Undecided {
            let known = self.known_beside(key, record).await;
            verdict = judge(&mut seen, known);
        }
        let mut faults: Vec<Fault> = seen.iter().filter_map(fault).collect();
        match verdict {
            Verdict::Right(_) => {}
            Verdict::Undecided => faults.push(Fault::Undecided),
            Verdict::Nothing if faults.iter().any(|fault| matches!(fault, Fault::Silent(..))) => {}
            Verdict::Nothing => faults.push(Fault::Missing),
        }
        let placement = self.placer.placement(key.as_bytes());
        let is_folded = |seen: &Seen| matches!(seen.finding, Finding::There { file: File::Folded, .. });
        if record.replicas.len() < placement.len() {
            faults.push(Fault::TooFew);
        } else if record.replicas != placement || seen.iter().any(is_folded) {
            faults.push(Fault::Misplaced);
        }
        let new_md5 = match verdict {
            Verdict::Right(content) if record.md5.is_none() && faults.is_empty() => content.md5,
            _ => None,
        };
        Inspection { faults, new_md5 }
    }

    /// As [`Store::inspect`], with the key held, so that what is found is so. Nothing if there is no record any more;
    /// `Busy` if a client is writing the key, who waits as long as `meter` makes this wait.
    pub async fn inspect_held(
        &self,
        key: &Key,
        depth: Depth,
        meter: &impl AsyncFn(u64),
    ) -> Result<Inspection, StoreError> {
        let reservation = self.index.reserve(key, Verb::Hold).await?;
        let inspection = match reservation.previous() {
            Some(record) => self.inspect(key, record, depth, meter).await,
            None => Inspection::default(),
        };
        reservation.release(Ending::default()).await?;
        Ok(inspection)
    }

    /// Adds an MD5 to a record that has none; no effect if the record is another by now.
    pub async fn fill_in_md5(&self, key: &Key, record: &Record, md5: Md5) -> Result<(), StoreError> {
        if !self.options.load().md5sum {
            return Ok(());
        }
        let reservation = self.index.reserve(key, Verb::Hold).await?;
        match reservation.previous() == Some(record) {
            true => {
                reservation.commit(Record { md5: Some(md5), ..record.clone() }, Ending::default()).await?
            }
            false => reservation.release(Ending::default()).await?,
        }
        Ok(())
    }

    /// Asks places for the blob of `record`, all at the same time.
    pub(super) async fn look(
        &self,
        key: &Key,
        record: &Record,
        places: &[Replica],
        depth: Depth,
        meter: &impl AsyncFn(u64),
    ) -> Vec<Seen> {
        join_all(places.iter().map(|replica| async {
            let looked = self.look_at(key, record, replica, depth, meter).await;
            let finding = looked.unwrap_or_else(Finding::Silent);
            Seen { replica: replica.clone(), finding }
        }))
        .await
    }

    async fn look_at(
        &self,
        key: &Key,
        record: &Record,
        replica: &Replica,
        depth: Depth,
        meter: &impl AsyncFn(u64),
    ) -> Result<Finding, VolumeError> {
        if self.is_gone(replica) {
            return Ok(Finding::Absent);
        }
        self.ask_only_if(self.is_readable(replica), replica)?;
        let mut files = vec![File::Blob(record.generation)];
        files.extend(may_be_folded(key, record).then_some(File::Folded));
        for file in files {
            let path = path_of(key, file);
            let content = match depth {
                Depth::Sizes => {
                    self.volumes.head(replica, &path).await?.map(|size| Content { size, md5: None })
                }
                Depth::Contents => match self.volumes.open(replica, &path).await? {
                    Some(download) => Some(download.digest(meter).await?),
                    None => None,
                },
            };
            if let Some(Content { size, md5 }) = content {
                return Ok(Finding::There { file, size, md5 });
            }
        }
        Ok(Finding::Absent)
    }

    /// What the newest sidecar that fits the record tells of the content.
    async fn known_beside(&self, key: &Key, record: &Record) -> Known {
        let (noted, _) = self.read_sidecars(key, &record.replicas).await;
        match noted.first().filter(|sidecar| super::sidecars::agrees(sidecar, record)) {
            Some(newest) => {
                let md5 = record.md5.or_else(|| Md5::parse(newest.md5.as_ref()?));
                Known { size: newest.size, md5 }
            }
            None => Known { size: None, md5: record.md5 },
        }
    }

    /// Takes one of the files at `places`, which the record doesn't name, for a replica, if no replica is left that is right
    /// and it is. Which one; none where they differ and nothing tells which is right.
    pub async fn adopt(&self, key: &Key, places: &[Replica]) -> Result<Option<Replica>, StoreError> {
        let reservation = self.index.reserve(key, Verb::Hold).await?;
        let Some(record) = reservation.previous().cloned() else {
            reservation.release(Ending::default()).await?;
            return Ok(None);
        };
        let is_lost =
            self.inspect(key, &record, Depth::Contents, &at_once).await.faults.contains(&Fault::Missing);
        let known = self.known_beside(key, &record).await;
        let mut seen = self.look(key, &record, places, Depth::Contents, &at_once).await;
        let is_decided = matches!(judge(&mut seen, known), Verdict::Right(_));
        let is_there = |seen: &&Seen| matches!(seen.finding, Finding::There { .. });
        let right = seen.iter().find(is_there).map(|seen| seen.replica.clone());
        let Some(right) = right.filter(|_| is_lost && is_decided) else {
            reservation.release(Ending::default()).await?;
            return Ok(None);
        };
        let replicas = [record.replicas.as_slice(), std::slice::from_ref(&right)].concat();
        let replicas = self.placer.in_record_order(key.as_bytes(), replicas);
        reservation.commit(Record { replicas, ..record }, Ending::default()).await?;
        Ok(Some(right))
    }

    /// Removes files of a held key that its record doesn't name; how many are left because their volumes don't answer.
    /// They are removed later.
    pub async fn clear(&self, reservation: Reservation, files: Vec<PlacedFile>) -> Result<usize, StoreError> {
        let left = self.settle_files(&reservation, files).await;
        let count = left.len();
        reservation.release(Ending { left, not_before_us: self.after_grace_us() }).await?;
        Ok(count)
    }

    /// Whether a rebuild would believe the sidecars beside `record` and at other `places` to say what the record says.
    pub async fn is_noted(&self, key: &Key, record: &Record, places: &[Replica]) -> bool {
        let mut all = record.replicas.clone();
        all.extend(places.iter().filter(|place| !record.replicas.contains(place)).cloned());
        let (noted, _) = self.read_sidecars(key, &all).await;
        match noted.first() {
            Some(newest) => super::sidecars::agrees(newest, record),
            None => !needs_sidecars(record),
        }
    }

    /// Has the sidecars of a key say what the record says, newer than those that there are and those at other `places`.
    pub async fn rewrite_sidecars(&self, key: &Key, places: &[Replica]) -> Result<(), StoreError> {
        let reservation = self.index.reserve(key, Verb::Hold).await?;
        let failures = match reservation.previous().cloned() {
            Some(record) => self.rewrite_held(&reservation, &record, places).await,
            None => Vec::new(),
        };
        reservation.release(Ending::default()).await?;
        match failures.is_empty() {
            true => Ok(()),
            false => Err(StoreError::NoSidecar { key: key.clone(), failures }),
        }
    }

    async fn rewrite_held(
        &self,
        reservation: &Reservation,
        record: &Record,
        places: &[Replica],
    ) -> Vec<String> {
        let key = reservation.key();
        let (noted, _) = self.read_sidecars(key, &record.replicas).await;
        let (others, _) = self.read_sidecars(key, places).await;
        let time_us = later(&others, later(&noted, reservation.time_us()));
        let size = self.size_of(reservation, record).await;
        let sidecar = describe_keeping(record, &noted, size, time_us);
        let writes = record.replicas.iter().map(|replica| self.write_sidecar(reservation, replica, &sidecar));
        join_all(writes).await.into_iter().filter_map(|done| Some(done.err()?.to_string())).collect()
    }
}

/// The meter of those who hold a key, for whom a client may be waiting.
pub(super) async fn at_once(_bytes: u64) {}

fn fault(seen: &Seen) -> Option<Fault> {
    let place = seen.replica.clone();
    match &seen.finding {
        Finding::There { .. } => None,
        Finding::Damaged { what } => Some(Fault::Damaged(place, what.clone())),
        Finding::Absent => Some(Fault::Absent(place)),
        Finding::Silent(err) => Some(Fault::Silent(place, err.to_string())),
    }
}
