//! Talks to the volumes: stock nginx with WebDAV PUT and DELETE. Owns the connections, their timeouts and the
//! knowledge of which volumes are up.
//!
//! Promises that every call ends: connects, answers and the next part of a body all have limits, and time in which
//! *this* side has nothing to send, or no use for more, never counts against a volume. A kept connection that the volume has closed
//! is no error. What a failure means for a blob is decided by the callers, from [`VolumeError`].

mod addresses;
mod connect;
mod copy;
mod directory;
mod download;
mod error;
mod find;
mod greeting;
mod health;
mod identity;
mod introduction;
mod listing;
mod patience;
mod pipeline;
mod probe;
mod replicate;
mod wire;

pub use addresses::Addresses;
pub use copy::{Content, CopyError};
pub use directory::{Body, LocalFile, list_directory};
pub use download::Download;
pub use error::VolumeError;
pub use find::{Candidate, Search};
pub use greeting::Greeting;
pub use health::{Health, VolumeHealth, VolumeState, Written};
pub use identity::{Shown, random_identity};
pub use listing::{DirEntry, EntryKind, Listing};
pub use pipeline::TOGETHER;
pub use probe::{Adopt, ClusterId, ClusterIdError, ProbeOutcome, probe_all_once, set_cluster, watch};
pub use replicate::{Outcome, Upload, UploadError};

use crate::model::{Replica, Sidecar};
use arc_swap::ArcSwapOption;
use awc::ClientResponse;
use awc::body::MessageBody;
use awc::http::Method;
use awc::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, DATE, HeaderValue, HttpDate, LAST_MODIFIED, TryIntoHeaderValue,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use connect::{Age, Pool, Pools};
use error::{Call, Failure};
use futures_util::StreamExt;
use identity::Looks;
use introduction::Introduction;
use pipeline::Pipelines;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A write ends with a rename and maybe a flush of gigabytes; it gets this many times the patience of a read.
const WRITE_PATIENCE: u32 = 10;

/// An answer without use is read to its end up to this size, so that the connection can be kept; nginx's error
/// pages have a few hundred bytes.
const DRAIN_LIMIT_BYTES: usize = 64 * 1024;

/// No timeout is longer than this, so that clocks can always add it.
const MAX_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a volume may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, name lookup included.
    pub connect: Duration,
    /// For the first byte of the answer to HEAD and GET.
    pub answer: Duration,
    /// For the first byte of the answer to PUT and DELETE, and for the next 256 KiB of any body, or its end.
    pub write: Duration,
}

impl Timeouts {
    /// From the `-voltimeout` of the Go original (1 s there), which is for connects and for HEAD.
    pub fn from_voltimeout(voltimeout: Duration) -> Timeouts {
        let read = voltimeout.min(MAX_PATIENCE);
        Timeouts { connect: read, answer: read, write: (read * WRITE_PATIENCE).min(MAX_PATIENCE) }
    }

    /// For maintenance, where nobody waits for an answer and a disk under load is to be waited for.
    pub fn for_jobs(voltimeout: Duration) -> Timeouts {
        let timeouts = Timeouts::from_voltimeout(voltimeout);
        Timeouts { answer: timeouts.write, ..timeouts }
    }
}

/// What a DELETE found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The file was there and is gone.
    Removed,
    /// There was no such file.
    Absent,
}

/// What a HEAD tells of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// In bytes.
    pub size: u64,
    /// When it was last changed, µs since 1970 and whole seconds, if the volume says so.
    pub mtime_us: Option<u64>,
}

/// The server's own credentials, shared by the clients of all threads, and exchanged while they work.
#[derive(Clone, Default)]
pub struct Credentials(Arc<ArcSwapOption<HeaderValue>>);

impl Credentials {
    /// `user:password`, or none.
    pub fn new(userpass: Option<&str>) -> Credentials {
        let credentials = Credentials::default();
        credentials.set(userpass);
        credentials
    }

    /// From the next request on, others.
    pub fn set(&self, userpass: Option<&str>) {
        self.0.store(userpass.map(|userpass| Arc::new(authorization(userpass))));
    }

    /// Whether there are any.
    pub fn is_some(&self) -> bool {
        self.0.load().is_some()
    }

    /// What a request has as its `Authorization`.
    fn header(&self) -> Option<HeaderValue> {
        self.0.load().as_deref().cloned()
    }
}

/// Never shown where headers are logged.
fn authorization(userpass: &str) -> HeaderValue {
    let text = format!("Basic {}", STANDARD.encode(userpass));
    let mut value = HeaderValue::try_from(text).expect("base64 is a header value");
    value.set_sensitive(true);
    value
}

/// HTTP client of the volumes. One per worker thread, because awc's client is `!Send`; cheap to clone.
#[derive(Clone)]
pub struct VolumeClient {
    shared: Rc<Shared>,
    credentials: Credentials,
    /// Whether it asks whoever answers, and not only the volume that is to be there.
    asks_anybody: bool,
}

