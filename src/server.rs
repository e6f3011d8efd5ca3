//! Puts the parts together and keeps them running: index thread, background arbiter, HTTP workers, signals.

mod reload;

use crate::api::admin::{Admin, Guard, Token};
use crate::api::{self, Api, ApiOptions, LastAccepted};
use crate::cli::Sync;
use crate::config::Config;
use crate::index::table::TableError;
use crate::index::{self, IndexError, IndexSender, IndexServer, leveldb};
use crate::maintenance::state::StateFile;
use crate::maintenance::{Maintenance, MaintenanceError, Schedule};
use crate::metrics::Metrics;
use crate::model::Volume;
use crate::store::{
    Access, Conflict, MasterError, Mastership, StoreError, StoreParts, note_tombstones, settle_forever,
    watch_identities,
};
use crate::volume::{self, Adopt, ClusterId, Credentials, Health, ProbeOutcome, Timeouts};
use actix_rt::signal::unix::{Signal, SignalKind, signal};
use actix_rt::time::timeout;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer};
use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::{Either, select};
use log::{info, warn};
use reload::{Hangups, Reload};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long running requests may go on after SIGTERM: a 1 GiB upload over a 100 Mbit line needs 90 s.
const SHUTDOWN_SECONDS: u64 = 120;

/// How long a client may take to send the head of a connection's first request. actix-http 3.20 knows no such limit for
/// later ones, and nothing outside of its dispatcher sees a head that isn't complete; 3.21.2 announces one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long the volumes may take to be looked at once more before the server ends.
const LAST_LOOKS: Duration = Duration::from_secs(5);

/// Connections that the system may accept before a worker gets to them.
const BACKLOG: u32 = 4096;

/// Why a server did not start, or ended.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The index can't be opened, or has stopped.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The index did not answer.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The port can't be listened on.
    #[error("can't listen on port {port}: {source}")]
    Bind {
        /// The port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// A volume of another cluster.
    #[error(
        "volume {volume} belongs to cluster {}, not to {ours}; if the index was lost, rebuild it (--allow-missing leaves out what is gone); --adopt takes the volume over",
        theirs.escape_debug()
    )]
    Foreign {
        /// The volume.
        volume: Volume,
        /// The cluster that the volume names.
        theirs: String,
        /// The cluster that the index names.
        ours: String,
    },
    /// Two volumes can't be used beside each other.
    #[error("{0}")]
    Conflict(Conflict),
    /// The index is not the present one, or another server works on the volumes.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// What the volumes are can't be found out.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is remembered beside the index can't be read or written.
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
    /// A socket or signal failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What every thread makes its own handles from.
#[derive(Clone)]
struct Parts {
    store: StoreParts,
    api: Arc<ArcSwap<ApiOptions>>,
    last_accepted: Arc<LastAccepted>,
}

impl Parts {
    fn new(config: &Config, index: IndexSender) -> Parts {
        let store = StoreParts {
            index,
            health: Arc::new(Health::found_at(config.placer.volumes(), config.addresses.clone())),
            timeouts: Timeouts::from_voltimeout(config.voltimeout),
            placer: Arc::new(config.placer.clone()),
            options: Arc::new(ArcSwap::from_pointee(config.store.clone())),
            userpass: Credentials::new(config.userpass.as_deref()),
        };
        Parts {
            store,
            api: Arc::new(ArcSwap::from_pointee(config.api.clone())),
            last_accepted: Arc::default(),
        }
    }
}

impl Parts {
    /// Whose credentials the server's own work uses, at each moment.
    fn access(&self) -> impl Fn() -> Access + Clone + use<> {
        let (userpass, api) = (self.store.userpass.clone(), Arc::clone(&self.api));
        let accepted = Arc::clone(&self.last_accepted);
        move || match accepted.get() {
            _ if userpass.is_some() || !api.load().basicauth => Access::Own,
            Some(userpass) => Access::Client(userpass),
            None => Access::Nobody,
        }
    }
}

/// Serves until a signal ends it; with SIGHUP, goes on with what `read_again` answers. Blocks the calling thread.
pub fn run(
    config: Config,
    read_again: impl Fn() -> Result<Config, String> + 'static,
) -> Result<(), ServerError> {
    config.settings.log();
    // Before anything makes a handle to record by.
    let admin = config.admin.map(|address| (address, Metrics::install()));
    actix_rt::System::new().block_on(async {
        // Before anything that takes time, as the signal would end the process until then.
        let hangups = Hangups::catch()?;
        let index = open_index(&config)?;
        serve(config, index, admin, hangups, read_again).await
    })
}

