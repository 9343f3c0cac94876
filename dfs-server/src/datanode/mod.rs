//! The DataNode: stores block replicas on local volumes and serves their bytes. It knows nothing of files.
//!
//! ```text
//!   clients, DataNodes ──TCP──▶ transfer ──▶ store ──▶ volumes (files)
//!   clients ────────────gRPC──▶ client_service ──▶ │
//!   DataNodes ──────────gRPC──▶ inter_datanode ──▶ │
//!                                                  │ events
//!   NameNodes ◀─────────gRPC─── namenode_link ◀────┘
//!                                   │ orders
//!                                   └──▶ orders ──▶ transfer, store, block_recovery
//! ```
//!
//! Threads: the runtime carries gRPC, HTTP and the NameNode links; whatever touches blocks runs on threads of its own
//! (`transfer::data_service`, `orders`) or on the runtime's blocking pool, of which each volume has a part (`file_calls`): what
//! the runtime itself does never waits for a device. Files are the truth; everything in memory is
//! rebuilt from them at start.

mod block_recovery;
mod client_service;
mod deadline;
mod file_calls;
mod http;
mod inter_datanode;
mod metrics;
mod namenode_link;
mod orders;
mod page;
mod scanner;
mod settings;
mod store;
mod transfer;

#[cfg(test)]
mod daemon_tests;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::shutdown::Shutdown;
use dfs_proto::GRPC_MESSAGE_MAX;
use dfs_proto::v1;
use dfs_proto::v1::client_datanode_server::ClientDatanodeServer;
use dfs_proto::v1::inter_datanode_server::InterDatanodeServer;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tonic::service::Routes;
use tracing::{info, warn};

use client_service::ClientService;
use file_calls::FileCalls;
use http::HttpState;
use inter_datanode::InterDatanodeService;
use metrics::Metrics;
use namenode_link::{Link, LinkContext, LinkSignals};
use orders::Orders;
use scanner::{BlockScanner, DirectoryScanner};
use settings::Settings;
use store::{ReplicaStore, StoreSettings};
use transfer::data_service::DataService;
use transfer::{DataPlane, Pace, PeerPool, Pulse};

use crate::last_work::ends_within;
use crate::listen::descriptors::{self, DataNodeShares};
use crate::listen::http::Protocol;
use crate::listen::{self, Acceptor, HostNames};
use crate::pages::starting::Front;
use crate::start_progress::StartProgress;
use crate::{OnReady, Running};

/// Time between rounds of housekeeping when nothing is suspected. In each all volumes are probed: a device that is not used
/// can fail too, and one that hangs must not meet many writers before it is known.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(10);
/// Time between looks at a volume that does not answer.
const SILENCE_INTERVAL: Duration = Duration::from_secs(1);
/// gRPC calls that work on files at once.
const FILE_CALLS_MAX: usize = 256;
/// Time for transfers to end when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Where a running DataNode answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyInfo {
    /// Data transfers.
    pub data: SocketAddr,
    /// gRPC.
    pub grpc: SocketAddr,
    /// Status and metrics.
    pub http: SocketAddr,
}

impl fmt::Display for ReadyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(data {}, gRPC {}, HTTP {})", self.data, self.grpc, self.http)
    }
}

/// Runs a DataNode until `shutdown`, or until it cannot go on. `on_ready` is called when it listens and has loaded its
/// replicas; it registers with the NameNodes from then on, however long that takes.
///
/// # Errors
/// When the configuration, the volumes or the ports cannot be used, the volumes belong to another cluster, or the last
/// volume fails.
pub fn run<'a>(config: &'a Config, shutdown: Shutdown, on_ready: OnReady<'a, ReadyInfo>) -> Running<'a> {
    Box::pin(run_until_told(config, shutdown, on_ready))
}

