//! The seed of a run.

use std::time::{SystemTime, UNIX_EPOCH};

/// The seed of this run, printed so that a failure names it.
pub fn seed() -> u64 {
    let chosen = std::env::var("MKV_KILL_SEED").ok();
    let seed = match chosen {
        Some(text) => text.parse().expect("MKV_KILL_SEED is a number"),
        None => SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64,
    };
    println!("MKV_KILL_SEED={seed}");
    seed
}
