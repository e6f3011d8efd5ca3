//! Is everything there that is to be read? A volume's root tells which subvolumes it has and which ones they are, so that a
//! drive that isn't mounted, or lies in another's place, is no drive without blobs. What a walk has listed counts only when
//! all places still are what they were at its beginning.

use super::RebuildError;
use crate::maintenance::walk::{Tree, Walker};
use crate::model::{Identities, Identity, Replica, Volume};
use crate::volume::Shown;
use std::collections::{BTreeMap, BTreeSet};

/// The ids that places show.
#[derive(Default)]
pub(super) struct Signs(BTreeMap<Replica, Identity>);

impl Signs {
    /// Reads those of a volume and its `trees`, and refuses what is not as the root tells, but for what may be `missing`.
    pub(super) async fn read(
        &mut self,
        walker: &Walker<'_>,
        volume: &Volume,
        trees: &[Tree],
        missing: &BTreeSet<Replica>,
    ) -> Result<(), RebuildError> {
        let root = volume.root();
        let mut expected = BTreeMap::new();
        if let Shown::Is(file) = walker.shown(&root).await? {
            self.add(&root, file.id)?;
            let place = |(folder, id): (&String, &Identity)| Some((volume.subvolume(folder)?, *id));
            expected = file.subvolumes.iter().filter_map(place).collect();
        }
        let listed = trees.iter().map(|tree| &tree.replica).filter(|place| **place != root);
        let places: BTreeSet<&Replica> =
            listed.chain(expected.keys()).filter(|place| !missing.contains(place)).collect();
        let known = Identities::new(expected.iter().map(|(place, id)| (place.clone(), *id)));
        for place in places {
            let shown = walker.shown(place).await?;
            if let Some(reason) = known.of(place).and_then(|id| shown.fault(id, &known)) {
                return Err(RebuildError::Stranger { place: place.clone(), reason });
            }
            if let Shown::Is(file) = shown {
                self.add(place, file.id)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, place: &Replica, id: Identity) -> Result<(), RebuildError> {
        if let Some((other, _)) = self.0.iter().find(|(_, known)| **known == id) {
            return Err(RebuildError::Doubled { one: other.clone(), other: place.clone() });
        }
        self.0.insert(place.clone(), id);
        Ok(())
    }

    /// For the connections of the walk.
    pub(super) fn identities(&self) -> Identities {
        Identities::new(self.0.iter().map(|(place, id)| (place.clone(), *id)))
    }

    /// Refuses what was read if a place is another by now.
    pub(super) async fn hold(&self, walker: &Walker<'_>) -> Result<(), RebuildError> {
        let known = self.identities();
        for (place, id) in &self.0 {
            if let Some(reason) = walker.shown(place).await?.fault(*id, &known) {
                return Err(RebuildError::Stranger { place: place.clone(), reason });
            }
        }
        Ok(())
    }
}
