//! Signals and facts about processes, by process id and never by name.

use super::wait::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends `signal`; a process that is gone already is fine.
pub fn send(pid: u32, signal: Signal) {
    match kill(Pid::from_raw(pid as i32), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(err) => panic!("can't send {signal} to process {pid}: {err}"),
    }
}

/// The children of `pid`: of an nginx its workers.
pub fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|child| child.parse().expect("the kernel lists numbers")).collect()
}

/// True when `pid` has ended, also if nobody has collected its exit status yet.
pub fn is_gone(pid: u32) -> bool {
    state(pid).is_none_or(|state| matches!(state, 'Z' | 'X'))
}

/// Stops `pid`, and returns when it has stopped, which takes a while where it runs on another core.
pub fn stop(pid: u32) {
    send(pid, Signal::SIGSTOP);
    eventually("it has stopped", || state(pid).is_none_or(|state| state == 'T'));
}

/// The letter that the kernel shows for what a process does; `None` if there is no such process.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `pid (name) state …`, and a name may contain parentheses.
    stat.rsplit(") ").next()?.chars().next()
}
