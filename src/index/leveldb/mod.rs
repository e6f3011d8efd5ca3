//! The index on LevelDB's format, through the crate `rusty_leveldb`, which only this module names.
//!
//! The directory stays LevelDB's: the Go original opens it. The crate is pinned and used as it is; each of its
//! known faults is closed from outside, in the file that says so:
//!
//! | fault | closed by |
//! |---|---|
//! | nothing is ever synced; an info log grows for ever | `files`, `env`, `lookup` |
//! | errors in compactions and lookups are forgotten, and cost data | `guard` |
//! | damaged blocks, logs, footers, MANIFESTs are read as "no such key" | `check`, `files`, `journal` |
//! | a new database is made over one that lost its CURRENT | `check`, `home` |
//! | a live key is hidden by another key's tombstone | `filter`, and `import` for foreign tables |
//! | a live key is not found in the wrong block | `order`, `lookup` |
//! | what is appended to a torn log can't be read | `reuse_logs` is off, `env` refuses |
//! | iterators end early after writes, and stop garbage collection | [`LevelTable::page`], [`LevelTable::upkeep`] |
//! | the MANIFEST only shrinks when it is opened | [`LevelTable::upkeep`] |
//! | batches can't be used again, nor a handle after a failed write | [`LevelTable::write`], `guard` |
//! | dropping a large cache overflows the stack | [`STACK_BYTES`] |

mod check;
mod env;
mod files;
mod filter;
mod guard;
mod home;
mod import;
mod journal;
mod lookup;
mod manifest;
mod options;
mod order;
mod replacement;
mod sstable;
#[cfg(test)]
mod tests;

pub use options::{CopyProgress, Options, STACK_BYTES, SyncMode};
pub use replacement::Replacement;

use super::table::{Change, Entry, Table, TableError};
use check::Origin;
use guard::{Guard, Observer};
use home::Home;
use lookup::Lookup;
use rusty_leveldb::{DB, LdbIterator, Status, StatusCode, WriteBatch};
use std::ops::Bound;
use std::path::Path;
use std::rc::Rc;
use std::time::UNIX_EPOCH;

/// A MANIFEST is only shortened by opening, and replaying it takes time with the square of its length: 6.5 MB took
/// 7.5 s. At 1 MB it is 0.2 s.
const LONG_MANIFEST_BYTES: usize = 1 << 20;

/// Where no quiet moment comes, the handle is opened again in a busy one, when it is this many times overdue.
const OVERDUE: usize = 8;

/// An index in LevelDB's format. It stays in the thread that opened it, which needs a stack of [`STACK_BYTES`].
pub struct LevelTable {
    /// `None` only while it is opened again, and after an error in that.
    db: Option<DB>,
    lookup: Lookup,
    guard: Rc<Guard>,
    options: Options,
    written_since_iterator: Option<usize>,
    written_us: u64,
    /// Dropped last: the directory is free when the engine is done with it.
    home: Home,
}

/// Opens the index in `dir`, and makes one if `dir` is empty or absent. An index that another program wrote is
/// copied first; the old one stays beside it as `DIR.old-TIME`.
pub fn open(dir: &Path, options: Options) -> Result<LevelTable, TableError> {
    open_observed(dir, options, None)
}

fn open_observed(
    dir: &Path,
    options: Options,
    observer: Option<Rc<dyn Observer>>,
) -> Result<LevelTable, TableError> {
    let written_us = written_us(dir);
    let guard = Guard::new(options.sync, observer.clone());
    let (mut home, origin) = Home::claim(dir, &guard)?;
    if let Origin::Foreign(table) = &origin {
        log::info!("{dir:?} was written by another program ({table}); it is copied once");
        import::replace_by_copy(&mut home, &options, &guard, observer)?;
    }
    let lookup =
        lookup::lookup_above_all().map_err(|err| guard.stop_for(format!("prepare lookups: {err}")))?;
    let db = open_engine(home.dir(), &options, &guard, origin == Origin::Nobody)?;
    Ok(LevelTable { db: Some(db), lookup, guard, options, written_since_iterator: None, written_us, home })
}

/// When the newest file in `dir` was written, µs since 1970.
fn written_us(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let times = files.filter_map(|file| file.metadata().ok()?.modified().ok());
    let newest = times.max().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    newest.map_or(0, |since| since.as_micros() as u64)
}

