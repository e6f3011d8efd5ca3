//! Which content is right, of what was found at the places of a key. Pure.
//!
//! An MD5 decides, where one is known; else what more than half of the replicas have. Where neither tells, nobody is
//! called wrong.

use crate::model::{File, Md5, Record, Replica};
use crate::volume::{Content, VolumeError};

/// What was found at a place.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) replica: Replica,
    pub(super) finding: Finding,
}

#[derive(Debug, Clone)]
pub(super) enum Finding {
    /// A file; its MD5 if it was read.
    There {
        file: File,
        size: u64,
        md5: Option<Md5>,
    },
    /// A file that is known to be wrong.
    Damaged {
        what: String,
    },
    Absent,
    Silent(VolumeError),
}

/// What is known of a content before it was looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    pub(super) size: Option<u64>,
    pub(super) md5: Option<Md5>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Right(Content),
    /// No file has what should be there.
    Nothing,
    Undecided,
}

impl Seen {
    fn content(&self) -> Option<Content> {
        match self.finding {
            Finding::There { size, md5, .. } => Some(Content { size, md5 }),
            Finding::Damaged { .. } | Finding::Absent | Finding::Silent(_) => None,
        }
    }
}

/// Finds out which content is right, and marks the files that are wrong. A blob is never empty.
pub(super) fn judge(seen: &mut [Seen], known: Known) -> Verdict {
    judge_beside(0, seen, known)
}

/// As [`judge`], where it isn't known what `silent` more replicas have.
fn judge_beside(silent: usize, seen: &mut [Seen], known: Known) -> Verdict {
    let fits = |content: &Content| {
        let other_md5 = content.md5.is_some() && known.md5.is_some() && content.md5 != known.md5;
        content.size > 0 && known.size.is_none_or(|size| size == content.size) && !other_md5
    };
    let fitting: Vec<Content> = seen.iter().filter_map(Seen::content).filter(fits).collect();
    let is_proven = |content: &&Content| known.md5.is_some() && content.md5 == known.md5;
    let count = |content: &Content| fitting.iter().filter(|other| *other == content).count();
    let is_most = |content: &&Content| 2 * count(content) > fitting.len() + silent;
    let right = fitting.iter().find(is_proven).or_else(|| fitting.iter().find(is_most)).copied();
    for seen in seen.iter_mut() {
        let Some(content) = seen.content() else { continue };
        let is_wrong = right.map_or_else(|| !fits(&content), |right| right != content);
        if is_wrong {
            seen.finding = Finding::Damaged { what: difference(&content, right, known) };
        }
    }
    match right {
        Some(content) => Verdict::Right(content),
        None if fitting.is_empty() => Verdict::Nothing,
        None => Verdict::Undecided,
    }
}

fn difference(found: &Content, right: Option<Content>, known: Known) -> String {
    let size = right.map(|content| content.size).or(known.size);
    match (size, found.md5, right.and_then(|content| content.md5).or(known.md5)) {
        (Some(size), _, _) if size != found.size => format!("it has {} bytes instead of {size}", found.size),
        (_, Some(found), Some(md5)) if found != md5 => format!("its MD5 is {found} instead of {md5}"),
        _ => format!("it has {} bytes", found.size),
    }
}

