//! What jobs of a running server say of themselves is so: that they are done, that they were stopped, how many problems
//! there are; and what is asked of them, however odd, ends none of it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use minikeyvalue::model::{File, Key, folded_path, path_of};
use serde_json::{Value, json};

use crate::harness::{Administered, Master, addresses, eventually, placer, volumes, wait_for};

const FAST: &str = r#"{"rate":"unlimited"}"#;

fn jobs(master: &Administered) -> Vec<Value> {
    master.json("GET", "/api/jobs", "").as_array().expect("a list").clone()
}

fn state_of(master: &Administered) -> Value {
    serde_json::from_slice(&fs::read(master.state_file()).expect("it is there")).expect("it is JSON")
}

/// One blob in more seconds than a clock has.
#[test]
fn the_slowest_rate_there_is_does_not_end_the_server() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    (0..5).for_each(|number| master.put(&format!("/{number}"), b"x"));
    for rate in ["1e-300", "0.00000000000000000000000000000000000001B"] {
        let job = master.json("POST", "/api/jobs/scrub", &json!({ "rate": rate }).to_string());
        let path = format!("/api/jobs/{}", job["id"]);
        eventually("it has had its first turn", || {
            master.json("GET", &path, "")["status"]["keys"].as_u64() >= Some(1)
        });
        assert_eq!(master.json("DELETE", &path, "")["state"], "stopping", "{rate}");
        assert_eq!(master.end_of(job["id"].as_u64().expect("a number"))["state"], "stopped", "{rate}");
    }
}

#[test]
fn a_job_that_has_ended_stays_what_it_was() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    master.put("/a", b"x");
    let done = master.job("scrub", r#"{"rate":"1000"}"#);
    let path = format!("/api/jobs/{}", done["id"]);
    for (method, body) in [("DELETE", ""), ("PATCH", r#"{"rate":"7"}"#), ("DELETE", "")] {
        assert_eq!(master.json(method, &path, body), done, "{method}");
    }
    assert_eq!(master.json("GET", &path, ""), done);
}

#[test]
fn a_scrub_that_is_stopped_does_not_go_on_to_walk_the_volumes() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    (0..5).for_each(|number| master.put(&format!("/{number}"), b"x"));
    let id = master.json("POST", "/api/jobs/scrub", r#"{"rate":"0.1"}"#)["id"].as_u64().expect("a number");
    eventually("it reads", || {
        master.json("GET", &format!("/api/jobs/{id}"), "")["status"]["phase"] == "reading every replica"
    });
    master.json("DELETE", &format!("/api/jobs/{id}"), "");
    let ended = master.end_of(id);
    assert_eq!(
        (&ended["state"], &ended["status"]["phase"]),
        (&json!("stopped"), &json!("reading every replica"))
    );
}

/// Whoever asks for a quick look has read nothing, so what is due afterwards is what was due before.
#[test]
fn a_quick_scrub_changes_nothing_about_when_everything_is_read() {
    let volumes = volumes(3);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)).flag("scrub-every", "1h"));
    (0..30).for_each(|number| master.put(&format!("/{number}"), b"x"));
    assert!(master.master.stop().success());
    let mut state = state_of(&master);
    state["index"]["since_us"] = json!(5);
    fs::write(master.state_file(), state.to_string()).expect("it can be written");
    master.master.start_again();
    master.wait();
    let id = wait_for("a scrub has begun by itself", || jobs(&master).first().map(|job| job["id"].clone()));
    // It sets a rate of its own when it begins.
    eventually("it reads", || {
        master.json("GET", &format!("/api/jobs/{id}"), "")["status"]["phase"] == "reading every replica"
    });
    master.json("PATCH", &format!("/api/jobs/{id}"), FAST);
    assert_eq!(master.end_of(id.as_u64().expect("a number"))["state"], "done");
    assert_eq!(master.job("scrub", r#"{"quick":true,"rate":"unlimited"}"#)["state"], "done");
    assert!(master.stop_and_start());
    // It looks as soon as it has started, and who asks twice is answered after that.
    assert_eq!((jobs(&master), jobs(&master)), (vec![], vec![]), "everything was read a moment ago");
    assert!(master.master.stop().success());
    let mut state = state_of(&master);
    let at = json!({ "begun_us": 7, "key": "/5", "unclean": [], "findings": {}, "left": 0 });
    state["scrub_at"] = at.clone();
    fs::write(master.state_file(), state.to_string()).expect("it can be written");
    let stopped = Master::builder(&addresses(&volumes)).db(master.db()).build();
    assert!(stopped.job(&["scrub", "--quick"]).0.success());
    assert_eq!(state_of(&master)["scrub_at"], at, "one that reads goes on where it was");
    master.master.start_again();
    master.wait();
    let status = wait_for("it goes on", || {
        let status = jobs(&master).first()?["status"].clone();
        (status["phase"] == "reading every replica").then_some(status)
    });
    assert_eq!(status["total"], 4, "/6 to /9 are left: {status}");
    assert!(master.master.stop().success());
    assert!(stopped.job(&["scrub"]).0.success());
    assert_eq!(state_of(&master)["scrub_at"], Value::Null);
}

/// The upload was placed before the volume was to be emptied, and is in no record before its end.
#[test]
fn a_drain_waits_for_uploads_that_are_on_their_way_to_the_volume() {
    let volumes = volumes(4);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    let drained = volumes[0].addr();
    let is_on_it = |key: &String| {
        let places = placer(&volumes, 3).placement(key.as_bytes());
        places.iter().any(|place| place.volume().as_str() == drained)
    };
    let key = (0..).map(|number| format!("/{number}")).find(is_on_it).expect("most are");
    let body = vec![7; 200_000];
    let mut upload = TcpStream::connect(master.addr()).expect("the master listens");
    let head = format!(
        "PUT {key} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        master.addr(),
        body.len()
    );
    upload.write_all(head.as_bytes()).expect("it is read");
    upload.write_all(&body[..100_000]).expect("it is read");
    eventually("the upload has begun", || master.list("/?writing") == [key.clone()]);
    let options = json!({ "volume": drained, "rate": "unlimited" }).to_string();
    let id = master.json("POST", "/api/jobs/drain", &options)["id"].as_u64().expect("a number");
    eventually("the drain has been through all keys", || {
        let job = master.json("GET", &format!("/api/jobs/{id}"), "");
        job["status"]["phase"] == "waiting for writes that began before" || !job["ended_us"].is_null()
    });
    upload.write_all(&body[100_000..]).expect("it is read");
    let mut answer = String::new();
    upload.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let ended = master.end_of(id);
    assert_eq!(ended["state"], "done", "{ended}");
    let replicas = master.json("GET", "/api/keys", "")["keys"][0]["replicas"].to_string();
    assert!(!replicas.contains(&drained), "it is said to be empty, and the blob is on {replicas}");
    assert_eq!(master.fetch(&key), (200, body));
}

/// It goes through all keys twice, as they may have been written in the meantime.
#[test]
fn a_drain_tells_every_problem_once() {
    let volumes = volumes(4);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    (0..8).for_each(|number| master.put(&format!("/{number}"), b"x"));
    let on_it = master.json("GET", "/api/keys", "")["keys"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|key| key["replicas"].to_string().contains(&volumes[0].addr()))
        .count();
    assert!(on_it > 0);
    let is_blob = |name: &&String| !name.starts_with('=');
    for volume in &volumes {
        for name in volume.files().iter().filter(is_blob) {
            fs::remove_file(volume.dir().join(name)).expect("it is there");
        }
    }
    let job = master.job("drain", &json!({ "volume": volumes[0].addr(), "rate": "unlimited" }).to_string());
    let status = &job["status"];
    assert_eq!(job["state"], "left", "{job}");
    // Each key, and that the volume isn't empty.
    assert_eq!(status["problems"], json!(on_it + 1), "{job}");
    assert_eq!(status["findings"].as_array().expect("a list").len(), on_it + 1, "{job}");
}

/// A Go original may have stored them at another path, so they are looked at wherever they are said to be.
#[test]
fn keys_that_may_lie_elsewhere_are_counted_among_those_to_be_moved() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    ["/plain", "/%ff%ff%ff%ff"].iter().for_each(|key| master.put(key, b"x"));
    let job = master.job("rebalance", FAST);
    let status = &job["status"];
    assert_eq!(
        (&job["state"], &status["done"], &status["total"]),
        (&json!("done"), &json!(1), &json!(1)),
        "{job}"
    );
}

