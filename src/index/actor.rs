//! The actor: one thread that owns the table and the keys' locks, and answers messages one after the other.
//!
//! It drains its mailbox, applies everything as one batch, syncs once, and then answers everybody (group commit).
//! Within a batch all reads see the table as it was before, and keys come free only behind the sync: an answer
//! never rests on what is not durable.

use super::IndexError;
use super::census::Census;
use super::message::{Change, Claimed, Forgotten, Listing, Message, Reserved, Rewritten, Verb};
use super::own_entries::{self, CLUSTER_KEY, MARK_KEY, NEXT_CLUSTER_KEY, UNNOTED_KEY};
use super::pages::{self, PAGE_ENTRIES};
use super::reservation::{Held, Reservation};
use super::slots::{Slots, slot_key};
use super::table::{self, Table, TableError};
use super::verbs::{files_of, refusal};
use crate::model::{Intent, Key, Names, PlacedFile, Record};
use arc_swap::ArcSwap;
use log::{info, warn};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};

/// Changes that one sync may carry; beyond, a batch gains nothing and its first writer only waits.
const BATCH_CHANGES: usize = 512;

/// How long the actor collects while more messages keep coming.
const COLLECT_FOR: Duration = Duration::from_millis(1);

/// How far ahead of a version that needs it the mark is set, µs: it is written once in so much time, and an index that is
/// older by less can't be told from the present one.
const MARK_AHEAD_US: u64 = 10_000_000;

/// Files are dated by a clock that ticks this often, in µs, at the least.
const CLOCK_TICK_US: u64 = 20_000;

/// A clock that is behind by less, in µs, is not worth a word.
const CLOCK_SLACK_US: u64 = 1_000_000;

pub(super) struct Actor<T> {
    table: T,
    mailbox: mpsc::Receiver<Message>,
    /// Reservations report their end through it. Weak, so that the mailbox closes when the last handle is gone.
    sender: mpsc::WeakSender<Message>,
    slots: Slots,
    /// Writers that wait for the background to let go of their key.
    parked: HashMap<Key, Vec<Message>>,
    /// Messages of those whose key has come free.
    again: VecDeque<Message>,
    cluster: String,
    /// Under which names places are told; shared with all handles.
    names: Arc<ArcSwap<Names>>,
    /// No version is later than this, µs since 1970; durable before one is acknowledged.
    mark_us: u64,
    last_time_us: u64,
    grace_us: u64,
    /// `None` until somebody wants to know.
    census: Option<Census>,
}

/// What the messages of one batch add up to.
#[derive(Default)]
struct Batch {
    changes: Vec<table::Change>,
    /// What is done once the changes are durable, in order.
    after: Vec<After>,
    close: bool,
}

enum After {
    Reserved(Held, oneshot::Sender<Reserved>),
    Done(oneshot::Sender<()>),
    Forgotten(Forgotten, oneshot::Sender<Forgotten>),
    Rewritten(Rewritten, oneshot::Sender<Rewritten>),
    Mark(u64, oneshot::Sender<u64>),
    Ended { slot: u32, waits_until: Option<u64>, reply: oneshot::Sender<()> },
}

impl<T: Table> Actor<T> {
    /// Reads the cluster id (made here if the index has none) and the intents of an earlier process.
    pub(super) fn new(
        mut table: T,
        mailbox: mpsc::Receiver<Message>,
        sender: mpsc::WeakSender<Message>,
        names: Arc<ArcSwap<Names>>,
        grace_us: u64,
    ) -> Result<Actor<T>, TableError> {
        let mark_us = own_entries::stored_mark(&mut table)?;
        let cluster = own_entries::cluster_id(&mut table)?;
        let slots = own_entries::stored_slots(&mut table, now_us() + grace_us)?;
        let last_time_us = table.written_us() + CLOCK_TICK_US;
        if last_time_us > now_us() + CLOCK_SLACK_US {
            warn!("the clock is behind what was written before; new versions are dated after that");
        }
        if slots.unsettled() > 0 {
            info!("found {} writes that were cut off or removals that are not done", slots.unsettled());
        }
        Ok(Actor {
            table,
            mailbox,
            sender,
            slots,
            parked: HashMap::new(),
            again: VecDeque::new(),
            cluster,
            names,
            mark_us,
            last_time_us,
            grace_us,
            census: None,
        })
    }

