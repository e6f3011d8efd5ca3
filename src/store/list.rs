//! Listings, a page at a time: never more than a page of keys is held here or by the index.

use super::{Store, StoreError};
use crate::index::{Listing, Page, PageRequest};
use std::ops::Bound;

/// The most keys that one listing answers.
const LIST_MAX_KEYS: usize = 1_000_000;

/// Keys of one page on their way through the server.
const PAGE_KEYS: usize = 1000;

/// Which keys to list.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// The first key to list; one before the prefix counts as the prefix.
    pub start: Vec<u8>,
    /// At most so many (> 0); `None` for all. A listing runs past it over keys that are no UTF-8.
    pub limit: Option<usize>,
    /// Which ones.
    pub listing: Listing,
}

impl ListRequest {
    /// Where the listing begins.
    pub fn from(&self) -> Bound<Vec<u8>> {
        Bound::Included(self.prefix.clone().max(self.start.clone()))
    }
}

impl Store {
    /// Some keys from `from` on; `next` of the page says how to go on.
    pub async fn list_page(&self, request: &ListRequest, from: Bound<Vec<u8>>) -> Result<Page, StoreError> {
        let ListRequest { prefix, listing, .. } = request.clone();
        // One more than the limit tells where the next listing begins.
        let limit = request.limit.map_or(PAGE_KEYS, |limit| PAGE_KEYS.min(limit + 1));
        Ok(self.index.list(PageRequest { prefix, from, limit, listing }).await?)
    }

    /// The first key behind the listing, at which the next one begins; `None` if it goes to the end. Fails if
    /// the listing would have more than [`LIST_MAX_KEYS`].
    pub async fn list_end(&self, request: &ListRequest) -> Result<Option<Vec<u8>>, StoreError> {
        let limit = request.limit.unwrap_or(usize::MAX);
        let mut count = 0;
        let mut from = Some(request.from());
        while let Some(start) = from {
            let page = self.list_page(request, start).await?;
            for key in page.keys {
                if count >= limit && std::str::from_utf8(&key).is_ok() {
                    return Ok(Some(key));
                }
                count += 1;
            }
            if count > LIST_MAX_KEYS {
                return Err(StoreError::ListTooLong { max: LIST_MAX_KEYS });
            }
            from = page.next;
        }
        Ok(None)
    }
}
