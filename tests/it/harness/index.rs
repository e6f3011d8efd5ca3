//! What an index holds, byte for byte, read through the program's own table.

use std::ops::Bound;
use std::path::Path;

use minikeyvalue::index::leveldb;
use minikeyvalue::index::table::{Entry, Table};

/// What a rebuild doesn't know: which volume each name is, what is wanted of volumes, and which master's the index is.
const NOT_REBUILT: [&[u8]; 6] =
    [b"!mkv/volume/", b"!mkv/new/", b"!mkv/mode", b"!mkv/gone/", b"!mkv/told/", b"!mkv/ma"];

/// All entries of the index in `dir`, which nobody else may have open, but for [`NOT_REBUILT`].
#[track_caller]
pub fn entries_of(dir: &Path) -> Vec<Entry> {
    let mut table = leveldb::open(dir, leveldb::Options::default()).expect("the index can be opened");
    let mut page = table.page(Bound::Unbounded, usize::MAX).expect("the index can be read");
    let mut entries = page.entries;
    while let Some(last) = page.next {
        page = table.page(Bound::Excluded(&last), usize::MAX).expect("the index can be read");
        entries.append(&mut page.entries);
    }
    Box::new(table).close().expect("the index can be closed");
    entries.retain(|(key, _)| !NOT_REBUILT.iter().any(|prefix| key.starts_with(prefix)));
    entries
}

/// The same as lines of text, so that a difference can be read.
#[track_caller]
pub fn lines_of(dir: &Path) -> Vec<String> {
    let line = |(key, value): &Entry| format!("{} = {}", key.escape_ascii(), value.escape_ascii());
    entries_of(dir).iter().map(line).collect()
}
