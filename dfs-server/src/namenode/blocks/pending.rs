//! A block's copies that are on their way.

use smallvec::SmallVec;

use crate::namenode::datanodes::{NodeIndex, StorageIndex};
use crate::namenode::listening::ListeningTime;

/// Copies that are on their way.
pub(crate) struct Pending {
    /// Where they will be.
    pub targets: SmallVec<[StorageIndex; 3]>,
    pub maker: Maker,
    pub since: ListeningTime,
}

/// Who makes copies.
#[derive(Clone, Copy)]
pub(crate) enum Maker {
    /// A writer's pipeline, which has stood since then: its members have them, and will say so.
    Pipeline { since: ListeningTime },
    /// A node was told to send them; what that costs.
    Node { index: NodeIndex, cost: u32 },
}

impl Pending {
    /// Members of the pipeline that acknowledged the block, and have not reported it yet.
    pub(crate) fn members(&self) -> &[StorageIndex] {
        match self.maker {
            Maker::Pipeline { .. } => &self.targets,
            Maker::Node { .. } => &[],
        }
    }

    /// The node that was told to send the copies, and what that costs.
    pub(crate) fn source(&self) -> Option<(NodeIndex, u32)> {
        match self.maker {
            Maker::Pipeline { .. } => None,
            Maker::Node { index, cost } => Some((index, cost)),
        }
    }
}
