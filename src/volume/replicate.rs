//! One body to several replicas at the same time. Owns the buffers between a client that sends and volumes that
//! take, each at their own speed.
//!
//! Promises that no volume ever sees a complete request before [`Upload::finish`]: the last bytes are held back
//! until then. All requests advance inside `write` and `finish`, in the caller's task; between these calls nothing
//! is timed, so a client that is slow to send costs no volume its place.

use super::connect::Age;
use super::error::{Call, Failure};
use super::{VolumeClient, VolumeError, date_header};
use crate::model::Replica;
use awc::body::{BodySize, MessageBody};
use awc::http::header::HeaderValue;
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use metrics::Counter;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use thiserror::Error;

/// Chunks are cut to this size, so that a number of them is a bound in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Chunks that wait for one replica: 512 KiB evens out the jitter of a disk. The replicas share the chunks.
const QUEUE_CHUNKS: usize = 8;

/// So much of a body's beginning can be sent again if a kept connection turns out to be dead, which shows within
/// the first writes.
const RESEND_BYTES: usize = 128 * 1024;

/// Why a body can't be written any further. [`Upload::finish`] or [`Upload::abort`] tell what came of the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UploadError {
    /// Every replica has failed.
    #[error("no replica is left that takes the body")]
    NoReplicaLeft,
    /// There are more bytes than were announced.
    #[error("the body has more than the announced {length} bytes")]
    TooLong {
        /// What was announced, in bytes.
        length: u64,
    },
}

/// What became of one replica.
#[derive(Debug)]
pub struct Outcome {
    /// Where.
    pub replica: Replica,
    /// `Ok` if the volume has confirmed the whole file.
    pub result: Result<(), VolumeError>,
}

/// A body on its way to several replicas at the same time, through small bounded buffers. Dropping it is
/// [`Upload::abort`] without the outcomes.
pub struct Upload {
    client: VolumeClient,
    path: Rc<str>,
    date: HeaderValue,
    length: Option<u64>,
    received: u64,
    /// The newest chunk, not yet given to anybody.
    held: Option<Bytes>,
    /// The body from its beginning, while that is short enough to be sent again.
    beginning: Option<Vec<Bytes>>,
    beginning_bytes: usize,
    ended: bool,
    lanes: Vec<Lane>,
}

/// One replica's request.
struct Lane {
    replica: Replica,
    queue: Rc<RefCell<Queue>>,
    state: LaneState,
    resent: bool,
}

