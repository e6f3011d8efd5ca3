//! Everything at once, by a seed: clients write, overwrite, hide and delete the same keys all the time, while jobs begin, end,
//! overlap and change their rate, volumes die, hang, lose what they had or change their mode, and the server is killed.
//! In the end every key must be what was acknowledged, a scrub must find nothing, and a rebuild must make the same index.
//!
//! What is chosen is the same in every run; which of it meets what else stays up to the clock. `MODEL_SEED` has other choices made
//! and `MODEL_SECONDS` sets how long it goes on; a failure tells its seed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Administered, Master, Random, Volume, addresses, eventually, lines_of, try_http, volumes, wait_for,
};

/// Two, as what one of them never chooses the other may.
const SEEDS: [u64; 2] = [1, 2];

/// What a key may be, as far as its client knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Absent,
    Live(Vec<u8>),
    Unlinked(Vec<u8>),
}

/// What every body ends with.
const LAST: u8 = b'x';

/// A body as it was before its last bit was flipped; nothing if none is left.
fn undamaged(mut body: Vec<u8>) -> Option<Vec<u8>> {
    *body.last_mut()? = LAST;
    Some(body)
}

/// What was done, to be read after a failure.
struct Trace {
    begun: Instant,
    lines: Mutex<Vec<String>>,
}

impl Trace {
    fn add(&self, line: String) {
        let line = format!("{:7.3} {line}", self.begun.elapsed().as_secs_f64());
        self.lines.lock().expect("no holder panics").push(line);
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.lines.lock().map_or_else(|_| String::new(), |lines| lines.join("\n")));
        }
    }
}

/// One client and the keys that only it uses.
struct Client<'a> {
    url: String,
    random: Random,
    keys: Vec<(String, BTreeSet<State>)>,
    trace: &'a Trace,
}

impl Client<'_> {
    fn work(&mut self, stop: &AtomicBool) {
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let index = self.random.below(self.keys.len() as u64) as usize;
            self.one(index, number);
        }
    }

    fn one(&mut self, index: usize, number: usize) {
        let methods =
            ["PUT", "REPLACE", "REPLACE", "GET", "UNLINK", "RELINK", "RELINK", "DELETE", "REBALANCE"];
        let method = *self.random.one_of(&methods);
        let (key, possible) = self.keys[index].clone();
        let mut body = format!("{number} is the time that it was written; ").into_bytes();
        body.resize(*self.random.one_of(&[100, 100, 100, 3000, 90_000]), LAST);
        let sent: &[u8] = if matches!(method, "PUT" | "REPLACE") { &body } else { b"" };
        let answer = try_http(method, &format!("{}{key}", self.url), sent, &[]);
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        let seen = answer.as_ref().ok().filter(|_| method == "GET").and_then(|answer| {
            let blob = try_http("GET", answer.header("location")?, b"", &[]).ok()?;
            (blob.status == 200).then(|| undamaged(blob.body)).flatten()
        });
        let text = answer.as_ref().map_or_else(ToString::to_string, |answer| answer.text());
        let after: BTreeSet<State> = possible
            .iter()
            .flat_map(|state| after(state, method, status, &text, &body, seen.as_ref()))
            .collect();
        let short = &key[..key.len().min(20)];
        self.trace.add(format!("{method} {short} {status} {} -> {}", text.trim_end(), brief(&after)));
        assert!(!after.is_empty(), "{method} {key}: {status} {text}, and it was {}", brief(&possible));
        self.keys[index].1 = after;
        if status == 0 {
            // It is being started again.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check(&self) {
        for (key, possible) in &self.keys {
            let answer =
                try_http("GET", &format!("{}{key}", self.url), b"", &[]).expect("the server answers");
            match answer.header("location") {
                Some(location) => {
                    let blob = try_http("GET", location, b"", &[]).expect("the volume answers");
                    let is_known = blob.status == 200 && possible.contains(&State::Live(blob.body.clone()));
                    assert!(is_known, "{key} is {:?}, not {}", preview(&blob.body), brief(possible));
                }
                None => {
                    let is_hidden = possible.iter().any(|state| !matches!(state, State::Live(_)));
                    assert!(
                        answer.status == 404 && is_hidden,
                        "{key}: {} for {}",
                        answer.status,
                        brief(possible)
                    );
                }
            }
        }
    }
}

