//! Moves for the balancer: a replica is copied from a full node to an emptier one, then the source's is the one too many.
//!
//! A restart forgets moves, and that does no harm: the block of a move that is forgotten halfway has one replica too many,
//! which is deleted where space is short. A move never makes a block's placement worse.

use std::time::Duration;

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::BlockId;
use rand::Rng;
use smallvec::{SmallVec, smallvec};

use super::balancer_run::{BalancerRun, Move, Moved};
use super::block_manager::BlockManager;
use super::block_map::BlockState;
use super::pending::{Maker, Pending};
use super::state::SoftState;
use crate::namenode::datanodes::{NodeIndex, StorageIndex};
use crate::namenode::host_rules::Duty;

/// Silence after which a run of the balancer counts as ended.
const RUN_TIMEOUT: Duration = Duration::from_secs(30);

/// Replicas of one source on their way at a time: half of what its queue of orders holds.
const MOVES_PER_SOURCE: usize = 512;

/// The same for all sources together. Every call goes through all of them.
const MOVES_MAX: usize = 16_384;

/// Blocks of a source looked at per call, of all its volumes together.
const EXAMINED_PER_CALL: usize = 2_000;

/// Moves looked at in one step.
const COUNTED_PER_STEP: usize = 64;
/// Time in which a replica arrives, on top of what its source takes to send it and those before it at the balancer's pace.
const MOVE_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct MoveRequest<'a> {
    /// Names the run of the balancer.
    pub run: u64,
    /// Uuids of the nodes.
    pub source: &'a str,
    /// Where to.
    pub target: &'a str,
    /// Bytes of this source to have on their way at most.
    pub max_bytes: u64,
    /// Bytes per second; 0: the source's own limit.
    pub bandwidth: u64,
}

/// What was ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Replicas ordered by this call.
    pub replicas: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Replicas of the source on their way in all.
    pub on_their_way: u32,
    /// What this run has moved until now.
    pub moved: Moved,
}

/// One call at work.
struct MoveRound {
    source: NodeIndex,
    target: NodeIndex,
    bandwidth: u64,
    /// Replicas of the source on their way, and their bytes.
    under_way: usize,
    bytes_under_way: u64,
    moves: Moves,
}

impl BlockManager {
    /// Has replicas moved from one node to another, within the bounds of the request.
    ///
    /// # Errors
    /// `Busy` while another run moves, `NotFound` for a node that is not live, `ReadOnly` in safe mode.
    pub fn move_replicas(&self, request: &MoveRequest<'_>) -> Result<Moves> {
        let (mut round, candidates) = self.step(|state| state.begin_moves(request))?;
        self.walk(|state, from| state.count_moves_some(&mut round, from));
        let mut candidates = candidates.into_iter();
        self.repeat(|state| {
            let is_enough = round.under_way >= MOVES_PER_SOURCE || round.bytes_under_way >= request.max_bytes;
            if is_enough || state.moves.len() >= MOVES_MAX || !state.may_repair() {
                return false;
            }
            let Some((id, from)) = candidates.next() else { return false };
            state.move_replica(&mut round, id, from);
            true
        });
        Ok(Moves { on_their_way: u32::try_from(round.under_way).unwrap_or(u32::MAX), ..round.moves })
    }
}

impl SoftState {
    /// A call of the balancer, and the replicas that it may move.
    fn begin_moves(&mut self, request: &MoveRequest<'_>) -> Result<(MoveRound, Vec<(BlockId, StorageIndex)>)> {
        self.check_run(request.run)?;
        if !self.may_repair() {
            return Err(DfsError::new(ErrorKind::ReadOnly, "the NameNode is in safe mode: nothing is moved"));
        }
        let node = |uuid: &str| {
            let found = self.nodes.by_uuid(uuid).filter(|&index| self.nodes.node(index).is_live);
            found.ok_or_else(|| DfsError::new(ErrorKind::NotFound, format!("no live DataNode {uuid}")))
        };
        let (source, target) = (node(request.source)?, node(request.target)?);
        // A call that cannot move anything has not come so far, and keeps no other balancer out.
        let moves = Moves { moved: self.admit_run(request.run), ..Moves::default() };
        let round = MoveRound { source, target, bandwidth: request.bandwidth, under_way: 0, bytes_under_way: 0, moves };
        Ok((round, self.some_blocks_of(source)))
    }

    /// Counts some of the moves that are under way, from a block on, and forgets those that have ended otherwise. Gives where
    /// to go on.
    fn count_moves_some(&mut self, round: &mut MoveRound, from: BlockId) -> Option<BlockId> {
        let mut rest = self.moves.range(from..);
        let some: SmallVec<[(BlockId, StorageIndex); COUNTED_PER_STEP]> =
            rest.by_ref().take(COUNTED_PER_STEP).map(|(&id, moved)| (id, moved.from)).collect();
        let next = rest.next().map(|(&id, _)| id);
        for (id, from) in some {
            if !self.pending.contains_key(&id) && !self.excess.contains(&id) {
                self.moves.remove(&id);
            } else if self.nodes.storage(from).node == round.source {
                round.under_way += 1;
                round.bytes_under_way += self.map.get(id).map_or(0, |info| info.length);
            }
        }
        next
    }