enum LaneState {
    Running(LocalBoxFuture<'static, Result<(), Failure>>),
    Over(Result<(), VolumeError>),
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    ended: bool,
}

impl VolumeClient {
    /// Begins to write a body of `length` bytes (`None`: not known) to the same path on every one of `replicas`.
    /// Its mtime becomes `mtime_us` (µs since 1970), cut to seconds. Nothing is sent before the first write.
    pub fn upload(&self, replicas: &[Replica], path: &str, length: Option<u64>, mtime_us: u64) -> Upload {
        let mut upload = Upload {
            client: self.clone(),
            path: path.into(),
            date: date_header(mtime_us),
            length,
            received: 0,
            held: None,
            beginning: Some(Vec::new()),
            beginning_bytes: 0,
            ended: false,
            lanes: Vec::with_capacity(replicas.len()),
        };
        for replica in replicas {
            let queue = Rc::<RefCell<Queue>>::default();
            let request = upload.request(replica, &queue, Age::Any);
            let state = LaneState::Running(request);
            upload.lanes.push(Lane { replica: replica.clone(), queue, state, resent: false });
        }
        upload
    }
}

impl Upload {
    /// Gives the next bytes to every replica that is left. Waits while one of their buffers is full; a replica that
    /// takes nothing, or too little, for as long as a volume may be silent is given up. Fails only when no replica is left or
    /// the body is longer than announced.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), UploadError> {
        self.received += bytes.len() as u64;
        if let Some(length) = self.length.filter(|length| self.received > *length) {
            return Err(UploadError::TooLong { length });
        }
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            if let Some(previous) = self.held.replace(chunk) {
                self.push(previous);
                self.room().await;
            }
        }
        match self.lanes.iter().any(Lane::is_running) {
            true => Ok(()),
            false => Err(UploadError::NoReplicaLeft),
        }
    }

    /// How many replicas have not failed so far.
    pub fn replicas_left(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.is_running()).count()
    }

    /// Sends the end of the body and waits for every volume's answer. The outcomes are in the order of the replicas.
    /// A body that is shorter than announced is aborted.
    pub async fn finish(mut self) -> Vec<Outcome> {
        if self.length.is_some_and(|length| length != self.received) {
            return self.abort().await;
        }
        self.ended = true;
        if let Some(last) = self.held.take() {
            self.push(last);
        }
        for lane in &self.lanes {
            lane.queue.borrow_mut().ended = true;
        }
        poll_fn(|cx| {
            self.advance(cx);
            match self.lanes.iter().any(Lane::is_running) {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
        self.outcomes()
    }

    /// Cuts every request off before its last byte, so that no volume keeps anything of it. Replicas that were
    /// still taking the body come out as [`VolumeError::Aborted`], which is not in doubt.
    pub async fn abort(self) -> Vec<Outcome> {
        self.outcomes()
    }

    fn outcomes(self) -> Vec<Outcome> {
        let path = self.path;
        let outcome = |lane: Lane| {
            let result = match lane.state {
                LaneState::Over(result) => result,
                LaneState::Running(_) => {
                    Err(VolumeError::Aborted { replica: lane.replica.clone(), path: path.to_string() })
                }
            };
            Outcome { replica: lane.replica, result }
        };
        self.lanes.into_iter().map(outcome).collect()
    }

    fn push(&mut self, chunk: Bytes) {
        self.beginning_bytes += chunk.len();
        if self.beginning_bytes > RESEND_BYTES {
            self.beginning = None;
        }
        if let Some(beginning) = &mut self.beginning {
            beginning.push(chunk.clone());
        }
        for lane in self.lanes.iter().filter(|lane| lane.is_running()) {
            lane.queue.borrow_mut().chunks.push_back(chunk.clone());
        }
    }

    /// Waits until every replica that is left has room for a chunk.
    async fn room(&mut self) {
        poll_fn(|cx| {
            self.advance(cx);
            match self.lanes.iter().any(Lane::is_full) {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Moves every request on as far as it goes.
    fn advance(&mut self, cx: &mut Context<'_>) {
        for index in 0..self.lanes.len() {
            while let LaneState::Running(request) = &mut self.lanes[index].state {
                let Poll::Ready(result) = request.as_mut().poll(cx) else { break };
                self.lanes[index].state = self.next_state(index, result);
            }
        }
    }

    fn next_state(&mut self, index: usize, result: Result<(), Failure>) -> LaneState {
        let lane = &self.lanes[index];
        let call = Call { method: "PUT", replica: &lane.replica, path: &self.path };
        let err = match (result, &self.beginning) {
            (Ok(()), _) => {
                self.client.health().wrote(&lane.replica, &self.path);
                return LaneState::Over(Ok(()));
            }
            (Err(Failure::Stale), Some(beginning)) if !lane.resent => {
                let queue = Queue { chunks: beginning.iter().cloned().collect(), ended: self.ended };
                let queue = Rc::new(RefCell::new(queue));
                let request = self.request(&lane.replica, &queue, Age::Fresh);
                let lane = &mut self.lanes[index];
                (lane.queue, lane.resent) = (queue, true);
                return LaneState::Running(request);
            }
            (Err(failure), _) if lane.resent => call.after_retry(failure),
            (Err(Failure::Stale), _) => call.no_answer("the connection was lost"),
            (Err(Failure::Failed(err)), _) => err,
        };
        lane.queue.borrow_mut().chunks.clear();
        LaneState::Over(Err(self.client.noted(err)))
    }

    fn request(
        &self,
        replica: &Replica,
        queue: &Rc<RefCell<Queue>>,
        age: Age,
    ) -> LocalBoxFuture<'static, Result<(), Failure>> {
        let size = self.length.map_or(BodySize::Stream, BodySize::Sized);
        let body =
            LaneBody { queue: queue.clone(), size, sent_bytes: self.client.health().sent_bytes(replica) };
        let (client, replica, path, date) =
            (self.client.clone(), replica.clone(), self.path.clone(), self.date.clone());
        Box::pin(async move {
            let call = Call { method: "PUT", replica: &replica, path: &path };
            client.put_once(age, call, date, body).await
        })
    }
}

impl Lane {
    fn is_running(&self) -> bool {
        matches!(self.state, LaneState::Running(_))
    }

    fn is_full(&self) -> bool {
        self.is_running() && self.queue.borrow().chunks.len() >= QUEUE_CHUNKS
    }
}

/// A queue as awc wants to see a body. It keeps no waker: whoever pushes also polls.
struct LaneBody {
    queue: Rc<RefCell<Queue>>,
    size: BodySize,
    sent_bytes: Counter,
}

impl MessageBody for LaneBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let mut queue = self.queue.borrow_mut();
        match queue.chunks.pop_front() {
            Some(chunk) => {
                self.sent_bytes.increment(chunk.len() as u64);
                Poll::Ready(Some(Ok(chunk)))
            }
            None if queue.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
