//! Directory listings of volumes, as nginx's `autoindex_format json` gives them: read as bytes and as a stream, so
//! that neither a name in Latin-1 nor a folder of a million files is a problem.
//!
//! nginx writes `[`, one object to a line, and `]`. Whatever doesn't begin and end so is an error, never a shorter
//! listing: an error page, a listing as HTML, or one that was cut off.

use super::download::Download;
use super::{VolumeClient, VolumeError};
use crate::model::Replica;
use bytes::{Buf, BytesMut};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use std::borrow::Cow;
use std::fmt;

/// The longest line that is read: a file name of 255 bytes, each escaped to six, and the rest of its object.
const MAX_LINE_BYTES: usize = 4096;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Any bytes but `/` and NUL.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File {
        /// Its size in bytes.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A device, a socket, or whatever else nginx doesn't name.
    Other,
}

/// A listing on its way.
pub struct Listing {
    download: Download,
    replica: Replica,
    path: String,
    lines: Lines,
}

/// The lines of a listing as they come in.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    place: Place,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    Within,
    Behind,
}

impl VolumeClient {
    /// Begins to list the directory `path` (beginning with `/`, without one at its end; empty for the place itself); `None`
    /// if there is none.
    pub async fn list(&self, replica: &Replica, path: &str) -> Result<Option<Listing>, VolumeError> {
        let path = format!("{path}/");
        let listing = |download| Listing {
            download,
            replica: replica.clone(),
            path: path.clone(),
            lines: Lines::default(),
        };
        Ok(self.open(replica, &path).await?.map(listing))
    }

    /// All entries of a directory, none if it doesn't exist.
    pub async fn entries(&self, replica: &Replica, path: &str) -> Result<Vec<DirEntry>, VolumeError> {
        let mut entries = Vec::new();
        if let Some(mut listing) = self.list(replica, path).await? {
            while let Some(entry) = listing.next().await? {
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

impl Listing {
    /// The next entry; `None` behind the last.
    pub async fn next(&mut self) -> Result<Option<DirEntry>, VolumeError> {
        loop {
            if let Some(entry) = self.lines.next().map_err(|reason| self.fault(&reason))? {
                return Ok(Some(entry));
            }
            match self.download.next().await? {
                Some(chunk) => self.lines.add(&chunk),
                None => return self.lines.end().map(|()| None).map_err(|reason| self.fault(&reason)),
            }
        }
    }

    fn fault(&self, reason: &str) -> VolumeError {
        let (replica, path) = (self.replica.clone(), self.path.clone());
        VolumeError::NoListing { replica, path, reason: reason.to_owned() }
    }
}

impl Lines {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next entry of which everything is there; why what is there is no listing.
    pub(super) fn next(&mut self) -> Result<Option<DirEntry>, String> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let taken = self.place.take(&self.buffer[..end]);
            self.buffer.advance(end + 1);
            if let Some(entry) = taken? {
                return Ok(Some(entry));
            }
        }
        match self.buffer.len() > MAX_LINE_BYTES {
            true => Err("a line of it has no end".to_owned()),
            false => Ok(None),
        }
    }

    /// Nothing more comes; why that is no whole listing.
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.place.take(&self.buffer.split())?;
        match self.place {
            Place::Behind => Ok(()),
            Place::Before | Place::Within => Err("it ends in the middle".to_owned()),
        }
    }
}

impl Place {
    /// The entry in the next line, if it has one; why not, if it should.
    fn take(&mut self, line: &[u8]) -> Result<Option<DirEntry>, String> {
        let line = line.trim_ascii();
        match (*self, line) {
            (_, b"") => Ok(None),
            (Place::Before, b"[") => {
                *self = Place::Within;
                Ok(None)
            }
            (Place::Within, b"]") => {
                *self = Place::Behind;
                Ok(None)
            }
            (Place::Within, line) => match parse(line.strip_suffix(b",").unwrap_or(line)) {
                Ok(entry) => Ok(Some(entry)),
                Err(err) => Err(format!("{} is no entry: {err}", line.escape_ascii())),
            },
            (Place::Before | Place::Behind, line) => {
                let start = line[..line.len().min(40)].escape_ascii().to_string();
                Err(format!("it has {start:?} where JSON should be"))
            }
        }
    }
}

/// An object as nginx writes it. What this module has no use for (mtime) is passed over.
#[derive(Deserialize)]
struct Object<'a> {
    name: Name,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    size: Option<u64>,
}

fn parse(line: &[u8]) -> Result<DirEntry, serde_json::Error> {
    let object: Object = serde_json::from_slice(line)?;
    let kind = match (&*object.kind, object.size) {
        ("file", Some(size)) => EntryKind::File { size },
        ("file", None) => return Err(serde_json::Error::missing_field("size")),
        ("directory", _) => EntryKind::Directory,
        _ => EntryKind::Other,
    };
    Ok(DirEntry { name: object.name.0, kind })
}

/// A string that need not be UTF-8.
struct Name(Vec<u8>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a file name")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Name, E> {
                Ok(Name(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_bytes() {
        let entry = |name: &[u8], kind| DirEntry { name: name.to_vec(), kind };
        let cases: [(&[u8], DirEntry); 3] = [
            (
                br#"{ "name":"L2E=", "type":"file", "mtime":"Thu, 01 Jan 1970 00:00:09 GMT", "size":7 }"#,
                entry(b"L2E=", EntryKind::File { size: 7 }),
            ),
            (
                b"{ \"name\":\"\xe9\\u0001\\\"\", \"type\":\"directory\" }",
                entry(b"\xe9\x01\"", EntryKind::Directory),
            ),
            (br#"{ "name":"pipe", "type":"other" }"#, entry(b"pipe", EntryKind::Other)),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line).unwrap(), expected);
        }
        assert!(parse(br#"{ "name":"x", "type":"file" }"#).is_err());
    }
}
