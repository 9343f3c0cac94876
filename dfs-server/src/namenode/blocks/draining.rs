//! Volumes that are dead, failed or gone: what they are recorded to hold is forgotten bit by bit, since there may be millions of
//! replicas.

use dfs_common::ids::BlockId;

use super::state::SoftState;
use crate::namenode::datanodes::{Discarded, StorageIndex};

impl SoftState {
    /// The node is dead or gone: its volumes are emptied bit by bit.
    pub(crate) fn start_draining(&mut self, storage: StorageIndex) {
        let target = self.nodes.storage_mut(storage);
        let (discarded, blocks) = (target.forget_doomed(), target.blocks.len());
        target.is_content_stale = true;
        self.discarded.push(discarded);
        if !std::mem::replace(&mut target.is_draining, true) {
            self.draining.push_back(storage);
            self.to_drain += blocks;
        }
    }

    pub(crate) fn take_discarded(&mut self) -> Vec<Discarded> {
        std::mem::take(&mut self.discarded)
    }

    /// Forgets up to `limit` replicas of unusable volumes; false when there is nothing (more) to do.
    pub(crate) fn drain_some(&mut self, limit: usize) -> bool {
        let Some(&storage) = self.draining.front() else { return false };
        let ids: Vec<u64> = if self.nodes.is_usable(storage) {
            // It came back meanwhile; its full report tells what it holds.
            Vec::new()
        } else {
            self.nodes.storage(storage).blocks.iter().take(limit).collect()
        };
        self.to_drain = self.to_drain.saturating_sub(ids.len() as u64);
        if ids.is_empty() {
            self.draining.pop_front();
            self.nodes.storage_mut(storage).is_draining = false;
        }
        for id in ids {
            self.forget_replica(BlockId(id), storage);
        }
        if self.draining.is_empty() {
            self.to_drain = 0;
        }
        !self.draining.is_empty()
    }
}
