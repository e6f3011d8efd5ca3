//! Replicas that go where placement wants them: by the method on one key while clients use it, and by the job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minikeyvalue::model::{File, Key, Placer, Record, path_of};

use crate::harness::{
    Administered, GoCluster, Master, Mounts, TempDir, Volume, addresses, entries_of, eventually, placer,
    volumes,
};

/// A master over the first `known` of `volumes`, stopped after `fill`, and one over all of them on its index, not started.
fn grown(volumes: &[Volume], known: usize, fill: impl FnOnce(&Master)) -> (Master, Master) {
    let mut before = Master::builder(&addresses(&volumes[..known])).start();
    fill(&before);
    assert!(before.stop().success());
    let after = Master::builder(&addresses(volumes)).db(before.db()).build();
    (before, after)
}

fn balance(master: &Master, path: &str) -> Option<String> {
    master.call("GET", path, b"").header("key-balance").map(str::to_owned)
}

#[test]
fn a_key_is_moved_while_it_is_read() {
    let volumes = volumes(5);
    let keys: Vec<String> = (0..20).map(|number| format!("/{number}")).collect();
    let (_before, mut master) = grown(&volumes, 3, |master| {
        keys.iter().for_each(|key| master.put(key, key.as_bytes()));
    });
    master.start_again();
    let moving: Vec<&String> =
        keys.iter().filter(|key| balance(&master, key).as_deref() == Some("unbalanced")).collect();
    assert!(moving.len() > 5, "{}", moving.len());
    for key in &keys {
        let redirect = master.call("GET", key, b"");
        let location = redirect.header("location").expect("a redirect").to_owned();
        let rebalanced = master.call("REBALANCE", key, b"");
        assert_eq!((rebalanced.status, rebalanced.text().as_str()), (204, ""), "{key}");
        assert_eq!(crate::harness::get(&location).body, key.as_bytes(), "a reader on the way gets its bytes");
        assert_eq!(balance(&master, key).as_deref(), Some("balanced"), "{key}");
        assert_eq!(master.call("GET", key, b"").header("content-md5"), redirect.header("content-md5"));
        assert_eq!(master.fetch(key), (200, key.as_bytes().to_vec()));
    }
    let files = || volumes.iter().flat_map(Volume::files).filter(|file| file != "=cluster").count();
    eventually("the old copies are removed", || files() == 3 * keys.len());
    keys.iter().for_each(|key| assert_eq!(master.fetch(key), (200, key.as_bytes().to_vec()), "{key}"));
}

#[test]
fn what_can_not_be_rebalanced_is_said() {
    let volumes = volumes(5);
    let (_before, mut master) = grown(&volumes, 3, |master| {
        (0..20).for_each(|number| master.put(&format!("/{number}"), b"x"));
        assert_eq!(master.call("UNLINK", "/0", b"").status, 204);
    });
    master.start_again();
    assert_eq!(master.call("REBALANCE", "/none", b"").status, 404);
    assert_eq!(master.call("REBALANCE", "/0", b"").status, 404, "an unlinked key is out of sight");
    let unbalanced = |number: &u32| balance(&master, &format!("/{number}")).as_deref() == Some("unbalanced");
    let number = (1..20).find(unbalanced).expect("some are");
    for volume in &volumes {
        for file in volume.files().into_iter().filter(|file| file != "=cluster") {
            std::fs::remove_file(volume.dir().join(file)).expect("it was there");
        }
    }
    let gone = master.call("REBALANCE", &format!("/{number}"), b"");
    assert_eq!((gone.status, gone.header("retry-after")), (503, Some("1")));
    assert!(gone.text().contains("no replica is left"), "{}", gone.text());
    assert_eq!(master.call("GET", &format!("/{number}"), b"").status, 410, "the record stays");
}

/// Where every file of a volume lies, with its volume's address.
fn files_of(volumes: &[Volume]) -> BTreeSet<String> {
    let named = |volume: &Volume| {
        let addr = volume.addr();
        let files = volume.files().into_iter().filter(|file| file != "=cluster");
        files.map(|file| format!("{addr}/{file}")).collect::<Vec<_>>()
    };
    volumes.iter().flat_map(named).collect()
}

