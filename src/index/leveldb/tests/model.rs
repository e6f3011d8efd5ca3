//! Random work, restarts and power cuts, compared with a `BTreeMap`.

use super::power::Plug;
use super::support::{Place, Random, all, open, small, watched};
use crate::index::leveldb::{LevelTable, Options};
use crate::index::table::{Change, Entry, Table, TableError};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the table may hold: the acknowledged writes, and perhaps the one that was interrupted.
struct World {
    random: Random,
    sure: Model,
    perhaps: Option<Model>,
}

/// Short keys over few bytes: neighbours, prefixes, zero bytes and highest bytes are common.
fn random_key(random: &mut Random) -> Vec<u8> {
    let length = 1 + random.below(6);
    (0..length).map(|_| [0, 1, b'/', b'a', b'b', b'c', 254, 255][random.below(8)]).collect()
}

fn random_value(random: &mut Random) -> Vec<u8> {
    let length = [0, 5, 60, 60, 60, 300, 300, 3_000][random.below(8)];
    let length = if random.below(500) == 0 { 70_000 } else { length };
    vec![random.next() as u8; length]
}

impl World {
    fn changes(&mut self) -> Vec<Change> {
        let count = 1 + self.random.below(12);
        let mut change = || match (random_key(&mut self.random), self.random.below(3)) {
            (key, 0) => Change::Delete { key },
            (key, _) => Change::Put { key, value: random_value(&mut self.random) },
        };
        (0..count).map(|_| change()).collect()
    }

    fn apply(&self, changes: &[Change]) -> Model {
        let mut after = self.sure.clone();
        for change in changes {
            match change {
                Change::Put { key, value } => drop(after.insert(key.clone(), value.clone())),
                Change::Delete { key } => drop(after.remove(key)),
            }
        }
        after
    }

    fn step(&mut self, table: &mut LevelTable) -> Result<(), TableError> {
        match self.random.below(20) {
            0..12 => {
                let changes = self.changes();
                let after = self.apply(&changes);
                self.perhaps = Some(after);
                table.write(&changes)?;
                self.sure = self.perhaps.take().expect("just set");
            }
            12..17 => self.check_lookups(table)?,
            17..19 => self.check_page(table)?,
            _ => drop(table.upkeep()?),
        }
        Ok(())
    }

    fn check_lookups(&mut self, table: &mut LevelTable) -> Result<(), TableError> {
        let mut keys: Vec<Vec<u8>> = (0..20).map(|_| random_key(&mut self.random)).collect();
        keys.extend(self.sure.keys().skip(self.random.below(self.sure.len() + 1)).take(20).cloned());
        let borrowed: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        for (key, found) in keys.iter().zip(table.get_many(&borrowed)?) {
            assert_eq!(found.as_ref(), self.sure.get(key), "key {key:?}");
        }
        Ok(())
    }

    fn check_page(&mut self, table: &mut LevelTable) -> Result<(), TableError> {
        let key = random_key(&mut self.random);
        let limit = 1 + self.random.below(30);
        let from =
            [Bound::Unbounded, Bound::Included(&key[..]), Bound::Excluded(&key[..])][self.random.below(3)];
        let entry = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        let expected: Vec<Entry> =
            self.sure.range::<[u8], _>((from, Bound::Unbounded)).take(limit).map(entry).collect();
        assert_eq!(table.page(from, limit)?.entries, expected, "from {from:?}");
        Ok(())
    }

    /// After a restart: by page and by lookup, it is one of the two.
    fn check_all(&mut self, table: &mut LevelTable) {
        let found: Model = all(table, 700).into_iter().collect();
        if found != self.sure {
            let perhaps = self.perhaps.take();
            let lost: Vec<_> =
                self.sure.iter().filter(|(key, value)| found.get(*key) != Some(value)).collect();
            assert!(perhaps.as_ref() == Some(&found), "lost {lost:?}");
            self.sure = found;
        }
        self.perhaps = None;
        let keys: Vec<&[u8]> = self.sure.keys().map(Vec::as_slice).collect();
        let values: Vec<Option<Vec<u8>>> = self.sure.values().cloned().map(Some).collect();
        let looked_up = table.get_many(&keys).expect("reads");
        let wrong = (0..keys.len()).find(|&at| looked_up[at] != values[at]);
        assert_eq!(wrong.map(|at| keys[at]), None, "lookups agree with pages");
    }
}

fn sizes(random: &mut Random, options: Options) -> Options {
    Options {
        write_buffer_bytes: [2 << 10, 8 << 10, 64 << 10][random.below(3)],
        table_bytes: [1 << 10, 4 << 10, 32 << 10][random.below(3)],
        block_bytes: [64, 256, 1 << 10, 4 << 10][random.below(4)],
        ..options
    }
}

/// Steps in all lives together.
const STEPS: usize = 6_000;

#[test]
fn random_work_with_restarts_and_power_cuts_agrees_with_a_model() {
    let place = Place::new();
    let mut random = Random::from_environment();
    let mut steps = 0;
    let seed = random.next();
    let mut world = World { random: Random(seed), sure: Model::new(), perhaps: None };
    while steps < STEPS {
        let operations = [usize::MAX, 20, 500, 3_000][random.below(4)];
        let plug = Arc::new(Plug::new(place.join("attic"), operations));
        let options = watched(sizes(&mut random, small()), &plug);
        let life = 1 + random.below(300);
        match open(&place.index(), options) {
            Ok(mut table) => {
                world.check_all_if_alive(&mut table, &plug);
                let lives = (0..life).all(|_| world.step(&mut table).is_ok());
                assert!(lives || plug.is_pulled(), "only the plug stops it");
                plug.pull();
            }
            Err(err) => assert!(plug.is_pulled(), "{err}"),
        }
        steps += life;
        plug.cut(&mut random);
    }
    let mut table = open(&place.index(), Options::default()).expect("opens in the end");
    world.check_all(&mut table);
}

impl World {
    /// The plug may be pulled while everything is checked; then nothing is learnt.
    fn check_all_if_alive(&mut self, table: &mut LevelTable, plug: &Plug) {
        plug.pause(|| self.check_all(table));
    }
}
