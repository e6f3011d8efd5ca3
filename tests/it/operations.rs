//! What docs/operations.md tells an operator to do, done: the commands as they stand there, on a cluster to which it has
//! happened.

use std::path::Path;
use std::process::Command;

use crate::harness::{
    Administered, Master, Mounts, TempDir, Volume, addresses, eventually, repository, volumes,
};

const KEYS: usize = 60;

fn body(number: usize) -> Vec<u8> {
    format!("content of {number} ").repeat(50).into_bytes()
}

fn fill(master: &Master, keys: std::ops::Range<usize>) {
    keys.for_each(|number| master.put(&format!("/{number}"), &body(number)));
}

#[track_caller]
fn check(master: &Master, keys: usize) {
    (0..keys)
        .for_each(|number| assert_eq!(master.fetch(&format!("/{number}")), (200, body(number)), "/{number}"));
}

/// Files of a volume that are no blob's don't count.
fn blobs(volume: &Volume) -> usize {
    volume.files().into_iter().filter(|file| file != "=cluster").count()
}

/// The commands of operations.md behind `<!-- walk: NAME -->`, typed for this cluster; what they said.
#[track_caller]
fn walk(name: &str, master: &Administered, volumes: &[Volume]) -> String {
    walk_with(name, master, volumes, &[])
}

/// The same, with other names of the document for what they are here.
#[track_caller]
fn walk_with(name: &str, master: &Administered, volumes: &[Volume], others: &[(&str, String)]) -> String {
    let text = std::fs::read_to_string(repository().join("docs/operations.md")).expect("it is there");
    let (_, rest) = text.split_once(&format!("<!-- walk: {name} -->\n```sh\n")).expect("the walk is there");
    let mut script = rest.split_once("```").expect("the block ends").0.to_owned();
    for (name, here) in others {
        script = script.replace(name, here);
    }
    for (number, volume) in volumes.iter().enumerate() {
        script = script.replace(&format!("localhost:{}", 3001 + number), &volume.addr());
    }
    script = script.replace("127.0.0.1:3900", &format!("127.0.0.1:{}", master.port.port()));
    script = script.replace("/var/lib/mkv/indexdb", &master.db().to_string_lossy());
    script = script.replace("mkv -", &format!("{} -", env!("CARGO_BIN_EXE_mkv")));
    let output = Command::new("bash").args(["-ec", &script]).output().expect("bash is installed");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{script}\n{said}");
    said
}

#[test]
fn a_cluster_is_checked() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    fill(&master, 0..KEYS);
    assert!(walk("check", &master, &volumes).contains("60 keys"));
}

#[test]
fn volumes_are_tried_out() {
    let volumes = volumes(3);
    let master = Administered::build(Master::builder(&addresses(&volumes)));
    assert_eq!(walk("try-out", &master, &volumes).matches(" ok\n").count(), 3);
}

#[test]
fn a_disk_dies_and_is_replaced() {
    let mut volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    fill(&master, 0..KEYS);
    volumes[1].kill9();
    for name in std::fs::read_dir(volumes[1].dir()).expect("it is a directory") {
        let path = name.expect("it can be read").path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
            .expect("it goes");
    }
    check(&master, KEYS);
    volumes[1].start_again();
    let said = walk("disk-dies", &master, &volumes);
    assert!(said.contains("60 mended"), "{said}");
    assert_eq!(master.json("GET", "/api/status", "")["volumes_up"], 3);
    assert_eq!(blobs(&volumes[1]), KEYS);
    check(&master, KEYS);
}

#[test]
fn a_drive_is_replaced() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    fill(&master, 0..KEYS);
    let (mounted, old) = (volumes[1].dir().join("sv01"), volumes[1].dir().with_extension("sv01"));
    let had = blobs(&volumes[1]);
    std::fs::rename(&mounted, old).expect("it was made with its first blob");
    std::fs::create_dir(&mounted).expect("it can be made");
    assert!(blobs(&volumes[1]) < had);
    walk("drive-is-replaced", &master, &volumes);
    assert_eq!(blobs(&volumes[1]), had);
    check(&master, KEYS);
}

#[test]
fn a_machine_is_found_elsewhere_under_its_name() {
    let mut volumes = volumes(3);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    fill(&master, 0..KEYS);
    assert!(master.master.stop().success());
    let had = blobs(&volumes[1]);
    volumes[1].stop();
    let moved = Volume::builder().dir(volumes[1].dir()).start();
    walk_with("address", &master, &volumes, &[("localhost:3012", moved.addr())]);
    let address = format!("{}={}", volumes[1].addr(), moved.addr());
    let builder = Master::builder(&addresses(&volumes)).db(master.db()).flag("address", address);
    check(&builder.start(), KEYS);
    assert_eq!(blobs(&moved), had);
}

#[test]
fn a_machine_gets_another_name() {
    let volumes = volumes(3);
    let old = format!("localhost:{}", volumes[1].port());
    let names = format!("{},{old},{}", volumes[0].addr(), volumes[2].addr());
    let mut before = Master::builder(&names).start();
    fill(&before, 0..KEYS);
    assert!(before.stop().success());
    let master = Administered::start(Master::builder(&addresses(&volumes)).db(before.db()));
    walk_with("machine-is-renamed", &master, &volumes, &[("oldname:3002", old)]);
    check(&master, KEYS);
    assert_eq!(volumes.iter().map(blobs).sum::<usize>(), 3 * KEYS, "nothing was moved");
    let named = master.call("GET", "/0", b"").header("key-volumes").expect("a record").to_owned();
    assert!(named.contains(&volumes[1].addr()), "{named}");
}

