//! How fast all replicas are read and checked, beside one `md5sum` over the same files.

use crate::filled::{Contents, Filled};
use crate::rebuild::BLOB_BYTES;
use crate::report::{Figure, Target, median};
use crate::{Bench, Outcome};

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Figure>> {
    let keys = if bench.options.quick { 200 } else { 1000 };
    let filled =
        Filled::new(&bench.scratch.memory, 3, 3, &Contents { keys, bytes: BLOB_BYTES, linked: false })?;
    filled.job(3, &["rebuild"])?;
    let mib = (3 * keys as usize * BLOB_BYTES) as f64 / (1 << 20) as f64;
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds() {
        ours.push(mib / filled.job(3, &["scrub"])?.seconds);
        limit.push(mib / Filled::md5sum(&filled.dirs())?);
    }
    let what = format!("scrub of {keys} blobs of 1 MiB, 3 replicas of each read");
    let figure = Figure::new(what, median(ours), "MiB/s").limit("md5sum, the same files", median(limit));
    Ok(vec![figure.target(Target::RatioAtLeast(0.7))])
}
