//! An index that is read as a whole: sound, with entries that are none, and with damaged blocks.

use std::fs;

use minikeyvalue::index::leveldb;
use minikeyvalue::index::table::{Change, Table};

use crate::harness::{Cluster, Master};

#[test]
fn a_sound_index_passes_and_every_bad_entry_is_named() {
    let mut cluster = Cluster::start();
    (0..300).for_each(|number| cluster.master.put(&format!("/k{number}"), b"x"));
    let (status, said) = cluster.master.job(&["verify-index"]);
    assert!(!status.success() && said.contains("in use by another process"), "{said}");
    cluster.master.kill9();
    let (status, said) = cluster.master.job(&["verify-index"]);
    assert!(status.success(), "{said}");
    assert!(said.contains("30"), "the keys are counted: {said}");

    let put = |key: &str, value: &str| Change::Put { key: key.into(), value: value.into() };
    write(&cluster.master, vec![put("/bad", "HASH12"), put("/worse", ""), put("what", "a:1")]);
    let (status, said) = cluster.master.job(&["verify-index", "-q"]);
    assert_eq!(status.code(), Some(1), "{said}");
    for key in ["/bad", "/worse", "what"] {
        assert!(said.contains(&format!("{key}: ")), "{key} is not in\n{said}");
    }
}

#[test]
fn a_flipped_bit_is_found_and_no_index_is_none() {
    let mut cluster = Cluster::start();
    (0..300).for_each(|number| cluster.master.put(&format!("/k{number}"), b"x"));
    assert!(cluster.master.stop().success());
    // Opening turns the log into a table, whose blocks have checksums.
    assert!(cluster.master.job(&["verify-index", "-q"]).0.success());
    let files = fs::read_dir(cluster.master.db()).unwrap().flatten().map(|entry| entry.path());
    let tables = files.filter(|path| path.extension().is_some_and(|end| end == "ldb"));
    let largest = tables.max_by_key(|path| fs::metadata(path).unwrap().len()).expect("there is a table");
    let mut bytes = fs::read(&largest).unwrap();
    bytes[100] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let (status, said) = cluster.master.job(&["verify-index", "-q"]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("damaged") || said.contains("checksum"), "{said}");

    let nothing = Master::builder("a:1,b:1,c:1").build();
    let (status, said) = nothing.job(&["verify-index"]);
    assert!(!status.success() && said.contains("it doesn't exist") && !nothing.db().exists(), "{said}");
}

/// An empty one that a wrong name had made would be a cluster of its own.
#[test]
fn no_job_makes_an_index_where_there_is_none() {
    let cluster = Cluster::start();
    let elsewhere =
        Master::builder(&crate::harness::addresses(&cluster.volumes)).flag("replicas", "2").build();
    let volume = cluster.volumes[0].addr();
    for words in [
        &["scrub"][..],
        &["repair", "--quick"],
        &["rebalance"],
        &["rebalance", "--dry-run"],
        &["drain", &volume],
        &["undrain", &volume],
        &["volume-mode", &volume, "readonly"],
        &["forget", &volume],
    ] {
        let (status, said) = elsewhere.job(words);
        assert!(status.code() == Some(1) && said.contains("it doesn't exist"), "{words:?}: {said}");
        assert!(!elsewhere.db().exists() && !elsewhere.state_file().exists(), "{words:?}");
    }
    fs::create_dir(elsewhere.db()).unwrap();
    let (status, said) = elsewhere.job(&["verify-index"]);
    assert!(status.code() == Some(1) && said.contains("or is empty"), "{said}");
    assert_eq!(fs::read_dir(elsewhere.db()).unwrap().count(), 0);

    // As good as empty is what a rebuild leaves of it that can't read the volumes.
    let nobody = Master::builder("127.0.0.1:1,127.0.0.1:2,127.0.0.1:3").db(elsewhere.db()).build();
    assert_eq!(nobody.job(&["rebuild"]).0.code(), Some(1));
    let left =
        || fs::read_dir(elsewhere.db()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left(), ["LOCK"]);
    for words in [&["verify-index"][..], &["undrain", &volume]] {
        let (status, said) = elsewhere.job(words);
        assert!(status.code() == Some(1) && said.contains("or is empty"), "{words:?}: {said}");
        assert_eq!(left(), ["LOCK"], "{words:?}");
    }
}

#[test]
fn a_job_finishes_an_exchange_that_was_cut_off() {
    let mut cluster = Cluster::start();
    cluster.master.put("/a", b"some content");
    assert!(cluster.master.stop().success());
    let beside = |suffix: &str| {
        let mut name = cluster.master.db().as_os_str().to_owned();
        name.push(suffix);
        std::path::PathBuf::from(name)
    };
    // As a rebuild leaves it that was killed between its two renames.
    fs::rename(cluster.master.db(), beside(".new-1")).unwrap();
    fs::create_dir(beside(".old-1")).unwrap();
    let (status, said) = cluster.master.job(&["scrub"]);
    assert!(status.success() && said.contains("1 keys"), "{said}");
    assert!(cluster.master.db().exists() && !beside(".new-1").exists());
}

fn write(master: &Master, changes: Vec<Change>) {
    let mut table = leveldb::open(master.db(), leveldb::Options::default()).expect("nobody has it open");
    table.write(&changes).expect("it can be written");
    Box::new(table).close().expect("it can be closed");
}
