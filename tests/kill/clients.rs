//! Clients that write to keys of their own, so that each knows exactly what its keys must be.

use std::collections::BTreeMap;

use crate::harness::Random;
use crate::harness::{eventually, try_http};

const KEYS_OF_A_CLIENT: u64 = 6;

/// What is killed while the clients write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kills {
    /// Then requests end without an answer.
    Master,
    /// Then every request is answered, some with 503.
    Volumes,
}

/// What a key is.
#[derive(Clone, PartialEq, Eq)]
enum State {
    Absent,
    Live(Vec<u8>),
    Unlinked(Vec<u8>),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            State::Absent => write!(f, "absent"),
            State::Live(body) => write!(f, "live, {} bytes {:x}", body.len(), md5::compute(body)),
            State::Unlinked(body) => write!(f, "unlinked, {} bytes {:x}", body.len(), md5::compute(body)),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    is_rebuilt: bool,
    chance: Random,
    /// What each key may be: one state, or two after a request that nobody answered.
    keys: BTreeMap<String, Vec<State>>,
    cut_off: usize,
    statuses: BTreeMap<u16, usize>,
}

impl Client {
    pub fn new(number: u64, seed: u64, url: String) -> Self {
        // Names of every form that they have on a volume: plain, in folders, long.
        let name = |key: u64| match key {
            0 => format!("/{number}/%3F%3F%3F"),
            1 => format!("/{number}/{}", "long/".repeat(60)),
            _ => format!("/{number}/{key}"),
        };
        let keys = (0..KEYS_OF_A_CLIENT).map(|key| (name(key), vec![State::Absent])).collect();
        let chance = Random::new(seed ^ (number + 1).wrapping_mul(0x5851_f42d_4c95_7f2d));
        Self { url, is_rebuilt: false, chance, keys, cut_off: 0, statuses: BTreeMap::new() }
    }

    /// The same client, who knows the same of its keys and asks a server with an index that was made anew.
    pub fn at_rebuilt(&self, url: String) -> Self {
        Self { url, is_rebuilt: true, ..self.clone() }
    }

    /// How many keys are known to have a blob, or to have none.
    pub fn certain(&self) -> usize {
        self.keys.values().filter(|states| states.len() == 1).count()
    }

    /// How many requests ended without an answer.
    pub fn cut_off(&self) -> usize {
        self.cut_off
    }

    /// One request, and what follows from its answer. False when there was none.
    pub fn step(&mut self, kills: Kills) -> bool {
        let number = self.chance.below(KEYS_OF_A_CLIENT) as usize;
        let key = self.keys.keys().nth(number).expect("it has so many").clone();
        let before = self.keys[&key][0].clone();
        if self.chance.below(6) == 0 {
            return kills == Kills::Master || self.read(&key, &before);
        }
        let verb =
            ["PUT", "PUT", "REPLACE", "REPLACE", "UNLINK", "RELINK", "DELETE"][self.chance.below(7) as usize];
        let body = if matches!(verb, "PUT" | "REPLACE") { self.body() } else { Vec::new() };
        match try_http(verb, &format!("{}{key}", self.url), &body, &[]) {
            Ok(response) => {
                *self.statuses.entry(response.status).or_default() += 1;
                let after = after(verb, &before, body, response.status);
                let after = after.unwrap_or_else(|| {
                    panic!("{verb} {key} ({before:?}): {} {}", response.status, response.text())
                });
                self.keys.insert(key, vec![after]);
                true
            }
            Err(err) => {
                assert_eq!(kills, Kills::Master, "{verb} {key}: {err}");
                self.cut_off += 1;
                let done = done(verb, &before, body);
                self.keys.insert(key, vec![before, done]);
                false
            }
        }
    }

    /// With one volume away, what is live can be read from another.
    fn read(&self, key: &str, state: &State) -> bool {
        if let State::Live(body) = state {
            eventually("it can be read", || match self.fetch(key) {
                Some(Ok(found)) => {
                    assert!(found == *body, "{key} has another content");
                    true
                }
                Some(Err(status)) => {
                    assert!(status != 404 && status != 410, "{key} ({state:?}): {status}");
                    false
                }
                None => false,
            });
        }
        true
    }

