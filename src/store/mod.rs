//! The use cases: what happens to the index and to the volumes when a blob is put, read, overwritten, unlinked or
//! removed. Free of HTTP: status codes and headers are decided above.
//!
//! One invariant runs through all of them: *intent durable → files written → record and intent in one durable
//! step → answer*, and whatever a failure leaves on a volume is named by an intent until it is settled.

mod body;
mod error;
mod get;
mod hash;
mod identify;
mod inspect;
mod link;
mod list;
mod master;
mod note;
mod older;
mod plan;
mod put;
mod rebalance;
mod remove;
mod settle;
mod sidecars;
mod verdict;

pub use body::{BodyError, BodyLimits};
pub use error::StoreError;
pub use get::{Check, Found};
pub use identify::{Conflict, run as watch_identities};
pub use inspect::{Depth, Fault, Inspection};
pub use list::ListRequest;
pub use master::{MasterError, Mastership, Takeover};
pub use note::run as note_tombstones;
pub use put::{PutRequest, Stored};
pub use rebalance::{Left, Moved, Preview, Trouble, is_home};
pub use settle::run as settle_forever;
pub use sidecars::needs_sidecars;

use crate::index::{Index, IndexError, IndexSender, now_us};
use crate::model::{CLUSTER_PATH, PlacedFile, Placer, Replica, Sidecar, VolumeMode};
use crate::volume::{ClusterId, Credentials, Health, Timeouts, VolumeClient, VolumeError};
use arc_swap::ArcSwap;
use log::warn;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What the operator chose.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Keep the MD5 of what is stored.
    pub md5sum: bool,
    /// Only unlinked blobs can be removed.
    pub protect: bool,
    /// What a GET makes sure of before it redirects.
    pub check: Check,
    /// How long an overwritten version stays readable, and a volume is given to carry out an abandoned request.
    pub grace: Duration,
}

impl StoreOptions {
    /// [`StoreOptions::grace`] in µs, as the times in intents are.
    pub fn grace_us(&self) -> u64 {
        self.grace.as_micros() as u64
    }
}

/// The store as one thread sees it; cheap to clone.
#[derive(Clone)]
pub struct Store {
    index: Index,
    volumes: VolumeClient,
    placer: Arc<Placer>,
    options: Arc<ArcSwap<StoreOptions>>,
    /// The client's credentials, if it showed any.
    userpass: Option<Rc<str>>,
    /// Counts the GETs of this thread, so that replicas take turns.
    turns: Rc<Cell<usize>>,
}

/// What every thread makes its own [`Store`] from.
#[derive(Clone)]
pub struct StoreParts {
    /// The index.
    pub index: IndexSender,
    /// Which volumes are up.
    pub health: Arc<Health>,
    /// How long a volume may take.
    pub timeouts: Timeouts,
    /// The volumes, and where on them a blob belongs.
    pub placer: Arc<Placer>,
    /// What the operator chose, and may choose anew while the server runs.
    pub options: Arc<ArcSwap<StoreOptions>>,
    /// For the store's own requests; may be exchanged as well.
    pub userpass: Credentials,
}

impl StoreParts {
    /// The volumes as the store itself speaks to them. Must be called within an actix runtime.
    pub fn volumes(&self) -> VolumeClient {
        let client = VolumeClient::new(self.timeouts, Arc::clone(&self.health));
        client.with_credentials(self.userpass.clone())
    }

    /// While the cluster `now` is getting another id, volumes that have that one already are ours too.
    pub async fn expect_next_id(&self, now: &ClusterId) -> Result<(), IndexError> {
        let next = self.index.handle().next_cluster_id().await?;
        if let Some(next) = next.and_then(|id| id.parse().ok()) {
            self.health.rename_cluster(vec![next, now.clone()]);
        }
        Ok(())
    }

    /// The store of the calling thread, which must be within an actix runtime.
    pub fn store(&self) -> Store {
        let (placer, options) = (Arc::clone(&self.placer), Arc::clone(&self.options));
        Store::new(self.index.handle(), self.volumes(), placer, options)
    }
}

/// Whose credentials the server's own work uses.
pub enum Access {
    /// The store's own, or none are needed.
    Own,
    /// A client's (`user:password`), the last that a volume accepted.
    Client(String),
    /// Volumes want credentials, and no client has shown any yet.
    Nobody,
}

/// How often it is looked whether a client has shown credentials.
const ACCESS_EVERY: Duration = Duration::from_secs(1);

