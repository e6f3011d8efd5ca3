//! The plug is pulled: every server stops in the midst of writes, and what its file system had written until then is all that is left.
//!
//! Three volumes and the index each have an ext4 of their own, in a file behind a loop device. At some moment all processes are stopped
//! with SIGSTOP and the files are copied, until two copies are the same. What was in the page cache only is in neither. On the
//! copies the cluster is started again: on the second with an index that a rebuild has made, on the first with the old one.
//!
//! What a drive or a controller keeps in a cache of its own counts as written here. Needs root, for the loop devices.

use crate::clients::{self, Client, Kills};
use crate::harness::{
    Administered, Master, MasterBuilder, Mounts, Random, TempDir, Volume, addresses, eventually, stop,
};
use crate::{clients_of, random, write_until};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const CUTS: usize = 5;

/// With `./test --long`.
const CUTS_OF_A_LONG_RUN: usize = 50;

const VOLUMES: usize = 3;

/// Enough for what a few seconds of clients leave.
const IMAGE_SIZE: &str = "128m";

/// Longer than a synchronous write takes on a busy machine, so that every answer says what was done.
const VOLTIMEOUT: &str = "15s";

/// How often a power cut may find that the kernel has just written everything, where nothing made it.
const TRIES_TO_LOSE: usize = 5;

/// All drives, and the cluster on them.
struct Site {
    master: Administered,
    volumes: Vec<Volume>,
    mounts: Mounts,
    own: TempDir,
}

/// Which of the two copies of all drives.
#[derive(Clone, Copy)]
enum Copied {
    First,
    Second,
}

impl Site {
    fn start(durable: &str) -> Self {
        let (own, mut mounts) = (TempDir::new(), Mounts::new());
        for drive in drives() {
            mounts.ext4(&own.join(&format!("{drive}.image")), &own.join(&drive), IMAGE_SIZE);
        }
        let start = |number: usize| {
            let volume = Volume::builder().dir(own.join(&format!("volume{number}"))).among(&mounts);
            volume.env("DURABLE", durable).start()
        };
        let volumes: Vec<Volume> = (0..VOLUMES).map(start).collect();
        let master = master(&volumes).db(own.join("index").join("indexdb")).among(&mounts);
        Self { master: Administered::start(master), volumes, mounts, own }
    }

    /// Leaves of everything what its drives hold at this moment.
    fn pull_the_plug(&mut self) {
        self.volumes.iter().for_each(Volume::pause);
        stop(self.master.pid());
        self.copy(Copied::First);
        self.copy(Copied::Second);
        // The kernel may still have been writing something of before.
        while !self.are_equal() {
            self.copy(Copied::First);
            self.copy(Copied::Second);
        }
        self.master.master.kill9();
        self.power_off();
    }

    fn copy(&self, copied: Copied) {
        for drive in drives() {
            let image = self.own.join(&format!("{drive}.image"));
            let done = Command::new("cp")
                .arg("--sparse=always")
                .arg(image)
                .arg(self.copy_of(&drive, copied))
                .status();
            assert!(done.expect("cp is there").success(), "{drive} can't be copied");
        }
    }

    fn are_equal(&self) -> bool {
        drives().all(|drive| {
            let (first, second) = (self.copy_of(&drive, Copied::First), self.copy_of(&drive, Copied::Second));
            Command::new("cmp").arg("-s").arg(first).arg(second).status().expect("cmp is there").success()
        })
    }

    fn copy_of(&self, drive: &str, copied: Copied) -> PathBuf {
        let ending = match copied {
            Copied::First => "first",
            Copied::Second => "second",
        };
        self.own.join(&format!("{drive}.{ending}"))
    }

    /// Ends the volumes and takes the drives away.
    fn power_off(&mut self) {
        for volume in &mut self.volumes {
            volume.kill9();
        }
        for drive in drives() {
            self.mounts.unmount(&self.own.join(&drive));
        }
    }

