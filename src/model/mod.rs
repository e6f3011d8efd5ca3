//! What the bytes mean: keys, paths on volumes, placement, records, sidecars and intents, as docs/format.md
//! lays them down. Pure: no I/O, no clock, no async.

mod identity;
mod intent;
mod key;
mod master;
mod names;
mod path;
mod placement;
mod record;
mod sidecar;
mod volume;

pub use identity::{Identities, Identity, MAX_VOLUME_FILE_BYTES, VOLUME_PATH, VolumeFile};
pub use intent::{Intent, PlacedFile};
pub use key::{Key, KeyError, MAX_KEY_BYTES};
pub use master::MasterFile;
pub use names::Names;
pub use path::{
    CLUSTER_PATH, File, MASTER_PATH, SIDECAR_SUFFIX, TRIAL_PATH, decode_path, folded_path, is_beside_blobs,
    is_of_layout, path_of, unfolded_key,
};
pub use placement::Placer;
pub use record::{Generation, Md5, Record, RecordError, State};
pub use sidecar::{Sidecar, SidecarState};
pub use volume::{Replica, Volume, VolumeError, VolumeMode};
