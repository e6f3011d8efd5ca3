//! A job with the server stopped: opens the index as the server does, looks whose the volumes are, runs the job, closes.

use super::Control;
use super::pages::{Pages, each_waiting};
use super::state::StateFile;
use crate::index::table::TableError;
use crate::index::{self, Index, IndexError, IndexSender, IndexServer, leveldb};
use crate::model::{Placer, Replica, Volume};
use crate::store::{StoreOptions, StoreParts, is_home};
use crate::volume::{self, Adopt, ClusterId, Credentials, Health, ProbeOutcome, Timeouts, VolumeError};
use actix_rt::task::JoinHandle;
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// The cluster that a job is run on.
#[derive(Debug, Clone)]
pub struct OfflineRequest {
    /// The directory of the index.
    pub db: PathBuf,
    /// Volumes, replicas and subvolumes.
    pub placer: Placer,
    /// As the server has them.
    pub store: StoreOptions,
    /// How long a volume may take.
    pub timeouts: Timeouts,
    /// `user:password` for the volumes.
    pub userpass: Option<String>,
    /// Take over volumes of another cluster.
    pub adopt: bool,
}

/// Why a job did not come to its end.
#[derive(Debug, Error)]
pub enum MaintenanceError {
    /// A server, or another job, has the index.
    #[error("{0}; stop it first, or have the server do it: --admin ADDR")]
    InUse(TableError),
    /// The index can't be opened, or has stopped.
    #[error(transparent)]
    Table(TableError),
    /// The index refused.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A volume of another cluster.
    #[error("volume {volume} belongs to cluster {}, not to {ours}; --adopt takes it over", theirs.escape_debug())]
    Foreign {
        /// The volume.
        volume: Volume,
        /// The cluster that the volume names.
        theirs: String,
        /// The cluster that the index names.
        ours: String,
    },
    /// It can only be forgotten when it is gone.
    #[error("{0} is one of the volumes; set its mode to down first, or leave it out of --volumes")]
    NotGone(Volume),
    /// Replicas would be lost.
    #[error(
        "{keys} keys are only on volumes that would be left out, as {volume}; have them repaired or rebalanced first, or delete them"
    )]
    StillOn {
        /// One of those volumes.
        volume: Volume,
        /// How many keys.
        keys: u64,
    },
    /// Every other volume has to be there.
    #[error("{0} doesn't answer, and has to be there when another is forgotten; nothing was changed")]
    Away(Volume),
    /// It could not be told the cluster's new id.
    #[error("{0}; nothing is forgotten yet, run it again")]
    Untold(#[source] VolumeError),
    /// Not one of the cluster's.
    #[error("{0} is none of the volumes in --volumes")]
    NoSuchVolume(Volume),
    /// Blobs would have too few places left.
    #[error(
        "without {volume} there are {left} volumes for new blobs, and every blob needs {replicas}; add one first"
    )]
    TooFewVolumes {
        /// The volume.
        volume: Volume,
        /// How many would be left.
        left: usize,
        /// How many are needed.
        replicas: usize,
    },
    /// The state of the cluster can't be kept.
    #[error(transparent)]
    State(#[from] super::state::StateError),
}

/// What a job that works on all keys works with.
pub(super) struct Opened {
    pub(super) parts: StoreParts,
    pub(super) survey: Survey,
    pub(super) state: Arc<StateFile>,
    adopt: Adopt,
}

/// An index that was made by opening one would be taken for the cluster's from then on.
pub(super) fn must_exist(db: &Path) -> Result<(), TableError> {
    match leveldb::is_there(db) {
        true => Ok(()),
        false => {
            let reason = "it doesn't exist or is empty".to_owned();
            Err(TableError::Refused { dir: db.to_owned(), reason })
        }
    }
}

/// Runs `work` on an index that nobody else has open, which is read first; blocks the calling thread.
pub(super) fn run<T>(
    request: &OfflineRequest,
    control: &Control,
    work: impl AsyncFnOnce(Opened) -> Result<T, MaintenanceError>,
) -> Result<T, MaintenanceError> {
    with_index(request, async |index, state| {
        control.progress.begin("reading the index", 0);
        let survey = Survey::of(&index.handle(), &request.placer).await?;
        work(Opened::new(request, index, survey, state.into())).await
    })
}

/// As [`run`], for what needs nothing of the index but that nobody else has it open.
pub(super) fn run_on_state<T>(
    request: &OfflineRequest,
    work: impl FnOnce(&StateFile) -> Result<T, MaintenanceError>,
) -> Result<T, MaintenanceError> {
    with_index(request, async |_, state| work(&state))
}

