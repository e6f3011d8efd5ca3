//! How fast a job goes: blobs and bytes per second, changeable while it runs.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The most that a job may do; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    /// Blobs per second.
    pub blobs: Option<f64>,
    /// Bytes per second.
    pub bytes: Option<f64>,
}

/// What bytes are counted in, the largest first.
const UNITS: [(&str, f64); 4] = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)];

/// How far behind its rate a job may catch up. Every wait ends later than it should, at a timer's tick or when the machine gets
/// to it; without this each of them would be lost, and a rate of more than some hundred blobs a second never be reached.
const CREDIT_SECONDS: f64 = 0.05;

/// Keeps a job to a [`Rate`]. A blob is paid for when its turn comes, so that there are no bursts; its bytes afterwards,
/// because nobody knows how many they are: so the rate holds over time, and one blob of any size is always possible.
pub struct Pace(Mutex<Debt>);

/// What is still to be paid for; less than nothing is credit.
struct Debt {
    rate: Rate,
    blobs: f64,
    bytes: f64,
    at: Instant,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace::new(Rate::default())
    }
}

impl Pace {
    /// A pace of `rate`.
    pub fn new(rate: Rate) -> Pace {
        Pace(Mutex::new(Debt { rate, blobs: 0.0, bytes: 0.0, at: Instant::now() }))
    }

    /// Goes on at another rate; who waits notices at the next look.
    pub fn set(&self, rate: Rate) {
        self.change(Instant::now(), rate);
    }

    fn change(&self, now: Instant, rate: Rate) {
        let mut debt = self.debt();
        debt.pay_down(now);
        debt.rate = rate;
    }

    /// How fast it goes.
    pub fn rate(&self) -> Rate {
        self.debt().rate
    }

    /// Says how many bytes were read or moved.
    pub fn charge(&self, bytes: u64) {
        let mut debt = self.debt();
        debt.pay_down(Instant::now());
        debt.bytes += bytes as f64;
    }

    /// How many seconds one more blob has to wait; `None` if its turn has come, which is then taken.
    pub(super) fn seconds_left(&self, now: Instant) -> Option<f64> {
        let mut debt = self.debt();
        debt.pay_down(now);
        let left = seconds(debt.blobs, debt.rate.blobs).max(seconds(debt.bytes, debt.rate.bytes));
        if left > 0.0 {
            return Some(left);
        }
        debt.blobs += 1.0;
        None
    }

    /// How many seconds it takes until the bytes that were charged are paid for; 0 or less if they are.
    pub(super) fn seconds_in_debt(&self, now: Instant) -> f64 {
        let mut debt = self.debt();
        debt.pay_down(now);
        seconds(debt.bytes, debt.rate.bytes)
    }

    fn debt(&self) -> std::sync::MutexGuard<'_, Debt> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds(owed: f64, rate: Option<f64>) -> f64 {
    rate.map_or(0.0, |rate| owed / rate)
}

impl Debt {
    /// Credit is cut to what the present rate allows, so what was saved up at a higher one is no burst at this one.
    fn pay_down(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        let rest = |owed: f64, rate: Option<f64>| {
            rate.map_or(0.0, |rate| (owed - rate * seconds).max(-rate * CREDIT_SECONDS))
        };
        self.blobs = rest(self.blobs, self.rate.blobs);
        self.bytes = rest(self.bytes, self.rate.bytes);
    }
}

