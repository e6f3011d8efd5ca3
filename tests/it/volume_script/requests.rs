//! What one request can do to a volume: read, write or remove one file, and nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, UNIX_EPOCH};

use crate::harness::{Volume, children, eventually, files_below, get, http, raw, wait_for};

/// One of each shape that `docs/format.md` knows: with and without subvolume, `/` in base64, the `=` form,
/// a generation, a sidecar.
const FILES: [&str; 7] = [
    "/sv00/5d/41/aGVsbG8=",
    "/5d/41/aGVsbG8=",
    "/sv00/42/95/L8O8w7HDrQ==",
    "/86/e9/L+aXpeacrOiqni/pjbU=",
    "/86/e9/=/AAAA~/BBBB",
    "/sv0A/5d/41/aGVsbG8=.0123456789abcdef",
    "/sv0A/5d/41/aGVsbG8=.meta",
];

fn volume_with_files() -> Volume {
    let volume = Volume::start();
    for path in FILES {
        assert_eq!(http("PUT", &volume.url(path), path.as_bytes(), &[]).status, 201, "{path}");
    }
    volume
}

/// A request that no client would send as it is; returns the status.
fn raw_status(volume: &Volume, method: &str, target: &str, headers: &str) -> u16 {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: v\r\nConnection: close\r\n{headers}\r\n");
    let answer = String::from_utf8_lossy(&raw(&volume.addr(), request.as_bytes())).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("{method} {target}: {answer}"))
}

#[test]
fn files_of_every_shape_are_written_read_and_removed() {
    let volume = volume_with_files();
    for path in FILES {
        let found = get(&volume.url(path));
        assert_eq!((found.status, found.text()), (200, path.to_owned()));
        let head = http("HEAD", &volume.url(path), b"", &[]);
        assert_eq!(head.header("content-length"), Some(path.len().to_string().as_str()));
        let part = http("GET", &volume.url(path), b"", &[("Range", "bytes=1-2")]);
        assert_eq!((part.status, part.body), (206, path.as_bytes()[1..3].to_vec()));
    }
    for path in FILES {
        assert_eq!(http("DELETE", &volume.url(path), b"", &[]).status, 204, "{path}");
        assert_eq!(get(&volume.url(path)).status, 404, "{path}");
        assert_eq!(http("DELETE", &volume.url(path), b"", &[]).status, 404, "{path}");
    }
    assert!(volume.files().is_empty());
}

#[test]
fn cluster_id_at_the_root_is_written_and_read() {
    let volume = Volume::start();
    assert_eq!(get(&volume.url("/=cluster")).status, 404);
    assert_eq!(http("PUT", &volume.url("/=cluster"), b"id", &[]).status, 201);
    assert_eq!(get(&volume.url("/=cluster")).text(), "id");
}

