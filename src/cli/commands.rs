//! The commands, and the words and flags of each.

use crate::maintenance::Rate;
use crate::model::{Replica, Volume, VolumeMode};
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use structopt::StructOpt;

/// What to do.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub enum Command {
    /// Start three volumes and a master below DIR, in the foreground
    Up {
        /// Where the volumes and the index are kept
        #[structopt(name = "DIR", default_value = "./data")]
        dir: PathBuf,
    },
    /// Serve the volumes that --volumes names, with the index in --db
    Server,
    /// Store a file under a key
    Put(PutArguments),
    /// Fetch the blob of a key; one that was cut off goes on where it was
    Get(GetArguments),
    /// List the keys of a running server that begin with PREFIX
    Ls(LsArguments),
    /// Show how a running server is
    Status(AdminArguments),
    /// Show the volumes of a running server
    Volumes(AdminArguments),
    /// Show, stop or slow down the jobs of a running server
    Jobs(JobsArguments),
    /// Try every volume of --volumes out, without a server, and say in words what is wrong
    Check(AdminArguments),
    /// Look for replicas that are missing or damaged, and for files that the index doesn't know
    Scrub(ScrubArguments),
    /// Look as scrub does, and restore what is missing or damaged from good copies
    Repair(RepairArguments),
    /// Move replicas to where they belong after volumes were added, removed or replaced
    Rebalance(RebalanceArguments),
    /// Move everything off a volume, which takes no new blobs from now on
    Drain(DrainArguments),
    /// Wait no more for a volume that is gone for good: with its removals forgotten, it must come back empty or not at all
    Forget(ForgetArguments),
    /// Take the new drive that lies in the place of a volume or subvolume that is gone
    Replace(ReplaceArguments),
    /// Write a volume's present name into records, without moving a blob
    Rename(RenameArguments),
    /// Let a volume take blobs again
    Undrain(UndrainArguments),
    /// Say what a volume is to be used for: alive, readonly, drain, or down
    VolumeMode(VolumeModeArguments),
    /// Make the index anew from what lies on the volumes (with the server stopped)
    Rebuild(RebuildArguments),
    /// Copy blobs out of the volumes into a directory, without a master or an index; --volumes may name directories too
    Export(ExportArguments),
    /// Read the whole index and check every entry (with the server stopped)
    VerifyIndex(JobArguments),
    /// Print what makes a shell complete mkv's commands and flags
    Completions {
        /// bash, zsh or fish
        #[structopt(name = "SHELL")]
        shell: CompletedShell,
    },
}

/// What can be said to every job.
#[derive(Debug, Clone, PartialEq, Eq, StructOpt)]
pub struct JobArguments {
    /// Say nothing but what is left to be done
    #[structopt(short = "q", long)]
    pub quiet: bool,

    /// Print what is found to stdout as JSON, one object a line
    #[structopt(long)]
    pub json: bool,
}

/// How fast a job may go.
#[derive(Debug, Clone, Default, PartialEq, StructOpt)]
pub struct PaceArguments {
    /// Go no faster than this: 100 (blobs per second), 50MB (per second), or both as 100,50MB
    #[structopt(long, value_name = "RATE")]
    pub rate: Option<Rate>,

    /// A file with such a rate in its first line; the job follows what is written there while it runs
    #[structopt(long, value_name = "FILE", conflicts_with = "rate", parse(from_os_str))]
    pub rate_file: Option<PathBuf>,
}

/// How a running server's answer is shown.
#[derive(Debug, Clone, PartialEq, Eq, StructOpt)]
pub struct AdminArguments {
    /// Print the answer as JSON
    #[structopt(long)]
    pub json: bool,
}

/// Which server blobs are sent to and asked for.
#[derive(Debug, Clone, PartialEq, Eq, StructOpt)]
pub struct ServerArguments {
    /// The server; localhost and --port if it isn't given
    #[structopt(long, env = "MKV_SERVER", hide_env_values = true, value_name = "HOST:PORT")]
    pub server: Option<Volume>,

