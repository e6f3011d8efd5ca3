//! The index thrown away and made anew from the volumes: exact, or not at all.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;

use minikeyvalue::model::{File, Key, Record, path_of};

use crate::harness::{
    Administered, Cluster, GoCluster, Master, Mounts, Random, TcpStub, TempDir, Volume, addresses,
    connections, entries_of, eventually, lines_of, numbered, placer, send, stop, try_raw, volumes, wait_for,
};

/// Keys of each kind, where there are many kinds.
const EACH: usize = 200;

/// Enough that writes share the index's syncs, and a machine's cores are busy.
const CLIENTS: usize = 8;

/// The index is moved away, so that only the volumes can tell.
fn lose_index(master: &Master) {
    if master.db().exists() {
        fs::remove_dir_all(master.db()).expect("the index is a directory");
    }
}

#[track_caller]
fn rebuild(master: &Master, words: &[&str]) -> String {
    let (status, said) = master.job(&[&["rebuild"], words].concat());
    assert!(status.success(), "{status}\n{said}");
    said
}

#[track_caller]
fn same(before: &[String], after: &[String]) {
    let [before, after] = [before, after].map(|lines| lines.iter().collect::<BTreeSet<_>>());
    let missing: Vec<_> = before.difference(&after).collect();
    let added: Vec<_> = after.difference(&before).collect();
    assert!(missing.is_empty() && added.is_empty(), "missing {missing:#?}\nadded {added:#?}");
}

/// Does `work` for all keys, several at the same time.
fn for_all(keys: &[String], work: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        for part in keys.chunks(keys.len().div_ceil(CLIENTS)) {
            scope.spawn(|| part.iter().for_each(|key| work(key)));
        }
    });
}

/// Keys that are awkward in one way or another, percent-encoded.
fn awkward() -> Vec<String> {
    let mut keys: Vec<String> = [
        "/%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82",
        "/a%3Fb",
        "/%3F%3F%3F/%3F%3F%3F",
        "/a//b/../c/",
        "/%00%01%ff%fe",
        "/with%20space+plus%25",
        "/%E6%97%A5%E6%9C%AC/%E8%AA%9E",
    ]
    .map(String::from)
    .to_vec();
    keys.extend((1..30).map(|number| format!("/{}%FF%FF%FF{number}", "%3F".repeat(number))));
    keys.push(format!("/{}", "long".repeat(80)));
    keys.push(format!("/{}", "x".repeat(2047)));
    keys
}

/// `EACH` keys of each kind whose names are awkward in one way or another.
fn many_awkward() -> Vec<String> {
    let hex = |number: usize| format!("%{:02x}%{:02x}", number % 256, 255 - number % 256);
    let of = |number: usize| {
        [
            format!("/%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82/%E6%97%A5%E6%9C%AC/{number}"),
            format!("/%3F{}/a%3Fb{number}", "%3F".repeat(number % 40)),
            // The base64 of three such bytes is `////` here.
            format!("/ab%FF%FF%FF{number}"),
            format!("/{number}/{}", "x".repeat(100 + 9 * number)),
            format!("/%00{}%ff%fe{number}", hex(number)),
        ]
    };
    (0..EACH).flat_map(of).collect()
}

#[test]
fn every_entry_comes_back_byte_for_byte() {
    let mut volumes = volumes(4);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    let call = |master: &Master, method: &str, path: &str, body: &[u8], expected: u16| {
        let response = master.call(method, path, body);
        assert_eq!(response.status, expected, "{method} {path}: {}", response.text());
    };
    let numbered = |kind: &str| numbered(kind, EACH).collect::<Vec<String>>();
    for_all(&[many_awkward(), awkward(), numbered("plain"), numbered("noted")].concat(), |key| {
        master.put(key, key.as_bytes());
    });
    for (kind, calls) in [
        ("unlinked", &[("UNLINK", "", 204)][..]),
        ("relinked", &[("UNLINK", "", 204), ("RELINK", "", 204)]),
        ("again", &[("UNLINK", "", 204), ("PUT", "over a tombstone", 201)]),
        ("deleted", &[("DELETE", "", 204)]),
        ("back", &[("DELETE", "", 204), ("PUT", "second", 201)]),
        ("replaced", &[("REPLACE", "second", 204)]),
        ("twice", &[("REPLACE", "second", 204), ("REPLACE", "third", 204), ("UNLINK", "", 204)]),
    ] {
        for_all(&numbered(kind), |key| {
            master.put(key, b"first");
            calls
                .iter()
                .for_each(|(method, body, status)| call(&master, method, key, body.as_bytes(), *status));
        });
    }
    for_all(&awkward(), |key| match key.len() % 4 {
        0 => call(&master, "UNLINK", key, b"", 204),
        1 => call(&master, "REPLACE", key, b"another", 204),
        _ => {}
    });
    let places = placer(&volumes, 3);
    let away = volumes[3].addr();
    let belongs_there =
        |key: &String| places.placement(key.as_bytes()).iter().any(|place| place.volume().as_str() == away);
    let spilled = (0..).map(|number| format!("/spilled/{number}")).filter(belongs_there);
    volumes[3].stop();
    for_all(&spilled.take(EACH).collect::<Vec<String>>(), |key| master.put(key, b"elsewhere"));
    volumes[3].start_again();
    eventually("nothing is pending", || master.json("GET", "/api/status", "")["unsettled"] == 0);
    assert!(master.master.stop().success());
    let written = records_of(&master);
    let is_noted = |(key, _): &&(Key, Record)| key.as_bytes().starts_with(b"/noted/");
    written.iter().filter(is_noted).for_each(|(key, record)| note_metadata(&volumes, key, record));

    let is_spilled = |(key, record): &&(Key, Record)| record.replicas != places.placement(key.as_bytes());
    let has_slashes = |(key, _): &&(Key, Record)| STANDARD.encode(key.as_bytes()).contains("//");
    assert!(written.iter().filter(is_spilled).count() >= EACH);
    assert!(written.iter().filter(has_slashes).count() >= EACH);
    let before = lines_of(master.db());
    // Five kinds of names, two that were put alone, six with a history (deleted ones have no entry), those that were spilled.
    assert!(before.len() > 14 * EACH, "{}", before.len());
    lose_index(&master);
    rebuild(&master, &[]);
    same(&before, &lines_of(master.db()));
    master.master.start_again();
    assert_eq!(master.fetch("/plain/7"), (200, b"/plain/7".to_vec()));
    assert_eq!(master.fetch("/again/7"), (200, b"over a tombstone".to_vec()));
    assert_eq!(master.fetch("/deleted/7").0, 404);
}

#[test]
fn an_index_that_is_there_is_kept_unless_it_is_to_be_discarded() {
    let mut cluster = Cluster::start();
    numbered("k", 20).for_each(|key| cluster.master.put(&key, b"x"));
    assert!(cluster.master.stop().success());
    let before = lines_of(cluster.master.db());
    let said = rebuild(&cluster.master, &[]);
    assert!(said.contains("the old index is kept as"), "{said}");
    let kept = siblings(cluster.master.db(), ".old-");
    assert_eq!(kept.len(), 1);
    same(&before, &lines_of(&kept[0]));
    same(&before, &lines_of(cluster.master.db()));
    rebuild(&cluster.master, &["--discard-old", "-q"]);
    assert_eq!(siblings(cluster.master.db(), ".old-"), kept);
    same(&before, &lines_of(cluster.master.db()));

    // Without reading, only the MD5s of plain blobs are missing.
    rebuild(&cluster.master, &["--no-checksum", "--discard-old"]);
    let without: Vec<String> = before.iter().map(|line| without_md5(line)).collect();
    same(&without, &lines_of(cluster.master.db()));
}

