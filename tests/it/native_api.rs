//! The native API as a client sees it, against real volumes: every row of docs/http.md.

use crate::harness::{Cluster, Master, Response, TempDir, addresses, eventually, http, raw};

#[test]
fn a_blob_is_stored_on_all_replicas_and_read_by_redirect() {
    let cluster = Cluster::start();
    let response = cluster.master.call("PUT", "/hello", b"world");
    assert_eq!(
        (response.status, response.header("content-md5")),
        (201, Some("7d793037a0760186574b0282f2f435e7"))
    );
    assert_eq!(cluster.files().len(), 3);
    let redirect = cluster.master.call("GET", "/hello", b"");
    assert_eq!(redirect.status, 302);
    assert_eq!(redirect.header("content-length"), Some("0"));
    assert_eq!(redirect.header("key-balance"), Some("balanced"));
    assert_eq!(redirect.header("content-md5"), Some("7d793037a0760186574b0282f2f435e7"));
    assert_eq!(redirect.header("key-volumes").map(|volumes| volumes.split(',').count()), Some(3));
    assert_eq!(cluster.master.fetch("/hello"), (200, b"world".to_vec()));
    assert_eq!(cluster.master.call("HEAD", "/hello", b"").status, 302);
}

#[test]
fn readers_take_turns_on_the_replicas() {
    let cluster = Cluster::start();
    cluster.master.put("/hot", b"x");
    let mut seen = std::collections::BTreeSet::new();
    eventually("every replica is read from", || {
        let redirect = cluster.master.call("GET", "/hot", b"");
        seen.insert(redirect.header("location").expect("a redirect").to_owned());
        seen.len() == 3
    });
}

#[test]
fn a_missing_key_is_404_without_a_body() {
    let cluster = Cluster::start();
    for method in ["GET", "HEAD"] {
        let response = cluster.master.call(method, "/nothing", b"");
        assert_eq!((response.status, response.header("content-length")), (404, Some("0")), "{method}");
        assert!(response.body.is_empty());
    }
    for method in ["DELETE", "UNLINK", "RELINK"] {
        assert_eq!(cluster.master.call(method, "/nothing", b"").status, 404, "{method}");
    }
}

#[test]
fn a_put_does_not_overwrite_and_a_replace_does() {
    let cluster = Cluster::of(3, |master| master.flag("grace", "200ms"));
    let master = &cluster.master;
    master.put("/k", b"one");
    assert_eq!(master.call("PUT", "/k", b"two").status, 403);
    assert_eq!(master.fetch("/k"), (200, b"one".to_vec()));
    assert_eq!(master.call("REPLACE", "/k", b"two").status, 204);
    assert_eq!(master.fetch("/k"), (200, b"two".to_vec()));
    assert_eq!(master.call("REPLACE", "/new", b"new").status, 201);
    // Three replicas with sidecars of one key, three plain ones of the other.
    eventually("the old version is removed", || cluster.files().len() == 9);
    assert_eq!(master.fetch("/k"), (200, b"two".to_vec()));
}

#[test]
fn unlinked_blobs_keep_their_files_and_come_back() {
    let cluster = Cluster::of(3, |master| master.flag("grace", "200ms"));
    let master = &cluster.master;
    master.put("/k", b"one");
    assert_eq!(master.call("UNLINK", "/k", b"").status, 204);
    assert_eq!(master.call("UNLINK", "/k", b"").status, 404);
    assert_eq!(master.call("GET", "/k", b"").status, 404);
    assert_eq!((master.list("/?list"), master.list("/?unlinked")), (vec![], vec!["/k".to_owned()]));
    assert_eq!(cluster.files().len(), 6);
    assert_eq!(master.call("RELINK", "/k", b"").status, 204);
    assert_eq!(master.call("RELINK", "/k", b"").status, 404);
    assert_eq!(master.fetch("/k"), (200, b"one".to_vec()));
    assert_eq!(master.call("UNLINK", "/k", b"").status, 204);
    master.put("/k", b"two");
    assert_eq!(master.fetch("/k"), (200, b"two".to_vec()));
    eventually("the unlinked version is removed", || cluster.files().len() == 6);
    assert_eq!(master.call("DELETE", "/k", b"").status, 204);
    assert_eq!(cluster.files(), Vec::<String>::new());
}

#[test]
fn protected_blobs_must_be_unlinked_before_they_are_deleted() {
    let cluster = Cluster::of(3, |master| master.flag("protect", "true"));
    cluster.master.put("/k", b"one");
    assert_eq!(cluster.master.call("DELETE", "/k", b"").status, 403);
    assert_eq!(cluster.master.call("UNLINK", "/k", b"").status, 204);
    assert_eq!(cluster.master.call("DELETE", "/k", b"").status, 204);
    assert_eq!(cluster.files(), Vec::<String>::new());
}

