//! Walks the volumes, one folder of all of them at a time: `/ab/cd` holds everything of the keys whose MD5 begins so, on
//! every volume and in every layout, so that no more than a folder's files have to be in memory, and of a folder with very
//! many files one part after another. A volume may also be its bare directory on this machine.

mod source;

use super::rebuild::decide::{Seen, Sighting};
use crate::maintenance::{Finding, Kind, Progress};
use crate::model::{
    CLUSTER_PATH, File, Key, MAX_VOLUME_FILE_BYTES, Replica, Sidecar, VOLUME_PATH, Volume, decode_path,
    is_beside_blobs, path_of, unfolded_key,
};
use crate::volume::{Body, DirEntry, EntryKind, Shown, TOGETHER, VolumeClient, VolumeError};
use futures_util::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
pub(in crate::maintenance) use source::Silent;
use source::Source;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Listings (of up to [`TOGETHER`] trees of a server), or sidecars, that are asked for at the same time for one folder; with the
/// folders of all threads a hundred.
const ASKED_AT_ONCE: usize = 8;

/// Files of a folder, on all volumes together, that are in memory at the same time: some 300 bytes each, in sixteen folders at
/// once on two cores, are 100 MB. A folder with more is listed once for each part of it.
const MAX_FILES: usize = 20_000;

/// Where blobs lie: a volume's root or one of its subvolumes, each with its folders `00` to `ff`.
pub(in crate::maintenance) struct Tree {
    pub(in crate::maintenance) replica: Replica,
    pub(in crate::maintenance) folders: Vec<String>,
}

/// The client of the volumes for a job: patient, and never in a hurry to give up.
pub(in crate::maintenance) struct Walker<'a> {
    source: Source<'a>,
    pub(in crate::maintenance) progress: &'a Progress,
    prefix: &'a [u8],
    unreadable: Unreadable,
    max_files: usize,
}

/// Everything below a folder, in parts that fit into memory.
pub(in crate::maintenance) struct Parts<'w> {
    walker: &'w Walker<'w>,
    folder: &'w str,
    trees: Vec<&'w Replica>,
    /// The next one; `None` behind the last.
    next: Option<Part>,
}

/// The keys whose hash leaves `index` when divided by `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    index: u64,
    of: u64,
}

impl Part {
    const ALL: Part = Part { index: 0, of: 1 };

    fn has(self, key: &Key) -> bool {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish() % self.of == self.index
    }
}

impl Parts<'_> {
    /// The files of the next keys, by key; `None` when there are no more. Sidecars are read.
    pub(in crate::maintenance) async fn next(
        &mut self,
    ) -> Result<Option<HashMap<Key, Sighting>>, VolumeError> {
        let Some(mut part) = self.next.take() else { return Ok(None) };
        let files = Cell::new(0);
        let mut found = self.walker.files(self.folder, &self.trees, part, &files).await?;
        if part == Part::ALL && files.get() > self.walker.max_files {
            drop(found);
            part.of = files.get().div_ceil(self.walker.max_files) as u64;
            found = self.walker.files(self.folder, &self.trees, part, &files).await?;
        }
        self.next = Some(Part { index: part.index + 1, ..part }).filter(|next| next.index < next.of);
        Ok(Some(self.walker.sightings(found).await?))
    }
}

/// What follows from a directory or file that can't be read.
enum Unreadable {
    EndsTheJob,
    /// It is a problem, and the walk goes on.
    IsTold,
}

impl<'a> Walker<'a> {
    /// One that reads everything of every key, or ends with an error.
    pub(in crate::maintenance) fn new(volumes: VolumeClient, progress: &'a Progress) -> Walker<'a> {
        let source = Source::new(volumes, None, progress);
        Walker { source, progress, prefix: b"/", unreadable: Unreadable::EndsTheJob, max_files: MAX_FILES }
    }

    /// One that finds what it can of the keys that begin with `prefix`, and tells what it can't read as problems.
    pub(in crate::maintenance) fn to_rescue(
        prefix: &'a [u8],
        volumes: VolumeClient,
        silent: Arc<Silent>,
        progress: &'a Progress,
    ) -> Walker<'a> {
        let source = Source::new(volumes, Some(silent), progress);
        Walker { source, progress, prefix, unreadable: Unreadable::IsTold, max_files: MAX_FILES }
    }

