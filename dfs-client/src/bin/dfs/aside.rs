//! Work that may wait for a disk, on a thread on which nobody waits for it: those of the runtime move the bytes of all
//! transfers, and remove what is half written when a signal comes.

use crate::failure::{Failure, Outcome};

/// Does it there. Who stops waiting for it does not stop it.
///
/// # Errors
/// Its own.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::refused("a thread beside the runtime", error.to_string())))
}
