//! Where volumes are found whose name is no address, or another's: a machine that moves keeps its name, and no blob moves.

use std::collections::HashMap;
use std::sync::Arc;

/// The address, `host:port`, of each server that is not found under its own name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses(Arc<HashMap<String, String>>);

impl Addresses {
    /// Servers' names, as they stand in volumes, with their addresses.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Addresses {
        Addresses(Arc::new(pairs.into_iter().collect()))
    }

    /// Where the server `name` (`host:port`) is found.
    pub fn of<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.get(name).map_or(name, String::as_str)
    }
}
