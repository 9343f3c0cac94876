//! A block's copies that are on their way.

use smallvec::SmallVec;

use crate::namenode::datanodes::{NodeIndex, StorageIndex};
use crate::namenode::listening::ListeningTime;

/// Copies that are on their way.
pub(crate) struct Pending {
    /// Where they will be.
    pub targets: SmallVec<[StorageIndex; 3]>,
    /// Who sends them and what that costs; none while a writer's pipeline reports.
    pub source: Option<(NodeIndex, u32)>,
    pub since: ListeningTime,
}
