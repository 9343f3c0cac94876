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

/// How far it has come.
#[derive(Debug)]
pub(super) enum Progress<T> {
    /// With this outcome, told once.
    Ended(T),
    GoesOn,
    /// Its thread has panicked.
    BrokenOff,
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

    /// What there is of it by then.
    pub(super) fn wait_until(&self, deadline: Instant) -> Progress<T> {
        match self.outcome.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(outcome) => Progress::Ended(outcome),
            Err(mpsc::RecvTimeoutError::Timeout) => Progress::GoesOn,
            Err(mpsc::RecvTimeoutError::Disconnected) => Progress::BrokenOff,
        }
    }

    /// How long it has been under way.
    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}
