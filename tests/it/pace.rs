//! How fast jobs go: at the rate that was asked for, at another while they run, and no further than they are told.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{
    Administered, Cluster, Master, TempDir, addresses, connections, eventually, lines_of, send, volumes,
    wait_for,
};

/// Blobs of a cluster; at [`SLOW`] they take much longer than any test waits.
const KEYS: usize = 60;

/// Per second.
const SLOW: &str = "0.5";

fn stopped_cluster() -> Cluster {
    let mut cluster = Cluster::of(3, |master| master.flag("replicas", "2"));
    (0..KEYS).for_each(|number| cluster.master.put(&format!("/k{number}"), b"content"));
    assert!(cluster.master.stop().success());
    cluster
}

/// How the job ended, and what it said.
fn end_of(job: &mut Child, log: &Path) -> (Option<i32>, String) {
    let status = wait_for("the job ends", || job.try_wait().expect("it is our child"));
    (status.code(), fs::read_to_string(log).expect("it was created"))
}

/// Whether it has begun to ask volumes.
fn is_at_work(job: &Child, cluster: &Cluster) -> bool {
    cluster.volumes.iter().any(|volume| connections(job.id(), &volume.addr()) > 0)
}

/// The file is never seen half written.
fn tell_rate(file: &Path, rate: &str) {
    let new = file.with_extension("new");
    fs::write(&new, rate).expect("the test's directory is writable");
    fs::rename(new, file).expect("it was written");
}

#[test]
fn every_job_on_a_stopped_servers_index_follows_the_file_with_its_rate() {
    let cluster = stopped_cluster();
    let dir = TempDir::new();
    let (rate, log, out) = (dir.join("rate"), dir.join("log"), dir.join("out"));
    let leaving = cluster.volumes[0].addr();
    let out = out.to_str().expect("a plain name");
    for words in [
        &["rebuild"][..],
        &["scrub"],
        &["repair"],
        &["drain", &leaving],
        &["undrain", &leaving],
        &["rebalance"],
        &["export", "/", out],
    ] {
        if words[0] == "undrain" {
            assert!(cluster.master.job(words).0.success());
            continue;
        }
        tell_rate(&rate, SLOW);
        let paced = [words, &["--rate-file", rate.to_str().expect("a plain name")]].concat();
        let mut job = cluster.master.begin_logged_job(&paced, &log);
        let told = |line: &str| {
            eventually(line, || fs::read_to_string(&log).unwrap().contains(line));
        };
        eventually("it is at work", || is_at_work(&job, &cluster));
        // It looks into the file ten times a second, so a job that doesn't keep to its rate is over before it has seen all of these.
        for other in ["0.4", "0.3", "0.2", "0.1", SLOW] {
            tell_rate(&rate, other);
            told(&format!("the rate is {other} from now on"));
        }
        tell_rate(&rate, "at once");
        told("is no rate");
        assert_eq!(job.try_wait().expect("it is our child"), None, "{words:?} doesn't keep to its rate");
        tell_rate(&rate, "unlimited\n");
        let (code, said) = end_of(&mut job, &log);
        assert!(code == Some(0) && said.contains("the rate is unlimited from now on"), "{words:?}: {said}");
        assert_eq!(said.matches("is no rate").count(), 1, "{said}");
    }
}

#[test]
fn bytes_are_paced_within_a_blob_too() {
    let mut cluster = Cluster::of(3, |master| master.flag("md5sum", "false"));
    cluster.master.put("/large", &vec![7; 3 << 20]);
    assert!(cluster.master.stop().success());
    let dir = TempDir::new();
    let out = dir.join("out");
    // With nothing known of its MD5, a rebuild reads the blob.
    let master = Master::builder(&addresses(&cluster.volumes)).db(cluster.master.db()).build();
    let export = ["export", "/", out.to_str().expect("a plain name")];
    // A scrub reads all three replicas.
    for (words, rate) in [(&["rebuild"][..], "1MB"), (&export, "1MB"), (&["scrub"], "3MB")] {
        let begun = Instant::now();
        let (status, said) = master.job(&[words, &["--rate", rate]].concat());
        assert!(status.success() && begun.elapsed() > Duration::from_secs(2), "{words:?}: {said}");
    }
    assert!(fs::read(out.join("large")).unwrap() == vec![7; 3 << 20]);
}

#[test]
fn a_rate_that_is_none_is_refused_before_anything_begins() {
    let cluster = stopped_cluster();
    let dir = TempDir::new();
    let file = dir.join("rate");
    let path = file.to_str().expect("a plain name");
    for (content, words, expected) in [
        (None, vec!["scrub", "--rate-file", path], "No such file"),
        (Some(""), vec!["rebuild", "--rate-file", path], "is no rate"),
        (Some("-1"), vec!["rebalance", "--rate-file", path], "is no rate"),
        (Some("1"), vec!["scrub", "--rate", "2", "--rate-file", path], "cannot be used with"),
        (None, vec!["rebuild", "--rate", "fast"], "is no rate"),
    ] {
        if let Some(content) = content {
            fs::write(&file, content).unwrap();
        }
        let (status, said) = cluster.master.job(&words);
        assert!(status.code() == Some(2) && said.contains(expected), "{words:?}: {status} {said}");
    }
}

