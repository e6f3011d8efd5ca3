//! A list of everything in an index of a million keys.

use crate::client::{Body, Connection, expect};
use crate::cluster::{Cluster, Setup};
use crate::process::{forget_peak, peak_rss_mib, rss_mib};
use crate::records::{self, MILLION, in_owner, open_as_server};
use crate::report::{Figure, median};
use crate::{Bench, Outcome};
use minikeyvalue::index::table::{Table, TableError};
use std::ops::Bound;
use std::path::Path;
use std::time::Instant;

/// As many as the index actor reads at a time.
const PAGE_ENTRIES: usize = 1000;

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Figure>> {
    let index = records::million(bench)?;
    let (mut ours, mut limits, mut growth) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds() {
        limits.push(MILLION as f64 / read_all(&index)?);
        let setup = Setup { parent: &bench.scratch.memory, replicas: 3, flags: &[], index: Some(&index) };
        let cluster = Cluster::start(&setup)?;
        let master = cluster.master.id();
        let idle = rss_mib(master);
        forget_peak(master)?;
        let begun = Instant::now();
        let answer = Connection::new(&cluster.address)?.ask("GET", "/?list", Body::NONE)?;
        ours.push(MILLION as f64 / begun.elapsed().as_secs_f64());
        expect(answer, 200, "GET /?list")?;
        growth.push(peak_rss_mib(master) - idle);
    }
    Ok(vec![
        Figure::new("list of 1M keys", median(ours.clone()), "keys/s")
            .limit("the table alone", median(limits)),
        Figure::new("list of 1M keys: time", MILLION as f64 / median(ours), "s"),
        Figure::new("list of 1M keys: memory over idle", median(growth), "MiB"),
    ])
}

/// Seconds in which the table alone reads everything.
fn read_all(index: &Path) -> Outcome<f64> {
    let index = index.to_owned();
    Ok(in_owner(move || {
        let mut table = open_as_server(&index)?;
        let begun = Instant::now();
        let mut from = Bound::Unbounded;
        while let Some(key) = table.page(from.as_ref().map(Vec::as_slice), PAGE_ENTRIES)?.next {
            from = Bound::Excluded(key);
        }
        let seconds = begun.elapsed().as_secs_f64();
        Box::new(table).close()?;
        Ok::<f64, TableError>(seconds)
    })?)
}
