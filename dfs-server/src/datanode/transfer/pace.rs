//! A limit of bytes per second, shared by several threads.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Bytes that may be sent at once after a time of silence, as a time: keeps short pauses from costing bandwidth.
const BURST: Duration = Duration::from_millis(100);

/// No limit is lower, bytes per second: below it the shortest turns would be taken for silence.
pub(crate) const RATE_MIN: u64 = 1024;
/// Turns that one sender alone takes.
const SLICES_PER_SECOND: u64 = 8;
/// Bytes of a turn.
const SLICE_MIN: usize = 512;
const SLICE_MAX: usize = 256 * 1024;

/// Gives out turns so that all senders together stay within the limit.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When what was given out so far has been sent.
    free_at: Mutex<Instant>,
}

impl Pace {
    /// A limit.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Bytes to be sent in one turn: so few that the turns of all senders come often, and nobody who receives takes the
    /// pauses for silence.
    pub(super) fn slice(&self, limit: u64) -> usize {
        let part = self.rate(limit) / SLICES_PER_SECOND;
        usize::try_from(part).unwrap_or(SLICE_MAX).clamp(SLICE_MIN, SLICE_MAX)
    }

    fn rate(&self, limit: u64) -> u64 {
        let rate = if limit == 0 { self.bytes_per_second } else { limit.min(self.bytes_per_second) };
        rate.max(RATE_MIN)
    }

    /// Waits until `bytes` may be sent, at `limit` bytes per second where that is lower (0: no other limit).
    pub(crate) fn wait(&self, bytes: usize, limit: u64) {
        let until = self.take_turn(Instant::now(), bytes, limit);
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    /// The time at which `bytes` may be sent; counts them as sent.
    fn take_turn(&self, now: Instant, bytes: usize, limit: u64) -> Instant {
        let rate = self.rate(limit);
        let mut free_at = self.free_at.lock();
        let start = (*free_at).max(now.checked_sub(BURST).unwrap_or(now));
        #[allow(clippy::cast_precision_loss, reason = "packets are far below 2^52 bytes")]
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        *free_at = start + takes;
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_turn_spreads_bytes_over_time() {
        let pace = Pace::new(2_000);
        let now = Instant::now() + Duration::from_secs(10);
        assert!(pace.take_turn(now, 2_000, 0) <= now);
        let second = pace.take_turn(now, 1_000, 0);
        assert_eq!(second, now + Duration::from_secs(1) - BURST);
        // At the lower limit of the order, the next one waits twice as long.
        assert_eq!(pace.take_turn(now, 1_024, 1_024), second + Duration::from_millis(500));
        assert_eq!(pace.take_turn(now, 1, 9_999), second + Duration::from_millis(1_500));
    }

    #[test]
    fn slice_comes_before_anybody_takes_the_pause_for_silence() {
        for limit in [1, 1_000, 10 << 20, 1 << 40] {
            let pace = Pace::new(1 << 40);
            let takes = pace.slice(limit) as u64 * 1000 / pace.rate(limit);
            assert!(takes <= 500, "{limit} bytes a second: a turn each {takes} ms");
        }
    }
}
