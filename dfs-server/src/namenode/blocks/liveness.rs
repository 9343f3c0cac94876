//! Who is alive, and who leads.

use dfs_common::ids::BlockId;

use super::state::SoftState;
use crate::namenode::datanodes::NodeIndex;
use crate::namenode::host_rules::Duty;

impl SoftState {
    /// Begins or ceases to give orders; false when nothing has changed.
    pub(crate) fn set_active(&mut self, is_active: bool) -> bool {
        if is_active {
            self.safe_mode.on_loaded();
        }
        if self.is_active == is_active {
            return false;
        }
        self.is_active = is_active;
        self.active_since = self.heard;
        for index in self.registered_nodes() {
            let node = self.nodes.node_mut(index);
            node.transfers.clear();
            if is_active {
                node.reports.on_activated();
            }
            for storage in node.storages.clone() {
                self.nodes.storage_mut(storage).is_content_stale |= is_active;
            }
        }
        true
    }

    /// Blocks of which copies were ordered.
    pub(crate) fn ordered_copies(&self) -> Vec<BlockId> {
        self.pending.iter().filter(|(_, pending)| pending.source().is_some()).map(|(&id, _)| id).collect()
    }

    /// Nodes that have registered at some time.
    pub(crate) fn registered_nodes(&self) -> Vec<NodeIndex> {
        self.nodes.registered().map(|(index, _)| index).collect()
    }

    /// Nodes that have been silent for too long.
    pub(crate) fn silent_nodes(&self) -> Vec<NodeIndex> {
        self.nodes.silent_nodes(self.heard, self.config.dead_after)
    }

    /// Declares a node dead, if it is still silent.
    pub(crate) fn on_node_silent(&mut self, index: NodeIndex) {
        let node = self.nodes.node(index);
        let silent_for = node.silent_for(self.heard);
        if !node.is_live || silent_for <= self.config.dead_after {
            return;
        }
        let silent_ms = u64::try_from(silent_for.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(uuid = node.id.uuid, address = node.address(), silent_ms, "a DataNode is dead");
        self.nodes.retire(index);
        self.abort_report(index);
        if let Duty::Maintain { .. } = self.nodes.node(index).duty {
            // It is expected to come back: its replicas count meanwhile.
            self.walk_again();
            return;
        }
        for storage in self.nodes.node(index).storages.clone() {
            self.start_draining(storage);
        }
    }
}