struct Shared {
    ours: Pools,
    /// For those who find out who answers.
    anybody: Pools,
    pipelines: Pipelines,
    introduction: Introduction,
    looks: Looks,
    health: Arc<Health>,
}

impl VolumeClient {
    /// A client without credentials. Must be used in the thread, and inside the actix runtime, that made it.
    pub fn new(timeouts: Timeouts, health: Arc<Health>) -> VolumeClient {
        let introduction = Introduction::new(Arc::clone(&health));
        let shared = Shared {
            ours: Pools::new(timeouts, &introduction),
            anybody: Pools::new(timeouts, &introduction.of_anybody()),
            pipelines: Pipelines::new(timeouts, introduction.clone()),
            introduction,
            looks: Looks::default(),
            health,
        };
        VolumeClient { shared: Rc::new(shared), credentials: Credentials::default(), asks_anybody: false }
    }

    /// The same connections with other credentials. They are never logged.
    pub fn with_credentials(&self, credentials: Credentials) -> VolumeClient {
        VolumeClient { shared: self.shared.clone(), credentials, ..*self }
    }

    /// A client that asks whoever answers, for those who find out who that is. What it is told proves nothing else.
    pub fn of_anybody(&self) -> VolumeClient {
        VolumeClient { asks_anybody: true, ..self.clone() }
    }

    fn pools(&self) -> &Pools {
        if self.asks_anybody { &self.shared.anybody } else { &self.shared.ours }
    }

    /// Which volumes are up, as this and all other clients have found.
    pub fn health(&self) -> &Arc<Health> {
        &self.shared.health
    }

    /// The size in bytes of the file at `path`; `None` if there is none.
    pub async fn head(&self, replica: &Replica, path: &str) -> Result<Option<u64>, VolumeError> {
        Ok(self.stat(replica, path).await?.map(|stat| stat.size))
    }

    /// What the volume knows of the file at `path`; `None` if there is none.
    pub async fn stat(&self, replica: &Replica, path: &str) -> Result<Option<FileStat>, VolumeError> {
        let call = Call { method: "HEAD", replica, path };
        let response = self.ask(&self.pools().reads, Method::HEAD, call).await?;
        match response.status().as_u16() {
            200 => match size_of(&response) {
                Some(size) => Ok(Some(FileStat { size, mtime_us: mtime_of(&response) })),
                None => Err(self.noted(call.no_answer("it gave no size"))),
            },
            status if is_absent(status, path) => {
                self.confirm_absence(call).await?;
                Ok(None)
            }
            status => Err(self.noted(call.refused(status))),
        }
    }

    /// The content of a small file; `None` if there is none, [`VolumeError::TooLarge`] if it has more than
    /// `limit_bytes`.
    pub async fn get(
        &self,
        replica: &Replica,
        path: &str,
        limit_bytes: usize,
    ) -> Result<Option<Bytes>, VolumeError> {
        match self.open(replica, path).await? {
            Some(download) => download.collect(limit_bytes).await.map(Some),
            None => Ok(None),
        }
    }

    /// Begins to read the file at `path`; `None` if there is none.
    pub async fn open(&self, replica: &Replica, path: &str) -> Result<Option<Download>, VolumeError> {
        let call = Call { method: "GET", replica, path };
        let response = self.ask(&self.pools().reads, Method::GET, call).await?;
        match response.status().as_u16() {
            200 => Ok(Some(Download::new(self.clone(), call, response))),
            status if is_absent(status, path) => {
                drain(response).await;
                self.confirm_absence(call).await?;
                Ok(None)
            }
            status => {
                drain(response).await;
                Err(self.noted(call.refused(status)))
            }
        }
    }

    /// Writes a file that is in memory. Its mtime becomes `mtime_us` (µs since 1970), cut to seconds.
    pub async fn put(
        &self,
        replica: &Replica,
        path: &str,
        body: Bytes,
        mtime_us: u64,
    ) -> Result<(), VolumeError> {
        let call = Call { method: "PUT", replica, path };
        let date = date_header(mtime_us);
        self.health().sent_bytes(replica).increment(body.len() as u64);
        let failure = match self.put_once(Age::Any, call, date.clone(), body.clone()).await {
            Ok(()) => {
                self.wrote(replica, path);
                return Ok(());
            }
            Err(failure) => failure,
        };
        let err = match failure {
            Failure::Failed(err) => err,
            Failure::Stale => match self.put_once(Age::Fresh, call, date, body).await {
                Ok(()) => {
                    self.wrote(replica, path);
                    return Ok(());
                }
                Err(failure) => call.after_retry(failure),
            },
        };
        Err(self.noted(err))
    }

    fn wrote(&self, replica: &Replica, path: &str) {
        if !self.asks_anybody {
            self.health().wrote(replica, path);
        }
    }

