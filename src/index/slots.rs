//! Who holds which key, and which intents are stored where. Plain bookkeeping: the actor makes it durable.
//!
//! Intents live in numbered slots of the index that are overwritten again and again, so that a write leaves no
//! tombstone in the engine. A slot is either free, held by a writer, or waiting to be settled.

use super::message::{Forgotten, Places, WaitingFiles};
use crate::model::{Intent, Key, Names, PlacedFile};
use std::collections::{BTreeSet, HashMap, HashSet};

/// All entries that are not keys of blobs begin with this; keys begin with `/`, which sorts behind.
pub(super) const RESERVED_PREFIX: &str = "!mkv/";

/// Slots that may exist: each waiting intent costs some 300 bytes of memory, so 300 MB at the most.
pub(super) const MAX_SLOTS: usize = 1_000_000;

/// Slots that are looked at in one go: a few milliseconds.
const SLOTS_AT_ONCE: u32 = 4096;

const SLOT_PREFIX: &str = "!mkv/intent/";

/// The index entry of a slot.
pub(super) fn slot_key(slot: u32) -> Vec<u8> {
    format!("{SLOT_PREFIX}{slot:08x}").into_bytes()
}

/// The slot of an index entry.
pub(super) fn parse_slot_key(key: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(key).ok()?.strip_prefix(SLOT_PREFIX)?;
    u32::from_str_radix(digits, 16).ok()
}

#[derive(Default)]
pub(super) struct Slots {
    intents: HashMap<u32, Intent>,
    /// The slots of each key that has any.
    by_key: HashMap<Key, Vec<u32>>,
    /// The slot whose writer holds the key.
    held: HashMap<Key, u32>,
    /// Slots that are held by the background, to be settled or moved: it is done soon, and writers wait for it.
    claimed: HashSet<u32>,
    /// Those of them that are being settled.
    in_hand: HashSet<u32>,
    free: BTreeSet<u32>,
    /// Waiting intents by the time (µs since 1970) at which they are due.
    due: BTreeSet<(u64, u32)>,
    due_of: HashMap<u32, u64>,
    /// One more than the highest slot ever used by this process or found at its start.
    used: u32,
}

impl Slots {
    /// Takes over a slot found in the index, free or with an intent that is due at `due_us`.
    pub(super) fn found(&mut self, slot: u32, intent: Option<Intent>, due_us: u64) {
        let skipped = self.used..slot;
        self.free.extend(skipped);
        self.used = self.used.max(slot + 1);
        match intent {
            None => drop(self.free.insert(slot)),
            Some(intent) => {
                self.free.remove(&slot);
                self.by_key.entry(intent.key.clone()).or_default().push(slot);
                self.intents.insert(slot, intent);
                self.wait_until(slot, due_us);
            }
        }
    }

    pub(super) fn is_held(&self, key: &Key) -> bool {
        self.held.contains_key(key)
    }

    /// Whether the key is held by the background, which is done soon, and not by another writer.
    pub(super) fn is_claimed(&self, key: &Key) -> bool {
        self.held.get(key).is_some_and(|slot| self.claimed.contains(slot))
    }

    /// Whether anything may lie on a volume that the record of `key` doesn't name.
    pub(super) fn has_intents(&self, key: &Key) -> bool {
        self.by_key.contains_key(key)
    }

    pub(super) fn slots_of(&self, key: &Key) -> &[u32] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// The latest reservation that left an intent of `key`.
    pub(super) fn last_time_us(&self, key: &Key) -> u64 {
        self.slots_of(key)
            .iter()
            .filter_map(|slot| self.intents.get(slot))
            .map(|intent| intent.time_us)
            .max()
            .unwrap_or(0)
    }

    /// When the last waiting intent of `key` is due, µs since 1970; 0 if there is none.
    pub(super) fn due_of(&self, key: &Key) -> u64 {
        let due = self.slots_of(key).iter().filter_map(|slot| self.due_of.get(slot));
        due.copied().max().unwrap_or(0)
    }

