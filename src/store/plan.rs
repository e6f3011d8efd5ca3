//! What moving or mending a key takes: what is copied from where to where, and which places its record names then. Pure.

use super::verdict::{Finding, Seen};
use crate::index::files_at;
use crate::model::{File, Key, Md5, PlacedFile, Record, Replica, folded_path};
use crate::volume::VolumeError;

/// A place that can be copied from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) replica: Replica,
    pub(super) file: File,
    pub(super) size: u64,
}

/// What is to be done for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Never empty.
    pub(super) sources: Vec<Source>,
    /// The size of the blob in bytes; `None` where replicas differ and only the MD5 can tell.
    pub(super) size: Option<u64>,
    /// Places of the placement that lack the blob at its own path.
    pub(super) targets: Vec<Replica>,
}

impl Plan {
    /// The sources of each target, the one that is tried first at the beginning: in turn, so that not all is read from one
    /// volume. Without an MD5 those that go from `placement` come first: one that may be damaged must not become two.
    pub(super) fn copies(&self, placement: &[Replica], md5: Option<Md5>) -> Vec<(&Replica, Vec<Source>)> {
        let mut in_turn = self.sources.clone();
        if md5.is_none() {
            in_turn.sort_by_key(|source| placement.contains(&source.replica));
        }
        let sources = |turn: usize| {
            let mut sources = in_turn.clone();
            sources.rotate_left(turn % in_turn.len());
            sources
        };
        self.targets.iter().zip(0..).map(|(target, turn)| (target, sources(turn))).collect()
    }
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NoPlan {
    Gone,
    Silent(VolumeError),
    Conflict,
}

/// Whether all replicas are in their places, in the wrong order.
pub(super) fn is_only_order(key: &Key, record: &Record, placement: &[Replica]) -> bool {
    record.replicas.len() == placement.len()
        && record.replicas.iter().all(|replica| placement.contains(replica))
        && !may_be_folded(key, record)
}

/// What is to be copied. `size` is what a sidecar says, in bytes.
pub(super) fn plan(
    record: &Record,
    placement: &[Replica],
    seen: &[Seen],
    size: Option<u64>,
) -> Result<Plan, NoPlan> {
    let source = |Seen { replica, finding }: &Seen| match finding {
        Finding::There { file, size, .. } if *size > 0 => {
            Some(Source { replica: replica.clone(), file: *file, size: *size })
        }
        _ => None,
    };
    let mut sources: Vec<Source> = seen.iter().filter_map(source).collect();
    let Some(first) = sources.first().map(|source| source.size) else {
        let silent = seen.iter().find_map(|seen| match &seen.finding {
            Finding::Silent(err) => Some(err.clone()),
            _ => None,
        });
        return Err(silent.map_or(NoPlan::Gone, NoPlan::Silent));
    };
    let size = size.or_else(|| sources.iter().all(|source| source.size == first).then_some(first));
    sources.retain(|source| is_right(source.size, size));
    if sources.is_empty() {
        return Err(NoPlan::Conflict);
    }
    let lacks = |place: &&Replica| {
        let finding = seen.iter().find(|seen| seen.replica == **place).map(|seen| &seen.finding);
        match finding {
            None | Some(Finding::Absent | Finding::Damaged { .. }) => true,
            Some(Finding::There { file, .. }) => *file != File::Blob(record.generation),
            Some(Finding::Silent(_)) => false,
        }
    };
    Ok(Plan { sources, size, targets: placement.iter().filter(lacks).cloned().collect() })
}

/// The places that the record is to name, in no order: the placement as far as there are replicas, and of the others
/// as many as it takes to have `wanted` good ones. The placement itself may be shorter, when too few volumes are to keep
/// blobs.
pub(super) fn keep(
    placement: &[Replica],
    wanted: usize,
    seen: &[Seen],
    arrived: &[Replica],
    size: Option<u64>,
) -> Vec<Replica> {
    let finding = |place: &Replica| seen.iter().find(|seen| seen.replica == *place).map(|seen| &seen.finding);
    let is_good = |place: &Replica| {
        arrived.contains(place)
            || matches!(finding(place), Some(Finding::There { size: found, .. }) if is_right(*found, size))
    };
    let stays = |place: &&Replica| {
        is_good(place) || matches!(finding(place), Some(Finding::There { .. } | Finding::Silent(_)))
    };
    let mut kept: Vec<Replica> = placement.iter().filter(stays).cloned().collect();
    let mut lacking = wanted.saturating_sub(kept.iter().filter(|place| is_good(place)).count());
    let others = || seen.iter().map(|seen| &seen.replica).filter(|place| !placement.contains(place));
    let good = others().filter(|place| is_good(place));
    let silent = others().filter(|place| matches!(finding(place), Some(Finding::Silent(_))));
    for place in good.chain(silent) {
        if lacking > 0 {
            kept.push(place.clone());
            lacking -= 1;
        }
    }
    kept
}

/// Whether a file of `found` bytes can be the blob; with several sizes and only an MD5 to tell, any can.
pub(super) fn is_right(found: u64, size: Option<u64>) -> bool {
    found > 0 && size.is_none_or(|size| size == found)
}

/// What the Go original has left at places that have the blob at its own path now.
pub(super) fn folded_files(seen: &[Seen], arrived: &[Replica]) -> Vec<PlacedFile> {
    let is_folded = |seen: &&Seen| matches!(seen.finding, Finding::There { file: File::Folded, .. });
    let moved = seen.iter().filter(is_folded).filter(|seen| arrived.contains(&seen.replica));
    let places: Vec<Replica> = moved.map(|seen| seen.replica.clone()).collect();
    files_at(&places, &[File::Folded])
}

/// Whether the Go original may have stored the blob at a path that isn't its own.
pub(super) fn may_be_folded(key: &Key, record: &Record) -> bool {
    record.generation.is_none() && folded_path(key).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::State;

    fn places(names: &str) -> Vec<Replica> {
        names.split(' ').filter(|name| !name.is_empty()).map(|name| name.parse().unwrap()).collect()
    }

    fn names(places: &[Replica]) -> String {
        places.iter().map(Replica::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn sources_take_turns_and_without_an_md5_those_that_go_come_first() {
        let source = |replica| Source { replica, file: File::Blob(None), size: 5 };
        let sources = places("a:1 b:1 c:1").into_iter().map(source).collect();
        let plan = Plan { sources, size: Some(5), targets: places("d:1 e:1") };
        let from = |md5| {
            let copies = plan.copies(&places("a:1 d:1 e:1"), md5);
            copies.into_iter().map(|(to, from)| format!("{}>{to}", from[0].replica)).collect::<Vec<_>>()
        };
        assert_eq!(from(Some(Md5([0; 16]))), ["a:1>d:1", "b:1>e:1"]);
        assert_eq!(from(None), ["b:1>d:1", "c:1>e:1"]);
    }

    /// `a=x` is damaged, `a=5` has five bytes, `a=f5` has them where the Go original put them, `a=-` has nothing, `a=?` is silent.
    fn seen(text: &str) -> Vec<Seen> {
        text.split(' ')
            .map(|word| {
                let (name, finding) = word.split_once('=').unwrap();
                let replica: Replica = name.parse().unwrap();
                let finding = match finding {
                    "-" => Finding::Absent,
                    "x" => Finding::Damaged { what: String::new() },
                    "?" => Finding::Silent(VolumeError::Foreign {
                        replica: replica.clone(),
                        reason: "it is another".to_owned(),
                    }),
                    size => match size.strip_prefix('f') {
                        Some(size) => {
                            Finding::There { file: File::Folded, size: size.parse().unwrap(), md5: None }
                        }
                        None => {
                            Finding::There { file: File::Blob(None), size: size.parse().unwrap(), md5: None }
                        }
                    },
                };
                Seen { replica, finding }
            })
            .collect()
    }

    fn planned(
        placement: &str,
        found: &str,
        noted: Option<u64>,
    ) -> Result<(String, String, Option<u64>), NoPlan> {
        let seen = seen(found);
        let replicas = seen.iter().map(|seen| seen.replica.clone()).collect();
        let record = Record { state: State::Live, md5: None, generation: None, replicas };
        let plan = plan(&record, &places(placement), &seen, noted)?;
        let sources: Vec<Replica> = plan.sources.iter().map(|source| source.replica.clone()).collect();
        Ok((names(&sources), names(&plan.targets), plan.size))
    }

    #[test]
    fn what_lacks_the_blob_is_copied_from_what_has_it() {
        let check = |placement, found, sources: &str, targets: &str| {
            let plan = planned(placement, found, None).unwrap();
            assert_eq!(plan, (sources.into(), targets.into(), Some(5)), "{found} to {placement}");
        };
        check("a b c", "a=5 b=5 c=5", "a b c", "");
        check("d b e", "a=5 b=5 c=5", "a b c", "d e");
        check("a b c", "a=5 b=- c=5", "a c", "b");
        check("a b c", "a=5 b=x c=5", "a c", "b");
        check("d b c", "a=? b=5 c=5", "b c", "d");
        check("a d b", "a=? b=5", "b", "d");
        check("a b", "a=f5 b=5", "a b", "a");
        check("a b", "a=0 b=5", "b", "");
    }

    #[test]
    fn sizes_that_differ_are_decided_by_who_knows() {
        assert_eq!(planned("c", "a=5 b=6", None).unwrap(), ("a b".into(), "c".into(), None));
        assert_eq!(planned("c", "a=5 b=6", Some(6)).unwrap(), ("b".into(), "c".into(), Some(6)));
        assert!(matches!(planned("c", "a=5 b=6", Some(7)), Err(NoPlan::Conflict)));
    }

    #[test]
    fn without_a_source_it_matters_whether_everybody_answered() {
        assert!(matches!(planned("c", "a=- b=-", None), Err(NoPlan::Gone)));
        assert!(matches!(planned("c", "a=- b=0", None), Err(NoPlan::Gone)));
        assert!(matches!(planned("c", "a=- b=?", None), Err(NoPlan::Silent(_))));
    }

    #[test]
    fn no_good_replica_goes_before_there_are_enough() {
        let check = |placement, found, arrived, expected: &str| {
            let placement = places(placement);
            let kept = keep(&placement, placement.len(), &seen(found), &places(arrived), Some(5));
            assert_eq!(names(&kept), expected, "{found} to {placement:?}, {arrived} arrived");
        };
        check("d e f", "a=5 b=5 c=5", "d e f", "d e f");
        check("d e f", "a=5 b=5 c=5", "d", "d a b");
        check("d b c", "a=? b=5 c=5", "d", "d b c");
        check("d b c", "a=? b=5 c=5", "", "b c a");
        check("a d", "a=? b=5", "d", "a d b");
        check("a d", "a=7 b=5", "d", "a d b");
        check("a d", "a=- b=5", "d", "d b");
        check("a b c", "a=x b=5 c=5", "", "b c");
        check("a b c", "a=x b=5 c=5", "a", "a b c");
        check("a b", "a=f5 b=5 c=5", "", "a b");
        check("b c d", "a=5 b=5 c=5 d=5", "", "b c d");
        let kept = |placement| names(&keep(&places(placement), 3, &seen("a=5 b=5 c=5"), &[], Some(5)));
        assert_eq!((kept("b"), kept("")), ("b a c".into(), "a b c".into()), "too few volumes keep blobs");
    }
}
