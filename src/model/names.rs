//! The present name of a place that records and intents know under an earlier one.
//!
//! What is read from the index is told under present names only, so that nobody above compares two spellings of one place.

use super::{PlacedFile, Record, Replica};
use std::collections::HashMap;

/// Earlier names and the present ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    present: HashMap<Replica, Replica>,
}

impl Names {
    /// Each earlier name with the place's present one.
    pub fn new(present: impl IntoIterator<Item = (Replica, Replica)>) -> Names {
        Names { present: present.into_iter().filter(|(earlier, now)| earlier != now).collect() }
    }

    /// Whether every name is the present one.
    pub fn is_empty(&self) -> bool {
        self.present.is_empty()
    }

    /// Each earlier name with the present one, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Replica, &Replica)> {
        self.present.iter()
    }

    /// The present name of `place`. A subvolume that has none of its own goes with its volume.
    pub fn present(&self, place: Replica) -> Replica {
        if self.is_empty() {
            return place;
        }
        if let Some(present) = self.present.get(&place) {
            return present.clone();
        }
        let volume = place.volume();
        let moved = self.present.get(&volume.root()).and_then(|root| {
            let folder = place.as_str().strip_prefix(volume.as_str())?;
            format!("{root}{folder}").parse().ok()
        });
        moved.unwrap_or(place)
    }

    /// The record with present names. Two names of one place become one.
    pub fn record(&self, mut record: Record) -> Record {
        if !self.is_empty() {
            let mut replicas: Vec<Replica> = Vec::with_capacity(record.replicas.len());
            for place in record.replicas {
                let present = self.present(place);
                if !replicas.contains(&present) {
                    replicas.push(present);
                }
            }
            record.replicas = replicas;
        }
        record
    }

    /// The files with present names. Two names of one file become one, which is in doubt if either was.
    pub fn files(&self, files: Vec<PlacedFile>) -> Vec<PlacedFile> {
        if self.is_empty() {
            return files;
        }
        let mut present: Vec<PlacedFile> = Vec::with_capacity(files.len());
        for placed in files {
            let replica = self.present(placed.replica);
            let same = |other: &&mut PlacedFile| other.file == placed.file && other.replica == replica;
            match present.iter_mut().find(same) {
                Some(other) => other.in_doubt |= placed.in_doubt,
                None => present.push(PlacedFile { replica, ..placed }),
            }
        }
        present
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::File;
    use proptest::prelude::*;

    fn place(name: &str) -> Replica {
        name.parse().expect("it is a place")
    }

    fn names(pairs: &[(&str, &str)]) -> Names {
        Names::new(pairs.iter().map(|(earlier, now)| (place(earlier), place(now))))
    }

    #[test]
    fn a_subvolume_goes_with_its_volume_unless_it_has_gone_elsewhere() {
        let names = names(&[("old:1", "new:1"), ("old:1/sv02", "other:1")]);
        for (earlier, now) in [
            ("old:1", "new:1"),
            ("old:1/sv01", "new:1/sv01"),
            ("old:1/sv02", "other:1"),
            ("old:12", "old:12"),
            ("new:1/sv01", "new:1/sv01"),
        ] {
            assert_eq!(names.present(place(earlier)), place(now), "{earlier}");
        }
    }

    #[test]
    fn two_names_of_one_place_are_one_replica() {
        let record = Record::parse(b"old:1,b:1,new:1").expect("it is a record");
        assert_eq!(names(&[("old:1", "new:1")]).record(record.clone()).to_string(), "new:1,b:1");
        assert_eq!(Names::default().record(record.clone()), record);
    }

    #[test]
    fn a_file_under_two_names_is_in_doubt_if_either_is() {
        let file = |name, in_doubt| PlacedFile { file: File::Sidecar, replica: place(name), in_doubt };
        let files = names(&[("old:1", "new:1")]).files(vec![file("new:1", false), file("old:1", true)]);
        assert_eq!(files, [file("new:1", true)]);
    }

    /// A subvolume, under one of the three names that its volume has had.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Spelled {
        volume: usize,
        folder: usize,
        name: usize,
    }

    impl Spelled {
        fn place(self) -> Replica {
            let Spelled { volume, folder, name } = self;
            place(&format!("{}{volume}:1/sv0{folder}", ["first", "second", "present"][name]))
        }

        fn is_where(self, other: Spelled) -> bool {
            (self.volume, self.folder) == (other.volume, other.folder)
        }
    }

    fn spelled() -> impl Strategy<Value = Spelled> {
        (0..3usize, 0..3usize, 0..3usize).prop_map(|(volume, folder, name)| Spelled { volume, folder, name })
    }

    /// The present names of volumes that had two others, of which these folders have become volumes of their own.
    fn present_of(moved: &[(usize, usize)]) -> Names {
        let volumes = (0..3).flat_map(|volume| {
            ["first", "second"]
                .map(|name| (place(&format!("{name}{volume}:1")), place(&format!("present{volume}:1"))))
        });
        let folders = moved.iter().flat_map(|&(volume, folder)| {
            let now = place(&format!("moved{volume}-{folder}:1"));
            [0, 1, 2].map(|name| (Spelled { volume, folder, name }.place(), now.clone()))
        });
        Names::new(volumes.chain(folders))
    }

    proptest! {
        /// What waits to be removed lies nowhere that the record keeps, whatever both are called.
        #[test]
        fn no_file_is_removed_where_a_record_keeps_it(
            kept in proptest::collection::vec(spelled(), 1..5),
            files in proptest::collection::vec(spelled(), 1..8),
            moved in proptest::collection::vec((0..3usize, 0..3usize), 0..4),
        ) {
            let names = present_of(&moved);
            let spellings: Vec<String> = kept.iter().map(|kept| kept.place().to_string()).collect();
            let record = names.record(Record::parse(spellings.join(",").as_bytes()).expect("it is a record"));
            for file in &files {
                let placed = PlacedFile { file: File::Blob(None), replica: file.place(), in_doubt: false };
                let told = names.files(vec![placed]);
                let is_kept = kept.iter().any(|kept| kept.is_where(*file));
                prop_assert_eq!(record.replicas.contains(&told[0].replica), is_kept);
            }
        }
    }
}
