//! Is a volume the one that it was? What lies in its [`VOLUME_PATH`] is held against the id that the index knows.
//!
//! Two things can change behind a name. *Who answers* is asked on every new connection ([`super::introduction`]). *Which
//! drive lies there* can change under a connection that stays, so that what a volume says of a missing file counts only
//! when a look behind it finds the right id in the file's own place, and a file is removed only soon after one.

use super::error::Call;
use super::{VolumeClient, VolumeError};
use crate::model::{
    Identities, Identity, MAX_VOLUME_FILE_BYTES, Replica, SIDECAR_SUFFIX, VOLUME_PATH, VolumeFile,
};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A file is removed, and a sidecar written over, within so much time after a good look at its place: one look a second
/// serves every removal in it.
const LOOK_HOLDS: Duration = Duration::from_secs(1);

/// What a place shows of its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// An id.
    Is(VolumeFile),
    /// A file that tells no id, as a power cut leaves one.
    Torn,
    /// No file.
    Nothing,
}

impl Shown {
    /// From the content of the place's file, if it has one.
    pub fn of(content: Option<&[u8]>) -> Shown {
        match content {
            None => Shown::Nothing,
            Some(content) => VolumeFile::parse(content).map_or(Shown::Torn, Shown::Is),
        }
    }

    /// Why a place that shows this is not the one with `expected`; `None` if it is.
    pub fn fault(&self, expected: Identity, known: &Identities) -> Option<String> {
        match self {
            Shown::Is(file) if file.id == expected => None,
            Shown::Is(file) => Some(other_words(file, known)),
            Shown::Torn => Some("its /=volume is torn".to_owned()),
            Shown::Nothing => Some(
                "it has no /=volume: is a drive not mounted, or a new one? `mkv replace` takes a new one"
                    .to_owned(),
            ),
        }
    }
}

/// What a place is instead, for people.
fn other_words(file: &VolumeFile, known: &Identities) -> String {
    let names: Vec<String> = known.names_of(file.id).into_iter().map(Replica::to_string).collect();
    match names.is_empty() {
        true => format!("it serves another volume, which was called {:?} at first", file.name),
        false => format!("it serves what is {}", names.join(" and ")),
    }
}

/// The looks of one thread.
#[derive(Default)]
pub(super) struct Looks {
    gates: RefCell<HashMap<Replica, Rc<Gate>>>,
}

/// The looks at one place, of which there is one at a time.
#[derive(Default)]
struct Gate {
    one_at_a_time: Mutex<()>,
    /// When the last look began that was good.
    good: Cell<Option<Instant>>,
}

/// The id of a volume that has none yet.
pub fn random_identity() -> io::Result<Identity> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(Identity::new(u128::from_be_bytes(bytes)))
}

impl VolumeClient {
    /// What a place shows of its identity, whoever answers there.
    pub async fn shown(&self, place: &Replica) -> Result<Shown, VolumeError> {
        match self.of_anybody().get(place, VOLUME_PATH, MAX_VOLUME_FILE_BYTES).await {
            Ok(content) => Ok(Shown::of(content.as_deref())),
            Err(VolumeError::TooLarge { .. }) => Ok(Shown::Torn),
            Err(err) => Err(err),
        }
    }

    /// Tells a place which one it is.
    pub async fn write_identity(
        &self,
        place: &Replica,
        file: &VolumeFile,
        time_us: u64,
    ) -> Result<(), VolumeError> {
        self.of_anybody().put(place, VOLUME_PATH, Bytes::from(file.to_json()), time_us).await
    }

    /// Looks whether a place is the one that it was; [`VolumeError::Foreign`], and no use of it from then on, if it isn't.
    /// Where no id is known there is nothing to look at.
    pub async fn look(&self, place: &Replica) -> Result<(), VolumeError> {
        let known = self.health().identities();
        let Some((looked_at, expected)) = expected(place, &known) else { return Ok(()) };
        match self.shown(&looked_at).await?.fault(expected, &known) {
            None => {
                self.health().trust(&looked_at);
                Ok(())
            }
            Some(reason) => {
                self.health().distrust(&looked_at, &reason);
                Err(VolumeError::Foreign { replica: place.clone(), reason })
            }
        }
    }

    /// A look that begins now, or one that began since now: many who ask at once share it.
    pub(super) async fn look_again(&self, place: &Replica) -> Result<(), VolumeError> {
        self.look_since(place, Instant::now()).await
    }

    /// A look, if there was none in the last second.
    pub async fn look_lately(&self, place: &Replica) -> Result<(), VolumeError> {
        let now = Instant::now();
        self.look_since(place, now.checked_sub(LOOK_HOLDS).unwrap_or(now)).await
    }

    async fn look_since(&self, place: &Replica, since: Instant) -> Result<(), VolumeError> {
        if expected(place, &self.health().identities()).is_none() {
            return Ok(());
        }
        let gate = Rc::clone(self.shared.looks.gates.borrow_mut().entry(place.clone()).or_default());
        let _turn = gate.one_at_a_time.lock().await;
        if gate.good.get().is_some_and(|good| good >= since) {
            return Ok(());
        }
        let begun = Instant::now();
        self.look(place).await?;
        gate.good.set(Some(begun));
        Ok(())
    }

    /// What a volume said of a file that isn't there counts: the place is the one that it was.
    pub(super) async fn confirm_absence(&self, call: Call<'_>) -> Result<(), VolumeError> {
        if self.asks_anybody {
            return Ok(());
        }
        // Boxed, as a look is a GET, which comes here. Almost every key has no sidecar: that one isn't there is asked once a
        // second, as a removal is.
        match call.path.ends_with(SIDECAR_SUFFIX) {
            true => Box::pin(self.look_lately(call.replica)).await,
            false => Box::pin(self.look_again(call.replica)).await,
        }
    }
}

/// The place whose id tells whether `place` is right, and that id: its own, or else its volume's.
fn expected(place: &Replica, known: &Identities) -> Option<(Replica, Identity)> {
    if let Some(id) = known.of(place) {
        return Some((place.clone(), id));
    }
    let root = place.volume().root();
    known.of(&root).map(|id| (root, id))
}
