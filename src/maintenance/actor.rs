//! The maintenance actor: runs jobs in a server that goes on serving, one of each kind at a time, and begins a scrub by
//! itself when one is due.
//!
//! It owns the table of jobs; every job has a thread and a runtime of its own, so that reading and hashing never hold up
//! a client or another job. What keeps jobs and clients apart are the locks on keys, not this actor.

use super::finding::word;
use super::job::{BeginError, DEFAULT_RATE, Job, JobState, NoSuchJob, Order, Task};
use super::rename::RenameRequest;
use super::replace::ReplaceRequest;
use super::scrub::{self, Origin, RepairRequest, ScrubRequest};
use super::state::StateFile;
use super::status::Status;
use super::threads::{Effort, yield_to_clients};
use super::{Control, MaintenanceError, Rate, drain, forget, offline::Survey, rebalance, rename, replace};
use crate::index::now_us;
use crate::model::Volume;
use crate::store::{Depth, StoreParts};
use actix_rt::time::{interval, timeout};
use futures_util::future::{Either, select};
use log::{error, info};
use metrics::counter;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Messages that wait; people and programs ask a few times a second at most.
const MAILBOX_MESSAGES: usize = 64;

/// Jobs that have ended and are still told of.
const MAX_ENDED: usize = 50;

/// How often it is looked whether a scrub is due.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// After a scrub of the server's own has failed, and before the next: what failed it, as a full disk, lasts.
const FAILED_SCRUB_RESTS: Duration = Duration::from_secs(60 * 60);

/// How long jobs may take to end when the server does. What is cut off then is settled at the next start.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What the server does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// How often everything is scrubbed; `None` for never.
    pub scrub_every: Option<Duration>,
}

enum Message {
    Begin(Order, oneshot::Sender<Result<Job, BeginError>>),
    Jobs(oneshot::Sender<Vec<Job>>),
    Stop(u64, oneshot::Sender<Option<Job>>),
    SetRate(u64, Rate, oneshot::Sender<Option<Job>>),
    SetSchedule(Schedule),
    Ended(u64, Result<(), MaintenanceError>),
    Shutdown(oneshot::Sender<()>),
}

/// The handle of the actor, for any thread.
#[derive(Clone)]
pub struct Maintenance {
    sender: mpsc::Sender<Message>,
    state: Arc<StateFile>,
}

impl Maintenance {
    /// Starts the actor in a thread of its own.
    pub fn start(parts: StoreParts, state: Arc<StateFile>, schedule: Schedule) -> Maintenance {
        let (sender, mailbox) = mpsc::channel(MAILBOX_MESSAGES);
        let jobs = BTreeMap::new();
        let (own, kept) = (sender.clone(), Arc::clone(&state));
        let actor = Actor {
            parts,
            state: kept,
            schedule,
            jobs,
            last_id: 0,
            is_ending: false,
            scrub_rests_until_us: 0,
            waiting: Vec::new(),
            own,
        };
        actix_rt::Arbiter::new().spawn(actor.run(mailbox));
        Maintenance { sender, state }
    }

    /// What is remembered of volumes and scrubs.
    pub fn state(&self) -> &StateFile {
        &self.state
    }

    /// Begins a job.
    pub async fn begin(&self, order: Order) -> Result<Job, BeginError> {
        self.ask(|reply| Message::Begin(order, reply)).await.unwrap_or(Err(BeginError::Ending))
    }

    /// Those that are running, and the last that have ended, newest first.
    pub async fn jobs(&self) -> Vec<Job> {
        self.ask(Message::Jobs).await.unwrap_or_default()
    }

    /// Has a job end; it brings what it has begun to its end first. No effect on one that has ended.
    pub async fn stop(&self, id: u64) -> Result<Job, NoSuchJob> {
        self.ask(|reply| Message::Stop(id, reply)).await.flatten().ok_or(NoSuchJob(id))
    }