/// As [`judge`], where files that the record doesn't name have no say beside those that it does: they may be another
/// content that was left there. Only when every replica is known to be lost they are asked what it was. Those that don't
/// answer may be the ones that are right, and a copy of another would outvote them when they are back. `seen` begins with
/// the places of the record.
pub(super) fn judge_named(record: &Record, seen: &mut [Seen], known: Known) -> Verdict {
    let (named, others) = seen.split_at_mut(record.replicas.len());
    let is_silent = |seen: &&Seen| matches!(seen.finding, Finding::Silent(_));
    let silent = named.iter().filter(is_silent).count();
    match judge_beside(silent, named, known) {
        Verdict::Right(content) => {
            judge(others, Known { size: Some(content.size), md5: content.md5 });
            Verdict::Right(content)
        }
        Verdict::Nothing if known.md5.is_none() && silent > 0 => {
            others.iter_mut().for_each(|seen| seen.finding = Finding::Absent);
            Verdict::Nothing
        }
        Verdict::Nothing => judge(others, known),
        Verdict::Undecided => Verdict::Undecided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `5x` is a file of five bytes whose MD5 is all x, `5` one that wasn't read, `-` none.
    fn seen(text: &str) -> Vec<Seen> {
        let finding = |word: &str| match word {
            "-" => Finding::Absent,
            word => {
                let size = word.trim_end_matches(|letter: char| letter.is_alphabetic());
                let md5 = word[size.len()..].bytes().next().map(|letter| Md5([letter; 16]));
                Finding::There { file: File::Blob(None), size: size.parse().unwrap(), md5 }
            }
        };
        let seen = |word| Seen { replica: "a:1".parse().unwrap(), finding: finding(word) };
        text.split(' ').map(seen).collect()
    }

    /// Which are damaged, as `.x.`, and the verdict.
    fn judged(text: &str, known: Known) -> (String, Verdict) {
        let mut seen = seen(text);
        let verdict = judge(&mut seen, known);
        let mark = |seen: &Seen| if matches!(seen.finding, Finding::Damaged { .. }) { 'x' } else { '.' };
        (seen.iter().map(mark).collect(), verdict)
    }

    fn right(size: u64, letter: Option<u8>) -> Verdict {
        Verdict::Right(Content { size, md5: letter.map(|letter| Md5([letter; 16])) })
    }

    #[test]
    fn a_known_md5_decides_whatever_the_others_have() {
        let known = Known { size: None, md5: Some(Md5([b'g'; 16])) };
        let check =
            |text, marks: &str, verdict| assert_eq!(judged(text, known), (marks.into(), verdict), "{text}");
        check("5g 5g 5g", "...", right(5, Some(b'g')));
        check("5b 5b 5g", "xx.", right(5, Some(b'g')));
        check("5b - 5b", "x.x", Verdict::Nothing);
        check("0b 5g -", "x..", right(5, Some(b'g')));
        // Nothing was read, so the sizes have to tell.
        check("5 5 6", "..x", right(5, None));
        check("5 6 -", "...", Verdict::Undecided);
    }

    #[test]
    fn without_one_more_than_half_decide_or_nobody() {
        let check = |text, marks: &str, verdict| {
            assert_eq!(judged(text, Known::default()), (marks.into(), verdict), "{text}");
        };
        check("5a 5a 5b", "..x", right(5, Some(b'a')));
        check("5a 5b 5c", "...", Verdict::Undecided);
        check("5a 5b -", "...", Verdict::Undecided);
        check("5a - -", "...", right(5, Some(b'a')));
        check("0a 0a 5b", "xx.", right(5, Some(b'b')));
        check("- - -", "...", Verdict::Nothing);
        let known = Known { size: Some(6), md5: None };
        assert_eq!(judged("5a 5a 6b", known), ("xx.".into(), right(6, Some(b'b'))));
    }

    #[test]
    fn those_that_are_silent_may_be_most() {
        let check = |text, silent, known, verdict| {
            assert_eq!(judge_beside(silent, &mut seen(text), known), verdict, "{text} and {silent}");
        };
        let unknown = Known::default();
        check("5a 5a", 1, unknown, right(5, Some(b'a')));
        check("5a -", 1, unknown, Verdict::Undecided);
        check("5a 5a 5b", 2, unknown, Verdict::Undecided);
        check("- -", 1, unknown, Verdict::Nothing);
        check("5a -", 1, Known { size: None, md5: Some(Md5([b'a'; 16])) }, right(5, Some(b'a')));
    }
}
