//! What `/metrics` tells, scraped from a real server over real volumes.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::harness::{
    Administered, Master, Volume, addresses, eventually, http, placer, repository, volumes, wait_for,
};

/// Every figure and its type, as alerts and dashboards rely on them.
const FIGURES: [(&str, &str); 34] = [
    ("mkv_build_info", "gauge"),
    ("mkv_index_batch_changes", "histogram"),
    ("mkv_index_lookups_total", "counter"),
    ("mkv_index_mailbox_depth", "gauge"),
    ("mkv_index_stall_duration_seconds", "histogram"),
    ("mkv_index_sync_duration_seconds", "histogram"),
    ("mkv_job_left", "gauge"),
    ("mkv_jobs_ended_total", "counter"),
    ("mkv_jobs_running", "gauge"),
    ("mkv_keys", "gauge"),
    ("mkv_last_scrub_timestamp_seconds", "gauge"),
    ("mkv_received_bytes_total", "counter"),
    ("mkv_replicas_wanted", "gauge"),
    ("mkv_request_duration_seconds", "histogram"),
    ("mkv_requests_in_flight", "gauge"),
    ("mkv_requests_total", "counter"),
    ("mkv_scrub_findings", "gauge"),
    ("mkv_sent_bytes_total", "counter"),
    ("mkv_spilled_writes_total", "counter"),
    ("mkv_volume_errors_total", "counter"),
    ("mkv_volume_mode", "gauge"),
    ("mkv_volume_probe_duration_seconds", "gauge"),
    ("mkv_volume_sent_bytes_total", "counter"),
    ("mkv_volume_up", "gauge"),
    ("mkv_volume_used_bytes", "gauge"),
    ("mkv_waiting_removals", "gauge"),
    ("process_cpu_seconds_total", "counter"),
    ("process_max_fds", "gauge"),
    ("process_open_fds", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_start_time_seconds", "gauge"),
    ("process_threads", "gauge"),
    ("process_virtual_memory_bytes", "gauge"),
    ("process_virtual_memory_max_bytes", "gauge"),
];

/// One answer, read as strictly as the format is described.
struct Scrape {
    types: BTreeMap<String, String>,
    /// By name and labels as they stand there, labels in order: `name{a="b",c="d"}`.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(master: &Administered) -> Scrape {
        let response = master.ask("GET", "/metrics", "");
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Scrape::parse(&response.text())
    }

    /// Families of `# HELP`, `# TYPE` and samples; every family once, no sample without one.
    fn parse(text: &str) -> Scrape {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut scrape = Scrape { types: BTreeMap::new(), samples: BTreeMap::new() };
        let (mut helped, mut family) = (String::new(), String::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] => {
                    assert!(!help.trim().is_empty() && !scrape.types.contains_key(name), "{line}");
                    helped = name.to_owned();
                }
                ["#", "TYPE", name, kind] => {
                    assert_eq!(helped, name, "its HELP stands before it");
                    assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                    assert!(scrape.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
                    family = name.to_owned();
                }
                _ => scrape.sample(line, &family),
            }
        }
        scrape.check_histograms();
        scrape
    }

    fn sample(&mut self, line: &str, family: &str) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let (bare, labels) = match name.split_once('{') {
            Some((bare, rest)) => (bare, labels(rest)),
            None => (name, Vec::new()),
        };
        let endings: &[&str] = match self.types.get(family).map(String::as_str) {
            Some("histogram") => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(endings.iter().any(|ending| bare == format!("{family}{ending}")), "{line} in {family}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let is_new = self.samples.insert(named(bare, &labels), value).is_none();
        assert!(is_new, "twice: {line}");
    }

    /// Buckets only grow, and the last one has everything.
    fn check_histograms(&self) {
        let mut buckets = BTreeMap::<String, Vec<(f64, f64)>>::new();
        for (name, count) in &self.samples {
            let Some((bare, rest)) = name.split_once("_bucket{") else { continue };
            let (bounds, others): (Vec<_>, Vec<_>) =
                labels(rest).into_iter().partition(|(label, _)| label == "le");
            let bound = bounds[0].1.replace("+Inf", "inf").parse().expect("a bound is a number");
            buckets.entry(named(&format!("{bare}_count"), &others)).or_default().push((bound, *count));
        }
        assert!(!buckets.is_empty());
        for (name, mut buckets) in buckets {
            buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{name}: {buckets:?}");
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, self.get(&name))), "{name}");
        }
    }

    /// The value of a sample that must be there.
    #[track_caller]
    fn get(&self, name: &str) -> f64 {
        *self.samples.get(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    fn find(&self, name: &str) -> Option<f64> {
        self.samples.get(name).copied()
    }

    /// Requests that were answered, by method and status.
    fn requests(&self) -> Vec<(&str, f64)> {
        let counted = self.samples.iter();
        counted.filter_map(|(name, value)| Some((name.strip_prefix("mkv_requests_total")?, *value))).collect()
    }

    /// Over all volumes.
    fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|(full, _)| full.starts_with(&format!("{name}{{"))).map(|(_, v)| v).sum()
    }

    /// Live and unlinked keys, once they are counted.
    fn keys(&self) -> Option<(f64, f64)> {
        Some((self.find(r#"mkv_keys{state="live"}"#)?, self.find(r#"mkv_keys{state="unlinked"}"#)?))
    }
}

/// The labels of `a="b",c="d"}`, unescaped, by name.
fn labels(text: &str) -> Vec<(String, String)> {
    let mut rest = text;
    let mut labels = Vec::new();
    loop {
        let (name, behind) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {rest}"));
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name}");
        let (mut value, mut letters) = (String::new(), behind.chars());
        loop {
            match letters.next().unwrap_or_else(|| panic!("a label has no end: {rest}")) {
                '"' => break,
                '\\' => value.push(match letters.next() {
                    Some('n') => '\n',
                    Some(letter @ ('\\' | '"')) => letter,
                    other => panic!("no escape: {other:?}"),
                }),
                letter => value.push(letter),
            }
        }
        labels.push((name.to_owned(), value));
        match letters.as_str().split_at(1) {
            (",", more) => rest = more,
            ("}", "") => break,
            _ => panic!("no labels: {text}"),
        }
    }
    labels.sort();
    labels
}

fn named(bare: &str, labels: &[(String, String)]) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    if labels.is_empty() { bare.to_owned() } else { format!("{bare}{{{}}}", labels.join(",")) }
}

