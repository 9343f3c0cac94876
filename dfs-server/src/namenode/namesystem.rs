//! The leader's side of every client call: refuse what can be refused, fix what is undetermined (time, targets) into an edit
//! op, have it logged and applied, and read the answer from the state.
//!
//! A mutation's road: service -> here (`mutate`: retry cache, check) -> journal (batch, log, sync) -> `apply` -> back here
//! (`attr`, locations) -> service. A read takes the namespace's shared lock and answers.

use std::collections::HashMap;
use std::sync::Arc;

use dfs_common::attr::FileAttr;
use dfs_common::clock::Clock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{ClientId, InodeId, TxId};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{self, EditOp, RequestHeader};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::apply::CallKey;
use super::blocks::BlockManager;
use super::checkpoints::Checkpoints;
use super::delegations::{Delegations, Holder, grown_directory};
use super::journal::{Journal, Token};
use super::lease_watch::LeaseWatch;
use super::listening::ListeningTime;
use super::machine::Machine;
use super::namespace::lock::NamespaceLock;
use super::outcome::Outcome;
use super::recovery_steps::LeaseRecovery;
use super::storage_dir::NameDir;
use super::tree_checks::{TreeChecks, TreeRemovals};
use crate::blocking::blocking;

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
    pub(super) leases: Arc<LeaseWatch>,
    pub(super) recovery: LeaseRecovery,
    checkpoints: Checkpoints,
    delegations: Arc<Delegations>,
    /// As the machine's.
    pub(super) leftovers: Arc<Notify>,
    pub(super) tree_checks: Arc<TreeChecks>,
    pub(super) tree_removals: TreeRemovals,
    /// When each client was last heard of by this leader, by the clock that stands still while nobody can be heard. Soft: a
    /// new leader gives everybody the full limits again.
    pub(super) renewals: Mutex<HashMap<ClientId, ListeningTime>>,
}

impl Namesystem {
    /// Puts the parts together; the journal has replayed the log into the machine.
    pub fn new(
        machine: &Machine,
        journal: Journal<Machine>,
        name_dir: Arc<NameDir>,
        limits: FileLimits,
        info: v1::NamespaceInfo,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            namespace: Arc::clone(&machine.namespace),
            blocks: Arc::clone(&machine.blocks),
            leases: Arc::clone(&machine.leases),
            journal,
            name_dir,
            limits,
            info,
            delegations: Arc::new(Delegations::new(Arc::clone(&clock), rand::random())),
            clock,
            recovery: LeaseRecovery::default(),
            checkpoints: Checkpoints::default(),
            leftovers: Arc::clone(&machine.leftovers),
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

    /// How checkpoints go.
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// Every DataNode that has registered, with the volumes that it has: one that was replaced, or taken out of its configuration, is
    /// none any more, though what lay on it is remembered.
    pub(super) fn datanode_reports(&self) -> Vec<v1::DatanodeReport> {
        let mut reports = self.blocks.datanode_report();
        reports.iter_mut().for_each(|report| report.volumes.retain(|volume| !volume.path.is_empty()));
        reports
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
