//! Who is who: finds out which volume answers under each name, gives an id to those that have none, and goes on looking.
//!
//! A place gets an id only after the files that the index says lie there were found, and no new id is used before all were
//! written and read again: two names of one directory show then. What isn't the volume that it was is not used, and what
//! was written to it since it was last looked at is made anew elsewhere.

use super::who::{self, Conflict, Finding, Sampled};
use super::{Access, Store, StoreError};
use crate::index::{IndexError, now_us};
use crate::model::{
    File, Identities, Identity, Key, Replica, TRIAL_PATH, Volume, VolumeFile, decode_path, is_beside_blobs,
    path_of,
};
use crate::volume::{Adopt, EntryKind, Shown, VolumeError, Written, random_identity};
use actix_rt::time::{sleep, timeout};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use log::{error, info, warn};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::{Duration, Instant};

/// How often places are looked at that were written to.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shortest time between two rounds, when places are written to for the first time.
const PAUSE: Duration = Duration::from_millis(50);

/// In so many rounds every place at rest is looked at: of 400 places thirteen a second.
const ROUNDS: usize = 30;

/// How long a new drive may take until a probe has found it well: some intervals of probes.
const USED_WITHIN: Duration = Duration::from_secs(10);

/// Volumes that can't be told are looked at again after so much time.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Places that are asked at the same time.
const ASKED_AT_ONCE: usize = 32;

/// Files of a place that are asked for before it gets an id.
const SAMPLE: usize = 32;

/// Records that are read in one go.
const PAGE_RECORDS: usize = 1000;

/// Files that records say lie at places or, for a volume's root, anywhere on the volume: each where it lies, and its path.
type Samples = HashMap<Replica, Vec<(Replica, String)>>;

/// What the looks of a server remember from one round to the next.
#[derive(Default)]
struct Rounds {
    /// The places at rest that are still to be looked at in this turn.
    resting: Vec<Replica>,
    samples: Samples,
    /// When volumes that could not be told are looked at again.
    again: Option<Instant>,
}

/// Looks every second at what was written to, and now and then at everything else, for ever, with the credentials that
/// `access` gives at the time.
pub async fn run(store: Store, access: impl Fn() -> Access) {
    let mut rounds = Rounds::default();
    loop {
        sleep(PAUSE).await;
        let _ = timeout(LOOK_EVERY - PAUSE, store.volumes.health().new_place()).await;
        match store.for_background(&access).await.look_around(&mut rounds).await {
            Ok(()) => {}
            Err(StoreError::Index(IndexError::Stopped)) => return,
            Err(err) => error!("looking which volume is which: {err}"),
        }
    }
}

impl Store {
    /// Has placement and probes know the ids that the index knows.
    pub async fn know_identities(&self) -> Result<(), StoreError> {
        let known = self.index.identities().await?;
        self.use_identities(known).await
    }

    /// Looks at what was written to since the last look, before the server ends.
    pub async fn look_at_last(&self) -> Result<(), StoreError> {
        self.look_around(&mut Rounds::default()).await
    }

    /// Finds out which volume answers under each of `volumes` that answers, and has index and placement know it. Answers
    /// which of them can't be used beside each other; those are not used.
    pub async fn recognise(&self, volumes: &[Volume], adopt: Adopt) -> Result<Vec<Conflict>, StoreError> {
        self.recognise_by(volumes, adopt, &mut Samples::default()).await
    }

    async fn recognise_by(
        &self,
        volumes: &[Volume],
        adopt: Adopt,
        samples: &mut Samples,
    ) -> Result<Vec<Conflict>, StoreError> {
        let known = self.index.identities().await?;
        self.use_identities(known.clone()).await?;
        let seen = self.see(volumes, &known).await;
        let gone = self.index.gone_identities().await?;
        let judged = who::judge(&self.placer, &known, &gone, &seen);
        let mut conflicts = who::exchanged(&known, &seen);
        let (mut right, mut renamed, mut unknown) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (place, finding) in judged {
            match finding {
                Finding::Right => {
                    self.volumes.health().trust(&place);
                    right.insert(place);
                }
                Finding::Stranger(reason) => self.volumes.health().distrust(&place, &reason),
                Finding::Renamed(id) => renamed.push((place, id)),
                Finding::Unknown(shown) => unknown.push((place, shown)),
                Finding::Doubled(twin) => {
                    if !conflicts.iter().any(|known| known.places() == [&twin, &place]) {
                        conflicts.push(self.same_or_clone(place, twin).await);
                    }
                }
            }
        }
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

    /// Has index and placement know places by new ids.
    async fn take_over(
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
                info!("{place} is what was called {earlier}");
            }
            known.insert(place.clone(), id);
            self.volumes.health().trust(&place);
        }
        self.use_identities(known).await
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
    async fn subvolumes(&self, volume: &Volume, known: &Identities) -> BTreeSet<Replica> {
        let root = volume.root();
        let of_volume = |place: &&Replica| place.volume() == *volume && **place != root;
        let mut places = self.listed_subvolumes(volume).await;
        places.extend(known.places().filter(of_volume).cloned());
        places
    }

