//! One volume, tried out: who answers there, what time it is, whose it is, and PUT, GET and DELETE in each place where
//! blobs go. What it can't tell apart it says together.

use super::Report;
use super::reach::why_unreachable;
use crate::model::{CLUSTER_PATH, Replica, TRIAL_PATH, Volume};
use crate::volume::{EntryKind, Greeting, Removal, Shown, Timeouts, VolumeClient, VolumeError};
use bytes::Bytes;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Enough to need room on a drive, and little enough for forty volumes at once.
const CONTENT_BYTES: usize = 64 * 1024;

/// A clock that is off by more than this, in seconds, is a problem: files get their times from the master's.
const CLOCK_TOLERANCE_SECONDS: f64 = 2.0;

/// What a `=cluster` file may have, in bytes; a longer one is nobody's id.
const MAX_ID_BYTES: usize = 128;

/// nginx, and what is made of it.
const KINDS_OF_NGINX: [&str; 5] = ["nginx", "openresty", "angie", "tengine", "freenginx"];

const VANISHED: &str = "what was written is not there: do two servers share the address?";

const STAYS: &str = "it takes files and doesn't remove them: nginx must let DELETE reach files three folders deep (min_delete_depth)";

/// How to try a volume out.
pub(super) struct Trial<'a> {
    pub(super) client: &'a VolumeClient,
    pub(super) volume: &'a Volume,
    pub(super) timeouts: Timeouts,
    pub(super) subvolumes: u32,
    /// Whether `client` shows a password.
    pub(super) has_password: bool,
}

