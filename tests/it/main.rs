//! The integration tests: the real scripts, real nginx, real files. One module per thing tested; what they
//! share is in [`harness`].

// Nothing outside of this binary can use what it declares.
#![allow(unreachable_pub)]

mod admin;
mod bad_input;
mod check;
mod command_line;
mod configuration;
mod export;
mod forget;
mod go_cluster;
mod harness;
mod harness_itself;
mod identity;
mod identity_faults;
mod identity_model;
mod job_reports;
mod maintenance_model;
mod metrics;
mod mkv_script;
mod native_api;
mod operations;
mod pace;
mod present_index;
mod put_and_get;
mod readme;
mod rebalance;
mod rebuild;
mod scrub;
mod server_faults;
mod verify_index;
mod volume_faults;
mod volume_script;
