//! `mkv check`: tries every volume out and says in words what is wrong. Needs no master and no index.
//!
//! Promises to leave no file behind: the small one that it writes is removed, and where that fails the volume is told
//! to be faulty. A check that is killed leaves a file that no listing shows and the next check removes.

mod reach;
mod trial;

use crate::cli::{AdminArguments, Arguments};
use crate::config::{Config, ConfigError};
use crate::text::{json_page, printable, say};
use crate::volume::{Credentials, Health, Timeouts, VolumeClient};
use futures_util::future::join_all;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;
use trial::Trial;

/// Why a check did not end well.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The flags don't fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something is wrong; all of it was listed.
    #[error("{faulty} of {volumes} volumes are not as they should be, see above")]
    Faulty {
        /// Volumes with a problem.
        faulty: usize,
        /// All.
        volumes: usize,
    },
}

/// What is known of a volume after it was tried out.
#[derive(Debug, Default, Serialize)]
struct Report {
    volume: String,
    ok: bool,
    problems: Vec<String>,
    /// What a person may want to know and that is no fault.
    notes: Vec<String>,
    /// The cluster that it belongs to, if it says so.
    cluster: Option<String>,
    /// Its id, 32 hex digits, if it has one.
    identity: Option<String>,
    /// What it was called when it got its id.
    first_name: Option<String>,
    /// Whether what it acknowledges survives a power cut.
    durable: bool,
}

/// Tries out the volumes of `--volumes`, all at the same time, and prints a line or more for each.
pub fn run(arguments: &Arguments, flags: &AdminArguments) -> Result<(), CheckError> {
    let volumes = Config::volumes(arguments)?;
    let userpass = Config::userpass(arguments)?;
    let addresses = Config::addresses(arguments)?;
    let timeouts = Timeouts::from_voltimeout(arguments.voltimeout);
    let mut reports: Vec<Report> = actix_rt::System::new().block_on(async {
        let client = VolumeClient::new(timeouts, Arc::new(Health::found_at(&volumes, addresses)));
        let client = client.with_credentials(Credentials::new(userpass.as_deref()));
        let subvolumes = arguments.subvolumes;
        join_all(volumes.iter().map(|volume| {
            let has_password = userpass.is_some();
            Trial { client: &client, volume, timeouts, subvolumes, has_password }.run()
        }))
        .await
    });
    note_strangers(&mut reports);
    tell_who_is_who(&mut reports);
    note_durability(&mut reports);
    match flags.json {
        true => say!("{}", json_page(&reports)),
        false => reports.iter().for_each(print),
    }
    match reports.iter().filter(|report| !report.ok).count() {
        0 => Ok(()),
        faulty => Err(CheckError::Faulty { faulty, volumes: reports.len() }),
    }
}

/// Volumes of several clusters in one list are noted on those that are fewer; which one is meant, only an index knows.
fn note_strangers(reports: &mut [Report]) {
    let mut members = BTreeMap::<String, usize>::new();
    reports.iter().filter_map(|report| report.cluster.clone()).for_each(|id| {
        *members.entry(id).or_default() += 1;
    });
    let Some(most) = members.iter().max_by_key(|(_, count)| **count).map(|(id, _)| id.clone()) else {
        return;
    };
    for report in reports {
        if let Some(id) = report.cluster.as_ref().filter(|id| **id != most) {
            let note = format!(
                "it belongs to cluster {id}, others here to {most}; a server refuses it, unless --adopt takes it over"
            );
            report.notes.push(note);
        }
    }
}

/// Two names of one volume, and names that were exchanged, are faults; another name than at first is only noted.
fn tell_who_is_who(reports: &mut [Report]) {
    let shown: Vec<(String, Option<String>)> =
        reports.iter().map(|report| (report.volume.clone(), report.identity.clone())).collect();
    for report in reports {
        let same = shown.iter().find(|(volume, identity)| {
            identity.is_some() && *identity == report.identity && *volume != report.volume
        });
        if let Some((other, _)) = same {
            report
                .problems
                .push(format!("it is the same volume as {other}, or a clone of it (`mkv replace`)"));
        }
        match report.first_name.as_ref().filter(|name| **name != report.volume) {
            Some(name) if shown.iter().any(|(volume, _)| volume == name) && same.is_none() => {
                let problem =
                    format!("it was called {name} at first, which is in this list too: were they exchanged?");
                report.problems.push(problem);
            }
            Some(name) => report.notes.push(format!("it was called {name} at first")),
            None => {}
        }
        report.ok = report.problems.is_empty();
    }
}

/// Where one volume is durable, those that are not are noted too, as they were probably meant to be. Of one that couldn't be asked,
/// neither is known.
fn note_durability(reports: &mut [Report]) {
    if !reports.iter().any(|report| report.durable) {
        return;
    }
    for report in reports.iter_mut().filter(|report| report.durable || report.ok) {
        let note = if report.durable {
            "durable: what it has acknowledged survives a power cut"
        } else {
            "not durable, as others here are: start it with DURABLE=1, or a power cut can lose what it has acknowledged"
        };
        report.notes.push(note.to_owned());
    }
}

fn print(report: &Report) {
    let mut said = report.problems.iter().map(String::as_str).peekable();
    if said.peek().is_none() {
        say!("{:<24} ok", report.volume);
    }
    for problem in said {
        say!("{:<24} {}", report.volume, printable(problem));
    }
    for note in &report.notes {
        say!("{:<24} note: {}", report.volume, printable(note));
    }
}
