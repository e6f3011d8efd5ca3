//! How Go's flag package has flags and values written.

use super::BOOLEANS;
use std::ffi::OsString;
use std::time::Duration;

/// `-name` becomes `--name`, and a boolean that stands alone becomes true, as in Go's flag package.
pub(super) fn from_go_spelling(word: OsString) -> OsString {
    let Some(text) = word.to_str() else { return word };
    let name = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).unwrap_or("");
    if BOOLEANS.contains(&name) {
        return format!("--{name}=true").into();
    }
    let is_flag = name.starts_with(|first: char| first.is_ascii_alphabetic());
    if is_flag && name.len() > 1 { format!("--{name}").into() } else { word }
}

/// A boolean in Go's spellings.
pub(super) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// As [`go_duration`], or 0.
pub(super) fn go_duration_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { go_duration(text) }
}

/// A duration in Go's spelling, more than zero.
pub(super) fn go_duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("{text:?} is no duration; write 500ms, 1.5s or 1h2m");
    let nanoseconds = go_parse_duration::parse_duration(text).map_err(|_| fault())?;
    u64::try_from(nanoseconds).ok().filter(|number| *number > 0).map(Duration::from_nanos).ok_or_else(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, expected_ms) in [("1s", 1000), ("500ms", 500), ("1.5s", 1500), ("1h2m", 3_720_000)] {
            assert_eq!(go_duration(text), Ok(Duration::from_millis(expected_ms)), "{text}");
        }
        for text in ["", "1", "s", "-1s", "0s", "1x"] {
            assert!(go_duration(text).is_err(), "{text}");
        }
    }
}
