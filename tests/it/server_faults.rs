//! The server's own faults: a disk that is full, an index that can't be written, signals in the middle of work, and
//! `mkv up`, which has to end and find again everything that it started.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::harness::{
    Cluster, Master, Mounts, PortLease, TempDir, Volume, addresses, children, eventually, http, is_gone,
    repository, send, try_http, wait_for,
};

const LARGE: usize = 4 << 20;

fn volumes() -> (Vec<Volume>, String) {
    let volumes: Vec<Volume> = (0..3).map(|_| Volume::start()).collect();
    let list = addresses(&volumes);
    (volumes, list)
}

/// The one line with which the program says why it ends.
fn last_words(log: &str) -> String {
    let words: Vec<&str> = log.lines().filter(|line| line.starts_with("mkv: ")).collect();
    assert_eq!(words.len(), 1, "{log}");
    assert!(!log.contains("panicked"), "{log}");
    words[0].to_owned()
}

#[test]
fn full_disk_under_the_index_ends_the_server_and_loses_nothing() {
    let own = TempDir::new();
    let db = own.join("drive/indexdb");
    let mut mounts = Mounts::new();
    mounts.tmpfs(&own.join("drive"), "1500k");
    let (_volumes, list) = volumes();
    let mut master = Master::builder(&list).db(&db).among(&mounts).start();
    // Long keys fill the drive quickly; what was acknowledged must be there afterwards.
    let key = |number: usize| format!("/{number}/{}", "k".repeat(1900));
    let mut stored = 0;
    while try_http("PUT", &master.url(&key(stored)), b"x", &[]).is_ok_and(|response| response.status == 201) {
        stored += 1;
        assert!(stored < 20_000, "the drive is never full");
    }
    assert_eq!(master.wait().code(), Some(1), "{}", master.log());
    let words = last_words(&master.log());
    assert!(
        words.contains("the index stopped at an I/O error") && words.contains("No space left"),
        "{words}"
    );
    assert!(stored > 100, "only {stored} were stored");

    mounts.run(&format!("mount -o remount,size=64m '{}'", own.join("drive").display()));
    master.start_again();
    // The last one may have become durable and not been acknowledged.
    let listed = master.list("/?list").len();
    assert!(listed == stored || listed == stored + 1, "{listed} of {stored}");
    for number in (0..stored).step_by(29).chain([stored - 1]) {
        assert_eq!(master.fetch(&key(number)), (200, b"x".to_vec()), "{number} of {stored}");
    }
    // What was not acknowledged is free, at once or when it is settled.
    eventually("the next key can be written", || master.call("PUT", &key(listed), b"x").status == 201);
}

#[test]
fn index_that_can_not_be_written_is_refused() {
    let own = TempDir::new();
    let drive = own.join("drive");
    let mut mounts = Mounts::new();
    mounts.tmpfs(&drive, "8m");
    let (_volumes, list) = volumes();
    let db = drive.join("indexdb");
    let mut master = Master::builder(&list).db(&db).among(&mounts).start();
    master.put("/k", b"x");
    assert!(master.stop().success());
    let remount =
        |mounts: &mut Mounts, how: &str| mounts.run(&format!("mount -o remount,{how} '{}'", drive.display()));
    remount(&mut mounts, "ro");
    for db in [db, drive.join("new")] {
        let (status, said) = Master::builder(&list).db(&db).among(&mounts).refusal();
        assert_eq!(status.code(), Some(1), "{said}");
        let words = last_words(&said);
        assert!(
            words.contains("Read-only file system") && words.contains(&db.display().to_string()),
            "{words}"
        );
    }
    remount(&mut mounts, "rw");
    master.start_again();
    assert_eq!(master.fetch("/k"), (200, b"x".to_vec()));
}

#[test]
fn port_or_index_in_use_is_refused() {
    let cluster = Cluster::start();
    let list = addresses(&cluster.volumes);
    let port = cluster.master.addr().rsplit_once(':').expect("it has a port").1.to_owned();
    let (status, said) = Master::builder(&list).flag("adopt", "true").flag("port", port.as_str()).refusal();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(last_words(&said).contains(&format!("port {port}")), "{said}");
    let (status, said) = Master::builder(&list).db(cluster.master.db()).refusal();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(last_words(&said).contains("in use by another process"), "{said}");
}

