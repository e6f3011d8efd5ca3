//! Volumes that are down, hung, full, broken, late, somebody else's or locked: a clear answer in time, nothing
//! lost, and in the end nothing left that no record names.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{
    Cluster, Master, MasterBuilder, Mounts, Response, TcpStub, TempDir, Volume, addresses, eventually, http,
    try_http,
};

const LARGE: usize = 3 << 20;

/// Content that no other length has.
fn body(size: usize) -> Vec<u8> {
    (0..size).map(|number| (number % 251) as u8).collect()
}

/// Overwritten versions, and what is in doubt, are settled quickly.
fn hasty(master: MasterBuilder) -> MasterBuilder {
    master.flag("grace", "300ms").flag("voltimeout", "300ms")
}

fn volumes_of(response: &Response) -> Vec<String> {
    response.header("key-volumes").expect("a redirect names them").split(',').map(str::to_owned).collect()
}

#[test]
fn volume_that_is_down_is_passed_over() {
    let mut cluster = Cluster::of(4, hasty);
    let down = cluster.volumes[0].addr();
    cluster.volumes[0].stop();
    let mut unbalanced = 0;
    for number in 0..8 {
        let (key, content) = (format!("/{number}"), body(if number % 2 == 0 { 100 } else { LARGE }));
        cluster.master.put(&key, &content);
        let redirect = cluster.master.call("GET", &key, b"");
        let volumes = volumes_of(&redirect);
        assert_eq!(volumes.len(), 3);
        assert!(volumes.iter().all(|volume| !volume.starts_with(&down)), "{volumes:?}");
        unbalanced += usize::from(redirect.header("key-balance") == Some("unbalanced"));
        assert_eq!(cluster.master.fetch(&key), (200, content));
    }
    assert!(unbalanced > 0, "the volume that is down had no part in eight keys");
    assert_eq!(cluster.files().len(), 24);
}

#[test]
fn too_few_volumes_store_nothing() {
    let mut cluster = Cluster::of(3, hasty);
    cluster.volumes[1].stop();
    for size in [100, LARGE] {
        // The first request may find it out by itself, the second knows.
        for _ in 0..2 {
            let refused = cluster.master.call("PUT", "/k", &body(size));
            assert_eq!(
                (refused.status, refused.header("retry-after")),
                (503, Some("1")),
                "{}",
                refused.text()
            );
        }
    }
    assert_eq!(cluster.files(), Vec::<String>::new());
    cluster.volumes[1].start_again();
    eventually("the key is free", || cluster.master.call("PUT", "/k", b"x").status == 201);
    eventually("nothing else is there", || blobs(&cluster).len() == 3);
}

/// Everything but sidecars.
fn blobs(cluster: &Cluster) -> Vec<String> {
    cluster.files().into_iter().filter(|file| !file.ends_with(".meta")).collect()
}

#[test]
fn volume_that_hangs_delays_a_write_and_holds_no_key() {
    let cluster = Cluster::of(4, hasty);
    // Kept connections, as a server that runs for a while has.
    (0..4).for_each(|number| cluster.master.put(&format!("/before/{number}"), b"x"));
    for size in [100, LARGE] {
        cluster.volumes[2].pause();
        let started = Instant::now();
        for number in 0..6 {
            let key = format!("/{size}/{number}");
            cluster.master.put(&key, &body(size));
            assert_eq!(cluster.master.fetch(&key), (200, body(size)));
        }
        // One write timeout is ten times voltimeout; from then on the volume is known to be down.
        assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
        cluster.volumes[2].resume();
        eventually("it is used again", || {
            cluster.master.log().matches("is down").count() == cluster.master.log().matches("is up").count()
        });
    }
    eventually("what it stored late is removed", || cluster.files().len() == (4 + 12) * 3);
}

