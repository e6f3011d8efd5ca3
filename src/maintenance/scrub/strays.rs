//! The other direction: what lies on the volumes, and does the index know it? Walks all volumes as a rebuild does, and
//! holds what a rebuild would make of each key against its record.
//!
//! Files that no record names are removed only by a repair that was told to, and then only with care: none that is
//! younger than a day or older than the index, and nothing at all when there are suspiciously many.

use super::{RepairRequest, Scrub, fatal_or_not, patiently};
use crate::index::{Ending, IndexError, Reservation, Verb, now_us};
use crate::maintenance::rebuild::decide::{Decision, Sighting, decide};
use crate::maintenance::walk::{Tree, Walker, by_folder};
use crate::maintenance::{Finding, Kind};
use crate::model::{File, Key, PlacedFile, Record, Replica, State, Volume, VolumeMode, path_of};
use crate::store::{Store, StoreError, needs_sidecars};
use crate::volume::VolumeError;
use futures_util::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Folders that one thread works on at the same time, as in a rebuild.
const FOLDERS_AT_ONCE: usize = 8;

/// A file is given so much time to be named by a record, µs.
const A_DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

/// Of so many files one may be a stray before it looks as if the index were the one that is wrong.
const FILES_FOR_A_STRAY: u64 = 20;

/// A file that its key's record doesn't name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stray {
    kind: Kind,
    placed: PlacedFile,
}

/// What is done about what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// Count files and strays, and say nothing.
    Count,
    /// Say it.
    Tell,
    /// Remove strays; `force` also those that are older than the index.
    Remove { force: bool },
}

/// A walk over all volumes.
struct Walk {
    folders: Vec<(String, Vec<Replica>)>,
    /// Volumes that could not be read.
    away: Mutex<BTreeSet<Volume>>,
    aim: Aim,
    next: AtomicUsize,
    files: AtomicU64,
    strays: AtomicU64,
    /// Bytes of blobs on each volume.
    used: Mutex<BTreeMap<Volume, u64>>,
}

/// Finds, and with a repair that was told to removes, what the index doesn't know. Answers how many bytes of blobs lie on
/// each volume that could be walked.
pub(super) async fn find_all(scrub: &Arc<Scrub>) -> Result<BTreeMap<Volume, u64>, IndexError> {
    let (folders, away) = folders(scrub).await;
    let walk = async |aim| {
        let walk = Walk {
            folders: folders.clone(),
            away: Mutex::new(away.clone()),
            aim,
            next: AtomicUsize::new(0),
            files: AtomicU64::new(0),
            strays: AtomicU64::new(0),
            used: Mutex::default(),
        };
        let walk = Arc::new(walk);
        let phase = match aim {
            Aim::Count => "counting what lies on the volumes",
            Aim::Tell => "looking up what lies on the volumes",
            Aim::Remove { .. } => "removing what no record names",
        };
        scrub.control.progress.begin(phase, walk.folders.len() as u64);
        let shared = Arc::clone(&walk);
        scrub.on_threads(async move |scrub, store| shared.run(scrub, store).await).await?;
        walk.hold(scrub).await;
        Ok::<_, IndexError>(walk)
    };
    let aim = match scrub.request.repair {
        Some(RepairRequest { delete_orphans: true, force, .. }) => {
            let counted = walk(Aim::Count).await?;
            let (files, strays) =
                (counted.files.load(Ordering::Relaxed), counted.strays.load(Ordering::Relaxed));
            if force || strays * FILES_FOR_A_STRAY <= files {
                Aim::Remove { force }
            } else {
                let what = format_args!(
                    "{strays} of {files} files are in no record, which is more than 5 %; none is removed: \
                     is this the right index? --force removes them"
                );
                scrub.report(Finding::new(Kind::Other, None, None, what));
                Aim::Tell
            }
        }
        _ => Aim::Tell,
    };
    Ok(walk(aim).await?.used(scrub.parts.placer.volumes()))
}

