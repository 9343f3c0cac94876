//! Finished blocks brought to disk: for the fsync that comes after their pipeline has ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_common::retry::Backoff;
use dfs_proto::v1;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::client_core::ClientCore;
use crate::datanode::{DatanodeClient, Located, Node};

/// How long DataNodes may be at work: many gigabytes may wait for a slow disk.
const SYNC_REPLICA_DEADLINE: Duration = Duration::from_secs(120);

/// Pauses between tries: nodes register within a second of a NameNode's start.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(2) };

/// How long nodes may be at it before the NameNode is asked whether they still count. A slow disk takes that long, and a
/// question costs little.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How long a node that others can stand in for is waited for, at least. By default the NameNode takes a silent one for dead
/// sooner, and then it does not count any more. With a longer `dfs.namenode.dead.interval` the sync may fail before that, and
/// can be asked for again.
const NODE_PATIENCE: Duration = Duration::from_secs(90);

/// Blocks in one call; a DataNode refuses far more.
const BLOCKS_PER_CALL: usize = 1_000;

/// One sync, over as many rounds as it takes: every node that the NameNode counts as having a block must have it on disk.
/// Between rounds the caller asks where the blocks are by now. So a node that does not answer, or whose disk fails, is
/// waited for until it has done it, or until the NameNode counts it no more; whoever takes its place is asked, too. And a
/// NameNode that has just started may know fewer nodes than there are: it is asked again until it has heard them.
pub(crate) struct ReplicaSync<'a> {
    core: &'a ClientCore,
    begun: Instant,
    /// Rounds that ended with failures.
    tries: u32,
    calls: FuturesUnordered<BoxFuture<'a, Answer>>,
    /// What each node, by its uuid, was asked for.
    asked: HashMap<String, HashMap<Key, Progress>>,
    /// Why the last call that failed did.
    failure: Option<DfsError>,
}

type Key = (BlockId, GenerationStamp);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Asked,
    OnDisk,
    /// It has nothing of a block that may not have been begun.
    Absent,
}

struct Answer {
    node: Arc<Node>,
    keys: Vec<Key>,
    outcome: Result<Progress>,
}

impl<'a> ReplicaSync<'a> {
    pub(crate) fn new(core: &'a ClientCore) -> Self {
        Self {
            core,
            begun: Instant::now(),
            tries: 0,
            calls: FuturesUnordered::new(),
            asked: HashMap::new(),
            failure: None,
        }
    }

