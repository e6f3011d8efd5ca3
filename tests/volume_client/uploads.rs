//! One body to several replicas: all is well, one is slow, one dies, one refuses, the client gives up.

use crate::nginx::{Nginx, eventually};
use crate::stub::{Stub, nobody};
use crate::{CALM, HASTY, MTIME_US, client, client_of, content};
use bytes::Bytes;
use minikeyvalue::model::Replica;
use minikeyvalue::volume::{Outcome, Upload, UploadError, VolumeClient, VolumeError};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

const PATH: &str = "/5d/41/L2hlbGxv";
const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

/// More than all buffers on the way hold, so that a volume that doesn't read is noticed.
const LARGE: usize = 16 << 20;

fn begin(client: &VolumeClient, replicas: &[Replica], size: usize) -> Upload {
    client.upload(replicas, PATH, Some(size as u64), MTIME_US)
}

/// Gives `bytes` in pieces of `piece`, for as long as anybody takes them.
async fn give(upload: &mut Upload, bytes: &Bytes, piece: usize) -> Result<(), UploadError> {
    for start in (0..bytes.len()).step_by(piece) {
        upload.write(bytes.slice(start..bytes.len().min(start + piece))).await?;
    }
    Ok(())
}

/// Uploads to one good volume, one stub and another good volume, and checks that the good ones are whole. Returns
/// what came of the stub.
async fn beside_good_ones(client: &VolumeClient, odd: Replica, size: usize) -> Result<(), VolumeError> {
    let (one, two) = (Nginx::start(), Nginx::start());
    let bytes = Bytes::from(content(size));
    let mut upload = begin(client, &[one.replica(), odd.clone(), two.replica()], size);
    give(&mut upload, &bytes, 100_000).await.unwrap();
    let outcomes = upload.finish().await;
    for nginx in [&one, &two] {
        assert!(std::fs::read(nginx.file(PATH)).unwrap() == bytes, "a good replica is not whole");
    }
    let [first, middle, last] = <[Outcome; 3]>::try_from(outcomes).unwrap();
    assert!(first.result.is_ok() && last.result.is_ok(), "{first:?} {last:?}");
    assert_eq!((first.replica, &middle.replica, last.replica), (one.replica(), &odd, two.replica()));
    middle.result
}

#[actix_rt::test]
async fn every_replica_gets_the_same_bytes() {
    let (volumes, client) = ([Nginx::start(), Nginx::start(), Nginx::start()], client(CALM));
    let replicas = volumes.each_ref().map(Nginx::replica);
    for (size, piece) in [
        (1, 1),
        (1024, 1024),
        (70_000, 70_000),
        (64 * 1024 * 9, 1000),
        (5_000_001, 65_536),
        (3 << 20, 3 << 20),
    ] {
        for length in [Some(size as u64), None] {
            let bytes = Bytes::from(content(size));
            let mut upload = client.upload(&replicas, PATH, length, MTIME_US);
            give(&mut upload, &bytes, piece).await.unwrap();
            let outcomes = upload.finish().await;
            assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()), "{outcomes:?}");
            for nginx in &volumes {
                assert!(std::fs::read(nginx.file(PATH)).unwrap() == bytes, "{size} in {piece}, {length:?}");
                assert_eq!(std::fs::metadata(nginx.file(PATH)).unwrap().mtime(), 1_700_000_000);
            }
        }
    }
}

#[actix_rt::test]
async fn one_volume_away_stops_no_upload() {
    let replica = nobody();
    let client = client_of(CALM, std::slice::from_ref(&replica));
    let err = beside_good_ones(&client, replica.clone(), 3 << 20).await.unwrap_err();
    assert!(matches!(err, VolumeError::Unreachable { .. }) && !err.in_doubt(), "{err}");
    assert!(!client.health().is_up(&replica));
}

#[actix_rt::test]
async fn a_volume_that_takes_everything_and_is_silent_is_in_doubt() {
    let start = Instant::now();
    let err = beside_good_ones(&client(HASTY), Stub::silent().replica(), 3 << 20).await.unwrap_err();
    assert!(err.in_doubt() && start.elapsed() >= HASTY * 10, "{err}");
}

#[actix_rt::test]
async fn a_volume_that_stops_taking_is_given_up() {
    let stub = Stub::start(|_, peer| {
        peer.read_some(100_000);
        peer.freeze();
    });
    let start = Instant::now();
    let err = beside_good_ones(&client(HASTY), stub.replica(), LARGE).await.unwrap_err();
    assert!(err.in_doubt() && start.elapsed() >= HASTY * 10, "{err}");
}

#[actix_rt::test]
async fn a_slow_volume_is_waited_for() {
    let slow = Stub::start(|_, peer| {
        peer.read_head();
        for _ in 0..30 {
            peer.read_some((3 << 20) / 30);
            std::thread::sleep(Duration::from_millis(10));
        }
        peer.read_some((3 << 20) % 30);
        peer.write(CREATED);
        peer.read_to_end();
    });
    beside_good_ones(&client(CALM), slow.replica(), 3 << 20).await.unwrap();
}

#[actix_rt::test]
async fn a_volume_that_dies_in_mid_body_is_in_doubt() {
    let dying = Stub::start(|_, peer| assert!(peer.read_some(500_000).is_some()));
    let err = beside_good_ones(&client(CALM), dying.replica(), LARGE).await.unwrap_err();
    assert!(err.in_doubt(), "{err}");
}

