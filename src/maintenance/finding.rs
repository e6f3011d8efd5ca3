//! Something that is not as it should be, as jobs tell it.

use crate::model::{Key, Replica};
use crate::volume::VolumeError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What sort of thing is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A key of which no right replica is left.
    Missing,
    /// A replica that isn't there.
    UnderReplicated,
    /// A replica that isn't what was stored.
    Corrupt,
    /// Replicas that differ, and nothing tells which is right.
    Undecided,
    /// Replicas that are right and not in their place.
    Misplaced,
    /// A blob file that no record names.
    Orphan,
    /// A file of a version that was overwritten.
    Leftover,
    /// A sidecar where there is no replica.
    StraySidecar,
    /// Sidecars from which a rebuild would make another record.
    WrongSidecar,
    /// A volume, or something on it, that could not be read.
    Unreachable,
    /// Anything else; the words say it.
    Other,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 11] = [
        Kind::Missing,
        Kind::UnderReplicated,
        Kind::Corrupt,
        Kind::Undecided,
        Kind::Misplaced,
        Kind::Orphan,
        Kind::Leftover,
        Kind::StraySidecar,
        Kind::WrongSidecar,
        Kind::Unreachable,
        Kind::Other,
    ];
}

/// A kind or a job's state as a word, the same as in JSON.
pub fn word(value: impl Serialize) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str().unwrap_or_default().to_owned()
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What sort of thing it is.
    pub kind: Kind,
    /// The key, percent-encoded, if it is about one.
    pub key: Option<String>,
    /// The volume, if it is about one.
    pub volume: Option<String>,
    /// What it is, in words.
    pub what: String,
    /// Whether the job has made it what it should be.
    pub mended: bool,
}

impl Finding {
    /// A finding that is left as it is.
    pub fn new(kind: Kind, key: Option<&Key>, place: Option<&Replica>, what: impl fmt::Display) -> Finding {
        let (key, volume) = (key.map(Key::to_string), place.map(Replica::to_string));
        Finding { kind, key, volume, what: what.to_string(), mended: false }
    }

    /// What a volume did not give.
    pub fn unreachable(key: Option<&Key>, err: &VolumeError) -> Finding {
        Finding::new(Kind::Unreachable, key, Some(err.replica()), err)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.key, &self.volume].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.what)?;
        if self.mended { f.write_str("; mended") } else { Ok(()) }
    }
}
