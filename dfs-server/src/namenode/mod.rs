//! The NameNode: the namespace in memory, every change of it in a replicated log first, and what DataNodes tell about
//! replicas.
//!
//! ```text
//!   service/*  ->  namesystem  ->  journal  ->  machine  ->  apply  ->  namespace      durable
//!                       |                          |
//!                       +-------> blocks <---------+  block events                     soft: rebuilt from reports
//! ```
//!
//! `daemon` puts the parts together. Lock order: the delegations', the namespace's, the block manager's; none is held
//! across an await.

pub mod apply;
pub mod bench;
pub mod blocks;
mod checkpointer;
pub mod checkpoints;
mod client_sessions;
pub mod daemon;
pub mod datanodes;
mod delegations;
mod file_blocks;
pub mod fold;
pub mod fsck;
mod handover;
mod host_pattern;
pub mod host_rules;
pub mod http;
pub mod image;
pub mod import;
pub mod journal;
mod lease_calls;
mod lease_recovery;
mod lease_watch;
pub mod listening;
pub mod lock_times;
pub mod machine;
pub mod namespace;
pub mod namesystem;
mod new_identity;
pub mod node_files;
pub mod outcome;
mod racks;
mod recovery_steps;
mod room;
pub mod safe_mode;
pub mod service;
pub mod storage_dir;
mod tree_checks;
mod trees;

pub use daemon::{Addresses, format, run};
pub use import::import_checkpoint;