/// The folders of all volumes by their first level, and the volumes that could not be read.
async fn folders(scrub: &Scrub) -> (Vec<(String, Vec<Replica>)>, BTreeSet<Volume>) {
    let walker = walker(scrub);
    let mut trees = Vec::new();
    let mut away = BTreeSet::new();
    for volume in scrub.parts.placer.volumes() {
        if scrub.parts.placer.mode_of(volume) == VolumeMode::Down {
            away.insert(volume.clone());
            // It is no finding, and nobody knows whether it is clean.
            scrub.unclean().insert(volume.clone());
            continue;
        }
        match trees_of(scrub, &walker, volume).await {
            Ok(found) => trees.extend(found),
            Err(err) => {
                away.insert(volume.clone());
                scrub.report(Finding::unreachable(None, &err));
            }
        }
    }
    let owned =
        |(name, trees): (&str, Vec<&Replica>)| (name.to_owned(), trees.into_iter().cloned().collect());
    (by_folder(&trees).into_iter().map(owned).collect(), away)
}

/// The trees of a volume, each of which is the one that it was.
async fn trees_of(scrub: &Scrub, walker: &Walker<'_>, volume: &Volume) -> Result<Vec<Tree>, VolumeError> {
    let client = scrub.parts.volumes();
    client.look(&volume.root()).await?;
    let trees = walker.trees(volume).await?;
    for tree in &trees {
        client.look(&tree.replica).await?;
    }
    Ok(trees)
}

fn walker(scrub: &Scrub) -> Walker<'_> {
    // What it can't read is looked at again with the key held.
    Walker::new(scrub.parts.volumes(), &scrub.unheard)
}

/// Holds a key, as soon as no client is writing it.
async fn hold(store: &Store, key: &Key) -> Result<Reservation, StoreError> {
    patiently(async || Ok(store.index().reserve(key, Verb::Hold).await?)).await
}

