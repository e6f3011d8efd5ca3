//! Blobs copied out of volumes, running or not, with neither master nor index: every one that is whole somewhere, under a
//! name that tells its key, and nothing written anywhere else.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::harness::{
    Cluster, GoCluster, TempDir, Volume, addresses, eventually, files_below, numbered, repository, wait_for,
};

/// `mkv export` with its exit code and everything it said.
fn export(volumes: &str, words: &[&str]) -> (Option<i32>, String) {
    let output = command(&[], volumes, words).output().expect("the program can be run");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn command(prefix: &[&str], volumes: &str, words: &[&str]) -> Command {
    let mut all = prefix.iter().chain(&[env!("CARGO_BIN_EXE_mkv")]);
    let mut command = Command::new(all.next().expect("at least the program"));
    command.args(all).args(["-voltimeout", "500ms", "-volumes", volumes, "export"]).args(words);
    command.stdin(Stdio::null());
    command
}

#[track_caller]
fn exported(volumes: &str, words: &[&str]) -> String {
    let (code, said) = export(volumes, words);
    assert_eq!(code, Some(0), "{said}");
    said
}

fn directories(volumes: &[Volume]) -> String {
    volumes.iter().map(|volume| volume.dir().display().to_string()).collect::<Vec<_>>().join(",")
}

fn as_text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}

/// What lies in `dir`, by the key that its name tells.
fn blobs_in(dir: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let files = files_below(dir).into_iter();
    files.map(|file| (key_of(&file), fs::read(dir.join(&file)).expect("it can be read"))).collect()
}

/// The rules of docs/operations.md, backwards.
fn key_of(file: &str) -> Vec<u8> {
    if let Some(rest) = file.strip_prefix("%base64/") {
        return URL_SAFE_NO_PAD.decode(rest.replace("~/", "")).expect("it is base64url");
    }
    let parts = file.split('/').map(|part| part.strip_suffix("%=").unwrap_or(part));
    let parts: Vec<&str> = parts.map(|part| if part == "%" { "" } else { part }).collect();
    percent_decoded(&format!("/{}", parts.join("/").replace("%+/", "")))
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or("").as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap_or_else(|err| panic!("{text}: {err}")));
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes
}

/// Keys that are no paths, or not together, percent-encoded.
fn awkward() -> Vec<String> {
    let mut keys: Vec<String> = [
        "/%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/%2e%2e",
        "/.",
        "/./.",
        "//",
        "//etc/passwd",
        "/a//b",
        "/a/",
        "/a",
        "/a/b",
        "/a/b/c",
        "/%00%01%ff%fe",
        "/%25tmp/x",
        "/%25base64/x",
        "/%252E%2B%25",
        "/-rf%20*%0a%1b%5b31m",
        "/%3F%3F%3F/%3F%3F%3F",
        "/%FF%FF%FF%FF%FF",
    ]
    .map(String::from)
    .to_vec();
    keys.push(format!("/{}", "x".repeat(251)));
    keys.push(format!("/{}%2e%2e", "x".repeat(250)));
    keys.push(format!("/{}", "%E6%97%A5".repeat(200)));
    keys.push(format!("/{}", "%00".repeat(2047)));
    keys.push("/".repeat(2048));
    keys
}