/// Keys of one folder are listed in all subvolumes of a server with one write; here it answers two of the requests.
#[test]
fn servers_that_close_connections_early_are_read_whole() {
    let mut cluster = Cluster::start();
    let folder = |key: &String| path_of(&Key::new(key.as_bytes()).unwrap(), File::Blob(None))[..6].to_owned();
    let first = folder(&"/0".to_owned());
    let keys: Vec<String> =
        (0..).map(|number| format!("/{number}")).filter(|key| folder(key) == first).take(12).collect();
    keys.iter().for_each(|key| cluster.master.put(key, key.as_bytes()));
    for volume in &cluster.volumes {
        let file = volume.dir().join(".mkv/nginx.conf");
        let text = fs::read_to_string(&file)
            .unwrap()
            .replace("keepalive_requests 1000000000;", "keepalive_requests 2;");
        fs::write(&file, text).unwrap();
        send(volume.pid(), Signal::SIGHUP);
        let requests = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3);
        eventually("it closes connections early", || {
            let answers = try_raw(&volume.addr(), requests.as_bytes()).unwrap_or_default();
            answers.windows(9).filter(|bytes| bytes == b"HTTP/1.1 ").count() == 2
        });
    }
    assert!(cluster.master.stop().success());
    let before = lines_of(cluster.master.db());
    lose_index(&cluster.master);
    rebuild(&cluster.master, &[]);
    same(&before, &lines_of(cluster.master.db()));
}

/// The entries of keys.
fn records_of(master: &Master) -> Vec<(Key, Record)> {
    let entries = entries_of(master.db()).into_iter().filter(|(key, _)| key.starts_with(b"/"));
    entries.map(|(key, value)| (Key::new(key).unwrap(), Record::parse(&value).unwrap())).collect()
}

/// Writes what a program that keeps metadata may have written beside all replicas of a key.
fn note_metadata(volumes: &[Volume], key: &Key, record: &Record) {
    for replica in &record.replicas {
        let volume = volumes.iter().find(|volume| volume.addr() == replica.volume().as_str()).unwrap();
        let folder = replica.as_str().strip_prefix(&volume.addr()).unwrap().trim_start_matches('/');
        let path = volume.dir().join(folder).join(path_of(key, File::Sidecar).trim_start_matches('/'));
        let mut sidecar = match fs::read(&path) {
            Ok(json) => serde_json::from_slice::<serde_json::Value>(&json).unwrap(),
            Err(_) => serde_json::json!({ "state": "live", "state_time": 1_000_000 }),
        };
        sidecar["content_type"] = "text/plain".into();
        sidecar["metadata"] = metadata();
        fs::write(path, sidecar.to_string()).unwrap();
    }
}

fn metadata() -> serde_json::Value {
    serde_json::json!({ "colour": "grün" })
}

/// What a program that keeps metadata may have written beside blobs: the index knows nothing of it, and a rebuild and a
/// rebalance keep it.
#[test]
fn metadata_beside_blobs_and_a_smaller_cluster_change_no_entry() {
    let mut cluster = Cluster::of(4, |master| master);
    let keys: Vec<String> =
        awkward().into_iter().chain((0..200).map(|number| format!("/plain/{number}"))).collect();
    for (number, key) in keys.iter().enumerate() {
        cluster.master.put(key, key.as_bytes());
        match number % 5 {
            0 => assert_eq!(cluster.master.call("UNLINK", key, b"").status, 204),
            1 => assert_eq!(cluster.master.call("REPLACE", key, b"another").status, 204),
            _ => {}
        }
    }
    settle(&mut cluster);
    let noted = records_of(&cluster.master);
    noted.iter().for_each(|(key, record)| note_metadata(&cluster.volumes, key, record));
    let before = lines_of(cluster.master.db());
    let over = |count: usize| {
        let master = Master::builder(&addresses(&cluster.volumes[..count])).flag("grace", "1s");
        let master = master.db(cluster.master.db()).build();
        let (status, said) = master.job(&["rebalance"]);
        assert!(status.success(), "{said}");
        let balanced = lines_of(master.db());
        lose_index(&master);
        rebuild(&master, &["--discard-old"]);
        same(&balanced, &lines_of(master.db()));
        balanced
    };
    lose_index(&cluster.master);
    rebuild(&cluster.master, &[]);
    same(&before, &lines_of(cluster.master.db()));
    let fewer = over(3);
    assert!(fewer.iter().all(|line| !line.contains(&cluster.volumes[3].addr())));
    same(&before, &over(4));
    let sidecars = cluster.volumes.iter().flat_map(|volume| {
        let metas = volume.files().into_iter().filter(|name| name.ends_with(".meta"));
        metas.map(|name| volume.dir().join(name)).collect::<Vec<_>>()
    });
    let kept = sidecars.filter(|path| {
        let sidecar: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        sidecar["metadata"] == metadata() && sidecar["content_type"] == "text/plain"
    });
    assert_eq!(kept.count(), 3 * noted.len());
}

/// Waits until overwritten versions are gone, which takes the grace period of a second, and stops the master.
fn settle(cluster: &mut Cluster) {
    eventually("nothing is pending", || {
        let before = cluster.files().len();
        std::thread::sleep(Duration::from_secs(2));
        cluster.files().len() == before
    });
    assert!(cluster.master.stop().success());
}

fn without_md5(line: &str) -> String {
    match line.split_once("HASH") {
        Some((before, rest)) => format!("{before}{}", &rest[32..]),
        None => line.to_owned(),
    }
}

fn siblings(dir: &Path, infix: &str) -> Vec<PathBuf> {
    let parent = dir.parent().expect("an index has a parent");
    let name = format!("{}{infix}", dir.file_name().expect("it has a name").to_string_lossy());
    let entries = fs::read_dir(parent).expect("the parent can be read").flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(&name)).collect()
}

/// One test, because the fixture names its volumes by their ports. The Go original's own rebuild loses the keys whose
/// base64 has a `/`, and every MD5.
#[test]
fn a_go_cluster_without_its_index_is_right_for_every_live_key() {
    let go = GoCluster::unpack();
    let volumes: Vec<Volume> = (1..=5)
        .map(|number| Volume::builder().dir(go.volume(number)).port(13000 + u16::from(number)).start())
        .collect();
    let mut master = Master::builder(&addresses(&volumes)).build();
    rebuild(&master, &[]);
    master.start_again();
    let mut live = 0;
    for (key, blob) in go.expected.iter().filter(|(_, blob)| blob.state == "live") {
        let bytes = STANDARD.decode(key).expect("keys are base64");
        let path: String = bytes.iter().map(|byte| format!("%{byte:02X}").replace("%2F", "/")).collect();
        let response = master.call("GET", &path, b"");
        assert_eq!(response.status, 302, "{path}");
        assert_eq!(response.header("key-volumes"), Some(blob.volumes.join(",").as_str()), "{path}");
        assert_eq!(response.header("content-md5"), blob.md5.as_deref(), "{path}");
        live += 1;
    }
    assert!(live > 250, "only {live} live keys");
}

