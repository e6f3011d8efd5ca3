//! What jobs of a running server say of themselves is so: that they are done, that they were stopped, how many problems
//! there are; and what is asked of them, however odd, ends none of it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

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

/// A Go original may have stored them at another path, so they are looked at wherever they are said to be.
#[test]
fn keys_that_may_lie_elsewhere_are_counted_among_those_to_be_moved() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    ["/plain", "/%ff%ff%ff"].iter().for_each(|key| master.put(key, b"x"));
    let job = master.job("rebalance", FAST);
    let status = &job["status"];
    assert_eq!(
        (&job["state"], &status["done"], &status["total"]),
        (&json!("done"), &json!(1), &json!(1)),
        "{job}"
    );
}