#[test]
fn directories_and_servers_give_every_live_blob_and_no_other() {
    let mut cluster = Cluster::of(4, |master| master);
    let call = |method: &str, path: &str, body: &[u8]| {
        let response = cluster.master.call(method, path, body);
        assert!([201, 204].contains(&response.status), "{method} {path}: {}", response.text());
    };
    let mut expected = BTreeMap::new();
    for (number, key) in awkward().iter().enumerate() {
        call("PUT", key, key.as_bytes());
        let mut body = key.clone().into_bytes();
        if number % 3 == 1 {
            body = b"another".to_vec();
            call("REPLACE", key, &body);
        }
        expected.insert(percent_decoded(key), body);
    }
    for number in 0..100 {
        let (key, body) = (format!("/plain/{number}"), format!("{number}").into_bytes());
        call("PUT", &key, &body);
        expected.insert(key.into_bytes(), body);
    }
    let mut unlinked = BTreeMap::new();
    for number in 0..5 {
        let key = |kind: &str| format!("/{kind}/{number}");
        ["unlinked", "deleted", "relinked"].iter().for_each(|kind| call("PUT", &key(kind), b"first"));
        call("UNLINK", &key("unlinked"), b"");
        unlinked.insert(key("unlinked").into_bytes(), b"first".to_vec());
        call("DELETE", &key("deleted"), b"");
        call("UNLINK", &key("relinked"), b"");
        call("RELINK", &key("relinked"), b"");
        expected.insert(key("relinked").into_bytes(), b"first".to_vec());
    }
    cluster.master.kill9();
    without_subvolumes(&cluster.volumes, "/plain/7");
    let (dir, servers) = (TempDir::new(), addresses(&cluster.volumes));
    let target = |name: &str| dir.join(name).display().to_string();
    let said = exported(&servers, &["/", &target("served")]);
    assert!(said.contains(&format!("{} blobs were written", expected.len())), "{said}");
    assert!(said.contains("5 unlinked keys were left out; --unlinked"), "{said}");
    assert_eq!(blobs_in(&dir.join("served")), expected);

    let mixed = format!("{},{}", cluster.volumes[0].addr(), directories(&cluster.volumes[1..]));
    exported(&mixed, &["-q", "/", &target("mixed")]);
    assert_eq!(blobs_in(&dir.join("mixed")), expected);
    cluster.volumes.iter_mut().for_each(stop);
    let before: Vec<_> = cluster.volumes.iter().map(|volume| volume.files()).collect();
    let stopped = directories(&cluster.volumes);
    assert_eq!(exported(&stopped, &["-q", "/", &target("stopped")]), "");
    assert_eq!(blobs_in(&dir.join("stopped")), expected);
    assert_eq!(before, cluster.volumes.iter().map(|volume| volume.files()).collect::<Vec<_>>());

    exported(&stopped, &["/plain/%31", &target("some")]);
    let some = |key: &[u8]| key.starts_with(b"/plain/1");
    let expected_some: BTreeMap<_, _> = expected.clone().into_iter().filter(|(key, _)| some(key)).collect();
    assert_eq!((blobs_in(&dir.join("some")), expected_some.len()), (expected_some, 11));

    expected.append(&mut unlinked);
    exported(&stopped, &["/", &target("stopped"), "--unlinked"]);
    assert_eq!(blobs_in(&dir.join("stopped")), expected);
    assert!(
        !dir.join("stopped/%tmp").exists()
            && files_below(dir.path()).iter().all(|file| !file.starts_with("etc"))
    );
}

/// Moves the files of a key to where a cluster without subvolumes has them.
fn without_subvolumes(volumes: &[Volume], key: &str) {
    let name = STANDARD.encode(key);
    let mut moved = 0;
    for volume in volumes {
        for file in volume.files().into_iter().filter(|file| file.starts_with("sv") && file.ends_with(&name))
        {
            let to = volume.dir().join(file.split_once('/').expect("it is in a subvolume").1);
            fs::create_dir_all(to.parent().expect("it is in a folder")).unwrap();
            fs::rename(volume.dir().join(&file), to).unwrap();
            moved += 1;
        }
    }
    assert_eq!(moved, 3);
}

#[test]
fn a_go_clusters_directories_give_every_blob_that_was_not_deleted() {
    let (go, dir) = (GoCluster::unpack(), TempDir::new());
    let volumes: Vec<String> = (1..=5).map(|number| go.volume(number).display().to_string()).collect();
    exported(&volumes.join(","), &["/", as_text(&dir.join("out"))]);
    let found = blobs_in(&dir.join("out"));
    for (key, blob) in &go.expected {
        let content = found.get(&STANDARD.decode(key).expect("keys are base64"));
        let md5 = content.map(|content| format!("{:x}", md5::compute(content)));
        // The Go original notes nowhere but in the index that a key is unlinked.
        let expected = if blob.state == "absent" { None } else { blob.md5.clone() };
        assert_eq!((md5, content.map(|content| content.len() as u64)), (expected, blob.size), "{key}");
    }
    assert!(found.len() > 300, "only {}", found.len());
}

