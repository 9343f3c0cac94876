//! The DataNode's side of DatanodeProtocol: one link to each NameNode of the group, so that every one of them knows where
//! the replicas are.
//!
//! ```text
//! meet (which cluster?) ──▶ register ──▶ heartbeats and reports, side by side
//!        ▲                     ▲                     │
//!        └── unreachable       └── registration unknown, or refused
//! ```
//!
//! A registration has one sequence of reports, numbered from 1 (`reports`). Losing the registration starts a new sequence
//! with a full report, so nothing is carried over and nothing can be missed. Orders come with heartbeat replies, only
//! from a NameNode that leads.

mod heartbeats;
mod reports;
mod status;

use std::sync::Arc;
use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::retry::Backoff;
use dfs_proto::convert::required;
use dfs_proto::v1;
use dfs_proto::v1::datanode_client::DatanodeClient;
use dfs_proto::{GRPC_MESSAGE_MAX, v1::NamespaceInfo};
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::transport::{Channel, Endpoint};
use tracing::{info, warn};

use super::deadline::call;
use super::orders::{FailedCopies, Orders};
use super::store::{EventQueue, Identity, ReplicaStore, VolumeReport};
use super::transfer::data_service::DataService;

pub(crate) use status::{LinkReport, LinkStatus};

/// Waits between tries to reach a NameNode: it may be starting.
const MEET_BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };
/// Waits after a failed report; short, because writers wait for their blocks to be known.
const REPORT_BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_secs(2) };
/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a small call to be answered.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a full report: a million replicas take the NameNode about a second, behind whatever it is doing.
const FULL_REPORT_TIMEOUT: Duration = Duration::from_secs(120);

/// What a link needs of its DataNode.
pub(crate) struct LinkContext {
    /// The replicas.
    pub(crate) store: Arc<ReplicaStore>,
    /// For its load.
    pub(crate) data_service: Arc<DataService>,
    /// Takes orders.
    pub(crate) orders: Orders,
    /// How others reach this node.
    pub(crate) id: v1::DatanodeId,
    /// Time between heartbeats.
    pub(crate) heartbeat_interval: Duration,
    /// Time between full reports.
    pub(crate) block_report_interval: Duration,
    /// Errors after which the node must not go on.
    pub(crate) fatal: mpsc::Sender<DfsError>,
}

/// What others want of a link.
#[derive(Debug, Default)]
pub(crate) struct LinkSignals {
    /// The state of a volume changed: the NameNode should hear at once.
    pub(crate) heartbeat_now: Notify,
    /// Somebody wants a full report.
    pub(crate) full_report_now: Notify,
}

/// One NameNode.
pub(crate) struct Link {
    context: Arc<LinkContext>,
    address: String,
    signals: Arc<LinkSignals>,
    status: Arc<LinkStatus>,
    queue: Arc<EventQueue>,
    failed_copies: Arc<FailedCopies>,
    client: DatanodeClient<Channel>,
}

/// What a registration is known by.
#[derive(Clone, Debug)]
struct Registration {
    id: u64,
    datanode_uuid: String,
    block_pool_id: String,
}

impl Link {
    /// A link to `host:port`; nothing is dialed yet.
    ///
    /// # Errors
    /// `InvalidArgument` when that is no address.
    pub(crate) fn new(context: Arc<LinkContext>, address: &str, signals: Arc<LinkSignals>) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| {
                DfsError::new(
                    ErrorKind::InvalidArgument,
                    format!("{address:?} in dfs.namenode.address is no host:port"),
                )
                .with_source(error)
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        let client = DatanodeClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(GRPC_MESSAGE_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_MAX);
        let queue = context.store.subscribe();
        let status = Arc::new(LinkStatus::new(address, context.heartbeat_interval));
        let address = address.to_owned();
        Ok(Self { context, address, signals, status, queue, failed_copies: Arc::default(), client })
    }

    /// What it has come to, as it goes on.
    pub(crate) fn status(&self) -> Arc<LinkStatus> {
        Arc::clone(&self.status)
    }

