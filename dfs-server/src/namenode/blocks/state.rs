//! The soft state under the block manager's lock. The elementary steps by which it changes are in `replica_steps`.
//!
//! Every replica that is known stands in exactly one of these places:
//!
//! - in the block map: a good replica of a committed or complete block;
//! - in `open`: reported for a block that is being written;
//! - in `bad`: to be replaced, then deleted;
//! - in `set_aside`: of a block or generation that the log applied here does not explain (a storage may be in the block map
//!   for the generation before at the same time);
//!
//! and then its storage's `blocks` has the id. Replicas whose deletion was decided are in the storage's `doomed` instead.
//! Further invariants: a block under construction has no good replicas and has an entry in `open`; each target in `open` or
//! `pending` holds one unit of its storage's `scheduled_blocks`; the queue named in a block's slot is the one it stands in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use dfs_common::ids::{BlockId, GenerationStamp};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use smallvec::SmallVec;

use super::backlog::Backlog;
use super::balancer_run::{BalancerRun, Move};
use super::block_map::{BlockMap, BlockState};
use super::disposition::{BadReason, ReportedReplica};
use super::limits::{Limits, Overflowed};
use super::pending::Pending;
use super::repair_queues::RepairQueues;
use super::settings::Settings;
use crate::namenode::datanodes::{Datanodes, Discarded, NodeIndex, StorageIndex};
use crate::namenode::host_rules::HostRules;
use crate::namenode::listening::ListeningTime;
use crate::namenode::namespace::lost_ids::LostIds;
use crate::namenode::safe_mode::SafeMode;

/// What is known of a block while it is being written, and until its minimum of replicas has been reported.
#[derive(Default)]
pub(crate) struct OpenBlock {
    /// The pipeline, in its order.
    pub targets: SmallVec<[StorageIndex; 3]>,
    /// Since when it has stood.
    pub since: ListeningTime,
    /// What DataNodes said they have of it.
    pub reported: SmallVec<[(StorageIndex, ReportedReplica); 3]>,
}

/// A replica that must not be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BadReplica {
    pub storage: StorageIndex,
    pub reason: BadReason,
    pub generation_stamp: GenerationStamp,
    pub length: u64,
}

/// The bad replicas of a block.
pub(crate) type BadList = SmallVec<[BadReplica; 1]>;

/// Blocks by how many good replicas they have. Complete blocks only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub complete: u64,
    /// At least the minimum.
    pub with_minimum: u64,
    /// At least one.
    pub with_any: u64,
}

/// Everything the block manager knows.
pub(crate) struct SoftState {
    pub config: Settings,
    pub random: SmallRng,
    pub map: BlockMap,
    pub open: BTreeMap<BlockId, Box<OpenBlock>>,
    pub bad: BTreeMap<BlockId, BadList>,
    pub set_aside: BTreeMap<(BlockId, StorageIndex), ReportedReplica>,
    pub pending: BTreeMap<BlockId, Box<Pending>>,
    pub queues: RepairQueues,
    /// Blocks with more replicas than they need.
    pub excess: BTreeSet<BlockId>,
    /// Blocks being moved by the balancer.
    pub moves: BTreeMap<BlockId, Move>,
    pub balancer: Option<BalancerRun>,
    /// What the operator's files say of DataNodes.
    pub rules: Arc<HostRules>,
    pub nodes: Datanodes,
    pub safe_mode: SafeMode,
    pub counts: Counts,
    /// Ids below were allocated at some time.
    pub allocated_limit: BlockId,
    /// But for these, of which nobody knows.
    pub lost: Vec<LostIds>,
    /// Blocks of which replicas of a lost generation were reported since the last look.
    pub outgrown: BTreeSet<BlockId>,
    /// This NameNode leads and has applied an entry of its own term.
    pub is_active: bool,
    /// Since when, if it does.
    pub active_since: ListeningTime,
    /// Dead or failed storages whose replicas are being forgotten.
    pub draining: VecDeque<StorageIndex>,
    /// Replicas on them that have not been looked at yet.
    pub to_drain: u64,
    /// Lists taken out whole, to be freed while nobody waits for the lock.
    pub discarded: Vec<Discarded>,
    /// Nodes whose events waited for a full report that has ended.
    pub replaying: VecDeque<NodeIndex>,
    pub limits: Limits,
    /// Volumes of which something was left out for want of room.
    pub overflowed: Overflowed,
    /// Blocks with a bad replica that is more than outdated.
    pub corrupt_blocks: u64,
    /// Changes of the namespace that were put off.
    pub backlog: Backlog,
    /// Where the walk over all blocks that fills the repair queues stands.
    pub scan: Option<BlockId>,
    /// Where the walks over `bad` and `excess` stand.
    pub cursors: Cursors,
    pub next_registration: u64,
    /// When the lock was taken last.
    pub now: Instant,
    /// The same in nanoseconds since 1970.
    pub now_ns: i64,
    /// The same by the clock that silences are measured by.
    pub heard: ListeningTime,
    /// When it was last counted what drained nodes hold alone.
    pub last_count: Option<Instant>,
}

