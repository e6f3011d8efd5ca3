//! A blob's key: the percent-decoded path of the request, never normalised.

use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// The longest key, in bytes. Its base64 still fits the paths that common file systems and nginx take.
pub const MAX_KEY_BYTES: usize = 2048;

/// A key: 1 to [`MAX_KEY_BYTES`] bytes that start with `/`. Any byte may occur; `/a//b`, `/a/` and `/../a`
/// are keys like any other.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<[u8]>);

/// Why some bytes are no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// There is no byte at all, or the first is not `/`.
    #[error("a key begins with /")]
    NoSlash,
    /// More than [`MAX_KEY_BYTES`].
    #[error("the key is longer than {MAX_KEY_BYTES} bytes")]
    TooLong,
    /// A `%` that two hex digits don't follow.
    #[error("the path has a % that two hex digits don't follow; write %25 for a percent sign")]
    BadEscape,
}

fn begins_with_hex(text: &str) -> bool {
    let digits = text.as_bytes();
    digits.len() >= 2 && digits[..2].iter().all(u8::is_ascii_hexdigit)
}

impl Key {
    /// Takes decoded bytes as a key.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Key, KeyError> {
        let bytes = bytes.into();
        if bytes.first() != Some(&b'/') {
            return Err(KeyError::NoSlash);
        }
        if bytes.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong);
        }
        Ok(Key(bytes.into()))
    }

    /// Percent-decodes the path of a request.
    pub fn from_request_path(path: &str) -> Result<Key, KeyError> {
        if !path.split('%').skip(1).all(begins_with_hex) {
            return Err(KeyError::BadEscape);
        }
        Key::new(percent_encoding::percent_decode_str(path).collect::<Vec<u8>>())
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key that only the root of the server has; the Go original may have stored it.
    pub fn is_root(&self) -> bool {
        *self.0 == *b"/"
    }
}

/// Everything but unreserved characters and `/`: safe in a request line, a log line and a terminal.
const ESCAPED: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl fmt::Display for Key {
    /// Percent-encoded, as it stands in a URL and in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        percent_encoding::percent_encode(&self.0, ESCAPED).fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<&[u8], KeyError>) {
        assert_eq!(
            Key::from_request_path(path).as_ref().map(Key::as_bytes),
            expected.as_ref().copied(),
            "{path}"
        );
    }

    #[test]
    fn a_path_is_decoded_and_never_normalised() {
        check("/a//b/../c/", Ok(b"/a//b/../c/"));
        check("/a+b%20c%2Fd", Ok(b"/a+b c/d"));
        check("/%00%ff", Ok(b"/\0\xff"));
        check("/%25zz", Ok(b"/%zz"));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        check("", Err(KeyError::NoSlash));
        check("/%zz", Err(KeyError::BadEscape));
        check("/a%4", Err(KeyError::BadEscape));
        check("*", Err(KeyError::NoSlash));
        check(&format!("/{}", "a".repeat(MAX_KEY_BYTES)), Err(KeyError::TooLong));
        assert!(Key::new(vec![b'/'; MAX_KEY_BYTES]).is_ok());
    }

    #[test]
    fn a_key_is_shown_without_control_characters() {
        assert_eq!(Key::new(*b"/a b\n\xff?").unwrap().to_string(), "/a%20b%0A%FF%3F");
    }
}
