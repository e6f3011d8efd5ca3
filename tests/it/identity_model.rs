//! Names, drives and copies at random, by a seed: hosts get other names, volumes and subvolumes are exchanged, unmounted and mounted
//! again, cloned, named twice, the index is copied and put back, jobs run in the midst of it and the server is killed. Clients
//! write and delete all the time. In the end everything is put right, and every key must be what was acknowledged, also
//! after a rebuild.
//!
//! 20 scenarios with 500 keys each; with `MKV_LONG` 200 with 5,000. `MODEL_SEED` has one scenario run; a failure tells its seed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Administered, Master, MasterBuilder, Random, TempDir, Volume, eventually, try_http, volumes,
};

/// Enough that one can be away and one be another, and blobs still have two replicas.
const VOLUMES: usize = 4;

/// Things that happen in a scenario.
const STEPS: usize = 7;

/// Time in which everything is made anew that was written to a wrong place before that was noticed.
const MADE_ANEW_WITHIN: Duration = Duration::from_secs(3);

fn is_long() -> bool {
    std::env::var_os("MKV_LONG").is_some()
}

/// Something that is not as it should be, and how it is put right.
#[derive(Debug, Clone)]
enum Wrong {
    /// The directories of two places lie in each other's.
    Exchanged(PathBuf, PathBuf),
    /// A directory lies aside, and an empty one in its place.
    Unmounted(PathBuf),
}

struct World {
    seed: u64,
    random: Random,
    dir: TempDir,
    volumes: Vec<Volume>,
    /// Whether each volume is called `localhost` at present.
    is_local: Vec<bool>,
    subvolumes: u32,
    wrong: Vec<Wrong>,
    /// Whether something was wrong since the server was started.
    was_wrong: bool,
    server: Option<Administered>,
    /// What was acknowledged of each key; nothing where it may be one thing or another.
    keys: BTreeMap<String, Option<Option<Vec<u8>>>>,
    written: usize,
    trace: Vec<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("MODEL_SEED={}\n{}", self.seed, self.trace.join("\n"));
        }
    }
}

impl World {
    fn new(seed: u64, keys: usize) -> World {
        let mut random = Random::new(seed);
        let subvolumes = *random.one_of(&[1, 2, 3]);
        let mut world = World {
            seed,
            random,
            dir: TempDir::new(),
            volumes: volumes(VOLUMES),
            is_local: vec![false; VOLUMES],
            subvolumes,
            wrong: Vec::new(),
            was_wrong: false,
            server: None,
            keys: BTreeMap::new(),
            written: 0,
            trace: Vec::new(),
        };
        world.start();
        for number in 0..keys {
            world.put("PUT", format!("/k/{number}"));
        }
        world
    }

    fn note(&mut self, line: String) {
        self.trace.push(line);
    }

    fn name(&self, number: usize, is_local: bool) -> String {
        let host = if is_local { "localhost" } else { "127.0.0.1" };
        format!("{host}:{}", self.volumes[number].port())
    }

    fn names(&self) -> Vec<String> {
        (0..VOLUMES).map(|number| self.name(number, self.is_local[number])).collect()
    }

    fn builder(&self, names: &[String]) -> MasterBuilder {
        Master::builder(&names.join(","))
            .flag("replicas", "2")
            .flag("subvolumes", self.subvolumes.to_string())
            .db(self.dir.join("indexdb"))
    }

    fn start(&mut self) {
        self.server = Some(Administered::start(self.builder(&self.names())));
    }

    fn server(&self) -> &Administered {
        self.server.as_ref().expect("it runs")
    }

    fn stop(&mut self) {
        let mut server = self.server.take().expect("it runs");
        match self.random.below(2) {
            0 => {
                if std::mem::take(&mut self.was_wrong) {
                    // What was written to a wrong place is made anew, which a kill would leave to a repair (docs/operations.md).
                    std::thread::sleep(MADE_ANEW_WITHIN);
                }
                server.master.kill9();
            }
            _ => assert!(server.master.stop().success(), "{}", server.log()),
        }
    }

