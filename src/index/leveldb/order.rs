//! Byte order, with separators that separate.
//!
//! A table's index holds one key per block that is not before the block's last key and before the next block's
//! first. Where the next key is the last one with a zero byte behind it, the engine's own comparator answers with
//! exactly that next key, and a lookup of it ends in the wrong block: the key can't be found. This comparator has
//! the same order and the same name, so that the format stays LevelDB's.

use rusty_leveldb::Cmp;
use std::cmp::Ordering;

/// The name of LevelDB's byte order in the MANIFEST.
pub(super) const ORDER_NAME: &str = "leveldb.BytewiseComparator";

/// Compares byte by byte, as unsigned numbers.
pub(super) struct ByteOrder;

impl Cmp for ByteOrder {
    fn cmp(&self, left: &[u8], right: &[u8]) -> Ordering {
        left.cmp(right)
    }

    fn id(&self) -> &'static str {
        ORDER_NAME
    }

    fn find_shortest_sep(&self, last: &[u8], next: &[u8]) -> Vec<u8> {
        let shared = last.iter().zip(next).take_while(|(left, right)| left == right).count();
        match (last.get(shared), next.get(shared)) {
            (Some(&left), Some(&right)) if left < right - 1 => [&last[..shared], &[left + 1]].concat(),
            // No shorter key lies between them: the block's last key is its own separator.
            _ => last.to_vec(),
        }
    }

    fn find_short_succ(&self, last: &[u8]) -> Vec<u8> {
        match last.iter().position(|&byte| byte != u8::MAX) {
            Some(at) => [&last[..at], &[last[at] + 1]].concat(),
            None => last.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn separators_lie_between(mut keys in prop::collection::btree_set(prop::collection::vec(0u8..4, 1..5), 2..3)) {
            let (last, next) = (keys.pop_first().expect("two keys"), keys.pop_first().expect("two keys"));
            let separator = ByteOrder.find_shortest_sep(&last, &next);
            prop_assert!(last <= separator && separator < next && separator.len() <= last.len());
        }

        #[test]
        fn a_successor_is_not_before_its_key(key in prop::collection::vec(250u8..=255, 1..5)) {
            prop_assert!(ByteOrder.find_short_succ(&key) >= key);
        }
    }

    #[test]
    fn a_key_with_a_zero_byte_behind_it_is_kept_apart() {
        assert_eq!(ByteOrder.find_shortest_sep(b"/a", b"/a\0"), b"/a");
        assert_eq!(
            rusty_leveldb::DefaultCmp.find_shortest_sep(b"/a", b"/a\0"),
            b"/a\0",
            "the fault it closes"
        );
    }
}
