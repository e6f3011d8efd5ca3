//! The command line: every flag of the Go original under its name, in its spelling (`-volumes x`) as well as with
//! two dashes, as an environment variable, and in the file of `--config`. What the words mean together is checked in
//! [`crate::config`].
//!
//! Flags of the cluster may stand before and behind the command, as people write them; a flag of one command is
//! refused with every other, so that a `--dry-run` that means nothing is never taken for one.

mod commands;
mod precedence;
mod spelling;

use crate::logs::Verbosity;
use crate::settings::Settings;
use crate::store::Check;
pub use commands::{
    AdminArguments, Command, CompletedShell, DrainArguments, ExportArguments, ForgetArguments, GetArguments,
    JobArguments, JobsArguments, JobsCommand, LsArguments, PaceArguments, PutArguments, RebalanceArguments,
    RebuildArguments, RenameArguments, RepairArguments, ReplaceArguments, ScrubArguments, ServerArguments,
    UndrainArguments, VolumeModeArguments,
};
use precedence::Words;
use spelling::{from_go_spelling, go_bool, go_duration, go_duration_or_zero};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use structopt::StructOpt;
use structopt::clap::{App, AppSettings, Shell};

/// A distributed key-value store for blobs: one master, stock nginx as volume server.
#[derive(Debug, Clone, StructOpt)]
#[structopt(
    name = "mkv",
    usage = "mkv [flags] <command>",
    template = "mkv {version}: {about}\n\nUSAGE:\n    {usage}\n\nCOMMANDS:\n{subcommands}\n\nFLAGS:\n{unified}\n\n{after-help}",
    after_help = "mkv COMMAND --help tells about one command.\n\n\
                  put and get speak to a server (--server); status, volumes, jobs and ls to its admin port (--admin, or\n\
                  127.0.0.1:3900). scrub, repair, rebalance, drain, forget, replace, rename, undrain and volume-mode work in a\n\
                  running server with --admin ADDR, or else on a stopped one's index. rebuild and verify-index need it stopped; check and\n\
                  export need no server at all.\n\n\
                  Every flag can be written with one dash, as in the Go original (-volumes a:1,b:1 -protect -md5sum=false),\n\
                  before or behind the command. A flag wins over its environment variable, and that over the file of --config\n\
                  (replicas = 2, volumes = [\"a:1\", \"b:1\"]). SIGHUP has a server read the file again.",
    global_settings = &[
        AppSettings::UnifiedHelpMessage,
        AppSettings::DeriveDisplayOrder,
        AppSettings::DisableVersion,
        AppSettings::DisableHelpSubcommand,
        AppSettings::VersionlessSubcommands
    ]
)]
pub struct Arguments {
    /// What to do; none shows the help.
    #[structopt(subcommand)]
    pub command: Option<Command>,

    /// Where each value comes from.
    #[structopt(skip)]
    pub settings: Settings,

    /// A TOML file with these settings under the same names, but for this one
    #[structopt(long, env = "MKV_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub config: Option<String>,

    /// Path to the index (LevelDB)
    #[structopt(long, env = "MKV_DB", hide_env_values = true, value_name = "DIR")]
    pub db: Option<String>,

    /// Volumes to use for storage, comma separated: host:port or host:port/path
    #[structopt(long, env = "MKV_VOLUMES", hide_env_values = true, value_name = "LIST")]
    pub volumes: Option<String>,

    /// Port for the server to listen on
    #[structopt(long, env = "MKV_PORT", hide_env_values = true, value_name = "PORT", default_value = "3000")]
    pub port: u16,

    /// Address to listen on instead of all, IPv4 and IPv6
    #[structopt(long, env = "MKV_LISTEN", hide_env_values = true, value_name = "ADDR")]
    pub listen: Option<IpAddr>,

    /// Amount of replicas to make of the data
    #[structopt(long, env = "MKV_REPLICAS", hide_env_values = true, value_name = "N", default_value = "3")]
    pub replicas: usize,

