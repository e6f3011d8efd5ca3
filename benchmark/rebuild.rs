//! How fast an index is made anew, beside the rate at which the same listings, and the same bytes, can be had.

use crate::filled::{Contents, Filled};
use crate::report::{Figure, Target, median};
use crate::wrk::rate_of_lists;
use crate::{Bench, Outcome};
use std::fs;
use std::path::{Path, PathBuf};

/// Blobs that are read: large enough that hashing is what takes the time.
pub(crate) const BLOB_BYTES: usize = 1 << 20;

pub(crate) fn run(bench: &Bench) -> Outcome<Vec<Figure>> {
    let mut figures = listings(bench)?;
    figures.extend(checksums(bench)?);
    Ok(figures)
}

fn listings(bench: &Bench) -> Outcome<Vec<Figure>> {
    let keys = if bench.options.quick { 60_000 } else { 1_000_000 };
    let contents = Contents { keys, bytes: 1 << 10, linked: true };
    let filled = Filled::new(&bench.scratch.memory, 3, 3, &contents)?;
    let lists = lists(bench, &filled)?;
    let count: usize = lists.iter().map(|(_, _, folders)| folders).sum();
    let servers: Vec<(String, PathBuf)> = lists.into_iter().map(|(name, path, _)| (name, path)).collect();
    let (mut ours, mut wrk, mut peak) = (Vec::new(), Vec::new(), 0.0_f64);
    for _ in 0..bench.options.rounds().min(3) {
        let ended = filled.job(3, &["rebuild", "--no-checksum", "--discard-old"])?;
        ours.push(count as f64 / ended.seconds);
        peak = peak.max(ended.peak_rss_mib);
        wrk.push(rate_of_lists(bench, &servers)?);
    }
    let what = format!("rebuild of {keys} keys x 3, nothing read: listings");
    let rate = Figure::new(what, median(ours), "1/s").limit("wrk, the same listings", median(wrk));
    Ok(vec![
        rate.target(Target::RatioAtLeast(0.6)),
        Figure::new(format!("peak memory of that rebuild, {keys} keys"), peak, "MiB")
            .target(Target::AtMost(256.0)),
    ])
}

/// For each volume its address, a file with the paths of all listings that a rebuild needs of it, and their number.
fn lists(bench: &Bench, filled: &Filled) -> Outcome<Vec<(String, PathBuf, usize)>> {
    let mut lists = Vec::new();
    for (name, dir) in filled.names.iter().zip(filled.dirs()) {
        let mut paths = vec!["/".to_owned()];
        for subvolume in folders(&dir)? {
            for first in folders(&dir.join(&subvolume))? {
                let folder = format!("{subvolume}/{first}");
                paths.extend(
                    folders(&dir.join(&folder))?.into_iter().map(|second| format!("/{folder}/{second}/")),
                );
                paths.push(format!("/{folder}/"));
            }
            paths.push(format!("/{subvolume}/"));
        }
        let path = bench.scratch.memory.join(format!("paths-{name}"));
        fs::write(&path, paths.join("\n"))?;
        lists.push((name.clone(), path, paths.len()));
    }
    Ok(lists)
}

fn folders(dir: &Path) -> Outcome<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() && !name.starts_with('.') {
            names.push(name);
        }
    }
    Ok(names)
}

fn checksums(bench: &Bench) -> Outcome<Vec<Figure>> {
    let keys = if bench.options.quick { 200 } else { 1000 };
    let filled =
        Filled::new(&bench.scratch.memory, 3, 3, &Contents { keys, bytes: BLOB_BYTES, linked: false })?;
    let mib = (3 * keys as usize * BLOB_BYTES) as f64 / (1 << 20) as f64;
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds() {
        ours.push(mib / filled.job(3, &["rebuild", "--discard-old"])?.seconds);
        limit.push(mib / Filled::md5sum(&filled.dirs())?);
    }
    let what = format!("rebuild of {keys} blobs of 1 MiB x 3, all read");
    let figure = Figure::new(what, median(ours), "MiB/s").limit("md5sum, the same files", median(limit));
    Ok(vec![figure.target(Target::RatioAtLeast(0.7))])
}
