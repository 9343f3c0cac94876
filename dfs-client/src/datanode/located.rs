//! Located blocks from the NameNode, checked: a block, its place in the file, and its replicas, best first.

use std::sync::Arc;

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::hadoop::{DatanodeIdProto, DatanodeInfoProto};
use dfs_proto::v1;

use super::Datanodes;

/// Replicas named for one block: HDFS's greatest replication.
const REPLICAS_MAX: usize = 512;

/// A DataNode by identity and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) uuid: String,
    /// `host:port` of data transfer.
    pub(crate) data_address: String,
    /// `host:port` of gRPC.
    pub(crate) grpc_address: String,
    pub(crate) id: v1::DatanodeId,
}

/// One copy of a block.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) node: Arc<Node>,
    /// Volume at the node; empty when not known.
    pub(crate) storage_uuid: String,
}

/// A block of a file.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) block: ExtendedBlock,
    /// Where its first byte lies in the file.
    pub(crate) offset: u64,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) is_corrupt: bool,
    pub(crate) is_under_construction: bool,
    /// DataNodes that the NameNode has not heard yet may have more replicas.
    pub(crate) awaits_reports: bool,
}

impl TryFrom<v1::DatanodeId> for Node {
    type Error = DfsError;

    fn try_from(id: v1::DatanodeId) -> Result<Self> {
        let is_port = |port: u32| port != 0 && u16::try_from(port).is_ok();
        if id.uuid.is_empty() || id.host.is_empty() || !is_port(id.data_port) || !is_port(id.grpc_port) {
            return Err(DfsError::new(ErrorKind::Protocol, format!("DataNode without uuid, host or ports: {id:?}")));
        }
        let host = if id.host.contains(':') { format!("[{}]", id.host) } else { id.host.clone() };
        Ok(Self {
            uuid: id.uuid.clone(),
            data_address: format!("{host}:{}", id.data_port),
            grpc_address: format!("{host}:{}", id.grpc_port),
            id,
        })
    }
}

impl Node {
    /// As data transfer names it.
    pub(crate) fn to_info(&self) -> DatanodeInfoProto {
        DatanodeInfoProto {
            id: DatanodeIdProto {
                ip_addr: self.id.host.clone(),
                host_name: self.id.host.clone(),
                datanode_uuid: self.uuid.clone(),
                xfer_port: self.id.data_port,
                info_port: self.id.http_port,
                ipc_port: self.id.grpc_port,
                info_secure_port: None,
            },
            location: (!self.id.rack.is_empty()).then(|| self.id.rack.clone()),
            ..Default::default()
        }
    }
}

impl Located {
    /// Checks what the NameNode said.
    ///
    /// # Errors
    /// `Protocol` for an answer that makes no sense.
    pub(crate) fn new(datanodes: &Datanodes, located: v1::LocatedBlock, pool: &str) -> Result<Self> {
        let bad = |what: &str| DfsError::new(ErrorKind::Protocol, format!("located block {what}"));
        let block = Block::from(located.block.ok_or_else(|| bad("lacks its block"))?);
        if located.locations.len() > REPLICAS_MAX {
            return Err(bad(&format!("{block} has {} replicas", located.locations.len())));
        }
        if located.offset.checked_add(block.length).is_none() {
            return Err(bad(&format!("{block} ends above 2^64")));
        }
        let mut storages = located.storage_uuids.into_iter();
        let replicas = located.locations.into_iter().map(|id| {
            let node = datanodes.intern(Node::try_from(id)?);
            Ok(Replica { node, storage_uuid: storages.next().unwrap_or_default() })
        });
        Ok(Self {
            block: ExtendedBlock { pool: pool.to_owned(), block },
            offset: located.offset,
            replicas: replicas.collect::<Result<_>>()?,
            is_corrupt: located.corrupt,
            is_under_construction: located.under_construction,
            awaits_reports: located.awaits_reports,
        })
    }

    /// First byte of the file behind the block.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.block.block.length
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(host: &str, data_port: u32) -> v1::DatanodeId {
        v1::DatanodeId { uuid: "u".into(), host: host.into(), data_port, grpc_port: 2, ..Default::default() }
    }

    #[test]
    fn node_without_a_usable_address_is_refused() {
        assert!(Node::try_from(id("", 1)).is_err());
        assert!(Node::try_from(id("h", 0)).is_err());
        assert!(Node::try_from(id("h", 65_536)).is_err());
        assert_eq!(Node::try_from(id("h", 1)).unwrap().data_address, "h:1");
        assert_eq!(Node::try_from(id("::1", 1)).unwrap().data_address, "[::1]:1");
    }

    #[test]
    fn located_is_checked() {
        let datanodes = Datanodes::new(Duration::from_secs(1));
        let block = Some(v1::Block { id: 1, generation_stamp: 2, length: 3 });
        let good = v1::LocatedBlock { block, offset: 10, locations: vec![id("h", 1)], ..Default::default() };
        assert_eq!(Located::new(&datanodes, good.clone(), "BP-1").unwrap().end(), 13);
        let no_block = v1::LocatedBlock { block: None, ..good.clone() };
        assert!(Located::new(&datanodes, no_block, "BP-1").is_err());
        let beyond = v1::LocatedBlock { offset: u64::MAX, ..good.clone() };
        assert!(Located::new(&datanodes, beyond, "BP-1").is_err());
        let crowd = v1::LocatedBlock { locations: vec![id("h", 1); 513], ..good };
        assert!(Located::new(&datanodes, crowd, "BP-1").is_err());
    }
}
