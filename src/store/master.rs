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
}

/// Which directory on which machine an index is: after a copy or a move it is another.
fn home_of(db: &Path) -> std::io::Result<String> {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let directory = std::fs::metadata(db)?;
    Ok(format!("{}:{}:{}", machine.trim(), directory.dev(), directory.ino()))
}

impl Mastership {
    /// Makes the server of the index in `db` the master of the volumes, unless one of those that answer knows of a later
    /// index, or of another server that is alive.
    pub async fn begin(store: Store, db: &Path, takeover: Takeover) -> Result<Mastership, MasterError> {
        let home = home_of(db)?;
        let (known, mark_us) = (store.index.master().await?, store.index.mark_us().await?);
        let shown = shown_by(&store.masters().await);
        if let Some(known) = &known {
            refuse_if_older(known, mark_us, &shown)?;
        }
        let is_here = known.as_ref().is_some_and(|known| known.home == home);
        if !is_here && takeover == Takeover::Never {
            store.refuse_if_alive(&shown).await?;
        }
        let highest = shown.values().map(|file| file.number).max().unwrap_or(0);
        let number = known.map_or(0, |known| known.number).max(highest);
        let entry = MasterEntry { number, random: String::new(), home };
        let mastership = Mastership { store, entry: Rc::new(RefCell::new(entry)), beat: Rc::default() };
        mastership.raise().await?;
        mastership.tell(false).await?;
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
                Err(err @ MasterError::Overtaken { .. }) => return err,
                Err(err) => error!("telling the volumes that their master is alive: {err}"),
            }
        }
    }

    /// Tells the volumes that the server has stopped.
    pub async fn end(self) -> Result<(), MasterError> {
        self.raise().await?;
        if timeout(STOP_PATIENCE, self.tell(true)).await.is_err() {
            warn!("some volumes don't know that their master has stopped");
        }
        Ok(())
    }

    async fn beat_once(&self) -> Result<(), MasterError> {
        let asked = self.store.masters().await;
        let shown = shown_by(&asked);
        let mine = self.entry.borrow().clone();
        let others: Vec<&Volume> =
            shown.iter().filter(|(_, file)| is_others(&mine, file)).map(|(volume, _)| volume).collect();
        for volume in asked.keys() {
            self.store.volumes.health().claim(volume, others.contains(&volume));
        }
        if !others.is_empty() && 2 * others.len() >= asked.len() {
            return Err(MasterError::Overtaken { volumes: others.len(), asked: asked.len() });
        }
        self.tell(false).await
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

    async fn tell(&self, stopped: bool) -> Result<(), MasterError> {
        self.beat.set(self.beat.get() + 1);
        let mark_us = self.store.index.mark_us().await?;
        let file = {
            let entry = self.entry.borrow();
            MasterFile {
                number: entry.number,
                random: entry.random.clone(),
                beat: self.beat.get(),
                mark_us,
                stopped,
            }
        };
        let content = Bytes::from(file.to_json());
        let client = self.store.volumes.of_anybody();
        let tell = |volume: &Volume| {
            let (client, content, root) = (client.clone(), content.clone(), volume.root());
            async move {
                if let Err(err) = client.put(&root, MASTER_PATH, content, now_us()).await {
                    log::debug!("telling {root} of its master: {err}");
                }
            }
        };
        let volumes = self.store.placer.volumes().iter();
        let up = volumes.filter(|volume| self.store.volumes.health().is_up(&volume.root()));
        stream::iter(up).map(tell).buffer_unordered(ASKED_AT_ONCE).collect::<Vec<()>>().await;
        Ok(())
    }
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
        let asked = |volume: &&Volume| {
            let health = self.volumes.health();
            health.is_up(&volume.root()) || health.is_claimed(volume)
        };
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

/// Whether a volume shows another master than this, that is not an earlier one.
fn is_others(mine: &MasterEntry, shown: &MasterFile) -> bool {
    shown.number > mine.number || (shown.number == mine.number && shown.random != mine.random)
}

fn refuse_if_older(
    known: &MasterEntry,
    mark_us: u64,
    shown: &BTreeMap<Volume, MasterFile>,
) -> Result<(), MasterError> {
    for (volume, file) in shown {
        let what = if is_others(known, file) {
            format!(
                "seen a server's start or stop since (number {}, the index has {})",
                file.number, known.number
            )
        } else if file.mark_us > mark_us {
            let seconds = (file.mark_us - mark_us) / 1_000_000;
            format!("taken writes that are {seconds} s later than the index")
        } else {
            continue;
        };
        return Err(MasterError::Older { volume: volume.clone(), what });
    }
    Ok(())
}
