//! Who is who: finds out which volume answers under each name, and goes on looking whether it still does.
//!
//! Every place that was written to is looked at within a second, those at rest now and then. What isn't the volume that it was
//! is not used, and what was written to it since it was last looked at is made anew elsewhere. Volumes that have just come
//! up, and those that could not be told, are recognised again ([`recognise`]).

mod anew;
mod earlier;
mod new_drive;
mod recognise;
mod sample;
mod who;

use super::{Access, Store, StoreError};
use crate::index::IndexError;
use crate::model::{Key, PlacedFile, Replica, decode_path};
use crate::volume::{Adopt, Shown, VolumeError, Written};
use actix_rt::time::{sleep, timeout};
use futures_util::stream::{self, StreamExt};
use log::{error, warn};
use sample::Samples;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};
pub use who::Conflict;
pub(super) use who::is_current;

/// How often places are looked at that were written to.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shortest time between two rounds, when places are written to for the first time.
const PAUSE: Duration = Duration::from_millis(50);

/// In so many rounds every place at rest is looked at: of 400 places thirteen a second.
const ROUNDS: usize = 30;

/// Volumes, and places, that could not be told are looked at again after so much time.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Samples are used again for so much time: they cost a part of the index to find.
const SAMPLES_HOLD: Duration = Duration::from_secs(600);

/// Places that are asked at the same time.
const ASKED_AT_ONCE: usize = 32;

/// What the looks of a server remember from one round to the next.
#[derive(Default)]
struct Rounds {
    /// The places at rest that are still to be looked at in this turn.
    resting: Vec<Replica>,
    samples: Samples,
    /// When the samples are found anew.
    samples_until: Option<Instant>,
    /// When volumes that could not be told are looked at again.
    again: Option<Instant>,
    /// When it was last tried to give an id to a place that was written to.
    tried: HashMap<Replica, Instant>,
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
    /// Looks at what was written to since the last look, before the server ends, and waits until everything is made anew
    /// that was written to a wrong place.
    pub async fn look_at_last(&self) {
        let looking = self.volumes.health().looking();
        self.look_at_all_written().await;
        drop(looking);
        while self.volumes.health().is_looking() {
            sleep(PAUSE).await;
        }
    }

    /// One round of looks.
    async fn look_around(&self, rounds: &mut Rounds) -> Result<(), StoreError> {
        if rounds.samples_until.is_none_or(|until| until <= Instant::now()) {
            rounds.samples.clear();
            rounds.samples_until = Some(Instant::now() + SAMPLES_HOLD);
        }
        let health = self.volumes.health();
        let _looking = health.looking();
        let unknown = self.look_at_all_written().await;
        self.give_ids(unknown, rounds).await?;
        self.look_at_resting(rounds).await;
        self.recognise_those_left(rounds).await
    }

    /// Some of the places at rest, and all that could be right again.
    async fn look_at_resting(&self, rounds: &mut Rounds) {
        let health = self.volumes.health();
        let known = health.identities();
        if rounds.resting.is_empty() {
            let current = known.places().filter(|place| is_current(&self.placer, place));
            rounds.resting = current.cloned().collect();
        }
        let count = known.places().count().div_ceil(ROUNDS).min(rounds.resting.len());
        let mut places = rounds.resting.split_off(rounds.resting.len() - count);
        places.retain(|place| health.is_up(place));
        let distrusted = health.distrusted();
        let is_asked = |place: &&Replica| health.is_volume_up(place) && known.of(place).is_some();
        places.extend(distrusted.keys().filter(is_asked).cloned());
        let looks = stream::iter(places).map(async |place| {
            // That a place isn't what it was is logged where it is remembered.
            if let Err(err) = self.volumes.look(&place).await {
                log::debug!("looking which volume is which: {err}");
            }
        });
        looks.buffer_unordered(ASKED_AT_ONCE).collect::<Vec<()>>().await;
    }

