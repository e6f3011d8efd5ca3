//! Ports for servers that take a number and must get the same one again after a restart.
//!
//! Asking the kernel for any free port isn't enough: between the answer and the server's start (and while it
//! is stopped) another test could get the same one. So a port is leased, by the name of an abstract socket,
//! which the kernel gives to one process only and takes back when that process ends, however it ends.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which Linux takes the ports of outgoing connections (from 32768), so that no client
/// sits on one by chance; above those that people use for servers.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static TRIED: AtomicU16 = AtomicU16::new(0);

/// A TCP port that is nobody else's among the running tests.
#[derive(Debug)]
pub struct PortLease {
    port: u16,
    _name: UnixListener,
}

impl PortLease {
    pub fn new() -> Self {
        // Processes begin far apart, so that they rarely meet: a prime as step.
        let start = (std::process::id().wrapping_mul(7919) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let offset = (start + TRIED.fetch_add(1, Ordering::Relaxed)) % COUNT;
            if let Some(lease) = Self::take(FIRST + offset) {
                return lease;
            }
        }
        panic!("no free port between {FIRST} and {}", FIRST + COUNT);
    }

    /// A port that somebody else has chosen. Panics when it is in use.
    pub fn exactly(port: u16) -> Self {
        Self::try_exactly(port).unwrap_or_else(|| panic!("port {port} is in use"))
    }

    /// The same, `None` when it is in use.
    pub fn try_exactly(port: u16) -> Option<Self> {
        Self::take(port)
    }

    fn take(port: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("mkv-test-port-{port}")).ok()?;
        let name = UnixListener::bind_addr(&name).ok()?;
        // Servers outside of the tests know nothing of leases.
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
        match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
            Err(err) if err.kind() == std::io::ErrorKind::AddrInUse => None,
            _ => Some(Self { port, _name: name }),
        }
    }

    /// The same port once more, for a server on another address.
    pub fn again(&self) -> Self {
        Self { port: self.port, _name: self._name.try_clone().expect("it can be duplicated") }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}