/// What a key may be after an answer; nothing if that answer is wrong for what it was.
fn after(
    state: &State,
    method: &str,
    status: u16,
    text: &str,
    body: &[u8],
    seen: Option<&Vec<u8>>,
) -> Vec<State> {
    let new = State::Live(body.to_vec());
    let done = match (method, state) {
        ("PUT", State::Live(_)) => None,
        ("PUT" | "REPLACE", _) => Some(new),
        ("UNLINK", State::Live(was)) => Some(State::Unlinked(was.clone())),
        ("RELINK", State::Unlinked(was)) => Some(State::Live(was.clone())),
        ("DELETE", _) => Some(State::Absent),
        ("REBALANCE", State::Live(_)) => Some(state.clone()),
        _ => None,
    };
    let same = vec![state.clone()];
    match (method, status) {
        // The server was killed meanwhile, or is only being started.
        (_, 0) => same.into_iter().chain(done).collect(),
        ("GET", 302) => match (state, seen) {
            (State::Live(was), Some(seen)) if was == seen => same,
            // The volume went away in between.
            (State::Live(_), None) => same,
            _ => vec![],
        },
        ("GET", 404) => {
            if matches!(state, State::Live(_)) {
                vec![]
            } else {
                same
            }
        }
        ("DELETE", 503) if text.contains("is removed") => vec![State::Absent],
        ("DELETE", 404) => {
            if *state == State::Absent {
                same
            } else {
                vec![]
            }
        }
        ("PUT", 403) => {
            if done.is_none() {
                same
            } else {
                vec![]
            }
        }
        ("UNLINK" | "RELINK" | "REBALANCE", 404) => {
            if done.is_none() {
                same
            } else {
                vec![]
            }
        }
        (_, 201 | 204) => done.into_iter().collect(),
        (_, 409 | 503 | 507) => same,
        _ => vec![],
    }
}

fn brief(states: &BTreeSet<State>) -> String {
    let one = |state: &State| match state {
        State::Absent => "absent".to_owned(),
        State::Live(body) => format!("live {:?}", preview(body)),
        State::Unlinked(body) => format!("unlinked {:?}", preview(body)),
    };
    states.iter().map(one).collect::<Vec<_>>().join(" or ")
}

fn preview(body: &[u8]) -> String {
    String::from_utf8_lossy(body).split(' ').next().unwrap_or_default().to_owned()
}

/// Keys of all kinds, each with a number of its client in it.
fn keys(client: usize) -> Vec<(String, BTreeSet<State>)> {
    let long = "l".repeat(700);
    let names = ["a", "b", "aA", "Aa", "%ff%ff%ff%ff", "a//b", "%c3%bc%3f", "e/", &long, "f", "g", "h"];
    names.iter().map(|name| (format!("/{client}/{name}"), BTreeSet::from([State::Absent]))).collect()
}

/// What happens to the cluster.
struct Faults<'a> {
    master: Administered,
    volumes: Vec<Volume>,
    /// The one that is paused or dead.
    away: Option<(usize, bool)>,
    random: Random,
    trace: &'a Trace,
}

