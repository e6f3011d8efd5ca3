//! The actor over a table in memory that can be looked into, slowed down and broken.

use super::table::{self, Change, Entry, Table, TableError};
use super::*;
use crate::model::{Generation, State};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is below several actors, one after the other.
#[derive(Default)]
struct Disk {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    writes: usize,
    broken: bool,
}

#[derive(Clone, Default)]
struct MemoryTable {
    disk: Arc<Mutex<Disk>>,
    write_takes: Duration,
}

impl Table for MemoryTable {
    fn get_many(&mut self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, TableError> {
        let disk = self.disk.lock().unwrap();
        Ok(keys.iter().map(|key| disk.entries.get(*key).cloned()).collect())
    }

    fn page(&mut self, from: Bound<&[u8]>, limit: usize) -> Result<table::Page, TableError> {
        let disk = self.disk.lock().unwrap();
        let range = disk.entries.range::<[u8], _>((from, Bound::Unbounded)).take(limit);
        let entries: Vec<Entry> = range.map(|(key, value)| (key.clone(), value.clone())).collect();
        let next = entries.last().filter(|_| entries.len() == limit).map(|(key, _)| key.clone());
        Ok(table::Page { entries, next })
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), TableError> {
        std::thread::sleep(self.write_takes);
        let mut disk = self.disk.lock().unwrap();
        if disk.broken {
            return Err(TableError::Io { reason: "the disk is full".into() });
        }
        disk.writes += 1;
        for change in changes {
            match change {
                Change::Put { key, value } => drop(disk.entries.insert(key.clone(), value.clone())),
                Change::Delete { key } => drop(disk.entries.remove(key)),
            }
        }
        Ok(())
    }

    fn upkeep(&mut self) -> Result<bool, TableError> {
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result<(), TableError> {
        Ok(())
    }
}

impl MemoryTable {
    fn value(&self, key: &str) -> Option<String> {
        let disk = self.disk.lock().unwrap();
        disk.entries.get(key.as_bytes()).map(|value| String::from_utf8(value.clone()).unwrap())
    }

    fn slots(&self) -> Vec<String> {
        let disk = self.disk.lock().unwrap();
        let slots = disk.entries.iter().filter(|(key, _)| slots::parse_slot_key(key).is_some());
        slots.map(|(_, value)| String::from_utf8(value.clone()).unwrap()).collect()
    }
}

/// Removals are due at once.
const NO_GRACE: u64 = 0;

fn start(table: &MemoryTable) -> IndexServer {
    let table = table.clone();
    IndexServer::start(move || Ok(table), NO_GRACE).unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn places(names: &[&str]) -> Vec<Replica> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn put() -> Verb {
    Verb::Put(places(&["a:1", "b:1"]))
}

fn record(reservation: &Reservation) -> Record {
    let replicas = places(&["a:1", "b:1"]);
    Record { state: State::Live, md5: None, generation: reservation.generation(), replicas }
}

async fn store(index: &Index, name: &str) {
    let reservation = index.reserve(&key(name), put()).await.unwrap();
    let record = record(&reservation);
    reservation.commit(record, Ending::default()).await.unwrap();
}

#[actix_rt::test]
async fn a_commit_stores_the_record_and_frees_the_intent_in_one_write() {
    let table = MemoryTable::default();
    let index = start(&table).sender().handle();
    let reservation = index.reserve(&key("/k"), put()).await.unwrap();
    assert_eq!(reservation.generation(), None, "nothing was there: the plain path");
    assert_eq!((table.value("/k"), table.slots().len()), (None, 1));
    assert!(table.slots()[0].contains("b:1"), "the intent is durable before the reservation is handed out");
    let writes = table.disk.lock().unwrap().writes;
    let record = record(&reservation);
    reservation.commit(record, Ending::default()).await.unwrap();
    assert_eq!(table.disk.lock().unwrap().writes, writes + 1);
    assert_eq!((table.value("/k").as_deref(), table.slots()), (Some("a:1,b:1"), vec![String::new()]));
    assert!(index.locate(&key("/k")).await.unwrap().is_some());
}

#[test]
fn only_calls_above_50_ms_are_stalls() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let told = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let slow = MemoryTable { write_takes: Duration::from_millis(51), ..MemoryTable::default() };
        for table in [MemoryTable::default(), slow] {
            Measured::new(table).write(&[Change::Delete { key: b"/a".to_vec() }]).expect("it works");
        }
    });
    let text = told.render();
    for sample in ["mkv_index_sync_duration_seconds_count 2", "mkv_index_stall_duration_seconds_count 1"] {
        assert!(text.contains(sample), "{text}");
    }
}

