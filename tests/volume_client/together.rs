//! Listings that are asked for together: all of them, or as many as there were before something went wrong.

use super::nginx::{Nginx, eventually};
use super::stub::{Stub, nobody};
use super::{CALM, HASTY, client, client_of};
use minikeyvalue::model::Replica;
use minikeyvalue::volume::{
    Adopt, ClusterId, Credentials, DirEntry, EntryKind, TOGETHER, VolumeClient, probe_all_once,
};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

const LISTED: &str = "autoindex on; autoindex_format json;";

/// `[{ "name":"k", "type":"file", "size":5 }]` as nginx sends it.
const ONE: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                   2\r\n[\n\r\n28\r\n{ \"name\":\"k\", \"type\":\"file\", \"size\":5 }\n\r\n1\r\n]\r\n0\r\n\r\n";

fn file(name: &str, size: u64) -> DirEntry {
    DirEntry { name: name.into(), kind: EntryKind::File { size } }
}

/// The first subvolumes of a server.
fn places(server: &Replica, count: usize) -> Vec<Replica> {
    (0..count).map(|number| format!("{server}/sv{number:02X}").parse().expect("a place")).collect()
}

fn nginx_with(places: usize, extra: &str) -> Nginx {
    let nginx = Nginx::start_with("127.0.0.1", "127.0.0.1", &[LISTED, extra].concat());
    for number in 0..places {
        let file = nginx.file(&format!("sv{number:02X}/ab/cd/{number}"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, vec![0; number]).unwrap();
    }
    nginx
}

/// Asks a server for the listings of its first places.
async fn list(client: &VolumeClient, server: &Replica, count: usize) -> Vec<Option<Vec<DirEntry>>> {
    let places = places(server, count);
    client.list_together(&places.iter().collect::<Vec<_>>(), "/ab/cd", |_| true).await
}

#[actix_rt::test]
async fn listings_come_together_and_over_one_connection() {
    let (nginx, client) = (nginx_with(TOGETHER, ""), client(CALM));
    let expected: Vec<_> =
        (0..TOGETHER).map(|number| Some(vec![file(&number.to_string(), number as u64)])).collect();
    for _ in 0..3 {
        assert_eq!(list(&client, &nginx.replica(), TOGETHER).await, expected);
    }
    let wanted = |entry: &DirEntry| entry.name == b"1";
    let places = places(&nginx.replica(), 2);
    let some = client.list_together(&places.iter().collect::<Vec<_>>(), "/ab/cd", wanted).await;
    assert_eq!(some, [Some(vec![]), expected[1].clone()]);
    // nginx writes it behind its answer.
    eventually("all are in the log", || nginx.log().len() >= 3 * TOGETHER + 2);
    let log = nginx.log();
    let numbers: HashSet<&str> = log.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!((log.len(), numbers.len()), (3 * TOGETHER + 2, 1), "{log:?}");
}

#[actix_rt::test]
async fn a_server_that_closes_after_some_requests_has_answered_those() {
    let (nginx, client) = (nginx_with(8, "keepalive_requests 5;"), client(CALM));
    for _ in 0..3 {
        let listed = list(&client, &nginx.replica(), 8).await;
        assert_eq!(
            listed.iter().map(Option::is_some).collect::<Vec<_>>(),
            [true, true, true, true, true, false, false, false]
        );
    }
    // When the last answer says that the connection ends, it isn't kept.
    for _ in 0..3 {
        assert!(list(&client, &nginx.replica(), 5).await.iter().all(Option::is_some));
    }
}

#[actix_rt::test]
async fn what_is_no_whole_listing_is_not_there() {
    const BAD: [&str; 13] = [
        "",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html></html>\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[\n",
        "HTTP/1.1 200 OK\r\n\r\n[\n]",
        "HTTP/1.0 200 OK\r\n\r\n[\n]",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[\n]\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n[\n]\r\n0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[\n]",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ];
    for bad in BAD {
        let stub = Stub::start(move |_, peer| {
            (0..3).for_each(|_| drop(peer.read_head()));
            [ONE, bad].into_iter().for_each(|answer| peer.write(answer));
        });
        let client = client(CALM);
        for connections in 1..3 {
            let listed = list(&client, &stub.replica(), 3).await;
            assert_eq!(listed, [Some(vec![file("k", 5)]), None, None], "{bad:?}");
            assert_eq!(stub.connections(), connections, "what came behind {bad:?} is not read");
        }
    }
}

#[actix_rt::test]
async fn nothing_is_read_behind_an_answer_that_was_to_be_the_last() {
    let stub = Stub::start(|_, peer| {
        (0..2).for_each(|_| drop(peer.read_head()));
        peer.write(&ONE.replacen("\r\n", "\r\nConnection: close\r\n", 1));
        peer.write(ONE);
        peer.freeze();
    });
    let start = Instant::now();
    assert_eq!(list(&client(CALM), &stub.replica(), 2).await, [Some(vec![file("k", 5)]), None]);
    assert!(start.elapsed() < CALM, "it was waited for");
}

#[actix_rt::test]
async fn a_kept_connection_that_has_died_gives_nothing_and_the_next_one_all() {
    let stub = Stub::start(|_, peer| {
        (0..2).for_each(|_| drop(peer.read_head()));
        (0..2).for_each(|_| peer.write(ONE));
    });
    let client = client(CALM);
    let all = vec![Some(vec![file("k", 5)]); 2];
    assert_eq!(list(&client, &stub.replica(), 2).await, all);
    assert_eq!(list(&client, &stub.replica(), 2).await, [None, None]);
    assert_eq!(list(&client, &stub.replica(), 2).await, all);
    assert_eq!(stub.connections(), 2);
}

#[actix_rt::test]
async fn a_server_that_is_silent_or_away_is_no_longer_waited_for_than_allowed() {
    let start = Instant::now();
    assert_eq!(list(&client(HASTY), &Stub::silent().replica(), 2).await, [None, None]);
    assert_eq!(list(&client(HASTY), &nobody(), 2).await, [None, None]);
    assert!(start.elapsed() >= HASTY && start.elapsed() < HASTY * 8, "it took {:?}", start.elapsed());
}

#[actix_rt::test]
async fn credentials_are_sent_with_each_request() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let stub = Stub::start(move |_, peer| {
        while let Some(head) = peer.read_head() {
            seen.lock().unwrap().push(head);
            peer.write(ONE);
        }
    });
    let (plain, server) = (client(CALM), stub.replica());
    let known = plain.with_credentials(Credentials::new(Some("user:pass:word")));
    assert!(list(&known, &server, 2).await.iter().all(Option::is_some));
    assert!(list(&plain, &server, 1).await.iter().all(Option::is_some));
    let heads = heads.lock().unwrap();
    let shown: Vec<bool> =
        heads.iter().map(|head| head.contains("\r\nauthorization: basic dxnlcjpwyxnzondvcmq=\r\n")).collect();
    assert_eq!(shown, [true, true, false]);
    for (number, head) in heads.iter().enumerate() {
        assert!(head.starts_with(&format!("get /sv{:02x}/ab/cd/ http/1.1\r\n", number % 2)), "{head}");
        assert!(head.contains(&format!("\r\nhost: {server}\r\n")), "{head}");
    }
    assert_eq!(stub.connections(), 1, "the connections are shared");
}

#[actix_rt::test]
async fn a_volume_of_another_cluster_is_not_asked() {
    let nginx = nginx_with(2, "");
    std::fs::write(nginx.file("/=cluster"), "another").unwrap();
    let client = client_of(CALM, &[nginx.replica()]);
    let cluster: ClusterId = "ours-1".parse().expect("an id");
    probe_all_once(&client, &cluster, Adopt::Ownerless).await;
    let asked = nginx.log().len();
    assert_eq!(list(&client, &nginx.replica(), 2).await, [None, None]);
    assert_eq!(nginx.log().len(), asked);
}
