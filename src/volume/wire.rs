//! The connection under awc: a TCP stream that knows what it is waiting for.
//!
//! awc has one timeout for a whole request, upload included, and reads an answer only after the whole body is
//! written. This stream times only the spans in which the *volume* keeps us waiting, notices an answer that comes
//! before the body's end, and tells a connection that had been idle from one that was made for this request.

use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_rt::time::{Instant, Sleep, sleep};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a volume may keep this side waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the first byte of an answer, once the request is written.
    pub(super) answer: Duration,
    /// For the next byte of a body, in either direction.
    pub(super) progress: Duration,
}

/// What only the connection can know. Travels through awc inside an [`io::Error`].
#[derive(Debug, Error)]
pub(super) enum WireFault {
    /// Closed or reset before a byte of the answer; `reused` if it had served a request before.
    #[error("the connection was lost ({reason})")]
    Lost { reused: bool, reason: String },
    /// Answered before the request was complete; 0 if that answer is no HTTP.
    #[error("it answered {status} before the request was complete")]
    Early { status: u16 },
    /// Neither took nor gave a byte.
    #[error("nothing happened for {} ms", waited.as_millis())]
    Stalled { waited: Duration },
}

impl From<WireFault> for io::Error {
    fn from(fault: WireFault) -> io::Error {
        io::Error::other(fault)
    }
}

/// Where in the exchange of request and answer the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The answer has begun or is over, or there was no request yet.
    Answered,
    /// A request is being written, or its answer awaited.
    Asking,
}

#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    patience: Patience,
    phase: Phase,
    /// An earlier request was answered on this connection.
    served: bool,
    /// Runs while `waiting`; kept between waits because a timer is an allocation.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

/// `HTTP/1.1 507`: as much of an answer as names its status.
const STATUS_LINE_BYTES: usize = 12;

impl Wire {
    pub(super) fn new(stream: TcpStream, patience: Patience) -> Wire {
        Wire { stream, patience, phase: Phase::Answered, served: false, timer: None, waiting: false }
    }

    /// Counts the time since this side began to wait; ready when `limit` is over.
    fn poll_stalled(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<io::Error> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(WireFault::Stalled { waited: limit }.into())
    }

    fn lost(&self, reason: impl ToString) -> io::Error {
        WireFault::Lost { reused: self.served, reason: reason.to_string() }.into()
    }

    /// Looks for an answer, or the end, of a request that is still being written. Costs a system call only
    /// when there is one.
    fn early_answer(&self, cx: &mut Context<'_>) -> Option<io::Error> {
        if self.stream.poll_read_ready(cx).is_pending() {
            return None;
        }
        let mut line = [0; STATUS_LINE_BYTES];
        let mut buffer = ReadBuf::new(&mut line);
        match self.stream.poll_peek(cx, &mut buffer) {
            Poll::Pending => None,
            Poll::Ready(Ok(0)) => Some(self.lost("closed by the volume")),
            Poll::Ready(Ok(_)) => Some(WireFault::Early { status: status_of(buffer.filled()) }.into()),
            Poll::Ready(Err(err)) => Some(self.lost(err)),
        }
    }

    fn read_limit(&self) -> Duration {
        match self.phase {
            Phase::Asking => self.patience.answer,
            Phase::Answered => self.patience.progress,
        }
    }

    fn read_failed(&self, err: io::Error) -> io::Error {
        match self.phase {
            Phase::Asking => self.lost(err),
            Phase::Answered => err,
        }
    }
}

/// The status in the first bytes of an answer; 0 if there is none.
fn status_of(line: &[u8]) -> u16 {
    line.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0)
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut wire.stream).poll_read(cx, buffer) {
            Poll::Pending => wire.poll_stalled(cx, wire.read_limit()).map(Err),
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                wire.phase = Phase::Answered;
                wire.served = true;
                wire.waiting = false;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) if wire.phase == Phase::Asking => {
                Poll::Ready(Err(wire.lost("closed by the volume")))
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(err)) => Poll::Ready(Err(wire.read_failed(err))),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        wire.phase = Phase::Asking;
        if let Some(err) = wire.early_answer(cx) {
            return Poll::Ready(Err(err));
        }
        match Pin::new(&mut wire.stream).poll_write(cx, bytes) {
            Poll::Pending => wire.poll_stalled(cx, wire.patience.progress).map(Err),
            Poll::Ready(Ok(count)) => {
                wire.waiting = false;
                Poll::Ready(Ok(count))
            }
            // The volume has closed; what it said before that may still lie in the receive buffer.
            Poll::Ready(Err(err)) => Poll::Ready(Err(match wire.early_answer(cx) {
                Some(answer) => answer,
                None => wire.lost(err),
            })),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl ActixStream for Wire {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(&self.stream, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(&self.stream, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status_of(b"HTTP/1.1 507"), 507);
        assert_eq!(status_of(b"HTTP/1.1 5"), 0);
        assert_eq!(status_of(b"SSH-2.0-Open"), 0);
    }
}
