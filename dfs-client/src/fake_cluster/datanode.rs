//! The small questions of one node.

use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind};
use dfs_proto::status::to_status;
use dfs_proto::v1;
use dfs_proto::v1::client_datanode_server::ClientDatanode;
use tonic::{Request, Response, Status};

use super::unsupported::unsupported;
use super::world::{Fault, Shared, World};

/// Answers them.
pub(super) struct FakeDatanode {
    pub(super) index: usize,
    pub(super) world: Shared,
}

impl FakeDatanode {
    fn call(&self, name: &'static str) -> parking_lot::MutexGuard<'_, World> {
        let mut world = self.world.lock();
        *world.calls.entry(name).or_default() += 1;
        world
    }
}

#[tonic::async_trait]
impl ClientDatanode for FakeDatanode {
    async fn get_replica_visible_length(
        &self,
        request: Request<v1::GetReplicaVisibleLengthRequest>,
    ) -> Result<Response<v1::GetReplicaVisibleLengthResponse>, Status> {
        let block = request.into_inner().block.unwrap();
        drop(self.call("get_replica_visible_length"));
        if self.world.lock().faults.get(&self.index) == Some(&Fault::Silent) {
            std::future::pending::<()>().await;
        }
        let world = self.world.lock();
        if world.faults.get(&self.index) == Some(&Fault::HangsUp) {
            return Err(to_status(&DfsError::new(ErrorKind::Unavailable, "hung up")));
        }
        let Some(replica) = world.replicas.get(&(self.index, block.id)) else {
            return Err(to_status(&DfsError::new(ErrorKind::NotFound, "no such replica")));
        };
        let length = replica.data.len() as u64;
        Ok(Response::new(v1::GetReplicaVisibleLengthResponse { length }))
    }

    async fn sync_replica(
        &self,
        request: Request<v1::SyncReplicaRequest>,
    ) -> Result<Response<v1::SyncReplicaResponse>, Status> {
        drop(self.call("sync_replica"));
        let fault = || self.world.lock().faults.get(&self.index).copied().unwrap_or_default();
        while fault() == Fault::HangsInSync {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let is_failing = fault() == Fault::FailsSync;
        let mut world = self.world.lock();
        if is_failing {
            return Err(to_status(&DfsError::new(ErrorKind::Io, "the disk fails")));
        }
        for block in request.into_inner().blocks {
            let Some(replica) = world.replicas.get_mut(&(self.index, block.id)) else {
                return Err(to_status(&DfsError::new(ErrorKind::NotFound, "no such replica")));
            };
            assert_eq!(replica.stamp, block.generation_stamp);
            replica.synced = replica.data.len();
        }
        Ok(Response::new(v1::SyncReplicaResponse {}))
    }

    unsupported! {
        trigger_block_report(v1::TriggerBlockReportRequest) -> v1::TriggerBlockReportResponse;
    }
}
