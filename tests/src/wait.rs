//! Waiting for conditions: every wait has a deadline and says what it waited for.
//!
//! Deadlines and limits are in the time that the machine had for us ([`Stopwatch`]): they are promises of the product, and it
//! promises nothing for a machine that is busy with something else.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Between two looks at a condition: short against what is waited for, long against the cost of looking.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Time for a daemon to start or to stop on a busy machine.
pub const STARTUP: Duration = Duration::from_secs(120);

/// Time for a cluster to repair a few blocks or to notice a dead node, with the harness's short intervals.
pub const REPAIR: Duration = Duration::from_secs(90);

/// Of the time on the clock at least one part in so many counts, however busy the machine is: nothing is waited for for ever.
const BUSY_MAX: u32 = 4;

/// Counts the time since it was started, without that in which something on the machine could have run and had no processor.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    begun: Instant,
    stalled: Duration,
}

impl Stopwatch {
    /// Starts one.
    pub fn start() -> Self {
        Self { begun: Instant::now(), stalled: stalled() }
    }

    /// Time so far.
    pub fn elapsed(&self) -> Duration {
        let on_the_clock = self.begun.elapsed();
        on_the_clock.saturating_sub(stalled().saturating_sub(self.stalled)).max(on_the_clock / BUSY_MAX)
    }

    /// Whether so much time is over.
    pub fn is_past(&self, limit: Duration) -> bool {
        self.begun.elapsed() >= limit && self.elapsed() >= limit
    }
}

/// How long since the machine's start something that could run has waited for a processor; always the same where the kernel does
/// not count it.
fn stalled() -> Duration {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    stalled_of(&text).unwrap_or_default()
}

fn stalled_of(text: &str) -> Option<Duration> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.split_once("total=")?.1.trim().parse().ok().map(Duration::from_micros)
}

/// Looks until `look` finds something, or the time is over.
pub fn poll<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let watch = Stopwatch::start();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if watch.is_past(timeout) {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits for a value.
///
/// # Panics
/// When the time is over, saying what was waited for.
#[track_caller]
pub fn wait_for<T>(timeout: Duration, what: impl Display, look: impl FnMut() -> Option<T>) -> T {
    poll(timeout, look).unwrap_or_else(|| panic!("waited {timeout:?} in vain: {what}"))
}

/// Waits for a condition.
///
/// # Panics
/// When the time is over, saying what was waited for.
#[track_caller]
pub fn wait_until(timeout: Duration, what: impl Display, mut condition: impl FnMut() -> bool) {
    wait_for(timeout, what, || condition().then_some(()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_looks_once_even_without_time() {
        assert_eq!(poll(Duration::ZERO, || Some(7)), Some(7));
        assert_eq!(poll(Duration::ZERO, || None::<()>), None);
    }

    #[test]
    fn stalled_is_what_the_kernel_counts() {
        let text = "some avg10=60.64 avg60=67.54 avg300=66.20 total=15025234616\nfull avg10=0.00 total=7\n";
        assert_eq!(stalled_of(text), Some(Duration::from_micros(15_025_234_616)));
        assert_eq!(stalled_of(""), None);
    }

    #[test]
    fn stopwatch_counts_some_of_the_time_however_busy_the_machine_is() {
        let watch = Stopwatch::start();
        let (limit, begun) = (Duration::from_millis(20), Instant::now());
        while !watch.is_past(limit) {
            assert!(begun.elapsed() < 2 * BUSY_MAX * limit + Duration::from_secs(60));
        }
        assert!(begun.elapsed() >= limit);
    }

    #[test]
    #[should_panic(expected = "in vain: the sun to rise")]
    fn wait_until_names_what_did_not_happen() {
        wait_until(Duration::from_millis(1), "the sun to rise", || false);
    }
}
