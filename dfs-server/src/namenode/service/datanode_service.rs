//! DatanodeProtocol: decode, call the block manager, encode.

use std::sync::Arc;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::status::from_status;
use dfs_proto::v1;
use dfs_proto::v1::order::Order;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use super::{peer_ip, reply};
use crate::namenode::blocks::{BlockManager, is_long, origin_of};
use crate::namenode::namesystem::Namesystem;
use crate::namenode::node_files::NodeFiles;

/// Serves DataNodes of one cluster.
pub struct DatanodeService {
    blocks: Arc<BlockManager>,
    /// Where recoveries are committed; none where only reports are taken in.
    namesystem: Option<Arc<Namesystem>>,
    namespace_info: v1::NamespaceInfo,
    node_files: Arc<NodeFiles>,
    /// One long message is taken in at a time: all of them wait for one lock, and so do heartbeats.
    long_work: Arc<Semaphore>,
    /// Racks asked for at once: each waits on a thread, for a script that may take its time.
    asking_racks: Arc<Semaphore>,
}

/// Runs of the operator's script at once. After a start of the NameNode all DataNodes register within seconds.
const RACKS_AT_ONCE: usize = 16;

impl DatanodeService {
    /// A service for the DataNodes of the cluster that `namespace_info` names; `node_files` say their racks.
    pub fn new(blocks: Arc<BlockManager>, namespace_info: v1::NamespaceInfo, node_files: Arc<NodeFiles>) -> Self {
        Self {
            blocks,
            namesystem: None,
            namespace_info,
            node_files,
            long_work: Arc::new(Semaphore::new(1)),
            asking_racks: Arc::new(Semaphore::new(RACKS_AT_ONCE)),
        }
    }

    /// A service that also commits recoveries.
    pub fn of(namesystem: &Arc<Namesystem>, node_files: Arc<NodeFiles>) -> Self {
        let service = Self::new(Arc::clone(namesystem.blocks()), namesystem.info().clone(), node_files);
        Self { namesystem: Some(Arc::clone(namesystem)), ..service }
    }

    /// The rack by the operator's files in place of what the DataNode says, where there are any.
    async fn assign_rack(&self, request: &mut v1::RegisterDatanodeRequest, peer: &str) -> Result<()> {
        let Some(id) = &mut request.id else { return Ok(()) };
        let (files, host, port) = (Arc::clone(&self.node_files), id.host.clone(), id.data_port);
        let address = if host.parse::<std::net::IpAddr>().is_ok() { host.clone() } else { peer.to_owned() };
        let asking = Arc::clone(&self.asking_racks).acquire_owned().await;
        let asking = asking
            .map_err(|error| DfsError::new(ErrorKind::Internal, "find the rack of a DataNode").with_source(error))?;
        let ask = move || {
            let rack = files.rack_of(&host, port, &address);
            drop(asking);
            rack
        };
        // The operator's script may take its time.
        let rack = tokio::task::spawn_blocking(ask)
            .await
            .map_err(|error| DfsError::new(ErrorKind::Internal, "find the rack of a DataNode").with_source(error))?;
        if let Some(rack) = rack {
            id.rack = rack;
        }
        Ok(())
    }

    /// Refuses a DataNode of another cluster. One that was never part of any names none yet.
    fn check_cluster(&self, theirs: Option<&v1::NamespaceInfo>) -> Result<()> {
        let ours = &self.namespace_info;
        let Some(theirs) = theirs else {
            return Err(protocol("message without namespace"));
        };
        let differs = |what: &str, theirs: &str, ours: &str| {
            let message = format!(
                "the DataNode belongs to {what} {theirs}, this NameNode to {ours}; \
                 point it at its own NameNode or give it an empty data directory"
            );
            Err(DfsError::new(ErrorKind::WrongCluster, message))
        };
        if theirs.cluster_id != ours.cluster_id {
            return differs("cluster", &theirs.cluster_id, &ours.cluster_id);
        }
        if theirs.namespace_id != ours.namespace_id {
            return differs("namespace", &theirs.namespace_id.to_string(), &ours.namespace_id.to_string());
        }
        self.check_pool(&theirs.block_pool_id)
    }

