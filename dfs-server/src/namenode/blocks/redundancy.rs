//! How well a block is secured: its replicas by what their nodes are about to do.
//!
//! A replica on a node that is being decommissioned can be read and copied but does not count. One on a node in maintenance
//! counts, also while the node is away, as long as a serving node has the block (or will have it) as well.

use super::block_map::StorageList;
use super::repair_queues::Priority;
use super::state::SoftState;
use crate::namenode::datanodes::NodeIndex;
use crate::namenode::host_rules::Duty;

/// Good replicas on distinct nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Redundancy {
    /// On nodes that serve.
    pub serving: usize,
    /// On nodes that are to be decommissioned.
    pub leaving: usize,
    /// On nodes in maintenance that are there, and that are away.
    pub maintained: usize,
    pub away: usize,
    /// Copies on their way.
    pub pending: usize,
}

impl Redundancy {
    /// Replicas that somebody can read.
    pub(crate) fn readable(&self) -> usize {
        self.serving + self.leaving + self.maintained
    }

    /// Copies to be made.
    pub(crate) fn missing(&self, wanted: usize) -> usize {
        let firm = self.serving + self.pending;
        let missing = wanted.saturating_sub(firm + self.maintained + self.away);
        if firm == 0 { missing.max(1).min(wanted) } else { missing }
    }

    /// How urgently it must be copied, if at all: by how near it is to being lost.
    pub(crate) fn choose_priority(&self, wanted: usize, is_well_placed: bool) -> Option<Priority> {
        let readable = self.readable();
        if readable == 0 {
            Some(Priority::NoneLeft)
        } else if self.missing(wanted) == 0 {
            (!is_well_placed && self.pending == 0).then_some(Priority::Misplaced)
        } else if readable == 1 {
            Some(Priority::OneLeft)
        } else if readable * 3 < wanted {
            Some(Priority::VeryLow)
        } else {
            Some(Priority::Low)
        }
    }
}

impl SoftState {
    /// Counts replicas by their nodes' duties; two on one node count once.
    pub(crate) fn redundancy(&self, replicas: &StorageList, pending: usize) -> Redundancy {
        let mut counts = Redundancy { pending, ..Redundancy::default() };
        let node = |at: usize| -> NodeIndex { self.nodes.storage(replicas[at]).node };
        for at in 0..replicas.len() {
            let index = node(at);
            if (0..at).any(|other| node(other) == index) {
                continue;
            }
            let node = self.nodes.node(index);
            match node.duty {
                Duty::Serve => counts.serving += 1,
                Duty::Decommission => counts.leaving += 1,
                Duty::Maintain { .. } if node.is_live => counts.maintained += 1,
                Duty::Maintain { .. } => counts.away += 1,
            }
        }
        counts
    }

    /// The replicas on nodes that serve.
    pub(crate) fn serving_replicas(&self, replicas: &StorageList) -> StorageList {
        let serves = |storage| self.nodes.node_of(storage).duty == Duty::Serve;
        replicas.iter().copied().filter(|&storage| serves(storage)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choose_priority_is_this_table() {
        use Priority::{Low, Misplaced, NoneLeft, OneLeft, VeryLow};
        // (serving, leaving, maintained, away, pending, wanted, missing, priority)
        for (serving, leaving, maintained, away, pending, wanted, missing, expected) in [
            (3, 0, 0, 0, 0, 3, 0, None),
            (0, 0, 0, 0, 0, 3, 3, Some(NoneLeft)),
            (1, 0, 0, 0, 0, 3, 2, Some(OneLeft)),
            (1, 0, 0, 0, 2, 3, 0, None),
            (1, 0, 0, 0, 1, 3, 1, Some(OneLeft)),
            (2, 0, 0, 0, 0, 7, 5, Some(VeryLow)),
            (2, 1, 0, 0, 0, 3, 1, Some(Low)),
            (0, 3, 0, 0, 0, 3, 3, Some(Low)),
            (0, 1, 0, 0, 0, 1, 1, Some(OneLeft)),
            (2, 0, 1, 0, 0, 3, 0, None),
            (2, 0, 0, 1, 0, 3, 0, None),
            (0, 0, 3, 0, 0, 3, 1, Some(Low)),
            (0, 0, 3, 0, 1, 3, 0, None),
            (0, 0, 1, 0, 0, 1, 1, Some(OneLeft)),
            (0, 0, 0, 1, 0, 1, 1, Some(NoneLeft)),
        ] {
            let counts = Redundancy { serving, leaving, maintained, away, pending };
            assert_eq!(counts.missing(wanted), missing, "{counts:?} of {wanted}");
            assert_eq!(counts.choose_priority(wanted, true), expected, "{counts:?} of {wanted}");
        }
        let enough = Redundancy { serving: 3, ..Redundancy::default() };
        assert_eq!(enough.choose_priority(3, false), Some(Misplaced));
        assert_eq!(Redundancy { pending: 1, ..enough }.choose_priority(3, false), None);
    }
}