    /// The trees of a volume.
    pub(in crate::maintenance) async fn trees(&self, volume: &Volume) -> Result<Vec<Tree>, VolumeError> {
        let root = volume.root();
        let entries = self.entries(&root, "").await?;
        let (mut trees, mut others) = (Vec::new(), Vec::new());
        for entry in entries {
            match subvolume(volume, &entry) {
                Some(replica) => {
                    let entries = self.entries(&replica, "").await?;
                    trees.push(self.tree(replica, entries));
                }
                None => others.push(entry),
            }
        }
        trees.push(self.tree(root, others));
        Ok(trees)
    }

    fn tree(&self, replica: Replica, entries: Vec<DirEntry>) -> Tree {
        let mut folders = Vec::new();
        for entry in entries {
            if is_folder(&entry) {
                folders.push(text(&entry.name));
            } else if !is_beside_blobs(&entry.name) {
                self.no_blob(&replica, "", &entry.name);
            }
        }
        Tree { replica, folders }
    }

    /// The second level of folder `top` (`/ab`): each folder's name with the trees that have it.
    pub(in crate::maintenance) async fn second_level<'t>(
        &self,
        top: &str,
        trees: &[&'t Replica],
    ) -> Result<BTreeMap<String, Vec<&'t Replica>>, VolumeError> {
        let lists = stream::iter(trees)
            .map(|tree| async move { Ok::<_, VolumeError>((*tree, self.entries(tree, top).await?)) });
        let lists: Vec<(&Replica, Vec<DirEntry>)> =
            // In order, so that the trees of a server stay side by side.
            lists.buffered(ASKED_AT_ONCE).try_collect::<Vec<_>>().await?;
        let mut folders = BTreeMap::<String, Vec<&Replica>>::new();
        for (tree, entries) in lists {
            for entry in entries {
                match is_folder(&entry) {
                    true => folders.entry([top, "/", &text(&entry.name)].concat()).or_default().push(tree),
                    false => self.no_blob(tree, top, &entry.name),
                }
            }
        }
        Ok(folders)
    }

    /// Everything below `folder` (`/ab/cd`) in `trees`.
    pub(in crate::maintenance) fn parts<'w>(&'w self, folder: &'w str, trees: Vec<&'w Replica>) -> Parts<'w> {
        Parts { walker: self, folder, trees, next: Some(Part::ALL) }
    }

    /// The files of a part; of all, no more than there may be. `files` counts all of them. What one server has is asked for
    /// together, and several servers at the same time.
    async fn files(
        &self,
        folder: &str,
        trees: &[&Replica],
        part: Part,
        files: &Cell<usize>,
    ) -> Result<Vec<(Key, Seen)>, VolumeError> {
        let of_one_server = trees.chunk_by(|one, other| one.authority() == other.authority());
        let groups: Vec<&[&Replica]> = of_one_server.flat_map(|trees| trees.chunks(TOGETHER)).collect();
        let next = Cell::new(0);
        let walk = async || {
            let mut found = Vec::new();
            while let Some(trees) = groups.get(next.replace(next.get() + 1)) {
                self.files_of_group(trees, folder, part, files, &mut found).await?;
            }
            Ok(found)
        };
        let walks = (0..ASKED_AT_ONCE.min(groups.len())).map(|_| walk());
        walks.collect::<FuturesUnordered<_>>().try_concat().await
    }

    async fn sightings(&self, found: Vec<(Key, Seen)>) -> Result<HashMap<Key, Sighting>, VolumeError> {
        let mut sightings = HashMap::<Key, Sighting>::new();
        let mut sidecars = Vec::new();
        for (key, seen) in found {
            match seen.file {
                File::Sidecar => sidecars.push((key, seen.replica)),
                File::Blob(_) | File::Folded => sightings.entry(key).or_default().blobs.push(seen),
            }
        }
        let reads = stream::iter(sidecars).map(|(key, replica)| async move {
            let sidecar = self.sidecar(&key, &replica).await?;
            Ok::<_, VolumeError>((key, replica, sidecar))
        });
        let read: Vec<_> = reads.buffer_unordered(ASKED_AT_ONCE).try_collect().await?;
        for (key, replica, sidecar) in read {
            let sighting = sightings.entry(key).or_default();
            sighting.sidecars.extend(sidecar);
            sighting.noted_at.push(replica);
        }
        Ok(sightings)
    }

    async fn sidecar(&self, key: &Key, replica: &Replica) -> Result<Option<Sidecar>, VolumeError> {
        let path = path_of(key, File::Sidecar);
        let content = match self.source.get(replica, &path, Sidecar::MAX_BYTES).await {
            // It is gone since it was listed.
            Ok(None) => return Ok(None),
            Ok(content) => content,
            Err(VolumeError::TooLarge { .. }) => None,
            Err(err) => {
                self.unreadable(err)?;
                return Ok(None);
            }
        };
        let sidecar = content.as_deref().and_then(Sidecar::parse);
        if sidecar.is_none() {
            let what = "its sidecar can't be read and is passed over";
            self.progress.report(Finding::new(Kind::WrongSidecar, Some(key), Some(replica), what));
        }
        // What is told of a key to clients decides nothing here, and of a folder's files it would be a gigabyte.
        Ok(sidecar.map(|sidecar| Sidecar { content_type: None, metadata: BTreeMap::new(), ..sidecar }))
    }

    /// What lies below `folder` in trees of one server.
    async fn files_of_group(
        &self,
        trees: &[&Replica],
        folder: &str,
        part: Part,
        files: &Cell<usize>,
        found: &mut Vec<(Key, Seen)>,
    ) -> Result<(), VolumeError> {
        let is_wanted = |entry: &DirEntry| self.is_wanted(entry, folder, part, files);
        let listed = self.source.list_together(trees, folder, is_wanted).await;
        let mut alone = Vec::new();
        for (tree, entries) in trees.iter().zip(listed) {
            match entries {
                Some(entries) => {
                    let below = self.take(tree, folder, entries, (part, files), found);
                    alone.extend(below.into_iter().map(|folder| (tree, folder)));
                }
                None => alone.push((tree, folder.to_owned())),
            }
        }
        if !alone.is_empty() {
            let walks = stream::iter(alone).map(|(tree, folder)| self.files_below(tree, folder, part, files));
            found.extend(walks.buffer_unordered(ASKED_AT_ONCE).try_concat().await?);
        }
        Ok(())
    }

    /// What lies below `folder` in one tree.
    async fn files_below(
        &self,
        tree: &Replica,
        folder: String,
        part: Part,
        files: &Cell<usize>,
    ) -> Result<Vec<(Key, Seen)>, VolumeError> {
        let (mut folders, mut found) = (vec![folder], Vec::new());
        while let Some(folder) = folders.pop() {
            let is_wanted = |entry: &DirEntry| self.is_wanted(entry, &folder, part, files);
            let entries = self.entries_where(tree, &folder, is_wanted).await?;
            folders.extend(self.take(tree, &folder, entries, (part, files), &mut found));
        }
        Ok(found)
    }

    /// Whether an entry of `folder` can be of use for a part, and is not one more than there may be.
    fn is_wanted(&self, entry: &DirEntry, folder: &str, part: Part, files: &Cell<usize>) -> bool {
        match (entry.kind, part) {
            (EntryKind::Directory, _) => true,
            (_, Part::ALL) => {
                files.set(files.get() + 1);
                files.get() <= self.max_files
            }
            (_, part) => match named(folder, &entry.name).and_then(|path| key_of(&path)) {
                Some((key, _)) => part.has(&key),
                None => part.index == 0,
            },
        }
    }

    /// Adds the files among the `entries` of a folder to those that were `found`, and answers the folders.
    fn take(
        &self,
        tree: &Replica,
        folder: &str,
        entries: Vec<DirEntry>,
        (part, files): (Part, &Cell<usize>),
        found: &mut Vec<(Key, Seen)>,
    ) -> Vec<String> {
        let mut folders = Vec::new();
        let is_over = part == Part::ALL && files.get() > self.max_files;
        for entry in entries {
            if is_over && entry.kind != EntryKind::Directory {
                // All of them come again, in parts.
                continue;
            }
            let Some(path) = named(folder, &entry.name) else {
                self.no_blob(tree, folder, &entry.name);
                continue;
            };
            match entry.kind {
                EntryKind::Directory => folders.push(path),
                EntryKind::File { size } => match key_of(&path) {
                    Some((key, _)) if !key.as_bytes().starts_with(self.prefix) => {}
                    Some((key, file)) => found.push((key, Seen { replica: tree.clone(), file, size })),
                    None => self.no_blob(tree, folder, &entry.name),
                },
                EntryKind::Other => self.no_blob(tree, folder, &entry.name),
            }
        }
        folders
    }

    async fn entries(&self, tree: &Replica, path: &str) -> Result<Vec<DirEntry>, VolumeError> {
        self.entries_where(tree, path, |_| true).await
    }

    /// Those that `is_wanted`; the others are never in memory together.
    async fn entries_where(
        &self,
        tree: &Replica,
        path: &str,
        is_wanted: impl Fn(&DirEntry) -> bool,
    ) -> Result<Vec<DirEntry>, VolumeError> {
        if self.source.has_given_up(tree) {
            return Ok(Vec::new());
        }
        let (entries, faults) = match self.source.list(tree, path, is_wanted).await {
            Ok(listed) => listed,
            Err(err) => (Vec::new(), vec![err]),
        };
        faults.into_iter().try_for_each(|err| self.unreadable(err))?;
        Ok(entries)
    }

    /// Begins to read a file of a volume or directory; `None` if there is none.
    pub(in crate::maintenance) async fn open(
        &self,
        replica: &Replica,
        path: &str,
    ) -> Result<Option<Body>, VolumeError> {
        self.source.open(replica, path).await
    }

    fn unreadable(&self, err: VolumeError) -> Result<(), VolumeError> {
        match self.unreadable {
            Unreadable::EndsTheJob => Err(err),
            Unreadable::IsTold => {
                self.progress.report(Finding::unreachable(None, &err));
                Ok(())
            }
        }
    }

    /// What a place shows of its identity.
    pub(in crate::maintenance) async fn shown(&self, place: &Replica) -> Result<Shown, VolumeError> {
        match self.source.get(place, VOLUME_PATH, MAX_VOLUME_FILE_BYTES).await {
            Ok(content) => Ok(Shown::of(content.as_deref())),
            Err(VolumeError::TooLarge { .. }) => Ok(Shown::Torn),
            Err(err) => Err(err),
        }
    }

    /// The cluster that a volume says it belongs to, if it says anything.
    pub(in crate::maintenance) async fn cluster(
        &self,
        volume: &Volume,
    ) -> Result<Option<String>, VolumeError> {
        let root = volume.root();
        let content = self.source.get(&root, CLUSTER_PATH, Sidecar::MAX_BYTES).await?;
        Ok(content.map(|content| String::from_utf8_lossy(content.trim_ascii()).into_owned()))
    }

    fn no_blob(&self, tree: &Replica, folder: &str, name: &[u8]) {
        self.progress.note(format_args!("{tree}{folder}/{} is no blob", name.escape_ascii()));
    }
}

