//! What is known of the balancer: its run, and the replicas that are on their way for it.

use std::time::{Duration, Instant};

use crate::namenode::datanodes::StorageIndex;

/// A replica on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    /// The storage that it leaves.
    pub from: StorageIndex,
    /// Time after which it counts as lost.
    pub patience: Duration,
}

/// The run that has the right to move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BalancerRun {
    pub(super) number: u64,
    pub(super) last_call: Instant,
    pub(super) moved: Moved,
}

/// What a run has moved: the new replica is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Replicas.
    pub replicas: u64,
    /// Their bytes.
    pub bytes: u64,
}
