//! What lies on the volumes is held against the index, and what is damaged is made anew from what is not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use minikeyvalue::index::leveldb;
use minikeyvalue::index::table::{Change, Entry, Table};
use minikeyvalue::model::{File, Key, Md5, Record, Sidecar, State};

use crate::harness::{
    Cluster, Master, Volume, addresses, age, entries_of, eventually, file_at, placer, write,
};

/// What a scrub said, one finding for each line: kind, key and volume.
type Findings = Vec<(String, String, String)>;

/// Runs `words --json` and answers what was found and is left, sorted, and what was mended.
#[track_caller]
fn findings(master: &Master, words: &[&str]) -> (Findings, Findings) {
    let (status, said) = master.job_output(&[words, &["--json"]].concat());
    let (mut left, mut mended) = (Vec::new(), Vec::new());
    for line in said.lines() {
        let finding: serde_json::Value = serde_json::from_str(line).expect(line);
        let text = |name: &str| finding[name].as_str().unwrap_or("").to_owned();
        let what = (text("kind"), text("key"), text("volume"));
        if finding["mended"] == true { &mut mended } else { &mut left }.push(what);
    }
    assert_eq!(status.code(), Some(i32::from(!left.is_empty())), "{words:?}\n{said}");
    left.sort();
    mended.sort();
    (left, mended)
}

/// How many there are of each kind.
fn kinds(findings: &Findings) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    findings.iter().for_each(|(kind, ..)| *kinds.entry(kind.clone()).or_default() += 1);
    kinds
}

fn record_of(master: &Master, key: &str) -> Record {
    let key = Key::from_request_path(key).unwrap();
    let entry = entries_of(master.db()).into_iter().find(|(other, _)| other == key.as_bytes());
    Record::parse(&entry.expect("it has a record").1).unwrap()
}

/// The file of replica `index` of a key.
fn replica_file(master: &Master, volumes: &[Volume], key: &str, index: usize) -> PathBuf {
    let record = record_of(master, key);
    file_at(volumes, &record.replicas[index], key, File::Blob(record.generation))
}

fn flip_a_bit(path: &Path) {
    let mut content = fs::read(path).expect("the replica is there");
    content[3] ^= 1;
    fs::write(path, content).expect("it can be written");
}

fn state_of(master: &Master) -> serde_json::Value {
    serde_json::from_slice(&fs::read(master.state_file()).expect("it is there")).expect("it is JSON")
}

const DAYS: Duration = Duration::from_secs(3 * 24 * 60 * 60);

#[test]
fn a_clean_cluster_is_called_clean_and_it_is_remembered_when() {
    let mut cluster = Cluster::start();
    (0..50).for_each(|number| cluster.master.put(&format!("/{number}"), b"some content"));
    (0..5).for_each(|number| {
        assert_eq!(cluster.master.call("UNLINK", &format!("/{number}"), b"").status, 204);
        assert_eq!(cluster.master.call("REPLACE", &format!("/1{number}"), b"more").status, 204);
    });
    eventually("old versions are removed", || {
        cluster.files().iter().filter(|file| !file.ends_with(".meta")).count() == 150
    });
    assert!(cluster.master.stop().success());
    for words in [&["scrub", "--quick"][..], &["scrub"], &["repair"]] {
        let (left, mended) = findings(&cluster.master, words);
        assert_eq!((left, mended), (vec![], vec![]), "{words:?}");
    }
    let (status, said) = cluster.master.job(&["scrub"]);
    assert!(status.success() && said.contains("50 keys"), "{said}");
    let state = state_of(&cluster.master);
    assert_eq!((&state["last_scrub"]["keys"], &state["last_scrub"]["left"]), (&50.into(), &0.into()));
    assert_eq!(state["last_scrub"]["bytes"], 3 * (45 * 12 + 5 * 4));
    for volume in &cluster.volumes {
        assert!(state["clean"][volume.addr()]["contents_us"].as_u64() > Some(0), "{state}");
    }
}

