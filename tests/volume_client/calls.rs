//! HEAD, GET, PUT, DELETE, search and copy.

use crate::nginx::{Nginx, eventually};
use crate::stub::{Stub, nobody};
use crate::{CALM, HASTY, MTIME_US, client, client_of, content};
use bytes::Bytes;
use minikeyvalue::model::{Md5, Replica};
use minikeyvalue::volume::{Candidate, Content, CopyError, Credentials, Removal, Search, VolumeError};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATH: &str = "/5d/41/L2hlbGxv";

/// An answer of nginx to a HEAD of a file of five bytes.
const HAS_FIVE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

#[actix_rt::test]
async fn a_file_is_written_read_and_removed() {
    let (nginx, client) = (Nginx::start(), client(CALM));
    let replica: Replica = format!("{}/sv07", nginx.replica()).parse().unwrap();
    assert_eq!(client.head(&replica, PATH).await.unwrap(), None);
    client.put(&replica, PATH, Bytes::from_static(b"hello"), MTIME_US).await.unwrap();
    assert_eq!(client.head(&replica, PATH).await.unwrap(), Some(5));
    assert_eq!(client.get(&replica, PATH, 5).await.unwrap().unwrap(), "hello");
    assert_eq!(client.get(&replica, "/5d/41/none", 5).await.unwrap(), None);
    let metadata = std::fs::metadata(nginx.file(&format!("/sv07{PATH}"))).unwrap();
    assert_eq!(metadata.mtime(), 1_700_000_000);
    assert_eq!(client.delete(&replica, PATH).await.unwrap(), Removal::Removed);
    assert_eq!(client.delete(&replica, PATH).await.unwrap(), Removal::Absent);
}

#[actix_rt::test]
async fn names_with_every_character_of_a_path_work() {
    let (nginx, client) = (Nginx::start(), client(CALM));
    for path in ["/36/0d/=/L9C_", "/00/11/a+b/c==.meta", "/00/12/=/aa~/bb.0123456789abcdef"] {
        client.put(&nginx.replica(), path, Bytes::from_static(b"x"), MTIME_US).await.unwrap();
        assert_eq!(client.head(&nginx.replica(), path).await.unwrap(), Some(1), "{path}");
        assert!(nginx.file(path).exists(), "{path}");
        assert_eq!(client.delete(&nginx.replica(), path).await.unwrap(), Removal::Removed, "{path}");
    }
}

#[actix_rt::test]
async fn a_directory_in_the_place_of_a_file_is_no_file() {
    let (nginx, client) = (Nginx::start(), client(CALM));
    client.put(&nginx.replica(), PATH, Bytes::from_static(b"hello"), MTIME_US).await.unwrap();
    assert_eq!(client.head(&nginx.replica(), "/5d/41").await.unwrap(), None);
    assert_eq!(client.get(&nginx.replica(), "/5d/41", 9).await.unwrap(), None);
    assert_eq!(client.delete(&nginx.replica(), "/5d/41").await.unwrap(), Removal::Absent);
    assert_eq!(client.delete(&nginx.replica(), &format!("{PATH}/below")).await.unwrap(), Removal::Absent);
    assert!(nginx.file(PATH).exists());
}

#[actix_rt::test]
#[cfg_attr(debug_assertions, should_panic(expected = "is a directory"))]
async fn a_directory_is_never_deleted() {
    let result = client(CALM).delete(&nobody(), "/5d/41/").await;
    assert!(matches!(result, Err(VolumeError::Directory { .. })));
}

#[actix_rt::test]
async fn a_file_that_is_too_large_is_not_read() {
    let (nginx, client) = (Nginx::start(), client(CALM));
    client.put(&nginx.replica(), PATH, content(100).into(), MTIME_US).await.unwrap();
    let result = client.get(&nginx.replica(), PATH, 99).await;
    assert!(matches!(result, Err(VolumeError::TooLarge { limit_bytes: 99, .. })), "{result:?}");
}

