//! How long the NameNode's two great locks are held: the namespace's and the block manager's. Every call waits behind
//! them, heartbeats too, so the pauses that the NameNode causes are these times.
//!
//! [`LockTimes`] counts, [`Timed`] is a lock's guard that tells it when it goes: what wraps a lock (`NamespaceLock`,
//! `BlockManager`) gives out no other guards. The time is read outside the lock on the way out, and just inside on the way in.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Upper ends of the buckets, microseconds. Around the bound that no hold may pass, 5 ms, they are close.
const BUCKETS_US: [u64; 12] = [10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 200_000, 1_000_000, 10_000_000];

/// Counts holds of one lock by their length.
#[derive(Debug, Default)]
pub struct LockTimes {
    /// Holds up to each bucket's end and above the one before; the last counts what is above all.
    counts: [AtomicU64; BUCKETS_US.len() + 1],
    total_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl LockTimes {
    /// Times a guard from now until it is dropped.
    pub fn time<G>(&self, guard: G) -> Timed<'_, G> {
        Timed { guard, hold: Hold { since: Instant::now(), times: self } }
    }

    /// The longest hold since the start.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.load(Ordering::Relaxed))
    }

    /// Holds since the start.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Holds by length: the upper end of each bucket, if it has one, and the holds up to it and above the one before.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let ends = BUCKETS_US.iter().map(|&micros| Some(Duration::from_micros(micros))).chain([None]);
        ends.zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    fn record(&self, held: Duration) {
        let micros = u64::try_from(held.as_micros()).unwrap_or(u64::MAX);
        let nanos = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.iter().position(|&end| micros <= end).unwrap_or(BUCKETS_US.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.total_ns.fetch_add(nanos, Ordering::Relaxed);
        if nanos > self.longest_ns.load(Ordering::Relaxed) {
            self.longest_ns.fetch_max(nanos, Ordering::Relaxed);
        }
    }
}

/// For a registry of metrics: a histogram in seconds.
#[derive(Debug)]
pub struct LockHistogram(pub Arc<LockTimes>);

impl EncodeMetric for LockHistogram {
    #[allow(clippy::cast_precision_loss)]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let of = |end: Option<Duration>| end.map_or(f64::MAX, |end| end.as_secs_f64());
        let buckets: Vec<(f64, u64)> = self.0.buckets().map(|(end, count)| (of(end), count)).collect();
        let seconds = self.0.total_ns.load(Ordering::Relaxed) as f64 / 1e9;
        let holds = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(seconds, holds, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// A guard whose hold is timed.
#[derive(Debug)]
pub struct Timed<'a, G> {
    // Dropped first: the lock is free before the time is written down.
    guard: G,
    hold: Hold<'a>,
}

#[derive(Debug)]
struct Hold<'a> {
    since: Instant,
    times: &'a LockTimes,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.times.record(self.since.elapsed());
    }
}

impl<G> Timed<'_, G> {
    /// Time since the lock was taken.
    pub fn held(&self) -> Duration {
        self.hold.since.elapsed()
    }

    /// Lets `others` give the lock to those who wait and take it again: a new hold begins.
    pub fn interrupt(&mut self, others: impl FnOnce(&mut G)) {
        self.hold.times.record(self.held());
        others(&mut self.guard);
        self.hold.since = Instant::now();
    }

    /// Lets `release` free the lock in a way of its own.
    pub fn release_by(self, release: impl FnOnce(G)) {
        let Self { guard, hold } = self;
        release(guard);
        drop(hold);
    }
}

impl<G: Deref> Deref for Timed<'_, G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Timed<'_, G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn holds_are_counted_by_length() {
        let times = Arc::new(LockTimes::default());
        for micros in [1, 10, 11, 4_999, 5_000, 5_001, 20_000_000] {
            times.record(Duration::from_micros(micros));
        }
        assert_eq!(times.longest(), Duration::from_secs(20));
        let mut registry = Registry::default();
        registry.register("lock", "help", LockHistogram(times));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "lock_bucket{le=\"0.00001\"} 2",
            "lock_bucket{le=\"0.005\"} 5",
            "lock_bucket{le=\"0.01\"} 6",
            "lock_bucket{le=\"+Inf\"} 7",
            "lock_count 7",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn guard_tells_when_it_goes_and_frees_the_lock() {
        let (times, lock) = (LockTimes::default(), Mutex::new(1));
        *times.time(lock.lock()) += 1;
        times.time(lock.lock()).release_by(parking_lot::MutexGuard::unlock_fair);
        assert_eq!(*lock.try_lock().unwrap(), 2);
        assert_eq!(times.count(), 2);
        assert!(times.longest() > Duration::ZERO);
    }
}