/// Every record names its placement over `volumes`, and every file that there is belongs to a record. Answers the
/// records, as they are but for their places.
#[track_caller]
fn check_home(master: &Master, volumes: &[Volume], known: usize) -> BTreeMap<Key, Record> {
    let placer = placer(&volumes[..known], 3);
    let (mut needed, mut allowed) = (BTreeSet::new(), BTreeSet::new());
    let mut records = BTreeMap::new();
    for (key, value) in entries_of(master.db()).into_iter().filter(|(key, _)| key.starts_with(b"/")) {
        let key = Key::new(key).expect("a key");
        let mut record = Record::parse(&value).expect("a record");
        assert_eq!(record.replicas, placer.placement(key.as_bytes()), "{key}");
        for replica in std::mem::take(&mut record.replicas) {
            needed.insert(format!("{replica}{}", path_of(&key, File::Blob(record.generation))));
            let sidecar = format!("{replica}{}", path_of(&key, File::Sidecar));
            let is_sure = record.generation.is_some() || !record.is_live();
            if is_sure { &mut needed } else { &mut allowed }.insert(sidecar);
        }
        records.insert(key, record);
    }
    let found = files_of(volumes);
    assert_eq!(needed.difference(&found).collect::<Vec<_>>(), Vec::<&String>::new(), "missing");
    let stray: Vec<&String> =
        found.iter().filter(|file| !needed.contains(*file) && !allowed.contains(*file)).collect();
    assert_eq!(stray, Vec::<&String>::new(), "left behind");
    records
}

/// Keys of all kinds; their paths and bodies.
fn fill(master: &Master, volumes: &mut [Volume]) -> Vec<(String, Vec<u8>)> {
    let long = format!("/{}", "long%20".repeat(250));
    let mut paths: Vec<String> = ["/a//b", "/%3F%3F%3F", "/%D0%BF", "/%2F%2F", "/%00", "/ab%FF%FFxyz", &long]
        .map(String::from)
        .to_vec();
    paths.extend((0..60).map(|number| format!("/plain/{number}")));
    paths.extend((0..10).map(|number| format!("/replaced/{number}")));
    let mut blobs: Vec<(String, Vec<u8>)> =
        paths.into_iter().map(|path| (path.clone(), path.into_bytes())).collect();
    blobs.push(("/large".into(), (0..3_000_000_u32).map(|number| (number % 251) as u8).collect()));
    for (path, body) in &blobs {
        master.put(path, if path.contains("replaced") { b"an earlier version" } else { body });
    }
    for (path, body) in blobs.iter().filter(|(path, _)| path.contains("replaced")) {
        assert_eq!(master.call("REPLACE", path, body).status, 204);
    }
    for number in 0..10 {
        let path = format!("/unlinked/{number}");
        master.put(&path, b"out of sight");
        assert_eq!(master.call("UNLINK", &path, b"").status, 204);
    }
    for (path, _) in blobs.iter().filter(|(path, _)| path.contains("plain/1")) {
        assert_eq!(master.call("UNLINK", path, b"").status, 204);
        assert_eq!(master.call("RELINK", path, b"").status, 204);
    }
    if volumes.len() > 3 {
        volumes[0].stop();
        for number in 0..10 {
            blobs.push((format!("/spilled/{number}"), b"elsewhere".to_vec()));
            master.put(&format!("/spilled/{number}"), b"elsewhere");
        }
        volumes[0].start_again();
    }
    blobs
}

fn check_readable(master: &Master, blobs: &[(String, Vec<u8>)]) {
    for (path, body) in blobs {
        let (status, found) = master.fetch(path);
        assert!(status == 200 && found == *body, "{path}: {status}, {} bytes", found.len());
    }
    assert_eq!(master.list("/?unlinked").len(), 10);
}

#[track_caller]
fn rebalance(master: &Master) -> String {
    let (status, said) = master.job(&["rebalance"]);
    assert!(status.success(), "{said}");
    said
}

