//! The blocks of files, for those who write and read them: allocated on DataNodes chosen for the writer, found for the reader,
//! given new generation stamps and more DataNodes when a pipeline fails.

use dfs_common::attr::FileAttr;
use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, InodeId};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{self, AddBlockOp, CreateOp, RequestHeader};

use super::apply::CallKey;
use super::blocks::TargetRequest;
use super::handover::name_of;
use super::namespace::Lease;
use super::namespace::permission::{Identity, READ};
use super::namesystem::{Namesystem, unexpected};
use super::outcome::Outcome;

/// Most blocks in one answer of get_block_locations.
const LOCATED_BLOCKS_MAX: usize = 1_000;

impl Namesystem {
    /// A block just allocated, with its targets. After a restart the targets are known by name only until they register.
    fn located_new(&self, block: Block, offset: u64) -> Result<v1::LocatedBlock> {
        let located = self.located(block, offset, true, None);
        if located.locations.is_empty() {
            return Err(DfsError::new(
                ErrorKind::Unavailable,
                format!("the DataNodes chosen for {block} have not registered since the NameNode started; try again"),
            ));
        }
        Ok(located)
    }

    /// Makes a file, with the server's defaults for what the request leaves open. A file that is to be written gets its first
    /// block in the same op: most files have one, and so it costs no sync of its own. If no DataNode can take a block, the file
    /// is made without one; the writer asks again and hears why.
    ///
    /// # Errors
    /// As `mutate`; `InvalidArgument` for a layout outside the limits.
    pub async fn create(
        &self,
        header: Option<RequestHeader>,
        mut op: CreateOp,
        writer_ip: Option<&str>,
    ) -> Result<Outcome> {
        (op.replication, op.block_size) = self.layout(op.replication, op.block_size)?;
        if op.open_for_write {
            let wanted = TargetRequest {
                replication: op.replication,
                writer: writer_ip,
                exclude: &[],
                chosen: &[],
                block_size: op.block_size,
            };
            for target in self.blocks().choose_targets(&wanted).unwrap_or_default() {
                op.target_datanodes.push(target.datanode.uuid);
                op.target_storages.push(target.storage_uuid);
            }
        }
        self.mutate(header, Op::Create(op)).await
    }

    /// The block that a file was given by the call that made it; none once somebody else writes it.
    pub fn first_block(&self, id: InodeId, made_by: &CallKey) -> Option<v1::LocatedBlock> {
        let block = {
            let namespace = self.namespace().read();
            namespace.lease(id).filter(|lease| is_taken_by(lease, made_by))?.open_block?;
            let block = namespace.inode(id).ok()?.blocks()?.last()?;
            Block::from(*block)
        };
        Some(self.located(block, 0, true, None))
    }

    /// Refuses who no longer has the lease that a call of his has taken: an answer that is told again may be older than that. Not as
    /// `LeaseLost`, which says that a call was not made: others may have written since, and made again it would undo that.
    ///
    /// # Errors
    /// `OutcomeUnknown`.
    pub fn check_lease_of(&self, id: InodeId, taken_by: &CallKey) -> Result<()> {
        match self.namespace().read().lease(id) {
            Some(lease) if is_taken_by(lease, taken_by) && !lease.needs_recovery => Ok(()),
            _ => Err(DfsError::new(
                ErrorKind::OutcomeUnknown,
                format!("inode {id} was given to you and has been taken away since: others may have changed it"),
            )),
        }
    }

