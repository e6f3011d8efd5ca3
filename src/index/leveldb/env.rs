//! The engine's view of the operating system: everything goes through [`Guard`].

use super::files::{self, Kind, TableReader, Writer};
use super::guard::{Guard, Operation};
use super::publish::Publisher;
use rusty_leveldb::env::{Env, FileLock, Logger, RandomAccess};
use rusty_leveldb::{Result, Status, StatusCode};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The files of one index directory, whose lock its owner holds.
pub(super) struct GuardedEnv {
    guard: Arc<Guard>,
    /// Then the logs are the owner's: the engine's own go nowhere, and it sees those of the directory only once.
    publisher: Option<Rc<Publisher>>,
}

impl GuardedEnv {
    pub(super) fn new(guard: Arc<Guard>) -> Self {
        Self { guard, publisher: None }
    }

    pub(super) fn publishing(guard: Arc<Guard>, publisher: Rc<Publisher>) -> Self {
        Self { guard, publisher: Some(publisher) }
    }

    fn hides(&self, name: &Path) -> bool {
        // The engine panics at names that are not Unicode; its own all are.
        let is_hidden_log = Kind::of(name) == Kind::Log && self.publisher.iter().any(|it| it.hides_logs());
        name.to_str().is_none() || is_hidden_log
    }
}

impl Env for GuardedEnv {
    fn open_sequential_file(&self, path: &Path) -> Result<Box<dyn Read>> {
        Ok(files::read_sequentially(path, &self.guard)?)
    }

    fn open_random_access_file(&self, path: &Path) -> Result<Box<dyn RandomAccess>> {
        Ok(Box::new(TableReader::open(path, &self.guard)?))
    }

    fn open_writable_file(&self, path: &Path) -> Result<Box<dyn Write>> {
        if Kind::of(path) == Kind::Log && self.publisher.is_some() {
            return Ok(Box::new(io::sink()));
        }
        Ok(Box::new(Writer::create(path, &self.guard, self.publisher.clone())?))
    }

    /// Only used for going on with an old log or MANIFEST: what is appended behind a torn end can't be read.
    fn open_appendable_file(&self, _path: &Path) -> Result<Box<dyn Write>> {
        Err(unsupported("appending to an old file"))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        Ok(self.guard.perform(Operation::Measure(path), || path.try_exists())?)
    }

    fn children(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let list = || fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().into())).collect();
        let names: Vec<PathBuf> = self.guard.perform(Operation::List(path), list)?;
        Ok(names.into_iter().filter(|name| !self.hides(name)).collect())
    }

    fn size_of(&self, path: &Path) -> Result<usize> {
        let measure = || Ok(fs::metadata(path)?.len() as usize);
        Ok(self.guard.perform(Operation::Measure(path), measure)?)
    }

    fn delete(&self, path: &Path) -> Result<()> {
        Ok(self.guard.delete(path)?)
    }

    /// The directory is there before the engine starts.
    fn mkdir(&self, _path: &Path) -> Result<()> {
        Ok(())
    }

    fn rmdir(&self, _path: &Path) -> Result<()> {
        Err(unsupported("removing a directory"))
    }

    /// Only used for CURRENT, which the engine writes again with every change of the MANIFEST.
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let changes = fs::read(from)? != fs::read(to).unwrap_or_default();
        if to.file_name() == Some(OsStr::new("CURRENT")) && !changes {
            self.guard.delete(from)?;
        } else {
            self.guard.perform(Operation::Sync(from), || File::open(from)?.sync_all())?;
            self.guard.rename(from, to)?;
        }
        let published = self.publisher.iter().try_for_each(|publisher| publisher.publish());
        published.map_err(|err| Status::new(StatusCode::IOError, &err.to_string()))
    }

    /// The owner of the directory holds its lock already, and for longer than one handle lives.
    fn lock(&self, path: &Path) -> Result<FileLock> {
        Ok(FileLock { id: path.to_string_lossy().into_owned() })
    }

    fn unlock(&self, _lock: FileLock) -> Result<()> {
        Ok(())
    }

    fn new_logger(&self, _path: &Path) -> Result<Logger> {
        Ok(Logger::new(Box::new(io::sink())))
    }

    fn micros(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
    }

    fn sleep_for(&self, micros: u32) {
        std::thread::sleep(Duration::from_micros(micros.into()));
    }
}

fn unsupported(what: &str) -> Status {
    Status::new(StatusCode::NotSupported, what)
}
