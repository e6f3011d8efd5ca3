//! What integration tests are made of: volumes and stubs that clean up behind themselves, an HTTP client
//! that hides nothing, and waiting with a deadline in place of sleeping.

// Every test file uses some of it, none uses all.
#![allow(dead_code, unused_imports)]

mod admin;
mod fixture;
mod http;
mod index;
mod laid;
mod master;
mod mounts;
mod ports;
mod process;
mod random;
mod stub;
mod temp_dir;
mod volume;
mod wait;

pub use admin::Administered;
pub use fixture::{ExpectedBlob, GoCluster};
pub use http::{Response, get, http, raw, try_http, try_raw};
pub use index::{entries_of, lines_of};
pub use laid::{age, file_at, write};
pub use master::{Cluster, Master, MasterBuilder, addresses, numbered, placer};
pub use mounts::Mounts;
pub use ports::PortLease;
pub use process::{children, command_line, connections, is_gone, send, stop};
pub use random::Random;
pub use stub::TcpStub;
pub use temp_dir::TempDir;
pub use volume::{Volume, VolumeBuilder, files_below, volumes};
pub use wait::{PATIENCE, eventually, wait_for, wait_within};

use std::path::PathBuf;

/// The root of the repository, where `volume` and `mkv` are.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
