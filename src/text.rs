//! Text that servers, volumes and file names have brought here, written so that no terminal obeys it. Everything that a
//! command prints of them goes through here, and every line of the log.

use serde::Serialize;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process;

/// As `println!`; see [`print_line`].
#[macro_export]
macro_rules! say {
    ($($word:tt)*) => { $crate::text::print_line(format_args!($($word)*)) };
}
pub use say;

/// The exit code of a command whose output got lost.
const EXIT_UNSAID: i32 = 1;

/// Prints a line to standard output. When that takes no more the command ends as by a second signal: without a word if
/// nobody reads on (`| head`), with the reason if there is no room.
pub fn print_line(line: fmt::Arguments<'_>) {
    let mut out = io::stdout();
    if let Err(err) = writeln!(out, "{line}") {
        if err.kind() != ErrorKind::BrokenPipe {
            // Nothing is left to say it with if this fails too.
            let _ = writeln!(io::stderr(), "mkv: standard output: {err}");
        }
        process::exit(EXIT_UNSAID);
    }
}

/// `text` with everything written out that a terminal would obey, line breaks included, and what turns the order of
/// letters around.
pub fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_obeyed(letter) {
            true => plain.extend(letter.escape_default()),
            false => plain.push(letter),
        }
    }
    plain
}

/// As JSON, on one line.
pub fn json_line(value: &impl Serialize) -> String {
    escaped(&serde_json::to_string(value).expect("it is plain data"))
}

/// As JSON, for people to read.
pub fn json_page(value: &impl Serialize) -> String {
    escaped(&serde_json::to_string_pretty(value).expect("it is plain data"))
}

/// JSON itself leaves some of it alone. Outside of strings there are only the line breaks of a page.
fn escaped(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter != '\n' && is_obeyed(letter) {
            // None of them is beyond what four digits hold.
            true => plain.push_str(&format!("\\u{:04x}", u32::from(letter))),
            false => plain.push(letter),
        }
    }
    plain
}

/// Control characters, and the marks of Unicode that embed, override or isolate directions of writing.
fn is_obeyed(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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

    #[test]
    fn json_stays_what_it_was() {
        let value = serde_json::json!({ "a\u{1b}": ["\u{9b}31m\u{7f}\n", "ü\u{202e}\""] });
        for text in [json_line(&value), json_page(&value)] {
            assert!(!text.chars().any(|letter| letter != '\n' && is_obeyed(letter)), "{text:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }
        assert!(!json_line(&value).contains('\n'));
    }
}