#[test]
fn volume_that_hangs_fails_a_write_that_needs_it_in_time() {
    let cluster = Cluster::of(3, hasty);
    cluster.master.put("/before", b"x");
    for size in [100, LARGE] {
        cluster.volumes[0].pause();
        let started = Instant::now();
        let refused = cluster.master.call("PUT", "/k", &body(size));
        assert_eq!(refused.status, 503, "{}", refused.text());
        // The write, and then the removal of what it may have left.
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        let again = cluster.master.call("PUT", "/k", b"x");
        assert_eq!(again.status, 503, "the key is not held: {}", again.text());
        cluster.volumes[0].resume();
        eventually("nothing of it is left", || cluster.files().len() == 3);
        eventually("the key can be written", || cluster.master.call("PUT", "/k", b"x").status == 201);
        eventually("it can be removed", || {
            matches!(cluster.master.call("DELETE", "/k", b"").status, 204 | 404)
        });
        eventually("nothing of it is left", || cluster.files().len() == 3);
    }
}

#[test]
fn volumes_that_never_answered_are_no_obstacle() {
    for stub in [TcpStub::silent(), TcpStub::closing_in_mid_body(), TcpStub::answering_500()] {
        let volumes: Vec<Volume> = (0..3).map(|_| Volume::start()).collect();
        let list = format!("{},{}", stub.addr(), addresses(&volumes));
        let master = hasty(Master::builder(&list)).start();
        for number in 0..4 {
            let key = format!("/{number}");
            master.put(&key, &body(LARGE));
            assert_eq!(master.fetch(&key), (200, body(LARGE)));
        }
        let needed = Volume::start();
        let list = format!("{},{}", stub.addr(), needed.addr());
        let master = hasty(Master::builder(&list)).flag("replicas", "2").start();
        assert_eq!(master.call("PUT", "/k", b"x").status, 503);
        assert_eq!(needed.files(), ["=cluster"]);
    }
}

#[test]
fn volume_that_takes_bodies_in_drops_is_made_up_for() {
    let stub = TcpStub::taking_in_drops();
    let volumes: Vec<Volume> = (0..3).map(|_| Volume::start()).collect();
    let master = hasty(Master::builder(&format!("{},{}", stub.addr(), addresses(&volumes)))).start();
    let is_given_up = || master.log().contains("did not answer PUT");
    // Until one of them belongs on it.
    for number in 0.. {
        assert!(number < 10, "no blob was meant for it");
        let (key, started) = (format!("/{number}"), Instant::now());
        master.put(&key, &body(LARGE));
        // A minute, at that pace.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        let redirect = master.call("GET", &key, b"");
        assert!(!volumes_of(&redirect).iter().any(|volume| volume.starts_with(stub.addr())));
        assert_eq!(master.fetch(&key), (200, body(LARGE)));
        if is_given_up() {
            break;
        }
    }
}

#[test]
fn reader_does_not_wait_for_a_volume_that_hangs() {
    // So long that a reader who waited would be noticed, and that the volume counts as up all the time.
    let cluster = Cluster::of(3, |master| master.flag("voltimeout", "8s"));
    cluster.master.put("/k", b"x");
    cluster.volumes[1].pause();
    let started = Instant::now();
    for _ in 0..12 {
        let asked = Instant::now();
        let redirect = cluster.master.call("GET", "/k", b"");
        assert_eq!(redirect.status, 302);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        let location = redirect.header("location").expect("a redirect");
        assert!(!location.contains(&cluster.volumes[1].addr()), "{location}");
    }
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    cluster.volumes[1].resume();
}

/// A volume on a drive of its own of 2 MB.
fn small_volume() -> (Volume, Mounts, TempDir) {
    let own = TempDir::new();
    let dir = own.join("data");
    let mut mounts = Mounts::new();
    mounts.tmpfs(&dir, "2m");
    (Volume::builder().dir(&dir).among(&mounts).start(), mounts, own)
}

#[test]
fn full_volume_is_passed_over_and_full_volumes_are_507() {
    let small: Vec<_> = (0..3).map(|_| small_volume()).collect();
    let list: Vec<String> = small.iter().map(|(volume, ..)| volume.addr()).collect();
    let master = hasty(Master::builder(&list.join(","))).start();
    let files = || small.iter().map(|(volume, ..)| volume.files().len() - 1).sum::<usize>();
    let refused = master.call("PUT", "/k", &body(LARGE));
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert_eq!(files(), 0);
    assert_eq!(master.call("REPLACE", "/k", &body(LARGE)).status, 507);
    master.put("/k", b"small");
    assert_eq!(master.call("REPLACE", "/k", &body(LARGE)).status, 507);
    assert_eq!(master.fetch("/k"), (200, b"small".to_vec()));
    drop(master);

    let large: Vec<Volume> = (0..3).map(|_| Volume::start()).collect();
    let list = format!("{},{}", list[0], addresses(&large));
    let master = hasty(Master::builder(&list)).flag("adopt", "true").start();
    let mut unbalanced = 0;
    for number in 0..8 {
        let key = format!("/{number}");
        master.put(&key, &body(LARGE));
        let redirect = master.call("GET", &key, b"");
        unbalanced += usize::from(redirect.header("key-balance") == Some("unbalanced"));
        assert_eq!(volumes_of(&redirect).len(), 3);
        assert_eq!(master.fetch(&key), (200, body(LARGE)));
    }
    assert!(unbalanced > 0, "the full volume had no part in eight keys");
}

