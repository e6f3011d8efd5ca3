//! What the server remembers beside the index, in the file `DIR.state`: what the last scrubs found, and since when there is
//! this index. JSON, written whole and exchanged by a rename. It may be thrown away: nothing was ever scrubbed then.
//!
//! What the operator wants of each volume stands in the index, and comes with it wherever it is moved. The file has a copy,
//! from which an index that was just rebuilt, or that an earlier version wrote, takes it over.

use super::MaintenanceError;
use super::finding::Kind;
use crate::index::{Index, VolumeEntry, now_us};
use crate::model::{Placer, Volume, VolumeMode};
use log::{info, warn};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::sync::Mutex as AsyncMutex;

/// Why it can't be kept.
#[derive(Debug, Error)]
#[error("{path}: {source}")]
pub struct StateError {
    /// The file.
    path: PathBuf,
    /// What the system says.
    source: io::Error,
}

/// Everything that is remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remembered {
    /// Volumes that are not simply alive.
    pub volumes: BTreeMap<String, VolumeMode>,
    /// Volumes that are gone for good.
    pub forgotten: BTreeSet<String>,
    /// Volumes that are older copies of themselves.
    pub older: BTreeSet<String>,
    /// The last scrub that came to its end.
    pub last_scrub: Option<ScrubSummary>,
    /// When the last scrub began that read everything and came to its end, µs since 1970; 0 for never.
    pub read_us: u64,
    /// When each volume was last found clean.
    pub clean: BTreeMap<String, Clean>,
    /// How much the last scrub that walked all of a volume found there.
    pub used: BTreeMap<String, Used>,
    /// Where a scrub that was begun by itself goes on.
    pub scrub_at: Option<ScrubPosition>,
    /// Which directory the index was, and since when.
    index: Option<Birth>,
}

impl Remembered {
    /// As [`Remembered::read_us`], also in a file that doesn't tell it yet.
    pub(super) fn last_read_us(&self) -> u64 {
        let last = self.last_scrub.as_ref().filter(|last| last.contents);
        last.map_or(0, |last| last.begun_us).max(self.read_us)
    }
}

impl Remembered {
    /// What is wanted of volumes, as the index has it.
    fn entries(&self) -> BTreeMap<String, VolumeEntry> {
        let mut entries = BTreeMap::<String, VolumeEntry>::new();
        for (name, mode) in self.volumes.iter().filter(|(_, mode)| **mode != VolumeMode::Alive) {
            entries.entry(name.clone()).or_default().mode = *mode;
        }
        for name in &self.forgotten {
            entries.entry(name.clone()).or_default().forgotten = true;
        }
        for name in &self.older {
            entries.entry(name.clone()).or_default().older = true;
        }
        entries
    }

    fn set_entries(&mut self, entries: &BTreeMap<String, VolumeEntry>) {
        let of_mode = entries.iter().filter(|(_, entry)| entry.mode != VolumeMode::Alive);
        self.volumes = of_mode.map(|(name, entry)| (name.clone(), entry.mode)).collect();
        let forgotten = entries.iter().filter(|(_, entry)| entry.forgotten);
        self.forgotten = forgotten.map(|(name, _)| name.clone()).collect();
        let older = entries.iter().filter(|(_, entry)| entry.older);
        self.older = older.map(|(name, _)| name.clone()).collect();
    }
}

/// What a scrub found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScrubSummary {
    /// When it began, µs since 1970.
    pub begun_us: u64,
    /// When it ended, µs since 1970.
    pub ended_us: u64,
    /// Whether blobs were read, or only asked for their sizes.
    pub contents: bool,
    /// Keys that were looked at.
    pub keys: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What was found, by kind, mended or not.
    pub findings: BTreeMap<Kind, u64>,
    /// How many findings were left as they were.
    pub left: u64,
}

/// When a volume was last found clean, µs since 1970; 0 for never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clean {
    /// Everything on it was read.
    pub contents_us: u64,
    /// Everything on it was asked for its size.
    pub sizes_us: u64,
}

/// What lay on a volume at a time. Sidecars, some hundred bytes each, are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Bytes of all blobs, also of those that no record names.
    pub bytes: u64,
    /// When the walk over the volume had ended, µs since 1970.
    pub at_us: u64,
}

