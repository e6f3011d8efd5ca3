//! Why no connection can be made: told apart by asking the system once more, step by step.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// nginx's, where a volume names none.
const DEFAULT_PORT: u16 = 80;

/// In words, why `authority` (`host[:port]`) can't be reached. Blocks for up to `limit` for each of its addresses.
pub(super) fn why_unreachable(authority: &str, limit: Duration) -> String {
    let (host, port) = split(authority);
    let addresses = match addresses(host, port) {
        Ok(addresses) if !addresses.is_empty() => addresses,
        _ => return format!("the name {host} doesn't resolve: is it spelled right?"),
    };
    let mut last = ErrorKind::NotFound;
    for address in addresses {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(_) => return "it could not be reached, and a moment later it could: try again".to_owned(),
            Err(err) => last = err.kind(),
        }
    }
    match last {
        ErrorKind::ConnectionRefused => {
            format!("not started: nothing listens on port {port} of {host}, or it is another port")
        }
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            format!("no connection to {host} within {limit:?}: is the machine on, and its firewall open?")
        }
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            format!("there is no way to {host} on the network")
        }
        other => format!("it can't be reached: {other}"),
    }
}

fn split(authority: &str) -> (&str, u16) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(DEFAULT_PORT)),
        _ => (authority, DEFAULT_PORT),
    }
}

/// `localhost` is the loopback of both families, as everywhere here.
fn addresses(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()]);
    }
    Ok((host, port).to_socket_addrs()?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_from_an_address() {
        for (authority, expected) in
            [("a:1", ("a", 1)), ("a", ("a", 80)), ("[::1]:7", ("[::1]", 7)), ("[::1]", ("[::1]", 80))]
        {
            assert_eq!(split(authority), expected);
        }
        assert_eq!(addresses("[::1]", 7).unwrap(), vec![(Ipv6Addr::LOCALHOST, 7).into()]);
    }
}
