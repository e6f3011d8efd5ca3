//! Logging, and how much of it: `RUST_LOG` wins over `-v`, which logs every request.

use crate::shown::printable;
use env_logger::{Builder, Env};
use log::LevelFilter;
use std::io::Write;

const RUST_LOG: &str = "RUST_LOG";

/// Starts it, once in the life of a process. What is logged can hold what volumes have answered.
pub fn start(verbosity: Verbosity) {
    let env = Env::default().filter_or(RUST_LOG, "info,actix_server=warn,minikeyvalue=debug");
    let mut builder = Builder::from_env(env);
    builder.format(|out, record| {
        let (time, level, target) = (out.timestamp(), record.level(), record.target());
        writeln!(out, "[{time} {level:<5} {target}] {}", printable(&record.args().to_string()))
    });
    builder.init();
    set(verbosity);
}

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Nothing: the command says by itself what happens.
    Nothing,
    /// All but requests.
    Events,
    /// Requests too, one line each.
    Requests,
}

/// Changes it while the program runs; no effect under `RUST_LOG`.
pub fn set(verbosity: Verbosity) {
    if std::env::var_os(RUST_LOG).is_none() {
        log::set_max_level(match verbosity {
            Verbosity::Nothing => LevelFilter::Off,
            Verbosity::Events => LevelFilter::Info,
            Verbosity::Requests => LevelFilter::Debug,
        });
    }
}
