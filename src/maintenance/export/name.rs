//! What a key is called below the directory of an export: as itself where it can be a path, escaped where it can't, and
//! always so that the key can be told from the name. Pure. docs/operations.md has the rules for people.
//!
//! `%` begins every escape, and a key's own `%` is one of the bytes that are escaped, so whatever has a `%` that isn't
//! followed by two hex digits is a mark of ours. No name has `/`, NUL or `..` in it, so none leads out of the directory.

use crate::model::Key;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A part of a key between two `/` with nothing in it.
const EMPTY: &str = "%";

/// Behind the name of a folder that holds only the beginning of a long part.
const CONTINUED: &str = "%+";

/// Behind the name of the one that came second, where a file and a folder would have the same.
const SECOND: &str = "%=";

/// The folder of the keys whose path would be too long for programs that open it by name.
const LONG: &str = "%base64";

/// The folder of files that are not whole yet.
pub(super) const UNFINISHED: &str = "%tmp";

/// The longest piece of a part, in bytes: file names have 255, and two marks have to fit.
const MAX_PIECE_BYTES: usize = 250;

/// The longest path in bytes, so that the directory's own fits before it into the system's 4,096.
const MAX_PATH_BYTES: usize = 3000;

/// Characters of base64 in a name.
const LONG_PIECE: usize = 200;

/// Marks the folders below [`LONG`].
const LONG_CONTINUED: &str = "~";

/// The names on the way to the file of `key`, its own last; never empty.
pub(super) fn names_of(key: &Key) -> Vec<String> {
    let parts = key.as_bytes()[1..].split(|byte| *byte == b'/');
    let names: Vec<String> = parts.flat_map(names_of_part).collect();
    let length: usize = names.iter().map(|name| name.len() + 1).sum();
    if length <= MAX_PATH_BYTES { names } else { long_names(key) }
}

/// What stands in for `name` where a file is in a folder's way, or a folder in a file's.
pub(super) fn second(name: &str) -> String {
    format!("{name}{SECOND}")
}

fn names_of_part(part: &[u8]) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for atom in part.utf8_chunks().flat_map(|chunk| {
        let valid = chunk.valid().chars().map(atom);
        valid.chain(chunk.invalid().iter().map(|byte| escaped(&[*byte])))
    }) {
        if pieces.last().is_some_and(|piece| piece.len() + atom.len() > MAX_PIECE_BYTES) {
            pieces.push(String::new());
        }
        pieces.last_mut().expect("there is one").push_str(&atom);
    }
    let last = pieces.len() - 1;
    let name = |(number, piece): (usize, String)| match piece.as_str() {
        "" => EMPTY.to_owned(),
        "." | ".." => escaped(piece.as_bytes()),
        _ if number < last => piece + CONTINUED,
        _ => piece,
    };
    pieces.into_iter().enumerate().map(name).collect()
}

fn atom(letter: char) -> String {
    let text = letter.to_string();
    if letter == '%' || letter.is_control() { escaped(text.as_bytes()) } else { text }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

fn long_names(key: &Key) -> Vec<String> {
    let text = URL_SAFE_NO_PAD.encode(key.as_bytes());
    let pieces = text.as_bytes().chunks(LONG_PIECE).map(|piece| String::from_utf8_lossy(piece).into_owned());
    let mut names: Vec<String> = pieces.map(|piece| piece + LONG_CONTINUED).collect();
    let last = names.last_mut().expect("a key is not empty");
    last.truncate(last.len() - LONG_CONTINUED.len());
    names.insert(0, LONG.to_owned());
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MAX_KEY_BYTES;
    use proptest::prelude::*;

    fn key(bytes: impl Into<Vec<u8>>) -> Key {
        Key::new(bytes).expect("it is a key")
    }

    /// The rules backwards, as a person would apply them.
    fn key_of(names: &[String]) -> Vec<u8> {
        let names: Vec<&str> = names.iter().map(|name| name.strip_suffix(SECOND).unwrap_or(name)).collect();
        if names[0] == LONG {
            return URL_SAFE_NO_PAD.decode(names[1..].concat().replace(LONG_CONTINUED, "")).unwrap();
        }
        let mut bytes = vec![b'/'];
        for (number, name) in names.iter().enumerate() {
            let (piece, end) = match name.strip_suffix(CONTINUED) {
                Some(piece) => (piece, ""),
                None => (if *name == EMPTY { "" } else { *name }, "/"),
            };
            bytes.extend(percent_encoding::percent_decode_str(piece));
            bytes.extend(if number + 1 < names.len() { end.as_bytes() } else { b"" });
        }
        bytes
    }

    #[track_caller]
    fn check_names(key: &Key) {
        let names = names_of(key);
        assert_eq!(key_of(&names), key.as_bytes(), "{names:?}");
        for name in names.iter().flat_map(|name| [name.clone(), second(name)]) {
            assert!(!name.is_empty() && name.len() <= 255 && name != "." && name != "..", "{name}");
            assert!(!name.contains(['/', '\0']) && name != UNFINISHED, "{name}");
        }
        assert!(names.iter().map(|name| name.len() + 1).sum::<usize>() <= MAX_PATH_BYTES, "{names:?}");
    }

    #[test]
    fn a_key_that_can_be_a_path_is_one_and_others_are_escaped() {
        let cases: [(&[u8], &str); 14] = [
            (b"/a/b.txt", "a/b.txt"),
            (b"/", "%"),
            (b"/a/", "a/%"),
            (b"/a//b", "a/%/b"),
            (b"/../x", "%2E%2E/x"),
            (b"/./.", "%2E/%2E"),
            (b"/...", "..."),
            (b"/100%", "100%25"),
            (b"/%tmp/%41", "%25tmp/%2541"),
            (b"/a\0b\x7f\n", "a%00b%7F%0A"),
            (b"/\xff\xc3", "%FF%C3"),
            ("/ключ".as_bytes(), "ключ"),
            ("/\u{85}".as_bytes(), "%C2%85"),
            (b"/-rf ~/*", "-rf ~/*"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(names_of(&key(bytes)).join("/"), expected);
            check_names(&key(bytes));
        }
    }

    #[test]
    fn long_parts_and_paths_are_cut_where_no_letter_is() {
        let of = |part: &str| names_of(&key(format!("/{part}")));
        assert_eq!(of(&"x".repeat(250)).len(), 1);
        assert_eq!(of(&"x".repeat(251)), [format!("{}%+", "x".repeat(250)), "x".to_owned()]);
        assert_eq!(of(&format!("{}..", "x".repeat(250)))[1], "%2E%2E");
        assert_eq!(of(&"日".repeat(100))[0], format!("{}%+", "日".repeat(83)));
        assert_eq!(of(&"\0".repeat(MAX_KEY_BYTES - 1))[0], LONG);
        for part in ["x", "日", "\0", ".", "/", "//", "a/", "%"] {
            for count in [84, 250, 251, 252, 680, 1000, 2047] {
                let mut bytes = format!("/{}", part.repeat(count)).into_bytes();
                bytes.truncate(MAX_KEY_BYTES);
                check_names(&key(bytes));
            }
        }
    }

    proptest! {
        #[test]
        fn every_name_tells_its_key(bytes in prop::collection::vec(prop_oneof![
            Just(b'/'), Just(b'.'), Just(b'%'), Just(b'+'), Just(b'='), Just(b'~'), any::<u8>()
        ], 0..MAX_KEY_BYTES - 1)) {
            check_names(&key([b"/".as_slice(), &bytes].concat()));
        }
    }
}
