//! Whether somebody has a block device of this host for itself, though the system's files don't say who: a mount in
//! a container, for one.

use std::path::PathBuf;
use std::time::Duration;

use cairn_blockdev::disk::is_claimed;
use tokio::time::timeout;

/// Longest wait for whether a device is claimed: opening one that hangs hangs.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Who has the device for itself, as a sentence; `None` if nobody has, or that can't be told in time.
pub(crate) async fn claimant(path: PathBuf) -> Option<String> {
    let shown = path.display().to_string();
    let claimed = tokio::task::spawn_blocking(move || is_claimed(&path));
    if let Ok(claimed) = timeout(TIMEOUT, claimed).await {
        claimed
            .is_ok_and(|claimed| claimed)
            .then(|| format!("somebody has {shown} open for itself, maybe mounted in a container"))
    } else {
        // As where it has no server. The system's files show nobody.
        tracing::warn!("{shown} can't be opened in time");
        None
    }
}
