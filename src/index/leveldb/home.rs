//! The directory of an index: claimed for one handle, exchanged for a copy.
//!
//! An index is copied into `DIR.new-TIME` (see [`super::import`]) and then put in place by two renames: `DIR` to
//! `DIR.old-TIME`, `DIR.new-TIME` to `DIR`. A crash between them leaves no `DIR`, but both others with one TIME,
//! which is the sign that the copy was complete: the second rename is then done at the next start. Whatever else
//! stands beside an absent `DIR` was put there by a person, who is asked.

use super::check::{Origin, file_names, inspect, is_leftover};
use super::guard::{Guard, Operation};
use crate::index::table::TableError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Behind the name of a copy: what it is read from.
const CLONE_SUFFIX: &str = "-source";

/// Whether opening the index in `dir` finds something there, be it an exchange that was cut off, and makes no empty one.
pub fn is_there(dir: &Path) -> bool {
    // What can't be read is something too, and opening it says what.
    let is_empty = file_names(dir).is_ok_and(|names| names.iter().all(|name| is_leftover(name)));
    let was_exchanged = |dir: &Path| siblings(dir, ".new-").is_ok_and(|copies| !copies.is_empty());
    match dir.exists() {
        true => !is_empty,
        false => std::path::absolute(dir).is_ok_and(|dir| was_exchanged(&dir)),
    }
}

/// An index directory that nobody else can open.
pub(super) struct Home {
    dir: PathBuf,
    /// Held until it is dropped. Other programs' LevelDB in Go and Rust honour it.
    _lock: File,
}

impl Home {
    /// Claims `dir`, which is made if it is absent and nothing speaks against it. Nothing in an index is changed.
    pub(super) fn claim(dir: &Path, guard: &Guard) -> Result<(Self, Origin), TableError> {
        let dir = absolute(dir)?;
        if !dir.exists() {
            make_or_recover(&dir, guard)?;
        }
        // Before the lock file is made: a directory that is no index is left untouched.
        let untouchable = !dir.join("CURRENT").exists() && !file_names(&dir)?.is_empty();
        if untouchable {
            inspect(&dir)?;
        }
        let home = Self { _lock: lock(&dir)?, dir };
        let origin = inspect(&home.dir)?;
        Ok((home, origin))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes what interrupted copies left.
    pub(super) fn remove_stale_copies(&self) -> Result<(), TableError> {
        remove_stale_copies(&self.dir)
    }

    /// Refuses what would fail at the end of a long copy: a directory of another file system can't be renamed.
    pub(super) fn check_exchangeable(&self, why: &str) -> Result<(), TableError> {
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
        let same = device(&self.dir).and_then(|own| Ok(own == device(parent(&self.dir))?));
        if same.map_err(|err| failed("look at", &self.dir, err))? {
            return Ok(());
        }
        let reason = format!(
            "{why}, but it is a mount point, which can't be exchanged: move the index into a directory below it, and \
             give that"
        );
        Err(TableError::Refused { dir: self.dir.clone(), reason })
    }

    /// The copy, and the original when it has been replaced: named with one time.
    pub(super) fn copy_names(&self) -> (PathBuf, PathBuf) {
        copy_names(&self.dir)
    }

    /// Where the copy is read from. It goes with the stale copies.
    pub(super) fn clone_name(&self, copy: &Path) -> PathBuf {
        sibling(copy, CLONE_SUFFIX)
    }

    /// Puts the complete and durable `copy` in this directory's place, and moves this one to `old`.
    pub(super) fn exchange(&mut self, copy: &Path, old: &Path, guard: &Guard) -> Result<(), TableError> {
        let lock = lock(copy)?;
        let exchange = || {
            guard.sync_directory(parent(&self.dir))?;
            guard.rename(&self.dir, old)?;
            guard.rename(copy, &self.dir)
        };
        exchange().map_err(|err| guard.stop_for(format!("exchange {:?} for its copy: {err}", self.dir)))?;
        self._lock = lock;
        Ok(())
    }
}

/// Where an index is made anew, whatever is there now. Locked, so that nobody opens or rebuilds it meanwhile.
pub(super) struct Site {
    dir: PathBuf,
    copy: PathBuf,
    old: PathBuf,
    /// Of the index in use, if there is one.
    _lock: Option<File>,
    _copy_lock: File,
}

impl Site {
    /// Claims `dir` and makes an empty directory beside it. What interrupted attempts left is removed, unless it was complete: then
    /// it is the index in use.
    pub(super) fn claim(dir: &Path, guard: &Guard) -> Result<Self, TableError> {
        let dir = absolute(dir)?;
        if !dir.exists() {
            finish_exchange(&dir, guard)?;
        }
        let in_use = match dir.exists() {
            true => {
                check_is_index(&dir)?;
                Some(Home { _lock: lock(&dir)?, dir: dir.clone() })
            }
            false => None,
        };
        if let Some(home) = &in_use {
            home.check_exchangeable("the new index takes its place in the end")?;
        }
        remove_stale_copies(&dir)?;
        let (copy, old) = copy_names(&dir);
        fs::create_dir(&copy).map_err(|err| failed("make", &copy, err))?;
        let _copy_lock = lock(&copy)?;
        Ok(Self { dir, copy, old, _lock: in_use.map(|home| home._lock), _copy_lock })
    }

    /// The directory of the new index.
    pub(super) fn copy(&self) -> &Path {
        &self.copy
    }

    /// Puts the complete and durable new index in place; answers where the old one is, if there was one.
    pub(super) fn exchange(self, guard: &Guard) -> Result<Option<PathBuf>, TableError> {
        let had_one = self._lock.is_some();
        let exchange = || {
            guard.sync_directory(parent(&self.dir))?;
            if had_one {
                guard.rename(&self.dir, &self.old)?;
            }
            guard.rename(&self.copy, &self.dir)
        };
        exchange().map_err(|err| {
            guard.stop_for(format!("put the new index in the place of {:?}: {err}", self.dir))
        })?;
        Ok(had_one.then_some(self.old))
    }