    /// Amount of subvolumes, disks per machine
    #[structopt(
        long,
        env = "MKV_SUBVOLUMES",
        hide_env_values = true,
        value_name = "N",
        default_value = "10"
    )]
    pub subvolumes: u32,

    /// Fallback server for missing keys: a host
    #[structopt(long, env = "MKV_FALLBACK", hide_env_values = true, value_name = "HOST")]
    pub fallback: Option<String>,

    /// Force UNLINK before DELETE
    #[structopt(long, env = "MKV_PROTECT", hide_env_values = true, value_name = "BOOL", default_value = "false", parse(try_from_str = go_bool))]
    pub protect: bool,

    /// Calculate and store the MD5 checksum of values
    #[structopt(long, env = "MKV_MD5SUM", hide_env_values = true, value_name = "BOOL", default_value = "true", parse(try_from_str = go_bool))]
    pub md5sum: bool,

    /// Ask clients for credentials, which the volumes' htpasswd checks
    #[structopt(long, env = "MKV_BASICAUTH", hide_env_values = true, value_name = "BOOL", default_value = "false", parse(try_from_str = go_bool))]
    pub basicauth: bool,

    /// Credentials for the server's own requests to volumes, user:password (better given as MKV_USERPASS or in a file)
    #[structopt(long, env = "MKV_USERPASS", hide_env_values = true, value_name = "USER:PASSWORD")]
    pub userpass: Option<String>,

    /// A file with those credentials in its first line, so that they are in no list of processes
    #[structopt(long, env = "MKV_USERPASS_FILE", hide_env_values = true, value_name = "FILE")]
    pub userpass_file: Option<String>,

    /// How long a volume may take to answer a question, as 500ms or 1.5s; ten times as long for a write
    #[structopt(long, env = "MKV_VOLTIMEOUT", hide_env_values = true, value_name = "TIME", default_value = "1s", parse(try_from_str = go_duration))]
    pub voltimeout: Duration,

    /// How long a client may send nothing of a body that it announced
    #[structopt(long, env = "MKV_BODYTIMEOUT", hide_env_values = true, value_name = "TIME", default_value = "30s", parse(try_from_str = go_duration))]
    pub bodytimeout: Duration,

    /// How long an overwritten version stays, and how long a volume may take to carry out an abandoned request
    #[structopt(long, env = "MKV_GRACE", hide_env_values = true, value_name = "TIME", default_value = "60s", parse(try_from_str = go_duration))]
    pub grace: Duration,

    /// What a GET makes sure of before it redirects: file (the volume has it) or health (the volume is up)
    #[structopt(
        long,
        env = "MKV_CHECK",
        hide_env_values = true,
        value_name = "WHAT",
        default_value = "file"
    )]
    pub check: Check,

    /// Where a volume's machine is found, if not under its name: name=host:port, comma separated
    #[structopt(long, env = "MKV_ADDRESS", hide_env_values = true, value_name = "LIST")]
    pub address: Option<String>,

    /// How clients reach volumes, where that differs: internal=public, comma separated
    #[structopt(long, env = "MKV_ADVERTISE", hide_env_values = true, value_name = "LIST")]
    pub advertise: Option<String>,

    /// Address of the admin port, as 127.0.0.1:3900: where the server has it, and where jobs and questions find it
    #[structopt(long, env = "MKV_ADMIN", hide_env_values = true, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,

    /// What has to be shown to act on the admin port (better given as MKV_ADMIN_TOKEN)
    #[structopt(long, env = "MKV_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub admin_token: Option<String>,

    /// A file with that token in its first line
    #[structopt(long, env = "MKV_ADMIN_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    pub admin_token_file: Option<String>,

    /// How often the server reads and checks everything by itself, spread over that time; 0 for never
    #[structopt(long, env = "MKV_SCRUB_EVERY", hide_env_values = true, value_name = "TIME", default_value = "720h", parse(try_from_str = go_duration_or_zero))]
    pub scrub_every: Duration,

    /// Take over volumes that belong to another cluster
    #[structopt(long, env = "MKV_ADOPT", hide_env_values = true, value_name = "BOOL", default_value = "false", parse(try_from_str = go_bool))]
    pub adopt: bool,

    /// Start without looking whether another master is alive on the volumes, where the index was moved or copied
    #[structopt(long, env = "MKV_TAKEOVER", hide_env_values = true, value_name = "BOOL", default_value = "false", parse(try_from_str = go_bool))]
    pub takeover: bool,

    /// When a write is durable in the index: always, or never (for comparisons only: a power cut loses writes)
    #[structopt(
        long,
        env = "MKV_SYNC",
        hide_env_values = true,
        value_name = "WHEN",
        default_value = "always"
    )]
    pub sync: Sync,

    /// Log every request
    #[structopt(name = "v", short = "v", long = "v", env = "MKV_V", hide_env_values = true, value_name = "BOOL", default_value = "false", parse(try_from_str = go_bool))]
    pub verbose: bool,
}

/// When the index makes writes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before they are answered.
    Always,
    /// When the system gets to it.
    Never,
}

impl FromStr for Sync {
    type Err = String;

    fn from_str(text: &str) -> Result<Sync, String> {
        match text {
            "always" => Ok(Sync::Always),
            "never" => Ok(Sync::Never),
            _ => Err(format!("{text:?} is neither always nor never")),
        }
    }
}

