//! Who answers on a new connection: before anything else, the server is asked for the [`VOLUME_PATH`] of the volume that it
//! is to serve. A stranger on the port of a volume that died never gets a blob, and none of its answers counts.

use super::addresses::Addresses;
use super::health::Health;
use super::identity::Shown;
use super::wire::{Wire, WireFault};
use crate::model::{MAX_VOLUME_FILE_BYTES, VOLUME_PATH};
use actix_codec::{Decoder, Encoder};
use actix_http::body::BodySize;
use actix_http::error::ParseError;
use actix_http::h1::{ClientCodec, Message, MessageType};
use actix_http::{RequestHead, RequestHeadType};
use awc::http::Uri;
use awc::http::header::{AUTHORIZATION, HOST, HeaderValue};
use bytes::BytesMut;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What is read at once: an answer with the file of a volume without subvolumes.
const BUFFER_BYTES: usize = 1 << 10;

/// The longest answer, in bytes: the file, and a head before it.
const MAX_ANSWER_BYTES: usize = MAX_VOLUME_FILE_BYTES + (8 << 10);

/// What new connections are asked with.
#[derive(Clone)]
pub(super) struct Introduction {
    health: Arc<Health>,
    /// The `Authorization` of the thread's last request: the connection is made for it.
    credentials: Rc<RefCell<Option<HeaderValue>>>,
    /// Whether whoever answers will do.
    asks_anybody: bool,
}

/// Whether the connection can be used for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    Stays,
    /// The server closes it behind the answer.
    Closes,
}

impl Introduction {
    pub(super) fn new(health: Arc<Health>) -> Introduction {
        Introduction { health, credentials: Rc::default(), asks_anybody: false }
    }

    /// For connections to whoever answers.
    pub(super) fn of_anybody(&self) -> Introduction {
        Introduction { asks_anybody: true, ..self.clone() }
    }

    /// Where servers are found.
    pub(super) fn addresses(&self) -> &Addresses {
        self.health.addresses()
    }

    /// The connections from now on are asked with this.
    pub(super) fn use_credentials(&self, value: &HeaderValue) {
        *self.credentials.borrow_mut() = Some(value.clone());
    }

    /// Fails with [`WireFault::Stranger`] if the server on `wire` isn't the one that is to serve `uri`. One that asks for
    /// credentials may be: what it serves is looked at once there are some.
    pub(super) async fn of(&self, wire: &mut Wire, uri: &Uri) -> io::Result<Behind> {
        if self.asks_anybody {
            return Ok(Behind::Stays);
        }
        let known = self.health.identities();
        let Some(server) = uri.authority().map(|authority| authority.as_str()) else {
            return Ok(Behind::Stays);
        };
        let Some((root, expected)) = known.root_at(server, uri.path()) else { return Ok(Behind::Stays) };
        let mut head = RequestHead::default();
        let path = [&root.as_str()[server.len()..], VOLUME_PATH].concat();
        head.uri = path.parse().map_err(io::Error::other)?;
        head.headers.insert(HOST, HeaderValue::from_str(server).map_err(io::Error::other)?);
        if let Some(value) = self.credentials.borrow().clone() {
            head.headers.insert(AUTHORIZATION, value);
        }
        let (status, content, behind) = ask(wire, head).await?;
        let shown = match status {
            200 => Shown::of(Some(&content)),
            401 => return Ok(behind),
            404 => Shown::Nothing,
            500.. => return Err(WireFault::Refused { status }.into()),
            status => {
                let reason = format!("it answered {status} to GET {VOLUME_PATH}");
                return Err(WireFault::Stranger { reason }.into());
            }
        };
        match shown.fault(expected, &known) {
            None => Ok(behind),
            Some(reason) => Err(WireFault::Stranger { reason }.into()),
        }
    }
}

/// One request without a body, and its whole answer.
async fn ask(wire: &mut Wire, head: RequestHead) -> io::Result<(u16, BytesMut, Behind)> {
    let (mut codec, mut buffer) = (ClientCodec::default(), BytesMut::with_capacity(BUFFER_BYTES));
    let request = RequestHeadType::Rc(Rc::new(head), None);
    codec.encode(Message::Item((request, BodySize::None)), &mut buffer)?;
    wire.write_all(&buffer).await?;
    buffer.clear();
    let head = loop {
        match codec.decode(&mut buffer).map_err(|err| no_http(&err))? {
            Some(head) => break head,
            None => read(wire, &mut buffer).await?,
        }
    };
    let status = head.status.as_u16();
    let mut content = BytesMut::new();
    let has_end = codec.message_type() == MessageType::Payload;
    if has_end {
        let mut body = codec.into_payload_codec();
        loop {
            match body.decode(&mut buffer).map_err(|_| cut_short())? {
                Some(Some(chunk)) => content.extend_from_slice(&chunk),
                Some(None) => break,
                None => read(wire, &mut buffer).await?,
            }
            if content.len() > MAX_ANSWER_BYTES {
                return Err(WireFault::Stranger { reason: "its /=volume has no end".to_owned() }.into());
            }
        }
        codec = body.into_message_codec();
    }
    let stays =
        codec.keep_alive() && buffer.is_empty() && (has_end || codec.message_type() == MessageType::None);
    Ok((status, content, if stays { Behind::Stays } else { Behind::Closes }))
}

async fn read(wire: &mut Wire, buffer: &mut BytesMut) -> io::Result<()> {
    if buffer.len() > MAX_ANSWER_BYTES {
        return Err(WireFault::Stranger { reason: "its answer has no end".to_owned() }.into());
    }
    buffer.reserve(BUFFER_BYTES);
    match wire.read_buf(buffer).await? {
        0 => Err(cut_short()),
        _ => Ok(()),
    }
}

fn no_http(err: &ParseError) -> io::Error {
    match err {
        ParseError::Io(err) => io::Error::new(err.kind(), err.to_string()),
        err => WireFault::Stranger { reason: format!("its answer is no HTTP: {err}") }.into(),
    }
}

fn cut_short() -> io::Error {
    WireFault::Lost { reused: false, reason: "it cut its answer short".to_owned() }.into()
}
