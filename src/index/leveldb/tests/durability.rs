//! What is acknowledged is durable, and nothing happens after an error.

use super::bare::bare;
use super::power::Plug;
use super::support::{
    Faults, Place, Random, all, close, delete, files_named, fill, key, largest, missing, observed, open,
    open_small, put, small, watched,
};
use crate::index::leveldb::LevelTable;
use crate::index::leveldb::guard::{Observer, Operation};
use crate::index::leveldb::{Options, SyncMode};
use crate::index::table::{Table, TableError};
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

const NO_SPACE: i32 = 28;
const TOO_MANY_FILES: i32 = 24;

#[test]
fn every_write_is_synced() {
    let place = Place::new();
    let faults = Arc::new(Faults::default());
    let mut table = open(&place.index(), observed(&faults)).expect("opens");
    let before = faults.syncs();
    (0..200).for_each(|number| table.write(&[put(number)]).expect("writes"));
    assert!(faults.syncs() - before >= 200);
}

#[test]
fn without_sync_only_the_log_is_left_out() {
    let place = Place::new();
    let faults = Arc::new(Faults::default());
    let options = watched(Options { sync: SyncMode::Never, ..small() }, &faults);
    let mut table = open(&place.index(), options).expect("opens");
    table.write(&[put(0)]).expect("writes");
    let before = faults.syncs();
    (1..50).for_each(|number| table.write(&[put(number)]).expect("writes"));
    assert_eq!(faults.syncs(), before);
    fill(&mut table, (0..1_000).map(put)).expect("writes");
    close(table);
    assert!(faults.syncs() > before, "tables are synced");
}

#[test]
fn acknowledged_writes_survive_a_power_cut_at_any_operation() {
    let mut random = Random::from_environment();
    for operations in 0..600 {
        let place = Place::new();
        let plug = Arc::new(Plug::new(place.join("attic"), operations));
        let mut acknowledged = 0;
        if let Ok(mut table) =
            open(&place.index(), watched(Options { write_buffer_bytes: 2 << 10, ..small() }, &plug))
        {
            while table.write(&[put(acknowledged)]).is_ok() {
                acknowledged += 1;
            }
        }
        plug.cut(&mut random);
        let mut table = open_small(&place);
        assert_eq!(missing(&mut table, 0..acknowledged), 0, "after {operations} operations");
    }
}

/// Cuts the end of the newest log in the middle of its last record.
fn tear_log(dir: &Path) {
    let log = largest(files_named(dir, ".log"));
    let file = OpenOptions::new().write(true).open(&log).expect("opens");
    file.set_len(file.metadata().expect("there").len() - 20).expect("tears");
}

/// The engine goes on behind a torn end, where nothing can be read.
#[test]
fn writes_after_a_torn_log_are_kept() {
    let place = Place::new();
    let mut table = open_small(&place);
    (0..20).for_each(|number| table.write(&[put(number)]).expect("writes"));
    drop(table);
    tear_log(&place.index());
    let mut table = open_small(&place);
    (20..40).for_each(|number| table.write(&[put(number)]).expect("writes"));
    drop(table);
    let mut table = open_small(&place);
    assert_eq!(missing(&mut table, (0..19).chain(20..40)), 0);
    assert_eq!(missing(&mut table, [19]), 1, "the torn one was never acknowledged");

    let other = Place::new();
    let mut engine = bare(&other.index());
    (0..20).for_each(|number| engine.write(&[put(number)]).expect("writes"));
    drop(engine);
    tear_log(&other.index());
    let mut engine = bare(&other.index());
    (20..40).for_each(|number| engine.write(&[put(number)]).expect("writes"));
    drop(engine);
    assert!(missing(&mut bare(&other.index()), 20..40) > 0, "the bare engine loses them");
}

