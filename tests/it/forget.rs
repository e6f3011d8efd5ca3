//! Volumes that are gone for good: nobody waits for them, and what they held is not revived when they come back.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Administered, Master, Mounts, TempDir, Volume, addresses, eventually, lines_of, volumes,
};

fn body(number: usize) -> Vec<u8> {
    format!("content of {number}").into_bytes()
}

/// The first half of the keys is deleted, of the others each third overwritten.
#[track_caller]
fn check(master: &Master) {
    for number in 0..24 {
        let expected = match number {
            0..12 => (404, vec![]),
            number if number % 3 == 0 => (200, b"another content".to_vec()),
            number => (200, body(number)),
        };
        assert_eq!(master.fetch(&format!("/{number}")), expected, "/{number}");
    }
}

/// Fills a cluster, and changes it while its first volume is away; that is stopped in the end.
fn bereaved(master: &Administered, gone: &mut Volume) {
    (0..24).for_each(|number| master.put(&format!("/{number}"), &body(number)));
    gone.kill9();
    eventually("it is known to be down", || master.json("GET", "/api/status", "")["volumes_up"] == 3);
    for number in 0..12 {
        assert!([204, 503].contains(&master.call("DELETE", &format!("/{number}"), b"").status));
    }
    for number in (12..24).step_by(3) {
        assert_eq!(master.call("REPLACE", &format!("/{number}"), b"another content").status, 204);
    }
}

fn empty(volume: &Volume) {
    for entry in fs::read_dir(volume.dir()).expect("it is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("it goes");
    }
}

#[test]
fn a_volume_that_is_forgotten_comes_back_empty_or_not_at_all() {
    let mut volumes = volumes(4);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    bereaved(&master, &mut volumes[0]);
    let gone = volumes[0].addr();
    assert!(master.master.stop().success());
    let here = Master::builder(&addresses(&volumes)).db(master.db()).build();
    let refused = |words: &str| {
        let (status, said) = here.job(&["forget", &gone, "-q"]);
        assert!(status.code() == Some(1) && said.contains(words), "{said}");
        assert_eq!(said.trim().lines().filter(|line| line.starts_with("mkv: ")).count(), 1, "{said}");
    };
    refused("set its mode to down first");
    assert!(here.job(&["volume-mode", &gone, "down"]).0.success());
    let (status, said) = here.job(&["forget", &gone]);
    assert!(status.success(), "{said}");
    let count =
        said.lines().find_map(|line| line.split_once(" files were to be removed from ")?.0.parse().ok());
    assert!(count > Some(12), "{said}");
    let (status, said) = here.job(&["forget", &gone]);
    assert!(status.success() && said.contains("\n0 files were") || said.starts_with("0 files"), "{said}");
    // Of what its records still name nothing waits either.
    let (status, said) = here.job(&["repair", "--quick"]);
    assert!(status.success() && !said.contains("to be removed"), "{said}");

    // It comes back with what it had.
    volumes[0].start_again();
    let all = addresses(&volumes);
    let with_it = || Master::builder(&all).db(master.db());
    let (status, said) = with_it().refusal();
    assert!(!status.success() && said.contains(&format!("volume {gone} belongs to cluster")), "{said}");
    let before = lines_of(master.db());
    let (status, said) = with_it().build().job(&["rebuild"]);
    assert!(status.code() == Some(1) && said.contains("belongs to cluster"), "{said}");
    assert_eq!(lines_of(master.db()), before);

    // Without it, nothing is left to wait for, and a rebuild knows no more.
    let mut without = Administered::start(Master::builder(&addresses(&volumes[1..])).db(master.db()));
    check(&without);
    eventually("nothing waits", || without.json("GET", "/api/status", "")["unsettled"] == 0);
    let files = volumes[1..].iter().flat_map(Volume::files);
    let blobs = files.filter(|file| !file.ends_with(".meta") && file != "=cluster");
    assert_eq!(blobs.count(), 3 * 12);
    assert_eq!(without.call("DELETE", "/23", b"").status, 204);
    without.put("/23", &body(23));
    assert!(without.master.stop().success());
    let (status, said) = without.master.job(&["rebuild", "--discard-old"]);
    assert!(status.success(), "{said}");
    without.master.start_again();
    check(&without);
    assert!(without.master.stop().success());

    // Emptied, it is as good as a new one.
    volumes[0].stop();
    empty(&volumes[0]);
    volumes[0].start_again();
    let again = with_it().start();
    check(&again);
}

