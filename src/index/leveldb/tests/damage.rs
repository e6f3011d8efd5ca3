//! Bytes that are not what was written are an error, never a missing key.

use super::bare::{bare, bare_with, into_tables};
use super::support::{
    Place, close, contents, files, files_named, fill, flip_bit, get, key, largest, missing, name, open,
    open_small, put, reopened, small,
};
use crate::index::leveldb::check::{read_manifest, table_path};
use crate::index::table::{Table, TableError};
use std::fs::{self, OpenOptions};
use std::path::Path;

const RECORDS: usize = 3_000;

/// Gone without closing, with tables and a log.
fn filled() -> Place {
    let place = Place::new();
    let mut table = open_small(&place);
    fill(&mut table, (0..RECORDS).map(put)).expect("writes");
    table = reopened(&place, table);
    (0..20).for_each(|number| table.write(&[put(number)]).expect("writes"));
    drop(table);
    place
}

fn is_corrupt(place: &Place) -> bool {
    let before = contents(&place.index());
    let opened = open(&place.index(), small());
    assert_eq!(contents(&place.index()), before, "nothing was changed");
    matches!(opened, Err(TableError::Corrupt { .. }))
}

#[test]
fn a_flipped_bit_in_a_table_is_an_error() {
    let place = filled();
    let path = largest(files_named(&place.index(), ".ldb"));
    let length = fs::metadata(&path).expect("there").len() as usize;
    // The blocks come first; the filter, the index and the footer follow.
    for at in (100..length).step_by(length / 9) {
        flip_bit(&path, at);
        let seen = open(&place.index(), small()).and_then(|mut table| {
            (0..RECORDS).try_for_each(|number| {
                let found = table.get_many(&[&key(number)])?;
                assert!(found[0].is_some(), "{number} is there, or can't be read");
                Ok(())
            })
        });
        assert!(matches!(seen, Err(TableError::Corrupt { .. })), "flipped at {at}: {seen:?}");
        flip_bit(&path, at);
    }
    assert_eq!(missing(&mut open_small(&place), 0..RECORDS), 0);
}

/// The engine drops a block that it can't read from what a compaction writes, and then deletes its table.
#[test]
fn a_compaction_does_not_make_damage_permanent() {
    let place = filled();
    let mut table = open_small(&place);
    fill(&mut table, (0..RECORDS).map(put)).expect("writes");
    close(table);
    let tables = read_manifest(&place.index()).expect("reads").tables;
    let number = tables.iter().find(|(_, table)| table.level == 1).expect("the next compaction's input").0;
    let path = table_path(&place.index(), *number);
    flip_bit(&path, 300);
    let mut table = open_small(&place);
    let met = (0..100).any(|_| fill(&mut table, (0..RECORDS).map(put)).is_err());
    assert!(met, "a compaction reads the block");
    drop(table);
    flip_bit(&path, 300);
    assert_eq!(missing(&mut open_small(&place), 0..RECORDS), 0);
}

#[test]
fn the_bare_engine_takes_damage_for_missing_keys() {
    let other = Place::new();
    fill(&mut bare_with(&other.index(), into_tables()), (0..RECORDS).map(put)).expect("writes");
    flip_bit(&largest(files_named(&other.index(), ".ldb")), 300);
    assert!(missing(&mut bare_with(&other.index(), into_tables()), 0..RECORDS) > 0);
}

/// The engine drops everything behind it, and opens.
#[test]
fn a_flipped_bit_in_a_log_is_refused() {
    let place = filled();
    let log = largest(files_named(&place.index(), ".log"));
    flip_bit(&log, 200);
    assert!(is_corrupt(&place));
    flip_bit(&log, 200);
    assert_eq!(missing(&mut open_small(&place), 0..RECORDS), 0);

    let other = Place::new();
    let mut engine = bare(&other.index());
    (0..20).for_each(|number| engine.write(&[put(number)]).expect("writes"));
    drop(engine);
    flip_bit(&largest(files_named(&other.index(), ".log")), 200);
    assert!(missing(&mut bare(&other.index()), 0..20) > 10, "the bare engine drops them");
}

