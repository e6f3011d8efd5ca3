//! The admin port of a running server, from the command line: jobs that it does while it serves, and how it is.

use crate::cli::{AdminArguments, JobArguments, JobsArguments, JobsCommand, LsArguments};
use crate::maintenance::{Job, JobState, Rate, Task};
use crate::rate_source::RateSource;
use crate::shown::{Shown, line};
use crate::text::{json_line, json_page, printable, say};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use thiserror::Error;
use ureq::Agent;
use ureq::http::{Method, Request, header};

/// Between two looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Longer than the server takes for any answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer has no more keys than this asks for.
const PAGE_KEYS: usize = 1000;

/// Everything but what RFC 3986 calls unreserved, and `/`.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why it did not work.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// Nobody is there.
    #[error(
        "the admin port {address} doesn't answer: {source}; is the server running, with --admin {address}?"
    )]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What went wrong.
        source: Box<ureq::Error>,
    },
    /// It was refused.
    #[error("{0}")]
    Refused(String),
    /// The answer is none.
    #[error("the admin port {0} answers with something else; is it another program's?")]
    Strange(SocketAddr),
    /// A job that didn't do all that was asked.
    #[error("job {id} {what}")]
    Job {
        /// Its number.
        id: u64,
        /// What became of it.
        what: String,
    },
}

/// A running server.
pub struct Remote {
    address: SocketAddr,
    token: Option<String>,
    agent: Agent,
}

impl Remote {
    /// The server whose admin port is `address`.
    pub fn new(address: SocketAddr, token: Option<String>) -> Remote {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .allow_non_standard_methods(true)
            .proxy(None);
        Remote { address, token, agent: config.build().into() }
    }

    /// Has the server do a job, shows how far it is, and waits for its end. Ending this program doesn't end the job.
    pub fn run(
        &self,
        task: &Task,
        mut rate_source: RateSource,
        flags: &JobArguments,
    ) -> Result<(), RemoteError> {
        let mut body = serde_json::to_value(task).expect("a task is plain data");
        let name = body["job"].take().as_str().expect("a task has a name").to_owned();
        let options = body.as_object_mut().expect("a task is an object");
        options.retain(|option, value| option != "job" && option != "scheduled" && *value != json!(false));
        if let Some(rate) = rate_source.rate() {
            options.insert("rate".into(), rate.to_string().into());
        }
        let mut job: Job = self.call(Method::POST, &format!("/api/jobs/{name}"), Some(&body))?;
        let mut shown = Shown::new(&format!("{name} (job {})", job.id), flags.quiet);
        while job.ended_us.is_none() {
            std::thread::sleep(LOOK_EVERY);
            job = self.call(Method::GET, &format!("/api/jobs/{}", job.id), None)?;
            shown.look(&job.status);
            if let Some(rate) = rate_source.changed() {
                self.set_rate(job.id, rate)?;
            }
        }
        shown.end(&job.status);
        for finding in &job.status.findings {
            match flags.json {
                true => say!("{}", json_line(finding)),
                false => eprintln!("{}", printable(&finding.to_string())),
            }
        }
        let what = match (job.state, job.error) {
            (JobState::Done, _) => return Ok(()),
            (_, Some(error)) => format!("failed: {error}"),
            (JobState::Left, _) => format!("left {} problems, see above", job.status.problems),
            _ => "was stopped".to_owned(),
        };
        Err(RemoteError::Job { id: job.id, what })
    }

    /// Sets what the operator wants of a volume.
    pub fn set_mode(&self, volume: &str, mode: &str, flags: &AdminArguments) -> Result<(), RemoteError> {
        let path = format!("/api/volumes/{}", utf8_percent_encode(volume, NON_ALPHANUMERIC));
        let view: Value = self.call(Method::PUT, &path, Some(&json!({ "mode": mode })))?;
        match flags.json {
            true => say!("{}", json_page(&view)),
            false => say!("{} is {} from now on", text(&view["volume"]), text(&view["mode"])),
        }
        Ok(())
    }

    /// Lists jobs, or acts on one.
    pub fn jobs(&self, JobsArguments { flags, command }: &JobsArguments) -> Result<(), RemoteError> {
        let (jobs, own_flags) = match command {
            None => (self.call(Method::GET, "/api/jobs", None)?, flags),
            Some(JobsCommand::Stop { flags, id }) => {
                (vec![self.call::<Value>(Method::DELETE, &format!("/api/jobs/{id}"), None)?], flags)
            }
            Some(JobsCommand::Rate { flags, id, rate }) => (vec![self.set_rate(*id, *rate)?], flags),
        };
        if flags.json || own_flags.json {
            say!("{}", json_page(&Value::from(jobs)));
            return Ok(());
        }
        for job in jobs {
            let job: Job = serde_json::from_value(job).map_err(|_| RemoteError::Strange(self.address))?;
            let name = serde_json::to_value(&job.task).map(|task| text(&task["job"])).unwrap_or_default();
            let state = format!("{:?}", job.state).to_lowercase();
            say!("{:>4}  {name:<10} {state:<9} {}  (rate {})", job.id, line(&job.status), job.rate);
            if let Some(error) = &job.error {
                say!("      {}", printable(error));
            }
        }
        Ok(())
    }