fn of_volume(name: &str, volume: &Volume) -> String {
    format!("{name}{{volume={:?}}}", volume.addr())
}

#[test]
fn every_figure_is_there_with_its_meaning_and_tells_no_secret() {
    let volumes = volumes(3);
    let builder = Master::builder(&addresses(&volumes)).flag("userpass", "tester:pass-word-1");
    let master = Administered::start(builder.flag("admin-token", "token-word-2"));
    master.put("/key-word-3", b"body-word-4");
    assert_eq!(master.call("GET", "/key-word-3", b"").status, 302);
    let begin = http(
        "POST",
        &format!("http://127.0.0.1:{}/api/jobs/scrub", master.port.port()),
        b"{}",
        &[("Authorization", "Bearer token-word-2")],
    );
    assert_eq!(begin.status, 202, "{}", begin.text());
    master.end_of(1);
    wait_for("the keys are counted", || Scrape::of(&master).keys());

    let text = master.ask("GET", "/metrics", "").text();
    let found = Scrape::parse(&text).types;
    let expected: BTreeMap<String, String> =
        FIGURES.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect();
    assert_eq!(found, expected);
    for secret in ["tester", "pass-word-1", "token-word-2", "key-word-3", "body-word-4"] {
        assert!(!text.contains(secret), "{secret} is told");
    }
    check_with_promtool(&text);
}

