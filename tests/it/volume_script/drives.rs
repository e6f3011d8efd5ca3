//! Drives: subvolumes that are mount points of their own, drives that are missing, drives that are full.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::harness::{Mounts, TempDir, Volume, eventually, files_below, get, http};

/// A directory in which `sv00` is a drive of 8 MB and `sv01` an empty directory.
struct Shelf {
    mounts: Mounts,
    dir: PathBuf,
    _own: TempDir,
}

impl Shelf {
    fn new() -> Self {
        let own = TempDir::new();
        let dir = own.join("data");
        fs::create_dir_all(dir.join("sv01")).expect("our directory is writable");
        let mut mounts = Mounts::new();
        mounts.tmpfs(&dir.join("sv00"), "8m");
        Self { mounts, dir, _own: own }
    }

    fn start(&self, require_mount: &str) -> Volume {
        Volume::builder().dir(&self.dir).among(&self.mounts).env("REQUIRE_MOUNT", require_mount).start()
    }
}

const ON_DRIVE: &str = "/sv00/5d/41/aGVsbG8=";
const OFF_DRIVE: &str = "/sv01/5d/41/aGVsbG8=";

#[test]
fn drive_of_its_own_has_its_own_temp_folder() {
    let shelf = Shelf::new();
    let volume = shelf.start("0");
    for path in [ON_DRIVE, OFF_DRIVE] {
        assert_eq!(http("PUT", &volume.url(path), b"hello", &[]).status, 201);
        assert_eq!(get(&volume.url(path)).text(), "hello");
    }
    let device = |path: &str| volume.dir().join(path).metadata().expect("it is there").dev();
    assert_ne!(device("sv00/.mkv/tmp"), device(".mkv/tmp"));
    assert!(!volume.dir().join("sv01/.mkv").exists());
    assert_eq!(get(&volume.url("/sv00/.mkv/tmp/")).status, 403);
    assert_eq!(volume.files(), [&ON_DRIVE[1..], &OFF_DRIVE[1..]]);
    assert_eq!(http("DELETE", &volume.url("/sv00/5d/41/"), b"", &[]).status, 405);
    assert_eq!(http("DELETE", &volume.url(ON_DRIVE), b"", &[]).status, 204);
    assert_renames(&volume, &shelf);
}

/// With the temp folder of the root disk taken away, a PUT to the drive still works: nothing goes through it.
/// With that of the drive gone the drive counts as missing, and it isn't made up for by a copy.
fn assert_renames(volume: &Volume, shelf: &Shelf) {
    let own = shelf.dir.join(".mkv/tmp");
    let hidden = shelf.dir.join(".mkv/hidden");
    fs::rename(&own, &hidden).expect("it is ours");
    assert_eq!(http("PUT", &volume.url(ON_DRIVE), b"hello", &[]).status, 201);
    fs::rename(&hidden, &own).expect("it is ours");
    fs::remove_dir(volume.dir().join("sv00/.mkv/tmp")).expect("it is empty");
    assert_eq!(http("PUT", &volume.url(ON_DRIVE), b"hello", &[]).status, 503);
}

#[test]
fn bind_mount_of_the_same_file_system_has_its_own_temp_folder() {
    let mut shelf = Shelf::new();
    let dir = shelf.dir.display().to_string();
    shelf
        .mounts
        .run(&format!("mkdir '{dir}/../elsewhere' && mount --bind '{dir}/../elsewhere' '{dir}/sv01'"));
    let volume = shelf.start("1");
    assert_eq!(http("PUT", &volume.url(OFF_DRIVE), b"hello", &[]).status, 201);
    assert!(volume.dir().join("sv01/.mkv/tmp").exists());
}

#[test]
fn subvolume_that_is_a_link_to_another_drive_has_its_own_temp_folder() {
    let mut shelf = Shelf::new();
    let dir = shelf.dir.display().to_string();
    shelf.mounts.tmpfs(&shelf.dir.join("../elsewhere"), "1m");
    shelf.mounts.run(&format!("ln -s ../elsewhere '{dir}/sv02'"));
    let volume = shelf.start("0");
    assert_eq!(http("PUT", &volume.url("/sv02/5d/41/aGVsbG8="), b"hello", &[]).status, 201);
    assert!(shelf.mounts.seen_from_here(&shelf.dir).join("../elsewhere/.mkv/tmp").exists());
}