#[actix_rt::test]
async fn keys_are_counted_while_they_are_written() {
    let table = MemoryTable::default();
    let entry = |number: usize| {
        let value = if number.is_multiple_of(3) { "DELETEDa:1" } else { "a:1" };
        (format!("/{number:05}").into_bytes(), value.as_bytes().to_vec())
    };
    table.disk.lock().unwrap().entries.extend((0..20_000).map(entry));
    let index = start(&table).sender().handle();
    assert_eq!(index.key_counts().await.unwrap(), None, "nobody has asked before");
    for number in (0..20_000).step_by(500) {
        let known = key(&format!("/{number:05}"));
        let gone = index.reserve(&known, Verb::Remove { protect: false }).await.unwrap();
        gone.release(Ending::default()).await.unwrap();
        store(&index, &format!("/{number:05}/new")).await;
    }
    let counts = loop {
        if let Some(counts) = index.key_counts().await.unwrap() {
            break counts;
        }
    };
    let disk = table.disk.lock().unwrap();
    let records = disk.entries.iter().filter(|(key, _)| key.starts_with(b"/"));
    let live = records.clone().filter(|(_, value)| !value.starts_with(b"DELETED")).count() as u64;
    let unlinked = records.count() as u64 - live;
    assert_eq!(counts, KeyCounts { live, unlinked });
}

#[actix_rt::test]
async fn one_writer_holds_a_key_and_others_are_told() {
    let index = start(&MemoryTable::default()).sender().handle();
    let held = index.reserve(&key("/k"), put()).await.unwrap();
    for verb in [put(), Verb::Replace(places(&["a:1"])), Verb::Unlink, Verb::Remove { protect: false }] {
        assert!(matches!(index.reserve(&key("/k"), verb).await, Err(IndexError::Busy { .. })));
    }
    assert!(index.reserve(&key("/other"), put()).await.is_ok());
    held.release(Ending::default()).await.unwrap();
    assert!(index.reserve(&key("/k"), put()).await.is_ok());
}

#[actix_rt::test]
async fn what_may_be_done_depends_on_the_record() {
    let index = start(&MemoryTable::default()).sender().handle();
    let refusal = async |name: &str, verb| index.reserve(&key(name), verb).await.err();
    assert!(matches!(refusal("/none", Verb::Unlink).await, Some(IndexError::NotFound { .. })));
    assert!(matches!(
        refusal("/none", Verb::Remove { protect: false }).await,
        Some(IndexError::NotFound { .. })
    ));
    store(&index, "/k").await;
    assert!(matches!(refusal("/k", put()).await, Some(IndexError::Exists { .. })));
    assert!(matches!(refusal("/k", Verb::Relink).await, Some(IndexError::NotFound { .. })));
    assert!(matches!(
        refusal("/k", Verb::Remove { protect: true }).await,
        Some(IndexError::Protected { .. })
    ));
    let reservation = index.reserve(&key("/k"), Verb::Unlink).await.unwrap();
    let tombstone = Record { state: State::Unlinked, ..record(&reservation) };
    reservation.commit(tombstone, Ending::default()).await.unwrap();
    assert!(matches!(refusal("/k", Verb::Unlink).await, Some(IndexError::NotFound { .. })));
    let over = index.reserve(&key("/k"), put()).await.unwrap();
    assert!(over.generation().is_some(), "a put over an unlinked key is a generation");
}

#[actix_rt::test]
async fn a_dropped_reservation_frees_the_key_and_leaves_its_files_to_be_settled() {
    let table = MemoryTable::default();
    let index = start(&table).sender().handle();
    drop(index.reserve(&key("/k"), put()).await.unwrap());
    let due = index.due(10).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].1.files.len(), 2);
    let again = index.reserve(&key("/k"), put()).await.unwrap();
    assert!(again.generation().is_some(), "the plain path may still be written by the abandoned put");
    assert!(index.claim(due[0].0).await.unwrap().is_none(), "settling waits for the writer");
    again.release(Ending::default()).await.unwrap();
    let claimed = index.claim(due[0].0).await.unwrap().expect("it is due");
    claimed.release(Ending::default()).await.unwrap();
    assert_eq!(index.unsettled().await.unwrap(), 0);
    assert_eq!(index.reserve(&key("/k"), put()).await.unwrap().generation(), None);
}

