//! Is it the right drive? The files that records say lie at a place are asked for.

use super::who::Sampled;
use crate::model::{File, Replica, path_of};
use crate::store::{Store, StoreError};
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

/// Files of a place that are asked for before it gets an id.
const SAMPLE: usize = 32;

/// Records that are read in one go, and at most: placement spreads keys evenly, so that of 200,000 records every place that
/// is used has some.
const PAGE_RECORDS: usize = 1000;
const MAX_RECORDS: usize = 200_000;

/// Files that records say lie at places or, for a volume's root, anywhere on the volume: each where it lies, and its path.
pub(super) type Samples = HashMap<Replica, Vec<(Replica, String)>>;

impl Store {
    /// Finds files that records say lie at `places`, up to [`SAMPLE`] for each that `samples` doesn't have yet.
    pub(super) async fn sample(&self, places: &[&Replica], samples: &mut Samples) -> Result<(), StoreError> {
        let mut lacking: BTreeSet<&Replica> =
            places.iter().filter(|place| !samples.contains_key(place)).copied().collect();
        let (mut from, mut records) = (Some(Bound::Included(b"/".to_vec())), 0);
        while let Some(start) = from.take().filter(|_| !lacking.is_empty() && records < MAX_RECORDS) {
            let page = self.index.scan(start, PAGE_RECORDS).await?;
            records += page.entries.len();
            for (key, record) in page.entries {
                let Ok(record) = record else { continue };
                for replica in &record.replicas {
                    for place in [replica, &self.placer.volume_of(replica).root()] {
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
    pub(super) async fn ask_for_sample(&self, place: &Replica, samples: &Samples) -> Option<Sampled> {
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
}

/// Why a place is not used whose files don't prove it.
pub(super) fn unproven(Sampled { there, missing }: Sampled) -> String {
    format!(
        "{missing} of {} files that should lie there are missing: is a drive not mounted, or a new one? `mkv replace` takes a new one",
        there + missing
    )
}