    /// Removes a file. Never sends a path that ends in `/`: nginx would remove the tree below.
    pub async fn delete(&self, replica: &Replica, path: &str) -> Result<Removal, VolumeError> {
        debug_assert!(!path.ends_with('/'), "{path} is a directory");
        if path.is_empty() || path.ends_with('/') {
            return Err(VolumeError::Directory { replica: replica.clone(), path: path.to_owned() });
        }
        let call = Call { method: "DELETE", replica, path };
        let response = self.ask(&self.pools().writes, Method::DELETE, call).await?;
        let status = response.status().as_u16();
        drain(response).await;
        match status {
            200 | 204 => Ok(Removal::Removed),
            // 409: the path is a directory, or a part of it is a file; the file itself is not there.
            404 | 409 => {
                self.confirm_absence(call).await?;
                Ok(Removal::Absent)
            }
            status => Err(self.noted(call.refused(status))),
        }
    }

    /// Sends a request without body, again on a fresh connection if the kept one was dead.
    async fn ask(&self, pool: &Pool, method: Method, call: Call<'_>) -> Result<ClientResponse, VolumeError> {
        let err = match self.ask_once(pool, Age::Any, method.clone(), call).await {
            Ok(response) => return Ok(response),
            Err(Failure::Failed(err)) => err,
            Err(Failure::Stale) => match self.ask_once(pool, Age::Fresh, method, call).await {
                Ok(response) => return Ok(response),
                Err(failure) => call.after_retry(failure),
            },
        };
        Err(self.noted(err))
    }

    async fn ask_once(
        &self,
        pool: &Pool,
        age: Age,
        method: Method,
        call: Call<'_>,
    ) -> Result<ClientResponse, Failure> {
        let request = self.request(pool, age, method, call)?;
        request.send_body(awc::body::None::new()).await.map_err(|err| call.failure(err))
    }

    /// One attempt at a PUT, whatever the body.
    async fn put_once(
        &self,
        age: Age,
        call: Call<'_>,
        date: HeaderValue,
        body: impl MessageBody + 'static,
    ) -> Result<(), Failure> {
        let request = self.request(&self.pools().writes, age, Method::PUT, call)?.insert_header((DATE, date));
        let response = request.send_body(body).await.map_err(|err| call.failure(err))?;
        let status = response.status().as_u16();
        drain(response).await;
        match status {
            200..=299 => Ok(()),
            status => Err(Failure::Failed(call.refused(status))),
        }
    }

    /// A volume that is another cluster's, or not what it was, is asked for nothing but who it is: its files are somebody
    /// else's.
    fn request(
        &self,
        pool: &Pool,
        age: Age,
        method: Method,
        call: Call<'_>,
    ) -> Result<awc::ClientRequest, Failure> {
        if !self.asks_anybody
            && let Some(reason) = self.health().why_foreign(call.replica)
        {
            return Err(Failure::Failed(VolumeError::Foreign { replica: call.replica.clone(), reason }));
        }
        let url = ["http://", call.replica.as_str(), call.path].concat();
        let request = pool.client(age).request(method, url);
        let request = match age {
            Age::Any => request,
            Age::Fresh => request.force_close(),
        };
        Ok(match self.credentials.header() {
            Some(value) => {
                self.shared.introduction.use_credentials(&value);
                request.insert_header((AUTHORIZATION, value))
            }
            None => request,
        })
    }

    /// Tells [`Health`] of a failure, and passes it on.
    fn noted(&self, err: VolumeError) -> VolumeError {
        self.shared.health.note(&err);
        err
    }
}

/// nginx answers 301 for a directory, which some keys' paths are on the way to other keys'. Where a directory was asked for,
/// it is somebody else who says that it is elsewhere.
fn is_absent(status: u16, path: &str) -> bool {
    status == 404 || (status == 301 && !path.ends_with('/'))
}

fn size_of(response: &ClientResponse) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `Last-Modified`, in µs since 1970.
fn mtime_of(response: &ClientResponse) -> Option<u64> {
    let date: HttpDate = response.headers().get(LAST_MODIFIED)?.to_str().ok()?.parse().ok()?;
    let elapsed = SystemTime::from(date).duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(elapsed.as_micros()).ok()
}

/// An RFC 9110 date (IMF-fixdate) in whole seconds, of the year 9999 at most; nginx makes it the file's mtime.
fn date_header(mtime_us: u64) -> HeaderValue {
    let time = UNIX_EPOCH + Duration::from_micros(mtime_us.min(Sidecar::LAST_TIME_US));
    HttpDate::from(time).try_into_value().expect("a date is a header value")
}

/// Reads what is left of an answer, so that the connection can be used again.
async fn drain(mut response: ClientResponse) {
    let mut read = 0;
    while let Some(Ok(chunk)) = response.next().await {
        read += chunk.len();
        if read > DRAIN_LIMIT_BYTES {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_cut_to_seconds() {
        assert_eq!(date_header(784_111_777_999_999), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date_header(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
