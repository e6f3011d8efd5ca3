//! SIGHUP: the configuration is read again. What can change while the server runs does, all of it or, after a mistake,
//! nothing; what can't is named. No request waits for it.

use super::{Parts, Token};
use crate::config::Config;
use crate::logs;
use crate::maintenance::{Maintenance, Schedule};
use crate::store::StoreOptions;
use actix_rt::signal::unix::{Signal, SignalKind, signal};
use log::{error, info, warn};
use nix::sys::signal::{Signal as Kind, raise};
use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::sync::Arc;

/// What is read at the start only: other threads, files and machines have been made from it.
const AT_START_ONLY: [&str; 13] = [
    "address",
    "admin",
    "adopt",
    "db",
    "grace",
    "listen",
    "port",
    "replicas",
    "subvolumes",
    "sync",
    "takeover",
    "voltimeout",
    "volumes",
];

/// The signals that have the configuration read again, and those of a terminal that closes.
pub(super) struct Hangups {
    signal: Signal,
    had_terminal: bool,
}

impl Hangups {
    /// Until now the signal has ended the process, so a terminal that closes at any moment is not missed.
    pub(super) fn catch() -> io::Result<Self> {
        let had_terminal = io::stderr().is_terminal();
        Ok(Self { signal: signal(SignalKind::hangup())?, had_terminal })
    }
}

/// A server that goes on under another configuration.
pub(super) struct Reload<F> {
    /// What it goes by.
    pub(super) config: Config,
    /// Makes a configuration from the command line, the environment and the files as they are now.
    pub(super) read_again: F,
    pub(super) parts: Parts,
    pub(super) token: Token,
    pub(super) maintenance: Maintenance,
}

impl<F: Fn() -> Result<Config, String>> Reload<F> {
    /// Reads it again with every signal.
    pub(super) async fn at(mut self, mut hangups: Hangups) {
        while hangups.signal.recv().await.is_some() {
            if hangups.had_terminal && !io::stderr().is_terminal() {
                // Its terminal was closed: that ends it, as it ends every program in the foreground.
                let _ = raise(Kind::SIGTERM);
                continue;
            }
            match (self.read_again)() {
                Ok(config) => self.take(config).await,
                Err(err) => error!("the configuration stays as it was: {err}"),
            }
        }
    }

    async fn take(&mut self, new: Config) {
        self.tell_of(&new);
        let settings = self.config.settings.replaced_by(&new.settings, &AT_START_ONLY);
        let store = StoreOptions { grace: self.config.store.grace, ..new.store };
        self.config = Config { settings, store, ..new };
        let new = &self.config;
        self.parts.store.options.store(Arc::new(new.store.clone()));
        self.parts.store.userpass.set(new.userpass.as_deref());
        self.parts.api.store(Arc::new(new.api.clone()));
        self.token.store(new.admin_token.clone().map(Arc::new));
        self.maintenance.set_schedule(Schedule { scrub_every: new.scrub_every }).await;
        logs::set(new.verbosity);
    }

    fn tell_of(&self, new: &Config) {
        let (fixed, mut changed): (BTreeSet<_>, BTreeSet<_>) =
            self.config.settings.changed_in(&new.settings).partition(|name| AT_START_ONLY.contains(name));
        for name in fixed {
            warn!("{name} is another one now; restart to use it");
        }
        // Their files may have changed under the same names.
        if self.config.userpass != new.userpass {
            changed.insert("userpass");
        }
        if self.config.admin_token != new.admin_token {
            changed.insert("admin-token");
        }
        let changed: Vec<&str> = changed.into_iter().collect();
        match changed.is_empty() {
            true => info!("the configuration was read again; nothing that can change has changed"),
            false => info!("the configuration was read again; new: {}", changed.join(", ")),
        }
        new.settings.warn_if_open();
    }
}

#[cfg(test)]
mod tests {
    use super::AT_START_ONLY;

    #[test]
    fn operators_are_told_the_same() {
        let text = include_str!("../../docs/operations.md");
        let row = text.lines().find(|line| line.contains("| need a restart")).expect("the row is there");
        let mut told: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        told.sort_unstable();
        assert_eq!(told, AT_START_ONLY);
    }
}
