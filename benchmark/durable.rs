//! What `DURABLE=1` costs: the same PUTs with and without it, in turns, on the disk that was named.

use crate::cluster::{Cluster, Setup};
use crate::put::{Blobs, blob_of_a_gib, blobs_of_a_kib, blobs_of_a_mib, plural, through_master};
use crate::report::{Figure, median};
use crate::{Bench, Outcome};
use std::process::Command;

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Figure>> {
    let setup = |replicas| Setup { parent: &bench.scratch.disk, replicas, flags: &[], index: None };
    if let Err(err) = Cluster::start_durable(&setup(1)) {
        eprintln!("bench: durable is left out: {err} (the volume has said why; --disk names another disk)");
        return Ok(Vec::new());
    }
    let mut figures = Vec::new();
    for blobs in [blobs_of_a_kib(bench), blobs_of_a_mib(bench), blob_of_a_gib()] {
        for replicas in [1, 3] {
            let (mut with, mut without) = (Vec::new(), Vec::new());
            for _ in 0..bench.options.rounds() {
                without.push(rate(&Cluster::start(&setup(replicas))?, &blobs)?);
                with.push(rate(&Cluster::start_durable(&setup(replicas))?, &blobs)?);
            }
            let what = format!("PUT {}, {}, durable", blobs.name, plural(replicas, "disk"));
            let unit = if blobs.load.steps == 1 { "MiB/s" } else { "/s" };
            figures.push(Figure::new(what, median(with), unit).limit("without DURABLE", median(without)));
        }
    }
    Ok(figures)
}

/// Blobs per second, or MiB per second of a single large one.
fn rate(cluster: &Cluster, blobs: &Blobs) -> Outcome<f64> {
    // What the turn before has left in the page cache is not to be this one's burden.
    Command::new("sync").status()?;
    let rate = through_master(cluster, blobs)?.rate();
    Ok(if blobs.load.steps == 1 { rate * blobs.mib() } else { rate })
}
