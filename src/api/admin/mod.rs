//! The admin port: how the cluster is doing, and what can be done about it. Apart from the data port, where every path is
//! somebody's key. Documented in docs/openapi.json, which a test holds against [`ROUTES`].
//!
//! Reading is open to whoever reaches the port; acting needs the token, if the port can be reached from elsewhere. A
//! page in somebody's browser can do neither.

mod error;
mod guard;
mod jobs;
mod keys;
mod scrape;
mod volumes;

pub use guard::{Guard, Token};

use crate::maintenance::Maintenance;
use crate::metrics::Metrics;
use crate::store::Store;
use actix_web::{HttpResponse, Responder, web};
use error::AdminError;
use serde::Serialize;
use std::rc::Rc;
use std::time::Instant;

/// Every route: method and path, as docs/openapi.json writes them.
pub const ROUTES: [(&str, &str); 13] = [
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/api/status"),
    ("GET", "/api/volumes"),
    ("PUT", "/api/volumes/{volume}"),
    ("GET", "/api/jobs"),
    ("GET", "/api/jobs/{id}"),
    ("PATCH", "/api/jobs/{id}"),
    ("DELETE", "/api/jobs/{id}"),
    ("POST", "/api/jobs/{job}"),
    ("GET", "/api/keys"),
    ("GET", "/api/openapi.json"),
];

/// The longest body that is read, in bytes; the largest that makes sense has some hundred.
const MAX_BODY_BYTES: usize = 16 << 10;

/// The description of this API.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// What the admin port works with.
pub struct Admin {
    /// The store of this thread.
    pub store: Store,
    /// The jobs.
    pub maintenance: Maintenance,
    /// When the server was started.
    pub started: Instant,
    /// What is recorded.
    pub metrics: Metrics,
}

/// Adds all routes.
pub fn configure(config: &mut web::ServiceConfig, admin: Rc<Admin>) {
    config
        .app_data(web::Data::new(admin))
        .app_data(web::PayloadConfig::new(MAX_BODY_BYTES))
        .app_data(
            web::QueryConfig::default().error_handler(|err, _| AdminError::Query(err.to_string()).into()),
        )
        .app_data(web::PathConfig::default().error_handler(|_, _| AdminError::NoSuchPath.into()))
        .service(web::resource("/healthz").get(async || "ok\n"))
        .service(web::resource("/readyz").get(volumes::ready))
        .service(web::resource("/metrics").get(scrape::metrics))
        .service(web::resource("/api/status").get(status))
        .service(web::resource("/api/volumes").get(volumes::list))
        .service(web::resource("/api/volumes/{volume:.*}").put(volumes::set_mode))
        .service(web::resource("/api/jobs").get(jobs::list))
        .service(
            web::resource("/api/jobs/{id:[0-9]+}").get(jobs::show).patch(jobs::change).delete(jobs::stop),
        )
        .service(web::resource("/api/jobs/{job}").post(jobs::begin))
        .service(web::resource("/api/keys").get(keys::list))
        .service(web::resource("/api/openapi.json").get(openapi))
        .default_service(web::to(async || AdminError::NoSuchPath));
}

/// Shared by all handlers of a thread.
type State = web::Data<Rc<Admin>>;

async fn openapi() -> impl Responder {
    HttpResponse::Ok().content_type("application/json").body(OPENAPI)
}

/// The whole on one page.
#[derive(Serialize)]
struct Summary {
    version: &'static str,
    cluster: String,
    uptime_seconds: u64,
    replicas: usize,
    volumes: usize,
    volumes_up: usize,
    /// Removals that wait for a volume or for the grace period.
    unsettled: usize,
    last_scrub: Option<crate::maintenance::state::ScrubSummary>,
    jobs_running: usize,
}

async fn status(admin: State) -> Result<impl Responder, AdminError> {
    let store = &admin.store;
    let volumes = volumes::views(&admin);
    let jobs = admin.maintenance.jobs().await;
    Ok(web::Json(Summary {
        version: env!("CARGO_PKG_VERSION"),
        cluster: store.index().cluster_id().await?,
        uptime_seconds: admin.started.elapsed().as_secs(),
        replicas: store.placer().replicas(),
        volumes: volumes.len(),
        volumes_up: volumes.iter().filter(|volume| volume.is_up()).count(),
        unsettled: store.index().unsettled().await?,
        last_scrub: admin.maintenance.state().get().last_scrub,
        jobs_running: jobs.iter().filter(|job| job.ended_us.is_none()).count(),
    }))
}
