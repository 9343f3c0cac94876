//! The leader's side of every client call: refuse what can be refused, fix what is undetermined (time, targets) into an edit
//! op, have it logged and applied, and read the answer from the state.
//!
//! A mutation's road: service -> here (`mutate`: retry cache, check) -> journal (batch, log, sync) -> `apply` -> back here
//! (`attr`, locations) -> service. A read takes the namespace's shared lock and answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::attr::FileAttr;
use dfs_common::block::Block;
use dfs_common::clock::Clock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, ClientId, InodeId, TxId};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{self, AddBlockOp, CreateOp, EditOp, RequestHeader};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::apply::CallKey;
use super::blocks::{BlockManager, TargetRequest};
use super::delegations::{Delegations, Holder, grown_directory};
use super::journal::{Journal, Token};
use super::lease_recovery::LeaseRecovery;
use super::listening::ListeningTime;
use super::machine::Machine;
use super::namespace::lock::NamespaceLock;
use super::namespace::permission::{Identity, READ};
use super::outcome::Outcome;
use super::storage_dir::NameDir;
use super::trees::{TreeChecks, TreeRemovals};
use crate::blocking::blocking;

/// A writer not heard of for this long may lose its lease to another one (design D12).
pub(super) const LEASE_SOFT_LIMIT: Duration = Duration::from_secs(30);
/// Most blocks in one answer of get_block_locations.
const LOCATED_BLOCKS_MAX: usize = 1_000;

/// What one op takes away of a removed tree or an ended session: about a millisecond's work under the namespace's lock.
const STEP_LIMIT: u32 = 500;

/// What a file may be.
#[derive(Clone, Copy, Debug)]
pub struct FileLimits {
    /// Block size of files that ask for none, bytes.
    pub default_block_size: u64,
    /// Smallest block size, bytes.
    pub min_block_size: u64,
    /// Replication of files that ask for none.
    pub default_replication: u32,
    /// Highest replication.
    pub max_replication: u32,
    /// Blocks a file may have.
    pub max_blocks_per_file: usize,
}

/// The serving NameNode.
pub struct Namesystem {
    namespace: Arc<NamespaceLock>,
    blocks: Arc<BlockManager>,
    journal: Journal<Machine>,
    name_dir: Arc<NameDir>,
    limits: FileLimits,
    info: v1::NamespaceInfo,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) recovery: LeaseRecovery,
    delegations: Arc<Delegations>,
    /// Something was removed, or ended, of which parts may be left.
    pub(super) leftovers: Notify,
    pub(super) tree_checks: Arc<TreeChecks>,
    pub(super) tree_removals: TreeRemovals,
    /// When each client was last heard of by this leader, by the clock that stands still while nobody can be heard. Soft: a
    /// new leader gives everybody the full limits again.
    pub(super) renewals: Mutex<HashMap<ClientId, ListeningTime>>,
}

