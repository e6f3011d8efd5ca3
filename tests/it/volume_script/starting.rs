//! What a volume needs to start, whose files it writes, and what it makes of a tree that is there already.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{
    GoCluster, TempDir, Volume, eventually, files_below, get, http, is_gone, repository, send,
};

const BLOB: &str = "/sv00/5d/41/aGVsbG8=";

/// The ids of `nobody` and `nogroup` on Debian, as whom the Go original's nginx ran when root started it.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Gives a directory to `nobody` when we may, and says how the script is run without any rights.
fn unprivileged(dir: &Path) -> Vec<&'static str> {
    fs::create_dir_all(dir).expect("our directory is writable");
    if !is_root() {
        return vec![];
    }
    chown(dir, Some(NOBODY), Some(NOBODY)).expect("root may");
    vec!["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
}

/// A copy of the script and its template at a place that everybody can read: the repository may lie below root's home.
fn public_script(dir: &TempDir) -> String {
    for (file, name) in
        [("volume", "volume"), ("deploy/nginx-volume.conf.template", "nginx-volume.conf.template")]
    {
        fs::copy(repository().join(file), dir.join(name)).expect("it is there");
    }
    dir.join("volume").display().to_string()
}

#[test]
fn tree_of_the_go_original_is_served_as_it_is() {
    let cluster = GoCluster::unpack();
    let dir = cluster.volume(1);
    // What its script leaves in the tree besides blobs.
    fs::create_dir_all(dir.join("body_temp"))
        .and_then(|()| fs::create_dir_all(dir.join("tmp")))
        .expect("writable");
    fs::write(dir.join("nginx.pid"), "4711").expect("writable");
    let before = files_below(&dir);
    let volume = Volume::builder().dir(&dir).start();
    let mut served = 0;
    for file in before.iter().filter(|file| file.starts_with("sv")) {
        let found = get(&volume.url(&format!("/{file}")));
        assert_eq!(found.status, 200, "{file}");
        let key = file.splitn(4, '/').nth(3).expect("svXX/aa/bb/base64");
        if let Some(blob) = cluster.expected.get(key) {
            assert_eq!(blob.size.unwrap_or(found.body.len() as u64), found.body.len() as u64, "{file}");
            let md5 = format!("{:x}", md5::compute(&found.body));
            assert_eq!(blob.md5.as_ref().unwrap_or(&md5), &md5, "{file}");
            served += 1;
        }
    }
    assert!(served > 50, "only {served} blobs of the fixture lie on its first volume");
    // Into a folder that is there, beside a file that the other script wrote, as its owner.
    let old = before.iter().find(|file| file.starts_with("sv")).expect("it has blobs");
    let new = format!("{old}.0123456789abcdef");
    assert_eq!(http("PUT", &volume.url(&format!("/{new}")), b"new", &[]).status, 201);
    let owner = |file: &str| dir.join(file).metadata().expect("it is there").uid();
    assert_eq!(owner(&new), owner(old));
    assert_eq!(http("DELETE", &volume.url(&format!("/{new}")), b"", &[]).status, 204);
    assert_eq!(http("DELETE", &volume.url(&format!("/{old}")), b"", &[]).status, 204);
    assert_eq!(volume.files().len(), before.len() - 1);
}

#[test]
fn runs_without_privileges() {
    let own = TempDir::new();
    let dir = own.join("data");
    let prefix = unprivileged(&dir);
    let script = public_script(&own);
    let mut words = prefix;
    // The script that the harness appends becomes an argument that bash ignores.
    let line = format!("exec '{script}' \"$1\"");
    words.extend(["bash", "-c", &line]);
    let volume = Volume::builder().dir(&dir).through(&words).start();
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[]).status, 201);
    assert_eq!(get(&volume.url(BLOB)).text(), "hello");
    assert_eq!(http("DELETE", &volume.url(BLOB), b"", &[]).status, 204);
    let master = fs::metadata(format!("/proc/{}", volume.pid())).expect("it runs").uid();
    assert_eq!(master, dir.metadata().expect("it is there").uid());
    assert_eq!(volume.log().lines().count(), 1, "nginx has something to complain about:\n{}", volume.log());
}