    fn check_pool(&self, theirs: &str) -> Result<()> {
        let ours = &self.namespace_info.block_pool_id;
        if theirs == ours {
            return Ok(());
        }
        let message = format!("the message is about block pool {theirs}, this NameNode has {ours}");
        Err(DfsError::new(ErrorKind::WrongCluster, message))
    }

    /// Orders name the pool whose blocks they are about.
    fn name_pool(&self, order: &mut v1::Order) {
        let pool = match &mut order.order {
            Some(Order::Transfer(order)) => &mut order.block_pool_id,
            Some(Order::Invalidate(order)) => &mut order.block_pool_id,
            Some(Order::Recover(order)) => &mut order.block_pool_id,
            Some(Order::Verify(order)) => &mut order.block_pool_id,
            Some(Order::Register(_) | Order::BlockReport(_)) | None => return,
        };
        pool.clone_from(&self.namespace_info.block_pool_id);
    }

    /// Takes pages until the last one. A DataNode without a working volume has none to send.
    async fn take_report(&self, mut pages: Streaming<v1::BlockReportPage>) -> Result<()> {
        let mut report = OpenReport { blocks: &self.blocks, page: None };
        loop {
            let page = match pages.message().await {
                Ok(Some(page)) => page,
                Ok(None) if report.page.is_none() => return Ok(()),
                Ok(None) => return Err(protocol("a block report ended before its last page")),
                Err(status) => return Err(from_status(&status)),
            };
            self.check_pool(&page.block_pool_id)?;
            let first = report.page.get_or_insert_with(|| v1::BlockReportPage {
                datanode_uuid: page.datanode_uuid.clone(),
                registration_id: page.registration_id,
                report_number: page.report_number,
                ..v1::BlockReportPage::default()
            });
            if origin_of(first) != origin_of(&page) {
                return Err(protocol("a stream of pages is one block report"));
            }
            let is_last = page.last;
            // Heartbeats and calls must not wait for a page, nor for the millions that may be missing from its volume.
            self.apart(move |blocks| blocks.block_report_page(&page)).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Long work, on a thread that may be kept for a while.
    async fn apart(&self, work: impl FnOnce(&BlockManager) -> Result<()> + Send + 'static) -> Result<()> {
        let blocks = Arc::clone(&self.blocks);
        let failed = || DfsError::new(ErrorKind::Internal, "take in a report of a DataNode");
        let turn = Arc::clone(&self.long_work).acquire_owned().await.map_err(|error| failed().with_source(error))?;
        let work = move || {
            // Its turn ends with the work, also when the caller has gone meanwhile.
            let _turn = turn;
            work(&blocks)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| failed().with_source(error))?
    }
}

/// A full report that streams in. However its stream ends, a failed call and a caller that has gone included, it is given up
/// unless it was taken in to its end: another one is asked for then.
struct OpenReport<'a> {
    blocks: &'a BlockManager,
    /// What its first page says of whose report it is; nothing else of it.
    page: Option<v1::BlockReportPage>,
}

impl Drop for OpenReport<'_> {
    fn drop(&mut self) {
        if let Some(page) = &self.page {
            self.blocks.abort_report(origin_of(page));
        }
    }
}

fn protocol(what: &str) -> DfsError {
    DfsError::new(ErrorKind::Protocol, what)
}

#[tonic::async_trait]
impl v1::datanode_server::Datanode for DatanodeService {
    async fn version_request(
        &self,
        _: Request<v1::VersionRequestRequest>,
    ) -> Result<Response<v1::VersionRequestResponse>, Status> {
        reply(Ok(v1::VersionRequestResponse { namespace: Some(self.namespace_info.clone()) }))
    }