/// Prometheus' own opinion.
fn check_with_promtool(text: &str) {
    let mut command = Command::new(repository().join("tests/deploy/promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the script is there");
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn what_clients_do_is_counted_exactly() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    let before = Scrape::of(&master);
    assert_eq!(before.requests(), []);
    let large = vec![7; 200_000];
    let calls: [(&str, &str, &[u8], u16); 12] = [
        ("PUT", "/a", b"hello", 201),
        ("PUT", "/large", &large, 201),
        ("PUT", "/a", b"again", 403),
        ("GET", "/a", b"", 302),
        ("GET", "/none", b"", 404),
        ("GET", "/none", b"", 404),
        ("HEAD", "/none", b"", 404),
        ("REPLACE", "/large", b"small", 204),
        ("UNLINK", "/a", b"", 204),
        ("RELINK", "/a", b"", 204),
        ("BREW", "/a", b"", 405),
        ("POST", "/a", b"", 405),
    ];
    let mut sent = 0;
    for (method, path, body, status) in calls {
        let response = master.call(method, path, body);
        assert_eq!(response.status, status, "{method} {path}: {}", response.text());
        sent += response.body.len();
        if path == "/large" && method == "PUT" {
            let now = Scrape::of(&master);
            let name = "mkv_volume_sent_bytes_total";
            assert_eq!(now.sum(name) - before.sum(name), 3.0 * 200_005.0, "to three volumes");
        }
    }
    let list = master.call("GET", "/?list", b"");
    sent += list.text().len();
    let after = Scrape::of(&master);
    let expected = [
        (r#"{method="GET",status="200"}"#, 1.0),
        (r#"{method="GET",status="302"}"#, 1.0),
        (r#"{method="GET",status="404"}"#, 2.0),
        (r#"{method="HEAD",status="404"}"#, 1.0),
        (r#"{method="POST",status="405"}"#, 1.0),
        (r#"{method="PUT",status="201"}"#, 2.0),
        (r#"{method="PUT",status="403"}"#, 1.0),
        (r#"{method="RELINK",status="204"}"#, 1.0),
        (r#"{method="REPLACE",status="204"}"#, 1.0),
        (r#"{method="UNLINK",status="204"}"#, 1.0),
        (r#"{method="other",status="405"}"#, 1.0),
    ];
    assert_eq!(after.requests(), expected);
    assert_eq!(after.get(r#"mkv_request_duration_seconds_count{method="GET"}"#), 4.0);
    assert_eq!(after.get("mkv_received_bytes_total"), 200_015.0);
    assert_eq!(after.get("mkv_sent_bytes_total"), sent as f64);
    assert_eq!(after.get("mkv_requests_in_flight"), 0.0);
    // Each of PUT, REPLACE, UNLINK and RELINK writes twice at least, and looks its key up.
    assert!(after.get("mkv_index_batch_changes_count") >= 10.0);
    assert_eq!(
        after.get("mkv_index_batch_changes_count"),
        after.get("mkv_index_sync_duration_seconds_count")
    );
    assert!(after.get("mkv_index_lookups_total") >= 9.0);
    assert_eq!(after.get("mkv_spilled_writes_total"), 0.0);
    assert_eq!(after.get("mkv_replicas_wanted"), 3.0);
    assert_eq!(after.get(&format!("mkv_build_info{{version={:?}}}", env!("CARGO_PKG_VERSION"))), 1.0);
}

#[test]
fn a_request_is_in_flight_until_its_client_goes_away() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    let mut client = TcpStream::connect(master.addr()).expect("it listens");
    client.write_all(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhello").expect("it reads");
    eventually("it is begun", || Scrape::of(&master).get("mkv_requests_in_flight") == 1.0);
    drop(client);
    eventually("it is over", || Scrape::of(&master).get("mkv_requests_in_flight") == 0.0);
    assert_eq!(Scrape::of(&master).get("mkv_received_bytes_total"), 5.0);
    assert_eq!(master.call("GET", "/a", b"").status, 404);
}

#[test]
fn keys_are_counted_by_state_and_again_after_a_restart() {
    let volumes = volumes(3);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    assert_eq!(wait_for("nothing is counted", || Scrape::of(&master).keys()), (0.0, 0.0));
    let check = |master: &Administered, method: &str, path: &str, live: f64, unlinked: f64| {
        let status = master.call(method, path, if method == "DELETE" { b"" } else { b"x" }).status;
        assert!((200..300).contains(&status), "{method} {path}: {status}");
        assert_eq!(Scrape::of(master).keys(), Some((live, unlinked)), "{method} {path}");
    };
    check(&master, "PUT", "/a", 1.0, 0.0);
    check(&master, "PUT", "/b", 2.0, 0.0);
    check(&master, "REPLACE", "/b", 2.0, 0.0);
    check(&master, "UNLINK", "/b", 1.0, 1.0);
    check(&master, "PUT", "/b", 2.0, 0.0);
    check(&master, "UNLINK", "/a", 1.0, 1.0);
    check(&master, "PUT", "/c", 2.0, 1.0);
    assert!(master.stop_and_start());
    assert_eq!(wait_for("they are counted", || Scrape::of(&master).keys()), (2.0, 1.0));
    check(&master, "RELINK", "/a", 3.0, 0.0);
    check(&master, "UNLINK", "/a", 2.0, 1.0);
    check(&master, "DELETE", "/a", 2.0, 0.0);
    check(&master, "DELETE", "/c", 1.0, 0.0);
    assert_eq!((master.list("/?list"), master.list("/?unlinked")), (vec!["/b".to_owned()], Vec::new()));
}

#[test]
fn a_volume_that_is_down_is_told_with_its_errors_and_what_went_elsewhere() {
    let mut volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)).flag("replicas", "2"));
    let healthy = Scrape::of(&master);
    for volume in &volumes {
        assert_eq!(healthy.get(&of_volume("mkv_volume_up", volume)), 1.0);
        assert_eq!(healthy.get(&of_volume("mkv_volume_errors_total", volume)), 0.0);
        assert!(healthy.get(&of_volume("mkv_volume_probe_duration_seconds", volume)) > 0.0);
    }
    volumes[0].kill9();
    let down = of_volume("mkv_volume_up", &volumes[0]);
    eventually("it is seen to be down", || Scrape::of(&master).get(&down) == 0.0);
    let placer = placer(&volumes, 2);
    let mut elsewhere = 0;
    for number in 0..12 {
        let path = format!("/{number}");
        master.put(&path, b"x");
        let home = placer.placement(path.as_bytes());
        elsewhere += usize::from(home.iter().any(|place| place.as_str().starts_with(&volumes[0].addr())));
    }
    assert!((1..12).contains(&elsewhere), "{elsewhere}");
    let name = format!("/api/volumes/{}", volumes[1].addr());
    master.json("PUT", &name, r#"{"mode":"readonly"}"#);
    let now = Scrape::of(&master);
    assert_eq!(now.get("mkv_spilled_writes_total"), elsewhere as f64);
    assert!(now.get(&of_volume("mkv_volume_errors_total", &volumes[0])) > 0.0);
    for volume in &volumes[1..] {
        assert_eq!(now.get(&of_volume("mkv_volume_up", volume)), 1.0);
        assert_eq!(now.get(&of_volume("mkv_volume_errors_total", volume)), 0.0);
    }
    for (volume, mode) in [(0, "alive"), (1, "readonly"), (2, "alive")] {
        for other in ["alive", "readonly", "drain", "down"] {
            let name = format!("mkv_volume_mode{{mode={other:?},volume={:?}}}", volumes[volume].addr());
            assert_eq!(now.get(&name) == 1.0, other == mode, "{name}");
        }
    }
}

#[test]
fn a_scrub_leaves_its_findings_and_how_much_lies_on_each_volume() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    master.put("/a", b"hello");
    master.put("/b", &[1; 1000]);
    let before = Scrape::of(&master);
    assert_eq!(before.get("mkv_last_scrub_timestamp_seconds"), 0.0);
    assert_eq!(before.find(&of_volume("mkv_volume_used_bytes", &volumes[0])), None);
    assert!(master.json("GET", "/api/volumes", "")[0]["used"].is_null());

    let job = master.job("scrub", r#"{"rate":"unlimited"}"#);
    assert_eq!(job["state"], "done");
    let now = Scrape::of(&master);
    assert_eq!(now.get(r#"mkv_jobs_ended_total{kind="scrub",outcome="done"}"#), 1.0);
    assert_eq!(now.sum("mkv_scrub_findings"), 0.0);
    assert_eq!(now.sum("mkv_jobs_running"), 0.0);
    let ended_us = job["ended_us"].as_f64().expect("it has ended");
    let told = now.get("mkv_last_scrub_timestamp_seconds");
    assert!((told - ended_us / 1e6).abs() < 5.0, "{told} is not {ended_us} µs");
    let views = master.json("GET", "/api/volumes", "");
    for (volume, view) in volumes.iter().zip(views.as_array().expect("a list")) {
        assert_eq!(now.get(&of_volume("mkv_volume_used_bytes", volume)), 1005.0);
        assert_eq!(view["used"]["bytes"], 1005);
        assert!(view["used"]["at_us"].as_f64().expect("a time") >= ended_us - 5e6);
    }

    let file = volumes[1].files().into_iter().find(|file| file.ends_with("L2E=")).expect("it has /a");
    std::fs::remove_file(volumes[1].dir().join(file)).expect("it is there");
    assert_eq!(master.job("scrub", r#"{"rate":"unlimited"}"#)["state"], "left");
    let now = Scrape::of(&master);
    assert_eq!(now.get(r#"mkv_jobs_ended_total{kind="scrub",outcome="left"}"#), 1.0);
    assert_eq!(now.get(r#"mkv_scrub_findings{kind="under-replicated"}"#), 1.0);
    assert_eq!(now.sum("mkv_scrub_findings"), 1.0);
    assert_eq!(now.get(&of_volume("mkv_volume_used_bytes", &volumes[1])), 1000.0);
}

/// What is wanted of a release build; this one stays below it as well.
const IDLE_MIB: f64 = 30.0;

#[test]
fn an_idle_master_with_forty_volumes_stays_small() {
    let nginx = Volume::start();
    let names: Vec<String> = (0..40).map(|number| format!("{}/v{number}", nginx.addr())).collect();
    let master = Administered::start(Master::builder(&names.join(",")));
    let up = || Scrape::of(&master).sum("mkv_volume_up");
    eventually("all are up", || up() == 40.0);
    for _ in 0..200 {
        assert_eq!(up(), 40.0);
    }
    let mib = Scrape::of(&master).get("process_resident_memory_bytes") / f64::from(1 << 20);
    assert!(mib < IDLE_MIB, "{mib} MiB");
}
