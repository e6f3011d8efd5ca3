//! Volumes that send or take a little every now and then, which is no better than nothing at all; and clients, jobs
//! and modest volumes, which must not be taken for such.

use crate::nginx::{Nginx, eventually};
use crate::stub::Stub;
use crate::{CALM, HASTY, MTIME_US, client, client_of, content};
use bytes::Bytes;
use minikeyvalue::model::{CLUSTER_PATH, Replica};
use minikeyvalue::volume::{Adopt, Content, CopyError, ProbeOutcome, VolumeError, probe_all_once};
use std::future::Future;
use std::time::{Duration, Instant};

const PATH: &str = "/5d/41/L2hlbGxv";
const CREATED: &str = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";

/// What a hasty client allows for the next part of a body.
const WINDOW: Duration = Duration::from_secs(1);

/// Often enough that no silence lasts as long as [`WINDOW`], on a busy machine too.
const PAUSE: Duration = Duration::from_millis(50);

/// Longer than the buffers of a narrow stub and all queues on the way, by far.
const LARGE: usize = 4 << 20;

/// What `call` answers, which has to come after a window and well before it could be luck.
async fn in_time<T>(call: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let answer = actix_rt::time::timeout(WINDOW * 6, call).await.expect("it was never given up");
    assert!(start.elapsed() >= WINDOW, "it was given up after {:?}", start.elapsed());
    answer
}

/// Sends `beginning`, and then `piece` again and again.
fn dribbling(beginning: &'static str, piece: &str) -> Stub {
    let piece = piece.as_bytes().to_vec();
    Stub::start(move |_, peer| {
        peer.read_head();
        peer.write(beginning);
        peer.dribble(&piece, PAUSE);
    })
}

fn is_no_answer(err: &VolumeError) -> bool {
    matches!(err, VolumeError::NoAnswer { .. })
}

#[actix_rt::test]
async fn a_body_that_dribbles_is_given_up() {
    let stub = dribbling("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", "x");
    let download = client(HASTY).open(&stub.replica(), PATH).await.unwrap().unwrap();
    let err = in_time(download.digest(&async |_| {})).await.unwrap_err();
    assert!(is_no_answer(&err) && err.to_string().contains("bytes got through in 1000 ms"), "{err}");
}

#[actix_rt::test]
async fn a_head_that_dribbles_is_given_up() {
    let stub = dribbling("HTTP/1.1 200 OK\r\nX: ", "x");
    let err = in_time(client(HASTY).head(&stub.replica(), PATH)).await.unwrap_err();
    assert!(is_no_answer(&err), "{err}");
}

#[actix_rt::test]
async fn a_listing_that_dribbles_is_given_up() {
    let entry = "{ \"name\":\"a\", \"type\":\"file\", \"size\":1 },\r\n";
    let chunk = format!("{:x}\r\n{entry}\r\n", entry.len());
    let stub = dribbling("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[\r\n\r\n", &chunk);
    let err = in_time(client(HASTY).entries(&stub.replica(), "/5d")).await.unwrap_err();
    assert!(is_no_answer(&err), "{err}");
}

#[actix_rt::test]
async fn an_error_page_that_dribbles_is_not_read_to_its_end() {
    let stub = dribbling("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 60000\r\n\r\n", "x");
    let err = in_time(client(HASTY).get(&stub.replica(), PATH, 9)).await.unwrap_err();
    assert_eq!(err.status(), Some(500), "{err}");
}

#[actix_rt::test]
async fn a_volume_whose_answer_to_a_probe_dribbles_is_down() {
    let stub = dribbling("HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n", "x");
    let client = client_of(HASTY, &[stub.replica()]);
    let cluster = "ours-1".parse().unwrap();
    let outcomes = in_time(probe_all_once(&client, &cluster, Adopt::Ownerless)).await;
    assert!(matches!(outcomes[0].1, ProbeOutcome::Down { .. }), "{outcomes:?}");
    let reason = &client.health().snapshot()[0].reason;
    assert!(reason.contains(CLUSTER_PATH) && !client.health().is_up(&stub.replica()), "{reason}");
}

#[actix_rt::test]
async fn a_copy_from_a_volume_that_dribbles_is_given_up_and_leaves_nothing() {
    let (to, client) = (Nginx::start(), client(HASTY));
    let stub = dribbling("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", "x");
    let expected = Content { size: 1_000_000, md5: None };
    let copied = in_time(client.copy(&stub.replica(), PATH, &to.replica(), PATH, &expected, MTIME_US)).await;
    assert!(matches!(&copied, Err(CopyError::Source(err)) if is_no_answer(err)), "{copied:?}");
    eventually("the temporary files are gone", || to.unfinished() == 0);
    assert!(!to.file(PATH).exists());
}

/// Takes `bytes` of a body of [`LARGE`] after every [`PAUSE`].
fn taking(bytes: usize) -> Stub {
    Stub::narrow(move |_, peer| {
        peer.read_head();
        let mut left = LARGE;
        while left > 0 {
            let count = left.min(bytes);
            if peer.read_some(count).is_none() {
                return;
            }
            left -= count;
            std::thread::sleep(PAUSE);
        }
        peer.write(CREATED);
        peer.read_to_end();
    })
}

