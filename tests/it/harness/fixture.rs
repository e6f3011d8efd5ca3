//! The cluster that the Go original wrote: an index, five volumes, and what each key should be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

use super::{TempDir, repository};

/// What `go-cluster.expected.json` says about one key.
#[derive(Debug, Deserialize)]
pub struct ExpectedBlob {
    /// `live`, `unlinked` or another state that the file names.
    pub state: String,
    pub size: Option<u64>,
    pub md5: Option<String>,
    /// In the order of the record, as `127.0.0.1:13001/sv03`.
    #[serde(default)]
    pub volumes: Vec<String>,
}

/// The fixture, unpacked into a directory of its own.
#[derive(Debug)]
pub struct GoCluster {
    dir: TempDir,
    /// By key, base64.
    pub expected: BTreeMap<String, ExpectedBlob>,
}

impl GoCluster {
    pub fn unpack() -> Self {
        let dir = TempDir::new();
        let fixtures = repository().join("tests/fixtures");
        let status = Command::new("tar")
            .arg("xzf")
            .arg(fixtures.join("go-cluster.tar.gz"))
            .arg("-C")
            .arg(dir.path())
            .status()
            .expect("tar is installed");
        assert!(status.success(), "tar: {status}");
        let expected =
            std::fs::read(fixtures.join("go-cluster.expected.json")).expect("the fixture is there");
        Self { dir, expected: serde_json::from_slice(&expected).expect("the fixture is JSON") }
    }

    /// `number` is 1 to 5; the volume was served as `127.0.0.1:1300{number}`.
    pub fn volume(&self, number: u8) -> PathBuf {
        self.dir.join(&format!("volume{number}"))
    }

    pub fn index(&self) -> PathBuf {
        self.dir.join("indexdb")
    }
}