    /// Works until it is told to close, or the table fails.
    pub(super) fn run(mut self) -> Result<(), TableError> {
        while let Some(first) = self.next()? {
            let mut batch = Batch::default();
            self.collect(first, &mut batch)?;
            let close = batch.close;
            self.finish(batch)?;
            if close {
                break;
            }
        }
        self.close()
    }

    /// The next message; while there is none, the table gets on with its upkeep, and keys are counted.
    fn next(&mut self) -> Result<Option<Message>, TableError> {
        loop {
            match self.waiting() {
                Ok(message) => return Ok(Some(message)),
                Err(mpsc::error::TryRecvError::Disconnected) => return Ok(None),
                Err(mpsc::error::TryRecvError::Empty) => {
                    if !self.table.upkeep()? && !self.count()? {
                        return Ok(self.mailbox.blocking_recv());
                    }
                }
            }
        }
    }

    fn collect(&mut self, first: Message, batch: &mut Batch) -> Result<(), TableError> {
        let started = Instant::now();
        let mut next = Some(first);
        while let Some(message) = next.take() {
            if matches!(message, Message::RewriteNames { .. }) && !batch.changes.is_empty() {
                // It reads records as they were before the batch, and would undo what the batch changes.
                self.again.push_front(message);
                return Ok(());
            }
            self.handle(message, batch)?;
            if !batch.close && batch.changes.len() < BATCH_CHANGES && started.elapsed() < COLLECT_FOR {
                next = self.waiting().ok();
            }
        }
        Ok(())
    }

    /// Counts one more page of keys; `false` if there is none to be counted.
    fn count(&mut self) -> Result<bool, TableError> {
        let Some(census) = &mut self.census else { return Ok(false) };
        let Some(from) = census.next() else { return Ok(false) };
        census.add(self.table.page(from, PAGE_ENTRIES)?);
        Ok(true)
    }

    fn waiting(&mut self) -> Result<Message, mpsc::error::TryRecvError> {
        self.again.pop_front().map_or_else(|| self.mailbox.try_recv(), Ok)
    }

    /// Lets go of a held key; its intent waits until `due_us`, or is forgotten. Who was parked tries again.
    fn free(&mut self, slot: u32, due_us: Option<u64>) {
        let intent = self.slots.intent(slot);
        let key = intent.map(|intent| intent.key.clone());
        // Who was going to write nothing has left nothing.
        match due_us.filter(|_| intent.is_some_and(|intent| !intent.files.is_empty())) {
            Some(due_us) => self.slots.let_go(slot, due_us),
            None => drop(self.slots.clear(slot)),
        }
        self.again.extend(key.and_then(|key| self.parked.remove(&key)).into_iter().flatten());
    }

