//! The JSON beside a blob that tells a rebuild what it could not know otherwise.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What state a sidecar says its key is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SidecarState {
    /// Readable.
    Live,
    /// Kept, not readable.
    Unlinked,
    /// Gone, although files may still be found on a volume that was away.
    Deleted,
}

/// A sidecar, `{path}.meta`. Of several, on any volume, a rebuild believes the newest `state_time`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    /// The key's state.
    pub state: SidecarState,
    /// When that state was reached, µs since 1970.
    pub state_time: u64,
    /// The content's MD5, 32 hex digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub md5: Option<String>,
    /// The content's size in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// The generation, 16 hex digits; absent for the plain path.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub generation: Option<String>,
    /// The content type that the client gave.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
    /// User metadata.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub metadata: BTreeMap<String, String>,
}

impl Sidecar {
    /// The longest file that is read as a sidecar, in bytes: S3 allows 2 KB of metadata.
    pub const MAX_BYTES: usize = 64 << 10;

    /// The file's content.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a sidecar has only strings and numbers")
    }

    /// Reads a file's content; `None` if it is no sidecar.
    pub fn parse(json: &[u8]) -> Option<Sidecar> {
        serde_json::from_slice(json).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_reads_back_and_says_only_what_is_known() {
        let sidecar = Sidecar {
            state: SidecarState::Unlinked,
            state_time: 7,
            md5: None,
            size: Some(3),
            generation: None,
            content_type: None,
            metadata: BTreeMap::new(),
        };
        assert_eq!(sidecar.to_json(), br#"{"state":"unlinked","state_time":7,"size":3}"#);
        assert_eq!(Sidecar::parse(&sidecar.to_json()), Some(sidecar));
        assert_eq!(Sidecar::parse(b"<html>"), None);
    }
}
