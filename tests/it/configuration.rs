//! Settings: flags, environment and the file of `--config`, what wins, what is refused and in which words, and what SIGHUP
//! changes in a server that goes on serving.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::harness::{
    Administered, Master, MasterBuilder, TempDir, Volume, addresses, command_line, connections, eventually,
    http, repository, send, volumes,
};

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::write(path, text).expect("our directory is writable");
}

/// A server that refuses before it does anything; what it said to standard error.
#[track_caller]
fn refused(words: &[&str], env: &[(&str, &str)]) -> String {
    let output = run(words, env);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
    said
}

fn run(words: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mkv"));
    command.args(words).envs(env.iter().copied()).output().expect("the program can be run")
}

/// A directory with a configuration, and the words that name it.
struct Configured {
    dir: TempDir,
    path: PathBuf,
}

impl Configured {
    fn with(text: &str) -> Configured {
        let dir = TempDir::new();
        let path = dir.join("mkv.toml");
        write(&path, text);
        Configured { dir, path }
    }

    fn text(&self) -> &str {
        self.path.to_str().expect("it is ASCII")
    }

    #[track_caller]
    fn refused(&self) -> String {
        refused(&["--config", self.text(), "server"], &[])
    }
}

/// The line of the log that says what holds.
fn configuration(log: &str) -> &str {
    log.lines().find(|line| line.contains("configuration: ")).unwrap_or("")
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let file = Configured::with("replicas = 1\nprotect = true\nvolumes = [\"f:1\"]\ndb = '/dev/null/x'\n");
    // The index can't be there, so the server says what holds and ends.
    let holds = |words: &[&str], env: &[(&str, &str)]| {
        let output = run(&[words, &["--config", file.text(), "server"]].concat(), env);
        configuration(&String::from_utf8_lossy(&output.stderr)).to_owned()
    };
    let line = holds(&[], &[]);
    for part in ["replicas=1 (file)", "protect=true (file)", "volumes=f:1 (file)", "port=3000 (default)"] {
        assert!(line.contains(part), "{line}");
    }
    let env = [("MKV_REPLICAS", "2"), ("MKV_PROTECT", "false"), ("MKV_VOLUMES", "e:1,e:2,e:3")];
    let line = holds(&[], &env);
    for part in
        ["replicas=2 (environment)", "protect=false (environment)", "volumes=e:1,e:2,e:3 (environment)"]
    {
        assert!(line.contains(part), "{line}");
    }
    for protect in ["-protect", "--protect=true"] {
        let line = holds(&["-replicas=3", protect], &env);
        for part in ["replicas=3 (flag)", "protect=true (flag)", "volumes=e:1,e:2,e:3 (environment)"] {
            assert!(line.contains(part), "{line}");
        }
    }
    let line = holds(&["-protect=false"], &[("MKV_CONFIG", "/nonexistent")]);
    assert!(line.contains("protect=false (flag)") && line.contains("replicas=1 (file)"), "{line}");
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let file = Configured::with("volumes = 'a:1'\nreplicas = 9\n");
    let said = refused(&["-db", "x", "server"], &[("MKV_CONFIG", file.text())]);
    assert_eq!(
        said,
        format!(
            "mkv: --replicas 9 needs as many volumes, and --volumes names 1 (volumes is from {0:?}, line 1, \
             replicas is from {0:?}, line 2)\n",
            file.path
        )
    );
}

#[test]
fn a_flag_given_twice_is_refused_in_every_spelling() {
    for words in [
        ["--port=3001", "-port=3002", "server"],
        ["-protect", "--protect=false", "server"],
        ["-v", "server", "--v"],
        ["--config=a", "-config=b", "server"],
    ] {
        let said = refused(&words, &[]);
        assert!(said.contains("was provided more than once"), "{said}");
    }
}

