//! What the files of one key, found on all volumes, say that the index should hold. Pure.
//!
//! The newest sidecar on any volume is believed. Without one only a blob at the plain path counts: a generation
//! without a sidecar is what a write that was never acknowledged has left. docs/format.md gives the reasons.

use crate::model::{
    File, Generation, Key, Md5, PlacedFile, Placer, Record, Replica, Sidecar, SidecarState, State,
};
use std::cmp::Reverse;

/// One blob file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::maintenance) struct Seen {
    pub(in crate::maintenance) replica: Replica,
    pub(in crate::maintenance) file: File,
    /// In bytes.
    pub(in crate::maintenance) size: u64,
}

/// What there is of one key.
#[derive(Debug, Clone, Default)]
pub(in crate::maintenance) struct Sighting {
    pub(in crate::maintenance) blobs: Vec<Seen>,
    /// Those that could be read.
    pub(in crate::maintenance) sidecars: Vec<Sidecar>,
    /// Where there are sidecars, readable or not.
    pub(in crate::maintenance) noted_at: Vec<Replica>,
}

impl Sighting {
    /// Whether a blob of the key, of any version, was found there.
    pub(in crate::maintenance) fn holds_blob_at(&self, place: &Replica) -> bool {
        self.blobs.iter().any(|seen| seen.replica == *place)
    }
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::maintenance) enum Decision {
    /// The key was deleted, or never committed: nothing belongs into the index.
    Nothing,
    /// A sidecar tells of a version of which no volume has a usable file: that has no content.
    Lost(Version),
    /// All files at the plain path are empty, as a power cut leaves them, and no sidecar tells what they were.
    Empty,
    /// There is a blob.
    Blob(Version),
}

/// The current version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::maintenance) struct Version {
    pub(in crate::maintenance) state: State,
    pub(in crate::maintenance) md5: Option<Md5>,
    pub(in crate::maintenance) generation: Option<Generation>,
    /// The files by size, the most credible first. More than one means that somebody must decide.
    pub(in crate::maintenance) contents: Vec<Content>,
    /// Where its file is empty, which a blob never is.
    pub(in crate::maintenance) empty: Vec<Replica>,
    /// In bytes, as the sidecar tells it.
    pub(in crate::maintenance) size: Option<u64>,
}

impl Version {
    /// Whether a sidecar names the first content's size, so that the others are known to be wrong.
    pub(in crate::maintenance) fn size_is_known(&self) -> bool {
        self.size.is_some() && self.size == self.contents.first().map(|content| content.size)
    }
}

/// Files of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::maintenance) struct Content {
    /// In bytes.
    pub(in crate::maintenance) size: u64,
    /// Never empty, one for each replica.
    pub(in crate::maintenance) files: Vec<Seen>,
}

/// Decides for one key.
pub(in crate::maintenance) fn decide(sighting: &Sighting) -> Decision {
    let newest = sighting.sidecars.iter().max_by_key(|sidecar| age(sidecar));
    let state = match newest.map(|sidecar| sidecar.state) {
        Some(SidecarState::Deleted) => return Decision::Nothing,
        Some(SidecarState::Unlinked) => State::Unlinked,
        Some(SidecarState::Live) | None => State::Live,
    };
    let generation = newest.and_then(|sidecar| sidecar.generation.as_deref()).and_then(Generation::parse);
    let size = newest.and_then(|sidecar| sidecar.size);
    let md5 = newest.and_then(|sidecar| sidecar.md5.as_deref()).and_then(Md5::parse);
    let contents = contents(&sighting.blobs, generation, size);
    let empty = sighting.blobs.iter().filter(|seen| is_of(seen.file, generation) && seen.size == 0);
    let empty: Vec<Replica> = empty.map(|seen| seen.replica.clone()).collect();
    let (is_lost, is_empty) = (contents.is_empty(), !empty.is_empty());
    let version = Version { state, md5, generation, contents, empty, size };
    match newest {
        _ if !is_lost => Decision::Blob(version),
        Some(_) => Decision::Lost(version),
        None if is_empty => Decision::Empty,
        None => Decision::Nothing,
    }
}

