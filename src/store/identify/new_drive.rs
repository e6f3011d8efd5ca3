//! A new drive lies in the place of one that is gone, and is the right one from now on.

use super::{PAUSE, is_current, who};
use crate::index::now_us;
use crate::model::{Identity, Replica, VolumeFile, is_beside_blobs};
use crate::store::{Store, StoreError};
use crate::volume::{Adopt, EntryKind, Shown, VolumeError, random_identity};
use actix_rt::time::{sleep, timeout};
use log::warn;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a new drive may take until a probe has found it well: some intervals of probes.
const USED_WITHIN: Duration = Duration::from_secs(10);

impl Store {
    /// Whether anything but folders of no blobs lies at a place, whoever answers there.
    pub async fn has_blobs(&self, place: &Replica) -> Result<bool, VolumeError> {
        let client = self.volumes.of_anybody();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for entry in client.entries(place, &folder).await? {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                match entry.kind {
                    _ if is_beside_blobs(&entry.name) => {}
                    EntryKind::Directory => folders.push(format!("{folder}/{name}")),
                    EntryKind::File { .. } | EntryKind::Other => return Ok(true),
                }
            }
        }
        Ok(false)
    }

    /// Another name in use that is known to be the same volume as `place`: the records of `place` are that one's.
    pub async fn present_name_of(&self, place: &Replica) -> Result<Option<Replica>, StoreError> {
        let known = self.index.identities().await?;
        let Some(id) = known.of(place) else { return Ok(None) };
        let names = known.names_of(id);
        let other = names.into_iter().find(|name| *name != place && is_current(&self.placer, name));
        Ok(other.cloned())
    }

    /// Gives a place a new id, and gives up for ever the one that it had; with all its subvolumes if it is a volume.
    pub async fn take_as_new(&self, place: &Replica) -> Result<(), StoreError> {
        let volume = self.placer.volume_of(place);
        let alone = self.volumes.health().recognise_alone().await;
        let known = self.index.identities().await?;
        let (mut places, mut gone) = (vec![place.clone()], BTreeSet::from([place.clone()]));
        if volume.root() == *place {
            places.extend(self.listed_subvolumes(&volume).await);
            gone = self.subvolumes(&volume, &known).await;
            gone.insert(place.clone());
        }
        let mut changes = Vec::new();
        for place in &gone {
            if let Some(id) = known.of(place) {
                self.index.give_up_identity(id).await?;
                changes.push((place.clone(), None));
            }
        }
        let mut given: Vec<(Replica, Identity)> = Vec::new();
        // The root is the last: its file names those that have an id.
        for place in places.iter().rev() {
            let id = random_identity().map_err(StoreError::NoRandom)?;
            let mut file = VolumeFile::new(id, place);
            if volume.root() == *place {
                let folder = |(place, id): &(Replica, Identity)| Some((who::folder_of(&volume, place)?, *id));
                file.subvolumes = given.iter().filter_map(folder).collect();
            }
            match self.volumes.write_identity(place, &file, now_us()).await {
                Ok(()) => given.push((place.clone(), id)),
                Err(source) if volume.root() == *place || places.len() == 1 => {
                    return Err(StoreError::NotTold { source });
                }
                Err(err) => warn!("{place} gets no identity yet: {err}"),
            }
        }
        if volume.root() == *place {
            self.index.set_new_volume(place).await?;
        }
        changes.extend(given.iter().map(|(place, id)| (place.clone(), Some(*id))));
        self.index.set_identities(changes).await?;
        gone.iter().for_each(|place| self.volumes.health().trust(place));
        self.know_identities().await?;
        if volume.root() != *place {
            self.tell_root(&volume.root()).await?;
        }
        drop(alone);
        self.recognise(&[volume], Adopt::Ownerless).await?;
        // A probe, which was woken, says when it is used.
        let is_used = async {
            while !self.volumes.health().is_up(place) {
                sleep(PAUSE).await;
            }
        };
        if timeout(USED_WITHIN, is_used).await.is_err() {
            warn!("{place} is not used yet; `mkv volumes` says why");
        }
        Ok(())
    }

    /// A volume's root names the subvolume that has another id now.
    async fn tell_root(&self, root: &Replica) -> Result<(), StoreError> {
        let known = self.index.identities().await?;
        let Some(id) = known.of(root) else { return Ok(()) };
        let shown = self.volumes.shown(root).await.unwrap_or(Shown::Nothing);
        let seen = BTreeMap::from([(root.clone(), shown)]);
        self.tell(root, id, &[], (&known, &seen)).await;
        Ok(())
    }
}