#[actix_rt::test]
async fn connections_are_used_again_whatever_the_answer() {
    let (nginx, client) = (Nginx::start(), client(CALM));
    let replica = nginx.replica();
    for round in 0..20 {
        let path = format!("/00/{round:02x}/x");
        client.put(&replica, &path, content(1000).into(), MTIME_US).await.unwrap();
        client.head(&replica, &path).await.unwrap();
        client.get(&replica, &path, 1000).await.unwrap();
        client.delete(&replica, &path).await.unwrap();
        client.head(&replica, &path).await.unwrap();
        client.get(&replica, &path, 1000).await.unwrap();
        client.delete(&replica, &path).await.unwrap();
    }
    eventually("every request is logged", || nginx.log().len() == 140);
    let numbers: HashSet<String> =
        nginx.log().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(numbers.len(), 2, "one connection for reads and one for writes: {numbers:?}");
}

/// Serves one request per connection and closes it when a second one arrives on it.
fn forgetful(answer: &'static str) -> Stub {
    Stub::start(move |_, peer| {
        if let Some(head) = peer.read_head() {
            peer.read_body(&head);
            peer.write(answer);
        }
        peer.read_some(1);
    })
}

#[actix_rt::test]
async fn a_kept_connection_that_has_died_is_no_error() {
    let client = client(CALM);
    let reads = forgetful(HAS_FIVE);
    assert_eq!(client.head(&reads.replica(), PATH).await.unwrap(), Some(5));
    assert_eq!(client.head(&reads.replica(), PATH).await.unwrap(), Some(5));
    assert_eq!(reads.connections(), 2);
    let writes = forgetful(CREATED);
    client.put(&writes.replica(), PATH, content(3000).into(), MTIME_US).await.unwrap();
    client.put(&writes.replica(), PATH, content(3000).into(), MTIME_US).await.unwrap();
    assert_eq!(writes.connections(), 2);
    let deletes = forgetful("HTTP/1.1 204 No Content\r\n\r\n");
    client.delete(&deletes.replica(), PATH).await.unwrap();
    assert_eq!(client.delete(&deletes.replica(), PATH).await.unwrap(), Removal::Removed);
    assert_eq!(deletes.connections(), 2);
}

#[actix_rt::test]
async fn a_fresh_connection_that_is_cut_is_an_error_at_once() {
    let stub = Stub::start(|_, peer| drop(peer.read_head()));
    let err = client(CALM).delete(&stub.replica(), PATH).await.unwrap_err();
    assert!(err.in_doubt(), "{err}");
    assert_eq!(stub.connections(), 1);
}

#[actix_rt::test]
async fn a_volume_that_is_away_is_unreachable_and_taken_out() {
    let replica = nobody();
    let client = client_of(CALM, std::slice::from_ref(&replica));
    let err = client.head(&replica, PATH).await.unwrap_err();
    assert!(matches!(err, VolumeError::Unreachable { .. }) && !err.in_doubt(), "{err}");
    assert!(!client.health().is_up(&replica));
    assert!(client.health().last_unreachable_us(&replica).is_some());
}

#[actix_rt::test]
async fn a_volume_that_is_silent_is_waited_for_no_longer_than_allowed() {
    let (stub, client) = (Stub::silent(), client(HASTY));
    let start = Instant::now();
    let err = client.head(&stub.replica(), PATH).await.unwrap_err();
    assert!(err.in_doubt() && start.elapsed() >= HASTY, "{err}");
    assert!(start.elapsed() < HASTY * 8, "a read took {:?}", start.elapsed());
    let start = Instant::now();
    let err = client.put(&stub.replica(), PATH, Bytes::from_static(b"x"), MTIME_US).await.unwrap_err();
    assert!(err.in_doubt() && start.elapsed() >= HASTY * 10, "a write gets more time: {err}");
}

