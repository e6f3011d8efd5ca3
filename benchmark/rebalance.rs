//! How fast blobs move when a cluster grows from three volumes to five, beside parallel curls that make the same copies.

use crate::filled::{Contents, Filled, key};
use crate::report::{Figure, Target, median};
use crate::{Bench, Outcome};
use minikeyvalue::model::{File, Key, Replica, path_of};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Large enough that starting two processes for each copy is not what is measured.
const BLOB_BYTES: usize = 8 << 20;

/// Curls at the same time: as many as keep two cores and five volumes busy.
const CURLS: &str = "4";

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Figure>> {
    let keys = if bench.options.quick { 30 } else { 100 };
    let contents = Contents { keys, bytes: BLOB_BYTES, linked: false };
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds() {
        // Each needs volumes that were not grown yet.
        let filled = Filled::new(&bench.scratch.memory, 5, 3, &contents)?;
        filled.job(3, &["rebuild"])?;
        let copies = copies(&filled, keys)?;
        let mib = (copies.len() * BLOB_BYTES) as f64 / (1 << 20) as f64;
        limit.push(mib / curl(&copies)?);
        for (_, target) in &copies {
            Command::new("curl").args(["-sf", "-X", "DELETE", target]).status()?;
        }
        ours.push(mib / filled.job(5, &["rebalance"])?.seconds);
    }
    let what = format!("rebalance of {keys} blobs of 8 MiB from 3 to 5 volumes");
    let figure = Figure::new(what, median(ours), "MiB/s").limit("4 curls, the same copies", median(limit));
    Ok(vec![figure.target(Target::RatioAtLeast(0.7))])
}

/// The URLs that have to be copied, from and to.
fn copies(filled: &Filled, keys: u64) -> Outcome<Vec<(String, String)>> {
    let (before, after) = (filled.placer(3)?, filled.placer(5)?);
    let mut copies = Vec::new();
    for number in 0..keys {
        let key = Key::from_request_path(&key(number)).expect("the keys of the bench are keys");
        let url = |replica: &Replica| format!("http://{replica}{}", path_of(&key, File::Blob(None)));
        let old = before.placement(key.as_bytes());
        let fresh = after.placement(key.as_bytes());
        let fresh = fresh.iter().filter(|place| !old.contains(place));
        copies.extend(fresh.zip(&old).map(|(to, from)| (url(from), url(to))));
    }
    Ok(copies)
}

/// Seconds that the copies take.
fn curl(copies: &[(String, String)]) -> Outcome<f64> {
    let begun = Instant::now();
    let script = r#"curl -sf "$1" | curl -sf -T - "$2""#;
    let mut command = Command::new("xargs");
    command.args(["-P", CURLS, "-n", "2", "sh", "-c", script, "sh"]).stdin(Stdio::piped());
    let mut child = command.spawn()?;
    let mut input = child.stdin.take().expect("it is piped");
    for (from, to) in copies {
        writeln!(input, "{from} {to}")?;
    }
    drop(input);
    match child.wait()?.success() {
        true => Ok(begun.elapsed().as_secs_f64()),
        false => Err("curl could not copy".into()),
    }
}
