//! Bounds of what is kept for replicas, and which volumes have met them.

use std::collections::BTreeSet;

use crate::namenode::datanodes::StorageIndex;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Deletions that are decided and not confirmed, per volume. Keeps the removal of a huge tree from filling memory: about
    /// 60 bytes each.
    pub deletions: usize,
    /// Reported replicas that the log applied here does not explain yet, over all volumes. A follower that lags sees many.
    pub set_aside: usize,
    /// The same for one volume, so that no DataNode takes all the room.
    pub set_aside_per_volume: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deletions: 1_000_000, set_aside: 1_000_000, set_aside_per_volume: 250_000 }
    }
}

/// What was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// A deletion.
    Deletion,
    /// A replica that the log applied here does not explain yet.
    SetAside,
}

/// Volumes of which something was left out, by the list that had no room. Two lists, because replicas that are set aside may stay
/// for good: that must not keep a volume from being asked for its deletions.
#[derive(Debug, Default)]
pub(crate) struct Overflowed {
    pub deletions: BTreeSet<StorageIndex>,
    pub set_aside: BTreeSet<StorageIndex>,
}
