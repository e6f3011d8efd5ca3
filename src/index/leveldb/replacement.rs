//! An index that is made beside the one in use and takes its place when it is complete.
//!
//! The one in use, sound or not, is locked meanwhile and otherwise not looked at. Whatever ends the process half-way
//! leaves it as it was; what was begun is removed at the next attempt.

use super::guard::Guard;
use super::home::Site;
use super::options::{Options, SyncMode};
use super::{add, engine_error, open_engine};
use crate::index::table::{Change, TableError};
use rusty_leveldb::{DB, WriteBatch};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A new index on its way. It stays in the thread that began it.
pub struct Replacement {
    db: DB,
    guard: Arc<Guard>,
    options: Options,
    site: Site,
}

impl Replacement {
    /// Begins an empty index that is to take the place of the one in `dir`, or to be there if there is none.
    pub fn begin(dir: &Path, options: Options) -> Result<Replacement, TableError> {
        let site = Site::claim(dir, &Guard::new(SyncMode::Always, None))?;
        // Nothing of it counts before the end, where all of it is made durable.
        let guard = Guard::new(SyncMode::Never, None);
        let db = open_engine(site.copy(), &options, &guard, true)?;
        Ok(Replacement { db, guard, options, site })
    }

    /// Adds `changes`.
    pub fn write(&mut self, changes: &[Change]) -> Result<(), TableError> {
        let mut batch = WriteBatch::default();
        for change in changes {
            add(&mut batch, change);
        }
        self.db.write(batch, true).map_err(|err| engine_error(&self.guard, "write", err))?;
        self.guard.check()
    }

    /// Makes it durable and puts it in place. Answers where the old one is kept, if there was one and it is not to be
    /// discarded.
    pub fn finish(self, discard_old: bool) -> Result<Option<PathBuf>, TableError> {
        let Replacement { db, guard, options, site } = self;
        drop(db);
        guard.check()?;
        // Opening turns the log, which wasn't synced, into tables, which are.
        let guard = Guard::new(SyncMode::Always, None);
        drop(open_engine(site.copy(), &options, &guard, false)?);
        guard.check()?;
        let old = site.exchange(&guard)?;
        match old {
            Some(old) if discard_old => {
                fs::remove_dir_all(&old).map_err(|err| TableError::Io {
                    reason: format!("remove the old index {old:?}: {err}"),
                })?;
                Ok(None)
            }
            old => Ok(old),
        }
    }

    /// Leaves everything as it was.
    pub fn discard(self) {
        let Replacement { db, site, .. } = self;
        drop(db);
        site.remove_copy();
    }
}
