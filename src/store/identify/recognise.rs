//! Recognising: which volume answers under each name. Those that have no id yet get one.
//!
//! A place gets an id only after the files that the index says lie there were found, and no new id is used before all were
//! written and read again: two names of one directory show then.

use super::sample::{Samples, unproven};
use super::who::{self, Conflict, Finding};
use super::{ASKED_AT_ONCE, is_current};
use crate::index::{VolumeEntry, now_us};
use crate::model::{Identities, Identity, Replica, TRIAL_PATH, Volume, VolumeFile};
use crate::store::{Store, StoreError};
use crate::volume::{Adopt, EntryKind, Shown, VolumeError, random_identity};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use log::{info, warn};
use std::collections::{BTreeMap, BTreeSet};

impl Store {
    /// Has placement and probes know the ids that the index knows.
    pub async fn know_identities(&self) -> Result<(), StoreError> {
        let known = self.index.identities().await?;
        self.use_identities(known).await
    }

    /// Finds out which volume answers under each of `volumes` that answers, and has index and placement know it. Answers
    /// which of them can't be used beside each other; those are not used.
    pub async fn recognise(&self, volumes: &[Volume], adopt: Adopt) -> Result<Vec<Conflict>, StoreError> {
        self.recognise_by(volumes, adopt, &mut Samples::default()).await
    }

    pub(super) async fn recognise_by(
        &self,
        volumes: &[Volume],
        adopt: Adopt,
        samples: &mut Samples,
    ) -> Result<Vec<Conflict>, StoreError> {
        let _alone = self.volumes.health().recognise_alone().await;
        self.know_identities().await?;
        let known = self.index.identities().await?;
        let mut seen = self.see(volumes, &known).await;
        let gone = self.index.gone_identities().await?;
        let known = self.follow_renamed(known, &gone, &mut seen).await?;
        let known = self.know_named(known, &gone, &seen).await?;
        let mut conflicts = who::exchanged(&known, &seen);
        let (mut right, mut wrong) = (BTreeSet::new(), BTreeSet::new());
        let (mut renamed, mut unknown) = (Vec::new(), Vec::new());
        for (place, finding) in who::judge(&self.placer, &known, &gone, &seen) {
            match finding {
                Finding::Right => {
                    self.volumes.health().trust(&place);
                    right.insert(place);
                }
                Finding::Stranger(reason) => {
                    self.volumes.health().distrust(&place, &reason);
                    wrong.insert(place);
                }
                Finding::Renamed(id) => renamed.push((place, id)),
                Finding::Unknown(shown) => unknown.push((place, shown)),
                Finding::Doubled(twin) => {
                    if !conflicts.iter().any(|known| known.places() == [&twin, &place]) {
                        conflicts.push(self.same_or_clone(place.clone(), twin).await);
                    }
                    wrong.insert(place);
                }
            }
        }
        // A folder of a volume that isn't what it was is none of ours.
        unknown.retain(|(place, _)| !wrong.contains(&self.placer.volume_of(place).root()));
        let given = self.settle_unknown(unknown, &known, &seen, adopt, samples).await?;
        conflicts.extend(self.read_again(&given).await);
        for conflict in &conflicts {
            for place in conflict.places().into_iter().filter(|place| !right.contains(*place)) {
                self.volumes.health().distrust(place, &conflict.to_string());
            }
        }
        let is_in_conflict =
            |place: &Replica| conflicts.iter().any(|conflict| conflict.places().contains(&place));
        let told: Vec<(Replica, Identity)> =
            renamed.into_iter().chain(given).filter(|(place, _)| !is_in_conflict(place)).collect();
        self.take_over(told, known).await?;
        for volume in volumes.iter().filter(|volume| seen.contains_key(&volume.root())) {
            self.volumes.health().admit(volume);
        }
        Ok(conflicts)
    }