#[test]
fn an_index_comes_back_from_a_back_up() {
    let (volumes, dir) = (volumes(3), TempDir::new());
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    fill(&master, 0..10);
    assert!(master.master.stop().success());
    let copy = |from: &Path, to: &Path| {
        let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is installed");
        assert!(status.success());
    };
    copy(master.db(), &dir.join("backup"));
    master.master.start_again();
    fill(&master, 10..KEYS);
    assert!(master.master.stop().success());
    std::fs::remove_dir_all(master.db()).expect("it was there");
    copy(&dir.join("backup"), master.db());
    let (status, said) = Master::builder(&addresses(&volumes)).db(master.db()).refusal();
    assert!(status.code() == Some(1) && said.contains("run `mkv rebuild`"), "{said}");
    walk("index-comes-back", &master, &volumes);
    master.master.start_again();
    check(&master, KEYS);
}

#[test]
fn a_disk_dies_and_is_not_replaced() {
    let mut volumes = volumes(4);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    fill(&master, 0..KEYS);
    let lost = blobs(&volumes[1]);
    volumes[1].kill9();
    walk("disk-is-gone", &master, &volumes);
    let others = [0, 2, 3].map(|number| blobs(&volumes[number]));
    assert!(lost > 20 && others.iter().sum::<usize>() == 3 * KEYS, "{lost} {others:?}");
    fill(&master, KEYS..2 * KEYS);
    check(&master, 2 * KEYS);
    assert!(master.json("GET", "/api/status", "")["unsettled"].as_u64() > Some(20), "removals wait");
    walk("disk-is-forgotten", &master, &volumes);
    eventually("nothing waits any more", || master.json("GET", "/api/status", "")["unsettled"] == 0);
    check(&master, 2 * KEYS);
}

#[test]
fn a_machine_joins() {
    let volumes = volumes(4);
    let mut before = Master::builder(&addresses(&volumes[..3])).start();
    fill(&before, 0..KEYS);
    assert!(before.stop().success());
    let master = Administered::start(Master::builder(&addresses(&volumes)).db(before.db()));
    check(&master, KEYS);
    walk("machine-joins", &master, &volumes);
    let (count, least) = (blobs(&volumes[3]), KEYS / 2);
    assert!(count > least, "{count}");
    check(&master, KEYS);
    eventually("the old copies are removed", || volumes.iter().map(blobs).sum::<usize>() == 3 * KEYS);
}

#[test]
fn a_machine_leaves() {
    let mut volumes = volumes(4);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    fill(&master, 0..KEYS);
    let said = walk("machine-leaves", &master, &volumes);
    let line = said.lines().find(|line| line.starts_with(&volumes[1].addr())).expect("its line");
    assert!(line.contains("drain"), "{said}");
    eventually("it is empty", || blobs(&volumes[1]) == 0);
    let gone = volumes.remove(1);
    drop(gone);
    assert!(master.master.stop().success());
    let after = Master::builder(&addresses(&volumes)).db(master.db()).start();
    check(&after, KEYS);
    fill(&after, KEYS..2 * KEYS);
    check(&after, 2 * KEYS);
}

#[test]
fn the_index_is_lost() {
    let volumes = volumes(3);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    fill(&master, 0..KEYS);
    assert_eq!(master.call("UNLINK", "/0", b"").status, 204);
    assert_eq!(master.call("DELETE", "/1", b"").status, 204);
    assert!(master.master.stop().success());
    std::fs::remove_dir_all(master.db()).expect("it was there");
    walk("index-is-lost", &master, &volumes);
    master.master.start_again();
    (2..KEYS)
        .for_each(|number| assert_eq!(master.fetch(&format!("/{number}")), (200, body(number)), "/{number}"));
    assert_eq!((master.fetch("/0").0, master.fetch("/1").0), (404, 404));
}

#[test]
fn a_volume_is_full() {
    let mut all = volumes(2);
    let dir = TempDir::new();
    let mut mounts = Mounts::new();
    mounts.tmpfs(&dir.join("small"), "1m");
    all.push(Volume::builder().dir(dir.join("small")).among(&mounts).start());
    all.push(Volume::start());
    let large = vec![7_u8; 200_000];
    let master = Administered::start(Master::builder(&addresses(&all)));
    (0..12).for_each(|number| master.put(&format!("/large/{number}"), &large));
    let unbalanced = || {
        let page = master.json("GET", "/api/keys?limit=1000", "");
        page["keys"].as_array().expect("keys").iter().filter(|key| key["balanced"] == false).count()
    };
    assert!(unbalanced() > 0, "the small one has no room for all");
    // A larger drive in its place.
    mounts.run(&format!("mount -o remount,size=20m '{}'", dir.join("small").display()));
    walk("volume-is-full", &master, &all);
    assert_eq!(unbalanced(), 0);
    (0..12).for_each(|number| {
        assert!(master.fetch(&format!("/large/{number}")) == (200, large.clone()), "{number}")
    });
}
