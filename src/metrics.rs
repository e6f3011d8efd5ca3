//! What `/metrics` tells: every figure with its unit and meaning on one screen, and the recorder that collects them.
//!
//! A layer counts where something happens, through the crate `metrics` as it logs through `log`, under the names here.
//! What can be looked up when it is asked for is set then, by [`crate::api::admin`]. Without a recorder, which only a
//! server with an admin port installs, nothing is recorded.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;

enum Type {
    Counter,
    Gauge,
    Histogram,
}
use Type::{Counter, Gauge, Histogram};

/// Name, labels, type and meaning of every figure.
const FIGURES: [(&str, &[&str], Type, &str); 26] = [
    ("mkv_requests_total", &["method", "status"], Counter, "Requests of clients that were answered."),
    ("mkv_request_duration_seconds", &["method"], Histogram, "Time until the head of the answer."),
    ("mkv_requests_in_flight", &[], Gauge, "Requests that are being answered."),
    ("mkv_received_bytes_total", &[], Counter, "Bytes of bodies that came from clients."),
    ("mkv_sent_bytes_total", &[], Counter, "Bytes of bodies to clients; blobs come from the volumes."),
    (
        "mkv_spilled_writes_total",
        &[],
        Counter,
        "Blobs stored elsewhere than they belong, as a volume failed.",
    ),
    ("mkv_index_mailbox_depth", &[], Gauge, "Messages that wait for the index."),
    ("mkv_index_lookups_total", &[], Counter, "Keys that were looked up in the index."),
    ("mkv_index_batch_changes", &[], Histogram, "Changes that one synced write to the index carried."),
    ("mkv_index_sync_duration_seconds", &[], Histogram, "Time of one write to the index with its sync."),
    ("mkv_index_stall_duration_seconds", &[], Histogram, "Calls of the index's engine above 50 ms."),
    ("mkv_keys", &["state"], Gauge, "Keys in the index; absent until they are counted after a start."),
    ("mkv_waiting_removals", &[], Gauge, "Removals that wait for a volume or for the grace period."),
    ("mkv_replicas_wanted", &[], Gauge, "Replicas that each blob is to have."),
    ("mkv_volume_up", &["volume"], Gauge, "1 if the volume answers and is ours, whatever its mode."),
    ("mkv_volume_mode", &["volume", "mode"], Gauge, "1 for the mode that the operator has set."),
    (
        "mkv_volume_probe_duration_seconds",
        &["volume"],
        Gauge,
        "Time of the last probe, also one that failed.",
    ),
    ("mkv_volume_errors_total", &["volume"], Counter, "Requests that the volume failed or did not answer."),
    ("mkv_volume_sent_bytes_total", &["volume"], Counter, "Bytes of bodies sent to the volume."),
    ("mkv_volume_used_bytes", &["volume"], Gauge, "Bytes of blobs as of the last scrub; absent before one."),
    ("mkv_jobs_running", &["kind"], Gauge, "Jobs that are at work."),
    ("mkv_jobs_ended_total", &["kind", "outcome"], Counter, "Jobs that have ended since the start."),
    (
        "mkv_job_left",
        &["kind"],
        Gauge,
        "Steps that the running job has left in its phase; 0 while not known.",
    ),
    (
        "mkv_last_scrub_timestamp_seconds",
        &[],
        Gauge,
        "When a scrub last came to its end, since 1970; 0 for never.",
    ),
    ("mkv_scrub_findings", &["kind"], Gauge, "What the last scrub found, mended or not."),
    ("mkv_build_info", &["version"], Gauge, "1; the label says which version runs."),
];

/// Upper bounds of durations: from a lookup to the longest upload that is waited for at the end.
const SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0];

/// Upper bounds of batches; the largest is what a sync may carry.
const CHANGES: [f64; 6] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];

/// How often samples are folded into their histograms. Until then each takes 16 bytes: a megabyte at 50,000 a second.
const FOLD_EVERY: Duration = Duration::from_secs(1);

/// Renders everything that is recorded.
#[derive(Clone)]
pub struct Metrics {
    recorded: PrometheusHandle,
    process: metrics_process::Collector,
}

impl Metrics {
    /// Installs the recorder; to be called once in a process, before anything makes a handle to record by.
    pub fn install() -> Metrics {
        let recorded = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|builder| builder.set_buckets(&CHANGES))
            .expect("there are buckets")
            .install_recorder()
            .expect("a process has one server");
        FIGURES.iter().for_each(describe);
        let process = metrics_process::Collector::default();
        process.describe();
        gauge!("mkv_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Metrics { recorded, process }
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> String {
        self.process.collect();
        self.recorded.render()
    }

    /// Folds samples into histograms, for ever.
    pub async fn fold_forever(self) {
        let mut turns = actix_rt::time::interval(FOLD_EVERY);
        loop {
            turns.tick().await;
            self.recorded.run_upkeep();
        }
    }
}

/// Says what it is, and where it has no labels shows it from the beginning.
fn describe((name, labels, kind, meaning): &(&'static str, &[&str], Type, &'static str)) {
    match kind {
        Counter => describe_counter!(*name, *meaning),
        Gauge => describe_gauge!(*name, *meaning),
        Histogram => describe_histogram!(*name, *meaning),
    }
    match kind {
        _ if !labels.is_empty() => {}
        Counter => drop(counter!(*name)),
        Gauge => drop(gauge!(*name)),
        Histogram => drop(histogram!(*name)),
    }
}
