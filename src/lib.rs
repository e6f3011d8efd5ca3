//! minikeyvalue: a distributed key-value store for blobs. One master knows where every key lives; stock nginx is
//! the volume server on every machine.
//!
//! Dependencies point one way, and a test keeps it so:
//! `main → cli, config, job, server, up → api → maintenance → store → index, volume → model`.
//!
//! - [`model`]: keys, paths, placement, records; pure.
//! - [`index`]: the actor that owns the LevelDB handle and the keys' locks.
//! - [`volume`]: the HTTP client of the volumes, replication, health.
//! - [`store`]: the use cases, free of HTTP.
//! - [`maintenance`]: rebuild, rebalance, verify-index.
//! - [`api`]: requests and status codes.
//! - [`server`], [`up`], [`job`]: putting it together; [`config`] and [`cli`]: what was asked for.

pub mod api;
pub mod cli;
pub mod config;
pub mod index;
pub mod job;
pub mod maintenance;
pub mod model;
pub mod server;
pub mod store;
pub mod up;
pub mod volume;
