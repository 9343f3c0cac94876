//! Puts a NameNode together and runs it: directory, image, journal, services, monitors.
//!
//! Order of a start: listeners are bound (a port in use ends it before anything is touched), HTTP answers that it starts and how
//! far it is, the directory is locked, the image is loaded, the block manager is told of every block, the journal replays what
//! follows, then calls are answered.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::clock::{Clock, SystemClock};
use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_common::shutdown::Shutdown;
use dfs_proto::GRPC_MESSAGE_MAX;
use dfs_proto::v1;
use dfs_proto::v1::client_namenode_server::ClientNamenodeServer;
use dfs_proto::v1::datanode_server::DatanodeServer;
use dfs_proto::v1::namenode_server::NamenodeServer;
use tonic::service::Routes;

use super::blocks::{BlockEvent, BlockManager};
use super::checkpointer::Schedule;
use super::fold::NamespaceFolder;
use super::image::format::ImageHeader;
use super::image::records;
use super::journal::{Journal, JournalOptions};
use super::listening::PULSE_INTERVAL;
use super::machine::Machine;
use super::namespace::Namespace;
use super::namespace::directory::HashKey;
use super::namespace::lock::NamespaceLock;
use super::namesystem::{FileLimits, Namesystem};
use super::node_files::NodeFiles;
use super::service::client_service::ClientService;
use super::service::datanode_service::DatanodeService;
use super::service::namenode_service::NamenodeService;
use super::storage_dir::{NameDir, Useless, image_path};
use crate::blocking::blocking;
use crate::listen::descriptors::{self, NameNodeShares};
use crate::listen::http::Protocol;
use crate::listen::{self, Acceptor, HostNames};
use crate::pages::starting::Front;
use crate::start_progress::StartProgress;
use crate::{OnReady, Running};

/// How often the block manager looks at liveness and repairs.
const BLOCKS_TICK: Duration = Duration::from_secs(1);
/// How often silent sessions are looked for.
const SESSIONS_TICK: Duration = Duration::from_secs(5);
/// How often files that wait for recovery are looked at.
const RECOVERIES_TICK: Duration = Duration::from_secs(1);
/// How often it is asked whether something is left of what was removed, beside when something is.
const LEFTOVERS_TICK: Duration = Duration::from_secs(1);
/// How often it is asked whether a checkpoint is due.
const CHECKPOINT_TICK: Duration = Duration::from_secs(5);
/// Time for the edit log to finish what is under way when the daemon stops: a device that hangs never does.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Blocks of one file list handed to the block manager at once while loading.
const LOAD_BATCH: usize = 10_000;

/// Where the daemon listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// gRPC.
    pub rpc: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(gRPC {}, HTTP {})", self.rpc, self.http)
    }
}

/// Runs a NameNode until told to stop.
///
/// # Errors
/// With what to do about it: port in use, directory not formatted, damaged or in use, log not writable.
pub fn run<'a>(config: &'a Config, stop: Shutdown, on_ready: OnReady<'a, Addresses>) -> Running<'a> {
    Box::pin(run_until_told(config, stop, on_ready))
}

async fn run_until_told(config: &Config, mut stop: Shutdown, on_ready: OnReady<'_, Addresses>) -> Result<()> {
    let bind = |key: &str| listen::bind(key, &config.text(key));
    let (rpc, http) = (bind("dfs.namenode.rpc-address")?, bind("dfs.namenode.http-address")?);
    let addresses = Addresses { rpc: listen::address_of(&rpc)?, http: listen::address_of(&http)? };
    let shares = NameNodeShares::of(descriptors::available()?, small(config, "ipc.server.max.connections") as usize);
    let progress = Arc::new(StartProgress::default());
    let front = Front::new("NameNode", &progress);
    let names = Protocol::Http(Arc::new(HostNames::of(config)));
    let http =
        listen::http::serve("nn-accept-http", http, shares.http, names, front.router()).map_err(cannot_accept)?;
    let (namesystem, node_files) = tokio::select! {
        prepared = prepare(config, &progress) => prepared?,
        // Nothing is promised yet: what goes on loading ends with the process.
        () = stop.wait() => return Ok(()),
    };
    let acceptors = [http, serve_grpc(rpc, shares.grpc, &namesystem, node_files)?];
    front.serve(super::http::router(Arc::clone(&namesystem)));
    on_ready(addresses);
    let result = tokio::select! { result = tend(&namesystem, config) => result, () = stop.wait() => Ok(()) };
    drop(acceptors);
    let Ok(ended) = tokio::time::timeout(STOP_PATIENCE, namesystem.journal().shutdown()).await else {
        tracing::warn!(
            "stopping although the device of the edit log does not answer: what it has not taken was not acknowledged"
        );
        return result;
    };
    result.and(ended)
}

