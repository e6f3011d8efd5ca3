//! PUT and REPLACE: a blob goes to all its replicas at the same time, then into the index.
//!
//! The steps of a write are *reserve → replicate → spill what failed → sidecars → commit*; whichever of them
//! fails, the record stays as it was and what was written is removed or remembered.

use super::body::{Body, Sized};
use super::hash::Hasher;
use super::{BodyError, BodyLimits, Store, StoreError};
use crate::index::{Ending, Reservation, Verb, files_at, files_of_record};
use crate::model::{File, Key, Md5, PlacedFile, Record, Replica, State, VolumeMode, path_of};
use crate::volume::{Content, CopyError, Outcome, VolumeError};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::join_all;
use log::warn;
use std::time::Instant;
use thiserror::Error;

/// A blob to be stored.
pub struct PutRequest<S> {
    /// Its key; not `/`.
    pub key: Key,
    /// Overwrite what is there.
    pub replace: bool,
    /// The length that the client announced, in bytes.
    pub length: Option<u64>,
    /// The MD5 that the client announced.
    pub md5: Option<Md5>,
    /// The content.
    pub body: S,
    /// How patient to be with the client.
    pub limits: BodyLimits,
}

/// What was stored.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored {
    /// The content's MD5, if it was computed.
    pub md5: Option<Md5>,
    /// The content's size in bytes.
    pub size: u64,
    /// Whether a live blob was overwritten.
    pub replaced: bool,
}

/// A write that has its reservation.
struct Write<'a> {
    store: &'a Store,
    reservation: Reservation,
    path: String,
    /// Where the blob belongs.
    home: Vec<Replica>,
    /// Places not tried yet, best first.
    spares: std::vec::IntoIter<Replica>,
    good: Vec<Replica>,
    /// Places where the write was given up. They may hold the blob all the same.
    lost: Vec<Lost>,
}

struct Lost {
    replica: Replica,
    failure: ReplicaFailure,
}

/// Why a volume has no replica.
#[derive(Debug, Error)]
enum ReplicaFailure {
    #[error(transparent)]
    Write(#[from] VolumeError),
    #[error(transparent)]
    Copy(#[from] CopyError),
}

impl ReplicaFailure {
    fn in_doubt(&self) -> bool {
        match self {
            ReplicaFailure::Write(err) => err.in_doubt(),
            ReplicaFailure::Copy(err) => err.in_doubt(),
        }
    }

    /// nginx says 500 when its disk is full.
    fn is_no_space(&self) -> bool {
        match self {
            ReplicaFailure::Write(err) | ReplicaFailure::Copy(CopyError::Target(err)) => {
                matches!(err, VolumeError::Refused { method: "PUT", status: 500 | 507, .. })
            }
            ReplicaFailure::Copy(_) => false,
        }
    }
}

/// What a replica can be made from, once the client's body is used up.
enum Source {
    Bytes(Bytes),
    Replica,
}

impl Store {
    /// Stores a blob on as many volumes as there have to be replicas, and returns when the index knows it for good.
    pub async fn put<S>(&self, request: PutRequest<S>) -> Result<Stored, StoreError>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + 'static,
    {
        if request.key.is_root() {
            return Err(StoreError::RootKey);
        }
        let body = Body::new(request.body, request.limits).sized(request.length).await?;
        if matches!(&body, Sized::Small(bytes) if bytes.is_empty()) {
            return Err(StoreError::EmptyBody);
        }
        let mut write = self.begin(request.key, request.replace).await?;
        match write.run(body, request.length, request.md5).await {
            Ok(content) => write.commit(content).await,
            Err(err) => write.undo(err).await,
        }
    }

    /// Chooses the places and reserves the key. Other places when one of them is to take no blobs any more by then: who sets
    /// that waits only for those who have their reservations.
    async fn begin(&self, key: Key, replace: bool) -> Result<Write<'_>, StoreError> {
        loop {
            let write = self.reserve(key.clone(), replace).await?;
            let is_alive = |place: &Replica| self.placer.mode(place) == VolumeMode::Alive;
            if write.good.iter().chain(write.spares.as_slice()).all(is_alive) {
                return Ok(write);
            }
            write.reservation.release(Ending::default()).await?;
        }
    }

    async fn reserve(&self, key: Key, replace: bool) -> Result<Write<'_>, StoreError> {
        let needed = self.placer.replicas();
        let mut places = self.placer.ranked(key.as_bytes());
        let home = places.iter().filter(|place| self.placer.mode(place).keeps_blobs()).take(needed);
        let home: Vec<Replica> = home.cloned().collect();
        places.retain(|place| self.takes_blobs(place));
        if places.len() < needed {
            return Err(StoreError::NotEnoughVolumes { up: places.len(), needed, key });
        }
        let spares = places.split_off(needed).into_iter();
        let verb = if replace { Verb::Replace(places.clone()) } else { Verb::Put(places.clone()) };
        let reservation = self.index.reserve(&key, verb).await?;
        let path = path_of(&key, File::Blob(reservation.generation()));
        Ok(Write { store: self, reservation, path, home, spares, good: places, lost: Vec::new() })
    }
}

