//! How much memory the master takes: idle, and at the peak of uploads.

use crate::client::{Body, Connection, expect};
use crate::cluster::{Cluster, Setup};
use crate::load::{Load, fresh_prefix};
use crate::process::{forget_peak, peak_rss_mib, rss_mib};
use crate::put::noise;
use crate::report::{Figure, Target};
use crate::{Bench, Outcome};

const PIECE_BYTES: usize = 256 << 10;

/// What is allowed, in MiB over idle.
const MOST_MIB: f64 = 64.0;

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Figure>> {
    let idle = rss_mib(start(bench)?.master.id());
    let mut figures = vec![Figure::new("memory of an idle master", idle, "MiB")];
    let uploads =
        [("one upload of 1 GiB, 3 replicas", 1, 4096), ("32 uploads of 64 MiB at once, 3 replicas", 32, 256)];
    for (what, count, pieces) in uploads {
        let cluster = start(bench)?;
        let growth = growth(&cluster, count, pieces)?;
        let figure = Figure::new(format!("memory over idle: {what}"), growth, "MiB");
        figures.push(figure.target(Target::AtMost(MOST_MIB)));
    }
    Ok(figures)
}

fn start(bench: &Bench) -> Outcome<Cluster> {
    Cluster::start(&Setup { parent: &bench.scratch.memory, replicas: 3, flags: &[], index: None })
}

/// How far memory grows during `count` uploads of so many pieces at once, in MiB.
fn growth(cluster: &Cluster, count: usize, pieces: usize) -> Outcome<f64> {
    let master = cluster.master.id();
    let idle = rss_mib(master);
    forget_peak(master)?;
    let (piece, prefix) = (noise(PIECE_BYTES), fresh_prefix());
    let body = Body { piece: &piece, times: pieces };
    let load = Load { connections: count, seconds: 600, steps: count as u64 };
    load.run(
        || Connection::new(&cluster.address),
        |connection, number| {
            expect(connection.ask("PUT", &format!("{prefix}/{number}"), body)?, 201, "PUT").map(drop)
        },
    )?;
    Ok(peak_rss_mib(master) - idle)
}