    fn handle(&mut self, message: Message, batch: &mut Batch) -> Result<(), TableError> {
        match message {
            Message::Locate { keys, reply } => {
                let keys: Vec<&[u8]> = keys.iter().map(Key::as_bytes).collect();
                let _ = reply.send(self.table.get_many(&keys)?);
            }
            Message::Reserve { key, verb, reply } => self.reserve(key, verb, reply, batch)?,
            Message::Extend { slot, files, reply } => self.extend(slot, files, reply, batch),
            Message::End { slot, change, left, not_before_us, reply } => {
                self.end(slot, change, left, not_before_us, batch, reply);
            }
            Message::Abandon { slot } => self.free(slot, Some(now_us() + self.grace_us)),
            Message::Claim { slot, reply } => {
                if let Err(Ok(Some(reservation))) = reply.send(self.claim(slot, batch)?) {
                    self.take_back(reservation);
                }
            }
            Message::Due { all, limit, reply } => {
                let until_us = if all { u64::MAX } else { now_us() };
                let _ = reply.send(self.slots.due(until_us, limit));
            }
            Message::WaitingFiles { from, reply } => drop(reply.send(self.slots.waiting_files(from))),
            Message::Postpone { slots, until_us } => {
                slots.into_iter().for_each(|slot| self.slots.postpone(slot, until_us));
            }
            Message::Unsettled { reply } => drop(reply.send(self.slots.unsettled())),
            Message::HeldSince { reply } => drop(reply.send(self.slots.held_since_us())),
            Message::KeyCounts { reply } => {
                let _ = reply.send(self.census.get_or_insert_with(Census::new).counts());
            }
            Message::List { request, reply } => {
                let page = match request.listing {
                    Listing::Live | Listing::Unlinked => pages::list(&mut self.table, &request)?,
                    Listing::Writing => Ok(pages::writing(&self.slots, &request)),
                };
                drop(reply.send(page));
            }
            Message::Scan { from, limit, reply } => {
                let names = self.names.load();
                drop(reply.send(pages::scan(&mut self.table, from, limit, &names)?));
            }
            Message::Unnoted { reply } => drop(reply.send(self.is_unnoted()?)),
            Message::Noted { reply } => {
                batch.changes.push(table::Change::Delete { key: UNNOTED_KEY.into() });
                batch.after.push(After::Done(reply));
            }
            Message::ClusterId { reply } => drop(reply.send(self.cluster.clone())),
            Message::NextClusterId { reply } => drop(reply.send(self.next_cluster()?)),
            Message::BeginRename { reply } => {
                if self.next_cluster()?.is_none() {
                    let value = own_entries::new_cluster_id()?.into_bytes();
                    batch.changes.push(table::Change::Put { key: NEXT_CLUSTER_KEY.into(), value });
                }
                batch.after.push(After::Done(reply));
            }
            Message::EndRename { reply } => {
                if let Some(next) = self.next_cluster()? {
                    let value = next.clone().into_bytes();
                    batch.changes.push(table::Change::Put { key: CLUSTER_KEY.into(), value });
                    batch.changes.push(table::Change::Delete { key: NEXT_CLUSTER_KEY.into() });
                    self.cluster = next;
                }
                batch.after.push(After::Done(reply));
            }
            Message::OwnEntries { prefix, reply } => {
                drop(reply.send(pages::own_entries(&mut self.table, &prefix)?));
            }
            Message::ChangeOwn { changes, reply } => {
                batch.changes.extend(changes);
                batch.after.push(After::Done(reply));
            }
            Message::SetNames { names, reply } => {
                self.slots.set_names(&names);
                self.names.store(Arc::new(names));
                let _ = reply.send(());
            }
            Message::RewriteNames { from, reply } => {
                let names = self.names.load();
                let (rewritten, changes) = pages::rewrite_names(&mut self.table, from, &names)?;
                batch.changes.extend(changes);
                batch.after.push(After::Rewritten(rewritten, reply));
            }
            // This batch may have raised it.
            Message::Mark { reply } => batch.after.push(After::Mark(self.mark_us, reply)),
            Message::Forget { places, from, reply } => {
                let (forgotten, slots) = self.slots.forget(&places, from);
                for slot in slots {
                    let value = self.slots.intent(slot).map_or_else(Vec::new, Intent::to_value);
                    batch.changes.push(table::Change::Put { key: slot_key(slot), value });
                }
                batch.after.push(After::Forgotten(forgotten, reply));
            }
            Message::Close => batch.close = true,
        }
        Ok(())
    }

    /// One write and one sync for the whole batch, then the answers.
    fn finish(&mut self, batch: Batch) -> Result<(), TableError> {
        if !batch.changes.is_empty() {
            self.table.write(&batch.changes)?;
        }
        for step in batch.after {
            match step {
                After::Reserved(held, reply) => {
                    if let Err(Ok(reservation)) = reply.send(Ok(Reservation::new(self.sender.clone(), held)))
                    {
                        self.take_back(reservation);
                    }
                }
                After::Done(reply) => drop(reply.send(())),
                After::Forgotten(forgotten, reply) => drop(reply.send(forgotten)),
                After::Rewritten(rewritten, reply) => drop(reply.send(rewritten)),
                After::Mark(mark_us, reply) => drop(reply.send(mark_us)),
                After::Ended { slot, waits_until, reply } => {
                    self.free(slot, waits_until);
                    let _ = reply.send(());
                }
            }
        }
        Ok(())
    }

