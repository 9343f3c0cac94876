//! What block recovery must know of the replicas of a block, and the way of its orders to the DataNodes.

use std::collections::BTreeSet;
use std::time::Duration;

use dfs_common::block::Block;
use dfs_common::ids::{BlockId, InodeId};
use dfs_proto::v1::{self, ReplicaState};

use super::block_map::BlockState;
use super::disposition::ReportedReplica;
use super::state::SoftState;
use crate::namenode::datanodes::{NodeIndex, RegistrationId, StorageIndex};
use crate::namenode::namespace::lost_ids::is_lost_stamp;

/// Recoveries ordered with one heartbeat: each keeps a DataNode busy for as long as a replica takes to be verified.
const RECOVERIES_PER_HEARTBEAT: usize = 16;

/// Blocks that have grown since the image, told of by one call.
const OUTGROWN_PER_CALL: usize = 1_000;

/// How long a dead DataNode may still come back with bytes that were written and never synced. Nobody was promised them, so at
/// some time a file is closed without; but a cut network, or a rack without power, is mended first. As long are DataNodes waited for
/// of which nobody knows any more that they had the block.
const RETURNS_WITHIN: Duration = Duration::from_secs(3600);

/// Who has an open block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holders {
    /// DataNodes that live and have a replica that counts, or were told to hold one; silent ones last, those that know most first.
    pub live: Vec<v1::DatanodeId>,
    /// Of each of them, since when it has been there: one that registers anew has forgotten its orders.
    pub(crate) registrations: Vec<Option<RegistrationId>>,
    /// More DataNodes may have one: they are silent and not given up yet, or have not told since they registered.
    pub others_are_away: bool,
    /// DataNodes that may have one are dead, but for less than an hour; or nobody knows which these are, and the NameNode has not
    /// listened for an hour yet.
    pub dead_may_return: bool,
}

impl Holders {
    /// The present registration of one that lives.
    pub(crate) fn registration_of(&self, uuid: &str) -> Option<RegistrationId> {
        let at = self.live.iter().position(|node| node.uuid == uuid)?;
        self.registrations.get(at).copied().flatten()
    }
}

impl SoftState {
    /// Whether a DataNode that lives has not told what it has since it registered.
    pub(crate) fn some_have_not_told(&self) -> bool {
        let mut live = self.nodes.registered().filter(|(_, node)| node.is_live);
        live.any(|(index, node)| self.nodes.has_working_volume(index) && !node.reports.has_told())
    }

    /// The holders of a block that waits for recovery.
    pub(crate) fn holders(&self, id: BlockId) -> Holders {
        let mut others_are_away = self.some_have_not_told();
        let listened = self.heard.since(self.active_since);
        let open = self.open.get(&id);
        // Images do not have it. The nodes may be away, and nothing here would say so.
        let is_pipeline_unknown = open.is_none_or(|open| open.targets.is_empty());
        let mut dead_may_return = is_pipeline_unknown && listened < RETURNS_WITHIN;
        let (Some(info), Some(open)) = (self.map.get(id), open) else {
            return Holders { others_are_away, dead_may_return, ..Holders::default() };
        };
        let mut ranked: BTreeSet<(bool, u8, NodeIndex)> = BTreeSet::new();
        let told = open.targets.iter().map(|&storage| (storage, None));
        let reported = open.reported.iter().map(|&(storage, replica)| (storage, Some(replica)));
        for (storage, replica) in reported.chain(told) {
            if replica.is_some_and(|replica| replica.generation_stamp < info.generation_stamp) {
                continue;
            }
            let index = self.nodes.storage(storage).node;
            let node = self.nodes.node(index);
            if !node.is_live {
                let silent = node.silent_for(self.heard);
                others_are_away |= silent < self.config.dead_after;
                dead_may_return |= silent < RETURNS_WITHIN;
            } else if ranked.iter().all(|&(_, _, other)| other != index) {
                let is_stale = node.silent_for(self.heard) >= self.config.stale_after;
                ranked.insert((is_stale, rank(replica.map(|replica| replica.state)), index));
            }
        }
        let nodes = ranked.into_iter().map(|(_, _, index)| self.nodes.node(index));
        let (live, registrations) = nodes.map(|node| (node.id.clone(), node.registration)).unzip();
        Holders { live, registrations, others_are_away, dead_may_return }
    }

    /// Complete blocks that have replicas of a newer generation which was lost with an earlier NameNode. Replicas that are
    /// shorter than the namespace says do not count. Each block comes with the newest of these generations.
    pub(crate) fn take_outgrown(&mut self) -> Vec<(InodeId, Block)> {
        let mut found = Vec::new();
        for _ in 0..OUTGROWN_PER_CALL {
            let Some(id) = self.outgrown.pop_first() else { break };
            let Some(info) = self.map.get(id).filter(|info| info.state() == BlockState::Complete) else { continue };
            let range = (id, StorageIndex(0))..=(id, StorageIndex(u32::MAX));
            let newest = self
                .set_aside
                .range(range)
                .map(|(_, replica)| replica)
                .filter(|replica| replica.length >= info.length && is_lost_stamp(&self.lost, replica.generation_stamp))
                .max_by_key(|replica| replica.generation_stamp);
            if let Some(&ReportedReplica { generation_stamp, length, .. }) = newest {
                found.push((info.inode, Block { id, generation_stamp, length }));
            }
        }
        found
    }

    /// Queues an order for a DataNode; an older one of the same block goes.
    pub(crate) fn order_recovery(&mut self, primary: &str, order: v1::RecoverOrder) {
        let Some(index) = self.nodes.by_uuid(primary) else { return };
        let Some(id) = order.block.as_ref().map(|block| BlockId(block.id)) else { return };
        self.nodes.node_mut(index).recoveries.insert(id, order);
    }

    pub(crate) fn take_recoveries(&mut self, index: NodeIndex) -> Vec<v1::RecoverOrder> {
        let waiting = &mut self.nodes.node_mut(index).recoveries;
        let next = std::iter::from_fn(|| waiting.pop_first()).map(|(_, order)| order);
        next.take(RECOVERIES_PER_HEARTBEAT).collect()
    }
}

/// How good a primary the holder of such a replica is; less is better.
fn rank(state: Option<ReplicaState>) -> u8 {
    match state {
        Some(ReplicaState::Finalized) => 0,
        Some(ReplicaState::Rbw | ReplicaState::Rur) => 1,
        None => 2,
        Some(ReplicaState::Rwr | ReplicaState::Temporary) => 3,
    }
}
