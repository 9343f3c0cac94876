//! The blocks of a file being written, one after another: allocation, the pipeline of the current one, its end, and what
//! happens when a pipeline fails.
//!
//! ```text
//!            first packet                   full, or file completed
//! no block --------------> block under way -------------------------> no block
//!   ^      AddBlock (or the last block      last packet, all acks       |
//!   |      reopened), connect                                           |
//!   +-------------------------------------------------------------------+
//! ```
//!
//! A pipeline that fails is rebuilt, or its block written anew (`pipeline_recovery`). Callers hear of it only when there is no way
//! to go on (`recovery_plan`), or the NameNode refuses it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::attr::FileAttr;
use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, Result};
use dfs_common::ids::BlockId;
use dfs_proto::data_transfer::DataChecksum;
use tracing::info;

use super::packet::{PacketBuilder, PacketKind, packet_capacity, packet_data_len};
use super::pipeline::{Goal, Pipeline};
use super::questions::Questions;
use super::recovery_plan::Origin;
use super::replica_sync::ReplicaSync;
use super::writer_status::WriterStatus;
use crate::caller::Caller;
use crate::client_core::ClientCore;
use crate::datanode::Located;
use crate::read::locate_page;

/// A sync tells the NameNode the file's date again when it was told so long ago: programs that sync after every line should not
/// cost it a call for each.
const DATE_AGE: Duration = Duration::from_secs(1);

/// The block under way.
pub(super) struct Current {
    pub(super) pipeline: Pipeline,
    pub(super) origin: Origin,
    /// Bytes of the block that are on the nodes' disks, or were no concern of this writer.
    pub(super) synced: u64,
}

/// Where the first byte of a writer goes.
pub(crate) enum Start {
    /// Into a block that it asks for.
    Nowhere,
    /// Into the block that the file was made with.
    Allocated(Located),
    /// Behind the last byte of the last block, which has room.
    Reopen(Located),
}

/// See the module.
pub(super) struct BlockOutput {
    pub(super) questions: Questions,
    pub(super) status: Arc<WriterStatus>,
    block_size: u64,
    packet_size: usize,
    max_in_flight: usize,
    /// The packet that takes bytes, and since when.
    pub(super) builder: Option<(PacketBuilder, Instant)>,
    pub(super) current: Option<Current>,
    /// Where the current or next block starts in the file.
    pub(super) block_start: u64,
    /// Bytes accepted into it.
    pub(super) block_len: u64,
    /// A last block with room, to be reopened by the first packet.
    pub(super) reopen: Option<Located>,
    /// The block that the file was made with, for the first packet.
    pub(super) allocated: Option<Located>,
    /// The block before the current one with its final length, when this writer wrote or left it.
    pub(super) previous: Option<Block>,
    /// The block that was allocated and not finished.
    pub(super) open_block: Option<Block>,
    /// Bytes of it were acknowledged, or it had some before.
    pub(super) may_hold_bytes: bool,
    /// A node may have the current block under a newer stamp than the NameNode was told of. Such a block must not be closed under
    /// the old one: if all its nodes have the newer one, no replica would count any more.
    pub(super) may_be_newer: bool,
    /// What this writer has last made the NameNode log.
    recorded: Option<Recorded>,
    /// Finished blocks, to be synced by the next hsync.
    unsynced: Vec<Located>,
    /// Nodes that failed this writer, by uuid, and when.
    pub(super) excluded: Vec<(String, Instant)>,
    /// Blocks that failed in a row.
    pub(super) tries: u32,
    /// When the first of them failed, and why the last one did: told when no other node is left.
    pub(super) failing: Option<(Instant, DfsError)>,
    /// Bytes acknowledged of the block when its pipeline was last rebuilt, and how often it was at that length.
    pub(super) rebuilds: (u64, u32),
}

/// A length that the NameNode has logged.
#[derive(Clone, Copy, Debug)]
struct Recorded {
    block: BlockId,
    /// The file's.
    length: u64,
    at: Instant,
}

