//! The admin port: who may do what, and jobs that run while clients use the same keys.

use std::collections::BTreeSet;
use std::fs;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{poll, stream};
use serde_json::{Value, json};

use crate::harness::{
    Administered, Master, Mounts, PortLease, TempDir, Volume, addresses, age, entries_of, eventually,
    file_at, http, placer, volumes, wait_for, write,
};
use minikeyvalue::api::admin::ROUTES;
use minikeyvalue::index::{Ending, IndexServer, Verb, leveldb};
use minikeyvalue::model::{File, Key, Record, VolumeMode, path_of};
use minikeyvalue::store::{BodyLimits, Check, PutRequest, StoreOptions, StoreParts};
use minikeyvalue::volume::{Credentials, Health, Timeouts};

const FAST: &str = r#"{"rate":"unlimited"}"#;

/// Clients that go on writing and reading until they are told to stop; what was acknowledged.
struct Clients {
    /// Path, and the body if it has one.
    known: Mutex<Vec<(String, Vec<u8>)>>,
    stop: AtomicBool,
}

/// Also when a test fails, or its clients would go on for ever.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Clients {
    /// Runs `work` while clients use the keys `/{name}/…`: they put, overwrite, read, unlink, relink and delete. A
    /// `lenient` one is not surprised when the server dies.
    fn around(master: &Master, threads: usize, lenient: bool, work: impl FnOnce()) -> Clients {
        let clients = Clients { known: Mutex::default(), stop: AtomicBool::new(false) };
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let clients = &clients;
                scope.spawn(move || clients.work(master, thread, lenient));
            }
            let _stop = StopAtEnd(&clients.stop);
            work();
        });
        clients
    }

    fn work(&self, master: &Master, thread: usize, lenient: bool) {
        let call = |method: &str, path: &str, body: &[u8]| {
            let url = master.url(path);
            crate::harness::try_http(method, &url, body, &[]).map(|response| response.status)
        };
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let path = format!("/client/{thread}/{}", number % 40);
            let body = format!("{path} as written for the {number}th time").into_bytes();
            let begun = Instant::now();
            let status = call("REPLACE", &path, &body);
            match status {
                Ok(201 | 204) => {
                    let mut known = self.known.lock().unwrap();
                    known.retain(|(other, _)| *other != path);
                    known.push((path.clone(), body.clone()));
                }
                _ if lenient => {
                    // It may or may not have been written.
                    self.known.lock().unwrap().retain(|(other, _)| *other != path);
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                other => panic!("REPLACE {path}: {other:?}"),
            }
            if !lenient {
                assert_eq!(master.fetch(&path), (200, body), "{path}");
                assert!(begun.elapsed() < Duration::from_secs(5), "{path} took {:?}", begun.elapsed());
            }
        }
    }

    #[track_caller]
    fn check(&self, master: &Master) {
        for (path, body) in self.known.lock().unwrap().iter() {
            assert_eq!(master.fetch(path), (200, body.clone()), "{path}");
        }
    }
}

/// A master over three of five volumes that was filled, and is started over all five.
fn grown(volumes: &[Volume], keys: usize) -> (Master, Administered) {
    let mut before = Master::builder(&addresses(&volumes[..3])).start();
    (0..keys).for_each(|number| before.put(&format!("/{number}"), format!("content of {number}").as_bytes()));
    assert!(before.stop().success());
    let after = Administered::start(Master::builder(&addresses(volumes)).db(before.db()));
    (before, after)
}

fn check_plain(master: &Master, keys: usize) {
    for number in 0..keys {
        let expected = format!("content of {number}").into_bytes();
        assert_eq!(master.fetch(&format!("/{number}")), (200, expected), "/{number}");
    }
}

#[test]
fn every_route_is_described_and_answers() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    let openapi = master.json("GET", "/api/openapi.json", "");
    let mut described = BTreeSet::new();
    for (path, methods) in openapi["paths"].as_object().expect("there are paths") {
        for method in methods.as_object().expect("there are methods").keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let routes: BTreeSet<_> =
        ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(described, routes);
    for (method, path) in routes {
        let path = path.replace("{id}", "77").replace("{job}", "nosuch").replace("{volume}", "x");
        let said = master.ask(&method, &path, if method == "GET" { "" } else { "{}" });
        assert!(!said.text().contains("nothing at this path"), "{method} {path}: {}", said.text());
    }
    assert_eq!(master.ask("GET", "/nosuch", "").status, 404);
}

