//! The index on LevelDB's format, through the crate `rusty_leveldb`, which only this module names.
//!
//! The directory stays LevelDB's: the Go original opens it. The crate is pinned and used as it is; each of its
//! known faults is closed from outside, in the file that says so:
//!
//! | fault | closed by |
//! |---|---|
//! | nothing is ever synced; an info log grows for ever | `files`, `env`, `logs`, `options` |
//! | errors in compactions are forgotten, and cost data | `guard` |
//! | damaged blocks, logs, footers, MANIFESTs are read as "no such key" | `check`, `files`, `journal` |
//! | a new database is made over one that lost its CURRENT | `check`, `home` |
//! | everybody waits for compactions | `engine`, a thread of its own, with `logs` and `recent` for writes and `reader` for lookups |
//! | lookups and iterators hide keys, end early, look in wrong blocks | `reader`; `filter` and `order` for other readers; `import` for foreign tables |
//! | a new table is put below older ones of level 0 | `BELOW_ALL` in each batch |
//! | what is appended to a torn log can't be read | `reuse_logs` is off, `env` refuses |
//! | the MANIFEST only shrinks when it is opened | `engine` |
//! | batches can't be used again, nor a handle after a failed write | [`LevelTable::write`], `guard` |
//! | dropping a large cache overflows the stack | the engine's is small |
//!
//! A write is appended to a log of ours and synced; then it is in `recent` for lookups, and on its way to the engine,
//! which makes tables of it. The engine publishes which tables there are, and what they hold is forgotten in `recent`
//! and removed from the logs.

mod check;
mod engine;
mod env;
mod files;
mod filter;
mod guard;
mod home;
mod import;
mod journal;
mod logs;
mod manifest;
mod options;
mod order;
mod publish;
mod reader;
mod recent;
mod replacement;
mod sstable;
#[cfg(test)]
mod tests;

pub use home::is_there;
pub use options::{CopyProgress, Options, SyncMode};
pub use replacement::Replacement;

use super::table::{Change, Page, Table, TableError};
use check::Origin;
use engine::Engine;
use env::GuardedEnv;
use guard::{Guard, Observer};
use home::Home;
use logs::Logs;
use publish::Published;
use reader::{BlockCache, Levels};
use recent::Recent;
use rusty_leveldb::{DB, Status, StatusCode, WriteBatch};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// A log is as long as so many write buffers, so that beginning one is rare beside compactions.
const BUFFERS_IN_A_LOG: usize = 8;

/// Deleted with each batch, though nobody has it. The engine looks in the wrong way whether a new table overlaps those
/// of level 0, and can put it below older ones, which then hide it; not where it begins below everything.
const BELOW_ALL: &[u8] = &[];

/// An index in LevelDB's format.
pub struct LevelTable {
    recent: Recent,
    levels: Arc<Levels>,
    /// Of the levels.
    edition: u64,
    cache: BlockCache,
    logs: Logs,
    /// The number of the last change.
    sequence: u64,
    published: Arc<Published>,
    guard: Arc<Guard>,
    engine: Engine,
    written_us: u64,
    /// Dropped last: the directory is free when the engine is done with it.
    _home: Home,
}

/// Opens the index in `dir`, and makes one if `dir` is empty or absent. An index that another program wrote is
/// copied first; the old one stays beside it as `DIR.old-TIME`.
pub fn open(dir: &Path, options: Options) -> Result<LevelTable, TableError> {
    open_observed(dir, options, None)
}

fn open_observed(
    dir: &Path,
    options: Options,
    observer: Option<Arc<dyn Observer>>,
) -> Result<LevelTable, TableError> {
    let written_us = written_us(dir);
    let guard = Guard::new(options.sync, observer.clone());
    let (mut home, origin) = Home::claim(dir, &guard)?;
    if let Origin::Foreign(table) = &origin {
        log::info!("{dir:?} was written by another program ({table}); it is copied once");
        import::replace_by_copy(&mut home, &options, &guard, observer)?;
    }
    let published = Arc::new(Published::default());
    let engine = Engine::start(home.dir(), &options, origin == Origin::Nobody, &guard, &published)?;
    let logs = Logs::new(home.dir(), options.write_buffer_bytes * BUFFERS_IN_A_LOG, &guard);
    let mut table = LevelTable {
        recent: Recent::default(),
        levels: Arc::default(),
        edition: 0,
        cache: BlockCache::new(options.cache_bytes),
        logs,
        sequence: 0,
        published,
        guard,
        engine,
        written_us,
        _home: home,
    };
    table.adopt()?;
    // What logs held is in tables now.
    table.sequence = table.levels.flushed;
    Ok(table)
}

