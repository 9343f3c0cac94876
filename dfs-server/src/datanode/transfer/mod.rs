//! The data plane: blocks in and out over plain TCP, by Hadoop's data transfer protocol.
//!
//! One thread serves one connection, one operation after another (`data_service`). A write is the busiest of them: its
//! thread receives packets, forwards them to the next node, writes them, and passes acks back, all by itself
//! (`block_receiver`); reads are `block_sender`'s, copies to other nodes `block_copier`'s
//! (ordered by a writer whose pipeline lost a node: `replica_transfer`). `connection` and `peer_pool` are
//! what they stand on.

mod acks;
mod block_checksum;
mod block_copier;
mod block_receiver;
mod block_sender;
mod connection;
pub(crate) mod data_service;
mod mirror;
mod pace;
mod peer_pool;
mod replica_transfer;
mod reply;
mod upstream;
mod write_setup;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod lost_power_tests;
#[cfg(test)]
mod patience_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
pub(crate) mod test_client;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use super::metrics::Metrics;
use super::store::ReplicaStore;

pub(crate) use block_copier::{Turns, copy_block};
pub(crate) use pace::Pace;
pub(crate) use peer_pool::PeerPool;
pub(crate) use upstream::Pulse;
pub(crate) use write_setup::DropBehind;

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