    async fn register_datanode(
        &self,
        request: Request<v1::RegisterDatanodeRequest>,
    ) -> Result<Response<v1::RegisterDatanodeResponse>, Status> {
        let peer = peer_ip(&request).unwrap_or_default();
        let mut request = request.into_inner();
        let register = async {
            self.check_cluster(request.namespace.as_ref())?;
            self.assign_rack(&mut request, &peer).await?;
            self.blocks.register_datanode(&request, &peer)
        };
        reply(register.await)
    }

    async fn send_heartbeat(
        &self,
        request: Request<v1::SendHeartbeatRequest>,
    ) -> Result<Response<v1::SendHeartbeatResponse>, Status> {
        let answer = self.blocks.heartbeat(request.get_ref()).map(|mut answer| {
            answer.orders.iter_mut().for_each(|order| self.name_pool(order));
            answer
        });
        reply(answer)
    }

    async fn block_report(
        &self,
        request: Request<Streaming<v1::BlockReportPage>>,
    ) -> Result<Response<v1::BlockReportResponse>, Status> {
        reply(self.take_report(request.into_inner()).await.map(|()| v1::BlockReportResponse {}))
    }

    async fn block_received_and_deleted(
        &self,
        request: Request<v1::BlockReceivedAndDeletedRequest>,
    ) -> Result<Response<v1::BlockReceivedAndDeletedResponse>, Status> {
        let request = request.into_inner();
        let take = async {
            self.check_pool(&request.block_pool_id)?;
            if is_long(request.events.len()) {
                return self.apart(move |blocks| blocks.incremental_report(&request)).await;
            }
            self.blocks.incremental_report(&request)
        };
        reply(take.await.map(|()| v1::BlockReceivedAndDeletedResponse {}))
    }

    async fn report_bad_replicas(
        &self,
        request: Request<v1::ReportBadReplicasRequest>,
    ) -> Result<Response<v1::ReportBadReplicasResponse>, Status> {
        let request = request.into_inner();
        let take = async {
            if is_long(request.blocks.len() + request.good_blocks.len()) {
                return self.apart(move |blocks| blocks.report_bad_replicas(&request)).await;
            }
            self.blocks.report_bad_replicas(&request)
        };
        reply(take.await.map(|()| v1::ReportBadReplicasResponse {}))
    }

