//! How fast a job is to go: what `--rate` says once, or a file that may say something else while the job runs.

use crate::cli::PaceArguments;
use crate::maintenance::Rate;
use log::{info, warn};
use nix::fcntl::OFlag;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A line that is longer is no rate.
const MAX_LINE_BYTES: u64 = 256;

/// The file tells no rate.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("--rate-file {path:?}: {reason}")]
pub struct RateFileError {
    path: PathBuf,
    reason: String,
}

/// Where a job's rate comes from.
#[derive(Debug, Default)]
pub struct RateSource {
    rate: Option<Rate>,
    file: Option<PathBuf>,
    /// What was last found wrong with the file, so that it is told once.
    fault: Option<RateFileError>,
}

impl RateSource {
    /// What the command line names; a file must tell a rate now.
    pub fn new(flags: &PaceArguments) -> Result<RateSource, RateFileError> {
        let read_rate = flags.rate_file.as_deref().map(read).transpose()?;
        Ok(RateSource { rate: flags.rate.or(read_rate), file: flags.rate_file.clone(), fault: None })
    }

    /// The rate that holds; `None` if nobody named one.
    pub fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// The file's rate, if it is another one than before. While the file tells none, what it told last holds.
    pub fn changed(&mut self) -> Option<Rate> {
        let found = read(self.file.as_deref()?);
        let fault = found.as_ref().err();
        if let Some(err) = fault.filter(|err| self.fault.as_ref() != Some(err)) {
            warn!("{err}; the rate stays what it was");
        }
        match found {
            Ok(rate) => {
                self.fault = None;
                let is_new = self.rate.replace(rate) != Some(rate);
                is_new.then(|| info!("the rate is {rate} from now on")).map(|()| rate)
            }
            Err(err) => {
                self.fault = Some(err);
                None
            }
        }
    }
}

fn read(path: &Path) -> Result<Rate, RateFileError> {
    let line = first_line(path).map_err(|err| err.to_string());
    let rate = line.and_then(|line| line.trim().parse());
    rate.map_err(|reason| RateFileError { path: path.to_owned(), reason })
}

fn first_line(path: &Path) -> io::Result<String> {
    let mut line = String::new();
    // A pipe into which nobody writes has no line, and must not hold up the job.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    BufReader::new(file.take(MAX_LINE_BYTES)).read_line(&mut line)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A path that only one test uses; what is there is removed when the test ends, however it does.
    struct TempPath(PathBuf);

    impl TempPath {
        fn new(name: &str) -> TempPath {
            TempPath(std::env::temp_dir().join(format!("mkv-rate-{name}-{}", std::process::id())))
        }
    }

    impl Drop for TempPath {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_pipe_into_which_nobody_writes_holds_up_nothing() {
        let path = TempPath::new("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path.0).status().expect("coreutils are there");
        assert!(made.success());
        let flags = PaceArguments { rate: None, rate_file: Some(path.0.clone()) };
        // In a thread of its own, so that the test ends either way.
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || ended.send(RateSource::new(&flags).is_err()));
        assert_eq!(end.recv_timeout(std::time::Duration::from_secs(10)), Ok(true));
    }

    #[test]
    fn a_files_rate_is_followed_and_nonsense_changes_nothing() {
        let file = TempPath::new("file");
        let path = &file.0;
        let flags = PaceArguments { rate: None, rate_file: Some(path.clone()) };
        assert!(RateSource::new(&flags).is_err(), "there is no such file");
        fs::write(path, "100\n").unwrap();
        let mut source = RateSource::new(&flags).unwrap();
        let rate = |text: &str| Some(text.parse::<Rate>().unwrap());
        assert_eq!((source.rate(), source.changed()), (rate("100"), None));
        for (content, expected) in [
            ("7,2MB # per second", None),
            ("7,2MB\n# by night", rate("7,2MB")),
            ("", None),
            ("unlimited", rate("unlimited")),
        ] {
            fs::write(path, content).unwrap();
            assert_eq!(source.changed(), expected, "{content:?}");
        }
        fs::remove_file(path).unwrap();
        assert_eq!((source.changed(), source.rate()), (None, rate("unlimited")));
    }
}
