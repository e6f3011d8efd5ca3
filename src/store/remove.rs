//! DELETE: the record goes first, durably together with an intent to remove every file; then the files go.

use super::{Store, StoreError};
use crate::index::{Ending, Verb, now_us};
use crate::model::Key;

impl Store {
    /// Forgets `key` and removes its files. [`StoreError::RemovalPending`] when some are left: the key counts as
    /// absent from then on, and the files are removed as soon as their volumes answer.
    pub async fn remove(&self, key: &Key) -> Result<(), StoreError> {
        let verb = Verb::Remove { protect: self.options.load().protect };
        let reservation = self.index.reserve(key, verb).await?;
        let mut files = reservation.files().to_vec();
        let waits_until_us = reservation.waits_until_us();
        if waits_until_us <= now_us() {
            files.iter_mut().for_each(|placed| placed.in_doubt &= !self.is_ready(placed));
        }
        let left = self.settle_files(&reservation, files.clone()).await;
        let count = left.len();
        // What waited before doesn't wait longer for being asked about, or a client that asks every second would
        // never hear that it is done.
        let as_before = left.iter().all(|placed| files.contains(placed));
        let not_before_us = if as_before { waits_until_us } else { self.after_grace_us() };
        reservation.release(Ending { left, not_before_us }).await?;
        match count {
            0 => Ok(()),
            left => Err(StoreError::RemovalPending { key: key.clone(), left }),
        }
    }
}
