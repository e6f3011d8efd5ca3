//! What it costs to be told how the server is: the rate of the quickest answer with and without the admin port, and a
//! master that has nothing to do but to look after forty volumes.

use crate::cluster::{Cluster, Setup, VOLUMES, free_port};
use crate::process::rss_mib;
use crate::report::{Figure, Target, median};
use crate::wrk::{Keys, rate};
use crate::{Bench, Outcome};
use std::path::Path;
use std::time::Duration;

/// What metrics may take of the rate of missing keys.
const RATE: Target = Target::RatioAtLeast(0.95);

const MANY_VOLUMES: usize = 40;

/// What an idle master may take.
const MOST_MIB: f64 = 30.0;
const MOST_PERCENT_OF_A_CORE: f64 = 0.5;

/// Connections, timers and the allocator need some turns until nothing new comes.
const SETTLE: Duration = Duration::from_secs(10);

/// /proc counts CPU in hundredths of a second; of so many seconds one is at most 0.05 %.
const IDLE_SECONDS: u64 = 20;

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Figure>> {
    let mut figures = vec![cost(bench)?];
    figures.extend(idle(bench)?);
    Ok(figures)
}

/// An index without a key: nothing is quicker to answer, so nothing shows the cost better.
fn cost(bench: &Bench) -> Outcome<Figure> {
    let beside = bench.scratch.memory.join("plain");
    let (measured, plain) = (measured(bench, VOLUMES)?, Cluster::start(&setup(&beside, &[]))?);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds() {
        with.push(rate(bench, &measured.address, &Keys::Fixed("/missing"))?);
        without.push(rate(bench, &plain.address, &Keys::Fixed("/missing"))?);
    }
    let figure = Figure::new("GET missing, empty index, with metrics", median(with), "/s");
    Ok(figure.limit("without", median(without)).target(RATE))
}

fn idle(bench: &Bench) -> Outcome<[Figure; 2]> {
    let cluster = measured(bench, MANY_VOLUMES)?;
    std::thread::sleep(SETTLE);
    let seconds = if bench.options.quick { IDLE_SECONDS } else { 3 * IDLE_SECONDS };
    let before = cluster.master_cpu();
    std::thread::sleep(Duration::from_secs(seconds));
    let percent = (cluster.master_cpu() - before) / seconds as f64 * 100.0;
    let what = |what: &str| format!("{what} of an idle master with {MANY_VOLUMES} volumes and metrics");
    Ok([
        Figure::new(what("memory"), rss_mib(cluster.master.id()), "MiB").target(Target::AtMost(MOST_MIB)),
        Figure::new(what("CPU"), percent, "%").target(Target::AtMost(MOST_PERCENT_OF_A_CORE)),
    ])
}

/// A master over so many volumes that measures itself.
fn measured(bench: &Bench, volumes: usize) -> Outcome<Cluster> {
    let admin = format!("127.0.0.1:{}", free_port()?);
    Cluster::start_over(volumes, &setup(&bench.scratch.memory, &["--admin", &admin]))
}

fn setup<'a>(parent: &'a Path, flags: &'a [&str]) -> Setup<'a> {
    Setup { parent, replicas: 3, flags, index: None }
}