impl Write<'_> {
    async fn run(
        &mut self,
        body: Sized,
        length: Option<u64>,
        announced: Option<Md5>,
    ) -> Result<Content, StoreError> {
        let (content, source) = match body {
            Sized::Small(bytes) => self.send(bytes, announced).await?,
            Sized::Large(body) => self.stream(body, length, announced).await?,
        };
        let mut noted = 0;
        loop {
            self.refill(&content, &source).await?;
            if self.reservation.generation().is_none() || noted == self.good.len() {
                return Ok(content);
            }
            noted = self.note(&content, noted).await;
        }
    }

    /// Sends a small body to all places at once.
    async fn send(&mut self, bytes: Bytes, announced: Option<Md5>) -> Result<(Content, Source), StoreError> {
        let md5 = self.is_hashed(announced).then(|| Md5(md5::compute(&bytes).0));
        let content = Content { size: bytes.len() as u64, md5 };
        check_md5(announced, content.md5)?;
        let (volumes, path, time_us) = (&self.store.volumes, &self.path, self.reservation.time_us());
        let places = std::mem::take(&mut self.good);
        let sends = places.iter().map(|place| volumes.put(place, path, bytes.clone(), time_us));
        let results = join_all(sends).await;
        for (replica, result) in places.into_iter().zip(results) {
            self.sort_out(replica, result.map_err(ReplicaFailure::from));
        }
        Ok((content, Source::Bytes(bytes)))
    }

    /// Streams a large body to all places at once.
    async fn stream(
        &mut self,
        mut body: Body,
        length: Option<u64>,
        announced: Option<Md5>,
    ) -> Result<(Content, Source), StoreError> {
        let places = std::mem::take(&mut self.good);
        let mut upload = self.store.volumes.upload(&places, &self.path, length, self.reservation.time_us());
        let mut hasher = self.is_hashed(announced).then(Hasher::new);
        let mut size = 0;
        loop {
            let chunk = match body.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(err) => {
                    upload.abort().await.into_iter().for_each(|outcome| self.sort_out_sent(outcome));
                    return Err(err.into());
                }
            };
            size += chunk.len() as u64;
            let given = Instant::now();
            if let Some(hasher) = &mut hasher {
                hasher.add(chunk.clone()).await;
            }
            // When no replica is left, finishing tells why.
            if upload.write(chunk).await.is_err() {
                break;
            }
            body.forgive_wait(given.elapsed());
        }
        upload.finish().await.into_iter().for_each(|outcome| self.sort_out_sent(outcome));
        let md5 = match hasher {
            Some(hasher) => Some(hasher.finish().await),
            None => None,
        };
        let content = Content { size, md5 };
        if !self.good.is_empty() {
            check_md5(announced, content.md5)?;
        }
        Ok((content, Source::Replica))
    }

    /// Hashing is the longest part of a large write; without --md5sum only a client's own MD5 asks for it.
    fn is_hashed(&self, announced: Option<Md5>) -> bool {
        self.store.options.load().md5sum || announced.is_some()
    }

    fn sort_out_sent(&mut self, Outcome { replica, result }: Outcome) {
        self.sort_out(replica, result.map_err(ReplicaFailure::from));
    }

    fn sort_out(&mut self, replica: Replica, result: Result<(), ReplicaFailure>) {
        match result {
            Ok(()) => self.good.push(replica),
            Err(failure) => {
                warn!("writing {}: {failure}", self.reservation.key());
                self.lost.push(Lost { replica, failure });
            }
        }
    }

    /// Brings the blob to further volumes until there are enough replicas.
    async fn refill(&mut self, content: &Content, source: &Source) -> Result<(), StoreError> {
        while self.good.len() < self.store.placer.replicas() {
            if self.good.is_empty() && matches!(source, Source::Replica) {
                return Err(self.failure());
            }
            let health = self.store.volumes.health().clone();
            let Some(replica) = self.spares.find(|spare| health.is_up(spare)) else {
                return Err(self.failure());
            };
            self.reservation.extend(&replica).await?;
            let result = self.fill(&replica, content, source).await;
            self.sort_out(replica, result);
        }
        Ok(())
    }

    async fn fill(&self, to: &Replica, content: &Content, source: &Source) -> Result<(), ReplicaFailure> {
        match source {
            Source::Bytes(bytes) => {
                let time_us = self.reservation.time_us();
                Ok(self.store.volumes.put(to, &self.path, bytes.clone(), time_us).await?)
            }
            Source::Replica => Ok(self.copy_from_any(to, content).await?),
        }
    }

    /// Copies from the first finished replica that can be read.
    async fn copy_from_any(&self, to: &Replica, content: &Content) -> Result<(), CopyError> {
        let (volumes, path, time_us) = (&self.store.volumes, &self.path, self.reservation.time_us());
        let mut sources = self.good.iter().peekable();
        loop {
            let from = sources.next().expect("there is at least one finished replica");
            match volumes.copy(from, path, to, path, content, time_us).await {
                Err(err) if !matches!(err, CopyError::Target(_)) && sources.peek().is_some() => {
                    warn!("copying {} to {to}: {err}", self.reservation.key());
                }
                copied => return copied,
            }
        }
    }

    /// Writes the sidecars of a generation beside the replicas from `noted` on; a replica without one is lost.
    /// Answers how many have one.
    async fn note(&mut self, content: &Content, noted: usize) -> usize {
        let fresh = self.good.split_off(noted);
        let record = Record { replicas: fresh.clone(), ..self.record(content) };
        let results = self.store.write_sidecars(&self.reservation, &record, Some(content.size)).await;
        for (replica, result) in fresh.into_iter().zip(results) {
            self.sort_out(replica, result.map_err(ReplicaFailure::from));
        }
        self.good.len()
    }

    fn record(&self, content: &Content) -> Record {
        let store = self.store;
        Record {
            state: State::Live,
            md5: content.md5.filter(|_| store.options.load().md5sum),
            generation: self.reservation.generation(),
            replicas: store.placer.in_record_order(self.reservation.key().as_bytes(), self.good.clone()),
        }
    }

    async fn commit(self, content: Content) -> Result<Stored, StoreError> {
        let record = self.record(&content);
        let previous = self.reservation.previous();
        let replaced = previous.is_some_and(Record::is_live);
        let mut left = self.left_at_lost_places();
        left.extend(previous.map_or_else(Vec::new, |old| outdated(self.reservation.key(), old, &record)));
        let left = self.store.waited_for(left);
        let ending = Ending { left, not_before_us: self.store.after_grace_us() };
        self.reservation.commit(record, ending).await?;
        if self.good.iter().any(|place| !self.home.contains(place)) {
            metrics::counter!("mkv_spilled_writes_total").increment(1);
        }
        Ok(Stored { md5: content.md5, size: content.size, replaced })
    }

    /// Removes what was written and leaves the record as it was.
    async fn undo(self, err: StoreError) -> Result<Stored, StoreError> {
        // A volume that did not answer in time would not answer the removal either, and the client waits.
        let (mut left, mut files): (Vec<_>, Vec<_>) =
            self.left_at_lost_places().into_iter().partition(|placed| placed.in_doubt);
        files.extend(files_at(&self.good, &File::of_version(self.reservation.generation())));
        left.extend(self.store.settle_files(&self.reservation, files).await);
        let ending = Ending { left, not_before_us: self.store.after_grace_us() };
        self.reservation.release(ending).await?;
        Err(err)
    }

    fn left_at_lost_places(&self) -> Vec<PlacedFile> {
        let kinds = File::of_version(self.reservation.generation());
        let at = |lost: &Lost| {
            let mut files = files_at(std::slice::from_ref(&lost.replica), &kinds);
            files.iter_mut().for_each(|placed| placed.in_doubt = lost.failure.in_doubt());
            files
        };
        self.lost.iter().flat_map(at).collect()
    }

    fn failure(&self) -> StoreError {
        let key = self.reservation.key().clone();
        let failures: Vec<String> = self.lost.iter().map(|lost| lost.failure.to_string()).collect();
        if self.lost.iter().all(|lost| lost.failure.is_no_space()) {
            return StoreError::Full { key, failures };
        }
        StoreError::NotReplicated { key, failures }
    }
}

/// The files of the old version; its sidecars only where the new one has none in their place.
fn outdated(key: &Key, old: &Record, new: &Record) -> Vec<PlacedFile> {
    let mut files = files_of_record(key, old);
    files.retain(|placed| placed.file != File::Sidecar || !new.replicas.contains(&placed.replica));
    files
}

fn check_md5(announced: Option<Md5>, actual: Option<Md5>) -> Result<(), StoreError> {
    match (announced, actual) {
        (Some(expected), Some(actual)) if expected != actual => {
            Err(StoreError::Md5Mismatch { expected: expected.to_string(), actual: actual.to_string() })
        }
        _ => Ok(()),
    }
}
