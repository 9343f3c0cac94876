//! How a block gets its pipeline: allocated or reopened, and written anew elsewhere when nothing of it was acknowledged.
//! What happens to pipelines that fail is `pipeline_recovery`'s.

use std::time::{Duration, Instant};

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::retry::Backoff;
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use tracing::warn;

use super::block_output::{BlockOutput, Current};
use super::packet::PacketKind;
use super::pipeline::{Goal, Pipeline, PipelineFailure, Target};
use super::pipeline_recovery::Broken;
use super::pipeline_state::PipelineState;
use super::recovery_plan::{BLOCK_TRIES_MAX, Origin};
use crate::datanode::{Located, Replica};

/// Nodes that a writer refuses to use again; far more than a file meets before it gives up.
const EXCLUDED_MAX: usize = 64;
/// How long: a node that was started again should be used again. HDFS waits 10 minutes.
const EXCLUDED_FOR: Duration = Duration::from_secs(60);

/// Pauses before nodes that failed are asked again because nobody else is there: after an outage of its own, a
/// NameNode hears of its DataNodes one by one.
const RETURN_BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(4) };

/// What a failed pipeline had not brought home: bytes, and what the last packets asked for.
#[derive(Default)]
pub(super) struct Salvaged {
    bytes: Vec<u8>,
    asked: PacketKind,
}

/// A block that is about to be extended.
enum Filled {
    /// On the nodes that had it.
    Enough(Located),
    /// On others too: a pipeline over all of them has to be made as after a failure.
    More(Box<Broken>),
}

