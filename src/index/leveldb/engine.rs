//! The engine's thread: takes the changes that are durable in the logs already, and compacts.
//!
//! Nobody waits for it, as long as it isn't too far behind.

use super::env::GuardedEnv;
use super::guard::{Guard, lock};
use super::options::Options;
use super::publish::{Published, Publisher};
use super::{engine_error, open_with};
use crate::index::table::TableError;
use rusty_leveldb::{DB, WriteBatch};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A MANIFEST is only shortened by opening, and replaying it takes time with the square of its length: 6.5 MB took
/// 7.5 s. At 1 MB it is 0.2 s.
pub(super) const LONG_MANIFEST_BYTES: usize = 1 << 20;

/// Where no quiet moment comes, the engine is opened again in a busy one, when it is this many times overdue.
const OVERDUE: usize = 8;

/// With more than this not taken yet, writers are slowed down: some hundred milliseconds of the engine's work.
const BEHIND_BYTES: usize = 1 << 20;

/// By how much. Lookups come between two writes and should not notice.
const SLOW_DOWN: Duration = Duration::from_millis(5);

/// With more than this, they wait: what isn't taken is in memory.
pub(super) const FULL_BYTES: usize = 4 << 20;

/// How often who waits for room looks whether the engine has stopped.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How much the thread stands back behind lookups and clients, as in nice(1): a third of a core that both want. Who
/// writes more than it then can take is slowed down.
const NICE: i32 = 5;

/// A key above all: flushing in its range flushes everything and compacts nothing.
const ABOVE_ALL: [u8; 32] = [u8::MAX; 32];

enum Work {
    Write { batch: WriteBatch, last: u64, bytes: usize },
    Close,
}

/// The thread, seen from the owner of the index.
pub(super) struct Engine {
    work: Sender<Work>,
    thread: Option<JoinHandle<()>>,
    backlog: Arc<Backlog>,
    guard: Arc<Guard>,
}

/// What was handed over and not taken yet.
#[derive(Default)]
struct Backlog {
    bytes: Mutex<usize>,
    taken: Condvar,
    /// Nothing more is to be taken; it is in the logs.
    is_abandoned: AtomicBool,
}

impl Engine {
    /// Opens the directory in a thread of its own, and makes an index there if `create`. What there is to read stands
    /// in `published` then.
    pub(super) fn start(
        dir: &Path,
        options: &Options,
        create: bool,
        guard: &Arc<Guard>,
        published: &Arc<Published>,
    ) -> Result<Engine, TableError> {
        let (work, orders) = channel();
        let (opened_tx, opened) = channel();
        let backlog = Arc::new(Backlog::default());
        let owned = (dir.to_owned(), options.clone(), guard.clone(), published.clone(), backlog.clone());
        let run = move || {
            let (dir, options, guard, published, backlog) = owned;
            // On Linux this is about the calling thread, and those that it begins.
            if let Err(err) = rustix::process::nice(NICE) {
                log::debug!("the engine can't stand back: {err}");
            }
            let publisher = Rc::new(Publisher::new(&dir, &guard, &published));
            let mut running =
                Running { db: None, dir, options, guard, publisher, published, backlog, manifest_base: 0 };
            let opened = running.open(create);
            let is_open = opened.is_ok();
            running.publisher.opened();
            if opened_tx.send(opened).is_ok() && is_open {
                running.run(&orders);
            }
        };
        let thread = std::thread::Builder::new().name("index engine".into()).spawn(run);
        let thread = thread.map_err(|err| guard.stop_for(format!("start the engine's thread: {err}")))?;
        let engine = Engine { work, thread: Some(thread), backlog, guard: guard.clone() };
        opened.recv().unwrap_or_else(|_| Err(engine.gone()))?;
        if published.is_empty() {
            return Err(guard.stop_for_damage("the engine didn't say which tables there are".into()));
        }
        Ok(engine)
    }

    /// Hands a batch over, whose last change has the number `last`. Waits if the engine is behind.
    pub(super) fn feed(&self, batch: WriteBatch, last: u64, bytes: usize) -> Result<(), TableError> {
        self.wait_for_room()?;
        *lock(&self.backlog.bytes) += bytes;
        self.order(Work::Write { batch, last, bytes })
    }

    /// Has everything flushed into tables, and ends.
    pub(super) fn close(mut self) -> Result<(), TableError> {
        self.order(Work::Close)?;
        self.join();
        self.guard.check()
    }

