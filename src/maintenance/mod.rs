//! Jobs that make what is into what should be. Each can be run again at any time, and stopping one half-way loses
//! nothing: what it decides stands in a pure part, what it does in a small one, and it says how far it is in a
//! [`Progress`] that whoever shows it reads.

mod actor;
mod control;
pub mod drain;
pub mod export;
mod finding;
pub mod forget;
mod job;
mod offline;
mod pace;
mod pages;
pub mod rebalance;
pub mod rebuild;
pub mod rename;
pub mod replace;
pub mod scrub;
mod settle;
pub mod state;
mod status;
mod threads;
pub mod verify;
mod walk;

pub use actor::{Maintenance, Schedule};
pub use control::Control;
pub use finding::{Finding, Kind, word};
pub use job::{BeginError, DEFAULT_RATE, Job, JobState, NoSuchJob, Order, Task};
pub use offline::{MaintenanceError, OfflineRequest};
pub use pace::{Pace, Rate};
pub use status::{Progress, Status};
pub use threads::Effort;
