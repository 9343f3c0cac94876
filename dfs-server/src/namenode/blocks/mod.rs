//! The NameNode's soft state: which DataNodes live, which replicas of which block they hold, and what must be copied or
//! deleted. Never logged; rebuilt from reports (design D3).
//!
//! ```text
//!  namespace --BlockEvent--> +--------------+ <--register, heartbeat, reports-- DataNodes
//!                            | BlockManager |
//!  services --choose_targets,+--------------+ --orders in heartbeat replies---> DataNodes
//!             locate, stats->       ^
//!                                 tick, once a second
//! ```
//!
//! One lock guards everything (`state::SoftState`); what it decides is pure and lies in modules of its own: what a
//! reported replica means (`report`), where replicas go (`placement`), which block is repaired first and which replica is
//! too many (`replication`). Nothing here waits, sleeps, or knows of sockets; time and the seed of chance are arguments.
//!
//! Promises:
//!
//! - a replica is ordered to be deleted only by the active leader outside safe mode, and only when its block was removed
//!   from the namespace, when enough good replicas are known from reports since this leader began, or when it is bad and a
//!   good one is there;
//! - a replica of a block that was never allocated here is kept, and so is one of a block or a generation that may have been
//!   allocated by a NameNode that was lost;
//! - a call holds the lock for milliseconds at most: long work (reports, dead nodes, walks over all blocks) goes in slices.

mod backlog;
mod block_map;
mod duties;
mod events;
mod health;
mod intake;
mod liveness;
mod locate;
mod moves;
mod placement;
mod recovery;
mod redundancy;
mod replication;
pub(crate) mod report;
mod state;
mod stats;
mod targets;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::block::Block;
use dfs_common::clock::Clock;
use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, InodeId};
use dfs_proto::v1;
use parking_lot::{Mutex, MutexGuard};

use self::block_map::BlockState;
use self::intake::{Columns, PageOrigin, Vanished};
use self::replication::{PRIORITIES, Repair};
use self::report::ReportNumber;
use self::state::SoftState;
use super::datanodes::RegistrationId;
use super::namespace::restore::LostIds;
use super::node_files::HostRules;

pub use self::duties::NodeName;
pub use self::events::BlockEvent;
pub use self::locate::Locations;
pub use self::moves::{MoveRequest, Moved, Moves};
pub use self::recovery::Holders;
pub use self::stats::FsStats;
pub use self::targets::{Target, TargetRequest};

/// Replicas or blocks handled per hold of the lock: about a millisecond's work.
const SLICE: usize = 4096;

/// Replicas in a page of a report. More would not fit a message anyway.
const PAGE_REPLICAS_MAX: usize = 100_000;

/// Blocks that one tick walks over when the repair queues are filled: bounds the tick, a hundred million blocks take a
/// minute and a half.
const SCANNED_PER_TICK: usize = 1 << 20;

/// Blocks for which no target is found, per tick and queue: each costs a look at every node. The walk through the queue goes
/// on from there next time.
const WITHOUT_TARGET_PER_TICK: usize = 256;

/// Events applied per hold of the lock.
const EVENTS_SLICE: usize = 4096;

/// Settings of the block manager.
#[derive(Clone, Debug)]
struct Settings {
    /// Time between heartbeats, told to DataNodes.
    heartbeat_interval: Duration,
    /// Silence after which a node is used last.
    stale_after: Duration,
    /// Silence after which a node is dead.
    dead_after: Duration,
    /// Replicas that make a block complete.
    replication_min: usize,
    /// Share of the blocks that must have them before repair begins.
    safe_mode_threshold: f64,
    /// Time after that.
    safe_mode_extension: Duration,
    /// Copies of large blocks that a source may send at once, and when the last replica of a block is at stake.
    max_streams: u32,
    max_streams_urgent: u32,
    /// Copies of large blocks that each live node adds to what one tick may order.
    work_multiplier: u32,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let small = |key: &str| u32::try_from(config.count(key)).unwrap_or(u32::MAX);
        Self {
            heartbeat_interval: config.duration("dfs.heartbeat.interval"),
            stale_after: config.duration("dfs.namenode.stale.datanode.interval"),
            dead_after: config.duration("dfs.namenode.dead.interval"),
            replication_min: usize::try_from(config.count("dfs.namenode.replication.min")).unwrap_or(1),
            safe_mode_threshold: config.fraction("dfs.namenode.safemode.threshold-pct"),
            safe_mode_extension: config.duration("dfs.namenode.safemode.extension"),
            max_streams: small("dfs.namenode.replication.max-streams"),
            max_streams_urgent: small("dfs.namenode.replication.max-streams-hard-limit"),
            work_multiplier: small("dfs.namenode.replication.work.multiplier.per.iteration"),
        }
    }
}