/// What goes on beside the calls, for as long as the NameNode serves. One part that ends takes the others with it.
///
/// # Errors
/// When a part has ended, or the journal has: nothing could be changed any more.
pub(super) async fn tend(namesystem: &Namesystem, config: &Config) -> Result<()> {
    tokio::select! {
        result = watch_blocks(namesystem) => result,
        () = keep_listening(namesystem) => Ok(()),
        result = watch_sessions(namesystem) => result,
        result = watch_recoveries(namesystem) => result,
        result = watch_leftovers(namesystem) => result,
        result = watch_checkpoints(namesystem, config) => result,
        () = namesystem.watch_room() => Ok(()),
        error = namesystem.journal().ended() => Err(error),
    }
}

/// All that comes before the first call is answered.
async fn prepare(config: &Config, progress: &Arc<StartProgress>) -> Result<(Arc<Namesystem>, Arc<NodeFiles>)> {
    let namesystem = start_telling(config, progress).await?;
    let node_files = Arc::new(NodeFiles::new(config));
    let files = Arc::clone(&node_files);
    namesystem.blocks().set_host_rules(blocking("read the operator's files", move || files.read()).await?);
    Ok((namesystem, node_files))
}

pub(super) fn name_dir(config: &Config) -> Result<PathBuf> {
    match config.list("dfs.namenode.name.dir").as_slice() {
        [dir] => Ok(PathBuf::from(dir)),
        [] => Err(DfsError::new(ErrorKind::InvalidArgument, "set dfs.namenode.name.dir to the NameNode's directory")),
        _ => Err(DfsError::new(
            ErrorKind::InvalidArgument,
            "dfs.namenode.name.dir takes one directory; copies of the log are what more NameNodes are for",
        )),
    }
}

/// Prepares an empty directory for a new namespace: VERSION and an image with nothing but the root.
///
/// # Errors
/// When the directory is in use or not empty; of writing.
pub fn format(config: &Config, cluster_id: Option<String>) -> Result<String> {
    format_with(config, cluster_id, &Namespace::new(HashKey(rand::random(), rand::random()), SystemClock.now_ns()))
}

/// Prepares an empty directory for this namespace: its log begins with the next transaction.
///
/// # Errors
/// As `format`.
pub(super) fn format_with(config: &Config, cluster_id: Option<String>, namespace: &Namespace) -> Result<String> {
    let dir = name_dir(config)?;
    let info = NameDir::format(&dir, cluster_id, |current, info| {
        let header = ImageHeader {
            cluster_id: info.cluster_id.clone(),
            namespace_id: info.namespace_id,
            block_pool_id: info.block_pool_id.clone(),
            last_txid: namespace.counters().last_txid.0,
            ..ImageHeader::default()
        };
        records::save(namespace, &image_path(current, header.txid()), &header)
    })?;
    Ok(format!("formatted {} for cluster {}, block pool {}", dir.display(), info.cluster_id, info.block_pool_id))
}

/// Loads the state and takes up service, without listening anywhere.
///
/// # Errors
/// As `run`.
pub async fn start(config: &Config) -> Result<Arc<Namesystem>> {
    start_telling(config, &Arc::default()).await
}

