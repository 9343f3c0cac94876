//! One volume of a DataNode.

use std::time::{Duration, Instant};

use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::v1;
use roaring::RoaringTreemap;

use super::index::NodeIndex;
use super::ordered::OrderedDeletions;
use super::waiting::WaitingDeletions;

/// Time after which a deletion that was ordered and is not confirmed is ordered again.
const REPEAT_INVALIDATION_AFTER: Duration = Duration::from_secs(60);

/// Whether a volume can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StorageState {
    Normal,
    /// Its device failed, its node does not name it any more, or it was never reported.
    Failed,
}

/// A replica to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invalidation {
    pub generation_stamp: GenerationStamp,
    /// Nothing is wrong with it: there were too many.
    pub is_good: bool,
}

/// A volume and what it holds.
pub(crate) struct Storage {
    pub uuid: String,
    pub node: NodeIndex,
    /// Directory on its node, for people. Empty when the node has not named it since it registered.
    pub path: String,
    /// Bytes, as last reported.
    pub capacity: u64,
    pub used: u64,
    /// Bytes that blocks may still take; the node has taken off what it keeps in reserve.
    pub remaining: u64,
    pub state: StorageState,
    /// Blocks of which any record names this volume: good, bad, being written or set aside.
    pub blocks: RoaringTreemap,
    /// Replicas whose deletion was decided and not yet confirmed. They count for nothing, whatever reports say.
    pub doomed: RoaringTreemap,
    /// The part of `doomed` of which there were too many.
    excess: RoaringTreemap,
    /// The part of `doomed` to be ordered.
    invalidations: WaitingDeletions,
    /// Orders that went out.
    ordered: OrderedDeletions,
    /// Blocks being written or copied here, not yet seen in `remaining`.
    pub scheduled_blocks: u32,
    /// No full report has come since this NameNode began to lead: another leader may have ordered deletions that are
    /// not known here.
    pub is_content_stale: bool,
    /// Replicas on it that are set aside.
    pub set_aside: usize,
    /// It stands in the list of volumes whose replicas are being forgotten.
    pub is_draining: bool,
}

/// Lists of a volume that were taken out whole. Freeing a million entries takes a while: not under the lock.
pub(crate) struct Discarded {
    _sets: [RoaringTreemap; 2],
    _invalidations: WaitingDeletions,
    _ordered: OrderedDeletions,
}

impl Storage {
    pub(super) fn new(uuid: String, node: NodeIndex, state: StorageState) -> Self {
        Self {
            uuid,
            node,
            path: String::new(),
            capacity: 0,
            used: 0,
            remaining: 0,
            state,
            blocks: RoaringTreemap::new(),
            doomed: RoaringTreemap::new(),
            excess: RoaringTreemap::new(),
            invalidations: WaitingDeletions::default(),
            ordered: OrderedDeletions::default(),
            scheduled_blocks: 0,
            is_content_stale: true,
            set_aside: 0,
            is_draining: false,
        }
    }

    /// Takes in a report; gives the state before and after.
    pub(super) fn on_report(&mut self, report: &v1::StorageReport) -> (StorageState, StorageState) {
        // Heartbeats repeat it every second.
        if self.path != report.path {
            self.path.clone_from(&report.path);
        }
        self.capacity = report.capacity;
        self.used = report.used;
        self.remaining = report.remaining;
        let before = self.state;
        self.state = if report.failed { StorageState::Failed } else { StorageState::Normal };
        (before, self.state)
    }

    /// Bytes free when all that is being written here has taken a whole block.
    pub(crate) fn unscheduled(&self, block_size: u64) -> u64 {
        self.remaining.saturating_sub(u64::from(self.scheduled_blocks).saturating_mul(block_size))
    }

    /// Deletions that wait, or were ordered and may have to be ordered again. Every doomed replica is one of them.
    pub(crate) fn unconfirmed_deletions(&self) -> usize {
        self.invalidations.len() + self.ordered.len()
    }

    /// Decides the deletion of a replica; false when there is no room for it, and it was left out.
    #[must_use]
    pub(crate) fn doom(&mut self, id: BlockId, invalidation: Invalidation, limit: usize) -> bool {
        if self.unconfirmed_deletions() >= limit && !self.doomed.contains(id.0) {
            return false;
        }
        // What was decided first knows best why.
        if self.doomed.insert(id.0) && invalidation.is_good {
            self.excess.insert(id.0);
        }
        self.invalidations.insert_if_absent(id, invalidation.generation_stamp);
        true
    }

    /// A replica that was to be deleted is still there: the order has not gone out, was lost, or is being carried out. At the
    /// limit what was ordered is left to be repeated in its time.
    pub(crate) fn on_doomed_reported(
        &mut self,
        id: BlockId,
        generation_stamp: GenerationStamp,
        is_good: bool,
        limit: usize,
    ) {
        if !is_good {
            self.excess.remove(id.0);
        }
        if self.unconfirmed_deletions() < limit || self.invalidations.contains(id) {
            self.invalidations.insert(id, generation_stamp);
        }
    }

    /// A replica that is to be deleted turns out to be corrupt: it must not be kept after all.
    pub(crate) fn on_doomed_corrupt(&mut self, id: BlockId) {
        self.excess.remove(id.0);
    }

    /// The replica is gone from the volume.
    pub(crate) fn on_deleted(&mut self, id: BlockId) {
        self.doomed.remove(id.0);
        self.excess.remove(id.0);
        self.invalidations.remove(id);
        self.ordered.forget_confirmed(|id| self.doomed.contains(id.0));
    }

    /// The node died or the volume failed: what was to be deleted will be reported again if it still exists.
    pub(crate) fn forget_doomed(&mut self) -> Discarded {
        Discarded {
            _sets: [std::mem::take(&mut self.doomed), std::mem::take(&mut self.excess)],
            _invalidations: std::mem::take(&mut self.invalidations),
            _ordered: std::mem::take(&mut self.ordered),
        }
    }

    /// Deletions that wait.
    pub(crate) fn invalidation_count(&self) -> usize {
        self.invalidations.len()
    }

    /// Takes the next deletion to be ordered.
    pub(crate) fn next_invalidation(&mut self, now: Instant) -> Option<(BlockId, Invalidation)> {
        let (id, generation_stamp) = self.invalidations.pop_first()?;
        self.ordered.push(now, id, generation_stamp);
        Some((id, Invalidation { generation_stamp, is_good: self.excess.contains(id.0) }))
    }

    /// Queues again what was ordered a while ago and is not confirmed, `limit` of it at most: the order may be lost.
    pub(crate) fn repeat_invalidations(&mut self, now: Instant, limit: usize) {
        for _ in 0..limit {
            let Some((id, generation_stamp)) = self.ordered.pop_older_than(REPEAT_INVALIDATION_AFTER, now) else {
                break;
            };
            if self.doomed.contains(id.0) {
                self.invalidations.insert_if_absent(id, generation_stamp);
            }
        }
    }
}
