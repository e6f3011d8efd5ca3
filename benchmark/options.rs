//! The command line of `./bench`.

use std::path::PathBuf;

/// What to measure, and how thoroughly.
pub(crate) struct Options {
    /// Each thing once and briefly: two or three minutes on an idle machine.
    pub(crate) quick: bool,
    /// Where the figures go for machines; `-` is standard output.
    pub(crate) json: Option<String>,
    /// A directory on a real disk, for what is measured there.
    pub(crate) disk: PathBuf,
    chosen: Vec<String>,
}

impl Options {
    /// Reads the words after the program's name. `None` if they only asked for help.
    pub(crate) fn parse(words: &[String], names: &[&str]) -> Result<Option<Options>, String> {
        let mut options =
            Options { quick: false, json: None, disk: PathBuf::from("bench-data"), chosen: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => options.quick = true,
                "--json" => options.json = Some(words.next().ok_or("--json needs a file, or -")?.clone()),
                "--disk" => options.disk = words.next().ok_or("--disk needs a directory")?.into(),
                "-h" | "--help" => {
                    println!("{}", usage(names));
                    return Ok(None);
                }
                name if names.contains(&name) => options.chosen.push(name.into()),
                other => return Err(format!("there is no {other:?}\n{}", usage(names))),
            }
        }
        Ok(Some(options))
    }

    /// Whether the measurement of this name is to be done.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.chosen.is_empty() || self.chosen.iter().any(|chosen| chosen == name)
    }

    /// How often two things that are compared take turns; the middle one counts.
    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 1 } else { 5 }
    }

    /// How long one turn lasts.
    pub(crate) fn seconds(&self) -> u64 {
        if self.quick { 2 } else { 5 }
    }
}

fn usage(names: &[&str]) -> String {
    format!(
        "usage: ./bench [--quick] [--json FILE|-] [--disk DIR] [NAME...]\n\n\
         Measures what is named, or everything: {}.\n\n  \
         --quick   two or three minutes; without the figures of an index of 10 million records\n  \
         --json    the figures for machines, to a file or, with -, to standard output\n  \
         --disk    where data on a real disk goes for as long as it is measured (./bench-data)",
        names.join(", ")
    )
}
