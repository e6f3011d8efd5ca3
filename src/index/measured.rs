//! A table that tells how long its engine takes.

use super::table::{Change, Page, Table, TableError};
use metrics::{Counter, Histogram, counter, histogram};
use std::ops::Bound;
use std::time::{Duration, Instant};

/// Everybody waits for the one thread of the index; longer than this is felt.
const STALL: Duration = Duration::from_millis(50);

/// Records every call to the table within. Its handles cost nothing where there is no recorder.
pub(super) struct Measured<T> {
    table: T,
    lookups: Counter,
    batch_changes: Histogram,
    sync_seconds: Histogram,
    stall_seconds: Histogram,
}

impl<T> Measured<T> {
    pub(super) fn new(table: T) -> Measured<T> {
        Measured {
            table,
            lookups: counter!("mkv_index_lookups_total"),
            batch_changes: histogram!("mkv_index_batch_changes"),
            sync_seconds: histogram!("mkv_index_sync_duration_seconds"),
            stall_seconds: histogram!("mkv_index_stall_duration_seconds"),
        }
    }

    /// What `work` answers, and how long it took.
    fn timed<R>(&mut self, work: impl FnOnce(&mut T) -> R) -> (R, Duration) {
        let begun = Instant::now();
        let answer = work(&mut self.table);
        let took = begun.elapsed();
        if took > STALL {
            self.stall_seconds.record(took);
        }
        (answer, took)
    }
}

impl<T: Table> Table for Measured<T> {
    fn get_many(&mut self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, TableError> {
        self.lookups.increment(keys.len() as u64);
        self.timed(|table| table.get_many(keys)).0
    }

    fn page(&mut self, from: Bound<&[u8]>, limit: usize) -> Result<Page, TableError> {
        self.timed(|table| table.page(from, limit)).0
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), TableError> {
        let (written, took) = self.timed(|table| table.write(changes));
        self.batch_changes.record(changes.len() as f64);
        self.sync_seconds.record(took);
        written
    }

    fn written_us(&self) -> u64 {
        self.table.written_us()
    }

    fn upkeep(&mut self) -> Result<bool, TableError> {
        self.timed(T::upkeep).0
    }

    fn close(self: Box<Self>) -> Result<(), TableError> {
        Box::new(self.table).close()
    }
}
