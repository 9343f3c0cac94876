//! Those who wait until a file is free, one queue for each file, and the recovery of files that begin to wait for it. What is
//! waited for, and for how long, is in `handover` and `lease_recovery`.
//!
//! Whoever applies ops tells of every change of leases and of every life that ends. So nobody waits in vain, whichever op it was
//! and whatever has become of the call that asked for it. What is no change of the namespace is not told: that a writer falls
//! silent, for instance. Who waits for that looks again by himself.

use std::collections::HashMap;
use std::sync::Arc;

use dfs_common::ids::InodeId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::namespace::claims::LeaseChanges;

/// Those who wait for files. Bounded by the connections that there may be, and the calls that each may have under way.
#[derive(Default)]
pub struct LeaseWatch {
    /// With how many wait. Never held while anything else is done.
    pub(super) by_file: Mutex<HashMap<InodeId, (usize, Arc<Queue>)>>,
    /// A file has begun to wait for recovery.
    pub(super) recovery_wanted: Notify,
}

#[derive(Default)]
pub(super) struct Queue {
    /// The file was given back, or recovered.
    pub(super) freed: Notify,
}

/// One who waits for a file.
pub(super) struct Waiter<'a> {
    watch: &'a LeaseWatch,
    pub(super) id: InodeId,
    pub(super) queue: Arc<Queue>,
}

impl LeaseWatch {
    pub(super) fn join(&self, id: InodeId) -> Waiter<'_> {
        let mut by_file = self.by_file.lock();
        let (count, queue) = by_file.entry(id).or_default();
        *count += 1;
        Waiter { watch: self, id, queue: Arc::clone(queue) }
    }

    /// Tells those whom it concerns that leases have changed.
    pub(super) fn tell(&self, changes: &LeaseChanges) {
        if changes.waits_begun {
            self.recovery_wanted.notify_one();
        }
        // Which files a life had is not asked: it may be a hundred thousand, and few wait.
        if changes.life_over || changes.are_more {
            self.by_file.lock().values().for_each(|(_, queue)| queue.freed.notify_waiters());
        } else if !changes.files.is_empty() {
            let by_file = self.by_file.lock();
            changes.files.iter().filter_map(|id| by_file.get(id)).for_each(|(_, queue)| queue.freed.notify_waiters());
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut by_file = self.watch.by_file.lock();
        let Some((count, _)) = by_file.get_mut(&self.id) else { return };
        *count -= 1;
        if *count == 0 {
            by_file.remove(&self.id);
        }
    }
}
