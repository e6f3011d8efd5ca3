//! Which index is the present one: an older copy, a second server, a moved directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{
    Administered, Cluster, Master, TempDir, Volume, addresses, eventually, http, send, volumes,
};

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is installed");
    assert!(status.success());
}

fn put_back(copy_of: &Path, db: &Path) {
    for entry in fs::read_dir(db).expect("it is a directory") {
        fs::remove_file(entry.expect("it can be read").path()).expect("it can be removed");
    }
    copy(&copy_of.join("."), db);
}

#[test]
fn an_older_index_is_refused_and_a_rebuild_has_everything() {
    let (dir, mut cluster) = (TempDir::new(), Cluster::start());
    cluster.master.put("/state", b"version 1");
    cluster.master.stop();
    copy(cluster.master.db(), &dir.join("backup"));
    cluster.master.start_again();
    cluster.master.put("/new", b"acknowledged");
    assert_eq!(cluster.master.call("REPLACE", "/state", b"version 2").status, 204);
    cluster.master.kill9();
    put_back(&dir.join("backup"), cluster.master.db());
    let names = addresses(&cluster.volumes);
    let (status, said) = Master::builder(&names).db(cluster.master.db()).refusal();
    assert!(status.code() == Some(1) && said.contains("older than what its volumes know"), "{said}");
    for job in [&["repair"][..], &["rebalance"], &["scrub"], &["repair", "--delete-orphans", "--force"]] {
        let (status, said) = cluster.master.job(job);
        assert!(!status.success() && said.contains("older than what its volumes know"), "{said}");
    }
    assert!(cluster.master.job(&["rebuild"]).0.success());
    cluster.master.start_again();
    assert_eq!(cluster.master.fetch("/new"), (200, b"acknowledged".to_vec()));
    assert_eq!(cluster.master.fetch("/state"), (200, b"version 2".to_vec()));
}

