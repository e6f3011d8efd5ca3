//! A real master: the `mkv` program, on a port and with an index of its own, and whole clusters of it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use minikeyvalue::model::Placer;

use super::process::send;
use super::{Mounts, PortLease, Response, TempDir, Volume, eventually, http, volumes, wait_for};

/// Short enough that tests of slow volumes are quick, long enough for a busy machine.
const VOLTIMEOUT: &str = "500ms";

/// Removals in doubt are confirmed after so long; in production it is a minute.
const GRACE: &str = "1s";

/// A server that is to be started.
#[derive(Debug, Clone)]
pub struct MasterBuilder {
    volumes: String,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    dir: Option<PathBuf>,
    prefix: Vec<String>,
}

/// A server that runs until it is stopped, killed or dropped.
#[derive(Debug)]
pub struct Master {
    own: TempDir,
    db: PathBuf,
    prefix: Vec<String>,
    env: Vec<(String, String)>,
    words: Vec<String>,
    port: PortLease,
    child: Option<Child>,
    /// Whether it has rebuilt its index, which then is another directory; nobody else works on it, so that the next start needn't wait.
    has_rebuilt: AtomicBool,
}

impl MasterBuilder {
    /// Adds a flag and its value, as on the command line. A later one replaces the harness's own default.
    pub fn flag(mut self, name: &str, value: impl Into<String>) -> Self {
        self.flags.push(format!("--{name}={}", value.into()));
        self
    }

    /// Sets an environment variable, of the server and of its jobs.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Uses an index directory that is somebody else's to remove.
    pub fn db(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Runs it where the file systems of `mounts` are to be seen.
    pub fn among(mut self, mounts: &Mounts) -> Self {
        self.prefix = mounts.enter();
        self
    }

    /// Starts it, and returns when it serves. Panics with its own words when it doesn't.
    #[track_caller]
    pub fn start(self) -> Master {
        let mut master = self.build();
        master.start_again();
        master
    }

    /// Starts it where it is expected to refuse; returns its exit status and what it said.
    #[track_caller]
    pub fn refusal(self) -> (ExitStatus, String) {
        let mut master = self.build();
        let mut child = master.spawn(&[]);
        let status = wait_for("the server refuses", || child.try_wait().expect("it is our child"));
        let log = master.log();
        master.child = None;
        (status, log)
    }

    /// Prepares it, for tests that run jobs before there is a server, or none at all.
    pub fn build(self) -> Master {
        let own = TempDir::new();
        let db = self.dir.unwrap_or_else(|| own.join("indexdb"));
        let has = |name: &str| self.flags.iter().any(|flag| flag.starts_with(&format!("--{name}=")));
        let mut words = vec![format!("--volumes={}", self.volumes), format!("--db={}", db.display())];
        for (name, value) in [("voltimeout", VOLTIMEOUT), ("grace", GRACE)] {
            words.extend((!has(name)).then(|| format!("--{name}={value}")));
        }
        let port = PortLease::new();
        words.extend((!has("port")).then(|| format!("--port={}", port.port())));
        words.extend(self.flags);
        let has_rebuilt = AtomicBool::new(false);
        Master { own, db, prefix: self.prefix, env: self.env, words, port, child: None, has_rebuilt }
    }
}

impl Master {
    /// A server over `volumes` (as in `--volumes`), with short timeouts.
    pub fn builder(volumes: &str) -> MasterBuilder {
        MasterBuilder {
            volumes: volumes.into(),
            flags: Vec::new(),
            env: Vec::new(),
            dir: None,
            prefix: Vec::new(),
        }
    }

    /// `127.0.0.1:PORT`. The same after every restart.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port.port())
    }

    /// `http://127.0.0.1:PORT` + `path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// A directory that goes with this value.
    pub fn own_dir(&self) -> &Path {
        self.own.path()
    }

    /// The directory of the index.
    pub fn db(&self) -> &Path {
        &self.db
    }

