//! The index and the volumes, compared: exactly the files that the records name.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use minikeyvalue::model::{File, Key, Record, decode_path, path_of};

use crate::harness::{Cluster, entries_of};

/// What a crash has left becomes due within the grace period and is settled within a second or two.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Entries of the index that are not keys.
const RESERVED_PREFIX: &[u8] = b"!mkv/";
const INTENT_PREFIX: &[u8] = b"!mkv/intent/";

/// Waits until nothing is left to be settled, and compares. The master runs before and after.
pub fn are_exactly_those_of_the_index(cluster: &mut Cluster) {
    let deadline = Instant::now() + SETTLED_WITHIN;
    let mut pause = Duration::from_secs(2);
    loop {
        std::thread::sleep(pause);
        assert!(cluster.master.stop().success(), "{}", cluster.master.log());
        let entries = entries_of(cluster.master.db());
        let files = cluster.files();
        cluster.master.start_again();
        let waiting = entries.iter().filter(|(key, _)| key.starts_with(INTENT_PREFIX)).count();
        if waiting == 0 {
            return compare(&entries, &files);
        }
        assert!(Instant::now() < deadline, "{waiting} intents are never settled:\n{}", cluster.master.log());
        // A restart puts off what is left by the grace period.
        pause *= 2;
    }
}

fn compare(entries: &[(Vec<u8>, Vec<u8>)], files: &[String]) {
    let (mut needed, mut allowed) = (BTreeSet::new(), BTreeSet::new());
    for (key, value) in entries.iter().filter(|(key, _)| !key.starts_with(RESERVED_PREFIX)) {
        let key = Key::new(key.as_slice()).expect("the index holds keys");
        let record = Record::parse(value).expect("the index holds records");
        for replica in &record.replicas {
            needed.insert(format!("{replica}{}", path_of(&key, File::Blob(record.generation))));
            let sidecar = format!("{replica}{}", path_of(&key, File::Sidecar));
            // A generation always has one; a plain blob only if it was unlinked or overwritten once in vain.
            if record.generation.is_some() { &mut needed } else { &mut allowed }.insert(sidecar);
        }
    }
    let found: BTreeSet<String> = files.iter().cloned().collect();
    let missing: Vec<_> = needed.difference(&found).collect();
    assert!(missing.is_empty(), "named by the index and not there: {missing:#?}");
    let orphans: Vec<String> = found
        .iter()
        .filter(|file| !needed.contains(*file) && !allowed.contains(*file))
        .map(|file| format!("{file} is {:?}", decoded(file)))
        .collect();
    assert!(orphans.is_empty(), "there and named by no record: {orphans:#?}");
    assert!(!found.is_empty(), "nothing was written at all");
    println!("{} files of {} records", found.len(), entries.len());
}

/// What a file on a volume is: `host:port/svXX/…`.
fn decoded(file: &str) -> Option<(String, File)> {
    let path = file.splitn(3, '/').nth(2)?;
    let (key, file) = decode_path(&format!("/{path}"))?;
    Some((key.to_string(), file))
}
