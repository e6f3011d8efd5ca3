//! A client that hides nothing: any method, no redirect followed, no status turned into an error; and a bare
//! socket for what no client would send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

use ureq::http::{HeaderMap, Request};

/// Longer than any timeout of the server, so that its answer is seen and not ours.
const TIMEOUT: Duration = Duration::from_secs(90);

/// What came back.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Response {
    /// The first value of a header, names in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("the header is ASCII"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one request with `Content-Length` (none when `body` is empty and the method needs none) and reads
/// the whole answer. Panics when there is none.
#[track_caller]
pub fn http(method: &str, url: &str, body: &[u8], headers: &[(&str, &str)]) -> Response {
    try_http(method, url, body, headers).unwrap_or_else(|err| panic!("{method} {url}: {err}"))
}

/// GET without headers.
#[track_caller]
pub fn get(url: &str) -> Response {
    http("GET", url, b"", &[])
}

/// The same where the server may be gone.
pub fn try_http(
    method: &str,
    url: &str,
    body: &[u8],
    headers: &[(&str, &str)],
) -> Result<Response, ureq::Error> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = if body.is_empty() && method != "PUT" {
        agent().run(request.body(())?)?
    } else {
        agent().run(request.body(body)?)?
    };
    let (parts, body) = response.into_parts();
    let mut bytes = Vec::new();
    body.into_reader().read_to_end(&mut bytes)?;
    Ok(Response { status: parts.status.as_u16(), headers: parts.headers, body: bytes })
}

fn agent() -> &'static ureq::Agent {
    static AGENT: OnceLock<ureq::Agent> = OnceLock::new();
    AGENT.get_or_init(|| {
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(TIMEOUT))
            // A server that was killed and started again must not be met on the old connection.
            .max_idle_connections(0)
            .proxy(None)
            .build()
            .into()
    })
}

/// Sends `bytes` as they are, then reads until the other side closes (ask for it with `Connection: close`) or
/// is silent for ten seconds.
#[track_caller]
pub fn raw(addr: &str, bytes: &[u8]) -> Vec<u8> {
    try_raw(addr, bytes).unwrap_or_else(|err| panic!("connect to {addr}: {err}"))
}

/// The same where nobody may listen, which is the only error.
pub fn try_raw(addr: &str, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout above zero");
    // A server may answer and close before it has read everything; its answer counts, not our broken pipe.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(answer)
}
