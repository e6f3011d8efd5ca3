//! Volumes that hold blobs already, as a master would have placed them, and the jobs that are run on them.

use crate::Outcome;
use crate::cluster::{SUBVOLUMES, master_program, volume_dir, volumes};
use crate::process::{Process, peak_rss_mib};
use crate::put::noise;
use crate::scratch::Place;
use minikeyvalue::model::{File, Key, Placer, Replica, path_of};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const REPLICAS: usize = 3;

/// How often a running job is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Volumes, of which the first `holding` hold the blobs. All ends, and goes, with this value.
pub(crate) struct Filled {
    pub(crate) names: Vec<String>,
    holding: usize,
    _volumes: Vec<Process>,
    place: Place,
}

/// What is in them.
pub(crate) struct Contents {
    pub(crate) keys: u64,
    pub(crate) bytes: usize,
    /// One file with many names: a million files take as much room as one, and are listed the same.
    pub(crate) linked: bool,
}

/// A job that has ended well.
pub(crate) struct Ended {
    pub(crate) seconds: f64,
    pub(crate) peak_rss_mib: f64,
}

/// The key of a number.
pub(crate) fn key(number: u64) -> String {
    format!("/filled/{number:016x}")
}

impl Filled {
    pub(crate) fn new(parent: &Path, count: usize, holding: usize, contents: &Contents) -> Outcome<Filled> {
        let place = Place::new(parent, "filled")?;
        let (processes, names) = volumes(&place.0, count)?;
        let filled = Filled { names, holding, _volumes: processes, place };
        // A tmpfs has inodes for some three million names by default, and a million keys need more.
        let hint = "if names ran out: mount -o remount,nr_inodes=0 /dev/shm";
        filled.fill(contents).map_err(|err| format!("filling {}: {err} ({hint})", parent.display()))?;
        Ok(filled)
    }

    fn fill(&self, contents: &Contents) -> Outcome<()> {
        let placer = self.placer(self.holding)?;
        let mut content = noise(contents.bytes);
        let original = self.place.0.join("original");
        fs::write(&original, &content)?;
        let mut made = HashSet::new();
        for number in 0..contents.keys {
            let key = Key::from_request_path(&key(number)).expect("the keys of the bench are keys");
            let stamp = number.to_le_bytes();
            content[..stamp.len()].copy_from_slice(&stamp);
            for replica in placer.placement(key.as_bytes()) {
                let path = self.file(&replica, &path_of(&key, File::Blob(None)));
                let folder = path.parent().expect("it lies in a folder");
                if !made.contains(folder) {
                    fs::create_dir_all(folder)?;
                    made.insert(folder.to_owned());
                }
                match contents.linked {
                    true => fs::hard_link(&original, path)?,
                    false => fs::write(path, &content)?,
                }
            }
        }
        Ok(())
    }

    pub(crate) fn placer(&self, count: usize) -> Outcome<Placer> {
        let volumes = self.names[..count].iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        Ok(Placer::new(volumes, REPLICAS, SUBVOLUMES))
    }

    /// Where a file of a replica lies.
    pub(crate) fn file(&self, replica: &Replica, path: &str) -> PathBuf {
        let (volume, folder) = replica.as_str().split_once('/').unwrap_or((replica.as_str(), ""));
        let number = self.names.iter().position(|name| name == volume).expect("it is one of ours") + 1;
        volume_dir(&self.place.0, number).join(folder).join(path.trim_start_matches('/'))
    }

    /// The directories of the volumes that hold blobs.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        (1..=self.holding).map(|number| volume_dir(&self.place.0, number)).collect()
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.place.0.join("indexdb")
    }

    /// The master's program, told of the first `count` volumes.
    pub(crate) fn command(&self, count: usize, words: &[&str]) -> Outcome<Command> {
        let mut command = Command::new(master_program()?);
        command.arg("--db").arg(self.index()).args(["--volumes", &self.names[..count].join(",")]);
        command.args(["--grace", "1s"]).args(words).env("RUST_LOG", "error");
        Ok(command)
    }

    /// Runs a job on the first `count` volumes to its end.
    pub(crate) fn job(&self, count: usize, words: &[&str]) -> Outcome<Ended> {
        let begun = Instant::now();
        let mut child = self.command(count, words)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut peak = 0.0_f64;
        let status = loop {
            // What is read of a process that has just ended is nothing.
            peak = peak.max(peak_rss_mib(child.id()));
            match child.try_wait()? {
                Some(status) => break status,
                None => std::thread::sleep(LOOK_EVERY),
            }
        };
        match status.success() {
            true => Ok(Ended { seconds: begun.elapsed().as_secs_f64(), peak_rss_mib: peak }),
            false => Err(format!("{words:?} ended with {status}").into()),
        }
    }

    /// Seconds that one `md5sum` takes over the files of these directories.
    pub(crate) fn md5sum(dirs: &[PathBuf]) -> Outcome<f64> {
        let begun = Instant::now();
        let script = r#"find "$@" -type f -size +1k -print0 | xargs -0 md5sum >/dev/null"#;
        let status = Command::new("sh").args(["-c", script, "sh"]).args(dirs).status()?;
        match status.success() {
            true => Ok(begun.elapsed().as_secs_f64()),
            false => Err(format!("md5sum ended with {status}").into()),
        }
    }
}
