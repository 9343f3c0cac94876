//! File work that a hung device may never end: done by a thread that can be left to its fate.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A piece of work under way.
#[derive(Debug)]
pub(super) struct Look<T> {
    since: Instant,
    outcome: mpsc::Receiver<T>,
}

impl<T: Send + 'static> Look<T> {
    /// Begins it in a thread of its own.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn begin(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (sender, outcome) = mpsc::sync_channel(1);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Nobody waits any more when this fails.
            let _ = sender.send(work());
        })?;
        Ok(Self { since: Instant::now(), outcome })
    }

    /// Its outcome; `None` when there is none by then.
    pub(super) fn wait_until(&self, deadline: Instant) -> Option<T> {
        self.outcome.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// How long it has been under way.
    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}