#[test]
fn a_signal_ends_every_job_in_order_and_none_says_that_it_has_done_everything() {
    let cluster = stopped_cluster();
    let before = lines_of(cluster.master.db());
    let dir = TempDir::new();
    let (out, log) = (dir.join("out"), dir.join("log"));
    let export = ["export", "/", out.to_str().expect("a plain name")];
    let leaving = cluster.volumes[0].addr();
    let copied = || {
        let entries = fs::read_dir(&out).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().is_file()).count()
    };
    for (words, signal) in [
        (&["rebuild"][..], Signal::SIGTERM),
        (&export, Signal::SIGINT),
        (&["scrub"], Signal::SIGINT),
        (&["repair"], Signal::SIGTERM),
        (&["drain", &leaving], Signal::SIGINT),
        // The drain has begun, so there is something to be moved.
        (&["rebalance", "--dry-run"], Signal::SIGINT),
        (&["rebalance"], Signal::SIGTERM),
    ] {
        let mut job = cluster.master.begin_logged_job(&[words, &["--rate", "2"]].concat(), &log);
        eventually("it is at work", || match words[0] {
            "export" => copied() > 0,
            _ => is_at_work(&job, &cluster),
        });
        send(job.id(), signal);
        let (code, said) = end_of(&mut job, &log);
        assert!(code == Some(1) && said.contains("stopped"), "{words:?}: {code:?} {said}");
        if words[0] == "rebuild" {
            assert_eq!(lines_of(cluster.master.db()), before);
        }
    }
    let before = lines_of(cluster.master.db());
    let siblings = fs::read_dir(cluster.master.db().parent().unwrap()).unwrap().flatten();
    let left: Vec<_> = siblings.map(|entry| entry.file_name()).filter(|name| name != "log").collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("new")), "{left:?}");
    let copied = copied();
    assert!((1..KEYS).contains(&copied), "{copied}");
    let (status, said) = cluster.master.job(&export);
    assert!(status.success() && said.contains(&format!("{copied} were there already")), "{said}");
    // Whoever can't wait for volumes that hang asks a second time.
    cluster.volumes.iter().for_each(|volume| volume.pause());
    let mut job = cluster.master.begin_logged_job(&["rebuild"], &log);
    eventually("it waits for a volume", || is_at_work(&job, &cluster));
    send(job.id(), Signal::SIGINT);
    let is_told = || fs::read_to_string(&log).unwrap().contains("a second signal doesn't wait for that");
    eventually("the signal is heeded", is_told);
    assert_eq!(job.try_wait().expect("it is our child"), None, "the first signal waits");
    send(job.id(), Signal::SIGINT);
    assert_eq!(end_of(&mut job, &log).0, Some(1));
    cluster.volumes.iter().for_each(|volume| volume.resume());
    assert_eq!(lines_of(cluster.master.db()), before);
}

#[test]
fn a_servers_jobs_are_shown_slowed_down_and_stopped_by_their_number() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    (0..KEYS).for_each(|number| master.put(&format!("/k{number}"), b"content"));
    let dir = TempDir::new();
    let (rate, log) = (dir.join("rate"), dir.join("log"));
    tell_rate(&rate, SLOW);
    let words = ["scrub", "--rate-file", rate.to_str().expect("a plain name")];
    let mut job = master.begin_logged_job(&words, &log);
    let jobs = || master.json("GET", "/api/jobs", "").as_array().unwrap().clone();
    let id = wait_for("the job has begun", || Some(jobs().first()?["id"].as_u64()?.to_string()));
    let said = |words: &[&str]| {
        let (succeeded, said) = master.job_words(&[&["jobs"], words].concat());
        assert!(succeeded, "{words:?}: {said}");
        said
    };
    assert!(said(&[]).contains(&format!("(rate {SLOW})")), "{}", said(&[]));
    let slowed = said(&["rate", &id, "0.25,100MB"]);
    assert!(slowed.contains("scrub") && slowed.contains("(rate 0.25,100MB)"), "{slowed}");
    assert_eq!(jobs()[0]["rate"], "0.25,100MB");
    // Whoever began it can change it too.
    tell_rate(&rate, "0.125");
    eventually("the file is followed", || jobs()[0]["rate"] == "0.125");
    let stopped: Value = serde_json::from_str(&said(&["stop", &id, "--json"])).expect("it is JSON");
    assert!(["stopping", "stopped"].iter().any(|state| stopped[0]["state"] == *state), "{stopped}");
    let (code, said_last) = end_of(&mut job, &log);
    assert!(code == Some(1) && said_last.contains(&format!("job {id} was stopped")), "{said_last}");
    assert!(said(&[]).contains("stopped"), "{}", said(&[]));
    for words in [["stop", "77"].as_slice(), &["rate", "77", "1"]] {
        let (succeeded, said) = master.job_words(&[&["jobs"], words].concat());
        assert!(!succeeded && said.contains("there is no job 77"), "{said}");
    }
    assert!(!master.job_words(&["jobs", "rate", &id, "fast"]).0);
}
