//! Choosing targets for a writer: the request and the answer of placement in the words of the protocol.

use dfs_common::error::Result;
use dfs_proto::v1;
use smallvec::SmallVec;

use super::parse_ip;
use super::placement::{Placement, Purpose};
use super::state::SoftState;
use crate::namenode::datanodes::NodeIndex;

/// What targets are asked for.
#[derive(Clone, Copy, Debug)]
pub struct TargetRequest<'a> {
    /// Replicas to place.
    pub replication: u32,
    /// Address of the writer; its own DataNode comes first.
    pub writer: Option<&'a str>,
    /// Uuids of DataNodes that failed this writer.
    pub exclude: &'a [String],
    /// Uuids of DataNodes that have the block already.
    pub chosen: &'a [String],
    /// Bytes that the block may come to.
    pub block_size: u64,
}

/// A chosen place for a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The DataNode.
    pub datanode: v1::DatanodeId,
    /// Its volume.
    pub storage_uuid: String,
}

impl SoftState {
    pub(crate) fn choose_targets(&mut self, request: &TargetRequest<'_>) -> Result<Vec<Target>> {
        let resolve = |uuids: &[String]| -> SmallVec<[NodeIndex; 4]> {
            uuids.iter().filter_map(|uuid| self.nodes.by_uuid(uuid)).collect()
        };
        let (chosen, excluded) = (resolve(request.chosen), resolve(request.exclude));
        let writer = request.writer.and_then(parse_ip);
        let placement = Placement {
            nodes: &self.nodes,
            now: self.now,
            stale_after: self.config.stale_after,
            block_size: request.block_size,
            wanted: request.replication as usize,
            writer: writer.map_or(&[], |ip| self.nodes.at_ip(ip)),
            chosen: &chosen,
            excluded: &excluded,
            purpose: Purpose::NewBlock,
        };
        let storages = placement.choose(&mut self.random);
        let minimum = if chosen.is_empty() { self.config.replication_min } else { 1 };
        if storages.len() < minimum {
            return Err(placement.explain(storages.len()));
        }
        let target = |&storage| Target {
            datanode: self.nodes.node_of(storage).id.clone(),
            storage_uuid: self.nodes.storage(storage).uuid.clone(),
        };
        let targets = storages.iter().map(target).collect();
        for storage in storages {
            self.nodes.end_turn(storage);
        }
        Ok(targets)
    }
}
