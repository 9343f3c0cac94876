//! What upkeep looks in on: the open writers of a client, whether somebody drives them or not.

use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

/// Something that has chores while nobody drives it.
pub(crate) trait Tended: Send + Sync {
    /// Whether it can still have any: once it cannot, it never will.
    fn is_open(&self) -> bool;

    /// Does what is due, in a task of its own: a DataNode that hangs holds up only its writer.
    fn tend(self: Arc<Self>, now: Instant);
}

/// All of them, weakly.
#[derive(Default)]
pub(crate) struct TendedList {
    /// Held for a walk over the list; nothing is waited for under it.
    all: Mutex<Vec<Weak<dyn Tended>>>,
}

impl TendedList {
    pub(crate) fn add<T: Tended + 'static>(&self, tended: &Arc<T>) {
        let tended: Weak<T> = Arc::downgrade(tended);
        self.all.lock().push(tended);
    }

    /// Has each of them do what is due, and forgets those that are not open any more.
    pub(crate) fn look_after(&self, now: Instant) {
        let mut open = Vec::new();
        self.all.lock().retain(|tended| {
            let Some(tended) = tended.upgrade().filter(|tended| tended.is_open()) else { return false };
            open.push(tended);
            true
        });
        for tended in open {
            tended.tend(now);
        }
    }
}