/// Its files are the only ones of some keys; those would be lost.
#[test]
fn a_volume_that_has_the_only_replica_of_a_key_is_not_forgotten() {
    let volumes = volumes(2);
    let mut master = Master::builder(&addresses(&volumes)).flag("replicas", "1").start();
    (0..12).for_each(|number| master.put(&format!("/{number}"), &body(number)));
    assert!(master.stop().success());
    assert!(master.job(&["volume-mode", &volumes[0].addr(), "down"]).0.success());
    let (status, said) = master.job(&["forget", &volumes[0].addr()]);
    assert!(
        status.code() == Some(1) && said.contains("keys are only on volumes that would be left"),
        "{said}"
    );
    assert!(master.job(&["undrain", &volumes[0].addr()]).0.success());
    master.start_again();
    (0..12).for_each(|number| assert_eq!(master.fetch(&format!("/{number}")), (200, body(number))));
}

/// Where a volume was that a record still names, there is another cluster's now.
#[test]
fn what_is_another_clusters_by_now_is_not_removed() {
    let mut volumes = volumes(4);
    let mut before = Master::builder(&addresses(&volumes)).start();
    (0..24).for_each(|number| before.put(&format!("/{number}"), &body(number)));
    assert!(before.stop().success());
    volumes[3].stop();
    empty(&volumes[3]);
    volumes[3].start_again();
    let other = Master::builder(&volumes[3].addr()).flag("replicas", "1").start();
    (0..24).for_each(|number| other.put(&format!("/{number}"), &body(number)));
    let master = Master::builder(&addresses(&volumes[..3])).db(before.db()).start();
    let statuses: Vec<u16> =
        (0..24).map(|number| master.call("DELETE", &format!("/{number}"), b"").status).collect();
    assert!(
        statuses.contains(&503) && statuses.iter().all(|status| [204, 503].contains(status)),
        "{statuses:?}"
    );
    (0..24)
        .for_each(|number| assert_eq!(other.fetch(&format!("/{number}")), (200, body(number)), "{number}"));
}

