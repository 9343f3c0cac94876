//! DataNodes without disks: they register, report what they would have, and carry out deletions by forgetting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1;
use dfs_proto::v1::datanode_client::DatanodeClient;
use dfs_proto::v1::order::Order;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::call::refused;
use super::{REPLICAS, REPORT_PAGE};

/// More often than real ones, so that deletions, which are ordered a part at a time, come to an end.
const HEARTBEAT: Duration = Duration::from_millis(20);

/// All of them. They end when this is dropped.
pub(super) struct Datanodes {
    shared: Arc<Shared>,
    tasks: tokio::sync::Mutex<JoinSet<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    /// Full reports that were taken.
    reports: AtomicU64,
    /// Replicas left on all of them.
    replicas: AtomicU64,
    /// The last of them says nothing.
    is_silent: AtomicBool,
}

impl Datanodes {
    /// Starts them, each with a replica of each block; `blocks` are in the order of their ids, which follow each other.
    pub(super) async fn start(channel: &Channel, blocks: Vec<v1::Block>) -> Result<Self> {
        let (shared, blocks) = (Arc::new(Shared::default()), Arc::new(blocks));
        shared.replicas.store((blocks.len() * REPLICAS) as u64, Ordering::Relaxed);
        let mut rpc = DatanodeClient::new(channel.clone());
        let version = rpc.version_request(v1::VersionRequestRequest {}).await.map_err(refused)?.into_inner();
        let mut tasks = JoinSet::new();
        for number in 0..REPLICAS {
            let datanode = Datanode {
                rpc: rpc.clone(),
                namespace: version.namespace.clone(),
                number,
                deleted: vec![false; blocks.len()],
                blocks: Arc::clone(&blocks),
                shared: Arc::clone(&shared),
                registration_id: 0,
                reported: 0,
            };
            tasks.spawn(datanode.run());
        }
        Ok(Self { shared, tasks: tokio::sync::Mutex::new(tasks) })
    }

    pub(super) fn count(&self) -> u64 {
        REPLICAS as u64
    }

    /// Full reports so far.
    pub(super) fn reports(&self) -> u64 {
        self.shared.reports.load(Ordering::Relaxed)
    }

    /// Whether each has so many replicas at most.
    pub(super) fn have_only(&self, replicas: u64) -> bool {
        self.shared.replicas.load(Ordering::Relaxed) <= replicas * self.count()
    }

    /// Has the last of them say nothing any more, or go on.
    pub(super) fn silence(&self, is_silent: bool) {
        self.shared.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// Returns when one of them could not go on.
    pub(super) async fn failed(&self) -> Result<()> {
        match self.tasks.lock().await.join_next().await {
            Some(Ok(Err(error))) => Err(error),
            _ => Err(DfsError::new(ErrorKind::Internal, "a DataNode has ended")),
        }
    }
}

struct Datanode {
    rpc: DatanodeClient<Channel>,
    namespace: Option<v1::NamespaceInfo>,
    number: usize,
    blocks: Arc<Vec<v1::Block>>,
    deleted: Vec<bool>,
    shared: Arc<Shared>,
    registration_id: u64,
    /// Number of the last report.
    reported: u64,
}

impl Datanode {
    async fn run(mut self) -> Result<()> {
        self.register().await?;
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            if self.number == REPLICAS - 1 && self.shared.is_silent.load(Ordering::Relaxed) {
                continue;
            }
            let heartbeat = v1::SendHeartbeatRequest {
                datanode_uuid: self.uuid(),
                registration_id: self.registration_id,
                storages: vec![self.storage()],
                ..v1::SendHeartbeatRequest::default()
            };
            let answer = self.rpc.send_heartbeat(heartbeat).await.map_err(refused)?.into_inner();
            for order in answer.orders.into_iter().filter_map(|order| order.order) {
                match order {
                    Order::Invalidate(invalidate) => self.delete(invalidate.blocks).await?,
                    Order::BlockReport(_) => self.report().await?,
                    Order::Register(_) => self.register().await?,
                    // There is nothing to copy and nobody to copy from.
                    Order::Transfer(_) | Order::Recover(_) | Order::Verify(_) => {}
                }
            }
        }
    }

