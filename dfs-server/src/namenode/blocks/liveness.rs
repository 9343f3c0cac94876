//! Who is alive, and who leads.

use std::time::Duration;

use dfs_common::ids::BlockId;

use super::state::SoftState;
use crate::namenode::datanodes::NodeIndex;
use crate::namenode::node_files::Duty;

/// Time between two ticks, which should be a second apart, from which on it was this process that stood still. The nodes'
/// heartbeats wait unread then: nobody is declared dead for a silence that was ours.
const OWN_PAUSE: Duration = Duration::from_secs(5);

impl SoftState {
    /// Begins or ceases to give orders.
    pub(crate) fn set_active(&mut self, is_active: bool) {
        if is_active {
            self.safe_mode.on_loaded();
        }
        if self.is_active == is_active {
            return;
        }
        self.is_active = is_active;
        let nodes: Vec<NodeIndex> = self.nodes.registered().map(|(index, _)| index).collect();
        for index in nodes {
            let node = self.nodes.node_mut(index);
            node.transfers.clear();
            if is_active {
                node.reports.on_activated();
            }
            for storage in node.storages.clone() {
                self.nodes.storage_mut(storage).is_content_stale |= is_active;
            }
        }
        let ordered: Vec<BlockId> =
            self.pending.iter().filter(|(_, pending)| pending.source.is_some()).map(|(&id, _)| id).collect();
        for id in ordered {
            self.drop_pending(id);
            self.recheck(id);
        }
    }

    /// Declares nodes dead that have been silent for too long.
    pub(crate) fn check_liveness(&mut self) {
        let pause = self.last_tick.map_or(Duration::ZERO, |last| self.now.saturating_duration_since(last));
        self.last_tick = Some(self.now);
        if pause > OWN_PAUSE {
            tracing::warn!(?pause, "this NameNode stood still; silence of DataNodes meanwhile does not count");
            self.nodes.forgive_silence(pause, self.now);
        }
        let dead = self.nodes.silent_nodes(self.now, self.config.dead_after);
        let have_died = !dead.is_empty();
        for index in dead {
            let node = self.nodes.node(index);
            let silent_ms = u64::try_from(node.silent_for(self.now).as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(uuid = node.id.uuid, address = node.address(), silent_ms, "a DataNode is dead");
            self.nodes.retire(index);
            self.abort_report(index);
            if let Duty::Maintain { .. } = self.nodes.node(index).duty {
                // It is expected to come back: its replicas count meanwhile.
                self.walk_again();
                continue;
            }
            for storage in self.nodes.node(index).storages.clone() {
                self.start_draining(storage);
            }
        }
        if have_died {
            self.forget_dead_writers();
        }
        let stalled: Vec<NodeIndex> =
            self.nodes.registered().filter(|(_, node)| node.reports.has_stalled(self.now)).map(|(at, _)| at).collect();
        for index in stalled {
            self.abort_report(index);
        }
    }
}
