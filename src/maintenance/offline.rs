//! A job with the server stopped: opens the index as the server does, looks whose the volumes are, runs the job, closes.

use super::Control;
use super::pages::{Pages, each_waiting};
use super::state::StateFile;
use crate::index::table::TableError;
use crate::index::{self, Index, IndexError, IndexSender, IndexServer, leveldb};
use crate::model::{Placer, Replica, Volume};
use crate::store::{
    Access, Conflict, MasterError, Mastership, StoreError, StoreOptions, StoreParts, Takeover, is_home,
    watch_identities,
};
use crate::volume::{
    self, Addresses, Adopt, ClusterId, Credentials, Health, ProbeOutcome, Timeouts, VolumeError,
};
use actix_rt::task::JoinHandle;
use arc_swap::ArcSwap;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
    /// Where volumes are found.
    pub addresses: Addresses,
    /// Whether it is looked first if another master is alive.
    pub takeover: Takeover,
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
    /// Two volumes can't be used beside each other.
    #[error("{0}")]
    Conflict(Conflict),
    /// The index is not the present one, or somebody else works on the volumes.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// What the volumes are can't be found out.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// It isn't what `mkv replace` is for, unless the operator says so.
    #[error(
        "{0} has blobs, so it is no new drive; --with-blobs takes it all the same, as a clone that is to be a volume of its own"
    )]
    HasBlobs(Replica),
    /// Its records are those of another.
    #[error(
        "{place} is what {present} was called; leave it out of --volumes until `mkv rename {place} {present}` has written that into the records"
    )]
    IsAnothers {
        /// The earlier name.
        place: Replica,
        /// The present one.
        present: Replica,
    },
    /// Two names are not those of one volume.
    #[error("{present} is not what was {earlier}: {reason}")]
    NotTheSame {
        /// As records name it.
        earlier: Replica,
        /// As it is in `--volumes`.
        present: Replica,
        /// Why not.
        reason: String,
    },
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
    db: PathBuf,
    takeover: Takeover,
    control: Control,
    /// Since it was made the master of the volumes.
    master: Rc<RefCell<Option<Mastership>>>,
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
        let opened = Opened::new(request, index, survey, state.into(), control.clone());
        let master = Rc::clone(&opened.master);
        let done = work(opened).await;
        if let Some(master) = master.take() {
            master.end().await?;
        }
        done
    })
}

