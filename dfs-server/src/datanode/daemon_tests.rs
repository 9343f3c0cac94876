//! The whole daemon against a NameNode that only listens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::block::ExtendedBlock;
use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::shutdown;
use dfs_proto::status::to_status;
use dfs_proto::v1;
use dfs_proto::v1::client_datanode_client::ClientDatanodeClient;
use dfs_proto::v1::datanode_server::{Datanode, DatanodeServer};
use dfs_proto::v1::order::Order;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Request, Response, Status, Streaming};

use super::transfer::test_client::{POOL, block, connect, content};
use super::{ReadyInfo, cannot_go_on};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the NameNode heard, in order.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Registered(v1::RegisterDatanodeRequest),
    Report {
        registration: u64,
        number: u64,
        finalized: Vec<u64>,
        open: Vec<u64>,
    },
    Events {
        registration: u64,
        number: u64,
        events: Vec<(v1::ReplicaEventKind, u64)>,
    },
    /// A full report marked these as corrupt.
    Marked(Vec<u64>),
    Bad(Vec<u64>),
    Good(Vec<u64>),
    FailedCopies(Vec<u64>),
}

#[derive(Default)]
struct Script {
    heard: Vec<Heard>,
    orders: Vec<Order>,
    registrations: u64,
    /// Errors for the next calls that bring events.
    refusals: Vec<ErrorKind>,
    /// Errors for the next calls that tell of bad replicas.
    deaf: u32,
    storages: Vec<v1::StorageReport>,
    /// Errors for the next heartbeats.
    unanswered: u32,
    cluster_id: String,
}

#[derive(Clone, Default)]
struct FakeNameNode(Arc<Mutex<Script>>);

#[tonic::async_trait]
impl Datanode for FakeNameNode {
    async fn version_request(
        &self,
        _: Request<v1::VersionRequestRequest>,
    ) -> Result<Response<v1::VersionRequestResponse>, Status> {
        let namespace = v1::NamespaceInfo {
            cluster_id: format!("CID-{}", self.0.lock().cluster_id),
            namespace_id: 1,
            block_pool_id: POOL.into(),
            layout_version: 1,
            software_version: String::new(),
        };
        Ok(Response::new(v1::VersionRequestResponse { namespace: Some(namespace) }))
    }

    async fn register_datanode(
        &self,
        request: Request<v1::RegisterDatanodeRequest>,
    ) -> Result<Response<v1::RegisterDatanodeResponse>, Status> {
        let mut script = self.0.lock();
        script.heard.push(Heard::Registered(request.get_ref().clone()));
        script.registrations += 1;
        Ok(Response::new(v1::RegisterDatanodeResponse {
            registration_id: script.registrations,
            id: request.into_inner().id,
            heartbeat_interval_ms: 1000,
        }))
    }

    async fn send_heartbeat(
        &self,
        request: Request<v1::SendHeartbeatRequest>,
    ) -> Result<Response<v1::SendHeartbeatResponse>, Status> {
        let mut script = self.0.lock();
        let request = request.into_inner();
        script.storages = request.storages;
        if !request.failed_copies.is_empty() {
            script.heard.push(Heard::FailedCopies(request.failed_copies.iter().map(|block| block.id).collect()));
            if script.unanswered > 0 {
                script.unanswered -= 1;
                return Err(Status::unavailable("as the test wants it"));
            }
        }
        let orders = script.orders.drain(..).map(|order| v1::Order { order: Some(order) }).collect();
        Ok(Response::new(v1::SendHeartbeatResponse { orders, is_active: true }))
    }