    /// Puts the copies in the places of the drives, and starts the volumes on them.
    fn power_on(&mut self, copied: Copied) {
        for drive in drives() {
            let image = self.copy_of(&drive, copied);
            self.mounts.image(&image, &self.own.join(&drive), "commit=600");
        }
        self.volumes.iter_mut().for_each(Volume::start_again);
    }

    /// The index is lost too: what the volumes hold is enough.
    fn check_rebuilt(&mut self, clients: &[Client]) {
        self.power_on(Copied::Second);
        let mut master = master(&self.volumes).db(self.own.join("rebuilt")).build();
        let (_, said) = master.job(&["rebuild"]);
        println!("{}", said.trim());
        master.start_again();
        let unlinked = master.list("/?unlinked");
        for client in clients {
            client.at_rebuilt(master.url("")).check_all(&unlinked);
        }
        master.kill9();
        self.power_off();
    }

    /// The old index goes on where it was. When it has settled what was cut off, every replica of what it names is whole.
    fn check_resumed(&mut self, clients: &mut [Client]) {
        self.power_on(Copied::First);
        self.master.master.start_again();
        self.master.wait();
        let unlinked = self.master.list("/?unlinked");
        clients.iter_mut().for_each(|client| client.check_all(&unlinked));
        eventually("it is settled", || self.master.json("GET", "/api/status", "")["unsettled"] == 0);
        let findings = self.scrub();
        assert!(findings.is_empty(), "{findings:#?}");
    }

    /// What a scrub finds, and the kind of each.
    fn scrub(&self) -> Vec<Value> {
        let job = self.master.job("scrub", r#"{"rate": "unlimited"}"#);
        job["status"]["findings"].as_array().unwrap_or_else(|| panic!("no findings: {job}")).clone()
    }
}

/// The names of all drives.
fn drives() -> impl Iterator<Item = String> {
    let volumes = (0..VOLUMES).map(|number| format!("volume{number}"));
    volumes.chain(["index".to_owned()])
}

fn master(volumes: &[Volume]) -> MasterBuilder {
    Master::builder(&addresses(volumes)).flag("voltimeout", VOLTIMEOUT)
}

#[test]
fn what_durable_volumes_acknowledged_survives_a_power_cut_of_everything() {
    let seed = random::seed();
    let mut chance = Random::new(seed);
    let cuts = if std::env::var_os("MKV_LONG").is_some() { CUTS_OF_A_LONG_RUN } else { CUTS };
    let mut cut_off = 0;
    for cut in 0..cuts {
        let mut site = Site::start("1");
        let mut clients = clients_of(&site.master, chance.next());
        let delay = Duration::from_millis(chance.between(300, 3000));
        write_until(&mut clients, Kills::Master, || {
            std::thread::sleep(delay);
            site.pull_the_plug();
        });
        let certain: usize = clients.iter().map(Client::certain).sum();
        println!("cut {cut} after {delay:?}: {}; {certain} keys are certain", clients::summary(&clients));
        cut_off += clients.iter().map(Client::cut_off).sum::<usize>();
        site.check_rebuilt(&clients);
        site.check_resumed(&mut clients);
    }
    assert!(cut_off > 0, "no cut ever met a request");
}

/// What shows that the test above would see a loss.
#[test]
fn what_other_volumes_acknowledged_does_not_survive_it() {
    for _ in 0..TRIES_TO_LOSE {
        let mut site = Site::start("0");
        let keys: Vec<String> = (0..20).map(|number| format!("/{number}")).collect();
        keys.iter().for_each(|key| site.master.put(key, key.as_bytes()));
        site.pull_the_plug();
        site.power_on(Copied::First);
        site.master.master.start_again();
        site.master.wait();
        // With the blobs, a volume may have lost what tells which one it is; it is not used then.
        let is_lost = |finding: &Value| finding["kind"] == "missing" || finding["kind"] == "unreachable";
        if site.scrub().iter().any(is_lost) {
            return;
        }
    }
    panic!("nothing was lost in {TRIES_TO_LOSE} power cuts");
}
