//! Runs a job from the command line, with the server stopped, and shows how far it is: a bar on a terminal, a line every
//! few seconds elsewhere. What is left to be done in the end is listed, and the exit code tells.

use crate::cli::{
    Arguments, JobArguments, RebalanceArguments, RebuildArguments, RepairArguments, ScrubArguments,
};
use crate::config::{Config, ConfigError};
use crate::index::table::TableError;
use crate::maintenance::rebalance::{self, Rebalanced};
use crate::maintenance::rebuild::{self, RebuildError, RebuildRequest};
use crate::maintenance::scrub::{self, Origin, RepairRequest, ScrubRequest};
use crate::maintenance::verify;
use crate::maintenance::{Control, Finding, MaintenanceError, OfflineRequest, Pace, Progress, Rate, Status};
use crate::model::Volume;
use crate::store::Depth;
use crate::volume::Timeouts;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;

/// Between two looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Why a job did not do all that was asked.
#[derive(Debug, Error)]
pub enum JobError {
    /// The flags don't fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The index was not rebuilt.
    #[error("rebuild: {0}")]
    Rebuild(#[from] RebuildError),
    /// The job could not go on.
    #[error("{0}: {1}")]
    Cluster(&'static str, #[source] MaintenanceError),
    /// The index can't be read.
    #[error("verify-index: {0}")]
    Verify(#[from] TableError),
    /// It went to its end, and something is left; all of it was listed.
    #[error("{0} problems are left, see above")]
    Left(u64),
}

/// Runs `mkv rebuild`.
pub fn rebuild(arguments: &Arguments, flags: &RebuildArguments) -> Result<(), JobError> {
    let config = Config::new(arguments)?;
    let missing: Vec<Volume> = flags
        .allow_missing
        .iter()
        .map(|name| name.parse())
        .collect::<Result<_, _>>()
        .map_err(ConfigError::from)?;
    let all = config.placer.volumes();
    if let Some(stranger) = missing.iter().find(|volume| !all.contains(volume)) {
        return Err(ConfigError::NoSuchVolume(stranger.clone()).into());
    }
    let request = RebuildRequest {
        volumes: all.iter().filter(|volume| !missing.contains(volume)).cloned().collect(),
        db: config.db,
        placer: config.placer,
        checksum: config.store.md5sum && !flags.no_checksum,
        discard_old: flags.discard_old,
        adopt: config.adopt,
        timeouts: Timeouts::for_jobs(config.voltimeout),
        userpass: config.userpass,
    };
    let progress = Progress::default();
    let stop = AtomicBool::new(false);
    let rebuilt = shown("rebuild", &progress, flags.job.quiet, || rebuild::run(&request, &progress, &stop))?;
    if let Some(old) = rebuilt.old.filter(|_| !flags.job.quiet) {
        println!("the old index is kept as {}", old.display());
    }
    end(&progress)
}

/// Runs `mkv rebalance`.
pub fn rebalance(arguments: &Arguments, flags: &RebalanceArguments) -> Result<(), JobError> {
    let request = offline(Config::new(arguments)?);
    let control = control(flags.rate, false);
    if flags.dry_run {
        let preview = || rebalance::preview(&request, &control);
        let rebalanced = shown("rebalance", &control.progress, flags.job.quiet, preview);
        print_transfers(&rebalanced.map_err(|err| JobError::Cluster("rebalance", err))?);
        return end(&control.progress);
    }
    run("rebalance", &control, &flags.job, || rebalance::run(&request, &control))
}

/// Runs `mkv scrub`.
pub fn scrub(arguments: &Arguments, flags: &ScrubArguments) -> Result<(), JobError> {
    let request = offline(Config::new(arguments)?);
    let control = control(flags.rate, flags.json);
    let depth = if flags.quick { Depth::Sizes } else { Depth::Contents };
    let scrub = ScrubRequest { depth, repair: None, origin: Origin::Asked };
    run("scrub", &control, &flags.job, || scrub::run_offline(&request, scrub, &control))
}

/// Runs `mkv repair`.
pub fn repair(arguments: &Arguments, flags: &RepairArguments) -> Result<(), JobError> {
    let request = offline(Config::new(arguments)?);
    let control = control(flags.scrub.rate, flags.scrub.json);
    let depth = if flags.scrub.quick { Depth::Sizes } else { Depth::Contents };
    // Nobody is reading, so what was moved can go at once.
    let keep_old = Duration::ZERO;
    let repair = RepairRequest { delete_orphans: flags.delete_orphans, force: flags.force, keep_old };
    let scrub = ScrubRequest { depth, repair: Some(repair), origin: Origin::Asked };
    run("repair", &control, &flags.scrub.job, || scrub::run_offline(&request, scrub, &control))
}

fn offline(config: Config) -> OfflineRequest {
    OfflineRequest {
        db: config.db,
        placer: config.placer,
        store: config.store,
        timeouts: Timeouts::for_jobs(config.voltimeout),
        userpass: config.userpass,
        adopt: config.adopt,
    }
}

/// With `json`, findings go to stdout, one object a line.
fn control(rate: Option<Rate>, json: bool) -> Control {
    let print = |finding: &Finding| println!("{}", serde_json::to_string(finding).expect("it is strings"));
    let progress = if json { Progress::told_to(print) } else { Progress::default() };
    Control {
        progress: progress.into(),
        pace: Pace::new(rate.unwrap_or_default()).into(),
        ..Control::default()
    }
}

/// Shows a job while it runs, and makes what it left the error that it is.
fn run(
    name: &'static str,
    control: &Control,
    flags: &JobArguments,
    job: impl FnOnce() -> Result<(), MaintenanceError>,
) -> Result<(), JobError> {
    let done = shown(name, &control.progress, flags.quiet, job);
    done.map_err(|err| JobError::Cluster(name, err))?;
    end(&control.progress)
}

/// Runs `mkv verify-index`.
pub fn verify_index(arguments: &Arguments, flags: &JobArguments) -> Result<(), JobError> {
    let db = Config::db(arguments)?;
    let progress = Progress::default();
    shown("verify-index", &progress, flags.quiet, || verify::run(&db, &progress))?;
    end(&progress)
}

fn print_transfers(rebalanced: &Rebalanced) {
    let (mut blobs, mut bytes) = (0, 0);
    for transfer in &rebalanced.transfers {
        println!("{} -> {}: {} blobs, {} bytes", transfer.from, transfer.to, transfer.blobs, transfer.bytes);
        blobs += transfer.blobs;
        bytes += transfer.bytes;
    }
    println!("{blobs} blobs, {bytes} bytes would be copied; {} keys need no copy", rebalanced.without_copies);
}

fn end(progress: &Progress) -> Result<(), JobError> {
    match progress.problems() {
        0 => Ok(()),
        problems => Err(JobError::Left(problems)),
    }
}

/// Runs `work` in this thread while another shows `progress`.
fn shown<T>(name: &str, progress: &Progress, quiet: bool, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if !quiet {
            scope.spawn(|| show(name, progress, &over));
        }
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}

fn show(name: &str, progress: &Progress, over: &AtomicBool) {
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}")
            .expect("the template is right");
        ProgressBar::new(0).with_style(style).with_prefix(name.to_owned())
    });
    let mut said = Instant::now();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_EVERY);
        let status = progress.status();
        if let Some(bar) = &bar {
            bar.set_length(status.total);
            bar.set_position(status.done);
            bar.set_message(line(&status));
        } else if said.elapsed() >= LINE_EVERY {
            said = Instant::now();
            eprintln!("{name}: {}", line(&status));
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    eprintln!("{name}: {}", line(&progress.status()));
}

fn line(status: &Status) -> String {
    let mut text = format!("{}, {} keys", status.phase, status.keys);
    if status.total > 0 {
        text += &format!(", {} of {}", status.done, status.total);
    }
    if status.bytes > 0 {
        text += &format!(", {}", HumanBytes(status.bytes));
    }
    if status.mended > 0 {
        text += &format!(", {} mended", status.mended);
    }
    if status.problems > 0 {
        text += &format!(", {} problems", status.problems);
    }
    text += &format!(", {:.1} s", status.seconds);
    if let Some(eta) = status.eta_seconds.filter(|eta| *eta > 0.5) {
        text += &format!(", about {} left", HumanDuration(Duration::from_secs_f64(eta)));
    }
    text
}
