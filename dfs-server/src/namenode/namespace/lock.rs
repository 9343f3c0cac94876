//! The lock of the namespace. Everything waits for it: calls, the edit log, the orders on heartbeats. So it measures how
//! long each holder keeps it, and shows that in `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Namespace;
use crate::namenode::lock_times::{LockTimes, Timed};

/// A writer that has held the lock for this long lets readers in before its next op.
const HOLD: Duration = Duration::from_millis(1);

/// The namespace, to be read.
pub type ReadGuard<'a> = Timed<'a, RwLockReadGuard<'a, Namespace>>;

/// The namespace, to be changed.
pub type WriteGuard<'a> = Timed<'a, RwLockWriteGuard<'a, Namespace>>;

/// The namespace under its lock.
pub struct NamespaceLock {
    namespace: RwLock<Namespace>,
    reads: Arc<LockTimes>,
    writes: Arc<LockTimes>,
}

impl NamespaceLock {
    /// Puts a namespace under a lock.
    pub fn new(namespace: Namespace) -> Self {
        Self { namespace: RwLock::new(namespace), reads: Arc::default(), writes: Arc::default() }
    }

    /// Shares it with other readers.
    pub fn read(&self) -> ReadGuard<'_> {
        self.reads.time(self.namespace.read())
    }

    /// Takes it alone.
    pub fn write(&self) -> WriteGuard<'_> {
        self.writes.time(self.namespace.write())
    }

    /// How long readers have held it.
    pub fn read_times(&self) -> &Arc<LockTimes> {
        &self.reads
    }

    /// How long writers have held it.
    pub fn write_times(&self) -> &Arc<LockTimes> {
        &self.writes
    }
}

impl WriteGuard<'_> {
    /// Whether it has been held for so long that others should have their turn.
    pub fn is_due(&self) -> bool {
        self.held() >= HOLD
    }

    /// Lets those who wait have it, and takes it again.
    pub fn give_way(&mut self) {
        self.interrupt(RwLockWriteGuard::bump);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

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