    async fn commit_block_synchronization(
        &self,
        request: Request<v1::CommitBlockSynchronizationRequest>,
    ) -> Result<Response<v1::CommitBlockSynchronizationResponse>, Status> {
        let request = request.into_inner();
        let commit = async {
            self.check_pool(&request.block_pool_id)?;
            let namesystem = self.namesystem.as_ref().ok_or_else(|| protocol("no namespace is served here"))?;
            namesystem.commit_block_synchronization(request).await
        };
        reply(commit.await.map(|()| v1::CommitBlockSynchronizationResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use dfs_common::block::Block;
    use dfs_common::clock::ManualClock;
    use dfs_common::config_file::Config;
    use dfs_common::ids::{BlockId, GenerationStamp, InodeId};
    use v1::datanode_server::Datanode;

    use super::*;
    use crate::namenode::blocks::BlockEvent;

    fn info() -> v1::NamespaceInfo {
        v1::NamespaceInfo {
            cluster_id: "CID-1".into(),
            namespace_id: 7,
            block_pool_id: "BP-1".into(),
            ..v1::NamespaceInfo::default()
        }
    }

    fn service() -> DatanodeService {
        let clock = Arc::new(ManualClock::new());
        let files = Arc::new(NodeFiles::new(&Config::default()));
        DatanodeService::new(Arc::new(BlockManager::new(&Config::default(), clock, 1)), info(), files)
    }

    fn registration(namespace: v1::NamespaceInfo) -> v1::RegisterDatanodeRequest {
        let storage = v1::StorageReport { storage_uuid: "s".into(), remaining: 1 << 30, ..Default::default() };
        v1::RegisterDatanodeRequest {
            id: Some(v1::DatanodeId { uuid: "dn".into(), host: "10.0.0.1".into(), ..Default::default() }),
            namespace: Some(namespace),
            storages: vec![storage],
        }
    }

    #[tokio::test]
    async fn register_datanode_of_another_cluster_names_both() {
        let service = service();
        type Change = fn(&mut v1::NamespaceInfo);
        let changes: [(Change, [&str; 2]); 3] = [
            (|info| info.cluster_id = "CID-2".into(), ["CID-1", "CID-2"]),
            (|info| info.namespace_id = 8, ["namespace 8", "to 7"]),
            (|info| info.block_pool_id = "BP-2".into(), ["BP-1", "BP-2"]),
        ];
        for (change, named) in changes {
            let mut theirs = info();
            change(&mut theirs);
            let status = service.register_datanode(Request::new(registration(theirs))).await.unwrap_err();
            let error = from_status(&status);
            assert_eq!(error.kind(), ErrorKind::WrongCluster);
            assert!(named.iter().all(|name| error.message().contains(name)), "{error}");
        }
        assert!(service.register_datanode(Request::new(registration(info()))).await.is_ok());
    }

    #[tokio::test]
    async fn send_heartbeat_names_the_pool_in_orders() {
        let service = service();
        let request = Request::new(registration(info()));
        let registration_id = service.register_datanode(request).await.unwrap().into_inner().registration_id;
        service.blocks.set_active(true);
        service.blocks.tick();
        let block = Block { id: BlockId(1), generation_stamp: GenerationStamp(1), length: 0 };
        service.blocks.on_events([
            BlockEvent::Allocated { block, inode: InodeId(1), replication: 1, targets: Vec::new() },
            BlockEvent::Removed { id: block.id },
        ]);
        let received = v1::ReplicaEvent {
            kind: v1::ReplicaEventKind::ReplicaReceived.into(),
            block: Some(block.into()),
            storage_uuid: "s".into(),
        };
        let mut report = v1::BlockReceivedAndDeletedRequest {
            datanode_uuid: "dn".into(),
            registration_id,
            report_number: 1,
            events: vec![received],
            block_pool_id: "BP-2".into(),
        };
        let refused = service.block_received_and_deleted(Request::new(report.clone())).await.unwrap_err();
        assert_eq!(from_status(&refused).kind(), ErrorKind::WrongCluster);
        report.block_pool_id = "BP-1".into();
        service.block_received_and_deleted(Request::new(report)).await.unwrap();
        let beat = v1::SendHeartbeatRequest { datanode_uuid: "dn".into(), registration_id, ..Default::default() };
        let answer = service.send_heartbeat(Request::new(beat)).await.unwrap().into_inner();
        assert!(answer.is_active);
        let invalidated = answer.orders.iter().find_map(|order| match &order.order {
            Some(Order::Invalidate(order)) => Some((order.block_pool_id.as_str(), order.blocks[0].id)),
            _ => None,
        });
        assert_eq!(invalidated, Some(("BP-1", 1)));
    }

    #[tokio::test]
    async fn work_keeps_its_turn_when_its_caller_has_gone() {
        let service = service();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (end, may_end) = std::sync::mpsc::channel::<()>();
        let first = service.apart(move |_| {
            let _ = begin.send(());
            let _ = may_end.recv();
            Ok(())
        });
        tokio::select! {
            _ = first => panic!("it cannot have ended"),
            begun = begun => begun.unwrap(),
        }
        assert_eq!(service.long_work.available_permits(), 0, "it goes on without its caller");
        drop(end);
        service.apart(|_| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn report_whose_caller_has_gone_is_given_up() {
        let service = service();
        let request = Request::new(registration(info()));
        let registration_id = service.register_datanode(request).await.unwrap().into_inner().registration_id;
        let page = v1::BlockReportPage {
            datanode_uuid: "dn".into(),
            registration_id,
            report_number: 1,
            storage_uuid: "s".into(),
            ..v1::BlockReportPage::default()
        };
        let report = OpenReport { blocks: &service.blocks, page: Some(page.clone()) };
        service.blocks.block_report_page(&page).unwrap();
        drop(report);
        assert_eq!(service.blocks.block_report_page(&page).unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