/// A scrub that isn't done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubPosition {
    /// When it began, µs since 1970.
    pub begun_us: u64,
    /// The last key that is done, percent-encoded.
    pub key: String,
    /// Volumes about which something was found so far.
    #[serde(default)]
    pub unclean: BTreeSet<String>,
    /// What was found so far, by kind, mended or not.
    #[serde(default)]
    pub findings: BTreeMap<Kind, u64>,
    /// How many findings were left so far.
    #[serde(default)]
    pub left: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Birth {
    inode: u64,
    /// When the directory was made, if the file system knows: a number is used again.
    created_us: Option<u64>,
    since_us: u64,
}

/// The file, and what is in it.
pub struct StateFile {
    path: PathBuf,
    now: Mutex<Remembered>,
    /// Held while a volume's mode is set.
    modes: AsyncMutex<()>,
}

impl StateFile {
    /// What is remembered of the index in `db`, which the caller holds with `index`, and what the index knows of volumes. A
    /// file that can't be understood is as good as none, and said.
    pub async fn open(db: &Path, index: &Index) -> Result<StateFile, MaintenanceError> {
        let (path, read) = StateFile::read(db)?;
        let file = StateFile::of(db, path, read.unwrap_or_default())?;
        let (remembered, known) = (file.get(), index.volume_entries().await?);
        match known {
            None => index.set_volume_entries(remembered.entries()).await?,
            Some(known) if known == remembered.entries() => {}
            Some(known) => {
                info!(
                    "{} is written anew: what is wanted of volumes stands in the index",
                    file.path.display()
                );
                file.change(|now| now.set_entries(&known))?;
            }
        }
        Ok(file)
    }

    /// The file's path, and what is in it. It lies beside the directory itself, whatever links lead there.
    fn read(db: &Path) -> Result<(PathBuf, Option<Remembered>), StateError> {
        let beside = |dir: &Path| {
            // Without a slash at its end, which would make it a file within.
            let mut name = dir.components().as_path().as_os_str().to_owned();
            name.push(".state");
            PathBuf::from(name)
        };
        let path =
            beside(&std::fs::canonicalize(db).map_err(|source| StateError { path: db.into(), source })?);
        // Earlier versions had it beside the link.
        for path in [&path, &beside(db)] {
            match std::fs::read(path) {
                Ok(json) => match serde_json::from_slice(&json) {
                    Ok(remembered) => return Ok((path.clone(), Some(remembered))),
                    Err(err) => warn!("{} can't be understood and is begun anew: {err}", path.display()),
                },
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(StateError { path: path.clone(), source }),
            }
        }
        Ok((path, None))
    }

    fn of(db: &Path, path: PathBuf, mut now: Remembered) -> Result<StateFile, StateError> {
        let fault = |source| StateError { path: path.clone(), source };
        let metadata = std::fs::metadata(db).map_err(fault)?;
        let birth = Birth {
            inode: metadata.ino(),
            created_us: metadata.created().ok().map(since_1970_us),
            since_us: now_us(),
        };
        let same = |known: Birth| (known.inode, known.created_us) == (birth.inode, birth.created_us);
        let is_known = now.index.is_some_and(same);
        if !is_known {
            now.index = Some(birth);
        }
        let file = StateFile { path, now: Mutex::new(now), modes: AsyncMutex::default() };
        if !is_known {
            file.change(|_| {})?;
        }
        Ok(file)
    }

    /// What is remembered.
    pub fn get(&self) -> Remembered {
        self.lock().clone()
    }

    /// Since when there is this index, µs since 1970. A rebuilt one is a new one.
    pub fn index_since_us(&self) -> u64 {
        self.lock().index.map_or(u64::MAX, |birth| birth.since_us)
    }

    /// Changes what is remembered; returns when that is durable.
    pub fn change(&self, change: impl FnOnce(&mut Remembered)) -> Result<(), StateError> {
        let mut now = self.lock();
        change(&mut now);
        let json = serde_json::to_vec_pretty(&*now).expect("it has only strings and numbers");
        self.write(&json).map_err(|source| StateError { path: self.path.clone(), source })
    }

