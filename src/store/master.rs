//! Which index is the present one, and that only one server works on it: told on the volumes, in [`MASTER_PATH`] of each.
//!
//! Every start and every clean stop gives the index a higher number, durable in the index before a volume shows it; and no
//! version is acknowledged that is later than the index's own mark, which volumes show too. So an index that a volume is ahead
//! of, in number or mark, is an old copy. A beat that rises tells that the server is alive.

use super::{Access, Store, StoreError};
use crate::index::{IndexError, MasterEntry, now_us};
use crate::model::{MASTER_PATH, MasterFile, Volume};
use crate::volume::{VolumeError, random_identity};
use actix_rt::time::{sleep, timeout};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use log::{error, info, warn};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use thiserror::Error;

/// How often the beat rises.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Who starts elsewhere waits so long to see whether another server is alive: two beats, and some time for slow volumes.
const ALIVE_WITHIN: Duration = Duration::from_secs(12);

/// Volumes that are asked at the same time.
const ASKED_AT_ONCE: usize = 32;

/// How long the volumes may take to be told that the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Why this index is not worked on.
#[derive(Debug, Error)]
pub enum MasterError {
    /// A volume knows of a later one.
    #[error(
        "the index is older than what its volumes know: {volume} has {what}. A back-up, or a copy? Put the present index in its \
         place, or run `mkv rebuild`, which makes one from the volumes"
    )]
    Older {
        /// A volume.
        volume: Volume,
        /// What it knows.
        what: String,
    },
    /// Another server works on another copy of the index.
    #[error(
        "another master is alive on these volumes ({volume} hears from it), with another copy of this index; stop it first. \
         --takeover starts without looking"
    )]
    Alive {
        /// A volume.
        volume: Volume,
    },
    /// Another server has taken the volumes over.
    #[error("another master has taken the volumes over ({volumes} of {asked} tell of it); this one ends")]
    Overtaken {
        /// How many volumes tell of it.
        volumes: usize,
        /// How many answered.
        asked: usize,
    },
    /// The index can't be asked, or no random numbers be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory of the index can't be looked at.
    #[error("the directory of the index can't be looked at: {0}")]
    Home(#[from] std::io::Error),
}

impl From<IndexError> for MasterError {
    fn from(err: IndexError) -> MasterError {
        MasterError::Store(err.into())
    }
}

/// How sure to be that nobody else works on the volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// Wait and see, where it isn't clear.
    Never,
    /// The operator knows that nobody does.
    AtOnce,
}

impl From<bool> for Takeover {
    fn from(takeover: bool) -> Takeover {
        if takeover { Takeover::AtOnce } else { Takeover::Never }
    }
}

/// A server's claim on the volumes, of one thread.
#[derive(Clone)]
pub struct Mastership {
    store: Store,
    entry: Rc<RefCell<MasterEntry>>,
    beat: Rc<Cell<u64>>,
    /// What the index said at the start, while no volume has told yet whether it is the present one.
    unproven: Rc<RefCell<Option<MasterFile>>>,
    is_overtaken: Rc<Cell<bool>>,
}

/// What the volumes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Alive,
    Stopped,
}

/// Which directory on which machine an index is: after a copy or a move it is another.
fn home_of(db: &Path) -> std::io::Result<String> {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let directory = std::fs::metadata(db)?;
    Ok(format!("{}:{}:{}", machine.trim(), directory.dev(), directory.ino()))
}

