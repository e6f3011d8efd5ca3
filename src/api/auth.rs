//! `--basicauth`: credentials are checked by the volumes' htpasswd, and the answer is kept for a short time.

use super::Api;
use super::error::ApiError;
use crate::model::{Replica, Volume};
use crate::store::Store;
use actix_web::HttpRequest;
use actix_web::http::header;
use base64::Engine;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long accepted credentials are good for without asking again: a withdrawn password works so much longer.
const ACCEPTED_FOR: Duration = Duration::from_secs(10);

/// Credentials that are remembered; a client that tries more than so many passwords gets no more memory.
const REMEMBERED: usize = 1024;

/// The credentials that a volume accepted last, for the server's own work.
#[derive(Default)]
pub struct LastAccepted(Mutex<Option<String>>);

impl LastAccepted {
    /// `user:password`, if any were accepted yet.
    pub fn get(&self) -> Option<String> {
        self.0.lock().expect("nothing panics while it holds this lock").clone()
    }

    fn set(&self, userpass: &str) {
        *self.0.lock().expect("nothing panics while it holds this lock") = Some(userpass.into());
    }
}

pub(super) struct Authenticator {
    accepted: RefCell<HashMap<String, Instant>>,
    last: Arc<LastAccepted>,
}

impl Authenticator {
    pub(super) fn new(last: Arc<LastAccepted>) -> Authenticator {
        Authenticator { accepted: RefCell::default(), last }
    }

    fn is_fresh(&self, userpass: &str) -> bool {
        self.accepted.borrow().get(userpass).is_some_and(|since| since.elapsed() < ACCEPTED_FOR)
    }

    fn accept(&self, userpass: &str) {
        let mut accepted = self.accepted.borrow_mut();
        if accepted.len() >= REMEMBERED {
            accepted.clear();
        }
        accepted.insert(userpass.into(), Instant::now());
        self.last.set(userpass);
    }
}

impl Api {
    /// The store that answers this request: with `--basicauth` one that speaks with the client's credentials.
    pub(super) async fn store_for(&self, request: &HttpRequest) -> Result<Store, ApiError> {
        if !self.options.load().basicauth {
            return Ok(self.store.clone());
        }
        let userpass = credentials(request).ok_or(ApiError::Unauthorized)?;
        let store = self.store.with_credentials(Rc::from(userpass.as_str()));
        if !self.authenticator.is_fresh(&userpass) {
            ask_a_volume(&store).await?;
            self.authenticator.accept(&userpass);
        }
        Ok(store)
    }
}

/// What volumes are asked for to check credentials: no file has this name. Listing the root would cost more, and its
/// HEAD has no length.
const NO_FILE: &str = "/=";

/// Asks volumes until one answers, those that are up first.
async fn ask_a_volume(store: &Store) -> Result<(), ApiError> {
    let root = |volume: &Volume| -> Replica { volume.as_str().parse().expect("every volume is a place") };
    let mut roots: Vec<Replica> = store.placer().volumes().iter().map(root).collect();
    roots.sort_by_key(|root| !store.volumes().health().is_up(root));
    for root in roots {
        match store.volumes().head(&root, NO_FILE).await {
            Ok(_) => return Ok(()),
            // Also what it can't read: nginx answers 400 to a header that is too long for it.
            Err(err) if err.status().is_some_and(|status| status < 500) => {
                return Err(ApiError::Unauthorized);
            }
            Err(_) => {}
        }
    }
    Err(ApiError::NobodyChecks)
}

/// `user:password` of the `Authorization` header.
fn credentials(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    String::from_utf8(bytes).ok().filter(|userpass| userpass.contains(':'))
}
