//! Tests of the `./mkv` script: it becomes the program, and tells it where it lies.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use crate::harness::{TempDir, repository};

/// A program that says who it is and what it was given.
fn stand_in(dir: &TempDir) -> std::path::PathBuf {
    let program = dir.join("program");
    fs::write(&program, "#!/bin/sh\necho \"$$ $MKV_HOME\"\nprintf '<%s>\\n' \"$@\"\nexit 7\n")
        .expect("writable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    program
}

#[test]
fn it_becomes_the_program_with_all_its_arguments() {
    let dir = TempDir::new();
    // Also through a link, as from a directory in PATH.
    symlink(repository().join("mkv"), dir.join("mkv")).expect("writable");
    let child = Command::new(dir.join("mkv"))
        .args(["server", "-volumes=a,b", "two words", ""])
        .env("MKV_BIN", stand_in(&dir))
        .current_dir("/")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let pid = child.id();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(7));
    let home = repository().canonicalize().expect("it is there");
    let expected = format!("{pid} {}\n<server>\n<-volumes=a,b>\n<two words>\n<>\n", home.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}
