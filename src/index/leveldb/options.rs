//! How an index is opened: what its owner may choose, and what this module sets for the engine.

use super::env::GuardedEnv;
use super::filter::FingerprintPolicy;
use super::guard::Guard;
use super::lookup::silent_log;
use super::order::ByteOrder;
use crate::index::table::Entry;
use std::fs;
use std::rc::Rc;
use std::sync::Arc;

/// The stack that the thread of a [`super::LevelTable`] needs: the engine drops its block cache recursively, one
/// level for each block, and a level takes some 100 bytes (more in debug builds).
pub const STACK_BYTES: usize = 64 << 20;

/// Most blocks in the cache, 512 MiB of the usual size: what [`STACK_BYTES`] can drop with room to spare.
pub(super) const MOST_CACHED_BLOCKS: usize = 1 << 17;

/// A table is opened in 0.1 ms and keeps its index and filter in memory; with fewer than this, lookups thrash.
const FEWEST_OPEN_TABLES: usize = 64;

/// More tables than an index of a hundred million records has.
const MOST_OPEN_TABLES: usize = 20_000;

/// Assumed where the system doesn't say how many files a process may open: POSIX's usual soft limit.
const USUAL_FILE_LIMIT: usize = 1024;

/// Large enough that opening (tens of milliseconds) is rare, small enough that the garbage doesn't matter.
const GARBAGE_BYTES: usize = 32 << 20;

/// Every full buffer is one compaction, inside of a write: small ones make each of them short. Measured, see
/// `docs/decisions/0002-index-stalls.md`.
const WRITE_BUFFER_BYTES: usize = 128 << 10;

/// Four buffers: each compaction moves one table down, so that smaller ones would let the upper levels grow.
const TABLE_BYTES: usize = 512 << 10;

/// Whether a write waits until it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Neither the death of the process nor a power cut takes back what was acknowledged.
    Always,
    /// The log is not synced, so a power cut may. Only for comparisons, and for copies that can be made again.
    Never,
}

/// How far a copy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyProgress {
    /// Records copied, or in the second pass compared, until now.
    pub records: u64,
    /// Whether this is the second pass, which compares the copy with the original.
    pub comparing: bool,
}

/// How an index is opened.
#[derive(Clone)]
pub struct Options {
    /// Bytes of table blocks kept in memory.
    pub cache_bytes: usize,
    /// Whether a write waits until it is durable.
    pub sync: SyncMode,
    /// Bytes written before they become a table. It takes about twice as much memory.
    pub write_buffer_bytes: usize,
    /// Bytes of the tables that compactions write.
    pub table_bytes: usize,
    /// Bytes of a table's blocks.
    pub block_bytes: usize,
    /// Called about once a second while an index is copied.
    pub on_copy: Arc<dyn Fn(CopyProgress) + Send + Sync>,
    /// An entry that is added to every copy of a foreign index, so that its reader knows what it reads.
    pub copy_mark: Option<Entry>,
    /// Written after a page was read, before the handle is opened again: until then compactions drop nothing.
    pub garbage_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            sync: SyncMode::Always,
            write_buffer_bytes: WRITE_BUFFER_BYTES,
            table_bytes: TABLE_BYTES,
            block_bytes: 4 << 10,
            on_copy: Arc::new(log_progress),
            copy_mark: None,
            garbage_bytes: GARBAGE_BYTES,
        }
    }
}

fn log_progress(CopyProgress { records, comparing }: CopyProgress) {
    let doing = if comparing { "comparing the copy" } else { "copying the index" };
    log::info!("{doing}: {records} records");
}

impl Options {
    /// Larger tables for an index of `index_bytes`, where the process may not open enough of these: a lookup in a
    /// table that isn't open reads its whole filter. The buffer grows with them, and with it the stalls.
    pub(super) fn sized_for(&self, index_bytes: usize) -> Self {
        let fitting = index_bytes / (open_tables() * 3 / 4);
        let factor = fitting.div_ceil(self.table_bytes).max(1);
        let (write_buffer_bytes, table_bytes) = (self.write_buffer_bytes * factor, self.table_bytes * factor);
        Self { write_buffer_bytes, table_bytes, ..self.clone() }
    }

    /// For writing in order: a full buffer becomes one table of the right size, and nothing is compacted.
    pub(super) fn for_copying(&self) -> Self {
        Self { write_buffer_bytes: self.table_bytes, ..self.clone() }
    }

    /// The engine's options. `create` is only said of an empty directory.
    pub(super) fn engine(&self, guard: Rc<Guard>, create: bool) -> rusty_leveldb::Options {
        rusty_leveldb::Options {
            cmp: Rc::new(Box::new(ByteOrder)),
            env: Rc::new(Box::new(GuardedEnv::new(guard))),
            log: silent_log(),
            create_if_missing: create,
            write_buffer_size: self.write_buffer_bytes,
            max_open_files: open_tables(),
            max_file_size: self.table_bytes,
            block_cache_capacity_bytes: self
                .cache_bytes
                .clamp(self.block_bytes, MOST_CACHED_BLOCKS * self.block_bytes),
            block_size: self.block_bytes,
            // What is appended behind a torn end can't be read; a MANIFEST is only shortened by beginning a new one.
            reuse_logs: false,
            reuse_manifest: false,
            filter_policy: Rc::new(Box::new(FingerprintPolicy)),
            ..rusty_leveldb::Options::default()
        }
    }
}

/// How many tables may be open: half of the files that the process may open. Running out of them is an I/O error,
/// at which the index stops.
fn open_tables() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = files.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    (soft.unwrap_or(USUAL_FILE_LIMIT) / 2).clamp(FEWEST_OPEN_TABLES, MOST_OPEN_TABLES)
}
