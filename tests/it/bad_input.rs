//! Requests that no client should send, and clients that go away: a clear answer or a closed connection, nothing
//! stored, no key held, and a server that goes on.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, TempDir, eventually, http, raw};

/// More than the server keeps in memory of a body.
const LARGE: usize = 2 << 20;

fn cluster() -> Cluster {
    Cluster::of(3, |master| master.flag("bodytimeout", "300ms").flag("grace", "300ms"))
}

/// Nothing is stored, `/k` can be written and removed, and that leaves nothing either.
#[track_caller]
fn assert_unharmed(cluster: &Cluster, after: &str) {
    eventually(&format!("nothing is stored after {after}"), || cluster.files().is_empty());
    assert_eq!(cluster.master.list("/?list"), Vec::<String>::new(), "{after}");
    for content in [vec![1; 10], vec![2; LARGE]] {
        // An upload that was cut off is being undone when its client has gone already.
        eventually(&format!("the key is free after {after}"), || {
            let stored = cluster.master.call("PUT", "/k", &content);
            assert!(matches!(stored.status, 201 | 409), "{after}: {}", stored.text());
            stored.status == 201
        });
        assert_eq!(cluster.master.fetch("/k"), (200, content), "{after}");
        assert_eq!(cluster.master.call("DELETE", "/k", b"").status, 204, "{after}");
    }
    assert_eq!(cluster.files(), Vec::<String>::new(), "{after}");
}

/// The status of the first answer; `None` when the connection was closed without one.
fn status_of(answer: &[u8]) -> Option<u16> {
    let line = String::from_utf8_lossy(answer);
    let status = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    status.get(..3)?.parse().ok()
}

fn open(cluster: &Cluster, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(cluster.master.addr()).expect("the master listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout above zero");
    stream.write_all(bytes).expect("it is read");
    stream
}

/// Everything until the connection closes.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn head(length: usize) -> Vec<u8> {
    format!("PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

#[test]
fn requests_that_are_no_http_are_refused() {
    let cluster = cluster();
    let huge_header = format!("PUT /k HTTP/1.1\r\nHost: x\r\nX-Huge: {}\r\n", "x".repeat(1 << 20));
    let many_headers =
        format!("PUT /k HTTP/1.1\r\nHost: x\r\n{}Content-Length: 1\r\n\r\nx", "A: b\r\n".repeat(1000));
    let huge_line = format!("PUT /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1 << 20));
    let requests: [&[u8]; 12] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello, is this TLS?\r\n\r\n",
        b"PUT\r\n\r\n",
        b"PUT /k\r\n\r\n",
        b"PUT /k HTTP/9.9\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        b"P\x00T /k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        b"PUT /k HTTP/1.1\r\nHost x\r\nContent-Length: 1\r\n\r\nx",
        b"PUT /\xd0\xbf HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        b"PUT /k\x00 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        b"PUT /a b HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        huge_header.as_bytes(),
        many_headers.as_bytes(),
        huge_line.as_bytes(),
    ];
    for request in requests {
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).escape_debug().to_string();
        let answer = raw(&cluster.master.addr(), request);
        let status = status_of(&answer);
        assert!(matches!(status, None | Some(400 | 413 | 414 | 431 | 505)), "{shown}: {status:?}");
    }
    assert_unharmed(&cluster, "requests that are no HTTP");
}

#[test]
fn lengths_that_contradict_themselves_are_refused() {
    let cluster = cluster();
    let check = |headers: &str, body: &str| {
        let request = format!("PUT /k HTTP/1.1\r\nHost: x\r\n{headers}\r\nConnection: close\r\n\r\n{body}");
        let answer = raw(&cluster.master.addr(), request.as_bytes());
        assert_eq!(status_of(&answer), Some(400), "{headers}: {}", String::from_utf8_lossy(&answer));
        assert_unharmed(&cluster, headers);
    };
    check("Content-Length: 1\r\nContent-Length: 2", "xy");
    check("Content-Length: 2\r\nContent-Length: 2", "xy");
    check("Content-Length: 1, 2", "xy");
    check("Content-Length: -1", "x");
    check("Content-Length: +1", "x");
    check("Content-Length: 1x", "x");
    check("Content-Length: 99999999999999999999999", "x");
    check("Content-Length: 3\r\nTransfer-Encoding: chunked", "1\r\nx\r\n0\r\n\r\n");
    check("Transfer-Encoding: chunked\r\nContent-Length: 3", "1\r\nx\r\n0\r\n\r\n");
    check("Transfer-Encoding: chunked, identity", "1\r\nx\r\n0\r\n\r\n");
}

