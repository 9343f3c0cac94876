//! The daemons of the cluster. `namenode` and `datanode` never import each other: what they share is in `dfs-common` and
//! `dfs-proto`.

#[cfg(feature = "datanode")]
pub mod datanode;
#[cfg(any(feature = "namenode", feature = "nn-blocks", feature = "nn-journal", feature = "nn-core"))]
pub mod namenode;
