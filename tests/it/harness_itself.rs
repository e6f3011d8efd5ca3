//! The harness does what its users rely on: hung volumes hang, killed ones come back, stubs misbehave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::harness::{TcpStub, Volume, get, http, is_gone, raw};

const BLOB: &str = "/sv00/5d/41/aGVsbG8=";

#[test]
fn volume_survives_kill9_with_its_files_and_port() {
    let mut volume = Volume::start();
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[]).status, 201);
    let processes = [vec![volume.pid()], volume.workers()].concat();
    volume.kill9();
    assert!(processes.iter().all(|pid| is_gone(*pid)));
    assert!(TcpStream::connect(volume.addr()).is_err());
    volume.start_again();
    assert_eq!(get(&volume.url(BLOB)).body, b"hello");
    assert_eq!(volume.files(), [&BLOB[1..]]);
}

#[test]
fn paused_volume_accepts_and_stays_silent_until_resumed() {
    let volume = Volume::start();
    volume.pause();
    let mut stream = TcpStream::connect(volume.addr()).expect("the kernel accepts");
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("above zero");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n").expect("it fits the buffer");
    assert!(stream.read(&mut [0; 1]).is_err(), "a paused volume answered");
    volume.resume();
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("above zero");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("a resumed volume answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn client_knows_any_method_and_follows_nothing() {
    let volume = Volume::start();
    http("PUT", &volume.url(BLOB), b"hello", &[]);
    let redirect = get(&volume.url("/sv00/5d"));
    assert_eq!(redirect.status, 301);
    assert!(redirect.header("location").is_some_and(|location| location.ends_with("/sv00/5d/")));
    assert_eq!(http("UNLINK", &volume.url(BLOB), b"", &[]).status, 405);
    assert_eq!(http("REPLACE", &volume.url(BLOB), b"body", &[("X-Any", "thing")]).status, 405);
}

#[test]
fn stubs_misbehave_as_they_promise() {
    let put = b"PUT /x HTTP/1.1\r\nHost: v\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    let failing = TcpStub::answering_500();
    let mut stream = TcpStream::connect(failing.addr()).expect("it listens");
    for _ in 0..2 {
        stream.write_all(put).expect("it reads");
        let expected = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).expect("it answers, and keeps the connection");
        assert_eq!(answer, expected);
    }
    let closing = TcpStub::closing_in_mid_body();
    assert!(raw(closing.addr(), put).is_empty());
    let silent = TcpStub::silent();
    let mut stream = TcpStream::connect(silent.addr()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("above zero");
    stream.write_all(put).expect("it fits the buffer");
    assert!(stream.read(&mut [0; 1]).is_err(), "a silent stub answered or closed");
    assert_eq!(silent.accepted(), 1);
}