/// As `start`, and tells how far it is. What takes long is not done on the runtime's threads: they tell others meanwhile.
async fn start_telling(config: &Config, progress: &Arc<StartProgress>) -> Result<Arc<Namesystem>> {
    let limits = file_limits(config)?;
    let started = Instant::now();
    let (of_load, telling) = (config.clone(), Arc::clone(progress));
    let loaded = blocking("load the namespace", move || load(&of_load, &telling)).await?;
    let Loaded { storage, header, namespace, blocks, clock, useless } = loaded;
    let namespace = Arc::new(NamespaceLock::new(namespace));
    let info = namespace_info(&storage);
    let machine = Arc::new(Machine {
        namespace: Arc::clone(&namespace),
        blocks: Arc::clone(&blocks),
        leases: Arc::default(),
        leftovers: Arc::default(),
    });
    let retained = small(config, "dfs.namenode.num.checkpoints.retained") as usize;
    let folder = Arc::new(NamespaceFolder);
    let mut options = JournalOptions::new(config.text("dfs.namenode.rpc-address"), retained, folder);
    options.progress = Arc::clone(progress);
    options.useless_images = Arc::new(useless);
    let storage = Arc::new(storage);
    let journal = Journal::start(Arc::clone(&storage), Arc::clone(&machine), Some(header), options).await?;
    progress.begin("taking up service");
    journal.wait_ready().await?;
    let (files, directories, block_count) = namespace.read().counts();
    let TxId(txid) = namespace.read().counters().last_txid;
    tracing::info!(files, directories, blocks = block_count, txid, elapsed = ?started.elapsed(), "namespace loaded");
    if storage.is_restored() {
        tracing::warn!("restored from a checkpoint: read-only until `dfs admin safemode leave`");
        blocks.on_restored();
    }
    blocks.set_active(true);
    let namesystem = Namesystem::new(&machine, journal, storage, limits, info, clock);
    if config.is_set("dfs.namenode.checkpoint.dir") {
        namesystem.checkpoints().expect_secondary();
    }
    Ok(Arc::new(namesystem))
}

/// The state as of the newest image, and what it is kept in.
struct Loaded {
    storage: NameDir,
    header: ImageHeader,
    namespace: Namespace,
    blocks: Arc<BlockManager>,
    clock: Arc<dyn Clock>,
    /// Newer images, that could not be loaded.
    useless: Useless,
}

fn load(config: &Config, progress: &StartProgress) -> Result<Loaded> {
    let storage = NameDir::open(&name_dir(config)?)?;
    let loaded = storage.load_newest(|path| records::load_telling(path, progress))?;
    let ((header, namespace), useless) = loaded.ok_or_else(|| {
        DfsError::new(
            ErrorKind::Corrupt,
            format!("{} has no image; restore one from the SecondaryNameNode", storage.current().display()),
        )
    })?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let blocks = Arc::new(BlockManager::new(config, Arc::clone(&clock), rand::random()));
    // Done before the namespace is behind its lock: nobody can wait yet, so this long pass must not count in the lock's metrics.
    progress.begin("preparing the blocks");
    tell_blocks(&namespace, &blocks);
    Ok(Loaded { storage, header, namespace, blocks, clock, useless })
}

fn file_limits(config: &Config) -> Result<FileLimits> {
    let limits = FileLimits {
        default_block_size: config.bytes("dfs.blocksize"),
        min_block_size: config.bytes("dfs.namenode.fs-limits.min-block-size"),
        default_replication: small(config, "dfs.replication"),
        max_replication: small(config, "dfs.replication.max"),
        max_blocks_per_file: small(config, "dfs.namenode.fs-limits.max-blocks-per-file") as usize,
    };
    if !limits.default_block_size.is_multiple_of(512) || limits.default_block_size < limits.min_block_size {
        return Err(DfsError::new(
            ErrorKind::InvalidArgument,
            "dfs.blocksize must be a multiple of 512, not below dfs.namenode.fs-limits.min-block-size",
        ));
    }
    Ok(limits)
}

fn small(config: &Config, key: &str) -> u32 {
    u32::try_from(config.count(key)).unwrap_or(u32::MAX)
}