#[test]
fn put_replaces_a_file_and_takes_its_time_from_the_date_header() {
    let volume = Volume::start();
    let url = volume.url(FILES[0]);
    http("PUT", &url, b"old", &[]);
    let date = ("Date", "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(http("PUT", &url, b"new", &[date]).status, 204);
    assert_eq!(get(&url).text(), "new");
    let modified = volume.dir().join(&FILES[0][1..]).metadata().expect("it is there").modified();
    let expected = UNIX_EPOCH + Duration::from_secs(784_111_777);
    assert_eq!(modified.expect("Linux has times of files"), expected);
}

#[test]
fn body_of_unknown_length_is_stored_whole() {
    let volume = Volume::start();
    let request = format!(
        "PUT {} HTTP/1.1\r\nHost: v\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        FILES[0]
    );
    let answer = raw(&volume.addr(), request.as_bytes());
    assert!(answer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(get(&volume.url(FILES[0])).text(), "hello");
}

#[test]
fn no_request_removes_or_blocks_a_folder() {
    let volume = volume_with_files();
    let before = volume.files();
    let folders = [
        "/",
        "//",
        "/.",
        "/x/..",
        "/%2F",
        "/%2e",
        "/sv00",
        "/sv00/",
        "//sv00",
        "//sv00//",
        "/sv00/.",
        "/sv00//",
        "/sv00/x/..",
        "/sv00%2F",
        "/sv00%2f5d%2f41",
        "/sv00/5d",
        "/sv00/5d/",
        "/sv00/5d/41",
        "/sv00/5d/41/",
        "/sv00/5d/41%2F",
        "/sv00/5d/41/.",
        "/sv00/5d/41/%2e",
        "/sv00/5d/41/x/..",
        "/sv00/5d/41//",
        "/5d",
        "/5d/",
        "/5d/41",
        "/5d/41/",
        "/sv00/5d/41?x",
        "/sv00/5d/41/?x",
        "/sv00/5d/../5d/41",
        "/86/e9/=",
        "/86/e9/=/",
        "/86/e9/=/AAAA~",
        "/86/e9/=/AAAA~/",
        "/86/e9/L+aXpeacrOiqni",
        "/86/e9/L+aXpeacrOiqni/",
        "http://v/sv00/",
        "http://v/",
    ];
    for target in folders {
        for headers in ["", "Depth: infinity\r\n", "Depth: 0\r\n"] {
            let status = raw_status(&volume, "DELETE", target, headers);
            assert!([405, 409].contains(&status), "DELETE {target} {headers:?}: {status}");
        }
        let status = raw_status(&volume, "PUT", target, "Content-Length: 0\r\n");
        assert!([405, 409].contains(&status), "PUT {target}: {status}");
    }
    assert_eq!(volume.files(), before);
}

#[test]
fn file_can_not_take_the_place_of_a_folder_that_is_yet_to_come() {
    let volume = Volume::start();
    for target in ["/sv00", "/sv00/5d", "/sv00/5d/41", "/5d", "/5d/41"] {
        assert_eq!(http("PUT", &volume.url(target), b"in the way", &[]).status, 405, "{target}");
    }
    assert_eq!(http("PUT", &volume.url(FILES[0]), b"hello", &[]).status, 201);
    assert_eq!(http("PUT", &volume.url(FILES[1]), b"hello", &[]).status, 201);
}

#[test]
fn request_can_not_leave_the_tree() {
    let volume = volume_with_files();
    for target in
        ["/..", "/../x", "/%2e%2e/x", "/sv00/../../x", "/sv00/%2e%2e%2f..%2fx", "/%00", "/a%00b/c/d"]
    {
        for method in ["GET", "PUT", "DELETE"] {
            let length = if method == "PUT" { "Content-Length: 0\r\n" } else { "" };
            assert_eq!(raw_status(&volume, method, target, length), 400, "{method} {target}");
        }
    }
}

#[test]
fn own_folder_is_not_served() {
    let volume = volume_with_files();
    let targets = [
        "/.mkv",
        "/.mkv/",
        "/.mkv/nginx.conf",
        "/.mkv/tmp",
        "/.mkv/tmp/",
        "/.mkv/tmp/0000000001",
        "/%2emkv/lock",
        "/%2Emkv%2flock",
        "//.mkv//lock",
        "/sv00/../.mkv/lock",
        "/sv00/.mkv",
        "/sv00/.mkv/",
        "/sv00/.mkv/tmp/1",
        "/.mkv/?x",
        "/./.mkv/lock",
    ];
    for target in targets {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let length = if method == "PUT" { "Content-Length: 0\r\n" } else { "" };
            assert_eq!(raw_status(&volume, method, target, length), 403, "{method} {target}");
        }
    }
    assert!(!get(&volume.url("/")).text().contains(".mkv"));
}

#[test]
fn other_methods_do_nothing() {
    let volume = volume_with_files();
    let before = volume.files();
    for method in ["POST", "MKCOL", "MOVE", "COPY", "PATCH", "PROPFIND", "LOCK", "UNLINK"] {
        for target in [FILES[0], "/sv00/", "/sv01/"] {
            let status = raw_status(&volume, method, target, "Content-Length: 0\r\nDestination: /sv00/x\r\n");
            assert!((400..500).contains(&status), "{method} {target}: {status}");
        }
    }
    assert_eq!(volume.files(), before);
}

#[test]
fn folders_are_listed_as_json() {
    let volume = volume_with_files();
    let listing = get(&volume.url("/sv00/5d/41/"));
    assert_eq!(listing.header("content-type"), Some("application/json"));
    let entries: serde_json::Value = serde_json::from_slice(&listing.body).expect("JSON");
    assert_eq!(entries[0]["name"], "aGVsbG8=");
    assert_eq!(entries[0]["type"], "file");
    assert_eq!(entries[0]["size"], FILES[0].len());
    let root: serde_json::Value = serde_json::from_slice(&get(&volume.url("/")).body).expect("JSON");
    let names: Vec<_> = root.as_array().expect("a list").iter().map(|entry| &entry["name"]).collect();
    assert_eq!(names, ["5d", "86", "sv00", "sv0A"]);
}

#[test]
fn files_and_folders_have_the_modes_of_the_go_original() {
    let volume = volume_with_files();
    let mode = |path: &str| volume.dir().join(path).metadata().expect("it is there").mode() & 0o777;
    assert_eq!(mode("sv00/5d/41/aGVsbG8="), 0o664);
    assert_eq!(mode("sv00/5d/41"), 0o755);
}

#[test]
fn upload_lies_in_the_temp_folder_and_ends_in_a_rename() {
    let volume = Volume::start();
    let mut stream = TcpStream::connect(volume.addr()).expect("it listens");
    let first = vec![b'x'; 1 << 20];
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: v\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        FILES[0],
        first.len() + 1
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&first)).expect("it reads");
    let temp = volume.dir().join(".mkv/tmp");
    let (name, inode) = wait_for("the upload is in the temp folder", || {
        let name = files_below(&temp).pop()?;
        let found = temp.join(&name).metadata().ok()?;
        (found.len() > 0).then(|| (name, found.ino()))
    });
    assert!(volume.files().is_empty(), "half an upload is visible");
    stream.write_all(b"y").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let stored = volume.dir().join(&FILES[0][1..]).metadata().expect("it is there");
    assert_eq!((stored.ino(), stored.len()), (inode, first.len() as u64 + 1));
    assert!(!temp.join(name).exists());
}

