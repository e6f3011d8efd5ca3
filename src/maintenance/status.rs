//! How far a job is and what it found: written by the job's threads, read by whoever shows it.

use super::finding::{Finding, Kind};
use crate::model::{Key, Replica};
use log::{info, warn};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Findings that are kept; all are counted and logged.
const MAX_FINDINGS: usize = 1000;

/// A job at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What it is doing, as `reading the volumes`.
    pub phase: String,
    /// Steps that are done.
    pub done: u64,
    /// Steps that there are, never fewer than are done; 0 while that isn't known.
    pub total: u64,
    /// Keys that are done.
    pub keys: u64,
    /// Bytes of blobs that were read or moved.
    pub bytes: u64,
    /// How many findings are left as they were found.
    pub problems: u64,
    /// How many findings the job has mended.
    pub mended: u64,
    /// All findings, mended or not, by their kind.
    pub kinds: BTreeMap<Kind, u64>,
    /// The first thousand of those that are left.
    pub findings: Vec<Finding>,
    /// Seconds since it began.
    pub seconds: f64,
    /// Seconds until the phase is done, at its rate so far.
    pub eta_seconds: Option<f64>,
}

/// The counters behind a [`Status`].
pub struct Progress {
    begun: Instant,
    done: AtomicU64,
    total: AtomicU64,
    keys: AtomicU64,
    bytes: AtomicU64,
    problems: AtomicU64,
    mended: AtomicU64,
    told: Mutex<Told>,
    listener: Option<Listener>,
}

type Listener = Box<dyn Fn(&Finding) + Send + Sync>;

#[derive(Default)]
struct Told {
    phase: String,
    /// When the phase began; `None` before the first.
    since: Option<Instant>,
    kinds: BTreeMap<Kind, u64>,
    findings: Vec<Finding>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            begun: Instant::now(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            problems: AtomicU64::new(0),
            mended: AtomicU64::new(0),
            told: Mutex::default(),
            listener: None,
        }
    }
}

impl Progress {
    /// A progress that tells `listener` every finding, instead of the log.
    pub fn told_to(listener: impl Fn(&Finding) + Send + Sync + 'static) -> Progress {
        Progress { listener: Some(Box::new(listener)), ..Progress::default() }
    }

    /// Begins a phase of `total` steps; 0 where that isn't known.
    pub fn begin(&self, phase: &str, total: u64) {
        let mut told = self.told();
        (told.phase, told.since) = (phase.to_owned(), Some(Instant::now()));
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// One more step is done.
    pub fn step(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// `count` more keys are done.
    pub fn add_keys(&self, count: u64) {
        self.keys.fetch_add(count, Ordering::Relaxed);
    }

    /// `count` more bytes of blobs were read or moved.
    pub fn add_bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    /// Something is wrong and stays so: the job does not end with success.
    pub fn problem(&self, key: Option<&Key>, place: Option<&Replica>, what: impl fmt::Display) {
        self.report(Finding::new(Kind::Other, key, place, what));
    }

    /// Tells a finding, mended or not.
    pub fn report(&self, finding: Finding) {
        match (&self.listener, finding.mended) {
            (Some(listener), _) => listener(&finding),
            (None, true) => info!("{finding}"),
            (None, false) => warn!("{finding}"),
        }
        let mut told = self.told();
        *told.kinds.entry(finding.kind).or_default() += 1;
        if finding.mended {
            self.mended.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.problems.fetch_add(1, Ordering::Relaxed);
        if told.findings.len() < MAX_FINDINGS {
            told.findings.push(finding);
        }
    }

    /// Everything is looked at anew, so that what is still wrong is told once more.
    pub(super) fn forget_findings(&self) {
        let mut told = self.told();
        (told.kinds, told.findings) = (BTreeMap::new(), Vec::new());
        self.problems.store(0, Ordering::Relaxed);
        self.mended.store(0, Ordering::Relaxed);
    }

    /// Something that a person may want to know and that is no fault.
    pub fn note(&self, what: impl fmt::Display) {
        info!("{what}");
    }

    /// How many problems there are.
    pub fn problems(&self) -> u64 {
        self.problems.load(Ordering::Relaxed)
    }

    /// The job at this moment.
    pub fn status(&self) -> Status {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let told = self.told();
        let (done, total) = (load(&self.done), load(&self.total));
        // Clients make more while it runs.
        let total = if total > 0 { total.max(done) } else { 0 };
        let phase_seconds = told.since.unwrap_or(self.begun).elapsed().as_secs_f64();
        let left = (total - done.min(total)) as f64;
        Status {
            phase: told.phase.clone(),
            done,
            total,
            keys: load(&self.keys),
            bytes: load(&self.bytes),
            problems: load(&self.problems),
            mended: load(&self.mended),
            kinds: told.kinds.clone(),
            findings: told.findings.clone(),
            seconds: self.begun.elapsed().as_secs_f64(),
            eta_seconds: (done > 0 && total > 0).then(|| phase_seconds / done as f64 * left),
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_status_tells_what_was_counted() {
        let progress = Progress::default();
        progress.begin("reading", 4);
        progress.step();
        progress.add_keys(3);
        progress.problem(Key::new(*b"/a b").ok().as_ref(), None, "is gone");
        let status = progress.status();
        assert_eq!((status.phase.as_str(), status.done, status.total, status.keys), ("reading", 1, 4, 3));
        assert_eq!((status.problems, status.findings[0].to_string()), (1, "/a%20b: is gone".to_owned()));
        assert!(status.eta_seconds.is_some());
    }

    #[test]
    fn the_time_left_is_that_of_the_phase_and_no_more_is_done_than_there_is() {
        let progress = Progress { begun: Instant::now() - Duration::from_secs(3600), ..Progress::default() };
        progress.begin("reading", 3);
        progress.step();
        let left = progress.status().eta_seconds.expect("there is a rate");
        assert!(left < 60.0, "{left} s after an hour in another phase");
        (0..4).for_each(|_| progress.step());
        let status = progress.status();
        assert_eq!((status.done, status.total, status.eta_seconds), (5, 5, Some(0.0)));
        assert!(status.seconds >= 3600.0);
    }
}