#[test]
fn a_log_that_goes_on_after_a_torn_one_is_refused() {
    let place = Place::new();
    let mut table = open_small(&place);
    (0..20).for_each(|number| table.write(&[put(number)]).expect("writes"));
    drop(table);
    let log = largest(files_named(&place.index(), ".log"));
    fs::copy(&log, log.with_file_name("99999999.log")).expect("copies");
    OpenOptions::new().write(true).open(&log).and_then(|file| file.set_len(700)).expect("tears");
    assert!(is_corrupt(&place));
}

#[test]
fn a_flipped_bit_in_the_manifest_is_refused() {
    let place = filled();
    let mut table = open_small(&place);
    fill(&mut table, (0..1_000).map(put)).expect("writes");
    close(table);
    let manifest =
        files(&place.index()).into_iter().find(|path| name(path).starts_with("MANIFEST")).expect("one");
    flip_bit(&manifest, 30);
    assert!(is_corrupt(&place));
}

/// The engine makes a new database over the old one, and deletes all tables.
#[test]
fn an_index_without_current_is_refused_and_kept() {
    let place = filled();
    fs::remove_file(place.index().join("CURRENT")).expect("removes");
    let before = contents(&place.index());
    let opened = open(&place.index(), small());
    assert!(matches!(&opened, Err(TableError::Refused { reason, .. }) if reason.contains("CURRENT")));
    assert_eq!(contents(&place.index()), before);

    let other = Place::new();
    fill(&mut bare(&other.index()), (0..RECORDS).map(put)).expect("writes");
    fs::remove_file(other.index().join("CURRENT")).expect("removes");
    assert!(missing(&mut bare(&other.index()), 0..RECORDS) > RECORDS / 2, "the bare engine begins anew");
}

#[test]
fn a_directory_that_is_no_index_is_refused_and_untouched() {
    let place = Place::new();
    fs::create_dir(place.index()).expect("makes");
    fs::write(place.index().join("letter.txt"), "dear").expect("writes");
    assert!(matches!(open(&place.index(), small()), Err(TableError::Refused { .. })));
    assert_eq!(files(&place.index()).len(), 1, "not even a lock was added");
}

#[test]
fn an_interrupted_creation_is_begun_again() {
    let place = Place::new();
    close(open_small(&place));
    let keep = ["LOCK", "MANIFEST-000001"];
    fs::write(place.index().join("MANIFEST-000001"), "torn").expect("writes");
    for path in files(&place.index()).iter().filter(|path| !keep.contains(&name(path).as_str())) {
        fs::remove_file(path).expect("removes");
    }
    let mut table = open_small(&place);
    table.write(&[put(1)]).expect("writes");
    assert!(get(&mut table, &key(1)).is_some());
}

fn damage_table(damage: impl Fn(&Path, u64)) {
    let place = filled();
    let path = largest(files_named(&place.index(), ".ldb"));
    damage(&path, fs::metadata(&path).expect("there").len());
    assert!(is_corrupt(&place));
}

fn truncate(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(length)).expect("truncates");
}

/// The engine panics at the first, skips the second, and finds the third when it is too late.
#[test]
fn damaged_footers_and_truncated_or_missing_tables_are_refused() {
    damage_table(|path, length| flip_bit(path, length as usize - 3));
    damage_table(|path, _| truncate(path, 0));
    damage_table(|path, length| truncate(path, length - 100));
    damage_table(|path, _| fs::remove_file(path).expect("removes"));
    damage_table(|path, length| truncate(path, length + 1));
}

#[test]
fn a_place_that_cannot_be_written_is_refused_with_its_reason() {
    let opened = open(Path::new("/proc/mkv-index"), small());
    assert!(matches!(&opened, Err(TableError::Refused { reason, .. }) if reason.contains("can't be made")));
}
