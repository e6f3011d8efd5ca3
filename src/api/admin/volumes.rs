//! Volumes: how each one is, what the operator wants of it, and whether the cluster could do without it.

use super::error::AdminError;
use super::jobs::parsed;
use super::{Admin, State};
use crate::maintenance::state::{Clean, Used};
use crate::model::{Volume, VolumeMode};
use crate::volume::{VolumeHealth, VolumeState};
use actix_web::{Responder, web};
use serde::{Deserialize, Serialize};

/// A volume. Stock nginx can't tell how much room it has, so nothing here does (docs/decisions/0007-room-on-volumes.md).
#[derive(Debug, Clone, Serialize)]
pub(super) struct View {
    pub(super) volume: String,
    /// What the operator wants of it.
    pub(super) mode: VolumeMode,
    /// `up`, `down`, or `foreign`: what it is.
    pub(super) state: &'static str,
    since_us: u64,
    /// Why it isn't up, or which of its subvolumes are not used and why; empty if all is well.
    reason: String,
    /// Whether it has an id that the index knows, so that another in its place is noticed.
    identified: bool,
    /// Whether it was started with `DURABLE=1`, so that what it acknowledges survives a power cut.
    durable: bool,
    last_unreachable_us: Option<u64>,
    /// When a scrub last found everything on it as it should be.
    clean: Clean,
    /// How much a scrub last found on it; `None` before one.
    pub(super) used: Option<Used>,
}

impl View {
    pub(super) fn is_up(&self) -> bool {
        self.state == "up" && self.mode != VolumeMode::Down
    }

    fn takes_blobs(&self) -> bool {
        self.state == "up" && self.mode == VolumeMode::Alive
    }
}

pub(super) fn views(admin: &Admin) -> Vec<View> {
    let remembered = admin.maintenance.state().get();
    let view = |health: VolumeHealth| {
        let mode = admin.store.placer().mode_of(&health.volume);
        View {
            mode,
            state: match health.state {
                VolumeState::Up => "up",
                VolumeState::Down => "down",
                VolumeState::Foreign => "foreign",
            },
            since_us: health.since_us,
            reason: reason_of(&health, mode),
            identified: health.is_identified,
            durable: health.is_durable,
            last_unreachable_us: health.last_unreachable_us,
            clean: remembered.clean.get(health.volume.as_str()).copied().unwrap_or_default(),
            used: remembered.used.get(health.volume.as_str()).copied(),
            volume: health.volume.to_string(),
        }
    };
    admin.store.volumes().health().snapshot().into_iter().map(view).collect()
}

fn reason_of(health: &VolumeHealth, mode: VolumeMode) -> String {
    let mut reasons: Vec<String> = Vec::new();
    if !health.reason.is_empty() {
        reasons.push(health.reason.clone());
    }
    if health.is_older && mode == VolumeMode::Readonly {
        reasons.push(
            "an older copy of itself: put the right one back, or take it by setting its mode".to_owned(),
        );
    }
    reasons.extend(health.distrusted.iter().map(|(place, reason)| format!("{place} is not used: {reason}")));
    if reasons.is_empty() && !health.is_identified {
        reasons.push("it has no identity yet".to_owned());
    }
    reasons.join("; ")
}

pub(super) async fn list(admin: State) -> impl Responder {
    web::Json(views(&admin))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    mode: VolumeMode,
}

pub(super) async fn set_mode(
    admin: State,
    name: web::Path<String>,
    body: web::Bytes,
) -> Result<impl Responder, AdminError> {
    let Wanted { mode } = parsed(&body)?;
    let volume: Volume = name.parse().map_err(|err| AdminError::Query(format!("{err}")))?;
    let (index, placer) = (admin.store.index(), admin.store.placer());
    admin.maintenance.state().set_mode(index, placer, &volume, mode).await?;
    log::info!("volume {volume} is {mode} from now on");
    Ok(web::Json(views(&admin).into_iter().find(|view| view.volume == volume.as_str())))
}

#[derive(Debug, Deserialize)]
pub(super) struct Without {
    without: Option<String>,
}

/// Whether a PUT would find enough volumes; and with `without`, whether it still would if that one were taken down.
pub(super) async fn ready(admin: State, query: web::Query<Without>) -> Result<impl Responder, AdminError> {
    // Asking the index shows that it answers.
    admin.store.index().unsettled().await?;
    let needed = admin.store.placer().replicas();
    let volumes = views(&admin);
    let count =
        |without: &str| volumes.iter().filter(|view| view.takes_blobs() && view.volume != without).count();
    let up = count("");
    if up < needed {
        return Err(AdminError::NotReady(format!("{up} volumes take blobs, and every blob needs {needed}")));
    }
    let Some(without) = &query.without else { return Ok("ready\n") };
    if !volumes.iter().any(|view| view.volume == *without) {
        return Err(AdminError::Query(format!("{without:?} is none of the volumes")));
    }
    match count(without) {
        left if left < needed => Err(AdminError::NeededNow(format!(
            "without {without} {left} volumes would take blobs, and every blob needs {needed}"
        ))),
        _ => Ok("ready without it\n"),
    }
}