async fn run_until_told(config: &Config, mut shutdown: Shutdown, on_ready: OnReady<'_, ReadyInfo>) -> Result<()> {
    let settings = Settings::load(config)?;
    let shares = DataNodeShares::of(
        descriptors::available()?,
        settings.max_connections,
        FILE_CALLS_MAX,
        settings.max_transfer_threads,
    );
    let progress = Arc::new(StartProgress::default());
    let front = Front::new("DataNode", &progress);
    let (http, of_http) = serve_http(&settings, HostNames::of(config), shares.http, &front)?;
    progress.begin("loading the replicas");
    let store = tokio::select! {
        opened = open_store(&settings, shares.replicas) => opened?,
        // Nothing is promised yet: what goes on loading ends with the process.
        () = shutdown.wait() => return Ok(()),
    };
    let metrics = Arc::new(Metrics::default());
    let plane = Arc::new(DataPlane {
        store: Arc::clone(&store),
        peers: PeerPool::new(shares.peers),
        pulse: Pulse::start().map_err(|error| DfsError::io("start the thread for signs of life", error))?,
        metrics: Arc::clone(&metrics),
        timeout: settings.socket_timeout,
        balance_pace: Pace::new(settings.balance_bandwidth),
        drop_behind: settings.drop_behind,
    });
    let [data, grpc] = bind(&settings)?;
    let data_service = DataService::start(data, Arc::clone(&plane), shares.transfers)
        .map_err(|error| DfsError::io("start the data service", error))?;
    let of_grpc = listen::address_of(&grpc)?;
    let addresses = ReadyInfo { data: data_service.address(), grpc: of_grpc, http: of_http };
    let data_service = Arc::new(data_service);

    let (fatal, mut fatal_errors) = mpsc::channel(1);
    let (links, signals) = make_links(&settings, &plane, &data_service, addresses, &fatal)?;
    let (housekeeper, mut housekeeper_end) =
        spawn_housekeeper(Arc::clone(&plane), signals.clone(), settings.failed_volumes_tolerated, fatal)?;
    let link_status = links.iter().map(Link::status).collect();
    let mut tasks = JoinSet::new();
    for link in links {
        tasks.spawn(link.run());
    }
    let files = FileCalls::new(&store, shares.file_calls);
    let grpc = serve_grpc(grpc, shares.grpc, ClientService { files, links: signals })?;
    let scanner = BlockScanner::start(Arc::clone(&store), Arc::clone(&metrics), settings.scanner)
        .map_err(|error| DfsError::io("start the block scanner", error))?;
    let interval = settings.directory_scan_interval;
    let directory_scanner = DirectoryScanner::start(Arc::clone(&store), Arc::clone(&metrics), interval)
        .map_err(|error| DfsError::io("start the directory scanner", error))?;
    let state = HttpState {
        store: Arc::clone(&store),
        scanner: Arc::clone(&scanner),
        directory_scanner: Arc::clone(&directory_scanner),
        metrics,
        links: link_status,
    };
    front.serve(http::router(state));
    on_ready(addresses);

    let result = tokio::select! {
        () = shutdown.wait() => Ok(()),
        error = cannot_go_on(&mut fatal_errors, &mut tasks, &mut housekeeper_end) => Err(error),
    };
    // Receivers gone tell the housekeeper to end.
    drop(fatal_errors);
    scanner.stop();
    directory_scanner.stop();
    drop((grpc, http));
    tasks.shutdown().await;
    let stop = move || {
        data_service.stop(STOP_PATIENCE);
        store.end_wait();
        let _ = housekeeper.join();
        store.close();
    };
    if !ends_within(STOP_PATIENCE * 2, stop).await {
        warn!("stopping although a device does not answer");
    }
    result
}

/// Returns when the node must end, with why: somebody says so, or a part has ended without which it would go on and never be right again.
async fn cannot_go_on(
    fatal: &mut mpsc::Receiver<DfsError>,
    links: &mut JoinSet<()>,
    housekeeper: &mut oneshot::Receiver<()>,
) -> DfsError {
    let ended = |what| DfsError::new(ErrorKind::Internal, format!("{what} has ended; its panic is on standard error"));
    tokio::select! {
        // Whoever tells why it ends is heard before its end is seen.
        biased;
        Some(error) = fatal.recv() => error,
        Some(_) = links.join_next() => ended("the link to a NameNode"),
        // Nothing is ever sent.
        _ = housekeeper => ended("the housekeeper"),
    }
}

async fn open_store(settings: &Settings, open_max: usize) -> Result<Arc<ReplicaStore>> {
    let store_settings = StoreSettings {
        data_dirs: settings.data_dirs.clone(),
        reserved: settings.reserved,
        sync_on_close: settings.sync_on_close,
        open_max,
    };
    let started = std::time::Instant::now();
    let opened = tokio::task::spawn_blocking(move || ReplicaStore::open(&store_settings)).await;
    let store = opened
        .map_err(|error| DfsError::new(ErrorKind::Internal, "loading the replicas met a bug").with_source(error))??;
    info!(replicas = store.replica_count(), took = ?started.elapsed(), "replicas loaded");
    Ok(Arc::new(store))
}

