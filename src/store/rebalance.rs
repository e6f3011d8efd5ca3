//! REBALANCE: the replicas of a key go where placement wants them.
//!
//! The steps are *reserve → look → copy what is lacking → sidecars → commit*. The record names a new place only after
//! its copy was verified, and an old one is forgotten only in the same step that leaves its files to be settled. State,
//! MD5 and generation stay what they are, and so do the facts in sidecars.

use super::inspect::{Depth, at_once};
use super::link::previous;
use super::plan::{NoPlan, Plan, Source, folded_files, is_only_order, is_right, keep, may_be_folded, plan};
use super::sidecars::{agrees, beside_copy};
use super::verdict::{Finding, Known, Seen, Verdict, judge_named};
use super::{Store, StoreError};
use crate::index::{Ending, Reservation, Verb, files_at, files_of_record, now_us};
use crate::model::{File, Key, Md5, PlacedFile, Placer, Record, Replica, Sidecar, path_of};
use crate::volume::{Content, CopyError, VolumeError};
use futures_util::future::join_all;
use log::warn;
use std::fmt;
use std::time::Duration;

/// What became of one key.
#[derive(Debug, Default)]
pub struct Moved {
    /// Copies that were made.
    pub copies: u64,
    /// Their sizes, added up, in bytes.
    pub bytes: u64,
    /// What is not as it should be.
    pub left: Vec<Left>,
    /// Whether something in the way goes by itself, so that it is worth trying again after `--grace`.
    pub waits: bool,
}

/// Something that could not be put in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// What sort of thing.
    pub trouble: Trouble,
    /// The place, if it is about one.
    pub place: Option<Replica>,
    /// Why.
    pub reason: String,
}

/// What sort of thing could not be put in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// A place has no replica, and others have: it takes none, or refused it, or there are too few places.
    Misplaced,
    /// A replica isn't what was stored.
    Damaged,
    /// A volume, or something on it, could not be read.
    Silent,
}

/// What moving a key would mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Each copy, from where to where.
    pub copies: Vec<(Replica, Replica)>,
    /// The size of the blob in bytes.
    pub size: u64,
}

/// Why a target has no replica now.
struct Failed {
    trouble: Trouble,
    /// The target, or the place that should have been copied.
    place: Replica,
    reason: String,
    /// What may lie there all the same.
    files: Vec<PlacedFile>,
}

/// A move that has its reservation.
struct Move<'a> {
    store: &'a Store,
    reservation: Reservation,
    record: Record,
    placement: Vec<Replica>,
    keep_old: Duration,
    depth: Depth,
    moved: Moved,
}

impl Store {
    /// Brings the replicas of a live blob to their placement. [`StoreError::NotBalanced`] when something is left.
    pub async fn rebalance(&self, key: &Key) -> Result<(), StoreError> {
        let record = self.live(key).await?;
        if self.is_home(key, &record) {
            return Ok(());
        }
        let grace = self.options.load().grace;
        let failures = match self.bring_home(key, grace).await {
            Ok(moved) if moved.left.is_empty() => return Ok(()),
            Ok(moved) => moved.left.iter().map(Left::to_string).collect(),
            Err(err @ StoreError::Gone { .. }) => vec![err.to_string()],
            Err(err) => return Err(err),
        };
        Err(StoreError::NotBalanced { key: key.clone(), failures })
    }

    /// Whether nothing is to be moved, as far as the record tells: where the Go original may have put a blob elsewhere it
    /// doesn't, and the volumes have to be asked.
    pub fn is_home(&self, key: &Key, record: &Record) -> bool {
        is_home(&self.placer, key, record)
    }

    /// Brings the replicas of `key`, live or unlinked, to their placement. Old copies stay for `keep_old`, for readers
    /// that were just redirected. Fails with [`StoreError::Gone`] or [`StoreError::Unavailable`] when no replica is
    /// found; then everything is as it was.
    pub async fn bring_home(&self, key: &Key, keep_old: Duration) -> Result<Moved, StoreError> {
        self.begin_move(key, keep_old, Depth::Sizes).await?.run().await
    }

    /// As [`Store::bring_home`], for replicas that can't be trusted: all of them are read, what is damaged is made anew,
    /// and a whole one that the record doesn't name is taken for the copy that it is. Fails with
    /// [`StoreError::NotBalanced`] when nothing tells which replica is right; then everything is as it was.
    pub async fn repair(&self, key: &Key, keep_old: Duration) -> Result<Moved, StoreError> {
        self.begin_move(key, keep_old, Depth::Contents).await?.run().await
    }

