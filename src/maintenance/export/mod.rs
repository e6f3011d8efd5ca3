//! Export: the blobs themselves, copied out of the volumes into a directory, with no master and no index. What is the
//! current version of a key and whether it is live is decided as a rebuild decides it.
//!
//! It is a rescue: what can't be read is told and left, and everything else goes on. It writes below one directory only,
//! every file whole and verified, none over another; run again, it goes on where it was cut off. Nothing on a volume changes.

mod destination;
mod name;

use super::rebuild::decide::{Decision, Seen, Sighting, Version, decide};
use super::walk::{Silent, Tree, Walker, by_folder};
use crate::maintenance::{Control, Finding, Kind};
use crate::model::{Key, Md5, Replica, State, Volume, path_of};
use crate::volume::{Addresses, ClusterId, Credentials, Health, Timeouts, VolumeClient, VolumeError};
use actix_rt::task::spawn_blocking;
use destination::{Destination, Draft, Place, PlaceError, is_within};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use name::names_of;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use thiserror::Error;

/// Folders that one thread works on at the same time: enough that it never waits for one volume.
const FOLDERS_AT_ONCE: usize = 8;

/// Read at once of a file that is there already.
const CHUNK_BYTES: usize = 256 << 10;

/// What to copy from where to where.
pub struct ExportRequest {
    /// Only keys that begin with these bytes; `/` is all.
    pub prefix: Vec<u8>,
    /// The directory for the blobs; it is created.
    pub into: PathBuf,
    /// Servers, and [directories](Volume::in_directory).
    pub volumes: Vec<Volume>,
    /// Whether keys that are unlinked are copied too.
    pub unlinked: bool,
    /// Take volumes of different clusters.
    pub adopt: bool,
    /// Where servers are found.
    pub addresses: Addresses,
    /// How patient to be with servers.
    pub timeouts: Timeouts,
    /// For the servers, `user:password`.
    pub userpass: Option<String>,
}

/// How many keys became of what.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Written by this run.
    pub written: u64,
    /// There already, with the right content.
    pub present: u64,
    /// Unlinked, and not asked for.
    pub left_out: u64,
}

/// Why there is no more to be done. What could not be copied of a single key is a problem in the `Progress` of the [`Control`].
#[derive(Debug, Error)]
pub enum ExportError {
    /// The directory can't be used.
    #[error("{}: {reason}", dir.display())]
    Destination {
        /// As given.
        dir: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// The export would become part of what is exported.
    #[error("{} lies in {volume}, which is to be read", dir.display())]
    Within {
        /// As given.
        dir: PathBuf,
        /// One of the directories that are read.
        volume: Volume,
    },
    /// The volumes are not of one cluster, so their keys have nothing to do with each other.
    #[error(
        "volume {volume} belongs to cluster {theirs}, another to {ours}; export them apart, or with --adopt as one"
    )]
    Foreign {
        /// A volume.
        volume: Volume,
        /// Its cluster.
        theirs: String,
        /// The cluster of the volumes before it.
        ours: String,
    },
    /// Somebody asked for an end.
    #[error("stopped; run it again, it goes on where it was")]
    Stopped,
    /// The disk is full, or read-only.
    #[error("{key}: {reason}; run it again when there is room, it goes on where it was")]
    Disk {
        /// The key whose blob it was.
        key: Key,
        /// What the system says.
        reason: String,
    },
}

/// What the threads share.
struct Shared<'a> {
    request: &'a ExportRequest,
    control: &'a Control,
    health: Arc<Health>,
    silent: Arc<Silent>,
    destination: Destination,
    next: AtomicUsize,
    written: AtomicU64,
    present: AtomicU64,
    left_out: AtomicU64,
}

/// What becomes of a blob whose content is verified.
enum Sink<'d> {
    Draft(Draft<'d>),
    /// It is there already; only its MD5 is wanted.
    Digest,
}

/// Why a replica was of no use.
enum CopyFault {
    Replica(String),
    Place(PlaceError),
}

/// Copies the blobs; blocks the calling thread. A failure sets the stop of `control`, which ends all threads.
pub fn run(request: &ExportRequest, control: &Control) -> Result<Exported, ExportError> {
    let dir = request.into.clone();
    let directories =
        request.volumes.iter().filter_map(|volume| Some((volume, volume.root().directory()?.to_owned())));
    for (volume, other) in directories {
        if is_within(&dir, &other) {
            return Err(ExportError::Within { dir, volume: volume.clone() });
        }
    }
    let destination = Destination::open(&dir).map_err(|reason| ExportError::Destination { dir, reason })?;
    let servers: Vec<Volume> =
        request.volumes.iter().filter(|volume| volume.root().directory().is_none()).cloned().collect();
    let shared = Shared {
        request,
        control,
        health: Arc::new(Health::found_at(&servers, request.addresses.clone())),
        silent: Arc::default(),
        destination,
        next: AtomicUsize::new(0),
        written: AtomicU64::new(0),
        present: AtomicU64::new(0),
        left_out: AtomicU64::new(0),
    };
    control.progress.begin("looking at the volumes", 0);
    let trees = actix_rt::System::new().block_on(shared.look())?;
    let folders = by_folder(&trees);
    control.progress.begin("copying", folders.len() as u64);
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let work = || actix_rt::System::new().block_on(shared.walk(&folders));
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let ends: Vec<_> =
            workers.into_iter().map(|worker| worker.join().expect("it does not panic")).collect();
        let failures = ends.into_iter().filter_map(Result::err);
        failures.min_by_key(|err| matches!(err, ExportError::Stopped)).map_or(Ok(()), Err)
    })?;
    shared.destination.finish();
    let count = |counter: AtomicU64| counter.into_inner();
    Ok(Exported {
        written: count(shared.written),
        present: count(shared.present),
        left_out: count(shared.left_out),
    })
}