#[actix_rt::test]
async fn a_refusal_in_mid_body_has_its_status() {
    let full = "HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n";
    let lingering = Stub::start(move |_, peer| {
        peer.read_some(200_000);
        peer.write(full);
        peer.read_to_end();
    });
    let err = beside_good_ones(&client(CALM), lingering.replica(), LARGE).await.unwrap_err();
    assert_eq!((err.status(), err.in_doubt()), (Some(507), false), "{err}");
    let frozen = Stub::start(move |_, peer| {
        peer.read_some(200_000);
        peer.write(full);
        peer.freeze();
    });
    let err = beside_good_ones(&client(CALM), frozen.replica(), LARGE).await.unwrap_err();
    assert_eq!(err.status(), Some(507), "{err}");
}

#[actix_rt::test]
async fn a_refusal_by_nginx_in_mid_body_has_its_status() {
    let small = Nginx::start_with("127.0.0.1", "127.0.0.1", "client_max_body_size 64k;");
    let client = client(CALM);
    // With a length nginx refuses at once, without one when the limit is passed.
    for length in [Some(LARGE as u64), None] {
        let mut upload = client.upload(&[small.replica()], PATH, length, MTIME_US);
        let given = give(&mut upload, &Bytes::from(content(LARGE)), 65_536).await;
        assert_eq!(given, Err(UploadError::NoReplicaLeft), "{length:?}");
        let outcomes = upload.finish().await;
        let err = outcomes[0].result.as_ref().unwrap_err();
        assert_eq!(err.status(), Some(413), "{length:?}: {err}");
    }
    assert!(!small.file(PATH).exists());
}

#[actix_rt::test]
async fn an_aborted_upload_leaves_nothing_even_if_every_byte_was_given() {
    let (volumes, client) = ([Nginx::start(), Nginx::start()], client(CALM));
    let replicas = [volumes[0].replica(), nobody(), volumes[1].replica()];
    for (size, length) in [(5, Some(5)), (5, None), (1 << 20, Some(1 << 20)), (1 << 20, None), (9, Some(10))]
    {
        let mut upload = client.upload(&replicas, PATH, length, MTIME_US);
        give(&mut upload, &Bytes::from(content(size)), 50_000).await.unwrap();
        // A body that is shorter than announced can't be finished.
        let outcomes = if length == Some(10) { upload.finish().await } else { upload.abort().await };
        assert!(outcomes.iter().all(|outcome| outcome.result.is_err()));
        assert!(
            outcomes.iter().all(|outcome| !outcome.result.as_ref().unwrap_err().in_doubt()),
            "{outcomes:?}"
        );
        assert!(matches!(outcomes[0].result, Err(VolumeError::Aborted { .. })), "{outcomes:?}");
        for nginx in &volumes {
            eventually("the temporary files are gone", || nginx.unfinished() == 0);
            assert!(!nginx.file(PATH).exists(), "{size} of {length:?}");
        }
    }
}

#[actix_rt::test]
async fn a_body_may_not_be_longer_than_announced() {
    let (nginx, client) = (Nginx::start(), client(CALM));
    let mut upload = begin(&client, &[nginx.replica()], 5);
    upload.write(Bytes::from_static(b"hell")).await.unwrap();
    let result = upload.write(Bytes::from_static(b"oo")).await;
    assert_eq!(result, Err(UploadError::TooLong { length: 5 }));
    upload.abort().await;
}

#[actix_rt::test]
async fn a_client_that_pauses_costs_no_volume_its_place() {
    let (nginx, client) = (Nginx::start(), client(HASTY / 4));
    let bytes = Bytes::from(content(LARGE));
    let mut upload = begin(&client, &[nginx.replica()], LARGE);
    give(&mut upload, &bytes.slice(..LARGE - 100), 1 << 20).await.unwrap();
    // Longer than the volume's patience of 250 ms, in which nothing else may happen.
    actix_rt::time::sleep(Duration::from_millis(400)).await;
    upload.write(bytes.slice(LARGE - 100..)).await.unwrap();
    let outcomes = upload.finish().await;
    assert!(outcomes[0].result.is_ok(), "{outcomes:?}");
    assert!(std::fs::read(nginx.file(PATH)).unwrap() == bytes);
}

#[actix_rt::test]
async fn an_upload_survives_a_dead_kept_connection() {
    let stub = Stub::start(|number, peer| {
        while let Some(head) = peer.read_head() {
            peer.read_body(&head);
            peer.write(CREATED);
            if number == 0 {
                peer.read_some(1);
                return;
            }
        }
    });
    let client = client(CALM);
    for size in [1000, 100_000] {
        let mut upload = begin(&client, &[stub.replica()], size);
        give(&mut upload, &Bytes::from(content(size)), 30_000).await.unwrap();
        let outcomes = upload.finish().await;
        assert!(outcomes[0].result.is_ok(), "{outcomes:?}");
    }
    assert_eq!(stub.connections(), 2);
}

#[actix_rt::test]
async fn an_upload_with_nobody_left_says_so() {
    let client = client(CALM);
    let mut upload = begin(&client, &[nobody(), nobody()], LARGE);
    let given = give(&mut upload, &Bytes::from(content(LARGE)), 65_536).await;
    assert_eq!((given, upload.replicas_left()), (Err(UploadError::NoReplicaLeft), 0));
    assert_eq!(upload.finish().await.len(), 2);
}
