//! A master and its volumes, all below one directory, as an operator would start them.

use crate::Outcome;
use crate::process::{Process, cpu_seconds};
use crate::scratch::Place;
use minikeyvalue::model::{File, Key, Placer, Replica, path_of};
use std::env;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// As many as there are replicas at most.
pub(crate) const VOLUMES: usize = 3;

const START_LIMIT: Duration = Duration::from_secs(30);

/// `DURABLE` of volumes, unless it is measured what it costs.
const NOT_DURABLE: &str = "0";

/// Subvolumes of each volume, the server's default.
pub(crate) const SUBVOLUMES: u32 = 10;

/// A running cluster; it ends with this value, and its data goes too.
pub(crate) struct Cluster {
    pub(crate) master: Process,
    /// Where the master answers, `host:port`.
    pub(crate) address: String,
    volumes: Vec<Process>,
    placer: Placer,
    _place: Place,
}

/// How a cluster is started.
pub(crate) struct Setup<'a> {
    pub(crate) parent: &'a Path,
    pub(crate) replicas: usize,
    /// Further flags of the master.
    pub(crate) flags: &'a [&'a str],
    /// An index that is there already; `None` for a new one beside the volumes.
    pub(crate) index: Option<&'a Path>,
}

impl Cluster {
    pub(crate) fn start(setup: &Setup) -> Outcome<Cluster> {
        Cluster::start_over(VOLUMES, setup)
    }

    /// As [`Cluster::start`], over so many volumes.
    pub(crate) fn start_over(count: usize, setup: &Setup) -> Outcome<Cluster> {
        Cluster::start_with(count, NOT_DURABLE, setup)
    }

    /// As [`Cluster::start`], with volumes whose file system syncs.
    pub(crate) fn start_durable(setup: &Setup) -> Outcome<Cluster> {
        Cluster::start_with(VOLUMES, "1", setup)
    }

    fn start_with(count: usize, durable: &str, setup: &Setup) -> Outcome<Cluster> {
        let place = Place::new(setup.parent, "cluster")?;
        let (volumes, names) = volumes_with(&place.0, count, durable)?;
        let parsed = names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        let placer = Placer::new(parsed, setup.replicas, SUBVOLUMES);
        let port = free_port()?;
        let mut command = Command::new(master_program()?);
        let own_index = place.0.join("indexdb");
        command.arg("--db").arg(setup.index.unwrap_or(&own_index)).args(["--volumes", &names.join(",")]);
        command.args(["--replicas", &setup.replicas.to_string(), "--port", &port.to_string()]);
        command.args(["--listen", "127.0.0.1", "server"]).args(setup.flags).env("RUST_LOG", "warn");
        let master = started(Process::start(&command)?, port)?;
        Ok(Cluster { master, address: format!("127.0.0.1:{port}"), volumes, placer, _place: place })
    }

    /// CPU seconds of the master so far.
    pub(crate) fn master_cpu(&self) -> f64 {
        cpu_seconds(self.master.id())
    }

    /// CPU seconds of all volumes so far, workers included.
    pub(crate) fn volumes_cpu(&self) -> f64 {
        self.volumes.iter().map(|volume| cpu_seconds(volume.id())).sum()
    }

    /// Where the blob of `key` belongs: the volumes' addresses, in rank order, and the paths there.
    pub(crate) fn places(&self, key: &str) -> Vec<(String, String)> {
        let key = Key::from_request_path(key).expect("the keys of the bench are keys");
        let path = path_of(&key, File::Blob(None));
        let place = |replica: &Replica| {
            let (volume, folder) = replica.as_str().split_once('/').unwrap_or((replica.as_str(), ""));
            (volume.to_owned(), format!("/{folder}{path}"))
        };
        self.placer.placement(key.as_bytes()).iter().map(place).collect()
    }
}

/// Starts so many volumes below `dir`; answers their addresses too.
pub(crate) fn volumes(dir: &Path, count: usize) -> Outcome<(Vec<Process>, Vec<String>)> {
    volumes_with(dir, count, NOT_DURABLE)
}

fn volumes_with(dir: &Path, count: usize, durable: &str) -> Outcome<(Vec<Process>, Vec<String>)> {
    let (mut volumes, mut names) = (Vec::new(), Vec::new());
    for number in 1..=count {
        let port = free_port()?;
        let mut command = Command::new(home().join("volume"));
        command.arg(volume_dir(dir, number)).env("PORT", port.to_string()).env("LISTEN", "127.0.0.1");
        command.env("DURABLE", durable);
        volumes.push(started(Process::start(&command)?, port)?);
        names.push(format!("127.0.0.1:{port}"));
    }
    Ok((volumes, names))
}

/// Where volume `number`, from 1, keeps its files.
pub(crate) fn volume_dir(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("volume{number}"))
}

/// The programs of this build lie side by side.
pub(crate) fn master_program() -> Outcome<PathBuf> {
    Ok(env::current_exe()?.with_file_name("mkv"))
}

/// Where the scripts are.
fn home() -> PathBuf {
    env::var_os("MKV_HOME").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// A port that is free now.
pub(crate) fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until the process answers.
pub(crate) fn started(mut process: Process, port: u16) -> Outcome<Process> {
    let limit = Instant::now() + START_LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if process.has_ended() || Instant::now() > limit {
            return Err(format!("process {} did not start to answer on port {port}", process.id()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(process)
}
