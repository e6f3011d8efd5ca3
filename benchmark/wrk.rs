//! wrk, the load of the small GETs.

use crate::{Bench, Outcome};
use std::path::PathBuf;
use std::process::Command;

/// Two of wrk's threads feed two workers; with 100 connections nobody waits for a connection.
const THREADS: &str = "-t2";
const CONNECTIONS: &str = "-c100";

/// Asks for another key each time, out of more than anybody has.
const RANDOM_KEYS: &str = r#"
local threads = 0
function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end
function init()
  math.randomseed(os.time() * 64 + number)
end
function request()
  local high, low = math.random(0, 4294967295), math.random(0, 4294967295)
  return string.format("GET /bucket/%08x%08x HTTP/1.1\r\nHost: bench\r\n\r\n", high, low)
end
"#;

/// What is asked for.
pub(crate) enum Keys<'a> {
    Fixed(&'a str),
    Random,
}

/// Answers per second of the server at `address`, in one turn.
pub(crate) fn rate(bench: &Bench, address: &str, keys: &Keys) -> Outcome<f64> {
    let mut command = Command::new("wrk");
    command.args([THREADS, CONNECTIONS, &format!("-d{}s", bench.options.seconds())]);
    match keys {
        Keys::Fixed(path) => command.arg(format!("http://{address}{path}")),
        Keys::Random => command.arg("-s").arg(script(bench)?).arg(format!("http://{address}/")),
    };
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("Socket errors") {
        return Err(format!("wrk met errors at {address}: {text}").into());
    }
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.ok_or_else(|| format!("wrk gave no rate: {text}{}", String::from_utf8_lossy(&output.stderr)).into())
}

fn script(bench: &Bench) -> Outcome<PathBuf> {
    let path = bench.scratch.memory.join("random.lua");
    std::fs::write(&path, RANDOM_KEYS)?;
    Ok(path)
}
