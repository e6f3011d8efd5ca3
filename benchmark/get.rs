//! GETs that the master answers by itself: missing keys, and redirects.

use crate::client::{Body, Connection, expect};
use crate::cluster::{Cluster, Setup};
use crate::constant::Constant;
use crate::report::{Figure, Target, median};
use crate::wrk::{Keys, rate};
use crate::{Bench, Outcome, records};

/// What is wanted of a missing key.
const MISSING: Target = Target::RatioAtLeast(0.8);

const LIMIT: &str = "constant handler";

/// GET of keys that aren't there, in an index of a million.
pub(crate) fn missing(bench: &Bench) -> Outcome<Vec<Figure>> {
    let index = records::million(bench)?;
    let cluster = cluster(bench, "file", Some(&index))?;
    let fixed = compare(bench, &cluster, &Keys::Fixed("/missing"), "GET missing, fixed key, index of 1M")?;
    let random = compare(bench, &cluster, &Keys::Random, "GET missing, random keys, index of 1M")?;
    Ok(vec![fixed.target(MISSING), random.target(MISSING)])
}

/// GET of a key that is there: a redirect, with and without a look at the volume.
pub(crate) fn present(bench: &Bench) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    for check in ["file", "health"] {
        let cluster = cluster(bench, check, None)?;
        let body = Body { piece: b"hello", times: 1 };
        let answer = Connection::new(&cluster.address)?.ask("PUT", "/hello", body)?;
        expect(answer, 201, "PUT")?;
        let answer = Connection::new(&cluster.address)?.ask("GET", "/hello", Body::NONE)?;
        expect(answer, 302, "GET")?;
        let what = format!("GET present (302), --check {check}");
        figures.push(compare(bench, &cluster, &Keys::Fixed("/hello"), &what)?);
    }
    Ok(figures)
}

fn cluster(bench: &Bench, check: &str, index: Option<&std::path::Path>) -> Outcome<Cluster> {
    Cluster::start(&Setup { parent: &bench.scratch.memory, replicas: 3, flags: &["--check", check], index })
}

/// Takes turns with the constant handler, under the same load.
fn compare(bench: &Bench, cluster: &Cluster, keys: &Keys, what: &str) -> Outcome<Figure> {
    let constant = Constant::start()?;
    let (mut ours, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds() {
        ours.push(rate(bench, &cluster.address, keys)?);
        limits.push(rate(bench, &constant.address, keys)?);
    }
    Ok(Figure::new(what, median(ours), "/s").limit(LIMIT, median(limits)))
}