/// The folders of the first level, each with the trees that have it: what threads take one after another.
pub(in crate::maintenance) fn by_folder(trees: &[Tree]) -> Vec<(&str, Vec<&Replica>)> {
    let mut folders = BTreeMap::<&str, Vec<&Replica>>::new();
    for tree in trees {
        tree.folders.iter().for_each(|name| folders.entry(name).or_default().push(&tree.replica));
    }
    folders.into_iter().collect()
}

/// The path of an entry, if it can be one of ours.
fn named(folder: &str, name: &[u8]) -> Option<String> {
    Some([folder, "/", plain_name(name)?].concat())
}

fn key_of(path: &str) -> Option<(Key, File)> {
    decode_path(path).or_else(|| unfolded_key(path).map(|key| (key, File::Folded)))
}

/// The name if a file or folder of ours can have it.
fn plain_name(name: &[u8]) -> Option<&str> {
    let ours = |byte: &u8| byte.is_ascii_alphanumeric() || b"+=-_~.".contains(byte);
    std::str::from_utf8(name).ok().filter(|name| name.bytes().all(|byte| ours(&byte)))
}

fn is_folder(entry: &DirEntry) -> bool {
    let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    entry.kind == EntryKind::Directory && entry.name.len() == 2 && entry.name.iter().all(hex)
}

