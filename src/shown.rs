//! How far a job or a transfer is, for a person: a bar on a terminal, a line every few seconds elsewhere.

mod transfer;

pub use transfer::Transfer;

use crate::maintenance::Status;
use crate::text::printable;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A job that is shown while it runs.
pub struct Shown {
    name: String,
    is_quiet: bool,
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Shown {
    /// The job called `name`; with `is_quiet` nothing is shown.
    pub fn new(name: &str, is_quiet: bool) -> Shown {
        let bar = (std::io::stderr().is_terminal() && !is_quiet).then(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}")
                .expect("the template is right");
            ProgressBar::new(0).with_style(style).with_prefix(name.to_owned())
        });
        Shown { name: name.to_owned(), is_quiet, bar, said: Instant::now() }
    }

    /// Shows how far it is now.
    pub fn look(&mut self, status: &Status) {
        if let Some(bar) = &self.bar {
            bar.set_length(status.total);
            bar.set_position(status.done);
            bar.set_message(line(status));
        } else if !self.is_quiet && self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            eprintln!("{}: {}", self.name, line(status));
        }
    }

    /// Shows how it was in the end; nothing of a job that could not begin.
    pub fn end(self, status: &Status) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if !self.is_quiet && !status.phase.is_empty() {
            eprintln!("{}: {}", self.name, line(status));
        }
    }
}

/// How far a job is, in one line.
pub fn line(status: &Status) -> String {
    let mut text = format!("{}, {} keys", printable(&status.phase), status.keys);
    if status.total > 0 {
        text += &format!(", {} of {}", status.done, status.total);
    }
    if status.bytes > 0 {
        text += &format!(", {}", HumanBytes(status.bytes));
    }
    if status.mended > 0 {
        text += &format!(", {} mended", status.mended);
    }
    if status.problems > 0 {
        text += &format!(", {} problems", status.problems);
    }
    text += &format!(", {:.1} s", status.seconds);
    // Of less than a second nothing can be said.
    if status.seconds >= 1.0 {
        text += &match status.bytes {
            0 => format!(", {:.0} keys/s", status.keys as f64 / status.seconds),
            bytes => format!(", {}/s", HumanBytes((bytes as f64 / status.seconds) as u64)),
        };
    }
    if let Some(eta) = status.eta_seconds.filter(|eta| *eta > 0.5) {
        text += &format!(", about {} left", HumanDuration(Duration::from_secs_f64(eta)));
    }
    text
}
