//! Fetches a blob: from the volume that the server names, going on with the next where one fails, until it is whole and
//! its MD5 is right.

use super::answer::header;
use super::draft::{Draft, Existing};
use super::locate::{NotLocated, Source, etag, host};
use super::{Client, ClientError, Patience, key_of};
use crate::cli::{Arguments, GetArguments};
use crate::model::Key;
use crate::shown::Transfer;
use crate::text::{json_line, say};
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use ureq::http::header::{AUTHORIZATION, IF_RANGE, RANGE};
use ureq::http::{Request, Response};

/// Replicas take turns in the server's answers; after so many rounds each of them has been named.
const ROUNDS: usize = 4;

/// A blob that is overwritten more often than this while it is fetched is given up.
const MAX_CHANGES: usize = 8;

/// Read at once.
const CHUNK_BYTES: usize = 128 << 10;

/// Runs `mkv get`.
pub fn get(arguments: &Arguments, flags: &GetArguments) -> Result<(), ClientError> {
    let key = key_of(&flags.key, &flags.server)?;
    let target = target(&key, flags)?;
    let draft = match &target {
        None => Draft::output(),
        Some(target) => Draft::file(target, if flags.force { Existing::Goes } else { Existing::Stays })?,
    };
    let client = Client::new(arguments, &flags.server, Patience::Volume)?;
    let mut fetch =
        Fetch { client, key, draft, transfer: None, quiet: flags.server.quiet, failed: BTreeMap::new() };
    let source = fetch.run()?;
    let Fetch { key, draft, transfer, .. } = fetch;
    let (bytes, md5, resumed) = (draft.written(), draft.md5(), draft.resumed);
    draft.finish()?;
    let name = target.as_deref().map_or("standard output".into(), Path::to_string_lossy);
    if let Some(transfer) = transfer {
        let checked = if source.md5.is_some() { "MD5 is right" } else { "no MD5 is known" };
        transfer.end(&format!("fetched to {name}, {checked}"));
    }
    if flags.server.json && target.is_some() {
        let json = json!({
            "key": key.to_string(), "file": name, "bytes": bytes, "resumed_bytes": resumed, "md5": md5.to_string(),
            "md5_checked": source.md5.is_some(), "volume": source.host(),
        });
        say!("{}", json_line(&json));
    }
    Ok(())
}

/// The file that is asked for; `None` for standard output.
fn target(key: &Key, flags: &GetArguments) -> Result<Option<PathBuf>, ClientError> {
    match &flags.file {
        Some(file) if file == Path::new("-") => Ok(None),
        Some(file) => Ok(Some(file.clone())),
        None => {
            let last = key.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            // What hides itself, looks like a flag or drives a terminal is nobody's idea of a file in this directory.
            let is_plain = !matches!(last.first(), None | Some(b'.' | b'-'))
                && !String::from_utf8_lossy(last).chars().any(char::is_control);
            match is_plain {
                true => Ok(Some(PathBuf::from(OsStr::from_bytes(last)))),
                false => Err(ClientError::Name(format!("the last part of {key}"))),
            }
        }
    }
}

struct Fetch {
    client: Client,
    key: Key,
    draft: Draft,
    transfer: Option<Transfer>,
    quiet: bool,
    /// Replicas that are not asked any more, and why.
    failed: BTreeMap<String, String>,
}

/// Why a replica was given up.
enum Fault {
    /// It is the volume's.
    Volume(String),
    /// It is this machine's, and no other volume helps.
    Here(ClientError),
    /// What is there is another blob than a moment ago, or of several pieces one was wrong: everything from the beginning.
    Changed,
}

impl From<ClientError> for Fault {
    fn from(err: ClientError) -> Fault {
        Fault::Here(err)
    }
}

impl Fetch {
    /// Goes from replica to replica until the draft is whole; the one that completed it.
    fn run(&mut self) -> Result<Source, ClientError> {
        let mut changes = 0;
        while let Some(source) = self.next_source()? {
            match self.fetch_from(&source) {
                Ok(()) => return Ok(source),
                Err(Fault::Here(err)) => return Err(err),
                Err(Fault::Volume(reason)) => self.give_up(source.url, reason),
                Err(Fault::Changed) => {
                    changes += 1;
                    if changes > MAX_CHANGES {
                        self.give_up(source.url, "has something else each time".into());
                    }
                }
            }
        }
        self.draft.discard_if_empty();
        let tried: Vec<String> =
            self.failed.iter().map(|(url, reason)| format!("{} {reason}", host(url))).collect();
        let kept = self.draft.kept_in().map_or_else(String::new, |part| {
            format!(
                "; what could be fetched is kept in {}, and the same command goes on with it",
                part.display()
            )
        });
        Err(ClientError::NoReplica { tried: tried.join("; "), kept })
    }

