//! The elementary steps by which a replica goes from one of its places to another: see [`state`](super::state) for the places.

use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::v1::ReplicaState;
use smallvec::SmallVec;

use super::block_map::{BlockState, StorageList};
use super::disposition::{BadReason, Disposition, ReportedReplica, choose_disposition};
use super::limits::Left;
use super::pending::{Maker, Pending};
use super::state::{BadList, BadReplica, OpenBlock, SoftState};
use crate::namenode::datanodes::{Invalidation, NodeIndex, StorageIndex};
use crate::namenode::listening::ListeningTime;
use crate::namenode::namespace::lost_ids::{is_lost_block, is_lost_stamp};

impl SoftState {
    /// Takes in one reported replica.
    pub(crate) fn take_replica(&mut self, id: BlockId, storage: StorageIndex, reported: ReportedReplica) {
        if !self.nodes.is_usable(storage) || self.is_known_doomed(id, storage, &reported) {
            return;
        }
        if self.is_known_bad(id, storage, &reported) || self.is_late(id, storage, &reported) {
            return;
        }
        self.forget_superseded(id, storage);
        let was_allocated = id < self.allocated_limit && !is_lost_block(&self.lost, id);
        match choose_disposition(&reported, self.map.get(id), was_allocated) {
            Disposition::Accept => self.accept(id, storage),
            Disposition::RecordOpen => self.record_open(id, storage, reported),
            Disposition::MarkBad(reason) => {
                let ReportedReplica { generation_stamp, length, .. } = reported;
                self.mark_bad(id, BadReplica { storage, reason, generation_stamp, length });
            }
            Disposition::Invalidate => self.doom(id, storage, reported.generation_stamp),
            Disposition::SetAside => self.put_aside(id, storage, reported),
            Disposition::Ignore => {}
        }
    }

    /// A replica that is to be deleted stays so, unless a writer has taken it up again since: the block is open, or the
    /// replica is of a generation that the log has not explained yet.
    fn is_known_doomed(&mut self, id: BlockId, storage: StorageIndex, reported: &ReportedReplica) -> bool {
        if !self.nodes.storage(storage).doomed.contains(id.0) {
            return false;
        }
        let disposition = choose_disposition(reported, self.map.get(id), true);
        let is_revived = matches!(disposition, Disposition::RecordOpen | Disposition::SetAside);
        let target = self.nodes.storage_mut(storage);
        if is_revived {
            target.on_deleted(id);
        } else {
            let is_good = disposition == Disposition::Accept;
            target.on_doomed_reported(id, reported.generation_stamp, is_good, self.limits.deletions);
        }
        !is_revived
    }

    /// A member of the block's pipeline says what it had before that stood: it has acknowledged a newer generation since, and a
    /// report of that follows. Who has registered again since then tells what it has now.
    fn is_late(&self, id: BlockId, storage: StorageIndex, reported: &ReportedReplica) -> bool {
        if self.map.get(id).is_none_or(|info| reported.generation_stamp >= info.generation_stamp) {
            return false;
        }
        let node = self.nodes.storage(storage).node;
        let is_member = |members: &[StorageIndex], since: ListeningTime| {
            self.nodes.node(node).registered_at <= since
                && members.iter().any(|&member| self.nodes.storage(member).node == node)
        };
        let is_awaited = self.pending.get(&id).is_some_and(|pending| match pending.maker {
            Maker::Pipeline { since } => is_member(&pending.targets, since),
            Maker::Node { .. } => false,
        });
        is_awaited || self.open.get(&id).is_some_and(|open| is_member(&open.targets, open.since))
    }

    /// The replica stands among the bad ones, and this report says nothing else of it.
    fn is_known_bad(&self, id: BlockId, storage: StorageIndex, reported: &ReportedReplica) -> bool {
        if self.bad.is_empty() {
            return false;
        }
        let Some(bad) = self.bad.get(&id).and_then(|bad| bad.iter().find(|bad| bad.storage == storage)) else {
            return false;
        };
        bad.generation_stamp == reported.generation_stamp
            && (bad.length == reported.length || bad.reason == BadReason::Corrupt)
            && (reported.state != ReplicaState::Finalized || bad.reason != BadReason::NotFinalized)
    }

    /// What was recorded of the replica beside the block map gives way to a report that says otherwise.
    fn forget_superseded(&mut self, id: BlockId, storage: StorageIndex) {
        if self.bad.is_empty() && self.set_aside.is_empty() {
            return;
        }
        self.drop_bad(id, storage);
        self.drop_set_aside(id, storage);
        self.unlist(id, storage);
    }

