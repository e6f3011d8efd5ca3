//! What is made of the identities that places show, beside those that the index knows. Pure.

use crate::model::{Identities, Identity, Names, Placer, Replica, Volume};
use crate::volume::Shown;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a place is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// The one that it was.
    Right,
    /// One that the index knows under an earlier name, which is not used any more.
    Renamed(Identity),
    /// Not the one that it was; why.
    Stranger(String),
    /// Another of the volumes in use shows the same id.
    Doubled(Replica),
    /// The index knows no id of it, or it doesn't show its own: the files that should lie there decide. It shows this id, if
    /// any.
    Unknown(Option<Identity>),
}

/// Why two of the volumes can't be used beside each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// Two names lead to one directory.
    Same(Replica, Replica),
    /// Two directories have one id.
    Clone(Replica, Replica),
    /// Each serves what the other is.
    Exchanged(Replica, Replica),
}

impl Conflict {
    /// The two places.
    pub fn places(&self) -> [&Replica; 2] {
        match self {
            Conflict::Same(one, other) | Conflict::Clone(one, other) | Conflict::Exchanged(one, other) => {
                [one, other]
            }
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conflict::Same(one, other) => write!(
                f,
                "{one} and {other} are the same volume under two names; leave one of them out of --volumes"
            ),
            Conflict::Clone(one, other) => write!(
                f,
                "{one} and {other} have one identity and are two directories, so one is a clone of the other; `mkv replace` one \
                 of them"
            ),
            Conflict::Exchanged(one, other) => write!(
                f,
                "{one} serves what is {other}, and {other} what is {one}: their names or drives were exchanged; change them back"
            ),
        }
    }
}

/// Whether a place lies on one of the volumes in use.
pub(in crate::store) fn is_current(placer: &Placer, place: &Replica) -> bool {
    let volumes = placer.volumes();
    volumes.iter().any(|volume| volume.as_str() == place.as_str()) || volumes.contains(&place.volume())
}

/// The present name of every place that the index knows under a name that is not used any more.
pub(super) fn present_names(placer: &Placer, known: &Identities) -> Names {
    let mut present = Vec::new();
    for place in known.places().filter(|place| !is_current(placer, place)) {
        let Some(id) = known.of(place) else { continue };
        let now = known.names_of(id).into_iter().find(|name| is_current(placer, name));
        present.extend(now.map(|now| (place.clone(), now.clone())));
    }
    Names::new(present)
}

/// What each of the places is that were `seen`.
pub(super) fn judge(
    placer: &Placer,
    known: &Identities,
    gone: &BTreeSet<Identity>,
    seen: &BTreeMap<Replica, Shown>,
) -> BTreeMap<Replica, Finding> {
    let shows =
        |place: &Replica, id: Identity| matches!(seen.get(place), Some(Shown::Is(file)) if file.id == id);
    let judged = seen.iter().map(|(place, shown)| {
        let Shown::Is(file) = shown else { return (place.clone(), Finding::Unknown(None)) };
        if known.of(place) == Some(file.id) {
            return (place.clone(), Finding::Right);
        }
        let in_use: Vec<&Replica> = known
            .names_of(file.id)
            .into_iter()
            .filter(|name| *name != place && is_current(placer, name))
            .collect();
        let twin = seen.keys().find(|other| *other != place && shows(other, file.id));
        let finding = if let Some(twin) = twin {
            Finding::Doubled(twin.clone())
        } else if let Some(fault) = known.of(place).and_then(|id| shown.fault(id, known)) {
            Finding::Stranger(match present_name(placer, known, place) {
                Some(present) => format!(
                    "it is another volume, and {place} is what {present} was called; leave it out of --volumes until `mkv rename \
                     {place} {present}` has written that into the records"
                ),
                None => fault,
            })
        } else if gone.contains(&file.id) {
            Finding::Stranger("it is a drive that was replaced, and is not taken again".to_owned())
        } else if let Some(name) = in_use.first() {
            Finding::Stranger(format!("it serves what is {name}; leave one of both out of --volumes"))
        } else if known.names_of(file.id).is_empty() {
            Finding::Unknown(Some(file.id))
        } else {
            Finding::Renamed(file.id)
        };
        (place.clone(), finding)
    });
    judged.collect()
}

/// Another name in use of the volume that `place` was.
fn present_name<'k>(placer: &Placer, known: &'k Identities, place: &Replica) -> Option<&'k Replica> {
    let names = known.names_of(known.of(place)?);
    names.into_iter().find(|name| *name != place && is_current(placer, name))
}

/// Pairs of places of which each shows the other's id.
pub(super) fn exchanged(known: &Identities, seen: &BTreeMap<Replica, Shown>) -> Vec<Conflict> {
    let mut pairs = Vec::new();
    for (one, shown) in seen {
        let (Shown::Is(file), Some(own)) = (shown, known.of(one)) else { continue };
        for other in known.names_of(file.id).into_iter().filter(|other| one < *other) {
            if matches!(seen.get(other), Some(Shown::Is(file)) if file.id == own) {
                pairs.push(Conflict::Exchanged(one.clone(), other.clone()));
            }
        }
    }
    pairs
}