    /// Removes what was begun. What can't be removed is removed by the next attempt.
    pub(super) fn remove_copy(self) {
        if let Err(err) = fs::remove_dir_all(&self.copy) {
            log::warn!("removing {:?}: {err}", self.copy);
        }
    }
}

/// Removes what interrupted copies left beside `dir`, unless somebody is at work on one. What a person has named so, and not
/// with a time as [`copy_names`] does, is not ours.
fn remove_stale_copies(dir: &Path) -> Result<(), TableError> {
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let end = name.rsplit_once(".new-").map_or("", |(_, end)| end);
        let time = end.strip_suffix(CLONE_SUFFIX).unwrap_or(end);
        !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit()) && path.is_dir()
    };
    for stale in siblings(dir, ".new-")?.into_iter().filter(is_ours) {
        let _unused = lock(&stale)?;
        log::info!("removing {stale:?}, the rest of an interrupted copy");
        fs::remove_dir_all(&stale).map_err(|err| failed("remove", &stale, err))?;
    }
    Ok(())
}

/// A damaged index is still to be told from a directory that was named by mistake.
fn check_is_index(dir: &Path) -> Result<(), TableError> {
    let of_leveldb = |name: &String| {
        let fixed = matches!(name.as_str(), "CURRENT" | "LOCK" | "LOG" | "LOG.old" | "lost+found");
        let numbered = [".ldb", ".sst", ".log", ".dbtmp", ".bak"].iter().any(|end| name.ends_with(end));
        fixed || numbered || name.starts_with("MANIFEST-")
    };
    match file_names(dir)?.iter().find(|name| !of_leveldb(name)) {
        Some(other) => Err(refused(dir, format!("it holds {other:?}, which is no part of an index"))),
        None => Ok(()),
    }
}

/// Follows links, so that siblings are looked for, and made, where the directory really is.
fn absolute(dir: &Path) -> Result<PathBuf, TableError> {
    let resolved = fs::canonicalize(dir).or_else(|err| match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) if err.kind() == io::ErrorKind::NotFound => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            fs::create_dir_all(parent)?;
            Ok(fs::canonicalize(parent)?.join(name))
        }
        _ => Err(err),
    });
    resolved.map_err(|err| refused(dir, format!("its place can't be found or made: {err}")))
}

/// Two names with one time, which is how an interrupted exchange is known.
fn copy_names(dir: &Path) -> (PathBuf, PathBuf) {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    (sibling(dir, &format!(".new-{time}")), sibling(dir, &format!(".old-{time}")))
}

/// Finishes an exchange that was cut off between its renames; whether there was one.
fn finish_exchange(dir: &Path, guard: &Guard) -> Result<bool, TableError> {
    let olds = siblings(dir, ".old-")?;
    let old_of = |copy: &PathBuf| {
        let name = copy.file_name().unwrap_or_default().to_string_lossy();
        let parts = name.rsplit_once(".new-");
        parts.is_some_and(|(name, time)| olds.contains(&copy.with_file_name(format!("{name}.old-{time}"))))
    };
    let Some(copy) = siblings(dir, ".new-")?.into_iter().find(old_of) else { return Ok(false) };
    let _lock = lock(&copy)?;
    log::info!("finishing an interrupted exchange: {copy:?} becomes {dir:?}");
    let renamed = guard.rename(&copy, dir);
    renamed.map_err(|err| guard.stop_for(format!("finish the exchange of {dir:?}: {err}")))?;
    Ok(true)
}

fn make_or_recover(dir: &Path, guard: &Guard) -> Result<(), TableError> {
    if finish_exchange(dir, guard)? {
        return Ok(());
    }
    let (copies, olds) = (siblings(dir, ".new-")?, siblings(dir, ".old-")?);
    if let Some(found) = copies.first().or(olds.first()) {
        let reason = format!(
            "it doesn't exist, but {found:?} does: an .old- is the index as it was before it was copied, rename it \
             back to use it; a .new- is an incomplete copy, remove it; move both away to begin with an empty index"
        );
        return Err(refused(dir, reason));
    }
    let make = || {
        guard.perform(Operation::Create(dir), || fs::create_dir(dir))?;
        guard.sync_directory(parent(dir))
    };
    make().map_err(|err| refused(dir, format!("it can't be made: {err}")))
}

/// The lock that LevelDB takes. It belongs to the open file, so a second handle of this process is refused too.
fn lock(dir: &Path) -> Result<File, TableError> {
    let path = dir.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|err| refused(dir, format!("it isn't writable: open {path:?}: {err}")))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TableError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(err)) => Err(failed("lock", &path, err)),
    }
}

fn siblings(dir: &Path, infix: &str) -> Result<Vec<PathBuf>, TableError> {
    let prefix = format!("{}{infix}", dir.file_name().unwrap_or_default().to_string_lossy());
    let mut found = file_names(parent(dir))?;
    found.retain(|name| name.starts_with(&prefix));
    found.sort();
    Ok(found.iter().map(|name| parent(dir).join(name)).collect())
}

fn sibling(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    dir.with_file_name(name)
}

fn parent(dir: &Path) -> &Path {
    dir.parent().unwrap_or(Path::new("/"))
}

fn refused(dir: &Path, reason: String) -> TableError {
    TableError::Refused { dir: dir.to_owned(), reason }
}

fn failed(what: &str, path: &Path, err: io::Error) -> TableError {
    TableError::Io { reason: format!("{what} {path:?}: {err}") }
}