#[test]
fn a_cluster_grows_and_shrinks_and_every_key_is_what_it_was() {
    let mut volumes = volumes(5);
    let mut master = Master::builder(&addresses(&volumes[..4])).start();
    let blobs = fill(&master, &mut volumes[..4]);
    eventually("the spilled ones are up", || master.fetch("/spilled/0").0 == 200);
    assert!(master.stop().success());
    let over = |known: usize| Master::builder(&addresses(&volumes[..known])).db(master.db()).build();
    rebalance(&over(4));
    let before = check_home(&master, &volumes, 4);
    assert!(before.len() > 90, "{}", before.len());
    for known in [5, 3, 4, 3, 5] {
        let mut grown = over(known);
        rebalance(&grown);
        assert_eq!(
            check_home(&master, &volumes, known),
            before,
            "state, MD5 and generation, {known} volumes"
        );
        grown.start_again();
        check_readable(&grown, &blobs);
        assert!(grown.stop().success());
        let files = files_of(&volumes);
        rebalance(&grown);
        assert_eq!(files_of(&volumes), files, "a second run has nothing to do");
    }
}

#[test]
fn a_dry_run_says_what_would_move_and_moves_nothing() {
    let volumes = volumes(5);
    let (before, mut master) = grown(&volumes, 3, |master| {
        (0..30).for_each(|number| master.put(&format!("/{number}"), b"four"));
    });
    master.start_again();
    master.put("/later", b"four");
    let (status, said) = master.job(&["rebalance"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    assert!(master.stop().success());
    let files = files_of(&volumes);
    let (status, said) = master.job(&["rebalance", "--dry-run", "-q"]);
    assert!(status.success(), "{said}");
    let sums = said.lines().filter(|line| line.contains(" -> "));
    let blobs: u64 = sums.map(|line| line.split(' ').nth(3).unwrap().parse::<u64>().unwrap()).sum();
    assert!(
        blobs > 10 && said.contains(&format!("{blobs} blobs, {} bytes would be copied", 4 * blobs)),
        "{said}"
    );
    assert_eq!(files_of(&volumes), files);
    // Nothing is faster than it may be.
    let begun = Instant::now();
    let (status, said) = master.job(&["rebalance", "--rate", "20", "-q"]);
    assert!(status.success(), "{said}");
    // The first sixteen keys go at once, each with three copies at the most.
    assert!(begun.elapsed() > Duration::from_secs_f64(blobs.saturating_sub(48) as f64 / 20.0));
    check_home(&before, &volumes, 5);
}

#[test]
fn a_dead_source_is_no_obstacle_and_a_dead_target_is_told() {
    let mut volumes = volumes(5);
    let (before, master) = grown(&volumes, 3, |master| {
        (0..40).for_each(|number| master.put(&format!("/{number}"), format!("{number}").as_bytes()));
    });
    volumes[0].stop();
    let (status, said) = master.job(&["rebalance"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&volumes[0].addr()), "{said}");
    volumes[0].start_again();
    rebalance(&master);
    assert_eq!(check_home(&before, &volumes, 5).len(), 40);

    // A volume that left for good is none of the ones that are given.
    volumes[4].stop();
    let smaller = Master::builder(&addresses(&volumes[..4])).db(before.db()).build();
    rebalance(&smaller);
    let mut serving = Master::builder(&addresses(&volumes[..4])).db(before.db()).start();
    for number in 0..40 {
        let path = format!("/{number}");
        assert_eq!(balance(&serving, &path).as_deref(), Some("balanced"));
        assert_eq!(serving.fetch(&path), (200, number.to_string().into_bytes()));
    }
    assert!(serving.stop().success());
    volumes[4].start_again();
    rebalance(&smaller);
    check_home(&before, &volumes, 4);
}

#[test]
fn damaged_replicas_are_not_copied_and_missing_blobs_are_reported() {
    let volumes = volumes(5);
    let (before, mut master) = grown(&volumes, 3, |master| {
        (0..30).for_each(|number| master.put(&format!("/{number}"), format!("body {number}").as_bytes()));
    });
    let file_of = |number: u32| {
        let key = Key::new(format!("/{number}")).expect("a key");
        path_of(&key, File::Blob(None))
    };
    let replicas = |number: u32| {
        let ending = file_of(number)[1..].to_owned();
        let at = |volume: &Volume| {
            let file = volume.files().into_iter().find(|file| file.ends_with(&ending))?;
            Some(volume.dir().join(file))
        };
        volumes.iter().filter_map(at).collect::<Vec<_>>()
    };
    let moving: Vec<u32> = {
        let list = volumes.iter().map(|volume| volume.addr().parse().expect("a volume")).collect();
        let placer = Placer::new(list, 3, 10);
        let three = Placer::new(placer.volumes()[..3].to_vec(), 3, 10);
        let set = |placer: &Placer, number: &u32| -> BTreeSet<_> {
            placer.placement(format!("/{number}").as_bytes()).into_iter().collect()
        };
        (0..30).filter(|number| set(&placer, number) != set(&three, number)).collect()
    };
    let (flipped, missing) = (moving[0], moving[1]);
    // Two of three are damaged; only the MD5 tells.
    for path in &replicas(flipped)[..2] {
        std::fs::write(path, format!("BODY {flipped}")).expect("it is ours");
    }
    replicas(missing).iter().for_each(|path| std::fs::remove_file(path).expect("it was there"));
    let (status, said) = master.job(&["rebalance"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("/{missing}: ")) || said.contains(&format!("/{missing} has a record")),
        "{said}"
    );
    let entries = entries_of(before.db());
    assert!(
        entries.iter().any(|(key, _)| *key == format!("/{missing}").into_bytes()),
        "it stays in the index"
    );
    master.start_again();
    assert_eq!(master.call("GET", &format!("/{missing}"), b"").status, 410);
    let right = replicas(flipped)
        .iter()
        .filter(|path| std::fs::read(path).is_ok_and(|body| body == format!("body {flipped}").as_bytes()))
        .count();
    assert!(right >= 1, "no new copy of a damaged one");
}

/// A copy of the one that is damaged, in the place of one that is not, would outvote the others at the next repair.
#[test]
fn without_an_md5_each_replica_that_goes_is_the_one_that_is_copied() {
    let volumes = volumes(5);
    let builder = |volumes: &[Volume]| Master::builder(&addresses(volumes)).flag("md5sum", "false");
    let mut before = builder(&volumes[..3]).start();
    let keys: Vec<String> = (0..30).map(|number| format!("/{number}")).collect();
    keys.iter().for_each(|key| before.put(key, b"some content"));
    assert!(before.stop().success());
    let replicas = |key: &str| {
        let ending = path_of(&Key::new(key.as_bytes()).expect("a key"), File::Blob(None));
        let at = |volume: &Volume| {
            let file = volume.files().into_iter().find(|file| file.ends_with(&ending[1..]))?;
            Some((volume.addr(), volume.dir().join(file)))
        };
        volumes.iter().filter_map(at).collect::<BTreeMap<_, _>>()
    };
    let (old, new) = (placer(&volumes[..3], 3), placer(&volumes, 3));
    for key in &keys {
        let placement = new.placement(key.as_bytes());
        let stays = old.placement(key.as_bytes()).into_iter().find(|place| placement.contains(place));
        if let Some(place) = stays {
            std::fs::write(&replicas(key)[place.volume().as_str()], b"same content").expect("it is ours");
        }
    }
    rebalance(&builder(&volumes).db(before.db()).build());
    for key in &keys {
        let good =
            replicas(key).values().filter(|path| std::fs::read(path).unwrap() == b"some content").count();
        assert!(good >= 2, "{key}: {good}");
    }
}

#[test]
fn a_job_that_is_killed_is_finished_by_the_next() {
    let mut volumes = volumes(5);
    let mut master = Master::builder(&addresses(&volumes[..3])).start();
    let blobs = fill(&master, &mut volumes[..3]);
    assert!(master.stop().success());
    let over = |known: usize| Master::builder(&addresses(&volumes[..known])).db(master.db()).build();
    rebalance(&over(3));
    let before = check_home(&master, &volumes, 3);
    let mut cut_off = 0;
    for round in 0..30_u32 {
        let known = if round % 2 == 0 { 5 } else { 3 };
        let job = over(known);
        let mut child = job.begin_job(&["rebalance"]);
        std::thread::sleep(Duration::from_millis(u64::from(40 + round * 37 % 160)));
        cut_off += u32::from(child.try_wait().expect("it is our child").is_none());
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
        rebalance(&job);
        assert_eq!(check_home(&master, &volumes, known), before, "round {round}");
    }
    assert!(cut_off > 12, "only {cut_off} jobs were still at work");
    let mut last = over(3);
    last.start_again();
    check_readable(&last, &blobs);
}

/// One test, because the fixture names its volumes by their ports.
#[test]
fn a_go_cluster_is_rebalanced_with_its_folded_paths() {
    let go = GoCluster::unpack();
    let volumes: Vec<Volume> = (1..=5)
        .map(|number| Volume::builder().dir(go.volume(number)).port(13000 + u16::from(number)).start())
        .collect();
    let names: Vec<String> = volumes.iter().map(Volume::addr).collect();
    let mut master = Master::builder(&names.join(",")).db(go.index()).build();
    rebalance(&master);
    let live = go.expected.values().filter(|blob| blob.state == "live").count();
    let list = names.iter().map(|name| name.parse().expect("a volume")).collect();
    let placer = Placer::new(list, 3, 10);
    for (key, value) in entries_of(&go.index()).into_iter().filter(|(key, _)| key.starts_with(b"/")) {
        let record = Record::parse(&value).expect("a record");
        assert_eq!(record.replicas, placer.placement(&key));
        let key = Key::new(key).expect("a key");
        for replica in &record.replicas {
            let number = replica.authority().trim_start_matches("127.0.0.1:1300").parse().expect("a digit");
            let place = replica.as_str().trim_start_matches(replica.authority()).trim_start_matches('/');
            let path = go.volume(number).join(place).join(&path_of(&key, File::Blob(None))[1..]);
            assert!(path.exists(), "{key} at {path:?}");
        }
    }
    master.start_again();
    let readable = go.expected.iter().filter(|(_, blob)| blob.state == "live").filter(|(key, blob)| {
        let bytes = STANDARD.decode(key).expect("keys are base64");
        let (status, body) = master.fetch(&Key::new(bytes).expect("a key").to_string());
        status == 200 && Some(format!("{:x}", md5::compute(&body))) == blob.md5
    });
    assert_eq!(readable.count(), live);
}

#[test]
fn clients_are_never_refused_because_of_a_move() {
    let volumes = volumes(5);
    let keys: Vec<String> = (0..24).map(|number| format!("/{number}")).collect();
    let (_before, mut master) = grown(&volumes, 3, |master| {
        keys.iter().for_each(|key| master.put(key, &vec![1; 300_000]));
    });
    master.start_again();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for key in &keys {
                let status = master.call("REBALANCE", key, b"").status;
                assert!(status == 204 || status == 409, "{key}: {status}");
            }
            over.store(true, Ordering::SeqCst);
        });
        // Each has keys of its own, so a 409 could only be the move's.
        for client in 0..3 {
            let (master, keys, over) = (&master, &keys, &over);
            scope.spawn(move || {
                let mut round = 0_u8;
                while !over.load(Ordering::SeqCst) {
                    round = round.wrapping_add(1);
                    for key in keys.iter().skip(client).step_by(3) {
                        let body = vec![round; 70_000];
                        let replaced = master.call("REPLACE", key, &body);
                        assert_eq!(replaced.status, 204, "{key}: {}", replaced.text());
                        assert!(master.fetch(key) == (200, body), "{key}");
                    }
                }
            });
        }
    });
    for key in &keys {
        assert_eq!(master.call("REBALANCE", key, b"").status, 204, "{key}");
        assert_eq!(balance(&master, key).as_deref(), Some("balanced"), "{key}");
    }
    let files = || files_of(&volumes).len();
    eventually("old versions and old copies are removed", || files() == 6 * keys.len());
}

