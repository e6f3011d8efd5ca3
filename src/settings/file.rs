//! The file of `--config`: TOML, one setting a line under the name of its flag. A mistake in it is told with its line and
//! never with its content, which may be a password.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A thousand volumes have 30 KiB; what is longer is some other file.
const MAX_BYTES: u64 = 1 << 20;

/// What a setting's value may be in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text or a whole number.
    Text,
    /// `true` or `false`.
    Boolean,
    /// Text with commas, or an array of texts.
    List,
}

/// A setting as the file has it.
#[derive(Clone)]
pub struct Entry {
    /// The flag without dashes.
    pub name: String,
    /// As on a command line.
    pub value: String,
    /// From 1.
    pub line: usize,
}

/// A file without mistakes, as far as can be said without knowing what values mean.
#[derive(Clone)]
pub struct SettingsFile {
    /// As it was given.
    pub path: PathBuf,
    /// In the order of the file.
    pub entries: Vec<Entry>,
    /// Whether everybody on the machine can read it.
    pub is_public: bool,
}

/// Why a file is not taken.
#[derive(Debug, Error)]
pub enum FileError {
    /// It can't be read.
    #[error("the configuration {path:?} can't be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is something else.
    #[error("{0:?} has more than {MAX_BYTES} bytes; that is no configuration")]
    TooLarge(PathBuf),
    /// Nothing is set in it.
    #[error("{0:?} sets nothing; put settings into it, or leave out --config")]
    Empty(PathBuf),
    /// A line is wrong.
    #[error("{path:?}, line {line}: {mistake}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        mistake: Mistake,
    },
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Mistake {
    /// Bytes that are no text.
    #[error("this is not UTF-8")]
    NotUtf8,
    /// No TOML.
    #[error("this is no TOML ({0}); write name = \"text\", name = 1 or name = true")]
    NotToml(String),
    /// Two values for one name.
    #[error("{0} is set a second time; leave one of them out")]
    Twice(String),
    /// Not the name of a flag of the cluster.
    #[error(
        "there is no setting {0:?}; mkv --help lists them, and flags of one command are given behind the command"
    )]
    Unknown(String),
    /// Another type.
    #[error("{name} must be {expected}, and this is {found}")]
    Type {
        /// The setting.
        name: String,
        /// In words.
        expected: &'static str,
        /// In TOML's words.
        found: String,
    },
}

impl SettingsFile {
    /// Reads the file at `path`; `kind_of` knows the settings there are.
    pub fn read(path: &Path, kind_of: impl Fn(&str) -> Option<Kind>) -> Result<SettingsFile, FileError> {
        let unreadable = |source| FileError::Unreadable { path: path.into(), source };
        let file = File::open(path).map_err(unreadable)?;
        let is_public = file.metadata().map_err(unreadable)?.permissions().mode() & 0o004 != 0;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(FileError::TooLarge(path.into()));
        }
        let entries = parse(&bytes, kind_of).map_err(|(offset, mistake)| FileError::Line {
            path: path.into(),
            line: line_of(&bytes, offset),
            mistake,
        })?;
        match entries.is_empty() {
            true => Err(FileError::Empty(path.into())),
            false => Ok(SettingsFile { path: path.into(), entries, is_public }),
        }
    }
}

/// The entries in the order of the file, or the first mistake and the byte where it is.
fn parse(bytes: &[u8], kind_of: impl Fn(&str) -> Option<Kind>) -> Result<Vec<Entry>, (usize, Mistake)> {
    let text = str::from_utf8(bytes).map_err(|err| (err.valid_up_to(), Mistake::NotUtf8))?;
    let table = DeTable::parse(text).map_err(|err| syntax_mistake(text, &err))?;
    let mut pairs: Vec<_> = table.get_ref().iter().collect();
    pairs.sort_by_key(|(name, _)| name.span().start);
    let entry = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let offset = name.span().start;
        let name: &str = AsRef::<str>::as_ref(name.get_ref());
        let kind = kind_of(name).ok_or_else(|| (offset, Mistake::Unknown(name.into())))?;
        let value = as_word(value.get_ref(), kind).ok_or_else(|| (offset, wrong_type(name, kind, value)))?;
        Ok(Entry { name: name.into(), value, line: line_of(bytes, offset) })
    };
    pairs.into_iter().map(entry).collect()
}