#[actix_rt::test]
async fn a_writer_waits_for_the_background_instead_of_being_refused() {
    let index = start(&MemoryTable::default()).sender().handle();
    drop(index.reserve(&key("/k"), put()).await.unwrap());
    let slot = index.due(1).await.unwrap()[0].0;
    let claimed = index.claim(slot).await.unwrap().expect("it is due");
    let (first, second) = (index.clone(), index.clone());
    let first = actix_rt::spawn(async move { first.reserve(&key("/k"), put()).await });
    let second = actix_rt::spawn(async move { second.reserve(&key("/k"), put()).await });
    // Both are with the actor by the time that it answers this.
    tokio::task::yield_now().await;
    index.unsettled().await.unwrap();
    assert!(!first.is_finished() && !second.is_finished());
    claimed.release(Ending::default()).await.unwrap();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert!(first.is_ok(), "the first gets the key");
    assert!(matches!(second, Err(IndexError::Busy { .. })), "for the second there is a writer now");
}

#[actix_rt::test]
async fn the_next_process_finds_what_was_cut_off() {
    let table = MemoryTable::default();
    let first = start(&table).sender().handle();
    let mut reservation = first.reserve(&key("/k"), put()).await.unwrap();
    reservation.extend(&places(&["c:1"])[0]).await.unwrap();
    // The first process is gone without a word; its table is what was durable.
    let second = start(&table).sender().handle();
    let due = second.due(10).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].1.files.len(), 3);
    assert!(due[0].1.files.iter().all(|placed| placed.in_doubt));
    assert_eq!(first.cluster_id().await.unwrap(), second.cluster_id().await.unwrap());
}

#[actix_rt::test]
async fn a_removal_forgets_the_record_at_once_and_takes_over_what_was_left() {
    let table = MemoryTable::default();
    let index = start(&table).sender().handle();
    store(&index, "/k").await;
    let reservation = index.reserve(&key("/k"), Verb::Replace(places(&["a:1"]))).await.unwrap();
    let generation = reservation.generation();
    let left = files_at(&places(&["b:1"]), &[File::Blob(None)]);
    let newer = Record { replicas: places(&["a:1"]), ..record(&reservation) };
    reservation.commit(newer, Ending { left, not_before_us: u64::MAX }).await.unwrap();
    let removal = index.reserve(&key("/k"), Verb::Remove { protect: false }).await.unwrap();
    assert_eq!((table.value("/k"), index.locate(&key("/k")).await.unwrap()), (None, None));
    let files: Vec<File> = removal.files().iter().map(|placed| placed.file).collect();
    assert_eq!(files, [File::Blob(generation), File::Sidecar, File::Blob(None)]);
    let left = removal.files().to_vec();
    removal.release(Ending { left, not_before_us: 0 }).await.unwrap();
    let again = index.reserve(&key("/k"), Verb::Remove { protect: true }).await.unwrap();
    assert_eq!(again.files().len(), 3, "a removal that is not done can be asked for again");
    again.release(Ending::default()).await.unwrap();
    assert!(matches!(index.reserve(&key("/k"), Verb::Unlink).await, Err(IndexError::NotFound { .. })));
}

#[actix_rt::test]
async fn slots_are_used_again_and_gone_after_a_clean_stop() {
    let table = MemoryTable::default();
    let server = start(&table);
    let index = server.sender().handle();
    for number in 0..50 {
        store(&index, &format!("/{number}")).await;
    }
    assert_eq!(table.slots().len(), 1, "one writer needs one slot");
    server.close().await.unwrap();
    assert_eq!(table.slots(), Vec::<String>::new());
    let disk = table.disk.lock().unwrap();
    let reserved = disk.entries.keys().filter(|key| key.starts_with(b"!")).count();
    assert_eq!(
        (disk.entries.len(), reserved),
        (53, 3),
        "the records, the cluster id, the format and the mark"
    );
}

