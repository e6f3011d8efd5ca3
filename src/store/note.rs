//! Tombstones of an index that another program wrote: they get their sidecars, so that a rebuild knows of them.
//!
//! The Go original keeps a tombstone in the index only. After such an index was copied, every unlinked key is gone
//! through once, in the background; what could not be done is tried again.

use super::{Access, ListRequest, Store, StoreError};
use crate::index::{IndexError, Listing, Verb};
use crate::model::Key;
use log::{debug, error, info, warn};
use std::time::Duration;

/// How long after a pass that left something the next one begins: volumes have to come back for it.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Notes all tombstones, if that is still to be done, with the credentials that `access` gives at the time.
pub async fn run(store: Store, access: impl Fn() -> Access) {
    loop {
        match store.for_background(&access).await.note_all().await {
            Ok(0) => return,
            Ok(left) => warn!("{left} unlinked keys are not noted beside their files yet"),
            Err(StoreError::Index(IndexError::Stopped)) => return,
            Err(err) => error!("noting unlinked keys beside their files: {err}"),
        }
        actix_rt::time::sleep(AGAIN_AFTER).await;
    }
}

impl Store {
    /// Goes through all tombstones once; answers how many could not be noted.
    async fn note_all(&self) -> Result<usize, StoreError> {
        if !self.index.is_unnoted().await? {
            return Ok(0);
        }
        let request =
            ListRequest { prefix: b"/".to_vec(), start: Vec::new(), limit: None, listing: Listing::Unlinked };
        let (mut noted, mut left) = (0, 0);
        let mut from = Some(request.from());
        while let Some(start) = from {
            let page = self.list_page(&request, start).await?;
            for key in page.keys.into_iter().filter_map(|key| Key::new(key).ok()) {
                match self.note(&key).await {
                    Ok(()) => noted += 1,
                    Err(err) => {
                        debug!("noting that {key} is unlinked: {err}");
                        left += 1;
                    }
                }
            }
            from = page.next;
        }
        if left == 0 {
            self.index.noted().await?;
            info!("noted {noted} unlinked keys beside their files");
        }
        Ok(left)
    }

    async fn note(&self, key: &Key) -> Result<(), StoreError> {
        let reservation = match self.index.reserve(key, Verb::Note).await {
            Ok(reservation) => reservation,
            // It was removed or relinked just now, which says it on the volumes.
            Err(IndexError::NotFound { .. }) => return Ok(()),
            Err(err) => return Err(err.into()),
        };
        let record = reservation.previous().cloned().expect("a tombstone is a record");
        let size = self.size_of(&reservation, &record).await;
        self.change_state(reservation, record, size).await
    }
}
