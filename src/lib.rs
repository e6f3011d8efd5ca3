//! minikeyvalue: a distributed key-value store for blobs. One master knows where every key lives; stock nginx is
//! the volume server on every machine.
//!
//! Dependencies point one way, and a test keeps it so:
//! `main → check, cli, client, config, job, rate_source, remote, server, up → api → maintenance → store → index, volume → model`, and
//! `metrics` below `api`.
//!
//! - [`model`]: keys, paths, placement, records; pure.
//! - [`index`]: the actor that owns the LevelDB handle and the keys' locks.
//! - [`volume`]: the HTTP client of the volumes, replication, health.
//! - [`store`]: the use cases, free of HTTP.
//! - [`maintenance`]: rebuild, rebalance, scrub, repair, drain, verify-index; the actor that runs them in a server.
//! - [`api`]: requests and status codes.
//! - [`metrics`]: what `/metrics` tells.
//! - [`client`]: put and get for people; [`check`]: volumes tried out.
//! - [`server`], [`up`], [`job`], [`remote`]: putting it together; [`rate_source`]: how fast; [`shown`]: how far a job or a transfer is; [`text`]: what no terminal obeys; [`config`], [`cli`] and [`settings`]: what was asked for; [`logs`].

pub mod api;
pub mod check;
pub mod cli;
pub mod client;
pub mod config;
pub mod index;
pub mod job;
pub mod logs;
pub mod maintenance;
pub mod metrics;
pub mod model;
pub mod rate_source;
pub mod remote;
pub mod server;
pub mod settings;
pub mod shown;
pub mod store;
pub mod text;
pub mod up;
pub mod volume;
