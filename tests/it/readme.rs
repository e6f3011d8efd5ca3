//! The README's commands, typed as they stand there, on other ports and in other directories.

use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{PortLease, Response, TempDir, eventually, http, repository, send, wait_for};

/// A process group that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        send(self.0.id(), Signal::SIGTERM);
        wait_for("it ends", || self.0.try_wait().expect("it is our child"));
    }
}

#[test]
fn the_first_command_starts_a_cluster_and_its_curl_lines_work() {
    let (dir, ports) = (TempDir::new(), four_ports());
    let _cluster = Running(mkv(&dir, &["up", "--port", &ports[0].port().to_string()]));
    wait_until_served(ports[0].port());
    std::fs::write(dir.join("bigfile"), vec![7; 2 << 20]).expect("our directory is writable");
    let script = block("cluster").replace("localhost:3000", &format!("localhost:{}", ports[0].port()));
    assert!(script.matches("curl").count() >= 10, "{script}");
    run(&dir, &script);
    let copied = std::fs::read(dir.join("copy")).expect("the README fetches it");
    assert_eq!(copied, vec![7; 2 << 20]);
    assert!(dir.join("data/volume1").is_dir(), "everything is below ./data");
    let on_these_ports = |mut script: String| {
        for (number, port) in ports.iter().enumerate() {
            let port = format!("localhost:{}", port.port());
            script = script.replace(&format!("localhost:{}", 3000 + number), &port);
        }
        script.replace("127.0.0.1:3900", &format!("127.0.0.1:{}", ports[0].port() + 900))
    };
    let script = on_these_ports(block("admin"));
    let program = format!("MKV_BIN={} {}/mkv", env!("CARGO_BIN_EXE_mkv"), repository().display());
    check_output("admin", run(&dir, &script.replace("./mkv", &program)), |line| line.to_owned());
    begin_a_long_job(ports[0].port());
    let script = on_these_ports(block("jobs"));
    check_output("jobs", run(&dir, &script.replace("./mkv", &program)), |line| line.to_owned());
    let script = on_these_ports(block("people"));
    let program = format!("MKV_SERVER=localhost:{} {program}", ports[0].port());
    run(&dir, &script.replace("./mkv", &program));
    assert_eq!(std::fs::read(dir.join("another")).expect("the README fetches it"), vec![7; 2 << 20]);
}

#[test]
fn a_cluster_of_ones_own_is_started_by_hand_and_its_index_rebuilt() {
    let (dir, ports) = (TempDir::new(), four_ports());
    let here = |name: &str| typed_in(&dir, &ports, &block(name));
    // The volumes end with the shell, which also tells how to stop the master.
    let script = here("own").replace(" server\n", " server &\necho $! >master.pid\nwait\n");
    let script = format!("trap 'kill $(jobs -p); wait' EXIT\n{script}");
    let _cluster = Running(shell(&dir, &script).spawn().expect("bash is installed"));
    wait_until_served(ports[0].port());
    let lines = format!("curl -f -X PUT -d x localhost:{0}/k && curl -f -L localhost:{0}/k", ports[0].port());
    // The master may have been faster than the volumes; it finds them within about a second.
    eventually("the volumes are found", || {
        shell(&dir, &lines).output().is_ok_and(|output| output.status.success())
    });
    let busy = shell(&dir, &here("rebuild")).output().expect("bash is installed");
    let said = String::from_utf8_lossy(&busy.stderr).into_owned();
    assert!(said.contains("is in use by another process"), "{said}");
    run(&dir, "kill $(cat master.pid)");
    let rebuilt = wait_for("the master has stopped, and the index is made anew", || {
        let output = shell(&dir, &here("rebuild")).output().expect("bash is installed");
        output.status.success().then(|| printed(&output))
    });
    let shown = |line: &str| typed_in(&dir, &ports, line);
    check_output("rebuild", rebuilt, shown);
    for name in ["scrub", "rebalance", "verify", "export"] {
        check_output(name, run(&dir, &here(name)), shown);
    }
    assert_eq!(std::fs::read(dir.join("rescued/k")).expect("the blob is there"), b"x");
}