impl Arguments {
    /// Reads a command line, the program's name first, and the file that it names. The error knows whether it is one or
    /// the help text.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, structopt::clap::Error> {
        let mut words = words.into_iter();
        let program = words.next();
        let (flags, rest) = cluster_flags_first(words.map(from_go_spelling));
        Words { program, flags, rest }.parse()
    }

    /// What is to be logged.
    pub fn verbosity(&self) -> Verbosity {
        match &self.command {
            // They say in words what they find.
            Some(Command::Check(_) | Command::Put(_) | Command::Get(_)) => Verbosity::Nothing,
            _ if self.verbose => Verbosity::Requests,
            _ => Verbosity::Events,
        }
    }

    /// The parser; what stands above [`Command`] would otherwise be told as what the whole is about.
    fn app() -> App<'static, 'static> {
        Arguments::clap()
            .about("a distributed key-value store for blobs: one master, stock nginx as volume server")
    }

    /// What makes `shell` complete commands and flags.
    pub fn completions(shell: CompletedShell) -> String {
        let shell = match shell {
            CompletedShell::Bash => Shell::Bash,
            CompletedShell::Zsh => Shell::Zsh,
            CompletedShell::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        Arguments::app().gen_completions_to("mkv", shell, &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }

    /// The text that `--help` shows.
    pub fn usage() -> String {
        let help = Arguments::parse(["mkv", "--help"].map(OsString::from));
        help.expect_err("help is no command line to go on with").message
    }
}

const BOOLEANS: [&str; 6] = ["protect", "md5sum", "basicauth", "adopt", "takeover", "v"];

/// The flags of the cluster that have a value; a test holds this list to what [`Arguments`] declares.
const VALUED: [&str; 21] = [
    "config",
    "admin",
    "admin-token",
    "admin-token-file",
    "scrub-every",
    "db",
    "volumes",
    "port",
    "listen",
    "replicas",
    "subvolumes",
    "fallback",
    "userpass",
    "userpass-file",
    "voltimeout",
    "bodytimeout",
    "grace",
    "check",
    "address",
    "advertise",
    "sync",
];

/// Parts the cluster's flags from the rest, before which the parser looks for them.
fn cluster_flags_first(words: impl Iterator<Item = OsString>) -> (Vec<OsString>, Vec<OsString>) {
    let (mut flags, mut rest) = (Vec::new(), Vec::new());
    let mut words = words;
    while let Some(word) = words.next() {
        let flag = word.to_str().and_then(|text| text.strip_prefix("--")).unwrap_or("").to_owned();
        let name = flag.split('=').next().unwrap_or("");
        if flag.is_empty() || !(VALUED.contains(&name) || BOOLEANS.contains(&name)) {
            rest.push(word);
        } else if flag.contains('=') {
            flags.push(word);
        } else {
            flags.push(word);
            flags.extend(words.next());
        }
    }
    (flags, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Arguments {
        Arguments::parse(line.split(' ').map(OsString::from)).unwrap_or_else(|err| panic!("{line}: {err}"))
    }

    #[test]
    fn gos_spelling_and_two_dashes_mean_the_same() {
        for line in [
            "mkv -volumes a:1,b:1 -db /tmp/x -replicas=2 -md5sum=false -protect -v server",
            "mkv --volumes=a:1,b:1 --db /tmp/x --replicas 2 --md5sum=0 --protect --v server",
            "mkv server -volumes a:1,b:1 -db /tmp/x -replicas 2 --md5sum=f -protect=true -v",
        ] {
            let arguments = parse(line);
            assert_eq!(arguments.command, Some(Command::Server));
            assert_eq!((arguments.volumes.as_deref(), arguments.replicas), (Some("a:1,b:1"), 2));
            assert!(arguments.protect && arguments.verbose && !arguments.md5sum, "{line}");
        }
    }

    #[test]
    fn the_clusters_flags_are_known_by_name() {
        let usage = Arguments::usage();
        let long = |line: &str| Some(line.split_once("--")?.1.split([' ', ',']).next()?.to_owned());
        let flags = usage.lines().filter(|line| line.trim_start().starts_with('-')).filter_map(long);
        let known: Vec<&str> = VALUED.iter().chain(&BOOLEANS).copied().chain(["help"]).collect();
        let unknown: Vec<String> = flags.filter(|name| !known.contains(&name.as_str())).collect();
        assert_eq!(unknown, Vec::<String>::new());
    }

    #[test]
    fn a_jobs_flags_stand_behind_it() {
        let arguments = parse("mkv rebuild -no-checksum -db x --allow-missing a:1 -q");
        let Some(Command::Rebuild(rebuild)) = arguments.command else { panic!("it is rebuild") };
        assert!(rebuild.no_checksum && rebuild.job.quiet && !rebuild.discard_old);
        assert_eq!((rebuild.allow_missing, arguments.db.as_deref()), (vec!["a:1".to_owned()], Some("x")));
    }

    #[test]
    fn defaults_are_the_go_originals() {
        let arguments = parse("mkv server");
        assert_eq!((arguments.port, arguments.replicas, arguments.subvolumes), (3000, 3, 10));
        assert!(arguments.md5sum && !arguments.protect && !arguments.basicauth);
        assert_eq!(arguments.voltimeout, Duration::from_secs(1));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for line in [
            "mkv fly",
            "mkv -nosuch server",
            "mkv -port x server",
            "mkv -check maybe server",
            "mkv server x",
            "mkv server --no-checksum",
        ] {
            assert!(Arguments::parse(line.split(' ').map(OsString::from)).is_err(), "{line}");
        }
    }
}