impl fmt::Display for Rate {
    /// As [`Rate::from_str`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes.map(|bytes| {
            let is_whole = |(_, size): &&(&str, f64)| bytes >= *size && (bytes / size).fract() == 0.0;
            let (unit, size) = UNITS.iter().find(is_whole).unwrap_or(&("B", 1.0));
            format!("{}{unit}", bytes / size)
        });
        match (self.blobs, bytes) {
            (None, None) => f.write_str("unlimited"),
            (Some(blobs), None) => write!(f, "{blobs}"),
            (None, Some(bytes)) => f.write_str(&bytes),
            (Some(blobs), Some(bytes)) => write!(f, "{blobs},{bytes}"),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    /// `unlimited`, or: `100` is blobs per second, `50MB` bytes per second, `100,50MB` both.
    fn from_str(text: &str) -> Result<Rate, String> {
        let fault = || {
            format!(
                "{text:?} is no rate; write 100 (blobs per second), 50MB (per second), 100,50MB or unlimited"
            )
        };
        let mut rate = Rate::default();
        if text == "unlimited" {
            return Ok(rate);
        }
        for part in text.split(',') {
            let digits = part.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
            let number: f64 = digits.parse().map_err(|_| fault())?;
            let (limit, unit) = match &part[digits.len()..] {
                "" => (&mut rate.blobs, 1.0),
                "KB" => (&mut rate.bytes, 1e3),
                unit => {
                    let known = UNITS.iter().find(|(name, _)| *name == unit);
                    (&mut rate.bytes, known.ok_or_else(fault)?.1)
                }
            };
            if !(number * unit).is_finite() || number <= 0.0 || limit.replace(number * unit).is_some() {
                return Err(fault());
            }
        }
        Ok(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rate_is_blobs_or_bytes_or_both() {
        let rate = |blobs, bytes| Ok(Rate { blobs, bytes });
        assert_eq!("100".parse(), rate(Some(100.0), None));
        assert_eq!("1.5MB".parse(), rate(None, Some(1.5e6)));
        assert_eq!("20,2GB".parse(), rate(Some(20.0), Some(2e9)));
        for text in ["unlimited", "0.5", "7B", "20,2kB", "50,100MB", "1500MB", "2GB", "1234567B", "0.5B"] {
            assert_eq!(text.parse::<Rate>().map(|rate| rate.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "0", "-1", "fast", "1TBB", "1,2", "1MB,", "inf", "NaN", "1e308GB"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_done_is_paid_for_at_the_rate_of_the_time() {
        let pace = Pace::new("10,1kB".parse().unwrap());
        let begun = pace.debt().at;
        let after = |seconds: f64| pace.seconds_left(begun + Duration::from_secs_f64(seconds)).unwrap_or(0.0);
        assert_eq!(after(0.0), 0.0);
        assert!((after(0.0) - 0.1).abs() < 1e-6, "the next one comes a tenth of a second later");
        pace.debt().bytes = 2000.0;
        assert!((after(0.0) - 2.0).abs() < 1e-6, "the slower of both counts");
        assert!((after(1.0) - 1.0).abs() < 1e-6);
        pace.debt().rate = Rate { blobs: None, bytes: Some(2000.0) };
        assert!((after(1.0) - 0.5).abs() < 1e-6);
        assert_eq!(after(9.0), 0.0);
    }

    /// How many blobs a job does within so many seconds from `from` on, each of `bytes`, if it wakes from each wait at a tick.
    fn blobs_within(pace: &Pace, from: Instant, seconds: f64, bytes: f64) -> f64 {
        const TICK_SECONDS: f64 = 0.001;
        let (mut now, mut blobs) = (0.0, 0.0);
        while now < seconds {
            match pace.seconds_left(from + Duration::from_secs_f64(now)) {
                // A timer never wakes anybody early.
                Some(left) => now = ((now + left) / TICK_SECONDS).floor().mul_add(TICK_SECONDS, TICK_SECONDS),
                None => {
                    blobs += 1.0;
                    pace.debt().bytes += bytes;
                }
            }
        }
        blobs
    }

    #[test]
    fn a_rate_is_reached_although_waits_end_at_ticks_and_it_is_not_exceeded() {
        for (rate, bytes) in [("7", 0.0), ("300", 0.0), ("1500", 0.0), ("20000", 0.0), ("1500kB", 1000.0)] {
            let pace = Pace::new(rate.parse().unwrap());
            let from = pace.debt().at;
            let per_second = pace.rate().blobs.unwrap_or(1500.0);
            let blobs = blobs_within(&pace, from, 10.0, bytes);
            let (least, most) = (per_second * 10.0 * 0.99, per_second * (10.0 + CREDIT_SECONDS) + 1.0);
            assert!((least..=most).contains(&blobs), "{rate}: {blobs} is not in {least}..={most}");
        }
    }

    #[test]
    fn nothing_is_saved_up_beyond_a_moment_and_nothing_for_another_rate() {
        let pace = Pace::new("1000,1MB".parse().unwrap());
        let begun = pace.debt().at;
        let long_after = begun + Duration::from_secs(3600);
        assert!(blobs_within(&pace, long_after, 0.001, 0.0) <= 1000.0 * CREDIT_SECONDS + 2.0);
        let later = long_after + Duration::from_secs(3600);
        pace.seconds_in_debt(later);
        pace.change(later, "10,1kB".parse().unwrap());
        let blobs = blobs_within(&pace, later, 1.0, 1.0);
        assert!((10.0..=12.0).contains(&blobs), "{blobs}");
        assert!(pace.debt().bytes >= -1000.0 * CREDIT_SECONDS);
        // Without a rate nothing is saved up either.
        pace.change(later, Rate::default());
        pace.seconds_in_debt(later + Duration::from_secs(3600));
        pace.change(later + Duration::from_secs(3600), "10".parse().unwrap());
        let blobs = blobs_within(&pace, later + Duration::from_secs(3600), 1.0, 0.0);
        assert!((10.0..=12.0).contains(&blobs), "{blobs}");
    }
}
