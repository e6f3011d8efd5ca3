//! Who is who: whatever happens to names, drives and copies, no blob is lost by it and none comes back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use minikeyvalue::model::{File, Key, Replica, path_of};

use crate::harness::{
    Administered, Cluster, GoCluster, Master, TcpStub, TempDir, Volume, addresses, eventually, files_below,
    http, numbered, placer, volumes,
};

const KEYS: usize = 40;

fn body(key: &str) -> Vec<u8> {
    format!("content of {key}").repeat(20).into_bytes()
}

fn fill(master: &Master, kind: &str) {
    numbered(kind, KEYS).for_each(|key| master.put(&key, &body(&key)));
}

#[track_caller]
fn check(master: &Master, kind: &str) {
    for key in numbered(kind, KEYS) {
        assert!(master.fetch(&key) == (200, body(&key)), "{key}: {:?}", master.fetch(&key).0);
    }
}

/// The same server under its other name.
fn localhost(volume: &Volume) -> String {
    format!("localhost:{}", volume.port())
}

fn all_localhost(volumes: &[Volume]) -> String {
    volumes.iter().map(localhost).collect::<Vec<_>>().join(",")
}

/// Every blob on all volumes, with its inode: what is written again gets another.
fn blobs(volumes: &[Volume]) -> BTreeMap<PathBuf, u64> {
    use std::os::unix::fs::MetadataExt;
    let files = volumes.iter().flat_map(|volume| {
        let dir = volume.dir().to_owned();
        volume.files().into_iter().map(move |file| dir.join(file))
    });
    let is_blob =
        |path: &PathBuf| !path.ends_with("=cluster") && path.extension().is_none_or(|end| end != "meta");
    files
        .filter(is_blob)
        .map(|path| (path.clone(), fs::metadata(&path).expect("it is there").ino()))
        .collect()
}

/// How `mkv volumes` shows the volume of this name: its state, and why.
fn shown(master: &Administered, name: &str) -> (String, String) {
    let views = master.json("GET", "/api/volumes", "");
    let view =
        views.as_array().expect("a list").iter().find(|view| view["volume"] == name).expect("it is listed");
    let text = |field: &str| view[field].as_str().expect("it is text").to_owned();
    (text("state"), text("reason"))
}

fn exchange(one: &Path, other: &Path) {
    let aside = one.with_extension("aside");
    fs::rename(one, &aside).expect("it can be moved");
    fs::rename(other, one).expect("it can be moved");
    fs::rename(aside, other).expect("it can be moved");
}

#[test]
fn two_names_of_one_volume_are_refused_at_the_first_start() {
    let volumes = volumes(2);
    let names = format!("{},{}", localhost(&volumes[0]), addresses(&volumes));
    let (status, said) = Master::builder(&names).flag("replicas", "2").refusal();
    assert!(status.code() == Some(1) && said.contains("the same volume under two names"), "{said}");
    let (status, said) = Master::builder(&names).flag("replicas", "2").build().job(&["check"]);
    assert!(status.code() == Some(1) && said.contains("it is the same volume as"), "{said}");
}

#[test]
fn a_new_name_beside_the_old_one_is_refused() {
    let volumes = volumes(3);
    let mut master = Master::builder(&addresses(&volumes)).start();
    fill(&master, "k");
    master.stop();
    let names = format!("{},{}", localhost(&volumes[0]), addresses(&volumes));
    let (status, said) = Master::builder(&names).db(master.db()).refusal();
    let (old, new) = (volumes[0].addr(), localhost(&volumes[0]));
    assert!(
        status.code() == Some(1) && said.contains(&format!("{new} and {old} are the same volume")),
        "{said}"
    );
    for job in [&["rebalance"][..], &["drain", &old], &["repair"]] {
        let (status, said) = Master::builder(&names).db(master.db()).build().job(job);
        assert!(!status.success() && said.contains("are the same volume"), "{said}");
    }
    master.start_again();
    check(&master, "k");
}