    /// Asks all nodes of `blocks` at once, those aside that have answered or are still at it. True when each block is on the
    /// disks of all its nodes; false when it is time to ask the NameNode where the blocks are.
    ///
    /// # Errors
    /// Why blocks are not on disk, when nothing will change that or there is no time left.
    pub(crate) async fn round(&mut self, blocks: &[Located]) -> Result<bool> {
        self.ask(blocks);
        let look = Instant::now() + LOOK_INTERVAL;
        while !self.is_done(blocks) {
            match timeout_at(look, self.calls.next()).await {
                Ok(Some(answer)) => self.take(answer)?,
                Ok(None) => {
                    let pause = BACKOFF.delay(self.tries, &mut rand::rng());
                    self.tries += 1;
                    self.check_patience(blocks, pause)?;
                    tokio::time::sleep(pause).await;
                    return Ok(false);
                }
                Err(_) => {
                    self.check_patience(blocks, Duration::ZERO)?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn ask(&mut self, blocks: &[Located]) {
        let mut by_node: HashMap<&str, (&Arc<Node>, Vec<&Located>)> = HashMap::new();
        for block in blocks {
            for replica in &block.replicas {
                // Who had nothing of it may have it by now.
                if matches!(self.progress(&replica.node, block), None | Some(Progress::Absent)) {
                    let entry = by_node.entry(&replica.node.uuid).or_insert_with(|| (&replica.node, Vec::new()));
                    entry.1.push(block);
                }
            }
        }
        for (node, blocks) in by_node.into_values() {
            let asked = self.asked.entry(node.uuid.clone()).or_default();
            asked.extend(blocks.iter().map(|block| (key(block), Progress::Asked)));
            // By itself: a node that does not have it says so of the whole call.
            let (empty, begun): (Vec<_>, Vec<_>) = blocks.iter().copied().partition(|block| block.may_be_unbegun());
            for part in begun.chunks(BLOCKS_PER_CALL).chain(empty.chunks(1)) {
                self.calls.push(Box::pin(sync_on(self.core, Arc::clone(node), part)));
            }
        }
    }

    fn take(&mut self, answer: Answer) -> Result<()> {
        let Answer { node, keys, outcome } = answer;
        let asked = self.asked.entry(node.uuid.clone()).or_default();
        match outcome {
            Ok(progress) => asked.extend(keys.into_iter().map(|key| (key, progress))),
            Err(error) if may_pass(error.kind()) => {
                warn!(datanode = %node.data_address, blocks = keys.len(), error = %error.chain(), "not synced there");
                keys.iter().for_each(|key| _ = asked.remove(key));
                self.failure = Some(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn progress(&self, node: &Node, block: &Located) -> Option<Progress> {
        self.asked.get(&node.uuid)?.get(&key(block)).copied()
    }

    fn is_on_disk(&self, node: &Node, block: &Located) -> bool {
        self.progress(node, block) == Some(Progress::OnDisk)
    }

    fn is_done(&self, blocks: &[Located]) -> bool {
        let has_all_nodes = |block: &Located| !block.replicas.is_empty() && !block.awaits_reports;
        blocks.iter().all(|block| {
            has_all_nodes(block)
                && (block.replicas.iter().all(|replica| self.is_on_disk(&replica.node, block))
                    || self.is_unbegun(block))
        })
    }

    /// There is nothing of it to be brought to disk.
    fn is_unbegun(&self, block: &Located) -> bool {
        let is_absent = |node| self.progress(node, block) == Some(Progress::Absent);
        block.is_unbegun(block.replicas.iter().filter(|replica| is_absent(&replica.node)).count())
    }

    /// Whether there is time left after a pause. Nodes at work have their own, and the connection says when one is not there
    /// any more.
    fn check_patience(&mut self, blocks: &[Located], pause: Duration) -> Result<()> {
        let is_somewhere = |block: &Located| block.replicas.iter().any(|replica| self.is_on_disk(&replica.node, block));
        let mut total = self.core.config.retry_timeout;
        if blocks.iter().all(is_somewhere) {
            total = total.max(NODE_PATIENCE);
        }
        if !self.calls.is_empty() {
            total = total.max(SYNC_REPLICA_DEADLINE);
        }
        if self.begun.elapsed() + pause < total {
            return Ok(());
        }
        if let Some(last) = self.failure.take() {
            return Err(overdue(last));
        }
        let words = if let Some(block) = blocks.iter().find(|block| block.replicas.is_empty()) {
            format!("no DataNode is known to have {}", block.block)
        } else if let Some(block) = blocks.iter().find(|block| block.awaits_reports) {
            format!("DataNodes that may have {} have not reported to the NameNode since it started", block.block)
        } else {
            "a DataNode does not answer whether finished blocks are on disk".to_owned()
        };
        Err(DfsError::new(ErrorKind::TimedOut, words))
    }
}

/// What a sync ends with that has waited in vain since `last` was refused. Its caller can act upon what a disk says; that a
/// node had no such replica just then, or was busy with it, only tells why it has taken so long.
fn overdue(last: DfsError) -> DfsError {
    match last.kind() {
        ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::Corrupt => last,
        _ => DfsError::new(ErrorKind::TimedOut, "finished blocks are not on disk at every node in time")
            .with_source(last),
    }
}

fn key(block: &Located) -> Key {
    (block.block.block.id, block.block.block.generation_stamp)
}

/// Whether time may mend it: a node comes back or is given up, a disk has room again, a replica is made anew elsewhere.
fn may_pass(kind: ErrorKind) -> bool {
    use ErrorKind::{Busy, Corrupt, Io, NoSpace, NotFound, StaleGeneration, TimedOut, Unavailable};
    matches!(kind, Unavailable | TimedOut | NotFound | StaleGeneration | Io | NoSpace | Corrupt | Busy)
}

/// One call for blocks of one pool.
fn sync_on<'a>(
    core: &'a ClientCore,
    node: Arc<Node>,
    blocks: &[&Located],
) -> impl Future<Output = Answer> + Send + use<'a> {
    let request = v1::SyncReplicaRequest {
        block_pool_id: blocks.first().map(|first| first.block.pool.clone()).unwrap_or_default(),
        blocks: blocks.iter().map(|block| block.block.block.into()).collect(),
    };
    let keys = blocks.iter().map(|block| key(block)).collect();
    let may_be_unbegun = blocks.iter().all(|block| block.may_be_unbegun());
    async move {
        let ask = |mut datanode: DatanodeClient, request| async move { datanode.sync_replica(request).await };
        let outcome = match core.datanodes.call(&node, SYNC_REPLICA_DEADLINE, request, ask).await {
            Ok(_) => Ok(Progress::OnDisk),
            Err(error) if may_be_unbegun && error.kind() == ErrorKind::NotFound => Ok(Progress::Absent),
            Err(error) => Err(error),
        };
        Answer { node, keys, outcome }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overdue_is_a_time_out_unless_a_disk_failed() {
        for &kind in ErrorKind::ALL.iter().filter(|kind| may_pass(**kind)) {
            let ended = overdue(DfsError::new(kind, "refused"));
            let is_of_disk = matches!(kind, ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::Corrupt);
            assert_eq!(ended.kind(), if is_of_disk { kind } else { ErrorKind::TimedOut }, "{kind:?}");
            assert!(ended.chain().to_string().contains("refused"), "the log says why: {kind:?}");
        }
    }
}