    async fn begin_move(&self, key: &Key, keep_old: Duration, depth: Depth) -> Result<Move<'_>, StoreError> {
        let placement = self.placer.placement(key.as_bytes());
        let up = placement.iter().filter(|place| self.takes_blobs(place)).cloned().collect();
        let reservation = self.index.reserve(key, Verb::Move(up)).await?;
        let record = previous(&reservation)?;
        let moved = Moved::default();
        Ok(Move { store: self, reservation, record, placement, keep_old, depth, moved })
    }

    /// What [`Store::bring_home`] would copy. Takes no lock and changes nothing.
    pub async fn preview(&self, key: &Key, record: &Record) -> Result<Preview, StoreError> {
        let placement = self.placer.placement(key.as_bytes());
        if is_only_order(key, record, &placement) {
            return Ok(Preview { copies: Vec::new(), size: 0 });
        }
        let seen = self.look(key, record, &record.replicas, Depth::Sizes, &at_once).await;
        let plan = plan(record, &placement, &seen, None).map_err(|err| no_plan(key, err))?;
        let copies = plan.copies(&placement, record.md5).into_iter();
        let copies = copies.map(|(target, sources)| (sources[0].replica.clone(), target.clone())).collect();
        Ok(Preview { copies, size: plan.size.unwrap_or(plan.sources[0].size) })
    }
}