/// With three replicas, a rebalance once removed every file that it had just "copied".
#[test]
fn all_volumes_get_other_names_and_every_job_keeps_every_file() {
    let volumes = volumes(3);
    let mut before = Master::builder(&addresses(&volumes)).start();
    fill(&before, "k");
    assert_eq!(before.call("UNLINK", "/k/0", b"").status, 204);
    before.stop();
    let files = blobs(&volumes);
    let after = Administered::start(Master::builder(&all_localhost(&volumes)).db(before.db()));
    numbered("k", KEYS).skip(1).for_each(|key| assert!(after.fetch(&key) == (200, body(&key)), "{key}"));
    let (old, new) = (volumes[0].addr(), localhost(&volumes[0]));
    let (ok, said) = after.job_words(&["rename", &old, &new, "-q"]);
    assert!(ok, "{said}");
    assert_eq!(blobs(&volumes), files, "rename touches no file");
    for job in ["repair", "rebalance", "repair", "scrub"] {
        let ended = after.job(job, r#"{"rate":"unlimited"}"#);
        assert!(ended["state"] == "done", "{ended}");
    }
    eventually("old copies are removed", || after.json("GET", "/api/status", "")["unsettled"] == 0);
    numbered("k", KEYS).skip(1).for_each(|key| assert!(after.fetch(&key) == (200, body(&key)), "{key}"));
    assert_eq!(blobs(&volumes).len(), 3 * KEYS);
    assert_eq!(after.call("RELINK", "/k/0", b"").status, 204);
    let named = after.call("GET", "/k/1", b"").header("key-volumes").expect("it has a record").to_owned();
    assert!(!named.contains("127.0.0.1"), "{named}");
}

#[test]
fn a_deletion_under_a_new_name_is_one_that_a_rebuild_knows() {
    let volumes = volumes(3);
    let mut before = Master::builder(&addresses(&volumes)).start();
    fill(&before, "k");
    before.stop();
    let mut after = Master::builder(&all_localhost(&volumes)).db(before.db()).start();
    numbered("k", KEYS).for_each(|key| assert_eq!(after.call("DELETE", &key, b"").status, 204, "{key}"));
    assert_eq!(blobs(&volumes).len(), 0);
    after.stop();
    assert!(after.job(&["rebuild"]).0.success());
    after.start_again();
    assert_eq!(after.list("/?list"), Vec::<String>::new());
}

/// Removals that wait for an old name must not be carried out on what records name under the new one.
#[test]
fn what_waits_for_an_old_name_is_not_removed_from_the_new_one() {
    let mut volumes = volumes(3);
    let mut before = Master::builder(&addresses(&volumes)).flag("replicas", "2").start();
    fill(&before, "k");
    volumes[0].kill9();
    eventually("it is known to be down", || before.log().contains("is down"));
    for key in numbered("k", KEYS) {
        assert!([204, 503].contains(&before.call("DELETE", &key, b"").status), "{key}");
        before.put(&key, &body(&key));
    }
    before.kill9();
    volumes[0].start_again();
    let after =
        Administered::start(Master::builder(&all_localhost(&volumes)).db(before.db()).flag("replicas", "2"));
    after.job("repair", r#"{"rate":"unlimited"}"#);
    eventually("all are where they belong", || {
        after.job("rebalance", r#"{"rate":"unlimited"}"#)["state"] == "done"
    });
    eventually("nothing waits", || after.json("GET", "/api/status", "")["unsettled"] == 0);
    check(&after, "k");
    assert_eq!(blobs(&volumes).len(), 2 * KEYS);
}

#[test]
fn a_name_with_an_address_moves_nothing() {
    let volumes = volumes(3);
    let names: Vec<String> = (0..3).map(|number| format!("volume{number}.example:3001")).collect();
    let address = |names: &[String], volumes: &[Volume]| {
        let pairs = names.iter().zip(volumes).map(|(name, volume)| format!("{name}={}", volume.addr()));
        pairs.collect::<Vec<_>>().join(",")
    };
    let mut before = Master::builder(&names.join(",")).flag("address", address(&names, &volumes)).start();
    fill(&before, "k");
    before.stop();
    let files = blobs(&volumes);
    // All machines move: the directories are served elsewhere.
    let dirs: Vec<PathBuf> = volumes.iter().map(|volume| volume.dir().to_owned()).collect();
    let mut old = volumes;
    for volume in &mut old {
        volume.stop();
    }
    let moved: Vec<Volume> = dirs.iter().map(|dir| Volume::builder().dir(dir).start()).collect();
    let builder = Master::builder(&names.join(",")).db(before.db()).flag("address", address(&names, &moved));
    let after = Administered::start(builder);
    check(&after, "k");
    for job in ["rebalance", "scrub"] {
        let ended = after.job(job, r#"{"rate":"unlimited"}"#);
        assert!(ended["state"] == "done" && ended["status"]["problems"] == 0, "{ended}");
    }
    assert_eq!(blobs(&moved), files);
    assert_eq!(Master::builder("a:1,b:1,c:1").flag("address", "a:1").refusal().0.code(), Some(2));
}

#[test]
fn exchanged_drives_are_refused_at_the_start_and_not_used_while_it_runs() {
    let mut volumes = volumes(4);
    let builder = Master::builder(&addresses(&volumes)).flag("replicas", "2");
    let mut master = Administered::start(builder);
    fill(&master, "k");
    let names: Vec<String> = volumes[..2].iter().map(Volume::addr).collect();
    let swap = |volumes: &mut [Volume]| {
        for volume in &mut volumes[..2] {
            volume.stop();
        }
        exchange(volumes[0].dir(), volumes[1].dir());
        volumes[..2].iter_mut().for_each(Volume::start_again);
    };
    swap(&mut volumes);
    for (one, other) in [(0, 1), (1, 0)] {
        eventually("it is noticed", || shown(&master, &names[one]).0 == "foreign");
        let why = shown(&master, &names[one]).1;
        assert!(why.contains(&format!("serves what is {}", names[other])), "{why}");
    }
    // Nobody is told that something is gone which a wrong directory doesn't have.
    let statuses: Vec<u16> = numbered("k", 10).map(|key| master.call("DELETE", &key, b"").status).collect();
    assert!(statuses.iter().all(|status| [204, 503].contains(status)), "{statuses:?}");
    assert!(master.master.stop().success());
    // A folder that has no id yet is none of theirs either.
    let files = || [0, 1].map(|number| fs::read(volumes[number].dir().join("=volume")).unwrap());
    volumes[..2].iter().for_each(|volume| fs::create_dir(volume.dir().join("sv77")).unwrap());
    let before = files();
    let (status, said) =
        Master::builder(&addresses(&volumes)).flag("replicas", "2").db(master.db()).refusal();
    assert!(status.code() == Some(1) && said.contains("exchanged"), "{said}");
    assert_eq!(files(), before);
    volumes[..2].iter().for_each(|volume| fs::remove_dir(volume.dir().join("sv77")).unwrap());
    swap(&mut volumes);
    master.master.start_again();
    master.wait();
    eventually("what was deleted is gone", || master.json("GET", "/api/status", "")["unsettled"] == 0);
    assert!(master.master.stop().success());
    assert!(master.master.job(&["rebuild"]).0.success());
    master.master.start_again();
    assert_eq!(master.list("/k/?list").len(), KEYS - 10, "nothing that was deleted is back");
    for key in numbered("k", KEYS).skip(10) {
        assert!(master.fetch(&key) == (200, body(&key)), "{key}");
    }
}

/// nginx starts before the drive is mounted and serves the empty mount point.
#[test]
fn an_empty_directory_in_a_volumes_place_is_not_believed() {
    let mut volumes = volumes(4);
    let master = Administered::start(Master::builder(&addresses(&volumes)).flag("replicas", "2"));
    fill(&master, "k");
    let name = volumes[0].addr();
    let (dir, drive) = (volumes[0].dir().to_owned(), volumes[0].dir().with_extension("drive"));
    volumes[0].stop();
    fs::rename(&dir, &drive).unwrap();
    fs::create_dir(&dir).unwrap();
    volumes[0].start_again();
    eventually("it is noticed", || shown(&master, &name).0 == "foreign");
    assert!(shown(&master, &name).1.contains("not mounted"), "{:?}", shown(&master, &name));
    for key in numbered("k", 20) {
        let key = key.as_str();
        let number: usize = key[3..].parse().unwrap();
        match number % 2 {
            0 => assert!([204, 503].contains(&master.call("DELETE", key, b"").status)),
            _ => assert_eq!(master.call("REPLACE", key, b"new").status, 204),
        }
    }
    assert_eq!(files_below(&dir), Vec::<String>::new(), "nothing was written to the disk below");
    volumes[0].stop();
    fs::remove_dir_all(&dir).unwrap();
    fs::rename(&drive, &dir).unwrap();
    volumes[0].start_again();
    eventually("it is used again", || shown(&master, &name).0 == "up");
    eventually("what waited is done", || master.json("GET", "/api/status", "")["unsettled"] == 0);
    let mut master = master.master;
    master.stop();
    assert!(master.job(&["rebuild"]).0.success());
    master.start_again();
    for key in numbered("k", 20) {
        let number: usize = key[3..].parse().unwrap();
        let expected = if number.is_multiple_of(2) { (404, Vec::new()) } else { (200, b"new".to_vec()) };
        assert_eq!(master.fetch(&key), expected, "{key}");
    }
}

/// The drive of one subvolume is unmounted under a running nginx: connections stay, and what is written goes to the disk below.
#[test]
fn what_is_written_to_a_drive_that_was_unmounted_is_made_anew_elsewhere() {
    let volumes = volumes(4);
    let builder = Master::builder(&addresses(&volumes)).flag("replicas", "2").flag("subvolumes", "2");
    let mut master = Administered::start(builder);
    fill(&master, "before");
    let (mounted, drive) = (volumes[0].dir().join("sv01"), volumes[0].dir().with_extension("sv01"));
    fs::rename(&mounted, &drive).unwrap();
    fs::create_dir(&mounted).unwrap();
    fill(&master, "after");
    let place = format!("{}/sv01", volumes[0].addr());
    eventually("it is noticed", || shown(&master, &volumes[0].addr()).1.contains(&place));
    assert!(shown(&master, &volumes[0].addr()).0 == "up", "the volume's other drives are used");
    eventually("what was written there lies elsewhere", || {
        numbered("after", KEYS).all(|key| {
            let named = master.call("GET", &key, b"").header("key-volumes").expect("a record").to_owned();
            named.split(',').count() == 2 && !named.contains(&place)
        })
    });
    check(&master, "after");
    assert!(master.log().contains("replicas were made anew elsewhere"), "{}", master.log());
    let on_it: Vec<String> = numbered("before", KEYS)
        .filter(|key| master.call("GET", key, b"").header("key-volumes").unwrap().contains(&place))
        .collect();
    assert!(on_it.len() > 3, "{on_it:?}");
    for key in &on_it {
        assert_eq!(
            master.call("DELETE", key, b"").status,
            503,
            "{key}: the wrong directory's word doesn't count"
        );
    }
    fs::remove_dir_all(&mounted).unwrap();
    fs::rename(&drive, &mounted).unwrap();
    eventually("it is used again", || shown(&master, &volumes[0].addr()).1.is_empty());
    eventually("what waited is done", || master.json("GET", "/api/status", "")["unsettled"] == 0);
    assert!(master.stop_and_start());
    assert!(master.master.stop().success());
    assert!(master.master.job(&["rebuild"]).0.success());
    master.master.start_again();
    on_it.iter().for_each(|key| assert_eq!(master.fetch(key).0, 404, "{key}"));
    check(&master, "after");
}

/// A stranger on the port of a volume that died, in the first second, when nobody has noticed yet.
#[test]
fn a_stranger_on_a_dead_volumes_port_gets_nothing_and_is_believed_nothing() {
    for status in ["200 OK", "201 Created", "204 No Content", "302 Found", "403 Forbidden", "404 Not Found"] {
        let mut volumes = volumes(3);
        let master = Master::builder(&addresses(&volumes)).flag("replicas", "2").start();
        fill(&master, "k");
        volumes[0].kill9();
        let stranger = TcpStub::answering_at(&volumes[0].addr(), status);
        let deleted: Vec<String> =
            numbered("k", 10).filter(|key| master.call("DELETE", key, b"").status == 204).collect();
        numbered("new", 10).for_each(|key| master.put(&key, &body(&key)));
        for key in numbered("new", 10) {
            let named = master.call("GET", &key, b"").header("key-volumes").expect("a record").to_owned();
            assert!(!named.contains(&volumes[0].addr()), "{status}: {named}");
        }
        for key in deleted {
            let path = path_of(&Key::new(key.as_bytes()).unwrap(), File::Blob(None));
            let left = volumes[0].files().into_iter().find(|file| file.ends_with(&path[1..]));
            assert_eq!(left, None, "{status}: {key} was deleted with 204");
        }
        drop(stranger);
        volumes[0].start_again();
        eventually("it is up again", || master.log().matches("is up").count() > 0);
    }
}

#[test]
fn a_clone_beside_its_original_is_refused_until_it_is_a_volume_of_its_own() {
    let volumes = volumes(3);
    let mut master = Master::builder(&addresses(&volumes)).start();
    fill(&master, "k");
    master.stop();
    let dir = TempDir::new();
    let status =
        std::process::Command::new("cp").arg("-a").arg(volumes[0].dir()).arg(dir.join("clone")).status();
    assert!(status.expect("cp is installed").success());
    let clone = Volume::builder().dir(dir.join("clone")).start();
    let names = format!("{},{}", addresses(&volumes), clone.addr());
    let (status, said) = Master::builder(&names).db(master.db()).refusal();
    assert!(status.code() == Some(1) && said.contains("a clone of the other"), "{said}");
    let after = Master::builder(&names).db(master.db()).build();
    let (status, said) = after.job(&["replace", &clone.addr()]);
    assert!(!status.success() && said.contains("has blobs"), "{said}");
    let (status, said) = after.job(&["replace", &clone.addr(), "--with-blobs"]);
    assert!(status.success(), "{said}");
    let after = Administered::start(Master::builder(&names).db(master.db()));
    assert_eq!(shown(&after, &clone.addr()).0, "up");
    check(&after, "k");
}

#[test]
fn a_replaced_drive_is_filled_and_the_old_one_never_taken_again() {
    let volumes = volumes(3);
    let builder = Master::builder(&addresses(&volumes)).flag("subvolumes", "2");
    let master = Administered::start(builder);
    fill(&master, "k");
    let place = format!("{}/sv01", volumes[0].addr());
    let (mounted, old) = (volumes[0].dir().join("sv01"), volumes[0].dir().with_extension("sv01"));
    let had = files_below(&mounted);
    fs::rename(&mounted, &old).unwrap();
    fs::create_dir(&mounted).unwrap();
    let (ok, said) = master.job_words(&["replace", &place]);
    assert!(ok, "{said}");
    assert_eq!(master.job("repair", r#"{"rate":"unlimited"}"#)["state"], "done");
    assert_eq!(files_below(&mounted), had);
    exchange(&mounted, &old);
    eventually("the old one is not taken", || shown(&master, &volumes[0].addr()).1.contains(&place));
    exchange(&mounted, &old);
    eventually("the new one is", || shown(&master, &volumes[0].addr()).1.is_empty());
    check(&master, "k");
}

/// It has the right id; its `=master` tells that it misses what it has confirmed since.
#[test]
fn an_older_copy_of_a_drive_is_readonly_until_the_right_one_is_back_or_it_is_taken() {
    let (aside, mut volumes) = (TempDir::new(), volumes(4));
    let builder = Master::builder(&addresses(&volumes)).flag("replicas", "2").flag("subvolumes", "2");
    let mut master = Administered::start(builder);
    fill(&master, "early");
    let name = volumes[0].addr();
    let has = |file: &str| volumes[0].dir().join(file).exists();
    eventually("its folders have ids", || has("sv00/=volume") && has("sv01/=volume"));
    assert!(master.stop_and_start());
    let mode = |master: &Administered| {
        let views = master.json("GET", "/api/volumes", "");
        let mut views = views.as_array().expect("a list").iter();
        views.find(|view| view["volume"] == name.as_str()).expect("it is there")["mode"].clone()
    };
    copy_dir(volumes[0].dir(), &aside.join("old"));
    make_older(&aside.join("old"));
    fill(&master, "late");
    let gone: Vec<String> = numbered("early", KEYS).take(KEYS / 2).collect();
    gone.iter().for_each(|key| assert_eq!(master.call("DELETE", key, b"").status, 204));
    assert_eq!(mode(&master), "alive");

    let (dir, old) = (volumes[0].dir().to_owned(), aside.join("old"));
    let mut change = || {
        volumes[0].stop();
        exchange(&dir, &old);
        volumes[0].start_again();
    };
    change();
    eventually("it is known for an older copy", || mode(&master) == "readonly");
    assert!(shown(&master, &name).1.contains("an older copy of itself"), "{:?}", shown(&master, &name));
    assert!(master.log().contains("is an older copy of itself: it misses the last"), "{}", master.log());
    assert!(master.stop_and_start());
    assert_eq!(mode(&master), "readonly");
    let before = files_below(&dir).len();
    fill(&master, "more");
    assert_eq!(files_below(&dir).len(), before);
    change();
    eventually("the right one is back", || mode(&master) == "alive");

    change();
    eventually("it is known once more", || mode(&master) == "readonly");
    let (ok, said) = master.job_words(&["volume-mode", &name, "alive"]);
    assert!(ok, "{said}");
    let repair = master.job("repair", r#"{"rate":"unlimited","delete_orphans":true,"force":true}"#);
    assert_eq!(repair["state"], "done", "{repair:#}");
    assert_eq!(master.job("scrub", r#"{"rate":"unlimited"}"#)["state"], "done");
    assert!(master.stop_and_start());
    assert_eq!((mode(&master), shown(&master, &name).1), ("alive".into(), String::new()));
    check(&master, "late");
    check(&master, "more");
    gone.iter().for_each(|key| assert_eq!(master.fetch(key).0, 404, "{key}"));
}

fn copy_dir(from: &Path, to: &Path) {
    let status =
        std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is installed");
    assert!(status.success());
}

/// Has a drive's copy be some minutes older than it is, and what lies there of some days ago.
fn make_older(copy: &Path) {
    let master_file = &copy.join("=master");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(master_file).unwrap()).unwrap();
    let mark_us = file["mark_us"].as_u64().expect("a number");
    file["mark_us"] = (mark_us - 300_000_000).into();
    fs::write(master_file, file.to_string()).unwrap();
    let days_ago = SystemTime::now() - Duration::from_secs(3 * 86_400);
    for name in files_below(copy) {
        fs::File::options().write(true).open(copy.join(name)).unwrap().set_modified(days_ago).unwrap();
    }
}

#[test]
fn files_of_identity_that_a_power_cut_has_torn_are_written_again() {
    let volumes = volumes(3);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)).flag("replicas", "2"));
    fill(&master, "k");
    assert!(master.stop_and_start());
    let signs: Vec<PathBuf> =
        ["=cluster", "=volume"].iter().map(|name| volumes[0].dir().join(name)).collect();
    let whole: Vec<Vec<u8>> = signs.iter().map(|sign| fs::read(sign).expect("it was written")).collect();
    for sign in 0..2 {
        for torn in [b"".to_vec(), vec![0; 40], whole[sign][..7].to_vec()] {
            assert!(master.master.stop().success());
            fs::write(&signs[sign], &torn).unwrap();
            master.master.start_again();
            master.wait();
            eventually("it is used again", || shown(&master, &volumes[0].addr()).0 == "up");
            eventually("it is written again", || fs::read(&signs[sign]).is_ok_and(|now| now == whole[sign]));
        }
    }
    // All of them, as a power cut of everything leaves them.
    assert!(master.master.stop().success());
    volumes.iter().for_each(|volume| fs::write(volume.dir().join("=cluster"), b"").unwrap());
    master.master.start_again();
    check(&master, "k");
}

#[test]
fn nothing_is_written_to_what_is_no_volume() {
    let volumes = volumes(2);
    let other = Master::builder(&addresses(&volumes)).flag("replicas", "2").start();
    let third = Volume::start();
    let strange = Volume::start();
    fs::write(strange.dir().join("index.html"), b"a web page").unwrap();
    let names = format!("{},{},{}", third.addr(), other.addr(), strange.addr());
    let master = Administered::start(Master::builder(&names).flag("replicas", "1"));
    for name in [other.addr(), strange.addr()] {
        assert_eq!(shown(&master, &name).0, "foreign", "{name}");
        assert!(shown(&master, &name).1.contains("it is no volume"), "{:?}", shown(&master, &name));
    }
    fill(&master, "k");
    assert_eq!(other.list("/?list"), Vec::<String>::new());
    assert_eq!(strange.files(), ["index.html"]);
}

#[test]
fn a_rebuild_refuses_a_drive_that_is_not_mounted() {
    let volumes = volumes(3);
    let builder = || Master::builder(&addresses(&volumes)).flag("replicas", "2").flag("subvolumes", "3");
    let mut master = builder().start();
    fill(&master, "k");
    master.stop();
    let place = format!("{}/sv01", volumes[0].addr());
    let (mounted, drive) = (volumes[0].dir().join("sv01"), volumes[0].dir().with_extension("sv01"));
    fs::rename(&mounted, &drive).unwrap();
    fs::create_dir(&mounted).unwrap();
    fs::remove_dir_all(master.db()).unwrap();
    let (status, said) = master.job(&["rebuild"]);
    assert!(!status.success() && said.contains(&place) && said.contains("--allow-missing"), "{said}");
    assert!(!master.db().exists());
    let (status, said) = master.job(&["rebuild", "--allow-missing", &place]);
    assert!(status.success(), "{said}");
    master.start_again();
    check(&master, "k");
    let on_it: Vec<String> = numbered("k", KEYS)
        .filter(|key| master.call("GET", key, b"").header("key-volumes").unwrap().contains(&place))
        .collect();
    assert!(on_it.len() > 3, "{on_it:?}");
    on_it.iter().for_each(|key| assert_eq!(master.call("DELETE", key, b"").status, 503, "{key}"));
    // No record names a file there by now, and still the empty folder isn't taken for the drive.
    for _ in 0..2 {
        master.stop();
        master.start_again();
    }
    fs::remove_dir(&mounted).unwrap();
    fs::rename(&drive, &mounted).unwrap();
    eventually("what was deleted is removed from it", || {
        on_it.iter().all(|key| master.call("DELETE", key, b"").status == 404)
    });
    master.stop();
    assert!(master.job(&["rebuild"]).0.success());
    master.start_again();
    on_it.iter().for_each(|key| assert_eq!(master.fetch(key).0, 404, "{key}"));
}

/// An index of the Go original, over volumes that are served under other names: nothing tells which volume is which.
#[test]
fn a_go_cluster_under_other_names_keeps_every_file() {
    let go = GoCluster::unpack();
    let volumes: Vec<Volume> =
        (1..=5).map(|number| Volume::builder().dir(go.volume(number)).start()).collect();
    let files = blobs(&volumes);
    let mut master = Master::builder(&all_localhost(&volumes)).db(go.index()).start();
    master.stop();
    for job in [&["repair"][..], &["rebalance"]] {
        let (_, said) = master.job(job);
        let now = blobs(&volumes);
        let gone: Vec<&PathBuf> = files.keys().filter(|file| !now.contains_key(*file)).collect();
        assert!(gone.is_empty(), "{job:?} removed {gone:?}: {said}");
    }
    master.job(&["repair", "--delete-orphans", "--force"]);
    // What nobody can know has to be said.
    for (number, volume) in volumes.iter().enumerate() {
        let old = format!("127.0.0.1:{}", 13001 + number);
        let (status, said) = master.job(&["rename", &old, &localhost(volume)]);
        assert!(status.success(), "{said}");
    }
    let (status, said) = master.job(&["rename", "127.0.0.1:13001", &localhost(&volumes[1])]);
    assert!(!status.success(), "{said}");
    master.start_again();
    let live = go.expected.values().filter(|blob| blob.state == "live").count();
    let listed = master.list("/?list");
    assert!(listed.len() + 20 > live, "{} of {live}", listed.len());
    for key in listed.iter().take(50) {
        let path: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(master.fetch(&path.replacen("%2F", "/", 1)).0, 200, "{key}");
    }
}

/// What an earlier version wrote: no volume has an id, and the modes are in the file beside the index.
#[test]
fn a_cluster_of_before_identities_is_taken_over() {
    let dir = TempDir::new();
    let unpacked = std::process::Command::new("tar")
        .arg("xzf")
        .arg(crate::harness::repository().join("tests/fixtures/before-identities.tar.gz"))
        .arg("-C")
        .arg(dir.path())
        .status();
    assert!(unpacked.expect("tar is installed").success());
    let root = dir.path();
    let volumes: Vec<Volume> = (1..=3)
        .map(|number| {
            Volume::builder().dir(root.join(format!("volume{number}"))).port(13010 + number).start()
        })
        .collect();
    let builder = Master::builder(&addresses(&volumes)).flag("replicas", "2").db(root.join("indexdb"));
    let mut master = Administered::start(builder);
    let check = |master: &Master| {
        for number in 0..50 {
            let expected = match number {
                0..10 => (200, format!("new content of {number}").into_bytes()),
                10..40 => (200, format!("content of {number}").into_bytes()),
                _ => (404, Vec::new()),
            };
            assert_eq!(master.fetch(&format!("/k/{number}")), expected, "/k/{number}");
        }
    };
    check(&master);
    let views = master.json("GET", "/api/volumes", "");
    let modes: Vec<&str> =
        views.as_array().unwrap().iter().map(|view| view["mode"].as_str().unwrap()).collect();
    assert_eq!(modes, ["alive", "alive", "readonly"]);
    assert!(views.as_array().unwrap().iter().all(|view| view["identified"] == true), "{views}");
    for volume in &volumes {
        assert!(volume.dir().join("=volume").is_file() && volume.dir().join("sv00/=volume").is_file());
    }
    let scrub = master.job("scrub", r#"{"rate":"unlimited"}"#);
    assert!(scrub["state"] == "done", "{scrub}");
    // The modes are in the index now.
    assert!(master.master.stop().success());
    fs::remove_file(master.state_file()).unwrap();
    master.master.start_again();
    master.wait();
    assert_eq!(master.json("GET", "/api/volumes", "")[2]["mode"], "readonly");
    check(&master);
}

/// An index that knows no id is put before drives that are in each other's places.
#[test]
fn a_volume_gets_no_identity_where_its_files_are_missing() {
    let dir = TempDir::new();
    let go = GoCluster::unpack();
    let mut volumes: Vec<Volume> = (1..=4)
        .map(|number| Volume::builder().dir(go.volume(number)).port(13030 + u16::from(number)).start())
        .collect();
    volumes.push(Volume::builder().dir(dir.join("empty")).port(13035).start());
    let names: Vec<String> = volumes.iter().map(Volume::addr).collect();
    // The index names the ports of the fixture; --address leads elsewhere.
    let known: Vec<String> = (1..=5).map(|number| format!("127.0.0.1:{}", 13000 + number)).collect();
    let address: Vec<String> = known.iter().zip(&names).map(|(name, at)| format!("{name}={at}")).collect();
    let builder = Master::builder(&known.join(",")).db(go.index()).flag("address", address.join(","));
    let master = Administered::start(builder);
    assert_eq!(shown(&master, &known[0]).0, "up");
    let (state, why) = shown(&master, &known[4]);
    assert!(state == "foreign" && why.contains("mkv replace"), "{state} {why}");
    assert!(!volumes[4].dir().join("=volume").exists());
    let (ok, said) = master.job_words(&["replace", &known[4]]);
    assert!(ok, "{said}");
    eventually("it is used", || shown(&master, &known[4]).0 == "up");
}

#[test]
fn places_of_a_record_are_where_the_placement_says() {
    let cluster = Cluster::start();
    fill(&cluster.master, "k");
    let placed = placer(&cluster.volumes, 3);
    for key in numbered("k", 5) {
        let named = cluster.master.call("GET", &key, b"").header("key-volumes").expect("a record").to_owned();
        let places: Vec<Replica> = placed.placement(key.as_bytes());
        assert_eq!(named, places.iter().map(Replica::to_string).collect::<Vec<_>>().join(","));
    }
    assert_eq!(http("GET", &cluster.volumes[0].url("/=volume"), b"", &[]).status, 200);
}
