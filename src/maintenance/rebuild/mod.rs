//! Rebuild: the index made anew from what lies on the volumes.
//!
//! It is written into a directory beside the old one and exchanged for it only when it is complete, so that whatever
//! ends the job half-way leaves the old index as it was. Several threads walk the volumes, one writes.

pub(super) mod decide;
mod signs;

use crate::index::leveldb::{self, Replacement};
use crate::index::{
    MAX_WAITING_ENTRIES, files_of_record, founding_entries, identity_entries, table, waiting_entry,
};
use crate::maintenance::walk::{Tree, Walker, by_folder};
use crate::maintenance::{Control, Finding, Kind};
use crate::model::{Intent, Key, Md5, Placer, Record, Replica, State, Volume, path_of};
use crate::volume::{self, Addresses, ClusterId, Credentials, Health, Timeouts, VolumeClient, VolumeError};
use decide::{Content, Decision, Seen, Sighting, Version, decide, pending, record};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use signs::Signs;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use thiserror::Error;
use tokio::sync::mpsc;

/// Folders that one thread works on at the same time: enough that it never waits for one volume.
const FOLDERS_AT_ONCE: usize = 8;

/// Records that a thread gathers before it tells the writer: a folder has a few, and waking the writer for each folder costs
/// some 5 % of a rebuild.
const RECORDS_AT_ONCE: usize = 1000;

/// Batches on their way to the writer.
const BATCHES_WAITING: usize = 8;

/// Bytes written before they become a table. The records come in no order, so larger ones save merging; nobody waits
/// for a stall here.
const WRITE_BUFFER_BYTES: usize = 4 << 20;

/// What to rebuild from what.
pub struct RebuildRequest {
    /// The directory of the index.
    pub db: PathBuf,
    /// The cluster's volumes, which give the order of replicas in a record.
    pub placer: Placer,
    /// The volumes that are read; those of the placer without the ones that may be missing.
    pub volumes: Vec<Volume>,
    /// Subvolumes that may be missing as well.
    pub missing: BTreeSet<Replica>,
    /// Whether blobs whose MD5 nothing tells are read.
    pub checksum: bool,
    /// Whether the old index is removed in the end.
    pub discard_old: bool,
    /// Take volumes of other clusters too.
    pub adopt: bool,
    /// Where volumes are found.
    pub addresses: Addresses,
    /// How patient to be with volumes.
    pub timeouts: Timeouts,
    /// For the volumes, `user:password`.
    pub userpass: Option<String>,
}

/// What was made.
#[derive(Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Where the old index is kept.
    pub old: Option<PathBuf>,
}

/// Why the index was not rebuilt; the old one is as it was.
#[derive(Debug, Error)]
pub enum RebuildError {
    /// A volume or a listing can't be read.
    #[error("{0}; nothing was changed. --allow-missing VOLUME goes on without a volume")]
    Volume(#[from] VolumeError),
    /// The index can't be written.
    #[error(transparent)]
    Table(#[from] table::TableError),
    /// The volumes are not of one cluster.
    #[error("volume {volume} belongs to cluster {}, another to {}; --adopt takes both", theirs.escape_debug(), ours.escape_debug())]
    Foreign {
        /// A volume.
        volume: Volume,
        /// Its cluster.
        theirs: String,
        /// The cluster of the volumes before it.
        ours: String,
    },
    /// It belongs to somebody, and nobody can tell to whom; a server refuses it too.
    #[error("volume {volume} has no cluster's id but \"{}\"; --adopt takes it", found.escape_debug())]
    NoId {
        /// The volume.
        volume: Volume,
        /// What its file says.
        found: String,
    },
    /// A place isn't the one that it should be: a drive that isn't mounted, or another's.
    #[error("{place}: {reason}; nothing was changed. --allow-missing {place} goes on without it")]
    Stranger {
        /// The place.
        place: Replica,
        /// What it is instead.
        reason: String,
    },
    /// Two places have one id.
    #[error("{one} and {other} are the same volume, or one is a clone of the other; leave one of them out")]
    Doubled {
        /// One.
        one: Replica,
        /// The other.
        other: Replica,
    },
    /// Somebody asked for an end.
    #[error("stopped; nothing was changed")]
    Stopped,
    /// The system has no thread or runtime left.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What the walking threads share.
struct Shared<'a> {
    request: &'a RebuildRequest,
    control: &'a Control,
    health: Arc<Health>,
    next: AtomicUsize,
    /// The slot of the next intent.
    slot: AtomicU32,
}

/// Rebuilds the index; blocks the calling thread. A failure sets the stop of `control`, which ends all threads.
pub fn run(request: &RebuildRequest, control: &Control) -> Result<Rebuilt, RebuildError> {
    let health = Arc::new(Health::found_at(&request.volumes, request.addresses.clone()));
    let shared = Shared { request, control, health, next: AtomicUsize::new(0), slot: AtomicU32::new(0) };
    let (sender, receiver) = mpsc::channel(BATCHES_WAITING);
    std::thread::scope(|scope| {
        let (begun, beginning) = std::sync::mpsc::sync_channel(1);
        let write = move || write(request, receiver, begun);
        let writer = std::thread::Builder::new().name("index".into()).spawn_scoped(scope, write)?;
        // Before any volume is asked: an index that is in use ends the job at once. A writer that ended says why below.
        let filled = beginning.recv().map_err(|_| RebuildError::Stopped).and_then(|()| shared.fill(sender));
        let written = writer.join().expect("the writer does not panic");
        match (filled, written) {
            (Err(err), Ok(_)) => Err(err),
            (_, written) => Ok(Rebuilt { old: written? }),
        }
    })
}

/// What the walkers tell the writer.
enum Batch {
    Records(Vec<table::Change>),
    /// There are no more; without it the index is not exchanged.
    Complete,
}

/// What a walker has for the writer.
struct Outbox<'a> {
    gathered: RefCell<Vec<table::Change>>,
    sender: &'a mpsc::Sender<Batch>,
}

impl Outbox<'_> {
    async fn add(&self, changes: Vec<table::Change>) -> Result<(), RebuildError> {
        self.gathered.borrow_mut().extend(changes);
        if self.gathered.borrow().len() < RECORDS_AT_ONCE { Ok(()) } else { self.send().await }
    }

