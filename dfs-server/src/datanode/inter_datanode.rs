//! InterDatanodeProtocol: what the primary of a block recovery asks of a replica's holder.

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::Result;
use dfs_common::ids::GenerationStamp;
use dfs_proto::convert::required;
use dfs_proto::status::to_status;
use dfs_proto::v1;
use dfs_proto::v1::inter_datanode_server::InterDatanode;
use tonic::{Request, Response, Status};

use super::file_calls::FileCalls;
use super::store::ReplicaStore;

/// The service.
pub(crate) struct InterDatanodeService {
    /// Works on the replicas.
    pub(crate) files: FileCalls,
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
        let volume = self.files.volume_of(&block);
        let work = move |store: &ReplicaStore| store.init_recovery(&block, recovery_id, request.is_truncation);
        let found = self.files.run(volume, work).await.map_err(|error| to_status(&error))?;
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
        let volume = self.files.volume_of(&old);
        let storage_uuid = self.files.run(volume, move |store| store.update_recovered(&old, recovery_id, length)).await;
        let storage_uuid = storage_uuid.map_err(|error| to_status(&error))?;
        Ok(Response::new(v1::UpdateReplicaUnderRecoveryResponse { storage_uuid: storage_uuid.to_string() }))
    }
}