    /// Every key is what it must be, or one of what it may be, which it is from then on.
    #[track_caller]
    pub fn check_all(&mut self, unlinked: &[String]) {
        for (key, states) in self.keys.clone() {
            let found = match self.fetch(&key).expect("the server and its volumes are up") {
                Ok(body) => State::Live(body),
                Err(404) => {
                    let listed = unlinked.contains(&key.replace("%3F", "?"));
                    match states.iter().find(|state| matches!(state, State::Unlinked(_))) {
                        Some(state) if listed => state.clone(),
                        _ if listed => panic!("{key} is unlinked, and may be {states:?}"),
                        _ => State::Absent,
                    }
                }
                // A DELETE that nobody answered has removed the blob and left its sidecars, by which a rebuild knows that there was one.
                Err(410) if self.is_rebuilt && states.len() > 1 && states.contains(&State::Absent) => {
                    State::Absent
                }
                Err(status) => panic!("{key} is {states:?}: {status}"),
            };
            assert!(states.contains(&found), "{key} is {found:?}, and may be {states:?}");
            self.keys.insert(key, vec![found]);
        }
    }

    /// The content, or the status that says that there is none. `None` when somebody is away.
    fn fetch(&self, key: &str) -> Option<Result<Vec<u8>, u16>> {
        let response = try_http("GET", &format!("{}{key}", self.url), b"", &[]).ok()?;
        match response.header("location") {
            Some(location) => {
                let blob = try_http("GET", location, b"", &[]).ok()?;
                (blob.status == 200).then_some(Ok(blob.body))
            }
            None => Some(Err(response.status)),
        }
    }

    fn body(&mut self) -> Vec<u8> {
        let count = match self.chance.below(12) {
            0 => 300 << 10,
            _ => self.chance.between(1 << 10, 20 << 10),
        };
        self.chance.bytes(count as usize)
    }
}

/// How often which status was answered.
pub fn summary(clients: &[Client]) -> String {
    let mut sums = BTreeMap::<u16, usize>::new();
    for (status, count) in clients.iter().flat_map(|client| &client.statuses) {
        *sums.entry(*status).or_default() += count;
    }
    let cut_off: usize = clients.iter().map(Client::cut_off).sum();
    format!("{sums:?}, {cut_off} without an answer")
}

/// What a key is after `verb` was carried out.
fn done(verb: &str, before: &State, body: Vec<u8>) -> State {
    match (verb, before) {
        ("PUT", State::Live(_)) => before.clone(),
        ("PUT" | "REPLACE", _) => State::Live(body),
        ("UNLINK", State::Live(body)) => State::Unlinked(body.clone()),
        ("RELINK", State::Unlinked(body)) => State::Live(body.clone()),
        ("DELETE", _) => State::Absent,
        _ => before.clone(),
    }
}

/// What a key is after `status`; `None` when that status is wrong.
fn after(verb: &str, before: &State, body: Vec<u8>, status: u16) -> Option<State> {
    let live = matches!(before, State::Live(_));
    let done = || Some(done(verb, before, body.clone()));
    match (verb, before, status) {
        // Something that a kill has left of this key is being settled.
        (_, _, 409) => Some(before.clone()),
        ("PUT", State::Live(_), 403) => Some(before.clone()),
        ("PUT", State::Absent | State::Unlinked(_), 201) => done(),
        ("REPLACE", _, 204) if live => done(),
        ("REPLACE", _, 201) if !live => done(),
        ("UNLINK", State::Live(_), 204) | ("RELINK", State::Unlinked(_), 204) => done(),
        ("UNLINK", State::Absent | State::Unlinked(_), 404) => Some(before.clone()),
        ("RELINK", State::Absent | State::Live(_), 404) => Some(before.clone()),
        // 503: forgotten, although some file is not confirmed gone. 204 for an absent key: what was left of it is.
        ("DELETE", _, 204 | 503) => done(),
        ("DELETE", State::Absent, 404) => Some(State::Absent),
        // Too few volumes: everything is as it was.
        ("PUT" | "REPLACE" | "UNLINK" | "RELINK", _, 503) => Some(before.clone()),
        _ => None,
    }
}
