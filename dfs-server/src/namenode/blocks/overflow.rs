//! What follows when a bound of what is kept for replicas is reached (`limits`): nothing is lost, it is asked for again.
//!
//! Everything that is known of replicas, their DataNodes know as well. So what finds no room here is left out, and once there
//! is room the DataNode is ordered to report in full: the report brings it back. It is not asked before there is room for
//! half of what may be kept, or reports would follow each other for as long as the list is full.

use super::limits::{Left, Limits};
use super::state::SoftState;
use crate::namenode::datanodes::StorageIndex;

/// Volumes asked per tick; the rest comes with the next ones.
const ASKED_PER_TICK: usize = 1_000;

impl SoftState {
    /// Something about a replica on this volume was left out for want of room.
    pub(crate) fn on_overflow(&mut self, storage: StorageIndex, left: Left) {
        let volumes = match left {
            Left::Deletion => &mut self.overflowed.deletions,
            Left::SetAside => &mut self.overflowed.set_aside,
        };
        if volumes.insert(storage) {
            let node = self.nodes.node_of(storage);
            tracing::warn!(
                datanode = node.address(),
                volume = self.nodes.storage(storage).path,
                ?left,
                "more replicas to be deleted or not explained than are kept in mind; the DataNode is asked again later"
            );
        }
    }

    /// Asks DataNodes of which something was left out, where there is room now.
    pub(crate) fn ask_who_overflowed(&mut self) {
        let Limits { deletions, set_aside, set_aside_per_volume } = self.limits;
        let may_delete = |&storage: &StorageIndex| self.nodes.storage(storage).unconfirmed_deletions() <= deletions / 2;
        let may_keep = |&storage: &StorageIndex| {
            self.set_aside.len() <= set_aside / 2 && self.nodes.storage(storage).set_aside <= set_aside_per_volume / 2
        };
        let overflowed = &self.overflowed;
        let for_deletions = overflowed.deletions.iter().copied().filter(may_delete);
        let for_replicas = overflowed.set_aside.iter().copied().filter(may_keep);
        let asked: Vec<StorageIndex> = for_deletions.chain(for_replicas).take(ASKED_PER_TICK).collect();
        for storage in asked {
            // One report tells of both. What finds no room again comes back into its list.
            self.overflowed.deletions.remove(&storage);
            self.overflowed.set_aside.remove(&storage);
            let node = self.nodes.storage(storage).node;
            self.nodes.node_mut(node).reports.request_full();
        }
    }
}
