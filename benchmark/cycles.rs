//! Write, read and delete, over and over: what a busy cluster of small blobs does.

use crate::client::{Body, Connection, expect};
use crate::cluster::{Cluster, Setup};
use crate::load::{Load, fresh_prefix};
use crate::put::{connection_to, noise, put_at};
use crate::report::{Figure, median};
use crate::{Bench, Outcome};

const CONNECTIONS: usize = 16;
const BLOB_BYTES: usize = 1 << 10;

/// A thread's connections, by address.
type Kept = Vec<(String, Connection)>;

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    for (parent, medium) in [(&bench.scratch.memory, "tmpfs"), (&bench.scratch.disk, "disk")] {
        let cluster = Cluster::start(&Setup { parent, replicas: 3, flags: &[], index: None })?;
        let load = Load { connections: CONNECTIONS, seconds: bench.options.seconds(), steps: u64::MAX };
        let piece = noise(BLOB_BYTES);
        let body = Body { piece: &piece, times: 1 };
        let (mut ours, mut limits) = (Vec::new(), Vec::new());
        let (mut master, mut volumes) = (Vec::new(), Vec::new());
        for _ in 0..bench.options.rounds() {
            let (master_before, volumes_before) = (cluster.master_cpu(), cluster.volumes_cpu());
            let prefix = fresh_prefix();
            let key = |number| format!("{prefix}/{number}");
            let done =
                load.run(|| Ok(Kept::new()), |kept, number| cycle(kept, &cluster, &key(number), body))?;
            master.push((cluster.master_cpu() - master_before) * 1e6 / done.steps as f64);
            volumes.push((cluster.volumes_cpu() - volumes_before) * 1e6 / done.steps as f64);
            ours.push(done.rate());
            let prefix = fresh_prefix();
            let key = |number| format!("{prefix}/{number}");
            let done = load.run(
                || Ok(Kept::new()),
                |kept, number| straight_cycle(kept, &cluster.places(&key(number)), body),
            )?;
            limits.push(done.rate());
        }
        let what = format!("write, read, delete 1 KiB, 3 replicas, {medium}");
        figures.push(Figure::new(&what, median(ours), "/s").limit("straight to nginx", median(limits)));
        let cpu = Figure::new(format!("{what}: CPU of the master"), median(master), "µs/cycle");
        figures.push(cpu.limit("CPU of the volumes", median(volumes)));
    }
    Ok(figures)
}

fn cycle(kept: &mut Kept, cluster: &Cluster, key: &str, body: Body) -> Outcome<()> {
    let address = &cluster.address;
    expect(connection_to(kept, address)?.ask("PUT", key, body)?, 201, "PUT")?;
    let redirect = expect(connection_to(kept, address)?.ask("GET", key, Body::NONE)?, 302, "GET")?;
    let location = redirect.location.ok_or("a redirect without a location")?;
    let (volume, path) =
        location.strip_prefix("http://").and_then(|rest| rest.split_once('/')).ok_or("a strange location")?;
    fetch(kept, volume, &format!("/{path}"))?;
    expect(connection_to(kept, address)?.ask("DELETE", key, Body::NONE)?, 204, "DELETE").map(drop)
}

fn straight_cycle(kept: &mut Kept, places: &[(String, String)], body: Body) -> Outcome<()> {
    put_at(kept, places, body)?;
    let (address, path) = &places[0];
    fetch(kept, address, path)?;
    for (address, path) in places {
        connection_to(kept, address)?.send("DELETE", path, Body::NONE)?;
    }
    for (address, _) in places {
        expect(connection_to(kept, address)?.receive()?, 204, "DELETE from a volume")?;
    }
    Ok(())
}

fn fetch(kept: &mut Kept, address: &str, path: &str) -> Outcome<()> {
    let answer = connection_to(kept, address)?.ask("GET", path, Body::NONE)?;
    match expect(answer, 200, "GET from a volume")?.body_bytes {
        bytes if bytes == BLOB_BYTES as u64 => Ok(()),
        bytes => Err(format!("a blob of {BLOB_BYTES} bytes came back with {bytes}").into()),
    }
}