fn stop(volume: &mut Volume) {
    volume.stop();
}

/// The blob files of a key, of all its versions, on all volumes.
fn files_of(volumes: &[Volume], key: &str) -> Vec<PathBuf> {
    let name = STANDARD.encode(key);
    let is_of = |path: &PathBuf| {
        let end = as_text(path).rsplit_once(&format!("/{name}")).map(|(_, end)| end);
        end.is_some_and(|end| end.is_empty() || (end.starts_with('.') && end != ".meta"))
    };
    let files =
        volumes.iter().flat_map(|volume| volume.files().into_iter().map(|file| volume.dir().join(file)));
    files.filter(is_of).collect()
}

#[test]
fn a_damaged_replica_is_passed_over_and_a_blob_without_a_good_one_is_listed() {
    let mut cluster = Cluster::of(3, |master| master.flag("grace", "60s"));
    for good in 0..3 {
        cluster.master.put(&format!("/noted{good}"), b"old");
        assert_eq!(cluster.master.call("REPLACE", &format!("/noted{good}"), b"second").status, 204);
    }
    cluster.master.put("/ruined", b"old");
    assert_eq!(cluster.master.call("REPLACE", "/ruined", b"second").status, 204);
    cluster.master.put("/cut", b"whole");
    cluster.master.put("/apart", b"12");
    cluster.master.kill9();
    cluster.volumes.iter_mut().for_each(stop);
    let generations = |key: &str| {
        let files = files_of(&cluster.volumes, key).into_iter();
        let files: Vec<PathBuf> = files.filter(|file| as_text(file).contains('.')).collect();
        assert_eq!(files.len(), 3, "{files:?}");
        files
    };
    for good in 0..3 {
        for (number, file) in
            generations(&format!("/noted{good}")).iter().enumerate().filter(|(n, _)| *n != good)
        {
            fs::write(file, if number == 0 { "Second" } else { "secon" }).unwrap();
        }
    }
    generations("/ruined").iter().for_each(|file| fs::write(file, b"SECOND").unwrap());
    fs::write(&files_of(&cluster.volumes, "/cut")[0], b"who").unwrap();
    let apart = files_of(&cluster.volumes, "/apart");
    fs::remove_file(&apart[0]).unwrap();
    fs::write(&apart[1], b"1").unwrap();
    let (dir, sources) = (TempDir::new(), directories(&cluster.volumes));
    let (code, said) = export(&sources, &["/", as_text(&dir.join("out"))]);
    assert_eq!(code, Some(1), "{said}");
    let found = blobs_in(&dir.join("out"));
    for good in 0..3 {
        assert_eq!(found[format!("/noted{good}").as_bytes()], b"second", "{said}");
    }
    assert_eq!(found[b"/cut".as_slice()], b"whole");
    assert!(!found.contains_key(b"/ruined".as_slice()), "{said}");
    assert!(said.contains("/ruined: not exported: ") && said.contains("is damaged: its MD5 is"), "{said}");
    assert!(
        ["cut", "apart"].iter().all(|key| said.contains(&format!("/{key}: its replicas differ in size")))
            && said.contains("3 problems are left"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_read_is_listed_and_the_rest_is_exported() {
    let mut cluster = Cluster::of(3, |master| master.flag("replicas", "1").flag("subvolumes", "1"));
    let keys: Vec<String> = (0..60).map(|number| format!("/k{number}")).collect();
    keys.iter().for_each(|key| cluster.master.put(key, key.as_bytes()));
    cluster.master.kill9();
    let closed = files_of(&cluster.volumes, "/k0").remove(0);
    let folder = closed.parent().expect("it is in a folder").to_owned();
    let loose = files_of(&cluster.volumes, "/k1").remove(0);
    fs::remove_file(&loose).unwrap();
    symlink(&loose, &loose).unwrap();
    let sealed = files_of(&cluster.volumes, "/k2").remove(0);
    fs::set_permissions(&sealed, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).unwrap();
    let (dir, sources) = (TempDir::new(), directories(&cluster.volumes));
    // For root, permissions are nothing unless it gives up the right to pass over them.
    let capable = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    let prefix: &[&str] = if nix::unistd::geteuid().is_root() { &capable } else { &[] };
    let gone = format!("{sources},{}", as_text(&dir.join("no/such")));
    let output =
        command(prefix, &gone, &["/", as_text(&dir.join("out"))]).output().expect("setpriv is installed");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for path in [&folder, &loose, &sealed, &dir.join("no/such")] {
        assert!(said.contains(as_text(path)) && said.contains("can't be read"), "{path:?} is not in\n{said}");
    }
    let expected: Vec<Vec<u8>> = blobs_in(&dir.join("out")).into_keys().collect();
    let mut others: Vec<Vec<u8>> = keys
        .iter()
        .filter(|key| !["/k0", "/k1", "/k2"].contains(&key.as_str()))
        .map(|key| key.clone().into())
        .collect();
    others.sort();
    assert_eq!(expected, others);

    // A server that is down is as good as a drive that is.
    let away = cluster.volumes[0].addr();
    let of_the_others = cluster.volumes[1..].iter().flat_map(|volume| volume.files()).count() - 2;
    cluster.volumes[0].stop();
    let (code, said) = export(&addresses(&cluster.volumes), &["/", as_text(&dir.join("served"))]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("volume {away} is unreachable")), "{said}");
    assert!(blobs_in(&dir.join("served")).len() >= of_the_others - 3, "{said}");
}

#[test]
fn killed_at_any_moment_it_leaves_whole_files_and_goes_on() {
    let mut cluster = Cluster::of(3, |master| master.flag("replicas", "1"));
    let body = |number: u8| vec![number; 1 << 20];
    (0..40).for_each(|number| cluster.master.put(&format!("/d/{number}"), &body(number)));
    cluster.master.kill9();
    let (dir, sources) = (TempDir::new(), directories(&cluster.volumes));
    let out = dir.join("out");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    println!("seed {random:x}");
    let mut cut_off = 0;
    for _ in 0..30 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let begin = || -> Child {
            let mut command = command(&[], &sources, &["-q", "/", as_text(&out)]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program can be run")
        };
        let mut job = begin();
        std::thread::sleep(Duration::from_micros(random >> 47));
        let _ = job.kill();
        job.wait().expect("it is our child");
        let found: Vec<String> =
            files_below(&out).into_iter().filter(|file| !file.starts_with("%tmp/")).collect();
        for file in &found {
            let number: u8 = file.strip_prefix("d/").expect("nothing else is there").parse().unwrap();
            assert!(fs::read(out.join(file)).unwrap() == body(number), "{file} is not whole");
        }
        cut_off += usize::from((1..40).contains(&found.len()));
    }
    fs::create_dir_all(out.join("%tmp")).unwrap();
    fs::write(out.join("%tmp/0"), b"half").unwrap();
    exported(&sources, &["/", as_text(&out)]);
    assert_eq!(files_below(&out).len(), 40);
    assert!(!out.join("%tmp").exists());
    let said = exported(&sources, &["/", as_text(&out)]);
    assert!(said.contains("0 blobs were written") && said.contains("40 were there already"), "{said}");
    assert!(cut_off > 0, "no run was cut off in the middle");
}

/// The others have what it had. One that hangs is asked for a while, and then no more: it would cost every blob that while.
#[test]
fn a_volume_that_dies_or_hangs_in_the_middle_is_made_up_for() {
    let mut cluster = Cluster::start();
    let body = |number: usize| vec![number as u8; 100_000];
    (0..60).for_each(|number| cluster.master.put(&format!("/d/{number}"), &body(number)));
    cluster.master.kill9();
    let sources = addresses(&cluster.volumes);
    for hangs in [false, true] {
        let dir = TempDir::new();
        let (out, log) = (dir.join("out"), dir.join("log"));
        let mut job = Command::new(env!("CARGO_BIN_EXE_mkv"));
        job.args([
            "-voltimeout",
            "100ms",
            "-volumes",
            &sources,
            "export",
            "--rate",
            "100",
            "/",
            as_text(&out),
        ]);
        job.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let mut job = job.spawn().expect("the program can be run");
        let copied = || fs::read_dir(out.join("d")).map_or(0, Iterator::count);
        eventually("it has begun", || copied() > 0);
        let volume = &mut cluster.volumes[usize::from(hangs)];
        if hangs {
            volume.pause();
        } else {
            volume.kill9();
        }
        assert!(copied() < 60, "it is not in the middle");
        let ended = || job.try_wait().expect("it is our child");
        wait_for("the export ends", ended);
        if hangs {
            volume.resume();
        } else {
            volume.start_again();
        }
        let said = fs::read_to_string(&log).unwrap();
        for number in 0..60 {
            let copy = fs::read(out.join(format!("d/{number}")));
            assert!(copy.is_ok_and(|copy| copy == body(number)), "{number} is not whole: {said}");
        }
        assert!(said.contains("is not asked any more"), "{said}");
        exported(&sources, &["/", as_text(&out)]);
    }
}

/// What it missed while it was away is known from the others, whenever it comes.
#[test]
fn a_volume_that_comes_back_in_the_middle_with_old_files_changes_no_blob() {
    let mut cluster = Cluster::with_an_outdated_volume(15);
    let sources = addresses(&cluster.volumes);
    let dir = TempDir::new();
    let out = dir.join("out");
    let mut job = command(&[], &sources, &["--rate", "20", "/", as_text(&out)]);
    let job = job.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program can be run");
    eventually("it has begun", || out.join("same").is_dir() || out.join("replaced").is_dir());
    cluster.volumes[0].start_again();
    let ended = job.wait_with_output().expect("it is our child");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let expected: BTreeMap<Vec<u8>, Vec<u8>> = numbered("same", 15)
        .map(|key| (key.into_bytes(), b"old".to_vec()))
        .chain(numbered("replaced", 15).map(|key| (key.into_bytes(), b"new".to_vec())))
        .collect();
    assert_eq!(blobs_in(&out), expected, "{said}");
    exported(&sources, &["/", as_text(&out)]);
    assert_eq!(blobs_in(&out), expected);
}

#[test]
fn a_file_that_is_there_is_never_overwritten_and_no_link_is_followed() {
    let mut cluster = Cluster::start();
    for key in ["/same", "/other", "/longer", "/link", "/folder/a", "/noted", "/fine"] {
        cluster.master.put(key, b"mine");
    }
    assert_eq!(cluster.master.call("REPLACE", "/noted", b"mein").status, 204);
    cluster.master.kill9();
    let dir = TempDir::new();
    let (out, outside) = (dir.join("out"), dir.join("outside"));
    [&out, &outside].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    for (name, content) in
        [("same", "mine"), ("other", "Mine"), ("longer", "mine and more"), ("noted", "mine")]
    {
        fs::write(out.join(name), content).unwrap();
    }
    symlink(outside.join("new"), out.join("link")).unwrap();
    symlink(&outside, out.join("folder")).unwrap();
    for sources in [directories(&cluster.volumes), addresses(&cluster.volumes)] {
        let (code, said) = export(&sources, &["/", as_text(&out)]);
        assert_eq!(code, Some(1), "{said}");
        for key in ["/other", "/longer", "/link", "/folder/a", "/noted"] {
            assert!(said.contains(&format!("{key}: ")), "{key} is not in\n{said}");
        }
        assert!(said.contains("is in the way") && said.contains("5 problems are left"), "{said}");
        let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        assert_eq!(["other", "longer", "noted", "fine"].map(read), ["Mine", "mine and more", "mine", "mine"]);
        assert_eq!(files_below(&outside), Vec::<String>::new());
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = TempDir::new();
    let out = dir.join("out");
    let source = dir.join("volume");
    fs::create_dir(&source).unwrap();
    let within = source.join("deep/er");
    for (volumes, words, code, expected) in [
        ("", ["/", as_text(&out)], 2, "--volumes is missing"),
        ("/x,/x/", ["/", as_text(&out)], 2, "given twice"),
        ("a b", ["/", as_text(&out)], 2, "is no volume"),
        ("/x", ["x", as_text(&out)], 2, "a key begins with /"),
        (as_text(&source), ["/", as_text(&within)], 1, "which is to be read"),
    ] {
        let (found, said) = export(volumes, &words);
        assert!(found == Some(code) && said.contains(expected), "{volumes} {words:?}: {said}");
    }
    assert!(!out.exists() && !within.exists());
}

#[test]
fn volumes_of_two_clusters_are_not_mixed() {
    let (one, two) = (
        Cluster::of(1, |master| master.flag("replicas", "1")),
        Cluster::of(1, |master| master.flag("replicas", "1")),
    );
    one.master.put("/one", b"1");
    two.master.put("/two", b"2");
    let sources = format!("{},{}", one.volumes[0].addr(), two.volumes[0].dir().display());
    let dir = TempDir::new();
    let (code, said) = export(&sources, &["/", as_text(&dir.join("out"))]);
    assert!(code == Some(1) && said.contains("belongs to cluster"), "{said}");
    assert_eq!(files_below(&dir.join("out")), Vec::<String>::new());
    exported(&sources, &["/", as_text(&dir.join("out")), "-adopt"]);
    assert_eq!(files_below(&dir.join("out")), ["one", "two"]);
}

#[test]
fn the_recipe_of_the_document_copies_plain_keys_with_a_shell_alone() {
    let mut cluster = Cluster::start();
    for key in ["/a/b", "/videos/with%20space", "/%2e%2e/x", "/a//b", "/%00", "/replaced", "/x%0a"] {
        cluster.master.put(key, key.as_bytes());
    }
    assert_eq!(cluster.master.call("REPLACE", "/replaced", b"new").status, 204);
    cluster.master.kill9();
    cluster.volumes.iter_mut().for_each(stop);
    let dir = TempDir::new();
    let document =
        fs::read_to_string(repository().join("docs/operations.md")).expect("the document is there");
    let (_, rest) = document.split_once("<!-- tested: rescue -->\n```sh\n").expect("the recipe is there");
    let mut recipe = rest.split_once("```").expect("the block ends").0.to_owned();
    for (number, volume) in cluster.volumes.iter().enumerate() {
        let name = format!("/srv/volume{}", number + 1);
        assert!(recipe.contains(&name), "{recipe}");
        recipe = recipe.replace(&name, as_text(volume.dir()));
    }
    for _ in 0..2 {
        let shell = Command::new("sh").args(["-c", &recipe]).current_dir(dir.path()).output().expect("sh");
        let said = String::from_utf8_lossy(&shell.stderr).into_owned();
        for key in ["/../x", "/a//b", "/\0", "/x\n", "/replaced"] {
            assert!(said.contains(&STANDARD.encode(key)), "{key:?} is not in\n{said}");
        }
        let found = files_below(&dir.join("rescued"));
        let plain = ["a/b", "videos/with space"].iter().filter(|key| found.contains(&(**key).to_owned()));
        assert_eq!(plain.count(), 2, "{found:?}\n{said}");
        assert_eq!(fs::read(dir.join("rescued/a/b")).unwrap(), b"/a/b");
        assert_eq!(files_below(dir.path()).len(), found.len());
    }
}