    fn set_rate(&self, id: u64, rate: Rate) -> Result<Value, RemoteError> {
        self.call(Method::PATCH, &format!("/api/jobs/{id}"), Some(&json!({ "rate": rate.to_string() })))
    }

    /// The whole on one page.
    pub fn status(&self, flags: &AdminArguments) -> Result<(), RemoteError> {
        let status: Value = self.call(Method::GET, "/api/status", None)?;
        if flags.json {
            say!("{}", json_page(&status));
            return Ok(());
        }
        say!("version      {}", text(&status["version"]));
        say!("cluster      {}", text(&status["cluster"]));
        say!("up for       {} s", status["uptime_seconds"]);
        say!(
            "volumes      {} of {} up, {} replicas",
            status["volumes_up"],
            status["volumes"],
            status["replicas"]
        );
        say!("unsettled    {} removals wait", status["unsettled"]);
        say!("jobs         {} running", status["jobs_running"]);
        match &status["last_scrub"] {
            Value::Null => say!("last scrub   never"),
            scrub => say!("last scrub   {}, {} problems left", ago(&scrub["ended_us"]), scrub["left"]),
        }
        Ok(())
    }

    /// A line for each volume.
    pub fn volumes(&self, flags: &AdminArguments) -> Result<(), RemoteError> {
        let volumes: Vec<Value> = self.call(Method::GET, "/api/volumes", None)?;
        if flags.json {
            say!("{}", json_page(&Value::from(volumes)));
            return Ok(());
        }
        say!("{:<28} {:<8} {:<8} {:<24} WHY", "VOLUME", "MODE", "STATE", "LAST CLEAN");
        for volume in volumes {
            let [name, mode, state, mut reason] =
                ["volume", "mode", "state", "reason"].map(|name| text(&volume[name]));
            if reason.is_empty() && volume["durable"] == true {
                reason = "durable".into();
            }
            say!("{name:<28} {mode:<8} {state:<8} {:<24} {reason}", ago(&volume["clean"]["contents_us"]));
        }
        Ok(())
    }

    /// The keys that begin with `prefix`, percent-encoded, as many as there are.
    pub fn ls(&self, LsArguments { flags, prefix }: &LsArguments) -> Result<(), RemoteError> {
        let encoded = |text: &str| utf8_percent_encode(text, QUERY).to_string();
        let mut start = None;
        loop {
            let from = start.map_or_else(String::new, |start: String| format!("&start={}", encoded(&start)));
            let path = format!("/api/keys?limit={PAGE_KEYS}&prefix={}{from}", encoded(prefix));
            let page: Value = self.call(Method::GET, &path, None)?;
            for key in page["keys"].as_array().into_iter().flatten() {
                match flags.json {
                    true => say!("{}", json_line(key)),
                    false => say!("{:<9} {}", text(&key["state"]), text(&key["key"])),
                }
            }
            match page["next"].as_str() {
                Some(next) => start = Some(next.to_owned()),
                None => return Ok(()),
            }
        }
    }

    fn call<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, RemoteError> {
        let address = self.address;
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let sent = request.body(body).map_err(|_| RemoteError::Strange(address)).and_then(|request| {
            let unreachable = |source| RemoteError::Unreachable { address, source: Box::new(source) };
            self.agent.run(request).map_err(unreachable)
        });
        let mut response = sent?;
        let status = response.status();
        let text = response.body_mut().read_to_string().map_err(|_| RemoteError::Strange(address))?;
        if status.is_success() {
            return serde_json::from_str(&text).map_err(|_| RemoteError::Strange(address));
        }
        let error = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|json| Some(json["error"].as_str()?.to_owned()));
        Err(error.map_or(RemoteError::Strange(address), RemoteError::Refused))
    }
}

/// A JSON string as it can be shown.
fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or(""))
}

/// A time of µs since 1970, as people say it.
fn ago(time_us: &Value) -> String {
    match time_us.as_u64().filter(|time_us| *time_us > 0) {
        None => "never".to_owned(),
        Some(time_us) => {
            let elapsed =
                (std::time::UNIX_EPOCH + Duration::from_micros(time_us)).elapsed().unwrap_or_default();
            format!("{} ago", indicatif::HumanDuration(elapsed))
        }
    }
}