    /// Has a job go on at another rate. No effect on one that has ended.
    pub async fn set_rate(&self, id: u64, rate: Rate) -> Result<Job, NoSuchJob> {
        self.ask(|reply| Message::SetRate(id, rate, reply)).await.flatten().ok_or(NoSuchJob(id))
    }

    /// Has the server do other things by itself from now on; jobs that run are left alone.
    pub async fn set_schedule(&self, schedule: Schedule) {
        // An error means that the server is ending.
        let _ = self.sender.send(Message::SetSchedule(schedule)).await;
    }

    /// Stops all jobs, and returns when they have ended or [`STOP_PATIENCE`] is over.
    pub async fn shut_down(&self) {
        let _ = timeout(STOP_PATIENCE, self.ask(Message::Shutdown)).await;
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.sender.send(message(reply)).await.ok()?;
        answer.await.ok()
    }
}

struct Actor {
    parts: StoreParts,
    state: Arc<StateFile>,
    schedule: Schedule,
    jobs: BTreeMap<u64, Entry>,
    last_id: u64,
    is_ending: bool,
    /// A scrub of the server's own that somebody has stopped, or that has failed, is not begun again before, µs since 1970.
    scrub_rests_until_us: u64,
    /// Who waits for all jobs to end.
    waiting: Vec<oneshot::Sender<()>>,
    own: mpsc::Sender<Message>,
}

struct Entry {
    task: Task,
    control: Control,
    begun_us: u64,
    ended: Option<Ended>,
}

struct Ended {
    at_us: u64,
    error: Option<String>,
    status: Status,
}

