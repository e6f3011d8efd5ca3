//! The bare engine, as it is without this module: shows that a fault is there, so that its test means something.
//! When one of these fails, the engine has been mended, and a cure can go.

use crate::index::table::{Change, Page, Table, TableError};
use rusty_leveldb::{DB, LdbIterator, Options, WriteBatch};
use std::ops::Bound;
use std::path::Path;

/// The engine with its own defaults, but for sizes.
pub(super) struct Bare(pub(super) DB);

pub(super) fn bare(dir: &Path) -> Bare {
    bare_with(dir, Options::default())
}

/// With the sizes of [`super::support::small`], and without reusing logs, so that opening makes tables.
pub(super) fn bare_with(dir: &Path, options: Options) -> Bare {
    let small = Options { write_buffer_size: 16 << 10, max_file_size: 8 << 10, block_size: 512, ..options };
    Bare(DB::open(dir, small).expect("opens"))
}

pub(super) fn into_tables() -> Options {
    Options { reuse_logs: false, reuse_manifest: false, ..Options::default() }
}

impl Table for Bare {
    fn get_many(&mut self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, TableError> {
        Ok(keys.iter().map(|key| self.0.get(key).map(|value| value.to_vec())).collect())
    }

    fn page(&mut self, from: Bound<&[u8]>, limit: usize) -> Result<Page, TableError> {
        assert_eq!(from, Bound::Unbounded, "enough for the tests");
        let mut iterator = self.0.new_iter().expect("iterates");
        let entries: Vec<_> = std::iter::from_fn(|| LdbIterator::next(&mut iterator)).take(limit).collect();
        let next = entries.last().filter(|_| entries.len() == limit).map(|(key, _)| key.clone());
        Ok(Page { entries, next })
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), TableError> {
        let mut batch = WriteBatch::default();
        for change in changes {
            match change {
                Change::Put { key, value } => batch.put(key, value),
                Change::Delete { key } => batch.delete(key),
            }
        }
        self.0.write(batch, true).map_err(|err| TableError::Io { reason: err.to_string() })
    }

    fn upkeep(&mut self) -> Result<bool, TableError> {
        Ok(false)
    }

    fn close(mut self: Box<Self>) -> Result<(), TableError> {
        self.0.close().map_err(|err| TableError::Io { reason: err.to_string() })
    }
}
