//! How long a lookup waits while the index is being written.

use crate::index::{close, start, write_one};
use crate::records::{self, MILLION, key, mix};
use crate::report::{Figure, Target};
use crate::{Bench, Outcome};
use actix_rt::time::{interval, sleep_until};
use minikeyvalue::index::{Index, IndexServer};
use minikeyvalue::model::Key;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Lookups come one by one at this distance, whether the one before is answered or not.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(1);

/// Blobs that are written in a second; each is a record and, before it, an intent.
const WRITES_PER_SECOND: u32 = 1000;

/// What is allowed at a million records, in ms.
const MOST_MS: f64 = 50.0;

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Figure>> {
    let seconds = if bench.options.quick { 10 } else { 30 };
    let waits = waits_while_writing(&records::million(bench)?, MILLION, seconds)?;
    let mut figures = distribution("lookup beside 1,000 writes/s, index of 1M", waits, Some(MOST_MS));
    if !bench.options.quick {
        let (place, waits) = records::ten_million(bench)?;
        figures.extend(distribution(
            "lookup behind a batch of 500, while 10M records are written",
            waits,
            None,
        ));
        let waits = waits_while_writing(&place.0.join("indexdb"), 10 * MILLION, seconds)?;
        figures.extend(distribution("lookup beside 1,000 writes/s, index of 10M", waits, None));
    }
    Ok(figures)
}

fn distribution(what: &str, mut waits: Vec<Duration>, most_ms: Option<f64>) -> Vec<Figure> {
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    let figure = |name: &str, part: f64| Figure::new(format!("{what}: {name}"), at(part), "ms");
    let max = figure("max", 1.0);
    let max = match most_ms {
        Some(most) => max.target(Target::AtMost(most)),
        None => max,
    };
    vec![figure("p50", 0.5), figure("p99", 0.99), figure("p99.9", 0.999), max]
}

/// How long each lookup took from when it was asked.
fn waits_while_writing(dir: &Path, records: u64, seconds: u64) -> Outcome<Vec<Duration>> {
    let server = start(dir)?;
    let time = Duration::from_secs(seconds);
    let writer = {
        let sender = server.sender();
        std::thread::spawn(move || actix_rt::System::new().block_on(write(sender.handle(), time)))
    };
    let waits = look(&server, records, time);
    writer.join().expect("the writer doesn't panic");
    close(server)?;
    Ok(waits)
}

/// Writes blobs at an even pace. One that is late doesn't make the next one late.
async fn write(index: Index, time: Duration) {
    let begun = Instant::now();
    let mut running = Vec::new();
    for number in 0.. {
        let due = Duration::from_secs(1) / WRITES_PER_SECOND * number;
        if due >= time {
            break;
        }
        sleep_until((begun + due).into()).await;
        running.push(actix_rt::spawn(write_one(index.clone(), format!("/stall/{number:016x}"))));
    }
    for write in running {
        write.await.expect("a write doesn't panic");
    }
}

fn look(server: &IndexServer, records: u64, time: Duration) -> Vec<Duration> {
    let sender = server.sender();
    let waits = Rc::new(RefCell::new(Vec::new()));
    actix_rt::System::new().block_on(async {
        let index = sender.handle();
        let (begun, mut ticks, mut number) = (Instant::now(), interval(LOOKUP_INTERVAL), 0);
        let mut running = Vec::new();
        while begun.elapsed() < time {
            ticks.tick().await;
            number += 1;
            let key = Key::new(key(mix(number) % records)).expect("the keys of the bench are keys");
            let (index, waits) = (index.clone(), Rc::clone(&waits));
            running.push(actix_rt::spawn(async move {
                let asked = Instant::now();
                index.locate(&key).await.expect("the index works");
                waits.borrow_mut().push(asked.elapsed());
            }));
        }
        for lookup in running {
            lookup.await.expect("a lookup doesn't panic");
        }
    });
    waits.take()
}
