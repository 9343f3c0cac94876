//! The numbers by which DataNodes, their volumes and racks are named in this run of the NameNode.

/// Number of a DataNode in this run of the NameNode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub(crate) u32);

/// Number of a DataNode's volume in this run of the NameNode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageIndex(pub(crate) u32);

/// Number of a rack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RackIndex(pub(super) u32);
