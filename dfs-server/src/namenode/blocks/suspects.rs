//! Replicas that somebody says are corrupt: whom that is believed of, and what follows.
//!
//! ```text
//!  a reader says so --> suspect --order: verify--> its DataNode reads it whole
//!                                                     |           |   ReportBadReplicas after verifying, and a mark in
//!                                                   good         bad  each full report
//!                                                     |           |
//!                                          well (again)       not read while another is there, replaced, then deleted;
//!                                                             the other replicas of the block are suspects now
//! ```
//!
//! Only a DataNode speaks for its replicas. A reader may be wrong (its memory, its network) or lie, so its word leads to a
//! look, and until that is done no other replica of the block is deleted as one too many. It leads to nothing else. A replica
//! that its DataNode found bad and later finds good is well again, as long as it is there.

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::v1::{self, ReplicaState};

use super::block_manager::BlockManager;
use super::disposition::{BadReason, ReportedReplica};
use super::state::{BadReplica, SoftState};
use crate::namenode::datanodes::{NodeIndex, StorageIndex};

impl BlockManager {
    /// A reader says that a replica does not match its checksums: its DataNode is to verify it. An empty storage uuid stands
    /// for the DataNode's only replica. That the reader may read the block is the caller's to know.
    ///
    /// # Errors
    /// `Busy` when too many replicas of the DataNode wait to be verified.
    pub fn suspect_replica(&self, block: Block, datanode_uuid: &str, storage_uuid: &str) -> Result<()> {
        self.step(|state| state.suspect_replica(block.id, block.generation_stamp, datanode_uuid, storage_uuid))
    }
}

impl SoftState {
    fn suspect_replica(&mut self, id: BlockId, stamp: GenerationStamp, uuid: &str, storage_uuid: &str) -> Result<()> {
        let Some(node) = self.nodes.by_uuid(uuid) else { return Ok(()) };
        // A reader that has nothing else tries what is known to be bad, too: that is looked at again.
        let is_bad = self.known_corrupt_on(id, stamp, node).is_some();
        if !is_bad && self.good_replica_on(id, stamp, node, storage_uuid).is_none() {
            return Ok(());
        }
        let node = self.nodes.node_mut(node);
        if node.verifications.suspect(id, stamp) {
            tracing::info!(block = %id, datanode = node.address(), "a reader suspects a replica; it is to be verified");
            return Ok(());
        }
        let message = format!("too many replicas of DataNode {} wait to be verified", node.address());
        Err(DfsError::new(ErrorKind::Busy, message))
    }

    /// The volume of a good replica of this version on a node. What is wrong with another version says nothing of this one.
    fn good_replica_on(
        &self,
        id: BlockId,
        generation_stamp: GenerationStamp,
        node: NodeIndex,
        storage_uuid: &str,
    ) -> Option<StorageIndex> {
        self.map.get(id).filter(|info| info.generation_stamp == generation_stamp)?;
        self.map.replicas(id).into_iter().find(|&storage| {
            let storage = self.nodes.storage(storage);
            storage.node == node && (storage_uuid.is_empty() || storage.uuid == storage_uuid)
        })
    }

    /// A DataNode found that a replica of its own does not match its checksums, or cannot be read.
    pub(crate) fn on_corrupt_found(
        &mut self,
        id: BlockId,
        generation_stamp: GenerationStamp,
        node: NodeIndex,
        storage_uuid: &str,
    ) {
        self.nodes.node_mut(node).verifications.on_verdict(id, generation_stamp);
        self.note_verdict(id, generation_stamp, (node, storage_uuid), true);
        let Some(&info) = self.map.get(id).filter(|info| info.generation_stamp == generation_stamp) else { return };
        for storage in self.nodes.node(node).storages.clone() {
            self.nodes.storage_mut(storage).on_doomed_corrupt(id);
        }
        if let Some(storage) = self.good_replica_on(id, generation_stamp, node, storage_uuid) {
            let length = info.length;
            self.mark_bad(id, BadReplica { storage, reason: BadReason::Corrupt, generation_stamp, length });
        }
    }

    /// A verdict on a replica that is not judged yet, because its block has a writer or is not of its generation: it counts when
    /// the replica is. An empty storage uuid stands for all volumes of the DataNode.
    fn note_verdict(
        &mut self,
        id: BlockId,
        stamp: GenerationStamp,
        (node, storage_uuid): (NodeIndex, &str),
        is_corrupt: bool,
    ) {
        let open = self.open.get_mut(&id).into_iter().flat_map(|open| &mut open.reported);
        let reported = open.map(|(storage, replica)| (*storage, replica));
        let range = (id, StorageIndex(0))..=(id, StorageIndex(u32::MAX));
        let aside = self.set_aside.range_mut(range).map(|(&(_, storage), replica)| (storage, replica));
        for (storage, replica) in reported.chain(aside) {
            let volume = self.nodes.storage(storage);
            let is_there = volume.node == node && (storage_uuid.is_empty() || volume.uuid == storage_uuid);
            if is_there && replica.generation_stamp == stamp && replica.state == ReplicaState::Finalized {
                replica.is_corrupt = is_corrupt;
            }
        }
    }

    /// A replica of the block is corrupt: has the others verified at once. What damaged one may have damaged more, and one of
    /// them is to be copied in its place. What finds no room is left to the scanners.
    pub(crate) fn verify_other_replicas(&mut self, id: BlockId, generation_stamp: GenerationStamp) {
        for storage in self.usable_replicas(id) {
            let node = self.nodes.storage(storage).node;
            let _ = self.nodes.node_mut(node).verifications.suspect(id, generation_stamp);
        }
    }

    /// A DataNode has read a replica of its own, and it matches its checksums.
    pub(crate) fn on_good_found(&mut self, block: Block, node: NodeIndex) {
        let Block { id, generation_stamp, length } = block;
        self.nodes.node_mut(node).verifications.on_verdict(id, generation_stamp);
        self.note_verdict(id, generation_stamp, (node, ""), false);
        let Some(storage) = self.known_corrupt_on(id, generation_stamp, node) else { return };
        tracing::info!(%block, datanode = self.nodes.node_of(storage).address(), "a replica is well again");
        self.drop_bad(id, storage);
        let state = ReplicaState::Finalized;
        self.take_replica(id, storage, ReportedReplica { state, generation_stamp, length, is_corrupt: false });
    }

    /// The volume of a replica of this version that its node found to be corrupt.
    fn known_corrupt_on(&self, id: BlockId, stamp: GenerationStamp, node: NodeIndex) -> Option<StorageIndex> {
        let is_it = |bad: &&BadReplica| {
            let is_corrupt = bad.reason == BadReason::Corrupt && bad.generation_stamp == stamp;
            is_corrupt && self.nodes.storage(bad.storage).node == node
        };
        self.bad.get(&id)?.iter().find(is_it).map(|bad| bad.storage)
    }

    /// Somebody suspects the replica, and its DataNode has not answered yet.
    pub(crate) fn is_suspected(&self, id: BlockId, storage: StorageIndex) -> bool {
        self.nodes.node_of(storage).verifications.is_suspected(id)
    }

    /// The next replicas that a node is to verify. One that does not answer for them reports in full.
    pub(crate) fn take_verifications(&mut self, index: NodeIndex) -> Vec<v1::Block> {
        let now = self.now;
        let node = self.nodes.node_mut(index);
        let (orders, given_up) = node.verifications.next(now);
        if given_up > 0 {
            tracing::warn!(datanode = node.address(), replicas = given_up, "does not say whether they are well");
            node.reports.request_full();
        }
        orders
    }
}
