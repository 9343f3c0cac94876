//! The client library: what a program, the `dfs` command and the mount use to reach a cluster.
//!
//! A [`DfsClient`] is a cheap handle. Metadata calls go to the NameNode, one RPC each, named as HDFS names them and
//! speaking inode ids; [`DfsClient::resolve`] walks paths for those who have paths. Bytes go straight to and from the
//! DataNodes through [`FileWriter`] and [`FileReader`].
//!
//! ```text
//! client/       DfsClient: one method per RPC, path walk, opening of files
//! write/        FileWriter -> pipeline -> packets           read/   FileReader -> prefetch -> block reader
//! settle, lease_renewer   what goes on in the background while a session lives
//! client_core/  what all of these share, and the road of their calls
//! datanode/     connections to DataNodes: pool of data connections, gRPC channels, which nodes failed lately
//! rpc/          the way to the NameNode: dialling, failover, sessions, retry ids
//! ```
//!
//! Each knows only those below it, but for the budget of reading ahead, which all readers share by way of the core.
//!
//! Everything runs on the tokio runtime that the caller is in. Dropping the last handle stops the background work; only
//! [`DfsClient::close`] also ends the session at the NameNode, and so frees leases at once.

mod caller;
mod client;
mod client_core;
mod config;
mod datanode;
mod lease_renewer;
mod read;
mod rpc;
mod settle;
mod write;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod fake_cluster;
#[cfg(test)]
mod settle_tests;

pub use caller::Caller;
pub use client::{
    AdminState, BlockHealth, ClusterReport, ContentSummary, CreateOptions, CreatedFile, DatanodeReport, DatanodeState,
    DfsClient, DirEntry, FileHealth, FileTurn, FilesHealth, FsStats, HeldInode, Listing, MoveStep, Moves, RenameFlag,
    RepairReport, ReplicaHealth, SafeModeAction, SafeModeStatus, SetAttr, TimeSet, Turn, VolumeReport, XAttrSetFlag,
};
pub use client_core::ServerDefaults;
pub use config::ClientConfig;
pub use read::{BlockLocation, FileReader, ReplicaLocation, Shown};
pub use write::{FileWriter, Privileges, SyncLevel};
