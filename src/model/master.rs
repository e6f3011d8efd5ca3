//! What a volume tells of the master that it is used by: which index is the present one, and whether its server is alive.

use serde::{Deserialize, Serialize};

/// What [`MASTER_PATH`](super::MASTER_PATH) contains, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterFile {
    /// Rises with every start and every clean stop, in the index first.
    pub number: u64,
    /// 32 hex digits, made anew with every number.
    pub random: String,
    /// Rises every few seconds while the server is alive.
    pub beat: u64,
    /// No version that this index has acknowledged is later, µs since 1970.
    pub mark_us: u64,
    /// Whether it was stopped in order, so that nobody has to wait to see whether it is alive.
    #[serde(default)]
    pub stopped: bool,
}

impl MasterFile {
    /// The longest file that is read, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Whether it tells of another index than `ours`, that is not an earlier one: a later number, the same with other random
    /// bits, or writes that ours doesn't know.
    pub fn is_of_another(&self, ours: &MasterFile) -> bool {
        self.number > ours.number
            || (self.number == ours.number && self.random != ours.random)
            || self.mark_us > ours.mark_us
    }

    /// The file's content.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).expect("it has only strings and numbers");
        json.push(b'\n');
        json
    }

    /// Reads a file's content; `None` if it is none: empty, torn, or something else.
    pub fn parse(json: &[u8]) -> Option<MasterFile> {
        serde_json::from_slice(json).ok()
    }
}
