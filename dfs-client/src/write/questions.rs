//! What a writer asks: of the NameNode about its blocks, in the session that holds its lease, and of DataNodes about
//! finished blocks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::attr::FileAttr;
use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{GenerationStamp, InodeId};
use dfs_common::retry::Backoff;
use dfs_proto::v1;
use tracing::warn;

use super::block_output::Finished;
use crate::caller::Caller;
use crate::client::{ClientCore, rpc};
use crate::datanode::{DatanodeClient, Located, Node, Replica};
use crate::rpc::Session;

/// How long the NameNode may take to hear of the last block's replicas: DataNodes report at once, a busy one in a second.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between questions whether it has.
const COMPLETE_BACKOFF: Backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(400) };
/// How long a DataNode may take to sync finished blocks: many gigabytes may wait for a slow disk.
const SYNC_REPLICA_DEADLINE: Duration = Duration::from_secs(120);

/// Who writes which file.
pub(super) struct Questions {
    pub(super) core: Arc<ClientCore>,
    pub(super) session: Arc<Session>,
    pub(super) caller: Caller,
    pub(super) inode: InodeId,
    /// As opened; what is said of a file that went away when it was closed.
    pub(super) opened: FileAttr,
}

impl Questions {
    /// Commits `previous`, allocates the block behind it.
    pub(super) async fn add_block(&self, previous: Option<Block>, offset: u64, exclude: &[String]) -> Result<Located> {
        let build = |header| v1::AddBlockRequest {
            header: Some(header),
            inode: self.inode.0,
            previous: previous.map(Into::into),
            exclude: exclude.to_vec(),
            offset,
        };
        let answer = self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(add_block)).await?;
        let block = answer.block.ok_or_else(|| lacks("the new block"))?;
        Located::new(&self.core.datanodes, block, &answer.block_pool_id)
    }

    /// Gives up a block that never came to be.
    pub(super) async fn abandon_block(&self, block: Block) -> Result<()> {
        let build =
            |header| v1::AbandonBlockRequest { header: Some(header), inode: self.inode.0, block: Some(block.into()) };
        self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(abandon_block)).await.map(|_| ())
    }

    /// A new generation stamp for the last block.
    pub(super) async fn update_block_for_pipeline(&self, block: Block) -> Result<GenerationStamp> {
        let build = |header| v1::UpdateBlockForPipelineRequest {
            header: Some(header),
            inode: self.inode.0,
            block: Some(block.into()),
        };
        let answer = self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(update_block_for_pipeline)).await?;
        let block = answer.block.and_then(|located| located.block).ok_or_else(|| lacks("the block's new stamp"))?;
        Ok(GenerationStamp(block.generation_stamp))
    }

    /// The last block is written under a new stamp from now on, by these nodes.
    pub(super) async fn update_pipeline(&self, old: Block, new: Block, replicas: &[Replica]) -> Result<()> {
        let build = |header| v1::UpdatePipelineRequest {
            header: Some(header),
            inode: self.inode.0,
            old_block: Some(old.into()),
            new_block: Some(new.into()),
            datanode_uuids: replicas.iter().map(|replica| replica.node.uuid.clone()).collect(),
            storage_uuids: replicas.iter().map(|replica| replica.storage_uuid.clone()).collect(),
        };
        self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(update_pipeline)).await.map(|_| ())
    }

    /// Has the length of the last block logged.
    pub(super) async fn fsync(&self, last: Block) -> Result<()> {
        let build = |header| v1::FsyncRequest { header: Some(header), inode: self.inode.0, last: Some(last.into()) };
        self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(fsync)).await.map(|_| ())
    }

    /// Closes the file of `length` bytes; asks until the NameNode has heard of the last block's replicas.
    pub(super) async fn complete(&self, last: Option<Block>, length: u64) -> Result<FileAttr> {
        let build = |header| v1::CompleteRequest {
            header: Some(header),
            inode: self.inode.0,
            last: last.map(Into::into),
            keep_open: false,
        };
        let call = rpc!(complete);
        let start = Instant::now();
        let mut attempt = 0;
        loop {
            let answer = self.core.mutate_in(&self.session, &self.caller, &build, &call).await?;
            if answer.done {
                return match &answer.attr {
                    Some(attr) => attr.try_into(),
                    // Its last name went while it was being written, and now the file with it.
                    None => Ok(FileAttr { nlink: 0, length, under_construction: false, ..self.opened.clone() }),
                };
            }
            if start.elapsed() >= COMPLETE_TIMEOUT {
                let words = format!("no DataNode has reported the last block within {} s", COMPLETE_TIMEOUT.as_secs());
                return Err(DfsError::new(ErrorKind::TimedOut, words));
            }
            let pause = COMPLETE_BACKOFF.delay(attempt, &mut rand::rng());
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// Has finished blocks brought to disk, on all their nodes at once. A node that cannot be reached is forgiven while
    /// another one has each of its blocks on disk: the NameNode will replace it.
    pub(super) async fn sync_replicas(&self, finished: &[Finished]) -> Result<()> {
        let mut by_node: HashMap<&str, (&Node, Vec<&Finished>)> = HashMap::new();
        for block in finished {
            for replica in &block.replicas {
                let entry = by_node.entry(&replica.node.uuid).or_insert_with(|| (&replica.node, Vec::new()));
                entry.1.push(block);
            }
        }
        let calls = by_node.into_values().map(async |(node, blocks)| (self.sync_on(node, &blocks).await, blocks));
        let mut synced: HashMap<Block, bool> = finished.iter().map(|block| (block.block.block, false)).collect();
        let mut unreachable = None;
        for (outcome, blocks) in futures::future::join_all(calls).await {
            match outcome {
                Ok(()) => synced.extend(blocks.iter().map(|block| (block.block.block, true))),
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut) => {
                    warn!(inode = %self.inode, error = %error.chain(), "finished blocks not synced there");
                    unreachable = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match unreachable {
            Some(error) if synced.values().any(|on_disk| !on_disk) => Err(error),
            _ => Ok(()),
        }
    }

    async fn sync_on(&self, node: &Node, blocks: &[&Finished]) -> Result<()> {
        let Some(first) = blocks.first() else { return Ok(()) };
        let request = v1::SyncReplicaRequest {
            block_pool_id: first.block.pool.clone(),
            blocks: blocks.iter().map(|block| block.block.block.into()).collect(),
        };
        let ask = |mut datanode: DatanodeClient, request| async move { datanode.sync_replica(request).await };
        self.core.datanodes.call(node, SYNC_REPLICA_DEADLINE, request, ask).await.map(|_| ())
    }
}

fn lacks(what: &str) -> DfsError {
    DfsError::new(ErrorKind::Protocol, format!("NameNode's answer lacks {what}"))
}
