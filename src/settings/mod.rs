//! The settings of the cluster, and where each comes from: a flag wins over the environment, the environment over the
//! file of `--config`, and that over the default. Never shows a secret. What values mean is for others: [`crate::cli`]
//! parses them, [`crate::config`] checks them.

mod file;

pub use file::{Entry, FileError, Kind, SettingsFile};

use log::{info, warn};
use std::fmt;
use std::path::PathBuf;

/// Settings whose values are shown to nobody.
const SECRETS: [&str; 2] = ["userpass", "admin-token"];

/// How the environment variables of all settings begin.
const PREFIX: &str = "MKV_";

/// Variables of the scripts, and of single commands.
const OTHER_VARIABLES: [&str; 3] = ["MKV_HOME", "MKV_BIN", "MKV_SERVER"];

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// `MKV_NAME`.
    Environment,
    /// A line of the file, from 1.
    File(usize),
    /// Nobody has said anything.
    Default,
}

/// A setting as it holds.
#[derive(Clone)]
pub struct Setting {
    /// The flag without dashes.
    pub name: &'static str,
    /// As on a command line; `None` if there is neither a value nor a default.
    pub value: Option<String>,
    /// Who says so.
    pub origin: Origin,
}

/// All settings of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    all: Vec<Setting>,
    /// The file of `--config`, and whether everybody can read it.
    file: Option<(PathBuf, bool)>,
}

/// The environment variable of a setting.
pub fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase().replace('-', "_"))
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// `name=value (origin)`.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.as_deref().unwrap_or("");
        match SECRETS.contains(&self.name) && !value.is_empty() {
            true => write!(f, "{}=(set)", self.name)?,
            false => write!(f, "{}={}", self.name, value.escape_debug())?,
        }
        f.write_str(match self.origin {
            Origin::Flag => " (flag)",
            Origin::Environment => " (environment)",
            Origin::File(_) => " (file)",
            Origin::Default => " (default)",
        })
    }
}

impl Settings {
    /// `all`, some of them out of `file`.
    pub fn new(all: Vec<Setting>, file: Option<SettingsFile>) -> Settings {
        Settings { all, file: file.map(|file| (file.path, file.is_public)) }
    }

    /// Says what holds, on one line, and warns of a password that lies open.
    pub fn log(&self) {
        let set = self.all.iter().filter(|setting| setting.value.is_some());
        let set: Vec<String> = set.map(Setting::to_string).collect();
        info!("configuration: {}", set.join(", "));
        self.warn_of_unknown_variables();
        self.warn_if_open();
    }

    /// A misspelt variable would go unnoticed. Not refused, as others name theirs so too: our scripts, and whoever gives
    /// containers the addresses of their neighbours.
    fn warn_of_unknown_variables(&self) {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let is_known = |name: &str| {
            self.all.iter().any(|setting| variable(setting.name) == name) || OTHER_VARIABLES.contains(&name)
        };
        for name in names.filter(|name| name.starts_with(PREFIX) && !is_known(name)) {
            warn!("{name} is no setting of ours and has no effect");
        }
    }

    /// Warns of a password in a file that everybody on the machine can read.
    pub fn warn_if_open(&self) {
        let is_secret =
            |setting: &Setting| SECRETS.contains(&setting.name) && matches!(setting.origin, Origin::File(_));
        if let Some((path, true)) = &self.file
            && self.all.iter().any(is_secret)
        {
            warn!("{path:?} has a password in it and can be read by everybody; chmod o-r it");
        }
    }

    /// Notes what a command takes where nobody has said anything.
    pub fn assume(&mut self, name: &str, value: &str) {
        let unset = |setting: &&mut Setting| setting.name == name && setting.value.is_none();
        if let Some(setting) = self.all.iter_mut().find(unset) {
            setting.value = Some(value.into());
        }
    }

    /// The names of the settings that have another value in `new`.
    pub fn changed_in(&self, new: &Settings) -> impl Iterator<Item = &'static str> {
        let pairs = self.all.iter().zip(&new.all);
        pairs.filter(|(old, new)| old.value != new.value).map(|(old, _)| old.name)
    }

    /// `new`, but for those settings that stay as they are here.
    pub fn replaced_by(&self, new: &Settings, stay: &[&str]) -> Settings {
        let pairs = self.all.iter().zip(&new.all);
        let all = pairs.map(|(old, new)| if stay.contains(&old.name) { old } else { new }).cloned();
        Settings { all: all.collect(), file: new.file.clone() }
    }

    /// The message, with the place of each setting that it names as `--name` and that doesn't stand on the command line.
    pub fn explain(&self, message: &str) -> String {
        let named = self.all.iter().filter(|setting| names(message, setting.name));
        let places: Vec<String> = named.filter_map(|setting| self.place_of(setting)).collect();
        if places.is_empty() { message.into() } else { format!("{message} ({})", places.join(", ")) }
    }

    fn place_of(&self, setting: &Setting) -> Option<String> {
        let name = setting.name;
        match (setting.origin, &self.file) {
            (Origin::Environment, _) => Some(format!("{name} is from {}", variable(name))),
            (Origin::File(line), Some((path, _))) => Some(format!("{name} is from {path:?}, line {line}")),
            _ => None,
        }
    }
}

/// Whether `--name` stands in the message.
fn names(message: &str, name: &str) -> bool {
    let mut words = message.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
    words.any(|word| word.strip_prefix("--") == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_shown() {
        let setting = |value: &str| Setting {
            name: "userpass",
            value: Some(value.into()),
            origin: Origin::Environment,
        };
        assert_eq!(setting("me:hunter2").to_string(), "userpass=(set) (environment)");
        assert_eq!(format!("{:?}", setting("me:hunter2")), "userpass=(set) (environment)");
        assert_eq!(setting("").to_string(), "userpass= (environment)");
    }

    #[test]
    fn a_flag_is_not_taken_for_a_longer_one() {
        assert!(names("--userpass and --x are both given", "userpass"));
        assert!(names("Invalid value for '--port <PORT>': x", "port"));
        assert!(!names("--userpass-file can't be read", "userpass") && !names("port", "port"));
    }
}