#[test]
fn what_a_full_or_hung_volume_can_not_take_stays_where_it_is() {
    let volumes = volumes(3);
    let dir = TempDir::new();
    let mut mounts = Mounts::new();
    mounts.tmpfs(&dir.join("small"), "300k");
    let small = Volume::builder().dir(dir.join("small")).among(&mounts).start();
    let mut before = Master::builder(&addresses(&volumes)).start();
    (0..20).for_each(|number| before.put(&format!("/{number}"), &vec![number; 100_000]));
    assert!(before.stop().success());
    let list = format!("{},{}", addresses(&volumes), small.addr());
    let mut master = Master::builder(&list).db(before.db()).build();
    let (status, said) = master.job(&["rebalance"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("volume {}", small.addr())) && said.contains("500"), "{said}");
    small.pause();
    let (status, said) = master.job(&["rebalance"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&small.addr()), "{said}");
    small.resume();
    master.start_again();
    for number in 0..20 {
        assert!(master.fetch(&format!("/{number}")) == (200, vec![number; 100_000]), "{number}");
        let volumes = master.call("GET", &format!("/{number}"), b"");
        let count = volumes.header("key-volumes").expect("volumes").split(',').count();
        assert_eq!(count, 3, "{number}");
    }
}

#[test]
fn what_lies_at_the_target_of_a_move_is_written_over() {
    let volumes = volumes(5);
    let (before, mut master) = grown(&volumes, 3, |master| {
        (0..20).for_each(|number| master.put(&format!("/{number}"), b"the right content"));
    });
    // Another content of the same size, a shorter one, and nothing at all, at every place to which a blob will go.
    let (three, five) = (placer(&volumes[..3], 3), placer(&volumes, 3));
    for number in 0..20 {
        let key = Key::new(format!("/{number}")).expect("a key");
        let old = three.placement(key.as_bytes());
        for place in five.placement(key.as_bytes()).iter().filter(|place| !old.contains(place)) {
            let volume = volumes.iter().find(|volume| volume.addr() == place.volume().as_str()).unwrap();
            let folder = place.as_str().strip_prefix(&volume.addr()).unwrap().trim_start_matches('/');
            let path = volume.dir().join(folder).join(&path_of(&key, File::Blob(None))[1..]);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let corrupt: &[u8] = [b"the WRONG content".as_slice(), b"short", b""][number % 3];
            std::fs::write(path, corrupt).unwrap();
        }
    }
    // One half by the method, the other by the job.
    master.start_again();
    (0..10).for_each(|number| {
        assert_eq!(master.call("REBALANCE", &format!("/{number}"), b"").status, 204, "{number}")
    });
    assert!(master.stop().success());
    rebalance(&master);
    assert_eq!(check_home(&before, &volumes, 5).len(), 20);
    for volume in &volumes {
        for file in volume.files().into_iter().filter(|file| file != "=cluster") {
            let content = std::fs::read(volume.dir().join(&file)).unwrap();
            assert_eq!(content, b"the right content", "{file}");
        }
    }
}

