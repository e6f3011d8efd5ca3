//! What the MANIFEST says: which tables are alive and where they stand, and from which log on there is something to
//! replay.

use super::journal::{Journal, walk};
use super::order::ORDER_NAME;
use super::sstable::{take, take_varint};
use std::collections::BTreeMap;

/// LevelDB's levels. In level 0 tables overlap and the highest number is the newest; in each further level they don't.
pub(super) const LEVELS: usize = 7;

/// What follows a key of the index inside of tables: sequence number (7) and kind (1).
pub(super) const KEY_TRAILER_BYTES: usize = 8;

const ORDER: usize = 1;
const LOG_NUMBER: usize = 2;
const NEXT_FILE: usize = 3;
const LAST_SEQUENCE: usize = 4;
const COMPACT_POINTER: usize = 5;
const DELETED_TABLE: usize = 6;
const NEW_TABLE: usize = 7;
const PREVIOUS_LOG_NUMBER: usize = 9;

/// One living table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableEntry {
    /// Below [`LEVELS`].
    pub(super) level: usize,
    /// In bytes.
    pub(super) size: usize,
    /// The first key in it.
    pub(super) smallest: Vec<u8>,
    /// The last one.
    pub(super) largest: Vec<u8>,
}

/// The state that a MANIFEST's edits lead to.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// The living tables by their numbers.
    pub(super) tables: BTreeMap<u64, TableEntry>,
    /// Logs from this number on are replayed.
    pub(super) log_number: u64,
    /// And this one, which old writers used.
    pub(super) previous_log_number: u64,
    /// No file has this number yet, nor one above.
    pub(super) next_file: u64,
    /// All changes up to this one are in tables, or were in logs when the edit was written.
    pub(super) last_sequence: u64,
}

/// Reads a MANIFEST, or says what is wrong with it.
pub(super) fn parse(bytes: &[u8]) -> Result<Manifest, String> {
    let Journal { records, damaged_at, .. } = walk(bytes);
    if let Some(at) = damaged_at {
        return Err(format!("has a damaged record at byte {at}"));
    }
    if records.is_empty() {
        return Err("holds nothing that can be read".into());
    }
    let mut manifest = Manifest::default();
    records.iter().try_for_each(|record| manifest.apply(record))?;
    Ok(manifest)
}

impl Manifest {
    /// Applies one edit, or says why that is impossible.
    pub(super) fn apply(&mut self, edit: &[u8]) -> Result<(), String> {
        self.try_apply(edit).ok_or("has an edit that can't be read")?
    }

    /// `None` if the edit can't be parsed, an error if it asks for another order of keys.
    fn try_apply(&mut self, mut edit: &[u8]) -> Option<Result<(), String>> {
        let edit = &mut edit;
        // In one edit the deletions come first, whatever their order in it: a table may move between levels.
        let (mut deleted, mut added) = (Vec::new(), Vec::new());
        while !edit.is_empty() {
            match take_varint(edit)? {
                ORDER => {
                    let name = take_bytes(edit)?;
                    if name != ORDER_NAME.as_bytes() {
                        return Some(Err(format!(
                            "has keys in the order {:?}",
                            String::from_utf8_lossy(name)
                        )));
                    }
                }
                LOG_NUMBER => self.log_number = take_varint(edit)? as u64,
                PREVIOUS_LOG_NUMBER => self.previous_log_number = take_varint(edit)? as u64,
                NEXT_FILE => self.next_file = take_varint(edit)? as u64,
                LAST_SEQUENCE => self.last_sequence = take_varint(edit)? as u64,
                COMPACT_POINTER => drop((take_varint(edit)?, take_bytes(edit)?)),
                DELETED_TABLE => deleted.push((take_varint(edit)?, take_varint(edit)? as u64).1),
                NEW_TABLE => added.push(take_table(edit)?),
                _ => return None,
            }
        }
        self.tables.retain(|number, _| !deleted.contains(number));
        self.tables.extend(added);
        Some(Ok(()))
    }
}

fn take_table(edit: &mut &[u8]) -> Option<(u64, TableEntry)> {
    let level = take_varint(edit).filter(|level| *level < LEVELS)?;
    let (number, size) = (take_varint(edit)? as u64, take_varint(edit)?);
    let (smallest, largest) = (take_key(edit)?, take_key(edit)?);
    Some((number, TableEntry { level, size, smallest, largest }))
}

fn take_key(from: &mut &[u8]) -> Option<Vec<u8>> {
    let key = take_bytes(from)?;
    Some(key[..key.len().checked_sub(KEY_TRAILER_BYTES)?].to_vec())
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_varint(from)?;
    take(from, length)
}
