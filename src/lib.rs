//! minikeyvalue: a distributed key-value store for blobs. One master knows where every key lives;
//! stock nginx is the volume server on every machine.
//!
//! Dependencies point one way: `cli, config, server → api → store → index, volume → model`.

pub mod index;
pub mod model;
pub mod volume;