fn subvolume(volume: &Volume, entry: &DirEntry) -> Option<Replica> {
    volume.subvolume(std::str::from_utf8(&entry.name).ok()?).filter(|_| entry.kind == EntryKind::Directory)
}

/// A name that is known to be ASCII.
fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{Health, Timeouts};
    use std::collections::BTreeSet;
    use std::time::Duration;

    /// Keys that lie in one folder, which is the first one's.
    fn neighbours(count: usize) -> Vec<Key> {
        let key = |number: u32| Key::new(format!("/{number}")).expect("a key");
        let folder = |key: &Key| path_of(key, File::Blob(None))[..6].to_owned();
        let first = folder(&key(0));
        (0..).map(key).filter(|key| folder(key) == first).take(count).collect()
    }

    #[actix_rt::test]
    async fn a_folder_of_many_files_comes_in_parts_and_every_key_whole_and_once() {
        let root = std::env::temp_dir().join(format!("mkv-walk-{}", std::process::id()));
        let keys = neighbours(8);
        let mut trees = Vec::new();
        for tree in ["a", "b"] {
            for key in &keys {
                for file in [File::Blob(None), File::Sidecar] {
                    let path = root.join(tree).join(&path_of(key, file)[1..]);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    let sidecar =
                        br#"{"state":"live","state_time":1,"content_type":"a/b","metadata":{"a":"b"}}"#;
                    std::fs::write(path, sidecar).unwrap();
                }
            }
            trees.push(Volume::in_directory(root.join(tree).to_str().unwrap()).unwrap().root());
        }
        let progress = Progress::default();
        let volumes =
            VolumeClient::new(Timeouts::for_jobs(Duration::from_secs(1)), Arc::new(Health::new(&[])));
        for (max_files, expected) in [(32, 1), (31, 2), (5, 7)] {
            let walker = Walker { max_files, ..Walker::new(volumes.clone(), &progress) };
            let folder = path_of(&keys[0], File::Blob(None))[..6].to_owned();
            let mut parts = walker.parts(&folder, trees.iter().collect());
            let (mut count, mut seen) = (0, BTreeSet::new());
            while let Some(sightings) = parts.next().await.unwrap() {
                count += 1;
                for (key, sighting) in sightings {
                    assert_eq!((sighting.blobs.len(), sighting.noted_at.len()), (2, 2), "{key}");
                    let is_small =
                        |sidecar: &Sidecar| sidecar.metadata.is_empty() && sidecar.content_type.is_none();
                    assert!(sighting.sidecars.iter().all(is_small), "{:?}", sighting.sidecars);
                    assert!(seen.insert(key.to_string()), "{key} comes twice");
                }
            }
            assert_eq!((count, seen.len()), (expected, keys.len()), "{max_files}");
        }
        assert_eq!(progress.problems(), 0);
        std::fs::remove_dir_all(root).unwrap();
    }
}
