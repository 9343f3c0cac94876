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
        let length = self.files.visible_length(&block).map_err(|error| to_status(&error))?;
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::datanode::transfer::test_client::{POOL, TestNode, block, content, store_settings};

    #[tokio::test]
    async fn visible_length_is_told_while_every_place_of_the_volume_waits_for_its_device() {
        let dir = tempfile::tempdir().unwrap();
        let node = TestNode::start(&store_settings(dir.path()));
        node.client().write(&block(1), &[], &content(1000), 4096);
        let files = FileCalls::new(&node.store, 1);
        let service = ClientService { files: files.clone(), links: Vec::new() };
        let (device, answer) = mpsc::channel::<()>();
        let (begun, under_way) = tokio::sync::oneshot::channel();
        let volume = files.volume_of(&block(1));
        let hung = tokio::spawn(async move {
            let work = move |_: &ReplicaStore| {
                let _ = begun.send(());
                // Until the device answers: its sender is dropped.
                let _ = answer.recv();
                Ok(())
            };
            files.run(volume, work).await
        });
        under_way.await.unwrap();
        let request =
            v1::GetReplicaVisibleLengthRequest { block_pool_id: POOL.into(), block: Some(block(1).block.into()) };
        let length = service.get_replica_visible_length(Request::new(request));
        let length =
            tokio::time::timeout(Duration::from_secs(20), length).await.expect("an answer before the device's");
        assert_eq!(length.unwrap().into_inner().length, 1000);
        drop(device);
        hung.await.unwrap().unwrap();
    }
}