    /// Serves the link until the task is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let namespace = self.meet().await;
            self.status.on_met(&namespace.block_pool_id);
            let Some(registration) = self.register(&namespace).await else { continue };
            self.status.on_registered();
            let heartbeats = self.heartbeats(&registration);
            let reports = self.reports(&registration);
            let why = tokio::select! {
                why = heartbeats => why,
                why = reports => why,
            };
            self.status.on_registration_lost();
            info!(namenode = self.address, why, "registering again");
        }
    }

    /// Asks for the namespace until it is answered, and makes the volumes its own.
    async fn meet(&mut self) -> NamespaceInfo {
        let mut attempt = 0;
        loop {
            match self.try_meet().await {
                Ok(namespace) => return namespace,
                Err(error) if error.kind() == ErrorKind::WrongCluster => {
                    let told = DfsError::new(ErrorKind::WrongCluster, format!("NameNode {}", self.address));
                    let _ = self.context.fatal.send(told.with_source(error)).await;
                    std::future::pending::<()>().await;
                }
                Err(error) => self.pause(&mut attempt, "ask for its namespace", &error).await,
            }
        }
    }

    async fn try_meet(&mut self) -> Result<NamespaceInfo> {
        let answer = call(CALL_TIMEOUT, self.client.version_request(v1::VersionRequestRequest {})).await?;
        let namespace = required(answer.namespace, "namespace")?;
        let identity = Identity {
            cluster_id: namespace.cluster_id.clone(),
            namespace_id: namespace.namespace_id,
            block_pool_id: namespace.block_pool_id.clone(),
        };
        let store = Arc::clone(&self.context.store);
        on_own_thread(move || store.adopt(&identity)).await??;
        Ok(namespace)
    }

    /// Registers; `None` when that failed and the NameNode should be asked again who it is.
    async fn register(&mut self, namespace: &NamespaceInfo) -> Option<Registration> {
        let mut attempt = 0;
        loop {
            match self.try_register(namespace).await {
                Ok(registration) => return Some(registration),
                Err(error) => self.pause(&mut attempt, "register", &error).await,
            }
            // The NameNode may have been replaced by that of another cluster.
            if attempt % 10 == 0 {
                return None;
            }
        }
    }

    async fn try_register(&mut self, namespace: &NamespaceInfo) -> Result<Registration> {
        let storages = self.storages();
        let request = v1::RegisterDatanodeRequest {
            id: Some(self.context.id.clone()),
            namespace: Some(namespace.clone()),
            storages,
        };
        let answer = call(CALL_TIMEOUT, self.client.register_datanode(request)).await?;
        info!(namenode = self.address, registration = answer.registration_id, "registered");
        Ok(Registration {
            id: answer.registration_id,
            datanode_uuid: self.context.id.uuid.clone(),
            block_pool_id: namespace.block_pool_id.clone(),
        })
    }

    async fn pause(&self, attempt: &mut u32, doing: &str, error: &DfsError) {
        // Once at the start of an outage, then now and then.
        if attempt.is_multiple_of(20) {
            warn!(namenode = self.address, "could not {doing}, trying again: {}", error.chain());
        }
        let delay = MEET_BACKOFF.delay(*attempt, &mut rand::rng());
        *attempt += 1;
        tokio::time::sleep(delay).await;
    }

    /// The volumes, as heartbeats and registrations tell of them.
    fn storages(&self) -> Vec<v1::StorageReport> {
        self.context.store.volumes().reports().iter().map(storage_report).collect()
    }
}

fn storage_report(report: &VolumeReport) -> v1::StorageReport {
    v1::StorageReport {
        storage_uuid: report.storage_uuid.to_string(),
        path: report.path.display().to_string(),
        capacity: report.space.capacity,
        used: report.space.used,
        remaining: report.space.remaining,
        failed: report.failed,
    }
}

/// Runs file work in a thread of its own: the runtime's may all wait for a device.
async fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (done, outcome) = oneshot::channel();
    let started = std::thread::Builder::new().name("dn-link".to_owned()).spawn(move || {
        // Nobody waits any more when this fails.
        let _ = done.send(work());
    });
    started.map_err(|error| DfsError::io("start a thread for a NameNode's link", error))?;
    outcome.await.map_err(|error| DfsError::new(ErrorKind::Internal, "a thread met a bug").with_source(error))
}
