//! Logging, and how much of it: `RUST_LOG` wins over `-v`, which logs every request.

use env_logger::{Builder, Env};
use log::LevelFilter;

const RUST_LOG: &str = "RUST_LOG";

/// Starts it, once in the life of a process.
pub fn start(verbosity: Verbosity) {
    let env = Env::default().filter_or(RUST_LOG, "info,actix_server=warn,minikeyvalue=debug");
    Builder::from_env(env).init();
    set(verbosity);
}

/// Whether requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// They are not.
    Events,
    /// They are, one line each.
    Requests,
}

/// Changes it while the program runs; no effect under `RUST_LOG`.
pub fn set(verbosity: Verbosity) {
    if std::env::var_os(RUST_LOG).is_none() {
        log::set_max_level(match verbosity {
            Verbosity::Events => LevelFilter::Info,
            Verbosity::Requests => LevelFilter::Debug,
        });
    }
}