#[test]
fn required_mount_refuses_everything_that_is_not_on_a_drive() {
    let shelf = Shelf::new();
    let volume = shelf.start("1");
    assert_eq!(http("PUT", &volume.url(ON_DRIVE), b"hello", &[]).status, 201);
    assert_eq!(get(&volume.url(ON_DRIVE)).text(), "hello");
    // A 404 would say that the blob is gone, an empty list that there never was one.
    for path in
        [OFF_DRIVE, "/sv01/", "/sv01", "/sv01/5d/", "/sv09/5d/41/aGVsbG8=", "/5d/41/aGVsbG8=", "/sv001/x/y"]
    {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            assert_eq!(http(method, &volume.url(path), b"", &[]).status, 503, "{method} {path}");
        }
    }
    // What belongs to the volume as a whole stays.
    assert_eq!(http("PUT", &volume.url("/=cluster"), b"id", &[]).status, 201);
    assert_eq!(get(&volume.url("/=cluster")).text(), "id");
    assert_eq!(get(&volume.url("/")).status, 200);
    assert_eq!(volume.files(), ["=cluster", &ON_DRIVE[1..]]);
    assert!(volume.log().contains("not mounted, answers 503: sv01"), "{}", volume.log());
}

#[test]
fn drive_that_goes_away_while_serving_answers_503() {
    for require_mount in ["0", "1"] {
        let mut shelf = Shelf::new();
        let volume = shelf.start(require_mount);
        assert_eq!(http("PUT", &volume.url(ON_DRIVE), b"hello", &[]).status, 201);
        shelf.mounts.unmount(&shelf.dir.join("sv00"));
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            assert_eq!(http(method, &volume.url(ON_DRIVE), b"", &[]).status, 503, "{method}");
        }
        assert_eq!(get(&volume.url("/sv00/")).status, 503);
        assert!(volume.files().is_empty(), "a write fell through to the disk below");
    }
}

#[test]
fn required_mount_is_met_by_the_directory_itself() {
    let own = TempDir::new();
    let dir = own.join("data");
    let mut mounts = Mounts::new();
    mounts.tmpfs(&dir, "8m");
    let volume = Volume::builder().dir(&dir).among(&mounts).env("REQUIRE_MOUNT", "1").start();
    for path in [ON_DRIVE, "/5d/41/aGVsbG8="] {
        assert_eq!(http("PUT", &volume.url(path), b"hello", &[]).status, 201);
    }
    mounts.unmount(&dir);
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        assert_eq!(http(method, &volume.url(ON_DRIVE), b"", &[]).status, 503, "{method}");
    }
}

#[test]
fn required_mount_without_any_is_refused() {
    let own = TempDir::new();
    fs::create_dir_all(own.join("data/sv00")).expect("our directory is writable");
    let (status, said) = Volume::builder().dir(own.join("data")).env("REQUIRE_MOUNT", "1").refusal();
    assert_eq!((status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("is a mount point"), "{said}");
}

#[test]
fn drive_that_is_read_only_serves_reads() {
    let mut shelf = Shelf::new();
    let drive = shelf.dir.join("sv00").display().to_string();
    shelf.mounts.run(&format!("mkdir -p '{drive}/5d/41' && echo -n hello > '{drive}/5d/41/aGVsbG8='"));
    shelf.mounts.run(&format!("mount -o remount,bind,ro '{drive}'"));
    let volume = shelf.start("1");
    assert_eq!(get(&volume.url(ON_DRIVE)).text(), "hello");
    assert_eq!(http("PUT", &volume.url(&format!("{ON_DRIVE}.meta")), b"hello", &[]).status, 500);
    assert!(volume.log().contains("can't be written"), "{}", volume.log());
}

#[test]
fn full_drive_answers_500_keeps_what_it_has_and_starts_again() {
    let own = TempDir::new();
    let dir = own.join("data");
    let mut mounts = Mounts::new();
    mounts.tmpfs(&dir, "4m");
    let mut volume = Volume::builder().dir(&dir).among(&mounts).start();
    assert_eq!(http("PUT", &volume.url(ON_DRIVE), b"hello", &[]).status, 201);
    assert_eq!(http("PUT", &volume.url(OFF_DRIVE), &vec![0; 5 << 20], &[]).status, 500);
    assert_eq!(volume.files(), [&ON_DRIVE[1..]], "half a blob is visible");
    eventually("the half is gone", || files_below(&volume.dir().join(".mkv/tmp")).is_empty());
    // Not even room for nginx's configuration.
    mounts.run(&format!("cat /dev/zero > '{}/filler' 2>/dev/null || true", dir.display()));
    volume.kill9();
    volume.start_again();
    assert_eq!(get(&volume.url(ON_DRIVE)).text(), "hello");
    assert_eq!(http("PUT", &volume.url(OFF_DRIVE), b"hello", &[]).status, 500);
    assert_eq!(http("DELETE", &volume.url(ON_DRIVE), b"", &[]).status, 204);
}