impl Mastership {
    /// Makes the server of the index in `db` the master of the volumes, unless one of those that answer knows of a later
    /// index, or of another server that is alive. Where none answers, and the index was not here before, no volume is used
    /// until one has told.
    pub async fn begin(store: Store, db: &Path, takeover: Takeover) -> Result<Mastership, MasterError> {
        let home = home_of(db)?;
        let (known, mark_us) = (store.index.master().await?, store.index.mark_us().await?);
        let asked = store.masters().await;
        let shown = shown_by(&asked);
        let before = known.as_ref().map(|known| file_of(known, mark_us));
        let is_here = known.as_ref().is_some_and(|known| known.home == home);
        if let Some(before) = &before {
            refuse_if_older(before, &shown)?;
        }
        if !is_here && takeover == Takeover::Never {
            store.refuse_if_alive(&shown).await?;
        }
        let unproven = before.filter(|_| asked.is_empty() && !is_here && takeover == Takeover::Never);
        if unproven.is_some() {
            store.volumes.health().hold();
        }
        let older = store.hold_older(&shown).await?;
        let highest = shown.values().map(|file| file.number).max().unwrap_or(0);
        let number = known.map_or(0, |known| known.number).max(highest);
        let entry = MasterEntry { number, random: String::new(), home };
        let mastership = Mastership {
            store,
            entry: Rc::new(RefCell::new(entry)),
            beat: Rc::default(),
            unproven: Rc::new(RefCell::new(unproven)),
            is_overtaken: Rc::default(),
        };
        mastership.raise().await?;
        mastership.tell(Standing::Alive, asked.keys().filter(|volume| !older.contains(volume))).await?;
        Ok(mastership)
    }

    /// Tells the volumes every few seconds that it is alive, with the credentials that `access` gives at the time. Returns
    /// when another has taken them over.
    pub async fn beat(&self, access: impl Fn() -> Access) -> MasterError {
        loop {
            sleep(BEAT_EVERY).await;
            let store = self.store.for_background(&access).await;
            let mastership = Mastership { store, ..self.clone() };
            match mastership.beat_once().await {
                Ok(()) => {}
                Err(MasterError::Store(StoreError::Index(IndexError::Stopped))) => {
                    return std::future::pending().await;
                }
                Err(err @ (MasterError::Store(_) | MasterError::Home(_))) => {
                    error!("telling the volumes that their master is alive: {err}");
                }
                Err(err) => {
                    self.is_overtaken.set(true);
                    return err;
                }
            }
        }
    }

    /// Tells the volumes that the server has stopped. One that was overtaken has nothing to tell.
    pub async fn end(self) -> Result<(), MasterError> {
        if self.is_overtaken.get() || self.unproven.borrow().is_some() {
            return Ok(());
        }
        self.raise().await?;
        let tell = async {
            let asked = self.store.masters().await;
            let older = self.store.hold_older(&shown_by(&asked)).await?;
            self.tell(Standing::Stopped, asked.keys().filter(|volume| !older.contains(*volume))).await
        };
        match timeout(STOP_PATIENCE, tell).await {
            Ok(told) => told,
            Err(_) => {
                warn!("some volumes don't know that their master has stopped");
                Ok(())
            }
        }
    }

    async fn beat_once(&self) -> Result<(), MasterError> {
        let asked = self.store.masters().await;
        let shown = shown_by(&asked);
        let before = self.unproven.borrow().clone();
        if let Some(before) = before.filter(|_| !asked.is_empty()) {
            refuse_if_older(&before, &shown)?;
            self.store.refuse_if_alive(&shown).await?;
            self.unproven.replace(None);
            self.store.volumes.health().let_go();
        }
        let mark_us = self.store.index.mark_us().await?;
        let mine = file_of(&self.entry.borrow(), mark_us);
        let others: Vec<&Volume> =
            shown.iter().filter(|(_, file)| file.is_of_another(&mine)).map(|(volume, _)| volume).collect();
        for volume in asked.keys() {
            self.store.volumes.health().claim(volume, others.contains(&volume));
        }
        if !others.is_empty() && 2 * others.len() >= asked.len() {
            return Err(MasterError::Overtaken { volumes: others.len(), asked: asked.len() });
        }
        let older = self.store.hold_older(&shown).await?;
        let is_told = |volume: &&Volume| !others.contains(volume) && !older.contains(volume);
        self.tell(Standing::Alive, asked.keys().filter(is_told)).await
    }

    async fn raise(&self) -> Result<(), MasterError> {
        let random = random_identity().map_err(StoreError::NoRandom)?.to_string();
        let raised =
            MasterEntry { number: self.entry.borrow().number + 1, random, ..self.entry.borrow().clone() };
        // Before any volume shows it.
        self.store.index.set_master(&raised).await?;
        *self.entry.borrow_mut() = raised;
        Ok(())
    }

