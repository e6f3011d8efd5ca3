//! The methods on one blob.

use super::error::ApiError;
use super::{Api, body};
use crate::model::{Key, Md5, Replica};
use crate::store::{PutRequest, Store, StoreError};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine;
use std::future::Future;
use std::rc::Rc;

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const KEY_VOLUMES: HeaderName = HeaderName::from_static("key-volumes");
const KEY_BALANCE: HeaderName = HeaderName::from_static("key-balance");

/// GET and HEAD: a redirect to a volume that has the blob, or to the fallback.
pub(super) async fn get(api: &Api, store: &Store, key: &Key) -> Result<HttpResponse, ApiError> {
    let found = match store.get(key).await {
        Ok(found) => found,
        Err(err) => return fall_back(api, key, err),
    };
    let userpass = store.credentials();
    let location = location(api, userpass, &found.replica, &found.path);
    let mut response = HttpResponse::Found();
    response.insert_header((header::LOCATION, location));
    if let Some(md5) = found.record.md5 {
        response.insert_header((CONTENT_MD5, md5.to_string()));
    }
    if userpass.is_some() {
        response.insert_header((header::CACHE_CONTROL, "no-store"));
    }
    let volumes: Vec<&str> = found.record.replicas.iter().map(Replica::as_str).collect();
    response.insert_header((KEY_VOLUMES, volumes.join(",")));
    response.insert_header((KEY_BALANCE, if found.balanced { "balanced" } else { "unbalanced" }));
    Ok(response.finish())
}

fn fall_back(api: &Api, key: &Key, err: StoreError) -> Result<HttpResponse, ApiError> {
    match (&api.options.load().fallback, ApiError::from(err)) {
        (Some(host), err) if err.is_not_found() => {
            let location = format!("http://{host}{key}");
            Ok(HttpResponse::Found().insert_header((header::LOCATION, location)).finish())
        }
        (_, err) => Err(err),
    }
}

/// The URL of a file for a client, who may know the volume by another address. Credentials are passed on as the
/// Go original does.
fn location(api: &Api, userpass: Option<&str>, replica: &Replica, path: &str) -> String {
    let place = replica.as_str();
    let options = api.options.load();
    let advertised = options.advertise.iter().find_map(|(internal, public)| {
        let rest = place.strip_prefix(internal.as_str())?;
        (rest.is_empty() || rest.starts_with('/')).then(|| format!("{public}{rest}"))
    });
    let place = advertised.as_deref().unwrap_or(place);
    match userpass {
        Some(userpass) => format!("http://{}@{place}{path}", escape_userpass(userpass)),
        None => format!("http://{place}{path}"),
    }
}

fn escape_userpass(userpass: &str) -> String {
    let (user, password) = userpass.split_once(':').unwrap_or((userpass, ""));
    let escape =
        |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    format!("{}:{}", escape(user), escape(password))
}

/// PUT and REPLACE.
pub(super) async fn put(
    api: &Rc<Api>,
    store: Store,
    key: Key,
    replace: bool,
    request: &HttpRequest,
    body: body::Payload,
) -> Result<HttpResponse, ApiError> {
    let length = content_length(request.headers());
    let md5 = announced_md5(request.headers())?;
    let request = PutRequest { key, replace, length, md5, body, limits: api.options.load().body };
    let stored = run_detached(async move { store.put(request).await }).await?;
    let mut response = if stored.replaced { HttpResponse::NoContent() } else { HttpResponse::Created() };
    if let Some(md5) = stored.md5 {
        response.insert_header((CONTENT_MD5, md5.to_string()));
    }
    Ok(response.finish())
}

/// A change without a body, answered with 204.
pub(super) async fn detached(
    change: impl Future<Output = Result<(), StoreError>> + 'static,
) -> Result<HttpResponse, ApiError> {
    run_detached(change).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Runs a change in a task of its own, so that it is finished or undone even if its client goes away.
async fn run_detached<T: 'static>(
    change: impl Future<Output = Result<T, StoreError>> + 'static,
) -> Result<T, ApiError> {
    let done = actix_rt::spawn(change).await;
    Ok(done.map_err(|_| ApiError::ShuttingDown)??)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `Content-MD5`, in base64 (RFC 1864) or as 32 hex digits.
fn announced_md5(headers: &HeaderMap) -> Result<Option<Md5>, ApiError> {
    headers.get(CONTENT_MD5).map(|value| parse_md5(value).ok_or(ApiError::BadContentMd5)).transpose()
}

fn parse_md5(value: &HeaderValue) -> Option<Md5> {
    let text = value.to_str().ok()?.trim();
    let from_base64 = || {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        bytes.try_into().ok().map(Md5)
    };
    Md5::parse(&text.to_ascii_lowercase()).or_else(from_base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announced_md5_is_hex_or_base64() {
        let expected = Md5::parse("5d41402abc4b2a76b9719d911017c592");
        for text in [
            "5d41402abc4b2a76b9719d911017c592",
            "5D41402ABC4B2A76B9719D911017C592",
            "XUFAKrxLKna5cZ2REBfFkg==",
        ] {
            assert_eq!(parse_md5(&HeaderValue::from_static(text)), expected, "{text}");
        }
        for text in ["", "hello", "XUFAKrxLKna5cZ2REBfF"] {
            assert_eq!(parse_md5(&HeaderValue::from_static(text)), None, "{text}");
        }
    }
}
