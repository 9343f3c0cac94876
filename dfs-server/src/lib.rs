//! The daemons of the cluster. `namenode` and `datanode` never import each other: what they share is in `dfs-common` and
//! `dfs-proto`, and here: what both listen with, what their pages have in common, and how they tell how far their start is.

#[cfg(feature = "namenode")]
mod blocking;
#[cfg(feature = "datanode")]
pub mod datanode;
mod last_work;
mod listen;
#[cfg(feature = "namenode")]
pub mod namenode;
mod openmetrics;
mod pages;
#[cfg(feature = "namenode")]
mod pieces;
#[cfg(all(test, feature = "namenode"))]
mod power_cut;
#[cfg(feature = "namenode")]
pub mod secondary;
pub mod start_progress;

/// A daemon at work, until it ends. Boxed: otherwise it would be compiled anew in the program that waits for it.
pub type Running<'a> = futures::future::BoxFuture<'a, dfs_common::Result<()>>;

/// Told once where a daemon listens.
pub type OnReady<'a, A> = Box<dyn FnOnce(A) + Send + 'a>;
