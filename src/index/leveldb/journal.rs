//! LevelDB's record format, of its logs and its MANIFEST: walked with all checksums, before the engine reads it.
//!
//! The engine stops at the first record that it can't read and says nothing: one flipped bit in the middle loses
//! everything behind it. Here the two cases are told apart: a damaged record that a later write follows is
//! damage, as a write is only begun when the one before it was durable; a damaged end is a write that a crash
//! interrupted, and was never acknowledged.

/// Records don't cross these boundaries; longer ones are cut into fragments.
const BLOCK_BYTES: usize = 32 * 1024;

/// Checksum (4), length (2), kind (1).
const HEADER_BYTES: usize = 7;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// What a journal holds.
pub(super) struct Journal {
    /// The complete records, in order.
    pub(super) records: Vec<Vec<u8>>,
    /// The end of the last complete record; what follows is the rest of an interrupted write.
    pub(super) sound_bytes: usize,
    /// Where a damaged record stands that later ones follow.
    pub(super) damaged_at: Option<usize>,
}

/// One physical record.
struct Fragment<'a> {
    kind: u8,
    payload: &'a [u8],
    end: usize,
}

/// Reads all of a journal.
pub(super) fn walk(bytes: &[u8]) -> Journal {
    let mut journal = Journal { records: Vec::new(), sound_bytes: 0, damaged_at: None };
    let mut unfinished: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(fragment) = fragment_at(bytes, skip_padding(at)) {
        let record = match (fragment.kind, unfinished.take()) {
            (FULL | FIRST, None) => fragment.payload.to_vec(),
            (MIDDLE | LAST, Some(begun)) => [&begun, fragment.payload].concat(),
            _ => break,
        };
        at = fragment.end;
        if matches!(fragment.kind, FULL | LAST) {
            journal.records.push(record);
            journal.sound_bytes = at;
        } else {
            unfinished = Some(record);
        }
    }
    if a_write_begins_after(bytes, at) {
        journal.damaged_at = Some(at);
    }
    journal
}

/// Whether a whole record begins behind `at`, where the walk ended. Inside of the block every offset is tried, as
/// the damage may be in a length. Only a beginning counts: the later fragments of one interrupted write can reach
/// the disk without the earlier ones.
fn a_write_begins_after(bytes: &[u8], at: usize) -> bool {
    let begins = |offset: usize| {
        fragment_at(bytes, offset).is_some_and(|fragment| matches!(fragment.kind, FULL | FIRST))
    };
    let mut rest_of_block = at..bytes.len().min(block_end(at));
    if rest_of_block.any(begins) {
        return true;
    }
    let blocks = (block_end(at)..bytes.len()).step_by(BLOCK_BYTES);
    blocks.flat_map(|block| fragment_starts(bytes, block)).any(begins)
}

/// The offsets of the sound fragments at the beginning of a block.
fn fragment_starts(bytes: &[u8], block: usize) -> impl Iterator<Item = usize> {
    let next = move |at: &usize| {
        fragment_at(bytes, *at).map(|found| found.end).filter(|end| *end < block + BLOCK_BYTES)
    };
    std::iter::successors(Some(block), next)
}

fn block_end(at: usize) -> usize {
    (at / BLOCK_BYTES + 1) * BLOCK_BYTES
}

/// A header is never split: the last bytes of a block that can't hold one are zeros.
fn skip_padding(at: usize) -> usize {
    if block_end(at) - at < HEADER_BYTES { block_end(at) } else { at }
}

/// The fragment at `at`, if there is a whole one with the right checksum.
fn fragment_at(bytes: &[u8], at: usize) -> Option<Fragment<'_>> {
    let header = bytes.get(at..at + HEADER_BYTES)?;
    let checksum = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
    let length = u16::from_le_bytes([header[4], header[5]]) as usize;
    let end = at + HEADER_BYTES + length;
    let summed = bytes.get(at + HEADER_BYTES - 1..end)?;
    let sound = matches!(header[6], FULL..=LAST) && end <= block_end(at) && masked_crc(summed) == checksum;
    sound.then(|| Fragment { kind: header[6], payload: &summed[1..], end })
}

/// LevelDB's checksum: CRC-32C, rotated and shifted, so that a checksum of checksums stays meaningful.
pub(super) fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// One record as a journal's first bytes. It must fit into a block.
pub(super) fn encode_first(payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= BLOCK_BYTES - HEADER_BYTES, "one fragment");
    let length = (payload.len() as u16).to_le_bytes();
    let checksum = masked_crc(&[&[FULL], payload].concat()).to_le_bytes();
    [&checksum[..], &length, &[FULL], payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal as LevelDB writes it.
    fn journal(records: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            let mut rest = &record[..];
            let mut begun = false;
            loop {
                bytes.resize(skip_padding(bytes.len()), 0);
                let room = block_end(bytes.len()) - bytes.len() - HEADER_BYTES;
                let (now, later) = rest.split_at(rest.len().min(room));
                let kind = match (begun, later.is_empty()) {
                    (false, true) => FULL,
                    (false, false) => FIRST,
                    (true, false) => MIDDLE,
                    (true, true) => LAST,
                };
                bytes.extend(masked_crc(&[&[kind], now].concat()).to_le_bytes());
                bytes.extend((now.len() as u16).to_le_bytes());
                bytes.push(kind);
                bytes.extend(now);
                (rest, begun) = (later, true);
                if rest.is_empty() {
                    break;
                }
            }
        }
        bytes
    }

    fn records() -> Vec<Vec<u8>> {
        [30, 5_000, 100_000, 40, 29_000, 12, 70_000]
            .iter()
            .map(|&length| vec![length as u8; length])
            .collect()
    }

    #[test]
    fn whole_journals_are_read_wholly() {
        let bytes = journal(&records());
        let walked = walk(&bytes);
        assert_eq!(walked.records, records());
        assert_eq!((walked.sound_bytes, walked.damaged_at), (bytes.len(), None));
    }

    #[test]
    fn a_journal_cut_anywhere_is_an_interrupted_write() {
        let bytes = journal(&records());
        for length in (0..bytes.len()).step_by(977) {
            let walked = walk(&bytes[..length]);
            assert_eq!(walked.damaged_at, None, "cut at {length}");
            assert_eq!(walked.records[..], records()[..walked.records.len()]);
            let zeros = [&bytes[..length], &[0; 5_000]].concat();
            assert_eq!(walk(&zeros).damaged_at, None, "cut at {length}, then zeros");
        }
    }

    #[test]
    fn a_flipped_bit_before_another_write_is_damage() {
        let bytes = journal(&records());
        let last_write = journal(&records()[..6]).len();
        for at in (0..bytes.len()).step_by(907) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let walked = walk(&flipped);
            let padding = walked.records == records();
            assert!(padding || walked.damaged_at.is_some() == (at < last_write), "flipped at {at}");
        }
    }
}
