//! Those who wait until a file is free, one queue for each file. What they wait for, and for how long, is in `handover`.

use std::collections::HashMap;
use std::sync::Arc;

use dfs_common::ids::InodeId;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Those who wait for files. Bounded by the calls that connections may have under way.
#[derive(Default)]
pub(super) struct Queues {
    /// With how many wait. Never held while anything else is done.
    pub(super) by_file: Mutex<HashMap<InodeId, (usize, Arc<Queue>)>>,
}

#[derive(Default)]
pub(super) struct Queue {
    /// The file was given back, or recovered.
    pub(super) freed: Notify,
}

/// One who waits for a file.
pub(super) struct Waiter<'a> {
    queues: &'a Queues,
    pub(super) id: InodeId,
    pub(super) queue: Arc<Queue>,
}

impl Queues {
    pub(super) fn join(&self, id: InodeId) -> Waiter<'_> {
        let mut by_file = self.by_file.lock();
        let (count, queue) = by_file.entry(id).or_default();
        *count += 1;
        Waiter { queues: self, id, queue: Arc::clone(queue) }
    }

    /// The file may be free now.
    pub(super) fn freed(&self, id: InodeId) {
        if let Some((_, queue)) = self.by_file.lock().get(&id) {
            queue.freed.notify_waiters();
        }
    }

    /// Some session has given back what it had, or is over: its files may be free now.
    pub(super) fn some_freed(&self) {
        self.by_file.lock().values().for_each(|(_, queue)| queue.freed.notify_waiters());
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut by_file = self.queues.by_file.lock();
        let Some((count, _)) = by_file.get_mut(&self.id) else { return };
        *count -= 1;
        if *count == 0 {
            by_file.remove(&self.id);
        }
    }
}