    fn reserve(
        &mut self,
        key: Key,
        verb: Verb,
        reply: oneshot::Sender<Reserved>,
        batch: &mut Batch,
    ) -> Result<(), TableError> {
        if self.slots.is_claimed(&key) {
            self.parked.entry(key.clone()).or_default().push(Message::Reserve { key, verb, reply });
            return Ok(());
        }
        if self.slots.is_held(&key) {
            let _ = reply.send(Err(IndexError::Busy { key }));
            return Ok(());
        }
        let previous = match self.record(&key)? {
            Ok(previous) => previous,
            Err(err) => {
                let _ = reply.send(Err(err));
                return Ok(());
            }
        };
        let leftovers = self.slots.has_intents(&key);
        match refusal(&key, &verb, previous.as_ref(), leftovers) {
            Some(err) => drop(reply.send(Err(err))),
            None => self.hold(key, verb, previous, reply, batch),
        }
        Ok(())
    }

    fn hold(
        &mut self,
        key: Key,
        verb: Verb,
        previous: Option<Record>,
        reply: oneshot::Sender<Reserved>,
        batch: &mut Batch,
    ) {
        let time_us = self.new_time(&key, previous.as_ref(), batch);
        let generation = previous.is_some() || self.slots.has_intents(&key);
        let mut files = files_of(&key, &verb, previous.as_ref(), generation.then_some(time_us));
        let mut waits_until_us = 0;
        if matches!(verb, Verb::Remove { .. }) {
            waits_until_us = self.slots.due_of(&key);
            files.extend(self.absorb_waiting(&key, batch));
        }
        let intent = Intent { key: key.clone(), time_us, not_before_us: 0, files: files.clone() };
        let value = (!files.is_empty()).then(|| intent.to_value());
        let is_for_writers = matches!(verb, Verb::Move(_)) && self.slots.is_nearly_full();
        let Some(slot) = (!is_for_writers).then(|| self.slots.hold_new(intent)).flatten() else {
            let _ = reply.send(Err(IndexError::TooManyIntents));
            return;
        };
        if matches!(verb, Verb::Move(_) | Verb::Hold) {
            self.slots.let_wait(slot);
        }
        batch.changes.extend(value.map(|value| table::Change::Put { key: slot_key(slot), value }));
        if matches!(verb, Verb::Remove { .. }) {
            batch.changes.push(table::Change::Delete { key: key.as_bytes().to_vec() });
            if let Some(census) = &mut self.census {
                census.change(&key, previous.as_ref().map(|record| record.state), None);
            }
        }
        // What is removed is no record any more.
        let previous = previous.filter(|_| !matches!(verb, Verb::Remove { .. }));
        let elsewhere = self.slots.files_of_others(&key, slot);
        let held = Held { key, slot, time_us, generation, previous, files, waits_until_us, elsewhere };
        batch.after.push(After::Reserved(held, reply));
    }

    /// The files of all waiting intents of `key`, whose slots come free.
    fn absorb_waiting(&mut self, key: &Key, batch: &mut Batch) -> Vec<PlacedFile> {
        let mut files = Vec::new();
        for slot in self.slots.slots_of(key).to_vec() {
            files.extend(self.slots.clear(slot).map_or_else(Vec::new, |intent| intent.files));
            batch.changes.push(table::Change::Put { key: slot_key(slot), value: Vec::new() });
        }
        files
    }

    /// Later than everything that this process, or the key's history, has seen.
    fn new_time(&mut self, key: &Key, previous: Option<&Record>, batch: &mut Batch) -> u64 {
        let generation =
            previous.and_then(|record| record.generation).map_or(0, |generation| generation.time_us());
        let floor = self.last_time_us.max(generation).max(self.slots.last_time_us(key));
        self.last_time_us = now_us().max(floor + 1);
        if self.last_time_us > self.mark_us {
            self.mark_us = self.last_time_us + MARK_AHEAD_US;
            let value = own_entries::mark_value(self.mark_us);
            batch.changes.push(table::Change::Put { key: MARK_KEY.into(), value });
        }
        self.last_time_us
    }