impl Walk {
    /// Takes folders until none is left.
    async fn run(&self, scrub: &Scrub, store: &Store) -> Result<(), IndexError> {
        let walker = walker(scrub);
        while let Some((top, trees)) = self.folders.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if scrub.control.is_stopped() {
                break;
            }
            let trees = self.present(scrub, trees.iter().collect());
            match walker.second_level(&format!("/{top}"), &trees).await {
                Ok(second) => {
                    let folders = stream::iter(second)
                        .map(|(folder, trees)| self.folder(scrub, store, &walker, folder, trees));
                    let results: Vec<_> = folders.buffer_unordered(FOLDERS_AT_ONCE).collect().await;
                    results.into_iter().collect::<Result<(), IndexError>>()?;
                }
                Err(err) => self.unreadable(scrub, &err),
            }
            scrub.control.progress.step();
        }
        Ok(())
    }

    /// What was listed counts only where a place still is what it was.
    async fn hold(&self, scrub: &Scrub) {
        let client = scrub.parts.volumes();
        let places: BTreeSet<&Replica> = self.folders.iter().flat_map(|(_, trees)| trees).collect();
        for place in places {
            if self.away().contains(&place.volume()) {
                continue;
            }
            if let Err(err) = client.look(place).await {
                self.unreadable(scrub, &err);
            }
        }
    }

    async fn folder(
        &self,
        scrub: &Scrub,
        store: &Store,
        walker: &Walker<'_>,
        folder: String,
        trees: Vec<&Replica>,
    ) -> Result<(), IndexError> {
        if !scrub.control.turn().await {
            return Ok(());
        }
        let mut parts = walker.parts(&folder, self.present(scrub, trees));
        loop {
            match parts.next().await {
                Ok(None) => return Ok(()),
                Ok(Some(sightings)) => {
                    for (key, sighting) in sightings {
                        self.key(scrub, store, key, sighting).await?;
                    }
                }
                Err(err) => {
                    self.unreadable(scrub, &err);
                    return Ok(());
                }
            }
        }
    }

    /// Those that can be read. One that hangs would hold up everything at every folder.
    fn present<'t>(&self, scrub: &Scrub, mut trees: Vec<&'t Replica>) -> Vec<&'t Replica> {
        trees.retain(|tree| {
            let is_up = scrub.parts.health.is_up(tree);
            if !is_up && self.away().insert(tree.volume()) && self.aim != Aim::Count {
                scrub.report(Finding::new(Kind::Unreachable, None, Some(tree), "the volume is down"));
            }
            is_up
        });
        trees
    }

    /// What was found on each of `volumes` that could be read to the end.
    fn used(&self, volumes: &[Volume]) -> BTreeMap<Volume, u64> {
        let (used, away) = (lock(&self.used), self.away());
        let read = volumes.iter().filter(|volume| !away.contains(volume));
        read.map(|volume| (volume.clone(), used.get(volume).copied().unwrap_or(0))).collect()
    }

    fn away(&self) -> MutexGuard<'_, BTreeSet<Volume>> {
        lock(&self.away)
    }

    fn is_whole(&self) -> bool {
        self.away().is_empty()
    }

    fn unreadable(&self, scrub: &Scrub, err: &VolumeError) {
        self.away().insert(err.replica().volume());
        if self.aim != Aim::Count {
            scrub.report(Finding::unreachable(None, err));
        }
    }

    async fn key(
        &self,
        scrub: &Scrub,
        store: &Store,
        key: Key,
        sighting: Sighting,
    ) -> Result<(), IndexError> {
        self.files.fetch_add((sighting.blobs.len() + sighting.noted_at.len()) as u64, Ordering::Relaxed);
        for seen in &sighting.blobs {
            *lock(&self.used).entry(seen.replica.volume()).or_default() += seen.size;
        }
        let record = match store.index().locate(&key).await {
            Ok(record) => record,
            // The first phase has said it.
            Err(IndexError::Record { .. }) => return Ok(()),
            Err(err) => return Err(err),
        };
        let is_noted = sighting.sidecars.len() == sighting.noted_at.len()
            && record.as_ref().is_none_or(|record| is_noted_everywhere(record, &sighting));
        let is_believed = is_noted && disbelief(record.as_ref(), &sighting, self.is_whole()).is_none();
        if is_believed && strays(record.as_ref(), &sighting).is_empty() {
            return Ok(());
        }
        let reservation = match fatal_or_not(hold(store, &key).await)? {
            Ok(reservation) => reservation,
            Err(err) => {
                scrub.report(Finding::new(Kind::Other, Some(&key), None, err));
                return Ok(());
            }
        };
        let record = reservation.previous().cloned();
        let is_expected = |stray: &Stray| reservation.is_left(stray.placed.file, &stray.placed.replica);
        let mut found: Vec<Stray> = strays(record.as_ref(), &sighting);
        found.retain(|stray| !is_expected(stray));
        self.strays.fetch_add(found.len() as u64, Ordering::Relaxed);
        if self.aim == Aim::Count {
            return reservation.release(Ending::default()).await;
        }
        // The folder was listed a while ago, and the key may have been written since.
        let mut wrong = Vec::new();
        if let Some(record) = &record {
            if let Some(words) = disbelief(Some(record), &sighting, self.is_whole())
                && !store.is_noted(&key, record, &sighting.noted_at).await
            {
                wrong.push((None, words));
            }
            if !is_noted {
                let mut places = record.replicas.clone();
                places.retain(|place| {
                    sighting.holds_blob_at(place) && !reservation.is_left(File::Sidecar, place)
                });
                let mute = store.mute_sidecars(&key, record, places).await;
                wrong.extend(mute.into_iter().map(|(place, what)| (Some(place), what.to_owned())));
            }
        }
        let removed = self.settle(scrub, store, &key, reservation, record.as_ref(), found).await;
        if let Err(err) = fatal_or_not(removed)? {
            scrub.report(Finding::new(Kind::Other, Some(&key), None, err));
        }
        match record.filter(|_| !wrong.is_empty()) {
            Some(record) => self.sidecars(scrub, store, &key, &record, &sighting.noted_at, wrong).await,
            None => Ok(()),
        }
    }

    /// Tells of strays or removes them, and ends the reservation.
    async fn settle(
        &self,
        scrub: &Scrub,
        store: &Store,
        key: &Key,
        reservation: Reservation,
        record: Option<&Record>,
        strays: Vec<Stray>,
    ) -> Result<(), StoreError> {
        let (mut removable, mut told, mut is_in_doubt) =
            (Vec::<Stray>::new(), Vec::<(Stray, String)>::new(), false);
        for stray in strays {
            let path = path_of(key, stray.placed.file);
            match store.volumes().stat(&stray.placed.replica, &path).await {
                Ok(None) => {}
                Ok(Some(stat)) => match self.objection(scrub, stat.mtime_us) {
                    None => removable.push(stray),
                    Some(objection) => told.push((stray, objection)),
                },
                Err(err) => {
                    is_in_doubt = true;
                    scrub.report(Finding::unreachable(Some(key), &err))
                }
            }
        }
        if let Some(elsewhere) = record.and_then(|record| store.not_in_use(record)) {
            let what = format!(
                "; it stays, as {elsewhere}, which its record names, may be this place under an earlier name"
            );
            told.extend(removable.drain(..).map(|stray| (stray, what.clone())));
        }
        if record.is_none()
            && (is_in_doubt || !self.is_whole() || told.iter().any(|(stray, _)| is_blob(stray)))
        {
            let (sidecars, blobs) = removable.into_iter().partition(|stray| !is_blob(stray));
            removable = blobs;
            let what = "; it stays, as a blob that it may be the tombstone of does";
            told.extend(Vec::from_iter(sidecars).into_iter().map(|stray| (stray, what.to_owned())));
        }
        // A replica that the index has forgotten may be the last one.
        let of_version = |stray: &&Stray| record.is_some_and(|record| is_of(stray.placed.file, record));
        let all = removable.iter().chain(told.iter().map(|(stray, _)| stray));
        let lost: Vec<Replica> = all.filter(of_version).map(|stray| stray.placed.replica.clone()).collect();
        let reservation = match scrub.request.repair {
            Some(repair) if !lost.is_empty() => {
                reservation.release(Ending::default()).await?;
                if take_back(scrub, store, key, &lost, repair).await? {
                    return Ok(());
                }
                hold(store, key).await?
            }
            _ => reservation,
        };
        if reservation.previous() != record {
            // It has changed meanwhile: that is for the next scrub.
            return Ok(reservation.release(Ending::default()).await?);
        }
        self.remove(scrub, store, key, reservation, removable, told).await
    }

    async fn remove(
        &self,
        scrub: &Scrub,
        store: &Store,
        key: &Key,
        reservation: Reservation,
        removable: Vec<Stray>,
        told: Vec<(Stray, String)>,
    ) -> Result<(), StoreError> {
        for (stray, objection) in told {
            let what = format!("{}{objection}", words(&stray));
            scrub.report(Finding::new(stray.kind, Some(key), Some(&stray.placed.replica), what));
        }
        let files = removable.iter().map(|stray| stray.placed.clone()).collect();
        let left = store.clear(reservation, files).await?;
        for stray in removable {
            let finding = Finding::new(stray.kind, Some(key), Some(&stray.placed.replica), words(&stray));
            scrub.report(Finding { mended: left == 0, ..finding });
        }
        Ok(())
    }

    /// Why a stray is not removed; `None` if it is.
    fn objection(&self, scrub: &Scrub, mtime_us: Option<u64>) -> Option<String> {
        let Aim::Remove { force } = self.aim else { return Some(String::new()) };
        match mtime_us {
            None => Some("; it stays, as nothing tells its age".into()),
            Some(mtime_us) if mtime_us + A_DAY_US > now_us() => {
                Some("; it stays, as it is younger than a day".into())
            }
            Some(mtime_us) if mtime_us < scrub.state.index_since_us() && !force => {
                Some("; it stays, as the index is younger; --force removes it".into())
            }
            Some(_) => None,
        }
    }

    async fn sidecars(
        &self,
        scrub: &Scrub,
        store: &Store,
        key: &Key,
        record: &Record,
        noted_at: &[Replica],
        wrong: Vec<(Option<Replica>, String)>,
    ) -> Result<(), IndexError> {
        let (mut mended, mut why_not) = (false, String::new());
        if scrub.request.repair.is_some() {
            let rewritten = patiently(async || store.rewrite_sidecars(key, noted_at).await).await;
            match fatal_or_not(rewritten)? {
                Ok(()) => mended = true,
                Err(err) => why_not = format!("; {err}"),
            }
        }
        for (place, what) in wrong {
            if place.is_none() {
                scrub.unclean().extend(record.replicas.iter().map(Replica::volume));
            }
            let finding = Finding::new(Kind::WrongSidecar, Some(key), place.as_ref(), what + &why_not);
            scrub.report(Finding { mended, ..finding });
        }
        Ok(())
    }
}

