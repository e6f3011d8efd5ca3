//! Volumes and the places on them: strings that are hashed as typed and are therefore never rewritten.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// A volume as the operator typed it: `host[:port][/path]`. The string is its identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Volume(Arc<str>);

/// Where a replica lives: a volume, with `/svXX` behind it where there are subvolumes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Replica(Arc<str>);

/// What the operator wants of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum VolumeMode {
    /// Everything.
    #[default]
    Alive = 0,
    /// Its blobs stay and are read; nothing on it is written or removed.
    Readonly = 1,
    /// It takes no new blobs, and a rebalance empties it.
    Drain = 2,
    /// It is passed over as if it were dead, and its blobs belong elsewhere.
    Down = 3,
}

/// Why a string names no volume.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no volume ({reason}); write host:port or host:port/path, without http://")]
pub struct VolumeError {
    text: String,
    reason: &'static str,
}

impl FromStr for Volume {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Volume, VolumeError> {
        checked(text).map(|text| Volume(text.into()))
    }
}

impl FromStr for Replica {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Replica, VolumeError> {
        checked(text).map(|text| Replica(text.into()))
    }
}

impl VolumeMode {
    /// Every mode and its name.
    pub const ALL: [(VolumeMode, &'static str); 4] = [
        (VolumeMode::Alive, "alive"),
        (VolumeMode::Readonly, "readonly"),
        (VolumeMode::Drain, "drain"),
        (VolumeMode::Down, "down"),
    ];

    /// The mode of a discriminant that came from one.
    pub(super) fn of(number: u8) -> VolumeMode {
        VolumeMode::ALL[usize::from(number)].0
    }

    /// Whether blobs belong on such a volume.
    pub fn keeps_blobs(self) -> bool {
        matches!(self, VolumeMode::Alive | VolumeMode::Readonly)
    }

    /// Whether files on it may be written and removed.
    pub fn takes_changes(self) -> bool {
        matches!(self, VolumeMode::Alive | VolumeMode::Drain)
    }
}

impl FromStr for VolumeMode {
    type Err = String;

    fn from_str(text: &str) -> Result<VolumeMode, String> {
        let found = VolumeMode::ALL.into_iter().find(|(_, name)| *name == text);
        found.map(|(mode, _)| mode).ok_or_else(|| format!("{text:?} is not alive, readonly, drain or down"))
    }
}

impl fmt::Display for VolumeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VolumeMode::ALL[*self as usize].1)
    }
}

impl Volume {
    /// The string as typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A volume's directory on this machine, for what reads it where no nginx serves it: a path that begins with `/` or
    /// `./`, which no [`Volume`] of a cluster does. `None` for every other text.
    pub fn in_directory(text: &str) -> Option<Volume> {
        let path = if text.bytes().all(|byte| byte == b'/') { "/." } else { text.trim_end_matches('/') };
        (text.starts_with('/') || text.starts_with("./")).then(|| Volume(path.into()))
    }

    /// The volume itself as a place.
    pub fn root(&self) -> Replica {
        self.replica(None)
    }

    /// The place that the folder `name` of this volume is, if it is a subvolume.
    pub fn subvolume(&self, name: &str) -> Option<Replica> {
        let number = name.strip_prefix("sv")?;
        is_subvolume(number).then(|| Replica(format!("{}/{name}", self.0).into()))
    }

    /// The place of subvolume `number` on this volume; `None` where the volume has none.
    pub(super) fn replica(&self, number: Option<u32>) -> Replica {
        match number {
            Some(number) => Replica(format!("{}/sv{number:02X}", self.0).into()),
            None => Replica(self.0.clone()),
        }
    }
}

impl Replica {
    /// The volume and the subvolume, as a record lists them.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that this place is, if it belongs to [`Volume::in_directory`].
    pub fn directory(&self) -> Option<&Path> {
        (self.0.starts_with('/') || self.0.starts_with("./")).then(|| Path::new(&*self.0))
    }