/// Missing files that tell nothing: a place with no more records than that is taken as it is.
const FEW: usize = 4;

/// What lies at a place, of the files that should.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sampled {
    pub(super) there: usize,
    pub(super) missing: usize,
}

impl Sampled {
    /// Whether most of the files are not there, so that it is another drive. A few may be lost on the right one.
    pub(super) fn is_other(self) -> bool {
        self.missing > self.there && self.missing >= FEW
    }

    /// Whether files prove that it is the right one.
    pub(super) fn is_proven(self) -> bool {
        self.there > self.missing
    }
}

/// The subvolume's folder of a place, `svXX`; `None` for a volume's root.
pub(super) fn folder_of(volume: &Volume, place: &Replica) -> Option<String> {
    Some(place.as_str().strip_prefix(volume.as_str())?.strip_prefix('/')?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VolumeFile;

    fn place(name: &str) -> Replica {
        name.parse().expect("it is a place")
    }

    fn placer(names: &[&str]) -> Placer {
        Placer::new(names.iter().map(|name| name.parse().expect("it is a volume")).collect(), 1, 1)
    }

    fn known(pairs: &[(&str, u128)]) -> Identities {
        Identities::new(pairs.iter().map(|(name, id)| (place(name), Identity::new(*id))))
    }

    /// `0` shows nothing.
    fn seen(pairs: &[(&str, u128)]) -> BTreeMap<Replica, Shown> {
        let shown = |name: &str, id: u128| match id {
            0 => Shown::Nothing,
            id => Shown::Is(VolumeFile::new(Identity::new(id), &place(name))),
        };
        pairs.iter().map(|(name, id)| (place(name), shown(name, *id))).collect()
    }

    fn check(volumes: &[&str], index: &[(&str, u128)], shown: &[(&str, u128)], expected: &str) {
        let judged =
            judge(&placer(volumes), &known(index), &BTreeSet::from([Identity::new(99)]), &seen(shown));
        let word = |finding: &Finding| match finding {
            Finding::Right => "right".to_owned(),
            Finding::Renamed(_) => "renamed".to_owned(),
            Finding::Stranger(_) => "stranger".to_owned(),
            Finding::Doubled(other) => format!("double of {other}"),
            Finding::Unknown(id) => if id.is_some() { "unknown id" } else { "unknown" }.to_owned(),
        };
        let words: Vec<String> = judged.values().map(word).collect();
        assert_eq!(words.join(", "), expected, "{index:?} {shown:?}");
    }

    #[test]
    fn every_mix_of_names_and_ids_has_one_meaning() {
        check(&["a:1"], &[("a:1", 1)], &[("a:1", 1)], "right");
        check(&["a:1"], &[("a:1", 1)], &[("a:1", 2)], "stranger");
        check(&["a:1"], &[("a:1", 1)], &[("a:1", 0)], "unknown");
        check(&["a:1"], &[], &[("a:1", 0)], "unknown");
        check(&["a:1"], &[], &[("a:1", 7)], "unknown id");
        check(&["a:1"], &[], &[("a:1", 99)], "stranger");
        check(&["b:1"], &[("a:1", 1)], &[("b:1", 1)], "renamed");
        check(&["a:1", "b:1"], &[("a:1", 1)], &[("b:1", 1)], "stranger");
        check(&["a:1", "b:1"], &[("a:1", 1)], &[("a:1", 1), ("b:1", 1)], "right, double of a:1");
        check(&["a:1", "b:1"], &[("a:1", 1), ("b:1", 2)], &[("a:1", 2), ("b:1", 1)], "stranger, stranger");
        check(&["a:1", "b:1"], &[], &[("a:1", 3), ("b:1", 3)], "double of b:1, double of a:1");
    }

    #[test]
    fn two_that_show_each_other_are_exchanged() {
        let index = known(&[("a:1", 1), ("b:1", 2), ("c:1", 3)]);
        let pairs = exchanged(&index, &seen(&[("a:1", 2), ("b:1", 1), ("c:1", 1)]));
        assert_eq!(pairs, [Conflict::Exchanged(place("a:1"), place("b:1"))]);
        assert_eq!(exchanged(&index, &seen(&[("a:1", 1), ("b:1", 2), ("c:1", 3)])), []);
    }

    #[test]
    fn an_earlier_name_leads_to_the_present_one() {
        let index = known(&[("old:1", 1), ("new:1", 1), ("old:1/sv01", 2), ("other:1", 2), ("lost:1", 5)]);
        let names = present_names(&placer(&["new:1", "other:1"]), &index);
        assert_eq!(names.present(place("old:1")), place("new:1"));
        assert_eq!(names.present(place("old:1/sv02")), place("new:1/sv02"));
        assert_eq!(names.present(place("old:1/sv01")), place("other:1"));
        assert_eq!(names.present(place("lost:1")), place("lost:1"));
    }
}
