//! What the namespace tells the block manager, and what services ask of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_common::block::Block;
use dfs_common::error::Result;
use dfs_common::ids::{BlockId, InodeId};
use dfs_proto::v1;

use super::block_manager::BlockManager;
use super::duties::NodeName;
use super::events::BlockEvent;
use super::locate::{Locations, parse_ip};
use super::recovery_holders::Holders;
use super::state::SoftState;
use super::stats::FsStats;
use super::targets::{Target, TargetRequest};
use crate::namenode::datanodes::NodeIndex;
use crate::namenode::host_rules::HostRules;
use crate::namenode::namespace::lost_ids::LostIds;

/// Events applied in one step.
const STEP_EVENTS: usize = 16;

/// Blocks whose health is told in one step.
const STEP_HEALTH: usize = 64;

impl BlockManager {
    /// Takes in changes of the namespace, in the order of the ops that made them. One caller at a time.
    pub fn on_events(&self, events: impl IntoIterator<Item = BlockEvent>) {
        let mut events = events.into_iter().peekable();
        if events.peek().is_none() {
            return;
        }
        self.repeat(|state| {
            events.by_ref().take(STEP_EVENTS).for_each(|event| state.on_event(event));
            events.peek().is_some()
        });
    }

    /// Every block id below `limit` was allocated at some time. The events keep this current; needed once after an image
    /// was loaded, whose last blocks may have been removed.
    pub fn set_allocated_limit(&self, limit: BlockId) {
        let mut state = self.lock();
        state.allocated_limit = state.allocated_limit.max(limit);
    }

    /// The namespace was restored from an older image: nobody knows what became of these ids. Replicas with them are kept,
    /// however the counters stand.
    pub fn set_lost(&self, lost: &[LostIds]) {
        self.lock().lost = lost.to_vec();
    }

    /// Blocks whose replicas are of a generation that was lost, with that generation and the replica's length: to be
    /// reclaimed. Each is named once per report.
    pub fn take_outgrown(&self) -> Vec<(InodeId, Block)> {
        self.lock().take_outgrown()
    }

    /// Those of which it could not be logged that they are recovered.
    pub fn put_outgrown_back(&self, blocks: impl IntoIterator<Item = BlockId>) {
        self.lock().outgrown.extend(blocks);
    }

    /// Replicas that no block of the namespace explains, and that are kept.
    pub fn unknown_replicas(&self) -> usize {
        self.lock().set_aside.len()
    }

    /// The whole namespace has been told: safe mode begins to count. Leading implies it.
    pub fn on_loaded(&self) {
        self.lock().safe_mode.on_loaded();
    }

    /// This NameNode leads and has applied an entry of its own term, or it does not any more.
    pub fn set_active(&self, is_active: bool) {
        if self.step(|state| state.set_active(is_active)) {
            // Orders of another leader's time are not carried out, or not known to be.
            self.each(self.step(|state| state.ordered_copies()), SoftState::give_up);
        }
    }

    /// Whether `set_active(true)` was the last word.
    pub fn is_active(&self) -> bool {
        self.lock().is_active
    }

    /// Places for the replicas of a block, in the order of its pipeline; fewer than asked for when the cluster is small.
    ///
    /// # Errors
    /// `NoSpace` when there is none (or fewer than the minimum), `Unavailable` when no DataNode lives; the message counts
    /// the nodes by why they were refused.
    pub fn choose_targets(&self, request: &TargetRequest<'_>) -> Result<Vec<Target>> {
        self.lock().choose_targets(request)
    }

    /// Checks the pipeline that a writer names.
    ///
    /// # Errors
    /// `Unavailable` for a DataNode or volume that has not registered, `InvalidArgument` for malformed lists.
    pub fn check_pipeline(&self, datanodes: &[String], storages: &[String]) -> Result<()> {
        self.lock().check_pipeline(datanodes, storages)
    }

    /// Whether a DataNode that has registered has this volume.
    pub fn has_volume(&self, datanode_uuid: &str, storage_uuid: &str) -> bool {
        self.lock().registered_volume(datanode_uuid, storage_uuid).is_some()
    }

    /// The replicas of a block, nearest to the reader first. Without a reader, the pipeline of an open block in its order.
    pub fn locate(&self, id: BlockId, reader_ip: Option<&str>) -> Locations {
        let reader = reader_ip.and_then(parse_ip);
        self.lock().locate(id, reader)
    }

