//! What went wrong, as a status code and one line of text.

use crate::index::IndexError;
use crate::model::KeyError;
use crate::store::{BodyError, StoreError};
use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder};
use log::error;
use thiserror::Error;

/// Seconds after which a client may try again what a volume or the index could not do now.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Every way in which a request is not answered as it was meant.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("this method is not known here")]
    Method,
    #[error("this query is not known here; there are ?list, ?unlinked and ?writing")]
    Query,
    #[error("limit must be a number, not {0:?}")]
    Limit(String),
    #[error("Content-MD5 is neither 32 hex digits nor base64 of 16 bytes")]
    BadContentMd5,
    #[error("this belongs to the S3 protocol, which is not there yet; nothing was stored")]
    NotImplemented,
    #[error("credentials are needed")]
    Unauthorized,
    #[error("no volume is up to check the credentials; try again")]
    NobodyChecks,
    #[error("the server is shutting down; try again")]
    ShuttingDown,
}

impl ApiError {
    /// Whether the key has no readable blob.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, ApiError::Store(StoreError::Index(IndexError::NotFound { .. })))
    }

    /// The answer. 404 and 410 to GET and HEAD have no body.
    pub(super) fn respond(&self, method: &Method) -> HttpResponse {
        let status = self.status();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            error!("{}", self.text());
        }
        let mut response = HttpResponseBuilder::new(status);
        match status {
            StatusCode::METHOD_NOT_ALLOWED => {
                response.insert_header((header::ALLOW, super::ALLOW));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.insert_header((header::RETRY_AFTER, RETRY_AFTER_SECONDS));
            }
            StatusCode::UNAUTHORIZED => {
                response.insert_header((
                    header::WWW_AUTHENTICATE,
                    "Basic realm=\"minikeyvalue\", charset=\"UTF-8\"",
                ));
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::BAD_REQUEST => {
                response.force_close();
            }
            _ => {}
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if reads && matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            return response.finish();
        }
        response.content_type("text/plain; charset=utf-8").body(format!("{}\n", self.text()))
    }

    /// The error and what caused it, on one line.
    fn text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(err) = cause {
            text = format!("{text}: {err}");
            cause = err.source();
        }
        text.replace('\n', " ")
    }

    fn status(&self) -> StatusCode {
        match self {
            ApiError::Store(err) => status_of(err),
            ApiError::Key(KeyError::TooLong) => StatusCode::URI_TOO_LONG,
            ApiError::Key(KeyError::NoSlash | KeyError::BadEscape) => StatusCode::BAD_REQUEST,
            ApiError::Method => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::Query => StatusCode::FORBIDDEN,
            ApiError::Limit(_) | ApiError::BadContentMd5 => StatusCode::BAD_REQUEST,
            ApiError::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            ApiError::Unauthorized => StatusCode::UNAUTHORIZED,
            ApiError::NobodyChecks | ApiError::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

fn status_of(err: &StoreError) -> StatusCode {
    match err {
        StoreError::Index(err) => status_of_index(err),
        StoreError::Body(BodyError::TooSlow) => StatusCode::REQUEST_TIMEOUT,
        StoreError::Body(BodyError::Cut(_)) => StatusCode::BAD_REQUEST,
        StoreError::EmptyBody => StatusCode::LENGTH_REQUIRED,
        StoreError::RootKey | StoreError::Md5Mismatch { .. } => StatusCode::BAD_REQUEST,
        StoreError::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Gone { .. } => StatusCode::GONE,
        StoreError::ListTooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        StoreError::NoRandom(_) | StoreError::NotTold { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        StoreError::NotEnoughVolumes { .. }
        | StoreError::NotReplicated { .. }
        | StoreError::Restless { .. }
        | StoreError::Unavailable { .. }
        | StoreError::RemovalPending { .. }
        | StoreError::NotBalanced { .. }
        | StoreError::NoSidecar { .. } => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn status_of_index(err: &IndexError) -> StatusCode {
    match err {
        IndexError::Busy { .. } => StatusCode::CONFLICT,
        IndexError::Exists { .. } | IndexError::Protected { .. } => StatusCode::FORBIDDEN,
        IndexError::NotFound { .. } => StatusCode::NOT_FOUND,
        IndexError::TooManyIntents | IndexError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
        IndexError::Record { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
