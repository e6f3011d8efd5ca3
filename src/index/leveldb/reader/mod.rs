//! Reads the tables that the engine writes, beside the engine.
//!
//! The engine compacts inside of its writes and lookups, and whoever asks it meanwhile waits: up to seconds with
//! ten million records. So it is never asked. Its tables are files that don't change, and which of them are alive
//! stands in the MANIFEST: [`Levels`] is one such state, complete and immutable, and stays readable for as long as
//! somebody has it. It doesn't know what is in no table yet; that is `recent`'s.

mod block;
mod cache;
mod table;

pub(super) use cache::BlockCache;

use super::check::table_path;
use super::filter::fingerprint;
use super::guard::Guard;
use super::manifest::{LEVELS, Manifest};
use crate::index::table::{Page, TableError};
use std::collections::HashMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use table::{Table, Walk};

/// Deleted keys that one page passes: some milliseconds. Compactions drop them sooner or later.
pub(super) const MAX_DELETED: usize = 4096;

/// All tables that were alive at one moment.
#[derive(Default)]
pub(super) struct Levels {
    /// Newest first: level 0 by falling number, each a run of its own, then each level's tables in order.
    runs: Vec<Run>,
    /// All changes up to this one are in the tables.
    pub(super) flushed: u64,
    /// No file of the engine had this number yet, nor one above.
    pub(super) next_file: u64,
}

/// Tables in order that don't overlap.
type Run = Vec<Placed>;

#[derive(Clone)]
struct Placed {
    number: u64,
    smallest: Vec<u8>,
    largest: Vec<u8>,
    table: Arc<Table>,
}

impl Levels {
    /// What `manifest` says, with the tables that `before` has open already.
    pub(super) fn new(
        dir: &Path,
        manifest: &Manifest,
        flushed: u64,
        before: &Levels,
        guard: &Arc<Guard>,
    ) -> Result<Levels, TableError> {
        let open: HashMap<u64, &Arc<Table>> =
            before.runs.iter().flatten().map(|placed| (placed.number, &placed.table)).collect();
        let mut levels: Vec<Vec<Placed>> = vec![Vec::new(); LEVELS];
        for (&number, entry) in &manifest.tables {
            let table = match open.get(&number) {
                Some(table) => Arc::clone(table),
                None => Arc::new(Table::open(&table_path(dir, number), number, guard)?),
            };
            let (smallest, largest) = (entry.smallest.clone(), entry.largest.clone());
            levels[entry.level].push(Placed { number, smallest, largest, table });
        }
        let mut runs: Vec<Run> = levels.remove(0).into_iter().rev().map(|placed| vec![placed]).collect();
        for mut level in levels {
            level.sort_unstable_by(|a, b| a.smallest.cmp(&b.smallest));
            runs.push(level);
        }
        runs.retain(|run| !run.is_empty());
        Ok(Levels { runs, flushed, next_file: manifest.next_file })
    }

    /// The newest value of `key` in the tables; `None` if there is none, or a tombstone.
    pub(super) fn get(&self, key: &[u8], cache: &mut BlockCache) -> Result<Option<Vec<u8>>, TableError> {
        let fingerprint = fingerprint(key);
        for run in &self.runs {
            let at = run.partition_point(|placed| *placed.largest < *key);
            let Some(placed) = run.get(at).filter(|placed| *placed.smallest <= *key) else { continue };
            if let Some(found) = placed.table.get(key, fingerprint, cache)? {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// As [`crate::index::table::Table::page`], where `newer` (in order, `None` deletes) hides what the tables
    /// have of the same keys.
    pub(super) fn page<'a>(
        &self,
        from: Bound<&[u8]>,
        limit: usize,
        newer: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        cache: &mut BlockCache,
    ) -> Result<Page, TableError> {
        let mut newer = newer.peekable();
        let mut walks = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            walks.push(RunWalk::begin(run, from, cache)?);
        }
        let (mut page, mut deleted, mut last_deleted) = (Page::default(), 0, None);
        while page.entries.len() < limit && deleted < MAX_DELETED {
            let of_walks = walks.iter().filter_map(RunWalk::key);
            let Some(key) = of_walks.chain(newer.peek().map(|(key, _)| *key)).min() else { return Ok(page) };
            let key = key.to_vec();
            let value = match newer.next_if(|(found, _)| *found == key) {
                Some((_, value)) => value.map(<[u8]>::to_vec),
                None => {
                    let newest = walks.iter().find(|walk| walk.key() == Some(&key));
                    newest.and_then(RunWalk::value).map(<[u8]>::to_vec)
                }
            };
            for walk in &mut walks {
                walk.pass(&key, cache)?;
            }
            match value {
                Some(value) => page.entries.push((key, value)),
                None => (deleted, last_deleted) = (deleted + 1, Some(key)),
            }
        }
        let last = page.entries.last().map(|(key, _)| key.clone());
        page.next = last.max(last_deleted);
        Ok(page)
    }
}

/// A place in a run, at an entry or behind the last.
struct RunWalk<'a> {
    /// The tables behind the present one.
    rest: &'a [Placed],
    walk: Option<Walk>,
}

impl<'a> RunWalk<'a> {
    fn begin(
        run: &'a [Placed],
        from: Bound<&[u8]>,
        cache: &mut BlockCache,
    ) -> Result<RunWalk<'a>, TableError> {
        let start = match from {
            Bound::Unbounded => None,
            Bound::Included(key) | Bound::Excluded(key) => Some(key),
        };
        let at = start.map_or(0, |key| run.partition_point(|placed| *placed.largest < *key));
        let mut walk = RunWalk { rest: &run[at..], walk: None };
        walk.next_table(start, cache)?;
        if let Bound::Excluded(key) = from {
            walk.pass(key, cache)?;
        }
        Ok(walk)
    }

    fn key(&self) -> Option<&[u8]> {
        self.walk.as_ref()?.key()
    }

    fn value(&self) -> Option<&[u8]> {
        self.walk.as_ref()?.value()
    }

    /// Goes behind all versions of `key`, which is not behind this place.
    fn pass(&mut self, key: &[u8], cache: &mut BlockCache) -> Result<(), TableError> {
        while self.key() == Some(key) {
            if let Some(walk) = &mut self.walk {
                walk.advance(cache)?;
            }
            if self.key().is_none() {
                self.next_table(None, cache)?;
            }
        }
        Ok(())
    }

    fn next_table(&mut self, key: Option<&[u8]>, cache: &mut BlockCache) -> Result<(), TableError> {
        let Some((next, rest)) = self.rest.split_first() else {
            self.walk = None;
            return Ok(());
        };
        self.rest = rest;
        self.walk = Some(next.table.walk(key, cache)?);
        Ok(())
    }
}
