//! One table file, open for lookups and for walking through it. It stays readable when its name is gone.

use super::block::{Block, Cursor};
use super::cache::BlockCache;
use crate::index::leveldb::filter::holds;
use crate::index::leveldb::guard::{Guard, Operation};
use crate::index::leveldb::sstable::{self, Handle, damaged, take_handle};
use crate::index::table::TableError;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Where a filter block says where its filters are (4), and which bits of a block's offset choose one (1).
const FILTER_TAIL_BYTES: usize = 5;

/// A table.
pub(super) struct Table {
    number: u64,
    path: PathBuf,
    file: File,
    index_at: Handle,
    filter_at: Handle,
    /// Read when it is first needed: most tables of a large index never are.
    contents: OnceLock<Contents>,
    guard: Arc<Guard>,
}

struct Contents {
    index: Block,
    filters: Filters,
}

impl Table {
    pub(super) fn open(path: &Path, number: u64, guard: &Arc<Guard>) -> Result<Table, TableError> {
        let open = || {
            let file = File::open(path)?;
            let outline = sstable::outline(&file)?;
            let filter = outline.our_filter.ok_or_else(|| damaged("has no filter of ours"))?;
            Ok((file, outline.index, filter))
        };
        let opened = guard.perform(Operation::Open(path), open);
        let (file, index_at, filter_at) = opened.map_err(|err| stopped(guard, &err))?;
        let (path, contents, guard) = (path.to_owned(), OnceLock::new(), guard.clone());
        Ok(Table { number, path, file, index_at, filter_at, contents, guard })
    }

    /// What the table says of `key`: nothing, that it is deleted (`Some(None)`), or its value.
    pub(super) fn get(
        &self,
        key: &[u8],
        fingerprint: u64,
        cache: &mut BlockCache,
    ) -> Result<Option<Option<Vec<u8>>>, TableError> {
        let contents = self.contents()?;
        let mut index = self.checked(contents.index.seek(key))?;
        while let Some(last) = index.key() {
            let handle = self.checked(handle_at(&index))?;
            if contents.filters.may_hold(handle.offset, fingerprint) {
                let found = self.checked(self.block(handle, cache)?.seek(key))?;
                if found.key() == Some(key) {
                    return Ok(Some((!found.is_tombstone()).then(|| found.value().to_vec())));
                }
            }
            // A block's separator may be the key itself without being in it.
            if last > key {
                break;
            }
            let advanced = index.advance();
            self.checked(advanced)?;
        }
        Ok(None)
    }

    /// Walks from the first entry whose key is not before `key`, or from the first of all.
    pub(super) fn walk(
        self: &Arc<Table>,
        key: Option<&[u8]>,
        cache: &mut BlockCache,
    ) -> Result<Walk, TableError> {
        let contents = self.contents()?;
        let index = match key {
            Some(key) => contents.index.seek(key),
            None => contents.index.first(),
        };
        let mut walk = Walk { table: self.clone(), index: self.checked(index)?, entries: None };
        walk.enter(key, cache)?;
        while walk.entries.as_ref().is_some_and(|entries| entries.key().is_none()) {
            walk.next_block(cache)?;
        }
        Ok(walk)
    }

    fn contents(&self) -> Result<&Contents, TableError> {
        if let Some(contents) = self.contents.get() {
            return Ok(contents);
        }
        let index = self.checked(Block::new(self.read(self.index_at)?))?;
        let filters = self.checked(Filters::new(self.read(self.filter_at)?))?;
        Ok(self.contents.get_or_init(|| Contents { index, filters }))
    }

    fn block(&self, handle: Handle, cache: &mut BlockCache) -> Result<Block, TableError> {
        let name = (self.number, handle.offset);
        if let Some(block) = cache.get(name) {
            return Ok(block);
        }
        let block = self.checked(Block::new(self.read(handle)?))?;
        cache.insert(name, block.clone());
        Ok(block)
    }

