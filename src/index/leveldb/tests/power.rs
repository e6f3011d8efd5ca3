//! A power cut: what was not synced may be gone, and the names that were not synced may be as they were.

use super::support::{Random, name};
use crate::index::leveldb::guard::{Observer, Operation};
use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Watches what is durable, pulls the plug, and shows what the disk then holds.
pub(super) struct Plug {
    /// Operations until the plug is pulled.
    left: AtomicUsize,
    /// Where replaced and deleted files are kept, in case they come back.
    attic: PathBuf,
    disk: Mutex<Disk>,
}

#[derive(Default)]
struct Disk {
    synced_bytes: HashMap<PathBuf, u64>,
    /// Changes of names that no sync of their directory has made durable, in order.
    pending: Vec<Change>,
    kept: usize,
    /// What the operations that are going on replace or delete.
    kept_of: HashMap<PathBuf, PathBuf>,
}

enum Change {
    Created(PathBuf),
    Removed { path: PathBuf, kept: PathBuf },
    Renamed { from: PathBuf, to: PathBuf, replaced: Option<PathBuf> },
}

impl Change {
    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Created(path) | Self::Removed { path, .. } | Self::Renamed { to: path, .. } => {
                path.parent()
            }
        }
    }
}

impl Plug {
    pub(super) fn new(attic: PathBuf, operations: usize) -> Self {
        let _ = fs::remove_dir_all(&attic);
        fs::create_dir_all(&attic).expect("an attic");
        Self { left: AtomicUsize::new(operations), attic, disk: Mutex::default() }
    }

    /// Keeps what stands at `path`, which is about to go.
    fn keep(&self, path: &Path) {
        let mut disk = self.disk();
        disk.kept += 1;
        let kept = self.attic.join(format!("{}-{}", disk.kept, name(path)));
        if path.is_file() {
            fs::copy(path, &kept).expect("kept");
            disk.kept_of.insert(path.to_owned(), kept);
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("whole")
    }

    /// Does `work` without the plug being pulled in it.
    pub(super) fn pause(&self, work: impl FnOnce()) {
        let left = self.left.swap(usize::MAX, Ordering::SeqCst);
        work();
        self.left.store(left, Ordering::SeqCst);
    }

    pub(super) fn is_pulled(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// Nothing more happens, from now on.
    pub(super) fn pull(&self) {
        self.left.store(0, Ordering::SeqCst);
    }

    /// Takes back a part of what was not durable. The program must be gone.
    pub(super) fn cut(&self, random: &mut Random) {
        let disk = &mut *self.disk();
        for _ in 0..random.below(disk.pending.len() + 1) {
            take_back(disk.pending.pop().expect("not more than there are"), &mut disk.synced_bytes);
        }
        for (path, &synced) in &disk.synced_bytes {
            let Ok(file) = OpenOptions::new().write(true).open(path) else { continue };
            let written = file.metadata().expect("there").len();
            let loose = written.saturating_sub(synced) as usize;
            let survives = [0, loose, random.below(loose + 1)][random.below(3)];
            file.set_len(synced.min(written) + survives as u64).expect("cuts");
        }
    }
}

fn take_back(change: Change, synced_bytes: &mut HashMap<PathBuf, u64>) {
    match change {
        Change::Created(path) if path.is_dir() => fs::remove_dir_all(path).expect("taken back"),
        Change::Created(path) => drop(fs::remove_file(path)),
        Change::Removed { path, kept } => {
            fs::rename(kept, &path).expect("taken back");
            synced_bytes.remove(&path);
        }
        Change::Renamed { from, to, replaced } => {
            fs::rename(&to, &from).expect("taken back");
            rename_all(synced_bytes, &to, &from);
            replaced.iter().for_each(|kept| fs::rename(kept, &to).expect("taken back"));
        }
    }
}

/// Moves what is known of a file, or of all files in a directory.
fn rename_all(synced_bytes: &mut HashMap<PathBuf, u64>, from: &Path, to: &Path) {
    let renamed = synced_bytes.drain().map(|(path, bytes)| match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => (to.to_owned(), bytes),
        Ok(rest) => (to.join(rest), bytes),
        Err(_) => (path, bytes),
    });
    *synced_bytes = renamed.collect();
}

impl Observer for Plug {
    fn before(&self, operation: Operation<'_>) -> io::Result<()> {
        let count = |left: usize| left.checked_sub(1);
        let counted = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count);
        counted.map_err(|_| io::Error::other("the plug is pulled"))?;
        match operation {
            Operation::Create(path) | Operation::Delete(path) | Operation::Rename { to: path, .. } => {
                self.keep(path)
            }
            _ => {}
        }
        Ok(())
    }

    fn after(&self, operation: Operation<'_>) {
        let disk = &mut *self.disk();
        match operation {
            Operation::Delete(path) => {
                let removed = |kept| Change::Removed { path: path.to_owned(), kept };
                let kept = disk.kept_of.remove(path);
                disk.pending.extend(kept.map(removed));
            }
            Operation::Create(path) => {
                let removed = |kept| Change::Removed { path: path.to_owned(), kept };
                let kept = disk.kept_of.remove(path);
                disk.pending.extend(kept.map(removed));
                disk.synced_bytes.insert(path.to_owned(), 0);
                disk.pending.push(Change::Created(path.to_owned()));
            }
            Operation::Rename { from, to } => {
                rename_all(&mut disk.synced_bytes, from, to);
                let replaced = disk.kept_of.remove(to);
                disk.pending.push(Change::Renamed { from: from.to_owned(), to: to.to_owned(), replaced });
            }
            Operation::Sync(path) => {
                disk.synced_bytes.insert(path.to_owned(), fs::metadata(path).expect("there").len());
            }
            Operation::SyncDirectory(dir) => disk.pending.retain(|change| change.directory() != Some(dir)),
            _ => {}
        }
    }
}
