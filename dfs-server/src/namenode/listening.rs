//! Time by which the NameNode judges the silence of others: it passes only while the NameNode hears.
//!
//! Heartbeats, renewals and reports are read by the runtime's thread. While that thread stands still (the process is
//! stopped, the machine swaps, a call or a lock keeps the thread), whoever speaks is not heard, and clocks on other threads
//! go on. So the thread itself proves that it listens, by a [`pulse`](ListeningClock::pulse) every [`PULSE_INTERVAL`]: from one
//! pulse to the next at most `PULSE_GRACE` counts, however much later the next one comes. Silences measured by this clock
//! are never longer than the true ones, and nobody is given up for a pause that was the NameNode's own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::clock::Clock;
use parking_lot::Mutex;

/// Time between two pulses.
pub const PULSE_INTERVAL: Duration = Duration::from_millis(250);

/// What counts at most of the time between two pulses. Above the interval, so that ordinary lateness does not slow the clock.
const PULSE_GRACE: Duration = Duration::from_secs(1);

/// Lateness of a pulse that is worth a line in the log.
const REMARKABLE: Duration = Duration::from_secs(3);

/// Time that was spent listening since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListeningTime(Duration);

impl ListeningTime {
    /// Time spent listening since `earlier`.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// See the module.
pub struct ListeningClock {
    clock: Arc<dyn Clock>,
    /// The last pulse, and what had been heard until then. Held for a few instructions; no other lock is taken under it.
    last: Mutex<(Instant, ListeningTime)>,
}

impl ListeningClock {
    /// A clock that listens from now on.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let last = Mutex::new((clock.instant(), ListeningTime::default()));
        Self { clock, last }
    }

    /// The time now.
    pub fn now(&self) -> ListeningTime {
        self.at(self.clock.instant())
    }

    /// The time at an instant that has just been.
    pub fn at(&self, now: Instant) -> ListeningTime {
        let (pulse, heard) = *self.last.lock();
        heard_at(pulse, heard, now)
    }

    /// The thread that hears others is alive.
    pub fn pulse(&self) {
        let mut last = self.last.lock();
        let now = self.clock.instant();
        let (pulse, heard) = *last;
        *last = (now, heard_at(pulse, heard, now));
        drop(last);
        let pause = now.saturating_duration_since(pulse);
        if pause >= REMARKABLE {
            tracing::warn!(?pause, "this NameNode stood still; the silence of others meanwhile does not count");
        }
    }
}

fn heard_at(pulse: Instant, heard: ListeningTime, now: Instant) -> ListeningTime {
    ListeningTime(heard.0 + now.saturating_duration_since(pulse).min(PULSE_GRACE))
}

#[cfg(test)]
mod tests {
    use dfs_common::clock::ManualClock;

    use super::*;

    #[test]
    fn time_between_late_pulses_counts_for_a_second() {
        let clock = Arc::new(ManualClock::new());
        let listening = ListeningClock::new(clock.clone());
        let begun = listening.now();
        // (time that passes, heard since the beginning, whether a pulse ends it)
        let mut heard = Duration::ZERO;
        for (millis, expected, pulses) in
            [(250, 250, true), (900, 1_150, false), (700, 1_250, false), (60_000, 1_250, true), (250, 1_500, true)]
        {
            clock.advance(Duration::from_millis(millis));
            let now = listening.now();
            assert_eq!(now.since(begun), Duration::from_millis(expected), "after {millis} ms more");
            assert!(now.since(begun) >= heard, "it never goes back");
            heard = now.since(begun);
            if pulses {
                listening.pulse();
                assert_eq!(listening.now(), now);
            }
        }
    }
}
