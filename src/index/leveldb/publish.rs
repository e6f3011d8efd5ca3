//! What the engine's thread tells the owner of the index: which tables there are now.
//!
//! The engine writes each change of its tables to the MANIFEST and then lets CURRENT name that. [`Publisher`] reads
//! along, and publishes the new [`Levels`] once CURRENT is in place: before that, a crash would fall back behind it.

use super::guard::{Guard, lock};
use super::journal::{BLOCK_BYTES, complete_records};
use super::manifest::Manifest;
use super::reader::Levels;
use crate::index::table::TableError;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The newest levels, for the thread that reads them.
#[derive(Default)]
pub(super) struct Published {
    levels: Mutex<Arc<Levels>>,
    /// Rises with each publication.
    edition: AtomicU64,
    /// The number of the last change that the engine has taken.
    fed: AtomicU64,
}

impl Published {
    /// The newest levels, if they are newer than `edition`, which then is theirs.
    pub(super) fn newer_than(&self, edition: &mut u64) -> Option<Arc<Levels>> {
        if self.edition.load(Ordering::Acquire) == *edition {
            return None;
        }
        let levels = lock(&self.levels);
        *edition = self.edition.load(Ordering::Acquire);
        Some(levels.clone())
    }

    /// Whether nothing was published yet.
    pub(super) fn is_empty(&self) -> bool {
        self.edition.load(Ordering::Acquire) == 0
    }

    /// The engine has taken all changes up to `sequence`.
    pub(super) fn set_fed(&self, sequence: u64) {
        self.fed.store(sequence, Ordering::Release);
    }

    fn set(&self, new: Arc<Levels>) {
        let mut levels = lock(&self.levels);
        *levels = new;
        self.edition.fetch_add(1, Ordering::AcqRel);
    }
}

/// Reads along in the engine's thread.
pub(super) struct Publisher {
    dir: PathBuf,
    guard: Arc<Guard>,
    published: Arc<Published>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    manifest: Manifest,
    /// What was appended to the MANIFEST and not read yet, from the beginning of a block on.
    appended: Vec<u8>,
    read_bytes: usize,
    log_number: u64,
    levels: Arc<Levels>,
    /// The engine has replayed the logs of an earlier process; from now on they are the owner's alone.
    is_open: bool,
}

impl Publisher {
    pub(super) fn new(dir: &Path, guard: &Arc<Guard>, published: &Arc<Published>) -> Publisher {
        let (dir, guard, published) = (dir.to_owned(), guard.clone(), published.clone());
        Publisher { dir, guard, published, state: RefCell::default() }
    }

    /// The engine begins a new MANIFEST.
    pub(super) fn begin(&self) {
        let mut state = self.state.borrow_mut();
        state.manifest = Manifest::default();
        state.appended.clear();
        state.read_bytes = 0;
    }

    /// The engine appends `bytes` to its MANIFEST.
    pub(super) fn append(&self, bytes: &[u8]) {
        self.state.borrow_mut().appended.extend_from_slice(bytes);
    }

    /// The engine is open.
    pub(super) fn opened(&self) {
        let mut state = self.state.borrow_mut();
        state.is_open = true;
        self.published.set_fed(state.manifest.last_sequence);
    }

    /// Whether the engine is to see the logs in the directory.
    pub(super) fn hides_logs(&self) -> bool {
        self.state.borrow().is_open
    }

    /// CURRENT names the MANIFEST that was read along.
    pub(super) fn publish(&self) -> Result<(), TableError> {
        let state = &mut *self.state.borrow_mut();
        let (records, end) = complete_records(&state.appended, state.read_bytes);
        for edit in records {
            let applied = state.manifest.apply(&edit);
            applied.map_err(|reason| self.guard.stop_for_damage(format!("the MANIFEST {reason}")))?;
        }
        let whole_blocks = end / BLOCK_BYTES * BLOCK_BYTES;
        state.appended.drain(..whole_blocks);
        state.read_bytes = end - whole_blocks;
        let manifest = &state.manifest;
        if state.is_open && manifest.last_sequence != self.published.fed.load(Ordering::Acquire) {
            return Err(self.guard.stop_for_damage("the engine numbers changes in another way".into()));
        }
        // With a new log, the engine has made a table of all that it had taken. Otherwise it had taken nothing since: other
        // programs skip changes of logs that are older than what the MANIFEST says.
        let has_flushed = manifest.log_number != state.log_number;
        if !has_flushed && manifest.last_sequence != state.levels.flushed {
            return Err(self.guard.stop_for_damage("the MANIFEST is ahead of the tables".into()));
        }
        let flushed = if has_flushed { manifest.last_sequence } else { state.levels.flushed };
        state.log_number = manifest.log_number;
        let levels = Levels::new(&self.dir, manifest, flushed, &state.levels, &self.guard);
        state.levels = Arc::new(levels?);
        self.published.set(state.levels.clone());
        Ok(())
    }
}
