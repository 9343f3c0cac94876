//! How long the present write of the edit log has been under way. On a device that hangs it never ends, and nothing else says so:
//! there is no error, and whoever waits for it waits on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Told by whoever writes, of whom there is one at a time; asked by anybody.
#[derive(Debug)]
pub(super) struct WriteWatch {
    made: Instant,
    /// Milliseconds from `made` to the beginning of the present write, and one; 0: there is none.
    begun: AtomicU64,
}

impl WriteWatch {
    pub(super) fn new() -> Self {
        Self { made: Instant::now(), begun: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).map_or(u64::MAX, |millis| millis.saturating_add(1))
    }

    pub(super) fn begin(&self) {
        self.begun.store(self.now(), Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.begun.store(0, Ordering::Relaxed);
    }

    /// For how long the present write has been under way.
    pub(super) fn pending(&self) -> Option<Duration> {
        let begun = Some(self.begun.load(Ordering::Relaxed)).filter(|begun| *begun > 0)?;
        Some(Duration::from_millis(self.now().saturating_sub(begun)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_is_of_the_write_under_way() {
        let watch = WriteWatch { made: Instant::now() - Duration::from_secs(60), begun: AtomicU64::new(0) };
        assert_eq!(watch.pending(), None);
        watch.begun.store(20_001, Ordering::Relaxed);
        assert!(watch.pending() >= Some(Duration::from_secs(40)));
        watch.begin();
        assert!(watch.pending() < Some(Duration::from_secs(40)));
        watch.end();
        assert_eq!(watch.pending(), None);
    }
}
