//! Who may do what on the admin port.

use super::error::AdminError;
use actix_web::ResponseError;
use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{Method, header};
use actix_web::middleware::Next;
use arc_swap::ArcSwapOption;
use std::net::IpAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What has to be shown to act, if anything; may be exchanged while the server runs.
pub type Token = Arc<ArcSwapOption<String>>;

/// Decides on every request before it is handled.
#[derive(Clone)]
pub struct Guard {
    token: Token,
    is_local: bool,
}

impl Guard {
    /// For a port on `address`. Reading needs no token; acting needs it where there is one, and is otherwise possible only
    /// where nobody else can reach the port.
    pub fn new(address: IpAddr, token: Token) -> Guard {
        Guard { token, is_local: address.is_loopback() }
    }

    /// The middleware.
    pub async fn check<B: MessageBody + 'static>(
        &self,
        request: ServiceRequest,
        next: Next<B>,
    ) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, actix_web::Error> {
        match self.decide(&request) {
            Ok(()) => Ok(next.call(request).await?.map_into_left_body()),
            Err(err) => Ok(request.into_response(err.error_response()).map_into_right_body()),
        }
    }

    fn decide(&self, request: &ServiceRequest) -> Result<(), AdminError> {
        let token = self.token.load();
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        if !is_same_site(text(header::ORIGIN), text(header::HOST)) {
            return Err(AdminError::CrossSite);
        }
        // A name that somebody else's DNS made point here is not how a person calls this machine.
        if self.is_local && token.is_none() && !text(header::HOST).is_none_or(is_local_name) {
            return Err(AdminError::CrossSite);
        }
        let is_action = !matches!(*request.method(), Method::GET | Method::HEAD);
        let shown = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        match (&*token, shown) {
            _ if !is_action => Ok(()),
            (None, _) if self.is_local => Ok(()),
            (None, _) => Err(AdminError::NeedsToken),
            (Some(_), None) => Err(AdminError::NoToken),
            (Some(token), Some(shown)) if token.as_bytes().ct_eq(shown.as_bytes()).into() => Ok(()),
            (Some(_), Some(_)) => Err(AdminError::WrongToken),
        }
    }
}

/// Browsers send `Origin` with everything that a page of another site makes them do (the Fetch standard).
fn is_same_site(origin: Option<&str>, host: Option<&str>) -> bool {
    let Some(origin) = origin else { return true };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some() && authority == host
}

fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_sites_are_told_apart() {
        let host = Some("localhost:3900");
        assert!(is_same_site(None, host) && is_same_site(Some("http://localhost:3900"), host));
        for origin in ["http://evil.example", "null", "", "http://localhost", "https://localhost:3900.evil"] {
            assert!(!is_same_site(Some(origin), host), "{origin}");
        }
    }

    #[test]
    fn names_of_this_machine_are_known() {
        for host in ["localhost", "localhost:3900", "127.0.0.1:3900", "[::1]:3900", "[::1]", "10.0.0.1"] {
            assert!(is_local_name(host), "{host}");
        }
        assert!(!is_local_name("rebound.example:3900") && !is_local_name(""));
    }
}
