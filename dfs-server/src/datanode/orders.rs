//! What the NameNode orders by heartbeat: copy replicas, delete them, verify them, recover blocks.
//!
//! Each kind has a bounded queue and threads of its own, so that a slow copy holds up no deletion; those that work on one
//! volume have them for each volume, so that a device that hangs holds up no other. An order that finds its queue full is
//! dropped, and nothing is lost by that: of copies that did not come about the NameNode is told, after dropped deletions it
//! gets a full report, more doubted replicas than can wait have the whole volume verified, and a block that was not recovered
//! it gives to another node.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::ErrorKind;
use dfs_proto::hadoop::{DatanodeIdProto, DatanodeInfoProto};
use dfs_proto::v1;
use dfs_proto::v1::datanode_client::DatanodeClient;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::block_recovery::{Recovery, recover};
use super::scanner::verify_suspects;
use super::store::{ReplicaStore, Suspects, VolumeIndex};
use super::transfer::{DataPlane, Turns, copy_block};

/// Copies made at once from one volume: two keep a disk and a link busy, two more hide each other's waits. How many there
/// are on the whole node the NameNode limits.
const COPIES_AT_ONCE: usize = 4;
/// Copies for the balancer at once from one volume: all share one limit of bytes per second, and wait behind nothing else.
const MOVES_AT_ONCE: usize = 2;
/// Blocks recovered at once: most of it is waiting for other nodes.
const RECOVERIES_AT_ONCE: usize = 4;
/// Orders waiting, per kind. A heartbeat's worth of deletions is one order.
const ORDERS_MAX: usize = 1024;

/// Copies that did not come about, until the NameNode that ordered them has been told. There are never many: each was
/// ordered in the answer to a heartbeat, and that heartbeat has told of those that had failed before.
#[derive(Debug, Default)]
pub(crate) struct FailedCopies(Mutex<Vec<Block>>);

impl FailedCopies {
    pub(crate) fn add(&self, blocks: impl IntoIterator<Item = Block>) {
        self.0.lock().extend(blocks);
    }

    pub(crate) fn take(&self) -> Vec<Block> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// A copy to be made, and where to note that it failed.
struct CopyJob {
    order: v1::TransferOrder,
    failed: Arc<FailedCopies>,
}

/// Takes orders.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    store: Arc<ReplicaStore>,
    /// By volume; the last for what is on none. So are the next two.
    copies: Vec<SyncSender<CopyJob>>,
    moves: Vec<SyncSender<CopyJob>>,
    deletions: Vec<SyncSender<Vec<ExtendedBlock>>>,
    /// Some were dropped, and no full report was asked for since.
    are_deletions_lost: Arc<AtomicBool>,
    recoveries: SyncSender<Recovery>,
    _verifiers: Arc<Verifiers>,
}

/// Ends the threads that verify what is doubted.
#[derive(Debug)]
struct Verifiers(Arc<Suspects>);

impl Drop for Verifiers {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Orders {
    /// Starts the threads; they end when the last `Orders` is dropped.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(plane: &Arc<DataPlane>, runtime: &Handle) -> std::io::Result<Self> {
        let runtime = runtime.clone();
        let verifiers = Arc::new(Verifiers(Arc::clone(plane.store.suspects())));
        for volume in plane.store.volumes().all() {
            let plane = Arc::clone(plane);
            std::thread::Builder::new()
                .name("dn-verify".into())
                .spawn(move || verify_suspects(&plane.store, &plane.metrics, volume.index()))?;
        }
        let are_deletions_lost = Arc::new(AtomicBool::new(false));
        let are_lost = Arc::clone(&are_deletions_lost);
        Ok(Self {
            store: Arc::clone(&plane.store),
            copies: spawn_per_volume("dn-copy", COPIES_AT_ONCE, plane, copy)?,
            moves: spawn_per_volume("dn-move", MOVES_AT_ONCE, plane, copy)?,
            deletions: spawn_per_volume("dn-delete", 1, plane, move |plane, blocks| {
                delete(plane, blocks);
                // Not before there is room again: the NameNode would only repeat them.
                if are_lost.swap(false, Ordering::AcqRel) {
                    plane.store.ask_full_reports();
                }
            })?,
            are_deletions_lost,
            recoveries: spawn("dn-recover", RECOVERIES_AT_ONCE, plane, move |_, recovery| {
                runtime.block_on(recover(recovery));
            })?,
            _verifiers: verifiers,
        })
    }

    /// Recovers a block, as the primary.
    pub(crate) fn recover(&self, order: v1::RecoverOrder, namenode: DatanodeClient<Channel>) {
        enqueue(&self.recoveries, Recovery { order, namenode }, "recovery");
    }

    /// Copies a replica to other nodes; if that fails, the block is added to `failed`.
    pub(crate) fn transfer(&self, order: v1::TransferOrder, failed: &Arc<FailedCopies>) {
        let Some(block) = order.block.map(Block::from) else { return };
        let volume = self.store.volume_of(&ExtendedBlock { pool: order.block_pool_id.clone(), block });
        let (queues, what) = if order.is_balancing { (&self.moves, "move") } else { (&self.copies, "copy") };
        let queue = queue_of(queues, volume);
        if !enqueue(queue, CopyJob { order, failed: Arc::clone(failed) }, what) {
            failed.add([block]);
        }
    }