/// To be told apart from those that may lie elsewhere and don't.
#[test]
fn only_keys_that_do_lie_elsewhere_are_misplaced() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    master.put("/%ff%ff%ff%ff", b"x");
    let scrub = master.job("scrub", FAST);
    assert_eq!(scrub["state"], "done", "{scrub}");
    assert_eq!(master.json("GET", "/api/keys", "")["keys"][0]["balanced"], true);
    let key = Key::from_request_path("/%ff%ff%ff%ff").expect("a key");
    let own = placer(&volumes, 3).placement(key.as_bytes())[0].clone();
    let volume = volumes.iter().find(|volume| volume.addr() == own.volume().as_str()).expect("it is ours");
    let tree = volume.dir().join(own.as_str().rsplit('/').next().expect("a subvolume"));
    let at = |path: &str| tree.join(&path[1..]);
    let folded = at(&folded_path(&key).expect("it has one"));
    fs::create_dir_all(folded.parent().expect("a folder")).expect("it can be made");
    fs::rename(at(&path_of(&key, File::Blob(None))), folded).expect("it is there");
    let scrub = master.job("scrub", FAST);
    assert_eq!(
        (&scrub["state"], &scrub["status"]["kinds"]),
        (&json!("left"), &json!({ "misplaced": 1 })),
        "{scrub}"
    );
    let repair = master.job("repair", FAST);
    assert_eq!((&repair["state"], &repair["status"]["mended"]), (&json!("done"), &json!(1)), "{repair}");
    eventually("the other file is removed", || master.json("GET", "/api/status", "")["unsettled"] == 0);
    assert_eq!(master.job("scrub", FAST)["state"], "done");
}