#[test]
fn chunks_that_are_none_store_nothing() {
    let cluster = cluster();
    for body in
        ["z\r\nx\r\n0\r\n\r\n", "ffffffffffffffffff\r\nx\r\n0\r\n\r\n", "2\r\nx\r\n0\r\n\r\n", "-1\r\nx\r\n"]
    {
        let head = "PUT /k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        let answer = raw(&cluster.master.addr(), format!("{head}{body}").as_bytes());
        let status = status_of(&answer);
        assert!(matches!(status, None | Some(400 | 408)), "{body:?}: {status:?}");
        assert_unharmed(&cluster, body);
    }
}

#[test]
fn body_that_is_longer_than_announced_is_no_part_of_the_blob() {
    let cluster = cluster();
    let answer = raw(
        &cluster.master.addr(),
        b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloworld\r\n\r\n",
    );
    assert_eq!(status_of(&answer), Some(201), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(cluster.master.fetch("/k"), (200, b"hello".to_vec()));
    assert_eq!(cluster.master.call("DELETE", "/k", b"").status, 204);
    assert_unharmed(&cluster, "a body that was too long");
}

#[test]
fn client_that_goes_away_stores_nothing() {
    let cluster = cluster();
    let chunked = b"PUT /k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let piece = |size: usize| [format!("{size:x}\r\n").as_bytes(), &vec![7; size], b"\r\n"].concat();
    let requests = [
        ("half a head", b"PUT /k HTTP/1.1\r\nHo".to_vec()),
        ("a head only", head(10)),
        ("half a small body", [head(10), vec![7; 5]].concat()),
        ("a small body but for its last byte", [head(10), vec![7; 9]].concat()),
        ("a head only of a large body", head(LARGE)),
        ("half a large body", [head(LARGE), vec![7; LARGE / 2]].concat()),
        ("a large body but for its last byte", [head(LARGE), vec![7; LARGE - 1]].concat()),
        ("half a small chunk", [chunked.clone(), piece(10)[..8].to_vec()].concat()),
        ("a small chunk without the end", [chunked.clone(), piece(10)].concat()),
        ("large chunks without the end", [chunked.clone(), piece(LARGE), piece(LARGE)].concat()),
        ("large chunks and half the end", [chunked, piece(LARGE), b"0\r\n".to_vec()].concat()),
    ];
    for (what, request) in requests {
        // Says that it has nothing more to send, and listens.
        let stream = open(&cluster, &request);
        stream.shutdown(Shutdown::Write).expect("it is open");
        let answer = rest(stream);
        let status = status_of(&answer);
        assert!(matches!(status, None | Some(400 | 408)), "{what}: {}", String::from_utf8_lossy(&answer));
        assert_unharmed(&cluster, what);
        // Is gone.
        drop(open(&cluster, &request));
        assert_unharmed(&cluster, what);
    }
}

#[test]
fn client_that_goes_away_behind_its_body_has_stored_it_or_not() {
    let cluster = cluster();
    for size in [10, LARGE] {
        drop(open(&cluster, &[head(size), vec![7; size]].concat()));
        eventually("nobody holds the key", || cluster.master.call("REPLACE", "/k", b"x").status != 409);
        assert_eq!(cluster.master.fetch("/k"), (200, b"x".to_vec()));
        assert_eq!(cluster.master.call("DELETE", "/k", b"").status, 204);
        assert_unharmed(&cluster, "a client that did not wait for its answer");
    }
}

#[test]
fn client_that_stops_sending_its_body_is_told_so() {
    let cluster = cluster();
    for (size, sent) in [(10, 0), (10, 5), (LARGE, 0), (LARGE, LARGE / 2)] {
        let started = Instant::now();
        let answer = rest(open(&cluster, &[head(size), vec![7; sent]].concat()));
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(status_of(&answer), Some(408), "{sent} of {size}: {text}");
        assert!(text.contains("too slowly"), "{text}");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        assert_unharmed(&cluster, "a client that fell silent");
    }
}

#[test]
fn client_that_trickles_its_body_is_told_so() {
    let cluster = cluster();
    for size in [1000, LARGE] {
        let mut stream = open(&cluster, &head(size));
        let mut writer = stream.try_clone().expect("a socket can be cloned");
        let trickle = std::thread::spawn(move || {
            // Ends when the other side has closed.
            for _ in 0..1000 {
                if writer.write_all(&[7]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("it is told");
        assert_eq!(status_of(&answer), Some(408));
        drop(stream);
        trickle.join().expect("it ends");
        assert_unharmed(&cluster, "a client that trickled");
    }
}

#[test]
fn client_that_does_not_finish_its_head_is_let_go() {
    let cluster = cluster();
    let started = Instant::now();
    let silent = open(&cluster, b"");
    let begun = open(&cluster, b"PUT /k HTTP/1.1\r\nHost:");
    let mut trickling = open(&cluster, b"PUT /k HTTP/1.1\r\nX-Header: ");
    let mut writer = trickling.try_clone().expect("a socket can be cloned");
    let trickle = std::thread::spawn(move || {
        while writer.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    for stream in [silent, begun] {
        let status = status_of(&rest(stream));
        assert!(matches!(status, None | Some(408)), "{status:?}");
    }
    let _ = trickling.read(&mut [0; 1024]);
    drop(trickling);
    trickle.join().expect("it ends");
    // The limit for a head is ten seconds; the harness gives up after thirty.
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    assert_unharmed(&cluster, "heads without end");
}

#[test]
fn early_refusal_reaches_a_client_that_is_still_sending() {
    let cluster = Cluster::start();
    let dir = TempDir::new();
    let file = dir.join("large");
    fs::File::create(&file).and_then(|file| file.set_len(64 << 20)).expect("our directory is writable");
    cluster.master.put("/k", b"one");
    for expect in ["Expect: 100-continue", "Expect:"] {
        for (method, url, expected) in [
            ("PUT", cluster.master.url("/k"), "403"),
            ("PUT", cluster.master.url("/k?uploads"), "501"),
            ("POST", cluster.master.url("/k"), "405"),
            ("PUT", cluster.master.url("/%zz"), "400"),
        ] {
            let output = Command::new("curl")
                .args(["--silent", "--show-error", "--output", "-", "--write-out", "\n%{http_code}"])
                .args(["--request", method, "--header", expect, "--upload-file"])
                .arg(&file)
                .arg(&url)
                .output()
                .expect("curl is installed");
            let said = String::from_utf8_lossy(&output.stdout);
            let wrong = String::from_utf8_lossy(&output.stderr);
            assert!(said.ends_with(expected), "{method} {url} {expect}: {said} {wrong}");
        }
    }
    assert_eq!(cluster.master.fetch("/k"), (200, b"one".to_vec()));
    assert_eq!(cluster.files().len(), 3);
}

#[test]
fn requests_behind_each_other_are_answered_in_order() {
    let cluster = cluster();
    let requests = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na\
        GET /a HTTP/1.1\r\nHost: x\r\n\r\n\
        DELETE /a HTTP/1.1\r\nHost: x\r\n\r\n\
        BREW /a HTTP/1.1\r\nHost: x\r\n\r\n\
        GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = raw(&cluster.master.addr(), requests);
    let text = String::from_utf8_lossy(&answer);
    let statuses: Vec<&str> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["201", "302", "204", "405", "404"], "{text}");
    assert_unharmed(&cluster, "pipelined requests");
}

#[test]
fn absurd_queries_and_methods_are_refused() {
    let cluster = cluster();
    let check = |method: &str, path: &str, expected: u16| {
        let response = cluster.master.call(method, path, b"");
        assert_eq!(response.status, expected, "{method} {path}: {}", response.text());
    };
    for query in ["x", "list2", "=", "=list", "%zz", "%00", "&&x", "x=%ff"] {
        check("GET", &format!("/k?{query}"), 403);
        check("HEAD", &format!("/k?{query}"), 403);
    }
    for limit in ["x", "1x", "1.5", "%00", "99999999999999999999999"] {
        check("GET", &format!("/?list&limit={limit}"), 400);
    }
    for path in ["/%", "/%4", "/%zz", "/a%%b"] {
        for method in ["GET", "DELETE", "UNLINK", "RELINK"] {
            check(method, path, 400);
        }
    }
    for method in ["PROPFIND", "get", "put", "LIST", "X"] {
        check(method, "/k", 405);
    }
    check("DELETE", &format!("/{}", "x".repeat(10 << 10)), 414);
    // The body of a request that has none is no part of the next one.
    let response = http("DELETE", &cluster.master.url("/k"), b"with a body", &[]);
    assert_eq!(response.status, 404);
    assert_unharmed(&cluster, "absurd requests");
}
