//! A pipeline that failed, and the one that takes its place.
//!
//! ```text
//!            failure                     choose_recovery (recovery_plan)
//! pipeline ──────────▶ broken block ──▶ new block / next block / failed writer
//!    ▲                  │  ▲
//!    │                  │  └── set-up failed: that node is out as well
//!    │                  ▼
//!    │   a replacement, filled from a survivor (TRANSFER_BLOCK), if there is one
//!    │   new generation stamp (update_block_for_pipeline)
//!    │   set-up in a recovery stage: the nodes stop their old writers, cut to acknowledged bytes
//!    │   the NameNode is told (update_pipeline)
//!    └── packets not acknowledged are sent again
//! ```
//!
//! Packets keep their numbers, offsets and what they ask for. Nodes may have more of them than the writer was told; they
//! skip what they have.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::encode_request;
use dfs_proto::data_transfer::patience::SET_UP_CALL_MAX;
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{
    BlockOpResponseProto, ClientOperationHeaderProto, OpTransferBlockProto, Status, StorageTypeProto,
};
use tokio::io::AsyncWriteExt;
use tracing::{debug, info, warn};

use super::block_output::{BlockOutput, Current};
use super::pipeline::{Pipeline, PipelineFailure, Target};
use super::pipeline_state::PipelineState;
use super::recovery_plan::{Failed, Origin, Recovery, choose_recovery};
use crate::datanode::{Replica, receive_message};

/// Replacements tried for one pipeline: an application waits, and the NameNode makes up for what is missing.
const REPLACEMENT_TRIES: usize = 2;
/// A node that failed longer ago than just now is asked again when there is no other: it may have been started again, and if
/// not, it refuses at once.
const FORGIVEN_AFTER: Duration = Duration::from_millis(100);
/// Time for a replacement to be filled, whatever its size.
const TRANSFER_TIME: Duration = Duration::from_secs(4);
/// Bytes per second that a transfer must bring on top; a slower one is not worth an application's wait.
const TRANSFER_RATE: u64 = 40 << 20;

/// A block under way whose pipeline is gone.
pub(super) struct Broken {
    /// As the NameNode knows it; its length is what every node has acknowledged.
    pub(super) block: ExtendedBlock,
    /// Nodes that are left.
    pub(super) replicas: Vec<Replica>,
    pub(super) origin: Origin,
    /// Whether the stamp in `block` is that of a pipeline of this writer.
    pub(super) is_announced: bool,
    pub(super) state: PipelineState,
    pub(super) synced: u64,
    /// Why the last pipeline failed.
    pub(super) error: DfsError,
}

impl BlockOutput {
    /// Makes a new pipeline for what the failed one had not brought home, or says why not.
    pub(super) async fn recover(&mut self, failure: PipelineFailure) -> Result<()> {
        let Some(Current { pipeline, origin, synced }) = self.current.take() else { return Ok(()) };
        let uncertain = self.status.uncertain();
        let error = self.blame(&pipeline.target, &failure);
        let block = pipeline.block(pipeline.state.acked());
        let mut replicas = pipeline.target.replicas;
        replicas.remove(failure.node.min(replicas.len() - 1));
        let block = ExtendedBlock { pool: pipeline.target.block.pool, block };
        let state = pipeline.state;
        let outcome = self.mend(Broken { block, replicas, origin, is_announced: true, state, synced, error }).await;
        uncertain.settle();
        outcome
    }

    /// Goes on with a broken block in whatever way is left.
    pub(super) async fn mend(&mut self, mut broken: Broken) -> Result<()> {
        loop {
            let recovery = choose_recovery(&self.facts(&broken));
            let inode = self.questions.inode;
            warn!(%inode, block = %broken.block, ?recovery, error = %broken.error.chain(), "write pipeline failed");
            match recovery {
                Recovery::GiveUp => return Err(broken.error),
                Recovery::ReplaceBlock => {
                    self.note_failed_block(broken.error);
                    let salvaged = self.salvage(Some(broken.state));
                    self.abandon_block(broken.block.block).await?;
                    return self.restart_block(salvaged).await;
                }
                Recovery::StartNextBlock => {
                    self.note_failed_block(broken.error);
                    let salvaged = self.salvage(Some(broken.state));
                    self.leave_block(broken.block.block);
                    return self.restart_block(salvaged).await;
                }
                Recovery::Rebuild(stage) => {
                    self.rebuilds = (broken.state.acked(), self.rebuilds_of(&broken) + 1);
                    match self.rebuild(&mut broken, stage).await? {
                        Ok(pipeline) => {
                            self.resume(broken, pipeline, stage);
                            return Ok(());
                        }
                        Err((target, failure)) => {
                            broken.error = self.blame(&target, &failure);
                            broken.replicas.remove(failure.node.min(broken.replicas.len() - 1));
                        }
                    }
                }
            }
        }
    }

    fn facts(&self, broken: &Broken) -> Failed {
        Failed {
            origin: broken.origin,
            is_announced: broken.is_announced,
            may_be_newer: self.may_be_newer,
            has_acks: broken.state.has_acks(),
            lacks_only_end: broken.state.lacks_only_end(),
            survivors: broken.replicas.len(),
            blocks_tried: self.tries,
            rebuilds: self.rebuilds_of(broken),
        }
    }

    fn rebuilds_of(&self, broken: &Broken) -> u32 {
        let (acked, count) = self.rebuilds;
        if acked == broken.state.acked() { count } else { 0 }
    }

