//! The one-time copy of an index that another program wrote.
//!
//! Lookups are only exact in tables with our filter, so foreign tables are read by iterator, which is exact, and
//! written again. The original is not touched: the engine, which changes what it opens, opens a clone of hard
//! links. Killed at any moment, the next start finds the original in its place and begins again, or, when the copy
//! was complete, finishes the exchange (see [`super::home`]).

use super::check::{self, file_names, logs, read_manifest, table_path};
use super::guard::{Guard, Observer};
use super::home::Home;
use super::options::{CopyProgress, Options, SyncMode};
use super::{engine_error, open_engine};
use crate::index::table::TableError;
use rusty_leveldb::{DB, DBIterator, LdbIterator, WriteBatch};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Records written in one batch: enough that a batch's own cost doesn't show.
const BATCH_RECORDS: usize = 1_000;

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Copies the index of `home` and puts the copy in its place.
pub(super) fn replace_by_copy(
    home: &mut Home,
    options: &Options,
    guard: &Guard,
    observer: Option<Arc<dyn Observer>>,
) -> Result<(), TableError> {
    home.check_exchangeable("it was written by another program and must be copied once")?;
    home.remove_stale_copies()?;
    let (copy, old) = home.copy_names();
    let clone = home.clone_name(&copy);
    clone_index(home.dir(), &clone)?;
    let records = copy_records(&clone, &copy, options, &observer)?;
    fs::remove_dir_all(&clone).map_err(|err| failed(&clone, err))?;
    home.exchange(&copy, &old, guard)?;
    log::info!("copied {records} records; the original is kept as {old:?}");
    Ok(())
}

/// Makes a second name for each file that is never changed, and copies the others.
fn clone_index(dir: &Path, clone: &Path) -> Result<(), TableError> {
    let manifest = read_manifest(dir)?;
    let names = file_names(dir)?;
    let link = || -> io::Result<()> {
        fs::create_dir(clone)?;
        for &number in manifest.tables.keys() {
            let (table, name) = (table_path(dir, number), format!("{number:06}.ldb"));
            fs::hard_link(&table, clone.join(&name))
                .or_else(|_| fs::copy(&table, clone.join(&name)).map(drop))?;
        }
        let others = names.iter().filter(|name| *name == "CURRENT" || name.starts_with("MANIFEST-"));
        for path in others.map(|name| dir.join(name)).chain(logs(dir, &names, &manifest)) {
            fs::copy(&path, clone.join(path.file_name().unwrap_or_default()))?;
        }
        Ok(())
    };
    link().map_err(|err| failed(clone, err))
}

/// Copies, makes the copy durable, and compares it with the original, record by record.
fn copy_records(
    from: &Path,
    to: &Path,
    options: &Options,
    observer: &Option<Arc<dyn Observer>>,
) -> Result<u64, TableError> {
    let sizes = options.for_copying().sized_for(check::table_bytes(from)?);
    let open = |dir, sync, create| Side::open(dir, &sizes, Guard::new(sync, observer.clone()), create);
    fs::create_dir(to).map_err(|err| failed(to, err))?;
    let source = open(from, SyncMode::Always, false)?;
    let target = open(to, SyncMode::Never, true)?;
    let mut report = Report::new(options, false);
    let target = copy(source, target, &mut report)?;
    let copied = report.progress.records;
    // Opening again turns the log, which wasn't synced, into tables, which are.
    drop(target);
    let target = open(to, SyncMode::Always, false)?;
    let compared = compare(open(from, SyncMode::Always, false)?, target, Report::new(options, true))?;
    assert_eq!(copied, compared, "both passes see the same original");
    if let Some((key, value)) = &options.copy_mark {
        let mut batch = WriteBatch::default();
        batch.put(key, value);
        open(to, SyncMode::Always, false)?.write(batch)?;
    }
    Ok(copied)
}

/// One of the two databases.
struct Side {
    db: DB,
    guard: Arc<Guard>,
}

impl Side {
    fn open(dir: &Path, options: &Options, guard: Arc<Guard>, create: bool) -> Result<Self, TableError> {
        Ok(Self { db: open_engine(dir, options, &guard, create)?, guard })
    }

    fn iterator(&mut self) -> Result<DBIterator, TableError> {
        let mut iterator = self.db.new_iter().map_err(|err| engine_error(&self.guard, "iterate", err))?;
        iterator.seek_to_first();
        self.guard.check()?;
        Ok(iterator)
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), TableError> {
        self.db.write(batch, true).map_err(|err| engine_error(&self.guard, "copy", err))?;
        self.guard.check()
    }
}

fn copy(mut source: Side, mut target: Side, report: &mut Report) -> Result<Side, TableError> {
    let mut iterator = source.iterator()?;
    loop {
        let mut batch = WriteBatch::default();
        while batch.count() < BATCH_RECORDS as u32
            && let Some((key, value)) = iterator.current()
        {
            batch.put(&key, &value);
            iterator.advance();
        }
        // An iterator that can't read on looks like one at the end.
        source.guard.check()?;
        if batch.count() == 0 {
            return Ok(target);
        }
        report.advance(batch.count().into());
        target.write(batch)?;
    }
}

fn compare(mut source: Side, mut target: Side, mut report: Report) -> Result<u64, TableError> {
    let (mut original, mut copied) = (source.iterator()?, target.iterator()?);
    while original.current() == copied.current() && original.valid() {
        original.advance();
        copied.advance();
        report.advance(1);
    }
    source.guard.check()?;
    target.guard.check()?;
    if original.valid() || copied.valid() {
        let reason = format!("the copy differs from its original after {} records", report.progress.records);
        return Err(TableError::Corrupt { reason });
    }
    Ok(report.progress.records)
}

/// Says about once a second how far it is.
struct Report<'a> {
    options: &'a Options,
    progress: CopyProgress,
    said: Instant,
}

impl<'a> Report<'a> {
    fn new(options: &'a Options, comparing: bool) -> Self {
        Self { options, progress: CopyProgress { records: 0, comparing }, said: Instant::now() }
    }

    fn advance(&mut self, records: u64) {
        self.progress.records += records;
        let is_time = self.progress.records.is_multiple_of(BATCH_RECORDS as u64);
        if is_time && self.said.elapsed() >= PROGRESS_INTERVAL {
            self.said = Instant::now();
            (self.options.on_copy)(self.progress);
        }
    }
}

fn failed(path: &Path, err: io::Error) -> TableError {
    TableError::Io { reason: format!("copy the index to {path:?}: {err}") }
}
