//! The index by itself, in this process: lookups through the actor beside those of the table alone, and how many
//! records a second become durable.

use crate::records::{self, MILLION, absent_key, in_owner, key, mix, open_as_server};
use crate::report::{Figure, Target, median};
use crate::scratch::Place;
use crate::{Bench, Outcome};
use minikeyvalue::index::leveldb::{Options, SyncMode, open};
use minikeyvalue::index::table::{Change, Table, TableError};
use minikeyvalue::index::{Ending, Index, IndexSender, IndexServer, Verb};
use minikeyvalue::model::{Key, Record, Replica, State};
use std::cell::Cell;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// As many threads as the server has workers on the smallest machine.
const WORKERS: usize = 2;

/// Lookups that a worker has open at once: half of the connections of the GET load.
const LOOKUPS_AT_ONCE: u64 = 50;

const WRITERS: u64 = 256;

/// The key of a number.
type KeyOf = fn(u64) -> String;

/// Records of one batch of the limit of group commit.
const BARE_BATCH: u64 = 256;

/// Lookups through the actor and without it, of keys that are there and of keys that aren't.
pub(crate) fn lookups(bench: &Bench) -> Outcome<Vec<Figure>> {
    let mut figures = lookups_in(bench, &records::million(bench)?, MILLION, "1M")?;
    if !bench.options.quick {
        let (place, _) = records::ten_million(bench)?;
        figures.extend(lookups_in(bench, &place.0.join("indexdb"), 10 * MILLION, "10M")?);
    }
    Ok(figures)
}

fn lookups_in(bench: &Bench, dir: &Path, records: u64, size: &str) -> Outcome<Vec<Figure>> {
    let time = Duration::from_secs(bench.options.seconds());
    let kinds: [(&str, KeyOf); 2] = [("hits", key), ("misses", absent_key)];
    let mut figures = Vec::new();
    for (kind, key_of) in kinds {
        let (mut ours, mut limits) = (Vec::new(), Vec::new());
        for _ in 0..bench.options.rounds() {
            limits.push(bare_rate(dir, records, key_of, time)?);
            ours.push(actor_rate(dir, records, key_of, time)?);
        }
        let what = format!("lookups through the actor, {kind}, index of {size}");
        let figure =
            Figure::new(what, median(ours), "/s").limit("the table alone, one thread", median(limits));
        figures.push(figure.target(Target::RatioAtLeast(0.8)));
    }
    Ok(figures)
}

fn bare_rate(dir: &Path, records: u64, key_of: KeyOf, time: Duration) -> Outcome<f64> {
    let dir = dir.to_owned();
    Ok(in_owner(move || {
        let mut table = open_as_server(&dir)?;
        // The first second fills the cache.
        let warm = Instant::now();
        let mut number = 0;
        while warm.elapsed() < Duration::from_secs(1) {
            number += 1;
            table.get_many(&[key_of(mix(number) % records).as_bytes()])?;
        }
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < time {
            number += 1;
            table.get_many(&[key_of(mix(number) % records).as_bytes()])?;
            count += 1;
        }
        let rate = f64::from(count) / begun.elapsed().as_secs_f64();
        Box::new(table).close()?;
        Ok::<f64, TableError>(rate)
    })?)
}

fn actor_rate(dir: &Path, records: u64, key_of: KeyOf, time: Duration) -> Outcome<f64> {
    let server = start(dir)?;
    let look = move |index: Index, number: u64, _| {
        let key = Key::new(key_of(mix(number) % records)).expect("the keys of the bench are keys");
        async move {
            index.locate(&key).await.expect("the index works");
        }
    };
    from_workers(server.sender(), LOOKUPS_AT_ONCE, Duration::from_secs(1), look);
    let rate = from_workers(server.sender(), LOOKUPS_AT_ONCE, time, look);
    close(server)?;
    Ok(rate)
}