/// A PUT of which a half is sent.
fn half_a_put(master: &Master, key: &str, content: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(master.addr()).expect("the master listens");
    let length = content.len();
    let head =
        format!("PUT {key} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it is read");
    stream.write_all(&content[..length / 2]).expect("it is read");
    stream
}

fn other_half(mut stream: TcpStream, content: &[u8]) -> String {
    stream.write_all(&content[content.len() / 2..]).expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn volume_that_dies_in_mid_body_is_made_up_for() {
    for count in [3, 4] {
        let mut cluster = Cluster::of(count, hasty);
        let content = body(8 << 20);
        // So many that placement gives some to each volume, whatever the ports are: of four, one in 64 leaves one out.
        let uploads: Vec<_> =
            (0..12).map(|number| half_a_put(&cluster.master, &format!("/{number}"), &content)).collect();
        eventually("the volumes receive them", || {
            cluster
                .volumes
                .iter()
                .all(|volume| fs::read_dir(volume.dir().join(".mkv/tmp")).is_ok_and(|dir| dir.count() > 0))
        });
        cluster.volumes[0].kill9();
        for (number, upload) in uploads.into_iter().enumerate() {
            let answer = other_half(upload, &content);
            let expected = if count == 4 { "HTTP/1.1 201" } else { "HTTP/1.1 503" };
            assert!(answer.starts_with(expected), "{answer}");
            if count == 4 {
                assert_eq!(cluster.master.fetch(&format!("/{number}")), (200, content.clone()));
            }
        }
        let expected = if count == 4 { 36 } else { 0 };
        assert_eq!(cluster.files().len(), expected);
        cluster.volumes[0].start_again();
        eventually("the keys can be written", || {
            cluster.master.call("REPLACE", "/0", b"x").status == if count == 4 { 204 } else { 201 }
        });
        assert_eq!(cluster.master.fetch("/0"), (200, b"x".to_vec()));
    }
}

#[test]
fn worker_that_wakes_late_leaves_no_old_file() {
    let cluster = Cluster::of(4, |master| master.flag("voltimeout", "200ms").flag("grace", "4s"));
    (0..4).for_each(|number| cluster.master.put(&format!("/before/{number}"), b"x"));
    // A PUT that meets a worker which stands still, on a volume whose other workers go on.
    let (key, worker, volume) = late_put(&cluster);
    let held_at = cluster.volumes[volume].addr();
    assert!(
        !volumes_of(&cluster.master.call("GET", &key, b"")).iter().any(|place| place.starts_with(&held_at))
    );
    // Meanwhile the key is removed and written again.
    assert!(matches!(cluster.master.call("DELETE", &key, b"").status, 204 | 503));
    assert_eq!(cluster.master.call("GET", &key, b"").status, 404);
    cluster.master.put(&key, b"new");
    let before = cluster.files().len();
    crate::harness::send(worker, nix::sys::signal::Signal::SIGCONT);
    eventually("the late file arrives", || cluster.files().len() > before);
    eventually("the late file is removed", || {
        let late = cluster.files().into_iter().filter(|file| file.starts_with(&held_at));
        late.filter(|file| !file.ends_with(".meta")).count() <= blobs_named_at(&cluster, &held_at)
    });
    assert_eq!(cluster.master.fetch(&key), (200, b"new".to_vec()));
    for number in 0..4 {
        assert_eq!(cluster.master.fetch(&format!("/before/{number}")).0, 200);
    }
}

/// Pauses one worker after the other until a PUT meets it. The key, the worker and the volume's number.
fn late_put(cluster: &Cluster) -> (String, u32, usize) {
    for number in 0.. {
        let volume = number % cluster.volumes.len();
        for worker in cluster.volumes[volume].workers() {
            crate::harness::send(worker, nix::sys::signal::Signal::SIGSTOP);
            let key = format!("/late/{number}/{worker}");
            cluster.master.put(&key, b"old");
            let missed = format!("volume {}/sv", cluster.volumes[volume].addr());
            let log = cluster.master.log();
            if log.lines().any(|line| {
                line.contains(&format!("writing {key}: {missed}")) && line.contains("did not answer")
            }) {
                return (key, worker, volume);
            }
            crate::harness::send(worker, nix::sys::signal::Signal::SIGCONT);
        }
        assert!(number < 10, "no PUT ever met a worker that stood still");
    }
    unreachable!("the loop ends by an assertion")
}

/// How many blobs the records name at a volume.
fn blobs_named_at(cluster: &Cluster, addr: &str) -> usize {
    let keys = cluster.master.list("/?list");
    let at = |key: &String| {
        let volumes = volumes_of(&cluster.master.call("GET", key, b""));
        volumes.iter().any(|volume| volume.starts_with(addr))
    };
    keys.iter().filter(|key| at(key)).count()
}

#[test]
fn removal_is_finished_when_the_volume_comes_back() {
    let mut cluster = Cluster::of(3, hasty);
    cluster.master.put("/k", b"one");
    cluster.volumes[0].stop();
    let removed = cluster.master.call("DELETE", "/k", b"");
    assert_eq!((removed.status, removed.header("retry-after")), (503, Some("1")), "{}", removed.text());
    assert_eq!(cluster.master.call("GET", "/k", b"").status, 404);
    assert_eq!(cluster.master.list("/?list"), Vec::<String>::new());
    // As long as a file is left, the other volumes say that the key was deleted: a rebuild would bring it back.
    let looked = Instant::now();
    while looked.elapsed() < Duration::from_secs(3) {
        for volume in &cluster.volumes[1..] {
            let sidecar = volume.files().into_iter().find(|file| file.ends_with(".meta"));
            let sidecar =
                fs::read_to_string(volume.dir().join(sidecar.expect("a tombstone"))).unwrap_or_default();
            assert!(sidecar.contains("\"deleted\""), "{sidecar}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.volumes[0].start_again();
    eventually("its files are removed", || cluster.files().is_empty());
    eventually("a repeated DELETE says so", || {
        matches!(cluster.master.call("DELETE", "/k", b"").status, 204 | 404)
    });
    cluster.master.put("/k", b"two");
    assert_eq!(cluster.master.fetch("/k"), (200, b"two".to_vec()));
}

#[test]
fn failed_write_leaves_the_tombstones_of_a_removal() {
    let mut cluster = Cluster::of(4, hasty);
    cluster.master.put("/k", b"one");
    let volumes = volumes_of(&cluster.master.call("GET", "/k", b""));
    cluster.volume_of(&volumes[0]).stop();
    assert_eq!(cluster.master.call("DELETE", "/k", b"").status, 503);
    let url = cluster.master.url("/k");
    for content in [body(10), body(LARGE)] {
        let refused = http("PUT", &url, &content, &[("Content-MD5", "XUFAKrxLKna5cZ2REBfFkg==")]);
        assert_eq!(refused.status, 400, "{}", refused.text());
    }
    for place in &volumes[1..] {
        let volume = cluster.volume_of(place);
        let sidecar = volume.files().into_iter().find(|file| file.ends_with(".meta")).expect("a tombstone");
        let text = fs::read_to_string(volume.dir().join(sidecar)).expect("it is there");
        assert!(text.contains("\"deleted\""), "{text}");
    }
    cluster.volume_of(&volumes[0]).start_again();
    eventually("everything is removed", || cluster.files().is_empty());
    cluster.master.put("/k", b"two");
    assert_eq!(cluster.master.fetch("/k"), (200, b"two".to_vec()));
}

#[test]
fn removal_survives_restarts_and_spares_what_was_written_since() {
    let mut cluster = Cluster::of(4, hasty);
    cluster.master.put("/k", b"one");
    let volumes = volumes_of(&cluster.master.call("GET", "/k", b""));
    cluster.volume_of(&volumes[0]).stop();
    assert_eq!(cluster.master.call("DELETE", "/k", b"").status, 503);
    cluster.master.put("/k", b"two");
    assert!(cluster.master.stop().success());
    cluster.master.start_again();
    cluster.volume_of(&volumes[0]).start_again();
    eventually("the old file is removed", || cluster.files().len() == 6);
    assert_eq!(cluster.master.fetch("/k"), (200, b"two".to_vec()));
}

#[test]
fn overwritten_and_unlinked_blobs_are_right_when_the_volume_comes_back() {
    let mut cluster = Cluster::of(4, hasty);
    cluster.master.put("/k", b"one");
    let volumes = volumes_of(&cluster.master.call("GET", "/k", b""));
    cluster.volume_of(&volumes[1]).stop();
    assert_eq!(cluster.master.call("REPLACE", "/k", b"two").status, 204);
    assert_eq!(cluster.master.fetch("/k"), (200, b"two".to_vec()));
    cluster.volume_of(&volumes[1]).start_again();
    eventually("the old version is removed", || cluster.files().len() == 6);
    assert_eq!(cluster.master.fetch("/k"), (200, b"two".to_vec()));

    let volumes = volumes_of(&cluster.master.call("GET", "/k", b""));
    cluster.volume_of(&volumes[2]).stop();
    assert_eq!(cluster.master.call("UNLINK", "/k", b"").status, 204);
    assert_eq!(cluster.master.call("GET", "/k", b"").status, 404);
    cluster.volume_of(&volumes[2]).start_again();
    let says = |cluster: &mut Cluster, state: &str| {
        let volume = cluster.volume_of(&volumes[2]);
        let sidecar = volume.files().into_iter().find(|file| file.ends_with(".meta")).expect("a sidecar");
        fs::read_to_string(volume.dir().join(sidecar)).is_ok_and(|text| text.contains(state))
    };
    eventually("the volume that was away knows it too", || says(&mut cluster, "\"unlinked\""));
    eventually("nobody holds the key", || cluster.master.call("RELINK", "/k", b"").status == 204);
    eventually("the volume knows it", || says(&mut cluster, "\"live\""));
    assert_eq!(cluster.master.fetch("/k"), (200, b"two".to_vec()));
    assert_eq!(cluster.files().len(), 6);
}

#[test]
fn without_volumes_nothing_is_denied_that_exists() {
    let mut cluster = Cluster::of(3, hasty);
    cluster.master.put("/k", b"one");
    for volume in &mut cluster.volumes {
        volume.stop();
    }
    for method in ["GET", "HEAD", "UNLINK"] {
        let response = cluster.master.call(method, "/k", b"");
        assert_eq!((response.status, response.header("retry-after")), (503, Some("1")), "{method}");
    }
    assert_eq!(cluster.master.call("PUT", "/new", b"x").status, 503);
    assert_eq!(cluster.master.call("REPLACE", "/k", b"x").status, 503);
    assert_eq!(cluster.master.call("GET", "/nothing", b"").status, 404);
    cluster.volumes.iter_mut().for_each(Volume::start_again);
    eventually("it is read again", || cluster.master.call("GET", "/k", b"").status == 302);
    assert_eq!(cluster.master.fetch("/k"), (200, b"one".to_vec()));
    eventually("what was in the way is settled", || cluster.master.call("UNLINK", "/k", b"").status == 204);
}

#[test]
fn missing_replica_is_passed_over_and_the_last_one_is_missed() {
    let mut cluster = Cluster::start();
    cluster.master.put("/k", b"x");
    let volumes = volumes_of(&cluster.master.call("GET", "/k", b""));
    for (gone, place) in volumes.iter().enumerate() {
        for _ in 0..3 {
            assert_eq!(cluster.master.fetch("/k"), (200, b"x".to_vec()), "{gone} replicas are missing");
        }
        let volume = cluster.volume_of(place);
        let file = volume.files().into_iter().find(|file| file != "=cluster").expect("a replica");
        fs::remove_file(volume.dir().join(file)).expect("it was there");
    }
    for method in ["GET", "HEAD"] {
        let response = cluster.master.call(method, "/k", b"");
        assert_eq!((response.status, response.header("content-length")), (410, Some("0")));
    }
    // Nobody who doesn't answer is taken for one who says no.
    cluster.volumes[0].stop();
    assert_eq!(cluster.master.call("GET", "/k", b"").status, 503);
}

#[test]
fn volume_of_another_cluster_is_left_alone() {
    let mut cluster = Cluster::of(4, hasty);
    let master = Master::builder(&addresses(&cluster.volumes));
    let (status, said) = master.refusal();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("belongs to cluster") && said.contains("--adopt"), "{said}");

    cluster.master.put("/k", b"x");
    let volumes = volumes_of(&cluster.master.call("GET", "/k", b""));
    let volume = cluster.volume_of(&volumes[0]);
    volume.stop();
    fs::write(volume.dir().join("=cluster"), "another").expect("it is ours");
    volume.start_again();
    eventually("it is known", || cluster.master.log().contains("is not used"));
    let theirs = cluster.volume_of(&volumes[0]).files();
    for number in 0..6 {
        cluster.master.put(&format!("/{number}"), b"x");
    }
    for _ in 0..4 {
        let redirect = cluster.master.call("GET", "/k", b"");
        assert!(!redirect.header("location").expect("a redirect").contains(&volumes[0]));
    }
    assert_eq!(cluster.master.call("UNLINK", "/k", b"").status, 204);
    assert_eq!(cluster.master.call("DELETE", "/k", b"").status, 503);
    assert_eq!(cluster.volume_of(&volumes[0]).files(), theirs, "not a file is written or removed");

    assert!(cluster.master.stop().success());
    let list = addresses(&cluster.volumes);
    let adopting = hasty(Master::builder(&list)).db(cluster.master.db()).flag("adopt", "true").start();
    adopting.put("/adopted", b"x");
    eventually("what was to be removed there is", || {
        !cluster.volume_of(&volumes[0]).files().iter().any(|file| theirs.contains(file) && file != "=cluster")
    });
}

/// Volumes that want a password, and the file that they know it from.
fn locked_volumes(dir: &TempDir) -> Vec<Volume> {
    let file = dir.join("htpasswd");
    fs::write(&file, "me:{PLAIN}s3cret/word\n").expect("our directory is writable");
    (0..3).map(|_| Volume::builder().env("AUTH", &file).start()).collect()
}

/// `me:s3cret/word`
const RIGHT: (&str, &str) = ("Authorization", "Basic bWU6czNjcmV0L3dvcmQ=");
/// `me:wrong`
const WRONG: (&str, &str) = ("Authorization", "Basic bWU6d3Jvbmc=");
const METHODS: [&str; 8] = ["GET", "HEAD", "PUT", "REPLACE", "DELETE", "UNLINK", "RELINK", "POST"];

#[test]
fn credentials_are_asked_for_on_every_method_and_never_logged() {
    let dir = TempDir::new();
    let volumes = locked_volumes(&dir);
    let master =
        hasty(Master::builder(&addresses(&volumes))).flag("basicauth", "true").flag("v", "true").start();
    let url = master.url("/k");
    let not_basic = ("Authorization", "Bearer x");
    let no_base64 = ("Authorization", "Basic %%%");
    for method in METHODS {
        for headers in [&[][..], &[WRONG], &[not_basic], &[no_base64]] {
            let response = http(method, &url, b"x", headers);
            assert_eq!(response.status, 401, "{method} {headers:?}");
            assert!(response.header("www-authenticate").is_some_and(|text| text.starts_with("Basic ")));
        }
    }
    assert_eq!(http("PUT", &url, b"one", &[RIGHT]).status, 201);
    assert_eq!(http("GET", &url, b"", &[WRONG]).status, 401, "somebody else's success is nobody's password");
    let redirect = http("GET", &url, b"", &[RIGHT]);
    assert_eq!((redirect.status, redirect.header("cache-control")), (302, Some("no-store")));
    let location = redirect.header("location").expect("a redirect");
    assert!(location.starts_with("http://me:s3cret%2Fword@127.0.0.1:"), "{location}");
    let curl = Command::new("curl")
        .args(["--silent", "--fail", "--location-trusted", "--user", "me:s3cret/word", &url])
        .output()
        .expect("curl is installed");
    assert_eq!((curl.status.code(), curl.stdout), (Some(0), b"one".to_vec()));
    // The server's own work is done with the credentials that were accepted last.
    assert_eq!(http("REPLACE", &url, b"two", &[RIGHT]).status, 204);
    let files = || volumes.iter().map(|volume| volume.files().len()).sum::<usize>();
    eventually("the old version is removed", || files() == 6 + cluster_files(&volumes));
    assert_eq!(http("DELETE", &url, b"", &[RIGHT]).status, 204);
    for secret in ["s3cret", "bWU6czNjcmV0"] {
        assert!(!master.log().contains(secret), "{}", master.log());
    }
}

/// A password too long for nginx is answered with 400, which is neither a yes nor a no.
#[test]
fn credentials_that_volumes_can_not_read_are_not_accepted() {
    let dir = TempDir::new();
    let volumes = locked_volumes(&dir);
    let master = hasty(Master::builder(&addresses(&volumes))).flag("basicauth", "true").start();
    let url = master.url("/k");
    assert_eq!(http("PUT", &url, b"one", &[RIGHT]).status, 201);
    let long = format!("Basic {}", "bWU6d3Jvbmdi".repeat(1000));
    for method in METHODS {
        let response = http(method, &url, b"x", &[("Authorization", &long)]);
        assert_eq!(response.status, 401, "{method}: {}", response.text());
    }
    assert_eq!(http("GET", &url, b"", &[RIGHT]).status, 302, "the key is still there");
}

/// How many volumes know their cluster.
fn cluster_files(volumes: &[Volume]) -> usize {
    volumes.iter().filter(|volume| volume.files().iter().any(|file| file == "=cluster")).count()
}

#[test]
fn server_has_credentials_of_its_own() {
    let dir = TempDir::new();
    let volumes = locked_volumes(&dir);
    let master = hasty(Master::builder(&addresses(&volumes))).flag("userpass", "me:s3cret/word").start();
    master.put("/k", b"one");
    assert_eq!(cluster_files(&volumes), 3);
    let redirect = master.call("GET", "/k", b"");
    let location = redirect.header("location").expect("a redirect").to_owned();
    assert!(!location.contains("s3cret"), "clients bring their own: {location}");
    assert_eq!(http("GET", &location, b"", &[]).status, 401);
    assert_eq!(http("GET", &location, b"", &[RIGHT]).body, b"one");
    assert_eq!(master.call("REPLACE", "/k", b"two").status, 204);
    let files = || volumes.iter().map(|volume| volume.files().len()).sum::<usize>();
    eventually("the old version is removed", || files() == 9);
    assert_eq!(master.call("DELETE", "/k", b"").status, 204);
    assert!(!master.log().contains("s3cret"), "{}", master.log());

    let wrong = hasty(Master::builder(&addresses(&volumes)))
        .flag("userpass", "me:wrong")
        .flag("adopt", "true")
        .start();
    let refused = wrong.call("PUT", "/k", b"x");
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("401"), "{}", refused.text());
}

#[test]
fn localhost_is_reached_in_whichever_family_it_listens() {
    let families = ["127.0.0.1", "[::1]"];
    for listen in families {
        if std::net::TcpListener::bind((listen.trim_matches(['[', ']']), 0)).is_err() {
            eprintln!("this machine has no {listen}: not tested");
            continue;
        }
        let volume = Volume::builder().env("LISTEN", listen).start();
        let name = format!("localhost:{}", volume.port());
        let master = hasty(Master::builder(&name)).flag("replicas", "1").start();
        for size in [1, LARGE] {
            let key = format!("/{size}");
            master.put(&key, &body(size));
            let redirect = master.call("GET", &key, b"");
            let location = redirect.header("location").expect("a redirect");
            let blob = location.replace(&name, &volume.addr());
            assert!(http("GET", &blob, b"", &[]).body == body(size), "{location}");
            assert_eq!(master.call("DELETE", &key, b"").status, 204);
        }
        assert_eq!(volume.files(), ["=cluster"]);
        // Whoever was there is gone: no answer, no hanging.
        drop(volume);
        assert!(try_http("PUT", &master.url("/k"), b"x", &[]).is_ok_and(|response| response.status == 503));
    }
}
