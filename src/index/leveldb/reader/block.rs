//! One block of a table: entries in order, each key as what it adds to the one before, with whole keys now and then to
//! begin at.

use crate::index::leveldb::manifest::KEY_TRAILER_BYTES;
use crate::index::leveldb::sstable::{damaged, take, take_varint};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// The number of a restart point is its place in the file, in four bytes.
const RESTART_BYTES: usize = 4;

/// What a tombstone's kind is; a value's is 1.
const TOMBSTONE: u8 = 0;

/// The contents of a block, verified.
#[derive(Clone)]
pub(super) struct Block {
    bytes: Arc<[u8]>,
    /// Where the entries end and the restart points begin.
    restarts_at: usize,
}

impl Block {
    pub(super) fn new(bytes: Vec<u8>) -> io::Result<Block> {
        let restarts_at = || {
            let (rest, count) = bytes.split_last_chunk::<4>()?;
            let restarts = (u32::from_le_bytes(*count) as usize).checked_mul(RESTART_BYTES)?;
            rest.len().checked_sub(restarts)
        };
        let restarts_at = restarts_at().ok_or_else(|| damaged("has a block without its restart points"))?;
        Ok(Block { bytes: bytes.into(), restarts_at })
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Stands at the first entry.
    pub(super) fn first(&self) -> io::Result<Cursor> {
        let mut cursor = self.at(0);
        cursor.advance()?;
        Ok(cursor)
    }

    /// Stands at the first entry whose key is not before `key`.
    pub(super) fn seek(&self, key: &[u8]) -> io::Result<Cursor> {
        let mut cursor = self.at(self.last_restart_before(key)?);
        cursor.advance()?;
        while cursor.key().is_some_and(|found| found < key) {
            cursor.advance()?;
        }
        Ok(cursor)
    }

    fn at(&self, at: usize) -> Cursor {
        Cursor { block: self.clone(), next: at, key: Vec::new(), value: None }
    }

    fn restarts(&self) -> usize {
        (self.bytes.len() - self.restarts_at - RESTART_BYTES) / RESTART_BYTES
    }

    fn restart(&self, number: usize) -> usize {
        let at = self.restarts_at + number * RESTART_BYTES;
        let bytes = self.bytes[at..at + RESTART_BYTES].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    }

    /// The last restart point whose key is before `key`, or the first.
    fn last_restart_before(&self, key: &[u8]) -> io::Result<usize> {
        let (mut low, mut high) = (0, self.restarts());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let found = self.entry(self.restart(middle)).filter(|entry| entry.shared == 0);
            let found = found.ok_or_else(|| damaged("has a block with a wrong restart point"))?;
            let found = &self.bytes[found.unshared];
            if &found[..found.len().saturating_sub(KEY_TRAILER_BYTES)] < key {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(if self.restarts() == 0 { 0 } else { self.restart(low) })
    }

    fn entry(&self, at: usize) -> Option<Entry> {
        let entries = self.bytes.get(..self.restarts_at)?;
        let mut rest = entries.get(at..)?;
        let (shared, unshared, value) =
            (take_varint(&mut rest)?, take_varint(&mut rest)?, take_varint(&mut rest)?);
        let key_at = entries.len() - rest.len();
        take(&mut rest, unshared.checked_add(value)?)?;
        let value_at = key_at + unshared;
        Some(Entry { shared, unshared: key_at..value_at, value: value_at..value_at + value })
    }
}

/// Where an entry's parts lie in its block.
struct Entry {
    shared: usize,
    unshared: Range<usize>,
    value: Range<usize>,
}

/// A place in a block, at an entry or behind the last.
pub(super) struct Cursor {
    block: Block,
    next: usize,
    /// With its trailer.
    key: Vec<u8>,
    /// `None` behind the last entry.
    value: Option<Range<usize>>,
}

impl Cursor {
    /// The key here, without its trailer; `None` behind the last entry.
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.value.as_ref().map(|_| &self.key[..self.key.len() - KEY_TRAILER_BYTES])
    }

    /// The bytes that belong to the key.
    pub(super) fn value(&self) -> &[u8] {
        self.value.clone().map_or(&[], |range| &self.block.bytes[range])
    }

    pub(super) fn is_tombstone(&self) -> bool {
        self.key.len() >= KEY_TRAILER_BYTES && self.key[self.key.len() - KEY_TRAILER_BYTES] == TOMBSTONE
    }

    pub(super) fn advance(&mut self) -> io::Result<()> {
        if self.next >= self.block.restarts_at {
            self.value = None;
            return Ok(());
        }
        let entry = self.block.entry(self.next).filter(|entry| entry.shared <= self.key.len());
        let entry = entry.ok_or_else(|| damaged("has a block with an entry that can't be read"))?;
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(&self.block.bytes[entry.unshared]);
        if self.key.len() < KEY_TRAILER_BYTES {
            return Err(damaged("has a key without its trailer"));
        }
        self.next = entry.value.end;
        self.value = Some(entry.value);
        Ok(())
    }
}
