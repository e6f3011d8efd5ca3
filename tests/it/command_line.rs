//! What a person sees of the command line: its help, its completions, and nothing that a terminal would obey.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use minikeyvalue::model::{File, Key, path_of};
use serde_json::Value;

use crate::harness::{Administered, Master, TcpStub, TempDir, addresses, entries_of, placer, volumes};

/// A key with what clears a screen, a line break, and a byte that is no UTF-8.
const EVIL: &str = "/a%1B%5B2J%0Ab%FF";

/// What the program prints, on both outputs.
fn mkv(words: &[&str]) -> (bool, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_mkv")).args(words).stdin(Stdio::null()).output().expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// `mkv … | head` is no reason for a panic, nor is a full disk under the output.
#[test]
fn output_that_nobody_takes_ends_the_command_in_order() {
    let end_with = |out: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mkv"));
        let output = command.arg("--help").stdin(Stdio::null()).stdout(out).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (reader, writer) = std::io::pipe().expect("there are pipes");
    drop(reader);
    assert_eq!(end_with(writer.into()), (Some(1), String::new()));
    let full = fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let (code, said) = end_with(full.into());
    assert!(code == Some(1) && said.starts_with("mkv: standard output: No space left"), "{said}");
}

/// Printable characters and line breaks, in UTF-8.
#[track_caller]
fn is_tame(said: &str) {
    let wild = said.chars().find(|letter| letter.is_control() && *letter != '\n' || *letter == '\u{fffd}');
    assert_eq!(wild, None, "{said:?}");
}

#[test]
fn keys_that_would_drive_a_terminal_are_written_out_everywhere() {
    let volumes = volumes(3);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    master.put(EVIL, b"x");
    master.put("/plain", b"x");
    let (_, listed) = master.job_output(&["ls"]);
    is_tame(&listed);
    assert_eq!(listed, format!("live      {EVIL}\nlive      /plain\n"));
    let (_, listed) = master.job_output(&["ls", "--json"]);
    is_tame(&listed);
    let first: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!(first["key"], EVIL);
    // A finding about it, of a job in the server and of one on its index; and what its log says of it.
    let key = Key::from_request_path(EVIL).unwrap();
    let place = placer(&volumes, 3).placement(key.as_bytes())[0].clone();
    let volume = volumes.iter().find(|volume| place.as_str().starts_with(&volume.addr())).unwrap();
    let folder = place.as_str().strip_prefix(&volume.addr()).unwrap().trim_start_matches('/');
    let file = volume.dir().join(folder).join(&path_of(&key, File::Blob(None))[1..]);
    fs::write(&file, b"y").unwrap();
    fs::write(volume.dir().join("not\x1b[2Jours"), b"y").unwrap();
    for words in [&["scrub"][..], &["scrub", "--json"], &["jobs"], &["status"], &["volumes"]] {
        let (_, said) = master.job_words(words);
        is_tame(&said);
        assert!(words[0] != "scrub" || said.contains(EVIL), "{words:?}: {said}");
    }
    is_tame(&master.log());
    assert!(master.master.stop().success());
    let offline = Master::builder(&addresses(&volumes)).db(master.db()).build();
    for words in [&["scrub"][..], &["scrub", "--json"], &["verify-index"], &["rebuild"]] {
        let (_, said) = offline.job(words);
        is_tame(&said);
        assert!(words[0] != "scrub" || said.contains(EVIL), "{words:?}: {said}");
    }
    let (_, said) = offline.job(&["export", "/", &offline.own_dir().join("out").to_string_lossy()]);
    is_tame(&said);
    assert_eq!(entries_of(offline.db()).iter().filter(|(key, _)| key.starts_with(b"/")).count(), 2);
}

#[test]
fn what_a_server_says_is_written_out_too() {
    let evil = "HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: 33\r\nConnection: close\r\n\r\n\
                {\"error\":\"\\u001b]0;title\\u0007!\"}";
    let stub = TcpStub::saying(evil);
    for words in [&["status"][..], &["jobs", "stop", "1"], &["volume-mode", "a", "drain"]] {
        let (worked, said) = mkv(&[&["--admin", stub.addr()], words].concat());
        is_tame(&said);
        assert!(!worked && said.contains("\\u{1b}]0;title\\u{7}!"), "{said}");
    }
    let evil = "HTTP/1.1 409 No\r\nContent-Length: 8\r\nConnection: close\r\n\r\n\x1b[2J\u{9b}1\n";
    let stub = TcpStub::saying(evil);
    let (worked, said) = mkv(&["get", "/k", "x", "--server", stub.addr()]);
    is_tame(&said);
    assert!(!worked && said.contains("409: \\u{1b}[2J"), "{said}");
}

#[test]
fn what_a_volume_answers_is_no_command_to_the_terminal_that_shows_the_log() {
    let volumes = volumes(3);
    fs::write(volumes[0].dir().join("=cluster"), "\x1b[2J\u{9b}31m").unwrap();
    let (status, log) = Master::builder(&addresses(&volumes)).refusal();
    assert!(!status.success() && log.contains("\\u{1b}[2J"), "{log}");
    is_tame(&log);
}

#[test]
fn answers_are_there_for_programs_too() {
    let volumes = volumes(4);
    let mut master = Administered::start(Master::builder(&addresses(&volumes)));
    master.put("/k", b"x");
    let name = volumes[0].addr();
    let json = |master: &Master, words: &[&str]| -> Vec<Value> {
        let (_, said) = master.job_output(words);
        let values = serde_json::Deserializer::from_str(&said).into_iter::<Value>();
        values.map(|value| value.unwrap_or_else(|err| panic!("{words:?}: {err}: {said}"))).collect()
    };
    assert_eq!(json(&master, &["volume-mode", &name, "drain", "--json"])[0]["mode"], "drain");
    assert_eq!(json(&master, &["undrain", &name, "--json"])[0]["mode"], "alive");
    assert_eq!(json(&master, &["status", "--json"])[0]["volumes"], 4);
    assert_eq!(json(&master, &["volumes", "--json"])[0].as_array().unwrap().len(), 4);
    assert!(json(&master, &["rebalance", "--json"]).is_empty(), "nothing was found");
    assert_eq!(json(&master, &["jobs", "--json"])[0][0]["state"], "done");
    assert!(master.master.stop().success());
    let offline = Master::builder(&addresses(&volumes)).db(master.db()).build();
    assert_eq!(json(&offline, &["undrain", &name, "--json"])[0]["mode"], "alive");
    let preview = json(&offline, &["rebalance", "--dry-run", "--json"]);
    assert!(preview[0]["transfers"].as_array().unwrap().is_empty(), "{preview:?}");
    assert!(json(&offline, &["verify-index", "--json"]).is_empty());
    assert!(json(&offline, &["rebuild", "--json"])[0]["old_index"].is_string());
    let into = offline.own_dir().join("out").to_string_lossy().into_owned();
    assert_eq!(json(&offline, &["export", "--json", "/", &into])[0]["written"], 1);
}

/// The completions of a shell, in a file.
fn completions(dir: &TempDir, shell: &str) -> std::path::PathBuf {
    let (worked, script) = mkv(&["completions", shell]);
    assert!(worked && script.len() > 1000, "{script}");
    let file = dir.join(shell);
    fs::write(&file, script).unwrap();
    file
}

/// What bash would offer behind `words`.
fn offered(script: &Path, words: &[&str]) -> String {
    let line = "source \"$0\" && complete -p mkv >/dev/null && COMP_WORDS=(mkv \"$@\") && \
                COMP_CWORD=$(($# > 0 ? $# : 1)) && _mkv mkv \"${@: -1}\" && echo \"${COMPREPLY[*]}\"";
    let output = Command::new("bash").args(["-c", line]).arg(script).args(words).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn bash_completes_commands_and_flags() {
    let dir = TempDir::new();
    let script = completions(&dir, "bash");
    let parsed = Command::new("bash").arg("-n").arg(&script).output().unwrap();
    assert!(parsed.status.success() && parsed.stderr.is_empty(), "{parsed:?}");
    assert_eq!(offered(&script, &["rebu"]), "rebuild");
    assert_eq!(offered(&script, &["scrub", "--qui"]), "--quiet --quick");
    assert!(offered(&script, &["jobs", ""]).contains("stop"));
    assert_eq!(offered(&script, &["put", "--repl"]), "--replace");
}

#[test]
fn the_other_shells_have_completions_as_well() {
    let dir = TempDir::new();
    assert!(fs::read_to_string(completions(&dir, "zsh")).unwrap().starts_with("#compdef mkv"));
    assert!(fs::read_to_string(completions(&dir, "fish")).unwrap().contains("-a \"rebuild\""));
    let (worked, said) = mkv(&["completions", "tcsh"]);
    assert!(!worked && said.contains("is not bash, zsh or fish"), "{said}");
}

#[test]
fn the_help_says_what_each_command_is_for() {
    let (worked, help) = mkv(&["--help"]);
    assert!(worked && help.starts_with("mkv ") && help.contains("a distributed key-value store"), "{help}");
    let commands: Vec<&str> = help
        .split_once("COMMANDS:\n")
        .and_then(|(_, rest)| rest.split_once("\n\nFLAGS"))
        .expect("the help has both")
        .0
        .lines()
        .filter_map(|line| line.strip_prefix("    ").filter(|line| !line.starts_with(' '))?.split(' ').next())
        .collect();
    assert!(commands.len() >= 19, "{commands:?}");
    let said_first = |command: &str| {
        let (worked, help) = mkv(&[command, "--help"]);
        assert!(worked, "{help}");
        help.lines().nth(1).expect("it says what it is for").to_owned()
    };
    for command in commands {
        let words = said_first(command);
        // The line is the command's own, not that of something it shares with others.
        assert!(help.contains(&words[..words.len().min(40)]), "{command}: {words}");
    }
    assert_eq!(mkv(&[]).1.trim(), help.trim(), "it is also what no command at all shows");
}
