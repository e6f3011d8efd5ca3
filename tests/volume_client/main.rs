//! The client of the volumes against real nginx, and against volumes that misbehave in every way that is known.

mod nginx;
mod stub;

mod calls;
mod dribble;
mod probes;
mod together;
mod uploads;

use minikeyvalue::model::{Replica, Volume};
use minikeyvalue::volume::{Health, Timeouts, VolumeClient};
use std::sync::Arc;
use std::time::Duration;

/// For volumes that are well: a busy machine must not fail a test.
const CALM: Duration = Duration::from_secs(5);

/// For volumes that hang: 100 ms for answers to reads, a second for everything else.
const HASTY: Duration = Duration::from_millis(100);

/// 2023-11-14 22:13:20.5 UTC, in µs.
const MTIME_US: u64 = 1_700_000_000_500_000;

fn client(voltimeout: Duration) -> VolumeClient {
    client_of(voltimeout, &[])
}

fn client_of(voltimeout: Duration, replicas: &[Replica]) -> VolumeClient {
    let volumes: Vec<Volume> = replicas.iter().map(Replica::volume).collect();
    VolumeClient::new(Timeouts::from_voltimeout(voltimeout), Arc::new(Health::new(&volumes)))
}

/// A prime, so that no chunk of a round size is like the one before it.
const PERIOD: usize = 65_521;

/// Bytes in which a lost, doubled or moved chunk shows.
fn content(size: usize) -> Vec<u8> {
    let number = |number: u32| (number.wrapping_mul(2_654_435_761) >> 24) as u8;
    let block: Vec<u8> = (0..PERIOD as u32).map(number).collect();
    let mut bytes = block.repeat(size.div_ceil(PERIOD));
    bytes.truncate(size);
    bytes
}
