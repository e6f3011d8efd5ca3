//! How far a job is and what it found: written by the job's threads, read by whoever shows it.

use super::Pace;
use crate::model::{Key, Replica};
use actix_rt::time::sleep;
use log::{info, warn};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How soon a job that waits notices that it is to end, or has another rate.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The longest wait within a blob. nginx closes a connection from which nothing is taken for a minute (`send_timeout`), and
/// the buffers between hold some tens of what is read at once; what isn't paid for is waited for before the next blob.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Findings that are kept; all are counted and logged.
const MAX_FINDINGS: usize = 1000;

/// What sort of thing is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A key of which no right replica is left.
    Missing,
    /// A replica that isn't there.
    UnderReplicated,
    /// A replica that isn't what was stored.
    Corrupt,
    /// Replicas that differ, and nothing tells which is right.
    Undecided,
    /// Replicas that are right and not in their place.
    Misplaced,
    /// A blob file that no record names.
    Orphan,
    /// A file of a version that was overwritten.
    Leftover,
    /// A sidecar where there is no replica.
    StraySidecar,
    /// Sidecars from which a rebuild would make another record.
    WrongSidecar,
    /// A volume, or something on it, that could not be read.
    Unreachable,
    /// Anything else; the words say it.
    Other,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 11] = [
        Kind::Missing,
        Kind::UnderReplicated,
        Kind::Corrupt,
        Kind::Undecided,
        Kind::Misplaced,
        Kind::Orphan,
        Kind::Leftover,
        Kind::StraySidecar,
        Kind::WrongSidecar,
        Kind::Unreachable,
        Kind::Other,
    ];
}

/// A kind or a job's state as a word, the same as in JSON.
pub fn word(value: impl Serialize) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str().unwrap_or_default().to_owned()
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What sort of thing it is.
    pub kind: Kind,
    /// The key, percent-encoded, if it is about one.
    pub key: Option<String>,
    /// The volume, if it is about one.
    pub volume: Option<String>,
    /// What it is, in words.
    pub what: String,
    /// Whether the job has made it what it should be.
    pub mended: bool,
}

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

/// What a running job shares with those who watch and steer it.
#[derive(Clone, Default)]
pub struct Control {
    /// How far it is.
    pub progress: Arc<Progress>,
    /// How fast it goes.
    pub pace: Arc<Pace>,
    /// Set to end it: what has begun is brought to its end.
    pub stop: Arc<AtomicBool>,
}

impl Control {
    /// Waits, but not when it is to end.
    pub(super) async fn wait(&self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time && !self.is_stopped() {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until one more blob may be read or moved; `false` if the job is to end.
    pub(super) async fn turn(&self) -> bool {
        while !self.is_stopped() {
            match self.pace.seconds_left(Instant::now()) {
                None => return true,
                // At a rate small enough it is longer than a `Duration` can be.
                Some(left) => look_again(left).await,
            }
        }
        false
    }

    /// `count` more bytes of blobs were read or moved.
    pub(super) fn add_bytes(&self, count: u64) {
        self.progress.add_bytes(count);
        self.pace.charge(count);
    }

    /// As [`Control::add_bytes`], for a part of a blob: waits until it is paid for, so that a large blob goes at the rate too,
    /// as far as [`MAX_PAUSE`] allows. No longer when the job is to end.
    pub(super) async fn pay_for(&self, count: u64) {
        self.add_bytes(count);
        let begun = Instant::now();
        while !self.is_stopped() && begun.elapsed() < MAX_PAUSE {
            match self.pace.seconds_in_debt(Instant::now()) {
                left if left > 0.0 => look_again(left).await,
                _ => return,
            }
        }
    }

    /// Whether it is to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Waits for at most `seconds`, which may be more than a [`Duration`] has.
async fn look_again(seconds: f64) {
    sleep(Duration::from_secs_f64(seconds.min(LOOK_EVERY.as_secs_f64()))).await;
}

impl Finding {
    /// A finding that is left as it is.
    pub fn new(kind: Kind, key: Option<&Key>, place: Option<&Replica>, what: impl fmt::Display) -> Finding {
        let (key, volume) = (key.map(Key::to_string), place.map(Replica::to_string));
        Finding { kind, key, volume, what: what.to_string(), mended: false }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.key, &self.volume].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.what)?;
        if self.mended { f.write_str("; mended") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