    /// Tells the writer, if there is anything.
    async fn send(&self) -> Result<(), RebuildError> {
        let mut gathered = self.gathered.take();
        if gathered.is_empty() {
            return Ok(());
        }
        // The engine's memtable finds each one's place where it found that of the one before.
        gathered.sort_by(|one, other| one.key().cmp(other.key()));
        self.sender.send(Batch::Records(gathered)).await.map_err(|_| RebuildError::Stopped)
    }
}

/// Writes what comes, and puts the new index in place at the end. Its own end closes the channel, which ends the walkers.
fn write(
    request: &RebuildRequest,
    mut receiver: mpsc::Receiver<Batch>,
    begun: std::sync::mpsc::SyncSender<()>,
) -> Result<Option<PathBuf>, table::TableError> {
    let options = leveldb::Options { write_buffer_bytes: WRITE_BUFFER_BYTES, ..leveldb::Options::default() };
    let mut index = Replacement::begin(&request.db, options)?;
    let _ = begun.send(());
    while let Some(batch) = receiver.blocking_recv() {
        match batch {
            Batch::Records(changes) => index.write(&changes)?,
            Batch::Complete => return index.finish(request.discard_old),
        }
    }
    index.discard();
    Ok(None)
}

impl Shared<'_> {
    fn walker(&self) -> Walker<'_> {
        let volumes = VolumeClient::new(self.request.timeouts, Arc::clone(&self.health));
        let userpass = Credentials::new(self.request.userpass.as_deref());
        Walker::new(volumes.with_credentials(userpass), &self.control.progress)
    }

    /// Reads the volumes with all cores, and tells the writer what is to be in the index.
    fn fill(&self, sender: mpsc::Sender<Batch>) -> Result<(), RebuildError> {
        let progress = &self.control.progress;
        progress.begin("looking at the volumes", 0);
        let (cluster, trees, signs) = actix_rt::System::new().block_on(self.look())?;
        self.health.set_identities(signs.identities());
        // Should the writer have ended, it tells why.
        let tell = |batch| sender.blocking_send(batch).map_err(|_| RebuildError::Stopped);
        if let Some(cluster) = cluster {
            tell(Batch::Records(founding_entries(&cluster).into()))?;
        }
        tell(Batch::Records(identity_entries(&signs.identities())))?;
        let folders = by_folder(&trees);
        progress.begin("reading the volumes", folders.len() as u64);
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let walk = || {
            let walked = actix_rt::System::new().block_on(self.walk(&folders, &sender));
            if walked.is_err() {
                self.control.stop.store(true, Ordering::Relaxed);
            }
            walked
        };
        let walked: Vec<Result<(), RebuildError>> = std::thread::scope(|scope| {
            let walkers: Vec<_> = (0..threads).map(|_| scope.spawn(walk)).collect();
            walkers.into_iter().map(|walker| walker.join().expect("a walker does not panic")).collect()
        });
        // Who was only stopped by another's failure says nothing new.
        let failures = walked.into_iter().filter_map(Result::err);
        if let Some(err) = failures.min_by_key(|err| matches!(err, RebuildError::Stopped)) {
            return Err(err);
        }
        self.report_left_out();
        actix_rt::System::new().block_on(async { signs.hold(&self.walker()).await })?;
        progress.begin("completing the index", 0);
        tell(Batch::Complete)
    }

    /// What is stored under a key whose tombstones nobody waits for would be hidden by them at the next rebuild.
    fn report_left_out(&self) {
        let left_out = self.slot.load(Ordering::Relaxed).saturating_sub(MAX_WAITING_ENTRIES);
        if left_out > 0 {
            let what = format_args!(
                "what is to be removed of {left_out} keys has no room in the index; have mkv repair --delete-orphans --force \
                 remove it before they are used again"
            );
            self.control.progress.problem(None, None, what);
        }
    }

    /// Which cluster the volumes belong to, the trees of all of them, and which ones they are.
    async fn look(&self) -> Result<(Option<String>, Vec<Tree>, Signs), RebuildError> {
        let walker = self.walker();
        let mut ours: Option<String> = None;
        let (mut trees, mut signs) = (Vec::new(), Signs::default());
        for volume in &self.request.volumes {
            let theirs = walker.cluster(volume).await?;
            let is_id = |id: &String| id.parse::<ClusterId>().is_ok();
            if let Some(found) = theirs.as_ref().filter(|id| !is_id(id) && !self.request.adopt) {
                return Err(RebuildError::NoId { volume: volume.clone(), found: found.clone() });
            }
            match (&ours, theirs.filter(is_id)) {
                (Some(ours), Some(theirs)) if *ours != theirs && !self.request.adopt => {
                    return Err(RebuildError::Foreign { volume: volume.clone(), theirs, ours: ours.clone() });
                }
                (None, theirs) => ours = theirs,
                (Some(_), _) => {}
            }
            let mut found = walker.trees(volume).await?;
            signs.read(&walker, volume, &found, &self.request.missing).await?;
            found.retain(|tree| !self.request.missing.contains(&tree.replica));
            trees.extend(found);
        }
        Ok((ours, trees, signs))
    }

    /// Takes folders, one after another, until none is left.
    async fn walk(
        &self,
        folders: &[(&str, Vec<&Replica>)],
        sender: &mpsc::Sender<Batch>,
    ) -> Result<(), RebuildError> {
        let walker = self.walker();
        let outbox = Outbox { gathered: RefCell::default(), sender };
        while let Some((top, trees)) = folders.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let second = walker.second_level(&format!("/{top}"), trees).await?;
            stream::iter(second)
                .map(Ok)
                .try_for_each_concurrent(FOLDERS_AT_ONCE, |(folder, trees)| {
                    self.folder(&walker, folder, trees, &outbox)
                })
                .await?;
            self.control.progress.step();
        }
        outbox.send().await
    }

    async fn folder(
        &self,
        walker: &Walker<'_>,
        folder: String,
        trees: Vec<&Replica>,
        outbox: &Outbox<'_>,
    ) -> Result<(), RebuildError> {
        if self.control.is_stopped() {
            return Err(RebuildError::Stopped);
        }
        let mut parts = walker.parts(&folder, trees);
        while let Some(sightings) = parts.next().await? {
            let mut changes = Vec::new();
            for (key, sighting) in sightings {
                if !self.control.turn().await {
                    return Err(RebuildError::Stopped);
                }
                changes.extend(self.entries(walker, key, &sighting).await?);
                self.control.progress.add_keys(1);
            }
            outbox.add(changes).await?;
        }
        Ok(())
    }

    /// The index entries of a key: its record, if it has one, and what is still to be removed of it.
    async fn entries(
        &self,
        walker: &Walker<'_>,
        key: Key,
        sighting: &Sighting,
    ) -> Result<Vec<table::Change>, RebuildError> {
        let version = match decide(sighting) {
            Decision::Nothing => return Ok(Vec::from_iter(self.intent(key, sighting, None))),
            Decision::Lost(version) => {
                let what = "no volume has its blob any more; the new index has it as missing";
                self.tell(Kind::Missing, &key, None, what);
                // Its sidecars lie where its replicas were, and a blob that isn't found is no reason to forget a key.
                let mut places = sighting.noted_at.clone();
                places.extend(self.presumed(&key, places.len()));
                let record = record(&key, &version, places, version.md5, &self.request.placer);
                return Ok(vec![entry(&key, &record)]);
            }
            Decision::Empty => {
                let what = "all its files are empty, and no blob is; it is not in the new index";
                self.tell(Kind::Missing, &key, None, what);
                return Ok(Vec::new());
            }
            Decision::Blob(version) => version,
        };
        for replica in &version.empty {
            self.tell(Kind::Corrupt, &key, Some(replica), "an empty file, not taken for a replica");
        }
        let (content, md5) = self.content(walker, &key, &version).await?;
        for seen in version.contents.iter().filter(|other| *other != content).flat_map(|other| &other.files) {
            let what =
                format_args!("{} bytes instead of {}, not taken for a replica", seen.size, content.size);
            self.tell(Kind::Corrupt, &key, Some(&seen.replica), what);
        }
        let found = content.files.iter().map(|seen| seen.replica.clone());
        let replicas = found.chain(self.presumed(&key, content.files.len())).collect();
        let record = record(&key, &version, replicas, md5, &self.request.placer);
        Ok(std::iter::once(entry(&key, &record)).chain(self.intent(key, sighting, Some(&record))).collect())
    }

    /// Where a key of which `found` replicas were found has the others, if volumes that may be missing have them: in their
    /// places there. The record names them, so that what is removed or replaced without those volumes doesn't come back with them.
    fn presumed(&self, key: &Key, found: usize) -> Vec<Replica> {
        let placer = &self.request.placer;
        let wanted = placer.replicas().saturating_sub(found);
        if wanted == 0 {
            // As for almost every key: its placement isn't computed for nothing.
            return Vec::new();
        }
        let mut places = placer.placement(key.as_bytes());
        places.retain(|place| self.is_missing(place));
        places.truncate(wanted);
        places
    }

    fn is_missing(&self, place: &Replica) -> bool {
        !self.request.volumes.contains(&place.volume()) || self.request.missing.contains(place)
    }

    fn tell(&self, kind: Kind, key: &Key, place: Option<&Replica>, what: impl fmt::Display) {
        self.control.progress.report(Finding::new(kind, Some(key), place, what));
    }

    /// What is to be removed of a key, as an intent. A key that was deleted waits for the volumes that are missing too:
    /// as long as they may have something of it, its tombstones stay.
    fn intent(&self, key: Key, sighting: &Sighting, record: Option<&Record>) -> Option<table::Change> {
        let mut files = pending(sighting, record);
        if files.is_empty() {
            return None;
        }
        if record.is_none() {
            let mut places = self.request.placer.ranked(key.as_bytes());
            places.retain(|place| self.is_missing(place));
            let missing = Record { state: State::Live, md5: None, generation: None, replicas: places };
            files.extend(files_of_record(&key, &missing));
        }
        let time_us = sighting.sidecars.iter().map(|sidecar| sidecar.state_time).max().unwrap_or(0);
        let intent = Intent { key, time_us, not_before_us: 0, files };
        waiting_entry(self.slot.fetch_add(1, Ordering::Relaxed), &intent)
    }

    /// Which content is the blob's, and its MD5.
    async fn content<'v>(
        &self,
        walker: &Walker<'_>,
        key: &Key,
        version: &'v Version,
    ) -> Result<(&'v Content, Option<Md5>), RebuildError> {
        let first = &version.contents[0];
        let is_clear = version.size_is_known() || (version.size.is_none() && version.contents.len() == 1);
        let (kind, what) = match (version.md5, version.size) {
            (Some(md5), _) if is_clear => return Ok((first, Some(md5))),
            (Some(md5), _) => {
                for content in &version.contents {
                    if self.has(walker, key, content, md5).await? {
                        return Ok((content, Some(md5)));
                    }
                }
                (Kind::Missing, "no replica has the content that was stored".to_owned())
            }
            (None, _) if is_clear && self.request.checksum => {
                return Ok((first, self.digest(walker, key, first).await?));
            }
            (None, _) if is_clear => return Ok((first, None)),
            (None, Some(size)) => {
                (Kind::Missing, format!("no replica has the {size} bytes that its sidecar tells"))
            }
            (None, None) => {
                let what =
                    "its replicas differ in size and nothing tells which is right; most have the one taken";
                (Kind::Undecided, what.to_owned())
            }
        };
        self.tell(kind, key, None, what);
        Ok((first, version.md5))
    }

    /// Whether a replica of a content has this MD5; of two of one size, one may be damaged.
    async fn has(
        &self,
        walker: &Walker<'_>,
        key: &Key,
        content: &Content,
        md5: Md5,
    ) -> Result<bool, RebuildError> {
        for seen in &content.files {
            if self.digest_of(walker, key, seen).await? == md5 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The MD5 that more than half of a content's replicas have, those on missing volumes counted. All are read: a bit may have
    /// flipped in any one, and a repair makes all of them what the index says.
    async fn digest(
        &self,
        walker: &Walker<'_>,
        key: &Key,
        content: &Content,
    ) -> Result<Option<Md5>, RebuildError> {
        let replicas = content.files.len() + self.presumed(key, content.files.len()).len();
        if 2 * content.files.len() <= replicas {
            // Whatever they have, they are not most. A scrub reads them when the others are back.
            return Ok(None);
        }
        let reads = content.files.iter().map(|seen| self.digest_of(walker, key, seen));
        let (mut digests, mut failures) = (Vec::new(), Vec::new());
        for (seen, read) in content.files.iter().zip(join_all(reads).await) {
            match read {
                Ok(md5) => digests.push((&seen.replica, md5)),
                Err(err) => failures.push(err),
            }
        }
        if digests.is_empty()
            && let Some(err) = failures.pop()
        {
            return Err(err.into());
        }
        for err in failures {
            self.control.progress.report(Finding::unreachable(Some(key), &err));
        }
        let count = |md5: Md5| digests.iter().filter(|(_, other)| *other == md5).count();
        let most = digests.iter().map(|(_, md5)| *md5).find(|md5| 2 * count(*md5) > replicas);
        match most {
            Some(most) => {
                for (replica, md5) in digests.iter().filter(|(_, md5)| *md5 != most) {
                    let what = format_args!("its MD5 is {md5}, and most replicas have {most}");
                    self.tell(Kind::Corrupt, key, Some(replica), what);
                }
            }
            None => {
                let what = "not more than half of its replicas have one MD5; the new index has none";
                self.tell(Kind::Undecided, key, None, what);
            }
        }
        Ok(most)
    }

    async fn digest_of(&self, walker: &Walker<'_>, key: &Key, seen: &Seen) -> Result<Md5, VolumeError> {
        let path = path_of(key, seen.file);
        let read = match walker.open(&seen.replica, &path).await? {
            Some(body) => body.digest(&async |bytes| self.control.pay_for(bytes).await).await?,
            None => volume::Content { size: 0, md5: None },
        };
        match read.md5 {
            Some(md5) if read.size == seen.size => Ok(md5),
            _ => {
                let reason = format!("it has {} bytes and was listed with {}", read.size, seen.size);
                Err(VolumeError::NoListing { replica: seen.replica.clone(), path, reason })
            }
        }
    }
}

fn entry(key: &Key, record: &Record) -> table::Change {
    table::Change::Put { key: key.as_bytes().to_vec(), value: record.to_value() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{File, Sidecar, SidecarState};
    use std::time::Duration;

    #[test]
    fn removals_for_which_there_is_no_room_are_told() {
        let volume: Volume = "a:1".parse().unwrap();
        let request = RebuildRequest {
            missing: BTreeSet::new(),
            addresses: Addresses::default(),
            db: PathBuf::new(),
            placer: Placer::new(vec![volume.clone()], 1, 1),
            volumes: vec![volume.clone()],
            checksum: false,
            discard_old: false,
            adopt: false,
            timeouts: Timeouts::for_jobs(Duration::from_secs(1)),
            userpass: None,
        };
        let control = Control::default();
        let shared = Shared {
            request: &request,
            control: &control,
            health: Arc::new(Health::new(&[])),
            next: AtomicUsize::new(0),
            slot: AtomicU32::new(MAX_WAITING_ENTRIES - 1),
        };
        let gone = br#"{"state":"deleted","state_time":1}"#;
        let sighting = Sighting {
            blobs: vec![Seen { replica: volume.root(), file: File::Blob(None), size: 1 }],
            sidecars: vec![Sidecar::parse(gone).unwrap()],
            noted_at: vec![volume.root()],
        };
        assert_eq!(sighting.sidecars[0].state, SidecarState::Deleted);
        for (has_room, problems) in [(true, 0), (false, 1)] {
            let entry = shared.intent(Key::new(*b"/a").unwrap(), &sighting, None);
            shared.report_left_out();
            assert_eq!((entry.is_some(), control.progress.problems()), (has_room, problems));
        }
    }
}
