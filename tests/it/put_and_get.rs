//! `mkv put` and `mkv get`, against real servers and volumes that break.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::harness::{
    Cluster, Master, Mounts, TcpStub, TempDir, Volume, addresses, eventually, volumes, wait_for,
};

/// Large enough that a transfer takes a while, and small enough for an unoptimized MD5.
const LARGE_BYTES: usize = 48 << 20;

/// A person at a machine with the program and a directory of files.
struct Person {
    dir: TempDir,
    server: String,
}

impl Person {
    fn of(master: &Master) -> Person {
        Person { dir: TempDir::new(), server: master.addr() }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mkv"));
        command.args(words).env("MKV_SERVER", &self.server).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Whether it worked, and everything that it said.
    fn run(&self, words: &[&str]) -> (bool, String) {
        said(self.command(words).output().expect("the program can be run"))
    }

    #[track_caller]
    fn must(&self, words: &[&str]) -> String {
        let (worked, said) = self.run(words);
        assert!(worked, "{words:?}: {said}");
        said
    }

    #[track_caller]
    fn must_not(&self, words: &[&str], expected: &str) {
        let (worked, said) = self.run(words);
        assert!(!worked && said.contains(expected), "{words:?}: {said}");
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, content).expect("our directory is writable");
        path
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.join(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).expect("it is there");
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The part of a blob that is not whole yet.
    fn part(&self) -> Option<PathBuf> {
        let name = self.names().into_iter().find(|name| name.ends_with(".part"))?;
        Some(self.dir.join(&name))
    }

    /// Begins to fetch, and kills it with -9 when it has some of the blob.
    #[track_caller]
    fn begin_and_kill(&self, words: &[&str]) -> u64 {
        let mut child = self.command(words).spawn().expect("the program can be run");
        let size = wait_for("some of it is there", || size_of(&self.part()?).filter(|size| *size > 0));
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
        assert!(size < LARGE_BYTES as u64, "it was too fast for the test");
        size
    }
}

fn said(output: Output) -> (bool, String) {
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn size_of(path: &Path) -> Option<u64> {
    Some(fs::metadata(path).ok()?.len())
}

/// The same for the same `seed`, and nowhere the same twice.
fn large(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..LARGE_BYTES / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// The file of the only blob on a volume.
#[track_caller]
fn blob_of(volume: &Volume) -> PathBuf {
    let is_blob = |name: &&String| *name != "=cluster" && !name.ends_with(".meta");
    let name = volume.files().iter().find(is_blob).expect("it has a blob").clone();
    volume.dir().join(name)
}

#[test]
fn a_file_comes_back_as_it_was_under_a_key_as_people_write_it() {
    let cluster = Cluster::start();
    let person = Person::of(&cluster.master);
    person.file("film", b"moving pictures");
    for (key, name) in [("/videos/ü?.mp4", "ü?.mp4"), ("no slash+%41#", "no slash+%41#"), ("//a//b", "b")] {
        let said = person.must(&["put", "film", key]);
        assert!(said.contains("stored, 15 B"), "{said}");
        person.must(&["get", key]);
        assert_eq!(person.read(name), b"moving pictures", "{key}");
    }
    assert_eq!(cluster.master.fetch("/videos/%C3%BC%3F.mp4").0, 200);
    assert_eq!(cluster.master.fetch("/no%20slash+%2541%23").0, 200);
    person.must(&["get", "--encoded", "/videos/%C3%BC%3F.mp4", "again"]);
    assert_eq!(person.read("again"), b"moving pictures");
    let output = person.command(&["get", "-q", "//a//b", "-"]).output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"moving pictures"[..], &b""[..]));
    assert!(!person.names().iter().any(|name| name.ends_with(".part")), "{:?}", person.names());
}

#[test]
fn bytes_that_are_no_text_are_a_key_too() {
    let cluster = Cluster::start();
    let person = Person::of(&cluster.master);
    person.file("x", b"x");
    let key = std::ffi::OsStr::from_bytes(b"/\xff\x1b[2J");
    let (worked, put) = said(person.command(&["put", "x"]).arg(key).output().unwrap());
    assert!(worked && put.contains("/%FF%1B%5B2J: stored") && !put.contains('\x1b'), "{put}");
    let (worked, got) = said(person.command(&["get"]).arg(key).output().unwrap());
    assert!(!worked && got.contains("is no good name for a file") && !got.contains('\x1b'), "{got}");
    let (worked, got) = said(person.command(&["get"]).arg(key).arg("y").output().unwrap());
    assert!(worked, "{got}");
    assert_eq!(person.read("y"), b"x");
}

#[test]
fn what_stands_in_the_way_is_said_in_words() {
    let mut cluster = Cluster::start();
    let person = Person::of(&cluster.master);
    person.file("a", b"a");
    person.file("empty", b"");
    person.must(&["put", "a", "/k"]);
    person.must_not(&["put", "a", "/k"], "/k has a blob already; --replace overwrites it");
    let said = person.must(&["put", "--replace", "a", "/k"]);
    assert!(said.contains("overwritten"), "{said}");
    person.must_not(&["put", "empty", "/e"], "it is empty");
    person.must_not(&["put", ".", "/d"], "it is a directory");
    person.must_not(&["put", "nosuch", "/n"], "No such file");
    person.must_not(&["get", "/nosuch"], "there is no such key");
    person.must(&["get", "/k"]);
    person.must_not(&["get", "/k"], "it is there already; --force overwrites it");
    person.must(&["get", "/k", "--force"]);
    person.must_not(&["get", "/k", "/"], "it is a directory");
    person.must_not(&["get", "/k", "/dev/null", "--force"], "it is no plain file");
    // It announces a page and has a few bytes.
    person.must_not(&["put", "/sys/class/net/lo/address", "/s"], "it became shorter");
    assert_eq!(cluster.master.call("GET", "/s", b"").status, 404);
    for key in ["/x/", "/x/..", "/x/.bashrc", "/x/-rf"] {
        person.must_not(&["get", key], "is no good name for a file");
    }
    person.must_not(&["put", "a", &format!("/{}", "x".repeat(3000))], "longer than 2048 bytes");
    person.must_not(&["get", "-e", "/%zz"], "KEY: the path has a %");
    person.must_not(&["get", "/k", "--server", "http://x"], "is no volume");
    // A large one is answered long before all of it could be sent.
    fs::File::create(person.dir.join("large")).unwrap().set_len(LARGE_BYTES as u64).unwrap();
    cluster.volumes[0].stop();
    eventually("the volume is missed", || cluster.master.call("PUT", "/probe", b"x").status == 503);
    person.must_not(&["put", "large", "/l"], "volumes are missing");
    assert!(cluster.master.stop().success());
    person.must_not(&["put", "a", "/l"], "is it running, and is --server right?");
    person.must_not(&["get", "/k", "z"], "is it running, and is --server right?");
    assert_eq!(person.names(), ["a", "empty", "k", "large"]);
}

#[test]
fn full_volumes_are_named() {
    let (own, mut mounts) = (TempDir::new(), Mounts::new());
    let mut start = |name: &str| {
        let dir = own.join(name);
        mounts.tmpfs(&dir, "1m");
        Volume::builder().dir(&dir).among(&mounts).start()
    };
    let volumes = ["a", "b", "c"].map(&mut start);
    let master = Master::builder(&addresses(&volumes)).start();
    let person = Person::of(&master);
    person.file("big", &vec![7; 4 << 20]);
    person.must_not(&["put", "big", "/k"], "the volumes are full (the server answered 507: ");
    assert_eq!(master.fetch("/k").0, 404);
}

#[test]
fn a_blob_that_was_stored_otherwise_than_it_was_read_is_told() {
    let stub = TcpStub::answering_with("201 Created", "Content-Md5: 00000000000000000000000000000000\r\n");
    let cluster = Cluster::start();
    let person = Person::of(&cluster.master);
    person.file("a", b"hello");
    let expected =
        "the server stored something else (MD5 00000000000000000000000000000000) than was read (MD5 5d41402a";
    person.must_not(&["put", "a", "/k", "--server", stub.addr()], expected);
}

#[test]
fn a_blob_of_the_fallback_server_is_fetched_from_there() {
    let cluster = Cluster::start();
    cluster.master.put("/a%20b", b"from there");
    let other = Cluster::of(3, |master| master.flag("fallback", cluster.master.addr()));
    let person = Person::of(&other.master);
    let said = person.must(&["get", "/a b"]);
    assert!(said.contains("MD5 is right"), "{said}");
    assert_eq!(person.read("a b"), b"from there");
    person.must_not(&["get", "/nosuch"], "there is no such key");
    person.must(&["put", "a b", "/a b"]);
}

#[test]
fn volumes_are_reached_where_the_server_says() {
    let volumes = volumes(3);
    let advertised: Vec<String> =
        volumes.iter().map(|volume| format!("{}=localhost:{}", volume.addr(), volume.port())).collect();
    let master = Master::builder(&addresses(&volumes)).flag("advertise", advertised.join(",")).start();
    let person = Person::of(&master);
    master.put("/k", b"the right content");
    damage(&blob_of(&volumes[0]));
    damage(&blob_of(&volumes[1]));
    let said = person.must(&["get", "/k"]);
    assert_eq!(person.read("k"), b"the right content");
    assert!(!said.contains("127.0.0.1"), "{said}");
}

#[test]
fn servers_that_are_none_are_told() {
    let cluster = Cluster::start();
    let person = Person::of(&cluster.master);
    person.file("a", b"a");
    let volume = Volume::start();
    person.must_not(&["get", "/k", "--server", &volume.addr()], "no such key");
    let silent = TcpStub::silent();
    for words in [&["get", "/k"][..], &["put", "a", "/k"], &["put", "--replace", "a", "/k"]] {
        let words = [words, &["-voltimeout", "50ms", "--server", silent.addr()]].concat();
        person.must_not(&words, "doesn't answer");
    }
}

#[test]
fn a_key_that_somebody_else_writes_is_busy() {
    let cluster = Cluster::start();
    let person = Person::of(&cluster.master);
    person.file("a", b"a");
    let mut slow = person.command(&["put", "-", "/k"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = slow.stdin.take().unwrap();
    // More than the server reads ahead before it takes the key.
    std::io::Write::write_all(&mut input, &vec![7; 1 << 20]).unwrap();
    eventually("the key is taken", || cluster.master.list("/?writing") == ["/k"]);
    person.must_not(&["put", "a", "/k"], "somebody else is writing to this key");
    drop(input);
    let (worked, said) = said(slow.wait_with_output().unwrap());
    assert!(worked && said.contains("stored, 1.00 MiB"), "{said}");
    assert_eq!(cluster.master.fetch("/k"), (200, vec![7; 1 << 20]));
}

#[test]
fn a_put_that_is_cut_off_leaves_nothing() {
    let cluster = Cluster::start();
    let person = Person::of(&cluster.master);
    let mut child = person.command(&["put", "-", "/k"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &vec![7; 4 << 20]).unwrap();
    eventually("it is on its way", || cluster.master.list("/?writing") == ["/k"]);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(input);
    eventually("nothing is left", || {
        cluster.master.list("/?writing").is_empty() && cluster.files().is_empty()
    });
    assert_eq!(cluster.master.fetch("/k").0, 404);
}

#[test]
fn what_was_done_is_told_to_programs() {
    let cluster = Cluster::start();
    let person = Person::of(&cluster.master);
    person.file("a", b"hello");
    let json = |words: &[&str]| -> Value {
        let output = person.command(words).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|err| panic!("{words:?}: {err}"))
    };
    let put = json(&["put", "-q", "--json", "a", "/ü"]);
    let md5 = "5d41402abc4b2a76b9719d911017c592";
    assert_eq!((&put["key"], &put["md5"], &put["bytes"]), (&"/%C3%BC".into(), &md5.into(), &5.into()));
    let got = json(&["get", "-q", "--json", "/ü", "b"]);
    assert_eq!((&got["md5"], &got["md5_checked"], &got["file"]), (&md5.into(), &true.into(), &"b".into()));
}

#[test]
fn a_get_that_was_killed_goes_on_where_it_was() {
    for flag in ["true", "false"] {
        let cluster = Cluster::of(3, |master| master.flag("md5sum", flag));
        let person = Person::of(&cluster.master);
        let content = large(1);
        cluster.master.put("/film", &content);
        let had = person.begin_and_kill(&["get", "/film"]);
        let output = person.command(&["get", "--json", "-q", "/film"]).output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(json["resumed_bytes"].as_u64().unwrap() >= had, "md5sum {flag}: {json}");
        assert!(person.read("film") == content);
        assert_eq!(person.names(), ["film"]);
    }
}

#[test]
fn a_blob_that_is_overwritten_between_two_runs_is_never_spliced() {
    for flag in ["true", "false"] {
        let cluster = Cluster::of(3, |master| master.flag("md5sum", flag));
        let person = Person::of(&cluster.master);
        cluster.master.put("/film", &large(1));
        person.begin_and_kill(&["get", "/film"]);
        let content = large(2);
        assert_eq!(cluster.master.call("REPLACE", "/film", &content).status, 204);
        let said = person.must(&["get", "/film"]);
        assert!(said.contains(if flag == "true" { "MD5 is right" } else { "no MD5 is known" }), "{said}");
        assert!(person.read("film") == content, "md5sum {flag}");
        assert_eq!(person.names(), ["film"], "what there was of the old one is gone");
    }
}

/// Whether a volume is sending a blob: a worker has its file open.
fn sends(volume: &Volume) -> bool {
    let tree = volume.dir().canonicalize().expect("it is there");
    let opened = volume.workers().into_iter().flat_map(|worker| {
        fs::read_dir(format!("/proc/{worker}/fd"))
            .into_iter()
            .flatten()
            .flatten()
            .flat_map(|fd| fs::read_link(fd.path()))
    });
    opened.into_iter().any(|file| file.starts_with(&tree) && !file.starts_with(tree.join(".mkv")))
}

/// Has `fail` happen to the volume that sends a large blob; what the person who fetches it is told, and the volumes.
#[track_caller]
fn failing_in_the_middle(fail: impl Fn(&mut Volume)) -> String {
    let mut volumes = volumes(3);
    let master = Master::builder(&addresses(&volumes)).start();
    let person = Person::of(&master);
    let content = large(3);
    master.put("/film", &content);
    let mut child: Child = person.command(&["get", "-voltimeout", "100ms", "/film"]).spawn().unwrap();
    wait_for("some of it is there", || size_of(&person.part()?).filter(|size| *size > 0));
    let at = wait_for("a volume sends it", || volumes.iter().position(sends));
    fail(&mut volumes[at]);
    let status = wait_for("it ends", || child.try_wait().unwrap());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut text).unwrap();
    volumes[at].resume();
    assert!(status.success() && text.contains(&format!("{} broke off", volumes[at].addr())), "{text}");
    assert!(person.read("film") == content);
    text
}

#[test]
fn a_replica_that_dies_in_the_middle_is_replaced_by_another() {
    let said = failing_in_the_middle(|volume| {
        volume.kill9();
        volume.start_again();
    });
    assert!(said.contains("asking another volume"), "{said}");
}

#[test]
fn a_replica_that_hangs_in_the_middle_is_replaced_by_another() {
    let said = failing_in_the_middle(|volume| volume.pause());
    assert!(said.contains("timeout"), "{said}");
}

/// Turns the first byte of a file around.
fn damage(file: &Path) {
    let mut content = fs::read(file).unwrap();
    content[0] ^= 1;
    fs::write(file, content).unwrap();
}

#[test]
fn a_damaged_copy_is_told_and_another_taken() {
    let cluster = Cluster::start();
    let person = Person::of(&cluster.master);
    cluster.master.put("/k", b"the right content");
    damage(&blob_of(&cluster.volumes[1]));
    let mut told = 0;
    // Replicas take turns, so that each has been the first in some of them.
    for round in 0..6 {
        let name = round.to_string();
        let said = person.must(&["get", "/k", &name]);
        assert_eq!(person.read(&name), b"the right content");
        told += usize::from(said.contains(&format!("{} has a damaged copy", cluster.volumes[1].addr())));
    }
    assert!(told > 0);
    let before = person.names();
    [0, 2].into_iter().for_each(|at| damage(&blob_of(&cluster.volumes[at])));
    person.must_not(&["get", "/k", "wrong"], "has a damaged copy");
    assert_eq!(person.names(), before, "nothing of it stays");
    let (worked, _) = person.run(&["get", "/k", "-"]);
    assert!(!worked, "what was written to standard output can't be taken back, but is not called right");
}

#[test]
fn a_part_that_was_damaged_is_fetched_again() {
    let cluster = Cluster::start();
    let person = Person::of(&cluster.master);
    let content = large(4);
    cluster.master.put("/film", &content);
    person.begin_and_kill(&["get", "/film"]);
    damage(&person.part().unwrap());
    person.must(&["get", "/film"]);
    assert!(person.read("film") == content);
}

#[test]
fn a_password_is_shown_to_server_and_volume_and_to_nobody_else() {
    let own = TempDir::new();
    fs::write(own.join("htpasswd"), "me:{PLAIN}se/c@ret\n").unwrap();
    let start = || Volume::builder().env("AUTH", own.join("htpasswd").as_os_str()).start();
    let volumes: Vec<Volume> = (0..3).map(|_| start()).collect();
    let master = Master::builder(&addresses(&volumes))
        .flag("basicauth", "true")
        .flag("userpass", "me:se/c@ret")
        .start();
    let person = Person::of(&master);
    person.file("a", b"a");
    let with = |password: &str, words: &[&str]| {
        said(person.command(words).env("MKV_USERPASS", format!("me:{password}")).output().unwrap())
    };
    let (worked, text) = with("se/c@ret", &["put", "a", "/k"]);
    assert!(worked && !text.contains("c@ret"), "{text}");
    let (worked, text) = with("se/c@ret", &["get", "/k"]);
    assert!(worked && !text.contains("c@ret"), "{text}");
    for words in [&["put", "a", "/l"][..], &["put", "--replace", "a", "/l"], &["get", "/k", "b"]] {
        let (worked, text) = with("wr0ng", words);
        assert!(
            !worked && text.contains("asks for a user and password") && !text.contains("wr0ng"),
            "{text}"
        );
        person.must_not(words, "asks for a user and password");
    }
    person.must_not(&["put", "a", "/l", "-userpass", "me"], "must be user:password");
}
