//! Where a fetched blob grows: a part beside its file, which a later run can go on with, or standard output.
//!
//! Promises that bytes of two different blobs never meet in one file: a part's name tells what it is a part of, and a part
//! becomes the file only when it is whole. One process at a time has a part.

use super::ClientError;
use super::locate::Source;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What stands for a file's name where there is none.
const OUTPUT: &str = "standard output";

/// The end of a part's name.
const PART: &str = ".part";

/// Hex digits in a part's name that stand for its blob.
const MARK_DIGITS: usize = 16;

/// So much of the file's name stands in the part's, in bytes: names of 255 are the longest.
const STEM_BYTES: usize = 200;

/// Read at once when a part is digested again.
const CHUNK_BYTES: usize = 256 << 10;

/// A blob that is not whole yet.
pub(super) struct Draft {
    place: Place,
    /// Of which blob the bytes are.
    identity: Option<String>,
    written: u64,
    digest: md5::Context,
    /// Bytes that an earlier run had fetched.
    pub(super) resumed: u64,
    /// Whether all bytes came from one source in this run.
    pub(super) is_of_one_piece: bool,
}

/// What becomes of a file that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Stays,
    Goes,
}

enum Place {
    Output,
    File { target: PathBuf, existing: Existing, part: Option<(PathBuf, File)> },
}

impl Draft {
    /// On standard output.
    pub(super) fn output() -> Draft {
        Draft::new(Place::Output)
    }

    /// For `target`, which must not be there if what exists stays.
    pub(super) fn file(target: &Path, existing: Existing) -> Result<Draft, ClientError> {
        let fault = |reason: &str| Err(ClientError::File { file: target.into(), reason: reason.into() });
        match fs::symlink_metadata(target) {
            Ok(metadata) if metadata.is_dir() => return fault("it is a directory; name a file in it"),
            // Replacing a device or a socket is never what is meant.
            Ok(metadata) if !metadata.is_file() && !metadata.is_symlink() => {
                return fault("it is no plain file; to write to it, use - and redirect standard output");
            }
            Ok(_) if existing == Existing::Stays => {
                return fault("it is there already; --force overwrites it");
            }
            _ => {}
        }
        Ok(Draft::new(Place::File { target: target.into(), existing, part: None }))
    }

    fn new(place: Place) -> Draft {
        let digest = md5::Context::new();
        Draft { place, identity: None, written: 0, digest, resumed: 0, is_of_one_piece: true }
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The MD5 of what is there.
    pub(super) fn md5(&self) -> crate::model::Md5 {
        crate::model::Md5(self.digest.clone().finalize().0)
    }

    /// Makes ready for bytes of `source`, behind those of the same blob that are there.
    pub(super) fn begin(&mut self, source: &Source) -> Result<(), ClientError> {
        let identity = source.identity();
        if self.identity.as_ref() == Some(&identity) {
            self.is_of_one_piece &= self.written == 0;
            return Ok(());
        }
        let is_first = self.identity.replace(identity.clone()).is_none();
        match &mut self.place {
            Place::Output if is_first => Ok(()),
            Place::Output => self.restart(),
            Place::File { target, part, .. } => {
                // The blob was overwritten since: what there is of the old one is of no use.
                if let Some((old, _)) = part.take() {
                    let _ = fs::remove_file(old);
                }
                let path = part_path(target, &identity);
                let opened = open_part(&path).map_err(|err| failed(&path, err))?;
                *part = Some((path, opened));
                self.digest_part()?;
                self.resumed = self.written;
                self.is_of_one_piece = self.written == 0;
                Ok(())
            }
        }
    }

    /// Forgets everything that was written.
    pub(super) fn restart(&mut self) -> Result<(), ClientError> {
        match &mut self.place {
            Place::Output if self.written > 0 => {
                let reason =
                    "what was written so far is of another blob or damaged; throw it away and try again";
                return Err(ClientError::File { file: OUTPUT.into(), reason: reason.into() });
            }
            Place::Output => {}
            Place::File { part: Some((path, file)), .. } => {
                file.set_len(0).and_then(|()| file.rewind()).map_err(|err| failed(path, err))?;
            }
            Place::File { part: None, .. } => {}
        }
        self.digest = md5::Context::new();
        (self.written, self.resumed, self.is_of_one_piece) = (0, 0, true);
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        match &mut self.place {
            Place::Output => io::stdout().write_all(bytes).map_err(|err| failed(Path::new(OUTPUT), err))?,
            Place::File { part: Some((path, file)), .. } => {
                file.write_all(bytes).map_err(|err| failed(path, err))?;
            }
            Place::File { part: None, .. } => unreachable!("begin() opens the part"),
        }
        self.digest.consume(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// It is whole: the part becomes the file, and parts of what the key was before are removed.
    pub(super) fn finish(self) -> Result<(), ClientError> {
        match self.place {
            Place::Output => io::stdout().flush().map_err(|err| failed(Path::new(OUTPUT), err)),
            Place::File { target, existing, part: Some((path, file)) } => {
                file.sync_all()
                    .and_then(|()| exchange(&path, &target, existing))
                    .map_err(|err| failed(&target, err))?;
                remove_other_parts(&target);
                Ok(())
            }
            Place::File { part: None, .. } => unreachable!("begin() opens the part"),
        }
    }

    /// Where what was fetched so far is kept for another run.
    pub(super) fn kept_in(&self) -> Option<&Path> {
        match &self.place {
            Place::File { part: Some((path, _)), .. } if self.written > 0 => Some(path),
            _ => None,
        }
    }

    /// Removes a part that nothing is gained by keeping.
    pub(super) fn discard_if_empty(&self) {
        if let (0, Place::File { part: Some((path, _)), .. }) = (self.written, &self.place) {
            let _ = fs::remove_file(path);
        }
    }

    /// Reads what an earlier run has left.
    fn digest_part(&mut self) -> Result<(), ClientError> {
        self.digest = md5::Context::new();
        self.written = 0;
        let Place::File { part: Some((path, file)), .. } = &mut self.place else { return Ok(()) };
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut chunk).map_err(|err| failed(path, err))? {
                0 => return Ok(()),
                size => {
                    self.digest.consume(&chunk[..size]);
                    self.written += size as u64;
                }
            }
        }
    }
}

fn failed(path: &Path, err: impl ToString) -> ClientError {
    ClientError::File { file: path.into(), reason: err.to_string() }
}

fn open_part(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Where others may write as well, the name could be somebody's link to another file.
    options.read(true).write(true).create(true).truncate(false).custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = options.open(path)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::other("another mkv get writes it")),
        // A file system without locks; then nobody is kept from doing it twice.
        Err(TryLockError::Error(_)) | Ok(()) => Ok(file),
    }
}

