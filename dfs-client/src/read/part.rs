//! A part: a range of a file that is fetched ahead in a task of its own, for whoever comes to read it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dfs_common::error::Result;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinHandle;

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

    pub(crate) fn is_on_its_way(&self) -> bool {
        !self.task.is_finished()
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
