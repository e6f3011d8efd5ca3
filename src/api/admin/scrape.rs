//! `/metrics`: looks up what is not recorded where it happens, and renders everything.

use super::error::AdminError;
use super::{Admin, State, volumes};
use crate::maintenance::{JobState, Kind, Task, word};
use crate::model::VolumeMode;
use actix_web::{HttpResponse, Responder};
use metrics::{counter, gauge};

/// The version of the format is part of its name.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn metrics(admin: State) -> Result<impl Responder, AdminError> {
    index(&admin).await?;
    of_volumes(&admin);
    of_scrub(&admin);
    of_jobs(&admin).await;
    Ok(HttpResponse::Ok().content_type(TEXT_FORMAT).body(admin.metrics.render()))
}

async fn index(admin: &Admin) -> Result<(), AdminError> {
    let index = admin.store.index();
    gauge!("mkv_index_mailbox_depth").set(index.mailbox_depth() as f64);
    gauge!("mkv_waiting_removals").set(index.unsettled().await? as f64);
    gauge!("mkv_replicas_wanted").set(admin.store.placer().replicas() as f64);
    if let Some(counts) = index.key_counts().await? {
        gauge!("mkv_keys", "state" => "live").set(counts.live as f64);
        gauge!("mkv_keys", "state" => "unlinked").set(counts.unlinked as f64);
    }
    Ok(())
}

fn of_volumes(admin: &Admin) {
    for view in volumes::views(admin) {
        let name = || view.volume.clone();
        gauge!("mkv_volume_up", "volume" => name()).set(truth(view.state == "up"));
        for (mode, word) in VolumeMode::ALL {
            gauge!("mkv_volume_mode", "volume" => name(), "mode" => word).set(truth(mode == view.mode));
        }
        if let Some(used) = view.used {
            gauge!("mkv_volume_used_bytes", "volume" => name()).set(used.bytes as f64);
        }
    }
}

fn of_scrub(admin: &Admin) {
    let last = admin.maintenance.state().get().last_scrub.unwrap_or_default();
    gauge!("mkv_last_scrub_timestamp_seconds").set(last.ended_us as f64 / 1e6);
    for kind in Kind::ALL {
        let found = last.findings.get(&kind).copied().unwrap_or(0);
        gauge!("mkv_scrub_findings", "kind" => word(kind)).set(found as f64);
    }
}

async fn of_jobs(admin: &Admin) {
    let jobs = admin.maintenance.jobs().await;
    for kind in Task::NAMES {
        let running = jobs.iter().find(|job| job.ended_us.is_none() && job.task.name() == kind);
        let left = running.map_or(0, |job| job.status.total.saturating_sub(job.status.done));
        gauge!("mkv_jobs_running", "kind" => kind).set(truth(running.is_some()));
        gauge!("mkv_job_left", "kind" => kind).set(left as f64);
        for outcome in JobState::ENDS {
            // So that the first one is seen as an increase.
            counter!("mkv_jobs_ended_total", "kind" => kind, "outcome" => word(outcome)).increment(0);
        }
    }
}

fn truth(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}
