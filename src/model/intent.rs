//! What is durable before a file is written anywhere, and until every place that a key has left is clean.

use super::{File, Generation, Key, Replica};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// One file of a key at one place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlacedFile {
    /// Which file of the key.
    pub file: File,
    /// Where.
    pub replica: Replica,
    /// Whether a request for it ended without an answer and may still be carried out. Until that can't be any
    /// more, being told that the file is absent proves nothing.
    pub in_doubt: bool,
}

/// Files of one key that may exist although no record says so. Settling an intent means: what the record of the
/// key names stays, sidecars are made to say what the record says, everything else is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The key.
    pub key: Key,
    /// When the write that left this was reserved, µs since 1970; later versions of the key have later times.
    pub time_us: u64,
    /// When it is to be settled, µs since 1970: running downloads can end, requests in doubt have been carried
    /// out or are lost.
    pub not_before_us: u64,
    /// The files. Never empty in a stored intent.
    pub files: Vec<PlacedFile>,
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Stored {
    key: String,
    time_us: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    not_before_us: u64,
    /// File, place, and whether it is in doubt.
    files: Vec<(String, String, bool)>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Intent {
    /// The value of the intent's slot in the index, as JSON.
    pub fn to_value(&self) -> Vec<u8> {
        let files = self
            .files
            .iter()
            .map(|placed| (file_name(placed.file), placed.replica.to_string(), placed.in_doubt));
        let stored = Stored {
            key: STANDARD.encode(self.key.as_bytes()),
            time_us: self.time_us,
            not_before_us: self.not_before_us,
            files: files.collect(),
        };
        serde_json::to_vec(&stored).expect("an intent has only strings and numbers")
    }

    /// Reads the value of a slot; `None` if it is no intent.
    pub fn parse(value: &[u8]) -> Option<Intent> {
        let stored: Stored = serde_json::from_slice(value).ok()?;
        let files: Option<Vec<PlacedFile>> =
            stored.files.iter().map(|(file, place, in_doubt)| placed(file, place, *in_doubt)).collect();
        let key = Key::new(STANDARD.decode(&stored.key).ok()?).ok()?;
        Some(Intent { key, time_us: stored.time_us, not_before_us: stored.not_before_us, files: files? })
    }
}

fn placed(file: &str, place: &str, in_doubt: bool) -> Option<PlacedFile> {
    Some(PlacedFile { file: parse_file(file)?, replica: place.parse().ok()?, in_doubt })
}

fn file_name(file: File) -> String {
    match file {
        File::Blob(None) => "plain".into(),
        File::Blob(Some(generation)) => generation.to_string(),
        File::Sidecar => "meta".into(),
        File::Folded => "folded".into(),
    }
}

fn parse_file(name: &str) -> Option<File> {
    match name {
        "plain" => Some(File::Blob(None)),
        "meta" => Some(File::Sidecar),
        "folded" => Some(File::Folded),
        hex => Generation::parse(hex).map(|generation| File::Blob(Some(generation))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_reads_back() {
        let place = |name: &str| name.parse::<Replica>().unwrap();
        let files = [File::Blob(None), File::Blob(Some(Generation::new(9))), File::Sidecar, File::Folded]
            .map(|file| PlacedFile { file, replica: place("a:1/sv00"), in_doubt: file == File::Sidecar });
        let intent =
            Intent { key: Key::new(*b"/\xff").unwrap(), time_us: 5, not_before_us: 0, files: files.to_vec() };
        assert_eq!(Intent::parse(&intent.to_value()), Some(intent));
        assert_eq!(Intent::parse(b""), None);
    }
}
