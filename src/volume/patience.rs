//! How long a volume may keep this side waiting. The arithmetic alone: no clock and no connection.
//!
//! A volume that sends or takes a byte every few seconds is as good as one that hangs, and would hold a key for days.
//! So what has a limit is not the next byte of a body but the next [`PROGRESS_BYTES`], or its end. Only time in which
//! somebody waits for the volume counts: a client that is slow, or a job that is held to a rate, is not its fault.
//!
//! What a volume takes of an upload shows only when the kernel's send buffer is a third empty again: 50 KB on a narrow path, up
//! to 1.4 MB on a wide one. There a volume that takes less than that within the limit looks like one that takes nothing.

use actix_rt::time::Instant;
use std::time::Duration;

/// So much of a body has to get through in every [`Patience::progress`] of waiting. A disk that seeks a hundred times a
/// second, for 128 KiB each, gives it in ten seconds to 500 readers at once; 1 GB at this pace takes eleven hours,
/// which is the longest that a blob of that size can be held up.
pub(super) const PROGRESS_BYTES: usize = 256 << 10;

/// A wait is looked at so many times before its limit is over. Of a time in which nobody looked, because this side had
/// something else to wait for, no more than the time between two looks counts.
const LOOKS: u32 = 10;

/// How long a volume may keep this side waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the first byte of an answer, once the request is written.
    pub(super) answer: Duration,
    /// For the next [`PROGRESS_BYTES`] of a body or its end, in either direction.
    pub(super) progress: Duration,
}

/// The waiting since enough has last got through.
#[derive(Debug, Default)]
pub(super) struct Wait {
    waited: Duration,
    moved_bytes: usize,
    /// When somebody last looked and found nothing, and how much of the time since then counts at most.
    looked: Option<(Instant, Duration)>,
}

impl Wait {
    /// Nothing gets through at `now`. Answers after what time to look again; `None` when `limit` is over.
    pub(super) fn look(&mut self, now: Instant, limit: Duration) -> Option<Duration> {
        self.count(now);
        let share = limit / LOOKS;
        self.looked = Some((now, share));
        let left = limit.checked_sub(self.waited).filter(|left| !left.is_zero())?;
        Some(left.min(share))
    }

    /// `bytes` have got through at `now`.
    pub(super) fn moved(&mut self, now: Instant, bytes: usize) {
        self.count(now);
        self.moved_bytes += bytes;
        if self.moved_bytes >= PROGRESS_BYTES {
            *self = Wait::default();
        }
    }

    /// How many bytes have got through since the wait began.
    pub(super) fn moved_bytes(&self) -> usize {
        self.moved_bytes
    }

    fn count(&mut self, now: Instant) {
        if let Some((looked, share)) = self.looked.take() {
            self.waited += now.saturating_duration_since(looked).min(share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Waits for a volume that lets `bytes` through after every `pause`, as a timer would have it looked at. How long
    /// it takes to be given up; `None` if `total_bytes` get through.
    fn given_up(bytes: usize, pause: Duration, total_bytes: usize) -> Option<Duration> {
        let (mut wait, begun) = (Wait::default(), Instant::now());
        let (mut now, mut next, mut moved) = (begun, begun + pause, 0);
        while moved < total_bytes {
            match wait.look(now, LIMIT) {
                None => return Some(now - begun),
                Some(again) if now + again < next => now += again,
                Some(_) => {
                    wait.moved(next, bytes);
                    (now, next, moved) = (next, next + pause, moved + bytes);
                }
            }
        }
        None
    }

    #[test]
    fn silence_ends_with_the_limit() {
        assert_eq!(given_up(1, LIMIT * 100, 1), Some(LIMIT));
    }

    #[test]
    fn volume_that_dribbles_is_given_up_as_soon_as_one_that_is_silent() {
        for (bytes, pause) in [(1, 0.001), (1, 5.0), (1, 9.9), (1000, 0.1), (PROGRESS_BYTES - 1, 9.9)] {
            let waited = given_up(bytes, seconds(pause), 1 << 30).expect("it never ends");
            let late = waited.checked_sub(LIMIT).expect("it was given up too early");
            assert!(late < seconds(0.1), "{bytes} every {pause} s: {late:?} late");
        }
    }

    #[test]
    fn modest_volume_is_waited_for() {
        for (bytes, pause) in [(PROGRESS_BYTES, 9.9), (PROGRESS_BYTES / 9, 1.0), (4 << 10, 0.14)] {
            assert_eq!(given_up(bytes, seconds(pause), 100 << 20), None, "{bytes} every {pause} s");
        }
        assert_eq!(given_up(5, seconds(9.9), 5), None, "a small body is there at once");
    }

    #[test]
    fn time_in_which_nobody_looks_is_not_the_volumes() {
        let (mut wait, mut now) = (Wait::default(), Instant::now());
        // A client that sends once in an hour, and a volume that each time had room again long before.
        for _ in 0..LOOKS - 1 {
            assert!(wait.look(now, LIMIT).is_some());
            now += Duration::from_secs(3600);
            wait.moved(now, 1);
            now += Duration::from_secs(3600);
            wait.moved(now, 1);
        }
        assert!(wait.look(now, LIMIT).is_some());
        // One that has still no room then has kept us waiting, but not for hours.
        now += Duration::from_secs(3600);
        assert_eq!(wait.look(now, LIMIT), None, "all that it is allowed together is over now");
    }
}
