//! What an index holds besides records: whose it is, its format, and the intents of writes and removals.

use super::slots::{MAX_SLOTS, RESERVED_PREFIX, Slots, parse_slot_key};
use super::table::{self, Table, TableError};
use crate::model::{Generation, Intent};
use std::ops::Bound;

/// Entries that are read at once; the number only bounds memory.
const SLOTS_AT_ONCE: usize = 1000;

pub(super) const CLUSTER_KEY: &str = "!mkv/cluster";
/// There while volumes are told that the cluster gets another id.
pub(super) const NEXT_CLUSTER_KEY: &str = "!mkv/cluster-next";
/// There while the tombstones of a copied index have no sidecars yet.
pub(super) const UNNOTED_KEY: &str = "!mkv/unnoted";

/// The id of each volume and subvolume, by its name.
pub(super) const PLACE_PREFIX: &str = "!mkv/volume/";
/// What the operator wants of a volume that is not simply alive, by its name.
pub(super) const MODE_PREFIX: &str = "!mkv/mode/";
/// There when [`MODE_PREFIX`] tells all that is to be known, and no file beside the index.
pub(super) const MODES_KEY: &str = "!mkv/modes";
/// An id that was given up, and is never taken again.
pub(super) const GONE_PREFIX: &str = "!mkv/gone/";
/// A volume that was empty when it was taken as a new drive.
pub(super) const NEW_PREFIX: &str = "!mkv/new/";
/// Which master the index belongs to.
pub(super) const MASTER_KEY: &str = "!mkv/master";
/// The mark that a volume has confirmed last, by its id.
pub(super) const TOLD_PREFIX: &str = "!mkv/told/";
/// No version is later than this time.
pub(super) const MARK_KEY: &str = "!mkv/mark";

pub(super) const FORMAT_KEY: &str = "!mkv/format";
/// The version of what stands below [`RESERVED_PREFIX`].
const FORMAT_VERSION: &[u8] = b"1";

/// The cluster's id, made here if the index has none.
pub(super) fn cluster_id<T: Table>(table: &mut T) -> Result<String, TableError> {
    if let Some(id) = table.get_many(&[CLUSTER_KEY.as_bytes()])?.pop().flatten() {
        return Ok(String::from_utf8_lossy(&id).into_owned());
    }
    let id = new_cluster_id()?;
    table.write(&founding_entries(&id))?;
    Ok(id)
}

/// What an index of cluster `id` holds before it has any key.
pub fn founding_entries(id: &str) -> [table::Change; 2] {
    let put = |key: &str, value: &[u8]| table::Change::Put { key: key.into(), value: value.into() };
    [put(CLUSTER_KEY, id.as_bytes()), put(FORMAT_KEY, FORMAT_VERSION)]
}

pub(super) fn new_cluster_id() -> Result<String, TableError> {
    random_id().map_err(|err| TableError::Io { reason: format!("no random numbers for a cluster id: {err}") })
}

fn random_id() -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// The time that no version is later than, µs since 1970; 0 where none is stored.
pub(super) fn stored_mark<T: Table>(table: &mut T) -> Result<u64, TableError> {
    match table.get_many(&[MARK_KEY.as_bytes()])?.pop().flatten() {
        None => Ok(0),
        Some(value) => parse_mark(&value)
            .ok_or_else(|| TableError::Corrupt { reason: format!("{MARK_KEY} is {}", value.escape_ascii()) }),
    }
}

/// The value of [`MARK_KEY`]: 16 hex digits, as generations are written.
pub(super) fn mark_value(mark_us: u64) -> Vec<u8> {
    Generation::new(mark_us).to_string().into_bytes()
}

/// Reads it.
pub(super) fn parse_mark(value: &[u8]) -> Option<u64> {
    Some(Generation::parse(std::str::from_utf8(value).ok()?)?.time_us())
}

/// What an earlier process had under way may have been cut off at any point.
fn in_doubt(mut intent: Intent) -> Intent {
    intent.files.iter_mut().for_each(|placed| placed.in_doubt = true);
    intent
}

/// The intents of an earlier process; each is due at `due_us` (µs since 1970) or later.
pub(super) fn stored_slots<T: Table>(table: &mut T, due_us: u64) -> Result<Slots, TableError> {
    let mut slots = Slots::default();
    let mut from = Bound::Included(RESERVED_PREFIX.as_bytes().to_vec());
    loop {
        let page = table.page(from.as_ref().map(Vec::as_slice), SLOTS_AT_ONCE)?;
        for (key, value) in &page.entries {
            if !key.starts_with(RESERVED_PREFIX.as_bytes()) {
                return Ok(slots);
            }
            let Some(slot) = parse_slot_key(key).filter(|slot| (*slot as usize) < MAX_SLOTS) else {
                continue;
            };
            let intent = Intent::parse(value).map(in_doubt);
            if intent.is_none() && !value.is_empty() {
                let reason = format!("slot {slot} holds no intent: {}", value.escape_ascii());
                return Err(TableError::Corrupt { reason });
            }
            let due_us = intent.as_ref().map_or(0, |intent| due_us.max(intent.not_before_us));
            slots.found(slot, intent, due_us);
        }
        match page.next {
            Some(key) => from = Bound::Excluded(key),
            None => return Ok(slots),
        }
    }
}