    /// Deletes replicas.
    pub(crate) fn invalidate(&self, order: v1::InvalidateOrder) {
        for (volume, blocks) in self.by_volume(&order.block_pool_id, &order.blocks) {
            if !enqueue(queue_of(&self.deletions, volume), blocks, "deletion") {
                self.are_deletions_lost.store(true, Ordering::Release);
            }
        }
    }

    /// Verifies replicas; the NameNodes are told how each is, and of those that are not here.
    pub(crate) fn verify(&self, order: v1::VerifyOrder) {
        for block in order.blocks.iter().map(Block::from) {
            let block = ExtendedBlock { pool: order.block_pool_id.clone(), block };
            if let Err(error) = self.store.doubt(&block) {
                warn!(%block, "not verified: {}", error.chain());
            }
        }
    }

    fn by_volume(&self, pool: &str, blocks: &[v1::Block]) -> HashMap<Option<VolumeIndex>, Vec<ExtendedBlock>> {
        let mut sorted: HashMap<_, Vec<_>> = HashMap::new();
        for block in blocks.iter().map(Block::from) {
            let block = ExtendedBlock { pool: pool.to_owned(), block };
            sorted.entry(self.store.volume_of(&block)).or_default().push(block);
        }
        sorted
    }
}

/// The queue for what lies on a volume.
fn queue_of<T>(queues: &[SyncSender<T>], volume: Option<VolumeIndex>) -> &SyncSender<T> {
    let of_none = queues.len() - 1;
    &queues[volume.map_or(of_none, |volume| usize::from(volume.0).min(of_none))]
}

/// False when the order is dropped.
fn enqueue<T>(queue: &SyncSender<T>, order: T, what: &str) -> bool {
    match queue.try_send(order) {
        Ok(()) => return true,
        Err(TrySendError::Full(_)) => warn!("too many orders wait, dropping a {what}"),
        Err(TrySendError::Disconnected(_)) => warn!("no thread is left for a {what}"),
    }
    false
}

/// A queue and threads for each volume, and one more for what is on none.
fn spawn_per_volume<T: Send + 'static>(
    name: &str,
    threads: usize,
    plane: &Arc<DataPlane>,
    obey: impl Fn(&DataPlane, T) + Clone + Send + 'static,
) -> std::io::Result<Vec<SyncSender<T>>> {
    let volumes = plane.store.volumes().all().len();
    (0..=volumes).map(|_| spawn(name, threads, plane, obey.clone())).collect()
}

fn spawn<T: Send + 'static>(
    name: &str,
    threads: usize,
    plane: &Arc<DataPlane>,
    obey: impl Fn(&DataPlane, T) + Clone + Send + 'static,
) -> std::io::Result<SyncSender<T>> {
    let (sender, receiver) = sync_channel(ORDERS_MAX);
    let receiver: Arc<Mutex<Receiver<T>>> = Arc::new(Mutex::new(receiver));
    for _ in 0..threads {
        let (plane, receiver, obey) = (Arc::clone(plane), Arc::clone(&receiver), obey.clone());
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            loop {
                // One thread waits in `recv`, the others for the lock; each order goes to exactly one.
                let order = receiver.lock().recv();
                match order {
                    Ok(order) => obey(&plane, order),
                    Err(_) => return,
                }
            }
        })?;
    }
    Ok(sender)
}

fn copy(plane: &DataPlane, CopyJob { order, failed }: CopyJob) {
    let Some(block) = order.block.map(Block::from) else { return };
    let block = ExtendedBlock { pool: order.block_pool_id, block };
    let targets: Vec<_> = order.targets.iter().map(target).collect();
    let turns = order.is_balancing.then_some(Turns { pace: &plane.balance_pace, limit: order.bandwidth });
    let Err(error) = copy_block(plane, &block, &targets, &order.target_storage_uuids, turns) else {
        info!(%block, targets = targets.len(), "copied");
        return;
    };
    if error.kind() == ErrorKind::AlreadyExists {
        info!(%block, "not copied: {}", error.chain());
    } else {
        warn!(%block, "copy failed: {}", error.chain());
    }
    failed.add([block.block]);
}

fn target(id: &v1::DatanodeId) -> DatanodeInfoProto {
    DatanodeInfoProto {
        id: DatanodeIdProto {
            ip_addr: id.host.clone(),
            host_name: id.host.clone(),
            datanode_uuid: id.uuid.clone(),
            xfer_port: id.data_port,
            info_port: id.http_port,
            ipc_port: id.grpc_port,
            info_secure_port: None,
        },
        ..Default::default()
    }
}

fn delete(plane: &DataPlane, blocks: Vec<ExtendedBlock>) {
    let mut deleted = 0;
    for block in &blocks {
        match plane.store.invalidate(block) {
            Ok(()) => deleted += 1,
            Err(error) => warn!(%block, "deletion failed: {}", error.chain()),
        }
    }
    info!(replicas = deleted, "deleted");
}
