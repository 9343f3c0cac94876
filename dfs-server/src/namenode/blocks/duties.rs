//! What the operator's files want of DataNodes: who may join, who is drained, who is away for maintenance.
//!
//! ```text
//!             exclude file                   all blocks elsewhere
//!  in service -------------> decommissioning ---------------------> decommissioned
//!      ^  ^                                                             |
//!      |  +------------ no longer in the file <-------------------------+
//!      |      maintenance                    each block on a serving node as well
//!      +<--------------------> entering ------------------------------> in maintenance
//! ```
//!
//! A change of duty starts a walk over all blocks, which finds what must be copied or is too many now. Whether a node is
//! through is counted afresh every few seconds, in slices.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::ids::BlockId;
use dfs_proto::v1;

use super::block_map::BlockState;
use super::repair_queues::Priority;
use super::state::SoftState;
use crate::namenode::datanodes::{Datanode, NodeIndex, StorageIndex};
use crate::namenode::host_rules::{Duty, HostRules};

/// Time between counts of what drained nodes still hold alone: a count looks at every block of the node.
const COUNT_INTERVAL: Duration = Duration::from_secs(2);

/// By what the operator's files know a DataNode.
#[derive(Clone, Debug)]
pub struct NodeName {
    /// Its identity.
    pub uuid: String,
    /// What it calls itself.
    pub host: String,
    /// Where it takes data transfers.
    pub data_port: u32,
    /// Its address.
    pub address: String,
}

/// A duty as it is now: maintenance ends by itself.
fn current(duty: Duty, now_ns: i64) -> Duty {
    match duty {
        Duty::Maintain { until_ns: Some(until) } if until <= now_ns => Duty::Serve,
        other => other,
    }
}

impl SoftState {
    /// New rules; gives the nodes that they are to be applied to.
    pub(crate) fn set_host_rules(&mut self, rules: Arc<HostRules>) -> Vec<NodeIndex> {
        self.rules = rules;
        self.registered_nodes()
    }

    /// Applies the rules to a node: it may stay or not, and has a duty.
    pub(crate) fn apply_rules(&mut self, index: NodeIndex) {
        let node = self.nodes.node(index);
        let is_counted = node.is_live || matches!(node.duty, Duty::Maintain { .. });
        if self.rules.admits(&node.id, &node.addresses) {
            self.apply_duty(index);
        } else if is_counted {
            tracing::warn!(uuid = node.id.uuid, address = node.address(), "a DataNode may not join any more");
            self.expel(index);
        }
    }

    /// What the node has counts no more, whether it serves or is away in maintenance.
    fn expel(&mut self, index: NodeIndex) {
        if self.nodes.node(index).is_live {
            self.nodes.retire(index);
            self.abort_report(index);
        }
        self.nodes.set_duty(index, Duty::Serve);
        for storage in self.nodes.node(index).storages.clone() {
            self.start_draining(storage);
        }
        self.walk_again();
    }

    /// Gives a node the duty that the rules say.
    pub(crate) fn apply_duty(&mut self, index: NodeIndex) {
        let node = self.nodes.node(index);
        let duty = current(self.rules.duty_of(&node.id, &node.addresses), self.now_ns);
        if duty == node.duty {
            return;
        }
        tracing::info!(uuid = node.id.uuid, address = node.address(), from = ?node.duty, to = ?duty, "a DataNode's duty");
        let was_away = matches!(node.duty, Duty::Maintain { .. }) && !node.is_live;
        self.nodes.set_duty(index, duty);
        if was_away && !matches!(duty, Duty::Maintain { .. }) {
            for storage in self.nodes.node(index).storages.clone() {
                self.start_draining(storage);
            }
        }
        self.walk_again();
    }

    /// The names of a node that racks are asked by.
    pub(crate) fn node_name(&self, index: NodeIndex) -> NodeName {
        let node = self.nodes.node(index);
        let peer = node.addresses.first().map(ToString::to_string);
        let is_address = node.id.host.parse::<IpAddr>().is_ok();
        NodeName {
            uuid: node.id.uuid.clone(),
            host: node.id.host.clone(),
            data_port: node.id.data_port,
            address: peer.filter(|_| !is_address).unwrap_or_else(|| node.id.host.clone()),
        }
    }

