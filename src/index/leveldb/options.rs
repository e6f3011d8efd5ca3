//! How an index is opened: what its owner may choose, and what this module sets for the engine.

use super::env::GuardedEnv;
use super::filter::FingerprintPolicy;
use super::order::ByteOrder;
use crate::index::table::Entry;
use rusty_leveldb::infolog::Logger;
use std::cell::RefCell;
use std::fs;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

/// Blocks that the engine keeps: compactions read everything once. Dropping them is recursive, a level for each.
const ENGINE_BLOCKS: usize = 256;

/// Tables that the engine has open, with their filters in memory: the inputs of a compaction, a few dozen.
const ENGINE_TABLES: usize = 64;

/// For an index of 32 MiB.
const FEWEST_OPEN_TABLES: usize = 64;

/// More tables than an index of a hundred million records has.
const MOST_OPEN_TABLES: usize = 20_000;

/// Assumed where the system doesn't say how many files a process may open: POSIX's usual soft limit.
const USUAL_FILE_LIMIT: usize = 1024;

/// Every full buffer is one compaction: small ones make each of them short, and with it the time that the engine is
/// behind. Measured, see `docs/decisions/0002-index-stalls.md`.
const WRITE_BUFFER_BYTES: usize = 128 << 10;

/// Four buffers: each compaction moves one table down, so that smaller ones would let the upper levels grow.
const TABLE_BYTES: usize = 512 << 10;

/// Whether a write waits until it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Neither the death of the process nor a power cut takes back what was acknowledged.
    Always,
    /// The log is not synced, so a power cut may, and leave older values with newer ones: rebuild the index then. Only for
    /// comparisons, and for copies that can be made again.
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
        }
    }
}

fn log_progress(CopyProgress { records, comparing }: CopyProgress) {
    let doing = if comparing { "comparing the copy" } else { "copying the index" };
    log::info!("{doing}: {records} records");
}

impl Options {
    /// Larger tables for an index of `index_bytes`, where the process may not open enough of these: all stay open. The
    /// buffer grows with them.
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
    pub(super) fn engine(&self, env: GuardedEnv, create: bool) -> rusty_leveldb::Options {
        rusty_leveldb::Options {
            cmp: Rc::new(Box::new(ByteOrder)),
            env: Rc::new(Box::new(env)),
            // Otherwise it writes a file `LOG`, without an end.
            log: Some(Rc::new(RefCell::new(Logger(Box::new(io::sink()))))),
            create_if_missing: create,
            write_buffer_size: self.write_buffer_bytes,
            max_open_files: ENGINE_TABLES,
            max_file_size: self.table_bytes,
            block_cache_capacity_bytes: ENGINE_BLOCKS * self.block_bytes,
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