impl Shared<'_> {
    fn walker(&self) -> Walker<'_> {
        let volumes = VolumeClient::new(self.request.timeouts, Arc::clone(&self.health));
        let userpass = Credentials::new(self.request.userpass.as_deref());
        let volumes = volumes.with_credentials(userpass);
        Walker::to_rescue(&self.request.prefix, volumes, Arc::clone(&self.silent), &self.control.progress)
    }

    /// The trees of all volumes, which must be of one cluster as far as they tell.
    async fn look(&self) -> Result<Vec<Tree>, ExportError> {
        let walker = self.walker();
        let mut ours: Option<String> = None;
        let mut trees = Vec::new();
        for volume in &self.request.volumes {
            // What can't be read is told by what follows.
            let theirs = walker.cluster(volume).await.unwrap_or(None);
            match (&ours, theirs.filter(|id| id.parse::<ClusterId>().is_ok())) {
                (Some(ours), Some(theirs)) if *ours != theirs && !self.request.adopt => {
                    return Err(ExportError::Foreign { volume: volume.clone(), theirs, ours: ours.clone() });
                }
                (None, theirs) => ours = theirs,
                (Some(_), _) => {}
            }
            match walker.trees(volume).await {
                Ok(found) => trees.extend(found),
                Err(err) => self.control.progress.report(Finding::unreachable(None, &err)),
            }
        }
        Ok(trees)
    }

    /// Takes folders, one after another, until none is left.
    async fn walk(&self, folders: &[(&str, Vec<&Replica>)]) -> Result<(), ExportError> {
        let walker = self.walker();
        while let Some((top, trees)) = folders.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let walked = self.folder(&walker, &format!("/{top}"), trees).await;
            if walked.is_err() {
                self.control.stop.store(true, Ordering::Relaxed);
            }
            walked?;
            self.control.progress.step();
        }
        Ok(())
    }

    async fn folder(&self, walker: &Walker<'_>, top: &str, trees: &[&Replica]) -> Result<(), ExportError> {
        let second = walker.second_level(top, trees).await;
        let second = second.unwrap_or_else(|err| {
            self.control.progress.report(Finding::unreachable(None, &err));
            BTreeMap::new()
        });
        let copies = stream::iter(second).map(Ok);
        copies
            .try_for_each_concurrent(FOLDERS_AT_ONCE, |(folder, trees)| async move {
                let mut parts = walker.parts(&folder, trees);
                loop {
                    if self.control.is_stopped() {
                        return Err(ExportError::Stopped);
                    }
                    let sightings = parts.next().await.unwrap_or_else(|err| {
                        self.control.progress.report(Finding::unreachable(None, &err));
                        None
                    });
                    let Some(sightings) = sightings else { return Ok(()) };
                    for (key, sighting) in sightings {
                        if !self.control.turn().await {
                            return Err(ExportError::Stopped);
                        }
                        self.key(walker, &key, &sighting).await?;
                        self.control.progress.add_keys(1);
                    }
                }
            })
            .await
    }

    /// Copies the blob of a key, if it has one.
    async fn key(&self, walker: &Walker<'_>, key: &Key, sighting: &Sighting) -> Result<(), ExportError> {
        let version = match decide(sighting) {
            Decision::Nothing => return Ok(()),
            Decision::Lost(_) | Decision::Empty => {
                let what = "no volume that can be read has its blob any more";
                self.control.progress.report(Finding::new(Kind::Missing, Some(key), None, what));
                return Ok(());
            }
            Decision::Blob(version) => version,
        };
        if version.state == State::Unlinked && !self.request.unlinked {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        match self.copy(walker, key, &version).await {
            Err(err) if err.is_of_the_disk() => {
                Err(ExportError::Disk { key: key.clone(), reason: err.to_string() })
            }
            Err(err) => {
                self.control.progress.problem(Some(key), None, err);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn copy(&self, walker: &Walker<'_>, key: &Key, version: &Version) -> Result<(), PlaceError> {
        let names = names_of(key);
        let place = self.destination.place(&names)?;
        let there = if place.is_taken { Some(digest_of(place.open()?).await?) } else { None };
        let is_known = |there: &(u64, Md5)| version.md5.is_some_and(|md5| md5 == there.1);
        if there.as_ref().is_some_and(is_known) {
            self.present.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if there.is_some() && version.md5.is_some() {
            return Err(PlaceError::InTheWay(format!("a different file, {},", names.join("/"))));
        }
        let mut faults = Vec::new();
        for seen in candidates(version) {
            match self.take_replica(walker, key, version, seen, &place, there).await {
                Ok(true) => {
                    self.told(key, version, &faults);
                    return Ok(());
                }
                Ok(false) => {
                    return Err(PlaceError::InTheWay(format!("a different file, {},", names.join("/"))));
                }
                Err(CopyFault::Place(err)) => return Err(err),
                Err(CopyFault::Replica(fault)) => faults.push(fault),
            }
        }
        if faults.is_empty() {
            faults.push("no replica has the size that is noted for it".to_owned());
        }
        self.control.progress.problem(Some(key), None, format_args!("not exported: {}", faults.join("; ")));
        Ok(())
    }

    /// What there is to say of a key that was copied.
    fn told(&self, key: &Key, version: &Version, faults: &[String]) {
        for fault in faults {
            self.control.progress.note(format_args!("{key}: {fault}; another replica was taken"));
        }
        if version.size.is_none() && version.md5.is_none() && version.contents.len() > 1 {
            let what =
                "its replicas differ in size and nothing tells which is right; most have the one exported";
            self.control.progress.report(Finding::new(Kind::Undecided, Some(key), None, what));
        }
    }

    /// Takes the blob of one replica. False if a different file is at its place.
    async fn take_replica(
        &self,
        walker: &Walker<'_>,
        key: &Key,
        version: &Version,
        seen: &Seen,
        place: &Place,
        there: Option<(u64, Md5)>,
    ) -> Result<bool, CopyFault> {
        let sink = match there {
            Some(_) => Sink::Digest,
            None => Sink::Draft(self.destination.draft().map_err(CopyFault::Place)?),
        };
        let (sink, content) = self.read(walker, key, seen, sink).await?;
        let fault =
            |what: String| CopyFault::Replica(format!("{}{} {what}", seen.replica, path_of(key, seen.file)));
        if content.0 != seen.size {
            return Err(fault(format!("has {} bytes and was listed with {}", content.0, seen.size)));
        }
        if let Some(md5) = version.md5.filter(|md5| *md5 != content.1) {
            return Err(fault(format!("is damaged: its MD5 is {} and should be {md5}", content.1)));
        }
        match sink {
            Sink::Digest => {
                let is_same = there == Some(content);
                self.present.fetch_add(is_same.into(), Ordering::Relaxed);
                Ok(is_same)
            }
            Sink::Draft(draft) => {
                let is_new = self.keep(draft, place).await.map_err(CopyFault::Place)?;
                self.written.fetch_add(is_new.into(), Ordering::Relaxed);
                Ok(is_new)
            }
        }
    }

    /// Reads a replica to its end; the size and the MD5 of what came.
    async fn read<'d>(
        &self,
        walker: &Walker<'_>,
        key: &Key,
        seen: &Seen,
        mut sink: Sink<'d>,
    ) -> Result<(Sink<'d>, (u64, Md5)), CopyFault> {
        let replica_fault = |err: VolumeError| CopyFault::Replica(err.to_string());
        let path = path_of(key, seen.file);
        let opened = walker.open(&seen.replica, &path).await.map_err(replica_fault)?;
        let mut body = opened.ok_or_else(|| CopyFault::Replica(format!("{}{path} is gone", seen.replica)))?;
        let (mut size, mut digest) = (0, md5::Context::new());
        while let Some(chunk) = body.next().await.map_err(replica_fault)? {
            size += chunk.len() as u64;
            digest.consume(&chunk);
            if let Sink::Draft(draft) = &mut sink {
                draft.write(&chunk).map_err(CopyFault::Place)?;
            }
            self.control.pay_for(chunk.len() as u64).await;
        }
        Ok((sink, (size, Md5(digest.finalize().0))))
    }

    async fn keep(&self, draft: Draft<'_>, place: &Place) -> Result<bool, PlaceError> {
        // A gigabyte takes its time, in which other downloads of this thread must go on.
        let file = draft.file()?;
        spawn_blocking(move || file.sync_data()).await.expect("it does not panic")?;
        draft.put(place)
    }
}

/// The files that can be the blob, the most credible first.
fn candidates(version: &Version) -> impl Iterator<Item = &Seen> {
    let is_credible = |size: u64| match (version.size, version.md5) {
        (Some(noted), _) => size == noted,
        (None, Some(_)) => true,
        (None, None) => size == version.contents[0].size,
    };
    let contents = version.contents.iter().filter(move |content| is_credible(content.size));
    contents.flat_map(|content| &content.files)
}

/// The size in bytes and the MD5 of a file of this machine.
async fn digest_of(mut file: File) -> io::Result<(u64, Md5)> {
    let digest = move || {
        let (mut size, mut digest, mut chunk) = (0, md5::Context::new(), vec![0; CHUNK_BYTES]);
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok((size, Md5(digest.finalize().0))),
                Ok(count) => {
                    size += count as u64;
                    digest.consume(&chunk[..count]);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    };
    spawn_blocking(digest).await.expect("it does not panic")
}