#[test]
fn root_serves_a_tree_as_its_owner() {
    let own = TempDir::new();
    let dir = own.join("data");
    unprivileged(&dir);
    let volume = Volume::builder().dir(&dir).start();
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[]).status, 201);
    let expected = dir.metadata().expect("it is there").uid();
    for path in ["sv00", "sv00/5d/41/aGVsbG8=", ".mkv", ".mkv/tmp", ".mkv/nginx.conf"] {
        assert_eq!(dir.join(path).metadata().expect("it is there").uid(), expected, "{path}");
    }
}

#[test]
fn directory_is_created_and_may_have_a_blank_in_its_name() {
    let own = TempDir::new();
    let dir = own.join("drives of; {a} shelf/volume #1");
    let volume = Volume::builder().dir(&dir).start();
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[]).status, 201);
    assert_eq!(volume.files(), [&BLOB[1..]]);
}

#[test]
fn both_families_are_served() {
    let volume = Volume::start();
    let has_ipv6 = fs::read_to_string("/proc/net/if_inet6").is_ok_and(|table| !table.is_empty());
    if has_ipv6 {
        assert_eq!(get(&format!("http://[::1]:{}/", volume.port())).status, 200);
    }
    assert_eq!(get(&volume.url("/")).status, 200);
}

#[test]
fn listen_narrows_the_addresses() {
    let volume = Volume::builder().env("LISTEN", "127.0.0.1 127.0.0.3").start();
    let port = volume.port();
    assert_eq!(get(&format!("http://127.0.0.3:{port}/")).status, 200);
    assert!(TcpStream::connect(("127.0.0.2", port)).is_err());
    assert!(TcpStream::connect(("::1", port)).is_err());
}

#[test]
fn auth_asks_every_request_for_a_password() {
    let own = TempDir::new();
    // htpasswd of user "mkv" with password "secret", scheme {PLAIN}, as nginx documents it.
    fs::write(own.join("htpasswd"), "mkv:{PLAIN}secret\n").expect("writable");
    let volume = Volume::builder().env("AUTH", own.join("htpasswd")).start();
    let right = ("Authorization", "Basic bWt2OnNlY3JldA==");
    let wrong = ("Authorization", "Basic bWt2Ondyb25n");
    for path in ["/", BLOB, "/=cluster", "/sv00/"] {
        for method in ["GET", "PUT", "DELETE", "HEAD"] {
            let url = volume.url(path);
            assert_eq!(http(method, &url, b"", &[]).status, 401, "{method} {path}");
            assert_eq!(http(method, &url, b"", &[wrong]).status, 401, "{method} {path}");
        }
    }
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[right]).status, 201);
    assert_eq!(http("GET", &volume.url(BLOB), b"", &[right]).text(), "hello");
    assert_eq!(http("HEAD", &volume.url("/"), b"", &[right]).status, 200);
    assert_eq!(http("DELETE", &volume.url(BLOB), b"", &[right]).status, 204);
}

/// Checks that the script ends with `code` and one line that contains `words`.
#[track_caller]
fn assert_refusal((status, said): (std::process::ExitStatus, String), code: i32, words: &str) {
    assert_eq!(status.code(), Some(code), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("volume: ") && said.contains(words), "{said}");
}

#[test]
fn absurd_settings_are_refused_with_one_line() {
    for port in ["0", "65536", "http", "-1", "99999999999999999999"] {
        assert_refusal(Volume::builder().env("PORT", port).refusal(), 2, "is not a port");
    }
    assert_refusal(Volume::builder().env("AUTH", "/no/such/file").refusal(), 2, "AUTH=/no/such/file");
    let own = TempDir::new();
    for name in ["with\"quote", "with$variable", "with\\backslash", "with\nline"] {
        let status = Volume::builder().dir(own.join(name)).refusal().0;
        assert_eq!(status.code(), Some(2), "{name}");
    }
    assert_refusal(Volume::builder().dir("/").refusal(), 2, "can't be a volume");
}

