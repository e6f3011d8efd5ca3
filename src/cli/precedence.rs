//! A flag wins over the environment, the environment over the file of `--config`, and that over the default: the file's
//! values are put on the command line, where nobody has said anything else.

use super::{Arguments, BOOLEANS, VALUED};
use crate::settings::{Entry, Kind, Origin, Setting, Settings, SettingsFile, variable};
use std::ffi::OsString;
use std::path::Path;
use structopt::StructOpt;
use structopt::clap::{ArgMatches, Error, ErrorKind};

/// Settings that are lists.
const LISTS: [&str; 3] = ["volumes", "address", "advertise"];

/// A command line in one spelling, flags of the cluster first.
pub(super) struct Words {
    pub(super) program: Option<OsString>,
    pub(super) flags: Vec<OsString>,
    pub(super) rest: Vec<OsString>,
}

impl Words {
    /// Parses it twice: first alone, which finds the file, then with what the file adds.
    pub(super) fn parse(self) -> Result<Arguments, Error> {
        let alone = self.matches(&[]).map_err(|err| explained(err, &self.settings(None, None)))?;
        let path = alone.value_of_os("config").filter(|path| !path.is_empty()).map(Path::new);
        let file = path
            .map(|path| SettingsFile::read(path, kind_of))
            .transpose()
            .map_err(|err| Error::with_description(&err.to_string(), ErrorKind::ValueValidation))?;
        let entries = file.as_ref().map_or(&[][..], |file| &file.entries);
        let matches =
            self.matches(entries).map_err(|err| explained(err, &self.settings(file.clone(), None)))?;
        let settings = self.settings(file, Some(&matches));
        Ok(Arguments { settings, ..Arguments::from_clap(&matches) })
    }

    fn matches(&self, entries: &[Entry]) -> Result<ArgMatches<'static>, Error> {
        let unsaid = entries.iter().filter(|entry| self.said(&entry.name).is_none());
        let added = unsaid.map(|entry| OsString::from(format!("--{}={}", entry.name, entry.value)));
        let all = self.program.iter().cloned().chain(added).chain(self.flags.iter().cloned());
        Arguments::app().get_matches_from_safe(all.chain(self.rest.iter().cloned()))
    }

    /// Whether the setting stands on the command line or in the environment.
    fn said(&self, name: &str) -> Option<Origin> {
        let is_it = |word: &OsString| {
            let text = word.to_str().and_then(|text| text.strip_prefix("--")).unwrap_or("");
            text.split('=').next() == Some(name)
        };
        let is_flag = self.flags.iter().any(is_it);
        let is_variable = || std::env::var_os(variable(name)).is_some();
        is_flag.then_some(Origin::Flag).or_else(|| is_variable().then_some(Origin::Environment))
    }

    /// What holds, with its values if they are known.
    fn settings(&self, file: Option<SettingsFile>, matches: Option<&ArgMatches<'_>>) -> Settings {
        let entries = file.as_ref().map_or(&[][..], |file| &file.entries);
        let line =
            |name| entries.iter().find(|entry| entry.name == name).map(|entry| Origin::File(entry.line));
        let setting = |name: &&'static str| Setting {
            name,
            value: matches.and_then(|matches| Some(matches.value_of_lossy(name)?.into_owned())),
            origin: self.said(name).or_else(|| line(*name)).unwrap_or(Origin::Default),
        };
        Settings::new(VALUED.iter().chain(&BOOLEANS).map(setting).collect(), file)
    }
}

/// What the file may set: every flag of the cluster but the one that names the file.
fn kind_of(name: &str) -> Option<Kind> {
    match name {
        "config" => None,
        _ if LISTS.contains(&name) => Some(Kind::List),
        _ if BOOLEANS.contains(&name) => Some(Kind::Boolean),
        _ => VALUED.contains(&name).then_some(Kind::Text),
    }
}

/// A value that can't be is told with the place where it stands.
fn explained(err: Error, settings: &Settings) -> Error {
    match err.kind {
        ErrorKind::ValueValidation => Error { message: settings.explain(&err.message), ..err },
        _ => err,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_the_cluster_is_a_variable_and_a_setting_of_the_file() {
        let usage = Arguments::usage().split_whitespace().collect::<Vec<_>>().join(" ");
        for name in VALUED.iter().chain(&BOOLEANS) {
            let (_, about) =
                usage.split_once(&format!("--{name} <")).unwrap_or_else(|| panic!("no --{name}"));
            // The next flag's, if it had none.
            let (_, found) = about.split_once("[env: ").expect("a variable");
            assert!(found.starts_with(&format!("{}]", variable(name))), "{name}: {found}");
            assert!(kind_of(name).is_some() != (*name == "config"), "{name}");
        }
        assert_eq!(usage.matches("[env: MKV_").count(), VALUED.len() + BOOLEANS.len());
    }

    #[test]
    fn every_setting_is_told_of_once_and_stands_in_the_example() {
        let (manual, example) =
            (include_str!("../../docs/operations.md"), include_str!("../../deploy/mkv.toml.example"));
        let (_, table) = manual.split_once("## Configuration").expect("the section is there");
        let rows: String = table.lines().skip_while(|line| !line.starts_with('|')).take(4).collect();
        for name in VALUED.iter().chain(&BOOLEANS).filter(|name| **name != "config") {
            assert_eq!(rows.matches(&format!("`{name}`")).count(), 1, "{name}: {rows}");
            let is_it = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{name} = "));
            let is_secret = ["userpass", "admin-token"].contains(name);
            assert_eq!(example.lines().filter(|line| is_it(line)).count(), usize::from(!is_secret), "{name}");
        }
    }
}
