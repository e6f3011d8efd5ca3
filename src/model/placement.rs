//! Which volumes a key belongs on: rendezvous hashing, as the Go original computes it.

use super::{Replica, Volume, VolumeMode};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Places keys on a set of volumes. All clones see a volume's mode as soon as it is set.
#[derive(Debug, Clone)]
pub struct Placer {
    volumes: Vec<Volume>,
    replicas: usize,
    subvolumes: u32,
    /// One [`VolumeMode`] for each volume.
    modes: Arc<[AtomicU8]>,
    /// Volumes that are gone for good.
    forgotten: Arc<RwLock<BTreeSet<Volume>>>,
}

impl Placer {
    /// `replicas` copies of each blob (1 to the number of volumes), over `subvolumes` (1 to 256) folders of each
    /// volume. The command line has checked the ranges.
    pub fn new(volumes: Vec<Volume>, replicas: usize, subvolumes: u32) -> Placer {
        let modes = volumes.iter().map(|_| AtomicU8::new(VolumeMode::Alive as u8)).collect();
        Placer { volumes, replicas, subvolumes, modes, forgotten: Arc::default() }
    }

    /// What the operator wants of the volume of a place; one that is none of ours is as it is.
    pub fn mode(&self, place: &Replica) -> VolumeMode {
        let all_alive = self.modes.iter().all(|mode| mode.load(Ordering::Relaxed) == VolumeMode::Alive as u8);
        if all_alive {
            return VolumeMode::Alive;
        }
        self.mode_of(&place.volume())
    }

    /// What the operator wants of a volume.
    pub fn mode_of(&self, volume: &Volume) -> VolumeMode {
        let index = self.volumes.iter().position(|other| other == volume);
        index.map_or(VolumeMode::Alive, |index| VolumeMode::of(self.modes[index].load(Ordering::Relaxed)))
    }

    /// Sets what the operator wants of a volume; whether it is one of ours.
    pub fn set_mode(&self, volume: &Volume, mode: VolumeMode) -> bool {
        let index = self.volumes.iter().position(|other| other == volume);
        index.map(|index| self.modes[index].store(mode as u8, Ordering::Relaxed)).is_some()
    }

    /// Whether nobody waits for the volume of a place: it was forgotten, and isn't used again.
    pub fn is_forgotten(&self, place: &Replica) -> bool {
        let forgotten = self.forgotten.read().unwrap_or_else(PoisonError::into_inner);
        !forgotten.is_empty() && {
            let volume = place.volume();
            let is_used = self.volumes.contains(&volume) && self.mode_of(&volume) != VolumeMode::Down;
            forgotten.contains(&volume) && !is_used
        }
    }

    /// Nobody waits for a volume any more.
    pub fn forget(&self, volume: &Volume) {
        self.forgotten.write().unwrap_or_else(PoisonError::into_inner).insert(volume.clone());
    }

    /// A volume is one like the others again.
    pub fn remember(&self, volume: &Volume) {
        self.forgotten.write().unwrap_or_else(PoisonError::into_inner).remove(volume);
    }

    /// The volumes as given.
    pub fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    /// The volume of a place. A volume may itself be called like a subvolume of another, `host:port/sv01`.
    pub fn volume_of(&self, place: &Replica) -> Volume {
        let own = self.volumes.iter().find(|volume| volume.as_str() == place.as_str());
        own.cloned().unwrap_or_else(|| place.volume())
    }

    /// How many replicas a blob has.
    pub fn replicas(&self) -> usize {
        self.replicas
    }

    /// The place on every volume, best first: the first [`Placer::replicas`] are the placement, the others take
    /// over in this order.
    pub fn ranked(&self, key: &[u8]) -> Vec<Replica> {
        let mut scored: Vec<([u8; 16], &Volume)> =
            self.volumes.iter().map(|volume| (score(key, volume), volume)).collect();
        scored.sort_by(|(a, _), (b, _)| b.cmp(a));
        scored.iter().map(|(score, volume)| self.replica(score, volume)).collect()
    }

    /// Where a balanced blob lives, in order; fewer places than [`Placer::replicas`] when too many volumes are to keep
    /// none.
    pub fn placement(&self, key: &[u8]) -> Vec<Replica> {
        let mut places = self.ranked(key);
        places.retain(|place| self.mode(place).keeps_blobs());
        places.truncate(self.replicas);
        places
    }

