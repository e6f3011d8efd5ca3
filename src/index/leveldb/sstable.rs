//! The outline of a table file: its footer, and where its index and its filter lie.
//!
//! The engine panics at a damaged footer, skips an empty file without a word, and takes the first filter it finds
//! for its own whatever its name. So everything that it is going to trust is looked at first.

use super::filter::FILTER_NAME;
use super::journal::masked_crc;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The last bytes of a table: two handles, padded, and the magic number.
pub(super) const FOOTER_BYTES: usize = 48;

/// What follows each block: the kind of compression (1) and the checksum (4).
pub(super) const TRAILER_BYTES: usize = 5;

const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();

/// A metaindex names a filter or two. More than this is damage, and not worth the memory.
const LONGEST_METAINDEX_BYTES: usize = 64 * 1024;

/// Where a block lies, in bytes, without its trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Handle {
    pub(super) offset: usize,
    pub(super) length: usize,
}

/// What stands in a table besides its records.
pub(super) struct Outline {
    pub(super) file_bytes: usize,
    pub(super) index: Handle,
    /// There if the table has the filter of [`super::filter`], and nothing else that could be taken for one.
    pub(super) our_filter: Option<Handle>,
}

/// Reads the outline of a table. An error of kind `InvalidData` means that the table is damaged.
pub(super) fn outline(file: &File) -> io::Result<Outline> {
    let file_bytes = file.metadata()?.len() as usize;
    let footer_at =
        file_bytes.checked_sub(FOOTER_BYTES).ok_or_else(|| damaged("is too short for a table"))?;
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, footer_at as u64)?;
    let (metaindex, index) =
        parse_footer(&footer, footer_at).ok_or_else(|| damaged("has a damaged footer"))?;
    let block = read_block(file, metaindex)?;
    let entries = entries(&block).ok_or_else(|| damaged("has a damaged metaindex"))?;
    let our_filter = match &entries[..] {
        [(name, handle)] if *name == format!("filter.{FILTER_NAME}").as_bytes() => Some(*handle),
        _ => None,
    };
    Ok(Outline { file_bytes, index, our_filter })
}

/// Reads the contents of a block of our own, which are never compressed, and verifies them.
pub(super) fn read_plain(file: &File, handle: Handle) -> io::Result<Vec<u8>> {
    let mut block = vec![0; handle.length + TRAILER_BYTES];
    file.read_exact_at(&mut block, handle.offset as u64)?;
    if !is_sound(&block) || block[handle.length] != 0 {
        return Err(damaged(&format!("block at byte {} has a wrong checksum", handle.offset)));
    }
    block.truncate(handle.length);
    Ok(block)
}

/// Whether `block`, read with its trailer, is what was written.
pub(super) fn is_sound(block: &[u8]) -> bool {
    let Some((summed, checksum)) = block.split_last_chunk::<4>() else { return false };
    masked_crc(summed) == u32::from_le_bytes(*checksum)
}

pub(super) fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The handles of metaindex and index, if magic number and both handles are right.
fn parse_footer(footer: &[u8; FOOTER_BYTES], footer_at: usize) -> Option<(Handle, Handle)> {
    let mut rest = footer.strip_suffix(&MAGIC)?;
    let metaindex = take_handle(&mut rest)?;
    let index = take_handle(&mut rest)?;
    let fits = |handle: Handle| {
        let end = handle.offset.checked_add(handle.length)?.checked_add(TRAILER_BYTES)?;
        (end <= footer_at).then_some(handle)
    };
    let metaindex = fits(metaindex).filter(|handle| handle.length <= LONGEST_METAINDEX_BYTES)?;
    Some((metaindex, fits(index)?))
}

/// Reads a block that isn't compressed, or gives an empty list of entries for one that is: our own never are.
fn read_block(file: &File, handle: Handle) -> io::Result<Vec<u8>> {
    let mut block = vec![0; handle.length + TRAILER_BYTES];
    file.read_exact_at(&mut block, handle.offset as u64)?;
    if !is_sound(&block) {
        return Err(damaged("has a metaindex with a wrong checksum"));
    }
    let is_plain = block[handle.length] == 0;
    block.truncate(handle.length);
    Ok(if is_plain { block } else { vec![0; 4] })
}

/// The names in a metaindex and what they stand for, `None` if it can't be read.
fn entries(block: &[u8]) -> Option<Vec<(Vec<u8>, Handle)>> {
    let (rest, restarts) = block.split_last_chunk::<4>()?;
    let restarts = u32::from_le_bytes(*restarts) as usize;
    let mut rest = &rest[..rest.len().checked_sub(restarts.checked_mul(4)?)?];
    let mut found = Vec::new();
    let mut key = Vec::new();
    while !rest.is_empty() {
        let (shared, unshared, value) =
            (take_varint(&mut rest)?, take_varint(&mut rest)?, take_varint(&mut rest)?);
        key.truncate(shared);
        key.extend_from_slice(take(&mut rest, unshared)?);
        let handle = take_handle(&mut take(&mut rest, value)?)?;
        found.push((key.clone(), handle));
    }
    Some(found)
}

/// Cuts a handle off the front.
pub(super) fn take_handle(from: &mut &[u8]) -> Option<Handle> {
    Some(Handle { offset: take_varint(from)?, length: take_varint(from)? })
}

/// Cuts `count` bytes off the front.
pub(super) fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(taken)
}

/// Cuts a number in LevelDB's variable length format off the front.
pub(super) fn take_varint(from: &mut &[u8]) -> Option<usize> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(from, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return usize::try_from(number).ok();
        }
    }
    None
}