    fn extend(&mut self, slot: u32, files: Vec<PlacedFile>, reply: oneshot::Sender<()>, batch: &mut Batch) {
        let Some(intent) = self.slots.intent_mut(slot) else { return };
        intent.files = files;
        batch.changes.push(table::Change::Put { key: slot_key(slot), value: intent.to_value() });
        batch.after.push(After::Done(reply));
    }

    fn end(
        &mut self,
        slot: u32,
        change: Change,
        left: Vec<PlacedFile>,
        not_before_us: u64,
        batch: &mut Batch,
        reply: oneshot::Sender<()>,
    ) {
        let left = self.names.load().files(left);
        let Some(intent) = self.slots.intent_mut(slot) else { return };
        if let Change::Store { record, before } = change {
            if let Some(census) = &mut self.census {
                census.change(&intent.key, before, Some(record.state));
            }
            let key = intent.key.as_bytes().to_vec();
            batch.changes.push(table::Change::Put { key, value: record.to_value() });
        }
        let waits_until = (!left.is_empty()).then_some(not_before_us);
        let value = if left.is_empty() {
            Vec::new()
        } else {
            intent.files = left;
            intent.not_before_us = not_before_us;
            intent.to_value()
        };
        batch.changes.push(table::Change::Put { key: slot_key(slot), value });
        batch.after.push(After::Ended { slot, waits_until, reply });
    }

    fn claim(&mut self, slot: u32, batch: &mut Batch) -> Result<Claimed, TableError> {
        let Some(key) = self.slots.intent(slot).map(|intent| intent.key.clone()) else { return Ok(Ok(None)) };
        let previous = match self.record(&key)? {
            Ok(previous) => previous,
            Err(err) => return Ok(Err(err)),
        };
        let Some(intent) = self.slots.hold_due(slot, now_us()) else { return Ok(Ok(None)) };
        let time_us = self.new_time(&key, previous.as_ref(), batch);
        let files = intent.files.clone();
        let elsewhere = self.slots.files_of_others(&key, slot);
        let waits_until_us = 0;
        let held = Held { key, slot, time_us, generation: true, previous, files, waits_until_us, elsewhere };
        Ok(Ok(Some(Reservation::new(self.sender.clone(), held))))
    }

    /// The caller was gone before it got its reservation.
    fn take_back(&mut self, reservation: Reservation) {
        self.free(reservation.disarm(), Some(now_us()));
    }

    fn record(&mut self, key: &Key) -> Result<Result<Option<Record>, IndexError>, TableError> {
        let value = self.table.get_many(&[key.as_bytes()])?.pop().flatten();
        let record = value.map(|value| Record::parse(&value)).transpose();
        let record = record.map(|found| found.map(|record| self.names.load().record(record)));
        Ok(record.map_err(|source| IndexError::Record { key: key.clone(), source }))
    }

    fn next_cluster(&mut self) -> Result<Option<String>, TableError> {
        let id = self.table.get_many(&[NEXT_CLUSTER_KEY.as_bytes()])?.pop().flatten();
        Ok(id.map(|id| String::from_utf8_lossy(&id).into_owned()))
    }

    fn is_unnoted(&mut self) -> Result<bool, TableError> {
        Ok(self.table.get_many(&[UNNOTED_KEY.as_bytes()])?.pop().flatten().is_some())
    }

    /// Takes the free slots out of the index, so that a clean stop leaves what a rebuild would write.
    fn close(mut self) -> Result<(), TableError> {
        let free = self.slots.free_slots().map(|slot| table::Change::Delete { key: slot_key(slot) });
        let changes: Vec<table::Change> = free.collect();
        if !changes.is_empty() {
            self.table.write(&changes)?;
        }
        Box::new(self.table).close()
    }
}

/// Wall clock, µs since 1970.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as u64
}
