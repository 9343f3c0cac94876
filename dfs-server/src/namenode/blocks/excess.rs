//! Replicas that are too many or bad: which of them may go, and in what order.
//!
//! They go to their storage's deletions, a bounded number of blocks per tick. Nothing goes before `may_repair`.

use dfs_common::ids::BlockId;
use rand::Rng;
use smallvec::SmallVec;

use super::block_map::{BlockState, StorageList};
use super::disposition::BadReason;
use super::repair_queues::take_round;
use super::state::SoftState;
use crate::namenode::datanodes::{Invalidation, NodeIndex, RackIndex, StorageIndex};

/// Blocks looked at per tick and kind of work; the rest comes with the next tick.
const EXAMINED_PER_TICK: usize = 4096;

/// Steps in which the free share of volumes is compared: 5 %.
const FREE_STEPS: u64 = 20;

/// What is looked at when one replica of a block is chosen to be deleted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplicaPlace {
    pub storage: StorageIndex,
    pub node: NodeIndex,
    pub rack: RackIndex,
    pub is_stale: bool,
    /// Free share of its volume, in steps coarse enough that volumes of about the same fill are equals.
    pub free_steps: u64,
    /// Drawn at random, to choose among equals: else one node of a balanced cluster would lose all replicas.
    pub lot: u32,
}

/// Chooses the replica to delete of a block that has too many: a second one on the same node first, then one from a rack
/// that has several; among those one on a node that has fallen silent, else where least space is free. None when only one
/// replica is there.
pub(crate) fn choose_excess(places: &[ReplicaPlace]) -> Option<StorageIndex> {
    if places.len() < 2 {
        return None;
    }
    let count = |test: &dyn Fn(&ReplicaPlace) -> bool| places.iter().filter(|place| test(place)).count();
    let shares_node = |place: &ReplicaPlace| count(&|other| other.node == place.node) > 1;
    let shares_rack = |place: &ReplicaPlace| count(&|other| other.rack == place.rack) > 1;
    let worst = places
        .iter()
        .min_by_key(|place| (!shares_node(place), !shares_rack(place), !place.is_stale, place.free_steps, place.lot))?;
    Some(worst.storage)
}

/// Whether a bad replica may go now. `good` are replicas known to be there since this NameNode leads.
pub(crate) fn may_drop_bad(reason: BadReason, good: usize, bad: usize, wanted: usize, minimum: usize) -> bool {
    if good == 0 || good < minimum {
        return false;
    }
    good >= wanted || good + bad > wanted || reason == BadReason::StaleGeneration
}

impl SoftState {
    /// Good replicas of which a full report has told since this NameNode leads.
    pub(super) fn fresh_replicas(&self, id: BlockId) -> usize {
        let replicas = self.usable_replicas(id);
        replicas.iter().filter(|&&storage| !self.nodes.storage(storage).is_content_stale).count()
    }

    /// The next blocks with bad replicas to look at.
    pub(crate) fn plan_bad(&mut self) -> Vec<BlockId> {
        let ids: Vec<BlockId> = self.bad.range(self.cursors.bad..).map(|(&id, _)| id).take(EXAMINED_PER_TICK).collect();
        let is_end = ids.len() < EXAMINED_PER_TICK;
        self.cursors.bad = ids.last().filter(|_| !is_end).map_or(BlockId(0), |id| id.next());
        ids
    }

    /// Deletes those bad replicas of a block that may go.
    pub(crate) fn drop_bad_replicas(&mut self, id: BlockId) {
        let Some(&info) = self.map.get(id) else { return };
        if info.state() != BlockState::Complete {
            return;
        }
        let good = self.fresh_replicas(id);
        let (wanted, minimum) = (usize::from(info.replication), self.config.replication_min);
        let bad = self.bad.get(&id).cloned().unwrap_or_default();
        let mut left = bad.len();
        for replica in bad {
            // The block has been written on since: whatever was wrong with it, it is outdated.
            let is_outdated = replica.generation_stamp < info.generation_stamp;
            let reason = if is_outdated { BadReason::StaleGeneration } else { replica.reason };
            if may_drop_bad(reason, good, left, wanted, minimum) {
                self.drop_bad(id, replica.storage);
                self.doom(id, replica.storage, replica.generation_stamp);
                left -= 1;
            }
        }
    }

    /// The next blocks with too many replicas to look at.
    pub(crate) fn plan_excess(&mut self) -> Vec<BlockId> {
        let mut ids = Vec::new();
        take_round(&self.excess, &mut self.cursors.excess, EXAMINED_PER_TICK, |id| ids.push(id));
        ids
    }

    /// Deletes what a block has too much of. Waits for volumes of which no full report has come since this NameNode
    /// leads: their replicas may be gone already by an earlier leader's orders. Waits also while one of them is suspected: it
    /// might be the good one that goes.
    pub(crate) fn drop_excess(&mut self, id: BlockId) {
        let Some(&info) = self.map.get(id) else { return };
        let mut replicas = self.map.replicas(id);
        let is_uncertain = |storage| {
            let is_stale = self.nodes.storage(storage).is_content_stale;
            is_stale || !self.nodes.is_usable(storage) || self.is_suspected(id, storage)
        };
        if info.state() != BlockState::Complete || replicas.iter().any(|&storage| is_uncertain(storage)) {
            return;
        }
        // Only replicas on nodes that serve are counted: a node that leaves takes its replica with it.
        replicas = self.serving_replicas(&replicas);
        let wanted = usize::from(info.replication).max(self.config.replication_min);
        let moved = self.moves.remove(&id).map(|moved| moved.from);
        while replicas.len() > wanted || replicas.len() > self.redundancy(&replicas, 0).serving {
            let places: SmallVec<[ReplicaPlace; 4]> = replicas.iter().map(|&storage| self.place(storage)).collect();
            let chosen = moved.filter(|&from| self.may_leave(&replicas, from)).or_else(|| choose_excess(&places));
            let Some(victim) = chosen else { break };
            replicas.retain(|storage| *storage != victim);
            self.change(id, |map| map.remove_replica(id, victim));
            let generation_stamp = info.generation_stamp;
            self.invalidate(id, victim, Invalidation { generation_stamp, is_good: true });
        }
        self.recheck(id);
    }

    /// Whether the balancer may take its block from here: the others are placed no worse without it.
    fn may_leave(&self, replicas: &StorageList, from: StorageIndex) -> bool {
        let mut others = replicas.clone();
        others.retain(|storage| *storage != from);
        replicas.contains(&from)
            && self.redundancy(replicas, 0).serving == replicas.len()
            && self.is_well_placed(&others)
    }

    fn place(&mut self, storage: StorageIndex) -> ReplicaPlace {
        let lot = self.random.random();
        let node = self.nodes.node_of(storage);
        let volume = self.nodes.storage(storage);
        ReplicaPlace {
            storage,
            node: volume.node,
            rack: node.rack,
            is_stale: node.silent_for(self.heard) >= self.config.stale_after,
            free_steps: volume.remaining / (volume.capacity / FREE_STEPS).max(1),
            lot,
        }
    }
}
