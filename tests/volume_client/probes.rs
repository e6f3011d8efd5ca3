//! Which volumes are up and whose they are.

use crate::nginx::{Nginx, PATIENCE};
use crate::stub::{Stub, nobody};
use crate::{CALM, HASTY, client_of};
use minikeyvalue::model::{CLUSTER_PATH, Replica};
use minikeyvalue::volume::{
    Adopt, ClusterId, Health, ProbeOutcome, VolumeClient, VolumeState, probe_all_once, watch,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn cluster() -> ClusterId {
    "ours-1".parse().unwrap()
}

async fn probe(client: &VolumeClient, adopt: Adopt) -> ProbeOutcome {
    let mut outcomes = probe_all_once(client, &cluster(), adopt).await;
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0).1
}

fn one(replica: &Replica) -> VolumeClient {
    client_of(CALM, std::slice::from_ref(replica))
}

#[actix_rt::test]
async fn a_volume_without_an_owner_is_adopted_once() {
    let nginx = Nginx::start();
    let client = one(&nginx.replica());
    assert!(matches!(probe(&client, Adopt::Ownerless).await, ProbeOutcome::Adopted));
    assert_eq!(std::fs::read_to_string(nginx.file(CLUSTER_PATH)).unwrap(), "ours-1");
    assert!(matches!(probe(&client, Adopt::Ownerless).await, ProbeOutcome::Up));
    assert!(client.health().is_up(&nginx.replica()));
}

#[actix_rt::test]
async fn a_volume_of_another_cluster_is_not_used_unless_it_is_taken_over() {
    let nginx = Nginx::start();
    std::fs::write(nginx.file(CLUSTER_PATH), "theirs\n").unwrap();
    let client = one(&nginx.replica());
    match probe(&client, Adopt::Ownerless).await {
        ProbeOutcome::Foreign { found } => assert_eq!(found, "theirs\n"),
        other => panic!("{other:?}"),
    }
    assert!(!client.health().is_up(&nginx.replica()));
    assert_eq!(client.health().snapshot()[0].state, VolumeState::Foreign);
    assert!(matches!(probe(&client, Adopt::All).await, ProbeOutcome::Adopted));
    assert!(client.health().is_up(&nginx.replica()));
}

#[actix_rt::test]
async fn answers_decide_about_a_volume() {
    async fn check(answer: &'static str, up: bool) {
        let stub = Stub::answering(answer);
        let client = one(&stub.replica());
        let outcome = probe(&client, Adopt::Ownerless).await;
        assert_eq!(client.health().is_up(&stub.replica()), up, "{answer}: {outcome:?}");
    }
    check("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", true).await;
    check("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nours-1\n", true).await;
    check("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", false).await;
    check("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", false).await;
    check("SSH-2.0-OpenSSH_9.2\r\n", false).await;
}

#[actix_rt::test]
async fn volumes_that_are_away_or_silent_are_down_and_delay_no_others() {
    let (nginx, silent) = (Nginx::start(), Stub::silent());
    let mut replicas = vec![silent.replica(); 1];
    replicas.extend([nobody(), nginx.replica()]);
    let client = client_of(HASTY * 3, &replicas);
    let start = Instant::now();
    let outcomes = probe_all_once(&client, &cluster(), Adopt::Ownerless).await;
    assert!(start.elapsed() < HASTY * 20, "{:?}", start.elapsed());
    assert!(matches!(outcomes[0].1, ProbeOutcome::Down { .. }));
    assert!(matches!(outcomes[1].1, ProbeOutcome::Down { .. }));
    assert!(matches!(outcomes[2].1, ProbeOutcome::Adopted), "{outcomes:?}");
}

/// Waits, while everything else in this thread goes on, until `replica` is up or not.
async fn until(health: &Arc<Health>, replica: &Replica, up: bool) -> Duration {
    let start = Instant::now();
    while health.is_up(replica) != up {
        assert!(start.elapsed() < PATIENCE, "the volume never was what it should be: up = {up}");
        actix_rt::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

#[actix_rt::test]
async fn a_volume_that_hangs_and_recovers_is_noticed() {
    static WELL: AtomicBool = AtomicBool::new(true);
    let stub = Stub::start(|_, peer| {
        while peer.read_head().is_some() {
            if !WELL.load(Ordering::SeqCst) {
                return peer.read_to_end();
            }
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nours-1");
        }
    });
    let client = client_of(HASTY, &[stub.replica()]);
    let health = client.health().clone();
    let watching = actix_rt::spawn(watch(client.clone(), cluster(), Adopt::Ownerless));
    client.head(&stub.replica(), "/x").await.unwrap();
    WELL.store(false, Ordering::SeqCst);
    client.head(&stub.replica(), "/x").await.unwrap_err();
    until(&health, &stub.replica(), false).await;
    assert!(health.snapshot()[0].reason.contains("/=cluster"), "{:?}", health.snapshot());
    WELL.store(true, Ordering::SeqCst);
    let took = until(&health, &stub.replica(), true).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    watching.abort();
}
