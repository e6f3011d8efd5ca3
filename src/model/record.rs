//! What the index holds for a key: `[DELETED][HASH{32 hex}][GEN{16 hex}]volume,volume,…`.

use super::Replica;
use std::fmt;
use thiserror::Error;

/// Whether a blob can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It can.
    Live,
    /// A tombstone: the files are kept, but the key counts as absent until it is linked again.
    Unlinked,
}

/// Where a blob lives, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Live or unlinked.
    pub state: State,
    /// The MD5 of the content, if it was computed.
    pub md5: Option<Md5>,
    /// Which generation; `None` for a blob at the plain path.
    pub generation: Option<Generation>,
    /// At least one place, in the order that placement gives.
    pub replicas: Vec<Replica>,
}

/// The MD5 of a blob's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Md5(pub [u8; 16]);

/// The version of a blob that is not at the plain path: the time of its reservation in µs since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(u64);

/// A value that is no record. It is reported with its key, never guessed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{value:?} is no record: {reason}")]
pub struct RecordError {
    value: String,
    reason: &'static str,
}

impl Record {
    /// Reads the value of an index entry.
    pub fn parse(value: &[u8]) -> Result<Record, RecordError> {
        let fault = |reason| RecordError { value: value.escape_ascii().to_string(), reason };
        let text = std::str::from_utf8(value).map_err(|_| fault("it is not text"))?;
        let (state, text) = match text.strip_prefix("DELETED") {
            Some(rest) => (State::Unlinked, rest),
            None => (State::Live, text),
        };
        let (md5, text) =
            optional(text, "HASH", 32, Md5::parse).ok_or_else(|| fault("its HASH is cut or not hex"))?;
        let (generation, text) =
            optional(text, "GEN", 16, Generation::parse).ok_or_else(|| fault("its GEN is cut or not hex"))?;
        let replicas: Result<Vec<Replica>, _> = text.split(',').map(str::parse).collect();
        let replicas = replicas.map_err(|_| fault("it names no valid volume"))?;
        Ok(Record { state, md5, generation, replicas })
    }

    /// The value as it stands in the index.
    pub fn to_value(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }

    /// Whether the blob can be read.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.state == State::Unlinked {
            f.write_str("DELETED")?;
        }
        if let Some(md5) = self.md5 {
            write!(f, "HASH{md5}")?;
        }
        if let Some(generation) = self.generation {
            write!(f, "GEN{generation}")?;
        }
        for (position, replica) in self.replicas.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            write!(f, "{comma}{replica}")?;
        }
        Ok(())
    }
}

/// The part after `word`, if the text begins with it; `None` if that part is cut or malformed.
fn optional<'a, T>(
    text: &'a str,
    word: &str,
    digits: usize,
    parse: fn(&str) -> Option<T>,
) -> Option<(Option<T>, &'a str)> {
    match text.strip_prefix(word) {
        None => Some((None, text)),
        Some(rest) => {
            let value = parse(rest.get(..digits)?)?;
            Some((Some(value), &rest[digits..]))
        }
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Md5 {
    /// Reads 32 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Md5> {
        if text.len() != 32 || !is_lower_hex(text) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(|number| Md5(number.to_be_bytes()))
    }
}

impl fmt::Display for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Md5({self})")
    }
}

impl Generation {
    /// The generation of a write that was reserved at `time_us`, µs since 1970.
    pub fn new(time_us: u64) -> Generation {
        Generation(time_us)
    }

    /// The reservation's time in µs since 1970.
    pub fn time_us(self) -> u64 {
        self.0
    }

    /// Reads exactly 16 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Generation> {
        if text.len() != 16 || !is_lower_hex(text) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Generation)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(serde::Deserialize)]
    struct Row {
        record: String,
        volumes: Vec<String>,
        unlinked: bool,
        md5: String,
    }

    #[test]
    fn records_are_the_go_originals() {
        let rows: Vec<Row> = serde_json::from_str(include_str!("../../tests/vectors/records.json")).unwrap();
        assert_eq!(rows.len(), 5);
        for row in rows {
            let record = Record::parse(row.record.as_bytes()).expect(&row.record);
            assert_eq!(!record.is_live(), row.unlinked);
            assert_eq!(record.md5.map(|md5| md5.to_string()).unwrap_or_default(), row.md5);
            assert_eq!(record.replicas.iter().map(Replica::to_string).collect::<Vec<_>>(), row.volumes);
            assert_eq!(record.to_string(), row.record);
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for value in [
            "",
            "DELETED",
            "HASH12,a",
            "HASHZZ41402abc4b2a76b9719d911017c592a",
            "a,",
            "a,,b",
            "GEN12a",
            "GEN00000000000000ABa",
            "a b",
        ] {
            assert!(Record::parse(value.as_bytes()).is_err(), "{value:?}");
        }
        assert!(Record::parse(b"\xff").is_err());
    }

    proptest! {
        #[test]
        fn a_record_reads_back(unlinked in any::<bool>(), md5 in any::<Option<[u8; 16]>>(), stamp in any::<Option<u64>>(),
                               names in prop::collection::vec("[a-z]{1,9}:[1-9][0-9]{0,3}/sv0[0-9A-F]", 1..6)) {
            let record = Record {
                state: if unlinked { State::Unlinked } else { State::Live },
                md5: md5.map(Md5),
                generation: stamp.map(Generation::new),
                replicas: names.iter().map(|name| name.parse().unwrap()).collect(),
            };
            prop_assert_eq!(Record::parse(&record.to_value()).unwrap(), record);
        }

        #[test]
        fn bytes_that_parse_are_written_back_the_same(value in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(record) = Record::parse(&value) {
                prop_assert_eq!(record.to_value(), value);
            }
        }
    }
}
