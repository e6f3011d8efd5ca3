//! Load from several connections at once, each in a thread of its own.

use crate::Outcome;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How much load.
pub(crate) struct Load {
    pub(crate) connections: usize,
    /// The load ends after this time or this number of steps, whichever is first.
    pub(crate) seconds: u64,
    pub(crate) steps: u64,
}

/// What was done.
pub(crate) struct Done {
    pub(crate) steps: u64,
    pub(crate) seconds: f64,
}

impl Done {
    pub(crate) fn rate(&self) -> f64 {
        self.steps as f64 / self.seconds
    }
}

impl Load {
    /// Calls `step` with what `make` has made for the thread, and with a number that no other call gets.
    pub(crate) fn run<S>(
        &self,
        make: impl Fn() -> Outcome<S> + Sync,
        step: impl Fn(&mut S, u64) -> Outcome<()> + Sync,
    ) -> Outcome<Done> {
        let (begun, next) = (Instant::now(), AtomicU64::new(0));
        let limit = begun + Duration::from_secs(self.seconds);
        let work = || {
            let mut state = make()?;
            let mut done = 0;
            while Instant::now() < limit {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.steps {
                    break;
                }
                step(&mut state, number)?;
                done += 1;
            }
            Outcome::Ok(done)
        };
        let steps = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.connections).map(|_| scope.spawn(work)).collect();
            let done = threads.into_iter().map(|thread| thread.join().expect("a load thread doesn't panic"));
            done.sum::<Outcome<u64>>()
        })?;
        Ok(Done { steps, seconds: begun.elapsed().as_secs_f64() })
    }
}

/// Keys that were never used before in this run.
pub(crate) fn fresh_prefix() -> String {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    format!("/run{}", RUNS.fetch_add(1, Ordering::Relaxed))
}