    /// Orders the move of a replica, if the target may have it.
    fn move_replica(&mut self, round: &mut MoveRound, id: BlockId, from: StorageIndex) {
        let Some(to) = self.place_for_move(id, from, round.target) else { return };
        let Some(info) = self.map.get(id) else { return };
        let block = Block { id, generation_stamp: info.generation_stamp, length: info.length };
        round.moves.replicas += 1;
        round.moves.bytes += block.length;
        round.under_way += 1;
        round.bytes_under_way += block.length;
        self.order_balancing(block, round.source, to, round.bandwidth);
        let maker = Maker::Node { index: round.source, cost: 0 };
        let pending = Pending { targets: smallvec![to], maker, since: self.heard };
        self.pending.insert(id, Box::new(pending));
        let sending = round.bytes_under_way.checked_div(round.bandwidth).unwrap_or(0);
        self.moves.insert(id, Move { from, patience: MOVE_TIMEOUT + Duration::from_secs(sending) });
        self.recheck(id);
    }

    /// One balancer at a time: two would undo each other's work.
    fn check_run(&self, number: u64) -> Result<()> {
        let others = self.balancer.filter(|run| run.number != number);
        if others.is_some_and(|run| self.now.saturating_duration_since(run.last_call) < RUN_TIMEOUT) {
            return Err(DfsError::new(ErrorKind::Busy, "another balancer runs; let it end or stop it first"));
        }
        Ok(())
    }

    /// Takes the place that `check_run` found free; gives what this run has moved.
    fn admit_run(&mut self, number: u64) -> Moved {
        let same = self.balancer.filter(|run| run.number == number);
        let moved = same.map_or_else(Moved::default, |run| run.moved);
        self.balancer = Some(BalancerRun { number, last_call: self.now, moved });
        moved
    }

    /// The copy of a replica that is being moved has arrived.
    pub(crate) fn count_move(&mut self, id: BlockId) {
        let length = self.map.get(id).map_or(0, |info| info.length);
        if let Some(run) = &mut self.balancer {
            run.moved.replicas += 1;
            run.moved.bytes += length;
        }
    }

    /// Some blocks of a node, from a random place on, with the volume each lies on.
    fn some_blocks_of(&mut self, node: NodeIndex) -> Vec<(BlockId, StorageIndex)> {
        let mut found = Vec::new();
        let storages = self.nodes.node(node).storages.clone();
        let share = (EXAMINED_PER_CALL / storages.len().max(1)).max(1);
        for storage in storages {
            let blocks = &self.nodes.storage(storage).blocks;
            let count = blocks.len();
            if count == 0 {
                continue;
            }
            let first = blocks.select(self.random.random_range(0..count)).unwrap_or(0);
            let mut rest = blocks.iter();
            rest.advance_to(first);
            let round = rest.chain(blocks.iter().take_while(|&id| id < first));
            found.extend(round.take(share).map(|id| (BlockId(id), storage)));
        }
        found
    }

    /// The target's volume for a replica that may be moved there.
    fn place_for_move(&self, id: BlockId, from: StorageIndex, target: NodeIndex) -> Option<StorageIndex> {
        let info = self.map.get(id)?;
        let is_idle = info.queue().is_none() && !self.pending.contains_key(&id) && !self.bad.contains_key(&id);
        if info.state() != BlockState::Complete || !is_idle || self.excess.contains(&id) || info.length == 0 {
            return None;
        }
        let replicas = self.map.replicas(id);
        if !replicas.contains(&from) || replicas.iter().any(|&at| self.nodes.storage(at).node == target) {
            return None;
        }
        let node = self.nodes.node(target);
        let is_fit = node.duty == Duty::Serve && node.silent_for(self.heard) < self.config.stale_after;
        if !is_fit || replicas.iter().any(|&at| !self.nodes.is_usable(at) || self.nodes.storage(at).is_content_stale) {
            return None;
        }
        let mut after = replicas.clone();
        after.retain(|at| *at != from);
        let to = *node
            .storages
            .iter()
            .filter(|&&at| self.nodes.is_usable(at) && !self.nodes.storage(at).doomed.contains(id.0))
            .max_by_key(|&&at| self.nodes.storage(at).unscheduled(info.length))?;
        after.push(to);
        let has_room = self.nodes.storage(to).unscheduled(info.length) > info.length;
        let is_no_worse = self.is_well_placed(&after) || !self.is_well_placed(&replicas);
        (has_room && is_no_worse).then_some(to)
    }
}
