//! A blocking HTTP client with nothing in it that could be the bottleneck.

use crate::Outcome;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Nothing in a bench takes longer than this unless it hangs.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// Head and body up to this size leave in one write.
const TOGETHER_BYTES: usize = 16 << 10;

/// A kept connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) body_bytes: u64,
}

/// What is sent: a piece, as often as it takes.
#[derive(Clone, Copy)]
pub(crate) struct Body<'a> {
    pub(crate) piece: &'a [u8],
    pub(crate) times: usize,
}

impl Body<'_> {
    pub(crate) const NONE: Body<'static> = Body { piece: &[], times: 0 };
}

impl Connection {
    pub(crate) fn new(address: &str) -> Outcome<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_LIMIT))?;
        Ok(Connection { stream: BufReader::with_capacity(64 << 10, stream) })
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: Body) -> Outcome<Answer> {
        self.send(method, path, body)?;
        self.receive()
    }

    /// The first half of [`Connection::ask`].
    pub(crate) fn send(&mut self, method: &str, path: &str, body: Body) -> Outcome<()> {
        let bytes = body.piece.len() * body.times;
        let length = if bytes > 0 { format!("Content-Length: {bytes}\r\n") } else { String::new() };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n").into_bytes();
        let stream = self.stream.get_mut();
        if bytes <= TOGETHER_BYTES {
            (0..body.times).for_each(|_| head.extend_from_slice(body.piece));
            return Ok(stream.write_all(&head)?);
        }
        stream.write_all(&head)?;
        for _ in 0..body.times {
            stream.write_all(body.piece)?;
        }
        Ok(())
    }

    /// The second half of [`Connection::ask`].
    pub(crate) fn receive(&mut self) -> Outcome<Answer> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut answer = Answer { status: status.ok_or("no HTTP")?, location: None, body_bytes: 0 };
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse()?,
                "transfer-encoding" => chunked = true,
                "location" => answer.location = Some(value.trim().into()),
                _ => {}
            }
        }
        answer.body_bytes = if chunked { self.skip_chunks()? } else { self.skip(length)? };
        Ok(answer)
    }

    fn skip_chunks(&mut self) -> Outcome<u64> {
        let mut total = 0;
        loop {
            let length = u64::from_str_radix(&self.line()?, 16)?;
            total += self.skip(length)?;
            self.line()?;
            if length == 0 {
                return Ok(total);
            }
        }
    }

    fn skip(&mut self, bytes: u64) -> Outcome<u64> {
        match std::io::copy(&mut (&mut self.stream).take(bytes), &mut std::io::sink())? {
            skipped if skipped == bytes => Ok(bytes),
            _ => Err("the answer was cut off".into()),
        }
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.is_empty() {
            return Err("the connection was closed".into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }
}

/// The status as an error, if it isn't the one that is expected.
pub(crate) fn expect(answer: Answer, status: u16, doing: &str) -> Outcome<Answer> {
    match answer.status == status {
        true => Ok(answer),
        false => Err(format!("{doing} was answered with {}, not {status}", answer.status).into()),
    }
}