/// Makes a file that no record names a replica again, if it is the last one that is right, and restores the others.
async fn take_back(
    scrub: &Scrub,
    store: &Store,
    key: &Key,
    lost: &[Replica],
    repair: RepairRequest,
) -> Result<bool, StoreError> {
    let adopted = patiently(async || store.adopt(key, lost).await).await?;
    let Some(replica) = adopted else { return Ok(false) };
    let what = "the last replica that is right was in no record";
    let finding = Finding::new(Kind::Orphan, Some(key), Some(&replica), what);
    scrub.report(Finding { mended: true, ..finding });
    patiently(async || store.repair(key, repair.keep_old).await).await?;
    Ok(true)
}

fn is_blob(stray: &Stray) -> bool {
    stray.placed.file != File::Sidecar
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn words(stray: &Stray) -> &'static str {
    match stray.kind {
        Kind::Leftover => "a version that was overwritten is left here",
        Kind::StraySidecar => "a sidecar is left here",
        _ => "a blob lies here that no record names",
    }
}

fn is_of(file: File, record: &Record) -> bool {
    match file {
        File::Blob(generation) => generation == record.generation,
        File::Folded => record.generation.is_none(),
        File::Sidecar => false,
    }
}

/// The files of a key that its record doesn't name.
fn strays(record: Option<&Record>, sighting: &Sighting) -> Vec<Stray> {
    let is_named = |replica: &Replica| record.is_some_and(|record| record.replicas.contains(replica));
    let stray = |kind, file, replica: &Replica| Stray {
        kind,
        placed: PlacedFile { file, replica: replica.clone(), in_doubt: false },
    };
    let blobs = sighting.blobs.iter().filter_map(|seen| match record {
        Some(record) if !is_of(seen.file, record) => Some(stray(Kind::Leftover, seen.file, &seen.replica)),
        Some(_) if is_named(&seen.replica) => None,
        _ => Some(stray(Kind::Orphan, seen.file, &seen.replica)),
    });
    let sidecars = sighting.noted_at.iter().filter(|replica| !is_named(replica));
    blobs.chain(sidecars.map(|replica| stray(Kind::StraySidecar, File::Sidecar, replica))).collect()
}