    /// KEY is percent-encoded, as ls and scrub show keys
    #[structopt(short = "e", long)]
    pub encoded: bool,

    /// Say nothing but what goes wrong
    #[structopt(short = "q", long)]
    pub quiet: bool,

    /// Print what was done as JSON
    #[structopt(long)]
    pub json: bool,
}

/// What to store.
#[derive(Debug, Clone, PartialEq, Eq, StructOpt)]
pub struct PutArguments {
    /// For the request.
    #[structopt(flatten)]
    pub server: ServerArguments,

    /// Overwrite the blob that the key may have
    #[structopt(long)]
    pub replace: bool,

    /// What to store; - reads standard input
    #[structopt(name = "FILE", parse(from_os_str))]
    pub file: PathBuf,

    /// Under which key, as people write it: '/videos/ü?.mp4'
    #[structopt(name = "KEY", parse(from_os_str))]
    pub key: OsString,
}

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq, StructOpt)]
pub struct GetArguments {
    /// For the request.
    #[structopt(flatten)]
    pub server: ServerArguments,

    /// Overwrite FILE if it is there
    #[structopt(short = "f", long)]
    pub force: bool,

    /// The key, as people write it: '/videos/ü?.mp4'
    #[structopt(name = "KEY", parse(from_os_str))]
    pub key: OsString,

    /// Where it goes: the last part of the key, here, if it isn't given; - writes standard output
    #[structopt(name = "FILE", parse(from_os_str))]
    pub file: Option<PathBuf>,
}

/// A shell that mkv's commands can be completed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletedShell {
    /// GNU's.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly one.
    Fish,
}

impl FromStr for CompletedShell {
    type Err = String;

    fn from_str(text: &str) -> Result<CompletedShell, String> {
        match text {
            "bash" => Ok(CompletedShell::Bash),
            "zsh" => Ok(CompletedShell::Zsh),
            "fish" => Ok(CompletedShell::Fish),
            _ => Err(format!("{text:?} is not bash, zsh or fish")),
        }
    }
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq, StructOpt)]
pub struct LsArguments {
    /// For the answer.
    #[structopt(flatten)]
    pub flags: AdminArguments,

    /// The beginning of the keys, percent-encoded where it has to be
    #[structopt(name = "PREFIX", default_value = "/")]
    pub prefix: String,
}

/// What to do with jobs.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct JobsArguments {
    /// For the answer.
    #[structopt(flatten)]
    pub flags: AdminArguments,

    /// None lists them.
    #[structopt(subcommand)]
    pub command: Option<JobsCommand>,
}

/// What to do with a job.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub enum JobsCommand {
    /// Have it end when what it has begun is done
    Stop {
        /// For the answer.
        #[structopt(flatten)]
        flags: AdminArguments,

        /// Its number
        #[structopt(name = "ID")]
        id: u64,
    },
    /// Have it go on at another rate
    Rate {
        /// For the answer.
        #[structopt(flatten)]
        flags: AdminArguments,

        /// Its number
        #[structopt(name = "ID")]
        id: u64,

        /// 100 (blobs per second), 50MB (per second), 100,50MB or unlimited
        #[structopt(name = "RATE")]
        rate: Rate,
    },
}

/// How to drain.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct DrainArguments {
    /// For all jobs.
    #[structopt(flatten)]
    pub job: JobArguments,

    /// As in --volumes
    #[structopt(name = "VOLUME")]
    pub volume: Volume,

    /// For jobs that read or move blobs.
    #[structopt(flatten)]
    pub pace: PaceArguments,
}

/// What to forget.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct ForgetArguments {
    /// For all jobs.
    #[structopt(flatten)]
    pub job: JobArguments,

    /// As it was in --volumes
    #[structopt(name = "VOLUME")]
    pub volume: Volume,
}