fn with_index<T>(
    request: &OfflineRequest,
    work: impl AsyncFnOnce(IndexSender, StateFile) -> Result<T, MaintenanceError>,
) -> Result<T, MaintenanceError> {
    must_exist(&request.db).map_err(MaintenanceError::Table)?;
    let options = leveldb::Options { copy_mark: Some(index::copy_mark()), ..leveldb::Options::default() };
    let dir = request.db.clone();
    let open = move || leveldb::open(&dir, options);
    let index = IndexServer::start(open, request.store.grace_us()).map_err(|err| match err {
        TableError::Locked { .. } => MaintenanceError::InUse(err),
        err => MaintenanceError::Table(err),
    })?;
    actix_rt::System::new().block_on(async {
        let mut index = index;
        let work = async {
            let state = StateFile::open(&request.db)?;
            state.apply(&request.placer);
            work(index.sender(), state).await
        };
        let done = match work.await {
            Err(MaintenanceError::Index(IndexError::Stopped)) => {
                Err(MaintenanceError::Table(index.failed().await))
            }
            done => done,
        };
        index.close().await.map_err(MaintenanceError::Table)?;
        done
    })
}

/// Probes the volumes until it is dropped.
pub(super) struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Opened {
    fn new(request: &OfflineRequest, index: IndexSender, survey: Survey, state: Arc<StateFile>) -> Opened {
        let mut known = request.placer.volumes().to_vec();
        known.extend(survey.strangers.iter().cloned());
        let parts = StoreParts {
            index,
            health: Arc::new(Health::new(&known)),
            timeouts: request.timeouts,
            placer: Arc::new(request.placer.clone()),
            options: Arc::new(ArcSwap::from_pointee(request.store.clone())),
            userpass: Credentials::new(request.userpass.as_deref()),
        };
        Opened { parts, survey, state, adopt: request.adopt.into() }
    }

    /// Finds out which volumes are up, and goes on doing so. The volumes that are given must be ours, or nobody's until
    /// now; of others that records name it is enough that they are not asked.
    pub(super) async fn join(&self) -> Result<Watching, MaintenanceError> {
        self.watch(self.adopt).await
    }

    /// As [`Opened::join`], for those who only look: nobody's volume stays so.
    pub(super) async fn look(&self) -> Result<Watching, MaintenanceError> {
        self.watch(Adopt::None).await
    }

    async fn watch(&self, adopt: Adopt) -> Result<Watching, MaintenanceError> {
        let ours = self.parts.index.handle().cluster_id().await.map_err(MaintenanceError::Index)?;
        let cluster: ClusterId = ours.parse().map_err(|err| {
            MaintenanceError::Table(TableError::Corrupt {
                reason: format!("the cluster id can't be read: {err}"),
            })
        })?;
        self.parts.expect_next_id(&cluster).await?;
        let client = self.parts.volumes();
        for (volume, outcome) in volume::probe_all_once(&client, &cluster, adopt).await {
            match outcome {
                ProbeOutcome::Foreign { found: theirs }
                    if self.adopt != Adopt::All && self.parts.placer.volumes().contains(&volume) =>
                {
                    return Err(MaintenanceError::Foreign { volume, theirs, ours });
                }
                _ => {}
            }
        }
        Ok(Watching(actix_rt::spawn(volume::watch(client, cluster, adopt))))
    }
}

/// What can be known of an index without asking a volume.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Keys that there are, live and unlinked.
    pub(super) keys: u64,
    /// Keys that are to be moved.
    pub(super) away: u64,
    /// Volumes that hold files of ours and are none of the placer's.
    strangers: BTreeSet<Volume>,
}

impl Survey {
    pub(super) async fn of(index: &Index, placer: &Placer) -> Result<Survey, IndexError> {
        let mut survey = Survey::default();
        let mut pages = Pages::new(index);
        while let Some(records) = pages.next().await? {
            survey.keys += records.len() as u64;
            for (key, record) in records {
                let Ok(record) = record else { continue };
                survey.away += u64::from(!is_home(placer, &key, &record));
                survey.add_strangers(placer, &record.replicas);
            }
        }
        each_waiting(index, |placed| survey.add_strangers(placer, &[placed.replica])).await?;
        Ok(survey)
    }

    fn add_strangers(&mut self, placer: &Placer, places: &[Replica]) {
        let volumes = places.iter().map(Replica::volume);
        self.strangers.extend(volumes.filter(|volume| !placer.volumes().contains(volume)));
    }
}
