//! The health of blocks, for fsck.

use dfs_common::block::Block;
use dfs_proto::v1;

use super::block_map::BlockState;
use super::duties::admin_state;
use super::state::SoftState;
use crate::namenode::datanodes::StorageIndex;

impl SoftState {
    /// How a block of the namespace stands.
    pub(crate) fn block_health(&self, block: Block, with_locations: bool) -> v1::BlockHealth {
        let mut health = v1::BlockHealth { block: Some(block.into()), ..v1::BlockHealth::default() };
        let Some(info) = self.map.get(block.id) else { return health };
        let wanted = usize::from(info.replication);
        let readable = self.usable_replicas(block.id);
        let pending = self.pending.get(&block.id);
        // What a writer's pipeline acknowledged and has not reported yet is there, as good as certainly.
        let awaited = pending.map_or(0, |pending| pending.members().len());
        let counts = self.redundancy(&self.map.replicas(block.id), awaited);
        let live = self.redundancy(&readable, 0);
        let bad = self.bad.get(&block.id).into_iter().flatten();
        let bad: Vec<StorageIndex> = bad.map(|bad| bad.storage).filter(|&at| self.nodes.is_usable(at)).collect();
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        health.wanted = small(wanted);
        health.live = small(live.readable());
        health.corrupt = small(bad.len());
        health.decommissioning = small(live.leaving);
        health.in_maintenance = small(counts.maintained + counts.away);
        health.is_open = info.state() != BlockState::Complete;
        health.pending = small(match info.state() {
            BlockState::UnderConstruction => 0,
            // Nobody of its pipeline has reported it yet.
            BlockState::Committed => self.open.get(&block.id).map_or(0, |open| open.targets.len()),
            BlockState::Complete => pending.map_or(0, |pending| pending.targets.len()),
        });
        if !health.is_open {
            health.is_under_replicated = live.readable() > 0 && counts.missing(wanted) > 0;
            health.is_over_replicated = live.serving > wanted;
            health.is_misplaced = live.readable() > 0 && awaited == 0 && !self.is_well_placed(&readable);
        }
        if with_locations {
            let good = readable.iter().map(|&storage| self.replica_health(storage, false));
            health.replicas = good.chain(bad.iter().map(|&storage| self.replica_health(storage, true))).collect();
        }
        health
    }

    fn replica_health(&self, storage: StorageIndex, is_corrupt: bool) -> v1::ReplicaHealth {
        let node = self.nodes.node_of(storage);
        v1::ReplicaHealth {
            datanode: Some(node.id.clone()),
            storage_uuid: self.nodes.storage(storage).uuid.clone(),
            admin_state: admin_state(node).into(),
            is_corrupt,
            is_stale: node.silent_for(self.heard) >= self.config.stale_after,
        }
    }
}
