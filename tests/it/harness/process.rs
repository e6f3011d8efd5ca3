//! Signals and facts about processes, by process id and never by name.

use super::wait::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::net::SocketAddrV4;

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

/// How many connections `pid` has open to `addr`, an IPv4 address with its port: whether it is at work there.
pub fn connections(pid: u32, addr: &str) -> usize {
    let addr: SocketAddrV4 = addr.parse().expect("an address");
    // As the kernel shows it: the bytes of the address in the machine's order, the port as a number.
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port());
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let to_addr = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns.get(2) == Some(&remote.as_str())).then(|| format!("socket:[{}]", columns[9]))
    });
    let sockets: BTreeSet<String> = to_addr.collect();
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    links.filter(|link| sockets.contains(&*link.to_string_lossy())).count()
}

/// The words that a list of processes shows of `pid`.
pub fn command_line(pid: u32) -> String {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
    String::from_utf8_lossy(&words).into_owned()
}

/// The letter that the kernel shows for what a process does; `None` if there is no such process.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `pid (name) state …`, and a name may contain parentheses.
    stat.rsplit(") ").next()?.chars().next()
}