/// `FILE.0123456789abcdef.part`, the digits standing for the blob.
fn part_path(target: &Path, identity: &str) -> PathBuf {
    let mark = format!("{:x}", md5::compute(identity));
    let mut name = stem(target);
    name.push(format!(".{}{PART}", &mark[..MARK_DIGITS]));
    target.with_file_name(name)
}

fn stem(target: &Path) -> OsString {
    let name = target.file_name().unwrap_or_default().as_bytes();
    OsStr::from_bytes(&name[..name.len().min(STEM_BYTES)]).to_owned()
}

/// Whether `name` is that of a part of a file with this stem.
fn is_part(name: &OsStr, stem: &OsStr) -> bool {
    let middle =
        name.as_bytes().strip_prefix(stem.as_bytes()).and_then(|rest| rest.strip_suffix(PART.as_bytes()));
    middle
        .and_then(|middle| middle.strip_prefix(b"."))
        .is_some_and(|mark| mark.len() == MARK_DIGITS && mark.iter().all(u8::is_ascii_hexdigit))
}

/// A file that has appeared meanwhile is one that exists.
fn exchange(part: &Path, target: &Path, existing: Existing) -> io::Result<()> {
    if existing == Existing::Goes {
        return fs::rename(part, target);
    }
    match renameat2(AT_FDCWD, part, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE) {
        // A file system that can't; there the look at the beginning has to do.
        Err(Errno::EINVAL | Errno::ENOSYS) => fs::rename(part, target),
        result => Ok(result?),
    }
}

/// Those that nobody is writing.
fn remove_other_parts(target: &Path) {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = stem(target);
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| is_part(&entry.file_name(), &stem)) {
        if File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_known_by_its_name() {
        let target = Path::new("some/film");
        let path = part_path(target, "one");
        assert_ne!(path, part_path(target, "two"));
        assert_eq!(path.parent(), target.parent());
        assert!(is_part(path.file_name().unwrap(), &stem(target)), "{path:?}");
        for name in ["film", "film.part", "film.0123456789abcde.part", "other.0123456789abcdef.part"] {
            assert!(!is_part(OsStr::new(name), &stem(target)), "{name}");
        }
        let long = PathBuf::from("x".repeat(255));
        assert!(part_path(&long, "one").as_os_str().len() <= 255);
    }
}