    /// Replication and block size as asked for, checked, or the defaults.
    ///
    /// # Errors
    /// `InvalidArgument` outside the limits.
    pub fn layout(&self, replication: u32, block_size: u64) -> Result<(u32, u64)> {
        let limits = self.limits();
        let replication = if replication == 0 { limits.default_replication } else { replication };
        let block_size = if block_size == 0 { limits.default_block_size } else { block_size };
        if replication > limits.max_replication {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("replication {replication} is above dfs.replication.max, {}", limits.max_replication),
            ));
        }
        if block_size < limits.min_block_size {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!(
                    "block size {block_size} is below dfs.namenode.fs-limits.min-block-size, {}",
                    limits.min_block_size
                ),
            ));
        }
        Ok((replication, block_size))
    }

    /// Commits the previous block and allocates the next one on DataNodes chosen for the writer at `writer_ip`.
    ///
    /// # Errors
    /// `NoSpace` when no DataNode can take it, `FileTooLarge`, `LeaseLost`.
    pub async fn add_block(
        &self,
        header: Option<RequestHeader>,
        request: v1::AddBlockRequest,
        writer_ip: Option<&str>,
    ) -> Result<v1::LocatedBlock> {
        let id = InodeId(request.inode);
        if let Some(Outcome::Block(block)) = self.recorded(header.as_ref())? {
            return self.located_new(block, request.offset);
        }
        let attr = self.attr(id)?;
        if attr.block_count as usize >= self.limits().max_blocks_per_file {
            return Err(DfsError::new(
                ErrorKind::FileTooLarge,
                format!(
                    "the file has {} blocks, as many as dfs.namenode.fs-limits.max-blocks-per-file allows",
                    attr.block_count
                ),
            ));
        }
        let targets = self.blocks().choose_targets(&TargetRequest {
            replication: attr.replication,
            writer: writer_ip,
            exclude: &request.exclude,
            chosen: &[],
            block_size: attr.block_size,
        })?;
        let op = AddBlockOp {
            inode: id.0,
            previous: request.previous,
            offset: request.offset,
            target_datanodes: targets.iter().map(|target| target.datanode.uuid.clone()).collect(),
            target_storages: targets.iter().map(|target| target.storage_uuid.clone()).collect(),
            modified_ns: request.modified_ns,
        };
        match self.mutate(header, Op::AddBlock(op)).await? {
            Outcome::Block(block) => self.located_new(block, request.offset),
            other => Err(unexpected(&other)),
        }
    }

    /// A block with its replicas, nearest to `reader_ip` first.
    pub fn located(&self, block: Block, offset: u64, open: bool, reader_ip: Option<&str>) -> v1::LocatedBlock {
        let locations = self.blocks().locate(block.id, reader_ip);
        v1::LocatedBlock {
            block: Some(block.into()),
            offset,
            locations: locations.datanodes,
            storage_uuids: locations.storage_uuids,
            corrupt: locations.corrupt,
            under_construction: open,
            token: bytes::Bytes::new(),
            awaits_reports: locations.awaits_reports,
        }
    }

    /// The blocks of a file that meet a range.
    ///
    /// # Errors
    /// `PermissionDenied`, `IsADirectory`, `Stale`.
    pub fn block_locations(
        &self,
        who: &Identity,
        id: InodeId,
        range: (u64, u64),
        reader_ip: Option<&str>,
    ) -> Result<(v1::LocatedBlocks, FileAttr)> {
        let (start, end) = (range.0, range.0.saturating_add(range.1));
        let (found, open, attr) = {
            let namespace = self.namespace().read();
            let inode = namespace.inode(id)?;
            let Some(blocks) = inode.blocks() else {
                return Err(DfsError::new(ErrorKind::InvalidArgument, format!("inode {id} is not a regular file")));
            };
            who.check(inode, READ)?;
            let open = namespace.lease(id).and_then(|lease| lease.open_block);
            let mut offset: u64 = 0;
            let mut found: Vec<(Block, u64)> = Vec::new();
            for block in blocks.as_slice() {
                if offset >= end || found.len() == LOCATED_BLOCKS_MAX {
                    break;
                }
                let block_end = offset.saturating_add(block.length);
                // An open block may be longer than its recorded length: it is of interest wherever the range starts.
                if block_end > start || Some(block.id) == open {
                    found.push((Block::from(*block), offset));
                }
                offset = block_end;
            }
            (found, open, namespace.attr(id)?)
        };
        let located = |(block, offset): (Block, u64)| self.located(block, offset, Some(block.id) == open, reader_ip);
        let blocks = v1::LocatedBlocks {
            file_length: attr.length,
            blocks: found.into_iter().map(located).collect(),
            under_construction: attr.under_construction,
            block_pool_id: self.info().block_pool_id.clone(),
        };
        Ok((blocks, attr))
    }

    /// Whether a caller may read the file that a block belongs to; false when no file has it (any more).
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub fn may_read_block(&self, who: &Identity, block: BlockId) -> Result<bool> {
        let Some(file) = self.blocks().file_of(block) else { return Ok(false) };
        let namespace = self.namespace().read();
        let Ok(inode) = namespace.inode(file) else { return Ok(false) };
        who.check(inode, READ).map(|()| true)
    }

    /// A generation stamp and the current locations for a pipeline that is to be rebuilt or reopened.
    ///
    /// # Errors
    /// `LeaseLost`, `InvalidArgument`.
    pub async fn update_block_for_pipeline(
        &self,
        header: Option<RequestHeader>,
        id: InodeId,
        block: Block,
    ) -> Result<v1::LocatedBlock> {
        let op = v1::NewGenerationStampOp { inode: id.0, block_id: block.id.0 };
        match self.mutate(header, Op::NewGenerationStamp(op)).await? {
            Outcome::GenerationStamp(generation_stamp) => {
                Ok(self.located(Block { generation_stamp, ..block }, 0, true, None))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// More DataNodes for a pipeline that lost some.
    ///
    /// # Errors
    /// `NoSpace` when there are none.
    pub fn additional_datanodes(
        &self,
        request: &v1::GetAdditionalDatanodeRequest,
        writer_ip: Option<&str>,
    ) -> Result<v1::LocatedBlock> {
        let attr = self.attr(InodeId(request.inode))?;
        let targets = self.blocks().choose_targets(&TargetRequest {
            replication: request.count,
            writer: writer_ip,
            exclude: &request.exclude,
            chosen: &request.existing,
            block_size: attr.block_size,
        })?;
        Ok(v1::LocatedBlock {
            block: request.block,
            storage_uuids: targets.iter().map(|target| target.storage_uuid.clone()).collect(),
            locations: targets.into_iter().map(|target| target.datanode).collect(),
            under_construction: true,
            ..v1::LocatedBlock::default()
        })
    }
}

/// Whether it is this call that has taken the lease.
fn is_taken_by(lease: &Lease, call: &CallKey) -> bool {
    name_of(lease) == (call.client, call.incarnation, call.call)
}