    /// Tells volumes whose file was looked at just now.
    async fn tell(
        &self,
        standing: Standing,
        volumes: impl Iterator<Item = &Volume>,
    ) -> Result<(), MasterError> {
        self.beat.set(self.beat.get() + 1);
        let mark_us = self.store.index.mark_us().await?;
        let (beat, stopped) = (self.beat.get(), standing == Standing::Stopped);
        let file = MasterFile { beat, stopped, ..file_of(&self.entry.borrow(), mark_us) };
        let content = Bytes::from(file.to_json());
        self.store.volumes.health().set_master(file);
        let client = self.store.volumes.of_anybody();
        let tell = |volume: &Volume| {
            let (client, content, volume) = (client.clone(), content.clone(), volume.clone());
            async move {
                match client.put(&volume.root(), MASTER_PATH, content, now_us()).await {
                    Ok(()) => Some(volume),
                    Err(err) => {
                        log::debug!("telling {volume} of its master: {err}");
                        None
                    }
                }
            }
        };
        let confirmed: Vec<_> =
            stream::iter(volumes).map(tell).buffer_unordered(ASKED_AT_ONCE).collect().await;
        let confirmed: Vec<Volume> = confirmed.into_iter().flatten().collect();
        Ok(self.store.keep_told(&confirmed, mark_us).await?)
    }
}

/// What volumes show of the index that has this entry.
fn file_of(entry: &MasterEntry, mark_us: u64) -> MasterFile {
    MasterFile { number: entry.number, random: entry.random.clone(), mark_us, ..MasterFile::default() }
}

impl Store {
    /// What each volume that answers and is ours shows of its master, if it shows any.
    async fn masters(&self) -> BTreeMap<Volume, Option<MasterFile>> {
        let client = self.volumes.of_anybody();
        let ask = |volume: &Volume| {
            let (client, volume) = (client.clone(), volume.clone());
            async move {
                match client.get(&volume.root(), MASTER_PATH, MasterFile::MAX_BYTES).await {
                    Ok(content) => Some((volume, content.and_then(|content| MasterFile::parse(&content)))),
                    Err(VolumeError::TooLarge { .. }) => Some((volume, None)),
                    Err(_) => None,
                }
            }
        };
        let asked = |volume: &&Volume| self.volumes.health().is_heard(volume);
        let volumes = self.placer.volumes().iter().filter(asked);
        let shown: Vec<_> = stream::iter(volumes).map(ask).buffer_unordered(ASKED_AT_ONCE).collect().await;
        shown.into_iter().flatten().collect()
    }

    /// Waits until it is clear that the master that the volumes show is not alive.
    async fn refuse_if_alive(&self, shown: &BTreeMap<Volume, MasterFile>) -> Result<(), MasterError> {
        let Some(highest) = shown.values().map(|file| file.number).max() else { return Ok(()) };
        let is_over = |file: &MasterFile| file.number < highest || file.stopped;
        if shown.values().all(is_over) {
            return Ok(());
        }
        info!(
            "the index was not here before: looking for {} s whether another master is alive on its volumes",
            ALIVE_WITHIN.as_secs()
        );
        sleep(ALIVE_WITHIN).await;
        for (volume, now) in shown_by(&self.masters().await) {
            let is_alive = match shown.get(&volume) {
                Some(before) => {
                    now.number > before.number || (now.number == before.number && now.beat > before.beat)
                }
                None => !now.stopped && now.number >= highest,
            };
            if is_alive && !now.stopped {
                return Err(MasterError::Alive { volume });
            }
        }
        Ok(())
    }
}

/// What those show that show any.
fn shown_by(asked: &BTreeMap<Volume, Option<MasterFile>>) -> BTreeMap<Volume, MasterFile> {
    asked.iter().filter_map(|(volume, file)| Some((volume.clone(), file.clone()?))).collect()
}

fn refuse_if_older(known: &MasterFile, shown: &BTreeMap<Volume, MasterFile>) -> Result<(), MasterError> {
    let Some((volume, file)) = shown.iter().find(|(_, file)| file.is_of_another(known)) else {
        return Ok(());
    };
    let what = match file.number == known.number && file.random == known.random {
        true => {
            let seconds = (file.mark_us - known.mark_us) / 1_000_000;
            format!("taken writes that are {seconds} s later than the index")
        }
        false => format!(
            "seen a server's start or stop since (number {}, the index has {})",
            file.number, known.number
        ),
    };
    Err(MasterError::Older { volume: volume.clone(), what })
}