    /// Has `placer` know the modes that are remembered, and what was forgotten and isn't used again.
    pub async fn apply(&self, index: &Index, placer: &Placer) -> Result<(), MaintenanceError> {
        self.apply_modes(placer);
        let forgotten: Vec<Volume> =
            self.lock().forgotten.iter().filter_map(|name| name.parse().ok()).collect();
        for volume in forgotten {
            let is_ours = placer.volumes().contains(&volume);
            if !is_ours || placer.mode_of(&volume) == VolumeMode::Down {
                placer.forget(&volume);
            } else {
                // It is used again.
                self.keep(index, &volume, |now| now.forgotten.retain(|name| name != volume.as_str())).await?;
            }
        }
        Ok(())
    }

    /// Changes what is remembered of a volume, in the index and in the file.
    async fn keep(
        &self,
        index: &Index,
        volume: &Volume,
        change: impl FnOnce(&mut Remembered),
    ) -> Result<(), MaintenanceError> {
        let mut wanted = self.get();
        change(&mut wanted);
        let entry = wanted.entries().remove(volume.as_str()).unwrap_or_default();
        index.set_volume_entries(BTreeMap::from([(volume.to_string(), entry)])).await?;
        Ok(self.change(|now| {
            now.volumes = wanted.volumes;
            now.forgotten = wanted.forgotten;
            now.older = wanted.older;
        })?)
    }

    fn apply_modes(&self, placer: &Placer) {
        for (name, mode) in &self.lock().volumes {
            let is_ours = name.parse::<Volume>().is_ok_and(|volume| placer.set_mode(&volume, *mode));
            if !is_ours {
                warn!("{name} is remembered as {mode} and is none of the volumes");
            }
        }
    }

    /// Sets what the operator wants of a volume, and has placement know it. Refused when too few volumes would be left
    /// for new blobs.
    pub async fn set_mode(
        &self,
        index: &Index,
        placer: &Placer,
        volume: &Volume,
        mode: VolumeMode,
    ) -> Result<(), MaintenanceError> {
        if !placer.volumes().contains(volume) {
            return Err(MaintenanceError::NoSuchVolume(volume.clone()));
        }
        // Two at once could each count on the other's.
        let _one_at_a_time = self.modes.lock().await;
        let takes_blobs = |other: &&Volume| *other != volume && placer.mode_of(other) == VolumeMode::Alive;
        let left = placer.volumes().iter().filter(takes_blobs).count();
        if mode != VolumeMode::Alive && left < placer.replicas() {
            return Err(MaintenanceError::TooFewVolumes {
                volume: volume.clone(),
                left,
                replicas: placer.replicas(),
            });
        }
        self.keep(index, volume, |now| {
            match mode {
                VolumeMode::Alive => drop(now.volumes.remove(volume.as_str())),
                mode => drop(now.volumes.insert(volume.to_string(), mode)),
            }
            now.older.remove(volume.as_str());
            if mode != VolumeMode::Down {
                now.forgotten.remove(volume.as_str());
            }
        })
        .await?;
        // Who says what a volume is for has taken it as it is, also if it is an older copy of itself.
        if let Some(id) = index.identities().await?.of(&volume.root()) {
            index.set_told_marks([(id, None)]).await?;
        }
        placer.set_mode(volume, mode);
        if mode != VolumeMode::Down {
            placer.remember(volume);
        }
        Ok(())
    }

    /// Remembers, and has placement know, that nobody waits for a volume.
    pub async fn forget(
        &self,
        index: &Index,
        placer: &Placer,
        volume: &Volume,
    ) -> Result<(), MaintenanceError> {
        let _one_at_a_time = self.modes.lock().await;
        self.keep(index, volume, |now| now.forgotten.extend([volume.to_string()])).await?;
        placer.forget(volume);
        Ok(())
    }

    fn write(&self, json: &[u8]) -> io::Result<()> {
        let fresh = self.path.with_extension("state-new");
        let mut file = File::create(&fresh)?;
        file.write_all(json)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        match self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn since_1970_us(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros() as u64)
}
