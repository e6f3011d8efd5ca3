//! A key held for one writer, as a guard: whatever happens to the writer, the key comes free and nothing that it
//! may have left on a volume is forgotten.

use super::message::{Change, Message};
use super::{IndexError, files_at};
use crate::model::{File, Generation, Key, PlacedFile, Record, Replica};
use tokio::sync::{mpsc, oneshot};

/// A key held for one writer, as the actor tells it.
pub(super) struct Held {
    pub(super) key: Key,
    pub(super) slot: u32,
    /// µs since 1970; later than every earlier reservation.
    pub(super) time_us: u64,
    /// Whether the new version must be a generation because the plain path is or was taken.
    pub(super) generation: bool,
    pub(super) previous: Option<Record>,
    pub(super) files: Vec<PlacedFile>,
    pub(super) waits_until_us: u64,
    pub(super) elsewhere: Vec<PlacedFile>,
}

/// A claim on a key. End it with [`Reservation::commit`] or [`Reservation::release`].
pub struct Reservation {
    sender: mpsc::WeakSender<Message>,
    held: Held,
    ended: bool,
}

/// What is left to be settled when a reservation ends.
#[derive(Debug, Default)]
pub struct Ending {
    /// Files that the record doesn't name and that may exist.
    pub left: Vec<PlacedFile>,
    /// Not before this time (µs since 1970) may they be removed.
    pub not_before_us: u64,
}

impl Reservation {
    pub(super) fn new(sender: mpsc::WeakSender<Message>, held: Held) -> Reservation {
        Reservation { sender, held, ended: false }
    }

    /// Gives the claim back without a message; answers its slot.
    pub(super) fn disarm(mut self) -> u32 {
        self.ended = true;
        self.held.slot
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.held.key
    }

    /// The reservation's time, µs since 1970.
    pub fn time_us(&self) -> u64 {
        self.held.time_us
    }

    /// The generation that a new version of this key must have; `None` for the plain path.
    pub fn generation(&self) -> Option<Generation> {
        self.held.generation.then(|| Generation::new(self.held.time_us))
    }

    /// The record as it is while the key is held; `None` if there is none or it is being removed.
    pub fn previous(&self) -> Option<&Record> {
        self.held.previous.as_ref()
    }

    /// Every file that the durable intent names.
    pub fn files(&self) -> &[PlacedFile] {
        &self.held.files
    }

    /// Until when (µs since 1970) those of the files that are in doubt had to wait before this reservation took them
    /// over; 0 if it took over none.
    pub fn waits_until_us(&self) -> u64 {
        self.held.waits_until_us
    }

    /// Whether earlier writes have left blobs of this key that are still to be removed, and that this reservation knows
    /// nothing of. As long as there are any, tombstones must stay.
    pub fn blobs_elsewhere(&self) -> bool {
        self.held.elsewhere.iter().any(|placed| placed.file != File::Sidecar)
    }

    /// Whether an earlier write, that this reservation knows nothing of, has left this file to be settled.
    pub fn is_left(&self, file: File, replica: &Replica) -> bool {
        self.held.elsewhere.iter().any(|placed| placed.file == file && placed.replica == *replica)
    }

    /// Whether a request for this file, of an earlier write that this reservation knows nothing of, may still be
    /// carried out: the file could vanish after it was written.
    pub fn is_in_doubt(&self, file: File, replica: &Replica) -> bool {
        let mut elsewhere = self.held.elsewhere.iter();
        elsewhere.any(|placed| placed.in_doubt && placed.file == file && placed.replica == *replica)
    }

    /// Extends the intent to a new version at `replica`; returns when that is durable.
    pub async fn extend(&mut self, replica: &Replica) -> Result<(), IndexError> {
        let kinds = File::of_version(self.generation());
        self.held.files.extend(files_at(std::slice::from_ref(replica), &kinds));
        let (reply, done) = oneshot::channel();
        let message = Message::Extend { slot: self.held.slot, files: self.held.files.clone(), reply };
        self.send(message).await?;
        done.await.map_err(|_| IndexError::Stopped)
    }

    /// Stores `record` and lets go of the key; returns when that is durable.
    pub async fn commit(self, record: Record, ending: Ending) -> Result<(), IndexError> {
        let before = self.previous().map(|record| record.state);
        self.end(Change::Store { record, before }, ending).await
    }

    /// Leaves the record as it is and lets go of the key; returns when what is left is durable.
    pub async fn release(self, ending: Ending) -> Result<(), IndexError> {
        self.end(Change::Keep, ending).await
    }

    async fn end(mut self, change: Change, ending: Ending) -> Result<(), IndexError> {
        let (reply, done) = oneshot::channel();
        let Ending { left, not_before_us } = ending;
        let message = Message::End { slot: self.held.slot, change, left, not_before_us, reply };
        self.send(message).await?;
        self.ended = true;
        done.await.map_err(|_| IndexError::Stopped)
    }

    async fn send(&self, message: Message) -> Result<(), IndexError> {
        let sender = self.sender.upgrade().ok_or(IndexError::Stopped)?;
        sender.send(message).await.map_err(|_| IndexError::Stopped)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let Some(sender) = self.sender.upgrade() else { return };
        let message = Message::Abandon { slot: self.held.slot };
        if let Err(mpsc::error::TrySendError::Full(message)) = sender.try_send(message) {
            actix_rt::spawn(async move { drop(sender.send(message).await) });
        }
    }
}
