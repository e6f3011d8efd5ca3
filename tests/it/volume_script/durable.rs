//! `DURABLE=1`: which file systems are taken, what is set on them, and what is said of the others. That it holds when the plug is pulled
//! is shown by `tests/kill/power.rs`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::harness::{Mounts, TempDir, Volume, VolumeBuilder, eventually, get, http};

const BLOB: &str = "/sv00/5d/41/aGVsbG8=";
const BOTH: &str = "SD";

/// A drive of its own, at `data`.
struct Drive {
    mounts: Mounts,
    dir: PathBuf,
    own: TempDir,
}

impl Drive {
    fn ext4() -> Self {
        let mut drive = Self::nothing();
        drive.mounts.ext4(&drive.own.join("image"), &drive.dir, "32m");
        drive
    }

    fn nothing() -> Self {
        let own = TempDir::new();
        Self { mounts: Mounts::new(), dir: own.join("data"), own }
    }

    fn volume(&self) -> VolumeBuilder {
        Volume::builder().dir(&self.dir).among(&self.mounts).env("DURABLE", "1")
    }

    fn seen(&self, name: &str) -> PathBuf {
        self.mounts.seen_from_here(&self.dir).join(name)
    }
}

/// Which of the attributes S and D a file or folder has.
fn attributes(path: &Path) -> String {
    let output = Command::new("lsattr").arg("-d").arg(path).output().expect("e2fsprogs is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let letters = said.split(' ').next().unwrap_or_default();
    letters.chars().filter(|letter| BOTH.contains(*letter)).collect()
}

#[track_caller]
fn assert_refusal((status, said): (ExitStatus, String), words: &str) {
    assert_eq!(status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("volume: DURABLE=1, but ") && last.contains(words), "{said}");
}

#[test]
fn what_is_there_and_what_is_created_gets_the_attributes() {
    let mut drive = Drive::ext4();
    let dir = drive.dir.display().to_string();
    // An older tree, and a subvolume that is a link.
    drive.mounts.run(&format!("mkdir -p '{dir}/sv00/5d/40' '{dir}/other/aa' && ln -s other '{dir}/sv01'"));
    let mut volume = drive.volume().start();
    let setting = "setting the attributes S and D of all folders";
    assert!(volume.log().contains(setting), "{}", volume.log());
    for path in [BLOB, "/sv00/5d/40/aGVsbG8=", "/sv02/5d/41/aGVsbG8=", "/=cluster"] {
        assert_eq!(http("PUT", &volume.url(path), b"hello", &[]).status, 201);
        assert_eq!(attributes(&drive.seen(&path[1..])), "S", "{path}");
    }
    for path in [".", ".mkv/tmp", "sv00/5d/40", "sv00/5d/41", "sv02", "sv02/5d/41", "other", "other/aa"] {
        assert_eq!(attributes(&drive.seen(path)), BOTH, "{path}");
    }
    volume.stop();
    volume.start_again();
    assert!(!volume.log().contains(setting), "it is done once:\n{}", volume.log());
    assert_eq!(attributes(&drive.seen(".mkv/tmp")), BOTH);
    assert_eq!(volume.files().len(), 4, "the trial at the start leaves nothing: {:?}", volume.files());
}

#[test]
fn folder_that_came_without_attributes_gets_them_at_the_next_start() {
    let mut drive = Drive::ext4();
    let mut volume = drive.volume().start();
    volume.stop();
    let dir = drive.dir.display();
    drive.mounts.run(&format!("mkdir -p '{dir}/sv03/5d' && chattr -R -SD '{dir}/sv03'"));
    volume.start_again();
    assert_eq!(attributes(&drive.seen("sv03/5d")), BOTH);
}

#[test]
fn every_answer_says_that_it_is_durable() {
    let drive = Drive::ext4();
    let volume = drive.volume().start();
    let other = Volume::start();
    for path in ["/", "/=cluster", BLOB, "/.mkv/lock"] {
        for method in ["GET", "HEAD"] {
            let said = |volume: &Volume| {
                http(method, &volume.url(path), b"", &[]).header("mkv-durable").map(str::to_owned)
            };
            assert_eq!(said(&volume).as_deref(), Some("1"), "{method} {path}");
            assert_eq!(said(&other), None, "{method} {path}");
        }
    }
}

/// How often the drive below `path` was told to empty its cache.
fn flushes(path: &Path) -> u64 {
    let device = path.metadata().expect("it is there").dev();
    // As the kernel puts the two numbers into one.
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    let counts = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).expect("it is a drive");
    // The 16th, says the kernel's manual (Documentation/block/stat.rst).
    counts.split_whitespace().nth(15).expect("Linux 5.5 or newer").parse().expect("the kernel counts")
}