/// A scrub of more keys than there were; returns when it has run so long that its speed is shown.
fn begin_a_long_job(port: u16) {
    for number in 0..8 {
        let url = format!("http://localhost:{port}/videos/more/{number}");
        assert_eq!(http("PUT", &url, b"x", &[]).status, 201);
    }
    let jobs = format!("http://127.0.0.1:{}/api/jobs", port + 900);
    let begun = http("POST", &format!("{jobs}/scrub"), br#"{"rate":"0.01"}"#, &[]);
    let id = |job: &Response| serde_json::from_str::<Value>(&job.text()).expect("it is JSON")["id"].clone();
    let job = format!("{jobs}/{}", id(&begun));
    eventually("it has read a key, and a second has gone by", || {
        let job: Value = serde_json::from_str(&http("GET", &job, b"", &[]).text()).expect("it is JSON");
        job["status"]["keys"] == 1 && job["status"]["seconds"].as_f64() > Some(1.0)
    });
}

/// A block of the README with this test's directory, ports and program in it.
fn typed_in(dir: &TempDir, ports: &[PortLease], block: &str) -> String {
    let mut script = block.replace("/tmp/", &format!("{}/", dir.path().display()));
    for (number, port) in ports.iter().enumerate() {
        script = script.replace(&format!("{}", 3000 + number), &port.port().to_string());
    }
    let root = repository();
    script.replace("./volume", &format!("{}/volume", root.display())).replace(
        "./mkv",
        &format!("MKV_BIN={} {}/mkv -port {}", env!("CARGO_BIN_EXE_mkv"), root.display(), ports[0].port()),
    )
}

/// The port of the master, the three that follow it, and the admin port.
fn four_ports() -> Vec<PortLease> {
    wait_for("four ports in a row are free", || {
        let first = PortLease::new();
        let rest: Option<Vec<PortLease>> =
            [1, 2, 3, 900].into_iter().map(|step| PortLease::try_exactly(first.port() + step)).collect();
        rest.map(|rest| std::iter::once(first).chain(rest).collect())
    })
}

/// The shell block of the README behind `<!-- tested: NAME -->`.
fn block(name: &str) -> String {
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("there is a README");
    let (_, rest) =
        readme.split_once(&format!("<!-- tested: {name} -->\n```sh\n")).expect("the block is there");
    rest.split_once("```").expect("the block ends").0.to_owned()
}

/// What the README shows as the output of the block `name` is printed, line for line, but for numbers and units.
#[track_caller]
fn check_output(name: &str, printed: String, as_here: impl Fn(&str) -> String) {
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("there is a README");
    let (_, rest) = readme.split_once(&format!("<!-- tested: {name} -->")).expect("the block is there");
    let (_, rest) = rest.split_once("```\n\n```\n").expect("its output follows");
    let (output, _) = rest.split_once("\n```").expect("the output ends");
    let printed: Vec<String> = printed.lines().map(without_numbers).collect();
    for line in output.lines() {
        let expected = without_numbers(&as_here(line));
        assert!(printed.contains(&expected), "{name}: no {expected:?} in {printed:#?}");
    }
}

/// A line with `#` for each number, size, and cluster id.
fn without_numbers(line: &str) -> String {
    let word = |word: &str| {
        let is_id = word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_unit = ["B", "KiB", "MiB"].contains(&word.trim_end_matches(',').trim_end_matches("/s"));
        let mut digits = word.chars().map(|letter| if letter.is_ascii_digit() { '#' } else { letter });
        let mut masked = if is_id { "#".to_owned() } else { digits.by_ref().collect() };
        while masked.contains("##") || masked.contains("#.#") {
            masked = masked.replace("##", "#").replace("#.#", "#");
        }
        if is_unit { String::new() } else { masked.trim_end_matches(',').to_owned() }
    };
    line.split_whitespace().map(word).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Everything, errors and progress first.
fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stderr[..], &output.stdout].concat()).into_owned()
}

fn mkv(dir: &TempDir, words: &[&str]) -> Child {
    let mut command = Command::new(repository().join("mkv"));
    command
        .args(words)
        .env("MKV_BIN", env!("CARGO_BIN_EXE_mkv"))
        .current_dir(dir.path())
        .stdin(Stdio::null());
    command.spawn().expect("the script can be run")
}

fn shell(dir: &TempDir, script: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-e", "-c", script]).current_dir(dir.path()).stdin(Stdio::null());
    command
}

/// Answers what was printed.
#[track_caller]
fn run(dir: &TempDir, script: &str) -> String {
    let output = shell(dir, script).output().expect("bash is installed");
    let said = printed(&output);
    assert!(output.status.success(), "{}\n{said}\nof\n{script}", output.status);
    said
}

fn wait_until_served(port: u16) {
    eventually("the master answers", || std::net::TcpStream::connect(("localhost", port)).is_ok());
}
