//! Listings of one server asked for together, one behind the other on one kept connection (pipelining, RFC 9112, 9.3.2). A
//! rebuild asks for millions of small ones, and to send each by itself costs both sides more than to make it.
//!
//! It is a short cut and has never the last word: a listing that does not come back whole, for whatever reason, is
//! not there, and [`VolumeClient::list`] finds out what that means.

use super::connect::{IDLE_LIMIT, connect};
use super::introduction::Introduction;
use super::listing::Lines;
use super::patience::Patience;
use super::wire::Wire;
use super::{DirEntry, Timeouts, VolumeClient};
use crate::model::Replica;
use actix_codec::{Decoder, Encoder};
use actix_http::body::BodySize;
use actix_http::h1::{ClientCodec, Message, MessageType};
use actix_http::{RequestHead, RequestHeadType, StatusCode};
use actix_rt::time::Instant;
use awc::http::header::{AUTHORIZATION, HOST, HeaderValue};
use awc::http::uri::Uri;
use bytes::BytesMut;
use log::debug;
use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Listings that are asked for together: their requests fit into the buffers of a socket, so that they are written while
/// nobody reads answers, and a server is not kept from others for long.
pub const TOGETHER: usize = 16;

/// What is read at once, and written: the small listings of one turn, and the requests for them.
const BUFFER_BYTES: usize = 8 << 10;

/// Why a listing isn't there: for the log alone.
type Missed = Box<dyn Error>;

/// The connections that are kept for this.
pub(super) struct Pipelines {
    timeouts: Timeouts,
    introduction: Introduction,
    /// By server, each since when; the one that was used last at the end.
    idle: RefCell<HashMap<String, Vec<(Instant, Pipeline)>>>,
}

struct Pipeline {
    wire: Wire,
    codec: ClientCodec,
    buffer: BytesMut,
}

impl VolumeClient {
    /// The entries that are wanted of the directory `path` (as in [`VolumeClient::list`]) of some places of one server, at
    /// most [`TOGETHER`]. `None` for each whose listing did not come: that says nothing of it.
    pub async fn list_together(
        &self,
        places: &[&Replica],
        path: &str,
        is_wanted: impl Fn(&DirEntry) -> bool,
    ) -> Vec<Option<Vec<DirEntry>>> {
        debug_assert!(places.len() <= TOGETHER, "{} listings at once", places.len());
        let mut listed = Vec::with_capacity(places.len());
        if let Some(first) = places.first()
            && let Err(missed) = self.list_into(&mut listed, first.authority(), places, path, is_wanted).await
        {
            let (came, of, server) = (listed.len(), places.len(), first.authority());
            debug!("{came} of {of} listings of {path} came together from {server}: {missed}");
        }
        listed.resize(places.len(), None);
        listed
    }

    async fn list_into(
        &self,
        listed: &mut Vec<Option<Vec<DirEntry>>>,
        server: &str,
        places: &[&Replica],
        path: &str,
        is_wanted: impl Fn(&DirEntry) -> bool,
    ) -> Result<(), Missed> {
        debug_assert!(
            places.iter().all(|place| place.authority() == server),
            "{places:?} are several servers'"
        );
        if let Some(reason) = places.iter().find_map(|place| self.health().why_foreign(place)) {
            return Err(reason.into());
        }
        let mut pipeline = self.shared.pipelines.take(server, places[0]).await?;
        let mut head = RequestHead::default();
        head.headers.insert(HOST, HeaderValue::from_str(server)?);
        if let Some(value) = self.credentials.header() {
            head.headers.insert(AUTHORIZATION, value);
        }
        pipeline.ask(head, places, path).await?;
        for _ in places {
            if !pipeline.codec.keep_alive() {
                return Err("the answer before was to be the last one".into());
            }
            let (behind, entries) = pipeline.listing(&is_wanted).await?;
            listed.push(Some(entries));
            pipeline = behind;
        }
        self.shared.pipelines.keep(server, pipeline);
        Ok(())
    }
}

impl Pipelines {
    pub(super) fn new(timeouts: Timeouts, introduction: Introduction) -> Pipelines {
        Pipelines { timeouts, introduction, idle: RefCell::default() }
    }

    async fn take(&self, authority: &str, place: &Replica) -> Result<Pipeline, Missed> {
        let kept = self.idle.borrow_mut().get_mut(authority).and_then(Vec::pop);
        // What lies below the last one has been idle for longer, and goes when it gets its turn.
        if let Some((_, pipeline)) = kept.filter(|(since, _)| since.elapsed() < IDLE_LIMIT) {
            return Ok(pipeline);
        }
        let uri: Uri = ["http://", place.as_str(), "/"].concat().parse()?;
        let patience = Patience { answer: self.timeouts.answer, progress: self.timeouts.write };
        Ok(Pipeline {
            wire: connect(&uri, self.timeouts, patience, &self.introduction).await?,
            codec: ClientCodec::default(),
            buffer: BytesMut::with_capacity(BUFFER_BYTES),
        })
    }

    fn keep(&self, authority: &str, pipeline: Pipeline) {
        if !pipeline.codec.keep_alive() || !pipeline.buffer.is_empty() {
            return;
        }
        let (mut idle, kept) = (self.idle.borrow_mut(), (Instant::now(), pipeline));
        match idle.get_mut(authority) {
            Some(others) => others.push(kept),
            None => drop(idle.insert(authority.to_owned(), vec![kept])),
        }
    }
}

impl Pipeline {
    async fn ask(&mut self, head: RequestHead, places: &[&Replica], path: &str) -> Result<(), Missed> {
        let mut head = Rc::new(head);
        let mut requests = BytesMut::with_capacity(BUFFER_BYTES);
        for place in places {
            let below = &place.as_str()[place.authority().len()..];
            Rc::make_mut(&mut head).uri = [below, path, "/"].concat().parse()?;
            let request = RequestHeadType::Rc(Rc::clone(&head), None);
            self.codec.encode(Message::Item((request, BodySize::None)), &mut requests)?;
        }
        Ok(self.wire.write_all(&requests).await?)
    }

    /// The next listing, if it is a whole one, and the connection behind it.
    async fn listing(
        self,
        is_wanted: impl Fn(&DirEntry) -> bool,
    ) -> Result<(Pipeline, Vec<DirEntry>), Missed> {
        let Pipeline { mut wire, mut codec, mut buffer } = self;
        let head = loop {
            match codec.decode(&mut buffer)? {
                Some(head) => break head,
                None => read(&mut wire, &mut buffer).await?,
            }
        };
        if head.status != StatusCode::OK {
            return Err(format!("it answered {}", head.status).into());
        }
        if codec.message_type() != MessageType::Payload {
            return Err("its answer has no body, or none with an end of its own".into());
        }
        let (mut body, mut lines, mut entries) = (codec.into_payload_codec(), Lines::default(), Vec::new());
        loop {
            match body.decode(&mut buffer)? {
                Some(Some(chunk)) => {
                    lines.add(&chunk);
                    while let Some(entry) = lines.next()? {
                        if is_wanted(&entry) {
                            entries.push(entry);
                        }
                    }
                }
                Some(None) => break,
                None => read(&mut wire, &mut buffer).await?,
            }
        }
        lines.end()?;
        Ok((Pipeline { wire, codec: body.into_message_codec(), buffer }, entries))
    }
}

async fn read(wire: &mut Wire, buffer: &mut BytesMut) -> Result<(), Missed> {
    buffer.reserve(BUFFER_BYTES);
    match wire.read_buf(buffer).await? {
        0 => Err("the connection ended".into()),
        _ => Ok(()),
    }
}