#[actix_rt::test]
async fn a_refusal_has_its_status() {
    let stub = Stub::answering("HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 5\r\n\r\nfull\n");
    let client = client(CALM);
    let err = client.put(&stub.replica(), PATH, Bytes::from_static(b"x"), MTIME_US).await.unwrap_err();
    assert_eq!((err.status(), err.in_doubt()), (Some(507), false), "{err}");
    let err = client.delete(&stub.replica(), PATH).await.unwrap_err();
    assert_eq!(err.status(), Some(507));
    assert_eq!(stub.connections(), 1, "the answer's body was read, so the connection was used again");
}

#[actix_rt::test]
async fn a_body_that_ends_early_or_stalls_is_an_error() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.";
    let cut = Stub::start(move |_, peer| {
        peer.read_head();
        peer.write(half);
    });
    let err = client(CALM).get(&cut.replica(), PATH, 100).await.unwrap_err();
    assert!(matches!(err, VolumeError::NoAnswer { .. }), "{err}");
    let stalled = Stub::start(move |_, peer| {
        peer.read_head();
        peer.write(half);
        peer.freeze();
    });
    let start = Instant::now();
    let err = client(HASTY).get(&stalled.replica(), PATH, 100).await.unwrap_err();
    assert!(matches!(err, VolumeError::NoAnswer { .. }), "{err}");
    assert!(start.elapsed() >= HASTY * 10, "bodies have the longer patience: {:?}", start.elapsed());
}

#[actix_rt::test]
async fn a_redirect_is_not_followed() {
    let stub =
        Stub::answering("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n");
    let err = client(CALM).get(&stub.replica(), PATH, 9).await.unwrap_err();
    assert_eq!(err.status(), Some(302), "{err}");
}

