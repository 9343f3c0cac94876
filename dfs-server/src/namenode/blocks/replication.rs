//! Repair: which blocks need copies, and in what order they are made.
//!
//! Blocks that need work stand in queues by how near they are to being lost. Each tick takes a bounded number of them,
//! chooses a source and targets, and hands the order to the source's next heartbeat. The block is then *pending* until the
//! targets report, the source says that it failed, or a minute has passed.
//!
//! For what fsync promised it does not matter which of the good replicas a copy is made from. The target checks every byte
//! against the checksums, and has data, checksums and directory on its disk before it reports the copy, which counts only
//! then. So no copy is less durable than its source. If the source has lost bytes, or never had them on disk, the copy fails,
//! the NameNode is told, and it is made from another replica.
//!
//! Everything here waits for `may_repair`, except the queues themselves, which are kept once the start-up part of safe mode
//! is over.

use dfs_common::block::Block;
use dfs_common::ids::BlockId;
use dfs_proto::v1;
use rand::seq::IndexedRandom;
use smallvec::SmallVec;

use super::block_map::{BlockState, StorageList};
use super::pending::{Maker, Pending};
use super::placement::{Placement, Purpose};
use super::redundancy::Redundancy;
use super::repair_queues::Priority;
use super::state::SoftState;
use crate::namenode::datanodes::{NodeIndex, StorageIndex};
use crate::namenode::host_rules::Duty;

/// Cost of one stream that copies a large block. Small blocks cost less, so that a node full of them is repaired at the
/// speed of its disks and not at two blocks per second.
pub(crate) const STREAM_COST: u32 = 32;

/// Bytes up to which a block costs one unit.
const SMALL_BLOCK: u64 = 1 << 20;

/// Blocks looked at per tick; the rest comes with the next tick.
const EXAMINED_PER_TICK: usize = 4096;

/// What came of a try to repair a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Copies are on their way.
    Ordered { cost: u32 },
    /// It is being copied, needs nothing, or its sources are busy.
    NotNow,
    /// No node can take a copy.
    NoTarget,
}

/// What copying a block of this length costs its source.
fn stream_cost(length: u64) -> u32 {
    let units = length.div_ceil(SMALL_BLOCK).max(1);
    u32::try_from(units).unwrap_or(u32::MAX).min(STREAM_COST)
}

impl SoftState {
    /// Puts a block into the queue that is right for it now.
    pub(crate) fn recheck(&mut self, id: BlockId) {
        if !self.safe_mode.has_started_up() {
            return;
        }
        let Some(&info) = self.map.get(id) else { return };
        if info.state() != BlockState::Complete {
            return;
        }
        let replicas = self.map.replicas(id);
        let wanted = usize::from(info.replication);
        let pending = self.pending.get(&id).map_or(0, |pending| pending.targets.len());
        let counts = self.redundancy(&replicas, pending);
        let priority = counts.choose_priority(wanted, self.is_well_placed(&replicas));
        let is_being_copied = pending > 0
            && self.pending.get(&id).is_some_and(|pending| pending.source().is_some())
            && Redundancy { pending: 0, ..counts }.missing(wanted) > 0;
        self.set_queue(id, priority.or(is_being_copied.then_some(Priority::BeingCopied)));
        let serving = self.serving_replicas(&replicas);
        if serving.len() > wanted || serving.len() > counts.serving {
            self.excess.insert(id);
        } else if !self.excess.is_empty() {
            self.excess.remove(&id);
        }
    }

    /// Moves a block between the queues.
    pub(crate) fn set_queue(&mut self, id: BlockId, priority: Option<Priority>) {
        let Some(info) = self.map.get_mut(id) else { return };
        let (before, after) = (info.queue(), priority.map(|priority| priority as usize));
        if before == after {
            return;
        }
        info.set_queue(after);
        self.queues.change(id, before, after);
    }

    /// Whether the replicas stand on two racks at least, if the cluster has two. Those on nodes that leave do not count.
    pub(crate) fn is_well_placed(&self, replicas: &StorageList) -> bool {
        let stays = |storage| self.nodes.node_of(storage).duty != Duty::Decommission;
        let staying: StorageList = replicas.iter().copied().filter(|&storage| stays(storage)).collect();
        let Some((&first, others)) = staying.split_first() else { return true };
        if others.is_empty() || self.nodes.serving_rack_count() < 2 {
            return true;
        }
        let rack = self.nodes.rack_of(first);
        others.iter().any(|&storage| self.nodes.rack_of(storage) != rack)
    }

    /// The blocks that this tick looks at, and what it may spend on them.
    pub(crate) fn plan_repairs(&mut self) -> (Vec<(BlockId, Priority)>, u32) {
        let live = u32::try_from(self.nodes.topology().live().len()).unwrap_or(u32::MAX);
        let budget = live.saturating_mul(self.config.work_multiplier).saturating_mul(STREAM_COST);
        (self.queues.next(EXAMINED_PER_TICK), budget)
    }

