//! Copies that are on their way, by repair, by the balancer or by a writer's pipeline whose members have not reported yet: until
//! they come, fail or take too long.

use std::time::Duration;

use dfs_common::ids::BlockId;
use smallvec::SmallVec;

use super::pending::Pending;
use super::state::SoftState;
use crate::namenode::datanodes::{NodeIndex, StorageIndex};

/// Time after which an ordered copy counts as lost.
const PENDING_TIMEOUT: Duration = Duration::from_secs(60);

impl SoftState {
    pub(crate) fn reserve_unit(&mut self, storage: StorageIndex) {
        self.nodes.storage_mut(storage).scheduled_blocks += 1;
    }

    pub(crate) fn release_unit(&mut self, storage: StorageIndex) {
        let storage = self.nodes.storage_mut(storage);
        storage.scheduled_blocks = storage.scheduled_blocks.saturating_sub(1);
    }

    /// A replica that was awaited on this storage's node has come.
    pub(super) fn settle_pending(&mut self, id: BlockId, storage: StorageIndex) {
        if self.pending.is_empty() {
            return;
        }
        let node = self.nodes.storage(storage).node;
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let Some(at) = pending.targets.iter().position(|&target| self.nodes.storage(target).node == node) else {
            return;
        };
        let target = pending.targets.remove(at);
        let is_over = pending.targets.is_empty();
        self.release_unit(target);
        if is_over {
            self.drop_pending(id);
            if self.moves.contains_key(&id) {
                self.count_move(id);
            }
        }
    }

    /// Nothing is awaited for the block any more.
    pub(crate) fn drop_pending(&mut self, id: BlockId) {
        let Some(pending) = self.pending.remove(&id) else { return };
        let source = pending.source();
        for storage in pending.targets {
            self.release_unit(storage);
        }
        if let Some((node, cost)) = source {
            let node = self.nodes.node_mut(node);
            node.outgoing_cost = node.outgoing_cost.saturating_sub(cost);
            // An order that its source has not fetched yet must not come on top of the next one.
            node.transfers.retain(|order| order.block.as_ref().is_none_or(|block| block.id != id.0));
        }
    }

    /// Looks at some of the copies that are awaited, from a block on, and gives up those that have not come in time or cannot
    /// come: their blocks are queued again. Returns where to go on.
    pub(crate) fn expire_pending_some(&mut self, from: BlockId, limit: usize) -> Option<BlockId> {
        let mut given_up: SmallVec<[BlockId; 8]> = SmallVec::new();
        let mut rest = self.pending.range(from..);
        for (&id, pending) in rest.by_ref().take(limit) {
            let timeout = self.moves.get(&id).map_or(PENDING_TIMEOUT, |moved| moved.patience);
            let is_late = self.heard.since(pending.since) >= timeout;
            // A node that has begun anew knows nothing of what it was told to copy before.
            let source_is_gone = pending.source().is_some_and(|(node, _)| {
                let node = self.nodes.node(node);
                !node.is_live || node.registered_at > pending.since
            });
            let target_is_dead = pending.targets.iter().any(|&target| !self.nodes.is_usable(target));
            if is_late || source_is_gone || target_is_dead {
                given_up.push(id);
            }
        }
        let next = rest.next().map(|(&id, _)| id);
        given_up.into_iter().for_each(|id| self.give_up(id));
        next
    }

    /// The source could not make these copies: the block is queued again, for another source or other targets.
    pub(crate) fn give_up_copies(&mut self, id: BlockId, source: NodeIndex) {
        let is_of_source = |pending: &Pending| pending.source().is_some_and(|(node, _)| node == source);
        if self.pending.get(&id).is_some_and(|pending| is_of_source(pending)) {
            self.give_up(id);
        }
    }

    /// Awaits no copies of the block any more.
    pub(crate) fn give_up(&mut self, id: BlockId) {
        self.drop_pending(id);
        self.moves.remove(&id);
        self.recheck(id);
    }
}