/// What the index that is lost was still going to remove, as far as sidecars prove it: everything of a key that was
/// deleted, and the versions before the one that `record` names. Nothing if a sidecar can't be read and could be the
/// newest.
pub(in crate::maintenance) fn pending(sighting: &Sighting, record: Option<&Record>) -> Vec<PlacedFile> {
    let all_are_read = sighting.sidecars.len() == sighting.noted_at.len();
    let is_proven = all_are_read || (record.is_none() && !is_outlived(sighting));
    if !is_proven || sighting.sidecars.is_empty() {
        return Vec::new();
    }
    let placed =
        |file: File, replica: &Replica| PlacedFile { file, replica: replica.clone(), in_doubt: false };
    let is_over = |seen: &&Seen| record.is_none_or(|record| is_before(seen.file, record.generation));
    let blobs: Vec<&Seen> = sighting.blobs.iter().filter(is_over).collect();
    // The sidecar beside an old version, if those beside the present one say more.
    let is_noted =
        record.is_none_or(|record| record.replicas.iter().any(|replica| sighting.noted_at.contains(replica)));
    let is_stale = |replica: &&Replica| match record {
        None => true,
        Some(record) => {
            let beside_old = blobs.iter().any(|seen| seen.replica == **replica);
            is_noted && beside_old && !record.replicas.contains(replica)
        }
    };
    let sidecars = sighting.noted_at.iter().filter(is_stale).map(|replica| placed(File::Sidecar, replica));
    blobs.iter().map(|seen| placed(seen.file, &seen.replica)).chain(sidecars).collect()
}

/// Whether a version is newer than what sidecars tell. As long as a deleted key has tombstones, what is stored under it is
/// a generation.
fn is_outlived(sighting: &Sighting) -> bool {
    let told_us = sighting.sidecars.iter().map(|sidecar| sidecar.state_time).max();
    let is_newer = |seen: &Seen| match seen.file {
        File::Blob(Some(generation)) => Some(generation.time_us()) > told_us,
        File::Blob(None) | File::Folded | File::Sidecar => false,
    };
    sighting.blobs.iter().any(is_newer)
}

/// Whether a file is of a version before `generation`.
fn is_before(file: File, generation: Option<Generation>) -> bool {
    let Some(generation) = generation else { return false };
    match file {
        File::Blob(found) => found.is_none_or(|found| found.time_us() < generation.time_us()),
        File::Folded => true,
        File::Sidecar => false,
    }
}

/// What makes one sidecar newer than another. Of one moment, the one that hides more counts, then the one that tells
/// more; which volume is asked first doesn't.
fn age(sidecar: &Sidecar) -> impl Ord + '_ {
    let told = (&sidecar.generation, &sidecar.md5, sidecar.size);
    (sidecar.state_time, gravity(sidecar.state), told)
}

/// How much a state hides.
fn gravity(state: SidecarState) -> u8 {
    match state {
        SidecarState::Live => 0,
        SidecarState::Unlinked => 1,
        SidecarState::Deleted => 2,
    }
}

/// The files of a version, by size: the size that the sidecar tells comes first, then the one with most replicas, then
/// the largest, as files are cut off and don't grow. Blobs are never empty.
fn contents(blobs: &[Seen], generation: Option<Generation>, size: Option<u64>) -> Vec<Content> {
    let mut contents: Vec<Content> = Vec::new();
    for seen in blobs.iter().filter(|seen| is_of(seen.file, generation) && seen.size > 0) {
        match contents.iter_mut().find(|content| content.size == seen.size) {
            Some(content) => add(&mut content.files, seen),
            None => contents.push(Content { size: seen.size, files: vec![seen.clone()] }),
        }
    }
    contents
        .sort_by_key(|content| (Some(content.size) != size, Reverse((content.files.len(), content.size))));
    contents
}

fn is_of(file: File, generation: Option<Generation>) -> bool {
    match file {
        File::Blob(found) => found == generation,
        File::Folded => generation.is_none(),
        File::Sidecar => false,
    }
}

/// A volume that has a blob both under its own and under a folded path has one replica, at its own.
fn add(files: &mut Vec<Seen>, seen: &Seen) {
    match files.iter_mut().find(|known| known.replica == seen.replica) {
        Some(known) if known.file == File::Folded => *known = seen.clone(),
        Some(_) => {}
        None => files.push(seen.clone()),
    }
}