fn open_index(config: &Config) -> Result<IndexServer, TableError> {
    let sync = match config.sync {
        Sync::Always => leveldb::SyncMode::Always,
        Sync::Never => leveldb::SyncMode::Never,
    };
    if config.sync == Sync::Never {
        warn!("--sync never: what is acknowledged may be lost with the machine's power");
    }
    let dir = config.db.clone();
    let options =
        leveldb::Options { sync, copy_mark: Some(index::copy_mark()), ..leveldb::Options::default() };
    let open = move || leveldb::open(&dir, options);
    IndexServer::start(open, config.store.grace_us())
}

async fn serve(
    config: Config,
    mut index: IndexServer,
    admin: Option<(SocketAddr, Metrics)>,
    hangups: Hangups,
    read_again: impl Fn() -> Result<Config, String> + 'static,
) -> Result<(), ServerError> {
    let parts = Parts::new(&config, index.sender());
    let cluster: ClusterId = parts
        .store
        .index
        .handle()
        .cluster_id()
        .await?
        .parse()
        .map_err(|err| TableError::Corrupt { reason: format!("the cluster id can't be read: {err}") })?;
    parts.store.expect_next_id(&cluster).await?;
    let handle = parts.store.index.handle();
    let state = Arc::new(StateFile::open(&config.db, &handle).await?);
    state.apply(&handle, &parts.store.placer).await?;
    refuse_port_in_use(&config)?;
    check_volumes(&parts, &cluster, config.adopt.into()).await?;
    let master = Mastership::begin(parts.store.store(), &config.db, config.takeover.into()).await?;
    // Before anybody can see that it serves, and end it for that.
    let ends = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let server = listen(&config, &parts)?;
    let jobs = StoreParts { timeouts: Timeouts::for_jobs(config.voltimeout), ..parts.store.clone() };
    let maintenance = Maintenance::start(jobs, state, Schedule { scrub_every: config.scrub_every });
    let token: Token = Arc::new(ArcSwapOption::from_pointee(config.admin_token.clone()));
    if let Some((address, metrics)) = admin {
        actix_rt::spawn(listen_for_admin(address, &token, &parts, &maintenance, metrics.clone())?);
        actix_rt::spawn(metrics.fold_forever());
        // Has them counted.
        parts.store.index.handle().key_counts().await?;
    }
    work_in_background(&parts, cluster, config.adopt.into());
    info!("serving {} volumes on port {}", config.placer.volumes().len(), config.port);
    let access = parts.access();
    let last = parts.store.clone();
    let reload = Reload { config, read_again, parts, token, maintenance: maintenance.clone() };
    actix_rt::spawn(reload.at(hangups));
    let signals = pin!(stop_at_signal(server.handle(), ends));
    let served = async { select(server, signals).await.factor_first().0 };
    let ended = until_the_end(&mut index, &master, access, served).await?;
    maintenance.shut_down().await;
    let last_looks = timeout(LAST_LOOKS, last.store().look_at_last()).await;
    if last_looks.is_err() {
        warn!("what was written in the last second could not be looked at");
    }
    if let Err(err) = master.end().await {
        warn!("telling the volumes that their master has stopped: {err}");
    }
    index.close().await?;
    info!("stopped");
    Ok(ended?)
}

/// How the service ended by itself; an error if the index or another master ended it.
async fn until_the_end(
    index: &mut IndexServer,
    master: &Mastership,
    access: impl Fn() -> Access,
    served: impl Future<Output = io::Result<()>>,
) -> Result<io::Result<()>, ServerError> {
    let broken = async {
        match select(pin!(index.failed()), pin!(master.beat(access))).await {
            Either::Left((err, _)) => ServerError::Table(err),
            Either::Right((overtaken, _)) => ServerError::Master(overtaken),
        }
    };
    match select(pin!(broken), pin!(served)).await {
        Either::Left((err, _)) => Err(err),
        Either::Right((ended, _)) => Ok(ended),
    }
}

