//! A real volume: the `./volume` script with nginx, on a port and in a directory of its own.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;

use super::process::{children, is_gone, send, stop};
use super::{Mounts, PortLease, TempDir, eventually, repository, wait_for};

/// How to start a volume that isn't like the others.
#[derive(Debug, Default)]
pub struct VolumeBuilder {
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    prefix: Vec<String>,
    seen_at: Option<PathBuf>,
    port: Option<PortLease>,
}

impl VolumeBuilder {
    /// Listens on a port that something else has laid down; only one test may use it.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(PortLease::exactly(port));
        self
    }

    /// Listens on the port of another volume, on another address of `LISTEN`.
    pub fn port_of(mut self, volume: &Volume) -> Self {
        self.port = Some(volume.port.again());
        self
    }

    /// Sets an environment variable of the script (`AUTH`, `REQUIRE_MOUNT`, …).
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Serves a directory that exists already and is somebody else's to remove.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs the script through another program, which must `exec` it.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.prefix.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Runs it where the file systems of `mounts` are to be seen; [`VolumeBuilder::dir`] comes first.
    pub fn among(mut self, mounts: &Mounts) -> Self {
        self.prefix = mounts.enter();
        let dir = self.dir.as_deref().expect("among() follows dir()");
        self.seen_at = Some(mounts.seen_from_here(dir));
        self
    }

    /// Starts it, and returns when it serves. Panics with the script's own words when it doesn't.
    #[track_caller]
    pub fn start(self) -> Volume {
        let mut volume = self.build();
        volume.start_again();
        volume
    }

    /// Runs the script, which is expected to refuse; returns its exit status and what it said.
    #[track_caller]
    pub fn refusal(self) -> (ExitStatus, String) {
        let mut volume = self.build();
        volume.spawn();
        let mut child = volume.child.take().expect("it was spawned");
        let status = wait_for("the script refuses", || match child.try_wait().expect("it is our child") {
            Some(status) => Some(status),
            None => {
                // Should it serve after all, the test fails, and nothing stays behind.
                volume.answers().then(|| {
                    volume.child = None;
                    send(child.id(), Signal::SIGTERM);
                    panic!("the volume serves, though it should have refused")
                })
            }
        });
        (status, volume.log())
    }

    fn build(self) -> Volume {
        let own = TempDir::new();
        let dir = self.dir.unwrap_or_else(|| own.join("data"));
        let seen_at = self.seen_at.unwrap_or_else(|| dir.clone());
        let listen = self.env.iter().find(|(name, _)| name == "LISTEN").map(|(_, value)| value);
        let host = listen.and_then(|list| list.to_str()?.split(' ').next()).unwrap_or("127.0.0.1").to_owned();
        Volume {
            host,
            own,
            served: dir,
            dir: seen_at,
            env: self.env,
            prefix: self.prefix,
            port: self.port.unwrap_or_else(PortLease::new),
            child: None,
            workers: Vec::new(),
        }
    }
}

/// A volume that serves until it is stopped, killed or dropped.
#[derive(Debug)]
pub struct Volume {
    own: TempDir,
    /// As the script is told.
    served: PathBuf,
    /// The same as the test sees it: another path when the volume lives among [`Mounts`].
    dir: PathBuf,
    /// Where it listens: the first address of `LISTEN`, or any.
    host: String,
    env: Vec<(OsString, OsString)>,
    prefix: Vec<String>,
    port: PortLease,
    child: Option<Child>,
    /// Those that were alive when last looked at: they outlive an nginx that is killed.
    workers: Vec<u32>,
}