    /// Takes over volumes that are found under other names, with the ids of their subvolumes: a drive that isn't mounted in such a
    /// volume is missed under its new name too.
    async fn follow_renamed(
        &self,
        known: Identities,
        gone: &BTreeSet<Identity>,
        seen: &mut BTreeMap<Replica, Shown>,
    ) -> Result<Identities, StoreError> {
        let mut told = Vec::new();
        for (root, finding) in who::judge(&self.placer, &known, gone, seen) {
            let volume = self.placer.volume_of(&root);
            let (Finding::Renamed(id), true) = (finding, volume.root() == root) else { continue };
            for earlier in known.names_of(id) {
                let was = earlier.volume();
                for below in known.places().filter(|place| place.volume() == was && *place != earlier) {
                    let (Some(folder), Some(id)) = (who::folder_of(&was, below), known.of(below)) else {
                        continue;
                    };
                    let Some(place) = volume.subvolume(&folder) else { continue };
                    let shows = |shown: &Shown| matches!(shown, Shown::Is(file) if file.id == id);
                    let is_elsewhere = seen.iter().any(|(other, shown)| *other != place && shows(shown));
                    if !is_elsewhere && known.of(&place).is_none() {
                        told.push((place, id));
                    }
                }
            }
            told.push((root, id));
        }
        if told.is_empty() {
            return Ok(known);
        }
        for (place, _) in &told {
            if !seen.contains_key(place)
                && let Ok(shown) = self.volumes.shown(place).await
            {
                seen.insert(place.clone(), shown);
            }
        }
        self.take_over(told, known).await?;
        Ok(self.index.identities().await?)
    }

    /// A volume names its folders that have an id. One that the index doesn't know, as it was made while that drive was not
    /// mounted, is missed until it is there: an empty folder in its place doesn't get another id.
    async fn know_named(
        &self,
        mut known: Identities,
        gone: &BTreeSet<Identity>,
        seen: &BTreeMap<Replica, Shown>,
    ) -> Result<Identities, StoreError> {
        let mut named = Vec::new();
        for (root, shown) in seen {
            let volume = self.placer.volume_of(root);
            let Shown::Is(file) = shown else { continue };
            if volume.root() != *root || known.of(root).is_some_and(|id| id != file.id) {
                continue;
            }
            let places =
                file.subvolumes.iter().filter_map(|(folder, id)| Some((volume.subvolume(folder)?, *id)));
            let is_new = |(place, id): &(Replica, Identity)| {
                known.of(place).is_none() && known.names_of(*id).is_empty() && !gone.contains(id)
            };
            named.extend(places.filter(is_new));
        }
        if !named.is_empty() {
            self.index.set_identities(named.iter().map(|(place, id)| (place.clone(), Some(*id)))).await?;
            named.into_iter().for_each(|(place, id)| known.insert(place, id));
            self.use_identities(known.clone()).await?;
        }
        Ok(known)
    }

    /// Has index and placement know places by new ids. What is wanted of a volume goes with it.
    pub(super) async fn take_over(
        &self,
        told: Vec<(Replica, Identity)>,
        mut known: Identities,
    ) -> Result<(), StoreError> {
        if told.is_empty() {
            return Ok(());
        }
        let changes = told.iter().map(|(place, id)| (place.clone(), Some(*id)));
        self.index.set_identities(changes).await?;
        for (place, id) in told {
            for earlier in known.names_of(id).into_iter().filter(|name| **name != place) {
                info!("{place} and {earlier} are one volume");
                self.move_mode(earlier, &place).await?;
            }
            known.insert(place.clone(), id);
            self.volumes.health().trust(&place);
        }
        self.use_identities(known).await
    }

    /// A volume that is found under another name is still readonly, drained or down.
    async fn move_mode(&self, earlier: &Replica, present: &Replica) -> Result<(), StoreError> {
        let volume = self.placer.volume_of(present);
        let is_moved = is_current(&self.placer, present) && !is_current(&self.placer, earlier);
        let entries = self.index.volume_entries().await?.unwrap_or_default();
        if let Some(entry) = entries.get(earlier.as_str()).filter(|_| is_moved && volume.root() == *present) {
            let moved = [(present.to_string(), *entry), (earlier.to_string(), VolumeEntry::default())];
            self.index.set_volume_entries(BTreeMap::from(moved)).await?;
            self.placer.set_mode(&volume, entry.mode);
            info!("{present} is {}, as {earlier} was", entry.mode);
        }
        Ok(())
    }

