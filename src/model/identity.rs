//! Which volume a volume is: the random id that lies on it, beside the name under which it is found.
//!
//! A name can lead somewhere else tomorrow: a host is renamed, two drives are exchanged, one isn't mounted. The id lies on
//! the drive itself, in [`VOLUME_PATH`] of the volume's root and of each of its `svXX` folders, and goes where the drive goes.

use super::Replica;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// The file on each volume, and in each `svXX` folder, that tells which one it is.
pub const VOLUME_PATH: &str = "/=volume";

/// The longest [`VOLUME_PATH`] that is read, in bytes: one that names 256 subvolumes has 15 KB.
pub const MAX_VOLUME_FILE_BYTES: usize = 64 << 10;

/// The id of a volume or subvolume: 128 random bits, written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(u128);

impl Identity {
    /// From random bits.
    pub fn new(random: u128) -> Identity {
        Identity(random)
    }

    /// Reads 32 lower-case hex digits.
    pub fn parse(text: &str) -> Option<Identity> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Identity)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

/// What [`VOLUME_PATH`] contains, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFile {
    /// Which volume or subvolume this is.
    pub id: Identity,
    /// The name under which it was found when it got its id; for people, and never compared.
    pub name: String,
    /// In the root: the `svXX` folders that have an id, and which.
    pub subvolumes: BTreeMap<String, Identity>,
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    subvolumes: BTreeMap<String, String>,
}

impl VolumeFile {
    /// The file of a volume or subvolume that has just got its id.
    pub fn new(id: Identity, place: &Replica) -> VolumeFile {
        VolumeFile { id, name: place.to_string(), subvolumes: BTreeMap::new() }
    }

    /// The file's content, which ends with a new line for those who `cat` it.
    pub fn to_json(&self) -> Vec<u8> {
        let subvolumes = self.subvolumes.iter().map(|(name, id)| (name.clone(), id.to_string()));
        let stored =
            Stored { id: self.id.to_string(), name: self.name.clone(), subvolumes: subvolumes.collect() };
        let mut json = serde_json::to_vec(&stored).expect("it has only strings");
        json.push(b'\n');
        json
    }

    /// Reads a file's content; `None` if it tells no id: it is empty, torn, or something else.
    pub fn parse(json: &[u8]) -> Option<VolumeFile> {
        let stored: Stored = serde_json::from_slice(json).ok()?;
        let mut subvolumes = BTreeMap::new();
        for (name, id) in stored.subvolumes {
            subvolumes.insert(name, Identity::parse(&id)?);
        }
        Some(VolumeFile { id: Identity::parse(&stored.id)?, name: stored.name, subvolumes })
    }
}

/// The ids that the index knows, by the name of the volume or subvolume. A name that is no longer used stays, so that the
/// volume is known again under another name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identities {
    by_name: HashMap<Replica, Identity>,
    /// The volumes' roots that have an id, by server.
    roots: HashMap<String, Vec<Replica>>,
}

impl Identities {
    /// The ids of these places.
    pub fn new(known: impl IntoIterator<Item = (Replica, Identity)>) -> Identities {
        let mut identities = Identities::default();
        for (place, id) in known {
            identities.insert(place, id);
        }
        identities
    }

    /// From now on `place` has this id.
    pub fn insert(&mut self, place: Replica, id: Identity) {
        if place.volume().root() == place {
            let roots = self.roots.entry(place.authority().to_owned()).or_default();
            if !roots.contains(&place) {
                roots.push(place.clone());
            }
        }
        self.by_name.insert(place, id);
    }

    /// The id of a place, if it has one.
    pub fn of(&self, place: &Replica) -> Option<Identity> {
        self.by_name.get(place).copied()
    }

    /// The names that have this id, in order.
    pub fn names_of(&self, id: Identity) -> BTreeSet<&Replica> {
        self.by_name.iter().filter(|(_, known)| **known == id).map(|(place, _)| place).collect()
    }

    /// The names of all places with an id, in no order.
    pub fn places(&self) -> impl Iterator<Item = &Replica> {
        self.by_name.keys()
    }

    /// The volume that `server` (`host:port`) is to serve where `path` (beginning with `/`) lies; `None` if it has no id.
    pub fn root_at(&self, server: &str, path: &str) -> Option<(&Replica, Identity)> {
        let is_above = |root: &&Replica| {
            let below = &root.as_str()[server.len()..];
            below.is_empty() || path.strip_prefix(below).is_some_and(|rest| rest.starts_with('/'))
        };
        let roots = self.roots.get(server)?.iter().filter(is_above);
        let root = roots.max_by_key(|root| root.as_str().len())?;
        Some((root, self.of(root)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Replica {
        name.parse().expect("it is a place")
    }

    #[test]
    fn a_file_comes_back_as_it_was_written() {
        let subvolumes = BTreeMap::from([("sv0A".to_owned(), Identity::new(7))]);
        let file = VolumeFile { subvolumes, ..VolumeFile::new(Identity::new(1 << 100), &place("a:1")) };
        assert_eq!(VolumeFile::parse(&file.to_json()), Some(file));
    }

    #[test]
    fn what_is_torn_or_something_else_tells_no_id() {
        let whole = VolumeFile::new(Identity::new(5), &place("a:1")).to_json();
        for length in 0..whole.len() - 1 {
            assert_eq!(VolumeFile::parse(&whole[..length]), None, "{length} bytes");
        }
        for other in [
            &b"0123"[..],
            b"\0\0\0",
            b"{}",
            br#"{"id":"5"}"#,
            br#"{"id":"0000000000000000000000000000000G"}"#,
        ] {
            assert_eq!(VolumeFile::parse(other), None, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_server_is_known_by_the_volume_that_lies_above_a_path() {
        let known = [("a:1", 1), ("a:1/two", 2), ("a:1/sv01", 3), ("b:1/sub", 4)];
        let identities = Identities::new(known.map(|(name, id)| (place(name), Identity::new(id))));
        let root_at = |server, path| identities.root_at(server, path).map(|(root, _)| root.to_string());
        assert_eq!(root_at("a:1", "/ab/cd/x").as_deref(), Some("a:1"));
        assert_eq!(root_at("a:1", "/two/ab").as_deref(), Some("a:1/two"));
        assert_eq!(root_at("a:1", "/twofold").as_deref(), Some("a:1"));
        assert_eq!(root_at("a:1", "/sv01/ab").as_deref(), Some("a:1"));
        assert_eq!(root_at("b:1", "/ab"), None);
        assert_eq!(root_at("c:1", "/ab"), None);
    }

    #[test]
    fn all_names_of_one_volume_are_known() {
        let id = Identity::new(9);
        let identities = Identities::new([(place("old:1"), id), (place("new:1"), id)]);
        let names: Vec<String> = identities.names_of(id).into_iter().map(Replica::to_string).collect();
        assert_eq!(names, ["new:1", "old:1"]);
    }
}