    fn put(&mut self, method: &str, key: String) {
        self.written += 1;
        let body = format!("{key} number {}", self.written).into_bytes();
        let status = try_http(method, &self.server().url(&key), &body, &[]).map_or(0, |answer| answer.status);
        match status {
            201 | 204 => drop(self.keys.insert(key, Some(Some(body)))),
            0 => drop(self.keys.insert(key, None)),
            _ => {}
        }
    }

    /// While none of its volumes can be told, only the index knows of a deletion: it is certain once it is answered 204.
    fn delete(&mut self, key: String) {
        let answer = try_http("DELETE", &self.server().url(&key), b"", &[]);
        match answer.map_or(0, |answer| if answer.text().contains("is removed") { 0 } else { answer.status })
        {
            204 => drop(self.keys.insert(key, Some(None))),
            0 => drop(self.keys.insert(key, None)),
            _ => {}
        }
    }

    fn clients(&mut self) {
        let keys: Vec<String> = self.keys.keys().cloned().collect();
        for _ in 0..keys.len() / 20 {
            let key = self.random.one_of(&keys).clone();
            match self.random.below(3) {
                0 => self.delete(key),
                1 => self.put("REPLACE", key),
                _ => self.put("PUT", format!("/new/{}", self.written)),
            }
        }
    }

    /// The directories of a kind of place: volumes' roots, or subvolumes.
    fn places(&self, of_subvolumes: bool) -> Vec<PathBuf> {
        let roots = self.volumes.iter().map(|volume| volume.dir().to_owned());
        match of_subvolumes && self.subvolumes > 1 {
            false => roots.collect(),
            true => roots
                .flat_map(|root| (0..self.subvolumes).map(move |number| root.join(format!("sv{number:02X}"))))
                .filter(|folder| folder.is_dir())
                .collect(),
        }
    }

    /// Changes directories while the volumes that serve them are stopped, if they are roots.
    fn change(&mut self, dirs: &[&Path], change: impl FnOnce()) {
        let is_root = |volume: &Volume| dirs.iter().any(|dir| *dir == volume.dir());
        let served: Vec<usize> = (0..VOLUMES).filter(|number| is_root(&self.volumes[*number])).collect();
        for number in &served {
            self.volumes[*number].stop();
        }
        change();
        for number in &served {
            self.volumes[*number].start_again();
        }
    }

    fn exchange(&mut self, one: &Path, other: &Path) {
        let aside = one.with_extension("aside");
        self.change(&[one, other], || {
            fs::rename(one, &aside).expect("it can be moved");
            fs::rename(other, one).expect("it can be moved");
            fs::rename(&aside, other).expect("it can be moved");
        });
    }

    fn touches(&self, path: &Path) -> bool {
        let is_near = |other: &PathBuf| other.starts_with(path) || path.starts_with(other);
        self.wrong.iter().any(|wrong| match wrong {
            Wrong::Exchanged(one, other) => is_near(one) || is_near(other),
            Wrong::Unmounted(dir) => is_near(dir),
        })
    }

