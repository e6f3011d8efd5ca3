//! What all tests of the engine need: directories that vanish, options that make every path short, and numbers.

use crate::index::leveldb::guard::{Observer, Operation};
use crate::index::leveldb::{LevelTable, Options, open_observed};
use crate::index::table::{Change, Table, TableError};
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A directory that is removed when the test is done with it. In memory where there is a place for that.
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("mkv-index-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a place for tests");
        Self(path)
    }

    /// Where the index goes: below, so that siblings vanish too.
    pub(super) fn index(&self) -> PathBuf {
        self.0.join("index")
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The names beside the index that begin with `prefix`.
    pub(super) fn siblings(&self, prefix: &str) -> Vec<PathBuf> {
        files(&self.0).into_iter().filter(|path| name(path).starts_with(prefix)).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// So small that a few thousand records go through tables, levels and many blocks.
pub(super) fn small() -> Options {
    Options {
        write_buffer_bytes: 16 << 10,
        table_bytes: 8 << 10,
        block_bytes: 512,
        cache_bytes: 16 << 10,
        ..Options::default()
    }
}

/// Options, and who watches.
pub(super) struct Watched(Options, Option<Arc<dyn Observer>>);

impl From<Options> for Watched {
    fn from(options: Options) -> Self {
        Self(options, None)
    }
}

pub(super) fn observed(observer: &Arc<impl Observer + 'static>) -> Watched {
    watched(small(), observer)
}

pub(super) fn watched(options: Options, observer: &Arc<impl Observer + 'static>) -> Watched {
    Watched(options, Some(observer.clone()))
}

pub(super) fn open(dir: &Path, how: impl Into<Watched>) -> Result<LevelTable, TableError> {
    let Watched(options, observer) = how.into();
    open_observed(dir, options, observer)
}

pub(super) fn open_small(place: &Place) -> LevelTable {
    open(&place.index(), small()).expect("opens")
}

pub(super) fn key(number: usize) -> Vec<u8> {
    format!("/key/{number:07}").into_bytes()
}

pub(super) fn value(number: usize) -> Vec<u8> {
    format!("HASH{number:032x}volume:3001/sv{:02X}", number % 256).into_bytes()
}

pub(super) fn put(number: usize) -> Change {
    Change::Put { key: key(number), value: value(number) }
}

pub(super) fn delete(number: usize) -> Change {
    Change::Delete { key: key(number) }
}

/// Writes in batches of 50.
pub(super) fn fill(
    table: &mut impl Table,
    changes: impl IntoIterator<Item = Change>,
) -> Result<(), TableError> {
    let changes: Vec<Change> = changes.into_iter().collect();
    changes.chunks(50).try_for_each(|batch| table.write(batch))
}

pub(super) fn get(table: &mut impl Table, key: &[u8]) -> Option<Vec<u8>> {
    table.get_many(&[key]).expect("reads").remove(0)
}

/// How many of the records are not there as they were put.
pub(super) fn missing(table: &mut impl Table, numbers: impl IntoIterator<Item = usize>) -> usize {
    numbers.into_iter().filter(|&number| get(table, &key(number)) != Some(value(number))).count()
}

/// All entries, page by page.
pub(super) fn all(table: &mut impl Table, page: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = table.page(Bound::Unbounded, page).expect("pages");
    let mut entries = found.entries;
    while let Some(last) = found.next {
        found = table.page(Bound::Excluded(&last), page).expect("pages");
        entries.append(&mut found.entries);
    }
    entries
}

pub(super) fn close(table: LevelTable) {
    Box::new(table).close().expect("closes");
}

/// Everything is in tables then.
pub(super) fn reopened(place: &Place, table: LevelTable) -> LevelTable {
    close(table);
    open_small(place)
}

pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(dir).expect("lists").map(|entry| entry.expect("lists").path()).collect();
    found.sort();
    found
}

pub(super) fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

pub(super) fn files_named(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|path| name(path).ends_with(suffix)).collect()
}

pub(super) fn largest(files: Vec<PathBuf>) -> PathBuf {
    files.into_iter().max_by_key(|path| fs::metadata(path).expect("there").len()).expect("one at least")
}

pub(super) fn flip_bit(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("reads");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("writes");
}

/// Every file of a directory with its bytes.
pub(super) fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let files = files(dir).into_iter().filter(|path| name(path) != "LOCK");
    files.map(|path| (name(&path), fs::read(&path).expect("reads"))).collect()
}

/// Fails the operations that it is told to, and counts syncs.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) fails: Mutex<Option<Failure>>,
    syncs: AtomicUsize,
}

pub(super) type Failure = Box<dyn FnMut(Operation<'_>) -> Option<io::Error> + Send>;

impl Faults {
    pub(super) fn syncs(&self) -> usize {
        self.syncs.load(Ordering::SeqCst)
    }
}

impl Observer for Faults {
    fn before(&self, operation: Operation<'_>) -> io::Result<()> {
        self.syncs.fetch_add(usize::from(matches!(operation, Operation::Sync(_))), Ordering::SeqCst);
        self.fails.lock().expect("whole").as_mut().and_then(|fails| fails(operation)).map_or(Ok(()), Err)
    }
}

/// SplitMix64: small, and the same on every machine.
pub(super) struct Random(pub(super) u64);

impl Random {
    /// From `MKV_TEST_SEED`, or the clock. Printed, so that a failure can be repeated.
    pub(super) fn from_environment() -> Self {
        let given = std::env::var("MKV_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
        let seed = given.unwrap_or_else(clock);
        println!("MKV_TEST_SEED={seed}");
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
