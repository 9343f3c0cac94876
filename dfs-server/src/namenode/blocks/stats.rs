//! Numbers for people and for statfs.

use dfs_proto::v1;

use super::duties::admin_state;
use super::repair_queues::Priority;
use super::replication::STREAM_COST;
use super::state::SoftState;
use crate::namenode::datanodes::{NodeIndex, StorageState};
use crate::namenode::host_rules::Duty;

/// Totals over live nodes and over all blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsStats {
    /// Bytes of all working volumes of live nodes, and what of them is used and free.
    pub capacity: u64,
    /// Bytes that replicas take.
    pub used: u64,
    /// Bytes that blocks may still take.
    pub remaining: u64,
    /// Blocks with fewer replicas than they should have, but at least one: those that wait for a copy, those being copied, and
    /// what lay on volumes just lost and has not been looked at yet.
    pub under_replicated_blocks: u64,
    /// Blocks with a replica that is corrupt, of a wrong length, or was left unfinished.
    pub corrupt_blocks: u64,
    /// Blocks of which no good replica is known.
    pub missing_blocks: u64,
    /// Blocks in the namespace.
    pub blocks: u64,
    /// DataNodes that live.
    pub live_datanodes: u32,
    /// DataNodes that registered once and are silent now.
    pub dead_datanodes: u32,
}

impl SoftState {
    pub(crate) fn fs_stats(&self) -> FsStats {
        let space = self.nodes.space();
        let bytes = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let live = self.nodes.topology().live().len();
        FsStats {
            capacity: bytes(space.capacity),
            used: bytes(space.used),
            remaining: bytes(space.remaining),
            under_replicated_blocks: self.under_replicated(),
            corrupt_blocks: self.corrupt_blocks,
            missing_blocks: self.counts.complete - self.counts.with_any,
            blocks: self.map.len() as u64,
            live_datanodes: small(live),
            dead_datanodes: small(self.nodes.registered_count() - live),
        }
    }

    pub(crate) fn under_replicated(&self) -> u64 {
        let queues = [Priority::OneLeft, Priority::VeryLow, Priority::Low, Priority::BeingCopied];
        let queued: u64 = queues.iter().map(|&priority| self.queues.len(priority) as u64).sum();
        queued + self.to_drain
    }

    /// Replicas on a node whose deletion is decided and not ordered yet.
    pub(crate) fn pending_deletions_of(&self, index: NodeIndex) -> u64 {
        let storages = self.nodes.node(index).storages.iter();
        storages.map(|&index| self.nodes.storage(index).invalidation_count() as u64).sum()
    }

    /// The report without the deletions that wait, which are counted node by node.
    pub(crate) fn repair_report(&self) -> v1::RepairReport {
        let queued = |priority| self.queues.len(priority) as u64;
        v1::RepairReport {
            one_left: queued(Priority::OneLeft),
            very_low: queued(Priority::VeryLow),
            low: queued(Priority::Low),
            misplaced: queued(Priority::Misplaced),
            none_left: queued(Priority::NoneLeft),
            pending: self.pending.len() as u64,
            excess: self.excess.len() as u64,
            bad: self.bad.len() as u64,
            pending_deletions: 0,
            is_scanning: self.scan.is_some() || !self.safe_mode.has_started_up(),
        }
    }

    pub(crate) fn report_of(&self, index: NodeIndex) -> v1::DatanodeReport {
        let node = self.nodes.node(index);
        let silent_for = node.silent_for(self.heard);
        let state = if !node.is_live {
            v1::DatanodeState::DatanodeDead
        } else if silent_for >= self.config.stale_after {
            v1::DatanodeState::DatanodeStale
        } else {
            v1::DatanodeState::DatanodeLive
        };
        let volumes = node.storages.iter().map(|&index| {
            let storage = self.nodes.storage(index);
            v1::VolumeReport {
                storage_uuid: storage.uuid.clone(),
                path: storage.path.clone(),
                capacity: storage.capacity,
                used: storage.used,
                remaining: storage.remaining,
                failed: storage.state == StorageState::Failed,
                blocks: storage.blocks.len(),
            }
        });
        v1::DatanodeReport {
            id: Some(node.id.clone()),
            state: state.into(),
            last_heartbeat_ms_ago: u64::try_from(silent_for.as_millis()).unwrap_or(u64::MAX),
            volumes: volumes.collect(),
            active_transfers: node.active_transfers,
            software_version: node.software_version.clone(),
            admin_state: admin_state(node).into(),
            blocks_to_copy: node.blocks_to_copy,
            maintenance_left_ms: match node.duty {
                Duty::Maintain { until_ns: Some(until) } => {
                    u64::try_from(until.saturating_sub(self.now_ns) / 1_000_000).unwrap_or(0).max(1)
                }
                _ => 0,
            },
            outgoing_copies: node.outgoing_cost.div_ceil(STREAM_COST),
            pending_deletions: self.pending_deletions_of(index),
        }
    }
}
