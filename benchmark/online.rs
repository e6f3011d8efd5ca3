//! How long clients wait while a running server rebalances, beside how long they wait when nothing else goes on.

use crate::client::{Body, Connection, expect};
use crate::cluster::{free_port, started};
use crate::filled::{Contents, Filled, key};
use crate::load::{Load, fresh_prefix};
use crate::process::Process;
use crate::put::noise;
use crate::report::{Figure, Target, median};
use crate::{Bench, Outcome};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// More than any rebalance moves while it is measured.
const KEYS: u64 = 100_000;

const BLOB_BYTES: usize = 16 << 10;

/// Clients that each wait for their answers, as many as leave the cores some rest.
const CLIENTS: usize = 4;

/// Between two requests of a client: what is measured is how long an answer takes, not how many there can be.
const PAUSE: Duration = Duration::from_millis(5);

/// What is allowed, as a multiple of the idle p99.
const CASES: [(&str, &str, f64); 2] = [
    ("an unpaced rebalance", r#"{"rate":"unlimited"}"#, 3.0),
    ("a rebalance of the default pace", "{}", 1.5),
];

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    for (what, options, most) in CASES {
        let contents = Contents { keys: KEYS, bytes: BLOB_BYTES, linked: true };
        let filled = Filled::new(&bench.scratch.memory, 5, 3, &contents)?;
        filled.job(3, &["rebuild", "--no-checksum"])?;
        let (port, admin) = (free_port()?, free_port()?);
        let mut command = filled.command(5, &["server", "--port", &port.to_string()])?;
        command.args(["--admin", &format!("127.0.0.1:{admin}")]);
        let _master = started(started(Process::start(&command)?, port)?, admin)?;
        let address = format!("127.0.0.1:{port}");
        // A connection of its own for each: the admin port keeps none for as long as a turn lasts.
        let jobs = || Connection::new(&format!("127.0.0.1:{admin}"));
        let (mut idle, mut busy) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for round in 0..bench.options.rounds().min(3) {
            p99s(bench, &address, &mut idle)?;
            let body = Body { piece: options.as_bytes(), times: 1 };
            expect(jobs()?.ask("POST", "/api/jobs/rebalance", body)?, 202, "beginning a rebalance")?;
            p99s(bench, &address, &mut busy)?;
            let id = round + 1;
            expect(jobs()?.ask("DELETE", &format!("/api/jobs/{id}"), Body::NONE)?, 200, "stopping it")?;
            // What it has begun comes to its end.
            std::thread::sleep(Duration::from_secs(1));
        }
        for (method, idle, busy) in
            ["GET", "PUT"].into_iter().zip(idle).zip(busy).map(|((a, b), c)| (a, b, c))
        {
            let figure = Figure::new(format!("p99 of {method} beside {what}"), median(busy), "ms");
            figures.push(figure.limit("idle", median(idle)).target(Target::RatioBelow(most)));
        }
    }
    Ok(figures)
}

/// Adds the p99 of GETs and of PUTs, in ms, of one turn.
fn p99s(bench: &Bench, address: &str, sums: &mut [Vec<f64>; 2]) -> Outcome<()> {
    let (content, prefix) = (noise(1 << 10), fresh_prefix());
    let waits = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];
    let load = Load { connections: CLIENTS, seconds: bench.options.seconds(), steps: u64::MAX };
    load.run(
        || Connection::new(address),
        |connection, number| {
            std::thread::sleep(PAUSE);
            let asked = Instant::now();
            let kind = (number % 2) as usize;
            match kind {
                0 => expect(connection.ask("GET", &key(number * 7919 % KEYS), Body::NONE)?, 302, "GET")?,
                _ => {
                    let body = Body { piece: &content, times: 1 };
                    expect(connection.ask("PUT", &format!("{prefix}/{number}"), body)?, 201, "PUT")?
                }
            };
            waits[kind].lock().expect("nobody panics").push(asked.elapsed().as_secs_f64() * 1e3);
            Ok(())
        },
    )?;
    for (waits, sum) in waits.into_iter().zip(sums) {
        let mut waits = waits.into_inner().expect("nobody panics");
        waits.sort_by(f64::total_cmp);
        sum.push(waits[(waits.len() - 1) * 99 / 100]);
    }
    Ok(())
}