impl BlockOutput {
    /// Opens the pipeline that the packet under way needs.
    pub(super) async fn ensure_pipeline(&mut self) -> Result<()> {
        if self.current.is_some() {
            return Ok(());
        }
        let uncertain = self.status.uncertain();
        let outcome = match self.reopen.take() {
            Some(last) => Box::pin(self.reopen_block(last)).await,
            None => self.start_block().await,
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
                    Box::pin(self.abandon_block(first.block.block)).await?;
                    continue;
                }
                None => Box::pin(self.allocate()).await?,
            };
            let block = target.block.block;
            self.open_block = Some(block);
            self.may_hold_bytes = false;
            self.may_be_newer = false;
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
                    self.note_failed_block(error);
                    Box::pin(self.abandon_block(block)).await?;
                }
            }
        }
    }

    pub(super) async fn abandon_block(&mut self, block: Block) -> Result<()> {
        self.questions.abandon_block(block).await?;
        self.open_block = None;
        Ok(())
    }

    /// Another block is needed for the same bytes.
    pub(super) fn note_failed_block(&mut self, error: DfsError) {
        self.tries += 1;
        let since = self.failing.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        self.failing = Some((since, error));
    }

    async fn allocate(&mut self) -> Result<Target> {
        let excluded = self.excluded_nodes();
        let mut answer = self.questions.add_block(self.previous, self.block_start, &excluded).await;
        let are_too_few = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::NoSpace);
        if are_too_few && !excluded.is_empty() && self.may_wait_for_nodes() {
            // Those that failed may have come back, or will in a moment, as may others.
            if self.tries > 0 {
                let pause = RETURN_BACKOFF.delay(self.tries - 1, &mut rand::rng());
                tokio::time::sleep(pause).await;
            }
            self.excluded.clear();
            answer = self.questions.add_block(self.previous, self.block_start, &[]).await;
        }
        let located = answer.map_err(|error| match self.failing.take() {
            // Without the nodes that failed there are too few: what counts is why they failed.
            Some((_, blame)) if error.kind() == ErrorKind::NoSpace => {
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

    /// Whether nodes that failed are worth another try. Waiting makes no room on those that had none.
    fn may_wait_for_nodes(&self) -> bool {
        let patience = self.questions.core.config.absence_timeout;
        self.failing
            .as_ref()
            .is_none_or(|(since, blame)| blame.kind() != ErrorKind::NoSpace && since.elapsed() < patience)
    }

    /// Extends the last block in place. When its nodes cannot do that, and none of them can have begun to, a new block follows it.
    async fn reopen_block(&mut self, last: Located) -> Result<()> {
        let block = last.block.block;
        if !last.replicas.is_empty() {
            self.may_hold_bytes = true;
            let last = match self.fill_up(last).await {
                Filled::Enough(last) => last,
                Filled::More(broken) => return self.mend(*broken).await,
            };
            let generation_stamp = self.questions.update_block_for_pipeline(block).await?;
            let stage = BlockConstructionStage::PipelineSetupAppend;
            let sent = block.length;
            let target = Target { block: last.block, generation_stamp, replicas: last.replicas, stage, sent };
            let (origin, synced) = (Origin::Append, block.length);
            let failure = match self.set_up(target.clone()).await {
                Ok(pipeline) => {
                    self.questions.update_pipeline(block, pipeline.block(block.length), &target.replicas).await?;
                    self.current = Some(Current { pipeline, origin, synced });
                    return Ok(());
                }
                Err(failure) => failure,
            };
            let error = self.blame(&target, &failure);
            let Target { block, mut replicas, .. } = target;
            replicas.remove(failure.node.min(replicas.len() - 1));
            let state = PipelineState::new(block.block.length);
            return self.mend(Broken { block, replicas, origin, is_announced: false, state, synced, error }).await;
        }
        let salvaged = self.salvage(None);
        self.leave_block(block);
        self.restart_block(salvaged).await
    }

    /// One loss would end an append to a block of which only few replicas are known, as after an outage of the NameNode's
    /// network, and take what was acknowledged with it: others get the block first, when the cluster has some.
    async fn fill_up(&mut self, last: Located) -> Filled {
        let (wanted, known) = (self.questions.opened.replication as usize, last.replicas.len());
        if known * 2 > wanted {
            return Filled::Enough(last);
        }
        let length = last.block.block.length;
        let error = DfsError::new(ErrorKind::Io, format!("only {known} of {wanted} replicas were known"));
        let mut broken = Broken {
            block: last.block,
            replicas: last.replicas,
            origin: Origin::Append,
            is_announced: false,
            state: PipelineState::new(length),
            synced: length,
            error,
        };
        self.add_replacements(&mut broken).await;
        if broken.replicas.len() > known {
            return Filled::More(Box::new(broken));
        }
        Filled::Enough(Located { block: broken.block, replicas: broken.replicas, ..last })
    }

    async fn connect(&self, target: Target) -> Result<Pipeline, PipelineFailure> {
        let core = &self.questions.core;
        Pipeline::connect(&core.datanodes, target, &core.client_name, core.config.ack_timeout).await
    }

    /// Sets a pipeline up under a new stamp, and remembers whether a node may have taken it in vain.
    pub(super) async fn set_up(&mut self, target: Target) -> Result<Pipeline, PipelineFailure> {
        let mut pipeline = self.connect(target).await?;
        match pipeline.pump(Goal::SetUp).await {
            Ok(()) => Ok(pipeline),
            Err(failure) => {
                self.may_be_newer |= pipeline.may_have_begun(&failure);
                Err(failure)
            }
        }
    }

    /// The failure in words that name the node. The node is not used again by this writer, and asked last by readers.
    pub(super) fn blame(&mut self, target: &Target, failure: &PipelineFailure) -> DfsError {
        let node = &target.replicas[failure.node.min(target.replicas.len() - 1)].node;
        self.questions.core.datanodes.suspect(node);
        self.exclude(&target.replicas[failure.node.min(target.replicas.len() - 1)]);
        let kind = match failure.error.kind() {
            kind @ (ErrorKind::TimedOut | ErrorKind::NoSpace) => kind,
            _ => ErrorKind::Io,
        };
        DfsError::new(kind, format!("DataNode {}: {}", node.data_address, failure.error.chain()))
    }

    /// This writer does not use the node again for a while.
    pub(super) fn exclude(&mut self, replica: &Replica) {
        let uuid = &replica.node.uuid;
        self.excluded.retain(|(other, since)| other != uuid && since.elapsed() < EXCLUDED_FOR);
        if self.excluded.len() < EXCLUDED_MAX {
            self.excluded.push((uuid.clone(), Instant::now()));
        }
    }

    pub(super) fn excluded_nodes(&self) -> Vec<String> {
        self.excluded_within(EXCLUDED_FOR)
    }

    /// Those that failed no longer ago than `age`.
    pub(super) fn excluded_within(&self, age: Duration) -> Vec<String> {
        let recent = self.excluded.iter().filter(|(_, since)| since.elapsed() < age);
        recent.map(|(uuid, _)| uuid.clone()).collect()
    }

    /// Takes back what a pipeline has not brought home, and the packet under way behind it.
    pub(super) fn salvage(&mut self, state: Option<PipelineState>) -> Salvaged {
        let mut salvaged = Salvaged::default();
        for packet in state.map(PipelineState::into_unacked).unwrap_or_default() {
            salvaged.bytes.extend_from_slice(&packet.data);
            salvaged.asked.sync_block |= packet.kind.sync_block;
            salvaged.asked.last_in_block |= packet.kind.last_in_block;
        }
        if let Some((builder, _)) = self.builder.take() {
            salvaged.bytes.extend_from_slice(&builder.into_data());
        }
        salvaged
    }

    /// Starts a block with what was salvaged, which is everything that was accepted into it.
    pub(super) async fn restart_block(&mut self, salvaged: Salvaged) -> Result<()> {
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
    Target { block: located.block, generation_stamp, replicas: located.replicas, stage, sent: 0 }
}