#[test]
fn abandoned_upload_leaves_nothing() {
    let volume = Volume::start();
    let mut stream = TcpStream::connect(volume.addr()).expect("it listens");
    let head = format!("PUT {} HTTP/1.1\r\nHost: v\r\nContent-Length: 2000000\r\n\r\n", FILES[0]);
    // More than nginx holds in memory.
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&[0; 1_000_000])).expect("it reads");
    let temp = volume.dir().join(".mkv/tmp");
    eventually("the upload begins", || !files_below(&temp).is_empty());
    drop(stream);
    eventually("the upload is gone", || files_below(&temp).is_empty());
    assert!(volume.files().is_empty());
}

#[test]
fn connection_carries_many_requests() {
    let volume = volume_with_files();
    // More than the 1,000 after which nginx would close by itself.
    let count = 1500;
    let mut stream = TcpStream::connect(volume.addr()).expect("it listens");
    let request = format!("HEAD {} HTTP/1.1\r\nHost: v\r\n\r\n", FILES[0]);
    let mut buffer = [0; 4096];
    for seen in 0..count {
        stream.write_all(request.as_bytes()).expect("the connection stays");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut buffer).expect("it answers");
            assert!(read > 0, "closed after {seen} requests");
            answer.extend_from_slice(&buffer[..read]);
        }
    }
}

#[test]
fn hung_worker_does_not_stop_the_others() {
    let volume = volume_with_files();
    assert!(children(volume.pid()).len() >= 4);
    volume.pause_one_worker();
    // What the hung one has accepted is lost to it; new connections find the others.
    let answered = (0..8).filter(|_| {
        let mut stream = TcpStream::connect(volume.addr()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_millis(500))).expect("above zero");
        stream.write_all(b"GET /=x HTTP/1.1\r\nHost: v\r\n\r\n").expect("it fits the buffer");
        stream.read(&mut [0; 1]).is_ok_and(|read| read == 1)
    });
    assert!(answered.count() >= 6);
}

#[test]
fn requests_are_not_logged() {
    let volume = volume_with_files();
    get(&volume.url("/sv00/5d/41/missing"));
    assert_eq!(volume.log().lines().count(), 1, "more than the line of the start:\n{}", volume.log());
    assert_eq!(files_below(&volume.dir().join(".mkv")), ["lock", "nginx.conf", "nginx.pid"]);
}
