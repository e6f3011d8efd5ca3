//! LevelDB's record format, of its logs and its MANIFEST: walked with all checksums, before the engine reads it.
//!
//! The engine stops at the first record that it can't read and says nothing: one flipped bit in the middle loses
//! everything behind it. Here the two cases are told apart: a damaged record that a later write follows is
//! damage, as a write is only begun when the one before it was durable; a damaged end is a write that a crash
//! interrupted, and was never acknowledged.

/// Records don't cross these boundaries; longer ones are cut into fragments.
pub(super) const BLOCK_BYTES: usize = 32 * 1024;

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
    let Walked { records, complete_at, sound_at } = walk_from(bytes, 0);
    let damaged_at = a_write_begins_after(bytes, sound_at).then_some(sound_at);
    Journal { records, sound_bytes: complete_at, damaged_at }
}

/// The complete records from `at` on, where one begins, and the end of the last of them.
pub(super) fn complete_records(bytes: &[u8], at: usize) -> (Vec<Vec<u8>>, usize) {
    let walked = walk_from(bytes, at);
    (walked.records, walked.complete_at)
}

struct Walked {
    records: Vec<Vec<u8>>,
    /// The end of the last complete record.
    complete_at: usize,
    /// The end of the last sound fragment.
    sound_at: usize,
}

fn walk_from(bytes: &[u8], at: usize) -> Walked {
    let mut walked = Walked { records: Vec::new(), complete_at: at, sound_at: at };
    let mut unfinished: Option<Vec<u8>> = None;
    while let Some(fragment) = fragment_at(bytes, skip_padding(walked.sound_at)) {
        let record = match (fragment.kind, unfinished.take()) {
            (FULL | FIRST, None) => fragment.payload.to_vec(),
            (MIDDLE | LAST, Some(begun)) => [&begun, fragment.payload].concat(),
            _ => break,
        };
        walked.sound_at = fragment.end;
        if matches!(fragment.kind, FULL | LAST) {
            walked.records.push(record);
            walked.complete_at = fragment.end;
        } else {
            unfinished = Some(record);
        }
    }
    walked
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
    masked_crc_of(crc32c::crc32c(bytes))
}

fn masked_crc_of(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// `record` as it is appended to a journal that has `at` bytes.
pub(super) fn encode(record: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut rest, mut is_begun) = (record, false);
    loop {
        let here = at + bytes.len();
        let padding = skip_padding(here) - here;
        bytes.resize(bytes.len() + padding, 0);
        let room = block_end(here + padding) - (here + padding) - HEADER_BYTES;
        let (now, later) = rest.split_at(rest.len().min(room));
        let kind = match (is_begun, later.is_empty()) {
            (false, true) => FULL,
            (false, false) => FIRST,
            (true, false) => MIDDLE,
            (true, true) => LAST,
        };
        let checksum = masked_crc_of(crc32c::crc32c_append(crc32c::crc32c(&[kind]), now));
        bytes.extend(checksum.to_le_bytes());
        bytes.extend((now.len() as u16).to_le_bytes());
        bytes.push(kind);
        bytes.extend(now);
        (rest, is_begun) = (later, true);
        if rest.is_empty() {
            return bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn journal(records: &[Vec<u8>]) -> Vec<u8> {
        records.iter().fold(Vec::new(), |mut bytes, record| {
            bytes.extend(encode(record, bytes.len()));
            bytes
        })
    }

    fn records() -> Vec<Vec<u8>> {
        [30, 5_000, 100_000, 40, 29_000, 12, 70_000]
            .iter()
            .map(|&length| vec![length as u8; length])
            .collect()
    }

    /// The engine writes as LevelDB does; its log of one batch is taken as the example.
    #[test]
    fn records_are_encoded_as_the_engine_encodes_them() {
        use rusty_leveldb::{DB, MemEnv, Options, WriteBatch, env::Env};
        let batch = |number: usize| {
            let mut batch = WriteBatch::default();
            batch.put(format!("key {number}").as_bytes(), &vec![number as u8; number * 1_300]);
            batch
        };
        let env = std::rc::Rc::new(Box::new(MemEnv::new()) as Box<dyn Env>);
        let options = Options { env: env.clone(), write_buffer_size: 4 << 20, ..Options::default() };
        let mut db = DB::open("/db", options).expect("opens");
        (0..60).for_each(|number| db.write(batch(number), true).expect("writes"));
        let log = std::path::Path::new("/db");
        let names = env.children(log).expect("lists");
        let name = names.iter().find(|name| name.to_string_lossy().ends_with(".log")).expect("a log");
        let mut written = Vec::new();
        env.open_sequential_file(&log.join(name)).expect("opens").read_to_end(&mut written).expect("reads");
        let ours: Vec<Vec<u8>> = (0..60).map(|number| batch(number as usize).encode(number + 1)).collect();
        assert_eq!(journal(&ours), written);
    }

    #[test]
    fn whole_journals_are_read_wholly() {
        let bytes = journal(&records());
        let walked = walk(&bytes);
        assert_eq!(walked.records, records());
        assert_eq!((walked.sound_bytes, walked.damaged_at), (bytes.len(), None));
    }

    /// Where only a header fits into a block, the first fragment of a record is empty.
    #[test]
    fn a_record_may_begin_at_any_distance_from_a_blocks_end() {
        for distance in 0..30 {
            let first = BLOCK_BYTES - HEADER_BYTES - distance;
            let records = [vec![1; first], vec![2; 100], vec![3; 2 * BLOCK_BYTES], vec![4; 10]];
            let walked = walk(&journal(&records));
            assert_eq!((walked.records, walked.damaged_at), (records.to_vec(), None), "{distance}");
        }
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
