//! The fail stop, and the one gate through which every operation on the index's files goes.
//!
//! The engine forgets errors: a compaction that ran out of disk still deletes its inputs, a table that can't be
//! opened is skipped and then deleted, a block that can't be read makes its records "not there". So nothing may
//! happen after the first error: [`Guard`] remembers it, refuses every further operation, and
//! [`super::LevelTable`] asks it before each answer that it gives. What is on the disk at that moment is whole;
//! the process ends and opens it again.

use super::SyncMode;
use crate::index::table::TableError;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// One operation on a file of the index.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation<'a> {
    Create(&'a Path),
    Write { path: &'a Path, bytes: usize },
    Sync(&'a Path),
    SyncDirectory(&'a Path),
    Rename { from: &'a Path, to: &'a Path },
    Delete(&'a Path),
    Open(&'a Path),
    Read(&'a Path),
    Measure(&'a Path),
    List(&'a Path),
}

impl fmt::Display for Operation<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(path) => write!(out, "create {path:?}"),
            Self::Write { path, bytes } => write!(out, "write {bytes} bytes to {path:?}"),
            Self::Sync(path) => write!(out, "sync {path:?}"),
            Self::SyncDirectory(path) => write!(out, "sync the directory {path:?}"),
            Self::Rename { from, to } => write!(out, "rename {from:?} to {to:?}"),
            Self::Delete(path) => write!(out, "delete {path:?}"),
            Self::Open(path) => write!(out, "open {path:?}"),
            Self::Read(path) => write!(out, "read {path:?}"),
            Self::Measure(path) => write!(out, "get the size of {path:?}"),
            Self::List(path) => write!(out, "list {path:?}"),
        }
    }
}

/// Sees every operation. Tests count with it, fail operations, and pull the plug.
pub(super) trait Observer: Send + Sync {
    /// Called first; an error takes the operation's place.
    fn before(&self, _operation: Operation<'_>) -> io::Result<()> {
        Ok(())
    }
    /// Called when the operation has succeeded.
    fn after(&self, _operation: Operation<'_>) {}
}

/// The first error.
#[derive(Debug, Clone)]
enum Fault {
    Corrupt(String),
    Io(String),
}

impl From<Fault> for TableError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Corrupt(reason) => Self::Corrupt { reason },
            Fault::Io(reason) => Self::Io { reason },
        }
    }
}

/// The gate of one directory's files, for the owner of the index and the thread of the engine.
pub(super) struct Guard {
    sync: SyncMode,
    observer: Option<Arc<dyn Observer>>,
    has_stopped: AtomicBool,
    fault: Mutex<Option<Fault>>,
    /// Tables or a MANIFEST were created that a power cut may still take away, however well synced.
    directory_changed: Mutex<bool>,
    manifest_bytes: AtomicUsize,
    /// A compaction writes many tables; each is synced while the next one is being written.
    syncing: Mutex<Vec<(PathBuf, JoinHandle<io::Result<()>>)>>,
}

impl Guard {
    pub(super) fn new(sync: SyncMode, observer: Option<Arc<dyn Observer>>) -> Arc<Self> {
        Arc::new(Self {
            sync,
            observer,
            has_stopped: AtomicBool::default(),
            fault: Mutex::default(),
            directory_changed: Mutex::default(),
            manifest_bytes: AtomicUsize::default(),
            syncing: Mutex::default(),
        })
    }

    /// Does `work`, unless something failed before. Its error is the last thing that happens.
    pub(super) fn perform<T>(
        &self,
        operation: Operation<'_>,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if self.has_stopped.load(Ordering::Acquire) {
            return Err(io::Error::other("the index has stopped at an earlier error"));
        }
        let begun = self.observer.as_ref().map_or(Ok(()), |observer| observer.before(operation));
        match begun.and_then(|()| work()) {
            Ok(done) => {
                self.observer.iter().for_each(|observer| observer.after(operation));
                Ok(done)
            }
            Err(err) => {
                self.stop(operation, &err);
                Err(err)
            }
        }
    }

    fn stop(&self, operation: Operation<'_>, err: &io::Error) {
        let reason = format!("{operation}: {err}");
        log::error!("the index stops: {reason}");
        let fault = match err.kind() {
            io::ErrorKind::InvalidData => Fault::Corrupt(reason),
            _ => Fault::Io(reason),
        };
        self.remember(fault);
    }

    /// The first fault stays.
    fn remember(&self, fault: Fault) -> Fault {
        let first = lock(&self.fault).get_or_insert(fault).clone();
        self.has_stopped.store(true, Ordering::Release);
        first
    }

    /// Stops for an error that the engine reports itself.
    pub(super) fn stop_for(&self, reason: String) -> TableError {
        self.remember(Fault::Io(reason)).into()
    }

    /// Stops for something that can't be what was written.
    pub(super) fn stop_for_damage(&self, reason: String) -> TableError {
        self.remember(Fault::Corrupt(reason)).into()
    }

    /// The first error, if there was one.
    pub(super) fn check(&self) -> Result<(), TableError> {
        if !self.has_stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        lock(&self.fault).clone().map_or(Ok(()), |fault| Err(fault.into()))
    }

    pub(super) fn sync(&self) -> SyncMode {
        self.sync
    }

    /// Begins to sync a table that is complete.
    pub(super) fn sync_later(&self, path: &Path, file: File) -> io::Result<()> {
        let sync = std::thread::Builder::new().spawn(move || file.sync_data());
        let sync = sync.inspect_err(|err| self.stop(Operation::Sync(path), err))?;
        lock(&self.syncing).push((path.to_owned(), sync));
        Ok(())
    }

    /// Waits until the tables are durable.
    pub(super) fn settle_tables(&self) -> io::Result<()> {
        let settle = |sync: JoinHandle<io::Result<()>>| sync.join().expect("syncing doesn't panic");
        let mut syncing = std::mem::take(&mut *lock(&self.syncing)).into_iter();
        syncing.try_for_each(|(path, sync)| self.perform(Operation::Sync(&path), || settle(sync)))
    }

    pub(super) fn note_new_file(&self) {
        *lock(&self.directory_changed) = true;
    }

    /// Makes the names of new tables durable, before the MANIFEST says anything of them.
    pub(super) fn settle_directory(&self, dir: &Path) -> io::Result<()> {
        let mut changed = lock(&self.directory_changed);
        if std::mem::take(&mut *changed) { self.sync_directory(dir) } else { Ok(()) }
    }

    pub(super) fn sync_directory(&self, dir: &Path) -> io::Result<()> {
        self.perform(Operation::SyncDirectory(dir), || File::open(dir)?.sync_all())
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.perform(Operation::Rename { from, to }, || std::fs::rename(from, to))?;
        self.sync_directory(to.parent().unwrap_or(Path::new("/")))
    }

    /// A file that isn't there is gone already.
    pub(super) fn delete(&self, path: &Path) -> io::Result<()> {
        self.perform(Operation::Delete(path), || match std::fs::remove_file(path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
            _ => Ok(()),
        })
    }

    /// Bytes in the current MANIFEST.
    pub(super) fn manifest_bytes(&self) -> usize {
        self.manifest_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn begin_manifest(&self) {
        self.manifest_bytes.store(0, Ordering::Relaxed);
    }

    pub(super) fn count_manifest(&self, bytes: usize) {
        self.manifest_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Nothing that is locked here is ever left half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
