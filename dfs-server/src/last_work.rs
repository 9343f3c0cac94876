//! The last work of a daemon that stops.

use std::time::Duration;

use tokio::sync::oneshot;
use tracing::error;

/// Runs the last work in a thread of its own, since all of the runtime's may wait for a device, and so may it: false when it
/// has not ended in time. Without a thread for it, it is left out: what is promised does not depend on it.
pub(crate) async fn ends_within(patience: Duration, work: impl FnOnce() + Send + 'static) -> bool {
    let (ended, end) = oneshot::channel::<()>();
    let started = std::thread::Builder::new().name("last-work".into()).spawn(move || {
        work();
        drop(ended);
    });
    if let Err(error) = started {
        error!(%error, "no thread to stop with: the last work is left out");
        return true;
    }
    tokio::time::timeout(patience, end).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_within_does_not_wait_for_a_device_that_hangs() {
        let (device, answers) = std::sync::mpsc::channel::<()>();
        let wait = move || {
            let _ = answers.recv();
        };
        assert!(!ends_within(Duration::from_millis(50), wait).await);
        drop(device);
        assert!(ends_within(Duration::from_secs(20), || {}).await);
    }
}
