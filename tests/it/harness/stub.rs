//! Volumes that misbehave in ways that nginx can't be asked to: TCP servers in a thread.

use nix::sys::socket::{setsockopt, sockopt};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Serves until it is dropped; its connections are closed then.
#[derive(Debug)]
pub struct TcpStub {
    addr: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    accepted: AtomicUsize,
    /// Also keeps the connections of a silent stub open. `None` once the stub is dropped.
    open: Mutex<Option<Vec<TcpStream>>>,
}

impl TcpStub {
    /// Accepts, reads nothing, never answers: a machine that hangs.
    pub fn silent() -> Self {
        Self::serve(|_| {})
    }

    /// Reads the head of a request and the first bytes of its body, then resets or closes the connection.
    pub fn closing_in_mid_body() -> Self {
        Self::serve(|mut stream| {
            let mut reader = BufReader::new(&stream);
            if read_head(&mut reader).is_some() {
                let _ = reader.read(&mut [0; 16]);
            }
            let _ = stream.flush();
            let _ = stream.shutdown(Shutdown::Both);
        })
    }

    /// Says `text` to whoever connects, and closes when asked for anything: a server of another kind.
    pub fn saying(text: &'static str) -> Self {
        Self::serve(move |mut stream| {
            let _ = stream.write_all(text.as_bytes());
            let _ = stream.read(&mut [0; 16]);
        })
    }

    /// Reads every request to its end and answers 500 with an empty body, on connections that stay.
    pub fn answering_500() -> Self {
        Self::answering("500 Internal Server Error")
    }

    /// Reads every request to its end and answers `status` (`"507 Insufficient Storage"`) with an empty body.
    pub fn answering(status: &'static str) -> Self {
        Self::answering_with(status, "")
    }

    /// The same with `headers`, each with its line's end.
    pub fn answering_with(status: &'static str, headers: &'static str) -> Self {
        Self::serve(move |stream| answer_all(stream, status, headers))
    }

    /// The same, with empty bodies, at an address that was another's until now.
    pub fn answering_at(addr: &str, status: &'static str) -> Self {
        let listener = super::wait_for("the address is free", || TcpListener::bind(addr).ok());
        Self::serve_at(listener, move |stream| answer_all(stream, status, ""))
    }

    /// A volume that is up, empty and takes what is small at once, but large bodies at 50 KB a second. Small segments have the
    /// kernel keep small buffers, in which that shows.
    pub fn taking_in_drops() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the kernel has a free port");
        setsockopt(&listener, sockopt::TcpMaxSeg, &536).expect("it has no connection yet");
        setsockopt(&listener, sockopt::RcvBuf, &4096).expect("it has no connection yet");
        // What was put under each path, which it gives back; everything is listed as empty.
        let kept = Mutex::<HashMap<String, Vec<u8>>>::default();
        Self::serve_at(listener, move |mut stream| {
            let mut reader =
                BufReader::with_capacity(512, stream.try_clone().expect("a socket can be cloned"));
            while let Some(head) = read_head(&mut reader) {
                if head.content_length > 4096 {
                    while discard(&mut reader, 2500).is_some() {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    return;
                }
                let mut body = vec![0; head.content_length as usize];
                if reader.read_exact(&mut body).is_err() {
                    return;
                }
                let (status, content) = if head.is_put {
                    kept.lock().expect("no holder panics").insert(head.path.clone(), body);
                    ("201 Created", Vec::new())
                } else if head.path.ends_with('/') {
                    ("200 OK", b"[\n]\n".to_vec())
                } else {
                    match kept.lock().expect("no holder panics").get(&head.path) {
                        Some(content) => ("200 OK", content.clone()),
                        None => ("404 Not Found", Vec::new()),
                    }
                };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", content.len());
                let sent = if head.is_head { Vec::new() } else { content };
                if stream.write_all(&[answer.as_bytes(), &sent].concat()).is_err() {
                    return;
                }
            }
        })
    }

    /// `127.0.0.1:port`, to be given as a volume.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    fn serve(behave: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::serve_at(TcpListener::bind("127.0.0.1:0").expect("the kernel has a free port"), behave)
    }

    fn serve_at(listener: TcpListener, behave: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let addr = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared { open: Mutex::new(Some(Vec::new())), ..Shared::default() });
        let stub = Self { addr, shared: shared.clone() };
        let behave = Arc::new(behave);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let mut open = shared.open.lock().expect("no holder panics");
                let Some(open) = open.as_mut() else { return };
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                open.push(stream.try_clone().expect("a socket can be cloned"));
                let behave = behave.clone();
                std::thread::spawn(move || behave(stream));
            }
        });
        stub
    }
}

impl Drop for TcpStub {
    fn drop(&mut self) {
        let open = self.shared.open.lock().expect("no holder panics").take();
        for stream in open.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, which sees that nothing is to be kept any more, and ends.
        let _ = TcpStream::connect(&self.addr);
    }
}

/// Reads requests to their ends, and gives each the same answer.
fn answer_all(mut stream: TcpStream, status: &str, headers: &str) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    while let Some(head) = read_head(&mut reader) {
        if head.expects_continue {
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if discard_body(&mut reader, &head).is_none() {
            return;
        }
        let answer = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[derive(Debug, Default)]
struct Head {
    path: String,
    is_put: bool,
    is_head: bool,
    content_length: u64,
    chunked: bool,
    expects_continue: bool,
}

/// `None` when the connection ends before a request does.
fn read_head(reader: &mut impl BufRead) -> Option<Head> {
    let mut head = Head::default();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Some(head);
        }
        if let (true, Some(path)) = (head.path.is_empty(), line.split(' ').nth(1)) {
            path.clone_into(&mut head.path);
        }
        let line = line.to_ascii_lowercase();
        if let Some(length) = line.strip_prefix("content-length:") {
            head.content_length = length.trim().parse().ok()?;
        }
        head.is_put |= line.starts_with("put /");
        head.is_head |= line.starts_with("head /");
        head.chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        head.expects_continue |= line.starts_with("expect:");
    }
}

fn discard_body(reader: &mut impl BufRead, head: &Head) -> Option<()> {
    if !head.chunked {
        return discard(reader, head.content_length);
    }
    loop {
        let size = read_line(reader)?;
        let size = u64::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        // Each chunk, the empty last one too, is followed by an empty line.
        discard(reader, size + 2)?;
        if size == 0 {
            return Some(());
        }
    }
}

fn discard(reader: &mut impl BufRead, length: u64) -> Option<()> {
    let copied = std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    (copied == length).then_some(())
}

fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    let read = reader.read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim_end().to_owned())
}