/// Nothing on a volume that is only read will change, so there is nothing to wait for.
#[test]
fn a_job_does_not_wait_for_a_volume_that_takes_no_changes() {
    let volumes = volumes(4);
    let mut master = Master::builder(&addresses(&volumes)).flag("grace", "60s").start();
    (0..12).for_each(|number| master.put(&format!("/{number}"), &body(number)));
    assert!(master.stop().success());
    assert!(master.job(&["volume-mode", &volumes[0].addr(), "readonly"]).0.success());
    master.start_again();
    (0..12).for_each(|number| {
        assert!([204, 503].contains(&master.call("DELETE", &format!("/{number}"), b"").status));
    });
    assert!(master.stop().success());
    let begun = std::time::Instant::now();
    let (status, said) = master.job(&["rebalance"]);
    assert!(status.code() == Some(1) && said.contains("are to be removed as soon as it answers"), "{said}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_running_server_forgets_a_volume_and_does_not_use_it_again() {
    let mut volumes = volumes(4);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    bereaved(&master, &mut volumes[0]);
    let gone = volumes[0].addr();
    let forget = json!({ "volume": gone }).to_string();
    let refused = master.job("forget", &forget);
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("down first")), "{refused}");
    assert_eq!(master.json("PUT", &format!("/api/volumes/{gone}"), r#"{"mode":"down"}"#)["mode"], "down");
    assert_eq!(
        master.job("repair", r#"{"quick":true,"rate":"unlimited"}"#)["status"]["kinds"]["missing"],
        json!(null)
    );
    let (succeeded, said) = master.job_words(&["forget", &gone]);
    assert!(succeeded, "{said}");
    eventually("nothing waits", || master.json("GET", "/api/status", "")["unsettled"] == 0);
    check(&master);
    volumes[0].start_again();
    master.json("PUT", &format!("/api/volumes/{gone}"), r#"{"mode":"alive"}"#);
    eventually("it is looked at", || master.json("GET", "/api/volumes", "")[0]["state"] == "foreign");
    (30..40).for_each(|number| master.put(&format!("/{number}"), &body(number)));
    check(&master);
    let up = master.json("GET", "/api/status", "")["volumes_up"].clone();
    assert_eq!(up, 3, "the others are as they were");
}

/// All other volumes are told, or the forgotten one is not fenced off yet; until then they are all ours.
#[test]
fn forgetting_that_was_cut_off_is_finished_by_the_next_run() {
    let (dir, mut mounts) = (TempDir::new(), Mounts::new());
    mounts.tmpfs(&dir.join("small"), "4m");
    let mut volumes = volumes(3);
    volumes.push(Volume::builder().dir(dir.join("small")).among(&mounts).start());
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    bereaved(&master, &mut volumes[0]);
    let gone = volumes[0].addr();
    assert!(master.master.stop().success());
    let here = Master::builder(&addresses(&volumes)).db(master.db()).build();
    assert!(here.job(&["volume-mode", &gone, "down"]).0.success());
    here.job(&["repair", "--quick"]);
    let filler = volumes[3].dir().join("filler");
    assert!(fs::write(&filler, vec![1; 8 << 20]).is_err(), "it has room for that");
    let (status, said) = here.job(&["forget", &gone]);
    assert!(status.code() == Some(1) && said.contains("nothing is forgotten yet, run it again"), "{said}");
    // A server serves meanwhile.
    master.master.start_again();
    master.wait();
    check(&master);
    assert_eq!(master.json("GET", "/api/status", "")["volumes_up"], 3);
    fs::remove_file(&filler).unwrap();
    assert!(master.master.stop().success());
    let (status, said) = here.job(&["verify-index"]);
    assert!(status.success(), "{said}");
    let (status, said) = here.job(&["forget", &gone]);
    assert!(status.success(), "{said}");
    volumes[0].start_again();
    let (status, said) = Master::builder(&addresses(&volumes)).db(master.db()).refusal();
    assert!(!status.success() && said.contains("belongs to cluster"), "{said}");
    let ids: Vec<String> =
        volumes.iter().map(|volume| fs::read_to_string(volume.dir().join("=cluster")).unwrap()).collect();
    assert!(ids[1] == ids[2] && ids[2] == ids[3] && ids[0] != ids[1], "{ids:?}");
}

/// A client that takes its time with what it writes to the volume that is gone must not keep anybody from stopping.
#[test]
fn forgetting_that_waits_for_a_client_can_be_stopped_and_run_again() {
    let mut volumes = volumes(4);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    // Of these at least one goes to the volume that will be gone.
    let slow: Vec<TcpStream> = (0..12)
        .map(|number| {
            let mut stream = TcpStream::connect(master.master.addr()).expect("the master listens");
            let head = format!("PUT /slow/{number} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("it is read");
            stream.write_all(&[1; 200_000]).expect("it is read");
            stream
        })
        .collect();
    eventually("they are being written", || {
        let said = String::from_utf8(master.call("GET", "/slow/?writing", b"").body).expect("JSON");
        said.matches("/slow/").count() == slow.len()
    });
    volumes[0].kill9();
    eventually("it is known to be down", || master.json("GET", "/api/status", "")["volumes_up"] == 3);
    let gone = volumes[0].addr();
    assert_eq!(master.json("PUT", &format!("/api/volumes/{gone}"), r#"{"mode":"down"}"#)["mode"], "down");
    let forget = json!({ "volume": gone }).to_string();
    let id = master.json("POST", "/api/jobs/forget", &forget)["id"].as_u64().expect("a number");
    let job = || master.json("GET", &format!("/api/jobs/{id}"), "");
    eventually("it waits", || job()["status"]["phase"] == "forgetting what was to be removed from it");
    let stopping = Instant::now();
    master.json("DELETE", &format!("/api/jobs/{id}"), "");
    let ended = master.end_of(id);
    assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
    assert_eq!(ended["state"], "stopped", "{ended}");
    let what = ended["status"]["findings"][0]["what"].as_str();
    assert_eq!(what, Some("stopped before the end; run it again"), "{ended}");
    drop(slow);
    let again = master.job("forget", &forget);
    assert_eq!(again["state"], "done", "{again}");
    eventually("nothing waits", || master.json("GET", "/api/status", "")["unsettled"] == 0);
}
