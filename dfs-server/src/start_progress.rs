//! How far a daemon is with its start, for those who wait for it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Told by whoever does the work, asked by whoever shows it.
#[derive(Debug)]
pub struct StartProgress {
    begun: Instant,
    /// Held for a few instructions.
    step: Mutex<Step>,
    /// Of the step's total. Beside the lock, because it is told for every record.
    done: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    doing: &'static str,
    unit: &'static str,
    /// Zero where nothing is counted.
    total: u64,
}

/// A look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartReport {
    /// What is being done.
    pub(crate) doing: &'static str,
    /// How much of it is done, of how much, in what; zeros where nothing is counted.
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) unit: &'static str,
    /// Time since the start.
    pub(crate) elapsed: Duration,
}

impl Default for StartProgress {
    fn default() -> Self {
        let step = Step { doing: "opening the directory", unit: "", total: 0 };
        Self { begun: Instant::now(), step: Mutex::new(step), done: AtomicU64::new(0) }
    }
}

impl StartProgress {
    /// The next step begins, of which nothing is counted.
    pub(crate) fn begin(&self, doing: &'static str) {
        self.begin_counted(doing, "", 0);
    }

    /// The next step begins, which is done when `total` of `unit` are.
    pub(crate) fn begin_counted(&self, doing: &'static str, unit: &'static str, total: u64) {
        let mut step = self.step.lock();
        *step = Step { doing, unit, total };
        self.done.store(0, Ordering::Relaxed);
    }

    /// So much of the step is done.
    pub(crate) fn advance_to(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    /// As it is now.
    pub(crate) fn report(&self) -> StartReport {
        let step = self.step.lock();
        let Step { doing, unit, total } = *step;
        let done = self.done.load(Ordering::Relaxed).min(total);
        StartReport { doing, done, total, unit, elapsed: self.begun.elapsed() }
    }
}

impl StartReport {
    /// How much of the step is done, if that is counted.
    pub(crate) fn percent(&self) -> Option<u64> {
        (self.total > 0).then(|| crate::pages::text::percent(self.done, self.total))
    }
}

impl fmt::Display for StartReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "starting for {}: {}", crate::pages::text::span(self.elapsed), self.doing)?;
        match self.percent() {
            Some(percent) => write!(f, ", {percent} % ({} of {} {})", self.done, self.total, self.unit),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_of_the_step_at_work() {
        let progress = StartProgress::default();
        progress.begin_counted("replaying the edit log", "entries", 40);
        progress.advance_to(10);
        let report = progress.report();
        assert_eq!((report.done, report.total, report.percent()), (10, 40, Some(25)));
        assert!(report.to_string().ends_with("replaying the edit log, 25 % (10 of 40 entries)"), "{report}");
        progress.begin("taking up service");
        assert_eq!(progress.report().percent(), None);
        assert!(progress.report().to_string().ends_with(": taking up service"));
    }
}
