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
pub mod checkpoint;
mod client_sessions;
pub mod daemon;
pub mod datanodes;
mod delegations;
pub mod fsck;
mod handover;
pub mod http;
pub mod image;
pub mod import;
pub mod journal;
mod lease_recovery;
pub mod listening;
pub mod lock_times;
pub mod machine;
pub mod namespace;
pub mod namesystem;
pub mod node_files;
pub mod outcome;
pub mod safe_mode;
pub mod service;
pub mod storage_dir;
mod trees;

pub use daemon::{format, run};
pub use import::import_checkpoint;
