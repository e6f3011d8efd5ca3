//! `mkv up`: three volumes and a master below one directory, in the foreground, on defaults that need no thought.
//!
//! The volumes are children: they end when this process ends, however that happens, and running it again on the
//! same directory finds everything as it was.

use crate::cli::Arguments;
use crate::config::{Config, ConfigError};
use crate::server::{self, ServerError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::env;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use thiserror::Error;

/// As many volumes as there are replicas by default.
const VOLUMES: u16 = 3;

/// The admin port is so far above the master's: 3900, if that is 3000.
const ADMIN_ABOVE: u16 = 900;

/// How long a volume may take until it answers; nginx needs some 50 ms.
const START_LIMIT: Duration = Duration::from_secs(10);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why the cluster did not come up, or ended.
#[derive(Debug, Error)]
pub enum UpError {
    /// The other flags don't fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The master failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The script that starts a volume isn't there.
    #[error("the volume script is not found; run ./mkv up, or set MKV_HOME to the directory that has it")]
    NoScript,
    /// A directory could not be made.
    #[error("can't make {dir:?}: {source}")]
    Directory {
        /// Which.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Something else listens on the port of a volume.
    #[error("port {0} is in use; is the cluster running already? --port moves all four")]
    PortInUse(u16),
    /// The volumes take the ports that follow.
    #[error("--port {0} leaves no three ports above it for the volumes")]
    PortTooHigh(u16),
    /// A volume did not start; its own words are on standard error.
    #[error("the volume on port {0} did not start")]
    Volume(u16),
}

/// Volumes that end with this value.
struct Volumes(Vec<Child>);

impl Drop for Volumes {
    fn drop(&mut self) {
        for child in &self.0 {
            // An error means that it has ended already.
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// Starts the cluster below `dir` and serves until a signal ends it.
pub fn run(arguments: &Arguments, dir: &Path) -> Result<(), UpError> {
    make_directory(dir)?;
    let last = arguments.port.checked_add(VOLUMES).ok_or(UpError::PortTooHigh(arguments.port))?;
    let ports = arguments.port + 1..=last;
    let config = configure(arguments, dir)?;
    let script = find_script()?;
    let mut volumes = Volumes(Vec::new());
    for (number, port) in (1..=VOLUMES).zip(ports.clone()) {
        volumes.0.push(start(&script, &dir.join(format!("volume{number}")), port)?);
    }
    for (child, port) in volumes.0.iter_mut().zip(ports) {
        wait_for(child, port)?;
    }
    greet(dir, &config);
    let dir = dir.to_owned();
    Ok(server::run(config, move || Config::read_again(|arguments| configure(arguments, &dir)))?)
}

/// What `arguments` say, and where they say nothing, what needs no thought.
fn configure(arguments: &Arguments, dir: &Path) -> Result<Config, ConfigError> {
    let mut arguments = arguments.clone();
    let ports = (1..=VOLUMES).map(|number| arguments.port.saturating_add(number));
    let names: Vec<String> = ports.map(|port| format!("localhost:{port}")).collect();
    let admin = arguments.port.checked_add(ADMIN_ABOVE).map(|port| (Ipv4Addr::LOCALHOST, port).into());
    arguments.admin = arguments.admin.or(admin);
    let db = arguments.db.get_or_insert_with(|| dir.join("indexdb").to_string_lossy().into_owned());
    let volumes = arguments.volumes.get_or_insert_with(|| names.join(","));
    arguments.settings.assume("db", db);
    arguments.settings.assume("volumes", volumes);
    if let Some(admin) = arguments.admin {
        arguments.settings.assume("admin", &admin.to_string());
    }
    Config::new(&arguments)
}

fn make_directory(dir: &Path) -> Result<(), UpError> {
    std::fs::create_dir_all(dir).map_err(|source| UpError::Directory { dir: dir.into(), source })
}

fn find_script() -> Result<PathBuf, UpError> {
    let from_home = env::var_os("MKV_HOME").map(PathBuf::from);
    let homes = from_home.into_iter().chain(env::current_dir());
    homes.map(|home| home.join("volume")).find(|script| script.is_file()).ok_or(UpError::NoScript)
}

fn start(script: &Path, dir: &Path, port: u16) -> Result<Child, UpError> {
    if answers(port) {
        return Err(UpError::PortInUse(port));
    }
    make_directory(dir)?;
    // The kernel ends the volume when this process dies, even by kill -9. A group of its own keeps a terminal's
    // Ctrl-C from it, so that running uploads can finish.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(script).arg(dir).env("PORT", port.to_string()).process_group(0);
    command.spawn().map_err(|_| UpError::Volume(port))
}

/// Waits until the volume answers; it says itself why it doesn't.
fn wait_for(child: &mut Child, port: u16) -> Result<(), UpError> {
    let limit = Instant::now() + START_LIMIT;
    while !answers(port) {
        if Instant::now() > limit || !matches!(child.try_wait(), Ok(None)) {
            return Err(UpError::Volume(port));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("localhost", port)).is_ok()
}

fn greet(dir: &Path, config: &Config) {
    let port = config.port;
    let admin = config.admin.map(|admin| admin.to_string()).unwrap_or_default();
    println!(
        "\nThree volumes and a master, with everything below {}. In another terminal:\n\n    \
         curl -L -T FILE localhost:{port}/KEY     store a file\n    \
         curl -L -o FILE localhost:{port}/KEY     fetch it\n    \
         curl 'localhost:{port}/?list'            list all keys\n    \
         curl -X DELETE localhost:{port}/KEY      delete it\n    \
         ./mkv status --admin {admin}    see how it is\n\n\
         Ctrl-C stops it; running it again goes on where it was.\n",
        dir.display()
    );
}