    /// Who has a block that waits for recovery.
    pub fn holders(&self, id: BlockId) -> Holders {
        self.lock().holders(id)
    }

    /// Has a DataNode recover a block: the order goes with its next heartbeat.
    pub fn order_recovery(&self, primary: &str, order: v1::RecoverOrder) {
        self.lock().order_recovery(primary, order);
    }

    /// The file that a block belongs to.
    pub fn file_of(&self, id: BlockId) -> Option<InodeId> {
        self.lock().map.get(id).map(|info| info.inode)
    }

    /// Totals over nodes and blocks.
    pub fn fs_stats(&self) -> FsStats {
        self.lock().fs_stats()
    }

    /// Who may join and what is to become of whom, from now on.
    pub fn set_host_rules(&self, rules: HostRules) {
        let nodes = self.step(|state| state.set_host_rules(Arc::new(rules)));
        self.each(nodes, SoftState::apply_rules);
        self.forget_dead_writers();
    }

    /// Every DataNode that has registered, by the names that racks are asked by.
    pub fn node_names(&self) -> Vec<NodeName> {
        self.of_all_nodes(SoftState::node_name)
    }

    /// Puts DataNodes, by uuid, on racks.
    pub fn set_racks(&self, racks: &[(String, String)]) {
        self.each(racks, |state, (uuid, rack)| state.set_rack(uuid, rack));
    }

    /// What is to be told of every DataNode that has registered.
    fn of_all_nodes<T>(&self, tell: impl Fn(&SoftState, NodeIndex) -> T) -> Vec<T> {
        let nodes = self.step(|state| state.registered_nodes());
        let mut told = Vec::with_capacity(nodes.len());
        self.each(nodes, |state, node| told.push(tell(state, node)));
        told
    }

    /// How blocks of the namespace stand, in the order given.
    pub fn block_health(&self, blocks: &[Block], with_locations: bool) -> Vec<v1::BlockHealth> {
        let mut health = Vec::with_capacity(blocks.len());
        self.each(blocks.chunks(STEP_HEALTH), |state, slice| {
            health.extend(slice.iter().map(|&block| state.block_health(block, with_locations)));
        });
        health
    }

    /// What repair has to do.
    pub fn repair_report(&self) -> v1::RepairReport {
        let deletions = self.of_all_nodes(SoftState::pending_deletions_of);
        v1::RepairReport { pending_deletions: deletions.iter().sum(), ..self.lock().repair_report() }
    }

    /// Every DataNode that has registered, with its volumes.
    pub fn datanode_report(&self) -> Vec<v1::DatanodeReport> {
        self.of_all_nodes(SoftState::report_of)
    }

    /// Repair and deletion are allowed: this NameNode is active and not in safe mode.
    pub fn may_repair(&self) -> bool {
        self.lock().may_repair()
    }

    /// Active, and only automatic safe mode holds repair and deletion back.
    pub fn is_starting(&self) -> bool {
        let state = self.lock();
        state.may_recover() && !state.safe_mode.has_started_up()
    }

    /// Safe mode by command: the namespace must not be changed.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Whether safe mode is on, and a line for people.
    pub fn safe_mode_status(&self) -> (bool, String) {
        let report = self.safe_mode_report();
        (report.is_on, report.status)
    }

    /// Safe mode with the counts behind it; `txid` is the caller's to fill in.
    pub fn safe_mode_report(&self) -> v1::SetSafeModeResponse {
        let state = self.lock();
        let (safe, total) = (state.counts.with_minimum, state.counts.complete);
        v1::SetSafeModeResponse {
            is_on: !state.safe_mode.is_off(),
            status: state.safe_mode.status(safe, total, state.now),
            is_manual: state.safe_mode.is_manual(),
            safe_blocks: safe,
            blocks: total,
            needed_blocks: state.safe_mode.needed(total),
            txid: 0,
        }
    }

    /// Begins in safe mode until told to leave it: the namespace was restored from an older image.
    pub fn on_restored(&self) {
        self.lock().safe_mode.on_restored();
    }

    /// Enters safe mode by command.
    pub fn enter_safe_mode(&self) {
        self.lock().safe_mode.enter();
    }

    /// Leaves safe mode, by command or not yet over.
    pub fn leave_safe_mode(&self) {
        let mut state = self.lock();
        let was_starting = !state.safe_mode.has_started_up();
        state.safe_mode.leave();
        if was_starting {
            state.scan = Some(BlockId(0));
        }
    }
}
