//! Volumes that misbehave: a listener whose connections each run a script, in threads of their own.

use minikeyvalue::model::Replica;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub(crate) struct Stub {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Stub {
    /// Runs `script` for each connection, with the connection's number from 0.
    pub(crate) fn start(script: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Stub {
        Stub::behind(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    /// The same over a network with small segments, which makes the kernel keep small buffers on both sides: on the
    /// loopback megabytes lie between a volume and us, and how slowly it reads would not be seen.
    pub(crate) fn narrow(script: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        setsockopt(&listener, sockopt::TcpMaxSeg, &536).unwrap();
        setsockopt(&listener, sockopt::RcvBuf, &4096).unwrap();
        Stub::behind(listener, script)
    }

    fn behind(listener: TcpListener, script: impl Fn(usize, &mut Peer) + Send + Sync + 'static) -> Stub {
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let (script, count) = (Arc::new(script), connections.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, number) = (script.clone(), count.fetch_add(1, Ordering::SeqCst));
                std::thread::spawn(move || script(number, &mut Peer { stream: stream.unwrap() }));
            }
        });
        Stub { port, connections }
    }

    /// Takes connections and requests, and never answers.
    pub(crate) fn silent() -> Stub {
        Stub::start(|_, peer| peer.read_to_end())
    }

    /// Answers every request without a body with `answer`.
    pub(crate) fn answering(answer: &'static str) -> Stub {
        Stub::start(move |_, peer| {
            while let Some(head) = peer.read_head() {
                peer.read_body(&head);
                peer.write(answer);
            }
        })
    }

    pub(crate) fn replica(&self) -> Replica {
        format!("127.0.0.1:{}", self.port).parse().unwrap()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A place where nobody listens.
pub(crate) fn nobody() -> Replica {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("127.0.0.1:{port}").parse().unwrap()
}

pub(crate) struct Peer {
    stream: TcpStream,
}

impl Peer {
    /// The head of the next request, in lower case; `None` when the client has gone.
    pub(crate) fn read_head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.read_some(1)?);
        }
        Some(String::from_utf8(head).unwrap().to_lowercase())
    }

    /// The body that `head` announces by its length.
    pub(crate) fn read_body(&mut self, head: &str) {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        for _ in 0..length.map_or(0, |length| length.parse().unwrap()) {
            self.read_some(1);
        }
    }

    /// Reads `count` bytes; the last of them, or `None` at the end.
    pub(crate) fn read_some(&mut self, count: usize) -> Option<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).ok()?;
        bytes.last().copied()
    }

    pub(crate) fn read_to_end(&mut self) {
        let mut buffer = [0; 65536];
        while self.stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
    }

    /// Keeps the connection and does nothing more, for as long as the tests run.
    pub(crate) fn freeze(&mut self) {
        loop {
            std::thread::park();
        }
    }

    pub(crate) fn write(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes());
    }

    /// Writes `piece` after every `pause`, until the client has gone.
    pub(crate) fn dribble(&mut self, piece: &[u8], pause: Duration) {
        while self.stream.write_all(piece).is_ok() {
            std::thread::sleep(pause);
        }
    }
}