#[test]
fn port_in_use_is_refused_with_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("the kernel has a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    assert_refusal(Volume::builder().env("PORT", &*port).refusal(), 1, &format!("port {port} is in use"));
    let narrow = Volume::builder().env("PORT", &*port).env("LISTEN", "127.0.0.1");
    assert_refusal(narrow.refusal(), 1, &format!("port {port} is in use"));
}

#[test]
fn directory_that_can_not_be_written_is_refused_with_one_line() {
    let own = TempDir::new();
    let dir = own.join("data");
    let mut words = unprivileged(&dir);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).expect("it is ours");
    let line = format!("exec '{}' \"$1\"", public_script(&own));
    words.extend(["bash", "-c", &line]);
    assert_refusal(Volume::builder().dir(&dir).through(&words).refusal(), 1, "is not writable");
    let below_a_file = Path::new("/etc/hostname/volume");
    assert_refusal(Volume::builder().dir(below_a_file).refusal(), 1, "can't be created");
}

#[test]
fn directory_is_served_once() {
    let volume = Volume::start();
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[]).status, 201);
    assert_refusal(Volume::builder().dir(volume.dir()).refusal(), 1, "is being served already");
    assert_eq!(get(&volume.url(BLOB)).text(), "hello");
}

#[test]
fn temp_folder_is_emptied_at_start() {
    let mut volume = Volume::start();
    let temp = volume.dir().join(".mkv/tmp");
    assert_eq!(volume.kill9().code(), None);
    fs::write(temp.join("0000000001"), "half an upload").expect("writable");
    volume.start_again();
    // A worker of the killed nginx may answer until the new one has put things in order.
    eventually("what was left is gone", || files_below(&temp).is_empty());
}

#[test]
fn killed_nginx_does_not_leave_workers_in_the_way() {
    let volume = Volume::start();
    let workers = volume.workers();
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[]).status, 201);
    // Only the master: its workers live on, hold the port, and nothing but a process id names them.
    send(volume.pid(), Signal::SIGKILL);
    eventually("the master is gone", || is_gone(volume.pid()));
    let next = Volume::builder().dir(volume.dir()).start();
    assert!(workers.iter().all(|worker| is_gone(*worker)));
    assert_eq!(get(&next.url(BLOB)).text(), "hello");
}

#[test]
fn sigquit_lets_a_running_upload_finish() {
    let mut volume = Volume::start();
    let mut stream = TcpStream::connect(volume.addr()).expect("it listens");
    let head = format!("PUT {BLOB} HTTP/1.1\r\nHost: v\r\nContent-Length: 1000001\r\n\r\n");
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&[b'x'; 1_000_000])).expect("it reads");
    let temp = volume.dir().join(".mkv/tmp");
    eventually("the upload begins", || !files_below(&temp).is_empty());
    send(volume.pid(), Signal::SIGQUIT);
    eventually("no new connections are taken", || TcpStream::connect(volume.addr()).is_err());
    stream.write_all(b"y").expect("it still reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert!(volume.wait().success());
    assert_eq!(volume.files(), [&BLOB[1..]]);
}

#[test]
fn sigterm_ends_it_with_success() {
    let mut volume = Volume::start();
    assert!(volume.stop().success());
    volume.start_again();
    assert_eq!(get(&volume.url("/")).status, 200);
}

#[test]
fn without_a_directory_it_explains_itself() {
    let script = repository().join("volume");
    let output = Command::new(&script).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: "));
    let output = Command::new(&script).arg("--help").output().expect("it runs");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("REQUIRE_MOUNT"));
}
