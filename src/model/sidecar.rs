//! The JSON beside a blob that tells a rebuild what it could not know otherwise.

use super::{Generation, Md5};
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

    /// The last microsecond of the year 9999 since 1970. HTTP has no later date, so a time behind it is none, and whoever
    /// wrote it counts in something else.
    pub const LAST_TIME_US: u64 = 253_402_300_799_999_999;

    /// Reads a file's content; `None` if it is no sidecar: also if it names a version that can't be, which must not be taken
    /// for another.
    pub fn parse(json: &[u8]) -> Option<Sidecar> {
        serde_json::from_slice(json).ok().filter(Sidecar::is_sound)
    }

    fn is_sound(&self) -> bool {
        let is_md5 = self.md5.as_deref().is_none_or(|md5| Md5::parse(md5).is_some());
        let is_time = |time_us: u64| time_us <= Self::LAST_TIME_US;
        let generation = self.generation.as_deref().map(Generation::parse);
        let is_generation =
            generation.is_none_or(|found| found.is_some_and(|generation| is_time(generation.time_us())));
        is_md5 && is_generation && is_time(self.state_time)
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

    #[test]
    fn what_names_no_version_and_no_time_is_no_sidecar() {
        let parse = |rest: &str| Sidecar::parse(format!(r#"{{"state":"live"{rest}}}"#).as_bytes());
        for rest in [
            r#","state_time":1"#,
            r#","state_time":253402300799999999,"md5":null,"unknown":{"a":[1]}"#,
            r#","state_time":1,"md5":"00112233445566778899aabbccddeeff","generation":"0000000000000009""#,
        ] {
            assert!(parse(rest).is_some(), "{rest}");
        }
        for rest in [
            "",
            r#","state_time":-1"#,
            r#","state_time":1.5"#,
            r#","state_time":"1""#,
            r#","state_time":1764046072000000000"#,
            r#","state_time":1,"generation":"9""#,
            r#","state_time":1,"generation":"00000000000000AB""#,
            r#","state_time":1,"generation":"ffffffffffffffff""#,
            r#","state_time":1,"generation":9"#,
            r#","state_time":1,"md5":"0011""#,
            r#","state_time":1,"size":-1"#,
            r#","state_time":1,"metadata":{"a":1}"#,
            r#","state_time":1}{"state":"live""#,
        ] {
            assert_eq!(parse(rest), None, "{rest}");
        }
    }
}
