//! What a running job shares with those who watch and steer it: how far it is, how fast it goes, whether it is to end.

use super::{Pace, Progress};
use actix_rt::time::sleep;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How soon a job that waits notices that it is to end, or has another rate.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The longest wait within a blob. nginx closes a connection from which nothing is taken for a minute (`send_timeout`), and
/// the buffers between hold some tens of what is read at once; what isn't paid for is waited for before the next blob.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What is left of a job that was stopped.
pub(super) const STOPPED: &str = "stopped before the end; run it again";

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
