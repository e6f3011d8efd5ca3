//! Where the data of a run lies: in memory and on disk. Removed at the end, however the run ends.

use crate::Outcome;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What a signal removes.
static DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Two directories that nobody else uses.
pub(crate) struct Scratch {
    /// On a tmpfs.
    pub(crate) memory: PathBuf,
    /// On the disk that the user named.
    pub(crate) disk: PathBuf,
}

impl Scratch {
    pub(crate) fn new(disk: &Path) -> Outcome<Scratch> {
        let name = format!("mkv-bench-{}", std::process::id());
        let memory = Path::new("/dev/shm").join(&name);
        let disk = std::path::absolute(disk)?.join(&name);
        DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner).extend([memory.clone(), disk.clone()]);
        fs::create_dir_all(&memory)?;
        fs::create_dir_all(&disk)?;
        Ok(Scratch { memory, disk })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove_all();
    }
}

/// Removes the data of this run.
pub(crate) fn remove_all() {
    for directory in DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // A volume that is just ending may still add a file.
        while directory.exists() && fs::remove_dir_all(&directory).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        // Its parent too if it is ours alone (./bench-data).
        if directory.parent().is_some_and(|parent| parent.ends_with("bench-data")) {
            let _ = fs::remove_dir(directory.parent().unwrap_or(&directory));
        }
    }
}

/// A directory of a measurement, removed when that is over.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new(parent: &Path, name: &str) -> Outcome<Place> {
        let directory = parent.join(name);
        fs::create_dir_all(&directory)?;
        Ok(Place(directory))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