/// When the newest file in `dir` was written, µs since 1970.
fn written_us(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let times = files.filter_map(|file| file.metadata().ok()?.modified().ok());
    let newest = times.max().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    newest.map_or(0, |since| since.as_micros() as u64)
}

/// The engine alone, with logs of its own.
fn open_engine(dir: &Path, options: &Options, guard: &Arc<Guard>, create: bool) -> Result<DB, TableError> {
    open_with(GuardedEnv::new(guard.clone()), dir, options, guard, create)
}

fn open_with(
    env: GuardedEnv,
    dir: &Path,
    options: &Options,
    guard: &Guard,
    create: bool,
) -> Result<DB, TableError> {
    let engine = options.sized_for(check::table_bytes(dir)?).engine(env, create);
    let db = DB::open(dir, engine).map_err(|err| engine_error(guard, "open the index", err))?;
    guard.check()?;
    Ok(db)
}

fn engine_error(guard: &Guard, doing: &str, err: Status) -> TableError {
    let cause = guard.stop_for(format!("{doing}: {err}"));
    match (err.code, cause) {
        (StatusCode::Corruption, TableError::Io { reason }) => TableError::Corrupt { reason },
        (_, cause) => cause,
    }
}

impl LevelTable {
    /// Takes the tables that there are now, and lets go of what they hold.
    fn adopt(&mut self) -> Result<(), TableError> {
        self.guard.check()?;
        let Some(levels) = self.published.newer_than(&mut self.edition) else { return Ok(()) };
        if levels.flushed > self.levels.flushed {
            self.recent.forget(levels.flushed);
            let removed = self.logs.remove_flushed(levels.flushed);
            removed.map_err(|err| self.guard.stop_for(format!("remove a log: {err}")))?;
        }
        self.levels = levels;
        Ok(())
    }
}

impl Table for LevelTable {
    fn get_many(&mut self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, TableError> {
        self.adopt()?;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            found.push(match self.recent.get(key) {
                Some(value) => value.map(<[u8]>::to_vec),
                None => self.levels.get(key, &mut self.cache)?,
            });
        }
        self.guard.check()?;
        Ok(found)
    }

    fn page(&mut self, from: Bound<&[u8]>, limit: usize) -> Result<Page, TableError> {
        self.adopt()?;
        let page = self.levels.page(from, limit, self.recent.range(from), &mut self.cache)?;
        self.guard.check()?;
        Ok(page)
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), TableError> {
        self.adopt()?;
        if changes.is_empty() {
            return Ok(());
        }
        // A new batch each time: the engine's panics when one is used again.
        let mut batch = WriteBatch::default();
        batch.delete(BELOW_ALL);
        changes.iter().for_each(|change| add(&mut batch, change));
        let first = self.sequence + 1;
        let last = first + changes.len() as u64;
        let bytes = batch.encode(first);
        let appended = self.logs.append(&bytes, last, self.levels.next_file);
        appended.map_err(|err| self.guard.stop_for(format!("write to a log: {err}")))?;
        self.sequence = last;
        self.recent.add(changes, first + 1);
        let mut batch = WriteBatch::default();
        batch.set_contents(&bytes);
        self.engine.feed(batch, last, bytes.len())?;
        self.guard.check()
    }

    fn written_us(&self) -> u64 {
        self.written_us
    }

    /// All of it goes on in the engine's thread.
    fn upkeep(&mut self) -> Result<bool, TableError> {
        self.adopt()?;
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result<(), TableError> {
        let LevelTable { engine, logs, levels, mut edition, published, guard, sequence, .. } = *self;
        guard.check()?;
        engine.close()?;
        let flushed = published.newer_than(&mut edition).unwrap_or(levels).flushed;
        if flushed >= sequence {
            let removed = logs.end(flushed);
            removed.map_err(|err| guard.stop_for(format!("remove a log: {err}")))?;
        }
        guard.check()
    }
}

fn add(batch: &mut WriteBatch, change: &Change) {
    match change {
        Change::Put { key, value } => batch.put(key, value),
        Change::Delete { key } => batch.delete(key),
    }
}
