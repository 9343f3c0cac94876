//! ClientDatanodeProtocol: a client's small questions.

use std::sync::Arc;

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::convert::required;
use dfs_proto::status::to_status;
use dfs_proto::v1;
use dfs_proto::v1::client_datanode_server::ClientDatanode;
use tonic::{Request, Response, Status};

use super::namenode_link::LinkSignals;
use super::store::ReplicaStore;

/// Blocks in one sync: a file has more only if it was written for long without an fsync.
const SYNC_BLOCKS_MAX: usize = 10_000;

/// The service.
pub(crate) struct ClientService {
    /// The replicas.
    pub(crate) store: Arc<ReplicaStore>,
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
        let length = required(block, "block")
            .map(|block| ExtendedBlock { pool: block_pool_id, block: Block::from(block) })
            .and_then(|block| self.store.visible_length(&block))
            .map_err(|error| to_status(&error))?;
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
        let store = Arc::clone(&self.store);
        let synced = tokio::task::spawn_blocking(move || sync_all(&store, &block_pool_id, &blocks)).await;
        let synced = synced.unwrap_or_else(|error| {
            Err(DfsError::new(ErrorKind::Internal, "a sync met a bug or was stopped").with_source(error))
        });
        synced.map_err(|error| to_status(&error))?;
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

fn sync_all(store: &ReplicaStore, pool: &str, blocks: &[v1::Block]) -> Result<()> {
    // One that is not here any more keeps no other from being synced.
    let mut outcome = Ok(());
    for block in blocks {
        let synced = store.sync(&ExtendedBlock { pool: pool.to_owned(), block: Block::from(block) });
        outcome = outcome.and(synced);
    }
    outcome
}
