//! What the command line means: checked once, and then trusted by everybody.

use crate::api::ApiOptions;
use crate::cli::{Arguments, Sync};
use crate::logs::Verbosity;
use crate::model::{KeyError, Placer, Volume};
use crate::rate_source::RateFileError;
use crate::settings::Settings;
use crate::store::{BodyLimits, StoreOptions};
use crate::volume::Addresses;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Everything that a server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory of the index.
    pub db: PathBuf,
    /// Whether writes are durable before they are answered.
    pub sync: Sync,
    /// The address to listen on; `None` for all.
    pub listen: Option<IpAddr>,
    /// The port to listen on.
    pub port: u16,
    /// Volumes, replicas and subvolumes.
    pub placer: Placer,
    /// How long a volume may take to answer a question.
    pub voltimeout: Duration,
    /// `user:password` for the server's own requests.
    pub userpass: Option<String>,
    /// Where the admin port is; `None` for nowhere.
    pub admin: Option<SocketAddr>,
    /// What has to be shown to act there.
    pub admin_token: Option<String>,
    /// How often everything is scrubbed; `None` for never.
    pub scrub_every: Option<Duration>,
    /// Take over volumes of another cluster.
    pub adopt: bool,
    /// Start without looking whether another master is alive.
    pub takeover: bool,
    /// Where volumes are found that are not where their names say.
    pub addresses: Addresses,
    /// For the store.
    pub store: StoreOptions,
    /// For the HTTP side.
    pub api: ApiOptions,
    /// What is logged.
    pub verbosity: Verbosity,
    /// What all this was made from.
    pub settings: Settings,
}

