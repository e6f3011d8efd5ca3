//! Faults of lookups, iterators and handles that need no failing disk.

use super::bare::{bare, bare_with, into_tables};
use super::support::{
    Place, all, close, delete, files, fill, get, key, missing, open, open_small, put, reopened, small, value,
};
use crate::index::leveldb::Options;
use crate::index::leveldb::engine::LONG_MANIFEST_BYTES;
use crate::index::leveldb::reader::MAX_DELETED;
use crate::index::table::{Change, Table, TableError};
use std::fs;
use std::ops::Bound;
use std::path::Path;

/// Odd keys die, even ones live.
const RECORDS: usize = 20_000;

fn bury_the_odd(table: &mut impl Table) {
    fill(table, (1..RECORDS).step_by(2).map(delete)).expect("deletes");
}

/// A false positive of the filter suffices: the next entry in the newer table is a tombstone.
#[test]
fn a_live_key_is_not_hidden_by_a_neighbours_tombstone() {
    let place = Place::new();
    let mut table = open_small(&place);
    fill(&mut table, (0..RECORDS).map(put)).expect("writes");
    bury_the_odd(&mut table);
    let mut table = reopened(&place, table);
    assert_eq!(missing(&mut table, (0..RECORDS).step_by(2)), 0);
    assert!((1..RECORDS).step_by(2).all(|number| get(&mut table, &key(number)).is_none()));

    let other = Place::new();
    let mut table = bare_with(&other.index(), into_tables());
    fill(&mut table, (0..RECORDS).map(put)).expect("writes");
    bury_the_odd(&mut table);
    assert!(missing(&mut table, (0..RECORDS).step_by(2)) > 0, "the bare engine hides some");
}

/// The engine's separator of two such keys is the second one.
#[test]
fn a_key_with_a_zero_byte_behind_another_is_found() {
    fn work(table: &mut impl Table) {
        let filler = |name: &[u8]| Change::Put { key: name.to_vec(), value: vec![b'v'; 600] };
        // The second key is the newer one, and each is a block of its own.
        table.write(&[filler(b"/a"), filler(b"/a\0"), filler(b"/b")]).expect("writes");
    }
    let place = Place::new();
    let mut table = open_small(&place);
    work(&mut table);
    let mut table = reopened(&place, table);
    assert!([&b"/a"[..], b"/a\0", b"/b"].iter().all(|key| get(&mut table, key).is_some()));

    let other = Place::new();
    work(&mut bare_with(&other.index(), into_tables()));
    let mut bare = bare_with(&other.index(), into_tables());
    assert!(get(&mut bare, b"/a\0").is_none(), "the bare engine looks in the wrong block");
}

/// The last write of all, with an older value of its key in the next block.
#[test]
fn the_last_write_is_found_after_opening() {
    fn work(table: &mut impl Table) {
        for round in 0..3 {
            table.write(&[Change::Put { key: b"/k".to_vec(), value: vec![round; 600] }]).expect("writes");
        }
    }
    let place = Place::new();
    let mut table = open_small(&place);
    work(&mut table);
    let mut table = reopened(&place, table);
    assert_eq!(get(&mut table, b"/k"), Some(vec![2; 600]));

    let other = Place::new();
    work(&mut bare_with(&other.index(), into_tables()));
    assert!(
        get(&mut bare_with(&other.index(), into_tables()), b"/k").is_none(),
        "the bare engine stops a block early"
    );
}

/// The engine asks level 0 in the wrong way whether a new table overlaps it, and puts it below older ones.
#[test]
fn a_new_table_is_never_put_below_older_ones() {
    const TABLES: [&[(&str, &str)]; 5] = [
        &[("x", "1"), ("y", "1")],
        &[("x", "2"), ("y", "2")],
        &[("a", "1"), ("m", "old"), ("z", "1")],
        &[("b", "1"), ("c", "1")],
        &[("m", "new"), ("n", "1")],
    ];
    fn changes(entries: &[(&str, &str)]) -> Vec<Change> {
        let change = |(key, value): &(&str, &str)| Change::Put { key: (*key).into(), value: (*value).into() };
        entries.iter().map(change).collect()
    }
    let place = Place::new();
    for entries in TABLES {
        let mut table = open_small(&place);
        table.write(&changes(entries)).expect("writes");
        close(table);
    }
    assert_eq!(get(&mut open_small(&place), b"m"), Some(b"new".to_vec()));

    let mut engine = bare(&place.join("bare"));
    for entries in TABLES {
        engine.write(&changes(entries)).expect("writes");
        // Makes a table of it, and compacts nothing.
        engine.0.compact_range(&[255; 9], &[255; 9]).expect("flushes");
    }
    assert_eq!(get(&mut engine, b"m"), Some(b"old".to_vec()), "the bare engine finds the older one");
}