    /// From now on volumes are known by these ids, and earlier names lead to present ones.
    async fn use_identities(&self, known: Identities) -> Result<(), StoreError> {
        let names = who::present_names(&self.placer, &known);
        self.volumes.health().set_identities(known);
        if *self.index.names() != names {
            self.index.set_names(names).await?;
        }
        Ok(())
    }

    /// What each place of the volumes that answer shows.
    async fn see(&self, volumes: &[Volume], known: &Identities) -> BTreeMap<Replica, Shown> {
        let roots = stream::iter(volumes).map(async |volume| {
            let root = volume.root();
            match self.volumes.shown(&root).await {
                Ok(shown) => Some((root, shown, self.subvolumes(volume, known).await)),
                Err(VolumeError::Refused { status: 401, .. }) => {
                    self.volumes.health().admit(volume);
                    None
                }
                Err(err) => {
                    log::debug!("{volume} doesn't tell which it is: {err}");
                    None
                }
            }
        });
        let roots: Vec<_> = roots.buffer_unordered(ASKED_AT_ONCE).collect().await;
        let (mut seen, mut places) = (BTreeMap::new(), Vec::new());
        for (root, shown, subvolumes) in roots.into_iter().flatten() {
            seen.insert(root, shown);
            places.extend(subvolumes);
        }
        let looks = stream::iter(places).map(|place| async {
            let shown = self.volumes.shown(&place).await;
            (place, shown)
        });
        let looks: Vec<_> = looks.buffer_unordered(ASKED_AT_ONCE).collect().await;
        seen.extend(looks.into_iter().filter_map(|(place, shown)| Some((place, shown.ok()?))));
        seen
    }

    /// The subvolumes of a volume that the index knows, and those that it has.
    pub(super) async fn subvolumes(&self, volume: &Volume, known: &Identities) -> BTreeSet<Replica> {
        let root = volume.root();
        let of_volume = |place: &&Replica| self.placer.volume_of(place) == *volume && **place != root;
        let mut places = self.listed_subvolumes(volume).await;
        places.extend(known.places().filter(of_volume).cloned());
        places
    }

    /// The subvolumes that a volume has.
    pub(super) async fn listed_subvolumes(&self, volume: &Volume) -> BTreeSet<Replica> {
        let entries = self.volumes.of_anybody().entries(&volume.root(), "").await.unwrap_or_default();
        let folders = entries.iter().filter(|entry| entry.kind == EntryKind::Directory);
        folders.filter_map(|entry| volume.subvolume(&String::from_utf8_lossy(&entry.name))).collect()
    }