    fn read(&self, handle: Handle) -> Result<Vec<u8>, TableError> {
        let read = || sstable::read_plain(&self.file, handle);
        self.guard.perform(Operation::Read(&self.path), read).map_err(|err| stopped(&self.guard, &err))
    }

    /// Damage that a checksum didn't show stops the index all the same.
    fn checked<T>(&self, result: io::Result<T>) -> Result<T, TableError> {
        result.map_err(|err| self.guard.stop_for_damage(format!("{:?} {err}", self.path)))
    }
}

/// The guard has remembered the error already.
fn stopped(guard: &Guard, err: &io::Error) -> TableError {
    guard.stop_for(err.to_string())
}

fn handle_at(index: &Cursor) -> io::Result<Handle> {
    take_handle(&mut index.value()).ok_or_else(|| damaged("has an index entry that can't be read"))
}

/// A place in a table, at an entry or behind the last.
pub(super) struct Walk {
    table: Arc<Table>,
    index: Cursor,
    /// `None` behind the last block.
    entries: Option<Cursor>,
}

impl Walk {
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.entries.as_ref()?.key()
    }

    /// The value here; `None` is a tombstone.
    pub(super) fn value(&self) -> Option<&[u8]> {
        self.entries.as_ref().filter(|entries| !entries.is_tombstone()).map(Cursor::value)
    }

    pub(super) fn advance(&mut self, cache: &mut BlockCache) -> Result<(), TableError> {
        let Some(entries) = &mut self.entries else { return Ok(()) };
        let advanced = entries.advance();
        self.table.checked(advanced)?;
        while self.entries.as_ref().is_some_and(|entries| entries.key().is_none()) {
            self.next_block(cache)?;
        }
        Ok(())
    }

    fn next_block(&mut self, cache: &mut BlockCache) -> Result<(), TableError> {
        let advanced = self.index.advance();
        self.table.checked(advanced)?;
        self.enter(None, cache)
    }

    fn enter(&mut self, key: Option<&[u8]>, cache: &mut BlockCache) -> Result<(), TableError> {
        if self.index.key().is_none() {
            self.entries = None;
            return Ok(());
        }
        let block = self.table.block(self.table.checked(handle_at(&self.index))?, cache)?;
        let entries = key.map_or_else(|| block.first(), |key| block.seek(key));
        self.entries = Some(self.table.checked(entries)?);
        Ok(())
    }
}

/// A table's filters, one for each 2 KiB of blocks.
struct Filters {
    bytes: Vec<u8>,
    offsets_at: usize,
    base_bits: u8,
}

impl Filters {
    fn new(bytes: Vec<u8>) -> io::Result<Filters> {
        let parse = || {
            let tail = bytes.get(bytes.len().checked_sub(FILTER_TAIL_BYTES)?..)?;
            let offsets_at = u32::from_le_bytes(tail[..4].try_into().expect("four bytes")) as usize;
            (offsets_at <= bytes.len() - FILTER_TAIL_BYTES).then_some((offsets_at, tail[4]))
        };
        let (offsets_at, base_bits) = parse().ok_or_else(|| damaged("has a damaged filter"))?;
        Ok(Filters { bytes, offsets_at, base_bits })
    }

    /// Whether the block at `offset` may hold the key of this fingerprint. A filter that can't be told may.
    fn may_hold(&self, offset: usize, fingerprint: u64) -> bool {
        let number = offset.checked_shr(self.base_bits.into()).unwrap_or(0);
        // Behind the last offset stands where the offsets are, which is where the last filter ends.
        let at = |number: usize| {
            let from = self.offsets_at + number * 4;
            let bytes = self.bytes.get(from..from + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize)
        };
        let filter = || self.bytes.get(at(number)?..at(number + 1)?.min(self.offsets_at));
        filter().is_none_or(|filter| holds(filter, fingerprint))
    }
}