/// A command line that asks for what can't be.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No index.
    #[error("--db is missing: say where the index is, as --db /var/lib/mkv/indexdb")]
    NoDb,
    /// Something is no volume.
    #[error(transparent)]
    Volume(#[from] crate::model::VolumeError),
    /// Something in the list is no volume.
    #[error("--volumes: {0}")]
    Volumes(#[source] crate::model::VolumeError),
    /// No volume at all, where there is no number of replicas to miss.
    #[error("--volumes is missing: say which, as --volumes host:3001,host:3002")]
    NoVolumes,
    /// A file that tells no rate.
    #[error(transparent)]
    RateFile(#[from] RateFileError),
    /// Not the beginning of a key.
    #[error("KEY-PREFIX: {0}")]
    Prefix(#[from] KeyError),
    /// A volume stands twice in the list.
    #[error("--volumes: {0} is given twice; replicas of a blob must be on different volumes")]
    Twice(Volume),
    /// Not one of the cluster's.
    #[error("{0} is none of the volumes in --volumes")]
    NoSuchVolume(Volume),
    /// Nothing would be read.
    #[error("--allow-missing leaves out every volume, and from none an index can be made")]
    AllMissing,
    /// No replica at all.
    #[error("--replicas must be at least 1")]
    NoReplicas,
    /// More replicas than volumes.
    #[error("--replicas {replicas} needs as many volumes, and --volumes names {volumes}")]
    TooFewVolumes {
        /// How many there have to be.
        replicas: usize,
        /// How many there are.
        volumes: usize,
    },
    /// Out of range.
    #[error("--subvolumes must be from 1 to 256, not {0}")]
    Subvolumes(u32),
    /// Not `internal=public`.
    #[error("--advertise {0:?} is not internal=public")]
    Advertise(String),
    /// Not `name=host:port`, or a name twice.
    #[error("--address {0:?} is not NAME=HOST:PORT, once for each name")]
    Address(String),
    /// Not `user:password`.
    #[error("--userpass must be user:password")]
    Userpass,
    /// Both ways of giving it.
    #[error("--userpass and --userpass-file are both given; one of them is enough")]
    UserpassTwice,
    /// Both ways of giving it.
    #[error("--admin-token and --admin-token-file are both given; one of them is enough")]
    AdminTokenTwice,
    /// The file with a secret can't be read.
    #[error("{flag} {file:?} can't be read: {reason}")]
    SecretFile {
        /// Which.
        flag: &'static str,
        /// The file.
        file: String,
        /// What the system says.
        reason: String,
    },
    /// There is no secret in the file.
    #[error("{flag} {file:?} has nothing in its first line")]
    NoSecret {
        /// Which.
        flag: &'static str,
        /// The file.
        file: String,
    },
    /// Not a host.
    #[error("--fallback {0:?} is not a host or host:port")]
    Fallback(String),
}

/// The most subvolumes that a placement can name with two hex digits.
const MAX_SUBVOLUMES: u32 = 256;

impl Config {
    /// Checks `arguments`.
    pub fn new(arguments: &Arguments) -> Result<Config, ConfigError> {
        Ok(Config {
            db: Config::db(arguments)?,
            sync: arguments.sync,
            listen: arguments.listen,
            port: arguments.port,
            placer: placer(arguments)?,
            voltimeout: arguments.voltimeout,
            userpass: Config::userpass(arguments)?,
            admin: arguments.admin,
            admin_token: Config::admin_token(arguments)?,
            scrub_every: Some(arguments.scrub_every).filter(|every| !every.is_zero()),
            adopt: arguments.adopt,
            takeover: arguments.takeover,
            addresses: Config::addresses(arguments)?,
            store: StoreOptions {
                md5sum: arguments.md5sum,
                protect: arguments.protect,
                check: arguments.check,
                grace: arguments.grace,
            },
            api: ApiOptions {
                fallback: fallback(given(&arguments.fallback))?,
                basicauth: arguments.basicauth,
                advertise: advertised_to_clients(arguments)?,
                body: BodyLimits { no_progress: arguments.bodytimeout },
            },
            verbosity: arguments.verbosity(),
            settings: arguments.settings.clone(),
        })
    }
}

impl Config {
    /// The configuration as the command line, the environment and the files have it now, in the hands of `make`. The error
    /// is one line for the log.
    pub fn read_again(make: impl Fn(&Arguments) -> Result<Config, ConfigError>) -> Result<Config, String> {
        let one_line = |text: &str| text.trim_start_matches("error: ").replace('\n', " ");
        let arguments = Arguments::parse(std::env::args_os()).map_err(|err| one_line(&err.message))?;
        make(&arguments).map_err(|err| one_line(&arguments.settings.explain(&err.to_string())))
    }

    /// The index alone, for what needs nothing else.
    pub fn db(arguments: &Arguments) -> Result<PathBuf, ConfigError> {
        given(&arguments.db).map(PathBuf::from).ok_or(ConfigError::NoDb)
    }

    /// What is read without an index: `--volumes`, where an element may also be a [directory](Volume::in_directory).
    pub fn sources(arguments: &Arguments) -> Result<Vec<Volume>, ConfigError> {
        let parse = |name: &str| {
            Volume::in_directory(name).map_or_else(|| name.parse().map_err(ConfigError::Volumes), Ok)
        };
        let volumes = names(arguments).map(parse).collect::<Result<Vec<Volume>, ConfigError>>()?;
        if volumes.is_empty() { Err(ConfigError::NoVolumes) } else { each_once(volumes) }
    }

    /// The volumes alone, at least one.
    pub fn volumes(arguments: &Arguments) -> Result<Vec<Volume>, ConfigError> {
        let volumes = names(arguments).map(str::parse).collect::<Result<Vec<Volume>, _>>();
        let volumes = volumes.map_err(ConfigError::Volumes)?;
        if volumes.is_empty() { Err(ConfigError::NoVolumes) } else { each_once(volumes) }
    }

    /// Where volumes are found that are not where their names say.
    pub fn addresses(arguments: &Arguments) -> Result<Addresses, ConfigError> {
        Ok(Addresses::new(addresses(arguments)?))
    }

    /// `user:password` for the volumes.
    pub fn userpass(arguments: &Arguments) -> Result<Option<String>, ConfigError> {
        match (given(&arguments.userpass), given(&arguments.userpass_file)) {
            (Some(_), Some(_)) => Err(ConfigError::UserpassTwice),
            (None, Some(file)) => userpass(Some(&first_line("--userpass-file", file)?)),
            (text, None) => userpass(text),
        }
    }

    /// What has to be shown on the admin port.
    pub fn admin_token(arguments: &Arguments) -> Result<Option<String>, ConfigError> {
        match (given(&arguments.admin_token), given(&arguments.admin_token_file)) {
            (Some(_), Some(_)) => Err(ConfigError::AdminTokenTwice),
            (None, Some(file)) => Ok(Some(first_line("--admin-token-file", file)?)),
            (token, None) => Ok(token.map(str::to_owned)),
        }
    }
}

fn names(arguments: &Arguments) -> impl Iterator<Item = &str> {
    given(&arguments.volumes).into_iter().flat_map(|list| list.split(','))
}

fn each_once(volumes: Vec<Volume>) -> Result<Vec<Volume>, ConfigError> {
    let mut seen = BTreeSet::new();
    match volumes.iter().find(|volume| !seen.insert(volume.as_str())) {
        Some(twice) => Err(ConfigError::Twice(twice.clone())),
        None => Ok(volumes),
    }
}

fn placer(arguments: &Arguments) -> Result<Placer, ConfigError> {
    let volumes = names(arguments).map(str::parse).collect::<Result<_, _>>();
    let volumes = each_once(volumes.map_err(ConfigError::Volumes)?)?;
    let replicas = arguments.replicas;
    if replicas < 1 {
        return Err(ConfigError::NoReplicas);
    }
    if volumes.len() < replicas {
        return Err(ConfigError::TooFewVolumes { replicas, volumes: volumes.len() });
    }
    if !(1..=MAX_SUBVOLUMES).contains(&arguments.subvolumes) {
        return Err(ConfigError::Subvolumes(arguments.subvolumes));
    }
    Ok(Placer::new(volumes, replicas, arguments.subvolumes))
}

/// An empty value means the same as none, as in the Go original.
fn given(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|text| !text.is_empty())
}

/// The secret in `file`: its first line.
fn first_line(flag: &'static str, file: &str) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|err| {
        let reason = err.to_string();
        ConfigError::SecretFile { flag, file: file.into(), reason }
    })?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.into()),
        _ => Err(ConfigError::NoSecret { flag, file: file.into() }),
    }
}

