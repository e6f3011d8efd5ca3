//! How far a blob on its way is.

use super::LINE_EVERY;
use crate::text::printable;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Instant;

/// A blob on its way, shown while it goes.
pub struct Transfer {
    name: String,
    total: Option<u64>,
    done: u64,
    is_quiet: bool,
    bar: Option<ProgressBar>,
    begun: Instant,
    said: Instant,
}

impl Transfer {
    /// The transfer called `name`, of `total` bytes where that is known; with `is_quiet` nothing is shown.
    pub fn new(name: &str, total: Option<u64>, is_quiet: bool) -> Transfer {
        let name = printable(name);
        let bar = (std::io::stderr().is_terminal() && !is_quiet).then(|| {
            let template = match total {
                Some(_) => "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                None => "{prefix} {spinner} {bytes} {bytes_per_sec}",
            };
            let style = ProgressStyle::with_template(template).expect("the template is right");
            ProgressBar::new(total.unwrap_or(0)).with_style(style).with_prefix(name.clone())
        });
        let now = Instant::now();
        Transfer { name, total, done: 0, is_quiet, bar, begun: now, said: now }
    }

    /// `done` bytes have arrived.
    pub fn at(&mut self, done: u64) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if !self.is_quiet && self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            let total = self.total.map_or_else(String::new, |total| format!(" of {}", HumanBytes(total)));
            eprintln!("{}: {}{total}", self.name, HumanBytes(done));
        }
    }

    /// Says what went wrong meanwhile, beside the bar and also to who wants quiet.
    pub fn complain(&self, what: &str) {
        let line = format!("{}: {}", self.name, printable(what));
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    /// Ends the bar, and says what came of it.
    pub fn end(self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if !self.is_quiet {
            let seconds = self.begun.elapsed().as_secs_f64();
            eprintln!("{}: {}, {}, {seconds:.1} s", self.name, printable(what), HumanBytes(self.done));
        }
    }
}
