//! Finished blocks brought to disk: for the fsync that comes after their pipeline has ended.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::BlockId;
use dfs_common::retry::Backoff;
use dfs_proto::v1;
use tracing::warn;

use crate::client::ClientCore;
use crate::datanode::{DatanodeClient, Located, Node};

/// How long a DataNode may take: many gigabytes may wait for a slow disk.
const SYNC_REPLICA_DEADLINE: Duration = Duration::from_secs(120);

/// Pauses between tries while no node has a block: nodes register within a second of a NameNode's start.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(2) };

/// How long a sync is tried again while it finds a block on no node that can be asked: a NameNode just started knows no
/// replicas yet, and DataNodes that were killed come back with theirs.
pub(crate) struct SyncPatience {
    begun: Instant,
    tries: u32,
    total: Duration,
}

impl SyncPatience {
    pub(crate) fn new(core: &ClientCore) -> Self {
        Self { begun: Instant::now(), tries: 0, total: core.config.retry_timeout }
    }

    /// Returns when it is time for another try.
    ///
    /// # Errors
    /// `error` itself, when time will not change it or there is no time left.
    pub(crate) async fn wait_after(&mut self, error: DfsError) -> Result<()> {
        let pause = BACKOFF.delay(self.tries, &mut rand::rng());
        if !is_absence(error.kind()) || self.begun.elapsed() + pause >= self.total {
            return Err(error);
        }
        self.tries += 1;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Brings `blocks` to disk on all their nodes at once. A node that cannot be reached, or whose disk fails, is forgiven while
/// another one has each of its blocks on disk: the NameNode will replace it.
///
/// # Errors
/// Why a block is on no disk: `Io`, or an absence that may end.
pub(crate) async fn sync_replicas(core: &ClientCore, blocks: &[Located]) -> Result<()> {
    let mut by_node: HashMap<&str, (&Node, Vec<&Located>)> = HashMap::new();
    for block in blocks {
        for replica in &block.replicas {
            let entry = by_node.entry(&replica.node.uuid).or_insert_with(|| (&replica.node, Vec::new()));
            entry.1.push(block);
        }
    }
    let calls = by_node.into_values().map(async |(node, blocks)| (sync_on(core, node, &blocks).await, blocks));
    let mut on_disk: HashSet<BlockId> = HashSet::new();
    let mut not_there = None;
    for (outcome, blocks) in futures::future::join_all(calls).await {
        match outcome {
            Ok(()) => on_disk.extend(blocks.iter().map(|block| block.block.block.id)),
            Err(error) if is_absence(error.kind()) || error.kind() == ErrorKind::Io => {
                warn!(error = %error.chain(), "finished blocks not synced there");
                not_there = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match blocks.iter().find(|block| !on_disk.contains(&block.block.block.id)) {
        Some(block) => Err(not_there.unwrap_or_else(|| {
            DfsError::new(ErrorKind::Unavailable, format!("no DataNode is known to have {}", block.block))
        })),
        None => Ok(()),
    }
}

/// Whether a node cannot be asked, or does not have the block any more: it was restarted, or its replica moved elsewhere.
fn is_absence(kind: ErrorKind) -> bool {
    use ErrorKind::{NotFound, StaleGeneration, TimedOut, Unavailable};
    matches!(kind, Unavailable | TimedOut | NotFound | StaleGeneration)
}

async fn sync_on(core: &ClientCore, node: &Node, blocks: &[&Located]) -> Result<()> {
    let Some(first) = blocks.first() else { return Ok(()) };
    let request = v1::SyncReplicaRequest {
        block_pool_id: first.block.pool.clone(),
        blocks: blocks.iter().map(|block| block.block.block.into()).collect(),
    };
    let ask = |mut datanode: DatanodeClient, request| async move { datanode.sync_replica(request).await };
    core.datanodes.call(node, SYNC_REPLICA_DEADLINE, request, ask).await.map(|_| ())
}
