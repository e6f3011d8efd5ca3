//! The `mkv` program: reads the command line, sets up logging, and runs the command.

use minikeyvalue::check::{self, CheckError};
use minikeyvalue::cli::{Arguments, Command, UndrainArguments, VolumeModeArguments};
use minikeyvalue::client::{self, ClientError};
use minikeyvalue::config::{Config, ConfigError};
use minikeyvalue::job::{self, JobError};
use minikeyvalue::logs;
use minikeyvalue::model::VolumeMode;
use minikeyvalue::server::{self, ServerError};
use minikeyvalue::text::{printable, say};
use minikeyvalue::up::{self, UpError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::process::ExitCode;
use structopt::clap::ErrorKind;
use thiserror::Error;
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// The command line asks for what can't be.
const EXIT_REFUSED: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(err) if matches!(err.kind, ErrorKind::HelpDisplayed) => {
            say!("{}", err.message);
            return ExitCode::SUCCESS;
        }
        Err(err) => {
            eprintln!("{}", err.message);
            return ExitCode::from(EXIT_REFUSED);
        }
    };
    logs::start(arguments.verbosity());
    raise_file_limit();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => match failure {
            Failure::Config(err)
            | Failure::Job(JobError::Config(err))
            | Failure::Check(CheckError::Config(err))
            | Failure::Client(ClientError::Config(err))
            | Failure::Up(UpError::Config(err)) => {
                eprintln!("mkv: {}", printable(&arguments.settings.explain(&err.to_string())));
                ExitCode::from(EXIT_REFUSED)
            }
            Failure::Server(_)
            | Failure::Up(_)
            | Failure::Job(_)
            | Failure::Client(_)
            | Failure::Check(_) => {
                eprintln!("mkv: {}", printable(&failure.to_string()));
                ExitCode::FAILURE
            }
        },
    }
}

/// As many open files as the system lets this process have: every table of an index stays open, and every connection is a
/// file. The usual limit of 1,024 is there for programs that call select(2).
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(err) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::warn!("only {:?} files can be open: {err}", limit.current);
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        None => say!("{}", Arguments::usage()),
        Some(Command::Server) => server::run(Config::new(arguments)?, || Config::read_again(Config::new))?,
        Some(Command::Up { dir }) => up::run(arguments, dir)?,
        Some(Command::Rebuild(flags)) => job::rebuild(arguments, flags)?,
        Some(Command::Export(flags)) => job::export(arguments, flags)?,
        Some(Command::Rebalance(flags)) => job::rebalance(arguments, flags)?,
        Some(Command::Scrub(flags)) => job::scrub(arguments, flags)?,
        Some(Command::Repair(flags)) => job::repair(arguments, flags)?,
        Some(Command::Drain(flags)) => job::drain(arguments, flags)?,
        Some(Command::Forget(flags)) => job::forget(arguments, flags)?,
        Some(Command::Replace(flags)) => job::replace(arguments, flags)?,
        Some(Command::Rename(flags)) => job::rename(arguments, flags)?,
        Some(Command::Undrain(UndrainArguments { flags, volume })) => {
            job::set_mode(arguments, volume, VolumeMode::Alive, flags)?;
        }
        Some(Command::VolumeMode(VolumeModeArguments { flags, volume, mode })) => {
            job::set_mode(arguments, volume, *mode, flags)?;
        }
        Some(Command::Put(flags)) => client::put(arguments, flags)?,
        Some(Command::Get(flags)) => client::get(arguments, flags)?,
        Some(Command::Check(flags)) => check::run(arguments, flags)?,
        Some(Command::Status(flags)) => job::ask(arguments, |remote| remote.status(flags))?,
        Some(Command::Volumes(flags)) => job::ask(arguments, |remote| remote.volumes(flags))?,
        Some(Command::Jobs(flags)) => job::ask(arguments, |remote| remote.jobs(flags))?,
        Some(Command::Ls(flags)) => job::ask(arguments, |remote| remote.ls(flags))?,
        Some(Command::VerifyIndex(flags)) => job::verify_index(arguments, flags)?,
        Some(Command::Completions { shell }) => print!("{}", Arguments::completions(*shell)),
    }
    Ok(())
}
