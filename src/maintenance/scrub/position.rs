//! Where a scrub is, so that one that takes weeks goes on after a restart of the server.
//!
//! Several threads work on pages that end in any order; the position is the end of the last page before which all are
//! done.

use super::Origin;
use crate::index::now_us;
use crate::maintenance::pages::{Cursor, Records, beginning};
use crate::maintenance::state::{ScrubPosition, StateFile};
use crate::model::Key;
use log::warn;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

/// How often the position is kept.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// The position of a scrub; kept in [`StateFile`] only if the server goes on by itself.
pub(super) struct Position {
    origin: Origin,
    begun_us: u64,
    /// What was found before the restart.
    earlier: Option<ScrubPosition>,
    cursor: AsyncMutex<Cursor>,
    pages: Mutex<Pages>,
}

struct Pages {
    /// The number of the first page in the queue.
    first: u64,
    /// The last key of each page, and whether the page is done.
    open: VecDeque<(Key, bool)>,
    kept: Instant,
}

impl Position {
    /// The beginning, or where the last scheduled scrub was.
    pub(super) fn new(origin: Origin, state: &StateFile) -> Position {
        let kept = state.get().scrub_at.filter(|_| origin == Origin::Scheduled);
        let key = kept.as_ref().and_then(|at| Key::from_request_path(&at.key).ok());
        let cursor = key.map_or_else(beginning, |key| Some(Bound::Excluded(key.as_bytes().to_vec())));
        Position {
            origin,
            begun_us: kept.as_ref().map_or_else(now_us, |at| at.begun_us),
            earlier: kept,
            cursor: AsyncMutex::new(cursor),
            pages: Mutex::new(Pages { first: 0, open: VecDeque::new(), kept: Instant::now() }),
        }
    }

    /// What an interrupted scrub had found when its position was kept.
    pub(super) fn earlier(&self) -> Option<&ScrubPosition> {
        self.earlier.as_ref()
    }

    pub(super) fn begun_us(&self) -> u64 {
        self.begun_us
    }

    /// Where the next page begins; held while it is read.
    pub(super) async fn cursor(&self) -> MutexGuard<'_, Cursor> {
        self.cursor.lock().await
    }

    /// A page is begun; answers its number. Called with the cursor held, so that pages come in order.
    pub(super) fn begin(&self, records: &Records) -> u64 {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        // An empty page is nobody's last key.
        if let Some((last, _)) = records.last() {
            pages.open.push_back((last.clone(), false));
        }
        pages.first + pages.open.len() as u64 - u64::from(!records.is_empty())
    }

    /// A page is done. Keeps the position now and then, with what was `found` so far.
    pub(super) fn end(&self, page: u64, state: &StateFile, found: impl FnOnce() -> ScrubPosition) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let index = (page - pages.first) as usize;
        let Some(entry) = pages.open.get_mut(index) else { return };
        entry.1 = true;
        let mut last = None;
        while pages.open.front().is_some_and(|(_, done)| *done) {
            last = pages.open.pop_front().map(|(key, _)| key);
            pages.first += 1;
        }
        let Some(key) =
            last.filter(|_| self.origin == Origin::Scheduled && pages.kept.elapsed() >= KEEP_EVERY)
        else {
            return;
        };
        pages.kept = Instant::now();
        let at = ScrubPosition { begun_us: self.begun_us, key: key.to_string(), ..found() };
        if let Err(err) = state.change(|now| now.scrub_at = Some(at)) {
            warn!("keeping the position of the scrub: {err}");
        }
    }
}