impl Move<'_> {
    async fn run(mut self) -> Result<Moved, StoreError> {
        let key = self.reservation.key().clone();
        if self.depth == Depth::Sizes && is_only_order(&key, &self.record, &self.placement) {
            let record = Record { replicas: self.placement.clone(), ..self.record.clone() };
            return self.commit(record, Vec::new()).await;
        }
        let mut seen = self.look().await;
        let (noted, all_answered) = self.store.read_sidecars(&key, &self.record.replicas).await;
        let newest = noted.first().filter(|sidecar| agrees(sidecar, &self.record));
        let mut md5 = self.record.md5.or_else(|| Md5::parse(newest?.md5.as_ref()?));
        let mut size = newest.and_then(|sidecar| sidecar.size);
        if self.depth == Depth::Contents {
            match judge_named(&self.record, &mut seen, Known { size: size.filter(|_| md5.is_none()), md5 }) {
                Verdict::Right(content) => (size, md5) = (Some(content.size), content.md5),
                Verdict::Nothing => {}
                Verdict::Undecided => return self.give_up(no_plan(&key, NoPlan::Conflict)).await,
            }
            // A place that the record doesn't name counts only if its file is right.
            let is_there = |seen: &Seen| matches!(seen.finding, Finding::There { .. });
            seen.retain(|seen| self.record.replicas.contains(&seen.replica) || is_there(seen));
        }
        let plan = match plan(&self.record, &self.placement, &seen, size) {
            Ok(plan) if plan.size.is_some() || md5.is_some() => plan,
            Ok(_) => return self.give_up(no_plan(&key, NoPlan::Conflict)).await,
            Err(err) => return self.give_up(no_plan(&key, err)).await,
        };
        let (arrived, mut left) = self.fill(&plan, md5, &noted).await;
        let size = plan.size.or(arrived.first().map(|(_, size)| *size));
        let arrived: Vec<Replica> = arrived.into_iter().map(|(place, _)| place).collect();
        let wanted = self.store.placer.replicas();
        if self.placement.len() < wanted {
            self.leave(
                Trouble::Misplaced,
                None,
                "too few volumes are to keep blobs, so it stays where it is",
            );
        }
        let kept = keep(&self.placement, wanted, &seen, &arrived, size);
        self.report_damaged(&seen, &kept, size);
        let dropped: Vec<Replica> =
            self.record.replicas.iter().filter(|place| !kept.contains(place)).cloned().collect();
        if !dropped.is_empty() && arrived.is_empty() && !self.is_any_right(&plan, &kept, md5).await {
            self.leave(Trouble::Damaged, None, "no replica in its place has the right content");
            let record = self.record.clone();
            return self.commit(record, left).await;
        }
        let needs_sidecars = !(noted.is_empty() && all_answered);
        let files = files_of_record(&key, &Record { replicas: dropped, ..self.record.clone() });
        left.extend(files.into_iter().filter(|placed| needs_sidecars || placed.file != File::Sidecar));
        left.extend(folded_files(&seen, &arrived));
        let replicas = self.store.placer.in_record_order(key.as_bytes(), kept);
        // Reading has told what nothing told before.
        let read = md5.filter(|_| self.depth == Depth::Contents && self.store.options.load().md5sum);
        let record = Record { replicas, md5: self.record.md5.or(read), ..self.record.clone() };
        self.commit(record, left).await
    }

    /// The places of the record; for a repair those of the placement too, behind them.
    async fn look(&self) -> Vec<Seen> {
        let mut places = self.record.replicas.clone();
        if self.depth == Depth::Contents {
            let others = self.placement.iter().filter(|place| !self.record.replicas.contains(place));
            places.extend(others.filter(|place| self.store.is_readable(place)).cloned());
        }
        self.store.look(self.reservation.key(), &self.record, &places, self.depth, &at_once).await
    }

    /// Makes all copies at the same time. Answers where they are, with their sizes, and what the others have left.
    async fn fill(
        &mut self,
        plan: &Plan,
        md5: Option<Md5>,
        noted: &[Sidecar],
    ) -> (Vec<(Replica, u64)>, Vec<PlacedFile>) {
        let copies = plan.copies(&self.placement, md5);
        let results = join_all(
            copies.into_iter().map(|(target, sources)| self.fill_one(target, sources, plan.size, md5, noted)),
        )
        .await;
        let (mut arrived, mut left) = (Vec::new(), Vec::new());
        for (target, result) in plan.targets.iter().zip(results) {
            match result {
                Ok(size) => {
                    self.moved.copies += 1;
                    self.moved.bytes += size;
                    arrived.push((target.clone(), size));
                }
                Err(failed) => {
                    warn!("moving {}: {}", self.reservation.key(), failed.reason);
                    self.moved.waits |= self.is_in_doubt(target);
                    self.leave(failed.trouble, Some(failed.place), failed.reason);
                    left.extend(failed.files);
                }
            }
        }
        (arrived, left)
    }

    /// One copy and its sidecar; the size of the blob. A file that lies at the target already is overwritten: nobody
    /// vouches for it, and to read it costs as much as to write it.
    async fn fill_one(
        &self,
        target: &Replica,
        sources: Vec<Source>,
        size: Option<u64>,
        md5: Option<Md5>,
        noted: &[Sidecar],
    ) -> Result<u64, Failed> {
        let untried = |trouble, reason: &str| {
            Err(Failed { trouble, place: target.clone(), reason: reason.to_owned(), files: Vec::new() })
        };
        if !self.store.takes_blobs(target) {
            return match self.store.is_readable(target) {
                true => untried(Trouble::Misplaced, "it takes no blobs"),
                false => untried(Trouble::Silent, "it is down"),
            };
        }
        if self.is_in_doubt(target) {
            let reason = "an earlier request may still remove what is written there";
            return untried(Trouble::Misplaced, reason);
        }
        let copied = self.copy_from_any(&sources, target, size, md5).await;
        let size = copied.map_err(|err| {
            let files = if err.in_doubt() { self.files_at(target, true) } else { Vec::new() };
            let (trouble, place) = at_fault(&err, target);
            Failed { trouble, place: place.clone(), reason: err.to_string(), files }
        })?;
        if let Some(sidecar) = beside_copy(&self.record, noted, Some(size), self.reservation.time_us()) {
            let written = self.store.write_sidecar(&self.reservation, target, &sidecar).await;
            written.map_err(|err| Failed {
                trouble: not_written(&err),
                place: target.clone(),
                reason: err.to_string(),
                files: self.files_at(target, err.in_doubt()),
            })?;
        }
        Ok(size)
    }

    /// Copies from the first source that is right.
    async fn copy_from_any(
        &self,
        sources: &[Source],
        target: &Replica,
        size: Option<u64>,
        md5: Option<Md5>,
    ) -> Result<u64, CopyError> {
        let key = self.reservation.key();
        let to_path = path_of(key, File::Blob(self.record.generation));
        let time_us = self.record.generation.map_or_else(now_us, |generation| generation.time_us());
        let mut sources =
            sources.iter().filter(|source| size.is_none_or(|size| size == source.size)).peekable();
        loop {
            let Source { replica: from, file, size } =
                sources.next().expect("one has the size that all should have");
            let content = Content { size: *size, md5 };
            let path = path_of(key, *file);
            match self.store.volumes.copy(from, &path, target, &to_path, &content, time_us).await {
                Ok(()) => return Ok(*size),
                Err(err) if !matches!(err, CopyError::Target(_)) && sources.peek().is_some() => {
                    warn!("copying {key} to {target}: {err}");
                }
                Err(err) => return Err(err),
            }
        }
    }

    fn is_in_doubt(&self, place: &Replica) -> bool {
        let files = [File::Blob(self.record.generation), File::Sidecar];
        files.iter().any(|file| self.reservation.is_in_doubt(*file, place))
    }

    /// What a failed copy may have left at `target`.
    fn files_at(&self, target: &Replica, in_doubt: bool) -> Vec<PlacedFile> {
        let kinds = [File::Blob(self.record.generation), File::Sidecar];
        let mut files = files_at(std::slice::from_ref(target), &kinds);
        files.iter_mut().for_each(|placed| placed.in_doubt = in_doubt);
        files
    }

    /// Whether one of the replicas that stay has the MD5 that it should have. Asked before an old copy goes and no new
    /// one was made, which would have been verified.
    async fn is_any_right(&self, plan: &Plan, kept: &[Replica], md5: Option<Md5>) -> bool {
        let Some(md5) = md5.filter(|_| self.depth == Depth::Sizes) else { return true };
        for source in plan.sources.iter().filter(|source| kept.contains(&source.replica)) {
            match self.md5_of(source).await {
                Ok(found) if found == Some(md5) => return true,
                Ok(_) => warn!("{} on {} is damaged", self.reservation.key(), source.replica),
                Err(err) => warn!("reading {}: {err}", self.reservation.key()),
            }
        }
        false
    }

    async fn md5_of(&self, source: &Source) -> Result<Option<Md5>, VolumeError> {
        let path = path_of(self.reservation.key(), source.file);
        match self.store.volumes.open(&source.replica, &path).await? {
            Some(download) => Ok(download.digest(&at_once).await?.md5),
            None => Ok(None),
        }
    }

    /// A replica that stays and isn't what it should be is not this one's to mend, but it is said.
    fn report_damaged(&mut self, seen: &[Seen], kept: &[Replica], size: Option<u64>) {
        for Seen { replica, finding } in seen.iter().filter(|seen| kept.contains(&seen.replica)) {
            match finding {
                Finding::There { size: found, .. } if !is_right(*found, size) => {
                    self.leave(
                        Trouble::Damaged,
                        Some(replica.clone()),
                        format!("its replica has {found} bytes and is damaged"),
                    );
                }
                Finding::Silent(err) if self.placement.contains(replica) => {
                    let reason = format!("its replica was not seen: {err}");
                    self.leave(Trouble::Silent, Some(replica.clone()), reason);
                }
                _ => {}
            }
        }
    }

    fn leave(&mut self, trouble: Trouble, place: Option<Replica>, reason: impl Into<String>) {
        self.moved.left.push(Left { trouble, place, reason: reason.into() });
    }

    async fn commit(self, record: Record, left: Vec<PlacedFile>) -> Result<Moved, StoreError> {
        let not_before_us = now_us() + self.keep_old.as_micros() as u64;
        let ending = Ending { left: self.store.waited_for(left), not_before_us };
        if record == self.record {
            self.reservation.release(ending).await?;
        } else {
            self.reservation.commit(record, ending).await?;
        }
        Ok(self.moved)
    }

    async fn give_up(self, err: StoreError) -> Result<Moved, StoreError> {
        self.reservation.release(Ending::default()).await?;
        Err(err)
    }
}

