//! The native HTTP API: every method on one screen. Requests become use cases of the store here, and their
//! outcomes become status codes (docs/http.md).

pub mod admin;
mod auth;
mod blob;
mod body;
mod error;
mod list;
mod measure;

pub use auth::LastAccepted;

use crate::model::Key;
use crate::store::{BodyLimits, Store};
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use arc_swap::ArcSwap;
use auth::Authenticator;
use error::ApiError;
use measure::Measure;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// What the operator chose for the HTTP side.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Where clients are sent that ask for a key that isn't here: a host.
    pub fallback: Option<String>,
    /// Whether clients must show credentials that the volumes accept.
    pub basicauth: bool,
    /// How clients reach a volume, where that differs from how the master does.
    pub advertise: BTreeMap<String, String>,
    /// How patient to be with bodies.
    pub body: BodyLimits,
}

/// What one worker thread needs to answer.
pub struct Api {
    store: Store,
    options: Arc<ArcSwap<ApiOptions>>,
    authenticator: Authenticator,
    measure: Measure,
}

impl Api {
    /// The API over the worker's own store; credentials that volumes accept are noted in `last_accepted`.
    pub fn new(store: Store, options: Arc<ArcSwap<ApiOptions>>, last_accepted: Arc<LastAccepted>) -> Api {
        Api { store, options, authenticator: Authenticator::new(last_accepted), measure: Measure::new() }
    }
}

/// The methods that are answered, as in an `Allow` header.
const ALLOW: &str = "GET, HEAD, PUT, REPLACE, DELETE, UNLINK, RELINK, REBALANCE";

/// Adds the one route there is: every path is somebody's key.
pub fn configure(config: &mut web::ServiceConfig, api: Rc<Api>) {
    let handler =
        move |request: HttpRequest, payload: web::Payload| answer(Rc::clone(&api), request, payload);
    config.default_service(web::to(handler));
}

async fn answer(api: Rc<Api>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let started = Instant::now();
    let (payload, received) = body::counted(payload);
    let in_flight = api.measure.begin(Rc::clone(&received));
    let response = match dispatch(&api, &request, payload).await {
        Ok(response) => response,
        Err(err) => err.respond(request.method()),
    };
    in_flight.answered(request.method(), &response);
    log_request(&request, &response, received.get(), started);
    response
}

async fn dispatch(
    api: &Rc<Api>,
    request: &HttpRequest,
    payload: body::Payload,
) -> Result<HttpResponse, ApiError> {
    let store = api.store_for(request).await?;
    let method = request.method().as_str();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    refuse_foreign_protocols(request, &query)?;
    if !ALLOW.split(", ").any(|allowed| allowed == method) {
        return Err(ApiError::Method);
    }
    let key = Key::from_request_path(request.uri().path())?;
    match method {
        "GET" | "HEAD" if query.is_empty() => blob::get(api, &store, &key).await,
        "GET" | "HEAD" => list::list(store, key, &query).await,
        "PUT" => blob::put(api, store, key, false, request, payload).await,
        "REPLACE" => blob::put(api, store, key, true, request, payload).await,
        "DELETE" => blob::detached(async move { store.remove(&key).await }).await,
        "UNLINK" => blob::detached(async move { store.unlink(&key).await }).await,
        "RELINK" => blob::detached(async move { store.relink(&key).await }).await,
        "REBALANCE" => blob::detached(async move { store.rebalance(&key).await }).await,
        _ => Err(ApiError::Method),
    }
}

/// The parameters of a query, in order, form-decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Query {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(query);
        Query(pairs.map(web::Query::into_inner).unwrap_or_default())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Requests of the S3 protocol are never taken for native ones: their body is not the blob.
fn refuse_foreign_protocols(request: &HttpRequest, query: &Query) -> Result<(), ApiError> {
    const S3_PARAMETERS: [&str; 5] = ["uploadId", "partNumber", "uploads", "delete", "x-amz-copy-source"];
    if !matches!(*request.method(), Method::PUT | Method::POST | Method::DELETE) {
        return Ok(());
    }
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    let chunked =
        encoding.is_some_and(|value| value.as_bytes().windows(11).any(|part| part == b"aws-chunked"));
    let copies = request.headers().contains_key("x-amz-copy-source");
    match chunked || copies || S3_PARAMETERS.iter().any(|name| query.get(name).is_some()) {
        true => Err(ApiError::NotImplemented),
        false => Ok(()),
    }
}

/// One line for each request, asked for with `-v`. The path is logged as it came: it has no control characters.
fn log_request(request: &HttpRequest, response: &HttpResponse, received: u64, started: Instant) {
    let sent = match response.body().size() {
        BodySize::Sized(bytes) => format!("{bytes} bytes"),
        BodySize::None => "nothing".into(),
        BodySize::Stream => "a stream".into(),
    };
    log::debug!(
        "{} {} -> {} in {:.1} ms, {received} bytes in, {} out",
        request.method(),
        request.uri().path().escape_debug(),
        StatusCode::as_u16(&response.status()),
        started.elapsed().as_secs_f64() * 1000.0,
        sent,
    );
}
