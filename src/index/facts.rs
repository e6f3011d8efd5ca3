//! What the index knows of the cluster beside its keys: which volume each name is, what the operator wants of volumes, and
//! which master it belongs to. Typed entries below `/`; nothing here is a record's, and each stands by itself.

use super::message::Message;
use super::own_entries::{
    GONE_PREFIX, MASTER_KEY, MODE_PREFIX, MODES_KEY, NEW_PREFIX, PLACE_PREFIX, TOLD_PREFIX,
};
use super::table::{Change, Entry};
use super::{Index, IndexError};
use crate::model::{Identities, Identity, Replica, VolumeMode};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The entry of a volume or subvolume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlaceEntry {
    id: String,
}

/// What the operator wants of a volume that is not simply alive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeEntry {
    /// Its mode.
    #[serde(default)]
    pub mode: VolumeMode,
    /// Whether it is gone for good.
    #[serde(default)]
    pub forgotten: bool,
    /// Whether it is an older copy of itself, and readonly for that.
    #[serde(default)]
    pub older: bool,
}

/// Which master the index belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterEntry {
    /// Rises with every start and every clean stop.
    pub number: u64,
    /// 32 hex digits, made anew with every number, so that two masters of one number are told apart.
    pub random: String,
    /// Which directory on which machine the index is.
    #[serde(default)]
    pub home: String,
}

impl Index {
    /// The ids of all volumes and subvolumes by name, also of names that are no longer used.
    pub async fn identities(&self) -> Result<Identities, IndexError> {
        let entries = self.own_entries(PLACE_PREFIX).await?;
        Ok(Identities::new(entries.iter().filter_map(place_of)))
    }

    /// Remembers ids of places; `None` has an id forgotten.
    pub async fn set_identities(
        &self,
        changes: impl IntoIterator<Item = (Replica, Option<Identity>)>,
    ) -> Result<(), IndexError> {
        let changes = changes.into_iter().map(|(place, id)| place_change(&place, id));
        self.change_own(changes.collect()).await
    }

    /// The ids that were given up.
    pub async fn gone_identities(&self) -> Result<BTreeSet<Identity>, IndexError> {
        let entries = self.own_entries(GONE_PREFIX).await?;
        Ok(entries.iter().filter_map(|(key, _)| gone_id(key)).collect())
    }

    /// Gives up an id for ever: no place is taken that shows it.
    pub async fn give_up_identity(&self, id: Identity) -> Result<(), IndexError> {
        self.change_own(vec![changed(format!("{GONE_PREFIX}{id}"), Some(&()))]).await
    }

    /// Volumes that were taken as new drives: what lies in subvolumes of theirs was written since.
    pub async fn new_volumes(&self) -> Result<BTreeSet<Replica>, IndexError> {
        let entries = self.own_entries(NEW_PREFIX).await?;
        Ok(entries.iter().filter_map(|(key, _)| new_volume(key)).collect())
    }

    /// Remembers that a volume was taken as a new drive.
    pub async fn set_new_volume(&self, volume: &Replica) -> Result<(), IndexError> {
        self.change_own(vec![changed(format!("{NEW_PREFIX}{volume}"), Some(&()))]).await
    }

    /// What the operator wants of each volume that is not simply alive, by name; `None` if this index has never known.
    pub async fn volume_entries(&self) -> Result<Option<BTreeMap<String, VolumeEntry>>, IndexError> {
        if self.own_entries(MODES_KEY).await?.is_empty() {
            return Ok(None);
        }
        let entries = self.own_entries(MODE_PREFIX).await?;
        Ok(Some(entries.iter().filter_map(volume_entry).collect()))
    }

    /// Remembers what the operator wants of some volumes; of one that is alive nothing.
    pub async fn set_volume_entries(&self, entries: BTreeMap<String, VolumeEntry>) -> Result<(), IndexError> {
        let mut changes = vec![changed(MODES_KEY.to_owned(), Some(&1))];
        for (name, entry) in entries {
            let entry = Some(entry).filter(|entry| *entry != VolumeEntry::default());
            changes.push(changed(format!("{MODE_PREFIX}{name}"), entry.as_ref()));
        }
        self.change_own(changes).await
    }

    /// Which master the index belongs to; `None` if none has ever said.
    pub async fn master(&self) -> Result<Option<MasterEntry>, IndexError> {
        let entries = self.own_entries(MASTER_KEY).await?;
        Ok(entries.first().and_then(|(_, value)| serde_json::from_slice(value).ok()))
    }