impl Actor {
    async fn run(mut self, mut mailbox: mpsc::Receiver<Message>) {
        let mut looks = interval(LOOK_EVERY);
        loop {
            match select(pin!(mailbox.recv()), pin!(looks.tick())).await {
                Either::Left((Some(message), _)) => self.handle(message),
                Either::Left((None, _)) => return,
                Either::Right(_) => self.scrub_if_due(),
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Begin(order, reply) => drop(reply.send(self.begin(order))),
            Message::Jobs(reply) => {
                let jobs = self.jobs.iter().rev().map(|(id, entry)| entry.job(*id));
                let _ = reply.send(jobs.collect());
            }
            Message::Stop(id, reply) => {
                let entry = self.jobs.get(&id);
                if let Some(entry) = entry.filter(|entry| entry.ended.is_none()) {
                    entry.control.stop.store(true, Ordering::Relaxed);
                    if matches!(entry.task, Task::Scrub { scheduled: true, .. }) {
                        let every = self.schedule.scrub_every.unwrap_or_default();
                        rest(&mut self.scrub_rests_until_us, now_us(), every);
                    }
                }
                let _ = reply.send(entry.map(|entry| entry.job(id)));
            }
            Message::SetRate(id, rate, reply) => {
                let entry = self.jobs.get(&id);
                if let Some(entry) = entry.filter(|entry| entry.ended.is_none()) {
                    entry.control.pace.set(rate);
                }
                let _ = reply.send(entry.map(|entry| entry.job(id)));
            }
            Message::SetSchedule(schedule) => self.schedule = schedule,
            Message::Ended(id, result) => self.end(id, result),
            Message::Shutdown(reply) => {
                self.is_ending = true;
                self.running().for_each(|(_, entry)| entry.control.stop.store(true, Ordering::Relaxed));
                self.waiting.push(reply);
                self.tell_if_all_have_ended();
            }
        }
    }

    fn running(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.jobs.iter().filter(|(_, entry)| entry.ended.is_none()).map(|(id, entry)| (*id, entry))
    }

    fn begin(&mut self, order: Order) -> Result<Job, BeginError> {
        if self.is_ending {
            return Err(BeginError::Ending);
        }
        let same = |entry: &Entry| std::mem::discriminant(&entry.task) == std::mem::discriminant(&order.task);
        if let Some((id, _)) = self.running().find(|(_, entry)| same(entry)) {
            return Err(BeginError::Running { id });
        }
        if let Task::Drain { volume } = &order.task
            && !self.parts.placer.volumes().iter().any(|known| known.as_str() == volume)
        {
            return Err(BeginError::NoSuchVolume(volume.clone()));
        }
        let names = match &order.task {
            Task::Forget { volume } | Task::Replace { volume, .. } => vec![volume],
            Task::Rename { volume, to } => vec![volume, to],
            _ => Vec::new(),
        };
        if let Some(name) = names.into_iter().find(|name| name.parse::<Volume>().is_err()) {
            return Err(BeginError::NoSuchVolume(name.clone()));
        }
        self.last_id += 1;
        let id = self.last_id;
        let control = Control::default();
        control.pace.set(order.rate);
        let entry =
            Entry { task: order.task.clone(), control: control.clone(), begun_us: now_us(), ended: None };
        let job = entry.job(id);
        self.jobs.insert(id, entry);
        info!("job {id} begins: {}", order.task.name());
        let (parts, state, ended) = (self.parts.clone(), Arc::clone(&self.state), self.own.clone());
        let scrub_every = self.schedule.scrub_every;
        let run = move || {
            yield_to_clients();
            let work = perform(parts, state, order.task, scrub_every, control);
            let result = actix_rt::System::new().block_on(work);
            let _ = ended.blocking_send(Message::Ended(id, result));
        };
        std::thread::Builder::new().name("job".into()).spawn(run).expect("there is room for one more thread");
        Ok(job)
    }

    fn end(&mut self, id: u64, result: Result<(), MaintenanceError>) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        let error = result.err().map(|err| err.to_string());
        let status = entry.control.progress.status();
        match &error {
            Some(error) => {
                error!("job {id} ({}) failed: {error}", entry.task.name());
                if matches!(entry.task, Task::Scrub { scheduled: true, .. }) {
                    rest(&mut self.scrub_rests_until_us, now_us(), FAILED_SCRUB_RESTS);
                }
            }
            None => info!("job {id} ({}) ended, {} problems are left", entry.task.name(), status.problems),
        }
        entry.ended = Some(Ended { at_us: now_us(), error, status });
        let (kind, outcome) = (entry.task.name(), word(entry.job(id).state));
        counter!("mkv_jobs_ended_total", "kind" => kind, "outcome" => outcome).increment(1);
        let ended: Vec<u64> =
            self.jobs.iter().filter(|(_, entry)| entry.ended.is_some()).map(|(id, _)| *id).collect();
        for id in ended.iter().rev().skip(MAX_ENDED) {
            self.jobs.remove(id);
        }
        self.tell_if_all_have_ended();
    }

    /// Answers whoever waits for the end, when no job is left.
    fn tell_if_all_have_ended(&mut self) {
        if self.running().next().is_none() {
            for reply in self.waiting.drain(..) {
                let _ = reply.send(());
            }
        }
    }

    /// Begins a scrub when one is due, or was interrupted.
    fn scrub_if_due(&mut self) {
        let Some(every) = self.schedule.scrub_every.filter(|_| !self.is_ending) else { return };
        let remembered = self.state.get();
        let due_us = remembered
            .last_read_us()
            .max(self.state.index_since_us())
            .saturating_add(every.as_micros() as u64);
        let is_due = remembered.scrub_at.is_some() || due_us <= now_us();
        if !is_due || self.scrub_rests_until_us > now_us() {
            return;
        }
        let task = Task::Scrub { quick: false, scheduled: true };
        match self.begin(Order { task, rate: DEFAULT_RATE }) {
            // Or somebody has begun one.
            Ok(_) | Err(BeginError::Running { .. }) => {}
            Err(err) => error!("the scrub that is due: {err}"),
        }
    }
}

/// Has a rest last at least `time` from `now_us` on, both times in µs since 1970. One that lasts longer stays as it is.
fn rest(until_us: &mut u64, now_us: u64, time: Duration) {
    let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    *until_us = now_us.saturating_add(time_us).max(*until_us);
}