#[test]
fn keys_of_every_kind_are_stored_read_listed_and_deleted() {
    let cluster = Cluster::start();
    let long = format!("/{}", "long%20".repeat(300));
    let paths = [
        "/a//b",
        "/../x",
        "/a",
        "/a/",
        "/a+b",
        "/%3F",
        "/a%3F%3F",
        "/%D0%BF",
        "/%E6%97%A5/%E6%9C%AC",
        "/%2F%2F",
        "/%00",
        "/ab%FF%FFxyz",
        "/.meta",
        "/=cluster",
        "/%2e%2e/%2e%2e/etc/passwd",
        &long,
    ];
    for path in paths {
        cluster.master.put(path, path.as_bytes());
    }
    for path in paths {
        assert_eq!(cluster.master.fetch(path), (200, path.as_bytes().to_vec()), "{path}");
    }
    let response = cluster.master.call("GET", "/?list", b"");
    let listing: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(listing["keys_encoded"], serde_json::json!(["/ab%FF%FFxyz"]));
    assert_eq!(listing["keys"].as_array().map(Vec::len), Some(paths.len() - 1));
    assert_eq!(cluster.master.fetch("/a%2Bb").0, 200, "a plus in a path is a plus");
    for path in paths {
        assert_eq!(cluster.master.call("DELETE", path, b"").status, 204, "{path}");
    }
    assert_eq!(cluster.files(), Vec::<String>::new());
}

#[test]
fn absurd_keys_are_refused() {
    let cluster = Cluster::start();
    let check = |method: &str, path: &str, expected: u16| {
        let response = cluster.master.call(method, path, b"x");
        assert_eq!(response.status, expected, "{method} {path}: {}", response.text());
    };
    check("PUT", "/", 400);
    check("GET", "/", 404);
    check("DELETE", "/", 404);
    check("PUT", "/%zz", 400);
    check("PUT", "/a%4", 400);
    check("PUT", &format!("/{}", "x".repeat(2048)), 414);
    check("PUT", &format!("/{}", "x".repeat(10 << 10)), 414);
    check("PUT", &format!("/{}", "x".repeat(2047)), 201);
    let empty = raw(
        &cluster.master.addr(),
        b"PUT http://host HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
    );
    assert!(empty.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&empty));
}

#[test]
fn empty_bodies_and_wrong_checksums_store_nothing() {
    let cluster = Cluster::start();
    let url = cluster.master.url("/k");
    assert_eq!(http("PUT", &url, b"", &[]).status, 411);
    let chunked =
        b"PUT /k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n";
    assert!(raw(&cluster.master.addr(), chunked).starts_with(b"HTTP/1.1 411"));
    for wrong in ["7d793037a0760186574b0282f2f435e7", "fXkwN6B2AYZXSwKC8vQ15w==", "nonsense"] {
        assert_eq!(http("PUT", &url, b"hello", &[("Content-MD5", wrong)]).status, 400, "{wrong}");
    }
    let large = vec![7; 3 << 20];
    assert_eq!(http("PUT", &url, &large, &[("Content-MD5", "7d793037a0760186574b0282f2f435e7")]).status, 400);
    assert_eq!(cluster.files(), Vec::<String>::new());
    assert_eq!(http("PUT", &url, b"hello", &[("Content-MD5", "XUFAKrxLKna5cZ2REBfFkg==")]).status, 201);
}

