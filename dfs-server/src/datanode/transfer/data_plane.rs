//! What every operation of the data plane needs, made once when the DataNode starts.

use std::sync::Arc;
use std::time::Duration;

use super::drop_behind::DropBehind;
use super::pace::Pace;
use super::peer_pool::PeerPool;
use super::upstream::Pulse;
use crate::datanode::metrics::Metrics;
use crate::datanode::store::ReplicaStore;

/// What every operation needs.
#[derive(Debug)]
pub(crate) struct DataPlane {
    /// The replicas.
    pub(crate) store: Arc<ReplicaStore>,
    /// Idle connections to other DataNodes.
    pub(crate) peers: PeerPool,
    /// Signs of life for writes that wait for a disk.
    pub(crate) pulse: Pulse,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Silence after which a transfer is given up.
    pub(crate) timeout: Duration,
    /// What copies for the balancer may take of the network.
    pub(crate) balance_pace: Pace,
    /// Which writes drop what they wrote from the page cache.
    pub(crate) drop_behind: DropBehind,
}