    /// One try to set a pipeline up over the nodes that are left.
    async fn rebuild(
        &mut self,
        broken: &mut Broken,
        stage: BlockConstructionStage,
    ) -> Result<Result<Pipeline, (Target, PipelineFailure)>> {
        if stage != BlockConstructionStage::PipelineCloseRecovery {
            self.add_replacements(broken).await;
        }
        let old = broken.block.block;
        let generation_stamp = self.questions.update_block_for_pipeline(old).await?;
        let (block, replicas) = (broken.block.clone(), broken.replicas.clone());
        let target = Target { block, generation_stamp, replicas, stage, sent: broken.state.end() };
        match self.set_up(target.clone()).await {
            Ok(pipeline) => {
                self.questions.update_pipeline(old, pipeline.block(old.length), &target.replicas).await?;
                Ok(Ok(pipeline))
            }
            Err(failure) => Ok(Err((target, failure))),
        }
    }

    /// Puts a new pipeline in the place of the broken one.
    fn resume(&mut self, broken: Broken, mut pipeline: Pipeline, stage: BlockConstructionStage) {
        let nodes = pipeline.target.replicas.len();
        info!(inode = %self.questions.inode, block = %pipeline.target.block, nodes, "write pipeline rebuilt");
        let mut state = broken.state;
        if stage == BlockConstructionStage::PipelineCloseRecovery {
            state.drop_end();
        }
        pipeline.go_on_with(state);
        self.current = Some(Current { pipeline, origin: broken.origin, synced: broken.synced });
    }

    /// Adds nodes in place of the lost ones, when the cluster has some. Without them the write goes on with the rest.
    pub(super) async fn add_replacements(&mut self, broken: &mut Broken) {
        let wanted = self.questions.opened.replication as usize;
        for round in 0..REPLACEMENT_TRIES {
            if broken.replicas.len() >= wanted || !self.questions.core.config.replace_datanodes {
                return;
            }
            let missing = wanted - broken.replicas.len();
            // When nobody else is there, a node that failed some time ago may be back.
            let excluded = if round == 0 { self.excluded_nodes() } else { self.excluded_within(FORGIVEN_AFTER) };
            let asked = self.questions.additional_datanodes(&broken.block, &broken.replicas, &excluded, missing).await;
            let found = match asked {
                Ok(found) => found,
                Err(error) => {
                    debug!(block = %broken.block, error = %error.chain(), "no DataNode in place of a lost one");
                    if excluded.is_empty() {
                        return;
                    }
                    continue;
                }
            };
            let source = broken.replicas[round % broken.replicas.len()].clone();
            for replica in found.into_iter().take(missing) {
                match self.fill(&source, &replica, &broken.block).await {
                    Ok(()) => {
                        broken.replicas.push(replica);
                        // A copy is synced. What the node had already need not be.
                        broken.synced = 0;
                    }
                    Err(error) => {
                        warn!(block = %broken.block, to = replica.node.data_address, error = %error.chain(),
                            "a replacement was not filled");
                        // Silence is that of the node that copies: its own disk may keep it waiting.
                        if error.kind() != ErrorKind::TimedOut {
                            self.exclude(&replica);
                        }
                    }
                }
            }
        }
    }

    /// Brings what is acknowledged of a block to `to`, unless it has that already: where the NameNode has begun anew, it does not
    /// know yet who has what.
    async fn fill(&self, from: &Replica, to: &Replica, block: &ExtendedBlock) -> Result<()> {
        match self.transfer(from, to, block).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let there = self.questions.core.datanodes.visible_length(&to.node, block).await;
                if there.is_ok_and(|length| length >= block.block.length) { Ok(()) } else { Err(error) }
            }
            outcome => outcome,
        }
    }

    /// Has `from` copy what is acknowledged of a block to `to`. As long as it says that it is at it, it gets as much more time
    /// as a disk may take that keeps a new pipeline waiting.
    async fn transfer(&self, from: &Replica, to: &Replica, block: &ExtendedBlock) -> Result<()> {
        let core = &self.questions.core;
        let request = OpTransferBlockProto {
            header: ClientOperationHeaderProto::new(block, None, &core.client_name),
            targets: vec![to.node.to_info()],
            target_storage_types: vec![StorageTypeProto::Disk.into()],
            target_storage_ids: vec![to.storage_uuid.clone()],
            takes_signs_of_life: Some(true),
        };
        let mut bytes = Vec::with_capacity(512);
        encode_request(&request, &mut bytes)
            .map_err(|error| DfsError::new(ErrorKind::Internal, "request for a transfer").with_source(error))?;
        let mut connection = core.datanodes.fresh_connection(&from.node).await?;
        let sent = connection.stream.write_all(&bytes).await;
        sent.map_err(|error| DfsError::io("write to a DataNode", error))?;
        let patience = TRANSFER_TIME + Duration::from_secs(block.block.length / TRANSFER_RATE);
        let last = Instant::now() + patience + SET_UP_CALL_MAX;
        let mut buffer = BytesMut::with_capacity(256);
        let response: BlockOpResponseProto = loop {
            let left = patience.min(last.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                let words = format!("{} is at it for too long", from.node.data_address);
                return Err(DfsError::new(ErrorKind::TimedOut, words));
            }
            let response: BlockOpResponseProto = receive_message(&mut connection.stream, &mut buffer, left).await?;
            if response.status() != Status::InProgress {
                break response;
            }
        };
        if response.status() == Status::Success {
            core.datanodes.give_back(&from.node, connection);
            return Ok(());
        }
        let words = format!("{} refused: {:?} {}", from.node.data_address, response.status(), response.message());
        let is_there = response.status() == Status::ErrorExists;
        Err(DfsError::new(if is_there { ErrorKind::AlreadyExists } else { ErrorKind::Io }, words))
    }

    /// Leaves a block as it was before this writer, with its `length` bytes: the next one starts behind it.
    pub(super) fn leave_block(&mut self, block: Block) {
        self.block_start += block.length;
        self.block_len -= block.length;
        self.previous = Some(block);
    }
}