/// Begins to answer over HTTP: that it starts, at first.
fn serve_http(settings: &Settings, names: HostNames, places: usize, front: &Front) -> Result<(Acceptor, SocketAddr)> {
    let listener = listen::bind("dfs.datanode.http.address", &settings.http_address)?;
    let address = listen::address_of(&listener)?;
    let protocol = Protocol::Http(Arc::new(names));
    let acceptor = listen::http::serve("dn-accept-http", listener, places, protocol, front.router())
        .map_err(|error| DfsError::io("start the HTTP service", error))?;
    Ok((acceptor, address))
}

/// The listeners for data and gRPC. Only now: until then nobody is kept waiting on them.
fn bind(settings: &Settings) -> Result<[TcpListener; 2]> {
    Ok([
        listen::bind("dfs.datanode.address", &settings.data_address)?,
        listen::bind("dfs.datanode.ipc.address", &settings.grpc_address)?,
    ])
}

fn make_links(
    settings: &Settings,
    plane: &Arc<DataPlane>,
    data_service: &Arc<DataService>,
    addresses: ReadyInfo,
    fatal: &mpsc::Sender<DfsError>,
) -> Result<(Vec<Link>, Vec<Arc<LinkSignals>>)> {
    let orders = Orders::start(plane, &Handle::current())
        .map_err(|error| DfsError::io("start the threads for orders", error))?;
    let context = Arc::new(LinkContext {
        store: Arc::clone(&plane.store),
        data_service: Arc::clone(data_service),
        orders,
        id: v1::DatanodeId {
            uuid: plane.store.volumes().datanode_uuid().to_owned(),
            host: settings.hostname.clone(),
            data_port: addresses.data.port().into(),
            grpc_port: addresses.grpc.port().into(),
            http_port: addresses.http.port().into(),
            rack: settings.rack.clone(),
        },
        heartbeat_interval: settings.heartbeat_interval,
        block_report_interval: settings.block_report_interval,
        fatal: fatal.clone(),
    });
    let mut links = Vec::new();
    let mut signals = Vec::new();
    for address in &settings.namenodes {
        let of_link = Arc::new(LinkSignals::default());
        links.push(Link::new(Arc::clone(&context), address, Arc::clone(&of_link))?);
        signals.push(of_link);
    }
    Ok((links, signals))
}

/// Checks suspected volumes at once, the others now and then, and closes connections that were idle for long. Also gives what is closed
/// when the thread ends.
fn spawn_housekeeper(
    plane: Arc<DataPlane>,
    links: Vec<Arc<LinkSignals>>,
    failed_tolerated: usize,
    fatal: mpsc::Sender<DfsError>,
) -> Result<(std::thread::JoinHandle<()>, oneshot::Receiver<()>)> {
    let (alive, end) = oneshot::channel();
    let keep_house = move || {
        let _alive: oneshot::Sender<()> = alive;
        while !fatal.is_closed() {
            let is_any_silent = plane.store.volumes().good().any(|volume| volume.is_silent());
            let interval = if is_any_silent { SILENCE_INTERVAL } else { HOUSEKEEPING_INTERVAL };
            let suspected = plane.store.wait_suspicion(interval);
            plane.peers.sweep();
            let is_out = plane.store.check_volumes(!suspected && !is_any_silent);
            // Not in the round of its failure: what was under way on it ends first.
            let is_back = !is_out && !suspected && plane.store.readmit_volumes();
            if is_out || is_back {
                for link in &links {
                    link.heartbeat_now.notify_one();
                }
            }
            let failed = plane.store.volumes().all().iter().filter(|volume| volume.is_failed()).count();
            if is_out && failed > failed_tolerated {
                let what = format!(
                    "{failed} volumes have failed, more than the {failed_tolerated} of dfs.datanode.failed.volumes.tolerated"
                );
                let _ = fatal.try_send(DfsError::new(ErrorKind::Io, what));
                return;
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("dn-housekeeper".into())
        .spawn(keep_house)
        .map_err(|error| DfsError::io("start the housekeeper", error))?;
    Ok((thread, end))
}

fn serve_grpc(listener: TcpListener, connections: usize, service: ClientService) -> Result<Acceptor> {
    let recovery = InterDatanodeServer::new(InterDatanodeService { files: service.files.clone() });
    let server = ClientDatanodeServer::new(service)
        .max_decoding_message_size(GRPC_MESSAGE_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_MAX);
    let services = Routes::new(server).add_service(recovery).into_axum_router();
    let protocol = Protocol::Grpc { call_window: 1 << 20, connection_window: 1 << 20 };
    listen::http::serve("dn-accept-grpc", listener, connections, protocol, services)
        .map_err(|error| DfsError::io("start the gRPC service", error))
}
