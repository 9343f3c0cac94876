//! Located blocks from the NameNode, checked: a block, its place in the file, and its replicas, best first.

use std::sync::Arc;

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1;

use super::Datanodes;
use super::node::Node;

/// Replicas named for one block: HDFS's greatest replication.
const REPLICAS_MAX: usize = 512;

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

    /// It was allocated, and for all that the NameNode knows its writer has not sent a byte yet.
    pub(crate) fn may_be_unbegun(&self) -> bool {
        self.is_under_construction && self.block.block.length == 0
    }

    /// Its writer has not sent a byte yet, when so many of its DataNodes say that they have nothing of it.
    pub(crate) fn is_unbegun(&self, without_it: usize) -> bool {
        self.may_be_unbegun() && without_it > 0 && without_it == self.replicas.len()
    }

    /// Checks a length that a DataNode tells of it.
    ///
    /// # Errors
    /// `Protocol` when it makes no sense.
    pub(crate) fn checked_length(&self, length: u64) -> Result<u64> {
        let is_possible = self.offset.checked_add(length).is_some();
        let words = || format!("{} has {length} bytes, for a DataNode, and ends above 2^64", self.block);
        is_possible.then_some(length).ok_or_else(|| DfsError::new(ErrorKind::Protocol, words()))
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

    #[test]
    fn checked_length_refuses_what_no_file_can_have() {
        let datanodes = Datanodes::new(Duration::from_secs(1));
        let block = Some(v1::Block { id: 1, generation_stamp: 2, length: 0 });
        let located = v1::LocatedBlock { block, offset: 10, ..Default::default() };
        let located = Located::new(&datanodes, located, "BP-1").unwrap();
        assert_eq!(located.checked_length(u64::MAX - 10).unwrap(), u64::MAX - 10);
        assert_eq!(located.checked_length(u64::MAX - 9).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
