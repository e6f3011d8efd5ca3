//! PUTs, beside the same PUTs sent straight to nginx and what the file system takes at best.

use crate::client::{Body, Connection, expect};
use crate::cluster::{Cluster, Setup};
use crate::load::{Load, fresh_prefix};
use crate::report::{Figure, Target, median};
use crate::{Bench, Outcome};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Large bodies are sent in pieces of this size.
const PIECE_BYTES: usize = 256 * KIB;

const STRAIGHT: &str = "straight to nginx";

/// Connections that send small blobs.
const CONNECTIONS: usize = 16;

/// The blobs of one kind of load.
pub(crate) struct Blobs {
    pub(crate) name: &'static str,
    piece: Vec<u8>,
    times: usize,
    pub(crate) load: Load,
}

impl Blobs {
    fn body(&self) -> Body<'_> {
        Body { piece: &self.piece, times: self.times }
    }

    pub(crate) fn mib(&self) -> f64 {
        (self.piece.len() * self.times) as f64 / MIB as f64
    }
}

pub(crate) fn one_kib(bench: &Bench) -> Outcome<Vec<Figure>> {
    small(bench, &blobs_of_a_kib(bench))
}

pub(crate) fn one_mib(bench: &Bench) -> Outcome<Vec<Figure>> {
    small(bench, &blobs_of_a_mib(bench))
}

pub(crate) fn blobs_of_a_kib(bench: &Bench) -> Blobs {
    let load = Load { connections: CONNECTIONS, seconds: bench.options.seconds(), steps: u64::MAX };
    Blobs { name: "1 KiB", piece: noise(KIB), times: 1, load }
}

pub(crate) fn blobs_of_a_mib(bench: &Bench) -> Blobs {
    let load = Load { connections: CONNECTIONS, seconds: bench.options.seconds(), steps: 400 };
    Blobs { name: "1 MiB", piece: noise(MIB), times: 1, load }
}

pub(crate) fn blob_of_a_gib() -> Blobs {
    let load = Load { connections: 1, seconds: 600, steps: 1 };
    Blobs { name: "1 GiB", piece: noise(PIECE_BYTES), times: 4 * KIB, load }
}

fn small(bench: &Bench, blobs: &Blobs) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    for (parent, medium) in media(bench) {
        for replicas in [1, 3] {
            let (mut ours, mut limits) = (Vec::new(), Vec::new());
            let (mut master, mut volumes) = (Vec::new(), Vec::new());
            for _ in 0..bench.options.rounds() {
                // A new one each round, so that there is room for what is written.
                let cluster = cluster(parent, replicas)?;
                let (master_before, volumes_before) = (cluster.master_cpu(), cluster.volumes_cpu());
                let done = through_master(&cluster, blobs)?;
                let per_put = |before: f64, after: f64| (after - before) * 1e6 / done.steps as f64;
                master.push(per_put(master_before, cluster.master_cpu()));
                volumes.push(per_put(volumes_before, cluster.volumes_cpu()));
                ours.push(done.rate());
                limits.push(straight(&cluster, blobs)?.rate());
            }
            let what = format!("PUT {}, {}", blobs.name, plural(replicas, medium));
            figures.push(Figure::new(&what, median(ours), "/s").limit(STRAIGHT, median(limits)));
            let cpu = Figure::new(format!("{what}: CPU of the master"), median(master), "µs/PUT");
            let cpu = cpu.limit("CPU of the volumes", median(volumes));
            let is_target = blobs.name == "1 KiB" && replicas == 3;
            figures.push(if is_target { cpu.target(Target::RatioBelow(1.0)) } else { cpu });
        }
    }
    Ok(figures)
}

/// The default: the master hashes what passes through it.
const HASHED: &[&str] = &[];
/// Without it, an upload is not bound by the speed of MD5.
const UNHASHED: &[&str] = &["--md5sum=false"];

pub(crate) fn one_gib(bench: &Bench) -> Outcome<Vec<Figure>> {
    let blobs = blob_of_a_gib();
    let mut figures =
        vec![Figure::new("MD5 of 1 GiB, one thread", blobs.mib() / md5_seconds(&blobs), "MiB/s")];
    for (parent, medium) in media(bench) {
        for (replicas, flags) in [(1, HASHED), (3, HASHED), (3, UNHASHED)] {
            let cluster = Cluster::start(&Setup { parent, replicas, flags, index: None })?;
            let (mut ours, mut straights, mut files) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..bench.options.rounds() {
                ours.push(through_master(&cluster, &blobs)?.rate() * blobs.mib());
                straights.push(straight(&cluster, &blobs)?.rate() * blobs.mib());
                files.push(straight_to_files(parent, replicas, &blobs)? * blobs.mib());
            }
            let how = if flags == UNHASHED { ", --md5sum=false" } else { "" };
            let what = format!("PUT 1 GiB, {}{how}", plural(replicas, medium));
            let figure = Figure::new(&what, median(ours.clone()), "MiB/s").limit(STRAIGHT, median(straights));
            let is_target = medium == "tmpfs" && replicas == 3;
            figures.push(if is_target { figure.target(Target::RatioAtLeast(0.8)) } else { figure });
            figures.push(Figure::new(what, median(ours), "MiB/s").limit("plain files, as dd", median(files)));
        }
    }
    Ok(figures)
}