/// The record of a version that lies at `replicas`, whose content has `md5`.
pub(in crate::maintenance) fn record(
    key: &Key,
    version: &Version,
    replicas: Vec<Replica>,
    md5: Option<Md5>,
    placer: &Placer,
) -> Record {
    let replicas = placer.in_record_order(key.as_bytes(), replicas);
    Record { state: version.state, md5, generation: version.generation, replicas }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn seen(place: &str, file: File, size: u64) -> Seen {
        Seen { replica: place.parse().unwrap(), file, size }
    }

    fn sidecar(state: SidecarState, state_time: u64, generation: Option<u64>, size: Option<u64>) -> Sidecar {
        Sidecar {
            state,
            state_time,
            md5: Some("00112233445566778899aabbccddeeff".into()),
            size,
            generation: generation.map(|time_us| Generation::new(time_us).to_string()),
            content_type: None,
            metadata: BTreeMap::new(),
        }
    }

    fn blob(decision: Decision) -> Version {
        match decision {
            Decision::Blob(version) => version,
            other => panic!("{other:?} is no blob"),
        }
    }

    const PLAIN: File = File::Blob(None);

    fn generation(time_us: u64) -> File {
        File::Blob(Some(Generation::new(time_us)))
    }

    #[test]
    fn a_plain_blob_needs_no_sidecar_and_a_generation_does() {
        let blobs = vec![seen("a:1", PLAIN, 3), seen("b:1", PLAIN, 3), seen("a:1", generation(9), 4)];
        let version = blob(decide(&Sighting { blobs, sidecars: vec![], noted_at: vec![] }));
        assert_eq!((version.state, version.md5, version.generation), (State::Live, None, None));
        assert_eq!(version.contents.iter().map(|content| content.files.len()).collect::<Vec<_>>(), [2]);
        let blobs = vec![seen("a:1", generation(9), 4)];
        assert_eq!(decide(&Sighting { blobs, sidecars: vec![], noted_at: vec![] }), Decision::Nothing);
    }

    #[test]
    fn the_newest_sidecar_is_believed() {
        let blobs = vec![seen("a:1", PLAIN, 3), seen("a:1", generation(5), 4), seen("b:1", generation(9), 4)];
        let old = sidecar(SidecarState::Live, 5, Some(5), Some(4));
        let new = sidecar(SidecarState::Unlinked, 9, Some(9), Some(4));
        let gone = sidecar(SidecarState::Deleted, 10, None, None);
        let mut sighting = Sighting { blobs, sidecars: vec![old, new], noted_at: vec![] };
        let version = blob(decide(&sighting));
        assert_eq!((version.state, version.generation), (State::Unlinked, Some(Generation::new(9))));
        assert!(version.md5.is_some() && version.size_is_known());
        sighting.sidecars.push(gone);
        assert_eq!(decide(&sighting), Decision::Nothing);
    }

    #[test]
    fn a_version_without_a_file_is_lost_and_never_another() {
        let blobs = vec![seen("a:1", PLAIN, 3), seen("a:1", generation(9), 0)];
        let sidecars = vec![sidecar(SidecarState::Live, 9, Some(9), Some(4))];
        let noted_at = vec!["b:1".parse().unwrap(), "a:1".parse().unwrap()];
        let Decision::Lost(version) = decide(&Sighting { blobs, sidecars, noted_at: noted_at.clone() })
        else {
            panic!("there is no file")
        };
        let key = Key::new(*b"/k").unwrap();
        let placer = Placer::new(["a:1", "b:1"].map(|name| name.parse().unwrap()).to_vec(), 2, 1);
        let record = record(&key, &version, noted_at, version.md5, &placer);
        assert_eq!((record.generation, record.replicas), (Some(Generation::new(9)), placer.placement(b"/k")));
    }

    #[test]
    fn empty_files_are_told_and_never_a_blob() {
        let empty = seen("a:1", PLAIN, 0);
        let of = |blobs| decide(&Sighting { blobs, sidecars: vec![], noted_at: vec![] });
        assert_eq!(of(vec![empty.clone(), seen("b:1", PLAIN, 0)]), Decision::Empty);
        assert_eq!(of(vec![seen("a:1", generation(9), 0)]), Decision::Nothing, "it was never acknowledged");
        let version = blob(of(vec![empty.clone(), seen("b:1", PLAIN, 4)]));
        assert_eq!((version.contents.len(), version.empty), (1, vec![empty.replica]));
    }

    #[test]
    fn of_sidecars_of_one_moment_the_same_is_believed_in_any_order() {
        let blobs = vec![seen("a:1", generation(5), 3), seen("b:1", generation(9), 3)];
        let mut bare = sidecar(SidecarState::Live, 9, Some(9), None);
        bare.md5 = None;
        let mut sidecars = vec![
            sidecar(SidecarState::Live, 9, Some(5), Some(3)),
            sidecar(SidecarState::Live, 9, Some(9), Some(3)),
            bare,
        ];
        for _ in 0..3 {
            sidecars.rotate_left(1);
            let sighting = Sighting { blobs: blobs.clone(), sidecars: sidecars.clone(), noted_at: vec![] };
            let version = blob(decide(&sighting));
            assert_eq!((version.generation, version.size), (Some(Generation::new(9)), Some(3)));
            assert!(version.md5.is_some());
        }
    }

    #[test]
    fn of_different_sizes_the_known_one_comes_first_then_the_most_frequent() {
        let blobs =
            vec![seen("a:1", PLAIN, 3), seen("b:1", PLAIN, 7), seen("c:1", PLAIN, 7), seen("d:1", PLAIN, 0)];
        let sizes = |sidecars| {
            let version = blob(decide(&Sighting { blobs: blobs.clone(), sidecars, noted_at: vec![] }));
            (version.contents.iter().map(|content| content.size).collect::<Vec<_>>(), version.size_is_known())
        };
        assert_eq!(sizes(vec![]), (vec![7, 3], false));
        assert_eq!(sizes(vec![sidecar(SidecarState::Live, 1, None, Some(3))]), (vec![3, 7], true));
        assert_eq!(sizes(vec![sidecar(SidecarState::Live, 1, None, Some(5))]), (vec![7, 3], false));
        for blobs in
            [[3, 7], [7, 3]].map(|sizes| sizes.map(|size| seen(&format!("v:{size}"), PLAIN, size)).to_vec())
        {
            let version = blob(decide(&Sighting { blobs, sidecars: vec![], noted_at: vec![] }));
            assert_eq!(version.contents[0].size, 7, "a tie goes to what wasn't cut off");
        }
    }

    #[test]
    fn a_blob_at_both_paths_of_a_volume_is_one_replica() {
        let blobs = vec![seen("a:1", File::Folded, 3), seen("a:1", PLAIN, 3), seen("b:1", File::Folded, 3)];
        let version = blob(decide(&Sighting { blobs, sidecars: vec![], noted_at: vec![] }));
        let files: Vec<File> = version.contents[0].files.iter().map(|seen| seen.file).collect();
        assert_eq!(files, [PLAIN, File::Folded]);
    }

    #[test]
    fn what_sidecars_prove_to_be_over_was_going_to_be_removed() {
        let names = |files: Vec<PlacedFile>| {
            let name = |placed: &PlacedFile| format!("{:?} {}", placed.file, placed.replica);
            files.iter().map(name).collect::<Vec<_>>()
        };
        let places =
            |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<Replica>>();
        let record = |generation: Option<u64>| Record {
            state: State::Live,
            md5: None,
            generation: generation.map(Generation::new),
            replicas: places(&["b:1"]),
        };
        let blobs = vec![
            seen("a:1", PLAIN, 3),
            seen("a:1", generation(5), 3),
            seen("b:1", generation(9), 4),
            seen("a:1", generation(12), 4),
        ];
        let live = sidecar(SidecarState::Live, 9, Some(9), Some(4));
        let gone = sidecar(SidecarState::Deleted, 10, None, None);
        let noted_at = places(&["a:1", "b:1"]);
        let mut sighting = Sighting { blobs, sidecars: vec![live, gone], noted_at };
        let old = [format!("{PLAIN:?} a:1"), format!("{:?} a:1", generation(5)), "Sidecar a:1".to_owned()];
        assert_eq!(names(pending(&sighting, Some(&record(Some(9))))), old);
        assert_eq!(pending(&sighting, None).len(), 6, "everything of a deleted key");
        assert_eq!(pending(&sighting, Some(&record(None))), [], "nothing is before a plain blob");
        sighting.noted_at = places(&["a:1", "c:1"]);
        assert_eq!(
            pending(&sighting, Some(&record(Some(9)))).len(),
            2,
            "no sidecar is as good beside the blob"
        );
        sighting.noted_at = places(&["a:1", "b:1", "c:1"]);
        assert_eq!(
            pending(&sighting, None),
            [],
            "one can't be read, and it may be that of the newest version"
        );
        sighting.blobs.pop();
        assert_eq!(pending(&sighting, None).len(), 6, "nothing is newer than the tombstone");
        assert_eq!(pending(&sighting, Some(&record(Some(9)))), [], "it may tell of another version");
    }
}