    /// `replicas` in the order of a record: by rank, those on other volumes behind, by name.
    pub fn in_record_order(&self, key: &[u8], mut replicas: Vec<Replica>) -> Vec<Replica> {
        let ranked = self.ranked(key);
        let rank = |replica: &Replica| ranked.iter().position(|place| place == replica).unwrap_or(usize::MAX);
        replicas.sort_by_cached_key(|replica| (rank(replica), replica.clone()));
        replicas
    }

    fn replica(&self, score: &[u8; 16], volume: &Volume) -> Replica {
        if self.subvolumes == 1 {
            return volume.replica(None);
        }
        let tail = u32::from_be_bytes([score[12], score[13], score[14], score[15]]);
        volume.replica(Some(tail % self.subvolumes))
    }
}

fn score(key: &[u8], volume: &Volume) -> [u8; 16] {
    let mut context = md5::Context::new();
    context.consume(key);
    context.consume(volume.as_str());
    context.finalize().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    #[derive(serde::Deserialize)]
    struct Row {
        key_base64: String,
        volumes: Vec<String>,
        replicas: usize,
        subvolumes: u32,
        placement: Vec<String>,
    }

    #[test]
    fn placements_are_the_go_originals() {
        let rows: Vec<Row> =
            serde_json::from_str(include_str!("../../tests/vectors/placements.json")).unwrap();
        assert!(rows.len() > 1000);
        for row in rows {
            let volumes = row.volumes.iter().map(|volume| volume.parse().unwrap()).collect();
            let placer = Placer::new(volumes, row.replicas, row.subvolumes);
            let key = base64::engine::general_purpose::STANDARD.decode(&row.key_base64).unwrap();
            let places: Vec<String> = placer.placement(&key).iter().map(Replica::to_string).collect();
            assert_eq!(places, row.placement, "{}", row.key_base64);
        }
    }

    #[test]
    fn a_volume_that_is_drained_takes_no_part_in_placement() {
        let volumes: Vec<Volume> = ["a:1", "b:1", "c:1"].map(|name| name.parse().unwrap()).to_vec();
        let placer = Placer::new(volumes.clone(), 2, 4);
        let ranked = placer.ranked(b"/k");
        let mode = |number: usize, mode| assert!(placer.clone().set_mode(&ranked[number].volume(), mode));
        mode(0, VolumeMode::Drain);
        assert_eq!(placer.placement(b"/k"), ranked[1..]);
        mode(1, VolumeMode::Readonly);
        assert_eq!(placer.placement(b"/k"), ranked[1..]);
        mode(1, VolumeMode::Down);
        assert_eq!(
            (placer.placement(b"/k"), placer.mode(&ranked[1])),
            (ranked[2..].to_vec(), VolumeMode::Down)
        );
        assert!(!placer.set_mode(&"d:1".parse().unwrap(), VolumeMode::Down));
        assert_eq!(placer.ranked(b"/k"), ranked);
    }

    #[test]
    fn a_volume_is_forgotten_until_it_is_used_again() {
        let placer = Placer::new(["a:1", "b:1"].map(|name| name.parse().unwrap()).to_vec(), 1, 1);
        let (ours, stranger): (Volume, Volume) = ("a:1".parse().unwrap(), "x:1".parse().unwrap());
        let is_forgotten = |volume: &Volume| placer.is_forgotten(&volume.root());
        [&ours, &stranger].into_iter().for_each(|volume| placer.forget(volume));
        assert!(is_forgotten(&stranger) && !is_forgotten(&ours), "one that is used is not");
        placer.set_mode(&ours, VolumeMode::Down);
        assert!(is_forgotten(&ours) && !is_forgotten(&"b:1".parse().unwrap()));
        placer.remember(&ours);
        assert!(!is_forgotten(&ours));
    }

    #[test]
    fn a_record_lists_ranked_volumes_first_and_strangers_by_name() {
        let placer = Placer::new(["a:1", "b:1", "c:1"].map(|name| name.parse().unwrap()).to_vec(), 2, 1);
        let ranked = placer.ranked(b"/k");
        let strangers: Vec<Replica> = ["x:1", "y:1"].map(|name| name.parse().unwrap()).to_vec();
        let mixed = vec![strangers[1].clone(), ranked[2].clone(), strangers[0].clone(), ranked[0].clone()];
        let expected = vec![ranked[0].clone(), ranked[2].clone(), strangers[0].clone(), strangers[1].clone()];
        assert_eq!(placer.in_record_order(b"/k", mixed), expected);
    }
}
