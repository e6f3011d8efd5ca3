//! A job of a server, for those outside: what can be asked for, and what is told of it.

use super::Rate;
use super::status::Status;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How fast a job goes if nobody says otherwise: clients come first.
pub const DEFAULT_RATE: Rate = Rate { blobs: Some(50.0), bytes: Some(100e6) };

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "lowercase")]
pub enum Task {
    /// See [`rebalance`](super::rebalance).
    Rebalance,
    /// See [`scrub`](super::scrub).
    Scrub {
        /// Only ask for sizes.
        quick: bool,
        /// Whether the server began it by itself.
        scheduled: bool,
    },
    /// See [`scrub`](super::scrub).
    Repair {
        /// Only ask for sizes.
        quick: bool,
        /// Remove what no record names.
        delete_orphans: bool,
        /// Even if there are too many or they are older than the index.
        force: bool,
    },
    /// See [`drain`](super::drain).
    Drain {
        /// The volume, as in `--volumes`.
        volume: String,
    },
    /// See [`forget`](super::forget).
    Forget {
        /// The volume, as it was in `--volumes`.
        volume: String,
    },
    /// See [`replace`](super::replace).
    Replace {
        /// The volume or subvolume.
        volume: String,
        /// Take a tree that has blobs.
        with_blobs: bool,
    },
    /// See [`rename`](super::rename).
    Rename {
        /// The earlier name.
        volume: String,
        /// The present one, as in `--volumes`.
        to: String,
    },
}

impl Task {
    /// The names of all tasks, as in the API.
    pub const NAMES: [&str; 7] = ["rebalance", "scrub", "repair", "drain", "forget", "replace", "rename"];

    /// The task's name.
    pub fn name(&self) -> &'static str {
        match self {
            Task::Rebalance => "rebalance",
            Task::Scrub { .. } => "scrub",
            Task::Repair { .. } => "repair",
            Task::Drain { .. } => "drain",
            Task::Forget { .. } => "forget",
            Task::Replace { .. } => "replace",
            Task::Rename { .. } => "rename",
        }
    }
}

/// A task, and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// What to do.
    pub task: Task,
    /// How fast.
    pub rate: Rate,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It is at work.
    Running,
    /// It was asked to end and hasn't yet.
    Stopping,
    /// Everything is as it should be.
    Done,
    /// It came to its end, and something is left.
    Left,
    /// It was ended before.
    Stopped,
    /// It could not go on.
    Failed,
}

impl JobState {
    /// Those of a job that has ended.
    pub const ENDS: [JobState; 4] = [JobState::Done, JobState::Left, JobState::Stopped, JobState::Failed];
}

/// A job as it is at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Its number, from 1 at every start of the server.
    pub id: u64,
    /// What it does.
    #[serde(flatten)]
    pub task: Task,
    /// What became of it.
    pub state: JobState,
    /// When it began, µs since 1970.
    pub begun_us: u64,
    /// When it ended, µs since 1970.
    pub ended_us: Option<u64>,
    /// How fast it may go, as `--rate` has it.
    pub rate: String,
    /// Why it could not go on.
    pub error: Option<String>,
    /// How far it is.
    pub status: Status,
}

/// Why a job was not begun.
#[derive(Debug, Error)]
pub enum BeginError {
    /// There is one already.
    #[error("job {id} does this already; wait for its end, or stop it")]
    Running {
        /// Its number.
        id: u64,
    },
    /// Not one of the cluster's.
    #[error("{0:?} is none of the volumes")]
    NoSuchVolume(String),
    /// The server is about to end.
    #[error("the server is ending")]
    Ending,
}

/// No job has this number.
#[derive(Debug, Error)]
#[error("there is no job {0}")]
pub struct NoSuchJob(pub u64);