    /// Volumes that have just come up, at once; those that can't be told, from time to time.
    async fn recognise_those_left(&self, rounds: &mut Rounds) -> Result<(), StoreError> {
        let health = self.volumes.health();
        let mut volumes = health.awaited();
        if rounds.again.is_none_or(|again| again <= Instant::now()) {
            rounds.again = Some(Instant::now() + AGAIN_AFTER);
            let distrusted = health.distrusted();
            for volume in self.placer.volumes() {
                let is_distrusted = distrusted.keys().any(|place| self.placer.volume_of(place) == *volume);
                let root = volume.root();
                let is_unknown = health.identity(&root).is_none() && health.is_volume_up(&root);
                if (is_unknown || is_distrusted) && !volumes.contains(volume) {
                    volumes.push(volume.clone());
                }
            }
        }
        if !volumes.is_empty() {
            // Which places are in each other's way was logged where it is remembered.
            self.recognise_by(&volumes, Adopt::Ownerless, &mut rounds.samples).await?;
        }
        Ok(())
    }

    /// Places without an id that were written to.
    async fn give_ids(&self, places: Vec<Replica>, rounds: &mut Rounds) -> Result<(), StoreError> {
        let mut volumes = BTreeSet::new();
        for place in places {
            let volume = self.placer.volume_of(&place);
            let is_due = rounds.tried.get(&place).is_none_or(|tried| tried.elapsed() >= AGAIN_AFTER);
            if is_due && self.placer.volumes().contains(&volume) && self.volumes.health().is_volume_up(&place)
            {
                rounds.tried.insert(place.clone(), Instant::now());
                rounds.samples.remove(&place);
                volumes.insert(volume);
            }
        }
        if !volumes.is_empty() {
            let volumes: Vec<_> = volumes.into_iter().collect();
            self.recognise_by(&volumes, Adopt::Ownerless, &mut rounds.samples).await?;
        }
        Ok(())
    }

    /// Looks at what was written to since the last look. Answers places that have no id yet.
    async fn look_at_all_written(&self) -> Vec<Replica> {
        let health = self.volumes.health();
        let (known, unknown): (Vec<_>, Vec<_>) =
            health.take_written().into_iter().partition(|(place, _)| health.identity(place).is_some());
        let looks = stream::iter(known).map(|(place, written)| self.look_at_written(place, written));
        looks.buffer_unordered(ASKED_AT_ONCE).collect::<Vec<()>>().await;
        unknown.into_iter().map(|(place, _)| place).collect()
    }

    /// A place was written to: is it still the one that it was?
    async fn look_at_written(&self, place: Replica, written: Written) {
        let health = self.volumes.health();
        if !health.is_volume_up(&place) {
            return health.keep_written(place, written);
        }
        match self.volumes.look(&place).await {
            Ok(()) => {}
            Err(VolumeError::Foreign { reason, .. }) => {
                // A task of its own: it may take minutes, and other places are to be looked at meanwhile.
                let (store, looking) = (self.clone(), health.looking());
                actix_rt::spawn(async move {
                    store.make_all_anew(&place, written, &reason).await;
                    drop(looking);
                });
            }
            Err(_) => health.keep_written(place, written),
        }
    }

    /// What was written to a place that is another by now lies somewhere else, or nowhere.
    async fn make_all_anew(&self, place: &Replica, written: Written, reason: &str) {
        let known = self.volumes.health().identities();
        let strayed_to = match self.volumes.shown(place).await {
            Ok(Shown::Is(file)) => {
                let names = known.names_of(file.id);
                names.into_iter().find(|name| is_current(&self.placer, name)).cloned()
            }
            _ => None,
        };
        let mut strays = BTreeMap::<Key, Vec<PlacedFile>>::new();
        for (key, file) in written.paths.iter().filter_map(|path| decode_path(path)) {
            let stray = strayed_to.clone().map(|replica| PlacedFile { file, replica, in_doubt: false });
            strays.entry(key).or_default().extend(stray);
        }
        let (mut made, mut left) = (0, written.more);
        for (key, strays) in strays {
            match self.make_anew(&key, place, strays).await {
                Ok(is_made) => made += u64::from(is_made),
                Err(StoreError::Index(IndexError::Stopped)) => return,
                Err(err) => {
                    log::debug!("making {key} anew: {err}");
                    left += 1;
                }
            }
        }
        if made + left > 0 {
            warn!(
                "{place}: {reason}; of what was written to it since the last look {made} replicas were made anew elsewhere, and \
                 {left} are left to a repair"
            );
        }
    }
}
