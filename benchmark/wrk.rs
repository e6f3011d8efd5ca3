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
    requests_per_second(&text)
        .ok_or_else(|| format!("wrk gave no rate: {text}{}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Asks for the paths of a list, one after another, and begins again at its end.
const LISTED_PATHS: &str = r#"
local paths, next = {}, 0
function init(args)
  for path in io.lines(args[1]) do paths[#paths + 1] = path end
end
function request()
  next = next % #paths + 1
  return "GET " .. paths[next] .. " HTTP/1.1\r\nHost: bench\r\n\r\n"
end
"#;

/// So many turns long a list is fetched: about as long as a rebuild takes, so that both see the same machine.
const TURNS_OF_LISTS: u64 = 5;

/// Answers per second when all of `servers` are asked at the same time, each for the paths in its own file.
pub(crate) fn rate_of_lists(bench: &Bench, servers: &[(String, PathBuf)]) -> Outcome<f64> {
    let script = bench.scratch.memory.join("listed.lua");
    std::fs::write(&script, LISTED_PATHS)?;
    let (mut running, duration) = (Vec::new(), format!("-d{}s", TURNS_OF_LISTS * bench.options.seconds()));
    for (address, paths) in servers {
        let mut command = Command::new("wrk");
        command.args(["-t1", "-c16", &duration, "-s"]).arg(&script);
        command.arg(format!("http://{address}/")).arg("--").arg(paths).stdout(std::process::Stdio::piped());
        running.push(command.spawn()?);
    }
    let mut sum = 0.0;
    for wrk in running {
        let text = String::from_utf8_lossy(&wrk.wait_with_output()?.stdout).into_owned();
        if text.contains("Non-2xx") || text.contains("Socket errors") {
            return Err(format!("wrk met errors: {text}").into());
        }
        sum += requests_per_second(&text).ok_or_else(|| format!("wrk gave no rate: {text}"))?;
    }
    Ok(sum)
}

fn requests_per_second(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok())
}

fn script(bench: &Bench) -> Outcome<PathBuf> {
    let path = bench.scratch.memory.join("random.lua");
    std::fs::write(&path, RANDOM_KEYS)?;
    Ok(path)
}