/// The parser's words, without the text that it would quote.
fn syntax_mistake(text: &str, err: &toml::de::Error) -> (usize, Mistake) {
    let span = err.span().unwrap_or(0..0);
    let mistake = match err.message() {
        "duplicate key" => Mistake::Twice(text.get(span.clone()).unwrap_or("").into()),
        message => Mistake::NotToml(message.replace('\n', ", ")),
    };
    (span.start, mistake)
}

/// The value as it would stand on a command line; `None` if it is of another type.
fn as_word(value: &DeValue<'_>, kind: Kind) -> Option<String> {
    match (kind, value) {
        (Kind::Text | Kind::List, DeValue::String(text)) => Some(text.to_string()),
        (Kind::Text, DeValue::Integer(number)) => {
            Some(i128::from_str_radix(number.as_str(), number.radix()).ok()?.to_string())
        }
        (Kind::Boolean, DeValue::Boolean(boolean)) => Some(boolean.to_string()),
        (Kind::List, DeValue::Array(elements)) => {
            let words: Option<Vec<&str>> =
                elements.iter().map(|element| element.get_ref().as_str()).collect();
            Some(words?.join(","))
        }
        _ => None,
    }
}

fn wrong_type(name: &str, kind: Kind, value: &Spanned<DeValue<'_>>) -> Mistake {
    let expected = match kind {
        Kind::Text => "text in quotes or a whole number",
        Kind::Boolean => "true or false, without quotes",
        Kind::List => "text in quotes or an array of texts",
    };
    Mistake::Type { name: name.into(), expected, found: value.get_ref().type_str().into() }
}

fn line_of(bytes: &[u8], offset: usize) -> usize {
    1 + bytes[..offset.min(bytes.len())].iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(name: &str) -> Option<Kind> {
        match name {
            "db" | "port" | "userpass" => Some(Kind::Text),
            "protect" => Some(Kind::Boolean),
            "volumes" => Some(Kind::List),
            _ => None,
        }
    }

    fn check(text: &str) -> Result<Vec<(String, String, usize)>, String> {
        let entries = parse(text.as_bytes(), kind_of);
        let entries = entries
            .map_err(|(offset, mistake)| format!("{}: {mistake}", line_of(text.as_bytes(), offset)))?;
        Ok(entries.into_iter().map(|entry| (entry.name, entry.value, entry.line)).collect())
    }

    #[test]
    fn every_type_becomes_a_word() {
        let text = "# ours\nvolumes = [\"a:1\",\n  \"b:1\"]\nport = 3_000\nprotect = true\ndb = 'x'\n";
        let expected =
            [("volumes", "a:1,b:1", 2), ("port", "3000", 4), ("protect", "true", 5), ("db", "x", 6)];
        let expected = expected.map(|(name, value, line)| (name.to_owned(), value.to_owned(), line));
        assert_eq!(check(text), Ok(expected.to_vec()));
        assert_eq!(check("volumes = 'a,b'").unwrap()[0].1, "a,b");
        assert_eq!(check("port = 0x10").unwrap()[0].1, "16");
    }

    #[test]
    fn a_mistake_never_quotes_the_line() {
        for text in
            ["userpass = \"me:hunter2", "userpass = me:hunter2", "userpass = \"a\"\nuserpass = 'hunter2'"]
        {
            let mistake = check(text).unwrap_err();
            assert!(!mistake.contains("hunter2"), "{mistake}");
        }
    }
}
