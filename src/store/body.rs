//! The client's body: bounded in time, so that no client holds a key for ever, and told apart into small ones,
//! which are kept whole, and large ones, which stream.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use std::pin::Pin;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, timeout};

/// A body up to this size is kept in memory: it can simply be sent again when a volume fails.
const SMALL_BYTES: usize = 64 << 10;

/// The slowest client that is waited for, in bytes per second, measured over [`BodyLimits::no_progress`]. A modem
/// is faster; one byte a second is an attack or a fault.
const MIN_BYTES_PER_SECOND: u64 = 1024;

/// How patient the store is with a client.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// How long a client may send nothing, and the window in which it must keep up the least rate.
    pub no_progress: Duration,
}

/// Why a body ended early.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BodyError {
    /// Too little came for too long.
    #[error("the body came too slowly; nothing was stored")]
    TooSlow,
    /// The connection closed, or what came was not HTTP.
    #[error("the body ended early ({0}); nothing was stored")]
    Cut(String),
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>>>>;

/// A body that is read once.
pub(super) struct Body {
    chunks: Chunks,
    limits: BodyLimits,
    window_start: Instant,
    window_bytes: u64,
    /// What was read ahead to see whether the body is small.
    ahead: Option<Bytes>,
}

/// A body after its first bytes.
pub(super) enum Sized {
    Small(Bytes),
    Large(Body),
}

impl Body {
    pub(super) fn new(
        chunks: impl Stream<Item = Result<Bytes, BodyError>> + 'static,
        limits: BodyLimits,
    ) -> Body {
        let chunks = Box::pin(chunks);
        Body { chunks, limits, window_start: Instant::now(), window_bytes: 0, ahead: None }
    }

    /// Reads on until the end, or until the body is known to be large. A client's word for the length is enough
    /// to call it large, never to call it small.
    pub(super) async fn sized(mut self, announced_bytes: Option<u64>) -> Result<Sized, BodyError> {
        if announced_bytes.is_some_and(|length| length > SMALL_BYTES as u64) {
            return Ok(Sized::Large(self));
        }
        let mut read = BytesMut::new();
        while let Some(chunk) = self.next().await? {
            if read.is_empty() && announced_bytes == Some(chunk.len() as u64) {
                return Ok(Sized::Small(chunk));
            }
            read.extend_from_slice(&chunk);
            if read.len() > SMALL_BYTES {
                self.ahead = Some(read.freeze());
                return Ok(Sized::Large(self));
            }
        }
        Ok(Sized::Small(read.freeze()))
    }

    /// The next chunk, not empty; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        loop {
            let next = timeout(self.limits.no_progress, self.chunks.next()).await;
            match next.map_err(|_| BodyError::TooSlow)?.transpose()? {
                Some(chunk) if chunk.is_empty() => {}
                Some(chunk) => return self.keep_up(chunk.len()).map(|()| Some(chunk)),
                None => return Ok(None),
            }
        }
    }

    /// The time that volumes take is not the client's; called whenever the body was not being waited for.
    pub(super) fn forgive_wait(&mut self, waited: Duration) {
        self.window_start += waited;
    }

    fn keep_up(&mut self, came_bytes: usize) -> Result<(), BodyError> {
        self.window_bytes += came_bytes as u64;
        let elapsed = self.window_start.elapsed();
        if elapsed < self.limits.no_progress {
            return Ok(());
        }
        let least = MIN_BYTES_PER_SECOND as f64 * elapsed.as_secs_f64();
        let came = std::mem::take(&mut self.window_bytes);
        self.window_start = Instant::now();
        if (came as f64) < least { Err(BodyError::TooSlow) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    const LIMITS: BodyLimits = BodyLimits { no_progress: Duration::from_millis(50) };

    fn body(chunks: &[&'static [u8]]) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk))).collect();
        Body::new(stream::iter(chunks), LIMITS)
    }

    #[actix_rt::test]
    async fn a_small_body_is_kept_whole() {
        let Ok(Sized::Small(bytes)) = body(&[b"ab", b"", b"c"]).sized(None).await else {
            panic!("not small")
        };
        assert_eq!(bytes, "abc");
    }

    #[actix_rt::test]
    async fn a_large_body_without_a_length_loses_no_byte() {
        static PIECE: [u8; SMALL_BYTES] = [7; SMALL_BYTES];
        let Ok(Sized::Large(mut large)) = body(&[b"ab", &PIECE, b"c"]).sized(None).await else {
            panic!("not large")
        };
        let mut total = 0;
        while let Some(chunk) = large.next().await.unwrap() {
            total += chunk.len();
        }
        assert_eq!(total, SMALL_BYTES + 3);
    }

    #[actix_rt::test]
    async fn silence_and_a_trickle_are_too_slow() {
        let silent = Body::new(stream::pending(), LIMITS);
        assert_eq!(silent.sized(None).await.err(), Some(BodyError::TooSlow));
        let trickle = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok(Bytes::from_static(b"x")), ()))
        });
        assert_eq!(Body::new(trickle, LIMITS).sized(None).await.err(), Some(BodyError::TooSlow));
    }
}