    /// What the intents of `key`, other than the one in `slot`, name.
    pub(super) fn files_of_others(&self, key: &Key, slot: u32) -> Vec<PlacedFile> {
        let others = self.slots_of(key).iter().filter(|other| **other != slot);
        let files = others.filter_map(|other| self.intents.get(other)).flat_map(|intent| &intent.files);
        files.cloned().collect()
    }

    /// Has those who want the held key of `slot` wait for it, instead of being told that it is taken.
    pub(super) fn let_wait(&mut self, slot: u32) {
        self.claimed.insert(slot);
    }

    /// The keys that are held, in no order.
    pub(super) fn held_keys(&self) -> impl Iterator<Item = &Key> {
        self.held.keys()
    }

    /// When each key that is held was reserved, µs since 1970, in no order; for one that is held to settle an earlier
    /// write, that write's time. No two writes have the same.
    pub(super) fn held_since_us(&self) -> Vec<u64> {
        self.held.values().filter_map(|slot| self.intents.get(slot)).map(|intent| intent.time_us).collect()
    }

    /// Stores a new intent in the lowest free slot and holds its key. `None` when all are taken.
    pub(super) fn hold_new(&mut self, intent: Intent) -> Option<u32> {
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None if (self.used as usize) < MAX_SLOTS => {
                self.used += 1;
                self.used - 1
            }
            None => return None,
        };
        self.held.insert(intent.key.clone(), slot);
        self.by_key.entry(intent.key.clone()).or_default().push(slot);
        self.intents.insert(slot, intent);
        Some(slot)
    }

    /// Whether what is left is for writers: jobs, which may leave a removal for every key that there is, must not stop them.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.intents.len() >= MAX_SLOTS / 4 * 3
    }

    /// Holds the key of a waiting intent for the one who settles it. `None` also when it isn't due: the slot may have
    /// gone to another write since it was listed.
    pub(super) fn hold_due(&mut self, slot: u32, now_us: u64) -> Option<Intent> {
        let intent = self.intents.get(&slot)?;
        let due_us = *self.due_of.get(&slot).filter(|due_us| **due_us <= now_us)?;
        if self.held.contains_key(&intent.key) {
            return None;
        }
        self.held.insert(intent.key.clone(), slot);
        self.claimed.insert(slot);
        self.in_hand.insert(slot);
        self.due_of.remove(&slot);
        self.due.remove(&(due_us, slot));
        Some(intent.clone())
    }

    pub(super) fn intent(&self, slot: u32) -> Option<&Intent> {
        self.intents.get(&slot)
    }

    pub(super) fn intent_mut(&mut self, slot: u32) -> Option<&mut Intent> {
        self.intents.get_mut(&slot)
    }

    /// Lets go of the key; the intent waits until `due_us`.
    pub(super) fn let_go(&mut self, slot: u32, due_us: u64) {
        if let Some(intent) = self.intents.get(&slot) {
            self.held.remove(&intent.key);
            self.claimed.remove(&slot);
            self.in_hand.remove(&slot);
            self.wait_until(slot, due_us);
        }
    }

    /// Forgets an intent, waiting or held, and lets go of the key in the latter case.
    pub(super) fn clear(&mut self, slot: u32) -> Option<Intent> {
        let intent = self.intents.remove(&slot)?;
        self.claimed.remove(&slot);
        self.in_hand.remove(&slot);
        match self.due_of.remove(&slot) {
            Some(due_us) => drop(self.due.remove(&(due_us, slot))),
            None => drop(self.held.remove(&intent.key)),
        }
        if let Some(slots) = self.by_key.get_mut(&intent.key) {
            slots.retain(|other| *other != slot);
            if slots.is_empty() {
                self.by_key.remove(&intent.key);
            }
        }
        self.free.insert(slot);
        Some(intent)
    }

    pub(super) fn due(&self, now_us: u64, limit: usize) -> Vec<(u32, Intent)> {
        let due = self.due.range(..=(now_us, u32::MAX)).take(limit);
        due.filter_map(|(_, slot)| Some((*slot, self.intents.get(slot)?.clone()))).collect()
    }

    /// Puts a waiting intent off; no effect on one that is held, or waits longer: its slot may have gone to another
    /// write since it was listed.
    pub(super) fn postpone(&mut self, slot: u32, until_us: u64) {
        if let Some(due_us) = self.due_of.get(&slot).copied() {
            self.due.remove(&(due_us, slot));
            self.wait_until(slot, until_us.max(due_us));
        }
    }

    /// From now on files are told under present names.
    pub(super) fn set_names(&mut self, names: &Names) {
        for intent in self.intents.values_mut() {
            intent.files = names.files(std::mem::take(&mut intent.files));
        }
    }

    /// Drops the files at `places` from waiting intents, in some slots from `from` on; also answers the slots that changed.
    /// An intent without files is none any more. Held ones are left to who holds them.
    pub(super) fn forget(&mut self, places: &Places, from: u32) -> (Forgotten, Vec<u32>) {
        let to = self.used.min(from.saturating_add(SLOTS_AT_ONCE));
        let mut forgotten = Forgotten { next: (to < self.used).then_some(to), ..Forgotten::default() };
        let mut changed = Vec::new();
        for slot in from..to {
            let is_held = !self.due_of.contains_key(&slot);
            let Some(intent) = self.intents.get_mut(&slot) else { continue };
            let count = intent.files.iter().filter(|placed| places.contains(&placed.replica)).count();
            if count > 0 && is_held {
                forgotten.is_held = true;
            } else if count > 0 {
                forgotten.files += count as u64;
                intent.files.retain(|placed| !places.contains(&placed.replica));
                if intent.files.is_empty() {
                    self.clear(slot);
                }
                changed.push(slot);
            }
        }
        (forgotten, changed)
    }

    /// The files of waiting intents in the slots from `from` on.
    pub(super) fn waiting_files(&self, from: u32) -> WaitingFiles {
        let to = self.used.min(from.saturating_add(SLOTS_AT_ONCE));
        let waiting = (from..to).filter(|slot| self.due_of.contains_key(slot));
        let intents = waiting.filter_map(|slot| self.intents.get(&slot));
        let files = intents.flat_map(|intent| intent.files.iter().cloned()).collect();
        WaitingFiles { files, next: (to < self.used).then_some(to) }
    }

    /// Intents that wait, and those that are being settled at this moment, which may have to wait again.
    pub(super) fn unsettled(&self) -> usize {
        self.due.len() + self.in_hand.len()
    }

    /// The slots that hold nothing, which a clean stop removes from the index.
    pub(super) fn free_slots(&self) -> impl Iterator<Item = u32> {
        self.free.iter().copied()
    }

    fn wait_until(&mut self, slot: u32, due_us: u64) {
        self.due.insert((due_us, slot));
        self.due_of.insert(slot, due_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{File, Replica};

    fn intent(key: &str) -> Intent {
        let key = Key::new(key.as_bytes()).expect("it is a key");
        Intent { key, time_us: 1, not_before_us: 0, files: Vec::new() }
    }

    #[test]
    fn a_slot_that_went_to_another_write_is_not_settled_before_its_time() {
        let mut slots = Slots::default();
        let slot = slots.hold_new(intent("/a")).expect("there is room");
        slots.let_go(slot, 10);
        let due = slots.due(10, 5);
        assert_eq!(due.len(), 1);
        // The key is removed, and its slot taken by a write that must wait longer.
        slots.clear(slot);
        assert_eq!(slots.hold_new(intent("/b")), Some(slot));
        assert!(slots.hold_due(slot, 10).is_none(), "it is held");
        slots.let_go(slot, 70);
        slots.postpone(slot, 20);
        assert!(slots.hold_due(slot, 20).is_none(), "it is not due");
        assert_eq!(slots.hold_due(slot, 70).map(|intent| intent.key), Some(intent("/b").key));
        assert!(slots.hold_due(slot, 70).is_none(), "it is held");
    }

    #[test]
    fn what_is_being_settled_is_not_settled_yet() {
        let mut slots = Slots::default();
        let slots_held = ["/a", "/b"].map(|key| slots.hold_new(intent(key)).expect("there is room"));
        assert_eq!(slots.unsettled(), 0, "their writers will settle them");
        slots_held.into_iter().for_each(|slot| slots.let_go(slot, 10));
        slots_held.into_iter().for_each(|slot| drop(slots.hold_due(slot, 10)));
        assert_eq!(slots.unsettled(), 2);
        slots.let_go(slots_held[0], 20);
        slots.clear(slots_held[1]);
        assert_eq!(slots.unsettled(), 1);
    }

    #[test]
    fn everything_that_waits_is_told_in_pieces_and_nothing_that_is_held() {
        let mut slots = Slots::default();
        let count = SLOTS_AT_ONCE + 10;
        for number in 0..count {
            let replica: Replica = format!("host{number}:1").parse().expect("a place");
            let files = vec![PlacedFile { file: File::Sidecar, replica, in_doubt: false }];
            let slot =
                slots.hold_new(Intent { files, ..intent(&format!("/{number}")) }).expect("there is room");
            if number % 2 == 0 {
                slots.let_go(slot, 10);
            }
        }
        let (first, second) = (slots.waiting_files(0), slots.waiting_files(SLOTS_AT_ONCE));
        assert_eq!((first.next, second.next), (Some(SLOTS_AT_ONCE), None));
        assert_eq!(first.files.len() + second.files.len(), count as usize / 2);
    }

    #[test]
    fn what_waits_for_a_forgotten_volume_waits_no_more() {
        let places = |names: &str| -> Vec<PlacedFile> {
            let place = |name: &str| name.parse::<Replica>().expect("a place");
            let file = |name| PlacedFile { file: File::Blob(None), replica: place(name), in_doubt: false };
            names.split(' ').map(file).collect()
        };
        let mut slots = Slots::default();
        let mut add = |key, names| {
            let slot = slots.hold_new(Intent { files: places(names), ..intent(key) }).expect("there is room");
            if key != "/held" {
                slots.let_go(slot, 10);
            }
            slot
        };
        let (alone, both) = (add("/alone", "a:1/sv00 a:1/sv01"), add("/both", "a:1/sv00 b:1"));
        let (other, held) = (add("/other", "b:1 a:10"), add("/held", "a:1"));
        let volume = Places::Volume("a:1".parse().expect("a volume"));
        let forgotten = Forgotten { files: 3, is_held: true, next: None };
        assert_eq!(slots.forget(&volume, 0), (forgotten, vec![alone, both]));
        assert!(slots.intent(alone).is_none() && !slots.has_intents(&intent("/alone").key));
        assert_eq!(slots.intent(both).map(|intent| intent.files.clone()), Some(places("b:1")));
        assert_eq!(slots.intent(other).map(|intent| intent.files.len()), Some(2));
        slots.let_go(held, 10);
        assert_eq!(slots.forget(&volume, 0), (Forgotten { files: 1, ..Forgotten::default() }, vec![held]));
        assert_eq!((slots.forget(&volume, 0).1, slots.unsettled()), (vec![], 2));
    }
    #[test]
    fn the_last_quarter_of_the_slots_is_for_writers() {
        let mut slots = Slots::default();
        let key = intent("/a").key;
        for slot in 0..MAX_SLOTS as u32 / 4 * 3 {
            assert!(!slots.is_nearly_full());
            slots
                .intents
                .insert(slot, Intent { key: key.clone(), time_us: 1, not_before_us: 0, files: vec![] });
        }
        assert!(slots.is_nearly_full());
    }
}
