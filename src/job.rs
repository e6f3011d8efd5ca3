//! Runs a job from the command line, on a stopped server's index or by a running server, and shows how far it is: a bar
//! on a terminal, a line every few seconds elsewhere. What is left to be done in the end is listed, and the exit code tells.

use crate::cli::{
    AdminArguments, Arguments, DrainArguments, ExportArguments, ForgetArguments, JobArguments, PaceArguments,
    RebalanceArguments, RebuildArguments, RenameArguments, RepairArguments, ReplaceArguments, ScrubArguments,
};
use crate::config::{Config, ConfigError};
use crate::index::table::TableError;
use crate::maintenance::export::{self, ExportError, ExportRequest, Exported};
use crate::maintenance::rebalance::{self, Rebalanced};
use crate::maintenance::rebuild::{self, RebuildError, RebuildRequest};
use crate::maintenance::rename::RenameRequest;
use crate::maintenance::replace::ReplaceRequest;
use crate::maintenance::scrub::{self, Origin, RepairRequest, ScrubRequest};
use crate::maintenance::{Control, Effort, Finding, MaintenanceError, OfflineRequest, Pace, Progress, Task};
use crate::maintenance::{drain, forget, rename, replace, verify};
use crate::model::{Key, Replica, Volume, VolumeMode};
use crate::rate_source::RateSource;
use crate::remote::{Remote, RemoteError};
use crate::shown::Shown;
use crate::store::Depth;
use crate::text::{json_line, printable, say};
use crate::volume::Timeouts;
use log::info;
use serde_json::{Value, json};
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;

/// Between two looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// As every failure.
const EXIT_CUT_OFF: i32 = 1;

/// Where a server that was started by `mkv up` has its admin port.
const DEFAULT_ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 3900);

