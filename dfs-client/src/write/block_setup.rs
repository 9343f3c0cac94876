//! How a block gets its pipeline: allocated or reopened, and replaced when the pipeline fails before anything was
//! acknowledged.
//!
//! Recovery of a pipeline that has acknowledged bytes (new generation stamp, surviving nodes, replacement) belongs in
//! [`BlockOutput::recover`], as another arm beside those of [`Recovery`].

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use tracing::warn;

use super::block_output::{BlockOutput, Current};
use super::packet::PacketKind;
use super::pipeline::{Goal, Pipeline, PipelineFailure, Target};
use super::pipeline_state::{BLOCK_TRIES_MAX, Origin, Recovery, choose_recovery};
use crate::datanode::Located;

/// Nodes that a writer refuses to use again; far more than a file meets before it gives up.
const EXCLUDED_MAX: usize = 64;

/// What a failed pipeline had not brought home: bytes, and what the last packets asked for.
#[derive(Default)]
struct Salvaged {
    bytes: Vec<u8>,
    asked: PacketKind,
}

impl BlockOutput {
    /// Opens the pipeline that the packet under way needs.
    pub(super) async fn ensure_pipeline(&mut self) -> Result<()> {
        if self.current.is_some() {
            return Ok(());
        }
        let uncertain = self.status.uncertain();
        let outcome = match self.reopen.take() {
            Some(last) => self.reopen_block(last).await,
            None => self.start_block().await,
        };
        uncertain.settle();
        outcome
    }

    /// Makes a new pipeline for what the failed one had not brought home, or says why not.
    pub(super) async fn recover(&mut self, failure: PipelineFailure) -> Result<()> {
        let Some(Current { pipeline, origin, .. }) = self.current.take() else { return Ok(()) };
        let uncertain = self.status.uncertain();
        let error = self.blame(&pipeline.target, &failure);
        let recovery = choose_recovery(origin, pipeline.state.has_acks(), self.tries);
        warn!(inode = %self.questions.inode, ?recovery, error = %error.chain(), "write pipeline failed");
        self.tries += 1;
        let block = pipeline.target.block.block;
        let outcome = match recovery {
            Recovery::GiveUp => Err(error),
            Recovery::ReplaceBlock => {
                let salvaged = self.salvage(Some(pipeline));
                self.last_blame = Some(error);
                match self.abandon_block(block).await {
                    Ok(()) => self.restart_block(salvaged).await,
                    Err(error) => Err(error),
                }
            }
            Recovery::StartNextBlock => {
                let salvaged = self.salvage(Some(pipeline));
                self.last_blame = Some(error);
                self.leave_block(block);
                self.restart_block(salvaged).await
            }
        };
        uncertain.settle();
        outcome
    }

    /// Allocates a block and connects to its first node; with other nodes when that fails.
    async fn start_block(&mut self) -> Result<()> {
        loop {
            let target = match self.allocated.take() {
                Some(first) if !first.replicas.is_empty() => target_of(first),
                Some(first) => {
                    self.abandon_block(first.block.block).await?;
                    continue;
                }
                None => self.allocate().await?,
            };
            let block = target.block.block;
            self.open_block = Some(block);
            self.may_hold_bytes = false;
            match self.connect(target.clone()).await {
                Ok(pipeline) => {
                    self.current = Some(Current { pipeline, origin: Origin::Create, synced: 0 });
                    return Ok(());
                }
                Err(failure) => {
                    let error = self.blame(&target, &failure);
                    warn!(inode = %self.questions.inode, error = %error.chain(), "no pipeline for a new block");
                    if self.tries >= BLOCK_TRIES_MAX {
                        return Err(error);
                    }
                    self.tries += 1;
                    self.last_blame = Some(error);
                    self.abandon_block(block).await?;
                }
            }
        }
    }

    async fn abandon_block(&mut self, block: Block) -> Result<()> {
        self.questions.abandon_block(block).await?;
        self.open_block = None;
        Ok(())
    }

    async fn allocate(&mut self) -> Result<Target> {
        let answer = self.questions.add_block(self.previous, self.block_start, &self.excluded).await;
        let located = answer.map_err(|error| match self.last_blame.take() {
            // Without the nodes that failed there are too few: what counts is why they failed.
            Some(blame) if error.kind() == ErrorKind::NoSpace => {
                let words = format!("{}, and no other DataNode can take the block: {}", blame.chain(), error.chain());
                DfsError::new(blame.kind(), words)
            }
            _ => error,
        })?;
        if located.replicas.is_empty() {
            let words = format!("NameNode gave no DataNode for {}", located.block);
            return Err(DfsError::new(ErrorKind::NoSpace, words));
        }
        Ok(target_of(located))
    }

