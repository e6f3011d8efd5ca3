//! The index's own logs, in LevelDB's format: what makes a write durable before the engine has taken it.
//!
//! The engine's logs would do, but it only writes them between two compactions. Ours have numbers far ahead of its
//! files, so that every LevelDB, ours and others, replays all of them when it opens the directory: first what the
//! tables have already, which changes nothing, then the rest. They are ours to remove, once their changes are in
//! tables.

use super::files::Writer;
use super::guard::Guard;
use super::journal;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So many files ahead of the engine: it makes some hundred a second at most, and a log is gone as soon as the engine
/// has made tables of it, which it must before it takes [`super::engine::FULL_BYTES`] more.
const AHEAD: u64 = 1 << 20;

/// The logs of one opened index.
pub(super) struct Logs {
    dir: PathBuf,
    guard: Arc<Guard>,
    limit_bytes: usize,
    current: Option<Log>,
    complete: VecDeque<Log>,
    last_number: u64,
}

struct Log {
    path: PathBuf,
    /// The last change in it.
    last: u64,
    bytes: usize,
    /// Open only while it is written.
    writer: Option<Writer>,
}

impl Logs {
    /// None is made before there is something to write. A new one is begun after `limit_bytes`.
    pub(super) fn new(dir: &Path, limit_bytes: usize, guard: &Arc<Guard>) -> Logs {
        let (dir, guard) = (dir.to_owned(), guard.clone());
        Logs { dir, guard, limit_bytes, current: None, complete: VecDeque::new(), last_number: 0 }
    }

    /// Adds a batch, whose last change is number `last`, and returns when it is durable. The engine's files have
    /// numbers below `next_file`.
    pub(super) fn append(&mut self, batch: &[u8], last: u64, next_file: u64) -> io::Result<()> {
        if self.current.as_ref().is_none_or(|log| log.bytes >= self.limit_bytes) {
            self.begin(next_file)?;
        }
        if next_file > self.last_number {
            return Err(io::Error::other("the engine has overtaken the log's number"));
        }
        let log = self.current.as_mut().expect("just begun");
        let record = journal::encode(batch, log.bytes);
        let writer = log.writer.as_mut().expect("open while it is the current one");
        writer.append(&record)?;
        (log.bytes, log.last) = (log.bytes + record.len(), last);
        Ok(())
    }

    fn begin(&mut self, next_file: u64) -> io::Result<()> {
        let number = (next_file + AHEAD).max(self.last_number + 1);
        let path = self.dir.join(format!("{number:06}.log"));
        let writer = Some(Writer::create(&path, &self.guard, None)?);
        let before = self.current.replace(Log { path, last: 0, bytes: 0, writer });
        self.complete.extend(before.map(|log| Log { writer: None, ..log }));
        self.last_number = number;
        Ok(())
    }

    /// Removes the logs of which tables have everything: the changes up to `flushed`.
    pub(super) fn remove_flushed(&mut self, flushed: u64) -> io::Result<()> {
        while let Some(log) = self.complete.front().filter(|log| log.last <= flushed) {
            self.guard.delete(&log.path)?;
            self.complete.pop_front();
        }
        Ok(())
    }

    /// Removes also the one that is written now, after the last write.
    pub(super) fn end(mut self, flushed: u64) -> io::Result<()> {
        self.complete.extend(self.current.take());
        self.remove_flushed(flushed)
    }
}
