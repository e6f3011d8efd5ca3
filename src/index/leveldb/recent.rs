//! What was written and is in no table yet: durable in the logs, and here for whoever asks for it.

use crate::index::table::Change;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The newest change of each key, until a table has it.
#[derive(Default)]
pub(super) struct Recent(BTreeMap<Vec<u8>, Newest>);

struct Newest {
    /// The number of the change.
    sequence: u64,
    /// `None` deletes.
    value: Option<Vec<u8>>,
}

impl Recent {
    /// Takes in `changes`, the first of which has the number `sequence`.
    pub(super) fn add(&mut self, changes: &[Change], sequence: u64) {
        for (sequence, change) in (sequence..).zip(changes) {
            let (key, value) = match change {
                Change::Put { key, value } => (key, Some(value.clone())),
                Change::Delete { key } => (key, None),
            };
            self.0.insert(key.clone(), Newest { sequence, value });
        }
    }

    /// What is known of `key`: nothing, that it is deleted (`Some(None)`), or its value.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.0.get(key).map(|newest| newest.value.as_deref())
    }

    /// Everything from `from` on, in order.
    pub(super) fn range(&self, from: Bound<&[u8]>) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let entries = self.0.range::<[u8], _>((from, Bound::Unbounded));
        entries.map(|(key, newest)| (&key[..], newest.value.as_deref()))
    }

    /// Forgets what tables have: all changes up to `flushed`.
    pub(super) fn forget(&mut self, flushed: u64) {
        self.0.retain(|_, newest| newest.sequence > flushed);
    }
}
