//! A DataNode by identity and addresses, as the NameNode names it, checked.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::hadoop::{DatanodeIdProto, DatanodeInfoProto};
use dfs_proto::v1;

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

#[cfg(test)]
mod tests {
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
}