/// A volume that was drained is the only one that is given afterwards: blobs belong nowhere then, and stay.
#[test]
fn the_last_replicas_stay_where_no_volume_is_to_keep_any() {
    let volumes = volumes(2);
    let with =
        |known: &[Volume]| Master::builder(&addresses(known)).flag("replicas", "1").flag("md5sum", "false");
    let mut before = with(&volumes).start();
    (0..20).for_each(|number| before.put(&format!("/{number}"), format!("{number}").as_bytes()));
    assert!(before.stop().success());
    let (status, said) = before.job(&["volume-mode", &volumes[0].addr(), "drain"]);
    assert!(status.success(), "{said}");
    let held: BTreeSet<String> = files_of(&volumes[..1]);
    assert!(held.len() > 3, "{held:?}");
    for job in [&["rebalance"][..], &["repair"], &["rebalance"]] {
        let (status, said) = with(&volumes[..1]).db(before.db()).build().job(job);
        assert_eq!(status.code(), Some(1), "{job:?}: {said}");
        assert_eq!(files_of(&volumes[..1]), held, "{job:?}: {said}");
    }
    let (status, said) = with(&volumes).db(before.db()).build().job(&["undrain", &volumes[0].addr()]);
    assert!(status.success(), "{said}");
    before.start_again();
    (0..20).for_each(|number| {
        assert_eq!(before.fetch(&format!("/{number}")), (200, number.to_string().into_bytes()));
    });
}