    /// Extends the last block in place; when its nodes cannot do that, a new block follows it.
    async fn reopen_block(&mut self, last: Located) -> Result<()> {
        let block = last.block.block;
        if !last.replicas.is_empty() {
            self.may_hold_bytes = true;
            let generation_stamp = self.questions.update_block_for_pipeline(block).await?;
            let stage = BlockConstructionStage::PipelineSetupAppend;
            let target = Target { block: last.block, generation_stamp, replicas: last.replicas, stage };
            match self.set_up(target.clone()).await {
                Ok(pipeline) => {
                    self.questions.update_pipeline(block, pipeline.block(block.length), &target.replicas).await?;
                    let synced = block.length;
                    self.current = Some(Current { pipeline, origin: Origin::Append, synced });
                    return Ok(());
                }
                Err(failure) => {
                    let error = self.blame(&target, &failure);
                    warn!(inode = %self.questions.inode, error = %error.chain(), "last block not reopened");
                    self.tries += 1;
                    self.last_blame = Some(error);
                }
            }
        }
        let salvaged = self.salvage(None);
        self.leave_block(block);
        self.restart_block(salvaged).await
    }

    async fn connect(&self, target: Target) -> Result<Pipeline, PipelineFailure> {
        let core = &self.questions.core;
        Pipeline::connect(&core.datanodes, target, &core.client_name, core.config.ack_timeout).await
    }

    async fn set_up(&self, target: Target) -> Result<Pipeline, PipelineFailure> {
        let mut pipeline = self.connect(target).await?;
        pipeline.pump(Goal::SetUp).await?;
        Ok(pipeline)
    }

    /// The failure in words that name the node. The node is not used again by this writer, and asked last by readers.
    fn blame(&mut self, target: &Target, failure: &PipelineFailure) -> DfsError {
        let node = &target.replicas[failure.node.min(target.replicas.len() - 1)].node;
        if self.excluded.len() < EXCLUDED_MAX && !self.excluded.contains(&node.uuid) {
            self.excluded.push(node.uuid.clone());
        }
        self.questions.core.datanodes.suspect(node);
        let kind = match failure.error.kind() {
            kind @ (ErrorKind::TimedOut | ErrorKind::NoSpace) => kind,
            _ => ErrorKind::Io,
        };
        DfsError::new(kind, format!("DataNode {}: {}", node.data_address, failure.error.chain()))
    }

    /// Takes back what a pipeline has not brought home, and the packet under way behind it.
    fn salvage(&mut self, pipeline: Option<Pipeline>) -> Salvaged {
        let mut salvaged = Salvaged::default();
        for packet in pipeline.map(|pipeline| pipeline.state.into_unacked()).unwrap_or_default() {
            salvaged.bytes.extend_from_slice(&packet.data);
            salvaged.asked.sync_block |= packet.kind.sync_block;
            salvaged.asked.last_in_block |= packet.kind.last_in_block;
        }
        if let Some((builder, _)) = self.builder.take() {
            salvaged.bytes.extend_from_slice(&builder.into_data());
        }
        salvaged
    }

    /// Leaves a block as it was before this writer, with its `length` bytes: the next one starts behind it.
    fn leave_block(&mut self, block: Block) {
        self.block_start += block.length;
        self.block_len -= block.length;
        self.previous = Some(block);
    }

    /// Starts a block with what was salvaged, which is everything that was accepted into it.
    async fn restart_block(&mut self, salvaged: Salvaged) -> Result<()> {
        debug_assert_eq!(salvaged.bytes.len() as u64, self.block_len, "nothing is lost and nothing added");
        self.start_block().await?;
        self.block_len = 0;
        let mut rest = &salvaged.bytes[..];
        while !rest.is_empty() {
            let taken = self.accept(rest);
            rest = &rest[taken..];
            if self.is_packet_full() {
                self.enqueue_builder(false);
            }
        }
        let PacketKind { sync_block, last_in_block } = salvaged.asked;
        if sync_block || last_in_block {
            self.enqueue_builder(sync_block);
        }
        if let Some(current) = &mut self.current
            && (sync_block || last_in_block)
        {
            current.pipeline.enqueue_empty(self.block_len, salvaged.asked);
        }
        Ok(())
    }
}

/// The pipeline of a block just allocated.
fn target_of(located: Located) -> Target {
    let generation_stamp = located.block.block.generation_stamp;
    let stage = BlockConstructionStage::PipelineSetupCreate;
    Target { block: located.block, generation_stamp, replicas: located.replicas, stage }
}