    /// The subvolumes that a volume has.
    async fn listed_subvolumes(&self, volume: &Volume) -> BTreeSet<Replica> {
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
        // Subvolumes first: the root's file names those that have an id.
        for (place, shown) in unknown.into_iter().rev() {
            let Some(sampled) = self.ask_for_sample(&place, samples).await else { continue };
            let own = known.of(&place);
            let is_torn = seen.get(&place) == Some(&Shown::Torn);
            let is_right = match own {
                None => !sampled.is_other() || new.contains(&place.volume().root()),
                Some(_) => sampled.is_proven() || (is_torn && !sampled.is_other()),
            };
            if !is_right {
                self.volumes.health().distrust(&place, &unproven(own, sampled));
                continue;
            }
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
        for place in self.roots_of_new_subvolumes(&given) {
            if let Some(id) = known.of(&place) {
                self.tell(&place, id, &given, (known, seen)).await;
            }
        }
        Ok(given)
    }

    /// The volumes of which only subvolumes got an id.
    fn roots_of_new_subvolumes(&self, given: &[(Replica, Identity)]) -> BTreeSet<Replica> {
        given.iter().map(|(place, _)| place.volume().root()).collect()
    }

    /// Writes a place's file. `false` if it can't take it: it is used as it was.
    async fn tell(
        &self,
        place: &Replica,
        id: Identity,
        given: &[(Replica, Identity)],
        (known, seen): (&Identities, &BTreeMap<Replica, Shown>),
    ) -> bool {
        let volume = place.volume();
        let mut file = VolumeFile::new(id, place);
        if let Some(Shown::Is(shown)) = seen.get(place) {
            file.name = shown.name.clone();
        }
        if volume.root() == *place {
            let given = given.iter().map(|(place, id)| (place, *id));
            let known = known.places().filter_map(|place| Some((place, known.of(place)?)));
            for (other, id) in known.chain(given).filter(|(other, _)| other.volume() == volume) {
                file.subvolumes.extend(who::folder_of(&volume, other).map(|folder| (folder, id)));
            }
        }
        match self.volumes.write_identity(place, &file, now_us()).await {
            Ok(()) => true,
            Err(err) => {
                warn!("{place} gets no identity yet: {err}");
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

    /// Finds files that records say lie at `places`, up to [`SAMPLE`] for each that `samples` doesn't have yet.
    async fn sample(&self, places: &[&Replica], samples: &mut Samples) -> Result<(), StoreError> {
        let mut lacking: BTreeSet<&Replica> =
            places.iter().filter(|place| !samples.contains_key(place)).copied().collect();
        let mut from = Some(Bound::Included(b"/".to_vec()));
        while let Some(start) = from.take().filter(|_| !lacking.is_empty()) {
            let page = self.index.scan(start, PAGE_RECORDS).await?;
            for (key, record) in page.entries {
                let Ok(record) = record else { continue };
                for replica in &record.replicas {
                    for place in [replica, &replica.volume().root()] {
                        let Some(place) = lacking.get(place).copied() else { continue };
                        let files = samples.entry(place.clone()).or_default();
                        let file = (replica.clone(), path_of(&key, File::Blob(record.generation)));
                        if !files.contains(&file) {
                            files.push(file);
                        }
                        if files.len() >= SAMPLE {
                            lacking.remove(place);
                        }
                    }
                }
            }
            from = page.next;
        }
        // They hold nothing, or less.
        for place in lacking {
            samples.entry(place.clone()).or_default();
        }
        Ok(())
    }

    /// What lies at a place of its sample; `None` if it doesn't say.
    async fn ask_for_sample(&self, place: &Replica, samples: &Samples) -> Option<Sampled> {
        let client = self.volumes.of_anybody();
        let mut sampled = Sampled::default();
        for (at, path) in samples.get(place).map_or(&[][..], Vec::as_slice) {
            match client.head(at, path).await {
                Ok(Some(_)) => sampled.there += 1,
                Ok(None) => sampled.missing += 1,
                Err(err) => {
                    log::debug!("{place} doesn't tell what lies there: {err}");
                    return None;
                }
            }
        }
        Some(sampled)
    }

    /// One round of looks.
    async fn look_around(&self, rounds: &mut Rounds) -> Result<(), StoreError> {
        let health = self.volumes.health();
        for (place, written) in health.take_written() {
            self.look_at_written(place, written, rounds).await?;
        }
        let known = health.identities();
        if rounds.resting.is_empty() {
            let current = known.places().filter(|place| who::is_current(&self.placer, place));
            rounds.resting = current.cloned().collect();
        }
        let count = known.places().count().div_ceil(ROUNDS).min(rounds.resting.len());
        for place in rounds.resting.split_off(rounds.resting.len() - count) {
            if health.is_up(&place) {
                self.tell_of(self.volumes.look(&place).await);
            }
        }
        for place in health.distrusted().keys().filter(|place| health.is_volume_up(place)) {
            if known.of(place).is_some() {
                self.tell_of(self.volumes.look(place).await);
            }
        }
        self.recognise_those_left(rounds).await
    }

    /// Volumes that have just come up, at once; those that can't be told, from time to time.
    async fn recognise_those_left(&self, rounds: &mut Rounds) -> Result<(), StoreError> {
        let health = self.volumes.health();
        let mut volumes = health.awaited();
        if rounds.again.is_none_or(|again| again <= Instant::now()) {
            rounds.again = Some(Instant::now() + AGAIN_AFTER);
            let is_left = |volume: &&Volume| {
                let root = volume.root();
                let is_distrusted = health.distrusted().keys().any(|place| place.volume() == **volume);
                let is_unknown = health.identity(&root).is_none() && health.is_volume_up(&root);
                is_unknown || is_distrusted
            };
            let left = self.placer.volumes().iter().filter(is_left).filter(|left| !volumes.contains(left));
            volumes.extend(left.cloned().collect::<Vec<_>>());
        }
        if volumes.is_empty() {
            rounds.samples.clear();
            return Ok(());
        }
        for conflict in self.recognise_by(&volumes, Adopt::Ownerless, &mut rounds.samples).await? {
            log::debug!("{conflict}");
        }
        Ok(())
    }

    fn tell_of(&self, looked: Result<(), VolumeError>) {
        // That a place isn't what it was is logged where it is remembered.
        if let Err(err) = looked {
            log::debug!("looking which volume is which: {err}");
        }
    }

    /// A place was written to: is it still the one that it was?
    async fn look_at_written(
        &self,
        place: Replica,
        written: Written,
        rounds: &mut Rounds,
    ) -> Result<(), StoreError> {
        let health = self.volumes.health();
        if health.identity(&place).is_none() {
            let volume = place.volume();
            if self.placer.volumes().contains(&volume) {
                rounds.samples.remove(&place);
                self.recognise_by(&[volume], Adopt::Ownerless, &mut rounds.samples).await?;
            }
            return Ok(());
        }
        match self.volumes.look(&place).await {
            Ok(()) => Ok(()),
            Err(VolumeError::Foreign { reason, .. }) => self.make_all_anew(&place, written, &reason).await,
            Err(_) => {
                health.write_again(place, written);
                Ok(())
            }
        }
    }

    /// What was written to a place that is another by now lies somewhere else, or nowhere.
    async fn make_all_anew(&self, place: &Replica, written: Written, reason: &str) -> Result<(), StoreError> {
        let keys: BTreeSet<Key> =
            written.paths.iter().filter_map(|path| Some(decode_path(path)?.0)).collect();
        let (mut made, mut left) = (0, written.more);
        for key in keys {
            match self.make_anew(&key, place).await {
                Ok(is_made) => made += u64::from(is_made),
                Err(StoreError::Index(IndexError::Stopped)) => return Err(IndexError::Stopped.into()),
                Err(err) => {
                    warn!("making {key} anew: {err}");
                    left += 1;
                }
            }
        }
        error!(
            "{place}: {reason}; of what was written to it in the last second {made} replicas were made anew elsewhere, and {left} \
             are left to a repair"
        );
        Ok(())
    }

    /// Tells of a place outside of --volumes whether it is one of those under an earlier name, which is then known.
    pub(super) async fn is_earlier_name(&self, place: &Replica) -> Result<Option<Replica>, StoreError> {
        let known = self.volumes.health().identities();
        let mut places = vec![place.volume().root(), place.clone()];
        places.dedup();
        for place in places {
            let Ok(Shown::Is(file)) = self.volumes.shown(&place).await else { continue };
            let names = known.names_of(file.id);
            let Some(present) = names.into_iter().find(|name| who::is_current(&self.placer, name)) else {
                continue;
            };
            let present = present.clone();
            self.take_over(vec![(place, file.id)], Identities::clone(&known)).await?;
            return Ok(Some(present));
        }
        Ok(None)
    }

    /// Whether anything but folders of no blobs lies at a place, whoever answers there.
    pub async fn has_blobs(&self, place: &Replica) -> Result<bool, VolumeError> {
        let client = self.volumes.of_anybody();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for entry in client.entries(place, &folder).await? {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                match entry.kind {
                    EntryKind::Directory if folder.is_empty() && is_beside_blobs(&entry.name) => {}
                    EntryKind::Directory => folders.push(format!("{folder}/{name}")),
                    EntryKind::File { .. } | EntryKind::Other if is_beside_blobs(&entry.name) => {}
                    EntryKind::File { .. } | EntryKind::Other => return Ok(true),
                }
            }
        }
        Ok(false)
    }

    /// Gives a place a new id, and gives up for ever the one that it had; with all its subvolumes if it is a volume.
    pub async fn take_as_new(&self, place: &Replica) -> Result<(), StoreError> {
        let known = self.index.identities().await?;
        let volume = place.volume();
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

    /// Has the earlier name of a place lead to its present one. Why they are not the same place, if they aren't.
    pub async fn call(&self, earlier: &Replica, present: &Replica) -> Result<Option<String>, StoreError> {
        if who::is_current(&self.placer, earlier) {
            return Ok(Some("both names are in --volumes".to_owned()));
        }
        if !who::is_current(&self.placer, present) {
            return Ok(Some(format!("{present} is not in --volumes")));
        }
        let known = self.index.identities().await?;
        let Some(id) = known.of(present) else {
            return Ok(Some(format!("{present} has no identity yet; see `mkv volumes`")));
        };
        match known.of(earlier) {
            Some(before) if before == id => {}
            Some(_) => return Ok(Some("they have different identities".to_owned())),
            None => {
                let mut samples = Samples::default();
                self.sample(&[earlier], &mut samples).await?;
                let there = samples.remove(earlier).unwrap_or_default().into_iter();
                let moved = there.filter_map(|(at, path)| {
                    let folder = at.as_str().strip_prefix(earlier.as_str())?;
                    Some((format!("{present}{folder}").parse().ok()?, path))
                });
                let asked = Samples::from([(present.clone(), moved.collect())]);
                let Some(sampled) = self.ask_for_sample(present, &asked).await else {
                    return Ok(Some(format!("{present} doesn't answer")));
                };
                if !sampled.is_proven() {
                    let Sampled { there, missing } = sampled;
                    let all = there + missing;
                    return Ok(Some(format!(
                        "{missing} of {all} files that records say lie at {earlier} are not there"
                    )));
                }
                self.take_over(vec![(earlier.clone(), id)], known).await?;
            }
        }
        Ok(None)
    }

    /// Finds out which of `strangers`, volumes that records name and that are not in use, are volumes in use under another
    /// name.
    pub async fn recognise_strangers(&self, strangers: &BTreeSet<Replica>) -> Result<(), StoreError> {
        for stranger in strangers.iter().filter(|place| self.volumes.health().is_up(place)) {
            self.is_earlier_name(stranger).await?;
        }
        Ok(())
    }
}

/// Why a place is not used whose files don't prove it.
fn unproven(own: Option<Identity>, sampled: Sampled) -> String {
    let Sampled { there, missing } = sampled;
    let files = format!("{missing} of {} files that should lie there are missing", there + missing);
    match own {
        Some(_) if there + missing == 0 => {
            "it has no /=volume: is a drive not mounted, or a new one? `mkv replace` takes a new one"
                .to_owned()
        }
        Some(_) => format!(
            "it has no /=volume, and {files}: is a drive not mounted, or a new one? `mkv replace` takes a new one"
        ),
        None => format!("{files}: is it the right drive, and mounted? `mkv replace` takes a new one"),
    }
}
