//! The connection under awc: a TCP stream that knows what it is waiting for.
//!
//! awc has one timeout for a whole request, upload included, and reads an answer only after the whole body is
//! written. This stream times only the spans in which the *volume* keeps us waiting, notices an answer that comes
//! before the body's end, and tells a connection that had been idle from one that was made for this request.

use super::patience::{Patience, Wait};
use actix_rt::net::{ActixStream, Ready, TcpStream};
use actix_rt::time::{Instant, Sleep, sleep_until};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What only the connection can know. Travels through awc inside an [`io::Error`].
#[derive(Debug, Error)]
pub(super) enum WireFault {
    /// Closed or reset before a byte of the answer; `reused` if it had served a request before.
    #[error("the connection was lost ({reason})")]
    Lost { reused: bool, reason: String },
    /// Answered before the request was complete; 0 if that answer is no HTTP.
    #[error("it answered {status} before the request was complete")]
    Early { status: u16 },
    /// Isn't the volume that it is to be.
    #[error("{reason}")]
    Stranger { reason: String },
    /// Can't tell which volume it is.
    #[error("it answered {status} when it was asked which volume it is")]
    Refused { status: u16 },
    /// Neither took nor gave a byte.
    #[error("nothing happened for {} ms", waited.as_millis())]
    Stalled { waited: Duration },
    /// Took or gave too little.
    #[error("no more than {moved_bytes} bytes got through in {} ms", waited.as_millis())]
    Dribbled { moved_bytes: usize, waited: Duration },
}

impl From<WireFault> for io::Error {
    fn from(fault: WireFault) -> io::Error {
        io::Error::other(fault)
    }
}

/// Where in the exchange of request and answer the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A request is being written.
    Sending,
    /// It is written, and nothing of its answer there.
    Awaiting,
    /// The answer has begun or is over, or there was no request yet.
    Answered,
}

#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    patience: Patience,
    phase: Phase,
    /// An earlier request was answered on this connection.
    served: bool,
    /// What the volume has kept us waiting in this phase.
    wait: Wait,
    /// Kept between waits because a timer is an allocation.
    timer: Option<Pin<Box<Sleep>>>,
}

/// `HTTP/1.1 507`: as much of an answer as names its status.
const STATUS_LINE_BYTES: usize = 12;

impl Wire {
    pub(super) fn new(stream: TcpStream, patience: Patience) -> Wire {
        let (phase, wait) = (Phase::Answered, Wait::default());
        Wire { stream, patience, phase, served: false, wait, timer: None }
    }

    fn enter(&mut self, phase: Phase) {
        if self.phase != phase {
            self.phase = phase;
            self.wait = Wait::default();
        }
    }

    /// Counts the time that this side has to wait; ready when there was too much of it.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let limit = match self.phase {
            Phase::Awaiting => self.patience.answer,
            Phase::Sending | Phase::Answered => self.patience.progress,
        };
        loop {
            let now = Instant::now();
            let Some(again) = self.wait.look(now, limit) else {
                return Poll::Ready(self.stalled(limit).into());
            };
            let at = now + again;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            // One of an earlier wait that goes off sooner does too; to set it for every answer would be seen.
            if timer.is_elapsed() || timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    fn stalled(&self, waited: Duration) -> WireFault {
        match self.wait.moved_bytes() {
            0 => WireFault::Stalled { waited },
            moved_bytes => WireFault::Dribbled { moved_bytes, waited },
        }
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

    fn read_failed(&self, err: io::Error) -> io::Error {
        match self.phase {
            Phase::Sending | Phase::Awaiting => self.lost(err),
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
        if wire.phase == Phase::Sending {
            wire.enter(Phase::Awaiting);
        }
        let before = buffer.filled().len();
        match Pin::new(&mut wire.stream).poll_read(cx, buffer) {
            Poll::Pending => wire.poll_stalled(cx).map(Err),
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                wire.enter(Phase::Answered);
                wire.served = true;
                wire.wait.moved(Instant::now(), buffer.filled().len() - before);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) if wire.phase == Phase::Awaiting => {
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
        wire.enter(Phase::Sending);
        if let Some(err) = wire.early_answer(cx) {
            return Poll::Ready(Err(err));
        }
        match Pin::new(&mut wire.stream).poll_write(cx, bytes) {
            Poll::Pending => wire.poll_stalled(cx).map(Err),
            Poll::Ready(Ok(count)) => {
                wire.wait.moved(Instant::now(), count);
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
    use actix_rt::net::TcpSocket;
    use actix_rt::time::timeout;
    use nix::sys::socket::{setsockopt, sockopt};
    use std::io::Read;
    use std::net::TcpListener;
    use tokio::io::AsyncWriteExt;

    /// Writes four megabytes to a peer that takes `bytes` every 10 ms, over small segments and through small buffers, so that
    /// the little it takes shows as it does on a network. How that ends, within five seconds.
    async fn write_to_a_peer_that_takes(bytes: usize) -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        setsockopt(&listener, sockopt::TcpMaxSeg, &536)?;
        setsockopt(&listener, sockopt::RcvBuf, &4096)?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("it is connected to");
            let mut buffer = vec![0; bytes];
            while peer.read_exact(&mut buffer).is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(4096)?;
        let limit = Duration::from_millis(500);
        let patience = Patience { answer: limit, progress: limit };
        let mut wire = Wire::new(socket.connect(address).await?, patience);
        timeout(Duration::from_secs(5), wire.write_all(&vec![0; 4 << 20])).await.expect("it ends")
    }

    #[actix_rt::test]
    async fn a_peer_that_takes_a_body_in_drops_is_given_up() {
        let err = write_to_a_peer_that_takes(1000).await.unwrap_err();
        let fault: &WireFault = err.get_ref().and_then(|fault| fault.downcast_ref()).expect("our own fault");
        assert!(matches!(fault, WireFault::Dribbled { .. }), "{fault}");
    }

    #[actix_rt::test]
    async fn a_peer_that_takes_a_body_at_a_modest_rate_is_waited_for() {
        write_to_a_peer_that_takes(50_000).await.unwrap();
    }

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status_of(b"HTTP/1.1 507"), 507);
        assert_eq!(status_of(b"HTTP/1.1 5"), 0);
        assert_eq!(status_of(b"SSH-2.0-Open"), 0);
    }
}
