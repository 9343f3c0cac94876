//! Waiting between tries: exponential, with jitter, bounded.

use std::time::Duration;

use rand::Rng;

/// Delays of a series of tries.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Delay after the first failure.
    pub first: Duration,
    /// No delay is longer.
    pub max: Duration,
}

impl Backoff {
    /// Delay after failure number `attempt` (from 0): doubled each time, then shortened at random by up to half, so
    /// that many clients of one failed server do not come back in step.
    pub fn delay(&self, attempt: u32, random: &mut impl Rng) -> Duration {
        let full = self.first.saturating_mul(1u32.checked_shl(attempt.min(16)).unwrap_or(u32::MAX)).min(self.max);
        full.mul_f64(random.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_grows_to_its_bound() {
        let backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_secs(1) };
        let mut random = rand::rng();
        for attempt in 0..100 {
            let delay = backoff.delay(attempt, &mut random);
            assert!(delay <= Duration::from_secs(1));
            if attempt > 10 {
                assert!(delay >= Duration::from_millis(500));
            }
        }
    }
}
