//! What the durable namespace tells the block manager, in the order in which its ops are applied.

use dfs_common::block::Block;
use dfs_common::ids::{BlockId, InodeId};
use dfs_proto::v1::ReplicaState;
use smallvec::SmallVec;

use super::backlog::Late;
use super::block_map::{BlockInfo, BlockState};
use super::disposition::ReportedReplica;
use super::state::{BadList, OpenBlock, SoftState};
use crate::namenode::datanodes::StorageIndex;
use crate::namenode::namespace::inode::BlockList;

/// A change of a block in the durable namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockEvent {
    /// A block was allocated (under construction).
    Allocated {
        /// Its name; the length is zero.
        block: Block,
        /// The file.
        inode: InodeId,
        /// Replicas that the file asks for.
        replication: u16,
        /// The pipeline: uuid of DataNode and of storage.
        targets: Vec<(String, String)>,
    },
    /// The writer said: this is its final length, and the pipeline acknowledged it. The replicas arrive by reports.
    Committed {
        /// Its name with the final length.
        block: Block,
    },
    /// Reopened for append, or a pipeline was rebuilt under a new generation stamp.
    Reopened {
        /// Its name with the new generation stamp.
        block: Block,
        /// The pipeline; empty: as before.
        targets: Vec<(String, String)>,
    },
    /// An fsync logged the length of an open block.
    LengthRecorded {
        /// Its name with that length.
        block: Block,
    },
    /// The file asks for another number of replicas.
    ReplicationChanged {
        /// The block.
        id: BlockId,
        /// Replicas from now on.
        replication: u16,
    },
    /// No file has it any more: its replicas are to be deleted.
    Removed {
        /// The block.
        id: BlockId,
    },
    /// So many blocks of one file are removed at once that they are taken in step by step.
    ListRemoved {
        /// The blocks.
        blocks: BlockList,
    },
    /// As `ReplicationChanged`, of so many blocks of one file that they are taken in step by step.
    ListReplicationChanged {
        /// The blocks.
        ids: Vec<BlockId>,
        /// Replicas from now on.
        replication: u16,
    },
    /// It stands in the image that the NameNode starts from.
    Loaded {
        /// Its name.
        block: Block,
        /// The file.
        inode: InodeId,
        /// Replicas that the file asks for.
        replication: u16,
        /// Its file was being written and this is the open block.
        under_construction: bool,
    },
}

impl SoftState {
    /// Takes in one event.
    pub(crate) fn on_event(&mut self, event: BlockEvent) {
        match event {
            BlockEvent::Allocated { block, inode, replication, targets } => {
                self.on_new_block(block, inode, replication, BlockState::UnderConstruction);
                self.set_targets(block.id, &targets);
            }
            BlockEvent::Loaded { block, inode, replication, under_construction } => {
                let state = if under_construction { BlockState::UnderConstruction } else { BlockState::Complete };
                self.on_new_block(block, inode, replication, state);
            }
            BlockEvent::Committed { block } => self.on_committed(block),
            BlockEvent::Reopened { block, targets } => self.on_reopened(block, &targets),
            BlockEvent::LengthRecorded { block } => {
                let info = self.map.get_mut(block.id);
                if let Some(info) = info.filter(|info| info.state() == BlockState::UnderConstruction) {
                    info.length = block.length;
                }
            }
            BlockEvent::ReplicationChanged { id, replication } if self.backlog.is_in_order() => {
                self.on_replication_changed(id, replication);
            }
            BlockEvent::ReplicationChanged { id, replication } => {
                self.backlog.replication_changed(vec![id], replication)
            }
            BlockEvent::ListReplicationChanged { ids, replication } => {
                self.backlog.replication_changed(ids, replication);
            }
            BlockEvent::Removed { id } => self.on_removed(id),
            BlockEvent::ListRemoved { blocks } => self.backlog.removed(blocks),
        }
    }

    fn on_replication_changed(&mut self, id: BlockId, replication: u16) {
        if let Some(info) = self.map.get_mut(id) {
            info.replication = replication;
            self.recheck(id);
        }
    }

