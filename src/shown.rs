//! What a person sees: how far a job or a transfer is, as a bar on a terminal and a line every few seconds elsewhere; and
//! text from elsewhere, without what a terminal would obey.

use crate::maintenance::Status;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// `text` with every character written out that a terminal would obey or that turns the order of letters around; the rest
/// as it is, line breaks included only as `\n`. For what servers, volumes and file names say.
pub fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            letter if letter.is_control() || is_reordering(letter) => plain.extend(letter.escape_default()),
            letter => plain.push(letter),
        }
    }
    plain
}

/// The marks of Unicode that embed, override or isolate directions of writing.
fn is_reordering(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

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

    /// Shows how it was in the end.
    pub fn end(self, status: &Status) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if !self.is_quiet {
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
    if let Some(eta) = status.eta_seconds.filter(|eta| *eta > 0.5) {
        text += &format!(", about {} left", HumanDuration(Duration::from_secs_f64(eta)));
    }
    text
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        for (text, expected) in [
            ("/ü? 漢", "/ü? 漢"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\r", "a\\nb\\r"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("exe\u{202e}gpj", "exe\\u{202e}gpj"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }
}