    /// Has the index belong to another master; returns when that is durable.
    pub async fn set_master(&self, master: &MasterEntry) -> Result<(), IndexError> {
        self.change_own(vec![changed(MASTER_KEY.to_owned(), Some(master))]).await
    }

    /// The mark that each volume has confirmed last, µs since 1970, by its id.
    pub async fn told_marks(&self) -> Result<BTreeMap<Identity, u64>, IndexError> {
        let entries = self.own_entries(TOLD_PREFIX).await?;
        Ok(entries.iter().filter_map(told_mark).collect())
    }

    /// Remembers marks that volumes have confirmed; `None` has one forgotten.
    pub async fn set_told_marks(
        &self,
        marks: impl IntoIterator<Item = (Identity, Option<u64>)>,
    ) -> Result<(), IndexError> {
        let changes =
            marks.into_iter().map(|(id, mark)| changed(format!("{TOLD_PREFIX}{id}"), mark.as_ref()));
        self.change_own(changes.collect()).await
    }

    async fn own_entries(&self, prefix: &str) -> Result<Vec<Entry>, IndexError> {
        let prefix = prefix.to_owned();
        self.ask(|reply| Message::OwnEntries { prefix, reply }).await
    }

    async fn change_own(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        self.ask(|reply| Message::ChangeOwn { changes, reply }).await
    }
}

/// The entries of these ids, for those who make an index anew.
pub fn identity_entries(identities: &Identities) -> Vec<Change> {
    identities.places().map(|place| place_change(place, identities.of(place))).collect()
}

fn place_change(place: &Replica, id: Option<Identity>) -> Change {
    let entry = id.map(|id| PlaceEntry { id: id.to_string() });
    changed(format!("{PLACE_PREFIX}{place}"), entry.as_ref())
}

/// Whether an entry of this module is as it should be; `None` if it is none of them.
pub(super) fn is_right(key: &[u8], value: &[u8]) -> Option<bool> {
    let text = std::str::from_utf8(key).ok()?;
    if text.starts_with(PLACE_PREFIX) {
        return Some(place_of(&(key.to_vec(), value.to_vec())).is_some());
    }
    if text.starts_with(MODE_PREFIX) {
        return Some(volume_entry(&(key.to_vec(), value.to_vec())).is_some());
    }
    if text.starts_with(NEW_PREFIX) {
        return Some(new_volume(key).is_some());
    }
    if text.starts_with(GONE_PREFIX) {
        return Some(gone_id(key).is_some());
    }
    if text.starts_with(TOLD_PREFIX) {
        return Some(told_mark(&(key.to_vec(), value.to_vec())).is_some());
    }
    match text {
        MODES_KEY => Some(true),
        MASTER_KEY => Some(serde_json::from_slice::<MasterEntry>(value).is_ok()),
        _ => None,
    }
}

fn changed(key: String, value: Option<&impl Serialize>) -> Change {
    let key = key.into_bytes();
    match value {
        Some(value) => {
            let value = serde_json::to_vec(value).expect("it has only strings and numbers");
            Change::Put { key, value }
        }
        None => Change::Delete { key },
    }
}

fn place_of((key, value): &Entry) -> Option<(Replica, Identity)> {
    let name = std::str::from_utf8(key).ok()?.strip_prefix(PLACE_PREFIX)?;
    let entry: PlaceEntry = serde_json::from_slice(value).ok()?;
    Some((name.parse().ok()?, Identity::parse(&entry.id)?))
}

fn new_volume(key: &[u8]) -> Option<Replica> {
    std::str::from_utf8(key).ok()?.strip_prefix(NEW_PREFIX)?.parse().ok()
}

fn gone_id(key: &[u8]) -> Option<Identity> {
    Identity::parse(std::str::from_utf8(key).ok()?.strip_prefix(GONE_PREFIX)?)
}

fn told_mark((key, value): &Entry) -> Option<(Identity, u64)> {
    let id = std::str::from_utf8(key).ok()?.strip_prefix(TOLD_PREFIX)?;
    Some((Identity::parse(id)?, serde_json::from_slice(value).ok()?))
}

fn volume_entry((key, value): &Entry) -> Option<(String, VolumeEntry)> {
    let name = std::str::from_utf8(key).ok()?.strip_prefix(MODE_PREFIX)?;
    Some((name.to_owned(), serde_json::from_slice(value).ok()?))
}