    /// Takes in some of what was put off; false when nothing is left.
    pub(crate) fn catch_up(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            match self.backlog.next() {
                Some(Late::Removed(id)) => self.on_removed(id),
                Some(Late::ReplicationChanged(id, replication)) => self.on_replication_changed(id, replication),
                None => return false,
            }
        }
        true
    }

    fn on_new_block(&mut self, block: Block, inode: InodeId, replication: u16, state: BlockState) {
        let id = block.id;
        self.allocated_limit = self.allocated_limit.max(id.next());
        if self.map.get(id).is_some() {
            tracing::error!(block = %id, "a block was allocated twice; the newer one counts");
            self.on_removed(id);
        }
        self.change(id, |map| map.insert(id, BlockInfo::new(block, inode, replication, state)));
        if state == BlockState::UnderConstruction {
            self.open.insert(id, Box::default());
        }
        self.judge_set_aside(id);
        if state == BlockState::Complete {
            self.recheck(id);
        }
    }

    fn judge_set_aside(&mut self, id: BlockId) {
        for (storage, reported) in self.take_set_aside(id) {
            self.nodes.storage_mut(storage).blocks.remove(id.0);
            if self.map.has_replica(id, storage) {
                self.nodes.storage_mut(storage).blocks.insert(id.0);
            }
            self.take_replica(id, storage, reported);
        }
    }

    /// Puts the pipeline of an open block in place of the one before.
    fn set_targets(&mut self, id: BlockId, targets: &[(String, String)]) {
        let now = (self.now, self.heard);
        let resolved: SmallVec<[StorageIndex; 3]> =
            targets.iter().filter_map(|(node, storage)| self.nodes.intern(node, storage, now)).collect();
        self.put_targets(id, resolved);
    }

    fn put_targets(&mut self, id: BlockId, targets: SmallVec<[StorageIndex; 3]>) {
        for &storage in &targets {
            self.reserve_unit(storage);
        }
        let Some(open) = self.open.get_mut(&id) else { return };
        open.since = self.heard;
        for storage in std::mem::replace(&mut open.targets, targets) {
            self.release_unit(storage);
        }
    }

    fn on_committed(&mut self, block: Block) {
        let id = block.id;
        let Some(info) = self.map.get_mut(id) else {
            tracing::error!(%block, "a block was committed that is not known");
            return;
        };
        if info.state() != BlockState::UnderConstruction {
            if info.generation_stamp == block.generation_stamp {
                info.length = block.length;
                self.recheck(id);
                return;
            }
            self.on_reopened(block, &[]);
        }
        let Some(info) = self.map.get_mut(id) else { return };
        info.generation_stamp = block.generation_stamp;
        info.length = block.length;
        info.set_state(BlockState::Committed);
        let reported = self.open.get_mut(&id).map(|open| std::mem::take(&mut open.reported));
        for (storage, replica) in reported.into_iter().flatten() {
            self.nodes.storage_mut(storage).blocks.remove(id.0);
            self.take_replica(id, storage, replica);
        }
        self.judge_set_aside(id);
        self.forget_vain_targets(id);
        // The replay of a log, or a follower: the leader of the time answers for the replicas, reports tell here later.
        if self.is_committed(id) && !self.is_active {
            self.complete(id);
        }
    }

    /// Of a committed block, only members of its pipeline that live and have not told yet can still report. Without any, the block is
    /// as complete as it gets: it has the good replicas that were reported, and is missing if there are none.
    pub(super) fn forget_vain_targets(&mut self, id: BlockId) {
        let Some(open) = self.open.get(&id) else { return };
        if self.awaited(id, &open.targets).is_empty() {
            self.complete(id);
            return;
        }
        let Some(open) = self.open.get_mut(&id) else { return };
        let (live, dead): (SmallVec<_>, SmallVec<[_; 3]>) =
            std::mem::take(&mut open.targets).into_iter().partition(|&target| self.nodes.is_usable(target));
        open.targets = live;
        for storage in dead {
            self.release_unit(storage);
        }
    }

    /// Nodes have died: looks again at who can still report some of the committed blocks, from a block on; gives where to go
    /// on.
    pub(crate) fn forget_dead_writers_some(&mut self, from: BlockId, limit: usize) -> Option<BlockId> {
        let ids: SmallVec<[BlockId; 64]> = self.open.range(from..).take(limit).map(|(&id, _)| id).collect();
        for &id in &ids {
            if self.is_committed(id) {
                self.forget_vain_targets(id);
            }
        }
        ids.last().filter(|_| ids.len() == limit).map(|id| id.next())
    }

    fn on_reopened(&mut self, block: Block, targets: &[(String, String)]) {
        let id = block.id;
        let Some(&info) = self.map.get(id) else {
            tracing::error!(%block, "a block was reopened that is not known");
            return;
        };
        if info.state() != BlockState::UnderConstruction {
            self.begin_construction(id, &info);
        }
        if let Some(info) = self.map.get_mut(id) {
            info.generation_stamp = block.generation_stamp;
            info.length = block.length;
        }
        if !targets.is_empty() {
            self.set_targets(id, targets);
            self.renew_members(block);
        }
        self.judge_set_aside(id);
    }

    /// Members of a new pipeline have the new generation: what was reported, and decided, of an older one there is not true any
    /// more. Judged by it they would count as stale until their next report: a block reopened before that would go on without
    /// them, and their new replicas would be deleted as the old ones were to be.
    fn renew_members(&mut self, Block { id, generation_stamp, .. }: Block) {
        let targets = self.open.get(&id).map(|open| open.targets.clone()).unwrap_or_default();
        for storage in targets {
            if let Some(open) = self.open.get_mut(&id) {
                let is_outdated = |replica: &ReportedReplica| replica.generation_stamp < generation_stamp;
                open.reported.retain(|(other, replica)| *other != storage || !is_outdated(replica));
            }
            let bad = self.bad.get(&id).into_iter().flatten();
            if bad.clone().any(|bad| bad.storage == storage && bad.generation_stamp < generation_stamp) {
                self.drop_bad(id, storage);
            }
            self.unlist(id, storage);
            let volume = self.nodes.storage_mut(storage);
            if volume.doomed.contains(id.0) {
                volume.on_deleted(id);
            }
        }
    }

    /// A block with a final length gets a writer again: what its replicas are worth is open until it is committed.
    fn begin_construction(&mut self, id: BlockId, info: &BlockInfo) {
        let replicas = self.map.replicas(id);
        // Nodes that acknowledged the block and have not reported it yet have it as well.
        let awaited = self.pending.get(&id).map_or(&[][..], |pending| pending.members());
        let mut holders: SmallVec<[StorageIndex; 3]> = replicas.iter().copied().collect();
        holders.extend_from_slice(awaited);
        self.drop_pending(id);
        self.moves.remove(&id);
        self.set_queue(id, None);
        self.excess.remove(&id);
        self.change(id, |map| {
            for &storage in &replicas {
                map.remove_replica(id, storage);
            }
            if let Some(info) = map.get_mut(id) {
                info.set_state(BlockState::UnderConstruction);
            }
        });
        let known = ReportedReplica {
            state: ReplicaState::Finalized,
            generation_stamp: info.generation_stamp,
            length: info.length,
            is_corrupt: false,
        };
        let mut open = self.open.remove(&id).unwrap_or_else(|| Box::new(OpenBlock::default()));
        open.reported.extend(replicas.iter().map(|&storage| (storage, known)));
        let is_without_pipeline = open.targets.is_empty();
        self.open.insert(id, open);
        if is_without_pipeline {
            self.put_targets(id, holders);
        }
    }

    fn on_removed(&mut self, id: BlockId) {
        let Some(info) = self.map.get(id).copied() else { return };
        self.drop_pending(id);
        self.moves.remove(&id);
        self.set_queue(id, None);
        self.excess.remove(&id);
        let set_aside = self.take_set_aside(id);
        let replicas = self.change(id, |map| map.remove(id)).map(|(_, replicas)| replicas).unwrap_or_default();
        for storage in replicas {
            self.doom(id, storage, info.generation_stamp);
        }
        if let Some(open) = self.open.remove(&id) {
            for storage in open.targets {
                self.release_unit(storage);
            }
            for (storage, replica) in open.reported {
                self.doom(id, storage, replica.generation_stamp);
            }
        }
        let bad = if self.bad.contains_key(&id) { self.change_bad(id, std::mem::take) } else { BadList::new() };
        for bad in bad {
            self.doom(id, bad.storage, bad.generation_stamp);
        }
        // After the good replicas: where both are recorded, the newer generation is what lies on the volume.
        for (storage, replica) in set_aside {
            self.doom(id, storage, replica.generation_stamp);
        }
    }
}
