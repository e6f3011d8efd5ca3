//! `?list`, `?unlinked` and `?writing`: keys as JSON, streamed page by page.

use super::Query;
use super::error::ApiError;
use crate::index::Listing;
use crate::model::Key;
use crate::store::{ListRequest, Store};
use actix_web::HttpResponse;
use bytes::Bytes;
use futures_util::stream;
use std::ops::Bound;

/// Answers a listing of the keys that begin with `prefix`.
pub(super) async fn list(store: Store, prefix: Key, query: &Query) -> Result<HttpResponse, ApiError> {
    let request = parse(prefix, query)?;
    let end = store.list_end(&request).await?;
    let next = end.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let head = format!("{{\"next\":{},\"keys\":[", json_text(&next));
    let listing = Listed {
        store,
        from: Some(request.from()),
        request,
        end,
        head: Some(head),
        encoded: Vec::new(),
        first: true,
    };
    let body = stream::try_unfold(listing, Listed::piece);
    Ok(HttpResponse::Ok().content_type("application/json").streaming(body))
}

fn parse(prefix: Key, query: &Query) -> Result<ListRequest, ApiError> {
    let listing = match query.0.first().map(|(name, _)| name.as_str()) {
        Some("list") => Listing::Live,
        Some("unlinked") => Listing::Unlinked,
        Some("writing") => Listing::Writing,
        _ => return Err(ApiError::Query),
    };
    let limit = match query.get("limit") {
        None | Some("") => None,
        Some(text) => {
            let number: i64 = text.parse().map_err(|_| ApiError::Limit(text.into()))?;
            usize::try_from(number).ok().filter(|limit| *limit > 0)
        }
    };
    let start = query.get("start").unwrap_or("").as_bytes().to_vec();
    Ok(ListRequest { prefix: prefix.as_bytes().to_vec(), start, limit, listing })
}

/// A listing on its way to a client.
struct Listed {
    store: Store,
    request: ListRequest,
    /// The first key that is not part of it.
    end: Option<Vec<u8>>,
    from: Option<Bound<Vec<u8>>>,
    /// What is still to be said before the first key.
    head: Option<String>,
    /// Keys that are no UTF-8, percent-encoded.
    encoded: Vec<String>,
    first: bool,
}

type Piece = Option<(Bytes, Listed)>;

impl Listed {
    /// The next piece of JSON. An error ends the connection before the JSON is whole, so nobody takes a cut
    /// listing for a short one.
    async fn piece(mut self) -> Result<Piece, actix_web::Error> {
        let Some(from) = self.from.take() else { return Ok(None) };
        let page = self.store.list_page(&self.request, from).await;
        let page = page.map_err(actix_web::error::ErrorInternalServerError)?;
        let mut text = self.head.take().unwrap_or_default();
        let mut ended = page.next.is_none();
        for key in page.keys {
            if self.end.as_ref().is_some_and(|end| key >= *end) {
                ended = true;
                break;
            }
            self.add(key, &mut text);
        }
        self.from = page.next.filter(|_| !ended);
        if self.from.is_none() {
            text.push_str(&self.tail());
        }
        metrics::counter!("mkv_sent_bytes_total").increment(text.len() as u64);
        Ok(Some((Bytes::from(text), self)))
    }

    fn add(&mut self, key: Vec<u8>, text: &mut String) {
        match String::from_utf8(key) {
            Ok(key) => {
                let comma = if std::mem::take(&mut self.first) { "" } else { "," };
                text.push_str(comma);
                text.push_str(&json_text(&key));
            }
            Err(err) => {
                let bytes = err.into_bytes();
                self.encoded.extend(Key::new(bytes).map(|key| key.to_string()).ok());
            }
        }
    }

    fn tail(&self) -> String {
        match self.encoded.is_empty() {
            true => "]}".into(),
            false => format!("],\"keys_encoded\":{}}}", serde_json::json!(self.encoded)),
        }
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