impl Recorded {
    /// Whether the date that went with it is to be told anew by a sync.
    fn is_old(&self) -> bool {
        self.at.elapsed() >= DATE_AGE
    }
}

impl BlockOutput {
    /// For a file of `length` bytes.
    pub(super) fn new(
        questions: Questions,
        status: Arc<WriterStatus>,
        block_size: u64,
        length: u64,
        start: Start,
    ) -> Self {
        let (reopen, allocated) = match start {
            Start::Nowhere => (None, None),
            Start::Allocated(first) => (None, Some(first)),
            Start::Reopen(last) => (Some(last), None),
        };
        let block_len = reopen.as_ref().map_or(0, |last| last.block.block.length);
        let config = &questions.core.config;
        Self {
            block_size,
            packet_size: packet_data_len(config.packet_size),
            max_in_flight: config.max_in_flight,
            questions,
            status,
            builder: None,
            current: None,
            block_start: length - block_len,
            block_len,
            reopen,
            previous: None,
            open_block: allocated.as_ref().map(|first| first.block.block),
            allocated,
            may_hold_bytes: false,
            may_be_newer: false,
            recorded: None,
            unsynced: Vec::new(),
            excluded: Vec::new(),
            tries: 0,
            failing: None,
            rebuilds: (0, 0),
        }
    }

    /// Since when bytes have waited without anybody driving the pipeline.
    pub(super) fn unflushed_since(&self) -> Option<Instant> {
        let in_flight = self.current.as_ref().filter(|current| !current.pipeline.state.is_all_acked());
        let sent = in_flight.map(|current| current.pipeline.last_sent);
        self.builder.as_ref().map(|(_, since)| *since).or(sent)
    }

    pub(super) fn pipeline_last_sent(&self) -> Option<Instant> {
        self.current.as_ref().map(|current| current.pipeline.last_sent)
    }

    /// Drops the connection: the writer has failed.
    pub(super) fn hang_up(&mut self) {
        self.current = None;
        self.builder = None;
    }

    /// Closes the file without what was not acknowledged, if no node holds more than that; otherwise gives the lease up, so
    /// that the NameNode has the last block recovered.
    pub(super) async fn abort(&mut self) -> Result<()> {
        self.hang_up();
        if self.may_hold_bytes {
            if !self.questions.give_up_lease().await? {
                info!(inode = %self.questions.inode, "the file stays open until its last block is recovered");
            }
            return Ok(());
        }
        if let Some(block) = self.open_block.take() {
            self.questions.abandon_block(block).await?;
        }
        self.questions.complete(self.previous, self.block_start).await.map(|_| ())
    }