#[test]
fn mistakes_in_the_file_are_told_with_their_line() {
    let unknown = "mkv --help lists them, and flags of one command are given behind the command";
    let cases = [
        (
            "db = 'x'\nport = \n",
            "line 2: this is no TOML (string values must be quoted, expected literal string)",
        ),
        ("db = 'x'\nvolume = 'a'\n", &format!("line 2: there is no setting \"volume\"; {unknown}")),
        ("\n\ndry-run = true\n", &format!("line 3: there is no setting \"dry-run\"; {unknown}")),
        ("config = 'x'\n", &format!("line 1: there is no setting \"config\"; {unknown}")),
        ("[server]\ndb = 'x'\n", &format!("line 1: there is no setting \"server\"; {unknown}")),
        ("db = 'x'\nport = 1\ndb = 'y'\n", "line 3: db is set a second time; leave one of them out"),
        ("port = true\n", "line 1: port must be text in quotes or a whole number, and this is boolean"),
        ("port = 1.5\n", "line 1: port must be text in quotes or a whole number, and this is float"),
        ("db = ['x']\n", "line 1: db must be text in quotes or a whole number, and this is array"),
        ("protect = 'yes'\n", "line 1: protect must be true or false, without quotes, and this is string"),
        ("volumes = [1]\n", "line 1: volumes must be text in quotes or an array of texts, and this is array"),
        (
            "db = 'x'\nuserpass = \"me:hunter2\n",
            "line 2: this is no TOML (invalid basic string, expected `\"`)",
        ),
    ];
    for (text, expected) in cases {
        let file = Configured::with(text);
        let said = file.refused();
        assert!(said.starts_with(&format!("error: {:?}, {expected}", file.path)), "{text}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn values_that_can_not_be_are_told_with_the_place_where_they_stand() {
    let cases = [
        (
            "port = 70000\n",
            "error: Invalid value for '--port <PORT>': number too large to fit in target type",
            "port",
        ),
        ("check = 'maybe'\n", "error: Invalid value for '--check <WHAT>': ", "check"),
        (
            "grace = 5\n",
            "error: Invalid value for '--grace <TIME>': \"5\" is no duration; write 500ms, 1.5s or 1h2m",
            "grace",
        ),
        (
            "subvolumes = 300\nvolumes = 'a,b,c'\ndb = 'x'\n",
            "mkv: --subvolumes must be from 1 to 256, not 300",
            "subvolumes",
        ),
        ("volumes = ['a', 'b', 'b']\ndb = 'x'\n", "mkv: --volumes: b is given twice;", "volumes"),
        (
            "advertise = ['a']\nvolumes = 'a,b,c'\ndb = 'x'\n",
            "mkv: --advertise \"a\" is not internal=public",
            "advertise",
        ),
    ];
    for (text, expected, name) in cases {
        let file = Configured::with(text);
        let said = file.refused();
        assert!(said.starts_with(expected), "{text}: {said}");
        assert!(said.ends_with(&format!(" ({name} is from {:?}, line 1)\n", file.path)), "{text}: {said}");
    }
    let said = refused(&["server"], &[("MKV_PORT", "x")]);
    assert_eq!(
        said,
        "error: Invalid value for '--port <PORT>': invalid digit found in string (port is from MKV_PORT)\n"
    );
}

#[test]
fn what_is_no_configuration_is_refused() {
    let dir = TempDir::new();
    let path = |name: &str| dir.join(name);
    write(&path("empty"), "");
    write(&path("comments"), "# replicas = 2\n");
    write(&path("latin1"), b"db = 'x'\nfallback = '\xe4'\n");
    write(&path("large"), vec![b'#'; (1 << 20) + 1]);
    let nothing = "sets nothing; put settings into it, or leave out --config\n";
    let cases = [
        (path("none"), "the configuration {} can't be read: No such file or directory (os error 2)\n"),
        (path("."), "the configuration {} can't be read: Is a directory (os error 21)\n"),
        (path("empty"), &format!("{{}} {nothing}")),
        (path("comments"), &format!("{{}} {nothing}")),
        (path("latin1"), "{}, line 2: this is not UTF-8\n"),
        (path("large"), "{} has more than 1048576 bytes; that is no configuration\n"),
    ];
    for (path, expected) in cases {
        let said = refused(&["server", "-config", path.to_str().expect("it is ASCII")], &[]);
        assert_eq!(said, format!("error: {}", expected.replace("{}", &format!("{path:?}"))));
    }
    // Root can read everything, so somebody else tries.
    write(&path("secret"), "db = 'x'\n");
    fs::set_permissions(path("secret"), fs::Permissions::from_mode(0o600)).expect("it is ours");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let program = dir.join("mkv");
    fs::copy(env!("CARGO_BIN_EXE_mkv"), &program).expect("there is room");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--clear-groups", "--"])
        .args([program.as_path(), Path::new("--config"), &path("secret"), Path::new("server")])
        .output()
        .expect("util-linux is there");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.ends_with("can't be read: Permission denied (os error 13)\n"), "{said}");
}

#[test]
fn help_is_shown_whatever_the_file_says() {
    let output = run(&["--help"], &[("MKV_CONFIG", "/nonexistent")]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("--config <FILE>"));
}

#[test]
fn the_example_is_a_configuration() {
    let example = repository().join("deploy/mkv.toml.example");
    let text = fs::read_to_string(&example).expect("it is there");
    let dir = TempDir::new();
    let (short, whole) = (dir.join("short"), dir.join("whole"));
    write(&short, &text);
    // Everything that stands in it as a comment can be taken in.
    let is_setting = |line: &&str| line.strip_prefix("# ").is_some_and(|rest| rest.contains(" = "));
    let taken = |line| if is_setting(&line) { &line[2..] } else { line };
    let taken = text.lines().map(taken).collect::<Vec<_>>().join("\n");
    write(&whole, taken.replace("/etc/mkv", &dir.path().to_string_lossy()));
    write(&dir.join("userpass"), "me:secret\n");
    write(&dir.join("admin-token"), "secret\n");
    for path in [short, whole] {
        let output = run(&["-db=/dev/null/x", "-config", path.to_str().expect("it is ASCII"), "server"], &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(configuration(&said).contains("volumes=volume1:3001,"), "{said}");
    }
}

/// A server whose settings come from a file, over volumes that want credentials from `htpasswd`.
struct Reloaded {
    master: Administered,
    volumes: Vec<Volume>,
    dir: TempDir,
}

impl Reloaded {
    fn start(text: &str, add: impl FnOnce(MasterBuilder, &TempDir) -> MasterBuilder) -> Reloaded {
        let dir = TempDir::new();
        write(&dir.join("htpasswd"), "me:{PLAIN}0ld\n");
        write(&dir.join("mkv.toml"), text);
        let auth = || Volume::builder().env("AUTH", dir.join("htpasswd")).start();
        let volumes: Vec<Volume> = (0..3).map(|_| auth()).collect();
        let builder =
            Master::builder(&addresses(&volumes)).flag("config", dir.join("mkv.toml").to_string_lossy());
        Reloaded { master: Administered::start(add(builder, &dir)), volumes, dir }
    }

    /// Writes the file, sends the signal, and returns what the server then said.
    #[track_caller]
    fn reload(&self, text: &str) -> String {
        write(&self.dir.join("mkv.toml"), text);
        self.hang_up()
    }

    #[track_caller]
    fn hang_up(&self) -> String {
        let before = self.master.log().len();
        send(self.master.pid(), Signal::SIGHUP);
        let told = || self.master.log()[before..].to_owned();
        let is_end = |log: &str| log.contains("was read again; ") || log.contains("stays as it was: ");
        eventually("the server says what it did", || is_end(&told()) && told().ends_with('\n'));
        told()
    }

    /// Whether somebody who shows the token may stop a job; there is none.
    #[track_caller]
    fn may_act(&self, token: &str) -> bool {
        let url = format!("http://127.0.0.1:{}/api/jobs/999", self.master.port.port());
        match http("DELETE", &url, b"", &[("Authorization", &format!("Bearer {token}"))]).status {
            404 => true,
            403 => false,
            status => panic!("the answer is {status}"),
        }
    }
}

#[test]
fn sighup_exchanges_credentials_and_the_token() {
    let cluster = Reloaded::start("userpass = 'me:0ld'\nadmin-token = 't0ken-1'\n", |builder, _| builder);
    cluster.master.put("/before", b"x");
    assert!(cluster.may_act("t0ken-1"));
    // As an operator does it: first volumes that know both, then the server, then volumes that know the new one.
    write(&cluster.dir.join("htpasswd"), "me:{PLAIN}0ld\nyou:{PLAIN}n3w\n");
    let said = cluster.reload("userpass = 'you:n3w'\nadmin-token = 't0ken-2'\n");
    assert!(said.contains("was read again; new: admin-token, userpass\n"), "{said}");
    write(&cluster.dir.join("htpasswd"), "you:{PLAIN}n3w\n");
    for number in 0..20 {
        cluster.master.put(&format!("/{number}"), b"x");
    }
    assert_eq!(cluster.master.call("DELETE", "/before", b"").status, 204);
    assert!(!cluster.may_act("t0ken-1") && cluster.may_act("t0ken-2"));
    assert!(cluster.volumes.iter().all(|volume| volume.files().len() > 20));
    let log = cluster.master.log();
    assert!(["0ld", "n3w", "t0ken"].iter().all(|secret| !log.contains(secret)), "{log}");
    assert!(configuration(&log).contains("userpass=(set) (file)"), "{log}");
}

#[test]
fn sighup_reads_the_files_with_secrets_again() {
    let cluster = Reloaded::start("fallback = 'a:1'\n", |builder, dir| {
        write(&dir.join("userpass"), "me:0ld\n");
        write(&dir.join("token"), "t0ken-1\n");
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        builder.flag("userpass-file", path("userpass")).flag("admin-token-file", path("token"))
    });
    cluster.master.put("/before", b"x");
    assert!(cluster.may_act("t0ken-1") && !cluster.may_act("wrong"));
    write(&cluster.dir.join("htpasswd"), "you:{PLAIN}n3w\n");
    write(&cluster.dir.join("userpass"), "you:n3w\n");
    write(&cluster.dir.join("token"), "t0ken-2\n");
    let said = cluster.hang_up();
    assert!(said.contains("was read again; new: admin-token, userpass\n"), "{said}");
    cluster.master.put("/after", b"x");
    assert!(!cluster.may_act("t0ken-1") && cluster.may_act("t0ken-2"));
    // One of them gone: nothing changes, and it says which.
    fs::remove_file(cluster.dir.join("token")).expect("it is there");
    let said = cluster.hang_up();
    assert!(said.contains("stays as it was: --admin-token-file") && said.contains("can't be read"), "{said}");
    assert!(cluster.may_act("t0ken-2"));
}

#[test]
fn commands_find_the_server_and_its_token_in_the_same_file() {
    let cluster = Reloaded::start("userpass = 'me:0ld'\n", |builder, dir| {
        write(&dir.join("token"), "t0ken-1\n");
        builder.flag("admin-token-file", dir.join("token").to_string_lossy())
    });
    let volume = cluster.volumes[0].addr();
    let admin = format!("admin = '127.0.0.1:{}'\n", cluster.master.port.port());
    let with_token = format!("{admin}admin-token-file = '{}'\n", cluster.dir.join("token").display());
    for (text, code, words) in [(&admin, 1, "a token is needed"), (&with_token, 0, "is alive from now on")] {
        let file = Configured::with(text);
        let output = run(&["--config", file.text(), "volume-mode", &volume, "alive"], &[]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(words), "{said}");
    }
}

#[test]
fn sighup_changes_what_can_change_and_names_what_can_not() {
    let cluster = Reloaded::start("userpass = 'me:0ld'\n", |builder, _| builder);
    let advertised = |public: &str| {
        let pairs = cluster.volumes.iter().map(|volume| format!("'{}={public}'", volume.addr()));
        format!("userpass = 'me:0ld'\nadvertise = [{}]\n", pairs.collect::<Vec<_>>().join(", "))
    };
    cluster.master.put("/k", b"x");
    let location = |path: &str| {
        let response = cluster.master.call("GET", path, b"");
        response.header("location").unwrap_or("").to_owned()
    };
    let said = cluster.reload(&advertised("public.example:80"));
    assert!(
        said.contains("new: advertise\n") && location("/k").starts_with("http://public.example:80/"),
        "{said}"
    );
    assert!(!cluster.master.log().contains("GET /k"));
    let all = "fallback = 'other:3000'\nprotect = true\ncheck = 'health'\nmd5sum = false\nscrub-every = '1h'\n\
               v = true\nbodytimeout = '5s'\nreplicas = 1\nsubvolumes = 1\nsync = 'never'\nport = 1\n";
    let said = cluster.reload(&(advertised("other.example:80") + all));
    for name in ["replicas", "subvolumes", "sync"] {
        assert!(said.contains(&format!("{name} is another one now; restart to use it\n")), "{said}");
    }
    // A flag wins over the port of the file, so that has not changed.
    assert!(!said.contains("port is"), "{said}");
    let new = "new: advertise, bodytimeout, check, fallback, md5sum, protect, scrub-every, v\n";
    assert!(said.contains(new), "{said}");
    assert!(location("/k").starts_with("http://other.example:80/"));
    assert_eq!(location("/none"), "http://other:3000/none");
    assert_eq!(cluster.master.call("DELETE", "/k", b"").status, 403, "it is protected");
    assert_eq!(cluster.master.call("PUT", "/k2", b"x").header("content-md5"), None);
    assert!(cluster.master.log().contains("GET /none"), "requests are logged now");
    // What needs a restart is named until there was one.
    let said = cluster.hang_up();
    assert!(
        said.contains("replicas is another one now") && said.contains("nothing that can change"),
        "{said}"
    );
    assert_eq!(cluster.volumes.iter().filter(|volume| volume.files().len() >= 3).count(), 3);
}

#[test]
fn sighup_survives_a_file_with_a_mistake() {
    let mut cluster = Reloaded::start("userpass = 'me:0ld'\nfallback = 'a:1'\n", |builder, _| builder);
    let path = cluster.dir.join("mkv.toml");
    let cases = [
        ("userpass = 'you:hunter2\nfallback = 'b:1'\n", "line 1: this is no TOML"),
        ("fallback = 'b:1'\nnosuch = 1\n", "line 2: there is no setting \"nosuch\""),
        ("fallback = 'b:1'\ncheck = 'x'\n", "check is from"),
        ("fallback = 'http://b'\n", "--fallback \"http://b\" is not a host"),
        (
            "fallback = 'b:1'\nsubvolumes = 0\n",
            "--subvolumes must be from 1 to 256, not 0 (subvolumes is from",
        ),
        ("", "sets nothing"),
    ];
    for (text, expected) in cases {
        let said = cluster.reload(text);
        assert!(said.contains("stays as it was: ") && said.contains(expected), "{text}: {said}");
        assert_eq!(said.lines().filter(|line| line.contains("::reload]")).count(), 1, "{said}");
        assert!(!said.contains("hunter2"));
        let response = cluster.master.call("GET", "/none", b"");
        assert_eq!(response.header("location"), Some("http://a:1/none"), "{text}");
    }
    fs::remove_file(&path).expect("it is there");
    assert!(cluster.hang_up().contains("can't be read: No such file"));
    cluster.master.put("/k", b"x");
    let said = cluster.reload("userpass = 'me:0ld'\nfallback = 'b:1'\n");
    assert!(said.contains("new: fallback\n"), "{said}");
    assert!(cluster.master.master.stop().success());
}

#[test]
fn a_password_that_lies_open_is_warned_of() {
    let volumes = volumes(3);
    let start = |text: &str, mode: u32| {
        let file = Configured::with(text);
        fs::set_permissions(&file.path, fs::Permissions::from_mode(mode)).expect("it is ours");
        let builder = Master::builder(&addresses(&volumes)).flag("adopt", "true").flag("config", file.text());
        let log = builder.start().log();
        assert!(file.dir.path().is_dir() && !log.contains("hunter2"), "{log}");
        log.contains("has a password in it and can be read by everybody; chmod o-r it")
    };
    assert!(start("userpass = 'me:hunter2'\n", 0o644));
    assert!(start("admin-token = 'hunter2'\n", 0o604));
    assert!(!start("userpass = 'me:hunter2'\n", 0o640));
    assert!(!start("protect = true\n", 0o644));
}

#[test]
fn a_misspelt_variable_is_told() {
    let dir = TempDir::new();
    write(&dir.join("letter"), "no index");
    let db = dir.path().to_str().expect("it is ASCII");
    let env = [("MKV_REPLICSA", "2"), ("MKV_HOME", "/nowhere"), ("MKV_GRACE", "1s")];
    let output = run(&["--db", db, "--volumes", "a:1,b:1,c:1", "server"], &env);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("is no setting of ours").count(), 1, "{said}");
    assert!(said.contains("MKV_REPLICSA is no setting of ours and has no effect"), "{said}");
}

/// What nobody may read: the passwords, as they are and as they are sent.
const SECRETS: [&str; 4] = ["s3cret", "bWU6czNjcmV0", "t0ken", "dDBrZW4"];

#[track_caller]
fn tells_no_secret(what: &str, said: &str) {
    assert!(SECRETS.iter().all(|secret| !said.contains(secret)), "{what}: {said}");
}

/// Four volumes that want a password, and a server that gets it, and the token of its admin port, by `add`. The keys were stored
/// when there were three, so that a rebalance has something to do.
fn with_secrets(dir: &TempDir, add: impl Fn(MasterBuilder) -> MasterBuilder) -> (Administered, Vec<Volume>) {
    write(&dir.join("htpasswd"), "me:{PLAIN}s3cret\n");
    let auth = || Volume::builder().env("AUTH", dir.join("htpasswd")).start();
    let volumes: Vec<Volume> = (0..4).map(|_| auth()).collect();
    let db = dir.join("indexdb");
    let over = |count: usize| add(Master::builder(&addresses(&volumes[..count])).db(&db).flag("v", "true"));
    let mut before = over(3).start();
    (0..20).for_each(|number| before.put(&format!("/{number}"), b"x"));
    assert!(before.stop().success());
    tells_no_secret("the server", &before.log());
    (Administered::start(over(4)), volumes)
}

/// Runs jobs by the server and, when it is stopped, on its index; looks at all that is printed and at the list of processes.
fn jobs_keep_secrets(add: impl Fn(&TempDir, MasterBuilder) -> MasterBuilder) {
    let dir = TempDir::new();
    let (mut master, volumes) = with_secrets(&dir, |builder| add(&dir, builder));
    tells_no_secret("the server's words", &command_line(master.pid()));
    for words in [&["rebalance"][..], &["scrub"], &["repair"], &["status"], &["jobs"]] {
        let (succeeded, said) = master.job_words(words);
        assert!(succeeded, "{words:?}: {said}");
        tells_no_secret(words[0], &said);
    }
    assert!(volumes[3].files().len() > 1, "the rebalance has moved something to it");
    let log = dir.join("log");
    // One is seen while it runs, in the server and on its own.
    let begin = |master: &Master, is_at_work: &dyn Fn(u32) -> bool| {
        let mut job = master.begin_logged_job(&["scrub", "--rate", "0.1"], &log);
        eventually("it is at work", || is_at_work(job.id()));
        tells_no_secret("the job's words", &command_line(job.id()));
        send(job.id(), Signal::SIGTERM);
        job.wait().expect("it is our child");
        let said = fs::read_to_string(&log).expect("it was created");
        tells_no_secret("the job", &said);
    };
    begin(&master, &|_| master.json("GET", "/api/status", "")["jobs_running"] == 1);
    assert!(master.master.stop().success());
    tells_no_secret("the server", &master.log());
    let alone = add(&dir, Master::builder(&addresses(&volumes)).db(master.db()).flag("v", "true")).build();
    begin(&alone, &|pid| volumes.iter().any(|volume| connections(pid, &volume.addr()) > 0));
    for words in [&["rebalance"][..], &["scrub"], &["rebuild"], &["check"]] {
        let (status, said) = alone.job(words);
        assert!(status.success(), "{words:?}: {said}");
        tells_no_secret(words[0], &said);
    }
    // Also where the volumes refuse it.
    write(&dir.join("htpasswd"), "me:{PLAIN}another\n");
    let (status, said) = alone.job(&["rebuild"]);
    assert!(!status.success() && said.contains("401"), "{said}");
    tells_no_secret("the refusal", &said);
}

#[test]
fn jobs_tell_no_secret_that_is_in_the_environment() {
    jobs_keep_secrets(|_, builder| builder.env("MKV_USERPASS", "me:s3cret").env("MKV_ADMIN_TOKEN", "t0ken"));
}

#[test]
fn jobs_tell_no_secret_that_is_in_a_file() {
    jobs_keep_secrets(|dir, builder| {
        write(&dir.join("userpass"), "me:s3cret\n");
        write(&dir.join("token"), "t0ken\n");
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        builder.flag("userpass-file", path("userpass")).flag("admin-token-file", path("token"))
    });
}
