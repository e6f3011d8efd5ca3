//! Which replica has a blob: a hedged search, so that one hung volume costs a reader milliseconds, not its timeout.

use super::{VolumeClient, VolumeError};
use crate::model::Replica;
use actix_rt::time::sleep;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::pin::pin;
use std::time::Duration;

/// After this time without an answer the next candidate is asked as well: longer than a disk seek under load, short
/// for a person.
const HEDGE_AFTER: Duration = Duration::from_millis(50);

/// A place that may have the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Where.
    pub replica: Replica,
    /// The paths to try there, one after another.
    pub paths: Vec<String>,
}

/// What a search found.
#[derive(Debug)]
pub enum Search {
    /// A candidate has the blob.
    Found {
        /// Which of the candidates.
        index: usize,
        /// At which of its paths.
        path: String,
        /// The size in bytes.
        size: u64,
    },
    /// Every candidate answered that it has no such file.
    Absent,
    /// Nobody has it, but not everybody answered.
    Unknown {
        /// The last failure.
        error: VolumeError,
    },
}

impl VolumeClient {
    /// HEADs `candidates` in order, asking the next one after a short while, or at once when the one before it has
    /// answered that it has nothing. The first that has the blob wins.
    pub async fn find(&self, candidates: &[Candidate]) -> Search {
        let mut asked = FuturesUnordered::new();
        let mut failure = None;
        for (index, candidate) in candidates.iter().enumerate() {
            asked.push(self.find_at(index, candidate));
            match within_hedge(&mut asked).await {
                Some(Ok(Some(found))) => return found,
                Some(Ok(None)) => {}
                Some(Err(error)) => failure = Some(error),
                None => self.health().suspect(&candidate.replica),
            }
        }
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Some(found)) => return found,
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Search::Absent, |error| Search::Unknown { error })
    }

    async fn find_at(&self, index: usize, candidate: &Candidate) -> Result<Option<Search>, VolumeError> {
        for path in &candidate.paths {
            if let Some(size) = self.head(&candidate.replica, path).await? {
                return Ok(Some(Search::Found { index, path: path.clone(), size }));
            }
        }
        Ok(None)
    }
}

/// The next answer, or `None` when it is time to ask somebody else.
async fn within_hedge<S: StreamExt + Unpin>(asked: &mut S) -> Option<S::Item> {
    match select(asked.next(), pin!(sleep(HEDGE_AFTER))).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => None,
    }
}
