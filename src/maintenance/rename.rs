//! Rename: a volume is found under another name. Records and intents are rewritten, and no file is touched.

use super::Control;
use super::offline::{self, MaintenanceError, OfflineRequest};
use super::rebalance::rewrite_names;
use crate::model::Replica;
use crate::store::StoreParts;

/// Which place is called what now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenameRequest {
    /// As records name it, and not in `--volumes` any more.
    pub earlier: Replica,
    /// As it is in `--volumes`.
    pub present: Replica,
}

/// Renames a volume of a cluster whose index nobody else has open. Blocks the calling thread.
pub fn run(
    request: &OfflineRequest,
    rename: &RenameRequest,
    control: &Control,
) -> Result<(), MaintenanceError> {
    offline::run(request, control, async |opened| {
        let _watching = opened.join().await?;
        write(&opened.parts, rename, control).await
    })
}

/// As [`run`], also in a server that goes on serving.
pub(super) async fn write(
    parts: &StoreParts,
    request: &RenameRequest,
    control: &Control,
) -> Result<(), MaintenanceError> {
    control.progress.begin("looking whether it is the same volume", 0);
    let store = parts.store();
    if let Some(reason) = store.call(&request.earlier, &request.present).await? {
        let RenameRequest { earlier, present } = request.clone();
        return Err(MaintenanceError::NotTheSame { earlier, present, reason });
    }
    Ok(rewrite_names(store.index(), control).await?)
}
