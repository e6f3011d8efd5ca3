//! The MD5 of a body that streams, computed in another thread while the next bytes are being sent. Hashing a
//! gigabyte takes longer than sending it to three volumes, and in the worker's own thread every other request
//! would wait for it.

use crate::model::Md5;
use actix_rt::task::{JoinHandle, spawn_blocking};
use bytes::Bytes;

/// So much is handed over at once: 0.4 ms of hashing, for which two wake-ups are a fair price. One such batch is
/// hashed while the next one gathers, so that an upload keeps no more than twice this in memory.
const BATCH_BYTES: usize = 256 << 10;

/// A body is hashed where it is until it has so many bytes: some milliseconds, in pieces between which others get
/// their turn. For less, handing over costs more than it gives.
const STAY_BYTES: usize = 4 << 20;

/// A hash under way.
pub(super) struct Hasher {
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
    hashed_here_bytes: usize,
    hashing: Hashing,
}

enum Hashing {
    Here(md5::Context),
    Elsewhere(JoinHandle<md5::Context>),
}

impl Hasher {
    pub(super) fn new() -> Hasher {
        let hashing = Hashing::Here(md5::Context::new());
        Hasher { gathered: Vec::new(), gathered_bytes: 0, hashed_here_bytes: 0, hashing }
    }

    /// Takes the next bytes. Waits while the batch before theirs is not done.
    pub(super) async fn add(&mut self, chunk: Bytes) {
        if let Hashing::Here(context) = &mut self.hashing
            && self.hashed_here_bytes < STAY_BYTES
        {
            self.hashed_here_bytes += chunk.len();
            context.consume(&chunk);
            return;
        }
        self.gathered_bytes += chunk.len();
        self.gathered.push(chunk);
        if self.gathered_bytes < BATCH_BYTES {
            return;
        }
        let context = self.hashing.done().await;
        let batch = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        self.hashing = Hashing::Elsewhere(spawn_blocking(|| consume(context, batch)));
    }

    /// The hash of everything.
    pub(super) async fn finish(mut self) -> Md5 {
        let context = consume(self.hashing.done().await, self.gathered);
        Md5(context.finalize().0)
    }
}

impl Hashing {
    async fn done(&mut self) -> md5::Context {
        match self {
            Hashing::Here(context) => context.clone(),
            Hashing::Elsewhere(batch) => batch.await.expect("hashing doesn't panic"),
        }
    }
}

fn consume(mut context: md5::Context, chunks: Vec<Bytes>) -> md5::Context {
    chunks.iter().for_each(|chunk| context.consume(chunk));
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn batches_make_the_hash_of_the_whole() {
        for (pieces, piece_bytes) in
            [(0, 1), (1, 1), (30, BATCH_BYTES), (9000, 1021), (14, 2 * BATCH_BYTES + 1)]
        {
            let whole: Vec<u8> = (0..pieces * piece_bytes).map(|number| (number % 251) as u8).collect();
            let mut hasher = Hasher::new();
            for piece in whole.chunks(piece_bytes) {
                hasher.add(Bytes::copy_from_slice(piece)).await;
            }
            assert_eq!(hasher.finish().await, Md5(md5::compute(&whole).0), "{pieces} of {piece_bytes}");
        }
    }
}
