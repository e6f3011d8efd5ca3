//! The seam below the index actor: an ordered map of bytes that keeps what it was told.
//!
//! A [`Table`] is owned by one thread. It knows nothing of keys, records or locks; what is stored in it, and
//! what must change together, is the business of the actor above. Another engine joins by implementing this.

use std::ops::Bound;
use std::path::PathBuf;
use thiserror::Error;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Stores `value` under `key`, whatever was there.
    Put {
        /// The key, any bytes, not empty.
        key: Vec<u8>,
        /// The value, any bytes.
        value: Vec<u8>,
    },
    /// Forgets `key`; no error if there is none.
    Delete {
        /// The key, any bytes, not empty.
        key: Vec<u8>,
    },
}

impl Change {
    /// The key that changes.
    pub fn key(&self) -> &[u8] {
        match self {
            Change::Put { key, .. } | Change::Delete { key } => key,
        }
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A stretch of a table, in byte order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// What stands there.
    pub entries: Vec<Entry>,
    /// Behind which key it goes on; `None` at the table's end.
    pub next: Option<Vec<u8>>,
}

/// An ordered, durable map of bytes to bytes.
///
/// After the first error every further call fails too: a table whose state is in doubt says nothing more.
pub trait Table {
    /// The values of `keys`, in their order; `None` where there is no such key.
    fn get_many(&mut self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, TableError>;

    /// The next at most `limit` (> 0) entries from `from` on. There may be fewer, or none, before the end: where many were
    /// deleted, a page is as far as one gets within a few milliseconds.
    fn page(&mut self, from: Bound<&[u8]>, limit: usize) -> Result<Page, TableError>;

    /// Applies all of `changes` or none, and returns when they are durable: neither the death of the process
    /// nor a power cut takes them back.
    fn write(&mut self, changes: &[Change]) -> Result<(), TableError>;

    /// When it was last written before it was opened, µs since 1970, by the clock of that time; 0 if nobody knows.
    fn written_us(&self) -> u64 {
        0
    }

    /// Does a bounded piece of upkeep (compaction, garbage), and says whether more is waiting.
    /// Called when no request waits; should return within a few milliseconds.
    fn upkeep(&mut self) -> Result<bool, TableError>;

    /// Closes the table. After it, the directory may be opened by another process.
    fn close(self: Box<Self>) -> Result<(), TableError>;
}

/// Why a table could not be opened, or has stopped.
#[derive(Debug, Error)]
pub enum TableError {
    /// Another process or handle has it open.
    #[error("the index {dir:?} is in use by another process")]
    Locked {
        /// The directory of the index.
        dir: PathBuf,
    },
    /// The directory can't be an index, or is one in a state that a person must look at.
    #[error("the index {dir:?} can't be opened: {reason}")]
    Refused {
        /// The directory of the index.
        dir: PathBuf,
        /// What was found, and what to do.
        reason: String,
    },
    /// Bytes on the disk are not what was written.
    #[error("the index is damaged: {reason}")]
    Corrupt {
        /// Which file, and what is wrong with it.
        reason: String,
    },
    /// The operating system refused: a full disk, a read error, no permission.
    #[error("the index stopped at an I/O error: {reason}")]
    Io {
        /// Which operation on which file, and the system's word for it.
        reason: String,
    },
}
