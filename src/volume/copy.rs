//! One file from one volume to another, verified before its last byte is written, so that a wrong copy never
//! exists.

use super::{VolumeClient, VolumeError};
use crate::model::{Md5, Replica};
use thiserror::Error;

/// What a file must contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The size in bytes.
    pub size: u64,
    /// The MD5, where it is known.
    pub md5: Option<Md5>,
}

/// Why a file was not copied.
#[derive(Debug, Clone, Error)]
pub enum CopyError {
    /// The source has no such file.
    #[error("{path} is not on volume {replica}")]
    Missing {
        /// Where it was looked for.
        replica: Replica,
        /// The path below the replica.
        path: String,
    },
    /// The source failed while it was read.
    #[error("the source failed: {0}")]
    Source(VolumeError),
    /// The source has another content than expected; nothing was written.
    #[error("{path} on volume {replica} has another {what} than expected")]
    Mismatch {
        /// Where the wrong content is.
        replica: Replica,
        /// The path below the replica.
        path: String,
        /// `size` or `md5`.
        what: &'static str,
    },
    /// The target did not take the file.
    #[error("the target failed: {0}")]
    Target(VolumeError),
}

impl CopyError {
    /// Whether the file may still appear at the target.
    pub fn in_doubt(&self) -> bool {
        match self {
            CopyError::Target(err) => err.in_doubt(),
            CopyError::Missing { .. } | CopyError::Source(_) | CopyError::Mismatch { .. } => false,
        }
    }
}

impl VolumeClient {
    /// Streams one file from one volume to another and verifies its size and, where known, its MD5. After
    /// any error but one [in doubt](CopyError::in_doubt) nothing was written to `to_path`. The copy has the source's
    /// mtime, or `mtime_us` (µs since 1970, cut to seconds) if the source doesn't tell its own.
    pub async fn copy(
        &self,
        from: &Replica,
        from_path: &str,
        to: &Replica,
        to_path: &str,
        expected: &Content,
        mtime_us: u64,
    ) -> Result<(), CopyError> {
        let file = || (from.clone(), from_path.to_owned());
        let mismatch = |what| {
            let (replica, path) = file();
            CopyError::Mismatch { replica, path, what }
        };
        let mut source = match self.open(from, from_path).await.map_err(CopyError::Source)? {
            Some(source) => source,
            None => {
                let (replica, path) = file();
                return Err(CopyError::Missing { replica, path });
            }
        };
        if source.size().is_some_and(|size| size != expected.size) {
            return Err(mismatch("size"));
        }
        let mtime_us = source.mtime_us().unwrap_or(mtime_us);
        let mut target = self.upload(std::slice::from_ref(to), to_path, Some(expected.size), mtime_us);
        let mut digest = md5::Context::new();
        let mut size = 0;
        while let Some(chunk) = source.next().await.map_err(CopyError::Source)? {
            size += chunk.len() as u64;
            if size > expected.size {
                return Err(mismatch("size"));
            }
            if expected.md5.is_some() {
                digest.consume(&chunk);
            }
            if target.write(chunk).await.is_err() {
                break;
            }
        }
        if target.replicas_left() > 0 {
            if size != expected.size {
                return Err(mismatch("size"));
            }
            if expected.md5.is_some_and(|md5| md5.0 != digest.finalize().0) {
                return Err(mismatch("md5"));
            }
        }
        target.finish().await.into_iter().try_for_each(|outcome| outcome.result.map_err(CopyError::Target))
    }
}