impl Store {
    /// A store over the thread's own handles.
    pub fn new(
        index: Index,
        volumes: VolumeClient,
        placer: Arc<Placer>,
        options: Arc<ArcSwap<StoreOptions>>,
    ) -> Store {
        Store { index, volumes, placer, options, userpass: None, turns: Rc::default() }
    }

    /// The same store, speaking to the volumes with a client's credentials (`user:password`).
    pub fn with_credentials(&self, userpass: Rc<str>) -> Store {
        let volumes = self.volumes.with_credentials(Credentials::new(Some(&userpass)));
        Store { volumes, userpass: Some(userpass), ..self.clone() }
    }

    /// The store for the server's own work. Waits while there are no credentials for it, and says so if work is waiting.
    async fn for_background(&self, access: &impl Fn() -> Access) -> Store {
        let mut said = false;
        loop {
            match access() {
                Access::Own => return self.clone(),
                Access::Client(userpass) => return self.with_credentials(userpass.into()),
                Access::Nobody => {}
            }
            let waiting = self.index.unsettled().await.unwrap_or(0);
            if waiting > 0 && !said {
                warn!("{waiting} removals wait for credentials; give --userpass, or wait for a client's");
                said = true;
            }
            actix_rt::time::sleep(ACCESS_EVERY).await;
        }
    }

    /// The client's credentials (`user:password`), if it showed any.
    pub fn credentials(&self) -> Option<&str> {
        self.userpass.as_deref()
    }

    /// The thread's handle of the index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The thread's client of the volumes.
    pub fn volumes(&self) -> &VolumeClient {
        &self.volumes
    }

    /// The volumes that blobs are placed on.
    pub fn placer(&self) -> &Placer {
        &self.placer
    }

    fn takes_blobs(&self, place: &Replica) -> bool {
        self.placer.mode(place) == VolumeMode::Alive && self.volumes.health().is_up(place)
    }

    /// Whether files there can be written over and removed.
    fn takes_changes(&self, place: &Replica) -> bool {
        self.placer.mode(place).takes_changes()
            && self.volumes.health().is_up(place)
            && !self.placer.is_forgotten(place)
    }

    fn is_readable(&self, place: &Replica) -> bool {
        !self.is_gone(place) && self.volumes.health().is_up(place)
    }

    /// Whether a volume counts as dead, whatever it is.
    fn is_gone(&self, place: &Replica) -> bool {
        self.placer.mode(place) == VolumeMode::Down || self.placer.is_forgotten(place)
    }

    /// Of `files`, those on volumes that somebody waits for.
    fn waited_for(&self, mut files: Vec<PlacedFile>) -> Vec<PlacedFile> {
        files.retain(|placed| !self.placer.is_forgotten(&placed.replica));
        files
    }

    /// Refuses to change anything at a place that isn't ours, or isn't what it was. The volumes in use are looked at; of
    /// another, which a record or intent still names, the address may be somebody else's by now, or that of one in use.
    async fn change_only_ours(&self, place: &Replica) -> Result<(), VolumeError> {
        self.ask_only_if(self.takes_changes(place), place)?;
        if identify::is_current(&self.placer, place) {
            return self.volumes.look_lately(place).await;
        }
        let replica = place.clone();
        self.is_no_earlier_name(place).await?;
        let Ok(ours) = self.index.cluster_id().await else {
            return Err(VolumeError::Unreachable { replica, reason: "the index has stopped".to_owned() });
        };
        match self.volumes.get(&place.volume().root(), CLUSTER_PATH, Sidecar::MAX_BYTES).await? {
            Some(id) if id.trim_ascii() != ours.as_bytes() => {
                let reason = "it belongs to another cluster".to_owned();
                Err(VolumeError::Foreign { replica, reason })
            }
            _ => Ok(()),
        }
    }

    /// Refuses to ask a volume that is known not to answer: one that hangs would hold the key for its whole timeout.
    fn ask_only_if(&self, is_there: bool, place: &Replica) -> Result<(), VolumeError> {
        let reason = || match self.placer.mode(place) {
            VolumeMode::Alive | VolumeMode::Drain => "it is down".to_owned(),
            mode => format!("its mode is {mode}"),
        };
        match is_there {
            true => Ok(()),
            false => Err(VolumeError::Unreachable { replica: place.clone(), reason: reason() }),
        }
    }

    /// When something that is left now is to be settled, µs since 1970.
    fn after_grace_us(&self) -> u64 {
        now_us() + self.options.load().grace_us()
    }
}
