//! InterDatanodeProtocol: what the primary of a block recovery asks of a replica's holder.

use std::sync::Arc;

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::GenerationStamp;
use dfs_proto::convert::required;
use dfs_proto::status::to_status;
use dfs_proto::v1;
use dfs_proto::v1::inter_datanode_server::InterDatanode;
use tonic::{Request, Response, Status};

use super::store::ReplicaStore;

/// The service.
pub(crate) struct InterDatanodeService {
    /// The replicas.
    pub(crate) store: Arc<ReplicaStore>,
}

impl InterDatanodeService {
    /// Runs file work off the runtime.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReplicaStore) -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&store)).await.unwrap_or_else(|error| {
            Err(DfsError::new(ErrorKind::Internal, "a recovery met a bug or was stopped").with_source(error))
        });
        done.map_err(|error| to_status(&error))
    }
}

fn extended(pool: String, block: Option<v1::Block>) -> Result<ExtendedBlock, Status> {
    let block = required(block, "block").map_err(|error| to_status(&error))?;
    Ok(ExtendedBlock { pool, block: Block::from(block) })
}

#[tonic::async_trait]
impl InterDatanode for InterDatanodeService {
    async fn init_replica_recovery(
        &self,
        request: Request<v1::InitReplicaRecoveryRequest>,
    ) -> Result<Response<v1::InitReplicaRecoveryResponse>, Status> {
        let request = request.into_inner();
        let block = extended(request.block_pool_id, request.block)?;
        let recovery_id = GenerationStamp(request.recovery_id);
        let found = self.blocking(move |store| store.init_recovery(&block, recovery_id, request.is_truncation)).await?;
        Ok(Response::new(found.map_or_else(v1::InitReplicaRecoveryResponse::default, |found| {
            v1::InitReplicaRecoveryResponse {
                exists: true,
                block: Some(found.block.into()),
                original_state: found.state.into(),
                synced_length: found.synced,
            }
        })))
    }

    async fn update_replica_under_recovery(
        &self,
        request: Request<v1::UpdateReplicaUnderRecoveryRequest>,
    ) -> Result<Response<v1::UpdateReplicaUnderRecoveryResponse>, Status> {
        let request = request.into_inner();
        let old = extended(request.block_pool_id, request.old_block)?;
        let (recovery_id, length) = (GenerationStamp(request.recovery_id), request.new_length);
        let storage_uuid = self.blocking(move |store| store.update_recovered(&old, recovery_id, length)).await?;
        Ok(Response::new(v1::UpdateReplicaUnderRecoveryResponse { storage_uuid: storage_uuid.to_string() }))
    }
}