impl Faults<'_> {
    fn one(&mut self) {
        match self.random.below(24) {
            0..8 => self.begin_a_job(),
            8..10 => {
                let id = 1 + self.random.below(20);
                self.ask("DELETE", &format!("/api/jobs/{id}"), "");
            }
            10..12 => {
                let (id, rate) = (1 + self.random.below(20), self.rate());
                self.ask("PATCH", &format!("/api/jobs/{id}"), &json!({ "rate": rate }).to_string());
            }
            12..16 => {
                let mode = *self.random.one_of(&["alive", "alive", "alive", "readonly", "drain", "down"]);
                let path = format!("/api/volumes/{}", self.random.one_of(&self.volumes).addr());
                self.ask("PUT", &path, &json!({ "mode": mode }).to_string());
            }
            16..20 => self.volume_goes_or_comes(),
            20..22 => self.damage(),
            22 => self.restart_the_server(),
            _ => self.trace.add("nothing".into()),
        }
        std::thread::sleep(Duration::from_millis(self.random.below(300)));
    }

    fn ask(&self, method: &str, path: &str, body: &str) {
        let answer = self.master.ask(method, path, body);
        assert_ne!(answer.status, 500, "{method} {path} {body}: {}", answer.text());
        self.trace.add(format!("{method} {path} {body}: {}", answer.status));
    }

    fn rate(&mut self) -> &'static str {
        self.random.one_of::<&str>(&["unlimited", "200", "50", "10", "100kB"])
    }

    fn begin_a_job(&mut self) {
        let name = *self.random.one_of(&["rebalance", "rebalance", "scrub", "repair", "repair", "drain"]);
        let mut options = json!({ "rate": self.rate() });
        let is_quick = self.random.below(2) == 0;
        match name {
            "drain" => options["volume"] = self.random.one_of(&self.volumes).addr().into(),
            "scrub" => options["quick"] = is_quick.into(),
            "repair" => options["delete_orphans"] = is_quick.into(),
            _ => {}
        }
        self.ask("POST", &format!("/api/jobs/{name}"), &options.to_string());
    }

    fn volume_goes_or_comes(&mut self) {
        match self.away.take() {
            Some((index, is_dead)) => {
                self.trace.add(format!("volume {index} comes back"));
                if is_dead { self.volumes[index].start_again() } else { self.volumes[index].resume() }
            }
            None => {
                let index = self.random.below(self.volumes.len() as u64) as usize;
                let is_dead = self.random.below(2) == 0;
                self.trace.add(format!("volume {index} {}", if is_dead { "dies" } else { "hangs" }));
                if is_dead {
                    self.volumes[index].kill9();
                } else {
                    self.volumes[index].pause();
                }
                self.away = Some((index, is_dead));
            }
        }
    }

    /// The first volume's disk is a bad one. The others are good, so that no blob is lost.
    fn damage(&mut self) {
        let dir = self.volumes[0].dir().to_owned();
        let files: Vec<String> =
            self.volumes[0].files().into_iter().filter(|name| name != "=cluster").collect();
        if files.is_empty() {
            return;
        }
        let path = dir.join(self.random.one_of(&files));
        let what = self.random.below(8);
        self.trace.add(format!("damage {what} to {}", path.display()));
        match what {
            0..3 => drop(fs::remove_file(path)),
            3..6 => drop(flip(&path)),
            6 => drop(fs::write(path, b"")),
            _ => files.iter().for_each(|name| drop(fs::remove_file(dir.join(name)))),
        }
    }

    fn restart_the_server(&mut self) {
        self.trace.add("the server is killed".into());
        self.master.master.kill9();
        self.master.master.start_again();
        self.master.wait();
        self.trace.add("the server is back".into());
    }

    /// Everything is there again, and nothing runs.
    fn calm_down(&mut self) {
        if self.away.is_some() {
            self.volume_goes_or_comes();
        }
        for volume in &self.volumes {
            self.ask("PUT", &format!("/api/volumes/{}", volume.addr()), r#"{"mode":"alive"}"#);
        }
        let running = |master: &Administered| -> Vec<Value> {
            let jobs = master.json("GET", "/api/jobs", "");
            jobs.as_array().expect("a list").iter().filter(|job| job["ended_us"].is_null()).cloned().collect()
        };
        for job in running(&self.master) {
            self.ask("DELETE", &format!("/api/jobs/{}", job["id"]), "");
        }
        eventually("all jobs end", || running(&self.master).is_empty());
        let up = |master: &Administered| master.json("GET", "/api/status", "")["volumes_up"].clone();
        eventually("all volumes are up", || up(&self.master) == 5);
    }

    /// A job that has to be done in the end, maybe after another try.
    fn until_done(&self, name: &str) {
        wait_for(&format!("{name} has nothing left"), || {
            let job = self.master.job(name, r#"{"rate":"unlimited"}"#);
            self.trace.add(format!("{name}: {job}"));
            (job["state"] == "done").then_some(())
        });
    }

    fn settle(&self) {
        let unsettled = || self.master.json("GET", "/api/status", "")["unsettled"].clone();
        eventually("everything is settled", || unsettled() == 0);
    }
}

fn flip(path: &Path) -> std::io::Result<()> {
    let mut content = fs::read(path)?;
    if let Some(byte) = content.last_mut() {
        *byte ^= 1;
    }
    fs::write(path, content)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_while_jobs_run_what_was_acknowledged_holds() {
    let time = Duration::from_secs(number("MODEL_SECONDS").unwrap_or(12));
    match number("MODEL_SEED") {
        Some(seed) => everything_at_once(seed, time),
        None => SEEDS.into_iter().for_each(|seed| everything_at_once(seed, time / SEEDS.len() as u32)),
    }
}

fn everything_at_once(seed: u64, time: Duration) {
    println!("MODEL_SEED={seed}");
    let trace = Trace { begun: Instant::now(), lines: Mutex::default() };
    trace.add(format!("MODEL_SEED={seed}"));
    let volumes = volumes(5);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    let client = |number: u64| Client {
        url: master.url(""),
        random: Random::new(seed ^ (number << 32)),
        keys: keys(number as usize),
        trace: &trace,
    };
    let mut clients = [client(1), client(2)];
    let mut faults = Faults { master, volumes, away: None, random: Random::new(seed), trace: &trace };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let working: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| client.work(&stop))).collect();
        let _stop = StopAtEnd(&stop);
        let begun = Instant::now();
        while begun.elapsed() < time && !working.iter().any(|client| client.is_finished()) {
            faults.one();
        }
    });
    faults.calm_down();
    faults.settle();
    faults.until_done("repair");
    faults.until_done("rebalance");
    faults.settle();
    let scrub = faults.master.job("scrub", r#"{"rate":"unlimited"}"#);
    assert_eq!((&scrub["state"], &scrub["status"]["problems"]), (&json!("done"), &json!(0)), "{scrub}");
    clients.iter().for_each(Client::check);
    let master = &mut faults.master.master;
    assert!(master.stop().success());
    let blobs = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().filter(|line| line.starts_with('/')).collect()
    };
    let before = blobs(lines_of(master.db()));
    fs::rename(master.db(), master.own_dir().join("lost")).expect("it can be moved");
    let (status, said) = master.job(&["rebuild"]);
    assert!(status.success(), "{said}");
    assert_eq!(blobs(lines_of(master.db())), before);
}

/// Also when the test fails, or its clients would go on for ever.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
