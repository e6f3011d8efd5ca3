//! A volume's directory on this machine, read in place, for when no nginx serves it any more. Shows what nginx would
//! show: symbolic links are followed, names that begin with a dot are passed over. Nothing here writes.
//!
//! Calls block for as long as the drive does; only jobs that have a thread of their own use them.

use super::{Content, DirEntry, Download, EntryKind, VolumeError};
use crate::model::{Md5, Replica};
use bytes::Bytes;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Read at once: large enough for a drive, small enough for many files at the same time.
const CHUNK_BYTES: usize = 256 << 10;

/// A blob on its way from wherever it lies.
pub enum Body {
    /// From a server.
    Served(Box<Download>),
    /// From a directory.
    Local(LocalFile),
}

/// An open file of a volume's directory.
pub struct LocalFile {
    file: File,
    replica: Replica,
    path: String,
}

impl Body {
    /// The next bytes; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, VolumeError> {
        match self {
            Body::Served(download) => download.next().await,
            Body::Local(file) => file.next(),
        }
    }

    /// Reads to the end, and tells what the file contains; the MD5 is always there. `meter` is told how many bytes came, and
    /// waited for before more are read.
    pub async fn digest(mut self, meter: &impl AsyncFn(u64)) -> Result<Content, VolumeError> {
        let (mut digest, mut size) = (md5::Context::new(), 0);
        while let Some(chunk) = self.next().await? {
            size += chunk.len() as u64;
            digest.consume(&chunk);
            meter(chunk.len() as u64).await;
        }
        Ok(Content { size, md5: Some(Md5(digest.finalize().0)) })
    }
}

impl LocalFile {
    /// Opens the file at `path` (beginning with `/`) of a place that [is a directory](Replica::directory); `None` if there
    /// is none.
    pub fn open(replica: &Replica, path: &str) -> Result<Option<LocalFile>, VolumeError> {
        match File::open(full_path(replica, path)) {
            Ok(file) => Ok(Some(LocalFile { file, replica: replica.clone(), path: path.to_owned() })),
            Err(err) if is_absent(&err) => Ok(None),
            Err(err) => Err(unreadable(replica, path, &err)),
        }
    }

    /// The whole content, of at most `limit_bytes`.
    pub fn collect(mut self, limit_bytes: usize) -> Result<Bytes, VolumeError> {
        let mut content = Vec::new();
        let read = (&mut self.file).take(limit_bytes as u64 + 1).read_to_end(&mut content);
        match read {
            Err(err) => Err(unreadable(&self.replica, &self.path, &err)),
            Ok(size) if size > limit_bytes => {
                Err(VolumeError::TooLarge { replica: self.replica, path: self.path, limit_bytes })
            }
            Ok(_) => Ok(content.into()),
        }
    }

    fn next(&mut self) -> Result<Option<Bytes>, VolumeError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match self.file.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(size) => {
                    chunk.truncate(size);
                    return Ok(Some(chunk.into()));
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(unreadable(&self.replica, &self.path, &err)),
            }
        }
    }
}

/// The entries that `is_wanted` of the directory `path` (without `/` at its end), which has to exist, of a place that [is a
/// directory](Replica::directory); the others are never in memory together. And why other entries can't be looked at.
pub fn list_directory(
    replica: &Replica,
    path: &str,
    is_wanted: impl Fn(&DirEntry) -> bool,
) -> Result<(Vec<DirEntry>, Vec<VolumeError>), VolumeError> {
    let entries = fs::read_dir(full_path(replica, path)).map_err(|err| unreadable(replica, path, &err))?;
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for entry in entries {
        let entry = entry.map_err(|err| unreadable(replica, path, &err))?;
        let name = entry.file_name().as_bytes().to_vec();
        if name.starts_with(b".") {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(metadata) => {
                let entry = DirEntry { name, kind: kind_of(&metadata) };
                if is_wanted(&entry) {
                    found.push(entry);
                }
            }
            // Removed since it was listed, if it isn't a link that leads nowhere.
            Err(err) if is_absent(&err) && fs::symlink_metadata(entry.path()).is_err() => {}
            Err(err) => faults.push(unreadable(replica, &format!("{path}/{}", name.escape_ascii()), &err)),
        }
    }
    Ok((found, faults))
}

fn full_path(replica: &Replica, path: &str) -> PathBuf {
    PathBuf::from(format!("{replica}{path}"))
}

fn kind_of(metadata: &Metadata) -> EntryKind {
    match metadata {
        file if file.is_file() => EntryKind::File { size: file.len() },
        dir if dir.is_dir() => EntryKind::Directory,
        _ => EntryKind::Other,
    }
}

fn is_absent(err: &io::Error) -> bool {
    matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn unreadable(replica: &Replica, path: &str, err: &io::Error) -> VolumeError {
    VolumeError::Unreadable { replica: replica.clone(), path: path.to_owned(), reason: err.to_string() }
}
