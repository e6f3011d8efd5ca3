//! Pages: the records, or the keys of one state, that stand in the index from a key on.

use super::IndexError;
use super::message::{Listing, Page, PageRequest, Records, Rewritten};
use super::slots::Slots;
use super::table::{self, Table, TableError};
use crate::model::{Key, Names, Record, RecordError};
use std::ops::{Bound, RangeBounds};

/// Entries that one listing message reads at most: a few milliseconds, the longest that others wait for it.
pub(super) const PAGE_ENTRIES: usize = 1000;

/// Entries that are read even for a shorter page: the other state's may stand between.
const PAGE_ENTRIES_LEAST: usize = 64;

/// Records in the order of their keys, from `from` on: at most `limit` and [`PAGE_ENTRIES`].
pub(super) fn scan(
    table: &mut impl Table,
    from: Bound<Vec<u8>>,
    limit: usize,
    names: &Names,
) -> Result<Records, TableError> {
    let count = limit.clamp(1, PAGE_ENTRIES);
    let page = table.page(from.as_ref().map(Vec::as_slice), count)?;
    let record = |(key, value): table::Entry| {
        Some((Key::new(key).ok()?, Record::parse(&value).map(|record| names.record(record))))
    };
    let next = page.next.map(Bound::Excluded);
    Ok(Records { entries: page.entries.into_iter().filter_map(record).collect(), next })
}

/// The changes that write present names into the records from `from` on, a page of them.
pub(super) fn rewrite_names(
    table: &mut impl Table,
    from: Bound<Vec<u8>>,
    names: &Names,
) -> Result<(Rewritten, Vec<table::Change>), TableError> {
    let page = table.page(from.as_ref().map(Vec::as_slice), PAGE_ENTRIES)?;
    let mut changes = Vec::new();
    for (key, value) in page.entries {
        // A value that is no record is left to whoever reads it.
        if let (true, Ok(record)) = (key.first() == Some(&b'/'), Record::parse(&value)) {
            let present = names.record(record).to_value();
            if present != value {
                changes.push(table::Change::Put { key, value: present });
            }
        }
    }
    let rewritten = Rewritten { records: changes.len() as u64, next: page.next.map(Bound::Excluded) };
    Ok((rewritten, changes))
}

/// The index's own entries whose keys begin with `prefix`.
pub(super) fn own_entries(table: &mut impl Table, prefix: &str) -> Result<Vec<table::Entry>, TableError> {
    let mut found = Vec::new();
    let mut from = Bound::Included(prefix.as_bytes().to_vec());
    loop {
        let page = table.page(from.as_ref().map(Vec::as_slice), PAGE_ENTRIES)?;
        for (key, value) in page.entries {
            if !key.starts_with(prefix.as_bytes()) {
                return Ok(found);
            }
            found.push((key, value));
        }
        match page.next {
            Some(key) => from = Bound::Excluded(key),
            None => return Ok(found),
        }
    }
}

/// A page of the keys that there are.
pub(super) fn list(
    table: &mut impl Table,
    request: &PageRequest,
) -> Result<Result<Page, IndexError>, TableError> {
    let count = request.limit.clamp(PAGE_ENTRIES_LEAST, PAGE_ENTRIES);
    let found = table.page(request.from.as_ref().map(Vec::as_slice), count)?;
    let is_behind = |key: &Vec<u8>| *key > request.prefix && !key.starts_with(&request.prefix);
    let next = found.next.filter(|key| !is_behind(key)).map(Bound::Excluded);
    let mut page = Page { keys: Vec::new(), next };
    for (key, value) in found.entries {
        if !key.starts_with(&request.prefix) {
            page.next = None;
            return Ok(Ok(page));
        }
        match is_listed(&value, request.listing) {
            Ok(true) => page.keys.push(key),
            Ok(false) => {}
            Err(source) => match Key::new(key) {
                Ok(key) => return Ok(Err(IndexError::Record { key, source })),
                Err(_) => continue,
            },
        }
        if page.keys.len() == request.limit {
            page.next = page.keys.last().cloned().map(Bound::Excluded);
            return Ok(Ok(page));
        }
    }
    Ok(Ok(page))
}

/// A page of the keys that clients hold.
pub(super) fn writing(slots: &Slots, request: &PageRequest) -> Page {
    let asked = (request.from.clone(), Bound::Unbounded);
    let held = slots.held_keys().filter(|key| !slots.is_claimed(key)).map(|key| key.as_bytes().to_vec());
    let mut keys: Vec<Vec<u8>> =
        held.filter(|key| key.starts_with(&request.prefix) && asked.contains(key)).collect();
    keys.sort_unstable();
    let is_whole = keys.len() <= request.limit;
    keys.truncate(request.limit);
    let next = keys.last().filter(|_| !is_whole).cloned().map(Bound::Excluded);
    Page { keys, next }
}

fn is_listed(value: &[u8], listing: Listing) -> Result<bool, RecordError> {
    Record::parse(value).map(|record| record.is_live() == (listing == Listing::Live))
}