    fn uuid(&self) -> String {
        format!("datanode-{}", self.number)
    }

    fn storage_uuid(&self) -> String {
        format!("storage-{}", self.number)
    }

    fn storage(&self) -> v1::StorageReport {
        let (capacity, remaining) = (1 << 50, 1 << 50);
        v1::StorageReport { storage_uuid: self.storage_uuid(), capacity, remaining, ..v1::StorageReport::default() }
    }

    async fn register(&mut self) -> Result<()> {
        let port = 10_000 + self.number as u32;
        let id = v1::DatanodeId {
            uuid: self.uuid(),
            host: "127.0.0.1".into(),
            data_port: port,
            grpc_port: port,
            http_port: port,
            rack: "/default-rack".into(),
        };
        let namespace = self.namespace.clone();
        let request = v1::RegisterDatanodeRequest { id: Some(id), namespace, storages: vec![self.storage()] };
        let answer = self.rpc.register_datanode(request).await.map_err(refused)?.into_inner();
        (self.registration_id, self.reported) = (answer.registration_id, 0);
        self.report().await
    }

    /// A full report.
    async fn report(&mut self) -> Result<()> {
        self.reported += 1;
        let page = v1::BlockReportPage {
            datanode_uuid: self.uuid(),
            registration_id: self.registration_id,
            report_number: self.reported,
            storage_uuid: self.storage_uuid(),
            block_pool_id: self.block_pool_id(),
            ..v1::BlockReportPage::default()
        };
        let (blocks, deleted) = (Arc::clone(&self.blocks), self.deleted.clone());
        let ends = blocks.len().div_ceil(REPORT_PAGE).max(1) - 1;
        let pages = (0..=ends).map(move |number| {
            let from = number * REPORT_PAGE;
            let range = from..(from + REPORT_PAGE).min(blocks.len());
            let kept = || range.clone().filter(|&at| !deleted[at]).map(|at| &blocks[at]);
            v1::BlockReportPage {
                ids: kept().map(|block| block.id).collect(),
                generation_stamps: kept().map(|block| block.generation_stamp).collect(),
                lengths: kept().map(|block| block.length).collect(),
                last_of_storage: number == ends,
                last: number == ends,
                ..page.clone()
            }
        });
        self.rpc.block_report(futures::stream::iter(pages)).await.map_err(refused)?;
        self.shared.reports.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn delete(&mut self, blocks: Vec<v1::Block>) -> Result<()> {
        let first = self.blocks.first().map_or(0, |block| block.id);
        let mut events = Vec::with_capacity(blocks.len());
        for block in blocks {
            let at = usize::try_from(block.id - first).unwrap_or(usize::MAX);
            if let Some(deleted) = self.deleted.get_mut(at).filter(|deleted| !**deleted) {
                *deleted = true;
                self.shared.replicas.fetch_sub(1, Ordering::Relaxed);
            }
            events.push(v1::ReplicaEvent {
                kind: v1::ReplicaEventKind::ReplicaDeleted.into(),
                block: Some(block),
                storage_uuid: self.storage_uuid(),
            });
        }
        let report_number = self.reported + 1;
        self.reported += events.len() as u64;
        let report = v1::BlockReceivedAndDeletedRequest {
            datanode_uuid: self.uuid(),
            registration_id: self.registration_id,
            report_number,
            events,
            block_pool_id: self.block_pool_id(),
        };
        self.rpc.block_received_and_deleted(report).await.map_err(refused)?;
        Ok(())
    }

    fn block_pool_id(&self) -> String {
        self.namespace.as_ref().map(|namespace| namespace.block_pool_id.clone()).unwrap_or_default()
    }
}