    fn step(&mut self) {
        let of_subvolumes = self.random.below(2) == 0;
        let places = self.places(of_subvolumes);
        let one = self.random.one_of(&places).clone();
        let other = self.random.one_of(&places).clone();
        let number = self.random.below(VOLUMES as u64) as usize;
        let kind = self.random.below(9);
        match kind {
            0 if one != other && !self.touches(&one) && !self.touches(&other) => {
                self.note(format!("exchange {} and {}", one.display(), other.display()));
                self.exchange(&one, &other);
                self.wrong.push(Wrong::Exchanged(one, other));
            }
            1 if !self.touches(&one)
                && !self.wrong.iter().any(|wrong| matches!(wrong, Wrong::Unmounted(_))) =>
            {
                self.note(format!("unmount {}", one.display()));
                self.change(&[&one], || {
                    fs::rename(&one, one.with_extension("drive")).expect("it can be moved");
                    fs::create_dir(&one).expect("it can be made");
                });
                self.wrong.push(Wrong::Unmounted(one));
            }
            2 => self.put_right(),
            3 | 4 => {
                self.restart_as(number);
            }
            5 => self.name_twice(number),
            6 => self.clone_beside(number),
            7 => self.put_older_index_back(),
            _ => {
                let job = *self.random.one_of(&["repair", "rebalance", "scrub"]);
                let ended = self.server().job(job, r#"{"rate":"unlimited"}"#);
                self.note(format!("{job}: {}", ended["state"]));
            }
        }
        self.clients();
        self.notice();
    }

    /// What lies in a wrong place for less than a second may stay unnoticed (docs/operations.md).
    fn notice(&mut self) {
        let wrong: Vec<PathBuf> = self
            .wrong
            .iter()
            .flat_map(|wrong| match wrong {
                Wrong::Exchanged(one, other) => vec![one.clone(), other.clone()],
                Wrong::Unmounted(dir) => vec![dir.clone()],
            })
            .collect();
        for dir in wrong {
            let number = (0..VOLUMES)
                .find(|number| dir.starts_with(self.volumes[*number].dir()))
                .expect("it is a volume's");
            let folder = dir.strip_prefix(self.volumes[number].dir()).expect("it is below").to_owned();
            let folder = folder.to_str().expect("it is ASCII").to_owned();
            eventually("it is noticed", || {
                let key = format!("/new/{}", self.written);
                self.put("PUT", key);
                let views = self.server().json("GET", "/api/volumes", "");
                let reason = views[number]["reason"].as_str().expect("it is text");
                !reason.is_empty() && reason.contains(&folder)
            });
        }
    }

    /// The server is started again, with a volume under its other name.
    fn restart_as(&mut self, number: usize) {
        self.put_right();
        self.is_local[number] = !self.is_local[number];
        self.note(format!("restart with {:?}", self.names()));
        self.stop();
        if self.random.below(3) == 0 {
            let job = *self.random.one_of(&["repair", "rebalance"]);
            let (_, said) = self.builder(&self.names()).build().job(&[job, "-q"]);
            self.note(format!("{job} with the server stopped: {said}"));
        }
        self.start();
    }

    /// What can't be used is refused, and nothing is changed by the try.
    fn refused(&mut self, names: &[String]) {
        self.put_right();
        self.stop();
        let (status, said) = self.builder(names).refusal();
        assert!(status.code() == Some(1), "{names:?}: {said}");
        let job = *self.random.one_of(&["repair", "rebalance"]);
        let (status, said) = self.builder(names).build().job(&[job, "-q"]);
        assert!(!status.success(), "{job} with {names:?}: {said}");
        self.start();
    }

    fn name_twice(&mut self, number: usize) {
        let mut names = self.names();
        names.push(self.name(number, !self.is_local[number]));
        self.note(format!("named twice: {names:?}"));
        self.refused(&names);
    }

    fn clone_beside(&mut self, number: usize) {
        self.put_right();
        let dir = self.dir.join(&format!("clone{}", self.written));
        copy(self.volumes[number].dir(), &dir);
        let clone = Volume::builder().dir(&dir).start();
        let names = [self.names(), vec![clone.addr()]].concat();
        self.note(format!("a clone of {}", self.name(number, self.is_local[number])));
        self.refused(&names);
    }

    fn put_older_index_back(&mut self) {
        self.put_right();
        let (db, backup) = (self.dir.join("indexdb"), self.dir.join(&format!("backup{}", self.written)));
        self.stop();
        copy(&db, &backup);
        self.start();
        self.clients();
        self.stop();
        let present = self.dir.join("present");
        fs::rename(&db, &present).expect("it can be moved");
        copy(&backup, &db);
        self.note("an older index".to_owned());
        let (status, said) = self.builder(&self.names()).refusal();
        assert!(status.code() == Some(1) && said.contains("older than"), "{said}");
        match self.random.below(2) {
            0 => {
                // The present one is put back.
                fs::remove_dir_all(&db).expect("it can be removed");
                fs::rename(&present, &db).expect("it can be moved");
            }
            _ => {
                let (status, said) = self.builder(&self.names()).build().job(&["rebuild", "-q"]);
                assert!(status.success(), "{said}");
                fs::remove_dir_all(&present).expect("it can be removed");
            }
        }
        self.start();
    }

    /// Every drive is where it belongs.
    fn put_right(&mut self) {
        self.was_wrong |= !self.wrong.is_empty();
        while let Some(wrong) = self.wrong.pop() {
            self.note(format!("put right: {wrong:?}"));
            match wrong {
                Wrong::Exchanged(one, other) => self.exchange(&one, &other),
                Wrong::Unmounted(dir) => {
                    let drive = dir.with_extension("drive");
                    self.change(&[&dir], || {
                        fs::remove_dir_all(&dir).expect("it can be removed");
                        fs::rename(&drive, &dir).expect("it can be moved");
                    });
                }
            }
        }
        if let Some(server) = &self.server {
            eventually("all volumes are used", || {
                let views = server.json("GET", "/api/volumes", "");
                let is_well = |view: &serde_json::Value| view["state"] == "up" && view["reason"] == "";
                views.as_array().expect("a list").iter().all(is_well)
            });
        }
    }

    fn check(&self) {
        for (key, state) in &self.keys {
            let (status, body) = self.server().fetch(key);
            match state {
                Some(Some(expected)) => {
                    assert!(
                        status == 200 && body == *expected,
                        "{key}: {status}, {:?}",
                        String::from_utf8(body)
                    );
                }
                Some(None) => assert_eq!(status, 404, "{key} was deleted"),
                None => {}
            }
        }
    }

    fn end(&mut self) {
        self.put_right();
        // What an index that was lost had still to remove may be left; that none of it comes back is seen below.
        let is_left_over = |finding: &serde_json::Value| {
            ["orphan", "leftover", "stray-sidecar"].iter().any(|kind| finding["kind"] == *kind)
        };
        let mut repair = serde_json::Value::Null;
        for _ in 0..20 {
            repair = self.server().job("repair", r#"{"rate":"unlimited"}"#);
            let mut findings = repair["status"]["findings"].as_array().expect("a list").iter();
            if findings.all(|finding| finding["mended"] == true || is_left_over(finding)) {
                break;
            }
        }
        assert!(repair["error"].is_null(), "{repair:#}");
        let findings = repair["status"]["findings"].as_array().expect("a list").clone();
        assert!(
            findings.iter().all(|finding| finding["mended"] == true || is_left_over(finding)),
            "{findings:#?}"
        );
        eventually("nothing waits", || self.server().json("GET", "/api/status", "")["unsettled"] == 0);
        self.check();
        let mut server = self.server.take().expect("it runs");
        assert!(server.master.stop().success(), "{}", server.log());
        let (status, said) = self.builder(&self.names()).build().job(&["rebuild", "-q"]);
        assert!(status.success(), "{said}");
        self.start();
        self.check();
    }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is installed");
    assert!(status.success());
}

fn scenario(seed: u64, keys: usize) {
    let mut world = World::new(seed, keys);
    for _ in 0..STEPS {
        world.step();
    }
    world.end();
}

/// Several tests, so that they share the cores.
const PARTS: u64 = 10;

/// Most of a scenario's time is a wait for looks and beats.
const SCENARIOS_AT_ONCE: usize = 2;

fn part(part: u64) {
    let (scenarios, keys) = if is_long() { (200, 5000) } else { (20, 500) };
    match std::env::var("MODEL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) if part == 0 => scenario(seed, keys),
        Some(_) => {}
        None => {
            let seeds: Vec<u64> = (0..scenarios).filter(|seed| seed % PARTS == part).collect();
            seeds.chunks(SCENARIOS_AT_ONCE).for_each(|seeds| {
                std::thread::scope(|threads| {
                    for seed in seeds {
                        threads.spawn(|| scenario(*seed, keys));
                    }
                });
            });
        }
    }
}

macro_rules! parts {
    ($($name:ident: $part:literal,)*) => { $(
        #[test]
        fn $name() {
            part($part);
        }
    )* };
}

parts! {
    nothing_is_lost_by_names_and_drives_0: 0,
    nothing_is_lost_by_names_and_drives_1: 1,
    nothing_is_lost_by_names_and_drives_2: 2,
    nothing_is_lost_by_names_and_drives_3: 3,
    nothing_is_lost_by_names_and_drives_4: 4,
    nothing_is_lost_by_names_and_drives_5: 5,
    nothing_is_lost_by_names_and_drives_6: 6,
    nothing_is_lost_by_names_and_drives_7: 7,
    nothing_is_lost_by_names_and_drives_8: 8,
    nothing_is_lost_by_names_and_drives_9: 9,
}
