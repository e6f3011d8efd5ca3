//! A real nginx for one test: its own directory, its own port, killed when dropped.

use minikeyvalue::model::Replica;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct Nginx {
    process: Child,
    directory: PathBuf,
    port: u16,
    host: &'static str,
}

/// How long a condition that must come about may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

impl Nginx {
    pub(crate) fn start() -> Nginx {
        Nginx::start_with("127.0.0.1", "127.0.0.1", "")
    }

    /// Listens on `address` only and is called `host`; `extra` goes into the configuration's `location`.
    pub(crate) fn start_with(address: &str, host: &'static str, extra: &str) -> Nginx {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("mkv-client-{}-{number}", std::process::id()));
        for part in ["data", "temp"] {
            std::fs::create_dir_all(directory.join(part)).unwrap();
        }
        let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
        let listen =
            if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
        std::fs::write(directory.join("nginx.conf"), configuration(&directory, &listen, extra)).unwrap();
        let process = Command::new("nginx")
            .args(["-p".as_ref(), directory.as_os_str(), "-c".as_ref(), "nginx.conf".as_ref()])
            .args(["-e", "error.log"])
            .spawn()
            .expect("nginx is installed");
        let nginx = Nginx { process, directory, port, host };
        eventually("nginx listens", || TcpStream::connect((address, port)).is_ok());
        nginx
    }

    pub(crate) fn replica(&self) -> Replica {
        format!("{}:{}", self.host, self.port).parse().unwrap()
    }

    /// A file of the volume.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.directory.join("data").join(path.trim_start_matches('/'))
    }

    /// How many uploads lie unfinished in the temporary folder.
    pub(crate) fn unfinished(&self) -> usize {
        std::fs::read_dir(self.directory.join("temp")).unwrap().count()
    }

    /// One line per request: the connection's number, method, status.
    pub(crate) fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.directory.join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Waits for what must come about.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "it never came about that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn configuration(directory: &Path, listen: &str, extra: &str) -> String {
    let directory = directory.display();
    format!(
        "daemon off; master_process off; pid {directory}/nginx.pid;
        events {{ worker_connections 256; }}
        http {{
            log_format connections '$connection $request_method $status';
            access_log {directory}/access.log connections;
            client_body_temp_path {directory}/temp; proxy_temp_path {directory}/p; fastcgi_temp_path {directory}/f;
            uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
            client_max_body_size 0; keepalive_requests 100000;
            server {{
                listen {listen};
                root {directory}/data;
                autoindex on; autoindex_format json;
                location / {{ dav_methods PUT DELETE; create_full_put_path on; {extra} }}
            }}
        }}"
    )
}
