//! The architecture, as a test: dependencies point one way, and each foreign thing has one home.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module with the modules of this crate that it may name.
const MAY_USE: [(&str, &[&str]); 20] = [
    ("model", &[]),
    ("metrics", &[]),
    ("index", &["model"]),
    ("volume", &["model"]),
    ("store", &["index", "volume", "model"]),
    ("maintenance", &["store", "index", "volume", "model"]),
    ("api", &["maintenance", "store", "index", "volume", "metrics", "model"]),
    ("text", &[]),
    ("logs", &["text"]),
    ("settings", &[]),
    ("cli", &["logs", "settings", "maintenance", "store", "model"]),
    ("rate_source", &["cli", "maintenance"]),
    ("config", &["logs", "settings", "cli", "rate_source", "api", "store", "volume", "model"]),
    ("shown", &["text", "maintenance"]),
    ("client", &["cli", "config", "shown", "text", "model"]),
    ("check", &["cli", "config", "text", "volume", "model"]),
    ("remote", &["cli", "rate_source", "shown", "text", "maintenance"]),
    (
        "job",
        &[
            "remote",
            "rate_source",
            "shown",
            "text",
            "cli",
            "config",
            "maintenance",
            "store",
            "index",
            "volume",
            "model",
        ],
    ),
    (
        "server",
        &["cli", "logs", "config", "api", "maintenance", "store", "index", "volume", "metrics", "model"],
    ),
    ("up", &["cli", "config", "server"]),
];

/// Words that may stand in one place only.
const HOMES: [(&str, &str); 4] = [
    ("rusty_leveldb", "src/index/leveldb"),
    ("awc::", "src/volume"),
    ("actix_web::http", "src/api"),
    ("structopt", "src/cli"),
];

#[test]
fn modules_use_only_what_is_below_them() {
    let mut faults = Vec::new();
    for (module, allowed) in MAY_USE {
        for (path, text) in sources_of(module) {
            for used in uses_of_crate(&text) {
                if used != module && !allowed.contains(&used.as_str()) {
                    faults.push(format!("{} uses {used}", path.display()));
                }
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn every_module_has_its_place_in_the_order() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("the crate has a root");
    let declared: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut ordered: Vec<&str> = MAY_USE.iter().map(|(module, _)| *module).collect();
    ordered.sort_unstable();
    assert_eq!(declared, ordered);
}

#[test]
fn foreign_things_have_one_home() {
    let mut faults = Vec::new();
    for (path, text) in all_sources() {
        let name =
            path.strip_prefix(root()).expect("sources are below the root").to_string_lossy().into_owned();
        for (word, home) in HOMES {
            let exempt = name.starts_with(home) || (word == "structopt" && name == "src/main.rs");
            if !exempt && code_lines(&text).any(|line| line.contains(word)) {
                faults.push(format!("{name} names {word}, whose home is {home}"));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    let silent = all_sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    assert_eq!(silent.map(|(path, _)| path).collect::<Vec<_>>(), Vec::<PathBuf>::new());
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn all_sources() -> Vec<(PathBuf, String)> {
    let sources = rust_files(&root().join("src"));
    assert!(sources.len() > 30, "only {} sources were found", sources.len());
    sources
}

fn sources_of(module: &str) -> Vec<(PathBuf, String)> {
    let (file, folder) = (root().join(format!("src/{module}.rs")), root().join(format!("src/{module}")));
    let mut sources = rust_files(&folder);
    sources.extend(fs::read_to_string(&file).map(|text| (file, text)));
    assert!(!sources.is_empty(), "there is no module {module}");
    sources
}

fn rust_files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("the sources can be listed").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).expect("sources are text");
            files.push((path, text));
        }
    }
    files
}

/// Lines that are no comments.
fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The modules behind each `crate::`.
fn uses_of_crate(text: &str) -> Vec<String> {
    let code: Vec<&str> = code_lines(text).collect();
    let code = code.join("\n");
    let names = code.split("crate::").skip(1);
    let is_of_name = |letter: &char| letter.is_ascii_lowercase() || *letter == '_';
    names.map(|rest| rest.chars().take_while(is_of_name).collect()).collect()
}
