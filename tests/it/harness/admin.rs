//! A master with an admin port, and what is asked of it there.

use std::ops::Deref;

use serde_json::Value;

use super::{Master, MasterBuilder, PATIENCE, PortLease, Response, eventually, http, wait_within};

/// A master with an admin port.
#[derive(Debug)]
pub struct Administered {
    pub master: Master,
    pub port: PortLease,
}

impl Deref for Administered {
    type Target = Master;

    fn deref(&self) -> &Master {
        &self.master
    }
}

impl Administered {
    pub fn build(builder: MasterBuilder) -> Administered {
        let port = PortLease::new();
        let builder = builder.flag("admin", format!("127.0.0.1:{}", port.port())).flag("grace", "1s");
        Administered { master: builder.build(), port }
    }

    pub fn start(builder: MasterBuilder) -> Administered {
        let mut administered = Administered::build(builder);
        administered.master.start_again();
        administered.wait();
        administered
    }

    pub fn wait(&self) {
        let addr = ("127.0.0.1", self.port.port());
        eventually("the admin port answers", || std::net::TcpStream::connect(addr).is_ok());
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        http(method, &format!("http://127.0.0.1:{}{path}", self.port.port()), body.as_bytes(), &[])
    }

    #[track_caller]
    pub fn json(&self, method: &str, path: &str, body: &str) -> Value {
        let response = self.ask(method, path, body);
        assert!(
            (200..300).contains(&response.status),
            "{method} {path}: {} {}",
            response.status,
            response.text()
        );
        serde_json::from_str(&response.text()).expect("it is JSON")
    }

    /// Begins a job and waits for its end.
    #[track_caller]
    pub fn job(&self, name: &str, options: &str) -> Value {
        let id = self.json("POST", &format!("/api/jobs/{name}"), options)["id"].as_u64().expect("a number");
        self.end_of(id)
    }

    #[track_caller]
    pub fn end_of(&self, id: u64) -> Value {
        // It has the least priority, and on a machine that is busy with other things it gets little.
        wait_within(3 * PATIENCE, "the job ends", || {
            let job = self.json("GET", &format!("/api/jobs/{id}"), "");
            (!job["ended_us"].is_null()).then_some(job)
        })
    }

    pub fn stop_and_start(&mut self) -> bool {
        let stopped = self.master.stop().success();
        self.master.start_again();
        self.wait();
        stopped
    }

    pub fn job_words(&self, words: &[&str]) -> (bool, String) {
        let (status, said) = self.master.job(words);
        (status.success(), said)
    }
}
