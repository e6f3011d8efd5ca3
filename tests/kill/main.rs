//! The kill tests: clients write while processes are killed with -9 at random moments, and whatever was
//! acknowledged is there afterwards, whatever was not is there wholly or not at all, and nothing else lies about.
//!
//! In `power.rs` it is the plug that is pulled, of all machines at once.
//!
//! `MKV_KILL_SEED` repeats a run's choices; which of them meet a kill stays up to the clock.

// Nothing outside of this binary can use what it declares.
#![allow(unreachable_pub)]

mod clients;
mod files;
#[path = "../it/harness/mod.rs"]
mod harness;
mod power;
mod random;

use clients::{Client, Kills};
use harness::{Cluster, Master, Random, eventually};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CLIENTS: u64 = 7;
const MASTER_KILLS: usize = 50;
const VOLUME_KILLS: usize = 12;

/// Short, so that what a kill has left is settled between kills as well as at the end.
const GRACE: &str = "500ms";

#[test]
fn what_was_acknowledged_survives_fifty_kills_of_the_master() {
    let seed = random::seed();
    let mut chance = Random::new(seed);
    let mut cluster = Cluster::of(4, |master| master.flag("grace", GRACE));
    let mut clients = clients_of(&cluster.master, seed);
    for kill in 0..MASTER_KILLS {
        let delay = Duration::from_millis(chance.between(20, 700));
        write_until(&mut clients, Kills::Master, || {
            std::thread::sleep(delay);
            cluster.master.kill9();
        });
        cluster.master.start_again();
        let unlinked = cluster.master.list("/?unlinked");
        for client in &mut clients {
            client.check_all(&unlinked);
        }
        println!("kill {kill} after {delay:?}: {}", clients::summary(&clients));
    }
    assert!(clients.iter().map(Client::cut_off).sum::<usize>() > 0, "no kill ever met a request");
    files::are_exactly_those_of_the_index(&mut cluster);
    let unlinked = cluster.master.list("/?unlinked");
    clients.iter_mut().for_each(|client| client.check_all(&unlinked));
}

#[test]
fn what_was_acknowledged_survives_kills_of_the_volumes() {
    let seed = random::seed();
    let mut chance = Random::new(seed);
    let mut cluster = Cluster::of(4, |master| master.flag("grace", GRACE));
    let mut clients = clients_of(&cluster.master, seed);
    let volumes = &mut cluster.volumes;
    write_until(&mut clients, Kills::Volumes, || {
        for _ in 0..VOLUME_KILLS {
            let volume = &mut volumes[chance.below(4) as usize];
            std::thread::sleep(Duration::from_millis(chance.between(50, 800)));
            volume.kill9();
            std::thread::sleep(Duration::from_millis(chance.between(50, 800)));
            volume.start_again();
        }
    });
    println!("{}", clients::summary(&clients));
    let unlinked = cluster.master.list("/?unlinked");
    clients.iter_mut().for_each(|client| client.check_all(&unlinked));
    files::are_exactly_those_of_the_index(&mut cluster);
}

fn clients_of(master: &Master, seed: u64) -> Vec<Client> {
    (0..CLIENTS).map(|number| Client::new(number, seed, master.url(""))).collect()
}

/// Lets all clients write at the same time while `disturb` runs, and until it has ended.
fn write_until(clients: &mut [Client], kills: Kills, disturb: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        let end = SetAtEnd(over);
        let writers: Vec<_> = clients
            .iter_mut()
            .map(|client| scope.spawn(move || while !over.load(Ordering::Relaxed) && client.step(kills) {}))
            .collect();
        disturb();
        drop(end);
        eventually("the writers end", || writers.iter().all(|writer| writer.is_finished()));
    });
}

/// Also when the disturber panics: the scope waits for the writers.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