/// A snapshot that is taken while the server works is as old as the writes behind it.
#[test]
fn a_snapshot_of_a_working_index_is_older_after_ten_seconds_of_writes() {
    let (dir, mut cluster) = (TempDir::new(), Cluster::start());
    cluster.master.put("/before", b"before");
    send(cluster.master.pid(), Signal::SIGSTOP);
    copy(cluster.master.db(), &dir.join("snapshot"));
    send(cluster.master.pid(), Signal::SIGCONT);
    // The mark is ten seconds ahead of the first write, and told to the volumes every five.
    let begun = std::time::Instant::now();
    let mut count = 0;
    while begun.elapsed().as_secs() < 17 {
        cluster.master.put(&format!("/later/{count}"), b"acknowledged");
        count += 1;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    cluster.master.kill9();
    put_back(&dir.join("snapshot"), cluster.master.db());
    let (status, said) = Master::builder(&addresses(&cluster.volumes)).db(cluster.master.db()).refusal();
    assert!(status.code() == Some(1) && said.contains("later than the index"), "{said}");
}

#[test]
fn a_second_server_on_a_copy_is_refused_while_the_first_is_alive() {
    let (dir, cluster) = (TempDir::new(), Cluster::start());
    cluster.master.put("/before", b"before");
    send(cluster.master.pid(), Signal::SIGSTOP);
    copy(cluster.master.db(), &dir.join("copy"));
    send(cluster.master.pid(), Signal::SIGCONT);
    let (status, said) = Master::builder(&addresses(&cluster.volumes)).db(dir.join("copy")).refusal();
    assert!(status.code() == Some(1) && said.contains("another master is alive"), "{said}");
    cluster.master.put("/mine", b"written through the first");
    assert_eq!(cluster.master.fetch("/before"), (200, b"before".to_vec()));
}

/// An index that was made from the volumes while a server works on the old one, and is started in its place.
#[test]
fn a_rebuilt_index_waits_for_the_old_one_and_then_is_the_present_one() {
    let (dir, mut cluster) = (TempDir::new(), Cluster::start());
    cluster.master.put("/before", b"before");
    let names = addresses(&cluster.volumes);
    let builder = || Master::builder(&names).db(dir.join("rebuilt"));
    let (status, said) = builder().build().job(&["rebuild"]);
    assert!(status.success(), "{said}");
    let (status, said) = builder().refusal();
    assert!(status.code() == Some(1) && said.contains("another master is alive"), "{said}");
    cluster.master.kill9();
    let mut rebuilt = builder().start();
    assert_eq!(rebuilt.fetch("/before"), (200, b"before".to_vec()));
    rebuilt.put("/after", b"after");
    rebuilt.kill9();
    let (status, said) = Master::builder(&names).db(cluster.master.db()).refusal();
    assert!(status.code() == Some(1) && said.contains("older than what its volumes know"), "{said}");
}

#[test]
fn a_server_whose_volumes_are_taken_over_ends() {
    let (dir, mut cluster) = (TempDir::new(), Cluster::start());
    cluster.master.put("/k", b"content");
    send(cluster.master.pid(), Signal::SIGSTOP);
    copy(cluster.master.db(), &dir.join("copy"));
    send(cluster.master.pid(), Signal::SIGCONT);
    let names = addresses(&cluster.volumes);
    let second = Master::builder(&names).db(dir.join("copy")).flag("takeover", "true").start();
    eventually("the first ends", || cluster.master.has_ended());
    assert!(
        cluster.master.log().contains("another master has taken the volumes over"),
        "{}",
        cluster.master.log()
    );
    assert_eq!(cluster.master.wait().code(), Some(1));
    second.put("/second", b"goes on");
    let (status, said) = Master::builder(&names).db(cluster.master.db()).refusal();
    assert!(status.code() == Some(1) && said.contains("older than"), "{said}");
}

/// A stranger that writes one file ends no service.
#[test]
fn another_masters_word_on_one_volume_costs_that_volume_alone() {
    let volumes = volumes(4);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    let word = json!({ "number": 999, "random": "0".repeat(32), "beat": 1, "mark_us": 1 }).to_string();
    let state = || {
        let views = master.json("GET", "/api/volumes", "");
        views[0]["state"].as_str().expect("it is text").to_owned()
    };
    assert_eq!(http("PUT", &volumes[0].url("/=master"), word.as_bytes(), &[]).status, 204);
    eventually("that volume is not used", || state() == "foreign");
    master.put("/k", b"content");
    assert!(!master.call("GET", "/k", b"").header("key-volumes").unwrap().contains(&volumes[0].addr()));
    fs::remove_file(volumes[0].dir().join("=master")).unwrap();
    eventually("it is used again", || state() == "up");
}

#[test]
fn modes_come_with_an_index_by_every_path() {
    let volumes = volumes(4);
    let dir = TempDir::new();
    let (db, link, moved) = (dir.join("db"), dir.join("link"), dir.join("moved"));
    let start = |path: &Path| {
        Administered::start(Master::builder(&addresses(&volumes)).flag("replicas", "2").db(path))
    };
    let modes = |master: &Administered| -> Vec<String> {
        let views = master.json("GET", "/api/volumes", "");
        views.as_array().unwrap().iter().map(|view| view["mode"].as_str().unwrap().to_owned()).collect()
    };
    let expected = ["readonly", "down", "alive", "alive"];
    let mut master = start(&db);
    for (volume, mode) in volumes.iter().zip(["readonly", "down"]) {
        let (ok, said) = master.job_words(&["volume-mode", &volume.addr(), mode]);
        assert!(ok, "{said}");
    }
    assert!(master.master.stop().success());
    std::os::unix::fs::symlink(&db, &link).unwrap();
    for path in [db.join(""), db.join("."), link] {
        let mut master = start(&path);
        assert_eq!(modes(&master), expected, "{}", path.display());
        assert!(master.master.stop().success());
    }
    fs::rename(&db, &moved).unwrap();
    for torn in [None, Some(&b""[..]), Some(b"{\"volumes\":{\"127"), Some(&[0; 50])] {
        if let Some(torn) = torn {
            fs::write(dir.join("moved.state"), torn).unwrap();
        }
        let mut master = start(&moved);
        assert_eq!(modes(&master), expected, "{torn:?}");
        assert!(master.log().contains("is written anew"), "{}", master.log());
        assert!(master.master.stop().success());
    }
    // A rebuilt index takes them over from the file beside it.
    let mut master = start(&moved);
    assert!(master.master.stop().success());
    fs::remove_dir_all(&moved).unwrap();
    assert!(master.master.job(&["rebuild"]).0.success());
    master.master.start_again();
    master.wait();
    assert_eq!(modes(&master), expected);
}

/// An older copy of a volume shows an older number: that alone is no fault, it was down.
#[test]
fn a_volume_that_was_away_for_a_while_is_used_again() {
    let mut volumes = volumes(3);
    let mut master = Master::builder(&addresses(&volumes)).flag("replicas", "2").start();
    volumes[2].stop();
    master.put("/k", b"content");
    assert!(master.stop().success());
    master.start_again();
    volumes[2].start_again();
    eventually("it is used again", || {
        master.call("PUT", "/other", b"x").status != 0
            && master.log().contains(&format!("{} is up", volumes[2].addr()))
    });
    assert_eq!(Volume::files(&volumes[2]).iter().filter(|file| *file == "=cluster").count(), 1);
}
