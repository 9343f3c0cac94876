//! The daemons of the cluster. `namenode` and `datanode` never import each other: what they share is in `dfs-common` and
//! `dfs-proto`.

#[cfg(feature = "datanode")]
pub mod datanode;
#[cfg(feature = "namenode")]
pub mod namenode;
#[cfg(feature = "namenode")]
pub mod secondary;
