//! A part: a range of a file that is fetched ahead in a task of its own, for whoever comes to read it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dfs_common::error::Result;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinHandle;

/// Bytes per permit of the client's budget of bytes read ahead.
pub(crate) const BUDGET_UNIT: usize = 64 * 1024;
/// Permits that a budget may have: 64 GiB, far below the semaphore's own limit.
pub(crate) const PREFETCH_UNITS_MAX: usize = 1 << 20;

/// What became of a part.
#[derive(Clone)]
enum Outcome {
    Pending,
    Fetched(Bytes),
    Failed,
}

/// Bytes on their way, or here. Dropping it stops the fetch.
pub(crate) struct Part {
    pub(crate) range: Range<u64>,
    outcome: watch::Receiver<Outcome>,
    /// Bytes that were handed out; once all were, nobody is likely to come back.
    served: AtomicU64,
    task: JoinHandle<()>,
    _budget: OwnedSemaphorePermit,
}

impl Part {
    /// Starts `fetch`, which must give all bytes of `range`.
    pub(crate) fn start(
        range: Range<u64>,
        budget: OwnedSemaphorePermit,
        fetch: impl Future<Output = Result<Bytes>> + Send + 'static,
    ) -> Self {
        let (sender, outcome) = watch::channel(Outcome::Pending);
        let task = tokio::spawn(async move {
            let outcome = match fetch.await {
                Ok(bytes) => Outcome::Fetched(bytes),
                // Whoever wants the bytes tries again in the foreground, and gets the reason there.
                Err(_) => Outcome::Failed,
            };
            sender.send_replace(outcome);
        });
        Self { range, outcome, served: AtomicU64::new(0), task, _budget: budget }
    }

    /// Permits that a range takes.
    pub(crate) fn budget_units(range: &Range<u64>) -> u32 {
        u32::try_from((range.end - range.start).div_ceil(BUDGET_UNIT as u64)).unwrap_or(u32::MAX)
    }

    /// The bytes of `range`, which must lie within the part; `None` when they could not be fetched.
    pub(crate) async fn bytes(&self, range: Range<u64>) -> Option<Bytes> {
        let mut outcome = self.outcome.clone();
        let outcome = outcome.wait_for(|outcome| !matches!(outcome, Outcome::Pending)).await.ok()?;
        match &*outcome {
            Outcome::Fetched(bytes) => {
                self.served.fetch_add(range.end - range.start, Ordering::Relaxed);
                let at = (range.start - self.range.start) as usize;
                Some(bytes.slice(at..at + (range.end - range.start) as usize))
            }
            Outcome::Pending | Outcome::Failed => None,
        }
    }

    /// Whether every byte was handed out.
    pub(crate) fn is_used_up(&self) -> bool {
        self.served.load(Ordering::Relaxed) >= self.range.end - self.range.start
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}
