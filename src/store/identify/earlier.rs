//! Earlier names: a place that records name, and that is not in use, may be one in use under the name that it had.

use super::is_current;
use super::sample::Samples;
use super::who::Sampled;
use crate::model::{Identity, PlacedFile, Record, Replica};
use crate::store::{Store, StoreError};
use crate::volume::{Shown, VolumeError};
use std::collections::BTreeSet;

impl Store {
    /// Whether a place that is not in use may be written to: it is none of those in use. One that is, under an earlier name,
    /// is known as that from now on.
    pub(in crate::store) async fn is_no_earlier_name(&self, place: &Replica) -> Result<(), VolumeError> {
        let foreign = |reason: String| VolumeError::Foreign { replica: place.clone(), reason };
        let mut places = vec![self.placer.volume_of(place).root(), place.clone()];
        places.dedup();
        for asked in places {
            match self.volumes.shown(&asked).await? {
                Shown::Nothing => {}
                Shown::Torn => return Err(foreign("its /=volume is torn".to_owned())),
                Shown::Is(file) => match self.call_if_proven(&asked, file.id).await {
                    Ok(None) => {}
                    Ok(Some(present)) => return Err(foreign(format!("it leads to {present}"))),
                    Err(err) => return Err(foreign(err.to_string())),
                },
            }
        }
        Ok(())
    }

    /// Has `earlier`, which shows `id`, lead to the place in use that has it, if the files of `earlier` lie there. Which place
    /// that is; nothing if none has that id.
    async fn call_if_proven(&self, earlier: &Replica, id: Identity) -> Result<Option<Replica>, StoreError> {
        let _alone = self.volumes.health().recognise_alone().await;
        let known = self.index.identities().await?;
        let names = known.names_of(id);
        let present = names.into_iter().find(|name| is_current(&self.placer, name)).cloned();
        let Some(present) = present.filter(|present| present != earlier) else { return Ok(None) };
        match known.of(earlier) {
            Some(before) if before == id => {}
            // It was another volume, and its name leads to this one now: its records are not this one's.
            Some(_) => {}
            None => {
                let sampled = self.sample_moved(earlier, &present).await?;
                if sampled.is_some_and(|sampled| !sampled.is_other()) {
                    self.take_over(vec![(earlier.clone(), id)], known).await?;
                }
            }
        }
        Ok(Some(present))
    }

    /// Of the files that records say lie at `earlier`, those that lie at `present`; `None` if it doesn't say.
    async fn sample_moved(
        &self,
        earlier: &Replica,
        present: &Replica,
    ) -> Result<Option<Sampled>, StoreError> {
        let mut samples = Samples::default();
        self.sample(&[earlier], &mut samples).await?;
        let moved = samples.remove(earlier).unwrap_or_default().into_iter().filter_map(|(at, path)| {
            let folder = at.as_str().strip_prefix(earlier.as_str())?;
            Some((format!("{present}{folder}").parse().ok()?, path))
        });
        let asked = Samples::from([(present.clone(), moved.collect())]);
        Ok(self.ask_for_sample(present, &asked).await)
    }

    /// Finds out which of `strangers`, places that records name and that are not in use, are in use under another name.
    pub async fn recognise_strangers(&self, strangers: &BTreeSet<Replica>) -> Result<(), StoreError> {
        for stranger in strangers.iter().filter(|place| self.volumes.health().is_up(place)) {
            // What it is instead is for those who want to change something there.
            if let Err(err) = self.is_no_earlier_name(stranger).await {
                log::debug!("{stranger}: {err}");
            }
        }
        Ok(())
    }

    /// Has the earlier name of a place lead to its present one. Why they are not the same place, if they aren't.
    pub async fn call(&self, earlier: &Replica, present: &Replica) -> Result<Option<String>, StoreError> {
        if is_current(&self.placer, earlier) {
            return Ok(Some("both names are in --volumes".to_owned()));
        }
        if !is_current(&self.placer, present) {
            return Ok(Some(format!("{present} is not in --volumes")));
        }
        let _alone = self.volumes.health().recognise_alone().await;
        let known = self.index.identities().await?;
        let Some(id) = known.of(present) else {
            return Ok(Some(format!("{present} has no identity yet; see `mkv volumes`")));
        };
        match known.of(earlier) {
            Some(before) if before == id => Ok(None),
            Some(_) => Ok(Some("they have different identities".to_owned())),
            None => {
                let Some(sampled) = self.sample_moved(earlier, present).await? else {
                    return Ok(Some(format!("{present} doesn't answer")));
                };
                let Sampled { there, missing } = sampled;
                if there + missing == 0 {
                    return Ok(Some(format!("no record names {earlier}")));
                }
                if !sampled.is_proven() {
                    let all = there + missing;
                    return Ok(Some(format!(
                        "{missing} of {all} files that records say lie at {earlier} are not there"
                    )));
                }
                self.take_over(vec![(earlier.clone(), id)], known).await?;
                Ok(None)
            }
        }
    }

    /// A place that a record names, that is not in use, and that nobody has forgotten. It may be any place in use under an
    /// earlier name, so that none of the record's own files may be removed anywhere.
    pub fn not_in_use(&self, record: &Record) -> Option<Replica> {
        let is_elsewhere =
            |place: &&Replica| !is_current(&self.placer, place) && !self.placer.is_forgotten(place);
        record.replicas.iter().find(is_elsewhere).cloned()
    }

    /// Whether a file that a record doesn't name where it lies may be one that it names under an earlier name.
    pub(in crate::store) fn may_be_named(&self, record: &Record, placed: &PlacedFile) -> bool {
        is_current(&self.placer, &placed.replica)
            && super::super::settle::is_of_version(record, placed.file)
            && self.not_in_use(record).is_some()
    }
}
