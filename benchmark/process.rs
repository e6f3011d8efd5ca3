//! The processes of a run: started so that they end with it, and looked at through /proc.

use crate::{Outcome, scratch};
use actix_rt::signal::unix::{SignalKind, signal};
use futures_util::future::select;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Kernel ticks per second in /proc/PID/stat; Linux shows 100 whatever it uses itself.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process that hasn't ended this long after SIGTERM is killed.
const END_LIMIT: Duration = Duration::from_secs(5);

static RUNNING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// A process that ends with this value.
pub(crate) struct Process(Child);

impl Process {
    /// Starts `program`; the kernel ends it should this process be killed.
    pub(crate) fn start(program: &Command) -> Outcome<Process> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        // Volumes say where they serve; the master's words are few and wanted.
        if program.get_program().to_string_lossy().ends_with("volume") {
            command.stderr(Stdio::null());
        }
        let child = command.spawn()?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(child.id() as i32);
        Ok(Process(child))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let id = self.0.id() as i32;
        end(&[id], || self.has_ended());
        let _ = self.0.wait();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|running| *running != id);
    }
}

fn end(ids: &[i32], mut have_ended: impl FnMut() -> bool) {
    let send = |signal| {
        for id in ids {
            // An error means that it has ended already.
            let _ = kill(Pid::from_raw(*id), signal);
        }
    };
    send(Signal::SIGTERM);
    let limit = Instant::now() + END_LIMIT;
    while !have_ended() {
        if Instant::now() > limit {
            return send(Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// From now on Ctrl-C and SIGTERM end what was started, remove the data, and end this process.
pub(crate) fn stop_at_signals() {
    std::thread::spawn(|| {
        actix_rt::System::new().block_on(async {
            let mut terminate = signal(SignalKind::terminate()).expect("signals can be received");
            let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be received");
            select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
        });
        let ids = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clone();
        end(&ids, || ids.iter().all(|id| is_gone(*id)));
        scratch::remove_all();
        std::process::exit(130);
    });
}

/// Ended; whether somebody has waited for it doesn't matter.
fn is_gone(id: i32) -> bool {
    stat_fields(id as u32).is_none_or(|fields| fields.first().is_some_and(|state| state == "Z"))
}

/// The fields of /proc/PID/stat from the state on.
fn stat_fields(id: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// CPU seconds that a process and its children have used so far.
pub(crate) fn cpu_seconds(id: u32) -> f64 {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    own_cpu_seconds(id) + children.map(own_cpu_seconds).sum::<f64>()
}

fn own_cpu_seconds(id: u32) -> f64 {
    let fields = stat_fields(id).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime.
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// Resident memory now, in MiB.
pub(crate) fn rss_mib(id: u32) -> f64 {
    status_mib(id, "VmRSS:")
}

/// The most resident memory since the start or [`forget_peak`], in MiB.
pub(crate) fn peak_rss_mib(id: u32) -> f64 {
    status_mib(id, "VmHWM:")
}

/// Lets the peak begin anew.
pub(crate) fn forget_peak(id: u32) -> Outcome<()> {
    Ok(fs::write(format!("/proc/{id}/clear_refs"), "5")?)
}

fn status_mib(id: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib: f64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN);
    kib / 1024.0
}
