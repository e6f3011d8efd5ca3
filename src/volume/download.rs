//! A file on its way from a volume. Promises that an end is the end: a body that is shorter than announced is an
//! error, never a shorter file.

use super::error::Call;
use super::{Body, Content, VolumeClient, VolumeError, mtime_of, size_of};
use crate::model::Replica;
use awc::ClientResponse;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

/// The body of a GET. Dropping it early closes the connection.
pub struct Download {
    client: VolumeClient,
    replica: Replica,
    path: String,
    response: ClientResponse,
    size: Option<u64>,
    mtime_us: Option<u64>,
    received: u64,
}

impl Download {
    pub(super) fn new(client: VolumeClient, call: Call<'_>, response: ClientResponse) -> Download {
        let size = size_of(&response);
        let mtime_us = mtime_of(&response);
        let (replica, path) = (call.replica.clone(), call.path.to_owned());
        Download { client, replica, path, response, size, mtime_us, received: 0 }
    }

    /// The size in bytes that the volume announced; `None` for generated pages such as directory listings.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// When the file was last changed, µs since 1970 and whole seconds, if the volume says so.
    pub fn mtime_us(&self) -> Option<u64> {
        self.mtime_us
    }

    /// The next bytes; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Bytes>, VolumeError> {
        let chunk = match self.response.next().await {
            Some(Ok(chunk)) => chunk,
            Some(Err(err)) => return Err(self.failed(|call| call.body_error(err))),
            None if self.size.is_none_or(|size| size == self.received) => return Ok(None),
            None => return Err(self.failed(|call| call.no_answer("the body ended early"))),
        };
        self.received += chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// As [`Body::digest`].
    pub async fn digest(self, meter: &impl AsyncFn(u64)) -> Result<Content, VolumeError> {
        Body::Served(Box::new(self)).digest(meter).await
    }

    /// The whole body, of at most `limit_bytes`.
    pub(super) async fn collect(mut self, limit_bytes: usize) -> Result<Bytes, VolumeError> {
        let announced = self.size.map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX));
        if announced > limit_bytes {
            return Err(self.too_large(limit_bytes));
        }
        let mut content = BytesMut::with_capacity(announced);
        while let Some(chunk) = self.next().await? {
            if content.len() + chunk.len() > limit_bytes {
                return Err(self.too_large(limit_bytes));
            }
            content.extend_from_slice(&chunk);
        }
        Ok(content.freeze())
    }

    fn too_large(&self, limit_bytes: usize) -> VolumeError {
        VolumeError::TooLarge { replica: self.replica.clone(), path: self.path.clone(), limit_bytes }
    }

    fn failed(&self, error: impl FnOnce(Call<'_>) -> VolumeError) -> VolumeError {
        let call = Call { method: "GET", replica: &self.replica, path: &self.path };
        self.client.noted(error(call))
    }
}