/// Whether there is a sidecar beside every replica that was found, if the record needs them: one alone may be lost.
fn is_noted_everywhere(record: &Record, sighting: &Sighting) -> bool {
    let mut found = record.replicas.iter().filter(|place| sighting.holds_blob_at(place));
    !needs_sidecars(record) || found.all(|place| sighting.noted_at.contains(place))
}

/// What a rebuild would take the key for, if it is something else than the record says. With volumes missing it can't be
/// known what a rebuild would find there.
fn disbelief(record: Option<&Record>, sighting: &Sighting, is_whole: bool) -> Option<String> {
    let record = record?;
    let says = match decide(sighting) {
        Decision::Nothing | Decision::Empty | Decision::Lost(_) if !is_whole => return None,
        Decision::Nothing if !sighting.sidecars.is_empty() => "deleted",
        Decision::Nothing | Decision::Empty => "one that was never written",
        Decision::Lost(version) | Decision::Blob(version) if version.generation != record.generation => {
            "another version"
        }
        Decision::Lost(version) | Decision::Blob(version) if version.state != record.state => {
            match version.state {
                State::Live => "live",
                State::Unlinked => "unlinked",
            }
        }
        Decision::Lost(version) | Decision::Blob(version) => match (version.md5, record.md5) {
            (Some(noted), Some(md5)) if noted != md5 => "one with another MD5",
            _ => return None,
        },
    };
    Some(format!("a rebuild would take it for {says}, by its sidecars"))
}