/// Looks at every volume once, so that the first requests know which are up.
async fn check_volumes(parts: &Parts, cluster: &ClusterId, adopt: Adopt) -> Result<(), ServerError> {
    let store = parts.store.store();
    store.know_identities().await?;
    parts.store.health.ask_for_admission(parts.store.placer.volumes());
    let mut answering = Vec::new();
    for (volume, outcome) in volume::probe_all_once(store.volumes(), cluster, adopt).await {
        match outcome {
            ProbeOutcome::Foreign { found: theirs } => {
                return Err(ServerError::Foreign { volume, theirs, ours: cluster.to_string() });
            }
            ProbeOutcome::Stranger { .. } if parts.store.health.identity(&volume.root()).is_none() => {}
            ProbeOutcome::Down { .. } => {}
            ProbeOutcome::Up | ProbeOutcome::Adopted | ProbeOutcome::Stranger { .. } => {
                answering.push(volume)
            }
        }
    }
    match store.recognise(&answering, adopt).await?.into_iter().next() {
        Some(conflict) => Err(ServerError::Conflict(conflict)),
        None => Ok(()),
    }
}

/// Before any volume is told of this server.
fn refuse_port_in_use(config: &Config) -> Result<(), ServerError> {
    let address = SocketAddr::new(address(config.listen), config.port);
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(source) => Err(ServerError::Bind { port: config.port, source }),
    }
}

fn listen(config: &Config, parts: &Parts) -> Result<actix_web::dev::Server, ServerError> {
    let parts = parts.clone();
    let app = move || {
        let api = Api::new(parts.store.store(), Arc::clone(&parts.api), Arc::clone(&parts.last_accepted));
        App::new().configure(|routes| api::configure(routes, Rc::new(api)))
    };
    let server = HttpServer::new(app)
        .backlog(BACKLOG)
        .client_request_timeout(HEAD_TIMEOUT)
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .disable_signals();
    let address = SocketAddr::new(address(config.listen), config.port);
    let bound = server.bind(address).map_err(|source| ServerError::Bind { port: config.port, source })?;
    Ok(bound.run())
}

/// The admin port has one worker: a person or two, and whoever scrapes.
fn listen_for_admin(
    address: SocketAddr,
    token: &Token,
    parts: &Parts,
    maintenance: &Maintenance,
    metrics: Metrics,
) -> Result<actix_web::dev::Server, ServerError> {
    let (store, maintenance, started) = (parts.store.clone(), maintenance.clone(), Instant::now());
    let guard = Guard::new(address.ip(), Arc::clone(token));
    let app = move || {
        let guard = guard.clone();
        let (maintenance, metrics) = (maintenance.clone(), metrics.clone());
        let admin = Admin { store: store.store(), maintenance, started, metrics };
        App::new()
            .wrap(from_fn(move |request, next| {
                let guard = guard.clone();
                async move { guard.check(request, next).await }
            }))
            .configure(|routes| api::admin::configure(routes, Rc::new(admin)))
    };
    let server = HttpServer::new(app).workers(1).client_request_timeout(HEAD_TIMEOUT).disable_signals();
    let bound = server.bind(address).map_err(|source| ServerError::Bind { port: address.port(), source })?;
    info!("the admin port is {address}");
    Ok(bound.run())
}

/// All addresses of both families, where the machine has IPv6.
fn address(listen: Option<IpAddr>) -> IpAddr {
    let has_ipv6 = || std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
    listen.unwrap_or_else(|| match has_ipv6() {
        true => Ipv6Addr::UNSPECIFIED.into(),
        false => Ipv4Addr::UNSPECIFIED.into(),
    })
}

/// Probes and removals run in a thread of their own, so that they never wait for clients nor clients for them.
fn work_in_background(parts: &Parts, cluster: ClusterId, adopt: Adopt) {
    let arbiter = actix_rt::Arbiter::new();
    let parts = parts.clone();
    arbiter.spawn_fn(move || {
        actix_rt::spawn(volume::watch(parts.store.volumes(), cluster, adopt));
        let access = parts.access();
        actix_rt::spawn(watch_identities(parts.store.store(), access.clone()));
        actix_rt::spawn(note_tombstones(parts.store.store(), access.clone()));
        actix_rt::spawn(settle_forever(parts.store.store(), access));
    });
}

/// SIGTERM and Ctrl-C let running requests finish; a second one ends them. Returns when the server is to end; it
/// can't be told to hurry once it is stopping.
async fn stop_at_signal(server: actix_web::dev::ServerHandle, mut signals: [Signal; 2]) -> io::Result<()> {
    next_of(&mut signals).await;
    info!("stopping when the running requests are done, in {SHUTDOWN_SECONDS} s at the latest");
    let graceful = server.stop(true);
    if let Either::Right(_) = select(pin!(graceful), pin!(next_of(&mut signals))).await {
        warn!("stopping at once; what is cut off is cleaned up at the next start");
    }
    Ok(())
}

async fn next_of([terminate, interrupt]: &mut [Signal; 2]) {
    select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
}