/// The engine's iterator ends early when something is written while it is held.
#[test]
fn pages_are_complete_while_writes_go_on() {
    let place = Place::new();
    let mut table = open_small(&place);
    fill(&mut table, (0..5_000).map(put)).expect("writes");
    let mut seen = 0;
    let mut from = key(0);
    loop {
        let page = table.page(Bound::Excluded(&from), 100).expect("pages");
        seen += page.entries.len();
        let Some(last) = page.next else { break };
        from = last;
        fill(&mut table, (0..500).map(put)).expect("writes");
    }
    assert_eq!(seen, 4_999);
}

/// Everybody waits for a page.
#[test]
fn a_page_goes_only_so_far_over_deleted_keys() {
    let place = Place::new();
    let mut table = open_small(&place);
    let count = 3 * MAX_DELETED;
    fill(&mut table, (0..count).map(put)).expect("writes");
    fill(&mut table, (1..count - 1).map(delete)).expect("writes");
    let (mut found, mut pages, mut from) = (Vec::new(), 0, None);
    loop {
        let bound = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = table.page(bound, 10).expect("pages");
        found.extend(page.entries);
        pages += 1;
        let Some(next) = page.next else { break };
        assert!(from.as_ref().is_none_or(|from| *from < next), "it goes on");
        from = Some(next);
    }
    assert_eq!(found, [0, count - 1].map(|number| (key(number), value(number))));
    assert_eq!(pages, 3);
}

fn bytes_of(dir: &Path) -> u64 {
    files(dir).iter().map(|path| fs::metadata(path).expect("there").len()).sum()
}

const GARBAGE_BYTES: usize = 2 << 20;

/// After its first iterator the bare engine's compactions keep every old version.
#[test]
fn garbage_is_dropped_after_pages() {
    fn work(table: &mut impl Table) {
        fill(table, (0..100).map(put)).expect("writes");
        table.page(Bound::Unbounded, 1).expect("pages");
        for _ in 0..4 * GARBAGE_BYTES / (1_000 * 1_000) {
            let value = vec![7; 1_000];
            let changes =
                (0..1_000).map(|number| Change::Put { key: key(number % 50), value: value.clone() });
            fill(table, changes).expect("writes");
            table.upkeep().expect("upkeep");
        }
    }
    let roomy = Options { write_buffer_bytes: 64 << 10, ..Options::default() };
    let place = Place::new();
    let mut table = open(&place.index(), roomy).expect("opens");
    work(&mut table);
    assert!(bytes_of(&place.index()) < 3 * GARBAGE_BYTES as u64, "{}", bytes_of(&place.index()));

    let other = Place::new();
    work(&mut bare(&other.index()));
    assert!(bytes_of(&other.index()) > 3 * GARBAGE_BYTES as u64, "the bare engine drops nothing");
}

/// It only gets shorter when it is opened, and longer to replay with the square of its length.
#[test]
fn the_manifest_stays_short() {
    let place = Place::new();
    let tiny = Options { write_buffer_bytes: 1 << 10, ..small() };
    let mut table = open(&place.index(), tiny).expect("opens");
    let long_key = |number: usize| [&key(number)[..], &[b'x'; 2_000]].concat();
    let guard = table.guard.clone();
    let mut lengths = Vec::new();
    for number in 0..800 {
        table.write(&[Change::Put { key: long_key(number % 7), value: value(number) }]).expect("writes");
        lengths.push(guard.manifest_bytes());
    }
    assert_eq!(all(&mut table, 3).len(), 7);
    close(table);
    lengths.push(guard.manifest_bytes());
    let renewals = lengths.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(
        renewals > 0 && lengths.last().is_some_and(|last| *last < 2 * LONG_MANIFEST_BYTES),
        "{lengths:?}"
    );
    assert_eq!(all(&mut open_small(&place), 3).len(), 7);
}

#[test]
fn a_directory_has_one_owner() {
    let place = Place::new();
    let table = open_small(&place);
    let second = open(&place.index(), small());
    assert!(matches!(second, Err(TableError::Locked { .. })), "{:?}", second.err());
    close(table);
    close(open_small(&place));
}

#[test]
fn batches_are_whole_and_in_order() {
    let place = Place::new();
    let mut table = open_small(&place);
    table.write(&[put(1), delete(1), put(2), delete(2), put(2)]).expect("writes");
    table.write(&[]).expect("writes nothing");
    assert_eq!(all(&mut table, 10), [(key(2), value(2))]);
    assert_eq!(table.get_many(&[&key(2), &key(1)]).expect("reads"), [Some(value(2)), None]);
}

#[test]
fn no_info_log_grows() {
    let place = Place::new();
    let mut table = open_small(&place);
    fill(&mut table, (0..2_000).map(put)).expect("writes");
    assert!(!files(&place.index()).iter().any(|path| path.ends_with("LOG")));
}
