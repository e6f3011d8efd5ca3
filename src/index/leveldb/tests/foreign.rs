//! Indexes that another program wrote: copied once, whole, and never harmed.

use super::bare::{bare_with, into_tables};
use super::power::Plug;
use super::support::{
    Faults, Place, Random, all, close, contents, delete, files_named, fill, get, key, missing, observed,
    open, open_small, put, reopened, small, value,
};
use crate::index::leveldb::guard::Operation;
use crate::index::leveldb::{CopyProgress, LevelTable, Options};
use crate::index::table::{Change, Table, TableError};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;

/// The Go original's index, at the place of ours.
fn go_index() -> Place {
    let place = Place::new();
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/go-cluster.tar.gz");
    let into = place.join("");
    let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&into).arg("indexdb").status();
    assert!(status.expect("tar runs").success());
    fs::rename(place.join("indexdb"), place.index()).expect("renames");
    place
}

/// What the Go original says of each key.
fn expected() -> BTreeMap<Vec<u8>, Value> {
    let text = include_str!("../../../../tests/fixtures/go-cluster.expected.json");
    let keys: BTreeMap<String, Value> = serde_json::from_str(text).expect("valid");
    keys.into_iter().map(|(key, blob)| (BASE64_STANDARD.decode(key).expect("base64"), blob)).collect()
}

/// Whether `record` is what the format says of `blob`.
fn is_right(record: Option<&str>, blob: &Value) -> bool {
    let hash = format!("HASH{}", blob["md5"].as_str().unwrap_or_default());
    let volumes =
        || blob["volumes"].as_array().expect("a list").iter().map(|volume| volume.as_str().expect("a name"));
    match (blob["state"].as_str().expect("a state"), record) {
        ("absent", record) => record.is_none(),
        ("unlinked", Some(record)) => record.starts_with(&format!("DELETED{hash}")),
        ("live", Some(record)) => record == hash + &volumes().collect::<Vec<_>>().join(","),
        _ => false,
    }
}

fn check_go_keys(table: &mut LevelTable) {
    for (key, blob) in expected() {
        let record = get(table, &key).map(|record| String::from_utf8(record).expect("text"));
        assert!(is_right(record.as_deref(), &blob), "{:?}: {record:?}", String::from_utf8_lossy(&key));
    }
}

#[test]
fn an_index_of_the_go_original_is_right_for_every_key() {
    let place = go_index();
    let original = contents(&place.index());
    let mut table = open_small(&place);
    check_go_keys(&mut table);
    let keys = expected().into_iter().filter(|(_, blob)| blob["state"] != "absent").map(|(key, _)| key);
    assert!(all(&mut table, 7).into_iter().map(|(key, _)| key).eq(keys));
    let kept = place.siblings("index.old-");
    assert_eq!(kept.len(), 1);
    assert_eq!(contents(&kept[0]), original, "byte for byte");
    assert!(place.siblings("index.new-").is_empty());
}

#[test]
fn an_index_of_the_go_original_stays_right_through_our_own_work() {
    let place = go_index();
    let mut table = open_small(&place);
    fill(&mut table, (0..2_000).map(put)).expect("writes");
    table = reopened(&place, table);
    fill(&mut table, (0..2_000).step_by(2).map(delete)).expect("deletes");
    close(table);
    let mut table = open_small(&place);
    check_go_keys(&mut table);
    assert_eq!(missing(&mut table, (1..2_000).step_by(2)), 0);
    assert_eq!(place.siblings("index.old-").len(), 1, "copied once only");
}

/// Tables with the bare engine's filter, some tombstones in newer ones.
fn engines_index() -> Place {
    let place = Place::new();
    let mut table = bare_with(&place.index(), into_tables());
    fill(&mut table, (0..2_000).map(put)).expect("writes");
    fill(&mut table, (1..2_000).step_by(2).map(delete)).expect("deletes");
    place
}

/// The engine takes whatever filter it finds for its own, and then finds nothing.
#[test]
fn tables_with_a_foreign_filter_are_copied() {
    let place = engines_index();
    let mut table = open_small(&place);
    assert_eq!(missing(&mut table, (0..2_000).step_by(2)), 0);
    assert_eq!(all(&mut table, 100).len(), 1_000);
    assert_eq!(place.siblings("index.old-").len(), 1);
}