#[test]
fn a_dry_run_refuses_volumes_of_another_cluster_and_takes_over_none() {
    let volumes = volumes(5);
    let (_before, master) = grown(&volumes[..4], 3, |master| master.put("/a", b"x"));
    let mut other = Master::builder(&volumes[4].addr()).flag("replicas", "1").start();
    other.kill9();
    let (status, said) = master.job(&["rebalance", "--dry-run"]);
    assert!(status.success(), "{said}");
    assert!(
        !volumes[3].dir().join("=cluster").exists(),
        "nothing is written to a volume that is nobody's yet"
    );
    let list = format!("{},{}", addresses(&volumes[..3]), volumes[4].addr());
    let foreign = Master::builder(&list).db(master.db()).build();
    for words in [&["rebalance", "--dry-run"][..], &["rebalance"]] {
        let (status, said) = foreign.job(words);
        assert_eq!(status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains(&format!("volume {} belongs to cluster", volumes[4].addr())), "{said}");
    }
}

/// One of the volumes hangs, so that the job doesn't come to its end soon.
#[test]
fn a_second_signal_ends_a_job_that_the_first_one_does_not() {
    use nix::sys::signal::Signal;
    let volumes = volumes(4);
    let (_before, master) = grown(&volumes, 3, |master| {
        (0..40).for_each(|number| master.put(&format!("/{number}"), b"x"));
    });
    let slow = Master::builder(&addresses(&volumes)).db(master.db()).flag("voltimeout", "10s").build();
    // It is up when the job begins and hangs behind its first blob.
    let mut job = slow.begin_job(&["rebalance", "--rate", "2"]);
    let is_at_work = || volumes[3].files().len() > 1;
    eventually("the job is at work", is_at_work);
    volumes[3].pause();
    std::thread::sleep(Duration::from_millis(1000));
    crate::harness::send(job.id(), Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(500));
    assert!(job.try_wait().expect("it is our child").is_none(), "it brings to its end what it has begun");
    let begun = Instant::now();
    crate::harness::send(job.id(), Signal::SIGINT);
    let status = crate::harness::wait_for("the job ends", || job.try_wait().expect("it is our child"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(status.code(), Some(1));
    volumes[3].resume();
    rebalance(&master);
    assert_eq!(check_home(&master, &volumes, 4).len(), 40);
}

#[test]
fn volumes_are_spoken_to_with_credentials() {
    let dir = TempDir::new();
    let file = dir.join("htpasswd");
    std::fs::write(&file, "me:{PLAIN}s3cret\n").expect("our directory is writable");
    let volumes: Vec<Volume> = (0..4).map(|_| Volume::builder().env("AUTH", &file).start()).collect();
    let with = |known: usize| Master::builder(&addresses(&volumes[..known])).flag("userpass", "me:s3cret");
    let mut before = with(3).start();
    (0..20).for_each(|number| before.put(&format!("/{number}"), b"x"));
    assert!(before.stop().success());
    let said = rebalance(&with(4).db(before.db()).build());
    assert!(!said.contains("s3cret"), "{said}");
    assert_eq!(check_home(&before, &volumes, 4).len(), 20);
}

#[test]
fn credentials_from_a_file_are_in_no_list_of_processes_and_no_output() {
    let dir = TempDir::new();
    let (htpasswd, userpass) = (dir.join("htpasswd"), dir.join("userpass"));
    std::fs::write(&htpasswd, "me:{PLAIN}s3cret\n").expect("our directory is writable");
    std::fs::write(&userpass, "me:s3cret\n").expect("our directory is writable");
    let volumes: Vec<Volume> = (0..3).map(|_| Volume::builder().env("AUTH", &htpasswd).start()).collect();
    let builder = Master::builder(&addresses(&volumes)).flag("userpass-file", userpass.to_string_lossy());
    let mut master = builder.start();
    (0..20).for_each(|number| master.put(&format!("/{number}"), b"x"));
    let words = std::fs::read(format!("/proc/{}/cmdline", master.pid())).expect("it runs");
    assert!(!String::from_utf8_lossy(&words).contains("s3cret"));
    assert!(master.stop().success());
    let mut said = master.log();
    for job in ["rebalance", "scrub", "repair", "rebuild"] {
        let (status, words) = master.job(&[job]);
        assert!(status.success(), "{job}: {words}");
        said += &words;
    }
    let two = Master::builder(&addresses(&volumes)).flag("userpass-file", userpass.to_string_lossy());
    let two = two.flag("replicas", "2").db(master.db()).build();
    let (out, leaving) = (dir.join("out"), volumes[0].addr());
    let out = out.to_string_lossy();
    for job in [
        &["export", "/", &*out][..],
        &["drain", &leaving],
        &["volume-mode", &leaving, "down"],
        &["forget", &leaving],
    ] {
        let (status, words) = two.job(job);
        assert!(status.success(), "{job:?}: {words}");
        said += &words;
    }
    assert_eq!(std::fs::read_dir(&*out).expect("it was made").count(), 20);
    // Also where something goes wrong.
    std::fs::write(&userpass, "me:wr0ng\n").expect("our directory is writable");
    let (status, words) = master.job(&["rebuild"]);
    assert!(!status.success() && words.contains("401"), "{words}");
    assert!(![said, words].concat().contains("s3cret") && !master.log().contains("wr0ng"));
}

/// What is left says what sort of thing it is, and of which volume, for those who sort and count.
#[test]
fn what_a_job_leaves_has_its_kind_and_its_volume() {
    let mut volumes = volumes(4);
    let (before, _) = grown(&volumes, 3, |master| {
        (0..30)
            .for_each(|number| master.put(&format!("/{number}"), format!("content of {number}").as_bytes()));
    });
    let master = Administered::start(Master::builder(&addresses(&volumes)).db(before.db()));
    let away = |number: &usize| balance(&master, &format!("/{number}")).as_deref() == Some("unbalanced");
    let away: Vec<usize> = (0..30).filter(away).collect();
    let file = |number: usize, volume: &Volume| {
        let key = Key::new(format!("/{number}")).expect("a key");
        let name = path_of(&key, File::Blob(None));
        let has_it =
            |path: &String| name.ends_with(path.as_str()) || path.ends_with(name.trim_start_matches('/'));
        volume.dir().join(volume.files().into_iter().find(has_it).expect("it is there"))
    };
    let stays = |number: &&usize| {
        let places = placer(&volumes, 3).placement(format!("/{number}").as_bytes());
        places.iter().any(|place| place.volume().as_str() == volumes[0].addr())
    };
    let damaged = *away.iter().find(stays).expect("the first volume keeps some");
    let gone = *away.iter().find(|number| **number != damaged).expect("there are more");
    volumes[..3].iter().for_each(|volume| std::fs::remove_file(file(gone, volume)).expect("it is there"));
    std::fs::write(file(damaged, &volumes[0]), b"of another size").expect("it can be written");
    let job = master.job("rebalance", r#"{"rate":"unlimited"}"#);
    assert_eq!(job["status"]["kinds"], serde_json::json!({ "corrupt": 1, "missing": 1 }), "{job}");

    volumes[3].stop();
    eventually("it is known to be down", || master.json("GET", "/api/status", "")["volumes_up"] == 3);
    let drain = serde_json::json!({ "volume": volumes[0].addr(), "rate": "unlimited" }).to_string();
    let job = master.job("drain", &drain);
    let findings = job["status"]["findings"].as_array().expect("some are left");
    let unreachable: Vec<_> = findings.iter().filter(|finding| finding["kind"] == "unreachable").collect();
    let is_of = |finding: &serde_json::Value, volume: &Volume| {
        finding["volume"].as_str().is_some_and(|place| place.starts_with(&volume.addr()))
    };
    assert!(!unreachable.is_empty() && unreachable.iter().all(|found| is_of(found, &volumes[3])), "{job}");
    let still_on_it = findings.iter().find(|found| found["what"].as_str().unwrap().contains("still on it"));
    assert!(still_on_it.is_some_and(|found| is_of(found, &volumes[0])), "{job}");
}
