//! What went wrong on the admin port, as a status code and JSON.

use crate::index::IndexError;
use crate::maintenance::{BeginError, MaintenanceError, NoSuchJob};
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, Responder, ResponseError};
use serde_json::json;
use thiserror::Error;

#[derive(Debug, Error)]
pub(super) enum AdminError {
    #[error("there is nothing at this path; /api/openapi.json says what there is")]
    NoSuchPath,
    #[error(
        "there is no job called {0:?}; there are rebalance, scrub, repair, drain, forget, replace and rename"
    )]
    NoSuchTask(String),
    #[error(transparent)]
    NoSuchJob(#[from] NoSuchJob),
    #[error("the body is not what it should be: {0}")]
    Body(String),
    #[error("{0}")]
    Query(String),
    #[error(transparent)]
    Begin(#[from] BeginError),
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("a token is needed: Authorization: Bearer TOKEN")]
    NoToken,
    #[error("this is not the token")]
    WrongToken,
    #[error(
        "this port can be reached from other machines, so acting needs a token: start the server with --admin-token"
    )]
    NeedsToken,
    #[error("requests from pages of other sites are not answered")]
    CrossSite,
    #[error("{0}")]
    NotReady(String),
    #[error("{0}")]
    NeededNow(String),
}

impl ResponseError for AdminError {
    fn status_code(&self) -> StatusCode {
        match self {
            AdminError::NoSuchPath | AdminError::NoSuchTask(_) | AdminError::NoSuchJob(_) => {
                StatusCode::NOT_FOUND
            }
            AdminError::Begin(BeginError::NoSuchVolume(_)) => StatusCode::NOT_FOUND,
            AdminError::Maintenance(MaintenanceError::NoSuchVolume(_)) => StatusCode::NOT_FOUND,
            AdminError::Body(_) | AdminError::Query(_) => StatusCode::BAD_REQUEST,
            AdminError::Begin(BeginError::Running { .. }) => StatusCode::CONFLICT,
            AdminError::Maintenance(MaintenanceError::TooFewVolumes { .. }) => StatusCode::CONFLICT,
            AdminError::NoToken => StatusCode::UNAUTHORIZED,
            AdminError::WrongToken | AdminError::NeedsToken | AdminError::CrossSite => StatusCode::FORBIDDEN,
            AdminError::NeededNow(_) => StatusCode::PRECONDITION_FAILED,
            AdminError::NotReady(_) | AdminError::Begin(BeginError::Ending) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            AdminError::Maintenance(
                MaintenanceError::InUse(_)
                | MaintenanceError::Table(_)
                | MaintenanceError::Index(_)
                | MaintenanceError::Foreign { .. }
                | MaintenanceError::Conflict(_)
                | MaintenanceError::Master(_)
                | MaintenanceError::Store(_)
                | MaintenanceError::HasBlobs(_)
                | MaintenanceError::IsAnothers { .. }
                | MaintenanceError::NotTheSame { .. }
                | MaintenanceError::NotGone(_)
                | MaintenanceError::StillOn { .. }
                | MaintenanceError::Away(_)
                | MaintenanceError::Untold(_)
                | MaintenanceError::State(_),
            )
            | AdminError::Index(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        HttpResponse::build(self.status_code()).json(json!({ "error": self.to_string() }))
    }
}

impl Responder for AdminError {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.error_response()
    }
}
