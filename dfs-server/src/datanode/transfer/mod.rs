//! The data plane: blocks in and out over plain TCP, by Hadoop's data transfer protocol.
//!
//! One thread serves one connection, one operation after another (`data_service`). A write is the busiest of them: its
//! thread receives packets, forwards them to the next node, writes them, and passes acks back, all by itself
//! (`block_receiver`); reads are `block_sender`'s, copies to other nodes `block_copier`'s
//! (ordered by a writer whose pipeline lost a node: `replica_transfer`). `connection` and `peer_pool` are
//! what they stand on.

mod acks;
mod after;
mod block_checksum;
mod block_copier;
mod block_receiver;
mod block_sender;
mod connection;
mod data_plane;
pub(crate) mod data_service;
mod drop_behind;
mod mirror;
mod pace;
mod peer_pool;
mod replica_transfer;
mod reply;
mod stage;
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

pub(crate) use block_copier::{Turns, copy_block};
pub(crate) use data_plane::DataPlane;
pub(crate) use drop_behind::DropBehind;
pub(crate) use pace::Pace;
pub(crate) use peer_pool::PeerPool;
pub(crate) use upstream::Pulse;