#[test]
fn large_and_chunked_bodies_arrive_whole() {
    let cluster = Cluster::start();
    let large: Vec<u8> = (0..9_000_000_u32).map(|number| (number % 251) as u8).collect();
    cluster.master.put("/large", &large);
    assert_eq!(cluster.master.fetch("/large"), (200, large.clone()));
    let mut chunked =
        b"PUT /chunked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            .to_vec();
    for chunk in large.chunks(100_000) {
        chunked.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    assert!(raw(&cluster.master.addr(), &chunked).starts_with(b"HTTP/1.1 201"));
    assert_eq!(cluster.master.fetch("/chunked"), (200, large));
    assert_eq!(cluster.files().len(), 6);
}

#[test]
fn listings_page_through_keys_in_byte_order() {
    let cluster = Cluster::of(1, |master| master.flag("replicas", "1"));
    let master = &cluster.master;
    for key in ["/b/1", "/a/3", "/a/1", "/a/2", "/c d", "/a/4"] {
        master.put(&key.replace(' ', "%20"), b"x");
    }
    assert_eq!(master.list("/?list"), ["/a/1", "/a/2", "/a/3", "/a/4", "/b/1", "/c d"]);
    assert_eq!(master.list("/a/?list="), ["/a/1", "/a/2", "/a/3", "/a/4"]);
    assert_eq!(master.list("/a/?list&limit=-1").len(), 4);
    let page = |query: &str| -> (String, Vec<String>) {
        let response = master.call("GET", query, b"");
        let json: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
        (json["next"].as_str().expect("next is text").to_owned(), master.list(query))
    };
    assert_eq!(page("/a/?list&limit=2"), ("/a/3".into(), vec!["/a/1".into(), "/a/2".into()]));
    assert_eq!(page("/a/?list&limit=2&start=/a/3"), (String::new(), vec!["/a/3".into(), "/a/4".into()]));
    assert_eq!(page("/a/?list&limit=4").0, "");
    assert_eq!(master.list("/a/?list&start=/"), master.list("/a/?list"), "never before the prefix");
    assert_eq!(master.list("/a/?list&start=/c"), Vec::<String>::new(), "never behind the prefix");
    assert_eq!(master.list("/?list&start=/c+d"), ["/c d"], "a plus in a query is a space");
    assert_eq!(master.call("GET", "/?list&limit=many", b"").status, 400);
    assert_eq!(master.call("GET", "/?other", b"").status, 403);
}

#[test]
fn a_listing_of_many_pages_is_whole() {
    let cluster = Cluster::of(1, |master| master.flag("replicas", "1").flag("sync", "never"));
    for number in 0..2500 {
        cluster.master.put(&format!("/{number:04}"), b"x");
    }
    let expected: Vec<String> = (0..2500).map(|number| format!("/{number:04}")).collect();
    assert_eq!(cluster.master.list("/?list"), expected);
    assert_eq!(cluster.master.list("/?list&limit=2100"), expected[..2100]);
}

#[test]
fn unknown_methods_and_foreign_protocols_are_refused() {
    let cluster = Cluster::start();
    let check = |method: &str, path: &str, expected: u16| -> Response {
        let response = cluster.master.call(method, path, b"x");
        assert_eq!(response.status, expected, "{method} {path}: {}", response.text());
        response
    };
    for method in ["POST", "PATCH", "OPTIONS", "BREW"] {
        assert!(check(method, "/k", 405).header("allow").is_some_and(|allow| allow.contains("REPLACE")));
    }
    for query in ["uploads", "uploads=", "uploadId=1", "partNumber=1&uploadId=2", "delete"] {
        check("PUT", &format!("/k?{query}"), 501);
        check("POST", &format!("/k?{query}"), 501);
        check("DELETE", &format!("/k?{query}"), 501);
    }
    let url = cluster.master.url("/k");
    assert_eq!(http("PUT", &url, b"x", &[("Content-Encoding", "aws-chunked")]).status, 501);
    assert_eq!(http("PUT", &url, b"x", &[("x-amz-copy-source", "/b/k")]).status, 501);
    assert_eq!(cluster.files(), Vec::<String>::new());
    check("PUT", "/k?x-id=PutObject", 201);
    check("DELETE", "/k?whatever", 204);
}

#[test]
fn a_fallback_gets_the_key_percent_encoded_again() {
    let cluster = Cluster::of(3, |master| master.flag("fallback", "other:3000"));
    let response = cluster.master.call("GET", "/a%20b%3F/%D0%BF", b"");
    assert_eq!(
        (response.status, response.header("location")),
        (302, Some("http://other:3000/a%20b%3F/%D0%BF"))
    );
    cluster.master.put("/here", b"x");
    assert_eq!(cluster.master.fetch("/here").0, 200);
}

#[test]
fn advertised_addresses_stand_in_redirects() {
    let volume = crate::harness::Volume::start();
    let pair = format!("{}=public:1234/x", volume.addr());
    let master = Master::builder(&volume.addr()).flag("replicas", "1").flag("advertise", pair).start();
    master.put("/k", b"x");
    let response = master.call("GET", "/k", b"");
    assert!(
        response.header("location").is_some_and(|location| location.starts_with("http://public:1234/x/sv"))
    );
}

#[test]
fn without_md5sum_none_is_kept() {
    let cluster = Cluster::of(3, |master| master.flag("md5sum", "false"));
    let stored = cluster.master.call("PUT", "/k", b"x");
    assert_eq!((stored.status, stored.header("content-md5")), (201, None));
    assert_eq!(cluster.master.call("GET", "/k", b"").header("content-md5"), None);
    let large = vec![7; 3 << 20];
    cluster.master.put("/large", &large);
    assert_eq!(cluster.master.fetch("/large"), (200, large.clone()));
    let wrong = [("Content-MD5", "7d793037a0760186574b0282f2f435e7")];
    assert_eq!(
        http("PUT", &cluster.master.url("/wrong"), &large, &wrong).status,
        400,
        "a client's own is checked"
    );
}

#[test]
fn check_health_redirects_without_asking_the_volume() {
    let mut cluster = Cluster::of(3, |master| master.flag("check", "health"));
    cluster.master.put("/k", b"x");
    assert_eq!(cluster.master.fetch("/k"), (200, b"x".to_vec()));
    let redirect = cluster.master.call("GET", "/k", b"");
    let volumes = redirect.header("key-volumes").expect("volumes").to_owned();
    for replica in volumes.split(',') {
        let volume = cluster.volume_of(replica);
        let file = volume.files().into_iter().find(|file| file != "=cluster").expect("a replica");
        std::fs::remove_file(volume.dir().join(file)).expect("it was there");
    }
    assert_eq!(
        cluster.master.call("GET", "/k", b"").status,
        302,
        "it promises that the volume is up, no more"
    );
}

#[test]
fn a_cluster_survives_a_clean_restart() {
    let mut cluster = Cluster::start();
    cluster.master.put("/k", b"one");
    assert!(cluster.master.stop().success());
    cluster.master.start_again();
    assert_eq!(cluster.master.fetch("/k"), (200, b"one".to_vec()));
}

#[test]
fn what_can_not_be_served_is_refused_with_one_line() {
    let cluster = Cluster::start();
    let volumes = addresses(&cluster.volumes);
    let check = |builder: crate::harness::MasterBuilder, code: i32, expected: &str| {
        let (status, said) = builder.refusal();
        assert_eq!(status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
    };
    check(Master::builder(&volumes).flag("replicas", "4"), 2, "needs as many volumes");
    check(Master::builder("a b"), 2, "is no volume");
    check(Master::builder(&volumes).db(cluster.master.db()), 1, "in use by another process");
    let own_volume = crate::harness::Volume::start();
    let taken = own_volume.port().to_string();
    check(Master::builder(&volumes).flag("adopt", "true").flag("port", taken), 1, "port");
    // Another index is another cluster.
    check(Master::builder(&volumes), 1, "belongs to cluster");
    let (dir, file) = (TempDir::new(), "indexdb");
    std::fs::write(dir.join(file), b"").expect("our directory is writable");
    check(Master::builder(&volumes).db(dir.join(file)), 1, "Not a directory");
}

#[test]
fn requests_are_logged_when_asked_for_and_escaped() {
    let cluster = Cluster::of(3, |master| master.flag("v", "true"));
    cluster.master.put("/a%0Ab%1B", b"12345");
    let log = cluster.master.log();
    let line = log.lines().find(|line| line.contains("PUT /a%0Ab%1B")).expect("the request is logged");
    assert!(line.contains("201") && line.contains(" ms") && line.contains("5 bytes"), "{line}");
}

#[test]
fn the_command_line_helps_and_refuses() {
    let run = |words: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_mkv")).args(words).output().expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    for words in [&[][..], &["--help"], &["-h"]] {
        let (code, said) = run(words);
        assert_eq!(code, Some(0), "{said}");
        let flags =
            "basicauth db fallback port protect replicas subvolumes userpass volumes v md5sum voltimeout";
        for flag in flags.split(' ') {
            assert!(said.contains(&format!("--{flag} ")), "{flag} is missing in {said}");
        }
    }
    for words in
        [&["fly"][..], &["-nosuch", "server"], &["server"], &["-db", "x", "-replicas", "-1", "server"]]
    {
        let (code, said) = run(words);
        assert_eq!(code, Some(2), "{words:?}: {said}");
    }
}

#[test]
fn it_listens_on_both_families_or_where_it_is_told() {
    let answers = |host: &str, port: &str| std::net::TcpStream::connect(format!("{host}:{port}")).is_ok();
    // What a machine without IPv6 can't do, it need not.
    let families: &[&str] =
        if std::net::TcpListener::bind("[::1]:0").is_ok() { &["127.0.0.1", "[::1]"] } else { &["127.0.0.1"] };
    let everywhere = Cluster::start();
    let port = everywhere.master.addr().rsplit(':').next().expect("a port").to_owned();
    assert!(families.iter().all(|host| answers(host, &port)));
    let narrow = Cluster::of(3, |master| master.flag("listen", "127.0.0.1"));
    let port = narrow.master.addr().rsplit(':').next().expect("a port").to_owned();
    assert_eq!(families.iter().filter(|host| answers(host, &port)).count(), 1);
}