/// In which way a volume is away.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Away {
    Stopped,
    Hung,
    Full,
}

#[test]
fn what_was_acknowledged_holds_whichever_volume_was_stopped() {
    (0..3).for_each(|away| nothing_is_revived(away, Away::Stopped));
}

#[test]
fn what_was_acknowledged_holds_whichever_volume_hung() {
    (0..3).for_each(|away| nothing_is_revived(away, Away::Hung));
}

#[test]
fn what_was_acknowledged_holds_whichever_volume_was_full() {
    (0..3).for_each(|away| nothing_is_revived(away, Away::Full));
}

fn nothing_is_revived(away: usize, how: Away) {
    let (dir, mut mounts) = (TempDir::new(), Mounts::new());
    let small = dir.join("small");
    mounts.tmpfs(&small, "2m");
    let volumes: Vec<Volume> = (0..3)
        .map(|number| match how {
            Away::Full if number == away => Volume::builder().dir(&small).among(&mounts).start(),
            _ => Volume::start(),
        })
        .collect();
    let master = Master::builder(&addresses(&volumes)).flag("replicas", "2").start();
    let mut cluster = Cluster { master, volumes };
    let keys = |kind: &'static str| (0..12).map(move |number| format!("/{kind}/{number}"));
    for kind in ["delete", "replace", "unlink", "relink", "reput"] {
        keys(kind).for_each(|key| cluster.master.put(&key, b"old"));
    }
    keys("relink").for_each(|key| assert_eq!(cluster.master.call("UNLINK", &key, b"").status, 204));
    let filler = mounts.seen_from_here(&small).join("filler");
    match how {
        Away::Stopped => drop(cluster.volumes[away].stop()),
        Away::Hung => cluster.volumes[away].pause(),
        Away::Full => {
            // It takes what fits and then fails, which is what it is for.
            let _ = fs::write(&filler, vec![0; 4 << 20]);
        }
    }
    if how != Away::Full {
        eventually("the volume is known to be down", || cluster.master.log().contains("is down"));
    }
    let mut relinked = Vec::new();
    for number in 0..12 {
        let key = |kind: &str| format!("/{kind}/{number}");
        assert!([204, 503].contains(&cluster.master.call("DELETE", &key("delete"), b"").status));
        assert_eq!(cluster.master.call("REPLACE", &key("replace"), b"new").status, 204);
        assert_eq!(cluster.master.call("UNLINK", &key("unlink"), b"").status, 204);
        relinked.push(cluster.master.call("RELINK", &key("relink"), b"").status);
        assert!([204, 503].contains(&cluster.master.call("DELETE", &key("reput"), b"").status));
        assert_eq!(cluster.master.call("PUT", &key("reput"), b"new").status, 201);
    }
    cluster.master.kill9();
    match how {
        Away::Stopped => cluster.volumes[away].start_again(),
        Away::Hung => cluster.volumes[away].resume(),
        Away::Full => fs::remove_file(&filler).expect("it was written"),
    }
    lose_index(&cluster.master);
    rebuild(&cluster.master, &[]);
    cluster.master.start_again();
    for (number, relinked) in relinked.into_iter().enumerate() {
        let fetch = |kind: &str| cluster.master.fetch(&format!("/{kind}/{number}"));
        assert_eq!(fetch("delete").0, 404, "deleted, with volume {away} away");
        assert_eq!(fetch("replace"), (200, b"new".to_vec()));
        assert_eq!(fetch("unlink").0, 404);
        assert_eq!(fetch("reput"), (200, b"new".to_vec()));
        let expected = if relinked == 204 { 200 } else { 404 };
        assert_eq!(fetch("relink").0, expected);
    }
    assert_eq!(cluster.master.list("/unlink/?unlinked").len(), 12);
}

/// A clock that was ahead and is right again must not let old versions be the newer ones.
#[test]
fn new_versions_are_dated_after_old_ones_whatever_the_clock_says() {
    let mut cluster = Cluster::of(3, |master| master.flag("replicas", "2"));
    cluster.master.put("/a", b"old");
    assert!(cluster.master.stop().success());
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let current = fs::File::options().write(true).open(cluster.master.db().join("CURRENT")).unwrap();
    current.set_modified(ahead).unwrap();
    cluster.master.start_again();
    assert_eq!(cluster.master.call("REPLACE", "/a", b"new").status, 204);
    assert!(cluster.master.log().contains("the clock is behind"), "{}", cluster.master.log());
    let dated = |name: String| u64::from_str_radix(name.rsplit_once('.')?.1, 16).ok();
    let generation = cluster.files().into_iter().filter_map(dated).max().expect("a generation");
    let ahead_us = ahead.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    assert!(generation > ahead_us, "{generation} {ahead_us}");
}

#[test]
fn unlinked_and_relinked_keys_keep_what_sidecars_tell() {
    let mut cluster = Cluster::start();
    cluster.master.put("/a", b"old");
    assert_eq!(cluster.master.call("REPLACE", "/a", b"new").status, 204);
    let sidecars = || {
        let files = cluster.volumes.iter().flat_map(|volume| {
            volume.files().into_iter().map(|file| volume.dir().join(file)).collect::<Vec<_>>()
        });
        files.filter(|path| path.to_string_lossy().ends_with(".meta")).collect::<Vec<_>>()
    };
    let read =
        |path: &PathBuf| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    for path in sidecars() {
        let mut sidecar = read(&path);
        sidecar["content_type"] = "text/plain".into();
        sidecar["metadata"] = serde_json::json!({ "color": "red" });
        fs::write(path, sidecar.to_string()).unwrap();
    }
    for verb in ["UNLINK", "RELINK"] {
        assert_eq!(cluster.master.call(verb, "/a", b"").status, 204);
        for path in sidecars() {
            let sidecar = read(&path);
            assert_eq!(sidecar["metadata"]["color"], "red", "{verb}: {sidecar}");
            assert_eq!(sidecar["content_type"], "text/plain", "{verb}: {sidecar}");
        }
    }
    assert_eq!(sidecars().len(), 3);
    assert!(cluster.master.stop().success());
}

/// What the lost index was still going to remove must not come between the next writes and the next rebuild.
#[test]
fn what_was_still_to_be_removed_is_removed_after_a_rebuild_too() {
    let mut cluster = Cluster::of(3, |master| master.flag("replicas", "2"));
    let keys = |kind: &'static str| (0..12).map(move |number| format!("/{kind}/{number}"));
    ["delete", "replace"]
        .into_iter()
        .for_each(|kind| keys(kind).for_each(|key| cluster.master.put(&key, b"old")));
    cluster.volumes[0].stop();
    eventually("the volume is known to be down", || cluster.master.log().contains("is down"));
    for key in keys("delete") {
        assert!([204, 503].contains(&cluster.master.call("DELETE", &key, b"").status));
    }
    keys("replace").for_each(|key| assert_eq!(cluster.master.call("REPLACE", &key, b"new").status, 204));
    cluster.master.kill9();
    let missing = cluster.volumes[0].addr();
    lose_index(&cluster.master);
    rebuild(&cluster.master, &["--allow-missing", &missing]);
    // Without the volume nothing is forgotten; with it, everything is done again.
    cluster.master.start_again();
    std::thread::sleep(std::time::Duration::from_secs(3));
    cluster.master.kill9();
    cluster.volumes[0].start_again();
    lose_index(&cluster.master);
    rebuild(&cluster.master, &[]);
    cluster.master.start_again();
    for key in keys("delete") {
        assert_eq!(cluster.master.fetch(&key).0, 404, "{key}");
        assert_eq!(cluster.master.call("PUT", &key, b"put").status, 201);
    }
    for key in keys("replace") {
        assert_eq!(cluster.master.fetch(&key), (200, b"new".to_vec()), "{key}");
        assert!([204, 503].contains(&cluster.master.call("DELETE", &key, b"").status));
    }
    cluster.master.kill9();
    lose_index(&cluster.master);
    rebuild(&cluster.master, &[]);
    cluster.master.start_again();
    keys("delete").for_each(|key| assert_eq!(cluster.master.fetch(&key), (200, b"put".to_vec()), "{key}"));
    keys("replace").for_each(|key| assert_eq!(cluster.master.fetch(&key).0, 404, "{key}"));
    let blobs = || cluster.files().iter().filter(|file| !file.ends_with(".meta")).count();
    eventually("only blobs of live keys are left", || blobs() == 2 * 12);
}