    /// The process id. Panics when it isn't running.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the master is running").id()
    }

    /// Whether it has ended by itself.
    #[track_caller]
    pub fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut().expect("the master was started");
        child.try_wait().expect("it is our child").is_some()
    }

    /// What it wrote to its standard output and error since the last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.own.join("log")).unwrap_or_default()
    }

    /// One request without headers.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: &[u8]) -> Response {
        http(method, &self.url(path), body, &[])
    }

    /// Stores a blob and expects that to work.
    #[track_caller]
    pub fn put(&self, path: &str, body: &[u8]) {
        let response = self.call("PUT", path, body);
        assert_eq!(response.status, 201, "PUT {path}: {}", response.text());
    }

    /// Follows the redirect; the status and the content.
    #[track_caller]
    pub fn fetch(&self, path: &str) -> (u16, Vec<u8>) {
        let response = self.call("GET", path, b"");
        match response.header("location") {
            Some(location) => {
                let blob = http("GET", location, b"", &[]);
                (blob.status, blob.body)
            }
            None => (response.status, response.body),
        }
    }

    /// The keys of a listing, all on one page.
    #[track_caller]
    pub fn list(&self, path_and_query: &str) -> Vec<String> {
        let response = self.call("GET", path_and_query, b"");
        assert_eq!(response.status, 200, "{path_and_query}: {}", response.text());
        let json: serde_json::Value = serde_json::from_slice(&response.body).expect("a listing is JSON");
        let keys = json["keys"].as_array().expect("a listing has keys");
        keys.iter().map(|key| key.as_str().expect("keys are text").to_owned()).collect()
    }

    /// Ends it as an operator would, with SIGTERM.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        send(self.pid(), Signal::SIGTERM);
        self.wait()
    }

    /// Ends it at once.
    #[track_caller]
    pub fn kill9(&mut self) -> ExitStatus {
        send(self.pid(), Signal::SIGKILL);
        self.wait()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the master is running");
        wait_for("the master ends", || child.try_wait().expect("it is our child"))
    }

    /// Starts it once more: the same index, port and flags.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "the master is running already");
        const TAKEOVER: &str = "--takeover=true";
        let is_sure =
            self.has_rebuilt.load(Ordering::Relaxed) && !self.words.iter().any(|word| word == TAKEOVER);
        self.child = Some(self.spawn(if is_sure { &[TAKEOVER] } else { &[] }));
        eventually("the master answers", || {
            let exited = self.child.as_mut().expect("it was spawned").try_wait().expect("it is our child");
            if let Some(status) = exited {
                self.child = None;
                panic!("mkv ended with {status}:\n{}", self.log());
            }
            std::net::TcpStream::connect(self.addr()).is_ok()
        });
    }

    /// Where the server remembers what is not in the index.
    pub fn state_file(&self) -> PathBuf {
        let mut path = self.db().as_os_str().to_owned();
        path.push(".state");
        path.into()
    }

    /// Runs a job on the index and the volumes of this master, with its flags, to its end; the exit status and
    /// everything it said.
    #[track_caller]
    pub fn job(&self, words: &[&str]) -> (ExitStatus, String) {
        let output = self.command(words).stdin(Stdio::null()).output().expect("the program can be run");
        let said = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8_lossy(&said).into_owned())
    }

    /// As [`Master::job`], but only what the job printed to stdout.
    #[track_caller]
    pub fn job_output(&self, words: &[&str]) -> (ExitStatus, String) {
        let output = self.command(words).stdin(Stdio::null()).output().expect("the program can be run");
        (output.status, String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Begins a job, for tests that don't wait for its end.
    #[track_caller]
    pub fn begin_job(&self, words: &[&str]) -> Child {
        let command = &mut self.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the program can be run")
    }

    /// As [`Master::begin_job`]; what it says goes into `log`.
    #[track_caller]
    pub fn begin_logged_job(&self, words: &[&str], log: &Path) -> Child {
        let log = File::create(log).expect("the test's directory is writable");
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
        command.spawn().expect("the program can be run")
    }

    fn command(&self, words: &[&str]) -> Command {
        self.has_rebuilt.fetch_or(words.contains(&"rebuild"), Ordering::Relaxed);
        let program = env!("CARGO_BIN_EXE_mkv").to_owned();
        let mut all = self.prefix.iter().chain([&program]).chain(&self.words);
        let mut command = Command::new(all.next().expect("at least the program"));
        command.args(all).args(words).envs(self.env.iter().cloned());
        command
    }

    fn spawn(&self, flags: &[&str]) -> Child {
        let log = File::create(self.own.join("log")).expect("our directory is writable");
        self.command(&[flags, &["server"]].concat())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log)
            .spawn()
            .expect("the program can be run")
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill9();
        }
        if std::thread::panicking() {
            eprintln!("--- master {} said:\n{}", self.addr(), self.log());
        }
    }
}

