//! How long lookups wait while the index is being written, and how many it does when it isn't.
//!
//! `index_stall RECORDS WRITES_PER_SECOND SECONDS [--json] [--dir DIR]`: fills an index with that many records (or
//! takes the one that is left in DIR), then writes at that rate and looks records up in between, in one thread as
//! the owner of the index does. A lookup's time counts from when it was due. With 0 writes per second it
//! measures the rate of lookups alone, of keys that are there and of keys that are not.
//! Sizes can be set by `MKV_WRITE_BUFFER`, `MKV_TABLE`, `MKV_BLOCK`, `MKV_CACHE`, in KiB.

use minikeyvalue::index::leveldb::{LevelTable, Options, SyncMode, open};
use minikeyvalue::index::table::{Change, Table};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Between two lookups while writing: often enough that every stall is met, rarely enough to keep up.
const LOOKUP_INTERVAL: Duration = Duration::from_micros(250);

/// Records of one batch while filling.
const FILL_BATCH: u64 = 1_000;

struct Plan {
    records: u64,
    writes_per_second: u64,
    time: Duration,
    json: bool,
    dir: Option<PathBuf>,
}

fn main() {
    run(&plan());
}

fn plan() -> Plan {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse().ok());
    let (Some(records), Some(writes_per_second), Some(seconds)) = (number(0), number(1), number(2)) else {
        eprintln!("usage: index_stall RECORDS WRITES_PER_SECOND SECONDS [--json] [--dir DIR]");
        std::process::exit(2);
    };
    let dir = arguments
        .iter()
        .position(|text| text == "--dir")
        .and_then(|at| arguments.get(at + 1))
        .map(PathBuf::from);
    let json = arguments.iter().any(|text| text == "--json");
    Plan { records, writes_per_second, time: Duration::from_secs(seconds), json, dir }
}

fn run(plan: &Plan) {
    let scratch = std::env::temp_dir().join(format!("mkv-index-stall-{}", std::process::id()));
    let dir = plan.dir.as_ref().unwrap_or(&scratch);
    if !dir.exists() {
        fill(dir, plan.records);
    }
    let mut table = open(dir, options(SyncMode::Always)).expect("opens");
    let results =
        if plan.writes_per_second == 0 { rates(&mut table, plan) } else { stalls(&mut table, plan) };
    Box::new(table).close().expect("closes");
    if plan.dir.is_none() {
        std::fs::remove_dir_all(dir).expect("removes");
    }
    print(&results, plan.json);
}

fn options(sync: SyncMode) -> Options {
    let defaults = Options::default();
    let kib = |name: &str, default: usize| {
        std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok()).map_or(default, |kib| kib << 10)
    };
    Options {
        sync,
        write_buffer_bytes: kib("MKV_WRITE_BUFFER", defaults.write_buffer_bytes),
        table_bytes: kib("MKV_TABLE", defaults.table_bytes),
        block_bytes: kib("MKV_BLOCK", defaults.block_bytes),
        cache_bytes: kib("MKV_CACHE", defaults.cache_bytes),
        ..defaults
    }
}

fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 31)
}

fn key(number: u64) -> Vec<u8> {
    format!("/bucket/{:016x}", mix(number)).into_bytes()
}

/// As long as a record with a hash and three replicas.
fn put(number: u64) -> Change {
    let hash = mix(number ^ 0x5555);
    let value = format!("HASH{hash:016x}{hash:016x}volume-1:3001/sv01,volume-2:3001/sv02,volume-3:3001/sv03");
    Change::Put { key: key(number), value: value.into_bytes() }
}

fn fill(dir: &std::path::Path, records: u64) {
    let mut table = open(dir, options(SyncMode::Never)).expect("opens");
    for start in (0..records).step_by(FILL_BATCH as usize) {
        let batch: Vec<Change> = (start..records.min(start + FILL_BATCH)).map(put).collect();
        table.write(&batch).expect("writes");
    }
    Box::new(table).close().expect("closes");
}

type Results = Vec<(&'static str, f64)>;

fn stalls(table: &mut LevelTable, plan: &Plan) -> Results {
    let begun = Instant::now();
    let write_interval = Duration::from_secs(1) / plan.writes_per_second as u32;
    let (mut next_write, mut next_lookup) = (Duration::ZERO, Duration::ZERO);
    let (mut lookups, mut writes) = (Vec::new(), Vec::new());
    while begun.elapsed() < plan.time {
        let now = begun.elapsed();
        if next_lookup <= now && next_lookup <= next_write {
            let known = key(mix(lookups.len() as u64) % plan.records.max(1));
            assert!(table.get_many(&[&known]).expect("reads")[0].is_some());
            lookups.push(begun.elapsed() - next_lookup);
            next_lookup += LOOKUP_INTERVAL;
        } else if next_write <= now {
            table.write(&[put(plan.records + writes.len() as u64)]).expect("writes");
            writes.push(begun.elapsed() - next_write);
            next_write += write_interval;
        } else {
            table.upkeep().expect("upkeep");
        }
    }
    let mut results = vec![("writes", writes.len() as f64), ("lookups", lookups.len() as f64)];
    let names = ["p50", "p99", "p99.9", "max"];
    let of = |names: [&'static str; 4], times: &mut Vec<Duration>| {
        times.sort();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        names.into_iter().zip([0.5, 0.99, 0.999, 1.0].map(at)).collect::<Results>()
    };
    results.extend(of(names.map(|name| label("lookup", name)), &mut lookups));
    results.extend(of(names.map(|name| label("write", name)), &mut writes));
    results
}

fn label(what: &str, part: &str) -> &'static str {
    match (what, part) {
        ("lookup", "p50") => "lookup_p50_ms",
        ("lookup", "p99") => "lookup_p99_ms",
        ("lookup", "p99.9") => "lookup_p999_ms",
        ("lookup", _) => "lookup_max_ms",
        (_, "p50") => "write_p50_ms",
        (_, "p99") => "write_p99_ms",
        (_, "p99.9") => "write_p999_ms",
        _ => "write_max_ms",
    }
}

fn rates(table: &mut LevelTable, plan: &Plan) -> Results {
    let mut rate = |key_of: &dyn Fn(u64) -> Vec<u8>, is_there: bool| {
        let (begun, mut count) = (Instant::now(), 0u64);
        while begun.elapsed() < plan.time / 2 {
            let found = table.get_many(&[&key_of(mix(count) % plan.records.max(1))]).expect("reads");
            assert_eq!(found[0].is_some(), is_there);
            count += 1;
        }
        count as f64 / begun.elapsed().as_secs_f64()
    };
    let hits = rate(&key, true);
    let misses = rate(&|number| [&key(number)[..], b"x"].concat(), false);
    vec![("hits_per_second", hits), ("misses_per_second", misses)]
}

fn print(results: &Results, json: bool) {
    if json {
        let fields: Vec<String> =
            results.iter().map(|(name, value)| format!("\"{name}\":{value:.3}")).collect();
        println!("{{{}}}", fields.join(","));
    } else {
        results.iter().for_each(|(name, value)| println!("{name:20} {value:12.3}"));
    }
}