    /// A node stands on another rack than was known, perhaps.
    pub(crate) fn set_rack(&mut self, uuid: &str, rack: &str) {
        let Some(index) = self.nodes.by_uuid(uuid) else { return };
        if self.nodes.set_rack(index, rack) {
            tracing::info!(uuid, rack, "a DataNode stands on another rack");
            self.walk_again();
        }
    }

    /// Nodes whose maintenance is over.
    pub(crate) fn expired_duties(&self) -> Vec<NodeIndex> {
        let is_over = |(_, node): &(NodeIndex, &Datanode)| node.duty != current(node.duty, self.now_ns);
        self.nodes.registered().filter(is_over).map(|(index, _)| index).collect()
    }

    /// All blocks are looked at again.
    pub(crate) fn walk_again(&mut self) {
        if self.safe_mode.has_started_up() {
            self.scan = Some(BlockId(0));
        }
    }

    /// The nodes to count with their volumes, when it is time: only what the walk has queued says what must be copied.
    pub(crate) fn plan_draining(&mut self) -> Vec<(NodeIndex, Vec<StorageIndex>)> {
        let is_due = self.last_count.is_none_or(|last| self.now.saturating_duration_since(last) >= COUNT_INTERVAL);
        if !is_due || self.scan.is_some() || !self.safe_mode.has_started_up() {
            return Vec::new();
        }
        self.last_count = Some(self.now);
        let wanted =
            self.nodes.registered().filter(|(_, node)| node.duty != Duty::Serve && (node.is_live || !node.is_drained));
        wanted.map(|(index, node)| (index, node.storages.clone())).collect()
    }

    /// Counts some of the blocks on a volume for whose sake its node must not go, from a block on; gives where to go on.
    pub(crate) fn count_held_back(
        &self,
        storage: StorageIndex,
        from: BlockId,
        limit: usize,
        left: &mut u64,
    ) -> Option<BlockId> {
        let mut ids = self.nodes.storage(storage).blocks.iter();
        ids.advance_to(from.0);
        *left += ids.by_ref().take(limit).filter(|&id| self.holds_back(BlockId(id), storage)).count() as u64;
        ids.next().map(BlockId)
    }

    /// Whether the node must not go for this block's sake.
    fn holds_back(&self, id: BlockId, storage: StorageIndex) -> bool {
        let Some(info) = self.map.get(id) else { return false };
        if info.state() != BlockState::Complete {
            return self.open.get(&id).is_some_and(|open| open.targets.contains(&storage));
        }
        if !self.map.has_replica(id, storage) {
            return false;
        }
        let counts = self.redundancy(&self.map.replicas(id), 0);
        match self.nodes.node_of(storage).duty {
            Duty::Serve => false,
            Duty::Decommission => counts.missing(usize::from(info.replication)) > 0,
            Duty::Maintain { .. } => counts.serving == 0,
        }
    }

    /// The count of a node is done.
    pub(crate) fn on_drain_counted(&mut self, index: NodeIndex, mut left: u64) {
        let node = self.nodes.node(index);
        if !node.is_live && node.duty == Duty::Decommission {
            // What it held is forgotten: as long as any block lacks replicas, it may be one that only this node has.
            left += self.under_replicated() + self.queues.len(Priority::NoneLeft) as u64;
        }
        let node = self.nodes.node_mut(index);
        node.blocks_to_copy = left;
        let was_drained = std::mem::replace(&mut node.is_drained, left == 0);
        if left == 0 && !was_drained {
            let state = admin_state(node).as_str_name();
            tracing::info!(uuid = node.id.uuid, address = node.address(), state, "a DataNode may be stopped");
        }
    }
}

/// The state of a node in the protocol's words. One that died before its blocks were elsewhere is still on its way out.
pub(crate) fn admin_state(node: &Datanode) -> v1::AdminState {
    match node.duty {
        Duty::Serve => v1::AdminState::InService,
        Duty::Decommission if node.is_drained => v1::AdminState::Decommissioned,
        Duty::Decommission => v1::AdminState::Decommissioning,
        Duty::Maintain { .. } if node.is_drained => v1::AdminState::InMaintenance,
        Duty::Maintain { .. } => v1::AdminState::EnteringMaintenance,
    }
}
