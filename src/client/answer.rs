//! What an answer of the server means, in words.

use super::ClientError;
use std::io::Read;
use ureq::http::{HeaderMap, Response};

/// The longest line of an error that is shown, in bytes.
const MAX_LINE_BYTES: u64 = 2000;

/// The error that an answer is.
pub(super) fn refusal(response: Response<ureq::Body>) -> ClientError {
    let status = response.status().as_u16();
    let mut text = Vec::new();
    let _ = response.into_body().into_reader().take(MAX_LINE_BYTES).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().map_or_else(String::new, |line| format!(": {line}"));
    ClientError::Refused { meaning: meaning(status), status, line }
}

fn meaning(status: u16) -> &'static str {
    match status {
        401 => "it asks for a user and password, or for others; give -userpass user:password or MKV_USERPASS",
        403 => "the key has a blob already, and it is not overwritten without --replace",
        404 => "there is no such key",
        408 => "the file came too slowly",
        409 => "somebody else is writing to this key; try again in a moment",
        410 => "the index knows the key, and no volume has the blob; mkv scrub tells more",
        411 => "the file is empty, and a blob has at least one byte",
        503 => "it can't be done now, as volumes are missing; mkv volumes tells which",
        507 => "the volumes are full",
        _ => "the server refuses it",
    }
}

/// The first value of a header, if it is text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
