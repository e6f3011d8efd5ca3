//! Verify-index: reads all of an index, every block of it, and holds every entry against the grammar.

use super::Control;
use super::control::STOPPED;
use super::offline::must_exist;
use crate::index::fault_of;
use crate::index::leveldb;
use crate::index::table::{Table, TableError};
use crate::model::Key;
use std::ops::Bound;
use std::path::Path;

/// Entries that are read at once; the number only bounds memory.
const PAGE_ENTRIES: usize = 1000;

/// Reads the index in `db`, which nobody else may have open, from its beginning to its end; blocks the calling thread. It
/// is opened as a server opens it: one that another program wrote is copied first. A block whose checksum is wrong is an
/// error; entries that are none are problems in the job's progress.
pub fn run(db: &Path, control: &Control) -> Result<(), TableError> {
    must_exist(db)?;
    let mut table = leveldb::open(db, leveldb::Options::default())?;
    read_all(&mut table, control)?;
    Box::new(table).close()
}

fn read_all(table: &mut impl Table, control: &Control) -> Result<(), TableError> {
    let progress = &control.progress;
    progress.begin("reading the index", 0);
    let mut from = Bound::Unbounded;
    while !control.is_stopped() {
        let page = table.page(from.as_ref().map(Vec::as_slice), PAGE_ENTRIES)?;
        for (key, value) in &page.entries {
            if let Some(fault) = fault_of(key, value) {
                match Key::new(key.clone()) {
                    Ok(key) => progress.problem(Some(&key), None, fault),
                    Err(_) => progress.problem(None, None, format_args!("{}: {fault}", key.escape_ascii())),
                }
            }
        }
        // The index's own entries are none.
        progress.add_keys(page.entries.iter().filter(|(key, _)| key.starts_with(b"/")).count() as u64);
        match page.next {
            Some(key) => from = Bound::Excluded(key),
            None => return Ok(()),
        }
    }
    progress.problem(None, None, STOPPED);
    Ok(())
}
