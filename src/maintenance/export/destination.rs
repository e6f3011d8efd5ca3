//! Writes files below one directory and nowhere else: every folder on the way is opened by the folder above it and never
//! through a symbolic link, a file appears whole or not at all, and one that is there is never written over.

use super::name::{UNFINISHED, second};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, unlinkat};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// Why a file can't be where it should.
#[derive(Debug, Error)]
pub(super) enum PlaceError {
    /// Something that is neither file nor folder, or belongs to somebody else, has the name.
    #[error("{0} is in the way")]
    InTheWay(String),
    #[error("it can't be written: {0}")]
    Io(#[from] io::Error),
}

impl PlaceError {
    /// Whether every other file will fail in the same way.
    pub(super) fn is_of_the_disk(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(self, PlaceError::Io(err) if [StorageFull, QuotaExceeded, ReadOnlyFilesystem].contains(&err.kind()))
    }
}

impl From<Errno> for PlaceError {
    fn from(err: Errno) -> PlaceError {
        PlaceError::Io(err.into())
    }
}

/// The directory of an export. One process at a time has it.
pub(super) struct Destination {
    /// Locked as long as it is open.
    root: File,
    unfinished: OwnedFd,
    next: AtomicU64,
}

/// Where a file is to be.
pub(super) struct Place {
    folder: OwnedFd,
    name: String,
    /// Whether a file is there already.
    pub(super) is_taken: bool,
}

/// A file that is not whole yet; dropped, it is gone.
pub(super) struct Draft<'a> {
    destination: &'a Destination,
    name: String,
    file: File,
}

const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl Destination {
    /// Creates or takes the directory `dir`, and removes what a run that was killed has left unfinished in it.
    pub(super) fn open(dir: &Path) -> io::Result<Destination> {
        fs::create_dir_all(dir)?;
        let root = File::open(dir)?;
        match root.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another export writes there")),
            // A file system without locks; then nobody is kept from doing it twice.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let unfinished = folder_of(&root, UNFINISHED)?;
        for entry in fs::read_dir(dir.join(UNFINISHED))? {
            unlinkat(&unfinished, entry?.file_name().as_os_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(Destination { root, unfinished, next: AtomicU64::new(0) })
    }

    /// Leaves nothing but the blobs.
    pub(super) fn finish(self) {
        // Whatever else is in it stays, and the next run sees to it.
        let _ = unlinkat(&self.root, UNFINISHED, UnlinkatFlags::RemoveDir);
    }

    /// Finds the place that `names` lead to, creating the folders on the way. Where one is taken by a file, or the place
    /// itself by a folder, the name that is [`second`] is used.
    pub(super) fn place(&self, names: &[String]) -> Result<Place, PlaceError> {
        let (name, folders) = names.split_last().expect("there is at least the file's name");
        let mut folder: OwnedFd = self.root.try_clone()?.into();
        for name in folders {
            let opened = match kind_of(&folder, name)? {
                Some(Kind::File) => {
                    let name = second(name);
                    folder_of(&folder, &name).map_err(|err| in_the_way(&name, err))
                }
                Some(Kind::Other) => return Err(PlaceError::InTheWay(name.clone())),
                Some(Kind::Folder) | None => folder_of(&folder, name).map_err(|err| in_the_way(name, err)),
            };
            folder = opened?;
        }
        let mut name = name.clone();
        if let Some(Kind::Folder) = kind_of(&folder, &name)? {
            name = second(&name);
        }
        match kind_of(&folder, &name)? {
            None => Ok(Place { folder, name, is_taken: false }),
            Some(Kind::File) => Ok(Place { folder, name, is_taken: true }),
            Some(Kind::Folder | Kind::Other) => Err(PlaceError::InTheWay(name)),
        }
    }

    /// Begins a file.
    pub(super) fn draft(&self) -> Result<Draft<'_>, PlaceError> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.unfinished, name.as_str(), flags, Mode::from_bits_truncate(0o666))?;
        Ok(Draft { destination: self, name, file: file.into() })
    }
}

impl Place {
    /// Opens the file that is there.
    pub(super) fn open(&self) -> Result<File, PlaceError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(openat(&self.folder, self.name.as_str(), flags, Mode::empty())?.into())
    }
}

impl Draft<'_> {
    /// Adds bytes at the end.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), PlaceError> {
        Ok(self.file.write_all(bytes)?)
    }

    /// A handle that makes what was written durable.
    pub(super) fn file(&self) -> Result<File, PlaceError> {
        Ok(self.file.try_clone()?)
    }

    /// Puts it in its place; false if somebody has put a file there meanwhile.
    pub(super) fn put(self, place: &Place) -> Result<bool, PlaceError> {
        let (from, name) = (&self.destination.unfinished, self.name.as_str());
        match linkat(from, name, &place.folder, place.name.as_str(), LinkatFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            // A file system without links, FAT or so: the lock keeps all others of us away between look and rename.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                match kind_of(&place.folder, &place.name)? {
                    Some(_) => Ok(false),
                    None => Ok(renameat(from, name, &place.folder, place.name.as_str()).map(|()| true)?),
                }
            }
            Err(err) => Err(err.into()),
        }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // Renamed, it isn't there any more; otherwise the next run removes it.
        let _ = unlinkat(&self.destination.unfinished, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    /// Links too: nothing is written through them.
    Other,
}

fn kind_of(folder: &OwnedFd, name: &str) -> Result<Option<Kind>, Errno> {
    let kind = |stat: FileStat| match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Folder,
        _ => Kind::Other,
    };
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(kind(stat))),
        Err(Errno::ENOENT) => Ok(None),
        Err(err) => Err(err),
    }
}

/// The folder `name` of `folder`, created where there is none.
fn folder_of(folder: &impl std::os::fd::AsFd, name: &str) -> Result<OwnedFd, Errno> {
    match mkdirat(folder, name, Mode::from_bits_truncate(0o777)) {
        Ok(()) | Err(Errno::EEXIST) => openat(folder, name, FOLDER, Mode::empty()),
        Err(err) => Err(err),
    }
}

fn in_the_way(name: &str, err: Errno) -> PlaceError {
    match err {
        Errno::ENOTDIR | Errno::ELOOP => PlaceError::InTheWay(name.to_owned()),
        err => err.into(),
    }
}

/// Whether `dir`, which need not exist, is `other` or lies in it.
pub(super) fn is_within(dir: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        path.ancestors().find_map(|above| Some((fs::canonicalize(above).ok()?, above.to_owned())))
    };
    let full = |path: &Path| -> Option<PathBuf> {
        let path = std::path::absolute(path).ok()?;
        let (real, above) = real(&path)?;
        Some(real.join(path.strip_prefix(above).ok()?))
    };
    matches!((full(dir), full(other)), (Some(dir), Some(other)) if dir.starts_with(&other))
}