/// Fails each operation that `matches`, from the `nth` on.
fn fail(faults: &Faults, code: i32, nth: usize, matches: fn(Operation<'_>) -> bool) {
    let mut seen = 0;
    *faults.fails.lock().expect("whole") = Some(Box::new(move |operation| {
        seen += usize::from(matches(operation));
        (matches(operation) && seen >= nth).then(|| io::Error::from_raw_os_error(code))
    }));
}

fn is_table_write(operation: Operation<'_>) -> bool {
    matches!(operation, Operation::Write { path, .. } if path.extension().is_some_and(|kind| kind == "ldb"))
}

fn is_table_sync(operation: Operation<'_>) -> bool {
    matches!(operation, Operation::Sync(path) if path.extension().is_some_and(|kind| kind == "ldb"))
}

/// The engine deletes a compaction's inputs though its outputs could not be written, or not be made durable.
#[test]
fn a_full_disk_in_a_compaction_loses_nothing() {
    let writes = [1, 3, 9, 40, 90, 200].map(|nth| (nth, is_table_write as fn(Operation<'_>) -> bool));
    let syncs = [1, 4, 11, 30].map(|nth| (nth, is_table_sync as fn(Operation<'_>) -> bool));
    for (nth, matches) in writes.into_iter().chain(syncs) {
        let place = Place::new();
        let faults = Arc::new(Faults::default());
        let mut table = open(&place.index(), observed(&faults)).expect("opens");
        fill(&mut table, (0..3_000).map(put)).expect("writes");
        fail(&faults, NO_SPACE, nth, matches);
        let mut acknowledged = 3_000;
        let error = loop {
            match table.write(&[put(acknowledged)]) {
                Ok(()) => acknowledged += 1,
                Err(err) => break err,
            }
        };
        assert!(matches!(&error, TableError::Io { reason } if reason.contains("No space left")), "{error}");
        *faults.fails.lock().expect("whole") = None;
        assert!(table.write(&[put(0)]).is_err(), "stopped for good");
        assert!(table.get_many(&[&key(0)]).is_err() && table.upkeep().is_err());
        assert!(Box::new(table).close().is_err());
        assert_eq!(missing(&mut open_small(&place), 0..acknowledged), 0);
    }
}

/// 3,000 entries in tables, opened so that faults can be injected.
fn filled_and_observed() -> (Place, Arc<Faults>, LevelTable) {
    let place = Place::new();
    let mut table = open_small(&place);
    fill(&mut table, (0..3_000).map(put)).expect("writes");
    close(table);
    let faults = Arc::new(Faults::default());
    let table = open(&place.index(), observed(&faults)).expect("opens");
    (place, faults, table)
}

/// The engine skips a table that it can't open or read, and answers "no such key".
#[test]
fn a_table_that_cannot_be_opened_or_read_is_an_error_and_not_a_missing_key() {
    let (place, faults, mut table) = filled_and_observed();
    fail(&faults, TOO_MANY_FILES, 1, |operation| matches!(operation, Operation::Read(_)));
    assert!(table.get_many(&[&key(7), &key(1_500)]).is_err());
    drop(table);
    fail(&faults, TOO_MANY_FILES, 1, |operation| matches!(operation, Operation::Open(_)));
    let mut table = open(&place.index(), observed(&faults));
    assert!(table.is_err(), "still too many files");
    *faults.fails.lock().expect("whole") = None;
    table = open(&place.index(), small());
    assert_eq!(missing(&mut table.expect("opens"), 0..3_000), 0);
}

/// And then it deletes the table, when that was in a compaction.
#[test]
fn a_table_that_cannot_be_read_in_a_compaction_is_not_deleted() {
    for nth in [1, 2, 5, 9, 14, 30] {
        let (place, faults, mut table) = filled_and_observed();
        fail(&faults, TOO_MANY_FILES, nth, |operation| {
            matches!(operation, Operation::Open(_) | Operation::Read(_))
        });
        let mut rewritten = 0;
        while table.write(&[put(rewritten % 3_000)]).is_ok() {
            rewritten += 1;
        }
        drop(table);
        assert_eq!(missing(&mut open_small(&place), 0..3_000), 0);
    }
}

/// The engine panics at the second write.
#[test]
fn writes_after_a_failed_write_fail() {
    let place = Place::new();
    let faults = Arc::new(Faults::default());
    let mut table = open(&place.index(), observed(&faults)).expect("opens");
    table.write(&[put(1)]).expect("writes");
    fail(&faults, NO_SPACE, 1, |operation| matches!(operation, Operation::Write { .. } | Operation::Sync(_)));
    assert!(table.write(&[put(2)]).is_err());
    *faults.fails.lock().expect("whole") = None;
    assert!(table.write(&[put(3), delete(1)]).is_err());
    drop(table);
    assert_eq!(missing(&mut open_small(&place), [1]), 0);
}

/// Stops whoever begins to write a table, until it is dropped.
struct Stop {
    met: Sender<()>,
    end: Mutex<Receiver<()>>,
}

impl Observer for Stop {
    fn before(&self, operation: Operation<'_>) -> io::Result<()> {
        if is_table_write(operation) {
            let _ = self.met.send(());
            // Nothing is ever sent: this waits for the end of the sender.
            let _ = self.end.lock().expect("whole").recv();
        }
        Ok(())
    }
}

/// The engine compacts inside of its writes and lookups, and everybody waits.
#[test]
fn lookups_and_writes_go_on_while_the_engine_compacts() {
    let place = Place::new();
    close(open_small(&place));
    let (met, is_met) = channel();
    let (goes_on, end) = channel();
    let stop = Arc::new(Stop { met, end: Mutex::new(end) });
    let mut table = open(&place.index(), observed(&stop)).expect("opens");
    fill(&mut table, (0..1_000).map(put)).expect("writes");
    is_met.recv().expect("a full buffer becomes a table");
    fill(&mut table, (1_000..1_200).map(put).chain((0..500).map(delete))).expect("writes");
    assert_eq!(missing(&mut table, 500..1_200), 0);
    assert_eq!(all(&mut table, 90).len(), 700);
    drop(goes_on);
    close(table);
    assert_eq!(all(&mut open_small(&place), 90).len(), 700);
}

/// What the engine had not taken is in logs of ours, which every LevelDB replays.
#[test]
fn another_program_finds_everything_after_a_crash() {
    let place = Place::new();
    let mut table = open_small(&place);
    fill(&mut table, (0..3_000).map(put)).expect("writes");
    fill(&mut table, (0..1_000).map(delete)).expect("writes");
    drop(table);
    let mut engine = bare(&place.index());
    assert_eq!(all(&mut engine, usize::MAX).len(), 2_000);
    drop(engine);
    close(open_small(&place));
    assert!(files_named(&place.index(), ".log").is_empty(), "after a clean stop everything is in tables");
}
