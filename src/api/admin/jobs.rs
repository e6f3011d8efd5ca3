//! Jobs: what runs, what ran, and how to begin, slow down and stop one.

use super::State;
use super::error::AdminError;
use crate::maintenance::{DEFAULT_RATE, Job, NoSuchJob, Order, Rate, Task};
use actix_web::http::StatusCode;
use actix_web::{Responder, web};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    rate: Option<String>,
    quick: bool,
    delete_orphans: bool,
    force: bool,
    volume: Option<String>,
    to: Option<String>,
    with_blobs: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    rate: String,
}

pub(super) async fn list(admin: State) -> impl Responder {
    web::Json(admin.maintenance.jobs().await)
}

pub(super) async fn show(admin: State, id: web::Path<u64>) -> Result<web::Json<Job>, AdminError> {
    let id = id.into_inner();
    let found = admin.maintenance.jobs().await.into_iter().find(|job| job.id == id);
    Ok(web::Json(found.ok_or(NoSuchJob(id))?))
}

pub(super) async fn begin(
    admin: State,
    name: web::Path<String>,
    body: web::Bytes,
) -> Result<impl Responder, AdminError> {
    let task = name.into_inner();
    let options: Options = if body.is_empty() { Options::default() } else { parsed(&body)? };
    let rate = options.rate.as_deref().map(rate).transpose()?.unwrap_or(DEFAULT_RATE);
    let job = admin.maintenance.begin(Order { task: task_of(&task, options)?, rate }).await?;
    Ok((web::Json(job), StatusCode::ACCEPTED))
}

pub(super) async fn change(
    admin: State,
    id: web::Path<u64>,
    body: web::Bytes,
) -> Result<web::Json<Job>, AdminError> {
    let change: Change = parsed(&body)?;
    Ok(web::Json(admin.maintenance.set_rate(id.into_inner(), rate(&change.rate)?).await?))
}

pub(super) async fn stop(admin: State, id: web::Path<u64>) -> Result<web::Json<Job>, AdminError> {
    Ok(web::Json(admin.maintenance.stop(id.into_inner()).await?))
}

/// The task of that name; an option that it doesn't have is refused, as it would mean nothing.
fn task_of(name: &str, options: Options) -> Result<Task, AdminError> {
    let Options { quick, delete_orphans, force, volume, to, with_blobs, .. } = options;
    let unknown = |is_given, option| {
        if is_given { Err(AdminError::Body(format!("{name} has no {option}"))) } else { Ok(()) }
    };
    let task = match (name, volume.clone()) {
        ("rebalance", _) => Task::Rebalance,
        ("scrub", _) => Task::Scrub { quick, scheduled: false },
        ("repair", _) => Task::Repair { quick, delete_orphans, force },
        ("drain", Some(volume)) => Task::Drain { volume },
        ("forget", Some(volume)) => Task::Forget { volume },
        ("replace", Some(volume)) => Task::Replace { volume, with_blobs },
        ("rename", Some(volume)) => match to.clone() {
            Some(to) => Task::Rename { volume, to },
            None => return Err(AdminError::Body("rename needs to, the present name".to_owned())),
        },
        ("drain" | "forget" | "replace" | "rename", None) => {
            return Err(AdminError::Body(format!("{name} needs a volume")));
        }
        _ => return Err(AdminError::NoSuchTask(name.to_owned())),
    };
    unknown(quick && !matches!(task, Task::Scrub { .. } | Task::Repair { .. }), "quick")?;
    unknown(delete_orphans && !matches!(task, Task::Repair { .. }), "delete_orphans")?;
    unknown(force && !delete_orphans, "force without delete_orphans")?;
    unknown(with_blobs && !matches!(task, Task::Replace { .. }), "with_blobs")?;
    unknown(to.is_some() && !matches!(task, Task::Rename { .. }), "to")?;
    let is_of_all = matches!(task, Task::Rebalance | Task::Scrub { .. } | Task::Repair { .. });
    unknown(volume.is_some() && is_of_all, "volume")?;
    Ok(task)
}

fn rate(text: &str) -> Result<Rate, AdminError> {
    text.parse().map_err(AdminError::Body)
}

pub(super) fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, AdminError> {
    serde_json::from_slice(body).map_err(|err| AdminError::Body(err.to_string()))
}
