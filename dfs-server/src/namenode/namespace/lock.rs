//! The lock of the namespace. Everything waits for it: calls, the edit log, the orders on heartbeats. So it measures how
//! long each holder keeps it, and shows that in `/metrics`.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use prometheus_client::metrics::histogram::Histogram;

use super::Namespace;

/// Upper bounds of the histograms' buckets, seconds. Above 5 ms a hold is a defect.
const BUCKETS: [f64; 10] = [10e-6, 100e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 1.0];

/// A writer that has held the lock for this long lets readers in before its next op.
const HOLD: Duration = Duration::from_millis(1);

/// The namespace under its lock.
pub struct NamespaceLock {
    namespace: RwLock<Namespace>,
    reads: Histogram,
    writes: Histogram,
}

impl NamespaceLock {
    /// Puts a namespace under a lock.
    pub fn new(namespace: Namespace) -> Self {
        Self { namespace: RwLock::new(namespace), reads: Histogram::new(BUCKETS), writes: Histogram::new(BUCKETS) }
    }

    /// Shares it with other readers.
    pub fn read(&self) -> ReadGuard<'_> {
        let namespace = self.namespace.read();
        ReadGuard { namespace, since: Instant::now(), holds: &self.reads }
    }

    /// Takes it alone.
    pub fn write(&self) -> WriteGuard<'_> {
        let namespace = self.namespace.write();
        WriteGuard { namespace, since: Instant::now(), holds: &self.writes }
    }

    /// How long readers have held it, seconds.
    pub fn read_holds(&self) -> Histogram {
        self.reads.clone()
    }

    /// How long writers have held it, seconds.
    pub fn write_holds(&self) -> Histogram {
        self.writes.clone()
    }
}

/// The namespace, to be read.
pub struct ReadGuard<'a> {
    namespace: RwLockReadGuard<'a, Namespace>,
    since: Instant,
    holds: &'a Histogram,
}

impl Deref for ReadGuard<'_> {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.holds.observe(self.since.elapsed().as_secs_f64());
    }
}

/// The namespace, to be changed.
pub struct WriteGuard<'a> {
    namespace: RwLockWriteGuard<'a, Namespace>,
    since: Instant,
    holds: &'a Histogram,
}

impl WriteGuard<'_> {
    /// Whether it has been held for so long that others should have their turn.
    pub fn is_due(&self) -> bool {
        self.since.elapsed() >= HOLD
    }

    /// Lets those who wait have it, and takes it again.
    pub fn give_way(&mut self) {
        self.holds.observe(self.since.elapsed().as_secs_f64());
        RwLockWriteGuard::bump(&mut self.namespace);
        self.since = Instant::now();
    }
}

impl Deref for WriteGuard<'_> {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl DerefMut for WriteGuard<'_> {
    fn deref_mut(&mut self) -> &mut Namespace {
        &mut self.namespace
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.holds.observe(self.since.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::directory::HashKey;
    use super::*;

    #[test]
    fn give_way_lets_those_in_who_wait() {
        let lock = NamespaceLock::new(Namespace::new(HashKey(1, 2), 0));
        let mut writer = lock.write();
        let (seen, reader) = mpsc::channel();
        let deadline = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| seen.send(lock.read().counters().last_txid).expect("the test waits"));
            while reader.try_recv().is_err() {
                assert!(Instant::now() < deadline, "the reader still waits");
                writer.give_way();
            }
            drop(writer);
        });
    }
}
