//! Small file systems for tests of full disks and missing drives.
//!
//! They are mounted in a mount namespace of their own, which lives as long as its processes: whatever happens
//! to the test, nothing stays mounted. Without root it is a user namespace too; where that isn't allowed the
//! test fails and says so.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A mount namespace, held by a shell that runs what it is told and ends with the test.
#[derive(Debug)]
pub struct Mounts {
    shell: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Mounts {
    pub fn new() -> Self {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let mut shell = command
            .args(["--mount", "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare (util-linux) is installed");
        let input = shell.stdin.take().expect("it is piped");
        let output = BufReader::new(shell.stdout.take().expect("it is piped"));
        let mut mounts = Self { shell, input, output };
        mounts.run("true");
        mounts
    }

    /// Mounts an empty file system of `size` (`"1m"`) at `path`, which is created when it isn't there.
    #[track_caller]
    pub fn tmpfs(&mut self, path: &Path, size: &str) {
        let path = path.display();
        self.run(&format!("mkdir -p '{path}' && mount -t tmpfs -o size={size},mode=755 tmpfs '{path}'"));
    }

    /// Mounts a new ext4 of `size` (`"64m"`), which is kept in the file `image`, at `path`. Only root may have a loop device, which goes
    /// with the last mount of it. The kernel writes nothing by itself for minutes: what is in the image was synced, or written at once.
    #[track_caller]
    pub fn ext4(&mut self, image: &Path, path: &Path, size: &str) {
        let image_path = image.display();
        self.run(&format!(
            "truncate -s {size} '{image_path}' && mkfs.ext4 -q -E lazy_itable_init=0 '{image_path}'"
        ));
        self.image(image, path, "commit=600");
    }

    /// Mounts the file system in the file `image` at `path`.
    #[track_caller]
    pub fn image(&mut self, image: &Path, path: &Path, options: &str) {
        let (image, path) = (image.display(), path.display());
        self.run(&format!("mkdir -p '{path}' && mount -o loop,{options} '{image}' '{path}'"));
    }

    /// Takes the drive away, also while files on it are open.
    #[track_caller]
    pub fn unmount(&mut self, path: &Path) {
        self.run(&format!("umount --lazy '{}'", path.display()));
    }

    /// Runs one line of shell among the mounts, as root of the namespace.
    #[track_caller]
    pub fn run(&mut self, line: &str) {
        let told = writeln!(self.input, "{{ {line}\n}} && echo done || echo failed");
        told.expect("the namespace can be made (as root, or where user namespaces are allowed)");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("the shell answers");
        assert_eq!(
            answer.trim(),
            "done",
            "in a mount namespace (needs root or user namespaces, and root for loop devices): {line}"
        );
    }

    /// Where the test itself finds `path` with its mounts.
    pub fn seen_from_here(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.shell.id()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// The command line that runs another program among the mounts, under the same process id.
    pub(super) fn enter(&self) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned(), format!("--target={}", self.shell.id())];
        if !nix::unistd::geteuid().is_root() {
            words.extend(["--user".to_owned(), "--preserve-credentials".to_owned()]);
        }
        words.push("--mount".to_owned());
        words
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