fn open_engine(dir: &Path, options: &Options, guard: &Rc<Guard>, create: bool) -> Result<DB, TableError> {
    let engine = options.sized_for(check::table_bytes(dir)?).engine(guard.clone(), create);
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
    fn db(&mut self) -> Result<&mut DB, TableError> {
        self.guard.check()?;
        self.db.as_mut().ok_or_else(|| self.guard.stop_for("the index is closed".into()))
    }

    /// Closes the engine and opens it again, still holding the directory.
    fn reopen(&mut self) -> Result<(), TableError> {
        self.guard.check()?;
        // Dropping writes what is buffered; the guard sees its errors.
        drop(self.db.take());
        self.guard.check()?;
        self.db = Some(open_engine(self.home.dir(), &self.options, &self.guard, false)?);
        self.written_since_iterator = None;
        Ok(())
    }

    /// By how much opening again is due: 1 is due.
    fn reopening_due(&self) -> usize {
        let garbage = self.written_since_iterator.unwrap_or(0) / self.options.garbage_bytes.max(1);
        garbage.max(self.guard.manifest_bytes() / LONG_MANIFEST_BYTES)
    }
}

impl Table for LevelTable {
    fn get_many(&mut self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, TableError> {
        self.guard.check()?;
        let Some(db) = &mut self.db else { return Err(self.guard.stop_for("the index is closed".into())) };
        let found: Result<Vec<_>, Status> = keys.iter().map(|key| (self.lookup)(db, key)).collect();
        let found = found.map_err(|err| engine_error(&self.guard, "look up", err))?;
        // The engine takes a table that it can't read for one without the key.
        self.guard.check()?;
        Ok(found)
    }

    /// An iterator never outlives this call: one that is kept while something is written ends early.
    fn page(&mut self, from: Bound<&[u8]>, limit: usize) -> Result<Vec<Entry>, TableError> {
        let iterator = self.db()?.new_iter();
        self.written_since_iterator.get_or_insert(0);
        let mut iterator = iterator.map_err(|err| engine_error(&self.guard, "iterate", err))?;
        seek(&mut iterator, from);
        let mut entries = Vec::new();
        while entries.len() < limit
            && let Some((key, value)) = iterator.current()
        {
            entries.push((key.to_vec(), value.to_vec()));
            iterator.advance();
        }
        self.guard.check()?;
        Ok(entries)
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), TableError> {
        if self.reopening_due() >= OVERDUE {
            self.reopen()?;
        }
        let db = self.db()?;
        if changes.is_empty() {
            return Ok(());
        }
        // A new batch each time: the engine's panics when one is used again.
        let mut batch = WriteBatch::default();
        let mut bytes = 0;
        for change in changes {
            bytes += add(&mut batch, change);
        }
        let written = db.write(batch, true);
        written.map_err(|err| engine_error(&self.guard, "write", err))?;
        self.guard.check()?;
        self.written_since_iterator.iter_mut().for_each(|written| *written += bytes);
        Ok(())
    }

    fn written_us(&self) -> u64 {
        self.written_us
    }

    fn upkeep(&mut self) -> Result<bool, TableError> {
        self.guard.check()?;
        if self.reopening_due() >= 1 {
            self.reopen()?;
        }
        Ok(false)
    }

    fn close(mut self: Box<Self>) -> Result<(), TableError> {
        self.guard.check()?;
        drop(self.db.take());
        self.guard.check()
    }
}

/// Adds one change and says how many bytes it has.
fn add(batch: &mut WriteBatch, change: &Change) -> usize {
    match change {
        Change::Put { key, value } => {
            batch.put(key, value);
            key.len() + value.len()
        }
        Change::Delete { key } => {
            batch.delete(key);
            key.len()
        }
    }
}

fn seek(iterator: &mut impl LdbIterator, from: Bound<&[u8]>) {
    match from {
        Bound::Unbounded => iterator.seek_to_first(),
        Bound::Included(key) | Bound::Excluded(key) => iterator.seek(key),
    }
    if let Bound::Excluded(key) = from
        && iterator.current().is_some_and(|(found, _)| found == key)
    {
        iterator.advance();
    }
}
