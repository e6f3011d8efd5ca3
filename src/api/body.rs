//! Request bodies as the store takes them: chunks, with the reason where they end early, counted on the way.

use crate::store::BodyError;
use actix_web::web;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;

pub(super) type Payload = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>>>>;

/// The body, and how many bytes of it have come so far.
pub(super) fn counted(payload: web::Payload) -> (Payload, Rc<Cell<u64>>) {
    let received = Rc::new(Cell::new(0));
    let counter = Rc::clone(&received);
    let chunks = payload.map(move |chunk| {
        let chunk = chunk.map_err(|err| BodyError::Cut(err.to_string()))?;
        counter.set(counter.get() + chunk.len() as u64);
        Ok(chunk)
    });
    (Box::pin(chunks), received)
}