fn userpass(text: Option<&str>) -> Result<Option<String>, ConfigError> {
    match text {
        Some(text) if !text.contains(':') => Err(ConfigError::Userpass),
        text => Ok(text.map(str::to_owned)),
    }
}

/// A fallback is an address just as a volume is.
fn fallback(text: Option<&str>) -> Result<Option<String>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    let host = text.parse::<Volume>().map_err(|_| ConfigError::Fallback(text.into()))?;
    Ok(Some(host.to_string()))
}

/// `--address`: servers' names with their addresses.
fn addresses(arguments: &Arguments) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut found = BTreeMap::new();
    let pairs = given(&arguments.address).unwrap_or("").split(',').filter(|pair| !pair.is_empty());
    for pair in pairs {
        let parsed = pair.split_once('=').and_then(|(name, address)| Some((server(name)?, server(address)?)));
        let Some((name, address)) = parsed else { return Err(ConfigError::Address(pair.into())) };
        if found.insert(name, address).is_some() {
            return Err(ConfigError::Address(pair.into()));
        }
    }
    Ok(found)
}

/// `host:port`, without a path.
fn server(text: &str) -> Option<String> {
    text.parse::<Volume>().ok().filter(|volume| !volume.as_str().contains('/'))?;
    Some(text.to_owned())
}

/// Clients are told the address of a volume too, where nothing else is advertised.
fn advertised_to_clients(arguments: &Arguments) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut told = addresses(arguments)?;
    told.extend(advertise(given(&arguments.advertise).unwrap_or(""))?);
    Ok(told)
}

fn advertise(text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs.map(|pair| advertised(pair).ok_or_else(|| ConfigError::Advertise(pair.into()))).collect()
}

fn advertised(pair: &str) -> Option<(String, String)> {
    let (internal, public) = pair.split_once('=')?;
    internal.parse::<Volume>().ok()?;
    public.parse::<Volume>().ok()?;
    Some((internal.into(), public.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<Config, ConfigError> {
        let words = line.split(' ').map(std::ffi::OsString::from);
        Config::new(&Arguments::parse(words).expect("the flags themselves are right"))
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let cases = [
            ("mkv -volumes a,b,c server", "--db is missing"),
            ("mkv -db x server", "--volumes names 0"),
            ("mkv -db x -volumes a,b server", "needs as many volumes"),
            ("mkv -db x -volumes a,b,a server", "given twice"),
            ("mkv -db x -volumes a,b, server", "is no volume"),
            ("mkv -db x -volumes http://a,b,c server", "is no volume"),
            ("mkv -db x -volumes a,b,c -replicas 0 server", "at least 1"),
            ("mkv -db x -volumes a,b,c -subvolumes 0 server", "1 to 256"),
            ("mkv -db x -volumes a,b,c -subvolumes 257 server", "1 to 256"),
            ("mkv -db x -volumes a,b,c -advertise a server", "internal=public"),
            ("mkv -db x -volumes a,b,c -userpass me server", "user:password"),
            ("mkv -db x -volumes a,b,c -userpass a:b -userpass-file x server", "both given"),
            ("mkv -db x -volumes a,b,c -userpass-file /nonexistent server", "can't be read"),
            ("mkv -db x -volumes a,b,c -userpass-file /dev/null server", "nothing in its first line"),
            ("mkv -db x -volumes a,b,c -admin-token a -admin-token-file x server", "both given"),
            ("mkv -db x -volumes a,b,c -admin-token-file /nonexistent server", "can't be read"),
            ("mkv -db x -volumes a,b,c -admin-token-file /dev/null server", "nothing in its first line"),
            ("mkv -db x -volumes a,b,c -fallback http://x server", "is not a host"),
        ];
        for (line, expected) in cases {
            let err = check(line).expect_err(line).to_string();
            assert!(err.contains(expected), "{line}: {err}");
        }
    }

    #[test]
    fn a_whole_command_line_is_taken() {
        let config =
            check("mkv -db x -volumes a:1,b:1/d,c -advertise a:1=h:9 -fallback other:3000 server").unwrap();
        assert_eq!(config.placer.volumes().len(), 3);
        assert_eq!(config.api.advertise.get("a:1").map(String::as_str), Some("h:9"));
    }
}
