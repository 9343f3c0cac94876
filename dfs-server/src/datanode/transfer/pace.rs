//! A limit of bytes per second, shared by several threads.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Bytes that may be sent at once after a time of silence, as a time: keeps short pauses from costing bandwidth.
const BURST: Duration = Duration::from_millis(100);

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
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` may be sent, at `limit` bytes per second where that is lower (0: no other limit).
    pub(crate) fn wait(&self, bytes: usize, limit: u64) {
        let until = self.take_turn(Instant::now(), bytes, limit);
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    /// The time at which `bytes` may be sent; counts them as sent.
    fn take_turn(&self, now: Instant, bytes: usize, limit: u64) -> Instant {
        let rate = if limit == 0 { self.bytes_per_second } else { limit.min(self.bytes_per_second) };
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
        let pace = Pace::new(1_000);
        let now = Instant::now() + Duration::from_secs(10);
        assert!(pace.take_turn(now, 1_000, 0) <= now);
        let second = pace.take_turn(now, 500, 0);
        assert_eq!(second, now + Duration::from_secs(1) - BURST);
        // At the lower limit of the order, the next one waits twice as long.
        assert_eq!(pace.take_turn(now, 500, 500), second + Duration::from_millis(500));
        assert_eq!(pace.take_turn(now, 1, 9_999), second + Duration::from_millis(1_500));
    }
}
