//! All records of an index, and all files that wait to be removed, in pages: by one thread, or by several that take turns.

use crate::index::{Index, IndexError};
use crate::model::{Key, PlacedFile, Record, RecordError};
use std::ops::Bound;

/// Records that are read in one go.
const PAGE_RECORDS: usize = 512;

/// A page of records; a value that is none is its key's own fault.
pub(super) type Records = Vec<(Key, Result<Record, RecordError>)>;

/// Where to go on; `None` behind the last.
pub(super) type Cursor = Option<Bound<Vec<u8>>>;

/// The first key that there can be.
pub(super) fn beginning() -> Cursor {
    Some(Bound::Included(b"/".to_vec()))
}

/// All records, page by page.
pub(super) struct Pages<'a> {
    index: &'a Index,
    cursor: Cursor,
}

impl Pages<'_> {
    pub(super) fn new(index: &Index) -> Pages<'_> {
        Pages { index, cursor: beginning() }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Records>, IndexError> {
        next_page(self.index, &mut self.cursor).await
    }
}

/// How many records there are from `cursor` on.
pub(super) async fn count_from(index: &Index, mut cursor: Cursor) -> Result<u64, IndexError> {
    let mut count = 0;
    while let Some(records) = next_page(index, &mut cursor).await? {
        count += records.len() as u64;
    }
    Ok(count)
}

/// Tells every file that waits to be settled.
pub(super) async fn each_waiting(index: &Index, mut tell: impl FnMut(PlacedFile)) -> Result<(), IndexError> {
    let mut from = Some(0);
    while let Some(slot) = from {
        let waiting = index.waiting_files(slot).await?;
        waiting.files.into_iter().for_each(&mut tell);
        from = waiting.next;
    }
    Ok(())
}

/// The page at `cursor`, which moves behind it; `None` when there are no more.
pub(super) async fn next_page(index: &Index, cursor: &mut Cursor) -> Result<Option<Records>, IndexError> {
    let Some(from) = cursor.take() else { return Ok(None) };
    let page = index.scan(from, PAGE_RECORDS).await?;
    *cursor = page.next;
    Ok(Some(page.entries))
}