    fn give_up(&mut self, url: String, reason: String) {
        if let Some(transfer) = &self.transfer {
            transfer.complain(&format!("{} {reason}; asking another volume", host(&url)));
        }
        self.failed.insert(url, reason);
    }

    /// A replica that has not failed yet; `None` when all have.
    fn next_source(&mut self) -> Result<Option<Source>, ClientError> {
        let mut asked = 0;
        let mut replicas = 1;
        while asked < replicas * ROUNDS {
            asked += 1;
            match self.client.locate(&self.key) {
                Ok(source) => {
                    replicas = replicas.max(source.replicas);
                    if !self.failed.contains_key(&source.url) {
                        return Ok(Some(source));
                    }
                }
                Err(NotLocated::Volume { url, reason }) => {
                    self.failed.entry(url).or_insert(reason);
                    replicas = replicas.max(self.failed.len() + 1);
                }
                // What failed before says more than that nothing is left.
                Err(NotLocated::Refused(_)) if !self.failed.is_empty() => return Ok(None),
                Err(NotLocated::Refused(err)) => return Err(err),
            }
        }
        Ok(None)
    }

    /// Fetches what is missing, and makes sure that the whole is right.
    fn fetch_from(&mut self, source: &Source) -> Result<(), Fault> {
        self.draft.begin(source)?;
        if self.draft.written() > source.size || (self.draft.written() > 0 && source.etag.is_none()) {
            self.draft.restart()?;
        }
        if self.transfer.is_none() {
            self.transfer = Some(Transfer::new(&self.key.to_string(), Some(source.size), self.quiet));
        }
        if self.draft.written() < source.size {
            self.receive(source)?;
        }
        match &source.md5 {
            Some(md5) if self.draft.md5() != *md5 => {
                // Of several pieces, any may be the wrong one.
                let is_the_volumes = self.draft.is_of_one_piece;
                self.draft.restart()?;
                Err(match is_the_volumes {
                    true => {
                        Fault::Volume("has a damaged copy (its MD5 is wrong); mkv repair mends it".into())
                    }
                    false => Fault::Changed,
                })
            }
            _ => Ok(()),
        }
    }

    fn receive(&mut self, source: &Source) -> Result<(), Fault> {
        let offset = self.draft.written();
        let answer = self.request(source, offset)?;
        match answer.status().as_u16() {
            200 | 206 if etag(answer.headers()) != source.etag.as_deref() => return Err(Fault::Changed),
            206 if goes_on(&answer, offset, source.size) => {}
            200 if offset == 0 => {}
            // It can't do ranges.
            200 => self.draft.restart()?,
            404 => return Err(Fault::Changed),
            status => return Err(Fault::Volume(format!("answers {status} to GET"))),
        }
        let mut body = answer.into_body().into_reader().take(source.size - self.draft.written());
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(size) => self.draft.write(&chunk[..size])?,
                Err(err) => return Err(Fault::Volume(format!("broke off ({err})"))),
            }
            if let Some(transfer) = &mut self.transfer {
                transfer.at(self.draft.written());
            }
        }
        match self.draft.written() == source.size {
            true => Ok(()),
            false => Err(Fault::Volume("ended early".into())),
        }
    }

    fn request(&self, source: &Source, offset: u64) -> Result<Response<ureq::Body>, Fault> {
        let mut request = Request::get(&source.url);
        if let Some(authorization) = &source.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let (Some(etag), 1..) = (&source.etag, offset) {
            request = request.header(RANGE, format!("bytes={offset}-")).header(IF_RANGE, etag);
        }
        let request = request.body(()).map_err(|err| Fault::Volume(err.to_string()))?;
        self.client.agent.run(request).map_err(|err| Fault::Volume(format!("doesn't answer ({err})")))
    }
}

/// Whether an answer is the rest of the file from `offset` on.
fn goes_on(answer: &Response<ureq::Body>, offset: u64, size: u64) -> bool {
    let expected = format!("bytes {offset}-{}/{size}", size.saturating_sub(1));
    header(answer.headers(), "content-range") == Some(expected.as_str())
}
