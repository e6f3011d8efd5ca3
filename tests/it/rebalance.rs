//! Replicas that go where placement wants them: by the method on one key while clients use it, and by the job.

use crate::harness::{Master, Volume, addresses, eventually};

/// Volumes that are there, though the first master doesn't know all of them.
fn volumes(count: usize) -> Vec<Volume> {
    let starts: Vec<_> = (0..count).map(|_| std::thread::spawn(Volume::start)).collect();
    starts.into_iter().map(|start| start.join().expect("it started")).collect()
}

/// A master over the first `known` of `volumes`, then stopped after `fill`, and one over all of them on its index.
fn grown(volumes: &[Volume], known: usize, fill: impl FnOnce(&Master)) -> (Master, Master) {
    let mut before = Master::builder(&addresses(&volumes[..known])).start();
    fill(&before);
    assert!(before.stop().success());
    let after = Master::builder(&addresses(volumes)).db(before.db()).start();
    (before, after)
}

fn balance(master: &Master, path: &str) -> Option<String> {
    master.call("GET", path, b"").header("key-balance").map(str::to_owned)
}

#[test]
fn a_key_is_moved_while_it_is_read() {
    let volumes = volumes(5);
    let keys: Vec<String> = (0..20).map(|number| format!("/{number}")).collect();
    let (_before, master) = grown(&volumes, 3, |master| {
        keys.iter().for_each(|key| master.put(key, key.as_bytes()));
    });
    let moving: Vec<&String> =
        keys.iter().filter(|key| balance(&master, key).as_deref() == Some("unbalanced")).collect();
    assert!(moving.len() > 5, "{}", moving.len());
    for key in &keys {
        let redirect = master.call("GET", key, b"");
        let location = redirect.header("location").expect("a redirect").to_owned();
        let rebalanced = master.call("REBALANCE", key, b"");
        assert_eq!((rebalanced.status, rebalanced.text().as_str()), (204, ""), "{key}");
        assert_eq!(crate::harness::get(&location).body, key.as_bytes(), "a reader on the way gets its bytes");
        assert_eq!(balance(&master, key).as_deref(), Some("balanced"), "{key}");
        assert_eq!(master.call("GET", key, b"").header("content-md5"), redirect.header("content-md5"));
        assert_eq!(master.fetch(key), (200, key.as_bytes().to_vec()));
    }
    let files = || volumes.iter().flat_map(Volume::files).filter(|file| file != "=cluster").count();
    eventually("the old copies are removed", || files() == 3 * keys.len());
    keys.iter().for_each(|key| assert_eq!(master.fetch(key), (200, key.as_bytes().to_vec()), "{key}"));
}

#[test]
fn what_can_not_be_rebalanced_is_said() {
    let volumes = volumes(5);
    let (_before, master) = grown(&volumes, 3, |master| {
        (0..20).for_each(|number| master.put(&format!("/{number}"), b"x"));
        assert_eq!(master.call("UNLINK", "/0", b"").status, 204);
    });
    assert_eq!(master.call("REBALANCE", "/none", b"").status, 404);
    assert_eq!(master.call("REBALANCE", "/0", b"").status, 404, "an unlinked key is out of sight");
    let unbalanced = |number: &u32| balance(&master, &format!("/{number}")).as_deref() == Some("unbalanced");
    let number = (1..20).find(unbalanced).expect("some are");
    for volume in &volumes {
        for file in volume.files().into_iter().filter(|file| file != "=cluster") {
            std::fs::remove_file(volume.dir().join(file)).expect("it was there");
        }
    }
    let gone = master.call("REBALANCE", &format!("/{number}"), b"");
    assert_eq!((gone.status, gone.header("retry-after")), (503, Some("1")));
    assert!(gone.text().contains("no replica is left"), "{}", gone.text());
    assert_eq!(master.call("GET", &format!("/{number}"), b"").status, 410, "the record stays");
}
