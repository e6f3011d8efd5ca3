//! DELETE: the record goes first, durably together with an intent to remove every file; then the files go.

use super::{Store, StoreError};
use crate::index::{Ending, Verb};
use crate::model::Key;

impl Store {
    /// Forgets `key` and removes its files. [`StoreError::RemovalPending`] when some are left: the key counts as
    /// absent from then on, and the files are removed as soon as their volumes answer.
    pub async fn remove(&self, key: &Key) -> Result<(), StoreError> {
        let verb = Verb::Remove { protect: self.options.protect };
        let reservation = self.index.reserve(key, verb).await?;
        let left = self.settle_files(&reservation, reservation.files().to_vec()).await;
        let count = left.len();
        reservation.release(Ending { left, not_before_us: self.after_grace_us() }).await?;
        match count {
            0 => Ok(()),
            left => Err(StoreError::RemovalPending { key: key.clone(), left }),
        }
    }
}
