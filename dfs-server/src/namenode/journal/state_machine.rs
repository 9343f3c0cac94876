//! What openraft calls its state machine: it numbers the operations of committed entries, has the [`Machine`] apply them, and
//! hands each outcome to the caller who waits for it.
//!
//! Outcomes do not travel through openraft, which would want them serialisable: whoever proposes a batch leaves his senders
//! under the batch's ticket, and finds them answered when the entry has been applied.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{AnyError, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageIOError};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::contract::{Applied, Machine};
use super::log_store::OnFatal;
use super::raft_types::{
    Batch, Entry, LogId, NodeId, Payload, SnapshotData, StorageError, StoredMembership, TypeConfig,
};
use crate::namenode::namespace::state_digest::StateDigest;

type Meta = SnapshotMeta<NodeId, openraft::BasicNode>;
type StorageResult<T> = std::result::Result<T, StorageError>;
/// Something that a caller wants kept until its operation has been applied or refused, even when it gives up before.
pub type Token = Option<Box<dyn Send>>;

/// Who waits for one operation's outcome.
pub(super) struct Waiter<O> {
    sender: oneshot::Sender<Result<O>>,
    _token: Token,
}

impl<O> Waiter<O> {
    pub(super) fn new(sender: oneshot::Sender<Result<O>>, token: Token) -> Self {
        Self { sender, _token: token }
    }

    /// A caller that gave up misses only the answer; a repeated call finds it in the retry cache.
    pub(super) fn tell(self, outcome: Result<O>) {
        let _ = self.sender.send(outcome);
    }
}

/// Up to where the log has been applied.
#[derive(Clone, Debug, Default)]
pub(super) struct AppliedTo {
    /// Last entry.
    pub log_id: Option<LogId>,
    /// Last transaction.
    pub txid: TxId,
    /// Of the state after it.
    pub digest: StateDigest,
    /// Members as of `log_id`.
    pub membership: StoredMembership,
}

/// The newest image, as openraft knows it.
#[derive(Clone, Debug)]
pub(super) struct CurrentImage {
    /// Last entry and membership in it.
    pub meta: Meta,
    /// Last transaction.
    pub txid: TxId,
}

/// Shared between the state machine, the batcher and the checkpointer. Locks are leaves: none is taken under another.
pub(super) struct MachineState<M: Machine> {
    /// The machine itself.
    pub machine: Arc<M>,
    /// Up to where it is.
    pub applied: Mutex<AppliedTo>,
    /// Entries below are applied; what the log store need not keep in memory.
    pub applied_end: Arc<AtomicU64>,
    /// Callers by ticket.
    pub waiters: Mutex<HashMap<u64, Vec<Waiter<M::Outcome>>>>,
    /// The newest image.
    pub image: Mutex<Option<CurrentImage>>,
    /// What happens when applying is impossible.
    pub on_fatal: OnFatal,
}

impl<M: Machine> MachineState<M> {
    /// Applies one committed entry.
    ///
    /// # Errors
    /// `Internal` when the machine panicked or broke its contract, or had another state than the one that the entry was made
    /// for: the state is not to be trusted any more.
    pub(super) fn apply(&self, entry: &Entry) -> Result<()> {
        match &entry.payload {
            Payload::Blank => self.applied.lock().log_id = Some(entry.log_id),
            Payload::Membership(membership) => {
                let mut applied = self.applied.lock();
                applied.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                applied.log_id = Some(entry.log_id);
            }
            Payload::Normal(batch) => self.apply_batch(entry.log_id, batch)?,
        }
        self.applied_end.store(entry.log_id.index + 1, Ordering::Release);
        Ok(())
    }

    fn apply_batch(&self, log_id: LogId, batch: &Batch) -> Result<()> {
        let first = self.applied.lock().txid.next();
        let apply = || self.machine.apply(first, batch.state_digest, &batch.ops);
        let Applied { outcomes, state_digest } = catch_unwind(AssertUnwindSafe(apply)).map_err(|_| {
            DfsError::new(
                ErrorKind::Internal,
                format!("applying entry {} of the edit log (from transaction {first}) panicked", log_id.index),
            )
        })??;
        if outcomes.len() != batch.ops.len() {
            return Err(DfsError::new(
                ErrorKind::Internal,
                format!("entry {}: {} outcomes of {} operations", log_id.index, outcomes.len(), batch.ops.len()),
            ));
        }
        {
            let mut applied = self.applied.lock();
            applied.txid = TxId(applied.txid.0 + batch.ops.len() as u64);
            applied.digest = state_digest;
            applied.log_id = Some(log_id);
        }
        let waiters = if batch.ticket == 0 { None } else { self.waiters.lock().remove(&batch.ticket) };
        for (waiter, outcome) in waiters.into_iter().flatten().zip(outcomes) {
            waiter.tell(outcome);
        }
        Ok(())
    }

    /// The newest image as openraft wants it. Without its bytes: only a follower would get them, and an error here would end openraft.
    fn current_snapshot(&self) -> Option<Snapshot<TypeConfig>> {
        let image = self.image.lock().clone()?;
        Some(Snapshot { meta: image.meta, snapshot: Box::default() })
    }
}

/// openraft's handle of the state.
pub(super) struct StateMachine<M: Machine>(pub Arc<MachineState<M>>);

impl<M: Machine> RaftStateMachine<TypeConfig> for StateMachine<M> {
    type SnapshotBuilder = ImageSource<M>;

    async fn applied_state(&mut self) -> StorageResult<(Option<LogId>, StoredMembership)> {
        let applied = self.0.applied.lock();
        Ok((applied.log_id, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> StorageResult<Vec<()>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            if let Err(error) = self.0.apply(&entry) {
                let reason = AnyError::new(&error);
                (self.0.on_fatal)(error);
                return Err(StorageIOError::apply(entry.log_id, reason).into());
            }
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> ImageSource<M> {
        ImageSource(self.0.clone())
    }

    /// Only a follower far behind receives an image, and a group of one has none: this comes with the network.
    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<SnapshotData>> {
        Err(receives_no_image())
    }

    async fn install_snapshot(&mut self, _meta: &Meta, _snapshot: Box<SnapshotData>) -> StorageResult<()> {
        Err(receives_no_image())
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot<TypeConfig>>> {
        Ok(self.0.current_snapshot())
    }
}

fn receives_no_image() -> StorageError {
    StorageIOError::write_snapshot(None, AnyError::error("a journal that is a group of one receives no image")).into()
}

/// Tells openraft of the image that a checkpoint has just made; openraft itself never has one built.
pub(super) struct ImageSource<M: Machine>(pub Arc<MachineState<M>>);

/// openraft does not look at the task that it gives this to. If that panicked, openraft would wait for it without end, and so would
/// this checkpoint and every later one.
impl<M: Machine> Drop for ImageSource<M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0.on_fatal)(DfsError::new(ErrorKind::Internal, "telling openraft of an image panicked"));
        }
    }
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for ImageSource<M> {
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot<TypeConfig>> {
        self.0.current_snapshot().ok_or_else(|| {
            StorageIOError::read_snapshot(None, AnyError::error("the log was purged, yet there is no image")).into()
        })
    }
}
