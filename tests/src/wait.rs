//! Waiting for conditions: every wait has a deadline and says what it waited for.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Between two looks at a condition: short against what is waited for, long against the cost of looking.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Time for a daemon to start or to stop on a busy machine.
pub const STARTUP: Duration = Duration::from_secs(120);

/// Time for a cluster to repair a few blocks or to notice a dead node, with the harness's short intervals.
pub const REPAIR: Duration = Duration::from_secs(90);

/// Looks until `look` finds something, or the time is over.
pub fn poll<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
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
    #[should_panic(expected = "in vain: the sun to rise")]
    fn wait_until_names_what_did_not_happen() {
        wait_until(Duration::from_millis(1), "the sun to rise", || false);
    }
}