#[test]
fn answers_have_the_shape_that_is_described() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    master.put("/a", b"x");
    let openapi = master.json("GET", "/api/openapi.json", "");
    let check = |schema: &str, value: &Value| {
        let properties = openapi["components"]["schemas"][schema]["properties"].as_object().expect(schema);
        let described: BTreeSet<&String> = properties.keys().collect();
        let found: BTreeSet<&String> =
            value.as_object().unwrap_or_else(|| panic!("{schema}: {value}")).keys().collect();
        let required = openapi["components"]["schemas"][schema]["required"].as_array().expect(schema);
        assert!(found.is_subset(&described), "{schema}: {found:?}");
        assert!(
            required.iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
            "{schema}: {found:?}"
        );
    };
    let job = master.job("scrub", FAST);
    check("Job", &job);
    check("Status", &job["status"]);
    let status = master.json("GET", "/api/status", "");
    check("Summary", &status);
    check("Scrub", &status["last_scrub"]);
    check("Volume", &master.json("GET", "/api/volumes", "")[0]);
    check("Key", &master.json("GET", "/api/keys", "")["keys"][0]);
    check("Error", &serde_json::from_str(&master.ask("GET", "/nosuch", "").text()).unwrap());
    assert_eq!(job["state"], "done");
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    let cases = [
        ("POST", "/api/jobs/fly", "{}", 404, "no job called \"fly\""),
        ("POST", "/api/jobs/scrub", "{", 400, "EOF"),
        ("POST", "/api/jobs/scrub", "{\"rate\":\"fast\"}", 400, "is no rate"),
        ("POST", "/api/jobs/scrub", "{\"speed\":1}", 400, "unknown field `speed`"),
        ("POST", "/api/jobs/rebalance", "{\"quick\":true}", 400, "rebalance has no quick"),
        ("POST", "/api/jobs/repair", "{\"force\":true}", 400, "no force without delete_orphans"),
        ("POST", "/api/jobs/drain", "{}", 400, "drain needs a volume"),
        ("POST", "/api/jobs/drain", "{\"volume\":\"nosuch:1\"}", 404, "none of the volumes"),
        ("DELETE", "/api/jobs/7", "", 404, "there is no job 7"),
        ("PATCH", "/api/jobs/7", "{\"rate\":\"1\"}", 404, "there is no job 7"),
        ("PUT", "/api/volumes/nosuch:1", "{\"mode\":\"drain\"}", 404, "none of the volumes"),
        ("PUT", "/api/volumes/nosuch:1", "{\"mode\":\"asleep\"}", 400, "unknown variant `asleep`"),
        ("GET", "/readyz?without=nosuch:1", "", 400, "none of the volumes"),
        ("GET", "/api/keys?limit=0", "", 400, "1 to 1000"),
        ("GET", "/api/keys?limit=few", "", 400, "invalid digit"),
        ("GET", "/api/jobs/99999999999999999999", "", 404, "nothing at this path"),
    ];
    for (method, path, body, status, words) in cases {
        let said = master.ask(method, path, body);
        let error: Value = serde_json::from_str(&said.text()).expect("it is JSON");
        assert!(
            said.status == status && error["error"].as_str().expect("text").contains(words),
            "{method} {path} {body}: {} {}",
            said.status,
            said.text()
        );
    }
    let plain = Master::builder(&addresses(&volumes)).build();
    let (status, said) = plain.job(&["scrub", "--admin", &format!("127.0.0.1:{}", PortLease::new().port())]);
    assert!(!status.success() && said.contains("doesn't answer"), "{said}");
}

impl Administered {
    fn ask_with(&self, headers: &[(&str, &str)]) -> u16 {
        let url = format!("http://127.0.0.1:{}/api/jobs/scrub", self.port.port());
        http("POST", &url, b"{\"quick\":true}", headers).status
    }
}

#[test]
fn who_may_not_act_does_not() {
    let volumes = volumes(3);
    let open = Administered::start(Master::builder(&addresses(&volumes)));
    let host = format!("127.0.0.1:{}", open.port.port());
    assert_eq!(open.ask_with(&[("Origin", "http://evil.example")]), 403);
    assert_eq!(open.ask_with(&[("Origin", "null")]), 403);
    assert_eq!(open.ask_with(&[("Host", "rebound.example")]), 403);
    assert_eq!(open.ask_with(&[("Origin", &format!("http://{host}"))]), 202);
    drop(open);
    let token = Administered::start(
        Master::builder(&addresses(&volumes)).flag("adopt", "true").flag("admin-token", "secret"),
    );
    assert_eq!(token.ask_with(&[]), 401);
    for wrong in ["Bearer wrong", "Bearer secre", "Bearer secret2"] {
        assert_eq!(token.ask_with(&[("Authorization", wrong)]), 403, "{wrong}");
    }
    assert_eq!(token.ask_with(&[("Authorization", "Basic secret")]), 401);
    let url = format!("http://127.0.0.1:{}/api/jobs/scrub", token.port.port());
    for (headers, words) in [
        (&[][..], "a token is needed: Authorization: Bearer TOKEN"),
        (&[("Authorization", "Bearer wrong")][..], "this is not the token"),
        (&[("Origin", "http://evil.example")][..], "requests from pages of other sites are not answered"),
    ] {
        let said = crate::harness::try_http("POST", &url, b"{}", headers).expect("it answers").text();
        assert!(said.contains(words), "{headers:?}: {said}");
    }
    assert_eq!(token.ask_with(&[("Authorization", "Bearer secret")]), 202);
    assert_eq!(token.ask("GET", "/api/volumes", "").status, 200, "who can reach the port can read");
    assert!(!token.log().contains("secret"));
    drop(token);
    let port = PortLease::new();
    let builder = Master::builder(&addresses(&volumes)).flag("adopt", "true");
    let wide = builder.flag("admin", format!("0.0.0.0:{}", port.port())).start();
    let url = format!("http://127.0.0.1:{}/api/jobs/scrub", port.port());
    let said = wait_for("the admin port answers", || crate::harness::try_http("POST", &url, b"{}", &[]).ok());
    assert!(said.status == 403 && said.text().contains("--admin-token"), "{}", said.text());
    drop(wide);
}

