//! Work that waits for a disk, out of the way of a runtime: its threads answer heartbeats and every call.

use dfs_common::error::{DfsError, ErrorKind, Result};

/// Runs `work` on a thread for it.
///
/// # Errors
/// Its own; `Internal` when it panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| DfsError::new(ErrorKind::Internal, doing).with_source(error))?
}