#[test]
fn every_kind_of_damage_is_found_and_what_has_a_good_copy_is_mended() {
    let mut cluster = Cluster::start();
    let body = |key: &str| format!("the content of {key}").into_bytes();
    let keys =
        ["/absent", "/flipped", "/short", "/empty", "/gone", "/revived", "/replaced", "/directory", "/fine"];
    keys.iter().for_each(|key| cluster.master.put(key, &body(key)));
    assert_eq!(cluster.master.call("REPLACE", "/replaced", &body("/replaced")).status, 204);
    assert_eq!(cluster.master.call("UNLINK", "/fine", b"").status, 204);
    eventually("the old version is removed", || {
        cluster.files().iter().filter(|file| !file.ends_with(".meta")).count() == 3 * keys.len()
    });
    assert!(cluster.master.stop().success());
    let (master, volumes) = (&cluster.master, &cluster.volumes);
    let replica = |key: &str, index| replica_file(master, volumes, key, index);
    fs::remove_file(replica("/absent", 0)).unwrap();
    flip_a_bit(&replica("/flipped", 1));
    fs::write(replica("/short", 2), b"the").unwrap();
    fs::write(replica("/empty", 0), b"").unwrap();
    (0..3).for_each(|index| fs::remove_file(replica("/gone", index)).unwrap());
    fs::remove_file(replica("/directory", 1)).unwrap();
    let directory = replica("/directory", 1);
    fs::create_dir(&directory).unwrap();
    // A volume that was away when the key was written again, and what else may lie about.
    let replaced = record_of(master, "/replaced").replicas[0].clone();
    write(&file_at(volumes, &replaced, "/replaced", File::Blob(None)), b"an old version");
    let stranger = placer(volumes, 1);
    let orphan = stranger.placement(b"/orphan")[0].clone();
    write(&file_at(volumes, &orphan, "/orphan", File::Blob(None)), b"nobody knows it");
    write(&file_at(volumes, &orphan, "/orphan", File::Sidecar), br#"{"state":"live","state_time":1}"#);
    let revived = record_of(master, "/revived").replicas[0].clone();
    let sidecar = br#"{"state":"deleted","state_time":9999999999999999}"#;
    write(&file_at(volumes, &revived, "/revived", File::Sidecar), sidecar);

    let place = |key: &str, index: usize| record_of(master, key).replicas[index].to_string();
    let row = |kind: &str, key: &str, place: &str| (kind.to_owned(), key.to_owned(), place.to_owned());
    let mut quick = vec![
        row("under-replicated", "/absent", &place("/absent", 0)),
        row("corrupt", "/short", &place("/short", 2)),
        row("corrupt", "/empty", &place("/empty", 0)),
        row("missing", "/gone", ""),
        row("under-replicated", "/gone", &place("/gone", 0)),
        row("under-replicated", "/gone", &place("/gone", 1)),
        row("under-replicated", "/gone", &place("/gone", 2)),
        row("under-replicated", "/directory", &place("/directory", 1)),
        row("leftover", "/replaced", replaced.as_str()),
        row("orphan", "/orphan", orphan.as_str()),
        row("stray-sidecar", "/orphan", orphan.as_str()),
        row("wrong-sidecar", "/revived", ""),
    ];
    quick.sort();
    let before = cluster.files();
    assert_eq!(findings(master, &["scrub", "--quick"]), (quick.clone(), vec![]));
    let mut all = quick;
    all.push(row("corrupt", "/flipped", &place("/flipped", 1)));
    all.sort();
    assert_eq!(findings(master, &["scrub"]), (all.clone(), vec![]));
    assert_eq!(cluster.files(), before, "a scrub changes nothing");

    let (left, mended) = findings(master, &["repair"]);
    let is_stray = |kind: &str| ["leftover", "orphan", "stray-sidecar"].contains(&kind);
    let is_lost =
        |(kind, key, _): &&(String, String, String)| is_stray(kind) || key == "/gone" || key == "/directory";
    let mut lost: Findings = all.iter().filter(is_lost).cloned().collect();
    // What can't be put back is not named any more.
    lost.iter_mut().filter(|(_, key, _)| key == "/directory").for_each(|(.., place)| place.clear());
    lost.sort();
    assert_eq!(left, lost);
    assert_eq!(mended, all.iter().filter(|row| !is_lost(row)).cloned().collect::<Vec<_>>());
    fs::remove_dir(&directory).unwrap();
    assert_eq!(findings(master, &["repair"]).1, [row("under-replicated", "/directory", "")]);
    // Every replica by itself.
    for key in keys.iter().filter(|key| **key != "/gone") {
        (0..3)
            .for_each(|index| assert_eq!(fs::read(replica(key, index)).unwrap(), body(key), "{key} {index}"));
    }
    // A rebuild believes it too.
    fs::rename(master.db(), master.own_dir().join("lost")).unwrap();
    let (_, said) = master.job(&["rebuild"]);
    assert_eq!(record_of(master, "/revived").state, State::Live, "{said}");
    assert_eq!(
        record_of(master, "/revived").md5.map(|md5| md5.to_string()),
        Some(format!("{:x}", md5::compute(body("/revived"))))
    );
}

/// A stopped cluster with blobs and, at paths that no record names, files of the given age.
fn with_orphans(blobs: usize, orphans: &[(&str, Duration)]) -> Cluster {
    let mut cluster = Cluster::start();
    (0..blobs).for_each(|number| cluster.master.put(&format!("/{number}"), b"some content"));
    assert!(cluster.master.stop().success());
    let places = placer(&cluster.volumes, 1);
    for (key, old) in orphans {
        let path = file_at(&cluster.volumes, &places.placement(key.as_bytes())[0], key, File::Blob(None));
        write(&path, b"nobody knows it");
        age(&path, *old);
    }
    cluster
}

/// The index is as old as it must be to know what is older than a day.
fn make_the_index_old(master: &Master) {
    findings(master, &["scrub", "--quick"]);
    let mut state = state_of(master);
    let since_us = state["index"]["since_us"].as_u64().expect("it is known");
    state["index"]["since_us"] = (since_us - 10 * 86_400_000_000).into();
    fs::write(master.state_file(), state.to_string()).unwrap();
}

#[test]
fn orphans_are_removed_only_when_asked_for_and_with_care() {
    let cluster = with_orphans(50, &[("/old", DAYS), ("/young", Duration::from_secs(3600))]);
    let master = &cluster.master;
    let left =
        |words: &[&str]| findings(master, words).0.into_iter().map(|(_, key, _)| key).collect::<Vec<_>>();
    assert_eq!(left(&["repair"]), ["/old", "/young"]);
    assert_eq!(
        left(&["repair", "--delete-orphans"]),
        ["/old", "/young"],
        "the index is younger than the old one"
    );
    make_the_index_old(master);
    assert_eq!(left(&["repair", "--delete-orphans"]), ["/young"]);
    assert_eq!(cluster.files().len(), 50 * 3 + 1);
    assert_eq!(left(&["repair", "--delete-orphans", "--force"]), ["/young"], "a day is a day");
}

#[test]
fn too_many_orphans_are_a_sign_that_the_index_is_wrong() {
    let names: Vec<String> = (0..10).map(|number| format!("/orphan/{number}")).collect();
    let orphans: Vec<(&str, Duration)> = names.iter().map(|name| (name.as_str(), DAYS)).collect();
    let cluster = with_orphans(20, &orphans);
    make_the_index_old(&cluster.master);
    let (left, mended) = findings(&cluster.master, &["repair", "--delete-orphans"]);
    assert_eq!(kinds(&left), BTreeMap::from([("orphan".into(), 10), ("other".into(), 1)]));
    assert_eq!((mended, cluster.files().len()), (vec![], 70));
    let (left, mended) = findings(&cluster.master, &["repair", "--delete-orphans", "--force"]);
    assert_eq!((left, mended.len(), cluster.files().len()), (vec![], 10, 60));
}

#[test]
fn without_an_md5_most_replicas_decide_or_nobody() {
    let mut cluster = Cluster::of(3, |master| master.flag("md5sum", "false"));
    let keys = ["/two-to-one", "/all-differ", "/one-left"];
    keys.iter().for_each(|key| cluster.master.put(key, b"some content"));
    assert!(cluster.master.stop().success());
    let (master, volumes) = (&cluster.master, &cluster.volumes);
    let replica = |key: &str, index| replica_file(master, volumes, key, index);
    fs::write(replica("/two-to-one", 0), b"same content").unwrap();
    fs::write(replica("/all-differ", 0), b"same content").unwrap();
    fs::write(replica("/all-differ", 1), b"lame content").unwrap();
    (0..2).for_each(|index| fs::remove_file(replica("/one-left", index)).unwrap());
    let (left, mended) = findings(master, &["repair"]);
    assert_eq!(kinds(&left), BTreeMap::from([("undecided".into(), 1)]));
    assert_eq!(kinds(&mended), BTreeMap::from([("corrupt".into(), 1), ("under-replicated".into(), 2)]));
    for key in ["/two-to-one", "/one-left"] {
        (0..3).for_each(|index| assert_eq!(fs::read(replica(key, index)).unwrap(), b"some content", "{key}"));
    }
    let contents: Vec<Vec<u8>> =
        (0..3).map(|index| fs::read(replica("/all-differ", index)).unwrap()).collect();
    assert_eq!(contents, [b"same content", b"lame content", b"some content"], "nobody is called wrong");
    assert_eq!(state_of(master)["clean"], serde_json::json!({}), "each may have the wrong one");
}

/// The replica that does not answer may be the one that is right; a copy of the other would outvote it when it is back.
#[test]
fn without_an_md5_no_replica_is_believed_while_another_is_away() {
    let mut cluster = Cluster::of(3, |master| master.flag("md5sum", "false"));
    cluster.master.put("/a", b"some content");
    assert!(cluster.master.stop().success());
    let paths = [0, 1, 2].map(|index| replica_file(&cluster.master, &cluster.volumes, "/a", index));
    let first = record_of(&cluster.master, "/a").replicas[0].volume();
    let away = cluster.volumes.iter().position(|volume| volume.addr() == first.as_str()).unwrap();
    flip_a_bit(&paths[1]);
    fs::remove_file(&paths[2]).unwrap();
    cluster.volumes[away].stop();
    findings(&cluster.master, &["repair"]);
    cluster.volumes[away].start_again();
    findings(&cluster.master, &["repair"]);
    assert_eq!(fs::read(&paths[0]).unwrap(), b"some content");
}

/// Every replica is damaged, each in another way, and the MD5 says that none is right: there is nothing to restore from.
#[test]
fn what_is_damaged_everywhere_is_told_and_not_touched() {
    let mut cluster = Cluster::start();
    cluster.master.put("/a", b"some content");
    assert!(cluster.master.stop().success());
    let paths = [0, 1, 2].map(|index| replica_file(&cluster.master, &cluster.volumes, "/a", index));
    let damaged: [&[u8]; 3] = [b"lame content", b"same content", b"short"];
    paths.iter().zip(damaged).for_each(|(path, content)| fs::write(path, content).unwrap());
    for words in [&["repair"][..], &["repair", "--quick"], &["rebalance"], &["scrub"]] {
        cluster.master.job(words);
        let found = paths.each_ref().map(|path| fs::read(path).unwrap());
        assert_eq!(found, damaged, "{words:?}");
    }
    let (left, _) = findings(&cluster.master, &["repair"]);
    assert_eq!(kinds(&left), BTreeMap::from([("corrupt".into(), 3), ("missing".into(), 1)]));
}

/// Two files that no record names, where all replicas are lost and no MD5 is known: either could be the blob.
#[test]
fn orphans_that_differ_are_not_taken_for_a_lost_blob() {
    let mut cluster = Cluster::of(5, |master| master.flag("md5sum", "false"));
    cluster.master.put("/a", b"some content");
    assert!(cluster.master.stop().success());
    let (master, volumes) = (&cluster.master, &cluster.volumes);
    let ranked = placer(volumes, 3).ranked(b"/a");
    (0..3).for_each(|index| fs::remove_file(replica_file(master, volumes, "/a", index)).unwrap());
    for (place, content) in ranked[3..].iter().zip([b"same content", b"some content"]) {
        let path = file_at(volumes, place, "/a", File::Blob(None));
        write(&path, content);
        age(&path, DAYS);
    }
    let (left, mended) = findings(master, &["repair"]);
    assert_eq!((kinds(&left).get("orphan"), kinds(&left).get("missing")), (Some(&2), Some(&1)), "{left:?}");
    assert_eq!((mended, record_of(master, "/a").replicas.len()), (vec![], 3));
    fs::remove_file(file_at(volumes, &ranked[3], "/a", File::Blob(None))).unwrap();
    assert_eq!(kinds(&findings(master, &["repair"]).1), BTreeMap::from([("orphan".into(), 1)]));
    assert_eq!(fs::read(replica_file(master, volumes, "/a", 0)).unwrap(), b"some content");
}

/// A tombstone goes when the last blob has gone, or a rebuild would revive that.
#[test]
fn a_tombstone_is_not_removed_before_its_blob() {
    let cluster = with_orphans(50, &[("/young", Duration::from_secs(3600))]);
    let (master, volumes) = (&cluster.master, &cluster.volumes);
    let place = placer(volumes, 2).placement(b"/young")[1].clone();
    let tombstone = file_at(volumes, &place, "/young", File::Sidecar);
    write(&tombstone, br#"{"state":"deleted","state_time":9}"#);
    age(&tombstone, DAYS);
    let (left, _) = findings(master, &["repair", "--delete-orphans", "--force"]);
    assert_eq!(kinds(&left), BTreeMap::from([("orphan".into(), 1), ("stray-sidecar".into(), 1)]));
    assert!(tombstone.exists());
    age(&file_at(volumes, &placer(volumes, 1).placement(b"/young")[0], "/young", File::Blob(None)), DAYS);
    assert_eq!(findings(master, &["repair", "--delete-orphans", "--force"]).0, []);
    assert!(!tombstone.exists());
}

/// Its clock was ahead when a sidecar was written that its volume has come back with.
#[test]
fn sidecars_that_are_dated_later_are_outdone() {
    let mut cluster = Cluster::of(4, |master| master);
    cluster.master.put("/a", b"some content");
    assert!(cluster.master.stop().success());
    let (master, volumes) = (&cluster.master, &cluster.volumes);
    let stranger = placer(volumes, 3).ranked(b"/a")[3].clone();
    let sidecar = br#"{"state":"deleted","state_time":9999999999999999}"#;
    write(&file_at(volumes, &stranger, "/a", File::Sidecar), sidecar);
    let (_, mended) = findings(master, &["repair"]);
    assert_eq!(kinds(&mended), BTreeMap::from([("wrong-sidecar".into(), 1)]));
    fs::rename(master.db(), master.own_dir().join("lost")).unwrap();
    let (_, said) = master.job(&["rebuild"]);
    assert_eq!(record_of(master, "/a").state, State::Live, "{said}");
}

#[test]
fn a_scrub_fills_in_the_md5_that_nothing_told() {
    let mut cluster = Cluster::of(3, |master| master.flag("md5sum", "false"));
    cluster.master.put("/a", b"some content");
    assert!(cluster.master.stop().success());
    let with_md5 = Master::builder(&addresses(&cluster.volumes)).db(cluster.master.db()).build();
    assert_eq!(findings(&with_md5, &["scrub", "--quick"]).0, []);
    assert_eq!(record_of(&with_md5, "/a").md5, None);
    assert_eq!(findings(&with_md5, &["scrub"]).0, []);
    let md5 = Md5::parse(&format!("{:x}", md5::compute(b"some content")));
    assert_eq!(record_of(&with_md5, "/a").md5, md5);
}

#[test]
fn the_last_replica_is_taken_back_wherever_it_lies() {
    let mut cluster = Cluster::of(5, |master| master);
    let keys: Vec<String> = (0..6).map(|number| format!("/{number}")).collect();
    keys.iter().for_each(|key| cluster.master.put(key, key.as_bytes()));
    assert!(cluster.master.stop().success());
    let (master, volumes) = (&cluster.master, &cluster.volumes);
    let placer = placer(volumes, 3);
    for key in &keys {
        let elsewhere = placer.ranked(key.as_bytes())[4].clone();
        write(&file_at(volumes, &elsewhere, key, File::Blob(None)), key.as_bytes());
        age(&file_at(volumes, &elsewhere, key, File::Blob(None)), DAYS);
        (0..3).for_each(|index| fs::remove_file(replica_file(master, volumes, key, index)).unwrap());
    }
    let (_, mended) = findings(master, &["repair", "--delete-orphans", "--force"]);
    assert_eq!(kinds(&mended), BTreeMap::from([("orphan".into(), 6)]));
    assert_eq!(findings(master, &["scrub"]), (vec![], vec![]));
    cluster.master.start_again();
    keys.iter().for_each(|key| assert_eq!(cluster.master.fetch(key), (200, key.clone().into_bytes())));
    assert_eq!(cluster.files().len(), 18);
}

#[test]
fn a_volume_that_is_away_is_said_and_mended_around() {
    let mut cluster = Cluster::of(5, |master| master);
    (0..30).for_each(|number| cluster.master.put(&format!("/{number}"), b"some content"));
    assert!(cluster.master.stop().success());
    let away = cluster.volumes[0].addr();
    cluster.volumes[0].stop();
    let (left, mended) = findings(&cluster.master, &["repair", "--quick"]);
    assert!(
        left.iter().all(|(kind, _, place)| kind == "unreachable" && place.starts_with(&away)),
        "{left:?}"
    );
    assert!(left.len() > 3 && mended.is_empty(), "{left:?} {mended:?}");
    assert_eq!(state_of(&cluster.master)["clean"][&away], serde_json::Value::Null);
    cluster.volumes[0].start_again();
    assert_eq!(findings(&cluster.master, &["scrub"]), (vec![], vec![]));
}

/// No record names it any more, so nothing about it is wrong, and nobody has looked.
#[test]
fn a_volume_that_is_passed_over_is_not_called_clean() {
    let mut cluster = Cluster::of(5, |master| master);
    (0..10).for_each(|number| cluster.master.put(&format!("/{number}"), b"some content"));
    assert!(cluster.master.stop().success());
    let (gone, other) = (cluster.volumes[0].addr(), cluster.volumes[1].addr());
    cluster.volumes[0].stop();
    assert!(cluster.master.job(&["volume-mode", &gone, "down"]).0.success());
    cluster.master.job(&["repair", "--quick"]);
    assert_eq!(findings(&cluster.master, &["scrub"]), (vec![], vec![]));
    let clean = &state_of(&cluster.master)["clean"];
    assert_eq!((clean[&gone].is_null(), clean[&other].is_null()), (true, false), "{clean}");
}

/// As after a change of `--volumes` that moves nothing but the first place.
#[test]
fn replicas_in_another_order_are_told_and_cost_a_rebalance_no_transfer() {
    let mut cluster = Cluster::start();
    (0..20).for_each(|number| cluster.master.put(&format!("/k{number}"), b"content"));
    assert!(cluster.master.stop().success());
    let right = entries_of(cluster.master.db());
    let changes: Vec<Change> = right.iter().filter(|(key, _)| key.starts_with(b"/")).map(reversed).collect();
    assert_eq!(changes.len(), 20);
    let mut table = leveldb::open(cluster.master.db(), leveldb::Options::default()).expect("nobody has it");
    table.write(&changes).expect("it can be written");
    Box::new(table).close().expect("it can be closed");
    let (found, _) = findings(&cluster.master, &["scrub"]);
    assert_eq!(kinds(&found), BTreeMap::from([("misplaced".to_owned(), 20)]));
    let files = |cluster: &Cluster| -> Vec<(PathBuf, SystemTime, u64)> {
        let paths = cluster.volumes.iter().flat_map(|volume| {
            volume.files().into_iter().map(|file| volume.dir().join(file)).collect::<Vec<_>>()
        });
        let seen = |path: PathBuf| {
            let meta = fs::metadata(&path).expect("it is there");
            (path, meta.modified().expect("it has a time"), meta.ino())
        };
        paths.map(seen).collect()
    };
    let before = files(&cluster);
    let (status, said) = cluster.master.job(&["rebalance"]);
    assert!(status.success(), "{said}");
    assert_eq!(files(&cluster), before, "no file was touched");
    assert_eq!(entries_of(cluster.master.db()), right);
    let (found, _) = findings(&cluster.master, &["scrub"]);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_terminal_is_shown_a_bar_with_rate_and_time_left() {
    let mut cluster = Cluster::start();
    (0..30).for_each(|number| cluster.master.put(&format!("/k{number}"), b"content"));
    assert!(cluster.master.stop().success());
    let (program, db) = (env!("CARGO_BIN_EXE_mkv"), cluster.master.db().display());
    let volumes = addresses(&cluster.volumes);
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!("stty cols 200; exec '{program}' --db '{db}' --volumes {volumes} scrub --rate 10"))
        .arg("/dev/null")
        .stdin(Stdio::null())
        .output()
        .expect("util-linux is there");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    for part in ["█", "/30 ", " B/s", " left"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}

/// A record with its replicas backwards.
fn reversed((key, value): &Entry) -> Change {
    let mut record = Record::parse(value).expect("it is a record");
    record.replicas.reverse();
    Change::Put { key: key.clone(), value: record.to_value() }
}

#[test]
fn an_index_that_a_server_has_is_left_alone() {
    let mut cluster = Cluster::start();
    let volume = cluster.volumes[0].addr();
    let jobs: [&[&str]; 9] = [
        &["rebuild", "-q"],
        &["rebalance", "-q"],
        &["rebalance", "--dry-run", "-q"],
        &["scrub", "-q"],
        &["repair", "-q"],
        &["drain", &volume, "-q"],
        &["forget", "gone:1", "-q"],
        &["volume-mode", &volume, "readonly"],
        &["verify-index", "-q"],
    ];
    let refused = |master: &Master| {
        for words in jobs {
            let (status, said) = master.job(words);
            assert_eq!(status.code(), Some(1), "{words:?}: {said}");
            let is_one_line = said.trim().lines().count() == 1;
            assert!(is_one_line && said.contains("is in use by another process"), "{words:?}: {said}");
        }
    };
    refused(&cluster.master);
    // Neither has two jobs at once.
    (0..60).for_each(|number| cluster.master.put(&format!("/{number}"), b"x"));
    assert!(cluster.master.stop().success());
    let mut first = cluster.master.begin_job(&["scrub", "--rate", "1"]);
    let has_index = || {
        let open = fs::read_dir(format!("/proc/{}/fd", first.id())).into_iter().flatten().flatten();
        open.filter_map(|file| fs::read_link(file.path()).ok()).any(|path| path.ends_with("LOCK"))
    };
    eventually("it is at work", has_index);
    refused(&cluster.master);
    first.kill().expect("it is our child");
    first.wait().expect("it is our child");
}

/// As a Go original has left them: files of an earlier version at places that the record doesn't name. They are more than the
/// replicas that it does, and no MD5 says which is right.
#[test]
fn files_that_no_record_names_do_not_outvote_a_replica() {
    let mut cluster = Cluster::of(3, |master| master.flag("md5sum", "false").flag("replicas", "1"));
    cluster.master.put("/a", b"some content");
    assert!(cluster.master.stop().success());
    let replica = replica_file(&cluster.master, &cluster.volumes, "/a", 0);
    let place = record_of(&cluster.master, "/a").replicas[0].clone();
    let grown = Master::builder(&addresses(&cluster.volumes)).flag("md5sum", "false").db(cluster.master.db());
    let (grown, ranked) = (grown.build(), placer(&cluster.volumes, 3).ranked(b"/a"));
    for other in ranked.iter().filter(|other| **other != place) {
        write(&file_at(&cluster.volumes, other, "/a", File::Blob(None)), b"old content!");
    }
    // Also when nobody can tell what the replica is.
    cluster.volume_of(place.as_str()).stop();
    let (left, mended) = findings(&grown, &["repair"]);
    assert!(kinds(&left).contains_key("unreachable") && mended.is_empty(), "{left:?} {mended:?}");
    assert_eq!(record_of(&grown, "/a").replicas, std::slice::from_ref(&place));
    cluster.volume_of(place.as_str()).start_again();
    findings(&grown, &["repair"]);
    assert_eq!(fs::read(&replica).unwrap(), b"some content");
    assert_eq!(findings(&grown, &["scrub"]), (vec![], vec![]));
    for index in 0..3 {
        assert_eq!(fs::read(replica_file(&grown, &cluster.volumes, "/a", index)).unwrap(), b"some content");
    }
}

/// The others say what it said; it is told once, and of its volume too, and written anew.
#[test]
fn a_sidecar_that_is_garbage_is_mended() {
    let mut cluster = Cluster::start();
    (0..20).for_each(|number| cluster.master.put(&format!("/{number}"), b"some content"));
    assert_eq!(cluster.master.call("REPLACE", "/a", b"some content").status, 201);
    assert_eq!(cluster.master.call("UNLINK", "/a", b"").status, 204);
    assert!(cluster.master.stop().success());
    let (master, volumes) = (&cluster.master, &cluster.volumes);
    let place = record_of(master, "/a").replicas[1].clone();
    let sidecar = file_at(volumes, &place, "/a", File::Sidecar);
    let before = fs::read(&sidecar).unwrap();
    for garbage in [&b"\xff{"[..], b"", &[b' '; 1 << 20]] {
        fs::write(&sidecar, garbage).unwrap();
        let expected = vec![("wrong-sidecar".to_owned(), "/a".to_owned(), place.to_string())];
        assert_eq!(findings(master, &["scrub"]), (expected.clone(), vec![]));
        let clean = state_of(master)["clean"].clone();
        assert_eq!(clean[place.volume().as_str()], serde_json::Value::Null, "{clean}");
        assert_eq!(findings(master, &["repair", "--delete-orphans"]), (vec![], expected));
        assert_eq!(
            Sidecar::parse(&fs::read(&sidecar).unwrap()).map(|now| now.state),
            Sidecar::parse(&before).map(|then| then.state)
        );
    }
    assert_eq!(findings(master, &["scrub"]), (vec![], vec![]));
}

/// It is asked for in another way after a repair than before, and what can't be told is no less so in other words.
#[test]
fn a_file_that_can_not_be_read_is_not_called_mended() {
    let mut cluster = Cluster::start();
    cluster.master.put("/a", b"some content");
    assert!(cluster.master.stop().success());
    let (place, path) = (
        record_of(&cluster.master, "/a").replicas[0].to_string(),
        replica_file(&cluster.master, &cluster.volumes, "/a", 0),
    );
    fs::remove_file(&path).unwrap();
    // nginx answers 403 for what leads to itself, whoever it runs as.
    std::os::unix::fs::symlink(path.file_name().unwrap(), &path).unwrap();
    let unreachable = vec![("unreachable".to_owned(), "/a".to_owned(), place)];
    assert_eq!(findings(&cluster.master, &["repair"]), (unreachable, vec![]));
    fs::remove_file(&path).unwrap();
    assert_eq!(findings(&cluster.master, &["repair"]).0, []);
    assert_eq!(fs::read(&path).unwrap(), b"some content");
}

/// One alone would be believed, and lost with its volume.
#[test]
fn a_sidecar_that_is_lost_is_written_anew_before_the_last_one_goes() {
    let mut cluster = Cluster::start();
    assert_eq!(cluster.master.call("REPLACE", "/plain", b"some content").status, 201);
    cluster.master.put("/replaced", b"old content");
    assert_eq!(cluster.master.call("REPLACE", "/replaced", b"some content").status, 204);
    cluster.master.put("/unlinked", b"some content");
    assert_eq!(cluster.master.call("UNLINK", "/unlinked", b"").status, 204);
    eventually("the old version is removed", || cluster.files().len() == 3 * 3 + 2 * 3);
    assert!(cluster.master.stop().success());
    let (master, volumes) = (&cluster.master, &cluster.volumes);
    let before = entries_of(master.db());
    let mut expected = Findings::new();
    for key in ["/replaced", "/unlinked"] {
        for place in &record_of(master, key).replicas[..2] {
            fs::remove_file(file_at(volumes, place, key, File::Sidecar)).unwrap();
            expected.push(("wrong-sidecar".to_owned(), key.to_owned(), place.to_string()));
        }
    }
    expected.sort();
    assert_eq!(findings(master, &["scrub"]), (expected.clone(), vec![]));
    assert_eq!(findings(master, &["repair"]), (vec![], expected));
    assert_eq!(findings(master, &["scrub"]), (vec![], vec![]));
    // The one that was left.
    for key in ["/replaced", "/unlinked"] {
        fs::remove_file(file_at(volumes, &record_of(master, key).replicas[2], key, File::Sidecar)).unwrap();
    }
    fs::rename(master.db(), master.own_dir().join("lost")).unwrap();
    let (status, said) = master.job(&["rebuild"]);
    assert!(status.success(), "{said}");
    let blobs =
        |entries: Vec<Entry>| entries.into_iter().filter(|(key, _)| key[0] == b'/').collect::<Vec<_>>();
    assert_eq!(blobs(entries_of(master.db())), blobs(before));
}
