//! What the bytes mean: keys, paths on volumes, placement, records, sidecars and intents, as docs/format.md
//! lays them down. Pure: no I/O, no clock, no async.

mod intent;
mod key;
mod path;
mod placement;
mod record;
mod sidecar;
mod volume;

pub use intent::{Intent, PlacedFile};
pub use key::{Key, KeyError, MAX_KEY_BYTES};
pub use path::{CLUSTER_PATH, File, TRIAL_PATH, decode_path, folded_path, path_of, unfolded_key};
pub use placement::Placer;
pub use record::{Generation, Md5, Record, RecordError, State};
pub use sidecar::{Sidecar, SidecarState};
pub use volume::{Replica, Volume, VolumeError, VolumeMode};
