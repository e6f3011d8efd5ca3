//! `mkv check`: each thing that can be wrong with a volume, and the words that a person reads.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{
    Administered, Master, Mounts, PortLease, TcpStub, TempDir, Volume, addresses, eventually, volumes,
};

/// What `mkv check` says of `list`, and whether all is well.
fn check(list: &str, words: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_mkv"))
        .args(["-voltimeout", "500ms", "-volumes", list, "check"])
        .args(words)
        .env_remove("MKV_USERPASS")
        .stdin(Stdio::null())
        .output()
        .expect("the program can be run");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The line about `volume` has `expected` in it.
#[track_caller]
fn found(volume: &str, words: &[&str], expected: &str) {
    let (well, said) = check(volume, words);
    let line = said.lines().find(|line| line.starts_with(volume)).unwrap_or_else(|| panic!("{said}"));
    assert!(!well && line.contains(expected), "{expected:?} is not in: {said}");
}

#[test]
fn good_volumes_are_told_to_be_good_and_left_as_they_were() {
    let volumes = volumes(3);
    let (well, said) = check(&addresses(&volumes), &[]);
    assert!(well && said.lines().count() == 3 && said.lines().all(|line| line.ends_with(" ok")), "{said}");
    for volume in &volumes {
        assert_eq!(volume.files(), Vec::<String>::new());
        assert!(!volume.dir().join("00/00/.mkv-check").exists());
    }
}

#[test]
fn a_volume_that_was_not_started_is_told() {
    let port = PortLease::new();
    found(&format!("127.0.0.1:{}", port.port()), &[], "not started: nothing listens on port");
    found("nosuch.invalid:3001", &[], "the name nosuch.invalid doesn't resolve");
}

#[test]
fn something_else_on_the_port_is_told_and_nothing_is_written_to_it() {
    let other = TcpStub::answering("200 OK");
    found(other.addr(), &[], "wrong port? what answers there is not nginx");
    let speechless = TcpStub::saying("SSH-2.0-OpenSSH_9.2\r\n");
    found(speechless.addr(), &[], "wrong port? what answers there speaks no HTTP");
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let own = TempDir::new();
    fs::write(own.join("htpasswd"), "me:{PLAIN}secret\n").unwrap();
    let volume = Volume::builder().env("AUTH", own.join("htpasswd").as_os_str()).start();
    found(&volume.addr(), &[], "it asks for a user and password (401)");
    found(&volume.addr(), &["-userpass", "me:wr0ng"], "wrong password");
    assert!(!check(&volume.addr(), &["-userpass", "me:wr0ng", "--json"]).1.contains("wr0ng"));
    let (well, said) = check(&volume.addr(), &["-userpass", "me:secret"]);
    assert!(well, "{said}");
}

#[test]
fn a_volume_that_hangs_is_told() {
    let volume = Volume::start();
    volume.pause();
    found(&volume.addr(), &[], "it hangs: it takes the connection and doesn't answer HEAD within 500ms");
    volume.resume();
}

#[test]
fn a_clock_that_is_off_is_told() {
    let stub =
        TcpStub::answering_with("404 Not Found", "Server: nginx\r\nDate: Thu, 01 Jan 2015 00:00:00 GMT\r\n");
    found(stub.addr(), &[], "years behind this machine's: does NTP run on both?");
}

/// An nginx as the package installs it, with `lines` in its server block.
struct PlainNginx {
    child: Child,
    port: PortLease,
    _dir: TempDir,
}

impl PlainNginx {
    fn start(lines: &str) -> PlainNginx {
        let (dir, port) = (TempDir::new(), PortLease::new());
        let root = dir.path().display();
        let configuration = format!(
            "daemon off; pid {root}/pid; user root; events {{}}\n\
             http {{ access_log off; client_body_temp_path {root}/body; server {{ listen 127.0.0.1:{}; root {root}/data; {lines} }} }}",
            port.port()
        );
        fs::create_dir(dir.join("data")).unwrap();
        fs::write(dir.join("conf"), configuration).unwrap();
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c"]).arg(dir.join("conf")).stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").spawn().expect("nginx is installed");
        let nginx = PlainNginx { child, port, _dir: dir };
        eventually("it answers", || std::net::TcpStream::connect(nginx.addr()).is_ok());
        nginx
    }

    fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port.port())
    }
}

