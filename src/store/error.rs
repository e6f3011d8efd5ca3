//! Why a use case failed, in the words that a client reads.

use super::BodyError;
use crate::index::IndexError;
use crate::model::Key;
use crate::volume::VolumeError;
use thiserror::Error;

/// What went wrong; one variant for each outcome that a caller tells apart.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The index refused, or has stopped.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The body could not be read to its end.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Only the Go original stores nothing; a blob has at least one byte.
    #[error("an empty body can't be stored; send at least one byte")]
    EmptyBody,
    /// The key is `/`.
    #[error("nothing can be stored under /; choose a longer key")]
    RootKey,
    /// What came is not what the client said it would be; nothing is stored.
    #[error("the body's MD5 is {actual}, not {expected} as announced; nothing was stored")]
    Md5Mismatch {
        /// What the client announced, hex.
        expected: String,
        /// What arrived, hex.
        actual: String,
    },
    /// Fewer volumes are up than there have to be replicas.
    #[error("{up} of the {needed} volumes needed are up; {key} was not stored")]
    NotEnoughVolumes {
        /// How many could take a replica.
        up: usize,
        /// How many replicas there have to be.
        needed: usize,
        /// The key.
        key: Key,
    },
    /// Replicas could not be written, and no other volume could take them.
    #[error("{key} was not stored: {}", failures.join("; "))]
    NotReplicated {
        /// The key.
        key: Key,
        /// What each volume that failed said.
        failures: Vec<String>,
    },
    /// As [`StoreError::NotReplicated`], and every failure was that of a volume without space.
    #[error("{key} was not stored, the volumes are full: {}", failures.join("; "))]
    Full {
        /// The key.
        key: Key,
        /// What each volume said.
        failures: Vec<String>,
    },
    /// There is a record, but every one of its volumes says that the file is not there.
    #[error("{key} has a record but no replica is left; rebuild or restore it")]
    Gone {
        /// The key.
        key: Key,
    },
    /// The record changed each time that its replicas were looked for.
    #[error("{key} is overwritten faster than it can be found; try again")]
    Restless {
        /// The key.
        key: Key,
    },
    /// No replica answered.
    #[error("no replica of {key} can be reached: {source}")]
    Unavailable {
        /// The key.
        key: Key,
        /// What the last volume said.
        source: VolumeError,
    },
    /// Files of a removed key are left on volumes that did not answer; they are removed later.
    #[error(
        "{key} is removed, but {left} of its files are still on volumes that don't answer; repeat to see when they are gone"
    )]
    RemovalPending {
        /// The key.
        key: Key,
        /// How many files.
        left: usize,
    },
    /// No volume took the sidecar that has to say what changed.
    #[error("no volume of {key} could note the change; nothing was changed: {}", failures.join("; "))]
    NoSidecar {
        /// The key.
        key: Key,
        /// What each volume said.
        failures: Vec<String>,
    },
    /// Not every replica is where placement wants it; what could be moved, was.
    #[error("{key} is not balanced: {}", failures.join("; "))]
    NotBalanced {
        /// The key.
        key: Key,
        /// What is in the way.
        failures: Vec<String>,
    },
    /// A volume did not take its identity.
    #[error("a volume did not take its identity: {source}")]
    NotTold {
        /// What it said.
        source: VolumeError,
    },
    /// The system gives no random numbers.
    #[error("no random numbers for an identity: {0}")]
    NoRandom(#[source] std::io::Error),
    /// A listing without a limit would be too long.
    #[error("more than {max} keys; ask for pages with limit=")]
    ListTooLong {
        /// How many are answered at the most.
        max: usize,
    },
}
