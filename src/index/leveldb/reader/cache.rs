//! Blocks that were read lately, so that they need not be read and verified again.

use super::block::Block;
use lru::LruCache;

/// A block's table and its offset there.
pub(super) type BlockName = (u64, usize);

/// Blocks up to a sum of bytes; who was not asked for the longest time goes first.
pub(in crate::index::leveldb) struct BlockCache {
    blocks: LruCache<BlockName, Block>,
    bytes: usize,
    limit_bytes: usize,
}

impl BlockCache {
    pub(in crate::index::leveldb) fn new(limit_bytes: usize) -> BlockCache {
        BlockCache { blocks: LruCache::unbounded(), bytes: 0, limit_bytes }
    }

    pub(super) fn get(&mut self, name: BlockName) -> Option<Block> {
        self.blocks.get(&name).cloned()
    }

    pub(super) fn insert(&mut self, name: BlockName, block: Block) {
        self.bytes += block.len();
        let replaced = self.blocks.put(name, block);
        self.bytes -= replaced.map_or(0, |block| block.len());
        while self.bytes > self.limit_bytes
            && let Some((_, oldest)) = self.blocks.pop_lru()
        {
            self.bytes -= oldest.len();
        }
    }
}