#[test]
fn damaged_and_foreign_files_are_told_and_never_taken() {
    let mut cluster = Cluster::start();
    for key in ["/cut", "/empty", "/allempty", "/whole", "/lost", "/noted"] {
        cluster.master.put(key, b"four");
    }
    assert_eq!(cluster.master.call("REPLACE", "/noted", b"second").status, 204);
    assert_eq!(cluster.master.call("REPLACE", "/lost", b"second").status, 204);
    settle(&mut cluster);
    let before = lines_of(cluster.master.db());
    let file = |volume: &Volume, key: &str, end: &str| {
        let name = STANDARD.encode(key);
        let found = volume
            .files()
            .into_iter()
            .find(|file| file.contains(&name) && !file.ends_with(".meta") && file.ends_with(end));
        volume.dir().join(found.expect("the volume has the file"))
    };
    fs::write(file(&cluster.volumes[0], "/cut", ""), b"fo").unwrap();
    fs::write(file(&cluster.volumes[1], "/empty", ""), b"").unwrap();
    fs::write(file(&cluster.volumes[2], "/noted", ""), b"sec").unwrap();
    cluster.volumes.iter().for_each(|volume| fs::remove_file(file(volume, "/lost", "")).unwrap());
    cluster.volumes.iter().for_each(|volume| fs::write(file(volume, "/allempty", ""), b"").unwrap());
    let folder = cluster.volumes[0].dir().join("ab/cd");
    fs::create_dir_all(folder.join("L2E=")).unwrap();
    for name in ["L2E+", "not base64!", "nginx.pid", ".hidden"] {
        fs::write(folder.join(name), b"x").unwrap();
    }
    fs::write(cluster.volumes[0].dir().join("nginx.pid"), b"1").unwrap();
    fs::create_dir(cluster.volumes[0].dir().join("body_temp")).unwrap();
    lose_index(&cluster.master);
    let (status, said) = cluster.master.job(&["rebuild"]);
    assert_eq!(status.code(), Some(1), "{said}");
    for words in [
        "/lost: no volume has its blob",
        "/allempty: all its files are empty",
        "an empty file, not taken for a replica",
        "2 bytes instead of 4",
        "3 bytes instead of 6",
        "L2E+ is no blob",
        "not base64! is no blob",
    ] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    assert!(!said.contains("nginx.pid is no blob") || said.contains("ab/cd/nginx.pid"), "{said}");
    let after = lines_of(cluster.master.db());
    let keys = |lines: &[String]| {
        lines.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let expected: Vec<String> = keys(&before).into_iter().filter(|key| key != "/allempty").collect();
    assert_eq!(keys(&after), expected);
    let entry_of = |lines: &[String], key: &str| {
        lines.iter().find(|line| line.starts_with(&format!("{key} "))).unwrap().clone()
    };
    let entry = |key: &str| entry_of(&after, key);
    assert_eq!(entry("/lost"), entry_of(&before, "/lost"));
    assert!(!entry("/cut").contains(&cluster.volumes[0].addr()), "{}", entry("/cut"));
    assert!(!entry("/empty").contains(&cluster.volumes[1].addr()), "{}", entry("/empty"));
    assert!(!entry("/noted").contains(&cluster.volumes[2].addr()), "{}", entry("/noted"));
}

/// Its sidecars stay on the volumes and would hide what is stored under the key later, if the index didn't know of them.
#[test]
fn what_is_stored_over_a_key_whose_blob_is_lost_is_there_after_the_next_rebuild_too() {
    let mut cluster = Cluster::start();
    for key in ["/a", "/b", "/c"] {
        cluster.master.put(key, b"first");
        assert_eq!(cluster.master.call("REPLACE", key, b"second").status, 204);
    }
    assert_eq!(cluster.master.call("UNLINK", "/c", b"").status, 204);
    settle(&mut cluster);
    let before = lines_of(cluster.master.db());
    for volume in &cluster.volumes {
        let files = volume.files().into_iter().filter(|file| file != "=cluster" && !file.ends_with(".meta"));
        files.for_each(|file| fs::remove_file(volume.dir().join(file)).unwrap());
    }
    lose_index(&cluster.master);
    let (status, said) = cluster.master.job(&["rebuild"]);
    assert!(status.code() == Some(1) && said.contains("3 problems are left"), "{said}");
    same(&before, &lines_of(cluster.master.db()));
    cluster.master.start_again();
    let status = |method, key, body: &[u8]| cluster.master.call(method, key, body).status;
    assert_eq!((status("GET", "/a", b""), status("GET", "/c", b"")), (410, 404));
    assert_eq!(status("PUT", "/a", b"third"), 403, "who wants to overwrite it says so");
    assert_eq!((status("REPLACE", "/a", b"third"), status("PUT", "/c", b"third")), (204, 201));
    assert_eq!((status("DELETE", "/b", b""), status("PUT", "/b", b"third")), (204, 201));
    settle(&mut cluster);
    lose_index(&cluster.master);
    rebuild(&cluster.master, &[]);
    cluster.master.start_again();
    for key in ["/a", "/b", "/c"] {
        assert_eq!(cluster.master.fetch(key), (200, b"third".to_vec()), "{key}");
    }
}

/// One of its tombstones can't be read, and those that can hide what is stored under the key later, if the index didn't know of
/// them.
#[test]
fn what_is_stored_over_a_tombstone_beside_a_damaged_one_is_there_after_the_next_rebuild_too() {
    let mut cluster = Cluster::start();
    cluster.master.put("/a", b"first");
    cluster.volumes[0].stop();
    eventually("the volume is known to be down", || cluster.master.log().contains("is down"));
    assert!([204, 503].contains(&cluster.master.call("DELETE", "/a", b"").status));
    cluster.master.kill9();
    cluster.volumes[0].start_again();
    let tombstone = cluster.volumes[1].files().into_iter().find(|file| file.ends_with(".meta"));
    fs::write(cluster.volumes[1].dir().join(tombstone.expect("a volume was away")), b"").unwrap();
    lose_index(&cluster.master);
    let (status, said) = cluster.master.job(&["rebuild"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("its sidecar can't be read"), "{said}");
    cluster.master.start_again();
    assert_eq!(cluster.master.fetch("/a").0, 404);
    assert_eq!(cluster.master.call("PUT", "/a", b"second").status, 201);
    settle(&mut cluster);
    lose_index(&cluster.master);
    let (_, said) = cluster.master.job(&["rebuild"]);
    cluster.master.start_again();
    assert_eq!(cluster.master.fetch("/a"), (200, b"second".to_vec()), "{said}");
}

/// A generation or MD5 that can't be is not one that is missing, and a time beyond all dates is no newer one.
#[test]
fn a_sidecar_that_names_what_cannot_be_is_told_and_stops_nobody() {
    let mut cluster = Cluster::start();
    cluster.master.put("/a", b"four");
    cluster.master.put("/b", b"four");
    let beside = |key: &str| {
        let name = STANDARD.encode(key);
        let files = cluster.volumes.iter().flat_map(|volume| {
            volume.files().into_iter().map(|file| volume.dir().join(file)).collect::<Vec<_>>()
        });
        let blobs: Vec<PathBuf> = files.filter(|path| path.ends_with(&name)).collect();
        assert_eq!(blobs.len(), 3);
        blobs.into_iter().map(|blob| blob.with_extension("meta"))
    };
    // Nanoseconds.
    beside("/a").for_each(|path| {
        fs::write(path, r#"{"state":"live","state_time":1764046072000000000,"content_type":"a/b"}"#).unwrap()
    });
    beside("/b").for_each(|path| {
        fs::write(path, r#"{"state":"live","state_time":1764046072000000,"generation":"yesterday"}"#).unwrap()
    });
    assert_eq!(cluster.master.call("UNLINK", "/a", b"").status, 204);
    assert_eq!(cluster.master.call("RELINK", "/a", b"").status, 204);
    settle(&mut cluster);
    let before = lines_of(cluster.master.db());
    lose_index(&cluster.master);
    let (status, said) = cluster.master.job(&["rebuild"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.matches("its sidecar can't be read").count(), 3, "{said}");
    assert_eq!(said.matches("/b: ").count(), 3, "{said}");
    same(&before, &lines_of(cluster.master.db()));
}

#[test]
fn where_an_md5_decides_every_replica_has_its_say() {
    let mut cluster = Cluster::start();
    let keys: Vec<String> = numbered("k", 10).collect();
    keys.iter().for_each(|key| cluster.master.put(key, b"four"));
    assert!(cluster.master.stop().success());
    let md5 = format!("{:x}", md5::compute("four"));
    let noted = serde_json::json!({ "state": "live", "state_time": 1, "md5": md5 }).to_string();
    for key in &keys {
        let name = STANDARD.encode(key);
        for (number, volume) in cluster.volumes.iter().enumerate() {
            let blob = volume.files().into_iter().find(|file| file.ends_with(&name)).expect("it is there");
            let blob = volume.dir().join(blob);
            fs::write(blob.with_extension("meta"), &noted).unwrap();
            match number {
                0 => fs::write(blob, b"FOUR").unwrap(),
                1 => fs::write(blob, b"fo").unwrap(),
                _ => {}
            }
        }
    }
    lose_index(&cluster.master);
    let (status, said) = cluster.master.job(&["rebuild"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.matches("2 bytes instead of 4").count(), keys.len(), "{said}");
    assert!(!said.contains("no replica has the content"), "{said}");
}

/// What the index says is what a repair makes all replicas, so that the damaged one must not be asked alone.
#[test]
fn a_bit_that_flipped_in_one_replica_is_never_taken_for_the_blob() {
    let mut cluster = Cluster::start();
    let keys = ["/0", "/1", "/2", "/differ"];
    keys.iter().for_each(|key| cluster.master.put(key, b"four"));
    assert!(cluster.master.stop().success());
    let before = lines_of(cluster.master.db());
    let file = |volume: &Volume, key: &str| {
        let name = STANDARD.encode(key);
        let found = volume.files().into_iter().find(|file| file.ends_with(&name));
        volume.dir().join(found.expect("the volume has the file"))
    };
    for (number, volume) in cluster.volumes.iter().enumerate() {
        fs::write(file(volume, keys[number]), b"fouR").unwrap();
        fs::write(file(volume, "/differ"), format!("fou{number}")).unwrap();
    }
    lose_index(&cluster.master);
    let (status, said) = cluster.master.job(&["rebuild"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(said.matches("and most replicas have").count(), 3, "{said}");
    assert!(said.contains("/differ: not more than half of its replicas have one MD5"), "{said}");
    let expected: Vec<String> = before
        .iter()
        .map(|line| if line.starts_with("/differ") { without_md5(line) } else { line.clone() })
        .collect();
    same(&expected, &lines_of(cluster.master.db()));
    assert_eq!(cluster.master.job(&["repair"]).0.code(), Some(1), "nothing tells which /differ is right");
    for (number, volume) in cluster.volumes.iter().enumerate() {
        keys[..3].iter().for_each(|key| assert_eq!(fs::read(file(volume, key)).unwrap(), b"four", "{key}"));
        assert_eq!(fs::read(file(volume, "/differ")).unwrap(), format!("fou{number}").as_bytes());
    }
}

#[test]
fn replicas_that_are_all_cut_off_alike_are_told() {
    for (md5sum, words) in [
        ("true", "/k: no replica has the content that was stored"),
        ("false", "/k: no replica has the 6 bytes that its sidecar tells"),
    ] {
        let mut cluster = Cluster::of(3, |master| master.flag("md5sum", md5sum));
        cluster.master.put("/k", b"first");
        assert_eq!(cluster.master.call("REPLACE", "/k", b"second").status, 204);
        settle(&mut cluster);
        let before = lines_of(cluster.master.db());
        for volume in &cluster.volumes {
            let found = volume
                .files()
                .into_iter()
                .find(|file| file.contains("=.") && !file.ends_with(".meta"))
                .expect("a generation");
            fs::write(volume.dir().join(found), b"sec").unwrap();
        }
        lose_index(&cluster.master);
        let (status, said) = cluster.master.job(&["rebuild"]);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
        same(&before, &lines_of(cluster.master.db()));
    }
}

/// A server refuses such a volume, so a rebuild must not believe what lies on it.
#[test]
fn a_volume_whose_id_cannot_be_read_is_taken_only_when_asked_to() {
    let mut cluster = Cluster::start();
    cluster.master.put("/a", b"some content");
    assert!(cluster.master.stop().success());
    let before = lines_of(cluster.master.db());
    for id in ["", "not an id"] {
        fs::write(cluster.volumes[1].dir().join("=cluster"), id).unwrap();
        let (status, said) = cluster.master.job(&["rebuild"]);
        let words = format!("volume {} has no cluster's id but {id:?}; --adopt", cluster.volumes[1].addr());
        assert!(status.code() == Some(1) && said.contains(&words), "{said}");
        same(&before, &lines_of(cluster.master.db()));
    }
    let (status, said) = cluster.master.job(&["--adopt", "rebuild"]);
    assert!(status.success(), "{said}");
    same(&before, &lines_of(cluster.master.db()));
}

/// Nobody answers for it there, which is something else than having no blobs.
#[test]
fn a_volume_or_folder_that_is_not_there_ends_the_job() {
    let mut cluster = Cluster::of(3, |master| master.flag("replicas", "1"));
    numbered("k", 20).for_each(|key| cluster.master.put(&key, b"x"));
    assert!(cluster.master.stop().success());
    let before = lines_of(cluster.master.db());
    let moved = TcpStub::answering_with("301 Moved Permanently", "Location: https://example.com/\r\n");
    let without_folder = {
        let listing = "[\r\n{ \"name\":\"ab\", \"type\":\"directory\" }\r\n]\r\n";
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{listing}", listing.len());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it is bound").to_string();
        let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                // Each connection is for one request, and the first that isn't for the cluster's id is for the root.
                serve(stream, if number < 2 { &answer } else { none });
            }
        });
        addr
    };
    let elsewhere = format!("{}/nowhere", cluster.volumes[2].addr());
    for (volume, expected) in [
        (elsewhere.as_str(), "answered 404 to GET /; "),
        (moved.addr(), "answered 301 to GET /; "),
        (&without_folder, "answered 404 to GET /ab/; "),
    ] {
        let all = format!("{},{volume}", addresses(&cluster.volumes[..2]));
        let master = Master::builder(&all).flag("replicas", "1").db(cluster.master.db()).build();
        let (status, said) = master.job(&["rebuild"]);
        assert!(status.code() == Some(1) && said.contains(expected), "{expected}: {said}");
        same(&before, &lines_of(cluster.master.db()));
    }
    let all: Vec<String> = cluster.volumes.iter().map(Volume::addr).collect();
    let missing: Vec<&str> = all.iter().flat_map(|addr| ["--allow-missing", addr]).collect();
    let (status, said) = cluster.master.job(&[&["rebuild"], missing.as_slice()].concat());
    assert!(status.code() == Some(2) && said.contains("leaves out every volume"), "{said}");
    same(&before, &lines_of(cluster.master.db()));
}

#[test]
fn what_a_person_keeps_beside_the_index_is_left_alone() {
    let cluster = Cluster::of(1, |master| master.flag("replicas", "1"));
    cluster.master.put("/a", b"x");
    let db = cluster.master.own_dir().join("another");
    let beside = |end: &str| PathBuf::from(format!("{}{end}", db.display()));
    fs::create_dir(beside(".new-machine")).unwrap();
    fs::write(beside(".new-machine").join("plan"), b"x").unwrap();
    fs::write(beside(".new-7"), b"no directory").unwrap();
    fs::create_dir(beside(".new-123")).unwrap();
    fs::create_dir(beside(".new-123-source")).unwrap();
    let master = Master::builder(&cluster.volumes[0].addr()).flag("replicas", "1").db(&db).build();
    rebuild(&master, &[]);
    assert_eq!(siblings(&db, ".new-").len(), 2);
    assert!(beside(".new-machine").join("plan").exists() && beside(".new-7").exists());
}

/// However far it had come: what is in use is exchanged only when everything was read.
#[test]
fn a_volume_that_dies_or_hangs_in_the_middle_changes_nothing() {
    let mut cluster = Cluster::of(3, |master| master);
    (0..300).for_each(|number| cluster.master.put(&format!("/k{number}"), b"x"));
    assert!(cluster.master.stop().success());
    let before = lines_of(cluster.master.db());
    let begun = Instant::now();
    rebuild(&cluster.master, &["--discard-old"]);
    let whole = begun.elapsed();
    let mut ended_early = 0;
    for round in 1..=6 {
        let mut job = cluster.master.begin_job(&["rebuild", "-q", "--discard-old"]);
        std::thread::sleep(whole * round / 8);
        let volume = &mut cluster.volumes[round as usize % 3];
        if round == 3 {
            volume.pause();
        } else {
            volume.kill9();
        }
        ended_early += u32::from(!job.wait().expect("it is our child").success());
        if round == 3 {
            volume.resume();
        } else {
            volume.start_again();
        }
        same(&before, &lines_of(cluster.master.db()));
    }
    assert!(ended_early > 0, "no round met it in the middle");
    rebuild(&cluster.master, &[]);
    same(&before, &lines_of(cluster.master.db()));
}

/// Whether it was to be left out or is only late: what it missed while it was away is known from the others.
#[test]
fn a_volume_that_comes_back_in_the_middle_with_old_files_revives_nothing() {
    for is_left_out in [true, false] {
        let mut cluster = Cluster::with_an_outdated_volume(10);
        lose_index(&cluster.master);
        let name = cluster.volumes[0].addr();
        let missing = ["--allow-missing", &name];
        if !is_left_out {
            cluster.volumes[0].start_again();
        }
        let words = [&["rebuild", "--rate", "20"], &missing[..if is_left_out { 2 } else { 0 }]].concat();
        let log = cluster.master.own_dir().join("rebuild");
        let mut job = cluster.master.begin_logged_job(&words, &log);
        // When it looks whose the volumes are it has one connection to each, and then some for each thread.
        let is_reading = || connections(job.id(), &cluster.volumes[1].addr()) > 1;
        eventually("it reads the volumes", is_reading);
        // So that however long the volume takes to come back, the job only finds its connections closed.
        stop(job.id());
        if !is_left_out {
            cluster.volumes[0].kill9();
        }
        cluster.volumes[0].start_again();
        assert_eq!(job.try_wait().expect("it is our child"), None, "it is in the middle");
        send(job.id(), Signal::SIGCONT);
        let status = job.wait().expect("it is our child");
        let said = fs::read_to_string(&log).expect("it was created");
        assert!(status.success(), "left out: {is_left_out}: {said}");
        cluster.master.start_again();
        let check = |cluster: &Cluster| {
            let all = |kind, expected: (u16, &[u8])| {
                numbered(kind, 10).for_each(|key| {
                    let (status, body) = cluster.master.fetch(&key);
                    assert!(status == expected.0 && (status != 200 || body == expected.1), "{key}: {status}");
                });
            };
            all("same", (200, b"old"));
            all("replaced", (200, b"new"));
            all("unlinked", (404, b""));
            all("deleted", (404, b""));
            assert_eq!(cluster.master.list("/unlinked/?unlinked").len(), 10);
            assert_eq!(cluster.master.list("/deleted/?unlinked").len(), 0);
        };
        check(&cluster);
        settle(&mut cluster);
        // With what the volume had settled by now, the index can be lost once more.
        lose_index(&cluster.master);
        rebuild(&cluster.master, &[]);
        cluster.master.start_again();
        check(&cluster);
    }
}

/// As they come about when a cluster was started with other numbers of subvolumes over the years.
#[test]
fn files_in_every_layout_are_found_where_they_lie() {
    let mut cluster = Cluster::start();
    let keys: Vec<String> = (0..30).map(|number| format!("/k{number}")).collect();
    keys.iter().for_each(|key| cluster.master.put(key, key.as_bytes()));
    assert!(cluster.master.stop().success());
    let mut moved = 0;
    for volume in &cluster.volumes {
        for (file, layout) in volume.files().iter().zip(["", "sv100/", "sv1A2B/", "svFF/"].iter().cycle()) {
            let Some((_, path)) = file.split_once('/').filter(|(first, _)| first.starts_with("sv")) else {
                continue;
            };
            let to = volume.dir().join(format!("{layout}{path}"));
            fs::create_dir_all(to.parent().expect("a folder")).unwrap();
            fs::rename(volume.dir().join(file), to).unwrap();
            moved += 1;
        }
    }
    assert!(moved >= 60, "{moved}");
    lose_index(&cluster.master);
    rebuild(&cluster.master, &[]);
    let records = lines_of(cluster.master.db());
    assert_eq!(records.iter().filter(|line| line.starts_with("/k")).count(), keys.len());
    for layout in ["/sv100", "/sv1A2B", "/svFF"] {
        assert!(records.iter().any(|record| record.contains(layout)), "{layout} in {records:#?}");
    }
    cluster.master.start_again();
    for key in &keys {
        assert_eq!(cluster.master.fetch(key), (200, key.as_bytes().to_vec()), "{key}");
    }
}

/// Before the work, as the exchange at its end would fail.
#[test]
fn an_index_that_is_a_mount_point_is_refused_at_once() {
    let (dir, mut mounts) = (TempDir::new(), Mounts::new());
    let db = dir.join("indexdb");
    mounts.tmpfs(&db, "8m");
    let volumes = volumes(3);
    let master = Master::builder(&addresses(&volumes)).db(&db).among(&mounts).build();
    let (status, said) = master.job(&["rebuild"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("it is a mount point, which can't be exchanged"), "{said}");
}

#[test]
fn a_volume_that_cannot_be_read_leaves_the_old_index_as_it_was() {
    let mut cluster = Cluster::of(4, |master| master);
    (0..40).for_each(|number| cluster.master.put(&format!("/k{number}"), b"x"));
    assert!(cluster.master.stop().success());
    let before = lines_of(cluster.master.db());
    cluster.volumes[1].stop();
    let (status, said) = cluster.master.job(&["rebuild"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("unreachable") && said.contains("--allow-missing"), "{said}");
    same(&before, &lines_of(cluster.master.db()));
    assert!(siblings(cluster.master.db(), ".new-").is_empty());

    let missing = cluster.volumes[1].addr();
    let (status, said) = cluster.master.job(&["rebuild", "--allow-missing", "nobody:1"]);
    assert_eq!(status.code(), Some(2), "{said}");
    rebuild(&cluster.master, &["--allow-missing", &missing]);
    // Two of three agree, and the third is presumed where it should be.
    same(&before, &lines_of(cluster.master.db()));
}

/// The index can only presume what lies on a volume that was left out.
#[test]
fn what_is_deleted_while_the_index_does_not_know_a_volume_does_not_come_back_with_it() {
    let mut cluster = Cluster::of(3, |master| master.flag("replicas", "2"));
    let keys: Vec<String> = numbered("k", 12).collect();
    keys.iter().for_each(|key| cluster.master.put(key, b"old"));
    cluster.master.kill9();
    cluster.volumes[0].stop();
    let missing = cluster.volumes[0].addr();
    lose_index(&cluster.master);
    rebuild(&cluster.master, &["--allow-missing", &missing]);
    cluster.master.start_again();
    for key in &keys {
        // 503 where it is known that the volume still has to remove its replica.
        assert!([204, 503].contains(&cluster.master.call("DELETE", key, b"").status), "{key}");
    }
    cluster.master.kill9();
    cluster.volumes[0].start_again();
    lose_index(&cluster.master);
    rebuild(&cluster.master, &[]);
    cluster.master.start_again();
    keys.iter().for_each(|key| assert_eq!(cluster.master.fetch(key).0, 404, "{key}"));
}

/// The other replica lies on a volume that is left out, and is written over when it comes back if the index says so.
#[test]
fn a_bit_that_flipped_in_the_only_replica_that_was_read_is_not_taken_for_the_blob() {
    let mut cluster = Cluster::of(2, |master| master.flag("replicas", "2"));
    cluster.master.put("/a", b"some content");
    assert!(cluster.master.stop().success());
    let path = |number: usize| {
        let volume: &Volume = &cluster.volumes[number];
        let file = volume.files().into_iter().find(|file| file != "=cluster").expect("it has the blob");
        volume.dir().join(file)
    };
    let (damaged, good) = (path(0), path(1));
    fs::write(&damaged, b"same content").unwrap();
    let missing = cluster.volumes[1].addr();
    cluster.volumes[1].stop();
    lose_index(&cluster.master);
    cluster.master.job(&["rebuild", "--allow-missing", &missing]);
    cluster.volumes[1].start_again();
    cluster.master.job(&["repair"]);
    assert_eq!(fs::read(&good).unwrap(), b"some content");
}

#[test]
fn a_listing_that_is_cut_off_or_no_json_ends_the_job() {
    let answers: [(&str, &str); 3] = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n[\r\n{ \"name\":\"ab\", \"type\":\"directory\" },\r\n",
            "answer",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[\r\n", "ends in the middle"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n<html></html>\n", "where JSON should be"),
    ];
    for (answer, expected) in answers {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let addr = listener.local_addr().expect("it is bound").to_string();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| serve(stream, answer)));
        let master = Master::builder(&addr).flag("replicas", "1").build();
        let (status, said) = master.job(&["rebuild"]);
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{expected} is not in\n{said}");
        assert!(!master.db().exists() && siblings(master.db(), ".new-").is_empty());
    }
}

/// No cluster id, and `answer` to every other request.
fn serve(mut stream: TcpStream, answer: &str) {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => request.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    let is_id = request.starts_with(b"GET /=cluster");
    let _ = stream.write_all(if is_id { none } else { answer }.as_bytes());
}

/// When a rebuild is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// At any time between its begin and its end.
    Any,
    /// When what was written is being made durable, shortly before the exchange.
    Completing,
    /// As soon as the index that was in use is no longer in its place.
    Exchanging,
}

/// Waits for a moment of a rebuild that takes about `whole`, or for its end.
fn wait_for_moment(job: &mut Child, moment: Moment, db: &Path, whole: Duration, random: &mut Random) {
    let began_tables = || {
        let files =
            siblings(db, ".new-").into_iter().flat_map(|copy| fs::read_dir(copy).into_iter().flatten());
        files.flatten().any(|file| file.path().extension().is_some_and(|end| end == "ldb"))
    };
    let mut is_over = || job.try_wait().expect("it is our child").is_some();
    match moment {
        Moment::Any => std::thread::sleep(whole * random.below(1000) as u32 / 1000),
        Moment::Completing => {
            while !began_tables() && !is_over() {}
            std::thread::sleep(Duration::from_micros(random.below(5000)));
        }
        Moment::Exchanging => while siblings(db, ".old-").is_empty() && !is_over() {},
    }
}

#[test]
fn killed_at_any_moment_it_can_be_run_again_and_a_server_is_not_misled() {
    let mut cluster = Cluster::start();
    (0..300).for_each(|number| cluster.master.put(&format!("/k{number}"), b"x"));
    assert!(cluster.master.stop().success());
    let before = lines_of(cluster.master.db());
    lose_index(&cluster.master);
    let begun = Instant::now();
    rebuild(&cluster.master, &[]);
    let whole = begun.elapsed();
    let (mut random, mut cut_off) = (Random::new(1), 0);
    for _ in 0..12 {
        lose_index(&cluster.master);
        let mut job = cluster.master.begin_job(&["rebuild", "-q"]);
        wait_for_moment(&mut job, Moment::Any, cluster.master.db(), whole, &mut random);
        let _ = job.kill();
        cut_off += u32::from(!job.wait().expect("it is our child").success());
        if !siblings(cluster.master.db(), ".new-").is_empty() && !cluster.master.db().exists() {
            let (status, said) = cluster.master.job(&["server"]);
            assert!(!status.success() && said.contains("doesn't exist"), "{said}");
        }
    }
    assert!(cut_off > 4, "{cut_off} of 12");
    rebuild(&cluster.master, &[]);
    same(&before, &lines_of(cluster.master.db()));
    assert!(siblings(cluster.master.db(), ".new-").is_empty());
}

/// The old one has a key of which the volumes know nothing, so it can be told from the new one.
#[test]
fn killed_at_any_moment_there_is_the_old_index_or_the_new_one_and_the_old_one_is_kept() {
    let mut cluster = Cluster::start();
    (0..60).for_each(|number| cluster.master.put(&format!("/k{number}"), format!("{number}").as_bytes()));
    let files = cluster.files();
    cluster.master.put("/in-the-old-one", b"x");
    assert!(cluster.master.stop().success());
    for volume in &cluster.volumes {
        let path = |name: &String| format!("{}/{name}", volume.addr());
        for name in volume.files().iter().filter(|name| *name != "=cluster" && !files.contains(&path(name))) {
            fs::remove_file(volume.dir().join(name)).expect("it is there");
        }
    }
    let (db, saved) = (cluster.master.db().to_owned(), cluster.master.own_dir().join("saved"));
    let old = lines_of(&db);
    copy_index(&db, &saved);
    let begun = Instant::now();
    rebuild(&cluster.master, &[]);
    let whole = begun.elapsed();
    let new = lines_of(&db);
    let of_the_old = |line: &&String| !line.starts_with("/in-the-old-one = ");
    assert!(old.len() == new.len() + 1 && old.iter().filter(of_the_old).eq(&new));
    let remove = |infix| siblings(&db, infix).into_iter().for_each(|dir| fs::remove_dir_all(dir).unwrap());
    let mut random = Random::new(2);
    let (mut cut_off, mut were_old, mut were_new, mut were_between) = (0, 0, 0, 0);
    let moments = [Moment::Any, Moment::Completing, Moment::Exchanging];
    for (round, moment) in moments.into_iter().cycle().take(18).enumerate() {
        remove(".old-");
        fs::remove_dir_all(&db).expect("it was rebuilt");
        copy_index(&saved, &db);
        let mut job = cluster.master.begin_job(&["rebuild", "-q"]);
        wait_for_moment(&mut job, moment, &db, whole, &mut random);
        let _ = job.kill();
        cut_off += u32::from(!job.wait().expect("it is our child").success());
        let kept = siblings(&db, ".old-");
        were_between += u32::from(!db.exists());
        // Whoever opens it finishes an exchange that was cut off, and so does the next rebuild.
        if db.exists() || round % 2 == 0 {
            let found = lines_of(&db);
            assert!(found == old || found == new, "{moment:?}, round {round}: {found:#?}");
            were_old += u32::from(found == old);
            were_new += u32::from(found == new);
            assert_eq!(kept.len(), usize::from(found == new), "{moment:?}, round {round}");
        }
        rebuild(&cluster.master, &["-q"]);
        assert_eq!(lines_of(&db), new, "{moment:?}, round {round}");
        assert!(siblings(&db, ".new-").is_empty());
        assert_eq!(siblings(&db, ".old-").len(), kept.len() + 1, "{moment:?}, round {round}");
        let first = siblings(&db, ".old-").into_iter().min().expect("it was just counted");
        assert_eq!(lines_of(&first), old, "{moment:?}, round {round}");
    }
    println!("{cut_off} of 18 killed; {were_old} old, {were_new} new, {were_between} in the exchange");
    assert!(cut_off > 9, "{cut_off} of 18");
    assert!(
        were_old > 0 && were_new + were_between > 0,
        "{were_old} old, {were_new} new, {were_between} between"
    );
    cluster.master.start_again();
    for number in 0..60 {
        assert_eq!(cluster.master.fetch(&format!("/k{number}")), (200, format!("{number}").into_bytes()));
    }
}

fn copy_index(from: &Path, to: &Path) {
    fs::create_dir(to).expect("it isn't there");
    for file in fs::read_dir(from).expect("it is there").flatten() {
        fs::copy(file.path(), to.join(file.file_name())).expect("an index is a folder of files");
    }
}

/// Or what was complete would be thrown away by a rebuild that then can't read a volume.
#[test]
fn an_exchange_that_was_cut_off_is_finished_before_anything_is_made_anew() {
    let mut cluster = Cluster::start();
    (0..20).for_each(|number| cluster.master.put(&format!("/k{number}"), b"x"));
    assert!(cluster.master.stop().success());
    let db = cluster.master.db().to_owned();
    let before = lines_of(&db);
    let beside = |end: &str| PathBuf::from(format!("{}{end}", db.display()));
    copy_index(&db, &beside(".new-7"));
    fs::rename(&db, beside(".old-7")).expect("nobody has it open");
    cluster.volumes[0].stop();
    let (status, said) = cluster.master.job(&["rebuild"]);
    assert!(status.code() == Some(1) && said.contains("nothing was changed"), "{said}");
    assert!(db.exists() && siblings(&db, ".new-").is_empty(), "{said}");
    same(&before, &lines_of(&db));
    cluster.volumes[0].start_again();
    rebuild(&cluster.master, &[]);
    same(&before, &lines_of(&db));
    assert_eq!(siblings(&db, ".old-").len(), 2);
}

#[test]
fn an_index_in_use_and_a_directory_of_something_else_are_refused() {
    let cluster = Cluster::start();
    cluster.master.put("/k", b"x");
    let (status, said) = cluster.master.job(&["rebuild"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("is in use by another process"), "{said}");
    let dir = cluster.master.own_dir().join("holiday");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("photo"), b"x").unwrap();
    let master = Master::builder(&addresses(&cluster.volumes)).db(&dir).build();
    let (status, said) = master.job(&["rebuild"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("which is no part of an index") && dir.join("photo").exists(), "{said}");
    assert_eq!(cluster.master.fetch("/k"), (200, b"x".to_vec()));
}

/// Nobody's volume has to be there to know that it can't be done.
#[test]
fn an_index_in_use_is_told_before_any_volume_is_asked() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    master.put("/k", b"x");
    // Hangs as long as anybody waits for it.
    let hanging = TcpStub::silent();
    let all = format!("{},{}", addresses(&volumes), hanging.addr());
    let there = Master::builder(&all).flag("voltimeout", "1m").db(master.db()).build();
    let leaving = volumes[0].addr();
    for words in [
        &["rebuild"][..],
        &["rebalance"],
        &["rebalance", "--dry-run"],
        &["scrub"],
        &["repair"],
        &["drain", &leaving],
        &["undrain", &leaving],
        &["volume-mode", &leaving, "down"],
        &["forget", &leaving],
        &["verify-index"],
    ] {
        let log = there.own_dir().join("log");
        let mut job = there.begin_logged_job(words, &log);
        let status = wait_for("the job ends", || job.try_wait().expect("it is our child"));
        let said = fs::read_to_string(&log).expect("it was created");
        assert_eq!(status.code(), Some(1), "{words:?}: {said}");
        let is_told = said.contains("is in use by another process");
        assert!(is_told && said.lines().count() == 1, "{words:?}: {said}");
    }
    assert_eq!(hanging.accepted(), 0);
    assert!(siblings(master.db(), ".new-").is_empty());
    assert_eq!(master.fetch("/k"), (200, b"x".to_vec()));
}