    /// Orders the copies that a block lacks, if it can be helped now.
    pub(crate) fn repair(&mut self, id: BlockId, priority: Priority) -> Repair {
        let Some(&info) = self.map.get(id) else { return Repair::NotNow };
        if info.queue() != Some(priority as usize) {
            return Repair::NotNow;
        }
        if self.moves.contains_key(&id) {
            // The balancer's copy waits its turn; this one must not wait for it.
            self.give_up(id);
        }
        if self.map.get(id).is_none_or(|info| info.queue() != Some(priority as usize)) || self.pending.contains_key(&id)
        {
            return Repair::NotNow;
        }
        let replicas = self.usable_replicas(id);
        let cost = stream_cost(info.length);
        let is_urgent = priority == Priority::OneLeft;
        let streams = if is_urgent { self.config.max_streams_urgent } else { self.config.max_streams };
        let Some(source) = self.choose_source(&replicas, cost, streams.saturating_mul(STREAM_COST)) else {
            return Repair::NotNow;
        };
        // Of a node in maintenance that is away, replicas count; of one that has just died, they do not.
        let is_away = |storage: &StorageIndex| matches!(self.nodes.node_of(*storage).duty, Duty::Maintain { .. });
        let mut counted = replicas.clone();
        counted.extend(self.map.replicas(id).into_iter().filter(|at| !replicas.contains(at) && is_away(at)));
        let missing = if priority == Priority::Misplaced {
            1
        } else {
            self.redundancy(&counted, 0).missing(usize::from(info.replication))
        };
        if missing == 0 {
            self.recheck(id);
            return Repair::NotNow;
        }
        let targets = self.choose_copies(id, info.length, &counted, missing, priority);
        if targets.is_empty() {
            self.make_room(id);
            return Repair::NoTarget;
        }
        let block = Block { id, generation_stamp: info.generation_stamp, length: info.length };
        self.order_transfer(block, source, cost, &targets);
        let maker = Maker::Node { index: source, cost };
        let pending = Pending { targets, maker, since: self.heard };
        self.pending.insert(id, Box::new(pending));
        self.recheck(id);
        Repair::Ordered { cost }
    }

    fn choose_source(&mut self, replicas: &StorageList, cost: u32, limit: u32) -> Option<NodeIndex> {
        let (now, stale_after) = (self.heard, self.config.stale_after);
        let mut able: SmallVec<[NodeIndex; 4]> = replicas
            .iter()
            .map(|&storage| self.nodes.storage(storage).node)
            .filter(|&index| {
                let node = self.nodes.node(index);
                node.silent_for(now) < stale_after && node.outgoing_cost + cost <= limit
            })
            .collect();
        // A node that leaves takes no writes, so it has the most to spare.
        if able.iter().any(|&index| self.nodes.node(index).duty == Duty::Decommission) {
            able.retain(|index| self.nodes.node(*index).duty == Duty::Decommission);
        }
        able.choose(&mut self.random).copied()
    }

    /// Storages for more copies: never on a node that has anything of the block, not even what is to be deleted.
    fn choose_copies(
        &mut self,
        id: BlockId,
        length: u64,
        replicas: &StorageList,
        missing: usize,
        priority: Priority,
    ) -> SmallVec<[StorageIndex; 3]> {
        let chosen: SmallVec<[NodeIndex; 4]> =
            replicas.iter().map(|&storage| self.nodes.storage(storage).node).collect();
        let bad = self.bad.get(&id).into_iter().flatten().map(|bad| bad.storage);
        let excluded: SmallVec<[NodeIndex; 4]> = bad.map(|storage| self.nodes.storage(storage).node).collect();
        let placement = Placement {
            nodes: &self.nodes,
            now: self.heard,
            stale_after: self.config.stale_after,
            block_size: length,
            wanted: missing,
            writer: &[],
            chosen: &chosen,
            excluded: &excluded,
            purpose: if priority == Priority::Misplaced { Purpose::AnotherRack(id) } else { Purpose::Copy(id) },
        };
        placement.choose(&mut self.random).into_iter().collect()
    }

    fn order_transfer(&mut self, block: Block, source: NodeIndex, cost: u32, targets: &[StorageIndex]) {
        let order = self.transfer_order(block, targets);
        let node = self.nodes.node_mut(source);
        node.outgoing_cost += cost;
        node.transfers.push_back(order);
    }

    /// Has a replica copied for the balancer, behind everything that repair needs and at its own pace.
    pub(crate) fn order_balancing(&mut self, block: Block, source: NodeIndex, target: StorageIndex, bandwidth: u64) {
        let order = self.transfer_order(block, &[target]);
        let order = v1::TransferOrder { is_balancing: true, bandwidth, ..order };
        self.nodes.node_mut(source).transfers.push_back(order);
    }

    fn transfer_order(&mut self, block: Block, targets: &[StorageIndex]) -> v1::TransferOrder {
        for &target in targets {
            self.reserve_unit(target);
        }
        v1::TransferOrder {
            block: Some(block.into()),
            targets: targets.iter().map(|&target| self.nodes.node_of(target).id.clone()).collect(),
            target_storage_uuids: targets.iter().map(|&target| self.nodes.storage(target).uuid.clone()).collect(),
            ..v1::TransferOrder::default()
        }
    }

    /// No node can take another copy. If that is because the only ones left hold bad replicas, one of those is given up:
    /// a small cluster could never be repaired otherwise. One at a time, and only beside a good replica.
    fn make_room(&mut self, id: BlockId) {
        if self.fresh_replicas(id) == 0 {
            return;
        }
        let Some(bad) = self.bad.get(&id) else { return };
        let Some(&bad) = bad.iter().find(|bad| self.nodes.is_usable(bad.storage)) else { return };
        self.drop_bad(id, bad.storage);
        self.doom(id, bad.storage, bad.generation_stamp);
    }

    /// Goes on with the walk over all blocks that fills the queues; false when it is over.
    pub(crate) fn scan_some(&mut self, limit: usize) -> bool {
        let Some(first) = self.scan else { return false };
        let ids = self.map.ids_from(first, limit);
        self.scan = ids.last().filter(|_| ids.len() == limit).map(|id| id.next());
        for id in ids {
            self.recheck(id);
        }
        self.scan.is_some()
    }
}
