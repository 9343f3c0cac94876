//! Bounds of what is kept for replicas, and what follows when they are reached: nothing is lost, it is asked for again.
//!
//! Everything that is known of replicas, their DataNodes know as well. So what finds no room here is left out, and once there
//! is room the DataNode is ordered to report in full: the report brings it back. It is not asked before there is room for
//! half of what may be kept, or reports would follow each other for as long as the list is full.

use super::state::SoftState;
use crate::namenode::datanodes::StorageIndex;

/// Volumes asked per tick; the rest comes with the next ones.
const ASKED_PER_TICK: usize = 1_000;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Deletions that are decided and not confirmed, per volume. Keeps the removal of a huge tree from filling memory: about
    /// 60 bytes each.
    pub deletions: usize,
    /// Reported replicas of the future that are kept in mind, in all: a follower that lags sees many.
    pub set_aside: usize,
    /// The same for one volume, so that no DataNode takes all the room.
    pub set_aside_per_volume: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deletions: 1_000_000, set_aside: 1_000_000, set_aside_per_volume: 250_000 }
    }
}

impl SoftState {
    /// Something about a replica on this volume was left out for want of room.
    pub(crate) fn on_overflow(&mut self, storage: StorageIndex) {
        if self.overflowed.insert(storage) {
            let node = self.nodes.node_of(storage);
            tracing::warn!(
                datanode = node.address(),
                volume = self.nodes.storage(storage).path,
                "more replicas to be deleted or not explained than are kept in mind; the DataNode is asked again later"
            );
        }
    }

    /// Asks DataNodes of which something was left out, where there is room now.
    pub(crate) fn ask_who_overflowed(&mut self) {
        let Limits { deletions, set_aside, set_aside_per_volume } = self.limits;
        if self.set_aside.len() > set_aside / 2 {
            return;
        }
        let has_room = |storage: StorageIndex| {
            let volume = self.nodes.storage(storage);
            volume.unconfirmed_deletions() <= deletions / 2 && volume.set_aside <= set_aside_per_volume / 2
        };
        let asked: Vec<StorageIndex> =
            self.overflowed.iter().copied().filter(|&storage| has_room(storage)).take(ASKED_PER_TICK).collect();
        for storage in asked {
            self.overflowed.remove(&storage);
            let node = self.nodes.storage(storage).node;
            self.nodes.node_mut(node).reports.request_full();
        }
    }
}
