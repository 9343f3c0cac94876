//! What is done once a second: liveness, safe mode, repair and deletion. Every part goes in steps.

use super::block_manager::BlockManager;
use super::repair_queues::PRIORITIES;
use super::replication::Repair;
use super::state::SoftState;

/// Replicas of dead nodes forgotten, or blocks looked at, in one step.
const STEP_BLOCKS: usize = 64;

/// Blocks that one tick walks over when the repair queues are filled: bounds the tick, a hundred million blocks take a
/// minute and a half.
const SCANNED_PER_TICK: usize = 1 << 20;

/// Blocks for which no target is found, per tick and queue: each costs a look at every node. The walk through the queue goes
/// on from there next time.
const WITHOUT_TARGET_PER_TICK: usize = 256;

impl BlockManager {
    /// Liveness, safe mode, repair and deletion: to be called once a second, from a thread that may work for a while.
    pub fn tick(&self) {
        self.check_liveness();
        self.repeat(SoftState::replay_some);
        self.each(self.step(|state| state.expired_duties()), SoftState::apply_duty);
        self.step(SoftState::update_safe_mode);
        self.step(SoftState::ask_who_overflowed);
        self.expire_pending();
        self.repeat(|state| state.drain_some(STEP_BLOCKS));
        self.repeat(|state| state.catch_up(STEP_BLOCKS));
        // What was taken out whole is freed here, with no lock held.
        drop(self.step(SoftState::take_discarded));
        let mut steps = SCANNED_PER_TICK / STEP_BLOCKS;
        self.repeat(|state| {
            steps -= 1;
            state.scan_some(STEP_BLOCKS) && steps > 0
        });
        if self.step(|state| state.may_repair()) {
            self.repair();
            self.delete();
        }
        self.count_drained();
    }

    /// Declares nodes dead that have been silent for too long.
    fn check_liveness(&self) {
        let silent = self.step(|state| state.silent_nodes());
        let have_died = !silent.is_empty();
        self.each(silent, SoftState::on_node_silent);
        if have_died {
            self.forget_dead_writers();
        }
    }

    /// Nodes have died: looks again at who can still report committed blocks.
    pub(super) fn forget_dead_writers(&self) {
        self.walk(|state, from| state.forget_dead_writers_some(from, STEP_BLOCKS));
    }

    /// Gives up copies that have not come in time, or cannot come.
    fn expire_pending(&self) {
        self.walk(|state, from| state.expire_pending_some(from, STEP_BLOCKS));
    }

    fn repair(&self) {
        let (plan, mut budget) = self.step(SoftState::plan_repairs);
        let mut without_target = [0; PRIORITIES];
        let mut not_tried = [None; PRIORITIES];
        self.each(plan, |state, (id, priority)| {
            let queue = priority as usize;
            if budget == 0 || without_target[queue] == WITHOUT_TARGET_PER_TICK || !state.may_repair() {
                not_tried[queue].get_or_insert(id);
                return;
            }
            match state.repair(id, priority) {
                Repair::Ordered { cost } => budget = budget.saturating_sub(cost),
                Repair::NoTarget => without_target[queue] += 1,
                Repair::NotNow => {}
            }
        });
        self.step(|state| state.queues.go_on_at(not_tried));
    }

    fn delete(&self) {
        self.each(self.step(SoftState::plan_bad), SoftState::drop_bad_replicas);
        self.each(self.step(SoftState::plan_excess), SoftState::drop_excess);
    }

    /// Counts the blocks that keep nodes from being decommissioned or going into maintenance.
    fn count_drained(&self) {
        for (node, storages) in self.step(SoftState::plan_draining) {
            let mut left = 0;
            for storage in storages {
                self.walk(|state, from| state.count_held_back(storage, from, STEP_BLOCKS, &mut left));
            }
            self.step(|state| state.on_drain_counted(node, left));
        }
    }
}