impl Trial<'_> {
    pub(super) async fn run(self) -> Report {
        let mut report = Report { volume: self.volume.to_string(), ..Report::default() };
        report.problems = match self.who_answers().await {
            Err(problem) => vec![problem],
            Ok(greeting) => {
                let mut problems: Vec<String> = clock_problem(&greeting).into_iter().collect();
                report.durable = greeting.durable;
                report.cluster = self.cluster().await;
                if let Ok(Shown::Is(file)) = self.client.shown(&self.volume.root()).await {
                    report.identity = Some(file.id.to_string());
                    report.first_name = Some(file.name);
                }
                let places = self.places().await.unwrap_or_else(|problem| {
                    problems.push(problem);
                    vec![self.volume.root()]
                });
                self.try_places(&places, &mut problems).await;
                problems
            }
        };
        report.ok = report.problems.is_empty();
        report
    }

    /// Nothing is written where something else than nginx answers: it could be anybody's.
    async fn who_answers(&self) -> Result<Greeting, String> {
        let root = self.volume.root();
        let begun = Instant::now();
        let greeting = match self.client.greet(&root).await {
            Ok(greeting) => greeting,
            Err(VolumeError::Unreachable { reason, .. }) => {
                let (authority, limit) = (root.authority().to_owned(), self.timeouts.connect);
                let why = move || why_unreachable(&authority, limit);
                return Err(actix_rt::task::spawn_blocking(why).await.unwrap_or(reason));
            }
            Err(_) if begun.elapsed() >= self.timeouts.answer => return Err(self.hangs("HEAD")),
            Err(err) => {
                return Err(format!("wrong port? what answers there speaks no HTTP ({})", reason_of(err)));
            }
        };
        if greeting.status == 401 {
            return Err(self.password_problem());
        }
        let server = greeting.server.to_ascii_lowercase();
        if KINDS_OF_NGINX.iter().any(|kind| server.starts_with(kind)) {
            return Ok(greeting);
        }
        let name = if server.is_empty() { "doesn't say what it is" } else { &greeting.server };
        Err(format!("wrong port? what answers there is not nginx ({name}); nothing was written to it"))
    }

    fn password_problem(&self) -> String {
        match self.has_password {
            true => "wrong password: it refuses the user or password of --userpass (401)".to_owned(),
            false => "it asks for a user and password (401): give -userpass user:password, or MKV_USERPASS"
                .to_owned(),
        }
    }

    fn hangs(&self, method: &str) -> String {
        let limit =
            if matches!(method, "PUT" | "DELETE") { self.timeouts.write } else { self.timeouts.answer };
        format!("it hangs: it takes the connection and doesn't answer {method} within {limit:?}")
    }

    async fn cluster(&self) -> Option<String> {
        let content = self.client.get(&self.volume.root(), CLUSTER_PATH, MAX_ID_BYTES).await.ok()??;
        Some(String::from_utf8_lossy(content.trim_ascii()).into_owned())
    }

    /// Every subvolume that is there, as each may be a drive of its own; else the root. None is made here: to the Go
    /// original's rebuild a volume with one is a volume without blobs in its root.
    async fn places(&self) -> Result<Vec<Replica>, String> {
        let found = self.list().await?;
        let is_used = |name: &&String| {
            let number = u32::from_str_radix(name.strip_prefix("sv").unwrap_or(""), 16);
            self.subvolumes > 1 && number.is_ok_and(|number| number < self.subvolumes)
        };
        let subvolumes = found.iter().filter(is_used).filter_map(|name| self.volume.subvolume(name));
        let places: Vec<Replica> = subvolumes.collect();
        Ok(if places.is_empty() { vec![self.volume.root()] } else { places })
    }

    /// The names of the directories below the root.
    async fn list(&self) -> Result<Vec<String>, String> {
        let entries = self.client.entries(&self.volume.root(), "").await.map_err(|err| {
            format!(
                "its folders can't be listed, which rebuild and scrub need ({}): nginx needs autoindex on and \
                 autoindex_format json, as ./volume sets them",
                reason_of(err)
            )
        })?;
        let directories = entries.into_iter().filter(|entry| entry.kind == EntryKind::Directory);
        Ok(directories.filter_map(|entry| String::from_utf8(entry.name).ok()).collect())
    }

    /// What is wrong in all places in the same way is said once. A place that hangs is the last that is asked.
    async fn try_places(&self, places: &[Replica], problems: &mut Vec<String>) {
        let mut faults = Vec::<(String, Vec<&str>)>::new();
        for place in places {
            let Err(fault) = self.try_place(place).await else { continue };
            let name =
                place.as_str().strip_prefix(self.volume.as_str()).unwrap_or("").trim_start_matches('/');
            let hangs = fault == self.hangs("PUT");
            match faults.iter_mut().find(|(same, _)| *same == fault) {
                Some((_, names)) => names.push(name),
                None => faults.push((fault, vec![name])),
            }
            if hangs {
                break;
            }
        }
        for (fault, names) in faults {
            problems.push(match names.len() == places.len() {
                true => fault,
                false => format!("{}: {fault}", names.join(", ")),
            });
        }
    }

    /// Once more where the file vanished in between: somebody else's check at the same time uses the same one.
    async fn try_place(&self, place: &Replica) -> Result<(), String> {
        match self.try_once(place).await {
            Err(fault) if [VANISHED, STAYS].contains(&fault.as_str()) => self.try_once(place).await,
            tried => tried,
        }
    }

    async fn try_once(&self, place: &Replica) -> Result<(), String> {
        let content = Bytes::from(vec![b'.'; CONTENT_BYTES]);
        let begun = Instant::now();
        let written = self.client.put(place, TRIAL_PATH, content.clone(), now_us()).await;
        let read = match written {
            Err(VolumeError::Refused { status: 500, .. }) => return Err(self.why_not_written(place).await),
            Err(VolumeError::NoAnswer { .. }) if begun.elapsed() >= self.timeouts.write => {
                Err(self.hangs("PUT"))
            }
            Err(err) => Err(self.refusal("PUT", err)),
            Ok(()) => match self.client.get(place, TRIAL_PATH, CONTENT_BYTES).await {
                Ok(Some(read)) if read == content => Ok(()),
                Ok(Some(_)) => Err("it gives back something else than was written".to_owned()),
                Ok(None) => Err(VANISHED.to_owned()),
                Err(err) => Err(self.refusal("GET", err)),
            },
        };
        // Also where the PUT had no answer, as it may have been carried out.
        let removed = self.client.delete(place, TRIAL_PATH).await;
        read?;
        match removed {
            Ok(Removal::Removed) => Ok(()),
            Ok(Removal::Absent) => Err(STAYS.to_owned()),
            Err(err) => Err(self.refusal("DELETE", err)),
        }
    }

    /// nginx answers 500 to whatever its drive refuses. A file without content needs no room.
    async fn why_not_written(&self, place: &Replica) -> String {
        let empty = self.client.put(place, TRIAL_PATH, Bytes::new(), now_us()).await;
        let _ = self.client.delete(place, TRIAL_PATH).await;
        match empty {
            Ok(()) => "no space: the drive takes an empty file and none of 64 KiB (500)".to_owned(),
            Err(_) => "nothing can be written (500): the drive is read-only, full to the last byte, or not nginx's to \
                       write; nginx's error log says which"
                .to_owned(),
        }
    }

    fn refusal(&self, method: &str, err: VolumeError) -> String {
        let Some(status) = err.status() else {
            return format!("it breaks off a {method}: {}", reason_of(err));
        };
        let meaning = match status {
            401 => return self.password_problem(),
            403 => "its configuration forbids it, or the files are not nginx's to change",
            405 => "no DAV: nginx needs dav_methods PUT DELETE, as ./volume sets it",
            409 => "a file is where a folder should be, or a folder where a file should be",
            411 | 413 => "its configuration limits bodies: nginx needs client_max_body_size 0",
            503 => "its drive is not mounted (or nginx has too much to do)",
            507 => "no space: the drive is full",
            _ => "this is not how a volume answers; wrong port?",
        };
        format!("it answers {status} to {method}: {meaning}")
    }
}

fn clock_problem(greeting: &Greeting) -> Option<String> {
    let ahead = greeting.clock_ahead_seconds.filter(|ahead| ahead.abs() > CLOCK_TOLERANCE_SECONDS)?;
    let direction = if ahead > 0.0 { "ahead of" } else { "behind" };
    let off = Duration::from_secs(ahead.abs() as u64);
    Some(format!(
        "its clock is {} {direction} this machine's: does NTP run on both?",
        indicatif::HumanDuration(off)
    ))
}

/// The failure without the volume's name, which stands before it.
fn reason_of(err: VolumeError) -> String {
    match err {
        VolumeError::NoAnswer { reason, .. }
        | VolumeError::Unreachable { reason, .. }
        | VolumeError::NoListing { reason, .. } => reason,
        VolumeError::Refused { status, .. } => format!("it answers {status}"),
        other => other.to_string(),
    }
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