/// The block manager. Shared by services, the journal's machine and the monitor.
pub struct BlockManager {
    /// Taken for one slice of work; no other lock is taken under it.
    state: Mutex<SoftState>,
    clock: Arc<dyn Clock>,
}

impl BlockManager {
    /// A block manager that knows no block and no DataNode yet. `seed` feeds every random choice and the numbers of
    /// registrations: it must differ from run to run, but for tests.
    pub fn new(config: &Config, clock: Arc<dyn Clock>, seed: u64) -> Self {
        let state = Mutex::new(SoftState::new(Settings::from(config), seed, clock.instant()));
        Self { state, clock }
    }

    fn lock(&self) -> MutexGuard<'_, SoftState> {
        let mut state = self.state.lock();
        state.now = self.clock.instant();
        state.now_ns = self.clock.now_ns();
        state
    }

    // --- from the namespace ---

    /// Takes in changes of the namespace, in the order of the ops that made them. One caller at a time.
    pub fn on_events(&self, events: impl IntoIterator<Item = BlockEvent>) {
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let mut state = self.lock();
            for event in events.by_ref().take(EVENTS_SLICE) {
                state.on_event(event);
            }
        }
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
        self.lock().set_active(is_active);
    }

    /// Whether `set_active(true)` was the last word.
    pub fn is_active(&self) -> bool {
        self.lock().is_active
    }

    // --- from DataNodes ---

    /// Enters a DataNode that connects from `peer_ip`, which becomes its host when it names none.
    ///
    /// # Errors
    /// `InvalidArgument` for an identity that cannot be used.
    pub fn register_datanode(
        &self,
        request: &v1::RegisterDatanodeRequest,
        peer_ip: &str,
    ) -> Result<v1::RegisterDatanodeResponse> {
        self.lock().register(request, parse_ip(peer_ip))
    }

    /// Takes in a heartbeat; the answer carries the orders, without the block pool's name: the service knows that.
    ///
    /// # Errors
    /// `Unavailable` at the bound of volumes.
    pub fn heartbeat(&self, request: &v1::SendHeartbeatRequest) -> Result<v1::SendHeartbeatResponse> {
        let mut state = self.lock();
        let orders = state.heartbeat(request)?;
        let orders = orders.into_iter().map(|order| v1::Order { order: Some(order) }).collect();
        Ok(v1::SendHeartbeatResponse { orders, is_active: state.is_active })
    }

    /// Takes in a page of a full report. Pages of one report come one after the other.
    ///
    /// # Errors
    /// `Stale` for an unknown registration, `Protocol` for a malformed page: the report is given up.
    pub fn block_report_page(&self, page: &v1::BlockReportPage) -> Result<()> {
        let result = self.take_page(page);
        if result.is_err() {
            self.abort_report(&page.datanode_uuid, page.registration_id);
        }
        result
    }

    fn take_page(&self, page: &v1::BlockReportPage) -> Result<()> {
        let count = page.ids.len();
        if page.generation_stamps.len() != count || page.lengths.len() != count {
            return Err(DfsError::new(ErrorKind::Protocol, "the columns of a block report differ in length"));
        }
        if count + page.under_construction.len() > PAGE_REPLICAS_MAX {
            return Err(DfsError::new(ErrorKind::Protocol, format!("a page above {PAGE_REPLICAS_MAX} replicas")));
        }
        let origin = PageOrigin {
            datanode_uuid: &page.datanode_uuid,
            registration: RegistrationId(page.registration_id),
            number: ReportNumber(page.report_number),
        };
        if !self.lock().begin_page(origin)? {
            return Ok(());
        }
        for start in (0..count).step_by(SLICE) {
            let slice = start..(start + SLICE).min(count);
            let columns = Columns {
                ids: &page.ids[slice.clone()],
                generation_stamps: &page.generation_stamps[slice.clone()],
                lengths: &page.lengths[slice],
            };
            self.lock().take_columns(origin, &page.storage_uuid, columns)?;
        }
        for replicas in page.under_construction.chunks(SLICE) {
            self.lock().take_open_replicas(origin, &page.storage_uuid, replicas)?;
        }
        // The end of an empty report may name no volume.
        if (page.last_of_storage || page.last) && !page.storage_uuid.is_empty() {
            let vanished = self.lock().end_storage(origin, &page.storage_uuid)?;
            self.forget(&vanished);
        }
        if page.last {
            let vanished = self.lock().end_report(origin)?;
            vanished.iter().for_each(|vanished| self.forget(vanished));
        }
        Ok(())
    }

    fn forget(&self, vanished: &Vanished) {
        let mut ids = vanished.ids.iter().peekable();
        while ids.peek().is_some() {
            let mut state = self.lock();
            for id in ids.by_ref().take(SLICE) {
                state.forget_replica(BlockId(id), vanished.storage);
            }
        }
    }

    /// The stream of a full report broke: what came of it stays, another one is asked for.
    pub fn abort_report(&self, datanode_uuid: &str, registration_id: u64) {
        self.lock().abort_report_of(datanode_uuid, RegistrationId(registration_id));
    }

    /// Takes in numbered events: replicas being received, received, deleted.
    ///
    /// # Errors
    /// `Stale` for an unknown registration.
    pub fn incremental_report(&self, request: &v1::BlockReceivedAndDeletedRequest) -> Result<()> {
        if request.events.len() > PAGE_REPLICAS_MAX {
            return Err(DfsError::new(ErrorKind::Protocol, format!("more than {PAGE_REPLICAS_MAX} events")));
        }
        self.lock().take_events(request)
    }

    /// A replica does not match its checksums: it is not read any more while another is there, and replaced. An empty
    /// storage uuid stands for the DataNode's only replica.
    pub fn report_bad_replica(&self, block: Block, datanode_uuid: &str, storage_uuid: &str) {
        self.lock().on_corrupt_replica(block.id, block.generation_stamp, datanode_uuid, storage_uuid);
    }

    /// A DataNode's own finding of bad replicas.
    pub fn report_bad_replicas(&self, request: &v1::ReportBadReplicasRequest) {
        let none = String::new();
        for (at, block) in request.blocks.iter().enumerate() {
            let storage_uuid = request.storage_uuids.get(at).unwrap_or(&none);
            self.report_bad_replica(block.into(), &request.datanode_uuid, storage_uuid);
        }
    }

    // --- once a second ---

    /// Liveness, safe mode, repair and deletion: to be called once a second, from a thread that may work for a while.
    pub fn tick(&self) {
        self.step(|state| {
            state.check_liveness();
            state.expire_duties();
            state.update_safe_mode();
        });
        self.step(SoftState::expire_pending);
        while self.step(|state| state.drain_some(SLICE)) {}
        while self.step(|state| state.catch_up(SLICE)) {}
        for _ in 0..SCANNED_PER_TICK / SLICE {
            if !self.step(|state| state.scan_some(SLICE)) {
                break;
            }
        }
        if self.step(|state| state.may_repair()) {
            self.repair();
            self.delete();
        }
        self.count_drained();
    }

    /// Counts the blocks that keep nodes from being decommissioned or going into maintenance.
    fn count_drained(&self) {
        for draining in self.step(SoftState::plan_draining) {
            let mut left = 0;
            for (storage, blocks) in &draining.blocks {
                let mut ids = blocks.iter().map(BlockId).peekable();
                while ids.peek().is_some() {
                    let slice = ids.by_ref().take(SLICE);
                    left += self.step(|state| slice.filter(|&id| state.holds_back(id, *storage)).count() as u64);
                }
            }
            self.step(|state| state.on_drain_counted(draining.node, left));
        }
    }

    /// One slice of a long piece of work. Whoever waits for the lock gets it next: a thread that takes it again at once
    /// would else keep calls waiting for as long as all slices together.
    fn step<R>(&self, work: impl FnOnce(&mut SoftState) -> R) -> R {
        let mut state = self.lock();
        let result = work(&mut state);
        MutexGuard::unlock_fair(state);
        result
    }

    fn repair(&self) {
        let (plan, mut budget) = self.step(SoftState::plan_repairs);
        let mut without_target = [0; PRIORITIES];
        let mut not_tried = [None; PRIORITIES];
        for slice in plan.chunks(SLICE / 32) {
            self.step(|state| {
                for &(id, priority) in slice {
                    let queue = priority as usize;
                    if budget == 0 || without_target[queue] == WITHOUT_TARGET_PER_TICK || !state.may_repair() {
                        not_tried[queue].get_or_insert(id);
                        continue;
                    }
                    match state.repair(id, priority) {
                        Repair::Ordered { cost } => budget = budget.saturating_sub(cost),
                        Repair::NoTarget => without_target[queue] += 1,
                        Repair::NotNow => {}
                    }
                }
            });
        }
        self.step(|state| state.queues.go_on_at(not_tried));
    }

    fn delete(&self) {
        let bad = self.step(SoftState::plan_bad);
        for slice in bad.chunks(SLICE / 8) {
            self.step(|state| slice.iter().for_each(|&id| state.drop_bad_replicas(id)));
        }
        let excess = self.step(SoftState::plan_excess);
        for slice in excess.chunks(SLICE / 8) {
            self.step(|state| slice.iter().for_each(|&id| state.drop_excess(id)));
        }
    }

    // --- for services ---

    /// Places for the replicas of a block, in the order of its pipeline; fewer than asked for when the cluster is small.
    ///
    /// # Errors
    /// `NoSpace` when there is none (or fewer than the minimum), `Unavailable` when no DataNode lives; the message counts
    /// the nodes by why they were refused.
    pub fn choose_targets(&self, request: &TargetRequest<'_>) -> Result<Vec<Target>> {
        self.lock().choose_targets(request)
    }

    /// The replicas of a block, nearest to the reader first. Without a reader, the pipeline of an open block in its order.
    pub fn locate(&self, id: BlockId, reader_ip: Option<&str>) -> Locations {
        let reader = reader_ip.and_then(parse_ip);
        self.lock().locate(id, reader)
    }

    /// Whether the block has its final length and had its minimum of replicas once.
    pub fn is_complete(&self, id: BlockId) -> bool {
        self.lock().map.get(id).is_some_and(|info| info.state() == BlockState::Complete)
    }

    /// Good replicas known, also on nodes that have died a moment ago.
    pub fn replica_count(&self, id: BlockId) -> usize {
        self.lock().map.replica_count(id)
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
        self.lock().set_host_rules(Arc::new(rules));
    }

    /// Every DataNode that has registered, by the names that racks are asked by.
    pub fn node_names(&self) -> Vec<NodeName> {
        self.lock().node_names()
    }

    /// Puts DataNodes, by uuid, on racks.
    pub fn set_racks(&self, racks: &[(String, String)]) {
        self.lock().set_racks(racks);
    }

    /// How blocks of the namespace stand, in the order given.
    pub fn block_health(&self, blocks: &[Block], with_locations: bool) -> Vec<v1::BlockHealth> {
        let mut health = Vec::with_capacity(blocks.len());
        for slice in blocks.chunks(SLICE / 8) {
            self.step(|state| health.extend(slice.iter().map(|&block| state.block_health(block, with_locations))));
        }
        health
    }

    /// Has replicas moved from one node to another, within the bounds of the request.
    ///
    /// # Errors
    /// `Busy` while another run moves, `NotFound` for a node that is not live, `Unavailable` in safe mode.
    pub fn move_replicas(&self, request: &MoveRequest<'_>) -> Result<Moves> {
        self.step(|state| state.move_replicas(request))
    }

    /// What repair has to do.
    pub fn repair_report(&self) -> v1::RepairReport {
        self.lock().repair_report()
    }

    /// Every DataNode that has registered, with its volumes.
    pub fn datanode_report(&self) -> Vec<v1::DatanodeReport> {
        self.lock().datanode_report()
    }

    /// Up to `limit` blocks of which no good replica is known, with their files.
    pub fn missing_blocks(&self, limit: usize) -> Vec<(BlockId, InodeId)> {
        self.lock().missing_blocks(limit)
    }

    /// Blocks with fewer replicas than they should have, as far as the walk after safe mode has come.
    pub fn under_replicated_count(&self) -> u64 {
        self.lock().under_replicated()
    }

    /// Copies that were ordered, or are awaited from pipelines.
    pub fn pending_count(&self) -> usize {
        self.lock().pending.len()
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
        self.lock().safe_mode.is_manual()
    }

    /// Whether safe mode is on, and a line for people.
    pub fn safe_mode_status(&self) -> (bool, String) {
        let state = self.lock();
        let status = state.safe_mode.status(state.counts.with_minimum, state.counts.complete, state.now);
        (!state.safe_mode.is_off(), status)
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

fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}