    async fn block_report(
        &self,
        request: Request<Streaming<v1::BlockReportPage>>,
    ) -> Result<Response<v1::BlockReportResponse>, Status> {
        let mut pages = request.into_inner();
        let (mut finalized, mut open, mut corrupt) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let page = pages.message().await?.expect("a report ends with its last page");
            assert_eq!(page.block_pool_id, POOL);
            finalized.extend(page.ids);
            corrupt.extend(page.corrupt_ids);
            open.extend(page.under_construction.into_iter().map(|replica| replica.block.unwrap().id));
            if page.last {
                let (registration, number) = (page.registration_id, page.report_number);
                let mut script = self.0.lock();
                if !corrupt.is_empty() {
                    script.heard.push(Heard::Marked(corrupt));
                }
                script.heard.push(Heard::Report { registration, number, finalized, open });
                return Ok(Response::new(v1::BlockReportResponse {}));
            }
        }
    }

    async fn block_received_and_deleted(
        &self,
        request: Request<v1::BlockReceivedAndDeletedRequest>,
    ) -> Result<Response<v1::BlockReceivedAndDeletedResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.0.lock();
        let events = request.events.iter().map(|event| (event.kind(), event.block.as_ref().unwrap().id)).collect();
        let (registration, number) = (request.registration_id, request.report_number);
        script.heard.push(Heard::Events { registration, number, events });
        match script.refusals.pop() {
            Some(kind) => Err(to_status(&DfsError::new(kind, "as the test wants it"))),
            None => Ok(Response::new(v1::BlockReceivedAndDeletedResponse {})),
        }
    }

    async fn report_bad_replicas(
        &self,
        request: Request<v1::ReportBadReplicasRequest>,
    ) -> Result<Response<v1::ReportBadReplicasResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.0.lock();
        if script.deaf > 0 {
            script.deaf -= 1;
            return Err(Status::unavailable("as the test wants it"));
        }
        let ids = |blocks: &[v1::Block]| blocks.iter().map(|block| block.id).collect::<Vec<_>>();
        for (blocks, heard) in
            [(request.blocks, Heard::Bad as fn(Vec<u64>) -> Heard), (request.good_blocks, Heard::Good)]
        {
            if !blocks.is_empty() {
                script.heard.push(heard(ids(&blocks)));
            }
        }
        Ok(Response::new(v1::ReportBadReplicasResponse {}))
    }

    async fn commit_block_synchronization(
        &self,
        _: Request<v1::CommitBlockSynchronizationRequest>,
    ) -> Result<Response<v1::CommitBlockSynchronizationResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}

impl FakeNameNode {
    async fn serve(&self) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(DatanodeServer::new(self.clone()));
        (address, tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() }))
    }

    /// Waits until something was heard so many times.
    async fn wait_for_times(&self, what: &str, times: usize, wanted: &Heard) {
        let deadline = Instant::now() + PATIENCE;
        while self.0.lock().heard.iter().filter(|heard| *heard == wanted).count() < times {
            assert!(Instant::now() < deadline, "waited in vain for {what}: {:?}", self.0.lock().heard);
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the first thing heard that `wanted` likes.
    async fn wait_for(&self, what: &str, wanted: impl Fn(&Heard) -> bool) -> Heard {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(heard) = self.0.lock().heard.iter().find(|heard| wanted(heard)) {
                return heard.clone();
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}: {:?}", self.0.lock().heard);
            tokio::task::yield_now().await;
        }
    }

    async fn wait_for_events(&self, registration: u64, kind: v1::ReplicaEventKind, id: u64) -> u64 {
        let heard = self
            .wait_for("an event", |heard| {
                matches!(heard, Heard::Events { registration: of, events, .. }
                    if *of == registration && events.contains(&(kind, id)))
            })
            .await;
        let Heard::Events { number, .. } = heard else { unreachable!() };
        number
    }
}

struct Daemon {
    info: ReadyInfo,
    trigger: shutdown::ShutdownTrigger,
    task: JoinHandle<dfs_common::Result<()>>,
    namenode: FakeNameNode,
    server: JoinHandle<()>,
}

impl Daemon {
    async fn start(dir: &std::path::Path, namenode: FakeNameNode) -> Self {
        let (address, server) = namenode.serve().await;
        let config = config(&[dir.to_owned()], &address);
        let (trigger, stop) = shutdown::channel();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let task =
            tokio::spawn(async move { super::run(&config, stop, Box::new(|info| ready.send(info).unwrap())).await });
        Self { info: is_ready.await.unwrap(), trigger, task, namenode, server }
    }

    /// Writes a block from a thread that may block.
    async fn write(&self, block: ExtendedBlock, len: usize) {
        let address = self.info.data.to_string();
        let write = move || connect(&address).write(&block, &[], &content(len), 4096);
        tokio::task::spawn_blocking(write).await.unwrap();
    }