fn namespace_info(storage: &NameDir) -> v1::NamespaceInfo {
    let info = storage.info();
    v1::NamespaceInfo {
        cluster_id: info.cluster_id.clone(),
        namespace_id: info.namespace_id,
        block_pool_id: info.block_pool_id.clone(),
        layout_version: info.layout_version,
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Tells the block manager of every block of the image, before the log adds to it.
fn tell_blocks(namespace: &Namespace, blocks: &BlockManager) {
    let mut batch = Vec::with_capacity(LOAD_BATCH);
    for (id, inode) in namespace.all_inodes() {
        let super::namespace::inode::Content::File { blocks: list, replication, .. } = &inode.content else { continue };
        let open = namespace.lease(id).and_then(|lease| lease.open_block);
        batch.extend(list.as_slice().iter().map(|block| BlockEvent::Loaded {
            block: (*block).into(),
            inode: id,
            replication: *replication,
            under_construction: Some(block.id) == open,
        }));
        if batch.len() >= LOAD_BATCH {
            blocks.on_events(batch.drain(..));
        }
    }
    blocks.on_events(batch);
    blocks.set_allocated_limit(namespace.counters().next_block);
    blocks.set_lost(namespace.lost_ids());
}

/// Begins to answer over gRPC, on at most so many connections.
pub(super) fn serve_grpc(
    listener: TcpListener,
    connections: usize,
    namesystem: &Arc<Namesystem>,
    node_files: Arc<NodeFiles>,
) -> Result<Acceptor> {
    let client = ClientNamenodeServer::new(ClientService::new(Arc::clone(namesystem), Arc::clone(&node_files)));
    let datanode = DatanodeServer::new(DatanodeService::of(namesystem, node_files));
    let namenode = NamenodeServer::new(NamenodeService::new(Arc::clone(namesystem)));
    let services =
        Routes::new(client.max_decoding_message_size(GRPC_MESSAGE_MAX).max_encoding_message_size(GRPC_MESSAGE_MAX))
            .add_service(datanode.max_decoding_message_size(GRPC_MESSAGE_MAX))
            .add_service(namenode.max_decoding_message_size(GRPC_MESSAGE_MAX));
    let grpc = Protocol::Grpc { call_window: 1 << 20, connection_window: 4 << 20 };
    listen::http::serve("nn-accept-rpc", listener, connections, grpc, services.into_axum_router())
        .map_err(cannot_accept)
}

fn cannot_accept(error: std::io::Error) -> DfsError {
    DfsError::io("start the threads that accept", error)
}

/// Runs the block manager's ticks on a thread of their own: the work after a node's death would hold up every call that
/// shares a worker with it. The thread ends when this future is dropped.
async fn watch_blocks(namesystem: &Namesystem) -> Result<()> {
    let blocks = Arc::clone(namesystem.blocks());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (alive, ended) = tokio::sync::oneshot::channel::<()>();
    let tick = move || {
        let _alive = alive;
        loop {
            blocks.tick();
            if stopped.recv_timeout(BLOCKS_TICK) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("nn-blocks".to_owned())
        .spawn(tick)
        .map_err(|error| DfsError::io("start the thread of the block manager", error))?;
    // Nothing is ever sent: the channel closes when the thread panics.
    let _ = ended.await;
    drop(stop);
    Err(DfsError::new(ErrorKind::Internal, "the block manager's thread has ended; its panic is on standard error"))
}

/// Proves again and again that this thread, which reads what DataNodes and clients send, is not held up.
async fn keep_listening(namesystem: &Namesystem) {
    let mut ticks = tokio::time::interval(PULSE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        namesystem.blocks().listening().pulse();
    }
}

async fn watch_sessions(namesystem: &Namesystem) -> Result<()> {
    let mut ticks = tokio::time::interval(SESSIONS_TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = namesystem.expire_sessions().await {
            tracing::warn!("ending silent sessions: {}", error.chain());
        }
    }
}

async fn watch_recoveries(namesystem: &Namesystem) -> Result<()> {
    let mut ticks = tokio::time::interval(RECOVERIES_TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = namesystem.recovery_wanted() => {}
        }
        if let Err(error) = namesystem.recover_leases().await {
            tracing::warn!("recovering the files of dead writers: {}", error.chain());
        }
    }
}

/// Takes away, step by step, what was removed or has ended.
async fn watch_leftovers(namesystem: &Namesystem) -> Result<()> {
    let mut ticks = tokio::time::interval(LEFTOVERS_TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = namesystem.leftovers_made() => {}
        }
        if let Err(error) = namesystem.forget_leftovers().await {
            tracing::warn!("taking away what was removed: {}", error.chain());
        }
    }
}

/// Makes checkpoints when they are due.
async fn watch_checkpoints(namesystem: &Namesystem, config: &Config) -> Result<()> {
    let period = config.duration("dfs.namenode.checkpoint.period");
    let mut schedule = Schedule::new(period, config.count("dfs.namenode.checkpoint.txns"));
    let mut ticks = tokio::time::interval(CHECKPOINT_TICK.min(period));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let since = namesystem.txid().0.saturating_sub(namesystem.journal().newest_image().0);
        let begun = Instant::now();
        if !schedule.is_due(since, begun) {
            continue;
        }
        let made = namesystem.checkpoint().await;
        schedule.on_tried(made.is_ok(), begun, Instant::now());
        match made {
            Ok(TxId(txid)) => tracing::info!(txid, elapsed = ?begun.elapsed(), "checkpoint written"),
            Err(error) => tracing::error!("checkpoint: {}; the edits are kept", error.chain()),
        }
    }
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
