//! `mkv put` and `mkv get`: blobs to and from a running server, for people. Nothing here holds a blob in memory.
//!
//! What the server and the volumes answer is translated into [`ClientError`]; credentials are in none of its texts.

mod answer;
mod draft;
mod early;
mod get;
mod locate;
mod put;

pub use get::get;
pub use put::put;

use crate::cli::{Arguments, ServerArguments};
use crate::config::{Config, ConfigError};
use crate::model::{Key, KeyError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use early::{EarlyAnswers, Refused};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use ureq::Agent;
use ureq::http::{Method, Request, Response, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, DefaultConnector};

/// Patience is this many times `--voltimeout`, as for the server's own writes.
const PATIENCE: u32 = 10;

/// Why a blob was not stored or fetched.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The flags don't fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No key.
    #[error("KEY: {0}")]
    Key(#[from] KeyError),
    /// Nobody is there.
    #[error("the server {server} doesn't answer ({reason}): is it running, and is --server right?")]
    Unreachable {
        /// As it was given.
        server: String,
        /// What went wrong.
        reason: String,
    },
    /// The server said no.
    #[error("{meaning} (the server answered {status}{line})")]
    Refused {
        /// What it means.
        meaning: &'static str,
        /// The status.
        status: u16,
        /// `: ` and its own words, if there are any.
        line: String,
    },
    /// Nothing was sent.
    #[error("{0} has a blob already; --replace overwrites it")]
    Exists(Key),
    /// The answer is none of a server of ours.
    #[error("what answers at {server} is no server of this kind ({what}); is --server right?")]
    Strange {
        /// As it was given.
        server: String,
        /// What it answered.
        what: String,
    },
    /// A file of this machine.
    #[error("{file:?}: {reason}")]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key's last part is no name for a file.
    #[error("{0} is no good name for a file; say where the blob is to go: mkv get KEY FILE")]
    Name(String),
    /// Arrived otherwise than it was sent.
    #[error(
        "the server stored something else (MD5 {stored}) than was read (MD5 {read}); put it again with --replace"
    )]
    Altered {
        /// What the server says.
        stored: String,
        /// What was read.
        read: String,
    },
    /// Every replica was tried.
    #[error("no volume gives the whole blob: {tried}{kept}")]
    NoReplica {
        /// What became of each.
        tried: String,
        /// Where the part is that could be had, and what to do.
        kept: String,
    },
}

/// The server as `put` and `get` see it.
struct Client {
    agent: Agent,
    server: String,
    authorization: Option<String>,
    /// Whether the server has answered in the middle of a body.
    refused: Refused,
}

impl Client {
    /// One that waits `patience` for each step of an answer.
    fn new(
        arguments: &Arguments,
        flags: &ServerArguments,
        patience: Patience,
    ) -> Result<Client, ClientError> {
        let authorization = Config::userpass(arguments)?.as_deref().map(basic);
        let step = arguments.voltimeout * PATIENCE;
        let patience = match patience {
            Patience::Volume => step,
            Patience::Limit(limit) => limit,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .proxy(None)
            .timeout_resolve(Some(step))
            .timeout_connect(Some(step))
            .timeout_per_read(Some(patience))
            .timeout_per_write(Some(patience));
        let server = match &flags.server {
            Some(server) => server.to_string(),
            None => format!("localhost:{}", arguments.port),
        };
        let refused = Refused::default();
        let connector = DefaultConnector::default().chain(EarlyAnswers(refused.clone()));
        let agent = Agent::with_parts(config.build(), connector, DefaultResolver::default());
        Ok(Client { agent, server, authorization, refused })
    }

    /// A request to the server about `key`.
    fn request(&self, method: &str, key: &Key) -> ureq::http::request::Builder {
        let method = Method::from_bytes(method.as_bytes()).expect("it is a word");
        let request = Request::builder().method(method).uri(format!("http://{}{key}", self.server));
        match &self.authorization {
            Some(authorization) => request.header(header::AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// Asks the server where `key` is; any status.
    fn ask(&self, key: &Key) -> Result<Response<ureq::Body>, ClientError> {
        let request = self.request("GET", key).body(()).map_err(|err| self.strange(err))?;
        self.agent.run(request).map_err(|err| self.unreachable(err))
    }

    fn unreachable(&self, err: impl ToString) -> ClientError {
        ClientError::Unreachable { server: self.server.clone(), reason: err.to_string() }
    }

    fn strange(&self, what: impl ToString) -> ClientError {
        ClientError::Strange { server: self.server.clone(), what: what.to_string() }
    }
}

/// How long a step may take.
enum Patience {
    /// As long as for a volume.
    Volume,
    /// So long.
    Limit(Duration),
}

/// The key as a person wrote it: its bytes, or with `encoded` what a URL has; the `/` before it may be left out.
fn key_of(text: &OsStr, flags: &ServerArguments) -> Result<Key, ClientError> {
    let bytes = match text.as_bytes() {
        bytes if bytes.first() == Some(&b'/') => bytes.to_vec(),
        bytes => [b"/", bytes].concat(),
    };
    match flags.encoded {
        true => Ok(Key::from_request_path(&String::from_utf8_lossy(&bytes))?),
        false => Ok(Key::new(bytes)?),
    }
}

fn basic(userpass: &str) -> String {
    format!("Basic {}", STANDARD.encode(userpass))
}
