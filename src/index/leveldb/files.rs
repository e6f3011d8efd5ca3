//! The index's open files: writers that can make their bytes durable, and table readers that check what they read.

use super::SyncMode;
use super::guard::{Guard, Operation};
use super::journal;
use super::publish::Publisher;
use super::sstable::{self, FOOTER_BYTES, Outline, TRAILER_BYTES};
use rusty_leveldb::env::RandomAccess;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// What a file is for, as LevelDB names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Log,
    Table,
    Manifest,
    Other,
}

impl Kind {
    pub(super) fn of(path: &Path) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name.split_once('.') {
            Some((_, "log")) => Self::Log,
            Some((_, "ldb" | "sst")) => Self::Table,
            _ if name.starts_with("MANIFEST-") => Self::Manifest,
            _ => Self::Other,
        }
    }
}

/// Appends to a new file. The engine's own never reach the disk by themselves: here `flush` means durable,
/// and so does dropping. Only tables may be a little later, but before the MANIFEST names them.
pub(super) struct Writer {
    file: File,
    path: PathBuf,
    kind: Kind,
    is_dirty: bool,
    /// A log's name is made durable by itself, so that no write waits for the names of tables.
    is_new: bool,
    guard: Arc<Guard>,
    /// Reads the MANIFEST along.
    publisher: Option<Rc<Publisher>>,
}

impl Writer {
    pub(super) fn create(
        path: &Path,
        guard: &Arc<Guard>,
        publisher: Option<Rc<Publisher>>,
    ) -> io::Result<Self> {
        let kind = Kind::of(path);
        let open = || OpenOptions::new().create(true).truncate(true).write(true).open(path);
        let file = guard.perform(Operation::Create(path), open)?;
        match kind {
            Kind::Manifest => {
                guard.begin_manifest();
                guard.note_new_file();
                publisher.iter().for_each(|publisher| publisher.begin());
            }
            Kind::Table => guard.note_new_file(),
            Kind::Log | Kind::Other => {}
        }
        let (path, guard) = (path.to_owned(), guard.clone());
        Ok(Self { file, path, kind, is_dirty: false, is_new: true, guard, publisher })
    }

    /// Adds `bytes` and returns when they are durable.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)?;
        self.flush()
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn settle_name(&mut self) -> io::Result<()> {
        match self.kind {
            Kind::Log if std::mem::take(&mut self.is_new) => self.guard.sync_directory(self.directory()),
            Kind::Log => Ok(()),
            _ => self.guard.settle_directory(self.directory()),
        }
    }

    /// `CURRENT` is written beside and renamed: the rename syncs it, if it changes anything.
    fn is_synced_by_others(&self) -> bool {
        self.kind == Kind::Other || (self.kind == Kind::Log && self.guard.sync() == SyncMode::Never)
    }
}

impl Write for Writer {
    /// Writes all of `bytes`: the engine's log doesn't look at the count.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.kind == Kind::Manifest {
            // The system may write this down at any time: what it names must be there before.
            self.guard.settle_tables()?;
            self.guard.settle_directory(self.directory())?;
        }
        let operation = Operation::Write { path: &self.path, bytes: bytes.len() };
        self.guard.perform(operation, || self.file.write_all(bytes))?;
        self.is_dirty = true;
        if self.kind == Kind::Manifest {
            self.guard.count_manifest(bytes.len());
            self.publisher.iter().for_each(|publisher| publisher.append(bytes));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.is_dirty || self.is_synced_by_others() {
            return Ok(());
        }
        if self.kind == Kind::Table {
            let file = self.guard.perform(Operation::Sync(&self.path), || self.file.try_clone())?;
            self.guard.sync_later(&self.path, file)?;
        } else {
            self.settle_name()?;
            self.guard.perform(Operation::Sync(&self.path), || self.file.sync_data())?;
        }
        self.is_dirty = false;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // An error is remembered by the guard.
        let _ = self.flush();
    }
}

/// Reads blocks of a table. The engine makes nothing of a block that it finds damaged, so the checksums are
/// verified here too, where the error is remembered.
pub(super) struct TableReader {
    file: File,
    path: PathBuf,
    outline: Outline,
    guard: Arc<Guard>,
}

impl TableReader {
    pub(super) fn open(path: &Path, guard: &Arc<Guard>) -> io::Result<Self> {
        let (file, outline) = guard.perform(Operation::Open(path), || {
            let file = File::open(path)?;
            let outline = sstable::outline(&file)?;
            Ok((file, outline))
        })?;
        Ok(Self { file, path: path.to_owned(), outline, guard: guard.clone() })
    }

    fn read_verified(&self, offset: usize, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset as u64)?;
        let is_footer = offset + FOOTER_BYTES == self.outline.file_bytes;
        if is_footer || sstable::is_sound(into) || self.is_sound_with_trailer(offset, into) {
            return Ok(());
        }
        let damage = format!("block at byte {offset} has a wrong checksum");
        Err(io::Error::new(io::ErrorKind::InvalidData, damage))
    }

    /// Filters are the only blocks that the engine reads without their trailers.
    fn is_sound_with_trailer(&self, offset: usize, bytes: &[u8]) -> bool {
        let mut trailer = [0; TRAILER_BYTES];
        let read = self.file.read_exact_at(&mut trailer, (offset + bytes.len()) as u64);
        read.is_ok() && sstable::is_sound(&[bytes, &trailer].concat())
    }
}

impl RandomAccess for TableReader {
    fn read_at(&self, offset: usize, into: &mut [u8]) -> rusty_leveldb::Result<usize> {
        self.guard.perform(Operation::Read(&self.path), || self.read_verified(offset, into))?;
        Ok(into.len())
    }
}

/// Opens a file that is read from its beginning. A journal is walked first, and handed out without the rest of a
/// write that a crash interrupted. A file that isn't there is no fault: the engine reports it.
pub(super) fn read_sequentially(path: &Path, guard: &Guard) -> io::Result<Box<dyn Read>> {
    if !path.try_exists()? {
        return Err(io::ErrorKind::NotFound.into());
    }
    let is_journal = matches!(Kind::of(path), Kind::Log | Kind::Manifest);
    let read = || if is_journal { read_journal(path) } else { fs::read(path) };
    Ok(Box::new(Cursor::new(guard.perform(Operation::Open(path), read)?)))
}

fn read_journal(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = fs::read(path)?;
    let journal = journal::walk(&bytes);
    if let Some(at) = journal.damaged_at {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("record at byte {at} is damaged")));
    }
    bytes.truncate(journal.sound_bytes);
    Ok(bytes)
}
