//! A cluster that the Go original wrote, taken over as it is: index, volumes, tombstones.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{GoCluster, Master, Volume, eventually, get};

/// One test, because the index names its volumes by their ports.
#[test]
fn a_go_cluster_is_taken_over_key_by_key() {
    let go = GoCluster::unpack();
    let volumes: Vec<Volume> = (1..=5)
        .map(|number| Volume::builder().dir(go.volume(number)).port(13000 + u16::from(number)).start())
        .collect();
    let names: Vec<String> = volumes.iter().map(Volume::addr).collect();
    let mut master = Master::builder(&names.join(",")).db(go.index()).start();
    check_all(&master, &go);

    let unlinked = go.expected.values().filter(|blob| blob.state == "unlinked").count();
    let sidecars = || volumes.iter().flat_map(Volume::files).filter(|file| file.ends_with(".meta")).count();
    eventually("unlinked keys are noted beside their files", || sidecars() == 3 * unlinked);

    master.put("/new", b"new");
    assert!(master.stop().success());
    master.start_again();
    check_all(&master, &go);
    assert_eq!(master.fetch("/new"), (200, b"new".to_vec()));

    for (key, blob) in &go.expected {
        let expected = if blob.state == "absent" { 404 } else { 204 };
        let path = encoded(key);
        assert_eq!(master.call("DELETE", &path, b"").status, expected, "{path}");
        assert_eq!(master.call("GET", &path, b"").status, 404, "{path}");
    }
    assert_eq!(master.list("/?list"), ["/new"]);
}

fn check_all(master: &Master, go: &GoCluster) {
    let mut live = 0;
    for (key, blob) in &go.expected {
        let path = encoded(key);
        let response = master.call("GET", &path, b"");
        if blob.state != "live" {
            assert_eq!(response.status, 404, "{path}");
            continue;
        }
        assert_eq!(response.status, 302, "{path}");
        assert_eq!(response.header("key-volumes"), Some(blob.volumes.join(",").as_str()), "{path}");
        let content = get(response.header("location").expect("a redirect"));
        assert_eq!((content.status, Some(content.body.len() as u64)), (200, blob.size), "{path}");
        assert_eq!(Some(format!("{:x}", md5::compute(&content.body))), blob.md5, "{path}");
        live += 1;
    }
    assert!(live > 250, "only {live} live keys");
}

/// The key of a row, percent-encoded byte by byte.
fn encoded(key: &str) -> String {
    let bytes = STANDARD.decode(key).expect("keys are base64");
    bytes.iter().map(|byte| if *byte == b'/' { "/".into() } else { format!("%{byte:02X}") }).collect()
}