/// As [`run`], for what needs nothing of the index but that nobody else has it open.
pub(super) fn run_on_state<T>(
    request: &OfflineRequest,
    work: impl AsyncFnOnce(&Index, &StateFile) -> Result<T, MaintenanceError>,
) -> Result<T, MaintenanceError> {
    with_index(request, async |index, state| work(&index.handle(), &state).await)
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
            let handle = index.sender().handle();
            let state = StateFile::open(&request.db, &handle).await?;
            state.apply(&handle, &request.placer).await?;
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

/// Probes the volumes, and looks which one is which, until it is dropped.
pub(super) struct Watching(Vec<JoinHandle<()>>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Opened {
    fn new(
        request: &OfflineRequest,
        index: IndexSender,
        survey: Survey,
        state: Arc<StateFile>,
        control: Control,
    ) -> Opened {
        let mut known = request.placer.volumes().to_vec();
        let strangers: BTreeSet<Volume> = survey.strangers.iter().map(Replica::volume).collect();
        known.extend(strangers);
        let parts = StoreParts {
            index,
            health: Arc::new(Health::found_at(&known, request.addresses.clone())),
            timeouts: request.timeouts,
            placer: Arc::new(request.placer.clone()),
            options: Arc::new(ArcSwap::from_pointee(request.store.clone())),
            userpass: Credentials::new(request.userpass.as_deref()),
        };
        Opened {
            parts,
            survey,
            state,
            adopt: request.adopt.into(),
            db: request.db.clone(),
            takeover: request.takeover,
            control,
            master: Rc::default(),
        }
    }

    /// Finds out which volumes are up, and goes on doing so. The volumes that are given must be ours, or nobody's until
    /// now; of others that records name it is enough that they are not asked.
    pub(super) async fn join(&self) -> Result<Watching, MaintenanceError> {
        self.watch(self.adopt, None).await
    }

    /// As [`Opened::join`], where it is known that `place` is not what it was.
    pub(super) async fn join_beside(&self, place: &Replica) -> Result<Watching, MaintenanceError> {
        self.watch(self.adopt, Some(place)).await
    }

    /// As [`Opened::join`], for those who only look: nobody's volume stays so.
    pub(super) async fn look(&self) -> Result<Watching, MaintenanceError> {
        self.watch(Adopt::None, None).await
    }

    async fn watch(&self, adopt: Adopt, beside: Option<&Replica>) -> Result<Watching, MaintenanceError> {
        let ours = self.parts.index.handle().cluster_id().await.map_err(MaintenanceError::Index)?;
        let cluster: ClusterId = ours.parse().map_err(|err| {
            MaintenanceError::Table(TableError::Corrupt {
                reason: format!("the cluster id can't be read: {err}"),
            })
        })?;
        self.parts.expect_next_id(&cluster).await?;
        let (client, store) = (self.parts.volumes(), self.parts.store());
        store.know_identities().await?;
        self.parts.health.ask_for_admission(self.parts.placer.volumes());
        let mut answering = Vec::new();
        for (volume, outcome) in volume::probe_all_once(&client, &cluster, adopt).await {
            match outcome {
                ProbeOutcome::Foreign { found: theirs }
                    if self.adopt != Adopt::All
                        && self.parts.placer.volumes().contains(&volume)
                        && beside.is_none_or(|place| place.volume() != volume) =>
                {
                    return Err(MaintenanceError::Foreign { volume, theirs, ours });
                }
                ProbeOutcome::Stranger { .. } if self.parts.health.identity(&volume.root()).is_none() => {}
                ProbeOutcome::Down { .. } | ProbeOutcome::Foreign { .. } => {}
                ProbeOutcome::Up | ProbeOutcome::Adopted | ProbeOutcome::Stranger { .. } => {
                    answering.push(volume);
                }
            }
        }
        answering.retain(|volume| self.parts.placer.volumes().contains(volume));
        let conflicts = store.recognise(&answering, adopt).await?;
        let is_known = |conflict: &Conflict| {
            let volume = beside.map(Replica::volume);
            conflict.places().iter().any(|place| Some(place.volume()) == volume)
        };
        if let Some(conflict) = conflicts.into_iter().find(|conflict| !is_known(conflict)) {
            return Err(MaintenanceError::Conflict(conflict));
        }
        store.recognise_strangers(&self.survey.strangers).await?;
        let mut watching = vec![actix_rt::spawn(volume::watch(client, cluster, adopt))];
        if adopt != Adopt::None {
            watching.push(actix_rt::spawn(watch_identities(store.clone(), || Access::Own)));
            let master = Mastership::begin(store, &self.db, self.takeover).await?;
            self.master.replace(Some(master.clone()));
            let control = self.control.clone();
            watching.push(actix_rt::spawn(async move {
                let overtaken = master.beat(|| Access::Own).await;
                control.progress.problem(None, None, overtaken);
                control.stop.store(true, Ordering::Relaxed);
            }));
        }
        Ok(Watching(watching))
    }
}

/// What can be known of an index without asking a volume.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Keys that there are, live and unlinked.
    pub(super) keys: u64,
    /// Keys that are to be moved.
    pub(super) away: u64,
    /// Places that hold files of ours, on none of the placer's volumes.
    pub(super) strangers: BTreeSet<Replica>,
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
        let strangers = places.iter().filter(|place| !placer.volumes().contains(&place.volume()));
        self.strangers.extend(strangers.cloned());
    }
}