    fn order(&self, work: Work) -> Result<(), TableError> {
        self.work.send(work).map_err(|_| self.gone())
    }

    /// It only ends by itself after an error.
    fn gone(&self) -> TableError {
        self.guard.stop_for("the engine's thread has ended".into())
    }

    fn wait_for_room(&self) -> Result<(), TableError> {
        let mut bytes = lock(&self.backlog.bytes);
        if *bytes > BEHIND_BYTES {
            let waited =
                self.backlog.taken.wait_timeout_while(bytes, SLOW_DOWN, |bytes| *bytes > BEHIND_BYTES);
            bytes = waited.expect("nobody panics with it").0;
        }
        while *bytes > FULL_BYTES {
            self.guard.check()?;
            let waited =
                self.backlog.taken.wait_timeout_while(bytes, LOOK_INTERVAL, |bytes| *bytes > FULL_BYTES);
            bytes = waited.expect("nobody panics with it").0;
        }
        Ok(())
    }

    fn join(&mut self) {
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Without [`Engine::close`], what isn't taken stays in the logs.
impl Drop for Engine {
    fn drop(&mut self) {
        self.backlog.is_abandoned.store(true, Ordering::Release);
        let _ = self.work.send(Work::Close);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The thread, seen from inside.
struct Running {
    /// `None` only while it is opened, and after an error in that.
    db: Option<DB>,
    dir: PathBuf,
    options: Options,
    guard: Arc<Guard>,
    publisher: Rc<Publisher>,
    published: Arc<Published>,
    backlog: Arc<Backlog>,
    /// Bytes of the MANIFEST when it was begun.
    manifest_base: usize,
}

impl Running {
    fn open(&mut self, create: bool) -> Result<(), TableError> {
        let env = GuardedEnv::publishing(self.guard.clone(), self.publisher.clone());
        self.db = Some(open_with(env, &self.dir, &self.options, &self.guard, create)?);
        self.manifest_base = self.guard.manifest_bytes();
        Ok(())
    }

    /// Works until it is told to close, or something fails, which the guard then knows.
    fn run(mut self, orders: &Receiver<Work>) {
        while let Ok(work) = orders.recv() {
            let is_abandoned = self.backlog.is_abandoned.load(Ordering::Acquire);
            let done = match work {
                _ if is_abandoned => return,
                Work::Write { batch, last, bytes } => self.write(batch, last, bytes),
                Work::Close => {
                    let _ = self.flush();
                    return;
                }
            };
            if let Err(err) = done {
                // Not every error went through the guard, and somebody may be waiting for room.
                self.guard.stop_for(err.to_string());
                self.backlog.taken.notify_all();
                return;
            }
        }
    }

    fn write(&mut self, batch: WriteBatch, last: u64, bytes: usize) -> Result<(), TableError> {
        // What it calls its log goes nowhere: the batch is durable.
        let written = self.db()?.write(batch, false);
        written.map_err(|err| engine_error(&self.guard, "write", err))?;
        self.guard.check()?;
        self.published.set_fed(last);
        let mut behind = lock(&self.backlog.bytes);
        *behind -= bytes;
        // What opening wrote itself, one entry for each table, gets no shorter.
        let grown = self.guard.manifest_bytes() - self.manifest_base;
        let overdue = grown / LONG_MANIFEST_BYTES.max(self.manifest_base);
        let is_time = overdue >= OVERDUE || (overdue >= 1 && *behind == 0);
        drop(behind);
        self.backlog.taken.notify_all();
        if is_time { self.reopen() } else { Ok(()) }
    }

    fn reopen(&mut self) -> Result<(), TableError> {
        self.flush()?;
        drop(self.db.take());
        self.guard.check()?;
        self.open(false)
    }

    /// Makes a table of what was taken since the last one.
    fn flush(&mut self) -> Result<(), TableError> {
        let flushed = self.db()?.compact_range(&ABOVE_ALL, &ABOVE_ALL);
        flushed.map_err(|err| engine_error(&self.guard, "flush", err))?;
        self.guard.check()
    }

    fn db(&mut self) -> Result<&mut DB, TableError> {
        self.guard.check()?;
        self.db.as_mut().ok_or_else(|| self.guard.stop_for("the index is closed".into()))
    }
}