#[test]
fn a_running_server_rebalances_while_clients_use_the_same_keys() {
    let volumes = volumes(5);
    let (_before, master) = grown(&volumes, 300);
    let clients = Clients::around(&master, 2, false, || {
        let job = master.job("rebalance", FAST);
        assert_eq!(job["state"], "done", "{job}");
        assert!(job["status"]["bytes"].as_u64() > Some(1000), "{job}");
        check_plain(&master, 300);
    });
    clients.check(&master);
    let unbalanced = |key: &Value| key["balanced"] == false;
    let page = master.json("GET", "/api/keys?limit=1000", "");
    assert_eq!(page["keys"].as_array().unwrap().iter().filter(|key| unbalanced(key)).count(), 0);
    eventually("the old copies are removed", || master.json("GET", "/api/status", "")["unsettled"] == 0);
    let scrub = master.job("scrub", FAST);
    assert_eq!(scrub["state"], "done", "{scrub}");
}

#[test]
fn a_running_server_repairs_while_clients_use_the_same_keys() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    (0..200).for_each(|number| master.put(&format!("/{number}"), format!("content of {number}").as_bytes()));
    let is_blob = |name: &String| !name.starts_with('=') && !name.ends_with(".meta");
    let blobs: Vec<String> = volumes[1].files().into_iter().filter(is_blob).collect();
    for (index, name) in blobs.iter().enumerate() {
        let path = volumes[1].dir().join(name);
        if index % 2 == 0 {
            fs::remove_file(path).unwrap()
        } else {
            fs::write(path, b"garbage!").unwrap()
        };
    }
    let clients = Clients::around(&master, 2, false, || {
        let scrub = master.job("scrub", FAST);
        assert_eq!(
            (&scrub["state"], &scrub["status"]["kinds"]["corrupt"]),
            (&json!("left"), &json!(100)),
            "{scrub}"
        );
        let repair = master.job("repair", FAST);
        assert_eq!(
            (&repair["state"], &repair["status"]["mended"]),
            (&json!("done"), &json!(200)),
            "{repair}"
        );
    });
    clients.check(&master);
    check_plain(&master, 200);
    assert_eq!(master.job("scrub", FAST)["state"], "done");
}

/// A drain waits only for writes that hold their keys, and this one chose its places before it had its key.
#[actix_rt::test]
async fn a_write_that_waited_for_its_key_goes_where_blobs_are_taken_by_then() {
    let (volumes, dir) = (volumes(4), TempDir::new());
    let placer = Arc::new(placer(&volumes, 3));
    let open = {
        let dir = dir.join("indexdb");
        move || leveldb::open(&dir, leveldb::Options::default())
    };
    let index = IndexServer::start(open, 0).expect("a new index");
    let (md5sum, protect, grace) = (true, false, Duration::from_secs(1));
    let options = StoreOptions { md5sum, protect, check: Check::File, grace };
    let parts = StoreParts {
        index: index.sender(),
        health: Arc::new(Health::new(&[])),
        timeouts: Timeouts::from_voltimeout(Duration::from_secs(5)),
        placer: Arc::clone(&placer),
        options: Arc::new(ArcSwap::from_pointee(options)),
        userpass: Credentials::new(None),
    };
    let store = parts.store();
    let key = Key::new(*b"/k").expect("a key");
    let put = || {
        let body = stream::once(async { Ok(Bytes::from_static(b"content")) });
        let limits = BodyLimits { no_progress: Duration::from_secs(5) };
        let (length, md5) = (Some(7), None);
        store.put(PutRequest { key: key.clone(), replace: true, length, md5, body, limits })
    };
    put().await.expect("all volumes are there");
    let held = store.index().reserve(&key, Verb::Hold).await.expect("nobody writes it");
    let mut waits = pin!(put());
    assert!(poll!(&mut waits).is_pending());
    // What the index answers now, it answers behind the writer's message.
    store.index().unsettled().await.expect("it answers");
    let gone = placer.placement(key.as_bytes())[0].volume();
    assert!(placer.set_mode(&gone, VolumeMode::Drain));
    held.release(Ending::default()).await.expect("it answers");
    waits.await.expect("three volumes are left");
    let record = store.index().locate(&key).await.expect("it answers").expect("it was written");
    assert_eq!(record.replicas, placer.placement(key.as_bytes()));
    assert!(record.replicas.iter().all(|place| place.volume() != gone), "{record}");
    index.close().await.expect("it is durable");
}