/// A PUT of which only the last byte is missing.
fn nearly_a_put(master: &Master, key: &str, size: usize) -> TcpStream {
    let mut stream = TcpStream::connect(master.addr()).expect("the master listens");
    let head =
        format!("PUT {key} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("it is read");
    stream.write_all(&vec![7; size - 1]).expect("it is read");
    stream
}

fn last_byte(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    let _ = stream.write_all(&[7]);
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn under_way(volumes: &[Volume], uploads: usize) {
    eventually("the volumes receive them", || {
        volumes.iter().all(|volume| {
            fs::read_dir(volume.dir().join(".mkv/tmp")).is_ok_and(|files| files.count() >= uploads)
        })
    });
}

#[test]
fn sigterm_lets_running_uploads_finish() {
    let mut cluster = Cluster::start();
    // First, because nobody sees it arrive; connections are taken in their order.
    let small = nearly_a_put(&cluster.master, "/small", 1000);
    let uploads: Vec<_> =
        (0..4).map(|number| nearly_a_put(&cluster.master, &format!("/{number}"), LARGE)).collect();
    under_way(&cluster.volumes, 4);
    send(cluster.master.pid(), Signal::SIGTERM);
    eventually("nobody else is let in", || TcpStream::connect(cluster.master.addr()).is_err());
    assert!(!cluster.master.has_ended());
    for upload in uploads.into_iter().chain([small]) {
        let answer = last_byte(upload);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
    assert!(cluster.master.wait().success(), "{}", cluster.master.log());
    cluster.master.start_again();
    assert_eq!(cluster.master.fetch("/3"), (200, vec![7; LARGE]));
    assert_eq!(cluster.master.list("/?list").len(), 5);
    assert_eq!(cluster.files().len(), 15);
}

#[test]
fn second_sigterm_ends_the_server_at_once() {
    let mut cluster = Cluster::of(3, |master| master.flag("grace", "300ms"));
    let upload = nearly_a_put(&cluster.master, "/k", LARGE);
    under_way(&cluster.volumes, 1);
    send(cluster.master.pid(), Signal::SIGTERM);
    eventually("it is stopping", || TcpStream::connect(cluster.master.addr()).is_err());
    assert!(!cluster.master.has_ended());
    send(cluster.master.pid(), Signal::SIGTERM);
    assert!(cluster.master.wait().success(), "{}", cluster.master.log());
    assert!(!last_byte(upload).contains("201"));
    cluster.master.start_again();
    eventually("nothing of it is left", || cluster.files().is_empty());
    eventually("the key is free", || cluster.master.call("PUT", "/k", b"x").status == 201);
}

#[test]
fn killed_server_leaves_nothing_of_its_uploads() {
    let mut cluster = Cluster::of(3, |master| master.flag("grace", "300ms"));
    cluster.master.put("/old", b"old");
    let uploads: Vec<_> =
        ["/a", "/b", "/c"].map(|key| nearly_a_put(&cluster.master, key, LARGE)).into_iter().collect();
    under_way(&cluster.volumes, 3);
    // A volume that takes its time: the file of a small blob may appear after the master's death.
    cluster.volumes[0].pause();
    let url = cluster.master.url("/late");
    let late = std::thread::spawn(move || try_http("PUT", &url, b"late", &[]).is_ok());
    eventually("the others have it", || cluster.volumes[1].files().len() == 3);
    cluster.master.kill9();
    cluster.volumes[0].resume();
    assert!(!late.join().expect("it ends"), "nobody acknowledged it");
    assert!(!uploads.into_iter().any(|upload| last_byte(upload).contains("HTTP")));
    cluster.master.start_again();
    for key in ["/a", "/b", "/c", "/late"] {
        assert_eq!(cluster.master.call("GET", key, b"").status, 404);
        eventually("the key is free", || cluster.master.call("PUT", key, b"new").status == 201);
    }
    let blobs = || cluster.files().iter().filter(|file| !file.ends_with(".meta")).count();
    eventually("nothing else is left", || blobs() == 5 * 3);
    for key in ["/a", "/b", "/c", "/late"] {
        assert_eq!(cluster.master.fetch(key), (200, b"new".to_vec()));
    }
}

/// Overwritten versions of a key can't be removed while somebody writes it; those of all others can.
#[test]
fn key_that_is_being_written_keeps_no_other_from_being_settled() {
    const MANY: usize = 300;
    let cluster = Cluster::of(3, |master| master.flag("grace", "4s"));
    for number in 0..=MANY {
        let stored = cluster.master.call("REPLACE", "/hot", number.to_string().as_bytes());
        assert!(matches!(stored.status, 201 | 204), "{}", stored.text());
    }
    let mut upload = TcpStream::connect(cluster.master.addr()).expect("the master listens");
    let head = "REPLACE /hot HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
    upload.write_all(head.as_bytes()).expect("it is read");
    upload.write_all(&[0; 100_000]).expect("it is read");
    eventually("the key is held", || cluster.master.call("UNLINK", "/hot", b"").status == 409);
    cluster.master.put("/other", b"one");
    assert_eq!(cluster.master.call("REPLACE", "/other", b"two").status, 204);
    // The plain path of /other.
    let plain = || cluster.files().iter().filter(|file| file.ends_with("/L290aGVy")).count();
    assert_eq!(plain(), 3);
    eventually("the other's old version is removed", || plain() == 0);
    assert_eq!(cluster.master.call("UNLINK", "/hot", b"").status, 409, "the key is held all the time");
    drop(upload);
}

/// `./mkv up` with ports of its own.
struct Up {
    dir: TempDir,
    /// Four in a row.
    ports: Vec<PortLease>,
    _admin: PortLease,
    config: Option<std::path::PathBuf>,
    child: Option<Child>,
}

impl Up {
    fn new() -> Self {
        let ports = wait_for("four free ports in a row", || {
            let ports: Vec<PortLease> = (0..4).map(|_| PortLease::new()).collect();
            let admin = PortLease::try_exactly(ports[0].port() + 900)?;
            let in_a_row = ports.windows(2).all(|pair| pair[1].port() == pair[0].port() + 1);
            in_a_row.then_some((ports, admin))
        });
        let (ports, _admin) = ports;
        Self { dir: TempDir::new(), ports, _admin, config: None, child: None }
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.join("data")
    }

    fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.ports[0].port())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn start(&mut self) {
        let log = fs::File::create(self.dir.join("log")).expect("our directory is writable");
        let child = Command::new(repository().join("mkv"))
            .args(["up", "--port", &self.ports[0].port().to_string()])
            .arg(self.data())
            .args(self.config.iter().flat_map(|config| [Path::new("--config"), config]))
            .env("MKV_BIN", env!("CARGO_BIN_EXE_mkv"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log)
            .spawn()
            .expect("the script can be run");
        self.child = Some(child);
        eventually("it answers", || {
            let child = self.child.as_mut().expect("it was spawned");
            assert!(child.try_wait().expect("it is our child").is_none(), "{}", self.log());
            try_http("GET", &self.url("/?list"), b"", &[]).is_ok_and(|response| response.status == 200)
        });
    }

    /// Sends a signal and waits until the program and all its volumes are gone.
    fn end(&mut self, signal: Signal) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let volumes = children(child.id());
        assert_eq!(volumes.len(), 3, "{}", self.log());
        let workers: Vec<u32> = volumes.iter().flat_map(|volume| children(*volume)).collect();
        send(child.id(), signal);
        let status = wait_for("it ends", || child.try_wait().expect("it is our child"));
        eventually("its volumes end", || volumes.iter().chain(&workers).all(|pid| is_gone(*pid)));
        status
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.end(Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("--- mkv up said:\n{}", self.log());
        }
    }
}

fn curl(words: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--write-out", "%{stderr}%{http_code}"])
        .args(words)
        .output()
        .expect("curl is installed");
    (String::from_utf8_lossy(&output.stderr).into(), String::from_utf8_lossy(&output.stdout).into())
}

#[test]
fn up_serves_ends_and_goes_on_with_its_volumes() {
    let mut up = Up::new();
    let file = up.dir.join("file");
    fs::write(&file, "hello").expect("our directory is writable");
    let path = |path: &Path| path.to_str().expect("our paths are text").to_owned();
    for (round, signal) in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT].into_iter().enumerate() {
        up.start();
        assert!(
            up.log().contains(&format!("curl -L -T FILE localhost:{}/KEY", up.ports[0].port())),
            "{}",
            up.log()
        );
        let key = up.url(&format!("/{round}"));
        assert_eq!(curl(&["-L", "-T", &path(&file), &key]).0, "201");
        for earlier in 0..=round {
            let (status, content) = curl(&["-L", &up.url(&format!("/{earlier}"))]);
            assert_eq!((status.as_str(), content.as_str()), ("200", "hello"));
        }
        let status = up.end(signal);
        assert_eq!(status.success(), signal != Signal::SIGKILL, "{status} {}", up.log());
    }
}

#[test]
fn up_refuses_ports_in_use_and_leaves_nothing_running() {
    for taken in 0..4 {
        let mut up = Up::new();
        let _holder =
            std::net::TcpListener::bind(("127.0.0.1", up.ports[taken].port())).expect("it is leased");
        let output = Command::new(repository().join("mkv"))
            .args(["up", "--port", &up.ports[0].port().to_string()])
            .arg(up.data())
            .env("MKV_BIN", env!("CARGO_BIN_EXE_mkv"))
            .output()
            .expect("the script can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("port {}", up.ports[taken].port())), "{said}");
        for (number, lease) in up.ports.iter().enumerate().filter(|(number, _)| *number != taken) {
            assert!(TcpStream::connect(("127.0.0.1", lease.port())).is_err(), "{number} still answers");
        }
        up.child = None;
    }
}

#[test]
fn up_outlives_a_volume_that_dies() {
    let mut up = Up::new();
    up.start();
    assert_eq!(http("PUT", &up.url("/k"), b"x", &[]).status, 201);
    let pid = up.child.as_ref().expect("it runs").id();
    let volumes = children(pid);
    send(volumes[0], Signal::SIGTERM);
    eventually("the volume ends", || is_gone(volumes[0]));
    let redirect = http("GET", &up.url("/k"), b"", &[]);
    assert_eq!(redirect.status, 302);
    assert_eq!(http("PUT", &up.url("/new"), b"x", &[]).status, 503);
    up.end(Signal::SIGTERM);
}

#[test]
fn up_reads_its_configuration_again_and_leaves_its_volumes_alone() {
    let mut up = Up::new();
    let config = up.dir.join("mkv.toml");
    fs::write(&config, "fallback = 'a:1'\n").expect("our directory is writable");
    up.config = Some(config.clone());
    up.start();
    let pid = up.child.as_ref().expect("it runs").id();
    let volumes = children(pid);
    fs::write(&config, "fallback = 'b:1'\nreplicas = 2\n").expect("our directory is writable");
    send(pid, Signal::SIGHUP);
    eventually("it says what is new", || up.log().contains("was read again; new: fallback\n"));
    assert!(up.log().contains("replicas is another one now; restart to use it"), "{}", up.log());
    // What `up` chose by itself has not changed.
    assert_eq!(up.log().matches("is another one now").count(), 1, "{}", up.log());
    let response = http("GET", &up.url("/none"), b"", &[]);
    assert_eq!(response.header("location"), Some("http://b:1/none"));
    assert_eq!(children(pid), volumes);
    assert_eq!(http("PUT", &up.url("/k"), b"x", &[]).status, 201);
    assert!(up.end(Signal::SIGTERM).success());
}

#[test]
fn up_ends_with_its_terminal() {
    let up = Up::new();
    let (program, port) = (repository().join("mkv"), up.ports[0].port());
    let mut terminal = Command::new("script")
        .args(["--quiet", "--command"])
        .arg(format!("exec '{}' up --port {port} '{}'", program.display(), up.data().display()))
        .arg("/dev/null")
        .env("MKV_BIN", env!("CARGO_BIN_EXE_mkv"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("util-linux is there");
    eventually("it answers", || {
        try_http("GET", &up.url("/?list"), b"", &[]).is_ok_and(|response| response.status == 200)
    });
    let pids = children(terminal.id());
    assert_eq!(pids.len(), 1);
    let volumes = children(pids[0]);
    assert_eq!(volumes.len(), 3);
    terminal.kill().expect("it is our child");
    terminal.wait().expect("it is our child");
    eventually("it ends, and its volumes", || pids.iter().chain(&volumes).all(|pid| is_gone(*pid)));
}

/// Every table of the index stays open, and a shell gives 1,024.
#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_goes() {
    let (dir, port) = (TempDir::new(), PortLease::new());
    let line = r#"ulimit -Sn 300; exec "$0" --db "$1" --volumes localhost:1 --replicas 1 --port "$2" server"#;
    let mut command = Command::new("bash");
    command.args(["-c", line, env!("CARGO_BIN_EXE_mkv")]).arg(dir.join("indexdb"));
    let mut server = command.arg(port.port().to_string()).spawn().expect("bash is installed");
    eventually("it serves", || TcpStream::connect(("localhost", port.port())).is_ok());
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.id())).expect("it runs");
    send(server.id(), Signal::SIGTERM);
    assert!(server.wait().expect("it is our child").success());
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("there is a limit");
    let (soft, hard) = (files.split_whitespace().nth(3), files.split_whitespace().nth(4));
    assert!(soft == hard && soft != Some("300"), "{files}");
}
