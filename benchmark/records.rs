//! Records as a full index has them, in no order, and an index full of them.

use crate::scratch::Place;
use crate::{Bench, Outcome};
use minikeyvalue::index::leveldb::{LevelTable, Options, SyncMode, open};
use minikeyvalue::index::table::{Change, Table, TableError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Records of an index of everyday size.
pub(crate) const MILLION: u64 = 1_000_000;

/// Records of one batch while filling.
const FILL_BATCH: u64 = 500;

/// Spreads numbers over all others (splitmix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 31)
}

/// The key of record `number`.
pub(crate) fn key(number: u64) -> String {
    format!("/bucket/{:016x}", mix(number))
}

/// A key beside that of record `number`, which has none.
pub(crate) fn absent_key(number: u64) -> String {
    format!("{}x", key(number))
}

/// A record with a hash and three replicas.
fn put(number: u64) -> Change {
    let hash = mix(number ^ 0x5555);
    let value = format!("HASH{hash:016x}{hash:016x}volume-1:3001/sv01,volume-2:3001/sv02,volume-3:3001/sv03");
    Change::Put { key: key(number).into_bytes(), value: value.into_bytes() }
}

/// The index of a million records, made when it is first asked for.
pub(crate) fn million(bench: &Bench) -> Outcome<PathBuf> {
    let path = bench.scratch.disk.join("million");
    if !path.exists() {
        fill(&path, MILLION)?;
    }
    Ok(path)
}

/// An index of ten million records, and how long each batch kept the owner of the index from lookups.
pub(crate) fn ten_million(bench: &Bench) -> Outcome<(Place, Vec<Duration>)> {
    let place = Place::new(&bench.scratch.disk, "ten-million")?;
    let waits = fill(&place.0.join("indexdb"), 10 * MILLION)?;
    Ok((place, waits))
}

/// Fills an index that isn't there yet; answers how long each of its batches took.
fn fill(dir: &Path, records: u64) -> Outcome<Vec<Duration>> {
    eprintln!("bench:   filling an index with {records} records");
    let dir = dir.to_owned();
    Ok(in_owner(move || {
        let mut table = open(&dir, Options { sync: SyncMode::Never, ..Options::default() })?;
        let mut waits = Vec::new();
        for start in (0..records).step_by(FILL_BATCH as usize) {
            let batch: Vec<Change> = (start..records.min(start + FILL_BATCH)).map(put).collect();
            let begun = Instant::now();
            table.write(&batch)?;
            waits.push(begun.elapsed());
        }
        Box::new(table).close()?;
        Ok(waits)
    })?)
}

/// Runs `work` in a thread that may own a table.
pub(crate) fn in_owner<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TableError> + Send + 'static,
) -> Result<T, TableError> {
    let thread = std::thread::Builder::new().spawn(work);
    thread.expect("the system has room for a thread").join().expect("the owner of a table doesn't panic")
}

/// The index in `dir` as the server opens it.
pub(crate) fn open_as_server(dir: &Path) -> Result<LevelTable, TableError> {
    open(dir, Options::default())
}