/// Clients are let in between two steps of a repair, which then has to wait for its turn again.
#[test]
fn a_repair_waits_for_a_key_that_a_client_is_writing() {
    let volumes = volumes(4);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    let paths: Vec<String> = (0..16).map(|number| format!("/{number}")).collect();
    for path in &paths {
        master.put(path, path.as_bytes());
        // A copy that the record doesn't name, as it may be the last one.
        let place = placer(&volumes, 4).placement(path.as_bytes()).pop().expect("the fourth");
        write(&file_at(&volumes, &place, path, File::Blob(None)), path.as_bytes());
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for paths in paths.chunks(2) {
            let (master, stop) = (&master, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for path in paths {
                        assert_eq!(master.call("UNLINK", path, b"").status, 204, "{path}");
                        assert_eq!(master.call("RELINK", path, b"").status, 204, "{path}");
                    }
                }
            });
        }
        for _ in 0..3 {
            let repair = master.job("repair", r#"{"quick":true,"rate":"unlimited"}"#);
            let kinds = &repair["status"]["kinds"];
            assert!(kinds["orphan"].as_u64() > Some(0) && kinds["other"].is_null(), "{repair}");
        }
    });
}

#[test]
fn a_volume_is_drained_and_takes_blobs_again() {
    let volumes = volumes(4);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    (0..100).for_each(|number| master.put(&format!("/{number}"), format!("content of {number}").as_bytes()));
    let gone = volumes[2].addr();
    let drain = json!({ "volume": gone, "rate": "unlimited" }).to_string();
    let clients = Clients::around(&master, 2, false, || {
        let job = master.job("drain", &drain);
        assert_eq!(job["state"], "done", "{job}");
    });
    clients.check(&master);
    let files = || volumes[2].files().into_iter().filter(|file| file != "=cluster").count();
    eventually("it is empty", || files() == 0);
    let refused = master.ask("PUT", &format!("/api/volumes/{}", volumes[0].addr()), r#"{"mode":"drain"}"#);
    assert!(refused.status == 409 && refused.text().contains("add one first"), "{}", refused.text());
    assert!(master.stop_and_start());
    (100..150)
        .for_each(|number| master.put(&format!("/{number}"), format!("content of {number}").as_bytes()));
    assert_eq!(files(), 0, "it is remembered");
    let view = master.json("GET", "/api/volumes", "")[2].clone();
    assert_eq!(
        (&view["volume"], &view["mode"], &view["state"]),
        (&json!(gone), &json!("drain"), &json!("up"))
    );
    assert_eq!(master.ask("GET", "/readyz", "").status, 200);
    let without = format!("/readyz?without={}", volumes[0].addr());
    assert_eq!(master.ask("GET", &without, "").status, 412);
    // The same by command line, on the running server.
    let (status, said) = master.job_words(&["undrain", &gone]);
    assert!(status && said.contains("is alive from now on"), "{said}");
    assert_eq!(master.ask("GET", &without, "").status, 200);
    let (status, said) = master.job_words(&["rebalance", "--rate", "unlimited"]);
    assert!(status, "{said}");
    assert!(files() > 50, "{}", files());
    check_plain(&master, 150);
}

#[test]
fn a_job_is_alone_can_be_slowed_down_and_stopped() {
    let volumes = volumes(3);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    (0..60).for_each(|number| master.put(&format!("/{number}"), b"x"));
    let begun = master.json("POST", "/api/jobs/scrub", r#"{"rate":"2"}"#);
    let id = begun["id"].as_u64().unwrap();
    let second = master.ask("POST", "/api/jobs/scrub", FAST);
    assert!(
        second.status == 409 && second.text().contains(&format!("job {id} does this already")),
        "{}",
        second.text()
    );
    assert_eq!(master.job("repair", FAST)["state"], "done", "another kind is another job");
    let done = |job: &Value| job["status"]["keys"].as_u64().unwrap();
    assert!(done(&master.json("GET", &format!("/api/jobs/{id}"), "")) < 50);
    let changed = master.json("PATCH", &format!("/api/jobs/{id}"), FAST);
    assert_eq!(changed["rate"], "unlimited");
    let ended = master.end_of(id);
    assert_eq!((&ended["state"], done(&ended)), (&json!("done"), 60), "{ended}");
    let slow = master.json("POST", "/api/jobs/scrub", r#"{"rate":"0.5"}"#)["id"].as_u64().unwrap();
    let stopped = Instant::now();
    assert_eq!(master.json("DELETE", &format!("/api/jobs/{slow}"), "")["state"], "stopping");
    assert_eq!(master.end_of(slow)["state"], "stopped");
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    // A server that ends doesn't wait for a slow job.
    master.json("POST", "/api/jobs/scrub", r#"{"rate":"0.5"}"#);
    let ending = Instant::now();
    assert!(master.master.stop().success());
    assert!(ending.elapsed() < Duration::from_secs(10), "{:?}", ending.elapsed());
}

#[test]
fn a_scrub_begins_by_itself_and_goes_on_after_a_restart() {
    let volumes = volumes(3);
    let builder = Master::builder(&addresses(&volumes)).flag("scrub-every", "2s");
    let mut master = Administered::start(builder);
    (0..20).for_each(|number| master.put(&format!("/{number}"), b"x"));
    let scrubbed = |master: &Administered| {
        wait_for("it was scrubbed", || {
            let last = master.json("GET", "/api/status", "")["last_scrub"].clone();
            (!last.is_null()).then_some(last)
        })
    };
    assert_eq!(scrubbed(&master)["contents"], true);
    assert!(master.master.stop().success());
    let path = master.state_file();
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let unclean = volumes[1].addr();
    state["scrub_at"] = json!({
        "begun_us": 5, "key": "/3", "unclean": [unclean], "findings": { "corrupt": 2 }, "left": 1
    });
    state["clean"] = json!({});
    state["last_scrub"] = Value::Null;
    fs::write(&path, state.to_string()).unwrap();
    master.master.start_again();
    master.wait();
    let last = scrubbed(&master);
    assert_eq!((&last["begun_us"], &last["keys"]), (&json!(5), &json!(7 - 1)), "/4 to /9 are left: {last}");
    assert_eq!((&last["left"], &last["findings"]), (&json!(1), &json!({ "corrupt": 2 })), "{last}");
    let clean = |volume: &Value| volume["clean"]["contents_us"] == 5;
    let volumes = master.json("GET", "/api/volumes", "");
    let clean: Vec<bool> = volumes.as_array().unwrap().iter().map(clean).collect();
    assert_eq!(clean, [true, false, true], "what was found before the restart counts: {volumes}");
}

/// Somebody who stops it wants the disks for something else.
#[test]
fn a_scrub_that_began_by_itself_and_was_stopped_stays_so() {
    let volumes = volumes(3);
    let builder = Master::builder(&addresses(&volumes)).flag("scrub-every", "1h");
    let mut master = Administered::start(builder);
    (0..200).for_each(|number| master.put(&format!("/{number}"), b"x"));
    assert!(master.master.stop().success());
    let path = master.state_file();
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["index"]["since_us"] = json!(5);
    fs::write(&path, state.to_string()).unwrap();
    master.master.start_again();
    master.wait();
    let running = || master.json("GET", "/api/jobs", "").as_array().unwrap().clone();
    let id = wait_for("a scrub has begun", || running().first().map(|job| job["id"].as_u64().unwrap()));
    master.json("DELETE", &format!("/api/jobs/{id}"), "");
    assert_eq!(master.end_of(id)["state"], "stopped");
    assert_eq!(master.job("scrub", FAST)["state"], "done", "one that is asked for is another thing");
    // It looks every ten seconds.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(running().len(), 2);
}

#[test]
fn the_command_line_shows_how_a_server_is() {
    let mut volumes = volumes(4);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    master.put("/a%07b", b"x");
    master.put("/c", b"x");
    assert_eq!(master.call("UNLINK", "/c", b"").status, 204);
    let down = volumes[3].addr();
    volumes[3].stop();
    eventually("it is known to be down", || master.json("GET", "/api/status", "")["volumes_up"] == 3);
    let said = |words: &[&str]| {
        let (status, said) = master.job_output(words);
        assert!(status.success(), "{words:?}: {said}");
        said
    };
    assert!(said(&["status"]).contains("3 of 4 up, 3 replicas"));
    let line = said(&["volumes"]).lines().find(|line| line.starts_with(&down)).unwrap().to_owned();
    assert!(line.contains("down") && line.contains("refused"), "{line}");
    assert_eq!(said(&["ls", "/"]), "live      /a%07b\nunlinked  /c\n");
    assert_eq!(said(&["ls", "/c"]), "unlinked  /c\n");
    let keys: Vec<Value> =
        said(&["ls", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((keys.len(), &keys[1]["state"]), (2, &json!("unlinked")));
    let (status, failed) = master.master.job(&["scrub", "--quick"]);
    assert!(
        status.code() == Some(1) && failed.contains("unreachable") || failed.contains("refused"),
        "{failed}"
    );
    assert!(said(&["jobs"]).contains("scrub"), "{}", said(&["jobs"]));
}

/// What became of the records of a stopped master, as far as their places go.
fn unbalanced(master: &Master, volumes: &[Volume]) -> usize {
    let placer = placer(volumes, 3);
    let records = entries_of(master.db()).into_iter().filter(|(key, _)| key.starts_with(b"/"));
    let away = records.filter(|(key, value)| {
        let record = Record::parse(value).expect("a record");
        record.replicas != placer.placement(Key::new(key.clone()).expect("a key").as_bytes())
    });
    away.count()
}

/// Has a running server do a job, under load, and kills it with -9 thirty times in the middle; then the job comes to its
/// end, and everything is right.
fn kills(
    mut master: Administered,
    name: &str,
    options: &str,
    mut disturb: impl FnMut(usize),
) -> Administered {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ std::process::id() as u64;
    println!("seed {random:x}");
    for round in 0..30 {
        disturb(round);
        Clients::around(&master.master, 1, true, || {
            assert_eq!(master.ask("POST", &format!("/api/jobs/{name}"), options).status, 202);
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_millis(random >> 56));
        });
        master.master.kill9();
        master.master.start_again();
        master.wait();
    }
    let done = master.job(name, options);
    assert_eq!(done["state"], "done", "{done}");
    check_plain(&master, 150);
    eventually("everything is settled", || master.json("GET", "/api/status", "")["unsettled"] == 0);
    let scrub = master.job("scrub", FAST);
    assert_eq!(scrub["state"], "done", "{scrub}");
    assert!(master.master.stop().success());
    master
}

#[test]
fn a_rebalance_that_is_killed_thirty_times_comes_to_its_end() {
    let volumes = volumes(5);
    let (_before, master) = grown(&volumes, 150);
    let master = kills(master, "rebalance", r#"{"rate":"60"}"#, |_| {});
    assert_eq!(unbalanced(&master, &volumes), 0);
}

#[test]
fn a_drain_that_is_killed_thirty_times_comes_to_its_end() {
    let volumes = volumes(4);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    (0..150).for_each(|number| master.put(&format!("/{number}"), format!("content of {number}").as_bytes()));
    let drain = json!({ "volume": volumes[0].addr(), "rate": "60" }).to_string();
    kills(master, "drain", &drain, |_| {});
    assert_eq!(volumes[0].files().into_iter().filter(|file| file != "=cluster").count(), 0);
}

#[test]
fn a_scrub_that_is_killed_thirty_times_comes_to_its_end() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    (0..150).for_each(|number| master.put(&format!("/{number}"), format!("content of {number}").as_bytes()));
    kills(master, "scrub", r#"{"rate":"200"}"#, |_| {});
}

#[test]
fn a_repair_that_is_killed_thirty_times_comes_to_its_end() {
    let volumes = volumes(3);
    let master = Administered::start(Master::builder(&addresses(&volumes)));
    (0..150).for_each(|number| master.put(&format!("/{number}"), format!("content of {number}").as_bytes()));
    let is_plain = |name: &String| !name.starts_with('=') && !name.contains('.');
    let names: Vec<String> = volumes[0].files().into_iter().filter(is_plain).collect();
    let orphan = |number: usize| {
        let key = Key::new(format!("/orphan/{number}")).expect("a key");
        volumes[1].dir().join(&path_of(&key, File::Blob(None))[1..])
    };
    let options = r#"{"rate":"500","delete_orphans":true,"force":true}"#;
    kills(master, "repair", options, |round| {
        for name in names.iter().skip(5 * round).take(5) {
            fs::write(volumes[0].dir().join(name), b"garbage").unwrap();
        }
        for path in (5 * round..5 * round + 5).map(orphan) {
            write(&path, b"nobody's");
            age(&path, Duration::from_secs(3 * 24 * 60 * 60));
        }
    });
    assert_eq!((0..150).filter(|number| orphan(*number).exists()).count(), 0);
}

/// When a volume that went away in the middle of a job comes back.
#[derive(Clone, Copy, PartialEq)]
enum Back {
    AfterTheJob,
    DuringTheJob,
    /// While a scrub or a repair looks up what lies on the volumes.
    DuringItsWalk,
}

/// What a volume that is away misses, and comes back with: versions that are overwritten and keys that are deleted.
fn change_meanwhile(master: &Master) {
    for number in 0..20 {
        let body = format!("another content of {number}").into_bytes();
        assert_eq!(master.call("REPLACE", &format!("/{number}"), &body).status, 204, "/{number}");
    }
    for number in 60..70 {
        assert!([204, 503].contains(&master.call("DELETE", &format!("/{number}"), b"").status), "/{number}");
    }
}

#[track_caller]
fn check_changed(master: &Master) {
    for number in 0..70 {
        let expected = match number {
            0..20 => (200, format!("another content of {number}").into_bytes()),
            20..60 => (200, format!("content of {number}").into_bytes()),
            _ => (404, Vec::new()),
        };
        assert_eq!(master.fetch(&format!("/{number}")), expected, "/{number}");
    }
}

/// Has each job run while a volume goes away and comes back with what it had: the job says what is left, and the next one
/// has nothing left.
fn disturbed(jobs: &[&str], when: Back, away: fn(&mut Volume), back: fn(&mut Volume)) {
    for name in jobs.iter().copied() {
        let mut volumes = volumes(5);
        let (_before, master) = grown(&volumes, 70);
        if name != "rebalance" {
            assert_eq!(master.job("rebalance", FAST)["state"], "done");
        }
        let options = match name {
            "drain" => json!({ "volume": volumes[0].addr(), "rate": "40" }),
            _ => json!({ "rate": "40" }),
        };
        let id =
            master.json("POST", &format!("/api/jobs/{name}"), &options.to_string())["id"].as_u64().unwrap();
        let job = || master.json("GET", &format!("/api/jobs/{id}"), "");
        let set_rate = |rate: &str| {
            let rate = json!({ "rate": rate }).to_string();
            master.json("PATCH", &format!("/api/jobs/{id}"), &rate);
        };
        let done = || job()["status"]["done"].as_u64().unwrap();
        match when {
            Back::DuringItsWalk => eventually("the job walks over the volumes", || {
                job()["status"]["phase"] == "looking up what lies on the volumes" && done() >= 5
            }),
            _ => eventually("the job is in the middle", || done() >= 10),
        }
        if when != Back::AfterTheJob {
            // It goes on while the volume is away, and is not done before it is back.
            set_rate("1");
        }
        away(&mut volumes[4]);
        let is_up = |count: u64| master.json("GET", "/api/status", "")["volumes_up"] == count;
        eventually("the volume is known to be down", || is_up(4));
        change_meanwhile(&master);
        if when != Back::AfterTheJob {
            let before = done();
            eventually("the job goes on meanwhile", || done() > before);
            back(&mut volumes[4]);
            eventually("the volume is used again", || is_up(5));
            let running = job();
            assert!(running["ended_us"].is_null(), "{name}: {running}");
            set_rate("unlimited");
        }
        // What was asked of it when it went away is waited for: three times ten seconds at most.
        let mut ended = job();
        for _ in 0..450 {
            if !ended["ended_us"].is_null() {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
            ended = job();
        }
        assert!(["left", "done"].contains(&ended["state"].as_str().unwrap()), "{name}: {ended}");
        check_changed(&master);
        if when == Back::AfterTheJob {
            back(&mut volumes[4]);
            eventually("the volume is used again", || is_up(5));
        }
        let fast = match name {
            "drain" => json!({ "volume": volumes[0].addr(), "rate": "unlimited" }).to_string(),
            _ => FAST.to_owned(),
        };
        if name != "scrub" {
            eventually("nothing is left", || master.job(name, &fast)["state"] == "done");
        }
        eventually("what it missed is done", || master.json("GET", "/api/status", "")["unsettled"] == 0);
        check_changed(&master);
        let repair = master.job("repair", FAST);
        assert_eq!(
            (&repair["state"], &repair["status"]["kinds"]["missing"]),
            (&json!("done"), &Value::Null),
            "{name}: {repair}"
        );
        let scrub = master.job("scrub", FAST);
        assert_eq!(
            (&scrub["state"], &scrub["status"]["problems"]),
            (&json!("done"), &json!(0)),
            "{name}: {scrub}"
        );
        check_changed(&master);
    }
}

fn die(volume: &mut Volume) {
    volume.kill9();
}

fn hang(volume: &mut Volume) {
    volume.pause();
}

fn wake(volume: &mut Volume) {
    volume.resume();
}

#[test]
fn a_volume_dies_in_the_middle_of_a_rebalance_or_scrub_and_comes_back() {
    disturbed(&["rebalance", "scrub"], Back::AfterTheJob, die, Volume::start_again);
}

#[test]
fn a_volume_dies_in_the_middle_of_a_repair_or_drain_and_comes_back() {
    disturbed(&["repair", "drain"], Back::AfterTheJob, die, Volume::start_again);
}

#[test]
fn a_volume_hangs_in_the_middle_of_a_rebalance_or_scrub_and_wakes() {
    disturbed(&["rebalance", "scrub"], Back::AfterTheJob, hang, wake);
}

#[test]
fn a_volume_hangs_in_the_middle_of_a_repair_or_drain_and_wakes() {
    disturbed(&["repair", "drain"], Back::AfterTheJob, hang, wake);
}

#[test]
fn a_volume_comes_back_with_old_files_in_the_middle_of_a_rebalance_or_scrub() {
    disturbed(&["rebalance", "scrub"], Back::DuringTheJob, die, Volume::start_again);
}

#[test]
fn a_volume_comes_back_with_old_files_in_the_middle_of_a_repair_or_drain() {
    disturbed(&["repair", "drain"], Back::DuringTheJob, die, Volume::start_again);
}

#[test]
fn a_volume_wakes_with_old_files_in_the_middle_of_a_rebalance_or_scrub() {
    disturbed(&["rebalance", "scrub"], Back::DuringTheJob, hang, wake);
}

#[test]
fn a_volume_wakes_with_old_files_in_the_middle_of_a_repair_or_drain() {
    disturbed(&["repair", "drain"], Back::DuringTheJob, hang, wake);
}

#[test]
fn a_volume_comes_back_with_old_files_while_a_scrub_or_repair_looks_them_up() {
    disturbed(&["scrub", "repair"], Back::DuringItsWalk, die, Volume::start_again);
}

/// Has a job run while a volume fills up: the job says what it could not do, nothing is lost, and with room again the next
/// one has nothing left.
fn filled(name: &str) {
    let (dir, mut mounts) = (TempDir::new(), Mounts::new());
    mounts.tmpfs(&dir.join("small"), "4m");
    let mut volumes = volumes(4);
    volumes.push(Volume::builder().dir(dir.join("small")).among(&mounts).start());
    let (_before, master) = grown(&volumes, 60);
    if name != "rebalance" {
        assert_eq!(master.job("rebalance", FAST)["state"], "done");
    }
    let is_blob = |name: &String| !name.starts_with('=') && !name.contains('.');
    if name == "repair" {
        let blobs: Vec<String> = volumes[4].files().into_iter().filter(is_blob).collect();
        blobs.iter().for_each(|name| fs::remove_file(volumes[4].dir().join(name)).unwrap());
    }
    let options = |rate: &str| match name {
        "drain" => json!({ "volume": volumes[0].addr(), "rate": rate }).to_string(),
        _ => json!({ "rate": rate }).to_string(),
    };
    let id = master.json("POST", &format!("/api/jobs/{name}"), &options("40"))["id"].as_u64().unwrap();
    let done = |job: &Value| job["status"]["done"].as_u64().unwrap();
    eventually("the job is in the middle", || {
        done(&master.json("GET", &format!("/api/jobs/{id}"), "")) >= 10
    });
    let filler = volumes[4].dir().join("filler");
    assert!(fs::write(&filler, vec![1; 8 << 20]).is_err(), "the volume has room for that");
    for number in 60..70 {
        master.put(&format!("/{number}"), format!("content of {number}").as_bytes());
    }
    let ended = master.end_of(id);
    if name == "scrub" {
        assert_eq!((&ended["state"], &ended["status"]["problems"]), (&json!("done"), &json!(0)), "{ended}");
    } else {
        let is_told = |finding: &Value| {
            finding["what"].as_str().is_some_and(|what| what.contains("500"))
                || finding["kind"] == "under-replicated"
                || finding["what"].as_str().is_some_and(|what| what.contains("still on it"))
        };
        let findings = ended["status"]["findings"].as_array().unwrap();
        assert!(ended["state"] == "left" && findings.iter().any(is_told), "{name}: {ended}");
    }
    check_plain(&master, 70);
    fs::remove_file(&filler).unwrap();
    if name != "scrub" {
        eventually("nothing is left", || master.job(name, &options("unlimited"))["state"] == "done");
    }
    assert_eq!(master.job("rebalance", FAST)["state"], "done");
    eventually("old copies are removed", || master.json("GET", "/api/status", "")["unsettled"] == 0);
    check_plain(&master, 70);
    let scrub = master.job("scrub", FAST);
    assert_eq!((&scrub["state"], &scrub["status"]["problems"]), (&json!("done"), &json!(0)), "{scrub}");
}

#[test]
fn a_volume_fills_up_in_the_middle_of_a_rebalance() {
    filled("rebalance");
}

#[test]
fn a_volume_fills_up_in_the_middle_of_a_scrub() {
    filled("scrub");
}

#[test]
fn a_volume_fills_up_in_the_middle_of_a_repair() {
    filled("repair");
}

#[test]
fn a_volume_fills_up_in_the_middle_of_a_drain() {
    filled("drain");
}