/// As [`Store::is_home`], for those who have no store yet.
pub fn is_home(placer: &Placer, key: &Key, record: &Record) -> bool {
    record.replicas == placer.placement(key.as_bytes()) && !may_be_folded(key, record)
}

/// Where a copy to `target` failed, and at what.
fn at_fault<'r>(err: &'r CopyError, target: &'r Replica) -> (Trouble, &'r Replica) {
    match err {
        CopyError::Missing { replica, .. } => (Trouble::Misplaced, replica),
        CopyError::Mismatch { replica, .. } => (Trouble::Damaged, replica),
        CopyError::Source(err) => (Trouble::Silent, err.replica()),
        CopyError::Target(err) => (not_written(err), target),
    }
}

/// A volume that said no, as a full one does, is not silent.
fn not_written(err: &VolumeError) -> Trouble {
    match err {
        VolumeError::Unreachable { .. } | VolumeError::NoAnswer { .. } => Trouble::Silent,
        _ => Trouble::Misplaced,
    }
}

fn no_plan(key: &Key, err: NoPlan) -> StoreError {
    let key = key.clone();
    match err {
        NoPlan::Gone => StoreError::Gone { key },
        NoPlan::Silent(source) => StoreError::Unavailable { key, source },
        NoPlan::Conflict => {
            let failures =
                vec!["its replicas differ or don't answer, and nothing tells which is right".to_owned()];
            StoreError::NotBalanced { key, failures }
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.reason)
    }
}