/// What comes of an upload to `odd` and to a volume that is well, which has to be whole.
async fn beside_a_good_one(odd: Replica) -> Result<(), VolumeError> {
    let (good, client, bytes) = (Nginx::start(), client(HASTY), Bytes::from(content(LARGE)));
    let mut upload = client.upload(&[odd, good.replica()], PATH, Some(LARGE as u64), MTIME_US);
    for start in (0..LARGE).step_by(100_000) {
        upload.write(bytes.slice(start..LARGE.min(start + 100_000))).await.unwrap();
    }
    let mut outcomes = upload.finish().await;
    assert!(outcomes[1].result.is_ok(), "{outcomes:?}");
    assert!(std::fs::read(good.file(PATH)).unwrap() == bytes);
    outcomes.remove(0).result
}

#[actix_rt::test]
async fn a_volume_that_takes_a_body_in_drops_is_given_up() {
    let stub = taking(8000);
    let err = in_time(beside_a_good_one(stub.replica())).await.unwrap_err();
    assert!(err.in_doubt(), "{err}");
}

#[actix_rt::test]
async fn a_volume_that_takes_a_body_at_a_modest_rate_is_waited_for() {
    let stub = taking(100_000);
    in_time(beside_a_good_one(stub.replica())).await.unwrap();
}

#[actix_rt::test]
async fn a_volume_that_sends_a_body_at_a_modest_rate_is_waited_for() {
    let stub = Stub::start(|_, peer| {
        peer.read_head();
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n");
        for _ in 0..40 {
            peer.write(&"x".repeat(100_000));
            std::thread::sleep(PAUSE);
        }
    });
    let download = client(HASTY).open(&stub.replica(), PATH).await.unwrap().unwrap();
    assert_eq!(in_time(download.digest(&async |_| {})).await.unwrap().size, 4_000_000);
}

#[actix_rt::test]
async fn a_client_that_dribbles_costs_no_volume_its_place() {
    let (nginx, client) = (Nginx::start(), client(HASTY / 4));
    let size = 400;
    let bytes = Bytes::from(content(size));
    let mut upload = client.upload(&[nginx.replica()], PATH, Some(size as u64), MTIME_US);
    // Two seconds for 400 bytes, where a volume has 250 ms for 256 KiB.
    for start in (0..size).step_by(10) {
        upload.write(bytes.slice(start..start + 10)).await.unwrap();
        actix_rt::time::sleep(PAUSE).await;
    }
    let outcomes = upload.finish().await;
    assert!(outcomes[0].result.is_ok(), "{outcomes:?}");
    assert!(std::fs::read(nginx.file(PATH)).unwrap() == bytes);
}

#[actix_rt::test]
async fn a_client_that_pauses_while_a_volume_catches_up_costs_it_nothing() {
    // Reads what it is given only in the client's pauses, when nobody looks after the connection.
    let (permit, permits) = std::sync::mpsc::channel();
    let permits = std::sync::Mutex::new(permits);
    let stub = Stub::narrow(move |_, peer| {
        peer.read_head();
        let permits = permits.lock().unwrap();
        let mut left = LARGE;
        while left > 0 {
            let count: usize = permits.recv().unwrap_or(left);
            peer.read_some(count.min(left));
            left -= count.min(left);
        }
        peer.write(CREATED);
        peer.read_to_end();
    });
    let (client, bytes) = (client(HASTY / 4), Bytes::from(content(LARGE)));
    let mut upload = client.upload(&[stub.replica()], PATH, Some(LARGE as u64), MTIME_US);
    let mut written = 0;
    // As much as the queues hold, so that the connection is full and waited for when the pauses begin.
    while written < 448 << 10 {
        upload.write(bytes.slice(written..written + (64 << 10))).await.unwrap();
        written += 64 << 10;
    }
    for _ in 0..4 {
        permit.send(20_000).unwrap();
        actix_rt::time::sleep(HASTY * 4).await;
        upload.write(bytes.slice(written..written + 10)).await.unwrap();
        written += 10;
    }
    drop(permit);
    upload.write(bytes.slice(written..)).await.unwrap();
    let outcomes = upload.finish().await;
    assert!(outcomes[0].result.is_ok(), "{outcomes:?}");
}

#[actix_rt::test]
async fn a_job_that_reads_slowly_blames_no_volume() {
    let (nginx, client) = (Nginx::start(), client(HASTY / 4));
    let bytes = content(1 << 20);
    crate::client(CALM).put(&nginx.replica(), PATH, bytes.clone().into(), MTIME_US).await.unwrap();
    let mut download = client.open(&nginx.replica(), PATH).await.unwrap().unwrap();
    let mut read = 0;
    while let Some(chunk) = download.next().await.unwrap() {
        read += chunk.len();
        // Longer than the volume's 250 ms, a few times.
        actix_rt::time::sleep(if read < 200_000 { HASTY * 3 } else { Duration::ZERO }).await;
    }
    assert_eq!(read, bytes.len());
}
