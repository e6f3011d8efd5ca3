//! How connections to volumes come to be, and the pools that keep them: one pool for reads, one for writes,
//! because they differ in how long an answer may take.
//!
//! What happens on a connection afterwards is [`super::wire`]'s.

use super::introduction::{Behind, Introduction};
use super::patience::Patience;
use super::wire::Wire;
use super::{Addresses, Timeouts};
use actix_rt::net::TcpStream;
use actix_rt::task::spawn_blocking;
use actix_rt::time::timeout;
use actix_service::fn_service;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use awc::http::uri::Authority;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Connections of one pool in use at the same time. awc's default of 100 counts all volumes together, so that one
/// hung volume would starve the others; here the file limit of the process comes first.
const MAX_CONNECTIONS: usize = 16_384;

/// An idle connection is not used again after this time: well before nginx closes it (75 s by default).
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(15);

/// Connections that are kept and connections that were never used before.
pub(super) struct Pool {
    kept: awc::Client,
    fresh: awc::Client,
}

/// Connections for what is asked and for what is written, which differ in how long an answer may take.
pub(super) struct Pools {
    pub(super) reads: Pool,
    pub(super) writes: Pool,
}

impl Pools {
    pub(super) fn new(timeouts: Timeouts, introduction: &Introduction) -> Pools {
        Pools {
            reads: Pool::new(timeouts, timeouts.answer, introduction),
            writes: Pool::new(timeouts, timeouts.write, introduction),
        }
    }
}

/// Which of a pool's connections a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// An idle one if there is one.
    Any,
    /// One that is made for this request.
    Fresh,
}

impl Pool {
    /// A pool whose volumes may take `answer` until the first byte of an answer.
    fn new(timeouts: Timeouts, answer: Duration, introduction: &Introduction) -> Pool {
        let patience = Patience { answer, progress: timeouts.write };
        Pool {
            kept: client(timeouts, patience, introduction.clone(), IDLE_LIMIT),
            fresh: client(timeouts, patience, introduction.clone(), Duration::ZERO),
        }
    }

    pub(super) fn client(&self, age: Age) -> &awc::Client {
        match age {
            Age::Any => &self.kept,
            Age::Fresh => &self.fresh,
        }
    }
}

fn client(
    timeouts: Timeouts,
    patience: Patience,
    introduction: Introduction,
    idle_limit: Duration,
) -> awc::Client {
    let service = fn_service(move |info: ConnectInfo<Uri>| {
        let introduction = introduction.clone();
        async move {
            let uri = info.request().clone();
            let wire = connect(&uri, timeouts, patience, &introduction).await?;
            Ok::<_, ConnectError>(Connection::new(uri, wire))
        }
    });
    let connector = awc::Connector::new()
        .connector(service)
        .limit(MAX_CONNECTIONS)
        .conn_keep_alive(idle_limit)
        // Longer than both of our own limits together, so that it is ours that strikes and says what it was.
        .timeout((timeouts.connect + timeouts.write) * 2);
    awc::ClientBuilder::new().connector(connector).disable_timeout().disable_redirects().finish()
}

/// A connection to the server of `uri`, which has shown which volume it is.
pub(super) async fn connect(
    uri: &Uri,
    timeouts: Timeouts,
    patience: Patience,
    introduction: &Introduction,
) -> Result<Wire, ConnectError> {
    let stream = async || connect_stream(uri, introduction.addresses(), timeouts.connect).await;
    let mut wire = Wire::new(stream().await?, patience);
    match introduction.of(&mut wire, uri).await.map_err(ConnectError::Io)? {
        Behind::Stays => Ok(wire),
        // What it does is looked at every second all the same.
        Behind::Closes => Ok(Wire::new(stream().await?, patience)),
    }
}

/// Tries every address of the volume in turn; a `localhost` may listen on either family. Names and addresses
/// together take `limit` at most.
async fn connect_stream(
    uri: &Uri,
    addresses: &Addresses,
    limit: Duration,
) -> Result<TcpStream, ConnectError> {
    match timeout(limit, connect_any(uri, addresses, limit)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Io(timed_out(limit))),
    }
}

async fn connect_any(uri: &Uri, addresses: &Addresses, limit: Duration) -> Result<TcpStream, ConnectError> {
    let addresses = resolve(uri, addresses).await?;
    let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = None;
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Head and body of a small request leave in one segment; nothing is gained by waiting for an ACK.
                stream.set_nodelay(true).map_err(ConnectError::Io)?;
                return Ok(stream);
            }
            Ok(Err(err)) => last = Some(err),
            Err(_) => last = Some(timed_out(share)),
        }
    }
    Err(last.map_or(ConnectError::NoRecords, ConnectError::Io))
}

async fn resolve(uri: &Uri, addresses: &Addresses) -> Result<Vec<SocketAddr>, ConnectError> {
    let name = uri.authority().ok_or(ConnectError::Unresolved)?.as_str();
    let authority: Authority = addresses.of(name).parse().map_err(|_| ConnectError::Unresolved)?;
    let place = match authority.port() {
        Some(_) => authority.to_string(),
        None => format!("{authority}:80"),
    };
    if let Ok(address) = place.parse() {
        return Ok(vec![address]);
    }
    if let (true, Some(port)) = (is_localhost(authority.host()), port_of(&place)) {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    let found = spawn_blocking(move || place.to_socket_addrs().map(Iterator::collect)).await;
    found.map_err(|err| ConnectError::Io(io::Error::other(err)))?.map_err(ConnectError::Io)
}

/// RFC 6761: the name is always the loopback. Many hosts files give it one family only, and nginx may listen on the
/// other.
fn is_localhost(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
}

fn port_of(place: &str) -> Option<u16> {
    place.rsplit_once(':')?.1.parse().ok()
}

fn timed_out(limit: Duration) -> io::Error {
    let text = format!("no connection within {} ms", limit.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, text)
}