/// Sends blobs to the master. A large one is removed at once: there may be no room for two.
pub(crate) fn through_master(cluster: &Cluster, blobs: &Blobs) -> Outcome<crate::load::Done> {
    let prefix = fresh_prefix();
    let key = |number| format!("{prefix}/{number}");
    let done = blobs.load.run(
        || Connection::new(&cluster.address),
        |connection, number| expect(connection.ask("PUT", &key(number), blobs.body())?, 201, "PUT").map(drop),
    )?;
    if blobs.load.steps == 1 {
        expect(Connection::new(&cluster.address)?.ask("DELETE", &key(0), Body::NONE)?, 204, "DELETE")?;
    }
    Ok(done)
}

/// Sends the same blobs to the places where the master would have put them.
fn straight(cluster: &Cluster, blobs: &Blobs) -> Outcome<crate::load::Done> {
    let prefix = fresh_prefix();
    let key = |number| format!("{prefix}/{number}");
    if blobs.load.steps > 1 {
        let make = || Ok(Vec::new());
        return blobs
            .load
            .run(make, |kept, number| put_at(kept, &cluster.places(&key(number)), blobs.body()));
    }
    let places = cluster.places(&key(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let put = |place| move || put_at(&mut Vec::new(), std::slice::from_ref(place), blobs.body());
        let threads: Vec<_> = places.iter().map(|place| scope.spawn(put(place))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a load thread doesn't panic"))
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    for (address, path) in &places {
        expect(Connection::new(address)?.ask("DELETE", path, Body::NONE)?, 204, "DELETE")?;
    }
    Ok(crate::load::Done { steps: 1, seconds })
}

/// One blob to several places: all are sent, then all are waited for.
pub(crate) fn put_at(
    kept: &mut Vec<(String, Connection)>,
    places: &[(String, String)],
    body: Body,
) -> Outcome<()> {
    for (address, path) in places {
        connection_to(kept, address)?.send("PUT", path, body)?;
    }
    for (address, _) in places {
        expect(connection_to(kept, address)?.receive()?, 201, "PUT to a volume")?;
    }
    Ok(())
}

/// The kept connection to `address`.
pub(crate) fn connection_to<'a>(
    kept: &'a mut Vec<(String, Connection)>,
    address: &str,
) -> Outcome<&'a mut Connection> {
    let at = match kept.iter().position(|(other, _)| other == address) {
        Some(at) => at,
        None => {
            kept.push((address.to_owned(), Connection::new(address)?));
            kept.len() - 1
        }
    };
    Ok(&mut kept[at].1)
}

/// Writes the blob into as many plain files at once; blobs per second.
fn straight_to_files(parent: &Path, replicas: usize, blobs: &Blobs) -> Outcome<f64> {
    let paths: Vec<_> = (0..replicas).map(|number| parent.join(format!("plain{number}"))).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let write = |path| {
            move || {
                let mut file = File::create(path)?;
                (0..blobs.times).try_for_each(|_| file.write_all(&blobs.piece))
            }
        };
        let threads: Vec<_> = paths.iter().map(|path| scope.spawn(write(path))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a load thread doesn't panic"))
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    paths.iter().try_for_each(std::fs::remove_file)?;
    Ok(1.0 / seconds)
}

/// A blob is hashed from its beginning to its end, so no upload is faster than this.
fn md5_seconds(blobs: &Blobs) -> f64 {
    let (begun, mut context) = (Instant::now(), md5::Context::new());
    (0..blobs.times).for_each(|_| context.consume(&blobs.piece));
    std::hint::black_box(context.finalize());
    begun.elapsed().as_secs_f64()
}

fn media(bench: &Bench) -> [(&Path, &'static str); 2] {
    [(&bench.scratch.memory, "tmpfs"), (&bench.scratch.disk, "disk")]
}

fn cluster(parent: &Path, replicas: usize) -> Outcome<Cluster> {
    Cluster::start(&Setup { parent, replicas, flags: &[], index: None })
}

pub(crate) fn plural(replicas: usize, medium: &str) -> String {
    format!("{replicas} {}, {medium}", if replicas == 1 { "replica" } else { "replicas" })
}

/// Bytes that nothing could compress.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u64 / 8).flat_map(|number| crate::records::mix(number).to_le_bytes()).collect()
}