/// Walks that go on with the next tick.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursors {
    pub bad: BlockId,
    pub excess: BlockId,
}

impl SoftState {
    pub(crate) fn new(config: Settings, seed: u64, now: Instant) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        // Registrations of an earlier run must not be taken for this one's; half the range leaves room to count up.
        let next_registration = rand::Rng::random::<u64>(&mut random) >> 1;
        Self {
            random,
            map: BlockMap::default(),
            open: BTreeMap::new(),
            bad: BTreeMap::new(),
            set_aside: BTreeMap::new(),
            pending: BTreeMap::new(),
            queues: RepairQueues::default(),
            excess: BTreeSet::new(),
            moves: BTreeMap::new(),
            balancer: None,
            rules: Arc::default(),
            nodes: Datanodes::default(),
            safe_mode: SafeMode::new(config.safe_mode_threshold, config.safe_mode_extension),
            counts: Counts::default(),
            allocated_limit: BlockId(0),
            lost: Vec::new(),
            outgrown: BTreeSet::new(),
            is_active: false,
            active_since: ListeningTime::default(),
            draining: VecDeque::new(),
            to_drain: 0,
            discarded: Vec::new(),
            replaying: VecDeque::new(),
            limits: Limits::default(),
            overflowed: Overflowed::default(),
            corrupt_blocks: 0,
            backlog: Backlog::default(),
            scan: None,
            cursors: Cursors::default(),
            next_registration,
            now,
            now_ns: 0,
            heard: ListeningTime::default(),
            last_count: None,
            config,
        }
    }

    /// Blocks of dead writers may be recovered: automatic safe mode holds back only repair and deletion.
    pub(crate) fn may_recover(&self) -> bool {
        self.is_active && !self.safe_mode.is_manual()
    }

    /// Repair and deletion are allowed.
    pub(crate) fn may_repair(&self) -> bool {
        self.is_active && self.safe_mode.is_off()
    }

    pub(crate) fn standing(&self, id: BlockId) -> Counts {
        if self.map.get(id).is_none_or(|info| info.state() != BlockState::Complete) {
            return Counts::default();
        }
        let replicas = self.map.replica_count(id);
        Counts {
            complete: 1,
            with_minimum: u64::from(replicas >= self.config.replication_min),
            with_any: u64::from(replicas > 0),
        }
    }

    /// Changes a block in the map and keeps the counts right.
    pub(crate) fn change<R>(&mut self, id: BlockId, step: impl FnOnce(&mut BlockMap) -> R) -> R {
        let before = self.standing(id);
        let result = step(&mut self.map);
        let after = self.standing(id);
        let counts = &mut self.counts;
        counts.complete = counts.complete + after.complete - before.complete;
        counts.with_minimum = counts.with_minimum + after.with_minimum - before.with_minimum;
        counts.with_any = counts.with_any + after.with_any - before.with_any;
        result
    }

    /// Moves the counting of safe mode on; when its automatic part ends, the walk that fills the queues begins.
    pub(crate) fn update_safe_mode(&mut self) {
        if self.safe_mode.has_started_up() {
            return;
        }
        self.safe_mode.on_counts(self.counts.with_minimum, self.counts.complete, self.now);
        if self.safe_mode.has_started_up() {
            tracing::info!(blocks = self.counts.complete, "safe mode is off");
            self.scan = Some(BlockId(0));
        }
    }
}