    /// `host[:port]`: the server that answers for this place.
    pub fn authority(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    /// The volume as a record names it: without the subvolume.
    pub fn volume(&self) -> Volume {
        match self.0.rsplit_once("/sv") {
            Some((volume, number)) if is_subvolume(number) => Volume(volume.into()),
            _ => Volume(self.0.clone()),
        }
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Two or more upper-case hex digits, as placement writes them.
fn is_subvolume(number: &str) -> bool {
    number.len() >= 2 && number.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

/// Words that begin a record's other parts, so a volume can't.
const RESERVED_BEGINNINGS: [&str; 3] = ["DELETED", "HASH", "GEN"];

fn checked(text: &str) -> Result<&str, VolumeError> {
    match fault(text) {
        Some(reason) => Err(VolumeError { text: text.into(), reason }),
        None => Ok(text),
    }
}

fn fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.contains("://") {
        return Some("it has a scheme");
    }
    if text.contains('@') {
        return Some("it has a user");
    }
    if RESERVED_BEGINNINGS.iter().any(|word| text.starts_with(word)) {
        return Some("DELETED, HASH and GEN can't begin a name");
    }
    let (authority, path) = text.split_once('/').map_or((text, None), |(host, path)| (host, Some(path)));
    authority_fault(authority).or_else(|| path.and_then(path_fault))
}

fn authority_fault(authority: &str) -> Option<&'static str> {
    let (host, port) = if authority.starts_with('[') {
        match authority.split_once(']') {
            Some((host, rest)) => (&host[1..], rest.strip_prefix(':').or((!rest.is_empty()).then_some("x"))),
            None => return Some("its [ is not closed"),
        }
    } else {
        authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)))
    };
    let in_brackets = authority.starts_with('[');
    let allowed = |byte: u8| match byte {
        b':' => in_brackets,
        b'.' | b'-' | b'_' => true,
        _ => byte.is_ascii_alphanumeric(),
    };
    // `.` would be a directory.
    if host.is_empty() || host == "." || !host.bytes().all(allowed) {
        return Some("its host is not a host name or address");
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => None,
        Some(Ok(0) | Err(_)) => Some("its port is not a number from 1 to 65535"),
    }
}

fn path_fault(path: &str) -> Option<&'static str> {
    if path.ends_with('/') || path.is_empty() {
        return Some("it ends in /");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~+=/".contains(&byte);
    let whole = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    (!whole || !path.bytes().all(allowed))
        .then_some("its path is not plain letters, digits and single slashes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_port_and_path_are_taken_as_typed() {
        for text in
            ["localhost", "localhost:3001", "10.0.0.1:80/disk/a", "[::1]:3001", "larry", "v_1.x-y:1/sv09"]
        {
            assert_eq!(text.parse::<Volume>().expect(text).as_str(), text);
        }
    }

    #[test]
    fn what_is_no_volume_is_refused() {
        for text in [
            "", "http://a", "u:p@a", "a/", "a//b", "a:0", "a:x", "a:70000", "a b", "a,b", "DELETEDx",
            "HASHx", "GENx", "[::1", "[::1]x", ":80", "a/..", "a/%2F", "a?b", "./a",
        ] {
            assert!(text.parse::<Volume>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_directory_is_told_from_a_server() {
        for (text, expected) in
            [("/srv/v1/", "/srv/v1"), ("./v1", "./v1"), ("/", "/."), ("/with space//", "/with space")]
        {
            let volume = Volume::in_directory(text).expect(text);
            assert_eq!(volume.root().directory(), Some(Path::new(expected)), "{text}");
            assert!(text.parse::<Volume>().is_err(), "{text}");
        }
        assert_eq!(Volume::in_directory("host:1/srv"), None);
        assert_eq!("host:1/srv".parse::<Volume>().unwrap().root().directory(), None);
    }

    #[test]
    fn a_replica_knows_its_server_and_volume() {
        let replica: Replica = "host:1/disk/sv0A".parse().unwrap();
        assert_eq!((replica.authority(), replica.volume().as_str()), ("host:1", "host:1/disk"));
        let plain: Replica = "host:1/disk".parse().unwrap();
        assert_eq!(plain.volume().as_str(), "host:1/disk");
    }
}