    /// Takes a block from the storage's list, unless some record of its replica there is left.
    pub(crate) fn unlist(&mut self, id: BlockId, storage: StorageIndex) {
        let is_open = |open: &OpenBlock| open.reported.iter().any(|(other, _)| *other == storage);
        let is_recorded = self.map.has_replica(id, storage)
            || self.open.get(&id).is_some_and(|open| is_open(open))
            || self.is_bad(id, storage)
            || self.set_aside.contains_key(&(id, storage));
        if !is_recorded {
            self.nodes.storage_mut(storage).blocks.remove(id.0);
        }
    }

    /// Whether the storage's replica stands among the bad ones.
    pub(super) fn is_bad(&self, id: BlockId, storage: StorageIndex) -> bool {
        self.bad.get(&id).is_some_and(|bad| bad.iter().any(|bad| bad.storage == storage))
    }

    pub(crate) fn drop_bad(&mut self, id: BlockId, storage: StorageIndex) {
        if self.bad.contains_key(&id) {
            self.change_bad(id, |list| list.retain(|bad| bad.storage != storage));
        }
    }

    /// Changes the bad replicas of a block and keeps the count right.
    pub(crate) fn change_bad<R>(&mut self, id: BlockId, step: impl FnOnce(&mut BadList) -> R) -> R {
        let is_corrupt = |list: &BadList| list.iter().any(|bad| bad.reason != BadReason::StaleGeneration);
        let list = self.bad.entry(id).or_default();
        let before = is_corrupt(list);
        let result = step(list);
        self.corrupt_blocks = self.corrupt_blocks + u64::from(is_corrupt(list)) - u64::from(before);
        if list.is_empty() {
            self.bad.remove(&id);
        }
        result
    }

    fn accept(&mut self, id: BlockId, storage: StorageIndex) {
        if !self.change(id, |map| map.add_replica(id, storage)) {
            return;
        }
        self.nodes.storage_mut(storage).blocks.insert(id.0);
        self.settle_pending(id, storage);
        if !self.is_committed(id) {
            self.recheck(id);
        } else if self.map.replica_count(id) >= self.config.replication_min {
            self.complete(id);
        } else {
            self.forget_vain_targets(id);
        }
    }

    pub(super) fn is_committed(&self, id: BlockId) -> bool {
        self.map.get(id).is_some_and(|info| info.state() == BlockState::Committed)
    }

    /// A committed block has its minimum of replicas. The rest of its pipeline will report: nothing is copied meanwhile.
    pub(crate) fn complete(&mut self, id: BlockId) {
        self.change(id, |map| {
            if let Some(info) = map.get_mut(id) {
                info.set_state(BlockState::Complete);
            }
        });
        if let Some(open) = self.open.remove(&id) {
            let awaited = self.awaited(id, &open.targets);
            for storage in open.targets {
                if !awaited.contains(&storage) {
                    self.release_unit(storage);
                }
            }
            if !awaited.is_empty() {
                let pending =
                    Pending { targets: awaited, maker: Maker::Pipeline { since: open.since }, since: self.heard };
                self.pending.insert(id, Box::new(pending));
            }
        }
        self.recheck(id);
        // One that is extended again and again is complete for moments only: the next tick would come too late.
        if self.bad.contains_key(&id) && self.may_repair() {
            self.drop_bad_replicas(id);
        }
    }

    /// Those members of a committed block's pipeline that can still report: they live, and have told neither of a good replica nor of
    /// something else.
    pub(super) fn awaited(&self, id: BlockId, targets: &[StorageIndex]) -> SmallVec<[StorageIndex; 3]> {
        let there: SmallVec<[NodeIndex; 4]> =
            self.map.replicas(id).iter().map(|&storage| self.nodes.storage(storage).node).collect();
        let is_awaited = |storage: &StorageIndex| {
            let is_there = there.contains(&self.nodes.storage(*storage).node);
            !is_there && !self.is_bad(id, *storage) && self.nodes.is_usable(*storage)
        };
        targets.iter().copied().filter(is_awaited).collect()
    }

    fn record_open(&mut self, id: BlockId, storage: StorageIndex, reported: ReportedReplica) {
        let Some(open) = self.open.get_mut(&id) else { return };
        match open.reported.iter_mut().find(|(other, _)| *other == storage) {
            Some((_, known)) => *known = reported,
            None => open.reported.push((storage, reported)),
        }
        self.nodes.storage_mut(storage).blocks.insert(id.0);
    }

    fn put_aside(&mut self, id: BlockId, storage: StorageIndex, reported: ReportedReplica) {
        let is_unknown = self.map.get(id).is_none();
        let volume = self.nodes.storage(storage);
        if self.set_aside.len() >= self.limits.set_aside || volume.set_aside >= self.limits.set_aside_per_volume {
            self.on_overflow(storage, Left::SetAside);
            return;
        }
        if !is_unknown && is_lost_stamp(&self.lost, reported.generation_stamp) {
            self.outgrown.insert(id);
        }
        if self.set_aside.insert((id, storage), reported).is_none() {
            self.nodes.storage_mut(storage).set_aside += 1;
            if is_unknown {
                let node = &self.nodes.node_of(storage).id.host;
                tracing::debug!(block = %id, datanode = node, "a replica of a block not allocated here is set aside");
            }
        }
        self.nodes.storage_mut(storage).blocks.insert(id.0);
    }

