//! Choosing targets for a writer: the request and the answer of placement in the words of the protocol.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1;
use smallvec::SmallVec;

use super::locate::parse_ip;
use super::placement::{Placement, Purpose};
use super::state::SoftState;
use crate::namenode::datanodes::{NodeIndex, StorageIndex};

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

/// Most DataNodes that a request may ask for: the highest replication.
const TARGETS_MAX: usize = 512;

/// Most DataNodes that a request may name: more than any writer has met.
const NAMED_MAX: usize = 1_000;

/// A chosen place for a replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The DataNode.
    pub datanode: v1::DatanodeId,
    /// Its volume.
    pub storage_uuid: String,
}

impl SoftState {
    /// Checks the pipeline that a writer names: every member is a volume of a DataNode that has registered. What is not known
    /// here finds no way into the log, and from there into every table that follows it.
    pub(crate) fn check_pipeline(&self, datanodes: &[String], storages: &[String]) -> Result<()> {
        if datanodes.len() != storages.len() || datanodes.len() > TARGETS_MAX {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                "the pipeline's DataNodes and volumes are malformed",
            ));
        }
        for (uuid, storage) in datanodes.iter().zip(storages) {
            if self.registered_volume(uuid, storage).is_none() {
                // After a restart it may register in a moment.
                let message = format!("no DataNode {uuid:.64} with volume {storage:.64} has registered; try again");
                return Err(DfsError::new(ErrorKind::Unavailable, message));
            }
        }
        Ok(())
    }

    /// The volume of a DataNode that has registered. It may be one that only an op has named.
    pub(crate) fn registered_volume(&self, uuid: &str, storage_uuid: &str) -> Option<StorageIndex> {
        let node = self.nodes.by_uuid(uuid).filter(|&node| self.nodes.node(node).registration.is_some())?;
        self.nodes.find_storage(node, storage_uuid)
    }

    pub(crate) fn choose_targets(&mut self, request: &TargetRequest<'_>) -> Result<Vec<Target>> {
        let wanted = request.replication as usize;
        if wanted > TARGETS_MAX || request.exclude.len() > NAMED_MAX || request.chosen.len() > NAMED_MAX {
            let message = format!("above {TARGETS_MAX} DataNodes are asked for or above {NAMED_MAX} are named");
            return Err(DfsError::new(ErrorKind::InvalidArgument, message));
        }
        let resolve = |uuids: &[String]| -> SmallVec<[NodeIndex; 4]> {
            uuids.iter().filter_map(|uuid| self.nodes.by_uuid(uuid)).collect()
        };
        let (chosen, excluded) = (resolve(request.chosen), resolve(request.exclude));
        let writer = request.writer.and_then(parse_ip);
        let placement = Placement {
            nodes: &self.nodes,
            now: self.heard,
            stale_after: self.config.stale_after,
            block_size: request.block_size,
            wanted,
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
