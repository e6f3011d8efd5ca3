//! How many keys there are, live and unlinked: counted once after a start, page by page behind the clients, and kept
//! right by every change from then on.

use super::table::Page;
use crate::model::{Key, Record, State};
use std::ops::Bound;

/// Keys by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// That can be read.
    pub live: u64,
    /// That are unlinked and not yet removed.
    pub unlinked: u64,
}

/// What is counted so far.
pub(super) struct Census {
    /// Where to go on; `None` when everything is counted.
    next: Option<Bound<Vec<u8>>>,
    counts: KeyCounts,
}

impl Census {
    pub(super) fn new() -> Census {
        Census { next: Some(Bound::Included(b"/".to_vec())), counts: KeyCounts::default() }
    }

    /// The counts, once everything is counted.
    pub(super) fn counts(&self) -> Option<KeyCounts> {
        self.next.is_none().then_some(self.counts)
    }

    /// Where to go on counting.
    pub(super) fn next(&self) -> Option<Bound<&[u8]>> {
        self.next.as_ref().map(|bound| bound.as_ref().map(Vec::as_slice))
    }

    /// What stands from [`Census::next`] on.
    pub(super) fn add(&mut self, page: Page) {
        // Who reads a value that is no record is told so; here it is no key.
        for record in page.entries.iter().filter_map(|(_, value)| Record::parse(value).ok()) {
            *self.of(record.state) += 1;
        }
        self.next = page.next.map(Bound::Excluded);
    }

    /// The record of `key` becomes another one; `None` is no record.
    pub(super) fn change(&mut self, key: &Key, before: Option<State>, after: Option<State>) {
        let is_counted = match &self.next {
            None => true,
            Some(Bound::Excluded(last)) => key.as_bytes() <= last.as_slice(),
            Some(Bound::Included(_) | Bound::Unbounded) => false,
        };
        if is_counted {
            before.into_iter().for_each(|state| *self.of(state) -= 1);
            after.into_iter().for_each(|state| *self.of(state) += 1);
        }
    }

    fn of(&mut self, state: State) -> &mut u64 {
        match state {
            State::Live => &mut self.counts.live,
            State::Unlinked => &mut self.counts.unlinked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(entries: &[(&str, &str)], next: Option<&str>) -> Page {
        let entries = entries.iter().map(|(key, value)| (Vec::from(*key), Vec::from(*value))).collect();
        Page { entries, next: next.map(Vec::from) }
    }

    #[test]
    fn only_what_is_counted_is_kept_right() {
        let mut census = Census::new();
        let change = |census: &mut Census, key: &str, before, after| {
            census.change(&Key::new(key.as_bytes()).expect("it is a key"), before, after);
        };
        change(&mut census, "/b", None, Some(State::Live));
        census.add(page(&[("/b", "a:1"), ("/m", "DELETEDa:1")], Some("/m")));
        change(&mut census, "/b", Some(State::Live), None);
        change(&mut census, "/z", None, Some(State::Live));
        assert_eq!(census.counts(), None);
        census.add(page(&[("/z", "a:1")], None));
        change(&mut census, "/zz", None, Some(State::Unlinked));
        change(&mut census, "/m", Some(State::Unlinked), Some(State::Live));
        assert_eq!(census.counts(), Some(KeyCounts { live: 2, unlinked: 1 }));
    }
}