/// Which new drive to take.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct ReplaceArguments {
    /// For all jobs.
    #[structopt(flatten)]
    pub job: JobArguments,

    /// Take a tree that has blobs, as a clone that is to be a volume of its own
    #[structopt(long)]
    pub with_blobs: bool,

    /// Don't ask
    #[structopt(short = "y", long)]
    pub yes: bool,

    /// A volume as in --volumes, or a subvolume of it, as host:3001/sv0A
    #[structopt(name = "PLACE")]
    pub place: Replica,
}

/// Which volume is called what.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct RenameArguments {
    /// For all jobs.
    #[structopt(flatten)]
    pub job: JobArguments,

    /// As it was in --volumes
    #[structopt(name = "OLD")]
    pub earlier: Replica,

    /// As it is in --volumes
    #[structopt(name = "NEW")]
    pub present: Replica,
}

/// Which volume is to take blobs again.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct UndrainArguments {
    /// For the answer.
    #[structopt(flatten)]
    pub flags: AdminArguments,

    /// As in --volumes
    #[structopt(name = "VOLUME")]
    pub volume: Volume,
}

/// What a volume is to be used for.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct VolumeModeArguments {
    /// For the answer.
    #[structopt(flatten)]
    pub flags: AdminArguments,

    /// As in --volumes
    #[structopt(name = "VOLUME")]
    pub volume: Volume,

    /// alive, readonly (blobs stay, nothing is written or removed), drain (no new blobs), or down (as if it were dead)
    #[structopt(name = "MODE")]
    pub mode: VolumeMode,
}

/// How to rebalance.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct RebalanceArguments {
    /// For all jobs.
    #[structopt(flatten)]
    pub job: JobArguments,

    /// Only say how many blobs and bytes would go from where to where
    #[structopt(long)]
    pub dry_run: bool,

    /// For jobs that read or move blobs.
    #[structopt(flatten)]
    pub pace: PaceArguments,
}

/// How to scrub.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct ScrubArguments {
    /// For all jobs.
    #[structopt(flatten)]
    pub job: JobArguments,

    /// Only ask for sizes, read nothing
    #[structopt(long)]
    pub quick: bool,

    /// For jobs that read or move blobs.
    #[structopt(flatten)]
    pub pace: PaceArguments,
}

/// How to repair.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct RepairArguments {
    /// As a scrub.
    #[structopt(flatten)]
    pub scrub: ScrubArguments,

    /// Remove files that no record names, if they are older than a day and not suspiciously many
    #[structopt(long)]
    pub delete_orphans: bool,

    /// Remove them even if they are more than 5 % of all files, or older than the index
    #[structopt(long, requires = "delete-orphans")]
    pub force: bool,
}

/// How to rebuild.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct RebuildArguments {
    /// For all jobs.
    #[structopt(flatten)]
    pub job: JobArguments,

    /// For jobs that read or move blobs.
    #[structopt(flatten)]
    pub pace: PaceArguments,

    /// Remove the old index instead of keeping it as DIR.old-TIME
    #[structopt(long)]
    pub discard_old: bool,

    /// Don't read blobs whose MD5 nothing tells; their records have none
    #[structopt(long)]
    pub no_checksum: bool,

    /// Go on without this volume; what only it holds will be missing (may be given more than once)
    #[structopt(long, value_name = "VOLUME", number_of_values = 1)]
    pub allow_missing: Vec<String>,
}

/// What to export.
#[derive(Debug, Clone, PartialEq, StructOpt)]
pub struct ExportArguments {
    /// For all jobs.
    #[structopt(flatten)]
    pub job: JobArguments,

    /// For jobs that read or move blobs.
    #[structopt(flatten)]
    pub pace: PaceArguments,

    /// The beginning of the keys that are wanted, percent-encoded where it has to be; / is all
    #[structopt(name = "KEY-PREFIX")]
    pub prefix: String,

    /// Where the blobs go, each under its key; created if need be, nothing in it is overwritten
    #[structopt(name = "DIR")]
    pub dir: PathBuf,

    /// Copy the blobs of unlinked keys too
    #[structopt(long)]
    pub unlinked: bool,
}
