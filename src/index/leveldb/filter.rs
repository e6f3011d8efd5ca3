//! The filter that makes lookups exact.
//!
//! The engine's lookup takes the next entry of a table for the wanted one: when that entry is a tombstone, of
//! whatever key, it answers "no such key" for a key that is alive in an older table. It asks the table's filter
//! first, so a filter without false positives closes the fault: a table is only searched for a key that it holds.
//! This one stores 8 bytes for each key. A foreign filter, or none, brings the fault back; therefore only tables
//! with exactly this filter are opened (see [`super::check`]), and a change of its format needs a new name.

use rusty_leveldb::FilterPolicy;
use siphasher::sip::SipHasher24;

/// The name that tables carry. LevelDB stores it as `filter.` + name, and ignores filters that it doesn't know.
pub(super) const FILTER_NAME: &str = "mkv.Fingerprint64";

/// Bytes of one fingerprint. 64 bits: two of the some 40 keys of a block agree once in 10^17 blocks.
const FINGERPRINT_BYTES: usize = 8;

/// Fixed, as fingerprints are stored. An arbitrary constant (the digits of pi).
const HASH_KEY: (u64, u64) = (0x2436_a885_a308_d313, 0x1319_8a2e_0370_7344);

/// Stores a fingerprint of every key.
pub(super) struct FingerprintPolicy;

impl FilterPolicy for FingerprintPolicy {
    fn name(&self) -> &'static str {
        FILTER_NAME
    }

    fn create_filter(&self, keys: &[u8], key_offsets: &[usize]) -> Vec<u8> {
        let ends = key_offsets.iter().skip(1).copied().chain([keys.len()]);
        let keys = key_offsets.iter().zip(ends).map(|(start, end)| &keys[*start..end]);
        keys.flat_map(|key| fingerprint(key).to_le_bytes()).collect()
    }

    fn key_may_match(&self, key: &[u8], filter: &[u8]) -> bool {
        holds(filter, fingerprint(key))
    }
}

/// Whether a key with this fingerprint is among those that `filter` was made of.
pub(super) fn holds(filter: &[u8], fingerprint: u64) -> bool {
    let wanted = fingerprint.to_le_bytes();
    filter.chunks_exact(FINGERPRINT_BYTES).any(|stored| stored == wanted)
}

/// SipHash-2-4: keys are chosen by users, and a hash that is easy to invert would let one of them place a
/// false positive beside somebody else's key.
pub(super) fn fingerprint(key: &[u8]) -> u64 {
    SipHasher24::new_with_keys(HASH_KEY.0, HASH_KEY.1).hash(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_fingerprints_stay_what_they_are() {
        assert_eq!(fingerprint(b"/hello"), 0xf94a_21da_34c0_defa);
        assert_eq!(fingerprint(b"/a/longer/key/than/one/word"), 0xe743_ad12_e259_2bc3);
    }

    #[test]
    fn a_filter_knows_its_keys_and_no_other() {
        let names: Vec<String> = (0..1000).map(|n| format!("/k/{n}")).collect();
        let mut offsets = Vec::new();
        let mut bytes = Vec::new();
        for name in &names {
            offsets.push(bytes.len());
            bytes.extend_from_slice(name.as_bytes());
        }
        let filter = FingerprintPolicy.create_filter(&bytes, &offsets);
        assert_eq!(filter.len(), 8 * names.len());
        assert!(names.iter().all(|name| FingerprintPolicy.key_may_match(name.as_bytes(), &filter)));
        assert!(
            !(1000..100_000).any(|n| FingerprintPolicy.key_may_match(format!("/k/{n}").as_bytes(), &filter))
        );
    }
}
