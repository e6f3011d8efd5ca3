//! What the MANIFEST says: which tables are alive, and from which log on there is something to replay.

use super::journal::{Journal, walk};
use super::order::ORDER_NAME;
use super::sstable::{take, take_varint};
use std::collections::BTreeMap;

const ORDER: usize = 1;
const LOG_NUMBER: usize = 2;
const NEXT_FILE: usize = 3;
const LAST_SEQUENCE: usize = 4;
const COMPACT_POINTER: usize = 5;
const DELETED_TABLE: usize = 6;
const NEW_TABLE: usize = 7;
const PREVIOUS_LOG_NUMBER: usize = 9;

/// The state that a MANIFEST's edits lead to.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// The size in bytes of each living table, by its number.
    pub(super) tables: BTreeMap<u64, usize>,
    /// Logs from this number on are replayed.
    pub(super) log_number: u64,
    /// And this one, which old writers used.
    pub(super) previous_log_number: u64,
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
    for record in &records {
        apply(&mut manifest, record).ok_or("has an edit that can't be read")??;
    }
    Ok(manifest)
}

/// Applies one edit; `None` if it can't be parsed, an error if it asks for another order of keys.
fn apply(manifest: &mut Manifest, mut edit: &[u8]) -> Option<Result<(), String>> {
    let edit = &mut edit;
    // In one edit the deletions come first, whatever their order in it: a table may move between levels.
    let (mut deleted, mut added) = (Vec::new(), Vec::new());
    while !edit.is_empty() {
        match take_varint(edit)? {
            ORDER => {
                let name = take_bytes(edit)?;
                if name != ORDER_NAME.as_bytes() {
                    return Some(Err(format!("has keys in the order {:?}", String::from_utf8_lossy(name))));
                }
            }
            LOG_NUMBER => manifest.log_number = take_varint(edit)? as u64,
            PREVIOUS_LOG_NUMBER => manifest.previous_log_number = take_varint(edit)? as u64,
            NEXT_FILE | LAST_SEQUENCE => drop(take_varint(edit)?),
            COMPACT_POINTER => drop((take_varint(edit)?, take_bytes(edit)?)),
            DELETED_TABLE => deleted.push((take_varint(edit)?, take_varint(edit)? as u64).1),
            NEW_TABLE => {
                let (_level, number, size) =
                    (take_varint(edit)?, take_varint(edit)? as u64, take_varint(edit)?);
                let (_smallest, _largest) = (take_bytes(edit)?, take_bytes(edit)?);
                added.push((number, size));
            }
            _ => return None,
        }
    }
    manifest.tables.retain(|number, _| !deleted.contains(number));
    manifest.tables.extend(added);
    Some(Ok(()))
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_varint(from)?;
    take(from, length)
}