/// A master over volumes of its own.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first, so that it doesn't complain of volumes that go away.
    pub master: Master,
    pub volumes: Vec<Volume>,
}

impl Cluster {
    /// Three volumes, three replicas.
    #[track_caller]
    pub fn start() -> Self {
        Self::of(3, |master| master)
    }

    /// `count` volumes, and a master with what `flags` adds.
    #[track_caller]
    pub fn of(count: usize, flags: impl FnOnce(MasterBuilder) -> MasterBuilder) -> Self {
        let volumes = volumes(count);
        let master = flags(Master::builder(&addresses(&volumes))).start();
        Self { master, volumes }
    }

    /// Four volumes, the first of which died before keys were changed and has all of them as they were: `count` of each of
    /// `/same/N` (`old`), `/replaced/N` (`new`), `/unlinked/N` and `/deleted/N`. The master is killed.
    #[track_caller]
    pub fn with_an_outdated_volume(count: usize) -> Self {
        let mut cluster = Cluster::of(4, |master| master);
        for key in ["same", "replaced", "unlinked", "deleted"].iter().flat_map(|kind| numbered(kind, count)) {
            cluster.master.put(&key, b"old");
        }
        cluster.volumes[0].kill9();
        eventually("the volume is known to be down", || cluster.master.log().contains("is down"));
        let change = |method, key: String, body: &[u8]| cluster.master.call(method, &key, body).status;
        numbered("replaced", count).for_each(|key| assert_eq!(change("REPLACE", key, b"new"), 204));
        numbered("unlinked", count).for_each(|key| assert_eq!(change("UNLINK", key, b""), 204));
        // Where the volume had a replica, it is still to be removed there.
        numbered("deleted", count).for_each(|key| assert!([204, 503].contains(&change("DELETE", key, b""))));
        cluster.master.kill9();
        cluster
    }

    /// All blobs and sidecars on all volumes, each as `host:port/path`.
    pub fn files(&self) -> Vec<String> {
        let files = self.volumes.iter().map(|volume| (volume.addr(), volume.files()));
        let named =
            files.flat_map(|(addr, files)| files.into_iter().map(move |file| format!("{addr}/{file}")));
        named.filter(|file| !file.ends_with("/=cluster")).collect()
    }

    /// The volume of an address, as it stands in `Key-Volumes`.
    #[track_caller]
    pub fn volume_of(&mut self, replica: &str) -> &mut Volume {
        let volume = self.volumes.iter_mut().find(|volume| replica.starts_with(&volume.addr()));
        volume.expect("the replica is on one of the volumes")
    }
}

/// Where `replicas` copies of a key belong on `volumes`, with the server's default of ten subvolumes.
pub fn placer(volumes: &[Volume], replicas: usize) -> Placer {
    Placer::new(volumes.iter().map(|volume| volume.addr().parse().expect("a volume")).collect(), replicas, 10)
}

/// As `--volumes` wants them.
pub fn addresses(volumes: &[Volume]) -> String {
    volumes.iter().map(Volume::addr).collect::<Vec<_>>().join(",")
}

/// `/kind/0`, `/kind/1` and so on.
pub fn numbered(kind: &str, count: usize) -> impl Iterator<Item = String> {
    let kind = kind.to_owned();
    (0..count).map(move |number| format!("/{kind}/{number}"))
}