    /// Places of which the index knows no id, or that don't show theirs: those at which the right files lie get one, or
    /// their own again. Answers the ids of places that the index doesn't know yet.
    async fn settle_unknown(
        &self,
        unknown: Vec<(Replica, Option<Identity>)>,
        known: &Identities,
        seen: &BTreeMap<Replica, Shown>,
        adopt: Adopt,
        samples: &mut Samples,
    ) -> Result<Vec<(Replica, Identity)>, StoreError> {
        if unknown.is_empty() || adopt == Adopt::None {
            return Ok(Vec::new());
        }
        let places: Vec<&Replica> = unknown.iter().map(|(place, _)| place).collect();
        self.sample(&places, samples).await?;
        let (new, mut given) = (self.index.new_volumes().await?, Vec::new());
        // A volume comes before its folders: where it isn't right, none of them is ours.
        let (mut right, mut wrong) = (Vec::new(), BTreeSet::new());
        for (place, shown) in unknown {
            let Some(sampled) = self.ask_for_sample(&place, samples).await else {
                wrong.insert(place);
                continue;
            };
            let (own, root) = (known.of(&place), self.placer.volume_of(&place).root());
            let is_torn = seen.get(&place) == Some(&Shown::Torn);
            let is_right = match own {
                None => !sampled.is_other() || new.contains(&root),
                Some(_) => sampled.is_proven() || (is_torn && !sampled.is_other()),
            };
            if !is_right {
                // In the words of every look, so that it isn't logged again and again in turn.
                let fault = own.zip(seen.get(&place)).and_then(|(own, shown)| shown.fault(own, known));
                self.volumes.health().distrust(&place, &fault.unwrap_or_else(|| unproven(sampled)));
                wrong.insert(place);
            } else if !wrong.contains(&root) {
                right.push((place, shown, own));
            }
        }
        // Subvolumes first: the root's file names those that have an id.
        for (place, shown, own) in right.into_iter().rev() {
            let id = match own.or(shown) {
                Some(id) => id,
                None => random_identity().map_err(StoreError::NoRandom)?,
            };
            if shown.is_none() && !self.tell(&place, id, &given, (known, seen)).await {
                continue;
            }
            if own.is_some() {
                warn!(
                    "{place} did not tell which volume it is; by its files it is the right one, and tells it again"
                );
                self.volumes.health().trust(&place);
            } else {
                given.push((place, id));
            }
        }
        let roots: BTreeSet<Replica> =
            given.iter().map(|(place, _)| self.placer.volume_of(place).root()).collect();
        for root in roots {
            // One that has got its id just now names them already.
            if let Some(id) = known.of(&root)
                && self.volumes.look(&root).await.is_ok()
            {
                self.tell(&root, id, &given, (known, seen)).await;
            }
        }
        Ok(given)
    }

    /// Writes a place's file. `false` if it can't take it: it is used as it was.
    pub(super) async fn tell(
        &self,
        place: &Replica,
        id: Identity,
        given: &[(Replica, Identity)],
        (known, seen): (&Identities, &BTreeMap<Replica, Shown>),
    ) -> bool {
        let volume = self.placer.volume_of(place);
        let mut file = VolumeFile::new(id, place);
        if let Some(Shown::Is(shown)) = seen.get(place) {
            file.name = shown.name.clone();
        }
        if volume.root() == *place {
            let given = given.iter().map(|(place, id)| (place, *id));
            let known = known.places().filter_map(|place| Some((place, known.of(place)?)));
            for (other, id) in known.chain(given).filter(|(other, _)| self.placer.volume_of(other) == volume)
            {
                file.subvolumes.extend(who::folder_of(&volume, other).map(|folder| (folder, id)));
            }
        }
        match self.volumes.write_identity(place, &file, now_us()).await {
            Ok(()) => true,
            Err(err) => {
                log::debug!("{place} gets no identity yet: {err}");
                false
            }
        }
    }

    /// Whether each place still shows the id that it was given; where it doesn't, it is the directory of another.
    async fn read_again(&self, given: &[(Replica, Identity)]) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for (place, id) in given {
            let Ok(Shown::Is(file)) = self.volumes.shown(place).await else { continue };
            let other = given.iter().find(|(other, theirs)| *theirs == file.id && other != place);
            if file.id != *id
                && let Some((other, _)) = other
            {
                conflicts.push(Conflict::Same(place.clone(), other.clone()));
            }
        }
        conflicts
    }

    /// Two places show one id: a file that is written to one is looked for at the other.
    async fn same_or_clone(&self, one: Replica, other: Replica) -> Conflict {
        let client = self.volumes.of_anybody();
        let mark = Bytes::from(format!("{:?}", random_identity().ok()));
        let is_written = client.put(&one, TRIAL_PATH, mark.clone(), now_us()).await.is_ok();
        let found = client.get(&other, TRIAL_PATH, mark.len()).await;
        if let Err(err) = client.delete(&one, TRIAL_PATH).await {
            warn!("{TRIAL_PATH} stays on {one}: {err}");
        }
        match found {
            Ok(found) if is_written && found.as_ref() != Some(&mark) => Conflict::Clone(one, other),
            _ => Conflict::Same(one, other),
        }
    }
}