#[actix_rt::test]
async fn each_new_index_is_a_cluster_of_its_own() {
    let one = start(&MemoryTable::default()).sender().handle().cluster_id().await.unwrap();
    let two = start(&MemoryTable::default()).sender().handle().cluster_id().await.unwrap();
    assert_ne!(one, two);
    assert!(one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
}

#[actix_rt::test]
async fn many_writers_share_a_sync() {
    let table = MemoryTable { write_takes: Duration::from_millis(5), ..MemoryTable::default() };
    let index = start(&table).sender().handle();
    let started = Instant::now();
    let names: Vec<String> = (0..200).map(|number| format!("/{number}")).collect();
    futures_util::future::join_all(names.iter().map(|name| store(&index, name))).await;
    let writes = table.disk.lock().unwrap().writes;
    assert!(writes < 40, "{writes} writes for 400 messages in {:?}", started.elapsed());
}

#[actix_rt::test]
async fn versions_of_a_key_have_rising_times_whatever_the_clock_does() {
    let table = MemoryTable::default();
    let future = Generation::new(now_us() + 3_600_000_000);
    table.disk.lock().unwrap().entries.insert(b"/k".to_vec(), format!("GEN{future}a:1").into_bytes());
    let index = start(&table).sender().handle();
    let reservation = index.reserve(&key("/k"), Verb::Replace(places(&["a:1"]))).await.unwrap();
    assert!(reservation.generation() > Some(future));
}

#[actix_rt::test]
async fn a_value_that_is_no_record_is_reported_with_its_key() {
    let table = MemoryTable::default();
    table.disk.lock().unwrap().entries.insert(b"/k".to_vec(), b"HASH".to_vec());
    let index = start(&table).sender().handle();
    assert!(
        matches!(index.locate(&key("/k")).await, Err(IndexError::Record { key, .. }) if key.as_bytes() == b"/k")
    );
    assert!(matches!(index.reserve(&key("/k"), put()).await, Err(IndexError::Record { .. })));
}

#[actix_rt::test]
async fn a_table_that_fails_stops_the_index_and_nothing_is_acknowledged() {
    let table = MemoryTable::default();
    let mut server = start(&table);
    let index = server.sender().handle();
    let reservation = index.reserve(&key("/k"), put()).await.unwrap();
    table.disk.lock().unwrap().broken = true;
    let record = record(&reservation);
    assert!(matches!(reservation.commit(record, Ending::default()).await, Err(IndexError::Stopped)));
    assert!(server.failed().await.to_string().contains("the disk is full"));
    assert!(matches!(index.locate(&key("/k")).await, Err(IndexError::Stopped)));
}

#[actix_rt::test]
async fn pages_skip_what_is_in_the_other_state_and_end_with_the_prefix() {
    let table = MemoryTable::default();
    for number in 0..300 {
        let state = if number % 3 == 0 { "DELETED" } else { "" };
        let entry = (format!("/a/{number:03}").into_bytes(), format!("{state}a:1").into_bytes());
        table.disk.lock().unwrap().entries.extend([entry]);
    }
    table.disk.lock().unwrap().entries.insert(b"/b".to_vec(), b"a:1".to_vec());
    let index = start(&table).sender().handle();
    for (listing, expected) in [(Listing::Live, 200), (Listing::Unlinked, 100)] {
        let mut from = Some(Bound::Included(b"/a/".to_vec()));
        let mut found = Vec::new();
        while let Some(start) = from {
            let request = PageRequest { prefix: b"/a/".to_vec(), from: start, limit: 7, listing };
            let page = index.list(request).await.unwrap();
            assert!(page.keys.len() <= 7);
            found.extend(page.keys);
            from = page.next;
        }
        assert_eq!(found.len(), expected);
        assert!(found.is_sorted());
    }
}

#[actix_rt::test]
async fn a_move_names_what_it_writes_and_writers_wait_for_it() {
    let table = MemoryTable::default();
    let index = start(&table).sender().handle();
    assert!(matches!(
        index.reserve(&key("/none"), Verb::Move(places(&["c:1"]))).await,
        Err(IndexError::NotFound { .. })
    ));
    store(&index, "/k").await;
    let moving = index.reserve(&key("/k"), Verb::Move(places(&["b:1", "c:1"]))).await.unwrap();
    assert_eq!(moving.files(), files_at(&places(&["c:1"]), &[File::Blob(None), File::Sidecar]));
    assert_eq!(table.value("/k").as_deref(), Some("a:1,b:1"), "the record is as it was");
    let writer = index.clone();
    let writer = actix_rt::spawn(async move { writer.reserve(&key("/k"), Verb::Unlink).await });
    tokio::task::yield_now().await;
    assert_eq!(listed(&index, Listing::Writing).await, Vec::<String>::new(), "nobody writes it");
    assert!(!writer.is_finished());
    let record = Record { replicas: places(&["b:1", "c:1"]), ..moving.previous().unwrap().clone() };
    let left = files_at(&places(&["a:1"]), &[File::Blob(None)]);
    moving.commit(record, Ending { left, not_before_us: 0 }).await.unwrap();
    let writer = writer.await.unwrap().expect("the key is free");
    assert_eq!(writer.previous().map(|record| record.to_string()).as_deref(), Some("b:1,c:1"));
    assert!(matches!(index.reserve(&key("/k"), Verb::Move(Vec::new())).await, Err(IndexError::Busy { .. })));
    assert_eq!(listed(&index, Listing::Writing).await, ["/k"]);
}

/// Who waits for the writers of now must not wait for those who come after them.
#[actix_rt::test]
async fn one_writer_after_another_is_told_from_one_that_goes_on() {
    let index = start(&MemoryTable::default()).sender().handle();
    let first = index.reserve(&key("/busy"), Verb::Put(places(&["a:1"]))).await.unwrap();
    let other = index.reserve(&key("/slow"), Verb::Put(places(&["a:1"]))).await.unwrap();
    let held = async || index.held_since_us().await.unwrap().into_iter().collect::<BTreeSet<u64>>();
    let before = held().await;
    assert_eq!(before, BTreeSet::from([first.time_us(), other.time_us()]));
    first.release(Ending::default()).await.unwrap();
    let next = index.reserve(&key("/busy"), Verb::Put(places(&["a:1"]))).await.unwrap();
    let now = held().await;
    assert_eq!(now, BTreeSet::from([next.time_us(), other.time_us()]));
    assert_eq!(before.intersection(&now).collect::<Vec<_>>(), [&other.time_us()]);
}

async fn listed(index: &Index, listing: Listing) -> Vec<String> {
    let request = PageRequest { prefix: b"/".to_vec(), from: Bound::Unbounded, limit: 100, listing };
    let page = index.list(request).await.unwrap();
    page.keys.into_iter().map(|key| String::from_utf8(key).unwrap()).collect()
}

#[actix_rt::test]
async fn a_move_that_writes_nothing_costs_one_write_and_leaves_nothing() {
    let table = MemoryTable::default();
    let index = start(&table).sender().handle();
    store(&index, "/k").await;
    let writes = || table.disk.lock().unwrap().writes;
    let before = writes();
    let moving = index.reserve(&key("/k"), Verb::Move(places(&["a:1"]))).await.unwrap();
    assert_eq!((moving.files().len(), writes()), (0, before));
    let record = Record { replicas: places(&["b:1", "a:1"]), ..moving.previous().unwrap().clone() };
    moving.commit(record, Ending::default()).await.unwrap();
    assert_eq!((table.value("/k").as_deref(), writes()), (Some("b:1,a:1"), before + 1));
    drop(index.reserve(&key("/k"), Verb::Move(Vec::new())).await.unwrap());
    assert_eq!(index.unsettled().await.unwrap(), 0);
    assert!(index.reserve(&key("/k"), Verb::Unlink).await.is_ok());
}

#[actix_rt::test]
async fn a_move_knows_what_is_in_doubt() {
    let index = start(&MemoryTable::default()).sender().handle();
    store(&index, "/k").await;
    let moving = index.reserve(&key("/k"), Verb::Move(places(&["c:1"]))).await.unwrap();
    let mut left = files_at(&places(&["c:1", "d:1"]), &[File::Blob(None)]);
    left[0].in_doubt = true;
    moving.release(Ending { left, not_before_us: u64::MAX }).await.unwrap();
    let again = index.reserve(&key("/k"), Verb::Move(places(&["c:1"]))).await.unwrap();
    let in_doubt = |place: &str| again.is_in_doubt(File::Blob(None), &places(&[place])[0]);
    assert_eq!(["a:1", "c:1", "d:1"].map(in_doubt), [false, true, false]);
}

#[actix_rt::test]
async fn a_scan_goes_through_all_records_whatever_their_state() {
    let table = MemoryTable::default();
    let entries = [("/a", "a:1"), ("/b", "DELETEDa:1"), ("/c", "HASH"), ("/d", "b:1")];
    let entries = entries.map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
    table.disk.lock().unwrap().entries.extend(entries);
    let index = start(&table).sender().handle();
    let mut from = Some(Bound::Included(b"/".to_vec()));
    let mut found = Vec::new();
    while let Some(start) = from {
        let page = index.scan(start, 2).await.unwrap();
        assert!(page.entries.len() <= 2);
        found.extend(page.entries.into_iter().map(|(key, record)| (key.to_string(), record.is_ok())));
        from = page.next;
    }
    let expected = [("/a", true), ("/b", true), ("/c", false), ("/d", true)];
    assert_eq!(found, expected.map(|(key, is_ok)| (key.to_owned(), is_ok)));
}