#[test]
fn one_foreign_table_among_ours_is_enough() {
    let place = Place::new();
    let mut table = open_small(&place);
    fill(&mut table, (0..1_000).map(put)).expect("writes");
    close(table);
    let mut table = bare_with(&place.index(), into_tables());
    fill(&mut table, (1_000..2_000).map(put)).expect("writes");
    drop(table);
    let mut table = open_small(&place);
    assert_eq!(missing(&mut table, 0..2_000), 0);
    assert_eq!(place.siblings("index.old-").len(), 1);
}

#[test]
fn the_bare_engine_trusts_another_filter() {
    let place = Place::new();
    let mut table = open_small(&place);
    fill(&mut table, (0..1_000).map(put)).expect("writes");
    close(table);
    assert!(missing(&mut bare_with(&place.index(), into_tables()), 0..1_000) > 0);
}

#[test]
fn tables_with_their_old_name_are_copied() {
    let place = engines_index();
    for path in files_named(&place.index(), ".ldb") {
        fs::rename(&path, path.with_extension("sst")).expect("renames");
    }
    assert_eq!(missing(&mut open_small(&place), (0..2_000).step_by(2)), 0);
}

/// Killed, or without power, at any operation: the next start has every record.
#[test]
fn a_copy_that_is_interrupted_anywhere_is_made_again() {
    let mut random = Random::from_environment();
    let place = engines_index();
    let mut operations = 0;
    loop {
        let plug = Arc::new(Plug::new(place.join("attic"), operations));
        match open(&place.index(), observed(&plug)) {
            Ok(table) => break drop(table),
            Err(err) => {
                assert!(plug.is_pulled(), "{err}");
                plug.cut(&mut random);
            }
        }
        operations += 1 + operations / 6;
    }
    assert!(operations > 100, "{operations}");
    assert_eq!(missing(&mut open_small(&place), (0..2_000).step_by(2)), 0);
}

#[test]
fn an_exchange_that_was_interrupted_between_its_renames_is_finished() {
    let place = engines_index();
    let faults = Arc::new(Faults::default());
    let mut renames = 0;
    *faults.fails.lock().expect("whole") = Some(Box::new(move |operation| {
        renames += usize::from(matches!(operation, Operation::Rename { to, .. } if !to.ends_with("CURRENT")));
        (renames == 2).then(|| std::io::Error::other("killed"))
    }));
    assert!(open(&place.index(), observed(&faults)).is_err());
    assert!(!place.index().exists());
    let mut table = open_small(&place);
    assert_eq!(missing(&mut table, (0..2_000).step_by(2)), 0);
    assert_eq!(place.siblings("index.").len(), 1, "the old one");
}

#[test]
fn an_absent_index_beside_an_old_one_or_a_copy_is_refused() {
    for left in ["index.old-123", "index.new-123"] {
        let place = engines_index();
        fs::rename(place.index(), place.join(left)).expect("renames");
        let opened = open(&place.index(), small());
        assert!(
            matches!(&opened, Err(TableError::Refused { reason, .. }) if reason.contains("rename it back"))
        );
        assert!(!place.index().exists());
    }
}

#[test]
fn a_damaged_original_is_refused_and_kept() {
    let place = engines_index();
    let path = super::support::largest(files_named(&place.index(), ".ldb"));
    super::support::flip_bit(&path, 300);
    let before = contents(&place.index());
    assert!(matches!(open(&place.index(), small()), Err(TableError::Corrupt { .. })));
    assert_eq!(contents(&place.index()), before);
    super::support::flip_bit(&path, 300);
    assert_eq!(missing(&mut open_small(&place), (0..2_000).step_by(2)), 0);
    assert!(place.siblings("index.new-").is_empty());
}

#[test]
fn a_copy_keeps_odd_keys_and_empty_values() {
    let place = Place::new();
    let odd: [&[u8]; 5] = [b"\0", b"\0\0", b"/a", b"/a\0", b"\xff\xff\xff"];
    let changes = odd.map(|key| Change::Put { key: key.to_vec(), value: Vec::new() });
    fill(&mut bare_with(&place.index(), into_tables()), changes).expect("writes");
    drop(bare_with(&place.index(), into_tables()));
    let options = Options { on_copy: std::sync::Arc::new(|_: CopyProgress| {}), ..small() };
    let mut table = open(&place.index(), options).expect("opens");
    assert!(odd.iter().all(|key| get(&mut table, key) == Some(Vec::new())));
    assert_eq!(get(&mut table, &key(1)), None);
    table.write(&[put(1)]).expect("writes");
    assert_eq!(get(&mut table, &key(1)), Some(value(1)));
}
