//! The filter that makes lookups exact.
//!
//! The engine's lookup takes the next entry of a table for the wanted one: when that entry is a tombstone, of
//! whatever key, it answers "no such key" for a key that is alive in an older table. It asks the table's filter
//! first, so a filter without false positives closes the fault: a table is only searched for a key that it holds.
//! This one stores 8 bytes for each key. A foreign filter, or none, brings the fault back; therefore only tables
//! with exactly this filter are opened (see [`super::check`]), and a change of its format needs a new name.

use rusty_leveldb::FilterPolicy;

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
        let wanted = fingerprint(key).to_le_bytes();
        filter.chunks_exact(FINGERPRINT_BYTES).any(|stored| stored == wanted)
    }
}

/// SipHash-2-4: keys are chosen by users, and a hash that is easy to invert would let one of them place a
/// false positive beside somebody else's key.
fn fingerprint(key: &[u8]) -> u64 {
    siphash(HASH_KEY, key)
}

fn siphash((k0, k1): (u64, u64), bytes: &[u8]) -> u64 {
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let words = bytes.chunks_exact(8);
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    last[7] = bytes.len() as u8;
    for word in words.map(|word| word.try_into().expect("chunks of eight")).chain([last]) {
        let word = u64::from_le_bytes(word);
        state[3] ^= word;
        rounds(&mut state, 2);
        state[0] ^= word;
    }
    state[2] ^= 0xff;
    rounds(&mut state, 4);
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

fn rounds(state: &mut [u64; 4], count: usize) {
    let [mut a, mut b, mut c, mut d] = *state;
    for _ in 0..count {
        a = a.wrapping_add(b);
        c = c.wrapping_add(d);
        b = b.rotate_left(13) ^ a;
        d = d.rotate_left(16) ^ c;
        a = a.rotate_left(32);
        c = c.wrapping_add(b);
        a = a.wrapping_add(d);
        b = b.rotate_left(17) ^ c;
        d = d.rotate_left(21) ^ a;
        c = c.rotate_left(32);
    }
    *state = [a, b, c, d];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siphash_agrees_with_its_published_vectors() {
        let key = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        let message: Vec<u8> = (0..15).collect();
        assert_eq!(siphash(key, &message), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash(key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash(key, &message[..8]), 0x93f5_f579_9a93_2462);
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