impl Volume {
    /// An empty volume as anybody would start it.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    pub fn builder() -> VolumeBuilder {
        VolumeBuilder::default()
    }

    /// `127.0.0.1:PORT`, to be given as a volume. The same after every restart.
    pub fn addr(&self) -> String {
        format!("{}:{}", self.host, self.port.port())
    }

    pub fn port(&self) -> u16 {
        self.port.port()
    }

    /// `http://127.0.0.1:PORT` + `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// The directory that it serves.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All files that it serves, relative to [`Volume::dir`] and sorted.
    pub fn files(&self) -> Vec<String> {
        files_below(&self.dir)
    }

    /// What the script and nginx wrote to their standard output and error since the last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The process id of nginx (which was the script's). Panics when it isn't running.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the volume is running").id()
    }

    /// The process ids of the workers.
    #[track_caller]
    pub fn workers(&self) -> Vec<u32> {
        children(self.pid())
    }

    /// Ends it as an operator would, with SIGTERM, and waits until all its processes are gone.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.resume();
        self.end(Signal::SIGTERM)
    }

    /// Ends all its processes at once, as a power cut would.
    #[track_caller]
    pub fn kill9(&mut self) -> ExitStatus {
        // First the master, or it would start new workers.
        self.end(Signal::SIGKILL)
    }

    /// Waits until it has ended by itself, after a signal that somebody else has sent.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the volume was started");
        self.workers.clear();
        wait_for("nginx ends", || child.try_wait().expect("it is our child"))
    }

    /// Starts it once more: the same directory, port and settings.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "the volume is running already");
        self.spawn();
        eventually("the volume answers", || {
            let exited = self.child.as_mut().expect("it was spawned").try_wait().expect("it is our child");
            if let Some(status) = exited {
                self.child = None;
                panic!("./volume ended with {status}:\n{}", self.log());
            }
            self.answers()
        });
        self.workers = self.workers();
    }

    /// Freezes it: connections are accepted by the kernel, nothing is answered.
    #[track_caller]
    pub fn pause(&self) {
        let master = self.pid();
        // First, so that it starts no further worker.
        stop(master);
        children(master).into_iter().for_each(stop);
    }

    /// Wakes whatever was paused.
    #[track_caller]
    pub fn resume(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// Freezes one worker, as a drive does that doesn't answer, and returns its process id. What it has
    /// accepted hangs; the others go on.
    #[track_caller]
    pub fn pause_one_worker(&self) -> u32 {
        let worker = *self.workers().first().expect("nginx has workers");
        stop(worker);
        worker
    }

    fn log_path(&self) -> PathBuf {
        self.own.join("log")
    }

    fn spawn(&mut self) {
        let log = File::create(self.log_path()).expect("our directory is writable");
        let script = repository().join("volume");
        let mut words = self.prefix.iter().map(OsString::from).chain([script.into(), (&self.served).into()]);
        let mut command = Command::new(words.next().expect("at least the script"));
        // What the person who runs the tests has set is not for the volumes under test.
        for name in ["AUTH", "LISTEN", "REQUIRE_MOUNT", "DURABLE"] {
            command.env_remove(name);
        }
        command
            .args(words)
            .env("PORT", self.port.port().to_string())
            .envs(self.env.iter().cloned())
            .current_dir(self.own.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log);
        self.child = Some(command.spawn().expect("the script can be run"));
    }

    /// True once somebody answers on the port, which is leased to us: our nginx. That somebody accepts says less: a program that
    /// another thread is starting may for a moment hold the listener with which the lease tried the port.
    fn answers(&self) -> bool {
        let head = format!("HEAD / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.addr());
        super::http::try_raw(&self.addr(), head.as_bytes())
            .is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 "))
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        let mut child = self.child.take().expect("the volume is running");
        self.workers.extend(children(child.id()));
        send(child.id(), signal);
        let status = wait_for("nginx ends", || child.try_wait().expect("it is our child"));
        let workers = std::mem::take(&mut self.workers);
        if signal == Signal::SIGKILL {
            workers.iter().filter(|worker| self.is_ours(**worker)).for_each(|worker| send(*worker, signal));
        }
        eventually("the workers end", || {
            workers.iter().all(|worker| is_gone(*worker) || !self.is_ours(*worker))
        });
        status
    }

    /// A process id may be somebody else's by now: a worker of ours has our lock open.
    fn is_ours(&self, pid: u32) -> bool {
        std::fs::read_link(format!("/proc/{pid}/fd/9")).is_ok_and(|path| path.ends_with(".mkv/lock"))
    }

    fn signal_all(&self, signal: Signal) {
        let master = self.pid();
        send(master, signal);
        for worker in children(master) {
            send(worker, signal);
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill9();
        }
        if std::thread::panicking() {
            eprintln!("--- volume {} said:\n{}", self.addr(), self.log());
        }
    }
}

/// So many volumes, started at the same time.
pub fn volumes(count: usize) -> Vec<Volume> {
    let starts: Vec<_> = (0..count).map(|_| std::thread::spawn(Volume::start)).collect();
    starts.into_iter().map(|start| start.join().expect("it started")).collect()
}

/// Which volume, and which master's, a volume is: files that are nobody's blobs.
const SIGNS: [&str; 2] = ["=volume", "=master"];

/// All files below `dir`, as sorted relative paths, without the `.mkv` folders and [`SIGNS`].
pub fn files_below(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        // A folder may go away while we look.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                if entry.file_name() != ".mkv" {
                    folders.push(path);
                }
            } else if !SIGNS.iter().any(|sign| entry.file_name() == *sign) {
                let relative = path.strip_prefix(dir).expect("it is below");
                files.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    files.sort();
    files
}