impl Drop for PlainNginx {
    fn drop(&mut self) {
        crate::harness::send(self.child.id(), nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

const LISTINGS: &str = "autoindex on; autoindex_format json;";

#[test]
fn an_nginx_without_dav_is_told() {
    let nginx = PlainNginx::start(LISTINGS);
    found(&nginx.addr(), &[], "it answers 405 to PUT: no DAV: nginx needs dav_methods PUT DELETE");
}

#[test]
fn an_nginx_that_removes_nothing_is_told() {
    let nginx = PlainNginx::start(&format!("{LISTINGS} dav_methods PUT; create_full_put_path on;"));
    found(&nginx.addr(), &[], "it answers 405 to DELETE: no DAV");
    let nginx = PlainNginx::start(&format!(
        "{LISTINGS} dav_methods PUT DELETE; create_full_put_path on; min_delete_depth 9;"
    ));
    found(&nginx.addr(), &[], "it takes files and doesn't remove them");
}

#[test]
fn an_nginx_that_lists_nothing_or_takes_only_small_files_is_told() {
    let nginx = PlainNginx::start("dav_methods PUT DELETE; create_full_put_path on;");
    found(&nginx.addr(), &[], "its folders can't be listed, which rebuild and scrub need (it answers 403)");
    let nginx = PlainNginx::start(&format!("{LISTINGS} dav_methods PUT DELETE; client_max_body_size 1k;"));
    found(&nginx.addr(), &[], "it answers 413 to PUT: its configuration limits bodies");
}

fn on_a_drive(mounts: &mut Mounts, dir: &Path, size: &str) -> Volume {
    mounts.tmpfs(dir, size);
    Volume::builder().dir(dir).among(mounts).start()
}

#[test]
fn a_full_drive_is_told() {
    let (own, mut mounts) = (TempDir::new(), Mounts::new());
    let dir = own.join("drive");
    let volume = on_a_drive(&mut mounts, &dir, "1m");
    mounts.run(&format!("head -c 2m /dev/zero >'{}/filler' 2>/dev/null; true", dir.display()));
    found(&volume.addr(), &[], "no space: the drive takes an empty file and none of 64 KiB");
    mounts.run(&format!("rm '{}/filler'", dir.display()));
    let (well, said) = check(&volume.addr(), &[]);
    assert!(well, "{said}");
}

#[test]
fn a_drive_that_can_only_be_read_is_told() {
    let (own, mut mounts) = (TempDir::new(), Mounts::new());
    let dir = own.join("drive");
    let volume = on_a_drive(&mut mounts, &dir, "1m");
    mounts.run(&format!("mount -o remount,ro '{}'", dir.display()));
    found(
        &volume.addr(),
        &[],
        "nothing can be written (500): the drive is read-only, full to the last byte, or not nginx's",
    );
}

#[test]
fn a_subvolume_that_is_not_as_the_others_is_named() {
    let volume = Volume::start();
    for name in ["sv00", "sv01", "sv02"] {
        fs::create_dir(volume.dir().join(name)).unwrap();
    }
    // Where a folder should be is a file.
    fs::write(volume.dir().join("sv01/00"), b"").unwrap();
    let (well, said) = check(&volume.addr(), &[]);
    let line = said.lines().find(|line| line.contains("sv01: ")).unwrap_or_else(|| panic!("{said}"));
    assert!(!well && !line.contains("sv00") && !line.contains("sv02"), "{said}");
    assert_eq!(volume.files(), ["sv01/00"]);
}

#[test]
fn volumes_of_two_clusters_are_noted() {
    let volumes = volumes(3);
    for (volume, id) in volumes.iter().zip(["one", "two\x1b[2J", "one"]) {
        fs::write(volume.dir().join("=cluster"), id).unwrap();
    }
    let (well, said) = check(&addresses(&volumes), &[]);
    assert!(well && said.contains("note: it belongs to cluster two\\u{1b}[2J, others here to one"), "{said}");
    assert!(!said.contains('\x1b'));
    let json: Value = serde_json::from_str(&check(&addresses(&volumes), &["--json"]).1).unwrap();
    assert_eq!((&json[0]["ok"], &json[1]["cluster"]), (&true.into(), &"two\x1b[2J".into()));
}

#[test]
fn durable_volumes_are_noted_and_so_is_one_among_them_that_is_not() {
    let (own, mut mounts) = (TempDir::new(), Mounts::new());
    mounts.ext4(&own.join("image"), &own.join("drive"), "32m");
    let durable = Volume::builder().dir(own.join("drive")).among(&mounts).env("DURABLE", "1").start();
    let other = Volume::start();
    let (well, said) = check(&durable.addr(), &[]);
    assert!(well && said.contains("note: durable: what it has acknowledged survives a power cut"), "{said}");
    let both = format!("{},{}", durable.addr(), other.addr());
    let (well, said) = check(&both, &[]);
    assert!(
        well && said.contains(&format!("{:<24} note: not durable, as others here are", other.addr())),
        "{said}"
    );
    let json: Value = serde_json::from_str(&check(&both, &["--json"]).1).unwrap();
    assert_eq!((&json[0]["durable"], &json[1]["durable"]), (&true.into(), &false.into()));

    let master = Administered::start(Master::builder(&both).flag("-replicas", "1"));
    let durable_of = |volume: &Volume| {
        let views = master.json("GET", "/api/volumes", "");
        let mut views = views.as_array().expect("a list").iter();
        views.find(|view| view["volume"] == volume.addr().as_str()).expect("it is there")["durable"].clone()
    };
    eventually("the server knows that it is durable", || durable_of(&durable) == true);
    assert_eq!(durable_of(&other), false);
    let (status, said) = master.job_output(&["volumes"]);
    let line = said.lines().find(|line| line.starts_with(&durable.addr())).expect("it is there");
    assert!(status.success() && line.ends_with("durable"), "{said}");
}

#[test]
fn what_a_killed_check_leaves_is_no_finding_and_goes_with_the_next() {
    let volumes = volumes(3);
    let place = volumes[0].dir().join("sv00/00/00");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join(".mkv-check"), b"left").unwrap();
    let mut master = crate::harness::Master::builder(&addresses(&volumes)).start();
    assert!(master.stop().success());
    let (status, said) = master.job(&["scrub"]);
    assert!(status.success(), "{said}");
    assert!(check(&addresses(&volumes), &[]).0);
    assert!(!place.join(".mkv-check").exists());
}

#[test]
fn a_check_of_nothing_is_refused() {
    for (list, expected) in
        [("", "--volumes is missing"), ("a,a", "given twice"), ("http://a", "is no volume")]
    {
        let (well, said) = check(list, &[]);
        assert!(!well && said.contains(expected), "{said}");
    }
}