impl Entry {
    fn job(&self, id: u64) -> Job {
        let status = match &self.ended {
            Some(ended) => ended.status.clone(),
            None => self.control.progress.status(),
        };
        let state = match &self.ended {
            None if self.control.is_stopped() => JobState::Stopping,
            None => JobState::Running,
            Some(Ended { error: Some(_), .. }) => JobState::Failed,
            Some(_) if self.control.is_stopped() => JobState::Stopped,
            Some(_) if status.problems > 0 => JobState::Left,
            Some(_) => JobState::Done,
        };
        Job {
            id,
            task: self.task.clone(),
            state,
            begun_us: self.begun_us,
            ended_us: self.ended.as_ref().map(|ended| ended.at_us),
            rate: self.control.pace.rate().to_string(),
            error: self.ended.as_ref().and_then(|ended| ended.error.clone()),
            status,
        }
    }
}

async fn perform(
    parts: StoreParts,
    state: Arc<StateFile>,
    task: Task,
    scrub_every: Option<Duration>,
    control: Control,
) -> Result<(), MaintenanceError> {
    let grace = parts.options.load().grace;
    let depth = |quick| if quick { Depth::Sizes } else { Depth::Contents };
    let scrub = match task {
        Task::Rebalance => return rebalance::run_online(&parts, &control).await,
        Task::Drain { volume } => {
            let volume: Volume = volume.parse().expect("it is one of ours");
            return drain::run_online(&parts, &state, &volume, &control).await;
        }
        Task::Forget { volume } => {
            let volume: Volume = volume.parse().expect("it was parsed before");
            return forget::forget(&parts, &state, &volume, &control).await.map(drop);
        }
        Task::Replace { volume, with_blobs } => {
            let place = volume.parse().expect("it was parsed before");
            return replace::take(&parts, &ReplaceRequest { place, with_blobs }, &control).await;
        }
        Task::Rename { volume, to } => {
            let parsed = |name: String| name.parse().expect("it was parsed before");
            let request = RenameRequest { earlier: parsed(volume), present: parsed(to) };
            return rename::write(&parts, &request, &control).await;
        }
        Task::Scrub { quick, scheduled } => {
            let origin = if scheduled { Origin::Scheduled } else { Origin::Asked };
            ScrubRequest { depth: depth(quick), repair: None, origin, effort: Effort::BesideClients }
        }
        Task::Repair { quick, delete_orphans, force } => {
            let repair = RepairRequest { delete_orphans, force, keep_old: grace };
            ScrubRequest {
                depth: depth(quick),
                repair: Some(repair),
                origin: Origin::Asked,
                effort: Effort::BesideClients,
            }
        }
    };
    control.progress.begin("reading the index", 0);
    let survey = Survey::of(&parts.index.handle(), &parts.placer).await?;
    parts.store().recognise_strangers(&survey.strangers).await?;
    if let (Origin::Scheduled, Some(every)) = (scrub.origin, scrub_every) {
        // It takes about half of the time until the next one, instead of a burst.
        let blobs = (survey.keys as f64 * 2.0 / every.as_secs_f64()).max(1.0);
        control.pace.set(Rate { blobs: Some(blobs), ..DEFAULT_RATE });
    }
    scrub::run(parts, scrub, state, survey.keys, control).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_that_fails_leaves_a_longer_rest_as_it_is() {
        let day = Duration::from_secs(24 * 60 * 60);
        let mut until_us = 0;
        rest(&mut until_us, 1_000_000, FAILED_SCRUB_RESTS);
        assert_eq!(until_us, 3_601_000_000);
        rest(&mut until_us, 2_000_000, day);
        assert_eq!(until_us, 86_402_000_000);
        rest(&mut until_us, 3_000_000, FAILED_SCRUB_RESTS);
        assert_eq!(until_us, 86_402_000_000, "a person asked for it");
        rest(&mut until_us, 4_000_000, Duration::MAX);
        assert_eq!(until_us, u64::MAX);
    }
}