/// Records that become durable: an intent and a record for each blob, as a PUT without the volumes.
pub(crate) fn commits(bench: &Bench) -> Outcome<Vec<Figure>> {
    let time = Duration::from_secs(bench.options.seconds());
    let (mut ours, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds() {
        let place = Place::new(&bench.scratch.disk, "commits")?;
        let server = start(&place.0.join("actor"))?;
        let each = WRITERS / WORKERS as u64;
        let blobs = from_workers(server.sender(), each, time, move |index, number, worker| {
            write_one(index, format!("/commit/{worker}/{number}"))
        });
        close(server)?;
        ours.push(2.0 * blobs);
        limits.push(bare_commits(&place.0.join("bare"), time)?);
    }
    let what = "synced records from 256 writers (2 a blob: intent, record), disk";
    let figure =
        Figure::new(what, median(ours), "/s").limit("the table alone, batches of 256", median(limits));
    Ok(vec![figure.target(Target::AtLeast(20_000.0))])
}

/// One blob as the index sees it.
pub(crate) async fn write_one(index: Index, key: String) {
    let replicas: Vec<Replica> = ["volume-1:3001/sv01", "volume-2:3001/sv02", "volume-3:3001/sv03"]
        .map(|name| name.parse().expect("the names of the bench are replicas"))
        .into();
    let key = Key::new(key).expect("the keys of the bench are keys");
    let held = index.reserve(&key, Verb::Put(replicas.clone())).await.expect("nobody else writes this key");
    let record = Record { state: State::Live, md5: None, generation: None, replicas };
    held.commit(record, Ending::default()).await.expect("the index works");
}

fn bare_commits(dir: &Path, time: Duration) -> Outcome<f64> {
    let dir = dir.to_owned();
    Ok(in_owner(move || {
        let mut table = open(&dir, Options { sync: SyncMode::Always, ..Options::default() })?;
        let (begun, mut count) = (Instant::now(), 0);
        while begun.elapsed() < time {
            let put = |number| Change::Put { key: key(number).into_bytes(), value: vec![b'x'; 100] };
            table.write(&(count..count + BARE_BATCH).map(put).collect::<Vec<_>>())?;
            count += BARE_BATCH;
        }
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        Box::new(table).close()?;
        Ok::<f64, TableError>(rate)
    })?)
}

/// The index actor over the table in `dir`, as the server starts it.
pub(crate) fn start(dir: &Path) -> Outcome<IndexServer> {
    let dir = dir.to_owned();
    Ok(IndexServer::start(move || open_as_server(&dir), 0)?)
}

pub(crate) fn close(server: IndexServer) -> Outcome<()> {
    Ok(actix_rt::System::new().block_on(server.close())?)
}

/// Has `WORKERS` threads do `work` for some time, `at_once` at a time in each; how often a second it was done.
fn from_workers<F: Future<Output = ()> + 'static>(
    sender: IndexSender,
    at_once: u64,
    time: Duration,
    work: impl Fn(Index, u64, usize) -> F + Copy + Send + 'static,
) -> f64 {
    let begun = Instant::now();
    let thread = |worker: usize| {
        let sender = sender.clone();
        std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let (index, next, done) = (sender.handle(), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
                let repeat = |_| {
                    let (index, next, done) = (index.clone(), Rc::clone(&next), Rc::clone(&done));
                    actix_rt::spawn(async move {
                        while begun.elapsed() < time {
                            let number = next.replace(next.get() + 1);
                            // Workers don't look for the same keys.
                            work(index.clone(), number + ((worker as u64) << 40), worker).await;
                            done.set(done.get() + 1);
                        }
                    })
                };
                futures_util::future::join_all((0..at_once).map(repeat)).await;
                done.get()
            })
        })
    };
    let threads: Vec<_> = (0..WORKERS).map(thread).collect();
    let done: u64 = threads.into_iter().map(|thread| thread.join().expect("a worker doesn't panic")).sum();
    done as f64 / begun.elapsed().as_secs_f64()
}
