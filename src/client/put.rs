//! Sends a file, reading it once.

use super::answer::{header, refusal};
use super::early::Refused;
use super::{Client, ClientError, Patience, key_of};
use crate::cli::{Arguments, PutArguments};
use crate::model::{Key, Md5};
use crate::shown::Transfer;
use crate::text::{json_line, say};
use serde_json::json;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;
use ureq::SendBody;
use ureq::http::Response;
use ureq::http::header::CONTENT_LENGTH;

/// The server ends every request itself; with volumes that fail late, and a copy to another one, it may take long.
const ANSWER_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Runs `mkv put`.
pub fn put(arguments: &Arguments, flags: &PutArguments) -> Result<(), ClientError> {
    let key = key_of(&flags.key, &flags.server)?;
    let (file, length) = open(&flags.file)?;
    look_ahead(&Client::new(arguments, &flags.server, Patience::Volume)?, &key, flags)?;
    let client = Client::new(arguments, &flags.server, Patience::Limit(ANSWER_LIMIT))?;
    let mut body = Counted {
        file,
        length,
        digest: md5::Context::new(),
        done: 0,
        failed: None,
        refused: client.refused.clone(),
        transfer: Transfer::new(&key.to_string(), length, flags.server.quiet),
    };
    let answer = send(&client, &key, flags, &mut body)?;
    let read = Md5(body.digest.finalize().0).to_string();
    if let Some(stored) = header(answer.headers(), "content-md5").filter(|stored| *stored != read) {
        return Err(ClientError::Altered { stored: stored.to_owned(), read });
    }
    let replaced = answer.status().as_u16() == 204;
    body.transfer.end(if replaced { "overwritten" } else { "stored" });
    if flags.server.json {
        let json = json!({ "key": key.to_string(), "bytes": body.done, "md5": read, "replaced": replaced });
        say!("{}", json_line(&json));
    }
    Ok(())
}

/// So that nobody sends gigabytes to be told afterwards what could be told before. What happens meanwhile, the PUT itself
/// tells.
fn look_ahead(client: &Client, key: &Key, flags: &PutArguments) -> Result<(), ClientError> {
    let answer = client.ask(key)?;
    let is_there = answer.headers().contains_key("key-volumes");
    match answer.status().as_u16() {
        302 if is_there && !flags.replace => Err(ClientError::Exists(key.clone())),
        401 => Err(refusal(answer)),
        _ => Ok(()),
    }
}

/// The answer to a PUT or REPLACE that was carried out.
fn send(
    client: &Client,
    key: &Key,
    flags: &PutArguments,
    body: &mut Counted,
) -> Result<Response<ureq::Body>, ClientError> {
    let mut request = client.request(if flags.replace { "REPLACE" } else { "PUT" }, key);
    if let Some(length) = body.length {
        request = request.header(CONTENT_LENGTH, length);
    }
    let request = request.body(SendBody::from_reader(body)).map_err(|err| client.strange(err))?;
    let answer = client.agent.run(request);
    if let Some(reason) = body.failed.take() {
        return Err(ClientError::File { file: flags.file.clone(), reason });
    }
    let answer = answer.map_err(|err| client.unreachable(err))?;
    match answer.status().as_u16() {
        201 | 204 => Ok(answer),
        _ => Err(refusal(answer)),
    }
}

/// What to read, and how much it is, where that is known.
fn open(path: &Path) -> Result<(Box<dyn Read>, Option<u64>), ClientError> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), None));
    }
    let fault = |reason: String| ClientError::File { file: path.to_owned(), reason };
    let file = File::open(path).map_err(|err| fault(err.to_string()))?;
    let metadata = file.metadata().map_err(|err| fault(err.to_string()))?;
    match (metadata.is_dir(), metadata.is_file(), metadata.len()) {
        (true, ..) => Err(fault("it is a directory; one file is one blob".to_owned())),
        (_, true, 0) => Err(fault("it is empty, and a blob has at least one byte".to_owned())),
        // What is added to it from now on is not sent.
        (_, true, length) => Ok((Box::new(file.take(length)), Some(length))),
        _ => Ok((Box::new(file), None)),
    }
}

/// A body that is counted and digested on its way.
struct Counted {
    file: Box<dyn Read>,
    digest: md5::Context,
    length: Option<u64>,
    done: u64,
    /// What reading failed with, to be told from a failing connection.
    failed: Option<String>,
    refused: Refused,
    transfer: Transfer,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.refused.is_set() {
            // Goes nowhere; but ureq wants all that was announced before it reads the answer.
            return Ok(if self.length.is_some() { buffer.len() } else { 0 });
        }
        let read = match self.file.read(buffer) {
            Ok(0) if self.length.is_some_and(|length| self.done < length) && !buffer.is_empty() => {
                Err(io::Error::other("it became shorter while it was read"))
            }
            read => read,
        };
        let size = read.inspect_err(|err| self.failed = Some(err.to_string()))?;
        self.digest.consume(&buffer[..size]);
        self.done += size as u64;
        self.transfer.at(self.done);
        Ok(size)
    }
}
