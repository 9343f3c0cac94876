//! ClientDatanodeProtocol: a client's small questions.

use std::collections::HashMap;
use std::sync::Arc;

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::convert::required;
use dfs_proto::status::to_status;
use dfs_proto::v1;
use dfs_proto::v1::client_datanode_server::ClientDatanode;
use tonic::{Request, Response, Status};

use super::file_calls::FileCalls;
use super::namenode_link::LinkSignals;
use super::store::{ReplicaStore, VolumeIndex};

/// Blocks in one sync: a file has more only if it was written for long without an fsync.
const SYNC_BLOCKS_MAX: usize = 10_000;

/// The service.
pub(crate) struct ClientService {
    /// Works on the replicas.
    pub(crate) files: FileCalls,
    /// Every NameNode's link.
    pub(crate) links: Vec<Arc<LinkSignals>>,
}

#[tonic::async_trait]
impl ClientDatanode for ClientService {
    async fn get_replica_visible_length(
        &self,
        request: Request<v1::GetReplicaVisibleLengthRequest>,
    ) -> Result<Response<v1::GetReplicaVisibleLengthResponse>, Status> {
        let v1::GetReplicaVisibleLengthRequest { block_pool_id, block } = request.into_inner();
        let block = required(block, "block").map_err(|error| to_status(&error))?;
        let block = ExtendedBlock { pool: block_pool_id, block: Block::from(block) };
        let volume = self.files.volume_of(&block);
        // A writer that waits for its disk may hold what is asked for.
        let length = self.files.run(volume, move |store| store.visible_length(&block)).await;
        let length = length.map_err(|error| to_status(&error))?;
        Ok(Response::new(v1::GetReplicaVisibleLengthResponse { length }))
    }

    async fn sync_replica(
        &self,
        request: Request<v1::SyncReplicaRequest>,
    ) -> Result<Response<v1::SyncReplicaResponse>, Status> {
        let v1::SyncReplicaRequest { block_pool_id, blocks } = request.into_inner();
        if blocks.len() > SYNC_BLOCKS_MAX {
            let what = format!("{} blocks in one sync, the limit is {SYNC_BLOCKS_MAX}", blocks.len());
            return Err(to_status(&DfsError::new(ErrorKind::InvalidArgument, what)));
        }
        let mut by_volume: HashMap<Option<VolumeIndex>, Vec<ExtendedBlock>> = HashMap::new();
        for block in blocks.iter().map(Block::from) {
            let block = ExtendedBlock { pool: block_pool_id.clone(), block };
            by_volume.entry(self.files.volume_of(&block)).or_default().push(block);
        }
        let syncs =
            by_volume.into_iter().map(|(volume, blocks)| self.files.run(volume, move |store| sync_all(store, &blocks)));
        // One that fails keeps no other from being synced.
        let outcomes = futures::future::join_all(syncs).await;
        outcomes.into_iter().collect::<Result<()>>().map_err(|error| to_status(&error))?;
        Ok(Response::new(v1::SyncReplicaResponse {}))
    }

    async fn trigger_block_report(
        &self,
        _: Request<v1::TriggerBlockReportRequest>,
    ) -> Result<Response<v1::TriggerBlockReportResponse>, Status> {
        for link in &self.links {
            link.full_report_now.notify_one();
        }
        Ok(Response::new(v1::TriggerBlockReportResponse {}))
    }
}

fn sync_all(store: &ReplicaStore, blocks: &[ExtendedBlock]) -> Result<()> {
    // One that is not here any more keeps no other from being synced.
    let mut outcome = Ok(());
    for block in blocks {
        outcome = outcome.and(store.sync(block));
    }
    outcome
}
