//! What is verified before the engine may open a directory.
//!
//! The engine opens almost anything and says Ok: with CURRENT gone it makes a new database over the old one and
//! deletes its tables; with a damaged log it drops what follows; at a damaged footer it panics; an empty table it
//! skips. Each of these is looked for here, and nothing is changed before all of it is found in order.

use super::files::Kind;
use super::journal;
use super::manifest::{self, Manifest, TableEntry};
use super::sstable;
use crate::index::table::TableError;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Who wrote the tables of a directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nothing is in it, or the beginning of a creation that a crash interrupted.
    Nobody,
    /// This program: every table has the filter that makes lookups exact.
    Ours,
    /// Another program, so that it must be copied first. The name of the first such table.
    Foreign(String),
}

/// What an interrupted creation may leave. No log and no table: so no record can have been in it.
const CREATION_LEFTOVERS: [&str; 5] = ["LOCK", "LOG", "LOG.old", "MANIFEST-000001", "000001.dbtmp"];

/// Whether a file says nothing of what a directory is: also where an index is claimed that isn't made then, its lock stays.
pub(super) fn is_leftover(name: &str) -> bool {
    CREATION_LEFTOVERS.contains(&name)
}

/// Checks all that can be checked without reading every record.
pub(super) fn inspect(dir: &Path) -> Result<Origin, TableError> {
    let names = file_names(dir)?;
    if !names.iter().any(|name| name == "CURRENT") {
        let stranger = names.iter().find(|name| !is_leftover(name));
        return stranger.map_or(Ok(Origin::Nobody), |name| Err(no_index(dir, name)));
    }
    let manifest = read_manifest(dir)?;
    check_logs(dir, &names, &manifest)?;
    check_tables(dir, &manifest)
}

/// The names in a directory. Names that are not Unicode are nobody's of LevelDB.
pub(super) fn file_names(dir: &Path) -> Result<Vec<String>, TableError> {
    let entries = fs::read_dir(dir).map_err(|err| failed(dir, err))?;
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<io::Result<_>>().map_err(|err| failed(dir, err))
}

/// The size of all tables together.
pub(super) fn table_bytes(dir: &Path) -> Result<usize, TableError> {
    let tables =
        file_names(dir)?.into_iter().map(|name| dir.join(name)).filter(|path| Kind::of(path) == Kind::Table);
    let size =
        |path: PathBuf| fs::metadata(&path).map(|meta| meta.len() as usize).map_err(|err| failed(&path, err));
    tables.map(size).sum()
}

/// Reads the MANIFEST that CURRENT names.
pub(super) fn read_manifest(dir: &Path) -> Result<Manifest, TableError> {
    let current = fs::read_to_string(dir.join("CURRENT")).map_err(|err| failed(&dir.join("CURRENT"), err))?;
    let name = current.strip_suffix('\n').filter(|name| Kind::of(Path::new(name)) == Kind::Manifest);
    let name = name.ok_or_else(|| corrupt(&dir.join("CURRENT"), "doesn't name a MANIFEST"))?;
    let path = dir.join(name);
    let bytes = fs::read(&path).map_err(|err| failed(&path, err))?;
    manifest::parse(&bytes).map_err(|reason| corrupt(&path, reason))
}

/// The logs that will be replayed, in their order.
pub(super) fn logs(dir: &Path, names: &[String], manifest: &Manifest) -> Vec<PathBuf> {
    let number = |name: &String| name.strip_suffix(".log")?.parse::<u64>().ok();
    let is_live = |number: u64| number >= manifest.log_number || number == manifest.previous_log_number;
    let mut logs: Vec<(u64, PathBuf)> = names
        .iter()
        .filter_map(|name| Some((number(name)?, dir.join(name))))
        .filter(|(number, _)| is_live(*number))
        .collect();
    logs.sort();
    logs.into_iter().map(|(_, path)| path).collect()
}

fn check_logs(dir: &Path, names: &[String], manifest: &Manifest) -> Result<(), TableError> {
    let mut interrupted: Option<PathBuf> = None;
    for path in logs(dir, names, manifest) {
        let bytes = fs::read(&path).map_err(|err| failed(&path, err))?;
        let journal = journal::walk(&bytes);
        if let Some(at) = journal.damaged_at {
            return Err(corrupt(
                &path,
                format!("has a damaged record at byte {at}, and sound ones behind it"),
            ));
        }
        // A log is only begun when the one before it is complete.
        if let Some(earlier) = interrupted.filter(|_| !journal.records.is_empty()) {
            return Err(corrupt(&earlier, "ends with a damaged record, and a later log goes on"));
        }
        let rest = bytes.len() - journal.sound_bytes;
        if rest > 0 {
            log::warn!("the last {rest} bytes of {path:?} are a write that was interrupted, and is dropped");
        }
        interrupted = (rest > 0).then_some(path);
    }
    Ok(())
}

fn check_tables(dir: &Path, manifest: &Manifest) -> Result<Origin, TableError> {
    let mut origin = Origin::Ours;
    for (&number, TableEntry { size, .. }) in &manifest.tables {
        let path = table_path(dir, number);
        let file = File::open(&path).map_err(|err| failed(&path, err))?;
        let outline = sstable::outline(&file).map_err(|err| failed(&path, err))?;
        if outline.file_bytes != *size {
            return Err(corrupt(&path, format!("has {} bytes instead of {size}", outline.file_bytes)));
        }
        let is_ours = outline.our_filter.is_some() && path.extension().is_some_and(|kind| kind == "ldb");
        if !is_ours && origin == Origin::Ours {
            origin = Origin::Foreign(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    Ok(origin)
}

/// Where a table lies: old writers named it `.sst`, which the engine doesn't open.
pub(super) fn table_path(dir: &Path, number: u64) -> PathBuf {
    let old = dir.join(format!("{number:06}.sst"));
    if old.exists() { old } else { dir.join(format!("{number:06}.ldb")) }
}

fn no_index(dir: &Path, stranger: &str) -> TableError {
    let reason = format!(
        "it has no file CURRENT, but a file {stranger:?}. If this is an index that lost its CURRENT, restore it \
         from a backup, or give an empty directory and run rebuild; a new index is only made in an empty directory"
    );
    TableError::Refused { dir: dir.to_owned(), reason }
}

fn corrupt(path: &Path, what: impl std::fmt::Display) -> TableError {
    TableError::Corrupt { reason: format!("{path:?} {what}") }
}

/// A file that is missing or too short is damage; the rest are the system's errors.
fn failed(path: &Path, err: io::Error) -> TableError {
    match err.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => corrupt(path, err),
        io::ErrorKind::NotFound => corrupt(path, "is missing"),
        _ => TableError::Io { reason: format!("read {path:?}: {err}") },
    }
}