    async fn stop(self) {
        self.trigger.trigger();
        self.task.await.unwrap().unwrap();
        self.server.abort();
    }
}

fn config(dirs: &[std::path::PathBuf], namenode: &str) -> Config {
    let mut config = Config::default();
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    for assignment in [
        format!("dfs.datanode.data.dir={}", dirs.join(",")),
        format!("dfs.namenode.address={namenode}"),
        "dfs.datanode.address=127.0.0.1:0".into(),
        "dfs.datanode.ipc.address=127.0.0.1:0".into(),
        "dfs.datanode.http.address=127.0.0.1:0".into(),
        "dfs.heartbeat.interval=50ms".into(),
        "dfs.datanode.du.reserved=0".into(),
        "dfs.datanode.hostname=node-1".into(),
        "dfs.datanode.rack=/r1".into(),
    ] {
        config.set(&assignment).unwrap();
    }
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_registers_reports_and_obeys() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), FakeNameNode::default()).await;
    let namenode = daemon.namenode.clone();
    let heard = namenode.wait_for("a registration", |heard| matches!(heard, Heard::Registered(_))).await;
    let Heard::Registered(request) = heard else { unreachable!() };
    let id = request.id.unwrap();
    assert_eq!((id.host.as_str(), id.rack.as_str()), ("node-1", "/r1"));
    assert_eq!(id.data_port, u32::from(daemon.info.data.port()));
    assert!(request.storages[0].capacity > 0 && request.storages[0].storage_uuid.starts_with("DS-"));
    let empty = Heard::Report { registration: 1, number: 1, finalized: vec![], open: vec![] };
    namenode.wait_for("the first full report", |heard| *heard == empty).await;

    daemon.write(block(1), 1000).await;
    assert_eq!(namenode.wait_for_events(1, v1::ReplicaEventKind::ReplicaReceived, 1).await, 2);
    daemon.write(block(2), 1000).await;
    assert_eq!(namenode.wait_for_events(1, v1::ReplicaEventKind::ReplicaReceived, 2).await, 3);

    let order = v1::InvalidateOrder { block_pool_id: POOL.into(), blocks: vec![block(1).block.into()] };
    namenode.0.lock().orders.push(Order::Invalidate(order));
    assert_eq!(namenode.wait_for_events(1, v1::ReplicaEventKind::ReplicaDeleted, 1).await, 4);

    namenode.0.lock().orders.push(Order::BlockReport(v1::BlockReportOrder {}));
    let full = Heard::Report { registration: 1, number: 5, finalized: vec![2], open: vec![] };
    namenode.wait_for("the ordered report", |heard| *heard == full).await;

    namenode.0.lock().orders.push(Order::Register(v1::RegisterOrder {}));
    let again = Heard::Report { registration: 2, number: 1, finalized: vec![2], open: vec![] };
    namenode.wait_for("a report under the new registration", |heard| *heard == again).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_report_is_repeated_under_its_number_and_a_stale_one_registers_again() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), FakeNameNode::default()).await;
    let namenode = daemon.namenode.clone();
    namenode.wait_for("the first report", |heard| matches!(heard, Heard::Report { .. })).await;
    namenode.0.lock().refusals = vec![ErrorKind::Stale, ErrorKind::Unavailable];
    daemon.write(block(1), 10).await;
    let full = Heard::Report { registration: 2, number: 1, finalized: vec![1], open: vec![] };
    namenode.wait_for("a report under the new registration", |heard| *heard == full).await;
    let numbers: Vec<_> = namenode
        .0
        .lock()
        .heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Events { registration: 1, number, .. } => Some(*number),
            _ => None,
        })
        .collect();
    assert_eq!(numbers, [2, 2]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_daemon_keeps_its_identity_and_reports_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), FakeNameNode::default()).await;
    daemon.namenode.wait_for("a registration", |heard| matches!(heard, Heard::Report { .. })).await;
    daemon.write(block(1), 10).await;
    let first = daemon.namenode.clone();
    daemon.stop().await;
    let daemon = Daemon::start(dir.path(), FakeNameNode::default()).await;
    let full = Heard::Report { registration: 1, number: 1, finalized: vec![1], open: vec![] };
    daemon.namenode.wait_for("a full report", |heard| *heard == full).await;
    let uuid = |namenode: &FakeNameNode| match &namenode.0.lock().heard[0] {
        Heard::Registered(request) => request.id.clone().unwrap().uuid,
        other => panic!("{other:?} before registration"),
    };
    assert_eq!(uuid(&first), uuid(&daemon.namenode));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namenode_of_another_cluster_stops_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), FakeNameNode::default()).await;
    daemon.namenode.wait_for("a registration", |heard| matches!(heard, Heard::Registered(_))).await;
    daemon.stop().await;
    let other = FakeNameNode::default();
    other.0.lock().cluster_id = "other".into();
    let daemon = Daemon::start(dir.path(), other).await;
    let error = daemon.task.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongCluster);
    assert!(error.chain().contains("CID-other"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_directory_is_a_failed_volume_and_the_rest_serves() {
    let dir = tempfile::tempdir().unwrap();
    let namenode = FakeNameNode::default();
    let (address, server) = namenode.serve().await;
    let config = config(&[dir.path().to_owned(), dir.path().join("absent")], &address);
    let (trigger, stop) = shutdown::channel();
    let task = tokio::spawn(async move { super::run(&config, stop, Box::new(|_| {})).await });
    let heard = namenode.wait_for("a registration", |heard| matches!(heard, Heard::Registered(_))).await;
    let Heard::Registered(request) = heard else { unreachable!() };
    assert_eq!(request.storages.iter().map(|storage| storage.failed).collect::<Vec<_>>(), [false, true]);
    trigger.trigger();
    task.await.unwrap().unwrap();
    server.abort();

    let config = self::config(&[dir.path().join("absent")], &address);
    let (_trigger, stop) = shutdown::channel();
    let error = super::run(&config, stop, Box::new(|_| {})).await.unwrap_err();
    assert!(error.message().contains("dfs.datanode.data.dir"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_replica_is_found_on_order_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), FakeNameNode::default()).await;
    daemon.namenode.wait_for("a report", |heard| matches!(heard, Heard::Report { .. })).await;
    daemon.write(block(1), 1000).await;
    daemon.write(block(2), 1000).await;
    let path = dir.path().join("current").join(POOL).join("current/finalized/subdir0/subdir0/blk_2");
    std::fs::write(path, vec![0; 1000]).unwrap();
    let blocks = vec![block(1).block.into(), block(2).block.into(), block(3).block.into()];
    let order = v1::VerifyOrder { block_pool_id: POOL.into(), blocks };
    daemon.namenode.0.lock().orders.push(Order::Verify(order));
    daemon.namenode.wait_for("the corrupt replica", |heard| *heard == Heard::Bad(vec![2])).await;
    daemon.namenode.wait_for("the good replica", |heard| *heard == Heard::Good(vec![1])).await;
    daemon.namenode.wait_for_events(1, v1::ReplicaEventKind::ReplicaDeleted, 3).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_replica_is_told_until_it_is_heard_and_to_each_registration() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), FakeNameNode::default()).await;
    let namenode = &daemon.namenode;
    namenode.wait_for("a report", |heard| matches!(heard, Heard::Report { .. })).await;
    daemon.write(block(1), 1000).await;
    let path = dir.path().join("current").join(POOL).join("current/finalized/subdir0/subdir0/blk_1");
    std::fs::write(path, vec![0; 1000]).unwrap();
    namenode.0.lock().deaf = 2;
    let order = v1::VerifyOrder { block_pool_id: POOL.into(), blocks: vec![block(1).block.into()] };
    namenode.0.lock().orders.push(Order::Verify(order));
    namenode.wait_for_times("the corrupt replica", 1, &Heard::Bad(vec![1])).await;
    let again = [Order::Register(v1::RegisterOrder {}), Order::BlockReport(v1::BlockReportOrder {})];
    for (order, times) in again.into_iter().zip(1..) {
        namenode.0.lock().orders.push(order);
        namenode.wait_for_times("the corrupt replica again", times, &Heard::Marked(vec![1])).await;
    }
    let order = v1::InvalidateOrder { block_pool_id: POOL.into(), blocks: vec![block(1).block.into()] };
    namenode.0.lock().orders.push(Order::Invalidate(order));
    namenode.wait_for_events(2, v1::ReplicaEventKind::ReplicaDeleted, 1).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_copies_are_told_until_the_namenode_has_heard() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), FakeNameNode::default()).await;
    daemon.namenode.wait_for("a report", |heard| matches!(heard, Heard::Report { .. })).await;
    daemon.write(block(1), 1000).await;
    let bound_only = tokio::net::TcpSocket::new_v4().unwrap();
    bound_only.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let data_port = bound_only.local_addr().unwrap().port().into();
    let target = v1::DatanodeId { uuid: "away".into(), host: "127.0.0.1".into(), data_port, ..Default::default() };
    let order = |is_balancing| v1::TransferOrder {
        block_pool_id: POOL.into(),
        block: Some(block(1).block.into()),
        targets: vec![target.clone()],
        is_balancing,
        ..Default::default()
    };
    daemon.namenode.0.lock().unanswered = 1;
    daemon.namenode.0.lock().orders.push(Order::Transfer(order(false)));
    daemon.namenode.wait_for_times("a failed copy, told twice", 2, &Heard::FailedCopies(vec![1])).await;
    daemon.namenode.0.lock().orders.push(Order::Transfer(order(true)));
    daemon.namenode.wait_for_times("a failed move", 3, &Heard::FailedCopies(vec![1])).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_service_tells_lengths_and_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), FakeNameNode::default()).await;
    daemon.namenode.wait_for("a report", |heard| matches!(heard, Heard::Report { .. })).await;
    daemon.write(block(1), 1000).await;
    let mut client = ClientDatanodeClient::connect(format!("http://{}", daemon.info.grpc)).await.unwrap();
    let of =
        |id| v1::GetReplicaVisibleLengthRequest { block_pool_id: POOL.into(), block: Some(block(id).block.into()) };
    assert_eq!(client.get_replica_visible_length(of(1)).await.unwrap().into_inner().length, 1000);
    assert_eq!(client.get_replica_visible_length(of(2)).await.unwrap_err().code(), tonic::Code::NotFound);
    let sync = |id| v1::SyncReplicaRequest { block_pool_id: POOL.into(), blocks: vec![block(id).block.into()] };
    client.sync_replica(sync(1)).await.unwrap();
    assert_eq!(client.sync_replica(sync(2)).await.unwrap_err().code(), tonic::Code::NotFound);
    // Else the report may overtake the event, and has its number.
    assert_eq!(daemon.namenode.wait_for_events(1, v1::ReplicaEventKind::ReplicaReceived, 1).await, 2);
    client.trigger_block_report(v1::TriggerBlockReportRequest {}).await.unwrap();
    let full = Heard::Report { registration: 1, number: 3, finalized: vec![1], open: vec![] };
    daemon.namenode.wait_for("the triggered report", |heard| *heard == full).await;

    let health = http_get(daemon.info.http, "/health").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"healthy\":true"), "{health}");
    let metrics = http_get(daemon.info.http, "/metrics").await;
    assert!(metrics.contains("dfs_datanode_blocks_written_total 1"), "{metrics}");
    daemon.stop().await;
}

async fn http_get(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_part_that_panics_ends_the_node_and_one_that_tells_why_is_heard() {
    let (fatal, mut errors) = mpsc::channel(1);
    let (alive, mut housekeeper) = oneshot::channel();
    let mut links = JoinSet::new();
    links.spawn(std::future::pending());
    assert!(futures::poll!(Box::pin(cannot_go_on(&mut errors, &mut links, &mut housekeeper))).is_pending());
    links.spawn(async { panic!("a link") });
    let error = cannot_go_on(&mut errors, &mut links, &mut housekeeper).await;
    assert!(error.message().starts_with("the link to a NameNode has ended"), "{}", error.message());
    fatal.try_send(DfsError::new(ErrorKind::Io, "1 volume has failed")).unwrap();
    drop(alive);
    let error = cannot_go_on(&mut errors, &mut links, &mut housekeeper).await;
    assert_eq!(error.message(), "1 volume has failed");
    let error = cannot_go_on(&mut errors, &mut links, &mut housekeeper).await;
    assert!(error.message().starts_with("the housekeeper has ended"), "{}", error.message());
}