/// Why a job did not do all that was asked.
#[derive(Debug, Error)]
pub enum JobError {
    /// The flags don't fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The index was not rebuilt.
    #[error("rebuild: {0}")]
    Rebuild(#[from] RebuildError),
    /// The export could not go on.
    #[error("export: {0}")]
    Export(#[from] ExportError),
    /// The job could not go on.
    #[error("{0}: {1}")]
    Cluster(&'static str, #[source] MaintenanceError),
    /// The person could not be asked.
    #[error("no answer can be read: {0}; --yes asks for none")]
    Unasked(#[source] std::io::Error),
    /// The person said no.
    #[error("nothing was changed")]
    NotWanted,
    /// A running server was asked, and it did not work.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Only a stopped server's index can be looked at so.
    #[error("--dry-run looks at a stopped server's index; leave --admin out")]
    NotOnline,
    /// The index can't be read.
    #[error("verify-index: {0}")]
    Verify(#[from] TableError),
    /// The system refuses to tell of signals.
    #[error("signals: {0}")]
    Signals(#[from] std::io::Error),
    /// It went to its end, and something is left; all of it was listed.
    #[error("{0} problems are left, see above")]
    Left(u64),
}

/// Runs `mkv rebuild`.
pub fn rebuild(arguments: &Arguments, flags: &RebuildArguments) -> Result<(), JobError> {
    let config = Config::new(arguments)?;
    let all = config.placer.volumes();
    let (mut missing, mut missing_places) = (Vec::<Volume>::new(), BTreeSet::<Replica>::new());
    for name in &flags.allow_missing {
        let volume: Volume = name.parse().map_err(ConfigError::from)?;
        let place: Replica = name.parse().map_err(ConfigError::from)?;
        if all.contains(&volume) {
            missing.push(volume);
        } else if all.contains(&place.volume()) {
            missing_places.insert(place);
        } else {
            return Err(ConfigError::NoSuchVolume(volume).into());
        }
    }
    if all.iter().all(|volume| missing.contains(volume)) {
        return Err(ConfigError::AllMissing.into());
    }
    let request = RebuildRequest {
        volumes: all.iter().filter(|volume| !missing.contains(volume)).cloned().collect(),
        missing: missing_places,
        addresses: config.addresses,
        db: config.db,
        placer: config.placer,
        checksum: config.store.md5sum && !flags.no_checksum,
        discard_old: flags.discard_old,
        adopt: config.adopt,
        timeouts: Timeouts::for_jobs(config.voltimeout),
        userpass: config.userpass,
    };
    let mut job = Job::new("rebuild", &flags.job, &flags.pace)?;
    let rebuilt = job.shown(|control| rebuild::run(&request, control))?;
    match rebuilt.old {
        Some(old) if flags.job.json => {
            say!("{}", json_line(&json!({ "old_index": old.to_string_lossy() })))
        }
        Some(old) if !flags.job.quiet => say!("the old index is kept as {}", old.display()),
        _ => {}
    }
    job.end()
}

/// Runs `mkv export`.
pub fn export(arguments: &Arguments, flags: &ExportArguments) -> Result<(), JobError> {
    let prefix = Key::from_request_path(&flags.prefix).map_err(ConfigError::from)?;
    let request = ExportRequest {
        prefix: prefix.as_bytes().to_vec(),
        into: flags.dir.clone(),
        volumes: Config::sources(arguments)?,
        unlinked: flags.unlinked,
        adopt: arguments.adopt,
        addresses: Config::addresses(arguments)?,
        timeouts: Timeouts::for_jobs(arguments.voltimeout),
        userpass: Config::userpass(arguments)?,
    };
    let mut job = Job::new("export", &flags.job, &flags.pace)?;
    let exported = job.shown(|control| export::run(&request, control))?;
    let Exported { written, present, left_out } = exported;
    if flags.job.json {
        let json = json!({ "written": written, "present": present, "left_out": left_out });
        say!("{}", json_line(&json));
    } else if !flags.job.quiet {
        say!("{written} blobs were written to {}, {present} were there already", flags.dir.display());
        if left_out > 0 {
            say!("{left_out} unlinked keys were left out; --unlinked exports them too");
        }
    }
    job.end()
}

/// Runs `mkv rebalance`.
pub fn rebalance(arguments: &Arguments, flags: &RebalanceArguments) -> Result<(), JobError> {
    if let Some(remote) = remote(arguments)? {
        return match flags.dry_run {
            true => Err(JobError::NotOnline),
            false => Ok(remote.run(&Task::Rebalance, rate_source(&flags.pace)?, &flags.job)?),
        };
    }
    let request = offline(Config::new(arguments)?);
    let mut job = Job::new("rebalance", &flags.job, &flags.pace)?;
    if flags.dry_run {
        print_transfers(&job.done(|control| rebalance::preview(&request, control))?, &flags.job);
    } else {
        job.done(|control| rebalance::run(&request, control))?;
    }
    job.end()
}

/// Runs `mkv scrub`.
pub fn scrub(arguments: &Arguments, flags: &ScrubArguments) -> Result<(), JobError> {
    if let Some(remote) = remote(arguments)? {
        let task = Task::Scrub { quick: flags.quick, scheduled: false };
        return Ok(remote.run(&task, rate_source(&flags.pace)?, &flags.job)?);
    }
    let request = offline(Config::new(arguments)?);
    let mut job = Job::new("scrub", &flags.job, &flags.pace)?;
    let depth = if flags.quick { Depth::Sizes } else { Depth::Contents };
    let scrub = ScrubRequest { depth, repair: None, origin: Origin::Asked, effort: Effort::Alone };
    job.done(|control| scrub::run_offline(&request, scrub, control))?;
    job.end()
}

/// Runs `mkv repair`.
pub fn repair(arguments: &Arguments, flags: &RepairArguments) -> Result<(), JobError> {
    if let Some(remote) = remote(arguments)? {
        let (quick, delete_orphans, force) = (flags.scrub.quick, flags.delete_orphans, flags.force);
        let task = Task::Repair { quick, delete_orphans, force };
        return Ok(remote.run(&task, rate_source(&flags.scrub.pace)?, &flags.scrub.job)?);
    }
    let request = offline(Config::new(arguments)?);
    let mut job = Job::new("repair", &flags.scrub.job, &flags.scrub.pace)?;
    let depth = if flags.scrub.quick { Depth::Sizes } else { Depth::Contents };
    // Nobody is reading, so what was moved can go at once.
    let keep_old = Duration::ZERO;
    let repair = RepairRequest { delete_orphans: flags.delete_orphans, force: flags.force, keep_old };
    let scrub = ScrubRequest { depth, repair: Some(repair), origin: Origin::Asked, effort: Effort::Alone };
    job.done(|control| scrub::run_offline(&request, scrub, control))?;
    job.end()
}

/// Runs `mkv drain`.
pub fn drain(arguments: &Arguments, flags: &DrainArguments) -> Result<(), JobError> {
    if let Some(remote) = remote(arguments)? {
        let task = Task::Drain { volume: flags.volume.to_string() };
        return Ok(remote.run(&task, rate_source(&flags.pace)?, &flags.job)?);
    }
    let request = offline(Config::new(arguments)?);
    let mut job = Job::new("drain", &flags.job, &flags.pace)?;
    job.done(|control| drain::run(&request, &flags.volume, control))?;
    job.end()
}

/// Runs `mkv forget`.
pub fn forget(arguments: &Arguments, flags: &ForgetArguments) -> Result<(), JobError> {
    if let Some(remote) = remote(arguments)? {
        let task = Task::Forget { volume: flags.volume.to_string() };
        return Ok(remote.run(&task, RateSource::default(), &flags.job)?);
    }
    let request = offline(Config::new(arguments)?);
    let mut job = Job::new("forget", &flags.job, &PaceArguments::default())?;
    let files = job.done(|control| forget::run(&request, &flags.volume, control))?;
    job.end()?;
    let volume = &flags.volume;
    if flags.job.json {
        say!("{}", json_line(&json!({ "volume": volume.as_str(), "files": files })));
    } else if !flags.job.quiet {
        say!("{files} files were to be removed from {volume} and are forgotten");
    }
    Ok(())
}

/// Runs `mkv replace`.
pub fn replace(arguments: &Arguments, flags: &ReplaceArguments) -> Result<(), JobError> {
    let place = &flags.place;
    if !flags.yes
        && !is_wanted(&format!(
            "{place}: what waits to be removed from the old drive is given up, and the old drive is never taken again. Go on? [y/N] "
        ))?
    {
        return Err(JobError::NotWanted);
    }
    if let Some(remote) = remote(arguments)? {
        let task = Task::Replace { volume: place.to_string(), with_blobs: flags.with_blobs };
        return Ok(remote.run(&task, RateSource::default(), &flags.job)?);
    }
    let request = offline(Config::new(arguments)?);
    let mut job = Job::new("replace", &flags.job, &PaceArguments::default())?;
    let replace = ReplaceRequest { place: place.clone(), with_blobs: flags.with_blobs };
    job.done(|control| replace::run(&request, &replace, control))?;
    job.end()
}

/// Asks a person at a terminal; whoever has none is taken at their word.
fn is_wanted(question: &str) -> Result<bool, JobError> {
    let mut answer = String::new();
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(true);
    }
    eprint!("{}", printable(question));
    std::io::stdin().read_line(&mut answer).map_err(JobError::Unasked)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Runs `mkv rename`.
pub fn rename(arguments: &Arguments, flags: &RenameArguments) -> Result<(), JobError> {
    let (earlier, present) = (flags.earlier.clone(), flags.present.clone());
    if let Some(remote) = remote(arguments)? {
        let task = Task::Rename { volume: earlier.to_string(), to: present.to_string() };
        return Ok(remote.run(&task, RateSource::default(), &flags.job)?);
    }
    let request = offline(Config::new(arguments)?);
    let mut job = Job::new("rename", &flags.job, &PaceArguments::default())?;
    job.done(|control| rename::run(&request, &RenameRequest { earlier, present }, control))?;
    job.end()
}

/// Runs `mkv undrain` and `mkv volume-mode`.
pub fn set_mode(
    arguments: &Arguments,
    volume: &Volume,
    mode: VolumeMode,
    flags: &AdminArguments,
) -> Result<(), JobError> {
    if let Some(remote) = remote(arguments)? {
        return Ok(remote.set_mode(volume.as_str(), &mode.to_string(), flags)?);
    }
    let request = offline(Config::new(arguments)?);
    drain::set_mode(&request, volume, mode).map_err(|err| JobError::Cluster("volume-mode", err))?;
    match flags.json {
        true => say!("{}", json_line(&json!({ "volume": volume.as_str(), "mode": mode }))),
        false => say!("{volume} is {mode} from now on"),
    }
    Ok(())
}

/// Runs what only asks a running server.
pub fn ask(
    arguments: &Arguments,
    question: impl FnOnce(&Remote) -> Result<(), RemoteError>,
) -> Result<(), JobError> {
    let address = arguments.admin.unwrap_or(SocketAddr::from(DEFAULT_ADMIN));
    Ok(question(&Remote::new(address, Config::admin_token(arguments)?))?)
}

/// The running server, if one is to do the job.
fn remote(arguments: &Arguments) -> Result<Option<Remote>, ConfigError> {
    let token = Config::admin_token(arguments)?;
    Ok(arguments.admin.map(|address| Remote::new(address, token)))
}

fn offline(config: Config) -> OfflineRequest {
    OfflineRequest {
        db: config.db,
        placer: config.placer,
        store: config.store,
        timeouts: Timeouts::for_jobs(config.voltimeout),
        userpass: config.userpass,
        adopt: config.adopt,
        takeover: config.takeover.into(),
        addresses: config.addresses,
    }
}

/// Runs `mkv verify-index`.
pub fn verify_index(arguments: &Arguments, flags: &JobArguments) -> Result<(), JobError> {
    let db = Config::db(arguments)?;
    let mut job = Job::new("verify-index", flags, &PaceArguments::default())?;
    job.shown(|control| verify::run(&db, control))?;
    job.end()
}

fn print_transfers(rebalanced: &Rebalanced, flags: &JobArguments) {
    if flags.json {
        let transfers = rebalanced.transfers.iter().map(|transfer| {
            let (from, to) = (transfer.from.to_string(), transfer.to.to_string());
            json!({ "from": from, "to": to, "blobs": transfer.blobs, "bytes": transfer.bytes })
        });
        let transfers: Vec<Value> = transfers.collect();
        let json = json!({ "transfers": transfers, "keys_without_copies": rebalanced.without_copies });
        say!("{}", json_line(&json));
        return;
    }
    let (mut blobs, mut bytes) = (0, 0);
    for transfer in &rebalanced.transfers {
        say!("{} -> {}: {} blobs, {} bytes", transfer.from, transfer.to, transfer.blobs, transfer.bytes);
        blobs += transfer.blobs;
        bytes += transfer.bytes;
    }
    say!("{blobs} blobs, {bytes} bytes would be copied; {} keys need no copy", rebalanced.without_copies);
}

fn rate_source(flags: &PaceArguments) -> Result<RateSource, ConfigError> {
    RateSource::new(flags).map_err(ConfigError::from)
}

/// A flag that a first Ctrl-C or SIGTERM sets; a second one ends the program, and what that cuts off is put in order by the
/// next run.
fn signalled() -> std::io::Result<Arc<AtomicBool>> {
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in TERM_SIGNALS {
        flag::register_conditional_shutdown(*signal, EXIT_CUT_OFF, Arc::clone(&signalled))?;
        flag::register(*signal, Arc::clone(&signalled))?;
    }
    Ok(signalled)
}

/// A job of this process, with what shows and paces it.
struct Job {
    name: &'static str,
    quiet: bool,
    control: Control,
    rate_source: RateSource,
    signalled: Arc<AtomicBool>,
}

impl Job {
    fn new(name: &'static str, flags: &JobArguments, pace: &PaceArguments) -> Result<Job, JobError> {
        let rate_source = rate_source(pace)?;
        // With `--json`, findings go to stdout, one object a line.
        let print = |finding: &Finding| say!("{}", json_line(finding));
        let progress = if flags.json { Progress::told_to(print) } else { Progress::default() };
        let pace = Pace::new(rate_source.rate().unwrap_or_default());
        let control = Control { progress: progress.into(), pace: pace.into(), ..Control::default() };
        Ok(Job { name, quiet: flags.quiet, control, rate_source, signalled: signalled()? })
    }

    /// Runs `work` on a stopped server's index.
    fn done<T>(&mut self, work: impl FnOnce(&Control) -> Result<T, MaintenanceError>) -> Result<T, JobError> {
        let name = self.name;
        self.shown(work).map_err(|err| JobError::Cluster(name, err))
    }

    /// Runs `work` in this thread while another shows how far it is, and does what signals and the file with the rate say.
    fn shown<T>(&mut self, work: impl FnOnce(&Control) -> T) -> T {
        let over = AtomicBool::new(false);
        let mut shown = Shown::new(self.name, self.quiet);
        let (name, control, signalled, rate_source) =
            (self.name, &self.control, &self.signalled, &mut self.rate_source);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(LOOK_EVERY);
                    shown.look(&control.progress.status());
                    if let Some(rate) = rate_source.changed() {
                        control.pace.set(rate);
                    }
                    if signalled.load(Ordering::Relaxed) && !control.stop.swap(true, Ordering::Relaxed) {
                        info!("{name} ends when what it has begun is done; a second signal doesn't wait for that");
                    }
                }
                shown.end(&control.progress.status());
            });
            let done = work(control);
            over.store(true, Ordering::Relaxed);
            done
        })
    }

    /// What is left makes an error.
    fn end(&self) -> Result<(), JobError> {
        match self.control.progress.problems() {
            0 => Ok(()),
            problems => Err(JobError::Left(problems)),
        }
    }
}