impl Namesystem {
    /// Puts the parts together; the journal has replayed the log.
    pub fn new(
        namespace: Arc<NamespaceLock>,
        blocks: Arc<BlockManager>,
        journal: Journal<Machine>,
        name_dir: Arc<NameDir>,
        limits: FileLimits,
        info: v1::NamespaceInfo,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            namespace,
            blocks,
            journal,
            name_dir,
            limits,
            info,
            delegations: Arc::new(Delegations::new(Arc::clone(&clock), rand::random())),
            clock,
            recovery: LeaseRecovery::default(),
            leftovers: Notify::new(),
            tree_checks: Arc::default(),
            tree_removals: TreeRemovals::default(),
            renewals: Mutex::new(HashMap::new()),
        }
    }

    /// The namespace, to be read.
    pub fn namespace(&self) -> &NamespaceLock {
        &self.namespace
    }

    /// The block manager.
    pub fn blocks(&self) -> &Arc<BlockManager> {
        &self.blocks
    }

    /// The journal.
    pub fn journal(&self) -> &Journal<Machine> {
        &self.journal
    }

    /// The directory of images and edits.
    pub fn name_dir(&self) -> &Arc<NameDir> {
        &self.name_dir
    }

    /// Limits and defaults of files.
    pub fn limits(&self) -> &FileLimits {
        &self.limits
    }

    /// Which cluster this is.
    pub fn info(&self) -> &v1::NamespaceInfo {
        &self.info
    }

    /// Transaction applied last: what an answer was read at.
    pub fn txid(&self) -> TxId {
        self.namespace.read().counters().last_txid
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// `Stale`.
    pub fn attr(&self, id: InodeId) -> Result<FileAttr> {
        self.namespace.read().attr(id)
    }

    /// Ends safe mode, also that of a namespace restored from a checkpoint.
    ///
    /// # Errors
    /// Of writing down that a restored namespace may go on.
    pub async fn leave_safe_mode(&self) -> Result<()> {
        let dir = Arc::clone(&self.name_dir);
        blocking("end the restore", move || dir.end_restore()).await?;
        self.blocks.leave_safe_mode();
        Ok(())
    }

    /// Logs and applies a client's op, or answers from the retry cache.
    ///
    /// # Errors
    /// The refusal; `ReadOnly` in safe mode by command; `Unavailable` when the log cannot take more.
    pub async fn mutate(&self, header: Option<RequestHeader>, op: Op) -> Result<Outcome> {
        self.mutate_holding(header, op, None).await
    }

    /// As `mutate`; `held` is kept until the op is applied or refused, whatever becomes of its caller.
    ///
    /// # Errors
    /// As `mutate`.
    pub(super) async fn mutate_holding(&self, header: Option<RequestHeader>, op: Op, held: Token) -> Result<Outcome> {
        let key = call_key(header.as_ref())?;
        let RequestHeader { retry, caller } = header.unwrap_or_default();
        let op = self.edit_op(retry, caller, op);
        {
            let namespace = self.namespace.read();
            if let Some(outcome) = namespace.recorded_outcome(key.client, key.incarnation, key.call) {
                return outcome.map_err(|error| error.to_error());
            }
            self.check_writable()?;
            namespace.check(&op)?;
        }
        self.touch(key.client);
        let held: Token = match op.op.as_ref().and_then(grown_directory) {
            Some(directory) => Some(Box::new((self.delegations.enter(directory, key.holder()).await, held))),
            None => held,
        };
        self.journal.submit_holding(op, held).await
    }

    /// What a client that has added a name to a directory, and perhaps `made` one, may rely on.
    pub(super) fn delegations_of(&self, who: Holder, grown: InodeId, made: Option<InodeId>) -> Vec<v1::Delegation> {
        let is_empty = |made| move || self.namespace.read().is_empty_directory(made);
        let begun = made.and_then(|made| self.delegations.begin(made, who, is_empty(made)));
        begun.into_iter().chain(self.delegations.extend(grown, who)).collect()
    }

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

    /// The outcome of this call, if it has been applied before.
    pub(super) fn recorded(&self, header: Option<&RequestHeader>) -> Result<Option<Outcome>> {
        let Some(retry) = header.and_then(|header| header.retry.as_ref()) else { return Ok(None) };
        let key = CallKey::try_from(retry)?;
        let recorded = self.namespace.read().recorded_outcome(key.client, key.incarnation, key.call);
        recorded.transpose().map_err(|error| error.to_error())
    }

    /// Logs and applies an op of the NameNode itself.
    ///
    /// # Errors
    /// The refusal, or `Unavailable`.
    pub async fn mutate_internally(&self, op: Op) -> Result<Outcome> {
        self.journal.submit(self.edit_op(None, Some(v1::Caller::default()), op)).await
    }

    pub(super) fn edit_op(&self, retry: Option<v1::RetryId>, caller: Option<v1::Caller>, op: Op) -> EditOp {
        EditOp { retry, caller, time_ns: self.clock.now_ns(), step_limit: STEP_LIMIT, op: Some(op) }
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        if self.blocks.is_read_only() {
            return Err(DfsError::new(
                ErrorKind::ReadOnly,
                "the NameNode is in safe mode by command; leave it with: dfs admin safemode leave",
            ));
        }
        Ok(())
    }

    /// The time of the leader's clock, nanoseconds since the epoch.
    pub fn now_ns(&self) -> i64 {
        self.clock.now_ns()
    }

    /// Makes a file with the server's defaults where the request has none, and when it is to be written its first block with
    /// it: most files have one, and so it costs no sync of its own. Without a DataNode for it there is none; the writer
    /// asks again and hears why.
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
            for target in self.blocks.choose_targets(&wanted).unwrap_or_default() {
                op.target_datanodes.push(target.datanode.uuid);
                op.target_storages.push(target.storage_uuid);
            }
        }
        self.mutate(header, Op::Create(op)).await
    }

    /// The block that a file was given by the call that made it; none once somebody else writes it.
    pub fn first_block(&self, id: InodeId, made_by: &CallKey) -> Option<v1::LocatedBlock> {
        let block = {
            let namespace = self.namespace.read();
            let lease = namespace.lease(id)?;
            if !lease.is_of((made_by.client, made_by.incarnation)) || lease.call != made_by.call {
                return None;
            }
            lease.open_block?;
            let block = namespace.inode(id).ok()?.blocks()?.last()?;
            Block::from(*block)
        };
        Some(self.located(block, 0, true, None))
    }

    /// Replication and block size as asked for, checked, or the defaults.
    ///
    /// # Errors
    /// `InvalidArgument` outside the limits.
    pub fn layout(&self, replication: u32, block_size: u64) -> Result<(u32, u64)> {
        let limits = &self.limits;
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
        if attr.block_count as usize >= self.limits.max_blocks_per_file {
            return Err(DfsError::new(
                ErrorKind::FileTooLarge,
                format!(
                    "the file has {} blocks, as many as dfs.namenode.fs-limits.max-blocks-per-file allows",
                    attr.block_count
                ),
            ));
        }
        let targets = self.blocks.choose_targets(&TargetRequest {
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
        let locations = self.blocks.locate(block.id, reader_ip);
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
            let namespace = self.namespace.read();
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
            block_pool_id: self.info.block_pool_id.clone(),
        };
        Ok((blocks, attr))
    }

    /// Whether a caller may read the file that a block belongs to; false when no file has it (any more).
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub fn may_read_block(&self, who: &Identity, block: BlockId) -> Result<bool> {
        let Some(file) = self.blocks.file_of(block) else { return Ok(false) };
        let namespace = self.namespace.read();
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
        let targets = self.blocks.choose_targets(&TargetRequest {
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

/// Which call it is that wants to change something.
///
/// # Errors
/// `InvalidArgument` when it does not say.
pub(super) fn call_key(header: Option<&RequestHeader>) -> Result<CallKey> {
    let retry = header.and_then(|header| header.retry.as_ref());
    CallKey::try_from(
        retry.ok_or_else(|| {
            DfsError::new(ErrorKind::InvalidArgument, "a mutating call needs a session and a call id")
        })?,
    )
}

/// An outcome of another op than the one submitted: a bug.
pub fn unexpected(outcome: &Outcome) -> DfsError {
    DfsError::new(ErrorKind::Internal, format!("the op gave an outcome of another kind: {outcome:?}"))
}
