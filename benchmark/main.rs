//! `mkv-bench`: measures the release build of `mkv` against real volumes, and beside each figure what the same
//! machine can do at best, in one run. `./bench` builds both and starts it.
//!
//! It promises to stop what it started, by process id, and to remove its data, also when it is interrupted. It is no
//! test: it says whether a target holds, and exits with 0 all the same.

mod client;
mod cluster;
mod constant;
mod cycles;
mod durable;
mod filled;
mod get;
mod index;
mod list;
mod load;
mod memory;
mod metrics;
mod online;
mod options;
mod process;
mod put;
mod rebalance;
mod rebuild;
mod records;
mod report;
mod scratch;
mod scrub;
mod stall;
mod wrk;

use options::Options;
use report::{Figure, Report};
use scratch::Scratch;
use std::error::Error;
use std::process::ExitCode;
use tikv_jemallocator::Jemalloc;

/// As in `mkv`, so that what it is measured beside has no worse one.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Nobody branches on why a measurement failed: it is told and the program ends.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

type Measure = fn(&Bench) -> Outcome<Vec<Figure>>;

/// What can be measured, under the name by which it is chosen.
const GROUPS: [(&str, Measure); 17] = [
    ("get-missing", get::missing),
    ("get-present", get::present),
    ("put-1k", put::one_kib),
    ("put-1m", put::one_mib),
    ("put-1g", put::one_gib),
    ("durable", durable::run),
    ("cycles", cycles::run),
    ("list", list::run),
    ("memory", memory::run),
    ("metrics", metrics::run),
    ("lookups", index::lookups),
    ("commits", index::commits),
    ("stalls", stall::run),
    ("rebuild", rebuild::run),
    ("scrub", scrub::run),
    ("rebalance", rebalance::run),
    ("online", online::run),
];

/// What every measurement needs to know.
struct Bench {
    options: Options,
    scratch: Scratch,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, port] = &words[..]
        && word == constant::COMMAND
    {
        return ended(constant::serve(port));
    }
    let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
    match Options::parse(&words, &names) {
        Ok(Some(options)) => ended(run(options)),
        Ok(None) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("bench: {fault}");
            ExitCode::from(2)
        }
    }
}

fn ended(outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("bench: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Outcome<()> {
    process::stop_at_signals();
    let scratch = Scratch::new(&options.disk)?;
    let bench = Bench { options, scratch };
    let mut report = Report::new(&bench);
    for (name, measure) in GROUPS {
        if bench.options.wants(name) {
            // What one measurement has left in the page cache is not to be the next one's burden.
            std::process::Command::new("sync").status()?;
            eprintln!("bench: {name}");
            report.add(name, measure(&bench)?);
        }
    }
    report.print();
    match &bench.options.json {
        Some(path) => report.write_json(path),
        None => Ok(()),
    }
}