/// What the tests that pull the plug can't see: to them, what left the file system is on the drive.
#[test]
fn drive_is_flushed_before_each_answer() {
    let drive = Drive::ext4();
    let volume = drive.volume().start();
    for (method, body, status) in [("PUT", "hello", 201), ("PUT", "", 204), ("DELETE", "", 204)] {
        let before = flushes(&drive.seen("."));
        assert_eq!(http(method, &volume.url(BLOB), body.as_bytes(), &[]).status, status);
        assert!(flushes(&drive.seen(".")) > before, "{method} {body:?}");
    }
}

#[test]
fn owner_needs_no_root() {
    let mut drive = Drive::ext4();
    drive.mounts.run(&format!(
        "mkdir '{0}/sv00' && chown -R nobody: '{0}' && chown root '{0}/lost+found'",
        drive.dir.display()
    ));
    // Where everybody can read it, and without a name that the script would follow.
    let script = drive.own.join("volume");
    fs::copy(crate::harness::repository().join("volume"), &script).expect("it is there");
    let template = "nginx-volume.conf.template";
    fs::copy(crate::harness::repository().join("deploy").join(template), drive.own.join(template))
        .expect("it is there");
    let line = format!("exec '{}' \"$1\"", script.display());
    let words = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "bash", "-c", &line];
    let volume = drive.volume().through(&words).start();
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[]).status, 201);
    assert_eq!(attributes(&drive.seen(&BLOB[1..])), "S");
}

#[test]
fn mounted_drive_has_attributes_and_a_note_of_its_own() {
    let mut drive = Drive::ext4();
    drive.mounts.ext4(&drive.own.join("other"), &drive.dir.join("sv00"), "32m");
    let volume = drive.volume().start();
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[]).status, 201);
    for path in ["sv00", "sv00/.mkv/tmp", "sv00/5d/41"] {
        assert_eq!(attributes(&drive.seen(path)), BOTH, "{path}");
    }
    assert!(drive.seen("sv00/.mkv/durable").exists() && drive.seen(".mkv/durable").exists());
}

#[test]
fn bind_mount_of_the_same_file_system_is_as_durable() {
    let mut drive = Drive::ext4();
    let dir = drive.dir.display().to_string();
    drive
        .mounts
        .run(&format!("mkdir '{dir}/elsewhere' '{dir}/sv01' && mount --bind '{dir}/elsewhere' '{dir}/sv01'"));
    let volume = drive.volume().start();
    assert_eq!(http("PUT", &volume.url("/sv01/5d/41/aGVsbG8="), b"hello", &[]).status, 201);
    assert_eq!(attributes(&drive.seen("elsewhere/5d/41")), BOTH);
    assert_eq!(attributes(&drive.seen("elsewhere/5d/41/aGVsbG8=")), "S");
}

#[test]
fn file_system_that_is_mounted_with_sync_needs_no_attributes() {
    let mut drive = Drive::ext4();
    drive.mounts.run(&format!("mount -o remount,sync,dirsync '{}'", drive.dir.display()));
    let volume = drive.volume().start();
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[]).status, 201);
    assert_eq!(attributes(&drive.seen("sv00/5d/41")), "");
    assert_eq!(get(&volume.url("/")).header("mkv-durable"), Some("1"));
}

#[test]
fn file_system_that_can_not_is_refused_in_words_that_say_what_can() {
    let mut drive = Drive::nothing();
    drive.mounts.tmpfs(&drive.dir, "8m");
    assert_refusal(drive.volume().refusal(), "is on tmpfs, which can't write at once");

    let mut drive = Drive::ext4();
    drive.mounts.tmpfs(&drive.dir.join("sv00"), "8m");
    assert_refusal(drive.volume().refusal(), "data/sv00 is on tmpfs");

    let mut drive = Drive::nothing();
    let image = drive.own.join("image");
    drive
        .mounts
        .run(&format!("truncate -s 32m '{0}' && mkfs.ext4 -q -O ^has_journal '{0}'", image.display()));
    drive.mounts.image(&image, &drive.dir, "defaults");
    assert_refusal(drive.volume().refusal(), "is on ext4 without a journal, which can't write at once");

    let mut drive = Drive::ext4();
    drive.mounts.run(&format!("mount -o remount,barrier=0 '{}'", drive.dir.display()));
    assert_refusal(drive.volume().refusal(), "is mounted with nobarrier");
}

#[test]
fn full_drive_is_served() {
    let mut drive = Drive::ext4();
    let mut volume = drive.volume().start();
    assert_eq!(http("PUT", &volume.url(BLOB), b"hello", &[]).status, 201);
    volume.stop();
    drive.mounts.run(&format!("cat /dev/zero >'{}/filler' 2>/dev/null || true", drive.dir.display()));
    volume.start_again();
    eventually("it serves", || get(&volume.url(BLOB)).text() == "hello");
}

#[test]
fn without_it_a_volume_that_was_durable_says_why_it_is_slow() {
    let drive = Drive::ext4();
    drive.volume().start().stop();
    let volume = Volume::builder().dir(&drive.dir).among(&drive.mounts).start();
    assert!(volume.log().contains("chattr -R -f -SD"), "{}", volume.log());
    assert_eq!(get(&volume.url("/")).header("mkv-durable"), None);
}
