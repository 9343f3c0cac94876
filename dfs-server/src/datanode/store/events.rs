//! What the NameNodes must hear about replicas, in the order it happened.
//!
//! The store publishes under the lock of its replica map, so that a queue's order is the order of the changes. Each
//! NameNode link owns one queue. A queue that nobody empties (its NameNode is away) forgets its events beyond
//! [`QUEUE_MAX`] and says so: a full report then makes up for them.

use std::sync::Arc;

use dfs_common::block::Block;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Events kept for a NameNode that is away: at 100 bytes each about 10 MB; beyond it a full report is cheaper.
const QUEUE_MAX: usize = 100_000;

/// What happened to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// A writer began.
    Receiving,
    /// It is finalized.
    Received,
    /// It is gone.
    Deleted,
    /// It does not match its checksums.
    Corrupt,
    /// It was doubted, and is as it should be.
    Good,
}

/// One change of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// What happened.
    pub(crate) kind: EventKind,
    /// Pool of the block.
    pub(crate) pool: Arc<str>,
    /// The replica's id, generation stamp and length.
    pub(crate) block: Block,
    /// The volume that holds it.
    pub(crate) storage_uuid: Arc<str>,
}

#[derive(Debug, Default)]
struct Pending {
    events: Vec<Event>,
    overflowed: bool,
}

/// Events for one listener.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    pending: Mutex<Pending>,
    ready: Notify,
}

impl EventQueue {
    fn push(&self, event: Event) {
        let mut pending = self.pending.lock();
        if pending.events.len() >= QUEUE_MAX {
            pending.overflowed = true;
            pending.events.clear();
        }
        pending.events.push(event);
        drop(pending);
        self.ready.notify_one();
    }

    /// Takes all events, and whether some were forgotten. A `Receiving` that a later event of the same block overtook
    /// is left out: it would only cost the NameNode work.
    pub(crate) fn take(&self) -> (Vec<Event>, bool) {
        let mut pending = self.pending.lock();
        let overflowed = std::mem::take(&mut pending.overflowed);
        let mut events = std::mem::take(&mut pending.events);
        drop(pending);
        drop_overtaken(&mut events);
        (events, overflowed)
    }

    /// Returns when there may be events to take.
    pub(crate) async fn wait(&self) {
        self.ready.notified().await;
    }
}

fn drop_overtaken(events: &mut Vec<Event>) {
    if !events.iter().any(|event| event.kind == EventKind::Receiving) {
        return;
    }
    let mut seen = std::collections::HashSet::with_capacity(events.len());
    let mut keep: Vec<bool> =
        events.iter().rev().map(|event| seen.insert(event.block.id) || event.kind != EventKind::Receiving).collect();
    keep.reverse();
    let mut keep = keep.into_iter();
    events.retain(|_| keep.next().unwrap_or(true));
}

/// All listeners.
#[derive(Debug, Default)]
pub(crate) struct EventHub {
    queues: Mutex<Vec<Arc<EventQueue>>>,
}

impl EventHub {
    /// A new listener; it hears what is published from now on.
    pub(crate) fn subscribe(&self) -> Arc<EventQueue> {
        let queue = Arc::new(EventQueue::default());
        self.queues.lock().push(Arc::clone(&queue));
        queue
    }

    /// Has every listener told that it has missed something.
    pub(super) fn overflow(&self) {
        for queue in self.queues.lock().iter() {
            queue.pending.lock().overflowed = true;
            queue.ready.notify_one();
        }
    }

    /// Tells every listener.
    pub(super) fn publish(&self, event: Event) {
        for queue in self.queues.lock().iter() {
            queue.push(event.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_common::ids::{BlockId, GenerationStamp};

    use super::*;

    fn event(kind: EventKind, id: u64) -> Event {
        let block = Block { id: BlockId(id), generation_stamp: GenerationStamp(1), length: 0 };
        Event { kind, pool: "BP-1".into(), block, storage_uuid: "DS-1".into() }
    }

    #[test]
    fn take_leaves_out_overtaken_receiving() {
        let hub = EventHub::default();
        let queue = hub.subscribe();
        for (kind, id) in [
            (EventKind::Receiving, 1),
            (EventKind::Receiving, 2),
            (EventKind::Received, 1),
            (EventKind::Deleted, 3),
            (EventKind::Received, 3),
        ] {
            hub.publish(event(kind, id));
        }
        let (events, overflowed) = queue.take();
        let brief: Vec<_> = events.iter().map(|event| (event.kind, event.block.id.0)).collect();
        assert_eq!(
            brief,
            [(EventKind::Receiving, 2), (EventKind::Received, 1), (EventKind::Deleted, 3), (EventKind::Received, 3)]
        );
        assert!(!overflowed);
        assert!(queue.take().0.is_empty());
    }

    #[test]
    fn queue_that_nobody_empties_is_bounded_and_says_so() {
        let hub = EventHub::default();
        let queue = hub.subscribe();
        for id in 0..=QUEUE_MAX as u64 {
            hub.publish(event(EventKind::Received, id));
        }
        let (events, overflowed) = queue.take();
        assert_eq!(events.len(), 1);
        assert!(overflowed);
        assert!(!queue.take().1);
    }
}
