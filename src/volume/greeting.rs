//! Who answers on a volume's address, for a person who wants to know what is wrong: what server it says it is, and what
//! time it is there, and whether what it acknowledges survives a power cut.

use super::error::Call;
use super::{VolumeClient, VolumeError};
use crate::model::{CLUSTER_PATH, Replica};
use awc::ClientResponse;
use awc::http::Method;
use awc::http::header::{DATE, HttpDate, SERVER};
use std::time::{Duration, SystemTime};

/// What an answer's head tells of the server, whatever its status.
#[derive(Debug, Clone, PartialEq)]
pub struct Greeting {
    /// The status.
    pub status: u16,
    /// The `Server` header; empty if there is none.
    pub server: String,
    /// How many seconds its clock is ahead of ours, less than 0 if it is behind; 0 within what can be told, a second
    /// and the time that the answer took. `None` if it has no `Date`.
    pub clock_ahead_seconds: Option<f64>,
    /// Whether it was started with `DURABLE=1`, which the script `volume` has it say in every answer.
    pub durable: bool,
}

/// The header in which a durable volume says so; nginx has none of that name.
const DURABLE: &str = "mkv-durable";

impl VolumeClient {
    /// Asks for the head of a small file that need not be there.
    pub async fn greet(&self, replica: &Replica) -> Result<Greeting, VolumeError> {
        let asked = SystemTime::now();
        let call = Call { method: "HEAD", replica, path: CLUSTER_PATH };
        let response = self.ask(&self.pools().reads, Method::HEAD, call).await?;
        let answered = SystemTime::now();
        let server = response.headers().get(SERVER).map(|value| value.as_bytes()).unwrap_or_default();
        Ok(Greeting {
            status: response.status().as_u16(),
            server: String::from_utf8_lossy(server).into_owned(),
            clock_ahead_seconds: date_of(&response).map(|date| ahead_seconds(date, asked, answered)),
            durable: is_durable(&response),
        })
    }
}

fn date_of(response: &ClientResponse) -> Option<SystemTime> {
    let date: HttpDate = response.headers().get(DATE)?.to_str().ok()?.parse().ok()?;
    Some(date.into())
}

fn is_durable(response: &ClientResponse) -> bool {
    response.headers().get(DURABLE).is_some_and(|value| value.as_bytes() == b"1")
}

/// `date` is cut to seconds, and was written at some moment between `asked` and `answered`.
fn ahead_seconds(date: SystemTime, asked: SystemTime, answered: SystemTime) -> f64 {
    let between = |earlier: SystemTime, later: SystemTime| {
        later.duration_since(earlier).unwrap_or(Duration::ZERO).as_secs_f64()
    };
    between(answered, date) - between(date + Duration::from_secs(1), asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_no_more_than_what_is_certain() {
        let at = |seconds: f64| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds);
        for (date, asked, answered, expected) in [
            (100.0, 100.0, 100.1, 0.0),
            (100.0, 100.9, 100.95, 0.0),
            (99.0, 98.5, 100.5, 0.0),
            (105.0, 100.0, 100.5, 4.5),
            (95.0, 100.0, 100.5, -4.0),
        ] {
            let ahead = ahead_seconds(at(date), at(asked), at(answered));
            assert!((ahead - expected).abs() < 1e-6, "{date} between {asked} and {answered}: {ahead}");
        }
    }
}
