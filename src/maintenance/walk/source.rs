//! What a walk reads: servers, asked again when they give no answer, and bare directories of this machine.

use crate::maintenance::{Finding, Kind, Progress};
use crate::model::Replica;
use crate::volume::{Body, DirEntry, LocalFile, VolumeClient, VolumeError, list_directory};
use actix_rt::time::sleep;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a request of a job is made before its failure counts: a busy disk is no dead one.
const TRIES: u32 = 3;

/// The wait before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(500);

const GIVEN_UP: &str = "it gave no answer again and again, and is not asked any more";

/// Reads volumes for a job: patient, and never in a hurry to give up.
pub(super) struct Source<'a> {
    volumes: VolumeClient,
    /// `None` where the first failure ends the job anyway.
    silent: Option<Arc<Silent>>,
    progress: &'a Progress,
}

/// Servers that a rescue has given up, shared by its threads. One that hangs would otherwise cost each of its folders and
/// blobs all tries; so it is given up when all tries of a request stay without an answer, and nothing else that was asked
/// of it meanwhile got one.
#[derive(Default)]
pub(in crate::maintenance) struct Silent(Mutex<HashMap<String, Heard>>);

/// When a server last gave an answer.
#[derive(Clone, Copy)]
enum Heard {
    At(Instant),
    GivenUp,
}

impl<'a> Source<'a> {
    /// One that asks every server, whatever came before; with `silent`, one that goes on without those that it gives up.
    pub(super) fn new(
        volumes: VolumeClient,
        silent: Option<Arc<Silent>>,
        progress: &'a Progress,
    ) -> Source<'a> {
        Source { volumes, silent, progress }
    }

    /// Whether the server of `place` is not asked any more.
    pub(super) fn has_given_up(&self, place: &Replica) -> bool {
        self.silent.as_ref().is_some_and(|silent| silent.has_given_up(place))
    }

    /// The entries of the directory at `path` that are wanted, and the faults of others. It is a place itself, or was listed
    /// before, so that it has to exist: a wrong address, or a drive that was taken out, is not an empty volume.
    pub(super) async fn list(
        &self,
        tree: &Replica,
        path: &str,
        is_wanted: impl Fn(&DirEntry) -> bool,
    ) -> Result<(Vec<DirEntry>, Vec<VolumeError>), VolumeError> {
        if tree.directory().is_some() {
            return list_directory(tree, path, is_wanted);
        }
        self.ask(tree, async || {
            let mut entries = Vec::new();
            let Some(mut listing) = self.volumes.list(tree, path).await? else {
                let (replica, path) = (tree.clone(), format!("{path}/"));
                return Err(VolumeError::Refused { replica, method: "GET", path, status: 404 });
            };
            while let Some(entry) = listing.next().await? {
                if is_wanted(&entry) {
                    entries.push(entry);
                }
            }
            Ok((entries, Vec::new()))
        })
        .await
    }

    /// The entries that are wanted of the directory at `path` of some trees of one server; `None` for each that has to be asked
    /// for by [`Source::list`].
    pub(super) async fn list_together(
        &self,
        trees: &[&Replica],
        path: &str,
        is_wanted: impl Fn(&DirEntry) -> bool,
    ) -> Vec<Option<Vec<DirEntry>>> {
        match trees {
            [first, ..] if first.directory().is_none() && !self.has_given_up(first) => {
                let listed = self.volumes.list_together(trees, path, is_wanted).await;
                if let (Some(silent), [Some(_), ..]) = (&self.silent, &*listed) {
                    silent.answered(first);
                }
                listed
            }
            others => vec![None; others.len()],
        }
    }

    /// Begins to read a file; `None` if there is none.
    pub(super) async fn open(&self, replica: &Replica, path: &str) -> Result<Option<Body>, VolumeError> {
        if replica.directory().is_some() {
            return Ok(LocalFile::open(replica, path)?.map(Body::Local));
        }
        let opened = self.ask(replica, async || self.volumes.open(replica, path).await).await?;
        Ok(opened.map(|download| Body::Served(Box::new(download))))
    }

    /// A file of at most `limit_bytes`; `None` if there is none.
    pub(super) async fn get(
        &self,
        replica: &Replica,
        path: &str,
        limit_bytes: usize,
    ) -> Result<Option<Bytes>, VolumeError> {
        if replica.directory().is_some() {
            return LocalFile::open(replica, path)?.map(|file| file.collect(limit_bytes)).transpose();
        }
        self.ask(replica, async || self.volumes.get(replica, path, limit_bytes).await).await
    }

    /// Makes a request up to [`TRIES`] times while the server gives no answer.
    async fn ask<T>(
        &self,
        place: &Replica,
        request: impl AsyncFn() -> Result<T, VolumeError>,
    ) -> Result<T, VolumeError> {
        if self.has_given_up(place) {
            let reason = GIVEN_UP.to_owned();
            return Err(VolumeError::Unreachable { replica: place.clone(), reason });
        }
        let (begun, mut pause) = (Instant::now(), PAUSE);
        let mut answer = request().await;
        for _ in 1..TRIES {
            if !is_silence(&answer) {
                break;
            }
            sleep(pause).await;
            pause *= 2;
            answer = request().await;
        }
        let Some(silent) = &self.silent else { return answer };
        match &answer {
            Err(err) if is_silence(&answer) => {
                if silent.gives_up(place, begun) {
                    let what = format_args!("{err}; {GIVEN_UP}");
                    self.progress.report(Finding::new(Kind::Unreachable, None, Some(place), what));
                }
            }
            _ => silent.answered(place),
        }
        answer
    }
}

fn is_silence<T>(answer: &Result<T, VolumeError>) -> bool {
    matches!(answer, Err(VolumeError::NoAnswer { .. } | VolumeError::Unreachable { .. }))
}

impl Silent {
    fn has_given_up(&self, place: &Replica) -> bool {
        matches!(self.heard().get(place.authority()), Some(Heard::GivenUp))
    }

    fn answered(&self, place: &Replica) {
        let mut heard = self.heard();
        match heard.get_mut(place.authority()) {
            Some(Heard::GivenUp) => {}
            Some(last) => *last = Heard::At(Instant::now()),
            None => {
                heard.insert(place.authority().to_owned(), Heard::At(Instant::now()));
            }
        }
    }

    /// A request that began at `begun` stayed without an answer. Whether the server is given up now, for that.
    fn gives_up(&self, place: &Replica, begun: Instant) -> bool {
        let mut heard = self.heard();
        let is_new = match heard.get(place.authority()) {
            Some(Heard::GivenUp) => false,
            Some(Heard::At(last)) => *last < begun,
            None => true,
        };
        if is_new {
            heard.insert(place.authority().to_owned(), Heard::GivenUp);
        }
        is_new
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
