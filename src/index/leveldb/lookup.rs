//! Lookups that see the newest write.
//!
//! The engine looks a key up together with the sequence number of the last write. Where the last write is also the
//! last entry of a block, and its separator in the index is the key itself, the lookup stops one block too early:
//! "no such key", until something else is written. A sequence number above all that will ever be written has no
//! equal in any table. The engine only takes such a number from a snapshot, so a small database in memory, whose
//! MANIFEST claims that number, gives one. It belongs to that database: in the index no snapshot is ever open.

use super::journal::encode_first;
use super::order::ORDER_NAME;
use rusty_leveldb::env::Env;
use rusty_leveldb::infolog::Logger;
use rusty_leveldb::{DB, MemEnv, Options, Result};
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Finds a key's newest value. A function, as the engine doesn't export the snapshot's type.
pub(super) type Lookup = Box<dyn Fn(&mut DB, &[u8]) -> Result<Option<Vec<u8>>>>;

/// Sequence numbers have 56 bits; at a million writes a second this one is reached in a thousand years.
const ABOVE_ALL: u64 = 1 << 55;

/// Can't exist in the file system either.
const PLACE: &str = "/dev/null/above-all";

/// Makes the lookup function.
pub(super) fn lookup_above_all() -> Result<Lookup> {
    let env = MemEnv::new();
    write_file(&env, "MANIFEST-000001", &encode_first(&manifest_edit()))?;
    write_file(&env, "CURRENT", b"MANIFEST-000001\n")?;
    let options = Options { env: Rc::new(Box::new(env)), log: silent_log(), ..Options::default() };
    let snapshot = DB::open(PLACE, options)?.get_snapshot();
    Ok(Box::new(move |db, key| Ok(db.get_at(&snapshot, key)?.map(|value| value.to_vec()))))
}

/// Otherwise the engine writes a file `LOG`, without an end.
pub(super) fn silent_log() -> Option<Rc<RefCell<Logger>>> {
    Some(Rc::new(RefCell::new(Logger(Box::new(io::sink())))))
}

fn write_file(env: &MemEnv, name: &str, bytes: &[u8]) -> Result<()> {
    Ok(env.open_writable_file(&Path::new(PLACE).join(name))?.write_all(bytes)?)
}

/// Order of keys (1), log (2) and next file (3), last sequence number (4).
fn manifest_edit() -> Vec<u8> {
    let mut edit = vec![1, ORDER_NAME.len() as u8];
    edit.extend(ORDER_NAME.as_bytes());
    edit.extend([2, 0, 3, 2, 4]);
    // Seven bits a byte, the highest bit says that more follow: 55 = 7 * 7 + 6.
    edit.extend([0x80; 7]);
    edit.push((ABOVE_ALL >> 49) as u8);
    edit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_number_is_above_all() {
        let mut edit = &manifest_edit()[2 + ORDER_NAME.len() + 5..];
        assert_eq!(crate::index::leveldb::sstable::take_varint(&mut edit), Some(ABOVE_ALL as usize));
        assert!(lookup_above_all().is_ok());
    }
}