#[actix_rt::test]
async fn credentials_are_sent_and_not_shown() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let stub = Stub::start(move |_, peer| {
        while let Some(head) = peer.read_head() {
            seen.lock().unwrap().push(head);
            peer.write("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let plain = client(CALM);
    let known = plain.with_credentials(Credentials::new(Some("user:pass:word")));
    let err = known.get(&stub.replica(), PATH, 9).await.unwrap_err();
    assert!(err.status() == Some(401) && !format!("{err:?}").contains("word"), "{err:?}");
    plain.get(&stub.replica(), PATH, 9).await.unwrap_err();
    let heads = heads.lock().unwrap();
    assert!(heads[0].contains("authorization: basic dxnlcjpwyxnzondvcmq=\r\n"), "{}", heads[0]);
    assert!(!heads[1].contains("authorization"), "{}", heads[1]);
    assert_eq!(stub.connections(), 1, "the connections are shared");
}

#[actix_rt::test]
async fn localhost_works_whichever_family_the_volume_listens_on() {
    for address in ["127.0.0.1", "::1"] {
        let nginx = Nginx::start_with(address, "localhost", "");
        client(CALM).put(&nginx.replica(), PATH, Bytes::from_static(b"x"), MTIME_US).await.unwrap();
        assert!(nginx.file(PATH).exists(), "{address}");
    }
}

fn candidate(replica: Replica, paths: &[&str]) -> Candidate {
    Candidate { replica, paths: paths.iter().map(|path| (*path).to_owned()).collect() }
}

#[actix_rt::test]
async fn a_search_does_not_wait_for_a_hung_replica() {
    let (hung, good) = (Stub::silent(), Stub::answering(HAS_FIVE));
    let client = client(CALM);
    // The connection to the good volume exists, so that only the search is timed.
    client.head(&good.replica(), PATH).await.unwrap();
    let start = Instant::now();
    let found = client.find(&[candidate(hung.replica(), &[PATH]), candidate(good.replica(), &[PATH])]).await;
    assert!(matches!(found, Search::Found { index: 1, size: 5, .. }), "{found:?}");
    assert!(start.elapsed() < Duration::from_millis(500), "it took {:?}", start.elapsed());
}

#[actix_rt::test]
async fn a_search_prefers_the_order_given_and_tries_every_path() {
    let (nginx, client) = (Nginx::start(), client(CALM));
    client.put(&nginx.replica(), "/00/00/b", Bytes::from_static(b"xy"), MTIME_US).await.unwrap();
    let here = candidate(nginx.replica(), &["/00/00/a", "/00/00/b"]);
    match client.find(&[candidate(nobody(), &["/00/00/a"]), here.clone(), here]).await {
        Search::Found { index, path, size } => assert_eq!((index, path.as_str(), size), (1, "/00/00/b", 2)),
        other => panic!("{other:?}"),
    }
}

#[actix_rt::test]
async fn a_blob_is_absent_only_if_every_volume_says_so() {
    let (nginx, client) = (Nginx::start(), client(CALM));
    let here = candidate(nginx.replica(), &[PATH]);
    assert!(matches!(client.find(&[here.clone(), here.clone()]).await, Search::Absent));
    let found = client.find(&[here.clone(), candidate(nobody(), &[PATH]), here]).await;
    assert!(matches!(found, Search::Unknown { error: VolumeError::Unreachable { .. } }), "{found:?}");
}

#[actix_rt::test]
async fn a_copy_has_the_content_and_the_mtime() {
    let (from, to, client) = (Nginx::start(), Nginx::start(), client(CALM));
    for size in [1, 65_536, 3_000_001] {
        let bytes = content(size);
        let expected = Content { size: size as u64, md5: Some(Md5(md5::compute(&bytes).0)) };
        client.put(&from.replica(), "/00/00/a", bytes.clone().into(), MTIME_US).await.unwrap();
        client.copy(&from.replica(), "/00/00/a", &to.replica(), PATH, &expected, MTIME_US).await.unwrap();
        assert!(std::fs::read(to.file(PATH)).unwrap() == bytes, "{size} bytes");
        assert_eq!(std::fs::metadata(to.file(PATH)).unwrap().mtime(), 1_700_000_000);
    }
}

#[actix_rt::test]
async fn a_wrong_copy_never_exists() {
    let (from, to, client) = (Nginx::start(), Nginx::start(), client(CALM));
    for size in [1, 300_000] {
        client.put(&from.replica(), "/00/00/a", content(size).into(), MTIME_US).await.unwrap();
        let right = Content { size: size as u64, md5: Some(Md5(md5::compute(content(size)).0)) };
        for (wrong, what) in [
            (Content { md5: Some(Md5([0; 16])), ..right }, "md5"),
            (Content { size: right.size + 1, ..right }, "size"),
            (Content { size: 0, ..right }, "size"),
        ] {
            let result =
                client.copy(&from.replica(), "/00/00/a", &to.replica(), PATH, &wrong, MTIME_US).await;
            match result {
                Err(CopyError::Mismatch { what: found, .. }) => assert_eq!(found, what),
                other => panic!("{other:?}"),
            }
        }
    }
    // A complete request is the only way to make nginx log a PUT with 201; it renames before it logs.
    assert!(!to.file("/").join("5d").exists());
    eventually("the temporary files are gone", || to.unfinished() == 0);
    assert!(!to.file(PATH).exists());
}

#[actix_rt::test]
async fn a_copy_says_which_side_failed() {
    let (nginx, client) = (Nginx::start(), client(CALM));
    let expected = Content { size: 5, md5: None };
    let missing = client.copy(&nginx.replica(), PATH, &nginx.replica(), "/00/00/a", &expected, 0).await;
    assert!(matches!(missing, Err(CopyError::Missing { .. })), "{missing:?}");
    let source = client.copy(&nobody(), PATH, &nginx.replica(), "/00/00/a", &expected, 0).await;
    assert!(matches!(source, Err(CopyError::Source(_))), "{source:?}");
    client.put(&nginx.replica(), PATH, Bytes::from_static(b"hello"), MTIME_US).await.unwrap();
    let target = client.copy(&nginx.replica(), PATH, &nobody(), "/00/00/a", &expected, 0).await.unwrap_err();
    assert!(matches!(target, CopyError::Target(_)) && !target.in_doubt(), "{target}");
}
