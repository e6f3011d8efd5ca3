//! Waiting for what another process does: poll until it is so, give up loudly at a deadline.

use std::time::{Duration, Instant};

/// How long anything may take on a machine that is busy with other things. Nothing normally takes a tenth.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Short beside what is waited for (a process start, a file), long beside the cost of looking.
const POLL_EVERY: Duration = Duration::from_millis(5);

/// Waits until `probe` has a value; panics with `what` when it has none within [`PATIENCE`].
#[track_caller]
pub fn wait_for<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, probe)
}

/// As [`wait_for`], for what takes longer.
#[track_caller]
pub fn wait_within<T>(patience: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        std::thread::sleep(POLL_EVERY);
    }
}

/// Waits until `condition` holds; panics with `what` when it doesn't within [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