    fn drop_set_aside(&mut self, id: BlockId, storage: StorageIndex) {
        if !self.set_aside.is_empty() && self.set_aside.remove(&(id, storage)).is_some() {
            self.nodes.storage_mut(storage).set_aside -= 1;
        }
    }

    pub(crate) fn mark_bad(&mut self, id: BlockId, bad: BadReplica) {
        let storage = bad.storage;
        self.change(id, |map| map.remove_replica(id, storage));
        self.change_bad(id, |list| list.push(bad));
        self.nodes.storage_mut(storage).blocks.insert(id.0);
        self.settle_pending(id, storage);
        if bad.reason == BadReason::Corrupt {
            self.verify_other_replicas(id, bad.generation_stamp);
        }
        let (node, reason) = (self.nodes.node_of(storage), bad.reason);
        if matches!(reason, BadReason::Corrupt | BadReason::WrongLength) {
            let node = node.address();
            tracing::warn!(block = %id, datanode = node, ?reason, "a bad replica is to be replaced");
        } else {
            // A node that was away for long brings many of these.
            tracing::debug!(block = %id, datanode = node.id.uuid, ?reason, "a bad replica is to be replaced");
        }
        self.recheck(id);
        if self.is_committed(id) {
            self.forget_vain_targets(id);
        }
    }

    /// The storage has nothing of the block any more.
    pub(crate) fn forget_replica(&mut self, id: BlockId, storage: StorageIndex) {
        self.nodes.storage_mut(storage).blocks.remove(id.0);
        self.change(id, |map| map.remove_replica(id, storage));
        if let Some(open) = self.open.get_mut(&id) {
            open.reported.retain(|(other, _)| *other != storage);
        }
        self.drop_bad(id, storage);
        self.drop_set_aside(id, storage);
        self.settle_suspect(id, storage);
        self.recheck(id);
    }

    /// Decides the deletion of a replica, which has been taken from wherever it stood.
    pub(crate) fn doom(&mut self, id: BlockId, storage: StorageIndex, generation_stamp: GenerationStamp) {
        self.invalidate(id, storage, Invalidation { generation_stamp, is_good: false });
    }

    pub(crate) fn invalidate(&mut self, id: BlockId, storage: StorageIndex, invalidation: Invalidation) {
        self.settle_suspect(id, storage);
        let is_usable = self.nodes.is_usable(storage);
        let volume = self.nodes.storage_mut(storage);
        volume.blocks.remove(id.0);
        if is_usable && !volume.doom(id, invalidation, self.limits.deletions) {
            self.on_overflow(storage, Left::Deletion);
        }
    }

    /// Of a replica that is gone, or will be, nobody wants to know whether it is well.
    fn settle_suspect(&mut self, id: BlockId, storage: StorageIndex) {
        let node = self.nodes.storage(storage).node;
        self.nodes.node_mut(node).verifications.settle(id);
    }

    /// A good replica was too many when its deletion was decided and is needed now: it stays.
    pub(crate) fn reprieve(&mut self, id: BlockId, storage: StorageIndex, invalidation: Invalidation) -> bool {
        let is_needed = invalidation.is_good
            && self.map.get(id).is_some_and(|info| {
                info.state() == BlockState::Complete
                    && info.generation_stamp == invalidation.generation_stamp
                    && self.usable_replicas(id).len() < usize::from(info.replication)
            });
        if is_needed {
            self.nodes.storage_mut(storage).on_deleted(id);
            self.accept(id, storage);
        }
        is_needed
    }

    /// Everything set aside for a block, to be judged again.
    pub(crate) fn take_set_aside(&mut self, id: BlockId) -> SmallVec<[(StorageIndex, ReportedReplica); 3]> {
        if self.set_aside.is_empty() {
            return SmallVec::new();
        }
        let range = (id, StorageIndex(0))..=(id, StorageIndex(u32::MAX));
        let found: SmallVec<[_; 3]> =
            self.set_aside.range(range).map(|(&(_, storage), &replica)| (storage, replica)).collect();
        for &(storage, _) in &found {
            self.drop_set_aside(id, storage);
        }
        found
    }

    /// Good replicas on nodes that live.
    pub(crate) fn usable_replicas(&self, id: BlockId) -> StorageList {
        self.map.replicas(id).into_iter().filter(|&storage| self.nodes.is_usable(storage)).collect()
    }
}
