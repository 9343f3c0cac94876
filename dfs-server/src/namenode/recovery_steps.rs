//! Which step a file takes next whose writer is gone, and what is remembered of its steps before.
//!
//! `choose_step` is pure. What is remembered is soft: a new leader, or a NameNode started again, begins anew with a new id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dfs_common::block::Block;
use dfs_common::ids::{ClientId, InodeId};
use parking_lot::Mutex;
use tracing::warn;

use super::blocks::Holders;
use super::datanodes::RegistrationId;
use super::namespace::Namespace;

/// Time for the first primary to commit; a block of 128 MiB is verified by then on any disk worth having.
const PATIENCE_FIRST: Duration = Duration::from_secs(10);
/// Patience doubles up to this.
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// Files named in one line of the log.
const NAMED_MAX: usize = 8;

/// Recoveries under way.
#[derive(Default)]
pub(super) struct LeaseRecovery {
    pub(super) attempts: Mutex<BTreeMap<InodeId, Attempt>>,
    pub(super) pass: Mutex<Pass>,
}

/// How far the present pass over all files that wait is. One pass may take many rounds.
#[derive(Default)]
pub(super) struct Pass {
    /// The file looked at last; none at the beginning.
    pub(super) last: Option<(ClientId, InodeId)>,
    pub(super) seen: BTreeSet<InodeId>,
    pub(super) stuck: StuckFiles,
}

/// Files of which nobody has the last block, as far as they are told of in this pass.
#[derive(Default)]
pub(super) struct StuckFiles {
    count: usize,
    /// The first of them.
    named: Vec<(InodeId, Block)>,
}

impl StuckFiles {
    pub(super) fn add(&mut self, file: &Waiting) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push((file.inode, file.block));
        }
    }

    /// One line for all of them: there may be as many as files are written.
    pub(super) fn tell(&self) {
        if self.count == 0 {
            return;
        }
        let names = self.named.iter().map(|(inode, block)| format!("inode {inode} ({block})"));
        let names = names.collect::<Vec<_>>().join(", ");
        let more = if self.count > self.named.len() { ", ..." } else { "" };
        warn!(
            files = self.count,
            "no DataNode has the last block of {names}{more}; such a file stays open until one comes back with it, or, if no byte of that block \
             is on record, for an hour"
        );
    }
}

/// The latest try for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// Uuid of the DataNode that was asked; none if there was none to ask.
    pub(super) primary: Option<String>,
    /// Its registration then.
    pub(super) registration: Option<RegistrationId>,
    pub(super) since: Instant,
    /// Tries of its kind before this one: with somebody to ask, or without.
    pub(super) earlier: u32,
}

/// A file whose last block waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) inode: InodeId,
    /// Its length is what was promised to somebody, or what it is to be cut to.
    pub(super) block: Block,
    pub(super) is_truncating: bool,
    /// Uuids of the DataNodes of its last pipeline, as far as the log tells. None after a start from an image: not known.
    pub(super) pipeline: Vec<String>,
}

impl Waiting {
    /// The file as it is at this moment; none if it has no lease or no block.
    pub(super) fn of(namespace: &Namespace, inode: InodeId) -> Option<Self> {
        let lease = namespace.lease(inode)?;
        let last = namespace.inode(inode).ok()?.blocks()?.last()?;
        let pipeline = lease.targets.iter().map(|(uuid, _)| uuid.clone()).collect();
        Some(Self { inode, block: Block::from(*last), is_truncating: lease.is_truncating, pipeline })
    }

    /// Nobody has a byte of the block, nobody was promised one, and nobody who may have one is expected back.
    pub(super) fn may_be_dropped(&self, holders: &Holders) -> bool {
        let is_expected = !holders.live.is_empty() || holders.others_are_away || holders.dead_may_return;
        !is_expected && self.block.length == 0 && !self.is_truncating
    }

    /// Nobody else can have more of the block.
    fn is_everyone_here(&self, holders: &Holders) -> bool {
        let is_here = |uuid: &String| holders.live.iter().any(|node| node.uuid == *uuid);
        !self.pipeline.is_empty() && !holders.others_are_away && self.pipeline.iter().all(is_here)
    }
}

/// What to do for a file now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// Order the holder with this index to recover the block.
    Start(usize),
    /// Close the file without the block: nobody has it, nobody was promised a byte of it, and whoever may have it has been away
    /// for an hour.
    Drop,
    /// Nobody has the block, and it had bytes, or may have had: somebody must come back with it, or, if none is on record, an hour must
    /// pass.
    Stuck,
}

pub(super) fn patience(earlier: u32) -> Duration {
    PATIENCE_FIRST.saturating_mul(1 << earlier.min(8)).min(PATIENCE_MAX)
}

/// `is_starting`: the NameNode does not know yet which DataNodes there are.
pub(super) fn choose_step(
    waiting: &Waiting,
    holders: &Holders,
    last: Option<&Attempt>,
    is_starting: bool,
    now: Instant,
) -> Step {
    if is_starting && !waiting.is_everyone_here(holders) {
        return Step::Wait;
    }
    if let Some(last) = last {
        let is_over = now.saturating_duration_since(last.since) >= patience(last.earlier);
        let may_change = match &last.primary {
            // One that died, or has registered anew, will not commit: no need to wait out its time.
            Some(uuid) => {
                let is_live = holders.live.iter().any(|node| node.uuid == *uuid);
                is_live && holders.registration_of(uuid) == last.registration
            }
            None => holders.live.is_empty(),
        };
        if !is_over && may_change {
            return Step::Wait;
        }
    }
    if !holders.live.is_empty() {
        let asked = last.filter(|last| last.primary.is_some());
        let tries = asked.map_or(0, |last| last.earlier as usize + 1);
        return Step::Start(tries % holders.live.len());
    }
    if holders.others_are_away {
        Step::Wait
    } else if waiting.may_be_dropped(holders) {
        Step::Drop
    } else {
        Step::Stuck
    }
}

#[cfg(test)]
#[path = "recovery_steps_tests.rs"]
mod tests;
