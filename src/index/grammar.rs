//! What an entry of the index may be, for those that read all of them.

use super::facts;
use super::own_entries::{CLUSTER_KEY, FORMAT_KEY, MARK_KEY, NEXT_CLUSTER_KEY, UNNOTED_KEY, parse_mark};
use super::slots::parse_slot_key;
use crate::model::{Intent, Key, Record};
use std::collections::BTreeSet;

/// What is wrong with an entry, in words; `None` if it is as docs/format.md wants it.
pub fn fault_of(key: &[u8], value: &[u8]) -> Option<String> {
    if key.first() != Some(&b'/') {
        return fault_of_reserved(key, value);
    }
    if let Err(err) = Key::new(key) {
        return Some(err.to_string());
    }
    match Record::parse(value) {
        Err(err) => Some(err.to_string()),
        Ok(record) => {
            let places: BTreeSet<_> = record.replicas.iter().collect();
            (places.len() < record.replicas.len()).then(|| format!("{record} names a place twice"))
        }
    }
}

/// The server's own entries, which lie below all keys.
fn fault_of_reserved(key: &[u8], value: &[u8]) -> Option<String> {
    if [CLUSTER_KEY, NEXT_CLUSTER_KEY, FORMAT_KEY, UNNOTED_KEY].iter().any(|known| known.as_bytes() == key) {
        return None;
    }
    let is_right = match key == MARK_KEY.as_bytes() {
        true => Some(parse_mark(value).is_some()),
        false => facts::is_right(key, value),
    };
    match is_right {
        Some(true) => return None,
        Some(false) => return Some(format!("{:?} can't be read", value.escape_ascii().to_string())),
        None => {}
    }
    match parse_slot_key(key) {
        Some(_) if value.is_empty() || Intent::parse(value).is_some() => None,
        Some(_) => Some(format!("{:?} is no intent", value.escape_ascii().to_string())),
        None => Some("it is neither a key nor one of the server's own entries".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_told_from_what_is_none() {
        let good: [(&[u8], &[u8]); 5] = [
            (b"/k", b"a:1,b:1"),
            (b"/k", b"DELETEDHASH00112233445566778899aabbccddeeffGEN0000000000000009a:1"),
            (b"!mkv/format", b"1"),
            (b"!mkv/cluster", b"id"),
            (b"!mkv/intent/00000000", b""),
        ];
        for (key, value) in good {
            assert_eq!(fault_of(key, value), None, "{}", key.escape_ascii());
        }
        let long = [b"/".to_vec(), vec![b'x'; 2048]].concat();
        let bad: [(&[u8], &[u8]); 6] = [
            (b"/k", b""),
            (b"/k", b"a:1,a:1"),
            (b"/k", b"HASH00a:1"),
            (b"!mkv/intent/00000000", b"{}"),
            (b"other", b"a:1"),
            (&long, b"a:1"),
        ];
        for (key, value) in bad {
            assert!(fault_of(key, value).is_some(), "{}", key.escape_ascii());
        }
    }
}