    pub(super) async fn write(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            self.send_full_packet().await?;
            let is_ending = self.current.as_ref().is_some_and(|current| current.pipeline.is_ending());
            if self.block_len >= self.block_size || is_ending {
                self.finish_block().await?;
            }
            let taken = self.accept(data);
            data = &data[taken..];
            self.status.accept(taken as u64);
        }
        self.send_full_packet().await
    }

    /// hflush, or hsync of the block under way.
    pub(super) async fn flush(&mut self, sync: bool) -> Result<()> {
        if self.current.as_ref().is_some_and(|current| current.pipeline.is_ending()) {
            // A call that was dropped had begun to end the block: nothing may follow its last packet.
            self.finish_block().await?;
        }
        if self.builder.is_some() {
            self.queue_packet(sync).await?;
        } else if let Some(current) = &mut self.current
            && sync
            && current.synced < self.block_len
        {
            current.pipeline.enqueue_empty(self.block_len, PacketKind { sync_block: true, last_in_block: false });
        }
        let mut synced_by = self.pipeline_name();
        self.run(Goal::Acked).await?;
        if !sync {
            return Ok(());
        }
        while self.pipeline_name() != synced_by {
            // It was rebuilt meanwhile, perhaps after the pipeline before had acknowledged the sync: a node that has joined it need
            // not have the bytes on its disk.
            synced_by = self.pipeline_name();
            if let Some(current) = &mut self.current {
                current.pipeline.enqueue_empty(self.block_len, PacketKind { sync_block: true, last_in_block: false });
            }
            self.run(Goal::Acked).await?;
        }
        if let Some(current) = &mut self.current {
            current.synced = self.block_len;
        }
        // Later syncs of the same block are on record at the replicas; only the file's date has to be told.
        match self.last_block() {
            Some(block) if self.recorded.is_none_or(|last| last.block != block.id || last.is_old()) => {
                self.record(block).await
            }
            _ => Ok(()),
        }
    }

    /// Brings the blocks finished since the last sync to disk. Those that could not be are tried again by the next one.
    pub(super) async fn sync_finished(&mut self) -> Result<()> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        let core = Arc::clone(&self.questions.core);
        let mut sync = ReplicaSync::new(&core);
        while !sync.round(&self.unsynced).await? {
            self.locate_unsynced(&core).await?;
        }
        self.unsynced.clear();
        Ok(())
    }

    /// Asks where the finished blocks are by now: they may have moved since they were written. They are in file order.
    async fn locate_unsynced(&mut self, core: &ClientCore) -> Result<()> {
        let mut rest = self.unsynced.as_mut_slice();
        while let (Some(first), Some(last)) = (rest.first(), rest.last()) {
            let (start, length) = (first.offset, last.end() - first.offset);
            let page = locate_page(core, &Caller::root(), self.questions.inode, start, length).await?;
            let page_end = page.last().map_or(0, Located::end);
            let mut page: HashMap<BlockId, Located> =
                page.into_iter().map(|located| (located.block.block.id, located)).collect();
            let count = rest.partition_point(|block| block.offset < page_end);
            if count == 0 {
                // The file was cut meanwhile.
                break;
            }
            for block in &mut rest[..count] {
                if let Some(now) = page.remove(&block.block.block.id) {
                    *block = now;
                }
            }
            rest = &mut rest[count..];
        }
        Ok(())
    }

    /// Flushes, and tells the NameNode the length.
    pub(super) async fn record_length(&mut self) -> Result<()> {
        self.flush(false).await?;
        let recorded = self.recorded.map(|last| last.length);
        match self.last_block() {
            Some(block) if recorded != Some(self.block_start + self.block_len) => self.record(block).await,
            _ => Ok(()),
        }
    }

    /// Sends everything, ends the block, closes the file.
    pub(super) async fn complete(&mut self) -> Result<FileAttr> {
        if self.builder.is_some() || self.current.is_some() {
            self.finish_block().await?;
        }
        let uncertain = self.status.uncertain();
        // A block that nothing was written into is closed at length 0, which removes it.
        let unused = self.allocated.take().map(|first| Block { length: 0, ..first.block.block });
        let outcome = self.questions.complete(self.previous.or(unused), self.block_start + self.block_len).await;
        uncertain.settle();
        outcome
    }

    /// Tells one pipeline from the next: each has a generation stamp of its own.
    fn pipeline_name(&self) -> Option<Block> {
        self.current.as_ref().map(|current| current.pipeline.block(0))
    }

    /// The block under way, or else the one before it, with its length.
    fn last_block(&self) -> Option<Block> {
        self.current.as_ref().map(|current| current.pipeline.block(self.block_len)).or(self.previous)
    }

    async fn record(&mut self, block: Block) -> Result<()> {
        self.questions.fsync(block).await?;
        let length = self.block_start + self.block_len;
        self.recorded = Some(Recorded { block: block.id, length, at: Instant::now() });
        Ok(())
    }

    pub(super) async fn heartbeat(&mut self) -> Result<()> {
        if let Some(current) = &mut self.current {
            current.pipeline.enqueue_heartbeat();
        }
        self.run(Goal::Sent).await
    }

    /// Takes bytes into the packet under way.
    pub(super) fn accept(&mut self, data: &[u8]) -> usize {
        let (offset, remaining) = (self.block_len, self.block_size - self.block_len);
        let packet_size = self.packet_size;
        let current = &mut self.current;
        let (builder, _) = self.builder.get_or_insert_with(|| {
            let chunk = DataChecksum::DEFAULT.bytes_per_checksum();
            let capacity = packet_capacity(offset, packet_size, remaining, chunk);
            let buffer = current.as_mut().map(|current| current.pipeline.state.take_spare()).unwrap_or_default();
            (PacketBuilder::new(offset, capacity, buffer), Instant::now())
        });
        let taken = builder.push(data);
        self.block_len += taken as u64;
        taken
    }

    async fn send_full_packet(&mut self) -> Result<()> {
        if self.is_packet_full() {
            self.queue_packet(false).await?;
            self.run(Goal::Sent).await?;
        }
        Ok(())
    }

    pub(super) fn is_packet_full(&self) -> bool {
        self.builder.as_ref().is_some_and(|(builder, _)| builder.is_full())
    }

    /// Puts the packet under way into the pipeline's queue, once there is a pipeline with room.
    async fn queue_packet(&mut self, sync: bool) -> Result<()> {
        self.ensure_pipeline().await?;
        self.run(Goal::Room(self.max_in_flight)).await?;
        self.enqueue_builder(sync);
        Ok(())
    }

    pub(super) fn enqueue_builder(&mut self, sync: bool) {
        if let (Some(current), Some((builder, _))) = (&mut self.current, self.builder.take()) {
            let seqno = current.pipeline.state.next_seqno();
            current.pipeline.enqueue(builder.seal(seqno, sync, DataChecksum::DEFAULT));
        } else if let Some(current) = self.current.as_mut().filter(|_| sync) {
            // Its bytes have left in other packets, when a block was written anew.
            current.pipeline.enqueue_empty(self.block_len, PacketKind { sync_block: true, last_in_block: false });
        }
    }

    /// Ends the block under way: all its bytes and the last packet acknowledged.
    async fn finish_block(&mut self) -> Result<()> {
        if self.builder.is_some() {
            self.queue_packet(false).await?;
        }
        if let Some(current) = &mut self.current
            && !current.pipeline.is_ending()
        {
            current.pipeline.enqueue_empty(self.block_len, PacketKind { sync_block: false, last_in_block: true });
        }
        self.run(Goal::Acked).await?;
        if let Some(Current { pipeline, synced, .. }) = self.current.take() {
            let block = pipeline.block(self.block_len);
            self.previous = Some(block);
            if synced < self.block_len {
                self.unsynced.push(Located {
                    block: ExtendedBlock { pool: pipeline.target.block.pool.clone(), block },
                    offset: self.block_start,
                    replicas: pipeline.target.replicas.clone(),
                    is_corrupt: false,
                    is_under_construction: false,
                    awaits_reports: false,
                });
            }
            pipeline.finish();
        }
        self.block_start += self.block_len;
        self.block_len = 0;
        self.open_block = None;
        self.may_hold_bytes = false;
        self.tries = 0;
        self.failing = None;
        self.rebuilds = (0, 0);
        Ok(())
    }

    /// Drives the pipeline, if there is one, to `goal`; replaces it when it fails and can be replaced.
    pub(super) async fn run(&mut self, goal: Goal) -> Result<()> {
        while let Some(current) = &mut self.current {
            let outcome = current.pipeline.pump(goal).await;
            self.status.set_acked(self.block_start + current.pipeline.state.acked());
            self.may_hold_bytes |= current.pipeline.state.has_acks();
            match outcome {
                Ok(()) => break,
                // Boxed, as all that is rare: it would make every future of a writer twice as large.
                Err(failure) => Box::pin(self.recover(failure)).await?,
            }
        }
        Ok(())
    }
}
