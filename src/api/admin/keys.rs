//! What the index knows of keys.

use super::State;
use super::error::AdminError;
use crate::model::{Key, Record, State as KeyState};
use actix_web::{Responder, web};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use std::ops::Bound;

/// Keys in an answer, if nobody says how many, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    prefix: String,
    /// The `next` of the answer before.
    start: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Answer {
    keys: Vec<View>,
    /// Where to go on; absent behind the last.
    next: Option<String>,
}

/// A key. Percent-encoded, so that no control character reaches a terminal or a page.
#[derive(Debug, Serialize)]
struct View {
    key: String,
    state: &'static str,
    md5: Option<String>,
    generation: Option<String>,
    replicas: Vec<String>,
    balanced: bool,
    /// What is wrong with the entry, if it is no record.
    error: Option<String>,
}

pub(super) async fn list(admin: State, wanted: web::Query<Wanted>) -> Result<impl Responder, AdminError> {
    let bytes = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let prefix = match bytes(&wanted.prefix) {
        prefix if prefix.first() == Some(&b'/') => prefix,
        prefix => [b"/".to_vec(), prefix].concat(),
    };
    let limit = wanted.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(AdminError::Query(format!("limit must be from 1 to {MAX_LIMIT}")));
    }
    let mut from = Some(match &wanted.start {
        Some(start) => Bound::Included(bytes(start).max(prefix.clone())),
        None => Bound::Included(prefix.clone()),
    });
    let (mut keys, mut next) = (Vec::new(), None);
    'pages: while let Some(start) = from {
        let page = admin.store.index().scan(start, limit + 1).await?;
        for (key, record) in page.entries {
            if !key.as_bytes().starts_with(&prefix) {
                break 'pages;
            }
            if keys.len() == limit {
                next = Some(key.to_string());
                break 'pages;
            }
            let placement = || admin.store.placer().placement(key.as_bytes());
            let balanced = record.as_ref().is_ok_and(|record| record.replicas == placement());
            keys.push(view(&key, record.map_err(|err| err.to_string()), balanced));
        }
        from = page.next;
    }
    Ok(web::Json(Answer { keys, next }))
}

fn view(key: &Key, record: Result<Record, String>, balanced: bool) -> View {
    let record = record.as_ref();
    let known = record.ok();
    View {
        key: key.to_string(),
        state: match known.map(|record| record.state) {
            Some(KeyState::Live) => "live",
            Some(KeyState::Unlinked) => "unlinked",
            None => "unreadable",
        },
        md5: known.and_then(|record| record.md5).map(|md5| md5.to_string()),
        generation: known.and_then(|record| record.generation).map(|generation| generation.to_string()),
        replicas: known
            .map_or_else(Vec::new, |record| record.replicas.iter().map(ToString::to_string).collect()),
        balanced,
        error: record.err().cloned(),
    }
}
